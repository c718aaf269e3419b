"""Weights from Keras and back, without Keras: its layers are known by their names and attributes.

Keras keeps a layer's arrays as we do, inputs by rows, in the order of `Params`.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fastbptt._exchange import check_plain, model_with
from fastbptt.model import RNN
from fastbptt.reference import ACTIVATIONS
from fastbptt.rnn import Params

NAMES = {"linear": "identity"}  # all others are called the same
WITHOUT_WEIGHTS = "InputLayer", "Masking", "Dropout"
EXPECTED = (
    "SimpleRNN layers, or Bidirectional ones of them, then at most one Dense; "
    f"{', '.join(WITHOUT_WEIGHTS)} in between"
)


def from_keras(
    source: Any, activation: str | None, bidirectional: bool | None, output: str | None
) -> RNN:
    """See :meth:`fastbptt.RNN.from_keras`."""
    items = _items(source)
    if not all(isinstance(item, np.ndarray) for item in items):
        for name, value in (
            ("activation", activation),
            ("bidirectional", bidirectional),
            ("output", output),
        ):
            if value is not None:
                raise ValueError(f"{name} is {value!r} beside layers, expected none: they say it")
        return _from_layers(items)
    layers, readout = _sorted(items)
    return model_with(
        layers, readout, directions=2 if bidirectional else 1, activation=activation or "tanh",
        output=output or "last",
    )  # fmt: skip


def to_keras(model: RNN) -> list[np.ndarray]:
    """See :meth:`fastbptt.RNN.to_keras`."""
    check_plain(model, "Keras' SimpleRNN")
    return [a.copy() for a in model.parameters().values()]


def _items(source: Any) -> list[Any]:
    """Layers, or arrays, one after the other."""
    if hasattr(source, "layers"):
        source = source.layers
    elif hasattr(source, "get_weights"):
        source = [source]
    if not isinstance(source, Iterable) or isinstance(source, (str, bytes, np.ndarray)):
        kind = type(source).__name__
        raise TypeError(f"layers is a {kind}, expected {EXPECTED}, or their arrays")
    items = [*source]
    if not items:
        raise ValueError(f"layers is empty, expected {EXPECTED}, or their arrays")
    return items


def _sorted(
    arrays: Sequence[np.ndarray],
) -> tuple[list[Params], tuple[np.ndarray, np.ndarray] | None]:
    """The arrays of layers and of a readout, told apart by their shapes; biases may be missing."""
    rest, layers, readout = [*arrays], [], None
    while rest and readout is None:
        kernel = rest.pop(0)
        if kernel.ndim != 2:
            raise ValueError(f"a kernel has shape {kernel.shape}, expected (I, H)")
        H = kernel.shape[1]
        recurrent = rest.pop(0) if rest and rest[0].shape == (H, H) else None
        bias = rest.pop(0) if rest and rest[0].ndim == 1 else np.zeros(H, kernel.dtype)
        if recurrent is None:
            readout = kernel, bias
        else:
            layers.append(Params(kernel, recurrent, bias))
    if rest or not layers:
        shapes = ", ".join(str(a.shape) for a in arrays)
        raise ValueError(f"the arrays have shapes {shapes}, expected those of {EXPECTED}")
    return layers, readout


def _from_layers(items: list[Any]) -> RNN:
    recurrent, dense = [], None
    for layer in items:
        inner = layer.layer if _kind(layer) == "TimeDistributed" else layer
        if _kind(inner) == "Dense" and dense is None and recurrent:
            dense = inner
        elif _kind(layer) in ("SimpleRNN", "Bidirectional") and dense is None:
            recurrent.append(layer)
        elif _kind(layer) not in WITHOUT_WEIGHTS:
            raise ValueError(f"layers has a {_kind(layer)} there, expected {EXPECTED}")
    if not recurrent:
        raise ValueError(f"layers has no SimpleRNN, expected {EXPECTED}")
    each = [single for layer in recurrent for single in _directions(layer)]
    kinds = {_kind(single) for single in each}
    if kinds != {"SimpleRNN"} or len(each) not in (len(recurrent), 2 * len(recurrent)):
        raise ValueError(
            f"layers has {', '.join(sorted(map(_kind, recurrent)))} of {', '.join(sorted(kinds))}, "
            f"expected {EXPECTED}, all in one direction or all in both"
        )
    for layer, top in itertools.pairwise(recurrent):
        if not _directions(layer)[0].return_sequences:
            raise ValueError(f"{layer.name} below {top.name} has return_sequences=False")
    if dense is not None and dense.activation.__name__ != "linear":
        raise ValueError(
            f"{dense.name} has the activation {dense.activation.__name__!r}, expected 'linear', as "
            "our readout has; get_weights() in place of the layers leaves the activation to you"
        )
    arrays = [a for single in each for a in single.get_weights()]
    layers, readout = _sorted(arrays + ([] if dense is None else dense.get_weights()))
    return model_with(
        layers, readout, directions=len(each) // len(recurrent), activation=_activation(each),
        output="all" if _directions(recurrent[-1])[0].return_sequences else "last",
    )  # fmt: skip


def _activation(layers: list[Any]) -> str:
    """The activation that all have."""
    theirs = sorted({layer.activation.__name__ for layer in layers})
    ours = NAMES.get(theirs[0], theirs[0])
    if len(theirs) > 1 or ours not in ACTIVATIONS:
        raise ValueError(
            f"the activation is {', '.join(theirs)}, expected one of {', '.join(ACTIVATIONS)} in "
            "all layers"
        )
    return ours


def _directions(layer: Any) -> list[Any]:
    """The layer, or the two of a Bidirectional, of which the second runs from the end."""
    if _kind(layer) == "Bidirectional":
        if layer.merge_mode != "concat":
            raise ValueError(f"{layer.name} has merge_mode={layer.merge_mode!r}, expected 'concat'")
        return [layer.forward_layer, layer.backward_layer]
    if layer.go_backwards:
        raise ValueError(f"{layer.name} has go_backwards=True, expected False or a Bidirectional")
    return [layer]


def _kind(layer: Any) -> str:
    return type(layer).__name__
