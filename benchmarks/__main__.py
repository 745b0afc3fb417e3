"""`python -m benchmarks [SYSTEM] [options]`: measure a system beside its peers; the market by default."""

import importlib
import sys

SYSTEMS = ("cortex", "experts", "market", "meanfield")


def main(arguments: list[str]) -> int:
    """Hand over to a system's module; return its exit code."""
    system, rest = (
        ("market", arguments) if not arguments or arguments[0].startswith("-") else (arguments[0], arguments[1:])
    )
    if system not in SYSTEMS:
        print(
            f"error: there are no benchmarks for {system!r}; there are for: {', '.join(SYSTEMS)}",
            file=sys.stderr,
        )
        return 2
    return importlib.import_module(f"benchmarks.{system}").main(rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
