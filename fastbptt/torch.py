"""For programs in PyTorch: a drop-in for :class:`torch.nn.RNN`, on a CPU.

It needs PyTorch: ``pip install "fastbptt[torch]"``.  One changed line makes a program faster::

    rnn = fastbptt.torch.RNN(input_size, hidden_size)  # was torch.nn.RNN(...)

or another one, for a model that exists: ``fastbptt.torch.accelerate(model)``.

Inside, a layer of one direction or two is one operator, ``torch.ops.fastbptt.rnn``, with a rule for
its gradient.  Its arrays are the tensors' own memory.  Where PyTorch's autograd alone is at work,
the same functions run in a :class:`torch.autograd.Function`: that saves the operator's way through
the dispatcher, and a copy of the outputs, which an operator must not share with what it keeps for
the backward pass.  (Forward and backward on one thread of a Zen 5: 0.11 ms against 0.21 with T, B,
I, H all 1; 0.56 against 0.73 for 50, 32, 32, 64; 7.7 against 9.0 for 100, 64, 64, 128.)
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

import fastbptt
from fastbptt import _checks
from fastbptt._exchange import model_with
from fastbptt._extras import import_extra
from fastbptt._leak import Leak
from fastbptt.reference import ACTIVATIONS
from fastbptt.rnn import Activation, Params, backward, find_backend, forward

import_extra("torch", "torch", "fastbptt.torch")
import torch  # noqa: E402
import torch._dynamo.config  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch._dynamo.variables.builder import VariableBuilder  # noqa: E402
from torch.nn.utils import rnn as rnn_utils  # noqa: E402
from torch.nn.utils.rnn import PackedSequence  # noqa: E402

__all__ = ["RNN", "Exchange", "LeakyRNN", "Model", "accelerate"]

# One layer's computation on arrays.  D directions, I inputs, H units; the second direction reads
# each sequence from its end.  Weights are torch's: for each direction W_ih (H, I), W_hh (H, H), and
# with a bias b_ih (H,), b_hh (H,).  Data are (T, B, I), or packed (N, I): the B_t sequences that
# have a step t, longest first, one step after the other.


class _Places(NamedTuple):
    """Where packed rows lie in (T B, ...), the steps of all sequences, padded.

    Attributes
    ----------
    lengths : ndarray, (B,)
    rows : ndarray, (2, N)
        The place of each packed row in either direction.
    packed : ndarray, (2, T B)
        The packed row for each place in either direction, any one for padding.
    """

    lengths: np.ndarray
    rows: np.ndarray
    packed: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        B = len(self.lengths)
        return self.packed.shape[1] // B, B

    def pad(self, data: np.ndarray, d: int) -> np.ndarray:
        """(N, ...) as (T, B, ...) in direction d, anything in the padding."""
        return data.take(self.packed[d], axis=0).reshape(*self.shape, data.shape[1])

    def pack(self, a: np.ndarray, d: int) -> np.ndarray:
        """(T, B, ...) in direction d as (N, ...)."""
        return a.reshape(-1, a.shape[2]).take(self.rows[d], axis=0)


def _places(batch_sizes: np.ndarray) -> _Places:
    T, B = len(batch_sizes), int(batch_sizes[0])
    step, sequence = np.nonzero(np.arange(B) < batch_sizes[:, np.newaxis])
    lengths = np.bincount(sequence, minlength=B)
    rows = np.stack((step, lengths[sequence] - 1 - step)) * B + sequence
    packed = np.zeros((2, T * B), np.int64)
    for d in range(2):
        packed[d, rows[d]] = np.arange(rows.shape[1])
    return _Places(lengths, rows, packed)


def _by_direction(weights: Sequence[np.ndarray]) -> list[Params]:
    step = 4 if len(weights) > 2 and weights[2].ndim == 1 else 2
    found = []
    for d in range(0, len(weights), step):
        W_ih, W_hh, *biases = weights[d : d + step]
        b = biases[0] + biases[1] if biases else np.zeros(len(W_hh), W_hh.dtype)
        found.append(Params(W_ih.T, W_hh.T, b))
    return found


def _layer_forward(
    x: np.ndarray,
    h0: np.ndarray | None,
    weights: Sequence[np.ndarray],
    places: _Places | None,
    activation: Activation,
    leak: Leak | None = None,
    noise: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outputs (T, B, D H) or (N, D H), last states (D, B, H), and all states (D, T + 1, B, H).

    `h0` is (D, B, H), `noise` (D, T, B, H).  With one direction and no packing the outputs are a
    view of the states.  With a leak of potentials, `h0` and the last states are those of these.
    """
    _limit_threads()
    params = _by_direction(weights)
    D, H = len(params), len(params[0].b)
    T, B = x.shape[:2] if places is None else places.shape
    h = np.empty((D, T + 1, B, H), x.dtype)
    last = np.empty((D, B, H), x.dtype)
    for d in range(D):
        if places is None:
            x_d, lengths = x[::-1] if d else x, None
        else:
            x_d, lengths = places.pad(x, d), places.lengths
        its_h0, its_noise = (None if a is None else a[d] for a in (h0, noise))
        v = last[d] if leak is not None and leak.of == "potential" else None
        forward(
            params[d], x_d, its_h0, lengths=lengths, activation=activation, leak=leak,
            noise=its_noise, out=h[d], v=v,
        )  # fmt: skip
        if v is None:
            last[d] = h[d, -1]
    if places is None:
        outputs = [h[0, 1:], *(h[1:, :0:-1])]
    else:
        outputs = [places.pack(h[d, 1:], d) for d in range(D)]
    return outputs[0] if D == 1 else np.concatenate(outputs, axis=-1), last, h


def _layer_backward(
    doutputs: np.ndarray | None,
    dlast: np.ndarray | None,
    x: np.ndarray,
    h: np.ndarray,
    weights: Sequence[np.ndarray],
    places: _Places | None,
    activation: Activation,
    leak: Leak | None,
    need_dx: bool,
) -> tuple[np.ndarray | None, np.ndarray, list[np.ndarray]]:
    """Gradients: of x, or None; of h0, (D, B, H); and of the weights, one by one."""
    params, dx, dh0, dweights = _by_direction(weights), None, [], []
    H = h.shape[3]
    for d, its_params in enumerate(params):
        dh = None if doutputs is None else doutputs[..., d * H : (d + 1) * H]
        if places is None:
            x_d, lengths = x[::-1] if d else x, None
            dh = dh[::-1] if d and dh is not None else dh
        else:
            x_d, lengths = places.pad(x, d), places.lengths
            dh = None if dh is None else places.pad(dh, d)
        dv = None
        if leak is not None and leak.of == "potential" and dlast is not None:
            dv = dlast[d]
        if dh is None:
            dh = np.zeros(h.shape[2:], h.dtype) if dlast is None or dv is not None else dlast[d]
        elif dlast is not None and dv is None:
            if lengths is None:
                dh = dh.copy()  # it may be somebody else's
                dh[-1] += dlast[d]
            else:
                dh[lengths - 1, np.arange(len(lengths))] += dlast[d]
        (dW_x, dW_h, db), dx_d, its_dh0 = backward(
            its_params, x_d, h[d], dh, lengths=lengths, activation=activation, leak=leak,
            need_dx=need_dx, dv=dv,
        )  # fmt: skip
        dh0.append(its_dh0)
        # Two biases, two arrays: autograd may keep them, and optimizers write to them.
        dweights += [dW_x.T, dW_h.T, db, db.copy()][: len(weights) // len(params)]
        if dx_d is not None:
            dx_d = places.pack(dx_d, d) if places is not None else dx_d[::-1] if d else dx_d
            dx = dx_d if dx is None else np.add(dx, dx_d, out=dx)
    return dx, np.stack(dh0), dweights


# The same on tensors


def _array(tensor: Tensor) -> np.ndarray:
    """The tensor's memory."""
    return tensor.detach().numpy()


def _arrays(weights: Sequence[Tensor]) -> list[np.ndarray]:
    return [_array(w) for w in weights]


def _or_none(tensor: Tensor | None) -> np.ndarray | None:
    return None if tensor is None else _array(tensor)


def _its_places(batch_sizes: Tensor | None) -> _Places | None:
    return None if batch_sizes is None else _places(_array(batch_sizes))


def _its_leak(alpha: Tensor | None, of: str) -> Leak | None:
    return None if alpha is None else Leak(_array(alpha), cast(Any, of))


class _Layer(torch.autograd.Function):
    """A layer, eager: outputs and last states."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        h0: Tensor | None,
        batch_sizes: Tensor | None,
        activation: Activation,
        alpha: Tensor | None,
        of: str,
        noise: Tensor | None,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)  # who reads last states alone leaves None at the outputs
        ctx.activation, ctx.of, ctx.places = activation, of, _its_places(batch_sizes)
        outputs, last, h = _layer_forward(
            _array(x), _or_none(h0), _arrays(weights), ctx.places, activation,
            _its_leak(alpha, of), _or_none(noise),
        )  # fmt: skip
        result = torch.from_numpy(outputs), torch.from_numpy(last)
        # Outputs that are states are kept, so that autograd sees whether somebody wrote to them.
        shared = result[0] if np.may_share_memory(outputs, h) else None
        ctx.save_for_backward(torch.from_numpy(h), shared, x, batch_sizes, alpha, *weights)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        (doutputs, dlast), (h, _, x, batch_sizes, alpha, *weights) = grads, ctx.saved_tensors
        need_dx, need_dh0, *_ = ctx.needs_input_grad
        if doutputs is None and dlast is None:
            return (None,) * len(ctx.needs_input_grad)
        if torch.is_grad_enabled():  # the operator's gradient says that it has none itself
            dx, dh0, *dweights = _rnn_backward(
                doutputs, dlast, x, h, weights, batch_sizes, ctx.activation, alpha, ctx.of, need_dx
            )
        else:
            dx, dh0, dweights = _layer_backward(
                _or_none(doutputs), _or_none(dlast), _array(x), _array(h), _arrays(weights),
                ctx.places, ctx.activation, _its_leak(alpha, ctx.of), need_dx,
            )  # fmt: skip
            dx = None if dx is None else torch.from_numpy(dx)
            dh0, dweights = torch.from_numpy(dh0), map(torch.from_numpy, dweights)
        given = dx if need_dx else None, dh0 if need_dh0 else None
        return *given, None, None, None, None, None, *dweights


@torch.library.custom_op("fastbptt::rnn", mutates_args=(), device_types="cpu")
def _rnn(
    x: Tensor,
    h0: Tensor | None,
    weights: list[Tensor],
    batch_sizes: Tensor | None,
    activation: str,
    alpha: Tensor | None,
    of: str,
    noise: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """A layer as an operator: outputs, last states, and all states for the backward pass."""
    outputs, last, h = _layer_forward(
        _array(x), _or_none(h0), _arrays(weights), _its_places(batch_sizes), cast(Any, activation),
        _its_leak(alpha, of), _or_none(noise),
    )  # fmt: skip
    if np.may_share_memory(outputs, h):  # not allowed among an operator's results
        outputs = outputs.copy()
    return torch.from_numpy(outputs), torch.from_numpy(last), torch.from_numpy(h)


@_rnn.register_fake
def _(
    x: Tensor,
    h0: Tensor | None,
    weights: list[Tensor],
    batch_sizes: Tensor | None,
    activation: str,
    alpha: Tensor | None,
    of: str,
    noise: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    H = weights[1].shape[0]
    D = len(weights) // (4 if len(weights) > 2 and weights[2].dim() == 1 else 2)
    if batch_sizes is None:
        T, B = x.shape[:2]
    elif h0 is not None:
        T, B = batch_sizes.shape[0], h0.shape[1]
    else:
        raise RuntimeError("fastbptt::rnn: packed data of unknown size, expected an h0")
    outputs = x.new_empty((*x.shape[:-1], D * H))
    return outputs, x.new_empty((D, B, H)), x.new_empty((D, T + 1, B, H))


@torch.library.custom_op("fastbptt::rnn_backward", mutates_args=(), device_types="cpu")
def _rnn_backward(
    doutputs: Tensor | None,
    dlast: Tensor | None,
    x: Tensor,
    h: Tensor,
    weights: list[Tensor],
    batch_sizes: Tensor | None,
    activation: str,
    alpha: Tensor | None,
    of: str,
    need_dx: bool,
) -> list[Tensor]:
    """Gradients of x (empty if it is not needed), h0 and the weights."""
    dx, dh0, dweights = _layer_backward(
        _or_none(doutputs), _or_none(dlast), _array(x), _array(h), _arrays(weights),
        _its_places(batch_sizes), cast(Any, activation), _its_leak(alpha, of), need_dx,
    )  # fmt: skip
    dx = np.empty(0, h.numpy().dtype) if dx is None else dx
    return [torch.from_numpy(np.ascontiguousarray(a)) for a in (dx, dh0, *dweights)]


@_rnn_backward.register_fake
def _(
    doutputs: Tensor | None,
    dlast: Tensor | None,
    x: Tensor,
    h: Tensor,
    weights: list[Tensor],
    batch_sizes: Tensor | None,
    activation: str,
    alpha: Tensor | None,
    of: str,
    need_dx: bool,
) -> list[Tensor]:
    D, _, B, H = h.shape
    dx = x.new_empty(x.shape if need_dx else (0,))
    return [dx, x.new_empty((D, B, H)), *(w.new_empty(w.shape) for w in weights)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, _, weights, batch_sizes, activation, alpha, of, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[2])
    ctx.activation, ctx.of, ctx.count = activation, of, len(weights)
    ctx.save_for_backward(output[2], x, batch_sizes, alpha, *weights)


def _gradient(ctx: Any, doutputs: Tensor | None, dlast: Tensor | None, _: None) -> tuple[Any, ...]:
    if doutputs is None and dlast is None:
        return None, None, [None] * ctx.count, None, None, None, None, None
    h, x, batch_sizes, alpha, *weights = ctx.saved_tensors
    need_dx, need_dh0 = ctx.needs_input_grad[:2]
    dx, dh0, *dweights = _rnn_backward(
        doutputs, dlast, x, h, weights, batch_sizes, ctx.activation, alpha, ctx.of, need_dx
    )
    given = dx if need_dx else None, dh0 if need_dh0 else None
    return *given, dweights, None, None, None, None, None


_rnn.register_autograd(_gradient, setup_context=_keep)


def _is_plain(x: Tensor) -> bool:
    """Whether autograd alone is at work: no tracing, transform, mode, other kind of tensor."""
    return (
        type(x) is Tensor
        and x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._get_tracing_state() is None
    )


# Modules


class RNN(nn.RNN):
    """:class:`torch.nn.RNN`, faster on a CPU.

    Signature, attributes, names of parameters, initial weights, inputs and outputs are those of
    :class:`torch.nn.RNN`, of which this is a subclass: either loads the other's ``state_dict``, and
    results differ by rounding.  Dropout between layers draws the same numbers from torch's
    generator.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    num_layers : int, default 1
    nonlinearity : {"tanh", "relu"}, default "tanh"
    bias : bool, default True
    batch_first : bool, default False
        Inputs and outputs are (B, T, ...); nothing is copied for that.
    dropout : float, default 0.0
        Share of the outputs of each layer but the last that training replaces by zero.
    bidirectional : bool, default False
    device, dtype : optional
        A CPU; ``torch.float32`` or ``torch.float64``.

    Notes
    -----
    A loss of the last states alone (the second result) costs no gradient at all the others: read
    ``h_n[-1]`` rather than ``output[-1]``.

    Raises an error under autocast and for data on another device, of another dtype than the weights
    or of half precision; so does a gradient of the gradient.  The module runs under
    :func:`torch.compile`, :func:`torch.export.export` and :func:`torch.jit.trace` as an operator,
    ``fastbptt::rnn``, but not under :func:`torch.jit.script`.

    Threads are torch's: :func:`torch.set_num_threads` holds, as does
    :func:`numba.set_num_threads` where it is less.  Results do not depend on their number.  With
    torch's and Numba's wheels for Linux they are the same threads: of the two libraries' OpenMP,
    the one that is loaded first serves both.

    OpenMP's threads spin for some milliseconds after each operation, whosever it is.  Where other
    programs want the cores, set ``OMP_WAIT_POLICY=passive`` before Python starts.  Beside twelve
    busy processes on two cores, a ``torch.add`` of a million numbers took 28 ms in the median after
    a product of torch's or a pause, and 26 ms after a call of ours; then 0.4 ms, 6 ms after ours.
    A forward and backward at T, B, I, H = 100, 64, 64, 128 fell from 66 to 33 ms.

    See Also
    --------
    accelerate : exchanges the modules inside a model.
    fastbptt.RNN.from_torch, fastbptt.RNN.to_torch : models that train without torch.

    Examples
    --------
    >>> import torch, fastbptt.torch
    >>> rnn = fastbptt.torch.RNN(3, 5, batch_first=True)
    >>> output, h_n = rnn(torch.zeros(2, 7, 3))
    >>> output.shape, h_n.shape
    (torch.Size([2, 7, 5]), torch.Size([1, 2, 5]))
    """

    nonlinearity: str

    def forward(self, input: Any, hx: Tensor | None = None) -> tuple[Any, Tensor]:
        """Outputs at every step, and last states, as :class:`torch.nn.RNN` returns them.

        Parameters
        ----------
        input : Tensor, (T, B, I), (B, T, I) with ``batch_first``, or (T, I); or PackedSequence
        hx : Tensor, (num_layers D, B, H), or (num_layers D, H) for an input (T, I); optional
            Initial states for each layer and direction; zero by default.

        Returns
        -------
        output : Tensor, (T, B, D H), (B, T, D H) or (T, D H); or PackedSequence
        h_n : Tensor, (num_layers D, B, H) or (num_layers D, H)

        Raises
        ------
        RuntimeError, ValueError, NotImplementedError
            As :class:`torch.nn.RNN`, and for what is not supported.
        """
        packed = input if isinstance(input, PackedSequence) else None
        x: Tensor = input.data if isinstance(input, PackedSequence) else input
        batch_sizes, batched = None, True
        if packed is not None:
            batch_sizes = packed.batch_sizes
            if hx is not None and packed.sorted_indices is not None:
                hx = hx.index_select(1, packed.sorted_indices)
        else:
            batched = x.dim() == 3
            if x.dim() not in (2, 3):
                raise ValueError(
                    f"RNN: Expected input to be 2D or 3D, got {x.dim()}D tensor instead"
                )
            if hx is not None and hx.dim() != x.dim():
                raise RuntimeError(
                    f"For {'' if batched else 'un'}batched {x.dim()}-D input, hx should also "
                    f"be {x.dim()}-D but got {hx.dim()}-D tensor"
                )
            if not batched:
                x, hx = x.unsqueeze(1), None if hx is None else hx.unsqueeze(1)
            elif self.batch_first:
                x = x.transpose(0, 1)
        layers = self.all_weights
        self._check(x, batch_sizes, hx, [w for of_direction in layers for w in of_direction])

        D, last = 2 if self.bidirectional else 1, []
        for l in range(self.num_layers):
            h0 = None if hx is None else hx[l * D : (l + 1) * D]
            weights = [w for of_direction in layers[l * D : (l + 1) * D] for w in of_direction]
            if l > 0 and self.dropout > 0 and self.training:
                x = nn.functional.dropout(x, self.dropout)
            x, its_last = self._layer(x, h0, batch_sizes, weights)
            last.append(its_last)
        h_n = last[0] if len(last) == 1 else torch.cat(last)

        if packed is not None:
            if packed.unsorted_indices is not None:
                h_n = h_n.index_select(1, packed.unsorted_indices)
            indices = packed.sorted_indices, packed.unsorted_indices
            return PackedSequence(x, packed.batch_sizes, *indices), h_n
        if not batched:
            return x.squeeze(1), h_n.squeeze(1)
        return x.transpose(0, 1) if self.batch_first else x, h_n

    def _layer(
        self, x: Tensor, h0: Tensor | None, batch_sizes: Tensor | None, weights: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        cell = self.nonlinearity, *self._cell(x, batch_sizes)
        if _is_plain(x):
            return _Layer.apply(x, h0, batch_sizes, *cell, *weights)  # type: ignore
        if batch_sizes is not None and h0 is None:  # the number of sequences, for fake tensors
            D = 2 if self.bidirectional else 1
            h0 = x.new_zeros((D, int(batch_sizes[0]), self.hidden_size))
        outputs, last, _ = _rnn(x, h0, list(weights), batch_sizes, *cell)
        return outputs, last

    def _cell(
        self, x: Tensor, batch_sizes: Tensor | None
    ) -> tuple[Tensor | None, str, Tensor | None]:
        """What a layer's units leak, of what, and the noise added to what they get."""
        return None, "rate", None

    def _check(
        self, x: Tensor, batch_sizes: Tensor | None, hx: Tensor | None, weights: Sequence[Tensor]
    ) -> None:
        """Errors as :class:`torch.nn.RNN` has them, and for what only that can do."""
        weight = weights[0]
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError(
                "fastbptt.torch.RNN does not support autocast; disable it around the module: "
                'with torch.autocast("cpu", enabled=False)'
            )
        if x.dtype != weight.dtype:
            raise ValueError(
                f"RNN input dtype ({x.dtype}) does not match weight dtype ({weight.dtype}). "
                f"Convert input: input.to({weight.dtype}), or convert model: model.to({x.dtype})"
            )
        if x.dtype not in (torch.float32, torch.float64):
            raise NotImplementedError(
                f'"fastbptt::rnn" not implemented for {x.dtype}, expected torch.float32 or '
                "torch.float64"
            )
        dims = 3 if batch_sizes is None else 2
        if x.dim() != dims:
            raise RuntimeError(f"input must have {dims} dimensions, got {x.dim()}")
        if x.size(-1) != self.input_size:
            raise RuntimeError(
                "input.size(-1) must be equal to input_size. "
                f"Expected {self.input_size}, got {x.size(-1)}"
            )
        if x.size(0) == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        others = [("parameter", w) for w in weights]
        for name, other in others if hx is None else [*others, ("hidden", hx)]:
            if other.device != x.device:
                raise RuntimeError(
                    f"Input and {name} tensors are not at the same device, found input tensor at "
                    f"{x.device} and {name} tensor at {other.device}"
                )
            if other.dtype != x.dtype:
                raise RuntimeError(
                    f"Input and {name} tensors are not the same dtype, found input tensor with "
                    f"{x.dtype} and {name} tensor with {other.dtype}"
                )
        if hx is not None:
            B = x.size(1) if batch_sizes is None else int(batch_sizes[0])
            D = 2 if self.bidirectional else 1
            self.check_hidden_size(hx, (self.num_layers * D, B, self.hidden_size))


class LeakyRNN(RNN):
    """A layer, or several, whose units leak: they keep a part of what they were at each step.

    With z_t what a plain layer applies f to, a leak is one of rates or of potentials v:

    .. math::
        h_t = (1 - \\alpha) h_{t-1} + \\alpha f(z_t)

        v_t = (1 - \\alpha) v_{t-1} + \\alpha z_t \\qquad h_t = f(v_t)

    Everything else is as in :class:`RNN`, names of parameters included.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    leak : fastbptt.Leak
        Of every layer.  It is not trained.
    num_layers : int, default 1
    nonlinearity : str, default "tanh"
        One of the activations of :func:`fastbptt.forward`.
    bias, batch_first, dropout, bidirectional, device, dtype
        As for :class:`RNN`.
    noise : float, default 0.0
        Standard deviation of what is added to z_t in training, drawn from torch's generator for
        each step, sequence and unit.

    Attributes
    ----------
    leak, noise
        As given.
    alpha : Tensor, (H,)
        The leak's, in the module's dtype: a buffer, which is not in the ``state_dict``.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or value.

    Notes
    -----
    With a leak of potentials, `hx` and ``h_n`` are initial and last potentials, so that ``h_n`` of
    one piece of a sequence is `hx` of the next; outputs are f of potentials.

    Examples
    --------
    >>> import torch, fastbptt.torch
    >>> rnn = fastbptt.torch.LeakyRNN(3, 5, fastbptt.Leak(0.2), nonlinearity="softplus", noise=0.1)
    >>> rnn
    LeakyRNN(3, 5, Leak(0.2, of='rate'), nonlinearity='softplus', noise=0.1)
    >>> rnn(torch.zeros(7, 2, 3))[0].shape
    torch.Size([7, 2, 5])
    """

    leak: Leak
    noise: float
    alpha: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        leak: Leak,
        num_layers: int = 1,
        nonlinearity: Activation = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        noise: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if not isinstance(leak, Leak):
            raise TypeError(f"leak is {leak!r}, expected a fastbptt.Leak")
        _checks.one_of("nonlinearity", nonlinearity, ACTIVATIONS)
        noise = _checks.number("noise", noise)
        super().__init__(
            input_size, hidden_size, num_layers, "tanh", bias, batch_first, dropout,
            bidirectional, device=device, dtype=dtype,
        )  # fmt: skip
        self.nonlinearity, self.leak, self.noise = nonlinearity, leak, noise
        alpha = np.asarray(leak.alpha)
        if alpha.ndim and alpha.shape != (hidden_size,):
            raise ValueError(f"leak's alpha has shape {alpha.shape}, expected {(hidden_size,)}")
        weight: Any = self.weight_hh_l0
        alpha = torch.from_numpy(np.broadcast_to(alpha, hidden_size).copy())
        self.register_buffer("alpha", alpha.to(weight), persistent=False)

    def extra_repr(self) -> str:
        """What ``repr`` shows."""
        sizes, options = f"{self.input_size}, {self.hidden_size}", super().extra_repr()
        said = f"{self.leak!r}{options.removeprefix(sizes)}, nonlinearity={self.nonlinearity!r}"
        return f"{sizes}, {said}, noise={self.noise}"

    def _cell(
        self, x: Tensor, batch_sizes: Tensor | None
    ) -> tuple[Tensor | None, str, Tensor | None]:
        noise = None
        if self.noise > 0 and self.training:
            shape = x.shape[:2] if batch_sizes is None else (len(batch_sizes), int(batch_sizes[0]))
            D = 2 if self.bidirectional else 1
            noise = torch.randn((D, *shape, self.hidden_size), dtype=x.dtype, device=x.device)
            noise = noise * self.noise
        return self.alpha, self.leak.of, noise


class Exchange(NamedTuple):
    """What :func:`accelerate` did.

    Attributes
    ----------
    exchanged : list of str
        Names of the modules that are fast now; "" is the model itself.
    left : dict of str to str
        Names of the recurrent modules left alone, and why.
    """

    exchanged: list[str]
    left: dict[str, str]


def accelerate(module: nn.Module) -> Exchange:
    """Make every plain :class:`torch.nn.RNN` inside a model an :class:`RNN`, in place.

    The modules stay the same objects, with the same parameters, hooks and buffers, so optimizers
    and whoever else holds them need not know.

    Parameters
    ----------
    module : torch.nn.Module

    Returns
    -------
    Exchange
        Which modules were exchanged, and which recurrent ones were left alone and why.

    Examples
    --------
    >>> import torch, fastbptt.torch
    >>> model = torch.nn.ModuleDict({"rnn": torch.nn.RNN(3, 5), "lstm": torch.nn.LSTM(3, 5)})
    >>> fastbptt.torch.accelerate(model)
    Exchange(exchanged=['rnn'], left={'lstm': 'a LSTM, for which there are no kernels'})
    >>> type(model["rnn"])
    <class 'fastbptt.torch.RNN'>
    """
    done = Exchange([], {})
    each: Any
    for name, each in module.named_modules():
        if not isinstance(each, (nn.RNNBase, nn.RNNCellBase)) or isinstance(each, RNN):
            continue
        reason = _why_not(each)
        if reason is None:
            each.__class__ = RNN  # type: ignore
            done.exchanged.append(name)
        else:
            done.left[name] = reason
    return done


def _why_not(module: nn.Module) -> str | None:
    """Why a recurrent module cannot be exchanged, if so."""
    kind = type(module)
    if not isinstance(module, nn.RNN):
        return f"a {kind.__name__}, for which there are no kernels"
    if kind is not nn.RNN:
        return f"a {kind.__name__}, a subclass, which may compute something else"
    if "forward" in vars(module):
        return "its forward has been replaced"
    for name, weight in module.named_parameters():
        if weight.device.type not in ("cpu", "meta"):
            return f"{name} is on {weight.device}, expected cpu"
        if weight.dtype not in (torch.float32, torch.float64):
            return f"{name} has dtype {weight.dtype}, expected torch.float32 or torch.float64"
    return None


# Models of fastbptt.RNN


class Model(nn.Module):
    """A :class:`fastbptt.RNN` in torch: what :meth:`fastbptt.RNN.to_torch` returns.

    Parameters
    ----------
    rnn : torch.nn.RNN
        With ``batch_first``.
    readout : torch.nn.Linear
    output : {"last", "all"}
        Whether the last states are read out, or those of every step.
    output_dropout : float, default 0.0
        Share of what is read that training replaces by zero.

    Attributes
    ----------
    rnn, readout, output, output_dropout
        As given.
    """

    rnn: nn.RNN
    readout: nn.Linear
    output: str
    output_dropout: float

    def __init__(
        self, rnn: nn.RNN, readout: nn.Linear, output: str, output_dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.rnn, self.readout, self.output = rnn, readout, output
        self.output_dropout = output_dropout

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Outputs for each sequence.

        Parameters
        ----------
        x : Tensor, (N, T, I)
        lengths : Tensor of int, (N,), optional
            Steps that count, 1 to T; all T by default.

        Returns
        -------
        Tensor, (N, O) for output "last", (N, T, O) for "all", zero past a sequence's length
        """
        if lengths is None:
            outputs, h_n = self.rnn(x)
        else:
            packed = rnn_utils.pack_padded_sequence(
                x, lengths.cpu(), batch_first=True, enforce_sorted=False
            )
            outputs, h_n = self.rnn(packed)
        if self.output == "last":
            D = 2 if self.rnn.bidirectional else 1
            return self._read(torch.cat(list(h_n[-D:]), dim=1))
        if lengths is None:
            return self._read(outputs)
        data = self._read(outputs.data)
        y, _ = rnn_utils.pad_packed_sequence(
            outputs._replace(data=data), batch_first=True, total_length=x.shape[1]
        )
        return y

    def _read(self, states: Tensor) -> Tensor:
        return self.readout(nn.functional.dropout(states, self.output_dropout, self.training))


def to_torch(model: fastbptt.RNN) -> Model:
    """See :meth:`fastbptt.RNN.to_torch`.

    Examples
    --------
    >>> import torch, fastbptt
    >>> fastbptt.RNN(2, 16, 1, seed=0).to_torch()(torch.zeros(5, 7, 2)).shape
    torch.Size([5, 1])
    """
    if model.train_initial_state:
        raise ValueError("the model has train_initial_state=True, which PyTorch's RNN cannot say")
    D, dtype = 2 if model.bidirectional else 1, getattr(torch, model.dtype)
    options: Any = {
        "input_size": model.input_size, "hidden_size": model.hidden_size,
        "num_layers": model.num_layers, "nonlinearity": model.activation, "batch_first": True,
        "dropout": model.dropout, "bidirectional": model.bidirectional, "dtype": dtype,
    }  # fmt: skip
    if model.leak is None and not model.noise and model.activation in ("tanh", "relu"):
        rnn = RNN(**options)
    else:
        leak = Leak(1.0) if model.leak is None else model.leak
        rnn = LeakyRNN(leak=leak, noise=model.noise, **options)
    readout = nn.Linear(D * model.hidden_size, model.output_size, dtype=dtype)

    named = model.network.weights.named
    *of_layers, W_y, b_y = (torch.from_numpy(a) for a in named.values())
    state: dict[str, Tensor] = {}
    for i in range(0, len(of_layers), 3):
        W_x, W_h, b = of_layers[i : i + 3]
        weights = W_x.T, W_h.T, b, torch.zeros_like(b)
        state |= zip(rnn._all_weights[i // 3], weights, strict=True)
    rnn.load_state_dict(state)
    readout.load_state_dict({"weight": W_y.T, "bias": b_y})
    return Model(rnn, readout, model.output, model.output_dropout)


def from_torch(
    source: nn.Module | Mapping[str, Any], *, readout: str | None = None, **options: Any
) -> fastbptt.RNN:
    """See :meth:`fastbptt.RNN.from_torch`.

    Examples
    --------
    >>> import torch, fastbptt
    >>> module = torch.nn.ModuleDict({"rnn": torch.nn.RNN(3, 5, 2), "head": torch.nn.Linear(5, 1)})
    >>> fastbptt.RNN.from_torch(module).num_layers
    2
    """
    found: dict[str, Any] = {}
    if isinstance(source, nn.Module):
        modules = [m for m in source.modules() if isinstance(m, nn.RNN)]
        for rnn in modules[:1]:  # if there are more, that is an error below
            found = {"activation": rnn.nonlinearity}
            if rnn.num_layers > 1:
                found["dropout"] = rnn.dropout
            if isinstance(rnn, LeakyRNN):
                found["noise"] = rnn.noise
                found["leak"] = None if rnn.leak == Leak(1.0) else rnn.leak
        if isinstance(source, Model):
            found |= {"output": source.output, "output_dropout": source.output_dropout}
        source = source.state_dict()
    arrays = {name: _found_array(name, a) for name, a in source.items()}
    prefix, layers = _found_layers(arrays)
    directions = 2 if f"{prefix}weight_ih_l0_reverse" in arrays else 1
    found_readout = _found_readout(arrays, prefix, directions * layers[0].b.size, readout)
    return model_with(layers, found_readout, directions=directions, **{**found, **options})


def _found_array(name: str, value: Any) -> np.ndarray:
    if isinstance(value, Tensor):
        try:
            return value.detach().cpu().numpy()
        except TypeError:
            raise TypeError(
                f"{name} has dtype {value.dtype}, expected float32 or float64"
            ) from None
    return np.asarray(value)


def _found_layers(arrays: Mapping[str, np.ndarray]) -> tuple[str, list[Params]]:
    """The prefix of the names, and the weights layer by layer and direction by direction."""
    end = "weight_ih_l0"
    prefixes = [name.removesuffix(end) for name in arrays if name.endswith(end)]
    if len(prefixes) != 1:
        raise ValueError(
            f"{len(prefixes)} recurrent modules have been found, expected one: a name that ends in "
            f"{end!r} among {', '.join(arrays)}"
        )
    [prefix], layers = prefixes, []
    suffixes = ("", "_reverse") if f"{prefix}{end}_reverse" in arrays else ("",)
    while f"{prefix}weight_ih_l{len(layers) // len(suffixes)}" in arrays:
        l = len(layers) // len(suffixes)
        for suffix in suffixes:
            names = [f"{prefix}{kind}_l{l}{suffix}" for kind in ("weight_ih", "weight_hh")]
            W_ih, W_hh = (arrays[name] for name in names)
            if W_hh.ndim != 2 or W_hh.shape[0] != W_hh.shape[1] or len(W_ih) != len(W_hh):
                raise ValueError(
                    f"{names[1]} has shape {W_hh.shape}, expected (H, H): a plain recurrent layer's"
                )
            biases = [f"{prefix}{kind}_l{l}{suffix}" for kind in ("bias_ih", "bias_hh")]
            b = np.zeros(len(W_hh), W_hh.dtype)
            if biases[0] in arrays:
                b = arrays[biases[0]] + arrays[biases[1]]
            layers.append(Params(W_ih.T, W_hh.T, b))
    return prefix, layers


def _found_readout(
    arrays: Mapping[str, np.ndarray], prefix: str, width: int, name: str | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """W_y and b_y of the linear module of this name, or of the only one; None if there is none."""
    dtype = arrays[f"{prefix}weight_ih_l0"].dtype
    names = [
        key.removesuffix(".weight")
        for key, a in arrays.items()
        if key.endswith(".weight") and a.ndim == 2 and a.shape[1] == width
    ]
    if name is None and not names:
        return None
    if name is None and len(names) == 1:
        name = names[0]
    if name not in names:
        raise ValueError(
            f"readout is {name!r}, expected one of {', '.join(map(repr, names)) or 'none'}: linear "
            f"modules of {width} inputs"
        )
    W_y = arrays[f"{name}.weight"].T
    return W_y, arrays.get(f"{name}.bias", np.zeros(W_y.shape[1], dtype))


# Beside torch


@functools.cache
def _limit_threads() -> None:
    """Have calls take no more threads than torch is set to."""
    find_backend("numba")  # imports the kernels, which no Ctrl-C may interrupt
    from fastbptt.kernels import _threads

    _threads.limit = torch.get_num_threads


def _open_to_dynamo(kind: type[RNN]) -> None:
    """Let torch.compile trace a class: it turns away all that are subclasses of nn.RNN.

    Those would be unrolled step by step; ours are one operator.
    """

    def wrap(self: Any, value: Any) -> Any:
        with torch._dynamo.config.patch(allow_rnn=True):
            return self.wrap_module(value)

    VariableBuilder._type_dispatch()[kind] = wrap


_open_to_dynamo(RNN)
_open_to_dynamo(LeakyRNN)
