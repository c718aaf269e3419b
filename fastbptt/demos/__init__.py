"""What ``fastbptt demo`` runs, a module each: the forecast of sunspots, and small systems that can
be followed by hand.

Each has ``run``, which prints an account and returns its figures.
"""
