"""Tasks that neuroscientists train animals and networks on, trial by trial.

Each function draws `n` trials from a seed.  Times are in milliseconds; a step takes `dt` of them,
and a period lasts the nearest number of whole steps.  A period given as a pair lasts a random
number of steps between the two, drawn anew for each trial; T is the longest trial's.

Inputs are noisy where they carry evidence: independent normal numbers of standard deviation
``noise / sqrt(dt)``, so that what is gathered in a given time does not depend on `dt`.

Minibatches without end are one function away; ``seed=[seed, step]`` makes each of them its own::

    def source(step):
        return tasks.perceptual_decision(64, seed=[0, step])[:3]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from fastbptt import _checks
from fastbptt.rnn import FloatDtype

__all__ = [
    "Trials",
    "context_dependent_integration",
    "delayed_match_to_sample",
    "perceptual_decision",
    "ready_set_go",
]

Duration = float | tuple[float, float]
"""Milliseconds, or the least and the most of them."""


class Trials(NamedTuple):
    """Trials of a task.

    Attributes
    ----------
    x : ndarray, (n, T, I)
        Inputs.
    y : ndarray
        Targets: classes (n, T), or numbers (n, T, O).
    weights : ndarray, (n, T)
        How much each step counts: 0 where any output is right, and behind a trial's end.
    conditions : dict of str to ndarray, (n,)
        What each trial is made of.

    See Also
    --------
    fastbptt.fit : Trains on the first three.

    Examples
    --------
    >>> from fastbptt import tasks
    >>> trials = tasks.ready_set_go(64, seed=0)
    >>> trials.x.shape[:2] == trials.weights.shape
    True
    >>> sorted(trials.conditions)
    ['gain', 'go', 'interval', 'ready', 'set']
    """

    x: np.ndarray
    y: np.ndarray
    weights: np.ndarray
    conditions: dict[str, np.ndarray]


def perceptual_decision(
    n: int,
    *,
    seed: Any = None,
    dt: float = 20.0,
    fixation: Duration = 200.0,
    stimulus: Duration = 1000.0,
    delay: Duration = 0.0,
    decision: Duration = 200.0,
    coherences: Sequence[float] = (3.2, 6.4, 12.8, 25.6, 51.2),
    noise: float = 2.0,
    fixation_weight: float = 0.1,
    dtype: FloatDtype = "float32",
) -> Trials:
    """Say which of two noisy inputs is the stronger one.

    A trial has four periods: fixation; the stimulus, when the two inputs have the means
    ``(1 + c) / 2`` and ``(1 - c) / 2``, c the trial's signed coherence as a share; a delay; and the
    decision, when the fixation input is off and the answer is due.

    Parameters
    ----------
    n : int
        Number of trials, at least 1.
    seed : None, int, sequence of int or numpy.random.Generator
        As for :func:`numpy.random.default_rng`.
    dt : float, default 20.0
        Milliseconds of a step.
    fixation, stimulus, delay, decision : float or (float, float)
        Milliseconds of each period, or the least and the most of them.
    coherences : sequence of float
        Percent, 0 to 100.  One is drawn for each trial; either input is the stronger one with
        probability 1/2.
    noise : float, default 2.0
        Of the evidence; see :mod:`fastbptt.tasks`.
    fixation_weight : float, default 0.1
        Weight of the steps before the decision, whose class is 0.
    dtype : {"float32", "float64"}

    Returns
    -------
    Trials
        ``x`` (n, T, 3): fixation, and the two inputs.  ``y`` (n, T), classes: 0 until the decision,
        then 1 or 2, the stronger input.  Conditions: "coherence", percent, negative if the second
        input is the stronger one; "choice", 1 or 2; "decision", the decision's first step.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value.

    See Also
    --------
    delayed_match_to_sample, context_dependent_integration, ready_set_go : Other tasks.

    Notes
    -----
    Source: the random-dot task of Britten, Shadlen, Newsome and Movshon 1992, "The analysis of
    visual motion: a comparison of neuronal and psychophysical performance", with the evidence as
    two channels as in Song, Yang and Wang 2016, "Training excitatory-inhibitory recurrent neural
    networks for cognitive tasks: a simple and flexible framework".

    Who adds up the difference of the inputs is right with probability
    ``Phi(c sqrt(stimulus / 2) / noise)``, Phi the normal distribution function; nobody does better.

    Examples
    --------
    >>> from fastbptt.tasks import perceptual_decision
    >>> x, y, weights, conditions = perceptual_decision(64, seed=0)
    >>> x.shape, y.shape, weights.shape
    ((64, 70, 3), (64, 70), (64, 70))
    >>> bool((y[:, -1] == conditions["choice"]).all())
    True
    """
    trial = _Trial(n, seed, dt, dtype)
    percent = trial.pick("coherences", coherences, 100)
    begin = trial.periods(fixation=fixation, stimulus=stimulus, delay=delay, decision=decision)
    choice = trial.rng.integers(1, 3, n)
    sign = np.where(choice == 1, 1, -1)
    share = sign * percent / 100
    x = trial.zeros(3)
    x[..., 0] = trial.before(begin["decision"])
    shown = trial.between(begin["stimulus"], begin["delay"])
    x[..., 1] = np.where(shown, (1 + share[:, None]) / 2, 0)
    x[..., 2] = np.where(shown, (1 - share[:, None]) / 2, 0)
    trial.add_noise(x[..., 1:], shown, noise)
    decides = trial.between(begin["decision"], begin["end"])
    return Trials(
        x,
        np.where(decides, choice[:, None], 0),
        trial.weights((decides, 1), (trial.before(begin["decision"]), fixation_weight)),
        {"coherence": sign * percent, "choice": choice, "decision": begin["decision"]},
    )


def delayed_match_to_sample(
    n: int,
    *,
    seed: Any = None,
    dt: float = 20.0,
    fixation: Duration = 200.0,
    sample: Duration = 300.0,
    delay: Duration = 600.0,
    test: Duration = 300.0,
    decision: Duration = 200.0,
    stimuli: int = 2,
    noise: float = 1.0,
    fixation_weight: float = 0.1,
    dtype: FloatDtype = "float32",
) -> Trials:
    """Say whether a stimulus is the one that was shown before a delay.

    A trial has five periods: fixation; the sample, one of the stimuli; a delay; the test, the same
    stimulus with probability 1/2, otherwise one of the others; and the decision, when the fixation
    input is off and the answer is due.

    Parameters
    ----------
    n, seed, dt, dtype
        As for :func:`perceptual_decision`.
    fixation, sample, delay, test, decision : float or (float, float)
        Milliseconds of each period, or the least and the most of them.
    stimuli : int, default 2
        How many there are, at least 2.  Each has an input of its own, 1 while it is shown.
    noise : float, default 1.0
        Of the stimuli's inputs in the sample and the test; see :mod:`fastbptt.tasks`.
    fixation_weight : float, default 0.1
        Weight of the steps before the decision, whose class is 0.

    Returns
    -------
    Trials
        ``x`` (n, T, 1 + stimuli): fixation, and the stimuli's inputs.  ``y`` (n, T), classes: 0
        until the decision, then 1 for a match, 2 for none.  Conditions: "sample" and "test", 0 to
        stimuli - 1; "choice", 1 or 2; "decision", the decision's first step.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value.

    See Also
    --------
    perceptual_decision, context_dependent_integration, ready_set_go : Other tasks.

    Notes
    -----
    Source: Miller, Erickson and Desimone 1996, "Neural mechanisms of visual working memory in
    prefrontal cortex of the macaque", with one test stimulus.

    Examples
    --------
    >>> from fastbptt.tasks import delayed_match_to_sample
    >>> x, y, weights, conditions = delayed_match_to_sample(64, seed=0, delay=(400, 800))
    >>> same = conditions["sample"] == conditions["test"]
    >>> bool((same == (conditions["choice"] == 1)).all())
    True
    """
    trial = _Trial(n, seed, dt, dtype)
    stimuli = _checks.integer("stimuli", stimuli, 2)
    begin = trial.periods(
        fixation=fixation, sample=sample, delay=delay, test=test, decision=decision
    )
    first = trial.rng.integers(0, stimuli, n)
    choice = trial.rng.integers(1, 3, n)
    other = (first + trial.rng.integers(1, stimuli, n)) % stimuli
    second = np.where(choice == 1, first, other)
    x = trial.zeros(1 + stimuli)
    x[..., 0] = trial.before(begin["decision"])
    shows_first = trial.between(begin["sample"], begin["delay"])
    shows_second = trial.between(begin["test"], begin["decision"])
    which = np.arange(stimuli)
    for shown, what in ((shows_first, first), (shows_second, second)):
        x[..., 1:] += shown[..., None] & (what[:, None, None] == which)
        trial.add_noise(x[..., 1:], shown, noise)
    decides = trial.between(begin["decision"], begin["end"])
    return Trials(
        x,
        np.where(decides, choice[:, None], 0),
        trial.weights((decides, 1), (trial.before(begin["decision"]), fixation_weight)),
        {"sample": first, "test": second, "choice": choice, "decision": begin["decision"]},
    )


def context_dependent_integration(
    n: int,
    *,
    seed: Any = None,
    dt: float = 20.0,
    fixation: Duration = 100.0,
    stimulus: Duration = 750.0,
    delay: Duration = 0.0,
    decision: Duration = 100.0,
    coherences: Sequence[float] = (0.009, 0.036, 0.15),
    noise: float = 1.0,
    fixation_weight: float = 0.1,
    dtype: FloatDtype = "float32",
) -> Trials:
    """Integrate one of two noisy inputs, as the context says, and ignore the other.

    A trial has four periods: fixation; the stimulus, when motion and color are noisy with means of
    their own; a delay; and the decision, when the sign of the mean that counts is due.  The context
    is shown from the first step to the last.

    Parameters
    ----------
    n, seed, dt, dtype
        As for :func:`perceptual_decision`.
    fixation, stimulus, delay, decision : float or (float, float)
        Milliseconds of each period, or the least and the most of them.
    coherences : sequence of float
        Sizes of the means, above 0.  For motion and for color one is drawn in each trial, and a
        sign with probability 1/2.
    noise : float, default 1.0
        Of both inputs; see :mod:`fastbptt.tasks`.
    fixation_weight : float, default 0.1
        Weight of the steps of the fixation, whose target is 0.  Between fixation and decision any
        output is right.

    Returns
    -------
    Trials
        ``x`` (n, T, 4): motion, color, 1 if motion counts, 1 if color counts.  ``y`` (n, T, 1): 0
        until the decision, then the sign, -1 or 1.  Conditions: "motion" and "color", the signed
        means; "context", 0 for motion, 1 for color; "choice", -1 or 1; "decision", the decision's
        first step.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value.

    See Also
    --------
    perceptual_decision, delayed_match_to_sample, ready_set_go : Other tasks.

    Notes
    -----
    Source: Mante, Sussillo, Shenoy and Newsome 2013, "Context-dependent computation by recurrent
    dynamics in prefrontal cortex".  Its networks take steps of 1 ms; here noise has the same power.

    Who adds up the input that counts is right with probability
    ``Phi(coherence sqrt(stimulus) / noise)``, Phi the normal distribution function.

    Examples
    --------
    >>> from fastbptt.tasks import context_dependent_integration
    >>> x, y, weights, conditions = context_dependent_integration(64, seed=0)
    >>> x.shape, y.shape
    ((64, 48, 4), (64, 48, 1))
    >>> bool((y[:, -1, 0] == conditions["choice"]).all())
    True
    """
    trial = _Trial(n, seed, dt, dtype)
    sizes = [trial.pick("coherences", coherences) for _ in range(2)]
    if min(map(float, coherences)) == 0:
        raise ValueError("coherences holds 0, expected numbers above 0: 0 has no sign")
    begin = trial.periods(fixation=fixation, stimulus=stimulus, delay=delay, decision=decision)
    means = [size * (1 - 2 * trial.rng.integers(0, 2, n)) for size in sizes]
    context = trial.rng.integers(0, 2, n)
    choice = np.sign(np.where(context == 0, *means)).astype(np.int64)
    x = trial.zeros(4)
    shown = trial.between(begin["stimulus"], begin["delay"])
    for channel in (0, 1):
        x[..., channel] = np.where(shown, means[channel][:, None], 0)
        x[..., 2 + channel] = trial.before(begin["end"]) & (context == channel)[:, None]
    trial.add_noise(x[..., :2], shown, noise)
    decides = trial.between(begin["decision"], begin["end"])
    return Trials(
        x,
        np.where(decides, choice[:, None], 0)[..., None].astype(x.dtype),
        trial.weights((decides, 1), (trial.before(begin["stimulus"]), fixation_weight)),
        {"motion": means[0], "color": means[1], "context": context, "choice": choice,
         "decision": begin["decision"]},
    )  # fmt: skip


def ready_set_go(
    n: int,
    *,
    seed: Any = None,
    dt: float = 20.0,
    fixation: Duration = (100.0, 300.0),
    intervals: Sequence[float] = (500.0, 580.0, 660.0, 760.0, 840.0, 920.0, 1000.0),
    gains: Sequence[float] = (1.0, 1.5),
    pulse: float = 80.0,
    hold: Duration = 200.0,
    noise: float = 0.1,
    dtype: FloatDtype = "float32",
) -> Trials:
    """Measure the time between two pulses, and produce it, or a multiple of it.

    After the fixation comes the first pulse, Ready, and an interval later the second, Set.  From
    Set on the output is to rise on a straight line from 0 to 1, which it reaches, Go, after the
    interval times the trial's gain, and where it is to stay.

    Parameters
    ----------
    n, seed, dt, dtype
        As for :func:`perceptual_decision`.
    fixation, hold : float or (float, float)
        Milliseconds before Ready, and from Go to the trial's end, or the least and the most of
        them.
    intervals : sequence of float
        Milliseconds from Ready to Set; one is drawn for each trial.
    gains : sequence of float
        Above 0; one is drawn for each trial.
    pulse : float, default 80.0
        Milliseconds of Ready and of Set, shorter than any interval.
    noise : float, default 0.1
        Of the pulses' input, all the time; see :mod:`fastbptt.tasks`.

    Returns
    -------
    Trials
        ``x`` (n, T, 2): the pulses, of size 1, and the gain, shown from the first step to the
        trial's last.  ``y`` (n, T, 1): 0 until Set, the ramp, 1 from Go on.  Weights are 1 until
        the trial's end.  Conditions: "interval", milliseconds from Ready to Set as the steps have
        it; "gain"; "ready", "set" and "go", the steps at which they are.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value.

    See Also
    --------
    perceptual_decision, delayed_match_to_sample, context_dependent_integration : Other tasks.

    Notes
    -----
    Source: Jazayeri and Shadlen 2010, "Temporal context calibrates interval timing"; with gains
    Remington, Narain, Hosseini and Jazayeri 2018, "Flexible sensorimotor computations through rapid
    reconfiguration of cortical dynamics".

    Examples
    --------
    >>> from fastbptt.tasks import ready_set_go
    >>> x, y, weights, conditions = ready_set_go(64, seed=0, gains=[1.0])
    >>> measured = conditions["set"] - conditions["ready"]
    >>> bool((conditions["go"] - conditions["set"] == measured).all())
    True
    """
    trial = _Trial(n, seed, dt, dtype)
    gain = trial.pick("gains", gains)
    if not gain.all():
        raise ValueError("gains holds 0, expected numbers above 0")
    long = _steps("pulse", pulse, trial.dt)
    short = min(_steps("intervals", i, trial.dt) for i in _numbers("intervals", intervals))
    if not 0 < long < short:
        raise ValueError(
            f"pulse is {pulse} of dt = {dt}, expected at least a step, and fewer than an interval"
        )
    wait, stays = trial.draw("fixation", fixation), trial.draw("hold", hold)
    measured = np.rint(trial.pick("intervals", intervals) / trial.dt).astype(np.int64)
    produced = np.maximum(np.rint(measured * gain).astype(np.int64), 1)
    at_set, go = wait + measured, wait + measured + produced
    trial.T = int((go + stays).max())
    x = trial.zeros(2)
    x[..., 0] = trial.between(wait, wait + long) | trial.between(at_set, at_set + long)
    lasts = trial.before(go + stays)
    trial.add_noise(x[..., :1], lasts, noise)
    x[..., 1] = np.where(lasts, gain[:, None], 0)
    ramp = (np.arange(trial.T) - at_set[:, None]) / produced[:, None]
    return Trials(
        x,
        np.clip(ramp, 0, 1)[..., None].astype(x.dtype),
        trial.weights((lasts, 1)),
        {"interval": measured * trial.dt, "gain": gain, "ready": wait, "set": at_set, "go": go},
    )


class _Trial:
    """What the tasks have in common: trials in steps, drawn by one generator."""

    def __init__(self, n: int, seed: Any, dt: float, dtype: FloatDtype) -> None:
        self.n = _checks.integer("n", n)
        self.dt = _checks.number("dt", dt, zero=False)
        self.dtype = _checks.float_dtype("dtype", dtype)
        self.rng = np.random.default_rng(seed)
        self.T = 0

    def pick(self, name: str, values: Any, most: float = math.inf) -> np.ndarray:
        """One of the values for each trial."""
        return self.rng.choice(_numbers(name, values, most), self.n)

    def draw(self, name: str, duration: Any) -> np.ndarray:
        """Steps of a period in each trial."""
        if isinstance(duration, Real):
            return np.full(self.n, _steps(name, duration, self.dt))
        try:
            least, most = (_steps(name, d, self.dt) for d in duration)
        except (TypeError, ValueError):
            raise ValueError(
                f"{name} is {duration!r}, expected milliseconds, or the least and the most of them"
            ) from None
        if least > most:
            raise ValueError(f"{name} is {duration!r}, expected the least before the most")
        return self.rng.integers(least, most + 1, self.n)

    def periods(self, **durations: Any) -> dict[str, np.ndarray]:
        """First step of each period, and the end of the last, "end", in each trial."""
        lasts = [self.draw(name, duration) for name, duration in durations.items()]
        ends = np.cumsum(lasts, axis=0)
        self.T = int(ends[-1].max())
        if self.T == 0:
            raise ValueError(f"the periods last 0 steps of dt = {self.dt}, expected at least 1")
        return dict(zip((*durations, "end"), (np.zeros_like(ends[0]), *ends), strict=True))

    def zeros(self, channels: int) -> np.ndarray:
        return np.zeros((self.n, self.T, channels), self.dtype)

    def before(self, end: np.ndarray) -> np.ndarray:
        """(n, T): whether a step is before each trial's `end`."""
        return np.arange(self.T) < end[:, None]

    def between(self, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
        return self.before(end) & ~self.before(begin)

    def add_noise(self, x: np.ndarray, where: np.ndarray, noise: Any) -> None:
        scale = _checks.number("noise", noise) / math.sqrt(self.dt)
        x += where[..., None] * self.rng.standard_normal(x.shape) * scale

    def weights(self, *parts: tuple[np.ndarray, float]) -> np.ndarray:
        """(n, T): the weight of the first part that a step is in, 0 in none."""
        found = np.zeros((self.n, self.T), self.dtype)
        for where, weight in reversed(parts):
            found[where] = _checks.number("fixation_weight", weight)
        return found


def _steps(name: str, duration: Any, dt: float) -> int:
    return round(_checks.number(name, duration) / dt)


def _numbers(name: str, values: Any, most: float = math.inf) -> np.ndarray:
    """One number or more, from 0 to `most`."""
    try:
        found = [_checks.number(name, value) for value in values]
    except TypeError:
        raise TypeError(f"{name} is {values!r}, expected a sequence of numbers") from None
    if not found or max(found) > most:
        limit = "" if most == math.inf else f", of at most {most}"
        raise ValueError(f"{name} is {values!r}, expected one number or more{limit}")
    return np.array(found)
