"""Photographs as stimuli: reading, whitening, patches, and a window that moves across an image.

Everything here is NumPy; an image is a matrix of grey values, rows from the top.
"""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError

_FORMATS = ("PNG", "JPEG")
_DATA = Path(__file__).with_name("data")
_CREDITS = {"china": "danielbuechele", "flower": "vultilion"}


@dataclass(frozen=True)
class Photograph:
    """An image with a name.

    Args:
        name: What reports call it.
        pixels: Grey values from 0 (black) to 1 (white), float32, (rows, columns).
        attribution: Who took it and under which licence.
    """

    name: str
    pixels: np.ndarray
    attribution: str


def photographs() -> tuple[Photograph, ...]:
    """Return the two photographs that come with Catallax, a temple and a flower, 427 × 640 pixels each."""
    return tuple(
        Photograph(name, read_image(_DATA / f"{name}.jpg"), f"{name}: photograph by {author}, CC BY 2.0")
        for name, author in _CREDITS.items()
    )


def read_image(path: str | os.PathLike[str], *, least: int = 16) -> np.ndarray:
    """Read a PNG or JPEG image as grey values.

    Colours become luminance (Rec. 601: .299 R + .587 G + .114 B), what is transparent shows white behind it, and a
    picture that a camera stored on its side is turned upright.

    Args:
        path: The file.
        least: How many rows and columns it must have, pixels.

    Returns:
        Grey values from 0 (black) to 1 (white), float32, (rows, columns).

    Raises:
        InputError: if it is no such image, is cut off, is too small, or too large to be read safely.
        FileNotFoundError: if there is no such file.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    file = os.fspath(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=_FORMATS) as opened:
                opened.load()
                image = ImageOps.exif_transpose(opened)
    except UnidentifiedImageError as error:
        raise InputError("this is no PNG or JPEG image that can be read", file=file) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError("the image is too large to be read safely; crop it or make it smaller", file=file) from error
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"the image is damaged or cut off ({error}); save or fetch it again", file=file) from error
    if min(image.size) < least:
        size = f"{image.height} × {image.width} pixels"
        raise InputError(f"the image has {size}; give one of at least {least} × {least}", file=file)
    return _grey(image)


def _grey(image) -> np.ndarray:
    """Return a Pillow image's grey values, from 0 to 1."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits, whatever the width of the integers that hold them
        return np.asarray(image, np.float32) / np.float32(65535)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB").convert("L"), np.float32) / np.float32(255)


def whiten(image: np.ndarray, cutoff: float = 0.4) -> np.ndarray:
    """Flatten an image's spectrum, as the retina is thought to.

    Photographs have amplitudes near 1/f, so that neighbouring pixels say nearly the same. The filter
    f·exp(−(f/f₀)⁴) evens this out and removes the highest frequencies, where noise and the pixel grid rule. The image
    is taken to go on as its own mirror image (a cosine transform), so that no edge arises where left meets right.

    Args:
        image: Grey values, (rows, columns).
        cutoff: f₀, cycles per pixel.

    Returns:
        The filtered image with mean 0 and standard deviation 1, float32, same shape.

    Raises:
        InputError: if the image is constant, or holds a NaN or an infinity.

    Reference:
        Olshausen & Field (1996), Emergence of simple-cell receptive field properties, Nature 381.
    """
    from scipy.fft import dctn, idctn

    image = _checked(image)
    rows, columns = (np.arange(length) / (2 * length) for length in image.shape)
    frequency = np.hypot(rows[:, None], columns[None, :])
    passed = frequency * np.exp(-((frequency / cutoff) ** 4))
    white = np.asarray(idctn(np.asarray(dctn(image, norm="ortho")) * passed, norm="ortho"))
    spread = white.std()
    if spread <= 1e-6 * np.abs(image).max():
        raise InputError("the image is constant: there is nothing to see in it")
    return (white / spread).astype(np.float32)


def patches(
    images: Sequence[np.ndarray], size: int = 16, count: int | None = None, *, seed: int = 0, flat: float = 0.1
) -> tuple[np.ndarray, np.ndarray]:
    """Cut square patches from images at random places, each scaled to unit norm.

    Places may overlap, but none is taken twice. Flat patches are left out: those whose standard deviation is less
    than `flat` times that of their image, since at unit norm they would be mostly noise.

    Args:
        images: Grey values, as a rule whitened; each (rows, columns).
        size: Pixels per side.
        count: How many patches; None for every place.
        seed: Where the places are drawn from.
        flat: What counts as flat.

    Returns:
        The patches, float32, (count, size²), rows first; and from which image each comes, (count,).

    Raises:
        InputError: if an image is unfit, or if there are fewer places than that.
    """
    images = [_checked(image, index, size) for index, image in enumerate(images)]
    places = [np.flatnonzero(_lively(image, size, flat)) for image in images]
    source = np.repeat(np.arange(len(images)), [len(place) for place in places])
    if not len(source) or (count is not None and not 1 <= count <= len(source)):
        asked = "any" if count is None else count
        raise InputError(f"there are {len(source)} patches of {size} × {size} pixels that are not flat, not {asked}")
    chosen = np.random.default_rng(seed).permutation(len(source))[:count]
    place, source = np.concatenate(places)[chosen], source[chosen]
    stimuli = np.empty((len(chosen), size * size), np.float32)
    for index, image in enumerate(images):
        mine = source == index
        windows = np.lib.stride_tricks.sliding_window_view(image, (size, size))
        row, column = np.divmod(place[mine], windows.shape[1])
        stimuli[mine] = _unit(windows[row, column].reshape(-1, size * size))
    return stimuli, source


def panned(
    image: np.ndarray,
    size: int = 16,
    frames: int = 32,
    *,
    step: tuple[int, int] = (0, 1),
    windows: int = 1,
    seed: int = 0,
    flat: float = 0.1,
) -> np.ndarray:
    """Move windows across an image, as a stream of frames.

    Args:
        image: Grey values, as a rule whitened, (rows, columns).
        size: Pixels per side of a window.
        frames: How many frames.
        step: Pixels down and to the right from one frame to the next.
        windows: How many windows move at once, from different places.
        seed: Where the places are drawn from.
        flat: No window is flat in any frame; see `patches`.

    Returns:
        What the windows see, each at unit norm in each frame, float32, (frames, windows, size²).

    Raises:
        InputError: if the image is unfit, or too small for so many windows to move so far.
    """
    image = _checked(image, 0, size)
    lively = _lively(image, size, flat)
    way = np.arange(frames)[:, None] * np.asarray(step)
    way -= way.min(axis=0)
    room = np.maximum(np.array(lively.shape) - way.max(axis=0), 0)
    free = np.ones(room, bool)
    for down, right in way:
        free &= lively[down : down + room[0], right : right + room[1]]
    starts = np.argwhere(free)
    if not 1 <= windows <= len(starts):
        what = f"{windows} windows of {size} × {size} pixels over {frames} frames"
        raise InputError(f"the image leaves room for {len(starts)} ways that are never flat, not {what}; take fewer")
    starts = starts[np.random.default_rng(seed).permutation(len(starts))[:windows]]
    row, column = np.moveaxis(starts[None] + way[:, None], -1, 0)
    seen = np.lib.stride_tricks.sliding_window_view(image, (size, size))[row, column]
    return _unit(seen.reshape(frames, windows, size * size))


def _checked(image: np.ndarray, index: int | None = None, size: int = 1) -> np.ndarray:
    """Return an image as a float64 matrix of finite numbers with room for a patch."""
    name = "the image" if index is None else f"image {index}"
    image = np.asarray(image)
    if image.ndim != 2:
        raise ValueError(f"{name} is a matrix of grey values (rows, columns), not of shape {image.shape}")
    if min(image.shape) < size:
        raise InputError(f"{name} has {image.shape[0]} × {image.shape[1]} pixels: no room for {size} × {size}")
    image = image.astype(np.float64)
    if not np.isfinite(image).all():
        row, column = np.argwhere(~np.isfinite(image))[0]
        raise InputError(f"{name} has a NaN or an infinity at row {row}, column {column}")
    return image


def _lively(image: np.ndarray, size: int, flat: float) -> np.ndarray:
    """Return at which places a patch is not flat, (rows − size + 1, columns − size + 1)."""

    def mean(x: np.ndarray) -> np.ndarray:
        total = np.pad(x, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
        corners = total[size:, size:] - total[:-size, size:] - total[size:, :-size] + total[:-size, :-size]
        return corners / size**2

    centred = image - image.mean()
    variance = mean(centred**2) - mean(centred) ** 2
    # Rounding in running totals leaves a constant image with a variance of this order.
    least = max(flat**2 * centred.var(), 1e-12 * np.abs(image).max() ** 2)
    return variance > least


def _unit(rows: np.ndarray) -> np.ndarray:
    """Return rows at unit norm, float32."""
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)
