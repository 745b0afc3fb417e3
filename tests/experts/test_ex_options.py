"""What `catallax run experts` and `catallax generate` accept and refuse, before anything is computed."""

import subprocess
import sys
import typing
from importlib.metadata import EntryPoint

import pytest

import catallax.study
from catallax.cli import main
from catallax.errors import InputError
from catallax.experts.options import ExpertsStudy, Name, Options
from catallax.study import GROUP, Writer, check_study


def test_the_face_is_a_study_that_writes_text():
    check_study(ExpertsStudy())
    assert isinstance(ExpertsStudy(), Writer)


def test_help_needs_no_arrays():
    script = "import sys, catallax.experts.options; print({'jax', 'numpy', 'equinox'} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.stdout.strip() == "set()", ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"active": 17}, "17 of 16 experts"),
        ({"experts": 4, "active": 5}, "5 of 4 experts"),
        ({"experts": 1}, "--experts is 1, but must be at least 2"),
        ({"active": 0}, "--active is 0"),
        ({"steps": 0}, "--steps is 0"),
        ({"sample": -1}, "--sample is -1"),
        ({"capacity": 0.8}, "places for 80%"),
        ({"capacity": float("nan")}, "--capacity is nan"),
        ({"rate": float("inf")}, "--rate is inf"),
        ({"rate": 0.0}, "--rate is 0"),
        ({"width": 60}, "give a multiple of 8"),
        ({"routers": ()}, "--routers names nothing"),
        ({"routers": ("market", "market")}, "something twice"),
    ],
)
def test_values_that_make_no_sense_are_refused(given, said):
    with pytest.raises(InputError, match=said.replace("(", r"\(")):
        Options(**given)


def test_every_router_has_a_name():
    routers = pytest.importorskip("catallax.experts.routers")
    assert set(typing.get_args(Name)) == {*routers.ROUTERS, "causal", "vacant", "specialist", "weighed", "dense"}


class TestGenerate:
    @pytest.fixture(autouse=True)
    def installed(self, monkeypatch):
        points = [
            EntryPoint("experts", "catallax.experts.options:study", GROUP),
            EntryPoint("wealth", "catallax.wealth.options:study", GROUP),
        ]
        monkeypatch.setattr(catallax.study, "entry_points", lambda group: points if group == GROUP else [])

    def refused(self, capsys, *line: object) -> str:
        """Return the one line that a refused command prints."""
        assert main(["generate", *map(str, line)]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and len(captured.err.splitlines()) == 1
        return captured.err

    def test_a_folder_that_is_no_run(self, tmp_path, capsys):
        assert "has no config.toml" in self.refused(capsys, tmp_path)

    def test_a_run_of_another_study(self, tmp_path, capsys):
        (tmp_path / "config.toml").write_text('study = "wealth"\n')
        assert "'wealth', which writes no text" in self.refused(capsys, tmp_path)

    def test_a_run_without_models(self, tmp_path, capsys):
        (tmp_path / "config.toml").write_text('study = "experts"\n')
        assert "no model yet" in self.refused(capsys, tmp_path, "--prompt", "To be")

    def test_a_model_that_was_not_trained(self, tmp_path, capsys):
        (tmp_path / "config.toml").write_text('study = "experts"\n')
        (tmp_path / "answer").mkdir()
        (tmp_path / "answer" / "none.safetensors").write_bytes(b"")
        assert "did you mean 'none'" in self.refused(capsys, tmp_path, "--model", "nine")
