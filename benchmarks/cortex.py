"""Sparse coding and dictionary learning against their peers: `python -m benchmarks cortex`.

All get the same patches, receptive fields and threshold, a process of their own and every core; time is what the
process takes of the cores, least of several runs. Activities are scored by our certificate in double precision,
against the best lower bound that any of them proves. See `cortex_peers` for the peers, whose installation is apart,
and `cortex_ours` for the rest.
"""

import argparse
import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from . import machine, report
from .cortex_ours import Figures, Yardstick, data, encoded, learned, peers_python, played, rung, timed
from .cortex_peers import Job
from .measure import alone

RESULTS = Path(__file__).resolve().parent / "results" / "cortex.json"
TARGET = 1e-5
"""The relative gap of the mean objective that all are to reach, at the loosest setting that does."""
PENALTY = 0.12
LIMIT = 240.0
PATIENCE = 75
"""How many times the CPU time of our epoch scikit-learn may take to learn as much."""


@dataclasses.dataclass(frozen=True)
class Size:
    """How large a run is.

    Args:
        samples: Patches to encode.
        units: Receptive fields.
        training: Patches to learn from.
        held_out: Patches to compare what was learnt.
        repeats: Runs of each method.
        ladder: Numbers of units, and samples for each.
    """

    samples: int
    units: int
    training: int
    held_out: int
    repeats: int
    ladder: tuple[tuple[int, int], ...]


FULL = Size(
    20_000,
    512,
    100_000,
    5_000,
    7,
    (*((units, 5_000) for units in (512, 1024, 2048, 4096, 8192)), (512, 80_000), (16_384, 1_024), (32_768, 1_024)),
)
QUICK = Size(1_000, 128, 2_000, 300, 2, ((128, 500), (512, 500)))

KERNEL = (4e-2, 2e-2, 1e-2, 1e-3)
FAST = (1e-2, 1e-3, 1e-4)
ENCODERS = (
    Job("SPAMS cd float32", (1e-3, 1e-4, 1e-5)),
    Job("SPAMS cd float64", (1e-3, 1e-4, 1e-5)),
    Job("SPAMS LARS", repeats=3),
    Job("scikit-learn cd", samples=4_000, repeats=3),
    Job("scikit-learn LARS", samples=400, repeats=2),
    Job("Euler LCA", (200, 400, 800), samples=1_000, repeats=2),
)
FASTER = {
    "SPAMS cd float32": 2, "SPAMS LARS": 6, "scikit-learn cd": 15, "Euler LCA": 80,
    "SPAMS trainDL": 5, "scikit-learn MiniBatchDictionaryLearning": 50,
}  # fmt: skip
"""How many times faster than each we want to be."""


def encoding(size: Size, path: Path, python: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure encoding: ours, compiled and in JAX, and each peer."""
    with np.load(path) as given:
        yardstick = Yardstick(given["stimuli"], given["fields"], float(given["penalty"]))
    # A close look once, untimed, so that the bound that all are held against is tight.
    exact = alone(encoded, ("kernel", str(path), 1e-5, size.samples, 1), LIMIT)
    if isinstance(exact, tuple):
        yardstick.see(exact[0])
    rows: list[tuple[Figures, int | None]] = []
    for law, name, settings, most in (("kernel", "catallax kernel", KERNEL, 7), ("fast", "catallax JAX", FAST, 3)):
        say(f"  {name}")
        repeats = min(size.repeats, most)

        def run(setting: float, law: str = law, repeats: int = repeats) -> Any:
            return alone(encoded, (law, str(path), setting, size.samples, repeats), LIMIT)

        rows.append(_loosest(name, settings, size.samples, size.samples, run, yardstick))
    for job in ENCODERS:
        job = dataclasses.replace(job, samples=min(job.samples, size.samples), repeats=min(job.repeats, size.repeats))
        say(f"  {job.name}, {job.samples} samples")

        def ask(setting: float, job: Job = job) -> Any:
            answer, figures = played(job, setting, path, python, LIMIT)
            return figures["outcome"] if answer is None else (answer, figures)

        rows.append(_loosest(job.name, job.settings, job.samples, size.samples, ask, yardstick))
    scored = [found if number is None else yardstick.score(found, number, TARGET) for found, number in rows]
    problem = f"{size.samples:,} patches of 16×16, {size.units} units"
    return case("encoding", problem, TARGET, scored[0], scored[1], scored[2:])


def _loosest(
    name: str, settings: tuple[float, ...], samples: int, everything: int, run: Callable[[float], Any], yard: Yardstick
) -> tuple[Figures, int | None]:
    """Return the figures of the loosest setting that reaches the target, or of the last, and its activity's number."""
    found, number = Figures(name, 0.0, "no setting to try"), None
    for setting in settings:
        answer = run(setting)
        if not isinstance(answer, tuple):
            return Figures(name, setting, str(answer)), None
        number = yard.see(answer[0])
        found = timed(name, setting, samples, everything, answer[1])
        if yard.score(found, number, TARGET).reached:
            break
    return found, number


def learning(size: Size, path: Path, python: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure learning: one epoch of ours, then what each peer needs to come as low on the held-out patches."""
    with np.load(path) as given:
        stimuli, start, held = given["stimuli"], given["fields"], given["held"]
    say("  catallax learn")
    answer = alone(learned, (stimuli, start, PENALTY, 3), LIMIT)
    if not isinstance(answer, tuple):
        return case("learning", "one epoch", None, Figures("catallax", 1, str(answer)), None, [])

    def worth(figures: Figures, fields: np.ndarray, best: float | None) -> Figures:
        yardstick = Yardstick(held, fields, PENALTY)
        from catallax.cortex.kernel import encode

        yardstick.see(encode(held, yardstick.fields, PENALTY, tol=1e-4))
        found = yardstick.score(figures, 0, 1.0)
        gap = 0.0 if best is None else found.objective / best - 1
        return dataclasses.replace(found, gap=gap, reached=gap <= 0.0)

    ours = worth(timed("catallax", 1, len(stimuli), len(stimuli), answer[1]), answer[0], None)
    batches = -(-len(stimuli) // 512)
    jobs = (
        Job("SPAMS trainDL", (batches, 2 * batches), len(stimuli), 1),
        Job(
            "scikit-learn MiniBatchDictionaryLearning",
            (PATIENCE * (ours.cpu_seconds or 0.0),),
            len(stimuli),
            1,
            threads=1,
        ),
    )
    peers = []
    for job in jobs:
        found = Figures(job.name, 0.0, "no setting to try")
        for setting in job.settings:
            say(f"  {job.name}, {job.samples} samples, {setting:g}")
            answer, figures = played(job, setting, path, python, 2 * LIMIT)
            if answer is None:
                found = Figures(job.name, setting, figures["outcome"])
                break
            for taken, fields in stages(answer.toarray(), figures, start.shape):
                found = timed(job.name, setting, job.samples, len(stimuli), taken)
                found = worth(found, fields, ours.objective)
                if found.reached:
                    break
            if found.reached:
                break
        peers.append(found)
    problem = f"{len(start)} units from {len(stimuli):,} patches of 16×16"
    return case("learning", problem, None, ours, None, peers)


def stages(
    answer: np.ndarray, figures: dict[str, Any], shape: tuple[int, int]
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Split what a peer learnt from time to time, if it says when, with its figures up to each."""
    if answer.shape == shape:
        yield figures, answer
        return
    for part in answer.reshape(-1, shape[0], shape[1] + 1):
        cpu = float(part[0, 0])
        wall = figures["seconds"] * cpu / figures["cpu_seconds"]
        yield figures | {"cpu_seconds": cpu, "seconds": wall}, part[:, 1:]


def case(
    name: str, problem: str, target: float | None, ours: Figures, other: Figures | None, peers: list[Figures]
) -> dict[str, Any]:
    """Return a case as the results keep it, with how many times longer each took and what was wanted."""
    rows = [*([other] if other else []), *peers]
    return {
        "name": name,
        "problem": problem,
        "target": target,
        "ours": dataclasses.asdict(ours),
        "solve": dataclasses.asdict(other or ours),
        "peers": [dataclasses.asdict(peer) for peer in peers],
        "ratios": {row.method: ratios(ours, row) for row in rows},
        "aims": aims(ours, other, peers, target),
    }


def ratios(ours: Figures, peer: Figures) -> dict[str, Any]:
    """Return how many times longer a peer took; at least, where it did not come as far."""
    if not ours.cpu_seconds or not peer.cpu_seconds or not ours.seconds or not peer.seconds:
        return {"wall": None, "cpu": None, "at_least": False}
    return {
        "wall": peer.seconds / ours.seconds,
        "cpu": peer.cpu_seconds / ours.cpu_seconds,
        "at_least": not peer.reached,
    }


def aims(ours: Figures, other: Figures | None, peers: list[Figures], target: float | None) -> list[dict[str, Any]]:
    """Return what was wanted, what was found, and whether it was reached."""
    found = []
    if target is not None:
        wanted = f"a relative gap of the objective of at most {target:g}"
        found.append({"wanted": wanted, "found": ours.gap, "reached": ours.reached})
    for peer in peers:
        if peer.method in FASTER:
            ratio, least = ratios(ours, peer)["cpu"], FASTER[peer.method]
            reached = bool(ratio is not None and ratio >= least and (ours.reached or target is None))
            wanted = f"at least {least} times less CPU time than {peer.method}"
            found.append({"wanted": wanted, "found": ratio, "reached": reached})
        if other is not None and peer.method == "SPAMS LARS":
            ratio = ratios(other, peer)["cpu"]
            wanted = "JAX on the CPU: no more CPU time than SPAMS LARS"
            found.append({"wanted": wanted, "found": ratio, "reached": bool(ratio and ratio >= 1 and other.reached)})
    return found


def ladder(size: Size, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure the kernel from few units to many, and few samples to many."""
    points = []
    for units, samples in size.ladder:
        say(f"  ladder: {units:,} units, {samples:,} samples")
        found = alone(rung, (units, samples, PENALTY, 2), LIMIT)
        points.append(found if isinstance(found, dict) else {"units": units, "samples": samples, "outcome": str(found)})
    by_units = {p["units"]: p["microseconds"] for p in points if "microseconds" in p}
    return {"points": points, "exponent": report.exponent(sorted(by_units.items())), "aims": []}


def prepared(size: Size, folder: Path) -> tuple[Path, Path]:
    """Write what is encoded, and what is learnt from; return where. The first uses what one epoch of ours learns."""
    drawn = data(size.training + size.samples + size.held_out, 0)
    held, stimuli, training = np.split(drawn, [size.held_out, size.held_out + size.samples])
    start = training[np.random.default_rng(0).choice(len(training), size.units, replace=False)]
    from catallax.cortex.learn import learn

    fields = learn(training, size.units, PENALTY, dictionary=start).state.fields
    learn_path, encode_path = folder / "learn.npz", folder / "encode.npz"
    np.savez(learn_path, stimuli=training, fields=start, held=held, penalty=PENALTY)
    np.savez(encode_path, stimuli=stimuli, fields=fields, penalty=PENALTY)
    return learn_path, encode_path


def main(arguments: list[str]) -> int:
    """Run the cases, print the tables, write the results; return 1 if `--against` finds a slow case."""
    options = _options(arguments)
    before = report.load(options.out or RESULTS)
    against = report.load(options.against) if options.against else None
    if options.against and against is None:
        report.say(f"error: there are no results in {options.against}")
        return 2
    size, python = QUICK if options.quick else FULL, options.peers or peers_python()
    flags = [
        *(part for name in options.only or () for part in ("--only", name)),
        *(["--quick"] if options.quick else []),
    ]
    results: dict[str, Any] = {
        "system": "cortex",
        "date": date.today().isoformat(),
        "command": " ".join(["python -m benchmarks cortex", *flags]),
        "machine": machine.description(),
        "cases": [],
    }
    out = options.out or (None if options.quick else RESULTS)
    wanted = options.only or NAMES
    with tempfile.TemporaryDirectory() as folder:
        learn_path, encode_path = prepared(size, Path(folder)) if set(wanted) - {"ladder"} else (None, None)
        for name, work, path in (("encoding", encoding, encode_path), ("learning", learning, learn_path)):
            if name in wanted:
                report.say(name)
                results["cases"].append(work(size, path, python, report.say))
                report.save(results, out, before)
    if "ladder" in wanted:
        results["ladder"] = ladder(size, report.say)
    merged = report.save(results, out, before if options.only else None)
    report.show(results)
    if out is not None:
        report.say(f"written: {out.name}, {len(merged['cases'])} cases")
    return report.alarm(results, against) if against else 0


NAMES = ("encoding", "learning", "ladder")


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks cortex", description=__doc__)
    parser.add_argument(
        "--only", action="append", metavar="NAME", choices=NAMES, help=f"this alone: {', '.join(NAMES)}"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes; writes only with --out")
    parser.add_argument("--peers", metavar="PYTHON", help="the interpreter of the peers' installation")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where results go, as JSON")
    parser.add_argument("--against", type=Path, metavar="FILE", help="flag cases twice as slow as in FILE")
    return parser.parse_args(arguments)
