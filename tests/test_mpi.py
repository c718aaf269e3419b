"""Training on processes of MPI: the bits, files, and what happens when a rank fails.

Needs the extra "mpi" and a launcher; tests/test_shares.py has ranks without MPI.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from trainings import bits, build, draw, fit

import fastbptt
from fastbptt import cli

MPI = pytest.importorskip("mpi4py.MPI", reason="mpi4py is not installed", exc_type=ImportError)
HERE = Path(sys.executable).parent
MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(HERE), os.environ.get("PATH", "")]))
pytestmark = [pytest.mark.world, pytest.mark.skipif(not MPIEXEC, reason="there is no mpiexec")]
TIMEOUT = 120  # seconds: a job that takes longer waits for ever


@contextlib.contextmanager
def started(ranks, *task):
    """A job of tests/on_mpi.py; its output is a pipe."""
    paths = Path(__file__).parent, Path(fastbptt.__file__).parents[1]
    more_than_cores = {
        "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
    }  # fmt: skip
    program = sys.executable, "-m", "mpi4py", Path(__file__).with_name("on_mpi.py")
    with subprocess.Popen(
        [str(MPIEXEC), "-n", str(ranks), *program, *map(str, task)],
        env={**os.environ, **more_than_cores, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as job:  # fmt: skip
        try:
            yield job
        finally:
            if job.poll() is None:
                job.terminate()


def run(ranks, *task):
    """Exit status, output and errors of a job."""
    with started(ranks, *task) as job:
        out, errors = job.communicate(timeout=TIMEOUT)
    return job.returncode, out, errors


def said(ranks, *task):
    """What rank 0 says."""
    status, out, errors = run(ranks, *task)
    assert status == 0, errors
    return heard(out)


def heard(out):
    """The launcher may print, too."""
    return json.loads(out[out.index('{"said": ') :].splitlines()[0])["said"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return said(1, "go on", tmp_path_factory.mktemp("whole") / "run")


def test_a_communicator_of_one_has_the_bits_of_none():
    found = []
    for comm in (None, MPI.COMM_SELF):
        model = build("float32", num_layers=2, dropout=0.3)
        history = fit(model, draw(model, (5,) * 9), epochs=2, shares=3, comm=comm)
        found.append((bits(model), history.loss))
    assert found[0] == found[1]


def test_any_number_of_ranks_has_the_same_bits():
    alone = said(1, "bits", "-")
    assert len({weights for weights, *_ in alone}) == 4
    for ranks in (2, 3, 4):
        assert said(ranks, "bits", "-") == alone


def test_the_demo_shows_that_the_bits_agree(capsys):
    assert cli.main(["demo", "distributed", "--ranks", "3"]) == 0
    out = capsys.readouterr().out
    assert "3 of MPI" in out
    assert "All agree to the bit." in out


@pytest.mark.slow  # compiles
def test_a_cache_of_its_own_will_do(tmp_path):
    assert said(2, "apart", tmp_path) == said(1, "bits", "-")
    assert [*tmp_path.rglob("*.nbc")]


def test_a_killed_rank_ends_the_job_and_others_go_on(tmp_path, uninterrupted):
    status, out, _ = run(3, "killed", tmp_path / "run")
    assert status != 0
    assert "said" not in out
    assert (tmp_path / "run").exists()
    assert said(2, "go on", tmp_path / "run") == uninterrupted


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("loss", "ZeroDivisionError: in a piece"),
        ("memory", "MemoryError: Unable to allocate"),
        ("data", "ValueError: truncate is 0, expected at least 1"),
    ],
)
def test_an_error_on_one_rank_ends_all_with_it(how, error):
    """Whoever is first to end the job, nothing else is raised on the way."""
    status, out, errors = run(3, "fail", "-", how)
    assert status != 0
    raised = re.findall(r"(?:[A-Z][a-z]+)+Error: .{20}", out)  # lines may lack their ends
    assert len(raised) <= 3
    assert {each[:20] for each in raised} <= {error[:20]}
    assert error in out + errors  # Open MPI's launcher may drop what came last


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_leaves_a_file_to_go_on_from(tmp_path, uninterrupted):
    path, begun = tmp_path / "run", tmp_path / "run.begun"
    with started(2, "interrupted", path) as job:
        end = time.monotonic() + TIMEOUT
        while not begun.exists() and job.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        job.send_signal(signal.SIGINT)
        out, errors = job.communicate(timeout=TIMEOUT)
    assert begun.exists(), errors
    if "Open MPI" not in MPI.Get_library_version():  # whose launcher ends the ranks itself
        assert heard(out)[-1] == "interrupted"
        assert job.returncode == 0, errors
    assert said(3, "go on", path) == uninterrupted
