"""``python -m fastbptt``."""

import sys

from fastbptt.cli import main

sys.exit(main())
