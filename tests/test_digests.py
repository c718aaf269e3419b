"""The same bits on every CPU with fused multiply-adds, for any number of threads.

`digests.json` holds them.  Run as a script, this prints those of the CPU compiled for:

    NUMBA_CPU_NAME=haswell NUMBA_NUM_THREADS=4 python tests/test_digests.py float32
"""

import hashlib
import json
import sys
from pathlib import Path

import numba
import numpy as np
import precompile
import pytest
from test_threads import run

import fastbptt
from fastbptt.kernels import _machine

FILE = Path(__file__).with_name("digests.json")
# T B I H: groups with sums of their own and without, dot products, one row alone, edges of panels,
# steps cut by units, rows far apart, two time blocks, of one sequence too; dx beside dz for panels
# of any width, or of some.
SHAPES = [
    (3, 3, 1, 1), (50, 32, 32, 64), (64, 20, 1, 50), (9, 37, 5, 33), (40, 64, 20, 100),
    (200, 1, 8, 64), (30, 1, 20, 300), (20, 4, 300, 270), (25, 40, 9, 17), (40, 24, 160, 160),
    (12, 9, 1, 64), (7, 19, 20, 40), (300, 1, 3, 20),
]  # fmt: skip

# I H of drawn weights: one block of reflections and several, the last one of a single column.
DRAWN = [(1, 1), (3, 5), (64, 32), (8, 97), (1, 256)]


def draw(shape, dtype, begin):
    """Numbers within (-1, 1) whose bits no library decides."""
    n = np.arange(begin, begin + np.prod(shape), dtype=np.uint64) * np.uint64(2654435761)
    return ((n % (1 << 20)).astype(dtype) / dtype(1 << 19) - dtype(1)).reshape(shape)


def digests(dtype):
    found = {}
    for T, B, I, H in SHAPES:
        scale = dtype(1 / 16)
        params = fastbptt.Params(
            draw((I, H), dtype, 1) * scale, draw((H, H), dtype, 2) * scale, draw((H,), dtype, 3)
        )
        x, dh = draw((T, B, I), dtype, 4), draw((T, B, H), dtype, 5)
        lengths = np.arange(B) * 7 % (T + 1)
        for given in (None, lengths):
            h = fastbptt.forward(params, x, lengths=given)
            (dW_x, dW_h, db), dx, dh0 = fastbptt.backward(params, x, h, dh, lengths=given)
            assert dx is not None
            for name, a in {
                "h": h, "W_x": dW_x, "W_h": dW_h, "b": db, "x": dx, "h0": dh0,
            }.items():  # fmt: skip
                key = f"{T} {B} {I} {H}{'' if given is None else ' ragged'}: {name}"
                found[key] = digest(a)
    for I, H in DRAWN:
        W_x, W_h, _ = fastbptt.init_params(I, H, dtype=dtype, seed=I)
        found[f"{I} {H}: drawn W_x"], found[f"{I} {H}: drawn W_h"] = digest(W_x), digest(W_h)
    return found


def digest(a):
    return hashlib.sha256(a.tobytes()).hexdigest()[:16]


fused = pytest.mark.skipif(not _machine.target()[1], reason="this CPU has no fused multiply-add")


@fused
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_this_cpu(dtype):
    before = numba.get_num_threads()
    expected = json.loads(FILE.read_text())[np.dtype(dtype).name]
    try:
        for threads in sorted({1, min(2, before), before}):
            numba.set_num_threads(threads)
            assert digests(dtype) == expected, threads
    finally:
        numba.set_num_threads(before)


@fused
@pytest.mark.skipif(_machine.architecture() != "x86_64", reason="another architecture")
def test_a_cpu_with_narrower_vectors(tmp_path):
    program = (
        "import json, numpy, test_digests; print(json.dumps(test_digests.digests(numpy.float32)))"
    )
    got = run(program, tmp_path, OPENBLAS_CORETYPE="Prescott", **precompile.OTHER)
    assert got == json.loads(FILE.read_text())["float32"]


if __name__ == "__main__":
    print(json.dumps(digests(np.dtype(sys.argv[1]).type), indent=1))
