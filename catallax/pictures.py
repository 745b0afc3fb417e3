"""How our pictures look: one style for every system's figures, for light and dark pages."""

import contextlib
from collections.abc import Iterator
from typing import Any

TEXT, QUIET, MAIN, SECOND = "#666c73", "#9aa0a6", "#3a7ca5", "#c8553d"
"""The colours of words, of axes, and of the first and the second thing shown."""


@contextlib.contextmanager
def drawing() -> Iterator[Any]:
    """Yield the class of Matplotlib's figures, with our style in force."""
    import matplotlib
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "font.size": 10,
        "text.color": TEXT,
        "axes.labelcolor": TEXT,
        "axes.titlecolor": TEXT,
        "axes.titlesize": 10,
        "axes.edgecolor": QUIET,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.7,
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
        "xtick.color": QUIET,
        "xtick.labelcolor": TEXT,
        "ytick.color": QUIET,
        "ytick.labelcolor": TEXT,
        "grid.color": QUIET,
        "grid.alpha": 0.35,
        "grid.linewidth": 0.5,
        "legend.frameon": False,
    }
    with matplotlib.rc_context(settings):
        yield Figure
