"""Optional dependencies: imported when used, with an error that says what to install."""

import importlib
from typing import Any


class MissingExtraError(ImportError):
    """An optional dependency is not installed; the message says how to install it."""


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
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise MissingExtraError(
            f'{purpose} needs {name}: pip install "fastbptt[{extra}]"', name=name
        ) from error
