"""Training: minibatches, gradients, steps of an optimizer, until it is enough."""

import contextlib
import math
import os
import reprlib
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from fastbptt import _checks, _storage
from fastbptt._criterion import Criterion
from fastbptt._extras import MissingExtraError, import_extra
from fastbptt._names import with_our_names
from fastbptt._network import Network, Weights
from fastbptt._notice import tell_once
from fastbptt._penalties import coefficients, frozen_names, penalize
from fastbptt._repeated import RepeatedSteps
from fastbptt._shares import Ranks, cut
from fastbptt._sources import Source, is_source
from fastbptt._stack import States
from fastbptt._weights import Data, Extent, Minibatch, times_class_weight
from fastbptt.losses import attribute
from fastbptt.model import RNN, TOGETHER, Mean
from fastbptt.optimizers import (
    SGD,
    Adam,
    OptimizerName,
    RMSprop,
    find_optimizer,
)

MEMORY = "full", "checkpointed"
STOPPED = "finished", "early", "interrupted", "callback"


@dataclass(repr=False)
class History:
    """What :func:`fit` returns: a value for each epoch, and how it ended.  Prints as a table.

    Attributes
    ----------
    loss : list of float
        Mean over the epoch's minibatches, each taken before its step.
    validation_loss : list of float
        After the epoch; empty without validation data.
    seconds : list of float
        Wall-clock time of the epoch, validation included.
    best_epoch : int or None
        The epoch whose weights the model has been given back; None if it has the last epoch's.
        Epochs are counted from 1: its loss is ``loss[best_epoch - 1]``.
    stopped : {"finished", "early", "interrupted", "callback"}
        Why it ended: all epochs were done, the loss no longer fell, Ctrl-C, or the callback.

    See Also
    --------
    fit : Returns it.
    fastbptt.plots.plot_history : Draws it.

    Examples
    --------
    >>> import fastbptt
    >>> history = fastbptt.History(loss=[1.5, 0.25, 0.5], seconds=[0.1, 0.1, 0.1], best_epoch=2)
    >>> history
    finished after 3 epochs
    epoch        loss     seconds
        1         1.5         0.1
        2        0.25         0.1  best
        3         0.5         0.1
    >>> history.loss[history.best_epoch - 1]
    0.25
    """

    loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    best_epoch: int | None = None
    stopped: str = "finished"

    def __repr__(self) -> str:
        columns = {"loss": self.loss, "validation": self.validation_loss, "seconds": self.seconds}
        columns = {name: values for name, values in columns.items() if values}
        epochs, best = len(self.loss), self.best_epoch
        lines = [f"{self.stopped} after {epochs} epoch{'s' * (epochs != 1)}"]
        if columns:
            lines.append("epoch" + "".join(f"{name:>12}" for name in columns))
        # The first ones, the last ones and the best
        shown = {1, 2, 3, best or epochs, epochs - 2, epochs - 1, epochs}
        before = 0
        for epoch in sorted(shown & {*range(1, epochs + 1)}):
            if epoch > before + 1:
                lines.append("    …")
            values = "".join(f"{values[epoch - 1]:12.4g}" for values in columns.values())
            lines.append(f"{epoch:5}{values}{'  best' * (epoch == best)}")
            before = epoch
        return "\n".join(lines)


class Generators(NamedTuple):
    """The random generators of a training run.

    Attributes
    ----------
    order : numpy.random.Generator
        Of the order of sequences.
    dropout : numpy.random.Generator
    """

    order: np.random.Generator
    dropout: np.random.Generator


@with_our_names
def fit(
    model: RNN,
    x: npt.ArrayLike | Callable[[int], Any] | Iterable[Any],
    y: npt.ArrayLike | None = None,
    *,
    lengths: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    class_weight: Mapping[int, float] | npt.ArrayLike | str | None = None,
    loss: str | Callable[..., Any] = "mse",
    optimizer: OptimizerName | SGD | RMSprop | Adam = "adam",
    epochs: int = 100,
    batch_size: int = 32,
    steps_per_epoch: int | None = None,
    time_major: bool | None = None,
    clip_norm: float | None = None,
    l1: float | Mapping[str, float] = 0.0,
    l2: float | Mapping[str, float] = 0.0,
    activity_l2: float = 0.0,
    frozen: str | Iterable[str] = (),
    truncate: int | None = None,
    memory: str = "full",
    validation: tuple[Any, ...] | None = None,
    validation_split: float = 0.0,
    patience: int | None = None,
    progress: bool = True,
    seed: int | np.random.Generator | Generators | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    callback: Callable[[RNN, History], Any] | None = None,
    shares: int | None = None,
    comm: Any = None,
) -> History:
    """Train a model by minibatch gradient descent.

    Parameters
    ----------
    model : RNN
        Its weights change in place.
    x, y, lengths
        As for :meth:`fastbptt.RNN.evaluate`.  Or, in place of x alone, minibatches without end: a
        function of the step's number, from 0, or an iterable, of ``(inputs, targets)`` or
        ``(inputs, targets, weights)``, which are as x, y and sample_weight.  PyTorch's
        ``DataLoader`` and NeuroGym's ``Dataset`` are such iterables; what ends begins again.
    sample_weight : array_like or list of array_like, optional
        What each sequence counts, (N,); for output "all" also each step, (N, T) or a list of
        (T_i,); for targets with the axis O also each element, with that axis.  At least 0; what has
        weight 0 does not count, whatever its target is.  The loss of a minibatch, or of a window
        of `truncate`, is divided by the sum of its own weights, that of an epoch by the sum of all.
    class_weight : mapping, array_like, (O,), or "balanced", optional
        What each class counts in training, times `sample_weight`: for integer classes, or for
        targets 0 and 1 with O = 1.  A mapping's missing classes count 1; "balanced", for arrays, is
        ``sum(counts) / (classes that occur * counts)`` with the sum of the weights of each class as
        counts, as in scikit-learn.
    loss : str or callable, default "mse"
        One of :mod:`fastbptt.losses` by name, or a function ``loss(y, target)`` that returns its
        value, a mean over rows, and its gradient by y, as in the example below.  It is given the
        rows that count, sequence after sequence: y (n, O) and target as y, or integer classes (n,).
        A parameter `weight` is given their weights, (n,) or (n, O).  With a parameter `mask`, all
        arrays are whole: (N, T, ...) or (N, ...), and mask without the axis O says what counts.
    optimizer : {"adam", "rmsprop", "sgd"}, SGD, RMSprop or Adam, default "adam"
        A name, in any case, stands for that optimizer with its defaults.  The learning rate is the
        optimizer's: ``Adam(learning_rate=0.01)``.
    epochs : int, default 100
        Passes over the data, in a new random order each.
    batch_size : int, default 32
        Sequences in a minibatch of arrays.
    steps_per_epoch : int, optional
        Minibatches without end that make an epoch; the length of an iterable that has one.
    time_major : bool, optional
        Whether minibatches without end are (T, B, ...) in place of (B, T, ...).  By default only
        those of an iterable with an attribute `batch_first` that is false, as NeuroGym's has.
    clip_norm : float, optional
        Largest norm of the gradient of all weights together; a longer one is scaled to it (Pascanu,
        Mikolov and Bengio 2013).
    l1, l2 : float or mapping of str to float, default 0
        Penalties ``l1 * sum(abs(w))`` and ``l2 * sum(w**2)``, as in Keras, of all weights but the
        biases; or of those named: names are those of :meth:`fastbptt.RNN.parameters`, or their
        beginning or end at a dot, such as "layers.0" or "W_h".
    activity_l2 : float, default 0.0
        Penalty of this times the mean of h² over a minibatch's steps that count, or those of a
        window of `truncate`, whatever their weight, and over the units of all layers.
    frozen : str or iterable of str, default ()
        Names, as for `l1`, of weights that stay as they are, to the bit.
    truncate : int, optional
        Truncated backpropagation through time.  For output "all", the optimizer takes a step every
        so many time steps: states go on from window to window, gradients end at a window's start.
        For "last", gradients reach back so many steps from each sequence's end.  One direction
        only.
    memory : {"full", "checkpointed"}, default "full"
        "checkpointed" keeps about sqrt(T) of the T states in memory and computes the others twice,
        in about 4/3 of the time.  One direction only.
    validation : tuple, optional
        ``(x, y)``, ``(x, y, lengths)`` or ``(x, y, lengths, sample_weight)``, where lengths may be
        None: the loss over these is computed after every epoch.
    validation_split : float, default 0.0
        Or, in its place, the share of the sequences to hold out for that, below 1: the last ones of
        x as it is, before any shuffling, rounded up to a whole number.  Shuffle sequences that are
        sorted, by class for example, before the call.
    patience : int, optional
        Stop after so many epochs in a row without a new least validation loss, or training loss
        if there is no validation; the model is given back its weights of the best epoch.
    progress : bool, default True
        Show a progress bar, if tqdm is installed (the extra "progress").
    seed : None, int, numpy.random.Generator or Generators, optional
        Two generators are spawned from it, one for the order of sequences and one for dropout and
        the noise's seeds.  The same seed gives the same bits, for any number of threads, with the
        backend "numba"; a Generator spawns others each time it is given.  A run's own
        :class:`Generators` are drawn from as they are, so that training goes on as if it had not
        ended.
    checkpoint : path-like, optional
        File to write at the start and after every epoch.  If it exists, training goes on from
        there, to the same bits as without the interruption, and `seed` is not used.  Of iterables,
        which cannot be asked for a step's minibatch, it goes on with others; a warning says so.
    callback : callable, optional
        ``callback(model, history)`` is called after every epoch; training stops if it returns true.
        With `comm` it is called on every rank, and may change model and optimizer alike on all; or
        on rank 0 alone, if it has an attribute ``rank_0_only`` that is true.
    shares : int, optional
        Cut each minibatch into so many pieces, at most `batch_size`; loss and gradient of each are
        computed on their own and summed in one order.  Memory falls with the size of a piece.  By
        default a minibatch stays whole, or with `comm` is cut into a piece for each rank.
    comm : mpi4py.MPI.Intracomm, optional
        Train on all ranks of an MPI communicator, of which each calls `fit` with the same arguments
        and computes its pieces: the bits depend on `shares`, not on how many ranks there are.

    Returns
    -------
    History

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value; the model is as it was.
    FloatingPointError
        If the loss or a weight turns infinite or NaN.  It names the epoch and the minibatch,
        counted from 1; the model keeps the last weights whose loss was finite.

    With `comm`, what one rank raises is raised on all.

    See Also
    --------
    RNN : The model.
    History : What is returned.
    fastbptt.losses : The losses.
    save : Keeps the model.

    Notes
    -----
    Ctrl-C ends the training as if all epochs were done, ``history.stopped`` says so.

    Losses reported are those of the data alone: penalties are in the gradients only, so that
    training and validation, and trainings with other penalties, compare.

    A `loss` of your own whose value is a sum over rows, not a mean, says so by an attribute
    ``reduction`` that is "sum", as :func:`fastbptt.losses.ssr` does; what :func:`functools.wraps`
    or :class:`functools.partial` makes of it has this, too.  :func:`fastbptt.losses.cross_entropy`
    ignores the class -100, and ``functools.partial(cross_entropy, ignored=-1)`` another one.

    Arrays of :class:`numpy.memmap`, and lists of them, stay in their files: a minibatch, or a piece
    of it, is read when it is computed.

    Pieces of a minibatch (`shares`) are of neighbouring sequences, or of sequences with about as
    many steps in each if their lengths differ.  The loss is divided by the weight of the whole
    minibatch.  With one piece, bits are those of none; dropout is drawn for each piece anew.

    With `comm`, rank 0's weights, optimizer, generators and checkpoint are what all begin with, and
    rank 0 alone writes files and shows progress.  Validation data are dealt out to the ranks, too.
    While it trains, a rank uses its share of the node's cores, unless the environment variable
    NUMBA_NUM_THREADS is set; Ctrl-C ends all ranks after the same step.  Start it by ``mpiexec -n 4
    python -m mpi4py train.py``; more is in the file DISTRIBUTED.md beside this module.

    Examples
    --------
    >>> import numpy as np, fastbptt
    >>> x = np.random.default_rng(0).integers(0, 2, (64, 5))
    >>> model = fastbptt.RNN(1, 8, 1, seed=0)
    >>> optimizer = fastbptt.Adam(learning_rate=0.01)
    >>> history = fastbptt.fit(
    ...     model, x, x.sum(axis=1), optimizer=optimizer, epochs=30, progress=False, seed=0
    ... )
    >>> history.loss[-1] < 0.1 * history.loss[0]
    True

    A loss of one's own, the mean of log(cosh(y - target)):

    >>> def log_cosh(y, target):
    ...     r = y - target
    ...     return np.log(np.cosh(r)).mean(), np.tanh(r) / r.size
    >>> history = fastbptt.fit(
    ...     model, x, x.sum(axis=1), loss=log_cosh, epochs=3, progress=False, seed=0
    ... )

    One that knows classes and weights, the cross-entropy with labels smoothed:

    >>> def smoothed(y, target, weight):
    ...     n, O = y.shape
    ...     p = np.exp(y - y.max(axis=1, keepdims=True))
    ...     p /= p.sum(axis=1, keepdims=True)
    ...     wanted = np.full_like(y, 0.1 / O)
    ...     wanted[np.arange(n), target] += 0.9
    ...     w = weight[:, None] / weight.sum()
    ...     return -(w * wanted * np.log(p)).sum(), w * (p - wanted)
    >>> model = fastbptt.RNN(1, 8, 2, seed=0)
    >>> history = fastbptt.fit(
    ...     model, x, x[:, -1], loss=smoothed, class_weight="balanced", epochs=3, progress=False,
    ...     seed=0,
    ... )

    Trials without end, a new minibatch for every step:

    >>> def trials(step):
    ...     return fastbptt.tasks.perceptual_decision(64, seed=[0, step], dt=100)[:3]
    >>> model = fastbptt.RNN(3, 16, 3, output="all", noise=0.1, seed=0)
    >>> history = fastbptt.fit(
    ...     model, trials, steps_per_epoch=20, epochs=3, loss="cross_entropy", progress=False,
    ...     seed=0,
    ... )
    """
    if callback is not None and not callable(callback):
        raise TypeError(f"callback is {callback!r}, expected a function of model and history")
    with Ranks(comm) as ranks:
        run = Run(
            model, x, y, lengths=lengths, sample_weight=sample_weight, class_weight=class_weight,
            loss=loss, optimizer=optimizer, batch_size=batch_size, steps_per_epoch=steps_per_epoch,
            time_major=time_major, clip_norm=clip_norm, l1=l1, l2=l2, activity_l2=activity_l2,
            frozen=frozen, truncate=truncate, memory=memory, validation=validation,
            validation_split=validation_split, patience=patience, seed=seed, shares=shares,
            ranks=ranks,
        )  # fmt: skip
        epochs = _checks.integer("epochs", epochs, 0)
        before = model.network.memory.copy()
        given = {"callback": callback is not None, "checkpoint": checkpoint is not None}
        ranks.check_same(lambda: {**model.config(), **run.settings, "epochs": epochs, **given})
        by_step = run.source is None or run.source.by_step
        if checkpoint is not None and not by_step and ranks.rank == 0:
            warnings.warn(
                "x is an iterable: training goes on from the checkpoint with other minibatches, "
                "not to the same bits as without an interruption; a function of the step's number "
                "would",
                RuntimeWarning,
                stacklevel=3,
            )
        if checkpoint is not None:
            ranks.first(lambda: run.begin(checkpoint))
        run.take_over()
        if model.backend == "numba":
            ranks.prepare(model.dtype)
        history = run.history
        begun = len(history.loss)
        with _bar(run, epochs, progress and ranks.rank == 0) as shown:
            try:
                while len(history.loss) < epochs and history.stopped == "finished":
                    run.epoch(shown)
                    stale = run.is_stale()
                    if callback is not None and run.calls(callback):
                        history.stopped = "callback"
                    if stale:
                        history.stopped = "early"
                    if checkpoint is not None:
                        ranks.first(lambda: run.save(checkpoint))
                    if shown is not None:
                        shown.set_postfix(_latest(history))
            except KeyboardInterrupt:
                run.interrupted()
            except (TypeError, ValueError):
                if len(history.loss) == begun:  # the loss turns targets away: they do not fit
                    model.network.memory[...] = before
                raise
        if run.best is not None:
            model.network.set_free(run.best)
        return history


@dataclass
class Piece:
    """A piece of a minibatch, and how far it has come.

    Attributes
    ----------
    index : ndarray of int
        Its sequences.
    rng : numpy.random.Generator
        Of dropout and noise.
    state : sequence of ndarray, (B, H), or None
        States of each layer before the next window of time; zero at first.
    """

    index: np.ndarray
    rng: np.random.Generator
    state: States | None = None


class Run:
    """A training run: what it is, what it changes as it goes, and the step that changes it.

    Parameters
    ----------
    As for :func:`fit`; and

    ranks : Ranks
        Who trains together.

    Attributes
    ----------
    history : History
    generators : Generators
    best : ndarray or None
        Weights of the epoch ``history.best_epoch``: what is trained, ``network.free``.
    good : ndarray
        The same of the last weights whose loss was finite.
    """

    model: RNN
    data: Data | None  # what is trained on, if it is arrays
    sequences: int  # how many
    source: Source | None  # what makes minibatches, if it is not
    class_weight: Any
    loss: Criterion
    optimizer: SGD | RMSprop | Adam
    batch_size: int
    clip_norm: float | None
    l1: dict[str, float]  # of each array of weights that has one
    l2: dict[str, float]
    activity_l2: float
    frozen: list[str]
    truncate: int | None
    memory: str
    validation: Data | None
    patience: int | None
    shares: int | None
    ranks: Ranks
    settings: dict[str, Any]  # what another run must have alike to go on from this one's file
    generators: Generators
    history: History
    best: np.ndarray | None
    good: np.ndarray
    gradient: Weights  # the last step's
    repeated: RepeatedSteps | None  # steps whose arrays are kept, where memory need not be small
    batch: int  # the minibatch of the epoch, from 1

    def __init__(
        self,
        model: RNN,
        x: npt.ArrayLike | Callable[[int], Any] | Iterable[Any],
        y: npt.ArrayLike | None = None,
        *,
        lengths: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
        class_weight: Mapping[int, float] | npt.ArrayLike | str | None = None,
        loss: str | Callable[..., Any] = "mse",
        optimizer: OptimizerName | SGD | RMSprop | Adam = "adam",
        batch_size: int = 32,
        steps_per_epoch: int | None = None,
        time_major: bool | None = None,
        clip_norm: float | None = None,
        l1: float | Mapping[str, float] = 0.0,
        l2: float | Mapping[str, float] = 0.0,
        activity_l2: float = 0.0,
        frozen: str | Iterable[str] = (),
        truncate: int | None = None,
        memory: str = "full",
        validation: tuple[Any, ...] | None = None,
        validation_split: float = 0.0,
        patience: int | None = None,
        seed: int | np.random.Generator | Generators | None = None,
        shares: int | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        if not isinstance(model, RNN):
            raise TypeError(f"model is a {type(model).__name__}, expected an RNN")
        criterion, optimizer = Criterion(loss, model.network.backend), find_optimizer(optimizer)
        self.model, self.loss, self.optimizer = model, criterion, optimizer
        self.batch_size = _checks.integer("batch_size", batch_size)
        self.ranks = Ranks() if ranks is None else ranks
        self.shares = self.ranks.pieces(shares)
        if self.shares is not None and self.shares > self.batch_size and not is_source(x):
            raise ValueError(
                f"shares is {self.shares}, expected at most {self.batch_size}: batch_size"
            )
        self.truncate = None if truncate is None else _checks.integer("truncate", truncate)
        self.patience = None if patience is None else _checks.integer("patience", patience)
        if clip_norm is not None:
            clip_norm = _checks.number("clip_norm", clip_norm, zero=False)
        if memory not in MEMORY:
            raise ValueError(f"memory is {memory!r}, expected 'full' or 'checkpointed'")
        if truncate and memory != "full":
            raise ValueError("truncate is given with memory='checkpointed', expected one of them")
        if model.bidirectional and (truncate or memory != "full"):
            raise ValueError("truncate or memory is given, expected a model of one direction")
        self.clip_norm, self.memory = clip_norm, memory
        names = model.parameters()
        self.l1, self.l2 = coefficients("l1", l1, names), coefficients("l2", l2, names)
        self.activity_l2 = _checks.number("activity_l2", activity_l2)
        self.frozen = frozen_names(frozen, names)
        self.class_weight = class_weight
        self.data, self.sequences, self.source = None, 0, None
        if is_source(x):
            given = {"y": y, "lengths": lengths, "sample_weight": sample_weight}
            _check_none(given | {"validation_split": validation_split or None}, "x is a source")
            if isinstance(class_weight, str):
                raise ValueError(
                    f"class_weight is {class_weight!r}, expected weights: no minibatch has all data"
                )
            self.source = Source(x, steps_per_epoch, time_major)
        else:
            given = {"steps_per_epoch": steps_per_epoch, "time_major": time_major}
            _check_none(given, "x is no source")
            if y is None:
                raise TypeError("y is None, expected targets")
            self.data = model.read(x, y, lengths, criterion, sample_weight)
        self.validation = None if validation is None else _held_out(model, criterion, validation)
        if validation_split and self.data is not None:
            if validation is not None:
                raise ValueError("validation_split is given with validation, expected one of them")
            self.data, self.validation = _split(self.data, validation_split)
        if self.data is not None:
            self.data = self._weighted(self.data)
            self.sequences = len(self.data.x)
        if not isinstance(seed, Generators):
            seed = Generators(*np.random.default_rng(seed).spawn(2))
        self.generators, self.history = seed, History()
        self.best, self.good = None, model.network.free.copy()
        self.gradient, self.batch = model.network.new_gradient(), 0
        self.repeated = None
        if memory == "full" and not (self.shares or self.truncate or self.activity_l2):
            self.repeated = RepeatedSteps(model.network, self.gradient)
        self.settings = {  # those of the start: a callback may change the optimizer's
            "loss": criterion.name, "sample_weight": None if sample_weight is None else "given",
            "class_weight": _setting(class_weight), "l1": self.l1 or None, "l2": self.l2 or None,
            "activity_l2": self.activity_l2 or None, "frozen": self.frozen or None,
            "batch_size": self.batch_size, "clip_norm": clip_norm, "truncate": self.truncate,
            "memory": memory, "patience": self.patience, "optimizer": type(optimizer).__name__,
            **optimizer.settings(), "sequences": self.sequences or None,
            "steps_per_epoch": None if self.source is None else self.source.steps,
            "validation": None if self.validation is None else len(self.validation.x),
            "shares": self.shares,
        }  # fmt: skip

    def epoch(self, bar: Any = None) -> None:
        """Pass over the data once, validate, and enter both losses into the history."""
        started, history, mean = time.perf_counter(), self.history, Mean(self.loss)
        for batch, (data, index) in enumerate(self._minibatches(), start=1):
            self.batch = batch
            for value, weight in self.steps(data, index):
                mean.add(value, weight)
            if bar is not None:
                bar.update(len(index) if self.source is None else 1)
        epoch = len(history.loss) + 1
        if not math.isfinite(mean.value):  # where none of those that it is the mean of is
            self.diverged(f"mean loss is {mean.value} in epoch {epoch}")
        if self.validation is not None:
            found = self._validation_loss(self.validation)
            if not math.isfinite(found):
                self.diverged(f"validation loss is {found} after epoch {epoch}")
            history.validation_loss.append(found)
        history.loss.append(mean.value)
        history.seconds.append(self.ranks.first(lambda: time.perf_counter() - started))

    def steps(self, data: Data, index: np.ndarray) -> Iterator[tuple[float, float]]:
        """Steps on some sequences: one, or for output "all" one for each window of `truncate`.

        Yields
        ------
        value, weight : float
            As :meth:`step` returns them.
        """
        pieces, T = self._pieces(data, index), 1
        if self.truncate is not None and self.model.output == "all":
            T = max(int(data.x.lengths[index].max()), 1)
        for first in range(0, T, self.truncate or 1):
            yield self.step(data, index, pieces, first)

    def _minibatches(self) -> Iterator[tuple[Data, np.ndarray]]:
        """Those of the epoch that is next: data, and which of the sequences."""
        if self.source is not None:
            first = len(self.history.loss) * self.source.steps
            for step in range(first, first + self.source.steps):
                yield self._minibatch(self.source, step)
        elif self.data is not None:
            order = self.generators.order.permutation(self.sequences)
            for start in range(0, len(order), self.batch_size):
                yield self.data, order[start : start + self.batch_size]

    def _minibatch(self, source: Source, step: int) -> tuple[Data, np.ndarray]:
        """A source's minibatch of a step, checked and converted."""
        x, y, weight = source.minibatch(step, self.model.output == "all")
        try:
            data = self._weighted(self.model.read(x, y, None, self.loss, weight))
        except (TypeError, ValueError) as error:
            raise type(error)(f"minibatch of step {step}: {error}") from error
        return data, np.arange(len(data.x))

    def _weighted(self, data: Data) -> Data:
        """A data set or a minibatch, times the weights of the classes."""
        if len(data.x) == 0:
            raise ValueError("x holds no sequence, expected at least one")
        if self.class_weight is None:
            return data
        return times_class_weight(self.class_weight, data, self.model.output_size, self.loss)

    def step(
        self, data: Data, index: np.ndarray, pieces: Mapping[int, Piece], first: int = 0
    ) -> tuple[float, float]:
        """A step of the optimizer: gradients, their sum, penalize, chain rule, clip, update.

        Parameters
        ----------
        data : Data
        index : ndarray of int, (B,)
            The minibatch's sequences, and
        pieces : mapping of int to Piece
            this rank's pieces of it, by their number.
        first : int, default 0
            Where in time its window of `truncate` begins.

        Returns
        -------
        value : float
            The loss before the step.
        weight : float
            How many rows it is the mean or the sum of, or the sum of their weights.
        """
        network = self.model.network
        whole = data.extent(index, first, self.truncate)
        value = self.ranks.sum(
            self.shares or 1,
            lambda k: self._part(data, pieces[k], first, whole),
            self.gradient.vector,
        )
        if self.l1 or self.l2:
            penalize(network.weights.named, self.gradient.named, self.l1, self.l2)
        if not math.isfinite(value):
            self.diverged(f"loss is {value} in {self.place()}")
        self.good[...] = network.free
        network.chain(self.gradient)
        finite = self.optimizer.advance(
            self._trained(network.weights), self._trained(self.gradient),
            max_norm=self.clip_norm, backend=network.backend,
        )  # fmt: skip
        network.refresh()
        if network.rules or self.frozen:  # not all weights are trained
            finite = np.isfinite(network.memory).all()
        if not finite:
            self.diverged(f"weights are infinite or NaN after {self.place()}")
        return value, whole.weight

    def _pieces(self, data: Data, index: np.ndarray) -> dict[int, Piece]:
        """This rank's pieces of a minibatch, by their number."""
        dropout = self.generators.dropout
        if self.shares is None:
            return {0: Piece(index, dropout)}
        # All ranks draw these alike; a piece's own generator follows from them and its number.
        words = dropout.integers(2**32, size=4).tolist()
        pieces = cut(data.x.lengths[index], self.shares)
        return {
            k: Piece(index[pieces[k]], np.random.default_rng([k, *words]))
            for k in self.ranks.own(self.shares)
        }

    def _part(self, data: Data, piece: Piece, first: int, whole: Extent) -> float:
        """A piece's part of the minibatch's loss; that of the gradient is in `self.gradient`."""
        network, count, share, of_steps = self.model.network, self.truncate, 1.0, 1.0
        if self.shares is not None:
            its = data.extent(piece.index, first, count)
            if its.rows == 0:
                self.gradient.vector[...] = 0
                return 0.0
            of_steps = its.steps / max(whole.steps, 1)
            if self.loss.reduction == "mean" and whole.weight > 0:
                share = its.weight / whole.weight
        if network.output == "all":
            minibatch = data.minibatch(piece.index, first, count)
        else:
            minibatch = data.minibatch(piece.index)
            if count is not None:
                minibatch, piece.state = _last_steps(network, minibatch, count, piece.rng)

        loss = self.loss.compute
        if self.shares is not None:
            loss = _times(share, loss)
        repeated = None if self.repeated is None else self.repeated.find(minibatch)
        if repeated is not None:
            return repeated.loss_and_gradient(minibatch, loss)
        x, y, lengths, weight, begins = minibatch
        value, _, piece.state = network.loss_and_gradient(
            x, y, lengths, loss, weight=weight, state=piece.state, begins=begins, rng=piece.rng,
            checkpointed=self.memory == "checkpointed", activity_l2=self.activity_l2 * of_steps,
            out=self.gradient,
        )  # fmt: skip
        return value

    def _validation_loss(self, data: Data) -> float:
        """The loss over the validation data, groups of sequences dealt out to the ranks."""
        together, (rank, size) = TOGETHER, (self.ranks.rank, self.ranks.size)
        if self.shares is not None:
            together = min(-(-len(data.x) // self.shares), TOGETHER)
        losses = self.model.losses(data, self.loss, together, rank, size)
        found, mean = self.ranks.each(lambda: [*losses]), Mean(self.loss)
        for i in range(sum(map(len, found))):
            mean.add(*found[i % size][i // size])
        return mean.value

    def calls(self, callback: Callable[[RNN, History], Any]) -> bool:
        """Call after an epoch; whether training is to stop."""
        network, settings = self.model.network, self.optimizer.settings

        def call() -> bool:
            return bool(callback(self.model, self.history))

        if attribute(callback, "rank_0_only", False):
            stop = self.ranks.first(call)
        else:
            stop = any(self.ranks.each(call))
        self.ranks.check_same(
            lambda: {"the weights' checksum": zlib.crc32(network.memory.data), **settings()}
        )
        return stop

    def place(self) -> str:
        """Where it is: the epoch and the minibatch, from 1."""
        return f"epoch {len(self.history.loss) + 1}, batch {self.batch}"

    def _trained(self, weights: Weights) -> dict[str, np.ndarray]:
        """What is trained, or its gradient, as the optimizer takes it."""
        if not self.frozen:
            return {"weights": weights.free}
        return {name: a for name, a in weights.trained.items() if name not in self.frozen}

    def is_stale(self) -> bool:
        """Whether the best epoch is `patience` epochs old; if it is the last, keep its weights."""
        if self.patience is None:
            return False
        history = self.history
        values = history.validation_loss or history.loss
        best_epoch = values.index(min(values)) + 1
        if best_epoch == len(values):
            best = self.model.network.free.copy()
            self.best, history.best_epoch = best, best_epoch
        return len(values) - best_epoch >= self.patience

    def diverged(self, what: str) -> NoReturn:
        """Give the model back the last weights whose loss was finite, and say what was not."""
        self.model.network.set_free(self.good)
        raise FloatingPointError(f"{what}; the model keeps the last weights whose loss was finite")

    def interrupted(self) -> None:
        """Keep whole epochs alone in the history, and weights that are finite."""
        history, network = self.history, self.model.network
        history.stopped = "interrupted"
        epochs_done = len(history.seconds)
        del history.loss[epochs_done:], history.validation_loss[epochs_done:]
        network.refresh()  # the step may have been cut short before it
        if not np.isfinite(network.memory).all():
            network.set_free(self.good)

    def begin(self, checkpoint: str | os.PathLike[str]) -> None:
        """Go on from a file; or write it, which had better fail before an epoch's work."""
        if os.path.exists(checkpoint):
            self.resume(checkpoint)
        else:
            self.save(checkpoint)

    def take_over(self) -> None:
        """Begin on all ranks with what rank 0 has."""
        if self.ranks.size == 1:
            return
        network, optimizer = self.model.network, self.optimizer
        found = self.ranks.first(
            lambda: (network.memory, self.best, self.generators, self.history,
                     optimizer.settings(), optimizer.state())
        )  # fmt: skip
        if self.ranks.rank > 0:
            memory, self.best, self.generators, self.history, settings, state = found
            optimizer.restore(settings, state, self._trained(network.weights))
            network.memory[...] = memory
            self.good[...] = network.free

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file to go on from."""
        progress = {
            "settings": self.settings,
            "optimizer": self.optimizer.settings(),
            "generators": {
                name: generator.bit_generator.state
                for name, generator in self.generators._asdict().items()
            },
            "history": asdict(self.history),
        }
        _storage.save_training(path, self.model, self.optimizer, self.best, progress)

    def resume(self, path: str | os.PathLike[str]) -> None:
        """Go on from a file, if it is of the same model and training."""
        model, state, best, progress = _storage.load_training(path)
        _check_same(path, model.config(), self.model.config())
        _check_same(path, progress.get("settings"), self.settings)
        network = model.network
        try:
            history = _history(progress.get("history"), best, self.settings)
            generators = _generators(progress.get("generators"))
            if not all(np.isfinite(a).all() for a in (network.memory, best) if a is not None):
                raise ValueError("weights are infinite or NaN")
            # Last, since it changes the optimizer.  A callback may have changed the settings.
            trained = self._trained(network.weights)
            self.optimizer.restore(progress.get("optimizer"), state, trained)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ValueError(f"{path} holds no training to go on with: {error}") from error
        self.generators, self.history, self.best = generators, history, best
        self.model.network.memory[...] = network.memory
        self.good[...] = network.free


def _check_none(given: dict[str, Any], why: str) -> None:
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name} is given, expected None: {why}")


def _generators(found: Any) -> Generators:
    """The generators in a file."""
    if not isinstance(found, dict) or found.keys() != set(Generators._fields):
        raise ValueError(
            f"the generators are {reprlib.repr(found)}, expected {[*Generators._fields]}"
        )
    return Generators(**{n: _storage.restored_generator(found[n]) for n in Generators._fields})


def _check_same(path: str | os.PathLike[str], then: Any, now: dict[str, Any]) -> None:
    """Check that a file's model or training is the present one."""
    if not isinstance(then, dict):
        raise ValueError(f"{path} holds no training to go on with: its settings are missing")
    for name in {**then, **now}:
        if name != "backend" and then.get(name) != now.get(name):
            raise ValueError(
                f"{path} is of a training with {name} = {reprlib.repr(then.get(name))}, expected "
                f"{now.get(name)!r}; remove the file to begin anew"
            )


def _history(found: Any, best: np.ndarray | None, settings: dict[str, Any]) -> History:
    """The history in a file, as training with these settings and best weights leaves it."""
    names = [each.name for each in fields(History)]
    if not isinstance(found, dict) or found.keys() != set(names):
        raise ValueError(f"history is {reprlib.repr(found)}, expected {names}")
    history = History(**found)
    for name in ("loss", "validation_loss", "seconds"):
        if not isinstance(found[name], list) or not all(
            type(value) is float and math.isfinite(value) for value in found[name]
        ):
            raise ValueError(f"history's {name} is {reprlib.repr(found[name])}, expected numbers")
    epochs = len(history.loss)
    validated = epochs if settings["validation"] is not None else 0
    if (len(history.validation_loss), len(history.seconds)) != (validated, epochs):
        raise ValueError(f"history has {epochs} losses, but not as many values beside them")
    values, best_epoch = history.validation_loss or history.loss, None
    if settings["patience"] is not None and values:
        best_epoch = values.index(min(values)) + 1
    if repr(history.best_epoch) != repr(best_epoch) or (best is None) != (best_epoch is None):
        raise ValueError(
            f"history's best epoch is {reprlib.repr(history.best_epoch)}, expected {best_epoch}, "
            f"and {'no' if best_epoch is None else 'its'} weights beside"
        )
    if history.stopped not in STOPPED:
        raise ValueError(f"history's stopped is {reprlib.repr(history.stopped)}")
    if history.stopped != "early":
        history.stopped = "finished"
    return history


def _times(share: float, loss: Callable[..., Any]) -> Callable[..., Any]:
    """A loss and its gradient, times a number."""

    def compute(*given: Any) -> tuple[float, np.ndarray]:
        value, dy = loss(*given)
        return value * share, dy * share

    return compute


def _last_steps(
    network: Network, minibatch: Minibatch, count: int, rng: np.random.Generator
) -> tuple[Minibatch, Any]:
    """The minibatch of each sequence's last steps, `count` at most, and the states before them."""
    x, lengths = minibatch.x, minibatch.lengths
    T, B = x.shape[:2]
    if count >= T:
        return minibatch, None
    ends = np.full(B, T) if lengths is None else lengths
    skipped = np.maximum(ends - count, 0)
    noise = network.draw_noise(rng)
    _, state = network.run(x[: skipped.max()], skipped, rng=rng, noise=noise)
    t = np.minimum(np.arange(count)[:, np.newaxis] + skipped, T - 1)
    piece = minibatch._replace(
        x=x[t, np.arange(B)], lengths=np.minimum(ends, count), begins=skipped == 0
    )
    return piece, state


def _setting(class_weight: Any) -> Any:
    """Class weights as a file can hold them."""
    if isinstance(class_weight, Mapping):
        return {str(key): float(value) for key, value in class_weight.items()}
    return class_weight if isinstance(class_weight, str) else np.asarray(class_weight).tolist()


def _cut(count: int, share: float) -> int:
    """How many of so many sequences are trained on if this share of them, the last, is not."""
    share = _checks.number("validation_split", share, below=1)
    cut = math.floor(count * (1 - share) + 1e-9)  # 10 * (1 - 0.9) is below 1
    if not 0 < cut < count:
        raise ValueError(
            f"validation_split is {share} of {count} sequences, which leaves {cut} to train on and "
            f"{count - cut} to hold out: expected at least one of each"
        )
    return cut


def _split(data: Data, share: float) -> tuple[Data, Data]:
    """A data set without this share of the sequences, the last ones; and these."""
    cut = _cut(len(data.x), share)
    found = data.part(slice(cut)), data.part(slice(cut, None))
    for part, purpose in zip(found, ("train on", "hold out"), strict=True):
        if part.weighs_nothing():
            raise ValueError(
                f"validation_split is {share}, which leaves none but weight 0 to {purpose}"
            )
    return found


def _held_out(model: RNN, loss: Criterion, validation: Any) -> Data:
    """The data of the validation."""
    if not isinstance(validation, (tuple, list)) or len(validation) not in (2, 3, 4):
        raise ValueError(
            "validation is not (x, y), (x, y, lengths) or (x, y, lengths, sample_weight)"
        )
    x, y, lengths, sample_weight = (*validation, None, None)[:4]
    try:
        found = model.read(x, y, lengths, loss, sample_weight)
    except (TypeError, ValueError) as error:
        raise type(error)(f"validation: {error}") from None
    if len(found.x) == 0:
        raise ValueError("validation holds no sequence, expected at least one")
    return found


def _bar(run: Run, epochs: int, wanted: bool) -> contextlib.AbstractContextManager[Any]:
    """A progress bar, or nothing if none is wanted or can be had."""
    if wanted:
        try:
            tqdm = import_extra("tqdm.auto", "progress", "a progress bar").tqdm
            size, unit = run.sequences, "sequence"
            if run.source is not None:
                size, unit = run.source.steps, "minibatch"
            done = len(run.history.loss) * size
            return tqdm(initial=done, total=epochs * size, unit=unit)
        except MissingExtraError as error:
            tell_once(f"fastbptt: {error}")
    return contextlib.nullcontext()


def _latest(history: History) -> dict[str, int | str]:
    """The last epoch's losses, for the progress bar."""
    shown = {"epoch": len(history.loss), "loss": f"{history.loss[-1]:.4g}"}
    if history.validation_loss:
        shown["validation"] = f"{history.validation_loss[-1]:.4g}"
    return shown
