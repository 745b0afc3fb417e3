"""What a study is, how studies are found, and how a user's options become typed values.

A study is the face of a system towards the command line and the report. Nothing in this module imports JAX,
and reading a study's options must not import it either: `execute` imports what it needs.
"""

import dataclasses
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from .certificate import Certificate
from .errors import InputError, did_you_mean

if TYPE_CHECKING:
    from .runs.store import RunContext

GROUP = "catallax.studies"
"""The entry-point group under which packages declare their studies."""

COMMON = {"seed": int, "devices": int}
"""Settings that every run has, whatever the study."""

RESERVED = frozenset({*COMMON, "set", "config", "out", "resume", "quiet", "help", "version", "study", "options"})
"""Names that a study's own options may not take."""

RECORDED = frozenset({"versions", "input", "result"})
"""Tables of a run's config.toml that say what was, not what to do."""


@dataclasses.dataclass(frozen=True)
class Film:
    """Pictures in a row that the reader of a report moves through with a slider.

    Args:
        frames: Amounts, shape (frames, rows, columns), none below zero; NaN where nothing can be (a wall). With
            few rows and columns a report stays small: a cell of a frame takes 1.3 bytes of it.
        labels: What is said of each frame, such as "time 3 of 40".
        unit: What an amount is, such as "part of the crowd in a cell".
        top: The amount of the strongest colour, or of the full height; larger ones are shown as large as it.
        power: Colours go by (amount / top) ** power. Bars always go by the amount itself.
        arrows: Directions, shape (frames, rows, columns, 2), down and to the right, of lengths from 0 to 1. They may
            have fewer rows and columns than the frames: each then stands in the middle of a block of cells.
        bars: Show one row of amounts as bars.
        names: With bars, the columns' names.
    """

    frames: Any
    labels: Sequence[str]
    unit: str
    top: float
    power: float = 0.5
    arrows: Any = None
    bars: bool = False
    names: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Section:
    """One section of a report.

    Args:
        title: The heading.
        text: Plain text; a blank line starts a new paragraph.
        table: Columns by name: sequences or arrays of equal length.
        figure: The text of an SVG image; up to five inches wide, its words can be read on a phone.
        note: A remark below the table and the figure.
        terms: Words and what they mean here.
        file: Where the whole table is, within the run directory ("answer/prices.csv").
        film: Pictures to move through, shown above the figure.
    """

    title: str
    text: str = ""
    table: Mapping[str, Any] | None = None
    figure: str | None = None
    note: str = ""
    terms: Mapping[str, str] | None = None
    file: str = ""
    film: Film | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a study hands back.

    Args:
        title: The heading of the report.
        status: How the run ended, in the engine's words ("settled", "out of rounds", "stopped").
        certificates: The checked claims.
        summary: Lines for the terminal.
        sections: The body of the report.
        attribution: Sources and licences of the data, as plain text.
    """

    title: str
    status: str
    certificates: list[Certificate]
    summary: list[str] = dataclasses.field(default_factory=list)
    sections: list[Section] = dataclasses.field(default_factory=list)
    attribution: str = ""


@runtime_checkable
class Study(Protocol):
    """What `catallax run NAME` needs of a study: an object, or a module, with these names.

    `Options` is a frozen dataclass; each field has a type, a default and `metadata={"help": ...}`. A field
    may be bool, int, float, str, Path, a Literal of strings, a tuple of these (`tuple[float, ...]`), or one
    of these or None.
    """

    @property
    def name(self) -> str:
        """What stands after `catallax run`."""
        ...

    @property
    def summary(self) -> str:
        """What it does, in one line."""
        ...

    @property
    def positional(self) -> str | None:
        """The option that takes the positional arguments, or None."""
        ...

    @property
    def Options(self) -> type[Any]:
        """The dataclass of the options."""
        ...

    def execute(self, options: Any, run: "RunContext") -> Outcome:
        """Do the work: load, solve, write tables and figures through `run`."""
        ...


@runtime_checkable
class Writer(Study, Protocol):
    """A study whose runs leave a model that writes text: what `catallax generate` needs of it."""

    def generate(self, directory: Path, prompt: str, *, model: str, count: int, temperature: float, seed: int) -> str:
        """Let a model of a run go on with a text; return the prompt and what follows it.

        Raises:
            InputError: if the run has no such model, or the numbers are out of range.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a run is asked to do: the study's options, the seed and the number of devices."""

    options: Any
    seed: int = 0
    devices: int = 1


def study_names() -> list[str]:
    """List the names of the installed studies, without loading them."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def load_study(name: str) -> Study:
    """Load a study by its name.

    Raises:
        InputError: if no installed package declares it, or if it cannot be loaded.
    """
    points = [point for point in entry_points(group=GROUP) if point.name == name]
    if not points:
        known = study_names()
        offer = f"; installed are {', '.join(known)}" if known else "; no study is installed"
        raise InputError(f"there is no study {name!r}{did_you_mean(name, known) or offer}")
    try:
        study = points[0].load()
        check_study(study)
    except (ImportError, AttributeError, TypeError) as error:
        raise InputError(f"the study {name!r} ({points[0].value}) cannot be loaded: {error}") from error
    return study


def check_study(study: Any) -> None:
    """Check that an object is a study whose options a user can set.

    Raises:
        TypeError: if a part is missing, a name is reserved, or a field's type is none of the known ones.
    """
    options: Any = getattr(study, "Options", None)
    if not isinstance(study, Study) or not dataclasses.is_dataclass(study.Options):
        raise TypeError("a study has name, summary, positional, a dataclass Options, and execute(options, run)")
    kinds = option_types(study)
    if taken := sorted(RESERVED & kinds.keys()):
        raise TypeError(f"the option names {', '.join(taken)} belong to the command line")
    if study.positional is not None and study.positional not in kinds:
        raise TypeError(f"positional={study.positional!r} is not a field of Options")
    for kind in kinds.values():
        expected(kind)
    try:
        options()
    except TypeError:
        raise TypeError("every field of Options needs a default") from None


def option_types(study: Study) -> dict[str, Any]:
    """Map each option's name to its type."""
    hints = typing.get_type_hints(study.Options)
    return {field.name: hints[field.name] for field in dataclasses.fields(study.Options) if field.init}


def settings(
    study: Study,
    flags: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
    config: Path | None = None,
) -> Settings:
    """Put a run's settings together: flags and `--set` over the TOML file over defaults.

    Args:
        study: Whose options.
        flags: Values given by a flag of their own: text, or lists of text, or booleans.
        sets: Texts of the form "key=value".
        config: A TOML file: keys at its top or in a table [options]; a run's own config.toml will do. Paths
            in it count from the file's folder.

    Raises:
        InputError: if a key is unknown or given twice; if a value is of the wrong type, or refused.
        OSError: if the file cannot be read.
    """
    kinds = {**option_types(study), **COMMON}
    chosen = _from_toml(study, kinds, Path(config)) if config is not None else {}
    given = {name: (f"--{name.replace('_', '-')}", value) for name, value in (flags or {}).items()}
    for text in sets:
        name, value = _assignment(text, kinds)
        if name in given:
            raise InputError(f"{name} is given twice, by {given[name][0]} and by --set {text}")
        given[name] = (f"--set {name}", value)
    for name, (place, value) in given.items():
        try:
            chosen[name] = from_text(value, kinds[name])
        except ValueError as error:
            raise InputError(f"{place} {error}") from None
    common = {name: chosen.pop(name) for name in COMMON if name in chosen}
    if common.get("devices", 1) < 1:
        raise InputError(f"devices is {common['devices']}, but must be at least 1")
    try:
        return Settings(study.Options(**chosen), **common)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(str(error)) from error


def _assignment(text: str, kinds: Mapping[str, Any]) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    name = key.strip().replace("-", "_")
    if not equals or not name:
        raise InputError(f"--set {text}: write --set key=value")
    if name not in kinds:
        raise InputError(f"--set {text}: unknown option {key.strip()!r}{_suggestion(name, kinds)}")
    return name, value.strip()


def _suggestion(name: str, kinds: Mapping[str, Any]) -> str:
    return did_you_mean(name, list(kinds)) or f"; known are {', '.join(kinds)}"


def _from_toml(study: Study, kinds: Mapping[str, Any], path: Path) -> dict[str, Any]:
    document, text = read_toml(path)
    entries = {key: value for key, value in document.items() if key not in RECORDED and key != "options"}
    named = entries.pop("study", study.name)
    if named != study.name:
        line = line_of("study", text)
        raise InputError(f"this file is for the study {named!r}, not {study.name!r}", file=path, line=line)
    table = document.get("options", {})
    if not isinstance(table, dict):
        raise InputError("options must be a table: [options]", file=path, line=line_of("options", text))
    chosen = {}
    for key, value in (*entries.items(), *table.items()):
        name, line = key.replace("-", "_"), line_of(key, text)
        if name not in kinds:
            raise InputError(f"unknown key {key!r}{_suggestion(name, kinds)}", file=path, line=line)
        if name in chosen:
            raise InputError(f"{name} is given twice", file=path, line=line)
        try:
            chosen[name] = from_toml(value, kinds[name], path.parent)
        except ValueError as error:
            raise InputError(f"{name} {error}", file=path, line=line) from None
    return chosen


def read_toml(path: Path) -> tuple[dict[str, Any], str]:
    """Read a TOML file: the document and its text.

    Raises:
        InputError: if it is not UTF-8 or not TOML, with line and column.
        OSError: if it cannot be read.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 text (byte {error.start}); save the file as UTF-8", file=path) from None
    try:
        return tomllib.loads(text.replace("\r\n", "\n")), text
    except tomllib.TOMLDecodeError as error:
        what, line, column = str(error), None, None
        if place := re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", what, re.DOTALL):
            what = place[1]
            line = int(place[2]) if place[2] else text.count("\n") + 1
            column = int(place[3]) if place[3] else None
        what = what[:1].lower() + what[1:]
        raise InputError(f"not valid TOML: {what}", file=path, line=line, column=column) from None


def line_of(key: str, text: str) -> int | None:
    """Return the number of the line on which a TOML text assigns a key or opens its table, or None."""
    pattern = re.compile(rf"""\s*(\[\s*)?["']?{re.escape(key)}["']?\s*(?(1)[\].]|[=.])""")
    return next((n for n, line in enumerate(text.splitlines(), 1) if pattern.match(line)), None)


def _optional(kind: Any) -> tuple[Any, bool]:
    """Split `T | None` into T and True."""
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return kind, False
    rest = [part for part in typing.get_args(kind) if part is not type(None)]
    return (rest[0] if len(rest) == 1 else kind), len(rest) < len(typing.get_args(kind))


BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}

WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}


def expected(kind: Any) -> str:
    """Say in words what a value of this type is.

    Raises:
        TypeError: if options of this type are not supported.
    """
    kind, optional = _optional(kind)
    tail = ", or none" if optional else ""
    if kind in WORDS:
        return WORDS[kind] + tail
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal and all(isinstance(choice, str) for choice in args):
        return f"one of {', '.join(args)}{tail}"
    if origin is tuple and len(args) == 2 and args[1] is ...:
        return f"a list, each entry {expected(args[0])}{tail}"
    if origin is tuple and args:
        return f"a list of {len(args)} entries ({'; '.join(map(expected, args))}){tail}"
    raise TypeError(f"an option cannot have the type {kind}")


def from_text(value: Any, kind: Any) -> Any:
    """Turn what stands on a command line into a value of a type.

    Args:
        value: Text; a list of texts for a tuple (or one text with commas); or already a boolean.
        kind: The type. For `T | None` the word "none" means None.

    Raises:
        ValueError: a message that begins with "is ... but must be ...".
    """
    inner, optional = _optional(kind)
    if isinstance(value, bool):
        if inner is bool:
            return value
        raise ValueError(_refusal(value, kind))
    if optional and value == "none":
        return None
    if typing.get_origin(inner) is tuple:
        words = value.split(",") if isinstance(value, str) else value
        return _entries([word.strip() for word in words if word.strip()], inner, value, from_text)
    if isinstance(value, str):
        found = _parse(value, inner)
        if found is not None:
            return found
    raise ValueError(_refusal(value, kind))


def _parse(text: str, kind: Any) -> Any:
    """Read one word; None if it is not of the type."""
    if kind is bool:
        return BOOLEANS.get(text.lower())
    if kind is Path:
        return Path(text).expanduser() if text else None
    if kind is str or typing.get_origin(kind) is Literal:
        return text if kind is str or text in typing.get_args(kind) else None
    try:
        number = int(text) if kind is int else float(text)
    except ValueError:
        return _whole(text) if kind is int else None
    return None if number != number else number


def _whole(text: str) -> int | None:
    """Read 1e6 as a whole number."""
    try:
        return int(float(text)) if float(text).is_integer() else None
    except (ValueError, OverflowError):
        return None


def from_toml(value: Any, kind: Any, folder: Path) -> Any:
    """Check a TOML value against a type; a relative path counts from the folder.

    Raises:
        ValueError: a message that begins with "is ... but must be ...".
    """
    inner, optional = _optional(kind)
    if optional and value == "none":
        return None
    if typing.get_origin(inner) is tuple:
        if isinstance(value, list):
            return _entries(value, inner, value, lambda entry, kind: from_toml(entry, kind, folder))
    elif isinstance(value, bool):
        if inner is bool:
            return value
    elif isinstance(value, int | float):
        if inner is float and value == value:
            return float(value)
        if inner is int and float(value).is_integer():
            return int(value)
    elif isinstance(value, str) and inner not in (bool, int, float):
        found = _parse(value, inner)
        if found is not None:
            return folder / found if inner is Path else found
    raise ValueError(_refusal(value, kind))


def _entries(values: list, kind: Any, whole: Any, read: Any) -> tuple:
    kinds = typing.get_args(kind)
    if len(kinds) == 2 and kinds[1] is ...:
        kinds = kinds[:1] * len(values)
    if len(kinds) != len(values):
        raise ValueError(_refusal(whole, kind))
    return tuple(read(value, kind) for value, kind in zip(values, kinds, strict=True))


def _refusal(value: Any, kind: Any) -> str:
    inner, _ = _optional(kind)
    shown = (
        "true"
        if value is True
        else "false"
        if value is False
        else "a table"
        if isinstance(value, dict)
        else repr(value)
    )
    choices = typing.get_args(inner) if typing.get_origin(inner) is Literal else ()
    offer = did_you_mean(value, list(choices)) if choices and isinstance(value, str) else ""
    return f"is {shown}, but must be {expected(kind)}{offer}"
