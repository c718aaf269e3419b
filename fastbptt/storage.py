"""Models on disk: safetensors files, which hold numbers and no code, replaced whole or not at all.

A file holds each of :meth:`fastbptt.RNN.parameters` under its name and, as metadata, what the
model's constructor was given.  A training run's file holds more beside that, see
:func:`save_training`; :func:`load` reads the model out of either.
"""

import json
import os
from pathlib import Path

import numpy as np

from fastbptt.extras import import_extra
from fastbptt.model import RNN

FORMAT = "fastbptt"
VERSION = 1
BEST = "best weights"
OPTIMIZER = "optimizer."


def save(model, path):
    """Write a model to a file.

    The file is complete or as it was before, whatever ends the process in between.

    Parameters
    ----------
    model : RNN
    path : path-like
    """
    if not isinstance(model, RNN):
        raise TypeError(f"model is a {type(model).__name__}, expected an RNN")
    _write(path, model, {}, None)


def load(path):
    """Read a model from a file that :func:`save` or ``fit(checkpoint=...)`` wrote.

    Of a training run with `patience` it has the best weights so far, as `fit` gives them back.

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
        Where the file is cut short, is not one of these, or was written by a later version.
    """
    model, tensors, _ = _read(path)
    if BEST in tensors:
        model.network.vector[...] = tensors[BEST]
    return model


def save_training(path, model, optimizer, best, progress):
    """Write a model and all that its training needs to go on.

    Parameters
    ----------
    path : path-like
    model : RNN
    optimizer : SGD, RMSprop or Adam
    best : ndarray or None
        The best weights so far.
    progress : dict
        JSON-able, but for arrays: what else there is.
    """
    tensors = {OPTIMIZER + name: array for name, array in optimizer.state().items()}
    if best is not None:
        tensors[BEST] = best
    _write(path, model, tensors, progress)


def load_training(path):
    """Read what :func:`save_training` wrote.

    Returns
    -------
    model : RNN
    optimizer_state : dict of str to ndarray
    best : ndarray or None
    progress : dict
    """
    model, tensors, progress = _read(path)
    if progress is None:
        raise ValueError(f"{path} holds a model alone, expected the checkpoint of a training run")
    state = {k.removeprefix(OPTIMIZER): a for k, a in tensors.items() if k.startswith(OPTIMIZER)}
    return model, state, tensors.get(BEST), progress


def _write(path, model, tensors, progress):
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "model": json.dumps(model.config()),
        "training": json.dumps(progress, default=np.ndarray.tolist),
    }
    write = import_extra("safetensors.numpy", "train", "a checkpoint").save
    replace(path, write({**tensors, **model.parameters()}, metadata))


def _read(path):
    """The model, the tensors beside its weights, and a training run's progress."""
    safetensors = import_extra("safetensors", "train", "a checkpoint")
    with open(path, "rb"):  # FileNotFoundError and the like as Python words them
        pass
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            _check_format(path, metadata)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is cut short or no safetensors file: {error}") from None
    try:
        model = RNN(**json.loads(metadata["model"]))
        progress = json.loads(metadata["training"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} describes no model: {error}") from error
    for name, array in model.parameters().items():
        found = tensors.pop(name, None)
        if found is None or found.shape != array.shape or found.dtype != array.dtype:
            has = "is missing" if found is None else f"has shape {found.shape}, {found.dtype}"
            raise ValueError(f"{path}: {name} {has}, expected {array.shape}, {array.dtype}")
        array[...] = found
    return model, tensors, progress


def _check_format(path, metadata):
    """Check that a file is one of these; others may hold tensors that NumPy has no dtype for."""
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is a safetensors file, but holds no fastbptt model")
    version = metadata.get("version", "")
    if not version.isdecimal() or int(version) > VERSION:
        raise ValueError(
            f"{path} has format version {version!r}, expected {VERSION} or earlier: "
            "a later fastbptt wrote it"
        )


def replace(path, content):
    """Put a file's content in place, whole or not at all."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    if os.name == "posix":  # the new name, too, is on the disk
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def restored_generator(state):
    """A random generator in the state that ``generator.bit_generator.state`` gave."""
    bit_generator = getattr(np.random, state["bit_generator"])()
    bit_generator.state = state
    return np.random.Generator(bit_generator)
