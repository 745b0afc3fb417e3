"""The wealth model: its laws, its stationary law, and its study."""

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import catallax.wealth.rules as rules
from catallax import InputError, Status, run
from catallax.runs.store import RunContext
from catallax.study import Settings, check_study
from catallax.testing import check_conservation, check_system
from catallax.wealth.certify import certify, distance, gini
from catallax.wealth.figures import lorenz
from catallax.wealth.options import Options, study
from catallax.wealth.problem import Economy
from catallax.wealth.rules import Exchange, start, total_money
from catallax.wealth.solve import begin, owned, solve

LAWS = {"money": total_money}


def test_keeps_every_law(key):
    state = run(Exchange(), start(jnp.linspace(1.0, 2.0, 23)), 3, key=key).state
    check_system(Exchange(), state, key=key, conserves=LAWS)


def test_money_does_not_drift_over_a_long_run_in_double_precision(key):
    with jax.enable_x64(True):
        check_conservation(Exchange(), start(jnp.ones(50)), key=key, conserves=LAWS, rounds=5000, tolerance=1e-12)


def test_the_exponential_law_is_reached_from_equality(key):
    economy = Economy(20_000)
    result = solve(begin(economy), rounds=40)
    wealth = owned(result.state)
    assert result.status is Status.FINISHED
    assert all(one.holds for one in certify(economy, wealth))
    np.testing.assert_allclose([gini(wealth), wealth.std() / 100.0, result.record[-1]], [0.5, 1, 1], atol=0.03)


def test_the_uniform_law_on_the_simplex_is_stationary_for_three_agents(key):
    """Exactly so, for any number of agents: thousands of economies of three, after two rounds."""

    def after(key):
        first, second = jax.random.split(key)
        money = jax.random.dirichlet(first, jnp.ones(3))
        state = run(Exchange(), start(money), 2, key=second).state
        return rules.wealth(state.agents, state.signal)

    wealth = np.asarray(jax.jit(jax.vmap(after))(jax.random.split(key, 4000)), float)
    np.testing.assert_allclose(wealth.sum(1), 1, rtol=1e-5)
    # Under the uniform law each coordinate has density 2(1 − x), and pairs correlate by −1/2.
    sample = np.sort(wealth[:, 0])
    law = 1 - (1 - sample) ** 2
    assert np.max(np.abs(law - (np.arange(4000) + 0.5) / 4000)) < 1.95 / np.sqrt(4000)
    np.testing.assert_allclose(np.corrcoef(wealth.T)[0, 1:], -0.5, atol=0.04)


class TestCertify:
    economy = Economy(5000, 10.0)

    def honest(self):
        wealth = np.random.default_rng(0).exponential(10.0, 5000)
        return wealth * 50_000 / wealth.sum()

    def verdict(self, wealth):
        return {one.name: one.holds for one in certify(self.economy, wealth)}

    def test_accepts_an_exponential_sample(self):
        assert all(self.verdict(self.honest()).values())

    def test_rejects_what_is_wrong(self):
        honest = self.honest()
        assert not self.verdict(honest * (1 + 2e-5))["money lost"]
        assert not self.verdict(np.full(5000, 10.0))["distance from the exponential law"]
        indebted = honest.copy()
        indebted[0], indebted[1] = -1.0, indebted[1] + indebted[0] + 1.0
        verdict = self.verdict(indebted)
        assert verdict["money lost"] and not verdict["debt"]
        assert not any(self.verdict(np.full(5000, np.nan)).values())

    def test_distance_and_gini_in_closed_form(self):
        law = -np.log1p(-(np.arange(100) + 0.5) / 100)
        assert distance(law, 1.0) == pytest.approx(0.005)
        assert gini(np.ones(10)) == pytest.approx(0)
        assert gini(np.eye(10)[0]) == pytest.approx(0.9)
        assert gini(np.array([1.0, 3.0])) == pytest.approx(0.25)
        agents, money = lorenz(np.array([3.0, 1.0]))
        np.testing.assert_allclose([agents, money], [[0, 0.5, 1], [0, 0.25, 1]])


class TestStudy:
    def test_is_a_study_that_does_not_load_jax(self):
        check_study(study)
        code = "import sys, catallax.wealth.options; sys.exit('jax' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

    @pytest.mark.parametrize("wrong", [{"agents": 1}, {"money": 0.0}, {"money": float("inf")}, {"rounds": 0}])
    def test_refuses_options_that_make_no_sense(self, wrong):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Options(**wrong)
        if "agents" in wrong:
            with pytest.raises(InputError):
                Economy(**wrong)

    def test_writes_what_it_found_and_resumes_bit_for_bit(self, tmp_path):
        def execute(directory, rounds, resuming=False):
            options = Options(agents=500, rounds=rounds)
            with RunContext(directory, study="wealth", settings=Settings(options), resuming=resuming) as context:
                outcome = study.execute(options, context)
                context.finish(outcome)
            return outcome

        whole, parts = tmp_path / "whole", tmp_path / "parts"
        outcome = execute(whole, 60)
        execute(parts, 25)
        execute(parts, 60, resuming=True)
        assert (whole / "answer" / "wealth.csv").read_bytes() == (parts / "answer" / "wealth.csv").read_bytes()
        assert (whole / "history.jsonl").read_bytes() == (parts / "history.jsonl").read_bytes()
        assert outcome.status == "finished" and all(one.holds for one in outcome.certificates)
        assert {path.name for path in (whole / "figures").iterdir()} >= {"histogram.svg", "lorenz.svg"}
        assert (whole / "report.html").stat().st_size > 1000


def test_the_card():
    lines = re.findall(r"^([A-Z][a-z ]+): .+$", rules.__doc__, re.MULTILINE)
    assert lines == [
        "Agents",
        "Signal",
        "Reads",
        "Emits",
        "Law of motion",
        "Conserves",
        "Rest",
        "Message size",
        "Source",
    ]
