"""A table of numbers from a file, and the checks that every format shares."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse

from ..errors import InputError
from .problem import Matrix, first_fault
from .utility import canonical, shape_of

BLANKS = frozenset({"", "na", "n/a", "#n/a"})
"""Cells without a number, in any case of letters. A dash is not one of them: it may be half a number."""

BUYER_HEADERS = frozenset({"buyer", "user", "agent", "consumer"})
GOOD_HEADERS = frozenset({"good", "item", "product", "movie"})
VALUE_HEADERS = frozenset(
    {"value", "valuation", "rating", "utility", "endowment", "quantity", "amount"}  # one word each, any case
)


@dataclass(frozen=True)
class Quantity:
    """What a table's numbers are, for its messages: the noun, and what a blank cell would mean."""

    noun: str
    plural: str
    blank: str | None  # None: a blank is not allowed


VALUATION = Quantity("valuation", "valuations", "the buyer does not value the good")
ENDOWMENT = Quantity("endowment", "endowments", "the buyer brings none")
BUDGET = Quantity("budget", "budgets", None)
SUPPLY = Quantity("supply", "supplies", None)


@dataclass(frozen=True)
class Table:
    """Checked numbers with their names.

    Attributes:
        values: (n, m), finite, at least zero.
        buyers: n names, or None where the format carries none.
        goods: m names, or None likewise.
        file: As the user wrote it.
        lines: The line where each buyer first appears; None where rows are numbered from 1.
        good_places: The line and column where each good first appears; None for columns 1 to m of line 1.
    """

    values: Matrix
    buyers: Sequence[str] | None
    goods: Sequence[str] | None
    file: str
    lines: Sequence[int] | None = None
    good_places: Sequence[tuple[int, int]] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, m)."""
        return shape_of(self.values)

    def line_of(self, buyer: int) -> int:
        """The line, from 1, on which a buyer first appears."""
        return int(self.lines[buyer]) if self.lines is not None else buyer + 1

    def place_of(self, good: int) -> tuple[int, int]:
        """The line and column, from 1, where a good first appears."""
        return self.good_places[good] if self.good_places is not None else (1, good + 1)


def is_long(headers: Sequence[str]) -> bool:
    """Whether a table lists one (buyer, good, value) a line, judged by its headers alone.

    It does when the first header means the buyer and the third the value, and there are three columns; or
    when the second means the good too, and then columns after the third (a time stamp, say) are ignored.
    "user", "userId", "user_id" and "User name" all mean the buyer. Every other table is wide: one line per
    buyer, one column per good.
    """
    if len(headers) < 3:
        return False
    first, second, third = (_stem(header) for header in headers[:3])
    if first not in BUYER_HEADERS or third not in VALUE_HEADERS:
        return False
    return len(headers) == 3 or second in GOOD_HEADERS


def _stem(header: str) -> str:
    plain = "".join(letter for letter in header.casefold() if letter.isalnum())
    return plain.removesuffix("id").removesuffix("name")


def regular_file(path: str | os.PathLike[str]) -> Path:
    """The path, if a file is there that can be read again and again.

    Raises:
        InputError: for a missing file, a directory, a pipe, or a file that may not be read.
    """
    found = Path(path)
    try:
        if found.is_dir():
            raise InputError("this is a directory; give a file", file=path)
        if not found.exists():
            raise InputError("there is no such file; check the path", file=path)
        if not found.is_file():
            raise InputError("this is not a regular file; write the table to a file first", file=path)
        with found.open("rb"):
            return found
    except (OSError, ValueError) as fault:
        if isinstance(fault, InputError):
            raise
        reason = getattr(fault, "strerror", None) or str(fault)
        raise InputError(f"the file cannot be read ({reason}); check the path", file=path) from None


def available_memory() -> int | None:
    """Bytes that can be had without swapping, or None where the system does not say."""
    known = []
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                known.append(int(line.split()[1]) * 1024)
    with suppress(OSError, ValueError):  # no control group, or one without a limit ("max")
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
        known.append(max(limit, 0))
    if not known and hasattr(os, "sysconf"):
        with suppress(OSError, ValueError):
            known.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(known, default=None)


def require_memory(needed: int, file: str, what: str) -> None:
    """Refuse, before anything is allocated, what would not fit.

    Args:
        needed: Bytes, an estimate.
        file: For the message.
        what: The size as a reader would say it, such as "10 buyers x 3 goods".

    Raises:
        InputError: when more bytes are needed than `available_memory` finds.
    """
    available = available_memory()
    if available is not None and needed > available:
        raise InputError(
            f"{what} need about {_size(needed)} of memory and {_size(available)} are available; "
            "give fewer buyers or goods, or the valuations as a sparse .npz",
            file=file,
        )


def _size(count: int) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{max(count, 0) / 1e3:.3g} kB"


def compact(values: np.ndarray) -> Matrix:
    """CSR for a large array that is mostly zeros, the array itself otherwise."""
    if _worth_sparse(values.shape, int(np.count_nonzero(values))):
        return sparse.csr_array(values)
    return values


def _worth_sparse(shape: Sequence[int], count: int) -> bool:
    cells = shape[0] * shape[1]
    return cells > 1_000_000 and count < cells / 4


def assembled(
    rows: np.ndarray, columns: np.ndarray, values: np.ndarray, shape: tuple[int, int]
) -> tuple[Matrix, tuple[int, int] | None]:
    """Put (row, column, value) triples into a matrix.

    Returns:
        The matrix, and the positions (earlier, later) of the first pair that is given twice, or None.
    """
    keys = rows.astype(np.int64) * shape[1] + columns
    order = np.argsort(keys, kind="stable")
    same = keys[order][1:] == keys[order][:-1]
    twice = None
    if same.any():
        later, earlier = order[1:][same], order[:-1][same]
        first = int(later.argmin())
        twice = int(earlier[first]), int(later[first])
    matrix = canonical(sparse.csr_array((values, (rows, columns)), shape=shape))
    return (matrix if _worth_sparse(shape, matrix.nnz) else matrix.toarray()), twice


def require_range(
    values: Matrix, quantity: Quantity, file: str, place: Callable[[int, int], tuple[int, int, str]]
) -> None:
    """Refuse negative and non-finite numbers, the first one first.

    Args:
        values: The numbers, as read.
        quantity: What they are.
        file: For the message.
        place: From (row, column) to the line, the column, and "buyer 'a', good 'b'".

    Raises:
        InputError: at the first such number.
    """
    fault = first_fault(values)
    if fault is not None:
        line, column, who = place(fault[0], fault[1])
        raise InputError(out_of_range(fault[2], quantity, who), file=file, line=line, column=column)


def out_of_range(value: float, quantity: Quantity, who: str) -> str:
    """The sentence about a number that is negative, NaN or infinite."""
    number = f"{value:g}"
    if value < 0 and value > -np.inf:
        return f"{number} is negative ({who}); {quantity.plural} must be at least zero"
    blank = f", or leave it blank if {quantity.blank}" if quantity.blank else ""
    return f"{number} is not a finite number ({who}); write a number{blank}"
