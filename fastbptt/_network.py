"""What a model computes, on time-major arrays: a stack of layers, and a readout of its states.

A :class:`Network` knows nothing of data sets; :mod:`fastbptt.model` does.  All its weights lie in
one vector, of which each named array is a view, and so do their gradients: an optimizer, a copy of
the best weights, a norm are one operation each.

Constrained weights are computed from others, see :mod:`fastbptt._constraints`.  What is trained is
a vector, too, of which those without constraints are the common part::

    | constrained weights | weights without constraints | theta |
    '------------------ vector ------------------------'
                          '------------------ free -----------'
"""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fastbptt import _checks
from fastbptt._constraints import Constraints, Entries, LowRank
from fastbptt._draws import draw_uniform
from fastbptt._leak import Leak
from fastbptt._noise import Noise
from fastbptt._stack import Pass, Shape, Stack, States, as_layers, layer_shapes, scaled
from fastbptt.checkpointed import Start, backward_windows, forward_windows, window_size
from fastbptt.rnn import Activation, Backend, Params, find_backend, init_params

# Elements of the states that `Network.outputs` keeps at a time, 32 MiB of float32.
KEPT_STATES = 8 << 20

Rule = Entries | LowRank


def weight_shapes(
    input_size: int,
    hidden_size: int,
    output_size: int,
    num_layers: int,
    bidirectional: bool,
    train_initial_state: bool = False,
    **_: Any,
) -> Iterator[tuple[str, Shape]]:
    """Name and shape of each array of weights, in their order, one after the other."""
    for name, shape in layer_shapes(input_size, hidden_size, num_layers, bidirectional):
        yield name, shape
        if train_initial_state and name.endswith(".b"):
            yield f"{name[:-1]}h0", shape
    yield "W_y", ((1 + bidirectional) * hidden_size, output_size)
    yield "b_y", (output_size,)


class Weights:
    """A network's weights, or their gradients: one vector, and each array as a view of it.

    Parameters
    ----------
    memory : ndarray, (Q,)
    shapes : mapping of str to tuple
        As :func:`weight_shapes` gives them.
    rules : sequence, default ()
        How the constrained ones are computed.

    Attributes
    ----------
    memory : ndarray, (Q,)
    vector : ndarray, (P,)
        All weights: its first part.
    free : ndarray
        What is trained: its last part; without constraints all of it.
    named : dict of str to ndarray
        All weights.
    theta : dict of str to ndarray
        What the constrained ones are computed from, under their names.
    layers : list of Params
        Those of a stack.
    h0 : list of ndarray, (H,)
        The initial state of each layer and direction, if they are trained.
    W_y, b_y : ndarray, (D H, O), (O,)
        The readout's.
    """

    memory: np.ndarray
    vector: np.ndarray
    free: np.ndarray
    named: dict[str, np.ndarray]
    theta: dict[str, np.ndarray]
    layers: list[Params]
    h0: list[np.ndarray]
    W_y: np.ndarray
    b_y: np.ndarray

    def __init__(
        self, memory: np.ndarray, shapes: Mapping[str, Shape], rules: Sequence[Rule] = ()
    ) -> None:
        self.memory, self.theta = memory, {}
        views, at = {}, 0
        for name in in_memory(shapes, rules):
            views[name], at = _view(memory, at, shapes[name])
        self.vector, self.free = memory[:at], memory
        for rule in rules:
            self.free = self.free[math.prod(shapes[rule.name]) :]
            self.theta[rule.name], at = _view(memory, at, rule.shape)
        self.named = {name: views[name] for name in shapes}
        self.W_y, self.b_y = views["W_y"], views["b_y"]
        self.h0 = [a for name, a in self.named.items() if name.endswith(".h0")]
        self.layers = as_layers(
            a for name, a in self.named.items() if name.endswith((".W_x", ".W_h", ".b"))
        )

    @property
    def trained(self) -> dict[str, np.ndarray]:
        """What is trained, by the names of the weights."""
        return {**self.named, **self.theta}


def in_memory(shapes: Iterable[str], rules: Iterable[Rule]) -> list[str]:
    """The names of all weights in the order in which they lie in memory."""
    constrained = [rule.name for rule in rules]
    return [*constrained, *(name for name in shapes if name not in constrained)]


def _view(memory: np.ndarray, at: int, shape: Shape) -> tuple[np.ndarray, int]:
    """An array within a vector, and where it ends."""
    end = at + math.prod(shape)
    return memory[at:end].reshape(shape), end


class Network:
    """A stack of recurrent layers and a readout.

    Parameters
    ----------
    As for :class:`fastbptt.RNN`, checked there; and the weights, by one of

    memory : ndarray, (Q,)
        Taken as it is, but for constrained weights, which are computed.
    rng : numpy.random.Generator
        Draws them.

    Attributes
    ----------
    weights : Weights
    memory, vector, free : ndarray
        Those of the weights.  :meth:`refresh` follows a change of what is free.
    rules : list
        How the constrained weights are computed.
    stack : Stack
        The layers, whose weights are views of the vector.
    noise : float
        The scale of what training adds.
    output_dropout : float
        The share of what is read out that training leaves out.
    """

    output: str
    noise: float
    output_dropout: float
    backend: Backend
    weights: Weights
    memory: np.ndarray
    vector: np.ndarray
    free: np.ndarray
    rules: list[Rule]
    stack: Stack

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        num_layers: int,
        bidirectional: bool,
        activation: Activation,
        output: str,
        dropout: float,
        output_dropout: float,
        noise: float,
        dtype: str,
        backend: Backend,
        leak: Leak | None,
        train_initial_state: bool,
        spectral_radius: float | None,
        constraints: Constraints | None,
        *,
        memory: np.ndarray | None = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        self.output, self.backend, self.noise = output, backend, noise
        self.output_dropout = output_dropout
        shapes = weight_shapes(
            input_size, hidden_size, output_size, num_layers, bidirectional, train_initial_state
        )
        self._shapes, self.rules = dict(shapes), []
        if constraints is not None:
            self.rules = constraints.rules(self._shapes, np.dtype(dtype), backend)
        self.memory = self._empty(np.dtype(dtype)) if memory is None else memory
        self.weights = Weights(self.memory, self._shapes, self.rules)
        self.vector, self.free = self.weights.vector, self.weights.free
        self.stack = Stack(
            self.weights.layers, directions=1 + bidirectional, initial=self.weights.h0,
            activation=activation, leak=leak, dropout=dropout,
            output_dropout=output_dropout if output == "all" else 0.0, backend=backend,
        )  # fmt: skip
        if rng is not None:
            self._draw(rng, spectral_radius)
        else:
            self.refresh()

    def _empty(self, dtype: np.dtype) -> np.ndarray:
        """Memory for all weights: where there is too little, it is said before work is done."""
        shapes = *self._shapes.values(), *(rule.shape for rule in self.rules)
        size = sum(map(math.prod, shapes))
        if size * dtype.itemsize > sys.maxsize:  # np.empty would say so in words of its own
            raise MemoryError("the model has more weights than memory can hold")
        return np.empty(size, dtype)

    def _draw(self, rng: np.random.Generator, radius: float | None) -> None:
        W_y, b_y = self.weights.W_y, self.weights.b_y
        for params in self.stack.layers:
            drawn = init_params(*params.W_x.shape, dtype=self.vector.dtype, seed=rng)
            for a, its_drawn in zip(params, drawn, strict=True):
                a[...] = its_drawn
        W_y[...] = draw_uniform(rng, math.sqrt(6 / sum(W_y.shape)), W_y.shape)
        b_y[...] = 0
        for h0 in self.weights.h0:
            h0[...] = 0
        constrained = self.weights.theta
        for name, W in self.weights.named.items():
            if radius is not None and name.endswith(".W_h") and name not in constrained:
                W *= radius  # that of an orthogonal matrix is 1
        for rule in self.rules:
            rule.draw(self.weights.named[rule.name], constrained[rule.name], rng, radius)

    def refresh(self) -> None:
        """Compute the constrained weights from what is trained."""
        for rule in self.rules:
            rule.fill(self.weights.theta[rule.name], self.weights.named[rule.name])

    def set_free(self, free: np.ndarray) -> None:
        """Set what is trained."""
        self.free[...] = free
        self.refresh()

    def chain(self, gradient: Weights) -> None:
        """Fill the gradient of what is trained from that of the weights: the chain rule."""
        for rule in self.rules:
            theta, dW = self.weights.theta[rule.name], gradient.named[rule.name]
            rule.backward(theta, dW, gradient.theta[rule.name])

    def named(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """Views of a vector of weights, or of their gradients, by name."""
        views, at = {}, 0
        for name in in_memory(self._shapes, self.rules):
            views[name], at = _view(vector, at, self._shapes[name])
        return {name: views[name] for name in self._shapes}

    def assign(self, values: Mapping[str, np.ndarray]) -> None:
        """Set weights by name, once all are checked; those of low rank by M and N, (2, H, R)."""
        rules = {rule.name: rule for rule in self.rules}
        for name, a in values.items():
            if name not in self._shapes:
                raise ValueError(f"{name!r} is set, expected one of {', '.join(self._shapes)}")
            rule = rules.get(name)
            shape, meaning = self._shapes[name], ""
            if isinstance(rule, LowRank):
                shape, meaning = rule.shape, ": M and N, (2, H, R)"
            if a.shape != shape:
                raise ValueError(f"{name} has shape {a.shape}, expected {shape}{meaning}")
            if isinstance(rule, Entries):
                rule.check(a)
        for name, a in values.items():
            rule = rules.get(name)
            if isinstance(rule, LowRank):
                self.weights.theta[name][...] = a
                continue
            self.weights.named[name][...] = a
            if rule is not None:
                rule.take(a, self.weights.theta[name])
        self.refresh()

    def new_gradient(self) -> Weights:
        """Memory for the gradients of all weights."""
        return Weights(np.empty_like(self.memory), self._shapes, self.rules)

    def draw_noise(self, rng: np.random.Generator | None) -> Noise | None:
        """What training adds at a step of the optimizer, under a seed of its own."""
        if rng is None or not self.noise:
            return None
        return Noise(self.noise, int(rng.integers(1 << 64, dtype=np.uint64)))

    def outputs(
        self,
        x: np.ndarray,
        lengths: np.ndarray | None = None,
        state: States | None = None,
        noise: Noise | None = None,
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Outputs and last states, in windows of time so that few states are kept.

        Parameters
        ----------
        x : ndarray, (T, B, I), or of integers (T, B): tokens
        lengths : ndarray of int64, (B,), optional
        state : sequence of ndarray, (B, H), optional
            Initial states, for each layer and direction; by default those that are trained, or
            zero.
        noise : Noise, optional
            As for :meth:`fastbptt._stack.Stack.forward`.

        Returns
        -------
        y : ndarray, (B, O) or (T, B, O)
        state : list of ndarray, (B, H)
            Last states.
        """
        ys, after = self.run(x, lengths, state, noise=noise)
        if self.output == "all":
            return np.concatenate(ys), after
        return self._read(self._last(after)[0]), after

    def run(
        self,
        x: np.ndarray,
        lengths: np.ndarray | None = None,
        state: States | None = None,
        rng: np.random.Generator | None = None,
        noise: Noise | None = None,
        starts: list[Start] | None = None,
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Go through all steps in windows of time; for output "all", read out what they give.

        Parameters
        ----------
        x, lengths, state, noise
            As for :meth:`outputs`.
        rng : numpy.random.Generator, optional
            Draws what dropout leaves out.  Without it nothing is left out.
        starts : list, optional
            Filled with the starts of about sqrt(T) windows, to go back from.

        Returns
        -------
        ys : list of ndarray, (n, B, O)
            The outputs of each window; none for output "last".
        state : list of ndarray, (B, H)
            Last states.
        """
        steps = window_size(len(x))
        if starts is None:
            of_a_step = x.shape[1] * self.stack.hidden_size * self.stack.num_layers
            steps = len(x) if self.stack.directions == 2 else KEPT_STATES // max(of_a_step, 1)
        ys, after = [], []
        for passed in forward_windows(
            self.stack, x, state, lengths=lengths, rng=rng, noise=noise, steps=max(steps, 1),
            starts=starts,
        ):  # fmt: skip
            if self.output == "all":
                ys.append(self._read(self.stack.outputs(passed)))
            after = passed.last
        return ys, after

    def states(
        self,
        x: np.ndarray,
        lengths: np.ndarray | None = None,
        state: States | None = None,
        noise: Noise | None = None,
        potentials: bool = False,
    ) -> list[np.ndarray]:
        """Each layer's states after every step, (T, B, D H), or potentials.

        Other arguments are as for :meth:`outputs`.
        """
        stack = self.stack
        passed = stack.forward(x, state, lengths=lengths, noise=noise, keep_v=potentials)
        of_layer = stack.layer_potentials if potentials else stack.layer_outputs
        return [of_layer(passed, l) for l in range(stack.num_layers)]

    def loss_and_gradient(
        self,
        x: np.ndarray,
        target: np.ndarray,
        lengths: np.ndarray | None,
        loss: Callable[..., Any],
        *,
        weight: np.ndarray | None = None,
        state: States | None = None,
        begins: np.ndarray | None = None,
        rng: np.random.Generator | None = None,
        checkpointed: bool = False,
        activity_l2: float = 0.0,
        out: Weights | None = None,
    ) -> tuple[float, np.ndarray, list[np.ndarray]]:
        """A minibatch's loss and its gradient.

        Parameters
        ----------
        x, lengths, state
            As for :meth:`run`.
        rng : numpy.random.Generator, optional
            Draws what dropout leaves out, and the noise's seed.  Without it there is neither.
        target : ndarray
            As the loss takes it beside y.
        loss : callable
            ``loss(y, target, mask) -> (value, dy)``, see :mod:`fastbptt.losses`; with `weight` this
            is given, too.
        weight : ndarray, optional
            Of rows or elements of y; what it has past a sequence's length does not count.
        checkpointed : bool
            Keep the states of about sqrt(T) steps only, see :mod:`fastbptt.checkpointed`.  In one
            direction only.
        activity_l2 : float, default 0.0
            The gradient is that of the loss and this times the mean of h² over the steps that
            count and the units of all layers and directions.
        out : Weights, optional
            :meth:`new_gradient`'s, to fill; its vector is returned.

        Returns
        -------
        value : float
            Of the loss alone.
        gradient : ndarray, (P,)
            In the order of :attr:`vector`.
        state : list of ndarray, (B, H)
            Last states.
        """
        mask = None
        if lengths is not None and self.output == "all":
            mask = np.arange(len(x))[:, None] < lengths
        gradient = self.new_gradient() if out is None else out
        dreadout = gradient.W_y, gradient.b_y
        dstates = 0.0
        if activity_l2:
            steps = x.shape[0] * x.shape[1] if lengths is None else int(lengths.sum())
            units = len(self.stack.layers) * self.stack.hidden_size
            dstates = 2 * activity_l2 / max(steps * units, 1)
        given = (target, mask) if weight is None else (target, mask, weight)
        noise = self.draw_noise(rng)
        if not checkpointed:
            passed = self.stack.forward(x, state, lengths=lengths, rng=rng, noise=noise)
            last, kept = passed.last, None
            if self.output == "all":
                top = self.stack.outputs(passed)
            else:
                top, kept = self._last(last, rng)
            value, dy = loss(self._read(top), *given)
            ends = self._ends(self._read_backward(top, dy, dreadout, kept))
            *_, dh0 = self.stack.backward(
                passed, *ends, dstates=dstates, need_dx=False, out=gradient.layers
            )
            _sum_of(dh0, begins, state is None, gradient.h0)
            return value, gradient.vector, last

        starts: list[Start] = []
        ys, last = self.run(x, lengths, state, rng, noise, starts)

        def of_window(t: int, h: np.ndarray) -> np.ndarray:
            parts = [np.empty_like(a) for a in dreadout]
            dh = self._read_backward(h, dy[t : t + len(h)], parts)
            for a, part in zip(dreadout, parts, strict=True):
                a += part
            return dh

        doutputs = dlast = None
        if self.output == "all":
            value, dy = loss(np.concatenate(ys), *given)
            gradient.vector[...] = 0
            doutputs = of_window
        else:
            top, kept = self._last(last, rng)
            value, dy = loss(self._read(top), *given)
            _, dlast = self._ends(self._read_backward(top, dy, dreadout, kept))
        *_, dh0 = backward_windows(
            self.stack, x, starts, doutputs, dlast, lengths=lengths, steps=window_size(len(x)),
            dstates=dstates, need_dx=False, out=gradient.layers,
        )  # fmt: skip
        _sum_of(dh0, begins, state is None, gradient.h0)
        return value, gradient.vector, last

    def gradient_at_ends(
        self,
        x: np.ndarray,
        target: np.ndarray,
        lengths: np.ndarray | None,
        loss: Callable[..., Any],
        weight: np.ndarray | None = None,
    ) -> tuple[Pass, np.ndarray | None, list[np.ndarray | None] | None]:
        """A forward pass, and the loss's gradient where the backward pass begins.

        Arguments are those of :meth:`loss_and_gradient`, results those that
        :meth:`Stack.backward <fastbptt._stack.Stack.backward>` takes: `doutputs`, or `dlast`.
        """
        mask = None
        if lengths is not None and self.output == "all":
            mask = np.arange(len(x))[:, None] < lengths
        passed, scratch = self.stack.forward(x, lengths=lengths), self.new_gradient()
        top = self.stack.outputs(passed) if self.output == "all" else self._last(passed.last)[0]
        given = (target, mask) if weight is None else (target, mask, weight)
        _, dy = loss(self._read(top), *given)
        return passed, *self._ends(self._read_backward(top, dy, (scratch.W_y, scratch.b_y)))

    def _last(
        self, states: Sequence[np.ndarray], rng: np.random.Generator | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """What the readout reads after a pass, (B, D H), and what dropout multiplied it by.

        `states` is what a next pass goes on from.
        """
        states = self.stack.seen(states)
        top = states[-1]
        if self.stack.directions == 2:
            top = np.concatenate(states[-2:], axis=1)
        if rng is None or not self.output_dropout:
            return top, None
        kept = rng.random(top.shape, np.float32) >= self.output_dropout
        mask = scaled(kept, self.output_dropout, top.dtype)
        return top * mask, mask

    def _ends(self, dtop: np.ndarray) -> tuple[np.ndarray | None, list[np.ndarray | None] | None]:
        """The gradient of what the readout reads, as the stack takes it: doutputs and dlast."""
        if self.output == "all":
            return dtop, None
        D, H = self.stack.directions, self.stack.hidden_size
        below = [None] * (len(self.stack.layers) - D)
        if D == 1:
            return None, [*below, dtop]
        return None, [*below, *(dtop[:, d * H : (d + 1) * H] for d in range(D))]

    def _read(self, top: np.ndarray) -> np.ndarray:
        W_y, b_y = self.weights.W_y, self.weights.b_y
        H, O = W_y.shape
        y = np.empty((*top.shape[:-1], O), top.dtype)
        find_backend(self.backend).readout(W_y, b_y, top.reshape(-1, H), y.reshape(-1, O))
        return y

    def _read_backward(
        self,
        top: np.ndarray,
        dy: np.ndarray,
        out: Sequence[np.ndarray],
        mask: np.ndarray | None = None,
    ) -> np.ndarray:
        """Fill the gradients of the readout's weights; return that of what it reads.

        `mask` is what dropout multiplied this by, if not the stack did it.
        """
        W_y, dtop = self.weights.W_y, np.empty(top.shape, top.dtype)
        H, O = W_y.shape
        # A loss may be a user's own; the rest was checked when it was read.
        _checks.array("dy", dy, top.dtype, (*top.shape[:-1], O), "(..., O), as y has", "y")
        run = find_backend(self.backend).readout_backward
        run(W_y, top.reshape(-1, H), dy.reshape(-1, O), *out, dtop.reshape(-1, H))
        if mask is not None:
            dtop *= mask
        return dtop


def _sum_of(
    dh0: Sequence[np.ndarray], begins: np.ndarray | None, all_begin: bool, out: Sequence[np.ndarray]
) -> None:
    """Sum the gradients of initial states, (B, H), over the sequences that begin with them.

    Those are `begins`, or if that is None all or none.
    """
    for a, its_dh0 in zip(out, dh0, strict=False):  # no out where they are not trained
        first = np.full(len(its_dh0), all_begin) if begins is None else begins
        np.add.reduce(its_dh0[first], axis=0, out=a)
