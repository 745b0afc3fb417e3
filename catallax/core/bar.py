"""A progress bar for long runs, drawn by the host between chunks."""

import math
from collections.abc import Callable

from .run import Progress


def progress_bar(note: str = "") -> Callable[[Progress], None]:
    """Return a `watch` for `run` and `settle` that draws rounds, distance from rest and time left on the terminal.

        run(system, state, 100_000, watch=progress_bar("wealth"))

    Args:
        note: What to write in front of the bar.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = "{task.description}", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[distance]}")
    bar = Bar(*columns, TimeElapsedColumn(), TimeRemainingColumn())
    task = bar.add_task(note, total=None, distance="")

    def watch(progress: Progress) -> None:
        bar.start()
        known = not math.isnan(progress.residual)
        distance = f"distance from rest {progress.residual:.1e} tolerances" if known else ""
        bar.update(task, completed=int(progress.state.round), total=progress.last_round, distance=distance)
        if progress.status is not None or int(progress.state.round) >= progress.last_round:
            bar.stop()

    return watch
