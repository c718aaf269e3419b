"""fastbptt.torch beside torch.nn.RNN: same interface, same numbers, same errors."""

import copy
import doctest
import io
import itertools
import pickle
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.utils.rnn import (  # noqa: E402
    PackedSequence,
    pack_padded_sequence,
    pad_packed_sequence,
)

import fastbptt  # noqa: E402
import fastbptt.torch  # noqa: E402

# Torch's own doing, where it loads parts of itself
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit"),
    pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning"),  # opcheck looks at it
]

T, B, I, H = 7, 4, 3, 5
OPTIONS = {
    "plain": {},
    "relu": {"nonlinearity": "relu"},
    "no bias": {"bias": False},
    "batch first": {"batch_first": True},
    "both directions": {"bidirectional": True},
    "both, no bias": {"bidirectional": True, "bias": False},
    "stacked": {"num_layers": 3, "dropout": 0.3},
    "all at once": {
        "num_layers": 2, "dropout": 0.3, "bidirectional": True, "batch_first": True,
        "nonlinearity": "relu",
    },
}  # fmt: skip
KINDS = "padded", "unbatched", "sorted", "unsorted"
LENGTHS = {"sorted": [7, 5, 5, 1], "unsorted": [2, 7, 1, 4]}


def both(dtype=torch.float64, **options) -> Any:
    """Torch's module and ours, made alike from one seed."""
    found = []
    for kind in (nn.RNN, fastbptt.torch.RNN):
        torch.manual_seed(1)
        found.append(kind(I, H, dtype=dtype, **options))
    return found


def inputs(module, kind="padded", dtype=torch.float64) -> Any:
    """Leaves x and hx, and what the module is called with."""
    rng = torch.Generator().manual_seed(2)
    shape = (T, I) if kind == "unbatched" else (B, T, I) if module.batch_first else (T, B, I)
    x = torch.randn(shape, dtype=dtype, generator=rng, requires_grad=True)
    states = (2 if module.bidirectional else 1) * module.num_layers
    shape = (states, H) if kind == "unbatched" else (states, B, H)
    hx = torch.randn(shape, dtype=dtype, generator=rng, requires_grad=True)
    given = x
    if kind in LENGTHS:
        given = pack_padded_sequence(
            x, torch.tensor(LENGTHS[kind]), module.batch_first, kind == "sorted"
        )
    return x, hx, given


def data(output):
    return output.data if isinstance(output, PackedSequence) else output


def results(module, kind, dtype=torch.float64, with_hx=True, of="both"):
    """Outputs, last states and every gradient of a loss of some or both of them."""
    x, hx, given = inputs(module, kind, dtype)
    torch.manual_seed(3)  # for dropout
    output, h_n = module(given, hx) if with_hx else module(given)
    weights = torch.linspace(-1, 1, data(output).numel(), dtype=dtype)
    loss = torch.zeros((), dtype=dtype)
    if of in ("both", "output"):
        loss = loss + (data(output).flatten() * weights).sum()
    if of in ("both", "h_n"):
        loss = loss + (h_n**2).sum()
    loss.backward()
    of_hx = [hx.grad] if with_hx else []
    return output, h_n, [x.grad, *of_hx, *(w.grad for w in module.parameters())]


def assert_same(got, expected, tolerance):
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OPTIONS)
def test_results_are_those_of_torch(name, kind):
    theirs, ours = both(**OPTIONS[name])
    expected, got = results(theirs, kind), results(ours, kind)
    assert type(got[0]) is type(expected[0])
    if kind in LENGTHS:
        for field in ("batch_sizes", "sorted_indices", "unsorted_indices"):
            a, b = getattr(got[0], field), getattr(expected[0], field)
            assert (a is None and b is None) or torch.equal(a, b)
    assert_same(data(got[0]), data(expected[0]), 1e-12)
    assert_same(got[1], expected[1], 1e-12)
    for a, b in zip(got[2], expected[2], strict=True):
        assert_same(a, b, 1e-12)


@pytest.mark.parametrize("of", ["output", "h_n"])
@pytest.mark.parametrize("kind", ["padded", "unsorted"])
@pytest.mark.parametrize("name", ["plain", "both directions", "stacked"])
def test_a_loss_of_one_result(name, kind, of):
    theirs, ours = both(**OPTIONS[name])
    expected = results(theirs, kind, with_hx=False, of=of)
    got = results(ours, kind, with_hx=False, of=of)
    for a, b in zip(got[2], expected[2], strict=True):
        assert_same(a, b, 1e-12)


def test_float32():
    theirs, ours = both(torch.float32, num_layers=2)
    expected, got = results(theirs, "padded", torch.float32), results(ours, "padded", torch.float32)
    for a, b in zip([*got[:2], *got[2]], [*expected[:2], *expected[2]], strict=True):
        assert_same(a, b, 1e-5)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_module_like_torchs(name):
    theirs, ours = both(**OPTIONS[name])
    assert isinstance(ours, nn.RNN)
    assert repr(ours) == repr(theirs)
    for attribute in theirs.__constants__:
        assert getattr(ours, attribute) == getattr(theirs, attribute)
    assert ours.nonlinearity == theirs.nonlinearity
    state, expected = ours.state_dict(), theirs.state_dict()
    assert list(state) == list(expected)
    for key, value in expected.items():
        assert torch.equal(state[key], value)
    ours.reset_parameters()
    assert not torch.equal(ours.weight_hh_l0, theirs.weight_hh_l0)
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(ours.weight_hh_l0, theirs.weight_hh_l0)
    ours.load_state_dict(expected)
    assert torch.equal(ours.weight_hh_l0, expected["weight_hh_l0"])


def test_positional_arguments_and_wrong_ones():
    ours = fastbptt.torch.RNN(I, H, 2, "relu", True, True, 0.5, True)
    theirs = nn.RNN(I, H, 2, "relu", True, True, 0.5, True)
    assert repr(ours) == repr(theirs)
    with pytest.raises(ValueError, match="Unknown nonlinearity 'sin'"):
        fastbptt.torch.RNN(I, H, nonlinearity="sin")
    with pytest.raises(ValueError, match="proj_size"):
        fastbptt.torch.RNN(I, H, proj_size=2)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_gradients_by_finite_differences(bidirectional, packed):
    _, ours = both(bidirectional=bidirectional)
    x, hx, _ = inputs(ours, "unsorted" if packed else "padded")
    names, weights = zip(*ours.named_parameters(), strict=True)

    def call(x, hx, *weights):
        given = x
        if packed:
            given = pack_padded_sequence(x, torch.tensor(LENGTHS["unsorted"]), enforce_sorted=False)
        output, h_n = torch.func.functional_call(
            ours, dict(zip(names, weights, strict=True)), (given, hx)
        )
        return data(output), h_n

    assert torch.autograd.gradcheck(call, (x, hx, *weights))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m(torch.zeros(T, B, I).double()), ValueError, "does not match weight dtype"),
        (lambda m: m(torch.zeros(T, B, I + 1)), RuntimeError, "Expected 3, got 4"),
        (lambda m: m(torch.zeros(0, B, I)), RuntimeError, "length to be larger than 0"),
        (lambda m: m(torch.zeros(T)), ValueError, "Expected input to be 2D or 3D, got 1D"),
        (lambda m: m(torch.zeros(T, B, I), torch.zeros(B, H)), RuntimeError, "hx should also"),
        (lambda m: m(torch.zeros(T, I), torch.zeros(1, B, H)), RuntimeError, "hx should also"),
        (lambda m: m(torch.zeros(T, B, I), torch.zeros(2, B, H)), RuntimeError, "hidden size"),
        (lambda m: m(torch.zeros(T, B, I), torch.zeros(1, B, H).double()), RuntimeError, "dtype"),
        (lambda m: m(torch.zeros(T, B, I, device="meta")), RuntimeError, "same device"),
        (lambda m: m.bfloat16()(torch.zeros(T, B, I).bfloat16()), NotImplementedError, "bfloat16"),
        (lambda m: m.half()(torch.zeros(T, B, I).half()), NotImplementedError, "float16"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call(fastbptt.torch.RNN(I, H))


def test_weights_of_several_dtypes():
    ours = fastbptt.torch.RNN(I, H)
    ours.weight_hh_l0 = nn.Parameter(ours.weight_hh_l0.double())
    with pytest.raises(RuntimeError, match="not the same dtype"):
        ours(torch.zeros(T, B, I))


def test_autocast():
    ours = fastbptt.torch.RNN(I, H)
    with torch.autocast("cpu"), pytest.raises(RuntimeError, match="autocast"):
        ours(torch.zeros(T, B, I))


def test_another_device_has_shapes_alone():
    output, h_n = fastbptt.torch.RNN(I, H, 2, device="meta")(torch.zeros(T, B, I, device="meta"))
    assert (output.shape, h_n.shape) == ((T, B, H), (2, B, H))
    assert output.device.type == "meta"


def test_no_sequences():
    output, h_n = fastbptt.torch.RNN(I, H)(torch.zeros(T, 0, I))
    assert (output.shape, h_n.shape) == ((T, 0, H), (1, 0, H))


def test_second_derivatives_are_refused():
    """Also those of a term beside others that have one."""
    _, ours = both()
    x, _, given = inputs(ours)
    (dx,) = torch.autograd.grad(ours(given)[0].sum(), x, create_graph=True)
    loss = (dx**2).sum() + (x**2).sum()
    with pytest.raises(RuntimeError, match=r"fastbptt\.rnn_backward"):
        loss.backward()


def test_forward_mode_and_transforms_are_refused():
    _, ours = both()
    x, *_ = inputs(ours)
    with pytest.raises(NotImplementedError, match="jvp"), torch.autograd.forward_ad.dual_level():
        ours(torch.autograd.forward_ad.make_dual(x.detach(), torch.ones_like(x)))
    with pytest.raises(RuntimeError, match="functorch"):
        torch.func.grad(lambda x: ours(x)[0].sum())(x.detach())


def test_outputs_written_to_before_the_backward_pass():
    _, ours = both()
    output, _ = ours(inputs(ours)[2])
    output.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_last_states_alone_cost_no_gradient_at_the_others(monkeypatch):
    found, original = [], fastbptt.torch.backward

    def spy(params, x, h, dh, **options):
        found.append((dh.shape, options["need_dx"]))
        return original(params, x, h, dh, **options)

    monkeypatch.setattr(fastbptt.torch, "backward", spy)
    _, ours = both(batch_first=True)
    x = torch.zeros(B, T, I, dtype=torch.float64)
    ours(x)[1].sum().backward()
    ours(x.requires_grad_())[0].sum().backward()
    assert found == [((B, H), False), ((T, B, H), True)]


def test_nothing_is_copied_where_strides_allow(monkeypatch):
    found, original = [], fastbptt.torch.forward

    def spy(params, x, *args, **options):
        found.append((params, x, options["out"]))
        return original(params, x, *args, **options)

    monkeypatch.setattr(fastbptt.torch, "forward", spy)
    _, ours = both(batch_first=True)
    x, _, given = inputs(ours)
    output, _ = ours(given)
    [(params, its_x, states)] = found
    assert np.shares_memory(its_x, x.detach().numpy())
    assert np.shares_memory(params.W_x, ours.weight_ih_l0.detach().numpy())
    assert np.shares_memory(params.W_h, ours.weight_hh_l0.detach().numpy())
    assert np.shares_memory(states, output.detach().numpy())


def test_no_graph_and_no_saved_states_without_gradients():
    _, ours = both()
    _, _, given = inputs(ours)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        with torch.no_grad():
            output, h_n = ours(given)
        assert (output.grad_fn, h_n.grad_fn, saved) == (None, None, [])
        assert ours(given)[0].grad_fn is not None
        assert saved
    with torch.inference_mode():
        assert ours(given.detach())[0].is_inference()


def test_gradients_of_the_two_biases_have_memory_of_their_own():
    _, ours = both()
    ours(inputs(ours)[2])[0].sum().backward()
    before = ours.bias_hh_l0.grad.clone()
    ours.bias_ih_l0.grad.zero_()
    assert torch.equal(ours.bias_hh_l0.grad, before)
    for weight in ours.parameters():
        assert weight.grad.stride() == weight.stride()


def test_copies_and_files():
    _, ours = both(num_layers=2)
    given = inputs(ours)[2]
    expected, _ = ours(given)
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    for other in (
        copy.deepcopy(ours),
        pickle.loads(pickle.dumps(ours)),
        torch.load(file, weights_only=False),
    ):
        assert type(other) is fastbptt.torch.RNN
        assert torch.equal(other(given)[0], expected)  # type: ignore
        weight: Any = other.weight_hh_l0
        assert weight.data_ptr() != ours.weight_hh_l0.data_ptr()
    file = io.BytesIO()
    torch.save(ours.state_dict(), file)
    file.seek(0)
    theirs, _ = both(num_layers=2)
    theirs.load_state_dict(torch.load(file))
    assert_same(theirs(given)[0], expected, 1e-12)


def test_what_torch_does_with_modules():
    """Parametrizations, checkpoints, conversions and functional calls reach the weights used."""
    theirs, ours = both()
    given = inputs(ours)[2].detach()
    for module in (theirs, ours):
        nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")
        module.parametrizations.weight_hh_l0.original0.data.mul_(2)
    assert_same(ours(given)[0], theirs(given)[0], 1e-12)

    theirs, ours = both()
    ours(given)[0].sum().backward()
    expected = ours.weight_hh_l0.grad.clone()
    ours.zero_grad()
    checkpointed = torch.utils.checkpoint.checkpoint
    checkpointed(lambda x: ours(x)[0], given, use_reentrant=False).sum().backward()
    assert torch.equal(ours.weight_hh_l0.grad, expected)

    single = ours.float()(given.float())[0]
    assert single.dtype == torch.float32
    assert_same(single.double(), theirs(given)[0], 1e-5)

    zeros = {name: torch.zeros_like(w) for name, w in ours.named_parameters()}
    assert not torch.func.functional_call(ours, zeros, (given.float(),))[0].any()


@pytest.mark.world
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_operator(bidirectional, packed):
    _, ours = both(bidirectional=bidirectional)
    x, h0, given = inputs(ours, "sorted" if packed else "padded")
    batch_sizes = given.batch_sizes if packed else None
    x = given.data.detach().requires_grad_()
    args = x, h0, list(ours.parameters()), batch_sizes, "tanh", None, "rate", None
    torch.library.opcheck(torch.ops.fastbptt.rnn.default, args)
    outputs, last, h = (a.detach() for a in torch.ops.fastbptt.rnn(*args))
    expected = ours(PackedSequence(x, batch_sizes) if packed else x, h0)
    assert torch.equal(outputs, data(expected[0]))
    assert torch.equal(last, expected[1])
    weights = [w.detach() for w in ours.parameters()]
    args = outputs, last, x.detach(), h, weights, batch_sizes, "tanh", None, "rate", True
    torch.library.opcheck(torch.ops.fastbptt.rnn_backward.default, args)


def test_the_operator_has_no_other_activation():
    x, weights = torch.zeros(1, 1, 1), [torch.zeros(1, 1)] * 2
    with pytest.raises(ValueError, match="activation is 'sin', expected one of 'tanh', 'relu'"):
        torch.ops.fastbptt.rnn(x, None, weights, None, "sin", None, "rate", None)


def test_eager_and_operator_have_the_same_gradients(monkeypatch):
    _, ours = both(num_layers=2, bidirectional=True)
    for kind in ("padded", "unsorted"):
        eager = results(ours, kind)
        ours.zero_grad()
        with monkeypatch.context() as patch:
            patch.setattr(fastbptt.torch, "_is_plain", lambda x: False)
            got = results(ours, kind)
        ours.zero_grad()
        for a, b in zip(got[2], eager[2], strict=True):
            assert torch.equal(a, b)


# Leaks


def step_by_step(module, x, hx, lengths, noise):
    """A leaky layer in one direction from its formulas, sequence by sequence."""
    f = {"tanh": torch.tanh, "softplus": nn.functional.softplus, "relu": torch.relu}
    f, alpha = f[module.nonlinearity], module.alpha
    W_ih, W_hh, b_ih, b_hh = module.parameters()
    outputs, last = [], []
    for b, length in enumerate(lengths):
        state = hx[0, b]
        its_outputs = []
        for t in range(length):
            h = f(state) if module.leak.of == "potential" else state
            z = W_ih @ x[t, b] + W_hh @ h + b_ih + b_hh + (0 if noise is None else noise[0, t, b])
            new = z if module.leak.of == "potential" else f(z)
            state = (1 - alpha) * state + alpha * new
            its_outputs.append(f(state) if module.leak.of == "potential" else state)
        outputs.append(torch.stack(its_outputs))
        last.append(state)
    return outputs, torch.stack(last)[None]


def leaky(of="rate", **options):
    torch.manual_seed(1)
    leak = fastbptt.Leak(np.linspace(0.1, 0.9, H), of)
    return fastbptt.torch.LeakyRNN(I, H, leak, dtype=torch.float64, **options)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("noise", [0.0, 0.5])
@pytest.mark.parametrize("nonlinearity", ["tanh", "softplus"])
@pytest.mark.parametrize("of", ["rate", "potential"])
def test_leaks(of, nonlinearity, noise, packed):
    module = leaky(of, nonlinearity=nonlinearity, noise=noise)
    x, hx, given = inputs(module, "sorted" if packed else "padded")
    lengths = LENGTHS["sorted"] if packed else [T] * B
    torch.manual_seed(3)
    drawn = torch.randn(1, T, B, H, dtype=torch.float64) * noise if noise else None
    outputs, last = step_by_step(module, x, hx, lengths, drawn)
    weights = torch.linspace(-1, 1, T * B * H, dtype=torch.float64).reshape(B, T, H)

    def gradients(outputs, last):
        loss = (last**2).sum() + sum(
            (h * w[: len(h)]).sum() for h, w in zip(outputs, weights, strict=True)
        )
        return torch.autograd.grad(loss, (x, hx, *module.parameters()))

    expected = gradients(outputs, last)
    torch.manual_seed(3)
    got, got_last = module(given, hx)
    if packed:
        got, _ = pad_packed_sequence(got)
    got = [got[:length, b] for b, length in enumerate(lengths)]
    for a, b in zip([*got, got_last], [*outputs, last], strict=True):
        assert_same(a, b, 1e-12)
    for a, b in zip(gradients(got, got_last), expected, strict=True):
        assert_same(a, b, 1e-12)


@pytest.mark.parametrize("of", ["rate", "potential"])
def test_leaks_by_finite_differences(of):
    module = leaky(of, num_layers=2, bidirectional=True)
    x, hx, _ = inputs(module)
    names, weights = zip(*module.named_parameters(), strict=True)

    def call(x, hx, *weights):
        values = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(module, values, (x, hx))

    assert torch.autograd.gradcheck(call, (x, hx, *weights))
    assert torch.autograd.gradcheck(lambda *args: call(*args)[1], (x, hx, *weights))


@pytest.mark.parametrize("of", ["rate", "potential"])
def test_pieces_of_a_leaky_sequence(of):
    module = leaky(of, num_layers=2)
    x, hx, _ = inputs(module)
    whole, h_n = module(x, hx)
    first, state = module(x[:3], hx)
    second, state = module(x[3:], state)
    assert torch.equal(torch.cat([first, second]), whole)
    assert torch.equal(state, h_n)


def test_a_leaky_module():
    module, theirs = leaky(noise=0.5), nn.RNN(I, H, dtype=torch.float64)
    assert list(module.state_dict()) == list(theirs.state_dict())
    x = inputs(module)[2]
    other = pickle.loads(pickle.dumps(module)).eval()
    module.eval()
    assert torch.equal(other(x)[0], module(x)[0])
    module.train()
    assert not torch.equal(module(x)[0], module(x)[0])
    assert module.float().alpha.dtype == torch.float32
    plain = fastbptt.torch.LeakyRNN(I, H, fastbptt.Leak(1), dtype=torch.float64)
    plain.load_state_dict(theirs.state_dict())
    assert_same(plain(x)[0], theirs(x)[0], 1e-12)
    with pytest.raises(TypeError, match=r"leak is 0\.2, expected a fastbptt\.Leak"):
        fastbptt.torch.LeakyRNN(I, H, 0.2)
    with pytest.raises(ValueError, match=r"alpha has shape \(3,\), expected \(5,\)"):
        fastbptt.torch.LeakyRNN(I, H, fastbptt.Leak([0.1, 0.2, 0.3]))
    with pytest.raises(ValueError, match="nonlinearity is 'sin'"):
        fastbptt.torch.LeakyRNN(I, H, fastbptt.Leak(0.2), nonlinearity="sin")


@pytest.mark.world
@pytest.mark.parametrize("of", ["rate", "potential"])
def test_the_operator_leaks(of):
    module = leaky(of)
    x, h0, _ = inputs(module)
    noise = torch.randn(1, T, B, H, dtype=torch.float64)
    args = x, h0, list(module.parameters()), None, "tanh", module.alpha, of, noise
    torch.library.opcheck(torch.ops.fastbptt.rnn.default, args)


# Threads


def test_threads_are_torchs(monkeypatch):
    """The same bits on one thread and on several; no more threads than torch is set to."""
    import numba

    from fastbptt.kernels import _threads

    found, original = [], _threads.launch

    def launch(worker, task, threads):
        found.append(threads)
        return original(worker, task, threads)

    monkeypatch.setattr(_threads, "launch", launch)
    monkeypatch.setattr(_threads.Experience, "advises_one_thread", lambda self: False)
    ours = fastbptt.torch.RNN(32, 64)
    x, before = torch.randn(50, 32, 32), torch.get_num_threads()
    try:
        outputs = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            outputs.append(ours(x)[0])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found == [2] * (numba.get_num_threads() >= 2)
    assert torch.equal(*outputs)


# Models


def test_accelerate_exchanges_in_place():
    class Odd(nn.RNN):
        pass

    model = nn.ModuleDict(
        {
            "rnn": nn.RNN(I, H, batch_first=True),
            "deep": nn.Sequential(nn.RNN(H, H, 2), nn.Linear(H, 1)),
            "odd": Odd(I, H),
            "gru": nn.GRU(I, H),
            "cell": nn.RNNCell(I, H),
            "bf16": nn.RNN(I, H, dtype=torch.bfloat16),
            "patched": nn.RNN(I, H),
            "ours": fastbptt.torch.RNN(I, H),
        }
    )
    model["patched"].forward = lambda x: x
    weights, x = list(model.parameters()), torch.randn(B, T, I)
    expected, _ = model["rnn"](x)
    seen = []
    model["rnn"].register_forward_hook(lambda *args: seen.append(1))
    done = fastbptt.torch.accelerate(model)
    assert done.exchanged == ["rnn", "deep.0"]
    assert {name: reason.split(",")[0] for name, reason in done.left.items()} == {
        "odd": "a Odd",
        "gru": "a GRU",
        "cell": "a RNNCell",
        "bf16": "weight_ih_l0 has dtype torch.bfloat16",
        "patched": "its forward has been replaced",
    }
    assert all(a is b for a, b in zip(weights, model.parameters(), strict=True))
    assert_same(model["rnn"](x)[0], expected, 1e-5)
    assert seen == [1]
    alone = nn.RNN(I, H)
    assert fastbptt.torch.accelerate(alone).exchanged == [""]
    assert type(alone) is fastbptt.torch.RNN


CONFIGS = [
    dict(zip(("num_layers", "bidirectional", "output", "activation"), values, strict=True))
    for values in itertools.product((1, 2), (False, True), ("last", "all"), ("tanh", "relu"))
]


@pytest.mark.parametrize("config", CONFIGS[::3])
def test_a_model_to_torch_and_back(config):
    dropout = 0.25 if config["num_layers"] > 1 else 0.0
    model = fastbptt.RNN(
        I, H, 2, dtype="float64", seed=0, dropout=dropout, output_dropout=0.5, **config
    )
    for name, a in model.parameters().items():
        if name.endswith("b"):
            a[...] = np.linspace(-1, 1, a.size)
    module = model.to_torch()
    assert (module.rnn.dropout, module.output_dropout) == (dropout, 0.5)
    module.eval()
    x = np.random.default_rng(0).standard_normal((B, T, I))
    lengths = np.array(LENGTHS["unsorted"])
    for its_lengths in (None, lengths):
        expected = model.predict(x, its_lengths)
        given = None if its_lengths is None else torch.from_numpy(its_lengths)
        got = module(torch.from_numpy(x), given).detach().numpy()
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-13)
    back = fastbptt.RNN.from_torch(module)
    assert back.config() == model.config()
    np.testing.assert_array_equal(back.network.vector, model.network.vector)
    assert not np.shares_memory(back.network.vector, module.rnn.weight_hh_l0.detach().numpy())


def test_a_model_from_a_state_dict_of_plain_torch():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.RNN(I, H, 2, "relu", batch_first=True, dropout=0.25)
            self.head = nn.Linear(H, 2)

    net, x = Net().eval(), torch.randn(B, T, I)
    expected = net.head(net.encoder(x)[1][-1]).detach().numpy()
    model = fastbptt.RNN.from_torch(net)
    assert (model.activation, model.dropout, model.output) == ("relu", 0.25, "last")
    np.testing.assert_allclose(model.predict(x.numpy()), expected, rtol=1e-5, atol=1e-6)
    state = {name: w.numpy() for name, w in net.state_dict().items()}
    model = fastbptt.RNN.from_torch(state, activation="relu")
    np.testing.assert_allclose(model.predict(x.numpy()), expected, rtol=1e-5, atol=1e-6)


def test_a_module_without_readout_gives_its_states():
    module, x = nn.RNN(I, H, batch_first=True, bidirectional=True), torch.randn(B, T, I)
    model = fastbptt.RNN.from_torch(module, output="all")
    expected = module(x)[0].detach().numpy()
    np.testing.assert_allclose(model.predict(x.numpy()), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (lambda: nn.LSTM(I, H), {}, r"weight_hh_l0 has shape \(20, 5\), expected \(H, H\)"),
        (lambda: nn.Linear(I, H), {}, "0 recurrent modules have been found, expected one"),
        (lambda: nn.ModuleList([nn.RNN(I, H), nn.RNN(I, H)]), {}, "2 recurrent modules"),
        (
            lambda: nn.ModuleList([nn.RNN(I, H), nn.Linear(H, 1), nn.Linear(H, 2)]),
            {},
            "readout is None, expected one of '1', '2'",
        ),
        (lambda: nn.RNN(I, H), {"readout": "head"}, "readout is 'head', expected one of none"),
    ],
)
def test_what_no_model_can_be_made_of(source, options, message):
    with pytest.raises(ValueError, match=message):
        fastbptt.RNN.from_torch(source(), **options)


def test_dtypes_that_no_model_has():
    with pytest.raises(TypeError, match=r"weight_ih_l0 has dtype torch\.bfloat16"):
        fastbptt.RNN.from_torch(nn.RNN(I, H, dtype=torch.bfloat16))


@pytest.mark.parametrize(
    "options",
    [
        {"leak": fastbptt.Leak(0.3)},
        {"leak": fastbptt.Leak(np.linspace(0.1, 0.9, H), "potential"), "noise": 0.5},
        {"noise": 0.5},
        {"activation": "softplus"},
    ],
)
def test_a_model_beyond_torchs_module_to_torch_and_back(options):
    model = fastbptt.RNN(I, H, 2, seed=0, output="all", num_layers=2, **options)
    module = model.to_torch().eval()
    assert type(module.rnn) is fastbptt.torch.LeakyRNN
    x = np.random.default_rng(0).standard_normal((B, T, I)).astype("float32")
    got = module(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(got, model.predict(x), rtol=1e-5, atol=1e-6)
    back = fastbptt.RNN.from_torch(module)
    assert back.config() == model.config()
    np.testing.assert_array_equal(back.network.vector, model.network.vector)


def test_padding_of_a_packed_sequence_is_not_read():
    _, ours = both()
    x, _, given = inputs(ours, "unsorted")
    padded, lengths = pad_packed_sequence(ours(given)[0])
    assert lengths.tolist() == LENGTHS["unsorted"]
    for b, length in enumerate(LENGTHS["unsorted"]):
        alone = ours(x[:length, b : b + 1])[0]
        assert_same(padded[:length, b : b + 1], alone, 1e-15)


def test_docstrings():
    got = doctest.testmod(fastbptt.torch)
    assert got.attempted
    assert not got.failed
