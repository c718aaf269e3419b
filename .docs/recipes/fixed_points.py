"""
A leaky network and its fixed points
====================================

Two switches: pulses turn each up or down, and the network is to remember how they stand (Sussillo
and Barak 2013). How it does so is to be seen in its fixed points, the states in which it stays
while no pulse comes: one for each of the four memories, and saddles between them.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastbptt


def trials(step, n=64, T=60):
    """Pulses (n, T, 2) and how the switches stand after them."""
    rng = np.random.default_rng([0, step])
    x = rng.choice([-1.0, 0.0, 1.0], (n, T, 2), p=[0.04, 0.92, 0.04])
    x[:, 0] = rng.choice([-1.0, 1.0], (n, 2))
    last = np.maximum.accumulate(np.where(x != 0, np.arange(T)[:, None], 0), axis=1)
    return x, np.take_along_axis(x, last, axis=1)


model = fastbptt.RNN(2, 32, 2, output="all", leak=fastbptt.Leak(0.5), seed=0)
optimizer = fastbptt.Adam(learning_rate=0.01)
history = fastbptt.fit(
    model, trials, steps_per_epoch=50, epochs=8, optimizer=optimizer, clip_norm=1.0, progress=False
)
print(f"mean squared error {history.loss[-1]:.4f}")

# %%
# :func:`~fastbptt.diagnostics.fixed_points` looks for them from states that the network goes
# through, and tells by their eigenvalues whether it stays.

x, y = trials(1_000_000, n=40)
states = model.states(x)[0]
found = fastbptt.diagnostics.fixed_points(model, np.zeros(2), states)
print(found)

# %%
fig, ax = plt.subplots(figsize=(8, 5))
fastbptt.plots.plot_trajectories(states[:8], found, ax=ax)
ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
ax.set_title("Four memories, and the saddles between them")
plt.show()
