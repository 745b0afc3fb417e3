"""What a run shows of itself while it goes on."""

import sys
import time
from typing import Any

SECONDS_BETWEEN_LINES = 10.0
"""How often a line is written where there is no terminal to redraw."""


class Progress:
    """A bar on the terminal; a line now and then in a log file; nothing if quiet.

    Everything goes to the error stream, so that the output stays clean.
    """

    def __init__(self, title: str = "", *, quiet: bool = False):
        self.title = title
        self.quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._spoken = time.monotonic()

    def update(
        self,
        *,
        round: int,
        total: int | None = None,
        certificate: float | None = None,
        note: str = "",
    ) -> None:
        """Show how far the run has come.

        Args:
            round: Rounds done.
            total: Rounds at which the run ends at the latest, if known.
            certificate: The current value of what is being driven to zero.
            note: Anything else, in a few words.
        """
        if self.quiet:
            return
        parts = [f"round {round:,}" + (f" of {total:,}" if total else "")]
        parts += [] if certificate is None else [f"certificate {certificate:.1e}"]
        text = " · ".join([*parts, note] if note else parts)
        if sys.stderr.isatty():
            self._draw(round, total, text)
        elif time.monotonic() - self._spoken >= SECONDS_BETWEEN_LINES:
            self._spoken = time.monotonic()
            print(f"{self.title}: {text}", file=sys.stderr, flush=True)

    def _draw(self, round: int, total: int | None, text: str) -> None:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        if self._bar is None:
            columns = (
                TextColumn(escape(self.title)),
                BarColumn(),
                TextColumn("{task.description}", markup=False),
            )
            self._bar = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(text, total=total)
        self._bar.update(self._task, description=text, completed=round, total=total)

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
