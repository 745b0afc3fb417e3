"""Objectives of the experts' own against the global one, and trade against none: who is better off?

Regimes that are compared, with equal beginnings and equal batches for the same seed:

* "global": the market assigns tokens, all parameters follow the network's loss.
* "gain", "marginal", "revenue": the market assigns tokens, experts follow their own objective (`objectives.py`).
* "no trade": every byte is bound to experts by a fixed table (the router "hash"); all follow the network's loss.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .compare import BYTE_BITS, DOMAIN_BITS, LOSS, Comparison, interval, measured, need_seeds, taught
from .evaluate import Evaluation, evaluate
from .judge import SAMPLE
from .measure import redundancy
from .model import Shape
from .surgery import add, exiled, remove
from .text import Corpus, split, windows
from .trade import LOSSES, accounts, answers
from .train import Settings, Training, train

NO_TRADE = "no trade"

REGIMES = ("global", NO_TRADE, "gain", "marginal", "revenue")
"""What is compared; see this module."""

MEASURES = {
    LOSS: -1,
    BYTE_BITS: 1,
    DOMAIN_BITS: 1,
    "redundancy": -1,
    "gain per token served": 1,
    "revenue per token served": 1,
    "loss added by removing one": -1,
    "loss left after removal": -1,
    "loss won by an entrant": 1,
    "load of the entrant": 1,
}
"""What is measured, and which way is better. Beyond `compare.MEASURES`: redundancy (`measure.redundancy`); what the
tokens of an expert gain from it alone and what it would earn at its best posted price, nats (`trade.accounts`), means
over experts; the validation loss that an infinite price on one expert adds, at once, mean over experts; what is left
of it when the expert of largest gain is taken out and training goes on, beside training that goes on with all; what a
new expert takes off that loss, and its load over the mean load; these at capacity 1.25."""


@dataclasses.dataclass(frozen=True, eq=False)
class Regimes:
    """What was measured.

    Args:
        comparison: Regimes by `MEASURES`.
        gain: What each expert's tokens gain from it, nats per token of the sample, shape (regimes, seeds, blocks,
            experts); experts of one seed begin alike under all regimes.
        revenue: What each expert would earn at its best posted price, of the same shape.
        steps: Steps after an expert left or entered, at which the curves below were taken, from 0.
        curves: Validation loss over these steps by "control" (all experts), "removed" and "entered", each of shape
            (regimes, seeds, points).
    """

    comparison: Comparison
    gain: np.ndarray
    revenue: np.ndarray
    steps: np.ndarray
    curves: dict[str, np.ndarray]

    def pareto(self, before: str, after: str) -> "Pareto":
        """Return who is better off under one regime than under another."""
        names = self.comparison.methods
        first, second = names.index(before), names.index(after)
        losses = self.comparison.losses[second] - self.comparison.losses[first]
        domains = {
            name: (*interval(difference), _outcome(*interval(difference)))
            for name, difference in zip(self.comparison.domains, losses.T, strict=True)
        }
        shares = {
            name: interval(np.mean(account[second] > account[first], axis=(1, 2)))
            for name, account in (("gain", self.gain), ("revenue", self.revenue))
        }
        worst = min(float(np.min(account[second] - account[first])) for account in (self.gain, self.revenue))
        improvement = worst >= 0 and all(outcome != "worse" for *_, outcome in domains.values())
        return Pareto(before, after, domains, shares, improvement)


@dataclasses.dataclass(frozen=True)
class Pareto:
    """Who is better off under one regime than under another.

    Args:
        before, after: The regimes.
        domains: Of each domain the validation loss after minus before, half of the 95% confidence interval over
            seeds, and "better", "worse" or "open".
        experts: Share of experts better off after, by "gain" and "revenue", each with half of its interval.
        improvement: Whether no domain is clearly worse off, and no expert in any seed has less gain or revenue.
    """

    before: str
    after: str
    domains: dict[str, tuple[float, float, str]]
    experts: dict[str, tuple[float, float]]
    improvement: bool

    def lines(self) -> list[str]:
        """Return the findings as sentences."""
        found = [
            f"{name}: {difference:+.4f} ± {half:.4f} nats/byte under {self.after} beside {self.before}: {outcome}"
            for name, (difference, half, outcome) in self.domains.items()
        ]
        found += [
            f"experts with more {name} under {self.after} than under {self.before}: {mean:.0%} ± {half:.0%}"
            for name, (mean, half) in self.experts.items()
        ]
        return [*found, f"a Pareto improvement: {'yes' if self.improvement else 'no'}"]


def compare_objectives(
    corpus: Corpus,
    regimes: Sequence[str] = REGIMES,
    *,
    shape: Shape | None = None,
    settings: Settings | None = None,
    seeds: int = 5,
    steps: int = 1000,
    further: int = 200,
    points: int = 5,
    held_windows: int | None = None,
    watch: Callable[[str], Any] | None = None,
) -> Regimes:
    """Train under each regime, once for each seed; measure; let an expert leave, let one enter, and train on.

    Args:
        corpus: Texts; the last tenth of each validates.
        regimes: Some of `REGIMES`; the others are compared with the first.
        shape: The model's sizes, by default `Shape()`; its router is replaced.
        settings: How all learn, by default `Settings()`.
        seeds: How many times; two at least.
        steps: Steps of each training.
        further: Steps after an expert left or entered.
        points: So often the loss is measured over these; a divisor of `further`.
        held_windows: At most so many validation windows of each domain.
        watch: Called with a line that says what was done.

    Raises:
        InputError: if there are too few seeds, a domain is too short, or a training's loss is not finite.
        ValueError: if `points` does not divide `further`, or there is no such regime.
    """
    need_seeds(seeds)
    if points < 1 or further % points:
        raise ValueError(f"{points} points do not divide {further} further steps")
    for regime in regimes:
        if regime not in REGIMES:
            raise ValueError(f"there is no regime {regime!r}; there are {', '.join(REGIMES)}")
    shape, settings, rows = shape or Shape(), settings or Settings(), []
    for regime in regimes:
        for seed in range(seeds):
            trial = _Trial(corpus, shape, settings, steps, further, points, held_windows, regime, seed)
            rows.append(trial.run())
            if watch is not None:
                watch(f"{regime}, seed {seed}: {rows[-1].scores[LOSS]:.4f} nats/byte")
    counts = (len(regimes), seeds)

    def grid(parts: list[Any]) -> np.ndarray:
        return np.reshape(parts, (*counts, *np.shape(parts[0])))

    values = np.moveaxis(grid([[row.scores[measure] for measure in MEASURES] for row in rows]), 1, 2)
    return Regimes(
        Comparison(tuple(regimes), MEASURES, values, corpus.names, grid([row.losses for row in rows])),
        grid([row.gain for row in rows]),
        grid([row.revenue for row in rows]),
        np.arange(points + 1) * (further // points),
        {name: grid([row.curves[name] for row in rows]) for name in rows[0].curves},
    )


def _outcome(difference: float, half: float) -> str:
    return "open" if not abs(difference) > half else "better" if difference < 0 else "worse"


@dataclasses.dataclass(frozen=True, eq=False)
class _Row:
    """What one trial found."""

    scores: dict[str, float]
    losses: np.ndarray
    gain: np.ndarray
    revenue: np.ndarray
    curves: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class _Trial:
    """One regime and one seed."""

    corpus: Corpus
    shape: Shape
    settings: Settings
    steps: int
    further: int
    points: int
    windows: int | None
    regime: str
    seed: int

    def run(self) -> _Row:
        shape = dataclasses.replace(self.shape, router="hash" if self.regime == NO_TRADE else "market")
        trained, pace = taught(
            self.corpus, shape, self.settings, self.steps, self.seed, self.regime, objective=self.objective
        )
        found, losses, states = measured(trained, self.corpus, self.settings, pace, self.windows)
        some = windows(split(self.corpus)[1], shape.context, SAMPLE)[0]
        some = jnp.asarray(some, jnp.int32)
        trade: Any = jax.device_get(accounts(trained.model, states, some))
        served = np.maximum(trade.served, 1)
        most = int(np.argmax(trade.gain.sum(axis=0)))
        curves, load = self.upheaval(trained.training, most)
        after = {name: float(curve[-1] - curves["control"][-1]) for name, curve in curves.items()}
        scores = {
            **{name: found[name] for name in (LOSS, BYTE_BITS, DOMAIN_BITS)},
            "redundancy": float(np.mean([redundancy(block) for block in answers(trained.model, states, some)])),
            "gain per token served": float(np.mean(trade.gain / served)),
            "revenue per token served": float(np.mean(trade.revenue / served)),
            "loss added by removing one": self.fragility(trained.training._replace(states=states)),
            "loss left after removal": after["removed"],
            "loss won by an entrant": -after["entered"],
            "load of the entrant": load,
        }
        tokens = some[:, 1:].size
        return _Row(scores, losses, trade.gain / tokens, trade.revenue / tokens, curves)

    @property
    def objective(self) -> Callable:
        """What training descends on."""
        return LOSSES.get(self.regime, LOSSES["global"])

    def seen(self, training: Training, price_offset: Any = None) -> Evaluation:
        """What the validation windows show at capacity 1.25, so that the experts left have places for all."""
        return evaluate(
            training.model,
            training.states,
            split(self.corpus)[1],
            batch=self.settings.batch,
            capacity_factor=1.25,
            most=self.windows,
            price_offset=price_offset,
        )

    def fragility(self, training: Training) -> float:
        """The loss that an infinite price on one expert adds at once, mean over experts."""
        model = training.model
        whole = self.seen(training, jnp.zeros((model.shape.blocks, model.shape.experts))).mean_loss
        losses = [self.seen(training, exiled(model, expert)).mean_loss for expert in range(model.shape.experts)]
        return float(np.mean(losses) - whole)

    def upheaval(self, training: Training, expert: int) -> tuple[dict[str, np.ndarray], float]:
        """The losses of further steps with all experts, without one, and with one more; and the entrant's load."""
        starts = {"control": training, "removed": remove(training, expert), "entered": add(training, seed=self.seed)}
        curves, last = {}, training
        for name, start in starts.items():
            stations = [start]
            train(
                split(self.corpus)[0],
                settings=self.settings,
                steps=self.steps + self.further,
                seed=self.seed,
                objective=self.objective,
                state=start,
                watch=lambda progress: stations.append(progress.training),  # noqa: B023
                every=self.further // self.points,
            )
            curves[name], last = np.array([self.seen(station).mean_loss for station in stations]), stations[-1]
        load = self.seen(last).load
        return curves, float(np.mean(load[:, -1] / load.mean(axis=1)))
