"""Training vanilla recurrent networks on a CPU, fast, from pure Python."""

from fastbptt.rnn import Gradients, Params, backward, forward, init_params, warmup

__all__ = ["Gradients", "Params", "backward", "forward", "init_params", "warmup"]
__version__ = "0.1.0"
