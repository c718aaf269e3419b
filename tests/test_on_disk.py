"""Data sets in files: the same bits as in memory, which they need not fit into."""

import sys

import numpy as np
import pytest
from ranks import on_ranks
from trainings import OUTPUT, RAGGED, bits, build, draw, fit, start

from fastbptt import RNN, _sequences

F4 = np.dtype("float32")


def mapped(path, a):
    """A file's array: what was written, in memory no longer."""
    a = np.asarray(a)
    if a.size == 0:  # no file can be mapped that is empty
        return a
    np.save(path, a)
    return np.load(path.with_suffix(".npy"), mmap_mode="r")


def mapped_all(folder, name, arrays):
    return [mapped(folder / f"{name}-{i}", a) for i, a in enumerate(arrays)]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
def test_windows_of_a_file_are_those_of_memory(tmp_path, dtype):
    """Of arrays of any dtype and order, and of lists."""
    a = np.arange(60).reshape(4, 5, 3).astype(dtype)
    lengths, index = [5, 0, 3, 4], np.array([2, 3, 1])
    flat = mapped(tmp_path / "flat", a)
    turned = mapped(tmp_path / "turned", a.transpose(1, 0, 2)).transpose(1, 0, 2)
    listed = mapped_all(tmp_path, "list", [row[:n] for row, n in zip(a, lengths, strict=True)])
    inside = _sequences.inputs(a, lengths, 3, F4)
    for given in ((flat, lengths), (turned, lengths), (listed, None)):
        x = _sequences.inputs(*given, 3, F4)
        assert isinstance(x, _sequences.OnDisk)
        np.testing.assert_array_equal(x.counted(), inside.counted(), strict=True)
        for first, steps in ((0, None), (0, 2), (2, 2), (4, 2), (6, 2)):
            got, expected = (s.window(index, first, steps) for s in (x, inside))
            counts = np.arange(first, first + len(got))[:, np.newaxis] < x.lengths[index]
            np.testing.assert_array_equal(got[counts], expected[counts], strict=True)
            assert got.shape == expected.shape
        part = x.part(slice(2, None))
        np.testing.assert_array_equal(part.counted(), inside.part(slice(2, None)).counted())


@pytest.mark.parametrize("options", [{}, {"truncate": 3}, {"validation_split": 0.3, "shares": 3}])
@OUTPUT
def test_training_from_files_has_the_same_bits(tmp_path, output, options):
    inside, outside = build("float32", output=output), build("float32", output=output)
    x, y = draw(inside, RAGGED)
    files = mapped_all(tmp_path, "x", x), y
    if output == "all":
        files = files[0], mapped_all(tmp_path, "y", y)
    options = {"epochs": 2, "batch_size": 4, "validation": None, **options}
    expected = fit(inside, (x, y), **options).loss
    assert fit(outside, files, **options).loss == expected
    assert bits(outside) == bits(inside)
    found = outside.predict(files[0])
    for a, b in zip(found, inside.predict(x), strict=True):
        np.testing.assert_array_equal(a, b)
    for weights in on_ranks(
        2, lambda comm: train_on(comm, output, files, {**options, "shares": 3})
    ):
        assert weights == train_on(None, output, (x, y), {**options, "shares": 3})


def train_on(comm, output, data, options):
    model = build("float32", output=output)
    fit(model, data, comm=comm, **options)
    return bits(model)


@pytest.mark.parametrize("ignored", [False, True])
def test_classes_in_files(tmp_path, ignored):
    found = []
    x = np.random.default_rng(0).standard_normal((9, 5, 2))
    y = np.random.default_rng(1).integers(0, 3, (9, 5)).astype("int16")
    y[3:5] = -100 if ignored else 0
    for data in ((x, y), (mapped(tmp_path / "x", x), mapped(tmp_path / "y", y))):
        model = build("float32", output="all")
        history = fit(model, data, loss="cross_entropy", epochs=2, validation=data)
        found.append((bits(model), history.loss, history.validation_loss))
    assert found[0] == found[1]


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is Linux's")
def test_data_larger_than_memory(tmp_path):
    """The limit is of memory that is a process's own; of addresses, what is mapped takes some.

    256 MiB of zeros, which take no place on the disk, in 64 MiB of memory beyond what Python and
    the compiled kernels have.
    """
    program = """
import re, resource, sys
import numpy as np
import fastbptt

N, T, I = 1024, 64, 1024
x = np.memmap(sys.argv[1], np.float32, "w+", shape=(N, T, I))
y = np.memmap(sys.argv[2], np.int8, "w+", shape=(N, T))
model = fastbptt.RNN(I, 4, 3, output="all", seed=0)
options = {"loss": "cross_entropy", "epochs": 1, "progress": False, "seed": 0}
fastbptt.fit(model, x[:64], y[:64], validation=(x[:64], y[:64]), **options)
x, y = (np.memmap(a.filename, a.dtype, "r", shape=a.shape) for a in (x, y))
used = int(re.search(r"VmData:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) << 10
resource.setrlimit(resource.RLIMIT_DATA, (used + (64 << 20),) * 2)
for read in (np.array, lambda a: a + 1):
    try:
        read(x)
    except MemoryError:
        continue
    raise AssertionError("the limit holds nothing back")
fastbptt.fit(model, x, y, validation=(x[-200:], y[-200:]), shares=2, **options)
fastbptt.fit(model, [*x[:512]], [*y[:512]], **options)
print(model.evaluate(x[:64], y[:64], loss="cross_entropy"))
"""
    files = [tmp_path / name for name in "xy"]
    run = start(program, tmp_path, *files)
    out, errors = run.communicate(timeout=240)
    assert run.returncode == 0, errors
    assert 0 < float(out) < 1
    assert sum(file.stat().st_blocks for file in files) < 1000, "zeros were written"


@pytest.mark.parametrize("form", ["padded", "list"])
def test_tokens_in_files(tmp_path, form):
    """Integers in place of one-hot inputs, on one rank and on two."""
    x = np.random.default_rng(0).integers(0, 5, (9, 6)).astype("uint8")
    y = (x.astype(int) + 1) % 5
    inside = (x, y) if form == "padded" else ([*x], [*y])
    outside = mapped(tmp_path / "x", x), mapped(tmp_path / "y", y)
    if form == "list":
        outside = mapped_all(tmp_path, "x", x), mapped_all(tmp_path, "y", y)

    def train(comm, data):
        model = RNN(5, 8, 5, output="all", seed=0)
        fit(model, data, loss="cross_entropy", epochs=2, batch_size=4, shares=3, comm=comm)
        return bits(model)

    expected = train(None, inside)
    assert train(None, outside) == expected
    assert on_ranks(2, lambda comm: train(comm, outside)) == [expected] * 2
