"""One forward and one backward, compared with other libraries: a page, a picture and a table.

    python -m benchmarks.report [--dtype float64] [--rounds 3] [--output .asv/report]
                                [--python OTHER/bin/python ...]

Writes OUTPUT.html, one file that loads nothing else, and OUTPUT.png, and prints the README's
table, all from one run of some minutes on this machine; needs matplotlib.  Libraries that neither
this Python has installed nor one of the others given are left out.  Each runs in processes of its
own, in turn, since idle threads of one (OpenBLAS's spin for 0.1 s after a product) would slow down
the next; the least time of several rounds counts.  Each library uses its default number of threads,
all the cores that it sees.
"""

import argparse
import html
import io
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.figure import Figure

import fastbptt

from .suite import epoch, peak
from .suite.common import SHAPES, SIZES, operations, sizes, take_turns

# Around one shape: the cost of more steps, sequences or units.
SWEEPS = {
    "T": [f"{T} 32 32 64" for T in (3, 10, 30, 100, 300, 1000)],
    "B": [f"50 {B} 32 64" for B in (1, 4, 16, 64, 256, 1024)],
    "H": [f"50 32 32 {H}" for H in (16, 32, 64, 128, 256, 512)],
}
AXES = {"T": "time steps T", "B": "sequences B", "H": "hidden units H"}
NAMES = {
    "fastbptt": "fastbptt",
    "numpy": "NumPy",
    "torch": "PyTorch",
    "jax": "JAX",
    "onednn": "oneDNN",
}
# Okabe and Ito's colours, which colour-blind readers can tell apart; markers for black and white.
COLOURS = {
    "fastbptt": "#0072B2",
    "numpy": "#A6A6A6",
    "torch": "#E69F00",
    "jax": "#009E73",
    "onednn": "#CC79A7",
}
MARKERS = {"fastbptt": "o", "numpy": "s", "torch": "^", "jax": "D", "onednn": "v"}


class Run(NamedTuple):
    """What was measured: seconds by library and case, operations per second of the machine."""

    dtype: str
    peak: float
    seconds: dict[str, dict[str, float]]
    machine: dict[str, str]

    def ratio(self, library, case):
        """A library's time over ours."""
        return self.seconds[library][case] / self.seconds["fastbptt"][case]

    def share(self, library, shape):
        """Percent of the machine's peak."""
        return 100 * sum(operations(shape)) / self.seconds[library][shape] / self.peak

    @property
    def rivals(self):
        return [library for library in self.seconds if library != "fastbptt"]


def alone(python, *arguments):
    """The lines that `benchmarks.alone` prints in a process of its own."""
    command = [python, "-m", "benchmarks.alone", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.splitlines()


def installed(dtype, pythons):
    """Of each library, the first Python that has it, and which version."""
    found = {}
    for python in pythons:
        for line in alone(python, "--installed"):
            name, version = line.split()
            found.setdefault(name, (python, version))
    if dtype != "float32":
        found.pop("onednn", None)
    return {name: found[name] for name in NAMES if name in found}


def measure(dtype, rounds, pythons):
    """Run every library that is installed, in turn, for a number of rounds."""
    burn, count = peak.burner(dtype)
    libraries = installed(dtype, pythons)
    shapes = [*SHAPES, *(shape for sweep in SWEEPS.values() for shape in sweep)]
    shapes = list(dict.fromkeys(shapes))
    cases = {name: shapes + ["epoch"] * (name in epoch.LIBRARIES) for name in libraries}
    seconds = {name: dict.fromkeys(cases[name], float("inf")) for name in libraries}
    limit = float("inf")
    for number in range(rounds):
        for name, (python, _) in libraries.items():
            print(f"round {number + 1} of {rounds}: {NAMES[name]}", file=sys.stderr)
            limit = min(limit, *take_turns((burn,)))
            lines = alone(python, "--dtype", dtype, name, *cases[name])
            for case, line in zip(cases[name], lines, strict=True):
                seconds[name][case] = min(seconds[name][case], float(line))
    return Run(dtype, count / limit, seconds, describe(libraries, dtype, count / limit))


def describe(libraries, dtype, rate):
    """The machine and the software, as rows of a table."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if "model name" in line), model)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = [f"fastbptt {fastbptt.__version__}"]
    versions += [
        f"{NAMES[name]} {version}" for name, (_, version) in libraries.items() if name != "fastbptt"
    ]
    return {
        "Processor": f"{model}, {cores} cores",
        "Vectors": f"{8 * peak.vector_bytes()} bits",
        "Multiply-adds": f"{rate / 1e9:.0f} GFLOP/s in {dtype}, measured",
        "System": platform.platform(),
        "Software": f"Python {platform.python_version()}, {', '.join(versions)}",
        "Day": time.strftime("%Y-%m-%d"),
    }


def table(run):
    """The README's table, in Markdown."""
    heads = ["fastbptt", "of peak", *(NAMES[name] for name in run.rivals)]
    rows = [f"| T B I H | {' | '.join(heads)} |", f"| --- |{' ---: |' * len(heads)}"]
    for shape in SHAPES:
        cells = [readable(run.seconds["fastbptt"][shape])]
        cells.append(f"{run.share('fastbptt', shape):.0f} %")
        cells += [as_long(run.ratio(name, shape)) for name in run.rivals]
        rows.append(f"| {shape} | {' | '.join(cells)} |")
    ratios = ([run.ratio(name, shape) for shape in SHAPES] for name in run.rivals)
    means = map(as_long, map(statistics.geometric_mean, ratios))
    rows.append(f"| geometric mean | | | {' | '.join(means)} |")
    return "\n".join(rows)


def as_long(ratio):
    """Such as "1.05×", "12.3×"."""
    return f"{ratio:.{2 if ratio < 1.995 else 1}f}×"


def readable(seconds):
    """Such as "12 us", "5.3 ms"."""
    units = ("s", 1), ("ms", 1e3), ("us", 1e6)
    unit, scale = next((unit for unit in units if seconds * unit[1] >= 1), units[-1])
    number = seconds * scale
    return f"{number:.{0 if number >= 10 else 1}f} {unit}"


# Pictures: each draws into a matplotlib figure or a part of one


def quiet(ax, sides=("top", "right", "left")):
    """Remove all lines but the axes that are read."""
    ax.spines[list(sides)].set_visible(False)
    ax.tick_params(length=0)


def draw_bars(ax, run, case):
    """Bars of time, on a scale from 0."""
    libraries = [name for name in run.seconds if case in run.seconds[name]]
    times = [run.seconds[name][case] for name in libraries]
    ax.barh(libraries, times, color=[COLOURS[name] for name in libraries], height=0.72)
    for y, name in enumerate(libraries):
        label, weight = " " + readable(times[y]), "bold"
        if name != "fastbptt":
            label, weight = f"{label}  {as_long(run.ratio(name, case))}", "normal"
        ax.text(times[y], y, label, va="center", fontsize=8, fontweight=weight)
    ax.set_yticks(range(len(libraries)), [NAMES[name] for name in libraries], fontsize=8)
    ax.invert_yaxis()
    ax.set_xlim(0, 1.5 * max(times))
    ax.set_xticks([])
    quiet(ax, ("top", "right", "bottom"))


def draw_times(figure, run):
    """One panel for each shape."""
    for shape, ax in zip(SHAPES, figure.subplots(4, 4).flat, strict=True):
        draw_bars(ax, run, shape)
        title = "  ".join(f"{n} {size}" for n, size in zip("TBIH", shape.split(), strict=True))
        ax.set_title(title, fontsize=9, loc="left")


def draw_epoch(figure, run):
    draw_bars(figure.subplots(), run, "epoch")


def draw_shares(figure, run):
    """Share of the machine's peak, a row for each shape."""
    ax = figure.subplots()
    shapes = sorted(SHAPES, key=lambda shape: run.share("fastbptt", shape))
    for y, shape in enumerate(shapes):
        shares = [run.share(name, shape) for name in run.seconds]
        ax.plot([min(shares), max(shares)], [y, y], color="0.85", linewidth=3, zorder=1)
    for name in reversed(run.seconds):
        shares = [run.share(name, shape) for shape in shapes]
        size = 70 if name == "fastbptt" else 42
        ax.scatter(shares, range(len(shapes)), size, COLOURS[name], marker=MARKERS[name],
                   label=NAMES[name], zorder=2, edgecolors="white", linewidths=0.6)  # fmt: skip
    ax.set_yticks(range(len(shapes)), shapes, fontsize=8)
    ax.set_xlim(0, 100)
    ax.set_xlabel(f"% of {run.peak / 1e9:.0f} GFLOP/s, the machine's fused multiply-adds")
    ax.grid(axis="x", color="0.92")
    ax.set_axisbelow(True)
    quiet(ax)
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(handles[::-1], labels[::-1], frameon=False, fontsize=8, loc="lower right")


def draw_scaling(figure, run):
    """Time against T, B and H, both axes logarithmic."""
    axes = figure.subplots(1, len(SWEEPS), sharey=True)
    for ax, (letter, sweep) in zip(axes, SWEEPS.items(), strict=True):
        at = [sizes(shape)["TBIH".index(letter)] for shape in sweep]
        for name in reversed(run.seconds):
            times = [1e3 * run.seconds[name][shape] for shape in sweep]
            ax.loglog(at, times, color=COLOURS[name], marker=MARKERS[name], markersize=4,
                      linewidth=2.4 if name == "fastbptt" else 1.4, label=NAMES[name])  # fmt: skip
        fixed = dict(zip("TBIH", sweep[0].split(), strict=True))
        del fixed[letter]
        ax.set_title("  ".join(f"{n} {s}" for n, s in fixed.items()), fontsize=9, loc="left")
        ax.set_xticks(at, list(map(str, at)), minor=False, fontsize=8)
        ax.set_xticks([], minor=True)
        ax.set_xlabel(AXES[letter])
        ax.grid(color="0.92")
        quiet(ax, ("top", "right"))
    axes[0].set_ylabel("time, ms")
    handles, labels = axes[0].get_legend_handles_labels()
    axes[0].legend(handles[::-1], labels[::-1], frameon=False, fontsize=8)


PARTS = (
    (
        "Time",
        f"One forward and one backward of {SIZES}, every gradient included. Each panel has a scale "
        "of its own, from 0; × says how many times as long as fastbptt.",
        draw_times,
        (11, 8.4),
    ),
    (
        "An epoch of training",
        f"{epoch.N:,} sequences of {epoch.T} numbers, {epoch.H} hidden units, {epoch.O} classes, "
        f"minibatches of {epoch.BATCH}: fastbptt.fit, and the same loop in PyTorch.",
        draw_epoch,
        (11, 0.9),
    ),
    (
        "Share of the machine's peak",
        "Floating-point operations, 6 T B H (I + H), over time, beside what the machine's units do "
        f"when nothing else holds them up. Shapes are T B I H: {SIZES}.",
        draw_shares,
        (11, 5.0),
    ),
    (
        "Scaling",
        "How time grows with one size while the others stay.",
        draw_scaling,
        (11, 3.8),
    ),
)


def svg(draw, size, run):
    """A picture as an <svg> element whose text stays text."""
    figure, file = Figure(figsize=size, layout="constrained"), io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": draw.__name__}):
        draw(figure, run)
        figure.savefig(file, format="svg", metadata=nothing)
    text = file.getvalue()
    return text[text.index("<svg") :]


def picture(run, path):
    """All parts in one PNG."""
    heights = [size[1] for _, _, _, size in PARTS]
    figure = Figure(figsize=(PARTS[0][3][0], sum(heights) + 0.9), layout="constrained")
    parts = figure.subfigures(len(PARTS), height_ratios=heights)
    for part, (title, _, draw, _) in zip(parts, PARTS, strict=True):
        part.suptitle(f"{title}, {run.dtype}", x=0.01, ha="left", fontweight="bold")
        draw(part, run)
    figure.savefig(path, dpi=130)


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
       max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2 { margin: 2.6rem 0 .2rem; }
p { margin: .2rem 0 1rem; color: #555; }
svg { width: 100%; height: auto; }
svg text { font-family: system-ui, sans-serif !important; white-space: pre; }
.cards { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.4rem 0; }
.cards div { flex: 1 1 12rem; padding: .8rem 1rem; border-left: 5px solid; background: #f6f7f8; }
.cards b { display: block; font-size: 1.8rem; line-height: 1.2; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #e6e6e6; }
th:first-child, td:first-child { text-align: left; white-space: nowrap; }
.machine td { text-align: left; }
"""


def page(run):
    """The whole page as one text, which names no other file."""
    cards = "".join(
        f'<div style="border-color: {COLOURS[name]}">'
        f"<b>{statistics.median(run.ratio(name, shape) for shape in SHAPES):.1f}×</b>"
        f"{NAMES[name]}'s time over fastbptt's, the median of {len(SHAPES)} shapes</div>"
        for name in run.rivals
    )
    parts = "".join(
        f"<h2>{title}</h2>\n<p>{text}</p>\n{svg(draw, size, run)}\n"
        for title, text, draw, size in PARTS
    )
    machine = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>\n"
        for name, text in run.machine.items()
    )
    title = f"fastbptt beside {', '.join(NAMES[name] for name in run.rivals)}"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{title}</h1>
<p>A vanilla recurrent layer, forward and backward through time, {run.dtype}, on
{html.escape(run.machine["Processor"])}.</p>
<div class="cards">{cards}</div>
{parts}
<h2>In numbers</h2>
<p>{SIZES}; fastbptt's time for a forward and a backward, its share of the machine's peak, and how
many times as long the others take.</p>
<div class="scroll"><table>{rows_of(table(run))}</table></div>
<h2>The machine</h2>
<table class="machine">{machine}</table>
<p>Each library in processes of its own, by turns, with the threads it takes by itself; the least
time of several rounds. Made by <code>python -m benchmarks.report</code>.</p>
</body>
</html>
"""


def rows_of(markdown):
    """A Markdown table's rows in HTML."""
    head, _, *body = ([cell.strip() for cell in line.strip("|").split("|")]
                      for line in markdown.splitlines())  # fmt: skip
    rows = [("th", head), *(("td", cells) for cells in body)]
    return "".join(
        f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>\n"
        for tag, cells in rows
    )


def main():
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    cli.add_argument("--rounds", type=int, default=3)
    cli.add_argument("--output", type=Path, default=Path(".asv/report"))
    cli.add_argument("--python", nargs="*", default=[], help="others, for what this one lacks")
    args = cli.parse_args()
    run = measure(args.dtype, args.rounds, [sys.executable, *args.python])
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.with_suffix(".html").write_text(page(run), "utf-8")
    picture(run, args.output.with_suffix(".png"))
    print(table(run))
    for name in run.rivals:
        if "epoch" in run.seconds[name]:
            print(f"\nAn epoch of training: {readable(run.seconds['fastbptt']['epoch'])}; "
                  f"{NAMES[name]} {readable(run.seconds[name]['epoch'])}, "
                  f"{run.ratio(name, 'epoch'):.1f} times as long")  # fmt: skip


if __name__ == "__main__":
    main()
