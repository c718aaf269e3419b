"""README.md and the pages: examples run, numbers are right, links lead somewhere."""

import doctest
import re
from pathlib import Path

import pytest

import fastbptt
from fastbptt import testing

TOP = Path(__file__).parents[1]
README = (TOP / "README.md").read_text("utf-8")
PAGES = {
    path.name: path.read_text("utf-8") for path in [TOP / "README.md", *TOP.glob(".docs/*.md")]
}
SITE = "https://fastbptt.github.io/fastbptt/"


def blocks(language):
    """Every block of code in a language, after its page and number."""
    return [
        pytest.param(code, id=f"{name}-{number}")
        for name, text in PAGES.items()
        for number, code in enumerate(re.findall(rf"(?ms)^```{language}\n(.*?)^```$", text), 1)
    ]


def test_there_are_examples():
    assert "```python" in README
    assert len(blocks("python")) > 3


@pytest.mark.parametrize("code", blocks("python"))
def test_example(code, monkeypatch):
    # A few of the conformance kit's shapes: test_equality.py goes through all of them.
    shapes = testing.awkward_shapes()[3::12]
    monkeypatch.setattr(testing, "awkward_shapes", lambda: shapes)
    exec(compile(code, "example", "exec"), {})


def test_numbers_of_the_mathematics():
    session = "\n".join(re.findall(r"(?ms)^```pycon\n(.*?)^```$", PAGES["mathematics.md"]))
    test = doctest.DocTestParser().get_doctest(session, {}, "mathematics.md", None, 0)
    assert len(test.examples) > 30
    assert not doctest.DocTestRunner().run(test).failed


def test_readme_is_short():
    assert README.count("\n") < 200


def test_readme_has_the_times_of_the_page_on_speed():
    times = re.compile(r"^\| \d+ \d+ \d+ \d+ \|.*\|$", re.MULTILINE)
    ours, all_of_them = times.findall(README), times.findall(PAGES["speed.md"])
    assert len(ours) > 3
    assert {*ours} <= {*all_of_them}


@pytest.mark.parametrize("name", PAGES)
def test_links_to_the_pages_lead_to_one(name):
    recipes = {path.stem for path in TOP.glob(".docs/recipes/*.py")} | {"index"}
    for link in re.findall(rf"{re.escape(SITE)}([^)\s#]*)", PAGES[name]):
        page = link.removesuffix(".html")
        folder, _, last = page.rpartition("/")
        assert (
            link in {"", "report.html", "benchmarks/index.html"}
            or (folder == "gallery" and last in recipes)
            or any((TOP / ".docs" / f"{page}{end}").exists() for end in (".md", ".rst"))
        ), link


def test_links_to_files_lead_to_one():
    for link in re.findall(r"\]\((?!https?:|#)([^)#]*)", README):
        assert (TOP / link).exists(), link


def test_the_map_names_every_file():
    text = (TOP / ".github" / "CONTRIBUTING.md").read_text("utf-8")
    (tree,) = re.findall(r"(?ms)^## Map of the files\n.*?^```\n(.*?)^```$", text)
    package = Path(fastbptt.__file__).parent  # which is installed elsewhere, or here
    folders = package, package / "kernels", TOP / "benchmarks"
    files = [path for folder in folders for path in folder.glob("*.py")]
    assert not [f.name for f in files if not f.name.startswith("__") and f.name not in tree]
    others = [*package.rglob("*.py"), *TOP.glob("*/**/*.py"), *TOP.glob(".docs/*.py")]
    assert {*re.findall(r"\w+\.py\b", tree)} <= {path.name for path in others}
