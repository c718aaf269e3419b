"""The asv suite, one file for each subject.

`common` has the shapes and the arrays, `peak` the machine's limit, `rivals` the other libraries.
`python -m benchmarks.report` draws one run beside them; `python -m benchmarks.offline` makes what
`asv publish` wrote work without internet.  Old commits run the same files: what a version of
fastbptt lacks is skipped.
"""
