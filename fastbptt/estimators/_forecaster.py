"""Forecasts of a series, some steps ahead."""

import copy
from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.preprocessing import StandardScaler

from fastbptt import _checks, _sequences
from fastbptt.datasets import windows
from fastbptt.estimators._regressor import RNNRegressor
from fastbptt.estimators._sklearn import BaseEstimator, validation

STRATEGIES = "recursive", "direct", "multioutput"


class RNNForecaster(BaseEstimator):
    """Forecast a series from windows of its past, in the words of sktime.

    A regressor learns to tell from a window what comes after it.  The series is scaled for it to
    mean 0 and standard deviation 1, and forecasts are scaled back.

    Parameters
    ----------
    estimator : regressor, optional
        A clone of it is trained on windows (N, window_length, n_features) and targets (N, n).  By
        default ``RNNRegressor()``; any that takes arrays of three axes will do.
    window_length : int, default 10
        Steps in a window.
    strategy : {"recursive", "direct", "multioutput"}, default "recursive"
        How to go several steps ahead: with one regressor that tells the next step, again and again
        from a window that ends with its own forecasts; with one regressor for each step ahead; or
        with a single one for all of them.
    step_length : int, default 1
        Steps from the start of a training window to that of the next.
    scale : bool, default True
        False leaves the series as it is.

    Attributes
    ----------
    estimators_ : list of regressors
        One, or with the strategy "direct" one for each step ahead, in the order of `fh_`.
    fh_ : ndarray of int
        The forecasting horizon that it was fitted for.
    scaler_, X_scaler_ : sklearn.preprocessing.StandardScaler, or None
        Those of the series and of X.

    See Also
    --------
    RNNRegressor : What it trains.
    fastbptt.datasets.windows : What it trains on.
    fastbptt.plots.plot_forecast : Draws a forecast.

    Notes
    -----
    A series y is an array (T,), or (T, n_outputs) if several are forecast together.  X, (T,
    n_features), is what else is known, also of the times to come: such as the time of day, or a
    price that was announced.  Each step of a window holds y at its time, and X at the times that
    are forecast from there: h steps later, for each h that the regressor forecasts.

    Networks do not always forecast better than least squares on the same windows: compare.

    Source of the strategies: Bontempi, Ben Taieb and Le Borgne 2013, "Machine learning strategies
    for time series forecasting".

    Examples
    --------
    >>> import numpy as np
    >>> from fastbptt.estimators import RNNForecaster, RNNRegressor
    >>> t = np.arange(220)
    >>> y = 50 + 20 * np.sin(2 * np.pi * t / 20)
    >>> regressor = RNNRegressor(hidden_size=16, learning_rate=0.01, epochs=60, random_state=0)
    >>> forecaster = RNNForecaster(regressor, window_length=20, strategy="direct")
    >>> forecast = forecaster.fit(y[:200], fh=[1, 5, 10]).predict()
    >>> bool(np.abs(forecast - y[[200, 204, 209]]).max() < 3)
    True
    """

    estimators_: list[Any]
    fh_: np.ndarray
    scaler_: Any
    X_scaler_: Any

    _y: np.ndarray  # the last window, scaled, (window_length, n_outputs)
    _X: np.ndarray  # beside it, (window_length, n_features)
    _flat: bool  # whether the series had one axis

    def __init__(
        self,
        estimator: Any = None,
        *,
        window_length: int = 10,
        strategy: Literal["recursive", "direct", "multioutput"] = "recursive",
        step_length: int = 1,
        scale: bool = True,
    ) -> None:
        self.estimator = estimator
        self.window_length = window_length
        self.strategy = strategy
        self.step_length = step_length
        self.scale = scale

    def fit(
        self,
        y: ArrayLike,
        X: ArrayLike | None = None,
        fh: int | Sequence[int] | np.ndarray | None = None,
    ) -> Self:
        """Train on a series.

        Parameters
        ----------
        y : array_like, (T,) or (T, n_outputs)
        X : array_like, (T, n_features) or (T,), optional
            At the same times.
        fh : int or sequence of int, optional
            Steps ahead to be forecast.  The strategies "direct" and "multioutput" need them here;
            for "recursive" it is 1 by default, and may be another at :meth:`predict`.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If an argument or a parameter has the wrong type, shape or value, or the series is
            shorter than a window and the horizon.

        Notes
        -----
        Whatever is raised, the forecaster stays as it was.
        """
        length = _checks.integer("window_length", self.window_length)
        _checks.one_of("strategy", self.strategy, STRATEGIES)
        if fh is None and self.strategy != "recursive":
            raise ValueError(f"fh is None, expected steps ahead, with strategy {self.strategy!r}")
        fitted, ahead = copy.copy(self), _checks.horizon(1 if fh is None else fh)
        fitted._flat = np.ndim(y) == 1
        y, X = _checked("y", y), None if X is None else _checked("X", X)
        X = np.empty((len(y), 0)) if X is None else X
        if len(X) != len(y):
            raise ValueError(f"X has {len(X)} time steps, expected {len(y)} as y has")
        fitted.scaler_ = StandardScaler().fit(y) if self.scale else None
        fitted.X_scaler_ = StandardScaler().fit(X) if self.scale and X.shape[1] else None
        y, X = fitted._scaled(y, X)
        fitted.fh_, fitted.estimators_ = ahead, []
        for of_one in fitted._horizons():
            known = [np.concatenate([X[h:], np.zeros((h, X.shape[1]))]) for h in of_one]
            x, target = windows(
                np.concatenate([y, *known], axis=1), length, fh=of_one, target=y,
                step_length=self.step_length,
            )  # fmt: skip
            regressor: Any = RNNRegressor() if self.estimator is None else clone(self.estimator)
            target = target.reshape(len(target), -1)
            regressor.fit(x, target if target.shape[1] > 1 else target[:, 0])
            fitted.estimators_.append(regressor)
        fitted._y, fitted._X = y[-length:], X[-length:]
        self.__dict__ = fitted.__dict__
        return self

    def predict(
        self,
        fh: int | Sequence[int] | np.ndarray | None = None,
        X: ArrayLike | None = None,
    ) -> np.ndarray:
        """Forecast what comes after the series.

        Parameters
        ----------
        fh : int or sequence of int, optional
            Steps ahead; by default those of :meth:`fit`, of which the strategies "direct" and
            "multioutput" can forecast some or all.
        X : array_like, (n, n_features) or (n,), optional
            At the n steps after the series, at least up to the last one forecast; needed if the
            forecaster was fitted with X.

        Returns
        -------
        ndarray of float64, (len(fh),) or (len(fh), n_outputs)
            In the units of y, and its form; an int counts as one step ahead.
        """
        validation.check_is_fitted(self, "estimators_")
        ahead = self.fh_ if fh is None else _checks.horizon(fh)
        unknown = np.setdiff1d(ahead, self.fh_)
        if self.strategy != "recursive" and unknown.size:
            raise ValueError(
                f"fh has {unknown.tolist()}, expected steps ahead that it was fitted for: "
                f"{self.fh_.tolist()}"
            )
        last, y, length = int(ahead.max()), self._y, len(self._y)
        if self.strategy == "multioutput":
            last = int(self.fh_.max())
        _, later = self._scaled(y, self._with_X(X, last))
        known = np.concatenate([self._X, later])
        found: dict[int, np.ndarray] = {}
        if self.strategy == "recursive":
            for h in range(1, last + 1):
                x = np.concatenate([y[-length:], known[h : h + length]], axis=1)
                found[h] = self._regress(0, x)
                y = np.concatenate([y, found[h][np.newaxis]])
        else:
            for k, of_one in enumerate(self._horizons()):
                if np.isin(of_one, ahead).any():
                    parts = [y, *(known[h : h + length] for h in of_one)]
                    ys = self._regress(k, np.concatenate(parts, axis=1))
                    found.update(zip(of_one, ys.reshape(len(of_one), -1), strict=True))
        y = np.stack([found[h] for h in ahead.tolist()])
        y = y if self.scaler_ is None else self.scaler_.inverse_transform(y)
        return y[:, 0] if self._flat else y

    def update(self, y: ArrayLike, X: ArrayLike | None = None) -> Self:
        """Take in what has come after the series, to forecast from there; nothing is trained.

        Parameters
        ----------
        y, X : array_like
            In the form of those that it was fitted to.

        Returns
        -------
        self
        """
        validation.check_is_fitted(self, "estimators_")
        y = _checked("y", y)
        if y.shape[1] != self._y.shape[1]:
            raise ValueError(f"y has {y.shape[1]} series, expected {self._y.shape[1]} as before")
        y, X = self._scaled(y, self._with_X(X, len(y)))
        self._y = np.concatenate([self._y, y])[-len(self._y) :]
        self._X = np.concatenate([self._X, X])[-len(self._X) :]
        return self

    def _horizons(self) -> list[list[int]]:
        """The steps ahead that each of the regressors forecasts."""
        if self.strategy == "recursive":
            return [[1]]
        ahead = self.fh_.tolist()
        return [ahead] if self.strategy == "multioutput" else [[h] for h in ahead]

    def _regress(self, k: int, window: np.ndarray) -> np.ndarray:
        """What a regressor tells from one window, (window_length, n): scaled, (m,)."""
        return np.reshape(self.estimators_[k].predict(window[np.newaxis]), -1)

    def _with_X(self, X: Any, count: int) -> np.ndarray:
        """X of so many time steps or more, (count, n_features); without features if it has none."""
        features = self._X.shape[1]
        if X is None and features == 0:
            return np.empty((count, 0))
        if X is None:
            raise ValueError(f"X is None, expected {features} features as before")
        X = _checked("X", X)
        if len(X) < count or X.shape[1] != features:
            raise ValueError(
                f"X has shape {X.shape}, expected ({count}, {features}) with the features as before"
            )
        return X[:count]

    def _scaled(self, y: np.ndarray, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (
            y if self.scaler_ is None else self.scaler_.transform(y),
            X if self.X_scaler_ is None or not len(X) else self.X_scaler_.transform(X),
        )


def _checked(name: str, series: Any) -> np.ndarray:
    """A series of finite numbers in float64, (T, n)."""
    found = _sequences.real(name, series)
    if found.ndim not in (1, 2):
        raise ValueError(f"{name} has shape {found.shape}, expected (T,) or (T, n)")
    if not np.isfinite(found).all():
        raise ValueError(f"{name} holds NaN or infinity, expected finite numbers")
    return found.reshape(len(found), -1).astype(np.float64)
