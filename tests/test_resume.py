"""Files to go on from that are damaged or made up: refused whole, and nothing that they name runs.

One error class, ValueError, which names the file; model and optimizer stay as they were.
"""

import copy
import functools
import itertools
import json
import random
import re
import tracemalloc
from typing import Any

import numpy as np
import pytest
from test_storage import contents, write

from fastbptt import RNN, SGD, Adam, RMSprop, fit, load

GENERATORS = ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"]
# What JSON may have in the place of anything else.
OTHERS = [None, True, -1, 10**30, 10**400, 0.5, float("nan"), float("inf"), -float("inf")]
OTHERS += ["", "0.1", [], [1], {}, {"a": 1}]
P = 21  # weights of the model


def build():
    return RNN(1, 2, 1, num_layers=2, dropout=0.25, seed=0)


def go_on(path, model, optimizer, generator="PCG64", epochs=0):
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((6, 3, 1)), rng.standard_normal(6)
    return fit(
        model, x, y, optimizer=optimizer, epochs=epochs, batch_size=4, patience=9,
        validation=(x, y), progress=False, checkpoint=path,
        seed=np.random.Generator(getattr(np.random, generator)(1)),
    )  # fmt: skip


@functools.cache
def checkpoint(folder, kind=Adam, generator="PCG64"):
    """The tensors and metadata of a training that has run for two epochs, and its bytes."""
    path = folder / f"{kind.__name__}.{generator}"
    go_on(path, build(), kind(), generator, epochs=2)
    return *contents(path), path.read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("resume")


def state_of(model, optimizer):
    arrays = {name: a.tobytes() for name, a in optimizer.state().items()}
    return model.network.vector.tobytes(), optimizer.settings(), arrays, sorted(vars(optimizer))


def refused(path, message="", kind: Any = Adam):
    """Check that a file is refused, that the error names it, and that nothing changes before."""
    model, optimizer, content = build(), kind(), path.read_bytes()
    before = state_of(model, optimizer)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}.*{message}"):
        go_on(path, model, optimizer)
    assert state_of(model, optimizer) == before
    assert path.read_bytes() == content


def taken_or_refused(path, kind: Any = Adam):
    """Whether a file is taken; refused, it is as `refused` has it."""
    model, optimizer = build(), kind()
    before = state_of(model, optimizer)
    try:
        go_on(path, model, optimizer)
    except ValueError as error:
        told = str(error)
    else:
        assert np.isfinite(model.network.vector).all()
        return True
    assert told.startswith(str(path))
    assert state_of(model, optimizer) == before
    return False


def changed(path, checkpoint, change):
    """Write a checkpoint of which a function has changed tensors, metadata or training."""
    tensors, metadata = dict(checkpoint[0]), dict(checkpoint[1])
    training = json.loads(metadata["training"])
    change(tensors, metadata, training)
    if metadata["training"] == checkpoint[1]["training"]:
        metadata["training"] = json.dumps(training)
    write(path, tensors, metadata)


def of_training(change):
    return lambda tensors, metadata, training: change(training)


def test_unchanged_it_is_taken(folder, tmp_path):
    for kind, generator in itertools.product((SGD, RMSprop, Adam), GENERATORS):
        found = checkpoint(folder, kind, generator)
        changed(tmp_path / "run", found, lambda *parts: None)
        assert taken_or_refused(tmp_path / "run", kind)


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_file_of_an_earlier_version(version, folder, tmp_path):
    """Training does not go on from it, but the model is read."""

    def change(tensors, metadata, training):
        metadata["version"] = version
        if version == "1":  # it had one generator
            training["rng"] = training.pop("generators")["order"]
        training["history"]["best_epoch"] -= 1  # epochs counted from 0

    path = tmp_path / "run"
    changed(path, checkpoint(folder), change)
    words = f"was written by an earlier fastbptt, in format version {version}, expected 3: training"
    refused(path, words)
    np.testing.assert_array_equal(
        load(path).network.vector, checkpoint(folder)[0]["best weights"], strict=True
    )


# No name in a file is called or set


@pytest.mark.parametrize(
    "name",
    ["test", "seed", "RandomState", "default_rng", "BitGenerator", "mtrand", "SeedSequence",
     "__name__", "PCG64 ", "pcg64", "os.system", "", None, 1, ["PCG64"], {"PCG64": 1}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("which", ["order", "dropout"])
def test_no_other_generator(which, name, folder, tmp_path, monkeypatch):
    for function in ("test", "seed"):
        monkeypatch.setattr(np.random, function, lambda *args: pytest.fail("called"))
    changed(
        tmp_path / "run", checkpoint(folder),
        of_training(lambda training: training["generators"][which].update(bit_generator=name)),
    )  # fmt: skip
    refused(tmp_path / "run", "the generator is of the kind")


@pytest.mark.parametrize(
    "change",
    [
        lambda generators: generators.pop("dropout"),
        lambda generators: generators.clear(),
        lambda generators: generators.update(more=generators["order"]),
        lambda generators: generators.update(order=None),
        lambda generators: generators.update(dropout=[]),
    ],
    ids=["without one", "without any", "one more", "None", "a list"],
)
def test_no_other_generators(change, folder, tmp_path):
    changed(
        tmp_path / "run", checkpoint(folder),
        of_training(lambda training: change(training["generators"])),
    )  # fmt: skip
    refused(tmp_path / "run", "(the generators are|the generator is of the kind)")


@pytest.mark.parametrize(
    "change",
    [
        lambda settings: settings.update(step=1),
        lambda settings: settings.update(_steps=7),
        lambda settings: settings.update(__class__="SGD"),
        lambda settings: settings.pop("beta_1"),
        lambda settings: settings.clear(),
    ],
    ids=["step", "_steps", "__class__", "without beta_1", "without any"],
)
def test_no_other_settings(change, folder, tmp_path):
    changed(
        tmp_path / "run", checkpoint(folder),
        of_training(lambda training: change(training["optimizer"])),
    )  # fmt: skip
    refused(tmp_path / "run", "the optimizer has the settings")


# The optimizer's rules


@pytest.mark.parametrize("kind", [SGD, RMSprop, Adam])
def test_settings_that_the_optimizer_refuses(kind, folder, tmp_path):
    bad = [
        *itertools.product(kind().settings(), [v for v in OTHERS if v not in (0.5, 10**30)]),
        *{SGD: [("momentum", 1), ("nesterov", 0)], RMSprop: [("rho", 1.5), ("eps", 0)],
          Adam: [("beta_1", 1), ("beta_2", 1.0), ("eps", 0), ("weight_decay", -0.1)]}[kind],
    ]  # fmt: skip
    for name, value in bad:  # True: nesterov needs a momentum
        changed(
            tmp_path / "run", checkpoint(folder, kind),
            of_training(lambda training, name=name, value=value: training["optimizer"].update(
                {name: value})),
        )  # fmt: skip
        refused(tmp_path / "run", "holds no training to go on with", kind)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (Adam, {"steps": np.array(-1)}, "expected an integer from 0"),
        (Adam, {"steps": np.array(2**63 - 1)}, "expected an integer from 0"),
        (Adam, {"steps": np.array([1])}, "steps has shape"),
        (Adam, {"steps": np.array(1.0)}, "steps has shape"),
        (Adam, {"steps": None}, "has the names"),
        (Adam, {"m.weights": None}, "has the names"),
        (Adam, {"m.weights": None, "v.weights": None}, "has the names"),
        (Adam, {"v.weights": np.zeros((1, P), np.float32)}, "has shape"),
        (Adam, {"v.weights": np.zeros(3, np.float32)}, "has shape"),
        (Adam, {"v.weights": np.zeros(P)}, "has shape"),
        (Adam, {"v.bias": "v.weights"}, "has the names"),
        (Adam, {"x.weights": "v.weights"}, "has the names"),
        (Adam, {"m.weights": np.nan}, "no step leaves behind"),
        (Adam, {"m.weights": np.inf}, "no step leaves behind"),
        (Adam, {"v.weights": np.nan}, "no step leaves behind"),
        (Adam, {"v.weights": -1e-9}, "no step leaves behind"),
        (RMSprop, {"v.weights": -1e-9}, "no step leaves behind"),
        (SGD, {"m.weights": np.nan}, "no step leaves behind"),
    ],
)
def test_a_state_that_is_not_the_optimizers(kind, change, message, folder, tmp_path):
    """None takes a tensor away, a name copies another one, a number goes into one place."""

    def apply(tensors, metadata, training):
        for name, value in change.items():
            name = f"optimizer.{name}"
            if value is None:
                del tensors[name]
            elif isinstance(value, str):
                tensors[name] = tensors[f"optimizer.{value}"]
            elif isinstance(value, float):
                tensors[name] = tensors[name].copy()
                tensors[name][-1] = value
            else:
                tensors[name] = value

    changed(tmp_path / "run", checkpoint(folder, kind), apply)
    refused(tmp_path / "run", message, kind)


def test_squares_that_have_overflown_are_taken(folder, tmp_path):
    def apply(tensors, metadata, training):
        tensors["optimizer.v.weights"] = np.full_like(tensors["optimizer.v.weights"], np.inf)

    changed(tmp_path / "run", checkpoint(folder), apply)
    assert taken_or_refused(tmp_path / "run")


def test_an_optimizer_of_a_users_own_class_goes_on(folder, tmp_path):
    class Loud(Adam):
        def __init__(self, name):
            super().__init__()
            self.name = name

    (model, optimizer), path = (build(), Loud("a")), tmp_path / "run"
    go_on(path, model, optimizer, epochs=2)
    again = Loud("b")
    go_on(path, build(), again)
    assert again.name == "b"
    assert state_of(model, again)[1:3] == state_of(model, optimizer)[1:3]


# The generator's state


def places(found, at=()):
    """The ways to all values of a tree of JSON, itself included."""
    yield at
    if isinstance(found, (dict, list)):
        for key in found if isinstance(found, dict) else range(len(found)):
            yield from places(found[key], (*at, key))


def put(found, at, value):
    """Put a value at the end of a way, and return the tree."""
    if not at:
        return value
    *way, last = at
    functools.reduce(lambda part, key: part[key], way, found)[last] = value
    return found


def value_at(found, at) -> Any:
    return functools.reduce(lambda part, key: part[key], at, found)


@pytest.mark.parametrize("generator", GENERATORS)
def test_a_state_that_is_not_the_generators(generator, folder, tmp_path):
    """Integers out of their places' ranges, lists of other lengths, other types."""
    found, rng = checkpoint(folder, Adam, generator), random.Random(0)
    states = json.loads(found[1]["training"])["generators"]
    bits = {"uinteger": 32, "key": 32 if generator == "MT19937" else 64}
    largest = {"pos": 624, "buffer_pos": 4, "has_uint32": 1}
    ways = [at for at in places(states["order"]) if at and at != ("bit_generator",)]
    for at in [*ways[:12], *rng.sample(ways, min(len(ways), 12))]:  # MT19937 has 624 alike
        which = rng.choice([*states])
        value: Any = value_at(states[which], at)
        if isinstance(value, int):
            name = next(key for key in reversed(at) if isinstance(key, str))
            wide = 128 if generator.startswith("PCG") else 64
            top = largest[name] if name in largest else 2 ** bits.get(name, wide) - 1
            others = [top + 1, -1, 10**400, float(value), str(value), None, [value], value == 1]
        elif isinstance(value, list):
            others = [value[:-1], [*value, 0], {}, None, [None] * len(value), "0" * len(value)]
        else:
            others = [{**value, "more": 1}, dict([*value.items()][1:]), [*value.items()], None, 0]
        for other in others:

            def change(training, at=(which, *at), other=other):
                put(training["generators"], at, other)

            changed(tmp_path / "run", found, of_training(change))
            refused(tmp_path / "run", f"the generator's state is none of a {generator}")


# The weights and the best of them


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["layers.1.W_h", "b_y", "best weights"])
def test_weights_that_are_not_finite(name, number, folder, tmp_path):
    def change(tensors, metadata, training):
        tensors[name] = tensors[name].copy()
        tensors[name].flat[0] = number

    changed(tmp_path / "run", checkpoint(folder), change)
    refused(tmp_path / "run", "weights are infinite or NaN")


@pytest.mark.parametrize(
    "best",
    [np.zeros(3), np.zeros((1, P)), np.zeros(0), np.zeros(()), np.zeros(P, np.int64), "double"],
    ids=lambda a: str(getattr(a, "shape", a)),
)
def test_best_weights_of_another_shape_or_dtype(best, folder, tmp_path):
    def change(tensors, metadata, training):
        double = tensors["best weights"].astype(np.float64)
        tensors["best weights"] = (
            double if isinstance(best, str) else best.astype("f4") if best.dtype == "f8" else best
        )

    changed(tmp_path / "run", checkpoint(folder), change)
    refused(tmp_path / "run", "best weights has shape .*, expected")
    with pytest.raises(ValueError, match="best weights has shape"):
        load(tmp_path / "run")


def test_best_weights_without_a_best_epoch_and_the_other_way_round(folder, tmp_path):
    def without(tensors, metadata, training):
        del tensors["best weights"]

    def no_epoch(tensors, metadata, training):
        training["history"]["best_epoch"] = None

    for change in (without, no_epoch):
        changed(tmp_path / "run", checkpoint(folder), change)
        refused(tmp_path / "run", "history's best epoch is")


# The history


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *itertools.product(("loss", "validation_loss", "seconds"), ([0.1], [0.1, "a"], [1, 2],
                           [0.1, float("nan")], [[0.1], [0.2]], [True, False])),
        *itertools.product(("loss", "validation_loss", "seconds"), ([0.1, float("inf")],)),
        *(("best_epoch", value) for value in (3, 0, -1, 1.0, 2.0, True, 10**400, "1")),
        *(("stopped", value) for value in ("often", "")),
        *itertools.product(
            ("loss", "validation_loss", "seconds", "best_epoch", "stopped"), OTHERS
        ),
    ],
)  # fmt: skip
def test_a_history_that_training_does_not_write(name, value, folder, tmp_path):
    changed(
        tmp_path / "run", checkpoint(folder),
        of_training(lambda training: training["history"].update({name: value})),
    )  # fmt: skip
    refused(tmp_path / "run", "history")


# The file as a whole


def test_every_byte_of_the_header_flipped(folder, tmp_path):
    content, rng = checkpoint(folder)[2], random.Random(0)
    size, taken = 8 + int.from_bytes(content[:8], "little"), 0
    for at in range(size):
        other = bytes([content[at] ^ rng.randrange(1, 256)])
        path = tmp_path / str(at)  # to write over a file takes a millisecond
        path.write_bytes(content[:at] + other + content[at + 1 :])
        taken += taken_or_refused(path)
    assert taken < size / 4  # a digit for another one, a space


def test_every_field_exchanged(folder, tmp_path):
    """For each of the other things that JSON knows."""
    tensors, metadata, _ = checkpoint(folder)
    taken = []
    for part in ("model", "training"):
        tree = json.loads(metadata[part])
        for number, at in enumerate(places(tree)):
            for which, other in enumerate(OTHERS):
                path = tmp_path / f"{part} {number} {which}"
                text = json.dumps(put(copy.deepcopy(tree), at, other))
                write(path, tensors, {**metadata, part: text})
                if taken_or_refused(path) and value_at(tree, at) != other:
                    taken.append(at)
    numbers = {("history", "loss", i) for i in range(2)}
    numbers |= {("history", name, i) for name in ("seconds", "validation_loss") for i in range(2)}
    numbers |= {("optimizer", name) for name in Adam().settings()}
    ways = {
        ("generators", which, *at)
        for which in ("order", "dropout")
        for at in (("uinteger",), ("state", "state"), ("state", "inc"))
    }
    assert set(taken) <= numbers | ways  # another number of the same kind


def mutate(content, rng):
    """Cut, repeat, exchange or drop a piece, or set a byte."""
    start, end = sorted(rng.choices(range(len(content)), k=2))
    end = min(end, start + 40)
    return rng.choice([
        content[:start],
        content[:end] + content[start:],
        content[:start] + content[end:],
        content[:start] + rng.randbytes(end - start) + content[end:],
        content[:start] + bytes(end - start) + content[end:],
        content[:start] + b"\xff" * (end - start) + content[end:],
        content[:start] + rng.choice([b"0", b"9", b"[", b"{", b'"', b"-", b"\\"]) + content[end:],
    ])  # fmt: skip


def test_mutations(folder, tmp_path):
    rng, path = random.Random(0), tmp_path / "run"
    for number in range(400):
        content = checkpoint(folder, Adam, GENERATORS[number % 5])[2]
        for _ in range(rng.randint(1, 3)):
            content = mutate(content, rng) or b"?"
        path.write_bytes(content)
        taken_or_refused(path)


@pytest.mark.parametrize("depth", [500, 5000, 200_000])
@pytest.mark.parametrize("where", ["settings", "generators", "history", "optimizer", "whole"])
@pytest.mark.parametrize("form", ['{{"a":{}}}', "[{}]"], ids=["objects", "lists"])
def test_deep_json(form, where, depth, folder, tmp_path):
    start, end = form.format("?").split("?")
    deep = start * depth + "1" + end * depth

    def change(tensors, metadata, training):
        if where == "whole":
            metadata["training"] = deep
        else:
            fields = {**{name: json.dumps(training[name]) for name in training}, where: deep}
            pairs = (f'"{name}": {text}' for name, text in fields.items())
            metadata["training"] = f"{{{', '.join(pairs)}}}"

    changed(tmp_path / "run", checkpoint(folder), change)
    refused(tmp_path / "run")
    changed(
        tmp_path / "run", checkpoint(folder),
        lambda tensors, metadata, training: metadata.update(model=deep),
    )  # fmt: skip
    refused(tmp_path / "run", "describes no model")


@pytest.mark.parametrize("part", ["model", "training"])
def test_a_name_that_stands_twice(part, folder, tmp_path):
    """Readers differ in which one they take."""
    tree = json.loads(checkpoint(folder)[1][part])
    for at in places(tree):
        found = value_at(tree, at)
        if isinstance(found, dict):
            text = json.dumps(found)
            name, value = next(iter(found.items()))
            twice = f"{{{json.dumps(name)}: {json.dumps(value)}, {text[1:]}"
            whole = json.dumps(tree).replace(text, twice)
            assert json.loads(whole) == tree

            def change(tensors, metadata, training, whole=whole):
                metadata[part] = whole

            changed(tmp_path / "run", checkpoint(folder), change)
            refused(tmp_path / "run", "stands twice")


def test_memory_follows_the_files_size(folder, tmp_path):
    """Whatever the sizes in it."""
    path = tmp_path / "run"
    for name in ("input_size", "hidden_size", "output_size", "num_layers"):
        for size in (10**5, 2**31, 2**63, 10**30, 10**400):

            def change(tensors, metadata, training, name=name, size=size):
                metadata["model"] = json.dumps({**json.loads(metadata["model"]), name: size})

            changed(path, checkpoint(folder), change)
            tracemalloc.start()
            refused(path)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 1e6
