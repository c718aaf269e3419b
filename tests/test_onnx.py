"""ONNX files: ours in another runtime, PyTorch's as ours, and what is refused."""

import doctest
import importlib.util
import itertools
import zipfile

import numpy as np
import pytest
import torch_exports

import fastbptt
from fastbptt import RNN

onnx = pytest.importorskip("onnx")
from onnx import helper, numpy_helper  # noqa: E402

import fastbptt.onnx  # noqa: E402
from fastbptt.onnx import ACTIVATIONS, export, load  # noqa: E402

I, H, O, T, N = 3, 5, 2, 6, 4
LENGTHS = np.array([6, 0, 3, 1])


def build(**options):
    """A model with biases other than zero."""
    model = RNN(I, H, O, seed=0, **options)
    for name, a in model.parameters().items():
        if name.endswith(("b", "b_y")):
            a[...] = np.linspace(-0.5, 0.5, a.size)
    return model


def inputs(dtype="float32"):
    return np.random.default_rng(1).standard_normal((N, T, I)).astype(dtype)


def run(path, **given):
    """What onnxruntime computes."""
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # no notes that lengths need not be given
    options.intra_op_num_threads = 1
    return runtime.InferenceSession(path, options).run(None, given)[0]


def evaluate(path, **given):
    """What onnx's own reference computes, with its own RNN: tanh, no lengths."""
    return onnx.reference.ReferenceEvaluator(onnx.load(path)).run(None, given)[0]


KINDS = list(itertools.product([1, 3], [False, True], ["last", "all"]))


# Written


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("num_layers", "bidirectional", "output"), KINDS)
def test_another_runtime_computes_the_same(tmp_path, num_layers, bidirectional, output, activation):
    path, x = tmp_path / "model.onnx", inputs()
    model = build(
        num_layers=num_layers, bidirectional=bidirectional, output=output, activation=activation
    )
    export(model, path)
    onnx.checker.check_model(path, full_check=True)
    for lengths, given in ((None, {}), (LENGTHS, {"lengths": LENGTHS})):
        expected = model.predict(x, lengths)
        got = run(path, x=x, **given)
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
        if output == "all" and lengths is not None:
            assert not got[np.arange(T) >= lengths[:, None]].any()


@pytest.mark.parametrize(("num_layers", "bidirectional", "output"), KINDS)
def test_float64(tmp_path, num_layers, bidirectional, output):
    path, x = tmp_path / "model.onnx", inputs("float64")
    model = build(
        num_layers=num_layers, bidirectional=bidirectional, output=output, dtype="float64"
    )
    export(model, path)
    np.testing.assert_allclose(evaluate(path, x=x), model.predict(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("num_layers", "bidirectional", "output"), KINDS)
def test_there_and_back(tmp_path, num_layers, bidirectional, output, activation, dtype):
    path = tmp_path / "model.onnx"
    model = build(
        num_layers=num_layers, bidirectional=bidirectional, output=output, activation=activation,
        dtype=dtype, dropout=0.25 if num_layers > 1 else 0.0, output_dropout=0.125, noise=0.5,
    )  # fmt: skip
    model.network.vector[[0, -1]] = -0.0, 1e-40  # a subnormal number in float32
    model.parameters()["layers.0.b"][:2] = -0.0, 0.0
    if num_layers == 3:
        model.parameters()["layers.1.W_h"][0, :2] = np.inf, np.nan
    export(model, path)
    again = load(path)
    assert again.config() == model.config()
    assert again.network.vector.tobytes() == model.network.vector.tobytes()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"before")
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export(build(), path)
    assert path.read_bytes() == b"before"
    assert [*tmp_path.iterdir()] == [path]
    export(build(), path)
    assert load(path).config() == build().config()


def test_what_has_no_words_in_onnx(tmp_path):
    path, model = tmp_path / "model.onnx", build()
    with pytest.raises(TypeError, match="model is a Stack, expected an RNN"):
        export(model.network.stack, path)
    for options, message in (
        ({"leak": fastbptt.Leak(0.5)}, r"the model has leak=Leak.*, which ONNX cannot say"),
        ({"activation": "rectified_tanh"}, "the model has activation='rectified_tanh', which ONNX"),
    ):
        with pytest.raises(ValueError, match=message):
            export(build(**options), path)
    assert not path.exists()


# Read: what PyTorch writes


@pytest.fixture(scope="module")
def archive():
    with zipfile.ZipFile(torch_exports.ARCHIVE) as opened:
        yield opened


NAMES = zipfile.ZipFile(torch_exports.ARCHIVE).namelist()


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("misread")])
def test_files_of_pytorch(tmp_path, archive, name):
    path = tmp_path / name
    path.write_bytes(archive.read(name))
    model, (x, *lengths) = load(path), onnx.load(path).graph.input
    dims = zip(x.type.tensor_type.shape.dim, (4, 3, I), strict=True)
    sizes = [dim.dim_value or free for dim, free in dims]
    values = np.random.default_rng(2).standard_normal(sizes).astype(np.float32)
    given = {"lengths": np.array([3, 1, 2, 2])} if lengths else {}
    time_major = name.startswith("all,")
    rows = values.transpose(1, 0, 2) if time_major else values
    got = model.predict(rows, given.get("lengths"))
    expected = run(path, x=values, **given)
    if time_major:
        expected = expected.transpose(1, 0, 2)
    if given:  # the readout's bias, past the lengths
        expected[np.arange(3) >= given["lengths"][:, None]] = 0
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_what_is_in_files_of_pytorch(tmp_path, archive):
    for way in "steps", "nodes":
        path = tmp_path / "model.onnx"
        path.write_bytes(archive.read(f"last of both, {way}.onnx"))
        model = load(path)
        assert (model.num_layers, model.bidirectional, model.output) == (2, True, "last")
        path.write_bytes(archive.read(f"bare, {way}.onnx"))
        model = load(path)
        assert (model.output_size, model.output) == (2 * H, "all")
        np.testing.assert_array_equal(model.parameters()["W_y"], np.eye(2 * H))
        path.write_bytes(archive.read(f"all, {way}.onnx"))
        assert load(path).activation == "relu"


@pytest.mark.parametrize("way", ["steps", "nodes"])
def test_what_a_model_reads_otherwise_is_refused(tmp_path, archive, way):
    """PyTorch's last output of both directions: the second has read one step there."""
    path = tmp_path / "model.onnx"
    path.write_bytes(archive.read(f"misread, {way}.onnx"))
    with pytest.raises(ValueError, match=r"model\.onnx: it computes something else than a stack"):
        load(path)


@pytest.mark.skipif(not importlib.util.find_spec("onnxscript"), reason="no onnxscript")
def test_the_pytorch_at_hand(tmp_path):
    torch = pytest.importorskip("torch")
    read = 0
    for name, path, network, given in torch_exports.write(tmp_path):
        if name == "misread":
            continue
        model, rows = load(path), [a.numpy() for a in given]
        with torch.no_grad():
            expected = network(*given).numpy()
        if not network.rnn.batch_first:
            rows[0] = rows[0].transpose(1, 0, 2)
            expected = expected.transpose(1, 0, 2)
        if len(given) == 2:
            expected[np.arange(3) >= rows[1][:, None]] = 0
        np.testing.assert_allclose(model.predict(*rows), expected, rtol=1e-5, atol=1e-6)
        W = dict(network.named_parameters())
        np.testing.assert_array_equal(
            model.parameters()["layers.0.W_x"].T, W["rnn.weight_ih_l0"].detach().numpy()
        )
        read += 1
    assert read == 13


# Read: files written by hand


def by_hand(nodes, constants, y=(None, None, O), given=(("x", "f4", (None, None, I)),)):
    """A file's content."""

    def declared(name, dtype, shape):
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        [helper.make_node(op, ins, outs, **options) for op, ins, outs, options in nodes],
        "by hand",
        [declared(*each) for each in given],
        [declared("y", "f4", y)],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return proto.SerializeToString()


def layer(**options):
    """A file of one layer and a readout of every state, with options of the node RNN."""
    rng, D = np.random.default_rng(0), 1 + (options.get("direction") == "bidirectional")
    shapes = {"W": (D, H, I), "R": (D, H, H), "B": (D, 2 * H), "W_y": (H, O), "b_y": (O,)}
    constants = {name: rng.standard_normal(s).astype("f4") / 2 for name, s in shapes.items()}
    constants |= options.pop("constants", {})
    more = options.pop("more", [])
    names = options.pop("names", ["x", "W", "R", "B"])
    given = options.pop("given", (("x", "f4", (None, None, I)),))
    constants["one"] = [1]
    nodes = [
        ("RNN", names, ["h"], {"hidden_size": H, **options}),
        ("Squeeze", ["h", "one"], ["rows"], {}),
        ("MatMul", ["rows", "W_y"], ["product"], {}),
        ("Add", ["b_y", "product"], ["read" if more else "y"], {}),
        *more,
    ]
    return by_hand(nodes, constants, given=given), constants


def test_a_file_by_hand(tmp_path):
    path = tmp_path / "model.onnx"
    content, constants = layer(activations=["RELU"])
    path.write_bytes(content)
    weights = load(path).parameters()
    np.testing.assert_array_equal(weights["layers.0.W_x"], constants["W"][0].T)
    np.testing.assert_array_equal(weights["layers.0.W_h"], constants["R"][0].T)
    b = constants["B"][0]
    np.testing.assert_array_equal(weights["layers.0.b"], b[:H] + b[H:])
    np.testing.assert_array_equal(weights["W_y"], constants["W_y"])
    np.testing.assert_array_equal(weights["b_y"], constants["b_y"])
    assert load(path).activation == "relu"


INITIAL = {"h0": np.ones((1, 1, H), "f4"), "none": np.zeros(0, "i4")}
TWO = (("x", "f4", (None, None, I)), ("z", "f4", (None, None, I)))


@pytest.mark.parametrize(("options", "message"), [
    ({"clip": 1.0}, "clip 1.0, expected"),
    ({"direction": "reverse"}, "direction 'reverse', layout 0 and clip None, expected 'forward'"),
    ({"layout": 1}, "layout 1 and clip"),
    ({"activations": ["Elu"]}, "has the activations elu, expected one of Tanh, Relu"),
    (
        {"activations": ["Affine"], "activation_alpha": [2.0], "activation_beta": [0.0]},
        r"Affine with alpha 2\.0 and beta 0\.0, expected 1 and 0",
    ),
    ({"activations": ["Affine"], "activation_beta": [1.0]}, r"alpha 1\.0 and beta 1\.0"),
    (
        {"names": ["x", "W", "R", "B", "", "h0"], "constants": {"h0": np.ones((1, 5, H), "f4")}},
        "it has initial states other than zero",
    ),
    ({"more": [("Softmax", ["read"], ["y"], {})]}, "it has Softmax, expected recurrent layers"),
    ({"more": [("Relu", ["read"], ["y"], {})]}, "it has Relu, expected recurrent layers"),
    (
        {
            "more": [("MatMul", ["read", "again"], ["y"], {})],
            "constants": {"again": np.eye(O, dtype="f4")},
        },
        "it has other layers or readouts, expected .* at most one linear readout",
    ),
    ({"more": [("Add", ["read", "read"], ["y"], {})]}, "computes something else"),
    ({"names": ["x", "z", "R", "B"], "given": TWO}, r"its inputs are x with 3 axes, z with 3 axes"),
    ({"given": (("x", "f4", (None, None, None)),)}, "its input x has no fixed number of features"),
])  # fmt: skip
def test_what_there_is_no_model_for(tmp_path, options, message):
    path = tmp_path / "model.onnx"
    content, _ = layer(**options)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_no_layer_at_all(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(by_hand([("MatMul", ["x", "W"], ["y"], {})], {"W": np.ones((I, O), "f4")}))
    with pytest.raises(ValueError, match="it has other layers or readouts, expected recurrent"):
        load(path)


def test_damaged_files(tmp_path):
    path = tmp_path / "model.onnx"
    with pytest.raises(FileNotFoundError):
        load(path)
    export(build(), path)
    content = path.read_bytes()
    for damaged in b"", b"no model", content[: len(content) // 2], content[5:]:
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"model\.onnx is no ONNX file, or damaged"):
            load(path)


def test_examples():
    pytest.importorskip("onnxruntime")
    got = doctest.testmod(fastbptt.onnx)
    assert got.attempted
    assert not got.failed
