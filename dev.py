#!/usr/bin/env python3
"""Everything a developer needs, with nothing but Python 3.11 and pip.

    python3 dev.py demo              the market on the embedded survey: prices, certificates, a report
    python3 dev.py test [ARGS]       every check and test; with ARGS, only pytest with these arguments
    python3 dev.py run ...           passes on to `catallax run ...` (and `list` and `show DIR` to theirs)
    python3 dev.py bench [SYSTEM]    the benchmarks, side by side with their peers: market, meanfield, cortex or experts
    python3 dev.py docs [serve]      builds the documentation into site/, or serves it while you write
    python3 dev.py cards             writes the README's table of systems anew, from the cards

The first call makes .venv and installs what the command needs; later calls find it ready.
"""

import difflib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 - an older Python must be told, not shown a traceback
    sys.exit(f"dev.py: Catallax needs Python 3.11 or newer; this is {sys.version.split()[0]}")

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PROGRAMS = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = PROGRAMS / ("python.exe" if os.name == "nt" else "python")
STAMP = VENV / "catallax.json"
CORE = ["tests/core", "tests/test_transforms.py"]  # compiled as users compile
WORKERS = 2  # pytest's processes; compiling dominates and is single-threaded


def main(words: list[str]) -> None:
    """Run one command."""
    commands = {"demo": demo, "test": test, "run": run, "bench": bench, "docs": docs, "cards": cards}
    if not words or words[0] in ("-h", "--help", "help"):
        print(__doc__.strip())
        return
    if words[0] not in commands:
        near = difflib.get_close_matches(words[0], commands, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(commands)}"
        stop(f"no command {words[0]!r}{hint}", 2)
    # The program we start hears Ctrl-C as well, and may have work to save: wait for it.
    signal.signal(signal.SIGINT, lambda *_: None)
    commands[words[0]](words[1:])


def demo(words: list[str]) -> None:
    """Run the main job."""
    set_up()
    hand_over(PROGRAMS / "catallax", "run", "market", *words)


def run(words: list[str]) -> None:
    """Pass on to the command line of the package."""
    set_up("parquet")
    if words[:1] not in (["run"], ["list"], ["show"]):
        words = ["run", *words]
    hand_over(PROGRAMS / "catallax", *words)


def bench(words: list[str]) -> None:
    """Run the benchmarks."""
    set_up("parquet", "peers")
    if words[:1] in (["cortex"], ["meanfield"]):
        set_up_apart(f"peers-{words[0]}")
    hand_over(PYTHON, "-m", "benchmarks", *words, cwd=ROOT)


def docs(words: list[str]) -> None:
    """Build the documentation, or serve it."""
    set_up("docs")
    if words[:1] == ["serve"]:
        hand_over(PYTHON, "-m", "mkdocs", *words, cwd=ROOT)
    step("building the documentation", PYTHON, "-m", "mkdocs", "build", "--strict", "--quiet", env=private())
    print(f"wrote {ROOT / 'site' / 'index.html'}")


def cards(words: list[str]) -> None:
    """Write the README's table of systems anew."""
    hand_over(sys.executable, ROOT / "tools" / "cards.py", *words)


def test(words: list[str]) -> None:
    """Run every check, then every test; the first failure gives the exit code."""
    set_up("test", "docs")
    pytest = [PYTHON, "-m", "pytest"]
    if words:
        hand_over(*pytest, *words, cwd=ROOT)
    quick = [*pytest, "-n", str(WORKERS), "--dist", "loadfile", "-m", "not bench"]
    # Each of these takes one core for long: they go on beside the tests.
    alone = {
        "types": [PYTHON, "-m", "pyright", "--pythonpath", PYTHON],
        "docs": [PYTHON, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", VENV / "site"],
        "loops": [PYTHON, ROOT / "tools" / "loops.py"],
    }
    checks = {
        "lint": [PYTHON, "-m", "ruff", "check", "--quiet", "."],
        "format": [PYTHON, "-m", "ruff", "format", "--check", "."],
        "imports": [PROGRAMS / "lint-imports", "--no-cache"],
        "tests of the core": [*quick, *CORE],
        "tests": [*quick, *(word for path in CORE for word in ("--ignore", path))],
    }
    # Small problems are compiled much longer than they run: the systems do without LLVM's optimisations, in one piece.
    flags = (
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_parallel_codegen_split_count=1",
    )
    plain = {"XLA_FLAGS": " ".join((os.environ.get("XLA_FLAGS", ""), *flags)).strip()}
    codes = {}
    with ThreadPoolExecutor() as beside, tempfile.TemporaryDirectory() as kept:
        # What one process compiled no other one compiles again.
        plain |= {"JAX_COMPILATION_CACHE_DIR": kept, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1"}
        for name, command in alone.items():
            print(f"· {name}, beside the others", flush=True)
            codes[name] = beside.submit(call, *command, quiet=True, cwd=ROOT, env=private())
        for name, command in checks.items():
            print(f"· {name}", flush=True)
            codes[name] = call(*command, cwd=ROOT, env={**private(), **(plain if name == "tests" else {})})
    codes |= {name: codes[name].result() for name in alone}
    failed = {name: code for name, code in codes.items() if code}
    if failed:
        stop("failed: " + ", ".join(failed), next(iter(failed.values())))
    print("all checks and tests passed")


def set_up(*extras: str) -> None:
    """Make .venv ready with these extras, unless it is already."""
    settings = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
    home = [str(ROOT), "{}.{}".format(*sys.version_info)]
    pins = hashlib.sha256(b"\0".join(settings)).hexdigest()
    have = read_stamp()
    if have.get("home") != home or not works():
        have = {}
    if have.get("pins") == pins and set(extras) <= set(have["extras"]):
        return
    extras = tuple(sorted({*extras, *have.get("extras", ())}))
    # Until the stamp is back, whatever an interruption leaves behind counts as half made.
    STAMP.unlink(missing_ok=True)
    if not have:
        make_venv()
    target = ".[{}]".format(",".join(extras)) if extras else "."
    # Named relative to the root, because pip splits the variable at spaces; it also pins the build backend.
    pinned = {"PIP_CONSTRAINT": "constraints.txt", "PIP_BUILD_CONSTRAINT": "constraints.txt"}
    pip = [PYTHON, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    words = f"installing {target} into .venv (the first time takes a minute or two)"
    step(words, *pip, "-c", "constraints.txt", "-e", target, env={**os.environ, **pinned}, quiet=True)
    STAMP.write_text(json.dumps({"home": home, "pins": pins, "extras": extras}), encoding="utf-8")


def set_up_apart(extra: str) -> None:
    """Give peers whose requirements contradict ours an environment of their own, without this package."""
    import tomllib  # not before the version is checked: it is new in Python 3.11

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = settings["project"]["optional-dependencies"][extra]
    home, stamp = VENV / extra, VENV / extra / "installed.json"
    if stamp.exists() and json.loads(stamp.read_text(encoding="utf-8")) == wanted:
        return
    shutil.rmtree(home, ignore_errors=True)
    step(f"making {home.relative_to(ROOT)}", PYTHON, "-m", "venv", home, quiet=True)
    python = home / PROGRAMS.name / PYTHON.name
    words = f"installing {', '.join(wanted)} there (a few minutes)"
    step(words, python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *wanted, quiet=True)
    stamp.write_text(json.dumps(wanted), encoding="utf-8")


def read_stamp() -> dict:
    """Return what the last complete set-up left; nothing if there was none."""
    try:
        return json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def works() -> bool:
    """Say whether .venv starts and finds the package; isolated, so that the current folder does not count."""
    try:
        found = subprocess.run([PYTHON, "-I", "-c", "import catallax"], capture_output=True)
    except OSError:
        return False
    return found.returncode == 0


def make_venv() -> None:
    """Make .venv from nothing."""
    if VENV.is_symlink() or VENV.is_file():
        VENV.unlink()
    elif VENV.exists():
        shutil.rmtree(VENV)
    # The interpreter underneath: the one running may be the .venv that was just removed.
    base = getattr(sys, "_base_executable", None) or sys.executable
    hint = "; on Debian or Ubuntu, is python3-venv installed?" if sys.platform == "linux" else ""
    step("making .venv", base, "-m", "venv", VENV, quiet=True, hint=hint)


def private() -> dict:
    """Return an environment in which tools keep their caches in .venv instead of the home directory."""
    cache = VENV / "cache"
    caches = {"XDG_CACHE_HOME": str(cache), "MPLCONFIGDIR": str(cache / "matplotlib")}
    return {**os.environ, **caches, "NO_MKDOCS_2_WARNING": "1"}


def call(*command: object, quiet: bool = False, cwd: Path | None = None, env: dict | None = None) -> int:
    """Run a program and return its exit code as a shell would; a quiet one is heard only if it fails."""
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} if quiet else {}
    try:
        ended = subprocess.run([str(word) for word in command], cwd=cwd, env=env, **output)
    except OSError as error:
        print(f"dev.py: {error}", file=sys.stderr)
        return 127
    if quiet and ended.returncode:
        sys.stderr.write(ended.stdout.decode(errors="replace"))
    return 128 - ended.returncode if ended.returncode < 0 else ended.returncode


def step(words: str, *command: object, hint: str = "", **options: object) -> None:
    """Run one step from the root; if it fails, stop with one clear line."""
    print(f"· {words}", file=sys.stderr, flush=True)
    code = call(*command, cwd=ROOT, **options)
    if code:
        stop(f"{words.split(' (')[0]} failed with exit code {code}{hint}", code)


def hand_over(*command: object, cwd: Path | None = None) -> None:
    """End as the program ends."""
    sys.exit(call(*command, cwd=cwd))


def stop(words: str, code: int) -> None:
    """End with one line."""
    print(f"dev.py: {words}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
