"""Tables in comma-separated text: read quickly, and every fault given its line and column."""

import csv
import re
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from ..errors import InputError, did_you_mean
from ._table import (
    BLANKS,
    Quantity,
    Table,
    assembled,
    compact,
    is_long,
    out_of_range,
    regular_file,
    require_memory,
    require_range,
)
from .problem import first_fault

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_TOO_LARGE = "the number is too large for a float64; use a larger unit"
_REMEMBERED = 65_536
_SAMPLE = 1 << 20
_BYTES_PER_CELL = 24  # the number, a copy of it, and room for the list that grows

Row = tuple[int, list[str]]


def read_table(path: Path, file: str, quantity: Quantity) -> Table:
    """Read a wide or a long table; `is_long` tells them apart.

    Args:
        path: A regular file.
        file: The path as the user wrote it.
        quantity: What the numbers are.

    Raises:
        InputError: with line and column, for anything that is not such a table.
    """
    cells = _estimated_cells(path)
    require_memory(cells * _BYTES_PER_CELL, file, f"about {cells:,} cells")
    rows = _rows(path, file)
    header = _header(rows, file)
    return (_long if is_long(header[1]) else _wide)(header, rows, file, quantity)


def read_by_name(path: str, names: Sequence[str], noun: str, quantity: Quantity) -> tuple[np.ndarray, dict[str, int]]:
    """Read one number for each name from a table of two columns, name and number.

    Args:
        path: The file.
        names: The names that must all be there, in the order of the result.
        noun: "buyer" or "good".
        quantity: What the numbers are.

    Returns:
        The numbers, and the line of each name in the order of the file.

    Raises:
        InputError: with line and column; names that do not match are an error in both directions.
    """
    rows = _rows(regular_file(path), path)
    line, header = _header(rows, path, noun)
    if len(header) != 2:
        raise InputError(
            f"{len(header)} columns; {quantity.plural} need two, the {noun}'s name and the {quantity.noun}",
            file=path,
            line=line,
            column=min(len(header), 2) + 1,
        )
    place = {name: position for position, name in enumerate(names)}
    lines: dict[str, int] = {}
    result = np.zeros(len(names))
    for line, fields in rows:
        _require_width(fields, 2, path, line)
        name = _name(fields[0], noun, path, line, 1)
        if name not in place:
            message = f"there is no {noun} {name!r} in the valuations{did_you_mean(name, names)}"
            raise InputError(message, file=path, line=line, column=1)
        _require_new(name, lines, noun, path, line, 1)
        lines[name] = line
        value = _located(fields[1], quantity, path, line, 2, f"{noun} {name!r}")
        result[place[name]] = value
    if len(lines) < len(names):
        missing = list(islice((name for name in names if name not in lines), 4))
        listed = ", ".join(repr(name) for name in missing[:3]) + (", ..." if len(missing) > 3 else "")
        count = len(names) - len(lines)
        raise InputError(f"no {quantity.noun} for {count} {noun}s ({listed}); add a line for each", file=path)
    return result, lines


class _Fault(ValueError):
    """A cell that holds no number; the message is the sentence for the user."""


class _Numbers(dict[str, float]):
    """From a cell's text to its number, remembering the texts seen, since real tables repeat them."""

    def __init__(self, quantity: Quantity):
        super().__init__()
        self.quantity = quantity

    def __missing__(self, text: str) -> float:
        value = _number(text, self.quantity)
        if len(self) < _REMEMBERED:
            self[text] = value
        return value


def _number(text: str, quantity: Quantity) -> float:
    """A cell's number; zero for a blank where blanks are allowed."""
    plain = text.strip()
    if quantity.blank and plain.casefold() in BLANKS:
        return 0.0
    if _NUMBER.fullmatch(plain):
        value = float(plain)
        if abs(value) < np.inf:
            return value
        raise _Fault(_TOO_LARGE)
    blank = f", or leave the cell blank if {quantity.blank}" if quantity.blank else ""
    if not plain:
        raise _Fault(f"the {quantity.noun} is blank; write a number")
    if "," in plain and _NUMBER.fullmatch(plain.replace(",", "")):
        raise _Fault(f"{_shown(plain)} has a comma; write a point for decimals and nothing between thousands")
    raise _Fault(f"{_shown(plain)} is not a number; write a number{blank}")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _located(text: str, quantity: Quantity, file: str, line: int, column: int, who: str) -> float:
    """A cell's number, at least zero, or the error that says where it stands."""
    try:
        value = _number(text, quantity)
    except _Fault as fault:
        raise InputError(f"{fault} ({who})", file=file, line=line, column=column) from None
    if value < 0:
        raise InputError(out_of_range(value, quantity, who), file=file, line=line, column=column)
    return value + 0.0  # -0.0 becomes 0.0


def _wide(header: Row, rows: Iterator[Row], file: str, quantity: Quantity) -> Table:
    goods = _goods(header, file)
    numbers, cells = _Numbers(quantity), array("d")
    buyers: dict[str, int] = {}
    try:
        for line, fields in rows:
            _require_width(fields, len(goods) + 1, file, line)
            name = _name(fields[0], "buyer", file, line, 1)
            _require_new(name, buyers, "buyer", file, line, 1)
            if not _appended(cells, fields[1:], numbers):
                for column, text in enumerate(fields[1:]):
                    who = f"buyer {name!r}, good {goods[column]!r}"
                    _located(text, quantity, file, line, column + 2, who)
            buyers[name] = line
    except InputError:
        # A number out of range is noticed only here; if one stands on an earlier line, it comes first.
        _checked_cells(cells, buyers, goods, file, quantity)
        raise
    if not buyers:
        raise InputError("no buyers; add a line for each below the header", file=file, line=header[0], column=1)
    values = _checked_cells(cells, buyers, goods, file, quantity)
    places = [(header[0], column) for column in range(2, len(goods) + 2)]
    return Table(compact(values), tuple(buyers), goods, file, tuple(buyers.values()), places)


def _appended(cells: array, fields: list[str], numbers: _Numbers) -> bool:
    """Append a line's numbers, or nothing (and say False) if one of them is not a number."""
    start = len(cells)
    text = "".join(fields)
    # float() would take more than `_number` does: 1_000, nan, infinity, and digits of other scripts.
    if text.isascii() and not ("_" in text or "n" in text or "N" in text):
        try:
            cells.extend(map(float, fields))
            return True
        except ValueError:
            del cells[start:]
    try:
        cells.extend(map(numbers.__getitem__, fields))
        return True
    except _Fault:
        del cells[start:]
        return False


def _checked_cells(
    cells: array, buyers: dict[str, int], goods: tuple[str, ...], file: str, quantity: Quantity
) -> np.ndarray:
    values = np.frombuffer(cells, dtype=np.float64).reshape(len(buyers), len(goods)) if cells else np.zeros((0, 0))

    def place(row: int, column: int) -> tuple[int, int, str]:
        name, line = next(islice(buyers.items(), row, None))
        return line, column + 2, f"buyer {name!r}, good {goods[column]!r}"

    fault = first_fault(values)
    if fault is not None and abs(fault[2]) == np.inf:
        line, column, who = place(*fault[:2])
        raise InputError(f"{_TOO_LARGE} ({who})", file=file, line=line, column=column)
    require_range(values, quantity, file, place)
    values += 0.0  # -0.0 becomes 0.0
    return values


def _goods(header: Row, file: str) -> tuple[str, ...]:
    line, fields = header
    if len(fields) < 2:
        separator = next((mark for mark in (";", "\t", "|") if mark in fields[0]), None)
        remedy = f"separate the fields by commas, not {separator!r}" if separator else "give a column for each good"
        raise InputError(f"the header names no goods; {remedy}", file=file, line=line, column=1)
    goods: dict[str, int] = {}
    for column, field in enumerate(fields[1:], 2):
        name = _name(field, "good", file, line, column)
        if name in goods:
            message = f"good {name!r} is already in column {goods[name]}; give each good a name of its own"
            raise InputError(message, file=file, line=line, column=column)
        goods[name] = column
    return tuple(goods)


def _long(header: Row, rows: Iterator[Row], file: str, quantity: Quantity) -> Table:
    numbers = _Numbers(quantity)
    buyers: dict[str, int] = {}
    goods: dict[str, int] = {}
    triples = array("q"), array("q"), array("d")
    lines, first_lines = array("q"), array("q")
    good_places: list[tuple[int, int]] = []
    for line, fields in rows:
        _require_width(fields, len(header[1]), file, line)
        i = buyers.get(fields[0])
        if i is None:
            i = buyers.setdefault(_name(fields[0], "buyer", file, line, 1), len(buyers))
            if i == len(first_lines):
                first_lines.append(line)
        j = goods.get(fields[1])
        if j is None:
            j = goods.setdefault(_name(fields[1], "good", file, line, 2), len(goods))
            if j == len(good_places):
                good_places.append((line, 2))
        try:
            value = numbers[fields[2]]
        except _Fault:
            value = -1.0
        if value < 0:
            _located(fields[2], quantity, file, line, 3, f"buyer {fields[0].strip()!r}, good {fields[1].strip()!r}")
        triples[0].append(i)
        triples[1].append(j)
        triples[2].append(value + 0.0)
        lines.append(line)
    if not buyers:
        raise InputError("no lines below the header; add buyer, good and value", file=file, line=header[0], column=1)
    at, to, values = (np.frombuffer(each, dtype=each.typecode) for each in triples)
    matrix, twice = assembled(at, to, values, (len(buyers), len(goods)))
    if twice:
        buyer, good = tuple(buyers)[at[twice[1]]], tuple(goods)[to[twice[1]]]
        message = f"buyer {buyer!r} already has good {good!r} on line {lines[twice[0]]}; keep one of the two"
        raise InputError(message, file=file, line=lines[twice[1]], column=2)
    return Table(matrix, tuple(buyers), tuple(goods), file, first_lines, good_places)


def _rows(path: Path, file: str) -> Iterator[Row]:
    """The lines that are not empty: the number of the line on which each starts, and its fields."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, strict=True, skipinitialspace=True)
        while True:
            line = reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as fault:
                raise InputError(
                    f"the quotation marks do not balance ({fault}); close each, and double those in a field",
                    file=file,
                    line=line,
                    column=1,
                ) from None
            except UnicodeDecodeError:
                raise _not_utf8(path, file) from None
            if fields:
                yield line, fields


def _not_utf8(path: Path, file: str) -> InputError:
    """Find the first byte that is not UTF-8; the decoder's own position counts from its last buffer."""
    before = 0
    with path.open("rb") as stream:
        for chunk in stream:
            try:
                chunk.decode("utf-8")
            except UnicodeDecodeError as fault:
                lines = chunk[: fault.start].splitlines() or [b""]
                if chunk[: fault.start].endswith((b"\r", b"\n")):
                    lines.append(b"")
                return InputError(
                    f"the byte 0x{chunk[fault.start]:02X} is not UTF-8; save the table as UTF-8",
                    file=file,
                    line=before + len(lines),
                    column=len(lines[-1]) + 1,
                )
            before += len(chunk.splitlines())
    return InputError("the table is not UTF-8; save it as UTF-8", file=file)


def _header(rows: Iterator[Row], file: str, noun: str = "good") -> Row:
    line, header = next(rows, (1, [""]))
    if not any(field.strip() for field in header):
        if line == 1 and next(rows, None) is None:
            raise InputError("the file is empty; give a header and a line for each buyer", file=file, line=1, column=1)
        raise InputError("the header is blank; name the columns", file=file, line=line, column=1)
    if all(_NUMBER.fullmatch(field.strip()) for field in header):
        raise InputError(
            f"the header {_shown(','.join(header))} holds only numbers; put a line of names above it",
            file=file,
            line=line,
            column=1,
        )
    return line, header


def _require_width(fields: list[str], width: int, file: str, line: int) -> None:
    if len(fields) != width:
        raise InputError(
            f"{len(fields)} fields where the header has {width}; make the line as long as the header "
            "(quote a field that holds a comma)",
            file=file,
            line=line,
            column=min(len(fields), width) + 1,
        )


def _name(field: str, noun: str, file: str, line: int, column: int) -> str:
    name = field.strip()
    if not name:
        raise InputError(f"the name of this {noun} is blank; write one", file=file, line=line, column=column)
    if not name.isprintable() and any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        message = f"the name {_shown(name)} holds a control character; take it out"
        raise InputError(message, file=file, line=line, column=column)
    return name


def _require_new(name: str, seen: dict[str, int], noun: str, file: str, line: int, column: int) -> None:
    if name in seen:
        message = f"{noun} {name!r} is already on line {seen[name]}; keep one line for each {noun}"
        raise InputError(message, file=file, line=line, column=column)


def _estimated_cells(path: Path) -> int:
    """About how many fields the file holds, from its first megabyte and its size."""
    with path.open("rb") as stream:
        sample = stream.read(_SAMPLE)
    if not sample:
        return 0
    return (sample.count(b",") + sample.count(b"\n") + 1) * path.stat().st_size // len(sample)
