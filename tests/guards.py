"""Random kernel calls between inaccessible pages: a step beside an array kills the process.

    python tests/guards.py SEED SECONDS [CASE]

makes calls on random shapes for that many seconds, or runs one case alone, and prints each case
before it runs.  Cases depend only on the seed and their number.
"""

import ctypes
import importlib
import mmap
import random
import sys
import time

import numba
import numpy as np

from fastbptt import checkpointed, rnn, testing
from fastbptt.kernels import _threads

kernels = importlib.import_module(rnn.BACKENDS["numba"])
_libc = ctypes.CDLL(None, use_errno=True)
PAGE = mmap.PAGESIZE
# Limits of a case, over all its draws: steps, elements of x and h, multiply-adds; about 0.1 s in
# all.  One in ten may have ten times as many.
MOST = 1000, 300_000, 10_000_000

MORE = 25  # times the draws, where the first show an error beyond the kit's bound


class Fault(Exception):
    """Other bits than on plain arrays, or a write beside an output."""


# Memory


class Room:
    """Memory between two inaccessible pages, full of 0xff: NaN at whatever byte a read begins."""

    def __init__(self, nbytes):
        size = max(-(-nbytes // PAGE), 1) * PAGE
        whole = np.frombuffer(mmap.mmap(-1, size + 2 * PAGE), np.uint8)
        self.bytes = whole[PAGE : PAGE + size]
        self.bytes.fill(0xFF)
        for page in (whole[:PAGE], whole[PAGE + size :]):
            _protect(page, 0)

    def place(self, shape, dtype, strides, rng):
        """An array flush with the upper page or the lower one, sometimes a few bytes off."""
        dtype = np.dtype(dtype)
        below, above = _reach(shape, strides, dtype.itemsize)
        off = rng.choice([0, 0, 0, rng.randrange(dtype.itemsize)])
        start = off if rng.random() < 0.5 else len(self.bytes) - (below + above) - off
        return np.ndarray(shape, dtype, self.bytes.data, start + below, strides)


def _protect(a, access):
    if _libc.mprotect(ctypes.c_void_p(a.ctypes.data), ctypes.c_size_t(a.nbytes), access):
        raise OSError(ctypes.get_errno(), "mprotect")


def _reach(shape, strides, itemsize):
    """Bytes that an array takes below its first element's address, and from there on."""
    if 0 in shape:
        return 0, 0
    steps = [s * (n - 1) for s, n in zip(strides, shape, strict=True)]
    return -sum(s for s in steps if s < 0), sum(s for s in steps if s > 0) + itemsize


def _overlaps(a):
    """Whether elements may share memory: zero strides, sliding windows."""
    extent = 0
    for step, n in sorted((abs(s), n) for s, n in zip(a.strides, a.shape, strict=True)):
        if n > 1 and step < max(extent, a.itemsize):
            return True
        extent += step * (n - 1)
    return False


def _strides(shape, itemsize, rng):
    """Strides of a random view without repeats: axes in any order and direction, any gaps."""
    kind = rng.choice(["C", "rows", "rows", "any"])
    axes = list(range(len(shape)))[::-1]
    if kind == "rows":  # the last axis is contiguous, as the kernels read without a copy
        axes[1:] = rng.sample(axes[1:], len(axes) - 1)
    elif kind == "any":
        rng.shuffle(axes)
    strides, extent = [0] * len(shape), itemsize
    for axis in axes:
        step = extent
        if kind == "any" or (kind == "rows" and axis != axes[0]):
            step += rng.choice([0, 0, itemsize * rng.randrange(9), rng.randrange(3 * itemsize)])
            strides[axis] = rng.choice([step, -step])
        else:
            strides[axis] = step
        extent += step * max(shape[axis] - 1, 0)
    return strides


def guarded(a, rng):
    """The same numbers, write-protected between guard pages, with other strides.

    An array that repeats elements keeps its strides.
    """
    strides = a.strides if _overlaps(a) else _strides(a.shape, a.itemsize, rng)
    room = Room(sum(_reach(a.shape, strides, a.itemsize)) + a.itemsize)
    view = room.place(a.shape, a.dtype, strides, rng)
    view[...] = a
    view.flags.writeable = rng.random() < 0.5
    _protect(room.bytes, mmap.PROT_READ)
    return view


class Outputs:
    """Arrays to fill, C-contiguous and aligned, between guard pages."""

    def __init__(self, rng):
        self.rng, self.given = rng, []

    def like(self, a):
        if a is None:
            return None
        room = Room(a.nbytes)
        start = 0 if self.rng.random() < 0.5 else len(room.bytes) - a.nbytes
        out = np.ndarray(a.shape, a.dtype, room.bytes.data, start)
        self.given.append((room.bytes, start, start + a.nbytes))
        return out

    def assert_nothing_beside(self):
        for page, start, end in self.given:
            untouched = (page[:start] == 0xFF).all() and (page[end:] == 0xFF).all()
            if not untouched:
                raise Fault("memory beside an output was written to")


# Backends for the conformance kit, which also compare the kernels with themselves


class Guarded:
    """The kernels; each call between guard pages must have the bits of one on plain arrays."""

    def __init__(self, rng, threads):
        self.rng, self.threads = rng, threads

    def _call(self, function, inputs, outputs, *rest):
        """Fill outputs by ``function(inputs, outputs, *rest)``, both lists, twice."""
        plain = [None if a is None else np.array(a, order="C") for a in inputs]
        numba.set_num_threads(1)
        function(plain, outputs, *rest)
        placed = Outputs(self.rng)
        got = [placed.like(a) for a in outputs]
        laid = [None if a is None else guarded(a, self.rng) for a in inputs]
        numba.set_num_threads(self.threads)
        function(laid, got, *rest)
        placed.assert_nothing_beside()
        for number, (a, b) in enumerate(zip(got, outputs, strict=True)):
            try:
                if a is not None:
                    testing._assert_same_bits(a, b, f"output {number} between guard pages")
            except AssertionError as error:
                raise Fault(error) from None

    def forward(self, params, x, h, lengths, activation):
        self._call(_forward, [*params, x, h[0].copy(), lengths], [h], activation)

    def backward(self, params, x, h, dh, dparams, dx, dh0, lengths, activation):
        outputs = [*dparams, dx, dh0]
        self._call(_backward, [*params, x, h, dh, lengths], outputs, activation)

    def readout(self, W_y, b_y, h, y):
        self._call(_readout, [W_y, b_y, h], [y])

    def readout_backward(self, W_y, h, dy, dW_y, db_y, dh):
        self._call(_readout_backward, [W_y, h, dy], [dW_y, db_y, dh])


class Checkpointed(Guarded):
    """The same, with gradients from the few states of `forward_checkpointed`."""

    def backward(self, params, x, h, dh, dparams, dx, dh0, lengths, activation):
        outputs = [*dparams, dx, dh0]
        self._call(_checkpointed, [*params, x, h[0].copy(), dh, lengths], outputs, activation)


def _forward(inputs, outputs, activation):
    *params, x, h0, lengths = inputs
    rnn.forward(params, x, h0, lengths=lengths, activation=activation, out=outputs[0])


def _backward(inputs, outputs, activation):
    *params, x, h, dh, lengths = inputs
    *dparams, dx, dh0 = outputs
    rnn.backward(
        params, x, h, dh, lengths=lengths, activation=activation, need_dx=dx is not None,
        out=(dparams, dx, dh0),
    )  # fmt: skip


def _checkpointed(inputs, outputs, activation):
    *params, x, h0, dh, lengths = inputs
    dx, options = outputs[3], {"lengths": lengths, "activation": activation}
    params = rnn.Params(*params)
    states = checkpointed.forward_checkpointed(params, x, h0, **options)
    gradients = checkpointed.backward_checkpointed(
        params, x, states, dh, need_dx=dx is not None, **options
    )
    for out, a in zip(outputs, (*gradients.params, *gradients[1:]), strict=True):
        if out is not None:
            out[...] = a


def _readout(inputs, outputs):
    kernels.readout(*inputs, *outputs)


def _readout_backward(inputs, outputs):
    kernels.readout_backward(*inputs, *outputs)


# Cases


def draw_case(rng):
    """A case for the conformance kit: small and medium sizes, edges of vectors and tiles."""
    edges = [e + d for e in (4, 6, 8, 12, 14, 16, 24, 32, 48, 64, 96, 128) for d in (-1, 0, 1)]

    def size(most):
        kind = rng.random()
        if kind < 0.4:
            return rng.randint(1, 5)
        return rng.choice(edges) if kind < 0.9 else rng.randint(6, most)

    times, activation = rng.choice([1] * 9 + [10]), rng.choice(testing.ACTIVATIONS)
    while True:
        T, B, I, H = rng.choice([size(150), rng.randint(1, 13)]), size(600), size(300), size(300)
        if activation != "tanh":
            # Sums begin with h's terms.  If f does not bound them, and those of x are many, the
            # states' error exceeds the kit's bound: 2.7 times the reference's for I=300, H=9.
            I = min(I, 2 * H)
        steps = T * draws(T, B, I, H)
        work = steps, steps * B * (I + H), steps * B * (I + H) * H
        if all(w <= times * most for w, most in zip(work, MOST, strict=True)):
            break
    T, B = rng.choice([(T, B)] * 18 + [(0, B), (T, 0)])
    return testing.Case(
        (T, B, I, H),
        rng.choice(testing.DTYPES),
        activation,
        rng.choice(testing.LENGTHS),
        rng.random() < 0.5,
        rng.random() < 0.75,
    )


def draws(T, B, I, H):
    """How many draws make the smallest result's error steady, as in the conformance kit."""
    return -(-256 // (min(H, T * B * I) or 256))


def check_case(case, rng, threads):
    """All that the kit checks, between guard pages; checkpointed; and on inputs that repeat."""
    backend, few = Guarded(rng, threads), Checkpointed(rng, threads)
    testing.check_case(backend, case)
    if case.activation != "relu":  # a state that rounds to the other side of 0 is not inaccurate
        testing._check_accuracy(few, case, testing._draw_layer, through, draws(*case.shape))
    data = testing._draw_layer(case, seed=0)
    T, B, I, _ = case.shape
    series = np.asarray(np.random.default_rng(0).standard_normal(T * B + I), case.dtype)
    steps = B * series.itemsize, series.itemsize, series.itemsize
    windows = np.lib.stride_tricks.as_strided(series, (T, B, I), steps)
    repeats = {name: repeated(getattr(data, name), rng) for name in ("W_x", "W_h", "b", "x", "dh")}
    repeats["x"] = rng.choice([repeats["x"], windows])
    for module in (backend, few):
        with np.errstate(all="ignore"):  # with all weights alike, states and gradients may overflow
            through(module, case, data._replace(**repeats))


def repeated(a, rng):
    """The array itself, or one with zero strides along some axes."""
    first = tuple(slice(rng.choice([1, None, None])) for _ in a.shape)
    return np.broadcast_to(a[first], a.shape) if a.size else a


def accurate(module, case, draw, run, draws):
    """The kit's check of accuracy, with more draws if some exceed its bound by chance."""
    try:
        accurate_at_once(module, case, draw, run, draws)
    except AssertionError:
        accurate_at_once(module, case, draw, run, MORE * draws)


accurate_at_once = testing._check_accuracy
testing._check_accuracy = accurate


def through(module, case, data):
    """A forward, and a backward through its states; the gradients by name."""
    T, B, I, H = case.shape
    *params, x, h0, dh = (a.astype(case.dtype, copy=False) for a in (*data[:4], data.h[0], data.dh))
    rest = data.lengths, case.activation
    h = np.empty((T + 1, B, H), case.dtype)
    h[0] = h0
    module.forward(params, x, h, *rest)
    shapes = {"dW_x": (I, H), "dW_h": (H, H), "db": (H,), "dh0": (B, H)}
    if case.need_dx:
        shapes["dx"] = T, B, I
    results = {name: np.empty(shape, case.dtype) for name, shape in shapes.items()}
    dparams = results["dW_x"], results["dW_h"], results["db"]
    module.backward(params, x, h, dh, dparams, results.get("dx"), results["dh0"], *rest)
    return results


def main(seed, seconds, only=None):
    # Calls do not wait for other programs to leave the cores: which ones would depends on timing.
    setattr(_threads.Experience, "advises_one_thread", lambda self: False)  # noqa: B010
    number, end = int(only or 0), time.monotonic() + float(seconds)
    while time.monotonic() < end:
        rng = random.Random(f"{seed} {number}")
        case, threads = draw_case(rng), rng.choice([1, 2])
        print(f"case {number}: {case}, {threads} threads", flush=True)
        check_case(case, rng, threads)
        if only is not None:
            break
        number += 1
    print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
