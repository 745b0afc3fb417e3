"""Players who stay near the crowd's mean at a quadratic cost: on a grid of places, and its closed form without one."""

from dataclasses import dataclass

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike

from ..problem import AbstractGame, Listed


class LinearQuadratic(AbstractGame):
    """The linear-quadratic game on a grid: x' = x + (k(m − x) + a)δ + √δ·ε, m the crowd's mean.

    A decision earns δ(−a²/2 + q·a(m − x) − κ(m − x)²/2), and the end −c(m − x)²/2. The next place is split between the
    two nearest ones of the grid, so that its mean is exact; that converges to `riccati` as the grid becomes fine.
    Without `between` it is the nearest one, as in the literature, and then moves jump as the mean shifts.

    With `between=False` it is the game `linear_quadratic` of MFGLib 0.3.0, up to which side of a tie is nearest: its
    noise is ε = σ²j, j = −3 … 3, with weights exp(−σ²j²/2), σ = 3; and its reward at t = T = 3 is the final one here.

    Args:
        places: x of each state, rising in equal steps.
        controls: a of each action.
        jumps: The values of ε.
        weights: Their probabilities; they are divided by their sum.
        begin: The first density; even by default.
        step: δ, time per step.
        reversion: k, how fast x is pulled to the mean.
        tilt: q, what it earns to steer to the mean.
        spread: κ, what distance from the mean costs.
        last: c, what it costs at the end.
        horizon: T, the number of decisions.
        between: Whether places between two of the grid are split between them.

    Raises:
        ValueError: if places do not rise in equal steps or the noise has not one weight per value.

    Reference:
        Perrin et al. (2020), Fictitious play for mean field games, section 4.1; Carmona, Fouque & Sun (2015).
    """

    places: Float[Array, " S"]
    controls: Float[Array, " A"]
    jumps: Float[Array, " J"]
    weights: Float[Array, " J"]
    begin: Float[Array, " S"]
    step: float | Array
    reversion: float | Array
    tilt: float | Array
    spread: float | Array
    last: float | Array
    horizon: int = eqx.field(static=True)
    between: bool = eqx.field(static=True)

    def __init__(
        self,
        places: ArrayLike | None = None,
        controls: ArrayLike | None = None,
        *,
        jumps: ArrayLike | None = None,
        weights: ArrayLike | None = None,
        begin: ArrayLike | None = None,
        step: float | Array = 0.1,
        reversion: float | Array = 1.0,
        tilt: float | Array = 0.01,
        spread: float | Array = 0.5,
        last: float | Array = 1.0,
        horizon: int = 3,
        between: bool = True,
    ):
        where = np.arange(-5, 6) if places is None else np.asarray(places, float)
        gaps = np.diff(where)
        if where.size < 2 or gaps.min() <= 0 or not np.allclose(gaps, gaps[0]):
            raise ValueError("places rise in equal steps, and there are at least two")
        if (jumps is None) != (weights is None):
            raise ValueError("give the noise's values and their weights together")
        if jumps is None or weights is None:
            jumps, weights = _plain_noise(3.0)
        chances = np.asarray(weights, float)
        if np.shape(jumps) != chances.shape:
            raise ValueError(f"{np.size(jumps)} values of the noise and {chances.size} weights")
        density = np.full(where.size, 1 / where.size) if begin is None else np.asarray(begin, float)
        self.places = jnp.asarray(where, float)
        self.controls = jnp.asarray(np.asarray(np.arange(-2, 3) if controls is None else controls, float))
        self.jumps = jnp.asarray(np.asarray(jumps, float))
        self.weights = jnp.asarray(chances / chances.sum(), float)
        self.begin = jnp.asarray(density, float)
        self.step, self.reversion, self.tilt, self.spread, self.last = step, reversion, tilt, spread, last
        self.horizon, self.between = horizon, between

    @property
    def states(self) -> int:
        """S, the number of places."""
        return self.places.size

    @property
    def actions(self) -> int:
        """A, the number of controls."""
        return self.controls.size

    def start(self):
        return self.begin

    def moves(self, time, density):
        del time
        dtype = density.dtype
        x, delta = self.places.astype(dtype), jnp.asarray(self.step, dtype)
        drift = jnp.asarray(self.reversion, dtype) * (self._mean(density) - x)
        after = (x + drift * delta)[:, None] + (self.controls.astype(dtype) * delta)[None, :]
        blown = after[:, :, None] + (self.jumps.astype(dtype) * jnp.sqrt(delta))[None, None, :]
        weights = jnp.broadcast_to(self.weights.astype(dtype), blown.shape)
        # The number of a place, not yet whole.
        number = jnp.clip((blown - x[0]) / (x[1] - x[0]), 0, self.states - 1)
        if not self.between:
            # Ties are common at a mean of zero, and rounding errors must not decide them.
            nearest = jnp.clip(jnp.floor(number + 0.5 + 1e-5), 0, self.states - 1)
            return Listed(nearest.astype(jnp.int32), weights)
        low = jnp.clip(jnp.floor(number), 0, self.states - 2)
        part = number - low
        low = low.astype(jnp.int32)
        targets = jnp.concatenate([low, low + 1], axis=-1)
        return Listed(targets, jnp.concatenate([weights * (1 - part), weights * part], axis=-1))

    def reward(self, time, density, kind):
        del time, kind
        dtype = density.dtype
        away = (self._mean(density) - self.places.astype(dtype))[:, None]
        a = self.controls.astype(dtype)[None, :]
        tilt, spread = jnp.asarray(self.tilt, dtype), jnp.asarray(self.spread, dtype)
        steered = jnp.broadcast_to(-0.5 * a**2, (self.states, self.actions)) + tilt * (away @ a)
        return jnp.asarray(self.step, dtype) * (steered - jnp.broadcast_to(0.5 * spread * away**2, steered.shape))

    def final(self, density, kind):
        del kind
        away = self._mean(density) - self.places.astype(density.dtype)
        return -0.5 * jnp.asarray(self.last, density.dtype) * away**2

    def _mean(self, density: Float[Array, " S"]) -> Float[Array, ""]:
        return density @ self.places.astype(density.dtype)


@dataclass(frozen=True)
class Riccati:
    """The equilibrium without a grid: V_t(x) = −(curvature_t (x − m)²)/2 − offset_t, a_t = −gain_t (x − m).

    The mean m does not move.

    Args:
        curvature: Shape (T + 1,).
        offset: What the noise costs, shape (T + 1,).
        gain: Shape (T,).
    """

    curvature: np.ndarray
    offset: np.ndarray
    gain: np.ndarray


def riccati(game: LinearQuadratic) -> Riccati:
    """Return the closed form of the linear-quadratic game with a continuum of places and controls.

    With P the next curvature, K = 1 − kδ and g = (q + P·K)/(1 + P·δ): the gain is g, the curvature becomes
    κδ + P·K² − δ(q + P·K)²/(1 + P·δ), and the offset grows by P·δ·Var(ε)/2. By symmetry the controls of the crowd
    cancel, so that its mean stays where it starts and a player's answer to it is the answer to a constant.

    Args:
        game: Its constants; its grids of places and controls are not used.

    Reference:
        Carmona, Fouque & Sun (2015), section 3, here in discrete time.
    """
    delta, k, q = float(game.step), float(game.reversion), float(game.tilt)
    kappa, curvature, offset = float(game.spread), float(game.last), 0.0
    jumps, weights = np.asarray(game.jumps, float), np.asarray(game.weights, float)
    variance = float(weights @ jumps**2 - (weights @ jumps) ** 2)
    curvatures, offsets, gains = [curvature], [offset], list[float]()
    for _ in range(game.horizon):
        keep = 1 - k * delta
        force = q + curvature * keep
        offset += 0.5 * curvature * delta * variance
        gains.append(force / (1 + curvature * delta))
        curvature = kappa * delta + curvature * keep**2 - delta * force**2 / (1 + curvature * delta)
        curvatures.append(curvature)
        offsets.append(offset)
    return Riccati(np.array(curvatures[::-1]), np.array(offsets[::-1]), np.array(gains[::-1]))


def _plain_noise(sigma: float) -> tuple[Int[np.ndarray, " J"], np.ndarray]:
    """Return the noise of the literature's example: σ times the points −3σ … 3σ of a standard normal variable."""
    points = sigma * np.arange(-3, 4)
    return sigma * points, np.exp(-0.5 * points**2)
