"""Systemic risk: banks that lend to one another, with the game of N banks and that of the limit both solved exactly.

Agents: banks, each with its log-reserve
Signal: the mean log-reserve, the time, and the least mean so far
Reads: the mean, and how far the bank itself is from it
Emits: its log-reserve
Law of motion: the mean is the sum divided by N; a systemic event is a mean that falls to the threshold
Conserves: nothing; the mean is a Brownian motion, whatever the banks pay for
Rest: none; the game is over at time `length`
Message size: one number
Source: Carmona, Fouque & Sun 2015, Mean field games and systemic risk, arXiv 1308.2172

Bank i chooses α_i, how fast to borrow from (lend to) the central bank:

    dX_i = [a (X̄ − X_i) + α_i] dt + σ (√(1−ρ²) dW_i + ρ dW_0)
    J_i  = E ∫ ½α_i² − q α_i (X̄ − X_i) + ½ε (X̄ − X_i)² dt + ½c (X̄_T − X_i,T)²          (a cost, q² ≤ ε)

In every equilibrium α_i = (q + κ η_t)(X̄ − X_i), where η solves η' = 2b η + k η² − (ε − q²), η_T = c, with

    closed loop among N   κ = 1 − 1/N   b = a + q               k = 1 − 1/N²
    open loop among N     κ = 1 − 1/N   b = a + (1 − 1/2N) q    k = 1 − 1/N
    in the limit          κ = 1         b = a + q               k = 1

Times are in units of `length`'s; costs are to be made small.
"""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate
import scipy.stats
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Float, Key

from ..core.message import Sum
from ..core.result import Status
from ..core.run import run
from ..core.system import AbstractSystem, State
from ..errors import InputError


@dataclasses.dataclass(frozen=True)
class Banks:
    """The constants of the game of Carmona, Fouque & Sun.

    Args:
        reversion: a ≥ 0, the rate at which banks lend to one another of themselves.
        incentive: q ≥ 0, the central bank's encouragement to borrow when low.
        spread: ε ≥ q², the running cost of being away from the mean.
        terminal: c ≥ 0, the cost of being away from it at the end.
        volatility: σ > 0.
        common: ρ in [0, 1], how much of the noise is the same for all.
        length: T > 0.

    Raises:
        InputError: if a constant is out of range.
    """

    reversion: float = 1.0
    incentive: float = 1.0
    spread: float = 10.0
    terminal: float = 1.0
    volatility: float = 1.0
    common: float = 0.2
    length: float = 1.0

    def __post_init__(self):
        limits = {
            "reversion": (0, math.inf),
            "incentive": (0, math.inf),
            "spread": (self.incentive**2, math.inf),
            "terminal": (0, math.inf),
            "volatility": (0, math.inf),
            "common": (0, 1),
            "length": (0, math.inf),
        }
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            positive = name in ("volatility", "length")
            if not (least <= value <= most and math.isfinite(value)) or (positive and value == 0):
                between = f"at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
                raise InputError(f"{name} is {value:g}; it must be {'positive' if positive else between}")

    def _riccati(self, banks: int | None, open_loop: bool) -> tuple[float, float, float]:
        """Return b, k and the source ε − q²; banks=None is the limit."""
        inverse = _inverse(banks)
        source = self.spread - self.incentive**2
        if open_loop:
            return self.reversion + (1 - inverse / 2) * self.incentive, 1 - inverse, source
        return self.reversion + self.incentive, 1 - inverse**2, source

    def slope(self, times: ArrayLike, banks: int | None = None, *, open_loop: bool = False) -> Float[np.ndarray, "*n"]:
        """Return η at the given times, in closed form.

        With δ± = −b ± √(b² + k(ε − q²)) and E = exp((δ₊ − δ₋)(T − t)),

            η_t = [−(ε − q²)(E − 1) − c(δ₊E − δ₋)] / [(δ₋E − δ₊) − ck(E − 1)]

        Args:
            times: Between 0 and T.
            banks: N; None for the limit of many.
            open_loop: Whether banks commit to α as a process, rather than to a rule for it.

        Reference:
            Carmona, Fouque & Sun (2015), equation 3.14 for closed loop; the others by the same formula.
        """
        b, k, source = self._riccati(banks, open_loop)
        root, left = math.sqrt(b * b + k * source), self.length - np.asarray(times, np.float64)
        if root == 0:
            return np.asarray((self.terminal + source * left) / (1 + k * self.terminal * left))
        # Divided by E throughout, so that long games do not overflow.
        fade = np.exp(-2 * root * left)
        plus, minus = -b + root, -b - root
        over = source * (1 - fade) + self.terminal * (plus - minus * fade)
        return np.asarray(over / (plus * fade - minus + self.terminal * k * (1 - fade)))

    def gain(self, times: ArrayLike, banks: int | None = None, *, open_loop: bool = False) -> Float[np.ndarray, "*n"]:
        """Return the equilibrium's feedback q + κη: what a bank borrows per unit that it is below the mean."""
        return self.incentive + (1 - _inverse(banks)) * self.slope(times, banks, open_loop=open_loop)

    def cost(self, banks: int | None = None, *, variance: float = 0.0) -> float:
        """Return a bank's expected cost in the closed-loop equilibrium among N, or in the limit.

        V = ½η_0 E[(x̄ − x_i)²] + ½σ²(1 − ρ²)(1 − 1/N) ∫η dt, where all reserves start with the given variance about
        their mean.

        Args:
            banks: N; None for the limit.
            variance: E[(x̄ − x_i)²] at time 0.

        Reference:
            Carmona, Fouque & Sun (2015), section 3.2.
        """
        return self._paid(lambda t: self.slope(t, banks), banks, variance)

    def _paid(self, slope, banks: int | None, variance: float) -> float:
        area = scipy.integrate.quad(lambda t: float(slope(t)), 0, self.length, epsabs=1e-12, epsrel=1e-12)[0]
        return 0.5 * float(slope(0.0)) * variance + 0.5 * self._scatter(banks) * area

    def _scatter(self, banks: int | None) -> float:
        """Return the rate at which noise drives a bank's distance from the mean: σ²(1 − ρ²)(1 − 1/N)."""
        return self.volatility**2 * (1 - self.common**2) * (1 - _inverse(banks))

    def regret(self, banks: int, *, variance: float = 0.0) -> float:
        """Return what one of N banks can save at most, where all act by the limit's rule α = (q + η)(X̄ − X_i).

        Both the cost of staying and that of the best deviation are linear-quadratic in x̄ − x_i, so exact up to the
        integration of their Riccati equations. This is the ε of the limit's ε-Nash equilibrium; it falls as 1/N².

        Args:
            banks: N ≥ 2.
            variance: E[(x̄ − x_i)²] at time 0.
        """
        _at_least_two(banks)
        own = 1 - 1 / banks

        def rates(remaining: float, values: np.ndarray) -> list[float]:
            """Of the saving D = W − P from here on, where W stays and P deviates; backwards in time."""
            best, saving = values[0], values[1]
            rule = float(self.gain(self.length - remaining))
            answer = self.incentive + own * best
            drift = self.reversion + rule / banks
            best_rate = -2 * best * drift - answer**2 + self.spread
            # Staying costs more by the square of how far the rule is from the best answer.
            saving_rate = -2 * saving * (drift + own * rule) + (rule - answer) ** 2
            return [best_rate, saving_rate, saving]

        ended = scipy.integrate.solve_ivp(
            rates, (0, self.length), [self.terminal, 0.0, 0.0], method="DOP853", rtol=1e-11, atol=1e-14
        )
        _, saving, area = ended.y[:, -1]
        return float(0.5 * saving * variance + 0.5 * self._scatter(banks) * area)

    def systemic_risk(self, banks: int | None, threshold: float, *, mean: float = 0.0) -> float:
        """Return the probability that the mean log-reserve falls to a threshold by time T.

        The mean is a Brownian motion of variance σ²(ρ² + (1 − ρ²)/N) per unit of time, whatever a and α:
        2Φ((threshold − mean) / (σ √(ρ² + (1 − ρ²)/N) √T)).

        Args:
            banks: N; None for the limit.
            threshold: Below the first mean.
            mean: The first mean.

        Reference:
            Carmona, Fouque & Sun (2015), section 2.2, by the reflection principle.
        """
        if not threshold < mean:
            raise InputError(f"the threshold {threshold:g} must lie below the first mean {mean:g}")
        rate = self.volatility**2 * (self.common**2 + (1 - self.common**2) * _inverse(banks))
        if rate == 0:
            return 0.0
        return float(2 * scipy.stats.norm.cdf((threshold - mean) / math.sqrt(rate * self.length)))


def _inverse(banks: int | None) -> float:
    if banks is not None and banks < 1:
        raise InputError(f"{banks} banks; there must be at least one")
    return 0.0 if banks is None else 1 / banks


def _at_least_two(banks: int) -> None:
    if banks < 2:
        raise InputError(f"{banks} banks; lending needs two")


# --- On the engine


class Ledger(eqx.Module):
    """The signal: the mean log-reserve, how many steps have passed, and the least mean so far."""

    mean: Float[Array, ""]
    time: Array
    least: Float[Array, ""]


class Lending(AbstractSystem):
    """Banks in equal small steps (Euler and Maruyama), by a rule α = gain_t · (mean − own).

    Args:
        reversion: a.
        gain: The rule at the beginning of each step.
        step: The length of a step.
        own_noise: σ √(1 − ρ²) √step.
        shock: The common noise of each step, known to nobody in advance: σρ times a Brownian motion's increments.
    """

    reversion: Float[Array, ""]
    gain: Float[Array, " steps"]
    step: Float[Array, ""]
    own_noise: Float[Array, ""]
    shock: Float[Array, " steps"]

    def respond(self, agent, signal, key):
        pull = (self.reversion + self.gain[signal.time]) * (signal.mean - agent)
        noise = self.own_noise * jax.random.normal(key, dtype=agent.dtype)
        after = agent + pull * self.step + noise + self.shock[signal.time]
        return after, {"reserves": Sum(after), "banks": Sum(jnp.ones_like(after))}

    def propagate(self, signal, total):
        mean = total["reserves"] / total["banks"]
        return Ledger(mean, signal.time + 1, jnp.minimum(signal.least, mean))


@dataclasses.dataclass(frozen=True, eq=False)
class LendingRun:
    """What banks did.

    Args:
        mean: Their mean log-reserve at the end of each step, from time 0 on.
        scatter: The mean over banks of (X̄ − X_i)², likewise.
        reserves: Log-reserves at the end.
        least: The least mean seen.
        status: How the run ended.
    """

    mean: Float[np.ndarray, " U"]
    scatter: Float[np.ndarray, " U"]
    reserves: Float[np.ndarray, " N"]
    least: float
    status: Status


def simulate(
    banks: Banks,
    reserves: ArrayLike,
    steps: int = 200,
    *,
    limit: bool = False,
    key: Key[Array, ""] | None = None,
    mesh: Mesh | None = None,
) -> LendingRun:
    """Let actual banks lend, in the closed-loop equilibrium among them or by the limit's rule.

    Args:
        banks: The constants.
        reserves: Log-reserves at time 0, one per bank.
        steps: Into how many equal parts time is cut; the error of a step is of the order of its length.
        limit: Whether they act by the limit's rule.
        key: Randomness; `jax.random.key(0)` by default.
        mesh: As for `catallax.run`.

    Raises:
        InputError: for fewer than two banks or a reserve that is not finite.
    """
    reserves = jnp.asarray(reserves, jnp.result_type(float))
    _at_least_two(reserves.shape[0])
    if not bool(jnp.all(jnp.isfinite(reserves))):
        raise InputError(f"bank {int(jnp.argmin(jnp.isfinite(reserves)))}: its log-reserve is not finite")
    own, common = jax.random.split(jax.random.key(0) if key is None else key)
    dtype, length = reserves.dtype, banks.length / steps
    gain = banks.gain(np.arange(steps) * length, None if limit else reserves.shape[0])
    increments = jax.random.normal(common, (steps,), dtype) * math.sqrt(length)
    system = Lending(
        jnp.asarray(banks.reversion, dtype),
        jnp.asarray(gain, dtype),
        jnp.asarray(length, dtype),
        jnp.asarray(banks.volatility * math.sqrt((1 - banks.common**2) * length), dtype),
        banks.volatility * banks.common * increments,
    )
    mean = jnp.mean(reserves)
    state = State(reserves, Ledger(mean, jnp.int32(0), mean))
    ended = run(system, state, steps, key=own, record=_seen, mesh=mesh)
    mean, scatter = (
        np.concatenate([np.asarray(one)[None], np.asarray(rest)])
        for one, rest in zip(_seen(state), ended.record, strict=True)
    )
    return LendingRun(mean, scatter, np.asarray(ended.state.agents), float(ended.state.signal.least), ended.status)


def _seen(state: State) -> tuple[Array, Array]:
    return state.signal.mean, jnp.mean((state.signal.mean - state.agents) ** 2)
