"""Data shipped with the package, against known facts; random tasks, against their rules."""

import doctest
import itertools

import numpy as np
import pytest

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
    """For years that both have from the same source: a year's value is the mean of its months."""
    _, monthly = datasets.sunspots_monthly()
    year, yearly = datasets.sunspots_yearly()
    expected = monthly[: 260 * 12].reshape(260, 12).mean(axis=1)  # 1749 to 2008
    got = yearly[year > 1749]
    assert np.median(np.abs(got - expected)) < 0.1


def test_each_call_returns_arrays_of_its_own():
    datasets.sunspots_monthly()[1][:] = 0
    assert datasets.sunspots_monthly()[1][0] == 58.0


# The text


def test_genesis():
    text = datasets.genesis()
    assert len(text) == 196_818
    lines = text.split("\n")
    assert lines.pop() == ""  # the last line ends as all do
    assert len(lines) == 1533  # as many verses as the book has
    assert lines[0] == "In the beginning God created the heaven and the earth."
    assert lines[-1].endswith("he was put in a coffin in Egypt.")


def test_genesis_is_clean():
    """Words and punctuation; no references, markup, control characters or stray spaces."""
    text = datasets.genesis()
    assert text.isascii()
    assert {c for c in text if not c.isalpha()} == set("\n !'(),.:;?")
    for line in text.splitlines():
        assert line
        assert line == " ".join(line.split())


def test_encode():
    codes, alphabet = datasets.encode("banana\0 \u00e9\U0001f600")
    assert codes.dtype == np.int64
    assert alphabet == "\0 abn\u00e9\U0001f600"
    assert codes.tolist() == [3, 2, 4, 2, 4, 2, 0, 1, 5, 6]


def test_encode_nothing():
    codes, alphabet = datasets.encode("")
    assert codes.shape == (0,)
    assert codes.dtype == np.int64
    assert alphabet == ""


def test_encode_and_back():
    text = datasets.genesis()
    codes, alphabet = datasets.encode(text)
    assert "".join(map(alphabet.__getitem__, codes)) == text
    assert datasets.decode(codes, alphabet) == text


def test_encode_in_a_given_alphabet():
    codes, alphabet = datasets.encode("cab", "zbcya")
    assert codes.tolist() == [2, 4, 1]
    assert alphabet == "zbcya"
    assert datasets.decode(codes.astype(np.uint8), alphabet) == "cab"
    assert datasets.decode([], "") == ""


@pytest.mark.parametrize(
    ("alphabet", "error", "words"),
    [
        ("ab", ValueError, "text has 'c', expected characters of 'ab'"),
        ("aabc", ValueError, "alphabet is 'aabc', expected each character once"),
        (["a", "b", "c"], TypeError, "alphabet is a list, expected a str"),
    ],
)
def test_alphabets_that_do_not_fit(alphabet, error, words):
    with pytest.raises(error, match=words):
        datasets.encode("cab", alphabet)


@pytest.mark.parametrize(
    ("codes", "alphabet", "error", "words"),
    [
        ([0, 3], "abc", ValueError, "codes has values from 0 to 3, expected 0 to 2"),
        ([-1], "abc", ValueError, "codes has values from -1 to -1, expected 0 to 2"),
        ([0.0], "abc", TypeError, "codes has dtype float64, expected integers"),
        ([[0]], "abc", ValueError, r"codes has shape \(1, 1\), expected \(T,\)"),
        ([[0], [0, 1]], "abc", ValueError, "codes is ragged"),
        ([0], "aa", ValueError, "alphabet is 'aa', expected each character once"),
        ([0], 5, TypeError, "alphabet is a int, expected a str"),
    ],
)
def test_decode_turns_away(codes, alphabet, error, words):
    with pytest.raises(error, match=words):
        datasets.decode(codes, alphabet)


@pytest.mark.parametrize("text", [b"abc", ["a", "b"], None])
def test_encode_takes_a_str(text):
    with pytest.raises(TypeError, match=f"text is a {type(text).__name__}, expected a str"):
        datasets.encode(text)


# One-hot vectors


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (0, 3)], ids=str)
def test_one_hot(shape, dtype):
    codes = np.random.default_rng(0).integers(0, 5, shape)
    got = datasets.one_hot(codes, 5, dtype)
    assert got.dtype == dtype
    assert got.shape == (*shape, 5)
    for at in np.ndindex(shape):
        assert got[at].tolist() == [float(k == codes[at]) for k in range(5)]


def test_one_hot_of_unsigned_codes_and_of_none():
    assert datasets.one_hot(np.array([1], np.uint64), 2).tolist() == [[0, 1]]
    assert datasets.one_hot([], 2).shape == (0, 2)


@pytest.mark.parametrize(
    ("codes", "size", "dtype", "error", "message"),
    [
        ([0, 3], 3, "float32", ValueError, "codes has values from 0 to 3, expected 0 to 2"),
        ([0, -1], 3, "float32", ValueError, "codes has values from -1 to 0, expected 0 to 2"),
        ([0.0], 3, "float32", TypeError, "codes has dtype float64, expected integers"),
        ([True], 3, "float32", TypeError, "codes has dtype bool, expected integers"),
        ([[0], [0, 1]], 3, "float32", ValueError, "codes is ragged"),
        ([0], 0, "float32", ValueError, "size is 0, expected at least 1"),
        ([0], 2.0, "float32", TypeError, "size is 2.0, expected an integer"),
        ([0], 3, "int64", TypeError, "dtype is 'int64', expected 'float32' or 'float64'"),
    ],
)
def test_one_hot_turns_away(codes, size, dtype, error, message):
    with pytest.raises(error, match=message):
        datasets.one_hot(codes, size, dtype)


# Small examples


def test_sum_example():
    x, y = datasets.sum_example()
    assert x.dtype == y.dtype == np.float32
    assert x.tolist() == [[[1], [0], [0]], [[0], [1], [1]], [[1], [1], [1]]]
    assert y.tolist() == [[1], [2], [3]]


@pytest.mark.parametrize(
    ("name", "words", "codes", "labels"),
    [
        ("mat", ["cat", "mat", "rat"], [[0, 1, 2], [2, 1, 1], [1, 1, 0]], [1, 1, 0]),
        (
            "movie",
            ["movie", "was", "good", "bad", "not"],
            [[0, 1, 2], [0, 1, 3], [0, 1, 4, 2]],
            [1, 0, 0],
        ),
    ],
)
def test_sentiment_example(name, words, codes, labels):
    x, y, got = datasets.sentiment_example(name)
    assert got == words
    assert y.dtype == np.float32
    assert y.tolist() == [[label] for label in labels]
    for sentence, expected in zip(x, codes, strict=True):
        assert sentence.dtype == np.float32
        assert sentence.shape == (len(expected), len(words))
        assert sentence.sum() == len(expected)
        assert [row.tolist().index(1) for row in sentence] == expected


@pytest.mark.parametrize("name", ["cat", "", None, ["mat"]])
def test_sentiment_example_of_another_name(name):
    with pytest.raises(ValueError, match="expected one of 'mat', 'movie'"):
        datasets.sentiment_example(name)


# Random tasks


def symbols_of(x):
    """The symbols of one-hot sequences (n, T, I), as lists, each vector checked."""
    for vector in x.reshape(-1, x.shape[-1]):
        assert sorted(vector.tolist()) == [0] * (x.shape[-1] - 1) + [1]
    return [[vector.tolist().index(1) for vector in sequence] for sequence in x]


@pytest.mark.parametrize("length", [1, 2, 17])
def test_zeros_and_ones(length):
    x, y = datasets.zeros_and_ones(200, length, seed=0)
    assert x.dtype == y.dtype == np.float32
    assert x.shape == (200, length, 1)
    assert y.shape == (200, 1)
    for sequence, got in zip(x, y, strict=True):
        assert set(sequence.ravel().tolist()) <= {0, 1}
        assert got == sequence.ravel().tolist().count(1)
    assert abs(x.mean() - 0.5) < 4 * 0.5 / np.sqrt(x.size)  # four standard errors


@pytest.mark.parametrize("length", [2, 3, 10, 21])
def test_adding_problem(length):
    x, y = datasets.adding_problem(500, length, seed=0)
    assert x.dtype == y.dtype == np.float32
    assert x.shape == (500, length, 2)
    assert y.shape == (500, 1)
    marked = []
    for sequence, got in zip(x.tolist(), y, strict=True):
        assert all(0 <= value < 1 and marker in (0, 1) for value, marker in sequence)
        first, second = (t for t, (_, marker) in enumerate(sequence) if marker)
        marked.append((first, second))
        assert got == np.float32(sequence[first][0] + sequence[second][0])
    half = length // 2
    assert {first for first, _ in marked} == set(range(half))
    assert {second for _, second in marked} == set(range(half, length))
    assert abs(x[..., 0].mean() - 0.5) < 4 * np.sqrt(1 / 12 / (500 * length))


@pytest.mark.parametrize("length", [5, 8, 10, 23, 50])
def test_temporal_order(length):
    x, y = datasets.temporal_order(500, length, seed=0)
    assert x.dtype == np.float32
    assert y.dtype == np.int64
    assert x.shape == (500, length, 6)
    assert y.shape == (500,)
    relevant, distractors = [], set()
    for sequence, got in zip(symbols_of(x), y, strict=True):
        first, second = (t for t, symbol in enumerate(sequence) if symbol < 2)
        relevant.append((first, second))
        word = "AB"[sequence[first]] + "AB"[sequence[second]]
        assert ["AA", "AB", "BA", "BB"][got] == word
        distractors |= {symbol for symbol in sequence if symbol >= 2}
    steps = range(length)
    assert {first for first, _ in relevant} == {t for t in steps if length <= 10 * t <= 2 * length}
    assert {t for _, t in relevant} == {t for t in steps if 4 * length <= 10 * t <= 5 * length}
    assert distractors == {2, 3, 4, 5}
    assert set(y.tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("delay", "symbols", "length"), [(1, 8, 10), (7, 8, 10), (30, 3, 1), (2, 1, 4)]
)
def test_copy_memory(delay, symbols, length):
    x, y = datasets.copy_memory(100, delay, symbols=symbols, length=length, seed=0)
    T = delay + 2 * length
    assert x.dtype == np.float32
    assert y.dtype == np.int64
    assert x.shape == (100, T, symbols + 2)
    assert y.shape == (100, T)
    blank, delimiter = symbols, symbols + 1
    used = set()
    for sequence, got in zip(symbols_of(x), y.tolist(), strict=True):
        given = sequence[:length]
        used |= set(given)
        assert sequence[length:] == [blank] * (delay - 1) + [delimiter] + [blank] * length
        assert got == [blank] * (delay + length) + given
    assert used == set(range(symbols))


def test_copy_memory_is_by_default_that_of_the_paper():
    """Ten of eight symbols: T + 20 steps, ten inputs."""
    x, y = datasets.copy_memory(1, 100)
    assert x.shape == (1, 120, 10)
    assert y.shape == (1, 120)


TASKS = {
    datasets.zeros_and_ones: ("length", 1),
    datasets.adding_problem: ("length", 2),
    datasets.temporal_order: ("length", 5),
    datasets.copy_memory: ("delay", 1),
}
each_task = pytest.mark.parametrize("task", list(TASKS), ids=lambda task: task.__name__)


@each_task
def test_seed(task):
    expected = task(50, 10, seed=3)
    for same in (3, np.random.default_rng(3)):
        for got, array in zip(task(50, 10, seed=same), expected, strict=True):
            np.testing.assert_array_equal(got, array, strict=True)
    for different in (4, None):
        assert not np.array_equal(task(50, 10, seed=different)[0], expected[0])


@each_task
def test_generator_goes_on(task):
    rng = np.random.default_rng(0)
    assert not np.array_equal(task(50, 10, seed=rng)[0], task(50, 10, seed=rng)[0])


@each_task
def test_shortest(task):
    name, least = TASKS[task]
    x, y = task(1, least)
    assert len(x) == len(y) == 1
    with pytest.raises(ValueError, match=f"{name} is {least - 1}, expected at least {least}"):
        task(1, least - 1)


@each_task
@pytest.mark.parametrize(
    ("n", "error", "message"),
    [
        (0, ValueError, "n is 0, expected at least 1"),
        (-2, ValueError, "n is -2, expected at least 1"),
        (1.0, TypeError, "n is 1.0, expected an integer"),
        ("7", TypeError, "n is '7', expected an integer"),
    ],
)
def test_n(task, n, error, message):
    with pytest.raises(error, match=message):
        task(n, 10)


@pytest.mark.parametrize("name", ["symbols", "length"])
def test_copy_memory_of_nothing(name):
    with pytest.raises(ValueError, match=f"{name} is 0, expected at least 1"):
        datasets.copy_memory(1, 10, **{name: 0})


@each_task
def test_what_is_turned_away_draws_nothing(task):
    rng = np.random.default_rng(0)
    for n, length in itertools.permutations((10, 0)):
        with pytest.raises(ValueError, match="expected at least"):
            task(n, length, seed=rng)
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state


@pytest.mark.parametrize("fh", [1, 4, [1], [3, 1], range(1, 4), np.int64(2)], ids=str)
@pytest.mark.parametrize("step_length", [1, 3])
@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize("shape", [(17,), (17, 1), (17, 2)], ids=str)
def test_windows_and_what_comes_after_them(shape, length, step_length, fh):
    """Every element is where its number says it is."""
    series = np.arange(np.prod(shape)).reshape(shape)
    x, y = datasets.windows(series, length, fh=fh, step_length=step_length)
    ahead = [fh] if np.ndim(fh) == 0 else [*fh]
    starts = [s for s in range(0, 17, step_length) if s + length - 1 + max(ahead) < 17]
    assert x.shape == (len(starts), length, 1 if len(shape) == 1 else shape[1])
    assert y.shape == (len(starts), *(() if np.ndim(fh) == 0 else (len(ahead),)), *shape[1:])
    assert x.dtype == y.dtype == series.dtype
    for window, after, start in zip(x, y, starts, strict=True):
        np.testing.assert_array_equal(window, series[start : start + length].reshape(length, -1))
        expected = [series[start + length - 1 + h] for h in ahead]
        np.testing.assert_array_equal(after, expected[0] if np.ndim(fh) == 0 else expected)


def test_windows_with_a_target_of_its_own():
    series, target = np.arange(20.0).reshape(10, 2), np.arange(100, 110)
    x, y = datasets.windows(series, 3, fh=[1, 2], target=target)
    np.testing.assert_array_equal(y, [[103 + n, 104 + n] for n in range(6)])
    assert y.dtype == target.dtype
    x[...] = 0  # memory of their own
    assert series[-1, -1] == 19


def test_the_last_window_that_fits():
    assert len(datasets.windows(np.zeros(7), 4, fh=3)[0]) == 1
    with pytest.raises(ValueError, match="series has 6 time steps, expected at least 7: window_l"):
        datasets.windows(np.zeros(6), 4, fh=3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"series": np.zeros((9, 1, 1))},
            ValueError,
            r"series has shape \(9, 1, 1\), expected \(T",
        ),
        ({"series": ["a"] * 9}, TypeError, "series has dtype"),
        ({"series": [[1], [2, 3]]}, ValueError, "series is ragged"),
        ({"target": np.zeros(8)}, ValueError, "target has 8 time steps, expected 9 as series has"),
        ({"window_length": 0}, ValueError, "window_length is 0, expected at least 1"),
        ({"step_length": 0}, ValueError, "step_length is 0, expected at least 1"),
        ({"fh": []}, TypeError, "fh is .*, expected an integer"),
        ({"fh": [2, 0]}, ValueError, "fh is .*, expected steps ahead, each at least 1"),
        ({"fh": 1.0}, TypeError, "fh is 1.0, expected an integer"),
    ],
)
def test_windows_of_what_does_not_fit(arguments, error, message):
    with pytest.raises(error, match=message):
        datasets.windows(**{"series": np.zeros(9), "window_length": 3, **arguments})


def test_docstring_examples():
    got = doctest.testmod(datasets)
    assert got.attempted
    assert not got.failed
