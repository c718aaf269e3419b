"""Files of models: read back to the bit, replaced whole or not at all, others refused."""

import contextlib
import copy
import itertools
import json
import os
import pathlib
import pickle
import random
import re
import secrets
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest

import fastbptt
from fastbptt import RNN, Adam, _storage

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
    [
        {"activation": "relu", "backend": "numpy", "output_dropout": 0.5},
        {"num_layers": 2, "dropout": 0.25},
    ],
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
    not_set = {"leak": None, "train_initial_state": False, "spectral_radius": None}
    not_set["constraints"] = None
    assert {**json.loads(metadata["model"]), **not_set} == model.config()
    start, numbers = path.read_bytes()[:9], sum(a.nbytes for a in tensors.values())
    assert start[8:] == b"{"
    assert path.stat().st_size == 8 + int.from_bytes(start[:8], "little") + numbers


@pytest.mark.parametrize(
    "leak", [fastbptt.Leak(0.2), fastbptt.Leak([0.1, 0.2, 1], of="potential")], ids=str
)
def test_a_leak_is_kept(leak, tmp_path):
    model, path = build(leak=leak, activation="rectified_tanh"), tmp_path / "model"
    fastbptt.save(model, path)
    assert fastbptt.load(path).leak == leak
    assert_same(fastbptt.load(path), model)


@pytest.mark.parametrize(
    "leak", [None, 0.5, {}, {"alpha": 0.5}, {"alpha": 2, "of": "rate"}, {"alpha": 0.5, "of": []},
             {"alpha": [0.5], "of": "rate"}, {"alpha": 1, "of": "rate"}],
)  # fmt: skip
def test_a_file_with_a_leak_that_is_none(leak, tmp_path):
    path = tmp_path / "model"
    fastbptt.save(build(leak=fastbptt.Leak(0.5)), path)
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    config = {**json.loads(header["__metadata__"]["model"]), "leak": leak}
    header["__metadata__"]["model"] = json.dumps(config)
    changed = json.dumps(header).encode()
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + content[8 + size :])
    with pytest.raises(ValueError, match="describes no model"):
        fastbptt.load(path)


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
    _storage.save_training(path, model, optimizer, best, progress)
    got, state, got_best, got_progress = _storage.load_training(path)
    assert contents(path)[1]["version"] == "3"
    assert_same(got, model)
    assert state.keys() == optimizer.state().keys()
    for name, a in optimizer.state().items():
        np.testing.assert_array_equal(state[name], a, strict=True)
    np.testing.assert_array_equal(got_best, best, strict=True)
    assert got_progress == progress
    np.testing.assert_array_equal(fastbptt.load(path).network.vector, best)
    _storage.save_training(path, model, optimizer, None, progress)
    assert _storage.load_training(path)[2] is None
    assert_same(fastbptt.load(path), model)


@pytest.mark.parametrize("kind", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_generators(kind):
    rng = np.random.Generator(getattr(np.random, kind)(3))
    rng.random(3, np.float32)  # an odd number of halves: one is kept for later
    text = json.dumps(rng.bit_generator.state, default=np.ndarray.tolist)
    got = _storage.restored_generator(json.loads(text))
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


@contextlib.contextmanager
def started(program, *args):
    """A program in a process of its own that says on stdout how far it is; killed in the end."""
    env = {**os.environ, "PYTHONPATH": str(pathlib.Path(fastbptt.__file__).parents[1])}
    command = [sys.executable, "-c", program, *map(str, args)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


IN_THE_MIDDLE = """
import os, sys, time
import fastbptt

def fsync(file):
    print("in the middle", flush=True)
    time.sleep(100)

os.fsync = fsync
fastbptt.save(fastbptt.RNN(2, 3, 4), sys.argv[1])
"""


def test_what_a_killed_process_leaves_behind(tmp_path, monkeypatch):
    """The next save removes it, but not what another thread or process is writing."""
    path, go_on, at_work = tmp_path / "model", threading.Event(), threading.Event()
    with started(IN_THE_MIDDLE, path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in the middle\n"
        [alive] = tmp_path.iterdir()
        fastbptt.save(build(), path)
        assert set(tmp_path.iterdir()) == {path, alive}
        process.kill()
        process.wait()
        assert alive.exists()
    others = f"{alive.name}.png", f"x{alive.name}", ".fastbptt-.part"
    others = [tmp_path / name for name in others]
    for other in others:
        other.write_text("mine")

    def fsync(file):
        if threading.current_thread() is thread:
            at_work.set()
            go_on.wait(10)

    monkeypatch.setattr(os, "fsync", fsync)
    thread = threading.Thread(target=fastbptt.save, args=(build(dtype="float64"), path))
    thread.start()
    try:
        assert at_work.wait(10)
        [its] = set(tmp_path.iterdir()) - {path, *others}
        assert its != alive
        fastbptt.save(build(), path)
        assert set(tmp_path.iterdir()) == {path, its, *others}
    finally:
        go_on.set()
        thread.join()
    assert_same(fastbptt.load(path), build(dtype="float64"))
    assert set(tmp_path.iterdir()) == {path, *others}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs")
def test_what_only_looks_like_a_left_over(tmp_path):
    victim, names = tmp_path / "victim", [tmp_path / f".fastbptt-{c * 32}.part" for c in "abc"]
    victim.write_text("mine")
    names[0].symlink_to(victim)
    names[1].mkdir()
    os.mkfifo(names[2])
    fastbptt.save(build(), tmp_path / "model")
    assert victim.read_text() == "mine"
    assert set(tmp_path.iterdir()) == {tmp_path / "model", victim, *names}


def test_a_file_taken_for_a_left_over_before_it_has_its_lock(tmp_path, monkeypatch):
    fcntl, files = pytest.importorskip("fcntl"), []

    def flock(file, operation):
        if operation == fcntl.LOCK_EX and not files:
            files.extend(tmp_path.iterdir())
            fastbptt.save(build(), tmp_path / "another")
            assert not files[0].exists()
        original(file, operation)

    original = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", flock)
    fastbptt.save(build(), tmp_path / "model")
    assert len(files) == 1
    assert_same(fastbptt.load(tmp_path / "model"), build())
    assert {path.name for path in tmp_path.iterdir()} == {"model", "another"}


def test_names_of_files_being_written(tmp_path, monkeypatch):
    """New ones each time, which nobody can guess and put a link under."""
    parts = []

    def replace(part, target):
        parts.append(part)
        return original(part, target)

    original = pathlib.Path.replace
    monkeypatch.setattr(pathlib.Path, "replace", replace)
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / f".model.{os.getpid()}").symlink_to(victim)
    for _ in range(3):
        fastbptt.save(build(), tmp_path / "model")
    assert len(set(parts)) == 3
    monkeypatch.setattr(secrets, "token_hex", lambda count: "0" * 2 * count)
    (tmp_path / f".fastbptt-{'0' * 32}.part").symlink_to(victim)
    with pytest.raises(FileExistsError):
        fastbptt.save(build(), tmp_path / "model")
    assert victim.read_text() == "mine"
    assert_same(fastbptt.load(tmp_path / "model"), build())


@pytest.mark.skipif(os.name != "posix", reason="modes as POSIX has them")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o444, 0o777])
def test_a_file_keeps_its_mode(mode, tmp_path, monkeypatch):
    path, seen = tmp_path / "model", []

    def fsync(file):
        seen.append(stat.S_IMODE(os.fstat(file).st_mode))

    umask = os.umask(0o027)
    try:
        fastbptt.save(build(), path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(mode)
        monkeypatch.setattr(os, "fsync", fsync)
        fastbptt.save(build(dtype="float64"), path)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == mode == seen[0]


def test_what_a_link_leads_to_is_replaced(tmp_path):
    (tmp_path / "models").mkdir()
    target, links = tmp_path / "models" / "model", [tmp_path / name for name in "abc"]
    links[0].symlink_to("models/model")
    links[1].symlink_to(links[0])
    links[2].symlink_to(tmp_path / "models")
    for path in (links[0], links[1], links[2] / "model"):  # the first one leads to nothing yet
        fastbptt.save(build(), path)
        assert not target.is_symlink()
        assert_same(fastbptt.load(target), build())
        assert all(link.is_symlink() for link in links)
        assert list(target.parent.iterdir()) == [target]
        fastbptt.save(build(dtype="float64"), path)
        assert_same(fastbptt.load(target), build(dtype="float64"))
        target.unlink()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="loop"):
        fastbptt.save(build(), tmp_path / "loop")
    assert (tmp_path / "loop").is_symlink()


def test_long_names(tmp_path):
    path = tmp_path / ("m" * os.pathconf(tmp_path, "PC_NAME_MAX"))
    fastbptt.save(build(), path)
    assert_same(fastbptt.load(path), build())
    with pytest.raises(OSError, match="too long"):
        fastbptt.save(build(), tmp_path / f"{path.name}m")
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def nothing_is_renamed(monkeypatch):
    """As root, to replace a device would destroy it."""
    for module, name in itertools.product((os, pathlib.Path), ("rename", "replace")):
        monkeypatch.setattr(module, name, lambda *args: pytest.fail("replaced"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs")
@pytest.mark.usefixtures("nothing_is_renamed")
def test_what_is_no_regular_file(tmp_path):
    (tmp_path / "directory").mkdir()
    with pytest.raises(IsADirectoryError, match="directory"):
        fastbptt.save(build(), tmp_path / "directory")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        with pytest.raises(OSError, match="socket"):
            fastbptt.save(build(), tmp_path / "socket")
        assert (tmp_path / "socket").is_socket()
    fastbptt.save(build(), "/dev/null")
    assert os.path.exists("/dev/null")
    assert not os.path.isfile("/dev/null")

    fifo, content = tmp_path / "fifo", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: content.append(fifo.read_bytes()), daemon=True)
    reader.start()
    fastbptt.save(build(), fifo)
    reader.join(10)
    assert fifo.is_fifo()
    (tmp_path / "copy").write_bytes(content[0])
    assert_same(fastbptt.load(tmp_path / "copy"), build())
    for path in (fifo, "/dev/null", "/dev/zero"):  # without waiting for a writer, or for ever
        refused(path, "is cut short")


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="no /dev/fd")
@pytest.mark.usefixtures("nothing_is_renamed")
def test_a_pipe_by_its_name():
    """As /dev/stdout is one: a link that leads to no path."""
    ours, theirs = os.pipe()
    with open(ours, "rb") as reading, open(theirs, "wb"):
        _storage.replace(f"/dev/fd/{theirs}", b"content")
        assert reading.read(7) == b"content"


# Several at once

STRESS = """
import itertools, sys
import numpy as np
import fastbptt

model = fastbptt.RNN(10**5, 1, 1, seed=0)
for number in itertools.count(int(sys.argv[2])):
    model.network.vector[...] = number
    fastbptt.save(model, sys.argv[1])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
def test_threads_and_processes_save_and_load_one_path(tmp_path):
    """With kills: there is always a file of one save, whole."""
    path, rng, stop = tmp_path / "model", random.Random(0), threading.Event()
    model, failed, loaded = RNN(10**5, 1, 1, seed=0), [], []
    model.network.vector[...] = -1
    fastbptt.save(model, path)

    def save():
        fastbptt.save(model, path)

    def load():
        [number] = set(fastbptt.load(path).network.vector.tolist())
        loaded.append(number)

    def work(action):
        try:
            while not stop.is_set():
                action()
        except BaseException as error:
            failed.append(error)

    actions = save, save, load, load
    threads = [threading.Thread(target=work, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    try:
        for first in (0, 10**6):
            with started(STRESS, path, first), started(STRESS, path, first):
                deadline = time.monotonic() + 30
                while not (failed or (loaded and max(loaded) > first)):
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                time.sleep(rng.uniform(0, 0.1))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failed
    load()
    save()
    assert list(tmp_path.iterdir()) == [path]


CUT = """
import sys
import fastbptt
from fastbptt import _storage

def check_format(path, metadata):
    open(path, "wb").close()
    original(path, metadata)

original, _storage._check_format = _storage._check_format, check_format
print(fastbptt.load(sys.argv[1]).network.vector.sum().item())
"""


def test_a_file_that_another_process_cuts_while_it_is_read(tmp_path):
    """Mapped memory would vanish, and with it the process: SIGBUS."""
    model, path = RNN(10**5, 1, 1, seed=0), tmp_path / "model"
    fastbptt.save(model, path)
    with started(CUT, path) as process:
        assert process.stdout is not None
        assert process.stdout.read() == f"{model.network.vector.sum().item()}\n"
        assert process.wait() == 0
    assert path.stat().st_size == 0


# Without drawing


def test_models_are_loaded_and_copied_without_drawing_weights(tmp_path, monkeypatch):
    model, optimizer = build(num_layers=2, bidirectional=True), Adam()
    fastbptt.save(model, tmp_path / "model")
    _storage.save_training(tmp_path / "run", model, optimizer, None, {})
    for module, name in ((np.linalg, "qr"), (np.random, "default_rng")):
        monkeypatch.setattr(module, name, lambda *args: pytest.fail("drawn"))
    for copied in (
        fastbptt.load(tmp_path / "model"),
        fastbptt.load(tmp_path / "run"),
        _storage.load_training(tmp_path / "run")[0],
        copy.copy(model),
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
    ):
        assert_same(copied, model)
        assert not np.shares_memory(copied.network.vector, model.network.vector)
        assert copied.network.vector.flags.writeable


# What is refused


def refused(path, message):
    """Check that neither a model nor a training is read, and that the error names the file."""
    for read in (fastbptt.load, _storage.load_training):
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


@pytest.mark.parametrize("version", ["4", "10", "1.5", "", None], ids=str)
def test_a_later_version(version, tmp_path):
    """Whatever else it holds."""

    def change(tensors, metadata):
        tensors.clear()
        metadata.clear()
        metadata.update(format="fastbptt", model="?")
        if version is not None:
            metadata["version"] = version

    changed(tmp_path / "model", change)
    refused(tmp_path / "model", f"has format version '{version or ''}', expected 3 or earlier")


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


SIZES = [0, -1, 2.0, True, "2", None, [2], 10**4, 2**31, 2**63, 10**30, 10**400]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size!s:.9}")
@pytest.mark.parametrize("name", ["input_size", "hidden_size", "output_size", "num_layers"])
def test_other_sizes_than_the_tensors(name, size, tmp_path, monkeypatch):
    """Nothing of these sizes is made, nor drawn."""

    def change(tensors, metadata):
        metadata["model"] = json.dumps({**json.loads(metadata["model"]), name: size})

    changed(tmp_path / "model", change)
    monkeypatch.setattr(np.linalg, "qr", lambda *args: pytest.fail("drawn"))
    tracemalloc.start()
    refused(tmp_path / "model", "")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6


@pytest.mark.parametrize(
    "change",
    [
        {"bidirectional": "no"}, {"bidirectional": 0}, {"activation": "sin"}, {"activation": 1},
        {"output": "first"}, {"dropout": -0.1}, {"dropout": "0"}, {"dropout": 10**400},
        {"output_dropout": 1.0}, {"dtype": "float16"}, {"dtype": "f4"}, {"backend": "os"},
        {"backend": None}, {"seed": 0},
    ],
    ids=str,
)  # fmt: skip
def test_another_model_than_there_can_be(change, tmp_path):
    def apply(tensors, metadata):
        metadata["model"] = json.dumps({**json.loads(metadata["model"]), **change})

    changed(tmp_path / "model", apply)
    refused(tmp_path / "model", "describes no model")


def test_a_model_of_before_there_was_dropout_of_outputs(tmp_path):
    def change(tensors, metadata):
        config = json.loads(metadata["model"])
        del config["output_dropout"]
        metadata["model"] = json.dumps(config)

    changed(tmp_path / "model", change)
    assert_same(fastbptt.load(tmp_path / "model"), build())


@pytest.mark.parametrize("name", ["layers.1.W_x", "W_z", "best weight", "optimizer"])
def test_a_tensor_of_no_model(name, tmp_path):
    changed(tmp_path / "model", lambda tensors, _: tensors.update({name: np.ones(3)}))
    refused(tmp_path / "model", f"holds '{name}', which is not of this model")


def test_names_that_stand_twice(tmp_path):
    """Readers differ in which one they take."""
    path = tmp_path / "model"
    fastbptt.save(build(), path)
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + size].decode(), content[8 + size :]
    tensor = re.search(r'"b_y":\{.*?\}', header)
    assert tensor
    for once, twice in (
        (tensor[0], f"{tensor[0]},{tensor[0]}"),
        (r"\"hidden_size\"", r"\"input_size\":2,\"hidden_size\""),
    ):
        text = header.replace(once, twice)
        assert text != header
        path.write_bytes(len(text).to_bytes(8, "little") + text.encode() + data)
        refused(path, "stands twice")


def test_a_model_alone_is_no_training(tmp_path):
    fastbptt.save(build(), tmp_path / "model")
    with pytest.raises(ValueError, match="holds a model alone, expected the checkpoint"):
        _storage.load_training(tmp_path / "model")


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
