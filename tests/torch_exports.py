"""ONNX files as PyTorch writes them: `python tests/torch_exports.py` makes torch_exports.zip anew.

Needs torch, onnx and onnxscript.  PyTorch has two exporters: the older one writes nodes RNN, the
other, the default, every step by itself.
"""

import logging
import tempfile
import warnings
import zipfile
from pathlib import Path

ARCHIVE = Path(__file__).with_suffix(".zip")
I, H, O = 3, 5, 2
STEPS = 3  # that are written out


def networks():
    """For each name, a network and what it is called with."""
    import torch
    from torch import nn
    from torch.nn.utils import rnn as packing

    class Network(nn.Module):
        def __init__(self, read, **options):
            super().__init__()
            self.rnn, self.read = nn.RNN(I, H, **options), read
            self.readout = nn.Linear(H * (1 + self.rnn.bidirectional), O)

        def forward(self, x):
            h, last = self.rnn(x)
            if self.read == "last":
                return self.readout(h[:, -1] if self.rnn.batch_first else h[-1])
            if self.read == "last of both":
                return self.readout(torch.cat([last[-2], last[-1]], 1))
            return h if self.read == "nothing" else self.readout(h)

    class Packed(Network):
        def forward(self, x, lengths):
            packed = packing.pack_padded_sequence(x, lengths, True, enforce_sorted=False)
            return self.readout(packing.pad_packed_sequence(self.rnn(packed)[0], True)[0])

    torch.manual_seed(0)
    x = torch.randn(4, STEPS, I)
    for name, network in {
        "last": Network("last", batch_first=True),
        "all": Network("all", num_layers=2, nonlinearity="relu"),
        "last of both": Network("last of both", num_layers=2, bidirectional=True, batch_first=True),
        "without biases": Network("all", bias=False, batch_first=True),
        "both": Network("all", num_layers=3, bidirectional=True, batch_first=True, dropout=0.5),
        "bare": Network("nothing", bidirectional=True, batch_first=True),
        "misread": Network("last", bidirectional=True, batch_first=True),
    }.items():
        given = x if network.rnn.batch_first else x.transpose(0, 1).contiguous()
        yield name, network.eval(), (given,)
    yield "packed", Packed("all", batch_first=True).eval(), (x, torch.tensor([3, 1, 2, 2]))


def write(folder):
    """Export all networks, both ways, and yield name, path, network and inputs of each file."""
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    for name, network, given in networks():
        for way in ("steps", "nodes"):
            if name == "packed" and way == "steps":
                continue  # PyTorch cannot
            path, options = Path(folder) / f"{name}, {way}.onnx", {"external_data": False}
            if way == "nodes":
                free = {0: "first", 1: "second"}
                options = {"dynamic_axes": {"x": free, "lengths": {0: "first"}}}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.onnx.export(
                    network, given, path, input_names=["x", "lengths"][: len(given)],
                    dynamo=way == "steps", verbose=False, **options,
                )  # fmt: skip
            yield name, path, network, given


def main():
    import onnx

    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(ARCHIVE, "w") as archive:
        for _, path, _, _ in write(folder):
            proto = onnx.load(path)
            for node in proto.graph.node:
                del node.metadata_props[:]  # lines of code that it comes from
            content = proto.SerializeToString()
            archive.writestr(zipfile.ZipInfo(path.name), content, zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    main()
