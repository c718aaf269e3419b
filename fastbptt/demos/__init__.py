"""What ``fastbptt demo`` runs, one module per demo.

One forecasts sunspots, the others are small systems that can be followed by hand.

Each has a function ``run``, which prints what it does and returns its figures.
"""
