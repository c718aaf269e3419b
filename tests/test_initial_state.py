"""The initial state, trained with the weights."""

import copy
import pickle

import numpy as np
import pytest
from measure import central_differences
from trainings import (
    EQUAL,
    LENGTHS,
    OPTIMIZER,
    OUTPUT,
    RAGGED,
    Recorder,
    bits,
    build,
    draw,
    fit,
    interrupting,
)

import fastbptt
from fastbptt import RNN, Adam, losses

T, B, I, H, O = 6, 3, 2, 4, 3
WAYS = pytest.mark.parametrize(
    ("bidirectional", "checkpointed"),
    [(False, False), (False, True), (True, False)],
    ids=["forwards", "checkpointed", "both"],
)


def trained(**options):
    """A model whose initial states are not zero."""
    model = build(**{"train_initial_state": True, "num_layers": 2, **options})
    rng = np.random.default_rng(9)
    for h0 in initial(model):
        h0[...] = rng.standard_normal(H)
    return model


def initial(model):
    return [a for name, a in model.parameters().items() if name.endswith("h0")]


def as_states(model, count):
    return np.stack([np.repeat(h0[np.newaxis], count, axis=0) for h0 in initial(model)])


@OUTPUT
@WAYS
@pytest.mark.parametrize("lengths", [None, np.array([6, 0, 4])], ids=["full", "ragged"])
def test_gradient_agrees_with_central_differences(lengths, bidirectional, checkpointed, output):
    net = trained(output=output, bidirectional=bidirectional, output_dropout=0.3).network
    rng = np.random.default_rng(0)
    x, shape = rng.standard_normal((T, B, I)), (T, B, O) if output == "all" else (B, O)
    target, out = rng.standard_normal(shape), net.new_gradient()
    out.vector[...] = np.nan

    def run(**options):
        rng = np.random.default_rng(3)
        return net.loss_and_gradient(x, target, lengths, losses.mse, rng=rng, **options)

    value, got, last = run(checkpointed=checkpointed, activity_l2=0.0, out=out)
    assert value == run()[0]
    expected = central_differences(lambda: run()[0], net.vector)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-8 * np.abs(expected).max())
    assert all(h0.all() for h0 in out.h0)
    if lengths is not None:
        for a, h0 in zip(last, net.weights.h0, strict=True):
            np.testing.assert_array_equal(a[1], h0, "no step, no other state")


@WAYS
def test_states_that_are_given_take_its_place(bidirectional, checkpointed):
    net, plain = (
        build(num_layers=2, bidirectional=bidirectional, train_initial_state=each).network
        for each in (True, False)
    )
    for h0 in net.weights.h0:
        h0[...] = 1
    rng = np.random.default_rng(0)
    x, target = rng.standard_normal((T, B, I)), rng.standard_normal((B, O))
    state = rng.standard_normal((len(net.stack.layers), B, H))
    given = {"state": state, "checkpointed": checkpointed}
    value, got, _ = net.loss_and_gradient(x, target, None, losses.mse, **given)
    expected_value, expected, _ = plain.loss_and_gradient(x, target, None, losses.mse, **given)
    assert value == expected_value
    named = net.named(got)
    assert not any(named.pop(name).any() for name in [*named] if name.endswith("h0"))
    for name, a in plain.named(expected).items():
        np.testing.assert_array_equal(named[name], a)


@OUTPUT
def test_predictions_begin_with_it(output):
    model, plain = trained(output=output), build(output=output, num_layers=2)
    for name, a in plain.parameters().items():
        a[...] = model.parameters()[name]
    (x, _), state = draw(model, EQUAL), as_states(model, len(EQUAL))
    got, after = model.predict(x, return_state=True)
    expected, expected_after = plain.predict(x, state=state, return_state=True)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(after, expected_after)
    for h, expected_h in zip(model.states(x), plain.states(x, state=state), strict=True):
        for a, expected_a in zip(h, expected_h, strict=True):
            np.testing.assert_array_equal(a, expected_a)
    zero = np.zeros_like(state)
    np.testing.assert_array_equal(model.predict(x, state=zero), plain.predict(x))
    if output == "all":  # piece by piece
        first, carried = model.predict([a[:2] for a in x], return_state=True)
        rest = model.predict([a[2:] for a in x], state=carried)
        for whole, *pieces in zip(got, first, rest, strict=True):
            np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_it_is_one_array_for_each_layer_and_direction():
    model = build(num_layers=2, bidirectional=True, train_initial_state=True)
    names = [name for name in model.parameters() if name.endswith("h0")]
    assert names == [f"layers.{l}.{d}h0" for l in range(2) for d in ("", "reverse.")]
    assert not any(h0.any() for h0 in initial(model))
    plain = build(num_layers=2, bidirectional=True)
    for name, a in plain.parameters().items():
        np.testing.assert_array_equal(model.parameters()[name], a)
    np.testing.assert_array_equal(model.predict([[[1, 2]]]), plain.predict([[[1, 2]]]))
    assert model.loss_and_grads([[[1, 2]]], [[1, 2, 3]])[1].keys() == model.parameters().keys()


@OPTIMIZER
def test_training_finds_it(optimizer):
    """A state that decays by 3/4 a step: its outputs tell where it began."""
    model = RNN(1, 1, 1, output="all", activation="identity", dtype="float64",
                train_initial_state=True, seed=0)  # fmt: skip
    for name, value in {"layers.0.W_x": 0, "layers.0.W_h": 0.75, "W_y": 1}.items():
        model.parameters()[name][...] = value
    x, y = np.zeros((4, 5)), np.tile(2 * 0.75 ** np.arange(1, 6), (4, 1))
    frozen = "W_x", "W_h", "b", "W_y", "b_y"
    fit(model, (x, y), optimizer=optimizer(), frozen=frozen, epochs=400, batch_size=2)
    decays = getattr(optimizer(), "weight_decay", 0)
    expected = pytest.approx(2, abs=0.2 if decays else 0.02)
    assert model.parameters()["layers.0.h0"].item() == expected


# Truncated backpropagation


def gradients(model, data, **options):
    optimizer = Recorder(0.0)
    fit(model, data, optimizer=optimizer, epochs=1, batch_size=100, **options)
    return [model.network.named(gradient) for _, gradient in optimizer.steps_taken]


@LENGTHS
def test_truncated_windows_are_as_with_states_given(counts):
    """The first window alone begins with the initial state."""
    model = trained(output="all")
    first, *rest = gradients(model, draw(model, counts), truncate=2)
    assert len(rest) == (max(counts) - 1) // 2
    assert all(a.all() for name, a in first.items() if name.endswith("h0"))
    for each in rest:
        assert not any(a.any() for name, a in each.items() if name.endswith("h0"))


def test_truncated_sequences_that_are_short_enough_reach_it():
    """Of the gradient by the initial state, those of at most so many steps have a share."""
    model = trained(output="last")
    x, y = draw(model, RAGGED)
    [got] = gradients(model, (x, y), truncate=3)
    short = [n for n, count in enumerate(RAGGED) if count <= 3]
    assert 0 < len(short) < len(RAGGED)
    _, expected = model.loss_and_grads([x[n] for n in short], y[short])
    for name in ("layers.0.h0", "layers.1.h0"):
        share = expected[name] * len(short) / len(RAGGED)
        np.testing.assert_allclose(got[name], share, rtol=1e-10)
    [whole], [all_short] = (gradients(model, (x, y), truncate=n) for n in (None, 7))
    for name, a in whole.items():
        np.testing.assert_array_equal(a, all_short[name])


# Trainings


@OUTPUT
@pytest.mark.parametrize("options", [{}, {"truncate": 2}, {"memory": "checkpointed"}], ids=str)
def test_training_goes_on_from_a_file(options, output, tmp_path):
    at_once, in_parts, other = (trained(output=output, dropout=0.2) for _ in range(3))
    data, path = draw(at_once, RAGGED), tmp_path / "run"
    options = {"batch_size": 4, "patience": 9, "optimizer": Adam(0.01), **options}
    before = [h0.copy() for h0 in initial(at_once)]
    fit(at_once, data, epochs=4, **copy.deepcopy(options))
    fit(in_parts, data, epochs=2, checkpoint=path, **copy.deepcopy(options))
    fit(other, data, epochs=4, checkpoint=path, **copy.deepcopy(options))
    assert bits(other) == bits(at_once) == bits(fastbptt.load(path))
    assert all((a != b).all() for a, b in zip(initial(other), before, strict=True))
    with pytest.raises(ValueError, match="is of a training with train_initial_state = True"):
        fit(build(num_layers=2, output=output, dropout=0.2), data, checkpoint=path)


def test_files_and_copies(tmp_path):
    model = trained(bidirectional=True)
    fastbptt.save(model, tmp_path / "model")
    for other in (fastbptt.load(tmp_path / "model"), pickle.loads(pickle.dumps(model))):
        assert other.config() == model.config()
        assert other.train_initial_state
        assert bits(other) == bits(model)
    assert RNN(**model.config()).parameters().keys() == model.parameters().keys()


def test_penalties_and_frozen_weights_by_name():
    """By default no penalty acts on it, as on biases."""
    model = trained()
    data, h0 = draw(model, EQUAL), "layers.0.h0"
    [plain], [others] = gradients(model, data), gradients(model, data, l2=0.1, l1=0.1)
    [its] = gradients(model, data, l2={"h0": 0.1})
    np.testing.assert_array_equal(others[h0], plain[h0])
    np.testing.assert_allclose(its[h0], plain[h0] + 0.2 * initial(model)[0], rtol=1e-12)
    before = [h0.copy() for h0 in initial(model)]
    fit(model, data, frozen="h0", epochs=2)
    np.testing.assert_array_equal(initial(model), before)


def test_after_an_interrupt(ctrl_c):
    model = trained()
    before = [h0.copy() for h0 in initial(model)]
    history = fit(model, draw(model, EQUAL), loss=interrupting(5), batch_size=4)
    assert history.stopped == "interrupted"
    assert np.isfinite(initial(model)).all()
    assert (initial(model)[0] != before[0]).any()


def test_gradient_flow_begins_with_it():
    model, plain = trained(), build(num_layers=2)
    data = draw(model, RAGGED)
    for name, a in plain.parameters().items():
        a[...] = model.parameters()[name]
    got, other = (fastbptt.diagnostics.gradient_flow(each, *data) for each in (model, plain))
    for name, flow in got.items():
        assert (flow.log10_gradient != other[name].log10_gradient).any(), name
    for h0 in initial(model):
        h0[...] = 0
    got = fastbptt.diagnostics.gradient_flow(model, *data)
    for name, flow in got.items():
        np.testing.assert_array_equal(flow.log10_gradient, other[name].log10_gradient)


def test_other_libraries_have_none(tmp_path):
    model, words = trained(), "the model has train_initial_state=True, which "
    with pytest.raises(ValueError, match=f"{words}Keras' SimpleRNN cannot say"):
        model.to_keras()
    pytest.importorskip("torch")
    with pytest.raises(ValueError, match=f"{words}PyTorch's RNN cannot say"):
        model.to_torch()
    pytest.importorskip("onnx")
    with pytest.raises(ValueError, match=f"{words}ONNX cannot say"):
        fastbptt.onnx.export(model, tmp_path / "model.onnx")


def test_it_may_have_constraints():
    constraints = fastbptt.Constraints(nonnegative="h0", mask={"layers.0.h0": [1, 0, 1, 1]})
    model = build(train_initial_state=True, constraints=constraints)
    model.set_parameters({"layers.0.h0": [0.1, 0, 0.2, 0.3]})
    fit(model, draw(model, EQUAL), epochs=20, optimizer=Adam(0.1))
    h0 = model.parameters()["layers.0.h0"]
    assert h0[1] == 0
    assert (h0[[0, 2, 3]] > 0).all()


@OUTPUT
@WAYS
@pytest.mark.parametrize("of", ["rate", "potential"])
def test_gradient_of_cells_that_leak(of, bidirectional, checkpointed, output):
    """The initial state of potentials is that of these; noise changes nothing about it."""
    leak = fastbptt.Leak([0.1, 0.3, 0.7, 1.0], of)
    net = trained(output=output, bidirectional=bidirectional, leak=leak, noise=0.1).network
    rng = np.random.default_rng(0)
    x, shape = rng.standard_normal((T, B, I)), (T, B, O) if output == "all" else (B, O)
    target, lengths = rng.standard_normal(shape), np.array([6, 0, 4])

    def run(**options):
        rng = np.random.default_rng(3)
        return net.loss_and_gradient(x, target, lengths, losses.mse, rng=rng, **options)

    value, got, last = run(checkpointed=checkpointed)
    assert value == run()[0]
    expected = central_differences(lambda: run()[0], net.vector)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-7 * np.abs(expected).max())
    for a, h0 in zip(last, net.weights.h0, strict=True):
        np.testing.assert_array_equal(a[1], h0)
