"""What a timing was taken on: enough to judge it by, nothing that names whose machine it is."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("catallax", "jax", "jaxlib", "equinox", "numpy", "scipy", "numba", "cvxpy", "clarabel", "ecos", "scs")


def description() -> dict[str, Any]:
    """Return processor, cores, memory, system, versions and present load; no host name, no paths."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "load_before": round(os.getloadavg()[0], 2),
    }


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether timings on the two may be compared in seconds."""
    return all(one.get(key) == other.get(key) for key in ("processor", "cores", "system"))


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        first = info.read_text().split("\n\n")[0].splitlines()
        pairs = (line.split(":", 1) for line in first if ":" in line)
        named = {key.strip(): " ".join(value.split()) for key, value in pairs}
        numbers = [f"{key} {named[key]}" for key in ("cpu family", "model") if key in named]
        return ", ".join([named.get("model name", platform.machine()), *numbers])
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
