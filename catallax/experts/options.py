"""The experts study's face: its name and options. Nothing here imports NumPy or JAX."""

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import InputError

if TYPE_CHECKING:
    from ..runs.store import RunContext
    from ..study import Outcome

Name = Literal[
    "market",
    "none",
    "auxiliary",
    "sign",
    "proportional",
    "late",
    "sinkhorn",
    "auction",
    "choice",
    "hash",
    "threshold",
    "causal",
    "vacant",
    "specialist",
    "weighed",
    "dense",
]
"""Who decides which experts serve a token; "dense" has one network of as much work instead of experts."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What `catallax run experts` may be asked.

    Raises:
        InputError: for values out of range, and for options that make no sense together.
    """

    text: tuple[Path, ...] = dataclasses.field(
        default=(),
        metadata={
            "help": "Texts to learn from, one domain each; a folder is one domain of all its text files. Without any, "
            "the plays that come with the package."
        },
    )
    routers: tuple[Name, ...] = dataclasses.field(
        default=("market", "none", "auxiliary"),
        metadata={"help": "How tokens find their experts; each is trained alike, and they are compared."},
    )
    steps: int = dataclasses.field(default=1000, metadata={"help": "Steps of training, for each router."})
    experts: int = dataclasses.field(default=16, metadata={"help": "How many experts a layer has."})
    active: int = dataclasses.field(default=2, metadata={"help": "How many experts serve a token."})
    capacity: float = dataclasses.field(
        default=1.0,
        metadata={"help": "Places of all experts, per place that the tokens need; no expert serves more."},
    )
    objective: Literal["global", "gain", "marginal", "revenue"] = dataclasses.field(
        default="global",
        metadata={"help": "What experts learn for: the loss of the whole, or each what its own tokens gain or pay."},
    )
    shared: int = dataclasses.field(
        default=0, metadata={"help": "How many further experts serve every token, outside the market."}
    )
    layers: int = dataclasses.field(default=2, metadata={"help": "Layers of the network."})
    width: int = dataclasses.field(default=64, metadata={"help": "Numbers that describe a token between layers."})
    heads: int = dataclasses.field(default=4, metadata={"help": "Heads of attention."})
    hidden: int = dataclasses.field(default=64, metadata={"help": "Hidden units of an expert."})
    context: int = dataclasses.field(default=128, metadata={"help": "Bytes that a prediction may look back on."})
    batch: int = dataclasses.field(default=16, metadata={"help": "Sequences of so many bytes in each step."})
    rate: float = dataclasses.field(default=3e-3, metadata={"help": "Largest step of learning (AdamW)."})
    sample: int = dataclasses.field(
        default=400, metadata={"help": "Bytes of text that each model writes at the end; 0 for none."}
    )

    def __post_init__(self) -> None:
        """Check each value, and those that depend on one another."""
        _require_numbers(self)
        if not self.routers or len(set(self.routers)) < len(self.routers):
            raise InputError("--routers names nothing, or something twice; give some of market,none,auxiliary")
        if self.active > self.experts:
            raise InputError(
                f"{self.active} of {self.experts} experts cannot serve a token; give a smaller --active, "
                "or more --experts"
            )
        if self.capacity < 1:
            raise InputError(
                f"--capacity {self.capacity:g} has places for {self.capacity:.0%} of what the tokens need; "
                "give at least 1"
            )
        if self.width % (2 * self.heads):
            raise InputError(
                f"--width {self.width} cannot be split over --heads {self.heads} in pairs of numbers; "
                f"give a multiple of {2 * self.heads}"
            )


def _require_numbers(options: Options) -> None:
    """Check what can be said of each number alone."""
    least = {"steps": 1, "experts": 2, "active": 1, "shared": 0, "layers": 1, "width": 2, "heads": 1, "hidden": 1}
    for name, low in {**least, "context": 2, "batch": 1, "sample": 0}.items():
        if getattr(options, name) < low:
            raise InputError(f"--{name} is {getattr(options, name)}, but must be at least {low}")
    for name in ("capacity", "rate"):
        value = getattr(options, name)
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"--{name} is {value:g}, but must be a number above 0")


class ExpertsStudy:
    """Experts that compete for tokens at market prices."""

    name = "experts"
    summary = "A language model whose experts compete for tokens at market prices, beside other routers"
    positional = "text"
    Options = Options

    def execute(self, options: Options, run: "RunContext") -> "Outcome":
        """Train a model with each router, measure them alike, write tables, pictures and models."""
        from .study import execute

        return execute(options, run)

    def generate(self, directory: Path, prompt: str, *, model: str, count: int, temperature: float, seed: int) -> str:
        """Let a model of a run go on with a text.

        Raises:
            InputError: if the run has no such model, or the numbers are out of range.
        """
        from .study import generate

        return generate(directory, prompt, model=model, count=count, temperature=temperature, seed=seed)


study = ExpertsStudy()
"""What the entry point names."""
