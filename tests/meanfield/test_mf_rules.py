"""Laws of a mean-field game's parts: transposes, mass, agreement of forms, and the contract of every law of motion."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from catallax.errors import InputError
from catallax.meanfield.games.simple import BeachBar, left_right
from catallax.meanfield.moves import Dense, Stencil
from catallax.meanfield.passes import best, face, moving, push, worth
from catallax.meanfield.problem import AbstractGame, Listed, cast, validate
from catallax.meanfield.rules import first_flow, mass, public, softmax
from catallax.meanfield.solve import first_state
from catallax.testing import check_conservation, check_locality, check_permutation, check_system

CROSS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
WALLS = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]], bool)


def stencil(by_state: bool, periodic: bool, walls: bool) -> Stencil:
    draw = np.random.default_rng(7)
    moves = (*CROSS, (1, -2))
    chances = draw.dirichlet(np.ones(len(moves)), (12, 3) if by_state else 3)
    return Stencil(chances, moves, (3, 4), WALLS if walls else None, periodic=periodic)


def dense_of(moves) -> np.ndarray:
    """Build the matrices (S, A, S) from the list of successors."""
    targets, chances = map(np.asarray, moves.listed())
    matrix = np.zeros((*targets.shape[:2], targets.shape[0]))
    for state, action, place in np.ndindex(targets.shape):
        matrix[state, action, targets[state, action, place]] += chances[state, action, place]
    return matrix


@pytest.fixture(params=["listed", "dense", "stencil", "walls", "periodic", "by state"])
def moves(request):
    with jax.enable_x64(True):
        grid = stencil(request.param in ("by state", "walls"), request.param == "periodic", request.param == "walls")
        if request.param == "listed":
            yield Listed(*grid.listed())
        elif request.param == "dense":
            yield Dense(jnp.asarray(dense_of(grid)))
        else:
            yield grid


def test_moves_agree_with_their_list_and_are_transposes(moves):
    draw = np.random.default_rng(3)
    value, weights, policy = draw.normal(size=12), draw.random((12, 3)), draw.dirichlet(np.ones(3), 12)
    matrix = dense_of(moves)
    np.testing.assert_allclose(matrix.sum(axis=2), 1.0, rtol=1e-12)
    np.testing.assert_allclose(moves.expect(jnp.asarray(value)), matrix @ value, rtol=1e-12)
    np.testing.assert_allclose(moves.carry(jnp.asarray(weights)), np.einsum("sa,sat->t", weights, matrix), rtol=1e-12)
    chain, under = moves.under(jnp.asarray(policy)), np.einsum("sa,sat->st", policy, matrix)
    np.testing.assert_allclose(chain.expect(jnp.asarray(value)), under @ value, rtol=1e-12)
    np.testing.assert_allclose(chain.carry(jnp.asarray(weights[:, 0])), weights[:, 0] @ under, rtol=1e-12)


def test_nobody_walks_through_walls():
    with jax.enable_x64(True):
        inside = jnp.asarray(~WALLS.reshape(-1, 1) * np.ones((1, 3)))
        arrived = np.asarray(stencil(True, False, True).carry(inside))
    assert not arrived[WALLS.ravel()].any()
    np.testing.assert_allclose(arrived.sum(), 3.0 * (~WALLS).sum())


def test_a_stencil_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="chances are"):
        Stencil(np.ones((2, 4)) / 4, CROSS, (3, 3))
    with pytest.raises(ValueError, match="grid of 9 cells"):
        Stencil(np.ones((5, 2, 5)) / 5, CROSS, (3, 3))
    with pytest.raises(ValueError, match="listed once"):
        Stencil(np.ones((2, 2)) / 2, ((0, 0), (0, 0)), (3, 3))


def game_in_double(places=5, horizon=4):
    return cast(BeachBar(places, horizon, 2), jnp.float64)


def test_the_value_of_a_policy_is_the_reward_met_along_its_flow():
    with jax.enable_x64(True):
        game = game_in_double()
        policy = softmax(jax.random.normal(jax.random.key(1), (4, 3, 5)))
        flow = first_flow(game, policy[None])
        faced = face(game, flow, None)
        met = jnp.sum(flow[:-1, None] * policy * faced.reward) + flow[-1] @ faced.final
        np.testing.assert_allclose(flow[0] @ worth(game, flow, faced, policy)[0][0], met, rtol=1e-12)
        np.testing.assert_allclose(push(game, flow, policy), flow, rtol=1e-12)
        np.testing.assert_allclose(flow.sum(axis=1), 1.0, rtol=1e-12)
        # No policy does better than a best response, and a cold smoothed one hardly worse.
        top, _ = best(game, flow, faced)
        assert float(flow[0] @ top[0]) >= float(met)
        near, _ = best(game, flow, faced, jnp.asarray(1e-6))
        np.testing.assert_allclose(near, top, atol=1e-4)


class Tides(AbstractGame):
    """Two places; everyone is moved to the one that the time says, or to the one where fewer are."""

    by: str = eqx.field(static=True)
    states: int = 2
    actions: int = 1
    horizon: int = 3

    def start(self):
        return jnp.asarray([0.25, 0.75])

    def moves(self, time, density):
        there = {"time": time % 2, "crowd": jnp.argmin(density), "nothing": jnp.asarray(1)}[self.by]
        return Listed(jnp.broadcast_to(there, (2, 1, 1)), jnp.ones((2, 1, 1), density.dtype))

    def reward(self, time, density, kind):
        return jnp.zeros((2, 1), density.dtype)


@pytest.mark.parametrize(
    ("by", "places"), [("time", [0, 1, 0]), ("crowd", [0, 1, 0]), ("nothing", [1, 1, 1])], ids=lambda x: str(x)
)
def test_moves_are_found_once_only_where_neither_time_nor_density_changes_them(by, places):
    game, policy = Tides(by=by), jnp.ones((3, 1, 2))
    flow = first_flow(game, policy[None])
    np.testing.assert_array_equal(jnp.argmax(flow[1:], axis=1), places)
    np.testing.assert_array_equal(push(game, flow, policy), flow)
    moves = moving(game, flow)
    assert (moves(jnp.int32(0), flow[0]) is moves(jnp.int32(1), flow[1])) == (by == "nothing")


class TwoTastes(AbstractGame):
    """A line of 5 places; each kind likes a place of its own, and all shun the crowd."""

    liked: jax.Array
    states: int = 5
    actions: int = 3
    horizon: int = 4

    def start(self):
        return jnp.asarray([1.0, 0.0, 0.0, 0.0, 0.0])

    def moves(self, time, density):
        return Stencil(jnp.eye(3, dtype=density.dtype), ((0, 0), (0, -1), (0, 1)), (1, 5))

    def reward(self, time, density, kind):
        place = jnp.arange(5, dtype=density.dtype)
        return jnp.broadcast_to((-((place - kind) ** 2) / 8 - density)[:, None], (5, 3))

    @property
    def kinds(self):
        return self.liked


LAWS = {
    "fast": {"every": 3},
    "mirror-descent": {"rate": 0.3, "every": 3},
    "fictitious-play": {},
    "damped": {"temperature": 0.5},
}


@pytest.mark.bench
@pytest.mark.parametrize("law", ["fast", "damped"])
def test_conformance(law):
    with jax.enable_x64(True):
        system, state = first_state(TwoTastes(liked=jnp.linspace(0.0, 4.0, 7)), law, **LAWS[law])
        options = {"conserves": {"mass": mass}, "differentiable": law == "damped", "rounds": 3}
        check_system(system, state, key=jax.random.key(5), **options)


@pytest.mark.parametrize("law", ["fast", "mirror-descent", "fictitious-play"])
def test_kinds_are_local_have_no_order_and_keep_their_mass(law):
    with jax.enable_x64(True):
        system, state = first_state(TwoTastes(liked=jnp.linspace(0.0, 4.0, 7)), law, **LAWS[law])
        check_locality(system, state, key=jax.random.key(5))
        check_permutation(system, state, key=jax.random.key(5))
        check_conservation(system, state, key=jax.random.key(5), conserves={"mass": mass}, rounds=8)


def test_rules_do_not_hold_what_is_private_to_kinds():
    game = TwoTastes(liked=jnp.linspace(0.0, 4.0, 7))
    assert jax.tree.leaves(eqx.filter(public(game), eqx.is_array)) == []
    assert len(jax.tree.leaves(public(left_right()))) == 1


class Broken(AbstractGame):
    """A game with one fault."""

    fault: str
    states: int = 3
    actions: int = 2
    horizon: int = 2

    def start(self):
        return {"negative mass": jnp.array([1.5, -0.5, 0.0]), "mass": jnp.array([0.5, 0.2, 0.2])}.get(
            self.fault, jnp.array([1.0, 0.0, 0.0])
        )

    def moves(self, time, density):
        chances = jnp.ones((3, 2, 1), density.dtype)
        chances = chances.at[2, 1, 0].set({"sum": 0.5, "negative": -1.0}.get(self.fault, 1.0))
        return Listed(jnp.full((3, 2, 1), 3 if self.fault == "target" else 1), chances)

    def reward(self, time, density, kind):
        bad = jnp.zeros((3, 2), density.dtype).at[1, 0].set(jnp.nan)
        return bad if self.fault == "reward" else jnp.zeros((3, 2), density.dtype)

    def final(self, density, kind):
        return jnp.full_like(density, jnp.inf if self.fault == "final" else 0.0)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("negative mass", "first density is -0.5 at state 1"),
        ("mass", "first density sums to 0.9"),
        ("sum", "time 0, state 2, action 1: the probabilities of its moves sum to 0.5"),
        ("negative", "time 0, state 2, action 1: a move has probability -1"),
        ("target", "time 0, state 0, action 0: moves to 3"),
        ("reward", "time 0, state 1, action 0: the reward is nan"),
        ("final", "final reward of state 0 is not finite"),
    ],
)
def test_what_is_wrong_with_a_game_is_said_with_its_place(fault, said):
    with pytest.raises(InputError, match=said):
        validate(Broken(fault=fault))


def test_a_sound_game_passes():
    validate(Broken(fault="none"))
