"""Many agents, one signal: decentralised systems as one engine.

Importing this package is quick; JAX is loaded with the first name that needs it.
"""

from typing import TYPE_CHECKING

from .lazy import offer

__version__ = "0.1.0"

_HOMES = {
    "AbstractSystem": "core.system",
    "Populations": "core.system",
    "Sequence": "core.system",
    "State": "core.system",
    "AbstractMessage": "core.message",
    "Sum": "core.message",
    "Outer": "core.message",
    "Deposit": "core.message",
    "Best": "core.message",
    "Progress": "core.run",
    "progress_bar": "core.bar",
    "Run": "core.run",
    "run": "core.run",
    "Anderson": "core.settle",
    "Settled": "core.settle",
    "settle": "core.settle",
    "mesh": "core.mesh",
    "Status": "core.result",
    "RunFailed": "core.result",
    "Certificate": "certificate",
    "InputError": "errors",
    "MissingExtra": "errors",
}

__all__ = offer(__name__, _HOMES)

if TYPE_CHECKING:
    from .certificate import Certificate as Certificate
    from .core.bar import progress_bar as progress_bar
    from .core.mesh import mesh as mesh
    from .core.message import AbstractMessage as AbstractMessage
    from .core.message import Best as Best
    from .core.message import Deposit as Deposit
    from .core.message import Outer as Outer
    from .core.message import Sum as Sum
    from .core.result import RunFailed as RunFailed
    from .core.result import Status as Status
    from .core.run import Progress as Progress
    from .core.run import Run as Run
    from .core.run import run as run
    from .core.settle import Anderson as Anderson
    from .core.settle import Settled as Settled
    from .core.settle import settle as settle
    from .core.system import AbstractSystem as AbstractSystem
    from .core.system import Populations as Populations
    from .core.system import Sequence as Sequence
    from .core.system import State as State
    from .errors import InputError as InputError
    from .errors import MissingExtra as MissingExtra
