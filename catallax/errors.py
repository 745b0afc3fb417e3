"""What went wrong with something that a user gave, said in one line."""

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice
from os import PathLike, fspath

_EXTRAS = {
    "parquet": ("reading Parquet", "pyarrow"),
    "peers": ("comparing with other solvers", "CVXPY with its solvers"),
    "flax": ("this", "Flax"),
    "sklearn": ("this", "scikit-learn"),
    "gpu": ("computing on a GPU", "JAX with CUDA"),
}


class InputError(ValueError):
    """What a user's input got wrong, and where.

    `str(error)` is a single line, `FILE:LINE:COLUMN: what happened; what to do`, with the known places.

    Args:
        message: What happened, to which buyer or good, and the remedy; no full stop at the end.
        file: The file as the user wrote it, or None for values that came from Python.
        line: Line of the file, or row of an array, from 1.
        column: Field of the line from 1, not the character; for a wrong encoding, the byte from 1.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str | PathLike[str] | None = None,
        line: int | None = None,
        column: int | None = None,
    ):
        super().__init__(message)
        self.message = message
        self.file = None if file is None else fspath(file)
        self.line = line
        self.column = column

    def __str__(self) -> str:
        places = [place for place in (self.file, self.line, self.column) if place is not None]
        head = "".join(f"{place}:" for place in places)
        return " ".join(f"{head} {self.message}".split())


class MissingExtra(ImportError):
    """An optional part is not installed; the message says how to install it.

    Args:
        extra: Name of the extra in this package's metadata, such as "parquet".
    """

    def __init__(self, extra: str):
        purpose, package = _EXTRAS.get(extra, ("this", f"the extra {extra!r}"))
        super().__init__(f"{purpose} needs {package}: pip install 'catallax[{extra}]'")
        self.extra = extra

    def __reduce__(self):
        return type(self), (self.extra,)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'utility'?" for the nearest known name, or "" when none is near.

    Case is ignored. Only the first 10,000 names are compared, so that a long list stays quick.
    """
    spelt: dict[str, str] = {}
    for name in islice(known, 10_000):
        spelt.setdefault(name.casefold(), name)
    near = get_close_matches(word.casefold(), spelt, n=1, cutoff=0.6)
    return f"; did you mean {spelt[near[0]]!r}?" if near else ""
