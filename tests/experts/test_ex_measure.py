"""Measures of routing: closed forms, laws, and what independent pairs must give."""

import numpy as np
import pytest

from catallax.experts.measure import (
    dead,
    dropped,
    evenness,
    information,
    max_violation,
    redundancy,
    table_of,
)


def test_balance_has_its_closed_forms():
    load = np.array([[4, 4, 4, 4], [16, 0, 0, 0], [8, 8, 0, 0], [6, 4, 4, 2]])
    np.testing.assert_allclose(max_violation(load), [0, 3, 1, 0.5])
    np.testing.assert_allclose(evenness(load)[:3], [1, 0, 0.5])
    np.testing.assert_array_equal(dead(load), [0, 3, 2, 0])
    np.testing.assert_allclose(dropped(load, 4), [0, 0.75, 0.5, 2 / 16])


def test_nothing_asked_for_is_not_balance():
    assert np.isnan(max_violation(np.zeros(3)))
    assert np.isnan(evenness(np.zeros(3)))


def test_balance_ignores_the_order_of_experts():
    load = np.random.default_rng(0).integers(0, 50, (20, 8))
    for measure in (max_violation, evenness, dead):
        np.testing.assert_allclose(measure(load), measure(load[:, ::-1]))


def test_experts_that_each_serve_one_kind_tell_all_about_it():
    labels = np.arange(4000) % 4
    chosen = np.stack([labels, labels + 4], axis=1)
    table = table_of(chosen, labels, 8, 4)
    np.testing.assert_array_equal(table.sum(axis=1), 1000)
    bias = 7 * 3 / (2 * 8000 * np.log(2))
    assert information(table) == pytest.approx(2.0 - bias, abs=1e-12)


def test_half_the_information_of_a_noisy_binary_channel():
    flip = 0.11  # H(0.11) is half a bit
    table = 1e6 * np.array([[1 - flip, flip], [flip, 1 - flip]])
    entropy = -flip * np.log2(flip) - (1 - flip) * np.log2(1 - flip)
    assert information(table) == pytest.approx(1 - entropy, abs=1e-5)


def test_the_correction_makes_independent_pairs_tell_nothing():
    generator = np.random.default_rng(1)
    found = [
        information(table_of(generator.integers(0, 16, (500, 2)), generator.integers(0, 7, 500), 16, 7))
        for _ in range(200)
    ]
    spread = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found)) < 4 * spread + 1e-3
    assert spread < 1e-3


def test_kinds_and_experts_not_in_use_change_nothing():
    table = np.random.default_rng(2).integers(1, 9, (4, 3))
    wider = np.zeros((6, 5))
    wider[1:5, 1:4] = table
    assert information(wider) == information(table)
    assert information(table.T) == pytest.approx(information(table), abs=1e-12)
    assert information(np.zeros((3, 3))) == 0.0


def test_dropped_tokens_are_not_counted():
    table = table_of(np.array([[0, -1], [-1, -1], [1, 0]]), np.array([0, 1, 1]), 2, 2)
    np.testing.assert_array_equal(table, [[1, 1], [0, 1]])
    with pytest.raises(ValueError, match="one label per token"):
        table_of(np.zeros((3, 2), int), np.zeros(2, int), 2, 2)


def test_redundancy_has_its_closed_forms():
    same = np.random.default_rng(3).normal(size=(1, 30, 5))
    assert redundancy(np.concatenate([same, -2 * same, 3 * same])) == pytest.approx(1.0)
    apart = np.broadcast_to(np.eye(4)[:, None], (4, 9, 4))
    assert redundancy(apart) == 0.0
    diagonal = np.stack([np.tile([1.0, 0.0], (7, 1)), np.tile([1.0, 1.0], (7, 1))])
    assert redundancy(diagonal) == pytest.approx(np.sqrt(0.5))


def test_independent_outputs_overlap_by_chance_alone():
    width = 64
    outputs = np.random.default_rng(4).normal(size=(8, 400, width))
    assert redundancy(outputs) == pytest.approx(np.sqrt(2 / (np.pi * width)), rel=0.01)


def test_an_expert_that_says_nothing_is_left_out():
    outputs = np.random.default_rng(5).normal(size=(3, 20, 6))
    silent = np.concatenate([outputs, np.zeros((1, 20, 6))])
    assert redundancy(silent) == pytest.approx(redundancy(outputs))
    assert np.isnan(redundancy(np.zeros((3, 4, 5))))
