"""Training vanilla recurrent networks on a CPU, fast, from pure Python."""

import importlib
from typing import TYPE_CHECKING

from fastbptt._constraints import Constraints
from fastbptt._extras import MissingExtraError
from fastbptt._leak import Leak
from fastbptt._noise import Noise
from fastbptt._storage import load, save
from fastbptt.checkpointed import Checkpoints, backward_checkpointed, forward_checkpointed
from fastbptt.model import RNN
from fastbptt.optimizers import SGD, Adam, RMSprop, clip_by_global_norm
from fastbptt.rnn import (
    Gradients,
    Params,
    backward,
    forward,
    init_params,
    readout,
    readout_backward,
    warmup,
)
from fastbptt.training import History, fit

__all__ = [
    "RNN",
    "SGD",
    "Adam",
    "Checkpoints",
    "Constraints",
    "Gradients",
    "History",
    "Leak",
    "MissingExtraError",
    "Noise",
    "Params",
    "RMSprop",
    "backward",
    "backward_checkpointed",
    "clip_by_global_norm",
    "fit",
    "forward",
    "forward_checkpointed",
    "init_params",
    "load",
    "readout",
    "readout_backward",
    "save",
    "warmup",
]
__version__ = "0.2.0"

if TYPE_CHECKING:
    from fastbptt import datasets as datasets
    from fastbptt import diagnostics as diagnostics
    from fastbptt import estimators as estimators
    from fastbptt import jax as jax
    from fastbptt import losses as losses
    from fastbptt import onnx as onnx
    from fastbptt import optimizers as optimizers
    from fastbptt import plots as plots
    from fastbptt import tasks as tasks
    from fastbptt import testing as testing
    from fastbptt import torch as torch
else:
    # Imported at first use: some need an extra.
    _MODULES = (
        "datasets", "diagnostics", "estimators", "jax", "losses", "onnx", "optimizers", "plots",
        "tasks", "testing", "torch",
    )  # fmt: skip

    def __getattr__(name):
        if name in _MODULES:
            return importlib.import_module(f"fastbptt.{name}")
        raise AttributeError(f"module 'fastbptt' has no attribute {name!r}")

    def __dir__():
        return sorted([*__all__, *_MODULES, "__version__"])
