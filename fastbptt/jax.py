"""A recurrent layer as a JAX function, for `jit`, `grad` and `vmap`.

It needs JAX: ``pip install "fastbptt[jax]"``.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from fastbptt import _checks
from fastbptt._extras import import_extra
from fastbptt.rnn import Activation, Backend, Params, find_backend

jax: Any = import_extra("jax", "jax", "fastbptt.jax")
jnp: Any = import_extra("jax.numpy", "jax", "fastbptt.jax")
core: Any = import_extra("jax.extend.core", "jax", "fastbptt.jax")
ad: Any = import_extra("jax.interpreters.ad", "jax", "fastbptt.jax")
batching: Any = import_extra("jax.interpreters.batching", "jax", "fastbptt.jax")
mlir: Any = import_extra("jax.interpreters.mlir", "jax", "fastbptt.jax")
# XLA hands over its own buffers, and takes the results out of its own: nothing is copied.
# `jax.pure_callback` would copy all of them, and can wait for itself (jax-ml/jax#24255).
in_place: Any = import_extra("jax.experimental.buffer_callback", "jax", "fastbptt.jax")

__all__ = ["rnn"]


def rnn(
    params: Params | Sequence[Any],
    x: Any,
    h0: Any = None,
    lengths: Any = None,
    activation: Activation = "tanh",
    *,
    output: Literal["all", "steps", "last"] = "all",
    backend: Backend = "numba",
) -> Any:
    """States of a recurrent layer, as a JAX function that can be differentiated.

    ``h[t] = f(x[t - 1] @ W_x + h[t - 1] @ W_h + b)`` for t = 1 … T, see :func:`fastbptt.forward`.

    Parameters
    ----------
    params : Params
        ``W_x`` (I, H), ``W_h`` (H, H), ``b`` (H,), all float32 or all float64; a
        :class:`fastbptt.Params` or another sequence of three arrays.
    x : array, (T, B, I)
        Inputs, time-major, of the same dtype.
    h0 : array, (B, H), optional
        Initial state; zero by default.
    lengths : array of int, (B,), optional
        Steps that count for each sequence, 0 to T, see :func:`fastbptt.forward`.
    activation : str, default "tanh"
        The function f, one of those of :func:`fastbptt.forward`.
    output : {"all", "steps", "last"}, default "all"
        What is returned.  The gradient at the last states alone takes less time and memory than
        one at all states that is zero elsewhere; and that at the states after each step is used
        as it is, where JAX makes a longer copy of one at ``rnn(...)[1:]``.
    backend : {"numba", "numpy"}, default "numba"

    Returns
    -------
    jax.Array
        For "all" the states ``h``, (T + 1, B, H), with the initial ones in front; for "steps"
        ``h[1:]``, (T, B, H); for "last" those after each sequence's last step, (B, H).

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value.  Lengths that are computed in a
        `jit` are only known when it runs: if they are wrong, it ends with a ``JaxRuntimeError``.

    See Also
    --------
    fastbptt.forward, fastbptt.backward : The same for NumPy arrays.

    Notes
    -----
    There are gradients for ``params``, ``x`` and ``h0``, first ones in reverse mode; forward mode
    and second derivatives are errors.  Under `vmap` with shared weights the sequences become one
    larger batch; with weights of their own, and for gradients of each sequence by itself, they are
    computed one after the other.

    The computation runs on the CPU, in as many threads as ``NUMBA_NUM_THREADS`` says.  (What
    ``numba.set_num_threads`` says holds for the thread that says it; XLA has threads of its own.)
    A function that contains it cannot be exported by ``jax.export``.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, fastbptt
    >>> from fastbptt.jax import rnn
    >>> params = fastbptt.init_params(3, 5, seed=0)
    >>> @jax.jit
    ... def loss(params, x):
    ...     return jnp.sum(rnn(params, x, output="last") ** 2)
    >>> gradient = jax.grad(loss)(params, jnp.ones((7, 2, 3)))
    >>> gradient.W_h.shape
    (5, 5)
    """
    outputs = "all", "steps", "last"
    _checks.one_of("output", output, outputs)
    if not isinstance(params, (tuple, list)) or len(params) != 3:
        _checks.layer(params, None, activation)  # says what was expected
    weights, x = [jnp.asarray(a) for a in params], jnp.asarray(x)
    T, B, _, H, dtype = _checks.layer([_like(a) for a in weights], _like(x), activation)
    if h0 is None:
        h0 = jnp.zeros((B, H), dtype)
    else:
        h0 = jnp.asarray(h0)
        _checks.array("h0", _like(h0), dtype, (B, H), "(B, H)")
    given = [*weights, x, h0]
    if lengths is not None:
        given.append(_known_lengths(lengths, T, B))
    find_backend(backend)  # not in a thread of XLA's
    return _bound(given, outputs.index(output), activation, backend)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _bound(given: list[Any], which: int, activation: Activation, backend: Backend) -> Any:
    """One of the results of `_states`; XLA leaves out what the others would take."""
    if jax.sharding.get_abstract_mesh().manual_axes:
        # In a shard_map: what goes in has to vary along the same axes of the mesh, as the operands
        # of JAX's own operations do.  XLA leaves this out, too.
        any_of_all = jax.lax.stop_gradient(sum(a.sum() for a in given))
        given = [jnp.where(False, any_of_all.astype(a.dtype), a) for a in given]
    return _states.bind(*given, activation=activation, backend=backend)[which]


def _like(a: Any) -> np.ndarray:
    """An array of the same dtype and shape, for checks, of one element's memory."""
    return np.broadcast_to(np.zeros((), a.dtype), a.shape)


def _known_lengths(lengths: ArrayLike, T: int, B: int) -> Any:
    """The lengths as a JAX array, checked as far as they are known."""
    if not isinstance(lengths, jax.core.Tracer):
        return jnp.asarray(_checks.lengths(lengths, T, B), jnp.int32)
    _checks.lengths(_like(lengths), T, B)
    return lengths


# Three primitives, as JAX calls what it does not look into: the states; their derivative, which is
# linear in the changes of what they are computed from; and its transpose, the gradients.  JAX
# differentiates the first (`_differentiate`), and transposes the second to go backward through time
# (`_transpose`).  A `custom_vjp` would do but for `vmap`, under which it asks for the weights'
# gradient of each sequence by itself, to add them up afterwards.
#
#   states      W_x, W_h, b, x, h0[, lengths] -> h, steps, last
#   derivative  W_x, W_h, b, x, h[, lengths], and changes dW_x, dW_h, db, dh0[, dx]
#               -> dh, dsteps, dlast
#   gradients   W_x, W_h, b, x, h[, lengths], and one of these -> dW_x, dW_h, db, dh0[, dx]
#
# with shapes as in `rnn`.

WEIGHTS = 3


def _fill_states(
    filled: list[np.ndarray], given: list[np.ndarray], *, activation: Activation, backend: Backend
) -> None:
    (h, last), (W_x, W_h, b, x, h0, *lengths) = filled, given
    h[0] = h0
    find_backend(backend).forward(Params(W_x, W_h, b), x, h, _checked(lengths, x), activation)
    last[...] = h[-1]


def _fill_gradients(
    filled: list[np.ndarray],
    given: list[np.ndarray],
    *,
    activation: Activation,
    backend: Backend,
    need_dx: bool,
) -> None:
    dW_x, dW_h, db, dh0, *dx = filled
    W_x, W_h, b, x, h, *lengths, dh = given
    initial = len(dh) - len(x) if dh.ndim == 3 else 0  # states in front
    find_backend(backend).backward(
        Params(W_x, W_h, b), x, h, dh[initial:], Params(dW_x, dW_h, db),
        dx[0] if need_dx else None, dh0, _checked(lengths, x), activation,
    )  # fmt: skip
    if initial:
        dh0 += dh[0]


def _checked(lengths: list[np.ndarray], x: np.ndarray) -> np.ndarray | None:
    return _checks.lengths(lengths[0], *x.shape[:2]) if lengths else None


def _states_types(W_x: Any, W_h: Any, b: Any, x: Any, h0: Any, *_: Any, **options: Any) -> Any:
    return *(x.update(shape=(x.shape[0] + more, *h0.shape)) for more in (1, 0)), h0


def _derivative_types(W_x: Any, W_h: Any, b: Any, x: Any, h: Any, *_: Any, **options: Any) -> Any:
    return h, h.update(shape=(x.shape[0], *h.shape[1:])), W_x.update(shape=h.shape[1:])


def _gradients_types(
    W_x: Any, W_h: Any, b: Any, x: Any, h: Any, *_: Any, need_dx: bool, **options: Any
) -> Any:
    return W_x, W_h, b, W_x.update(shape=h.shape[1:]), *([x] if need_dx else [])


def _new_primitive(name: str, types: Callable[..., Any]) -> Any:
    """A primitive of several results; their types follow from those of the arguments."""
    primitive = core.Primitive(f"fastbptt_{name}")
    primitive.multiple_results = True
    primitive.def_abstract_eval(
        lambda *args, **options: [a.update(weak_type=False) for a in types(*args, **options)]
    )
    return primitive


def _on_the_cpu_only(context: Any, *args: Any, **options: Any) -> Any:
    platforms = ", ".join(context.module_context.platforms)
    raise NotImplementedError(
        f"fastbptt.jax.rnn is compiled for {platforms}, expected cpu: put its arguments there by "
        'jax.device_put(..., jax.devices("cpu")[0])'
    )


def _filled(
    types: Sequence[Any], fill: Callable[..., None], args: Sequence[Any], options: dict[str, Any]
) -> Any:
    """Arrays of these types, filled in by ``fill(filled, given, **options)``."""

    # Nothing in here may use JAX: it would wait for the thread that it runs in.
    def callback(_: Any, filled: Any, *given: Any) -> None:
        fill([*map(np.asarray, filled)], [*map(np.asarray, given)], **options)

    return in_place.buffer_callback(callback, types)(*args)


def _run(primitive: Any, call: Callable[..., Any], options: Sequence[str]) -> None:
    """Have a primitive computed by a function of JAX arrays, on the CPU."""
    mlir.register_lowering(primitive, mlir.lower_fun(call, multiple_results=True), platform="cpu")
    mlir.register_lowering(primitive, _on_the_cpu_only)
    primitive.def_impl(jax.jit(primitive.bind, static_argnames=options))


def _computed_states(*args: Any, **options: Any) -> Any:
    h, _, last = _states.abstract_eval(*map(jax.typeof, args), **options)[0]
    h, last = _filled([h, last], _fill_states, args, options)
    return h, h[1:], last


def _computed_gradients(*args: Any, **options: Any) -> Any:
    types = _gradients.abstract_eval(*map(jax.typeof, args), **options)[0]
    return _filled(types, _fill_gradients, args, options)


_states = _new_primitive("states", _states_types)
_run(_states, _computed_states, ("activation", "backend"))
_gradients = _new_primitive("gradients", _gradients_types)
_run(_gradients, _computed_gradients, ("activation", "backend", "need_dx"))
_derivative = _new_primitive("derivative", _derivative_types)


def _reverse_mode_only(*args: Any, **options: Any) -> Any:
    raise NotImplementedError(
        "fastbptt.jax.rnn has first derivatives in reverse mode, as jax.grad and jax.vjp take "
        "them; expected neither forward mode (jax.jvp, jax.jacfwd, jax.linearize) nor second ones"
    )


_derivative.def_impl(_reverse_mode_only)
mlir.register_lowering(_derivative, _reverse_mode_only)


def _differentiate(args: Sequence[Any], changes: Sequence[Any], **options: Any) -> Any:
    """The states and, for changes of their arguments, their derivative."""
    states = _states.bind(*args, **options)
    W_x, W_h, b, x, _, *lengths = args
    dW_x, dW_h, db, dx, dh0 = changes[:5]
    need_dx = type(dx) is not ad.Zero
    linear = [ad.instantiate_zeros(d) for d in (dW_x, dW_h, db, dh0)] + need_dx * [dx]
    kept = W_x, W_h, b, x, states[0], *lengths
    return states, _derivative.bind(*kept, *linear, need_dx=need_dx, **options)


def _transpose(gradients: Sequence[Any], *args: Any, need_dx: bool, **options: Any) -> list[Any]:
    """Gradients of a loss at the changes, from those at the states."""
    count = len(args) - 4 - need_dx
    kept, changes = args[:count], args[count:]
    (dh, dsteps, dlast), lengths = gradients, kept[5:]
    if type(dsteps) is not ad.Zero:
        alone = type(dh) is type(dlast) is ad.Zero and not lengths
        all_of_it = dsteps if alone else jnp.pad(dsteps, ((1, 0), (0, 0), (0, 0)))
        dh = all_of_it if type(dh) is ad.Zero else dh + all_of_it
    if type(dh) is ad.Zero:
        dh = dlast
    else:
        if type(dlast) is not ad.Zero:
            dh = dh.at[-1].add(dlast)
        if lengths:
            dh = _at_the_last_step(dh, lengths[0])
    results = _gradients.bind(*kept, dh, need_dx=need_dx, **options)
    wanted = zip(results, map(ad.is_undefined_primal, changes), strict=True)
    return [None] * count + [d if is_wanted else None for d, is_wanted in wanted]


def _at_the_last_step(dh: Any, lengths: Any) -> Any:
    """The gradient at all states, (T + 1, B, H), as one at those up to each sequence's last step.

    What is past it is the last step's state again.
    """
    T, B, _ = dh.shape
    is_past = jnp.arange(T)[:, None, None] > lengths[:, None]
    return dh.at[lengths, jnp.arange(B)].add(jnp.sum(dh, axis=0, where=is_past))


def _batch_states(args: Sequence[Any], axes: Sequence[int | None], **options: Any) -> Any:
    """The states for all values of a mapped axis, as those of a larger batch if weights are shared.

    `axes` says for each argument where its mapped axis is, None if there is none.
    """
    if any(axis is not None for axis in axes[:WEIGHTS]):
        return _one_after_the_other(_states, args, axes, **options)
    pairs = [*zip(args, axes, strict=True)]
    size = next(a.shape[axis] for a, axis in pairs if axis is not None)
    x, *others = pairs[WEIGHTS:]
    merged = _merge(*x, size, 1), *(_merge(*pair, size, 0) for pair in others)
    results = _states.bind(*args[:WEIGHTS], *merged, **options)
    rows, H = results[-1].shape
    split = [a.reshape(*a.shape[:-2], size, rows // size, H) for a in results]
    return split, [1, 1, 0]


def _merge(a: Any, mapped: int | None, size: int, axis: int) -> Any:
    """Merge the mapped axis into that of the sequences, in front."""
    a = jnp.broadcast_to(a, (size, *a.shape)) if mapped is None else jnp.moveaxis(a, mapped, 0)
    a = jnp.moveaxis(a, 0, axis)
    return a.reshape(*a.shape[:axis], -1, *a.shape[axis + 2 :])


def _one_after_the_other(
    primitive: Any, args: Sequence[Any], axes: Sequence[int | None], **options: Any
) -> Any:
    pairs = [*zip(args, axes, strict=True)]

    def one(mapped: list[Any]) -> Any:
        own = iter(mapped)
        given = [a if axis is None else next(own) for a, axis in pairs]
        return primitive.bind(*given, **options)

    results = jax.lax.map(one, [jnp.moveaxis(a, axis, 0) for a, axis in pairs if axis is not None])
    return results, [0] * len(results)


ad.primitive_jvps[_states] = _differentiate
ad.primitive_transposes[_derivative] = _transpose
batching.primitive_batchers[_states] = _batch_states
ad.primitive_jvps[_gradients] = _reverse_mode_only
batching.primitive_batchers[_derivative] = _reverse_mode_only
batching.primitive_batchers[_gradients] = functools.partial(_one_after_the_other, _gradients)
