"""Weights of sequences, steps, elements and classes: against data that occur so often."""

import functools
from typing import Any

import numpy as np
import pytest
from trainings import EQUAL, LENGTHS, OUTPUT, RAGGED, O, Recorder, bits, build, draw, fit

from fastbptt import RNN, SGD, losses, training

N, T = len(RAGGED), max(RAGGED)


def draw_weight(shape, seed=1):
    """Some are 0, and some small integers."""
    return np.random.default_rng(seed).integers(0, 4, shape)


def padded(arrays, T, value=np.nan):
    full = np.full((len(arrays), T, *arrays[0].shape[1:]), value)
    for row, a in zip(full, arrays, strict=True):
        row[: len(a)] = a
    return full


def counts_of(output, of):
    """Weights in a form they may have, and for each sequence what its rows count."""
    if of == "sequences":
        weight = draw_weight(N)
        rows = [
            np.full(n if output == "all" else 1, w) for n, w in zip(RAGGED, weight, strict=True)
        ]
        return weight, rows
    if output == "last":
        weight = draw_weight((N, O))
        return weight, [*weight[:, np.newaxis]]
    weight = [draw_weight((n, O) if of == "elements" else n, seed=n) for n in RAGGED]
    return weight, weight


PER_STEP = "sequences", "steps", "elements"
FORMS = pytest.mark.parametrize(
    ("output", "of"),
    [("last", "sequences"), ("last", "elements"), *(("all", of) for of in PER_STEP)],
)


@FORMS
@pytest.mark.parametrize("name", ["mse", "ssr", "mae", "huber", "bce"])
def test_evaluate_is_the_weighted_mean(name, output, of, monkeypatch):
    """Over all rows, however many are computed together."""
    monkeypatch.setattr("fastbptt.model.TOGETHER", 3)
    model = build(output=output)
    x, y = draw(model, RAGGED)
    if name == "bce":
        y = [1 / (1 + np.exp(-a)) for a in y]
    weight, rows = counts_of(output, of)
    total = values = 0.0
    for predicted, target, its in zip(model.predict(x), y, rows, strict=True):
        for p, t, w in zip(np.atleast_2d(predicted), np.atleast_2d(target), its, strict=True):
            for e in range(O):
                its_w = w[e] if np.ndim(w) else w
                values += its_w * losses.LOSSES[name](p[None, e : e + 1], t[None, e : e + 1])[0]
                total += its_w
    expected = values if name == "ssr" else values / total
    got = model.evaluate(x, np.array(y) if output == "last" else y, None, name, weight)
    assert got == pytest.approx(expected, rel=1e-12)


@OUTPUT
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_integer_weights_are_as_sequences_that_occur_so_often(loss, output):
    model = build(output=output, num_layers=2)
    x, y = draw(model, RAGGED)
    if loss == "cross_entropy":
        y = y.argmax(axis=1) if output == "last" else [a.argmax(axis=1) for a in y]
    weight = draw_weight(N)
    often = np.repeat(np.arange(N), weight)
    repeated = [x[i] for i in often], [y[i] for i in often]
    if output == "last":
        repeated = repeated[0], y[often]
    value, grads = model.loss_and_grads(x, y, loss=loss, sample_weight=weight)
    expected, expected_grads = model.loss_and_grads(*repeated, loss=loss)
    assert value == pytest.approx(expected, rel=1e-12)
    for name, got in grads.items():
        np.testing.assert_allclose(got, expected_grads[name], rtol=0, atol=1e-13, err_msg=name)


@FORMS
@pytest.mark.parametrize("way", [{}, {"checkpointed": True}], ids=["full", "checkpointed"])
def test_gradients_agree_with_differences(output, way, of):
    model = build(output=output, num_layers=2)
    x, y = draw(model, RAGGED)
    weight, _ = counts_of(output, of)
    _, grads = model.loss_and_grads(x, y, sample_weight=weight, **way)
    direction = np.random.default_rng(5).standard_normal(model.network.vector.size)
    vector, ends = model.network.vector.copy(), []
    for step in (1e-5, -1e-5):
        model.network.vector[...] = vector + step * direction
        ends.append(model.evaluate(x, y, sample_weight=weight))
    got = np.concatenate([a.ravel() for a in grads.values()]) @ direction
    assert got == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-7)


@pytest.mark.parametrize("of", PER_STEP)
def test_forms_give_the_same_bits(of):
    """Lists, arrays with padding whose values do not matter, weights of every step alike."""
    model, weight = build(output="all"), counts_of("all", of)[0]
    x, y = draw(model, RAGGED)
    expected = model.evaluate(x, y, sample_weight=weight)
    ends = [weight] if of == "sequences" else [weight, padded(weight, T + 2)]
    if of == "sequences":
        ends.append([np.full(n, w) for n, w in zip(RAGGED, weight, strict=True)])
    if of == "steps":
        ends.append([np.repeat(w[:, np.newaxis], O, axis=1) for w in weight])
    for form in ends:
        for given in ((x, y), (padded(x, T + 2), padded(y, T + 2), RAGGED)):
            got = model.evaluate(*given, sample_weight=form)
            assert got == pytest.approx(expected, rel=1e-14)
    as_lists = [np.asarray(w).tolist() for w in weight]
    assert model.evaluate(x, y, sample_weight=as_lists) == expected


@OUTPUT
@pytest.mark.parametrize(
    "options", [{}, {"truncate": 3}, {"memory": "checkpointed"}, {"batch_size": 100}], ids=str
)
@pytest.mark.parametrize("loss", ["mse", "ssr"])
def test_the_loss_of_an_epoch_is_that_over_all_rows(loss, options, output):
    """Also where minibatches and windows have unequal weight, or none: nothing moves at rate 0."""
    model = build(output=output)
    x, y = draw(model, RAGGED)
    weight, _ = counts_of(output, "sequences" if output == "last" else "steps")
    still = {"optimizer": SGD(0.0), "epochs": 1, "batch_size": 2, **options}
    history = fit(model, (x, y), sample_weight=weight, loss=loss, **still,
                  validation=(x, y, None, weight))  # fmt: skip
    expected = model.evaluate(x, y, None, loss, weight)
    assert history.loss[0] == pytest.approx(expected, rel=1e-12)
    assert history.validation_loss == [expected]


def test_what_weighs_nothing_changes_no_bit():
    model, other = build(output="all"), build(output="all")
    x, y = draw(model, RAGGED)
    weight = [draw_weight(n, seed=n) for n in RAGGED]
    fit(model, (x, y), sample_weight=weight, epochs=2, batch_size=3)
    for a, w in zip(y, weight, strict=True):
        a[w == 0] = np.nan
    fit(other, (x, y), sample_weight=weight, epochs=2, batch_size=3)
    assert bits(model) == bits(other)


@pytest.mark.parametrize("loss", ["mse", "ssr"])
@OUTPUT
def test_weights_of_1_change_no_bit(output, loss):
    found = []
    for given in ({}, {"sample_weight": np.ones(N)}):
        model = build("float32", output=output)
        history = fit(model, draw(model, RAGGED), loss=loss, epochs=2, batch_size=4, **given)
        found.append((history.loss, bits(model)))
    assert found[0] == found[1]


def test_weights_beside_tokens():
    """They need not be integers, as tokens are."""
    model = RNN(5, 4, 3, output="all", dtype="float64", seed=0)
    tokens = np.random.default_rng(0).integers(0, 5, (4, 6)).astype("uint8")
    y, weight = np.zeros((4, 6), int), np.full(4, 0.25)
    weight[0] = 0.5
    for options in ({"sample_weight": weight}, {"class_weight": [0.5, 1, 1]}):
        found = []
        for x in (tokens, np.eye(5)[tokens]):
            run = training.Run(model, x, y, loss="cross_entropy", optimizer=SGD(0.0), **options)
            run.epoch()
            found.append((run.history.loss[0], run.gradient.vector.copy()))
        assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
        np.testing.assert_allclose(found[0][1], found[1][1], rtol=0, atol=1e-12)


# Classes


def draw_classes(output) -> Any:
    model = build(output=output)
    x, y = draw(model, RAGGED)
    return model, x, y.argmax(axis=1) if output == "last" else [a.argmax(axis=1) for a in y]


def gradient_of_a_step(model, x, y, **options):
    """The loss of all sequences as one minibatch, and its gradient."""
    recorder = Recorder(0.0)
    run = training.Run(model, x, y, batch_size=N, optimizer=recorder, **options)
    run.epoch()
    [(_, gradient)] = recorder.steps_taken
    return run.history.loss[0], gradient


@OUTPUT
def test_balanced_is_scikit_learns(output):
    utils = pytest.importorskip("sklearn.utils.class_weight")
    model, x, y = draw_classes(output)
    y = (
        y % 2 * 2 if output == "last" else [a % 2 * 2 for a in y]
    )  # of the third class there is none
    rows = y if output == "last" else np.concatenate(y)
    weight = draw_weight(len(rows))
    given = weight if output == "last" else np.split(weight, np.cumsum(RAGGED)[:-1])
    for options, samples in (({}, np.ones(len(rows))), ({"sample_weight": given}, weight)):
        balanced = utils.compute_sample_weight("balanced", rows)
        if options:
            of_class = utils.compute_class_weight(
                "balanced", classes=np.unique(rows), y=rows, sample_weight=samples
            )
            balanced = of_class[np.searchsorted(np.unique(rows), rows)]
        product = samples * balanced
        product = product if output == "last" else np.split(product, np.cumsum(RAGGED)[:-1])
        options |= {"loss": "cross_entropy"}
        expected = gradient_of_a_step(model, x, y, **{**options, "sample_weight": product})
        got = gradient_of_a_step(model, x, y, class_weight="balanced", **options)
        assert got[0] == pytest.approx(expected[0], rel=1e-12)
        np.testing.assert_allclose(got[1], expected[1], rtol=0, atol=1e-14)


@OUTPUT
def test_class_weights_are_torchs(output):
    torch = pytest.importorskip("torch")
    model, x, y = draw_classes(output)
    rows = np.array(model.predict(x)) if output == "last" else np.concatenate(model.predict(x))
    target = y if output == "last" else np.concatenate(y)
    for given, array in (
        ([0.5, 0, 3], [0.5, 0, 3]),
        ({2: 4.0}, [1, 1, 4.0]),
        ({np.int64(0): 2}, [2, 1, 1]),
    ):
        expected = torch.nn.functional.cross_entropy(
            torch.tensor(rows), torch.tensor(target), weight=torch.tensor(array, dtype=float)
        )
        value, _ = gradient_of_a_step(model, x, y, loss="cross_entropy", class_weight=given)
        assert value == pytest.approx(expected.item(), rel=1e-12)


def test_class_weights_of_0_and_1():
    x = np.random.default_rng(0).standard_normal((8, 5))
    y = np.array([0, 1, 1, 1, 0, 1, 1, 1])
    model = RNN(1, 4, 1, seed=0, dtype="float64")
    expected = gradient_of_a_step(model, x, y, loss="bce", sample_weight=np.where(y, 1, 3))
    for given in ({0: 3}, [3, 1], "balanced"):  # 8 / (2 * 2) and 8 / (2 * 6), which is 3 to 1
        got = gradient_of_a_step(model, x, y, loss="bce", class_weight=given)
        assert got[0] == pytest.approx(expected[0], rel=1e-14)
        np.testing.assert_allclose(got[1], expected[1], rtol=0, atol=1e-15)


def test_class_weights_are_not_those_of_the_validation():
    model, x, y = draw_classes("last")
    history = fit(model, (x, y), loss="cross_entropy", class_weight=[1, 2, 3], epochs=1,
                  optimizer=SGD(0.0), validation=(x, y))  # fmt: skip
    assert history.validation_loss == [model.evaluate(x, y, loss="cross_entropy")]
    assert history.loss != history.validation_loss


@OUTPUT
def test_held_out_sequences_keep_their_weights(output):
    found = []
    for split in (True, False):
        model, x, y = draw_classes(output)
        weight = [0.5 + np.arange(n) % 3 for n in RAGGED] if output == "all" else np.arange(N) + 1
        last, first = slice(8, None), slice(8)
        options = {"validation_split": 3 / N, "sample_weight": weight}
        data = x, y
        if not split:
            data = x[first], y[first]
            options = {
                "validation": (x[last], y[last], None, weight[last]),
                "sample_weight": weight[first],
            }
        history = fit(model, data, loss="cross_entropy", class_weight="balanced", epochs=2,
                      batch_size=4, **options)  # fmt: skip
        found.append((history.loss, history.validation_loss, bits(model)))
    assert found[0] == found[1]


@pytest.mark.parametrize(("kept", "purpose"), [(slice(10, N), "train on"), (slice(5), "hold out")])
def test_held_out_sequences_of_no_weight(kept, purpose):
    model, x, y = draw_classes("last")
    weight = np.zeros(N)
    weight[kept] = 1
    with pytest.raises(
        ValueError, match=f"validation_split is 0.09, which leaves .* 0 to {purpose}"
    ):
        fit(model, (x, y), loss="cross_entropy", sample_weight=weight, validation_split=0.09)


@OUTPUT
@pytest.mark.parametrize("ignored", [-100, -1])
def test_an_ignored_class_is_as_weight_0(output, ignored):
    """In training, in its mean and in validation; beside weights and class weights, too."""
    found, loss = [], functools.partial(losses.cross_entropy, ignored=ignored)
    for marked in (True, False):
        model, x, y = draw_classes(output)
        left_out = [np.arange(np.size(a)) % 3 == 1 for a in ([y] if output == "last" else y)]
        weight = [2.0 - mask for mask in left_out]
        for a, w, mask in zip([y] if output == "last" else y, weight, left_out, strict=True):
            a[mask] = ignored if marked else a[mask]
            w[mask] *= marked
        weight = weight[0] if output == "last" else weight
        history = fit(
            model, (x, y), loss=loss, sample_weight=weight, class_weight="balanced", epochs=2,
            batch_size=4, validation=(x, y, None, weight),
        )  # fmt: skip
        found.append((history.loss, history.validation_loss, bits(model)))
    assert found[0] == found[1]
    assert model.evaluate(x, y, loss="cross_entropy") > 0


# What does not fit


def test_weights_in_a_file(tmp_path):
    """A training goes on with weights as it began."""
    model, x, y = draw_classes("last")
    path, options = tmp_path / "run", {"loss": "cross_entropy", "batch_size": 4}
    for changed, name in (
        ({"class_weight": "balanced"}, "class_weight"),
        ({"class_weight": {1: 2}}, "class_weight"),
        ({"class_weight": [1, 2, 3]}, "class_weight"),
        ({"sample_weight": np.arange(N)}, "sample_weight"),
    ):
        at_once, in_parts = (build() for _ in range(2))
        expected = fit(at_once, (x, y), epochs=4, **options, **changed).loss
        fit(in_parts, (x, y), epochs=2, checkpoint=path, **options, **changed)
        fit(model, (x, y), epochs=4, checkpoint=path, **options, **changed)
        assert bits(model) == bits(at_once)
        assert fit(model, (x, y), epochs=4, checkpoint=path, **options, **changed).loss == expected
        with pytest.raises(ValueError, match=f"is of a training with {name} = "):
            fit(model, (x, y), epochs=4, checkpoint=path, **options)
        path.unlink()


@pytest.mark.parametrize(
    ("output", "given", "error", "words"),
    [
        ("last", np.ones(3), ValueError, "sample_weight has shape (3,), expected (N,) or (N, O)"),
        ("last", np.ones((N, 2)), ValueError, "sample_weight has shape (11, 2), expected (N,) o"),
        ("last", np.ones((N, 1)), ValueError, "sample_weight has shape (11, 1), expected (N,) o"),
        ("last", 1.0, ValueError, "sample_weight has shape (), expected (N,)"),
        ("last", "balanced", TypeError, "sample_weight has dtype <U8, expected real numbers"),
        ("last", [1, [2]] * 5, ValueError, "sample_weight is ragged"),
        ("last", np.full(N, -1.0), ValueError, "sample_weight has values from -1.0 to -1.0, expec"),
        ("last", np.full(N, np.nan), ValueError, "sample_weight has values from nan to nan, expec"),
        ("last", np.full(N, np.inf), ValueError, "sample_weight has values from inf to inf, expec"),
        ("last", np.zeros(N), ValueError, "sample_weight is 0 wherever it counts, expected a va"),
        ("last", np.ma.ones(N), TypeError, "sample_weight is a MaskedArray"),
        ("all", np.ones((N, T - 1)), ValueError, "sample_weight has shape (11, 6), expected T of"),
        ("all", np.ones((N, T, 2)), ValueError, "sample_weight has shape (11, 7, 2), expected (N"),
        ("all", [[1, 2]] * N, ValueError, "sample_weight has sequences of lengths [2, 2, 2, 2, 2"),
        ("all", [1.0] * 3, ValueError, "sample_weight has shape (3,), expected (N,), (N, T) or "),
        (
            "all", [np.ones((n, 2)) for n in RAGGED], ValueError,
            "sample_weight has arrays of shapes (1, 2), (2, 2), (3, 2) ..., expected (T_i,) or (T_",
        ),
        (
            "all", [np.ones((n, O) if n > 1 else n) for n in RAGGED], ValueError,
            "sample_weight has arrays of shapes",
        ),
        ("all", np.where(np.arange(T) < 1, 0.0, np.nan) * np.ones((N, 1)), ValueError,
         "sample_weight has values from nan"),
    ],
)  # fmt: skip
def test_sample_weights_turned_away(output, given, error, words):
    model = build(output=output)
    x, y = draw(model, RAGGED)
    before = bits(model)
    for call in (
        lambda: model.evaluate(x, y, sample_weight=given),
        lambda: model.loss_and_grads(x, y, sample_weight=given),
        lambda: fit(model, (x, y), sample_weight=given),
    ):
        with pytest.raises(error) as caught:
            call()
        assert str(caught.value).startswith(words)
    with pytest.raises(error) as caught:
        fit(model, (x, y), validation=(x, y, None, given))
    assert str(caught.value).startswith(f"validation: {words}")
    assert bits(model) == before


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ("even", ValueError, "class_weight is 'even', expected one of 'balanced'"),
        ([1, 2], ValueError, "class_weight has shape (2,), expected (3,): one for each class"),
        (1.0, ValueError, "class_weight has shape (), expected (3,)"),
        ({3: 1}, ValueError, "class_weight has the key 3, expected classes 0 to 2"),
        ({"a": 1}, ValueError, "class_weight has the key 'a', expected classes 0 to 2"),
        ({0: -1}, ValueError, "class_weight[0] is -1.0, expected at least 0"),
        ({0: "1"}, TypeError, "class_weight[0] is '1', expected a number"),
        ([1, np.nan, 2], ValueError, "class_weight has values from nan to nan"),
        ([1, -2, 2], ValueError, "class_weight has values from -2.0 to 2.0"),
        ([0, 0, 0], ValueError, "class_weight is 0 for each class that counts"),
    ],
)
@OUTPUT
def test_class_weights_turned_away(output, given, error, words):
    model, x, y = draw_classes(output)
    before = bits(model)
    with pytest.raises(error) as caught:
        fit(model, (x, y), loss="cross_entropy", class_weight=given)
    assert str(caught.value).startswith(words)
    assert bits(model) == before


def test_class_weights_need_classes():
    model = build()
    with pytest.raises(
        ValueError, match="class_weight is given, expected y of integer classes, or"
    ):
        fit(model, draw(model, EQUAL), class_weight="balanced")


def test_classes_out_of_range():
    model, x, y = draw_classes("last")
    with pytest.raises(ValueError, match="y has classes from 0 to 3, expected 0 to 2"):
        fit(model, (x, y + y.argmax().clip(1, 1)), loss="cross_entropy", class_weight="balanced")


def test_nothing_but_the_ignored_class():
    model, x, y = draw_classes("last")
    y[...] = -100
    with pytest.raises(ValueError, match="y has weight for none but the ignored class -100"):
        model.evaluate(x, y, loss="cross_entropy")


@LENGTHS
def test_classes_have_no_weights_of_elements(counts):
    model, x, y = draw_classes("last")
    with pytest.raises(
        ValueError, match=r"sample_weight has shape \(11, 3\), expected \(N,\) with"
    ):
        model.evaluate(x, y, loss="cross_entropy", sample_weight=np.ones((len(counts), O)))
