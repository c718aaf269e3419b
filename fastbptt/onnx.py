"""Models as ONNX files, which other runtimes read, and from files that other libraries wrote.

It needs onnx: ``pip install "fastbptt[onnx]"``.
"""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from fastbptt import _storage
from fastbptt._exchange import FOR_TRAINING, check_plain, model_with
from fastbptt._extras import import_extra
from fastbptt._stack import Stack
from fastbptt._storage import FilePath
from fastbptt.model import RNN
from fastbptt.reference import ACTIVATIONS as KNOWN
from fastbptt.rnn import Params

onnx: Any = import_extra("onnx", "onnx", "fastbptt.onnx")
helper: Any = import_extra("onnx.helper", "onnx", "fastbptt.onnx")
numpy_helper: Any = import_extra("onnx.numpy_helper", "onnx", "fastbptt.onnx")
reference: Any = import_extra("onnx.reference", "onnx", "fastbptt.onnx")
op_run: Any = import_extra("onnx.reference.op_run", "onnx", "fastbptt.onnx")

__all__ = ["export", "load"]

# Operators of 2021, which every runtime has.
OPSET, IR_VERSION = 17, 8
ACTIVATIONS: dict[Any, str] = {
    ours: theirs
    for ours, theirs in {
        "tanh": "Tanh",
        "relu": "Relu",
        "identity": "Affine",  # alpha z + beta
        "sigmoid": "Sigmoid",
        "softplus": "Softplus",
    }.items()
    if ours in KNOWN
}


def export(model: RNN, path: FilePath) -> None:
    """Write a model to an ONNX file.

    The file computes what :meth:`fastbptt.RNN.predict` does: from an input ``x``, (N, T, I), the
    output ``y``, (N, O), or (N, T, O) with zeros past a sequence's length.  The input ``lengths``,
    (N,) int64, need not be given; all steps count then.

    Parameters
    ----------
    model : RNN
        Of any number of layers, in one direction or both.
    path : path-like
        The file is complete or as it was before.

    Raises
    ------
    TypeError, ValueError
        If the model is no `RNN`, or has an option that ONNX has no words for.

    See Also
    --------
    load : Read it back, with the same weights to the bit.

    Notes
    -----
    onnxruntime runs float32 models only.  When it opens the file it may warn that the initializer
    ``lengths`` is an input: this is how ONNX writes an input that need not be given.

    Examples
    --------
    >>> import fastbptt, numpy as np, onnxruntime, os, tempfile
    >>> model = fastbptt.RNN(2, 16, 1, seed=0)
    >>> path = os.path.join(tempfile.mkdtemp(), "model.onnx")
    >>> fastbptt.onnx.export(model, path)
    >>> options = onnxruntime.SessionOptions()
    >>> options.log_severity_level = 3  # errors
    >>> session = onnxruntime.InferenceSession(path, options)
    >>> x = np.ones((5, 7, 2), np.float32)
    >>> [y] = session.run(None, {"x": x, "lengths": np.array([7, 7, 3, 2, 1])})
    >>> np.allclose(y, model.predict(x, [7, 7, 3, 2, 1]), atol=1e-6)
    True
    """
    if not isinstance(model, RNN):
        raise TypeError(f"model is a {type(model).__name__}, expected an RNN")
    if model.activation not in ACTIVATIONS:
        raise ValueError(f"the model has activation={model.activation!r}, which ONNX cannot say")
    check_plain(model, "ONNX")
    _storage.replace(path, _proto(model).SerializeToString())


def _proto(model: RNN) -> Any:
    """The model as ONNX has it."""
    nodes, constants = [], []
    D, H, dtype = 1 + model.bidirectional, model.hidden_size, np.dtype(model.dtype)
    weights = model.parameters()

    def constant(name: str, value: Any) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(op: str, inputs: list[str], *outputs: str, **attributes: Any) -> str:
        nodes.append(
            helper.make_node(op, inputs, outputs, name=outputs[0] or outputs[1], **attributes)
        )
        return outputs[0] or outputs[1]

    # lengths (N,), T where less than 0
    constant("lengths", np.array([-1]))
    shape = node("Shape", ["x"], "shape")
    N = node("Gather", [shape, constant("first", np.array([0]))], "N")
    T = node("Gather", [shape, constant("second", np.array([1]))], "T")
    is_whole = node("Less", ["lengths", constant("zero", np.array(0))], "is_whole")
    of_some = node("Where", [is_whole, T, "lengths"], "lengths_or_T")
    counted = node("Expand", [of_some, N], "counted")
    steps = node("Cast", [counted], "steps", to=onnx.TensorProto.INT32)

    # Time-major, (T, N, I), and so between the layers: (T, D, N, H) -> (T, N, D H)
    rows = node("Transpose", ["x"], "layers.0.x", perm=[1, 0, 2])
    kind = ACTIVATIONS[model.activation]
    numbers = {"activation_alpha": [1.0] * D, "activation_beta": [0.0] * D}
    last, side_by_side = "", constant("side_by_side", np.array([0, 0, D * H]))
    for l in range(model.num_layers):
        names = [f"layers.{l}.{part}" for part in ("", "reverse.")[:D]]
        W, R = (np.stack([weights[name + w].T for name in names]) for w in ("W_x", "W_h"))
        b = np.stack([weights[name + "b"] for name in names])
        # Two biases are added up.  With -0 added, b stays as it is, also where it is -0.
        B = np.concatenate([b, np.full_like(b, -0.0)], axis=1)
        given = [
            constant(f"layers.{l}.{name}", a) for name, a in zip("WRB", (W, R, B), strict=True)
        ]
        top = l == model.num_layers - 1 and model.output == "last"
        outputs = ("", f"layers.{l}.last") if top else (f"layers.{l}.h",)
        last = node(
            "RNN", [rows, *given, steps], *outputs, hidden_size=H, activations=[kind] * D,
            direction="bidirectional" if D == 2 else "forward",
            **(numbers if kind == "Affine" else {}),
        )  # fmt: skip
        if not top:
            by_row = node("Transpose", [last], f"layers.{l}.by_row", perm=[0, 2, 1, 3])
            rows = node("Reshape", [by_row, side_by_side], f"layers.{l + 1}.x")

    W_y, b_y = constant("W_y", weights["W_y"]), constant("b_y", weights["b_y"])
    if model.output == "last":  # (D, N, H) -> (N, D H)
        by_row = node("Transpose", [last], "by_row", perm=[1, 0, 2])
        read = node("Reshape", [by_row, constant("flat", np.array([0, D * H]))], "read")
        node("Add", [node("MatMul", [read, W_y], "h_W_y"), b_y], "y")
    else:
        read = node("Transpose", [rows], "read", perm=[1, 0, 2])
        every = node("Add", [node("MatMul", [read, W_y], "h_W_y"), b_y], "every_y")
        end = node("Squeeze", [T], "end")
        start, one = constant("start", np.array(0)), constant("one", np.array(1))
        t = node("Range", [start, end, one], "t")
        axis = constant("axis", np.array([1]))
        lengths = node("Unsqueeze", [counted, axis], "counted_by_row")  # (N, 1)
        counts = node("Unsqueeze", [node("Less", [t, lengths], "t_counts"), "last_axis"], "counts")
        constant("last_axis", np.array([2]))
        node("Where", [counts, every, constant("nothing", np.zeros((), dtype))], "y")

    real = helper.np_dtype_to_tensor_dtype(dtype)
    y = ["N", model.output_size] if model.output == "last" else ["N", "T", model.output_size]
    graph = helper.make_graph(
        nodes,
        "fastbptt",
        [
            helper.make_tensor_value_info("x", real, ["N", "T", model.input_size]),
            helper.make_tensor_value_info("lengths", onnx.TensorProto.INT64, ["given"]),
        ],
        [helper.make_tensor_value_info("y", real, y)],
        constants,
    )
    proto = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="fastbptt",
    )
    noted = {f"fastbptt.{kind}": repr(getattr(model, kind)) for kind in FOR_TRAINING}
    helper.set_model_props(proto, noted)
    return proto


def load(path: FilePath) -> RNN:
    """Read a model from an ONNX file that :func:`export`, PyTorch or another library wrote.

    It is a stack of layers of ONNX's operator RNN, each of which reads the states of the one below,
    and at most one linear readout, of the last state or of every state.  What ``torch.onnx.export``
    makes of a ``torch.nn.RNN`` by default, each step written out, is read too.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    RNN
        Its :meth:`~fastbptt.RNN.predict` takes batch-major arrays, whichever order the file's input
        has.  A file without a readout becomes a model that reads out the states as they are.

    Raises
    ------
    FileNotFoundError
    ValueError
        If the file is damaged, or computes something else.

    See Also
    --------
    export : Writes such a file.
    fastbptt.load : Reads files of this library.

    Notes
    -----
    The weights are the file's to the bit, but for the sum of two biases.  That the model computes
    the same as the file is checked with a few random sequences, with the file evaluated by onnx's
    own reference.

    Examples
    --------
    >>> import fastbptt, numpy as np, os, tempfile
    >>> model = fastbptt.RNN(2, 16, 1, num_layers=2, dropout=0.5, seed=0)
    >>> path = os.path.join(tempfile.mkdtemp(), "model.onnx")
    >>> fastbptt.onnx.export(model, path)
    >>> again = fastbptt.onnx.load(path)
    >>> again.num_layers, again.dropout
    (2, 0.5)
    >>> bool(np.all(again.network.vector == model.network.vector))
    True
    """
    with open(path, "rb"):  # an error that names the file
        pass
    try:
        proto = onnx.load(path)
        onnx.checker.check_model(proto)
    except Exception as error:
        raise ValueError(f"{path} is no ONNX file, or damaged: {error}") from error
    try:
        with np.errstate(all="ignore"):  # weights may be anything
            return _model_of(proto)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


# Reading: the weights are found by what multiplies with them, and that they were understood is
# checked by numbers.  So the many ways to transpose, slice and name things need no code each.

# What moves numbers about, sorts sequences by their lengths, and adds and multiplies.
LINEAR = {
    "Add", "Cast", "Concat", "Constant", "ConstantOfShape", "Dropout", "Expand", "Flatten",
    "Gather", "Gemm", "Identity", "Less", "MatMul", "RNN", "Range", "ReduceProd", "Reshape",
    "ReverseSequence", "ScatterElements", "Shape", "Slice", "Split", "Squeeze", "TopK", "Transpose",
    "Unsqueeze", "Where",
}  # fmt: skip
WRITTEN_OUT = {theirs: ours for ours, theirs in ACTIVATIONS.items() if theirs != "Affine"}
EXPECTED = (
    "recurrent layers, each of which reads the states of the one below, and at most one linear "
    "readout without an activation"
)
# Scales of the random sequences that a model is checked with: where f is all but linear, and less.
SCALES = 0.1, 1.0, 3.0


class _Weights(NamedTuple):
    """What a file's graph holds, in a stack's order, but for the number of directions."""

    layers: list[Params]
    directions: tuple[int, ...]  # that it may have
    activation: str
    readout: tuple[np.ndarray, np.ndarray] | None


class _Product(NamedTuple):
    """x W + b with constant W and b, where `name` is W's."""

    name: str
    W: np.ndarray
    b: np.ndarray


def _model_of(proto: Any) -> RNN:
    graph = proto.graph
    x, lengths = _inputs(graph)
    _check_operators(graph)
    evaluator = reference.ReferenceEvaluator(proto, new_ops=[_Operator])
    failure = None
    for time_major in False, True:
        trials = [_Trial(x, lengths, time_major, scale) for scale in SCALES]
        try:
            values = [evaluator.run(None, trial.given, intermediate=True) for trial in trials]
        except Exception as error:  # whatever an operator raises for sizes that do not fit
            failure = failure or error
            continue
        found = _weights(graph, values[0], _varying(graph, [*trials[0].given]))
        for directions, output in itertools.product(found.directions, ("last", "all")):
            options: dict[str, Any] = {
                "directions": directions,
                "activation": found.activation,
                "output": output,
                **_noted(proto),
            }
            model = model_with(found.layers, found.readout, backend="numpy", **options)
            pairs = [*zip(trials, values, strict=True)]
            if any(all(t.agrees(model, v[out.name]) for t, v in pairs) for out in graph.output):
                return model_with(found.layers, found.readout, **options)
    if failure is not None:
        raise ValueError(f"onnx's reference cannot run it: {failure}")
    raise ValueError(
        "it computes something else than a stack of recurrent layers with a linear readout of "
        "every state or the last, which in both directions is that of each direction once it has "
        "read the whole sequence"
    )


def _noted(proto: Any) -> dict[str, float]:
    """What `export` noted, for training: the graph has nothing of it."""
    noted = {entry.key: entry.value for entry in proto.metadata_props}
    return {kind: float(noted.get(f"fastbptt.{kind}", 0)) for kind in FOR_TRAINING}


def _inputs(graph: Any) -> tuple[Any, Any]:
    """The inputs x, and lengths or None."""
    constants = {constant.name for constant in graph.initializer}
    real, whole = [], []
    for given in graph.input:
        kind = helper.tensor_dtype_to_np_dtype(given.type.tensor_type.elem_type).kind
        if given.name not in constants or given.name == "lengths":
            (real if kind == "f" else whole).append(given)
    sizes = [len(a.type.tensor_type.shape.dim) for a in (*real, *whole)]
    if len(real) != 1 or sizes not in ([3], [3, 1]):
        names = ", ".join(
            f"{a.name} with {n} axes" for a, n in zip(real + whole, sizes, strict=True)
        )
        raise ValueError(
            f"its inputs are {names or 'none'}, expected sequences with 3 axes and, if at all, "
            "integer lengths with one"
        )
    return real[0], whole[0] if whole else None


class _Trial:
    """Random sequences to check a model with, as the file takes them."""

    def __init__(self, x: Any, lengths: Any, time_major: bool, scale: float) -> None:
        rng = np.random.default_rng(0)
        kind = x.type.tensor_type
        *outer, size = (dim.dim_value for dim in kind.shape.dim)
        if not size:
            raise ValueError(f"its input {x.name} has no fixed number of features")
        shape = [known or free for known, free in zip(outer, (4, 5), strict=True)]
        values = scale * rng.standard_normal((*shape, size))
        values = values.astype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
        self.given = {x.name: values}
        self.x = values.transpose(1, 0, 2) if time_major else values
        self.lengths = None
        if lengths is not None:
            N, T, _ = self.x.shape
            self.lengths = rng.integers(1, T + 1, N)
            self.lengths[0] = T
            dtype = helper.tensor_dtype_to_np_dtype(lengths.type.tensor_type.elem_type)
            self.given[lengths.name] = self.lengths.astype(dtype)

    def agrees(self, model: RNN, got: np.ndarray) -> bool:
        """Whether a model predicts what the file computes; neither counts past the lengths."""
        expected = model.predict(self.x, self.lengths)
        forms = [got]
        if model.output == "all" and got.ndim > 1:
            forms.append(np.swapaxes(got, 0, 1))
        tolerance = 1e-4 if expected.dtype == np.float32 else 1e-9
        limit = tolerance * np.abs(expected[np.isfinite(expected)]).max(initial=0)
        for form in forms:
            if np.squeeze(form).shape == np.squeeze(expected).shape:
                form = form.reshape(expected.shape)
                same = np.isclose(form, expected, rtol=0, atol=limit, equal_nan=True)
                if model.output == "all" and self.lengths is not None:
                    same[np.arange(same.shape[1]) >= self.lengths[:, None]] = True
                if same.all():
                    return True
        return False


def _check_operators(graph: Any) -> None:
    operators = {node.op_type for node in graph.node}
    unknown = operators - LINEAR - (set() if "RNN" in operators else {*WRITTEN_OUT})
    if unknown:
        raise ValueError(f"it has {', '.join(sorted(unknown))}, expected {EXPECTED}")
    for node in graph.node:
        if node.op_type == "RNN":
            _activation(_options(node))


def _options(node: Any) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _varying(graph: Any, inputs: list[str]) -> set[str]:
    """Names of all that depends on the inputs."""
    found = set(inputs)
    for node in graph.node:  # in an order in which they can be computed
        if found & {*node.input}:
            found |= {*node.output}
    return found


def _weights(graph: Any, values: dict[str, np.ndarray], varying: set[str]) -> _Weights:
    """What multiplies the sequences, the states and, in the end, what is read out."""
    products = [*_products(graph, values, varying)]
    if any(node.op_type == "RNN" for node in graph.node):
        found = _of_operators(graph, values, varying, products)
    else:
        found = _of_steps(graph, products)
    if found is None:
        raise ValueError(f"it has other layers or readouts, expected {EXPECTED}")
    return found


def _of_operators(
    graph: Any, values: dict[str, np.ndarray], varying: set[str], products: list[_Product]
) -> _Weights | None:
    """The weights of nodes RNN."""
    layers, kinds = [], set()
    for node in graph.node:
        if node.op_type != "RNN":
            continue
        W, R, B, _, initial = [*node.input[1:], *[""] * 5][:5]
        if varying & {W, R, B}:
            raise ValueError(f"the weights of {node.name or node.op_type} depend on the inputs")
        if initial and np.any(values[initial]):
            raise ValueError("it has initial states other than zero, expected none")
        kinds.add((_activation(_options(node)), len(values[W])))
        layers += _split(values[W], values[R], values.get(B) if B else None)
    if len(kinds) != 1 or len(products) > 1:
        return None
    [(activation, directions)] = kinds
    readout = (products[0].W, products[0].b) if products else None
    return _Weights(layers, (directions,), activation, readout)


def _activation(options: dict[str, Any]) -> Any:
    """The activation of a node, of which everything else is checked too."""
    direction = options.get("direction", b"forward").decode()
    if direction == "reverse" or options.get("layout", 0) or options.get("clip"):
        raise ValueError(
            f"an RNN has direction {direction!r}, layout {options.get('layout', 0)} and clip "
            f"{options.get('clip')}, expected 'forward' or 'bidirectional', 0 and none"
        )
    names = {name.decode().lower() for name in options.get("activations", [b"Tanh"])}
    for ours, theirs in ACTIVATIONS.items():
        if names == {theirs.lower()}:
            alpha = options.get("activation_alpha") or [1.0]
            beta = options.get("activation_beta") or [0.0]
            if ours == "identity" and ({*alpha}, {*beta}) != ({1.0}, {0.0}):
                found = f"alpha {alpha[0]} and beta {beta[0]}"
                raise ValueError(f"an RNN has Affine with {found}, expected 1 and 0")
            return ours
    raise ValueError(
        f"an RNN has the activations {', '.join(sorted(names))}, expected one of "
        f"{', '.join(ACTIVATIONS.values())} in both directions"
    )


def _split(W: np.ndarray, R: np.ndarray, B: np.ndarray | None) -> Iterator[Params]:
    """The weights of each direction out of ONNX's (D, H, I), (D, H, H) and (D, 2 H)."""
    for d, (W_d, R_d) in enumerate(zip(W, R, strict=True)):
        H = len(R_d)
        b = np.zeros(H, W.dtype) if B is None else B[d, :H] + B[d, H:]
        yield Params(W_d.T, R_d.T, b)


def _of_steps(graph: Any, products: list[_Product]) -> _Weights | None:
    """The weights of layers whose steps are written out one by one.

    Each layer and direction is one product of all its inputs with W_x, and one of the state before
    with W_h at each step, or at each but the first.
    """
    runs = [[*run] for _, run in itertools.groupby(products, key=lambda product: product.name)]
    kinds = {node.op_type for node in graph.node} & {*WRITTEN_OUT}
    pairs = [*zip(runs[::2], runs[1::2], strict=False)]
    steps = sum(len(recurrent) for _, recurrent in pairs)
    applied = sum(node.op_type in kinds for node in graph.node)
    if not pairs or len(kinds) != 1 or applied not in (steps, steps + len(pairs)):
        return None
    if any(len(first) > 1 for first, _ in pairs):
        return None
    layers = [Params(first.W, after.W, first.b + after.b) for [first], [after, *_] in pairs]
    H = len(layers[0].b)
    if any(params.W_h.shape != (H, H) for params in layers):
        return None
    readout = (runs[-1][0].W, runs[-1][0].b) if len(runs) % 2 else None
    directions = tuple(d for d in (1, 2) if _fit(layers, readout, d))
    return _Weights(layers, directions, WRITTEN_OUT[kinds.pop()], readout)


def _fit(layers: list[Params], readout: tuple[np.ndarray, np.ndarray] | None, D: int) -> bool:
    """Whether the shapes are those of a stack with so many directions."""
    I, H = layers[0].W_x.shape
    given = [len(params.W_x) for params in layers]
    read = D * H if readout is None else len(readout[0])
    return given == [I] * D + [D * H] * (len(layers) - D) and read == D * H


def _products(graph: Any, values: dict[str, np.ndarray], varying: set[str]) -> Iterator[_Product]:
    """All products of something that varies with a constant matrix, in their order."""
    for node in graph.node:
        if node.op_type not in ("MatMul", "Gemm") or node.input[0] not in varying:
            continue
        W = values[node.input[1]]
        if node.input[1] in varying or W.ndim != 2:
            raise ValueError(f"{node.name or node.op_type} multiplies with no constant matrix")
        W = W.T if _options(node).get("transB") else W
        bias = node.input[2] if len(node.input) > 2 else _added(graph, node.output[0])
        b = np.zeros(W.shape[1], W.dtype)
        if bias and bias not in varying:
            b = np.broadcast_to(values[bias], b.shape)
        yield _Product(node.input[1], W, b)


def _added(graph: Any, name: str) -> str:
    """What is added to this, if that is all that is done with it."""
    users = [node for node in graph.node if name in node.input]
    if len(users) == 1 and users[0].op_type == "Add":
        return next(other for other in users[0].input if other != name)
    return ""


class _Operator(op_run.OpRun):
    """ONNX's RNN, since onnx's own reference knows neither lengths nor most activations."""

    op_domain = ""

    def _run(
        self, X: Any, W: Any, R: Any, B: Any = None, lengths: Any = None, initial_h: Any = None,
        **options: Any,
    ) -> Any:  # fmt: skip
        activation = _activation(
            {
                "activations": [name.encode() for name in self.activations or ["Tanh"]],
                "activation_alpha": self.activation_alpha,
                "activation_beta": self.activation_beta,
            }
        )
        stack = Stack([*_split(W, R, B)], directions=len(W), activation=activation, backend="numpy")
        passed = stack.forward(X, initial_h, lengths=lengths)
        (T, N, _), (D, H, _) = X.shape, R.shape
        Y = stack.outputs(passed).reshape(T, N, D, H).transpose(0, 2, 1, 3).copy()
        if lengths is not None:
            Y.transpose(0, 2, 1, 3)[np.arange(T)[:, None] >= lengths] = 0
        return (Y, np.stack(passed.last))[: len(self.onnx_node.output)]


_Operator.__name__ = "RNN"  # by which the reference finds it
