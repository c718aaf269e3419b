"""
Forecast a series
=================

x
"""

import fastbptt

fastbptt.init_params(2, 3)
