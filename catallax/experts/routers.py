"""Routers: which experts serve a token, at which price, under enforced capacity; the market and every rival alike.

A token takes the k experts of highest score − price. Prices enter the selection only; a gate, the weight of an
expert's output, comes from affinities alone. The price is plain state, handed in and handed back, and no gradient
passes through it.
"""

import functools
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from .clear import assign, total
from .dispatch import admit, arrive, named, seat
from .rivals import ROUTERS, RouterState, Rule, Terms, admitted, average, hashed, parted, raw

MOVING = 0.2
"""How far a price that moves along a batch goes when a position asks for twice its mean load, in units of how far the
scores of a token spread over the experts: their standard deviation, the mean of the tokens at that position."""

BAR = 0.1
"""How much an expert must weigh in a token's gate, at inference, for every position's places that it has served too
many: of 0.02, 0.05, 0.1 and 0.2 the one with the least loss, by little (two seeds that are in no table)."""


class Logs(eqx.Module):
    """What a step shows about its routing; over all devices if tokens are spread over several.

    Args:
        max_violation: MaxVio: (largest load − mean load)/mean load, of demand before repair and capacity.
        dropped: Share of the demanded (token, expert) pairs that are not served.
        unserved: Share of tokens that no expert serves.
        entropy: Of the loads' shares, in nats; log(experts) when balanced.
        dead: Experts that no token demands.
        load: Tokens that demand each expert, before repair and capacity.
        loss: What the router adds to the training loss: the auxiliary loss, and what `decisive` asks for; otherwise 0.
            Alone of these it has a gradient.
    """

    max_violation: Float[Array, ""]
    dropped: Float[Array, ""]
    unserved: Float[Array, ""]
    entropy: Float[Array, ""]
    dead: Int[Array, ""]
    load: Int[Array, " experts"]
    loss: Float[Array, ""]


class Routed(eqx.Module):
    """Who serves whom.

    Args:
        place: The token in each of an expert's places; the number of tokens where a place is empty.
        gate: Weight of the expert's output for that token; 0 where a place is empty.
        chosen: k experts for each token. Where tokens may take more or fewer (expert choice, thresholds): the k best
            that serve it.
        kept: Which of those serve the token.
        logs: See `Logs`.
    """

    place: Int[Array, "experts capacity"]
    gate: Float[Array, "experts capacity"]
    chosen: Int[Array, "tokens active"]
    kept: Bool[Array, "tokens active"]
    logs: Logs

    @property
    def loss(self) -> Float[Array, ""]:
        """What the router adds to the training loss."""
        return self.logs.loss


class Router(eqx.Module):
    """Assign tokens to experts.

    Args:
        kind: One of `ROUTERS`: "market" clears the current batch; "none" balances nothing; "auxiliary" adds a loss;
            "sign" and "proportional" move biases after the batch; "late" takes quantiles of the last batch;
            "sinkhorn" and "auction" balance the batch by other means; in "choice" experts choose tokens; "hash" goes
            by the token's number; "threshold" takes tokens above a slowly moving threshold.
        experts: How many experts.
        active: k, experts per token.
        capacity_factor: Places per expert, in units of k·tokens/experts.
        rate: The rule's own speed, strength or tolerance (see `rivals`); the published one by default. With `causal`,
            the step of the price.
        repair: In training, move tokens above capacity to experts with room instead of dropping them; by default as
            the rule was published (market and auction do).
        frozen: Price at inference: "average", "last" or "none"; the default lets every rule evaluate with the price it
            learnt. Sinkhorn and the auction were published with "none".
        gates: "chosen": softmax over the experts that serve the token; "all": over all of them. By default "chosen",
            except where the number of experts varies or k = 1 would leave the affinities without a gradient.
        causal: A price for every sequence, moved from token to token by the demand of the sequence's earlier tokens;
            it starts from the average of all earlier ones. For the market only. (See also `moving` of a call.)
        threshold: A token takes every expert that is worth its price, instead of k. For the market only.
        horizon: Batches over which the average price reaches back.
        decisive: Weight of a loss that asks tokens to be decided: the mean entropy, in nats, of softmax(affinity −
            price). While prices keep the balance it sharpens who serves whom; without them all would decide for one.
        vacant: Share of its places that an expert closes in training, in the mean: none to twice as many, drawn for
            each expert and batch. At inference, where a frozen price asks some experts for more than they serve, tokens
            must do with an expert less; so the network learns to.
        bar: How much an expert must weigh in the gate of a token, for every position's places that it has served too
            many (`dispatch.admit`): so the tokens that do without are those who lose least. By default 0 in training,
            which serves in order of arrival, as rules were published, and `BAR` at inference, where calls give
            `length`.

    Raises:
        ValueError: for an unknown kind, k > experts, or options that do not go together.

    Reference:
        Bridle, Heading & MacKay (1991), Unsupervised classifiers, mutual information and 'phantom targets', for
        `decisive`: what an expert tells of its tokens is the entropy of the loads, which prices keep at its most, less
        the mean entropy of a token's choice.
    """

    kind: str = eqx.field(static=True)
    experts: int = eqx.field(static=True)
    active: int = eqx.field(static=True)
    capacity_factor: float = eqx.field(static=True, default=1.0, kw_only=True)
    rate: float | None = eqx.field(static=True, default=None, kw_only=True)
    repair: bool | None = eqx.field(static=True, default=None, kw_only=True)
    frozen: str | None = eqx.field(static=True, default=None, kw_only=True)
    gates: str | None = eqx.field(static=True, default=None, kw_only=True)
    causal: bool = eqx.field(static=True, default=False, kw_only=True)
    threshold: bool = eqx.field(static=True, default=False, kw_only=True)
    horizon: int = eqx.field(static=True, default=100, kw_only=True)
    vacant: float = eqx.field(static=True, default=0.0, kw_only=True)
    bar: float | None = eqx.field(static=True, default=None, kw_only=True)
    decisive: float = eqx.field(static=True, default=0.0, kw_only=True)

    def __check_init__(self):
        if self.kind not in ROUTERS:
            raise ValueError(f"no router {self.kind!r}; there are {', '.join(ROUTERS)}")
        if not 1 <= self.active <= self.experts:
            raise ValueError(f"a token takes {self.active} of {self.experts} experts; give 1 to {self.experts}")
        if not self.capacity_factor > 0:
            raise ValueError(f"capacity_factor is {self.capacity_factor}; experts need places: give more than 0")
        if not 0 <= self.vacant <= 0.5:
            raise ValueError(f"vacant is {self.vacant}; it is a share of an expert's places, from 0 to 0.5")
        if self.vacant and self._worth:
            raise ValueError(f"vacant is for routers whose tokens choose k experts, not for {self.kind!r}")
        if self.bar is not None and not 0 <= self.bar < math.inf:
            raise ValueError(f"bar is {self.bar}; it is a weight in a gate, from 0")
        if not 0 <= self.decisive < math.inf:
            raise ValueError(f"decisive is {self.decisive}; it is the weight of a loss, from 0")
        if self.decisive and (self._worth or self.rule.score is not raw):
            raise ValueError(f"decisive is for routers whose tokens choose k by affinity, not for {self.kind!r}")
        if (self.causal or self.threshold) and self.kind != "market":
            raise ValueError(f"causal and threshold are options of the market, not of {self.kind!r}")
        if self.causal and self.threshold:
            raise ValueError("causal and threshold do not go together")
        for name, choices in (("frozen", ("average", "last", "none")), ("gates", ("chosen", "all"))):
            if getattr(self, name) not in (None, *choices):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it is one of {', '.join(choices)}")

    @property
    def rule(self) -> Rule:
        """The rule behind the name."""
        return ROUTERS[self.kind]

    def start(self) -> RouterState:
        """Return the state before the first batch: all prices 0."""
        return RouterState(jnp.zeros(self.experts), jnp.zeros(self.experts), jnp.zeros((), jnp.int32))

    def places(self, tokens: int, capacity_factor: float | None = None) -> int:
        """Places per expert for a number of tokens."""
        factor = self.capacity_factor if capacity_factor is None else capacity_factor
        # Rounded up, but not for the last bit of a factor like 1.1.
        return min(tokens, max(1, math.ceil(factor * self.active * tokens / self.experts - 1e-6)))

    def __call__(
        self,
        affinity: Float[Array, "tokens experts"],
        state: RouterState,
        *,
        train: bool = True,
        tokens: Int[Array, " tokens"] | None = None,
        length: int | None = None,
        price_offset: Float[Array, " experts"] | None = None,
        capacity_factor: float | None = None,
        repair: bool | None = None,
        moving: bool = False,
        axis_name: str | None = None,
    ) -> tuple[Routed, RouterState]:
        """Route a batch.

        Args:
            affinity: Router logits.
            state: From `start`, or the last batch's.
            train: Find or move the price. Otherwise the frozen price is used, so that no token's experts depend on
                another token, and the state comes back unchanged.
            tokens: Token numbers, for "hash".
            length: Tokens per sequence, the batch being whole sequences one after another; for `causal`, `moving` and
                `bar`. At inference they advance together then, as when many texts are written at once, and places
                come free from position to position; without it, places are given as tokens stand.
            price_offset: Added to prices; +inf removes an expert.
            capacity_factor: Instead of the router's own.
            repair: Instead of the router's own; at inference False by default.
            moving: At inference, let the frozen price follow what the batch asks for: the price of a token has heard
                of earlier positions alone (its place also of earlier sequences at its own). Where tokens take what
                exceeds a threshold, or go where their number says, prices stay frozen.
            axis_name: Axis of `jax.shard_map` or `jax.vmap` over which tokens are spread. Prices and logs are then of
                all tokens, capacity and places those of each device.

        Returns:
            Who serves whom, and the state for the next batch.
        """
        if affinity.ndim != 2 or affinity.shape[1] != self.experts:
            raise ValueError(f"affinity has the shape {affinity.shape}; it is (tokens, {self.experts})")
        # As fine as prices are, whatever the network computes in.
        affinity = affinity.astype(state.price.dtype)
        capacity = self.places(len(affinity), capacity_factor)
        rate = self.rule.rate if self.rate is None else self.rate
        tokens_everywhere = len(affinity) * (1 if axis_name is None else lax.axis_size(axis_name))
        terms = Terms(self.active, -(-self.active * tokens_everywhere // self.experts), rate, axis_name)
        removed = jnp.zeros(self.experts, bool) if price_offset is None else jnp.isposinf(price_offset)
        offset = 0.0 if price_offset is None else jnp.where(removed, 0, price_offset)
        score = lax.stop_gradient(self.rule.score(affinity, tokens) - jnp.broadcast_to(offset, self.experts)[None])
        # No price can tell tokens that go where their number says, or that take all above a threshold.
        moving = moving and not (train or self._worth or self.causal or self.rule.score is hashed)
        if train and not (self.causal or self.threshold):
            score = parted(score, self.rule.parting, axis_name)
        # Finite for the rules that find prices, but worse than any other. A price that moves falls without end.
        bounded = jnp.where(removed[None], -jnp.inf if moving or self.causal else score.min() - 10, score)
        price = self._price(bounded, state, terms, train, length)
        if moving:
            price = self._along(bounded, price, terms, length, together=True)
        if repair is None:
            # A repair looks at the whole batch, which causal prices are there to avoid.
            repair = train and (self.rule.repair and not self.causal if self.repair is None else self.repair)
        opened = self._opened(capacity, state) if train and self.vacant else None
        # Where sequences advance together, unless a repair finds a place for all.
        along = length is not None and not train and not repair
        bar = (BAR if along else 0.0) if self.bar is None else self.bar
        admission = None
        if bar or along:
            places = jnp.full(self.experts, capacity, jnp.int32) if opened is None else opened
            admission = functools.partial(self._admission, lax.stop_gradient(affinity), places, length, bar)
        choice = self._choose(score, price, removed, capacity, repair, opened, admission)
        load = total(choice.load, axis_name)
        loss = self._loss(affinity, price, load, rate, axis_name)
        logs = _logs(choice, load, loss, axis_name)
        routed = Routed(choice.place, self._gate(affinity, choice), choice.chosen, choice.kept, logs)
        return routed, self._remember(state, bounded, price, load, terms) if train else state

    def settle(self, affinity: Float[Array, "tokens experts"], state: RouterState) -> RouterState:
        """Freeze the price that suits the tokens of many batches together, in place of the average.

        Args:
            affinity: Router logits, finite.
            state: As training left it; rules that are evaluated with the last price, or with none, keep it.
        """
        rule = admitted if self.threshold else self.rule.settle
        if rule is None:
            return state
        score = self.rule.score(affinity.astype(state.price.dtype), None)
        rate = self.rule.rate if self.rate is None else self.rate
        price = rule(score, state, Terms(self.active, -(-self.active * len(score) // self.experts), rate, None))
        return eqx.tree_at(lambda state: state.average, state, lax.stop_gradient(price))

    @property
    def _worth(self) -> bool:
        return self.threshold or self.rule.worth

    def _price(self, score: Array, state: RouterState, terms: Terms, train: bool, length: int | None) -> Array:
        """The price at which a batch is served: (experts,), or (tokens, experts) if causal."""
        if self.causal:
            return self._along(score, lax.stop_gradient(state.average), terms, length, together=False)
        if train:
            before = admitted if self.threshold else self.rule.before
            return before(score, lax.stop_gradient(state), terms)
        frozen = self.rule.frozen if self.frozen is None else self.frozen
        prices = {"average": state.average, "last": state.price, "none": jnp.zeros_like(state.price)}
        return lax.stop_gradient(prices[frozen])

    def _along(self, score: Array, start: Array, terms: Terms, length: int | None, *, together: bool) -> Array:
        """Tâtonnement along sequences: a token's price has heard of earlier positions alone, (tokens, experts).

        Of its own sequence, or of all that advance `together`. Then the step is `MOVING` spreads of the scores for an
        excess of a position's mean load, which is counted as one token at least.
        """
        length = _whole(length, len(score))
        supply = self.active / self.experts
        sequences = score.reshape(-1, length, self.experts).swapaxes(0, 1)
        rate = jnp.full(length, terms.rate, score.dtype)
        if together:
            everywhere = sequences.shape[1] * (1 if terms.axis_name is None else lax.axis_size(terms.axis_name))
            spread = jnp.std(sequences, axis=2, where=sequences > -jnp.inf).mean(axis=1)
            spread = spread if terms.axis_name is None else lax.pmean(spread, terms.axis_name)
            rate = spread * (MOVING / max(1.0, everywhere * supply))

        def step(price: Array, each: tuple[Array, Array]) -> tuple[Array, Array]:
            score, rate = each
            best = lax.top_k(score - price, self.active)[1]
            excess = jax.nn.one_hot(best, self.experts, dtype=price.dtype).sum(axis=1) - supply
            if together:
                excess = total(excess.sum(axis=0, keepdims=True), terms.axis_name)
            return price + rate * excess, price

        first = jnp.broadcast_to(start, sequences.shape[1:])
        return lax.scan(step, first, (sequences, rate))[1].swapaxes(0, 1).reshape(score.shape)

    def _opened(self, capacity: int, state: RouterState) -> Array:
        """How many of its places each expert fills in this batch, drawn by the batch's number."""
        drawn = hashed(state.price[None], state.count[None])[0]
        return capacity - (2 * self.vacant * capacity * drawn).astype(jnp.int32)

    def _admission(self, affinity: Array, places: Array, length: int | None, bar: float, demand: Array) -> Array:
        """Which of the pairs that are asked for are served where experts look at weights; see `admit`."""
        length = _whole(length, len(affinity))
        weight = jax.nn.softmax(jnp.where(demand, affinity, -jnp.inf), axis=1)
        return admit(demand, weight, places, length, bar)

    def _choose(
        self,
        score: Array,
        price: Array,
        removed: Array,
        capacity: int,
        repair: bool,
        opened: Array | None,
        admission: Callable[[Array], Array] | None,
    ) -> "_Choice":
        surplus = jnp.where(removed[None], -jnp.inf, score - jnp.broadcast_to(price, score.shape))
        if self._worth:
            demand = surplus > 0
            place, served = arrive(demand if admission is None else admission(demand), capacity)
            best, chosen = lax.top_k(jnp.where(served, score, -jnp.inf), self.active)
            pairs, load = (jnp.sum(each, axis=axis, dtype=jnp.int32) for each, axis in ((served, None), (demand, 0)))
            return _Choice(place, chosen, best > -jnp.inf, load, pairs, ~jnp.any(served, axis=1))
        if repair:
            taken = assign(surplus, jnp.zeros_like(surplus[0]), self.active, capacity)
            chosen, wanted, load = taken.chosen, taken.kept, taken.load
        else:
            best, chosen = lax.top_k(surplus, self.active)
            wanted, load = best > -jnp.inf, None
        if admission is not None:
            demand = named(chosen, wanted, self.experts)
            load = jnp.sum(demand, axis=0, dtype=jnp.int32) if load is None else load
            wanted = wanted & jnp.take_along_axis(admission(demand), chosen, axis=1)
        place, kept, count = seat(chosen, wanted, self.experts, capacity, opened)
        load = count if load is None else load
        return _Choice(place, chosen, kept, load, jnp.sum(kept, dtype=jnp.int32), ~jnp.any(kept, axis=1))

    def _gate(self, affinity: Array, choice: "_Choice") -> Array:
        """Softmax over the experts that serve the token, or over all, at every place."""
        default = "all" if self.active == 1 and self.rule.score is not hashed else self.rule.gates
        gates = ("all" if self.threshold else default) if self.gates is None else self.gates
        among = affinity
        if gates == "chosen":
            own = jnp.take_along_axis(affinity, choice.chosen, axis=1)
            # A token that no expert serves gets a finite normaliser, since NaN times 0 is NaN in its gradient.
            among = jnp.where(choice.kept | choice.unserved[:, None], own, -jnp.inf)
        norm = jax.nn.logsumexp(among, axis=1)
        filled = choice.place < len(affinity)
        token = jnp.where(filled, choice.place, 0)
        expert = jnp.arange(self.experts, dtype=jnp.int32)[:, None]
        share = jnp.exp(affinity[token, expert] - norm[token])
        return jnp.where(filled, share, 0)

    def _loss(self, affinity: Array, price: Array, load: Array, rate: float, axis_name: str | None) -> Array:
        """α · experts · Σₑ fₑ Pₑ for the auxiliary loss, and what `decisive` asks for.

        f is the share of demand, P the mean of softmax(affinity).

        Reference:
            Fedus, Zoph & Shazeer (2021), Switch transformers, eq. 4-6, after Shazeer et al. (2017), eq. 6-7.
        """
        mean = functools.partial(average, axis_name=axis_name)
        loss = jnp.zeros((), affinity.dtype)
        if self.kind == "auxiliary":
            share = load.astype(affinity.dtype) / jnp.maximum(load.sum(), 1).astype(affinity.dtype)
            loss = rate * self.experts * jnp.sum(share * mean(jax.nn.softmax(affinity, axis=1)))
        if self.decisive:
            price = jnp.broadcast_to(lax.stop_gradient(price), affinity.shape)
            log = jax.nn.log_softmax(affinity - price, axis=1)
            loss = loss - self.decisive * mean(jnp.sum(jnp.exp(log) * log, axis=1))
        return loss

    def _remember(self, state: RouterState, score: Array, price: Array, load: Array, terms: Terms) -> RouterState:
        if self.causal:
            # The mean over tokens: where a sequence starts from, next time.
            price = price.mean(axis=0)
            price = price if terms.axis_name is None else lax.pmean(price, terms.axis_name)
        else:
            price = self.rule.after(score, price, load, terms)
        count = state.count + 1
        rate = 1 / jnp.minimum(count, self.horizon).astype(price.dtype)
        return RouterState(*lax.stop_gradient((price, state.average + rate * (price - state.average), count)))


def _whole(length: int | None, tokens: int) -> int:
    """Return the tokens per sequence, where they are needed."""
    if length is None or tokens % length:
        raise ValueError(
            f"causal and moving prices, and a bar, need length=, tokens per sequence, of which {tokens} is a multiple"
        )
    return length


class _Choice(eqx.Module):
    """Places and choices, before gates; `pairs` counts the (token, expert) pairs that are served."""

    place: Array
    chosen: Array
    kept: Array
    load: Array
    pairs: Array
    unserved: Array


def _logs(choice: _Choice, load: Array, loss: Array, axis_name: str | None) -> Logs:
    pairs, alone, tokens = choice.pairs, choice.unserved.sum(dtype=jnp.int32), len(choice.unserved)
    if axis_name is not None:
        pairs, alone = total((pairs, alone), axis_name)
        tokens *= lax.axis_size(axis_name)
    count = load.astype(jnp.float32)
    demanded = jnp.maximum(count.sum(), 1)
    share = count / demanded
    return Logs(
        max_violation=count.max() / (demanded / len(load)) - 1,
        dropped=1 - pairs.astype(jnp.float32) / demanded,
        unserved=alone.astype(jnp.float32) / tokens,
        entropy=-jnp.sum(jax.scipy.special.xlogy(share, share)),
        dead=jnp.sum(load == 0, dtype=jnp.int32),
        load=load,
        loss=loss,
    )
