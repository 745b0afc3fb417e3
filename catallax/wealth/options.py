"""The wealth study's face: its name and options. Nothing here imports JAX."""

import dataclasses
from typing import TYPE_CHECKING

from .problem import Economy

if TYPE_CHECKING:
    from ..runs.store import RunContext
    from ..study import Outcome


@dataclasses.dataclass(frozen=True)
class Options:
    """What `catallax run wealth` may be asked."""

    agents: int = dataclasses.field(default=10_000, metadata={"help": "how many agents"})
    rounds: int = dataclasses.field(default=500, metadata={"help": "how many rounds"})
    money: float = dataclasses.field(default=100.0, metadata={"help": "what everyone starts with"})

    def __post_init__(self):
        Economy(self.agents, self.money)
        if self.rounds < 1:
            raise ValueError(f"rounds is {self.rounds}, but must be at least 1")


class WealthStudy:
    """The Boltzmann wealth model."""

    name = "wealth"
    summary = "Random exchange of money, and the inequality that comes of it (the Boltzmann wealth model)"
    positional = None
    Options = Options

    def execute(self, options: Options, run: "RunContext") -> "Outcome":
        """Run the exchange; write tables and figures."""
        from .study import execute

        return execute(options, run)


study = WealthStudy()
