"""What `catallax run cortex` may be asked, and the pictures that need no run."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from catallax.cortex.figures import draw_dictionary, draw_intervals, draw_lines, draw_pictures, mosaic
from catallax.cortex.options import Options, study
from catallax.errors import InputError
from catallax.runs.tables import svg_of
from catallax.study import check_study, settings


class TestOptions:
    def test_is_a_study_and_loads_neither_numpy_nor_jax(self):
        check_study(study)
        probe = (
            "import sys, catallax.cortex.options; print([m for m in ('jax', 'numpy', 'equinox') if m in sys.modules])"
        )
        shown = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
        assert shown.stdout.strip() == "[]"

    def test_one_array_is_told_from_images(self):
        assert Options().array is None
        assert Options((Path("a.PNG"), Path("b.jpg"))).array is None
        assert Options((Path("a.NPY"),)).array == Path("a.NPY")
        assert Options((Path("a.safetensors"),), active=8).array == Path("a.safetensors")

    def test_flags_are_read(self):
        given = {"data": ["a.npy"], "kinds": "topk,competition", "active": "8"}
        chosen = settings(study, given).options
        assert (chosen.kinds, chosen.active) == (("topk", "competition"), 8)

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"data": (Path("a.npy"), Path("b.png"))}, "a.npy: a file of activations is taken by itself"),
            ({"data": (Path("a.npy"),), "penalty": 0.1}, "--penalty is not for activations; give --active"),
            ({"data": (Path("a.npy"),), "signed": False}, "never signed"),
            ({"data": (Path("a.npy"),), "max_rounds": 5}, "--max-rounds is not for activations"),
            ({"active": 8}, "--active is not for images; give --penalty"),
            ({"kinds": ("topk",)}, "--kinds is not for images"),
            ({"data": (Path("a.npy"),), "kinds": ()}, "--kinds names nothing"),
            ({"data": (Path("a.npy"),), "kinds": ("topk", "topk")}, "something twice"),
            ({"tol": 0.0}, "--tol is 0"),
            ({"tol": 1.0}, "--tol is 1"),
            ({"penalty": 0.0}, "--penalty is 0"),
            ({"penalty": float("inf")}, "--penalty is inf"),
            ({"units": 1}, "--units is 1, but must be at least 2"),
            ({"size": 3}, "--size is 3"),
            ({"patches": 99}, "--patches is 99"),
            ({"epochs": 0}, "--epochs is 0"),
            ({"seeds": -1}, "--seeds is -1"),
            ({"seeds": 1}, "give 0 for no comparison"),
            ({"max_rounds": 0}, "--max-rounds is 0"),
            ({"data": (Path("a.npy"),), "active": 0}, "--active is 0"),
            ({"data": (Path("a.npy"),), "steps": 0}, "--steps is 0"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, given, said):
        with pytest.raises(InputError) as refused:
            Options(**given)
        assert said in str(refused.value)


class TestFigures:
    def test_a_mosaic_holds_every_field_in_its_place(self):
        fields = np.random.default_rng(0).normal(size=(5, 9))
        picture = mosaic(fields, columns=3)
        assert picture.shape == (2 * 4 - 1, 3 * 4 - 1)
        for unit, field in enumerate(fields):
            row, column = divmod(unit, 3)
            tile = picture[4 * row : 4 * row + 3, 4 * column : 4 * column + 3]
            assert np.allclose(tile, field.reshape(3, 3) / np.abs(field).max(), rtol=1e-12)
        assert np.all(np.isnan(picture[3])) and np.all(np.isnan(picture[:, 3])) and np.all(np.isnan(picture[4:, 8:]))

    def test_a_field_that_is_no_square_is_refused(self):
        with pytest.raises(ValueError, match="no square"):
            mosaic(np.ones((2, 5)))

    def test_a_silent_field_is_grey(self):
        assert np.all(mosaic(np.zeros((1, 4))) == 0)

    def test_pictures_are_drawn(self):
        rng = np.random.default_rng(1)
        pair = (np.array([0.1, np.nan, 0.2]), np.array([0.01, np.nan, 0.0]))
        line = (np.array([1.0, 10, 100]), np.array([3.0, 2, 1]))
        for figure, words in (
            (draw_dictionary(rng.normal(size=(7, 16))), []),
            (draw_pictures({"here": rng.normal(size=(8, 12)), "there": np.zeros((8, 12))}), ["here", "there"]),
            (draw_lines({"one": line}, "activity", "error", log=True), ["activity", "error", "100"]),
            (draw_lines({"one": line, "two": line}, "x", "y"), ["one", "two"]),
            (draw_intervals(["a", "b", "c"], {"error": pair, "cost": pair, "odd": pair}), ["error", "odd", "b"]),
        ):
            text = svg_of(figure)
            assert text.startswith("<?xml") and all(f">{word}<" in text for word in words)
