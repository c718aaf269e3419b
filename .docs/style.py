"""How the recipes' pictures look."""

import matplotlib.pyplot as plt


def reset(conf, path):
    """Called before each recipe."""
    plt.rcdefaults()
    plt.rcParams.update(
        {
            "axes.axisbelow": True,
            "axes.grid": True,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlelocation": "left",
            "figure.constrained_layout.use": True,
            "figure.figsize": (8, 4),
            "font.size": 12,
            "grid.color": "0.92",
            "legend.frameon": False,
        }
    )
