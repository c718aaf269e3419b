"""
Many seeds
==========

One training says little: another seed may end elsewhere. Calls of the kernels release Python's
lock, so networks are trained side by side in threads; of small ones processes train more, which
joblib starts too, without ``prefer="threads"``. Each seed has the same bits in any company.
"""

import joblib
import matplotlib.pyplot as plt
import numpy as np

import fastbptt

x, y = fastbptt.datasets.adding_problem(1000, 20, seed=0)


def train(seed, radius):
    model = fastbptt.RNN(2, 24, 1, spectral_radius=radius, seed=seed)
    return fastbptt.fit(
        model,
        x[:800],
        y[:800],
        validation=(x[800:], y[800:]),
        epochs=30,
        clip_norm=1.0,
        optimizer=fastbptt.Adam(learning_rate=0.004),
        seed=seed,
        progress=False,
    ).validation_loss


radii = [0.5, 1.0]
jobs = [joblib.delayed(train)(seed, radius) for radius in radii for seed in range(6)]
losses = np.reshape(joblib.Parallel(n_jobs=2, prefer="threads")(jobs), (len(radii), 6, -1))

# %%
# The answer "1", whatever comes, has the loss 1/6.

fig, ax = plt.subplots()
for found, radius, color in zip(losses, radii, ("#e8a33d", "#0b3c7d"), strict=True):
    epochs = np.arange(1, found.shape[1] + 1)
    ax.plot(epochs, found.T, color=color, lw=1, alpha=0.5)
    ax.plot(epochs, np.median(found, axis=0), color=color, lw=3, label=f"spectral radius {radius}")
ax.axhline(1 / 6, color="0.3", ls=":", label='always "1"')
ax.set(xlabel="epoch", ylabel="validation loss", ylim=(0, 0.25))
ax.set_title("Adding two marked numbers: 6 seeds, and their median")
ax.legend(loc="lower left")
plt.show()
