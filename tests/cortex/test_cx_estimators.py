"""The estimators keep scikit-learn's habits, by its own checks, and answer as `encode` does."""

import subprocess
import sys

import numpy as np
import pytest

from catallax.cortex import encode, learn, unit_rows


def test_without_scikit_learn_the_error_says_what_to_install():
    script = (
        "import sys; sys.modules['sklearn'] = None\n"
        "try: import catallax.cortex.estimators\n"
        "except ImportError as error: print(error)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "pip install 'catallax[sklearn]'" in ended.stdout, ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def estimators():
    pytest.importorskip("sklearn", reason="scikit-learn is an extra")
    import catallax.cortex.estimators as module

    return module


@pytest.mark.bench
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["SparseCoder", "DictionaryLearning"])
def test_scikit_learns_own_checks_pass(estimators, name):
    from sklearn.utils.estimator_checks import check_estimator

    check_estimator(getattr(estimators, name)())


@pytest.fixture(scope="module")
def question():
    draw = np.random.default_rng(0)
    return draw.normal(size=(64, 12)).astype(np.float32), unit_rows(draw.normal(size=(30, 12)).astype(np.float32))


def test_a_coder_answers_as_encode_does(estimators, question):
    stimuli, fields = question
    coder = estimators.SparseCoder(fields, alpha=0.3, positive_code=True).fit(stimuli)
    expected = encode(stimuli, fields, 0.3, signed=False, tol=1e-8).activity
    np.testing.assert_array_equal(coder.transform(stimuli), expected)
    assert coder.components_.shape == (30, 12) and coder.get_feature_names_out()[0] == "sparsecoder0"
    with pytest.raises(ValueError, match="norm 2"):
        estimators.SparseCoder(2 * fields).fit(stimuli)


def test_fitting_learns_as_learn_does_whole_and_in_parts(estimators, question):
    stimuli, fields = question
    options = {"alpha": 0.3, "positive_code": True, "dict_init": fields, "random_state": 3}
    learner = estimators.DictionaryLearning(30, max_iter=2, **options)
    seed = int(np.random.RandomState(3).randint(2**31 - 1))
    rule = {"signed": False, "batch": 256, "seed": seed, "law": "fast", "dictionary": fields}
    whole = learn(stimuli, 30, 0.3, epochs=2, **rule)
    np.testing.assert_array_equal(learner.fit(stimuli).components_, whole.dictionary)
    parts = estimators.DictionaryLearning(30, **options).partial_fit(stimuli).partial_fit(-stimuli)
    state = learn(stimuli, 30, 0.3, **rule).state
    state = learn(-stimuli, 30, 0.3, state=state._replace(batches=0), **rule).state
    np.testing.assert_array_equal(parts.components_, state.fields)
    assert parts.n_iter_ == 2 and parts.state_.seen == 128
    codes = learner.transform(stimuli)
    assert codes.dtype == np.float32 and codes.shape == (64, 30) and codes.min() >= 0
