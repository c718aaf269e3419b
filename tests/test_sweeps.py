"""Many models at once: in joblib's processes and threads and on Dask's workers.

No cores are used twice, and each model has the bits that it has alone.
"""

import contextlib
import os
from typing import Any

import joblib
import numba
import numpy as np
import pytest

import fastbptt

sklearn = pytest.importorskip("sklearn")

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
SEEDS = range(4)


def train(seed) -> Any:
    """What a training leaves: the loss, the weights, and how many threads it had."""
    x = np.random.default_rng(0).standard_normal((40, 10, 1))
    model = fastbptt.RNN(1, 8, 1, seed=seed)
    history = fastbptt.fit(model, x, x.sum(axis=1), epochs=2, seed=seed, progress=False)
    return history.loss, model.vector.tobytes(), numba.get_num_threads()


@contextlib.contextmanager
def dask():
    """Two workers, as DISTRIBUTED.md has them."""
    distributed = pytest.importorskip("distributed")
    workers = {"n_workers": 2, "threads_per_worker": 1, "env": {"NUMBA_NUM_THREADS": "1"}}
    with (
        distributed.LocalCluster(**workers, dashboard_address=None) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config("dask"),
    ):
        yield


@contextlib.contextmanager
def loky():
    with joblib.parallel_config("loky", n_jobs=2):
        yield


SWEEPS = pytest.mark.parametrize(
    "sweep", [loky, pytest.param(dask, marks=pytest.mark.world)], ids=["loky", "dask"]
)


@SWEEPS
@pytest.mark.filterwarnings("ignore")  # of Dask's own, about ports and the like
def test_seeds_in_processes(sweep):
    with sweep():
        found: Any = joblib.Parallel()(joblib.delayed(train)(seed) for seed in SEEDS)
    assert [each[:2] for each in found] == [train(seed)[:2] for seed in SEEDS]
    assert {2 * threads for *_, threads in found} <= {*range(2, max(CORES, 2) + 1)}


@SWEEPS
@pytest.mark.parametrize("search", ["GridSearchCV", "RandomizedSearchCV"])
@pytest.mark.filterwarnings("ignore")
def test_searches(sweep, search):
    selection = pytest.importorskip("sklearn.model_selection")
    x = np.random.default_rng(0).standard_normal((40, 10, 1))
    y = x.sum(axis=(1, 2))
    found = []
    for where in (contextlib.nullcontext, sweep):
        options = {"random_state": 0, "n_iter": 3} if search == "RandomizedSearchCV" else {}
        regressor = fastbptt.estimators.RNNRegressor(epochs=2, random_state=0)
        tried = {"hidden_size": [4, 8], "learning_rate": [0.001, 0.1]}
        searched = getattr(selection, search)(regressor, tried, cv=2, **options)
        with where():
            searched.fit(x, y)
        found.append((searched.best_params_, searched.cv_results_["mean_test_score"].tolist()))
    assert found[0] == found[1]


def test_seeds_in_threads():
    found: Any = joblib.Parallel(n_jobs=4, prefer="threads")(
        joblib.delayed(train)(seed) for seed in SEEDS
    )
    assert [each[:2] for each in found] == [train(seed)[:2] for seed in SEEDS]
