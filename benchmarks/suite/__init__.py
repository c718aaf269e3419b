"""The asv suite, one file for each subject.

`common` has the shapes and the arrays, `peak` the machine's limit, `rivals` the other libraries.
Old commits run the same files; what a version of fastbptt lacks is skipped.
"""
