"""What a checked claim is: a name, a value, a tolerance, and whether it holds."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Certificate:
    """A claim about an answer that anybody can check.

    Args:
        name: What is measured, in a few words.
        value: The measured amount of error, computed from the problem and the answer alone.
        tolerance: The largest value at which the claim counts as true; finite.
        meaning: One sentence that says what it means for the user if the claim holds.

    Raises:
        ValueError: if the tolerance is not finite.
    """

    name: str
    value: float
    tolerance: float
    meaning: str = ""

    def __post_init__(self):
        if not math.isfinite(self.tolerance):
            raise ValueError(f"the tolerance of {self.name!r} must be finite, not {self.tolerance}")

    @property
    def holds(self) -> bool:
        """Whether the value is finite and within the tolerance."""
        return math.isfinite(self.value) and bool(self.value <= self.tolerance)


def to_json(certificates: Iterable[Certificate]) -> str:
    """Write certificates as a JSON list; a value that is not finite becomes null."""
    entries = [
        {
            "name": one.name,
            "value": float(one.value) if math.isfinite(one.value) else None,
            "tolerance": float(one.tolerance),
            "holds": one.holds,
            "meaning": one.meaning,
        }
        for one in certificates
    ]
    return json.dumps(entries, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(text: str) -> list[Certificate]:
    """Read what `to_json` wrote; null is read as NaN, which never holds."""
    return [
        Certificate(
            entry["name"],
            math.nan if entry["value"] is None else entry["value"],
            entry["tolerance"],
            entry.get("meaning", ""),
        )
        for entry in json.loads(text)
    ]
