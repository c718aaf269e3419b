"""Optimizers: each changes parameters in place, from their gradients.

Parameters and gradients are mappings of names to arrays.  An optimizer keeps arrays of its own for
each name, so that a step allocates nothing.  It writes each parameter last and all at once, so that
an interrupt finds every array either before its step or after it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np

from fastbptt import _checks
from fastbptt._names import with_our_names
from fastbptt.rnn import Backend, find_backend

OptimizerName = Literal["adam", "rmsprop", "sgd"]

MOST_STEPS = 2**53  # larger counts are not all exact in float64


class _Optimizer:
    """What optimizers share: checks, their arrays, the count of steps.

    A subclass has ``settings()``, and ``_update(p, d, *state, *scratch)``, which changes the
    parameter `p` given its gradient `d`.
    """

    _STATE: tuple[str, ...]  # names of the arrays kept from step to step for each parameter
    _SCRATCH = 1  # how many more arrays `_update` needs

    def __init__(self) -> None:
        self._steps = 0
        self._arrays: dict[str, list[np.ndarray]] = {}  # for each name: state, then scratch

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments at their present values."""
        raise NotImplementedError

    def _update(self, p: np.ndarray, d: np.ndarray, *arrays: np.ndarray) -> None:
        raise NotImplementedError

    def step(
        self, parameters: Mapping[str, np.ndarray], gradients: Mapping[str, np.ndarray]
    ) -> None:
        """Change parameters in place by one step.

        Parameters
        ----------
        parameters : mapping of str to ndarray
            Float32 or float64.  Names, shapes and dtypes are the same at every step.
        gradients : mapping of str to ndarray
            Of the same names, shapes and dtypes.

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type, dtype, shape or value; nothing is written then.
        """
        _check_gradients(parameters, gradients)
        if self._steps == 0 and not self._arrays:
            self._arrays = {
                name: self._with_scratch([np.zeros_like(p, subok=False) for _ in self._STATE])
                for name, p in parameters.items()
            }
        self._check_state(parameters)
        self._steps += 1
        with np.errstate(all="ignore"):
            for name, p in parameters.items():
                self._update(p, gradients[name], *self._arrays[name])

    def advance(
        self,
        parameters: Mapping[str, np.ndarray],
        gradients: Mapping[str, np.ndarray],
        *,
        max_norm: float | None = None,
        backend: Backend = "numpy",
    ) -> bool:
        """Clip gradients, take a :meth:`step`, and tell whether all parameters are finite then.

        Parameters
        ----------
        parameters, gradients
            As for :meth:`step`.
        max_norm : float, optional
            As for :func:`clip_by_global_norm`; by default nothing is clipped.
        backend : {"numba", "numpy"}, default "numpy"
            "numba" does all of it in one compiled function, where there is one: for Adam and one
            vector of parameters, from the second step on.  The bits are the same.

        Returns
        -------
        bool

        Raises
        ------
        TypeError, ValueError
            As :func:`clip_by_global_norm` and :meth:`step`.
        """
        if max_norm is not None:
            clip_by_global_norm(gradients, max_norm)
        self.step(parameters, gradients)
        return all(bool(np.isfinite(p).all()) for p in parameters.values())

    def state(self) -> dict[str, np.ndarray]:
        """What the optimizer has gathered so far, as copies.

        Returns
        -------
        dict of str to ndarray
            ``"steps"``, a 0-d int64 array; and, after the first step, the arrays kept for each
            parameter, with names like ``"m.W_x"``.
        """
        state = {"steps": np.array(self._steps, np.int64)}
        for name, arrays in self._arrays.items():
            for kind, a in zip(self._STATE, arrays, strict=False):  # not the scratch
                state[f"{kind}.{name}"] = np.array(a)
        return state

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Take over what :meth:`state` returned; the next step continues from there, to the bit.

        Parameters
        ----------
        state : mapping of str to ndarray
            Copied.  The next step checks its names, shapes and dtypes against its parameters.

        Raises
        ------
        TypeError, ValueError
            If it is not a state of such an optimizer, which then stays as it was.
        """
        _check_mapping("state", state)
        parts = (key.partition(".") for key in state)
        names = dict.fromkeys(name for kind, _, name in parts if kind in self._STATE)
        if names and self._arrays:
            names = dict.fromkeys(self._arrays)
        keys = {name: [f"{kind}.{name}" for kind in self._STATE] for name in names}
        _check_names("state", state, dict.fromkeys(["steps", *itertools.chain(*keys.values())]), "")
        steps = np.asarray(state["steps"])
        if steps.shape != () or steps.dtype.kind not in "iu" or not 0 <= steps < MOST_STEPS:
            raise ValueError(
                f"state['steps'] is {steps}, expected an integer from 0 to below {MOST_STEPS}"
            )
        for key in itertools.chain(*keys.values()):
            _check_array("state", key, state[key])
        self._steps = int(steps)
        self._arrays = {
            name: self._with_scratch([np.array(state[key]) for key in keys[name]]) for name in names
        }

    def restore(
        self,
        settings: Any,
        state: Mapping[str, np.ndarray],
        parameters: Mapping[str, np.ndarray],
    ) -> None:
        """Take over what :meth:`settings` and :meth:`state` returned, to continue training.

        Parameters
        ----------
        settings : dict
            Checked as the constructor checks its arguments.
        state : mapping of str to ndarray
            Copied.  Checked to be what steps can leave behind.
        parameters : mapping of str to ndarray
            Those of the next step.

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type, shape or value; the optimizer then stays as it was.
        """
        if not isinstance(settings, dict) or settings.keys() != self.settings().keys():
            raise ValueError(
                f"the optimizer has the settings {settings}, expected {[*self.settings()]}"
            )
        # The class whose constructor takes them; that of a user's subclass may take others.
        kind = next(kind for kind in type(self).__mro__ if "settings" in vars(kind))
        found = kind(**settings)
        found.set_state(state)
        if found._steps > 0 or found._arrays:
            found._check_state(parameters)
        for name, arrays in found._arrays.items():
            for what, a in zip(self._STATE, arrays, strict=False):
                # Squares may have overflowed; an infinite m would make weights infinite.
                if not (np.isfinite(a) if what == "m" else a >= 0).all():
                    raise ValueError(f"state['{what}.{name}'] holds what no step leaves behind")
        for name in settings:
            setattr(self, name, getattr(found, name))
        self._steps, self._arrays = found._steps, found._arrays

    def _no_lr(self, *_: Any) -> NoReturn:
        raise AttributeError("an optimizer has no lr, expected learning_rate")

    if not TYPE_CHECKING:
        lr = property(_no_lr, _no_lr)  # where other libraries have it, it could be set in vain

    def _with_scratch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        return arrays + [np.empty_like(arrays[0]) for _ in range(self._SCRATCH)]

    def _check_state(self, parameters: Mapping[str, np.ndarray]) -> None:
        """Check that the arrays kept belong to these parameters."""
        _check_names("parameters", parameters, self._arrays, " as in the steps before")
        for name, p in parameters.items():
            for a in self._arrays[name]:
                if a.shape != p.shape or a.dtype != p.dtype:
                    raise ValueError(
                        f"parameters[{name!r}] has shape {p.shape} and dtype {p.dtype}, "
                        f"expected {a.shape} and {a.dtype} as in the steps before"
                    )


class SGD(_Optimizer):
    """Stochastic gradient descent, with momentum or Nesterov's (Sutskever et al. 2013).

    For each parameter p and its gradient d, with m = 0 at first::

        m = momentum m + d
        p = p - learning_rate m         p = p - learning_rate (d + momentum m) with nesterov

    Parameters
    ----------
    learning_rate : float, default 0.01
        At least 0.
    momentum : float, default 0
        From 0 to below 1.
    nesterov : bool, default False
        Needs a momentum above 0.

    Attributes
    ----------
    learning_rate, momentum, nesterov
        As given.  You may change them between steps.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbptt.optimizers import SGD
    >>> p = np.array([1.0, 2.0])
    >>> SGD(learning_rate=0.5).step({"p": p}, {"p": np.array([1.0, -1.0])})
    >>> p
    array([0.5, 2.5])
    """

    _STATE = ("m",)

    @with_our_names
    def __init__(
        self, learning_rate: float = 0.01, momentum: float = 0.0, nesterov: bool = False
    ) -> None:
        super().__init__()
        self.learning_rate: float = _checks.number("learning_rate", learning_rate)
        self.momentum: float = _checks.number("momentum", momentum, below=1)
        if not isinstance(nesterov, bool):
            raise TypeError(f"nesterov is {nesterov!r}, expected True or False")
        if nesterov and momentum == 0:
            raise ValueError(f"momentum is {momentum}, expected above 0 with nesterov=True")
        self.nesterov = nesterov

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments at their present values."""
        return {
            "learning_rate": float(self.learning_rate),
            "momentum": float(self.momentum),
            "nesterov": bool(self.nesterov),
        }

    def _update(self, p: np.ndarray, d: np.ndarray, m: np.ndarray, s: np.ndarray) -> None:
        if self.momentum > 0:
            m *= float(self.momentum)
            m += d
            if self.nesterov:
                np.multiply(m, float(self.momentum), out=s)
                s += d
                d = s
            else:
                d = m
        np.multiply(d, float(self.learning_rate), out=s)
        np.subtract(p, s, out=p)


class RMSprop(_Optimizer):
    """Gradient descent with gradients divided by their root mean square (Tieleman and Hinton 2012).

    For each parameter p and its gradient d, with v = 0 at first::

        v = rho v + (1 - rho) d²
        p = p - learning_rate d / (sqrt(v) + eps)

    Parameters
    ----------
    learning_rate : float, default 0.001
        At least 0.
    rho : float, default 0.99
        From 0 to below 1.
    eps : float, default 1e-8
        Above 0.

    Attributes
    ----------
    learning_rate, rho, eps
        As given.  You may change them between steps.
    """

    _STATE = ("v",)

    @with_our_names
    def __init__(self, learning_rate: float = 0.001, rho: float = 0.99, eps: float = 1e-8) -> None:
        super().__init__()
        self.learning_rate: float = _checks.number("learning_rate", learning_rate)
        self.rho: float = _checks.number("rho", rho, below=1)
        self.eps: float = _checks.number("eps", eps, zero=False)

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments at their present values."""
        return {
            "learning_rate": float(self.learning_rate),
            "rho": float(self.rho),
            "eps": float(self.eps),
        }

    def _update(self, p: np.ndarray, d: np.ndarray, v: np.ndarray, s: np.ndarray) -> None:
        _average(v, np.square(d, out=s), float(self.rho), s)
        np.sqrt(v, out=s)
        s += float(self.eps)
        np.divide(d, s, out=s)
        s *= float(self.learning_rate)
        np.subtract(p, s, out=p)


class Adam(_Optimizer):
    """Adam (Kingma and Ba 2015), with decoupled weight decay: AdamW (Loshchilov and Hutter 2019).

    For each parameter p and its gradient d at step t = 1, 2, …, with m = v = 0 at first::

        m = beta_1 m + (1 - beta_1) d
        v = beta_2 v + (1 - beta_2) d²
        m' = m / (1 - beta_1^t)         v' = v / (1 - beta_2^t)
        p = p - learning_rate (weight_decay p + m' / (sqrt(v') + eps))

    Parameters
    ----------
    learning_rate : float, default 0.001
        At least 0.
    beta_1, beta_2 : float, default 0.9 and 0.999
        From 0 to below 1.
    eps : float, default 1e-8
        Above 0.
    weight_decay : float, default 0
        At least 0.

    Attributes
    ----------
    learning_rate, beta_1, beta_2, eps, weight_decay
        As given.  You may change them between steps.
    """

    _STATE = ("m", "v")
    _SCRATCH = 2

    @with_our_names
    def __init__(
        self,
        learning_rate: float = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        self.learning_rate: float = _checks.number("learning_rate", learning_rate)
        self.beta_1: float = _checks.number("beta_1", beta_1, below=1)
        self.beta_2: float = _checks.number("beta_2", beta_2, below=1)
        self.eps: float = _checks.number("eps", eps, zero=False)
        self.weight_decay: float = _checks.number("weight_decay", weight_decay)

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments at their present values."""
        return {
            "learning_rate": float(self.learning_rate),
            "beta_1": float(self.beta_1),
            "beta_2": float(self.beta_2),
            "eps": float(self.eps),
            "weight_decay": float(self.weight_decay),
        }

    def _update(
        self, p: np.ndarray, d: np.ndarray, m: np.ndarray, v: np.ndarray, s: np.ndarray,
        decay: np.ndarray,
    ) -> None:  # fmt: skip
        beta_1, beta_2, eps, rate, share = self._factors(self._steps)
        _average(m, d, beta_1, s)
        _average(v, np.square(d, out=s), beta_2, s)
        np.sqrt(v, out=s)
        s += eps
        np.divide(m, s, out=s)
        s *= rate
        if share > 0:
            s += np.multiply(p, share, out=decay)
        np.subtract(p, s, out=p)

    def _factors(self, t: int) -> tuple[float, float, float, float, float]:
        """beta_1, beta_2, eps', rate' and the share of p that decays, at step t.

        With c = sqrt(1 - beta_2^t), m / (sqrt(v) / c + eps) = c m / (sqrt(v) + c eps): eps' = c eps
        and rate' = learning_rate c / (1 - beta_1^t).
        """
        rate, beta_1, beta_2 = float(self.learning_rate), float(self.beta_1), float(self.beta_2)
        c = math.sqrt(1 - beta_2**t)
        rest = 1 - beta_1**t
        return beta_1, beta_2, c * float(self.eps), rate * c / rest, rate * float(self.weight_decay)

    def advance(
        self,
        parameters: Mapping[str, np.ndarray],
        gradients: Mapping[str, np.ndarray],
        *,
        max_norm: float | None = None,
        backend: Backend = "numpy",
    ) -> bool:
        run = getattr(find_backend(backend), "adam", None)
        limit = math.inf if max_norm is None else max_norm
        # A user's subclass may have other formulas, and in a first step the arrays are not there.
        if run is not None and type(self) is Adam and len(self._arrays) == 1:
            [(name, (m, v, *_))] = self._arrays.items()
            found = _only(parameters, name), _only(gradients, name), m, v
            if _alike(*found) and type(limit) is float and limit > 0:
                finite = run(*found, limit, *self._factors(self._steps + 1))
                if finite is not None:
                    self._steps += 1
                    return finite
        return super().advance(parameters, gradients, max_norm=max_norm, backend=backend)


OPTIMIZERS: dict[OptimizerName, type[SGD | RMSprop | Adam]] = {
    "adam": Adam,
    "rmsprop": RMSprop,
    "sgd": SGD,
}


def find_optimizer(optimizer: str | SGD | RMSprop | Adam) -> SGD | RMSprop | Adam:
    """An optimizer itself, or from its name a new one with its defaults."""
    if isinstance(optimizer, str):
        name = optimizer.lower()
        return OPTIMIZERS[_checks.one_of("optimizer", name, OPTIMIZERS)]()
    if not isinstance(optimizer, (SGD, RMSprop, Adam)):
        raise TypeError(
            f"optimizer is {optimizer!r}, expected an SGD, RMSprop or Adam, or one of "
            f"{', '.join(map(repr, OPTIMIZERS))}"
        )
    return optimizer


def _average(mean: np.ndarray, a: np.ndarray, decay: float, s: np.ndarray) -> None:
    """Set `mean` to ``decay * mean + (1 - decay) * a``; `s` is scratch, and may be `a` itself."""
    mean *= decay
    np.multiply(a, 1 - decay, out=s)
    mean += s


def _only(arrays: Any, name: str) -> Any:
    """The array of this name, if it is the only one."""
    return arrays.get(name) if type(arrays) is dict and len(arrays) == 1 else None


def _alike(p: Any, d: Any, m: Any, v: Any) -> bool:
    """Whether parameters and gradients are vectors like these, as compiled code takes them."""
    return (
        type(p) is type(d) is np.ndarray
        and p.dtype is d.dtype is m.dtype
        and p.shape == d.shape == m.shape == (p.size,)
        and p.flags.carray
        and d.flags.carray
    )


def clip_by_global_norm(gradients: Mapping[str, np.ndarray], max_norm: float) -> float:
    """Scale gradients in place if their norm exceeds a bound (Pascanu et al. 2013).

    Parameters
    ----------
    gradients : mapping of str to ndarray
        Float32 or float64.
    max_norm : float
        Above 0; with infinity the norm is computed and nothing scaled.

    Returns
    -------
    norm : float
        Euclidean norm of all elements together, before the scaling.  If it is infinite or NaN, the
        gradients stay as they are.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype or value; nothing is written then.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbptt.optimizers import clip_by_global_norm
    >>> gradients = {"W": np.array([[3.0]]), "b": np.array([4.0])}
    >>> clip_by_global_norm(gradients, 1.0), gradients["W"], gradients["b"]
    (5.0, array([[0.6]]), array([0.8]))
    """
    _check_mapping("gradients", gradients)
    for name, d in gradients.items():
        _check_array("gradients", name, d, written=True)
    max_norm = _checks.real("max_norm", max_norm)
    if not max_norm > 0:
        raise ValueError(f"max_norm is {max_norm}, expected above 0")
    with np.errstate(all="ignore"):
        norm = math.hypot(*map(_norm, gradients.values()))
        if max_norm < norm < math.inf:
            factor = max_norm / norm
            # float32 is faster, but has no numbers for smaller factors.
            dtype = None if factor > 1e-30 else np.float64
            for d in gradients.values():
                np.multiply(d, factor, out=d, dtype=dtype, casting="same_kind")
    return norm


def _norm(a: np.ndarray) -> float:
    """The Euclidean norm in float64; scaled first if squares would leave its range."""
    squares = float(np.add.reduce(np.square(a, dtype=np.float64), axis=None))
    if 1e-280 < squares < math.inf:
        return math.sqrt(squares)
    largest = float(np.abs(a).max(initial=0))
    if largest == 0 or not math.isfinite(largest):
        return largest
    return largest * math.sqrt(np.square(a / largest).sum())


# The checks


def _check_mapping(label: str, arrays: Any) -> None:
    if not isinstance(arrays, Mapping):
        raise TypeError(
            f"{label} is a {type(arrays).__name__}, expected a mapping of names to arrays"
        )


def _check_names(
    label: str, found: Mapping[str, Any], expected: Mapping[str, Any], where: str
) -> None:
    if found.keys() != expected.keys():
        raise ValueError(f"{label} has the names {[*found]}, expected {[*expected]}{where}")


def _check_array(label: str, name: str, a: Any, written: bool = False) -> None:
    if type(a) is not np.ndarray:
        _checks.array_type(f"{label}[{name!r}]", a)
    if a.dtype not in _checks.FLOATS:
        raise TypeError(f"{label}[{name!r}] has dtype {a.dtype}, expected float32 or float64")
    if written and not a.flags.writeable:
        raise ValueError(f"{label}[{name!r}] is read-only, expected a writeable array")


def _check_gradients(
    parameters: Mapping[str, np.ndarray], gradients: Mapping[str, np.ndarray]
) -> None:
    _check_mapping("parameters", parameters)
    _check_mapping("gradients", gradients)
    _check_names("gradients", gradients, parameters, " as parameters has")
    for name, p in parameters.items():
        _check_array("parameters", name, p, written=True)
        d = gradients[name]
        _check_array("gradients", name, d)
        if d.shape != p.shape:
            raise ValueError(
                f"gradients[{name!r}] has shape {d.shape}, expected {p.shape} as parameters has"
            )
        if d.dtype != p.dtype:
            raise TypeError(
                f"gradients[{name!r}] has dtype {d.dtype}, expected {p.dtype} as parameters has"
            )
