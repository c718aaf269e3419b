"""The benchmarks measure the same thing for every library, and their pages load nothing remote."""

import io
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

import fastbptt
from benchmarks import offline, roofline
from benchmarks.suite import common, leaky, peak, rivals

# What a page can name that a browser would fetch from another host.
FOREIGN = re.compile(r"""(?:src|href|url|@import)\s*[=(]?\s*["']?(?:https?:)?//""")

PAGE = """<script src="https://code.jquery.com/jquery-3.3.1.min.js" integrity="sha256-Fg=" \
crossorigin="anonymous" onerror="js_load_failure()"></script>
<script src="https://cdnjs.cloudflare.com/ajax/libs/blueimp-md5/2.19.0/js/md5.min.js"></script>
<script src="asv.js"></script>
<link rel="stylesheet" href="//cdn.jsdelivr.net/npm/bootstrap@3.1.1/dist/css/bootstrap.min.css">
<a href="https://example.org/">a link, which loads nothing</a>
"""


def test_a_localised_page_loads_nothing_from_elsewhere():
    got = offline.localise(PAGE)
    assert (
        got
        == """<script src="npm/jquery/dist/jquery.min.js" onerror="js_load_failure()"></script>
<script src="npm/blueimp-md5/js/md5.min.js"></script>
<script src="asv.js"></script>
<link rel="stylesheet" href="npm/bootstrap/dist/css/bootstrap.min.css">
<a href="https://example.org/">a link, which loads nothing</a>
"""
    )


def test_the_installed_asv_can_be_localised():
    asv = pytest.importorskip("asv")
    page = (Path(asv.__file__).parent / "www" / "index.html").read_text("utf-8")
    assert len(FOREIGN.findall(page)) > 10
    got = offline.localise(page)
    links = re.findall(r"<a\b[^>]*>", got)
    assert len(FOREIGN.findall(got)) == sum(map(bool, map(FOREIGN.search, links)))


def test_plots_of_the_installed_asv_open_with_dates_and_from_0():
    asv = pytest.importorskip("asv")
    folder = Path(asv.__file__).parent / "www"
    script = (folder / "graphdisplay.js").read_text("utf-8")
    got = offline.with_axes(script)
    assert len(got.splitlines()) == len(script.splitlines()) + 4
    assert got.count("options.yaxis.min = 0.0;") == script.count("options.yaxis.min = 0.0;") + 1
    assert (folder / "index.html").read_text("utf-8").count(offline.BUTTON) == 1
    with pytest.raises(ValueError, match="'var date_scale = false;' 0 times, expected once"):
        offline.with_axes(got)


def test_a_page_that_loads_something_unknown_is_refused():
    with pytest.raises(ValueError, match=r"loads https://example\.org/other\.js, expected one of"):
        offline.localise(PAGE + '<script src="https://example.org/other.js"></script>')


def test_files_of_a_package_are_unpacked_with_their_licence(tmp_path):
    tarball = io.BytesIO()
    with tarfile.open(fileobj=tarball, mode="w:gz") as tar:
        for name in ("LICENSE", "js/a.js", "unwanted"):
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    package = offline.Package("a", "1.0", "", {"a.min.js": "js/a.js"}, ("LICENSE",))
    offline.unpack(package, tarball.getvalue(), tmp_path)
    files = {
        str(p.relative_to(tmp_path)): p.read_text() for p in tmp_path.rglob("*") if p.is_file()
    }
    assert files == {"a/LICENSE": "LICENSE", "a/js/a.js": "js/a.js"}


def test_a_package_other_than_expected_is_refused(tmp_path):
    package = offline.PACKAGES[0]
    (tmp_path / f"{package.name}-{package.version}.tgz").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"jquery-3\.3\.1\.tgz has SHA-512 .*, expected Ubldcm"):
        offline.fetch(package, "http://127.0.0.1:9", tmp_path)


@pytest.mark.parametrize("library", ["torch", "torch.hoisted", "jax"])
def test_leaky_layers_compute_the_same(library):
    pytest.importorskip(library.partition(".")[0])
    expected = leaky.gradients("fastbptt", "5 3 2 4")
    got = leaky.gradients(library, "5 3 2 4")
    for name, g, e in zip(("W_x", "theta", "b", "x"), got, expected, strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("library", ["numpy", "torch", "jax", "onednn", "fastbptt.jax"])
def test_rivals_compute_the_same(library):
    if rivals.version(library.removeprefix("fastbptt.")) is None:
        pytest.skip(f"{library} is not installed")
    expected = rivals.step("fastbptt", "5 3 2 4")()
    got = rivals.step(library, "5 3 2 4")()
    for name, g, e in zip(("W_x", "W_h", "b", "x"), got, expected, strict=True):
        np.testing.assert_allclose(np.asarray(g), np.asarray(e), rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_parts_make_up_a_call():
    """What roofline times one by one gives, one after the other, the results of whole calls."""
    shape, dtype = "10 32 3 16", np.dtype("float32")  # a single time block
    params, x, dh = common.arrays(shape)
    forward, h = roofline._forward_parts(shape, dtype)
    for part in forward:
        part()
    np.testing.assert_array_equal(h, fastbptt.forward(params, x))

    backward, gradients = roofline._backward_parts(shape, dtype, h)
    for part in backward:
        part()
    dparams, dx, dh0 = fastbptt.backward(params, x, h, dh)
    for got, expected in zip(gradients, (*dparams, dx, dh0), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_operations():
    # 2 steps x 3 sequences x 5 units x (4 + 5) terms, a multiplication and an addition each
    assert common.operations("2 3 4 5") == (540, 1080)


SUITE = Path(common.__file__).parent
ASV = """
import io, json, sys
from asv_runner.discovery import list_benchmarks

found = io.StringIO()
list_benchmarks(sys.argv[1], found)
from suite.peak import burner
burner("float32")
shown = ("name", "unit", "pretty_name")
listed = [[benchmark.get(key) for key in shown] for benchmark in json.loads(found.getvalue())]
print(json.dumps([listed, "benchmarks" in sys.modules]))
"""
# What asv.conf.json has judged: ratios, counts and sizes.
JUDGED = {"ULP", "bytes", "times the FMA limit", "times the kernels", "times plain NumPy's error",
          "of their time", "of lax.scan's time"}  # fmt: skip


def test_asv_needs_the_suite_alone(tmp_path):
    """asv names the package `suite`; what the tools have cached must do no harm there."""
    pytest.importorskip("asv_runner")
    peak.burner("float32")
    done = subprocess.run(
        [sys.executable, "-c", ASV, SUITE],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(fastbptt.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    listed, has_tools = json.loads(done.stdout)
    names = [name for name, _, _ in listed]
    files = {path.stem for path in SUITE.glob("*.py")} - {"__init__", "common", "onednn", "peak"}
    assert {name.split(".")[0] for name in names} == files
    assert not has_tools
    pretty = [shown for _, _, shown in listed]
    assert all(pretty)
    assert len({*pretty}) == len(pretty)

    conf = (SUITE.parents[1] / "asv.conf.json").read_text("utf-8")
    conf = json.loads(re.sub(r"^\s*//.*$", "", conf, flags=re.MULTILINE))
    excluded = [re.compile(pattern) for pattern in conf["regressions_first_commits"]]
    judged = {unit for name, unit, _ in listed if not any(e.match(name) for e in excluded)}
    assert judged == JUDGED
