"""Optional dependencies: imported when used, with an error that says what to install."""

import importlib


class MissingExtraError(ImportError):
    """An optional dependency is not installed; the message says how to install it."""


def import_extra(module, extra, purpose):
    """Import a module that one of the package's extras installs.

    Parameters
    ----------
    module : str
        Such as ``"matplotlib.pyplot"``.
    extra : str
        The extra that installs it.
    purpose : str
        What needs it, for the message.

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
