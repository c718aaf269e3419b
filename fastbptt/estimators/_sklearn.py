"""What is taken from scikit-learn, with types, which it has not."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import sklearn.utils.validation
from numpy.typing import ArrayLike

validation: Any = sklearn.utils.validation

Data = ArrayLike | Sequence[ArrayLike]  # sequences, in one of the forms that RNNRegressor names

if TYPE_CHECKING:

    class BaseEstimator:
        def get_params(self, deep: bool = True) -> dict[str, Any]: ...
        def set_params(self, **params: Any) -> Self: ...
        def set_fit_request(self, **request: bool | str | None) -> Self: ...
        def set_partial_fit_request(self, **request: bool | str | None) -> Self: ...
        def set_score_request(self, **request: bool | str | None) -> Self: ...
        def set_transform_request(self, **request: bool | str | None) -> Self: ...
        def set_inverse_transform_request(self, **request: bool | str | None) -> Self: ...
        def __sklearn_tags__(self) -> Any: ...

    class RegressorMixin:
        def score(self, X: Data, y: Data, sample_weight: Any = None) -> float: ...

    class ClassifierMixin:
        def score(self, X: Data, y: Data, sample_weight: Any = None) -> float: ...

    class TransformerMixin:
        def __sklearn_tags__(self) -> Any: ...
        def set_output(self, *, transform: str | None = None) -> Self: ...

    class OneToOneFeatureMixin:
        def get_feature_names_out(self, input_features: Any = None) -> np.ndarray: ...

else:
    from sklearn.base import (  # noqa: F401
        BaseEstimator,
        ClassifierMixin,
        OneToOneFeatureMixin,
        RegressorMixin,
        TransformerMixin,
    )
