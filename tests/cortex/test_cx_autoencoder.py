"""Sparse autoencoders: what competition rests at, what training promises, and the file that others read."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from catallax.cortex import autoencoder, compete, objectives
from catallax.cortex.autoencoder import Autoencoder, Moments, adam, first_training, load, train, unexplained
from catallax.cortex.features import mcc
from catallax.errors import InputError

INPUTS, UNITS, ACTIVE = 12, 16, 2


def unit_rows(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


FIELDS = unit_rows(np.random.default_rng(0).normal(size=(UNITS, INPUTS)))


def samples(count: int, seed: int = 1) -> np.ndarray:
    """Samples in which each of `UNITS` features is active in a share ACTIVE/UNITS, plus one."""
    rng = np.random.default_rng(seed)
    activity = (rng.random((count, UNITS)) < ACTIVE / UNITS) * (1 + 0.2 * rng.normal(size=(count, UNITS)))
    return (activity @ FIELDS + 1).astype(np.float32)


DATA = samples(3000)


def trained(kind: str, steps: int = 20, data=DATA, **options) -> Autoencoder:
    return train(data, UNITS, kind=kind, active=ACTIVE, steps=steps, batch=64, rate=1e-2, **options)


@pytest.fixture(scope="module")
def competing() -> Autoencoder:
    """Trained by competition, 200 batches, seed 0."""
    return trained("competition", 200)


# Competition

PRICE = 0.6


@pytest.fixture(scope="module")
def contest():
    """Five samples, eight units and their fields for each; what they rest at after 1, 2, 3 and 300 sweeps, seed 2."""
    rng = np.random.default_rng(2)
    own = unit_rows(rng.normal(size=(5, 8, 6))).astype(np.float32)
    stimuli = (2 * rng.normal(size=(5, 6))).astype(np.float32)
    drive, between = np.einsum("sij,sj->si", own, stimuli), compete.overlaps(own)
    run = jax.jit(lambda sweeps: compete.compete(drive, between, jnp.float32(PRICE), 1, sweeps, 0.0))
    return own, stimuli, drive, between, {sweeps: np.asarray(run(sweeps)) for sweeps in (1, 2, 3, 300)}


def energy(own, stimuli, activity):
    left = stimuli - np.einsum("si,sij->sj", activity, own)
    return 0.5 * (left**2).sum(1) + 0.5 * PRICE**2 * (activity > 0).sum(1)


def test_no_sweep_at_one_price_raises_the_energy(contest):
    own, stimuli, _, _, rests = contest
    energies = [energy(own, stimuli, np.zeros((5, 8)))] + [energy(own, stimuli, rest) for rest in rests.values()]
    assert (np.diff(energies, axis=0) < 1e-5).all() and (energies[-1] < energies[0] - 0.1).all()


def test_at_rest_amplitudes_are_refitted_and_nobody_else_is_worth_its_price(contest):
    own, stimuli, _, _, rests = contest
    for fields, stimulus, activity in zip(own, stimuli, rests[300], strict=True):
        on = activity > 0
        fitted = np.linalg.lstsq(fields[on].T, stimulus, rcond=None)[0]
        assert np.allclose(activity[on], fitted, atol=1e-4)
        hears = fields @ (stimulus - activity @ fields)
        assert (activity[on] > PRICE).all() and (hears[~on] < PRICE + 1e-4).all()


def in_turn(fields, stimulus, prices, still):
    """Each unit in its turn, once at each of these prices: float64, from the residual itself."""
    activity = np.zeros(len(fields))
    for price in prices:
        for unit, field in enumerate(fields):
            wanted = field @ (stimulus - activity @ fields) + activity[unit]
            new = wanted if wanted > price else 0.0
            if abs(new - activity[unit]) > still:
                activity[unit] = new
    return activity


def test_the_price_falls_from_the_largest_drive_and_each_unit_has_its_turn(contest):
    own, stimuli, drive, between, _ = contest
    after = np.asarray(compete.compete(drive, between, jnp.float32(PRICE), 3, 5, 0.1))
    for fields, stimulus, heard, activity in zip(own, stimuli, drive, after, strict=True):
        prices = [heard.max() * (PRICE / heard.max()) ** share for share in (1 / 3, 2 / 3)] + 3 * [PRICE]
        assert np.allclose(activity, in_turn(fields, stimulus, prices, 0.1 * PRICE), atol=1e-4)


@pytest.mark.parametrize("table", [compete.TABLE, 8])
def test_the_compiled_loop_and_jax_rest_at_the_same(table, monkeypatch):
    """Forty units, more than a block and no whole number of them; all compete, or the 24 of largest drive; seed 4."""
    monkeypatch.setattr(compete, "TABLE", table)
    monkeypatch.setattr(compete, "PROPOSED", 24)
    rng = np.random.default_rng(4)
    fields = unit_rows(rng.normal(size=(40, 12))).astype(np.float32)
    stimuli = (3 * rng.normal(size=(130, 12))).astype(np.float32)
    by_jax = np.asarray(jax.jit(lambda *of: compete.rest(*of))(stimuli, fields, jnp.float32(PRICE)))
    compiled = compete.rest_on_cpu(stimuli, fields, jnp.float32(PRICE))
    # Where a sum's last bit decides who is above the price, one sample may rest elsewhere.
    assert np.isclose(by_jax, compiled, atol=1e-4).all(1).mean() > 0.99
    assert 2 < np.count_nonzero(compiled) / 130 < 12
    hears = stimuli @ fields.T
    kept = np.sort(hears, 1)[:, -24][:, None] <= hears
    assert table > 40 or (compiled[~kept] == 0).all()


# What the others are trained for


def test_the_common_price_clears_the_batch_and_top_keeps_the_largest():
    drive = jnp.asarray(np.random.default_rng(3).normal(size=(50, 20)), jnp.float32)
    assert int((drive > objectives.common_price(drive, 3)).sum()) == 150
    kept = np.asarray(objectives.top(drive, 3))
    assert ((kept > 0).sum(1) == 3).all()
    assert np.allclose(np.sort(kept, 1)[:, -3:], np.sort(drive, 1)[:, -3:])


def test_thresholds_feel_the_density_of_drives():
    """For drives uniform on [0, 2], E[number] = (2 − θ)/2 and E[activity] = (4 − θ²)/4."""
    drive = jnp.linspace(0, 2, 40_001)[:, None]
    at = jnp.full((1, 1), 0.8)
    for rule, slope in ((objectives._counted, -0.5), (objectives._jump, -0.4)):
        assert float(jax.grad(lambda t, rule=rule: jnp.mean(rule(drive, t)))(at)[0, 0]) == pytest.approx(
            slope, rel=1e-3
        )


def test_nested_prefixes_explain_alone():
    model = dataclasses.replace(
        first_training(DATA, UNITS, kind="matryoshka", active=ACTIVE, seed=0).model, b_dec=jnp.full(INPUTS, 0.1)
    )
    x = jnp.asarray(DATA[:32])
    error, (activity, residual) = objectives.loss(model, x, jnp.float32(0))
    fields = np.asarray(model.W_dec)
    alone = [np.mean((DATA[:32] - 0.1 - np.asarray(activity)[:, :end] @ fields[:end]) ** 2) for end in (1, 2, 4, 8, 16)]
    assert float(error) == pytest.approx(np.mean(alone), rel=1e-5)
    assert float(jnp.mean(residual**2)) == pytest.approx(alone[-1], rel=1e-5)


# Training


def test_competition_finds_the_features_and_explains_nearly_all(competing):
    assert mcc(competing.W_dec, FIELDS) > 0.97
    left, count = unexplained(competing, samples(1000, 5))
    assert left < 0.05 and count == pytest.approx(ACTIVE, rel=0.15)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.bench) for kind in ("topk", "jumprelu", "relu", "matryoshka")]
)
def test_baselines_learn_at_the_rate_that_was_asked_for(kind, competing):
    left, count = unexplained(trained(kind, 200), samples(1000, 5))
    assert left < 0.5 and count == pytest.approx(ACTIVE, rel=0.15)
    assert unexplained(competing, samples(1000, 5))[0] < left


@pytest.mark.parametrize(
    ("kind", "ranked"),
    [("competition", False), ("competition", True), pytest.param("topk", False, marks=pytest.mark.bench)],
)
def test_a_resumed_training_ends_bit_for_bit_where_an_uninterrupted_one_ends(kind, ranked):
    seen = []
    whole = trained(kind, every=8, watch=seen.append, ranked=ranked)
    assert [int(state.step) for state in seen] == [8, 16, 20]
    resumed = trained(kind, state=seen[0], ranked=ranked)
    assert eqx.tree_equal(whole, resumed)


def test_in_ranks_each_unit_has_one_turn_the_most_active_first():
    """Ranks drawn with seed 7."""
    state = first_training(DATA, UNITS, kind="competition", active=ACTIVE, seed=0)
    rank = np.random.default_rng(7).permutation(UNITS)
    state = state._replace(power=jnp.asarray(1 / (1 + rank), jnp.float32))
    state = state._replace(model=dataclasses.replace(state.model, price=jnp.float32(PRICE)))
    stimuli = (DATA[:64] - np.asarray(state.mean)) * np.asarray(state.scale)
    first = np.argsort(rank)
    fields = np.asarray(state.model.W_dec, np.float64)[first]
    activity = np.asarray(autoencoder._competed(state, jnp.asarray(stimuli), True))
    expected = [in_turn(fields, stimulus, [PRICE], 0.1 * PRICE) for stimulus in stimuli]
    assert np.allclose(activity[:, first], expected, atol=1e-4) and np.count_nonzero(activity) > 64


def test_in_ranks_a_feature_that_never_comes_alone_is_told_from_the_one_it_comes_with():
    """Feature 0 is active in half of the samples, feature 1 in half of these; one unit stands for 0, one for both."""
    rng, rows = np.random.default_rng(8), np.eye(2, INPUTS, dtype=np.float32)
    parent = rng.random(3000) < 0.5
    awake = np.stack([parent, parent & (rng.random(3000) < 0.5)], 1)
    data = (awake * (1 + 0.1 * rng.normal(size=(3000, 2))) @ rows).astype(np.float32)
    state = first_training(data, 2, kind="competition", active=1, seed=0)
    fields = jnp.asarray(unit_rows(np.array([rows[0], rows.sum(0)])), jnp.float32)
    state = state._replace(
        model=dataclasses.replace(state.model, W_dec=fields, price=jnp.float32(0.3)),
        power=jnp.array([0.5, 0.4]),
        mean=jnp.zeros(INPUTS),
        scale=jnp.float32(1),
    )
    ends = []
    for ranked in (True, False):
        after = state
        for step in range(100):
            after = autoencoder._step(
                after, jnp.asarray(data[step * 30 :][:30]), *jnp.array([1e-2, 1, 1.0]), ranked=ranked
            )
        ends.append(np.asarray(after.model.W_dec @ rows.T))
    assert np.allclose(ends[0], np.eye(2), atol=0.1)
    assert np.allclose(ends[1][1], np.sqrt(0.5), atol=0.1)


def test_units_of_measurement_do_not_matter(competing):
    """The samples 4x + 3 have the same fields and 4 times the activity (4: no rounding is added)."""
    other = trained("competition", 200, data=4 * DATA + 3)
    x = DATA[:200]
    assert np.allclose(other.W_dec, competing.W_dec, atol=0.02)
    near = np.isclose(other.encode(4 * x + 3), 4 * competing.encode(x), atol=0.1)
    assert near.mean() > 0.99


def test_data_may_lie_in_a_file(tmp_path):
    np.save(tmp_path / "x.npy", DATA.astype(np.float16))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert eqx.tree_equal(trained("topk", 5, data=mapped), trained("topk", 5, data=DATA.astype(np.float16)))


def test_silent_units_keep_their_fields_until_one_is_revived_by_what_is_worst_explained():
    state = first_training(DATA, UNITS, kind="competition", active=ACTIVE, seed=0)
    mute = state._replace(model=dataclasses.replace(state.model, price=jnp.float32(1e9)))
    step = (jnp.float32(1e-2), jnp.float32(1), jnp.float32(ACTIVE))
    after = autoencoder._step(mute, DATA[:64], *step)
    assert np.allclose(after.model.W_dec, mute.model.W_dec, atol=1e-6) and (after.idle == 1).all()
    waking = autoencoder._step(after._replace(idle=after.idle.at[3].set(1000)), DATA[:64], *step)
    left = (DATA[:64] - np.asarray(after.mean)) * np.asarray(after.scale) - np.asarray(after.model.b_dec)
    worst = left[(left**2).sum(1).argmax()]
    assert np.allclose(waking.model.W_dec[3], worst / np.linalg.norm(worst), atol=1e-5)
    assert np.allclose(waking.model.W_enc[:, 3], waking.model.W_dec[3]) and waking.model.b_enc[3] == 0
    assert int(waking.idle[3]) == 0 and (np.delete(waking.idle, 3) == 2).all()
    for moment in waking.moments:
        assert not moment.W_enc[:, 3].any() and moment.b_enc[3] == 0 and np.delete(moment.W_enc, 3, 1).any()
    assert np.allclose(np.delete(waking.model.W_dec, 3, 0), np.delete(mute.model.W_dec, 3, 0), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "gated"}, "kind is 'gated'; it must be one of competition"),
        ({"active": 16}, "active is 16; it must be between 1 and units - 1 = 15"),
        ({"ranked": True}, "only units that compete learn in ranks; kind is 'topk'"),
        ({"data": DATA[0]}, "shape"),
        ({"data": DATA[:0]}, "must not be empty"),
    ],
)
def test_what_cannot_be_trained_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        train(**({"data": DATA, "units": UNITS, "kind": "topk", "active": 2} | changes))


# The file


def test_what_is_saved_is_loaded(competing, tmp_path):
    competing.save(tmp_path / "a.safetensors")
    assert eqx.tree_equal(load(tmp_path / "a.safetensors"), competing)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_others_read_one_pass_in_five_lines(competing, tmp_path):
    competing.save(tmp_path / "a.safetensors")
    x = samples(4000, 6)
    w = load_file(tmp_path / "a.safetensors")
    z = x @ w["W_enc"] + w["b_enc"]
    a = z * (z > w["threshold"])
    left = x - (a @ w["W_dec"] + w["b_dec"])
    assert (a > 0).sum(1).mean() == pytest.approx(ACTIVE, rel=0.1)
    assert (left**2).sum() < 0.3 * ((x - x.mean(0)) ** 2).sum()
    assert np.allclose(np.linalg.norm(w["W_dec"], axis=1), 1, atol=1e-5)


def test_batches_do_not_matter_to_encoding(competing):
    x = DATA[:130]
    assert np.allclose(competing.encode(x), competing.encode(x, batch=64), atol=1e-5)
    assert competing.encode(x[:0]).shape == (0, UNITS)


def _changed(tensors, metadata):
    return [
        (tensors, metadata | {"format": "other"}, "not an autoencoder that catallax saved"),
        ({k: v for k, v in tensors.items() if k != "b_enc"}, metadata, "not an autoencoder"),
        (tensors | {"b_dec": tensors["b_dec"] * np.nan}, metadata, "b_dec must be finite"),
        (tensors | {"W_dec": tensors["W_dec"].T.copy()}, metadata, r"W_dec must be .* \[16, 12\]"),
        (tensors, metadata | {"active": "99"}, "99 units are active, of 16"),
    ]


def test_other_files_are_refused(competing, tmp_path):
    path = tmp_path / "a.safetensors"
    competing.save(path)
    whole = path.read_bytes()
    tensors, metadata = load_file(path), {"format": autoencoder.FORMAT, "kind": "topk", "active": "2"}
    for changed, said_of_it, message in _changed(tensors, metadata):
        save_file(changed, path, said_of_it)
        with pytest.raises(InputError, match=message):
            load(path)
    path.write_bytes(whole[:-10])
    with pytest.raises(InputError, match="not a readable"):
        load(path)
    with pytest.raises(InputError, match="not a readable"):
        load(tmp_path / "none.safetensors")


def test_adam_goes_at_a_rate_of_one_down_a_slope_that_stays():
    slope = {"steep": jnp.array([3.0, -0.02]), "flat": jnp.zeros(1)}
    moments = Moments(*2 * [jax.tree.map(jnp.zeros_like, slope)])
    for step in range(4):
        change, moments = adam(slope, moments, jnp.int32(step))
        np.testing.assert_allclose(change["steep"], [1, -1], rtol=2e-5)
        assert change["flat"] == 0
    # What has just turned is not believed at once: the mean of four slopes and one against them.
    change, _ = adam(jax.tree.map(jnp.negative, slope), moments, jnp.int32(4))
    np.testing.assert_allclose(change["steep"], np.array([1, -1]) * (0.9 - 0.9**5 - 0.1) / (1 - 0.9**5), rtol=2e-5)
