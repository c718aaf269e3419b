"""Constraints of weights, as functions of free parameters, and the chain rule through them.

A constrained array of weights W is computed from an array theta that the optimizer changes as it
likes.  So what a constraint promises holds after any step, whatever the optimizer makes of it:

- mask, signs, fixed entries: W = s(theta) theta, entry by entry, with s from {-1, 0, 1}; where
  nothing is trained W is not written at all;
- low rank: W = M N^T, theta = (M, N).

Back: dtheta = s(theta) dW, and dM = dW N, dN = dW^T M.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fastbptt import _checks
from fastbptt._draws import product
from fastbptt._names import with_our_names
from fastbptt._penalties import matching
from fastbptt.rnn import Backend, find_backend, init_params

Shape = tuple[int, ...]
MAGNITUDES = "abs", "relu"
NAMES_AND_MASKS = "names of weights, or a mapping of names to arrays of 0 and 1"


class Constraints:
    """What the weights of a :class:`fastbptt.RNN` keep to, at the start and after every step.

    Training changes free parameters theta, and the weights are functions of them (Song, Yang and
    Wang 2016), so that every promise below holds to the bit after any number of steps of any
    optimizer.

    Weights go by the names of :meth:`fastbptt.RNN.parameters`, or their beginning or end at a dot:
    "W_h" is that of every layer and direction, "layers.1" all weights of the second layer.

    Parameters
    ----------
    mask : mapping of str to array_like, optional
        Which connections there are: for each name an array of 0 and 1, or bool, in the shape of the
        weights, which are 0 where it is.  ``W_h[i, j]`` leads from unit i to unit j.
    self_connections : bool, default True
        False: the diagonal of every W_h is 0.
    dale : float, array_like, (H,), or mapping of str to these, optional
        Dale's law: all weights that a unit's state is multiplied by within the network, those of
        W_h and of the next layer's W_x, have the unit's sign.  A number above 0 and below 1 is the
        share of excitatory units, which come first, rounded to whole units; an array holds a sign,
        1 or -1, for each.  They hold for every layer and direction, or by name: "layers.0".  The
        readout W_y is not part of it; to leave inhibitory units out of it, use `mask`, and
        `nonnegative` for the signs of the others.
    nonnegative : str or iterable of str, default ()
        Names of weights that are at least 0.
    fixed : str, iterable of str, or mapping of str to array_like, default ()
        Names of weights that training leaves as they are, or for each name an array of 0 and 1 that
        has 1 where it does.  :meth:`fastbptt.RNN.set_parameters` sets them.
    rank : int or mapping of str to int, optional
        R: every W_h, or those named, are products M N^T of two arrays (H, R).  Not together with
        other constraints of the same weights.
    magnitude : {"abs", "relu"}, default "abs"
        The absolute value of a weight with a sign: abs(theta) or max(theta, 0).  With "relu" the
        gradient of a weight that has become 0 is 0, and momentum alone may bring it back.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value.  The model's constructor does so for unknown
        names, wrong shapes, and constraints that contradict each other.

    See Also
    --------
    fastbptt.RNN.free_parameters : theta.

    Notes
    -----
    Initial weights are those of an unconstrained model with their signs changed and the mask
    applied, but for this:

    - W_h with signs: absolute values are drawn from a gamma distribution of shape 2, as in Song,
      Yang and Wang 2016;
    - in an array with both signs, each unit's inhibitory weights are scaled so that they sum to
      minus what its excitatory ones do, if it has both;
    - W_h is then scaled to have the spectral radius that the model was given, or 1;
    - of low rank: M has orthonormal columns and N = M Q with a random orthogonal Q, so that R
      eigenvalues have the absolute value 1, as all have of an orthogonal W_h; this is scaled too.

    A seed gives the same bits on every CPU for low rank.  A spectral radius is LAPACK's, and gamma
    draws take the C library's logarithm: with masks and signs W_h may differ in its last bits.

    A weight of a theta that is 0 has the gradient of a positive one, with "abs".

    Penalties of :func:`fastbptt.fit` are those of the weights; clipping and the optimizer's weight
    decay act on theta.

    What is made of a model for other libraries has its weights, and no constraints.

    Examples
    --------
    80 excitatory and 20 inhibitory units, without self-connections, of which only the excitatory
    ones are read out:

    >>> import numpy as np, fastbptt
    >>> excitatory = np.arange(100) < 80
    >>> constraints = fastbptt.Constraints(
    ...     dale=0.8,
    ...     self_connections=False,
    ...     nonnegative=("W_x", "W_y"),
    ...     mask={"W_y": np.repeat(excitatory[:, None], 2, axis=1)},
    ... )
    >>> model = fastbptt.RNN(3, 100, 2, constraints=constraints, spectral_radius=1.5, seed=0)
    >>> W_h = model.parameters()["layers.0.W_h"]
    >>> (W_h[:80] >= 0).all(), (W_h[80:] <= 0).all(), W_h.diagonal().any()
    (np.True_, np.True_, np.False_)
    """

    mask: dict[str, np.ndarray]
    self_connections: bool
    dale: float | np.ndarray | dict[str, float | np.ndarray] | None
    nonnegative: tuple[str, ...]
    fixed: tuple[str, ...] | dict[str, np.ndarray]
    rank: int | dict[str, int] | None
    magnitude: str

    @with_our_names
    def __init__(
        self,
        *,
        mask: Mapping[str, npt.ArrayLike] | None = None,
        self_connections: bool = True,
        dale: float | npt.ArrayLike | Mapping[str, float | npt.ArrayLike] | None = None,
        nonnegative: str | Iterable[str] = (),
        fixed: str | Iterable[str] | Mapping[str, npt.ArrayLike] = (),
        rank: int | Mapping[str, int] | None = None,
        magnitude: Literal["abs", "relu"] = "abs",
    ) -> None:
        if not isinstance(self_connections, (bool, np.bool_)):
            raise TypeError(f"self_connections is {self_connections!r}, expected True or False")
        self.self_connections = bool(self_connections)
        if mask is not None and not isinstance(mask, Mapping):
            raise TypeError(
                f"mask is a {type(mask).__name__}, expected a mapping of names of weights to "
                'arrays of 0 and 1, as {"W_h": array}'
            )
        self.mask = _masks("mask", mask or {})
        self.dale = _each("dale", dale, _signs)
        self.nonnegative = _names("nonnegative", nonnegative, "names of weights")
        if isinstance(fixed, Mapping):
            self.fixed = _masks("fixed", fixed)
        else:
            self.fixed = _names("fixed", fixed, NAMES_AND_MASKS)
        self.rank = _each("rank", rank, _checks.integer)
        self.magnitude = _checks.one_of("magnitude", magnitude, MAGNITUDES)

    def config(self) -> dict[str, Any]:
        """What the constructor was given, as JSON can hold it: masks as rows of "0" and "1"."""
        return {name: _written(a) for name, a in self._given().items()}

    def _given(self) -> dict[str, Any]:
        """Its arguments, but for defaults."""
        return {n: a for n, a in vars(self).items() if not _same(a, _DEFAULTS[n])}

    @classmethod
    def from_config(cls, config: Any) -> "Constraints":
        """The constraints that :meth:`config` describes."""
        if not isinstance(config, dict):
            raise TypeError(f"constraints are {config!r}, expected a dict")
        given = dict(config)
        for name in ("mask", "fixed"):
            if isinstance(given.get(name), dict):
                given[name] = {key: _read(f"{name}[{key!r}]", a) for key, a in given[name].items()}
        return cls(**given)

    def __repr__(self) -> str:
        return f"Constraints({', '.join(f'{n}={a!r}' for n, a in self._given().items())})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Constraints):
            return NotImplemented
        return self.config() == other.config()

    __hash__: Any = None

    def rules(
        self, shapes: Mapping[str, Shape], dtype: np.dtype, backend: Backend
    ) -> "list[Entries | LowRank]":
        """How each constrained array of weights is computed.

        Parameters
        ----------
        shapes : mapping of str to tuple
            Of all arrays of weights, by name.
        """
        masks = self._connections(shapes)
        fixed = self._fixed(shapes)
        signs = self._signs(shapes, masks)
        ranks = self._ranks(shapes)
        rules: list[Entries | LowRank] = []
        for name, shape in shapes.items():
            mask, still, sign = masks.get(name), fixed.get(name), signs.get(name)
            if name in ranks:
                others = {"mask or self_connections": mask, "fixed": still, "a sign": sign}
                for what, other in others.items():
                    if other is not None:
                        raise ValueError(
                            f"rank names {name}, which has {what} too, expected rank alone"
                        )
                rules.append(LowRank(name, (2, shape[0], ranks[name]), dtype, backend))
            elif any(a is not None for a in (mask, still, sign)):
                rules.append(Entries(name, shape, mask, still, sign, self.magnitude, dtype))
        return rules

    def _connections(self, shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
        """Where there are connections, for those arrays in which they are not everywhere."""
        masks = _by_name("mask", self.mask, shapes)
        if not self.self_connections:
            for name in _recurrent(shapes):
                others = ~np.eye(shapes[name][0], dtype=bool)
                masks[name] = masks[name] & others if name in masks else others
        return {name: mask for name, mask in masks.items() if not mask.all()}

    def _fixed(self, shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
        """Where weights stay as they are, for those arrays that have such."""
        if isinstance(self.fixed, dict):
            found = _by_name("fixed", self.fixed, shapes)
            return {name: still for name, still in found.items() if still.any()}
        names = [name for key in self.fixed for name in matching("fixed", key, shapes)]
        return {name: np.ones(shapes[name], bool) for name in names}

    def _ranks(self, shapes: Mapping[str, Shape]) -> dict[str, int]:
        ranks = _of_layers("rank", self.rank, shapes)
        for name, (rank, label) in ranks.items():
            if rank > shapes[name][0]:
                raise ValueError(
                    f"{label} is {rank}, expected at most {shapes[name][0]}: H of {name}"
                )
        return {name: rank for name, (rank, _) in ranks.items()}

    def _signs(
        self, shapes: Mapping[str, Shape], masks: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Signs of weights, which broadcast to these, and are 0 where both are allowed."""
        signs = {}
        for name, (given, label) in _of_layers("dale", self.dale, shapes).items():
            sign = _signs_of_units(label, given, shapes[name][0])
            if name in masks:
                _check_connected(label, sign, masks[name], name)
            signs[name] = sign[:, np.newaxis]
        # A layer's W_x has a row for each unit below, in one direction and then in the other.
        for name, shape in shapes.items():
            layer = name.removeprefix("layers.").partition(".")[0]
            if not name.endswith(".W_x") or layer == "0":
                continue
            below = f"layers.{int(layer) - 1}."
            rows = [n for n in (f"{below}W_h", f"{below}reverse.W_h") if n in shapes]
            if any(n in signs for n in rows):
                none = np.zeros((shape[1], 1))
                signs[name] = np.concatenate([signs.get(n, none) for n in rows])
        for key in self.nonnegative:
            for name in matching("nonnegative", key, shapes):
                if name in signs and (signs[name] != 1).any():
                    raise ValueError(
                        f"nonnegative has {key!r}, but dale gives {name} signs, expected one of "
                        "them for the same weights"
                    )
                signs[name] = np.ones((1,) * len(shapes[name]))
        return signs


class Entries:
    """An array of weights with a mask, signs or fixed entries: W = s(theta) theta.

    Attributes
    ----------
    name : str
        Of W.
    shape : tuple
        Of W and of theta.
    mask, trained : ndarray of bool, or None
        Where there are connections, and where they are trained; None: everywhere.
    sign : ndarray, or None
        Broadcasts to W; 0 where both signs are allowed; None: everywhere.
    magnitude : {"abs", "relu"}
    """

    name: str
    shape: Shape
    mask: np.ndarray | None
    trained: np.ndarray | None
    sign: np.ndarray | None
    magnitude: str

    def __init__(
        self,
        name: str,
        shape: Shape,
        mask: np.ndarray | None,
        fixed: np.ndarray | None,
        sign: np.ndarray | None,
        magnitude: str,
        dtype: np.dtype,
    ) -> None:
        self.name, self.shape, self.mask, self.magnitude = name, shape, mask, magnitude
        self.trained = mask
        if fixed is not None:
            self.trained = ~fixed if mask is None else mask & ~fixed
        self.sign = None if sign is None else sign.astype(dtype)
        self._where = True if self.trained is None else self.trained
        self._free = None if sign is None or sign.all() else sign == 0

    def _slope(self, theta: np.ndarray) -> np.ndarray | float:
        """s(theta), the derivative of W by theta."""
        if self.sign is None:
            return 1.0
        if self.magnitude == "abs":
            slope = np.copysign(self.sign, theta) * self.sign
        else:
            slope = (theta > 0) * self.sign
        if self._free is not None:
            np.copyto(slope, 1, where=self._free)
        return slope

    def fill(self, theta: np.ndarray, W: np.ndarray) -> None:
        """Compute the weights."""
        np.multiply(theta, self._slope(theta), out=W, where=self._where)

    def backward(self, theta: np.ndarray, dW: np.ndarray, dtheta: np.ndarray) -> None:
        """Fill the gradient of theta from that of the weights."""
        if self.trained is not None:
            dtheta[...] = 0
        np.multiply(dW, self._slope(theta), out=dtheta, where=self._where)

    def check(self, W: np.ndarray) -> None:
        """Check that weights from elsewhere keep to the constraints."""
        if self.mask is not None and W[~self.mask].any():
            raise ValueError(f"{self.name} is not 0 where its mask is")
        if self.sign is not None and (W * self.sign < 0).any():
            raise ValueError(f"{self.name} has weights of the wrong sign")

    def take(self, W: np.ndarray, theta: np.ndarray) -> None:
        """Set theta to what gives the weights."""
        theta[...] = W
        if self.sign is not None:
            np.abs(theta, out=theta, where=self.sign != 0)
        if self.trained is not None:
            theta[~self.trained] = 0

    def draw(
        self, W: np.ndarray, theta: np.ndarray, rng: np.random.Generator, radius: float | None
    ) -> None:
        """Draw initial weights, from those of an unconstrained model."""
        recurrent, drawn = self.name.endswith(".W_h"), W.astype(np.float64)
        if self.sign is not None:
            if recurrent:  # the mean of squares is 6 scale² = 1 / H, as in an orthogonal matrix
                drawn = rng.gamma(2.0, 1 / math.sqrt(6 * len(W)), W.shape)
            drawn = np.where(self.sign == 0, drawn, np.abs(drawn) * self.sign)
        if self.mask is not None:
            drawn[~self.mask] = 0
        if self.sign is not None and (self.sign > 0).any() and (self.sign < 0).any():
            _balance(drawn)
        if recurrent:
            found = np.abs(np.linalg.eigvals(drawn)).max()
            if found > 0:
                drawn *= (1.0 if radius is None else radius) / found
            elif radius is not None:
                raise ValueError(
                    f"spectral_radius is {radius}, but the mask leaves {self.name} without a "
                    "cycle, whose radius is 0 with any weights"
                )
        W[...] = drawn
        self.take(W, theta)


class LowRank:
    """An array of weights of low rank: W = M N^T, which a readout computes as M W_y.

    Attributes
    ----------
    name : str
        Of W (H, H).
    shape : tuple
        Of theta, which is M and N: (2, H, R).
    """

    name: str
    shape: Shape

    def __init__(self, name: str, shape: Shape, dtype: np.dtype, backend: Backend) -> None:
        self.name, self.shape, self._backend = name, shape, backend
        _, H, R = shape
        self._no_bias, self._dbias = np.zeros(H, dtype), np.empty(H, dtype)
        self._dW_y = np.empty((R, H), dtype)

    def fill(self, theta: np.ndarray, W: np.ndarray) -> None:
        """Compute the weights."""
        M, N = theta
        find_backend(self._backend).readout(np.ascontiguousarray(N.T), self._no_bias, M, W)

    def backward(self, theta: np.ndarray, dW: np.ndarray, dtheta: np.ndarray) -> None:
        """Fill the gradient of theta from that of the weights."""
        (M, N), (dM, dN) = theta, dtheta
        W_y = np.ascontiguousarray(N.T)
        run = find_backend(self._backend).readout_backward
        run(W_y, M, dW, self._dW_y, self._dbias, dM)
        dN[...] = self._dW_y.T

    def draw(
        self, W: np.ndarray, theta: np.ndarray, rng: np.random.Generator, radius: float | None
    ) -> None:
        """Draw initial weights, from those of an unconstrained model, which are orthogonal."""
        M, N = theta
        R = self.shape[2]
        Q = init_params(1, R, dtype=W.dtype, seed=rng).W_h
        scale = math.sqrt(1.0 if radius is None else radius)
        M[...] = scale * W[:, :R]
        N[...] = product(M, Q)
        self.fill(theta, W)


def _balance(W: np.ndarray) -> None:
    """Scale each column's negative weights to sum to minus what its positive ones do."""
    excitation, inhibition = np.maximum(W, 0).sum(axis=0), -np.minimum(W, 0).sum(axis=0)
    both = (excitation > 0) & (inhibition > 0)
    scale = np.divide(excitation, inhibition, out=np.ones_like(excitation), where=both)
    W *= np.where(W < 0, scale, 1)


# What users give


def _each(argument: str, given: Any, check: Any) -> Any:
    """A value, or one for each name."""
    if isinstance(given, Mapping):
        return {key: check(f"{argument}[{key!r}]", value) for key, value in given.items()}
    return None if given is None else check(argument, given)


def _signs(label: str, given: Any) -> float | np.ndarray:
    """A share of excitatory units, or the sign of each."""
    try:
        signs = np.asarray(given)
    except ValueError:
        raise ValueError(f"{label} is ragged, expected 1 or -1 for each unit, (H,)") from None
    if signs.ndim == 0:
        share = _checks.real(label, given)
        if not 0 < share < 1:
            raise ValueError(
                f"{label} is {share}, expected a share of excitatory units above 0 and below 1, or "
                "a sign for each unit"
            )
        return share
    if signs.ndim != 1 or not np.isin(signs, (-1, 1)).all() or signs.dtype == bool:
        raise ValueError(f"{label} is {signs}, expected a share, or 1 or -1 for each unit, (H,)")
    return _kept(signs, np.int8)


def _kept(a: np.ndarray, dtype: npt.DTypeLike) -> np.ndarray:
    """A copy that stays as it is."""
    found = a.astype(dtype)
    found.flags.writeable = False
    return found


def _signs_of_units(label: str, given: float | np.ndarray, units: int) -> np.ndarray:
    """The sign of each of so many units."""
    if isinstance(given, np.ndarray):
        if given.shape != (units,):
            raise ValueError(
                f"{label} has shape {given.shape}, expected {(units,)}: a sign for each unit"
            )
        return given.astype(np.float64)
    excitatory = round(given * units)
    if not 0 < excitatory < units:
        raise ValueError(
            f"{label} is {given} of {units} units, which makes {excitatory} of them excitatory, "
            "expected some of each sign"
        )
    return np.where(np.arange(units) < excitatory, 1.0, -1.0)


def _check_connected(label: str, sign: np.ndarray, mask: np.ndarray, name: str) -> None:
    """Check that a mask leaves units of each sign some connections."""
    for value, what in ((1, "excitatory"), (-1, "inhibitory")):
        rows = mask[sign == value]
        if rows.size and not rows.any():
            raise ValueError(
                f"{label} makes {len(rows)} units {what}, but mask leaves them no connection in "
                f"{name}, expected one at least"
            )


def _masks(argument: str, given: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays of bool by name."""
    found = {}
    for key, value in given.items():
        label = f"{argument}[{key!r}]"
        try:
            a = np.asarray(value)
        except ValueError:
            raise ValueError(f"{label} is ragged, expected the shape of the weights") from None
        if a.dtype.kind not in "biuf":
            raise TypeError(f"{label} has dtype {a.dtype}, expected bool, or 0 and 1")
        if not ((a == 0) | (a == 1)).all():
            raise ValueError(f"{label} holds other values than 0 and 1, expected these alone")
        found[key] = _kept(a, bool)
    return found


def _names(argument: str, given: Any, expected: str) -> tuple[str, ...]:
    keys = (given,) if isinstance(given, str) else given
    if not isinstance(keys, Iterable):
        raise TypeError(f"{argument} is {given!r}, expected {expected}")
    keys = tuple(keys)
    if not all(isinstance(key, str) for key in keys):
        raise TypeError(f"{argument} is {given!r}, expected {expected}")
    return keys


# By the names of a model's weights


def _recurrent(shapes: Iterable[str]) -> list[str]:
    return [name for name in shapes if name.endswith(".W_h")]


def _by_name(
    argument: str, given: Mapping[str, np.ndarray], shapes: Mapping[str, Shape]
) -> dict[str, np.ndarray]:
    """The array given for each array of weights that one is given for."""
    found: dict[str, np.ndarray] = {}
    for name, (key, value) in _keys(argument, given, shapes, shapes):
        if value.shape != shapes[name]:
            raise ValueError(
                f"{argument}[{key!r}] has shape {value.shape}, expected {shapes[name]} as {name}"
            )
        found[name] = value
    return found


def _of_layers(
    argument: str, given: Any, shapes: Mapping[str, Shape]
) -> dict[str, tuple[Any, str]]:
    """What is given for each W_h, and how to call it."""
    names = _recurrent(shapes)
    if given is None:
        return {}
    if not isinstance(given, dict):
        return {name: (given, argument) for name in names}
    found = _keys(argument, given, names, shapes)
    return {name: (value, f"{argument}[{key!r}]") for name, (key, value) in found}


def _keys(
    argument: str, given: Mapping[str, Any], names: Iterable[str], shapes: Iterable[str]
) -> Iterator[tuple[str, tuple[str, Any]]]:
    """For each of the names that a key stands for: the name, the key and its value."""
    names, seen = [*names], set()
    for key, value in given.items():
        its = [name for name in matching(argument, key, shapes) if name in names]
        if not its:
            raise ValueError(f"{argument} has {key!r}, expected one of {', '.join(names)}")
        for name in its:
            if name in seen:
                raise ValueError(f"{argument} names {name} twice, with {key!r} for the second time")
            seen.add(name)
            yield name, (key, value)


# As JSON has it


def _written(given: Any) -> Any:
    if isinstance(given, dict):
        return {name: _written(each) for name, each in given.items()}
    if not isinstance(given, np.ndarray):
        return [*given] if isinstance(given, tuple) else given
    if given.dtype != bool:
        return given.tolist()
    if given.ndim > 1:
        return [_written(row) for row in given]
    return "".join("01"[x] for x in given.ravel().tolist())


def _read(label: str, written: Any) -> np.ndarray:
    """A mask from its rows of "0" and "1"."""
    if isinstance(written, list):
        return np.array([_read(label, row) for row in written])
    if not isinstance(written, str) or set(written) - {"0", "1"}:
        raise ValueError(f'{label} is not written in rows of "0" and "1"')
    return np.frombuffer(written.encode(), np.uint8) == ord("1")


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and bool(np.all(a == b))


_DEFAULTS = vars(Constraints())
