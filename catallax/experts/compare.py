"""Routers compared as they are used: places enforced, prices frozen, the same batches for all, several seeds.

A seed decides how a model begins and which batches it learns from, in the same way for every router, so that routers
are compared pair by pair.
"""

import dataclasses
import itertools
import statistics
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import PyTree
from scipy.stats import t as student

from ..core.result import Status
from ..errors import InputError
from .evaluate import Evaluation, calibrate, evaluate
from .measure import dead, evenness, information, max_violation, table_of
from .model import CAUSAL, DENSE, SPECIALIST, VACANT, WEIGHED, LanguageModel, Shape
from .text import CLASSES, Corpus, byte_class, split
from .train import Progress, Settings, Trained, train

LOSS, BYTE_BITS, DOMAIN_BITS = "validation loss, nats/byte", "bits about the byte", "bits about the domain"
LOSS_MOVING, MOVING_VIOLATION = "loss, price moving", "MaxVio validation, price moving"
LOSS_ROOMY = "loss at 1.25"
TRAIN_VIOLATION, HELD_VIOLATION, PACE = "MaxVio training", "MaxVio validation", "ms a step"

MEASURES = {
    LOSS: -1,
    LOSS_ROOMY: -1,
    LOSS_MOVING: -1,
    TRAIN_VIOLATION: -1,
    HELD_VIOLATION: -1,
    MOVING_VIOLATION: -1,
    "dropped in training": -1,
    "dropped at 1.0": -1,
    "dropped at 1.25": -1,
    "dropped, price moving": -1,
    "dead experts": -1,
    "evenness": 1,
    BYTE_BITS: 1,
    DOMAIN_BITS: 1,
    PACE: -1,
}
"""What is measured, and which way is better: up 1, down -1. In validation the price is the one that was frozen after
training (`calibrate`); where it says "moving" it starts from there in every batch and moves along it, with every router
whose tokens choose (`moving` of `Router`). No token hears of a later one. Places are scarce and come free from position
to position; those who find none are dropped, in training as their rule was published, in validation those whose gate
weighs least (`bar` of `Router`, for all alike). Capacity is 1.0 where no other is named. MaxVio is of demand: in
training the largest of all steps from the first on, in validation that of all tokens together, both of the worst block.
Dropped in training is the largest share of all steps, at the model's own capacity, after the router's repair if it has
one. Dead experts are those of less than 1% of the mean load, in all blocks; evenness is `measure.evenness`. Bits are
mutual information with the expert that serves (`measure.information`), means over blocks."""

ROUTERS = (
    "market", "none", "auxiliary", "sign", "proportional", "late", "sinkhorn", "auction", "choice", "hash",
    "threshold", CAUSAL, VACANT, SPECIALIST, WEIGHED, DENSE,
)  # fmt: skip
"""All that can be compared; "causal" is the market with a price for every sequence, "vacant" the market with places
closed at random in training, "specialist" the market whose tokens hear, are told apart and asked to decide, "weighed"
the table of "hash" whose experts refuse in training whom they weigh little, "dense" a network without experts of equal
floating-point work, for reference."""

CONFIDENCE = 0.95
"""Of all intervals."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How another method differs from the first, seed by seed.

    Args:
        method: The other's name.
        measure: One of the measures.
        difference: The other's value minus the first's, mean over seeds.
        half: Half the width of the difference's 95% confidence interval.
        outcome: "better" if the first is, "worse" if the other is, "open" if the interval holds zero.
    """

    method: str
    measure: str
    difference: float
    half: float
    outcome: str


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """What was measured.

    Args:
        methods: Names; the others are compared with the first.
        measures: What was measured, and which way is better, as `MEASURES`.
        values: Shape (methods, measures, seeds); NaN where there is none.
        domains: Names of the domains.
        losses: Validation loss by domain, nats per byte, shape (methods, seeds, domains).
    """

    methods: tuple[str, ...]
    measures: Mapping[str, int]
    values: np.ndarray
    domains: tuple[str, ...]
    losses: np.ndarray

    def of(self, method: str, measure: str) -> np.ndarray:
        """Return the values of all seeds."""
        return self.values[self.methods.index(method), list(self.measures).index(measure)]

    def interval(self, method: str, measure: str) -> tuple[float, float]:
        """Return the mean over seeds and half the width of its 95% confidence interval (Student's t)."""
        return interval(self.of(method, measure))

    def verdicts(self) -> list[Verdict]:
        """Return how all others differ from the first, paired by seed, in all that was measured of both."""
        found, first = [], self.methods[0]
        for method in self.methods[1:]:
            for measure, better in self.measures.items():
                difference, half = interval(self.of(method, measure) - self.of(first, measure))
                if np.isnan(difference):
                    continue
                clear = abs(difference) > half
                outcome = "open" if not clear else "better" if difference * better < 0 else "worse"
                found.append(Verdict(method, measure, difference, half, outcome))
        return found

    def unwon(self) -> list[str]:
        """Return a line for every measure in which the first is not clearly better than another."""
        words = {"worse": "is worse than", "open": "is not told apart from"}
        first = self.methods[0]
        return [
            f"{first} {words[one.outcome]} {one.method} in {one.measure}: "
            f"{one.method} − {first} = {one.difference:+.3g} ± {one.half:.2g}"
            for one in self.verdicts()
            if one.outcome in words
        ]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return a header and one row per method, each measure as mean ± half of its 95% confidence interval."""
        rows = []
        for method in self.methods:
            pairs = [self.interval(method, measure) for measure in self.measures]
            rows.append([method, *("" if np.isnan(mean) else f"{mean:.4g} ± {half:.1g}" for mean, half in pairs)])
        return ["method", *self.measures], rows


def compare(
    corpus: Corpus,
    routers: Sequence[str] = ROUTERS,
    *,
    shape: Shape | None = None,
    settings: Settings | None = None,
    seeds: int = 5,
    steps: int = 1000,
    windows: int | None = None,
    known: MutableMapping[str, Any] | None = None,
    watch: Callable[[str], Any] | None = None,
) -> Comparison:
    """Train a model with each router, once for each seed, and measure.

    Args:
        corpus: Texts; the last tenth of each validates.
        routers: Some of `ROUTERS`; the others are compared with the first.
        shape: The model's sizes, by default `Shape()`; its router is replaced.
        settings: How all learn, by default `Settings()`.
        seeds: How many times; two at least, so that there is an interval.
        steps: Steps of each training.
        windows: At most so many validation windows of each domain.
        known: What was measured before of the same texts, sizes and steps, by "router, seed"; where `shape` asks for
            other affinities than the router's own, by "router, relative, seed" or "router, absolute, seed". It is not
            measured again, and what is new is added, so that a comparison which was stopped can go on.
        watch: Called with a line that says what was done.

    Raises:
        InputError: if there are too few seeds, a domain is too short, or a training's loss is not finite.
        ValueError: if there is no such router.
    """
    need_seeds(seeds)
    shape, settings = shape or Shape(), settings or Settings()
    known = {} if known is None else known
    # Seed by seed, so that whoever stops early has all routers beside one another.
    for seed, router in itertools.product(range(seeds), routers):
        sized = dataclasses.replace(shape, router=router)
        if (name := _cell(sized, seed)) in known:
            continue
        trained, pace = taught(corpus, sized, settings, steps, seed, router)
        scores, by_domain, _ = measured(trained, corpus, settings, pace, windows)
        there = {measure: value for measure, value in scores.items() if not np.isnan(value)}
        known[name] = {"scores": there, "losses": by_domain.tolist()}
        if watch is not None:
            watch(f"{router}, seed {seed}: {scores[LOSS]:.4f} nats/byte, {pace:.0f} ms a step")
    sizes = [dataclasses.replace(shape, router=router) for router in routers]
    cells = [known[_cell(sized, seed)] for sized in sizes for seed in range(seeds)]
    values = [[cell["scores"].get(measure, np.nan) for measure in MEASURES] for cell in cells]
    losses = [cell["losses"] for cell in cells]
    counts = (len(routers), seeds)
    grid = np.moveaxis(np.reshape(values, (*counts, len(MEASURES))), 1, 2)
    return Comparison(tuple(routers), MEASURES, grid, corpus.names, np.reshape(losses, (*counts, -1)))


def _cell(shape: Shape, seed: int) -> str:
    """The name of what is measured of a router and seed; it says so where affinities are not those of that router."""
    usual = shape.is_relative == dataclasses.replace(shape, relative=None).is_relative
    return ", ".join([shape.router, *([] if usual else ["relative" if shape.is_relative else "absolute"]), str(seed)])


def need_seeds(seeds: int) -> None:
    """Refuse too few seeds for an interval."""
    if seeds < 2:
        raise InputError(f"an interval takes at least 2 seeds, not {seeds}")


def taught(
    corpus: Corpus, shape: Shape, settings: Settings, steps: int, seed: int, name: str, **options: Any
) -> tuple[Trained, float]:
    """Train on all but the last tenth of each domain; return what came of it and the median milliseconds a step.

    Raises:
        InputError: if the loss is not finite.
    """
    paces = []

    def pace(progress: Progress) -> None:
        paces.append(1e3 * settings.batch * shape.context / progress.speed)

    trained = train(
        split(corpus)[0],
        shape,
        settings,
        steps=steps,
        seed=seed,
        watch=pace,
        every=min(20, max(1, steps // 2)),
        **options,
    )
    if trained.status == Status.NON_FINITE:
        raise InputError(
            f"training with {name!r}, seed {seed}, came to a loss that is not finite at step "
            f"{int(trained.training.step)}; give a smaller rate"
        )
    # The first chunk is compiled.
    return trained, statistics.median(paces[1:] or paces)


def measured(
    trained: Trained, corpus: Corpus, settings: Settings, pace: float, windows: int | None = None
) -> tuple[dict[str, float], np.ndarray, Any]:
    """Measure a trained model on the last tenth of each domain.

    Args:
        trained: From `taught`.
        corpus: The same texts.
        settings: Those of the training.
        pace: Milliseconds a step.
        windows: At most so many validation windows of each domain.

    Returns:
        What `MEASURES` names (NaN where there are no experts); the loss by domain; the routers' states with the price
        that was frozen.
    """
    model = trained.model
    seen, held = split(corpus)
    states = calibrate(model, trained.states, seen, batch=settings.batch)
    scores, found = held_scores(model, states, held, batch=settings.batch, most=windows)
    scores[PACE] = pace
    if len(found.load):
        logs = trained.record.logs
        scores[TRAIN_VIOLATION] = float(np.max(logs.max_violation))
        scores["dropped in training"] = float(np.max(logs.dropped))
    return scores, found.loss, states


def held_scores(
    model: LanguageModel, states: PyTree, held: Corpus, *, batch: int, most: int | None = None
) -> tuple[dict[str, float], Evaluation]:
    """Measure a model on text that it has not seen.

    Args:
        model: The model.
        states: The routers', calibrated.
        held: The text.
        batch: Windows at once.
        most: At most so many windows of each domain.

    Returns:
        All that `MEASURES` names, NaN for what is measured in training and where there are no experts; and what was
        seen at capacity 1.0.
    """
    tight, roomy, moving = (
        evaluate(model, states, held, batch=batch, capacity_factor=factor, moving=moves, most=most)
        for factor, moves in ((1.0, False), (1.25, False), (1.0, True))
    )
    losses = {LOSS: tight, LOSS_ROOMY: roomy, LOSS_MOVING: moving}
    scores = dict.fromkeys(MEASURES, float("nan")) | {name: one.mean_loss for name, one in losses.items()}
    if len(tight.load):
        scores |= {
            HELD_VIOLATION: float(np.max(max_violation(tight.load))),
            MOVING_VIOLATION: float(np.max(max_violation(moving.load))),
            "dropped at 1.0": float(np.mean(tight.dropped)),
            "dropped at 1.25": float(np.mean(roomy.dropped)),
            "dropped, price moving": float(np.mean(moving.dropped)),
            "dead experts": float(np.sum(dead(tight.load))),
            "evenness": float(np.mean(evenness(tight.load))),
            BYTE_BITS: _bits(tight, byte_class(tight.tokens), len(CLASSES)),
            DOMAIN_BITS: _bits(tight, tight.domain, len(tight.domains)),
        }
    return scores, tight


def served(found: Evaluation, labels: np.ndarray, kinds: int) -> np.ndarray:
    """Count how often each expert of each block serves each kind of token, shape (blocks, experts, kinds)."""
    chosen = np.where(found.kept, found.chosen, -1)
    return np.stack([table_of(block, labels, found.load.shape[1], kinds) for block in chosen])


def _bits(found: Evaluation, labels: np.ndarray, kinds: int) -> float:
    return float(np.mean([information(table) for table in served(found, labels, kinds)]))


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the mean and half the width of its 95% confidence interval (Student's t); NaN for no values."""
    values = np.asarray(values, np.float64)
    half = student.ppf((1 + CONFIDENCE) / 2, values.size - 1) * values.std(ddof=1) / np.sqrt(values.size)
    return float(values.mean()), float(half)
