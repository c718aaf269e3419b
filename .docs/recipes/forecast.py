"""
Forecast a series
=================

The equation of Mackey and Glass is chaotic: it can be forecast for a while, and not by a straight
line. :class:`~fastbptt.estimators.RNNForecaster` cuts the series into windows, scales them, trains
a network to tell the next step, and goes on from its own forecasts.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import LinearRegression

from fastbptt import datasets
from fastbptt.estimators import RNNForecaster, RNNRegressor

# dx/dt = 0.2 x(t - 17) / (1 + x(t - 17)^10) - 0.1 x(t), in steps of 0.1, of which each 30th is kept
x = np.full(60_000, 1.2)
for i in range(170, len(x) - 1):
    x[i + 1] = x[i] + 0.1 * (0.2 * x[i - 170] / (1 + x[i - 170] ** 10) - 0.1 * x[i])
series = x[3000::30]
past, future = series[:1500], series[1500:1560]

# %%
network = RNNForecaster(
    RNNRegressor(hidden_size=32, learning_rate=0.003, epochs=60, random_state=0), window_length=16
)
forecast = network.fit(past).predict(fh=np.arange(1, 61))

# %%
# Never trust a network without something simpler beside it: here least squares on the same windows.

windows, targets = datasets.windows(past, 16)
line = LinearRegression().fit(windows[..., 0], targets)
steps = list(past[-16:])
for _ in future:
    steps.append(line.predict([steps[-16:]])[0])
straight = np.array(steps[16:])

for name, found in [("network", forecast), ("least squares", straight)]:
    errors = [np.sqrt(np.mean((found[:n] - future[:n]) ** 2)) for n in (1, 10, 30)]
    print(f"{name:14} errors over 1, 10, 30 steps:" + "".join(f"{e:8.4f}" for e in errors))

# %%
fig, ax = plt.subplots()
t = np.arange(-40, 60)
ax.plot(t, series[1460:1560], color="0.75", lw=5, label="truth")
ax.plot(t[40:], straight, color="#e8a33d", lw=2, label="least squares")
ax.plot(t[40:], forecast, color="#0b3c7d", lw=2, label="network")
ax.axvline(-0.5, color="0.5", lw=1, ls=":")
ax.set(xlabel="steps ahead", ylim=(0.2, 1.65), title="60 steps ahead, from nothing but the past")
ax.legend(loc="upper center", ncols=3)
plt.show()
