"""Gabor fits: known functions are found again, and what is none is told apart."""

import numpy as np
import pytest

from catallax.cortex import fit_gabors


def gabor(values, shape):
    row, column, frequency, orientation, length, width, phase = values
    y, x = np.indices(shape).astype(float)
    y, x = y - row, x - column
    along = x * np.cos(orientation) + y * np.sin(orientation)
    across = y * np.cos(orientation) - x * np.sin(orientation)
    under = np.exp(-((along / length) ** 2 + (across / width) ** 2) / 2)
    return (under * np.cos(2 * np.pi * frequency * along + phase)).ravel()


@pytest.fixture(scope="module")
def known():
    draw = np.random.default_rng(0)
    low = [4, 5, 0.08, 0, 1.8, 1.8, -np.pi]
    high = [9, 10, 0.3, np.pi, 3, 4, np.pi]
    return draw.uniform(low, high, (40, 7))


def test_gabors_are_found_again(known):
    shape = (14, 16)
    fields = np.stack([3 * gabor(values, shape) for values in known])
    found = fit_gabors(fields, shape=shape)
    assert found.r2.min() > 1 - 1e-6 and found.share(0.99) == 1
    for name, truth in zip(("row", "column", "frequency", "length", "width"), known.T[[0, 1, 2, 4, 5]], strict=True):
        np.testing.assert_allclose(getattr(found, name), truth, rtol=2e-3, err_msg=name)
    np.testing.assert_allclose(found.amplitude, 3, rtol=2e-3)
    np.testing.assert_allclose(np.exp(2j * found.orientation), np.exp(2j * known[:, 3]), atol=5e-3)
    again = [
        gabor(values, shape)
        for values in zip(
            found.row, found.column, found.frequency, found.orientation, found.length, found.width, found.phase,
            strict=True,
        )
    ]  # fmt: skip
    np.testing.assert_allclose(np.stack(again) * found.amplitude[:, None], fields, atol=2e-2)


def test_noise_costs_what_it_adds(known):
    draw = np.random.default_rng(1)
    fields = np.stack([gabor(values, (16, 16)) for values in known])
    noise = draw.normal(size=fields.shape)
    noise *= 0.5 * np.linalg.norm(fields, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)
    found = fit_gabors(fields + noise)
    # A quarter of the signal's energy is noise: R² is near 1/1.25.
    assert abs(np.median(found.r2) - 0.8) < 0.03


def test_noise_alone_is_no_gabor_and_blank_fields_do_no_harm():
    fields = np.random.default_rng(2).normal(size=(10, 256))
    fields[3] = 0
    found = fit_gabors(fields, rounds=20)
    assert found.share() == 0 and found.r2.max() < 0.4
    assert np.isfinite(found.r2).all()


def test_fields_must_be_images():
    with pytest.raises(ValueError, match="no images of 15 × 15 pixels"):
        fit_gabors(np.ones((3, 250)))
