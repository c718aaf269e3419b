"""Peak memory of a process, and the part of it due to a forward and a backward."""

from pathlib import Path

import fastbptt

from .common import arrays, shown

SHAPES = "784 128 1 128", "200 256 16 32"


def both(shape):
    params, x, dh = arrays(shape)
    params = fastbptt.Params(*params)
    fastbptt.backward(params, x, fastbptt.forward(params, x), dh)


def held(field):
    """Bytes in memory: now, "VmRSS", or at most, "VmHWM"."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


class _Memory:
    version, timeout = "1", 300

    def setup_cache(self):
        # In a process of its own: compiling holds more memory than anything here.
        fastbptt.warmup()


class Import(_Memory):
    """The package with its kernels from the cache; LLVM is the most of it."""

    @shown("Memory of the package and its kernels")
    def peakmem_import(self):
        fastbptt.warmup()


class Both(_Memory):
    param_names = ("T B I H",)
    params = (SHAPES,)

    @shown("Memory of a process with a forward and a backward")
    def peakmem_both(self, shape):
        both(shape)

    @shown("Memory of a forward and a backward", "bytes")
    def track_above_import(self, shape):
        """The states, gradients and workspaces, without the inputs."""
        reset = Path("/proc/self/clear_refs")  # of the peak, by writing 5
        if not reset.exists():
            raise NotImplementedError("only Linux tells the peak since a given time")
        fastbptt.warmup()
        arrays(shape)
        reset.write_text("5")
        before = held("VmRSS")
        both(shape)
        return held("VmHWM") - before
