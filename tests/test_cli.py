"""The command line, in process where possible: nothing here solves anything."""

import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import catallax.study
from catallax import cli
from catallax.errors import MissingExtra

ROOT = Path(__file__).parents[1]
GROUP = catallax.study.GROUP


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """An empty current folder, the counting study, and an environment that is put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "tests" / "runs")
    monkeypatch.setattr(os, "environ", {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "jax")})
    points = [
        EntryPoint("counting", "counting_study:study", GROUP),
        EntryPoint("broken", "no_such:study", GROUP),
    ]
    monkeypatch.setattr(catallax.study, "entry_points", lambda group: points if group == GROUP else [])
    return tmp_path


@pytest.fixture
def catallax_(capsys):
    """Run the command line: exit code, output, errors."""

    def call(line: str | list[str]):
        code = cli.main(line.split() if isinstance(line, str) else line)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_run_writes_a_run_directory_and_prints_what_came_of_it(catallax_, workplace):
    code, out, err = catallax_("run counting --rounds 7 --step 2 --seed 5")
    assert (code, err) == (0, "")
    (directory,) = (workplace / "runs").iterdir()
    assert re.fullmatch(r"counting-\d{4}-\d\d-\d\d-001", directory.name)
    assert "Counting: finished" in out
    assert re.search(r"error +5\.0e-01 +1e\+00 +holds", out)
    assert f"report: runs/{directory.name}/report.html" in out
    names = {
        "config.toml",
        "history.jsonl",
        "checkpoint.safetensors",
        "certificates.json",
        "report.html",
        "answer",
    }
    assert {path.name for path in directory.iterdir()} == names
    config = tomllib.loads((directory / "config.toml").read_text())
    assert (config["seed"], config["options"]["rounds"], config["options"]["step"]) == (5, 7, 2.0)


def test_runs_are_numbered_and_a_config_can_be_used_again(catallax_, workplace):
    assert catallax_("run counting --rounds 3 --set levels=3,4 --limit none --loud")[0] == 0
    first = next((workplace / "runs").iterdir())
    assert catallax_(f"run counting --config {first}/config.toml --quiet") == (0, "", "")
    second = first.with_name(first.name.replace("-001", "-002"))
    before, after = (tomllib.loads((one / "config.toml").read_text()) for one in (first, second))
    assert before["options"] == after["options"]
    assert (first / "history.jsonl").read_bytes() == (second / "history.jsonl").read_bytes()


def test_flags_in_every_form(catallax_, workplace):
    code, _, err = catallax_("run counting --out a --rounds=2 --levels 3 --levels 4 --law square --no-loud --step -1")
    assert (code, err) == (0, "")
    options = tomllib.loads((workplace / "a" / "config.toml").read_text())["options"]
    assert (options["levels"], options["step"], options["law"]) == ([3.0, 4.0], -1.0, "square")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("rum counting", 'unknown command "rum". Did you mean "run"?'),
        ("run countin", "there is no study 'countin'; did you mean 'counting'?"),
        ("run xyzzy", "there is no study 'xyzzy'; installed are broken, counting"),
        ("run counting --roundz 3", "unknown option: --roundz. Did you mean --rounds?"),
        ("run counting --rounds", "--rounds requires an argument"),
        ("run counting --rounds x", "--rounds is 'x', but must be a whole number"),
        ("run counting --rounds 1 --rounds 2", "--rounds specified multiple times"),
        ("run counting --law lineal", "did you mean 'linear'?"),
        ("run counting --set lew=linear", "unknown option 'lew'; did you mean 'law'?"),
        ("run counting --rounds -1", "rounds is -1, but must not be negative"),
        ("run counting --config none.toml", "none.toml: no such file or directory"),
        ("run counting none.csv", "none.csv: there is no such file"),
        ("run counting text.csv", "text.csv:1: 'abc' is not a number"),
        ("run counting a b", "one argument too many: 'b'"),
        ("run counting --out full", "full: is there already"),
        ("run counting --out text.csv/a", "text.csv: not a directory"),
        ("run counting --resume full", "full: is not a run directory"),
        ("run broken", "the study 'broken' (no_such:study) cannot be loaded"),
        ("show full", "full: is not a run directory"),
        ("--versoin", "unknown option --versoin; did you mean '--version'?"),
    ],
)
def test_a_mistake_is_one_line_exit_code_2_and_nothing_written(catallax_, workplace, line, message):
    (workplace / "full").mkdir()
    (workplace / "full" / "file").touch()
    (workplace / "text.csv").write_text("abc\n")
    code, out, err = catallax_(line)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert {path.name for path in workplace.iterdir()} == {"full", "text.csv"}


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MissingExtra("parquet"), "pip install 'catallax[parquet]'"),
        (MemoryError(), "out of memory"),
        (OSError(28, "No space left on device", "x.csv"), "x.csv: no space left on device"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_what_the_machine_does_is_one_line_too(catallax_, monkeypatch, error, message):
    import counting_study

    def execute(self, options, run):
        raise error

    monkeypatch.setattr(counting_study.Counting, "execute", execute)
    code, out, err = catallax_("run counting")
    assert (code, out) == (130 if isinstance(error, KeyboardInterrupt) else 2, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_bug_is_not_hidden(monkeypatch):
    import counting_study

    monkeypatch.setattr(counting_study.Counting, "execute", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["run", "counting"])


def test_a_certificate_that_does_not_hold_shows_in_the_exit_code(catallax_):
    code, out, _ = catallax_("run counting --tol 0.1")
    assert code == 1
    assert "does not hold" in out


def test_list_names_studies_and_says_which_cannot_be_loaded(catallax_):
    code, out, _ = catallax_("list")
    assert code == 0
    assert re.search(r"counting +Counts\.", out)
    assert re.search(r"broken +the study 'broken' .* cannot be loaded", out)


def test_show_prints_a_finished_run(catallax_):
    catallax_("run counting --out a")
    code, out, _ = catallax_("show a")
    assert code == 0
    assert "Counting: finished" in out
    assert re.search(r"error +5\.0e-01 +1e\+00 +holds", out)
    assert "a/answer/total.csv" in out
    assert "[red]c[/]" in out, "a user's names are not markup"
    assert "report: a/report.html" in out


def test_a_failed_run_is_kept_shown_and_resumed_to_the_same_end(catallax_, workplace):
    assert catallax_("run counting --out whole")[0] == 0
    (workplace / "whole" / "config.toml").rename(workplace / "conf.toml")
    code, _, err = catallax_("run counting --out cut --fail-at 13")
    assert code == 2
    assert "the count has failed; what was complete is kept in cut" in err
    code, out, _ = catallax_("show cut")
    assert "interrupted after 13 records" in out
    assert "catallax run counting --resume cut" in out
    config = workplace / "cut" / "config.toml"
    config.write_text(config.read_text().replace("fail_at = 13\n", ""))
    code, out, err = catallax_("run counting --resume cut")
    assert (code, err) == (0, "")
    for name in ("history.jsonl", "checkpoint.safetensors", "answer/total.csv", "certificates.json"):
        assert (workplace / "cut" / name).read_bytes() == (workplace / "whole" / name).read_bytes(), name


def test_resume_of_a_complete_run_only_shows_it(catallax_):
    catallax_("run counting --out a")
    code, out, err = catallax_("run counting --resume a")
    assert code == 0
    assert "a is complete; nothing to resume" in err
    assert "Counting: finished" in out


def test_resume_takes_no_other_options(catallax_):
    catallax_("run counting --out a --fail-at 3")
    code, _, err = catallax_("run counting --resume a --rounds 3 --set step=1 --out b")
    assert code == 2
    assert "leave out --rounds, --set, --out" in err


def test_resume_refuses_changed_or_missing_input(catallax_, workplace):
    number = workplace / "number.txt"
    number.write_text("1.5")
    assert catallax_("run counting number.txt --out a --fail-at 8")[0] == 2
    number.write_text("1.6")
    code, _, err = catallax_("run counting --resume a")
    assert code == 2
    assert "number.txt: has changed since a was started" in err
    number.unlink()
    assert "there is no such file" in catallax_("run counting --resume a")[2]


def test_devices_and_cache_are_set_before_jax(workplace, monkeypatch):
    environment = {"HOME": str(workplace), "XLA_FLAGS": "--xla_a=1 --xla_force_host_platform_device_count=2"}
    monkeypatch.setattr(os, "environ", environment)
    cli.prepare_jax(4)
    assert environment["XLA_FLAGS"] == "--xla_a=1 --xla_force_host_platform_device_count=4"
    assert environment["JAX_COMPILATION_CACHE_DIR"] == str(workplace / ".cache" / "catallax" / "jax")
    assert environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "0"
    monkeypatch.setattr(os, "environ", {"XDG_CACHE_HOME": str(workplace / "x")})
    cli.prepare_jax(1)
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(workplace / "x" / "catallax" / "jax")
    assert "XLA_FLAGS" not in os.environ


def test_a_cache_folder_that_cannot_be_written_is_no_error(workplace, monkeypatch):
    (workplace / "file").touch()
    monkeypatch.setattr(os, "environ", {"XDG_CACHE_HOME": str(workplace / "file")})
    cli.prepare_jax(1)
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_names_of_files_and_studies_are_shown_as_given(catallax_, workplace):
    code, _, err = catallax_(["run", "counting", "--config", "a\nb.toml"])
    assert code == 2
    assert err.count("\n") == 1


@pytest.fixture
def installed(workplace):
    """The counting study as a stranger's installed package; returns how to start `python -m catallax`."""
    info = workplace / "site" / "counting-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: counting\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\ncounting = counting_study:study\n")
    paths = [ROOT, info.parent, ROOT / "tests" / "runs"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "HOME": str(workplace)}

    def start(*tokens: str, code: str = "from catallax.cli import main; sys.exit(main(sys.argv[1:]))"):
        line = [sys.executable, "-c", f"import sys; {code}", *tokens]
        return subprocess.Popen(
            line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=workplace
        )

    return start


@pytest.mark.parametrize("tokens", [["--help"], ["run", "--help"], ["run", "counting", "--help"], ["list"]])
def test_help_loads_nothing_heavy(installed, tokens):
    heavy = ["jax", "equinox", "numpy", "scipy", "matplotlib", "pandas", "pyarrow", "safetensors"]
    code = (
        "from catallax.cli import main; main(sys.argv[1:]);"
        f"loaded = [name for name in {heavy} if name in sys.modules];"
        "sys.exit(f'loaded {loaded}' if loaded else 0)"
    )
    process = installed(*tokens, code=code)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert {"--help": "show", "run": "counting", "list": "Counts."}[tokens[0]] in out
    if tokens[1:2] == ["counting"]:
        assert "DATA A file with a number." in re.sub(r"[\s│]+", " ", out)
        assert "None" not in out
        assert "Seed of all randomness. [default: 0]" in out
        assert "How to count. [choices: linear, square] [default: linear]" in re.sub(r"[\s│]+", " ", out)


def test_ctrl_c_finishes_what_is_begun_and_resume_ends_as_if_nothing_had_happened(installed, workplace):
    process = installed(*["run", "counting", "--rounds", "40", "--set", "pause=0.02", "--out", "cut"])
    history = workplace / "cut" / "history.jsonl"
    while process.poll() is None and (not history.exists() or history.read_bytes().count(b"\n") < 3):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Counting: stopped" in out
    assert err == "stopped; continue with: catallax run counting --resume cut\n"
    assert 3 <= history.read_bytes().count(b"\n") < 40
    assert (workplace / "cut" / "report.html").exists()
    resumed = installed("run", "counting", "--resume", "cut", "--quiet")
    assert resumed.communicate(timeout=60) == ("", "")
    assert cli.main(["run", "counting", "--rounds", "40", "--out", "whole", "--quiet"]) == 0
    assert history.read_bytes() == (workplace / "whole" / "history.jsonl").read_bytes()
    assert resumed.returncode == 0


def test_output_into_a_closed_pipe_is_no_error(installed):
    process = installed("list")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(60) == 0


def test_version_and_completion(installed, workplace):
    out, _ = installed("--version").communicate(timeout=60)
    assert out == f"catallax {catallax.__version__}\n"
    process = installed("--install-completion", "--shell", "bash")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    scripts = [path for path in workplace.rglob("*") if path.is_file() and "catallax" in path.name]
    assert any("counting" in path.read_text() for path in scripts)
