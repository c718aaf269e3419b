"""A minibatch in pieces, and the ranks that train on them: processes of an MPI communicator.

What a piece is, and the order in which pieces are summed, depend on the minibatch and the number of
pieces, never on the ranks.  So these may be any number, with the same bits.

Each step, every rank sends each other one its pieces' gradients for a segment of the weights, adds
up its own segment piece by piece, and all hand round the sums: in two exchanges each rank sends and
receives about twice the gradient, whatever the number of ranks, if each has one piece.

No rank waits for one that failed.  Whatever may fail on one rank alone is followed by
:meth:`Ranks.agree`, and a rank that fails anywhere else goes there at once: all meet at the same
collective, and go on together or raise the same error.
"""

from __future__ import annotations

import heapq
import os
import pickle
import platform
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Any, TypeVar

import numpy as np

from fastbptt import _checks

Result = TypeVar("Result")

NEEDED = "Get_rank", "Get_size", "Allgather", "Alltoall", "allgather", "bcast", "Abort"
WELL, INTERRUPTED, FAILED = range(3)
LATE = 0.1  # seconds: a launcher hands Ctrl-C to one rank after the other


def cut(lengths: np.ndarray, count: int) -> list[np.ndarray]:
    """Cut a minibatch into pieces.

    Sequences of equal length in a row, as even in number as can be.  Others are given out from the
    longest, each to the piece with the fewest steps so far (Graham 1969).

    Parameters
    ----------
    lengths : ndarray of int, (B,)
    count : int

    Returns
    -------
    list of ndarray of int
        Positions in the minibatch, rising; none in some pieces if there are fewer than these.
    """
    B = len(lengths)
    if B == 0 or (lengths == lengths[0]).all():
        return np.array_split(np.arange(B), count)
    pieces: list[list[int]] = [[] for _ in range(count)]
    heap = [(0, 0, k) for k in range(count)]  # steps, sequences, piece
    for b in np.argsort(-lengths, kind="stable").tolist():
        steps, sequences, k = heap[0]
        pieces[k].append(b)
        heapq.heapreplace(heap, (steps + int(lengths[b]), sequences + 1, k))
    return [np.array(sorted(piece), np.int64) for piece in pieces]


class Ranks:
    """The processes that train together; without a communicator, this one alone.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm or None

    Attributes
    ----------
    rank, size : int
    """

    rank: int
    size: int

    def __init__(self, comm: Any = None) -> None:
        if comm is not None and not all(hasattr(comm, name) for name in NEEDED):
            raise TypeError(
                f"comm is {comm!r}, expected a communicator of mpi4py, such as MPI.COMM_WORLD"
            )
        self._comm: Any = comm
        self.rank, self.size = (0, 1) if comm is None else (comm.Get_rank(), comm.Get_size())
        self._raised: BaseException | None = None  # by all ranks
        self._interrupted = False  # Ctrl-C, and not yet agreed upon
        self._undo: list[Callable[[], Any]] = []
        self._buffers: tuple[np.ndarray, ...] = ()

    # A block in which no rank waits for one that failed

    def __enter__(self) -> Ranks:
        if self._comm is not None:
            self._defer_interrupts()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None or error is not self._raised:
                self.agree(error)
        except BaseException as agreed:
            if agreed is not error:
                raise
        finally:
            while self._undo:
                self._undo.pop()()

    def _defer_interrupts(self) -> None:
        """Let Ctrl-C wait until all ranks can end together: it may hit one, or each elsewhere."""
        main = threading.current_thread() is threading.main_thread()
        if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            return

        def note(number: int, frame: FrameType | None) -> None:
            if self._interrupted and not isinstance(self._raised, KeyboardInterrupt):
                self._comm.Abort(128 + number)  # pressed again: somebody will not wait
            self._interrupted = True

        def restore() -> None:
            if isinstance(self._raised, KeyboardInterrupt):
                time.sleep(LATE)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if self._interrupted and self._raised is None:  # too late for this training
                signal.raise_signal(signal.SIGINT)

        signal.signal(signal.SIGINT, note)
        self._undo.append(restore)

    def agree(self, error: BaseException | None = None) -> None:
        """Go on if all ranks can; else raise the same on all: the first one's error, or Ctrl-C.

        Parameters
        ----------
        error : BaseException, optional
            This rank's.
        """
        if self._comm is None:
            return
        state, states = np.array([WELL], np.int8), np.empty(self.size, np.int8)
        if error is not None:
            state[0] = FAILED
        elif self._interrupted and self._raised is None:
            state[0] = INTERRUPTED
        self._comm.Allgather(state, states)
        if (states == FAILED).any():
            first = int(np.argmax(states == FAILED))
            mine = _portable(error, self.rank) if error and first == self.rank else None
            found = self._comm.bcast(mine, root=first)
            raised: BaseException = error if error and first == self.rank else found
        elif (states == INTERRUPTED).any():
            raised = KeyboardInterrupt()
        else:
            return
        self._raised = raised
        raise raised

    def each(self, find: Callable[[], Result]) -> list[Result]:
        """What a function returns on each rank, in their order."""
        found = self._guarded(find)
        return [found] if self._comm is None else self._comm.allgather(found)

    def first(self, find: Callable[[], Result]) -> Result:
        """What a function returns on rank 0, which alone calls it."""
        found: Any = self._guarded(find if self.rank == 0 else lambda: None)
        return found if self._comm is None else self._comm.bcast(found, root=0)

    def _guarded(self, find: Callable[[], Result]) -> Result:
        """What a function returns, once it has on all ranks."""
        if self._comm is None:
            return find()
        found: Any = None
        try:
            found, error = find(), None
        except BaseException as caught:
            error = caught
        self.agree(error)
        return found

    def check_same(self, find: Callable[[], dict[str, Any]]) -> None:
        """Check that a function returns the same values on all ranks."""
        if self._comm is None:
            return
        wanted, *others = self.each(find)
        for rank, found in enumerate(others, start=1):
            for name in {**wanted, **found}:
                if found.get(name) != wanted.get(name):
                    raise ValueError(
                        f"{name} is {found.get(name)!r} on rank {rank}, expected "
                        f"{wanted.get(name)!r} as on rank 0"
                    )

    # The sum

    def pieces(self, shares: int | None) -> int | None:
        """How many pieces a minibatch is cut into; None if it stays whole."""
        if shares is not None:
            shares = _checks.integer("shares", shares)
        elif self._comm is not None:
            return self.size
        if shares is not None and shares < self.size:
            raise ValueError(
                f"shares is {shares}, expected a piece for each of the {self.size} ranks at least"
            )
        return shares

    def own(self, count: int) -> range:
        """Which of so many pieces are this rank's."""
        return range(self.rank, count, self.size)

    def sum(self, count: int, find: Callable[[int], float], array: np.ndarray) -> float:
        """Sum what the pieces give, in their order.

        Parameters
        ----------
        count : int
            How many pieces there are on all ranks; the same at every call.
        find : callable
            ``find(k)`` puts piece k's numbers into `array`, and returns another one.  It is called
            for this rank's pieces.
        array : ndarray, (P,)
            Finally holds the sum of the arrays.

        Returns
        -------
        float
            The sum of the other numbers.
        """
        if count == 1 and self._comm is None:
            return find(0)
        if not self._buffers:
            self._buffers = self._allocate(count, array)
        total, *exchanged = self._buffers
        if self._comm is None:
            value = find(0)
            total[...] = array
            for k in range(1, count):
                value += find(k)
                _add(total, array)
            array[...] = total
            return value
        sent, got, segment = exchanged

        def fill() -> None:
            whole, rest = divmod(len(array), len(segment))  # segments
            for at, k in enumerate(self.own(count)):
                sent["value"][:, at] = find(k)
                sent["array"][:whole, at] = array[: len(array) - rest].reshape(whole, len(segment))
                if rest:
                    sent["array"][whole, at, :rest] = array[-rest:]

        self._guarded(fill)
        self._comm.Alltoall(sent.view(np.uint8), got.view(np.uint8))
        in_order = [got[k % self.size, k // self.size] for k in range(count)]
        value = float(in_order[0]["value"])
        segment[...] = in_order[0]["array"]
        for each in in_order[1:]:
            value += float(each["value"])
            _add(segment, each["array"])
        self._comm.Allgather(segment, total)
        array[...] = total[: len(array)]
        return value

    def _allocate(self, count: int, like: np.ndarray) -> tuple[np.ndarray, ...]:
        """The sum; what is sent and got, for each rank and piece; this rank's segment of the sum.

        Each rank's segment is as long, and the sum as all of them.
        """
        if self._comm is None:
            return (np.empty_like(like),)
        width = -(-len(like) // self.size)
        width += width % 2  # so that float64 stays aligned behind float32
        record = np.dtype([("value", np.float64), ("array", like.dtype, (width,))])
        shape = self.size, -(-count // self.size)
        total, segment = np.zeros(self.size * width, like.dtype), np.empty(width, like.dtype)
        return total, np.zeros(shape, record), np.zeros(shape, record), segment

    # The cores of a node, and the kernels

    def prepare(self, dtype: Any) -> None:
        """Give this rank its share of the node's cores, and compile the kernels.

        Rank 0 compiles first, then one rank on each other node, then the rest: they find what is
        in the cache, whether all nodes share one or each has its own.
        """
        if self._comm is None:
            return
        import numba

        from fastbptt.rnn import warmup

        nodes: list[tuple[str, set[int]]] = self._comm.allgather((platform.node(), _cores()))
        if "NUMBA_NUM_THREADS" not in os.environ:
            before = numba.get_num_threads()
            numba.set_num_threads(min(before, share_of_cores(nodes, self.rank)))
            self._undo.append(lambda: numba.set_num_threads(before))
        first = [node for node, _ in nodes].index(platform.node()) == self.rank
        turn = 0 if self.rank == 0 else 1 if first else 2
        for whose in range(3):
            self._guarded(lambda whose=whose: warmup(dtype) if whose == turn else None)


def share_of_cores(nodes: Sequence[tuple[str, set[int]]], rank: int) -> int:
    """Threads for a rank: its cores, each divided among the ranks of its node that may use it.

    Parameters
    ----------
    nodes : sequence of (str, set of int)
        Each rank's node, and the cores that it may use there.
    rank : int
    """
    here, cores = nodes[rank]
    others = [its for node, its in nodes if node == here]
    # Rounded up by less than a thread is worth: 3 / 3 may be a little below 1.
    return max(int(sum(1 / sum(core in its for its in others) for core in cores) + 1e-6), 1)


def _cores() -> set[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _add(a: np.ndarray, b: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        a += b


def _portable(error: BaseException, rank: int) -> BaseException:
    """An error as other ranks can raise it: a copy, which says where it comes from."""
    try:
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
    except Exception:
        copy = RuntimeError(f"{type(error).__name__}: {error}")
    trace = "".join(traceback.format_exception(error)).rstrip()
    copy.add_note(f"Raised on rank {rank}:\n{trace}")
    return copy
