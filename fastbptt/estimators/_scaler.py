"""Scaling of sequences, by the mean and the deviation of all their steps."""

import copy
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.preprocessing import StandardScaler

from fastbptt import _checks
from fastbptt.estimators import _forms
from fastbptt.estimators._sklearn import (
    BaseEstimator,
    Data,
    OneToOneFeatureMixin,
    TransformerMixin,
    validation,
)


class SequenceScaler(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Bring each feature of sequences to mean 0 and standard deviation 1, over all steps.

    It is a :class:`sklearn.preprocessing.StandardScaler` of the steps that count: those of all
    sequences of a list, or those within the lengths that are given for an array.

    Parameters
    ----------
    with_mean, with_std : bool, default True
        Whether to subtract the mean, and to divide by the standard deviation.

    Attributes
    ----------
    scaler_ : sklearn.preprocessing.StandardScaler
        Of the steps; its ``n_samples_seen_`` counts them.
    mean_, scale_ : ndarray, (n_features,), or None
        What is subtracted, and divided by (1 for a feature that does not change).
    n_features_in_, feature_names_in_
        As for :class:`RNNRegressor`.

    See Also
    --------
    RNNRegressor, RNNClassifier : Read what it scales.

    Notes
    -----
    X has the forms that :class:`RNNRegressor` takes, and comes back in the same.  A table
    (n_samples, n_steps) is series of one feature, and so has one mean; scikit-learn's own scaler
    gives each of its columns another.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbptt.estimators import SequenceScaler
    >>> X = [np.array([[1.0, 10.0], [3.0, 10.0]]), np.array([[5.0, 40.0]])]
    >>> scaler = SequenceScaler().fit(X)
    >>> scaler.mean_
    array([ 3., 20.])
    >>> [a.round(2).tolist() for a in scaler.transform(X)]
    [[[-1.22, -0.71], [0.0, -0.71]], [[1.22, 1.41]]]
    >>> [a.round(9).tolist() for a in scaler.inverse_transform(scaler.transform(X))]
    [[[1.0, 10.0], [3.0, 10.0]], [[5.0, 40.0]]]
    """

    scaler_: Any
    n_features_in_: int

    def __init__(self, *, with_mean: bool = True, with_std: bool = True) -> None:
        self.with_mean = with_mean
        self.with_std = with_std

    @property
    def mean_(self) -> np.ndarray | None:
        return self.scaler_.mean_

    @property
    def scale_(self) -> np.ndarray | None:
        return self.scaler_.scale_

    def fit(self, X: Data, y: Any = None, lengths: ArrayLike | None = None) -> Self:
        """Learn the mean and the standard deviation.

        Parameters
        ----------
        X : array_like or list of array_like
            Sequences, in one of the forms that :class:`RNNRegressor` names.
        y : ignored
        lengths : array_like of int, (n_samples,), optional
            For an array X: the steps of each sequence that count.  The others may hold anything.

        Returns
        -------
        self
        """
        return self._learn(X, lengths, None)

    def partial_fit(self, X: Data, y: Any = None, lengths: ArrayLike | None = None) -> Self:
        """Learn from further sequences, as if they had been among the earlier ones.

        Parameters and return value are those of :meth:`fit`.
        """
        return self._learn(X, lengths, getattr(self, "scaler_", None))

    def _learn(self, X: Any, lengths: Any, known: Any) -> Self:
        learned = copy.copy(self)  # this one stays as it is if anything is raised
        found, counted = learned._checked(X, lengths, reset=known is None)
        learned.scaler_ = copy.deepcopy(known)
        if known is None:
            learned.scaler_ = StandardScaler(with_mean=self.with_mean, with_std=self.with_std)
        steps = _forms.rows(found)
        learned.scaler_.partial_fit(steps if counted is None else steps[counted.ravel()])
        self.__dict__ = learned.__dict__
        return self

    def fit_transform(self, X: Data, y: Any = None, lengths: ArrayLike | None = None) -> Any:
        """:meth:`fit` and then :meth:`transform`."""
        return self.fit(X, y, lengths).transform(X, lengths)

    def transform(self, X: Data, lengths: ArrayLike | None = None) -> Any:
        """Scale sequences.

        Parameters
        ----------
        X : array_like or list of array_like
            In a form that goes with what it was fitted to.
        lengths : array_like of int, (n_samples,), optional
            For an array X: the steps that are scaled.  The others stay as they are.

        Returns
        -------
        ndarray or list of ndarray
            New memory, in the form of X: float32 if X is, else float64.
        """
        return self._apply("transform", X, lengths)

    def inverse_transform(self, X: Data, lengths: ArrayLike | None = None) -> Any:
        """Bring scaled sequences back to their units.

        Parameters and return value are those of :meth:`transform`.
        """
        return self._apply("inverse_transform", X, lengths)

    def _apply(self, method: str, X: Any, lengths: Any) -> Any:
        validation.check_is_fitted(self, "scaler_")
        found, counted = self._checked(X, lengths, reset=False)
        scaled = _forms.in_form_of(found, getattr(self.scaler_, method)(_forms.rows(found)))
        if isinstance(found, list):
            given = _forms.as_list(X)
            return [a.reshape(np.shape(x)) for a, x in zip(scaled, given, strict=True)]
        if counted is not None:
            others = np.reshape(X, scaled.shape)
            scaled = np.where(counted[..., np.newaxis], scaled, others).astype(scaled.dtype)
        return scaled if np.asarray(X).ndim == 3 else scaled[..., 0]

    def _checked(self, X: Any, lengths: Any, reset: bool) -> tuple[Any, np.ndarray | None]:
        """Sequences, (N, T, I) or a list, and which steps count, (N, T), if not all."""
        counted = None
        if lengths is not None:
            if _forms.is_list_of_arrays(X):
                raise ValueError(
                    "lengths is given with a list X, whose arrays have lengths of their own"
                )
            X = np.asarray(X)
            if X.ndim not in (2, 3):
                raise ValueError(
                    f"X has shape {X.shape}, expected (N, T) or (N, T, I) with lengths"
                )
            N, T = X.shape[:2]
            counted = np.arange(T) < _checks.lengths(lengths, T, N)[:, np.newaxis]
            X = np.where(counted.reshape(N, T, *[1] * (X.ndim - 2)), X, 0)
        features = None if reset else self.scaler_.n_features_in_
        return _forms.checked(self, X, reset, [np.float64, np.float32], features), counted

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
