"""The question that a router answers: which experts serve which tokens, when every expert has only so many places.

Everything here is NumPy; reading a problem never loads JAX.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Routing:
    """Tokens to be served by k experts each, of those that suit them best, within the experts' capacity.

    Maximise Σ a_ie x_ie over x_ie in {0, 1}, with Σ_e x_ie = k for each token and Σ_i x_ie ≤ c for each expert: a
    transportation problem, whose linear relaxation has the same optimum.

    An array that is float32 or float64 is kept without a copy, through a read-only view; other numbers become float32.

    Args:
        affinity: a, how well each expert suits each token, shape (tokens, experts); finite.
        active: k, how many different experts serve a token.
        capacity: c, places per expert; k·tokens/experts, rounded up, by default.

    Raises:
        InputError: for a number that is not finite, with its token and expert; for more active experts than there are;
            for too few places, with how many are missing.

    Reference:
        Lewis et al. (2021), BASE layers, eq. 3, for k = 1.
    """

    affinity: np.ndarray
    active: int
    capacity: int

    def __init__(self, affinity: Any, active: int, capacity: int | None = None):
        table = _table(affinity)
        tokens, experts = table.shape
        active = _whole(active, "active, the number of experts per token,")
        if active > experts:
            raise InputError(f"a token is to take {active} experts, and there are {experts}; lower active")
        capacity = -(-active * tokens // experts) if capacity is None else _whole(capacity, "capacity")
        missing = active * tokens - experts * min(capacity, tokens)
        if missing > 0:
            raise InputError(
                f"{experts} experts with {capacity} places each are {missing} places short of {tokens} tokens with "
                f"{active} experts each; raise the capacity to {-(-active * tokens // experts)}"
            )
        for name, value in {"affinity": table, "active": active, "capacity": capacity}.items():
            object.__setattr__(self, name, value)

    @property
    def tokens(self) -> int:
        """The number of tokens."""
        return self.affinity.shape[0]

    @property
    def experts(self) -> int:
        """The number of experts."""
        return self.affinity.shape[1]

    def __repr__(self) -> str:
        return f"Routing({self.tokens} tokens, {self.experts} experts, active={self.active}, capacity={self.capacity})"


def _table(affinity: Any) -> np.ndarray:
    """Return a read-only table of finite floats."""
    try:
        table = np.asarray(affinity)
        table = (table if table.dtype in (np.float32, np.float64) else table.astype(np.float32)).view()
    except (TypeError, ValueError) as error:
        raise InputError("the affinities are no table of numbers; give an array (tokens, experts)") from error
    if table.ndim != 2 or 0 in table.shape:
        raise InputError(f"the affinities have the shape {table.shape}; give an array (tokens, experts)")
    if not np.isfinite(table).all():
        token, expert = np.argwhere(~np.isfinite(table))[0]
        raise InputError(f"the affinity of token {token} for expert {expert} is {table[token, expert]}, not finite")
    table.flags.writeable = False
    return table


def _whole(number: Any, name: str) -> int:
    if isinstance(number, bool) or int(number) != number or number < 1:
        raise InputError(f"{name} is {number}; give a whole number of at least 1")
    return int(number)
