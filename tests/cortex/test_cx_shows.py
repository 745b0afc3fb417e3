"""What `--show memory` and `--show volume` report, and what labels say of units."""

import csv
import json

import numpy as np
import pytest

from catallax.cli import main
from catallax.cortex import memory_study, volume_study
from catallax.cortex.labels import class_section, preferred, read_labels
from catallax.cortex.memory import expected_overlap, exponential, hebb
from catallax.cortex.volume import steady_concentration
from catallax.errors import InputError
from catallax.runs.store import RunContext
from catallax.study import Settings

LOADS = (0.02, 0.05, 0.08, 0.1, 0.2)


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The folder of a run that shows memory, of few neurons and few questions."""
    folder = tmp_path_factory.mktemp("shows") / "memory"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_study, "SEEDS", 1)
        patch.setattr(memory_study, "LOADS", LOADS)
        patch.setattr(memory_study, "DENSE_LOADS", (0.5, 2.0))
        patch.setattr(memory_study, "RULES", {"Hebb": hebb, "exponential": exponential})
        patch.setattr(memory_study, "NOISE", (0.0, 0.5))
        patch.setattr(memory_study, "REMOVED", (0.0, 1 / 3))
        assert main(["run", "cortex", "--show", "memory", "--units", "300", "--out", str(folder), "--quiet"]) == 0
    return folder


@pytest.mark.bench
class TestMemory:
    def test_recall_follows_the_theory_and_breaks_down_beyond_capacity(self, shown):
        rows = [
            {name: float(value or "nan") for name, value in row.items()} for row in rows_of(shown / "answer/load.csv")
        ]
        assert [row["load"] for row in rows] == list(LOADS)
        for row in rows[:4]:
            assert row["overlap"] == pytest.approx(expected_overlap(row["load"]), abs=0.02) and row["recalled"] == 1
        assert rows[-1]["recalled"] < 0.5
        claims = json.loads((shown / "certificates.json").read_text())
        assert [claim["name"] for claim in claims] == ["theory", "rest"] and all(claim["holds"] for claim in claims)

    def test_no_single_neuron_holds_it_and_noise_alone_is_no_cue(self, shown):
        removed = rows_of(shown / "answer/removed.csv")
        assert float(removed[1]["recalled"]) == 1.0 and float(removed[1]["removed"]) == pytest.approx(1 / 3)
        assert float(rows_of(shown / "answer/noise.csv")[1]["overlap"]) < 0.5
        dense = {name: rows_of(shown / f"answer/dense-{name}.csv")[1]["overlap"] for name in ("Hebb", "exponential")}
        assert float(dense["Hebb"]) < 0.6 < 0.95 < float(dense["exponential"])

    def test_every_curve_is_drawn(self, shown):
        page = (shown / "report.html").read_text(encoding="utf-8")
        assert page.count("<figure") == len(list((shown / "figures").glob("*.svg"))) == 5
        assert {"0.05 patterns per neuron", "recalled, a third dead"} <= set(page.replace("<", ">").split(">"))

    def test_the_certificates_can_fail(self):
        table = {"load": np.array([0.1]), "overlap": np.array([0.9]), "expected": np.array([0.998])}
        assert not memory_study.against_theory(table, 1000).holds

    def test_networks_are_averaged_and_what_was_asked_stays_as_it_was(self, monkeypatch):
        names = ("load", "noise", "removed", "expected")

        def answer(seed):
            return {**{name: [0.1] for name in names}, "overlap": [seed], "recalled": [-seed]}

        monkeypatch.setattr(memory_study, "recall_table", answer)
        with RunContext(settings=Settings(None, seed=4)) as run:
            found = memory_study.averaged(run, "load")
        assert all(found[name] == 0.1 for name in names) and found["overlap"] == 5 == -found["recalled"]

    def test_capacity_is_where_half_is_recalled(self):
        table = {"load": np.array([0.1, 0.2, 0.3, 0.4]), "recalled": np.array([1.0, 0.75, 0.25, 0.5])}
        assert memory_study.measured_capacity(table) == pytest.approx(0.25)

    def test_photographs_become_as_many_black_pixels_as_white(self):
        picture = np.add.outer(np.arange(70.0), np.arange(64.0))
        found = memory_study.black_and_white(picture)
        assert found.shape == (32, 32) and set(found.ravel()) == {-1.0, 1.0} and abs(found.mean()) < 0.05
        assert found[0, 0] == -1 and found[-1, -1] == 1


class TestVolume:
    @pytest.fixture(scope="class")
    @classmethod
    def shown(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("shows") / "volume"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(volume_study, "peak_table", lambda: {name: [1.0, 2.0] for name in NAMES})
            assert main(["run", "cortex", "--show", "volume", "--out", str(folder), "--quiet"]) == 0
        return folder

    def test_closed_forms_hold_and_the_gate_is_shut_without_modulator(self, shown):
        claims = {claim["name"]: claim for claim in json.loads((shown / "certificates.json").read_text())}
        assert list(claims) == ["burst", "steady", "balance", "gate"]
        assert all(claim["holds"] for claim in claims.values()) and claims["gate"]["value"] == 0

    def test_neurons_learn_where_the_modulator_is(self, shown):
        rows = rows_of(shown / "answer/learning.csv")
        met, aligned = (np.array([float(row[name]) for row in rows]) for name in ("concentration", "alignment"))
        assert len(rows) == 64 and np.all(np.diff(met) >= 0)
        assert aligned[-1] > 0.99 and aligned[0] < 0.4 and np.mean(np.diff(aligned) >= -1e-3) > 0.95

    def test_the_report_shows_a_film_and_all_curves(self, shown):
        page = (shown / "report.html").read_text(encoding="utf-8")
        assert "<canvas" in page and page.count("<figure") >= 4 and "µM" in page

    def test_a_wrong_source_is_found_out(self, monkeypatch):
        monkeypatch.setattr(volume_study, "steady_concentration", lambda *a, **k: 1.02 * steady_concentration(*a, **k))
        assert volume_study.around_a_source()[1] > volume_study.CLOSE


NAMES = ("distance", "free", "taken_up", "kept")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--show", "volume", "--units", "200"], "--units is not for --show volume"),
        (["--show", "memory", "--units", "20"], "at least 100"),
        (["--show", "memory", "--penalty", "1"], "--penalty is not for --show memory"),
        (["--show", "memory", "--no-signed"], "--no-signed is not for --show memory"),
        (["--show", "volume", "some.png"], "a file is not for --show volume"),
        (["--labels", "kinds.txt"], "--labels is not for images"),
    ],
)
def test_what_is_not_for_a_show_is_refused(flags, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "cortex", *flags]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and said in lines[0] and not (tmp_path / "runs").exists()


class TestLabels:
    def test_lines_become_the_classes_of_what_is_held_out(self, tmp_path):
        (tmp_path / "kinds.txt").write_text("noun\r\nverb \n noun\nadverb", encoding="utf-8-sig")
        assert read_labels(tmp_path / "kinds.txt", 4, slice(1, 9)).tolist() == ["verb", "noun", "adverb"]

    @pytest.mark.parametrize(
        ("text", "samples", "said"),
        [
            (b"a\nb\n", 3, "has 2 lines, but there are 3 samples"),
            (b"a\n\nb\n", 3, "kinds.txt:2: this line is empty"),
            (b"b\na\na\n", 3, "from line 2 on, are of class 'a'"),
            (b"a\n\xff\n", 2, "no text in UTF-8 (byte 3)"),
        ],
    )
    def test_bad_labels_are_refused(self, text, samples, said, tmp_path):
        (tmp_path / "kinds.txt").write_bytes(text)
        with pytest.raises(InputError) as refused:
            read_labels(tmp_path / "kinds.txt", samples, slice(1, samples))
        assert said in str(refused.value)

    def test_units_and_their_classes(self):
        """Of three units one knows the class, one does not, and one is silent."""
        activity = np.array([[1.0, 2, 0], [3, 0, 0], [0, 1, 0], [0, 0, 0]] * 50)
        labels = np.array(["x", "x", "y", "y"] * 50)
        assert preferred(activity, labels) == (["x", "x", None], [1.0, 0.5, None])
        table = class_section({"one": activity, "other": np.roll(activity, 1, axis=0)}, labels).table
        assert table["live units"] == [2, 2] and table["units 90% in one class"] == [1, 0]
        # Half of all pairs name the unit that knows: ½·(1 bit) less what the other half's mixture leaves.
        joint = np.array([[0.5, 0.0], [0.25, 0.25]])
        bits = np.nansum(joint * np.log2(joint / np.outer(joint.sum(1), joint.sum(0)), where=joint > 0, out=0 * joint))
        assert table["specialisation, bits"][0] == pytest.approx(bits, abs=0.01)
