"""Writes a run in a loop while somebody kills it: `python killed.py DIRECTORY SEED KILLS`.

Each life is a fork of this process, so that nothing has to be imported again. A life ends by SIGKILL at a
random instant, and the next one resumes; the last is left alone. After every death the directory is inspected
by `inspect`, before anything has had a chance to repair it.
"""

import contextlib
import csv
import io
import json
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import jax  # noqa: F401  # once, before the forks
import numpy as np
from safetensors.numpy import load_file

from catallax.runs.store import RunContext
from catallax.runs.tables import write_parquet

ROUNDS = 180
ROWS = 800


def start() -> dict:
    return {"round": np.array(0), "x": np.linspace(0.0, 1.0, ROWS)}


def step(state: dict) -> dict:
    return {"round": state["round"] + 1, "x": np.sin(state["x"] * 1.7) + 0.3}


def live(directory: Path, mortal: bool) -> None:
    """Run, resuming if there is anything to resume: to the end, or for a few rounds and then wait."""
    run = RunContext(directory, resuming=(directory / "config.toml").exists())
    state = run.restore(start())
    last = min(int(state["round"]) + 12, ROUNDS - 1) if mortal else ROUNDS
    while (number := int(state["round"])) < last:
        state, number = step(state), number + 1
        run.record({"round": number, "sum": float(state["x"].sum()), "text": "é" * 500})
        if number % 3 == 0:
            run.checkpoint(state)
        if number % 2 == 0:
            run.write_table("x", {"round": [number] * ROWS, "x": state["x"]})
    if mortal:
        time.sleep(60)
    run.close()


def inspect(directory: Path, truth: dict[int, np.ndarray]) -> int:
    """Check that what a killed process left is whole; return how many records there are."""
    history = directory / "history.jsonl"
    if not history.exists():
        return 0
    lines = history.read_bytes().split(b"\n")
    records = [json.loads(line) for line in lines[:-1]]
    assert [record["round"] for record in records] == list(range(1, len(records) + 1))
    assert all(record["sum"] == float(truth[record["round"]].sum()) for record in records)
    if (directory / "checkpoint.safetensors").exists():
        state = load_file(directory / "checkpoint.safetensors")
        number = int(state["['round']"])
        assert 0 < number <= len(records)
        assert np.array_equal(state["['x']"], truth[number])
    if (directory / "answer" / "x.csv").exists():
        with (directory / "answer" / "x.csv").open(newline="") as stream:
            rows = list(csv.reader(stream))
        assert len(rows) == ROWS + 1
        number = int(rows[1][0])
        assert [(int(a), float(b)) for a, b in rows[1:]] == [(number, x) for x in truth[number].tolist()]
    return len(records)


def wait_for(history: Path, records: int) -> None:
    """Wait until a life has written so many records; a count, so that a busy machine changes nothing."""
    size = 1100  # of one record, about
    before = history.stat().st_size if history.exists() else 0
    for _ in range(1000):
        if records == 0 or (history.exists() and abs(history.stat().st_size - before) >= records * size):
            return
        time.sleep(0.001)


def trajectory() -> dict[int, np.ndarray]:
    state, truth = start(), {}
    for number in range(1, ROUNDS + 1):
        state = step(state)
        truth[number] = state["x"]
    return truth


def main(directory: Path, seed: int, kills: int) -> None:
    draw, truth = random.Random(seed), trajectory()
    with contextlib.suppress(ImportError):
        write_parquet(io.BytesIO(), {"a": [1.0]})  # what this imports is then there in every life
    reached = []
    for life in range(kills + 1):
        child = os.fork()
        if not child:
            live(directory, mortal=life < kills)
            os._exit(0)
        if life < kills:
            wait_for(directory / "history.jsonl", draw.randrange(8))
            time.sleep(draw.uniform(0.0, 0.005))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert status == (signal.SIGKILL if life < kills else 0), f"life {life} ended with {status}"
        if (directory / "config.toml").exists():
            reached.append(inspect(directory, truth))
    print(json.dumps(reached))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
