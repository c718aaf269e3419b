"""What the demos compute, against numbers worked by hand and the chain rule in plain Python, which
finite differences judge; and what their networks have learned in the end."""

import math
import random
import statistics

import numpy as np
import pytest

import fastbptt
from fastbptt import Params
from fastbptt.datasets import (
    encode,
    genesis,
    one_hot,
    sentiment_example,
    sunspots_monthly,
    sunspots_yearly,
)
from fastbptt.demos import (
    decision,
    gradient_flow,
    linear,
    many_to_many,
    sentiment,
    sum,
    sunspots,
    tomorrow,
)

SLOPES = {"tanh": lambda h: 1 - h * h, "identity": lambda h: 1.0}  # f' in terms of h = f(z)
ACTIVATIONS = pytest.mark.parametrize("activation", SLOPES)


# One unit by hand


def states_by_hand(x, w_x, w_h, b=0.0, activation="tanh"):
    """States h_0 = 0, h_1 … h_T of one unit."""
    h = [0.0]
    for x_t in x:
        z = x_t * w_x + h[-1] * w_h + b
        h.append(math.tanh(z) if activation == "tanh" else z)
    return h


def paths_by_hand(h, w_h, dh, activation="tanh"):
    """dL/dz_t for each step, from the gradients dh_k of each state's own loss, path by path.

    dL/dz_t = sum over k >= t of dh_k f'(z_k) w_h f'(z_{k-1}) ... w_h f'(z_t)
    """
    slope = SLOPES[activation]
    return [
        math.fsum(
            dh[k - 1] * slope(h[t]) * math.prod(w_h * slope(h[j]) for j in range(t + 1, k + 1))
            for k in range(t, len(h))
        )
        for t in range(1, len(h))
    ]


def gradients_by_hand(x, h, w_h, dh, activation="tanh"):
    """What each step adds to dL/dw_x, dL/dw_h and dL/db."""
    dz = paths_by_hand(h, w_h, dh, activation)
    return [x_t * d for x_t, d in zip(x, dz, strict=True)], [
        h_t * d for h_t, d in zip(h, dz, strict=False)
    ], dz  # fmt: skip


def slopes(f, weights, step=1e-6):
    """Central differences of f(*weights) along each weight."""
    found = []
    for k, w in enumerate(weights):
        low, high = (f(*weights[:k], w + d, *weights[k + 1 :]) for d in (-step, step))
        found.append((high - low) / (2 * step))
    return found


def last_only(T, d):
    """dL/dh_k if only the last state has a loss."""
    return [0.0] * (T - 1) + [d]


@ACTIVATIONS
def test_the_chain_rule_by_hand_is_right(activation):
    """It judges the others; finite differences of sum_k c_k h_k judge it."""
    x, c, weights = [0.5, -1.0, 2.0, 0.25], [1.0, -0.5, 0.25, 2.0], [0.7, -0.6, 0.1]

    def loss(w_x, w_h, b):
        h = states_by_hand(x, w_x, w_h, b, activation)
        return math.fsum(a * b for a, b in zip(c, h[1:], strict=True))

    h = states_by_hand(x, *weights, activation=activation)
    got = [math.fsum(steps) for steps in gradients_by_hand(x, h, weights[1], c, activation)]
    assert got == pytest.approx(slopes(loss, weights), rel=1e-8)


# sum

SEQUENCES, SUMS = [[1, 0, 0], [0, 1, 1], [1, 1, 1]], [1, 2, 3]


@pytest.fixture(scope="module")
def summed():
    return sum.run(seed=1)


def test_sum_states_and_loss(summed):
    expected = [states_by_hand(x, 1, 1)[1:] for x in SEQUENCES]
    np.testing.assert_allclose(summed.states, expected, rtol=1e-14)
    rounded = [[0.76, 0.64, 0.57], [0, 0.76, 0.94], [0.76, 0.94, 0.96]]
    np.testing.assert_array_equal(summed.states.round(2), rounded)
    errors = [(h[-1] - y) ** 2 for h, y in zip(expected, SUMS, strict=True)]
    assert summed.loss == pytest.approx(math.fsum(errors) / 3, rel=1e-14)
    assert round(summed.loss, 2) == 1.82


def test_sum_gradients_by_step_from_rounded_states(summed):
    """f' taken as 1: with w_h = 1 each step's dL/dz is dL/dh_3 = 2/3 (h_3 - y)."""
    d1, d2, d3 = 2 / 3 * (0.57 - 1), 2 / 3 * (0.94 - 2), 2 / 3 * (0.96 - 3)
    expected = [
        [d1 + d3, d2 + d3, d2 + d3],
        [0, d1 * 0.76 + d3 * 0.76, d1 * 0.64 + d2 * 0.76 + d3 * 0.94],
    ]
    np.testing.assert_allclose(summed.by_step, expected, rtol=1e-14)
    assert round(summed.by_step[0, 2], 2) == -2.07
    assert round(d3, 2) == -1.36  # the third sequence alone


def test_sum_gradients_by_step_where_they_differ():
    x, w_h, d = [0.5, -1.0, 2.0], 0.5, 3.0
    h = states_by_hand(x, 0.8, w_h, activation="identity")
    *expected, _ = gradients_by_hand(x, h, w_h, last_only(3, d), "identity")
    params = Params(np.array([[0.8]]), np.array([[w_h]]), np.zeros(1))
    x, h = (np.reshape(a, (-1, 1, 1)) for a in (x, h))
    got = sum.gradients_by_step(params, x, h, np.array([[d]]))
    np.testing.assert_allclose(got, expected, rtol=1e-14)


def test_sum_gradients_at_one_half(summed):
    """h_3 = 1/8, 3/4, 7/8; these fractions, and all that follow but 1/3, are exact in binary."""
    residuals = 1 / 8 - 1, 3 / 4 - 2, 7 / 8 - 3
    expected_x = 2 / 3 * (residuals[0] / 4 + residuals[1] * 3 / 2 + residuals[2] * 7 / 4)
    expected_h = 2 / 3 * (residuals[0] / 2 + residuals[1] / 2 + residuals[2])
    assert summed.linear.W_x.item() == pytest.approx(expected_x, rel=1e-14)
    assert summed.linear.W_h.item() == pytest.approx(expected_h, rel=1e-14)
    assert (expected_x, expected_h) == pytest.approx((-3.875, -2.125))


@ACTIVATIONS
def test_sum_gradients_for_any_weights(activation):
    """By the demo's network, the chain rule, finite differences and the identity's closed form."""
    weights = w_x, w_h = 0.8, 0.6

    def loss(w_x, w_h):
        last = [states_by_hand(x, w_x, w_h, 0, activation)[-1] for x in SEQUENCES]
        return math.fsum((h - y) ** 2 for h, y in zip(last, SUMS, strict=True)) / 3

    expected = [0.0, 0.0]
    for x, y in zip(SEQUENCES, SUMS, strict=True):
        h = states_by_hand(x, w_x, w_h, 0, activation)
        dh = last_only(3, 2 / 3 * (h[-1] - y))
        for k, steps in enumerate(gradients_by_hand(x, h, w_h, dh, activation)[:2]):
            expected[k] += math.fsum(steps)
    assert expected == pytest.approx(slopes(loss, list(weights)), rel=1e-8)
    if activation == "identity":
        dx = [x[0] * w_h**2 + x[1] * w_h + x[2] for x in SEQUENCES]  # dh_3/dw_x
        dh = [w_x * (x[0] * 2 * w_h + x[1]) for x in SEQUENCES]  # dh_3/dw_h
        r = [w_x * d - y for d, y in zip(dx, SUMS, strict=True)]
        closed = [2 / 3 * math.fsum(a * b for a, b in zip(r, d, strict=True)) for d in (dx, dh)]
        assert expected == pytest.approx(closed, rel=1e-14)

    params = Params(np.array([[w_x]]), np.array([[w_h]]), np.zeros(1))
    x = np.array(SEQUENCES, float).T[..., np.newaxis]
    h = fastbptt.forward(params, x, activation=activation)
    dh = 2 / 3 * (h[-1] - np.array(SUMS, float)[:, np.newaxis])
    got = fastbptt.backward(params, x, h, dh, activation=activation).params
    assert [got.W_x.item(), got.W_h.item()] == pytest.approx(expected, rel=1e-13)


def test_sum_is_learned_for_lengths_not_seen(summed):
    assert set(summed.right) == {20, 50, 100}
    assert not set(summed.right) & set(sum.TRAINED_LENGTHS)
    assert set(summed.right.values()) == {1.0}
    assert summed.baseline.keys() == summed.right.keys()
    assert max(summed.baseline.values()) < 0.05  # 10 inputs of 20: 10 zeros before them are rare
    bits = random.Random(0).choices((0, 1), k=300)
    assert round(summed.model.predict([bits]).item()) == bits.count(1)
    weights = summed.model.parameters()
    assert weights["layers.0.W_h"].item() == pytest.approx(1, abs=1e-6)
    assert (weights["layers.0.W_x"] @ weights["W_y"]).item() == pytest.approx(1, abs=1e-6)


# tomorrow


@pytest.fixture(scope="module")
def forecast_by_two_weights():
    return tomorrow.run()


def test_tomorrow_example(forecast_by_two_weights):
    """1, 2, 3 and then 4, both weights 1/2: fractions that are exact in binary."""
    predicted = 1 / 8 + 2 / 4 + 3 / 2
    residual = 4 - predicted
    dw1 = -2 * residual * (1 / 4 + 2 / 2 + 3)
    dw2 = -2 * residual * (1 * 2 * (1 / 2) * (1 / 2) + 2 * (1 / 2))
    assert forecast_by_two_weights.example == (predicted, residual**2, dw1, dw2)
    assert (predicted, dw1, dw2) == (2.125, -15.9375, -5.625)


@pytest.mark.parametrize(("w1", "w2"), [(0.5, 0.5), (1.2, -0.4), (-0.3, 1.5)])
def test_tomorrow_gradients(w1, w2):
    windows = np.lib.stride_tricks.sliding_window_view(sunspots_yearly()[1][:40] / 100, 4)

    def loss(w1, w2):
        return math.fsum(
            (observed - (daybefore * w1 * w2**2 + yesterday * w1 * w2 + today * w1)) ** 2
            for daybefore, yesterday, today, observed in windows.tolist()
        )

    expected = slopes(loss, [w1, w2])
    assert tomorrow.closed_form(windows, w1, w2) == pytest.approx(expected, rel=1e-7)
    _, value, *got = tomorrow.predict_and_differentiate(tomorrow.weights(w1, w2), windows)
    assert value == pytest.approx(loss(w1, w2), rel=1e-13)
    assert got == pytest.approx(expected, rel=1e-7)
    assert got == pytest.approx(tomorrow.closed_form(windows, w1, w2), rel=1e-12)


@pytest.mark.parametrize("w2", [0.5, -0.9, 1.0, 2.0])
@pytest.mark.parametrize("n", [1, 3, 50])
def test_tomorrow_n_steps_carry_a_power(w2, n):
    assert tomorrow.carried(w2, n) == pytest.approx(math.prod([w2] * n), rel=1e-13)


def test_tomorrow_finds_the_best_weights(forecast_by_two_weights):
    """With w2 given, the best w1 is that of a linear regression: a search over w2 is enough."""
    result = forecast_by_two_weights
    series = sunspots_yearly()[1] / 100
    x, y = np.stack([series[:-3], series[1:-2], series[2:-1]]), series[3:]
    x, y = x[:, : int(0.8 * len(y))], y[: int(0.8 * len(y))]

    def best(w2):
        by_w1 = x[0] * w2**2 + x[1] * w2 + x[2]
        w1 = by_w1 @ y / (by_w1 @ by_w1)
        return np.sum((y - w1 * by_w1) ** 2), w1, w2

    least, *expected = min(best(w2) for w2 in np.linspace(-1, 1, 4001))
    assert result.losses[-1] == pytest.approx(least, rel=1e-6)
    assert result.weights == pytest.approx(expected, abs=1e-3)
    assert result.difference < 1e-8
    assert result.rmse < 0.9 * result.naive_rmse


def test_tomorrow_baseline(forecast_by_two_weights):
    """AR(2) from 1703 on, as the network; here by the normal equations."""
    series = sunspots_yearly()[1]
    cut = int(0.8 * (len(series) - 3)) + 2
    errors = ar_errors_by_hand(series[1:], 2, cut)
    error = math.sqrt(np.mean(errors**2))
    assert forecast_by_two_weights.ar_rmse == pytest.approx(error, rel=1e-9)
    assert round(error, 1) == 22.8
    assert forecast_by_two_weights.ar_rmse < forecast_by_two_weights.rmse  # and the output says so


# sentiment


def loss_by_hand(sentences, labels, W_i, w_h, b, w_o, b_o):
    """Mean log loss of one unit; a sentence is a list of words' numbers."""
    total = []
    for sentence, y in zip(sentences, labels, strict=True):
        h = states_by_hand([W_i[k] for k in sentence], 1, w_h, b)[-1]
        p = 1 / (1 + math.exp(-(h * w_o + b_o)))
        total.append(-math.log(p if y else 1 - p))
    return math.fsum(total) / len(total)


def sentiment_gradients_by_hand(sentences, labels, W_i, w_h, b, w_o, b_o):
    """dL/dw_i for each word, dL/dw_h, dL/db, dL/dw_o, dL/db_o."""
    dW_i, rest = [0.0] * len(W_i), [0.0] * 4
    for sentence, y in zip(sentences, labels, strict=True):
        inputs = [W_i[k] for k in sentence]
        h = states_by_hand(inputs, 1, w_h, b)
        d = (1 / (1 + math.exp(-(h[-1] * w_o + b_o))) - y) / len(sentences)  # dL/dy
        _, dw_h, dz = gradients_by_hand(inputs, h, w_h, last_only(len(sentence), d * w_o))
        for k, d_t in zip(sentence, dz, strict=True):
            dW_i[k] += d_t
        for k, value in enumerate((math.fsum(dw_h), math.fsum(dz), d * h[-1], d)):
            rest[k] += value
    return [*dW_i, *rest]


def one_unit(W_i, w_h, b, w_o, b_o):
    model = fastbptt.RNN(len(W_i), 1, 1, dtype="float64")
    values = {"layers.0.W_x": np.c_[W_i], "layers.0.W_h": w_h, "layers.0.b": b, "W_y": w_o}
    for name, array in model.parameters().items():
        array[...] = values.get(name, b_o)
    return model


def flat(arrays):
    return [value for array in arrays.values() for value in array.ravel().tolist()]


def sentences_and_labels(name):
    x, y, _ = sentiment_example(name)
    return [sentence.argmax(axis=1).tolist() for sentence in x], y.ravel().tolist()


def test_sentiment_example():
    weights = [0.5, -0.5, 1.0], 0.5, 0.0, 1.0, 0.0
    h = states_by_hand(weights[0], 1, 0.5)[1:]  # of "cat mat rat"
    loss = loss_by_hand([[0, 1, 2]], [1], *weights)
    cat, mat, rat, *rest = sentiment_gradients_by_hand([[0, 1, 2]], [1], *weights)
    expected = [*h, math.exp(-loss), loss, rat, mat, cat, *rest]
    assert sentiment.example() == pytest.approx(expected, rel=1e-13)
    shown = [number for _, number in sentiment.BY_HAND]
    assert [round(number, 3) for number in expected] == shown


@pytest.mark.parametrize("name", ["mat", "movie"])
def test_sentiment_gradients(name):
    """Sentences of unequal length, by the model, by the chain rule and by finite differences."""
    (sentences, labels), rng = sentences_and_labels(name), random.Random(0)
    x, y, words = sentiment_example(name)
    weights = [rng.gauss(0, 1) for _ in range(len(words) + 4)]

    def unflat(*weights):
        return list(weights[:-4]), *weights[-4:]

    def loss(*weights):
        return loss_by_hand(sentences, labels, *unflat(*weights))

    expected = sentiment_gradients_by_hand(sentences, labels, *unflat(*weights))
    assert expected == pytest.approx(slopes(loss, weights), rel=1e-7, abs=1e-9)
    value, gradients = one_unit(*unflat(*weights)).loss_and_grads(x, y, loss="bce")
    assert value == pytest.approx(loss(*weights), rel=1e-13)
    assert flat(gradients) == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_sentiment_trains_by_the_plain_rule(monkeypatch):
    """w - eta dL/dw, three times."""
    (sentences, labels), (x, y, _) = sentences_and_labels("movie"), sentiment_example("movie")
    weights = [0.1, -0.2, 0.9, -0.7, 0.3], 0.4, 0.05, 1.1, -0.2
    model, expected = one_unit(*weights), [*weights[0], *weights[1:]]
    monkeypatch.setattr(sentiment, "EPOCHS", 3)
    monkeypatch.setattr(sentiment, "RNN", lambda *sizes, **options: model)
    _, history = sentiment.train(x, y, seed=0)
    for step in range(3):
        unflat = expected[:-4], *expected[-4:]
        assert history.loss[step] == pytest.approx(loss_by_hand(sentences, labels, *unflat))
        d = sentiment_gradients_by_hand(sentences, labels, *unflat)
        expected = [w - sentiment.ETA * d_w for w, d_w in zip(expected, d, strict=True)]
    assert flat(model.parameters()) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_sentiment_is_learned(seed):
    result = sentiment.run(seed=seed)
    assert result.accuracy == {"mat": 1.0, "movie": 1.0}
    assert all(losses[-1] < 0.02 < losses[0] for losses in result.losses.values())
    assert result.by_counts == {"mat": 1.0, "movie": 1.0}


def test_sentiment_counts_have_no_order():
    sentences = [[[1, 0], [0, 1]], [[0, 1], [1, 0]]]  # a b, and b a
    x, y = [np.array(s, float) for s in sentences], np.array([[1.0], [0.0]])
    assert sentiment.counts_accuracy(x, y) == 0.5


# many-to-many


def many_to_many_by_hand(x, targets, weights, activation):
    """Sum of squared residuals at every step, its gradients of w_x, w_h, b, w_y and b_y."""
    w_x, w_h, b, w_y, b_y = weights
    h = states_by_hand(x, w_x, w_h, b, activation)
    dy = [2 * (h_t * w_y + b_y - target) for h_t, target in zip(h[1:], targets, strict=True)]
    steps = gradients_by_hand(x, h, w_h, [d * w_y for d in dy], activation)
    dw_y = math.fsum(h_t * d for h_t, d in zip(h[1:], dy, strict=True))
    gradients = [*map(math.fsum, steps), dw_y, math.fsum(dy)]
    return math.fsum((d / 2) ** 2 for d in dy), gradients


def test_many_to_many_example():
    expected_loss, expected = many_to_many_by_hand(
        [1, 2, 3], [1, 2, 3], [0.5, 0.5, 0, 2, 0], "identity"
    )
    outputs, loss, gradients = many_to_many.example()
    assert outputs == [1, 2.5, 4.25]
    assert loss == expected_loss == 1.8125
    assert [*gradients] == ["layers.0.W_x", "layers.0.W_h", "layers.0.b", "W_y", "b_y"]
    assert [*gradients.values()] == expected == [26.25, 8.5, 11.75, 6.5625, 3.5]
    assert [shown for _, shown in many_to_many.BY_HAND[1:]] == [loss, *expected]


@ACTIVATIONS
def test_many_to_many_gradients(activation):
    x, targets = [1.0, -2.0, 0.5, 3.0], [0.3, 1.0, -1.0, 0.2]
    weights = [0.4, -0.7, 0.1, 1.3, -0.2]

    def loss(*weights):
        return many_to_many_by_hand(x, targets, weights, activation)[0]

    expected_loss, expected = many_to_many_by_hand(x, targets, weights, activation)
    assert expected == pytest.approx(slopes(loss, weights), rel=1e-7)
    model = fastbptt.RNN(1, 1, 1, activation=activation, output="all", dtype="float64")
    for array, w in zip(model.parameters().values(), weights, strict=True):
        array[...] = w
    value, gradients = model.loss_and_grads([x], [targets], loss="ssr")
    assert value == pytest.approx(expected_loss, rel=1e-13)
    assert flat(gradients) == pytest.approx(expected, rel=1e-12)


def test_many_to_many_learns_to_write(monkeypatch, capsys):
    """A short run on part of the text: its loss falls far below that of characters by frequency."""
    text = genesis()[:40_000]
    monkeypatch.setattr(many_to_many, "genesis", lambda: text)
    result = many_to_many.run(hidden=64, epochs=10)
    counts = [text.count(c) for c in set(text)]
    expected = -math.fsum(n / len(text) * math.log(n / len(text)) for n in counts)
    assert result.entropy == pytest.approx(expected, rel=1e-12)
    assert len(result.losses) == 10
    assert result.held_out < 0.9 * result.counted[2] < result.counted[2] < result.entropy
    assert result.losses[-1] < 0.65 * result.entropy
    assert [len(sample) for sample in result.samples] == [300] * 4  # after 1, 2, 5 and 10 epochs
    words = result.samples[-1].split()
    known = set(text.split())
    assert len([word for word in words if word in known]) > len(words) / 2
    printed = capsys.readouterr().out
    assert " ".join(words) in " ".join(printed.split())


def test_many_to_many_counts():
    """Against counting in plain Python, of pairs and of three together."""
    codes = encode(genesis()[:3000])[0]
    cut, text, size = 2500, codes.tolist(), int(codes.max()) + 1

    def p(t, n):
        if n == 0:
            return 1 / size
        before = text[t - n + 1 : t]
        after = [text[k] for k in range(n - 1, cut) if text[k - n + 1 : k] == before]
        if not after:
            return p(t, n - 1)
        different = len(set(after))
        return (after.count(text[t]) + different * p(t, n - 1)) / (len(after) + different)

    found = many_to_many.count(codes, cut)
    for n in (2, 3):
        expected = -math.fsum(math.log(p(t, n)) for t in range(cut, 3000)) / 500
        assert found[n] == pytest.approx(expected, rel=1e-12)


def test_many_to_many_held_out_loss():
    """Of a model that has read all characters before; here at once, for the loss of some."""
    codes, alphabet = encode(genesis()[:2600])
    model = fastbptt.RNN(len(alphabet), 6, len(alphabet), output="all", dtype="float64", seed=0)
    y = model.predict(one_hot(codes[np.newaxis, :-1], len(alphabet)))[0]  # as if by tokens
    log_p = y - np.log(np.exp(y).sum(axis=1, keepdims=True))
    for cut in (700, 1001, 2500):
        expected = -np.mean([log_p[t - 1, codes[t]] for t in range(cut, 2600)])
        assert many_to_many.held_out_loss(model, codes, cut) == pytest.approx(expected, rel=1e-12)


def test_many_to_many_targets_are_what_follows():
    codes, _ = encode(genesis()[:1000])
    x, y = many_to_many.pieces(codes)
    length = 999 // 32
    assert x.shape == y.shape == (32, length)
    assert x.ravel().tolist() == codes[: 32 * length].tolist()
    assert y.ravel().tolist() == codes[1 : 32 * length + 1].tolist()


def test_many_to_many_writes_what_the_model_expects():
    """A model that has learned a line of ten letters by heart writes that line."""
    text = "abcdefghi\n" * 40
    codes, alphabet = encode(text)
    x, y = many_to_many.pieces(codes)
    model = fastbptt.RNN(len(alphabet), 16, len(alphabet), output="all", seed=0)
    fastbptt.fit(
        model, x, y, loss="cross_entropy", optimizer=fastbptt.Adam(0.02), epochs=100,
        progress=False, seed=0,
    )  # fmt: skip
    for seed in range(3):
        assert many_to_many.write(model, alphabet, 25, seed) == text[:25]


def test_many_to_many_draws_by_temperature():
    """Outputs that do not depend on the input: the shares of p^(1/temperature)."""
    model = fastbptt.RNN(2, 1, 2, output="all", seed=0)
    for array in model.parameters().values():
        array[...] = 0
    model.parameters()["b_y"][...] = np.log([0.25, 0.75])
    text = many_to_many.write(model, "\na", 2000, 0)
    odds = 3 ** (1 / many_to_many.TEMPERATURE)
    share = odds / (1 + odds)
    assert text.count("a") / 2000 == pytest.approx(
        share, abs=4 * math.sqrt(share * (1 - share) / 2000)
    )


# gradient-flow


@pytest.fixture(scope="module")
def flows():
    return gradient_flow.run(seed=2)


def test_gradient_flow_example(flows):
    h = states_by_hand([1, 0, 0], 1, 0.5)
    factors = [0.5 * (1 - h_t**2) for h_t in h[1:]]
    expected = [factors[2], factors[2] * factors[1], factors[2] * factors[1] * factors[0]]
    assert flows.example == pytest.approx(expected, rel=1e-12)
    assert [round(product, 3) for product in expected] == [n for _, n in gradient_flow.BY_HAND]

    def last(h0):
        for x in (1, 0, 0):
            h0 = math.tanh(x + 0.5 * h0)
        return h0

    assert expected[2] == pytest.approx(slopes(last, [0.0])[0], rel=1e-8)


@pytest.mark.parametrize("name", gradient_flow.SCALES)
def test_gradient_flow_without_bends_is_a_power(flows, name):
    steps_back = np.arange(gradient_flow.T, -1, -1)
    expected = steps_back * math.log10(gradient_flow.SCALES[name])
    got = flows.identity[name]
    for norms in (got.log10_gradient, *got.log10_jacobian.T):
        np.testing.assert_allclose(norms, expected, rtol=0, atol=1e-12)


def test_gradient_flow_vanishes_and_explodes(flows):
    for name, found in flows.tanh.items():
        ends = found.log10_jacobian[0]
        bound = gradient_flow.T * math.log10(gradient_flow.SCALES[name])
        assert (ends < bound).all()  # tanh' is below 1
        assert (ends > 1).all() if name == "above" else (ends < 0).all()
    assert (flows.tanh["below"].log10_jacobian[0] < -4.8).all()


def test_gradient_flow_clipping_tames(flows):
    assert flows.unclipped.losses[0] == flows.clipped.losses[0]
    assert flows.unclipped.norms[0] == flows.clipped.norms[0] > 1e4
    assert not math.isfinite(flows.unclipped.losses[-1])
    assert len(flows.unclipped.losses) < 10
    assert len(flows.clipped.losses) == gradient_flow.STEPS
    assert flows.clipped.losses[-1] < 1e-3 * flows.clipped.losses[0]
    assert 0 <= flows.baseline < 1e-20  # all weights 1 are exact


# sunspots


@pytest.fixture
def two_networks(monkeypatch):
    monkeypatch.setattr(sunspots, "NETWORKS", 2)


def forecast(*, epochs=1, hidden=4, **options):
    return sunspots.run(hidden=hidden, epochs=epochs, backend="numpy", compare=False, **options)


def ar_errors_by_hand(series, order, cut):
    """Errors of AR(order) from `cut` on, by the normal equations of centred values."""
    lagged = np.stack([series[order - k : len(series) - k] for k in range(1, order + 1)])
    y, fitted = series[order:], cut - order
    middle, mean = lagged[:, :fitted].mean(axis=1, keepdims=True), y[:fitted].mean()
    centred = lagged[:, :fitted] - middle
    w = np.linalg.solve(centred @ centred.T, centred @ (y[:fitted] - mean))
    return (mean + w @ (lagged - middle) - y)[fitted:]


@pytest.fixture(scope="module")
def sunspots_forecast():
    return sunspots.run(compare=False)  # the size that `fastbptt demo` trains


def test_sunspots_beats_every_linear_model_on_held_out_years(sunspots_forecast):
    result = sunspots_forecast
    assert result.rmse < 0.9 * result.naive_rmse
    assert result.rmse < min(result.linear_rmse.values())
    series = sunspots_monthly()[1]
    cut = 12 * (1957 - 1749)
    for order in range(1, 61):  # in hindsight too
        errors = np.maximum(ar_errors_by_hand(series, order, cut) + series[cut:], 0) - series[cut:]
        assert result.rmse < np.sqrt(np.mean(errors**2))
    assert all(losses[-1] < 0.95 * losses[0] for losses in result.losses)


def test_sunspots_baselines(sunspots_forecast):
    series = sunspots_monthly()[1]
    cut = 12 * (1957 - 1749)
    found = dict(sunspots_forecast.linear_rmse)
    assert list(found) == ["AR(12)", "AR(24)", "AR(28)", "AR(28) of the roots"]
    for order in (12, 24, 28):
        errors = np.maximum(ar_errors_by_hand(series, order, cut) + series[cut:], 0) - series[cut:]
        assert found[f"AR({order})"] == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-9)
    assert (round(found["AR(12)"], 2), round(found["AR(24)"], 2)) == (17.76, 17.39)
    naive = math.sqrt(np.mean((series[cut:] - series[cut - 1 : -1]) ** 2))
    assert sunspots_forecast.naive_rmse == pytest.approx(naive, rel=1e-12)


def test_the_order_by_aic_is_that_of_the_series():
    rng, series = np.random.default_rng(0), np.zeros(4000)
    for t in range(3, len(series)):
        series[t] = 0.5 * series[t - 1] - 0.6 * series[t - 3] + rng.normal()
    assert linear.order_by_aic(series, 1) == 1

    def aic(order, series):
        part = series[8 - order :]
        columns = [part[order - k : len(part) - k] for k in range(1, order + 1)]
        x, y = np.stack([*columns, np.ones(len(part) - order)], axis=1), part[order:]
        errors = y - x @ np.linalg.solve(x.T @ x, x.T @ y)
        return len(errors) * math.log(np.mean(errors**2)) + 2 * (order + 1)

    for part in (series, series[:300], 10 + series[300:600]):
        expected = min(range(1, 9), key=lambda order: aic(order, part))
        assert linear.order_by_aic(part, 8) == expected >= 3


def test_sunspots_same_seed_same_result(two_networks):
    expected = forecast(seed=3)
    assert forecast(seed=3) == expected
    assert expected.losses != forecast(seed=4).losses


def test_sunspots_networks_differ(two_networks):
    result = forecast()
    assert len({*result.single_rmse}) == len(result.losses) == 2


def test_sunspots_training_sees_nothing_of_the_held_out_years(monkeypatch, two_networks):
    expected = forecast()
    year, numbers = sunspots_monthly()
    changed = np.where(year < 1957, numbers, 100.0)
    monkeypatch.setattr(sunspots, "sunspots_monthly", lambda: (year, changed))
    got = forecast()
    assert got.losses == expected.losses
    assert list(got.linear_rmse) == list(expected.linear_rmse)  # the orders
    assert got.rmse != expected.rmse


def test_sunspots_forecasts_see_the_months_before_them_only():
    model, numbers = sunspots.new_model(5, 0, "numpy"), sunspots_monthly()[1][:400]
    inputs, cut = sunspots.Inputs(numbers[:300]), 300
    changed = numbers.copy()
    changed[350:] += 20
    pairs = [
        [sunspots.forecast(model, inputs, s, cut) for s in (numbers, changed)],
        *zip(*(sunspots.autoregressions(s, cut).values() for s in (numbers, changed)), strict=True),
    ]
    for expected, got in pairs:
        assert len(expected) == 100
        np.testing.assert_array_equal(got[:51], expected[:51])  # the 51st is that of month 350
        assert (got[51:] != expected[51:]).all()


def test_sunspots_inputs_and_targets():
    numbers = sunspots_monthly()[1][:500]
    inputs = sunspots.Inputs(numbers)
    roots = np.sqrt(numbers + sunspots.C)
    left = -ar_errors_by_hand(
        roots, sunspots.P, len(roots) - 1
    )  # of the last month, all but fitted
    x, y = inputs(numbers)
    assert x.shape == (500 - sunspots.P, 2)
    assert y.shape == (500 - sunspots.P,)
    scaled = x.astype(float) * inputs.std + inputs.mean
    np.testing.assert_allclose(scaled[:, 0], roots[sunspots.P - 1 : -1], rtol=1e-5)
    sums = scaled[:, 1] + y * inputs.left  # the linear forecast, and what it leaves
    np.testing.assert_allclose(sums, roots[sunspots.P :], rtol=1e-5)
    assert y.mean() == pytest.approx(0, abs=1e-5)
    assert y.std() == pytest.approx(1, rel=1e-5)
    assert y[-1] * inputs.left == pytest.approx(left[0], rel=0.05)
    batch = sunspots.windows(numbers)
    assert batch.shape == (500 - sunspots.P - sunspots.T + 1, sunspots.P + sunspots.T)
    for got, whole in zip(inputs(batch), (x, y), strict=True):
        np.testing.assert_allclose(got[7], whole[7 : 7 + sunspots.T], rtol=1e-5, atol=1e-6)


def test_sunspots_loss_leaves_out_the_first_months(monkeypatch):
    given, numbers = {}, sunspots_monthly()[1][:400]
    monkeypatch.setattr(sunspots, "fit", lambda *args, **options: given.update(options))
    model, inputs = sunspots.new_model(3, 0, "numpy"), sunspots.Inputs(numbers)
    batch = sunspots.windows(numbers)
    sunspots.train(model, inputs, batch, 1, np.random.default_rng(0))
    x, y = inputs(batch)
    expected = np.mean((model.predict(x)[:, 24:, 0] - y[:, 24:]) ** 2)
    got = model.evaluate(x, y, sample_weight=given["sample_weight"])
    assert got == pytest.approx(expected, rel=1e-5)


# decision


@pytest.fixture(scope="module")
def decided(tmp_path_factory):
    """A run with its model and picture."""
    path, model = tmp_path_factory.mktemp("decision") / "p.png", decision.new_model(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decision, "new_model", lambda seed: model)
        result = decision.run(plot=path)
    return result, model, path


def test_decision_is_learned(decided):
    result, *_ = decided
    network = [shares[0] for shares in result.right.values()]
    assert list(result.right) == [3.2, 6.4, 12.8, 25.6, 51.2]
    assert min(network[-2:]) > 0.9
    assert network[0] < 0.7
    assert len(result.losses) == 12


def test_decision_baseline_is_what_can_be_reached(decided):
    """The evidence of a second of two inputs, each with its noise; shares of some 800 trials."""
    result, *_ = decided
    for c, (network, summed, best) in result.right.items():
        # Of the difference of two inputs, summed over 1000 ms: mean c 1000, variance 2 4 1000
        expected = statistics.NormalDist().cdf(c / 100 * 1000 / math.sqrt(8 * 1000))
        assert best == pytest.approx(expected, rel=1e-12)
        error = math.sqrt(best * (1 - best) / 800)
        assert abs(summed - best) <= 4 * error + 0.002
        assert network <= best + 4 * error + 0.002


def test_decision_keeps_to_dales_law(decided):
    _, model, _ = decided
    weights = model.parameters()
    W_h, W_y = weights["layers.0.W_h"], weights["W_y"]
    assert (W_h[:80] >= 0).all()
    assert (W_h[80:] <= 0).all()
    assert not W_h.diagonal().any()
    assert (weights["layers.0.W_x"] >= 0).all()
    assert (W_y[:80] >= 0).all()
    assert not W_y[80:].any()


def test_decision_points_hardly_move(decided):
    result, model, path = decided
    points = result.points.points
    assert len(points)
    x = np.broadcast_to(decision.NO_EVIDENCE, (len(points), 1, 3))
    _, after = model.predict(x, state=points[np.newaxis], return_state=True)
    moved = ((after[0] - points) ** 2).sum(axis=1) / 2
    np.testing.assert_allclose(moved, result.points.q, rtol=0.01, atol=1e-8)
    assert moved.max() < 1.01e-4
    assert path.read_bytes().startswith(b"\x89PNG")
