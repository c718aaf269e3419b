"""Penalties of weights, and which of them stay as they are: by name."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fastbptt import _checks

BIASES = "b", "b_y", "h0"  # a state that is trained is no weight, either


def matching(argument: str, key: Any, names: Iterable[str]) -> list[str]:
    """The names that are `key`, or begin or end with it at a dot."""
    found = [n for n in names if key == n or f".{n}.".startswith(f".{key}.")]
    found += [n for n in names if n not in found and n.endswith(f".{key}")]
    if not isinstance(key, str) or not found:
        raise ValueError(
            f"{argument} has {key!r}, expected a name of weights, or its beginning or end at a "
            f"dot: {', '.join(names)}"
        )
    return found


def coefficients(argument: str, given: Any, names: Iterable[str]) -> dict[str, float]:
    """A penalty's coefficient for each array of weights that has one.

    One number is that of all but the biases.
    """
    names = [*names]
    if not isinstance(given, Mapping):
        value = _checks.number(argument, given)
        if value == 0:
            return {}
        return {n: value for n in names if n.rpartition(".")[2] not in BIASES}
    found: dict[str, float] = {}
    for key, each in given.items():
        value = _checks.number(f"{argument}[{key!r}]", each)
        for name in matching(argument, key, names):
            if name in found:
                raise ValueError(f"{argument} names {name} twice, with {key!r} for the second time")
            found[name] = value
    return {name: value for name, value in found.items() if value}


def frozen_names(given: Any, names: Iterable[str]) -> list[str]:
    """The names of the weights that stay as they are, in order."""
    names = [*names]
    keys = [given] if isinstance(given, str) else given
    if not isinstance(keys, Iterable):
        raise TypeError(f"frozen is {given!r}, expected names of weights")
    found = {name for key in keys for name in matching("frozen", key, names)}
    if len(found) == len(names):
        raise ValueError("frozen has all weights, expected some to train")
    return [name for name in names if name in found]


def penalize(
    weights: Mapping[str, np.ndarray],
    gradients: Mapping[str, np.ndarray],
    l1: Mapping[str, float],
    l2: Mapping[str, float],
) -> None:
    """Add the gradient of ``l1 * sum(abs(w)) + l2 * sum(w**2)`` for each array of weights w."""
    with np.errstate(all="ignore"):
        for name, value in l1.items():
            gradients[name][...] += value * np.sign(weights[name])
        for name, value in l2.items():
            gradients[name][...] += 2 * value * weights[name]
