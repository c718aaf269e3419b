"""Training steps of small networks, whose arrays and kernel calls are kept from step to step.

Otherwise Python takes as long as the kernels there: to check, to find memory, to make calls ready.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from fastbptt import _checks
from fastbptt._network import Network, Weights
from fastbptt._weights import Minibatch
from fastbptt.rnn import find_backend

# Elements of inputs and states, 1 MiB of float32, up to which they are kept.  Forward and backward
# take some hundreds of microseconds then, of which keeping saves 20.
SMALL = 1 << 18
# Shapes of minibatches that are kept at a time: that of whole ones, of the last one, and others.
SHAPES = 4


class RepeatedSteps:
    """Losses and gradients of a training's minibatches, as far as steps are alike.

    The network has plain layers in one direction without dropout, whose sequences begin with zero.
    The minibatches are of inputs, not tokens, all of one length, in a shape that has come before.

    Parameters
    ----------
    network : Network
    gradient : Weights
        :meth:`Network.new_gradient`'s, to fill.
    """

    def __init__(self, network: Network, gradient: Weights) -> None:
        stack, backend = network.stack, find_backend(network.backend)
        self._network, self._gradient = network, gradient
        self._steps: dict[tuple[int, ...], RepeatedStep | None] = {}
        self._alike = (
            stack.activation in getattr(backend, "REPEATED", ())
            and stack.directions == 1
            and stack.leak is None
            and not stack.initial
            and not (network.noise or network.output_dropout or stack.dropout)
        )

    def find(self, minibatch: Minibatch) -> "RepeatedStep | None":
        """What takes the step of a minibatch, if it is one of these."""
        shape = minibatch.x.shape
        if not self._alike or minibatch.lengths is not None or len(shape) < 3:
            return None
        return self._steps.get(shape) or self._new(*shape)

    def _new(self, T: int, B: int, I: int) -> "RepeatedStep | None":
        shape, stack = (T, B, I), self._network.stack
        if not 0 < T * B * (I + stack.hidden_size * stack.num_layers) <= SMALL:
            return None
        if shape in self._steps:
            self._steps[shape] = RepeatedStep(self._network, self._gradient, T, B)
        else:
            if len(self._steps) == SHAPES:
                self._steps.clear()
            self._steps[shape] = None  # it may not come again
        return self._steps[shape]


class RepeatedStep:
    """A minibatch's loss and gradient, with the bits of :meth:`Network.loss_and_gradient`.

    Parameters
    ----------
    network, gradient
        As for :class:`RepeatedSteps`.
    T, B : int
        Steps and sequences of a minibatch.
    """

    def __init__(self, network: Network, gradient: Weights, T: int, B: int) -> None:
        stack, weights, backend = network.stack, network.weights, find_backend(network.backend)
        layers, activation, dtype = stack.layers, stack.activation, weights.vector.dtype
        I, (H, O) = len(layers[0].W_x), weights.W_y.shape
        # Batch-major in memory, as they come out of a data set
        self._x = np.empty((B, T, I), dtype).swapaxes(0, 1)
        inputs, states = [self._x], []
        self._forward: list[Callable[[], object]] = []
        self._backward: list[Callable[[], object]] = []
        for params in layers:
            h = np.zeros((T + 1, B, H), dtype)
            self._forward.append(backend.repeated_forward(params, inputs[-1], h, activation))
            inputs.append(h[1:])
            states.append(h)
        top = inputs[-1] if network.output == "all" else inputs[-1][-1]
        y, rows, dh = np.empty((*top.shape[:-1], O), dtype), top.reshape(-1, H), np.empty_like(top)
        self._y, self._dy = y, np.empty_like(y)
        self._forward.append(
            backend.repeated_readout(weights.W_y, weights.b_y, rows, y.reshape(-1, O))
        )
        self._backward.append(
            backend.repeated_readout_backward(
                weights.W_y, rows, self._dy.reshape(-1, O), gradient.W_y, gradient.b_y,
                dh.reshape(-1, H),
            )
        )  # fmt: skip
        for l in reversed(range(len(layers))):
            dx, dh0 = np.empty((T, B, H), dtype) if l else None, np.empty((B, H), dtype)
            self._backward.append(
                backend.repeated_backward(
                    layers[l], inputs[l], states[l], dh, gradient.layers[l], dx, dh0, activation
                )
            )
            dh = dx

    def loss_and_gradient(self, minibatch: Minibatch, loss: Callable[..., Any]) -> float:
        """Fill the gradient, and return the loss; a loss is as for the network's."""
        self._x[...] = minibatch.x
        for run in self._forward:
            run()
        more = () if minibatch.weight is None else (minibatch.weight,)
        # Of y a copy, since a loss may keep it.
        value, dy = loss(self._y.copy(), minibatch.y, None, *more)
        _checks.array("dy", dy, self._dy.dtype, self._dy.shape, "(..., O), as y has", "y")
        self._dy[...] = dy
        for run in self._backward:
            run()
        return value
