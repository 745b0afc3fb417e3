"""Markets: who gets what, and at which prices.

Importing this package loads neither NumPy nor JAX; the first name that needs them does.
"""

from typing import TYPE_CHECKING

from ..lazy import offer

_HOMES = {
    "CES": "problem",
    "COBB_DOUGLAS": "problem",
    "LEONTIEF": "problem",
    "LINEAR": "problem",
    "QUASILINEAR": "problem",
    "Exchange": "problem",
    "Market": "problem",
    "Utility": "problem",
    "utility_named": "problem",
    "default_groups": "tables",
    "default_market": "tables",
    "read_market": "tables",
    "certify": "certify",
    "regrets": "certify",
    "Equilibrium": "solve",
    "solve": "solve",
    "solve_exchange": "exchange",
    "price_sensitivities": "sensitivity",
    "solve_strategic": "strategic",
    "compare": "strategic",
    "replica_law": "strategic",
}

__all__ = offer(__name__, _HOMES)

if TYPE_CHECKING:
    from .certify import certify as certify
    from .certify import regrets as regrets
    from .exchange import solve_exchange as solve_exchange
    from .problem import CES as CES
    from .problem import COBB_DOUGLAS as COBB_DOUGLAS
    from .problem import LEONTIEF as LEONTIEF
    from .problem import LINEAR as LINEAR
    from .problem import QUASILINEAR as QUASILINEAR
    from .problem import Exchange as Exchange
    from .problem import Market as Market
    from .problem import Utility as Utility
    from .problem import utility_named as utility_named
    from .sensitivity import price_sensitivities as price_sensitivities
    from .solve import Equilibrium as Equilibrium
    from .solve import solve as solve
    from .strategic import compare as compare
    from .strategic import replica_law as replica_law
    from .strategic import solve_strategic as solve_strategic
    from .tables import default_groups as default_groups
    from .tables import default_market as default_market
    from .tables import read_market as read_market
