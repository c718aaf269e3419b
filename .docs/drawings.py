"""Draw the pictures of README.md and the pages: python .docs/drawings.py"""

import re
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, Rectangle

import fastbptt
from fastbptt._colors import BRIGHT, DARK, GREY, PALE
from fastbptt.diagnostics import layer_gradient_flow

HERE = Path(__file__).parent
LIGHT = "#dbe4f3"  # of DARK
plt.rcParams.update({"font.size": 11, "svg.hashsalt": "fastbptt", "mathtext.fontset": "cm"})


def speed():
    """Times of others relative to ours, from the table of the page on speed."""
    table = re.findall(r"^\| ([\d ]+) \|(.*)\|$", (HERE / "speed.md").read_text("utf-8"), re.M)
    ratios = {shape: [float(n.strip(" ×")) for n in row.split("|")[2:]] for shape, row in table}
    shapes = ["10 32 3 16", "50 32 32 64", "200 256 16 32", "784 128 1 128", "100 64 64 128",
              "100 128 256 512"]  # fmt: skip
    fig, ax = plt.subplots(figsize=(8, 3.5))
    for y, shape in enumerate(reversed(shapes)):
        others = ratios[shape]
        ax.plot([1, max(others)], [y, y], color=GREY, lw=3, zorder=1)
        for other, (marker, color) in zip(others, MARKERS.values(), strict=True):
            ax.plot(other, y, marker, ms=9, color=color, mec="white", zorder=2)
        ax.plot(1, y, "o", ms=10, color=DARK, zorder=3)
        ax.text(max(others) * 1.1, y, f"{max(others)}×", va="center", color="0.3")
    ax.set_xscale("log")
    ax.set_xlim(0.93, 32)
    ax.set_xticks([1, 2, 5, 10, 20], ["1×", "2×", "5×", "10×", "20×"])
    ax.minorticks_off()
    ax.set_yticks(range(len(shapes)), [label(shape) for shape in reversed(shapes)])
    ax.tick_params(length=0)
    ax.set_title(
        "T steps, B sequences, I inputs, H hidden units, float32", loc="left", x=-0.34, fontsize=11
    )
    ax.set_xlabel("time for a gradient, relative to fastbptt, on two CPU cores")
    ax.grid(axis="x", color="0.92")
    ax.spines[:].set_visible(False)
    entries = [("fastbptt", ("o", DARK)), *MARKERS.items()]
    for name, (marker, color) in entries:
        ax.plot([], [], marker, ms=9, color=color, mec="white", label=name)
    ax.legend(loc="lower right", frameon=False)
    return fig


MARKERS = {"NumPy": ("s", "0.55"), "PyTorch": ("^", BRIGHT), "JAX": ("D", "#3f8f6b"),
           "oneDNN": ("v", "#8a5a9e")}  # fmt: skip


def label(shape):
    return "  ".join(f"{name} {n}" for name, n in zip("TBIH", shape.split(), strict=True))


def vanishing():
    """Norms of a gradient on its way back, in a layer of 32 units."""
    fig, axes = plt.subplots(1, 2, figsize=(8, 3.3), sharey=True, layout="constrained")
    x = np.random.default_rng(0).standard_normal((50, 8, 4))
    params = fastbptt.init_params(4, 32, dtype="float64", seed=0)
    for ax, (f, title) in zip(axes, (("identity", "no activation"), ("tanh", "tanh")), strict=True):
        for radius, color in ((1.25, BRIGHT), (1, "0.5"), (0.8, DARK)):
            scaled = params._replace(W_h=radius * params.W_h)
            h = fastbptt.forward(scaled, x, activation=f, backend="numpy")
            flow = layer_gradient_flow(scaled, x, h, np.ones((8, 32)), activation=f)
            relative = 10 ** (flow.log10_gradient - flow.log10_gradient[-1])
            ax.semilogy(relative, color=color, lw=2.5, label=f"spectral radius {radius}")
        ax.set_title(title, loc="left")
        ax.set_xlabel("time step t")
        ax.grid(color="0.92")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("norm of the gradient at $h_t$")
    axes[1].legend(frameon=False)
    return fig


def sheet(width, height):
    """Axes in which a unit is 1 cm, with nothing in them."""
    fig = plt.figure(figsize=(width / 2.54, height / 2.54))
    ax = fig.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    ax.axis("off")
    return fig, ax


def box(ax, x, y, width, height, text="", color=LIGHT, ink="black", size=10, **how):
    ax.add_patch(Rectangle((x, y), width, height, fc=color, ec=how.pop("ec", DARK), **how))
    ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", color=ink, fontsize=size)


def arrow(ax, start, end, color=DARK, **how):
    how = {"arrowstyle": "-|>", "mutation_scale": 12, "lw": 1.4, "shrinkA": 0, "shrinkB": 0} | how
    ax.add_patch(FancyArrowPatch(start, end, color=color, **how))


def tile():
    """A step of a block: rows times panels, in tiles."""
    fig, ax = sheet(20, 8.6)
    ax.text(0.4, 8.0, "A step of a block of sequences", weight="bold")
    box(ax, 0.6, 2.2, 5.2, 4.2)
    box(ax, 0.6, 4.4, 5.2, 1.0, color=BRIGHT)
    for x, text in ((1.9, "$h_{t-1}$"), (4.1, "$x_t$"), (5.4, "1")):
        ax.text(x, 6.7, text, ha="center")
    for x in (3.2, 5.05):
        ax.plot([x, x], [2.2, 6.4], color=DARK, lw=0.8, ls=":")
    ax.text(3.2, 4.9, "MR rows, a number at a time", ha="center", va="center", fontsize=9)
    ax.text(3.2, 1.6, "rows: a sequence each", ha="center", color="0.3", fontsize=9)
    ax.text(6.3, 4.3, "×", fontsize=16, ha="center", va="center")
    for i in range(4):
        box(ax, 7.0 + 1.1 * i, 1.6, 1.0, 5.2, color=BRIGHT if i == 1 else LIGHT)
    for y, text in ((5.3, "$W_h$"), (3.2, "$W_x$"), (1.95, "$b$")):
        ax.text(11.7, y, text, va="center")
    ax.text(8.6, 3.9, "NR columns, two vectors", rotation=90, ha="center", va="center", fontsize=9)
    ax.text(9.2, 0.9, "panels: packed once a call", ha="center", color="0.3", fontsize=9)
    ax.text(12.75, 4.3, "=", fontsize=16, ha="center", va="center")
    box(ax, 13.4, 2.2, 4.4, 4.2)
    box(ax, 14.5, 4.4, 1.0, 1.0, color=BRIGHT)
    ax.text(15.6, 6.7, "$h_t = f(z_t)$", ha="center")
    ax.text(
        15.6, 1.65, "sums stay in registers; f is applied", ha="center", color="0.3", fontsize=9
    )
    ax.text(15.6, 1.15, "beside the next tile's products", ha="center", color="0.3", fontsize=9)
    return fig


def forward():
    """Who computes what, forward: blocks of sequences, or shares of units."""
    fig, ax = sheet(20, 7.2)
    ax.text(
        0.6, 5.9, "Many sequences:\neach worker takes a block of them", weight="bold", va="center"
    )
    for i, (color, ink) in enumerate(((DARK, "white"), (BRIGHT, "black"))):
        y = 3.6 - 1.9 * i
        for t in range(6):
            box(ax, 0.6 + 1.45 * t, y, 1.1, 1.5, f"t = {t + 1}" if t < 5 else "…", color, ink, 9)
            if t:
                arrow(ax, (0.25 + 1.45 * t, y + 0.75), (0.6 + 1.45 * t, y + 0.75))
        ax.text(9.4, y + 0.75, f"worker {i}", va="center", fontsize=9)
    ax.text(0.6, 0.7, "nobody waits between steps", color="0.3", fontsize=9)
    ax.text(
        11.8,
        5.9,
        "Few sequences, large weights:\neach has a share of the units",
        weight="bold",
        va="center",
    )
    for t in range(4):
        x = 11.8 + 2.0 * t
        box(ax, x, 3.0, 1.1, 2.1, "worker 0" if not t else "", DARK, "white", 7)
        box(ax, x, 0.9 + 0.8, 1.1, 1.3, "worker 1" if not t else "", BRIGHT, "black", 7)
        if t < 3:
            ax.plot([x + 1.55, x + 1.55], [1.5, 5.3], color="0.3", lw=1.2, ls="--")
            arrow(ax, (x + 1.1, 3.4), (x + 2.0, 3.4))
    ax.text(11.8, 0.7, "a meeting after each step (dashed)", color="0.3", fontsize=9)
    return fig


def backward():
    """The way back through time blocks."""
    fig, ax = sheet(20, 8.4)
    ax.text(
        0.4,
        7.8,
        "Backward: a time block after the other, from the last to the first",
        weight="bold",
    )
    for i, name in enumerate(("steps 1 … 40", "steps 41 … 80", "steps 81 … 120")):
        color = BRIGHT if i == 1 else LIGHT
        box(ax, 0.6 + 6.5 * i, 5.2, 5.6, 1.6, name, color)
        if i:
            arrow(ax, (0.6 + 6.5 * i, 6.0), (6.2 + 6.5 * (i - 1), 6.0))
            ax.text(0.15 + 6.5 * i, 6.25, "$dz$", ha="center", fontsize=9)
    arrow(ax, (9.9, 5.2), (9.9, 4.4))
    box(
        ax,
        7.1,
        3.0,
        5.6,
        1.4,
        "buffer: $dz_t$ of the block, beside\n$x$ and $h$, in the cache",
        PALE,
        size=9,
    )
    for x, text, to in (
        (0.6, "weight gradients: a product\nover all rows of the block", (3.4, 1.9)),
        (7.1, "input gradients:\nanother product", (9.9, 1.9)),
        (13.6, "then the buffer is written\nover by the next block", (16.4, 1.9)),
    ):
        box(ax, x, 0.5, 5.6, 1.4, text, "white", size=9)
        arrow(ax, (9.9, 3.0), to)
    return fig


def shares():
    """A minibatch in shares, which ranks compute."""
    fig, ax = sheet(20, 6.4)
    colors = (DARK, "white"), (BRIGHT, "black"), ("#3f8f6b", "white"), (PALE, "black")
    ax.text(0.4, 5.8, "A minibatch in 8 shares, on 4 ranks", weight="bold")
    for i in range(8):
        color, ink = colors[i % 4]
        x = 0.6 + 2.4 * i
        ax.text(x + 1.0, 5.25, f"rank {i % 4}", ha="center", fontsize=9)
        box(ax, x, 4.0, 2.0, 1.1, f"share {i}", color, ink)
        arrow(ax, (x + 1.0, 4.0), (x + 1.0, 3.4))
        box(ax, x, 2.4, 2.0, 1.0, f"gradient {i}", "white", size=9)
        arrow(ax, (x + 1.0, 2.4), (x + 1.0, 1.7))
    box(
        ax,
        0.6,
        0.5,
        18.8,
        1.2,
        "summed in one order, whoever computed them: the same bits on any number of ranks",
    )
    return fig


if __name__ == "__main__":
    for draw in (speed, vanishing, tile, forward, backward, shares):
        path = HERE / "pictures" / f"{draw.__name__}.svg"
        draw().savefig(path, bbox_inches="tight", metadata={"Date": None})
        plt.close("all")
