"""Training vanilla recurrent networks on a CPU, fast, from pure Python."""

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
    "Gradients",
    "History",
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
__version__ = "0.1.0"
