"""The compiled passes say what the scans say, in both precisions, under every transformation; and where they serve."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from catallax.core.run import run
from catallax.meanfield import passes
from catallax.meanfield.games.grid import CrowdMotion, crowd_motion
from catallax.meanfield.games.simple import beach_bar, left_right
from catallax.meanfield.moves import Stencil
from catallax.meanfield.passes import face, follow, softmax, worth, worth_beside_best
from catallax.meanfield.problem import AbstractGame, cast
from catallax.meanfield.rules import even_flow
from catallax.meanfield.solve import first_state, iterate

WALLS = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]], bool)
CROSS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
WAYS = {1: ((0, 1),), 2: ((0, 0), (1, 1)), 3: ((0, 1), (2, 0), (0, -1)), 5: CROSS, 7: (*CROSS, (1, -2), (-2, 0))}
TYPES = {"float32": 2e-6, "float64": 1e-14}


class Grid(AbstractGame):
    """A map of 3 × 4 cells, with moves by a stencil; what it earns depends on the action, the time and the crowd."""

    chances: jax.Array
    pay: jax.Array
    ways: tuple[tuple[int, int], ...] = eqx.field(static=True)
    periodic: bool = eqx.field(static=True, default=False)
    drifting: bool = eqx.field(static=True, default=False)
    states: int = eqx.field(static=True, default=12)
    actions: int = eqx.field(static=True, default=3)
    horizon: int = eqx.field(static=True, default=4)

    def start(self):
        return jnp.where(WALLS.reshape(-1), 0, 1 / 9).astype(self.chances.dtype)

    def moves(self, time, density):
        part = density[0] if self.drifting else jnp.zeros((), density.dtype)
        even = jnp.full_like(self.chances, 1 / len(self.ways))
        return Stencil((1 - part) * self.chances + part * even, self.ways, (3, 4), WALLS, periodic=self.periodic)

    def reward(self, time, density, kind):
        return self.pay[time] - density[:, None] ** 2

    def final(self, density, kind):
        return -3 * density

    @property
    def discount(self):
        return 0.9


def grid(count: int, by_state: bool = False, **options) -> Grid:
    """Draw a game with so many ways, the same chances from every state or each its own."""
    draw = np.random.default_rng(count)
    chances = draw.dirichlet(np.ones(count), (12, 3) if by_state else 3)
    return Grid(jnp.asarray(chances), jnp.asarray(draw.normal(size=(4, 12, 3))), WAYS[count], **options)


@pytest.fixture(params=TYPES)
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


def drawn(game: AbstractGame, dtype: str, spread: float = 3.0) -> tuple:
    """Return a game in a precision, its even flow, what is faced there, and logits drawn at random."""
    game = cast(game, dtype)
    flow = even_flow(game)
    logits = np.random.default_rng(2).normal(size=(game.horizon, game.actions, game.states)) * spread
    return game, flow, face(game, flow, None), jnp.asarray(logits, dtype)


def agree(found: tuple, wanted: tuple, dtype: str) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype == dtype and one.shape == other.shape
        scale = float(np.abs(other).max(initial=1.0))
        np.testing.assert_allclose(one, other, rtol=TYPES[dtype], atol=TYPES[dtype] * scale)


LOOKS = passes._look_back, passes._look_back_by_scan
GAMES = {
    **{f"{count} ways": lambda count=count: grid(count) for count in (1, 2, 7)},
    "by state": lambda: grid(5, by_state=True),
    "gusts": lambda: crowd_motion(4, 3, horizon=3, noise=0.3),
    "no gusts": lambda: crowd_motion(3, 5, horizon=3, noise=0.0),
}


QUICK = "7 ways", "gusts"


@eqx.filter_jit
def both_ways(game: AbstractGame, flow: jax.Array, faced: passes.Faced, logits: jax.Array) -> list[tuple]:
    """Return what compiled passes and scans say of the same."""
    policy = softmax(logits)
    looks = [tuple(look(game, flow, faced, policy, beside=beside) for look in LOOKS) for beside in (False, True)]
    follows = tuple(follow(game, flow, logits) for follow in (passes._follow, passes._follow_by_scan))
    return [*looks, follows]


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.bench) for name in GAMES]
)
def test_compiled_passes_say_what_the_scans_say(name):
    with jax.enable_x64(True):
        agree_in("float64", GAMES[name]())


def test_in_single_precision_too():
    agree_in("float32", grid(5))


def agree_in(dtype: str, game: AbstractGame) -> None:
    game, flow, faced, logits = drawn(game, dtype)
    assert passes.bands_of(game, flow) is not None
    for found, wanted in both_ways(game, flow, faced, logits):
        agree(found, wanted, dtype)


def test_the_exponential_is_good_to_the_last_digits_and_ends_at_zero(dtype):
    game, flow, _, _ = drawn(beach_bar(300, 1, 2), dtype)
    least = {"float32": -87.0, "float64": -708.0}[dtype]
    low = np.concatenate([np.linspace(least, 0, 296), [least - 1, -3e4, -np.inf, 0.0]])
    logits = jnp.asarray(np.stack([np.zeros(300), low, np.full(300, -np.inf)]), dtype)[None]
    centred, policy, _ = follow(game, flow, logits)
    exact = np.exp(np.asarray(centred, np.float64))
    exact /= exact.sum(axis=1, keepdims=True)
    kept = np.asarray(centred) >= least
    np.testing.assert_allclose(np.asarray(policy)[kept], exact[kept], rtol=3 * np.finfo(dtype).eps)
    assert not np.asarray(policy)[~kept].any()


def test_what_is_no_number_stays_none(dtype):
    game, flow, faced, logits = drawn(grid(5), dtype)
    logits = logits.at[1, 2, 3].set(jnp.nan)
    _, policy, after = follow(game, flow, logits)
    assert np.isnan(policy[1, :, 3]).all() and np.isnan(after[2]).any() and not np.isnan(after[1]).any()
    values, actions = worth(game, flow, faced, policy)
    assert np.isnan(values[1, 3]) and not np.isnan(actions[1]).any()
    _, gain, span = worth_beside_best(game, flow, faced, policy)
    assert np.isnan(gain) and span > 0
    paid = eqx.tree_at(lambda faced: faced.reward, faced, faced.reward.at[1, 2, 3].set(jnp.nan))
    values, actions = worth(game, flow, paid, softmax(jnp.zeros_like(logits)))
    assert np.isnan(actions[1, 2, 3]) and np.isnan(values[1, 3]) and np.isnan(values[0]).any()


def test_derivatives_are_those_of_differences():
    with jax.enable_x64(True):
        game, flow, _, logits = drawn(grid(3), "float64")
        direction = jnp.asarray(np.random.default_rng(5).normal(size=logits.shape))

        @jax.jit
        def earned(pay, logits):
            own = eqx.tree_at(lambda game: game.pay, game, pay)
            _, policy, after = follow(own, flow, logits)
            return worth(own, after, face(own, after, None), policy)[0][0] @ after[0]

        slope = jax.jvp(lambda logits: earned(game.pay, logits), (logits,), (direction,))[1]
        ahead, behind = (earned(game.pay, logits + step * direction) for step in (1e-6, -1e-6))
        np.testing.assert_allclose(slope, (ahead - behind) / 2e-6, rtol=1e-7)
        by_pay, by_logits = jax.jit(jax.grad(earned, (0, 1)))(game.pay, logits)
        np.testing.assert_allclose(jnp.sum(by_logits * direction), slope, rtol=1e-12)
        ahead, behind = (earned(game.pay.at[1, 2, 0].add(step), logits) for step in (1e-6, -1e-6))
        np.testing.assert_allclose(by_pay[1, 2, 0], (ahead - behind) / 2e-6, rtol=1e-7)


def test_many_games_at_once_are_each_by_itself():
    with jax.enable_x64(True):
        one = grid(5)
        games = [one, eqx.tree_at(lambda game: (game.pay, game.chances), one, (-one.pay, one.chances[::-1]))]
        act = eqx.filter_jit(lambda game: iterate(game, 3, "fast", every=1)[0])
        policies = eqx.filter_vmap(act)(jax.tree.map(lambda *x: jnp.stack(x), *games))
        for game, policy in zip(games, policies, strict=True):
            np.testing.assert_allclose(policy, act(game), rtol=1e-12)
        assert np.abs(policies[0] - policies[1]).max() > 0.1


def test_the_course_of_the_law_is_that_of_the_scans():
    with jax.enable_x64(True):
        game = grid(5)
        courses = []
        for few in (0, 100):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(passes, "FEW", few)
                # A function of its own each time, or what was compiled first would be taken again.
                courses.append(eqx.filter_jit(lambda game: iterate(game, 8, "fast", every=2))(game))
        for one, other in zip(*courses, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize(
    ("game", "compiled"),
    [
        (grid(5), True),
        (grid(5, periodic=True), False),
        (grid(5, drifting=True), False),
        (crowd_motion(3, 3, horizon=2), True),
        (CrowdMotion(np.ones((3, 3)), np.full((3, 3), 1 / 9), horizon=2, periodic=True), False),
        (left_right(), False),
    ],
    ids=["stencil", "torus", "drift", "walk", "walk on a torus", "listed"],
)
def test_where_they_serve(game, compiled):
    flow = even_flow(game)
    text = jax.jit(
        lambda flow: worth(game, flow, face(game, flow, None), jnp.zeros((game.horizon, game.actions, game.states)))
    )
    assert ("catallax.meanfield._banded.look_back" in text.lower(flow).as_text()) is compiled


def test_half_precision_is_for_the_scans():
    game, flow, _, _ = drawn(grid(5), "float16")
    assert flow.dtype == jnp.float16 and passes.bands_of(game, flow) is None


def test_what_is_the_same_in_every_state_to_end_in_is_one_number(dtype):
    game, flow, faced, logits = drawn(grid(5), dtype)
    policy = softmax(logits)
    one, each = (passes.Faced(faced.reward, jnp.asarray(last, dtype)) for last in (0.5, np.full(12, 0.5)))
    for look in LOOKS:
        for found, wanted in zip(*(look(game, flow, ends, policy, beside=True) for ends in (one, each)), strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_a_round_of_a_small_game_is_few_operations():
    # XLA runs up to eight one after another; more of them it hands to a pool of threads, which takes longer than they.
    text = jax.jit(lambda: iterate(beach_bar(), 300, "mirror-descent", every=1)).lower().compile().as_text()
    round_of = next(body for body in text.split("\n\n") if body.count(" custom-call(") == 2)
    assert len(re.findall(r" (?:fusion|custom-call|copy|call|while|dot)\(", round_of)) <= 8


@pytest.mark.parametrize("law", ["fast", pytest.param("mirror-descent", marks=pytest.mark.bench)])
def test_a_program_of_rounds_is_one_loop_that_calls_nothing_back(law):
    game = crowd_motion(3, 3, horizon=2)
    system, state = first_state(game, law)
    text = jax.jit(lambda state: run(system, state, 3).state).lower(state).compile().as_text()
    called = set(re.findall(r'custom_call_target="([^"]*)"', text))
    assert called == {f"catallax.meanfield._banded.{name}.float32" for name in ("follow", "look_back")}
    assert text.count(" while(") == 1
