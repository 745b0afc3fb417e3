"""Continuous games: the scheme's laws, closed forms with the observed order, certificates, and bad input."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from catallax import InputError, Status
from catallax.meanfield.continuous import ContinuousGame, Effort, Grid, validate
from catallax.meanfield.continuous_certify import (
    Chain,
    best_value,
    certify_continuous,
    exploitability,
    flow_of,
    gain,
    residuals,
    speeds_of,
)
from catallax.meanfield.continuous_rules import (
    ConjugateResidual,
    Crowd,
    Player,
    begin,
    best,
    carry,
    doors,
    flow,
    implicit,
    on_course,
    rates,
    slopes,
    spread,
    values,
)
from catallax.meanfield.continuous_solve import rest, solve_continuous
from catallax.testing import check_devices, check_locality, check_message_size, check_permutation, check_system

BLOCKED = np.zeros((5, 6), bool)
BLOCKED[2, 1:4] = True
GRIDS = {
    "ring": Grid((7,), (1.4,), periodic=True),
    "line": Grid((7,), (1.4,)),
    "torus": Grid((5, 6), (1.0, 2.0), periodic=True),
    "room": Grid((5, 6), (1.0, 2.0)),
    "tube": Grid((5, 6), (1.0, 2.0), periodic=(True, False)),
    "obstacle": Grid((5, 6), (1.0, 2.0), blocked=BLOCKED),
}


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def nothing(time, place, density):
    del time, place
    return jnp.zeros_like(density)


def bump(grid, centre=0.3, width=0.2):
    """A start with all of its mass near a point, none in blocked cells."""
    density = np.exp(-np.sum((grid.place - centre) ** 2, axis=0) / (2 * width**2))
    if grid.blocked is not None:
        density = density * ~np.asarray(grid.blocked)
    return density / density.sum() / grid.volume


def moderate(grid, **changes):
    """A small game with everything in it: two kinds, drift, coupling, final cost."""
    start = bump(grid)
    drift = np.random.default_rng(3).normal(size=(len(grid.cells), *grid.cells))
    given = {
        "grid": grid,
        "start": np.stack([0.25 * start, 0.75 * start]),
        "coupling": lambda time, place, density: density + time * jnp.sin(3 * place[0]),
        "horizon": 0.6,
        "steps": 6,
        "viscosity": 0.1,
        "final": lambda place, density: jnp.cos(2 * place[0]) + 0.1 * density,
        "effort": Effort(np.array([1.0, 2.0])),
        "drift": drift,
    }
    return ContinuousGame(**(given | changes))


def one_player(game):
    state = begin(game)
    return jax.tree.map(lambda leaf: leaf[0], state.agents), state.signal


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
class TestOperators:
    def test_the_density_moves_by_the_transpose_of_the_value(self, grid):
        rng = np.random.default_rng(0)
        moves = doors(grid) * rng.random((2 * len(grid.cells), *grid.cells)) * 50
        x, y = jnp.asarray(rng.normal(size=(2, *grid.cells)))
        np.testing.assert_allclose(jnp.sum(spread(grid, moves, x) * y), jnp.sum(x * carry(grid, moves, y)), rtol=1e-12)
        np.testing.assert_allclose(jnp.sum(carry(grid, moves, y)), jnp.sum(y), rtol=1e-12)
        np.testing.assert_allclose(spread(grid, moves, jnp.ones(grid.cells)), 1.0, rtol=1e-12)

    def test_agrees_with_the_dense_matrix_of_the_certificate(self, grid):
        game, rng = moderate(grid), np.random.default_rng(1)
        value, right = rng.normal(size=(2, *grid.cells))
        speeds, _ = best(game.effort, jnp.asarray(2.0), slopes(grid, jnp.asarray(value)))
        chain = Chain(game)
        other, _ = gain(game, 2.0, chain.slopes(value.ravel()))
        np.testing.assert_allclose(speeds.reshape(other.shape), other * chain.open, rtol=1e-12, atol=1e-12)
        matrix, moves = chain.matrix(other).toarray(), rates(game, speeds)
        for transposed, dense in ((False, matrix), (True, matrix.T)):
            found = implicit(grid, moves, jnp.asarray(right), transposed=transposed)
            np.testing.assert_allclose(found.ravel(), np.linalg.solve(dense, right.ravel()), rtol=1e-9, atol=1e-11)

    def test_mass_is_conserved_and_positive_to_rounding(self, grid):
        rng = np.random.default_rng(2)
        wild = jnp.asarray(100 * rng.normal(size=(7, *grid.cells)))

        @jax.jit
        def moved(viscosity):
            game = moderate(grid, viscosity=viscosity)
            return flow(game, Player(jnp.asarray(game.start[0]), jnp.asarray(1.0), 0 * wild), wild)

        for viscosity in (0.0, 1e-3, 10.0):
            density = np.asarray(moved(viscosity))
            mass = density.sum(axis=tuple(range(1, density.ndim))) * grid.volume
            np.testing.assert_allclose(mass, 0.25, rtol=1e-12)
            assert density.min() >= 0
            if grid.blocked is not None:
                assert np.all(density[:, np.asarray(grid.blocked)] == 0)


@pytest.mark.parametrize("name", ["ring", pytest.param("obstacle", marks=pytest.mark.bench)])
class TestDuality:
    def test_what_a_cost_does_to_the_value_is_where_the_players_are(self, name):
        """The envelope theorem, exactly: d⟨m₀, u₀⟩/dF_n = τ m_{n+1}, for both equations share one matrix."""
        grid = GRIDS[name]

        class Priced(eqx.Module):
            costs: jax.Array

            def __call__(self, time, place, density):
                del place
                index = jnp.rint(time / 0.1).astype(jnp.int32) - 1
                return self.costs[index] + 0 * density

        def expected(costs):
            game = moderate(grid, coupling=Priced(costs), final=None)
            player, signal = one_player(game)
            return jnp.sum(player.start * values(game, player, signal)[0])

        costs = jnp.asarray(np.random.default_rng(4).normal(size=(6, *grid.cells)))
        game = moderate(grid, coupling=Priced(costs), final=None)
        player, signal = one_player(game)
        density = flow(game, player, values(game, player, signal))
        np.testing.assert_allclose(jax.jit(jax.grad(expected))(costs), 0.1 * density[1:], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("effort", [Effort(), Effort(power=1.5), Effort(power=3.0), Effort(limit=0.4)])
def test_speeds_are_the_best_there_are(effort):
    """Fenchel: no random choice of speeds gains more, and the certificate's own formulas agree."""
    rng, price = np.random.default_rng(5), 1.7
    slope = rng.normal(size=(4, 50))
    game = moderate(GRIDS["room"], effort=Effort(price, effort.power, effort.limit))
    speeds, paid = best(effort, jnp.asarray(price), jnp.asarray(slope))
    other, hamiltonian = gain(game, price, slope)
    np.testing.assert_allclose(speeds, other, rtol=1e-12)
    np.testing.assert_allclose(np.sum(speeds * slope, axis=0) - paid, hamiltonian, rtol=1e-10, atol=1e-12)
    conjugate = effort.power / (effort.power - 1)
    for _ in range(300):
        trial = np.maximum(speeds + rng.normal(size=slope.shape) * rng.choice([0.01, 0.3]), 0)
        size = np.linalg.norm(trial, axis=0)
        trial *= np.minimum(1, effort.limit / np.maximum(size, 1e-300))
        gained = np.sum(trial * slope, axis=0) - price * np.linalg.norm(trial, axis=0) ** conjugate / conjugate
        assert np.all(gained <= hamiltonian + 1e-12)


class ColeHopf:
    """u = −2ν log φ and m = φψ, where φ solves the heat equation backwards and ψ forwards.

    A coupling k(m − m_exact) makes the pair a coupled one with the same solution.
    """

    viscosity, horizon = 0.1, 0.5

    def __init__(self, n, *, periodic, axes=1, strength=0.0, steps=None):
        grid = Grid((n,) * axes, (1.0,) * axes, periodic=periodic)
        wave = 2 * jnp.pi if periodic else jnp.pi
        fade = self.viscosity * wave**2
        other = jnp.sin if periodic else jnp.cos

        def phi(time, x):
            return jnp.prod(1 + 0.5 * jnp.cos(wave * x) * jnp.exp(-fade * (self.horizon - time)), axis=0)

        def psi(time, x):
            return jnp.prod(1 + 0.5 * other(wave * x) * jnp.exp(-fade * time), axis=0)

        start = phi(0.0, grid.place) * psi(0.0, grid.place)
        self.mass = float(start.sum() * grid.volume)
        self.density = lambda time, x: phi(time, x) * psi(time, x) / self.mass
        self.value = lambda time, x: -2 * self.viscosity * jnp.log(phi(time, x))
        self.game = ContinuousGame(
            grid,
            np.asarray(start / self.mass),
            lambda time, x, density: strength * (density - self.density(time, x)),
            self.horizon,
            n if steps is None else steps,
            self.viscosity,
            final=lambda x, density: self.value(self.horizon, x) + 0 * density,
        )

    def errors(self, value, density):
        """Largest errors of the value and the density over all times and cells."""
        times = np.linspace(0, self.horizon, self.game.steps + 1)
        place = self.game.grid.place
        exact = [(self.value(time, place), self.density(time, place)) for time in times]
        return np.array(
            [
                np.max(np.abs(found - np.stack(known)))
                for found, known in zip((value, density), zip(*exact, strict=True), strict=True)
            ]
        )


@pytest.mark.parametrize("periodic", [pytest.param(True, marks=pytest.mark.bench), False])
def test_cole_hopf_is_met_with_order_one(periodic):
    """Upwind differences and an implicit step are first order in h and τ, which shrink together."""
    found = []
    for n in (64, 128):
        exact = ColeHopf(n, periodic=periodic)
        player, signal = one_player(exact.game)
        value = jax.jit(lambda player, signal, game=exact.game: values(game, player, signal))(player, signal)
        density = jax.jit(lambda player, value, game=exact.game: flow(game, player, value))(player, value)
        found.append(exact.errors(value, density))
    order = np.log2(np.array(found)[:-1] / np.array(found)[1:])
    assert np.all(order[-1] > 0.9) and np.all(order[-1] < 1.3), order
    assert np.all(found[-1] < [6e-4, 1.5e-2]), found


@pytest.mark.bench
def test_a_coupled_pair_is_met_with_order_one_too():
    found = []
    for n in (16, 32):
        exact = ColeHopf(n, periodic=True, strength=2.0)
        answer = solve_continuous(exact.game)
        assert answer.status is Status.SETTLED
        found.append(exact.errors(answer.value[0], answer.density[0]))
    order = np.log2(np.array(found)[:-1] / np.array(found)[1:])
    assert np.all(order[-1] > 0.8) and np.all(order[-1] < 1.4), (order, found)


@pytest.mark.bench
def test_cole_hopf_in_two_dimensions():
    found = []
    for n in (8, 16):
        exact = ColeHopf(n, periodic=False, axes=2, strength=0.5)
        answer = solve_continuous(exact.game)
        assert answer.status is Status.SETTLED
        found.append(exact.errors(answer.value[0], answer.density[0]))
    assert np.all(np.log2(found[0] / found[1]) > 0.7), found


@pytest.mark.bench
def test_the_crowd_that_minds_its_own_mean_follows_riccati():
    """F = ½q(x − θ·mean)² has a quadratic value; its mean solves a linear pair, and its variance another."""
    q, theta, noise, horizon, middle, variance = 2.0, 0.5, 0.05, 1.0, 0.8, 0.05
    # (mean, s) with u = ½Px² + sx + r, P = √q·tanh(√q(T − t)): mean' = −P·mean − s, s' = P·s + θq·mean, s(T) = 0.
    riccati = lambda time: np.sqrt(q) * np.tanh(np.sqrt(q) * (horizon - time))  # noqa: E731
    # The total mean velocity obeys mean'' = q(1 − θ)·mean with mean'(T) = 0, since P' = P² − q.
    pull = np.sqrt(q * (1 - theta))
    times = np.linspace(0, horizon, 2001)
    mean = middle * np.cosh(pull * (horizon - times)) / np.cosh(pull * horizon)
    spreads, step = np.empty_like(times), times[1]
    spreads[0] = variance
    for i, time in enumerate(times[:-1]):
        slope = lambda v, at: -2 * riccati(at) * v + 2 * noise  # noqa: E731
        first = slope(spreads[i], time)
        spreads[i + 1] = spreads[i] + step * slope(spreads[i] + step / 2 * first, time + step / 2)
    errors = []
    for n in (60, 120):
        grid = Grid((n,), (5.0,), origin=(-2.0,))
        start = np.exp(-((grid.place[0] - middle) ** 2) / (2 * variance))
        start /= start.sum() * grid.volume

        def coupling(time, place, density, grid=grid):
            del time
            return q / 2 * (place[0] - theta * jnp.sum(place[0] * density) * grid.volume) ** 2

        answer = solve_continuous(ContinuousGame(grid, start, coupling, horizon, n // 3, noise))
        assert answer.status is Status.SETTLED
        x = grid.place[0]
        means = answer.crowd @ x * grid.volume
        seen = answer.crowd[-1] @ (x - means[-1]) ** 2 * grid.volume
        curve = np.gradient(np.gradient(answer.value[0, 0], x), x)[np.argmin(np.abs(x - middle))]
        known = np.interp(answer.times, times, mean)
        errors.append([np.max(np.abs(means - known)), abs(seen - spreads[-1]), abs(curve - riccati(0.0))])
    errors = np.array(errors)
    assert np.all(errors[-1] < [0.02, 0.04, 0.05]), errors
    assert np.all(errors[-1] < 0.7 * errors[0]), errors


@pytest.mark.parametrize(
    "law", [pytest.param(law, marks=pytest.mark.bench) for law in ("answer", "conjugate residual")]
)
def test_keeps_every_law_of_the_contract(law, key):
    # The second law probes what remains unexplained, which in single precision is soon a matter of rounding.
    with jax.enable_x64(law != "answer"):
        grid, rng = Grid((9,), (1.0,)), np.random.default_rng(6)
        start = rng.random((11, 9))
        game = ContinuousGame(
            grid,
            start / start.sum() / grid.volume,
            lambda time, place, density: 0.3 * density + time * jnp.sin(3 * place[0]),
            0.5,
            5,
            0.2,
            effort=Effort(1 + rng.random(11)),
        )
        # What the players alone know is theirs, not the system's.
        shared = eqx.tree_at(lambda g: (g.start, g.effort.price), game, (np.zeros(9), 1.0))
        if law == "answer":
            mass = {"mass": lambda state: jnp.sum(state.signal, axis=1)}
            check_system(Crowd(shared), begin(game), key=key, conserves=mass, rounds=2)
        else:
            system, state = ConjugateResidual(shared), on_course(begin(game), 3)
            check_locality(system, state, key=key)
            check_permutation(system, state, key=key)
            check_message_size(system, state)
            check_devices(system, state, key=key, rounds=2, devices=(2,))


class TestSolve:
    @pytest.mark.bench
    def test_two_kinds_come_to_a_certified_equilibrium_around_an_obstacle(self):
        game = moderate(GRIDS["obstacle"])
        answer = solve_continuous(game)
        assert answer.status is Status.SETTLED and all(one.holds for one in answer.certificates)
        assert answer.velocity.shape == (2, 6, len(game.grid.cells), *game.grid.cells)
        np.testing.assert_allclose(
            answer.density.sum(axis=tuple(range(2, answer.density.ndim)))[:, -1],
            [0.25 / game.grid.volume, 0.75 / game.grid.volume],
            rtol=1e-10,
        )

    @pytest.mark.bench
    def test_strong_coupling_spreads_the_crowd(self):
        """The dearer company is, the flatter the density; even a hundredfold coupling settles."""

        class Company(eqx.Module):
            strength: float

            def __call__(self, time, place, density):
                del time
                return self.strength * density - jnp.cos(4 * jnp.pi * place[0])

        grid, flat = Grid((12,), (1.0,), periodic=True), []
        start = 1 + 0.8 * np.sin(2 * np.pi * grid.place[0])
        for strength in (0.0, 10.0, 100.0):
            answer = solve_continuous(ContinuousGame(grid, start, Company(strength), 1.0, 10, 0.05))
            assert answer.status is Status.SETTLED, strength
            flat.append(np.ptp(answer.crowd[5]))
        assert flat[0] > 2 * flat[1] > 4 * flat[2]

    @pytest.mark.bench
    def test_says_so_when_the_rounds_run_out(self):
        answer = solve_continuous(moderate(GRIDS["line"]), max_rounds=2)
        assert answer.status is Status.OUT_OF_ROUNDS and not all(one.holds for one in answer.certificates)

    @pytest.mark.bench
    def test_the_derivative_of_rest_is_that_of_finite_differences_and_many_games_are_solved_at_once(self):
        grid = GRIDS["line"]

        def late(viscosity):
            game = moderate(grid, viscosity=viscosity, effort=Effort(), start=bump(grid), steps=4)
            density = rest(game, tol=1e-11).signal
            return jnp.sum(density[-1] * grid.place[0])

        step = 1e-5
        low, _, high = jax.jit(jax.vmap(late))(jnp.array([0.1 - step, 0.3, 0.1 + step]))
        found, slope = jax.jit(jax.value_and_grad(late))(0.1)
        np.testing.assert_allclose(found, (low + high) / 2, rtol=1e-8)
        np.testing.assert_allclose(slope, (high - low) / (2 * step), rtol=1e-4)


@pytest.fixture(scope="module")
def answer():
    """Return the answer to a game on a line."""
    return solve_continuous(moderate(GRIDS["line"]))


class TestCertify:
    def verdict(self, answer, value=None, density=None):
        value = answer.value if value is None else value
        density = answer.density if density is None else density
        return {one.name: one.holds for one in certify_continuous(answer.game, value, density)}

    def test_accepts_the_answer_and_rejects_what_is_wrong(self, answer):
        assert all(self.verdict(answer).values())
        value, density = answer.value.copy(), answer.density.copy()
        value[1, 2, 3] += 0.05
        wrong = self.verdict(answer, value=value)
        assert not wrong["exploitability"] and not wrong["Hamilton-Jacobi-Bellman"] and wrong["mass"]
        density[0, 3, 2] += 1e-4
        wrong = self.verdict(answer, density=density)
        assert not wrong["Fokker-Planck"] and not wrong["mass"] and wrong["exploitability"]
        density = answer.density.copy()
        density[0, 3, 2], density[0, 3, 4] = -1e-4, density[0, 3, 4] + density[0, 3, 2] + 1e-4
        wrong = self.verdict(answer, density=density)
        assert not wrong["positivity"] and wrong["mass"]
        assert not any(self.verdict(answer, value=np.nan * value).values())
        with pytest.raises(ValueError, match="shape"):
            certify_continuous(answer.game, answer.value[:1], answer.density)

    def test_the_flow_and_the_least_cost_are_found_again(self, answer):
        game = answer.game
        speeds = speeds_of(game, answer.value)
        np.testing.assert_allclose(flow_of(game, speeds), answer.density, atol=1e-10)
        running, ending = game.costs(answer.crowd)
        np.testing.assert_allclose(best_value(Chain(game), 2.0, running, ending), answer.value[1], atol=1e-6)
        assert max(residuals(game, answer.value, answer.density)) < 1e-6

    def test_exploitability_is_what_dense_dynamic_programming_says(self):
        """Fixed speeds on a small ring, by dense matrices; and against many random deviations none saves more."""
        game = moderate(GRIDS["ring"], start=bump(GRIDS["ring"]), effort=Effort(), drift=None)
        rng, h, length = np.random.default_rng(7), 0.2, 0.1

        def density_and_cost(speeds, at=None):
            rows, paid = [np.asarray(game.start)], []
            for own in speeds:
                rate = (own / h + 0.1 / h**2) * length
                matrix = np.diag(1 + rate.sum(0))
                for cell in range(7):
                    matrix[cell, (cell + 1) % 7] -= rate[0, cell]
                    matrix[cell, (cell - 1) % 7] -= rate[1, cell]
                rows.append(np.linalg.solve(matrix.T, rows[-1]))
                paid.append((own**2).sum(0) / 2)
            running, ending = game.costs(np.stack(rows) if at is None else at)
            cost = sum(length * row @ (f + p) for row, f, p in zip(rows[1:], running, paid, strict=True))
            return np.stack(rows), h * (cost + rows[-1] @ ending)

        speeds = rng.random((6, 2, 7))
        density, cost = density_and_cost(speeds)
        loss, relative = exploitability(game, speeds[None])
        least = cost - loss
        assert 0 < relative < loss
        for scale in (0.0, 0.3, 1.0):
            for _ in range(30):
                assert density_and_cost(scale * rng.random((6, 2, 7)), at=density)[1] >= least
        running, ending = game.costs(density)
        value = best_value(Chain(game), 1.0, running, ending)
        reply = np.stack([gain(game, 1.0, Chain(game).slopes(now))[0] for now in value[:-1]])
        np.testing.assert_allclose(density_and_cost(reply, at=density)[1], least, rtol=1e-10)


class TestBadInput:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"viscosity": -1.0}, "viscosity is -1"),
            ({"horizon": 0.0}, "horizon is 0"),
            ({"effort": Effort(0.0)}, "price of effort"),
            ({"start": 2 * bump(GRIDS["line"]), "effort": Effort()}, "mass is 2 instead of 1"),
            (
                {"start": np.where(np.arange(7) == 3, -1.0, 1.0), "effort": Effort()},
                r"kind 0 at time 0 is -1 in cell \(3,\)",
            ),
            ({"drift": np.full((1, 7), np.nan)}, r"drift along axis 0 is not finite in cell \(0,\)"),
            (
                {"coupling": lambda t, x, m: jnp.where(x[0] > 0.8, jnp.nan, m)},
                r"cost at time 0.1 is nan in cell \(4,\)",
            ),
            ({"final": lambda x, m: jnp.log(0 * m)}, r"final cost is -inf in cell \(0,\)"),
        ],
    )
    def test_a_wrong_number_is_named(self, changes, message):
        with pytest.raises(InputError, match=message):
            validate(moderate(GRIDS["line"], **changes))

    def test_mass_in_a_blocked_cell_is_named(self):
        with pytest.raises(InputError, match=r"blocked cell \(2, 1\)"):
            validate(moderate(GRIDS["obstacle"], start=np.full((5, 6), 0.5), effort=Effort()))

    @pytest.mark.parametrize(
        ("build", "message"),
        [
            (lambda: Grid((2,), (1.0,)), "at least 3 cells"),
            (lambda: Grid((5, 5, 5), (1.0, 1.0, 1.0)), "one axis or two"),
            (lambda: Grid((5, 5), (1.0,)), "equally many axes"),
            (lambda: Grid((5,), (1.0,), blocked=[True]), "blocked has shape"),
            (lambda: Effort(power=1.0), "power above 1"),
            (lambda: moderate(GRIDS["line"], start=np.ones(6)), "start has shape"),
            (lambda: moderate(GRIDS["line"], effort=Effort(np.ones(3))), "3,.* prices for 2 kinds"),
            (lambda: moderate(GRIDS["line"], drift=np.ones(7)), "drift has shape"),
            (lambda: moderate(GRIDS["line"], steps=0), "steps is 0"),
            (lambda: validate(moderate(GRIDS["line"], coupling=lambda t, x, m: m[:3])), "one cost per cell"),
        ],
    )
    def test_a_wrong_structure_is_a_value_error(self, build, message):
        with pytest.raises(ValueError, match=message):
            build()
