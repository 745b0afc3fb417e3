"""`catallax run cortex`, from images or a file of activations to tables, pictures, certificates and the report."""

import csv
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from catallax.cli import main
from catallax.cortex import activations_study, study
from catallax.cortex.autoencoder import load
from catallax.cortex.certify import certify
from catallax.cortex.compare import MEASURES, Comparison
from catallax.cortex.figures import raster
from catallax.cortex.frontier import METHODS, Question, answers, frontier, in_motion, rebuilt
from catallax.cortex.measure import specialisation, unexplained
from catallax.cortex.options import Options
from catallax.cortex.options import study as face
from catallax.cortex.problem import SparseCoding, unit_rows
from catallax.cortex.sections import verdict_table
from catallax.errors import InputError
from catallax.runs.store import RunContext
from catallax.study import Settings, settings

IMAGE = {"units": 16, "size": 6, "patches": 2048, "penalty": 0.2, "seeds": 0}
CODES = {"units": 12, "active": 2, "steps": 150, "kinds": ("topk",)}


def blobs(rows: int, columns: int, seed: int) -> np.ndarray:
    """Return grey values with edges at every scale, from 0 to 255."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((rows, columns))
    for _ in range(200):
        row, column, side = rng.integers(rows), rng.integers(columns), rng.integers(2, 20)
        picture[row : row + side, column : column + side] += rng.normal()
    return (255 * (picture - picture.min()) / np.ptp(picture)).astype(np.uint8)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


class Impatient(RunContext):
    """A run whose user presses Ctrl-C once it has been checkpointed so many times."""

    patience = 1

    def checkpoint(self, state):
        super().checkpoint(state)
        self.patience -= 1
        if self.patience == 0:
            self.stop()


def do(options: Options, folder: Path, kind: type[RunContext] = RunContext, **given):
    """Run the study in a folder; return its outcome."""
    with kind(folder, study="cortex", settings=Settings(options, seed=3), **given) as run:
        outcome = study.execute(options, run)
        run.finish(outcome)
    return outcome


def again(folder: Path):
    """Resume the run in a folder."""
    chosen = settings(face, config=folder / "config.toml")
    with RunContext(folder, study="cortex", settings=chosen, resuming=True) as run:
        outcome = study.execute(chosen.options, run)
        run.finish(outcome)
    return outcome


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Options:
    path = tmp_path_factory.mktemp("images") / "blobs.png"
    Image.fromarray(blobs(96, 48, seed=0)).save(path)
    return Options((path,), **IMAGE)


@pytest.fixture(scope="module")
def seen(image, tmp_path_factory):
    """An uninterrupted run on an image: its folder and its outcome."""
    folder = tmp_path_factory.mktemp("runs") / "seen"
    return folder, do(image, folder)


class TestImages:
    def test_the_answer_is_what_the_certificates_say(self, image, seen):
        folder, outcome = seen
        assert outcome.status == "settled" and all(claim.holds for claim in outcome.certificates)
        fields = load_file(folder / "answer" / "dictionary.safetensors")["dictionary"]
        held = study.cut(image, 3).held
        activity = np.zeros((len(held), len(fields)))
        for row in rows_of(folder / "answer" / "activity.csv"):
            activity[int(row["sample"]), int(row["unit"])] = float(row["activity"])
        found = certify(SparseCoding(held, fields, 0.2), activity)
        assert [claim.value for claim in found] == [claim.value for claim in outcome.certificates]
        used = [float(row["share active"]) for row in rows_of(folder / "answer" / "units.csv")]
        assert np.allclose(used, np.mean(activity != 0, axis=0))

    def test_everything_is_written(self, seen):
        folder, outcome = seen
        history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
        assert [line["seen"] for line in history] == [1024, 2048]
        drawn = {path.stem for path in (folder / "figures").glob("*.svg")}
        assert drawn == {"dictionary", "frontier", "learning", "motion", "reconstruction"}
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert page.count("<figure") == len(drawn) and "blobs.png" in page
        assert all(f">{section.title}<" in page for section in outcome.sections)
        frontier = rows_of(folder / "answer" / "frontier.csv")
        assert len(frontier) == len(METHODS) * len(study.PRICES)

    def test_a_stopped_run_resumes_to_the_same_answer(self, image, seen, tmp_path):
        folder = tmp_path / "stopped"
        outcome = do(image, folder, Impatient)
        assert outcome.status == "stopped" and not (folder / "answer" / "frontier.csv").exists()
        stopped = (folder / "answer" / "dictionary.safetensors").read_bytes()
        assert again(folder).status == "settled"
        for name in ("answer/dictionary.safetensors", "answer/activity.csv", "answer/frontier.csv", "history.jsonl"):
            assert (folder / name).read_bytes() == (seen[0] / name).read_bytes()
        assert stopped != (folder / "answer" / "dictionary.safetensors").read_bytes()

    @pytest.mark.parametrize(
        ("picture", "flags", "said"),
        [
            (np.full((60, 60), 7, np.uint8), [], "constant"),
            (blobs(40, 20, 0), ["--size", "24"], "24"),
            (blobs(40, 30, 0), ["--size", "24"], "too few for patches of 24 × 24"),
            (blobs(40, 40, 0), ["--size", "6", "--units", "5000"], "fewer than 5,000 units"),
            (blobs(40, 40, 0), ["--size", "6", "--patches", "5000"], "not 5000"),
            (None, [], "damaged or cut off"),
        ],
    )
    def test_images_that_cannot_be_learnt_from(self, picture, flags, said, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        Image.fromarray(blobs(40, 40, 0) if picture is None else picture).save("seen.png")
        if picture is None:
            Path("seen.png").write_bytes(Path("seen.png").read_bytes()[:300])
        assert main(["run", "cortex", "seen.png", *flags]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and said in lines[0] and not Path("runs").exists()

    def test_a_file_that_is_not_there(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        assert main(["run", "cortex", "nothing.png"]) == 2
        assert "no such file" in capsys.readouterr().err

    def test_what_is_held_out_is_not_learnt_from(self):
        picture = np.arange(20.0 * 40).reshape(20, 40)
        for given in (picture, picture.T):
            learnt, held = study.parted(given, 4)
            assert {learnt.size, held.size} == {600, 200}
            assert not np.intersect1d(learnt, held).size


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Options:
    rng = np.random.default_rng(5)
    directions = unit_rows(rng.normal(size=(12, 8)))
    strengths = rng.exponential(size=(400, 12)) * (rng.random((400, 12)) < 0.15)
    path = tmp_path_factory.mktemp("codes") / "codes.npy"
    np.save(path, (strengths @ directions).astype(np.float32))
    labels = path.with_name("kinds.txt")
    labels.write_text("\n".join("noun" if 2 * row[0] > row.max() else "verb" for row in strengths))
    return Options((path,), labels=labels, **CODES)


@pytest.fixture(scope="module")
def coded(file, tmp_path_factory):
    """An uninterrupted run on a file of activations: its folder and its outcome."""
    folder = tmp_path_factory.mktemp("runs") / "coded"
    return folder, do(file, folder)


class TestActivations:
    def test_the_exported_files_leave_what_the_report_says(self, file, coded):
        folder, outcome = coded
        held = np.load(file.data[0])[360:]
        table = outcome.sections[1].table
        for kind, said, rate in zip(table["kind"], table["unexplained"], table["active units"], strict=True):
            tensors = load_file(folder / "answer" / f"{kind}.safetensors")
            drive = np.maximum(held @ tensors["W_enc"] + tensors["b_enc"], 0)
            if kind == "topk":
                drive[drive < np.sort(drive, axis=1)[:, [-2]]] = 0
            assert unexplained(held, drive, tensors["W_dec"], tensors["b_dec"]) == pytest.approx(said, rel=1e-5)
            assert np.mean(np.count_nonzero(drive, axis=1)) == pytest.approx(rate)
        assert all(claim.holds for claim in outcome.certificates) and len(outcome.certificates) == 2
        units = rows_of(folder / "answer" / "units.csv")
        assert len(units) == 12 and all(360 <= int(row["strongest sample"] or 360) < 400 for row in units)

    def test_units_have_the_classes_of_the_samples_that_they_are_active_on(self, file, coded):
        folder, outcome = coded
        held, kinds = np.load(file.data[0])[360:], np.array(file.labels.read_text().splitlines()[360:])
        activity = load(folder / "answer" / "topk.safetensors").encode(held)
        (section,) = [one for one in outcome.sections if one.title == "What units tell about classes"]
        assert section.table["specialisation, bits"] == [specialisation(activity, kinds)]
        for row, active in zip(rows_of(folder / "answer" / "units.csv"), activity.T, strict=True):
            share = np.mean(kinds[active > 0] == row["class"]) if row["class"] else None
            assert share is None or (share >= 0.5 and float(row["class share"]) == pytest.approx(share))

    def test_a_stopped_run_resumes_to_the_same_answer(self, file, coded, tmp_path):
        with pytest.raises(KeyboardInterrupt):
            do(file, tmp_path / "stopped", Impatient)
        again(tmp_path / "stopped")
        self.alike(tmp_path / "stopped", coded[0])

    @pytest.mark.bench
    def test_a_run_stopped_in_its_second_kind_resumes_to_the_same_answer(self, file, tmp_path):
        both = dataclasses.replace(file, kinds=("topk", "relu"))
        do(both, tmp_path / "whole")
        with pytest.raises(KeyboardInterrupt):
            do(both, tmp_path / "stopped", type("Later", (Impatient,), {"patience": 3}))
        assert not (tmp_path / "stopped" / "answer" / "relu.safetensors").exists()
        again(tmp_path / "stopped")
        self.alike(tmp_path / "stopped", tmp_path / "whole")

    @staticmethod
    def alike(one: Path, other: Path) -> None:
        """Check that two runs came to the same answer, bit for bit."""
        for path in (other / "answer").glob("*.safetensors"):
            # The order of a file's metadata is not settled, so files are compared by their tensors.
            found, wanted = load_file(one / "answer" / path.name), load_file(path)
            assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
        for name in ("answer/units.csv", "history.jsonl"):
            assert (one / name).read_bytes() == (other / name).read_bytes()

    def test_an_export_that_was_changed_is_found_out(self, coded, file, tmp_path):
        from safetensors.numpy import save_file

        path = coded[0] / "answer" / "topk.safetensors"
        held = np.load(file.data[0])[360:]
        found = activations_study.measured(load(path), held)
        (tmp_path / "answer").mkdir()
        save_file(
            {**(tensors := load_file(path)), "W_dec": 1.01 * tensors["W_dec"]}, tmp_path / "answer/topk.safetensors"
        )
        assert not any(claim.holds for claim in activations_study.certify_export(tmp_path, "topk", found, held))

    @pytest.mark.parametrize(
        ("array", "flags", "said"),
        [
            (np.ones((50, 4)), ["--units", "8", "--active", "2"], "constant"),
            (np.eye(50)[:, :4], ["--units", "60"], "fewer than the 60 units"),
            (np.eye(50)[:, :4], ["--units", "47", "--active", "2"], "of which 45 are learnt from"),
            (np.eye(50)[:, :4], [], "32 of 8 units cannot be active"),
            (np.full((50, 4), np.nan), [], "nan in sample 1, input 1"),
            (np.ones(50), [], "shape (50,)"),
        ],
    )
    def test_activations_that_cannot_be_trained_on(self, array, flags, said, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        np.save("codes.npy", array)
        assert main(["run", "cortex", "codes.npy", *flags]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and said in lines[0] and not Path("runs").exists()


LITTLE_MEMORY = """
import resource, sys
import numpy as np
from catallax.cli import main
resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30))
try:
    np.load("codes.npy")
except MemoryError:
    sys.exit(main("run cortex codes.npy --units 256 --active 8 --steps 20 --kinds topk --out run --quiet".split()))
sys.exit("the file fits into memory")
"""


@pytest.mark.bench
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts a process's own memory apart from its files")
def test_a_file_larger_than_memory_is_learnt_from(tmp_path):
    file = np.lib.format.open_memmap(tmp_path / "codes.npy", "w+", np.float16, (10_000_000, 64))
    rows = np.random.default_rng(0).normal(size=(200_000, 64)).astype(np.float16)
    for first in range(0, len(file), len(rows)):
        file[first : first + len(rows)] = rows
    file.flush()
    ended = subprocess.run([sys.executable, "-c", LITTLE_MEMORY], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "10,000,000 samples" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


class TestFrontier:
    """Shapes are those of the run on an image, so that little is compiled anew."""

    rng = np.random.default_rng(11)
    fields = unit_rows(rng.normal(size=(16, 36)).astype(np.float32))
    stimuli = unit_rows((rng.normal(size=(200, 16)) @ fields).astype(np.float32))

    def test_signed_activity_is_activity_of_both_signs_fields(self):
        question = Question(self.fields, 0.1)
        halves = dataclasses.replace(question, dictionary=question.both, signed=False)
        assert np.array_equal(halves.both, halves.dictionary)
        assert np.allclose(question.folded(halves.activity(self.stimuli)), question.activity(self.stimuli), atol=1e-4)

    def test_all_methods_have_equally_many_units_active(self):
        found = answers(Question(self.fields, 0.15), self.stimuli)
        rates = [np.count_nonzero(activity) for activity in found.values()]
        # A pursuit may pick a field and its negative for one stimulus, which then count as one unit.
        assert tuple(found) == METHODS and max(rates) - min(rates) <= 0.03 * max(rates)
        assert all(activity.shape == (200, 16) and (activity < 0).any() for activity in found.values())

    def test_a_frontier_falls_and_a_still_input_stays(self):
        question = Question(self.fields, 0.15)
        found = frontier(question, self.stimuli, [0.05, 0.2])
        for columns in found.values():
            assert columns["active"][0] > columns["active"][1] and columns["error"][0] < columns["error"][1]
        still = np.repeat(self.stimuli[None, :50], 4, axis=0)
        seen, turnover = in_motion(question, still)
        assert set(turnover.values()) == {0.0} and seen["competition"].shape == (4, 50, 16)

    def test_a_picture_is_rebuilt_by_units_that_see_one_pixel_each(self):
        picture = np.random.default_rng(2).normal(size=(10, 7))
        found = rebuilt(Question(np.eye(9, dtype=np.float32), 1.0), picture, [1e-4])
        before, after = found.values()
        assert np.allclose(before, picture[:9, :6], atol=1e-6) and np.allclose(after, before, atol=1e-5)
        assert list(found) == ["as it was", "9.0 of 9 units active"]


def test_verdicts_say_who_wins():
    values = np.full((3, len(MEASURES), 5), np.nan)
    noise = np.random.default_rng(3).normal(size=5) * 1e-3
    error, redundancy = list(MEASURES).index("error"), list(MEASURES).index("redundancy")
    values[:, error] = np.array([0.2, 0.1, 0.4])[:, None] + noise
    values[:, redundancy] = 0.5 + noise
    values[1:, error] += noise[::-1]
    values[1:, redundancy] += np.array([-1.0, 1, -1, 1, 0.1]) * 1e-2
    table = verdict_table(Comparison(("competition", "better", "worse"), values, np.ones(5)))
    assert table == {
        "measure": ["error", "redundancy"],
        "competition is better than": ["worse", "–"],
        "worse than": ["better", "–"],
        "no clear difference": ["–", "better, worse"],
    }


def test_a_raster_leaves_silent_units_out_and_orders_the_others():
    activity = np.array([[0, 0, 1.0, 0], [0, -2, 1, 0], [3, 0, 0, 0]])
    assert np.array_equal(raster(activity), [[1, 1, 0], [0, -2, 0], [0, 0, 3]])


def test_one_device_is_enough():
    with pytest.raises(InputError, match="--devices"):
        study.execute(Options(), RunContext(settings=Settings(Options(), devices=2)))
