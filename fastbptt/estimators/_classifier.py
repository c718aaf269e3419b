"""Classes of sequences, or of their steps."""

from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import accuracy_score
from sklearn.utils.multiclass import check_classification_targets

from fastbptt._names import with_our_names
from fastbptt.estimators import _forms
from fastbptt.estimators._estimator import Estimator
from fastbptt.estimators._sklearn import ClassifierMixin, Data, validation
from fastbptt.rnn import Activation, Backend


class RNNClassifier(ClassifierMixin, Estimator):
    """A recurrent network that reads a sequence and predicts its class, or that of every step.

    It is a :class:`fastbptt.RNN` that gives a logit for each class, trained by
    :func:`fastbptt.fit` with Adam to minimize the cross-entropy.  The forms that X may take are
    those of :class:`RNNRegressor`.

    Parameters
    ----------
    hidden_size, num_layers, bidirectional, activation, output, dropout, output_dropout
        As for :class:`RNNRegressor`.
    learning_rate, epochs, batch_size, clip_norm, l1, l2, validation_fraction, patience
        As for :class:`RNNRegressor`.
    dtype, backend, random_state, verbose
        As for :class:`RNNRegressor`.
    class_weight : dict, "balanced" or None, default None
        What each class counts in training, beside `sample_weight`: by its label, 1 where it is
        missing.  "balanced" weights are inversely proportional to the sum of the weights of each
        class, as in scikit-learn.

    Attributes
    ----------
    classes_ : ndarray, (n_classes,)
        The labels, in order.
    model_, history_, n_features_in_, feature_names_in_
        As for :class:`RNNRegressor`.

    See Also
    --------
    RNNRegressor : Numbers in place of classes.
    SequenceScaler : Scales sequences before.
    fastbptt.fit : Trains with more options.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbptt.estimators import RNNClassifier
    >>> X = np.random.default_rng(0).standard_normal((64, 5))
    >>> y = np.where(X.sum(axis=1) > 0, "up", "down")
    >>> model = RNNClassifier(hidden_size=8, learning_rate=0.02, epochs=30, random_state=0)
    >>> model.fit(X, y).score(X, y) > 0.9
    True

    A label for every step:

    >>> y = np.where(X.cumsum(axis=1) > 0, "up", "down")
    >>> model.set_params(output="all").fit(X, y).score(X, y) > 0.9
    True
    >>> model.predict_proba(X[:3]).shape
    (3, 5, 2)
    """

    classes_: np.ndarray

    _LOSS, _STRATIFY = "cross_entropy", True

    @with_our_names
    def __init__(
        self,
        *,
        hidden_size: int = 32,
        num_layers: int = 1,
        bidirectional: bool = False,
        activation: Activation = "tanh",
        output: Literal["last", "all"] = "last",
        dropout: float = 0.0,
        output_dropout: float = 0.0,
        learning_rate: float = 1e-3,
        epochs: int = 100,
        batch_size: int = 32,
        clip_norm: float | None = 1.0,
        l1: float | Mapping[str, float] = 0.0,
        l2: float | Mapping[str, float] = 0.0,
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        validation_fraction: float = 0.0,
        patience: int | None = None,
        dtype: Literal["float32", "float64"] = "float32",
        backend: Backend = "numba",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            hidden_size=hidden_size, num_layers=num_layers, bidirectional=bidirectional,
            activation=activation, output=output, dropout=dropout, output_dropout=output_dropout,
            learning_rate=learning_rate, epochs=epochs, batch_size=batch_size, clip_norm=clip_norm,
            l1=l1, l2=l2, validation_fraction=validation_fraction, patience=patience, dtype=dtype,
            backend=backend, random_state=random_state, verbose=verbose,
        )  # fmt: skip
        self.class_weight = class_weight

    def partial_fit(
        self, X: Data, y: Data, classes: ArrayLike | None = None, sample_weight: Any = None
    ) -> Self:
        """Train for one more epoch, from where the last call of fit or partial_fit, if any, ended.

        As many calls as epochs, with the same data, give the same bits as :meth:`fit` if that holds
        nothing out.

        Parameters
        ----------
        X, y, sample_weight
            As for :meth:`fit`.  Not every class needs to occur in y.
        classes : array_like, (n_classes,), optional
            All labels; required in the first call.  ``class_weight="balanced"`` is that of this
            call's y.

        Returns
        -------
        self

        Notes
        -----
        Whatever is raised, on Ctrl-C within the epoch too, the estimator stays as it was.
        """
        if not hasattr(self, "model_"):
            if classes is None:
                raise ValueError("classes is None, expected all labels at the first call")
        elif classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(
                f"classes has {np.unique(classes)}, expected {self.classes_} as before"
            )
        return self._partial_fit(X, y, sample_weight, classes)

    def predict_proba(self, X: Data) -> Any:
        """Probability of each class: the softmax of the model's outputs.

        Parameters
        ----------
        X : array_like or list of array_like
            In a form that goes with what it was trained on.

        Returns
        -------
        p : ndarray of float64, (n_samples, n_classes)
            In the order of ``classes_``.  With ``output="all"`` (n_samples, n_steps, n_classes), or
            a list of such arrays if X is one.
        """
        return _forms.each(lambda y: np.exp(_log_softmax(y)), self._outputs(X))

    def predict_log_proba(self, X: Data) -> Any:
        """Logarithm of each class's probability, also where that is too small for a float.

        Parameters and return values are those of :meth:`predict_proba`.
        """
        return _forms.each(_log_softmax, self._outputs(X))

    def decision_function(self, X: Data) -> Any:
        """What the decision between the classes is made by: the model's outputs, the logits.

        Parameters
        ----------
        X : array_like or list of array_like
            In a form that goes with what it was trained on.

        Returns
        -------
        ndarray of float64, (n_samples, n_classes), or (n_samples,) for two classes
            In the order of ``classes_``; the highest one is predicted.  For two classes, the
            logarithm of their odds: the second one is predicted if it is positive.  With
            ``output="all"`` there is an axis of steps, or a list if X is one.
        """

        def decided(y: np.ndarray) -> np.ndarray:
            y = y.astype(np.float64)
            return y[..., 1] - y[..., 0] if len(self.classes_) == 2 else y

        return _forms.each(decided, self._outputs(X))

    def predict(self, X: Data) -> Any:
        """The most probable class of each sequence, or of each step.

        Parameters
        ----------
        X : array_like or list of array_like
            In a form that goes with what it was trained on.

        Returns
        -------
        y : ndarray, (n_samples,)
            Labels from ``classes_``.  With ``output="all"`` (n_samples, n_steps), or a list of
            (T_i,) if X is one.
        """
        return _forms.each(lambda y: self.classes_[y.argmax(axis=-1)], self._outputs(X))

    def score(self, X: Data, y: Data, sample_weight: Any = None) -> float:
        """The share of sequences, or of steps, whose class is predicted.

        Parameters
        ----------
        X, y, sample_weight
            As for :meth:`fit`.

        Returns
        -------
        float
            As from :func:`sklearn.metrics.accuracy_score`.
        """
        if self.output == "last":
            return super().score(X, y, sample_weight)
        y, predicted, weight = self._scored(X, y, sample_weight)
        return float(accuracy_score(y, predicted, sample_weight=weight))

    def _checked_rows(self, rows: Any) -> np.ndarray:
        y = validation.check_array(
            rows, dtype=None, ensure_2d=False, input_name="y", estimator=self
        )
        y = validation.column_or_1d(y, warn=True)
        check_classification_targets(y)
        return y

    def _learn(self, rows: np.ndarray, weight: np.ndarray | None) -> None:
        self.classes_ = np.unique(rows)
        self._output_size = len(self.classes_)

    def _targets(self, rows: np.ndarray) -> np.ndarray:
        unknown = np.setdiff1d(rows, self.classes_)
        if unknown.size:
            raise ValueError(f"y has {unknown}, expected labels of classes {self.classes_}")
        return np.searchsorted(self.classes_, rows)

    def _options(self) -> dict[str, Any]:
        given = self.class_weight
        if isinstance(given, Mapping):
            labels = self.classes_.tolist()
            unknown = [label for label in given if label not in labels]
            if unknown:
                raise ValueError(f"class_weight has {unknown}, expected labels from {labels}")
            given = [given.get(label, 1.0) for label in labels]
        return {"class_weight": given}


def _log_softmax(y: np.ndarray) -> np.ndarray:
    z = y.astype(np.float64)
    z -= z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
