"""The loop: recorded, watched, cut into pieces, stopped, gone wrong, and compiled once."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from crowds import Crowd, assert_same, crowd

from catallax import AbstractSystem, RunFailed, State, Status, Sum, progress_bar, run
from catallax.runs.checkpoint import pack, unpack


class Count(AbstractSystem):
    """The signal counts rounds; agents add it up. `fail` is the round in which the signal becomes NaN."""

    fail: jax.Array = eqx.field(default_factory=lambda: jnp.array(1e6))

    def respond(self, agent, signal, key):
        return agent + signal, Sum(jnp.ones(()))

    def propagate(self, signal, total):
        after = signal + total / 4.0
        return jnp.where(after == self.fail, jnp.nan, after)


def counting(round=0):
    return State(jnp.zeros(4), jnp.array(float(round)), round)


class TestRecord:
    @pytest.mark.parametrize(("start", "rounds", "every"), [(0, 20, 1), (0, 20, 7), (3, 20, 7), (6, 1, 7), (3, 2, 7)])
    def test_after_every_so_many_rounds(self, start, rounds, every):
        result = run(
            Count(),
            counting(start),
            rounds,
            record=lambda s: {"signal": s.signal, "x": s.agents},
            every=every,
        )
        due = [r for r in range(start + 1, start + rounds + 1) if r % every == 0]
        np.testing.assert_array_equal(result.recorded, due)
        np.testing.assert_array_equal(result.record["signal"], due)
        assert result.record["x"].shape == (len(due), 4)

    @pytest.mark.parametrize("start", [0, 3])
    def test_inside_a_transformation_too(self, start):
        """There the start may not be known, and a row stays empty."""
        record = lambda state: state.signal  # noqa: E731
        inside = jax.jit(lambda s: run(Count(), s, 20, record=record, every=7))(counting(start))
        outside = run(Count(), counting(start), 20, record=record, every=7)
        seen = np.asarray(inside.recorded) > 0
        np.testing.assert_array_equal(inside.recorded[seen], outside.recorded)
        np.testing.assert_array_equal(inside.record[seen], outside.record)

    def test_of_no_rounds_inside_a_transformation(self):
        inside = jax.jit(lambda s: run(Count(), s, 0, record=lambda state: state.signal))(counting())
        assert inside.record.shape == (0,) and inside.state.signal == counting().signal

    def test_more_than_the_loop_holds(self, monkeypatch):
        monkeypatch.setattr("catallax.core.run.RECORD_BYTES", 12)
        result = run(Count(), counting(), 50, record=lambda s: s.signal, every=2)
        np.testing.assert_array_equal(result.record, np.arange(2.0, 51.0, 2.0))


class TestWatch:
    def test_sees_every_record_once_and_the_end(self):
        seen = []
        result = run(Count(), counting(), 100, record=lambda s: s.signal, watch=seen.append)
        np.testing.assert_array_equal(np.concatenate([p.record for p in seen]), result.record)
        assert [int(p.state.round) for p in seen][-1] == seen[-1].last_round == 100
        assert len(seen) > 2 and np.all(np.diff([p.seconds for p in seen]) > 0)
        assert seen[-1].status is None and np.isnan(seen[-1].residual)

    def test_a_bar_counts_to_the_end(self, capsys):
        run(Count(), counting(), 100, watch=progress_bar("counting"))
        shown = capsys.readouterr().out
        assert "counting" in shown and "100/100" in shown

    def test_sees_agents_without_fillers(self):
        sizes = set()
        run(Crowd(), crowd(7), 3, block=4, watch=lambda p: sizes.add(p.state.agents["x"].shape))
        assert sizes == {(7,)}


@pytest.fixture(scope="module")
def whole():
    return run(Crowd(), crowd(11), 40, key=jax.random.key(1), record=lambda s: s.signal["mean"])


class TestPieces:
    @pytest.mark.parametrize("first", [1, 13, 40])
    def test_in_two_pieces_bit_for_bit(self, first, whole):
        one = run(Crowd(), crowd(11), first, key=jax.random.key(1), record=lambda s: s.signal["mean"])
        two = run(Crowd(), one.state, 40 - first, key=jax.random.key(1), record=lambda s: s.signal["mean"])
        assert_same(whole.state, two.state, rtol=None)
        records = [r.record for r in (one, two) if r.record is not None]
        np.testing.assert_array_equal(np.concatenate(records), whole.record)

    def test_through_a_checkpoint_bit_for_bit(self, whole, tmp_path):
        saved = []
        run(Crowd(), crowd(11), 23, key=jax.random.key(1), watch=lambda p: saved.append(pack(p.state, {})))
        path = tmp_path / "checkpoint.safetensors"
        path.write_bytes(saved[-2])
        state = unpack(path, crowd(11))
        assert 0 < int(state.round) < 23
        rest = run(Crowd(), state, 40 - int(state.round), key=jax.random.key(1))
        assert_same(whole.state, rest.state, rtol=None)

    def test_no_rounds_change_nothing(self):
        result = run(Crowd(), crowd(11), 0)
        assert_same(crowd(11), result.state, rtol=None)
        assert result.status is Status.FINISHED

    def test_in_blocks(self, whole):
        assert_same(whole.state, run(Crowd(), crowd(11), 40, key=jax.random.key(1), block=3).state, rtol=1e-5)


SLOW = """
    import jax, jax.numpy as jnp, numpy as np, time
    from catallax import AbstractSystem, State, Sum, run

    class Slow(AbstractSystem):
        def respond(self, agent, signal, key):
            return agent, Sum(agent)

        def propagate(self, signal, total):
            wait = lambda x: (time.sleep(0.02), np.float32(x))[1]
            return signal + jax.pure_callback(wait, jax.ShapeDtypeStruct((), signal.dtype), total)

    chunks = []
    def watch(progress):
        chunks.append(int(progress.state.round))
        print("chunk", chunks[-1], flush=True)

    result = run(Slow(), State(jnp.ones(1), jnp.zeros(())), 10**6, record=lambda s: s.signal, watch=watch)
    assert str(result.status) == "stopped" and not result.status.failed, result.status
    assert int(result.state.round) == chunks[-1] == len(result.record) == int(result.record[-1])
    import signal
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    print("stopped", flush=True)
"""


def test_an_interrupt_ends_the_run_after_the_chunk():
    arguments = [sys.executable, "-c", textwrap.dedent(SLOW)]
    path = os.pathsep.join(p for p in sys.path if p)
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    ) as process:
        try:
            for _ in range(3):
                assert process.stdout.readline().startswith("chunk")
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert rest.splitlines()[-1] == "stopped" and process.returncode == 0
    assert time.monotonic() - began < 30


class TestFailure:
    @pytest.mark.parametrize("fail", [1, 2, 30])
    def test_a_nan_ends_the_run_with_the_last_sound_state(self, fail):
        """Whatever the chunks were, the state is that before the round that failed."""
        result = run(Count(jnp.array(float(fail))), counting(), 100, record=lambda s: s.signal)
        assert result.status is Status.NON_FINITE and result.status.failed
        assert (int(result.state.round), float(result.state.signal)) == (fail - 1, fail - 1)
        np.testing.assert_array_equal(result.record, np.arange(1.0, fail))

    def test_as_an_exception(self):
        with pytest.raises(RunFailed, match="non finite: the signal became NaN; look for a division by zero") as caught:
            run(Count(jnp.array(5.0)), counting(), 100, throw=True)
        assert caught.value.status is Status.NON_FINITE and int(caught.value.result.state.round) == 4

    def test_infinity_is_no_nan(self):
        class Up(Count):
            def propagate(self, signal, total):
                return signal / 0.0

        assert run(Up(), counting(1), 3).status is Status.FINISHED

    def test_inside_a_transformation_the_status_is_an_array(self):
        status = jax.jit(jax.vmap(lambda f: run(Count(f), counting(), 8).status))(jnp.array([3.0, 20.0]))
        np.testing.assert_array_equal(status, [Status.NON_FINITE, Status.FINISHED])

    @pytest.mark.parametrize(("rounds", "every"), [(-1, 1), (1, 0)])
    def test_senseless_numbers(self, rounds, every):
        with pytest.raises(ValueError, match="rounds must not be negative and every at least 1; got"):
            run(Count(), counting(), rounds, every=every)


class Traced(AbstractSystem):
    """Tells how often it was traced."""

    gain: np.ndarray
    log: list = eqx.field(static=True)

    def __hash__(self):
        return 0

    def respond(self, agent, signal, key):
        TRACES.append("respond")
        return agent, Sum(agent * self.gain)

    def propagate(self, signal, total):
        TRACES.append("propagate")
        return total


TRACES: list = []


class TestCompilation:
    @pytest.fixture(autouse=True)
    def forget(self):
        TRACES.clear()

    @staticmethod
    def system(gain=1.0):
        class_ = type("Fresh", (Traced,), {})
        return lambda gain=gain: class_(jnp.array(gain), ())

    def test_once_whatever_the_rounds_the_state_the_key_and_the_parameters(self):
        build = self.system()
        first = run(build(), State(jnp.ones(5), 0.0), 3)
        counts = TRACES.count("respond"), TRACES.count("propagate")
        assert counts == (3, 1)
        run(build(2.0), first.state, 77, key=jax.random.key(5))
        run(build(3.0), State(np.zeros(5, np.float32), 1.0), 9)
        assert (TRACES.count("respond"), TRACES.count("propagate")) == (3, 1)

    def test_once_for_numpy_parameters(self):
        build = self.system()
        for gain in (1.0, 2.0):
            system = eqx.tree_at(lambda s: s.gain, build(), np.float32(gain) * np.ones(()))
            assert float(run(system, State(jnp.ones(5), 0.0), 3).state.signal) == 5 * gain
        assert TRACES.count("propagate") == 1

    @pytest.mark.parametrize("devices", [2, 8])
    def test_once_on_devices(self, devices):
        from catallax import mesh

        build = self.system()
        first = run(build(), State(jnp.ones(5), 0.0), 30, mesh=mesh(devices))
        assert TRACES.count("propagate") == 1
        run(build(2.0), first.state, 3, mesh=mesh(devices))
        assert (TRACES.count("respond"), TRACES.count("propagate")) == (3, 1)

    def test_another_precision_is_another_program(self):
        build = self.system()
        run(build(), State(jnp.ones(5), 0.0), 1)
        with jax.enable_x64(True):
            signal = run(build(), State(jnp.ones(5), jnp.zeros(())), 1).state.signal
        assert signal.dtype == jnp.float64

    def test_constants_under_jit(self):
        """Nothing that goes in is traced, and yet nothing can be read on the host."""
        system, state, key = self.system()(), State(jnp.ones(5), jnp.zeros(())), jax.random.key(0)
        inside = jax.jit(lambda: run(system, state, 2, key=key).state.signal)()
        np.testing.assert_array_equal(inside, 5.0)
