"""Damaged files of models and training runs: refused by name, or read as what they still say.

    python tests/spoiled.py SEED FOLDER {model,checkpoint} {flipped,cut,exchanged}

Prints each exception to that: an error other than a ValueError that names the file, a model changed
before the error, an invalid result, seconds of work, much memory.
"""

import copy
import faulthandler
import json
import math
import os
import random
import resource
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from test_storage import contents, write

import fastbptt

EPOCHS = 2  # of the training whose checkpoint is spoiled
SECONDS = 2  # of processor time for one file
HANG = 30  # seconds for one file
MEMORY = 1 << 29  # bytes beside what the process has at the start
SHOWN = 20  # faults
DEEP = "a value too deep to be built"
# In place of any value of the metadata.
VALUES = (
    None, True, False, 0, 1, -1, 0.5, 3, 2**31, 2**63, 10**12, 10**400, -(10**12), 1e308, -1e-320,
    math.nan, math.inf, -math.inf, "", "1", "x" * 1000, "\0", "../x", "test", "seed", "MT19937",
    "__class__", "float16", [], [0], [math.nan], [[1.0]], [1.0] * 1000, {}, {"": None}, DEEP,
)  # fmt: skip


def build():
    """A model, its data, and the options of its training."""
    model = fastbptt.RNN(1, 2, 1, num_layers=2, dropout=0.25, seed=0)
    x = np.random.default_rng(0).standard_normal((6, 3, 1))
    options = {"batch_size": 3, "validation": (x, x.sum(axis=1)), "patience": 100, "seed": 0}
    return model, (x, x.sum(axis=1)), {**options, "progress": False}


def train(path, epochs, model=None, optimizer=None):
    """A training run with its checkpoint at this path; the model, optimizer and history."""
    fresh, data, options = build()
    model = fresh if model is None else model
    optimizer = fastbptt.Adam(learning_rate=0.01) if optimizer is None else optimizer
    history = fastbptt.fit(
        model, *data, epochs=epochs, optimizer=optimizer, checkpoint=path, **options
    )
    return model, optimizer, history


# Ways to damage a file; each yields what was done and the bytes that result, for all it can do


def flipped(content, rng, folder):
    """Change every byte in turn: one bit, all bits, to another digit or bracket."""
    for at, byte in enumerate(content):
        for new in (byte ^ (1 << rng.randrange(8)), byte ^ 0xFF, rng.choice(b'0159{["')):
            if new != byte:
                yield f"byte {at} is {new}, not {byte}", replaced(content, at, at + 1, bytes([new]))


def cut(content, rng, folder):
    """Cut to every length, cut out the middle, or append to the end."""
    for length in range(len(content)):
        yield f"cut to {length} bytes", content[:length]
        more = rng.randrange(1, 20)
        yield (
            f"bytes {length} to {length + more} left out",
            replaced(content, length, length + more, b""),
        )
    for more in (1, 8, 4096):
        yield f"{more} bytes more", content + bytes(more)


def replaced(content, start, end, new):
    return content[:start] + new + content[end:]


def exchanged(content, rng, folder):
    """Fields of the header and of the metadata's JSON: changed, missing, doubled, new."""
    size = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]

    def whole(text):
        text = text.encode()
        return len(text).to_bytes(8, "little") + text + data

    for what, text in spoiled_json(header):
        yield f"header: {what}", whole(text)
    metadata = header["__metadata__"]
    for name, value in metadata.items():
        if name in ("model", "training"):
            for what, text in spoiled_json(json.loads(value)):
                changed = {**header, "__metadata__": {**metadata, name: text}}
                yield f"{name}: {what}", whole(json.dumps(changed))
    for length in (0, 1, size - 1, size + 1, 10**8, 2**62, 2**64 - 1):
        yield f"header's length {length}", length.to_bytes(8, "little") + content[8:]
    for what, array in spoiled_arrays(content, folder):
        yield what, array


WAYS = {"flipped": flipped, "cut": cut, "exchanged": exchanged}


def spoiled_json(value):
    """A JSON text with one place exchanged: what was done, and the text."""
    deep = "[" * 50_000 + "]" * 50_000
    for path in paths(value):
        name = ".".join(map(str, path)) or "all"
        for new in (*VALUES, at(value, path[:-1]) if path else [value]):
            changed = put(value, path, new)
            shown = f"{new!r:.40}"
            yield f"{name} is {shown}", json.dumps(changed).replace(json.dumps(DEEP), deep)
        if path and isinstance(at(value, path[:-1]), dict):
            holder = copy.deepcopy(value)
            there = at(holder, path[:-1])
            last = there.pop(path[-1])
            yield f"{name} is missing", json.dumps(holder)
            there[f"{path[-1]}x"] = last
            yield f"{name} is called {path[-1]}x", json.dumps(holder)
            del there[f"{path[-1]}x"]
            there[path[-1]], mark = last, "another of the same name"
            for other in (last, None, 1, "x", [], {}):
                there[mark] = other
                text = json.dumps(holder).replace(json.dumps(mark), json.dumps(path[-1]))
                yield f"{name} twice, then {other!r:.40}", text


def spoiled_arrays(content, folder):
    """Tensors with other numbers, shapes or types, missing tensors, additional ones."""
    (folder / "whole").write_bytes(content)
    tensors, metadata = contents(folder / "whole")

    def with_(name, a):
        others = {k: v for k, v in tensors.items() if k != name}
        write(folder / "whole", others if a is None else {**others, name: a}, metadata)
        return (folder / "whole").read_bytes()

    for name, a in tensors.items():
        number = a.dtype.type
        yield f"{name} is missing", with_(name, None)
        for value in (0, -1, np.iinfo("q").max if a.dtype.kind == "i" else np.nan):
            yield f"{name} is {value}", with_(name, np.full_like(a, value))
        if a.dtype.kind == "f":
            yield f"{name} is infinite", with_(name, np.full_like(a, np.inf))
        for other in (a[None], a.ravel()[:0], np.zeros((0, 3), number), np.zeros(50, number)):
            yield f"{name} has shape {other.shape}", with_(name, other)
        for dtype in ("float32", "float64", "int64", "int32"):
            yield f"{name} has dtype {dtype}", with_(name, a.astype(dtype))
        yield f"{name} twice", with_(f"{name}.x", a)
    for name in ("optimizer.v.x", "optimizer.", "best weights", "W"):
        yield f"another tensor, {name}", with_(name, np.zeros(3, np.float32))


def paths(value):
    """The keys and indices that lead to a value and to everything within it."""
    yield ()
    items = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        items = list(enumerate(value))[:2]
    for key, inner in items:
        for path in paths(inner):
            yield (key, *path)


def at(value, path):
    for key in path:
        value = value[key]
    return value


def put(value, path, new):
    """A copy with another value in one place."""
    if not path:
        return new
    value = copy.deepcopy(value)
    at(value, path[:-1])[path[-1]] = new
    return value


# What comes of it


def read_model(path):
    """Load; raises AssertionError if the result is not a model."""
    model = fastbptt.load(path)
    assert_model(model)
    return model.network.vector


def assert_model(model):
    assert type(model) is fastbptt.RNN
    assert fastbptt.RNN(**model.config()).config() == model.config()
    with np.errstate(all="ignore"):
        assert model.predict(np.zeros((2, 3, 1))).shape == (2, 1)


def resume(path):
    """Resume for an epoch; raises AssertionError if that leaves an invalid state or half of one."""
    model, optimizer = build()[0], fastbptt.Adam(learning_rate=0.01)
    before = model.network.vector.copy()
    settings = optimizer.settings()
    try:
        with np.errstate(all="ignore"):
            _, _, history = train(path, EPOCHS + 1, model, optimizer)
    except FloatingPointError:  # numbers that are finite, but from which training diverges
        assert np.isfinite(model.network.vector).all(), "weights are infinite or NaN"
        return
    except ValueError:
        assert np.array_equal(model.network.vector, before), "the model has changed"
        assert optimizer.settings() == settings, "the optimizer's settings have changed"
        assert set(optimizer.state()) == {"steps"}, "the optimizer's state has changed"
        assert optimizer.state()["steps"] == 0, "the optimizer's state has changed"
        raise
    assert_model(model)
    assert np.isfinite(model.network.vector).all(), "weights are infinite or NaN"
    fastbptt.Adam(**optimizer.settings())
    for values in (history.loss, history.validation_loss, history.seconds):
        assert type(values) is list
        assert all(type(v) in (int, float) and math.isfinite(v) for v in values), values
    assert len(history.loss) == len(history.validation_loss) == len(history.seconds), history
    assert history.best_epoch in range(1, len(history.loss) + 1), history
    assert history.stopped in ("finished", "early"), history


def fault(read, path):
    """What is wrong with how a file is read: None, or a description."""
    faulthandler.dump_traceback_later(HANG, exit=True)
    started = time.process_time()
    found = None
    try:
        read(path)
    except ValueError as error:
        if not str(error).startswith(str(path)):
            found = f"ValueError that does not name the file: {error!s:.200}"
    except BaseException as error:
        found = f"{type(error).__name__}: {error!s:.200}"
    taken = time.process_time() - started
    faulthandler.cancel_dump_traceback_later()
    return f"{taken:.1f} s" if found is None and taken > SECONDS else found


def limit_memory():
    """More than this is a MemoryError, and so a fault."""
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main(seed, folder, kind, way):
    faulthandler.enable()
    rng = random.Random(f"{seed} {kind} {way}")
    path = Path(folder) / "spoiled"
    os.fsync = lambda file: None  # a thousand a second
    whole = Path(folder) / kind
    whole.unlink(missing_ok=True)
    model = train(whole, EPOCHS)[0]
    if kind == "model":
        fastbptt.save(model, whole)
    content, weights = whole.read_bytes(), read_model(whole)

    def load(path):
        """Load; one flipped byte may change at most one weight."""
        found = read_model(path)
        if way == "flipped":
            bits = f"u{weights.itemsize}"
            assert (found.view(bits) != weights.view(bits)).sum() <= 1, "other weights"

    readers = [load] if kind == "model" else [load, resume]  # what resumes writes the file anew
    for reader in readers:
        path.write_bytes(content)
        assert fault(reader, path) is None, "the file as it was"
    if sys.platform == "linux":
        limit_memory()
    tried, faults = 0, Counter()
    for what, spoiled in WAYS[way](content, rng, Path(folder)):
        path.write_bytes(spoiled)
        print(what, file=sys.stderr, flush=True)  # the last line, should the process die
        tried += 1
        for reader in readers:
            if found := fault(reader, path):
                faults[found] += 1
                if faults[found] == 1 and len(faults) <= SHOWN:
                    print(f"{what}: {reader.__name__}: {found}", flush=True)
    print(f"{tried} files, {faults.total()} faults", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
