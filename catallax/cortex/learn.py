"""Learning by Hebb's rule: each neuron moves its receptive field along what remains unexplained while it is active.

`learn` takes batch after batch of stimuli: compiled competition gives the activities, and one matrix product moves all
fields. `learn_rules.Hebbian` states the same rule on the contract, one neuron at a time. Everything here is NumPy.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError
from .problem import SparseCoding, unit_rows

LAWS = ("kernel", "fast")
PATIENCE = 10_000
"""After so many samples without activity a neuron takes up a new field."""

SAME = 1000
"""Samples that are looked at before the stimuli are called constant."""


class Learning(NamedTuple):
    """All that changes while neurons learn; with the arguments of `learn`, enough to go on bit for bit.

    Args:
        fields: Receptive fields, float32, (units, inputs), rows of norm one.
        moment: Each neuron's sum of squared activities, the past weighing less, float32, (units,).
        silent: Samples since each neuron was last active, int64, (units,).
        seen: Samples seen so far.
        batches: Batches done of those that `learn` was asked for. With 0 the same neurons go on to learn from
            other stimuli: `state._replace(batches=0)`.
    """

    fields: np.ndarray
    moment: np.ndarray
    silent: np.ndarray
    seen: int
    batches: int


@dataclasses.dataclass(frozen=True)
class Lesson:
    """What one batch showed, before the neurons learnt from it.

    Args:
        seen: Samples seen, this batch included.
        objective: Mean ½|x − aD|² + λ|a|₁.
        unexplained: Σ |x − aD|² / Σ |x|².
        active: Mean number of active neurons.
        revived: Neurons that took up a new field.
        held_out: Mean objective of the held-out stimuli at the end of an epoch; None elsewhere.
    """

    seen: int
    objective: float
    unexplained: float
    active: float
    revived: int
    held_out: float | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Learned:
    """What `learn` leaves behind.

    Args:
        state: Where learning stands; hand it to `learn` to go on.
        history: One lesson per batch of this call.
        finished: False if Ctrl-C or `watch` ended it earlier.
    """

    state: Learning
    history: tuple[Lesson, ...]
    finished: bool

    @property
    def dictionary(self) -> np.ndarray:
        """The receptive fields, float32, (units, inputs), rows of norm one."""
        return self.state.fields


def learn(
    stimuli: Any,
    units: int,
    penalty: float,
    *,
    signed: bool = True,
    epochs: int = 1,
    batch: int = 1024,
    seed: int = 0,
    law: str = "kernel",
    tol: float = 1e-3,
    memory: float = 2.0,
    patience: int = PATIENCE,
    dictionary: Any = None,
    held_out: Any = None,
    state: Learning | None = None,
    watch: Callable[[Learning, Lesson], Any] | None = None,
) -> Learned:
    """Learn receptive fields from stimuli.

    For each batch neurons compete until they rest; then all move at once, each by its own activity and the residual:

        m ← κ m + Σ a²,   φ ← φ + Σ a r / m,   φ ← φ / |φ|,   κ = (s/(s + batch))^memory after s samples.

    Division by its own second moment makes a rare neuron learn as fast as a busy one. A neuron that was silent for
    `patience` samples takes up the residual of one stimulus of the batch, drawn with odds |r|², and forgets m.

    Stimuli may be memory-mapped and larger than memory: a batch is read at a time. Ctrl-C ends learning after the
    last whole batch.

    Args:
        stimuli: Shape (samples, inputs); any real dtype, computed in float32.
        units: How many neurons; at most as many as samples.
        penalty: λ, what activity costs, in the unit of the stimuli.
        signed: Whether a neuron may be active with either sign.
        epochs: How often each sample is seen.
        batch: Samples per move of the fields.
        seed: Of the fields to start from, of the order of samples, of revivals.
        law: "kernel" (compiled for the CPU) or "fast" (JAX, any device); see `encode`.
        tol: How exactly the neurons come to rest while they learn, relative to the penalty.
        memory: What a neuron did s samples after the start weighs (s/t)^memory at sample t: 0 never forgets, and
            more learns faster from stimuli of little noise.
        patience: Samples of silence before a neuron takes up a new field.
        dictionary: Fields to start from, (units, inputs), rows of norm one; by default stimuli drawn at random.
        held_out: Stimuli whose objective is measured at the end of each epoch.
        state: The state of a run to go on with, under the same arguments.
        watch: Called after each batch with the state and the lesson; true ends learning.

    Raises:
        InputError: if there are fewer samples than units, they are constant, or one is not finite (which is named).
        ValueError: if the arguments do not go together.

    Reference:
        Hebb (1949); Olshausen & Field (1996), eq. 5; the forgetting of early batches: Mairal et al. (2010), §3.4.
    """
    _check(stimuli, units, batch, patience, epochs, law)
    if state is None:
        state = _begin(stimuli, units, seed, dictionary)
    if state.fields.shape != (units, stimuli.shape[1]):
        raise ValueError(f"the fields have shape {state.fields.shape}, not ({units}, {stimuli.shape[1]})")
    school = _School(stimuli, float(penalty), signed, batch, seed, law, tol, memory, patience)
    per_epoch = -(-len(stimuli) // batch)
    history, finished = [], False
    try:
        for number in range(state.batches, epochs * per_epoch):
            after, lesson = school.teach(state, *divmod(number, per_epoch))
            if held_out is not None and (number + 1) % per_epoch == 0:
                mean = _objective(held_out, after.fields, penalty, signed, law)
                lesson = dataclasses.replace(lesson, held_out=mean)
            state = after
            history.append(lesson)
            if watch is not None and watch(state, lesson):
                break
        finished = state.batches >= epochs * per_epoch
    except KeyboardInterrupt:
        pass
    return Learned(state, tuple(history), finished)


def _check(stimuli: Any, units: int, batch: int, patience: int, epochs: int, law: str) -> None:
    if law not in LAWS:
        raise ValueError(f"{law!r} is no law to learn with: {', '.join(LAWS)}")
    if min(units, batch, patience) < 1 or epochs < 0:
        raise ValueError(
            f"units={units}, batch={batch}, patience={patience} must be at least 1, epochs={epochs} not less than 0"
        )
    if np.ndim(stimuli) != 2 or not np.shape(stimuli)[1]:
        raise InputError(f"the stimuli have shape {np.shape(stimuli)}; give samples (rows) of inputs (columns)")


def hebbian(
    fields: np.ndarray, moment: np.ndarray, activity: Any, residual: np.ndarray, keep: float
) -> tuple[np.ndarray, np.ndarray]:
    """Move all fields by Hebb's rule, each by its own activity and the residual.

    Args:
        fields: φ, (units, inputs).
        moment: m, (units,).
        activity: a, (samples, units), dense or sparse.
        residual: r = x − aD, (samples, inputs).
        keep: κ, how much of the past counts.

    Returns:
        The new fields, of norm one, and the new second moments.
    """
    moment = np.float32(keep) * moment + np.asarray((activity * activity).sum(axis=0), np.float32).reshape(-1)
    moved = fields + (activity.T @ residual) / np.where(moment > 0, moment, np.float32(1))[:, None]
    return moved / np.linalg.norm(moved, axis=1, keepdims=True), moment


@dataclasses.dataclass
class _School:
    """What stays the same from batch to batch, and the order of samples of the current epoch."""

    stimuli: Any
    penalty: float
    signed: bool
    batch: int
    seed: int
    law: str
    tol: float
    memory: float
    patience: int
    epoch: int = -1
    order: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))

    def teach(self, state: Learning, epoch: int, number: int) -> tuple[Learning, Lesson]:
        """Return the state after a batch, and what the batch showed."""
        if epoch != self.epoch:
            self.order = np.random.default_rng([self.seed, 1, epoch]).permutation(len(self.stimuli))
            self.epoch = epoch
        seen = _rows(self.stimuli, self.order[number * self.batch : (number + 1) * self.batch])
        activity = compete(seen, state.fields, self.penalty, self.signed, self.law, self.tol)
        residual = seen - activity @ state.fields
        total = state.seen + len(seen)
        fields, moment = hebbian(state.fields, state.moment, activity, residual, (state.seen / total) ** self.memory)
        active = np.asarray((activity != 0).sum(axis=0)).reshape(-1)
        silent = np.where(active > 0, 0, state.silent + len(seen))
        left = np.sum(residual**2, axis=1, dtype=np.float64)
        revived = self._revive(fields, moment, silent, residual, left, total)
        lesson = Lesson(
            seen=total,
            objective=float(left.sum() / 2 + self.penalty * abs(activity).sum(dtype=np.float64)) / len(seen),
            unexplained=float(left.sum() / max(np.sum(seen**2, dtype=np.float64), np.finfo(float).tiny)),
            active=float(active.sum() / len(seen)),
            revived=revived,
        )
        return Learning(fields, moment, silent, total, state.batches + 1), lesson

    def _revive(self, fields, moment, silent, residual, left, total) -> int:
        """Let neurons that were silent too long take up what is unexplained, in place; return how many did."""
        dead = np.flatnonzero(silent >= self.patience)[: np.count_nonzero(left)]
        if len(dead):
            draw = np.random.default_rng([self.seed, 2, total])
            taken = draw.choice(len(left), len(dead), replace=False, p=left / left.sum())
            fields[dead] = residual[taken] / np.sqrt(left[taken, None]).astype(np.float32)
            moment[dead], silent[dead] = 0, 0
        return len(dead)


def compete(stimuli: np.ndarray, fields: np.ndarray, penalty: float, signed: bool, law: str, tol: float) -> Any:
    """Return the activity at rest, (samples, units): sparse from the kernel, dense from the fast law; not certified."""
    if law == "kernel":
        from .kernel import encode

        return encode(stimuli, fields, penalty, signed=signed, tol=tol)
    from .fast import settle_fast

    return settle_fast(SparseCoding(stimuli, fields, penalty, signed), tol=tol, max_rounds=12)[0]


def _begin(stimuli: Any, units: int, seed: int, dictionary: Any) -> Learning:
    """Return neurons that have learnt nothing yet; by default each starts from a stimulus."""
    if len(stimuli) < units:
        raise InputError(f"there are {len(stimuli)} samples and {units} units; give more samples or fewer units")
    draw = np.random.default_rng([seed, 0])
    some = _rows(stimuli, draw.permutation(len(stimuli))[: max(units, SAME)])
    if len(some) > 1 and not np.ptp(some, axis=0).any():
        raise InputError(
            f"the stimuli are constant: {len(some)} drawn at random are all the same; nothing can be learnt"
        )
    if dictionary is None:
        some = some[:units]
        # A blank stimulus has no direction: a random one takes its place.
        blank = ~some.any(axis=1, keepdims=True)
        fields = unit_rows(np.where(blank, draw.normal(size=some.shape).astype(np.float32), some))
    else:
        fields = SparseCoding(some[:1], dictionary, 1.0).dictionary.astype(np.float32)
    return Learning(fields, np.zeros(units, np.float32), np.zeros(units, np.int64), 0, 0)


def _rows(stimuli: Any, chosen: np.ndarray) -> np.ndarray:
    """Read some stimuli, in the order they are stored."""
    chosen = np.sort(chosen)
    rows = np.asarray(stimuli[chosen], np.float32)
    if not np.isfinite(rows).all():
        row, column = np.argwhere(~np.isfinite(rows))[0]
        raise InputError(f"sample {chosen[row]} is {rows[row, column]} at input {column}; every number must be finite")
    return rows


def _objective(stimuli: Any, fields: np.ndarray, penalty: float, signed: bool, law: str) -> float:
    """Return the mean objective of stimuli, to a relative 1e-5."""
    total = 0.0
    for first in range(0, len(stimuli), 8192):
        seen = _rows(stimuli, np.arange(first, min(first + 8192, len(stimuli))))
        activity = compete(seen, fields, penalty, signed, law, 1e-5)
        left = seen - activity @ fields
        total += np.sum(left**2, dtype=np.float64) / 2 + penalty * abs(activity).sum(dtype=np.float64)
    return float(total / len(stimuli))
