"""The sparse-coding benchmarks: one yardstick, honest scaling, and the book-keeping; no speed."""

import dataclasses
import json

import numpy as np
import pytest
from rich.console import Console

from benchmarks import cortex, cortex_peers, machine, report
from benchmarks.cortex_ours import Figures, Yardstick, played, timed
from benchmarks.cortex_peers import Job, euler, laps
from catallax.cortex.problem import unit_rows

PENALTY = 0.3


def drawn(samples=6, units=20, inputs=12):
    rng = np.random.default_rng(0)
    fields = unit_rows(rng.normal(size=(units, inputs)).astype(np.float32))
    return unit_rows(rng.normal(size=(samples, inputs)).astype(np.float32)), fields


def test_the_yardstick_measures_from_the_best_bound_and_the_peers_dynamics_come_to_it():
    stimuli, fields = drawn()
    yardstick = Yardstick(stimuli, fields, PENALTY)
    rough, fine = (yardstick.see(euler(stimuli, fields, PENALTY, steps)()) for steps in (30, 3000))
    figures = Figures("LCA", 1, "ran")
    assert yardstick.score(figures, fine, 1e-5).gap < 1e-6
    assert yardstick.score(figures, fine, 1e-5).reached
    worse = yardstick.score(figures, rough, 1e-5)
    assert worse.gap > 1e-5 and not worse.reached
    ratio = worse.objective / yardstick.score(figures, fine, 1e-5).objective - 1
    assert worse.gap == pytest.approx(ratio, rel=1e-2)
    # A few samples are held against their own bounds.
    few = yardstick.see(np.zeros((2, 20)))
    assert yardstick.score(figures, few, 1e-5).objective == pytest.approx(0.5, rel=1e-6)
    # A poor bound does not replace a better one.
    assert yardstick.score(figures, fine, 1e-5).gap < 1e-6


def test_few_samples_are_scaled_to_all_and_the_least_lap_counts():
    found = timed("peer", 1e-3, 400, 20_000, {"seconds": 2.0, "cpu_seconds": 3.0, "first_seconds": 9.0, "repeats": 2})
    assert (found.seconds, found.cpu_seconds, found.first_seconds, found.samples) == (100.0, 150.0, 9.0, 400)
    calls = []
    _, figures = laps(lambda: calls.append(0), 3)
    assert len(calls) == figures["repeats"] == 3 and figures["seconds"] <= figures["first_seconds"]


OURS = Figures("catallax kernel", 1e-2, "ran", 10, 1.0, 1.0, 1.0, 9.0, 3, 0.4, 1e-6, 1e-3, 5.0, True)


def test_aims():
    peer = dataclasses.replace(OURS, method="SPAMS cd float32", cpu_seconds=2.5)
    first, second = cortex.aims(OURS, None, [peer], 1e-5)
    assert first["reached"] and second["reached"] and second["found"] == 2.5
    assert not cortex.aims(OURS, None, [dataclasses.replace(peer, cpu_seconds=1.9)], 1e-5)[1]["reached"]
    assert not cortex.aims(dataclasses.replace(OURS, reached=False), None, [peer], 1e-5)[1]["reached"]
    gone = Figures("SPAMS cd float32", 0.0, "not installed")
    assert not cortex.aims(OURS, None, [gone], 1e-5)[1]["reached"]
    lars = dataclasses.replace(peer, method="SPAMS LARS")
    assert cortex.aims(OURS, dataclasses.replace(OURS, cpu_seconds=2.0), [lars], 1e-5)[-1]["reached"]
    assert not cortex.aims(OURS, dataclasses.replace(OURS, cpu_seconds=3.0), [lars], 1e-5)[-1]["reached"]
    assert cortex.ratios(OURS, dataclasses.replace(peer, reached=False))["at_least"]


def test_the_loosest_setting_that_reaches_the_target_counts():
    stimuli, fields = drawn()
    yardstick = Yardstick(stimuli, fields, PENALTY)
    yardstick.see(euler(stimuli, fields, PENALTY, 3000)())
    tried = []

    def run(setting):
        tried.append(setting)
        return laps(euler(stimuli, fields, PENALTY, setting), 1)

    found, number = cortex._loosest("LCA", (5, 2000, 4000), 6, 6, run, yardstick)
    assert tried == [5, 2000] and found.setting == 2000
    assert yardstick.score(found, number, cortex.TARGET).reached
    assert cortex._loosest("LCA", (1,), 6, 6, lambda setting: "no", yardstick)[0].outcome == "no"


def test_a_peer_answers_through_files_or_says_why_not(tmp_path, monkeypatch):
    stimuli, fields = drawn()
    path = tmp_path / "data.npz"
    np.savez(path, stimuli=stimuli, fields=fields, penalty=PENALTY)
    expected = euler(stimuli[:4], fields, PENALTY, 50)()
    for name in ("Euler LCA", "SPAMS cd float32"):
        job = tmp_path / "job.json"
        job.write_text(json.dumps([dataclasses.asdict(Job(name, (50,), 4, 1)), 50]))
        monkeypatch.setitem(cortex_peers.PEERS, "SPAMS cd float32", ("there-is-no-such-package", euler, {}))
        cortex_peers.main([str(job), str(path), str(tmp_path / "answer.npz")])
        with np.load(tmp_path / "answer.npz") as answer:
            figures = json.loads(str(answer["figures"]))
            if name == "Euler LCA":
                np.testing.assert_array_equal(answer["data"], expected[expected != 0])
            else:
                assert figures["outcome"].startswith("not installed")


def test_what_scikit_learn_learns_is_known_from_time_to_time():
    pytest.importorskip("sklearn")
    stimuli, fields = drawn(600)
    answer, figures = laps(cortex_peers.scikit_learn(stimuli, fields, PENALTY, 0.1), 1)
    parts = list(cortex.stages(answer, figures, fields.shape))
    assert len(parts) == cortex_peers.STOPS
    times = np.array([[taken["cpu_seconds"], taken["seconds"]] for taken, _ in parts])
    assert (np.diff(times, axis=0) > 0).all() and 0.1 <= times[-1, 0] <= figures["cpu_seconds"]
    assert times[-1, 1] <= figures["seconds"]
    np.testing.assert_array_equal(np.concatenate([learnt for _, learnt in parts]), answer[:, 1:])
    # It learns: the first batches lower the objective.
    yardstick = [Yardstick(stimuli, learnt, PENALTY) for _, learnt in parts[:: len(parts) - 1]]
    objectives = [y.seen[y.see(euler(stimuli, y.fields, PENALTY, 300)())][0].mean() for y in yardstick]
    assert objectives[1] < objectives[0]
    assert list(cortex.stages(fields, figures, fields.shape)) == [(figures, fields)]


def test_a_peer_has_as_many_threads_as_its_job_says(tmp_path, monkeypatch):
    start = tmp_path / "python"
    start.write_text('#!/bin/sh\necho "threads: $OPENBLAS_NUM_THREADS" >&2\nexit 3\n')
    start.chmod(0o755)
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    for job, threads in ((Job("peer", threads=1), "1"), (Job("peer"), "")):
        figures = played(job, 1.0, tmp_path / "none.npz", str(start), 60.0)[1]
        assert figures["outcome"] == f"exit code 3: threads: {threads}".rstrip()


def test_a_peers_interpreter_that_fails_says_so(tmp_path):
    start = tmp_path / "python"
    start.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    start.chmod(0o755)
    answer, figures = played(Job("Euler LCA"), 1.0, tmp_path / "none.npz", str(start), 60.0)
    assert answer is None and figures["outcome"] == "exit code 3: broken"


def test_results_are_shown_and_kept(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report, "_console", Console(width=200))
    peer = dataclasses.replace(OURS, method="SPAMS cd float32", cpu_seconds=2.5)
    kept = cortex.case("encoding", "10 patches", 1e-5, OURS, None, [peer])
    point = {"units": 512, "samples": 10, "cpu_seconds": 0.1, "microseconds": 9.0, "active": 3.0, "peak_bytes": 10**8}
    results = {
        "system": "cortex", "date": "2026-01-01", "machine": machine.description(), "cases": [kept],
        "ladder": {"points": [point], "exponent": None, "aims": []},
    }  # fmt: skip
    report.save(results, tmp_path / "cortex.json", None)
    report.show(results)
    said = " ".join(capsys.readouterr().out.split())
    assert "at least 2 times less CPU time than SPAMS cd float32" in said
    loaded = report.load(tmp_path / "cortex.json")
    assert loaded is not None and loaded["cases"][0]["ratios"]["SPAMS cd float32"]["cpu"] == 2.5
