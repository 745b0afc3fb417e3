"""The mean-field benchmarks: the same games as the peers', one yardstick, and the book-keeping; no speed."""

import dataclasses
import sys
from functools import partial

import numpy as np
import pytest

from benchmarks import machine, meanfield, meanfield_peers, report
from benchmarks.meanfield import BARS, OPENSPIEL_ORDER, Aim, judged, ratios
from benchmarks.meanfield_games import field
from benchmarks.meanfield_ours import Figures, law, played, scored
from benchmarks.meanfield_peers import Job, Played, measured
from catallax.meanfield.games.epidemic import Epidemic
from catallax.meanfield.games.grid import STEPS, four_rooms
from catallax.meanfield.games.simple import beach_bar


def even(game):
    return np.full((1, game.horizon, game.states, game.actions), 1 / game.actions)


@pytest.mark.parametrize(
    ("make", "theirs"),
    [
        (partial(beach_bar), 1.2212622),
        (partial(beach_bar, 100, 51, 50), 827.68024),
        (partial(Epidemic), 5.4668713),
        (partial(field, bars=BARS), 1.4674797),
    ],
    ids=["beach bar", "long beach", "epidemic", "crowd motion"],
)
def test_even_chances_are_as_exploitable_as_mfglib_says(make, theirs):
    # MFGLib 0.3.0's exploitability_score of the uniform policy, in single precision.
    assert scored(make, even(make()))[0] == pytest.approx(theirs, rel=1e-5)


def test_even_chances_in_four_rooms_are_as_exploitable_as_openspiel_says():
    # NashConv of UniformRandomPolicy on crowd_modelling_2d_four_rooms, OpenSpiel 2.0.2.
    game = four_rooms()
    assert scored(four_rooms, np.asarray(game.legal_policy()))[0] == pytest.approx(167.6604464714278, rel=1e-6)


def test_rounds_of_mirror_descent_lead_where_mfglib_says():
    # OnlineMirrorDescent(alpha=1) on its default beach bar, after 20 rounds, in single precision.
    found = law(partial(beach_bar), 20, 1.0, 1, 1)
    assert found.exploitability == pytest.approx(0.014400959, rel=1e-4)
    assert found.rounds == 20 and found.repeats == 1 and found.seconds is not None
    assert found.first_seconds is not None and found.first_seconds > found.seconds


def test_as_many_rounds_as_it_takes_and_not_one_more():
    goal = 0.02
    found = law(partial(beach_bar), 20, 1.0, 1, 1, goal=goal)
    assert found.exploitability is not None and found.exploitability <= goal * (1 + 1e-9)
    assert found.rounds is not None and found.rounds > 1
    short = law(partial(beach_bar), found.rounds - 1, 1.0, 1, 1)
    assert short.exploitability is not None and short.exploitability > goal


def test_the_yardstick_forgives_rounding_and_nothing_else():
    policy = even(beach_bar())
    rounded = policy.astype(np.float32) * np.float32(1 + 1e-6)
    assert scored(beach_bar, rounded)[0] == pytest.approx(scored(beach_bar, policy)[0], rel=1e-12)
    worse = policy.copy()
    worse[..., 0], worse[..., 1:] = 1.0, 0.0
    assert scored(beach_bar, worse)[0] > 2 * scored(beach_bar, policy)[0]


def test_openspiels_actions_are_ours_in_another_order():
    theirs = [(-1, 0), (0, -1), (0, 0), (0, 1), (1, 0)]
    assert [theirs[action] for action in OPENSPIEL_ORDER] == list(STEPS)


def test_a_field_keeps_the_crowd_on_it():
    game = field(4, 5, bars=[(2, 2)] * 2)
    targets, chances = game.moves(0, game.start()).listed()
    np.testing.assert_allclose(np.sum(chances, axis=-1), 1.0, atol=1e-6)
    assert np.min(targets) >= 0 and np.max(targets) < game.states
    # From the corner upwards: a gust back cancels the step before the edge is met, so only the one to the right moves.
    corner = np.sum(np.where(np.asarray(targets)[0, 1] == 0, np.asarray(chances)[0, 1], 0.0))
    assert corner == pytest.approx(7 / 8)


def test_a_peer_that_is_not_installed_says_so(tmp_path, monkeypatch):
    for name in ("mfglib", "torch"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('there is none')", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    job = Job("MFGLib", "beach_bar", 1)
    found = played(job, partial(beach_bar), (0, 1, 2), sys.executable, 60.0, legal=False)
    assert found.outcome.startswith("not installed: there is none")
    assert found.seconds is None and not found.reached


def test_a_peer_is_run_in_a_process_and_scored_by_us(tmp_path):
    script = tmp_path / "peer.py"
    script.write_text(
        "import sys, numpy as np\n"
        "from benchmarks import meanfield_peers as peers\n"
        "def fake(job):\n"
        "    policy = np.zeros((1, 3, 4, 3)); policy[..., 2] = 1.0\n"
        "    return (lambda rounds: rounds), (lambda found: peers.Played(policy, 7.0, 8.0, found))\n"
        "peers.PEERS['Fake'] = (fake, 'numpy')\n"
        "sys.exit(peers.main(sys.argv[-2:]))\n"
    )
    start = tmp_path / "python"
    start.write_text(f'#!/bin/sh\nshift 2\nexport PYTHONPATH="$PWD"\nexec {sys.executable} {script} "$@"\n')
    start.chmod(0o755)
    job = Job("Fake", "beach_bar", 5)
    found = played(job, partial(beach_bar), (2, 1, 0), str(start), 60.0, legal=False)
    assert found.outcome == "ran" and found.rounds == 5 and found.own_exploitability == 7.0
    left = np.zeros((1, 3, 4, 3))
    left[..., 0] = 1.0
    assert found.exploitability == pytest.approx(scored(beach_bar, left)[0])
    assert found.uniform == pytest.approx(1.2212622, rel=1e-5)


def test_a_peer_counts_its_rounds_and_not_its_loading(monkeypatch):
    calls = []

    def fake(job):
        return (lambda rounds: calls.append(rounds)), (lambda found: Played(np.ones((1, 1, 1, 1)), 0.5, 1.0, 40))

    monkeypatch.setitem(meanfield_peers.PEERS, "Fake", (fake, "numpy"))
    _, figures = measured(Job("Fake", "none", 50, repeats=3))
    assert calls == [2, 50, 50, 50]
    assert figures["repeats"] == 3 and figures["rounds"] == 40
    assert figures["seconds_per_round"] == pytest.approx(figures["seconds"] / 50)


OURS = Figures("catallax", 1e-6, "settled", 1.0, 1.0, 1.0, 9.0, 0.01, 3, 100, 0.1, 1e-3, peak_bytes=10**9, reached=True)
PEER = dataclasses.replace(
    OURS, method="peer", seconds=600.0, cpu_seconds=300.0, seconds_per_round=6.0, exploitability=0.2, relative=2e-3,
    uniform=5.0, own_uniform=5.0001,
)  # fmt: skip


def test_ratios():
    ours, peer = (dataclasses.replace(run, least_seconds=run.seconds / 2) for run in (OURS, PEER))
    assert ratios(ours, peer) == pytest.approx({"wall": 600, "cpu": 300, "round": 600, "least": 600, "at_least": False})
    gone = Figures("peer", 1.0, "did not finish in 300 s")
    assert ratios(OURS, gone)["wall"] is None


@pytest.mark.parametrize(
    ("kind", "met", "missed"),
    [
        ("per round", 599, 601),
        ("uniform", 3e-5, 1e-5),
        ("equal", 2e-3, 1e-4),
        ("exploitability", 1e-2, 1e-4),
        ("seconds", 1.5, 0.5),
        ("gigabytes", 1.5, 0.5),
    ],
)
def test_an_aim_is_reached_or_not(kind, met, missed):
    assert judged(Aim(kind, met), OURS, OURS, [PEER])["reached"]
    assert not judged(Aim(kind, missed), OURS, OURS, [PEER])["reached"]
    unknown = Figures("catallax", 1.0, "did not finish in 1 s")
    assert not judged(Aim(kind, met), unknown, unknown, [unknown])["reached"]


def test_lower_means_than_the_best_of_all():
    better = dataclasses.replace(PEER, exploitability=0.05)
    assert judged(Aim("lower"), OURS, OURS, [PEER])["reached"]
    assert not judged(Aim("lower"), OURS, OURS, [PEER, better])["reached"]
    assert not judged(Aim("lower"), OURS, OURS, [])["reached"]


def test_results_are_shown_kept_and_compared(tmp_path, capsys):
    case = {
        "name": "bar", "problem": "beach_bar()", "target": 1e-6, "ours": dataclasses.asdict(OURS),
        "solve": dataclasses.asdict(OURS), "peers": [dataclasses.asdict(PEER)], "ratios": {"peer": ratios(OURS, PEER)},
        "aims": [judged(Aim("per round", 500), OURS, OURS, [PEER])],
    }  # fmt: skip
    rung = {"states": 64, "rounds": 5, "seconds": 0.5, "seconds_per_round": 0.1, "peak_bytes": 10**9}
    results = {
        "system": "meanfield", "date": "2026-01-01", "machine": machine.description(), "cases": [case],
        "ladder": {"points": [rung], "exponent": None, "aims": []},
    }  # fmt: skip
    path = tmp_path / "meanfield.json"
    report.save(results, path, None)
    kept = report.load(path)
    assert kept is not None and kept["cases"][0]["peers"][0]["own_uniform"] == 5.0
    report.show(results)
    assert "at least 500 times" in " ".join(capsys.readouterr().out.split())
    assert report.alarm(results, kept) == 0
    slow = dict(case, ours=dataclasses.asdict(dataclasses.replace(OURS, least_seconds=3.0)))
    assert report.alarm(results | {"cases": [slow]}, kept) == 1


def test_an_earlier_figure_of_a_slow_peer_is_kept_only_for_the_same_job():
    job = Job("MFGLib", "beach_bar", 30, settings={"alpha": 1.0})
    case = meanfield.Case("bar", partial(beach_bar), (job,))
    found = dataclasses.asdict(dataclasses.replace(PEER, method=job.name, setting=30, outcome="ran"))
    old = {"name": "bar", "problem": case.problem, "peers": [found]}
    before = {"date": "2026-01-01", "machine": machine.description(), "cases": [old]}
    kept = meanfield._earlier(before, case, job)
    assert kept is not None and kept.date == "2026-01-01"
    assert meanfield._earlier(before, case, dataclasses.replace(job, rounds=31)) is None
    assert meanfield._earlier(before, dataclasses.replace(case, make=partial(beach_bar, 5)), job) is None
