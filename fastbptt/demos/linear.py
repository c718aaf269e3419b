"""Least squares, the classical baseline that the demos print beside their networks."""

import numpy as np


def least_squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Weights of the columns of x (N, I), and the intercept after them, (I + 1,), for y (N,)."""
    return np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0]


def predict(weights: np.ndarray, x: np.ndarray) -> np.ndarray:
    """What those weights give for x (..., I)."""
    return x @ weights[:-1] + weights[-1]


def lags(series: np.ndarray, order: int) -> np.ndarray:
    """The `order` values before each value but the first ones, the latest first.

    The last axis T of `series` becomes two, (T - order, order).
    """
    before = np.lib.stride_tricks.sliding_window_view(series[..., :-1], order, axis=-1)
    return before[..., ::-1]


def autoregression(series: np.ndarray, order: int, cut: int) -> np.ndarray:
    """Forecasts of series[order:] by AR(order), fitted by least squares to series[:cut]."""
    weights = least_squares(lags(series[:cut], order), series[order:cut])
    return predict(weights, lags(series, order))


def order_by_aic(series: np.ndarray, largest: int) -> int:
    """The order, from 1 to `largest`, whose AR has the least AIC, n log s^2 + 2 (order + 1).

    s^2 is the mean squared residual over the same n values for every order (Akaike 1974).  The
    columns of one order are the first ones of the next, so one QR decomposition serves all.
    """
    y = series[largest:]
    basis, _ = np.linalg.qr(np.c_[np.ones(len(y)), lags(series, largest)])
    rss = y @ y - np.cumsum((basis.T @ y) ** 2)[1:]
    aic = len(y) * np.log(rss / len(y)) + 2 * np.arange(2, largest + 2)
    return int(aic.argmin()) + 1


def rmse(forecast: np.ndarray, truth: np.ndarray) -> float:
    """Root of the mean squared error."""
    return float(np.sqrt(np.mean((forecast - truth) ** 2)))
