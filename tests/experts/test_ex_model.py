"""The language model's parts against float64 NumPy and their laws; its file against what may befall a file."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save

from catallax.errors import InputError
from catallax.experts.model import FORMAT, Block, LanguageModel, Shape, load, loss_per_token, turned

SHAPE = Shape(width=16, blocks=2, heads=2, context=16, experts=4, active=2, hidden=8)


def filled(make, shape, seed):
    """What `make` makes of a shape, its arrays filled with NumPy's random numbers: nothing is compiled."""
    random = np.random.default_rng(seed)
    like = eqx.filter_eval_shape(lambda: make(shape, key=jax.random.key(0)))
    return jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape) / 4, leaf.dtype), like)


def same(found, expected):
    """Whether two pytrees have the same structure and bits."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    alike = all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in pairs)
    return alike and jax.tree.structure(found) == jax.tree.structure(expected)


def test_loss_is_minus_the_log_of_the_probability():
    random = np.random.default_rng(1)
    logits, targets = random.normal(size=(2, 3, 256)), random.integers(256, size=(2, 3))
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    expected = -np.log(np.take_along_axis(shares, targets[..., None], axis=-1)[..., 0])
    found = jax.jit(loss_per_token)(jnp.asarray(logits, jnp.float32), jnp.asarray(targets))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_turned_keys_and_queries_meet_by_their_distance_alone():
    random = np.random.default_rng(2)
    query, key = (jnp.asarray(random.normal(size=8), jnp.float32) for _ in range(2))

    def everywhere(x):
        return jnp.broadcast_to(x, (1, 12, 1, 8))

    turn = jax.jit(turned)
    met = np.asarray(turn(everywhere(query)))[0, :, 0] @ np.asarray(turn(everywhere(key)))[0, :, 0].T
    for distance in range(12):
        diagonal = np.diagonal(met, -distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-5)
    assert abs(met[0, 0] - met[5, 0]) > 1e-2
    np.testing.assert_allclose(met[0, 0], query @ key, rtol=1e-5)


def test_attention_is_that_of_the_formula():
    """softmax(q·k/√size + mask) v of normalised input, head by head, in float64."""
    block = filled(Block, SHAPE, 3)
    hidden = np.random.default_rng(3).normal(size=(1, 5, 16))
    normal = hidden / np.sqrt((hidden**2).mean(axis=-1, keepdims=True) + 1e-5) * np.asarray(block.listening.weight)

    def heads(map):
        return (normal @ np.asarray(map, np.float64)).reshape(1, 5, 2, 8)

    query, key = (np.asarray(jax.jit(turned)(jnp.asarray(heads(map), jnp.float32))) for map in (block.query, block.key))
    scores = np.einsum("bihd,bjhd->bhij", query, key) / np.sqrt(8)
    scores = np.where(np.tril(np.ones((5, 5), bool)), scores, -np.inf)
    shares = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    heard = np.einsum("bhij,bjhd->bihd", shares, heads(block.value)).reshape(1, 5, 16)
    expected = hidden + heard @ np.asarray(block.answer, np.float64)
    found = eqx.filter_jit(Block.attend)(block, jnp.asarray(hidden, jnp.float32))
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"active": 17}, "17 experts of 16"),
        ({"width": 63}, "width 63"),
        ({"blocks": 0}, "blocks is 0"),
        ({"heads": 2.0}, "heads is 2.0"),
        ({"shared": -1}, "shared is -1"),
        ({"capacity_factor": 0.0}, "capacity_factor is 0"),
        ({"router": "magic"}, "no router 'magic'"),
        ({"relative": "yes"}, "relative is 'yes'"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        filled(LanguageModel, Shape(**wrong), 0)


@pytest.mark.parametrize(("router", "usual"), [("vacant", True), ("market", False), ("late", False)])
def test_affinities_are_relative_where_it_is_said_or_else_where_prices_rest(router, usual):
    for relative, expected in ((None, usual), (True, True), (False, False)):
        shape = Shape(width=16, heads=2, router=router, relative=relative)
        assert eqx.filter_eval_shape(LanguageModel, shape, key=jax.random.key(0)).blocks.layer.relative is expected


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    model = filled(LanguageModel, SHAPE, 5)
    states = jax.tree.map(lambda leaf: leaf + jnp.ones_like(leaf), model.start())
    model.save(path, states)
    return path, model, states


def test_a_model_comes_back_bit_for_bit(saved):
    path, model, states = saved
    for shape in (None, SHAPE):
        assert same(load(path, shape), (model, states))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_dense_model_comes_back_too(tmp_path):
    model = filled(LanguageModel, Shape(width=16, heads=2, router="dense"), 6)
    model.save(tmp_path / "dense", model.start())
    assert same(load(tmp_path / "dense"), (model, ()))


def changed(path, new, **changes):
    """The file at `path` with tensors or metadata replaced, written as `new`; None leaves a tensor out."""
    with safe_open(str(path), framework="numpy") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        metadata = stored.metadata()
    for name, value in changes.items():
        (metadata if name in metadata else tensors)[name] = value
    new.write_bytes(save({name: value for name, value in tensors.items() if value is not None}, metadata))
    return new


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "another"}, f"format {FORMAT}"),
        ({"shape": "{}}"}, "states no shape"),
        ({"shape": json.dumps({"depth": 3})}, "states no shape"),
        ({"shape": json.dumps({"width": "64"})}, "states no shape"),
        ({"shape": json.dumps({"router": "magic"})}, "states no shape"),
        ({"shape": json.dumps({"experts": 8, "width": 16, "heads": 2})}, "does not fit its own shape"),
        ({"[0].embedding": None}, r"\[0\].embedding is missing"),
        ({"[0].extra": np.zeros(1, np.float32)}, r"\[0\].extra is unknown"),
        ({"[0].embedding": np.zeros((128, 16), np.float32)}, r"embedding is float32\[128, 16\], .*\[256, 16\]"),
        ({"[0].embedding": np.full((256, 16), np.nan, np.float32)}, "embedding is not finite"),
    ],
)
def test_a_file_that_is_no_model_of_ours_is_refused(saved, tmp_path, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        load(changed(saved[0], tmp_path / "other", **changes))
    assert caught.value.file == str(tmp_path / "other")


def test_a_truncated_or_missing_file_is_refused(saved, tmp_path):
    (tmp_path / "half").write_bytes(saved[0].read_bytes()[:-100])
    for name in ("half", "none"):
        with pytest.raises(InputError, match="not a readable safetensors file"):
            load(tmp_path / name)


def test_another_shape_than_expected_is_named(saved):
    with pytest.raises(InputError, match="has hidden 8, but hidden 64 is expected"):
        load(saved[0], Shape(width=16, heads=2, context=16, experts=4))
