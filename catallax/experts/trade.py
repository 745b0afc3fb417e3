"""Experts that trade inside a language model: losses to train them by, their accounts, and what each would answer.

    trained = train(corpus, shape, objective=LOSSES["revenue"])

With an objective of the experts' own, all other parameters (attention, embedding, router, gates) still follow the
global loss, whose slope passes through the experts' work to what they read, but not into their parameters; those follow
`expert_objective` alone. Both are one sum with one gradient.
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float, Int, PyTree

from .dispatch import gather, scatter
from .layer import MarketMoE
from .model import LanguageModel, loss_per_token
from .objectives import Trade, expert_objective, frozen
from .train import global_loss


def own_loss(
    kind: str, model: LanguageModel, states: PyTree, windows: Int[Array, "batch time+1"]
) -> tuple[Array, tuple[Array, PyTree, PyTree]]:
    """The objective of a training in which experts follow their own; see `train.Objective`.

    Args:
        kind: As for `expert_objective`.
        model: With experts; not "dense".
        states: The routers'.
        windows: Bytes.

    Returns:
        The sum whose slope is taken, and (nats per byte, the routers' new states, each block's logs).
    """

    def mix(block, hidden, x, state, offset):
        del offset
        layer, (routed, state), common = _routed(block.layer, x, state, windows, train=True)
        outputs = layer.work(gather(stop_gradient(x), routed.place))
        own, _ = expert_objective(kind, outputs, routed.gate, routed.place, hidden + common, model.read, targets)
        # The same work once more, with the slope to its input alone; compiled, the two are one.
        still = eqx.tree_at(lambda layer: layer.experts, layer, frozen(layer.experts))
        added = scatter(still.work(gather(x, routed.place)), routed.gate, routed.place, len(x))
        return added + common, state, (routed.logs, routed.logs.loss + own)

    targets = windows[:, 1:].reshape(-1)
    logits, states, (logs, asked) = model.through(windows[:, :-1], states, mix)
    loss = jnp.mean(loss_per_token(logits, windows[:, 1:]))
    return loss + jnp.sum(asked), (loss, states, logs)


LOSSES: dict[str, Callable] = {
    "global": global_loss,
    **{kind: functools.partial(own_loss, kind) for kind in ("gain", "marginal", "revenue")},
}
"""What `train` descends on, for each of `OBJECTIVES`."""


@eqx.filter_jit
def accounts(
    model: LanguageModel,
    states: PyTree,
    windows: Int[Array, "batch time+1"],
    price_offset: Float[Array, "blocks experts"] | None = None,
) -> Trade:
    """Return what each block's experts sell at the frozen prices, whatever they were trained for.

    Gains are those of an expert alone, as in the objective "gain".

    Args:
        model: With experts; not "dense".
        states: The routers'.
        windows: Bytes.
        price_offset: Added to prices; infinity removes an expert.

    Returns:
        A `Trade` of arrays (blocks, experts).
    """

    def mix(block, hidden, x, state, offset):
        layer, (routed, _), common = _routed(block.layer, x, state, windows, train=False, price_offset=offset)
        outputs = layer.work(gather(x, routed.place))
        hidden = hidden + common
        _, trade = expert_objective("gain", outputs, routed.gate, routed.place, hidden, model.read, targets)
        return common + scatter(outputs, routed.gate, routed.place, len(x)), state, trade

    targets = windows[:, 1:].reshape(-1)
    return model.through(windows[:, :-1], states, mix, price_offset)[2]


@eqx.filter_jit
def answers(
    model: LanguageModel, states: PyTree, windows: Int[Array, "batch time+1"]
) -> Float[Array, "blocks experts tokens width"]:
    """Return what every expert would answer to every token, at the frozen prices, for `measure.redundancy`."""

    def mix(block, hidden, x, state, offset):
        del hidden, offset
        layer, (routed, _), common = _routed(block.layer, x, state, windows, train=False)
        added = scatter(layer.work(gather(x, routed.place)), routed.gate, routed.place, len(x))
        everything = jnp.broadcast_to(x[None], (layer.router.experts, *x.shape))
        return common + added, state, layer.work(everything)

    return model.through(windows[:, :-1], states, mix)[2]


def _routed(layer: MarketMoE, x: Array, state: Any, windows: Array, **options: Any) -> tuple[MarketMoE, Any, Array]:
    """The layer, who serves whom in it with the router's next state, and what shared experts add."""
    tokens = windows[:, :-1]
    routed = layer.route(x, state, tokens=tokens.reshape(-1), length=tokens.shape[1], **options)
    if layer.shared is None:
        return layer, routed, jnp.zeros_like(x)
    return layer, routed, eqx.filter_vmap(lambda expert: expert(x))(layer.shared).sum(axis=0)
