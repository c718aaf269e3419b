"""How fast fastbptt is: the asv suite in `suite`, and tools that build on it.

`python -m benchmarks.report` compares one run with other libraries, `python -m benchmarks.roofline`
shows where the time goes, and `python -m benchmarks.offline` makes the pages of `asv publish` work
without internet.
"""
