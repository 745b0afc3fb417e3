"""Objectives of the experts' own: what the tokens that an expert serves gain from it, and what it earns.

Under the global loss every expert follows its share of one gradient. Here expert e follows its customers alone. With h
a token's hidden state before the experts, g f_e(x) what expert e would add to it, and ℓ the loss of the next byte as
the final norm and unembedding read it from that state, the token's gain is measured on the spot:

    gain_ie = ℓ_i(context_ie) − ℓ_i(context_ie + g_ie f_e(x_i))

To first order in f, and with ℓ the loss at the network's end, the gradient of Σ gain would be the global one; it is
the local reading that makes the objective the expert's own. What it maximises depends on how it is paid:

* "gain": all that its tokens gain, as if each paid what the expert is worth to it; context = h, the expert alone.
* "marginal": the same, beside the token's other experts: context = h + Σ of their contributions. What another expert
  already gives earns nothing. In the last block this has the gradient of the global loss, and in the blocks before
  that of the loss read there, as in layers trained one by one.
* "revenue": one posted price for all. A token buys with probability σ((gain − price) / τ), so that the expert earns
  price · Σ_i σ(·); the price is the one that earns most at the batch's gains, and the parameters follow what is then
  earned. By the envelope theorem the price's own dependence on them adds nothing. Customers far from the margin count
  little, as they do to a monopolist.

Places remain scarce and are still cleared by the router's prices, which are in units of affinity; gains and posted
prices are in nats.

References:
    Myerson (1981), Optimal auction design, section 5, the posted price of a single good; Clarke (1971) for payment by
    marginal contribution; nostalgebraist (2020), "Interpreting GPT: the logit lens", for reading hidden states through
    the last layer; Belilovsky, Eickenberg & Oyallon (2019) for layers that learn from losses of their own.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float, Int

OBJECTIVES = ("global", "gain", "marginal", "revenue")
"""What experts can follow: the network's loss, or one of their own."""

TEMPERATURE = 0.5
"""How gradually demand falls around a posted price, τ, over the standard deviation of the gains of its customers."""

TRIALS = 32
"""So many posted prices are tried."""


class Trade(NamedTuple):
    """What one layer's experts sold to one batch; no gradient flows from it.

    Args:
        served: Tokens served, of each expert.
        gain: What they gained together, nats.
        price: The posted price that earned most, nats.
        revenue: What the expert earned at it, nats; the tokens that bought times the price.
    """

    served: Float[Array, " experts"]
    gain: Float[Array, " experts"]
    price: Float[Array, " experts"]
    revenue: Float[Array, " experts"]


def frozen(tree):
    """Return a tree through whose arrays no gradient flows."""
    return jax.tree.map(lambda leaf: stop_gradient(leaf) if eqx.is_inexact_array(leaf) else leaf, tree)


def expert_objective(
    kind: str,
    outputs: Float[Array, "experts places width"],
    gate: Float[Array, "experts places"],
    place: Int[Array, "experts places"],
    hidden: Float[Array, "tokens width"],
    readout: Callable[[Array], Array],
    targets: Int[Array, " tokens"],
) -> tuple[Float[Array, ""], Trade]:
    """Return a loss whose gradient with respect to each expert's outputs is that of its own objective, and accounts.

    The loss is minus the sum of all experts' objectives over the number of tokens. Since expert e's objective depends
    on no other expert's outputs but through constants, one gradient of the sum moves each along its own.

    Args:
        kind: "gain", "marginal" or "revenue"; see this module.
        outputs: f_e(x) of the token at each place; gradients flow through this alone.
        gate: The outputs' weights.
        place: The token at each place; the number of tokens, where a place is empty.
        hidden: State before the experts add to it.
        readout: From states (..., width) to logits (..., classes); a pytree, such as a module, held constant.
        targets: The class that each token should predict.

    Raises:
        ValueError: if there is no such objective.
    """
    if kind not in OBJECTIVES[1:]:
        raise ValueError(f"there is no objective {kind!r} of an expert's own; there are {', '.join(OBJECTIVES[1:])}")
    gain = stop_gradient(gate)[..., None] * outputs
    gain = measured_gain(gain, place, hidden, readout, targets, beside=kind == "marginal")
    sold = place < hidden.shape[0]
    price, revenue = posted(gain, sold)
    earned = revenue if kind == "revenue" else jnp.sum(gain, axis=1)
    trade = Trade(jnp.sum(sold, axis=1).astype(gain.dtype), jnp.sum(gain, axis=1), price, revenue)
    return -jnp.sum(earned) / hidden.shape[0], frozen(trade)


def measured_gain(
    added: Float[Array, "experts places width"],
    place: Int[Array, "experts places"],
    hidden: Float[Array, "tokens width"],
    readout: Callable[[Array], Array],
    targets: Int[Array, " tokens"],
    *,
    beside: bool = False,
) -> Float[Array, "experts places"]:
    """Return what the token at each place gains from what is added to its state, nats; 0 where a place is empty.

    Args:
        added: What each expert adds, gate included; gradients flow through this alone, each place's through its own.
        place: As for `expert_objective`.
        hidden: As for `expert_objective`.
        readout: As for `expert_objective`.
        targets: As for `expert_objective`.
        beside: Whether the gain is counted beside what the token's other experts add, or alone.
    """
    hidden, readout, constant = stop_gradient(hidden), frozen(readout), stop_gradient(added)
    if beside:
        hidden = hidden.at[place].add(constant, mode="drop")
    context = hidden.at[place].get(mode="fill", fill_value=0)
    if beside:
        context = context - constant
    target = targets.at[place].get(mode="fill", fill_value=0)

    def loss(state: Array) -> Array:
        logits = readout(state)
        chosen = jnp.take_along_axis(logits, target[..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(logits, axis=-1) - chosen

    return jnp.where(place < len(hidden), loss(context) - loss(context + added), 0.0)


def posted(
    gain: Float[Array, "experts places"], sold: Array, temperature: float = TEMPERATURE
) -> tuple[Float[Array, " experts"], Float[Array, " experts"]]:
    """Return the price at which each expert earns most, a constant, and what it earns, nats.

    Args:
        gain: What each place is worth to its token, nats.
        sold: Whether there is a token at the place.
        temperature: τ over the standard deviation of the gains of the expert's customers.
    """
    fixed = stop_gradient(gain)
    spread = jnp.maximum(temperature * jnp.std(fixed, axis=1, where=sold), 1e-6)
    spread = jnp.where(jnp.any(sold, axis=1), spread, 1.0)
    span = jnp.max(fixed, axis=1, where=sold, initial=0.0) + 3 * spread

    def earned(price: Array, gains: Array) -> Array:
        bought = jax.nn.sigmoid((gains - price[:, None]) / spread[:, None])
        return price * jnp.sum(bought, axis=1, where=sold)

    shares = jnp.arange(1, TRIALS + 1, dtype=gain.dtype) / TRIALS
    best = jnp.argmax(jax.lax.map(lambda share: earned(share * span, fixed), shares), axis=0)
    price = shares[best] * span
    return price, earned(price, gain)
