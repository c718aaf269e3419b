"""Real series that ship with the package."""

from importlib import resources

import numpy as np


def sunspots_monthly():
    """Monthly mean sunspot numbers, January 1749 to June 2009.

    Returns
    -------
    year : ndarray of float64, (3126,)
        The middle of each month, in years: 1749.0417 is the middle of January 1749.
    sunspots : ndarray of float64, (3126,)
        The mean of the month's daily sunspot numbers.

    Notes
    -----
    Source: NOAA National Geophysical Data Center; in the public domain.

    Examples
    --------
    >>> from fastbptt.datasets import sunspots_monthly
    >>> year, sunspots = sunspots_monthly()
    >>> len(sunspots), float(sunspots[0])
    (3126, 58.0)
    """
    year, month, sunspots = _columns("sunspots_monthly.csv")
    return year + (month - 0.5) / 12, sunspots


def sunspots_yearly():
    """Yearly mean sunspot numbers, 1700 to 2008.

    Returns
    -------
    year : ndarray of float64, (309,)
        The middle of each year: 1700.5 is the middle of 1700.
    sunspots : ndarray of float64, (309,)
        The mean of the year's daily sunspot numbers.

    Notes
    -----
    Source: NOAA National Geophysical Data Center; in the public domain.

    Examples
    --------
    >>> from fastbptt.datasets import sunspots_yearly
    >>> year, sunspots = sunspots_yearly()
    >>> len(sunspots), float(sunspots[0])
    (309, 5.0)
    """
    year, sunspots = _columns("sunspots_yearly.csv")
    return year + 0.5, sunspots


def _columns(name):
    with (resources.files("fastbptt") / "data" / name).open(encoding="utf-8") as file:
        table = np.loadtxt(file, delimiter=",", skiprows=1)
    return np.ascontiguousarray(table.T)
