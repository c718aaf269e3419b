"""Training vanilla recurrent networks on a CPU, fast, from pure Python."""

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

__all__ = [
    "Gradients",
    "Params",
    "backward",
    "forward",
    "init_params",
    "readout",
    "readout_backward",
    "warmup",
]
__version__ = "0.1.0"
