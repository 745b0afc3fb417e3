"""A trained language model as it is used: prices frozen, places enforced, on text that it has not seen."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt8

from .model import DENSE, LanguageModel, loss_per_token, sequences
from .text import Corpus, check, draw, windows

CALIBRATION = 2**32
"""Batches of calibration are numbered from here, beyond any step of training."""


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """What a model does with text that it has not seen.

    Loads and what follows from them are of all windows together; without experts they have no entries.

    Args:
        domains: The domains' names.
        loss: Nats per byte, by domain.
        load: Tokens that asked for each expert at the frozen price, before capacity was enforced, by block.
        dropped: Share of what was asked for that found no place, by block.
        tokens: The bytes that were read, window by window.
        domain: The domain of each.
        chosen: The experts of each, by block.
        kept: Which of these served it.
    """

    domains: tuple[str, ...]
    loss: Float[np.ndarray, " domains"]
    load: Int[np.ndarray, "blocks experts"]
    dropped: Float[np.ndarray, " blocks"]
    tokens: UInt8[np.ndarray, " tokens"]
    domain: Int[np.ndarray, " tokens"]
    chosen: Int[np.ndarray, "blocks tokens active"]
    kept: Bool[np.ndarray, "blocks tokens active"]

    @property
    def mean_loss(self) -> float:
        """Nats per byte, each domain counting equally, as in training."""
        return float(np.mean(self.loss))

    @property
    def max_violation(self) -> Float[np.ndarray, " blocks"]:
        """MaxVio by block: (largest load − mean load)/mean load."""
        return self.load.max(axis=1) / self.load.mean(axis=1) - 1


def calibrate(
    model: LanguageModel, states: PyTree, corpus: Corpus, *, seed: int = 0, batches: int = 32, batch: int = 16
) -> PyTree:
    """Set the price that is frozen at inference anew: the mean of those that serve training batches from now on.

    In training the average price lags behind parameters that still move. Here they rest, as when the statistics of
    batch normalisation are taken anew after training. Routers that are evaluated with the last price keep it.

    Args:
        model: The trained model; it does not change.
        states: The routers', as training left them.
        corpus: The texts that it learnt from.
        seed: Training's.
        batches: How many batches; none of them was learnt from.
        batch: Windows in each.

    Returns:
        The states with the new average.
    """
    if model.shape.router == DENSE:
        return states
    context = model.shape.context
    check(corpus, context)
    now, total = states, jnp.zeros_like(states.average)
    for number in range(CALIBRATION, CALIBRATION + batches):
        now = _served(model, now, jnp.asarray(draw(corpus, seed, number, batch, context)[0]))
        total = total + now.price
    return eqx.tree_at(lambda state: state.average, states, total / batches)


@eqx.filter_jit
def _served(model: LanguageModel, states: PyTree, cut: Array) -> PyTree:
    return model(cut[:, :-1], states, train=True)[1]


def evaluate(
    model: LanguageModel,
    states: PyTree,
    corpus: Corpus,
    *,
    batch: int = 16,
    capacity_factor: float = 1.0,
    moving: bool = False,
    price_offset: Float[Array, "blocks experts"] | None = None,
    most: int | None = None,
) -> Evaluation:
    """Measure a model on text that it has not seen, at the frozen price, or from it on.

    Equally many windows of each domain, evenly spaced, in batches where the domains take turns. Places are those of a
    batch and come free from position to position; those who find none are dropped, who weigh least (`bar` of `Router`).

    Args:
        model: The model.
        states: The routers', best after `calibrate`.
        corpus: Texts that it has not learnt from.
        batch: Windows at once; the last few windows that fill no batch are left out, where there is another.
        capacity_factor: Places at all experts per place that tokens ask for.
        moving: Let the frozen price follow what each batch asks for, from position to position; see `Router`.
        price_offset: Added to the prices; infinity removes an expert.
        most: At most so many windows of each domain.

    Raises:
        InputError: if a domain has no whole window.
    """
    context = model.shape.context
    check(corpus, context)
    cut, domain = windows(corpus, context, most)
    batch = min(batch, len(cut))
    count = len(cut) // batch * batch
    cut, domain = cut[:count], domain[:count]
    options = capacity_factor, moving
    batches = jnp.asarray(cut.reshape(-1, batch, context + 1))
    parts = [per_token(model, states, part, price_offset, *options) for part in batches]
    losses, seen = jax.tree.map(lambda *each: np.stack([np.asarray(one) for one in each]), *parts)
    by_window = losses.reshape(count, context).mean(axis=1, dtype=np.float64)
    blocks = 0 if model.shape.router == DENSE else model.shape.blocks
    load, dropped, chosen, kept = (np.moveaxis(leaf, 1, 0)[:blocks] for leaf in seen)
    asked = load.sum(axis=-1)
    return Evaluation(
        domains=corpus.names,
        loss=np.array([by_window[domain == one].mean() for one in range(len(corpus))]),
        load=load.sum(axis=1),
        dropped=(dropped * asked).sum(axis=1) / asked.sum(axis=1),
        tokens=cut[:, :-1].reshape(-1),
        domain=np.repeat(domain, context),
        chosen=chosen.reshape(blocks, count * context, chosen.shape[-1]),
        kept=kept.reshape(blocks, count * context, kept.shape[-1]),
    )


@eqx.filter_jit
def per_token(
    model: LanguageModel,
    states: PyTree,
    cut: Int[Array, "batch time+1"],
    price_offset: Float[Array, "blocks experts"] | None = None,
    capacity_factor: float = 1.0,
    moving: bool = False,
) -> tuple[Float[Array, "batch time"], PyTree]:
    """Measure a batch of windows; the arguments are those of `evaluate`.

    Returns:
        Each token's loss, nats; and by block (load, share dropped, chosen experts, which of them served). Without
        experts these are zeros.
    """
    tokens, shape = cut[:, :-1], model.shape

    def mix(block, hidden, x, state, offset):
        del hidden
        if shape.router == DENSE:
            none = jnp.zeros((len(x), shape.active), jnp.int32)
            return block.layer(x), state, (jnp.zeros(shape.experts, jnp.int32), jnp.float32(0), none, none > 0)
        routing = {"train": False, "capacity_factor": capacity_factor, "moving": moving, **sequences(tokens)}
        added, state, routed = block.layer.serve(x, state, price_offset=offset, **routing)
        return added, state, (routed.logs.load, routed.logs.dropped, routed.chosen, routed.kept)

    logits, _, seen = model.through(tokens, states, mix, price_offset)
    return loss_per_token(logits, cut[:, 1:]), seen
