"""What else one could use for a forward and a backward with every gradient.

NumPy is used with care: one product for all inputs, one for each weight gradient.
"""

import importlib.metadata
import importlib.util
import os

import numpy as np

import fastbptt

from . import onednn
from .common import arrays, need, shown, take_turns

# An idle thread of OpenBLAS spins for about 0.1 s after a product, and whoever comes next gets less
# of the machine: within one process each library waits for it to end.
PAUSE = 0.2


def with_fastbptt(W_x, W_h, b, x, dh):
    params = fastbptt.Params(W_x, W_h, b)

    def run():
        dparams, dx, _ = fastbptt.backward(params, x, fastbptt.forward(params, x), dh)
        return *dparams, dx

    return run


def with_numpy(W_x, W_h, b, x, dh):
    T, B, I = x.shape
    H = len(b)

    def run():
        h = np.zeros((T + 1, B, H), x.dtype)
        z = (x.reshape(-1, I) @ W_x).reshape(T, B, H) + b
        for t in range(T):
            h[t + 1] = np.tanh(z[t] + h[t] @ W_h)
        dz, g, W_hT = np.empty_like(z), np.zeros((B, H), x.dtype), np.ascontiguousarray(W_h.T)
        for t in reversed(range(T)):
            dz[t] = (dh[t] + g) * (1 - h[t + 1] ** 2)
            g = dz[t] @ W_hT
        flat = dz.reshape(-1, H)
        dW_x, dW_h = x.reshape(-1, I).T @ flat, h[:-1].reshape(-1, H).T @ flat
        return dW_x, dW_h, flat.sum(0), (flat @ W_x.T).reshape(T, B, I)

    return run


def with_torch(W_x, W_h, b, x, dh):
    import torch

    rnn = torch.nn.RNN(x.shape[2], len(b)).to(torch.from_numpy(x).dtype)
    with torch.no_grad():  # torch has two biases, and multiplies from the left
        weights = rnn.weight_ih_l0, rnn.weight_hh_l0, rnn.bias_ih_l0, rnn.bias_hh_l0
        for weight, value in zip(weights, (W_x.T, W_h.T, b, 0 * b), strict=True):
            weight.copy_(torch.from_numpy(value))
    inputs, gradient = torch.from_numpy(x).requires_grad_(), torch.from_numpy(dh)

    def run():
        rnn.zero_grad(set_to_none=True)
        inputs.grad = None
        rnn(inputs)[0].backward(gradient)
        W_x, W_h, b, _ = weights
        return W_x.grad.T, W_h.grad.T, b.grad, inputs.grad

    return run


def with_jax(W_x, W_h, b, x, dh):
    import jax
    import jax.numpy as jnp

    def outputs(params, inputs):
        W_x, W_h, b = params

        def step(h, z):
            h = jnp.tanh(z + h @ W_h)
            return h, h

        h0 = jnp.zeros((inputs.shape[1], len(b)), inputs.dtype)
        return jax.lax.scan(step, h0, inputs @ W_x + b)[1]

    return _step_in_jax(outputs, (W_x, W_h, b), x, dh)


def with_fastbptt_in_jax(W_x, W_h, b, x, dh):
    from fastbptt.jax import rnn

    return _step_in_jax(
        lambda params, inputs: rnn(params, inputs, output="steps"), (W_x, W_h, b), x, dh
    )


def _step_in_jax(outputs, params, x, dh):
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", x.dtype == np.float64)
    params, inputs, gradient = tuple(map(jnp.asarray, params)), jnp.asarray(x), jnp.asarray(dh)

    def loss(params, inputs, gradient):
        return jnp.vdot(outputs(params, inputs), gradient)

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))

    def run():
        dparams, dx = jax.block_until_ready(gradients(params, inputs, gradient))
        return *dparams, dx

    return run


LIBRARIES = {
    "fastbptt": with_fastbptt,
    "numpy": with_numpy,
    "torch": with_torch,
    "jax": with_jax,
    "onednn": onednn.with_onednn,
    "fastbptt.jax": with_fastbptt_in_jax,
}


def version(library):
    """That of an installed library, by its name above; None if it is not installed."""
    if library == "fastbptt":  # perhaps a checkout
        return fastbptt.__version__
    if library == "onednn":
        return onednn.version()
    return importlib.metadata.version(library) if importlib.util.find_spec(library) else None


def step(library, shape, dtype="float32"):
    """A library's forward and backward as a function that returns dW_x, dW_h, db, dx."""
    params, x, dh = arrays(shape, dtype)
    run = LIBRARIES[library](*params, x, dh)
    run()  # compiles
    run()
    return run


def equal_threads():
    """Give each library as many threads as Numba is set to, before any of them starts one."""
    import numba

    if hasattr(os, "sched_setaffinity"):  # XLA and OpenBLAS count the cores they may run on
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: numba.get_num_threads()])


class Rivals:
    """Our time over theirs, so that less is better.

    They take turns in one process: a machine that is slow for a while is slow for both.
    """

    version, timeout = "1", 300
    param_names = "library", "T B I H"
    params = ("numpy", "torch", "jax", "onednn"), ("10 32 3 16", "100 64 64 128")

    def setup(self, library, shape):
        if version(library) is None:
            raise NotImplementedError(f"{library} is not installed")

    @shown("Layer: our time over theirs", "of their time")
    def track_share_of_time(self, library, shape):
        equal_threads()
        ours, theirs = take_turns((step("fastbptt", shape), step(library, shape)), 4, PAUSE)
        return ours / theirs


class InJax:
    """The time of `fastbptt.jax.rnn` over that of a `lax.scan`, both within `jit`."""

    version, timeout = "1", 300
    param_names = ("T B I H",)
    params = (("50 32 32 64", "100 64 64 128"),)

    def setup(self, shape):
        need("jax", "fastbptt.jax")

    @shown("Layer in JAX: our time over lax.scan's", "of lax.scan's time")
    def track_share_of_time(self, shape):
        equal_threads()
        ours, theirs = take_turns((step("fastbptt.jax", shape), step("jax", shape)), 4, PAUSE)
        return ours / theirs
