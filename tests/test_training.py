"""Training against a loop written out and PyTorch; seeds, threads, memory, what does not fit."""

import doctest
import functools
import hashlib
import math

import numpy as np
import pytest
from measure import peak
from test_threads import run
from trainings import (
    EQUAL,
    LENGTHS,
    OPTIMIZER,
    OUTPUT,
    RAGGED,
    H,
    I,
    O,
    Recorder,
    assert_same_course,
    bits,
    build,
    draw,
    fit,
    noisy,
    order_and_dropout,
)

import fastbptt
from fastbptt import RNN, SGD, Adam, History, RMSprop, clip_by_global_norm, losses, training

# The loop


def take(y, index):
    return y[index] if isinstance(y, np.ndarray) else [y[i] for i in index]


def flat(arrays):
    return np.concatenate([a.ravel() for a in arrays.values()])


def loop(model, data, optimizer, epochs, batch_size, clip_norm, loss):
    """What fit does, from public parts; the mean loss of each epoch."""
    (x, y), (order_rng, dropout_rng), means = data, order_and_dropout(), []
    weights = {"weights": flat(model.parameters())}
    for _ in range(epochs):
        order, total, rows = order_rng.permutation(len(x)), 0.0, 0
        for start in range(0, len(x), batch_size):
            index = order[start : start + batch_size]
            minibatch = [x[i] for i in index]
            value, grads = model.loss_and_grads(
                minibatch, take(y, index), loss=loss, rng=dropout_rng
            )
            gradient = {"weights": flat(grads)}
            clip_by_global_norm(gradient, clip_norm)
            optimizer.step(weights, gradient)
            at = 0
            for a in model.parameters().values():
                a[...] = weights["weights"][at : at + a.size].reshape(a.shape)
                at += a.size
            seen = len(index) if model.output == "last" else sum(map(len, minibatch))
            total += value if loss == "ssr" else value * seen
            rows += seen
        means.append(total if loss == "ssr" else total / rows)
    return means


@OPTIMIZER
@LENGTHS
@OUTPUT
@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        ({}, "mse"),
        ({"num_layers": 3, "dropout": 0.3, "dtype": "float32"}, "ssr"),
        ({"bidirectional": True, "num_layers": 2, "backend": "numpy"}, "mse"),
    ],
    ids=["one", "dropout", "both"],
)
def test_is_the_loop(kind, loss, output, counts, optimizer):
    model, by_hand = (build(output=output, **kind) for _ in range(2))
    data = draw(model, counts)
    expected = loop(by_hand, data, optimizer(), 3, 4, 0.5, loss)
    history = fit(
        model, data, loss=loss, optimizer=optimizer(), epochs=3, batch_size=4, clip_norm=0.5
    )
    assert history.loss == expected
    assert bits(model) == bits(by_hand)
    assert_same_course(history, History(loss=expected))


def test_by_default_adam_and_batches_of_32():
    model, by_hand = build(), build()
    data = draw(model, RAGGED * 4)
    expected = loop(by_hand, data, Adam(), 2, 32, math.inf, "mse")
    assert fit(model, data, epochs=2).loss == expected
    assert bits(model) == bits(by_hand)


def test_arrays_with_lengths_and_lists_give_the_same_bits():
    by_list, by_array = build(), build()
    x, y = draw(by_list, RAGGED)
    padded = np.full((len(x), 9, I), np.nan)
    for row, a in zip(padded, x, strict=True):
        row[: len(a)] = a
    expected = fit(by_list, (x, y), epochs=2, batch_size=4, validation=(x, y))
    validation = padded, y, RAGGED
    got = fit(by_array, (padded, y), lengths=RAGGED, epochs=2, batch_size=4, validation=validation)
    assert_same_course(got, expected)
    assert bits(by_array) == bits(by_list)


def torch_losses(torch, model, data, optimizer, batches, clip_norm):
    """The loss of each minibatch in PyTorch, from the model's weights, step by step."""
    leaves = {name: torch.tensor(a, requires_grad=True) for name, a in model.parameters().items()}
    optimizer, (x, y), values = optimizer(leaves.values()), data, []
    for index in batches:
        outputs = []
        for i in index:
            h = [torch.zeros(H, dtype=torch.float64)] * model.num_layers
            for step in torch.tensor(x[i]):
                for l in range(model.num_layers):
                    W_x, W_h, b = (leaves[f"layers.{l}.{name}"] for name in ("W_x", "W_h", "b"))
                    h[l] = step = torch.tanh(step @ W_x + h[l] @ W_h + b)
                if model.output == "all":
                    outputs.append(h[-1] @ leaves["W_y"] + leaves["b_y"])
            if model.output == "last":
                outputs.append(h[-1] @ leaves["W_y"] + leaves["b_y"])
        target = np.concatenate([np.atleast_2d(y[i]) for i in index])
        loss = torch.nn.functional.mse_loss(torch.stack(outputs), torch.tensor(target))
        optimizer.zero_grad()
        loss.backward()
        norm = math.sqrt(sum(leaf.grad.square().sum().item() for leaf in leaves.values()))
        if clip_norm is not None and norm > clip_norm:
            for leaf in leaves.values():
                leaf.grad *= clip_norm / norm
        optimizer.step()
        values.append(loss.item())
    return values


@pytest.mark.parametrize("clip_norm", [None, 0.1])
@OUTPUT
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_the_first_20_steps_agree_with_torch(name, output, clip_norm, torch_on_one_thread):
    torch = torch_on_one_thread
    ours, theirs = {
        "SGD": (SGD(0.1, momentum=0.9), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
        "Adam": (Adam(0.01), lambda p: torch.optim.Adam(p, 0.01)),
    }[name]
    model, (rng, _), values = build(num_layers=2, output=output), order_and_dropout(), []
    data = draw(model, RAGGED[:8])
    orders = [rng.permutation(8) for _ in range(10)]
    batches = [index for order in orders for index in (order[:5], order[5:])]
    expected = torch_losses(torch, model, data, theirs, batches, clip_norm)

    def mse(y, target, mask):
        value, dy = losses.mse(y, target, mask)
        values.append(value)
        return value, dy

    fit(model, data, loss=mse, optimizer=ours, epochs=10, batch_size=5, clip_norm=clip_norm)
    assert len(values) == 20
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-10)
    assert values[-1] < 0.9 * values[0] or clip_norm


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_learns(backend):
    x = np.random.default_rng(0).integers(0, 2, (96, 8))
    model = RNN(1, 8, 1, seed=0, backend=backend)
    history = fit(model, (x, x.sum(axis=1)), epochs=60, optimizer=Adam(0.01))
    assert history.loss[-1] < 0.1 < 10 < history.loss[0]
    assert abs(model.predict([[0, 1, 1, 0, 1, 0, 0, 1]]).item() - 4) < 0.5


def test_learns_classes():
    x = np.random.default_rng(0).standard_normal((64, 6, I))
    model = RNN(I, 8, 2, seed=0)
    y = (x[:, -1, 0] > 0).astype(int)
    history = fit(model, (x, y), loss="cross_entropy", epochs=60, optimizer=Adam(0.01))
    assert history.loss[-1] < 0.1
    assert (model.predict(x).argmax(axis=1) == y).mean() > 0.95


@pytest.mark.parametrize("number", [np.float32, np.float64, np.asarray])
def test_a_loss_of_ones_own(number, tmp_path):
    """Its value may be a NumPy number; a callable object has no name."""

    class Loss:
        def __call__(self, y, target, mask):
            value, dy = losses.mse(y, target, mask)
            return number(value), dy

    model, data, validation = noisy()
    kept = []
    for epochs in (1, 2):
        kept.append(Loss())
        history = fit(model, data, loss=kept[-1], epochs=epochs, validation=validation,
                      checkpoint=tmp_path / "run")  # fmt: skip
    expected = fit(noisy()[0], data, epochs=2, validation=validation)
    np.testing.assert_allclose(history.loss, expected.loss, rtol=1e-6)
    assert {type(value) for value in history.loss + history.validation_loss} == {float}


@pytest.mark.parametrize("name", ["ssr", "cross_entropy"])
def test_a_partial_loss(name):
    """It is summed over minibatches, or takes classes, as that which it calls."""
    x, y = draw(build(), RAGGED)
    y = y.argmax(axis=1) if name == "cross_entropy" else y
    found = []
    for loss in (name, functools.partial(losses.LOSSES[name])):
        model = build()
        history = fit(model, (x, y), validation=(x, y), loss=loss, epochs=2, batch_size=4)
        found.append((history.loss, history.validation_loss, bits(model)))
    assert found[0] == found[1]


# Seeds and threads


def test_seed():
    options = {"num_layers": 2, "dropout": 0.2}
    data = draw(build(), RAGGED)
    found = []
    for seed in (7, 7, np.random.default_rng(7), 8, None, None):
        model = build(**options)
        history = fit(model, data, seed=seed, epochs=2, batch_size=4)
        found.append((history.loss, bits(model)))
    assert found[0] == found[1] == found[2]
    assert len({weights for _, weights in found}) == 4


def test_order_and_dropout_draw_from_generators_of_their_own():
    """Whether and how much is left out changes no order; the order says not what is left out."""
    orders, data = [], draw(build(), EQUAL)

    def fit_recorded(model, data, **options):
        seen = []

        def mse(y, target, mask):
            seen.append(target[:, 0].copy())
            return losses.mse(y, target, mask)

        fit(model, data, loss=mse, epochs=3, batch_size=4, **options)
        return np.concatenate(seen)

    for num_layers, dropout in ((1, 0), (2, 0), (3, 0.5)):
        model = build(num_layers=num_layers, dropout=dropout)
        orders.append(fit_recorded(model, data))
    assert len(set(map(tuple, orders))) == 1
    order = order_and_dropout()[0]
    expected = np.concatenate([order.permutation(len(EQUAL)) for _ in range(3)])
    np.testing.assert_array_equal(orders[0], data[1][expected, 0])
    rng, found = np.random.default_rng(7), []
    for _ in range(2):  # a Generator spawns others each time
        found.append(fit_recorded(build(), data, seed=rng))
    np.testing.assert_array_equal(found[0], orders[0])
    assert (found[1] != found[0]).any()
    assert rng.random() == np.random.default_rng(7).random(), "nothing is drawn from it"


def test_generators_of_a_run_go_on():
    """Drawn from as they are, from fit to fit: as many epochs in one or in several."""
    at_once, in_parts = (build(num_layers=2, dropout=0.3) for _ in range(2))
    data = draw(at_once, RAGGED)
    expected = fit(at_once, data, epochs=4, batch_size=4, optimizer=SGD(0.1)).loss
    generators, got = training.Generators(*order_and_dropout()), []
    for epochs in (1, 2, 1):
        options = {"batch_size": 4, "optimizer": SGD(0.1), "seed": generators}
        got += fit(in_parts, data, epochs=epochs, **options).loss
    assert got == expected
    assert bits(in_parts) == bits(at_once)


def trained():
    """Of trainings with work for several threads: the losses, and a digest of the weights."""
    counts = np.random.default_rng(0).integers(5, 40, 96)
    found = []
    for output, options in (
        ("all", {}),
        ("last", {"truncate": 20}),
        ("all", {"truncate": 20}),
        ("last", {"memory": "checkpointed"}),
    ):
        model = build("float32", 40, num_layers=2, dropout=0.1, output=output)
        data = draw(model, counts)
        history = fit(
            model, data, epochs=2, batch_size=48, clip_norm=0.1, validation=data, **options
        )
        found.append(
            [history.loss, history.validation_loss, hashlib.sha256(bits(model)).hexdigest()]
        )
    return found


def test_one_thread_to_four(tmp_path):
    program = """
import json, numba, test_threads, test_training
from fastbptt.kernels import _threads

test_threads.always_launch()
launched, original, found = [], _threads.launch, []
def launch(function, task, threads):
    launched.append(threads)
    original(function, task, threads)
_threads.launch = launch
for threads in (1, 2, 3, 4):
    numba.set_num_threads(threads)
    found.append(test_training.trained())
print(json.dumps([found, sorted(set(launched))]))
"""
    found, launched = run(program, tmp_path, NUMBA_NUM_THREADS="4")
    assert found == [trained()] * 4
    assert launched == [2, 3, 4]


# Memory


@OUTPUT
@LENGTHS
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-13)])
def test_checkpointed_memory(dtype, tolerance, counts, output):
    found = []
    for memory in training.MEMORY:
        model, recorder = build(dtype, output=output, num_layers=2, dropout=0.3), Recorder()
        data = draw(model, counts)
        history = fit(model, data, memory=memory, optimizer=recorder, epochs=1)
        found.append((history.loss, recorder.steps_taken[0][1]))
    (expected_loss, expected), (loss, got) = found
    assert loss == expected_loss
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@OUTPUT
def test_memory(output):
    T, N, width = 20_000, 2, 64
    model = RNN(1, width, 1, output=output, seed=0)
    x = np.ones((N, T, 1), np.float32)
    data = x, np.ones((N, T, 1) if output == "all" else (N, 1), np.float32)
    states = T * N * width * 4
    assert peak(lambda: fit(model, data, epochs=1)) > states
    assert peak(lambda: fit(model, data, epochs=1, memory="checkpointed")) < states / 4


# What does not fit


def reduced_to(reduction):
    loss = functools.partial(losses.mse)
    vars(loss).update(reduction=reduction)
    return loss


def wrong_class(n=11):
    return np.where(np.arange(n) == 8, O, 0)


TURNED_AWAY = [
    ({"x": np.zeros((11, 5, 1))}, ValueError, r"x has shape \(11, 5, 1\), expected \(N, T, I\)"),
    ({"x": []}, ValueError, "x holds no sequence, expected at least one|y has shape"),
    ({"x": [], "y": np.zeros((0, O))}, ValueError, "x holds no sequence, expected at least one"),
    ({"y": np.zeros((3, O))}, ValueError, r"y has shape \(3, 3\), expected \(N, O\) with N = 11"),
    ({"y": np.full((11, O), "a")}, TypeError, "y has dtype <U1, expected real numbers"),
    ({"lengths": [5] * 11}, ValueError, "lengths is given with a list x"),
    ({"loss": "l1"}, ValueError, "loss is 'l1', expected one of 'mse'"),
    ({"loss": 3}, ValueError, "loss is 3, expected one of 'mse'"),
    ({"loss": reduced_to("none")}, ValueError, r"loss\.reduction is 'none', expected one of"),
    ({"optimizer": "adagrad"}, ValueError, "optimizer is 'adagrad', expected one of 'adam', 'rms"),
    ({"optimizer": None}, TypeError, "optimizer is None, expected an SGD, RMSprop or Adam, or one"),
    ({"optimizer": Adam}, TypeError, "optimizer is <class .*>, expected an SGD"),
    ({"epochs": -1}, ValueError, "epochs is -1, expected at least 0"),
    ({"epochs": 2.0}, TypeError, "epochs is 2.0, expected an integer"),
    ({"batch_size": 0}, ValueError, "batch_size is 0, expected at least 1"),
    ({"batch_size": None}, TypeError, "batch_size is None, expected an integer"),
    ({"clip_norm": 0}, ValueError, "clip_norm is 0.0, expected above 0"),
    ({"clip_norm": -1.5}, ValueError, "clip_norm is -1.5, expected above 0"),
    ({"clip_norm": np.nan}, ValueError, "clip_norm is nan, expected above 0"),
    ({"clip_norm": np.inf}, ValueError, "clip_norm is inf, expected above 0"),
    ({"clip_norm": "1"}, TypeError, "clip_norm is '1', expected a number"),
    ({"truncate": 0}, ValueError, "truncate is 0, expected at least 1"),
    ({"truncate": 1.5}, TypeError, "truncate is 1.5, expected an integer"),
    ({"truncate": 2, "memory": "checkpointed"}, ValueError, "truncate is given with memory="),
    ({"memory": "little"}, ValueError, "memory is 'little', expected 'full' or 'checkpointed'"),
    ({"memory": None}, ValueError, "memory is None, expected 'full' or 'checkpointed'"),
    ({"validation": np.zeros((2, 5, I))}, ValueError, r"validation is not \(x, y\)"),
    ({"validation": (1, 2, 3, 4, 5)}, ValueError, r"validation is not \(x, y\)"),
    (
        {"validation": (np.zeros((3, 5, 1)), np.zeros((3, O)))},
        ValueError,
        r"validation: x has shape \(3, 5, 1\)",
    ),
    (
        {"validation": (np.zeros((3, 5, I)), np.zeros((3, O)), [1.5] * 3)},
        TypeError,
        "validation: lengths has dtype float64, expected integers",
    ),
    ({"validation": ([], np.zeros((0, O)))}, ValueError, "validation holds no sequence"),
    ({"validation_split": 1}, ValueError, "validation_split is 1.0, expected at least 0 and below"),
    ({"validation_split": -0.1}, ValueError, "validation_split is -0.1, expected at least 0"),
    ({"validation_split": "0.1"}, TypeError, "validation_split is '0.1', expected a number"),
    (
        {"validation_split": 0.99},
        ValueError,
        "validation_split is 0.99 of 11 sequences, which leaves 0 to train on and 11 to hold out",
    ),
    (
        {"validation_split": 0.5, "validation": (np.zeros((3, 5, I)), np.zeros((3, O)))},
        ValueError,
        "validation_split is given with validation, expected one of them",
    ),
    ({"patience": 0}, ValueError, "patience is 0, expected at least 1"),
    ({"patience": "3"}, TypeError, "patience is '3', expected an integer"),
    ({"seed": -1}, ValueError, "non-negative"),
    ({"seed": "a"}, TypeError, "SeedSequence"),
    ({"callback": 3}, TypeError, "callback is 3, expected a function"),
    ({"checkpoint": 3.5}, TypeError, "float"),
    # Found when the loss reads them, in a later minibatch
    ({"loss": "cross_entropy", "y": wrong_class()}, ValueError, "target has values from 0 to 3"),
    ({"loss": "bce", "y": np.eye(11, O) * 2}, ValueError, "target has values from 0.0 to 2.0"),
    (
        {"loss": "cross_entropy", "y": wrong_class() % O, "validation_y": wrong_class()},
        ValueError,
        "target has values from 0 to 3",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "error", "message"),
    TURNED_AWAY,
    ids=[f"{i}-{'-'.join(row[0])}" for i, row in enumerate(TURNED_AWAY)],
)
def test_turned_away(given, error, message):
    model = build()
    x, y = draw(model, RAGGED)
    before = bits(model)
    given = {"x": x, "y": y, "batch_size": 2, "seed": 7, "progress": False, **given}
    if "validation_y" in given:
        given["validation"] = x, given.pop("validation_y")
    with pytest.raises(error, match=message):
        fastbptt.fit(model, **given)
    assert bits(model) == before


@pytest.mark.parametrize("given", [{"truncate": 2}, {"memory": "checkpointed"}], ids=str)
def test_both_directions_read_all_steps(given):
    model = build(bidirectional=True)
    before = bits(model)
    with pytest.raises(ValueError, match=r"truncate or memory is given, expected .* one direction"):
        fit(model, draw(model, RAGGED), **given)
    assert bits(model) == before


@pytest.mark.parametrize("model", [None, "RNN", RNN], ids=str)
def test_another_model(model):
    with pytest.raises(TypeError, match=f"model is a {type(model).__name__}, expected an RNN"):
        fit(model, draw(build(), RAGGED))


def test_an_optimizer_of_another_model():
    optimizer, model = Adam(), build()
    data = draw(model, RAGGED)
    fit(build(hidden_size=5), data, optimizer=optimizer, epochs=1)
    before = bits(model)
    with pytest.raises(ValueError, match="as in the steps before"):
        fit(model, data, optimizer=optimizer)
    assert bits(model) == before


def test_an_error_of_the_callback_is_its_own():
    model, data, _ = noisy()
    before = bits(model)

    def callback(model, history):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fit(model, data, callback=callback)
    assert bits(model) != before  # the epoch stands


def test_docstring_examples():
    # testmod leaves out what a decorator wraps.
    (found,) = doctest.DocTestFinder().find(fastbptt.fit, "fit")
    got = doctest.DocTestRunner().run(found)
    assert got.attempted
    assert not got.failed
    assert not doctest.testmod(training).failed


# The optimizer by its name


@pytest.mark.parametrize(("name", "kind"), [("adam", Adam), ("rmsprop", RMSprop), ("sgd", SGD)])
def test_names_of_optimizers(name, kind):
    for given in name, name.upper(), kind.__name__:
        (model, data, _), (other, _, _) = noisy(), noisy()
        fit(model, data, optimizer=given, epochs=2)
        fit(other, data, optimizer=kind(), epochs=2)
        assert bits(model) == bits(other)


def test_adam_by_default():
    (model, data, _), (other, _, _) = noisy(), noisy()
    fit(model, data, epochs=2)
    fit(other, data, optimizer="adam", epochs=2)
    assert bits(model) == bits(other)


# The share that is held out


@OUTPUT
@LENGTHS
@pytest.mark.parametrize("as_array", [True, False])
@pytest.mark.parametrize(("share", "cut"), [(0.2, 8), (0.5, 5), (0.09, 10), (0.9, 1), (1 / 11, 10)])
def test_validation_split(share, cut, as_array, counts, output):
    """The last sequences, as many as make up the share: as if given by themselves."""
    model = build(output=output)
    x, y = draw(model, counts)
    lengths = {}
    if as_array:
        lengths = {"lengths": np.array(counts)}
        x = np.stack([np.pad(a, ((0, 7 - len(a)), (0, 0))) for a in x])
        if output == "all":
            y = np.stack([np.pad(a, ((0, 7 - len(a)), (0, 0))) for a in y])
    history = fit(model, (x, y), **lengths, validation_split=share, epochs=3, batch_size=3)
    rest = {name: given[cut:] for name, given in lengths.items()}
    lengths = {name: given[:cut] for name, given in lengths.items()}
    other = build(output=output)
    expected = fit(
        other, (x[:cut], y[:cut]), **lengths, epochs=3, batch_size=3,
        validation=(x[cut:], y[cut:], *rest.values()),
    )  # fmt: skip
    assert len(history.validation_loss) == 3
    assert_same_course(history, expected)
    assert bits(model) == bits(other)


def test_a_share_that_is_no_binary_number():
    """Nine tenths of 10 leave 1, though 10 * (1 - 0.9) is below 1 in floating point."""
    assert [training._cut(10, n / 10) for n in range(1, 10)] == [*range(9, 0, -1)]
    assert [training._cut(100, n / 100) for n in range(1, 100)] == [*range(99, 0, -1)]


def test_a_mean_loss_beyond_all_numbers():
    """Where the loss of each minibatch is not."""

    def huge(y, target, mask=None):
        return 1e308, np.zeros_like(y)

    model = build()
    with pytest.raises(FloatingPointError, match="mean loss is inf in epoch 1;"):
        fit(model, draw(model, RAGGED), loss=huge, batch_size=3, epochs=2)
