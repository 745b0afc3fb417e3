"""The documentation is held to the code: blocks run, names are described, examples work."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import catallax.cortex
import catallax.experts
import catallax.market
import catallax.meanfield
import catallax.testing
from catallax.study import load_study

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: Path) -> list[str]:
    """Return a page's Python blocks, each padded so that a traceback gives the line of the page."""
    text = page.read_text(encoding="utf-8")
    return ["\n" * (text.count("\n", 0, found.start()) + 1) + found[1] for found in BLOCK.finditer(text)]


def prose() -> str:
    """Return all pages in one."""
    return "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


def child(*command: object, cwd: Path) -> subprocess.CompletedProcess:
    """Run a program as a user would, in a folder of its own and with one device."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment["COLUMNS"] = "200"  # so that help is not wrapped within a word
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda page: page.name)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "__main__"}
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), names)


def test_the_readme_shows_how_to_write_a_system():
    shown = [block for block in blocks(ROOT / "README.md") if "def respond" in block and "def propagate" in block]
    assert shown, "the README needs one example of a system"


PACKAGES = (catallax, catallax.cortex, catallax.experts, catallax.market, catallax.meanfield, catallax.testing)


@pytest.mark.parametrize("name", sorted({name for package in PACKAGES for name in package.__all__}))
def test_every_public_name_is_documented(name):
    shown_whole = name in catallax.testing.__all__ and "::: catallax.testing\n" in prose()
    assert shown_whole or re.search(rf"(`|::: catallax\.(\w+\.)*){re.escape(name)}\b", prose()), (
        f"no page mentions {name}"
    )


ASKED = {"experts": ("--steps", "--routers")}
"""Options by which a page is known to have been read, of studies that do not go on until a tolerance is reached."""


@pytest.mark.parametrize("study", ["cortex", "experts", "market", "meanfield"])
def test_every_option_is_documented(study, tmp_path):
    shown = child(sys.executable, "-m", "catallax", "run", study, "--help", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", shown.stdout))
    assert {"--resume", *ASKED.get(study, ("--tol", "--max-rounds"))} <= options
    face = load_study(study)
    (positional,) = (field for field in dataclasses.fields(face.Options) if field.name == face.positional)
    assert positional.metadata["help"].split()[-1] in shown.stdout, "what the study takes has lost its help"
    options -= {f"--no-{option.removeprefix('--')}" for option in options}
    page = (ROOT / "docs" / f"{study}.md").read_text(encoding="utf-8")
    assert not sorted(option for option in options if not re.search(rf"{option}(?![\w-])", page))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_examples_run(example, tmp_path):
    ended = child(sys.executable, example, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip(), "an example shows something"


def test_every_example_is_in_the_documentation():
    text = prose()
    assert not [example.name for example in EXAMPLES if example.name not in text]


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page.name != "README.md"]
    assert not [page for page in pages if page not in navigation]
