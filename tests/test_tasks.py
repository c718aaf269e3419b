"""Tasks: trials worked out by hand, what each condition means, and what an ideal observer gets."""

import math

import numpy as np
import pytest

import fastbptt
from fastbptt import tasks

ALL = [
    tasks.perceptual_decision, tasks.delayed_match_to_sample, tasks.context_dependent_integration,
    tasks.ready_set_go,
]  # fmt: skip
EACH = pytest.mark.parametrize("task", ALL, ids=lambda task: task.__name__)


def phi(z):
    """The normal distribution function."""
    return 0.5 * (1 + math.erf(z / math.sqrt(2)))


# Worked out by hand


def test_a_perceptual_decision():
    """Steps of 100 ms: two of fixation, three of stimulus, one of delay, two of decision."""
    found = tasks.perceptual_decision(
        40, seed=0, dt=100, fixation=200, stimulus=300, delay=100, decision=200, coherences=[50],
        noise=0, fixation_weight=0.25,
    )  # fmt: skip
    for choice, coherence, strong, weak in ((1, 50, 0.75, 0.25), (2, -50, 0.25, 0.75)):
        i = found.conditions["choice"].tolist().index(choice)
        expected = [
            [1, 1, 1, 1, 1, 1, 0, 0],
            [0, 0, strong, strong, strong, 0, 0, 0],
            [0, 0, weak, weak, weak, 0, 0, 0],
        ]
        np.testing.assert_array_equal(found.x[i].T, expected)
        np.testing.assert_array_equal(found.y[i], [0, 0, 0, 0, 0, 0, choice, choice])
        np.testing.assert_array_equal(found.weights[i], [0.25] * 6 + [1, 1])
        assert found.conditions["coherence"][i] == coherence
        assert found.conditions["decision"][i] == 6


def test_a_delayed_match_to_sample():
    """Of three stimuli; steps of 50 ms, periods of 1, 2, 1, 2 and 1."""
    found = tasks.delayed_match_to_sample(
        200, seed=1, dt=50, fixation=50, sample=100, delay=50, test=100, decision=50, stimuli=3,
        noise=0,
    )  # fmt: skip
    conditions = found.conditions
    pairs = set()
    for i in range(200):
        first, second = int(conditions["sample"][i]), int(conditions["test"][i])
        pairs.add((first, second))
        expected = np.zeros((4, 7))
        expected[0, :6] = 1
        expected[1 + first, 1:3] = 1
        expected[1 + second, 4:6] = 1
        np.testing.assert_array_equal(found.x[i].T, expected)
        choice = 1 if first == second else 2
        np.testing.assert_array_equal(found.y[i], [0] * 6 + [choice])
        assert (conditions["choice"][i], conditions["decision"][i]) == (choice, 6)
    assert len(pairs) == 9
    np.testing.assert_array_equal(found.weights, np.float32([[0.1] * 6 + [1]] * 200))


def test_a_context_dependent_integration():
    """Steps of 250 ms: one of fixation, three of stimulus, one of delay, one of decision."""
    found = tasks.context_dependent_integration(
        60, seed=2, dt=250, fixation=250, stimulus=750, delay=250, decision=250,
        coherences=[0.25, 0.5], noise=0,
    )  # fmt: skip
    seen = set()
    for i in range(60):
        motion, color, context, choice, decision = (
            found.conditions[name][i]
            for name in ("motion", "color", "context", "choice", "decision")
        )
        expected = [
            [0, motion, motion, motion, 0, 0],
            [0, color, color, color, 0, 0],
            [1 - context] * 6,
            [context] * 6,
        ]
        np.testing.assert_array_equal(found.x[i].T, expected)
        assert choice == np.sign(color if context else motion)
        np.testing.assert_array_equal(found.y[i, :, 0], [0, 0, 0, 0, 0, choice])
        np.testing.assert_array_equal(found.weights[i], np.float32([0.1, 0, 0, 0, 0, 1]))
        assert decision == 5
        seen |= {("motion", motion), ("color", color), ("context", context)}
    assert len(seen) == 4 + 4 + 2


def test_ready_set_go():
    """Steps of 100 ms: Ready at step 2, Set three steps later, Go four and a half, so four."""
    found = tasks.ready_set_go(
        1, seed=0, dt=100, fixation=200, intervals=[300], gains=[1.5], pulse=100, hold=100, noise=0
    )
    pulses = [0, 0, 1, 0, 0, 1, 0, 0, 0, 0]
    np.testing.assert_array_equal(found.x[0].T, [pulses, [1.5] * 10])
    np.testing.assert_array_equal(found.y[0, :, 0], [0, 0, 0, 0, 0, 0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_array_equal(found.weights, np.ones((1, 10)))
    assert {name: a[0] for name, a in found.conditions.items()} == {
        "interval": 300, "gain": 1.5, "ready": 2, "set": 5, "go": 9,
    }  # fmt: skip


def test_trials_of_unequal_length():
    """Behind its end a trial has no inputs and no weight."""
    found = tasks.ready_set_go(50, seed=3, noise=1)
    ready, at_set, go = (found.conditions[name] for name in ("ready", "set", "go"))
    assert set(ready) <= set(range(5, 16))
    assert len(set(ready)) > 5
    interval = found.conditions["interval"]
    np.testing.assert_array_equal(at_set - ready, interval / 20)
    assert set(interval) <= {500, 580, 660, 760, 840, 920, 1000}
    np.testing.assert_array_equal(go - at_set, np.rint(interval / 20 * found.conditions["gain"]))
    ends = go + 10
    assert found.x.shape[1] == ends.max()
    lasts = np.arange(ends.max()) < ends[:, None]
    np.testing.assert_array_equal(found.weights, lasts)
    np.testing.assert_array_equal(found.x[..., 1] > 0, lasts)
    assert not found.x[~lasts].any()
    rows = np.arange(50)
    np.testing.assert_array_equal(found.y[rows, at_set, 0], 0)
    np.testing.assert_array_equal(found.y[rows, go, 0], 1)
    assert (found.y[rows, go - 1, 0] < 1).all()


def test_a_period_may_be_random():
    found = tasks.delayed_match_to_sample(300, seed=4, dt=10, delay=(100, 150), noise=0)
    shown = np.asarray(found.x[..., 1:].max(axis=2) > 0)
    np.testing.assert_array_equal(shown[:, 20:].argmin(axis=1), 30)
    decision = found.conditions["decision"]
    assert set(decision) == {20 + 30 + delay + 30 for delay in range(10, 16)}
    assert found.y.shape == (300, 20 + 30 + 15 + 30 + 20)
    np.testing.assert_array_equal(
        (found.weights > 0).sum(axis=1), decision + 20, err_msg="a trial's steps"
    )


# What is random


@EACH
def test_the_seed_decides(task):
    one, same, other = (task(20, seed=seed) for seed in ([3, 1], [3, 1], [3, 2]))
    np.testing.assert_array_equal(one.x, same.x)
    np.testing.assert_array_equal(one.y, same.y)
    assert one.x.shape != other.x.shape or (one.x != other.x).any()
    generator = np.random.default_rng(5)
    first, second = task(20, seed=generator), task(20, seed=generator)
    assert first.x.shape != second.x.shape or (first.x != second.x).any()


@EACH
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_types_and_shapes(task, dtype):
    x, y, weights, conditions = task(7, seed=0, dtype=dtype)
    n, T, _ = x.shape
    assert n == 7
    assert x.dtype == weights.dtype == dtype
    assert weights.shape == (7, T)
    assert y.shape in ((7, T), (7, T, 1))
    assert y.dtype == (np.int64 if y.ndim == 2 else dtype)
    assert {a.shape for a in conditions.values()} == {(7,)}


def test_an_ideal_observer_of_the_perceptual_decision():
    n = 4000
    for dt in (10, 50):
        for coherence in (3.2, 12.8):
            x, _, _, conditions = tasks.perceptual_decision(
                n, seed=6, dt=dt, coherences=[coherence], noise=2.5, dtype="float64"
            )
            answer = np.where((x[..., 1] - x[..., 2]).sum(axis=1) > 0, 1, 2)
            right = (answer == conditions["choice"]).mean()
            expected = phi(coherence / 100 * math.sqrt(1000 / 2) / 2.5)
            assert abs(right - expected) < 4 * math.sqrt(0.25 / n)


def test_an_ideal_observer_of_context_dependent_integration():
    n = 4000
    for dt in (5, 50):
        x, _, _, conditions = tasks.context_dependent_integration(
            n, seed=7, dt=dt, coherences=[0.036], noise=1.5, dtype="float64"
        )
        evidence = (x[..., :2] * x[..., 2:]).sum(axis=(1, 2))
        right = (np.sign(evidence) == conditions["choice"]).mean()
        assert abs(right - phi(0.036 * math.sqrt(750) / 1.5)) < 4 * math.sqrt(0.25 / n)
        other = (np.sign(x[..., 0].sum(axis=1)) == conditions["choice"])[conditions["context"] == 1]
        assert abs(other.mean() - 0.5) < 4 * math.sqrt(0.25 / len(other))


def test_conditions_are_balanced():
    n = 4000
    bound = 4 * math.sqrt(0.25 / n)
    found = tasks.perceptual_decision(n, seed=8, dt=100).conditions
    assert abs((found["choice"] == 1).mean() - 0.5) < bound
    for coherence in (3.2, 6.4, 12.8, 25.6, 51.2):
        assert abs((abs(found["coherence"]) == coherence).mean() - 0.2) < bound
    found = tasks.delayed_match_to_sample(n, seed=8, dt=100, stimuli=4).conditions
    assert abs((found["sample"] == found["test"]).mean() - 0.5) < bound
    for stimulus in range(4):
        assert abs((found["sample"] == stimulus).mean() - 0.25) < bound
        assert abs((found["test"] == stimulus).mean() - 0.25) < bound
    found = tasks.context_dependent_integration(n, seed=8, dt=50).conditions
    assert abs(found["context"].mean() - 0.5) < bound
    agree = np.sign(found["motion"]) == np.sign(found["color"])
    assert abs(agree.mean() - 0.5) < bound


def test_a_network_learns_the_sign_of_a_strong_input():
    """The arrays are what a model takes."""
    x, y, _, conditions = tasks.context_dependent_integration(
        400, seed=0, dt=100, coherences=[0.5], noise=0.5
    )
    at = conditions["decision"][0]
    model = fastbptt.RNN(4, 32, 1, seed=0)
    fastbptt.fit(model, x[:, : at + 1], y[:, at], epochs=15, seed=0, optimizer=fastbptt.Adam(0.005))
    answer = np.sign(model.predict(x[:, : at + 1])[:, 0])
    assert (answer == conditions["choice"]).mean() > 0.95


# Errors


@EACH
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n": 0}, ValueError, "n is 0, expected at least 1"),
        ({"dt": 0}, ValueError, "dt is 0"),
        ({"dtype": "int8"}, TypeError, "dtype is 'int8'"),
        ({"noise": -1}, ValueError, "noise is -1"),
        ({"fixation": -5}, ValueError, "fixation is -5"),
        ({"fixation": (200, 100)}, ValueError, "expected the least before the most"),
        ({"fixation": "long"}, ValueError, "fixation is 'long', expected milliseconds"),
        ({"fixation": (1, 2, 3)}, ValueError, "the least and the most of them"),
    ],
)
def test_wrong_arguments_of_all(task, arguments, error, message):
    with pytest.raises(error, match=message):
        task(**{"n": 2, "seed": 0, **arguments})


@pytest.mark.parametrize(
    ("task", "arguments", "error", "message"),
    [
        (0, {"coherences": []}, ValueError, "coherences is .*, expected one number or more"),
        (0, {"coherences": [101]}, ValueError, "of at most 100"),
        (0, {"coherences": 5}, TypeError, "coherences is 5, expected a sequence of numbers"),
        (0, {"fixation_weight": -1}, ValueError, "fixation_weight is -1"),
        (0, {"fixation": 0, "stimulus": 0, "decision": 1}, ValueError, "last 0 steps"),
        (1, {"stimuli": 1}, ValueError, "stimuli is 1, expected at least 2"),
        (2, {"coherences": [0, 0.1]}, ValueError, "coherences holds 0"),
        (3, {"gains": [0]}, ValueError, "gains holds 0"),
        (3, {"pulse": 500}, ValueError, "pulse is 500 of dt = 20.0"),
        (3, {"pulse": 0}, ValueError, "pulse is 0"),
        (3, {"intervals": []}, ValueError, "intervals is"),
    ],
)
def test_wrong_arguments_of_one(task, arguments, error, message):
    with pytest.raises(error, match=message):
        ALL[task](2, seed=0, **arguments)
