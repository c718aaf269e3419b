"""The README's examples run."""

import re
from pathlib import Path

import pytest

from fastbptt import testing

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"(?ms)^```python\n(.*?)^```$", README.read_text("utf-8"))


def test_there_are_examples():
    assert EXAMPLES


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example(number, monkeypatch):
    # A few of the conformance kit's shapes: test_equality.py goes through all of them.
    shapes = testing.awkward_shapes()[3::12]
    monkeypatch.setattr(testing, "awkward_shapes", lambda: shapes)
    exec(compile(EXAMPLES[number], f"{README.name}, example {number + 1}", "exec"), {})
