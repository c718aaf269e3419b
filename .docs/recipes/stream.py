"""
A stream, piece by piece
========================

What arrives without end is predicted as it arrives: ``return_state=True`` hands out the last state,
and the next piece begins with it. The outputs are those of the whole at once, to the bit.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastbptt

rng = np.random.default_rng(0)


def waves(n, T):
    """A slow wave in noise, and the wave."""
    t = np.arange(T) + rng.uniform(0, 100, (n, 1))
    wave = np.sin(0.15 * t) * np.sin(0.022 * t)
    return wave + 0.4 * rng.standard_normal((n, T)), wave


model = fastbptt.RNN(1, 32, 1, output="all", seed=0)
x, y = waves(200, 150)
optimizer = fastbptt.Adam(learning_rate=0.004)
fastbptt.fit(model, x, y, optimizer=optimizer, epochs=20, clip_norm=1.0, seed=0, progress=False)

# %%
# Five pieces of unequal length, as a microphone or a probe may send them.

x, wave = waves(1, 300)
state, pieces = None, []
for piece in np.split(x, [40, 130, 150, 240], axis=1):
    y, state = model.predict(piece, state=state, return_state=True)
    pieces.append(y[0, :, 0])

whole = model.predict(x)[0, :, 0]
print("the same bits:", np.array_equal(np.concatenate(pieces), whole))

# %%
fig, ax = plt.subplots()
ax.plot(x[0], ".", color="0.75", ms=4, label="arrives")
ax.plot(wave[0], color="0.5", lw=1, label="the wave in it")
begin = 0
for i, piece in enumerate(pieces):
    label = "piece by piece" if i == 0 else None
    color = ("#0b3c7d", "#e8a33d")[i % 2]
    ax.plot(np.arange(begin, begin + len(piece)), piece, color=color, lw=2.5, label=label)
    begin += len(piece)
ax.set(xlabel="time step", title="A stream without its noise, in five pieces", ylim=(-2.2, 2.8))
ax.legend(loc="upper center", ncols=3)
plt.show()
