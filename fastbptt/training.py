"""Training: minibatches, gradients, steps of an optimizer, until it is enough."""

import contextlib
import math
import os
import reprlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from fastbptt import _checks, _sequences, _storage
from fastbptt._extras import MissingExtraError, import_extra
from fastbptt._names import with_our_names
from fastbptt._network import Network, Weights
from fastbptt._notice import tell_once
from fastbptt._sequences import Sequences
from fastbptt._stack import States
from fastbptt.checkpointed import windows
from fastbptt.losses import Loss, attribute
from fastbptt.model import RNN, Mean, find_loss
from fastbptt.optimizers import (
    SGD,
    Adam,
    OptimizerName,
    RMSprop,
    clip_by_global_norm,
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
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    lengths: npt.ArrayLike | None = None,
    loss: str | Callable[..., Any] = "mse",
    optimizer: OptimizerName | SGD | RMSprop | Adam = "adam",
    epochs: int = 100,
    batch_size: int = 32,
    clip_norm: float | None = None,
    truncate: int | None = None,
    memory: str = "full",
    validation: tuple[Any, ...] | None = None,
    validation_split: float = 0.0,
    patience: int | None = None,
    progress: bool = True,
    seed: int | np.random.Generator | Generators | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    callback: Callable[[RNN, History], Any] | None = None,
) -> History:
    """Train a model by minibatch gradient descent.

    Parameters
    ----------
    model : RNN
        Its weights change in place.
    x, y, lengths, loss
        As for :meth:`fastbptt.RNN.evaluate`.
    optimizer : {"adam", "rmsprop", "sgd"}, SGD, RMSprop or Adam, default "adam"
        A name, in any case, stands for that optimizer with its defaults.  The learning rate is the
        optimizer's: ``Adam(learning_rate=0.01)``.
    epochs : int, default 100
        Passes over the data, in a new random order each.
    batch_size : int, default 32
        Sequences in a minibatch.
    clip_norm : float, optional
        Largest norm of the gradient of all weights together; a longer one is scaled to it (Pascanu,
        Mikolov and Bengio 2013).
    truncate : int, optional
        Truncated backpropagation through time.  For output "all", the optimizer takes a step every
        so many time steps: states go on from window to window, gradients end at a window's start.
        For "last", gradients reach back so many steps from each sequence's end.  One direction
        only.
    memory : {"full", "checkpointed"}, default "full"
        "checkpointed" keeps about sqrt(T) of the T states in memory and computes the others twice,
        in about 4/3 of the time.  One direction only.
    validation : tuple, optional
        ``(x, y)`` or ``(x, y, lengths)``: the loss over these is computed after every epoch.
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
        Two generators are spawned from it, one for the order of sequences and one for dropout.  The
        same seed gives the same bits, for any number of threads, with the backend "numba"; a
        Generator spawns others each time it is given.  A run's own :class:`Generators` are drawn
        from as they are, so that training goes on as if it had not ended.
    checkpoint : path-like, optional
        File to write at the start and after every epoch.  If it exists, training goes on from
        there, to the same bits as without the interruption, and `seed` is not used.
    callback : callable, optional
        ``callback(model, history)`` is called after every epoch; training stops if it returns true.

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

    Notes
    -----
    Ctrl-C ends the training as if all epochs were done, ``history.stopped`` says so.

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

    A history is shown as a table:

    >>> fastbptt.History(loss=[1.5, 0.25, 0.5], seconds=[0.1, 0.1, 0.1], best_epoch=2)
    finished after 3 epochs
    epoch        loss     seconds
        1         1.5         0.1
        2        0.25         0.1  best
        3         0.5         0.1
    """
    run = Run(
        model, x, y, lengths=lengths, loss=loss, optimizer=optimizer, batch_size=batch_size,
        clip_norm=clip_norm, truncate=truncate, memory=memory, validation=validation,
        validation_split=validation_split, patience=patience, seed=seed,
    )  # fmt: skip
    epochs = _checks.integer("epochs", epochs, 0)
    if callback is not None and not callable(callback):
        raise TypeError(f"callback is {callback!r}, expected a function of model and history")
    tqdm: Any = None
    if progress:
        try:
            tqdm = import_extra("tqdm.auto", "progress", "a progress bar").tqdm
        except MissingExtraError as error:
            tell_once(f"fastbptt: {error}")

    before = model.network.vector.copy()
    if checkpoint is not None and os.path.exists(checkpoint):
        run.resume(checkpoint)
    elif checkpoint is not None:
        run.save(checkpoint)  # where that fails, it does so before an epoch's work
    history, bar, begun = run.history, contextlib.nullcontext(), len(run.history.loss)
    if tqdm is not None:
        done, total = begun * run.sequences, epochs * run.sequences
        bar = tqdm(initial=done, total=total, unit="sequence")
    with bar as shown:
        try:
            while len(history.loss) < epochs and history.stopped == "finished":
                run.epoch(shown)
                stale = run.is_stale()
                if callback is not None and callback(model, history):
                    history.stopped = "callback"
                if stale:
                    history.stopped = "early"
                if checkpoint is not None:
                    run.save(checkpoint)
                if shown is not None:
                    shown.set_postfix(_latest(history))
        except KeyboardInterrupt:
            run.interrupted()
        except (TypeError, ValueError):
            if len(history.loss) == begun:  # targets that the loss turns away: the data do not fit
                model.network.vector[...] = before
            raise
    if run.best is not None:
        model.network.vector[...] = run.best
    return history


def alone(value: float, gradient: np.ndarray, rows: int) -> tuple[float, np.ndarray, int]:
    """Loss, gradient and rows of a step over all who take it together: one process, as they are."""
    return value, gradient, rows


class Run:
    """A training run: what it is, what it changes as it goes, and the step that changes it.

    Parameters
    ----------
    As for :func:`fit`; and

    reduce : callable
        ``reduce(value, gradient, rows)`` of one step returns them over all who take it together.

    Attributes
    ----------
    history : History
    generators : Generators
    best : ndarray, (P,), or None
        Weights of the epoch ``history.best_epoch``.
    good : ndarray, (P,)
        The last weights whose loss was finite.
    """

    model: RNN
    x: Sequences
    y: Sequences | np.ndarray
    sequences: int  # how many
    loss: Callable[..., Any]
    optimizer: SGD | RMSprop | Adam
    batch_size: int
    clip_norm: float | None
    truncate: int | None
    memory: str
    validation: tuple[Sequences, Sequences | np.ndarray] | None
    patience: int | None
    reduce: Callable[[float, np.ndarray, int], tuple[float, np.ndarray, int]]
    settings: dict[str, Any]  # what another run must have alike to go on from this one's file
    generators: Generators
    history: History
    best: np.ndarray | None
    good: np.ndarray
    gradient: Weights  # the last step's
    batch: int  # the minibatch of the epoch, from 1

    def __init__(
        self,
        model: RNN,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        lengths: npt.ArrayLike | None = None,
        loss: str | Callable[..., Any] = "mse",
        optimizer: OptimizerName | SGD | RMSprop | Adam = "adam",
        batch_size: int = 32,
        clip_norm: float | None = None,
        truncate: int | None = None,
        memory: str = "full",
        validation: tuple[Any, ...] | None = None,
        validation_split: float = 0.0,
        patience: int | None = None,
        seed: int | np.random.Generator | Generators | None = None,
        reduce: Callable[[float, np.ndarray, int], tuple[float, np.ndarray, int]] = alone,
    ) -> None:
        if not isinstance(model, RNN):
            raise TypeError(f"model is a {type(model).__name__}, expected an RNN")
        loss, optimizer = find_loss(loss), find_optimizer(optimizer)
        self.model, self.loss, self.optimizer, self.reduce = model, loss, optimizer, reduce
        self.batch_size = _checks.integer("batch_size", batch_size)
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
        self.x, self.y = _data(model, loss, x, y, lengths)
        self.validation = None if validation is None else _held_out(model, loss, validation)
        if validation_split:
            if validation is not None:
                raise ValueError("validation_split is given with validation, expected one of them")
            cut = _cut(len(self.x), validation_split)
            first, last = slice(cut), slice(cut, None)
            self.validation = self.x.part(last), _part(self.y, last)
            self.x, self.y = self.x.part(first), _part(self.y, first)
        self.sequences = len(self.x)
        if self.sequences == 0:
            raise ValueError("x holds no sequence, expected at least one")
        if not isinstance(seed, Generators):
            seed = Generators(*np.random.default_rng(seed).spawn(2))
        self.generators, self.history = seed, History()
        self.best, self.good = None, model.network.vector.copy()
        self.gradient, self.batch = model.network.new_gradient(), 0
        self.settings = {  # those of the start: a callback may change the optimizer's
            "loss": attribute(loss, "__name__", type(loss).__name__),
            "batch_size": self.batch_size, "clip_norm": clip_norm, "truncate": self.truncate,
            "memory": memory, "patience": self.patience, "optimizer": type(optimizer).__name__,
            **optimizer.settings(), "sequences": self.sequences,
            "validation": None if self.validation is None else len(self.validation[0]),
        }  # fmt: skip

    def epoch(self, bar: Any = None) -> None:
        """Pass over the data once, validate, and enter both losses into the history."""
        started, history = time.perf_counter(), self.history
        mean, order = Mean(self.loss), self.generators.order.permutation(self.sequences)
        for batch, start in enumerate(range(0, self.sequences, self.batch_size), start=1):
            index, self.batch = order[start : start + self.batch_size], batch
            pieces, state = self._pieces(self.x[index], self.y[index], self.x.lengths_of(index))
            for piece in pieces:
                value, rows, state = self.step(piece, state)
                mean.add(value, rows)
            if bar is not None:
                bar.update(len(index))
        epoch = len(history.loss) + 1
        if not math.isfinite(mean.value):  # where none of those that it is the mean of is
            self.diverged(f"mean loss is {mean.value} in epoch {epoch}")
        if self.validation is not None:
            found = float(self.model.evaluate_sequences(*self.validation, self.loss))
            if not math.isfinite(found):
                self.diverged(f"validation loss is {found} after epoch {epoch}")
            history.validation_loss.append(found)
        history.loss.append(mean.value)
        history.seconds.append(time.perf_counter() - started)

    def step(
        self, minibatch: tuple[Any, ...], state: States | None = None
    ) -> tuple[float, int, States]:
        """A step of the optimizer: gradient, reduce, finite?, clip, update.

        Parameters
        ----------
        minibatch : tuple
            x (T, B, I), y, and lengths or None.
        state : sequence of ndarray, (B, H), optional
            Initial states of each layer; zero by default.

        Returns
        -------
        value : float
            The loss before the step.
        rows : int
            How many it is the mean or the sum of.
        state : list of ndarray, (B, H)
            Last states.
        """
        network, (x, y, lengths) = self.model.network, minibatch
        value, gradient, after = network.loss_and_gradient(
            x, y, lengths, self.loss, state=state, rng=self.generators.dropout,
            checkpointed=self.memory == "checkpointed", out=self.gradient,
        )  # fmt: skip
        rows = len(y)
        if network.output == "all":
            rows = y.shape[0] * y.shape[1] if lengths is None else int(lengths.sum())
        value, gradient, rows = self.reduce(value, gradient, rows)
        if not math.isfinite(value):
            self.diverged(f"loss is {value} in {self.place()}")
        self.good[...] = network.vector
        gradients = {"weights": gradient}
        if self.clip_norm is not None:
            clip_by_global_norm(gradients, self.clip_norm)
        self.optimizer.step({"weights": network.vector}, gradients)
        if not np.isfinite(network.vector).all():
            self.diverged(f"weights are infinite or NaN after {self.place()}")
        return value, rows, after

    def place(self) -> str:
        """Where it is: the epoch and the minibatch, from 1."""
        return f"epoch {len(self.history.loss) + 1}, batch {self.batch}"

    def _pieces(
        self, x: np.ndarray, y: np.ndarray, lengths: np.ndarray | None
    ) -> tuple[list[tuple[Any, ...]], States | None]:
        """A minibatch cut in time, a step for each piece, and the states before the first."""
        count = self.truncate
        if count is None:
            return [(x, y, lengths)], None
        if self.model.output == "last":
            network, dropout = self.model.network, self.generators.dropout
            piece, state = _last_steps(network, x, y, lengths, count, dropout)
            return [piece], state
        cut = enumerate(windows(x, lengths, count))
        return [(w, y[i * count : (i + 1) * count], clipped) for i, (w, clipped) in cut], None

    def is_stale(self) -> bool:
        """Whether the best epoch is `patience` epochs old; if it is the last, keep its weights."""
        if self.patience is None:
            return False
        history = self.history
        values = history.validation_loss or history.loss
        best_epoch = values.index(min(values)) + 1
        if best_epoch == len(values):
            best = self.model.network.vector.copy()
            self.best, history.best_epoch = best, best_epoch
        return len(values) - best_epoch >= self.patience

    def diverged(self, what: str) -> NoReturn:
        """Give the model back the last weights whose loss was finite, and say what was not."""
        self.model.network.vector[...] = self.good
        raise FloatingPointError(f"{what}; the model keeps the last weights whose loss was finite")

    def interrupted(self) -> None:
        """Keep whole epochs alone in the history, and weights that are finite."""
        history, vector = self.history, self.model.network.vector
        history.stopped = "interrupted"
        epochs_done = len(history.seconds)
        del history.loss[epochs_done:], history.validation_loss[epochs_done:]
        if not np.isfinite(vector).all():
            vector[...] = self.good

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
        vector = model.network.vector
        try:
            history = _history(progress.get("history"), best, self.settings)
            generators = _generators(progress.get("generators"))
            if not all(np.isfinite(a).all() for a in (vector, best) if a is not None):
                raise ValueError("weights are infinite or NaN")
            # Last, since it changes the optimizer.  A callback may have changed the settings.
            self.optimizer.restore(progress.get("optimizer"), state, {"weights": vector})
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ValueError(f"{path} holds no training to go on with: {error}") from error
        self.generators, self.history, self.best = generators, history, best
        self.good[...] = self.model.network.vector[...] = vector


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


def _last_steps(
    network: Network, x: np.ndarray, y: np.ndarray, lengths: np.ndarray | None, count: int,
    rng: np.random.Generator,
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray | None], Any]:  # fmt: skip
    """The minibatch of each sequence's last steps, `count` at most, and the states before them."""
    T, B, _ = x.shape
    if count >= T:
        return (x, y, lengths), None
    ends = np.full(B, T) if lengths is None else lengths
    skipped = np.maximum(ends - count, 0)
    _, state = network.outputs(x[: skipped.max()], skipped, rng=rng)
    t = np.minimum(np.arange(count)[:, np.newaxis] + skipped, T - 1)
    return (x[t, np.arange(B)], y, np.minimum(ends, count)), state


def _data(model: RNN, loss: Loss, x: Any, y: Any, lengths: Any = None) -> tuple[Sequences, Any]:
    """Inputs and targets, checked."""
    x = _sequences.inputs(x, lengths, model.input_size, model.dtype)
    return x, _sequences.targets(y, x, model.output, model.output_size, loss, model.dtype)


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


def _part(y: Sequences | np.ndarray, index: slice) -> Sequences | np.ndarray:
    """The targets of some of the sequences."""
    return y.part(index) if isinstance(y, Sequences) else y[index]


def _held_out(model: RNN, loss: Loss, validation: Any) -> tuple[Sequences, Any]:
    """Those of the validation."""
    if not isinstance(validation, (tuple, list)) or len(validation) not in (2, 3):
        raise ValueError("validation is not (x, y) or (x, y, lengths)")
    try:
        found = _data(model, loss, *validation)
    except (TypeError, ValueError) as error:
        raise type(error)(f"validation: {error}") from None
    if len(found[0]) == 0:
        raise ValueError("validation holds no sequence, expected at least one")
    return found


def _latest(history: History) -> dict[str, int | str]:
    """The last epoch's losses, for the progress bar."""
    shown = {"epoch": len(history.loss), "loss": f"{history.loss[-1]:.4g}"}
    if history.validation_loss:
        shown["validation"] = f"{history.validation_loss[-1]:.4g}"
    return shown
