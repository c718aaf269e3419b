"""Files of models: read back to the bit, replaced whole or not at all, others refused."""

import json
import os
import pathlib
import pickle
import random
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import fastbptt
from fastbptt import RNN, Adam, storage
from fastbptt.extras import MissingExtraError

pytest.importorskip("safetensors")

# What is told apart in a file: also signed zeros, subnormals, infinities and NaN.
ODD = [-0.0, 1e-40, -np.inf, np.nan]


def build(**options):
    return RNN(2, 3, 4, seed=0, **options)


def contents(path):
    """Tensors and metadata of a file, by the format's own words: a header's length as 8 bytes,
    little-endian, the header as JSON, then the numbers (https://github.com/huggingface/safetensors).
    """
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    metadata = header.pop("__metadata__", {})
    dtypes = {"F32": "<f4", "F64": "<f8", "I64": "<i8"}
    tensors = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        tensors[name] = np.frombuffer(data[start:end], dtypes[entry["dtype"]])
        tensors[name] = tensors[name].reshape(entry["shape"])
    return tensors, metadata


def write(path, tensors, metadata):
    """The inverse: a file of these."""
    header, data = {"__metadata__": metadata}, b""
    for name, a in tensors.items():
        dtype = a.dtype.str.replace("<f", "F").replace("<i", "I")
        dtype = dtype.replace("4", "32").replace("8", "64")
        offsets = [len(data), len(data) + a.nbytes]
        header[name] = {"dtype": dtype, "shape": a.shape, "data_offsets": offsets}
        data += a.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def assert_same(got, expected):
    """Check that two models are the same, to the bit."""
    assert got.config() == expected.config()
    assert got.network.vector.dtype == expected.network.vector.dtype
    assert got.network.vector.tobytes() == expected.network.vector.tobytes()


# There and back


@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forwards", "both"])
@pytest.mark.parametrize("output", ["last", "all"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_round_trip(num_layers, bidirectional, output, dtype, tmp_path):
    kind = {"num_layers": num_layers, "bidirectional": bidirectional, "output": output}
    model, path = build(**kind, dtype=dtype), tmp_path / "model.safetensors"
    fastbptt.save(model, path)
    got = fastbptt.load(path)
    assert_same(got, model)
    x = np.ones((5, 4, 2))
    np.testing.assert_array_equal(got.predict(x), model.predict(x))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "options",
    [{"activation": "relu", "backend": "numpy"}, {"num_layers": 2, "dropout": 0.25}],
    ids=str,
)
def test_all_that_the_constructor_was_given(options, tmp_path):
    fastbptt.save(build(**options), tmp_path / "model")
    assert_same(fastbptt.load(tmp_path / "model"), build(**options))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_odd_numbers(dtype, tmp_path):
    model = build(dtype=dtype)
    model.network.vector[: len(ODD)] = ODD
    fastbptt.save(model, tmp_path / "model")
    assert_same(fastbptt.load(tmp_path / "model"), model)


def test_a_path_may_be_a_str_and_the_file_be_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fastbptt.save(build(dtype="float64"), "model")
    fastbptt.save(build(), "model")
    assert_same(fastbptt.load("model"), build())
    assert os.listdir() == ["model"]


def test_the_file_holds_the_parameters_by_name_and_no_code(tmp_path):
    model, path = build(num_layers=2, bidirectional=True), tmp_path / "model"
    fastbptt.save(model, path)
    tensors, metadata = contents(path)
    assert set(tensors) == set(model.parameters())
    for name, a in model.parameters().items():
        np.testing.assert_array_equal(tensors[name], a, strict=True)
    assert (metadata["format"], metadata["version"]) == ("fastbptt", "1")
    assert json.loads(metadata["model"]) == model.config()
    start, numbers = path.read_bytes()[:9], sum(a.nbytes for a in tensors.values())
    assert start[8:] == b"{"
    assert path.stat().st_size == 8 + int.from_bytes(start[:8], "little") + numbers


def test_a_file_written_by_hand(tmp_path):
    model = build(dtype="float64")
    fastbptt.save(model, tmp_path / "model")
    write(tmp_path / "copy", *contents(tmp_path / "model"))
    assert_same(fastbptt.load(tmp_path / "copy"), model)


def test_training(tmp_path):
    model, optimizer, path = build(), Adam(), tmp_path / "run"
    weights = {"weights": model.network.vector}
    for _ in range(2):
        optimizer.step(weights, {"weights": np.sin(model.network.vector)})
    best, progress = model.network.vector + 1, {"epoch": 3, "loss": [0.1, 1 / 3], "none": None}
    storage.save_training(path, model, optimizer, best, progress)
    got, state, got_best, got_progress = storage.load_training(path)
    assert_same(got, model)
    assert state.keys() == optimizer.state().keys()
    for name, a in optimizer.state().items():
        np.testing.assert_array_equal(state[name], a, strict=True)
    np.testing.assert_array_equal(got_best, best, strict=True)
    assert got_progress == progress
    np.testing.assert_array_equal(fastbptt.load(path).network.vector, best)
    storage.save_training(path, model, optimizer, None, progress)
    assert storage.load_training(path)[2] is None
    assert_same(fastbptt.load(path), model)


@pytest.mark.parametrize("kind", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_generators(kind):
    rng = np.random.Generator(getattr(np.random, kind)(3))
    rng.random(3, np.float32)  # an odd number of halves: one is kept for later
    text = json.dumps(rng.bit_generator.state, default=np.ndarray.tolist)
    got = storage.restored_generator(json.loads(text))
    np.testing.assert_array_equal(got.random(5, np.float32), rng.random(5, np.float32))
    np.testing.assert_array_equal(got.permutation(99), rng.permutation(99))


# Whole or not at all


@pytest.mark.parametrize("there", [True, False], ids=["over a file", "new"])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("fails", ["open", "fsync", "replace"])
def test_a_save_that_fails(fails, error, there, tmp_path, monkeypatch):
    path = tmp_path / "model"
    if there:
        fastbptt.save(build(), path)
    before = path.read_bytes() if there else None

    def fail(*args, **kwargs):
        raise error("disk full")

    with monkeypatch.context() as patch:
        if fails == "open":
            patch.setattr("builtins.open", fail)
        elif fails == "fsync":
            patch.setattr(os, "fsync", fail)
        else:
            patch.setattr(pathlib.Path, "replace", fail)
        with pytest.raises(error, match="disk full"):
            fastbptt.save(build(dtype="float64"), path)
    assert list(tmp_path.iterdir()) == ([path] if there else [])
    assert not there or path.read_bytes() == before


def test_the_file_is_complete_before_it_has_its_name(tmp_path, monkeypatch):
    path, seen = tmp_path / "model", []

    def replace(part, target):
        assert os.fspath(target) == os.fspath(path)
        assert part.parent == tmp_path  # a rename does not cross file systems
        seen.append(fastbptt.load(part).dtype)
        return original(part, target)

    def fsync(file):
        seen.append("fsync")

    original = pathlib.Path.replace
    monkeypatch.setattr(pathlib.Path, "replace", replace)
    monkeypatch.setattr(os, "fsync", fsync)
    fastbptt.save(build(dtype="float64"), path)
    assert seen[:2] == ["fsync", "float64"]  # on the disk, then renamed
    if os.name == "posix":
        assert seen[2:] == ["fsync"]  # and the name, too


SAVING = """
import itertools, sys
import numpy as np
import fastbptt

model = fastbptt.RNN(10**6, 1, 1, seed=0)
for number in itertools.count(1):
    model.network.vector[...] = number
    fastbptt.save(model, sys.argv[1])
    print(number, flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
def test_a_kill_in_the_middle_of_saving(tmp_path):
    """4 MB, saved again and again: the last that was saved is there, or the next one, complete."""
    path, rng = tmp_path / "model", random.Random(0)
    env = {**os.environ, "PYTHONPATH": str(pathlib.Path(fastbptt.__file__).parents[1])}
    for _ in range(4):
        saving = [sys.executable, "-c", SAVING, str(path)]
        with subprocess.Popen(saving, env=env, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            number = int(process.stdout.readline())
            time.sleep(rng.uniform(0, 0.05))
            process.kill()
            number = max([number, *map(int, process.stdout.read().split())])
        vector = fastbptt.load(path).network.vector
        assert set(vector.tolist()) <= {number, number + 1}
        assert len(set(vector.tolist())) == 1


# What is refused


def refused(path, message):
    """Check that neither a model nor a training is read, and that the error names the file."""
    for read in (fastbptt.load, storage.load_training):
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))}.*{message}"):
            read(path)


def test_a_file_cut_short(tmp_path):
    path = tmp_path / "model"
    fastbptt.save(build(), path)
    content = path.read_bytes()
    for length in [*range(0, len(content), 5), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))} is cut short"):
            fastbptt.load(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"In the beginning God created the heaven and the earth.\n" * 20,
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0",
        b"PK\x03\x04" + bytes(100),
        pickle.dumps({"W_x": 1.0}),
        bytes(1000),
        b"\xff" * 1000,
    ],
    ids=["empty", "text", "PNG", "zip", "pickle", "zeros", "ones"],
)
def test_another_kind_of_file(content, tmp_path):
    (tmp_path / "model").write_bytes(content)
    refused(tmp_path / "model", "is cut short or no safetensors file")


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F8_E4M3"])
@pytest.mark.parametrize("metadata", [{}, {"format": "pt"}], ids=["bare", "torch"])
def test_another_safetensors_file(metadata, dtype, tmp_path):
    size = {"F32": 4, "BF16": 2, "F8_E4M3": 1}[dtype]
    header = {"W": {"dtype": dtype, "shape": [1], "data_offsets": [0, size]}}
    text = json.dumps({**header, "__metadata__": metadata} if metadata else header).encode()
    (tmp_path / "model").write_bytes(len(text).to_bytes(8, "little") + text + bytes(size))
    refused(tmp_path / "model", "is a safetensors file, but holds no fastbptt model")


def changed(path, change):
    """Write a model, then change its tensors and metadata."""
    fastbptt.save(build(), path)
    tensors, metadata = contents(path)
    change(tensors, metadata)
    write(path, tensors, metadata)


@pytest.mark.parametrize("version", ["2", "10", "1.5", "", None], ids=str)
def test_a_later_version(version, tmp_path):
    """Whatever else it holds."""

    def change(tensors, metadata):
        tensors.clear()
        metadata.clear()
        metadata.update(format="fastbptt", model="?")
        if version is not None:
            metadata["version"] = version

    changed(tmp_path / "model", change)
    refused(tmp_path / "model", f"has format version '{version or ''}', expected 1 or earlier")


@pytest.mark.parametrize("name", list(build().parameters()))
def test_a_tensor_is_missing(name, tmp_path):
    changed(tmp_path / "model", lambda tensors, metadata: tensors.pop(name))
    shape = build().parameters()[name].shape
    refused(tmp_path / "model", re.escape(f"{name} is missing, expected {shape}, float32"))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda a: a[:-1], "(2, 3), float32"),
        (lambda a: a.astype(np.float64), "(3, 3), float64"),
        (lambda a: a.astype(np.int64), "(3, 3), int64"),
        (lambda a: a.reshape(9), "(9,), float32"),
    ],
    ids=["row", "float64", "int64", "flat"],
)
def test_a_tensor_of_another_shape(change, found, tmp_path):
    def replace(tensors, metadata):
        tensors["layers.0.W_h"] = np.ascontiguousarray(change(tensors["layers.0.W_h"]))

    changed(tmp_path / "model", replace)
    message = f"layers.0.W_h has shape {found}, expected (3, 3), float32"
    refused(tmp_path / "model", re.escape(message))


@pytest.mark.parametrize(
    ("name", "text"),
    [("model", text) for text in ("", "{", "null", "[1]", "{}", '{"size": 1}', None)]
    + [("training", text) for text in ("", "{", None)],
)
def test_no_description(name, text, tmp_path):
    def change(tensors, metadata):
        if text is None:
            del metadata[name]
        else:
            metadata[name] = text

    changed(tmp_path / "model", change)
    refused(tmp_path / "model", "describes no model")


def test_a_model_alone_is_no_training(tmp_path):
    fastbptt.save(build(), tmp_path / "model")
    with pytest.raises(ValueError, match="holds a model alone, expected the checkpoint"):
        storage.load_training(tmp_path / "model")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        fastbptt.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        fastbptt.save(build(), tmp_path / "nowhere" / "model")
    with pytest.raises(OSError, match=re.escape(str(tmp_path))):
        fastbptt.load(tmp_path)


@pytest.mark.parametrize("model", [None, {"W_x": np.ones(3)}, RNN], ids=str)
def test_save_takes_a_model(model, tmp_path):
    with pytest.raises(TypeError, match=f"model is a {type(model).__name__}, expected an RNN"):
        fastbptt.save(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_without_safetensors(tmp_path, monkeypatch):
    fastbptt.save(build(), tmp_path / "model")
    for name in ("safetensors", "safetensors.numpy"):
        monkeypatch.setitem(sys.modules, name, None)
    for call in (
        lambda: fastbptt.load(tmp_path / "model"),
        lambda: fastbptt.save(build(), tmp_path / "another"),
    ):
        with pytest.raises(MissingExtraError, match=re.escape('pip install "fastbptt[train]"')):
            call()
    assert os.listdir(tmp_path) == ["model"]
