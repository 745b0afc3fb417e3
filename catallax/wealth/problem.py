"""The question: how many agents, with how much money each."""

import dataclasses

from ..errors import InputError


@dataclasses.dataclass(frozen=True)
class Economy:
    """Agents who all start with the same money.

    Args:
        agents: How many.
        money: How much each.

    Raises:
        InputError: if there is no agent, or no money.
    """

    agents: int = 10_000
    money: float = 100.0

    def __post_init__(self):
        if self.agents < 2:
            raise InputError(f"agents is {self.agents}, but it takes at least 2 to exchange")
        if not 0 < self.money < float("inf"):
            raise InputError(f"money is {self.money}, but must be positive and finite")
