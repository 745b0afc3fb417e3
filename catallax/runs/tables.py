"""Tables and pictures as files' contents."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO


def as_list(column: Any) -> list:
    """Turn a column, an array or any sequence, into a list of Python's own values."""
    return column.tolist() if hasattr(column, "tolist") else list(column)


def as_lists(name: str, columns: Mapping[str, Any]) -> dict[str, list]:
    """Turn the columns of a table into lists.

    Raises:
        ValueError: if they are not equally long.
    """
    lists = {title: as_list(column) for title, column in columns.items()}
    if len({len(column) for column in lists.values()}) > 1:
        lengths = ", ".join(f"{title}: {len(column)}" for title, column in lists.items())
        raise ValueError(f"the columns of {name!r} are not equally long ({lengths})")
    return lists


class _Newlines:
    r"""Ends rows with \n for a writer that is told \r\n, and so quotes a name that holds a bare \r."""

    def __init__(self, stream: io.TextIOBase):
        self.stream = stream

    def write(self, row: str) -> int:
        return self.stream.write(row[:-2] + "\n")


def write_csv(stream: BinaryIO, columns: Mapping[str, Sequence]) -> None:
    """Write columns as UTF-8 CSV with a header; floats in full precision, None as an empty cell."""
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
    writer = csv.writer(_Newlines(text), lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    text.detach()


def write_parquet(stream: BinaryIO, columns: Mapping[str, Sequence]) -> None:
    """Write columns as Parquet."""
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(dict(columns)), stream)


def svg_of(figure: Any) -> str:
    """Return an SVG text as it is; draw a Matplotlib figure as one, the same bytes each time."""
    if isinstance(figure, str):
        return figure
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "catallax", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def file_name(name: str) -> str:
    """Return the name if it suits a file on every system.

    Raises:
        ValueError: if it does not.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise ValueError(f"{name!r} does not suit a file's name: use letters, digits, _ - and .")
    return name
