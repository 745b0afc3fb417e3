"""Sparse coding with scikit-learn's habits: `fit`, `transform`, `partial_fit`, `components_`, pipelines, grid search.

This room alone needs scikit-learn, so its names are imported from here and not from the package.
"""

from typing import Any, Self

import numpy as np

from ..errors import MissingExtra
from .learn import Learning, learn
from .problem import SparseCoding
from .solve import encode

try:
    from sklearn.base import (  # pyright: ignore[reportMissingImports]
        BaseEstimator,
        ClassNamePrefixFeaturesOutMixin,
        TransformerMixin,
    )
    from sklearn.utils import check_random_state  # pyright: ignore[reportMissingImports]
    from sklearn.utils.validation import check_is_fitted, validate_data  # pyright: ignore[reportMissingImports]
except ImportError:
    raise MissingExtra("sklearn") from None

__all__ = ["DictionaryLearning", "SparseCoder"]

FLOATS = [np.float64, np.float32]


class _Coder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """What both estimators share: stimuli become the activity of units whose fields are `components_`."""

    components_: np.ndarray
    alpha: float
    positive_code: bool
    law: str
    tol: float

    def transform(self, X: Any) -> np.ndarray:
        """Return the activity of least ½|x − aD|² + α|a|₁ for each sample.

        Args:
            X: Shape (samples, features).

        Returns:
            Shape (samples, components), dense, in the dtype of X.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=FLOATS, reset=False)
        signed = not self.positive_code
        codes = encode(X, self.components_, self.alpha, signed=signed, law=self.law, tol=self.tol)
        activity = codes.activity.toarray() if self.law == "kernel" else codes.activity
        return np.asarray(activity, X.dtype)

    @property
    def _n_features_out(self) -> int:
        return self.components_.shape[0]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class SparseCoder(_Coder):
    """Explain samples by few of the given receptive fields.

    Args:
        dictionary: Shape (components, features), rows of norm one; None for one unit per feature, which is a soft
            threshold.
        alpha: The price of activity, in the unit of the data; above zero.
        positive_code: Whether activity must not be negative.
        law: As for `encode`: "fast", "kernel" or "competition".
        tol: The largest duality gap per objective that is aimed at; float32 data may not reach less than 1e-5.

    Attributes:
        components_: The dictionary, shape (components, features).
        n_features_in_: The number of features.

    Reference:
        The interface is that of scikit-learn's estimator of the same name.
    """

    def __init__(
        self,
        dictionary: Any = None,
        *,
        alpha: float = 1.0,
        positive_code: bool = False,
        law: str = "fast",
        tol: float = 1e-8,
    ):
        self.dictionary = dictionary
        self.alpha = alpha
        self.positive_code = positive_code
        self.law = law
        self.tol = tol

    def fit(self, X: Any, y: Any = None) -> Self:
        """Check that the dictionary suits the samples; nothing is learnt.

        Args:
            X: Shape (samples, features).
            y: Ignored.

        Raises:
            InputError: if a field's norm is not one, or it has another number of features.
        """
        del y
        X = validate_data(self, X, dtype=FLOATS)
        fields = np.eye(X.shape[1], dtype=X.dtype) if self.dictionary is None else self.dictionary
        self.components_ = SparseCoding(X, fields, self.alpha).dictionary
        return self


class DictionaryLearning(_Coder):
    """Learn receptive fields from samples by the normalised Hebbian rule, and explain samples by few of them.

    Args:
        n_components: The number of units; one per feature by default. `fit` needs at least as many samples.
        alpha: The price of activity, in the unit of the data; above zero.
        max_iter: How often `fit` sees each sample.
        batch_size: Samples per move of the fields.
        positive_code: Whether activity must not be negative.
        dict_init: Fields to start from, shape (components, features), rows of norm one; random samples by default.
        law: "fast" or "kernel", as for `encode`.
        tol: As for `SparseCoder`, for `transform`.
        random_state: Seed of the start and of the order of samples.

    Attributes:
        components_: Fields of norm one, shape (components, features), float32.
        n_features_in_: The number of features.
        n_iter_: How often `fit` saw each sample, or how many calls of `partial_fit` there were.
        state_: Where learning stands (`catallax.cortex.Learning`).

    Reference:
        `catallax.cortex.learn`; the interface is that of scikit-learn's estimators.
    """

    state_: Learning

    def __init__(
        self,
        n_components: int | None = None,
        *,
        alpha: float = 1.0,
        max_iter: int = 10,
        batch_size: int = 256,
        positive_code: bool = False,
        dict_init: Any = None,
        law: str = "fast",
        tol: float = 1e-8,
        random_state: Any = None,
    ):
        self.n_components = n_components
        self.alpha = alpha
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.positive_code = positive_code
        self.dict_init = dict_init
        self.law = law
        self.tol = tol
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn anew from samples.

        Args:
            X: Shape (samples, features).
            y: Ignored.

        Raises:
            InputError: if there are fewer samples than components, or all samples are the same.
        """
        del y
        X = validate_data(self, X, dtype=FLOATS)
        self._learn(X, None, self.max_iter)
        self.n_iter_ = self.max_iter
        return self

    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Go on learning from further samples, each seen once.

        Args:
            X: Shape (samples, features); at the first call at least as many samples as components.
            y: Ignored.
        """
        del y
        first = not hasattr(self, "components_")
        X = validate_data(self, X, dtype=FLOATS, reset=first)
        self._learn(X, None if first else self.state_._replace(batches=0), 1)
        self.n_iter_ = 1 if first else self.n_iter_ + 1
        return self

    def _learn(self, X: np.ndarray, state: Learning | None, epochs: int) -> None:
        units = X.shape[1] if self.n_components is None else self.n_components
        learnt = learn(
            X,
            units,
            self.alpha,
            signed=not self.positive_code,
            epochs=epochs,
            batch=self.batch_size,
            seed=int(check_random_state(self.random_state).randint(2**31 - 1)),
            law=self.law,
            dictionary=self.dict_init,
            state=state,
        )
        self.state_, self.components_ = learnt.state, learnt.dictionary
