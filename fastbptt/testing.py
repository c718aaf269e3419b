"""The conformance kit: compares a backend with the reference, on awkward shapes and memory layouts.

A backend is a module with the four functions that :mod:`fastbptt.reference` defines.  It conforms
if :func:`check_backend` returns; otherwise an `AssertionError` names the case.  Checked are the
numbers (:func:`assert_accurate`), that only outputs are written and nothing outside the inputs
enters them, how far padding and NaN reach, and that a repeat gives the same bits.
"""

import contextlib
import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import DTypeLike

from fastbptt import reference
from fastbptt._noise import Noise

__all__ = [
    "Case",
    "assert_accurate",
    "awkward_shapes",
    "check_backend",
    "check_batch_invariance",
    "check_case",
    "plan",
]

Shape = tuple[int, int, int, int]  # T, B, I, H

DTYPES: tuple[str, ...] = ("float32", "float64")
ACTIVATIONS: tuple[str, ...] = reference.ACTIVATIONS
# None; drawn from 0 … T; all T; all 0; drawn, with every other sequence empty
LENGTHS: tuple[str, ...] = ("none", "random", "full", "zero", "some zero")
INPUTS: tuple[str, ...] = ("W_x", "W_h", "b", "x", "h", "dh", "noise")
LEAKS: tuple[str, ...] = ("none", "rate", "potential")
# of a leak: the same number for all units, or drawn for each
ALPHAS: tuple[str, ...] = ("0.3", "0.01", "1", "by unit")
# Activations that a backend may have kernels for which know neither leak nor noise.
_PLAIN = "tanh", "relu", "identity"
_FEW = 12  # shapes
# A readout's inputs, each with the layer's input whose layout it takes.
_READOUT_INPUTS = {"W_y": "W_x", "b_y": "b", "h": "x", "dy": "dh"}
_PROPER = (
    "C",
    "F",
    "batch-major",  # the transposed view of a (B, T, …) array
    "gaps",  # between the elements of every axis
    "columns",  # part of a wider array's last axis
    "reversed",  # negative strides
    "read-only",
    "misaligned",  # by one byte
)
_REPEATED = (
    "broadcast",  # zero stride along the batch
    "constant",  # zero strides throughout
)
# For each input.  If all columns of W_x or W_h were alike, all errors would be alike too, and their
# maximum would vary too much from draw to draw.
LAYOUTS: dict[str, tuple[str, ...]] = {
    name: _PROPER + _REPEATED * (name not in ("W_x", "W_h")) for name in INPUTS
}

# The edges of vectors, panels and tiles, and one below and above each.
_COLUMNS = sorted({1, 2} | {e + d for e in (4, 8, 16, 32, 48, 64) for d in (-1, 0, 1)})
_ROWS = sorted({1, 2, 31, 33, 65} | {e + d for e in (4, 6, 8, 12, 14) for d in (-1, 0, 1)})
_STEPS = (1, 2, 3, 4, 5, 7, 13)
_SPECIAL = (
    (0, 3, 2, 5),
    (3, 0, 2, 5),
    (0, 0, 1, 1),
    (1, 1, 1, 1),
    (3, 3, 1, 1),
    (150, 1, 8, 33),  # one sequence
    (80, 17, 3, 33),  # several blocks of time
    (3, 520, 3, 17),  # many blocks of batch
    (12, 130, 17, 65),  # enough work for several threads
    (2, 5, 300, 513),  # long sums
)


def awkward_shapes(passes: int = 2) -> list[Shape]:
    """Shapes on and next to the edges of vectors, panels and tiles.

    Parameters
    ----------
    passes : int, default 2
        How often each awkward value of a dimension occurs, each time in other company.

    Returns
    -------
    list of (T, B, I, H)

    See Also
    --------
    check_backend : Goes through them.

    Examples
    --------
    >>> from fastbptt import testing
    >>> shapes = testing.awkward_shapes()
    >>> len(shapes) > 20, (1, 1, 1, 1) in shapes
    (True, True)
    """
    rng = random.Random(0)
    shapes = list(_SPECIAL)
    for _ in range(passes):
        I, H = (rng.sample(_COLUMNS, len(_COLUMNS)) for _ in range(2))
        T, B = (rng.sample(s, len(s)) for s in (_STEPS, _ROWS))
        shapes += zip(itertools.cycle(T), itertools.cycle(B), I, H, strict=False)
    return shapes


class Case(NamedTuple):
    """One call of each of a backend's functions.

    A readout reads H states and gives O = I outputs in each of T B rows; what is said here of x, dx
    and dh holds for its h, dh and dy.

    Attributes
    ----------
    shape : (T, B, I, H)
    dtype : str
    activation : str
    lengths : str
        One of `LENGTHS`.
    last_only : bool
        Whether ``dh`` is (B, H) rather than (T, B, H).
    need_dx : bool
    layouts : tuple of str
        For each of `INPUTS`, one of its `LAYOUTS`.
    leak : str
        One of `LEAKS`.
    alpha : str
        One of `ALPHAS`.
    noise : bool
    every_v : bool
        Whether potentials are asked for at all steps rather than the last, and the loss has a
        gradient at the last ones.
    tokens : bool
        Whether x is (T, B) of integers; then `need_dx` is false.

    See Also
    --------
    check_case : Checks a backend in one.

    Examples
    --------
    >>> from fastbptt import testing
    >>> case = testing.Case((4, 3, 2, 5), "float32", lengths="random")
    >>> case.activation, case.layout("x")
    ('tanh', 'C')
    """

    shape: Shape
    dtype: DTypeLike
    activation: str = "tanh"
    lengths: str = "none"
    last_only: bool = False
    need_dx: bool = True
    layouts: tuple[str, ...] = ("C",) * len(INPUTS)
    leak: str = "none"
    alpha: str = "by unit"
    noise: bool = False
    every_v: bool = False
    tokens: bool = False

    def __str__(self) -> str:
        T, B, I, H = self.shape
        dh = "(B, H)" if self.last_only else "(T, B, H)"
        layouts = ", ".join(f"{n} {s}" for n, s in zip(INPUTS, self.layouts, strict=True))
        cell = "" if self.leak == "none" else f", leak {self.leak}, alpha {self.alpha}"
        if self.leak == "potential":
            cell += f", v {'(T + 1, B, H)' if self.every_v else '(B, H)'}"
        cell += ", noise" if self.noise else ""
        cell += ", tokens" if self.tokens else ""
        return (
            f"T={T} B={B} I={I} H={H} {np.dtype(self.dtype)} {self.activation}{cell}, "
            f"lengths {self.lengths}, dh {dh}, dx {'yes' if self.need_dx else 'no'}, "
            f"layouts: {layouts}"
        )

    def layout(self, name: str) -> str:
        """How an input, one of `INPUTS`, lies in memory."""
        return self.layouts[INPUTS.index(name)]

    def plain(self, dtype: DTypeLike) -> Self:
        """The same case in `dtype` on C-contiguous inputs."""
        return self._replace(dtype=dtype, layouts=("C",) * len(INPUTS))

    def writable(self, names: Sequence[str] = ("x", "dh", "noise")) -> Self:
        """The same case with no two elements of these inputs at the same place in memory."""
        layouts = (
            "C" if name in names and layout in _REPEATED else layout
            for name, layout in zip(INPUTS, self.layouts, strict=True)
        )
        return self._replace(layouts=tuple(layouts))


def plan(
    dtypes: Iterable[DTypeLike] = DTYPES,
    activations: Iterable[str] = ACTIVATIONS,
    shapes: Iterable[Shape] | None = None,
    cells: bool = True,
) -> Iterator[Case]:
    """Cases for every shape, dtype and activation, with other options drawn at random.

    Of "tanh", "relu" and "identity" one for each shape without leak and noise; of every activation
    one for each shape, or each third of many, with a leak, noise and tokens drawn as well.

    What is drawn depends only on the shape, dtype and activation.

    Parameters
    ----------
    dtypes, activations, shapes, cells
        As for :func:`check_backend`.

    Yields
    ------
    Case

    See Also
    --------
    check_backend : Goes through them.
    check_case : Checks a backend in one.

    Examples
    --------
    >>> from fastbptt import testing
    >>> cases = list(testing.plan(["float32"], ["tanh"], [(4, 3, 2, 5)]))
    >>> [(case.shape, case.leak) for case in cases]
    [((4, 3, 2, 5), 'none'), ((4, 3, 2, 5), 'none')]
    """
    shapes = awkward_shapes() if shapes is None else list(shapes)
    for number, shape in enumerate(shapes):
        for dtype, activation in itertools.product(dtypes, activations):
            rng = random.Random(f"{shape} {np.dtype(dtype)} {activation}")
            case = Case(
                shape,
                dtype,
                activation,
                lengths=rng.choice(LENGTHS),
                last_only=rng.random() < 0.5,
                need_dx=rng.random() < 0.75,
                layouts=tuple(rng.choice(LAYOUTS[name]) for name in INPUTS),
            )
            if activation in _PLAIN or not cells:
                yield case
            third = (number - ACTIVATIONS.index(activation)) % 3
            if cells and (third == 0 or len(shapes) < _FEW):
                leak, tokens = rng.choice(LEAKS), rng.random() < 0.4
                plain = leak == "none" and activation in _PLAIN and not tokens
                yield case.writable(INPUTS)._replace(
                    leak=leak,
                    alpha=rng.choice(ALPHAS),
                    noise=rng.random() < 0.5 or plain,
                    every_v=rng.random() < 0.5,
                    tokens=tokens,
                    need_dx=case.need_dx and not tokens,
                    lengths=rng.choice(LENGTHS),
                    last_only=rng.random() < 0.5,
                )


def check_backend(
    module: Any,
    *,
    dtypes: Iterable[DTypeLike] = DTYPES,
    activations: Iterable[str] = ACTIVATIONS,
    shapes: Iterable[Shape] | None = None,
    cells: bool = True,
) -> None:
    """Check a backend against the reference.

    Parameters
    ----------
    module : module
        Exports ``forward(params, x, h, lengths, activation, leak, noise, v)``, ``backward(params,
        x, h, dh, dparams, dx, dh0, lengths, activation, leak, dv)``, ``readout(W_y, b_y, h, y)``
        and ``readout_backward(W_y, h, dy, dW_y, db_y, dh)``.  The arguments behind `activation`
        are left out where there is neither leak nor noise.
    dtypes : iterable of {"float32", "float64"}
    activations : iterable of str, default `ACTIVATIONS`
    shapes : iterable of (T, B, I, H), default :func:`awkward_shapes`
    cells : bool, default True
        False leaves out leaks, noise and tokens.

    Raises
    ------
    AssertionError
        It names the case (shape, dtype, activation, lengths, layouts), the result, and what is
        wrong with it.

    See Also
    --------
    check_batch_invariance : What the reference need not do.
    fastbptt.diagnostics.gradient_check : Checks gradients of one's own.

    Examples
    --------
    >>> from fastbptt import reference, testing
    >>> testing.check_backend(reference, dtypes=["float32"], shapes=[(4, 3, 2, 5)])
    """
    for case in plan(dtypes, activations, shapes, cells):
        check_case(module, case)


def check_case(module: Any, case: Case) -> None:
    """Check a backend against the reference in one case, in all that :func:`check_backend` checks.

    Parameters
    ----------
    module : module
        A backend.
    case : Case

    See Also
    --------
    check_backend : Checks many cases.

    Examples
    --------
    >>> from fastbptt import reference, testing
    >>> testing.check_case(reference, testing.Case((4, 3, 2, 5), "float32"))
    """
    if case.lengths not in ("none", "full"):
        case = case.writable()  # NaN goes into the padding of x, dh and noise
    if case.leak == "rate":
        case = case.writable(("h",))  # f(z) is found from h_t and h_{t-1}
    for check, called in ((_check_readout, f"{case}, readout"), (_check_layer, str(case))):
        try:
            with np.errstate(invalid="ignore"):  # NaN is intended
                check(module, case)
        except AssertionError as error:
            raise AssertionError(f"{called}: {error}") from error
        except Exception as error:
            error.add_note(called)
            raise


def check_batch_invariance(
    module: Any,
    *,
    dtypes: Iterable[DTypeLike] = DTYPES,
    activations: Iterable[str] = ACTIVATIONS,
    shapes: Iterable[Shape] | None = None,
    cells: bool = True,
) -> None:
    """Check that a sequence's states are the same to the bit whatever else is in the batch.

    Outputs read out of a state must not depend on the other states either.  The reference promises
    neither: a BLAS may sum in another order for another batch size.

    Parameters
    ----------
    module, dtypes, activations, shapes, cells
        As for :func:`check_backend`.

    See Also
    --------
    check_backend : Checks everything else.

    Examples
    --------
    >>> from fastbptt import kernels, testing
    >>> testing.check_batch_invariance(kernels, dtypes=["float32"], shapes=[(4, 3, 2, 5)])
    """
    for case in plan(dtypes, activations, shapes, cells):
        case = case.plain(case.dtype)
        data = _draw_layer(case, seed=0)
        whole = _run_layer(module, case, data)
        for part in _parts(case.shape[1]):
            lengths = None if data.lengths is None else data.lengths[part].copy()
            h = np.ascontiguousarray(data.h[:, part])
            noise = None if data.noise is None else data.noise[:, part]
            v = np.ascontiguousarray(whole["v"][..., part, :]) if "v" in whole else None
            if v is not None:
                (v if v.ndim == 2 else v[0])[...] = data.v0[part]
            more = _more(data.leak(case.dtype), noise, v)
            module.forward(data[:3], data.x[:, part], h, lengths, case.activation, *more)
            _assert_same_bits(h, whole["h"][:, part], f"{case}: h of sequences {part} alone")
            if v is not None:
                _assert_same_bits(v, whole["v"][..., part, :], f"{case}: v of {part} alone")

        W_y, b_y, h, _ = data = _draw_readout(case, seed=0)
        whole = _run_readout(module, case, data)["y"]
        for part in _parts(len(h)):
            y = np.full_like(whole[part], np.nan)
            module.readout(W_y, b_y, h[part], y)
            _assert_same_bits(y, whole[part], f"{case}, readout: y of rows {part} on their own")


def _parts(n: int) -> tuple[slice, ...]:
    """Of n rows: the first, the second half, the last, and every third backwards from the last."""
    return slice(0, 1), slice(n // 2, None), slice(n - 1, None), slice(None, None, -3)


def assert_accurate(
    got: Sequence[np.ndarray],
    plain: Sequence[Sequence[np.ndarray]],
    exact: Sequence[np.ndarray],
    label: str = "result",
) -> None:
    """Check that an error is at most twice that of a plain implementation in the same precision.

    The error of a result is its root mean square deviation from `exact` over all its elements in
    all draws.  (The largest deviation varies too much: the reference, given its weights in another
    memory layout, exceeds twice its own.)  The plain error is taken to be at least that of rounding
    the result alone.

    Parameters
    ----------
    got : list of ndarray
        A backend's result in each draw.
    plain : list of list of ndarray
        The reference's, in the same precision and from the same inputs, once for each way of
        running it (a BLAS may be more accurate than sums in order); the larger error counts.
    exact : list of ndarray
        The reference's in higher precision.
    label : str
        Names the result in the message.

    Raises
    ------
    AssertionError

    See Also
    --------
    check_backend : Does so for every result.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbptt.testing import assert_accurate
    >>> z = np.linspace(-3, 3, 100)
    >>> exact, plain = np.tanh(z), np.tanh(z.astype(np.float32))
    >>> assert_accurate([plain], [[plain]], [exact], "tanh")
    """
    dtype = plain[0][0].dtype
    for g, e in zip(got, exact, strict=True):
        assert g.shape == e.shape, f"{label}: shape {g.shape}, expected {e.shape}"
        assert g.dtype == dtype, f"{label}: dtype {g.dtype}, expected {dtype}"
        assert np.finfo(e.dtype).eps < np.finfo(dtype).eps, f"{e.dtype} is no wider than {dtype}"
    magnitude = _root_mean_square(exact)
    rounding = np.finfo(dtype).eps / 4 * magnitude
    own = max(rounding, *(_error(p, exact) for p in plain))
    error = _error(got, exact)
    assert error <= 2 * own, (  # false for NaN
        f"{label}: error {error:.3g}, bound {2 * own:.3g}, twice that of the reference "
        f"(root mean squares; that of the exact values is {magnitude:.3g})"
    )


def _error(arrays: Sequence[np.ndarray], exact: Sequence[np.ndarray]) -> float:
    return _root_mean_square([a - e for a, e in zip(arrays, exact, strict=True)])


def _root_mean_square(arrays: Sequence[np.ndarray]) -> float:
    elements = np.concatenate([np.ravel(a) for a in arrays]).astype(np.float64)
    return float(np.sqrt(np.mean(elements**2))) if elements.size else 0.0


def _assert_same_bits(got: np.ndarray, expected: np.ndarray, label: str) -> None:
    """Compare bits, except that any NaN equals any other."""
    same = (got == expected) & (np.signbit(got) == np.signbit(expected))
    same |= np.isnan(got) & np.isnan(expected)
    if not same.all():
        index = tuple(map(int, np.argwhere(~same)[0]))
        raise AssertionError(
            f"{label}: {list(index)} is {got[index]!r}, expected {expected[index]!r}"
        )


# The checks of one case

_Run = Callable[[Any, Case, Any], dict[str, np.ndarray]]  # module, case, inputs -> results by name


class _InOrder(np.ndarray):
    """An array whose matrix products and sums over rows add term by term, in order."""

    def __matmul__(self, other: np.ndarray) -> Any:
        a, b = np.asarray(self), np.asarray(other)
        total = np.zeros((a.shape[0], b.shape[1]), a.dtype)
        for k in range(a.shape[1]):
            total += a[:, k, None] * b[k]
        return total.view(_InOrder)

    def sum(self, axis: int) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        assert axis == 0
        return sum(np.asarray(self), start=np.zeros(self.shape[1:], self.dtype))


def _in_order(function: Callable[..., None]) -> Callable[..., None]:
    """One of the reference's functions, with its sums taken in the order of the formulas.

    How a BLAS orders a sum, and so its error, depends on the implementation, on sizes and on
    strides: with a partial sum for each lane of a vector, the error is a fraction of that in order.
    """

    def view(a: Any) -> Any:
        if isinstance(a, tuple):
            return tuple(map(view, a))
        return a.view(_InOrder) if isinstance(a, np.ndarray) else a

    return lambda *arguments: function(*map(view, arguments))


_REFERENCE_IN_ORDER = SimpleNamespace(
    forward=_in_order(reference.forward),
    backward=_in_order(reference.backward),
    readout=_in_order(reference.readout),
    readout_backward=_in_order(reference.readout_backward),
)


def _check_layer(module: Any, case: Case) -> None:
    T, B, I, H = case.shape
    data = _draw_layer(case, seed=0)
    # The error is steady enough with 256 elements of the smallest result, db or dx.
    draws = -(-256 // (min(H, T * B * I) or 256))
    _check_accuracy(module, case, _draw_layer, _run_layer, draws)
    _check_repeat(module, case, data, _run_layer)
    _check_padding(module, case, data)
    _check_isolation(module, case.writable(), data)
    if case.noise:
        _check_drawn_noise(module, case.plain(case.dtype))


def _check_drawn_noise(module: Any, case: Case) -> None:
    """Check that noise which a backend draws is an array of what it draws, to the bit."""
    T, B, _, H = case.shape
    data, states = _draw_layer(case, seed=0), []
    noise = Noise(np.linspace(0, 1, H), (1 << 63) + 11, first_step=5, first_sequence=77)
    for given in (noise, noise.draw(T, B, H, case.dtype)):
        h = data.h.copy()
        more = data.leak(case.dtype), given, data.v0.copy() if case.leak == "potential" else None
        module.forward(data[:3], data.x, h, data.lengths, case.activation, *more)
        states.append(h)
    _assert_same_bits(states[0], states[1], "h with noise that is drawn")


def _check_readout(module: Any, case: Case) -> None:
    T, B, O, H = case.shape
    N = T * B
    data = _draw_readout(case, seed=0)
    # 64 elements are enough here, where no state passes its error on; elements that zero strides
    # make alike count as one.
    draws = -(-64 // (1 if case.layout("dh") == "constant" else min(O, H)))
    _check_accuracy(module, case, _draw_readout, _run_readout, draws)
    _check_repeat(module, case, data, _run_readout)
    if N:
        for source in ("h", "dy"):
            _check_nan(module, case.writable(), data, _run_readout, source, (N // 2, -1))


def _check_accuracy(
    module: Any,
    case: Case,
    draw: Callable[[Case, int], Any],
    run: _Run,
    draws: int,
) -> None:
    """Compare results with those of a wider type, for inputs drawn `draws` times."""
    wider = np.longdouble if np.dtype(case.dtype) == np.float64 else np.float64
    same, wide = case.plain(case.dtype), case.plain(wider)
    drawn = [draw(case, seed) for seed in range(draws)]
    got = [run(module, case, data) for data in drawn]
    exact = [run(reference, wide, data) for data in drawn]

    def check(*ways: Any) -> None:
        plain = [[run(way, same, data) for data in drawn] for way in ways]
        for name in exact[0]:
            of_name = [[results[name] for results in runs] for runs in (got, exact, *plain)]
            assert_accurate(of_name[0], of_name[2:], of_name[1], name)

    try:
        check(reference)
    except AssertionError:  # the slow way, which can only raise the bound
        check(reference, _REFERENCE_IN_ORDER)


def _check_repeat(module: Any, case: Case, data: Any, run: _Run) -> None:
    first, second = run(module, case, data), run(module, case, data)
    for name in first:
        _assert_same_bits(second[name], first[name], f"{name} on repeating the call")


def _check_padding(module: Any, case: Case, data: "_Layer") -> None:
    """Neither what lies past a sequence's length nor how much of it changes any bit."""
    if data.lengths is None:
        return
    T, B, I, H = case.shape
    got = _run_layer(module, case, data)
    past = np.arange(T)[:, None] >= data.lengths
    last = got["h"][data.lengths, np.arange(B)]
    held = np.broadcast_to(last, (T, B, H))[past]
    _assert_same_bits(got["h"][1:][past], held, "h past a sequence's length")
    if case.leak == "potential" and case.every_v:
        held = np.broadcast_to(got["v"][data.lengths, np.arange(B)], (T, B, H))[past]
        _assert_same_bits(got["v"][1:][past], held, "v past a sequence's length")
    if case.need_dx:
        assert not got["dx"][past].any(), "dx past a sequence's length: expected 0"

    clean = _run_layer(module, case, _pad(data, 0))
    for name in got:
        _assert_same_bits(got[name], clean[name], f"{name} with NaN, not 0, in the padding")

    more = 3
    longer = _run_layer(module, case._replace(shape=(T + more, B, I, H)), _lengthen(data, more))
    for name in got:
        tail = len(got[name]) if name in ("h", "dx", "v") else None
        _assert_same_bits(longer[name][:tail], got[name], f"{name} with {more} more padded steps")


def _check_isolation(module: Any, case: Case, data: "_Layer") -> None:
    """NaN in a step that counts reaches what it reaches in the reference."""
    T, B = case.shape[:2]
    live = np.arange(T)[:, None] < (np.full(B, T) if data.lengths is None else data.lengths)
    if not live.any():
        return
    t, b = np.argwhere(live)[live.sum() // 2]
    for source, has_nan in (("x", not case.tokens), ("dh", True), ("noise", case.noise)):
        if not has_nan:
            continue
        index = (b, -1) if source == "dh" and case.last_only else (t, b, -1)
        _check_nan(module, case, data, _run_layer, source, index)


def _check_nan(
    module: Any,
    case: Case,
    data: Any,
    run: _Run,
    source: str,
    index: tuple[int, ...],
) -> None:
    """A NaN reaches what it reaches in the reference, and changes no bit of anything else."""
    poisoned = getattr(data, source).copy()
    poisoned[index] = np.nan
    poisoned = data._replace(**{source: poisoned})
    clean, got = run(module, case, data), run(module, case, poisoned)
    expected = run(reference, case.plain(case.dtype), poisoned)
    for name in got:
        label = f"{name} with NaN in {source}[{', '.join(map(str, index))}]"
        nan = np.isnan(expected[name])
        assert (np.isnan(got[name]) == nan).all(), f"{label}: NaN in other places"
        _assert_same_bits(got[name][~nan], clean[name][~nan], f"{label}, where it is no NaN")


# Inputs


class _Layer(NamedTuple):
    W_x: np.ndarray
    W_h: np.ndarray
    b: np.ndarray
    x: np.ndarray
    h: np.ndarray
    dh: np.ndarray
    noise: np.ndarray | None
    lengths: np.ndarray | None
    v0: np.ndarray
    dv: np.ndarray
    alpha: np.ndarray
    of: str

    def leak(self, dtype: DTypeLike) -> tuple[np.ndarray, str] | None:
        return None if self.of == "none" else (self.alpha.astype(dtype), self.of)


class _Readout(NamedTuple):
    W_y: np.ndarray
    b_y: np.ndarray
    h: np.ndarray
    dy: np.ndarray


def _laid(case: Case, name: str, a: np.ndarray) -> np.ndarray:
    """The numbers that remain in an input's layout: zero strides repeat the first ones."""
    return _place(_as(a, case.dtype), case.layout(name))[0].copy()


def _as(a: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    """The array in a dtype of floating-point numbers, unless it holds tokens."""
    return a if a.dtype.kind == "i" else a.astype(dtype)


def _draw_layer(case: Case, seed: int) -> _Layer:
    """Draw the inputs of a layer; x, dh and noise are NaN past a sequence's length, tokens -1."""
    T, B, I, H = case.shape
    rng = np.random.default_rng([seed, T, B, I, H])
    lengths = _draw_lengths(case, rng)
    W_x = _laid(case, "W_x", rng.standard_normal((I, H)) / np.sqrt(I))
    # Elements are about 1/sqrt(H); at a spectral norm of 0.9 errors do not grow, whatever f is.
    W_h = _laid(case, "W_h", 0.9 * np.linalg.qr(rng.standard_normal((H, H)))[0])
    b = _laid(case, "b", 0.1 * rng.standard_normal(H))
    x = rng.integers(0, I, (T, B)) if case.tokens else rng.standard_normal((T, B, I))
    x = _laid(case, "x", x)
    dh = _laid(case, "dh", rng.standard_normal((B, H) if case.last_only else (T, B, H)))
    h = np.empty((T + 1, B, H), case.dtype)
    h[0] = 0.5 * rng.standard_normal((B, H))
    v0, noise = h[0].copy(), None
    alpha = rng.uniform(0.05, 1, H) if case.alpha == "by unit" else np.full(H, float(case.alpha))
    if case.noise:
        noise = _laid(case, "noise", 0.3 * rng.standard_normal((T, B, H)))
    dv = rng.standard_normal((B, H)).astype(case.dtype)
    drawn = _Layer(
        W_x, W_h, b, x, h, dh, noise, lengths, v0, dv, alpha.astype(case.dtype), case.leak
    )  # fmt: skip
    v = v0.copy() if case.leak == "potential" else None
    more = _more(drawn.leak(case.dtype), noise, v)
    reference.forward((W_x, W_h, b), x, h, lengths, case.activation, *more)
    return _pad(drawn._replace(h=_laid(case, "h", h)), np.nan)


def _draw_readout(case: Case, seed: int) -> _Readout:
    """Draw the inputs of a readout."""
    T, B, O, H = case.shape
    rng = np.random.default_rng([seed, T, B, O, H])
    W_y = rng.standard_normal((H, O)) / np.sqrt(H)
    b_y = 0.1 * rng.standard_normal(O)
    h, dy = (rng.standard_normal((T * B, n)) for n in (H, O))
    drawn = zip(_READOUT_INPUTS.values(), (W_y, b_y, h, dy), strict=True)
    return _Readout(*(_laid(case, name, a) for name, a in drawn))


def _draw_lengths(case: Case, rng: np.random.Generator) -> np.ndarray | None:
    T, B = case.shape[:2]
    if case.lengths == "none":
        return None
    if case.lengths in ("full", "zero"):
        return np.full(B, T if case.lengths == "full" else 0)
    lengths = rng.integers(0, T + 1, B)
    if case.lengths == "some zero":
        lengths[::2] = 0
    return lengths


def _pad(data: _Layer, value: float) -> _Layer:
    """Put a value into x, dh and noise past each sequence's length; for NaN, -1 into tokens."""
    if data.lengths is None:
        return data
    past = np.arange(len(data.x))[:, None] >= data.lengths

    def padded(a: np.ndarray) -> np.ndarray:
        if a.ndim == 2:
            return np.where(past, -1 if np.isnan(value) else 0, a)
        return np.where(past[:, :, None], value, a).astype(a.dtype)

    dh = data.dh if data.dh.ndim == 2 else padded(data.dh)
    noise = None if data.noise is None else padded(data.noise)
    return data._replace(x=padded(data.x), dh=dh, noise=noise)


def _lengthen(data: _Layer, more: int) -> _Layer:
    """Append steps past every sequence's length, where the states stay as they are."""

    def longer(a: np.ndarray) -> np.ndarray:
        past = -1 if a.dtype.kind == "i" else np.nan
        return np.concatenate([a, np.full((more, *a.shape[1:]), past, a.dtype)])

    h = np.concatenate([data.h, data.h[-1:].repeat(more, axis=0)])
    dh = data.dh if data.dh.ndim == 2 else longer(data.dh)
    noise = None if data.noise is None else longer(data.noise)
    return data._replace(x=longer(data.x), h=h, dh=dh, noise=noise)


def _exact_rates(case: Case, data: _Layer) -> np.ndarray:
    """The states that data hold, in a wider type and as exactly as there.

    Whether f(z_t) was 0 shows in h_t being (1 - alpha) h_{t-1}, rounded: so it is that, unrounded.
    """
    h, keep = data.h.astype(case.dtype), 1 - data.alpha.astype(case.dtype)
    for t in range(1, len(h)):
        decayed = data.h[t] == (1 - data.alpha) * data.h[t - 1]
        h[t] = np.where(decayed, keep * h[t - 1], h[t])
    return h


# Memory

_GUARD = 256  # bytes before and after an array; a multiple of every vector's size


class _Canvas(NamedTuple):
    """An array within a buffer of 0xff bytes: floats read from any of them are NaN."""

    array: np.ndarray
    buffer: np.ndarray
    start: int

    def guards_intact(self) -> bool:
        end = self.start + self.array.nbytes
        return bool((self.buffer[: self.start] == 0xFF).all() and (self.buffer[end:] == 0xFF).all())


def _canvas(shape: Iterable[int], dtype: DTypeLike, offset: int = 0) -> _Canvas:
    shape = tuple(shape)
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    buffer = np.full(nbytes + 2 * _GUARD + 64, 0xFF, np.uint8)
    start = -buffer.ctypes.data % 64 + _GUARD + offset
    array: np.ndarray = np.ndarray(shape, dtype, buffer.data, start)
    return _Canvas(array, buffer, start)


def _place(a: np.ndarray, layout: str) -> tuple[np.ndarray, np.ndarray]:
    """Lay out an array in memory, surrounded by NaN; return the view and its buffer."""
    shape, ndim = a.shape, a.ndim
    if layout == "F":
        canvas = _canvas(shape[::-1], a.dtype)
        view = canvas.array.T
    elif layout == "batch-major" and ndim > 1:
        canvas = _canvas((shape[1], shape[0], *shape[2:]), a.dtype)
        view = canvas.array.swapaxes(0, 1)
    elif layout == "gaps":
        canvas = _canvas((2 * n + 1 for n in shape), a.dtype)
        view = canvas.array[(slice(1, None, 2),) * ndim]
    elif layout == "columns":
        canvas = _canvas((*shape[:-1], shape[-1] + 5), a.dtype)
        view = canvas.array[..., 2:-3]
    elif layout in _REPEATED:
        # In states and inputs the batch is the last axis but one.
        a = a[(slice(1),) * ndim] if layout == "constant" else a[..., :1, :] if ndim > 1 else a[:1]
        canvas = _canvas(a.shape, a.dtype)
        view = canvas.array
    else:
        canvas = _canvas(shape, a.dtype, offset=1 if layout == "misaligned" else 0)
        view = canvas.array[(slice(None, None, -1 if layout == "reversed" else 1),) * ndim]
    view[...] = a
    if view.shape != shape:
        view = np.broadcast_to(view, shape)
    elif layout == "read-only":
        view.flags.writeable = False
    return view, canvas.buffer


# Calls


def _more(
    leak: tuple[np.ndarray, str] | None, noise: np.ndarray | None, v: np.ndarray | None
) -> tuple[Any, ...]:
    """What a forward is given behind `activation`."""
    return () if leak is None and noise is None else (leak, noise, v)


@contextlib.contextmanager
def _watched(
    dtype: DTypeLike,
    inputs: dict[str, tuple[np.ndarray, str]],
    shapes: dict[str, tuple[int, ...]],
) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Lay out inputs, (array, layout) by name, and outputs, which are NaN, between guards.

    Inputs and guards must stay as they are, and so must the handling of subnormal numbers.
    """
    laid = {name: _place(a, layout) for name, (a, layout) in inputs.items()}
    before = {name: buffer.tobytes() for name, (_, buffer) in laid.items()}
    outputs = {name: _canvas(shape, dtype) for name, shape in shapes.items()}
    placed = {name: view for name, (view, _) in laid.items()}
    yield placed, {name: canvas.array for name, canvas in outputs.items()}
    for name, (_, buffer) in laid.items():
        assert buffer.tobytes() == before[name], f"{name}, an input, was written to"
    for name, canvas in outputs.items():
        assert canvas.guards_intact(), f"{name}: memory outside of it was written to"
    assert np.float32(2e-38) * np.float32(0.25) > 0, "subnormal numbers are flushed to zero now"


def _run_layer(module: Any, case: Case, data: _Layer) -> dict[str, np.ndarray]:
    """Call forward and backward on inputs laid out as the case says; return results by name."""
    T, B, I, H = case.shape
    given = {name: getattr(data, name) for name in INPUTS if getattr(data, name) is not None}
    if data.of == "rate" and data.h.dtype != case.dtype:
        given["h"] = _exact_rates(case, data)
    inputs = {name: (_as(a, case.dtype), case.layout(name)) for name, a in given.items()}
    if data.lengths is not None:
        inputs["lengths"] = data.lengths, "C"
    if data.of == "potential" and case.every_v:
        inputs["dv"] = data.dv.astype(case.dtype), "gaps"
    shapes = {"h": (T + 1, B, H), "dW_x": (I, H), "dW_h": (H, H), "db": (H,), "dh0": (B, H)}
    if case.need_dx:
        shapes["dx"] = T, B, I
    if data.of == "potential":
        shapes["v"] = (T + 1, B, H) if case.every_v else (B, H)
    with _watched(case.dtype, inputs, shapes) as (placed, results):
        params, x = (placed["W_x"], placed["W_h"], placed["b"]), placed["x"]
        dparams = results["dW_x"], results["dW_h"], results["db"]
        dx, dh0 = results.get("dx"), results["dh0"]
        rest = placed.get("lengths"), case.activation
        leak, v = data.leak(case.dtype), results.get("v")
        if v is not None:
            (v[0] if case.every_v else v)[...] = data.v0
        else:
            results["h"][0] = data.h[0]
        more = _more(leak, placed.get("noise"), v)
        module.forward(params, x, results["h"], *rest, *more)
        backward = params, x, placed["h"], placed["dh"], dparams, dx, dh0, *rest
        module.backward(*backward, *(() if leak is None else (leak, placed.get("dv"))))
    if data.of != "potential":
        _assert_same_bits(results["h"][0], data.h[0].astype(case.dtype), "h[0], the initial state")
    elif case.every_v:
        _assert_same_bits(results["v"][0], data.v0.astype(case.dtype), "v[0], the initial state")
    return results


def _run_readout(module: Any, case: Case, data: _Readout) -> dict[str, np.ndarray]:
    """Do the same for readout and readout_backward."""
    T, B, O, H = case.shape
    N = T * B
    inputs = {
        name: (getattr(data, name).astype(case.dtype), case.layout(layout))
        for name, layout in _READOUT_INPUTS.items()
    }
    shapes = {"y": (N, O), "dW_y": (H, O), "db_y": (O,)}
    if case.need_dx:
        shapes["dh"] = N, H
    with _watched(case.dtype, inputs, shapes) as (placed, results):
        W_y, b_y, h, dy = placed.values()
        module.readout(W_y, b_y, h, results["y"])
        gradients = results["dW_y"], results["db_y"], results.get("dh")
        module.readout_backward(W_y, h, dy, *gradients)
    return results
