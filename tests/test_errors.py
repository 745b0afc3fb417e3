"""Errors are one line, keep their place, and suggest names."""

import pickle

import pytest

from catallax.errors import InputError, MissingExtra, did_you_mean


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ({"file": "a.csv", "line": 12, "column": 3}, "a.csv:12:3: it broke; mend it"),
        ({"file": "a.csv", "line": 12}, "a.csv:12: it broke; mend it"),
        ({"file": "a.csv"}, "a.csv: it broke; mend it"),
        ({}, "it broke; mend it"),
    ],
)
def test_the_place_leads_the_message(place, expected):
    assert str(InputError("it broke; mend it", **place)) == expected


def test_an_error_is_one_line_whatever_the_input():
    assert "\n" not in str(InputError("a\nb\r\nc", file="odd\nname.csv"))


def test_an_error_survives_pickling():
    error = pickle.loads(pickle.dumps(InputError("it broke", file="a.csv", line=2, column=3)))
    assert (str(error), error.line, error.column) == ("a.csv:2:3: it broke", 2, 3)
    assert str(pickle.loads(pickle.dumps(MissingExtra("parquet")))) == str(MissingExtra("parquet"))


def test_a_missing_extra_says_how_to_install_it():
    assert str(MissingExtra("parquet")) == "reading Parquet needs pyarrow: pip install 'catallax[parquet]'"
    assert issubclass(MissingExtra, ImportError)
    assert "catallax[unheard-of]" in str(MissingExtra("unheard-of"))


def test_did_you_mean():
    assert did_you_mean("utilty", ["budgets", "utility"]) == "; did you mean 'utility'?"
    assert did_you_mean("UTILITY", ["Utility"]) == "; did you mean 'Utility'?"
    assert did_you_mean("zzz", ["budgets", "utility"]) == ""
    assert did_you_mean("anything", []) == ""
