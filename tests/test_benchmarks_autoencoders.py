"""The autoencoders' benchmark: what its tables make of cells, and where a second start goes on. Nothing is trained."""

import json

import numpy as np
import pytest

from benchmarks import cortex_autoencoders as bench

CELL = {
    "on": "activations",
    "units": 8,
    "steps": 4,
    "rate": 1e-3,
    "L0": 2.0,
    "dead": 0.0,
    "settling": 0.0,
    "train": 1.0,
}
CELLS = [
    CELL | {"kind": kind, "active": active, "seed": seed, "unexplained": left + 0.02 * seed}
    for active in (2, 4)
    for kind, left in (("competition", 0.19), ("topk", 0.29), ("jumprelu", 0.24 + active / 100))
    for seed in (0, 1)
]


def test_rows_are_means_over_seeds_and_the_aim_is_the_worst_of_them():
    (case,) = bench._results([*CELLS, CELL | {"on": "activations, trial", "kind": "topk"}])["cases"]
    rows = {(row["active"], row["kind"]): row for row in case["rows"]}
    assert len(rows) == 6 and rows[2, "topk"]["unexplained"] == pytest.approx(0.3)
    assert rows[2, "topk"]["seeds"] == 2 and rows[2, "topk"]["±"] == pytest.approx(0.01)
    assert rows[2, "topk"]["competition leaves less by"] == pytest.approx(1 / 3)
    (aim,) = case["aims"]
    assert aim["found"] == pytest.approx(1 - 0.2 / 0.27) and aim["reached"]


def test_features_are_to_be_found_as_well_as_by_the_best_of_the_others():
    known = {
        "competition, ranked": (0.9, 0.8),
        "competition": (0.95, 0.9),
        "topk": (0.7, 0.85),
        "matryoshka": (0.85, 0.5),
    }
    cells = [
        CELL | {"on": "synthetic", "kind": kind, "active": 2, "seed": 0, "unexplained": 0.1, "mcc": mcc, "f1": f1}
        for kind, (mcc, f1) in known.items()
    ]
    mcc, f1 = bench._results(cells)["cases"][0]["aims"]
    assert mcc["reached"] and mcc["found"] == pytest.approx(0.05)
    assert not f1["reached"] and f1["found"] == pytest.approx(-0.05)


def test_a_second_start_goes_on_where_the_first_ended(monkeypatch, tmp_path):
    trained = []

    def cell(parts, units, steps, rate, options, known):
        trained.append((options["kind"], options["active"], options["seed"], steps))
        return {"unexplained": 0.5, "L0": 2.0, "dead": 0.0, "settling": 0.0, "train": 1.0}

    monkeypatch.setattr(bench, "_cell", cell)
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results.json")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(3 * bench.HELD_OUT, 2)).astype(np.float32))
    words = f"activations --file {tmp_path / 'x.npy'} --out {tmp_path / 'results.json'} --rates 1e-3 --steps 6"
    assert bench.main([*words.split(), "--seeds", "1", "--active", "2"]) == 0
    assert trained == [("competition", 2, 0, 2), ("topk", 2, 0, 6), ("jumprelu", 2, 0, 6)]
    assert bench.main([*words.split(), "--seeds", "2", "--active", "2"]) == 0
    assert [part[2] for part in trained[3:]] == [1, 1, 1]
    cells = json.loads((tmp_path / "results.json").read_text())["cells"]
    assert len(cells) == 6
