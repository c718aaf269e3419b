"""
To PyTorch, and back
====================

``fit`` trains a network, PyTorch goes on with it, with a loss and an optimizer of its own, and
fastbptt takes it back: weights are copied to the bit. Inside the module is a
:class:`fastbptt.torch.RNN`, so PyTorch's steps are fast too.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

import fastbptt

rng = np.random.default_rng(0)
x = rng.standard_normal((400, 30, 2)).astype(np.float32)
y = x[:, -5:, 0].sum(axis=1, keepdims=True) + x[:, -1, 1:]

model = fastbptt.RNN(2, 32, 1, seed=0)
first = fastbptt.fit(model, x, y, epochs=8, clip_norm=1.0, seed=0, progress=False).loss

# %%
module = model.to_torch()
print(module)

optimizer = torch.optim.NAdam(module.parameters(), lr=1e-3)
order = torch.Generator().manual_seed(0)
then = []
for _ in range(8):
    losses = []
    for index in torch.randperm(len(x), generator=order).split(32):
        inputs, targets = torch.from_numpy(x)[index], torch.from_numpy(y)[index]
        loss = torch.nn.functional.mse_loss(module(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    then.append(float(np.mean(losses)))

# %%
model = fastbptt.RNN.from_torch(module, output="last")
with torch.no_grad():
    theirs = module(torch.from_numpy(x)).numpy()
print("largest difference of outputs:", np.abs(model.predict(x) - theirs).max())

# %%
fig, ax = plt.subplots()
ax.plot(range(1, 9), first, "o-", color="#0b3c7d", lw=2, label="fastbptt.fit, Adam")
ax.plot(range(9, 17), then, "s-", color="#e8a33d", lw=2, label="PyTorch, NAdam")
ax.set(
    xlabel="epoch",
    ylabel="mean squared error",
    ylim=(0, None),
    title="One network, trained in two libraries",
)
ax.legend()
plt.show()
