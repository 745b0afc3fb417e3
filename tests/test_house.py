"""What the repository promises about itself: sizes, cards, names, contracts, and what must not be in it."""

import ast
import importlib
import importlib.util
import inspect
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import catallax

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "catallax").rglob("*.py"))
FILE_LINES, FUNCTION_LINES, CORE_LINES = 500, 80, 900
PUBLIC = (
    "catallax",
    "catallax.testing",
    "catallax.market",
    "catallax.meanfield",
    "catallax.cortex",
    "catallax.experts",
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

MACHINE_PATH = re.compile(r"(?<![\w.:/~$}-])/(?:home|Users|root|work|tmp|mnt|opt|var|private)/\w|[A-Z]:\\Users")
REGISTRY = re.compile(
    r"pypi\.org|pythonhosted\.|://\S*/simple\b|--(?:extra-)?index-url|--find-links|file:///|--trusted-host"
)
LOCK_FILE = re.compile(r"(?:^|/)(?:.*\.lock|pylock.*\.toml|package-lock\.json|yarn\.lock|pnpm-lock\.yaml)$")


def load(path: str) -> ModuleType:
    """Import a script of the repository that belongs to no package."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cards = load("tools/cards.py")


def tracked() -> list[Path]:
    """List the repository's files: what git tracks, and what it would track."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git repository")
    paths = [ROOT / name for name in listed.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


def code_lines(source: str) -> int:
    """Count the lines that hold code: neither blank, nor comment, nor docstring."""
    idle = (
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    )
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in idle:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def test_code_lines_are_counted_as_promised():
    assert (
        code_lines('"""Doc."""\n\n# why\nx = 1\n"""What x is."""\ndef f():\n    """Doc."""\n    return (\n  1)\n') == 4
    )


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= FILE_LINES, "split the file by what its parts are for"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= FUNCTION_LINES, f"{node.name} has {length} lines; let it do one thing"


def test_the_core_stays_small():
    sizes = {path.name: code_lines(path.read_text(encoding="utf-8")) for path in SOURCES if path.parent.name == "core"}
    assert sum(sizes.values()) < CORE_LINES, sizes


@pytest.mark.parametrize("system", cards.systems())
def test_every_system_opens_with_its_card(system):
    lines = cards.card(cards.systems()[system].read_text(encoding="utf-8"))
    assert all(lines.values()), "a line of the card is empty"


@pytest.mark.parametrize(
    "broken",
    [
        "x = 1",
        '"""One sentence."""',
        '"""One sentence.\n\nAgents: buyers\nSignal: prices\n"""',
        '"""One sentence.\n\n' + "\n".join(f"{line}: x" for line in reversed(cards.LINES)) + '\n"""',
    ],
)
def test_a_missing_or_incomplete_card_is_refused(broken):
    with pytest.raises(ValueError, match="the card's lines are"):
        cards.card(broken)


def test_the_readme_lists_the_systems_as_their_cards_do():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert cards.renewed(readme) == readme, "run: python3 dev.py cards"


@pytest.mark.parametrize("system", cards.systems())
def test_the_import_contracts_know_every_system(system):
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    name = f"catallax.{system}"
    assert any(name in contract.get("modules", ()) for contract in contracts), f"no contract keeps {name} apart"
    kept_out = [contract for contract in contracts if name in contract.get("forbidden_modules", ())]
    kept_in = [contract for contract in contracts if name in contract.get("source_modules", ())]
    assert kept_out and kept_in, f"add {name} to the import contracts in pyproject.toml"


def public_objects():
    """Walk all public names, and the public members of public classes."""
    for module_name in PUBLIC:
        module = importlib.import_module(module_name)
        for name in module.__all__:
            thing = getattr(module, name)
            if not (inspect.isclass(thing) or callable(thing) or inspect.ismodule(thing)):
                continue  # a constant: its docstring stands below it, and the documentation test asks for it
            yield f"{module_name}.{name}", thing
            if inspect.isclass(thing):
                for member, value in vars(thing).items():
                    public = not member.startswith("_")
                    if public and (inspect.isfunction(value) or isinstance(value, property | classmethod)):
                        yield f"{module_name}.{name}.{member}", getattr(thing, member)


def test_everything_public_has_a_docstring():
    assert catallax.__doc__
    lacking = []
    for name, thing in public_objects():
        doc = inspect.getdoc(thing) or ""
        made_by_dataclass = inspect.isclass(thing) and doc.startswith(f"{thing.__name__}(")
        if made_by_dataclass or len(doc.split()) < 3:
            lacking.append(name)
    assert not lacking


def test_what_is_exported_is_what_is_listed():
    for module_name in PUBLIC:
        module = importlib.import_module(module_name)
        assert len(set(module.__all__)) == len(module.__all__)
        assert all(hasattr(module, name) for name in module.__all__)
        assert not [name for name in module.__all__ if name.startswith("_")]


@pytest.mark.parametrize(
    "module",
    [
        "catallax",
        "catallax.cli",
        "catallax.study",
        "catallax.market.options",
        "catallax.meanfield.options",
        "catallax.cortex.options",
        "catallax.experts.options",
    ],
)
def test_what_help_needs_is_imported_without_heavy_modules(module):
    heavy = ("jax", "equinox", "matplotlib", "pyarrow", "scipy", "pandas")
    script = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert ended.stdout.strip() == "[]", ended.stdout + ended.stderr


def test_one_version():
    version = PROJECT["project"]["version"]
    assert catallax.__version__ == version
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(rf"^version: {re.escape(version)}$", citation, re.MULTILINE)
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(version)}\]", changelog, re.MULTILINE)


def test_constraints_are_bare_pins_and_cover_what_we_ask_for():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [re.fullmatch(r"([A-Za-z0-9][\w.-]*)==[\w.!+]+", line) for line in lines]
    assert all(pins), [line for line, pin in zip(lines, pins, strict=True) if not pin]
    pinned = {normal(pin[1]) for pin in pins if pin}
    project = PROJECT["project"]
    asked = list(project["dependencies"]) + PROJECT["build-system"]["requires"]
    for extra, requirements in project["optional-dependencies"].items():
        if extra.startswith("peers-"):  # an environment of its own, with its own pins
            assert all(re.fullmatch(r"[\w-]+==[\d.]+", requirement) for requirement in requirements)
        elif extra != "gpu":  # the driver's version decides
            asked += requirements
    names = {normal(re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0]) for requirement in asked}
    assert names - {"catallax"} <= pinned


def normal(name: str) -> str:
    """Spell a distribution's name in the one way that all spellings share."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_no_machine_is_named_and_no_lock_file_kept():
    offences = []
    for path in tracked():
        name = path.relative_to(ROOT).as_posix()
        if LOCK_FILE.search(name):
            offences.append(f"{name}: a lock file")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if path == Path(__file__):
            continue
        for pattern in (MACHINE_PATH, REGISTRY):
            offences += [f"{name}: {found[0]}" for found in pattern.finditer(text)]
    assert not offences


@pytest.mark.parametrize(
    "text",
    [
        "see /home/ada/x",
        '"/tmp/run"',
        "(/work/main)",
        "pip --index-url x",
        "https://host/simple/x",
        "C:\\Users\\a",
    ],
)
def test_machine_paths_and_registries_are_recognised(text):
    assert MACHINE_PATH.search(text) or REGISTRY.search(text)


@pytest.mark.parametrize("text", ["src/tmp/x", "https://example.org/home/x", "../work/data", "a simple/b", "./tmp/x"])
def test_other_paths_are_not(text):
    assert not MACHINE_PATH.search(text) and not REGISTRY.search(text)
