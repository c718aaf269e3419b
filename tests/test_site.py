"""The pages: built without a warning, every link among them leads somewhere, nothing is loaded."""

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytestmark = pytest.mark.world
pytest.importorskip("sphinx_gallery")
pytest.importorskip("furo")

TOP = Path(__file__).parents[1]
SITE = "https://fastbptt.github.io/fastbptt/"


class Page(HTMLParser):
    """A page's links, what it loads, and the places that links may lead to."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loaded, self.places, self.tags = [], [], {""}, set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.add(tag)
        self.places |= {found.get("id"), found.get("name")}
        if tag == "a":
            self.links.append(found.get("href") or "")
        elif tag == "link" and found.get("rel") != "canonical":
            self.loaded.append(found.get("href") or "")
        else:
            self.loaded.append(found.get("src") or "")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    built = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-E", ".docs", built],
        cwd=TOP, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {path: Page(path.read_text("utf-8")) for path in built.rglob("*.html")}


def test_every_link_leads_to_a_page_and_a_place_in_it(pages):
    assert len(pages) > 100
    lost = []
    for path, page in pages.items():
        for link in page.links:
            if not link.startswith(("http:", "https:", "mailto:")):
                file, _, place = link.partition("#")
                target = (path.parent / file).resolve() if file else path
                if not target.exists() or (target in pages and place not in pages[target].places):
                    lost.append((path.name, link))
    assert not lost


def test_nothing_is_loaded_from_elsewhere(pages):
    elsewhere = {link for page in pages.values() for link in page.loaded if "//" in link}
    assert not elsewhere
    assert any("math" in page.tags for page in pages.values())


def test_links_to_the_published_pages_have_become_relative(pages):
    links = {link for page in pages.values() for link in page.links if link.startswith(SITE)}
    assert links <= {f"{SITE}report.html", f"{SITE}benchmarks/index.html"}
