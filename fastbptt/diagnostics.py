"""Looking into a network: where its gradient vanishes or explodes, where its state stays, whether a
gradient is right."""

import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, SupportsFloat

import numpy as np
from numpy.typing import ArrayLike

from fastbptt import _checks
from fastbptt._criterion import Criterion
from fastbptt._fixed_points import FixedPoints as FixedPoints
from fastbptt._fixed_points import fixed_points as fixed_points
from fastbptt._leak import Leak, slopes
from fastbptt._stack import reverse
from fastbptt.model import RNN, model_of
from fastbptt.rnn import Activation, Params, Seed, leaks

_LOWEST = -(1 << 30)  # the exponent of a row of zeros


class GradientFlow(NamedTuple):
    """What :func:`gradient_flow` returns of a layer: log10 of norms at the states h_0 … h_T.

    Logarithms can tell 1e-400 from 0 and 1e400 from infinity; that of a norm of 0 is -inf.
    With a leak of potentials the states are these: v_t stands in place of h_t.

    Attributes
    ----------
    log10_gradient : ndarray, (T + 1,)
        Of dL/dh_t, the gradient of the loss: its norm over the whole batch (Frobenius).
    log10_jacobian : ndarray, (T + 1, B)
        Of the Jacobian dh_T/dh_t, for each sequence: its largest singular value, the most by which
        a gradient can grow on its way back from the last state to h_t.
    """

    log10_gradient: np.ndarray
    log10_jacobian: np.ndarray


def gradient_flow(
    model: RNN,
    x: ArrayLike,
    y: ArrayLike,
    lengths: ArrayLike | None = None,
    loss: str | Callable[..., Any] = "mse",
    sample_weight: ArrayLike | None = None,
) -> dict[str, GradientFlow]:
    """How the gradient of a model's loss travels back through time, in each of its layers.

    Where norms fall with every step back, the gradient vanishes and the layer does not learn from
    what lies far back; where they rise, it explodes.

    Parameters
    ----------
    model : RNN
        Its weights as they are; nothing is dropped out.
    x, y, lengths, loss, sample_weight
        As for :meth:`fastbptt.RNN.evaluate`; all sequences are one minibatch.

    Returns
    -------
    dict of str to GradientFlow
        By the names of :meth:`fastbptt.RNN.parameters`: "layers.0", "layers.1", ..., the one that
        reads x first.  The gradient is that of all ways from a state to the loss, those through
        the layers above too; the Jacobian is the layer's own.  A second direction,
        "layers.0.reverse", counts steps from a sequence's end, in the order in which it reads them.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value.

    See Also
    --------
    layer_gradient_flow : the formula, for one layer's weights, states and gradient.
    fastbptt.plots.plot_gradient_flow : draws one of the layers.

    Notes
    -----
    Computed in float64, whatever the model's dtype.  It takes O(L T B H^3) operations for L layers
    and directions, most of them for singular values: pass a few sequences only.

    Examples
    --------
    >>> import numpy as np, fastbptt
    >>> from fastbptt.diagnostics import gradient_flow
    >>> model = fastbptt.RNN(1, 4, 1, num_layers=2, activation="identity", seed=0)
    >>> for W_h in (model.parameters()[f"layers.{l}.W_h"] for l in range(2)):
    ...     W_h *= 0.5  # orthogonal before: now every step back halves the gradient
    >>> flow = gradient_flow(model, np.ones((3, 5, 1)), np.zeros((3, 1)))
    >>> np.diff(flow["layers.1"].log10_gradient).round(3)  # log10(2)
    array([0.301, 0.301, 0.301, 0.301, 0.301])
    """
    if not isinstance(model, RNN):
        raise TypeError(
            f"model is a {type(model).__name__}, expected an RNN (one layer's weights: "
            f"layer_gradient_flow)"
        )
    memory = model.network.memory.astype(np.float64)
    twin = model_of({**model.config(), "dtype": "float64", "backend": "numpy"}, memory)
    criterion = Criterion(loss)
    given = twin.read(x, y, lengths, criterion, sample_weight).together()
    passed, doutputs, dlast = twin.network.gradient_at_ends(
        given.x, given.y, given.lengths, criterion.compute, given.weight
    )
    stack, (T, B, *_), ends = twin.network.stack, given.x.shape, given.lengths
    D, H = stack.directions, stack.hidden_size
    above = _scaled(np.zeros((T, B, D * H)) if doutputs is None else doutputs)
    flows: list[dict[str, GradientFlow]] = []  # of each layer, from the top
    for l in reversed(range(stack.num_layers)):
        of_layer, below = {}, []
        for d in range(D):
            i = l * D + d
            dh = _Scaled(above.a[..., d * H : (d + 1) * H], above.exponents)
            of_layer[f"layers.{l}" + d * ".reverse"], dx = _way_back(
                stack.layers[i], passed.h[i], _reversed(dh, ends) if d else dh,
                None if dlast is None else dlast[i], ends, stack.activation, stack.leak,
            )  # fmt: skip
            below.append(_reversed(dx, ends) if d else dx)
        flows.append(of_layer)
        above = below[0] if D == 1 else _sum(*below)
    return {name: flow for of_layer in reversed(flows) for name, flow in of_layer.items()}


def layer_gradient_flow(
    params: Params,
    x: np.ndarray,
    h: np.ndarray,
    dh: np.ndarray,
    *,
    lengths: ArrayLike | None = None,
    activation: Activation = "tanh",
    leak: Leak | None = None,
) -> GradientFlow:
    """How the gradient of a loss travels back through the time of one layer.

    In row vectors,

    .. math::
        \\frac{dL}{dh_t} = g_t = dh_t + (g_{t+1} f'(z_{t+1})) W_h^T \\qquad
        \\frac{dh_T}{dh_t} = \\prod_{k=T}^{t+1} \\mathrm{diag}(f'(z_k)) W_h^T

    A leak adds a way from each step to the next, of rates or of potentials v:

    .. math::
        \\frac{dh_k}{dh_{k-1}} =
        \\mathrm{diag}(1 - \\alpha) + \\mathrm{diag}(\\alpha f'(z_k)) W_h^T \\qquad
        \\frac{dv_k}{dv_{k-1}} =
        \\mathrm{diag}(1 - \\alpha) + \\mathrm{diag}(\\alpha) W_h^T \\mathrm{diag}(f'(v_{k-1}))

    If the norms fall with every step back, the gradient vanishes and the network does not learn
    from what lies far back; if they rise, it explodes (Bengio, Simard and Frasconi 1994; Pascanu,
    Mikolov and Bengio 2013).

    Parameters
    ----------
    params, x, h, dh, lengths, activation, leak
        As given to :func:`fastbptt.backward`.

    Returns
    -------
    GradientFlow
        In float64.  Past a sequence's length its state stays as it is, so the Jacobian is 1 there.
        The Jacobian of a sequence with NaN or infinities on the way is NaN.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value.

    Notes
    -----
    It takes O(T B H^3) operations, most of them for singular values, and memory for one (H, H)
    matrix: pass a few sequences only.

    See Also
    --------
    gradient_flow : the same for all layers of a model.

    Examples
    --------
    Every step back halves the gradient:

    >>> import numpy as np, fastbptt
    >>> from fastbptt.diagnostics import layer_gradient_flow
    >>> params = fastbptt.Params(np.ones((1, 1)), np.array([[0.5]]), np.zeros(1))
    >>> x = np.ones((3, 1, 1))
    >>> h = fastbptt.forward(params, x, activation="identity", backend="numpy")
    >>> flow = layer_gradient_flow(params, x, h, np.ones((1, 1)), activation="identity")
    >>> 10 ** flow.log10_gradient
    array([0.125, 0.25 , 0.5  , 1.   ])
    """
    T, B, _, H, dtype = _checks.layer(params, x, activation)
    _checks.array("h", h, dtype, (T + 1, B, H), "(T + 1, B, H)")
    _checks.dh(dh, dtype, T, B, H)
    lengths = None if lengths is None else _checks.lengths(lengths, T, B)
    params, h = Params(*(a.astype(np.float64) for a in params)), h.astype(np.float64)
    at_steps, last = (np.zeros((T, B, H)), dh) if dh.ndim == 2 else (dh, None)
    leaks(leak, H, dtype)
    flow, _ = _way_back(params, h, _scaled(at_steps), last, lengths, activation, leak)
    return flow


class _Scaled(NamedTuple):
    """Rows a 2**exponents of any magnitude: a (..., n), and integers (...)."""

    a: np.ndarray
    exponents: np.ndarray


def _scaled(a: np.ndarray, exponents: np.ndarray | int = 0) -> _Scaled:
    """a 2**exponents with the largest magnitude in each row brought to [1/2, 1)."""
    a = a.astype(np.float64)
    largest = np.abs(a).max(axis=-1, initial=0)
    _, shift = np.frexp(np.where(np.isfinite(largest), largest, 1))
    return _Scaled(
        np.ldexp(a, -shift[..., np.newaxis]), np.where(largest == 0, _LOWEST, exponents + shift)
    )


def _sum(p: _Scaled, q: _Scaled) -> _Scaled:
    """p + q.  Neither overflows; where one underflows, it is negligible beside the other."""
    common = np.maximum(p.exponents, q.exponents)
    a, b = (np.ldexp(s.a, (s.exponents - common)[..., np.newaxis]) for s in (p, q))
    return _Scaled(a + b, common)


def _where(condition: np.ndarray, p: _Scaled, q: _Scaled) -> _Scaled:
    """Rows of p where the condition (..., 1) holds, else of q."""
    return _Scaled(
        np.where(condition, p.a, q.a), np.where(condition[..., 0], p.exponents, q.exponents)
    )


def _reversed(dh: _Scaled, lengths: np.ndarray | None) -> _Scaled:
    """(T, B, n) back to front, each sequence within its length."""
    return _Scaled(reverse(dh.a, lengths), reverse(dh.exponents, lengths))


def _way_back(
    params: Params,
    h: np.ndarray,
    dh: _Scaled,
    last: np.ndarray | None,
    lengths: np.ndarray | None,
    activation: Activation,
    leak: Leak | None,
) -> tuple[GradientFlow, _Scaled]:
    """A layer's flow in float64, and the gradient of its inputs, (T, B, I).

    The loss's own gradient is `dh`, (T, B, H), and `last`, (B, H), at the last states.  With s_t
    for h_t or v_t, and p, q, k as :func:`fastbptt._leak.slopes` has them,

        g_t = q_t (dh_t + dz_{t+1} W_h^T) + k g_{t+1}        dz_t = p_t g_t
    """
    T, B, H = len(h) - 1, *h.shape[1:]
    lengths = np.full(B, T) if lengths is None else lengths
    p, q, k = slopes(h, activation, leak)
    log10_jacobian = np.zeros((T + 1, B))
    for b, n in enumerate(lengths):
        log10_jacobian[:n, b] = _log10_jacobian(params.W_h, p[:n, b], q[:n, b], k)
    none = _scaled(np.zeros((B, H)))
    back, kept = none if last is None else _scaled(last), none  # at h_t; at s_t
    norms = np.empty(T + 1)
    dz, exponents = np.zeros((T, B, H)), np.full((T, B), _LOWEST)
    for t in range(T, -1, -1):
        live = (t <= lengths)[:, np.newaxis] if t > 0 else np.zeros((B, 1), bool)
        at_h = back
        if t > 0:
            at_h = _sum(back, _scaled(np.where(live, dh.a[t - 1], 0), dh.exponents[t - 1]))
        g = _sum(_scaled(q[t] * at_h.a, at_h.exponents), kept)  # dL/ds_t
        norms[t] = _log10_norm(g)
        if t > 0:
            dz[t - 1], exponents[t - 1] = np.where(live, p[t - 1] * g.a, 0), g.exponents
            through = _scaled(dz[t - 1] @ params.W_h.T, g.exponents)
            back = _where(live, through, back)
            kept = _where(live, _scaled(k * g.a, g.exponents), kept)
    return GradientFlow(norms, log10_jacobian), _scaled(dz @ params.W_x.T, exponents)


def _log10_jacobian(W_h: np.ndarray, p: np.ndarray, q: np.ndarray, k: np.ndarray) -> np.ndarray:
    """log10 of the 2-norm of ds_T/ds_t for t = 0 … T-1, of one sequence with p, q (T, H)."""
    norms = np.empty(len(p))
    J, exponent = np.eye(len(W_h)), 0  # ds_T/ds_t = J 2**exponent
    for t in reversed(range(len(p))):
        J, exponent = _rescale((J * p[t]) @ W_h.T * q[t] + J * k, exponent)
        norm = np.linalg.norm(J, 2) if np.isfinite(J).all() else np.nan
        norms[t] = _log10(norm, exponent)
    return norms


def _rescale(a: np.ndarray, exponent: int) -> tuple[np.ndarray, int]:
    """The same a 2**exponent with the largest magnitude in a brought to [1/2, 1); 0 as 0 2**0."""
    largest = np.abs(a).max(initial=0)
    _, shift = np.frexp(largest)
    return np.ldexp(a, -shift), exponent + int(shift) if largest else 0


def _log10_norm(g: _Scaled) -> np.floating:
    """log10 of the norm over the whole batch."""
    exponent = int(g.exponents.max(initial=_LOWEST))
    norm = np.linalg.norm(np.ldexp(g.a, (g.exponents - exponent)[:, np.newaxis]))
    return _log10(norm, exponent)


def _log10(norm: np.floating | float, exponent: int) -> np.floating:
    """log10 of norm 2**exponent."""
    with np.errstate(divide="ignore"):
        return np.log10(norm) + exponent * np.log10(2)


def spectral_radius(W_h: np.ndarray) -> float:
    """Largest magnitude of an eigenvalue of the recurrent weights.

    With the activation "identity", gradients vanish in the long run if it is below 1, and explode
    if it is above (Pascanu, Mikolov and Bengio 2013).  It is computed by LAPACK, whose last bits
    follow the CPU.

    Parameters
    ----------
    W_h : ndarray, (H, H)
        Recurrent weights, of any dtype of real numbers.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        If `W_h` is not a square matrix of finite numbers.

    Examples
    --------
    >>> import fastbptt
    >>> from fastbptt.diagnostics import spectral_radius
    >>> round(spectral_radius(fastbptt.init_params(3, 5, seed=0).W_h), 6)
    1.0
    """
    _checks.array_type("W_h", W_h)
    if W_h.dtype.kind not in "fiu":
        raise TypeError(f"W_h has dtype {W_h.dtype}, expected real numbers")
    if W_h.ndim != 2 or W_h.shape[0] != W_h.shape[1] or not W_h.size:
        raise ValueError(f"W_h has shape {W_h.shape}, expected (H, H) with H at least 1")
    if not np.isfinite(W_h).all():
        raise ValueError("W_h holds NaN or infinity, expected finite numbers")
    return float(np.abs(np.linalg.eigvals(W_h.astype(np.float64))).max())


def gradient_check(
    f: Callable[[], SupportsFloat],
    parameters: Mapping[str, np.ndarray],
    gradients: Mapping[str, np.ndarray],
    *,
    step: float | None = None,
    samples: int = 20,
    seed: Seed = 0,
) -> dict[str, float]:
    """Compare the gradients of a loss with its central differences.

    At some entries w of every array,

    .. math:: d = \\frac{f(w + \\delta) - f(w - \\delta)}{2 \\delta}, \\qquad
              \\delta = \\mathrm{step} \\max(1, |w|)

    Parameters
    ----------
    f : callable
        ``f()`` returns the loss for the present values of `parameters`, always the same for the
        same values: no dropout, no newly drawn minibatch.
    parameters : mapping of str to ndarray
        The arrays that `f` reads, best in float64.  They are changed in place and get their exact
        values back in the end, even if `f` raises.
    gradients : mapping of str to ndarray
        What is checked: gradients of the parameters of these names, with the same shapes.
    step : float, optional
        The cube root of the dtype's epsilon by default: 6e-6 for float64, 5e-3 for float32.
    samples : int, default 20
        Number of entries drawn from each array; all of them if it has no more.
    seed : None, int or numpy.random.Generator
        Draws the entries.

    Returns
    -------
    dict of str to float
        For each of `gradients` the largest \\|gradient - d\\|, divided by the largest of

        - every \\|gradient\\| in the array,
        - every \\|d\\|,
        - 100 eps \\|f\\| / delta, since the rounding of f puts about a hundredth of this into every
          d, which would look like an error of a gradient that is tiny or zero.

        If the gradient is right and f smooth, this is at most about 1e-2, in float64 mostly below
        1e-6.  At a kink, like relu's, d is not a derivative.  NaN if f or a gradient is NaN.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value; nothing is changed then.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbptt.diagnostics import gradient_check
    >>> w = np.array([1.0, 2.0, 3.0])
    >>> errors = gradient_check(lambda: np.sum(w**2), {"w": w}, {"w": 2 * w})
    >>> errors["w"] < 1e-6
    True
    >>> gradient_check(lambda: np.sum(w**2), {"w": w}, {"w": w})  # a factor of 2 is missing
    {'w': 0.5}
    """
    try:
        count = operator.index(samples)
    except TypeError:
        raise TypeError(f"samples is {samples!r}, expected an integer") from None
    if count < 1:
        raise ValueError(f"samples is {samples}, expected at least 1")
    for name, gradient in gradients.items():
        if name not in parameters:
            raise ValueError(f"gradients has {name!r}, expected names that parameters has")
        _check_parameter(name, parameters[name], gradient, step)
    # Copies: f may compute its own gradients into the same memory.
    gradients = {name: np.array(gradient) for name, gradient in gradients.items()}
    rng = np.random.default_rng(seed)
    return {
        name: _relative_error(f, parameters[name], gradient, step, rng, count)
        for name, gradient in gradients.items()
    }


def _check_parameter(name: str, w: np.ndarray, gradient: np.ndarray, step: float | None) -> None:
    for array, what in ((w, f"parameters[{name!r}]"), (gradient, f"gradients[{name!r}]")):
        _checks.array_type(what, array)
        if array.dtype.kind != "f":
            raise TypeError(f"{what} has dtype {array.dtype}, expected float64 or float32")
    if gradient.shape != w.shape:
        raise ValueError(
            f"gradients[{name!r}] has shape {gradient.shape}, expected {w.shape}: the parameter's"
        )
    if not w.flags.writeable:
        raise ValueError(f"parameters[{name!r}] is read-only, expected a writeable array")
    eps = np.finfo(w.dtype).eps
    if step is not None and not eps <= step < np.inf:
        raise ValueError(f"step is {step}, expected at least {w.dtype}'s epsilon, {eps:.1e}")


def _relative_error(
    f: Callable[[], SupportsFloat],
    w: np.ndarray,
    gradient: np.ndarray,
    step: float | None,
    rng: np.random.Generator,
    samples: int,
) -> float:
    """The error of one array, as :func:`gradient_check` defines it."""
    eps = float(np.finfo(w.dtype).eps)
    step = float(eps ** (1 / 3)) if step is None else step
    error, scale = 0.0, float(np.abs(gradient).max(initial=0))
    for n in rng.permutation(w.size)[:samples]:
        index = np.unravel_index(n, w.shape)
        slope, resolution = _central_difference(f, w, index, step, eps)
        error = max(error, abs(float(gradient[index]) - slope))
        # np.maximum keeps a NaN of f or of the gradient; max would not.
        scale = float(np.maximum(scale, np.maximum(abs(slope), 100 * resolution)))
    return error / scale if scale else 0.0


def _central_difference(
    f: Callable[[], SupportsFloat],
    w: np.ndarray,
    index: tuple[np.intp, ...],
    step: float,
    eps: float,
) -> tuple[float, float]:
    """Slope of f along one entry of w, and what the rounding of f contributes to it."""
    value = w[index]
    delta = step * max(1.0, abs(float(value)))
    ends, losses = [], []
    try:
        for moved in (value + delta, value - delta):
            w[index] = moved
            ends.append(float(w[index]))  # as w's dtype rounds it
            losses.append(float(f()))
    finally:
        w[index] = value
    slope = (losses[0] - losses[1]) / (ends[0] - ends[1])
    return slope, eps * max(map(abs, losses)) / delta
