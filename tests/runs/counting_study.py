"""A study with next to nothing in it, for the tests of the command line and of run directories."""

import dataclasses
import time
from dataclasses import field
from pathlib import Path
from typing import Literal

from catallax.certificate import Certificate
from catallax.errors import InputError
from catallax.study import Outcome, Section


@dataclasses.dataclass(frozen=True)
class Options:
    data: Path | None = field(default=None, metadata={"help": "A file with a number."})
    rounds: int = field(default=20, metadata={"help": "How many rounds."})
    step: float = field(default=0.5, metadata={"help": "What is added in a round."})
    law: Literal["linear", "square"] = field(default="linear", metadata={"help": "How to count."})
    levels: tuple[float, ...] = field(default=(1.0, 2.0), metadata={"help": "Levels."})
    limit: float | None = field(default=None, metadata={"help": "Where to stop."})
    loud: bool = field(default=False, metadata={"help": "Write the law in the title."})
    pause: float = field(default=0.0, metadata={"help": "Seconds to rest after a round."})
    fail_at: int | None = field(default=None, metadata={"help": "Fail after this round."})
    tol: float = field(default=1.0, metadata={"help": "Tolerance."})

    def __post_init__(self):
        if self.rounds < 0:
            raise InputError(f"rounds is {self.rounds}, but must not be negative")


class Counting:
    name = "counting"
    summary = "Counts."
    positional = "data"
    Options = Options

    def execute(self, options, run):
        import numpy as np

        start = read_number(options.data) if options.data else 0.0
        state = run.restore({"round": np.array(0), "total": np.array(start)})
        while int(state["round"]) < options.rounds and not run.stopped:
            number = int(state["round"]) + 1
            gain = options.step if options.law == "linear" else options.step * number
            state = {"round": np.array(number), "total": state["total"] * 1.1 + gain}
            run.record({"round": number, "total": float(state["total"])})
            run.progress.update(round=number, total=options.rounds)
            if number % 5 == 0:
                run.checkpoint(state)
            if number == options.fail_at:
                raise InputError("the count has failed")
            time.sleep(options.pause)
        run.checkpoint(state)
        run.write_table("total", {"name": ["a,b", "[red]c[/]"], "total": [float(state["total"])] * 2})
        section = Section("Totals", "What was counted.", {"total": [1.5, 2.5]})
        certificate = Certificate("error", 0.5, options.tol, "The count is right.")
        status = "stopped" if run.stopped else "finished"
        return Outcome("Counting", status, [certificate], [f"total {float(state['total'])!r}"], [section])


def read_number(path: Path) -> float:
    text = path.read_text()
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{text.strip()!r} is not a number", file=path, line=1) from None


study = Counting()
