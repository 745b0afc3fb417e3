"""The market study's face: its name and options. Nothing here imports NumPy or JAX."""

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import InputError

if TYPE_CHECKING:
    from ..runs.store import RunContext
    from ..study import Outcome


@dataclasses.dataclass(frozen=True)
class Options:
    """What `catallax run market` may be asked.

    Raises:
        InputError: for values out of range, and for options that make no sense together.
    """

    data: Path | None = dataclasses.field(
        default=None,
        metadata={
            "help": "Valuations: CSV (a line for each buyer, or buyer,good,value), .npy, .npz or "
            ".parquet; without it, the embedded survey of 40 cuisines."
        },
    )
    utility: Literal["linear", "quasilinear", "ces", "cobb-douglas", "leontief"] = dataclasses.field(
        default="linear", metadata={"help": "What the valuations mean."}
    )
    rho: float | None = dataclasses.field(
        default=None, metadata={"help": "For ces: below 1 and not 0; 0.5 gives an elasticity of 2."}
    )
    tol: float = dataclasses.field(default=1e-6, metadata={"help": "What every certificate has to reach."})
    law: Literal["fast", "proportional-response", "tatonnement"] = dataclasses.field(
        default="fast", metadata={"help": "How prices move."}
    )
    budgets: Path | None = dataclasses.field(
        default=None, metadata={"help": "A CSV with the columns buyer and budget; one each without it."}
    )
    supply: Path | None = dataclasses.field(
        default=None, metadata={"help": "A CSV with the columns good and supply; one of each without it."}
    )
    endowments: Path | None = dataclasses.field(
        default=None,
        metadata={"help": "What each buyer brings of each good, a table like the data: an exchange economy."},
    )
    groups: Path | None = dataclasses.field(
        default=None,
        metadata={"help": "A CSV with the columns buyer and group: whose income the report raises by one per cent."},
    )
    behaviour: Literal["competitive", "strategic"] = dataclasses.field(
        default="competitive",
        metadata={"help": "Strategic: buyers see all bids and account for their own effect on prices."},
    )
    replicas: int | None = dataclasses.field(
        default=None,
        metadata={"help": "With strategic: repeat it with 1, 2, 4, ... copies of each buyer, up to so many."},
    )
    max_rounds: int | None = dataclasses.field(
        default=None, metadata={"help": "When to give up; 200 for fast, 100,000 for the other laws."}
    )

    def __post_init__(self):
        _require_numbers(self)
        _require_sense(self)


def _require_numbers(options: Options) -> None:
    """Check what can be said of each number alone."""
    if not 0 < options.tol < 1:
        raise InputError(f"--tol is {options.tol:g}, but must be above 0 and below 1, such as 1e-6")
    if options.max_rounds is not None and options.max_rounds < 1:
        raise InputError(f"--max-rounds is {options.max_rounds}, but must be at least 1")
    if options.replicas is not None and options.replicas < 2:
        raise InputError(f"--replicas is {options.replicas}, but must be at least 2")
    if options.utility != "ces":
        if options.rho is not None:
            raise InputError(
                f"--rho belongs to ces utility, not to {options.utility}; add --utility ces, or leave it out"
            )
        return
    if options.rho is None:
        raise InputError("ces utility needs --rho, a number below 1 that is not 0, such as --rho 0.5")
    if not (math.isfinite(options.rho) and options.rho < 1 and options.rho != 0):
        instead = {1.0: "linear", 0.0: "cobb-douglas", -math.inf: "leontief"}.get(options.rho)
        hint = f"; did you mean --utility {instead}?" if instead else ""
        raise InputError(f"--rho is {options.rho:g}, but must be finite, below 1 and not 0{hint}")


def _require_sense(options: Options) -> None:
    """Check that the options do not contradict one another."""
    strategic = options.behaviour == "strategic"
    if options.replicas is not None and not strategic:
        raise InputError("--replicas compares strategic with price-taking buyers; add --behaviour strategic")
    if strategic and options.utility != "linear":
        raise InputError(
            f"--behaviour strategic is worked out for linear utility, not for {options.utility}; "
            "leave out one of the two"
        )
    tables = ("budgets", "supply", "endowments", "groups")
    for name in tables:
        if getattr(options, name) is not None and options.data is None:
            raise InputError(f"--{name} needs data of your own; give the valuations' file before the options")
    if options.endowments is not None:
        _require_exchange(options)


def _require_exchange(options: Options) -> None:
    for name in ("budgets", "supply"):
        if getattr(options, name) is not None:
            raise InputError(f"--endowments already give budgets and supply; leave out --{name}")
    if options.behaviour == "strategic":
        raise InputError("--behaviour strategic is worked out for markets with budgets; leave out --endowments")
    if options.utility == "quasilinear":
        raise InputError(
            "an exchange economy has no money to keep; leave out --endowments, or choose a utility other "
            "than quasilinear"
        )
    if options.groups is not None:
        raise InputError("--groups raises incomes, which --endowments make depend on prices; leave out one of the two")
    if options.law != "fast":
        raise InputError(f"--law {options.law} is for markets with budgets; leave it out, or --endowments")


class MarketStudy:
    """The competitive market."""

    name = "market"
    summary = "Prices at which every buyer's best bundle and every good's supply agree, from your table"
    positional = "data"
    Options = Options

    def execute(self, options: Options, run: "RunContext") -> "Outcome":
        """Read the market, find its prices, write tables, figures and the comparison asked for."""
        from .study import execute

        return execute(options, run)


study = MarketStudy()
