"""How a run ended."""

import enum


class Status(enum.IntEnum):
    """How a run ended. A failed run is data; `throw=True` turns it into a `RunFailed`."""

    FINISHED = 0
    """All rounds asked for were run."""
    SETTLED = 1
    """The signal rests within the tolerance."""
    OUT_OF_ROUNDS = 2
    """The rounds ran out before the signal came to rest."""
    DIVERGED = 3
    """The signal moved away from rest."""
    NON_FINITE = 4
    """The signal holds a NaN."""
    OVERFLOW = 5
    """A deposit left the range of its fixed point; the last sound state is returned."""
    STOPPED = 6
    """The user stopped the run; everything up to here is kept."""

    @property
    def failed(self) -> bool:
        """Whether the result cannot be used as asked for."""
        return self in (Status.OUT_OF_ROUNDS, Status.DIVERGED, Status.NON_FINITE, Status.OVERFLOW)

    def __str__(self) -> str:
        return self.name.lower().replace("_", " ")


REMEDIES = {
    Status.OUT_OF_ROUNDS: "the rounds ran out before the signal came to rest; allow more, or a looser tolerance",
    Status.DIVERGED: "the signal moved away from rest; take shorter steps",
    Status.NON_FINITE: "the signal became NaN; look for a division by zero or a logarithm of zero in the rules",
    Status.OVERFLOW: "a site's deposits exceed 2**30 units; choose a larger unit=",
}


class RunFailed(RuntimeError):
    """A run that failed, with `throw=True`. The result is kept as `.result`."""

    def __init__(self, status: Status, result: object):
        super().__init__(f"{status}: {REMEDIES[status]}")
        self.status = status
        self.result = result
