"""How a user's words become typed options."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Literal

import counting_study
import pytest

from catallax.errors import InputError
from catallax.study import check_study, from_text, from_toml, settings

STUDY = counting_study.study


@pytest.fixture
def toml(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "conf.toml"
        path.write_text(text)
        return path

    return write


def test_flags_and_set_over_toml_over_defaults(toml):
    config = toml('rounds = 7\nstep = 2\nlaw = "square"\nseed = 3\n')
    chosen = settings(STUDY, {"rounds": "8"}, ["law=linear", "seed=4"], config)
    assert (chosen.options.rounds, chosen.options.step, chosen.options.law) == (8, 2.0, "linear")
    assert (chosen.options.tol, chosen.seed, chosen.devices) == (1.0, 4, 1)
    assert isinstance(chosen.options.step, float)


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("yes", bool, True),
        ("OFF", bool, False),
        ("-3", int, -3),
        ("1e6", int, 1_000_000),
        ("1e-6", float, 1e-6),
        ("-inf", float, -math.inf),
        ("none", float | None, None),
        ("2", float | None, 2.0),
        ("none", str, "none"),
        ("a b", str, "a b"),
        ("x/y.csv", Path, Path("x/y.csv")),
        ("ces", Literal["linear", "ces"], "ces"),
        ("1, 2,3", tuple[int, ...], (1, 2, 3)),
        (["a,b", "c"], tuple[str, ...], ("a,b", "c")),
        ("1,x", tuple[int, str], (1, "x")),
        ("", tuple[int, ...], ()),
    ],
)
def test_words_are_read_by_type(text, kind, value):
    found = from_text(text, kind)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ("maybe", bool, "is 'maybe', but must be true or false"),
        ("1.5", int, "is '1.5', but must be a whole number"),
        ("nan", float, "is 'nan', but must be a number"),
        ("x", float | None, "is 'x', but must be a number, or none"),
        ("cess", Literal["linear", "ces"], "is 'cess', but must be one of linear, ces; did you mean 'ces'?"),
        ("1", tuple[int, int], "is '1', but must be a list of 2 entries (a whole number; a whole number)"),
        ("1,x", tuple[int, ...], "is 'x', but must be a whole number"),
        (True, int, "is true, but must be a whole number"),
    ],
)
def test_a_wrong_word_is_named_with_what_is_expected(value, kind, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        from_text(value, kind)


@pytest.mark.parametrize(
    ("value", "kind", "found"),
    [
        (1, float, 1.0),
        (1e6, int, 1_000_000),
        (True, bool, True),
        ([1, 2], tuple[float, ...], (1.0, 2.0)),
        ("none", float | None, None),
        ("a.csv", Path | None, Path("/folder/a.csv")),
        ("/b.csv", Path, Path("/b.csv")),
    ],
)
def test_toml_values_are_read_by_type(value, kind, found):
    read = from_toml(value, kind, Path("/folder"))
    assert (read, type(read)) == (found, type(found))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("1", float),
        ("1", int),
        (1.5, int),
        (math.inf, int),
        (math.nan, float),
        (True, int),
        (1, bool),
        ("true", bool),
        (1, str),
        ({}, str),
        ("a", tuple[str, ...]),
        (["a"], tuple[int, ...]),
        ([1], int),
    ],
)
def test_toml_values_of_another_type_are_refused(value, kind):
    with pytest.raises(ValueError, match="but must be"):
        from_toml(value, kind, Path())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\nroundz = 3", "conf.toml:2: unknown key 'roundz'; did you mean 'rounds'?"),
        ("[options]\nrounds = 'x'", "conf.toml:2: rounds is 'x', but must be a whole number"),
        ("step = true", "conf.toml:1: step is true, but must be a number"),
        ("# rounds\n\n rounds.x = 1", "conf.toml:3: rounds is a table, but must be a whole number"),
        ("rounds = 1\n[options]\nrounds = 2", "conf.toml:1: rounds is given twice"),
        ("step = 1\nstep = 2\n\n# end", "conf.toml:2:9: not valid TOML: cannot overwrite a value"),
        ("step = = 1", "conf.toml:1:8: not valid TOML: invalid value"),
        ("a = 1\nstep = [1,", "conf.toml:2: not valid TOML: invalid value"),
        ("study = 'market'", "conf.toml:1: this file is for the study 'market', not 'counting'"),
        ("xyzzy = 1", "conf.toml:1: unknown key 'xyzzy'; known are data, rounds, step"),
        ("options = 1", "conf.toml:1: options must be a table: [options]"),
    ],
)
def test_errors_in_toml_name_file_and_line(toml, text, message):
    with pytest.raises(InputError) as caught:
        settings(STUDY, config=toml(text))
    assert message in str(caught.value)


def test_toml_that_is_not_utf8(tmp_path):
    path = tmp_path / "conf.toml"
    path.write_bytes(b'law = "\xff"')
    with pytest.raises(InputError, match="not UTF-8 text"):
        settings(STUDY, config=path)


def test_toml_with_a_byte_order_mark_and_windows_newlines(tmp_path):
    path = tmp_path / "conf.toml"
    path.write_bytes(b"\xef\xbb\xbfrounds = 3\r\nstep = 2\r\n")
    assert settings(STUDY, config=path).options.rounds == 3


def test_relative_paths_in_toml_count_from_its_folder(toml):
    config = toml("data = 'number.txt'")
    assert settings(STUDY, config=config).options.data == config.parent / "number.txt"
    assert settings(STUDY, {"data": "number.txt"}).options.data == Path("number.txt")


@pytest.mark.parametrize(
    ("flags", "sets", "message"),
    [
        ({}, ["roundz=3"], "--set roundz=3: unknown option 'roundz'; did you mean 'rounds'?"),
        ({}, ["rounds"], "--set rounds: write --set key=value"),
        ({}, ["rounds=x"], "--set rounds is 'x', but must be a whole number"),
        ({"rounds": "3"}, ["rounds=3"], "rounds is given twice, by --rounds and by --set rounds=3"),
        ({}, ["rounds=3", "rounds=4"], "rounds is given twice"),
        ({"fail_at": "x"}, [], "--fail-at is 'x', but must be a whole number, or none"),
        ({"rounds": "-1"}, [], "rounds is -1, but must not be negative"),
        ({"devices": "0"}, [], "devices is 0, but must be at least 1"),
    ],
)
def test_errors_in_flags(flags, sets, message):
    with pytest.raises(InputError) as caught:
        settings(STUDY, flags, sets)
    assert message in str(caught.value)


def test_dashes_in_keys_are_underscores(toml):
    assert settings(STUDY, sets=["fail-at=3"]).options.fail_at == 3
    assert settings(STUDY, config=toml("fail-at = 3")).options.fail_at == 3


def study_with(**fields):
    options = dataclasses.make_dataclass("Options", [(name, *rest) for name, rest in fields.items()])
    attributes = {"name": "x", "summary": "", "positional": None, "Options": options, "execute": print}
    return type("Study", (), attributes)()


@pytest.mark.parametrize(
    ("study", "message"),
    [
        (object(), "a study has name"),
        (study_with(seed=(int, 1)), "the option names seed belong to the command line"),
        (study_with(a=(dict, None)), "an option cannot have the type"),
        (study_with(a=(int,)), "every field of Options needs a default"),
    ],
)
def test_what_is_no_study_is_refused(study, message):
    with pytest.raises(TypeError, match=message):
        check_study(study)
