"""Maps of places: walls, free cells, entries and exits, read from text or from an image."""

import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError

WALL, FREE, ENTRY, EXIT = "#", ".", "E", "X"
COLOURS = {WALL: (0, 0, 0), FREE: (255, 255, 255), ENTRY: (0, 255, 0), EXIT: (255, 0, 0)}
"""What the pixels of an image mean: black walls, white free cells, green entries, red exits."""

# How far a pixel's colour may be from those above, and how many pixels are no longer a map but a photograph.
_NEAR = 100
_MOST = 4_000_000
_AROUND = ((-1, 0), (1, 0), (0, -1), (0, 1))
_IMAGES = (".png",)


@dataclass(frozen=True)
class Map:
    """A map of H × W cells.

    Args:
        free: Which cells can be entered; entries and exits among them.
        entries: Where a crowd starts.
        exits: Where it gets out.
        distance: How many steps each cell is from the nearest exit; −1 where there is no way, as in walls.
    """

    free: np.ndarray
    entries: np.ndarray
    exits: np.ndarray
    distance: np.ndarray

    @property
    def longest_way(self) -> int:
        """Steps from the entry that is farthest from an exit."""
        return int(self.distance[self.entries].max())


def read_map(path: str | os.PathLike[str]) -> Map:
    """Read a map from a text file or a PNG image.

    In text each character is a cell: `#` wall, `.` free, `E` entry, `X` exit; a line is a row. In an image each pixel
    is a cell: black wall, white free, green entry, red exit.

    Args:
        path: The file; a name that ends in .png is an image.

    Raises:
        InputError: if it is not such a map; it names the file, the line (row) and the column.
        FileNotFoundError: if there is no such file.
    """
    name = os.fspath(path)
    if Path(name).suffix.lower() in _IMAGES:
        return _map(_read_image(name), name)
    try:
        text = Path(name).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError("a map is text in UTF-8, or an image whose name ends in .png", file=name) from error
    return parse_map(text, file=name)


def parse_map(text: str, *, file: str | None = None) -> Map:
    """Read a map from text; see `read_map`.

    Args:
        text: The rows; empty lines at the end are ignored.
        file: Its name, for messages.

    Raises:
        InputError: if it is not a map.
    """
    lines = text.removeprefix("\ufeff").splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise InputError("the map is empty; write a row per line, of # . E X", file=file)
    width = len(lines[0])
    for row, line in enumerate(lines):
        for column, letter in enumerate(line):
            if letter not in COLOURS:
                what = "a space" if letter == " " else "a tab" if letter == "\t" else repr(letter)
                message = f"{what} is no cell; write # for a wall, . for a free cell, E for an entry, X for an exit"
                raise InputError(message, file=file, line=row + 1, column=column + 1)
        if len(line) != width:
            message = f"this row has {len(line)} cells and the first has {width}; make all rows equally long"
            raise InputError(message, file=file, line=row + 1, column=min(len(line), width) + 1)
    return _map(np.array([list(line) for line in lines]), file)


def openings(free: np.ndarray, steps: tuple[tuple[int, int], ...], *, periodic: bool = False) -> np.ndarray:
    """Return which steps lead from a free cell to a free cell.

    Args:
        free: Which cells can be entered, (H, W).
        steps: D displacements (rows down, columns right); to stay, (0, 0), is always open.
        periodic: Whether the map closes on itself.

    Returns:
        Truth values, shape (D, H·W).
    """
    free = np.asarray(free, bool)
    ways = []
    for down, right in steps:
        ahead = np.roll(free, (-down, -right), (0, 1))
        if not periodic:
            rows, columns = np.indices(free.shape)
            rows, columns = rows + down, columns + right
            ahead &= (rows >= 0) & (rows < free.shape[0]) & (columns >= 0) & (columns < free.shape[1])
        ways.append(free & ahead if down or right else np.ones_like(free))
    return np.stack(ways).reshape(len(steps), -1)


def _read_image(name: str) -> np.ndarray:
    """Return the letters of the cells that an image shows."""
    from matplotlib.image import imread

    if not Path(name).exists():
        raise FileNotFoundError(2, "No such file or directory", name)
    try:
        pixels = np.asarray(imread(name))
    except Exception as error:  # the decoder's own errors have no common class
        raise InputError("this is not a PNG image", file=name) from error
    if pixels.shape[0] * pixels.shape[1] > _MOST:
        size = f"{pixels.shape[0]} × {pixels.shape[1]}"
        raise InputError(f"each pixel is a cell, and {size} of them are too many; shrink the image", file=name)
    pixels = pixels / 255 if pixels.dtype.kind in "ui" else pixels
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    if pixels.shape[2] in (2, 4):
        # Where it is transparent, paper shows.
        pixels = pixels[:, :, :-1] * pixels[:, :, -1:] + 1 - pixels[:, :, -1:]
    colours = 255.0 * np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    letters = np.array(list(COLOURS))
    away = np.stack([np.linalg.norm(colours - np.array(colour), axis=-1) for colour in COLOURS.values()], axis=-1)
    odd = np.argwhere(away.min(axis=-1) > _NEAR)
    if odd.size:
        row, column = map(int, odd[0])
        red, green, blue = (round(part) for part in colours[row, column])
        message = f"the colour ({red}, {green}, {blue}) is no cell; use black, white, green (entry) or red (exit)"
        raise InputError(message, file=name, line=row + 1, column=column + 1)
    return letters[away.argmin(axis=-1)]


def _map(cells: np.ndarray, file: str | None) -> Map:
    entries, exits = cells == ENTRY, cells == EXIT
    if not exits.any():
        raise InputError("the map has no exit; mark one cell with X (in an image, red)", file=file)
    if not entries.any():
        raise InputError("the map has no entry; mark a cell with E (in an image, green)", file=file)
    free = cells != WALL
    distance = _steps_from(exits, free)
    lost = np.argwhere(entries & (distance < 0))
    if lost.size:
        message = "no exit can be reached from this entry; open a way through the walls"
        raise InputError(message, file=file, line=int(lost[0][0]) + 1, column=int(lost[0][1]) + 1)
    unreached = np.argwhere(exits & (_steps_from(entries, free) < 0))
    if unreached.size:
        message = "this exit cannot be reached from any entry; open a way through the walls"
        raise InputError(message, file=file, line=int(unreached[0][0]) + 1, column=int(unreached[0][1]) + 1)
    return Map(free, entries, exits, distance)


def _steps_from(sources: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Return how many steps each free cell is from the nearest source; −1 where there is no way."""
    distance = np.where(sources, 0, -1)
    queue = deque(map(tuple, np.argwhere(sources)))
    while queue:
        i, j = queue.popleft()
        for down, right in _AROUND:
            place = i + down, j + right
            inside = 0 <= place[0] < free.shape[0] and 0 <= place[1] < free.shape[1]
            if inside and free[place] and distance[place] < 0:
                distance[place] = distance[i, j] + 1
                queue.append(place)
    return distance
