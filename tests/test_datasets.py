"""The series that ship with the package, against facts known of them."""

import numpy as np

from fastbptt import datasets


def test_sunspots_monthly():
    year, sunspots = datasets.sunspots_monthly()
    assert year.shape == sunspots.shape == (3126,)
    assert year.dtype == sunspots.dtype == np.float64
    assert sunspots[0] == 58.0  # January 1749
    assert sunspots[-1] == 2.6  # June 2009
    assert year[0] == 1749 + 0.5 / 12
    assert year[-1] == 2009 + 5.5 / 12
    np.testing.assert_allclose(np.diff(year), 1 / 12, rtol=1e-9)  # no month is missing
    assert sunspots.min() == 0
    assert sunspots.max() == 253.8
    assert int(year[sunspots.argmax()]) == 1957  # the highest month on record: October 1957


def test_sunspots_yearly():
    year, sunspots = datasets.sunspots_yearly()
    assert year.shape == sunspots.shape == (309,)
    assert year.dtype == sunspots.dtype == np.float64
    np.testing.assert_array_equal(year, np.arange(1700, 2009) + 0.5)
    assert sunspots[0] == 5
    assert sunspots[-1] == 2.9
    assert int(year[sunspots.argmax()]) == 1957


def test_the_two_series_agree():
    """Where both were given by the same source: a year's value is the mean of its months."""
    _, monthly = datasets.sunspots_monthly()
    year, yearly = datasets.sunspots_yearly()
    expected = monthly[: 260 * 12].reshape(260, 12).mean(axis=1)  # 1749 to 2008
    got = yearly[year > 1749]
    assert np.median(np.abs(got - expected)) < 0.1


def test_each_call_returns_arrays_of_its_own():
    datasets.sunspots_monthly()[1][:] = 0
    assert datasets.sunspots_monthly()[1][0] == 58.0
