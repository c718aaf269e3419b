"""Whole programs in torch with fastbptt.torch.RNN inside: compiled, exported, in several processes.

Half a minute each where nothing is cached, so they run with ``-m world``, as .ci/run does.
"""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

pytest.importorskip("torch")
import fastbptt

pytestmark = pytest.mark.world

FOLDER = pathlib.Path(fastbptt.__file__).parents[1]
MODEL = """
import io, itertools, sys
import numpy as np
import torch
import fastbptt.torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

class Model(nn.Module):
    def __init__(self, kind=fastbptt.torch.RNN, dtype=torch.float32, **options):
        super().__init__()
        self.rnn = kind(3, 16, dtype=dtype, **options)
        width = 16 * (2 if self.rnn.bidirectional else 1)
        self.read = nn.Linear(width, 2, dtype=dtype)

    def forward(self, x, hx=None):
        output, h_n = self.rnn(x, hx)
        return self.read(torch.relu(output)), h_n

DEEP = dict(num_layers=2, bidirectional=True, batch_first=True)

def gradients(call, model, *args):
    model.zero_grad()
    y, h_n = call(*args)
    (y.sum() + (h_n**2).sum()).backward()
    return [y.detach(), h_n.detach(), *(w.grad.clone() for w in model.parameters())]

def close(got, expected, tolerance=1e-5):
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
"""


def run(program, *args, **environment):
    """Run a program that asserts what it finds; what it prints."""
    file = pathlib.Path(args[0]) if args else None
    command = [sys.executable, "-c", MODEL + program, *map(str, args)]
    if file is not None:  # processes that are spawned import the program
        script = file / "program.py"
        script.write_text(MODEL + program)
        command[1:3] = [str(script)]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(FOLDER), **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_without_a_break(backend):
    if backend == "inductor" and not shutil.which("g++"):
        pytest.skip("inductor needs a C++ compiler")
    run(f"""
for options in ({{}}, DEEP):
    torch.manual_seed(0)
    model, x = Model(**options), torch.randn(6, 4, 3)
    compiled = torch.compile(model, fullgraph=True, backend={backend!r})
    expected = gradients(model, model, x)
    close(gradients(compiled, model, x), expected)
    for B in (5, 9):
        x = torch.randn(6, B, 3)
        close(compiled(x), model(x))
    model.zero_grad()
    compiled(x)[1].sum().backward()
    h_n_alone = model.rnn.weight_hh_l0.grad.clone()
    model.zero_grad()
    model(x)[1].sum().backward()
    close([h_n_alone], [model.rnn.weight_hh_l0.grad])

for of in ("rate", "potential"):
    rnn = fastbptt.torch.LeakyRNN(3, 16, fastbptt.Leak(0.2, of), noise=0.1).eval()
    compiled = torch.compile(rnn, fullgraph=True, backend={backend!r})
    close(gradients(compiled, rnn, x), gradients(rnn, rnn, x))
    rnn.train()
    assert not torch.equal(compiled(x)[0], compiled(x)[0])

rnn = fastbptt.torch.RNN(3, 16)
packed = pack_sequence([torch.randn(n, 3) for n in (6, 5, 2)])
got, expected = torch.compile(rnn, fullgraph=True, backend={backend!r})(packed), rnn(packed)
close([got[0].data, got[1]], [expected[0].data, expected[1]])
""")


def test_others_are_compiled_as_before():
    """Torch's own recurrent modules still break the graph, as torch wants it."""
    run("""
for kind, ours in ((nn.RNN, False), (fastbptt.torch.RNN, True)):
    torch._dynamo.reset()
    torch.compile(kind(3, 5), fullgraph=ours, backend="eager")(torch.zeros(2, 3, 3))
    assert bool(torch._dynamo.utils.counters["graph_break"]) != ours
    torch._dynamo.utils.counters.clear()
assert not torch._dynamo.config.allow_rnn
""")


def test_exported():
    run("""
for options in ({}, DEEP):
    model, x, B = Model(**options).eval(), torch.randn(6, 4, 3), torch.export.Dim("B", min=2)
    axis = 0 if options else 1
    program = torch.export.export(model, (x,), dynamic_shapes={"x": {axis: B}})
    operators = [str(node.target) for node in program.graph.nodes]
    assert operators.count("fastbptt.rnn.default") == model.rnn.num_layers
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    for each in (program, torch.export.load(file)):
        for other in (x, torch.randn((9, 4, 3) if options else (6, 9, 3))):
            close(each.module()(other), model(other))
""")


@pytest.mark.filterwarnings("ignore")
def test_traced():
    run("""
import warnings
warnings.simplefilter("ignore")
model, x = Model(), torch.randn(6, 4, 3)
traced = torch.jit.trace(model, (x,))
close(traced(2 * x), model(2 * x))
""")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_data_loader(method, tmp_path):
    """A model in the workers, after the parent has used its threads; and beside them."""
    run(
        f"""
class Features(torch.utils.data.Dataset):
    def __init__(self, model, x):
        self.model, self.x = model, x
    def __len__(self):
        return len(self.x)
    def __getitem__(self, i):
        with torch.no_grad():
            return self.model(self.x[i])[0]

def main():
    torch.manual_seed(0)
    model, x = fastbptt.torch.RNN(32, 64), torch.randn(8, 50, 16, 32)
    expected = [model(each)[0].detach() for each in x]
    loader = torch.utils.data.DataLoader(
        Features(model, x), batch_size=None, num_workers=2, multiprocessing_context={method!r}
    )
    for _ in range({2 if method == "fork" else 1}):
        for i, got in enumerate(loader):
            assert torch.equal(got, expected[i])
            model(x[i])[0].sum().backward()

if __name__ == "__main__":
    main()
""",
        tmp_path,
    )


def test_distributed_data_parallel(tmp_path):
    """Two processes over gloo train to the result of one."""
    run(
        """
def train(model, rows):
    torch.manual_seed(1)
    x, y = torch.randn(6, 8, 3).double(), torch.randn(6, 8, 2).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        ((model(x[:, rows])[0] - y[:, rows]) ** 2).mean().backward()
        optimizer.step()

def work(rank, folder):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    torch.manual_seed(rank)  # the first one's weights count
    model = Model(num_layers=2, dtype=torch.float64)
    train(nn.parallel.DistributedDataParallel(model), slice(4 * rank, 4 * rank + 4))
    if rank == 0:
        torch.save(model.state_dict(), f"{folder}/state")
    torch.distributed.destroy_process_group()

if __name__ == "__main__":
    folder = sys.argv[1]
    torch.multiprocessing.spawn(work, (folder,), nprocs=2)
    torch.manual_seed(0)
    model = Model(nn.RNN, num_layers=2, dtype=torch.float64)
    train(model, slice(0, 8))
    got = torch.load(f"{folder}/state")
    for name, expected in model.state_dict().items():
        close([got[name]], [expected], 1e-10)
""",
        tmp_path,
    )


def test_skorch():
    pytest.importorskip("skorch")
    run("""
from skorch import NeuralNetClassifier

class Classifier(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.rnn, self.read = kind(3, 8, batch_first=True), nn.Linear(8, 2)
    def forward(self, x):
        return self.read(self.rnn(x)[1][-1]).softmax(-1)

x = np.random.default_rng(0).standard_normal((64, 6, 3)).astype("float32")
y = (x[:, :, 0].sum(1) > 0).astype("int64")
histories = []
for kind in (nn.RNN, fastbptt.torch.RNN):
    torch.manual_seed(0)
    net = NeuralNetClassifier(
        Classifier, module__kind=kind, max_epochs=5, lr=0.5, train_split=None, verbose=0
    )
    net.fit(x, y)
    histories.append(net.history[:, "train_loss"])
np.testing.assert_allclose(histories[1], histories[0], rtol=1e-5)
""")


def test_threads_of_torch_stay_as_they_are():
    """Numba, where it starts its threads, sets the number of all OpenMP threads of its caller."""
    run("""
torch.set_num_threads(1)
model, x = fastbptt.torch.RNN(64, 128), torch.randn(100, 64, 64)
model(x)[0].sum().backward()
assert torch.get_num_threads() == 1
""")
