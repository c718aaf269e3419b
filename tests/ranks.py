"""Ranks without MPI: threads, each with a communicator that has mpi4py's methods."""

import pickle
import threading
from typing import Any

TIMEOUT = 60  # seconds: a rank that waits longer waits for ever


class World:
    """What the ranks share."""

    def __init__(self, size):
        self.size, self.barrier = size, threading.Barrier(size, timeout=TIMEOUT)
        self.handed = [None] * size


class Comm:
    def __init__(self, world, rank):
        self._world, self._rank = world, rank
        self.sent = 0  # bytes of arrays, to others

    def Get_rank(self):
        return self._rank

    def Get_size(self):
        return self._world.size

    def allgather(self, mine):
        return [pickle.loads(each) for each in self._exchange(pickle.dumps(mine))]

    def bcast(self, mine, root=0):
        return self.allgather(mine if self._rank == root else None)[root]

    def Allgather(self, sent, got):
        self.sent += sent.nbytes * (self._world.size - 1)
        got.reshape(self._world.size, -1)[...] = self._exchange(sent.reshape(-1).copy())

    def Alltoall(self, sent, got):
        sent, got = (a.reshape(self._world.size, -1) for a in (sent, got))
        self.sent += sent[1:].nbytes
        for source, whole in enumerate(self._exchange(sent.copy())):
            got[source] = whole[self._rank]

    def _exchange(self, mine):
        """What each rank hands over."""
        world = self._world
        world.handed[self._rank] = mine
        world.barrier.wait()
        found = list(world.handed)
        world.barrier.wait()  # all have read before anybody writes again
        return found

    def Abort(self, code):
        self._world.barrier.abort()


def on_ranks(size, function) -> list[Any]:
    """What function(comm) returns or raises on each rank, in a thread for each."""
    world, found = World(size), [None] * size

    def run(rank):
        try:
            found[rank] = function(Comm(world, rank))
        except BaseException as error:
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
