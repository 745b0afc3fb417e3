"""The mean-field study's face: its name and options. Nothing here imports NumPy or JAX."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import InputError

if TYPE_CHECKING:
    from ..runs.store import RunContext
    from ..study import Outcome

DEFAULT = "four-rooms"
"""What is played if nothing is named."""

FILES = (".txt", ".map", ".png", ".py")
"""How the names of maps and of users' games end."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What `catallax run meanfield` may be asked.

    Raises:
        InputError: for values out of range, and for options that make no sense together.
    """

    game: str | None = dataclasses.field(
        default=None,
        metadata={
            "help": f"A game's name ({DEFAULT} if left out), a map (.txt or .png), or a Python file "
            "with a game of your own."
        },
    )
    file: Path | None = dataclasses.field(
        default=None, metadata={"help": "The same map or Python file, given by an option."}
    )
    parameters: tuple[str, ...] = dataclasses.field(
        default=(), metadata={"help": "The game's own parameters: name=value,name=value."}
    )
    horizon: int | None = dataclasses.field(
        default=None, metadata={"help": "How many decisions; the game's own if left out. Without an end, none."}
    )
    law: Literal["fast", "mirror-descent", "fictitious-play", "damped"] = dataclasses.field(
        default="fast", metadata={"help": "How players learn; fictitious play is for games that end."}
    )
    tol: float = dataclasses.field(
        default=1e-6, metadata={"help": "What the exploitability has to reach, as a part of the reward range."}
    )
    max_rounds: int | None = dataclasses.field(
        default=None, metadata={"help": "When to give up; 20,000 rounds if left out."}
    )
    players: int = dataclasses.field(
        default=1000, metadata={"help": "Size of the largest actual crowd that plays the answer; 0 for none."}
    )

    def __post_init__(self):
        if self.game is not None and (Path(self.game).suffix or len(Path(self.game).parts) > 1):
            if self.file is not None:
                raise InputError(f"two files are given, {self.game} and --file {self.file}; leave out one")
            # As a path it is recorded with its checksum, and found again from any folder.
            object.__setattr__(self, "file", Path(self.game))
            object.__setattr__(self, "game", None)
        if self.game is not None and self.file is not None:
            raise InputError(f"both a game, {self.game}, and a file, {self.file}, are given; leave out one")
        if self.file is not None and self.file.suffix.lower() not in FILES:
            raise InputError("is neither a map (.txt, .map, .png) nor a Python file (.py)", file=self.file)
        _require_numbers(self)

    @property
    def named(self) -> str:
        """What is played, in a word."""
        return self.file.name if self.file is not None else self.game or DEFAULT


def _require_numbers(options: Options) -> None:
    if not 0 < options.tol < 1:
        raise InputError(f"--tol is {options.tol:g}, but must be above 0 and below 1, such as 1e-6")
    for name in ("horizon", "max_rounds"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} is {value}, but must be at least 1")
    if options.players < 0 or options.players == 1:
        raise InputError(f"--players is {options.players}, but must be at least 2, or 0 for no actual crowd")
    for text in options.parameters:
        name, equals, value = text.partition("=")
        if not (name.strip().isidentifier() and equals and value.strip()):
            raise InputError(f"--parameters {text}: write --parameters name=value")


class MeanFieldStudy:
    """Games among a crowd."""

    name = "meanfield"
    summary = "What everybody does when each answers the whole crowd: a game's mean-field equilibrium"
    positional = "game"
    Options = Options

    def execute(self, options: Options, run: "RunContext") -> "Outcome":
        """Read the game, find its equilibrium, let an actual crowd play it, write tables and pictures."""
        from .study import execute

        return execute(options, run)


study = MeanFieldStudy()
