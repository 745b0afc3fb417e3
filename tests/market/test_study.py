"""`catallax run market`, from a user's files to tables, certificates and the report."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from catallax.cli import main
from catallax.errors import InputError
from catallax.market import CES, Market, default_market, read_market, solve
from catallax.market.options import Options

TASTES = """\
who,bread,cheese,honey,thistle
Ada,5,2,,
Ben,4,4,1,
Cleo,N/A,3,3,
Dan,1,,6,
"""
BUDGETS = "buyer,budget\nAda,30\nBen,20\nCleo,20\nDan,30\n"
SUPPLY = "good,supply\nbread,10\ncheese,10\nhoney,5\nthistle,1\n"


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder with a user's files, in which the commands run."""
    monkeypatch.chdir(tmp_path)
    # The command line would switch on the persistent cache for the rest of the test session.
    monkeypatch.setattr("catallax.cli.prepare_jax", lambda devices: None)
    Path("tastes.csv").write_text(TASTES)
    Path("budgets.csv").write_text(BUDGETS)
    Path("supply.csv").write_text(SUPPLY)
    return tmp_path


def run(*words: object, out: str = "out") -> int:
    return main(["run", "market", *map(str, words), "--out", out])


def table(name: str, out: str = "out") -> dict[str, list[str]]:
    with open(f"{out}/answer/{name}.csv", encoding="utf-8", newline="") as stream:
        heads, *rows = csv.reader(stream)
    return {head: [row[k] for row in rows] for k, head in enumerate(heads)}


def numbers(column: list[str]) -> np.ndarray:
    return np.array(column, float)


FULL = ("tastes.csv", "--budgets", "budgets.csv", "--supply", "supply.csv")


def test_tables_are_the_answer(desk, capsys):
    assert run(*FULL, "--tol", "1e-9") == 0
    market = read_market("tastes.csv", budgets="budgets.csv", supply="supply.csv")
    assert isinstance(market, Market)
    answer = solve(market, tol=1e-9)
    prices, buyers, held = table("prices"), table("buyers"), table("allocation")
    place = [market.goods.index(good) for good in prices["good"]]
    assert sorted(place) == [0, 1, 2, 3]
    assert np.array_equal(numbers(prices["price"]), answer.prices[place])
    assert np.all(np.diff(numbers(prices["price"])) <= 0)
    assert numbers(prices["spending"]).sum() == pytest.approx(100)
    assert tuple(buyers["buyer"]) == market.buyers
    assert np.array_equal(numbers(buyers["utility"]), answer.utilities)
    assert np.array_equal(numbers(buyers["budget"]), market.budgets)
    assert list(buyers) == ["buyer", "budget", "utility", "regret"]
    rebuilt = np.zeros((4, 4))
    rows, columns = map(market.buyers.index, held["buyer"]), map(market.goods.index, held["good"])
    rebuilt[list(rows), list(columns)] = numbers(held["amount"])
    assert np.allclose(rebuilt, np.asarray(answer.allocation), rtol=0, atol=1e-8)
    assert np.all(numbers(held["amount"]) > 0)
    bought = numbers(held["amount"]) * answer.prices[[market.goods.index(good) for good in held["good"]]]
    assert np.array_equal(numbers(held["spending"]), bought)
    claims = json.loads(Path("out/certificates.json").read_text())
    assert [claim["name"] for claim in claims] == ["gap", "regret", "clearing", "spending"]
    assert all(claim["holds"] and claim["tolerance"] == 1e-9 for claim in claims)
    history = [json.loads(line) for line in Path("out/history.jsonl").read_text().splitlines()]
    assert [one["round"] for one in history] == list(range(1, answer.rounds + 1))
    assert np.array_equal([one["distance"] for one in history], answer.history[1])
    told = capsys.readouterr().out
    assert "settled" in told and "honey" in told and "out/report.html" in told and "regret" in told
    assert "Goods valued by nobody, and so sold at price zero: thistle." in report()


def report(out: str = "out") -> str:
    return Path(f"{out}/report.html").read_text(encoding="utf-8")


def test_the_report_needs_nothing_else(desk):
    assert run(*FULL, "--behaviour", "strategic", "--replicas", "4") == 0
    page = report()
    for title in (
        "What was asked",
        "Prices",
        "How it converged",
        "Who gets what",
        "Buyers",
        "What one per cent more income would do",
        "What full information changes",
        "Who loses",
        "Price-taking and strategic prices",
        "How it vanishes in large markets",
    ):
        assert f"<h2>{title}</h2>" in page
    assert page.count("<svg") == len(list(Path("out/figures").glob("*.svg"))) >= 4
    assert "http://www.w3.org" not in page.replace('xmlns="http://www.w3.org/2000/svg"', "").replace(
        'xmlns:xlink="http://www.w3.org/1999/xlink"', ""
    )
    assert "<script" not in page and "<link" not in page and 'src="http' not in page
    assert "FiveThirtyEight" not in page
    claims = {one["name"]: one for one in json.loads(Path("out/certificates.json").read_text())}
    assert claims["nash regret"]["holds"] and claims["strategic posts"]["holds"]
    both = table("strategic-prices")
    assert np.array_equal(numbers(both["price-taking"]), numbers(table("prices")["price"]))
    assert np.abs(numbers(both["strategic"]) - numbers(both["price-taking"])).max() > 0.01


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("--utility", "ces", "--rho", "0.5"), marks=pytest.mark.bench),
        ("--utility", "cobb-douglas"),
        pytest.param(("--utility", "leontief"), marks=pytest.mark.bench),
        ("--utility", "quasilinear"),
        ("--law", "proportional-response", "--tol", "1e-3"),
    ],
    ids=" ".join,
)
def test_utilities_and_laws(desk, words):
    assert run(*FULL, *words) == 0
    buyers = table("buyers")
    assert ("money kept" in buyers) == ("quasilinear" in words)
    spent = numbers(table("prices")["spending"]).sum()
    kept = numbers(buyers["money kept"]).sum() if "money kept" in buyers else 0.0
    assert spent + kept == pytest.approx(100, rel=1e-3)
    assert Path("out/history.jsonl").read_text().strip()


def test_an_exchange_economy(desk):
    Path("owned.csv").write_text(
        "who,bread,cheese,honey,thistle\nAda,1,1,1,1\nBen,1,2,1,1\nCleo,2,1,1,1\nDan,1,1,3,1\n"
    )
    assert run("tastes.csv", "--endowments", "owned.csv", "--utility", "ces", "--rho", "0.5") == 0
    names = [one["name"] for one in json.loads(Path("out/certificates.json").read_text())]
    assert "balance" in names
    assert "an exchange economy" in report()
    assert "incomes come from the prices themselves" in report()


def test_groups_and_equal_budgets(desk):
    Path("groups.csv").write_text("buyer,group\nAda,town\nDan,hills\nBen,town\n")
    assert run(*FULL, "--groups", "groups.csv", "--utility", "ces", "--rho", "0.5") == 0
    assert ">town</th>" in report() and ">hills</th>" in report()
    assert run("tastes.csv", out="equal") == 0
    assert "mostly bread" in report("equal")
    assert run(*FULL, out="quartiles") == 0
    assert "budget 20" in report("quartiles") and "budget 30" in report("quartiles")


def test_a_market_that_does_not_settle_says_so(desk, capsys):
    assert run(*FULL, "--max-rounds", "2") == 1
    assert "out of rounds" in capsys.readouterr().out
    assert not all(one["holds"] for one in json.loads(Path("out/certificates.json").read_text()))
    assert "did not settle" in report()


def test_a_run_that_was_cut_off_is_done_again_bit_for_bit(desk):
    words = (*FULL, "--max-rounds", "3")  # hardly settled, and so without comparative statics: quick
    code = run(*words, out="whole")
    assert run(*words, out="cut") == code
    cut = Path("cut")
    config = (cut / "config.toml").read_text().split("\n[result]\n")[0]
    (cut / "config.toml").write_text(config)
    (cut / "answer" / "prices.csv").unlink()
    lines = (cut / "history.jsonl").read_bytes()
    (cut / "history.jsonl").write_bytes(lines[: len(lines) // 2])
    assert main(["run", "market", "--resume", "cut"]) == code
    for name in (
        "answer/prices.csv",
        "answer/allocation.csv",
        "answer/buyers.csv",
        "history.jsonl",
        "certificates.json",
    ):
        assert (cut / name).read_bytes() == Path("whole", name).read_bytes(), name


def test_ctrl_c_keeps_what_is_done(desk, monkeypatch, capsys):
    import catallax.market.study as study

    patient = study.Watcher.__call__

    def impatient(self, progress):
        patient(self, progress)
        if self.before_stop == 0:
            os.kill(os.getpid(), 2)
        self.before_stop -= 1

    monkeypatch.setattr(study.Watcher, "before_stop", 0, raising=False)
    monkeypatch.setattr(study.Watcher, "__call__", impatient)
    words = ("--law", "proportional-response", "--tol", "1e-12", "--max-rounds", "1000000")
    assert run(*FULL, *words, "--behaviour", "strategic") == 130
    assert "--resume out" in capsys.readouterr().err
    assert table("prices")["good"] and "stopped" in report()
    assert not Path("out/answer/strategic-prices.csv").exists()
    assert "complete = false" in Path("out/config.toml").read_text()


BAD = {
    "missing": ("nowhere.csv", None, "nowhere.csv: there is no such file"),
    "empty": ("bad.csv", b"", "bad.csv:1:1: the file is empty"),
    "encoding": ("bad.csv", "who,café\nAda,1\n".encode("latin-1"), "bad.csv:1:8: the byte 0xE9"),
    "ragged": ("bad.csv", b"who,a,b\nAda,1\n", "bad.csv:2:3: 2 fields where the header has 3"),
    "text": ("bad.csv", b"who,a,b\nAda,1,2\nBen,1,lots\n", "bad.csv:3:3: 'lots' is not a number"),
    "nan": ("bad.csv", b"who,a\nAda,nan\n", "bad.csv:2:2: 'nan' is not a number"),
    "infinity": ("bad.csv", b"who,a\nAda,inf\n", "bad.csv:2:2: 'inf' is not a number"),
    "negative": ("bad.csv", b"who,a\nAda,-1\n", "bad.csv:2:2: "),
    "twice": ("bad.csv", b"who,a\nAda,1\nAda,1\n", "bad.csv:3:1: buyer 'Ada' is already on line 2"),
    "good twice": ("bad.csv", b"who,a,a\nAda,1,1\n", "bad.csv:1:3: good 'a' is already in column 2"),
    "nothing": ("bad.csv", b"who,a\nAda,1\nBen,\n", "bad.csv:3:1: buyer 'Ben' values nothing"),
}


@pytest.mark.parametrize(("name", "content", "said"), BAD.values(), ids=BAD)
def test_bad_tables_are_refused(desk, capsys, name, content, said):
    if content is not None:
        Path(name).write_bytes(content)
    refused(capsys, said, name)


BAD_BUDGETS = {
    "unknown buyer": (
        "buyer,budget\nBena,1\n",
        ":2:1: there is no buyer 'Bena' in the valuations; did you mean 'Ben'?",
    ),
    "left out": ("buyer,budget\nAda,1\n", ": no budget for 3 buyers"),
    "negative": (BUDGETS.replace("30", "-3", 1), ":2:2: "),
    "no money": ("buyer,budget\nAda,0\nBen,0\nCleo,0\nDan,0\n", ":2:2: all budgets are zero"),
}


@pytest.mark.parametrize(("content", "said"), BAD_BUDGETS.values(), ids=BAD_BUDGETS)
def test_bad_budgets_are_refused(desk, capsys, content, said):
    Path("bad.csv").write_text(content)
    refused(capsys, f"bad.csv{said}", "tastes.csv", "--budgets", "bad.csv")


BAD_GROUPS = {
    "columns": ("buyer,group,more\n", ":1:3: 3 columns"),
    "unknown": (
        "buyer,group\nBena,x\n",
        ":2:1: there is no buyer 'Bena' in the valuations; did you mean 'Ben'?",
    ),
    "twice": ("buyer,group\nAda,x\nAda,y\n", ":3:1: buyer 'Ada' is already on line 2"),
    "ragged": ("buyer,group\nAda\n", ":2:2: 1 fields"),
    "none": ("buyer,group\nAda,\n", ":1:2: no buyer has a group"),
}


@pytest.mark.parametrize(("content", "said"), BAD_GROUPS.values(), ids=BAD_GROUPS)
def test_bad_groups_are_refused(desk, capsys, content, said):
    Path("bad.csv").write_text(content)
    refused(capsys, f"bad.csv{said}", "tastes.csv", "--groups", "bad.csv")


def test_bad_supplies_and_endowments_are_refused(desk, capsys):
    Path("bad.csv").write_text(SUPPLY.replace("honey,5", "honey,0"))
    refused(capsys, "bad.csv:4:2: the supply of good 'honey' is zero", "tastes.csv", "--supply", "bad.csv")
    Path("bad.csv").write_text("who,bread\nEda,1\n")
    refused(capsys, "bad.csv:2:1: there is no buyer 'Eda'", "tastes.csv", "--endowments", "bad.csv")


def refused(capsys: pytest.CaptureFixture, said: str, *words: str) -> None:
    """Expect one line on the error stream, exit code 2, and nothing written."""
    assert run(*words) == 2
    told = capsys.readouterr()
    assert told.err.startswith(f"error: {said}"), told.err
    assert told.err.count("\n") == 1 and not told.out
    assert not Path("out").exists() and not Path("runs").exists()


SENSELESS = {
    "rho without ces": ({"rho": 0.5}, "--rho belongs to ces utility"),
    "ces without rho": ({"utility": "ces"}, "ces utility needs --rho"),
    "rho of one": ({"utility": "ces", "rho": 1.0}, "did you mean --utility linear"),
    "rho of zero": ({"utility": "ces", "rho": 0.0}, "did you mean --utility cobb-douglas"),
    "rho without bound": ({"utility": "ces", "rho": -np.inf}, "did you mean --utility leontief"),
    "rho above one": ({"utility": "ces", "rho": 2.0}, "below 1"),
    "no tolerance": ({"tol": 0.0}, "--tol is 0"),
    "negative tolerance": ({"tol": -1.0}, "--tol is -1"),
    "no rounds": ({"max_rounds": 0}, "--max-rounds is 0"),
    "one replica": ({"replicas": 1, "behaviour": "strategic"}, "--replicas is 1"),
    "replicas alone": ({"replicas": 4}, "add --behaviour strategic"),
    "strategic ces": ({"behaviour": "strategic", "utility": "ces", "rho": 0.5}, "linear utility"),
    "budgets alone": ({"budgets": Path("b.csv")}, "--budgets needs data"),
    "both": ({"endowments": Path("e"), "budgets": Path("b"), "data": Path("d")}, "leave out --budgets"),
    "strategic exchange": (
        {"endowments": Path("e"), "behaviour": "strategic", "data": Path("d")},
        "--endowments",
    ),
    "quasilinear exchange": (
        {"endowments": Path("e"), "utility": "quasilinear", "data": Path("d")},
        "no money",
    ),
    "exchange groups": ({"endowments": Path("e"), "groups": Path("g"), "data": Path("d")}, "--groups"),
    "exchange law": ({"endowments": Path("e"), "law": "tatonnement", "data": Path("d")}, "--law tatonnement"),
}


@pytest.mark.parametrize(("given", "said"), SENSELESS.values(), ids=SENSELESS)
def test_options_that_make_no_sense_are_refused(given, said):
    with pytest.raises(InputError, match="^[^\n]+$") as error:
        Options(**given)
    assert said in str(error.value)


def test_full_information_is_refused_before_anything_is_solved(desk, capsys):
    many = "who,a,b\n" + "".join(f"{k},1,2\n" for k in range(12_000))
    Path("many.csv").write_text(many)
    refused(capsys, "strategic buyers read all bids: with 12,000", "many.csv", "--behaviour", "strategic")
    words = ("tastes.csv", "--behaviour", "strategic", "--replicas", "10000")
    refused(capsys, "--replicas 10000 of 4 buyers", *words)


def test_options_come_without_jax():
    heavy = ["jax", "numpy", "scipy", "matplotlib"]
    code = f"import sys, catallax.market.options; sys.exit(any(m in sys.modules for m in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_public_names_are_not_displaced_by_modules():
    import importlib

    market = importlib.import_module("catallax.market")
    for module in ("solve", "certify", "strategic"):
        importlib.import_module(f"catallax.market.{module}")
    assert callable(market.solve) and callable(market.certify)
    assert sorted(market.__all__) == market.__all__
    assert all(hasattr(market, name) for name in market.__all__)


@pytest.mark.parametrize("rho", [0.5, -1.0])
def test_public_utilities(rho):
    assert CES(rho).rho == rho


def test_the_embedded_survey(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    words = [sys.executable, "-m", "catallax", "run", "market", "--out", "out"]
    ended = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert "The 10 dearest goods" in ended.stdout and "Italy" in ended.stdout
    assert ended.stdout.count("holds") == 4
    assert f"report: {Path('out', 'report.html')}" in ended.stdout
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Creative Commons" in page and "FiveThirtyEight" in page and "under $25,000" in page
    with open(tmp_path / "out" / "answer" / "buyers.csv", newline="") as stream:
        assert len(list(csv.reader(stream))) == default_market().n + 1
