"""The peers' side of sparse coding: `python -m benchmarks.cortex_peers JOB.json DATA.npz ANSWER.npz`.

It runs in the peers' own installation and imports nothing of Catallax. A job says which method, at which setting, on
how many of the samples; the answer is an activity (samples, units) or a dictionary (units, inputs), and timings.
Every method has two cores, and is timed by what its process takes of them.
"""

import contextlib
import dataclasses
import importlib.metadata
import io
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse


@dataclasses.dataclass(frozen=True)
class Job:
    """What a peer is to do.

    Args:
        name: What the tables call it; a key of `PEERS`.
        settings: Tolerances or steps to try, loosest first.
        samples: On how many samples; its time is scaled to all, and the tables say so.
        repeats: How many runs at most; a run of more than ten seconds is not repeated.
        threads: Of its matrix products, where fewer than there are cores take less CPU time; 0 for all.
    """

    name: str
    settings: tuple[float, ...] = (0.0,)
    samples: int = 20_000
    repeats: int = 5
    threads: int = 0


def spams_cd(stimuli: np.ndarray, fields: np.ndarray, penalty: float, setting: float, dtype: type) -> Any:
    """Return how to run SPAMS's coordinate descent from zero."""
    import spams

    columns, atoms = np.asfortranarray(stimuli.T, dtype), np.asfortranarray(fields.T, dtype)
    start = scipy.sparse.csc_matrix((len(fields), len(stimuli)), dtype=dtype)
    return lambda: (
        spams.cd(columns, atoms, start.copy(), lambda1=penalty, mode=2, itermax=1000, tol=setting, numThreads=cores()).T
    )


def spams_lars(stimuli: np.ndarray, fields: np.ndarray, penalty: float, setting: float) -> Any:
    """Return how to run SPAMS's LARS."""
    import spams

    columns, atoms = np.asfortranarray(stimuli.T, float), np.asfortranarray(fields.T, float)
    return lambda: spams.lasso(columns, D=atoms, lambda1=penalty, mode=2, numThreads=cores()).T


def scikit(stimuli: np.ndarray, fields: np.ndarray, penalty: float, setting: float, law: str) -> Any:
    """Return how to run scikit-learn's `sparse_encode`, in double precision; its tolerance cannot be chosen."""
    from sklearn.decomposition import sparse_encode

    stimuli, fields = stimuli.astype(float), fields.astype(float)
    return lambda: sparse_encode(stimuli, fields, algorithm=law, alpha=penalty, max_iter=1000)


def euler(stimuli: np.ndarray, fields: np.ndarray, penalty: float, setting: float) -> Any:
    """Return how to run the dynamics of Rozell et al. (2008) by Euler steps, in single-precision NumPy.

    All neurons step at once, as far as their largest possible inhibition allows.
    """
    inhibition = fields @ fields.T
    step = np.float32(1 / np.linalg.eigvalsh(inhibition)[-1])
    np.fill_diagonal(inhibition, 0)

    def run() -> np.ndarray:
        drive = stimuli @ fields.T
        potential, activity = np.zeros_like(drive), np.zeros_like(drive)
        for _ in range(int(setting)):
            potential += step * (drive - activity @ inhibition - potential)
            np.copysign(np.maximum(np.abs(potential) - np.float32(penalty), 0), potential, out=activity)
        return activity

    return run


def spams_learn(stimuli: np.ndarray, fields: np.ndarray, penalty: float, setting: float) -> Any:
    """Return how to run SPAMS's online dictionary learning for so many batches of 512."""
    import spams

    columns, atoms = np.asfortranarray(stimuli.T, float), np.asfortranarray(fields.T, float)
    return lambda: (
        spams.trainDL(
            columns,
            D=atoms,
            lambda1=penalty,
            mode=2,
            iter=int(setting),
            batchsize=512,
            numThreads=cores(),
            verbose=False,
        ).T
    )


STOPS = 24
"""How often scikit-learn's dictionary is looked at."""


class _Enough(Exception):
    """The time is up."""


def scikit_learn(stimuli: np.ndarray, fields: np.ndarray, penalty: float, setting: float) -> Any:
    """Return how to run scikit-learn's mini-batch dictionary learning for so many CPU seconds.

    It passes over the samples again and again. The answer is its dictionary at `STOPS` times, one below the other;
    each row begins with the CPU seconds taken until then. In double precision and by batches of 256, its default, it
    comes furthest in a given time; in single precision its coordinate descent does not come to rest.
    """
    from sklearn.decomposition import MiniBatchDictionaryLearning

    law = MiniBatchDictionaryLearning(
        len(fields), alpha=penalty, max_iter=1000, batch_size=256, dict_init=fields.astype(float), tol=0,
        transform_algorithm="lasso_cd", fit_algorithm="cd", random_state=0, max_no_improvement=None,
    )  # fmt: skip
    stimuli = stimuli.astype(float)

    def run() -> np.ndarray:
        begun, seen = time.process_time(), []

        def look(known: dict[str, Any]) -> None:
            spent = time.process_time() - begun
            if spent >= setting * (len(seen) + 1) / STOPS:
                seen.append(np.insert(known["dictionary"], 0, spent, axis=1))
            if len(seen) == STOPS:
                raise _Enough

        with contextlib.suppress(_Enough):
            law.set_params(callback=look).fit(stimuli)
        return np.concatenate(seen)

    return run


PEERS: dict[str, tuple[str, Callable[..., Any], dict[str, Any]]] = {
    "SPAMS cd float32": ("spams-bin", spams_cd, {"dtype": np.float32}),
    "SPAMS cd float64": ("spams-bin", spams_cd, {"dtype": np.float64}),
    "SPAMS LARS": ("spams-bin", spams_lars, {}),
    "scikit-learn cd": ("scikit-learn", scikit, {"law": "lasso_cd"}),
    "scikit-learn LARS": ("scikit-learn", scikit, {"law": "lasso_lars"}),
    "Euler LCA": ("numpy", euler, {}),
    "SPAMS trainDL": ("spams-bin", spams_learn, {}),
    "scikit-learn MiniBatchDictionaryLearning": ("scikit-learn", scikit_learn, {}),
}


def cores() -> int:
    """Return how many cores there are for this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def laps(run: Callable[[], Any], repeats: int) -> tuple[Any, dict[str, Any]]:
    """Run several times; return the last answer and the least wall and CPU seconds. A run of over 10 s is the only."""
    times: list[tuple[float, float]] = []
    answer = None
    while len(times) < repeats and (not times or times[0][0] < 10):
        cpu, wall = time.process_time(), time.perf_counter()
        answer = run()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    least = {"seconds": min(lap[0] for lap in times), "cpu_seconds": min(lap[1] for lap in times)}
    return answer, least | {"first_seconds": times[0][0], "repeats": len(times)}


def main(arguments: list[str]) -> int:
    """Do the job in a file and write the answer into another."""
    job, setting = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    job = Job(**job)
    answer, figures = scipy.sparse.csr_matrix((0, 0)), {}
    try:
        package, make, rest = PEERS[job.name]
        figures["version"] = importlib.metadata.version(package)
        with np.load(arguments[1]) as data:
            stimuli, fields, penalty = data["stimuli"][: job.samples], data["fields"], float(data["penalty"])
        # Peers print; this process says nothing but its answer. The first samples load what is loaded once.
        with contextlib.redirect_stdout(io.StringIO()):
            if "cd" in job.name or "LARS" in job.name:
                make(stimuli[:10], fields, penalty, setting, **rest)()
            answer, timed = laps(make(stimuli, fields, penalty, setting, **rest), job.repeats)
        figures |= timed
    except (ImportError, importlib.metadata.PackageNotFoundError) as error:
        figures["outcome"] = f"not installed: {error}"
    except Exception as error:  # whatever a peer raises is its result, and stays in the table
        figures["outcome"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    found = scipy.sparse.csr_matrix(answer)
    np.savez(
        arguments[2], data=found.data, indices=found.indices, indptr=found.indptr, shape=found.shape,
        figures=json.dumps(figures),
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
