"""Training, evaluation and writing with one small model that learns texts of two letters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from catallax.adam import Optimiser, adamw
from catallax.core.result import Status
from catallax.errors import InputError
from catallax.experts.evaluate import calibrate, evaluate, per_token
from catallax.experts.model import Shape
from catallax.experts.sample import generate
from catallax.experts.text import Corpus, windows
from catallax.experts.train import Settings, Trained, first_training, pace, train
from catallax.runs.checkpoint import pack, unpack

SHAPE = Shape(width=16, blocks=2, heads=2, context=16, experts=4, active=2, hidden=8)
SETTINGS = Settings(batch=8, rate=1e-2, warming=5, fading=0.0)
STEPS, EVERY = 120, 40
TEXTS = Corpus(("ab", "cd"), tuple(np.frombuffer(pair * 500, np.uint8) for pair in (b"abb", b"dc")))
FAR = 10**6
"""The step that the optimiser of these tests makes without end; none comes so far by itself."""


def break_far_away():
    """AdamW as an optimiser of one's own, whose step number `FAR` goes to infinity."""
    within = adamw(SETTINGS.rate, b2=0.99)

    def update(slope, memory, parameters):
        moves, after = within.update(slope, memory, parameters)
        scale = jnp.where(memory.step == FAR, jnp.inf, 1.0)
        return jax.tree.map(lambda move: scale * move, moves), after

    return Optimiser(within.init, update)


OPTIMISER = break_far_away()


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def same(found, expected):
    return all(np.array_equal(a, b) for a, b in zip(leaves(found), leaves(expected), strict=True))


def go_on(state=None, steps=STEPS, **options) -> Trained:
    return train(TEXTS, SHAPE, SETTINGS, steps=steps, every=EVERY, seed=4, state=state, optimiser=OPTIMISER, **options)


@pytest.fixture(scope="module")
def trained():
    seen = []
    return go_on(watch=seen.append), seen


def test_training_learns_and_is_watched(trained):
    done, seen = trained
    assert done.status == Status.FINISHED
    assert [int(one.training.step) for one in seen] == [40, 80, 120]
    assert [one.status for one in seen] == [None, None, Status.FINISHED]
    assert list(done.record.step) == list(range(1, STEPS + 1))
    assert same(done.record, jax.tree.map(lambda *parts: np.concatenate(parts), *(one.record for one in seen)))
    # At first nothing is known of 256 bytes; then only how a window begins is left open.
    assert abs(done.record.loss[0] - np.log(256)) < 0.5
    assert done.record.loss[-1] < 0.15
    assert done.record.price.shape == (STEPS, 2, 4)
    assert done.record.logs.load.sum(axis=-1).tolist() == [[8 * 16 * 2] * 2] * STEPS
    assert all(one.speed > 0 and one.seconds > 0 for one in seen)


def test_resumed_is_uninterrupted_bit_for_bit(trained, tmp_path):
    # The rate stays level here, so that a shorter training is the beginning of a longer one; chunks differ.
    part = go_on(steps=30)
    (tmp_path / "checkpoint").write_bytes(pack(part.training, {}))
    state = unpack(tmp_path / "checkpoint", first_training(SHAPE, SETTINGS, seed=9, optimiser=OPTIMISER))
    whole = go_on(state)
    assert same(whole.training, trained[0].training)
    assert same(whole.record.loss, trained[0].record.loss[30:])
    assert go_on(whole.training).status == Status.FINISHED


def test_whoever_watches_can_stop():
    part = go_on(watch=lambda progress: True)
    assert part.status == Status.STOPPED and int(part.training.step) == EVERY


def test_the_rate_rises_stays_and_falls():
    share = pace(jnp.arange(100), jnp.float32(100), Settings(warming=10, fading=0.2))
    expected = np.concatenate([np.arange(1, 11) / 10, np.ones(70), np.arange(20, 0, -1) / 20])
    np.testing.assert_allclose(share, expected, rtol=1e-6)


def test_a_loss_that_is_not_finite_stops_at_the_chunks_start(trained):
    start = trained[1][0].training
    moments = start.memory.moments._replace(first=jax.tree.map(lambda x: x + 1e38, start.memory.moments.first))
    state = start._replace(memory=start.memory._replace(moments=moments))
    seen = []
    done = go_on(state, watch=seen.append)
    assert done.status == Status.NON_FINITE
    assert same(done.training, state)
    assert len(done.record.step) == 0
    assert seen[-1].status == Status.NON_FINITE and same(seen[-1].training, state)


def test_what_the_last_step_of_a_chunk_spoilt_is_not_kept(trained):
    start, seen = first_training(SHAPE, SETTINGS, seed=4, optimiser=OPTIMISER), []
    start = start._replace(memory=start.memory._replace(step=jnp.int32(FAR - 2 * EVERY + 1)))
    done = go_on(start, watch=seen.append)
    assert [int(one.training.step) for one in seen] == [EVERY, 2 * EVERY, EVERY]
    assert done.status == Status.NON_FINITE
    assert same(done.training, seen[0].training)
    assert list(done.record.step) == list(range(1, EVERY + 1))


def test_evaluation_is_the_mean_of_its_windows(trained):
    model, states = trained[0].model, trained[0].states
    found = evaluate(model, states, TEXTS, batch=8, most=10)
    assert found.domains == TEXTS.names and len(found.tokens) == 16 * 16
    cut, domain = windows(TEXTS, 16, 10)
    parts = [per_token(model, states, cut[first : first + 8]) for first in (0, 8)]
    loss = np.concatenate([np.asarray(part[0]) for part in parts])
    np.testing.assert_allclose(found.loss, [loss[domain[:16] == one].mean() for one in (0, 1)], rtol=1e-5)
    np.testing.assert_allclose(found.mean_loss, loss.mean(), rtol=1e-5)
    assert np.array_equal(found.tokens.reshape(16, 16), cut[:16, :-1])
    load = np.array([np.bincount(found.chosen[block].ravel(), minlength=4) for block in (0, 1)])
    assert np.array_equal(found.load, load)
    np.testing.assert_allclose(found.max_violation, load.max(axis=1) / (16 * 16 * 2 / 4) - 1)
    np.testing.assert_allclose(found.dropped, 1 - found.kept.mean(axis=(1, 2)), atol=1e-6)
    # Capacity is that of a batch: 8 windows of 16 bytes, two of four experts each.
    for block in (0, 1):
        for some in (slice(0, 128), slice(128, 256)):
            served = found.chosen[block, some][found.kept[block, some]]
            assert np.bincount(served, minlength=4).max() <= 64


def test_no_byte_depends_on_a_later_one(trained):
    """Causal even where places are short: sequences advance together, and nobody's place hangs on a later position."""
    model, states = trained[0].model, trained[0].states
    cut = windows(TEXTS, 16, 4)[0]
    other = cut.copy()
    other[5, 9:] = 200
    other[6:, 9:] = 7
    states = jax.tree.map(jnp.zeros_like, states)  # all prices 0: loads uneven, places short
    for moving in (False, True):
        (loss, seen), (changed, _) = (per_token(model, states, each, moving=moving) for each in (cut, other))
        assert float(jnp.min(jnp.max(seen[1]))) > 0
        loss, changed = np.asarray(loss), np.asarray(changed)
        # The loss of the byte before also knows what it should have been. At one position earlier sequences go first.
        assert np.array_equal(loss[:, :8], changed[:, :8]) and np.array_equal(loss[:5, :10], changed[:5, :10])
        assert not np.array_equal(loss[:5, 10:], changed[:5, 10:])


def test_the_price_that_is_frozen_balances_windows_of_the_text_together(trained):
    """Demand of all the windows is even to a token of 384, and what training left is not touched.

    In the second block it is at what that reads at the first one's price. Tokens must differ, since at inference equal
    ones cannot be parted; and the text turns half way, so that its beginning does not stand for all of it.
    """
    model, left = trained[0].model, trained[0].states
    draws = np.random.default_rng(0).integers(97, 110, 800) + np.repeat([0, 13], 400)
    turning = Corpus(("turning",), (draws.astype(np.uint8),))
    states = calibrate(model, left, turning, batch=8, most=48)
    even, uneven = (evaluate(model, each, turning, batch=8, most=48).max_violation for each in (states, left))
    assert np.all(even < 1.5 / 384) and np.all(uneven > 0.05)
    assert np.array_equal(states.price, left.price) and np.array_equal(states.count, left.count)


def test_who_is_evaluated_with_the_last_price_keeps_it():
    model = first_training(dataclasses.replace(SHAPE, router="sign"), SETTINGS).model
    states = jax.tree.map(jnp.ones_like, model.start())
    assert same(calibrate(model, states, TEXTS, batch=8, most=4), states)


def test_a_model_writes_what_it_learnt(trained):
    model, states = trained[0].model, trained[0].states
    written = generate(model, states, b"abbabb", 30, temperature=0)
    assert written == (b"abb" * 10)[:30]
    # Of a long prompt the end counts; few lengths are compiled, and none changes what is written.
    assert generate(model, states, b"dc" * 40, 29, temperature=0) == (b"dc" * 15)[:29]
    drawn = generate(model, states, b"c", 30, temperature=3.0, seed=1)
    assert drawn == generate(model, states, b"c", 30, temperature=3.0, seed=1)
    assert drawn != generate(model, states, b"c", 30, temperature=3.0, seed=2)
    assert generate(model, states, b"c", 0) == b""


@pytest.mark.parametrize(
    "wrong", [{"prompt": b""}, {"count": -1}, {"temperature": -1.0}, {"temperature": float("nan")}]
)
def test_what_cannot_be_written_is_refused(wrong):
    asked = {"prompt": b"a", "count": 1, "temperature": 1.0, **wrong}
    with pytest.raises(ValueError, match=r"prompt is empty|neither may be"):
        generate(None, None, asked["prompt"], asked["count"], temperature=asked["temperature"])


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(ValueError, match="must be positive"):
        train(TEXTS, SHAPE, SETTINGS, steps=1, every=0)
    short = Corpus(("short",), (np.zeros(16, np.uint8),))
    with pytest.raises(InputError, match="short has 16 bytes here, but a window takes 17"):
        train(short, SHAPE, SETTINGS, steps=1)
