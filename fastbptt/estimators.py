"""Estimators for scikit-learn: one number, several numbers or a class for each sequence.

They need scikit-learn, which the extra "sklearn" installs.
"""

import copy
import math
from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike

from fastbptt import _sequences
from fastbptt._extras import import_extra
from fastbptt._names import with_our_names
from fastbptt.losses import LossName
from fastbptt.model import RNN
from fastbptt.optimizers import Adam
from fastbptt.rnn import Activation, Backend
from fastbptt.training import Generators, History, fit

validation: Any = import_extra("sklearn.utils.validation", "sklearn", "fastbptt.estimators")
from sklearn.model_selection import train_test_split  # noqa: E402
from sklearn.utils.multiclass import check_classification_targets  # noqa: E402

Data = ArrayLike | Sequence[ArrayLike]  # sequences, in one of the forms that RNNRegressor names

if TYPE_CHECKING:  # scikit-learn has no types of its own

    class BaseEstimator:
        def get_params(self, deep: bool = True) -> dict[str, Any]: ...
        def set_params(self, **params: Any) -> Self: ...
        def __sklearn_tags__(self) -> Any: ...

    class RegressorMixin:
        def score(self, X: Data, y: ArrayLike, sample_weight: Any = None) -> float: ...

    class ClassifierMixin:
        def score(self, X: Data, y: ArrayLike, sample_weight: Any = None) -> float: ...

else:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

# Between these, the squares of targets and of their differences can be summed in float64, here for
# the standard deviation and in scikit-learn for its scores.
SMALLEST, LARGEST = 1e-140, 1e140
# In units of the scale: the squares of gradients, which Adam keeps, then fit into float32.
FARTHEST = 1e15


class _Estimator(BaseEstimator):
    """What the estimators share: everything but the targets.

    A subclass has ``_checked_y(y)``; ``_learn(y)``, which keeps what must be known of the targets
    before training; and ``_targets(y)``, which returns them as its loss takes them.

    A copy is trained, and takes the estimator's place in one step when all has gone well: if
    anything is raised before, the estimator stays as it was.
    """

    model_: RNN
    history_: History

    _LOSS: ClassVar[LossName]
    _output_size: int
    _rng: np.random.Generator
    _optimizer: Adam

    @with_our_names
    def __init__(
        self,
        *,
        hidden_size: int = 32,
        num_layers: int = 1,
        bidirectional: bool = False,
        activation: Activation = "tanh",
        dropout: float = 0.0,
        learning_rate: float = 1e-3,
        epochs: int = 100,
        batch_size: int = 32,
        clip_norm: float | None = 1.0,
        validation_fraction: float = 0.0,
        patience: int | None = None,
        dtype: Literal["float32", "float64"] = "float32",
        backend: Backend = "numba",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.activation = activation
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.clip_norm = clip_norm
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.dtype = dtype
        self.backend = backend
        self.random_state = random_state
        self.verbose = verbose

    def _checked_y(self, y: Any) -> np.ndarray:
        raise NotImplementedError

    def _learn(self, y: np.ndarray) -> None:
        raise NotImplementedError

    def _targets(self, y: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def fit(self, X: Data, y: ArrayLike) -> Self:
        """Train from new weights.

        Parameters
        ----------
        X : array_like, (n_samples, n_steps) or (n_samples, n_steps, n_features), or list
            Sequences, in one of the forms that :class:`RNNRegressor` names.
        y : array_like, (n_samples,), or for a regressor (n_samples, n_outputs)

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If X, y or a parameter has the wrong type, dtype, shape or value.
        FloatingPointError
            If the loss becomes infinite or NaN.

        Notes
        -----
        Ctrl-C ends the training as if all epochs were done, and ``history_.stopped`` says so; but
        within the first epoch it raises KeyboardInterrupt.  Whatever is raised, the estimator stays
        as it was.
        """
        trained = copy.copy(self)
        trained._fit_anew(X, y)
        self.__dict__ = trained.__dict__
        return self

    def _fit_anew(self, X: Any, y: Any) -> None:
        X, y = self._checked(X, y, reset=True)
        self._learn(y)
        y, held_out = self._targets(y), None
        random_state = validation.check_random_state(self.random_state)
        share = self.validation_fraction
        if not isinstance(share, Real) or not 0 <= share < 1:
            raise ValueError(
                f"validation_fraction is {share!r}, expected at least 0 and less than 1"
            )
        if share:
            X, X_held_out, y, y_held_out = train_test_split(
                X, y, test_size=share, random_state=random_state,
                stratify=y if isinstance(self, ClassifierMixin) else None,
            )  # fmt: skip
            held_out = X_held_out, y_held_out
        self._begin(X, random_state)
        self._train(X, y, self.epochs, validation=held_out, patience=self.patience)

    def _partial_fit(self, X: Any, y: Any, known: Any = None) -> Self:
        """One epoch; before the first one, `known`, or else y, tells what to learn of targets."""
        trained = copy.copy(self)
        trained._fit_further(X, y, known)
        self.__dict__ = trained.__dict__
        return self

    def _fit_further(self, X: Any, y: Any, known: Any) -> None:
        first = not hasattr(self, "model_")
        X, y = self._checked(X, y, reset=first)
        if first:
            self._learn(y if known is None else known)
        y = self._targets(y)
        if first:
            self._begin(X, validation.check_random_state(self.random_state))
        else:  # copies of what training changes in place
            changing = self.model_, self._optimizer, self._generators
            self.model_, self._optimizer, self._generators = copy.deepcopy(changing)
        self._train(X, y, epochs=1)

    def _begin(self, X: Any, random_state: np.random.RandomState) -> None:
        """A new model, optimizer and random generators, which go on from call to call."""
        rng = np.random.default_rng(random_state.randint(2**31 - 1))
        self._generators = Generators(*rng.spawn(2))
        self._optimizer = Adam()
        self.model_ = RNN(
            X[0].shape[1], self.hidden_size, self._output_size, num_layers=self.num_layers,
            bidirectional=self.bidirectional, activation=self.activation, dropout=self.dropout,
            dtype=self.dtype, seed=rng, backend=self.backend,
        )  # fmt: skip

    def _train(self, X: Any, y: np.ndarray, epochs: int, **options: Any) -> None:
        rate = self.learning_rate
        if not isinstance(rate, Real) or not 0 < rate < math.inf:
            raise ValueError(f"learning_rate is {rate!r}, expected a positive number")
        self._optimizer.learning_rate = rate
        try:
            self.history_ = fit(
                self.model_, X, y, loss=self._LOSS, optimizer=self._optimizer, epochs=epochs,
                batch_size=self.batch_size, clip_norm=self.clip_norm, progress=bool(self.verbose),
                seed=self._generators, **options,
            )  # fmt: skip
        except FloatingPointError as error:  # it says what the model keeps; this one is dropped
            what = str(error).partition(";")[0]
            raise FloatingPointError(f"{what}; the estimator is as it was") from None
        if self.history_.stopped == "interrupted" and not self.history_.loss:
            raise KeyboardInterrupt

    def _outputs(self, X: Any) -> np.ndarray:
        """The model's outputs, (n_samples, O)."""
        validation.check_is_fitted(self, "model_")
        return self.model_.predict(self._sequences(X, reset=False))

    def _checked(self, X: Any, y: Any, reset: bool) -> Any:
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None"
            )
        X, y = self._sequences(X, reset), self._checked_y(y)
        validation.check_consistent_length(X, y)
        return X, y

    @np.errstate(over="ignore", invalid="ignore")  # scikit-learn reports what is too large
    def _sequences(self, X: Any, reset: bool) -> Any:
        """X as :class:`fastbptt.RNN` takes it: an array (N, T, I), or a list of (T_i, I).

        scikit-learn checks a table: X itself if it is (N, T), or one with a row for each step.
        """
        options = {"reset": reset, "dtype": self.dtype}
        if _is_list_of_arrays(X):
            first = np.shape(X[0])
            features = first[1] if len(first) > 1 else 1
            steps = _sequences._from_list("X", X, (features,), self.dtype).steps
            steps = validation.validate_data(self, steps, **options)
            return np.split(steps, np.cumsum([len(a) for a in X])[:-1])
        shape = np.asarray(X).shape
        if len(shape) == 3:
            steps = np.reshape(X, (math.prod(shape[:2]), shape[2]))
            return validation.validate_data(self, steps, **options).reshape(shape)
        return validation.validate_data(self, X, **options)[..., np.newaxis]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


def _is_list_of_arrays(X: Any) -> bool:
    """Nested lists are not, they stand for an array; nor is a list of NumPy scalars."""
    return isinstance(X, (list, tuple)) and any(getattr(a, "shape", ()) for a in X)


class RNNRegressor(RegressorMixin, _Estimator):
    """A recurrent network that reads a sequence and predicts one number, or several, at its end.

    It is a :class:`fastbptt.RNN` with a readout of the last state, trained by :func:`fastbptt.fit`
    with Adam to minimize the mean squared error.

    Parameters
    ----------
    hidden_size : int, default 32
    num_layers : int, default 1
    bidirectional : bool, default False
    activation : {"tanh", "relu", "identity"}, default "tanh"
    dropout : float, default 0.0
        Share of the states between two layers that training replaces by zero.
    learning_rate : float, default 1e-3
        Adam's.
    epochs : int, default 100
        Passes over the data.
    batch_size : int, default 32
        Sequences in a minibatch.
    clip_norm : float or None, default 1.0
        Largest norm of the gradient of all weights together.
    validation_fraction : float, default 0.0
        Share of the sequences held out from training, on which the loss is computed after every
        epoch; drawn at random, by a classifier from each class.
    patience : int, optional
        Stop after this many epochs in a row without a new lowest validation loss (training loss if
        `validation_fraction` is 0), and restore the weights of the best epoch.
    dtype : {"float32", "float64"}, default "float32"
    backend : {"numba", "numpy"}, default "numba"
    random_state : None, int or numpy.random.RandomState, optional
        Seeds the initial weights, the order of sequences, dropout and what is held out.  With the
        backend "numba", the same int gives the same bits.
    verbose : bool, default False
        Show a progress bar, if tqdm is installed (the extra "progress").

    Attributes
    ----------
    model_ : fastbptt.RNN
    history_ : fastbptt.History
        Of the last call of fit or partial_fit.
    n_features_in_ : int
        Columns of an X (n_samples, n_steps); n_features of the other forms.
    feature_names_in_ : ndarray of str
        If X was a data frame with column names.
    y_mean_, y_scale_ : float or ndarray, (n_outputs,)
        Mean and standard deviation of y (1 where that is 0).  The model is trained on
        ``(y - y_mean_) / y_scale_``, so that the learning rate does not depend on y's unit.  The
        magnitude of y must not exceed 1e140, and its range must be 0 or at least 1e-140.

    Notes
    -----
    X is one of

    - an array (n_samples, n_steps), each row a series of one feature;
    - an array (n_samples, n_steps, n_features);
    - a list of arrays (T_i, n_features), or (T_i,) for one feature, whose lengths may differ.

    The last two give the same bits for the same sequences and may be mixed: a later X may take
    either form, with any number of steps.  If the first X has two axes, every later one must have
    two, and as many columns.  Nested lists stand for an array.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbptt.estimators import RNNRegressor
    >>> X = np.random.default_rng(0).integers(0, 2, (64, 5))
    >>> model = RNNRegressor(hidden_size=8, learning_rate=0.02, epochs=30, random_state=0)
    >>> model.fit(X, X.sum(axis=1)).score(X, X.sum(axis=1)) > 0.9
    True
    """

    y_mean_: Any
    y_scale_: Any

    _LOSS = "mse"

    def partial_fit(self, X: Data, y: ArrayLike) -> Self:
        """Train for one more epoch, from where the last call of fit or partial_fit, if any, ended.

        As many calls as epochs, with the same data, give the same bits as :meth:`fit` if that holds
        nothing out.

        Parameters
        ----------
        X, y
            As for :meth:`fit`.  The mean and the scale are those of the first y.

        Returns
        -------
        self

        Notes
        -----
        Whatever is raised, on Ctrl-C within the epoch too, the estimator stays as it was.
        """
        return self._partial_fit(X, y)

    def predict(self, X: Data) -> np.ndarray:
        """One number, or several, for each sequence.

        Parameters
        ----------
        X : array_like or list of array_like
            In a form that goes with what it was trained on.

        Returns
        -------
        y : ndarray of float64, (n_samples,) or (n_samples, n_outputs)
            In the form of the y that it was trained on.
        """
        outputs = self._outputs(X).reshape(-1, *np.shape(self.y_mean_))
        return outputs * self.y_scale_ + self.y_mean_

    def _checked_y(self, y: Any) -> np.ndarray:
        y = validation.check_array(
            y, dtype=np.float64, ensure_2d=False, input_name="y", estimator=self
        )
        size = np.abs(y).max()
        if size > LARGEST:
            raise ValueError(
                f"y has values of size {size:.3g}, expected at most {LARGEST}: take a larger unit"
            )
        return y

    def _learn(self, y: np.ndarray) -> None:
        spread = np.ptp(y, axis=0)
        constant = spread == 0
        if (~constant & (spread < SMALLEST)).any():
            raise ValueError(
                f"y has values that differ by {spread[~constant].min():.3g} at most, expected 0 or "
                f"at least {SMALLEST}: take a smaller unit"
            )
        # The computed mean of equal numbers may differ from them, and their deviation from 0.
        self.y_mean_ = np.where(constant, y[0], y.mean(axis=0))[()]
        self.y_scale_ = np.where(constant, 1.0, y.std(axis=0))[()]
        self._output_size = self.y_mean_.size

    def _targets(self, y: np.ndarray) -> np.ndarray:
        y = (y - self.y_mean_) / self.y_scale_
        distance = np.abs(y).max()
        if distance > FARTHEST:
            raise ValueError(
                f"y lies up to {distance:.3g} times y_scale_ away from y_mean_, which are of the "
                f"first y given, expected at most {FARTHEST:g}"
            )
        return y

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class RNNClassifier(ClassifierMixin, _Estimator):
    """A recurrent network that reads a sequence and predicts its class at the end.

    It is a :class:`fastbptt.RNN` with a readout of the last state, a logit for each class, trained
    by :func:`fastbptt.fit` with Adam to minimize the cross-entropy.  Its parameters, and the forms
    that X may take, are those of :class:`RNNRegressor`.

    Attributes
    ----------
    classes_ : ndarray, (n_classes,)
        The labels, in order.
    model_, history_, n_features_in_, feature_names_in_
        As for :class:`RNNRegressor`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbptt.estimators import RNNClassifier
    >>> X = np.random.default_rng(0).standard_normal((64, 5))
    >>> y = np.where(X.sum(axis=1) > 0, "up", "down")
    >>> model = RNNClassifier(hidden_size=8, learning_rate=0.02, epochs=30, random_state=0)
    >>> model.fit(X, y).score(X, y) > 0.9
    True
    """

    classes_: np.ndarray

    _LOSS = "cross_entropy"

    def partial_fit(self, X: Data, y: ArrayLike, classes: ArrayLike | None = None) -> Self:
        """Train for one more epoch, from where the last call of fit or partial_fit, if any, ended.

        As many calls as epochs, with the same data, give the same bits as :meth:`fit` if that holds
        nothing out.

        Parameters
        ----------
        X, y
            As for :meth:`fit`.  Not every class needs to occur in y.
        classes : array_like, (n_classes,), optional
            All labels; required in the first call.

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
        return self._partial_fit(X, y, classes)

    def predict_proba(self, X: Data) -> np.ndarray:
        """Probability of each class for each sequence: the softmax of the model's outputs.

        Parameters
        ----------
        X : array_like or list of array_like
            In a form that goes with what it was trained on.

        Returns
        -------
        p : ndarray of float64, (n_samples, n_classes)
            In the order of ``classes_``.
        """
        y = self._outputs(X).astype(np.float64)
        p = np.exp(y - y.max(axis=1, keepdims=True))
        return p / p.sum(axis=1, keepdims=True)

    def predict(self, X: Data) -> np.ndarray:
        """The most probable class of each sequence.

        Parameters
        ----------
        X : array_like or list of array_like
            In a form that goes with what it was trained on.

        Returns
        -------
        y : ndarray, (n_samples,)
            Labels from ``classes_``.
        """
        best = self._outputs(X).argmax(axis=1)
        return self.classes_[best]

    def _checked_y(self, y: Any) -> np.ndarray:
        y = validation.check_array(y, dtype=None, ensure_2d=False, input_name="y", estimator=self)
        y = validation.column_or_1d(y, warn=True)
        check_classification_targets(y)
        return y

    def _learn(self, y: np.ndarray) -> None:
        self.classes_ = np.unique(y)
        self._output_size = len(self.classes_)

    def _targets(self, y: np.ndarray) -> np.ndarray:
        unknown = np.setdiff1d(y, self.classes_)
        if unknown.size:
            raise ValueError(f"y has {unknown}, expected labels of classes {self.classes_}")
        return np.searchsorted(self.classes_, y)
