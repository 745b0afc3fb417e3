"""A layer of experts that compete for tokens: a mixture of experts with true dispatch and enforced capacity.

    y_i = Σ_{e chosen by i} gate_ie · f_e(x_i) + Σ_{shared} f_s(x_i)

Tokens are brought into their experts' places, all experts work at once on (experts, places, width), and the outputs
are added back: the work is that of k experts per token.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key

from .dispatch import gather, scatter
from .routers import Logs, Routed, Router, RouterState

FIRST = 0.2
"""How large a router's weights for a token's vector are at first where tokens hear or have a vocabulary, in units of
1/√width: small, so that no kind of token is bound to an expert before experts differ. With 0.5 the loss is less by some
thousandths, and experts know less (four seeds that are in no table)."""


class Expert(eqx.Module):
    """Two dense maps with a GELU between them, without biases.

    Args:
        inward: Shape (width, hidden).
        outward: Shape (hidden, width).
    """

    inward: Float[Array, "width hidden"]
    outward: Float[Array, "hidden width"]

    def __init__(self, width: int, hidden: int, *, key: Key[Array, ""]):
        first, second = jax.random.split(key)
        self.inward = jax.random.normal(first, (width, hidden)) / jnp.sqrt(width)
        self.outward = jax.random.normal(second, (hidden, width)) / jnp.sqrt(hidden)

    def __call__(self, x: Float[Array, "tokens width"]) -> Float[Array, "tokens width"]:
        """Map every token."""
        return jax.nn.gelu(x @ self.inward) @ self.outward


class MarketMoE(eqx.Module):
    """A mixture of experts.

    Args:
        width: Numbers per token, d.
        hidden: Inner width of an expert.
        experts: How many experts.
        active: k, experts per token.
        router: One of `ROUTERS`, or a `Router` made ready.
        capacity_factor: Places per expert, in units of k·tokens/experts.
        shared: Experts that every token uses beside those that it chooses.
        expert: Makes an expert: `expert(width, hidden, key=key)` → a module that maps (tokens, width) to
            (tokens, width), each token for itself; empty places hold zeros, and their outputs go nowhere.
        relative: Affinities count beside those of the sequence's earlier tokens: a_t − Σ_{s<t} a_s / t, t = 1, 2, …; in
            that mean the token itself counts as zero. An expert whom a text suits throughout is not overrun by it, and
            a price that was frozen on one text balances another better. Calls need `length`.
        hears: Tokens hear what their sequence has said so far: affinities depend also on the mean of the vectors of its
            tokens up to this one, by weights that begin at zero. Experts then know more of the text. Calls need
            `length`.
        vocabulary: How many different tokens there are: affinities depend also on the token's number, by a table that
            begins at zero; numbers beyond it count for nothing. Experts then know more of the token. Calls need
            `tokens`. 0 has no table.
        key: For the parameters.

    Attributes:
        affinity: The router's weights, (width, experts).
        hearing: Its weights for what tokens hear, of the same shape; None if they do not.
        table: Its affinities for tokens by number, (vocabulary, experts); None if there is no vocabulary.
        experts: The experts' parameters, stacked on a leading axis: expert e is a slice of every leaf.
        shared: Those that every token uses, stacked alike; None if there are none.
        router: The rule; it holds no parameters. Its state is made by `start`.
        relative: As above.
    """

    affinity: Float[Array, "width experts"]
    hearing: Float[Array, "width experts"] | None
    table: Float[Array, "vocabulary experts"] | None
    experts: Any
    shared: Any
    router: Router
    relative: bool = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        hidden: int,
        experts: int,
        active: int,
        *,
        router: str | Router = "market",
        capacity_factor: float = 1.0,
        shared: int = 0,
        expert: Callable[..., Any] | None = None,
        relative: bool = False,
        hears: bool = False,
        vocabulary: int = 0,
        key: Key[Array, ""],
    ):
        make = Expert if expert is None else expert
        if isinstance(router, str):
            router = Router(router, experts, active, capacity_factor=capacity_factor)
        if (router.experts, router.active) != (experts, active):
            raise ValueError(
                f"the router sends a token to {router.active} of {router.experts} experts, "
                f"the layer has {active} of {experts}"
            )
        own, common, routing = jax.random.split(key, 3)
        first = FIRST if hears or vocabulary else 1.0
        self.affinity = jax.random.normal(routing, (width, experts)) / jnp.sqrt(width) * first
        self.hearing = jnp.zeros((width, experts)) if hears else None
        self.table = jnp.zeros((vocabulary, experts)) if vocabulary else None
        self.experts = _several(make, width, hidden, experts, own)
        self.shared = _several(make, width, hidden, shared, common) if shared else None
        self.router = router
        self.relative = relative

    def start(self) -> RouterState:
        """Return the router's state before the first batch."""
        return self.router.start()

    def __call__(
        self,
        x: Float[Array, "tokens width"],
        state: RouterState,
        *,
        train: bool = True,
        tokens: Int[Array, " tokens"] | None = None,
        length: int | None = None,
        capacity_factor: float | None = None,
        repair: bool | None = None,
        price_offset: Float[Array, " experts"] | None = None,
        axis_name: str | None = None,
    ) -> tuple[Float[Array, "tokens width"], RouterState, Logs]:
        """Let experts work on tokens; see `Router` for the arguments.

        Returns:
            The experts' outputs, the router's next state, and logs, whose `loss` belongs into the training loss.
        """
        y, state, routed = self.serve(
            x,
            state,
            train=train,
            tokens=tokens,
            length=length,
            capacity_factor=capacity_factor,
            repair=repair,
            price_offset=price_offset,
            axis_name=axis_name,
        )
        return y, state, routed.logs

    def serve(
        self, x: Float[Array, "tokens width"], state: RouterState, **options: Any
    ) -> tuple[Float[Array, "tokens width"], RouterState, Routed]:
        """As a call, but return who serves whom instead of the logs alone."""
        routed, state = self.route(x, state, **options)
        y = scatter(self.work(gather(x, routed.place)), routed.gate, routed.place, len(x))
        if self.shared is not None:
            y = y + eqx.filter_vmap(lambda expert: expert(x))(self.shared).sum(axis=0)
        return y, state, routed

    def route(self, x: Float[Array, "tokens width"], state: RouterState, **options: Any) -> tuple[Routed, RouterState]:
        """Return who serves whom, without the experts' work; options as for `Router`."""
        affinity = self.affinities(x, tokens=options.get("tokens"), length=options.get("length"))
        return self.router(affinity, state, **options)

    def affinities(
        self, x: Float[Array, "tokens width"], *, tokens: Int[Array, " tokens"] | None = None, length: int | None = None
    ) -> Float[Array, "tokens experts"]:
        """Return what the router compares: how well each expert suits each token.

        Args:
            x: The tokens' vectors.
            tokens: Their numbers; needed only where there is a vocabulary.
            length: Tokens per sequence; needed only where tokens hear or affinities are relative.

        Raises:
            ValueError: with a vocabulary, for no numbers; where a length is needed, for none, or one that does not
                divide the batch.
        """
        affinity = x @ self.affinity
        if self.table is not None:
            if tokens is None:
                raise ValueError("a layer with a vocabulary needs tokens=, the number of each")
            affinity = affinity + self.table.at[tokens].get(mode="fill", fill_value=0)
        if self.hearing is None and not self.relative:
            return affinity
        if length is None or len(x) % length:
            raise ValueError(
                "a layer that hears, or whose affinities are relative, needs length=, tokens per sequence, "
                f"of which {len(x)} is a multiple"
            )
        if self.relative:
            affinity = affinity - _so_far(affinity, length, itself=False)
        if self.hearing is not None:
            # The mean of weighted vectors is the weighted mean: fewer numbers per token are added up.
            affinity = affinity + _so_far(x @ self.hearing, length, itself=True)
        return affinity

    def work(self, held: Float[Array, "experts capacity width"]) -> Float[Array, "experts capacity width"]:
        """Let every expert work on the tokens in its places."""
        return eqx.filter_vmap(lambda expert, own: expert(own))(self.experts, held)


def _so_far(x: Float[Array, "tokens experts"], length: int, *, itself: bool) -> Float[Array, "tokens experts"]:
    """The mean over each sequence up to every token, which counts as it is itself, or else as zeros."""
    x = x.reshape(-1, length, x.shape[1])
    count = jnp.arange(1, length + 1, dtype=x.dtype)[None, :, None]
    # On CPUs in half the time of a cumulative sum, which is a window's reduction there.
    added = lax.associative_scan(jnp.add, x, axis=1)
    return ((added if itself else added - x) / count).reshape(-1, x.shape[2])


def _several(make: Callable[..., Any], width: int, hidden: int, count: int, key: Key[Array, ""]) -> Any:
    return eqx.filter_vmap(lambda one: make(width, hidden, key=one))(jax.random.split(key, count))
