"""
L-BFGS, with scipy
==================

A small network and all data at once: here methods of second order need far fewer gradients than
Adam. :meth:`~fastbptt.RNN.objective` is the loss as a function of all weights in one vector, which
is what the optimizers of scipy take.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import minimize

import fastbptt

rng = np.random.default_rng(0)
x = rng.standard_normal((200, 25, 1))
y = np.tanh(x[:, -3, 0]) * x[:, -1, 0]  # what came last times what came two steps before


def new():
    return fastbptt.RNN(1, 16, 1, dtype="float64", seed=1)


# %%
losses = {"Adam": [], "L-BFGS": []}
model = new()
f = model.objective(x, y)


def watched(vector):
    loss, gradient = f(vector)
    losses["L-BFGS"].append(loss)
    return loss, gradient


found = minimize(watched, model.vector, jac=True, method="L-BFGS-B", options={"maxfun": 400})
model.vector = found.x
print(f"L-BFGS: {model.evaluate(x, y):.1e} after {len(losses['L-BFGS'])} gradients")

# %%
model = new()
history = fastbptt.fit(
    model,
    x,
    y,
    batch_size=len(x),
    epochs=400,
    optimizer=fastbptt.Adam(learning_rate=0.01),
    seed=0,
    progress=False,
)
losses["Adam"] = history.loss
print(f"Adam:   {model.evaluate(x, y):.1e} after {len(history.loss)} gradients")

# %%
fig, ax = plt.subplots()
for (name, values), color in zip(losses.items(), ("#e8a33d", "#0b3c7d"), strict=True):
    ax.semilogy(np.minimum.accumulate(values), color=color, lw=2, label=name)
ax.set(xlabel="gradients computed", ylabel="least loss so far", title="All data at once")
ax.legend()
plt.show()
