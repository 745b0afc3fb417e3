"""A trained language model as it is used: prices frozen, places enforced, on text that it has not seen."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt8

from .model import DENSE, LanguageModel, loss_per_token, sequences
from .text import Corpus, check, windows


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


def calibrate(model: LanguageModel, states: PyTree, corpus: Corpus, *, batch: int = 16, most: int = 1024) -> PyTree:
    """Set the price that is frozen at inference anew: the one that suits windows of the text learnt from, all together.

    In training the average price lags behind parameters that still move. Here they rest, as when the statistics of
    batch normalisation are taken anew after training. The windows are served as often as there are blocks, since what a
    block reads hangs on the prices of those before it. Routers that are evaluated with the last price, or with none,
    keep it.

    Args:
        model: The trained model; it does not change.
        states: The routers', as training left them.
        corpus: The texts that it learnt from.
        batch: Windows at once; the last few that fill no batch are left out, where there is another.
        most: At most so many windows of each domain, evenly spaced.

    Returns:
        The states with the new average.

    Raises:
        InputError: if a domain has no whole window.
    """
    context = model.shape.context
    check(corpus, context)
    if model.shape.router == DENSE or model.blocks.layer.router.rule.settle is None:
        return states
    cuts = jnp.asarray(_batches(*windows(corpus, context, most), batch)[0][:, :, :-1], jnp.int32)
    for _ in range(model.shape.blocks):
        seen = [_affinities(model, states, cut) for cut in cuts]
        states = _settled(model, states, jnp.concatenate(seen, axis=1))
    return states


def _batches(cut: np.ndarray, domain: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows in whole batches, (batches, batch, time + 1), and each one's domain."""
    batch = min(batch, len(cut))
    count = len(cut) // batch * batch
    return cut[:count].reshape(-1, batch, cut.shape[1]), domain[:count]


@eqx.filter_jit
def _affinities(model: LanguageModel, states: PyTree, tokens: Array) -> Float[Array, "blocks tokens experts"]:
    known = sequences(tokens)

    def mix(block, hidden, x, state, offset):
        del hidden, offset
        return *block.layer.serve(x, state, train=False, **known)[:2], block.layer.affinities(x, **known)

    return model.through(tokens, states, mix)[2]


@eqx.filter_jit
def _settled(model: LanguageModel, states: PyTree, affinity: Array) -> PyTree:
    return lax.map(lambda each: model.blocks.layer.router.settle(*each), (affinity, states))


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
    batches, domain = _batches(*windows(corpus, context, most), batch)
    count = len(domain)
    options = capacity_factor, moving
    parts = [per_token(model, states, part, price_offset, *options) for part in jnp.asarray(batches)]
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
        tokens=batches[:, :, :-1].reshape(-1),
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
