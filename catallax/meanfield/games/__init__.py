"""Games that are ready to play, by name."""

from collections.abc import Callable
from typing import Any

from ...errors import InputError, did_you_mean
from ..problem import AbstractGame
from .cyber import Cybersecurity
from .epidemic import Epidemic
from .grid import congestion, crowd_motion, four_rooms
from .linear_quadratic import LinearQuadratic
from .price_formation import PriceFormation
from .simple import beach_bar, closing_bar, left_right, rock_paper_scissors

NAMED: dict[str, Callable[..., AbstractGame]] = {
    "four_rooms": four_rooms,
    "crowd_motion": crowd_motion,
    "congestion": congestion,
    "beach_bar": beach_bar,
    "closing_bar": closing_bar,
    "left_right": left_right,
    "rock_paper_scissors": rock_paper_scissors,
    "sis": Epidemic,
    "cybersecurity": Cybersecurity,
    "linear_quadratic": LinearQuadratic,
    "price_formation": PriceFormation,
}
"""What makes each game; each needs no argument."""


def game_named(name: str, **options: Any) -> AbstractGame:
    """Return a built-in game.

    Args:
        name: One of `NAMED`; "-" and "_" are the same.
        options: What its maker takes; see there.

    Raises:
        InputError: if there is no such game; it names the nearest one.
    """
    make = NAMED.get(name.replace("-", "_"))
    if make is None:
        raise InputError(f"there is no game {name!r}{did_you_mean(name, NAMED)}; games are {', '.join(NAMED)}")
    return make(**options)
