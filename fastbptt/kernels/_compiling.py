"""How functions are compiled, and kept on disk.

Numba's cache trusts what it reads: a damaged file raises an error, or runs as machine code that
nobody wrote.  The files here begin with a digest of the rest.  A damaged one, or a full disk, costs
one warning and the time to compile.
"""

import contextlib
import errno
import hashlib
import os
import pickle
import tempfile
import uuid
import warnings
from pathlib import Path
from types import FunctionType

import llvmlite
import numba
from numba import jit, njit
from numba.core import config, sigutils
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc
from numba.core.serialize import dumps

from fastbptt import _noise
from fastbptt._uninterrupted import compiling
from fastbptt.kernels._machine import target

# A function marked so becomes part of the worker that uses it before Numba compiles that, once.
inlined = njit(inline="always")


def _digest(*parts):
    """SHA-256 of byte strings, told apart by their lengths."""
    found = hashlib.sha256()
    for part in parts:
        found.update(b"%d " % len(part) + part)
    return found.digest()


# Digest of everything that shapes machine code apart from a function's own bytecode: the sources
# here, that of the noise's coefficients, the vectors that they are compiled for, and the compiler.
# A compiled function holds this number in a closure, so it is compiled anew after an edit of any of
# these files, or if the same CPU turns out, or is said, to have other vectors.
SOURCE = int.from_bytes(
    _digest(
        repr((target(), numba.__version__, llvmlite.__version__)).encode(),
        *(
            part
            for path in (*sorted(Path(__file__).parent.glob("*.py")), Path(_noise.__file__))
            for part in (path.name.encode(), path.read_bytes())
        ),
    )[:7]
)


def exchanged(function, **others):
    """The same function, compiled or not, but one that finds other functions under their names."""
    plain = getattr(function, "py_func", function)
    found = FunctionType(
        plain.__code__, {**plain.__globals__, **others}, plain.__name__, None, plain.__closure__
    )
    found.__qualname__ = plain.__qualname__
    return found if plain is function else jit(**function.targetoptions)(found)


_DIGEST_BYTES = hashlib.sha256().digest_size
# Errors that another directory would avoid.
_DENIED = errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST

_troubles: list[str] = []
_warned = False


class _Files:
    """A file for each compiled function: the digest of what follows, then what Numba pickled."""

    def __init__(self, folder, name):
        self.folder, self.name = Path(folder), name

    def path(self, key):
        return self.folder / f"{self.name}-{_digest(repr(key).encode()).hex()[:32]}.kernel"

    def load(self, key):
        path = self.path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            _troubles.append(f"{path} cannot be read: {error.strerror}")
            return None
        if content[:_DIGEST_BYTES] != _digest(content[_DIGEST_BYTES:]):
            _troubles.append(f"{path} is damaged")
            return None
        return pickle.loads(content[_DIGEST_BYTES:])

    def save(self, key, data):
        path, content = self.path(key), dumps(data)
        part = path.with_name(f"{uuid.uuid4().hex}.part")
        try:
            with open(part, "xb") as file:
                file.write(_digest(content) + content)
            part.replace(path)
        except OSError as error:
            _troubles.append(f"{path} cannot be written: {error.strerror}")
            with contextlib.suppress(OSError):
                part.unlink()


class _Cache(FunctionCache):
    """Numba's cache of a function, but for its files."""

    def __init__(self, function):
        super().__init__(function)
        self._cache_file = _Files(self.cache_path, self._impl.filename_base)

    def load_overload(self, sig, target_context):
        found = super().load_overload(sig, target_context)
        if found is None:
            compiling.set()  # follows
        return found

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except OSError as error:  # from looking whether the directory is still there
            _troubles.append(f"{self.cache_path} cannot be written: {error.strerror}")


def _with_cache(compiled, function):
    try:
        compiled._cache = _Cache(function)
    except RuntimeError:  # Numba has found no place
        _troubles.append(_why_nowhere())
        compiling.set()
    return compiled


def _why_nowhere():
    """Why files cannot be kept in the first place that Numba tries."""
    folder = Path(config.CACHE_DIR or Path(__file__).parent / "__pycache__")
    try:
        os.makedirs(folder, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        advice = "; set NUMBA_CACHE_DIR to a directory that is" if error.errno in _DENIED else ""
        return f"{folder} is not writable ({error.strerror}){advice}"
    return f"{folder} is not a place for them"


def compile_function(signature, function, **options):
    """Like `njit` for one signature, kept on disk."""
    compiled = _with_cache(njit(**options)(function), function)
    compiled.compile(signature)
    return compiled


_alive = []  # what owns the machine code that entry points and addresses lead to


def compile_entry_point(signature, function, **options):
    """What `compile_function` compiles, without Numba's dispatcher.

    That would look at the type of each argument again: 0.4 us in a call of 4 us.
    """
    compiled = compile_function(signature, function, **options)
    _alive.append(compiled)
    (only,) = compiled.overloads.values()
    return only.entry_point


def compile_callback(signature, function):
    """Like `cfunc`, kept on disk, and in memory."""
    compiled = CFunc(function, sigutils.normalize_signature(signature), locals={}, options={})
    _with_cache(compiled, function).compile()
    _alive.append(compiled)
    return compiled


def warn_of_troubles():
    """Warn, once in a process, of what keeps compiled functions from being kept.

    The thread that compiles does not warn itself: a warning may be an error, and end its work.
    """
    global _warned
    troubles = [_troubles.pop(0) for _ in range(len(_troubles))]
    if troubles and not _warned:
        _warned = True
        warnings.warn(
            f"fastbptt compiles what it cannot keep on disk or read from there: {troubles[0]}",
            RuntimeWarning,
            stacklevel=2,
        )
