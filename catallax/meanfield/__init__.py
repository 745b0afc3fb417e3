"""Mean-field games: crowds so large that each player answers their density and none can move it.

Importing this package loads neither NumPy nor JAX; the first name that needs them does.
"""

from typing import TYPE_CHECKING

from ..lazy import offer

_HOMES = {
    "AbstractChain": "problem",
    "AbstractGame": "problem",
    "AbstractMoves": "problem",
    "Listed": "problem",
    "table": "problem",
    "CommonNoise": "common_noise",
    "AbstractStationaryGame": "stationary",
    "StationaryEquilibrium": "stationary_solve",
    "iterate_stationary": "stationary_solve",
    "solve_stationary": "stationary_solve",
    "certify_stationary": "stationary_certify",
    "validate": "problem",
    "Dense": "moves",
    "Stencil": "moves",
    "game_named": "games",
    "read_map": "maps",
    "MeanFieldEquilibrium": "solve",
    "iterate": "solve",
    "solve": "solve",
    "certify": "certify",
    "exploitability": "certify",
    "flow": "certify",
    "run_crowd": "crowd",
    "density_error": "crowd",
    "deviation_gain": "crowd",
    "crowd_law": "crowd",
    "estimate_game": "estimate",
    "Banks": "systemic",
    "Grid": "continuous",
    "Effort": "continuous",
    "ContinuousGame": "continuous",
    "ContinuousEquilibrium": "continuous_solve",
    "solve_continuous": "continuous_solve",
    "certify_continuous": "continuous_certify",
}

__all__ = offer(__name__, _HOMES)

if TYPE_CHECKING:
    from .certify import certify as certify
    from .certify import exploitability as exploitability
    from .certify import flow as flow
    from .common_noise import CommonNoise as CommonNoise
    from .continuous import ContinuousGame as ContinuousGame
    from .continuous import Effort as Effort
    from .continuous import Grid as Grid
    from .continuous_certify import certify_continuous as certify_continuous
    from .continuous_solve import ContinuousEquilibrium as ContinuousEquilibrium
    from .continuous_solve import solve_continuous as solve_continuous
    from .crowd import crowd_law as crowd_law
    from .crowd import density_error as density_error
    from .crowd import deviation_gain as deviation_gain
    from .crowd import run_crowd as run_crowd
    from .estimate import estimate_game as estimate_game
    from .games import game_named as game_named
    from .maps import read_map as read_map
    from .moves import Dense as Dense
    from .moves import Stencil as Stencil
    from .problem import AbstractChain as AbstractChain
    from .problem import AbstractGame as AbstractGame
    from .problem import AbstractMoves as AbstractMoves
    from .problem import Listed as Listed
    from .problem import table as table
    from .problem import validate as validate
    from .solve import MeanFieldEquilibrium as MeanFieldEquilibrium
    from .solve import iterate as iterate
    from .solve import solve as solve
    from .stationary import AbstractStationaryGame as AbstractStationaryGame
    from .stationary_certify import certify_stationary as certify_stationary
    from .stationary_solve import StationaryEquilibrium as StationaryEquilibrium
    from .stationary_solve import iterate_stationary as iterate_stationary
    from .stationary_solve import solve_stationary as solve_stationary
    from .systemic import Banks as Banks
