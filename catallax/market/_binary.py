"""Tables in NumPy, SciPy and Parquet files: nothing is unpickled, and sizes are known before reading."""

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from ..errors import InputError, MissingExtra
from ._table import (
    Quantity,
    Table,
    assembled,
    compact,
    is_long,
    out_of_range,
    require_memory,
    require_range,
)
from .utility import canonical, shape_of

_NPZ = "SciPy sparse .npz (scipy.sparse.save_npz)"
_COPIES = 2  # what is read, and a copy on its way to float64 or CSR


def read_npy(path: Path, file: str, quantity: Quantity) -> Table:
    """Read a two-dimensional array of numbers, one row per buyer.

    Raises:
        InputError: for another shape or type, a damaged file, and numbers out of range by row and column.
    """
    with _damage(file, "NumPy .npy"):
        # Mapped, so that a header which promises more than the file holds is found before memory is taken.
        array = np.lib.format.open_memmap(path, mode="r") if path.stat().st_size else None
    if array is None:
        raise InputError("the file is empty; write it again with numpy.save", file=file)
    _require_matrix(array.shape, array.dtype, file)
    require_memory(array.size * 8 * _COPIES, file, _people(array.shape))
    values = np.array(array, dtype=np.float64, order="C")
    require_range(values, quantity, file, _row_and_column)
    return Table(values + 0.0, None, None, file)


def read_npz(path: Path, file: str, quantity: Quantity) -> Table:
    """Read a matrix written by `scipy.sparse.save_npz`, one row per buyer.

    Raises:
        InputError: for anything else, a damaged file, and numbers out of range by row and column.
    """
    with _damage(file, _NPZ):
        require_memory(_npz_size(path) * _COPIES, file, "the matrix's arrays")
        with np.load(path, allow_pickle=False) as parts:
            shape = tuple(int(length) for length in parts["shape"])
    if len(shape) == 2:  # a matrix may promise billions of empty rows in a few bytes
        require_memory((shape[0] + shape[1]) * 8 * _COPIES, file, _people(shape))
    with _damage(file, _NPZ):
        matrix = sparse.load_npz(path)
        if matrix.format in ("csr", "csc", "bsr"):
            matrix.check_format(full_check=True)
    _require_matrix(shape_of(matrix), matrix.dtype, file)
    with _damage(file, _NPZ):
        entries = sparse.coo_array(matrix, dtype=np.float64)
        bad = np.flatnonzero(~((entries.data >= 0) & (entries.data < np.inf)))
        csr = sparse.csr_array(matrix, dtype=np.float64)
    if bad.size:  # looked for before duplicates add up, which could hide a negative entry
        rows, columns = (each[bad] for each in entries.coords)
        first = int(np.lexsort((columns, rows))[0])
        line, column, who = _row_and_column(int(rows[first]), int(columns[first]))
        value = float(entries.data[bad[first]])
        raise InputError(out_of_range(value, quantity, who), file=file, line=line, column=column)
    return Table(canonical(csr), None, None, file)


def read_parquet(path: Path, file: str, quantity: Quantity) -> Table:
    """Read a wide or a long table from Parquet, by the same rule as CSV; null means blank.

    Raises:
        MissingExtra: when pyarrow is not installed.
        InputError: with row and column, as for CSV.
    """
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise MissingExtra("parquet") from None
    with _damage(file, "Parquet"), parquet.ParquetFile(path) as source:
        size = source.metadata.num_rows, source.metadata.num_columns
        headers = source.schema_arrow.names
        index = (source.schema_arrow.pandas_metadata or {}).get("index_columns", [])
    require_memory(prod(size) * 8 * (_COPIES + 1), file, f"{size[0]:,} rows x {size[1]:,} columns")
    with _damage(file, "Parquet"), parquet.ParquetFile(path) as source:
        table = source.read()
    # pandas writes its index last; where there is one, the buyers are in it.
    first = [name for name in index if isinstance(name, str) and name in headers]
    table = table.select(first + [name for name in headers if name not in first])
    if table.num_rows == 0 or table.num_columns < 2:
        raise InputError("the table is empty; give a column of buyers, goods, and a row for each buyer", file=file)
    return (_parquet_long if is_long(table.column_names) else _parquet_wide)(table, arrow, file, quantity)


def _parquet_wide(table: Any, arrow: Any, file: str, quantity: Quantity) -> Table:
    buyers = _parquet_names(table, 0, arrow, file, "buyer")
    lines: dict[str, int] = {}
    for row, name in enumerate(buyers, 1):
        if name in lines:
            message = f"buyer {name!r} is already in row {lines[name]}; keep one row for each buyer"
            raise InputError(message, file=file, line=row, column=1)
        lines[name] = row
    goods = tuple(name.strip() for name in table.column_names[1:])
    for column, name in enumerate(goods, 2):
        if not name or name in goods[: column - 2]:
            message = f"the name {name!r} of column {column} is blank or already used; rename the good"
            raise InputError(message, file=file, line=1, column=column)
    values = np.empty((len(buyers), len(goods)))
    for column in range(len(goods)):
        values[:, column] = _parquet_numbers(table, column + 1, arrow, file, quantity)

    def place(row: int, column: int) -> tuple[int, int, str]:
        return row + 1, column + 2, f"buyer {buyers[row]!r}, good {goods[column]!r}"

    require_range(values, quantity, file, place)
    places = [(1, column) for column in range(2, len(goods) + 2)]
    return Table(compact(values + 0.0), buyers, goods, file, good_places=places)


def _parquet_long(table: Any, arrow: Any, file: str, quantity: Quantity) -> Table:
    listed = [_parquet_names(table, column, arrow, file, noun) for column, noun in enumerate(("buyer", "good"))]
    values = _parquet_numbers(table, 2, arrow, file, quantity)

    def place(row: int, _: int) -> tuple[int, int, str]:
        return row + 1, 3, f"buyer {listed[0][row]!r}, good {listed[1][row]!r}"

    require_range(values[:, None], quantity, file, place)
    ids: list[dict[str, int]] = [{}, {}]
    codes = [
        np.fromiter((seen.setdefault(name, len(seen)) for name in names), dtype=np.int64, count=len(names))
        for seen, names in zip(ids, listed, strict=True)
    ]
    matrix, twice = assembled(codes[0], codes[1], values + 0.0, (len(ids[0]), len(ids[1])))
    if twice:
        earlier, later = twice
        message = (
            f"buyer {listed[0][later]!r} already has good {listed[1][later]!r} in row {earlier + 1}; "
            "keep one of the two"
        )
        raise InputError(message, file=file, line=later + 1, column=2)
    lines, good_lines = ((np.unique(each, return_index=True)[1] + 1).tolist() for each in codes)
    return Table(matrix, tuple(ids[0]), tuple(ids[1]), file, lines, [(line, 2) for line in good_lines])


def _parquet_names(table: Any, column: int, arrow: Any, file: str, noun: str) -> tuple[str, ...]:
    kind = table.schema.field(column).type
    if arrow.types.is_dictionary(kind):
        kind = kind.value_type
    named = arrow.types.is_string(kind) or arrow.types.is_large_string(kind) or arrow.types.is_integer(kind)
    if not named:
        header = table.column_names[column]
        raise InputError(
            f"column {header!r} holds {kind}; the {noun}s' names must be text or whole numbers",
            file=file,
            line=1,
            column=column + 1,
        )
    with _damage(file, "Parquet"):
        listed = table.column(column).to_pylist()
    names = tuple("" if name is None else str(name).strip() for name in listed)
    if "" in names:
        message = f"the name of this {noun} is blank; write one"
        raise InputError(message, file=file, line=names.index("") + 1, column=column + 1)
    return names


def _parquet_numbers(table: Any, column: int, arrow: Any, file: str, quantity: Quantity) -> np.ndarray:
    kind = table.schema.field(column).type
    kinds = arrow.types
    if not any(is_kind(kind) for is_kind in (kinds.is_integer, kinds.is_floating, kinds.is_decimal, kinds.is_null)):
        header = table.column_names[column]
        message = f"column {header!r} holds {kind} and not numbers; convert it to a number type"
        raise InputError(message, file=file, line=1, column=column + 1)
    with _damage(file, "Parquet"):
        numbers = table.column(column).cast(arrow.float64(), safe=False)
        return numbers.fill_null(0.0).to_numpy()


def _row_and_column(row: int, column: int) -> tuple[int, int, str]:
    return row + 1, column + 1, f"row {row + 1}, column {column + 1}"


def _require_matrix(shape: tuple[int, ...], dtype: np.dtype, file: str) -> None:
    if len(shape) != 2 or 0 in shape:
        raise InputError(
            f"the array has shape {tuple(shape)}; give a row for each buyer and a column for each good",
            file=file,
        )
    if dtype.kind not in "biuf":
        raise InputError(f"the array holds {dtype} and not real numbers; convert it to float64", file=file)


def _people(shape: tuple[int, ...]) -> str:
    return f"{shape[0]:,} buyers x {shape[1]:,} goods" if len(shape) == 2 else f"shape {shape}"


def _npz_size(path: Path) -> int:
    """Bytes that an .npz takes in memory, by its arrays' headers: a compressed file may hide terabytes."""
    size = 0
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                version = np.lib.format.read_magic(member)
                readers: dict[tuple[int, int], Callable] = {
                    (1, 0): np.lib.format.read_array_header_1_0,
                    (2, 0): np.lib.format.read_array_header_2_0,
                }
                shape, _, dtype = readers[version](member)
                size += prod(shape) * dtype.itemsize
    return size


@contextmanager
def _damage(file: str, kind: str) -> Iterator[None]:
    """Turn whatever a parser of binary data raises into one sentence."""
    try:
        yield
    except (InputError, MissingExtra):
        raise
    except Exception as fault:  # zip, zlib, NumPy and Arrow raise a dozen unrelated types on damaged bytes
        reason = " ".join(str(fault).split())[:120] or type(fault).__name__
        raise InputError(f"this is not a whole {kind} file ({reason}); write it again", file=file) from None
