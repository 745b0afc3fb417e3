"""A market for experts against its rivals: `python -m benchmarks experts`.

`experts_routing` routes one large batch by every rule, and compares with the exact optimum; `experts_training` trains
the same language model with every rule. All that is measured here is ours or a rival rebuilt from its paper.
"""

import argparse
from datetime import date
from pathlib import Path
from typing import Any

from . import experts_routing, experts_training, machine, report

RESULTS = Path(__file__).resolve().parent / "results" / "experts.json"
NAMES = ("routing", *experts_training.PARTS)


def main(arguments: list[str]) -> int:
    """Run the parts asked for, print them, write the results; return 0."""
    options = _options(arguments)
    wanted = options.only or NAMES
    out = options.out or (None if options.quick else RESULTS)
    before = report.load(out) if out is not None and options.only else None
    flags = [part for name in options.only or () for part in ("--only", name)] + ["--quick"] * options.quick
    results: dict[str, Any] = {
        "system": "experts",
        "date": date.today().isoformat(),
        "command": " ".join(["python -m benchmarks experts", *flags]),
        "machine": machine.description(),
        "cases": [],
    }
    for name in wanted:
        report.say(name)
        if name == "routing":
            found = experts_routing.measure(experts_routing.QUICK if options.quick else experts_routing.FULL)
        else:
            size = experts_training.QUICK if options.quick else experts_training.FULL
            found = experts_training.measure(size, [name])
        results["cases"].extend(found)
        report.save(results, out, before)
    if out is not None:
        report.say(f"written: {out.name}, {len(results['cases'])} cases")
    return 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks experts", description=__doc__)
    parser.add_argument(
        "--only", action="append", metavar="NAME", choices=NAMES, help=f"this alone: {', '.join(NAMES)}"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes; writes only with --out")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where results go, as JSON")
    return parser.parse_args(arguments)
