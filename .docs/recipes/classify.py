"""
Classify, where one class is rare
=================================

One recording in thirty drifts upward. Who always says "steady" is right 29 times in 30, and so the
loss has little to gain from the others, unless they count more: ``class_weight="balanced"``.
"""

import matplotlib.pyplot as plt
import numpy as np

from fastbptt.estimators import RNNClassifier

rng = np.random.default_rng(0)


def draw(n, share):
    y = np.where(rng.random(n) < share, "drift", "steady")
    slope = np.where(y == "drift", 0.025, 0)[:, None]
    return slope * np.arange(30) + rng.standard_normal((n, 30)), y


x, y = draw(3000, 1 / 30)
x_test, y_test = draw(2000, 0.5)

# %%
found = {}
for weights in (None, "balanced"):
    model = RNNClassifier(
        hidden_size=16, learning_rate=0.01, epochs=12, class_weight=weights, random_state=0
    )
    answer = model.fit(x, y).predict(x_test)
    found[weights] = [np.mean(answer[y_test == label] == label) for label in ("steady", "drift")]
    print(weights, "steady: {:.2f}, drift: {:.2f}".format(*found[weights]))

# %%
fig, (left, right) = plt.subplots(1, 2, width_ratios=(3, 2))
for label, color, up in [("steady", "0.6", 0), ("drift", "#0b3c7d", 6)]:
    left.plot(x_test[y_test == label][1] + up, color=color)
    left.text(29, up + 2.4, label, color=color, ha="right", weight="bold")
left.set(xlabel="time step", yticks=[], title="One recording of each class")
for i, (weights, color) in enumerate([(None, "#e8a33d"), ("balanced", "#0b3c7d")]):
    bars = right.bar(
        np.arange(2) + 0.4 * i - 0.2,
        found[weights],
        0.38,
        color=color,
        label=f"class_weight={weights!r}",
    )
    right.bar_label(bars, fmt="%.2f")
right.set(
    xticks=[0, 1], xticklabels=["steady", "drift"], ylim=(0, 1.35), title="Share that is found"
)
right.legend(loc="upper left", fontsize=10)
plt.show()
