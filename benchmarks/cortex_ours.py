"""Our side of sparse coding, and the yardstick: every activity is scored by `certify` in double precision."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from catallax.cortex.certify import scores
from catallax.cortex.problem import SparseCoding, unit_rows

from .cortex_peers import Job, laps
from .measure import peak_bytes

ROOT = Path(__file__).resolve().parent.parent
BATCH = 2048
"""Samples per move of the fields when we learn: larger than the default, for less work between two batches."""
REST = 2e-2
"""How exactly neurons come to rest while they learn: nearer ones teach no more."""


@dataclasses.dataclass(frozen=True)
class Figures:
    """What came of one method.

    Args:
        method: Its name.
        setting: The tolerance, steps or batches that were timed.
        outcome: "ran"; or "did not finish in N s", or the error that ended it.
        samples: On how many samples it was timed.
        seconds: Least wall time, scaled to all samples.
        least_seconds: The same.
        cpu_seconds: Least CPU time of its process, all threads, scaled to all samples: other work on the machine
            disturbs it least.
        first_seconds: Wall time of the first run, not scaled, with loading and compiling.
        repeats: How many runs.
        objective: Mean of ½|x − aD|² + λ|a|₁; for learning, that of the held-out samples at their lasso optimum.
        gap: How much that lies above the best certified lower bound, as a share of it; for learning, above ours.
        certified: The gap that the method's own activity certifies, as a share of the objective.
        active: Mean number of active units.
        reached: Whether the gap is within the target.
        peak_bytes: The most memory that the process held.
        version: Of the peer.
        date: When it was measured, if not in this run.
    """

    method: str
    setting: float
    outcome: str
    samples: int = 0
    seconds: float | None = None
    least_seconds: float | None = None
    cpu_seconds: float | None = None
    first_seconds: float | None = None
    repeats: int = 0
    objective: float | None = None
    gap: float | None = None
    certified: float | None = None
    active: float | None = None
    reached: bool = False
    peak_bytes: int | None = None
    version: str | None = None
    date: str | None = None


def timed(method: str, setting: float, samples: int, everything: int, found: dict[str, Any]) -> Figures:
    """Return what was timed on some samples, scaled to all."""
    scale = everything / samples
    scaled = {key: found[key] * scale for key in ("seconds", "cpu_seconds")}
    kept = {key: found[key] for key in ("first_seconds", "repeats", "version", "peak_bytes") if key in found}
    return Figures(method, setting, "ran", samples, least_seconds=scaled["seconds"], **scaled, **kept)


class Yardstick:
    """The best certified lower bound of every sample's objective, from all activities seen."""

    def __init__(self, stimuli: np.ndarray, fields: np.ndarray, penalty: float) -> None:
        self.stimuli, self.fields, self.penalty = stimuli, unit_rows(fields), penalty
        self.bound = np.zeros(len(stimuli))
        self.seen: list[tuple[np.ndarray, float, float]] = []

    def see(self, activity: Any) -> int:
        """Look at the activity of the first samples; return its number."""
        found = scores(SparseCoding(self.stimuli[: activity.shape[0]], self.fields, self.penalty), activity)
        self.bound[: len(found.gap)] = np.maximum(self.bound[: len(found.gap)], found.objective - found.gap)
        self.seen.append((found.objective, float(found.gap.sum() / found.objective.sum()), float(found.active.mean())))
        return len(self.seen) - 1

    def score(self, figures: Figures, number: int, target: float) -> Figures:
        """Return the figures with what is known by now of the activity with that number."""
        objective, certified, active = self.seen[number]
        gap = float(objective.sum() / self.bound[: len(objective)].sum() - 1)
        return dataclasses.replace(
            figures, objective=float(objective.mean()), gap=gap, certified=certified, active=active,
            reached=gap <= target,
        )  # fmt: skip


def data(samples: int, seed: int) -> np.ndarray:
    """Return whitened patches of the two photographs, of unit norm, float32, (samples, 256)."""
    from catallax.cortex.images import patches, photographs, whiten

    images = [whiten(photograph.pixels) for photograph in photographs()]
    return np.asarray(patches(images, 16, samples, seed=seed)[0], np.float32)


def learned(stimuli: np.ndarray, start: np.ndarray, penalty: float, repeats: int) -> Any:
    """Time one epoch of `learn`; return the fields and the figures."""
    from catallax.cortex.learn import learn

    def run(seen: np.ndarray) -> Any:
        return learn(seen, len(start), penalty, dictionary=start, batch=BATCH, tol=REST)

    run(stimuli[: 2 * len(start)])
    found, figures = laps(lambda: run(stimuli), repeats)
    return found.state.fields, figures | {"peak_bytes": peak_bytes()}


def encoded(law: str, path: str, tol: float, samples: int, repeats: int) -> tuple[csr_array, dict[str, Any]]:
    """Time competition on the data in a file, without certificates, as the peers have none; the first run compiles."""
    with np.load(path) as given:
        stimuli, fields, penalty = given["stimuli"][:samples], given["fields"], float(given["penalty"])
    if law == "kernel":
        from catallax.cortex.kernel import encode

        def run() -> Any:
            return encode(stimuli, fields, penalty, tol=tol)
    else:
        from catallax.cortex.fast import settle_fast

        problem = SparseCoding(stimuli, fields, penalty)

        def run() -> Any:
            return settle_fast(problem, tol=tol, max_rounds=8)[0]

    _, first = laps(run, 1)
    answer, figures = laps(run, repeats)
    figures |= {"first_seconds": first["seconds"], "peak_bytes": peak_bytes()}
    return csr_array(answer), figures


def rung(units: int, samples: int, penalty: float, repeats: int) -> dict[str, Any]:
    """Time the kernel on so many units, whose fields are patches themselves; compiled before."""
    from catallax.cortex.kernel import encode

    drawn = data(samples + units, 7)
    stimuli, fields = drawn[:samples], unit_rows(drawn[samples:])
    encode(stimuli[:100], fields[:256], penalty, tol=2e-2)
    before = peak_bytes()
    answer, figures = laps(lambda: encode(stimuli, fields, penalty, tol=2e-2), repeats)
    certified = scores(SparseCoding(stimuli[:200], fields, penalty), answer[:200])
    return {
        "units": units,
        "samples": samples,
        "seconds": figures["seconds"],
        "cpu_seconds": figures["cpu_seconds"],
        "microseconds": 1e6 * figures["cpu_seconds"] / samples,
        "active": answer.nnz / samples,
        "certified": float(certified.gap.sum() / certified.objective.sum()),
        "peak_bytes": peak_bytes(),
        "bytes_before": before,
    }


def played(job: Job, setting: float, path: Path, interpreter: str, limit: float) -> tuple[Any, dict[str, Any]]:
    """Let a peer do a job with its own interpreter; return its answer, None if there is none, and its figures."""
    with tempfile.TemporaryDirectory() as folder:
        asked, given = Path(folder) / "job.json", Path(folder) / "answer.npz"
        asked.write_text(json.dumps([dataclasses.asdict(job), setting]), encoding="utf-8")
        command = [interpreter, "-m", "benchmarks.cortex_peers", str(asked), str(path), str(given)]
        surroundings = dict(os.environ) | ({"OPENBLAS_NUM_THREADS": str(job.threads)} if job.threads else {})
        try:
            done = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False, env=surroundings
            )
        except subprocess.TimeoutExpired:
            return None, {"outcome": f"did not finish in {limit:g} s"}
        if not given.exists():
            last = (done.stderr.strip().splitlines() or ["no word"])[-1]
            return None, {"outcome": f"exit code {done.returncode}: {last}"[:200]}
        with np.load(given) as answer:
            figures = json.loads(str(answer["figures"]))
            if "outcome" in figures:
                return None, figures
            parts = (answer["data"], answer["indices"], answer["indptr"])
            return csr_array(parts, shape=tuple(answer["shape"])), figures


def peers_python() -> str:
    """Return the interpreter of the peers' installation, beside our own if `dev.py` made one."""
    made = ROOT / ".venv" / "peers-cortex" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    return str(made) if made.exists() else sys.executable
