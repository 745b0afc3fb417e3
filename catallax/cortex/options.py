"""The cortex study's face: its name and options. Nothing here imports NumPy or JAX."""

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import InputError

if TYPE_CHECKING:
    from ..runs.store import RunContext
    from ..study import Outcome

Kind = Literal["competition", "topk", "jumprelu", "relu", "matryoshka"]
"""The autoencoders that can be trained on a file of activations."""

ARRAYS = (".npy", ".safetensors")
"""How the names of files of activations end; any other file is taken for an image."""

PENALTY, SIZE, PATCHES, EPOCHS, SEEDS = 0.15, 16, 40_000, 1, 5
"""What images are learnt with if nothing else is asked for."""

ACTIVE, STEPS = 32, 2000
"""What autoencoders are trained with if nothing else is asked for."""

FOR_IMAGES = ("penalty", "size", "patches", "epochs", "seeds", "law", "max_rounds")
FOR_ARRAYS = ("active", "steps", "kinds", "tensor", "labels")
FOR_SHOWS = {"memory": ("units",), "volume": ()}


@dataclasses.dataclass(frozen=True)
class Options:
    """What `catallax run cortex` may be asked.

    Raises:
        InputError: for values out of range, and for options that make no sense together.
    """

    data: tuple[Path, ...] = dataclasses.field(
        default=(),
        metadata={
            "help": "Images (PNG or JPEG), or one file of activations (.npy or .safetensors, samples by inputs); "
            "without any, the two photographs that come with the package."
        },
    )
    units: int | None = dataclasses.field(
        default=None, metadata={"help": "How many neurons; 256 for images, twice the inputs for activations."}
    )
    penalty: float | None = dataclasses.field(
        default=None, metadata={"help": f"For images: λ, what a unit of activity costs; {PENALTY:g} if left out."}
    )
    active: int | None = dataclasses.field(
        default=None,
        metadata={"help": f"For activations: how many units describe a sample; {ACTIVE} if left out."},
    )
    signed: bool = dataclasses.field(
        default=True, metadata={"help": "For images: let activity be negative as well as positive."}
    )
    size: int | None = dataclasses.field(
        default=None, metadata={"help": f"For images: the side of a patch in pixels; {SIZE} if left out."}
    )
    patches: int | None = dataclasses.field(
        default=None, metadata={"help": f"For images: how many patches to learn from; {PATCHES:,} if left out."}
    )
    epochs: int | None = dataclasses.field(
        default=None, metadata={"help": f"For images: how often to go through them; {EPOCHS} if left out."}
    )
    seeds: int | None = dataclasses.field(
        default=None,
        metadata={
            "help": "For images: how many times to compare with neurons that do not compete; "
            f"{SEEDS} if left out, 0 for no comparison."
        },
    )
    steps: int | None = dataclasses.field(
        default=None, metadata={"help": f"For activations: steps of training; {STEPS:,} if left out."}
    )
    kinds: tuple[Kind, ...] | None = dataclasses.field(
        default=None,
        metadata={"help": "For activations: what to train; competition,topk,jumprelu if left out."},
    )
    tensor: str | None = dataclasses.field(
        default=None, metadata={"help": "For a .safetensors file of several tensors: the name of the one to use."}
    )
    law: Literal["fast", "kernel", "competition"] | None = dataclasses.field(
        default=None, metadata={"help": "For images: how neurons come to rest; fast if left out."}
    )
    labels: Path | None = dataclasses.field(
        default=None,
        metadata={"help": "For activations: a text file with the class of each sample, one per line."},
    )
    show: Literal["memory", "volume"] | None = dataclasses.field(
        default=None,
        metadata={
            "help": "Instead of learning: patterns that neurons remember, or a modulator that spreads among them."
        },
    )
    tol: float = dataclasses.field(
        default=1e-5, metadata={"help": "What the certificates have to reach: parts of the objective, and of λ."}
    )
    max_rounds: int | None = dataclasses.field(
        default=None, metadata={"help": "For images: when to give up coming to rest; the law's own number if left out."}
    )

    def __post_init__(self):
        _require_data(self) if self.show is None else _require_show(self, self.show)
        _require_numbers(self)

    @property
    def array(self) -> Path | None:
        """The file of activations, or None if images are learnt from."""
        return self.data[0] if self.data and self.data[0].suffix.lower() in ARRAYS else None


def _require_data(options: Options) -> None:
    """Check that the data are images or one array, and that the options are for them."""
    arrays = [path for path in options.data if path.suffix.lower() in ARRAYS]
    if arrays and len(options.data) > 1:
        raise InputError("a file of activations is taken by itself; leave out the other files", file=arrays[0])
    what, for_others = ("activations", FOR_IMAGES) if arrays else ("images", FOR_ARRAYS)
    for name in for_others:
        if getattr(options, name) is not None:
            instead = {"penalty": "; give --active", "active": "; give --penalty"}.get(name, "; leave it out")
            raise InputError(f"--{name.replace('_', '-')} is not for {what}{instead}")
    if arrays and not options.signed:
        raise InputError("--no-signed is not for activations, whose autoencoders are never signed; leave it out")


def _require_show(options: Options, show: str) -> None:
    """Check that nothing is asked of a show that only learning knows."""
    for field in dataclasses.fields(options):
        if field.name not in ("show", *FOR_SHOWS[show]) and getattr(options, field.name) != field.default:
            name = {"data": "a file", "signed": "--no-signed"}.get(field.name, f"--{field.name.replace('_', '-')}")
            raise InputError(f"{name} is not for --show {show}; leave it out")


def _require_numbers(options: Options) -> None:
    """Check what can be said of each number alone."""
    if not 0 < options.tol < 1:
        raise InputError(f"--tol is {options.tol:g}, but must be above 0 and below 1, such as 1e-5")
    if options.penalty is not None and not (math.isfinite(options.penalty) and options.penalty > 0):
        raise InputError(f"--penalty is {options.penalty:g}, but must be above 0, such as {PENALTY:g}")
    least = {"units": 2, "active": 1, "size": 4, "patches": 100, "epochs": 1, "seeds": 0, "steps": 1, "max_rounds": 1}
    for name, low in least.items():
        value = getattr(options, name)
        if value is not None and value < low:
            raise InputError(f"--{name.replace('_', '-')} is {value}, but must be at least {low}")
    if options.seeds == 1:
        raise InputError("--seeds is 1, but an interval takes at least 2; give 0 for no comparison")
    if options.kinds is not None and len(set(options.kinds)) < max(1, len(options.kinds)):
        raise InputError("--kinds names nothing, or something twice; give some of competition,topk,jumprelu")


class CortexStudy:
    """Neurons that compete for what remains unexplained."""

    name = "cortex"
    summary = "Receptive fields and sparse codes of neurons that compete, from your images or activations"
    positional = "data"
    Options = Options

    def execute(self, options: Options, run: "RunContext") -> "Outcome":
        """Learn from images or activations, or show what neurons do together; write tables and pictures."""
        from .study import execute

        return execute(options, run)


study = CortexStudy()
