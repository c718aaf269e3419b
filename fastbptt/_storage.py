"""Models on disk: safetensors files, which hold numbers and no code, replaced whole or not at all.

A file holds each of :meth:`fastbptt.RNN.parameters` under its name and, as metadata, what the
model's constructor was given; and what constrained weights are computed from.  A training run's
file holds more beside that, see :func:`save_training`; :func:`load` reads the model out of either.

Nothing that a file says is believed before it is checked: it may be damaged, or somebody else's.
"""

import contextlib
import functools
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors
from safetensors.numpy import save as serialized

from fastbptt._constraints import Constraints, Entries
from fastbptt._leak import Leak
from fastbptt._network import in_memory, weight_shapes
from fastbptt.model import IF_SET, RNN, check_config, model_of
from fastbptt.optimizers import SGD, Adam, RMSprop

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FilePath = str | os.PathLike[str]
Tensors = dict[str, np.ndarray]

FORMAT = "fastbptt"
# Of training runs' files: in version 1 they had one random generator, in 2 epochs counted from 0
# and settings had other names.  Models alone are still 1, but for those that leak, have constraints
# or train their initial state.
VERSION = 3
BEST = "best weights"
THETA = "theta."
OPTIMIZER = "optimizer."
DTYPES = {"F32": "float32", "F64": "float64", "I64": "int64"}  # the format's words and NumPy's

# What a file is called until it is complete; a killed process leaves it behind.
PART = ".fastbptt-{}.part"
LEFT_OVER = re.compile(r"\.fastbptt-[0-9a-f]{32}\.part")


def save(model: RNN, path: FilePath) -> None:
    """Write a model to a file.

    The file is complete or as it was before, whatever ends the process in between.  A killed
    process may leave a file named ``.fastbptt-….part``, which the next save into that directory
    removes.

    Parameters
    ----------
    model : RNN
    path : path-like

    See Also
    --------
    load : Reads it back.
    fit : Writes a file after every epoch, with `checkpoint`.
    fastbptt.onnx.export : Files for other libraries.

    Examples
    --------
    >>> import fastbptt, os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> fastbptt.save(fastbptt.RNN(2, 16, 1, seed=0), path)
    >>> os.path.getsize(path) < 3000
    True
    """
    if not isinstance(model, RNN):
        raise TypeError(f"model is a {type(model).__name__}, expected an RNN")
    _write(path, model, {}, None)


def load(path: FilePath) -> RNN:
    """Read a model from a file that :func:`save` or ``fit(checkpoint=...)`` wrote.

    From a training run with `patience`, the model has its best weights so far, as `fit` gives them
    back.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    RNN

    Raises
    ------
    FileNotFoundError
    ValueError
        If the file is cut short or damaged, is not one of these, or was written by a later version.

    See Also
    --------
    save : Writes the file.
    fastbptt.onnx.load : Models of other libraries.

    Examples
    --------
    >>> import fastbptt, os, tempfile
    >>> model = fastbptt.RNN(2, 16, 1, seed=0)
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> fastbptt.save(model, path)
    >>> bool((fastbptt.load(path).vector == model.vector).all())
    True
    """
    model, tensors, *_ = _read(path)
    if BEST in tensors:
        model.network.set_free(tensors[BEST])
    return model


def save_training(
    path: FilePath,
    model: RNN,
    optimizer: SGD | RMSprop | Adam,
    best: np.ndarray | None,
    progress: dict[str, Any],
) -> None:
    """Write a model and all that its training needs to go on.

    Parameters
    ----------
    path : path-like
    model : RNN
    optimizer : SGD, RMSprop or Adam
    best : ndarray or None
        The best weights so far, those that are trained.
    progress : dict
        JSON-able, but for arrays: what else there is.
    """
    tensors = {OPTIMIZER + name: array for name, array in optimizer.state().items()}
    if best is not None:
        tensors[BEST] = best
    _write(path, model, tensors, progress)


def load_training(
    path: FilePath,
) -> tuple[RNN, dict[str, np.ndarray], np.ndarray | None, dict[str, Any]]:
    """Read what :func:`save_training` wrote.

    Returns
    -------
    model : RNN
    optimizer_state : dict of str to ndarray
    best : ndarray or None
    progress : dict
        As the file has it: what is in it is for the caller to check.
    """
    model, tensors, progress, version = _read(path)
    if not isinstance(progress, dict):
        raise ValueError(f"{path} holds a model alone, expected the checkpoint of a training run")
    if version < VERSION:
        raise ValueError(
            f"{path} was written by an earlier fastbptt, in format version {version}, expected "
            f"{VERSION}: training cannot go on from it, but fastbptt.load reads its model"
        )
    state = {k.removeprefix(OPTIMIZER): a for k, a in tensors.items() if k.startswith(OPTIMIZER)}
    return model, state, tensors.get(BEST), progress


def _write(path: FilePath, model: RNN, tensors: Tensors, progress: Any) -> None:
    config = _plain(model.config())
    plain = progress is None and not config.keys() & set(IF_SET)
    metadata = {
        "format": FORMAT,
        "version": str(1 if plain else VERSION),
        "model": json.dumps(config),
        "training": json.dumps(progress, default=np.ndarray.tolist),
    }
    theta = {THETA + name: a for name, a in model.network.weights.theta.items()}
    replace(path, serialized({**tensors, **model.parameters(), **theta}, metadata))


# Reading


def _read(path: FilePath) -> tuple[RNN, Tensors, Any, int]:
    """The model, the tensors beside its weights, a training run's progress, and the version."""
    content = _content(path)
    try:
        found = dict(safetensors.deserialize(content))
        size = int.from_bytes(content[:8], "little")
        metadata = _parsed(content[8 : 8 + size]).get("__metadata__") or {}
    except (safetensors.SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is cut short or no safetensors file: {error}") from None
    del content  # the tensors are copies
    version = _check_format(path, metadata)
    try:
        given, progress = _parsed(metadata["model"]), _parsed(metadata["training"])
        config = check_config(**_config(given))
        plain = _plain(config)
        found_config = {name: plain[name] for name in given}  # earlier files have fewer names
        if json.dumps(given, sort_keys=True) != json.dumps(found_config, sort_keys=True):
            raise ValueError(f"{given}, expected {config}")  # True for 1, and the like
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} describes no model: {error}") from error

    # One by one, up to the first that is missing: only then does memory follow the sizes given.
    dtype, constraints, weights = config["dtype"], config["constraints"], {}
    for name, shape in weight_shapes(**config):
        weights[name] = _taken(path, found, name, shape, dtype)
    shapes, rules = {name: a.shape for name, a in weights.items()}, []
    try:
        if constraints is not None:
            rules = constraints.rules(shapes, np.dtype(dtype), config["backend"])
        for rule in rules:
            if isinstance(rule, Entries):
                rule.check(weights[rule.name])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} describes no model: {error}") from error
    order = in_memory(weights, rules)
    trained = [weights[name] for name in order[len(rules) :]]
    for rule in rules:
        trained.append(_taken(path, found, THETA + rule.name, rule.shape, dtype))
        shapes[rule.name] = rule.shape
    size = sum(a.size for a in trained)
    memory = [*(weights[rule.name] for rule in rules), *trained]
    model = model_of(config, np.concatenate([a.ravel() for a in memory]))
    tensors = {}
    for name in [*found]:
        if name == OPTIMIZER + "steps":
            tensors[name] = _taken(path, found, name, (), "int64")
        elif name == BEST or name.startswith(OPTIMIZER):
            of = name.removeprefix(OPTIMIZER).partition(".")[2]  # one of the weights, or all
            tensors[name] = _taken(path, found, name, shapes.get(of, (size,)), dtype)
        else:
            raise ValueError(f"{path} holds {name!r}, which is not of this model")
    return model, tensors, progress, version


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """A model's config as JSON has it, without what is not set, as files had it before that was."""
    found = {name: a for name, a in config.items() if a or name not in IF_SET}
    leak, constraints = config["leak"], config["constraints"]
    if leak is not None:
        found["leak"] = {"alpha": np.asarray(leak.alpha).tolist(), "of": leak.of}
    if constraints is not None:
        found["constraints"] = constraints.config()
    return found


def _config(given: Any) -> dict[str, Any]:
    """A model's config from what JSON has."""
    found = {**given}
    if "leak" in found:
        found["leak"] = Leak(**found["leak"])
    if "constraints" in found:
        found["constraints"] = Constraints.from_config(found["constraints"])
    return found


def _content(path: FilePath) -> bytes:
    """A file's bytes, read: mapped memory would vanish where another process cuts the file."""
    found = os.stat(path)
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        return b""  # a FIFO would be waited for, a device has no end
    with open(path, "rb") as file:  # an error for a directory
        return file.read(os.fstat(file.fileno()).st_size)


def _parsed(text: str | bytes) -> Any:
    """What JSON says; no name may stand twice, since readers differ in which one they take."""
    return json.loads(text, object_pairs_hook=_each_once)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} stands twice")
        found[name] = value
    return found


def _check_format(path: FilePath, metadata: dict[str, str]) -> int:
    """Check that a file is one of these, and return its version.

    Others may hold tensors that NumPy has no dtype for.
    """
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is a safetensors file, but holds no fastbptt model")
    version = metadata.get("version", "")
    if not re.fullmatch("[0-9]{1,9}", version) or int(version) > VERSION:
        raise ValueError(
            f"{path} has format version {version!r}, expected {VERSION} or earlier: "
            "a later fastbptt wrote it"
        )
    return int(version)


def _taken(
    path: FilePath, found: dict[str, Any], name: str, shape: tuple[int, ...], dtype: str
) -> np.ndarray:
    """The array of a tensor, which is taken out of those found."""
    tensor = found.pop(name, None)
    has = "is missing"
    if tensor is not None:
        its_shape, its_dtype = tuple(tensor["shape"]), tensor["dtype"]
        its_dtype = DTYPES.get(its_dtype, its_dtype)
        if (its_shape, its_dtype) == (shape, dtype):
            data = np.frombuffer(tensor["data"], np.dtype(dtype).newbyteorder("<"))
            return data.astype(dtype, copy=False).reshape(shape)
        has = f"has shape {its_shape}, {its_dtype}"
    raise ValueError(f"{path}: {name} {has}, expected {shape}, {dtype}")


# Writing


def replace(path: FilePath, content: bytes) -> None:
    """Put a file's content in place, whole or not at all.

    A file keeps its mode, and a symbolic link stays one: what it leads to is replaced.  A device
    or a FIFO is written to.
    """
    try:
        before = os.stat(path)
    except FileNotFoundError:
        before = None
    if before is not None and not stat.S_ISREG(before.st_mode):
        with open(path, "wb") as file:  # an error for a directory and a socket
            file.write(content)
        return
    path = Path(os.path.realpath(path) if os.path.islink(path) else path)
    _clear_left_overs(path.parent)
    while not _put(path, content, before):
        pass
    if os.name == "posix":  # the new name, too, is on the disk
        with _opened(path.parent, os.O_RDONLY) as directory:
            os.fsync(directory)


def _put(path: Path, content: bytes, before: os.stat_result | None) -> bool:
    """Write a new file and give it its name; whether it was still there to be given one."""
    part = path.with_name(PART.format(secrets.token_hex(16)))
    mode = 0o666 if before is None else stat.S_IMODE(before.st_mode)
    create = functools.partial(os.open, mode=mode)
    try:
        with open(part, "xb", opener=create) as file:  # "x": follows no link, opens no other file
            _lock(file)
            if not part.exists():  # taken for a left-over before it had its lock
                return False
            if before is not None and fcntl is not None:
                _own(file, before)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if fcntl is None:
                file.close()  # Windows renames no open file
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return True


def _lock(file: IO[bytes]) -> None:
    if fcntl is not None:
        with contextlib.suppress(OSError):  # not every file system has locks
            fcntl.flock(file, fcntl.LOCK_EX)


def _own(file: IO[bytes], before: os.stat_result) -> None:
    """Give a new file the owner, where that is allowed, and the mode of the one before it."""
    new = os.fstat(file.fileno())
    if (new.st_uid, new.st_gid) != (before.st_uid, before.st_gid):
        with contextlib.suppress(OSError):
            os.chown(file.fileno(), before.st_uid, before.st_gid)
    if new.st_mode != before.st_mode:  # the umask took something away
        os.chmod(file.fileno(), stat.S_IMODE(before.st_mode))


def _clear_left_overs(directory: Path) -> None:
    """Remove what killed processes left behind: files whose lock is free.

    Who writes one holds its lock until the file has its name.
    """
    with contextlib.suppress(OSError):  # the directory may be unreadable
        for name in filter(LEFT_OVER.fullmatch, os.listdir(directory)):
            with contextlib.suppress(OSError):  # being written, gone by now, or another user's
                _clear(os.path.join(directory, name))


def _clear(part: str) -> None:
    if fcntl is None:
        return
    with _opened(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if stat.S_ISREG(os.fstat(file).st_mode):
            os.unlink(part)


@contextlib.contextmanager
def _opened(path: FilePath, flags: int) -> Iterator[int]:
    """The descriptor of a file, closed in the end."""
    files = []
    try:
        files += map(os.open, [path], [flags])  # in one step: no interrupt loses what was opened
        yield files[0]
    finally:
        for file in files:
            os.close(file)


# Random generators

U32, U64, U128 = (2**bits - 1 for bits in (32, 64, 128))
_PCG = {"state": {"state": U128, "inc": U128}, "has_uint32": 1, "uinteger": U32}
# For each kind, its state with the largest integer in each place; the least is 0.
GENERATORS = {
    "PCG64": _PCG,
    "PCG64DXSM": _PCG,
    "MT19937": {"state": {"key": [U32] * 624, "pos": 624}},
    "Philox": {
        "state": {"counter": [U64] * 4, "key": [U64] * 2},
        "buffer": [U64] * 4, "buffer_pos": 4, "has_uint32": 1, "uinteger": U32,
    },
    "SFC64": {"state": {"state": [U64] * 4}, "has_uint32": 1, "uinteger": U32},
}  # fmt: skip


def restored_generator(state: Any) -> np.random.Generator:
    """A random generator in the state that ``generator.bit_generator.state`` gave.

    Arrays are lists in it.  NumPy believes it unseen, so it is checked here, also for its kind:
    nothing else is made than one of NumPy's five.
    """
    kind = state.get("bit_generator") if isinstance(state, dict) else None
    if not isinstance(kind, str) or kind not in GENERATORS:
        raise ValueError(
            f"the generator is of the kind {kind!r}, expected one of {', '.join(GENERATORS)}"
        )
    if not _within(state, {"bit_generator": kind, **GENERATORS[kind]}):
        raise ValueError(f"the generator's state is none of a {kind}")
    bit_generator = getattr(np.random, kind)(0)
    bit_generator.state = state
    return np.random.Generator(bit_generator)


def _within(found: Any, largest: Any) -> bool:
    """Whether a state has the same names and lengths, and integers within their ranges."""
    if type(found) is not type(largest):
        return False
    if isinstance(found, dict):
        return found.keys() == largest.keys() and all(
            _within(found[name], largest[name]) for name in largest
        )
    if isinstance(found, list):
        return len(found) == len(largest) and all(map(_within, found, largest))
    return 0 <= found <= largest if isinstance(found, int) else found == largest
