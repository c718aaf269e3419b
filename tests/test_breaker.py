"""Ten minutes of trying to break it: guard pages, storms of calls, kills, spoiled files, a soak.

Everything runs in processes of its own, so that a crash or a hang is a failure here.  The seed is
new every time and printed; set FASTBPTT_BREAKER_SEED to it to get the same cases again.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fastbptt

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="needs mprotect, SIGALRM and SIGKILL"),
]

# Factor of all durations: 1 makes ten minutes.
SCALE = float(os.environ.get("FASTBPTT_BREAKER_SCALE", "1"))
GRACE = 240  # more seconds allowed: compiling, a busy machine
HERE = Path(__file__).parent


@pytest.fixture
def seed(capsys):
    given = int(os.environ.get("FASTBPTT_BREAKER_SEED") or random.SystemRandom().randrange(10**9))
    with capsys.disabled():
        print(f"\nFASTBPTT_BREAKER_SEED={given}", flush=True)
    return given


@pytest.fixture
def start():
    """Start a script beside this file, which may use two of Numba's threads."""
    paths = os.pathsep.join([str(HERE), str(Path(fastbptt.__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": paths, "NUMBA_NUM_THREADS": "2"}
    processes = []

    def start_one(script, *args):
        command = [sys.executable, "-X", "faulthandler", str(HERE / script), *map(str, args)]
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        processes.append(process)
        return process

    yield start_one
    for process in processes:
        with process:  # closes its pipes
            process.kill()


def killed_within(process, seconds):
    """Let a process start and kill it a while later; what it printed, and whether it was killed."""
    assert process.stdout.readline() == "begun\n", process.stderr.read()
    time.sleep(seconds)
    process.kill()
    out, err = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), err
    return out, process.returncode != 0


def end_of(process, seconds):
    """What a process printed, if it ended well, and in time."""
    try:
        out, err = process.communicate(timeout=seconds + GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"{process.args} hangs\n{out[-2000:]}\n{err[-4000:]}")
    if process.returncode != 0:
        command = " ".join(process.args[3:])
        pytest.fail(f"{command}: status {process.returncode}\n{out[-2000:]}\n{err[-4000:]}")
    return out


def test_between_guard_pages(seed, start):
    """Nothing but the arrays is touched; results are the same as on plain arrays, and accurate."""
    seconds = 50 * SCALE
    out = end_of(start("guards.py", seed, seconds), seconds)
    cases = out.splitlines()
    assert cases[-1] == "done"
    assert len(cases) > 5 * SCALE


@pytest.mark.parametrize(
    "ways",
    [["threads"], ["handlers"], ["raising"], ["threads", "handlers", "raising"]],
    ids="+".join,
)
def test_calls_at_once(ways, seed, start):
    """Each call has the bits that it has alone; afterwards threads are free as before."""
    seconds = 10 * SCALE
    out = end_of(start("hammer.py", seed, seconds, *ways), seconds)
    assert out.endswith("done\n")


def test_killed_training_goes_on_to_the_same_bits(seed, start, tmp_path):
    rng, kills = random.Random(seed), 0
    end = time.monotonic() + 20 * SCALE
    while time.monotonic() < end or not kills:
        its_seed = rng.randrange(10**9)
        process = start("runs.py", "train", tmp_path / "whole", its_seed)
        assert process.stdout.readline() == "begun\n", process.stderr.read()
        begun = time.monotonic()
        expected = json.loads(end_of(process, 0))
        took = time.monotonic() - begun
        path, out = tmp_path / "killed", ""
        while not out.endswith("\n"):
            process = start("runs.py", "train", path, its_seed)
            out, killed = killed_within(process, rng.uniform(0, took / 4))
            kills += killed
            if path.exists():
                fastbptt.load(path)
        assert json.loads(out) == expected, its_seed
        for file in tmp_path.iterdir():
            file.unlink()
    print(f"{kills} kills")


@pytest.mark.parametrize("way", ["flipped", "cut", "exchanged"])
@pytest.mark.parametrize("kind", ["model", "checkpoint"])
def test_spoiled_files(kind, way, seed, start, tmp_path):
    """A ValueError that names the file, before the model changes; or what the file still says."""
    process = start("spoiled.py", seed, tmp_path, kind, way)
    try:
        out, err = process.communicate(timeout=GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
    at = "\n".join(err.splitlines()[-20:])
    assert process.returncode == 0, f"status {process.returncode}\n{out}\n{at}"
    assert out.endswith(", 0 faults\n"), out


@pytest.mark.parametrize("killed", [False, True], ids=["", "killed"])
def test_savers_and_loaders_of_one_path(killed, seed, start, tmp_path):
    """A reader gets one saver's model, whole; a saver that is not killed leaves no other file."""
    rng, kills = random.Random(seed), 0
    seconds = (35 if killed else 15) * SCALE
    path = tmp_path / "model"
    end_of(start("runs.py", "save", path, 0, 0), 0)
    end = time.monotonic() + seconds
    loaders = [start("runs.py", "load", path, seconds) for _ in range(2)]
    savers = [start("runs.py", "save", path, seconds, n) for n in (1000, 2000)]
    while killed and time.monotonic() < end:
        number = rng.randrange(2)
        kills += killed_within(savers[number], rng.uniform(0, 0.5))[1]
        rest = max(end - time.monotonic(), 0)
        savers[number] = start("runs.py", "save", path, rest, 3000 + 1000 * kills)
    for process in loaders + savers:
        end_of(process, seconds)
    fastbptt.load(path)
    left = [file.name for file in tmp_path.iterdir() if file != path]
    assert len(left) <= kills, f"{left} after {kills} kills"
    assert kills or not killed


def test_soak(seed, start, tmp_path):
    """Neither memory nor threads nor open files grow."""
    seconds = 300 * SCALE
    out = end_of(start("runs.py", "soak", tmp_path, seconds, seed), seconds)
    print(out)
    assert out.endswith("done\n")
