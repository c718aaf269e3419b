"""Minibatches in pieces, on one rank and on several: the same bits, and none waits for another.

Ranks are threads here, with a communicator of their own; tests/test_mpi.py has processes.
"""

import threading
import tracemalloc

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks import on_ranks
from trainings import (
    EQUAL,
    OPTIMIZERS,
    OUTPUT,
    RAGGED,
    Recorder,
    assert_same_course,
    bits,
    build,
    draw,
    fit,
)

import fastbptt
from fastbptt import SGD, _shares, losses

N, SHARES = len(RAGGED), 8
SIZES = 1, 2, 3, 4, 8


# Pieces


@settings(max_examples=50)
@given(st.lists(st.integers(0, 100), max_size=40), st.integers(1, 12))
def test_each_sequence_is_in_one_piece_and_pieces_have_like_many_steps(lengths, count):
    lengths = np.array(lengths, int)
    pieces = _shares.cut(lengths, count)
    assert len(pieces) == count
    assert sorted(b for piece in pieces for b in piece) == [*range(len(lengths))]
    assert all((np.diff(piece) > 0).all() for piece in pieces)
    steps = [lengths[piece].sum() for piece in pieces]
    # As Graham has shown: the next one always went to the least.
    assert max(steps) - min(steps) <= lengths.max(initial=0)


def test_pieces_of_equal_sequences_are_neighbours():
    pieces = _shares.cut(np.full(7, 5), 3)
    assert [piece.tolist() for piece in pieces] == [[0, 1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize("loss", ["mse", "ssr"])
@pytest.mark.parametrize(
    "options",
    [{}, {"truncate": 3}, {"memory": "checkpointed"}, {"l1": 0.1, "l2": 0.2, "activity_l2": 0.5}],
    ids=["full", "truncated", "checkpointed", "penalized"],
)
@OUTPUT
def test_pieces_add_up_to_the_minibatch(output, options, loss):
    """Loss and gradient are those of the whole, whose weight divides them, within rounding."""
    found = []
    for shares in (None, 1, 3, N):
        model, recorder = build(output=output), Recorder(0.01)
        x, y = draw(model, RAGGED)
        weight = np.random.default_rng(2).integers(0, 3, N)
        history = fit(
            model, (x, y), sample_weight=weight, loss=loss, optimizer=recorder, epochs=1,
            batch_size=N, shares=shares, **options,
        )  # fmt: skip
        found.append((history.loss, [gradient for _, gradient in recorder.steps_taken]))
    whole, *cut = found
    for value, gradients in cut:
        np.testing.assert_allclose(value, whole[0], rtol=1e-12)
        np.testing.assert_allclose(gradients, whole[1], rtol=0, atol=1e-12)


def test_one_piece_has_the_bits_of_none():
    found = []
    for shares in (None, 1):
        model = build("float32", output="all")
        history = fit(model, draw(model, RAGGED), epochs=2, batch_size=4, shares=shares, truncate=3)
        found.append((history.loss, bits(model)))
    assert found[0] == found[1]


def test_memory_falls_with_the_pieces():
    def most(shares):
        model = build("float32", 64, output="all")
        data = [np.ones((64, 400, n), np.float32) for n in (model.input_size, model.output_size)]
        tracemalloc.start()
        fit(model, data, epochs=1, batch_size=64, shares=shares)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    most(None)  # loads the kernels
    assert most(8) < most(None) / 4


# Ranks

TRAININGS = {
    "plain": ({}, {}),
    "dropout": ({"num_layers": 2, "dropout": 0.3, "output_dropout": 0.2}, {"clip_norm": 0.1}),
    "both directions": ({"bidirectional": True, "num_layers": 2, "dropout": 0.3}, {}),
    "checkpointed": ({"num_layers": 2, "dropout": 0.3}, {"memory": "checkpointed"}),
    "truncated": ({"num_layers": 2, "dropout": 0.3}, {"truncate": 3, "clip_norm": 0.05}),
    "penalized": ({}, {"l1": 0.01, "l2": {"W_h": 0.1}, "activity_l2": 0.1, "frozen": "b"}),
    "weighted": ({}, {"sample_weight": np.arange(N) % 3, "loss": "ssr"}),
    "noisy": ({"noise": 0.2}, {"truncate": 3}),
    "constrained": (
        {
            "constraints": fastbptt.Constraints(dale=0.5, self_connections=False),
            "train_initial_state": True,
        },
        {"truncate": 3},
    ),
    "numpy": ({"backend": "numpy"}, {"loss": losses.huber}),
}


def course(comm, counts, kind, options, output="all", optimizer="Adam"):
    model = build("float32", **{"output": output, **kind})
    x, y = draw(model, counts)
    held_out = draw(model, counts, seed=1)
    options = {"optimizer": OPTIMIZERS[optimizer](), "batch_size": SHARES, **options}
    history = fit(
        model,
        (x, y),
        epochs=3,
        validation=held_out,
        patience=2,
        shares=SHARES,
        comm=comm,
        **options,
    )
    return history, bits(model)


def check_ranks(sizes, *args):
    expected = course(None, *args)
    for size in sizes:
        found = on_ranks(size, lambda comm: course(comm, *args))
        for history, weights in found:
            assert_same_course(history, expected[0])
            assert weights == expected[1]
            assert history == found[0][0]  # seconds, too


@pytest.mark.parametrize(("kind", "options"), list(TRAININGS.values()), ids=list(TRAININGS))
@OUTPUT
def test_any_number_of_ranks_has_the_same_bits(output, kind, options):
    check_ranks((2, 3), RAGGED, kind, options, output)


def test_any_number_at_all():
    check_ranks(SIZES, EQUAL, *TRAININGS["dropout"])


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "Adam"])
def test_any_optimizer(name):
    check_ranks((3,), RAGGED, {}, {}, "all", name)


def test_what_a_rank_sends_does_not_grow_with_their_number():
    """Twice the gradient, but for the loss and the state of each rank: some bytes."""
    size = build("float32", 64).network.vector.nbytes
    for ranks in (2, 4, 8):

        def train(comm):
            model = build("float32", 64)
            fit(model, draw(model, EQUAL), epochs=1, batch_size=N, comm=comm)
            return comm.sent

        assert max(on_ranks(ranks, train)) < 2 * size + 400 * ranks


def test_rank_0_says_where_all_begin():
    """Seeds of their own, as with seed=None, make no difference."""

    def train(comm):
        rank = comm.Get_rank()
        model = fastbptt.RNN(2, 4, 3, seed=rank)
        fit(model, draw(build(), RAGGED), epochs=2, seed=rank, comm=comm, shares=2)
        return bits(model)

    alone = fastbptt.RNN(2, 4, 3, seed=0)
    fit(alone, draw(build(), RAGGED), epochs=2, seed=0, shares=2)
    assert on_ranks(2, train) == [bits(alone)] * 2


def test_training_goes_on_from_a_file_on_another_number_of_ranks(tmp_path):
    kind = {"num_layers": 2, "dropout": 0.3}

    def train(comm, epochs, path=None):
        model = build("float32", **kind)
        options = {"epochs": epochs, "batch_size": 4, "shares": 4, "comm": comm}
        history = fit(model, draw(model, RAGGED), checkpoint=path, **options)
        return history, bits(model)

    expected = train(None, 4)
    for epochs, ranks in ((1, 4), (2, 3), (3, 1), (4, 2)):
        found = on_ranks(ranks, lambda comm, e=epochs: train(comm, e, tmp_path / "run"))
    for history, weights in found:
        assert_same_course(history, expected[0])
        assert weights == expected[1]


def trials(step):
    """Minibatches without end."""
    rng = np.random.default_rng([1, step])
    return rng.standard_normal((9, 5, 2)), rng.standard_normal((9, 5, 3))


@pytest.mark.parametrize("kind", ["function", "iterable"])
def test_each_rank_takes_its_pieces_of_endless_minibatches(kind):
    def train(comm):
        model = build("float32", output="all", noise=0.1)
        source = trials if kind == "function" else (trials(step) for step in range(100))
        options = {"steps_per_epoch": 3, "epochs": 2, "shares": 4, "seed": 1, "progress": False}
        history = fastbptt.fit(model, source, batch_size=1, comm=comm, **options)
        return history.loss, bits(model)

    expected = train(None)
    for ranks in (2, 3):
        assert on_ranks(ranks, train) == [expected] * ranks


# What goes wrong


def raised(size, function):
    """What each rank raises."""
    found = on_ranks(size, function)
    assert all(isinstance(error, BaseException) for error in found), found
    return found


@pytest.mark.parametrize("where", ["loss", "data", "callback", "save", "optimizer"])
def test_an_error_on_one_rank_is_raised_on_all(where, tmp_path):
    def train(comm):
        model, bad = build(), comm.Get_rank() == 1
        x, y = draw(model, RAGGED)
        options = {"epochs": 9, "shares": 4}

        def loss(y, target):
            if bad:
                raise ZeroDivisionError("of the loss")
            return losses.mse(y, target)

        class Failing(SGD):
            def step(self, parameters, gradients):
                raise ZeroDivisionError("of the optimizer")

        def callback(model, history):
            if bad and len(history.loss) == 2:
                raise ZeroDivisionError("of the callback")

        if where == "data" and bad:
            x = [a[:, :1] for a in x]
        if where == "loss":
            options["loss"] = loss
        if where == "optimizer" and bad:
            options["optimizer"] = Failing()
        if where == "callback":
            options["callback"] = callback
        if where == "save":
            options["checkpoint"] = tmp_path / "missing" / "run"
        fit(model, (x, y), comm=comm, **options)

    found = raised(3, train)
    kind = {"data": ValueError, "save": FileNotFoundError}.get(where, ZeroDivisionError)
    if where == "optimizer":
        kind = (ZeroDivisionError, ValueError)  # settings compare the optimizers' names
    assert all(isinstance(error, kind) for error in found), found
    assert len({str(error) for error in found}) == 1
    first = 0 if where == "save" else 1
    if where != "optimizer":
        for rank, error in enumerate(found):
            notes = getattr(error, "__notes__", [])
            assert (rank == first) == (not notes)
            assert all(f"Raised on rank {first}" in note for note in notes)


def test_an_error_that_does_not_travel_is_described():
    class Unpicklable(Exception):
        pass

    def train(comm):
        def loss(y, target):
            if comm.Get_rank() == 1:
                raise Unpicklable("somewhere")
            return losses.mse(y, target)

        model = build()
        fit(model, draw(model, RAGGED), loss=loss, comm=comm)

    other, own = raised(2, train)
    assert type(own) is Unpicklable
    assert type(other) is RuntimeError
    assert str(other) == "Unpicklable: somewhere"


def test_what_no_sum_can_be_taken_of_ends_all_ranks():
    def train(comm):
        model = build()
        x, y = draw(model, RAGGED)
        y[3] = np.nan
        before = bits(model)
        try:
            fit(model, (x, y), batch_size=N, comm=comm)
        finally:
            assert bits(model) == before

    for error in raised(3, train):
        assert isinstance(error, FloatingPointError)
        assert str(error).startswith("loss is nan in epoch 1, batch 1")


@pytest.mark.parametrize("name", ["batch_size", "epochs", "hidden_size", "callback"])
def test_ranks_with_other_settings_are_told(name):
    def train(comm):
        rank = comm.Get_rank()
        options = {
            "batch_size": {"batch_size": 4 + rank},
            "epochs": {"epochs": 1 + rank},
            "hidden_size": {},
            "callback": {"callback": (lambda *_: None) if rank else None},
        }[name]
        model = build(hidden_size=4 + rank * (name == "hidden_size"))
        fit(model, draw(model, RAGGED), comm=comm, **options)

    for error in raised(3, train):
        assert isinstance(error, ValueError)
        assert str(error).startswith(f"{name} is ")
        assert "on rank 1, expected" in str(error)


def test_arguments_that_do_not_fit():
    model = build()
    data = draw(model, RAGGED)
    for options, message in (
        ({"shares": 0}, "shares is 0, expected at least 1"),
        ({"shares": 9, "batch_size": 8}, "shares is 9, expected at most 8: batch_size"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(model, data, **options)
    with pytest.raises(TypeError, match=r"comm is 'world', expected a communicator of mpi4py"):
        fit(model, data, comm="world")
    for error in raised(3, lambda comm: fit(build(), data, shares=2, comm=comm)):
        assert str(error) == "shares is 2, expected a piece for each of the 3 ranks at least"


# Callbacks, the bar, threads


def test_callbacks_are_called_on_all_ranks_or_on_the_first():
    def train(comm, first):
        calls = []

        def callback(model, history):
            calls.append(len(history.loss))
            return comm.Get_rank() == 0 and len(calls) == 2  # one is enough to stop all

        callback.rank_0_only = first
        model = build()
        history = fit(model, draw(model, RAGGED), comm=comm, callback=callback)
        return calls, history.stopped, len(history.loss)

    stopped = "callback", 2
    assert on_ranks(2, lambda comm: train(comm, False)) == [([1, 2], *stopped)] * 2
    assert on_ranks(2, lambda comm: train(comm, True)) == [([1, 2], *stopped), ([], *stopped)]


def test_callbacks_may_change_all_ranks_alike_but_not_one():
    def train(comm, everywhere):
        optimizer = SGD(0.1)

        def callback(model, history):
            if everywhere or comm.Get_rank() == 0:
                optimizer.learning_rate = 0.1 / len(history.loss)

        model = build()
        fit(model, draw(model, RAGGED), optimizer=optimizer, epochs=3, comm=comm, callback=callback)
        return bits(model)

    one, other = on_ranks(2, lambda comm: train(comm, True))
    assert one == other
    for error in raised(2, lambda comm: train(comm, False)):
        assert str(error) == "learning_rate is 0.1 on rank 1, expected 0.05 as on rank 0"


def test_rank_0_shows_progress(capsys):
    pytest.importorskip("tqdm")

    def train(comm):
        fit(build(), draw(build(), RAGGED), epochs=1, comm=comm, progress=True)

    on_ranks(3, train)
    assert capsys.readouterr().err.count("\n") == 1


def test_cores_are_divided_among_those_who_may_use_them():
    eight = set(range(8))
    share = _shares.share_of_cores
    assert [share([("a", eight)] * 3, rank) for rank in range(3)] == [2, 2, 2]
    assert [share([("a", eight), ("b", eight)], rank) for rank in range(2)] == [8, 8]
    assert share([("a", {0, 1, 2}), ("a", {3, 4})], 0) == 3  # bound by the launcher
    assert share([("a", {0, 1, 2})] * 3, 1) == 1
    assert share([("a", {0})] * 5, 4) == 1


@pytest.mark.parametrize("variable", [None, "2"])
def test_ranks_of_a_node_share_its_cores(monkeypatch, variable):
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("NUMBA_NUM_THREADS", variable)
    monkeypatch.setattr(_shares, "_cores", lambda: {0, 1})

    def train(comm):
        before, seen = numba.get_num_threads(), []
        model = build()
        callback = lambda *_: seen.append(numba.get_num_threads())  # noqa: E731
        fit(model, draw(model, RAGGED), epochs=1, comm=comm, callback=callback)
        assert numba.get_num_threads() == before
        return before, seen

    for before, seen in on_ranks(2, train):
        assert seen == [1 if variable is None else before]


def test_rank_0_compiles_first(monkeypatch):
    """Then one of each other node, then the rest."""
    nodes, order, local = ("a", "a", "b", "b", "b"), [], threading.local()
    monkeypatch.setattr(_shares.platform, "node", lambda: nodes[local.rank])
    monkeypatch.setattr("fastbptt.rnn.warmup", lambda dtype: order.append(local.rank))

    def prepare(comm):
        local.rank = comm.Get_rank()
        with _shares.Ranks(comm) as ranks:
            ranks.prepare("float32")

    on_ranks(len(nodes), prepare)
    assert order[:2] == [0, 2]
    assert sorted(order[2:]) == [1, 3, 4]
