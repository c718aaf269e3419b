"""
A loss of one's own
===================

Three outputs at every step: quantiles of what comes next, so that the forecast has a band. Their
loss, the pinball loss, is a function of a few lines that returns its value and its gradient.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastbptt

QUANTILES = np.array([0.1, 0.5, 0.9])


def pinball(y, target):
    """Mean over rows of what each quantile y (n, 3) is off, and its gradient."""
    r = target - y
    slope = np.where(r > 0, QUANTILES, QUANTILES - 1)
    return np.sum(slope * r) / len(y), (-slope / len(y)).astype(y.dtype)


# %%
# Is the gradient right? :func:`~fastbptt.diagnostics.gradient_check` compares it with differences.

rng = np.random.default_rng(0)
y, target = rng.standard_normal((2, 5, 3))
print(
    fastbptt.diagnostics.gradient_check(
        lambda: pinball(y, target)[0], {"y": y}, {"y": pinball(y, target)[1]}
    )
)

# %%
# A wave whose noise swells and fades; the target of each step is the next one, three times.

t = np.arange(61)
phase = rng.uniform(0, 2 * np.pi, (700, 1))
noise = 0.35 * (1 + np.cos(t * 0.2 + phase)) / 2
series = np.sin(t * 0.2 + phase) + noise * rng.standard_normal((700, 61))
x, y = series[:, :-1], np.repeat(series[:, 1:, None], 3, axis=2)

model = fastbptt.RNN(1, 32, 3, output="all", seed=0)
optimizer = fastbptt.Adam(learning_rate=0.005)
fastbptt.fit(
    model,
    x[:-100],
    y[:-100],
    loss=pinball,
    optimizer=optimizer,
    epochs=20,
    clip_norm=1.0,
    seed=0,
    progress=False,
)

# %%
low, middle, high = np.moveaxis(model.predict(x[-100:]), -1, 0)
truth = y[-100:, :, 0]
print(f"within the band: {np.mean((low < truth) & (truth < high)):.0%} of the steps, 80% wanted")

fig, ax = plt.subplots()
ax.fill_between(t[1:], low[0], high[0], color="#f8e6c8", label="10 % to 90 %")
ax.plot(t[1:], middle[0], color="#e8a33d", lw=2, label="median")
ax.plot(t[1:], truth[0], "o", ms=4, color="#0b3c7d", label="what came")
ax.set(xlabel="time step", title="The next step, forecast with a band", ylim=(-2, 2.6))
ax.legend(loc="upper center", ncols=3)
plt.show()
