"""How fast fastbptt is: the asv suite in `suite`, and tools that build on it.

`python -m benchmarks.report` draws one run beside other libraries, `python -m benchmarks.roofline`
says where the time goes, and `python -m benchmarks.offline` makes what `asv publish` wrote work
without internet.
"""
