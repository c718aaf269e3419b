"""Trials without end: minibatches of a function of the step, or of an iterable."""

import warnings
from typing import Any

import numpy as np
import pytest
from trainings import assert_same_course, bits

import fastbptt
from fastbptt import RNN, Adam, tasks
from fastbptt._sources import Source, is_source

T, I, O = 5, 2, 3


def build(output="all", **options) -> RNN:
    return RNN(I, 6, O, output=output, dtype="float64", seed=0, **options)


def made(step, output="all", weighs=False) -> Any:
    """A minibatch of four sequences, a function of its number."""
    rng = np.random.default_rng([5, step])
    x, y = rng.standard_normal((4, T, I)), rng.standard_normal((4, T, O))
    y, weight = (y, rng.uniform(0, 2, (4, T))) if output == "all" else (y[:, -1], rng.random(4))
    return (x, y, weight) if weighs else (x, y)


def fit(model, source, **options):
    given = {"progress": False, "seed": 7, "steps_per_epoch": 3, "epochs": 2, **options}
    return fastbptt.fit(model, source, **given)


def trained(source, output="all", **options):
    model = build(output)
    history = fit(model, source, **options)
    return bits(model), history.loss


# What a step is taken on


@pytest.mark.parametrize("output", ["all", "last"])
@pytest.mark.parametrize("weighs", [False, True])
def test_each_step_takes_the_minibatch_of_its_number(output, weighs):
    """As a loop over steps of the optimizer does."""
    model, numbers = build(output), []

    def source(step):
        numbers.append(step)
        return made(step, output, weighs)

    history = fit(model, source)
    assert numbers == [0, 1, 2, 3, 4, 5]
    expected, optimizer, losses = build(output), Adam(), []
    for step in range(6):
        x, y, *weight = made(step, output, weighs)
        weight = weight[0] if weight else None
        value, gradients = expected.loss_and_grads(x, y, sample_weight=weight)
        rows = np.full(4 * T if output == "all" else 4, 1.0) if weight is None else weight
        losses.append((value, rows.sum()))
        gradient = np.concatenate([g.ravel() for g in gradients.values()])
        optimizer.step({"weights": expected.network.vector}, {"weights": gradient})
    np.testing.assert_allclose(model.network.vector, expected.network.vector, rtol=0, atol=1e-12)
    for epoch, of_epoch in enumerate((losses[:3], losses[3:])):
        values, rows = zip(*of_epoch, strict=True)
        assert history.loss[epoch] == pytest.approx(np.average(values, weights=rows))


@pytest.mark.parametrize("output", ["all", "last"])
def test_minibatches_may_be_time_major(output):
    def time_major(step):
        x, y, weight = made(step, output, True)
        if output == "all":
            y, weight = y.swapaxes(0, 1), weight.T
        return x.swapaxes(0, 1), y, weight

    expected = trained(lambda step: made(step, output, True), output)
    assert trained(time_major, output, time_major=True) == expected


def test_sequences_may_have_lengths_of_their_own():
    def source(step):
        x, y = made(step)
        return tuple([a[:n] for a, n in zip(whole, (3, 5, 1, 2), strict=True)] for whole in (x, y))

    model = build()
    fit(model, source, epochs=1, steps_per_epoch=1)
    expected = build()
    fastbptt.fit(expected, *source(0), epochs=1, progress=False, seed=7)
    np.testing.assert_allclose(model.network.vector, expected.network.vector, rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{"truncate": 2}, {"memory": "checkpointed"}, {"l2": 0.1}])
def test_options_are_those_of_arrays(options):
    """One minibatch for each epoch is the whole data set of an array."""
    x, y = made(0)
    model, expected = build(), build()
    fit(model, lambda step: (x, y), steps_per_epoch=1, **options)
    fastbptt.fit(expected, x, y, epochs=2, progress=False, seed=7, **options)
    np.testing.assert_allclose(model.network.vector, expected.network.vector, rtol=0, atol=1e-12)


def test_class_weights_and_tasks():
    def source(step):
        return tasks.perceptual_decision(8, seed=[1, step], dt=100)[:3]

    model = RNN(3, 8, 3, output="all", seed=0)
    history = fit(model, source, loss="cross_entropy", class_weight={0: 0.5}, epochs=3)
    assert len(history.loss) == 3
    with pytest.raises(ValueError, match="class_weight is 'balanced', expected"):
        fit(model, source, loss="cross_entropy", class_weight="balanced")


# Iterables


class Trials:
    """Iterated again, it begins again."""

    def __init__(self, count):
        self.count, self.begun = count, 0

    def __iter__(self):
        self.begun += 1
        return map(made, range(self.count))


class SizedTrials(Trials):
    def __len__(self):
        return self.count


def generator():
    step = 0
    while True:
        yield made(step)
        step += 1


def test_an_iterable_gives_its_minibatches_in_its_order():
    expected = trained(made)
    assert trained(generator()) == expected
    assert trained(Trials(6)) == expected
    assert trained(SizedTrials(6)) == expected
    assert trained(map(made, range(6))) == expected


def test_one_that_ends_begins_again():
    assert trained(Trials(2)) == trained(lambda step: made(step % 2))


def test_an_epoch_is_a_pass_over_one_with_a_length():
    source = SizedTrials(4)
    assert trained(source, steps_per_epoch=None) == trained(
        lambda step: made(step % 4), steps_per_epoch=4
    )
    assert source.begun == 2


def test_one_that_ends_for_good():
    model = build()
    before = bits(model)
    with pytest.raises(ValueError, match="x, a map, has ended and does not begin again"):
        fit(model, map(made, range(2)))
    assert bits(model) == before
    with pytest.raises(ValueError, match="has ended"):
        fit(model, map(made, range(4)))
    assert bits(model) != before  # an epoch is done


class Dataset:
    """The protocol of NeuroGym's Dataset: iterator and callable, time-major by default."""

    def __init__(self, batch_first=False):
        self.batch_first, self.step = batch_first, 0

    def __iter__(self):
        return self

    def __call__(self, *args, **kwargs):
        return self.__next__()

    def __next__(self):
        x, y, _, _ = tasks.perceptual_decision(16, seed=self.step, dt=100)
        self.step += 1
        return (x, y) if self.batch_first else (x.swapaxes(0, 1), y.swapaxes(0, 1))


def test_a_dataset_of_neurogym():
    found = []
    for source in (
        Dataset(),
        Dataset(batch_first=True),
        lambda step: tasks.perceptual_decision(16, seed=step, dt=100)[:2],
    ):
        model = RNN(3, 8, 3, output="all", seed=0)
        found.append((fit(model, source, loss="cross_entropy").loss, bits(model)))
    assert found[0] == found[1] == found[2]
    assert not Source(Dataset(), 1).by_step


def test_a_data_loader_of_torch():
    torch = pytest.importorskip("torch")
    from torch.utils.data import DataLoader, TensorDataset  # pyright: ignore[reportMissingImports]

    x, y = (torch.from_numpy(np.concatenate(a)) for a in zip(made(0), made(1), strict=True))
    loader = DataLoader(TensorDataset(x, y), batch_size=3)

    def source(step):
        start = step % 3 * 3
        return x[start : start + 3].numpy(), y[start : start + 3].numpy()

    assert trained(loader, steps_per_epoch=None) == trained(source)
    shuffled = DataLoader(
        TensorDataset(x, y), batch_size=3, shuffle=True, generator=torch.Generator().manual_seed(0)
    )
    assert len(fit(build(), shuffled, steps_per_epoch=None).loss) == 2


# Going on


def test_a_function_of_the_step_goes_on_to_the_bit(tmp_path):
    pytest.importorskip("safetensors")
    model, numbers = build(), []

    def source(step):
        numbers.append(step)
        return made(step)

    whole = fit(model, source, epochs=4)
    path = tmp_path / "run"
    fit(build(), source, epochs=2, checkpoint=path)
    numbers.clear()
    again = build()
    history = fit(again, source, epochs=4, checkpoint=path)
    assert numbers == [6, 7, 8, 9, 10, 11]
    assert bits(again) == bits(model)
    assert_same_course(history, whole)
    with pytest.raises(ValueError, match="with steps_per_epoch = 3, expected 2"):
        fit(build(), source, steps_per_epoch=2, checkpoint=path)


def test_an_iterable_says_that_it_does_not(tmp_path):
    pytest.importorskip("safetensors")
    with pytest.warns(RuntimeWarning, match="not to the same bits"):
        fit(build(), Trials(6), checkpoint=tmp_path / "run")
    with pytest.warns(RuntimeWarning, match="not to the same bits"):
        history = fit(build(), Trials(6), checkpoint=tmp_path / "run", epochs=3)
    assert len(history.loss) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(build(), Trials(6))


def test_validation_and_patience_are_as_for_arrays():
    history = fit(build(), made, epochs=4, validation=made(100), patience=3)
    assert len(history.validation_loss) == len(history.loss)
    assert history.validation_loss[-1] != history.validation_loss[0]


# What is a source


def test_data_are_no_source():
    torch = pytest.importorskip("torch")
    for data in (np.zeros((2, 3)), [np.zeros((3, 1))], (np.zeros((3, 1)),), torch.zeros(2, 3)):
        assert not is_source(data)
    for source in (made, generator(), Trials(1), Dataset(), np.nditer(np.zeros(2))):
        assert is_source(source)


def test_an_object_with_the_array_protocol_is_data():
    class Array:
        def __array__(self, dtype=None, copy=None):
            return np.zeros((2, T, I))

        def __iter__(self):
            return iter(np.zeros((2, T, I)))

    assert not is_source(Array())


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"y": np.zeros((4, T, O))}, "y is given, expected None"),
        ({"lengths": [T] * 4}, "lengths is given, expected None"),
        ({"sample_weight": [1] * 4}, "sample_weight is given, expected None"),
        ({"validation_split": 0.2}, "validation_split is given, expected"),
        ({"steps_per_epoch": None}, "steps_per_epoch is None, expected a number: x, a function"),
        ({"steps_per_epoch": 0}, "steps_per_epoch is 0, expected at least 1"),
    ],
)
def test_wrong_options_with_a_source(options, message):
    model = build()
    before = bits(model)
    with pytest.raises(ValueError, match=message):
        fit(model, made, **options)
    assert bits(model) == before


@pytest.mark.parametrize("options", [{"steps_per_epoch": 3}, {"time_major": True}])
def test_options_of_a_source_with_arrays(options):
    with pytest.raises(ValueError, match="is given, expected None: x is no source"):
        fastbptt.fit(build(), *made(0), progress=False, **options)


def test_arrays_need_targets():
    with pytest.raises(TypeError, match="y is None, expected targets"):
        fastbptt.fit(build(), made(0)[0], progress=False)


@pytest.mark.parametrize(
    ("minibatch", "error", "message"),
    [
        (made(0)[0], TypeError, "minibatch of step 0 is a ndarray, expected"),
        (made(0)[:1], TypeError, "minibatch of step 0 is a tuple of 1, expected"),
        ((*made(0), 1, 1), TypeError, "is a tuple of 4, expected"),
        ((made(0)[0], made(0)[1][:, :3]), ValueError, "minibatch of step 0: y has shape"),
        ((made(0)[0][..., :1], made(0)[1]), ValueError, "minibatch of step 0: x has shape"),
        ((*made(0), np.ones(3)), ValueError, "minibatch of step 0: sample_weight"),
        ((np.zeros((0, T, I)), np.zeros((0, T, O))), ValueError, "holds no sequence"),
    ],
)
def test_wrong_minibatches(minibatch, error, message):
    model = build()
    before = bits(model)
    with pytest.raises(error, match=message):
        fit(model, lambda step: minibatch)
    assert bits(model) == before


def test_a_wrong_time_major_minibatch():
    with pytest.raises(ValueError, match=r"inputs has shape \(4,\), expected \(T, B, ...\)"):
        fit(build(), lambda step: (np.zeros(4), np.zeros((T, 4, O))), time_major=True)
