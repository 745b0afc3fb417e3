"""Sparse autoencoders of activations: units that compete for what they explain, and the usual ones that do not.

    model = train(activations, 4096, kind="competition", active=32)
    activity = model.encode(samples)

Every kind has one layer each way, x̂ = a W_dec + b_dec with unit rows of W_dec, and is told how many units may be
active per sample. The kinds differ in how a sample becomes activity:

* "relu": a = relu(z), z = x W_enc + b_enc, learnt with a price on Σ a (Bricken et al. 2023); once learnt, activity
  below a common threshold is left out where more units would be active than were asked for.
* "topk": the k largest of relu(z) (Gao et al. 2024).
* "jumprelu": a = z where z exceeds the unit's own threshold, learnt with a price on the number active
  (Rajamanoharan et al. 2024, eqs. 9-12).
* "matryoshka": activity above a price common to the batch; nested prefixes of the units explain alone
  (Bussmann et al. 2025).
* "competition": units inhibit one another through what is left unexplained (see `compete.py`), and learn by Hebb's
  rule from their own activity and the residual. The encoder learns to foresee, in one pass, what they rest at.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..adam import Moments, adam
from ..errors import InputError
from .compete import SWEEPS, TABLE, overlaps, rest, rest_on_cpu
from .objectives import common_price, loss, top

KINDS = ("competition", "topk", "jumprelu", "relu", "matryoshka")
"""The kinds of autoencoder that `train` knows."""

DECAY = 0.2
"""Share of the steps, at the end, over which the learning rate falls linearly to nothing."""

CALMING = 0.8
"""The same for learning by Hebb's rule, which has no other remedy against what one batch has by chance."""

FORMAT = "catallax-autoencoder-1"
"""How an autoencoder's file calls itself."""

TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold", "price")
"""The tensors of an autoencoder's file."""

WARMING = 0.25
"""Share of the steps, at the start, over which a price on a loss lets ever fewer units be active, from a quarter."""

HEBB = 0.1
"""Share of the way to its best field, the others' given, that a unit goes with each batch when it learns by Hebb."""

MEMORY = 0.98
"""How much of a running mean is kept from one batch to the next."""

PATIENCE = 200
"""A unit that was silent for so many batches is given a badly explained sample's residual as its field."""

REVIVED = 16
"""At most so many units are revived in one step."""

CALIBRATION = 8192
"""So many samples set the mean and scale at the start, and the thresholds at the end."""


class Autoencoder(eqx.Module):
    """A trained autoencoder. Activity is in the data's units, since rows of W_dec have norm 1.

    Args:
        W_enc: Encoder weights.
        b_enc: Encoder bias.
        W_dec: Decoder: each unit's field, of norm 1.
        b_dec: What is predicted when no unit is active.
        threshold: Least drive z at which a unit is active in a single pass of the encoder ("topk": and is among the
            largest; "competition": for those who read the encoder without competing).
        price: Least amplitude at which a unit that competes stays active; 0 for the other kinds.
        kind: One of `KINDS`.
        active: Units active per sample: exactly for "topk", on average otherwise.
    """

    W_enc: Float[Array, "inputs units"]
    b_enc: Float[Array, " units"]
    W_dec: Float[Array, "units inputs"]
    b_dec: Float[Array, " inputs"]
    threshold: Float[Array, " units"]
    price: Float[Array, ""]
    kind: str = eqx.field(static=True)
    active: int = eqx.field(static=True)

    def drive(self, samples: Float[Array, "samples inputs"]) -> Float[Array, "samples units"]:
        """What one pass of the encoder says: z = x W_enc + b_enc."""
        return samples @ self.W_enc + self.b_enc[None]

    def activity(self, samples: Float[Array, "samples inputs"], sweeps: int = SWEEPS) -> Float[Array, "samples units"]:
        """Activity of every unit for each sample, as JAX; `encode` does the same in batches."""
        if self.kind == "competition":
            return rest(samples - self.b_dec[None], self.W_dec, self.price, sweeps)
        drive = self.drive(samples)
        if self.kind == "topk":
            return top(drive, self.active)
        return jnp.where(drive > self.threshold[None], drive, 0.0)

    def encode(self, samples: Any, *, batch: int = 1024) -> np.ndarray:
        """Encode samples in batches: activity (samples, units), float32, at least 0.

        Args:
            samples: Samples (samples, inputs); a memory-mapped array is read batch by batch.
            batch: Samples that are held at once.
        """
        codes = np.zeros((len(samples), self.b_enc.size), np.float32)
        respond = _encoder(self)
        for first in range(0, len(samples), batch):
            some = np.asarray(samples[first : first + batch], np.float32)
            padded = np.pad(some, ((0, min(batch, len(samples)) - len(some)), (0, 0)))
            codes[first : first + batch] = np.asarray(respond(jnp.asarray(padded)))[: len(some)]
        return codes

    def save(self, path: str | PathLike[str]) -> None:
        """Write a safetensors file that `load`, and anything else that reads safetensors, can read.

        Float32 tensors, in SAELens's names and orientation: W_enc (inputs, units), b_enc (units,), W_dec (units,
        inputs), b_dec (inputs,), threshold (units,), price (). Samples are to be given as they are. One pass of the
        encoder is z = x @ W_enc + b_enc, a = z where z > threshold, else 0; and x̂ = a @ W_dec + b_dec. Metadata:
        "format", "kind" and "active". The file is written whole or not at all.
        """
        tensors = {name: np.asarray(getattr(self, name), np.float32, order="C") for name in TENSORS}
        metadata = {"format": FORMAT, "kind": self.kind, "active": str(self.active)}
        whole = Path(f"{fspath(path)}.part")
        whole.write_bytes(save(tensors, metadata))
        whole.replace(path)

    def decode(self, activity: Any) -> np.ndarray:
        """Explain: a W_dec + b_dec, (samples, inputs)."""
        return np.asarray(activity, np.float32) @ np.asarray(self.W_dec) + np.asarray(self.b_dec)


def load(path: str | PathLike[str]) -> Autoencoder:
    """Read an autoencoder that `Autoencoder.save` wrote.

    Raises:
        InputError: if the file is not one, is truncated, or its tensors do not fit one another.
    """
    try:
        with safe_open(fspath(path), framework="numpy") as stored:
            metadata = stored.metadata() or {}
            found = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"is not a readable safetensors file ({error})", file=path) from None
    if metadata.get("format") != FORMAT or metadata.get("kind") not in KINDS or set(found) != set(TENSORS):
        raise InputError(f"is not an autoencoder that catallax saved (format {FORMAT})", file=path)
    inputs, units = found["b_dec"].size, found["b_enc"].size
    shapes = ((inputs, units), (units,), (units, inputs), (inputs,), (units,), ())
    for name, shape in zip(TENSORS, shapes, strict=True):
        if found[name].shape != shape or found[name].dtype != np.float32 or not np.isfinite(found[name]).all():
            raise InputError(f"tensor {name} must be finite float32 of shape {list(shape)}", file=path)
    active = metadata.get("active", "")
    if not (active.isdecimal() and 0 < int(active) < units):
        raise InputError(f"says that {active or 'no number of'} units are active, of {units}", file=path)
    arrays = {name: jnp.asarray(array) for name, array in found.items()}
    return Autoencoder(**arrays, kind=metadata["kind"], active=int(active))


@eqx.filter_jit
def _activity(model: Autoencoder, samples: Array, sweeps: int) -> Array:
    return model.activity(samples, sweeps)


def _encoder(model: Autoencoder, sweeps: int = SWEEPS) -> Callable[[Array], Any]:
    """What a batch's activity is computed by: where units compete on a CPU, the compiled loop."""
    if model.kind != "competition" or jax.default_backend() != "cpu":
        return lambda samples: _activity(model, samples, sweeps)
    table = np.asarray(overlaps(model.W_dec)) if len(model.W_dec) <= TABLE else None
    return lambda samples: rest_on_cpu(samples - model.b_dec[None], model.W_dec, model.price, table, sweeps)


def unexplained(model: Autoencoder, samples: Any, *, batch: int = 1024) -> tuple[float, float]:
    """Unexplained variance, Σ|x − x̂|² / Σ|x − mean x|², and units active per sample; batch by batch, float64 sums."""
    left, active, total, squares = 0.0, 0, np.zeros(samples.shape[1]), 0.0
    for first in range(0, len(samples), batch):
        some = np.asarray(samples[first : first + batch], np.float32)
        activity = model.encode(some)
        left += np.sum((some - model.decode(activity)) ** 2, dtype=np.float64)
        active += np.count_nonzero(activity)
        total += some.sum(0, dtype=np.float64)
        squares += np.sum(some.astype(np.float64) ** 2)
    return float(left / (squares - total @ total / len(samples))), active / len(samples)


class Training(NamedTuple):
    """All that training carries from batch to batch; a pytree of arrays, so that it can be saved and resumed.

    Args:
        model: The autoencoder of the scaled samples.
        moments: What Adam remembers of the slopes.
        power: Running mean of each unit's squared activity.
        price: What activity costs ("relu", "jumprelu"); for "competition" it is the model's.
        idle: Batches since each unit was last active.
        step: Batches seen.
        mean, scale: Samples are seen as (x − mean)·scale.
        unexplained, active: Share of variance left, and units active per sample, running means.
    """

    model: Autoencoder
    moments: Moments
    power: Float[Array, " units"]
    price: Float[Array, ""]
    idle: Int[Array, " units"]
    step: Int[Array, ""]
    mean: Float[Array, " inputs"]
    scale: Float[Array, ""]
    unexplained: Float[Array, ""]
    active: Float[Array, ""]


def train(
    data: Any,
    units: int,
    *,
    kind: str = "competition",
    ranked: bool = False,
    active: int = 32,
    steps: int = 4000,
    batch: int = 1024,
    rate: float | None = None,
    seed: int = 0,
    watch: Callable[[Training], Any] | None = None,
    every: int = 100,
    state: Training | None = None,
) -> Autoencoder:
    """Train a sparse autoencoder.

    Batch s is drawn from (seed, s) alone, so that a resumed training ends bit for bit where an uninterrupted one ends.

    Args:
        data: Samples (samples, inputs), any float; may be memory-mapped and larger than memory.
        units: How many units.
        kind: One of `KINDS`.
        ranked: For "competition": learn from one turn of each unit, the most active first (after Sanger 1989). None is
            corrected by who follows: a unit that stands for two features, one of which has a more active unit of its
            own, explains that one twice, and unlearns it. Truer features are found; more is left unexplained.
        active: Units that may be active per sample.
        steps: Batches in all, those of `state` included.
        batch: Samples per batch.
        rate: Adam's learning rate; by default 2e-4·√(2¹⁴/units) (Gao et al. 2024).
        seed: Sets the start and the batches.
        watch: Called with the `Training` every `every` batches and at the end; what it returns is ignored.
        every: See `watch`.
        state: A `Training` to continue.

    Raises:
        ValueError: if sizes or the kind make no sense.
    """
    check(data, units, kind, active, batch)
    if ranked and kind != "competition":
        raise ValueError(f"only units that compete learn in ranks; kind is {kind!r}")
    pace = rate or 2e-4 * math.sqrt(2**14 / units)
    state = first_training(data, units, kind=kind, active=active, seed=seed) if state is None else state
    for step in range(int(state.step), steps):
        slowing = min(1.0, (steps - step) / ((CALMING if kind == "competition" else DECAY) * steps))
        warming = 0.0 if kind == "competition" else max(0.0, 1 - step / (WARMING * steps))
        wanted = active * max(1.0, units / (4 * active)) ** warming
        some = jnp.asarray(draw(data, batch, seed, step))
        state = _step(state, some, *map(jnp.float32, (pace * slowing, slowing, wanted)), ranked=ranked)
        if watch is not None and ((step + 1) % every == 0 or step + 1 == steps):
            watch(state)
    return finished(state, draw(data, CALIBRATION, seed, -1))


def check(data: Any, units: int, kind: str, active: int, batch: int) -> None:
    """Refuse what cannot be trained.

    Raises:
        ValueError: naming what is wrong.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(KINDS)}")
    if np.ndim(data) != 2:
        raise ValueError(f"data must have the shape (samples, inputs), not {np.shape(data)}")
    if not 0 < active < units:
        raise ValueError(f"active is {active}; it must be between 1 and units - 1 = {units - 1}")
    if batch < 1 or len(data) < 1:
        raise ValueError("data and batch must not be empty")


def draw(data: Any, count: int, seed: int, step: int) -> np.ndarray:
    """Batch number `step`: `count` rows drawn with replacement, read in order of their place in the file."""
    rows = np.random.default_rng([seed, step + 1]).integers(len(data), size=count)
    return np.asarray(data[np.sort(rows)], np.float32)


def first_training(data: Any, units: int, *, kind: str, active: int, seed: int) -> Training:
    """Begin: unit fields in random directions, the encoder their transpose, samples centred and scaled."""
    some = draw(data, CALIBRATION, seed, -1)
    mean = some.mean(0)
    spread = float(np.sqrt(np.mean((some - mean) ** 2)))
    fields = np.random.default_rng([seed, 0]).normal(size=(units, some.shape[1]))
    fields = jnp.asarray(fields / np.linalg.norm(fields, axis=1, keepdims=True), jnp.float32)
    model = Autoencoder(
        W_enc=fields.T,
        b_enc=jnp.zeros(units),
        W_dec=fields,
        b_dec=jnp.zeros(some.shape[1]),
        threshold=jnp.full(units, 0.5 if kind == "jumprelu" else 0.0),
        price=jnp.float32(1.0 if kind == "competition" else 0.0),
        kind=kind,
        active=active,
    )
    return Training(
        model=model,
        moments=Moments.zeros(model),
        power=jnp.ones(units),
        price=jnp.float32(1e-2),
        idle=jnp.zeros(units, jnp.int32),
        step=jnp.int32(0),
        mean=jnp.asarray(mean),
        scale=jnp.float32(1 / max(spread, 1e-30)),
        unexplained=jnp.float32(1.0),
        active=jnp.float32(0.0),
    )


def _step(
    state: Training, samples: Array, rate: Array, slowing: Array, wanted: Array, ranked: bool = False
) -> Training:
    """One batch: let units compete for it, if they do, and learn."""
    samples = (samples - state.mean[None]) * state.scale
    activity = jnp.asarray(_competed(state, samples, ranked)) if state.model.kind == "competition" else None
    return _learnt(state, samples, activity, rate, slowing, wanted)


def _competed(state: Training, samples: Array, ranked: bool) -> Any:
    """What units learn from: where they rest, or what each does in a single turn, the most active first."""
    if not ranked:
        return _encoder(state.model)(samples)
    order = np.argsort(-np.asarray(state.power), kind="stable")
    model = dataclasses.replace(state.model, W_dec=state.model.W_dec[order])
    return _encoder(model, sweeps=1)(samples)[:, np.argsort(order)]


@eqx.filter_jit
def _learnt(
    state: Training, samples: Array, activity: Array | None, rate: Array, slowing: Array, wanted: Array
) -> Training:
    """One batch: learn, let the price follow the number active, revive who was silent for long."""
    if activity is None:
        # Too many active now weighs at once; the price itself, slow to be felt, would swing about what it is to reach.
        urgent = jnp.clip(state.active / wanted, 0.25, 4.0) ** 2
        model, moments, power, activity, residual = _by_gradient(state, samples, rate, state.price * urgent)
    else:
        model, moments, power, residual = _by_competition(state, samples, activity, rate, slowing)
    active = activity > 0
    count = jnp.mean(jnp.sum(active, 1).astype(jnp.float32))
    dearer = jnp.exp(0.02 * jnp.clip(jnp.log(jnp.maximum(count, 1e-3) / wanted), -1.0, 1.0))
    share = jnp.mean(residual**2) / jnp.mean((samples - jnp.mean(samples, 0, keepdims=True)) ** 2)
    idle = jnp.where(jnp.any(active, 0), 0, state.idle + 1)
    model, moments, power, idle = _revived(model, moments, power, idle, residual)
    return Training(
        model=dataclasses.replace(model, price=model.price * dearer),
        moments=moments,
        power=power,
        price=state.price * dearer,
        idle=idle,
        step=state.step + 1,
        mean=state.mean,
        scale=state.scale,
        unexplained=_blend(state.unexplained, share),
        active=_blend(state.active, count),
    )


def _blend(old: Array, new: Array) -> Array:
    return MEMORY * old + (1 - MEMORY) * new


def _normed(model: Autoencoder) -> Autoencoder:
    """`model` with fields of norm 1 and thresholds above 0."""
    lengths = jnp.linalg.norm(model.W_dec, axis=1, keepdims=True)
    return dataclasses.replace(
        model, W_dec=model.W_dec / jnp.maximum(lengths, 1e-12), threshold=jnp.maximum(model.threshold, 1e-3)
    )


def _by_gradient(state: Training, samples: Array, rate: Array, price: Array):
    """Down the slope of the loss, by Adam."""
    (_, (activity, residual)), slope = eqx.filter_value_and_grad(loss, has_aux=True)(state.model, samples, price)
    change, moments = adam(slope, state.moments, state.step)
    model = jax.tree.map(lambda value, move: value - rate * move, state.model, change)
    return _normed(model), moments, state.power, activity, residual


def _by_competition(state: Training, samples: Array, activity: Array, rate: Array, slowing: Array):
    """Fields by Hebb's rule from own activity and residual; the encoder by the delta rule, to foresee the activity."""
    model, number = state.model, len(samples)
    residual = samples - activity @ model.W_dec - model.b_dec[None]
    power = _blend(state.power, jnp.mean(activity**2, 0))
    hebb = (activity.T @ residual) / (number * jnp.maximum(power, 1e-6))[:, None]
    drive = model.drive(samples)
    missed = jnp.where((drive > 0) | (activity > 0), drive - activity, 0.0) / number
    none = jax.tree.map(jnp.zeros_like, model)
    slope = dataclasses.replace(none, W_enc=samples.T @ missed, b_enc=jnp.sum(missed, 0))
    change, moments = adam(slope, state.moments, state.step)
    model = dataclasses.replace(
        model,
        W_enc=model.W_enc - rate * change.W_enc,
        b_enc=model.b_enc - rate * change.b_enc,
        W_dec=model.W_dec + HEBB * slowing * hebb,
        b_dec=model.b_dec + HEBB * slowing * jnp.mean(residual, 0),
    )
    return _normed(model), moments, power, residual


def _revived(
    model: Autoencoder, moments: Moments, power: Array, idle: Array, residual: Array
) -> tuple[Autoencoder, Moments, Array, Array]:
    """Give silent units the directions of the worst explained samples (after Bricken et al. 2023)."""
    number = min(REVIVED, *residual.shape, idle.size)
    asleep, who = jax.lax.top_k(idle, number)
    error, where = jax.lax.top_k(jnp.sum(residual**2, 1), number)
    wake = (asleep > PATIENCE)[:, None]
    fields = residual[where] / jnp.sqrt(jnp.maximum(error, 1e-12))[:, None]
    mean_threshold = jnp.broadcast_to(jnp.mean(model.threshold), (number,))

    def given(tree: Autoencoder, encoder: Array, decoder: Array, bias: Array, threshold: Array) -> Autoencoder:
        """`tree` with these values for the units that wake."""

        def put(old: Array, new: Array) -> Array:
            mask = wake if old.ndim == 2 else wake[:, 0]
            return old.at[who].set(jnp.where(mask, new, old[who]))

        columns = tree.W_enc[:, who]
        return eqx.tree_at(
            lambda m: (m.W_enc, m.W_dec, m.b_enc, m.threshold),
            tree,
            (
                tree.W_enc.at[:, who].set(jnp.where(wake.T, encoder.T, columns)),
                put(tree.W_dec, decoder),
                put(tree.b_enc, bias),
                put(tree.threshold, threshold),
            ),
        )

    none, nothing = jnp.zeros_like(fields), jnp.zeros(number)
    model = given(model, fields, fields, nothing, mean_threshold)
    moments = Moments(*(given(moment, none, none, nothing, nothing) for moment in moments))
    wake = wake[:, 0]
    power = power.at[who].set(jnp.where(wake, jnp.mean(power), power[who]))
    return model, moments, power, idle.at[who].set(jnp.where(wake, 0, idle[who]))


def finished(state: Training, samples: np.ndarray) -> Autoencoder:
    """The autoencoder of the samples as they are, its thresholds set so that `active` units pass on average."""
    model, scale = state.model, state.scale
    centre = state.mean @ model.W_enc
    model = dataclasses.replace(
        model,
        b_enc=model.b_enc / scale - centre,
        b_dec=model.b_dec / scale + state.mean,
        threshold=model.threshold / scale,
        price=model.price / scale,
    )
    return level(model, samples)


def level(model: Autoencoder, samples: Any) -> Autoencoder:
    """`model` with thresholds, and the price, set anew so that `active` units are active on average on these samples.

    Args:
        model: A trained autoencoder.
        samples: Shape (samples, inputs); where units compete, at most 2,048 of them, evenly spread, are looked at.
    """
    model = _calibrated(model, jnp.asarray(samples, jnp.float32))
    return _priced(model, samples[:: -(-len(samples) // 2048)]) if model.kind == "competition" else model


@eqx.filter_jit
def _calibrated(model: Autoencoder, samples: Array) -> Autoencoder:
    drive = model.drive(samples)
    if model.kind == "jumprelu":
        threshold = model.threshold * common_price(drive / model.threshold[None], model.active)
    else:
        threshold = jnp.broadcast_to(common_price(drive, model.active), model.threshold.shape)
    return dataclasses.replace(model, threshold=threshold)


def _priced(model: Autoencoder, samples: Array) -> Autoencoder:
    """Set the price at which `active` units stay active on average where they compete."""
    for _ in range(8):
        count = np.count_nonzero(model.encode(samples)) / len(samples)
        model = dataclasses.replace(model, price=model.price * (max(count, 1e-3) / model.active) ** 0.5)
    return model
