"""What came of one router: how its model predicts, whom its experts serve, and whether a batch's market cleared."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from ..certificate import Certificate
from .certify import certify
from .compare import TRAIN_VIOLATION, held_scores, served
from .model import LanguageModel, sequences
from .problem import Routing
from .text import CLASSES, Corpus, byte_class, windows
from .trade import accounts

SAMPLE = 8
"""Windows of each domain on which experts' accounts are taken."""

GAP = 5e-3
"""What training's clearing of a batch, a few sweeps from the last price, has to reach; `assign_experts` goes on."""


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
    """What came of one router.

    Args:
        router: Its name.
        curve: What was recorded of training: "step" and "loss" of shape (records,); with experts also
            "max_violation", and "load" and "price" of shape (records, layers, experts).
        scores: What is compared, by the names in `compare.MEASURES`; NaN where there is nothing to measure.
        domains: Validation loss of each domain, nats per byte.
        served: By "domain" and "byte" the kinds' names, and how often each expert of each layer serves each kind, an
            array (layers, experts, kinds); empty without experts.
        accounts: "gain" and "revenue" of each expert (`trade.accounts`), nats per token of a sample of the held-out
            text, (layers, experts); empty without experts.
        certificates: Of the market of one batch, and of balance; none for other routers.
        text: What the model wrote.
    """

    router: str
    curve: Mapping[str, np.ndarray]
    scores: dict[str, float]
    domains: Mapping[str, float]
    served: Mapping[str, tuple[Sequence[str], np.ndarray]]
    accounts: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    certificates: Sequence[Certificate] = ()
    text: str = ""


def judge(
    router: str, model: LanguageModel, states: PyTree, held: Corpus, rows: Sequence[Mapping[str, Any]], batch: int
) -> Judged:
    """Measure a trained model on text that it has not seen, at the frozen prices.

    Args:
        router: Its name.
        model: The model.
        states: The routers', calibrated.
        held: The text.
        rows: What was recorded of its training, in order.
        batch: Windows at once.
    """
    (scores, found), curve = held_scores(model, states, held, batch=batch), curve_of(rows)
    kinds: dict[str, tuple[Sequence[str], np.ndarray]] = {}
    earned: dict[str, np.ndarray] = {}
    if len(found.load):
        scores[TRAIN_VIOLATION] = float(curve["max_violation"].max())
        scores["dropped in training"] = float(curve["dropped"].max())
        kinds["domain"] = (found.domains, served(found, found.domain, len(found.domains)))
        kinds["byte"] = (CLASSES, served(found, byte_class(found.tokens), len(CLASSES)))
        some = jnp.asarray(windows(held, model.shape.context, SAMPLE)[0], jnp.int32)
        trade = accounts(model, states, some)
        earned = {name: np.asarray(getattr(trade, name)) / some[:, 1:].size for name in ("gain", "revenue")}
    return Judged(router, curve, scores, dict(zip(found.domains, found.loss.tolist(), strict=True)), kinds, earned)


def curve_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Turn a training's records into arrays, one for each name, records first."""
    return {name: np.array([row[name] for row in rows]) for name in rows[0] if name != "router"} if rows else {}


def certify_batch(model: LanguageModel, states: PyTree, held: Corpus, batch: int) -> list[Certificate]:
    """Check one batch of the market, cleared as in training, by what `certify` knows of assignments alone.

    Args:
        model: With experts on a market.
        states: The routers'.
        held: Text; its first windows are the batch.
        batch: How many windows.

    Returns:
        For each certificate, the layer where it is largest.
    """
    cut, _ = windows(held, model.shape.context, batch)
    affinity, chosen, price = map(np.asarray, _cleared(model, states, jnp.asarray(cut[:batch, :-1], jnp.int32)))
    router = model.blocks.layer.router
    places = router.places(affinity.shape[1])
    found = [
        certify(Routing(layer, router.active, places), experts, prices, GAP)
        for layer, experts, prices in zip(affinity, chosen, price, strict=True)
    ]
    return [max(same, key=lambda one: one.value) for same in zip(*found, strict=True)]


@eqx.filter_jit
def _cleared(
    model: LanguageModel, states: PyTree, tokens: Int[Array, "batch time"]
) -> tuple[Float[Array, "blocks tokens experts"], Int[Array, "blocks tokens active"], Float[Array, "blocks experts"]]:
    """Clear the market of a batch in every layer: the affinities, who was chosen, and the prices."""

    def mix(block, hidden, x, state, offset):
        del hidden, offset
        layer = block.layer
        known = sequences(tokens)
        added, after, routed = layer.serve(x, state, train=True, **known)
        chosen = jnp.where(routed.kept, routed.chosen, -1)
        return added, state, (layer.affinities(x, **known), chosen, after.price)

    return model.through(tokens, states, mix)[2]
