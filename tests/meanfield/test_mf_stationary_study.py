"""`catallax run meanfield` of a game without an end: from a name or a file to tables, actual players and the report."""

import csv
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from catallax.errors import InputError
from catallax.meanfield.certify import account, flow
from catallax.meanfield.crowd import CrowdLaw, DeviationGain
from catallax.meanfield.figures import draw_rest
from catallax.meanfield.games.stationary import Rooms
from catallax.meanfield.load import load_game
from catallax.meanfield.options import study
from catallax.meanfield.plan import action_names, heading, moves_at, plan_of
from catallax.meanfield.stationary import AbstractStationaryGame, rest_crowd
from catallax.meanfield.stationary_certify import account_stationary, certify_stationary, rest
from catallax.meanfield.stationary_crowd import stretch
from catallax.meanfield.stationary_study import acting
from catallax.runs.store import RunContext
from catallax.study import settings

POND = """
import equinox as eqx
import jax.numpy as jnp
from catallax.meanfield import AbstractStationaryGame, Stencil

class Pond(AbstractStationaryGame):
    \"\"\"Two kinds of ducks on a pond with an island; one is drawn to the east, and company costs.\"\"\"
    price: float = 2.0
    discount: float = 0.6
    states: int = eqx.field(static=True, default=6)
    actions: int = eqx.field(static=True, default=3)

    @property
    def kinds(self):
        return jnp.array([0.0, 1.0])

    @property
    def shares(self):
        return jnp.array([0.25, 0.75])

    def start(self):
        return jnp.array([1.0, 1.0, 1.0, 1.0, 0.0, 1.0]) / 5

    def moves(self, density):
        island = jnp.array([[0, 0, 0], [0, 1, 0]], bool)
        wind = jnp.full((3, 1), 0.2)
        return Stencil(jnp.hstack([0.8 * jnp.eye(3), wind]), ((0, -1), (0, 1), (1, 0), (-1, 0)), (2, 3), island)

    def reward(self, density, kind):
        east = kind * jnp.array([0.0, 1.0, 2.0, 0.0, 0.0, 2.0])
        earned = east - self.price * density
        return jnp.stack([earned, earned, earned], axis=1)
"""


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder of a user's own."""
    monkeypatch.chdir(tmp_path)
    Path("pond.py").write_text(POND)
    return tmp_path


def pond() -> AbstractStationaryGame:
    game = load_game("", Path("pond.py"))
    assert isinstance(game, AbstractStationaryGame)
    return game


def table(name: str) -> dict[str, list[str]]:
    with open(f"out/answer/{name}.csv", encoding="utf-8", newline="") as stream:
        heads, *rows = csv.reader(stream)
    return {head: [row[k] for row in rows] for k, head in enumerate(heads)}


def law_by_hand(game, policy, sizes, runs, *, seed) -> CrowdLaw:
    # γ^T ≤ 1% at T = 10; two kinds with six states each.
    assert policy.shape == (1, 10, 12, 3) and game.horizon == 10
    players = np.array(sizes)
    return CrowdLaw(players, players**-0.5, 0.01 * players**-0.5, -0.5, (-0.6, -0.4), 1.0)


def gain_by_hand(game, policy, players, runs, *, seed) -> DeviationGain:
    return DeviationGain(players, -0.5, 0.25, 0.0, np.array([-0.5]), np.array([0.25]))


def run(**given):
    chosen = settings(study, {name: str(value) for name, value in given.items()})
    with RunContext("out", study="meanfield", settings=chosen) as context:
        outcome = study.execute(chosen.options, context)
        context.finish(outcome)
    return outcome


def test_from_a_users_file_to_the_report(desk, monkeypatch):
    # Each of them compiles crowds anew, and test_mf_crowd.py measures them.
    monkeypatch.setattr("catallax.meanfield.study.crowd_law", law_by_hand)
    monkeypatch.setattr("catallax.meanfield.study.deviation_gain", gain_by_hand)
    outcome = run(game="pond.py", players=12, tol=1e-3)
    assert outcome.status == "settled"
    game = pond()
    rows = table("policy")
    policy = np.zeros((2, 6, 3))
    ways = [["west", "east", "south"].index(way) for way in rows["action"]]
    policy[np.array(rows["kind"], int), np.array(rows["state"], int), ways] = np.array(rows["chance"], float)
    mass = np.array(table("mass")["density"], float).reshape(2, 6)
    assert all(one.holds for one in certify_stationary(game, policy, mass, 1e-3))
    held = table("density")
    np.testing.assert_allclose(np.array(held["density"], float), [0.25, 0.75] @ mass, atol=1e-12)
    assert held["row"] == ["0"] * 3 + ["1"] * 3 and held["column"] == ["0", "1", "2"] * 2
    assert table("kinds")["share"] == ["0.25", "0.75"]
    gain = account_stationary(game, policy, mass).exploitability
    assert gain > 0 and outcome.summary[0].startswith(f"exploitability {gain:.3g} (")
    assert table("deviation")["players"] == ["12"] and table("distance")["players"] == ["10", "11", "12"]
    history = [json.loads(line) for line in Path("out/history.jsonl").read_text().splitlines()]
    assert history[-1]["exploitability"] <= 1e-3 < history[0]["exploitability"]
    page = Path("out/report.html").read_text(encoding="utf-8")
    assert "<canvas" not in page and page.count("<svg") == 3 and "Two kinds of ducks" in page
    assert "play it for 10 decisions" in page and "for kind 0" not in page and "no end" in page
    assert {path.name for path in Path("out/figures").iterdir()} == {"density.svg", "convergence.svg", "crowd.svg"}


def test_rooms_have_a_plan_and_ways():
    game = load_game("stationary-rooms", None, ["pull=3"])
    assert isinstance(game, Rooms) and np.asarray(game.attraction).max() == 3
    start = rest_crowd(game)[0]
    plan = plan_of(game, start)
    assert plan is not None and np.array_equal(plan.walls.ravel(), ~np.asarray(game.free)) and not plan.ends.any()
    # A gust goes with every step; on average each action leads its own way.
    assert action_names(game, start) == ["stay", "north", "south", "west", "east"]


def test_at_rest_as_many_come_as_go(desk):
    """The ways that players go, weighted by where they are, cancel; each kind by itself goes somewhere (seed 6)."""
    game = pond()
    policy = np.random.default_rng(6).dirichlet(np.ones(3), (2, 6))
    parts = np.array([[0.25], [0.75]]) * rest(game, policy)
    crowd = parts.sum(axis=0)
    plan = plan_of(game, crowd)
    assert plan is not None
    ways = heading(plan, moves_at(game, 0, crowd), acting(parts, policy))
    assert np.abs(ways).max() > 0.1
    np.testing.assert_allclose(np.einsum("s,sx->x", crowd, ways.reshape(6, 2)), 0, atol=1e-12)


def test_bars_of_kinds_stand_on_one_another():
    parts = np.array([[0.1, 0.2, 0.0], [0.3, 0.1, 0.3]])
    stairs = draw_rest(parts).axes[0].patches
    assert [one.get_data()[0].tolist() for one in stairs] == [parts[0].tolist(), parts.sum(axis=0).tolist()]
    np.testing.assert_allclose(stairs[1].get_data()[2], parts[0], atol=1e-15)
    many = draw_rest(np.full((20, 3), 1 / 60)).axes[0].patches
    assert len(many) == 1 and np.allclose(many[0].get_data()[0], 1 / 3)


def test_a_stretch_of_a_life_is_worth_the_whole(desk):
    """What follows is worth what it is at rest: so values, and in long stretches best responses, are the same."""
    game = pond()
    policy = np.random.default_rng(3).dirichlet(np.ones(3), (2, 6))
    mass = rest(game, policy)
    whole = account_stationary(game, policy, mass)
    gains = []
    for horizon in (1, 4, 60):
        with jax.enable_x64(True):
            some, rows = stretch(game, policy, mass, horizon)
        densities = flow(some, rows)
        np.testing.assert_allclose(densities, np.tile(densities[0], (horizon + 1, 1)), atol=1e-12)
        np.testing.assert_allclose(some.crowd(densities[0]), whole.density, atol=1e-12)
        part = account(some, rows)
        np.testing.assert_allclose(part.value, whole.shares @ whole.value, rtol=1e-9)
        gains.append(part.exploitability)
    assert 0 < gains[0] < gains[1] < gains[2]
    np.testing.assert_allclose(gains[2], whole.exploitability, rtol=1e-9)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("0.8 * jnp", "0.5 * jnp"), "state 0, action 0 for kind 0: the probabilities of its moves sum to 0.7"),
        (
            ("earned, earned, earned", "earned, jnp.nan * earned, earned"),
            "state 0, action 1 for kind 0: the reward is nan",
        ),
        (("discount: float = 0.6", "discount: float = 1.0"), "the discount is 1.0; without an end"),
        (("1.0]) / 5", "-1.0]) / 3"), "the first density is -0.33"),
        (("kind * jnp.array([0.0, ", "kind * jnp.array(["), "pond.py:31: "),
        (("def moves", "def move"), "pond.py: has no game"),
        (("class Pond", "game = 3\nclass Pond"), "AbstractGame or AbstractStationaryGame"),
    ],
    ids=["rows", "nan", "discount", "mass", "shape", "abstract", "number"],
)
def test_a_file_that_is_no_game_is_told_where(desk, change, said):
    assert change[0] in POND
    Path("pond.py").write_text(POND.replace(*change))
    with pytest.raises(InputError) as caught:
        load_game("", Path("pond.py"))
    message = str(caught.value)
    assert said in message and message.startswith("pond.py:") and "\n" not in message


def test_options_of_games_that_end_are_refused(desk):
    with pytest.raises(InputError, match="stationary_rooms has no parameter 'horizon'"):
        load_game("stationary_rooms", None, horizon=5)
    with pytest.raises(InputError, match="--law fictitious-play is for games that end"):
        run(game="pond.py", law="fictitious-play")
    assert not Path("out").exists()
    with pytest.raises(InputError, match="did you mean 'stationary_rooms'"):
        load_game("stationary-room", None)
