"""A model of weights that come from elsewhere: another library's, or a file's."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastbptt import _checks
from fastbptt._network import weight_shapes
from fastbptt.model import RNN, check_config, model_of
from fastbptt.rnn import Params

FOR_TRAINING = "dropout", "output_dropout", "noise"
PLAIN = ("input_size", "hidden_size", "output_size", "num_layers", "bidirectional", "activation",
         "output", "dtype", "backend", "spectral_radius", "constraints",
         *FOR_TRAINING)  # fmt: skip


def model_with(
    layers: Sequence[Params],
    readout: tuple[np.ndarray, np.ndarray] | None,
    *,
    directions: int = 1,
    activation: str = "tanh",
    output: str = "last",
    backend: str = "numba",
    dropout: float = 0.0,
    **others: Any,
) -> RNN:
    """The model of these weights, of which it takes copies.

    Parameters
    ----------
    layers : sequence of Params
        Those of a :class:`fastbptt._stack.Stack`.
    readout : (W_y, b_y), (D H, O) and (O,), or None
        None: the states themselves, as read out by an identity matrix.
    directions : {1, 2}, default 1
        D.
    activation, output, backend, dropout, and others of `check_config`
        As for :class:`fastbptt.RNN`.
    """
    dtype = layers[0].b.dtype
    if len(layers) % directions:
        raise ValueError(f"these are the weights of {len(layers)} layers, expected two for each")
    (I, H), wide = np.shape(layers[0].W_x), directions * len(layers[0].b)
    if readout is None:
        readout = np.eye(wide, dtype=dtype), np.zeros(wide, dtype)
    config = check_config(
        I, H, np.shape(readout[1])[0], len(layers) // directions, directions == 2, activation,
        output, dropout, dtype, backend, **others,
    )  # fmt: skip
    arrays = [a for params in layers for a in params] + [*readout]
    for (name, shape), a in zip(weight_shapes(**config), arrays, strict=True):
        _checks.array(name, a, dtype, shape, "the size that the other weights have", "the first b")
    return model_of(config, np.concatenate([a.ravel() for a in arrays]))


def check_plain(model: RNN, elsewhere: str) -> None:
    """Refuse a model whose outputs follow from more than its weights and what is in `PLAIN`."""
    usual = RNN(model.input_size, model.hidden_size, model.output_size, backend="numpy").config()
    for name, value in model.config().items():
        if name not in PLAIN and value != usual[name]:
            raise ValueError(f"the model has {name}={value!r}, which {elsewhere} cannot say")
