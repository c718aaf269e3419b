"""Sphinx's configuration: see "Build the pages" in .github/CONTRIBUTING.md."""

import pathlib
import re
import sys

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

HERE = pathlib.Path(__file__).parent
sys.path[:0] = str(HERE.parent), str(HERE)

import fastbptt  # noqa: E402
from fastbptt._colors import BRIGHT, DARK  # noqa: E402

project = "fastbptt"
author = copyright = "The fastbptt maintainers"
version = release = fastbptt.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["build", "recipes", "**/*.ipynb", "_templates", "**sg_execution_times.rst"]
templates_path = ["_templates"]
nitpicky = True
# Other libraries' objects, and descriptions of types, are no links: pages are built offline.
nitpick_ignore_regex = [("py:.*", r"(?!fastbptt\.).*|fastbptt\.(rnn|kernels|_.*)")]

html_math_renderer = "mathml"

# Of links elsewhere, `-b linkcheck` tries these, but for the project's own.
linkcheck_ignore = [r"https://fastbptt\.github\.io/", r"https://github\.com/fastbptt/"]

# Where the pages are published, and what lies there beside them.
SITE, BESIDE = "https://fastbptt.github.io/fastbptt/", ("report.", "benchmarks/")

# Pages.
html_theme = "furo"
html_title = "fastbptt"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": DARK, "color-brand-content": DARK},
    "dark_css_variables": {"color-brand-primary": BRIGHT, "color-brand-content": BRIGHT},
    "source_repository": "https://github.com/fastbptt/fastbptt/",
    "source_branch": "main",
    "source_directory": ".docs/",
    "top_of_page_buttons": [],
}
pygments_style, pygments_dark_style = "friendly", "github-dark"
copybutton_exclude = ".linenos, .gp, .go"
myst_enable_extensions = ["amsmath", "attrs_block", "colon_fence", "dollarmath"]
myst_heading_anchors = 3

# Docstrings.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autosummary_ignore_module_all = False
numpydoc_show_class_members = False

# Recipes, which are run.
sphinx_gallery_conf = {
    "examples_dirs": "recipes",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "backreferences_dir": "gallery/uses",
    "doc_module": ("fastbptt",),
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "capture_repr": (),
    "download_all_examples": False,
    "image_srcset": ["2x"],
    "min_reported_time": 1e9,
    "remove_config_comments": True,
    "reset_modules": ("style.reset",),
    "show_memory": False,
    "show_signature": False,
}


def visit_inline(translator, node):
    translator.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def visit_block(translator, node):
    """MathML of a formula: it needs no script and no internet.  Blank lines part its lines."""
    lines = [line for line in node.astext().split("\n\n") if line.strip()]
    formulas = "".join(tex2mathml(line, as_block=True) for line in lines)
    translator.body.append(f'<div class="formula">{formulas}</div>')
    raise nodes.SkipNode


# What other parts of the package call, and what scikit-learn makes for itself.
INNER = "config", "evaluate_data", "from_config", "losses", "of_units", "read", "rules", "settings"
SKLEARN = "get_metadata_routing", "set_output", "set_\\w+_request"


def skip(app, what, name, found, skipped, options):
    """Leave these out, and the fields of NamedTuples, which stand under Attributes."""
    field = type(found).__name__ == "_tuplegetter"
    return True if field or name in INNER or re.fullmatch("|".join(SKLEARN), name) else None


def read(app, path, parent, content):
    """Links of files that lie elsewhere in the repository, as they are here."""
    content[0] = re.sub(
        r"\]\((?:\.\./)*(?:\.github/)?(CONTRIBUTING|CHANGELOG)\.md",
        lambda found: f"]({found[1].lower()}.md",
        content[0].replace("(.docs/pictures/", "(pictures/"),
    )


def resolve(app, tree, page):
    """Links to the published pages, from README.md, as links to these."""
    for link in tree.findall(nodes.reference):
        if link.get("refuri", "").startswith(SITE):
            target = link["refuri"].removeprefix(SITE) or "index.html"
            if target.partition(".")[0] in app.env.found_docs:
                link["refuri"] = "../" * page.count("/") + target
            elif not target.startswith(BESIDE):
                logging.getLogger(__name__).warning("no page %s", target, location=link)


def setup(app):
    app.connect("include-read", read)
    app.connect("doctree-resolved", resolve)
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    app.connect("autodoc-skip-member", skip)
