"""Gabor functions fitted to receptive fields: how localised and oriented they are; NumPy.

A Gabor function is a plane wave under a Gaussian, the shape of the receptive fields of simple cells in the visual
cortex: with u along the wave and v across it, both from the centre (x₀, y₀),

    g = exp(−u²/2σ² − v²/2τ²) · (a cos 2πfu + b sin 2πfu).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

_WIDTHS = (1.0, 1.5, 2.5, 4.0)
"""Where fits start: σ and τ, pixels."""

_PAD = 64
"""Fields are padded to so many pixels per side to find the strongest frequency."""


@dataclass(frozen=True, eq=False)
class Gabors:
    """Gabor functions, one per field; arrays of shape (units,), float64, pixels and radians.

    Args:
        row: y₀, from the centre of the first row, downwards.
        column: x₀, from the centre of the first column, to the right.
        frequency: f, cycles per pixel.
        orientation: Of the wave, from the columns' axis towards the rows', in [0, π): 0 for upright bars.
        length: σ, along the wave.
        width: τ, across it, along the bars.
        amplitude: √(a² + b²).
        phase: atan2(−b, a): g is the amplitude times cos(2πfu + phase) under the Gaussian.
        r2: 1 − |field − g|² / |field − its mean|²; 0 for a constant field.
    """

    row: np.ndarray
    column: np.ndarray
    frequency: np.ndarray
    orientation: np.ndarray
    length: np.ndarray
    width: np.ndarray
    amplitude: np.ndarray
    phase: np.ndarray
    r2: np.ndarray

    def share(self, least: float = 0.8) -> float:
        """Return the share of fields that a Gabor function fits with R² above `least`."""
        return float(np.mean(self.r2 > least))


def fit_gabors(fields: Any, *, shape: tuple[int, int] | None = None, rounds: int = 80) -> Gabors:
    """Fit a Gabor function to each receptive field by least squares.

    Centre, wave vector and the two widths are found by Levenberg and Marquardt's method, for all fields at once; the
    two amplitudes follow from them by linear least squares (variable projection). Fits start at the field's centre of
    energy and its strongest frequency, with the best of 16 pairs of widths.

    Args:
        fields: Shape (units, pixels), rows of the image first.
        shape: Rows and columns of a field; square by default.
        rounds: Steps of the method.

    Raises:
        ValueError: if the pixels make no such image.

    Reference:
        Jones & Palmer (1987), J. Neurophysiology 58; Golub & Pereyra (1973), variable projection.
    """
    fields = np.asarray(fields, np.float64)
    side = int(np.sqrt(fields.shape[-1]))
    shape = (side, side) if shape is None else shape
    if fields.ndim != 2 or shape[0] * shape[1] != fields.shape[1]:
        raise ValueError(f"fields of shape {fields.shape} are no images of {shape[0]} × {shape[1]} pixels")
    grid = np.indices(shape).reshape(2, -1).astype(float)
    place, damping = _start(fields, grid, shape), np.full(len(fields), 1e-2)
    left = _left(fields, grid, place)[0]
    misfit = np.sum(left**2, axis=1)
    for _ in range(rounds):
        slope = np.stack([(_left(fields, grid, place + h)[0] - left) / 1e-5 for h in 1e-5 * np.eye(6)], axis=1)
        normal = np.einsum("nip,njp->nij", slope, slope)
        gradient = np.einsum("nip,np->ni", slope, left)
        ridge = damping[:, None] * (np.einsum("nii->ni", normal) + 1e-12)
        step = -np.linalg.solve(normal + ridge[:, :, None] * np.eye(6), gradient[:, :, None])[:, :, 0]
        trial = _bounded(place + np.clip(step, -1, 1), shape)
        trial_left = _left(fields, grid, trial)[0]
        trial_misfit = np.sum(trial_left**2, axis=1)
        better = trial_misfit < misfit
        place, left = (np.where(better[:, None], a, b) for a, b in ((trial, place), (trial_left, left)))
        misfit = np.where(better, trial_misfit, misfit)
        damping = np.clip(np.where(better, damping / 3, damping * 4), 1e-9, 1e9)
    return _named(fields, place, misfit, _left(fields, grid, place)[1])


def _left(fields: np.ndarray, grid: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what Gabors at a place leave of the fields, (units, pixels), and their two amplitudes, (units, 2).

    A place is y₀, x₀, the wave vector in radians per pixel, log σ and log τ.
    """
    y, x = grid[:, None] - place.T[:2, :, None]
    wave_y, wave_x = place.T[2:4, :, None]
    size = np.hypot(wave_y, wave_x) + 1e-12
    turn = wave_y * y + wave_x * x
    along, across = turn / size, (wave_x * y - wave_y * x) / size
    length, width = np.exp(place.T[4:6, :, None])
    under = np.exp(-((along / length) ** 2 + (across / width) ** 2) / 2)
    even, odd = under * np.cos(turn), under * np.sin(turn)
    ee, oo, eo, ef, of = (
        np.sum(one * other, axis=1)
        for one, other in ((even, even), (odd, odd), (even, odd), (even, fields), (odd, fields))
    )
    # At frequency zero the odd part vanishes; a trace of ridge keeps its amplitude at zero there.
    ee, oo = (part + 1e-9 * (ee + oo) + 1e-300 for part in (ee, oo))
    determinant = ee * oo - eo**2
    a, b = (oo * ef - eo * of) / determinant, (ee * of - eo * ef) / determinant
    return fields - a[:, None] * even - b[:, None] * odd, np.stack([a, b], axis=1)


def _start(fields: np.ndarray, grid: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the best place to start from: centre of energy, strongest frequency, the best of some widths."""
    energy = fields**2
    centre = (energy @ grid.T) / np.maximum(energy.sum(axis=1, keepdims=True), 1e-300)
    images = fields.reshape(-1, *shape)
    power = np.abs(np.fft.rfft2(images, (max(_PAD, shape[0]), max(_PAD, shape[1])))) ** 2
    row, column = np.divmod(power.reshape(len(fields), -1).argmax(axis=1), power.shape[2])
    cycles = np.stack([np.fft.fftfreq(power.shape[1])[row], np.fft.rfftfreq(max(_PAD, shape[1]))[column]], axis=1)
    places = [
        np.hstack([centre, 2 * np.pi * cycles, np.tile(np.log([length, width]), (len(fields), 1))])
        for length in _WIDTHS
        for width in _WIDTHS
    ]
    misfits = np.stack([np.sum(_left(fields, grid, place)[0] ** 2, axis=1) for place in places])
    return np.stack(places)[misfits.argmin(axis=0), np.arange(len(fields))]


def _bounded(place: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Keep centres within half a field of the image, frequencies below 1/2, widths from half a pixel to two fields."""
    rows, columns = shape
    high = np.array([1.5 * rows, 1.5 * columns, np.pi, np.pi, np.log(2 * max(shape)), np.log(2 * max(shape))])
    low = np.array([-rows / 2, -columns / 2, -np.pi, -np.pi, np.log(0.5), np.log(0.5)])
    return np.clip(place, low, high)


def _named(fields: np.ndarray, place: np.ndarray, misfit: np.ndarray, amplitudes: np.ndarray) -> Gabors:
    """Return places and amplitudes under the names that people use."""
    row, column, wave_y, wave_x, length, width = place.T
    angle = np.arctan2(wave_y, wave_x)
    turned = (angle < 0) | (angle >= np.pi)  # the same wave seen from its other end
    even, odd = amplitudes.T
    variation = np.sum((fields - fields.mean(axis=1, keepdims=True)) ** 2, axis=1)
    return Gabors(
        row=row,
        column=column,
        frequency=np.hypot(wave_y, wave_x) / (2 * np.pi),
        orientation=np.where(turned, angle % np.pi, angle),
        length=np.exp(length),
        width=np.exp(width),
        amplitude=np.hypot(even, odd),
        phase=np.arctan2(np.where(turned, odd, -odd), even),
        r2=np.where(variation > 0, 1 - misfit / np.where(variation > 0, variation, 1), 0.0),
    )
