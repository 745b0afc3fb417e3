"""Players in continuous time answer the flow of densities; the flow moves to where they go.

The Hamilton-Jacobi-Bellman and Fokker-Planck equations on a grid: monotone upwind differences, implicit in time. In
each cell a player chooses a speed a_j ≥ 0 towards each of its 2d neighbours j, which is reached at rate
(a_j + b_j⁺)/h + ν/h². So the scheme is the exact optimality condition of a Markov chain, and a step of the density is
the exact transpose of the linearised step of the value:

    (I + τA(a)) uⁿ = uⁿ⁺¹ + τ (L(a) + F(mⁿ⁺¹)),   a = argmax_a Σ_j a_j (u − u_j)/h − L(a),      (I + τA(a))ᵀ mⁿ⁺¹ = mⁿ.

I + τA is an M-matrix with row sums one: the density stays positive, and its mass what it was. First order in the width
of a cell and in the time step.

Reference:
    Achdou & Capuzzo-Dolcetta (2010), Mean field games: numerical methods, eq. 15-20; the implicit step by policy
    iteration (Howard 1960), which is Newton's method for it (Bokanowski, Maroso & Zidani 2009).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.lax.linalg import tridiagonal_solve
from jax.scipy.sparse.linalg import bicgstab
from jaxtyping import Array, Float, Int

from ..core.message import Sum
from ..core.system import AbstractSystem, State
from .continuous import ContinuousGame, Effort, Grid

MOST_SWEEPS = 60
"""Policy iterations of one implicit step; it takes about four."""

MOST_KRYLOV = 300
"""Krylov steps of one linear solve in two dimensions; it takes about ten."""


class Player(eqx.Module):
    """One kind of players.

    Args:
        start: Where they start; the mass is their share of the crowd.
        price: What effort costs them.
        value: What they expected to pay when they last looked, at t_0 … t_T; where their next answer starts from.
    """

    start: Float[Array, "..."]
    price: Float[Array, ""]
    value: Float[Array, "T1 ..."]


class Crowd(AbstractSystem):
    """Each kind's best answer to the flow of densities; the flow moves towards the sum of the flows that result.

    m ← m + damping·(Σ_k flow_k(m) − m). The signal is m at t_0 … t_T, shape (steps + 1, *cells).

    Args:
        game: The question; where players start and what effort costs are private to them.
        damping: In (0, 1].

    Reference:
        The best-reply iteration of Huang, Malhamé & Caines (2006), section 5, damped.
    """

    game: ContinuousGame
    damping: float | Array = 1.0

    def respond(self, agent, signal, key):
        del key
        return agent, Sum(flow(self.game, agent, values(self.game, agent, signal)))

    def propagate(self, signal, total):
        return signal + jnp.asarray(self.damping, signal.dtype) * (total - signal)


class Course(eqx.Module):
    """The signal of `ConjugateResidual`: where the flow is, where to probe, and what past probes taught.

    Args:
        density: m at t_0 … t_T.
        probe: The direction v along which the players are asked how their answer changes.
        tried: The last directions, each of length one.
        met: By how much the residual falls along each of them, v − Φ'(m)v.
        count: How many probes have been made.
        error: The largest |Φ(m) − m| relative to the largest density, before the last step.
    """

    density: Float[Array, "T1 ..."]
    probe: Float[Array, "T1 ..."]
    tried: Float[Array, "depth T1 ..."]
    met: Float[Array, "depth T1 ..."]
    count: Int[Array, ""]
    error: Float[Array, ""]


class ConjugateResidual(AbstractSystem):
    """Newton's method, one direction a round: players say where they go and how that changes along a direction.

    Let Φ(m) be the crowd's answer to m and r = Φ(m) − m. The step is the combination of the last directions along
    which the linearised residual is least, and the next direction is what would remain of it. If F' is symmetric and
    positive then Φ' = −S·F' with S symmetric and positive too, since the two equations are each other's transpose: the
    operator I − Φ' has real eigenvalues of at least one. Newton's weakness stays: far from rest the first rounds may
    wander, and a coupling that is steep where nearly nobody is, log m in empty cells, may never come to rest.

    A step that would take more than nine tenths of a density is cut there, so between rounds the signal's mass is not
    exactly one; at rest it is, and answers are flows of the players themselves.

    Args:
        game: As for `Crowd`.

    Reference:
        He, Zhang, Saad & Xi (2022), NLTGCR: a class of nonlinear acceleration procedures based on conjugate
        residuals, algorithm 2; for linear problems, generalised conjugate residuals (Eisenstat, Elman & Schultz 1983).
    """

    game: ContinuousGame

    def respond(self, agent, signal, key):
        del key

        def answer(density):
            value = values(self.game, agent, density)
            return flow(self.game, agent, value), value

        there, change, value = jax.jvp(answer, (signal.density,), (signal.probe,), has_aux=True)
        agent = eqx.tree_at(lambda agent: agent.value, agent, value)
        return agent, {"flow": Sum(there), "change": Sum(change)}

    def propagate(self, signal, total):
        density, dtype = signal.density, signal.density.dtype
        residual = total["flow"] - density
        depth = signal.tried.shape[0]
        slot = signal.count % depth
        tried = signal.tried.at[slot].set(signal.probe)
        met = signal.met.at[slot].set(signal.probe - total["change"])
        known = jnp.arange(depth, dtype=jnp.int32) <= signal.count
        flat = met.reshape(depth, -1)
        weights = _least(flat @ flat.T, flat @ residual.ravel(), known)
        step = jnp.tensordot(weights, tried, 1)
        left = residual - jnp.tensordot(weights, met, 1)
        length = jnp.sqrt(jnp.sum(left**2))
        probe = left / jnp.maximum(length, jnp.finfo(dtype).tiny)
        # A linear step may leave the domain of densities.
        after = jnp.maximum(density + step, 0.1 * density)
        error = jnp.max(jnp.abs(residual)) / jnp.max(jnp.abs(density))
        return Course(after, probe, tried, met, signal.count + 1, error)


def _least(gram: Array, right: Array, known: Array) -> Array:
    """Return the weights of the known directions that leave the least residual."""
    scale = jnp.sqrt(jnp.where(known, jnp.diagonal(gram), 1.0))
    scale = jnp.where(scale > 0, scale, 1.0)
    both = known[:, None] & known[None, :]
    gram = jnp.where(both, gram / (scale[:, None] * scale[None, :]), 0.0)
    ridge = 64 * float(jnp.finfo(gram.dtype).eps)
    gram = gram + jnp.diag(jnp.where(known, ridge, 1.0).astype(gram.dtype))
    return jnp.where(known, jnp.linalg.solve(gram, jnp.where(known, right / scale, 0.0)), 0.0) / scale


def begin(game: ContinuousGame) -> State:
    """Return the players, and the flow if nobody moved of its own will: drift and noise alone."""
    dtype = jnp.result_type(float)
    start = jnp.asarray(game.start, dtype).reshape(game.kinds, *game.grid.cells)
    price = jnp.broadcast_to(jnp.asarray(game.effort.price, dtype), (game.kinds,))
    nothing = jnp.zeros((game.steps + 1, *game.grid.cells), dtype)
    density = flow(game, Player(jnp.sum(start, axis=0), jnp.ones((), dtype), nothing), nothing)
    return State(Player(start, price, jnp.broadcast_to(nothing, (game.kinds, *nothing.shape))), density)


def on_course(state: State, depth: int) -> State:
    """Return a state of `Crowd` as one of `ConjugateResidual` that remembers `depth` directions."""
    density = state.signal
    # Nothing is known yet; along no direction nothing changes.
    none = jnp.zeros((depth, *density.shape), density.dtype)
    far = jnp.asarray(jnp.inf, density.dtype)
    return State(state.agents, Course(density, none[0], none, none, jnp.int32(0), far), state.round)


def values(game: ContinuousGame, player: Player, density: Float[Array, "T1 ..."]) -> Float[Array, "T1 ..."]:
    """Return what a player still expects to pay at t_0 … t_T if it plays best against a flow: the HJB equation."""
    last = game.ending(density[-1])

    def back(after, step):
        index, crowd, guess = step
        now = step_back(game, player, after, game.running(index, crowd), guess)
        return now, now

    _, found = lax.scan(back, last, (jnp.arange(game.steps), density[1:], player.value[:-1]), reverse=True)
    return jnp.concatenate([found, last[None]])


def flow(game: ContinuousGame, player: Player, value: Float[Array, "T1 ..."]) -> Float[Array, "T1 ..."]:
    """Return the densities at t_0 … t_T of players who follow the slopes of a value: the Fokker-Planck equation."""

    def on(mass, value):
        speeds, _ = best(game.effort, player.price, slopes(game.grid, value))
        after = implicit(game.grid, rates(game, speeds), mass, transposed=True)
        # Only rounding is below zero, and only the last digits of a Krylov method miss the mass.
        after = jnp.maximum(after, 0.0)
        total = jnp.sum(after)
        after = after * jnp.where(total > 0, jnp.sum(mass) / jnp.where(total > 0, total, 1.0), 1.0)
        return after, after

    _, found = lax.scan(on, player.start, value[:-1])
    return jnp.concatenate([player.start[None], found])


def step_back(
    game: ContinuousGame,
    player: Player,
    after: Float[Array, "..."],
    cost: Float[Array, "..."],
    guess: Float[Array, "..."],
) -> Float[Array, "..."]:
    """Return the value one time step before `after`, by policy iteration to rounding from a guess."""
    inputs = game, player, after, cost
    still = jax.tree.map(lambda leaf: lax.stop_gradient(leaf) if eqx.is_inexact_array(leaf) else leaf, inputs)
    enough = float(jnp.finfo(after.dtype).eps) ** 0.5

    def again(loop):
        value, _, sweep = loop
        better = _improved(still, value)
        return better, jnp.max(jnp.abs(better - value)) / (1 + jnp.max(jnp.abs(better))), sweep + 1

    first = (lax.stop_gradient(guess), jnp.asarray(jnp.inf, after.dtype), jnp.int32(0))
    found, _, _ = lax.while_loop(lambda loop: (loop[1] > enough) & (loop[2] < MOST_SWEEPS), again, first)
    # Convergence is quadratic, so once more squares the error. By the envelope theorem that step is also all a
    # derivative needs: to first order the value does not depend on the speeds it was found with.
    return _improved(inputs, found)


def _improved(inputs, value):
    """Return the value of following the best speeds against `value` for one step."""
    game, player, after, cost = inputs
    speeds, effort = best(game.effort, player.price, slopes(game.grid, value))
    length = jnp.asarray(game.step, after.dtype)
    moves = rates(game, speeds)
    # In Newton's form: the correction shrinks from sweep to sweep, so half the digits of it are enough.
    lacking = after + length * (cost + effort) - spread(game.grid, moves, value)
    return value + implicit(game.grid, moves, lacking, digits=0.5)


def directions(grid: Grid) -> list[tuple[int, int]]:
    """List the directions to neighbours as (axis, sign): along the first axis up and down, then the second."""
    return [(axis, sign) for axis in range(len(grid.cells)) for sign in (1, -1)]


def doors(grid: Grid) -> Float[Array, "j ..."]:
    """Return 1 where a cell's neighbour in each direction can be entered, and 0 where there is a wall."""
    free = jnp.ones(grid.cells, bool) if grid.blocked is None else ~jnp.asarray(grid.blocked)
    found = []
    for axis, sign in directions(grid):
        door = free & jnp.roll(free, -sign, axis)
        if not grid.periodic[axis]:
            edge = (slice(None),) * axis + (-1 if sign == 1 else 0,)
            door = door.at[edge].set(False)
        found.append(door)
    return jnp.stack(found).astype(jnp.result_type(float))


def slopes(grid: Grid, value: Float[Array, "..."]) -> Float[Array, "j ..."]:
    """Return by how much the value falls per unit of length towards each neighbour; 0 towards a wall."""
    falls = [(value - jnp.roll(value, -sign, axis)) / grid.width[axis] for axis, sign in directions(grid)]
    return doors(grid).astype(value.dtype) * jnp.stack(falls)


def best(effort: Effort, price: Float[Array, ""], slopes: Float[Array, "j ..."]) -> tuple[Array, Array]:
    """Return the speeds that maximise Σ_j a_j·slope_j − L(a), and their effort L(a) per unit of time."""
    downhill = jnp.maximum(slopes, 0.0)
    squared = jnp.sum(downhill**2, axis=0)
    # At zero slope the root has no derivative, and nobody moves.
    steep = jnp.sqrt(jnp.where(squared > 0, squared, 1.0))
    speed = jnp.minimum((steep / price) ** (effort.power - 1), effort.limit)
    speed = jnp.where(squared > 0, speed, 0.0)
    conjugate = effort.power / (effort.power - 1)
    return downhill * (speed / steep)[None], price * speed**conjugate / conjugate


def rates(game: ContinuousGame, speeds: Float[Array, "j ..."]) -> Float[Array, "j ..."]:
    """Return how many moves to each neighbour are expected within a time step."""
    grid, dtype = game.grid, speeds.dtype
    found = []
    for (axis, sign), speed in zip(directions(grid), speeds, strict=True):
        pushed = 0.0 if game.drift is None else jnp.maximum(sign * jnp.asarray(game.drift, dtype)[axis], 0.0)
        found.append((speed + pushed + jnp.asarray(game.viscosity, dtype) / grid.width[axis]) / grid.width[axis])
    return jnp.asarray(game.step, dtype) * doors(grid) * jnp.stack(found)


def spread(grid: Grid, rates: Float[Array, "j ..."], x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return (I + τA) x: the rows of values."""
    parts = zip(directions(grid), rates, strict=True)
    return x + sum(rate * (x - jnp.roll(x, -sign, axis)) for (axis, sign), rate in parts)


def carry(grid: Grid, rates: Float[Array, "j ..."], x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return (I + τA)ᵀ x: what leaves a cell arrives in its neighbour."""
    parts = zip(directions(grid), rates * x[None], strict=True)
    return x + sum(leaving - jnp.roll(leaving, sign, axis) for (axis, sign), leaving in parts)


def implicit(
    grid: Grid,
    rates: Float[Array, "j ..."],
    right: Float[Array, "..."],
    *,
    transposed: bool = False,
    digits: float = 0.9,
) -> Float[Array, "..."]:
    """Solve (I + τA) x = right, or its transpose; differentiable with respect to rates and right.

    Args:
        grid: One dimension is solved directly, two by a Krylov method.
        rates: As from `rates`.
        right: The right-hand side.
        transposed: Whether to solve with the transpose.
        digits: The share of the dtype's digits by which a Krylov method reduces the residual.
    """
    operator = carry if transposed else spread

    held, tol = lax.stop_gradient(rates), float(jnp.finfo(right.dtype).eps) ** digits
    return lax.custom_linear_solve(
        lambda x: operator(grid, rates, x),
        right,
        lambda _, b: _inverse(grid, held, b, transposed, tol),
        transpose_solve=lambda _, b: _inverse(grid, held, b, not transposed, tol),
    )


def _inverse(grid: Grid, rates: Array, right: Array, transposed: bool, tol: float) -> Array:
    """Solve with lines along one axis; in two dimensions they are what the Krylov method starts from."""
    lines = [_bands(grid, rates, axis, transposed) for axis in range(len(grid.cells))]

    def along_axes(x: Array) -> Array:
        for axis, (lower, middle, upper) in enumerate(lines):
            ordered = [jnp.moveaxis(band, axis, -1) for band in (lower, middle, upper, x)]
            x = jnp.moveaxis(_ring(*ordered) if grid.periodic[axis] else _line(*ordered), -1, axis)
        return x

    if len(grid.cells) == 1:
        return along_axes(right)
    operator = carry if transposed else spread
    found, _ = bicgstab(lambda x: operator(grid, rates, x), right, tol=tol, atol=0.0, maxiter=MOST_KRYLOV, M=along_axes)
    return found


def _bands(grid: Grid, rates: Array, axis: int, transposed: bool) -> tuple[Array, Array, Array]:
    """Return the lower, middle and upper band of I + τA along one axis; on a ring the ends are the corners."""
    up, down = rates[2 * axis], rates[2 * axis + 1]
    middle = 1 + up + down
    if transposed:
        return -jnp.roll(up, 1, axis), middle, -jnp.roll(down, -1, axis)
    return -down, middle, -up


def _line(lower: Array, middle: Array, upper: Array, right: Array) -> Array:
    """Solve tridiagonal systems along the last axis."""
    return tridiagonal_solve(lower, middle, upper, right[..., None])[..., 0]


def _ring(lower: Array, middle: Array, upper: Array, right: Array) -> Array:
    """Solve cyclic tridiagonal systems along the last axis (Sherman & Morrison 1950)."""
    first, last = lower[..., :1], upper[..., -1:]
    head = -middle[..., :1]
    inner = middle.at[..., :1].add(-head).at[..., -1:].add(-last * first / head)
    border = jnp.zeros_like(middle).at[..., :1].set(head).at[..., -1:].set(last)
    plain, turned = _line(lower, inner, upper, right), _line(lower, inner, upper, border)
    along = lambda x: x[..., :1] + first / head * x[..., -1:]  # noqa: E731
    return plain - along(plain) / (1 + along(turned)) * turned
