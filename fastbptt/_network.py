"""Layers, both directions, dropout and readout, on time-major arrays: what a model computes.

A :class:`Network` knows nothing of data sets; :mod:`fastbptt.model` does.  All its weights lie in
one vector, of which each named array is a view, and so do their gradients: an optimizer, a copy of
the best weights, a norm are one operation each.
"""

import copy
import math
import sys
from typing import Any, NamedTuple

import numpy as np

from fastbptt.checkpointed import window_size, windows
from fastbptt.rnn import Params, backward, forward, init_params, readout, readout_backward

# Elements of the states that `Network.outputs` keeps at a time, 32 MiB of float32.
KEPT_STATES = 8 << 20


class Pass(NamedTuple):
    """One forward pass, as the backward pass needs it.

    Lists have an entry for each layer; what is in them, for each direction.

    Attributes
    ----------
    lengths : ndarray, (B,), or None
    x : list of tuple of ndarray, (T, B, I or D H)
        Inputs, the second direction's back to front.
    h : list of list of ndarray, (T + 1, B, H)
        States, the second direction's back to front.
    dropout : list of (ndarray or None)
        What the inputs were multiplied by.
    top : ndarray, (B, D H) or (T, B, D H)
        What the readout reads.
    y : ndarray, (B, O) or (T, B, O)
        Outputs.
    """

    lengths: np.ndarray | None
    x: list
    h: list
    dropout: list
    top: np.ndarray
    y: np.ndarray

    @property
    def state(self):
        """Each layer's last states, (B, H): copies, which do not keep all others in memory."""
        return [h[0][-1].copy() for h in self.h]


def weight_shapes(input_size, hidden_size, output_size, num_layers, bidirectional, **_):
    """Name and shape of each array of weights, in their order.

    One after the other: a file may claim more layers than memory can hold.
    """
    directions = 2 if bidirectional else 1
    for l in range(num_layers):
        size = input_size if l == 0 else directions * hidden_size
        for prefix in _prefixes(l, directions):
            yield prefix + "W_x", (size, hidden_size)
            yield prefix + "W_h", (hidden_size, hidden_size)
            yield prefix + "b", (hidden_size,)
    yield "W_y", (directions * hidden_size, output_size)
    yield "b_y", (output_size,)


def _prefixes(l, directions):
    """What the names of a layer's weights begin with, for each direction."""
    return [f"layers.{l}.", f"layers.{l}.reverse."][:directions]


class Network:
    """Stacked recurrent layers and a readout.

    Parameters
    ----------
    As for :class:`fastbptt.RNN`, checked there; and the weights, by one of

    vector : ndarray, (P,)
        Taken as it is.
    rng : numpy.random.Generator
        Draws them.

    Attributes
    ----------
    vector : ndarray, (P,)
        All weights, in the order of :func:`weight_shapes`.
    """

    def __init__(
        self, input_size, hidden_size, output_size, num_layers, bidirectional, activation, output,
        dropout, dtype, backend, *, vector=None, rng=None,
    ):  # fmt: skip
        self.hidden_size, self.num_layers = hidden_size, num_layers
        self.directions = 2 if bidirectional else 1
        self.activation, self.output, self.dropout = activation, output, dropout
        self.backend = backend
        shapes = weight_shapes(input_size, hidden_size, output_size, num_layers, bidirectional)
        self._shapes = dict(shapes)
        self.vector = self._empty(np.dtype(dtype)) if vector is None else vector
        views = self.named(self.vector)
        self._layers = [
            [Params(*(views[p + name] for name in Params._fields)) for p in prefixes]
            for prefixes in (_prefixes(l, self.directions) for l in range(num_layers))
        ]
        self._W_y, self._b_y = views["W_y"], views["b_y"]
        if rng is not None:
            self._draw(rng)

    def _empty(self, dtype):
        """Memory for all weights: where there is too little, it is said before work is done."""
        size = sum(map(math.prod, self._shapes.values()))
        if size * dtype.itemsize > sys.maxsize:  # np.empty would say so in words of its own
            raise MemoryError("the model has more weights than memory can hold")
        return np.empty(size, dtype)

    def _draw(self, rng):
        for params in (params for layer in self._layers for params in layer):
            drawn = init_params(*params.W_x.shape, dtype=self.vector.dtype.name, seed=rng)
            for a, its_drawn in zip(params, drawn, strict=True):
                a[...] = its_drawn
        limit = math.sqrt(6 / sum(self._W_y.shape))
        self._W_y[...] = rng.uniform(-limit, limit, self._W_y.shape)
        self._b_y[...] = 0

    def named(self, vector):
        """Views of a vector of weights, or of their gradients, by name."""
        views, at = {}, 0
        for name, shape in self._shapes.items():
            size = math.prod(shape)
            views[name] = vector[at : at + size].reshape(shape)
            at += size
        return views

    def forward(self, x, lengths=None, state=None, rng=None, over=None):
        """Run through all steps.

        Parameters
        ----------
        x : ndarray, (T, B, I)
        lengths : ndarray of int64, (B,), optional
        state : sequence of ndarray, (B, H), optional
            Each layer's initial states; zero by default.
        rng : numpy.random.Generator, optional
            Draws what dropout leaves out.  Without it nothing is left out.
        over : Pass, optional
            An earlier pass of as many steps or more, to write the states over: new memory costs
            time at first use.

        Returns
        -------
        Pass
        """
        options = {"lengths": lengths, "activation": self.activation, "backend": self.backend}
        below, xs, hs, masks, drawn = x, [], [], [], None
        if rng is not None and self.dropout > 0:
            # Step by step, so that window by window the same ones are drawn as at once.
            between = self.num_layers - 1, x.shape[1], self.directions * self.hidden_size
            drawn = rng.random((len(x), *between), np.float32) >= self.dropout
        for l, layer in enumerate(self._layers):
            mask = None
            if l > 0:
                below = self._joined_directions(hs[-1], lengths)
                if drawn is not None:
                    mask = drawn[:, l - 1].astype(x.dtype) * (1 / (1 - self.dropout))
                    below = below * mask
            both = below, reverse(below, lengths) if self.directions == 2 else None
            h0 = None if state is None else state[l]
            xs.append(both[: self.directions])
            hs.append([])
            for d, params in enumerate(layer):
                out = None if over is None else over.h[l][d][: len(x) + 1]
                hs[l].append(forward(params, xs[l][d], h0, out=out, **options))
            masks.append(mask)
        if self.output == "all":
            top = self._joined_directions(hs[-1], lengths)
        else:
            top = hs[-1][0][-1]
            if self.directions == 2:
                top = np.concatenate([top, hs[-1][1][-1]], axis=1)
        y = readout(self._W_y, self._b_y, top, backend=self.backend)
        return Pass(lengths, xs, hs, masks, top, y)

    def backward(self, passed, dy, dstate=None):
        """Gradients of a loss, back from that of the outputs.

        Parameters
        ----------
        passed : Pass
            What :meth:`forward` returned.
        dy : ndarray, (B, O) or (T, B, O)
        dstate : sequence of ndarray, (B, H), optional
            The loss's gradient at each layer's last states, where they go on into later steps; in
            one direction only.  Zero by default.

        Returns
        -------
        gradient : ndarray, (P,)
            In the order of :attr:`vector`.
        dstate0 : list of ndarray, (B, H)
            Gradient of each layer's initial states.
        """
        options = {"lengths": passed.lengths, "activation": self.activation}
        above: Any
        dW_y, db_y, above = readout_backward(self._W_y, passed.top, dy, backend=self.backend)
        gradients, dstate0 = [dW_y, db_y], []
        H = self.hidden_size
        for l in reversed(range(self.num_layers)):
            parts, below = [], None
            for d, params in enumerate(self._layers[l]):
                dh = above[..., d * H : (d + 1) * H]
                if d == 1 and dh.ndim == 3:
                    dh = reverse(dh, passed.lengths)
                if dstate is not None:
                    last = dh if dh.ndim == 2 else dh[-1]
                    last += dstate[l]  # memory of ours: a readout's or a layer's dx
                dparams, dx, dh0 = backward(
                    params, passed.x[l][d], passed.h[l][d], dh, need_dx=l > 0,
                    backend=self.backend, **options,
                )  # fmt: skip
                parts += dparams
                dstate0.insert(0, dh0)
                if l > 0:
                    below = dx if d == 0 else below + reverse(dx, passed.lengths)
            gradients = parts + gradients
            above = below if passed.dropout[l] is None else below * passed.dropout[l]
        return _joined(gradients), dstate0

    def outputs(self, x, lengths=None, state=None, rng=None):
        """Outputs and last states, in windows of time so that few states are kept.

        Parameters
        ----------
        x, lengths, state, rng
            As for :meth:`forward`.

        Returns
        -------
        y : ndarray, (B, O) or (T, B, O)
        state : list of ndarray, (B, H)
            Of each layer.
        """
        step = x.shape[1] * self.hidden_size * self.num_layers
        size = len(x) if self.directions == 2 else KEPT_STATES // max(step, 1)
        ys, first = [], None
        for window, its_lengths in windows(x, lengths, max(size, 1)):
            passed = self.forward(window, its_lengths, state, rng, over=first)
            first = first or passed
            state = passed.state
            ys.append(passed.y)
        return (np.concatenate(ys) if self.output == "all" else ys[-1]), state

    def loss_and_gradient(
        self, x, target, lengths, loss, *, state=None, rng=None, checkpointed=False
    ):
        """A minibatch's loss and its gradient.

        Parameters
        ----------
        x, lengths, state, rng
            As for :meth:`forward`.
        target : ndarray
            As the loss takes it beside y.
        loss : callable
            ``loss(y, target, mask) -> (value, dy)``, see :mod:`fastbptt.losses`.
        checkpointed : bool
            Keep the states of about sqrt(T) steps only, and compute those between them a second
            time, window by window, on the way back (Chen et al. 2016, "Training deep nets with
            sublinear memory cost").  In one direction only.

        Returns
        -------
        value : float
        gradient : ndarray, (P,)
        state : list of ndarray, (B, H)
            Each layer's last states.
        """
        mask = None
        if lengths is not None and self.output == "all":
            mask = np.arange(len(x))[:, None] < lengths
        if not checkpointed:
            passed = self.forward(x, lengths, state, rng)
            value, dy = loss(passed.y, target, mask)
            return value, self.backward(passed, dy)[0], passed.state

        pieces, ys, first = [], [], None
        for piece in windows(x, lengths, window_size(len(x))):
            pieces.append((*piece, state, copy.deepcopy(rng)))
            passed = self.forward(*piece, state, rng, over=first)
            first = first or passed
            state = passed.state
            ys.append(passed.y)
        every = self.output == "all"
        value, dy = loss(np.concatenate(ys) if every else ys[-1], target, mask)
        gradient, dstate, end = np.zeros_like(self.vector), None, len(x)
        for piece in reversed(pieces):
            passed = self.forward(*piece, over=first)
            steps = len(piece[0])
            part, dstate = self.backward(passed, dy[end - steps : end] if every else dy, dstate)
            gradient += part
            end -= steps
            if not every:
                dy = np.zeros_like(dy)  # the loss reads the last window's states alone
        return value, gradient, state

    def _joined_directions(self, h, lengths):
        """States of all steps, (T, B, D H), in the order of time."""
        if self.directions == 1:
            return h[0][1:]
        return np.concatenate([h[0][1:], reverse(h[1][1:], lengths)], axis=2)


def reverse(a, lengths):
    """(T, B, ...) back to front, each sequence within its length."""
    if lengths is None:
        return a[::-1]
    t = np.arange(len(a))[:, None]
    return a[np.where(t < lengths, lengths - 1 - t, t), np.arange(a.shape[1])]


def _joined(arrays):
    return np.concatenate([array.ravel() for array in arrays])
