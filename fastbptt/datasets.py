"""Data to train on: examples small enough to follow by hand, random sequences that a network must
remember, and, shipped with the package, sunspot series and a text; and windows of series.

Inputs x are what a model takes: an array (N, T, I), or a list of (T_i, I) arrays if lengths differ.
Targets y are (N, O) for the last step, (N, T, O) for every step; classes are integers, without the
axis O.
"""

from collections.abc import Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from fastbptt import _checks, _sequences
from fastbptt.rnn import FloatDtype, Seed

__all__ = [
    "adding_problem",
    "copy_memory",
    "decode",
    "encode",
    "genesis",
    "one_hot",
    "sentiment_example",
    "sum_example",
    "sunspots_monthly",
    "sunspots_yearly",
    "temporal_order",
    "windows",
    "zeros_and_ones",
]

# Sentences and their labels
_SENTENCES = {
    "mat": {"cat mat rat": 1, "rat mat mat": 1, "mat mat cat": 0},
    "movie": {"movie was good": 1, "movie was bad": 0, "movie was not good": 0},
}


def sum_example() -> tuple[np.ndarray, np.ndarray]:
    """Three sequences of zeros and ones, each with its sum.

    Returns
    -------
    x : ndarray of float32, (3, 3, 1)
        The sequences 1 0 0, 0 1 1 and 1 1 1.
    y : ndarray of float32, (3, 1)
        1, 2 and 3.

    See Also
    --------
    zeros_and_ones : Draws more like these.

    Notes
    -----
    Source: made up, to be followed by hand.  :func:`zeros_and_ones` draws more like these.

    Examples
    --------
    >>> from fastbptt.datasets import sum_example
    >>> x, y = sum_example()
    >>> x[1].ravel(), y[1]
    (array([0., 1., 1.], dtype=float32), array([2.], dtype=float32))
    """
    x = np.array([[1, 0, 0], [0, 1, 1], [1, 1, 1]], np.float32)
    return x[..., np.newaxis], np.array([[1], [2], [3]], np.float32)


def zeros_and_ones(n: int, length: int, *, seed: Seed = None) -> tuple[np.ndarray, np.ndarray]:
    """Random sequences of zeros and ones, each with its sum.

    Parameters
    ----------
    n : int
        Number of sequences, at least 1.
    length : int
        Steps in each, at least 1.
    seed : None, int or numpy.random.Generator
        As for :func:`numpy.random.default_rng`.

    Returns
    -------
    x : ndarray of float32, (n, length, 1)
        0 or 1, with equal probability.
    y : ndarray of float32, (n, 1)
        The sum of each sequence.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value.

    See Also
    --------
    sum_example : Three such sequences.
    adding_problem : Adds up two values far apart.

    Notes
    -----
    Source: drawn at each call; the task is that of :func:`sum_example`.

    Examples
    --------
    >>> from fastbptt.datasets import zeros_and_ones
    >>> x, y = zeros_and_ones(1000, 20, seed=0)
    >>> x.shape, y.shape
    ((1000, 20, 1), (1000, 1))
    """
    n, length = _checks.integer("n", n, 1), _checks.integer("length", length, 1)
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 2, (n, length, 1)).astype(np.float32)
    return x, x.sum(axis=1)


def sentiment_example(
    name: Literal["mat", "movie"],
) -> tuple[list[np.ndarray], np.ndarray, list[str]]:
    """Three sentences of one-hot words, each labelled favourable or not.

    Parameters
    ----------
    name : {"mat", "movie"}
        "mat": "cat mat rat" 1, "rat mat mat" 1, "mat mat cat" 0.
        "movie": "movie was good" 1, "movie was bad" 0, "movie was not good" 0.

    Returns
    -------
    x : list of ndarray of float32, (T_i, I)
        A row for each word of a sentence, I the size of the vocabulary.
    y : ndarray of float32, (3, 1)
        The labels.
    words : list of str
        The vocabulary, in order of first appearance: ``x[i][t, k]`` is 1 if word t of sentence i is
        ``words[k]``.

    Raises
    ------
    ValueError
        If there is no example of that name.

    See Also
    --------
    one_hot, encode : Words or characters as vectors or integers.

    Notes
    -----
    Source: made up, to be followed by hand.

    Examples
    --------
    >>> from fastbptt.datasets import sentiment_example
    >>> x, y, words = sentiment_example("movie")
    >>> words
    ['movie', 'was', 'good', 'bad', 'not']
    >>> [len(sentence) for sentence in x]
    [3, 3, 4]
    >>> x[1]
    array([[1., 0., 0., 0., 0.],
           [0., 1., 0., 0., 0.],
           [0., 0., 0., 1., 0.]], dtype=float32)
    """
    if not isinstance(name, str) or name not in _SENTENCES:
        known = ", ".join(map(repr, _SENTENCES))
        raise ValueError(f"name is {name!r}, expected one of {known}")
    labels = _SENTENCES[name]
    sentences = [sentence.split() for sentence in labels]
    words = list(dict.fromkeys(word for sentence in sentences for word in sentence))
    x = [one_hot([words.index(word) for word in sentence], len(words)) for sentence in sentences]
    return x, np.array([[label] for label in labels.values()], np.float32), words


def adding_problem(n: int, length: int, *, seed: Seed = None) -> tuple[np.ndarray, np.ndarray]:
    """The adding problem: add up the two values that are marked.

    Parameters
    ----------
    n : int
        Number of sequences, at least 1.
    length : int
        Steps in each, at least 2.
    seed : None, int or numpy.random.Generator
        As for :func:`numpy.random.default_rng`.

    Returns
    -------
    x : ndarray of float32, (n, length, 2)
        ``x[..., 0]``: values, uniform in [0, 1).  ``x[..., 1]``: 1 at one of the first
        ``length // 2`` steps and at one of the others, 0 elsewhere.
    y : ndarray of float32, (n, 1)
        The sum of the two marked values.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value.

    See Also
    --------
    temporal_order, copy_memory : Other problems of memory.

    Notes
    -----
    Source: Hochreiter and Schmidhuber 1997, "Long short-term memory", experiment 4; with values in
    [0, 1) and their plain sum as in Le, Jaitly and Hinton 2015, "A simple way to initialize
    recurrent networks of rectified linear units"; with a marker in each half as in Arjovsky, Shah
    and Bengio 2016, "Unitary evolution recurrent neural networks".

    Always answering 1 gives a mean squared error of 1/6.

    Examples
    --------
    >>> from fastbptt.datasets import adding_problem
    >>> x, y = adding_problem(1000, 50, seed=0)
    >>> x.shape, y.shape
    ((1000, 50, 2), (1000, 1))
    """
    n, length = _checks.integer("n", n, 1), _checks.integer("length", length, 2)
    rng = np.random.default_rng(seed)
    x = np.zeros((n, length, 2), np.float32)
    x[..., 0] = rng.random((n, length), np.float32)
    rows, half = np.arange(n), length // 2
    x[rows, rng.integers(0, half, n), 1] = 1
    x[rows, rng.integers(half, length, n), 1] = 1
    return x, x.prod(axis=2).sum(axis=1, keepdims=True)


def temporal_order(n: int, length: int, *, seed: Seed = None) -> tuple[np.ndarray, np.ndarray]:
    """The temporal order problem: tell which two symbols came, and in which order, among others.

    Parameters
    ----------
    n : int
        Number of sequences, at least 1.
    length : int
        Steps in each, T, at least 5.
    seed : None, int or numpy.random.Generator
        As for :func:`numpy.random.default_rng`.

    Returns
    -------
    x : ndarray of float32, (n, length, 6)
        One-hot symbols A, B, c, d, e, f.  A or B comes at one step t in [T/10, 2T/10] and at one in
        [4T/10, 5T/10], counting t from 0 and including both ends; elsewhere come c to f, which mean
        nothing.
    y : ndarray of int64, (n,)
        The class: 0 for AA, 1 for AB, 2 for BA, 3 for BB.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value.

    See Also
    --------
    adding_problem, copy_memory : Other problems of memory.

    Notes
    -----
    Source: Hochreiter and Schmidhuber 1997, "Long short-term memory", experiment 6a; with these
    intervals, one length, and neither a start nor an end symbol as in Pascanu, Mikolov and Bengio
    2013, "On the difficulty of training recurrent neural networks".

    Examples
    --------
    >>> from fastbptt.datasets import temporal_order
    >>> x, y = temporal_order(1000, 50, seed=0)
    >>> x.shape, y.shape
    ((1000, 50, 6), (1000,))
    """
    n, length = _checks.integer("n", n, 1), _checks.integer("length", length, 5)
    rng = np.random.default_rng(seed)
    codes = rng.integers(2, 6, (n, length))
    y = np.zeros(n, np.int64)
    for tenth in (1, 4):
        low, high = -(-tenth * length // 10), (tenth + 1) * length // 10
        symbol = rng.integers(0, 2, n)
        codes[np.arange(n), rng.integers(low, high, n, endpoint=True)] = symbol
        y = 2 * y + symbol
    return one_hot(codes, 6), y


def copy_memory(
    n: int, delay: int, *, symbols: int = 8, length: int = 10, seed: Seed = None
) -> tuple[np.ndarray, np.ndarray]:
    """The copying memory problem: repeat symbols long after they came.

    Parameters
    ----------
    n : int
        Number of sequences, at least 1.
    delay : int
        Steps from the last symbol to the delimiter, at least 1.
    symbols : int, default 8
        Number of different symbols, at least 1.
    length : int, default 10
        Number of symbols in a sequence, at least 1.
    seed : None, int or numpy.random.Generator
        As for :func:`numpy.random.default_rng`.

    Returns
    -------
    x : ndarray of float32, (n, T, symbols + 2)
        One-hot, with T = delay + 2 length: `length` symbols, delay - 1 blanks, a delimiter and
        `length` blanks.  Symbols are 0 to symbols - 1, the blank is `symbols`, the delimiter
        ``symbols + 1``.
    y : ndarray of int64, (n, T)
        The class of each step, 0 to `symbols`: blanks up to and including the delimiter, then the
        sequence's symbols.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value.

    See Also
    --------
    adding_problem, temporal_order : Other problems of memory.

    Notes
    -----
    Source: Arjovsky, Shah and Bengio 2016, "Unitary evolution recurrent neural networks", after
    Hochreiter and Schmidhuber 1997, "Long short-term memory".

    Answering blanks, and then every symbol with equal probability, gives a cross-entropy of
    ``length * log(symbols) / T``, the best that can be done without memory.

    Examples
    --------
    >>> from fastbptt.datasets import copy_memory
    >>> x, y = copy_memory(1000, 100, seed=0)
    >>> x.shape, y.shape
    ((1000, 120, 10), (1000, 120))
    >>> x, y = copy_memory(1, 4, symbols=1, length=2)  # blank 1, delimiter 2
    >>> x[0].argmax(axis=1), y[0]
    (array([0, 0, 1, 1, 1, 2, 1, 1]), array([1, 1, 1, 1, 1, 1, 0, 0]))
    """
    n, delay = _checks.integer("n", n, 1), _checks.integer("delay", delay, 1)
    symbols, length = _checks.integer("symbols", symbols, 1), _checks.integer("length", length, 1)
    rng = np.random.default_rng(seed)
    blank, delimiter = symbols, symbols + 1
    y = np.full((n, delay + 2 * length), blank, np.int64)
    codes = y.copy()
    codes[:, :length] = y[:, -length:] = rng.integers(0, symbols, (n, length))
    codes[:, length + delay - 1] = delimiter
    return one_hot(codes, symbols + 2), y


def sunspots_monthly() -> tuple[np.ndarray, np.ndarray]:
    """Monthly mean sunspot numbers, January 1749 to June 2009.

    Returns
    -------
    year : ndarray of float64, (3126,)
        The middle of each month, in years: 1749.0417 is the middle of January 1749.
    sunspots : ndarray of float64, (3126,)
        The mean of the month's daily sunspot numbers.

    See Also
    --------
    sunspots_yearly : A shorter series.
    windows : Examples to train on.

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


def sunspots_yearly() -> tuple[np.ndarray, np.ndarray]:
    """Yearly mean sunspot numbers, 1700 to 2008.

    Returns
    -------
    year : ndarray of float64, (309,)
        The middle of each year: 1700.5 is the middle of 1700.
    sunspots : ndarray of float64, (309,)
        The mean of the year's daily sunspot numbers.

    See Also
    --------
    sunspots_monthly : A longer series.
    windows : Examples to train on.

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


def genesis() -> str:
    """The Book of Genesis in the King James Version, for models of characters.

    Returns
    -------
    str
        196,818 characters, all ASCII: the 1,533 verses in order, without chapter and verse
        numbers, each ending in a line feed.

    See Also
    --------
    encode : Its characters as integers.
    fastbptt.RNN.generate : Goes on with a text.

    Notes
    -----
    Source: the Debian package bible-kjv-text 4.38, verse by verse.  In the public domain; its
    copyright file says: "The copyright for the King James Version text of the Bible is expired
    since the translation was done in 1611 under King James the first of Great Britain."  The other
    terms in that file cover programs, none of which is included here.

    Examples
    --------
    >>> from fastbptt.datasets import encode, genesis
    >>> text = genesis()
    >>> text.partition("\\n")[0]
    'In the beginning God created the heaven and the earth.'
    >>> codes, alphabet = encode(text)
    >>> len(codes), len(alphabet)
    (196818, 60)
    """
    return _file("genesis.txt").read_text(encoding="utf-8")


def encode(text: str, alphabet: str | None = None) -> tuple[np.ndarray, str]:
    """The characters of a text as integers, the tokens of a model.

    Parameters
    ----------
    text : str
    alphabet : str, optional
        The characters that may occur, each once; by default those that do, in order of their code
        points.

    Returns
    -------
    codes : ndarray of int64, (len(text),)
        ``text[i]`` is ``alphabet[codes[i]]``.
    alphabet : str

    Raises
    ------
    TypeError, ValueError
        If an argument is not a str, or a character is not in the alphabet or twice.

    See Also
    --------
    decode : The text again.

    Examples
    --------
    >>> from fastbptt.datasets import encode
    >>> codes, alphabet = encode("abracadabra")
    >>> codes, alphabet
    (array([0, 1, 4, 0, 2, 0, 3, 0, 1, 4, 0]), 'abcdr')
    >>> encode("crab", alphabet)[0]
    array([2, 4, 0, 1])
    """
    if not isinstance(text, str):
        raise TypeError(f"text is a {type(text).__name__}, expected a str")
    if alphabet is None:
        alphabet = "".join(sorted(set(text)))
    code_of = {character: k for k, character in enumerate(_alphabet(alphabet))}
    if unknown := set(text).difference(code_of):
        raise ValueError(f"text has {min(unknown)!r}, expected characters of {alphabet!r}")
    return np.array([code_of[character] for character in text], np.int64), alphabet


def decode(codes: ArrayLike, alphabet: str) -> str:
    """The text of which these are the codes, see :func:`encode`.

    Parameters
    ----------
    codes : array_like of int, (T,)
        From 0 to the alphabet's length - 1.
    alphabet : str

    Returns
    -------
    str

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or value.

    See Also
    --------
    encode : The way there.

    Examples
    --------
    >>> from fastbptt.datasets import decode
    >>> decode([2, 4, 0, 1], "abcdr")
    'crab'
    """
    codes = _codes(codes, len(_alphabet(alphabet)), "the alphabet has")
    if codes.ndim != 1:
        raise ValueError(f"codes has shape {codes.shape}, expected (T,)")
    return "".join([alphabet[code] for code in codes])


def _alphabet(alphabet: str) -> str:
    """Characters, each once."""
    if not isinstance(alphabet, str):
        raise TypeError(f"alphabet is a {type(alphabet).__name__}, expected a str")
    if len(set(alphabet)) < len(alphabet):
        raise ValueError(f"alphabet is {alphabet!r}, expected each character once")
    return alphabet


def _codes(codes: ArrayLike, size: int, meaning: str) -> np.ndarray:
    """Integers from 0 to size - 1."""
    try:
        codes = np.asarray(codes)
    except ValueError:
        raise ValueError("codes is ragged, expected an array of integers") from None
    if codes.dtype.kind not in "iu" and codes.size:
        raise TypeError(f"codes has dtype {codes.dtype}, expected integers")
    if codes.size and (codes.min() < 0 or codes.max() >= size):
        raise ValueError(
            f"codes has values from {codes.min()} to {codes.max()}, "
            f"expected 0 to {size - 1}: {meaning} {size}"
        )
    return codes


def one_hot(codes: ArrayLike, size: int, dtype: FloatDtype = "float32") -> np.ndarray:
    """Vectors of zeros with a single 1 in each.

    Parameters
    ----------
    codes : array_like of int, (...)
        Index of the 1, from 0 to size - 1.
    size : int
        Length of each vector, at least 1.
    dtype : {"float32", "float64"}

    Returns
    -------
    ndarray, (..., size)

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value.

    See Also
    --------
    encode : Characters as integers, which models read as they are.

    Examples
    --------
    >>> from fastbptt.datasets import one_hot
    >>> one_hot([2, 0], 3)
    array([[0., 0., 1.],
           [1., 0., 0.]], dtype=float32)
    """
    size, dtype = _checks.integer("size", size, 1), _checks.float_dtype("dtype", dtype)
    codes = _codes(codes, size, "size is")
    vectors = np.zeros((*codes.shape, size), dtype)
    np.put_along_axis(vectors, codes[..., np.newaxis].astype(np.int64), 1, axis=-1)
    return vectors


def windows(
    series: ArrayLike,
    window_length: int,
    *,
    fh: int | Sequence[int] = 1,
    step_length: int = 1,
    target: ArrayLike | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Windows of a series, each with what comes after it: examples for a model that forecasts.

    Window i holds the steps ``i * step_length`` to ``i * step_length + window_length - 1``; its
    target is that of h steps later than its last one, for each h in `fh`.  There are as many
    windows as have all of their targets.  Names are those of sktime.

    Parameters
    ----------
    series : array_like, (T,) or (T, I)
        One number, or several, at each time step.
    window_length : int
        Steps in a window, at least 1.
    fh : int or sequence of int, default 1
        The forecasting horizon: steps ahead, at least 1.  An int leaves out the targets' axis.
    step_length : int, default 1
        Steps from the start of a window to that of the next: the stride.
    target : array_like, (T,) or (T, O), optional
        What is to be forecast, at the same time steps; the series itself by default.

    Returns
    -------
    x : ndarray, (N, window_length, I)
        I is 1 for a series (T,).
    y : ndarray, (N,) or (N, O), with ``len(fh)`` as an axis after N if `fh` is no int
        Both have the dtype of what they are taken from.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or value, or not one window fits.

    See Also
    --------
    fastbptt.estimators.RNNForecaster : Makes the windows, scales them, trains and forecasts.

    Examples
    --------
    >>> from fastbptt.datasets import windows
    >>> x, y = windows([0, 1, 2, 3, 4, 5, 6], 3)
    >>> x[..., 0].tolist(), y.tolist()
    ([[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]], [3, 4, 5, 6])
    >>> x, y = windows([0, 1, 2, 3, 4, 5, 6], 3, fh=[1, 2], step_length=2)
    >>> x[..., 0].tolist(), y.tolist()
    ([[0, 1, 2], [2, 3, 4]], [[3, 4], [5, 6]])
    """
    length = _checks.integer("window_length", window_length)
    stride = _checks.integer("step_length", step_length)
    ahead = _checks.horizon(fh)
    x = _of_times("series", series)
    y = x if target is None else _of_times("target", target)
    if len(y) != len(x):
        raise ValueError(f"target has {len(y)} time steps, expected {len(x)} as series has")
    last = len(x) - length - max(ahead)
    if last < 0:
        raise ValueError(
            f"series has {len(x)} time steps, expected at least {length + max(ahead)}: "
            f"window_length and the largest of fh"
        )
    starts = np.arange(0, last + 1, stride)
    found = (x if x.ndim == 2 else x[:, np.newaxis])[starts[:, np.newaxis] + np.arange(length)]
    at = starts + length - 1
    return found, y[at + ahead[0] if np.ndim(fh) == 0 else at[:, np.newaxis] + ahead]


def _of_times(name: str, a: ArrayLike) -> np.ndarray:
    """Real numbers (T,) or (T, I)."""
    found = _sequences.real(name, a)
    if found.ndim not in (1, 2):
        raise ValueError(f"{name} has shape {found.shape}, expected (T,) or (T, I)")
    return found


def _file(name: str) -> Traversable:
    return resources.files("fastbptt") / "data" / name


def _columns(name: str) -> np.ndarray:
    with _file(name).open(encoding="utf-8") as file:
        table = np.loadtxt(file, delimiter=",", skiprows=1)
    return np.ascontiguousarray(table.T)
