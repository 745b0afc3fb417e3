"""Hebbian learning: the contract, agreement of batches with neurons, fixed points, resuming, dead units, bad input."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from catallax.core.run import run
from catallax.cortex import Hebbian, Learning, learn, patches, photographs, unit_rows, whiten
from catallax.cortex.learn import compete, hebbian
from catallax.cortex.learn_rules import first_lesson
from catallax.errors import InputError
from catallax.testing import (
    check_conservation,
    check_locality,
    check_system,
)

UNITS, INPUTS, SAMPLES, PENALTY = 23, 12, 400, 0.05


@pytest.fixture(scope="module")
def world():
    """Stimuli made of few of 23 true fields each, seed 0."""
    draw = np.random.default_rng(0)
    truth = unit_rows(draw.normal(size=(UNITS, INPUTS)).astype(np.float32))
    active = draw.random((SAMPLES, UNITS)) < 0.08
    causes = np.where(active, draw.choice([-1.0, 1.0], active.shape) * draw.uniform(0.5, 1.5, active.shape), 0)
    return truth, np.asarray(causes @ truth, np.float32)


def lesson(stimuli, fields, *, patience=10_000, **past):
    """A state of the contract's rule after competition over a batch."""
    activity = compete(stimuli, fields, PENALTY, True, "kernel", 1e-5).toarray()
    system = Hebbian(jnp.asarray(stimuli), jnp.asarray(2.0), jnp.asarray(patience))
    return system, first_lesson(system, jnp.asarray(fields), jnp.asarray(activity), **past), activity


def whole(state):
    return state.signal.residual + jnp.matmul(
        state.agents.activity.T, state.agents.field, precision=jax.lax.Precision.HIGHEST
    )


CONSERVES = {"stimuli": whole, "norms": lambda state: jnp.linalg.norm(state.agents.field, axis=1)}


@pytest.mark.bench
def test_hebbian_neurons_see_nobody_but_the_signal(world, key):
    truth, stimuli = world
    system, state, _ = lesson(stimuli[:37], truth)
    check_locality(system, state, key=key)
    check_conservation(system, state, key=key, conserves=CONSERVES)


@pytest.mark.bench
def test_hebbian_neurons_keep_every_law(world, key):
    truth, stimuli = world
    system, state, _ = lesson(stimuli[:37], truth)
    check_system(system, state, key=key, conserves=CONSERVES)


def test_one_batch_moves_fields_as_neurons_do_one_by_one(world):
    _, stimuli = world
    draw = np.random.default_rng(1)
    fields = unit_rows(draw.normal(size=(UNITS, INPUTS)).astype(np.float32))
    moment = draw.uniform(0.1, 3, UNITS).astype(np.float32)
    state = Learning(fields, moment, np.zeros(UNITS, np.int64), 600, 0)
    learnt = learn(stimuli, UNITS, PENALTY, batch=SAMPLES, state=state, tol=1e-5)
    # The order of samples does not matter within a batch.
    system, start, _ = lesson(stimuli, fields, moment=jnp.asarray(moment), seen=600)
    neurons = run(system, start, 1).state.agents
    np.testing.assert_allclose(learnt.dictionary, neurons.field, atol=2e-5)
    np.testing.assert_allclose(learnt.state.moment, neurons.moment, rtol=1e-4)
    np.testing.assert_array_equal(learnt.state.silent, neurons.silent)
    assert learnt.state.seen == 600 + SAMPLES and learnt.finished
    assert np.abs(learnt.dictionary - fields).max() > 0.01


def test_a_first_lesson_is_the_best_field_that_a_neuron_can_choose_alone(world):
    """With m = Σ a², φ + Σ a r / m is the least-squares field of one neuron, all others held."""
    truth, stimuli = world
    _, _, activity = lesson(stimuli, truth)
    residual = stimuli - activity @ truth
    moved, moment = hebbian(truth, np.zeros(UNITS, np.float32), activity, residual, 0.0)
    for unit in (0, 7):
        others = residual + np.outer(activity[:, unit], truth[unit])
        best = np.linalg.lstsq(activity[:, [unit]], others, rcond=None)[0][0]
        np.testing.assert_allclose(moved[unit], best / np.linalg.norm(best), atol=1e-5)
    np.testing.assert_allclose(moment, (activity**2).sum(axis=0), rtol=1e-5)


def test_true_fields_are_found():
    """Olshausen and Field's test in small: causes are independent and sparse, and learning finds them."""
    draw = np.random.default_rng(3)
    truth = unit_rows(draw.normal(size=(40, 32)).astype(np.float32))
    causes = np.where(draw.random((8000, 40)) < 0.05, draw.choice([-1.0, 1.0], (8000, 40)), 0)
    stimuli = np.asarray(causes @ truth, np.float32)
    learnt = learn(stimuli, 40, PENALTY, batch=128, epochs=3, memory=10, held_out=stimuli[:500])
    nearest = np.abs(learnt.dictionary @ truth.T).max(axis=0)
    assert np.mean(nearest > 0.97) > 0.8
    held_out = [lesson.held_out for lesson in learnt.history if lesson.held_out is not None]
    assert len(held_out) == 3 and held_out[-1] < held_out[0] < learnt.history[0].objective
    np.testing.assert_allclose(np.linalg.norm(learnt.dictionary, axis=1), 1, rtol=1e-5)


def test_a_lesson_says_what_the_batch_showed(world):
    truth, stimuli = world
    learnt = learn(stimuli, UNITS, PENALTY, batch=SAMPLES, dictionary=truth, tol=1e-5, held_out=stimuli)
    _, _, activity = lesson(stimuli, truth)
    residual = np.float64(stimuli) - np.float64(activity) @ truth
    shown = learnt.history[0]
    assert shown.objective == pytest.approx(
        np.mean((residual**2).sum(axis=1) / 2 + PENALTY * np.abs(activity).sum(axis=1)), rel=1e-4
    )
    assert shown.unexplained == pytest.approx((residual**2).sum() / (stimuli**2).sum(), rel=1e-3)
    assert shown.active == pytest.approx((activity != 0).sum() / SAMPLES, rel=0.01)
    assert (shown.seen, shown.revived) == (SAMPLES, 0)
    assert shown.held_out is not None and shown.held_out < shown.objective


def test_a_resumed_run_ends_bit_for_bit_where_an_uninterrupted_one_does(world):
    _, stimuli = world
    arguments: dict[str, Any] = {"batch": 150, "epochs": 3, "seed": 4, "patience": 300}
    whole = learn(stimuli, UNITS, PENALTY, **arguments)
    assert whole.finished and len(whole.history) == 9 and whole.state.seen == 3 * SAMPLES
    part = learn(stimuli, UNITS, PENALTY, watch=lambda state, lesson: state.batches == 4, **arguments)
    assert not part.finished and part.state.batches == 4
    rest = learn(stimuli, UNITS, PENALTY, state=part.state, **arguments)
    for one, other in zip(whole.state, rest.state, strict=True):
        np.testing.assert_array_equal(one, other)
    assert part.history + rest.history == whole.history
    other = learn(stimuli, UNITS, PENALTY, **dict(arguments, seed=5))
    assert not np.array_equal(other.dictionary, whole.dictionary)


def test_an_interrupt_ends_after_the_last_whole_batch(world):
    _, stimuli = world

    def interrupt(state, lesson):
        if state.batches == 2:
            raise KeyboardInterrupt

    stopped = learn(stimuli, UNITS, PENALTY, batch=100, watch=interrupt)
    assert not stopped.finished and stopped.state.batches == len(stopped.history) == 2


def test_memory_mapped_stimuli_of_any_float_give_the_same(world, tmp_path):
    _, stimuli = world
    half = stimuli.astype(np.float16)
    np.save(tmp_path / "x.npy", half)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    one = learn(mapped, UNITS, PENALTY, batch=100)
    other = learn(half.astype(np.float64), UNITS, PENALTY, batch=100)
    np.testing.assert_array_equal(one.dictionary, other.dictionary)


def test_silent_neurons_take_up_what_is_unexplained(world):
    """Fields that no stimulus has anything of never fire; after `patience` samples they are residuals."""
    _, stimuli = world
    wide = np.hstack([stimuli, np.zeros((SAMPLES, 2), np.float32)])
    fields = unit_rows(np.random.default_rng(6).normal(size=(UNITS, INPUTS + 2)).astype(np.float32))
    fields[3:, -2:] = 0  # nobody else's field leaves anything there to explain
    fields[:3] = np.eye(INPUTS + 2, dtype=np.float32)[-1]
    fields = unit_rows(fields)
    patient = learn(wide, UNITS, PENALTY, batch=100, dictionary=fields)
    np.testing.assert_array_equal(patient.dictionary[:3], fields[:3])
    np.testing.assert_array_equal(patient.state.silent[:3], SAMPLES)
    states = []
    learnt = learn(
        wide, UNITS, PENALTY, batch=100, epochs=5, dictionary=fields, patience=200,
        watch=lambda state, lesson: states.append(state),
    )  # fmt: skip
    assert not states[1].silent[:3].any() and not states[1].moment[:3].any()
    assert [lesson.revived >= 3 for lesson in learnt.history][:3] == [False, True, False]
    assert np.abs(learnt.dictionary[:3, -2:]).max() == 0
    assert learnt.state.silent.max() < 200 and learnt.state.moment[:3].min() > 0
    assert len(np.unique(learnt.dictionary, axis=0)) == UNITS


def test_a_silent_neuron_on_the_contract_takes_up_a_residual(world, key):
    truth, stimuli = world
    system, state, activity = lesson(stimuli[:37], truth, patience=1000)
    activity[:, 5] = 0
    state = first_lesson(system, truth, activity, jnp.ones(UNITS), jnp.full(UNITS, 963))
    residual = stimuli[:37] - activity @ truth
    left = np.linalg.norm(residual, axis=1)
    likeness, taken = residual / np.maximum(left, 1e-6)[:, None], []
    for draw in jax.random.split(key, 60):
        neurons = run(system, state, 1, key=draw).state.agents
        alike = likeness @ np.asarray(neurons.field[5])
        assert alike.max() == pytest.approx(1, abs=1e-5)
        assert neurons.moment[5] == 0 and neurons.silent[5] == 0
        taken.append(int(alike.argmax()))
    np.testing.assert_array_equal(neurons.silent[(activity != 0).any(axis=0)], 0)
    # Drawn with odds |r|²: its mean is then Σ|r|⁴ / Σ|r|², and not the plain mean.
    expected = (left**4).sum() / (left**2).sum()
    spread = np.sqrt((left**6).sum() / (left**2).sum() - expected**2) / np.sqrt(60)
    assert abs((left[taken] ** 2).mean() - expected) < 4 * spread < expected - (left**2).mean()


def test_non_negative_neurons_learn_too(world):
    truth, _ = world
    draw = np.random.default_rng(7)
    positive = np.abs(truth)
    stimuli = (np.where(draw.random((2000, UNITS)) < 0.15, 1.0, 0.0) @ positive).astype(np.float32)
    # All activity is positive and all fields are alike: the hardest case for all neurons moving at once.
    learnt = learn(stimuli, UNITS, PENALTY, signed=False, batch=200, epochs=4)
    objective = np.array([lesson.objective for lesson in learnt.history])
    best = learn(stimuli, UNITS, PENALTY, signed=False, batch=200, dictionary=positive).history[0].objective
    assert objective[-10:].mean() < 1.1 * best < 0.8 * objective[0]
    activity = compete(stimuli, learnt.dictionary, PENALTY, False, "kernel", 1e-5)
    assert activity.min() >= 0


@pytest.mark.parametrize(
    ("change", "error", "what"),
    [
        ({"stimuli": np.ones((10, 5))}, InputError, "10 samples and 23 units; give more samples or fewer units"),
        ({"stimuli": np.ones((50, 5))}, InputError, "constant: 50 drawn at random are all the same"),
        ({"stimuli": np.ones(50)}, InputError, r"the stimuli have shape \(50,\)"),
        ({"law": "slow"}, ValueError, "'slow' is no law to learn with: kernel, fast"),
        ({"batch": 0}, ValueError, "batch=0"),
        ({"dictionary": np.ones((23, 12))}, InputError, "the receptive field of unit 0 has norm"),
        ({"dictionary": np.eye(12)}, ValueError, r"the fields have shape \(12, 12\), not \(23, 12\)"),
    ],
)
def test_bad_input(world, change, error, what):
    arguments = {"stimuli": world[1], "units": UNITS, "penalty": PENALTY} | change
    with pytest.raises(error, match=what):
        learn(**arguments)


def test_a_nan_is_named_by_its_sample(world):
    bad = np.tile(world[1], (4, 1))
    bad[1321, 5] = np.nan
    with pytest.raises(InputError, match="sample 1321 is nan at input 5"):
        learn(bad, UNITS, PENALTY, batch=100)


@pytest.mark.bench
def test_photographs_give_localised_oriented_fields():
    from catallax.cortex import fit_gabors

    images = [whiten(photograph.pixels) for photograph in photographs()]
    stimuli, _ = patches(images, 16, 100_000)
    learnt = learn(stimuli, 512, 0.1)
    assert fit_gabors(learnt.dictionary).share() > 0.7
    assert fit_gabors(stimuli[:512]).share() < 0.1
