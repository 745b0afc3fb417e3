"""Training a language model on texts: compiled in chunks of steps, watched between them, resumed bit for bit.

    trained = train(corpus, Shape(), steps=1000, seed=0)
    states = calibrate(trained.model, trained.states, corpus)
    print(evaluate(trained.model, states, held).loss)

Batch s is drawn from (seed, s) alone, and no chunk's length enters what is computed, so that a resumed training ends
bit for bit where an uninterrupted one ends.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Key, PyTree

from ..adam import Optimiser, adamw
from ..core.result import Status
from .model import LanguageModel, Shape, loss_per_token
from .text import Corpus, check, draw

Objective = Callable[[LanguageModel, PyTree, Array], tuple[Array, tuple[Array, PyTree, PyTree]]]
"""What training descends on: from (model, states, windows (batch, time + 1)) to the value whose slope is taken, and
(nats per byte, the routers' new states, each block's logs). A function of a module, so that it compiles once."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a model learns.

    Args:
        batch: Windows per step.
        rate: AdamW's learning rate at its height.
        warming: Steps over which the rate rises linearly from nothing.
        fading: Share of the steps, at the end, over which it falls linearly to nothing.
        decay: AdamW's weight decay.
        clip: The slope's norm is at most this.
    """

    batch: int = 16
    rate: float = 3e-3
    warming: int = 50
    fading: float = 0.3
    decay: float = 0.01
    clip: float = 1.0


class Training(NamedTuple):
    """All that training carries from step to step; a pytree of arrays, so that it can be saved and resumed.

    Args:
        model: The model.
        memory: The optimiser's.
        states: The routers', stacked over blocks.
        step: Steps done.
    """

    model: LanguageModel
    memory: PyTree
    states: PyTree
    step: Int[Array, ""]


class Record(NamedTuple):
    """What is seen of each step, stacked on a leading axis.

    Args:
        step: The steps' numbers, from 1.
        loss: Nats per byte of the step's batch.
        norm: Norm of the slope before it is clipped.
        logs: Each block's `Logs` (() without experts).
        price: Each block's prices, (steps, blocks, experts); () without experts.
    """

    step: Any
    loss: Any
    norm: Any
    logs: Any
    price: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Progress:
    """What `watch` is told between chunks.

    Args:
        training: What to save.
        record: What was seen since the last time.
        steps: The last step there will be.
        seconds: Since the start, compilation included.
        speed: Tokens per second in the last chunk.
        status: How training ended, or None while it goes on.
    """

    training: Training
    record: Record
    steps: int
    seconds: float
    speed: float
    status: Status | None


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """What training leaves behind.

    Args:
        training: Where it stands, to go on from.
        record: What was seen of each step of this call, up to where it stands.
        status: FINISHED; STOPPED by `watch`; or NON_FINITE, and `training` is then the last sound chunk's.
    """

    training: Training
    record: Record
    status: Status

    @property
    def model(self) -> LanguageModel:
        """The trained model, as it is at rest."""
        return self.training.model

    @property
    def states(self) -> PyTree:
        """The routers' states."""
        return self.training.states


def global_loss(
    model: LanguageModel, states: PyTree, windows: Int[Array, "batch time+1"]
) -> tuple[Array, tuple[Array, PyTree, PyTree]]:
    """The objective that all parameters share: the mean loss, and what the routers ask for balance."""
    logits, states, logs = model(windows[:, :-1], states, train=True)
    loss = jnp.mean(loss_per_token(logits, windows[:, 1:]))
    asked = jnp.sum(logs.loss) if logs else 0.0
    return loss + asked, (loss, states, logs)


def first_training(
    shape: Shape, settings: Settings = Settings(), *, seed: int = 0, optimiser: Optimiser | None = None
) -> Training:
    """Begin: a model at random, an optimiser that has seen nothing, routers that have served no one."""
    model = _begun(shape, jax.random.key(seed))
    optimiser = _optimiser(settings.rate, settings.decay) if optimiser is None else optimiser
    return Training(model, optimiser.init(eqx.filter(model, eqx.is_inexact_array)), model.start(), jnp.int32(0))


def pace(step: Int[Array, "..."], steps: Float[Array, ""], settings: Settings) -> Float[Array, "..."]:
    """The share of the learning rate with which a step is made: up, level, and down to nothing.

    Args:
        step: Steps before it.
        steps: Steps in all.
        settings: How long the rate rises and falls.
    """
    done = step.astype(jnp.float32)
    rise = jnp.minimum(1.0, (done + 1) / max(settings.warming, 1))
    return rise * jnp.minimum(1.0, (steps - done) / jnp.maximum(settings.fading * steps, 1.0))


@eqx.filter_jit
def _begun(shape: Shape, key: Key[Array, ""]) -> LanguageModel:
    # Compiled as one: at once, where every array of its own would be compiled apart.
    return LanguageModel(shape, key=key)


@functools.cache
def _optimiser(rate: float, decay: float) -> Optimiser:
    return adamw(rate, b2=0.99, decay=decay)


def train(
    corpus: Corpus,
    shape: Shape | None = None,
    settings: Settings = Settings(),
    *,
    steps: int = 1000,
    seed: int = 0,
    objective: Objective = global_loss,
    optimiser: Optimiser | None = None,
    state: Training | None = None,
    watch: Callable[[Progress], Any] | None = None,
    every: int = 20,
) -> Trained:
    """Train a language model.

    Args:
        corpus: The texts to learn from.
        shape: The model's sizes, by default those of `Shape()`; with `state` they are its model's.
        settings: How it learns.
        steps: Steps in all, those of `state` included; the learning rate falls towards the last.
        seed: Sets the model's start and the batches.
        objective: What to descend on; see `Objective`.
        optimiser: In place of AdamW: any pair of `init` and `update` as optax makes them. The rise and fall of the
            rate are applied to what it gives.
        state: A `Training` to continue.
        watch: Called with a `Progress` after every chunk; training stops when it returns True.
        every: Steps per chunk.

    Raises:
        InputError: if a domain has no whole window.
        ValueError: if numbers make no sense.
    """
    if steps < 0 or every < 1 or settings.batch < 1:
        raise ValueError(f"steps, every and batch are {steps}, {every} and {settings.batch}; they must be positive")
    optimiser = _optimiser(settings.rate, settings.decay) if optimiser is None else optimiser
    now = first_training(shape or Shape(), settings, seed=seed, optimiser=optimiser) if state is None else state
    context = now.model.shape.context
    check(corpus, context)
    rules = _Rules(settings, objective, optimiser)
    good, records, began = now, [], time.perf_counter()
    status = None if int(now.step) < steps else Status.FINISHED
    while status is None:
        tick, first = time.perf_counter(), int(now.step)
        goal = min(steps, first + every)
        some = [draw(corpus, seed, step, settings.batch, context)[0] for step in range(first, goal)]
        batches = np.zeros((every, *some[0].shape), np.uint8)
        batches[: goal - first] = some
        after, record, sound = _advance(now, jnp.asarray(batches), jnp.int32(goal), jnp.float32(steps), rules)
        record = jax.tree.map(lambda leaf: np.asarray(leaf)[: goal - first], record)  # noqa: B023
        if bool(sound):
            good, now = now, after
            status = Status.FINISHED if goal == steps else None
        else:
            # A chunk whose first loss is not finite began with what the chunk before it spoilt.
            now, status = (now if np.isfinite(record.loss[0]) else good), Status.NON_FINITE
            record = jax.tree.map(lambda leaf: leaf[:0], record)
        records.append(record)
        seconds = time.perf_counter() - tick
        if watch is not None:
            speed = (goal - first) * settings.batch * context / seconds
            told = Progress(now, record, steps, time.perf_counter() - began, speed, status)
            if watch(told) is True and status is None:
                status = Status.STOPPED
    return Trained(now, _joined(records, int(now.step)), status)


def _joined(records: list[Record], last: int) -> Record:
    """The records of all chunks, up to where training stands."""
    if not records:
        none = np.zeros(0)
        return Record(none.astype(np.int32), none, none, (), ())
    whole = jax.tree.map(lambda *parts: np.concatenate(parts), *records)
    return jax.tree.map(lambda leaf: leaf[whole.step <= last], whole)


class _Rules(NamedTuple):
    """What is fixed when a step is compiled."""

    settings: Settings
    objective: Objective
    optimiser: Any


@eqx.filter_jit
def _advance(
    training: Training, batches: Array, goal: Array, steps: Array, rules: _Rules
) -> tuple[Training, Record, Array]:
    """Go on until step `goal`, or until a loss or slope is not finite; return what was seen, and whether all was."""
    first = training.step
    arrays, rest = eqx.partition(training, eqx.is_array)
    one = eqx.filter_eval_shape(lambda: _step(training, batches[0], steps, rules)[1])
    blank = jax.tree.map(lambda leaf: jnp.zeros((len(batches), *leaf.shape), leaf.dtype), one)

    def going(carry):
        arrays, _, sound = carry
        return (arrays.step < goal) & sound

    def body(carry):
        arrays, record, _ = carry
        number = arrays.step - first
        after, seen, sound = _step(eqx.combine(arrays, rest), batches[number], steps, rules)
        record = jax.tree.map(lambda all, new: all.at[number].set(new), record, seen)
        return eqx.filter(after, eqx.is_array), record, sound

    arrays, record, sound = lax.while_loop(going, body, (arrays, blank, jnp.bool_(True)))
    return eqx.combine(arrays, rest), record, sound


def _step(training: Training, windows: Array, steps: Array, rules: _Rules) -> tuple[Training, Record, Array]:
    """One step down the slope."""
    settings, objective, optimiser = rules
    model, memory, states, step = training
    windows = windows.astype(jnp.int32)
    (_, (loss, states, logs)), slope = eqx.filter_value_and_grad(objective, has_aux=True)(model, states, windows)
    norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(slope)))
    slope = jax.tree.map(lambda leaf: leaf * jnp.minimum(1.0, settings.clip / jnp.maximum(norm, 1e-12)), slope)
    moves, memory = optimiser.update(slope, memory, eqx.filter(model, eqx.is_inexact_array))
    share = pace(step, steps, settings)
    model = eqx.apply_updates(model, jax.tree.map(lambda move: share * move, moves))
    record = Record(step + 1, loss, norm, logs, states.price if states else ())
    return Training(model, memory, states, step + 1), record, jnp.isfinite(loss) & jnp.isfinite(norm)
