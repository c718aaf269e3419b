"""Numbers for sequences, or for their steps."""

from typing import Any, Self

import numpy as np
from sklearn.metrics import r2_score

from fastbptt.estimators import _forms
from fastbptt.estimators._estimator import Estimator
from fastbptt.estimators._sklearn import Data, RegressorMixin, validation

# Between these, the squares of targets and of their differences can be summed in float64, here for
# the standard deviation and in scikit-learn for its scores.
SMALLEST, LARGEST = 1e-140, 1e140
# In units of the scale: the squares of gradients, which Adam keeps, then fit into float32.
FARTHEST = 1e15


class RNNRegressor(RegressorMixin, Estimator):
    """A recurrent network that reads a sequence and predicts one number, or several.

    It does so at the sequence's end, or at every step.  It is a :class:`fastbptt.RNN`, trained by
    :func:`fastbptt.fit` with Adam to minimize the mean squared error.

    Parameters
    ----------
    hidden_size : int, default 32
    num_layers : int, default 1
    bidirectional : bool, default False
    activation : {"tanh", "relu", "identity"}, default "tanh"
    output : {"last", "all"}, default "last"
        Whether y has a target for each sequence or one for each of its steps.
    dropout : float, default 0.0
        Share of the states between two layers that training replaces by zero.
    output_dropout : float, default 0.0
        The same for the last layer's states, which are read out.
    learning_rate : float, default 1e-3
        Adam's.
    epochs : int, default 100
        Passes over the data.
    batch_size : int, default 32
        Sequences in a minibatch.
    clip_norm : float or None, default 1.0
        Largest norm of the gradient of all weights together.
    l1, l2 : float or mapping of str to float, default 0.0
        Penalties of the weights, as for :func:`fastbptt.fit`.
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

    See Also
    --------
    RNNClassifier : Classes in place of numbers.
    RNNForecaster : Forecasts a series.
    SequenceScaler : Scales sequences before.
    fastbptt.fit : Trains with more options.

    Notes
    -----
    X is one of

    - an array (n_samples, n_steps), each row a series of one feature;
    - an array (n_samples, n_steps, n_features);
    - a list of arrays (T_i, n_features), or (T_i,) for one feature, whose lengths may differ; a
      Series or an array of objects, or one column of them as :func:`to_column` makes it, is a list.

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

    A number at every step, for sequences of unequal length:

    >>> X = [row[:n] for row, n in zip(X, [5, 3, 4, 5] * 16)]
    >>> y = [row.cumsum() for row in X]
    >>> model.set_params(output="all").fit(X, y).score(X, y) > 0.9
    True
    >>> [a.shape for a in model.predict(X[:3])]
    [(5,), (3,), (4,)]
    """

    y_mean_: Any
    y_scale_: Any

    _LOSS = "mse"

    def partial_fit(self, X: Data, y: Data, sample_weight: Any = None) -> Self:
        """Train for one more epoch, from where the last call of fit or partial_fit, if any, ended.

        As many calls as epochs, with the same data, give the same bits as :meth:`fit` if that holds
        nothing out.

        Parameters
        ----------
        X, y, sample_weight
            As for :meth:`fit`.  The mean and the scale are those of the first y.

        Returns
        -------
        self

        Notes
        -----
        Whatever is raised, on Ctrl-C within the epoch too, the estimator stays as it was.
        """
        return self._partial_fit(X, y, sample_weight)

    def predict(self, X: Data) -> Any:
        """One number, or several, for each sequence, or for each step.

        Parameters
        ----------
        X : array_like or list of array_like
            In a form that goes with what it was trained on.

        Returns
        -------
        y : ndarray of float64, (n_samples,) or (n_samples, n_outputs)
            One number or several as in the y that it was trained on.  With ``output="all"``
            (n_samples, n_steps) or (n_samples, n_steps, n_outputs), or a list of such arrays if X
            is one.
        """

        def in_units(outputs: np.ndarray) -> np.ndarray:
            y = outputs if np.ndim(self.y_mean_) else outputs[..., 0]
            return y * self.y_scale_ + self.y_mean_

        return _forms.each(in_units, self._outputs(X))

    def score(self, X: Data, y: Data, sample_weight: Any = None) -> float:
        """The coefficient of determination R² of what is predicted, over all steps if of steps.

        Parameters
        ----------
        X, y, sample_weight
            As for :meth:`fit`.

        Returns
        -------
        float
            As from :func:`sklearn.metrics.r2_score`.
        """
        if self.output == "last":
            return super().score(X, y, sample_weight)
        y, predicted, weight = self._scored(X, y, sample_weight)
        return float(r2_score(y, predicted, sample_weight=weight))

    def _checked_rows(self, rows: Any) -> np.ndarray:
        y = validation.check_array(
            rows, dtype=np.float64, ensure_2d=False, input_name="y", estimator=self
        )
        size = np.abs(y).max()
        if size > LARGEST:
            raise ValueError(
                f"y has values of size {size:.3g}, expected at most {LARGEST}: take a larger unit"
            )
        return y

    def _learn(self, rows: np.ndarray, weight: np.ndarray | None) -> None:
        y = rows if weight is None else rows[weight > 0]
        weight = None if weight is None else weight[weight > 0]
        spread = np.ptp(y, axis=0)
        constant = spread == 0
        if (~constant & (spread < SMALLEST)).any():
            raise ValueError(
                f"y has values that differ by {spread[~constant].min():.3g} at most, expected 0 or "
                f"at least {SMALLEST}: take a smaller unit"
            )
        # The computed mean of equal numbers may differ from them, and their deviation from 0.
        mean = np.average(y, axis=0, weights=weight)
        std = np.sqrt(np.average((y - mean) ** 2, axis=0, weights=weight))
        self.y_mean_ = np.where(constant, y[0], mean)[()]
        self.y_scale_ = np.where(constant, 1.0, std)[()]
        self._output_size = self.y_mean_.size

    def _targets(self, rows: np.ndarray) -> np.ndarray:
        y = (rows - self.y_mean_) / self.y_scale_
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
