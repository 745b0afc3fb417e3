"""Maps: what is read from text and images, and how each mistake is told."""

import itertools

import numpy as np
import pytest
from matplotlib.image import imsave

from catallax.errors import InputError
from catallax.meanfield.maps import COLOURS, Map, openings, parse_map, read_map

SMALL = "#####\n#E..#\n#.#.#\n#..X#\n#####\n"


def picture(path, text, blur=0):
    """Save a map as an image, its colours off by a little; return the path."""
    rows = [[COLOURS[letter] for letter in line] for line in text.splitlines()]
    noise = np.random.default_rng(3).integers(-blur, blur + 1, (len(rows), len(rows[0]), 3))
    imsave(path, np.clip(np.array(rows) + noise, 0, 255).astype(np.uint8))
    return path


def same(one: Map, other: Map) -> bool:
    parts = ("free", "entries", "exits", "distance")
    return all(np.array_equal(getattr(one, part), getattr(other, part)) for part in parts)


def test_a_map_is_read_cell_by_cell():
    plan = parse_map(SMALL)
    assert np.array_equal(plan.free, [[letter != "#" for letter in line] for line in SMALL.splitlines()])
    assert np.argwhere(plan.entries).tolist() == [[1, 1]] and np.argwhere(plan.exits).tolist() == [[3, 3]]
    assert plan.longest_way == 4 and plan.distance[3, 3] == 0 and plan.distance[0, 0] == -1


def test_distances_are_those_of_repeated_relaxation():
    """Seed 11, 30 × 20 cells, a quarter of them walls: compare with |cells| sweeps of a minimum over neighbours."""
    random = np.random.default_rng(11)
    cells = np.where(random.random((30, 20)) < 0.25, "#", ".")
    cells[0, 0] = cells[0, 1] = "."
    cells[0, 0], cells[0, 1], cells[29, 19] = "X", "E", "#"
    plan = parse_map("\n".join("".join(row) for row in cells))
    far = np.where(plan.exits, 0.0, np.inf)
    for _ in range(cells.size):
        padded = np.pad(far, 1, constant_values=np.inf)
        around = np.min([padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]], axis=0)
        far = np.where(plan.free, np.minimum(far, around + 1), np.inf)
    assert np.array_equal(np.where(np.isinf(far), -1, far), plan.distance)


@pytest.mark.parametrize("periodic", [False, True])
def test_openings_are_pairs_of_free_cells(periodic):
    """Seed 5: each entry against its definition, cell by cell; what is open one way is open back."""
    free = np.random.default_rng(5).random((4, 6)) < 0.7
    steps = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
    ways = openings(free, steps, periodic=periodic).reshape(5, 4, 6)
    for (down, right), way in zip(steps, ways, strict=True):
        for i, j in itertools.product(range(4), range(6)):
            row, column = i + down, j + right
            inside = periodic or (0 <= row < 4 and 0 <= column < 6)
            there = inside and free[row % 4, column % 6]
            assert way[i, j] == ((free[i, j] and there) if (down or right) else True)


@pytest.mark.parametrize("blur", [0, 20])
def test_an_image_says_what_the_text_says(tmp_path, blur):
    plan = read_map(picture(tmp_path / "plan.png", SMALL, blur))
    assert same(plan, parse_map(SMALL))


def test_grey_and_transparent_images_are_read(tmp_path):
    """Where an image is transparent it is paper; grey levels alone give no exit."""
    pixels = np.array([[COLOURS[letter] for letter in line] for line in SMALL.splitlines()], np.uint8)
    opaque = np.where(np.all(pixels == 255, axis=-1), 0, 255).astype(np.uint8)
    ink = np.where(opaque[..., None] == 0, 0, pixels).astype(np.uint8)
    imsave(tmp_path / "clear.png", np.dstack([ink, opaque]))
    assert same(read_map(tmp_path / "clear.png"), parse_map(SMALL))
    imsave(tmp_path / "grey.png", np.dstack([np.where(pixels.sum(-1) > 0, 255, 0).astype(np.uint8)] * 3))
    with pytest.raises(InputError, match=r"grey\.png: the map has no exit"):
        read_map(tmp_path / "grey.png")


def test_lines_may_end_as_they_do_elsewhere(tmp_path):
    path = tmp_path / "plan.txt"
    path.write_bytes(b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode() + b"\r\n\r\n")
    assert same(read_map(path), parse_map(SMALL))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the map is empty"),
        ("\n \n", "the map is empty"),
        ("###\n#EX#\n###", ":2:4: this row has 4 cells and the first has 3"),
        ("####\n#EX\n####", ":2:4: this row has 3 cells and the first has 4"),
        ("####\n#E X#\n####", ":2:3: a space is no cell"),
        ("####\n#E\tX\n####", ":2:3: a tab is no cell"),
        ("####\n#EX?\n####", r":2:4: '\?' is no cell"),
        ("####\n#..#\n####", "the map has no exit"),
        ("####\n#.X#\n####", "the map has no entry"),
        ("#####\n#E#X#\n#####", ":2:2: no exit can be reached from this entry"),
        ("######\nXE##X#\n######", ":2:5: this exit cannot be reached from any entry"),
    ],
)
def test_a_bad_map_is_told_by_file_line_and_column(tmp_path, text, message):
    path = tmp_path / "plan.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"plan\.txt" + (message if message[0] == ":" else ": " + message)):
        read_map(path)


def test_files_that_are_no_maps(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_map(tmp_path / "none.txt")
    with pytest.raises(FileNotFoundError):
        read_map(tmp_path / "none.png")
    (tmp_path / "fake.png").write_text(SMALL, encoding="utf-8")
    with pytest.raises(InputError, match=r"fake\.png: this is not a PNG image"):
        read_map(tmp_path / "fake.png")
    (tmp_path / "latin.txt").write_bytes(b"#\xe9#")
    with pytest.raises(InputError, match=r"latin\.txt: a map is text in UTF-8"):
        read_map(tmp_path / "latin.txt")


def test_a_colour_that_means_nothing_is_told(tmp_path):
    pixels = np.zeros((3, 4, 3), np.uint8)
    pixels[1, 2] = 30, 60, 255
    imsave(tmp_path / "blue.png", pixels)
    with pytest.raises(InputError, match=r"blue\.png:2:3: the colour \(30, 60, 255\) is no cell"):
        read_map(tmp_path / "blue.png")


def test_a_photograph_is_no_map(tmp_path, monkeypatch):
    monkeypatch.setattr("catallax.meanfield.maps._MOST", 24)
    path = picture(tmp_path / "plan.png", SMALL)
    with pytest.raises(InputError, match=r"plan\.png: each pixel is a cell, and 5 × 5 of them are too many"):
        read_map(path)
