"""Estimators for scikit-learn: numbers or classes for sequences or their steps, and forecasts.

They need scikit-learn, which the extra "sklearn" installs.
"""

from fastbptt._extras import import_extra

import_extra("sklearn", "sklearn", "fastbptt.estimators")

from fastbptt.estimators._classifier import RNNClassifier  # noqa: E402
from fastbptt.estimators._forecaster import RNNForecaster  # noqa: E402
from fastbptt.estimators._forms import to_column  # noqa: E402
from fastbptt.estimators._regressor import RNNRegressor  # noqa: E402
from fastbptt.estimators._scaler import SequenceScaler  # noqa: E402

__all__ = ["RNNClassifier", "RNNForecaster", "RNNRegressor", "SequenceScaler", "to_column"]
