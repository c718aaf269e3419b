"""oneDNN's vanilla RNN, by way of a small library that is compiled when it is first needed.

Takes a C++ compiler and oneDNN's header, as `apt-get install g++ libdnnl-dev` installs them.
"""

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).with_suffix(".cpp")


@functools.cache
def library():
    """The compiled library; None where it cannot be compiled."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "layer.so"
        command = [compiler, "-O2", "-std=c++17", "-shared", "-fPIC", str(SOURCE), "-ldnnl"]
        if subprocess.run([*command, "-o", str(path)], capture_output=True).returncode:
            return None
        found = ctypes.CDLL(str(path))
    found.create.restype = ctypes.c_void_p
    found.version.restype = ctypes.c_char_p
    return found


def version():
    """Such as "3.6.2"; None without oneDNN."""
    found = library()
    return None if found is None else found.version().decode()


def with_onednn(W_x, W_h, b, x, dh):
    """A forward and a backward; see `rivals`."""
    found, (T, B, I), H = library(), x.shape, len(b)
    assert found is not None, "oneDNN is not installed"
    if x.dtype != np.float32:
        raise NotImplementedError(f"oneDNN's RNN computes in float32, not in {x.dtype}")
    given = [np.ascontiguousarray(a) for a in (x, W_x, W_h, b, dh)]
    gradients = [np.empty_like(a) for a in (W_x, W_h, b, x)]
    addresses = [ctypes.c_void_p(a.ctypes.data) for a in (*given, *gradients)]
    layer = ctypes.c_void_p(found.create(*map(ctypes.c_long, (T, B, I, H)), *addresses))

    def run():
        if not layer or found.step(layer):
            raise RuntimeError(f"oneDNN {version()} fails at T B I H = {T} {B} {I} {H}")
        return gradients

    # What the layer reads and writes, as long as the function lives.
    run.arrays = given, gradients
    return run
