"""
Several machines
================

The same script on one process or on many: ``shares`` cuts each minibatch into pieces, which the
ranks of MPI compute and whose gradients are summed in one order. So the bits are those of one
process, however many there are, and a run that was stopped on 8 goes on on 3. It is started by

.. code-block:: sh

   pip install "fastbptt[mpi]" mpich
   mpiexec -n 4 python -m mpi4py machines.py

More, on Slurm and Kubernetes too, is in :doc:`/distributed`.
"""

import numpy as np

import fastbptt

try:
    from mpi4py import MPI
except ImportError:  # one process then, with the same bits
    comm = rank = None
else:
    comm, rank = MPI.COMM_WORLD, MPI.COMM_WORLD.rank

x, y = fastbptt.datasets.temporal_order(2000, 30, seed=0)
model = fastbptt.RNN(6, 48, 4, seed=0)
history = fastbptt.fit(
    model,
    x,
    y,
    loss="cross_entropy",
    epochs=12,
    batch_size=64,
    clip_norm=1.0,
    shares=8,
    comm=comm,
    seed=0,
    progress=False,
)

# %%
# Every rank has the same model and history at the end; one of them speaks.

# sphinx_gallery_thumbnail_path = "pictures/shares.svg"
if not rank:
    found = model.predict(x).argmax(axis=1)
    print(f"{comm.size if comm else 1} processes: {np.mean(found == y):.1%} right")
    print("the first weights:", model.vector[:3].tolist())

# %%
# .. image:: /pictures/shares.svg
#    :alt: A minibatch is cut into shares, which ranks compute; gradients are summed in one order
