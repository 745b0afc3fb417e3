"""Markets: who gets what, and at which prices.

Importing this package loads neither NumPy nor JAX; the first name that needs them does.
"""

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

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

__all__ = sorted(_HOMES)

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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


class _Package(types.ModuleType):
    """A package whose functions are not displaced by the modules of the same name that hold them.

    Whoever imports the module `market.solve` has it put here as `solve`, where users look for the function.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
