"""The benchmarks measure the same thing for every library, and their pages load nothing foreign."""

import io
import re
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks lie beside the package

import fastbptt
from benchmarks import common, offline, report, rivals, roofline

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


@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
def test_rivals_compute_the_same(library):
    pytest.importorskip(library)
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


@pytest.fixture
def run():
    """As if measured: NumPy takes twice our time and JAX three times, torch is not installed."""
    shapes = {*common.SHAPES, *(shape for sweep in report.SWEEPS.values() for shape in sweep)}
    ours = {case: sum(common.operations(case)) / 1e11 for case in shapes} | {"epoch": 0.1}
    seconds = {"fastbptt": ours}
    seconds |= {name: {c: k * ours[c] for c in shapes} for name, k in (("numpy", 2), ("jax", 3))}
    return report.Run("float32", 2e11, seconds, {"Processor": "<one> & only", "Day": "today"})


def test_the_table(run):
    head, _, *rows = report.table(run).splitlines()
    assert (
        head
        == "| T B I H | fastbptt, us | NumPy, us | JAX, us | NumPy / fastbptt | JAX / fastbptt |"
    )
    # 6 T B H (I + H) = 6 x 100 x 64 x 128 x 192 operations at 1e11 a second
    assert "| 100 64 64 128 | 9,437 | 18,874 | 28,312 | 2.0 | 3.0 |" in rows
    assert len(rows) == len(common.SHAPES)
    assert run.share("numpy", "100 64 64 128") == pytest.approx(25)


def test_the_page_is_one_file(run):
    pytest.importorskip("matplotlib")
    page = report.page(run)
    assert not FOREIGN.search(page)
    assert not re.search(r"<(?:script|link|img|iframe|object)\b|@import", page)
    assert page.count("<svg") == len(report.PARTS)
    assert "&lt;one&gt; &amp; only" in page
    for shown in ("9.4 ms", "19 ms  2.0×", "100 ms", "18,874", "fastbptt beside NumPy, JAX"):
        assert shown in page
    assert "PyTorch's time" not in page


def test_the_picture(run, tmp_path):
    pytest.importorskip("matplotlib")
    report.picture(run, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
