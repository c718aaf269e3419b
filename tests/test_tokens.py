"""Integers in place of one-hot inputs: the same numbers in less memory, and text made up."""

import numpy as np
import pytest
from measure import central_differences, peak
from test_threads import always_launch, digest, using

import fastbptt
from fastbptt import RNN, Params, _sequences, losses
from fastbptt.datasets import one_hot

T, B, V, H = 6, 5, 7, 4
BACKENDS = pytest.mark.parametrize("backend", ["numba", "numpy"])
LENGTHS = pytest.mark.parametrize("lengths", [None, [6, 0, 3, 5, 1]], ids=["full", "ragged"])


def draw(shape=(T, B, V, H), dtype="float64", seed=0):
    """Weights, tokens and the gradient of the states."""
    T, B, V, H = shape
    rng = np.random.default_rng(seed)
    params = fastbptt.init_params(V, H, dtype=dtype, seed=rng)
    return params, rng.integers(0, V, (T, B)), rng.standard_normal((T, B, H)).astype(dtype)


def flat(gradients):
    dparams, dx, dh0 = gradients
    assert dx is None
    return [*dparams, dh0]


# What is computed


@BACKENDS
def test_by_hand(backend):
    """h = 1, 100 + 2, 10 + 204; dz = 1 + 2 (1 + 2), 1 + 2, 1."""
    params = Params(np.array([[1.0], [10.0], [100.0]]), np.array([[2.0]]), np.zeros(1))
    x = np.array([[0], [2], [1]])
    h = fastbptt.forward(params, x, activation="identity", backend=backend)
    assert h.ravel().tolist() == [0, 1, 102, 214]
    dh = np.ones((3, 1, 1))
    dparams, dx, dh0 = fastbptt.backward(params, x, h, dh, activation="identity", backend=backend)
    assert dparams.W_x.tolist() == [[7], [1], [3]]
    assert dparams.W_h.item() == 3 * 1 + 1 * 102
    assert dparams.b.item() == 11
    assert dx is None
    assert dh0.item() == 14


@BACKENDS
@LENGTHS
@pytest.mark.parametrize("last_only", [False, True], ids=["every step", "last step"])
def test_gradients_agree_with_central_differences(last_only, lengths, backend):
    params, x, dh = draw()
    h0 = np.random.default_rng(1).standard_normal((B, H))
    dh = dh[0] if last_only else dh
    counts = np.arange(T)[:, None] < (np.full(B, T) if lengths is None else np.array(lengths))

    def loss():
        h = fastbptt.forward(params, x, h0, lengths=lengths, backend=backend)
        return (dh * h[-1]).sum() if last_only else (dh * h[1:])[counts].sum()

    h = fastbptt.forward(params, x, h0, lengths=lengths, backend=backend)
    got = flat(fastbptt.backward(params, x, h, dh, lengths=lengths, backend=backend))
    for gradient, a in zip(got, (*params, h0), strict=True):
        np.testing.assert_allclose(gradient, central_differences(loss, a), rtol=0, atol=1e-8)


@BACKENDS
@pytest.mark.parametrize("dtype", ["uint8", "int16", ">i4", "int64", "uint64"])
def test_as_one_hot(dtype, backend):
    """Tokens of any integer type, in any order in memory; leaks and noise beside them."""
    params, x, dh = draw()
    noise = np.random.default_rng(1).standard_normal(dh.shape)
    for options in ({}, {"noise": noise}, {"leak": fastbptt.Leak(0.3)}):
        expected = fastbptt.forward(params, one_hot(x, V, "float64"), backend=backend, **options)
        leak = {"leak": options["leak"]} if "leak" in options else {}
        dparams, _, dh0 = fastbptt.backward(
            params, one_hot(x, V, "float64"), expected, dh, backend=backend, **leak
        )
        for given in (x, x.T.copy().T, x.repeat(3, 1)[:, ::3], x[::-1].copy()[::-1]):
            tokens = given.astype(dtype, order="K", copy=False)
            h = fastbptt.forward(params, tokens, backend=backend, **options)
            np.testing.assert_allclose(h, expected, rtol=1e-13, atol=1e-14)
            got = flat(fastbptt.backward(params, tokens, expected, dh, backend=backend, **leak))
            for a, b in zip(got, (*dparams, dh0), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


# Many words, whose gradients all groups of sequences share; few, with sums of each group's own
@pytest.mark.parametrize("shape", [(30, 37, 2000, 40), (40, 64, 30, 33), (9, 301, 17, 48)], ids=str)
@pytest.mark.parametrize("some", [False, True], ids=["", "lengths"])
def test_one_thread_and_two(shape, some, monkeypatch):
    always_launch(monkeypatch.setattr)
    params, x, dh = draw(shape, "float32")
    options = {"lengths": np.random.default_rng(0).integers(0, shape[0] + 1, shape[1])}

    def train():
        h = fastbptt.forward(params, x, **(options if some else {}))
        gradients = fastbptt.backward(params, x, h, dh, **(options if some else {}))
        return digest([h, *flat(gradients)])

    with using(1):
        expected = train()
    with using(2):
        for _ in range(3):
            assert train() == expected


@BACKENDS
def test_no_steps_or_no_sequences(backend):
    params, *_ = draw()
    for shape in ((0, 3), (3, 0)):
        x = np.zeros(shape, np.int64)
        h = fastbptt.forward(params, x, backend=backend)
        assert h.shape == (shape[0] + 1, shape[1], H)
        dparams, dx, _ = fastbptt.backward(params, x, h, h[1:], backend=backend)
        assert dx is None
        assert not any(a.any() for a in dparams)
    h = fastbptt.forward(params, np.full((3, 2), -1), lengths=[0, 0], backend=backend)
    dparams, *_ = fastbptt.backward(
        params, np.full((3, 2), -1), h, h[1:], lengths=[0, 0], backend=backend
    )
    assert not any(a.any() for a in dparams)


@BACKENDS
@pytest.mark.parametrize("callable_dh", [False, True])
def test_checkpointed(callable_dh, backend):
    params, x, dh = draw((11, B, V, H))
    h = fastbptt.forward(params, x, backend=backend)
    expected = flat(fastbptt.backward(params, x, h, dh, backend=backend))
    kept = fastbptt.forward_checkpointed(params, x, backend=backend)

    def part(t, h):
        return dh[t : t + len(h)]

    got = flat(
        fastbptt.backward_checkpointed(
            params, x, kept, part if callable_dh else dh, backend=backend
        )
    )
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


# What does not fit


@BACKENDS
@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda x: np.where(x == x[2, 1], -1, x), ValueError, ("x[", "is -1", "0 to 6")),
        (lambda x: x + V * (np.arange(T) == 4)[:, None], ValueError, ("x[4, 0] is", "0 to 6")),
        (lambda x: x.astype(np.uint64) + np.uint64(1 << 63), ValueError, ("x[0, 0] is", "0 to 6")),
        (lambda x: x > 2, TypeError, ("x has dtype bool", "integers (T, B)")),
        (lambda x: x.astype(float), ValueError, ("x has shape (6, 5)", "(T, B) of integers")),
        (lambda x: x[:, :, None], TypeError, ("x has dtype int64", "integers (T, B)")),
        (lambda x: x[0], TypeError, ("x has dtype int64", "integers (T, B)")),
        (lambda x: x.tolist(), TypeError, ("x is a list", "numpy.ndarray")),
    ],
    ids=["negative", "large", "very large", "bool", "float", "3 axes", "1 axis", "list"],
)
def test_what_is_turned_away(change, error, words, backend):
    """Before anything is written."""
    params, x, dh = draw()
    h = fastbptt.forward(params, x, backend=backend)
    out = np.full_like(h, 7)
    gradients = Params(*(np.full_like(a, 7) for a in params)), None, np.full((B, H), 7.0)
    wrong = change(x)
    for call in (
        lambda: fastbptt.forward(params, wrong, backend=backend, out=out),
        lambda: fastbptt.backward(params, wrong, h, dh, backend=backend, out=gradients),
    ):
        with pytest.raises(error) as caught:
            call()
        for word in words:
            assert word in str(caught.value)
    assert all((a == 7).all() for a in (out, *gradients[0], gradients[2]))


def test_weights_that_do_not_fit():
    params, x, _ = draw()
    with pytest.raises(TypeError, match="W_x has dtype int64, expected float32 or float64"):
        fastbptt.forward(params._replace(W_x=params.W_x.astype(int)), x)
    with pytest.raises(TypeError, match="b has dtype float32, expected float64 as W_x has"):
        fastbptt.forward(params._replace(b=params.b.astype("f4")), x)
    with pytest.raises(ValueError, match=r"b has shape \(3,\)"):
        fastbptt.forward(params._replace(b=params.b[:3]), x)


@BACKENDS
def test_what_lies_past_a_sequence_does_not_count(backend):
    params, x, dh = draw()
    lengths = np.array([6, 0, 3, 5, 1])
    past = np.arange(T)[:, None] >= lengths
    results = []
    for padding in (0, -1, 10**9):
        given = np.where(past, padding, x)
        h = fastbptt.forward(params, given, lengths=lengths, backend=backend)
        gradients = fastbptt.backward(params, given, h, dh, lengths=lengths, backend=backend)
        results.append(digest([h, *flat(gradients)]))
    assert len(set(results)) == 1


# Data sets and models

SENTENCES = [[3, 1, 4, 1], [5], [], [2, 6, 5, 3, 5, 0]]


def padded(sentences, padding=-1):
    found = np.full((len(sentences), 8), padding)
    for row, sentence in zip(found, sentences, strict=True):
        row[: len(sentence)] = sentence
    return found


def test_forms_of_data():
    lengths = [len(sentence) for sentence in SENTENCES]
    index = np.arange(4)
    for given in (
        (SENTENCES, None),
        ([np.array(s, np.uint8) for s in SENTENCES], None),
        (tuple(SENTENCES), None),
        (padded(SENTENCES), lengths),
        (padded(SENTENCES).astype(np.int8), lengths),
    ):
        data = _sequences.inputs(*given, V, "float32")
        assert data.lengths.tolist() == lengths
        batch = data[index]
        assert batch.dtype.kind in "iu"
        assert batch.shape == (6, 4)
        assert [batch[:n, i].tolist() for i, n in enumerate(lengths)] == SENTENCES


def test_integers_that_are_numbers():
    """With one feature, or with an axis of features, integers are not tokens."""
    for x, size in ((np.arange(6).reshape(2, 3), 1), (np.arange(12).reshape(2, 3, 2), 2)):
        data = _sequences.inputs(x, None, size, "float32")
        assert data.steps.dtype == np.float32
        assert data.steps.shape == (6, size)
    assert _sequences.inputs([[1, 2], [3]], None, 1, "float32").steps.dtype == np.float32
    assert _sequences.inputs([], None, 3, "float32").steps.shape == (0, 3)


@pytest.mark.parametrize(
    ("x", "lengths", "words"),
    [
        ([[1, 2], [0, 7]], None, r"x\[1\]\[1\] is 7, expected 0 to 6"),
        ([[1, 2], [-1]], None, r"x\[1\]\[0\] is -1, expected 0 to 6"),
        (padded(SENTENCES), None, r"x\[0, 4\] is -1, expected 0 to 6"),
        (padded(SENTENCES), [4, 2, 0, 6], r"x\[1, 1\] is -1, expected 0 to 6"),
        (np.zeros((2, 3)), None, r"x has shape \(2, 3\), expected .*\(N, T\) of integers"),
        ([[1, 2], [0.5]], None, r"x\[0\] has shape \(2,\), expected \(T, 7\)"),
        (np.zeros((2, 3), bool), None, r"x has shape \(2, 3\)"),
    ],
)
def test_data_that_are_turned_away(x, lengths, words):
    model = RNN(V, H, 1, seed=0)
    before = model.network.vector.copy()
    for call in (
        lambda: model.predict(x, lengths),
        lambda: fastbptt.fit(model, x, np.zeros(len(x)), lengths=lengths, progress=False),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    np.testing.assert_array_equal(model.network.vector, before)


@BACKENDS
@pytest.mark.parametrize(
    ("options", "training"),
    [
        ({}, {}),
        ({"output": "all"}, {}),
        ({"output": "all", "num_layers": 2, "dropout": 0.3, "bidirectional": True}, {}),
        ({"output": "last", "num_layers": 2, "bidirectional": True}, {"clip_norm": 0.1}),
        ({"output": "all", "output_dropout": 0.4}, {"l2": 0.1, "frozen": ["W_h"]}),
        ({"output": "all"}, {"truncate": 2}),
        ({"output": "last"}, {"truncate": 2}),
        ({"output": "all", "num_layers": 2, "dropout": 0.3}, {"memory": "checkpointed"}),
        ({"output": "last"}, {"memory": "checkpointed"}),
    ],
    ids=str,
)
def test_training_is_as_with_one_hot_inputs(options, training, backend):
    """In each form of data, with padding and without; a padded array gives a list's bits."""
    sentences = [[3, 1, 4, 1], [5, 2], [0], [2, 6, 5, 3, 5, 0], [1, 1]]
    lengths = [len(sentence) for sentence in sentences]
    every = options.get("output") == "all"
    rng = np.random.default_rng(0)
    y = [rng.integers(0, 3, n) for n in lengths] if every else rng.integers(0, 3, 5)
    y_padded = padded(y, 0) if every else y

    def train(x, y, lengths=None):
        model = RNN(V, H, 3, dtype="float64", seed=0, backend=backend, **options)
        history = fastbptt.fit(
            model, x, y, lengths=lengths, loss="cross_entropy", epochs=3, batch_size=2, seed=0,
            progress=False, validation=(x, y) if lengths is None else (x, y, lengths), **training,
        )  # fmt: skip
        evaluated = model.evaluate(x, y, lengths, "cross_entropy")
        return model.network.vector, [*history.loss, *history.validation_loss, evaluated]

    hot = [one_hot(sentence, V, "float64") for sentence in sentences]
    expected, expected_losses = train(hot, y)
    vector, found = train(sentences, y)
    np.testing.assert_allclose(vector, expected, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(found, expected_losses, rtol=1e-9)
    again, found_again = train(padded(sentences), y_padded, lengths)
    np.testing.assert_array_equal(again, vector)
    assert found_again == found


@pytest.mark.parametrize("output", ["last", "all"])
def test_seeing_inside_is_as_with_one_hot_inputs(output):
    sentences = [[3, 1, 4, 1], [5, 2, 0, 0]]
    model = RNN(V, H, 3, output=output, dtype="float64", num_layers=2, bidirectional=True, seed=0)
    hot = one_hot(sentences, V, "float64")
    y = np.arange(24.0).reshape(2, 4, 3) if output == "all" else np.arange(6.0).reshape(2, 3)
    for a, b in zip(model.states(sentences), model.states([*hot]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    flows = [fastbptt.diagnostics.gradient_flow(model, x, y) for x in (sentences, hot)]
    for a, b in zip(*(flow.values() for flow in flows), strict=True):
        np.testing.assert_allclose(a.log10_gradient, b.log10_gradient, rtol=1e-9)
    of_tokens, of_hot = (model.objective(x, y)(model.vector) for x in (sentences, hot))
    assert of_tokens[0] == pytest.approx(of_hot[0], rel=1e-12)
    np.testing.assert_allclose(of_tokens[1], of_hot[1], rtol=1e-9, atol=1e-12)
    for a, b in zip(
        model.loss_and_grads(sentences, y)[1].values(), model.loss_and_grads(hot, y)[1].values(),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_predictions_in_pieces_have_the_same_bits():
    model = RNN(V, 20, 3, output="all", num_layers=2, seed=0)
    x = np.random.default_rng(0).integers(0, V, (4, 30))
    whole, state = model.predict(x, return_state=True)
    first, middle = model.predict(x[:, :13], return_state=True)
    rest, end = model.predict(x[:, 13:], state=middle, return_state=True)
    np.testing.assert_array_equal(np.concatenate([first, rest], axis=1), whole)
    np.testing.assert_array_equal(end, state)


def test_memory():
    """One-hot, the data would take 26 MB and a minibatch 6 MB; the weights take 0.2."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 4000, (64, 25)), rng.standard_normal(64)
    model = RNN(4000, 12, 1, seed=0)

    def train():
        fastbptt.fit(model, x, y, epochs=1, batch_size=16, progress=False)
        fastbptt.fit(model, x, y, epochs=1, batch_size=16, progress=False, memory="checkpointed")
        model.predict(x)

    assert peak(train) < 3e6


# Text made up


def cycle(size=5, **options):
    """A model that has learned to count."""
    tokens = np.arange(100) % size
    model = RNN(size, 16, size, output="all", seed=0, **options)
    fastbptt.fit(
        model, [tokens[:-1]], [tokens[1:]], loss="cross_entropy",
        optimizer=fastbptt.Adam(learning_rate=0.02), epochs=50, progress=False, seed=0,
    )  # fmt: skip
    return model


def test_generate_goes_on():
    model = cycle()
    for prompt in ([1, 2, 3], (1, 2, 3), np.array([1, 2, 3], np.uint8)):
        got = model.generate(prompt, 7, temperature=0)
        assert got.tolist() == [4, 0, 1, 2, 3, 4, 0]
        assert got.dtype == np.int64
    expected = [[4, 0, 1], [2, 3, 4], [0, 1, 2]]
    assert model.generate([[2, 3], [0, 1], [3, 4]], 3, temperature=0).tolist() == expected
    assert model.generate([[2, 3], [0, 1, 2, 3, 4, 0, 1], [4]], 3, temperature=0).tolist() == (
        expected
    )
    assert model.generate([[2, 3]], 3, temperature=0).tolist() == expected[:1]
    assert model.generate([1], 0).shape == (0,)
    assert model.generate([[1], [2]], 0).shape == (2, 0)


@pytest.mark.parametrize("output", ["all", "last"])
def test_generate_draws_as_predicted(output):
    """What each step draws is what a plain loop over `predict` finds likeliest."""
    model = RNN(6, 10, 6, output=output, num_layers=2, seed=1)
    for a in model.parameters().values():
        a *= 3
    got = model.generate([5, 0, 2], 20, temperature=0).tolist()
    tokens = [5, 0, 2]
    for _ in range(20):
        y = model.predict([tokens])[0]
        tokens.append(int(np.argmax(y[-1] if output == "all" else y)))
    assert got == tokens[3:]
    assert len(set(got)) > 1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature(temperature):
    """Outputs that do not depend on what is read: shares p^(1/temperature)."""
    model = RNN(3, 2, 3, output="all", seed=0)
    p = np.array([0.6, 0.3, 0.1])
    for a in model.parameters().values():
        a[...] = 0
    model.parameters()["b_y"][...] = np.log(p)
    counts = np.bincount(model.generate(np.zeros((400, 1), int), 20, temperature=temperature,
                                        seed=0).ravel(), minlength=3)  # fmt: skip
    expected = p ** (1 / temperature)
    expected /= expected.sum()
    deviation = np.sqrt(expected * (1 - expected) / 8000)
    assert (np.abs(counts / 8000 - expected) < 4 * deviation).all()


def test_generate_repeats_by_seed():
    model = RNN(9, 8, 9, output="all", seed=0)
    first = model.generate([1, 2], 50, seed=3)
    np.testing.assert_array_equal(model.generate([1, 2], 50, seed=3), first)
    generator = np.random.default_rng(3)
    np.testing.assert_array_equal(model.generate([1, 2], 50, seed=generator), first)
    assert (model.generate([1, 2], 50, seed=generator) != first).any()
    assert set(first.tolist()) == set(range(9))


def test_extreme_logits():
    model = RNN(3, 1, 3, output="all", dtype="float64", seed=0)
    for a in model.parameters().values():
        a[...] = 0
    model.parameters()["b_y"][...] = [1e300, -1e300, 1e299]
    assert set(model.generate([0], 20, temperature=1e-10, seed=0).tolist()) == {0}
    model.parameters()["b_y"][...] = [0, np.nan, 0]
    with pytest.raises(FloatingPointError, match="infinite or NaN"):
        model.generate([0], 1)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"prompt": []}, ValueError, "prompt is empty"),
        ({"prompt": [[1], []]}, ValueError, "prompt.* without tokens"),
        ({"prompt": [1, 9]}, ValueError, r"prompt\[1\] is 9, expected 0 to 3"),
        ({"prompt": np.array([[1], [9]])}, ValueError, r"prompt\[1, 0\] is 9, expected 0 to 3"),
        ({"prompt": [0.5]}, ValueError, "prompt holds .*float64.* integers"),
        ({"prompt": np.zeros((2, 3, 4))}, ValueError, "prompt holds .*float64.* integers"),
        ({"prompt": "In the"}, TypeError, "prompt has dtype .*"),
        ({"length": -1}, ValueError, "length is -1"),
        ({"length": 2.0}, TypeError, "length is 2.0"),
        ({"temperature": -1}, ValueError, "temperature is -1"),
        ({"temperature": "hot"}, TypeError, "temperature is 'hot'"),
    ],
)
def test_generate_turns_away(given, error, words):
    with pytest.raises(error, match=words):
        RNN(4, 3, 4, output="all").generate(**{"prompt": [1], "length": 2, **given})


@pytest.mark.parametrize(
    "model", [RNN(4, 3, 5), RNN(1, 3, 1), RNN(4, 3, 4, bidirectional=True)], ids=repr
)
def test_models_that_generate_nothing(model):
    with pytest.raises(ValueError, match="expected one direction, and as many outputs as inputs"):
        model.generate([0], 1)


def test_a_word_weighs_as_its_class():
    """Cross-entropy of the next token: integers in x and y alike."""
    model = cycle()
    x = np.arange(40).reshape(2, 20) % 5
    value = model.evaluate(x[:, :-1], x[:, 1:], loss="cross_entropy")
    y = model.predict(x[:, :-1])
    assert value == pytest.approx(losses.cross_entropy(y, x[:, 1:])[0], rel=1e-6)
    assert value < 0.1
