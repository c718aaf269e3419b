"""Recurrent layers on top of each other, in one direction or both, with dropout between them.

A :class:`Stack` gives states and takes gradients at all of its ends: inputs, outputs, and every
layer's initial and last states in each direction.  What is read out of the states is not its
business; :mod:`fastbptt._network` adds that.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastbptt import _checks
from fastbptt._leak import Leak
from fastbptt._noise import Noise
from fastbptt.rnn import Activation, Backend, Params, backward, find_backend, forward, leaks

Shape = tuple[int, ...]
# Of each layer and direction, (B, H); one array (L D, B, H) will do.
States = np.ndarray | Sequence[np.ndarray]
SomeStates = np.ndarray | Sequence[np.ndarray | None]


class Pass(NamedTuple):
    """One forward pass, as the backward pass needs it.

    `x` and `h` have an entry for each layer and direction, in the order of :class:`Stack`'s layers;
    a second direction's run from the sequence's end to its start.

    Attributes
    ----------
    lengths : ndarray, (B,), or None
    x : list of ndarray, (T, B, I or D H), or of integers (T, B)
        Inputs.
    h : list of ndarray, (T + 1, B, H)
        States.
    masks : list of (ndarray, (T, B, D H), or None)
        What dropout multiplied each layer's inputs by; and then the outputs, if it did.
    v : list of (ndarray, (B, H) or (T + 1, B, H), or None)
        Potentials, where the leak is of these: the last ones, or all.
    """

    lengths: np.ndarray | None
    x: list[np.ndarray]
    h: list[np.ndarray]
    masks: list[np.ndarray | None]
    v: list[np.ndarray | None]

    @property
    def last(self) -> list[np.ndarray]:
        """What a next pass goes on from, (B, H): the last states, or potentials.

        Copies, which do not keep all others in memory.
        """
        carried = (h if v is None else v for h, v in zip(self.h, self.v, strict=True))
        return [a if a.ndim == 2 else a[-1].copy() for a in carried]


class StackGradients(NamedTuple):
    """What :meth:`Stack.backward` returns.

    Attributes
    ----------
    layers : list of Params
    x : ndarray, (T, B, I), or None
    h0 : list of ndarray, (B, H)
    """

    layers: list[Params]
    x: np.ndarray | None
    h0: list[np.ndarray]


class Stack:
    """Recurrent layers, each of which reads the states of the one below.

    Parameters
    ----------
    layers : sequence of Params
        The weights: the first layer's for each direction, then the second layer's, and so on.
    directions : {1, 2}, default 1
        D.  The second direction reads each sequence from its end.
    initial : sequence of ndarray, (H,), default ()
        The state of each layer and direction that sequences begin with; if empty, zero.
    activation, leak, backend
        As for :func:`fastbptt.forward`.
    dropout : float, default 0.0
        Share of the states between two layers that are replaced by zero.
    output_dropout : float, default 0.0
        The same of the outputs.
    """

    layers: Sequence[Params]
    directions: int
    initial: Sequence[np.ndarray]
    num_layers: int
    hidden_size: int
    activation: Activation
    leak: Leak | None
    dropout: float
    output_dropout: float
    backend: Backend

    def __init__(
        self,
        layers: Sequence[Params],
        *,
        directions: int = 1,
        initial: Sequence[np.ndarray] = (),
        activation: Activation = "tanh",
        leak: Leak | None = None,
        dropout: float = 0.0,
        output_dropout: float = 0.0,
        backend: Backend = "numba",
    ) -> None:
        self.layers, self.directions, self.initial = layers, directions, initial
        self.dropout, self.output_dropout = dropout, output_dropout
        self.activation, self.leak, self.backend = activation, leak, backend
        self.num_layers, self.hidden_size = len(layers) // directions, len(layers[0].b)

    def forward(
        self,
        x: np.ndarray,
        h0: States | None = None,
        *,
        lengths: np.ndarray | None = None,
        rng: np.random.Generator | None = None,
        noise: Noise | None = None,
        over: list[np.ndarray] | None = None,
        keep_v: bool = False,
    ) -> Pass:
        """Run through all steps.

        Parameters
        ----------
        x : ndarray, (T, B, I), or of integers (T, B): tokens
        h0 : ndarray, (L D, B, H), or sequence of ndarray, (B, H), optional
            Initial states, or potentials, for each layer and direction, in place of
            :attr:`initial`.
        lengths : ndarray of int64, (B,), optional
        rng : numpy.random.Generator, optional
            Draws what dropout leaves out.  Without it nothing is left out.
        noise : Noise, optional
            Added in the first layer's first direction; the others add theirs, see
            :meth:`fastbptt.Noise.of_layer`.
        over : list of ndarray, optional
            `h` of an earlier pass of as many steps or more, to write the states over: new memory
            costs time at first use.
        keep_v : bool, default False
            Keep all potentials, not the last ones alone.

        Returns
        -------
        Pass
        """
        D, T, B = self.directions, len(x), x.shape[1]
        if h0 is None and self.initial:
            h0 = [np.repeat(a[np.newaxis], B, axis=0) for a in self.initial]
        if lengths is not None:
            lengths = _checks.lengths(lengths, T, B)
        of_v = (T + 1, B, self.hidden_size)[0 if keep_v else 1 :]
        passed, drawn = Pass(lengths, [], [], [], []), self._draw(x, rng)
        potentials, run = self._of_potential, find_backend(self.backend).forward
        # What is left then was checked when it was read.
        plain = self.leak is noise is h0 is over is None and x.ndim == 3
        for l in range(self.num_layers):
            below, mask = (x if l == 0 else self.outputs(passed)), None
            if self.dropout and drawn is not None and l > 0:
                mask = scaled(drawn[:, l - 1], self.dropout, below.dtype)
                below = below * mask
            passed.masks.append(mask)
            for d in range(D):
                i = l * D + d
                passed.x.append(below if d == 0 else reverse(below, lengths))
                if plain:
                    v, h = None, np.empty((T + 1, B, self.hidden_size), below.dtype)
                    h[0] = 0
                    run(self.layers[i], passed.x[i], h, lengths, self.activation)
                else:
                    v = np.empty(of_v, self.layers[i].b.dtype) if potentials else None
                    h = forward(
                        self.layers[i], passed.x[i], None if h0 is None else h0[i],
                        lengths=lengths, activation=self.activation, leak=self.leak,
                        backend=self.backend, v=v,
                        noise=None if noise is None else noise.of_layer(i),
                        out=None if over is None else over[i][: T + 1],
                    )  # fmt: skip
                passed.v.append(v)
                passed.h.append(h)
        if self.output_dropout and drawn is not None:
            passed.masks.append(scaled(drawn[:, -1], self.output_dropout, h.dtype))
        return passed

    @property
    def _of_potential(self) -> bool:
        return self.leak is not None and self.leak.of == "potential"

    def seen(self, last: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The last states, as layers show them, from what a pass goes on from."""
        if not self._of_potential:
            return list(last)
        none = np.empty((0, len(last[0]), 1), last[0].dtype)
        return [
            forward(
                Params(params.W_x[:1], *params[1:]), none, v, activation=self.activation,
                leak=self.leak, backend=self.backend,
            )[0]
            for params, v in zip(self.layers, last, strict=True)
        ]  # fmt: skip

    def layer_outputs(self, passed: Pass, layer: int) -> np.ndarray:
        """A layer's states after every step, (T, B, D H), of both directions side by side."""
        return self._side_by_side(passed.h, layer, passed.lengths)

    def layer_potentials(self, passed: Pass, layer: int) -> np.ndarray:
        """As :meth:`layer_outputs`, of potentials, if the pass kept them."""
        return self._side_by_side(passed.v, layer, passed.lengths)

    def _side_by_side(
        self, of_layers: Sequence[Any], layer: int, lengths: np.ndarray | None
    ) -> np.ndarray:
        D = self.directions
        h = of_layers[layer * D : (layer + 1) * D]
        if D == 1:
            return h[0][1:]
        return np.concatenate([h[0][1:], reverse(h[1][1:], lengths)], axis=2)

    def outputs(self, passed: Pass) -> np.ndarray:
        """:meth:`layer_outputs` of the topmost layer come to, (T, B, D H).

        They are as dropout leaves them.
        """
        found = self.layer_outputs(passed, len(passed.h) // self.directions - 1)
        return found * passed.masks[-1] if len(passed.masks) > self.num_layers else found

    def backward(
        self,
        passed: Pass,
        doutputs: np.ndarray | None = None,
        dlast: SomeStates | None = None,
        *,
        dstate: SomeStates | None = None,
        dstates: float = 0.0,
        need_dx: bool = True,
        out: Sequence[Params] | None = None,
    ) -> StackGradients:
        """Gradients of a loss, back from those of the outputs and of the last states.

        Parameters
        ----------
        passed : Pass
            What :meth:`forward` returned.
        doutputs : ndarray, (T, B, D H), optional
            The loss's gradient at :meth:`outputs`; zero by default.
        dlast : ndarray, (L D, B, H), or sequence of (ndarray, (B, H), or None), optional
            The loss's gradient at the last states, for each layer and direction; zero by default.
        dstate : as dlast, optional
            The gradient at what a next pass goes on from, :attr:`Pass.last`: other than `dlast` for
            potentials.
        dstates : float, default 0.0
            Times the state after each step, of every layer and direction, a gradient at that state.
        need_dx : bool, default True
            False leaves out the gradient of the inputs and its cost.  Tokens have none.
        out : sequence of Params, optional
            C-contiguous arrays to fill with the gradients of the weights, and to return.

        Returns
        -------
        StackGradients
        """
        D, H, lengths = self.directions, self.hidden_size, passed.lengths
        self._check(passed, doutputs, dlast)
        potentials = self._of_potential
        if dstate is not None and not potentials:
            dlast, dstate = (dstate if dlast is None else _sums(dlast, dstate)), None
        leaking = leaks(self.leak, H, passed.h[0].dtype)
        need_dx = need_dx and passed.x[0].ndim == 3
        run = find_backend(self.backend).backward  # the rest was checked on the way here
        layers = [_like(params) for params in self.layers] if out is None else list(out)
        dh0 = [np.empty_like(h[0]) for h in passed.h]
        above = doutputs
        if doutputs is not None and len(passed.masks) > self.num_layers:
            above = doutputs * passed.masks[-1]
        elif dlast is not None and doutputs is not None:
            above = doutputs.copy()  # it is added to
        for l in reversed(range(self.num_layers)):
            below = None
            for d in range(D):
                i = l * D + d
                last = None if dlast is None else dlast[i]
                dh = None if above is None else above[..., d * H : (d + 1) * H]
                if dh is not None and d == 1:
                    dh = reverse(dh, lengths)
                if dstates:
                    added = passed.h[i][1:] * dstates
                    dh = added if dh is None else np.add(added, dh, out=added)
                if dh is None or len(dh) == 0:
                    dh = np.zeros_like(dh0[i]) if last is None else last
                elif last is not None:
                    _add_to_last_steps(dh, last, lengths)
                dx = np.empty(passed.x[i].shape, dh.dtype) if need_dx or l > 0 else None
                more = ()
                if leaking is not None:
                    more = leaking, None if dstate is None else dstate[i]
                run(
                    self.layers[i], passed.x[i], passed.h[i], dh, layers[i], dx, dh0[i], lengths,
                    self.activation, *more,
                )  # fmt: skip
                if dh.ndim == 3 and last is not None and lengths is not None:
                    none = lengths == 0  # their last state is the first
                    dh0[i][none] += (
                        self._at_start(i, passed, last)[none] if potentials else last[none]
                    )
                if dx is not None:
                    below = dx if below is None else below + reverse(dx, lengths)
            mask = passed.masks[l]
            above = below if mask is None or below is None else below * mask
        return StackGradients(layers, above, dh0)

    def _at_start(self, i: int, passed: Pass, dh: np.ndarray) -> np.ndarray:
        """The gradient at initial potentials from that at the states they give."""
        params, x, h = self.layers[i], passed.x[i], passed.h[i]
        return backward(
            params, x[:0], h[:1], np.ascontiguousarray(dh), activation=self.activation,
            leak=self.leak, need_dx=False, backend=self.backend,
        ).h0  # fmt: skip

    def _check(
        self,
        passed: Pass,
        doutputs: np.ndarray | None,
        dlast: SomeStates | None,
    ) -> None:
        """Check the gradients given against the pass."""
        (T, B, *_), dtype = passed.x[0].shape, passed.h[0].dtype
        if doutputs is not None:
            shape = T, B, self.directions * self.hidden_size
            _checks.array("doutputs", doutputs, dtype, shape, "(T, B, D H)")
        shape = B, self.hidden_size
        for i, a in enumerate(() if dlast is None else dlast):
            if a is not None and (type(a), a.shape, a.dtype) != (np.ndarray, shape, dtype):
                _checks.array(f"dlast[{i}]", a, dtype, shape, "(B, H)")

    def _draw(self, x: np.ndarray, rng: np.random.Generator | None) -> np.ndarray | None:
        """What dropout keeps between layers and of the outputs, or None if it keeps all.

        (T, L - 1, B, D H) if the outputs are kept, (T, 1, B, D H) if all between is, else
        (T, L, B, D H).
        """
        if rng is None or not (self.dropout or self.output_dropout):
            return None
        shares = [self.dropout] * (self.num_layers - 1) if self.dropout else []
        shares += [self.output_dropout] if self.output_dropout else []
        # Step by step, so that window by window the same is drawn as at once.
        shape = len(x), len(shares), x.shape[1], self.directions * self.hidden_size
        return rng.random(shape, np.float32) >= np.array(shares, np.float32)[:, None, None]


def layer_shapes(
    input_size: int, hidden_size: int, num_layers: int, bidirectional: bool
) -> Iterator[tuple[str, Shape]]:
    """Name and shape of each array of weights, in the order of a stack's layers.

    One after the other: a file may claim more layers than memory can hold.
    """
    prefixes = ("", "reverse.") if bidirectional else ("",)
    for l in range(num_layers):
        size = input_size if l == 0 else len(prefixes) * hidden_size
        for prefix in prefixes:
            yield f"layers.{l}.{prefix}W_x", (size, hidden_size)
            yield f"layers.{l}.{prefix}W_h", (hidden_size, hidden_size)
            yield f"layers.{l}.{prefix}b", (hidden_size,)


def as_layers(arrays: Iterable[np.ndarray]) -> list[Params]:
    """The arrays that :func:`layer_shapes` names, layer by layer."""
    each = iter(arrays)
    return [Params(*of_layer) for of_layer in zip(each, each, each, strict=True)]


def scaled(kept: np.ndarray, share: float, dtype: np.dtype) -> np.ndarray:
    """What dropout multiplies by: 0, or for what it keeps 1 / (1 - share)."""
    return kept.astype(dtype) * (1 / (1 - share))


def _sums(a: SomeStates, b: SomeStates) -> list[np.ndarray | None]:
    pairs = zip(a, b, strict=True)
    return [q if p is None else p if q is None else p + q for p, q in pairs]


def reverse(a: np.ndarray, lengths: np.ndarray | None) -> np.ndarray:
    """(T, B, ...) back to front, each sequence within its length."""
    if lengths is None:
        return a[::-1]
    t = np.arange(len(a))[:, None]
    return a[np.where(t < lengths, lengths - 1 - t, t), np.arange(a.shape[1])]


def _add_to_last_steps(dh: np.ndarray, dlast: np.ndarray, lengths: np.ndarray | None) -> None:
    """Add the gradient of last states, (B, H), where they are reached: at each sequence's end."""
    if lengths is None:
        dh[-1] += dlast
        return
    [some] = np.nonzero(lengths)
    dh[lengths[some] - 1, some] += dlast[some]


def _like(params: Params) -> Params:
    return Params(*(np.empty(a.shape, a.dtype) for a in params))
