"""Steps whose arrays and calls are kept do what steps do that keep nothing, to the bit."""

import numpy as np
import pytest

import fastbptt
from fastbptt import RNN, _repeated, losses
from fastbptt._repeated import RepeatedSteps
from fastbptt._weights import Minibatch

# T B I H: of the smallest calls, and of those that may have several threads.
SHAPES = pytest.mark.parametrize("shape", [(1, 1, 1, 1), (7, 5, 3, 9), (9, 48, 16, 40)], ids=str)
DTYPE = pytest.mark.parametrize("dtype", ["float32", "float64"])
O = 2


def network(I=3, H=5, **options):
    return RNN(I, H, O, seed=0, **options).network


def draw(net, T, B, seed=0):
    rng, dtype = np.random.default_rng(seed), net.vector.dtype
    x = rng.standard_normal((T, B, len(net.weights.layers[0].W_x))).astype(dtype)
    y = rng.standard_normal((T, B, O) if net.output == "all" else (B, O)).astype(dtype)
    return Minibatch(x, y)


def repeated(net, minibatch):
    """What takes the steps of such minibatches, and the gradient that it fills."""
    gradient = net.new_gradient()
    steps = RepeatedSteps(net, gradient)
    assert steps.find(minibatch) is None, "the shape may not come again"
    return steps.find(minibatch), gradient.vector


def assert_same_step(step, gradient, net, minibatch, loss):
    x, y, _, weight, _ = minibatch
    gradient[...] = np.nan
    value = step.loss_and_gradient(minibatch, loss)
    expected, d, _ = net.loss_and_gradient(x, y, None, loss, weight=weight)
    assert value == expected
    np.testing.assert_array_equal(gradient, d)


@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("output", ["last", "all"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@SHAPES
@DTYPE
def test_has_the_bits_of_a_step_that_keeps_nothing(dtype, shape, activation, output, num_layers):
    T, B, I, H = shape
    net = network(
        I, H, num_layers=num_layers, output=output, activation=activation, dtype=dtype
    )  # fmt: skip
    step, gradient = repeated(net, draw(net, T, B))
    for seed in range(4):
        assert_same_step(step, gradient, net, draw(net, T, B, seed), losses.mse)
        net.vector[...] -= 0.1 * gradient  # the weights change in place


@DTYPE
def test_weights_of_the_loss(dtype):
    net = network(output="all", dtype=dtype)
    minibatch = draw(net, 4, 3)
    step, gradient = repeated(net, minibatch)
    weight = np.arange(12, dtype=dtype).reshape(4, 3) % 3
    weighted = minibatch._replace(weight=weight)
    for of in (weighted, minibatch, weighted):
        assert_same_step(step, gradient, net, of, losses.mse)


def test_inputs_in_any_memory_layout():
    net = network()
    minibatch = draw(net, 6, 4)
    step, gradient = repeated(net, minibatch)
    for x in (
        np.asfortranarray(minibatch.x),
        np.repeat(minibatch.x, 2, axis=2)[..., ::2],
        minibatch.x[::-1, :, ::-1],
    ):
        assert_same_step(step, gradient, net, minibatch._replace(x=x), losses.mse)


@pytest.mark.parametrize(
    "options",
    [
        {"bidirectional": True},
        {"activation": "sigmoid"},
        {"leak": fastbptt.Leak(0.5)},
        {"leak": fastbptt.Leak(0.5, of="potential")},
        {"noise": 0.1},
        {"dropout": 0.1, "num_layers": 2},
        {"output_dropout": 0.1},
        {"train_initial_state": True},
        {"backend": "numpy"},
    ],
    ids=str,
)
def test_networks_whose_steps_are_not_alike(options):
    net = network(**options)
    steps, minibatch = RepeatedSteps(net, net.new_gradient()), draw(net, 4, 3)
    for _ in range(3):
        assert steps.find(minibatch) is None


def test_minibatches_that_are_not_alike():
    net = network()
    minibatch = draw(net, 4, 3)
    steps = RepeatedSteps(net, net.new_gradient())
    tokens = minibatch._replace(x=np.zeros((4, 3), np.int64))
    for _ in range(3):
        assert steps.find(tokens) is None
        assert steps.find(draw(net, 0, 3)) is None
    steps.find(minibatch)
    assert steps.find(minibatch) is not None
    assert steps.find(minibatch._replace(lengths=np.array([4, 2, 1]))) is None
    ragged = draw(net, 5, 3)._replace(lengths=np.array([5, 2, 1]))
    for _ in range(3):
        assert steps.find(ragged) is None
    assert [*steps._steps] == [minibatch.x.shape], "nothing is kept for those that take no step"
    large = draw(net, 500, 100)  # 800 numbers of states and inputs at a step
    for _ in range(3):
        assert steps.find(large) is None


def test_few_shapes_are_kept():
    net = network()
    steps = RepeatedSteps(net, net.new_gradient())
    kept = []
    for T in range(1, 12):
        steps.find(draw(net, T, 2))
        kept.append(steps.find(draw(net, T, 2)))
        assert kept[-1] is steps.find(draw(net, T, 2))
        assert len(steps._steps) <= _repeated.SHAPES
    assert len({*kept}) == 11


@pytest.mark.parametrize(
    ("dy", "error"),
    [(np.zeros((3, O), "f8"), TypeError), (np.zeros((3, 1), "f4"), ValueError), (1.0, TypeError)],
    ids=["dtype", "shape", "type"],
)
def test_a_gradient_that_does_not_fit(dy, error):
    net = network()
    step, _ = repeated(net, minibatch := draw(net, 4, 3))
    assert step is not None
    with pytest.raises(error, match="dy"):
        step.loss_and_gradient(minibatch, lambda *_: (0.0, dy))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("output", ["last", "all"])
def test_trains_as_without(output, dtype, monkeypatch):
    """Epochs whose last minibatch is smaller, with clipping, penalties and frozen weights."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((43, 6, 3))
    y = rng.standard_normal((43, 6, O) if output == "all" else (43, O))

    def train():
        model = RNN(3, 8, O, output=output, num_layers=2, dtype=dtype, seed=0)
        history = fastbptt.fit(
            model, x, y, epochs=4, batch_size=10, clip_norm=0.5, l2=1e-3, frozen="b_y",
            validation=(x[:5], y[:5]), seed=1, progress=False,
        )  # fmt: skip
        return model.network.vector.tobytes(), history.loss, history.validation_loss

    taken = []
    take = _repeated.RepeatedStep.loss_and_gradient
    monkeypatch.setattr(
        _repeated.RepeatedStep,
        "loss_and_gradient",
        lambda self, *given: taken.append(len(given[0].y)) or take(self, *given),
    )
    found = train()
    assert taken
    monkeypatch.setattr(_repeated, "SMALL", 0)
    count = len(taken)
    assert train() == found
    assert len(taken) == count


def test_a_loss_may_keep_what_it_is_given():
    """Outputs of a step are not overwritten by the next one's."""
    given = []

    def loss(y, target, mask):
        given.append((y, y.copy()))
        return losses.mse(y, target)

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((12, 4, 3)), rng.standard_normal((12, O))
    fastbptt.fit(RNN(3, 5, O, seed=0), x, y, loss=loss, batch_size=4, epochs=3, progress=False)
    assert len(given) == 9
    for kept, then in given:
        np.testing.assert_array_equal(kept, then)
