"""Optional dependencies: imported when used, with an error that says what to install."""

import importlib
from typing import Any

# What pip calls a module, where that is another name
PIP_NAMES = {"sklearn": "scikit-learn"}


class MissingExtraError(ImportError):
    """An optional dependency is not installed; the message says how to install it.

    See Also
    --------
    fastbptt.plots, fastbptt.estimators, fastbptt.torch : Some of those that need an extra.

    Examples
    --------
    >>> import fastbptt
    >>> try:
    ...     from fastbptt import estimators
    ... except fastbptt.MissingExtraError:
    ...     estimators = None  # scikit-learn is not installed
    """


def import_extra(module: str, extra: str, purpose: str) -> Any:
    """Import a module that one of the package's extras installs.

    Parameters
    ----------
    module : str
        For example ``"matplotlib.pyplot"``.
    extra : str
        The extra that installs it.
    purpose : str
        What needs the module; the message says so.

    Returns
    -------
    module

    Raises
    ------
    MissingExtraError
        It names the library, which pip finds wherever fastbptt itself has come from: a wheel, a
        checkout or an index.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        library = PIP_NAMES.get(name, name)
        raise MissingExtraError(
            f"{purpose} needs {library}: pip install {library} (fastbptt's extra {extra!r})",
            name=name,
        ) from error
