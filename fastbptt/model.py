"""The model: recurrent layers with a readout, for data sets as users have them."""

import itertools
import numbers
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fastbptt import _checks, _sequences
from fastbptt._constraints import Constraints
from fastbptt._criterion import Criterion
from fastbptt._leak import FORMS, Leak, Of
from fastbptt._names import with_our_names
from fastbptt._network import Network
from fastbptt._noise import Noise, check_type
from fastbptt._sequences import Sequences
from fastbptt._weights import Data, read_weights, total_weight
from fastbptt.reference import ACTIVATIONS
from fastbptt.rnn import BACKENDS, leaks

OUTPUTS = "last", "all"
# Sequences whose outputs are computed together: enough to fill every core.
TOGETHER = 256


class RNN:
    """A recurrent network: one layer or several, in one direction or both, with a readout.

    .. math:: h_t = f(x_t W_x + h_{t-1} W_h + b) \\qquad y = h W_y + b_y

    A further layer reads the states of the one below.  In both directions, each layer is two side
    by side, one of which reads the sequence from its end.

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        I, H and O, at least 1.
    num_layers : int, default 1
    bidirectional : bool, default False
    activation : str, default "tanh"
        The function f, one of those that :func:`fastbptt.forward` knows.
    output : {"last", "all"}, default "last"
        What is read out: the state after the last step, many to one (in both directions: the state
        of each once it has read the whole sequence), or every step's, many to many.
    dropout : float, default 0.0
        Share of the states between two layers that training replaces by zero, drawn anew for each
        step; the others are divided by 1 - dropout.
    output_dropout : float, default 0.0
        The same for what is read out: the states of the last layer.
    noise : float, default 0.0
        Standard deviation of the normal numbers that training adds to what f is applied to, to each
        unit at each step; see :class:`fastbptt.Noise`.
    dtype : {"float32", "float64"}, default "float32"
    seed : None, int or numpy.random.Generator, optional
        Draws the initial weights: those of :func:`fastbptt.init_params`, and of the readout
        uniform within ``sqrt(6 / (D H + O))`` of zero, D directions (Glorot and Bengio 2010).
        Those with constraints: see :class:`fastbptt.Constraints`.
    backend : {"numba", "numpy"}, default "numba"
    leak : Leak, optional
        How slowly units follow their inputs, in every layer: see :class:`fastbptt.Leak`.
    train_initial_state : bool, default False
        Train the state before the first step of each layer and direction, the same for all
        sequences and zero at first.  A `state` that a call is given takes its place.
    spectral_radius : float, optional
        Largest absolute value of an eigenvalue of each initial W_h, above 0; 1 by default.
    constraints : Constraints, optional
        What the weights keep to: masks, signs, fixed entries, low rank.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value.

    Notes
    -----
    Data come as an array x (N, T, I), or (N, T) for one feature, with `lengths` (N,) if not all
    steps count; or as a list of (T_i, I) arrays of unequal length.  Either gives the same bits.
    They are converted to the model's dtype.

    Words, characters and other tokens come as integers from 0 to I - 1, (N, T) or a list of (T_i,),
    for I of at least 2.  That is as if each were a one-hot vector of I elements, in less time and
    memory: a row of W_x is taken for each.

    Examples
    --------
    >>> import numpy as np, fastbptt
    >>> model = fastbptt.RNN(2, 16, 1, seed=0)
    >>> model.predict(np.zeros((5, 7, 2))).shape
    (5, 1)
    >>> model.predict([np.zeros((3, 2)), np.zeros((4, 2))]).shape
    (2, 1)
    """

    input_size: int
    hidden_size: int
    output_size: int
    num_layers: int
    bidirectional: bool
    activation: str
    output: str
    dropout: float
    output_dropout: float
    noise: float
    dtype: str
    backend: str
    leak: Leak | None
    train_initial_state: bool
    spectral_radius: float | None
    constraints: Constraints | None
    network: Network

    @with_our_names
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        *,
        num_layers: int = 1,
        bidirectional: bool = False,
        activation: str = "tanh",
        output: str = "last",
        dropout: float = 0.0,
        output_dropout: float = 0.0,
        noise: float = 0.0,
        dtype: npt.DTypeLike = "float32",
        seed: int | np.random.Generator | None = None,
        backend: str = "numba",
        leak: Leak | None = None,
        train_initial_state: bool = False,
        spectral_radius: float | None = None,
        constraints: Constraints | None = None,
    ) -> None:
        config = check_config(
            input_size, hidden_size, output_size, num_layers, bidirectional, activation, output,
            dropout, dtype, backend, output_dropout, noise, leak, train_initial_state,
            spectral_radius, constraints,
        )  # fmt: skip
        self._settle(config, Network(**config, rng=np.random.default_rng(seed)))

    @classmethod
    def from_torch(cls, source: Any, *, readout: str | None = None, **options: Any) -> "RNN":
        """A model with the weights of one in PyTorch, copied.

        Parameters
        ----------
        source : torch.nn.Module or mapping of str to (torch.Tensor or ndarray)
            A :class:`torch.nn.RNN`, or a module or its ``state_dict()`` with one inside.
        readout : str, optional
            Name of the :class:`torch.nn.Linear` that reads states; not needed if there is one.
            Without any the readout is the identity, and outputs are states.
        **options
            `activation`, `output`, `dropout`, `output_dropout`, `noise`, `leak` and `backend`, as
            for :class:`RNN`; by default those that the module has.  A ``state_dict`` names none.

        Returns
        -------
        RNN
            Its bias is the sum of torch's two.

        Raises
        ------
        TypeError, ValueError
            If there is not exactly one plain or leaky recurrent module, or no such readout, or
            weights are neither float32 nor float64.
        """
        from fastbptt.torch import from_torch  # needs an extra

        return from_torch(source, readout=readout, **options)

    def to_torch(self) -> Any:
        """This model as a module of PyTorch, with weights of its own.

        Returns
        -------
        fastbptt.torch.Model
            Called with x (N, T, I), and with `lengths` (N,) if not all steps count, it returns what
            :meth:`predict` does.  Its ``rnn`` is a :class:`fastbptt.torch.RNN`, which is a
            :class:`torch.nn.RNN`, or a :class:`fastbptt.torch.LeakyRNN` if the model leaks, is
            noisy or has an activation that torch's module has not; its ``readout`` is a
            :class:`torch.nn.Linear`.  :meth:`from_torch` gives the same model back, to the bit.
        """
        from fastbptt.torch import to_torch  # needs an extra

        return to_torch(self)

    def _settle(self, config: dict[str, Any], network: Network) -> None:
        for name in _CONFIG:
            setattr(self, name, config[name])
        self.network = network

    def config(self) -> dict[str, Any]:
        """What the constructor was given, but for the seed: a model like this one."""
        return {name: getattr(self, name) for name in _CONFIG}

    def parameters(self) -> dict[str, np.ndarray]:
        """All weights by name.

        Returns
        -------
        dict of str to ndarray
            ``layers.0.W_x`` (I, H), ``layers.0.W_h`` (H, H), ``layers.0.b`` (H,), with
            ``layers.0.reverse.W_x`` ... for the second direction, and so on for each layer; ``W_y``
            (D H, O) and ``b_y`` (O,).  With a trained initial state ``layers.0.h0`` (H,) ..., too.
            They are the model's own: writing to them changes it.  Those with constraints are
            read-only, see :meth:`set_parameters`.
        """
        named = self.network.named(self.network.vector)
        for rule in self.network.rules:
            named[rule.name].flags.writeable = False
        return named

    def set_parameters(self, values: Mapping[str, npt.ArrayLike]) -> None:
        """Set weights, of which those with constraints keep to them.

        Parameters
        ----------
        values : mapping of str to array_like
            Some of :meth:`parameters`, by name; those of low rank as M and N, (2, H, R).

        Raises
        ------
        TypeError, ValueError
            If a name is unknown, a shape is wrong or a constraint broken; nothing is set then.

        Examples
        --------
        A connection that is there and stays as it is:

        >>> import numpy as np, fastbptt
        >>> W_h = np.diag([0.5, 0, 0])
        >>> constraints = fastbptt.Constraints(fixed={"W_h": W_h != 0})
        >>> model = fastbptt.RNN(1, 3, 1, constraints=constraints, seed=0)
        >>> model.set_parameters({"layers.0.W_h": W_h})
        """
        found = {name: _sequences.real(str(name), a) for name, a in values.items()}
        with np.errstate(over="ignore"):
            self.network.assign({n: a.astype(self.dtype) for n, a in found.items()})

    def free_parameters(self) -> dict[str, np.ndarray]:
        """What training changes.

        Returns
        -------
        dict of str to ndarray
            As :meth:`parameters`, but for weights with constraints: read-only, under their names,
            the theta that they are computed from, see :class:`fastbptt.Constraints`.  For low rank
            it is M and N, (2, H, R).

        Examples
        --------
        >>> import numpy as np, fastbptt
        >>> model = fastbptt.RNN(1, 50, 1, constraints=fastbptt.Constraints(rank=2), seed=0)
        >>> M, N = model.free_parameters()["layers.0.W_h"]
        >>> np.allclose(M @ N.T, model.parameters()["layers.0.W_h"], atol=1e-6)
        True
        """
        found = {name: a.view() for name, a in self.network.weights.trained.items()}
        for rule in self.network.rules:
            found[rule.name].flags.writeable = False
        return found

    @property
    def vector(self) -> np.ndarray:
        """All weights one after the other, (P,), in the order of :meth:`parameters`.

        It is the model's own: writing to it changes the model.  To set it copies P finite numbers
        into the model, in its dtype.  With constraints it is what training changes, the arrays of
        :meth:`free_parameters`, those of constrained weights last, and read-only.
        """
        found = self.network.free
        if self.network.rules:
            found = found.view()
            found.flags.writeable = False
        return found

    @vector.setter
    def vector(self, vector: npt.ArrayLike) -> None:
        found = self._check_vector(vector)
        if not np.isfinite(found).all():
            raise ValueError(f"vector holds NaN, infinity or values too large for {self.dtype}")
        self.network.set_free(found)

    def summary(self) -> str:
        """A table of all weights: name, shape, how many numbers, and how many bytes they take.

        Of low rank, it is M and N.

        Examples
        --------
        >>> import fastbptt
        >>> print(fastbptt.RNN(3, 16, 2).summary())
        RNN, tanh, output "last", float32
                      shape     count  bytes
        layers.0.W_x  (3, 16)      48    192
        layers.0.W_h  (16, 16)    256  1,024
        layers.0.b    (16,)        16     64
        W_y           (16, 2)      32    128
        b_y           (2,)          2      8
        total                     354  1,416
        """
        sizes = [(name, a.shape, a.size, a.nbytes) for name, a in self.free_parameters().items()]
        rows = [("", "shape", "count", "bytes")]
        rows += [(n, str(shape), f"{count:,}", f"{size:,}") for n, shape, count, size in sizes]
        rows += [("total", "", f"{self.vector.size:,}", f"{self.vector.nbytes:,}")]
        a, b, c, d = (max(map(len, column)) for column in zip(*rows, strict=True))
        return "\n".join([
            f'RNN, {self.activation}, output "{self.output}", {self.dtype}',
            *(f"{i:{a}}  {j:{b}}  {k:>{c}}  {m:>{d}}" for i, j, k, m in rows),
        ])  # fmt: skip

    def predict(
        self,
        x: npt.ArrayLike,
        lengths: npt.ArrayLike | None = None,
        *,
        state: npt.ArrayLike | None = None,
        return_state: bool = False,
        noise: Noise | None = None,
    ) -> Any:
        """Outputs for each sequence.

        Parameters
        ----------
        x : array_like, (N, T, I), (N, T) if I is 1, or list of (T_i, I) or (T_i,)
            Or tokens: integers (N, T), or a list of (T_i,).
        lengths : array of int, (N,), optional
            Steps of each sequence that count, for an array x; all T by default.
        state : ndarray, (num_layers, N, H), optional
            Initial states, as an earlier call returned them; by default zero, or those that are
            trained.  With a leak of potentials it is these.  One direction only.
        return_state : bool, default False
            Return the last states too.  A long sequence may be predicted piece by piece, with the
            same bits as at once.
        noise : Noise, optional
            Noise to add, such as ``fastbptt.Noise(model.noise, seed=0)``; none by default.  Each
            layer and direction adds numbers of its own, see :meth:`fastbptt.Noise.of_layer`.

        Returns
        -------
        y : ndarray or list of ndarray
            (N, O) for output "last".  For "all" (N, T, O), with zeros past a sequence's length, or
            for a list x a list of (T_i, O).
        state : ndarray, (num_layers, N, H)
            With ``return_state=True``.
        """
        data = _sequences.inputs(x, lengths, self.input_size, self.dtype)
        shape = self.num_layers, len(data), self.hidden_size
        before = self._check_state(state, return_state, shape)
        after = np.empty(shape, self.dtype)
        every = self.output == "all"
        y: Any = np.empty((len(data), self.output_size), self.dtype)
        if every:
            y = data.empty_outputs(self.output_size, self.dtype)
        for index, its_y, its_state in self._outputs(data, before, check_type(noise)):
            if return_state:
                after[:, index] = its_state
            if every:
                data.enter_outputs(y, index, its_y)
            else:
                y[index] = its_y
        return (y, after) if return_state else y

    def states(
        self,
        x: npt.ArrayLike,
        lengths: npt.ArrayLike | None = None,
        *,
        state: npt.ArrayLike | None = None,
        noise: Noise | None = None,
        of: Of = "rate",
    ) -> list[Any]:
        """Each layer's states after every step.

        Parameters
        ----------
        x, lengths, state, noise
            As for :meth:`predict`.
        of : {"rate", "potential"}, default "rate"
            The rates h, or the potentials v, with h = f(v), of a model with a leak of potentials.

        Returns
        -------
        list of (ndarray, (N, T, D H), or list of ndarray, (T_i, D H))
            For each layer, the one that reads x first: arrays with zeros past a sequence's length,
            or for a list x lists.  ``[..., t, :H]`` is the state after the steps up to t, counted
            from 0; in both directions ``[..., t, H:]`` is that of the second one, which has read
            the steps from the end back to t.  Nothing is dropped out.

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type, dtype, shape or value, or there are no potentials.

        See Also
        --------
        predict : what is read out of the last layer's.

        Examples
        --------
        >>> import numpy as np, fastbptt
        >>> model = fastbptt.RNN(2, 16, 1, num_layers=3, bidirectional=True, seed=0)
        >>> [h.shape for h in model.states(np.zeros((5, 7, 2)))]
        [(5, 7, 32), (5, 7, 32), (5, 7, 32)]
        """
        potentials = _checks.one_of("of", of, FORMS) == "potential"
        if potentials and (self.leak is None or self.leak.of != "potential"):
            raise ValueError(
                f"of is 'potential' and the model's leak {self.leak}, expected one of potentials"
            )
        data = _sequences.inputs(x, lengths, self.input_size, self.dtype)
        shape = self.num_layers, len(data), self.hidden_size
        before = self._check_state(state, False, shape)
        width = (1 + self.bidirectional) * self.hidden_size
        found = [data.empty_outputs(width, self.dtype) for _ in range(self.num_layers)]
        for index, some, added in _groups(len(data), before, check_type(noise)):
            h = self.network.states(data[index], data.lengths_of(index), some, added, potentials)
            for of_layer, its_h in zip(found, h, strict=True):
                data.enter_outputs(of_layer, index, its_h)
        return found

    def generate(
        self,
        prompt: npt.ArrayLike,
        length: int,
        *,
        temperature: float = 1.0,
        seed: int | np.random.Generator | None = None,
    ) -> np.ndarray:
        """Go on with sequences of tokens: draw the next from what the model predicts, and read it.

        For a model of tokens in one direction whose outputs are logits of the next token, as
        trained with the loss "cross_entropy".

        Parameters
        ----------
        prompt : array_like of int, (T,) or (N, T), or list of (T_i,)
            The tokens to go on from, at least one in each sequence.
        length : int
            How many to draw for each sequence, at least 0.
        temperature : float, default 1.0
            They are drawn with the probabilities softmax(y / temperature): below 1, likely ones
            more often than the model says.  With 0 each is the likeliest one.
        seed : None, int or numpy.random.Generator, optional
            As for :func:`numpy.random.default_rng`.

        Returns
        -------
        ndarray of int64, (length,), or (N, length) for several sequences
            Without the prompt.

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type, shape or value, or the model is of another kind.
        FloatingPointError
            If an output is infinite or NaN.

        See Also
        --------
        fastbptt.datasets.encode, fastbptt.datasets.decode : text as tokens, and back.

        Examples
        --------
        A model learns to count:

        >>> import numpy as np, fastbptt
        >>> tokens = np.arange(100) % 5
        >>> model = fastbptt.RNN(5, 16, 5, output="all", seed=0)
        >>> history = fastbptt.fit(
        ...     model,
        ...     [tokens[:-1]],
        ...     [tokens[1:]],
        ...     loss="cross_entropy",
        ...     optimizer=fastbptt.Adam(learning_rate=0.02),
        ...     epochs=50,
        ...     progress=False,
        ... )
        >>> model.generate([1, 2, 3], 8, temperature=0)
        array([4, 0, 1, 2, 3, 4, 0, 1])
        """
        if self.bidirectional or not 1 < self.input_size == self.output_size:
            raise ValueError(
                f"the model is {self!r}, expected one direction, and as many outputs as inputs, at "
                "least 2: logits of the next token"
            )
        length = _checks.integer("length", length, 0)
        temperature, rng = _checks.number("temperature", temperature), np.random.default_rng(seed)
        several = isinstance(prompt, (list, tuple)) and any(np.ndim(a) for a in prompt)
        if not several:
            prompt = _sequences.real("prompt", prompt)
            if not prompt.size:
                raise ValueError("prompt is empty, expected at least one token")
            several = prompt.ndim != 1
            if not several and prompt.dtype.kind in "iu":
                _checks.tokens("prompt", prompt, self.input_size, None)
            prompt = prompt if several else prompt[np.newaxis]
        data = _sequences.tokens("prompt", prompt, None, self.input_size)
        N = len(data)
        if (data.lengths == 0).any():
            raise ValueError("prompt has a sequence without tokens, expected at least one in each")
        drawn, every = np.empty((N, length), np.int64), np.arange(N)
        y, state = self.network.outputs(data[every], data.lengths_of(every))
        y = y[data.lengths - 1, every] if self.output == "all" else y
        for t in range(length):
            drawn[:, t] = _draw(y, temperature, rng)
            if t + 1 == length:
                break
            y, state = self.network.outputs(drawn[np.newaxis, :, t], None, state)
            y = y[-1] if self.output == "all" else y
        return drawn if several else drawn[0]

    def evaluate(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        lengths: npt.ArrayLike | None = None,
        loss: str | Callable[..., Any] = "mse",
        sample_weight: npt.ArrayLike | None = None,
    ) -> float:
        """The loss over a data set.

        Parameters
        ----------
        x, lengths
            As for :meth:`predict`.
        y : array_like or list of array_like
            What the outputs are compared with: (N, O) for output "last", (N, T, O) or a list of
            (T_i, O) for "all"; if O is 1, that axis may be left out.  For "cross_entropy", or for a
            function of your own if O is above 1, integer classes may stand in place of the axis O.
        loss : str or callable, default "mse"
            As for :func:`fastbptt.fit`.
        sample_weight : array_like or list of array_like, optional
            What each sequence, step or element counts, as for :func:`fastbptt.fit`.

        Returns
        -------
        float
            The mean over all rows, however many are computed together.
        """
        criterion = Criterion(loss, self.network.backend)
        return self.evaluate_data(self.read(x, y, lengths, criterion, sample_weight), criterion)

    def read(
        self,
        x: Any,
        y: Any,
        lengths: Any,
        loss: Criterion,
        sample_weight: Any = None,
    ) -> Data:
        """A data set, checked and converted."""
        x = _sequences.inputs(x, lengths, self.input_size, self.dtype)
        y = _sequences.targets(y, x, self.output, self.output_size, loss, self.dtype)
        return Data(x, y, read_weights(sample_weight, x, y, self.output_size, loss))

    def evaluate_data(self, data: Data, loss: Criterion) -> float:
        """:meth:`evaluate` for what :meth:`read` made of the data."""
        mean = Mean(loss)
        for value, weight in self.losses(data, loss):
            mean.add(value, weight)
        return mean.value

    def losses(
        self, data: Data, loss: Criterion, together: int = TOGETHER, first: int = 0, every: int = 1
    ) -> Iterator[tuple[float, float]]:
        """The loss over some sequences at a time, and the weight of each such group.

        Parameters
        ----------
        data : Data
        loss : Criterion
        together : int
            Sequences of a group.
        first, every : int
            Which groups: one of so many, from the first on, counted from 0.
        """
        x, y, weight = data
        for index, its_y, _ in self._outputs(x, None, None, together, first, every):
            mask, lengths, rows = None, None, len(index)
            if self.output == "all":
                lengths, rows = x.lengths[index], its_y.shape[0] * its_y.shape[1]
                mask = np.arange(len(its_y))[:, np.newaxis] < lengths
            its_weight = None if weight is None else weight[index]
            value, _ = loss.compute(its_y, y[index], mask, its_weight)
            yield float(value), total_weight(rows, lengths, its_weight)

    def objective(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        lengths: npt.ArrayLike | None = None,
        loss: str | Callable[..., Any] = "mse",
        sample_weight: npt.ArrayLike | None = None,
    ) -> Callable[[npt.ArrayLike], tuple[float, np.ndarray]]:
        """The loss over a data set as a function of all weights, for optimizers such as scipy's.

        Parameters
        ----------
        x, y, lengths, loss, sample_weight
            As for :meth:`evaluate`; read and converted here, once.

        Returns
        -------
        callable
            ``f(vector) -> (loss, gradient)`` with vectors (P,) like :attr:`vector`: float64 for the
            optimizer, computed in the model's dtype.  Line searches and tests of convergence expect
            the precision of ``dtype="float64"``.  All sequences are one minibatch, nothing is
            dropped out, and the model stays as it is until its :attr:`vector` is set.

        See Also
        --------
        loss_and_grads : the same at the model's own weights, by name.

        Examples
        --------
        Gradient descent by hand; ``scipy.optimize.minimize(f, model.vector, jac=True,
        method="L-BFGS-B").x`` would be another way to a vector:

        >>> import numpy as np, fastbptt
        >>> x = np.random.default_rng(0).integers(0, 2, (64, 5))
        >>> model = fastbptt.RNN(1, 8, 1, dtype="float64", seed=0)
        >>> f = model.objective(x, x.sum(axis=1))
        >>> vector = model.vector
        >>> for _ in range(100):
        ...     vector = vector - 0.02 * f(vector)[1]
        >>> f(vector)[0] < 0.1 * f(model.vector)[0]
        True
        >>> model.vector = vector
        """
        criterion = Criterion(loss, self.network.backend)
        given = self.read(x, y, lengths, criterion, sample_weight).together()
        network = Network(**self.config(), memory=self.network.memory.copy())
        gradient = network.new_gradient()

        def evaluate(vector: npt.ArrayLike) -> tuple[float, np.ndarray]:
            network.set_free(self._check_vector(vector))
            value, *_ = network.loss_and_gradient(
                given.x,
                given.y,
                given.lengths,
                criterion.compute,
                weight=given.weight,
                out=gradient,
            )
            network.chain(gradient)
            return float(value), gradient.free.astype(np.float64)

        return evaluate

    def loss_and_grads(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        lengths: npt.ArrayLike | None = None,
        loss: str | Callable[..., Any] = "mse",
        *,
        sample_weight: npt.ArrayLike | None = None,
        state: npt.ArrayLike | None = None,
        rng: np.random.Generator | None = None,
        checkpointed: bool = False,
    ) -> tuple[float, dict[str, np.ndarray]]:
        """The loss over a data set taken as one minibatch, and its gradients.

        Parameters
        ----------
        x, y, lengths, loss, sample_weight
            As for :meth:`evaluate`.
        state : ndarray, (num_layers, N, H), optional
            Initial states; by default zero, or those that are trained.  One direction only.
        rng : numpy.random.Generator, optional
            Draws what dropout leaves out, and the noise's seed.  Without it there is neither.
        checkpointed : bool, default False
            Keep about sqrt(T) of the T states in memory and compute the others twice: for long
            sequences.  Takes about 4/3 of the time.  One direction only.

        Returns
        -------
        loss : float
        grads : dict of str to ndarray
            With the names and shapes of :meth:`parameters`, and of these, whatever constraints
            there are.
        """
        criterion = Criterion(loss, self.network.backend)
        if rng is not None and not isinstance(rng, np.random.Generator):
            raise TypeError(f"rng is {rng!r}, expected a numpy.random.Generator")
        minibatch = self.read(x, y, lengths, criterion, sample_weight).together()
        shape = self.num_layers, minibatch.x.shape[1], self.hidden_size
        before = self._check_state(state, checkpointed, shape)
        gradient = self.network.new_gradient()
        value, *_ = self.network.loss_and_gradient(
            minibatch.x, minibatch.y, minibatch.lengths, criterion.compute,
            weight=minibatch.weight, state=before, rng=rng, checkpointed=checkpointed, out=gradient,
        )  # fmt: skip
        return value, gradient.named

    @classmethod
    def from_keras(
        cls,
        layers: Any,
        *,
        activation: str | None = None,
        bidirectional: bool | None = None,
        output: str | None = None,
    ) -> "RNN":
        """A model with the weights of Keras' ``SimpleRNN``, and of a ``Dense`` as its readout.

        Parameters
        ----------
        layers : keras.Model, layer, list of layers or list of ndarray
            ``SimpleRNN``, one or several, plain or all in ``Bidirectional``; then a ``Dense``
            without activation, or the states are read out as they are.  ``Masking`` and ``Dropout``
            may stand in between; neither is kept.  Or the arrays of such layers, as their
            ``get_weights()`` gives them: for each layer and direction (I, H), (H, H), (H,), then
            (D H, O), (O,).
        activation, bidirectional, output : optional
            As for `RNN`, for arrays alone; layers say it themselves.

        Returns
        -------
        RNN
            Of copies of the weights, to the bit.

        Raises
        ------
        TypeError, ValueError
            If there is anything else in the layers.

        See Also
        --------
        to_keras : The arrays, for ``set_weights``.

        Notes
        -----
        `predict` gives what Keras' does, with `output` "all" for ``return_sequences=True``.  In
        place of a mask it takes `lengths`, and gives zeros past them, where Keras repeats the last
        state's output.

        Examples
        --------
        >>> import numpy as np, fastbptt
        >>> arrays = [np.ones((2, 3)), np.eye(3), np.zeros(3), np.ones((3, 1)), np.zeros(1)]
        >>> fastbptt.RNN.from_keras(arrays, activation="relu").predict(np.ones((1, 4, 2)))
        array([[24.]])
        """
        from fastbptt._keras import from_keras

        return from_keras(layers, activation, bidirectional, output)

    def to_keras(self) -> list[np.ndarray]:
        """The weights as Keras' ``set_weights`` takes them.

        Returns
        -------
        list of ndarray
            Copies, for a ``keras.Sequential`` of ``SimpleRNN`` layers, in ``Bidirectional`` if the
            model is, and a ``Dense``.

        Raises
        ------
        ValueError
            If the model has an option that these do not have, such as a leak.

        See Also
        --------
        from_keras : The way back.

        Examples
        --------
        >>> import fastbptt
        >>> [a.shape for a in fastbptt.RNN(2, 3, 1, seed=0).to_keras()]
        [(2, 3), (3, 3), (3,), (3, 1), (1,)]
        """
        from fastbptt._keras import to_keras

        return to_keras(self)

    def _outputs(
        self,
        x: Sequences,
        state: np.ndarray | None,
        noise: Noise | None = None,
        together: int = TOGETHER,
        first: int = 0,
        every: int = 1,
    ) -> Iterator[tuple[np.ndarray, np.ndarray, list[np.ndarray]]]:
        """For some sequences at a time: which, their time-major outputs, and last states.

        `together`, `first` and `every` are as for :meth:`losses`.
        """
        groups = _groups(len(x), state, noise, together)
        for index, before, added in itertools.islice(groups, first, None, every):
            y, after = self.network.outputs(x[index], x.lengths_of(index), before, added)
            yield index, y, after

    def _check_state(
        self, state: npt.ArrayLike | None, wanted: bool, shape: tuple[int, int, int]
    ) -> np.ndarray | None:
        if self.bidirectional and (wanted or state is not None):
            raise ValueError(
                "the model is bidirectional, expected one direction for state, return_state or "
                "checkpointed: the other begins at the end"
            )
        if state is None:
            return None
        found = _sequences.real("state", state).astype(self.dtype, copy=False)
        if found.shape != shape:
            raise ValueError(f"state has shape {found.shape}, expected {shape}: (num_layers, N, H)")
        return found

    def _check_vector(self, vector: npt.ArrayLike) -> np.ndarray:
        """A vector of weights in the model's dtype, where what is too large is infinite."""
        found = _sequences.real("vector", vector)
        if found.shape != self.vector.shape:
            raise ValueError(
                f"vector has shape {found.shape}, expected {self.vector.shape}: (P,), all weights"
            )
        with np.errstate(over="ignore"):
            return found.astype(self.dtype, copy=False)

    def __repr__(self) -> str:
        sizes = self.input_size, self.hidden_size, self.output_size
        names = (name for name in _CONFIG[3:] if name not in IF_SET or getattr(self, name))
        options = (f"{name}={getattr(self, name)!r}" for name in names)
        return f"RNN({', '.join([*map(str, sizes), *options])})"

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _CONFIG and hasattr(self, "network"):
            raise AttributeError(f"{name} is {getattr(self, name)!r} and stays so, make a new RNN")
        super().__setattr__(name, value)

    # The named arrays are views of one vector, which a copy of each by itself would not be.

    def __getstate__(self) -> tuple[dict[str, Any], np.ndarray]:
        return self.config(), self.network.memory

    def __setstate__(self, state: tuple[dict[str, Any], np.ndarray]) -> None:
        config, memory = state
        self._settle(config, Network(**config, memory=np.array(memory)))


_CONFIG = ("input_size", "hidden_size", "output_size", "num_layers", "bidirectional", "activation",
           "output", "dropout", "output_dropout", "noise", "dtype", "backend", "leak",
           "train_initial_state", "spectral_radius", "constraints")  # fmt: skip
# Of these, what is not set is not shown.
IF_SET = "leak", "train_initial_state", "spectral_radius", "constraints"


def check_config(
    input_size: Any,
    hidden_size: Any,
    output_size: Any,
    num_layers: Any,
    bidirectional: Any,
    activation: Any,
    output: Any,
    dropout: Any,
    dtype: Any,
    backend: Any,
    output_dropout: Any = 0.0,
    noise: Any = 0.0,
    leak: Any = None,
    train_initial_state: Any = False,
    spectral_radius: Any = None,
    constraints: Any = None,
) -> dict[str, Any]:
    """Check what :class:`RNN` is made of, sizes and options, and return it as its `config` does."""
    input_size = _checks.integer("input_size", input_size)
    hidden_size = _checks.integer("hidden_size", hidden_size)
    output_size = _checks.integer("output_size", output_size)
    num_layers = _checks.integer("num_layers", num_layers)
    bidirectional = bool(bidirectional)
    activation = _checks.one_of("activation", activation, ACTIVATIONS)
    output = _checks.one_of("output", output, OUTPUTS)
    backend = _checks.one_of("backend", backend, BACKENDS)
    dtype = _checks.float_dtype("dtype", dtype).name
    share, of_outputs = _share("dropout", dropout), _share("output_dropout", output_dropout)
    if share and num_layers == 1:
        raise ValueError(
            f"dropout is {dropout} with one layer, expected 0: it acts between two layers, "
            "output_dropout before the readout"
        )
    leaks(leak, hidden_size, np.dtype(dtype))
    if spectral_radius is not None:
        spectral_radius = _checks.number("spectral_radius", spectral_radius, zero=False)
    if constraints is not None and not isinstance(constraints, Constraints):
        raise TypeError(f"constraints is {constraints!r}, expected fastbptt.Constraints(...)")
    values = (input_size, hidden_size, output_size, num_layers, bidirectional, activation, output,
              share, of_outputs, _checks.number("noise", noise), dtype, backend, leak,
              bool(train_initial_state), spectral_radius, constraints)  # fmt: skip
    return dict(zip(_CONFIG, values, strict=True))


def _groups(
    count: int, state: np.ndarray | None, noise: Noise | None, together: int = TOGETHER
) -> Iterator[tuple[np.ndarray, np.ndarray | None, Noise | None]]:
    """Which of so many sequences to run together, their initial states, (L, B, H), and noise."""
    for start in range(0, max(count, 1), together):
        index = np.arange(start, min(start + together, count))
        before = None if state is None else np.ascontiguousarray(state[:, index])
        yield index, before, noise and noise.at(sequence=start)


def _share(name: str, value: Any) -> float:
    """What dropout takes away."""
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is {value!r}, expected a number")
    if not 0 <= float(value) < 1:
        raise ValueError(f"{name} is {value}, expected at least 0 and less than 1")
    return float(value)


def model_of(config: dict[str, Any], memory: np.ndarray) -> RNN:
    """The model of these weights, as :class:`fastbptt._network.Weights` has them in memory.

    They become its own; nothing is drawn.  `config` is as :func:`check_config` returned it.
    """
    model = RNN.__new__(RNN)
    model._settle(config, Network(**config, memory=memory))
    return model


def _draw(y: np.ndarray, temperature: float, rng: np.random.Generator) -> np.ndarray:
    """For each row of y (N, O) a class, drawn with the probabilities softmax(y / temperature)."""
    if not np.isfinite(y).all():
        raise FloatingPointError("the model's outputs are infinite or NaN")
    if temperature == 0:
        return y.argmax(axis=1)
    with np.errstate(over="ignore"):  # at a low temperature: to -infinity
        z = (y.astype(np.float64) - y.max(axis=1, keepdims=True)) / temperature
    total = np.exp(z).cumsum(axis=1)
    u = rng.random((len(y), 1)) * total[:, -1:]
    return (total[:, :-1] <= u).sum(axis=1)


class Mean:
    """A loss over minibatches: the mean over all rows, or the sum for a loss that is one.

    Values times weights and weights are summed apart: the mean is that over all rows at once.
    """

    sums: bool
    total: float
    weight: float

    def __init__(self, loss: Criterion) -> None:
        self.sums, self.total, self.weight = loss.reduction == "sum", 0.0, 0

    def add(self, value: float, weight: float) -> None:
        """Take in a minibatch's loss, a mean over so many rows, or rows of this weight."""
        self.total += float(value) * (1 if self.sums else weight)
        self.weight += weight

    @property
    def value(self) -> float:
        return self.total if self.sums else self.total / (self.weight or 1)
