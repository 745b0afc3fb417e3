"""Run directories: whole at every instant, and resumed to the identical result."""

import csv
import errno
import json
import math
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import counting_study
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from catallax.certificate import Certificate
from catallax.core.system import State
from catallax.errors import InputError
from catallax.runs import files, history
from catallax.runs.store import RunContext, next_free
from catallax.study import Outcome, Section, Settings, settings

HERE = Path(__file__).parent
OUTCOME = Outcome("A run", "settled", [Certificate("gap", 1e-7, 1e-6)], ["one line"], [Section("S", "Text.")])


@pytest.fixture
def run(tmp_path):
    run = RunContext(tmp_path / "run")
    yield run
    run.close()


def reopen(run: RunContext) -> RunContext:
    run.close()
    return RunContext(run.directory, resuming=True)


def test_kill_9_at_random_instants_leaves_everything_whole_and_resume_ends_as_if_nothing_had_happened(
    tmp_path,
):
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    for name, kills in (("killed", 25), ("whole", 0)):
        line = [sys.executable, str(HERE / "killed.py"), str(tmp_path / name), "7", str(kills)]
        ended = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120)
        assert ended.returncode == 0, ended.stderr
        reached = json.loads(ended.stdout)
        assert reached[-1] == 180
        if kills:
            assert len(set(reached)) > 10, f"hardly any life got anywhere: {reached}"
    for name in ("history.jsonl", "checkpoint.safetensors", "answer/x.csv"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not list((tmp_path / "killed").rglob("*.part"))


def test_nothing_is_created_before_the_first_write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with RunContext(tmp_path / "run") as run:
        assert not run.started
    with RunContext(study="x"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_next_free_directory_is_never_taken_twice(tmp_path):
    names = [next_free(tmp_path / "runs", "market").name for _ in range(3)]
    assert [name[-4:] for name in names] == ["-001", "-002", "-003"]


def test_a_directory_that_holds_something_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is there already"):
        RunContext(tmp_path)
    with pytest.raises(InputError, match="is there already"):
        RunContext(tmp_path / "file")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_created_is_refused_at_once(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(PermissionError):
        RunContext(tmp_path / "closed" / "run")


def test_records_are_strict_json(run):
    value = {
        "gap": math.inf,
        "p": np.array([1.5, math.nan]),
        "n": np.int32(3),
        "ok": np.bool_(True),
        4: jnp.ones(2),
    }
    run.record(value, {"round": 2})
    first, second = (run.directory / "history.jsonl").read_text().splitlines()
    assert json.loads(first, parse_constant=pytest.fail) == {
        "gap": None,
        "p": [1.5, None],
        "n": 3,
        "ok": True,
        "4": [1.0, 1.0],
    }
    assert second == '{"round": 2}'
    with pytest.raises(TypeError, match="cannot hold"):
        run.record({"x": object()})


def test_resume_drops_a_torn_line_and_what_came_after_the_checkpoint(run):
    run.record({"round": 1})
    run.record({"round": 2})
    run.checkpoint({"x": np.ones(3)})
    run.record({"round": 3})
    run.close()
    with (run.directory / "history.jsonl").open("ab") as stream:
        stream.write(b'{"round": 4, "su')
    resumed = RunContext(run.directory, resuming=True)
    resumed.record({"round": 3})
    resumed.close()
    lines = (run.directory / "history.jsonl").read_text().splitlines()
    assert lines == ['{"round": 1}', '{"round": 2}', '{"round": 3}']


def test_resume_without_a_checkpoint_starts_over(run):
    run.record({"round": 1})
    resumed = reopen(run)
    like = {"x": np.zeros(2)}
    assert resumed.restore(like) is like
    assert (resumed.directory / "history.jsonl").read_bytes() == b""
    resumed.close()


def test_a_history_shorter_than_the_checkpoint_says_is_refused(run):
    run.record({"round": 1})
    run.checkpoint({"x": np.ones(1)})
    run.close()
    (run.directory / "history.jsonl").write_bytes(b'{"round": 1}')
    with pytest.raises(InputError, match="holds 0 whole records, but the checkpoint was written after 1"):
        RunContext(run.directory, resuming=True).record({})


def test_two_processes_cannot_write_one_run(run):
    run.record({"round": 1})
    with pytest.raises(InputError, match="another process is still writing this run"):
        RunContext(run.directory, resuming=True).record({})


def state(value: float) -> State:
    agents = {
        "wide": jnp.full((3, 2), value, jnp.float32),
        "half": jnp.full(3, value, jnp.bfloat16),
        "id": jnp.arange(3),
        "on": jnp.array([True, False, value > 1]),
        "key": jax.random.split(jax.random.key(int(value)), 3),
        "odd": np.asfortranarray(np.arange(6.0).reshape(2, 3) + value),
    }
    return State(agents, {"share": value, "count": int(value), "none": None}, round=int(value))


def test_a_checkpoint_comes_back_bit_for_bit_in_the_same_types(run):
    run.checkpoint(state(7.25))
    resumed = reopen(run)
    restored = resumed.restore(state(1.0))
    resumed.close()
    wanted = state(7.25)
    assert jax.tree.structure(restored) == jax.tree.structure(wanted)
    for found, leaf in zip(jax.tree.leaves(restored), jax.tree.leaves(wanted), strict=True):
        assert type(found) is type(leaf)
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            found, leaf = jax.random.key_data(found), jax.random.key_data(leaf)
        assert np.asarray(found).dtype == np.asarray(leaf).dtype
        assert np.asarray(found).tobytes() == np.asarray(leaf).tobytes()


def test_a_checkpoint_keeps_double_precision_whatever_the_setting(run):
    with jax.enable_x64(True):
        precise = {"p": jnp.array([1 / 3])}
    run.checkpoint(precise)
    resumed = reopen(run)
    restored = resumed.restore(precise)
    resumed.close()
    assert restored["p"].dtype == np.float64
    assert float(np.asarray(restored["p"])[0]) == 1 / 3


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"x": np.ones(3)}, r"\['x'\] is float64\[2\], but float64\[3\] is expected"),
        ({"x": np.ones(2, np.float32)}, r"but float32\[2\] is expected"),
        ({"y": np.ones(2)}, r"\['x'\], \['y'\] in one but not the other"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(run, like, message):
    run.checkpoint({"x": np.ones(2)})
    resumed = reopen(run)
    with pytest.raises(InputError, match=message):
        resumed.restore(like)
    resumed.close()


@pytest.mark.parametrize("content", [b"", b"garbage that is no checkpoint at all", b"\x02\0\0\0\0\0\0\0{}"])
def test_what_is_no_checkpoint_is_refused(run, content):
    run.record({})
    run.close()
    (run.directory / "checkpoint.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="is not a checkpoint"):
        RunContext(run.directory, resuming=True).restore({"x": np.ones(2)})


def test_a_checkpoint_holds_arrays_only(run):
    with pytest.raises(TypeError, match="a checkpoint holds arrays and numbers"):
        run.checkpoint({"x": "text"})


NAMES = ["plain", "a,b", 'say "x"', "line\nbreak", "carriage\rreturn", "é<script>", " space ", ""]


def test_tables_survive_any_name_and_lose_no_digit(run):
    values = np.array([0.1, 1 / 3, 1e-300, -0.0, 1e22, math.pi, math.inf, 5e-324])
    path = run.write_table("t", {"name": NAMES, 'v,"': values, "n": np.arange(8), "gap": [None] * 8})
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["name", 'v,"', "n", "gap"]
    assert [row[0] for row in rows[1:]] == NAMES
    assert np.array([float(row[1]) for row in rows[1:]]).tobytes() == values.tobytes()
    assert b"\r\n" not in path.read_bytes()
    table = pytest.importorskip("pyarrow.parquet").read_table(path.with_suffix(".parquet"))
    assert table.column("name").to_pylist() == NAMES


def test_columns_are_equally_long_and_names_suit_files(run):
    with pytest.raises(ValueError, match=r"not equally long \(a: 1, b: 2\)"):
        run.write_table("t", {"a": [1], "b": [1, 2]})
    with pytest.raises(ValueError, match="does not suit a file's name"):
        run.write_table("../t", {"a": [1]})


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


WRITES = {
    "checkpoint.safetensors": lambda run: run.checkpoint({"x": np.zeros(3)}),
    "answer/t.csv": lambda run: run.write_table("t", {"a": [2]}),
    "figures/f.svg": lambda run: run.write_figure("f", "<svg>2</svg>"),
}


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("where", ["open", "fsync", "replace"])
def test_a_full_disk_keeps_the_old_file_and_names_it(run, monkeypatch, name, where):
    run.record({"round": 1})
    run.checkpoint({"x": np.ones(3)})
    run.write_table("t", {"a": [1]})
    run.write_figure("f", "<svg>1</svg>")
    before = {path: path.read_bytes() for path in run.directory.rglob("*") if path.is_file()}
    if where == "open":
        monkeypatch.setattr(Path, "open", full)
    else:
        monkeypatch.setattr(files.os, where, full)
        monkeypatch.setattr(run._history, "sync", lambda: None)
    with pytest.raises(OSError, match="No space left") as caught:
        WRITES[name](run)
    monkeypatch.undo()
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(run.directory / name)
    assert {path: path.read_bytes() for path in run.directory.rglob("*") if path.is_file()} == before


def test_a_full_disk_in_the_middle_of_a_record_leaves_whole_lines(run, monkeypatch):
    run.record({"round": 1})
    write, calls = os.write, []

    def half(descriptor, data):
        calls.append(data)
        return write(descriptor, data[:5]) if len(calls) == 1 else full()

    monkeypatch.setattr(history.os, "write", half)
    with pytest.raises(OSError, match="No space left") as caught:
        run.record({"round": 2})
    monkeypatch.undo()
    assert caught.value.filename == str(run.directory / "history.jsonl")
    run.record({"round": 3})
    assert (run.directory / "history.jsonl").read_text() == '{"round": 1}\n{"round": 3}\n'


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_dev_full(tmp_path):
    (tmp_path / "history.jsonl").symlink_to("/dev/full")
    opened = history.History(tmp_path / "history.jsonl")
    with pytest.raises(OSError, match="No space left") as caught:
        opened.append({"round": 1})
    opened.close()
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.skipif(os.name != "posix", reason="limits on a file's size are POSIX")
def test_a_file_that_really_cannot_grow(tmp_path):
    """A limit on the size of files makes the system refuse in the middle of a file, as a full disk does."""
    code = """
import resource, sys
from catallax.runs.store import RunContext
run = RunContext(sys.argv[1])
run.write_table("t", {"a": [1, 2, 3]})
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    run.write_table("t", {"a": list(range(10_000))})
except OSError as error:
    print(error.filename)
try:
    for number in range(1000):
        run.record({"round": number})
except OSError as error:
    print(error.filename)
"""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    line = [sys.executable, "-c", code, str(tmp_path / "run")]
    out = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60)
    table, records = tmp_path / "run" / "answer" / "t.csv", tmp_path / "run" / "history.jsonl"
    assert out.stdout.splitlines() == [str(table), str(records)], out.stderr
    assert table.read_text() == "a\n1\n2\n3\n"
    lines = records.read_text().split("\n")
    assert lines[-1] == ""
    assert [json.loads(line)["round"] for line in lines[:-1]] == list(range(len(lines) - 1))
    assert len(lines) > 50
    assert not list((tmp_path / "run").rglob("*.part"))


def test_finish_writes_certificates_report_and_the_result(run):
    run.finish(OUTCOME)
    assert json.loads((run.directory / "certificates.json").read_text())[0]["holds"] is True
    assert "A run" in (run.directory / "report.html").read_text()
    document = tomllib.loads((run.directory / "config.toml").read_text())
    result = document["result"]
    assert (result["status"], result["complete"], result["summary"]) == ("settled", True, ["one line"])
    assert document["versions"]["python"] == sys.version.split()[0]


def test_a_resumed_run_replaces_the_result(run):
    run.record({})
    run.stop()
    run.finish(OUTCOME)
    resumed = reopen(run)
    resumed.finish(OUTCOME)
    resumed.close()
    text = (run.directory / "config.toml").read_text()
    assert text.count("[result]") == 1
    assert tomllib.loads(text)["result"]["complete"] is True


def test_options_are_written_so_that_they_can_be_read_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    odd = Path('a "b"\\ é\t\x7f\n[result]\n.txt')
    odd.write_text("1")
    options = counting_study.Options(data=odd, step=-math.inf, levels=(1e22, 5e-324), limit=None, loud=True)
    run = RunContext("run", study="counting", settings=Settings(options, seed=-3))
    run.close()
    found = settings(counting_study.study, config=run.directory / "config.toml")
    assert found.options == counting_study.Options(**{**vars(options), "data": odd.absolute()})
    assert found.seed == -3
    resumed = RunContext("run", study="counting", settings=found, resuming=True)
    resumed.close()


def test_ctrl_c_first_asks_then_interrupts(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with RunContext(tmp_path / "run") as run:
        signal.raise_signal(signal.SIGINT)
        assert run.stopped
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_progress_is_quiet_when_told_and_speaks_to_the_error_stream_otherwise(tmp_path, capsys, monkeypatch):
    from catallax.runs import progress

    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    progress.Progress("market", quiet=True).update(round=3)
    assert capsys.readouterr() == ("", "")
    progress.Progress("market").update(round=3, total=1000, certificate=2e-4, note="warm")
    assert capsys.readouterr() == ("", "market: round 3 of 1,000 · certificate 2.0e-04 · warm\n")


def test_a_matplotlib_figure_is_drawn_the_same_each_time(run):
    figure = pytest.importorskip("matplotlib.figure").Figure(figsize=(2, 1))
    figure.subplots().plot([1, 2], [3, 4])
    first = run.write_figure("f", figure)
    assert run.write_figure("f", figure) == first
    assert (run.directory / "figures" / "f.svg").read_text() == first
