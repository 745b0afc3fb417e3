"""Readers give the right market, or one line that says what is wrong and where."""

import io
import os
import sys
import zipfile

import numpy as np
import pytest
from scipy import sparse

from catallax.errors import InputError, MissingExtra
from catallax.market import _table, _text
from catallax.market.problem import CES, LINEAR, Exchange, Market
from catallax.market.tables import default_groups, default_market, is_long, read_market

WIDE = "buyer,tea,oat milk,rye\nAnn,1,,2.5\nBob,0,3e0,N/A\nCas,.5,1.,7\n"
LONG = """buyer,good,value
Ann,tea,1
Ann,oat milk,
Ann,rye,2.5
Bob,oat milk,3
Cas,rye,7
Cas,tea,0.5
Cas,oat milk,1
"""
VALUES = np.array([[1, 0, 2.5], [0, 3, 0], [0.5, 1, 7]])
BUYERS, GOODS = ("Ann", "Bob", "Cas"), ("tea", "oat milk", "rye")
BUDGETS = "buyer,budget\nCas,3\nAnn,1\nBob,2\n"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name: str, content: str | bytes) -> str:
    with open(name, "wb") as stream:
        stream.write(content.encode() if isinstance(content, str) else content)
    return name


def error(*args, **kwargs) -> InputError:
    with pytest.raises(InputError) as caught:
        read_market(*args, **kwargs)
    assert "\n" not in str(caught.value) and not str(caught.value).endswith(".")
    return caught.value


# The same market from every format


def test_wide_and_long_csv():
    for text in (WIDE, LONG):
        market = read_market(write("m.csv", text))
        assert isinstance(market, Market)
        np.testing.assert_array_equal(market.dense(), VALUES)
        assert (market.buyers, market.goods) == (BUYERS, GOODS)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + WIDE,
        WIDE.replace("\n", "\r\n"),
        WIDE.replace("\n", "\r"),
        WIDE.replace("\n", "\n\n"),
        WIDE.removesuffix("\n"),
        WIDE.replace(",", " , "),
        WIDE.replace("oat milk", '"oat milk"').replace(",1,", ',"1",'),
        WIDE.replace(",oat milk", ', "oat milk"').replace(",1,", ', "1",'),
        WIDE.replace("N/A", "na").replace(",,", ",#N/A,"),
        WIDE.replace(",1,", ",+1.0E+00,").replace("Bob,0", "Bob,-0.0"),
    ],
)
def test_spellings_of_one_table(text):
    market = read_market(write("m.csv", text))
    np.testing.assert_array_equal(market.dense(), VALUES)
    assert not np.signbit(market.dense()).any()
    assert (market.buyers, market.goods) == (BUYERS, GOODS)


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr", "dia"])
def test_numpy_and_scipy(form):
    np.save("m.npy", VALUES)
    sparse.save_npz("m.npz", sparse.coo_array(VALUES).asformat(form))
    for name in ("m.npy", "m.npz"):
        market = read_market(name)
        np.testing.assert_array_equal(market.dense(), VALUES)
        assert market.buyers == ("buyer 1", "buyer 2", "buyer 3") and market.goods[2] == "good 3"
    assert sparse.issparse(read_market("m.npz").valuations)


@pytest.mark.parametrize("dtype", ["int8", "uint64", "float32", "float16", ">f8", "bool"])
def test_other_number_types(dtype):
    np.save("m.npy", np.asfortranarray(VALUES.astype(dtype)))
    np.testing.assert_array_equal(read_market("m.npy").dense(), VALUES.astype(dtype).astype(float))


def test_parquet():
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    wide = {"name": list(BUYERS), "tea": [1, None, 0.5], "oat milk": [0, 3, 1], "rye": [2.5, None, 7]}
    pandas_like = arrow.table({name: wide[name] for name in ("tea", "oat milk", "rye", "name")})
    pandas_like = pandas_like.replace_schema_metadata({"pandas": '{"index_columns": ["name"]}'})
    long = [line.split(",") for line in LONG.splitlines()[1:]]
    long_columns = {
        "user_id": arrow.array([line[0] for line in long]).dictionary_encode(),
        "item": [line[1] for line in long],
        "rating": [float(line[2]) if line[2] else None for line in long],
        "seen": [1] * len(long),
    }
    for columns in (arrow.table(wide), pandas_like, arrow.table(long_columns)):
        parquet.write_table(columns, "m.parquet")
        market = read_market("m.parquet")
        np.testing.assert_array_equal(market.dense(), VALUES)
        assert (market.buyers, market.goods) == (BUYERS, GOODS)


def test_parquet_without_pyarrow(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"pip install 'catallax\[parquet\]'"):
        read_market(write("m.parquet", b"PAR1"))


@pytest.mark.parametrize(
    ("header", "long"),
    [
        ("buyer,good,value", True),
        ("userId,movieId,rating,timestamp", True),
        ("User,Film,Rating", True),
        ("User Name,Film,Rating,Year", False),
        ("buyer,tea,milk", False),
        ("name,good,value", False),
        ("buyer,value", False),
    ],
)
def test_which_tables_are_long(header, long):
    assert is_long(header.split(",")) is long


def test_large_and_mostly_blank_tables_become_sparse():
    n, m = 1200, 1000
    lines = ["buyer,good,value", *(f"b{i},g{i % m},{i + 1}" for i in range(n))]
    market = read_market(write("m.csv", "\n".join(lines)))
    assert sparse.issparse(market.valuations) and market.nnz == n and (market.n, market.m) == (n, m)
    blank = "," * (m - 1)
    rows = ["b," + ",".join(f"g{j}" for j in range(m)), *(f"b{i},{i + 1}{blank}" for i in range(n))]
    assert sparse.issparse(read_market(write("w.csv", "\n".join(rows))).valuations)


def test_both_paths_read_alike(monkeypatch):
    rng = np.random.default_rng(5)
    values = rng.random((40, 7)) * 10.0 ** rng.integers(-300, 300, (40, 7))
    rows = [f"{i}," + ",".join(map(repr, row.tolist())) for i, row in enumerate(values)]
    lines = ["b,a,b,c,d,e,f,g", *rows]
    write("m.csv", "\n".join(lines))
    quick_answer = read_market("m.csv").dense()

    def slowly(cells, fields, numbers):
        cells.extend(_text._number(text, numbers.quantity) for text in fields)
        return True

    monkeypatch.setattr(_text, "_appended", slowly)
    np.testing.assert_array_equal(read_market("m.csv").dense(), quick_answer)
    np.testing.assert_array_equal(quick_answer, values)


# Budgets, supply, endowments


def test_budgets_and_supply_go_by_name():
    write("m.csv", WIDE)
    write("b.csv", BUDGETS)
    write("s.csv", "good,supply\nrye,7\ntea,5\noat milk,6\n")
    market = read_market("m.csv", budgets="b.csv", supply="s.csv", utility=CES(0.5))
    assert isinstance(market, Market)
    assert market.budgets.tolist() == [1, 2, 3] and market.supply.tolist() == [5, 6, 7]
    assert market.utility == CES(0.5)
    np.save("m.npy", VALUES)
    market = read_market("m.npy", budgets=write("n.csv", "b,v\nbuyer 2,5\nbuyer 1,0\nbuyer 3,4\n"))
    assert isinstance(market, Market) and market.budgets.tolist() == [0, 5, 4]


def test_endowments_make_an_exchange():
    write("m.csv", WIDE)
    expected = [[0, 4, 0], [0, 0, 0], [2, 0, 1]]
    for text in (
        "buyer,good,endowment\nCas,rye,1\nAnn,oat milk,4\nCas,tea,2\n",
        "x,rye,tea,oat milk\nCas,1,2,\nAnn,,,4\nBob,,,\n",
    ):
        economy = read_market("m.csv", endowments=write("e.csv", text))
        assert isinstance(economy, Exchange)
        assert np.asarray(economy.endowments).tolist() == expected
    sparse.save_npz("m.npz", sparse.csr_array(VALUES))
    np.save("e.npy", np.array(expected))
    assert read_market("m.npz", endowments="e.npy").supply.tolist() == [2, 4, 1]
    assert "leave those out" in str(error("m.csv", endowments="e.csv", budgets="b.csv"))


# What is refused, and where

CSV_FAULTS = {
    "empty": ("", 1, 1, "file is empty"),
    "only a mark": ("\ufeff", 1, 1, "file is empty"),
    "only blank lines": ("\n\n", 1, 1, "file is empty"),
    "header only": ("b,x,y\n", 1, 1, "no buyers"),
    "long header only": ("buyer,good,value\n", 1, 1, "no lines below the header"),
    "no goods": ("buyer\nAnn\n", 1, 1, "names no goods"),
    "semicolons": ("buyer;x;y\nAnn;1;2\n", 1, 1, "commas, not ';'"),
    "blank header": (",,\nAnn,1,2\n", 1, 1, "header is blank"),
    "blank good": ("b,x,\nAnn,1,2\n", 1, 3, "name of this good is blank"),
    "no header": ("1,2,3\n4,5,6\n", 1, 1, "only numbers"),
    "duplicate good": ("b,x,y, x\nAnn,1,2,3\n", 1, 4, "good 'x' is already in column 2"),
    "duplicate buyer": ("b,x\nAnn,1\nBob,1\n Ann,2\n", 4, 1, "buyer 'Ann' is already on line 2"),
    "blank buyer": ("b,x\n ,1\n", 2, 1, "name of this buyer is blank"),
    "control character": ("b,x\nA\0n,1\n", 2, 1, "control character"),
    "too few fields": ("b,x,y\nAnn,1,2\nBob,1\n", 3, 3, "2 fields where the header has 3"),
    "too many fields": ("b,x,y\nAnn,1,2,3\n", 2, 4, "4 fields where the header has 3"),
    "text": ("b,x,y\nAnn,1,2\nBob,1,lots\n", 3, 3, "'lots' is not a number; write a number, or leave"),
    "dash": ("b,x,y\nAnn,1,-\n", 2, 3, "'-' is not a number"),
    "NaN": ("b,x,y\nAnn,1,NaN\n", 2, 3, "(buyer 'Ann', good 'y')"),
    "infinity": ("b,x,y\nAnn,inf,1\n", 2, 2, "'inf' is not a number"),
    "overflow": ("b,x,y\nAnn,1e999,1\n", 2, 2, "too large"),
    "underscores": ("b,x,y\nAnn,1_000,1\n", 2, 2, "'1_000' is not a number"),
    "other digits": ("b,x,y\nAnn,\u0663,1\n", 2, 2, "is not a number"),
    "decimal comma": ('b,x,y\nAnn,"3,5",1\n', 2, 2, "'3,5' has a comma"),
    "thousands": ('b,x,y\nAnn,1,"1,000,000.5"\n', 2, 3, "has a comma"),
    "negative": ("b,x,y\nAnn,1,2\nBob,3,-4\n", 3, 3, "-4 is negative (buyer 'Bob', good 'y')"),
    "negative before text": ("b,x,y\nAnn,-1,2\nBob,3,lots\n", 2, 2, "-1 is negative"),
    "negative before ragged": ("b,x,y\nAnn,1,2\nBob,1,-2\nCas\n", 3, 3, "-2 is negative"),
    "negative after text": ("b,x,y\nAnn,1,lots\nBob,3,-1\n", 2, 3, "'lots'"),
    "values nothing": ("b,x,y\nAnn,1,2\nBob,,0\n", 3, 1, "buyer 'Bob' values nothing"),
    "open quote": ('b,x,y\nAnn,1,2\n"Bob,1,2\n', 3, 1, "quotation marks"),
    "stray quote": ('b,x,y\nAnn,"1"2,2\n', 2, 1, "quotation marks"),
    "line breaks in quotes": ('b,x,"y\nAnn,1,2\n', 1, 1, "quotation marks"),
    "after a break in quotes": ('b,x,y\nAnn,"1\n",2\nBob,no,1\n', 4, 2, "'no'"),
    "long text": ("buyer,good,value\nAnn,x,1\nAnn,y,no\n", 3, 3, "'no' is not a number"),
    "long negative": ("buyer,good,value\nAnn,x,1\nAnn,y,-1\n", 3, 3, "-1 is negative (buyer 'Ann', good"),
    "long twice": ("buyer,good,value\nAnn,x,1\nBob,x,1\nAnn, x,2\n", 4, 2, "already has good 'x' on line 2"),
    "long blank good": ("buyer,good,value\nAnn,,1\n", 2, 2, "name of this good is blank"),
    "long ragged": ("buyer,good,value\nAnn,x\n", 2, 3, "2 fields"),
    "long values nothing": ("buyer,good,value\nAnn,x,1\nBob,x,\nBob,y,0\n", 3, 1, "'Bob' values nothing"),
    "latin-1": ("b,x,y\nAnn,1,2\nBj\u00f6rn,1,2\n".encode("latin-1"), 3, 3, "0xF6 is not UTF-8"),
    "latin-1 after returns": ("b,x,y\rAnn,1,2\r\u00f6,1,2".encode("latin-1"), 3, 1, "0xF6 is not UTF-8"),
    "latin-1 after mixed ends": (b"b,x\rAnn,1\r\nBob,1\n\xff,1", 4, 1, "0xFF is not UTF-8"),
    "utf-16": (WIDE.encode("utf-16-le").join([b"\xff\xfe", b""]), 1, 1, "0xFF is not UTF-8"),
    "cut character": ("b,x,y\nAnn,1,2\n\u00f6".encode()[:-1], 3, 1, "0xC3 is not UTF-8"),
}


@pytest.mark.parametrize("case", CSV_FAULTS)
def test_faulty_csv(case):
    content, line, column, said = CSV_FAULTS[case]
    fault = error(write("m.csv", content))
    assert said in str(fault)
    assert str(fault).startswith(f"m.csv:{line}:{column}: ")
    assert (fault.file, fault.line, fault.column) == ("m.csv", line, column)


BUDGET_FAULTS = {
    "unknown": ("b,v\nAnn,1\nBbo,2\nCas,3\n", 3, 1, "no buyer 'Bbo' in the valuations; did you mean 'Bob'?"),
    "missing": ("b,v\nAnn,1\n", None, None, "no budget for 2 buyers ('Bob', 'Cas'); add a line"),
    "twice": ("b,v\nAnn,1\nAnn,1\n", 3, 1, "buyer 'Ann' is already on line 2"),
    "negative": ("b,v\nAnn,1\nBob,-2\n", 3, 2, "-2 is negative (buyer 'Bob')"),
    "blank": ("b,v\nAnn,\n", 2, 2, "budget is blank; write a number (buyer 'Ann')"),
    "text": ("b,v\nAnn,rich\n", 2, 2, "'rich' is not a number; write a number (buyer 'Ann')"),
    "nan": ("b,v\nAnn,nan\n", 2, 2, "'nan' is not a number"),
    "infinite": ("b,v\nAnn,1e400\n", 2, 2, "too large"),
    "all zero": ("b,v\nAnn,0\nBob,0\nCas,0\n", 2, 2, "all budgets are zero"),
    "too much": ("b,v\nAnn,1e308\nBob,1e308\nCas,0\n", None, None, "larger unit"),
    "ragged": ("b,v\nAnn,0,1\n", 2, 3, "3 fields"),
    "wide": ("b,v,w\nAnn,0,1\n", 1, 3, "3 columns; budgets need two"),
    "narrow": ("b\nAnn\n", 1, 2, "1 columns; budgets need two"),
    "empty": ("", 1, 1, "file is empty"),
    "encoding": (b"b,v\nAnn,\xff\n", 2, 5, "0xFF is not UTF-8"),
}


@pytest.mark.parametrize("case", BUDGET_FAULTS)
def test_faulty_budgets(case):
    content, line, column, said = BUDGET_FAULTS[case]
    fault = error(write("m.csv", WIDE), budgets=write("b.csv", content))
    assert said in str(fault)
    expected = "b.csv" if case != "too much" else "m.csv"
    assert (fault.file, fault.line, fault.column) == (expected, line, column)


def test_faulty_supply_and_endowments():
    write("m.csv", WIDE)
    fault = error("m.csv", supply=write("s.csv", "g,s\nTea,1\n"))
    assert "s.csv:2:1: there is no good 'Tea' in the valuations; did you mean 'tea'?" in str(fault)
    fault = error("m.csv", supply=write("s.csv", "g,s\ntea,0\nrye,1\noat milk,1\n"))
    assert str(fault).startswith("s.csv:2:2: the supply of good 'tea' is zero")
    fault = error("m.csv", endowments=write("e.csv", "b,tea,rye,oat\nAnn,1,1,1\n"))
    assert str(fault).startswith("e.csv:1:4: there is no good 'oat' in the valuations")
    fault = error("m.csv", endowments=write("e.csv", "buyer,good,value\nAnn,tea,1\nDan,tea,1\n"))
    assert str(fault).startswith("e.csv:3:1: there is no buyer 'Dan' in the valuations")
    fault = error("m.csv", endowments=write("e.csv", "buyer,good,value\nAnn,tea,1\nAnn,Rye,1\n"))
    assert str(fault).startswith("e.csv:3:2: there is no good 'Rye' in the valuations; did you mean 'rye'?")
    fault = error("m.csv", endowments=write("e.csv", "buyer,good,value\nAnn,tea,1\n"))
    assert str(fault).startswith("e.csv: the supply of good 'oat milk' is zero")
    fault = error("m.csv", endowments=write("e.csv", "buyer,tea\nAnn,-1\n"))
    assert str(fault).startswith("e.csv:2:2: -1 is negative (buyer 'Ann', good 'tea'); endowments must")


def test_paths_that_are_no_files():
    os.mkdir("folder.csv")
    assert str(error("none.csv")) == "none.csv: there is no such file; check the path"
    assert str(error("folder.csv")) == "folder.csv: this is a directory; give a file"
    assert "format '.xls' is not one of .csv, .npy, .npz, .parquet" in str(error(write("m.xls", "x")))
    assert "none.csv: there is no such file" in str(error(write("m.csv", WIDE), budgets="none.csv"))
    assert "cannot be read" in str(error("a\0b.csv")) or "no such file" in str(error("a\0b.csv"))


def test_sizes_are_refused_before_reading(monkeypatch):
    write("m.csv", WIDE * 1000)
    np.save("m.npy", np.ones((500, 500)))
    sparse.save_npz("m.npz", sparse.csr_array(np.ones((500, 500))))
    sparse.save_npz("promise.npz", sparse.coo_array(([1.0], ([0], [0])), shape=(10**7, 3)))
    monkeypatch.setattr(_table, "available_memory", lambda: 100_000)
    for name in ("m.csv", "m.npy", "m.npz", "promise.npz"):
        fault = error(name)
        assert fault.file == name and "100 kB are available" in str(fault)
    monkeypatch.setattr(_table, "available_memory", lambda: None)
    assert read_market("m.npy").n == 500


def test_memory_is_known_here():
    known = _table.available_memory()
    assert known is None or known > 1_000_000


def test_a_small_archive_cannot_promise_terabytes():
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**13,)})
    with zipfile.ZipFile("m.npz", "w") as archive:
        archive.writestr("data.npy", header.getvalue())
    assert "80 TB" in str(error("m.npz")) or "160 TB" in str(error("m.npz"))


def test_faulty_arrays():
    def said(name, array):
        np.save(name, array)
        return str(error(name))

    assert said("m.npy", np.ones(3)).startswith("m.npy: the array has shape (3,)")
    assert "shape (0, 3)" in said("m.npy", np.ones((0, 3)))
    assert "not real numbers" in said("m.npy", np.array([["a"]]))
    assert "not real numbers" in said("m.npy", np.ones((2, 2), complex))
    assert "not real numbers" in said("m.npy", np.zeros((2, 2), "datetime64[s]"))
    assert said("m.npy", [[1, 1], [1, -2]]).startswith("m.npy:2:2: -2 is negative (row 2, column 2)")
    assert said("m.npy", [[1, np.nan]]).startswith("m.npy:1:2: nan is not a finite number")
    assert said("m.npy", [[np.inf, 1]]).startswith("m.npy:1:1: inf is not a finite number")
    assert said("m.npy", [[1, 1], [0, 0]]).startswith("m.npy:2:1: buyer 'buyer 2' values nothing")
    np.save("m.npy", np.array([{}]), allow_pickle=True)
    assert "not a whole NumPy .npy file" in str(error("m.npy"))


def test_faulty_sparse_matrices():
    sparse.save_npz("m.npz", sparse.csr_array([[1.0, 0], [0, -2]]))
    assert str(error("m.npz")).startswith("m.npz:2:2: -2 is negative")
    sparse.save_npz("m.npz", sparse.coo_array(([3.0, -1.0, 1.0], ([0, 0, 1], [0, 0, 1])), shape=(2, 2)))
    assert "-1 is negative" in str(error("m.npz"))
    sparse.save_npz("m.npz", sparse.csr_array(([3.0, -1.0], [0, 0], [0, 2]), shape=(1, 1)))
    assert str(error("m.npz")).startswith("m.npz:1:1: -1 is negative")
    sparse.save_npz("m.npz", sparse.csr_array([[1.0, 0], [0, 0]]))
    assert str(error("m.npz")).startswith("m.npz:2:1: buyer 'buyer 2' values nothing")
    np.savez("m.npz", VALUES)
    assert "not a whole SciPy sparse .npz" in str(error("m.npz"))
    broken = sparse.csr_array(VALUES)
    broken.indices[0] = 10**6
    sparse.save_npz("m.npz", broken)
    assert "not a whole SciPy sparse .npz" in str(error("m.npz"))
    broken = sparse.csr_array(VALUES)
    broken.indptr[1:3] = 4, 1
    sparse.save_npz("m.npz", broken)
    assert "not a whole SciPy sparse .npz" in str(error("m.npz"))


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_nothing_is_unpickled():
    np.save("m.npy", np.array([[Bomb()]]), allow_pickle=True)
    np.savez("m.npz", data=np.array([Bomb()]), format=np.array([Bomb()]), shape=np.array([Bomb()]))
    error("m.npy")
    error("m.npz")
    assert not os.path.exists("exploded")


def test_faulty_parquet():
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    def said(**columns):
        parquet.write_table(arrow.table(columns), "m.parquet")
        return str(error("m.parquet"))

    assert said(b=["Ann", "Bob"], x=[1.0, -1]).startswith("m.parquet:2:2: -1 is negative (buyer 'Bob', good")
    assert said(b=["Ann", "Bob"], x=[1.0, float("nan")]).startswith("m.parquet:2:2: nan is not a finite")
    assert said(b=["Ann", "Ann"], x=[1, 1]).startswith("m.parquet:2:1: buyer 'Ann' is already in row 1")
    assert said(b=["Ann", None], x=[1, 1]).startswith("m.parquet:2:1: the name of this buyer is blank")
    assert said(b=[1.5], x=[1]).startswith("m.parquet:1:1: column 'b' holds double")
    assert said(b=["Ann"], x=["1"]).startswith("m.parquet:1:2: column 'x' holds string and not numbers")
    assert said(b=["Ann", "Bob"], x=[1, None]).startswith("m.parquet:2:1: buyer 'Bob' values nothing")
    assert "table is empty" in said(b=[], x=[])
    assert said(buyer=["Ann", "Ann"], good=["x", "x"], value=[1, 2]).startswith(
        "m.parquet:2:2: buyer 'Ann' already has good 'x' in row 1"
    )
    assert said(buyer=["Ann"], good=["x"], value=[-1]).startswith("m.parquet:1:3: -1 is negative")


# The market that ships


def test_the_default_market():
    market = default_market()
    assert (market.n, market.m, market.nnz) == (1276, 40, 23_943)
    assert set(np.unique(market.dense())) == {0, 1, 2, 3, 4, 5}
    assert set(market.budgets) == {12.5, 37.5, 75, 125, 200} and market.utility == LINEAR
    assert market.goods[0] == "Algeria" and "Netherlands" in market.goods and "United States" in market.goods
    assert all(name == name.strip() and name.isascii() for name in market.goods)


def test_the_default_groups_cover_the_buyers():
    groups = default_groups()
    market = default_market()
    assert sorted(name for group in groups.values() for name in group) == sorted(market.buyers)
    brackets = list(groups)
    assert brackets[:2] == ["under $25,000", "$25,000 to $49,999"] and brackets[-1] == "not stated"
    place = {name: i for i, name in enumerate(market.buyers)}
    means = [market.budgets[[place[name] for name in group]].mean() for group in groups.values()]
    assert means == [12.5, 37.5, 75, 125, 200, 75]
