"""The compiled kernel comes to the lasso's minimum, whatever it starts from and however it computes inhibition."""

import numpy as np
import pytest

from catallax.cortex import SparseCoding, kernel
from catallax.cortex.certify import scores
from catallax.cortex.problem import unit_rows

compiled = pytest.mark.filterwarnings("ignore:The TBB threading layer")


def drawn(samples, units, inputs, seed=0):
    rng = np.random.default_rng(seed)
    fields = unit_rows(rng.normal(size=(units, inputs)).astype(np.float32))
    return unit_rows(rng.normal(size=(samples, inputs)).astype(np.float32)), fields


def proximal(stimuli, fields, penalty, signed, rounds=4000):
    """FISTA with restart in float64 (Beck and Teboulle 2009; O'Donoghue and Candès 2015)."""
    stimuli, fields = stimuli.astype(float), fields.astype(float)
    step = 1 / np.linalg.eigvalsh(fields @ fields.T)[-1]
    activity = ahead = np.zeros((len(stimuli), len(fields)))
    momentum = 1.0
    for _ in range(rounds):
        moved = ahead + step * (stimuli - ahead @ fields) @ fields.T
        size = np.abs(moved) if signed else moved
        moved = np.sign(moved) * np.maximum(size - step * penalty, 0)
        if np.sum((ahead - moved) * (moved - activity)) > 0:
            momentum = 1.0
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = moved + (momentum - 1) / following * (moved - activity)
        activity, momentum = moved, following
    return activity


@compiled
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("penalty", [0.3, 0.02])
def test_it_agrees_with_proximal_gradients(signed, penalty):
    stimuli, fields = drawn(20, 150, 40)
    found = kernel.encode(stimuli, fields, penalty, signed=signed, tol=1e-5)
    problem = SparseCoding(stimuli, fields, penalty, signed)
    reach = max(1e-5, kernel.FLOOR / penalty)
    assert scores(problem, found).violation.max() < 2 * reach
    assert scores(problem, found).relative_gap.max() < 2 * reach
    # With nearly as many active as inputs, activities are ill-determined; what they explain is not.
    independent = proximal(stimuli, fields, penalty, signed)
    np.testing.assert_allclose(found @ fields, independent @ fields, atol=1e-5)


@compiled
def test_orthogonal_neurons_do_not_compete():
    rng = np.random.default_rng(1)
    fields = np.linalg.qr(rng.normal(size=(30, 30)))[0].astype(np.float32)
    stimuli = rng.normal(size=(7, 30)).astype(np.float32)
    drive = stimuli @ fields.T
    expected = np.sign(drive) * np.maximum(abs(drive) - 0.5, 0)
    np.testing.assert_allclose(kernel.encode(stimuli, fields, 0.5).toarray(), expected, atol=1e-5)


@compiled
def test_inhibition_from_the_fields_is_inhibition_from_the_table(monkeypatch):
    stimuli, fields = drawn(9, 400, 50, seed=2)
    table = kernel.encode(stimuli, fields, 0.1)
    monkeypatch.setattr(kernel, "TABLE", 0)
    np.testing.assert_allclose(kernel.encode(stimuli, fields, 0.1).toarray(), table.toarray(), atol=2e-5)


@compiled
@pytest.mark.parametrize(("samples", "units", "inputs"), [(1, 5, 3), (65, 513, 17), (7, 1101, 40)])
def test_every_neuron_is_driven_by_every_input_whatever_their_number(samples, units, inputs):
    stimuli, fields = drawn(samples, units, inputs, seed=9)
    found = kernel.encode(stimuli, fields, 0.2)
    assert scores(SparseCoding(stimuli, fields, 0.2), found).violation.max() < 2e-5


@compiled
def test_neither_blocks_nor_the_order_of_neurons_matter(monkeypatch):
    stimuli, fields = drawn(150, 90, 40, seed=3)
    whole = kernel.encode(stimuli, fields, 0.1)
    order = np.random.default_rng(4).permutation(90)
    turned = kernel.encode(stimuli, fields[order], 0.1)
    np.testing.assert_allclose(turned.toarray(), whole.toarray()[:, order], atol=2e-5)
    monkeypatch.setattr(kernel, "ENTRIES", 64 * 90)
    parts = kernel.encode(stimuli, fields, 0.1)
    assert parts.shape == whole.shape and parts.has_sorted_indices
    np.testing.assert_allclose(parts.toarray(), whole.toarray(), atol=2e-5)


@compiled
def test_from_any_start_to_the_same_rest():
    stimuli, fields = drawn(12, 200, 40, seed=5)
    rest = kernel.encode(stimuli, fields, 0.1)
    start = np.random.default_rng(6).normal(size=rest.shape) * (np.random.default_rng(7).random(rest.shape) < 0.1)
    np.testing.assert_allclose(kernel.encode(stimuli, fields, 0.1, start=start).toarray(), rest.toarray(), atol=3e-5)
    positive = kernel.encode(stimuli, fields, 0.1, signed=False)
    moved = kernel.encode(stimuli, fields, 0.1, signed=False, start=start)
    assert moved.data.min() > 0
    np.testing.assert_allclose(moved.toarray(), positive.toarray(), atol=3e-5)
    again = kernel.encode(stimuli, fields, 0.1, start=rest, tol=1e-3)
    np.testing.assert_array_equal(again.toarray(), rest.toarray())
    assert kernel.encode(stimuli, fields, 0.1, start=rest, max_rounds=0).nnz == rest.nnz


@compiled
def test_many_equal_neurons_and_silence():
    stimuli, fields = drawn(3, 4, 8, seed=8)
    many = np.repeat(fields, 60, axis=0)
    found = kernel.encode(stimuli, many, 0.1)
    problem = SparseCoding(stimuli, many, 0.1)
    assert scores(problem, found).relative_gap.max() < 2e-5
    assert kernel.encode(stimuli, fields, 2.0).nnz == 0
    assert kernel.encode(0 * stimuli, fields, 0.1).nnz == 0


@compiled
def test_input_that_cannot_be_used():
    stimuli, fields = drawn(3, 4, 8)
    with pytest.raises(ValueError, match=r"do not fit: \(3, 8\), \(4, 7\)"):
        kernel.encode(stimuli, fields[:, :7], 0.1)
    with pytest.raises(ValueError, match="penalty must be positive"):
        kernel.encode(stimuli, fields, 0.0)
    with pytest.raises(ValueError, match="row 2 of the dictionary has norm 2, not 1"):
        kernel.encode(stimuli, fields * np.array([[1], [1], [2], [1]]), 0.1)
    with pytest.raises(ValueError, match="stimuli must be finite"):
        kernel.encode(np.where(stimuli > 1e9, 0, np.nan), fields, 0.1)
    with pytest.raises(ValueError, match=r"start has shape \(3, 5\), not \(3, 4\)"):
        kernel.encode(stimuli, fields, 0.1, start=np.zeros((3, 5)))
    with pytest.raises(ValueError, match="at least one sample"):
        kernel.encode(stimuli[:0], fields, 0.1)
