"""Games that are ready to play, by name."""

from collections.abc import Callable
from typing import Any

from ...errors import InputError, did_you_mean
from ..problem import AbstractGame
from ..stationary import AbstractStationaryGame
from .cyber import Cybersecurity
from .epidemic import Epidemic
from .grid import congestion, crowd_motion, four_rooms
from .linear_quadratic import LinearQuadratic
from .price_formation import PriceFormation
from .simple import beach_bar, closing_bar, left_right, rock_paper_scissors
from .stationary import stationary_rooms

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

STATIONARY: dict[str, Callable[..., AbstractStationaryGame]] = {"stationary_rooms": stationary_rooms}
"""The same for games without an end."""


def maker_named(name: str) -> Callable[..., AbstractGame | AbstractStationaryGame]:
    """Return what makes a built-in game, of `NAMED` or `STATIONARY`; "-" and "_" are the same.

    Raises:
        InputError: if there is no such game; it names the nearest one.
    """
    known = NAMED | STATIONARY
    make = known.get(name.replace("-", "_"))
    if make is None:
        raise InputError(f"there is no game {name!r}{did_you_mean(name, known)}; games are {', '.join(known)}")
    return make


def game_named(name: str, **options: Any) -> Any:
    """Return a built-in game: an `AbstractGame`, or an `AbstractStationaryGame` if it is one without an end.

    Args:
        name: As for `maker_named`.
        options: What its maker takes; see there.

    Raises:
        InputError: if there is no such game; it names the nearest one.
    """
    return maker_named(name)(**options)
