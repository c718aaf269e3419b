"""Models whose units are noisy in training: what is added, when, and under which seeds."""

import numpy as np
import pytest
from trainings import assert_same_course, bits, build, draw, fit

import fastbptt
from fastbptt import Noise
from fastbptt.losses import mse

EQUAL = (6,) * 5


def named(model):
    parameters = model.parameters()
    params = fastbptt.Params(*(parameters[f"layers.0.{name}"] for name in ("W_x", "W_h", "b")))
    return params, parameters["W_y"], parameters["b_y"]


def test_training_adds_noise_of_a_seed_that_is_drawn():
    """As the calls for one layer do, with the same seed."""
    model = build(noise=0.3)
    x, y = draw(model, EQUAL)
    value, gradients = model.loss_and_grads(x, y, rng=np.random.default_rng(3))
    params, W_y, b_y = named(model)
    seed = int(np.random.default_rng(3).integers(1 << 64, dtype=np.uint64))
    stacked = np.stack(x, axis=1)
    h = fastbptt.forward(params, stacked, noise=Noise(0.3, seed))
    expected, dy = mse(fastbptt.readout(W_y, b_y, h[-1]), y)
    assert value == pytest.approx(expected, rel=1e-12)
    *_, dh = fastbptt.readout_backward(W_y, h[-1], dy)
    dparams = fastbptt.backward(params, stacked, h, dh).params
    np.testing.assert_allclose(gradients["layers.0.W_h"], dparams.W_h, rtol=0, atol=1e-14)
    assert model.loss_and_grads(x, y)[0] == pytest.approx(model.evaluate(x, y), rel=1e-12)
    assert model.loss_and_grads(x, y)[0] != pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize("output", ["last", "all"])
@pytest.mark.parametrize("layers", [1, 3])
def test_checkpointed_gradients_have_the_same_noise(output, layers):
    model = build(output=output, noise=0.3, num_layers=layers)
    x, y = draw(model, (17, 3, 9))
    whole = model.loss_and_grads(x, y, rng=np.random.default_rng(3))
    few = model.loss_and_grads(x, y, rng=np.random.default_rng(3), checkpointed=True)
    assert few[0] == pytest.approx(whole[0], rel=1e-12)
    for name, gradient in whole[1].items():
        np.testing.assert_allclose(few[1][name], gradient, rtol=0, atol=1e-13)


def test_each_step_has_a_seed_of_its_own(monkeypatch):
    model, seen = build(noise=0.3), []
    original = type(model.network).draw_noise

    def watched(network, rng):
        seen.append(original(network, rng))
        return seen[-1]

    monkeypatch.setattr(type(model.network), "draw_noise", watched)
    fit(model, draw(model, EQUAL), epochs=3, batch_size=2)
    seeds = [noise.seed for noise in seen]
    assert len(set(seeds)) == len(seeds) == 9
    assert min(seeds) >= 0
    assert max(seeds) > 1 << 61


@pytest.mark.parametrize(
    "options",
    [{}, {"truncate": 2}, {"memory": "checkpointed"}, {"output": "all", "truncate": 3}],
)
def test_noisy_training_repeats_and_goes_on_to_the_bit(options, tmp_path):
    pytest.importorskip("safetensors")
    options = dict(options)
    of_model = {"output": options.pop("output", "last"), "noise": 0.2, "num_layers": 2}

    def train(epochs, **more):
        model = build(**of_model)
        history = fit(model, draw(model, (7, 4, 6, 2, 5)), epochs=epochs, batch_size=2,
                      **options, **more)  # fmt: skip
        return bits(model), history

    whole, course = train(4)
    assert train(4)[0] == whole
    assert train(4, seed=8)[0] != whole
    train(2, checkpoint=tmp_path / "run")
    again, its_course = train(4, checkpoint=tmp_path / "run")
    assert again == whole
    assert_same_course(its_course, course)
    quiet = build(**{**of_model, "noise": 0.0})
    fit(quiet, draw(quiet, (7, 4, 6, 2, 5)), epochs=4, batch_size=2, **options)
    assert bits(quiet) != whole


def test_without_noise_nothing_else_is_drawn():
    """Dropout's generator gives the same as before there was noise."""
    model = build(num_layers=2, dropout=0.5)
    rng = np.random.default_rng(3)
    assert model.network.draw_noise(rng) is None
    assert rng.bit_generator.state == np.random.default_rng(3).bit_generator.state
    assert build(noise=0.1).network.draw_noise(None) is None


# Predictions


def test_predictions_are_noisy_if_asked_to_be():
    model = build(noise=0.3)
    x, _ = draw(model, EQUAL)
    params, W_y, b_y = named(model)
    stacked = np.stack(x, axis=1)
    quiet = fastbptt.readout(W_y, b_y, fastbptt.forward(params, stacked)[-1])
    np.testing.assert_allclose(model.predict(x), quiet, rtol=0, atol=1e-14)
    noise = Noise(np.array([0.1, 0.2, 0.3, 0.0]), 9)
    noisy = fastbptt.readout(W_y, b_y, fastbptt.forward(params, stacked, noise=noise)[-1])
    np.testing.assert_allclose(model.predict(x, noise=noise), noisy, rtol=0, atol=1e-14)
    assert np.abs(noisy - quiet).max() > 1e-3


def test_a_sequences_noise_does_not_depend_on_the_others():
    """Nor on how many are computed together."""
    model = build(noise=0.3, output="all", num_layers=2, bidirectional=True)
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((300, 4, 2)), Noise(0.3, 1)
    whole = model.predict(x, noise=noise)
    np.testing.assert_array_equal(model.predict(x[:7], noise=noise), whole[:7])
    last = model.predict(x[280:], noise=noise.at(sequence=280))
    np.testing.assert_array_equal(last, whole[280:])


def test_pieces_of_a_series_have_its_noise():
    model = build(noise=0.3, output="all", num_layers=2)
    x, noise = np.random.default_rng(0).standard_normal((3, 10, 2)), Noise(0.3, 1)
    whole, state = model.predict(x, noise=noise), None
    for first in (0, 4, 8):
        piece, state = model.predict(
            x[:, first : first + 4], state=state, return_state=True, noise=noise.at(step=first)
        )
        np.testing.assert_array_equal(piece, whole[:, first : first + 4])


def test_states_are_those_of_noisy_predictions():
    model = build(noise=0.3, output="all", num_layers=2)
    x, noise = np.random.default_rng(0).standard_normal((300, 4, 2)), Noise(0.3, 1)
    *_, top = model.states(x, noise=noise)
    _, W_y, b_y = named(model)
    np.testing.assert_allclose(top @ W_y + b_y, model.predict(x, noise=noise), rtol=0, atol=1e-14)
    assert np.abs(top - model.states(x)[-1]).max() > 0.1


def test_layers_and_directions_have_noise_of_their_own():
    """The states of two layers with equal weights, and no inputs, differ."""
    model = build(output="all", num_layers=2, bidirectional=True, hidden_size=4)
    model.network.vector[...] = 0
    passed = model.network.stack.forward(np.zeros((5, 2, 2)), noise=Noise(0.3, 1))
    drawn = [h[1:].ravel() for h in passed.h]
    for i, a in enumerate(drawn):
        for b in drawn[:i]:
            assert np.abs(a - b).min() > 0


# Files and errors


def test_files_keep_the_noise(tmp_path):
    pytest.importorskip("safetensors")
    model = build(noise=0.25)
    fastbptt.save(model, tmp_path / "model")
    assert fastbptt.load(tmp_path / "model").noise == 0.25
    assert "noise=0.25" in repr(model)


@pytest.mark.parametrize(
    ("noise", "error", "message"),
    [
        (-0.1, ValueError, "noise is -0.1, expected at least 0"),
        (float("nan"), ValueError, "noise is nan"),
        ("0.1", TypeError, "noise is '0.1', expected a number"),
        (Noise(0.1, 0), TypeError, "expected a number"),
    ],
)
def test_wrong_noise_of_a_model(noise, error, message):
    with pytest.raises(error, match=message):
        build(noise=noise)


def test_wrong_noise_of_a_prediction():
    model = build(noise=0.1)
    x, _ = draw(model, EQUAL)
    with pytest.raises(TypeError, match="noise is a float, expected a fastbptt"):
        model.predict(x, noise=0.1)
    with pytest.raises(ValueError, match=r"scale of shape \(3,\), expected \(4,\)"):
        model.predict(x, noise=Noise(np.ones(3), 0))
