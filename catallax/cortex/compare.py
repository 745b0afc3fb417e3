"""Competition against no competition: the same number of units, as many of them active, amplitudes refitted.

Two questions are kept apart. On one dictionary, what does competition choose, and what do units that read their drive
alone, or a loop that picks them one by one? And of units that learnt without competition, in an autoencoder, what do
they represent with their own encoder, and what once they compete? Activity is at least zero everywhere, since the
encoders know no other; and every threshold, price or count is set so that as many units are active on average.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import t as student

from ..errors import InputError
from .measure import distinct_share, effective_units, redundancy, specialisation, turnover, unexplained
from .problem import unit_rows
from .pursuit import at_rate, driven, matching_pursuit, orthogonal_pursuit, refit, threshold_at

MEASURES = {
    "active units": 0,
    "error": -1,
    "error of own amplitudes": -1,
    "redundancy": -1,
    "distinct share": 1,
    "effective units": 1,
    "silent units": -1,
    "specialisation": 1,
    "turnover": -1,
    "error in motion": -1,
}
"""What is measured, and which way is better: up 1, down -1, neither 0. See `measure.py`; error is the share of the
variance that amplitudes fitted anew leave unexplained, turnover that of the active set per frame of moving input."""

ENCODERS = ("relu", "topk", "jumprelu")
"""The autoencoders that are compared; see `autoencoder.py`."""

CONFIDENCE = 0.95
"""Of all intervals."""

HARD_ROUNDS = 400
"""Rounds of competition with a hard threshold at each price tried."""

SECANTS = 15
"""So often the price of activity is tried before it counts as not to be found."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How another method differs from competition, seed by seed.

    Args:
        method: The other method's name.
        measure: One of `MEASURES`.
        difference: The other's value minus competition's, mean over seeds.
        half: Half the width of the difference's 95% confidence interval.
        outcome: "better" if competition is, "worse" if the other is, "open" if the interval holds zero.
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
        methods: Names; "competition, hard", with which the others are compared, comes first, since at equal numbers of
            active units with fitted amplitudes a hard threshold is the rule that asks the same question.
        values: Shape (methods, measures, seeds), measures in the order of `MEASURES`; NaN where there is none.
        penalties: The price of activity that competition learnt at, one per seed.
    """

    methods: tuple[str, ...]
    values: np.ndarray
    penalties: np.ndarray

    def interval(self, method: str, measure: str) -> tuple[float, float]:
        """Return the mean over seeds and half the width of its 95% confidence interval (Student's t)."""
        return _interval(self.values[self.methods.index(method), list(MEASURES).index(measure)])

    def verdicts(self, against: str | None = None) -> list[Verdict]:
        """Return how the other methods differ from one, by default the first, in what has a better side."""
        reference = 0 if against is None else self.methods.index(against)
        found = []
        for row, method in enumerate(self.methods):
            for column, (measure, better) in enumerate(MEASURES.items()):
                difference, half = _interval(self.values[row, column] - self.values[reference, column])
                if row == reference or better == 0 or np.isnan(difference):
                    continue
                clear = abs(difference) > half
                outcome = "open" if not clear else "better" if difference * better < 0 else "worse"
                found.append(Verdict(method, measure, difference, half, outcome))
        return found

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return a header and one row per method, each measure as mean ± half of its 95% confidence interval."""
        rows = []
        for method in self.methods:
            pairs = [self.interval(method, measure) for measure in MEASURES]
            rows.append([method, *("" if np.isnan(mean) else _rounded(mean, half) for mean, half in pairs)])
        return ["method", *MEASURES], rows


def compare(
    stimuli: np.ndarray,
    labels: np.ndarray,
    moving: np.ndarray | None = None,
    *,
    units: int = 512,
    active: int = 16,
    seeds: int = 5,
    held_out: int = 1000,
    passes: int = 3,
    encoders: tuple[str, ...] = ENCODERS,
    steps: int = 4000,
    batch: int = 256,
    law: str = "fast",
    watch: Callable[[str], Any] | None = None,
) -> Comparison:
    """Learn with competition and without, encode what was held out, and measure, once for each seed.

    A seed decides which stimuli are held out, where learning starts, and in which order it sees the rest; and which
    of the moving windows are its own.

    Args:
        stimuli: Shape (samples, inputs).
        labels: The class of each sample, shape (samples,), such as the image that a patch is from.
        moving: Windows that move across an image, shape (frames, windows, inputs); None for no turnover.
        units: Size of every dictionary.
        active: Units per sample, on average.
        seeds: How many times; two at least, so that there is an interval.
        held_out: How many samples are kept from learning.
        passes: How often learning by competition goes through the others; its price is set anew before each.
        encoders: Which autoencoders are trained; see `autoencoder.KINDS`.
        steps: Batches that each is trained for.
        batch: Samples per batch.
        law: How competition with a soft threshold comes to rest, "fast" or "kernel", as for `encode`.
        watch: Called with a line that says what is being done.

    Raises:
        InputError: if there are too few stimuli, windows or seeds.
        ValueError: if labels or windows do not fit the stimuli.
    """
    stimuli, labels = np.asarray(stimuli, np.float32), np.asarray(labels)
    if labels.shape != stimuli.shape[:1]:
        raise ValueError(f"there are {len(stimuli)} stimuli and labels of shape {labels.shape}; give one label to each")
    if moving is not None and (moving.ndim != 3 or moving.shape[2] != stimuli.shape[1]):
        raise ValueError(f"moving has shape {moving.shape}, not (frames, windows, {stimuli.shape[1]})")
    if seeds < 2:
        raise InputError(f"an interval takes at least 2 seeds, not {seeds}")
    if not 0 < active < units:
        raise InputError(f"{active} of {units} units cannot be active; give 1 to {units - 1}")
    if len(stimuli) - held_out < units:
        raise InputError(
            f"{len(stimuli)} stimuli, {held_out} of them held out, are too few to learn {units} units from"
        )
    if moving is not None and moving.shape[1] < seeds:
        raise InputError(f"{moving.shape[1]} moving windows are too few for {seeds} seeds; give one or more to each")
    methods, values, penalties = (), [], []
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(stimuli))
        held, rest = np.sort(order[:held_out]), np.sort(order[held_out:])
        learning = _Learning(stimuli[rest], units, active, passes, encoders, steps, batch, law, seed, watch)
        coders, penalty = _coders(learning)
        shown = None if moving is None else np.asarray(moving[:, seed::seeds], np.float32)
        methods = tuple(coders)
        learning.tell("encoding")
        values.append([_measured(coder, stimuli[held], labels[held], shown) for coder in coders.values()])
        penalties.append(penalty)
    return Comparison(methods, np.moveaxis(np.array(values), 0, -1), np.array(penalties))


@dataclasses.dataclass(frozen=True)
class _Learning:
    """What one seed learns from, and how."""

    stimuli: np.ndarray
    units: int
    active: int
    passes: int
    encoders: tuple[str, ...]
    steps: int
    batch: int
    law: str
    seed: int
    watch: Callable[[str], Any] | None

    def tell(self, line: str) -> None:
        if self.watch is not None:
            self.watch(f"seed {self.seed}: {line}")


@dataclasses.dataclass(frozen=True)
class _Coder:
    """A method: a dictionary, what is taken off each stimulus before, and how activity is found.

    `encode` takes stimuli (samples, inputs); `follow` takes frames (frames, windows, inputs) whose state carries over,
    and is None where each frame is encoded by itself.
    """

    dictionary: np.ndarray
    offset: np.ndarray
    encode: Callable[[np.ndarray], np.ndarray]
    follow: Callable[[np.ndarray], np.ndarray] | None = None


def _coders(learning: _Learning) -> tuple[dict[str, _Coder], float]:
    """Learn everything once; return the methods by name, and the price that competition learnt at."""
    active, law = learning.active, learning.law
    fields, penalty = _learnt(learning)
    nothing = np.zeros(fields.shape[1], np.float32)

    def hard(fields: np.ndarray, offset: np.ndarray) -> _Coder:
        return _Coder(
            fields,
            offset,
            lambda stimuli: competing(stimuli - offset, fields, active, threshold="hard"),
            lambda frames: following(frames - offset, fields, active),
        )

    coders = {
        "competition, hard": hard(fields, nothing),
        "competition, soft": _Coder(fields, nothing, lambda stimuli: competing(stimuli, fields, active, law=law)),
        "drive alone": _Coder(fields, nothing, lambda stimuli: driven(stimuli, fields, active)),
    }
    for name, pursuit in (("matching pursuit", matching_pursuit), ("orthogonal pursuit", orthogonal_pursuit)):
        coders[name] = _Coder(fields, nothing, lambda stimuli, pick=pursuit: pursuing(pick, stimuli, fields, active))
    for kind in learning.encoders:
        from .autoencoder import train

        learning.tell(f"training the {kind} autoencoder")
        model = train(
            learning.stimuli,
            learning.units,
            kind=kind,
            active=active,
            steps=learning.steps,
            batch=learning.batch,
            seed=learning.seed,
        )
        own, offset = unit_rows(np.array(model.W_dec)), np.asarray(model.b_dec)
        coders[f"{kind} encoder"] = _Coder(own, offset, lambda stimuli, model=model: encoded(model, stimuli))
        coders[f"{kind} units competing"] = hard(own, offset)
    return coders, penalty


def _learnt(learning: _Learning) -> tuple[np.ndarray, float]:
    """Learn receptive fields by competition, at a price at which as many units are active as asked for."""
    from .learn import learn

    draw = np.random.default_rng(learning.seed)
    some = learning.stimuli[draw.permutation(len(learning.stimuli))[: max(1000, learning.units)]]
    fields, penalty = unit_rows(some[: learning.units]), 0.0
    for turn in range(learning.passes):
        learning.tell(f"learning by competition, pass {turn + 1} of {learning.passes}")
        penalty = price_of(some, fields, learning.active, law=learning.law)
        fields = learn(
            learning.stimuli,
            learning.units,
            penalty,
            signed=False,
            law=learning.law,
            seed=learning.seed + 1000 * turn,
            dictionary=fields,
        ).dictionary
    return np.asarray(fields), penalty


def price_of(stimuli: np.ndarray, dictionary: np.ndarray, active: float, *, law: str = "fast") -> float:
    """Return the price at which competition with a soft threshold leaves `active` units active on average."""
    from .solve import encode

    def rest(price: float) -> Any:
        return encode(stimuli, dictionary, price, signed=False, law=law, tol=1e-4).activity

    return price_at(rest, first_price(stimuli, dictionary, active), active)[0]


def competing(
    stimuli: np.ndarray, dictionary: np.ndarray, active: float, *, law: str = "fast", threshold: str = "soft"
) -> np.ndarray:
    """Return the rest of competition at a price common to all samples, at which `active` are active on average."""
    from .solve import encode

    if threshold == "soft":
        price = price_of(stimuli, dictionary, active, law=law)
        return dense(encode(stimuli, dictionary, price, signed=False, law=law).activity)
    last = None

    def rest(price: float) -> np.ndarray:
        # The last neurons take long to decide: each price begins where the one before it ended.
        nonlocal last
        options = {"law": "competition", "threshold": threshold, "max_rounds": HARD_ROUNDS, "start": last}
        last = encode(stimuli, dictionary, price, signed=False, tol=1e-3, **options).activity
        return last

    return at_price(rest, stimuli, dictionary, active)


def following(frames: np.ndarray, dictionary: np.ndarray, active: float, *, rounds: int = 30) -> np.ndarray:
    """Return the activity of hard competition that sees one frame after another and never starts afresh.

    Args:
        frames: Shape (frames, windows, inputs).
        dictionary: Shape (units, inputs).
        active: Units per frame and window, on average.
        rounds: How long a frame stays.

    Returns:
        Activity at the end of each frame, shape (frames, windows, units).
    """
    import jax.numpy as jnp

    from .fast import largest_eigenvalue
    from .rules import Competition, first_state, follow_all, hard

    step = jnp.float32(min(1.0, 1 / largest_eigenvalue(dictionary)))
    # The first frame stays for longer, since neurons begin in silence.
    shown = np.concatenate([np.repeat(frames[:1], 9, axis=0), frames])

    def rest(price: float) -> np.ndarray:
        penalty = jnp.full(frames.shape[1], price, jnp.float32)
        system = Competition(jnp.asarray(frames[0]), penalty, step, hard, signed=False)
        seen = follow_all(system, first_state(system, jnp.asarray(dictionary)), jnp.asarray(shown), rounds)[9:]
        return np.asarray(seen).reshape(-1, len(dictionary))

    flat = frames.reshape(-1, frames.shape[2])
    return at_price(rest, flat, dictionary, active).reshape(*frames.shape[:2], -1)


def pursuing(
    pursuit: Callable[[np.ndarray, np.ndarray, float], np.ndarray],
    stimuli: np.ndarray,
    dictionary: np.ndarray,
    active: float,
) -> np.ndarray:
    """Return what a pursuit picks down to a drive common to all samples, such that `active` are active on average."""
    return at_price(lambda least: pursuit(stimuli, dictionary, least), stimuli, dictionary, active)


def at_price(rest: Callable[[float], Any], stimuli: np.ndarray, dictionary: np.ndarray, active: float) -> np.ndarray:
    """Return the activity at the price at which `active` units are active per sample on average; see `price_at`.

    Args:
        rest: The activity, (samples, units), at a price.
        stimuli: Shape (samples, inputs).
        dictionary: Shape (units, inputs).
        active: Units per sample.
    """
    return dense(price_at(rest, first_price(stimuli, dictionary, active), active)[1])


def first_price(stimuli: np.ndarray, dictionary: np.ndarray, active: float) -> float:
    """Return a guess: units that read nothing but their drive need a higher price than those that explain away."""
    return threshold_at(np.asarray(stimuli) @ np.asarray(dictionary).T, active) / 2


def price_at(rest: Callable[[float], Any], price: float, active: float) -> tuple[float, Any]:
    """Find the price of activity at which `active` units are active per sample on average.

    The secant method on logarithms, ended within 1%. Where a few units switch together no price may come as near;
    the nearest then counts, if within 10%.

    Args:
        rest: The activity, (samples, units), at a price.
        price: Where to begin.
        active: Units per sample.

    Returns:
        The price, and the activity that was found at it.

    Raises:
        InputError: if no price has nearly so many units active.
    """
    tried, slope, low, high = [], -2.0, 0.0, np.inf
    for _ in range(SECANTS):
        activity = rest(price)
        excess = float(np.log(max(count_active(activity), 1) / (active * activity.shape[0])))
        if tried and price != tried[-1][1]:
            slope = float(np.clip((excess - tried[-1][2]) / np.log(price / tried[-1][1]), -8.0, -0.5))
        tried.append((abs(excess), price, excess, activity))
        if abs(excess) <= 0.01:
            break
        low, high = (max(low, price), high) if excess > 0 else (low, min(high, price))
        price = float(price * np.exp(-excess / slope))
        if not low < price < high:
            price = float(np.sqrt(low * high))
    off, price, _, activity = min(tried, key=lambda one: one[0])
    if off > 0.1:
        raise InputError(f"no price of activity has {active} units active on average; ask for another number")
    return price, activity


def encoded(model: Any, stimuli: np.ndarray) -> np.ndarray:
    """Return what an autoencoder's own encoder says, its thresholds moved alike to the rate that it was trained for.

    TopK is given a threshold too, common to all units: as many units for each sample alike would explain less.
    """
    drive = np.asarray(model.drive(stimuli))
    margin = np.where(drive > 0, drive - np.asarray(model.threshold), -np.inf)
    return np.where(at_rate(margin, model.active), drive, 0.0)


def dense(activity: Any) -> np.ndarray:
    """Return an activity as an array, whatever the law that found it gave."""
    return activity.toarray() if hasattr(activity, "toarray") else np.asarray(activity)


def count_active(activity: Any) -> int:
    """Return how many pairs of a sample and a unit active on it there are."""
    return int(activity.count_nonzero()) if hasattr(activity, "count_nonzero") else int(np.count_nonzero(activity))


def _measured(coder: _Coder, stimuli: np.ndarray, labels: np.ndarray, moving: np.ndarray | None) -> list[float]:
    """Return all `MEASURES` of one method, in their order."""
    fields, offset = coder.dictionary, coder.offset
    activity = coder.encode(stimuli)
    fitted = refit(stimuli - offset, activity, fields)
    in_motion = [float("nan")] * 2
    if moving is not None:
        shown = moving.reshape(-1, moving.shape[2])
        codes = coder.encode(shown) if coder.follow is None else coder.follow(moving)
        codes = codes.reshape(*moving.shape[:2], -1)
        flat = refit(shown - offset, codes.reshape(len(shown), -1), fields)
        in_motion = [turnover(codes), unexplained(shown, flat, fields, offset)]
    return [
        np.count_nonzero(activity) / len(activity),
        unexplained(stimuli, fitted, fields, offset),
        unexplained(stimuli, activity, fields, offset),
        redundancy(activity, fields),
        distinct_share(activity, fields),
        effective_units(activity),
        float(np.sum(~activity.any(axis=0))),
        specialisation(activity, labels),
        *in_motion,
    ]


def _interval(values: np.ndarray) -> tuple[float, float]:
    count = values.size
    half = student.ppf((1 + CONFIDENCE) / 2, count - 1) * values.std(ddof=1) / np.sqrt(count)
    return float(values.mean()), float(half)


def _rounded(mean: float, half: float) -> str:
    digits = 1 if abs(mean) >= 10 else 3 if abs(mean) >= 0.1 else 4
    return f"{mean:.{digits}f} ± {half:.{digits}f}"
