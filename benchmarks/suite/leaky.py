"""A layer as systems neuroscience trains it: rates that leak, noise, Dale's law.

    h[t + 1] = (1 - alpha) h[t] + alpha relu(x[t] W_x + h[t] W_h + b + noise[t])
    W_h = signs |theta|

Forward and backward with every gradient, that of theta in place of W_h's, with noise drawn anew in
each call.  "torch" is a loop over time with all of a step inside it, the weights' signs too, as in
the code to Yang and Wang 2020 ("Artificial neural networks for neuroscientists: a primer");
"torch.hoisted" and "jax" are written with care: what does not depend on the states, noise included,
is computed for all steps before the loop begins.
"""

import functools

import numpy as np

import fastbptt

from .common import arrays, need, need_fastbptt, shown, sizes, take_turns
from .rivals import PAUSE, equal_threads

SHAPES = "100 64 6 64", "200 64 85 256", "150 32 4 100", "500 20 3 128"  # T B I H
ALPHA, SCALE, EXCITATORY = 0.2, 0.1, 0.8


def weights(shape):
    """W_x, theta, b and the sign of each unit."""
    (W_x, W_h, b), _, _ = arrays(shape)
    signs = np.where(np.arange(len(b)) < EXCITATORY * len(b), 1, -1).astype(np.float32)
    # Drawn for both signs, the weights would let states grow without end if all were of one.
    return W_x, W_h / 4, b, signs


def with_fastbptt(shape, noise):
    """Gradients of W_x, theta, b and x, as a function of no arguments."""
    from fastbptt import Constraints, Leak, Noise

    W_x, theta, b, signs = weights(shape)
    _, x, dh = arrays(shape)
    leak, W_h, dtheta = Leak(ALPHA), np.empty_like(theta), np.empty_like(theta)
    (rule,) = Constraints(dale=signs).rules({"0.W_h": W_h.shape}, W_h.dtype, "numba")
    seeds = iter(range(1 << 60))

    def run():
        rule.fill(theta, W_h)
        params = fastbptt.Params(W_x, W_h, b)
        added = Noise(SCALE, next(seeds)) if noise is None else noise
        h = fastbptt.forward(params, x, activation="relu", leak=leak, noise=added)
        dparams, dx, _ = fastbptt.backward(params, x, h, dh, activation="relu", leak=leak)
        rule.backward(theta, dparams.W_h, dtheta)
        return dparams.W_x, dtheta, dparams.b, dx

    return run


def with_plain(shape, noise):
    """A plain layer of this size: no leak, no noise, no signs."""
    W_x, theta, b, _ = weights(shape)
    _, x, dh = arrays(shape)
    params = fastbptt.Params(W_x, theta, b)

    def run():
        h = fastbptt.forward(params, x, activation="relu")
        dparams, dx, _ = fastbptt.backward(params, x, h, dh, activation="relu")
        return *dparams, dx

    return run


def with_torch(shape, noise, hoisted=False):
    import torch

    _, x, dh = arrays(shape)
    W_x, theta, b, signs = map(torch.from_numpy, weights(shape))
    trained = W_x, theta, b, torch.from_numpy(x)
    trained = [a.clone().requires_grad_() for a in trained]
    signs, gradient = signs[:, None], torch.from_numpy(dh)
    given = None if noise is None else torch.from_numpy(noise)

    def run():
        W_x, theta, b, x = trained
        for a in trained:
            a.grad = None
        h, states = torch.zeros_like(gradient[0]), []
        if hoisted:
            W_h = theta.abs() * signs
            added = SCALE * torch.randn_like(gradient) if given is None else given
            for z_t in x @ W_x + b + added:
                h = (1 - ALPHA) * h + ALPHA * torch.relu(torch.addmm(z_t, h, W_h))
                states.append(h)
        else:
            for t, x_t in enumerate(x):
                W_h = theta.abs() * signs
                added = SCALE * torch.randn_like(h) if given is None else given[t]
                h = (1 - ALPHA) * h + ALPHA * torch.relu(x_t @ W_x + h @ W_h + b + added)
                states.append(h)
        torch.stack(states).backward(gradient)
        return [a.grad for a in trained]

    return run


def with_torch_hoisted(shape, noise):
    return with_torch(shape, noise, hoisted=True)


def with_jax(shape, noise):
    import jax
    import jax.numpy as jnp

    _, x, dh = arrays(shape)
    *trained, signs = map(jnp.asarray, weights(shape))
    trained, gradient = (*trained, jnp.asarray(x)), jnp.asarray(dh)
    given = None if noise is None else jnp.asarray(noise)

    def loss(trained, seed):
        W_x, theta, b, x = trained
        W_h = jnp.abs(theta) * signs[:, None]
        added = given
        if added is None:
            added = SCALE * jax.random.normal(jax.random.key(seed), gradient.shape)

        def step(h, z_t):
            h = (1 - ALPHA) * h + ALPHA * jax.nn.relu(z_t + h @ W_h)
            return h, h

        states = jax.lax.scan(step, jnp.zeros_like(gradient[0]), x @ W_x + b + added)[1]
        return jnp.vdot(states, gradient)

    gradients, seeds = jax.jit(jax.grad(loss)), iter(range(1 << 31))
    return lambda: jax.block_until_ready(gradients(trained, next(seeds)))


KINDS = {
    "fastbptt": with_fastbptt,
    "plain": with_plain,
    "torch": with_torch,
    "torch.hoisted": with_torch_hoisted,
    "jax": with_jax,
}


@functools.cache  # asv sets up before every call that it times
def step(kind, shape):
    """Forward and backward as a function of no arguments, called twice before."""
    run = KINDS[kind](shape, None)
    run()
    run()
    return run


def gradients(kind, shape):
    """Those of W_x, theta, b and x with noise that is the same for all."""
    T, B, _, H = sizes(shape)
    noise = SCALE * np.random.default_rng(1).standard_normal((T, B, H), dtype=np.float32)
    return [np.asarray(a) for a in KINDS[kind](shape, noise)()]


class Rivals:
    """Our time over that of a loop over time in torch, of a scan in JAX, and of our plain layer."""

    version, timeout = "1", 300
    param_names = "library", "T B I H"
    params = ("torch", "torch.hoisted", "jax", "plain"), SHAPES[:3:2]

    def setup(self, library, shape):
        need_fastbptt("Leak", "Noise", "Constraints")
        if library != "plain":
            need(library.partition(".")[0])

    @shown("Leaky, noisy layer: our time over theirs", "of their time")
    def track_share_of_time(self, library, shape):
        equal_threads()
        ours, theirs = take_turns((step("fastbptt", shape), step(library, shape)), 4, PAUSE)
        return ours / theirs
