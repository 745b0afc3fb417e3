"""What a run came to, on the terminal."""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..certificate import Certificate, from_json
from .store import CERTIFICATES, HISTORY, REPORT, read_config

ROWS = 10
"""How many rows of each table are shown."""


def show_run(directory: Path) -> None:
    """Print a run directory's status, certificates, the top of its tables, and where the report is.

    Raises:
        InputError: if it is no run directory.
    """
    config, _ = read_config(directory)
    if result := config.get("result"):
        claims = directory / CERTIFICATES
        certificates = from_json(claims.read_text(encoding="utf-8")) if claims.exists() else []
        print_result(result["title"], result["status"], certificates, result["summary"])
    else:
        history = directory / HISTORY
        count = history.read_bytes().count(b"\n") if history.exists() else 0
        print(f"{config['study']}: interrupted after {count:,} records")
        print(f"continue with: catallax run {config['study']} --resume {directory}")
    for path in sorted((directory / "answer").glob("*.csv")):
        _print_csv(path)
    if (directory / REPORT).exists():
        print(f"report: {directory / REPORT}")


def print_result(title: str, status: str, certificates: Sequence[Certificate], summary: Sequence[str]) -> None:
    """Print what a run came to."""
    print(f"{title}: {status}")
    for line in summary:
        print(line)
    if certificates:
        rows = [(one.name, f"{one.value:.1e}", f"{one.tolerance:.0e}", _verdict(one)) for one in certificates]
        print_table(("Certificate", "Value", "Tolerance", "Verdict"), rows, right=(1, 2))


def _verdict(one: Certificate) -> Text:
    return Text("holds", "green") if one.holds else Text("does not hold", "bold red")


def _print_csv(path: Path) -> None:
    with path.open(encoding="utf-8", newline="") as stream:
        rows = csv.reader(stream)
        heads = next(rows, [])
        top = [row for _, row in zip(range(ROWS), rows, strict=False)]
        count = len(top) + sum(1 for _ in rows)
    print(f"\n{path}" + (f" ({len(top)} of {count:,} rows)" if count > len(top) else ""))
    print_table(heads, top)


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str | Text]], right: Sequence[int] = ()) -> None:
    """Print a table; it wraps to the terminal, and not at all in a pipe."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for number, head in enumerate(heads):
        table.add_column(_plain(head), justify="right" if number in right else "left")
    for row in rows:
        table.add_row(*map(_plain, row))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 10_000)
    with console.capture() as text:
        console.print(table)
    # Not printed by rich itself, which ends the process where the reader of a pipe has left.
    print("\n".join(line.rstrip() for line in text.get().splitlines()))


def _plain(text: str | Text) -> Text:
    """Keep rich from reading markup in a user's names."""
    return Text(text) if isinstance(text, str) else text
