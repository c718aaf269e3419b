"""The layer in JAX: held to a `lax.scan` in float64, under every transformation."""

import doctest
import functools
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import fastbptt
from fastbptt.reference import ACTIVATIONS

jax = pytest.importorskip("jax")
jnp = pytest.importorskip("jax.numpy")

import fastbptt.jax  # noqa: E402
from fastbptt.jax import rnn  # noqa: E402

T, B, I, H, N = 6, 4, 3, 5, 3
FUNCTIONS = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "identity": lambda z: z,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "rectified_tanh": lambda z: jax.nn.relu(jnp.tanh(z)),
}
RAGGED = np.array([6, 0, 3, 1])


@pytest.fixture(autouse=True)
def float64():
    """In float64, and without what takes XLA long."""
    jax.config.update("jax_disable_most_optimizations", True)
    with jax.enable_x64(True):
        yield
    jax.config.update("jax_disable_most_optimizations", False)


def scan(params, x, h0=None, lengths=None, activation="tanh", output="all"):
    """What `rnn` computes, in JAX alone."""
    W_x, W_h, b = params
    h0 = jnp.zeros((x.shape[1], len(b)), x.dtype) if h0 is None else h0

    def step(h, now):
        t, x_t = now
        following = FUNCTIONS[activation](x_t @ W_x + h @ W_h + b)
        if lengths is not None:
            following = jnp.where((t < lengths)[:, None], following, h)
        return following, following

    last, h = jax.lax.scan(step, h0, (jnp.arange(len(x)), x))
    if output == "all":
        return jnp.concatenate([h0[None], h])
    return h if output == "steps" else last


def arrays(dtype="float64", *front):
    """Weights, inputs and initial states; the latter two with axes in front."""
    rng = np.random.default_rng(0)
    params = fastbptt.init_params(I, H, seed=0, dtype=dtype)
    params.b[...] = rng.standard_normal(H)
    shapes = (*front, T, B, I), (*front, B, H)
    return params, *(rng.standard_normal(shape).astype(dtype) for shape in shapes)


def loss(states, **options):
    """A scalar of the states in which each of them counts differently."""

    def of(params, x, h0=None, lengths=None):
        h = states(params, x, h0, lengths, **options)
        return jnp.vdot(jnp.sin(h), jnp.arange(h.size, dtype=h.dtype).reshape(h.shape) / h.size)

    return of


def assert_same(transformed):
    """Check what a transformation makes of `rnn`, in a jit, against what it makes of the scan."""
    got, expected = (jax.jit(lambda f=f: transformed(f))() for f in (rnn, scan))
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for g, e in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert (g.shape, g.dtype) == (e.shape, e.dtype)
        np.testing.assert_allclose(g, e, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("lengths", [None, RAGGED], ids=["whole", "ragged"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_states_and_gradients(lengths, activation):
    given = arrays()

    def transformed(states):
        for output in "all", "steps", "last":
            of = loss(states, activation=activation, output=output)
            yield states(*given, lengths, activation, output=output)
            yield jax.grad(lambda *given, of=of: of(*given, lengths), (0, 1, 2))(*given)

    assert_same(lambda states: [*transformed(states)])


@pytest.mark.parametrize("lengths", [RAGGED, np.zeros(B, int)], ids=["ragged", "none"])
def test_states_past_the_last_step_are_that_step_s(lengths):
    """They move with it, so a loss at the padding counts: its gradient is that of the function."""
    given = arrays()
    assert_same(lambda f: jax.grad(lambda *a: f(*a, lengths)[-1].sum(), (0, 1, 2))(*given))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_the_same_bits_as_the_calls_for_numpy_arrays(dtype, backend):
    params, x, h0 = arrays(dtype)
    h = fastbptt.forward(params, x, h0, backend=backend)
    dh = np.random.default_rng(1).standard_normal((T, B, H)).astype(dtype)
    expected = fastbptt.backward(params, x, h, dh, backend=backend)
    got, pull = jax.vjp(lambda *given: rnn(*given, backend=backend), params, x, h0)
    np.testing.assert_array_equal(got, h)
    gradients = pull(jnp.concatenate([jnp.zeros((1, B, H), dtype), dh]))
    for g, e in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True):
        assert g.dtype == dtype
        np.testing.assert_array_equal(g, e)


def test_the_gradient_of_one_argument_alone():
    given = arrays()
    assert_same(lambda f: [jax.grad(loss(f), wanted)(*given) for wanted in range(3)])


@pytest.mark.parametrize("count", [(0, B), (T, 0)], ids=["no steps", "no sequences"])
def test_nothing(count):
    params, x, h0 = arrays()
    x, h0 = x[: count[0], : count[1]], h0[: count[1]]

    def transformed(f, output):
        return jax.grad(lambda *given: f(*given, output=output).sum(), (0, 1, 2))(params, x, h0)

    assert_same(lambda f: [transformed(f, output) for output in ("all", "steps", "last")])


def test_gradients_at_the_steps_are_not_copied():
    params, x, h0 = arrays()
    of = jax.grad(loss(functools.partial(rnn, output="steps")), (0, 1, 2))
    assert "pad[" not in str(jax.make_jaxpr(of)(params, x, h0))


# vmap


def of_all(states):
    """A loss of many batches, which share weights."""
    each = jax.vmap(loss(states), (None, 0, 0, 0))
    return lambda params, x, h0, lengths: each(params, x, h0, lengths).mean()


LENGTHS = np.random.default_rng(2).integers(0, T + 1, (N, B))


def test_vmap():
    params, x, h0 = arrays("float64", N)
    inner, twice = x.transpose(1, 2, 0, 3), np.stack([x, -x])  # the mapped axis behind
    assert_same(
        lambda f: [
            jax.vmap(f, (None, 0, 0, 0))(params, x, h0, LENGTHS),
            jax.vmap(loss(f), (None, 0, None, None))(params, x, h0[0], RAGGED),
            jax.vmap(f, (None, None, 0))(params, x[0], h0),
            jax.vmap(lambda x: f(params, x), 2, out_axes=1)(inner),
            jax.vmap(jax.vmap(lambda x: f(params, x)))(twice),
        ]
    )


def test_gradients_of_a_vmap():
    given = *arrays("float64", N), LENGTHS
    assert_same(lambda f: jax.grad(of_all(f), (0, 1, 2))(*given))


def test_a_vmap_with_shared_weights_is_one_larger_batch():
    given = *arrays("float64", N), LENGTHS
    text = str(jax.make_jaxpr(jax.grad(of_all(rnn)))(*given))
    assert text.count("fastbptt_states[") == text.count("fastbptt_gradients[") == 1
    assert f"f64[{T + 1},{N * B},{H}]" in text
    assert "scan[" not in text
    assert "while[" not in text


def test_gradients_of_each_sequence():
    given = *arrays("float64", N), LENGTHS
    assert_same(lambda f: jax.vmap(jax.grad(loss(f), (0, 1, 2)), (None, 0, 0, 0))(*given))


def test_vmap_over_weights():
    params, x, h0 = arrays("float64", N)
    many = jax.tree.map(lambda a: jnp.stack([a * (n + 1) / N for n in range(N)]), params)
    own_bias = fastbptt.Params(params.W_x, params.W_h, many.b)
    assert_same(
        lambda f: [
            jax.vmap(jax.grad(loss(f), (0, 1)), (0, 0, 0))(many, x, h0),
            jax.grad(lambda many: jax.vmap(loss(f), (0, None, None))(many, x[0], h0[0]).sum())(
                many
            ),
            jax.vmap(f, (fastbptt.Params(None, None, 0), 0, 0))(own_bias, x, h0),
        ]
    )


# In larger programs


@pytest.mark.parametrize("wrap", [lambda f: f, jax.checkpoint], ids=["kept", "recomputed"])
def test_in_a_scan(wrap):
    params, pieces, h0 = arrays("float64", N)

    def transformed(states):
        def of(params, h0):
            def piece(h, x):
                return states(params, x, h, output="last"), None

            return jax.lax.scan(wrap(piece), h0, pieces)[0].sum()

        return jax.grad(of, (0, 1))(params, h0[0])

    assert_same(transformed)


def test_two_layers_with_a_readout():
    (params, x, _), W_y = arrays(), np.random.default_rng(3).standard_normal((H, 2))
    upper = fastbptt.init_params(H, H, seed=1, dtype="float64")

    def transformed(states):
        def of(params, upper, W_y):
            h = states(upper, states(params, x)[1:], output="last")
            return jax.nn.log_softmax(h @ W_y)[:, 0].mean()

        return jax.value_and_grad(of, (0, 1, 2))(params, upper, W_y)

    assert_same(transformed)


def test_nothing_given_is_changed():
    given = *arrays("float32"), RAGGED
    before = jax.tree.map(np.copy, given)
    kept = jax.tree.map(jnp.asarray, given)
    jax.block_until_ready(jax.grad(loss(rnn), (0, 1, 2))(*kept))
    for now in given, kept:
        jax.tree.map(np.testing.assert_array_equal, now, before)


def in_a_process(program, **environment):
    """What a program prints, as JSON; a deadlock is an error."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={
            **os.environ,
            "PYTHONPATH": str(pathlib.Path(fastbptt.__file__).parents[1]),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


MANY = """
import json, os, sys, threading
if {one_core}:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
import jax, jax.numpy as jnp, numpy as np
import fastbptt
from fastbptt.jax import rnn

params = [fastbptt.init_params(16, 32, seed=n) for n in range(12)]
x = np.random.default_rng(0).standard_normal((20, 64, 16)).astype(np.float32)

@jax.jit
def gradient(params, x):
    def loss(params):
        h = [rnn(p, x * (n + 1))[1:] for n, p in enumerate(params)]
        return sum(jnp.sum(a @ a.transpose(0, 2, 1)) for a in h)
    return jax.grad(loss)(params)

expected = jax.tree.leaves(gradient(params, x))
same = []

def again():
    for _ in range(5):
        got = jax.tree.leaves(gradient(params, x))
        same.append(all(np.array_equal(g, e) for g, e in zip(got, expected)))

threads = [threading.Thread(target=again) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(same))
"""


@pytest.mark.parametrize("one_core", [False, True])
def test_many_in_a_jit_called_by_many_threads(one_core):
    if one_core and not hasattr(os, "sched_setaffinity"):
        pytest.skip("no affinity here")
    flags = "--xla_cpu_multi_thread_eigen=false" if one_core else ""
    assert in_a_process(MANY.format(one_core=one_core), XLA_FLAGS=flags) == [True] * 15


SHARDED = """
import doctest
import json
import jax, jax.numpy as jnp, numpy as np
import fastbptt
from fastbptt.jax import rnn

x = np.random.default_rng(0).standard_normal((6, 4, 3)).astype(np.float32)
params = fastbptt.init_params(3, 5, seed=0)
auto, of = (jax.sharding.AxisType.Auto,), jax.sharding.PartitionSpec
mesh = jax.make_mesh((2,), ("b",), axis_types=auto)
found = []
for check in False, True:
    def gradient(shard):
        f = lambda params, x: rnn(params, x)
        if shard:
            f = jax.shard_map(f, mesh=mesh, in_specs=(of(), of(None, "b")),
                              out_specs=of(None, "b"), check_vma=check)
        return jax.jit(jax.grad(lambda params: jnp.sin(f(params, x)).sum()))(params)
    pairs = zip(*(jax.tree.leaves(gradient(shard)) for shard in (False, True)))
    found.append(all(np.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in pairs))
print(json.dumps(found))
"""


def test_shards_of_a_batch():
    two = "--xla_force_host_platform_device_count=2"
    assert in_a_process(SHARDED, XLA_FLAGS=two) == [True, True]


# What does not go


@pytest.mark.parametrize("transform", [
    lambda f, x: jax.jvp(f, (x,), (x,)),
    lambda f, x: jax.jit(lambda x: jax.jvp(f, (x,), (x,)))(x),
    lambda f, x: jax.jacfwd(f)(x),
    lambda f, x: jax.hessian(f)(x),
    lambda f, x: jax.grad(lambda x: jnp.sum(jax.grad(lambda x: jnp.sum(f(x) ** 2))(x) ** 2))(x),
], ids=["jvp", "jvp in jit", "jacfwd", "hessian", "grad of grad"])  # fmt: skip
def test_other_derivatives_are_refused(transform):
    params, x, _ = arrays()
    with pytest.raises(NotImplementedError, match=r"fastbptt\.jax\.rnn has first derivatives"):
        transform(lambda x: rnn(params, x, output="last").sum(), x)


def test_other_platforms():
    params, x, _ = arrays()
    traced = jax.jit(lambda params, x: rnn(params, x)).trace(params, x)
    with pytest.raises(NotImplementedError, match=r"rnn is compiled for cuda, expected cpu"):
        traced.lower(lowering_platforms=("cuda",))


def test_wrong_arguments():
    params, x, h0 = arrays()
    half = jax.tree.map(lambda a: jnp.asarray(a, jnp.bfloat16), params)
    for given, options, error, message in (
        ((None, x), {}, TypeError, r"params is a NoneType, expected Params\(W_x, W_h, b\)"),
        ((params[:2], x), {}, TypeError, "params is a tuple, expected Params"),
        ((params, x[0]), {}, ValueError, r"x has shape \(4, 3\), expected \(T, B, I\)"),
        ((params, x.astype("f")), {}, TypeError, "W_x has dtype float64, expected float32"),
        ((half, x), {}, TypeError, "W_x has dtype bfloat16, expected float64"),
        ((params, x, h0[:1]), {}, ValueError, r"h0 has shape \(1, 5\), expected \(4, 5\)"),
        ((params, x, h0, RAGGED[:2]), {}, ValueError, r"lengths has shape \(2,\)"),
        ((params, x, h0, RAGGED / 2), {}, TypeError, "lengths has dtype float64"),
        ((params, x, h0, RAGGED + 1), {}, ValueError, r"lengths\[0\] is 7, expected 0 to 6"),
        ((params, x), {"activation": "gelu"}, ValueError, "activation is 'gelu'"),
        ((params, x), {"output": "first"}, ValueError, "output is 'first'"),
        ((params, x), {"backend": "torch"}, ValueError, "backend is 'torch'"),
    ):
        with pytest.raises(error, match=message):
            rnn(*given, **options)
        with pytest.raises(error, match=message):
            jax.jit(lambda given=given, options=options: rnn(*given, **options))()


def test_wrong_lengths_that_are_computed():
    params, x, h0 = arrays()
    run = jax.jit(lambda lengths: rnn(params, x, h0, lengths))
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"lengths\[2\] is 8, expected 0 to 6"):
        jax.block_until_ready(run(RAGGED + 5 * (np.arange(B) == 2)))
    assert run(RAGGED).shape == (T + 1, B, H)


def test_examples():
    with jax.enable_x64(False):
        got = doctest.testmod(fastbptt.jax)
    assert got.attempted
    assert not got.failed
