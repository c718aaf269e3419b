"""Training: minibatches, gradients, steps of an optimizer, until it is enough."""

import contextlib
import math
import os
import reprlib
import time
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from fastbptt import _checks, _sequences, _storage
from fastbptt._extras import import_extra
from fastbptt.checkpointed import windows
from fastbptt.losses import attribute
from fastbptt.model import RNN, Mean, find_loss
from fastbptt.optimizers import SGD, Adam, RMSprop, clip_by_global_norm

MEMORY = "full", "checkpointed"
STOPPED = "finished", "early", "interrupted", "callback"


@dataclass
class History:
    """What :func:`fit` returns: a value for each epoch, and how it ended.

    Attributes
    ----------
    loss : list of float
        Mean over the epoch's minibatches, each taken before its step.
    validation_loss : list of float
        After the epoch; empty without validation data.
    seconds : list of float
        Wall-clock time of the epoch, validation included.
    best_epoch : int or None
        The epoch, counted from 0, whose weights the model has been given back; None where it has
        the last ones.
    stopped : {"finished", "early", "interrupted", "callback"}
        Whether all epochs are done, the loss had stopped falling, Ctrl-C ended it, or the callback.
    """

    loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    best_epoch: int | None = None
    stopped: str = "finished"


def fit(
    model,
    x,
    y,
    *,
    lengths=None,
    loss: Any = "mse",
    optimizer=None,
    epochs=100,
    batch_size=32,
    clip_norm=None,
    truncate=None,
    memory="full",
    validation=None,
    patience=None,
    progress=True,
    seed=None,
    checkpoint=None,
    callback=None,
):
    """Train a model by minibatch gradient descent.

    Parameters
    ----------
    model : RNN
        Its weights change in place.
    x, y, lengths, loss
        As for :meth:`fastbptt.RNN.evaluate`.
    optimizer : SGD, RMSprop or Adam, optional
        ``Adam()`` by default.
    epochs : int, default 100
        Passes over the data, in a new random order each.
    batch_size : int, default 32
        Sequences in a minibatch.
    clip_norm : float, optional
        Largest norm of the gradient of all weights together; a longer one is scaled to it (Pascanu,
        Mikolov and Bengio 2013).
    truncate : int, optional
        Truncated backpropagation through time.  For output "all", a step of the optimizer every so
        many time steps: states go on from window to window, gradients end at a window's start.  For
        "last", gradients reach back so many steps from each sequence's end.  One direction only.
    memory : {"full", "checkpointed"}, default "full"
        "checkpointed" keeps about sqrt(T) of the T states in memory and computes the others twice,
        in about 4/3 of the time.  One direction only.
    validation : tuple, optional
        ``(x, y)`` or ``(x, y, lengths)``: the loss over these is computed after every epoch.
    patience : int, optional
        Stop after so many epochs in a row without a new least validation loss, or training loss
        where there is no validation; the model is given back its weights of the best epoch.
    progress : bool, default True
        Show a progress bar; needs the extra "train".
    seed : None, int or numpy.random.Generator, optional
        Of the order of sequences and of dropout.  The same seed gives the same bits, for any number
        of threads, with the backend "numba".
    checkpoint : path-like, optional
        File to write at the start and after every epoch; needs the extra "train".  Where it
        exists, training goes on from there, to the same bits as without the interruption, and
        `seed` is not used.
    callback : callable, optional
        ``callback(model, history)`` after every epoch; training stops where it returns true.

    Returns
    -------
    History

    Raises
    ------
    TypeError, ValueError
        Where an argument does not fit; the model is as it was.
    FloatingPointError
        Where the loss or a weight turns infinite or NaN.  It names the epoch and the minibatch,
        counted from 0; the model keeps the last weights whose loss was finite.

    Notes
    -----
    Ctrl-C ends the training as if all epochs were done, ``history.stopped`` says so.

    Examples
    --------
    >>> import numpy as np, fastbptt
    >>> x = np.random.default_rng(0).integers(0, 2, (64, 5))
    >>> model = fastbptt.RNN(1, 8, 1, seed=0)
    >>> optimizer = fastbptt.Adam(lr=0.01)
    >>> history = fastbptt.fit(
    ...     model, x, x.sum(axis=1), optimizer=optimizer, epochs=30, progress=False, seed=0
    ... )
    >>> history.loss[-1] < 0.1 * history.loss[0]
    True
    """
    if not isinstance(model, RNN):
        raise TypeError(f"model is a {type(model).__name__}, expected an RNN")
    loss, optimizer = find_loss(loss), Adam() if optimizer is None else optimizer
    if not isinstance(optimizer, (SGD, RMSprop, Adam)):
        raise TypeError(f"optimizer is {optimizer!r}, expected an SGD, RMSprop or Adam")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback is {callback!r}, expected a function of model and history")
    epochs = _checks.integer("epochs", epochs, 0)
    batch_size = _checks.integer("batch_size", batch_size)
    truncate = None if truncate is None else _checks.integer("truncate", truncate)
    patience = None if patience is None else _checks.integer("patience", patience)
    if memory not in MEMORY:
        raise ValueError(f"memory is {memory!r}, expected 'full' or 'checkpointed'")
    clip_norm = None if clip_norm is None else _checks.number("clip_norm", clip_norm, zero=False)
    if truncate and memory != "full":
        raise ValueError("truncate is given with memory='checkpointed', expected one of them")
    if model.bidirectional and (truncate or memory != "full"):
        raise ValueError("truncate or memory is given, expected a model of one direction")
    data = _data(model, loss, x, y, lengths)
    if len(data[0]) == 0:
        raise ValueError("x holds no sequence, expected at least one")
    if validation is not None:
        if not isinstance(validation, (tuple, list)) or len(validation) not in (2, 3):
            raise ValueError("validation is not (x, y) or (x, y, lengths)")
        try:
            validation = _data(model, loss, *validation)
        except (TypeError, ValueError) as error:
            raise type(error)(f"validation: {error}") from None
        if len(validation[0]) == 0:
            raise ValueError("validation holds no sequence, expected at least one")
    if progress:
        tqdm = import_extra("tqdm.auto", "train", "the progress bar (or progress=False)").tqdm

    before = model.network.vector.copy()
    run = _Run(model, optimizer, np.random.default_rng(seed))
    settings = {
        "loss": attribute(loss, "__name__", type(loss).__name__), "batch_size": batch_size,
        "clip_norm": clip_norm, "truncate": truncate, "memory": memory, "patience": patience,
        "optimizer": type(optimizer).__name__, **optimizer.settings(), "sequences": len(data[0]),
        "validation": None if validation is None else len(validation[0]),
    }  # fmt: skip
    if checkpoint is not None and os.path.exists(checkpoint):
        run.resume(checkpoint, settings)
    elif checkpoint is not None:
        run.save(checkpoint, settings)  # where that fails, it does so before an epoch's work
    history, bar, begun = run.history, None, len(run.history.loss)
    with contextlib.ExitStack() as stack:
        if progress:
            done, total = begun * len(data[0]), epochs * len(data[0])
            bar = stack.enter_context(tqdm(initial=done, total=total, unit="sequence"))
        try:
            while len(history.loss) < epochs and history.stopped == "finished":
                started = time.perf_counter()
                value = _epoch(run, data, loss, batch_size, clip_norm, truncate, memory, bar)
                if not math.isfinite(value):  # where none of those that it is the mean of is
                    run.diverged(f"mean loss is {value} in epoch {len(history.loss)}")
                if validation is not None:
                    found = float(model.evaluate_sequences(*validation, loss))
                    if not math.isfinite(found):
                        run.diverged(f"validation loss is {found} after epoch {len(history.loss)}")
                    history.validation_loss.append(found)
                history.loss.append(value)
                history.seconds.append(time.perf_counter() - started)
                stale = patience is not None and run.is_stale(patience)
                if callback is not None and callback(model, history):
                    history.stopped = "callback"
                if stale:
                    history.stopped = "early"
                if checkpoint is not None:
                    run.save(checkpoint, settings)
                if bar is not None:
                    bar.set_postfix(_latest(history))
        except KeyboardInterrupt:
            history.stopped = "interrupted"
            epochs_done = len(history.seconds)
            del history.loss[epochs_done:], history.validation_loss[epochs_done:]
            if not np.isfinite(model.network.vector).all():
                model.network.vector[...] = run.good
        except (TypeError, ValueError):
            if len(history.loss) == begun:  # targets that the loss turns away: the data do not fit
                model.network.vector[...] = before
            raise
    if run.best is not None:
        model.network.vector[...] = run.best
    return history


class _Run:
    """What a training run changes as it goes; what a checkpoint holds."""

    def __init__(self, model, optimizer, rng):
        self.model, self.optimizer, self.rng = model, optimizer, rng
        self.history = History()
        self.best = None  # weights of the epoch history.best_epoch
        self.good = model.network.vector.copy()  # the last weights whose loss was finite

    def is_stale(self, patience):
        """Whether the best epoch lies so far back; the last one's weights are kept if it is it."""
        history = self.history
        values = history.validation_loss or history.loss
        best_epoch = values.index(min(values))
        if best_epoch == len(values) - 1:
            best = self.model.network.vector.copy()
            self.best, history.best_epoch = best, best_epoch
        return len(values) - 1 - best_epoch >= patience

    def diverged(self, what):
        self.model.network.vector[...] = self.good
        raise FloatingPointError(f"{what}; the model keeps the last weights whose loss was finite")

    def save(self, path, settings):
        progress = {
            "settings": settings,
            "optimizer": self.optimizer.settings(),
            "rng": self.rng.bit_generator.state,
            "history": asdict(self.history),
        }
        _storage.save_training(path, self.model, self.optimizer, self.best, progress)

    def resume(self, path, settings):
        """Go on from a file, if it is of the same model and training."""
        model, state, best, progress = _storage.load_training(path)
        _check_same(path, model.config(), self.model.config())
        _check_same(path, progress.get("settings"), settings)
        vector = model.network.vector
        try:
            history = _history(progress.get("history"), best, settings)
            rng = _storage.restored_generator(progress.get("rng"))
            if not all(np.isfinite(a).all() for a in (vector, best) if a is not None):
                raise ValueError("weights are infinite or NaN")
            # Last, since it changes the optimizer.  A callback may have changed the settings.
            self.optimizer.restore(progress.get("optimizer"), state, {"weights": vector})
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ValueError(f"{path} holds no training to go on with: {error}") from error
        self.rng, self.history, self.best = rng, history, best
        self.good[...] = self.model.network.vector[...] = vector


def _check_same(path, then, now):
    """Check that a file's model or training is the present one."""
    if not isinstance(then, dict):
        raise ValueError(f"{path} holds no training to go on with: its settings are missing")
    for name in {**then, **now}:
        if name != "backend" and then.get(name) != now.get(name):
            raise ValueError(
                f"{path} is of a training with {name} = {reprlib.repr(then.get(name))}, expected "
                f"{now.get(name)!r}; remove the file to begin anew"
            )


def _history(found, best, settings):
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
        best_epoch = values.index(min(values))
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


def _epoch(run, data, loss, batch_size, clip_norm, truncate, memory, bar):
    """One pass over the data; the mean loss."""
    (x, y), network, mean, epoch = data, run.model.network, Mean(loss), len(run.history.loss)
    order = run.rng.permutation(len(x))
    for batch, start in enumerate(range(0, len(x), batch_size)):
        index = order[start : start + batch_size]
        minibatch = x[index], y[index], x.lengths_of(index)
        for value, gradient, rows in _gradients(run, minibatch, loss, truncate, memory):
            if not math.isfinite(value):
                run.diverged(f"loss is {value} in epoch {epoch}, batch {batch}")
            run.good[...] = network.vector
            gradients = {"weights": gradient}
            if clip_norm is not None:
                clip_by_global_norm(gradients, clip_norm)
            run.optimizer.step({"weights": network.vector}, gradients)
            if not np.isfinite(network.vector).all():
                run.diverged(f"weights are infinite or NaN after epoch {epoch}, batch {batch}")
            mean.add(value, rows)
        if bar is not None:
            bar.update(len(index))
    return mean.value


def _gradients(run, minibatch, loss, truncate, memory):
    """For each step of the optimizer in a minibatch: loss, gradient, and rows that the loss saw.

    Between two of them the caller changes the weights.
    """
    network, state = run.model.network, None
    x, y, lengths = minibatch
    if truncate is None:
        pieces = [minibatch]
    elif network.output == "last":
        piece, state = _last_steps(network, x, y, lengths, truncate, run.rng)
        pieces = [piece]
    else:
        cut = enumerate(windows(x, lengths, truncate))
        pieces = [(w, y[i * truncate : (i + 1) * truncate], clipped) for i, (w, clipped) in cut]
    for x, y, lengths in pieces:
        value, gradient, state = network.loss_and_gradient(
            x, y, lengths, loss, state=state, rng=run.rng, checkpointed=memory == "checkpointed"
        )
        rows = len(y)
        if network.output == "all":
            rows = y.shape[0] * y.shape[1] if lengths is None else int(lengths.sum())
        yield value, gradient, rows


def _last_steps(network, x, y, lengths, count, rng):
    """The minibatch of each sequence's last steps, `count` at most, and the states before them."""
    T, B, _ = x.shape
    if count >= T:
        return (x, y, lengths), None
    ends = np.full(B, T) if lengths is None else lengths
    skipped = np.maximum(ends - count, 0)
    _, state = network.outputs(x[: skipped.max()], skipped, rng=rng)
    t = np.minimum(np.arange(count)[:, np.newaxis] + skipped, T - 1)
    return (x[t, np.arange(B)], y, np.minimum(ends, count)), state


def _data(model, loss, x, y, lengths=None):
    x = _sequences.inputs(x, lengths, model.input_size, model.dtype)
    return x, _sequences.targets(y, x, model.output, model.output_size, loss, model.dtype)


def _latest(history):
    """The last epoch's losses, for the progress bar."""
    shown = {"epoch": len(history.loss), "loss": f"{history.loss[-1]:.4g}"}
    if history.validation_loss:
        shown["validation"] = f"{history.validation_loss[-1]:.4g}"
    return shown
