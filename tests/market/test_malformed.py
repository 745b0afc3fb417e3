"""Whatever the bytes, the readers give the right market or an `InputError`, and nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from catallax.errors import InputError, MissingExtra
from catallax.market.tables import read_market

VALUES = np.array([[1, 0, 2.5], [0, 3, 0], [0.5, 1, 7]])
WIDE = "buyer,tea,oat milk,rye\nAnn,1,,2.5\nBob,0,3e0,N/A\nCas,.5,1.,7\n"
LONG = "buyer,good,value\nAnn,tea,1\nAnn,oat milk,\nAnn,rye,2.5\nBob,oat milk,3\nCas,rye,7\n"
quick = settings(max_examples=max(150, settings().max_examples))


@pytest.fixture(autouse=True, scope="module")
def in_an_empty_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("malformed"))
        yield


def write(name: str, content: str | bytes) -> str:
    with open(name, "wb") as stream:
        stream.write(content.encode() if isinstance(content, str) else content)
    return name


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    np.save(folder / "m.npy", VALUES)
    sparse.save_npz(folder / "m.npz", sparse.csr_array(VALUES))
    names = ["m.npy", "m.npz"]
    try:
        import pyarrow
        import pyarrow.parquet

        columns = {"b": ["Ann", "Bob", "Cas"], "x": VALUES[:, 0], "y": VALUES[:, 1], "z": VALUES[:, 2]}
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / "m.parquet")
        names.append("m.parquet")
    except ImportError:
        pass
    return {name: (folder / name).read_bytes() for name in names}


def test_truncated_files(whole_files):
    for name, content in whole_files.items():
        for length in {0, 1, 7, len(content) // 2, len(content) - 1}:
            with pytest.raises(InputError, match="write it again"):
                read_market(write(name, content[:length]))


@quick
@given(st.data())
def test_damaged_files(whole_files, data):
    name = data.draw(st.sampled_from(sorted(whole_files)))
    content = bytearray(whole_files[name])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        market = read_market(write(name, bytes(content)))
    except InputError as fault:
        assert fault.file == name
    else:
        assert np.isfinite(market.dense()).all() and (market.dense() >= 0).all()


def records_of(text: str) -> list[list[str]]:
    """Lines and their fields, letter by letter: a reader of its own, for the test below."""
    records, fields, field, quoted, closed = [], [], "", False, False
    for letter in text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n") + "\n":
        if letter == '"' and (quoted or closed or not field.strip(" ")):
            field += letter if closed else ""  # a doubled quotation mark
            quoted, closed = not quoted, quoted
        elif quoted:
            field += letter
        elif letter in ",\n":
            fields, field, closed = [*fields, field.strip()], "", False
            if letter == "\n":
                records, fields = [*records, fields], []
        else:
            field += letter
    return [record for record in records if record != [""]]


def naive(text: str) -> tuple[list[str], list[str], np.ndarray]:
    """The market in a well-formed table, in the plainest way."""
    blanks = ("", "N/A", "NA", "n/a")
    header, *lines = records_of(text)
    first, second, third = ([*("".join(filter(str.isalnum, each)).lower() for each in header), "", ""])[:3]
    if first == "buyer" and third == "value" and (len(header) == 3 or second == "good"):
        buyers = list(dict.fromkeys(line[0] for line in lines))
        goods = list(dict.fromkeys(line[1] for line in lines))
        values = np.zeros((len(buyers), len(goods)))
        for buyer, good, value, *_ in lines:
            values[buyers.index(buyer), goods.index(good)] = 0.0 if value in blanks else float(value)
        return buyers, goods, values
    values = [[0.0 if cell in blanks else float(cell) for cell in line[1:]] for line in lines]
    return [line[0] for line in lines], header[1:], np.array(values)


cells = st.sampled_from(["", "NA", "0", "1", "2.50", "3e2", " 4 "])
numbers = ["1", "2.5", "", "N/A", "-1", "nan", "inf", "1e3", "1e999", "1_0", "--1", "0", "\u0663"]
marks = [",", ";", '"', "\n", "\r\n", "\r", " ", "\0", "\ufeff", "\x85", "\u2028", "\x0b"]
words = ["x", "Ann", "buyer", "value", "\u00e4"]
pieces = st.sampled_from([*numbers, *marks, *words])
edits = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 4), pieces), max_size=4)


@quick
@given(st.sampled_from([WIDE, LONG, "b,x\na,1\n"]), edits)
def test_mutated_csv(text, changes):
    for at, cut, piece in changes:
        at %= len(text) + 1
        text = text[:at] + piece + text[at + cut :]
    try:
        market = read_market(write("m.csv", text))
    except InputError as fault:
        assert fault.file == "m.csv" and fault.line is not None and fault.column is not None
        assert 1 <= fault.line <= text.count("\n") + text.count("\r") + 1
        return
    buyers, goods, values = naive(text)
    assert (list(market.buyers), list(market.goods)) == (buyers, goods)
    np.testing.assert_array_equal(market.dense(), values)


@quick
@given(st.lists(st.tuples(cells, cells), min_size=1))
def test_well_formed_csv_is_read(rows):
    text = "b,x,y\n" + "".join(f"r{i},{','.join(row)}\n" for i, row in enumerate(rows))
    _, _, values = naive(text)
    idle = np.flatnonzero(values.sum(axis=1) == 0)
    if idle.size:
        with pytest.raises(InputError, match=f"m.csv:{idle[0] + 2}:1: "):
            read_market(write("m.csv", text))
    else:
        np.testing.assert_array_equal(read_market(write("m.csv", text)).dense(), values)


@quick
@given(st.binary(max_size=60), st.sampled_from([".csv", ".npy", ".npz", ".parquet"]))
def test_any_bytes(content, suffix):
    try:
        read_market(write(f"m{suffix}", content))
    except InputError as fault:
        assert fault.file == f"m{suffix}"
    except MissingExtra:
        assert suffix == ".parquet"
