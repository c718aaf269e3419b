"""Times of one forward and one backward, every gradient included, beside what else one could use.

    python benchmarks/rivals.py [--dtype float64] [--rounds 5] [fastbptt numpy torch jax]

Prints the README's table.  Each library runs in processes of its own, in turn, since idle threads
of one (OpenBLAS's spin for 0.1 s after a product) would slow down the next; of several rounds the
smallest time counts.  NumPy is used with care: one product for all inputs, one for each weight
gradient.
"""

import argparse
import importlib.util
import subprocess
import sys
import time

import numpy as np

SHAPES = [  # T, B, I, H
    (3, 3, 1, 1),
    (10, 32, 3, 16),
    (50, 32, 32, 64),
    (64, 20, 1, 50),
    (100, 64, 64, 128),
    (100, 64, 128, 256),
    (100, 128, 256, 512),
    (50, 128, 512, 1024),
    (50, 64, 500, 500),
    (784, 128, 1, 128),
    (200, 256, 16, 32),
    (1000, 1, 8, 64),
]


def draw(T, B, I, H, dtype):
    rng = np.random.default_rng(0)
    W_x = rng.standard_normal((I, H)) / np.sqrt(I)
    W_h = rng.standard_normal((H, H)) / np.sqrt(H)
    arrays = W_x, W_h, np.zeros(H), rng.standard_normal((T, B, I)), rng.standard_normal((T, B, H))
    return [a.astype(dtype) for a in arrays]


def with_fastbptt(W_x, W_h, b, x, dh):
    import fastbptt

    params = fastbptt.Params(W_x, W_h, b)
    return lambda: fastbptt.backward(params, x, fastbptt.forward(params, x), dh)


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
        return (
            x.reshape(-1, I).T @ flat,
            h[:-1].reshape(-1, H).T @ flat,
            flat.sum(0),
            flat @ W_x.T,
            g,
        )

    return run


def with_torch(W_x, W_h, b, x, dh):
    import torch

    rnn = torch.nn.RNN(x.shape[2], len(b)).to(torch.from_numpy(x).dtype)
    inputs, gradient = torch.from_numpy(x).requires_grad_(), torch.from_numpy(dh)

    def run():
        rnn.zero_grad(set_to_none=True)
        inputs.grad = None
        rnn(inputs)[0].backward(gradient)

    return run


def with_jax(W_x, W_h, b, x, dh):
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", x.dtype == np.float64)
    params, inputs, gradient = (
        tuple(map(jnp.asarray, (W_x, W_h, b))),
        jnp.asarray(x),
        jnp.asarray(dh),
    )

    def loss(params, inputs):
        def step(h, z):
            h = jnp.tanh(z + h @ params[1])
            return h, h

        h0 = jnp.zeros((inputs.shape[1], len(b)), inputs.dtype)
        h = jax.lax.scan(step, h0, inputs @ params[0] + params[2])[1]
        return jnp.vdot(h, gradient)

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))
    return lambda: jax.block_until_ready(gradients(params, inputs))


LIBRARIES = {"fastbptt": with_fastbptt, "numpy": with_numpy, "torch": with_torch, "jax": with_jax}


def seconds(run):
    """Of one run, over runs that take 0.05 s and more together, after two to warm up."""
    run()
    run()
    runs, start = 0, time.perf_counter()
    while time.perf_counter() - start < 0.05:
        run()
        runs += 1
    return (time.perf_counter() - start) / runs


def main():
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    cli.add_argument("--rounds", type=int, default=5)
    cli.add_argument("--alone", action="store_true", help="time one library in this process")
    cli.add_argument("libraries", nargs="*", default=list(LIBRARIES), metavar="library")
    args = cli.parse_args()
    names = [name for name in args.libraries if importlib.util.find_spec(name)]
    if args.alone:
        for shape in SHAPES:
            print(seconds(LIBRARIES[names[0]](*draw(*shape, args.dtype))), flush=True)
        return
    best = {name: [float("inf")] * len(SHAPES) for name in names}
    for _ in range(args.rounds):
        for name in names:
            command = [sys.executable, __file__, "--alone", "--dtype", args.dtype, name]
            lines = subprocess.run(
                command, check=True, capture_output=True, text=True
            ).stdout.split()
            best[name] = [min(a, float(b)) for a, b in zip(best[name], lines, strict=True)]
    print("| T B I H | " + " | ".join(f"{name}, us" for name in names) + " | " +
          " | ".join(f"{name} / {names[0]}" for name in names[1:]) + " |")  # fmt: skip
    print("| --- |" + " ---: |" * (2 * len(names) - 1))
    for i, shape in enumerate(SHAPES):
        times = [best[name][i] for name in names]
        cells = [f"{t * 1e6:,.0f}" for t in times] + [f"{t / times[0]:.1f}" for t in times[1:]]
        print(f"| {' '.join(map(str, shape))} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
