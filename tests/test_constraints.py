"""Constraints of weights: the chain rule, and what they promise after any number of steps."""

import copy
import json
import pickle
import re
from typing import Any

import numpy as np
import pytest
from measure import central_differences
from test_storage import contents, write
from trainings import EQUAL, OPTIMIZER, RAGGED, Recorder, draw, fit, interrupting

import fastbptt
from fastbptt import RNN, SGD, Adam, Constraints, losses

I, H, O = 2, 6, 3
RNG = np.random.default_rng(5)
CONNECTED = RNG.random((H, H)) < 0.6
STILL = RNG.random((H, H)) < 0.3
SIGNS = np.array([1, -1, 1, 1, -1, -1])
SOME_OUTPUTS = np.arange(H * O).reshape(H, O) % 3 > 0
KINDS = {
    "mask": {"mask": {"W_h": CONNECTED, "W_y": SOME_OUTPUTS.astype(int)}},
    "no self-connections": {"self_connections": False},
    "Dale, abs": {"dale": 0.5, "nonnegative": ("layers.0.W_x", "W_y")},
    "Dale, relu": {"dale": SIGNS, "nonnegative": "W_y", "magnitude": "relu"},
    "fixed": {"fixed": {"W_h": STILL, "W_y": SOME_OUTPUTS}},
    "fixed arrays": {"fixed": ("W_x", "b_y")},
    "rank": {"rank": 2},
    "all": {
        "mask": {"W_h": CONNECTED, "b": np.arange(H) % 3 > 0, "W_y": SOME_OUTPUTS},
        "self_connections": False,
        "dale": SIGNS.tolist(),
        "fixed": {"layers.0.W_h": STILL, "b_y": [0, 1, 0]},
        "nonnegative": ("W_y", "layers.0.W_x"),
    },
}
KIND = pytest.mark.parametrize("given", list(KINDS.values()), ids=list(KINDS))
OPTIONS = pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 2, "output": "all"}, {"num_layers": 2, "bidirectional": True}],
    ids=["one layer", "stacked", "both directions"],
)


def build(given, dtype="float64", **options):
    if options.get("bidirectional"):  # a readout of twice as many states
        given = copy.deepcopy(given)
        for argument in ("mask", "fixed"):
            if "W_y" in given.get(argument, ()):
                given[argument]["W_y"] = np.tile(given[argument]["W_y"], (2, 1))
    constraints = Constraints(**given)
    return RNN(I, H, O, **{"dtype": dtype, "seed": 0, "constraints": constraints, **options})


def weights_of(model):
    return {name: a.copy() for name, a in model.parameters().items()}


def assert_promised(model, before):
    """Check all that a model's constraints promise, to the bit; `before`: its first weights."""
    given, D = model.constraints, 1 + model.bidirectional
    signs = given.dale
    if isinstance(signs, float):
        signs = np.where(np.arange(H) < signs * H, 1, -1)
    for rule in model.network.rules:
        trained = getattr(rule, "trained", None)
        assert trained is None or not model.free_parameters()[rule.name][~trained].any()
    for name, W in model.parameters().items():
        end, layer = name.rpartition(".")[2], name.split(".")[1:2]
        assert np.isfinite(W).all()
        if end in given.mask:
            assert not W[~given.mask[end]].any(), name
        if end == "W_h" and not given.self_connections:
            assert not W.diagonal().any(), name
        if signs is not None and end == "W_h":
            assert (W * signs[:, np.newaxis] >= 0).all(), name
        if signs is not None and end == "W_x" and layer != ["0"]:
            assert (W * np.tile(signs, D)[:, np.newaxis] >= 0).all(), name
        if {end, name} & {*given.nonnegative}:
            assert (W >= 0).all(), name
        for key in {end, name} & {*given.fixed}:
            still = given.fixed[key] if isinstance(given.fixed, dict) else np.ones(W.shape, bool)
            assert W[still].tobytes() == before[name][still].tobytes(), name
        if given.rank is not None and end == "W_h":
            M, N = model.free_parameters()[name]
            assert M.shape == N.shape == (H, given.rank)
            np.testing.assert_allclose(W, M @ N.T, rtol=0, atol=1e-6 * np.abs(W).max())


# The chain rule


@KIND
@OPTIONS
def test_gradient_through_the_constraints(given, options):
    """Against central differences by what is trained, wherever that is."""
    model, rng = build(given, **options), np.random.default_rng(3)
    net, out = model.network, model.network.new_gradient()
    net.set_free(rng.standard_normal(net.free.size))
    out.memory[...] = np.nan
    x, shape = rng.standard_normal((4, 3, I)), (4, 3, O) if model.output == "all" else (3, O)
    data = x, rng.standard_normal(shape), np.array([4, 0, 3])

    def loss():
        net.refresh()
        return net.loss_and_gradient(*data, losses.mse, out=out)[0]

    loss()
    net.chain(out)
    got = out.free.copy()
    expected = central_differences(loss, net.free)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-8 * np.abs(expected).max())
    assert (expected != 0).sum() > 20


@KIND
def test_objective_of_what_is_trained(given):
    """For optimizers of other libraries."""
    model = build(given, train_initial_state=True)
    before, data = weights_of(model), draw(model, RAGGED)
    f, start = model.objective(*data), model.vector.copy()
    value, got = f(start)
    expected = central_differences(lambda: f(start)[0], start)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-8 * np.abs(expected).max())
    assert value == pytest.approx(model.evaluate(*data), rel=1e-12)
    after = start - 0.05 * got
    assert f(after)[0] < value
    np.testing.assert_array_equal(model.vector, start)
    model.vector = after
    assert f(after)[0] == pytest.approx(model.evaluate(*data), rel=1e-12)
    assert_promised(model, before)
    with pytest.raises(ValueError, match="read-only"):
        model.vector[0] = 1
    assert model.summary().splitlines()[-1].split()[1] == str(model.vector.size)


def test_an_excitatory_inhibitory_network_of_potentials(tmp_path):
    """As neuroscience trains them: leaky, noisy, with Dale's law; resumed to the bit."""
    options = {"output": "all", "activation": "relu", "leak": fastbptt.Leak(0.2, "potential"),
               "noise": 0.1, "train_initial_state": True, "spectral_radius": 1.5}  # fmt: skip
    at_once, in_parts, other = (build(KINDS["all"], "float32", **options) for _ in range(3))
    before, path = weights_of(at_once), tmp_path / "run"
    data, given = draw(at_once, RAGGED), {"batch_size": 4, "clip_norm": 1.0}
    fit(at_once, data, epochs=20, **given)
    fit(in_parts, data, epochs=7, checkpoint=path, **given)
    fit(other, data, epochs=20, checkpoint=path, **given)
    assert other.network.memory.tobytes() == at_once.network.memory.tobytes()
    assert_promised(other, before)
    loaded = fastbptt.load(path)
    assert loaded.network.memory.tobytes() == other.network.memory.tobytes()
    assert repr(loaded) == repr(other)


def test_two_steps_by_hand():
    """h = -|theta| x, loss (h - y)²: with x = 1, y = 1, dtheta = -2 (h - 1) sign(theta)."""
    given = Constraints(dale=[-1], mask={"W_x": [[0]], "b": [0], "b_y": [0]}, fixed="W_y")
    model = RNN(1, 1, 1, activation="identity", dtype="float64", constraints=given)
    model.set_parameters({"W_y": [[1]], "layers.0.W_h": [[-0.5]]})
    model = pickle.loads(pickle.dumps(model))  # with a state h0 = 1 in the place of an input
    net, optimizer = model.network, SGD(0.25)
    for theta, step in ((0.5, 0.75), (-0.25, -0.625)):
        x, y, one = np.zeros((1, 1, 1)), np.ones((1, 1)), [np.ones((1, 1))]
        out = net.new_gradient()
        value, *_ = net.loss_and_gradient(x, y, None, losses.mse, state=one, out=out)
        assert value == (abs(theta) + 1) ** 2
        net.chain(out)
        assert out.theta["layers.0.W_h"] == 2 * (abs(theta) + 1) * np.sign(theta)
        optimizer.step({"weights": net.free}, {"weights": out.free})
        net.refresh()
        assert net.weights.theta["layers.0.W_h"] == theta - step
        assert model.parameters()["layers.0.W_h"] == -abs(theta - step)


def test_relu_stops_at_zero():
    model = RNN(1, 2, 1, constraints=Constraints(nonnegative="W_y", magnitude="relu"), seed=0)
    model.network.weights.theta["W_y"][...] = [[0.5], [-0.25]]
    model.network.refresh()
    assert model.parameters()["W_y"].tolist() == [[0.5], [0]]
    fit(model, ([[1.0], [2.0]], [3.0, 5.0]), epochs=3, optimizer=SGD(0.01))
    W, theta = model.parameters()["W_y"], model.free_parameters()["W_y"]
    assert W[0] == theta[0] != 0.5
    assert (W[1], theta[1]) == (0, -0.25)


def test_a_weight_of_zero_moves_on():
    """With "abs", unlike where the derivative of abs at 0 is taken to be 0."""
    model = RNN(1, 2, 1, constraints=Constraints(nonnegative="W_y"), seed=0)
    model.set_parameters({"W_y": np.zeros((2, 1))})
    fit(model, ([[1.0], [2.0]], [3.0, 5.0]), epochs=3)
    assert (model.parameters()["W_y"] > 0).all()


@pytest.mark.parametrize("magnitude", ["abs", "relu"])
def test_training_agrees_with_torch(magnitude):
    """Dale's law, a mask and fixed entries, as a loop over time, for steps of Adam."""
    torch = pytest.importorskip("torch")
    given = {**KINDS["all"], "magnitude": magnitude, "fixed": {"layers.0.W_h": STILL}}
    model = build(given, output="all")
    x, y = draw(model, EQUAL)
    x, y = np.stack(x), np.stack(y)
    start = {name: a.copy() for name, a in model.free_parameters().items()}
    W0 = torch.tensor(model.parameters()["layers.0.W_h"].copy())
    fit(model, (x, y), epochs=60, batch_size=len(x), optimizer=Adam(0.02))

    theta = {name: torch.tensor(a, requires_grad=True) for name, a in start.items()}
    optimizer, mask = (
        torch.optim.Adam(theta.values(), 0.02),
        torch.tensor(CONNECTED & ~np.eye(H, dtype=bool)),
    )
    positive = torch.abs if magnitude == "abs" else torch.relu
    signs, zero = torch.tensor(SIGNS)[:, None], torch.tensor(0.0, dtype=torch.float64)
    inputs, target, still = torch.tensor(x), torch.tensor(y), torch.tensor(STILL)
    for _ in range(60):
        W_h = torch.where(still, W0, signs * positive(theta["layers.0.W_h"]))
        W_h = torch.where(mask, W_h, zero)
        W_x = positive(theta["layers.0.W_x"])
        b = torch.where(torch.tensor(np.arange(H) % 3 > 0), theta["layers.0.b"], zero)
        W_y = torch.where(torch.tensor(SOME_OUTPUTS), positive(theta["W_y"]), zero)
        h, error = torch.zeros(len(x), H, dtype=torch.float64), zero
        for t in range(x.shape[1]):
            h = torch.tanh(inputs[:, t] @ W_x + h @ W_h + b)
            error = error + ((h @ W_y + theta["b_y"] - target[:, t]) ** 2).sum()
        optimizer.zero_grad()
        (error / target.numel()).backward()
        optimizer.step()
    for name, a in model.free_parameters().items():
        expected = theta[name].detach().numpy()
        np.testing.assert_allclose(a, expected, rtol=0, atol=1e-9, err_msg=name)
    assert np.abs(start["layers.0.W_h"] - model.free_parameters()["layers.0.W_h"]).max() > 0.1


# What is promised


@KIND
@OPTIMIZER
def test_promises_hold_after_hundreds_of_steps(given, optimizer):
    model = build(given, "float32", num_layers=2, output="all")
    before = weights_of(model)
    assert_promised(model, before)
    options = {"l1": 0.001, "l2": {"W_h": 0.01}, "clip_norm": 0.5, "patience": 1000}
    fit(model, draw(model, RAGGED), epochs=100, batch_size=4, optimizer=optimizer(), **options)
    assert_promised(model, before)
    moved = [n for n, W in model.parameters().items() if np.mean(before[n] != W) > 1 / 3]
    assert len(moved) >= 4, moved


@KIND
def test_promises_hold_with_windows_and_both_directions(given):
    for options in ({"truncate": 2}, {"memory": "checkpointed"}, {}):
        model = build(given, "float32", bidirectional=not options, num_layers=2, output="all")
        before = weights_of(model)
        fit(model, draw(model, RAGGED), epochs=5, batch_size=4, **options)
        assert_promised(model, before)


@KIND
def test_training_goes_on_from_a_file(given, tmp_path):
    """To the bit, in another model, whose own fixed weights are others."""
    options = {"batch_size": 4, "patience": 9, "l2": 0.01, "frozen": "b_y"}
    at_once, in_parts, other = build(given), build(given), build(given, seed=1)
    before, path = weights_of(at_once), tmp_path / "run"
    data = draw(at_once, RAGGED)
    fit(at_once, data, epochs=4, **options)
    fit(in_parts, data, epochs=2, checkpoint=path, **options)
    fit(other, data, epochs=4, checkpoint=path, **options)
    assert other.network.memory.tobytes() == at_once.network.memory.tobytes()
    assert_promised(other, before)
    kept = fastbptt.load(path)  # its best weights, as the model has them
    assert kept.network.memory.tobytes() == other.network.memory.tobytes()
    for constraints in (None, Constraints(self_connections=False, magnitude="relu")):
        model = build({}, constraints=constraints)
        before = model.network.memory.copy()
        with pytest.raises(ValueError, match="is of a training with constraints = "):
            fit(model, data, epochs=5, checkpoint=path, **options)
        np.testing.assert_array_equal(model.network.memory, before)


@KIND
def test_copies_and_files_are_the_same_model(given, tmp_path):
    model = build(given, "float32", num_layers=2)
    fit(model, draw(model, EQUAL), epochs=2)
    fastbptt.save(model, tmp_path / "model")
    x = draw(model, RAGGED)[0]
    for other in (
        fastbptt.load(tmp_path / "model"),
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
    ):
        assert other.config() == model.config()
        assert other.constraints == model.constraints
        assert repr(other) == repr(model)
        assert other.network.memory.tobytes() == model.network.memory.tobytes()
        np.testing.assert_array_equal(other.predict(x), model.predict(x))
        before = model.network.memory.copy()
        fit(other, draw(model, EQUAL), epochs=1)
        np.testing.assert_array_equal(model.network.memory, before)


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_frozen_weights_with_constraints(backend):
    for given in (KINDS["rank"], KINDS["all"]):
        model = build(given, num_layers=2, backend=backend)
        before, theta = weights_of(model), copy.deepcopy(model.free_parameters())
        fit(model, draw(model, EQUAL), epochs=3, frozen="layers.0.W_h")
        for name, W in model.parameters().items():
            same = name == "layers.0.W_h"
            assert (W.tobytes() == before[name].tobytes()) == same, name
            found = model.free_parameters()[name].tobytes()
            assert (found == theta[name].tobytes()) == same, name


class CutShort(Recorder):
    """Ctrl-C once the optimizer has changed what is trained, and nothing was computed from it."""

    def step(self, parameters, gradients):
        super().step(parameters, gradients)
        if len(self.steps_taken) == 5:
            raise KeyboardInterrupt


@KIND
def test_an_interrupt_leaves_a_usable_model(given, ctrl_c):
    for options in ({"optimizer": CutShort(0.1)}, {"loss": interrupting(4)}):
        model = build(given)
        before = weights_of(model)
        assert fit(model, draw(model, EQUAL), batch_size=2, **options).stopped == "interrupted"
        assert_promised(model, before)
        found = weights_of(model)
        model.network.refresh()
        for name, W in weights_of(model).items():
            assert W.tobytes() == found[name].tobytes(), "it was not computed anew"


@KIND
def test_divergence_gives_back_the_last_finite_weights(given):
    model = build(given, activation="identity")
    before = weights_of(model)
    with pytest.raises(FloatingPointError, match="the model keeps the last weights"):
        fit(model, draw(model, EQUAL), optimizer=SGD(1e200))
    assert_promised(model, before)


def test_minibatches_in_pieces():
    """The sum of the pieces' gradients of the weights goes through the chain rule once."""
    models = [build(KINDS["all"]) for _ in range(2)]
    for model, shares in zip(models, (None, 3), strict=True):
        fit(model, draw(model, EQUAL), epochs=2, batch_size=4, shares=shares)
    whole, pieces = (model.network.memory for model in models)
    np.testing.assert_allclose(pieces, whole, rtol=1e-9, atol=1e-12)


# Without constraints nothing changes


def test_no_constraint_costs_nothing():
    plain, none, options = (
        RNN(I, H, O, seed=0),
        build({}, "float32"),
        {"epochs": 2, "batch_size": 4},
    )
    for model in (plain, none):
        assert not model.network.rules
        assert model.network.memory is model.network.free
        assert model.network.vector.size == model.network.memory.size
        fit(model, draw(model, RAGGED), **options)
    assert plain.network.memory.tobytes() == none.network.memory.tobytes()
    assert none.parameters()["layers.0.W_h"].flags.writeable
    everything = Constraints(mask={"W_h": np.ones((H, H))}, fixed={"W_y": np.zeros((H, O))})
    assert not RNN(I, H, O, constraints=everything).network.rules


def test_a_model_has_its_weights_without_constraints_too():
    """Those that are not constrained are the same, and one array for both."""
    plain, model = RNN(I, H, O, seed=0), build({"nonnegative": "W_y"}, "float32")
    for name, a in model.parameters().items():
        expected = plain.parameters()[name]
        np.testing.assert_array_equal(a, np.abs(expected) if name == "W_y" else expected)
    for name, a in model.free_parameters().items():
        assert np.shares_memory(a, model.parameters()[name]) == (name != "W_y")
    x = np.ones((1, 3, I))
    before = model.predict(x)
    model.parameters()["b_y"][...] += 1
    np.testing.assert_allclose(model.predict(x), before + 1, rtol=1e-6)
    fit(model, draw(model, EQUAL), epochs=0)
    np.testing.assert_allclose(model.predict(x), before + 1, rtol=1e-6)


# Initial weights


def radius_of(W):
    return np.abs(np.linalg.eigvals(W.astype(np.float64))).max()


@pytest.mark.parametrize("radius", [None, 0.5, 1.5])
@KIND
def test_spectral_radius(given, radius):
    model = build(given, "float32", num_layers=2, bidirectional=True, spectral_radius=radius)
    W_h = [W for name, W in model.parameters().items() if name.endswith("W_h")]
    for W in W_h:
        assert radius_of(W) == pytest.approx(radius or 1, rel=1e-4)
    assert len({W.tobytes() for W in W_h}) == 4
    assert RNN(**model.config()).spectral_radius == radius


def test_spectral_radius_without_constraints():
    plain, model = RNN(I, H, O, seed=0), RNN(I, H, O, seed=0, spectral_radius=1.5)
    for name, a in model.parameters().items():
        factor = 1.5 if name.endswith("W_h") else 1
        np.testing.assert_array_equal(a, plain.parameters()[name] * np.float32(factor))


def test_excitation_and_inhibition_in_balance():
    model = RNN(3, 100, 2, num_layers=2, constraints=Constraints(dale=0.8), seed=0)
    for name in ("layers.0.W_h", "layers.1.W_x", "layers.1.W_h"):
        W = model.parameters()[name]
        np.testing.assert_allclose(W.sum(axis=0), 0, atol=1e-4)
        assert (W[:80] > 0).all()
        assert (W[80:] < 0).all()
    # A gamma distribution of shape 2: the variance is half the square of the mean.
    W = model.parameters()["layers.0.W_h"][:80]
    assert W.var() / W.mean() ** 2 == pytest.approx(0.5, abs=0.05)


def test_units_without_inhibition_keep_their_excitation():
    mask = np.ones((4, 4))
    mask[3, :2] = 0
    model = RNN(1, 4, 1, constraints=Constraints(dale=[1, 1, 1, -1], mask={"W_h": mask}), seed=0)
    W = model.parameters()["layers.0.W_h"]
    assert (W[:3] > 0).all()
    np.testing.assert_allclose(W.sum(axis=0)[2:], 0, atol=1e-6)


def test_low_rank_begins_with_eigenvalues_on_the_unit_circle():
    model = RNN(3, 40, 2, constraints=Constraints(rank=5), seed=0)
    W = model.parameters()["layers.0.W_h"]
    eigenvalues = np.sort(np.abs(np.linalg.eigvals(W.astype(np.float64))))[::-1]
    np.testing.assert_allclose(eigenvalues[:5], 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.svd(W)[1], [1] * 5 + [0] * 35, atol=1e-6)
    fit(model, (np.ones((8, 5, 3)), np.ones((8, 2))), epochs=20)
    singular = np.linalg.svd(model.parameters()["layers.0.W_h"])[1]
    assert (singular[5:] < 1e-6 * singular[0]).all()


def test_without_a_cycle():
    """Such weights have no radius to scale to; they are drawn and trained as any others."""
    given = {"mask": {"W_h": np.triu(np.ones((H, H)), 1)}}
    model = build(given)
    before = weights_of(model)
    fit(model, draw(model, EQUAL), epochs=3)
    assert_promised(model, before)
    assert 0.01 < np.abs(before["layers.0.W_h"]).max() <= 1
    with pytest.raises(ValueError, match=r"spectral_radius is 1\.5, but the mask leaves layers"):
        build(given, spectral_radius=1.5)


def test_weights_repeat_by_seed():
    for given in KINDS.values():
        models = [build(given, seed=seed) for seed in (1, 1, 2)]
        first, second, third = (model.network.memory.tobytes() for model in models)
        assert first == second != third


# Which weights


def test_constraints_by_layer_and_direction():
    given = Constraints(
        dale={"layers.0": 0.5}, rank={"layers.1.W_h": 1}, mask={"layers.1.reverse.b": np.zeros(H)}
    )
    options = {"num_layers": 3, "bidirectional": True, "constraints": given}
    rules = {rule.name: rule for rule in RNN(I, H, O, **options).network.rules}
    assert [*rules] == [
        "layers.0.W_h", "layers.0.reverse.W_h", "layers.1.W_x", "layers.1.W_h",
        "layers.1.reverse.W_x", "layers.1.reverse.b",
    ]  # fmt: skip
    sign: Any = vars(rules["layers.1.W_x"])["sign"]
    assert sign.ravel().tolist() == [1, 1, 1, -1, -1, -1] * 2


def test_dale_of_one_direction_leaves_the_other():
    given = Constraints(dale={"layers.0.W_h": SIGNS})
    model = RNN(I, H, O, num_layers=2, bidirectional=True, constraints=given, seed=0)
    fit(model, draw(model, EQUAL), epochs=30)
    W = model.parameters()["layers.1.W_x"]
    assert (W[:H] * SIGNS[:, np.newaxis] >= 0).all()
    for row in W[H:]:
        assert (row > 0).any()
        assert (row < 0).any()


def test_share_of_excitatory_units():
    for share, units, excitatory in ((0.8, 10, 8), (0.75, 2, 2), (0.8, 3, 2), (0.01, 64, 1)):
        given = Constraints(dale=share)
        if excitatory in (0, units):
            with pytest.raises(ValueError, match=f"dale is {share} of {units} units, which makes"):
                RNN(1, units, 1, constraints=given)
            continue
        W = RNN(1, units, 1, constraints=given, seed=0).parameters()["layers.0.W_h"]
        assert (W > 0).all(axis=1).tolist() == [True] * excitatory + [False] * (units - excitatory)


# Setting weights


def test_constrained_weights_are_read_only():
    model = build(KINDS["all"])
    for name, a in {**model.parameters(), **model.free_parameters()}.items():
        assert a.flags.writeable == (name not in model.network.weights.theta), name
    with pytest.raises(ValueError, match="read-only"):
        model.parameters()["W_y"][0, 0] = 1
    model.network.refresh()


@KIND
def test_set_parameters(given):
    model, other = build(given), build(given, seed=1)
    fit(other, draw(other, EQUAL), epochs=5)
    values = {
        n: a for n, a in other.parameters().items() if given != KINDS["rank"] or "W_h" not in n
    }
    model.set_parameters(values)
    for name, a in values.items():
        np.testing.assert_array_equal(model.parameters()[name], a)
    before = weights_of(model)
    model.network.refresh()
    for name, a in before.items():
        np.testing.assert_array_equal(model.parameters()[name], a)
    fit(model, draw(model, EQUAL), epochs=2)
    assert_promised(model, before)


def test_set_low_rank():
    model = build(KINDS["rank"])
    M, N = np.arange(12.0).reshape(H, 2), np.arange(12.0).reshape(2, H).T
    model.set_parameters({"layers.0.W_h": [M.tolist(), N.tolist()], "b_y": [1, 2, 3]})
    np.testing.assert_array_equal(model.parameters()["layers.0.W_h"], M @ N.T)
    np.testing.assert_array_equal(model.parameters()["b_y"], [1, 2, 3])
    with pytest.raises(ValueError, match=re.escape("(6, 6), expected (2, 6, 2): M and N")):
        model.set_parameters({"layers.0.W_h": np.ones((H, H))})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layers.0.W_h": np.ones((H, H))}, "layers.0.W_h is not 0 where its mask is"),
        ({"layers.0.W_h": -np.diag(SIGNS.astype(float))}, "is not 0 where its mask is"),
        ({"W_y": np.where(SOME_OUTPUTS, -1, 0)}, "W_y has weights of the wrong sign"),
        ({"W_q": [1.0]}, "'W_q' is set, expected one of layers.0.W_x, "),
        ({"b_y": np.zeros(2)}, re.escape("b_y has shape (2,), expected (3,)")),
        ({"b_y": ["a", "b", "c"]}, "b_y"),
    ],
)
def test_weights_that_are_not_set(values, message):
    model = build(KINDS["all"])
    before = model.network.memory.copy()
    with pytest.raises((TypeError, ValueError), match=message):
        model.set_parameters({"layers.0.b": np.zeros(H), **values})
    np.testing.assert_array_equal(model.network.memory, before)


# Other libraries


@KIND
def test_other_libraries_get_the_weights(given):
    model = build(given, "float32")
    again = RNN.from_keras(model.to_keras())
    for name, a in model.parameters().items():
        np.testing.assert_array_equal(again.parameters()[name], a)
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((3, 5, I), np.float32)
    with torch.no_grad():
        got = model.to_torch().eval()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(got, model.predict(x), rtol=1e-4, atol=1e-5)


# Errors


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mask": np.ones((H, H))}, "mask is a ndarray, expected a mapping"),
        ({"mask": {"W_h": np.full((H, H), 2)}}, r"mask\['W_h'\] holds other values than 0 and 1"),
        ({"mask": {"W_h": np.full((H, H), np.nan)}}, r"mask\['W_h'\] holds other values"),
        ({"mask": {"W_h": [["a"]]}}, r"mask\['W_h'\] has dtype"),
        ({"mask": {"W_h": [[1], [1, 0]]}}, r"mask\['W_h'\] is ragged"),
        (
            {"mask": {"W_h": np.ones((3, H))}},
            r"mask\['W_h'\] has shape \(3, 6\), expected \(6, 6\)",
        ),
        ({"mask": {"W_q": np.ones((H, H))}}, "mask has 'W_q', expected a name of weights"),
        ({"mask": {0: np.ones((H, H))}}, "mask has 0, expected a name of weights"),
        (
            {"mask": {"W_h": CONNECTED, "layers.1.W_h": CONNECTED}},
            "mask names layers.1.W_h twice, with 'layers.1.W_h'",
        ),
        ({"self_connections": "no"}, "self_connections is 'no', expected True or False"),
        ({"dale": 0}, r"dale is 0.0, expected a share of excitatory units above 0 and below 1"),
        ({"dale": 1.0}, "dale is 1.0, expected a share"),
        ({"dale": 80}, "dale is 80.0, expected a share"),
        ({"dale": np.nan}, "dale is nan, expected a share"),
        ({"dale": True}, "dale is True, expected a number"),
        ({"dale": "0.8"}, "dale is '0.8', expected a number"),
        ({"dale": [1, 0, 1, 1, -1, -1]}, "dale is .*, expected a share, or 1 or -1 for each unit"),
        ({"dale": [True] * H}, "dale is .*, expected a share, or 1 or -1"),
        ({"dale": [[1] * H]}, "dale is .*, expected a share, or 1 or -1"),
        ({"dale": [1, [1]]}, "dale is ragged"),
        ({"dale": [1, -1]}, r"dale has shape \(2,\), expected \(6,\): a sign for each unit"),
        ({"dale": {"layers.0": [1]}}, r"dale\['layers.0'\] has shape \(1,\), expected \(6,\)"),
        ({"dale": {"W_y": 0.8}}, "dale has 'W_y', expected one of layers.0.W_h, layers.1.W_h"),
        ({"dale": {"W_q": 0.8}}, "dale has 'W_q', expected a name of weights"),
        ({"dale": 0.99}, "dale is 0.99 of 6 units, which makes 6 of them excitatory"),
        (
            {"dale": SIGNS, "mask": {"W_h": np.repeat(SIGNS[:, None] > 0, H, axis=1)}},
            "dale makes 3 units inhibitory, but mask leaves them no connection in layers.0.W_h",
        ),
        (
            {"dale": [1] + [-1] * 5, "self_connections": False, "mask": {"W_h": np.eye(H)}},
            "dale makes 1 units excitatory, but mask leaves them no connection",
        ),
        ({"nonnegative": 1}, "nonnegative is 1, expected names of weights"),
        ({"nonnegative": [1]}, r"nonnegative is \[1\], expected names of weights"),
        ({"nonnegative": "W"}, "nonnegative has 'W', expected a name of weights"),
        (
            {"dale": 0.5, "nonnegative": "W_h"},
            "nonnegative has 'W_h', but dale gives layers.0.W_h signs",
        ),
        (
            {"dale": 0.5, "nonnegative": "W_x"},
            "nonnegative has 'W_x', but dale gives layers.1.W_x signs",
        ),
        ({"fixed": 3}, "fixed is 3, expected names of weights, or a mapping"),
        ({"fixed": "W"}, "fixed has 'W', expected a name of weights"),
        ({"fixed": {"W_y": np.ones(3)}}, r"fixed\['W_y'\] has shape \(3,\), expected \(6, 3\)"),
        ({"rank": 0}, "rank is 0, expected at least 1"),
        ({"rank": 7}, "rank is 7, expected at most 6: H of layers.0.W_h"),
        ({"rank": 1.5}, "rank is 1.5, expected an integer"),
        ({"rank": {"layers.1": 7}}, r"rank\['layers.1'\] is 7, expected at most 6"),
        ({"rank": {"W_y": 1}}, "rank has 'W_y', expected one of layers.0.W_h, layers.1.W_h"),
        ({"rank": 2, "dale": 0.5}, "rank names layers.0.W_h, which has a sign too"),
        ({"rank": 2, "nonnegative": "layers"}, "rank names layers.0.W_h, which has a sign too"),
        ({"rank": 2, "self_connections": False}, "which has mask or self_connections too"),
        ({"rank": 2, "fixed": "W_h"}, "rank names layers.0.W_h, which has fixed too"),
        ({"magnitude": "square"}, "magnitude is 'square', expected one of 'abs', 'relu'"),
        ({"ei": 0.8}, "unexpected argument 'ei', expected dale"),
    ],
    ids=str,
)
def test_errors_name_the_argument(given, message):
    with pytest.raises((TypeError, ValueError), match=message):
        RNN(I, H, O, num_layers=2, constraints=Constraints(**given))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"constraints": {"dale": 0.8}}, TypeError, r"constraints is .*, expected fastbptt.Constr"),
        ({"spectral_radius": 0}, ValueError, "spectral_radius is 0.0, expected above 0"),
        ({"spectral_radius": "1"}, TypeError, "spectral_radius is '1', expected a number"),
        ({"spectral_radius": np.inf}, ValueError, "spectral_radius is inf"),
    ],
)
def test_errors_of_the_model(options, error, message):
    with pytest.raises(error, match=message):
        RNN(I, H, O, **options)


def test_repr_and_equality():
    assert repr(Constraints()) == "Constraints()"
    given = Constraints(dale=0.8, self_connections=False, nonnegative=["W_y"], rank={"layers.1": 2})
    text = "self_connections=False, dale=0.8, nonnegative=('W_y',), rank={'layers.1': 2}"
    assert repr(given) == f"Constraints({text})"
    assert eval(repr(given)) == given != Constraints(dale=0.8)
    assert Constraints(dale=SIGNS) == Constraints(dale=SIGNS.tolist()) != Constraints(dale=-SIGNS)
    assert given != 1
    with pytest.raises(TypeError, match="unhashable"):
        hash(given)


# Files


@KIND
def test_config_goes_through_json(given):
    constraints = Constraints(**given)
    written = json.dumps(constraints.config())
    assert Constraints.from_config(json.loads(written)) == constraints


def saved(tmp_path, given=KINDS["all"]):
    path, model = tmp_path / "model", build(given, "float32")
    fit(model, draw(model, EQUAL), epochs=1)
    fastbptt.save(model, path)
    return path, *contents(path)


def test_what_a_file_holds(tmp_path):
    path, tensors, metadata = saved(tmp_path)
    model = fastbptt.load(path)
    assert metadata["version"] == "3", "earlier versions of fastbptt do not know constraints"
    for name, a in model.parameters().items():
        np.testing.assert_array_equal(tensors[name], a)
    theta = {f"theta.{name}": a for name, a in model.network.weights.theta.items()}
    assert tensors.keys() == {*model.parameters(), *theta}
    fastbptt.save(RNN(I, H, O), path)
    assert contents(path)[1]["version"] == "1"
    names = {"constraints", "train_initial_state", "spectral_radius"}
    assert not names & json.loads(contents(path)[1]["model"]).keys(), "as before there were any"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("theta.W_y"), "theta.W_y is missing"),
        (lambda t: t.update({"theta.b_y": t["theta.W_y"]}), "theta.b_y has shape"),
        (lambda t: t.update({"theta.W_q": t["theta.W_y"]}), "holds 'theta.W_q'"),
        (lambda t: t["layers.0.b"].fill(1), "layers.0.b is not 0 where its mask is"),
        (lambda t: t["W_y"].fill(-1), "W_y"),
    ],
    ids=["missing", "shape", "unknown", "mask", "sign"],
)
def test_weights_in_a_file_that_break_a_promise(change, message, tmp_path):
    path, tensors, metadata = saved(tmp_path)
    tensors = {name: a.copy() for name, a in tensors.items()}
    change(tensors)
    write(path, tensors, metadata)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}.*{message}"):
        fastbptt.load(path)


@pytest.mark.parametrize("where", [(), *((name,) for name in KINDS["all"]), ("mask", "W_h")])
def test_constraints_in_a_file_that_are_none(where, tmp_path):
    path, tensors, metadata = saved(tmp_path)
    others = [True, -1, 10**30, 0.5, float("nan"), "", "01", [], [1], [[1]], ["01", "1"], [None]]
    for other in [*others, {"W_h": 1}, {"W_h": "01"}, {"W_h": [["01", 1]]}, [{}]]:
        config = json.loads(metadata["model"])
        inner = config
        for name in ("constraints", *where)[:-1]:
            inner = inner[name]
        inner[("constraints", *where)[-1]] = other
        write(path, tensors, {**metadata, "model": json.dumps(config)})
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))}"):
            fastbptt.load(path)
