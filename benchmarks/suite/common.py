"""What the benchmarks share: shapes, arrays, counts of operations, and how time is taken."""

import functools
import importlib.util
import time

import numpy as np

import fastbptt

# T B I H, as names that asv can show.  The README's table.
SHAPES = (
    "3 3 1 1",
    "10 32 3 16",
    "50 32 32 64",
    "64 20 1 50",
    "100 64 64 128",
    "100 64 128 256",
    "100 128 256 512",
    "50 128 512 1024",
    "50 64 500 500",
    "784 128 1 128",
    "200 256 16 32",
    "1000 1 8 64",
    "50 16 1024 1500",
    "40 24 160 160",
    "20 2048 8 24",
    "200 1 64 512",
)
TINY, SINGLE = SHAPES[0], "1000 1 8 64"
SIZES = "T time steps, B sequences, I inputs, H hidden units"
# What runs over commits, and in CI, where every case is a process of a second: a short call on one
# thread, thin inputs with a size that is not a multiple of a tile, whole tiles.
WATCHED = "10 32 3 16", "64 20 1 50", "100 64 64 128"


def sizes(shape):
    """(T, B, I, H) of a shape's name."""
    return tuple(map(int, shape.split()))


def operations(shape):
    """Floating-point operations of a forward, and of a backward with every gradient."""
    T, B, I, H = sizes(shape)
    forward = 2 * T * B * H * (I + H)
    return forward, 2 * forward


@functools.cache
def arrays(shape, dtype="float32"):
    """Weights, inputs and a loss's gradient at every state: (W_x, W_h, b), x, dh."""
    T, B, I, H = sizes(shape)
    rng = np.random.default_rng(0)
    shapes = (I, H), (H, H), (T, B, I), (T, B, H)
    W_x, W_h, x, dh = (rng.standard_normal(shape, dtype=dtype) for shape in shapes)
    W_x /= I**0.5
    W_h /= H**0.5
    return (W_x, W_h, np.zeros(H, dtype)), x, dh


@functools.cache
def calls(shape, dtype="float32"):
    """A forward and a backward as functions of no arguments, compiled and called before.

    They write to the same memory each time: fresh pages cost more than short calls.
    """
    params, x, dh = arrays(shape, dtype)
    params = fastbptt.Params(*params)
    h = fastbptt.forward(params, x)
    gradients = fastbptt.backward(params, x, h, dh)

    def forward():
        fastbptt.forward(params, x, out=h)

    def backward():
        fastbptt.backward(params, x, h, dh, out=gradients)

    for _ in range(2):
        forward()
        backward()
    return forward, backward


def least_seconds(call, together=0.02, clock=time.perf_counter):
    """Seconds of the shortest of as many calls as take `together` seconds, at least one.

    Not their mean: whatever else the machine does can only make a call longer.
    """
    least, end = float("inf"), clock() + together
    while True:
        start = clock()
        call()
        now = clock()
        least = min(least, now - start)
        if now >= end:
            return least


def take_turns(calls, turns=10, pause=0.0, together=0.02, clock=time.perf_counter):
    """The least seconds of each call, taken in turns: what disturbs one disturbs the others.

    `pause` seconds pass before every turn, so that the threads of the one before come to rest.  A
    turn is of calls that take `together` seconds.
    """
    least = [float("inf")] * len(calls)
    for _ in range(turns):
        for i, call in enumerate(calls):
            time.sleep(pause)
            least[i] = min(least[i], least_seconds(call, together, clock))
    return least


def shown(name, unit=None):
    """The name, and the unit, by which asv shows a benchmark."""

    def mark(function):
        function.pretty_name = name
        if unit is not None:
            function.unit = unit
        return function

    return mark


def need(*modules):
    """Skip a benchmark if a library is not installed."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise NotImplementedError(f"{module} is not installed")


def need_fastbptt(*names):
    """Skip a benchmark of what this version of fastbptt does not have."""
    for name in names:
        if not hasattr(fastbptt, name):
            raise NotImplementedError(f"fastbptt has no {name}")
