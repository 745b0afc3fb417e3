"""A byte-level language model whose blocks buy their experts' work on a market.

    model = LanguageModel(Shape(experts=16, active=2), key=jax.random.key(0))
    logits, states, logs = model(tokens, model.start(), train=True)

Decoder-only transformer (Vaswani et al. 2017) as now usual: normalisation by root mean square before each part
(Zhang & Sennrich 2019), rotary positions (Su et al. 2021), causal attention. The second part of each block is a
`MarketMoE`; with the router "dense" it is one network of the same floating-point work.
"""

import dataclasses
import json
from collections.abc import Callable
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Key, PyTree
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as pack

from ..errors import InputError
from .layer import Expert, MarketMoE
from .routers import BAR, Router

BYTES = 256
"""The vocabulary: every byte is a token."""

DENSE = "dense"
"""The router of a model without experts: every token uses one network as large as those that it would choose."""

CAUSAL = "causal"
"""The router of a market whose price is every sequence's own and has heard of its earlier tokens alone."""

VACANT = "vacant"
"""The router of a market that is made for a frozen price: its affinities are relative, and in training experts close a
tenth of their places at random and refuse tokens for whom they weigh little."""

CLOSED = 0.1
"""That tenth: it lies between 5% and 15%, of which either gains one of two seeds a few thousandths of a nat; 25% costs
as much (seeds that are in no table)."""

WEIGHED = "weighed"
"""The router `hash` whose experts refuse tokens for whom they weigh little, in training as well."""

SPECIALIST = "specialist"
"""The router of a market in a layer that hears and has a vocabulary, whose tokens are asked to decide for experts."""

DECISIVE = 0.001
"""How much they are asked to: of 0, 0.001 and 0.002 the one with which experts know more of the byte than any
rival's and predict no worse (two to four seeds, none of which is in a table)."""

RELATIVE = (VACANT,)
"""The routers whose affinities are relative where nothing else is said: those that are made for a frozen price."""

FORMAT = "catallax-language-model-2"
"""How a model's file calls itself."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """The sizes of a language model.

    Args:
        width: Numbers per token between blocks.
        blocks: How many blocks follow one another.
        heads: Heads of attention; they share the width, an even number each.
        context: The most bytes that are seen at once.
        experts: Experts per block.
        active: Experts per token.
        hidden: Inner width of an expert.
        shared: Experts that every token uses beside those that it chooses.
        router: Who balances: one of `ROUTERS`; "causal" or "vacant" for `Router("market", causal=True)` or
            `Router("market", vacant=0.1, bar=0.1)`; "specialist" for `Router("market", decisive=0.001)` in a layer that
            hears and has a vocabulary; "weighed" for `Router("hash", bar=0.1)`; or "dense".
        capacity_factor: Places at all experts per place that tokens ask for.
        relative: Whether affinities count beside those of the sequence's earlier tokens (`MarketMoE`); None for those
            of "vacant" alone.
    """

    width: int = 64
    blocks: int = 2
    heads: int = 4
    context: int = 128
    experts: int = 16
    active: int = 2
    hidden: int = 64
    shared: int = 0
    router: str = "market"
    capacity_factor: float = 1.0
    relative: bool | None = None

    def __post_init__(self):
        least = dict.fromkeys(("width", "blocks", "heads", "context", "experts", "active", "hidden"), 1)
        for name, low in {**least, "shared": 0}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < low:
                raise ValueError(f"{name} is {value}; it must be a whole number, at least {low}")
        if self.relative is not None and not isinstance(self.relative, bool):
            raise ValueError(f"relative is {self.relative!r}; it is True, False or None")
        if not self.capacity_factor > 0:
            raise ValueError(f"capacity_factor is {self.capacity_factor}; experts need places: give more than 0")
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} cannot be shared evenly by {self.heads} heads in pairs")
        if self.active > self.experts:
            raise ValueError(f"a token cannot use {self.active} experts of {self.experts}")

    @property
    def is_relative(self) -> bool:
        """Whether affinities are relative, by what is said or else by the router."""
        return self.router in RELATIVE if self.relative is None else self.relative


class Block(eqx.Module):
    """One block: causal attention, then experts; each adds to what came in.

    Args:
        listening: Normalises what attention reads.
        query, key, value, answer: Attention's maps, (width, width).
        thinking: Normalises what the experts read.
        layer: The experts, or one dense network.
        heads: Heads of attention.
    """

    listening: eqx.nn.RMSNorm
    query: Float[Array, "width width"]
    key: Float[Array, "width width"]
    value: Float[Array, "width width"]
    answer: Float[Array, "width width"]
    thinking: eqx.nn.RMSNorm
    layer: Any
    heads: int = eqx.field(static=True)

    def __init__(self, shape: Shape, *, key: Key[Array, ""]):
        *keys, last = jax.random.split(key, 5)
        width = shape.width
        maps = [jax.random.normal(one, (width, width)) / jnp.sqrt(width) for one in keys]
        self.query, self.key, self.value, self.answer = maps
        self.listening, self.thinking = _norm(width), _norm(width)
        self.layer = _layer(shape, last)
        self.heads = shape.heads

    def attend(self, hidden: Float[Array, "batch time width"]) -> Float[Array, "batch time width"]:
        """What came in, and what attention adds."""
        batch, time, width = hidden.shape
        split = (batch, time, self.heads, width // self.heads)
        x = _each(self.listening, hidden)
        query, key, value = ((x @ map).reshape(split) for map in (self.query, self.key, self.value))
        heard = jax.nn.dot_product_attention(turned(query), turned(key), value, is_causal=True)
        return hidden + heard.reshape(hidden.shape) @ self.answer


def _norm(width: int) -> eqx.nn.RMSNorm:
    return eqx.nn.RMSNorm(width, use_bias=False)


def _each(norm: eqx.nn.RMSNorm, x: Float[Array, "*many width"]) -> Float[Array, "*many width"]:
    return jax.vmap(norm)(x.reshape(-1, x.shape[-1])).reshape(x.shape)


def _layer(shape: Shape, key: Key[Array, ""]) -> Any:
    if shape.router == DENSE:
        return Expert(shape.width, shape.hidden * (shape.active + shape.shared), key=key)
    kind, options = {
        CAUSAL: ("market", {"causal": True}),
        VACANT: ("market", {"vacant": CLOSED, "bar": BAR}),
        SPECIALIST: ("market", {"decisive": DECISIVE}),
        WEIGHED: ("hash", {"bar": BAR}),
    }.get(shape.router, (shape.router, {}))
    router = Router(kind, shape.experts, shape.active, capacity_factor=shape.capacity_factor, **options)
    sizes = shape.width, shape.hidden, shape.experts, shape.active
    learned = {"hears": True, "vocabulary": BYTES} if shape.router == SPECIALIST else {}
    return MarketMoE(*sizes, router=router, shared=shape.shared, relative=shape.is_relative, key=key, **learned)


def turned(x: Float[Array, "batch time heads size"]) -> Float[Array, "batch time heads size"]:
    """Turn each head's pairs of numbers by angles that grow with the token's place (Su et al. 2021, eq. 34)."""
    turn = jax.vmap(eqx.nn.RotaryPositionalEmbedding(x.shape[-1]), in_axes=1, out_axes=1)
    return jax.vmap(turn)(x)


Mix = Callable[[Block, Array, Array, PyTree, Any], tuple[Array, PyTree, PyTree]]
"""How a block's experts are applied: from (block, hidden, x, state, offset), tokens first, to what is added to
`hidden`, the new state, and what was seen."""


class LanguageModel(eqx.Module):
    """A language model of bytes.

    Args:
        embedding: What a byte becomes, (256, width).
        blocks: The blocks, their arrays stacked on a leading axis.
        norm: Normalises what is read out.
        unembedding: From the width to the logits of the next byte, (width, 256).
        shape: The sizes.
    """

    embedding: Float[Array, "bytes width"]
    blocks: Block
    norm: eqx.nn.RMSNorm
    unembedding: Float[Array, "width bytes"]
    shape: Shape = eqx.field(static=True)

    def __init__(self, shape: Shape, *, key: Key[Array, ""]):
        """Begin at random.

        Args:
            shape: The sizes.
            key: Consumed.
        """
        first, second, third = jax.random.split(key, 3)
        self.embedding = jax.random.normal(first, (BYTES, shape.width))
        self.blocks = eqx.filter_vmap(lambda key: Block(shape, key=key))(jax.random.split(second, shape.blocks))
        self.norm = _norm(shape.width)
        self.unembedding = jax.random.normal(third, (shape.width, BYTES)) / shape.width
        self.shape = shape

    def start(self) -> PyTree:
        """Every block's router before the first batch, stacked on a leading axis; () without experts."""
        if self.shape.router == DENSE:
            return ()
        state = self.blocks.layer.router.start()
        return jax.tree.map(lambda leaf: jnp.stack([leaf] * self.shape.blocks), state)

    def __call__(
        self,
        tokens: Int[Array, "batch time"],
        states: PyTree,
        *,
        train: bool,
        capacity_factor: float | None = None,
        repair: bool | None = None,
        price_offset: Float[Array, "blocks experts"] | None = None,
        axis_name: str | None = None,
    ) -> tuple[Float[Array, "batch time bytes"], PyTree, PyTree]:
        """Predict each next byte.

        Args:
            tokens: Bytes; of any integer type.
            states: Every block's router, as `start` gives it and the last call returned it.
            train: True clears the batch's own market; False uses the frozen price alone, and is causal.
            capacity_factor: In place of the shape's.
            repair: Whether tokens above capacity move to experts with room; by default in training, if the router does.
            price_offset: Added to the experts' prices; infinity removes an expert.
            axis_name: The mesh axis over which the batch is spread.

        Returns:
            Logits, the routers' new states, and each block's `Logs` stacked (() without experts).
        """

        routing = {
            **dict(train=train, capacity_factor=capacity_factor, repair=repair, axis_name=axis_name),
            **sequences(tokens),
        }

        def mix(block, hidden, x, state, offset):
            del hidden
            if self.shape.router == DENSE:
                return block.layer(x), state, ()
            added, state, routed = block.layer.serve(x, state, price_offset=offset, **routing)
            return added, state, routed.logs

        return self.through(tokens, states, mix, price_offset)

    def through(
        self, tokens: Int[Array, "batch time"], states: PyTree, mix: Mix, price_offset: Any = None
    ) -> tuple[Float[Array, "batch time bytes"], PyTree, PyTree]:
        """Predict each next byte, and let the caller apply the experts (see `Mix`)."""
        arrays, rest = eqx.partition(self.blocks, eqx.is_array)

        def step(hidden, each):
            arrays, state, offset = each
            block = eqx.combine(arrays, rest)
            hidden = block.attend(hidden)
            flat = hidden.reshape(-1, self.shape.width)
            added, state, seen = mix(block, flat, _each(block.thinking, flat), state, offset)
            return hidden + added.reshape(hidden.shape), (state, seen)

        hidden = self.embedding[tokens]
        hidden, (states, seen) = lax.scan(step, hidden, (arrays, states, price_offset))
        return self.read(hidden), states, seen

    def read(self, hidden: Float[Array, "*many width"]) -> Float[Array, "*many bytes"]:
        """Logits of the next byte, read out of what a block leaves."""
        return _each(self.norm, hidden) @ self.unembedding

    def save(self, path: str | PathLike[str], states: PyTree) -> None:
        """Write a safetensors file that `load` reads: parameters and routers' states, the shape as metadata.

        The file is written whole or not at all.
        """
        tensors = {name: np.asarray(leaf, order="C") for name, leaf in _leaves((self, states)).items()}
        metadata = {"format": FORMAT, "shape": json.dumps(dataclasses.asdict(self.shape))}
        whole = Path(f"{fspath(path)}.part")
        whole.write_bytes(pack(tensors, metadata))
        whole.replace(path)


def load(path: str | PathLike[str], shape: Shape | None = None) -> tuple[LanguageModel, PyTree]:
    """Read a model and its routers' states that `LanguageModel.save` wrote.

    Args:
        path: The file.
        shape: The shape that is expected; None takes the file's.

    Raises:
        InputError: if the file is not a model, is truncated, does not have the shape that is expected, or holds
            what is not finite.
    """
    try:
        with safe_open(fspath(path), framework="numpy") as stored:
            metadata = stored.metadata() or {}
            found = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"is not a readable safetensors file ({error})", file=path) from None
    if metadata.get("format") != FORMAT:
        raise InputError(f"is not a language model that catallax saved (format {FORMAT})", file=path)
    try:
        stated = Shape(**json.loads(metadata.get("shape", "")))
        like = eqx.filter_eval_shape(_blank, stated)
    except (ValueError, TypeError) as error:
        raise InputError(f"states no shape of a language model ({error})", file=path) from None
    for name, expected in {} if shape is None else dataclasses.asdict(shape).items():
        if getattr(stated, name) != expected:
            raise InputError(f"has {name} {getattr(stated, name)}, but {name} {expected} is expected", file=path)
    wanted = _leaves(like)
    for name in sorted(wanted.keys() | found.keys()):
        _fits(path, name, found.get(name), wanted.get(name))
    arrays = [jnp.asarray(found[name]) for name in wanted]
    return jax.tree.unflatten(jax.tree.structure(like), arrays)


def _blank(shape: Shape) -> tuple[LanguageModel, PyTree]:
    model = LanguageModel(shape, key=jax.random.key(0))
    return model, model.start()


def _leaves(tree: PyTree) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _fits(path: Any, name: str, found: np.ndarray | None, wanted: Any) -> None:
    if found is None or wanted is None:
        raise InputError(
            f"does not fit its own shape: {name} is {'missing' if found is None else 'unknown'}", file=path
        )
    if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
        raise InputError(
            f"does not fit its own shape: {name} is {found.dtype}{list(found.shape)}, "
            f"but {wanted.dtype}{list(wanted.shape)} is expected",
            file=path,
        )
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise InputError(f"{name} is not finite", file=path)


def sequences(tokens: Int[Array, "batch time"]) -> dict[str, Any]:
    """What a router is told of a batch beside the affinities: every token's byte, and the length of a sequence."""
    return {"tokens": tokens.reshape(-1).astype(jnp.int32), "length": tokens.shape[1]}


def loss_per_token(
    logits: Float[Array, "batch time bytes"], targets: Int[Array, "batch time"]
) -> Float[Array, "batch time"]:
    """Nats per byte: −log of the probability that was given to what came next."""
    at = jnp.take_along_axis(logits, targets.astype(jnp.int32)[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - at
