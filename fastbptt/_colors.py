"""Colours of the plots: they differ in brightness, so that lines can be told apart in grey."""

DARK, BRIGHT, PALE, GREY = "#0b3c7d", "#e8a33d", "#f8e6c8", "0.75"  # blue, orange, light orange
