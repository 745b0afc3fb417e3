"""`catallax run meanfield`, from a name, a map or a user's file to tables, pictures, certificates and the report."""

import base64
import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from catallax.errors import InputError
from catallax.meanfield.certify import exploitability, flow
from catallax.meanfield.crowd import CrowdLaw
from catallax.meanfield.figures import Plan, bar_film, block_arrows, blocks, ceiling, grid_film, spread_times
from catallax.meanfield.games.grid import Evacuation, four_rooms
from catallax.meanfield.games.simple import beach_bar
from catallax.meanfield.load import load_game
from catallax.meanfield.moves import Stencil
from catallax.meanfield.options import Options, study
from catallax.meanfield.plan import action_names, headings, plan_of
from catallax.meanfield.problem import AbstractGame
from catallax.meanfield.sections import signed
from catallax.runs.film import LEVELS, WALL, film_figure, film_gif, levels
from catallax.runs.report import render
from catallax.runs.store import RunContext
from catallax.study import Film, Outcome, Section, Settings, check_study, settings


def film(**changes):
    cells = np.random.default_rng(0).dirichlet(np.ones(12), 5).reshape(5, 3, 4)
    cells[:, 1, 2] = np.nan
    facts = {"frames": cells, "labels": [f"time {t}" for t in range(5)], "unit": "part of the crowd", "top": 0.2}
    return Film(**{**facts, **changes})


def facts_of(page: str) -> dict:
    found = re.search(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


class TestFilm:
    def test_levels_are_the_amounts(self):
        one = film()
        found = levels(one)
        assert np.all(found[:, 1, 2] == WALL)
        free = ~np.isnan(one.frames)
        back = one.top * (found / LEVELS) ** (1 / one.power)
        seen = np.minimum(one.frames, one.top)
        # Half a step of the level, seen through the square.
        assert np.max(np.abs(back - seen)[free]) <= one.top / LEVELS
        assert levels(film(frames=np.zeros((5, 1, 3)))).max() == 0

    def test_the_page_holds_what_the_levels_say_and_nothing_is_fetched(self):
        arrows = np.random.default_rng(1).uniform(-1, 1, (5, 3, 4, 2))
        page = render(Outcome("A film", "settled", [], sections=[Section("Here", film=film(arrows=arrows))]))
        facts = facts_of(page)
        held = np.frombuffer(base64.b64decode(facts["frames"]), np.uint8).reshape(5, 3, 4)
        assert np.array_equal(held, levels(film()))
        drawn = np.frombuffer(base64.b64decode(facts["arrows"]), np.int8).reshape(arrows.shape) / 100
        assert np.max(np.abs(drawn - arrows)) <= 0.005 + 1e-12
        assert (facts["rows"], facts["columns"], facts["arrow_grid"]) == (3, 4, [3, 4])
        assert page.count("<canvas") == 1 and 'type="range" min="0" max="4"' in page
        assert not re.search(r"(src|href)=|https?:|url\(|import\b|fetch\(", page)
        assert page.count("<script>") == 1

    def test_a_page_without_a_film_holds_no_script(self):
        page = render(Outcome("No film", "settled", [], sections=[Section("Here", "text")]))
        assert "<script" not in page and "canvas" not in page

    def test_a_label_cannot_end_the_script(self):
        page = film_figure(film(labels=["</script><b>", "1", "2", "3", "4"]), "<b>")
        assert "</script><b>" not in page and facts_of(page)["labels"][0] == "</script><b>"
        assert 'aria-label="&lt;b&gt;"' in page

    def test_bars_are_named_and_told_in_their_unit(self):
        page = film_figure(film(frames=np.ones((5, 1, 3)), top=1.0, bars=True, names=["a", "b", "c"]), "Bars")
        assert "<span>a</span><span>b</span><span>c</span>" in page and "full height is 1." in page

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"frames": np.zeros((3, 4))}, "shape"),
            ({"frames": np.zeros((0, 3, 4)), "labels": []}, "shape"),
            ({"labels": ["one"]}, "labels"),
            ({"frames": np.full((5, 3, 4), -1.0)}, "negative"),
            ({"frames": np.full((5, 3, 4), np.inf)}, "infinite"),
            ({"top": 0.0}, "top"),
            ({"top": np.nan}, "top"),
            ({"bars": True}, "row"),
            ({"arrows": np.zeros((4, 3, 4, 2))}, "arrows"),
            ({"arrows": np.zeros((5, 3, 4))}, "arrows"),
        ],
    )
    def test_parts_that_do_not_fit_are_refused(self, wrong, said):
        with pytest.raises(ValueError, match=said):
            film_figure(film(**wrong), "Wrong")

    def test_the_gif_shows_every_frame(self):
        Image = pytest.importorskip("PIL.Image")
        moving = np.zeros((5, 3, 4))
        moving[np.arange(5), 0, [0, 1, 2, 3, 3]] = [0.2, 0.2, 0.2, 0.2, 0.1]
        moving[:, 2, 0] = np.nan
        content = film_gif(film(frames=moving))
        assert content is not None
        with Image.open(io.BytesIO(content)) as image:
            assert image.n_frames == 5 and image.size == (416, 312)
            for frame in range(4):
                image.seek(frame)
                dots = np.asarray(image.convert("RGB")).astype(int)[52::104, 52::104]
                assert dots.shape == (3, 4, 3)
                assert np.allclose(dots[0, frame], (13, 38, 55), atol=2)
                assert np.allclose(dots[2, 0], (185, 190, 196), atol=2)
                assert np.allclose(dots[1], 255, atol=1)

    def test_the_gif_of_bars_and_of_arrows(self):
        Image = pytest.importorskip("PIL.Image")
        bars = film_gif(film(frames=np.tile([[1.0, 0.5]], (5, 1, 1)), top=1.0, bars=True))
        assert bars is not None
        with Image.open(io.BytesIO(bars)) as image:
            tall = (np.asarray(image.convert("L")) < 200).sum(axis=0)
        assert tall[100] == pytest.approx(0.97 * image.height, abs=1.5)
        assert tall[300] == pytest.approx(tall[100] / 2, abs=1.5)
        pointing = film_gif(film(arrows=np.full((5, 3, 4, 2), 0.7)))
        assert pointing is not None
        with Image.open(io.BytesIO(pointing)) as image:
            orange = np.all(np.abs(np.asarray(image.convert("RGB")).astype(int) - (200, 85, 61)) < 30, axis=-1)
        # Each of the twelve arrows goes through the middle of its cell.
        assert np.all(orange[52::104, 52::104])


class TestPictures:
    plan = Plan((3, 5), np.arange(15).reshape(3, 5) % 7 == 3, np.zeros((3, 5), bool))

    def test_blocks_add_up(self):
        cells = self.plan.cells(np.random.default_rng(2).random((4, 15)))
        sums, side = blocks(cells, 2)
        assert side == 3 and sums.shape == (4, 1, 2)
        np.testing.assert_allclose(sums[:, 0, 0], np.nansum(cells[:, :, :3], axis=(1, 2)))
        np.testing.assert_allclose(np.nansum(sums, axis=(1, 2)), np.nansum(cells, axis=(1, 2)))
        walled = np.full((1, 4, 4), np.nan)
        walled[0, 0, 0] = 1
        found, _ = blocks(walled, 2)
        assert found[0, 0, 0] == 1 and np.isnan(found).sum() == 3
        assert blocks(cells, 5)[1] == 1

    def test_arrows_of_a_block_are_the_mean_over_its_free_cells(self):
        arrows = np.random.default_rng(3).random((1, 3, 5, 2))
        found = block_arrows(arrows, self.plan.walls, 1)
        np.testing.assert_allclose(found[0, 0, 0], arrows[0][~self.plan.walls].mean(axis=0))
        assert np.array_equal(
            block_arrows(arrows, self.plan.walls, 5)[:, ~self.plan.walls], arrows[:, ~self.plan.walls]
        )

    def test_the_strongest_colour_is_not_left_to_a_crowd_in_one_cell(self):
        flow = np.full((41, 100), 0.01)
        flow[0] = np.eye(100)[0]
        assert ceiling(flow) == 0.01
        assert ceiling(flow, 1.0) == 1.0
        assert ceiling(np.array([np.nan, 0.25, 0.0])) == 0.25
        assert ceiling(np.zeros(3)) == 1.0

    def test_times_have_both_ends(self):
        assert spread_times(40, 81).tolist() == list(range(41))
        assert spread_times(40, 5).tolist() == [0, 10, 20, 30, 40]
        assert spread_times(1, 81).tolist() == [0, 1]

    def test_films_of_flows(self):
        flow = np.random.default_rng(4).dirichlet(np.ones(15), 6)
        times = spread_times(5, 81)
        one = grid_film(self.plan, flow, times, None)
        assert np.array_equal(np.isnan(one.frames), np.broadcast_to(self.plan.walls, (6, 3, 5)))
        assert np.array_equal(one.frames[:, ~self.plan.walls], flow[:, ~self.plan.walls.ravel()])
        assert one.labels[2] == "time 2 of 5" and one.unit.endswith("a cell")
        many = bar_film(np.full((2, 1000), 0.001), np.array([0, 1]), [str(k) for k in range(1000)])
        assert many.frames.shape == (2, 1, 200) and many.names[1] == "5" and "5 neighbouring" in many.unit
        np.testing.assert_allclose(many.frames.sum(axis=2), 1)


class TestOptions:
    def test_is_a_study_that_does_not_load_jax(self):
        check_study(study)
        heavy = "[name for name in ('jax', 'numpy', 'equinox', 'matplotlib') if name in sys.modules]"
        script = f"import sys, catallax.meanfield.options; print({heavy})"
        ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert ended.stdout.strip() == "[]"

    def test_a_file_in_the_place_of_a_name_is_a_path(self):
        assert Options("rooms/hall.txt").file == Path("rooms/hall.txt")
        assert Options("hall.png") == Options(file=Path("hall.png"))
        assert Options("hall.png").named == "hall.png" and Options().named == "four-rooms"
        assert Options("beach-bar").file is None

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"tol": 0.0}, "--tol is 0"),
            ({"tol": 1.0}, "--tol is 1"),
            ({"max_rounds": 0}, "--max-rounds is 0"),
            ({"horizon": 0}, "--horizon is 0"),
            ({"players": 1}, "--players is 1"),
            ({"players": -5}, "--players is -5"),
            ({"game": "hall.doc"}, "hall.doc: is neither a map"),
            ({"game": "a.txt", "file": Path("b.txt")}, "two files"),
            ({"game": "beach-bar", "file": Path("b.txt")}, "both a game"),
            ({"parameters": ("size",)}, "--parameters size: write"),
            ({"parameters": ("=3",)}, "--parameters =3: write"),
        ],
    )
    def test_options_that_make_no_sense_are_refused(self, given, said):
        with pytest.raises(InputError, match=re.escape(said)):
            Options(**given)


HALL = """\
######
#EE..#
#.##.X
#....#
######
"""

KINDS = """
import equinox as eqx
import jax.numpy as jnp
from catallax.meanfield import AbstractGame, Dense

class Sides(AbstractGame):
    \"\"\"Two sides, and two kinds of players, one of which pays double for company.\"\"\"
    price: float = 1.0
    horizon: int = eqx.field(static=True, default=2)
    states: int = eqx.field(static=True, default=2)
    actions: int = eqx.field(static=True, default=2)

    @property
    def kinds(self):
        return jnp.array([1.0, 2.0])

    def start(self):
        return jnp.array([1.0, 0.0])

    def moves(self, time, density):
        to = jnp.eye(2)[None]
        return Dense(jnp.broadcast_to(to, (2, 2, 2)))

    def reward(self, time, density, kind):
        return -self.price * kind * jnp.broadcast_to(density[:, None], (2, 2))
"""


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder of a user's own."""
    monkeypatch.chdir(tmp_path)
    Path("hall.txt").write_text(HALL)
    Path("sides.py").write_text(KINDS)
    return tmp_path


class Torus(AbstractGame):
    """A game on a torus: stay, or one cell to the west."""

    states: int = 12
    actions: int = 2
    horizon: int = 2

    def start(self):
        return jnp.full(12, 1 / 12)

    def moves(self, time, density):
        walls = np.zeros((3, 4), bool)
        walls[1, 1] = True
        return Stencil(jnp.eye(2), ((0, 0), (0, -1)), (3, 4), walls, periodic=True)

    def reward(self, time, density, kind):
        return jnp.zeros((12, 2))


class TestPlan:
    def test_a_map_has_walls_and_ends(self, desk):
        game = load_game("", Path("hall.txt"))
        assert isinstance(game, Evacuation)
        plan = plan_of(game, np.asarray(game.start()))
        assert plan is not None and plan.shape == (5, 6)
        drawn = np.array([list(line) for line in HALL.splitlines()])
        assert np.array_equal(plan.walls, drawn == "#")
        assert np.array_equal(plan.ends, drawn == "X")
        # In an exit the crowd piles up; the colours are for those who are still on their way.
        density = np.where(drawn == "X", 0.9, np.where(drawn == "E", 0.05, 0.0)).ravel()
        assert plan.ceiling(density) == 0.05

    def test_headings_are_where_mass_goes(self):
        game = four_rooms(7, horizon=2)
        start = np.asarray(game.start(), float)
        plan = plan_of(game, start)
        assert plan is not None
        policy = np.random.default_rng(5).dirichlet(np.ones(5), (1, 2, 49))
        crowd = flow(game, policy)
        times = np.array([0, 1, 2])
        found = headings(game, plan, crowd, policy, times).reshape(3, 49, 2)
        cells = np.stack(np.divmod(np.arange(49), 7), axis=-1)
        for time in (0, 1):
            # The crowd's centre moves by the mean heading.
            np.testing.assert_allclose(crowd[time] @ found[time], (crowd[time + 1] - crowd[time]) @ cells, atol=1e-9)
        assert not found[2].any()

    def test_round_a_torus_the_short_way(self):
        game = Torus()
        density = np.full(12, 1 / 12)
        plan = plan_of(game, density)
        assert plan is not None and plan.periodic and plan.walls[1, 1] and plan.walls.sum() == 1
        # From there the wall blocks the only step.
        assert np.argwhere(plan.ends).tolist() == [[1, 2]]
        policy = np.zeros((1, 2, 12, 2))
        policy[..., 1] = 1
        found = headings(game, plan, np.tile(density, (3, 1)), policy, np.array([0]))[0]
        assert np.array_equal(found[0], [[0, -1]] * 4)
        assert np.array_equal(found[1], [[0, -1], [0, 0], [0, 0], [0, -1]])
        assert action_names(game, density) == ["stay", "west"]

    def test_names_of_actions(self):
        bar = beach_bar(7)
        start = np.asarray(bar.start(), float)
        assert plan_of(bar, start) is None
        assert action_names(four_rooms(7), np.zeros(49)) == ["stay", "north", "south", "west", "east"]


def refused(*words, **options) -> str:
    with pytest.raises(InputError) as caught:
        load_game(*words, **options)
    return str(caught.value)


class TestLoad:
    def test_names_and_parameters(self, desk):
        game = load_game("beach-bar", None, ["places=9", "still=0.25"], horizon=4)
        assert (game.states, game.horizon) == (9, 4) and float(game.still) == 0.25
        assert game.still.dtype == jnp.float64
        assert load_game("", Path("hall.txt"), ["crowding=3"], horizon=7).horizon == 7
        sides = load_game("", Path("sides.py"), ["price=2"])
        assert sides.price == 2 and sides.states == 2

    def test_what_is_refused_in_names_and_parameters(self, desk):
        assert "did you mean 'four_rooms'" in refused("for-rooms", None)
        assert "no parameter 'sise'; did you mean 'size'" in refused("four_rooms", None, ["sise=3"])
        assert "size is 'big', but must be a whole number" in refused("four_rooms", None, ["size=big"])
        assert "beach_bar: " in refused("beach_bar", None, ["speed=3"])
        assert "at least 7" in refused("four_rooms", None, ["size=3"])
        assert "no parameter 'speed'" in refused("", Path("hall.txt"), ["speed=3"])

    def test_maps_that_are_none_name_the_place(self, desk):
        Path("bad.txt").write_text("#####\n#E?X#\n#####\n")
        assert refused("", Path("bad.txt")).startswith("bad.txt:2:3: ")
        Path("closed.txt").write_text("#####\n#E#X#\n#####\n")
        assert refused("", Path("closed.txt")).startswith("closed.txt:2:2: no exit can be reached")

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (("class Sides", "class Sides("), "game.py:6:"),
            (("import equinox as eqx", "import equinox as eqx\n1 / 0"), "game.py:3: ZeroDivisionError"),
            (("class Sides(AbstractGame)", "class Sides"), "game.py: has no game"),
            (("    def start", "    def begin"), "game.py: has no game"),
            (("class Sides", "game = 3\nclass Sides"), "game.py: game is int"),
            (("price: float = 1.0", "price: float"), "game.py: "),
            (
                ("density[:, None]", "density[:, None] / 0 * 0"),
                "time 0, state 0, action 0 for kind 0: the reward is nan",
            ),
            (("jnp.eye(2)[None]", "0.7 * jnp.eye(2)[None]"), "moves sum to 0.7"),
            (("jnp.array([1.0, 0.0])", "jnp.array([1.5, -0.5])"), "the first density is -0.5 at state 1"),
            (("density[:, None], (2, 2)", "density[:, None], (3, 3)"), "game.py:25: ValueError"),
        ],
        ids=lambda value: value if isinstance(value, str) else None,
    )
    def test_a_users_file_that_is_no_game_is_told_its_line(self, desk, change, said):
        assert change[0] in KINDS
        Path("game.py").write_text(KINDS.replace(*change))
        message = refused("", Path("game.py"))
        assert said in message and message.startswith("game.py:") and "\n" not in message

    def test_several_games_need_a_choice(self, desk):
        two = KINDS + "\nclass Other(Sides):\n    pass\n"
        Path("game.py").write_text(two)
        assert "several games (Sides, Other)" in refused("", Path("game.py"))
        Path("game.py").write_text(two + "game = Other(price=3.0)\n")
        assert load_game("", Path("game.py")).price == 3.0

    def test_the_example_is_such_a_file(self):
        path = Path(__file__).parents[2] / "examples" / "meanfield.py"
        assert load_game("", path, horizon=8).horizon == 8


def execute(out: str, **given) -> Outcome:
    chosen: Settings = settings(study, {name: str(value) for name, value in given.items()})
    with RunContext(out, study="meanfield", settings=chosen) as run:
        outcome = study.execute(chosen.options, run)
        run.finish(outcome)
    return outcome


def table(name: str, out: str = "out") -> dict[str, list[str]]:
    with open(f"{out}/answer/{name}.csv", encoding="utf-8", newline="") as stream:
        heads, *rows = csv.reader(stream)
    return {head: [row[k] for row in rows] for k, head in enumerate(heads)}


def law_by_hand(game, policy, sizes, runs, *, seed) -> CrowdLaw:
    assert policy.shape == (1, 8, 30, 5) and runs >= 4 and seed == 0
    players = np.array(sizes)
    return CrowdLaw(players, players**-0.5, 0.01 * players**-0.5, -0.5, (-0.6, -0.4), 1.0)


class TestStudy:
    def test_a_map_from_the_file_to_the_report(self, desk, monkeypatch):
        # Each size of a crowd is compiled anew, and test_mf_crowd.py measures them.
        monkeypatch.setattr("catallax.meanfield.study.crowd_law", law_by_hand)
        outcome = execute("out", game="hall.txt", players=20, tol=1e-2, horizon=8)
        game = load_game("", Path("hall.txt"), horizon=8)
        rows = table("policy")
        ways = ["stay", "north", "south", "west", "east"]
        policy = np.zeros((1, 8, 30, 5))
        places = [np.array(rows[name], int) for name in ("time", "state")]
        policy[0, places[0], places[1], [ways.index(way) for way in rows["action"]]] = np.array(rows["chance"], float)
        np.testing.assert_allclose(policy.sum(axis=-1), 1, atol=1e-7)
        held = table("density")
        np.testing.assert_allclose(np.array(held["density"], float).reshape(9, 30), flow(game, policy), atol=1e-7)
        assert np.array_equal(
            np.array(held["row"], int) * 6 + np.array(held["column"], int), np.array(held["state"], int)
        )
        claims = {one["name"]: one for one in json.loads(Path("out/certificates.json").read_text())}
        assert claims["exploitability"]["holds"] and outcome.status == "settled"
        gap = exploitability(game, policy)
        assert gap > 0 and f"exploitability {gap:.3g}" in outcome.summary[0]
        history = [json.loads(line) for line in Path("out/history.jsonl").read_text().splitlines()]
        assert history[-1]["exploitability"] <= 1e-2 < history[0]["exploitability"]
        page = Path("out/report.html").read_text(encoding="utf-8")
        assert page.count("<canvas") == 2 and page.count("<script>") == 1 and "What an actual crowd does" in page
        assert not re.search(r"(src|href)=\"(?!#)(?!data:image/)", page)
        shown = np.frombuffer(base64.b64decode(facts_of(page)["frames"]), np.uint8).reshape(9, 5, 6)
        drawn = np.array([list(line) for line in HALL.splitlines()])
        assert np.array_equal(shown == WALL, np.broadcast_to(drawn == "#", shown.shape))
        assert {path.name for path in Path("out/figures").iterdir()} >= {"density.gif", "crowd.gif", "density.svg"}
        crowd = table("distance")
        assert crowd["players"] == ["10", "14", "20"]
        assert np.allclose(np.array(crowd["distance"], float), np.array([10, 14, 20]) ** -0.5)
        assert "to the power −0.500 (95% confidence: −0.600 to −0.400)" in page
        assert table("deviation")["players"] == ["20"]
        assert "hall.txt" in Path("out/config.toml").read_text() and "sha256" in Path("out/config.toml").read_text()

    @pytest.mark.bench
    def test_kinds_bars_and_the_same_again(self, desk):
        for out in ("one", "two"):
            outcome = execute(out, game="sides.py", players=0, tol=1e-3)
        for name in ("policy", "density", "kinds"):
            assert Path(f"one/answer/{name}.csv").read_bytes() == Path(f"two/answer/{name}.csv").read_bytes()
        kinds = table("kinds", "one")
        assert kinds["share"] == ["0.5", "0.5"] and len(kinds["value"]) == 2
        assert set(table("policy", "one")["kind"]) == {"0", "1"}
        assert not Path("one/answer/distance.csv").exists()
        page = Path("one/report.html").read_text(encoding="utf-8")
        assert facts_of(page)["bars"] and "one of which pays double" in page and "2 kinds of players" in page
        assert outcome.status == "settled"

    @pytest.mark.bench
    def test_what_does_not_settle_says_so(self, desk):
        outcome = execute("out", players=0, tol=1e-9, max_rounds=3, parameters="size=7", horizon=6)
        assert outcome.status == "out of rounds"
        assert not outcome.certificates[0].holds
        assert Path("out/answer/policy.csv").exists()

    def test_ctrl_c_keeps_the_answer_and_sends_no_crowd_to_play_it(self, desk):
        chosen = settings(study, {"game": "sides.py", "players": "50"})
        with RunContext("out", study="meanfield", settings=chosen) as run:
            run.stop()
            outcome = study.execute(chosen.options, run)
        assert outcome.status == "stopped" and Path("out/answer/policy.csv").exists()
        assert not Path("out/answer/deviation.csv").exists()

    def test_what_is_refused_leaves_nothing(self, desk):
        Path("bad.txt").write_text("#E?X#\n")
        with pytest.raises(InputError):
            execute("out", game="bad.txt")
        with pytest.raises(InputError, match="no such file"):
            execute("out", game="nowhere.txt")
        assert not Path("out").exists()


def test_minus_signs():
    assert signed("N^-0.5 (-0.6 to -0.4), 1e-06, 2.5e-10, well-known, t = 0-1") == (
        "N^−0.5 (−0.6 to −0.4), 1e−6, 2.5e−10, well-known, t = 0-1"
    )
