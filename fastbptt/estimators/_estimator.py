"""What the estimators share: everything but what their targets are."""

import copy
import math
from collections.abc import Mapping
from numbers import Real
from typing import Any, ClassVar, Literal, Self

import numpy as np
from sklearn.model_selection import train_test_split

from fastbptt import _checks
from fastbptt._names import with_our_names
from fastbptt.estimators import _forms
from fastbptt.estimators._sklearn import BaseEstimator, Data, validation
from fastbptt.losses import LossName
from fastbptt.model import OUTPUTS, RNN
from fastbptt.optimizers import Adam
from fastbptt.rnn import Activation, Backend
from fastbptt.training import Generators, History, fit


class Estimator(BaseEstimator):
    """A model, and how it is trained.

    A subclass has, for rows of targets, one for each sequence or with output "all" for each step:
    ``_checked_rows(rows)``; ``_learn(rows, weight)``, which keeps what must be known of the targets
    before training; and ``_targets(rows)``, which returns them as its loss takes them.

    A copy is trained, and takes the estimator's place in one step when all has gone well: if
    anything is raised before, the estimator stays as it was.
    """

    model_: RNN
    history_: History

    _LOSS: ClassVar[LossName]
    _STRATIFY: ClassVar[bool] = False  # whether what is held out has a share of every class
    _output_size: int
    _optimizer: Adam
    _generators: Generators

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
        self.output = output
        self.dropout = dropout
        self.output_dropout = output_dropout
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.clip_norm = clip_norm
        self.l1 = l1
        self.l2 = l2
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.dtype = dtype
        self.backend = backend
        self.random_state = random_state
        self.verbose = verbose

    def _checked_rows(self, rows: Any) -> np.ndarray:
        raise NotImplementedError

    def _learn(self, rows: np.ndarray, weight: np.ndarray | None) -> None:
        raise NotImplementedError

    def _targets(self, rows: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def _options(self) -> dict[str, Any]:
        """What a subclass adds to the arguments of :func:`fastbptt.fit`."""
        return {}

    def fit(self, X: Data, y: Data, sample_weight: Any = None) -> Self:
        """Train from new weights.

        Parameters
        ----------
        X : array_like, (n_samples, n_steps) or (n_samples, n_steps, n_features), or list
            Sequences, in one of the forms that :class:`RNNRegressor` names.
        y : array_like, (n_samples,), or for a regressor (n_samples, n_outputs)
            With ``output="all"`` a target for each step: (n_samples, n_steps), or for a regressor
            (n_samples, n_steps, n_outputs), or a list of arrays as long as the sequences.
        sample_weight : array_like, (n_samples,), optional
            What each sequence counts in the loss, at least 0; with ``output="all"`` also each step,
            (n_samples, n_steps) or a list of arrays.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If X, y, the weights or a parameter has the wrong type, dtype, shape or value.
        FloatingPointError
            If the loss becomes infinite or NaN.

        Notes
        -----
        Ctrl-C ends the training as if all epochs were done, and ``history_.stopped`` says so; but
        within the first epoch it raises KeyboardInterrupt.  Whatever is raised, the estimator stays
        as it was.

        The loss of a minibatch is the weighted mean over its rows.  So a sequence of weight 2 is
        the same as two of weight 1 if all are one minibatch, and nearly so in smaller ones.
        """
        trained = copy.copy(self)
        trained._fit_anew(X, y, sample_weight)
        self.__dict__ = trained.__dict__
        return self

    def _fit_anew(self, X: Any, y: Any, weight: Any) -> None:
        X, y, weight = self._checked(X, y, weight, reset=True)
        self._learn(self._rows(y), self._rows_of_weight(weight, y))
        X, y, weight = _without_zeros(X, y, weight)
        y, options = self._in_form_of(y, self._targets(self._rows(y))), {}
        random_state = validation.check_random_state(self.random_state)
        share = self.validation_fraction
        if not isinstance(share, Real) or not 0 <= share < 1:
            raise ValueError(
                f"validation_fraction is {share!r}, expected at least 0 and less than 1"
            )
        if share:
            given = [X, y] if weight is None else [X, y, weight]
            parts = train_test_split(
                *given, test_size=share, random_state=random_state,
                stratify=y if self._STRATIFY and self.output == "last" else None,
            )  # fmt: skip
            X, y, *weights = parts[::2]
            X_held_out, y_held_out, *weights_held_out = parts[1::2]
            weight = weights[0] if weights else None
            options["validation"] = X_held_out, y_held_out, None, *weights_held_out
        self._begin(X, random_state)
        self._train(X, y, weight, self.epochs, patience=self.patience, **options)

    def _partial_fit(self, X: Any, y: Any, weight: Any, known: Any = None) -> Self:
        """One epoch; before the first one, `known`, or else y, tells what to learn of targets."""
        trained = copy.copy(self)
        trained._fit_further(X, y, weight, known)
        self.__dict__ = trained.__dict__
        return self

    def _fit_further(self, X: Any, y: Any, weight: Any, known: Any) -> None:
        first = not hasattr(self, "model_")
        X, y, weight = self._checked(X, y, weight, reset=first)
        if first and known is None:
            self._learn(self._rows(y), self._rows_of_weight(weight, y))
        elif first:
            self._learn(known, None)
        X, y, weight = _without_zeros(X, y, weight)
        y = self._in_form_of(y, self._targets(self._rows(y)))
        if first:
            self._begin(X, validation.check_random_state(self.random_state))
        else:  # copies of what training changes in place
            changing = self.model_, self._optimizer, self._generators
            self.model_, self._optimizer, self._generators = copy.deepcopy(changing)
        self._train(X, y, weight, epochs=1)

    def _begin(self, X: Any, random_state: np.random.RandomState) -> None:
        """A new model, optimizer and random generators, which go on from call to call."""
        rng = np.random.default_rng(random_state.randint(2**31 - 1))
        self._generators = Generators(*rng.spawn(2))
        self._optimizer = Adam()
        self.model_ = RNN(
            X[0].shape[1], self.hidden_size, self._output_size, num_layers=self.num_layers,
            bidirectional=self.bidirectional, activation=self.activation, output=self.output,
            dropout=self.dropout, output_dropout=self.output_dropout, dtype=self.dtype, seed=rng,
            backend=self.backend,
        )  # fmt: skip

    def _train(self, X: Any, y: Any, weight: Any, epochs: int, **options: Any) -> None:
        rate = self.learning_rate
        if not isinstance(rate, Real) or not 0 < rate < math.inf:
            raise ValueError(f"learning_rate is {rate!r}, expected a positive number")
        self._optimizer.learning_rate = rate
        try:
            self.history_ = fit(
                self.model_, X, y, sample_weight=weight, loss=self._LOSS,
                optimizer=self._optimizer, epochs=epochs, batch_size=self.batch_size,
                clip_norm=self.clip_norm, l1=self.l1, l2=self.l2, progress=bool(self.verbose),
                seed=self._generators, **self._options(), **options,
            )  # fmt: skip
        except FloatingPointError as error:  # it says what the model keeps; this one is dropped
            what = str(error).partition(";")[0]
            raise FloatingPointError(f"{what}; the estimator is as it was") from None
        if self.history_.stopped == "interrupted" and not self.history_.loss:
            raise KeyboardInterrupt

    def _outputs(self, X: Any) -> Any:
        """The model's outputs: (n_samples, O), or those of every step."""
        validation.check_is_fitted(self, "model_")
        return self.model_.predict(self._sequences(X, reset=False))

    def _checked(self, X: Any, y: Any, weight: Any, reset: bool) -> Any:
        """Sequences, and targets and weights in the form that goes with them."""
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None"
            )
        _checks.one_of("output", self.output, OUTPUTS)
        X = self._sequences(X, reset)
        if self.output == "all":
            y = _forms.of_steps("y", y, X)
        else:
            _forms.refuse_steps(y)
        y = self._in_form_of(y, self._checked_rows(self._rows(y)))
        validation.check_consistent_length(X, y)
        if weight is not None and self.output == "all" and _forms.has_steps(weight):
            weight = _forms.of_steps("sample_weight", weight, X)
            weight = _forms.in_form_of(weight, _checked_weight(_forms.rows(weight)))
        elif weight is not None:
            weight = _checked_weight(weight, len(X))
        return X, y, weight

    def _sequences(self, X: Any, reset: bool) -> Any:
        features = None if reset else self.model_.input_size
        return _forms.checked(self, X, reset, self.dtype, features)

    def _rows(self, y: Any) -> Any:
        """Targets one by one: as they are, or those of each step."""
        return _forms.rows(y) if self.output == "all" else y

    def _in_form_of(self, y: Any, rows: np.ndarray) -> Any:
        """The way back."""
        return _forms.in_form_of(y, rows) if self.output == "all" else rows

    def _rows_of_weight(self, weight: Any, y: Any) -> Any:
        """A weight for each of the rows."""
        if weight is None or self.output == "last":
            return weight
        if _forms.has_steps(weight):
            return _forms.rows(_forms.of_steps("sample_weight", weight, y))
        weight = _checked_weight(weight, len(y))
        return np.repeat(weight, [len(a) for a in y])

    def _scored(self, X: Data, y: Data, weight: Any) -> tuple[Any, Any, Any]:
        """Targets, predictions and weights of every step, for a score."""
        predicted = self.predict(X)
        y = _forms.of_steps("y", y, predicted)
        return _forms.rows(y), _forms.rows(predicted), self._rows_of_weight(weight, y)

    def predict(self, X: Data) -> Any:
        raise NotImplementedError

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


def _checked_weight(weight: Any, count: int | None = None) -> np.ndarray:
    """Weights, one for each of so many sequences; or of all steps."""
    if isinstance(weight, Real):
        weight = np.full(count or 1, weight)
    found = validation.check_array(
        weight, dtype=np.float64, ensure_2d=False, input_name="sample_weight"
    )
    if found.ndim != 1 or (count is not None and len(found) != count):
        raise ValueError(f"sample_weight has shape {found.shape}, expected {(count,)}")
    if found.min() < 0 or not found.any():
        raise ValueError(
            f"sample_weight has values from {found.min()} to {found.max()}, expected at least zero "
            f"and somewhere above"
        )
    return found


def _without_zeros(X: Any, y: Any, weight: Any) -> tuple[Any, Any, Any]:
    """What is left without the sequences of weight 0: they would take time for nothing."""
    if isinstance(weight, list) or weight is None or weight.ndim > 1 or weight.all():
        return X, y, weight
    kept = np.flatnonzero(weight)
    X, y = ([a[n] for n in kept] if isinstance(a, list) else a[kept] for a in (X, y))
    return X, y, weight[kept]
