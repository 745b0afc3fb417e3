"""`catallax run experts` and `catallax generate`: from texts to tables, pictures, certificates and the report."""

import csv
import dataclasses
import json
import typing
from importlib.metadata import EntryPoint
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import catallax.study
from catallax.cli import main
from catallax.errors import InputError
from catallax.experts import study
from catallax.experts.compare import HELD_VIOLATION, LOSS, LOSS_MOVING, MEASURES, MOVING_VIOLATION, TRAIN_VIOLATION
from catallax.experts.compare import ROUTERS as COMPARED
from catallax.experts.evaluate import evaluate
from catallax.experts.figures import by_kind, draw_prices
from catallax.experts.judge import SAMPLE, Judged
from catallax.experts.judge import certify_batch as certified
from catallax.experts.model import load
from catallax.experts.options import Name, Options
from catallax.experts.options import study as face
from catallax.experts.sections import AIMS, WHAT, Findings, sections
from catallax.experts.text import read_texts, split, windows
from catallax.experts.trade import LOSSES, accounts
from catallax.runs.store import RunContext
from catallax.runs.tables import svg_of
from catallax.study import GROUP, Settings, settings

SMALL = {
    "experts": 4, "layers": 2, "width": 8, "heads": 2, "hidden": 8, "context": 16, "batch": 4, "sample": 8, "steps": 6,
}  # fmt: skip


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    """Look at a training every second step, and time it once."""
    monkeypatch.setattr(study, "EVERY", 2)
    monkeypatch.setattr(study, "ROUNDS", 1)


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> Options:
    """Two domains, one of words and one of numbers."""
    folder, rng = tmp_path_factory.mktemp("texts"), np.random.default_rng(4)
    words = ["the", "crowd", "sees", "a", "price", "and", "Each", "buys\n"]
    (folder / "words.txt").write_text(" ".join(rng.choice(words, 1500)))
    (folder / "numbers.txt").write_text(" ".join(map(str, rng.integers(0, 9999, 1500))))
    return Options((folder / "words.txt", folder / "numbers.txt"), routers=("market",), **SMALL)


class Impatient(RunContext):
    """A run whose user presses Ctrl-C once it has been checkpointed so many times."""

    patience = 1

    def checkpoint(self, state):
        super().checkpoint(state)
        self.patience -= 1
        if self.patience == 0:
            self.stop()


def do(options: Options, folder: Path, kind: type[RunContext] = RunContext):
    """Run the study in a folder; return its outcome."""
    with kind(folder, study="experts", settings=Settings(options, seed=3)) as run:
        outcome = study.execute(options, run)
        run.finish(outcome)
    return outcome


def again(folder: Path):
    """Resume the run in a folder."""
    chosen = settings(face, config=folder / "config.toml")
    with RunContext(folder, study="experts", settings=chosen, resuming=True) as run:
        outcome = study.execute(chosen.options, run)
        run.finish(outcome)
    return outcome


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def whole(options, tmp_path_factory):
    """An uninterrupted run: its folder and its outcome."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "EVERY", 2)
        patch.setattr(study, "ROUNDS", 1)
        return folder, do(options, folder)


class TestRun:
    def test_the_tables_say_what_the_saved_model_does(self, options, whole):
        folder, outcome = whole
        held = split(read_texts(options.text))[1]
        model, states = load(folder / "answer" / "market.safetensors", study.shape_of(options, "market"))
        found = evaluate(model, states, held, batch=4)
        moving = evaluate(model, states, held, batch=4, moving=True)
        said = {
            row["measure"]: float(row["value"])
            for row in rows_of(folder / "answer" / "comparison.csv")
            if row["router"] == "market"
        }
        assert said[LOSS] == found.mean_loss and said[HELD_VIOLATION] == found.max_violation.max()
        assert said[LOSS_MOVING] == moving.mean_loss and said[MOVING_VIOLATION] == moving.max_violation.max()
        assert set(said) == set(MEASURES) and np.isfinite(list(said.values())).all()
        count = sum(int(row["tokens"]) for row in rows_of(folder / "answer" / "served.csv")
                    if (row["router"], row["about"]) == ("market", "domain"))  # fmt: skip
        # Who serves whom is told of the frozen price.
        assert count == found.kept.sum() != moving.kept.sum()
        assert {claim.name for claim in outcome.certificates} == {"gap", "load", "experts", TRAIN_VIOLATION}
        held_to = {claim.name: claim for claim in outcome.certificates}
        assert held_to["load"].holds and held_to["experts"].holds and held_to["gap"].value < 0.01

    def test_the_accounts_are_those_of_the_saved_model(self, options, whole):
        model, states = load(whole[0] / "answer" / "market.safetensors")
        some = windows(split(read_texts(options.text))[1], options.context, SAMPLE)[0]
        trade = accounts(model, states, jnp.asarray(some, jnp.int32))
        rows = rows_of(whole[0] / "answer" / "accounts.csv")
        for name in ("gain", "revenue"):
            said = np.reshape([float(row[name]) for row in rows], (2, 4))
            np.testing.assert_allclose(said, np.asarray(getattr(trade, name)) / some[:, 1:].size, rtol=1e-5)

    def test_the_history_holds_loads_and_prices(self, whole):
        history = [json.loads(line) for line in (whole[0] / "history.jsonl").read_text().splitlines()]
        assert [(row["router"], row["step"]) for row in history] == [("market", step) for step in (2, 4, 6)]
        for row in history:
            load = np.array(row["load"])
            # Two steps of 4 · 16 tokens, each of which asks for two experts.
            assert load.shape == (2, 4) and np.array_equal(load.sum(axis=1), [256, 256])
            assert np.any(row["price"])

    def test_everything_is_written_and_shown(self, whole):
        folder, outcome = whole
        drawn = {path.stem for path in (folder / "figures").glob("*.svg")}
        assert drawn == {"learning", "loads", "prices", "served"}
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert page.count("<figure") == len(drawn) and "words.txt" in page
        assert all(f">{section.title}<" in page for section in outcome.sections)
        assert len((folder / "answer" / "market.txt").read_bytes()) >= 16 + 8

    def test_a_gap_is_found_where_tokens_are_misplaced(self, options, whole, monkeypatch):
        model, states = load(whole[0] / "answer" / "market.safetensors")
        held = split(read_texts(options.text))[1]
        honest = {claim.name: claim for claim in certified(model, states, held, 4)}
        from catallax.experts import judge

        def misplaced(*given):
            affinity, chosen, price = cleared(*given)
            return affinity, np.zeros_like(chosen), price

        cleared = judge._cleared
        monkeypatch.setattr(judge, "_cleared", misplaced)
        found = {claim.name: claim for claim in certified(model, states, held, 4)}
        assert not any(claim.holds for claim in found.values())
        assert found["load"].value > honest["load"].value == 0

    @pytest.mark.bench
    def test_a_router_without_experts_and_an_aim_of_their_own(self, options, tmp_path):
        given = {**SMALL, "steps": 2, "sample": 0, "objective": "revenue"}
        outcome = do(Options(options.text[:1], routers=("dense", "hash"), **given), tmp_path / "run")
        assert outcome.certificates == [] and "dense" in outcome.summary[0] and "MaxVio" not in outcome.summary[0]
        values = {
            (row["router"], row["measure"]): row["value"] for row in rows_of(tmp_path / "run/answer/comparison.csv")
        }
        assert float(values["dense", LOSS]) > 0 and np.isnan(float(values["dense", TRAIN_VIOLATION]))

    @pytest.mark.bench
    def test_specialists_are_certified_and_write(self, options, tmp_path, capsys):
        # As many places as the promise of balance takes: a token too many of 32 is more than .03.
        given = {**SMALL, "steps": 2, "sample": 0, "batch": 16}
        outcome = do(Options(options.text, routers=("none", "specialist"), **given), tmp_path / "run")
        assert [claim.name for claim in outcome.certificates] == ["gap", "load", "experts", TRAIN_VIOLATION]
        assert all(claim.holds for claim in outcome.certificates)
        stored = " ".join(load_file(tmp_path / "run/answer/specialist.safetensors"))
        assert "blocks.layer.hearing" in stored and "blocks.layer.table" in stored
        line = ["generate", str(tmp_path / "run"), "--model", "specialist", "--prompt", "a price", "--count", "4"]
        assert main(line) == 0 and capsys.readouterr().out.startswith("a price")


class TestResume:
    def alike(self, one: Path, other: Path) -> None:
        """Check that two runs came to the same answer, bit for bit."""
        for path in (other / "answer").glob("*.safetensors"):
            found, wanted = load_file(one / "answer" / path.name), load_file(path)
            assert found.keys() == wanted.keys() and all(np.array_equal(found[name], wanted[name]) for name in wanted)
        for name in ("history.jsonl", "answer/served.csv", "answer/prices.csv", "answer/market.txt"):
            assert (one / name).read_bytes() == (other / name).read_bytes()

    def test_a_stopped_run_resumes_to_the_same_answer(self, options, whole, tmp_path):
        folder = tmp_path / "stopped"
        with pytest.raises(KeyboardInterrupt):
            do(options, folder, Impatient)
        assert not (folder / "answer" / "market.safetensors").exists()
        again(folder)
        self.alike(folder, whole[0])

    @pytest.mark.bench
    def test_a_run_stopped_at_its_second_router_resumes_to_the_same_answer(self, options, tmp_path):
        both = dataclasses.replace(options, routers=("market", "none"))
        do(both, tmp_path / "whole")
        folder = tmp_path / "stopped"
        with pytest.raises(KeyboardInterrupt):
            do(both, folder, type("Later", (Impatient,), {"patience": 5}))
        assert (folder / "answer" / "market.safetensors").exists()
        assert not (folder / "answer" / "none.safetensors").exists()
        again(folder)
        self.alike(folder, tmp_path / "whole")

    def test_a_checkpoint_of_another_model_is_refused(self, options, tmp_path):
        folder = tmp_path / "run"
        with pytest.raises(KeyboardInterrupt):
            do(options, folder, Impatient)
        path = folder / "checkpoint.safetensors"
        # A vocabulary of 128.
        tensors = {
            name: value[:128] if "embedding" in name and value.shape[:1] == (256,) else value
            for name, value in load_file(path).items()
        }
        save_file(tensors, path, {"records": "1"})
        with pytest.raises(InputError, match=r"does not fit this run: .*embedding is .*\[128, 8\], but .*\[256, 8\]"):
            again(folder)

    @pytest.mark.bench
    def test_a_loss_that_is_no_number_stops_at_the_last_good_checkpoint(self, options, tmp_path, monkeypatch):
        given = {**SMALL, "rate": 1e30, "sample": 0}
        with pytest.raises(InputError, match=r"'market' the loss stopped being a number; .* step \d: .* --rate"):
            do(Options(options.text, routers=("market",), **given), tmp_path / "run")
        state = load_file(tmp_path / "run" / "checkpoint.safetensors")
        assert all(np.isfinite(value).all() for value in state.values() if value.dtype.kind == "f")
        assert not (tmp_path / "run" / "answer" / "market.safetensors").exists()


class TestRefused:
    @pytest.fixture(autouse=True)
    def installed(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        points = [EntryPoint("experts", "catallax.experts.options:study", GROUP)]
        monkeypatch.setattr(catallax.study, "entry_points", lambda group: points if group == GROUP else [])

    @pytest.mark.parametrize(
        ("content", "flags", "said"),
        [
            (b"", "", "empty"),
            (b"a few words", "", "11 bytes"),
            (b"x" * 5000 + b"\0", "", "NUL"),
            (None, "", "no such file"),
            (b"words " * 1000, "--context 700", "window takes 701"),
            (b"words " * 1000, "--active 17", "17 of 16 experts"),
            (b"words " * 1000, "--capacity 0.5", "places for 50%"),
            (b"words " * 1000, "--devices 2", "leave out --devices 2"),
            (b"words " * 1000, "--routers market,nine", "market, none"),
        ],
    )
    def test_texts_and_options_that_cannot_be_used(self, content, flags, said, capsys):
        if content is not None:
            Path("text.txt").write_bytes(content)
        assert main(["run", "experts", "text.txt", *flags.split()]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and said in lines[0] and not Path("runs").exists()

    def test_text_is_written_as_the_run_s_model_would(self, whole, capsys):
        line = ["generate", str(whole[0]), "--prompt", "the crowd", "--count", "8", "--seed", "5"]
        assert main(line) == 0
        first = capsys.readouterr().out
        assert first.startswith("the crowd") and main([*line, "--model", "market"]) == 0
        assert capsys.readouterr().out == first
        for flags, said in ((["--model", "mraket"], "did you mean 'market'"), (["--temperature", "-1"], "negative")):
            assert main([*line, *flags]) == 2
            assert said in capsys.readouterr().err


def test_every_router_and_every_aim_is_described():
    assert set(typing.get_args(Name)) == set(WHAT) == set(COMPARED)
    assert set(typing.get_args(typing.get_type_hints(Options)["objective"])) == set(AIMS) == set(LOSSES)


def test_who_is_better_off_is_told_by_name():
    def one(router, loss, gain):
        accounts = {name: np.array([[1.0, 2.0], [3.0, gain]]) for name in ("gain", "revenue")} if gain else {}
        scores = dict.fromkeys(MEASURES, 1.0)
        return Judged(router, {"step": np.array([]), "loss": np.array([])}, scores, {"a": loss, "b": 2.0}, {}, accounts)

    judged = [one("market", 1.0, 4.0), one("none", 1.5, 5.0), one("hash", 1.0, 3.5), one("dense", 0.5, None)]
    page = {section.title: section for section in sections(Findings(Options(), (1, 1), judged))}["Who is better off"]
    rows = list(zip(*(page.table or {}).values(), strict=True))
    assert rows == [
        ("none", "domains", "1 of 2: a", ""),
        ("none", "experts, gain", "", "1 of 4: 2.1"),
        ("none", "experts, revenue", "", "1 of 4: 2.1"),
        ("hash", "domains", "", ""),
        ("hash", "experts, gain", "1 of 4: 2.1", ""),
        ("hash", "experts, revenue", "1 of 4: 2.1", ""),
        ("dense", "domains", "", "1 of 2: a"),
    ]
    assert page.text.endswith("a Pareto improvement, than under: hash.")


def test_experts_of_one_kind_stand_together():
    shares = np.array([[0.1, 0.5, 0.0, 0.4], [0.6, 0.1, 0.3, 0.0]])
    assert by_kind(shares).tolist() == [1, 3, 0, 2]


def test_shares_are_those_of_the_kind():
    counts = np.zeros((2, 3, 2))
    counts[1] = [[4, 0], [0, 3], [4, 1]]
    one = Judged("market", {}, {}, {}, {"byte": (("a", "b"), counts), "domain": (("here", "there"), counts)})
    found = study.shares(one)
    assert np.array_equal(found["byte"][1], [[0.5, 0.5, 0], [0, 0.25, 0.75]]) and found["byte"][0] == ["a", "b"]


def test_prices_are_drawn_beside_their_layer_s_mean():
    text = svg_of(draw_prices(np.array([2, 4]), np.arange(12.0).reshape(2, 2, 3)))
    assert text.startswith("<?xml") and ">layer 2<" in text and ">steps<" in text
