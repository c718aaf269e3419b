"""Threads: the same bits whatever their number and whoever starts them, and nothing left behind."""

# pyright: reportAttributeAccessIssue=false
# (Numba's configuration are attributes that no declaration names)

import contextlib
import ctypes
import hashlib
import importlib
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import tracemalloc
import weakref
from pathlib import Path
from typing import Any

import numba
import numba.core.config
import numpy as np
import pytest

import fastbptt
from fastbptt import Params
from fastbptt.kernels import _drivers, _threads
from fastbptt.kernels._simd import float_modes, pointer, set_float_modes
from fastbptt.kernels._waiting import wait_for_late_workers

# Work for several threads, T B H (I + H) >= 200,000: many steps, many sequences, both with edges;
# fewer rows than a tile has; a wide layer; two groups of sequences with sums of their own, fewer
# than there may be threads; sums too large for that.
SHAPES = [(40, 37, 5, 33), (9, 301, 17, 48), (120, 4, 30, 61), (3, 33, 40, 200), (30, 18, 7, 40),
          (2, 64, 9, 420)]  # fmt: skip
# Of readouts, N H O >= 200,000: many rows, with an edge; one output; fewer rows than a tile has.
READOUTS = [(1563, 33, 48), (5001, 64, 1), (3, 300, 513)]
LENGTHS = pytest.mark.parametrize("some", [False, True], ids=["", "lengths"])


def draw(shape, dtype="float32", some=False):
    """Arguments of forward, the gradient of the states, and the options of both calls."""
    T, B, I, H = shape
    rng = np.random.default_rng(0)
    params = fastbptt.init_params(I, H, dtype=dtype, seed=0)
    x, dh = (rng.standard_normal((T, B, n)).astype(dtype) for n in (I, H))
    options: dict[str, Any] = {"lengths": rng.integers(0, T + 1, B)} if some else {}
    return params, x, dh, options


def train(params, x, dh, options):
    """One forward and one backward: all results in one list."""
    h = fastbptt.forward(params, x, **options)
    dparams, dx, dh0 = fastbptt.backward(params, x, h, dh, **options)
    return [h, *dparams, dx, dh0]


def draw_readout(shape, dtype="float32"):
    """W_y, b_y, h and dy."""
    N, H, O = shape
    rng = np.random.default_rng(0)
    return [rng.standard_normal(s).astype(dtype) for s in ((H, O), (O,), (N, H), (N, O))]


def train_readout(W_y, b_y, h, dy):
    """One readout and its gradients: all results in one list."""
    return [fastbptt.readout(W_y, b_y, h), *fastbptt.readout_backward(W_y, h, dy)]


def digest(results):
    return hashlib.sha256(b"".join(a.tobytes() for a in results)).hexdigest()


def digests(shapes=SHAPES):
    """Of the float32 results for every shape, without and with lengths, in this thread."""
    return [digest(train(*draw(shape, some=some))) for shape in shapes for some in (False, True)]


def readout_digests():
    """Of the float32 results of every readout."""
    return [digest(train_readout(*draw_readout(shape))) for shape in READOUTS]


@contextlib.contextmanager
def using(threads):
    """Numba's setting for this thread, for a while."""
    if threads > numba.core.config.NUMBA_NUM_THREADS:
        pytest.skip("one core")
    before = numba.get_num_threads()
    numba.set_num_threads(threads)
    try:
        yield
    finally:
        numba.set_num_threads(before)


def always_launch(setattr=setattr):
    """Calls do not wait until other programs leave the cores: which ones would is up to timing.

    Nor do they follow PyTorch's number of threads, which other tests may have set.
    """
    setattr(_threads.Experience, "advises_one_thread", lambda self: False)
    setattr(_threads, "limit", None)


@pytest.fixture
def launches(monkeypatch):
    """With how many threads each parallel loop was launched."""
    always_launch(monkeypatch.setattr)
    found = []

    def launch(function, task, threads):
        found.append(threads)
        return original(function, task, threads)

    original = _threads.launch
    monkeypatch.setattr(_threads, "launch", launch)
    return found


def run(program, folder, *args, **environment):
    """What a program, which may import this file, prints as JSON in a process of its own."""
    path = folder / "program.py"  # a file: "spawn" needs one
    path.write_text(program)
    paths = os.pathsep.join(
        str(p) for p in (Path(__file__).parent, Path(fastbptt.__file__).parents[1])
    )
    done = subprocess.run(
        [sys.executable, path, *args],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# The same bits


@LENGTHS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_one_thread_and_two(shape, dtype, some, launches):
    case = draw(shape, dtype, some)
    with using(1):
        expected = digest(train(*case))
    assert launches == []
    with using(2):
        for _ in range(3):  # the threads share the work differently every time
            assert digest(train(*case)) == expected
    assert launches == [2] * 6


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", READOUTS, ids=str)
def test_readout_on_one_thread_and_two(shape, dtype, launches):
    case = draw_readout(shape, dtype)
    with using(1):
        expected = digest(train_readout(*case))
    assert launches == []
    with using(2):
        for _ in range(3):
            assert digest(train_readout(*case)) == expected
    assert launches == [2] * 6


def test_one_thread_to_four(tmp_path):
    program = """
import json, numba, test_threads
test_threads.always_launch()
found = []
for threads in (1, 2, 3, 4):
    numba.set_num_threads(threads)
    found.append(test_threads.digests() + test_threads.readout_digests())
    assert numba.get_num_threads() == threads
print(json.dumps(found))
"""
    found = run(program, tmp_path, NUMBA_NUM_THREADS="4")
    assert found == [digests() + readout_digests()] * 4


@LENGTHS
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_worker_may_do_all_the_work(shape, some, monkeypatch):
    """In whichever slot: only one of four gets a core here, and the others are never heard of."""
    case = draw(shape, some=some)
    with using(1):
        expected = digest(train(*case))
    always_launch(monkeypatch.setattr)
    monkeypatch.setattr(numba, "get_num_threads", lambda: 4)
    kind = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)
    for slot in range(4):

        def launch(function, task, threads, slot=slot):
            assert threads == 4
            kind(function)(task, slot)

        monkeypatch.setattr(_threads, "launch", launch)
        assert digest(train(*case)) == expected


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_stays(threads):
    with using(threads):
        train(*draw(SHAPES[0]))
        assert numba.get_num_threads() == threads
    with using(threads), pytest.raises(ValueError, match="lengths"):
        fastbptt.forward(*draw(SHAPES[0])[:2], lengths=[99])
    claim = _threads.Claim(("test",), 1, _threads.SHORT)
    assert claim.threads == numba.get_num_threads()  # nobody is left who launches


# Whoever calls


@pytest.mark.parametrize("layer", ["workqueue", "omp"])
def test_eight_python_threads_at_once(layer, tmp_path):
    """From the first call on, which loads the kernels; one at a time launches, others go alone."""
    program = """
import importlib, json, sys, threading
import numba, test_threads

try:
    importlib.import_module("numba.np.ufunc." + sys.argv[1])
except ImportError:
    print(json.dumps("missing"))
    sys.exit()
shapes = test_threads.SHAPES[:2]
start, found = threading.Barrier(8), []
test_threads.always_launch()

def work():
    start.wait()
    for _ in range(6):
        found.append(test_threads.digests(shapes))

threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
distinct = [list(d) for d in {tuple(d) for d in found}]
print(json.dumps([len(found), distinct, numba.threading_layer()]))
"""
    module = {"omp": "omppool", "workqueue": "workqueue"}[layer]
    found = run(program, tmp_path, module, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="2")
    if found == "missing":
        pytest.skip(f"Numba has no {layer} here")
    assert found == [8 * 6, [digests(SHAPES[:2])], layer]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_process(method, tmp_path):
    """After the parent has launched threads, while another of its threads goes on to do so."""
    program = """
import json, multiprocessing, sys, threading
import numba
import test_threads

def child(pipe):
    digests = test_threads.digests(test_threads.SHAPES[:2])
    pipe.send([digests, test_threads.subnormals_survive()])
    pipe.close()

def keep_busy():
    while not done.is_set():
        test_threads.digests(test_threads.SHAPES[:1])

test_threads.always_launch()
if __name__ == "__main__":
    test_threads.digests(test_threads.SHAPES[:1])
    done = threading.Event()
    busy = threading.Thread(target=keep_busy)
    busy.start()
    context = multiprocessing.get_context(sys.argv[1])
    ends = [context.Pipe(duplex=False) for _ in range(2)]
    children = [context.Process(target=child, args=(send,), daemon=True) for _, send in ends]
    for process in children:
        process.start()
    found = [receive.recv() if receive.poll(30) else None for receive, _ in ends]
    for process in children:
        process.join(10)
    done.set()
    busy.join()
    after = test_threads.digests(test_threads.SHAPES[:2])
    print(json.dumps([found, [p.exitcode for p in children], after]))
"""
    if method == "fork" and not hasattr(os, "fork"):
        pytest.skip("no fork here")
    found = run(program, tmp_path, method, NUMBA_NUM_THREADS="2")
    expected = digests(SHAPES[:2])
    assert found == [[[expected, True]] * 2, [0] * 2, expected]


# Calls in the middle of a call


@contextlib.contextmanager
def handling(handler):
    """SIGUSR1 calls a function for a while."""
    before = signal.signal(signal.SIGUSR1, lambda number, frame: handler())
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def halves(case):
    """forward and backward of a case, each as a function of no arguments that returns a list."""
    params, x, dh, options = case
    h = fastbptt.forward(params, x, **options)

    def backward():
        dparams, dx, dh0 = fastbptt.backward(params, x, h, dh, **options)
        return [*dparams, dx, dh0]

    return {"forward": lambda: [fastbptt.forward(params, x, **options)], "backward": backward}


@pytest.fixture
def keeping(monkeypatch):
    """Workspaces are kept from call to call, as where no test forbids it."""
    monkeypatch.setattr(_drivers, "KEPT", 32 << 20)
    monkeypatch.setattr(_drivers, "_kept", threading.local())
    always_launch(monkeypatch.setattr)


posix = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signals")


@posix
@pytest.mark.parametrize("inner", ["forward", "backward"])
@pytest.mark.parametrize("outer", ["forward", "backward"])
def test_a_signal_handler_that_calls(outer, inner, keeping, monkeypatch):
    """Between the task's being written and its being launched: it is still there afterwards."""
    outside, inside = halves(draw(SHAPES[0]))[outer], halves(draw(SHAPES[4]))[inner]
    expected, found = (digest(outside()), digest(inside())), []
    original = _threads.launch

    def launch(function, task, threads):
        monkeypatch.setattr(_threads, "launch", original)
        signal.raise_signal(signal.SIGUSR1)
        return original(function, task, threads)

    with using(2):
        for _ in range(2):
            digest(outside())  # leaves a workspace large enough for either
            monkeypatch.setattr(_threads, "launch", launch)
            with handling(lambda: found.append(digest(inside()))):
                found.append(digest(outside()))
    assert found == [expected[1], expected[0]] * 2


def interrupted_calls(call, at, act):
    """Call again and again, each time acting `at` instructions later; True once it came too late.

    `act` runs in a trace function: like a signal handler's, its code comes between two
    instructions of the package's, and what it raises is raised there.
    """
    left = at

    def trace(frame, event, argument):
        nonlocal left
        if "fastbptt" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            left -= 1
            if left == 0:
                sys.settrace(None)
                act()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return left > 0


@pytest.mark.parametrize("name", ["forward", "backward"])
def test_a_call_between_any_two_instructions(name, keeping):
    call, inner = (halves(draw(SHAPES[i]))[name] for i in (0, 4))
    results, found = [], []
    with using(2):
        expected, inside = digest(call()), digest(inner())
        for at in range(1, 100_000, 3):
            late = interrupted_calls(
                lambda: results.append(digest(call())), at, lambda: found.append(digest(inner()))
            )
            if late:
                break
    assert set(results) == {expected}
    assert len(found) == len(results) - 1 > 50
    assert set(found) == {inside}


class Raised(Exception):
    pass


@pytest.mark.parametrize("name", ["forward", "backward"])
def test_an_exception_between_any_two_instructions(name, keeping, launches):
    """The next call has threads again, and the same bits."""
    call = halves(draw(SHAPES[0]))[name]

    def fail():
        raise Raised

    with using(2):
        expected = digest(call())
        for at in range(1, 100_000, 3):
            try:
                if interrupted_calls(call, at, fail):
                    break
            except Raised:
                launches.clear()
                assert digest(call()) == expected
                assert launches == [2]
    assert at > 150


@posix
def test_training_under_a_storm_of_signals(keeping):
    """A handler that calls predict, a millisecond after its last call, in the midst of fit."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((64, 40, 5)), rng.standard_normal(64)
    calls = []

    def train_model():
        model = fastbptt.RNN(5, 33, 1, seed=0)
        fastbptt.fit(model, x, y, epochs=15, progress=False, seed=0)
        return model.network.vector

    other = fastbptt.RNN(5, 40, 1, seed=1)
    expected, predicted = train_model(), other.predict(x)
    training = True

    def handler(number, frame):
        calls.append(other.predict(x).tobytes())
        if training:
            signal.setitimer(signal.ITIMER_REAL, 0.001)

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    try:
        found = train_model()
    finally:
        training = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    np.testing.assert_array_equal(found, expected)
    assert set(calls) == {predicted.tobytes()}


def test_who_comes_second_works_alone(launches, monkeypatch):
    """Whether that shows before the call plans for threads, or only when it is about to launch."""
    case = draw(SHAPES[0])
    expected = digest(train(*case))
    with using(2):
        launches.clear()
        _threads._claim.value = 1
        try:
            assert digest(train(*case)) == expected
        finally:
            _threads._claim.value = 0
        assert launches == []

        def launch(function, task, threads):
            _threads._claim.value = 1
            try:
                found = original(function, task, threads)
                assert not found
                assert _threads._claim.value == 1  # who did not set it does not clear it
                return found
            finally:
                _threads._claim.value = 0

        original = _threads.launch
        monkeypatch.setattr(_threads, "launch", launch)
        assert digest(train(*case)) == expected
        assert launches == [2, 2]


def test_a_threading_layer_that_is_missing(tmp_path):
    """Every call that wants threads says so, not the first one only."""
    program = """
import json, numba, fastbptt, test_threads
errors = []
case = test_threads.draw(test_threads.SHAPES[0])
for _ in range(3):
    try:
        test_threads.train(*case)
    except ValueError as error:
        errors.append(str(error))
print(json.dumps(errors))
"""
    with contextlib.suppress(ImportError):
        importlib.import_module("numba.np.ufunc.tbbpool")
        pytest.skip("Numba has tbb here")
    errors = run(program, tmp_path, NUMBA_THREADING_LAYER="tbb", NUMBA_NUM_THREADS="2")
    assert len(errors) == 3
    assert "threading layer" in errors[0]
    assert len(set(errors)) == 1


@numba.njit
def end(counters, threads):
    """What a worker does last."""
    wait_for_late_workers(pointer(counters), threads)  # pyright: ignore[reportCallIssue]


def test_a_thread_with_all_slots_waits_once():
    """As under tbb, where the others get no core: each wait costs a turn of all who want it."""
    ended = np.zeros(8, np.int64)
    end(ended, 8)
    assert ended[0] >= 8  # what the next ones would wait for
    for _ in range(7):
        end(ended, 8)


# Whether threads pay, with times made up


def simulate(times, calls, experience=None):
    """Seconds that calls take in all, as advised, alone and on threads; the share on threads.

    Seconds within a call and from it to the next are ``times(u, number, threads)``, with u uniform
    in [0, 1), the same for each of the three.
    """
    experience = _threads.Experience() if experience is None else experience
    total, together = [0.0, 0.0, 0.0], 0
    for number, u in enumerate(np.random.default_rng(0).random(calls).tolist()):
        threads = 1 if experience.advises_one_thread() else 2
        together += threads == 2
        for i, n in enumerate((threads, 1, 2)):
            total[i] += sum(times(u, number, n))
        experience.note(threads, 100, *times(u, number, threads))
    return *total, together / calls


def steady(alone, together):
    """Calls that always take the same."""
    return lambda u, number, threads: (alone if threads == 1 else together, 5e-5)


def at_times_slow(every, delay, both=False):
    """Of so many calls on threads, or of `both` kinds, one takes longer."""

    def times(u, number, threads):
        late = delay if u * every < 1 and (both or threads == 2) else 0.0
        return (1e-4 if threads == 1 else 6e-5) + late, 5e-5

    return times


@pytest.mark.parametrize(
    ("times", "lost"),
    [
        (steady(1e-4, 6e-5), 0.05),
        (steady(2e-5, 1.5e-5), 0.05),
        (steady(1e-2, 6e-3), 0.05),
        (steady(0.2, 0.1), 0.05),  # on a slow machine
        (at_times_slow(20_000, 4e-3), 0.1),  # rarely: they pay for it
        (at_times_slow(200, 4e-3, both=True), 0.5),  # others are busy, and one thread waits as well
    ],
    ids=["plain", "short", "long", "very long", "rarely slow", "all slow"],
)
def test_threads_that_pay(times, lost):
    """The share of what they save that is lost."""
    advised, alone, together, share = simulate(times, 20_000)
    assert advised <= together + lost * (alone - together)
    assert share > 1 - lost


@pytest.mark.parametrize(
    "times",
    [
        steady(1e-4, 2e-4),
        steady(1e-4, 8e-2),
        at_times_slow(50, 10e-3),  # faster than one thread all other times
        at_times_slow(50, 60e-3),
        # Faster within the call, and slower until the next one
        lambda u, number, threads: (1e-4, 5e-5) if threads == 1 else (8e-5, 12e-5),
        lambda u, number, threads: (1e-4, 4e-3 if threads == 2 and u < 0.03 else 5e-5),
    ],
    ids=["slower", "much slower", "at times", "at times much", "behind", "behind at times"],
)
def test_threads_that_do_not_pay(times):
    """A fiftieth of the time goes into trying, and some tries before the first one is paid back."""
    advised, alone, together, _ = simulate(times, 40_000)
    assert together > 1.1 * alone
    assert advised <= 1.03 * alone + 2 * max(sum(times(0.0, 0, 2)), _threads.Experience.CREDIT)


def test_threads_that_pay_later():
    """The machine is busy, then idle, then busy again: soon what was learned is no longer used."""
    busy, idle = at_times_slow(20, 10e-3), steady(1e-4, 6e-5)
    experience = _threads.Experience()
    for _ in range(2):
        advised, alone, *_ = simulate(busy, 20_000, experience)
        assert advised <= 1.05 * alone
        *_, share = simulate(idle, 20_000, experience)
        assert share >= 0.8


def test_pauses_between_calls_do_not_count():
    """As where a user calls now and then: what is learned is learned from the calls."""

    def times(within):
        return lambda u, number, threads: (within[threads - 1], 0.005 + u)

    assert simulate(times((1e-3, 6e-4)), 2000)[-1] >= 0.95
    assert simulate(times((1e-3, 2e-3)), 2000)[-1] <= 0.2


def test_a_machine_that_stood_still():
    """A call that took seconds decides for a second or so, not for good."""
    experience = _threads.Experience()
    simulate(steady(1e-4, 6e-5), 100, experience)
    experience.note(1, 100, 9.0, 1.0)
    advised, alone, *_ = simulate(steady(1e-4, 2e-4), 40_000, experience)
    assert advised <= alone + 1.2
    experience.note(2, 100, 9.0, 1.0)
    *_, share = simulate(steady(1e-4, 6e-5), 100_000, experience)
    assert share >= 0.5


def test_what_a_claim_notes(monkeypatch):
    """Seconds within each call, and to the next one's beginning, whatever its kind and thread."""
    now, noted = 100.0, []
    monkeypatch.setattr(_threads.time, "perf_counter", lambda: now)
    monkeypatch.setattr(_threads, "launch", lambda worker, task, threads: True)
    monkeypatch.setattr(_threads, "_latest", _threads._Latest())
    monkeypatch.setattr(_threads, "_experience", lambda kind: experiences[kind])

    class Experience(_threads.Experience):
        def note(self, threads, steps, inside, between):
            noted.append([kinds[self], threads, steps, inside, between])

    experiences = {kind: Experience() for kind in "ab"}
    kinds = {experience: kind for kind, experience in experiences.items()}

    def call(kind, steps, seconds, operations=1):
        nonlocal now
        claim = _threads.Claim(kind, steps, operations)
        now += seconds
        claim.use(0, 0)

    with using(2):
        call("a", 3, 2.0)
        now += 0.5
        call("b", 4, 1.0)
        experiences["a"].rests = True
        call("a", 5, 4.0)
        now += 0.25
        assert noted == [["a", 2, 3, 2.0, 0.5], ["b", 2, 4, 1.0, 0.0]]
        elsewhere = threading.Thread(target=call, args=("b", 6, 1.0))
        elsewhere.start()
        elsewhere.join()
        assert len(noted) == 2  # what this thread called before is not the other's business
        call("b", 7, 1.0, _threads.SHORT)  # too long to be timed
        assert noted[2:] == [["a", 1, 5, 4.0, 1.25]]
        call("a", 8, 1.0)
        assert len(noted) == 3


# What calls leave behind


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_affinity_that_another_thread_sets_stays_set(tmp_path):
    """In the midst of calls, whose threads are more than the cores."""
    program = """
import json, os, threading, time
import test_threads

test_threads.always_launch()
cores = sorted(os.sched_getaffinity(0))[:2]
case, done, thread_ids = test_threads.draw(test_threads.SHAPES[0]), threading.Event(), []

def call():
    thread_ids.append(threading.get_native_id())
    while not done.is_set():
        test_threads.train(*case)

test_threads.train(*case)
thread = threading.Thread(target=call)
thread.start()
while not thread_ids:
    time.sleep(0.001)
lost = 0
for number in range(3000):
    wanted = {cores[0]} if number % 2 else set(cores)
    os.sched_setaffinity(thread_ids[0], wanted)
    time.sleep(0.0003)
    lost += os.sched_getaffinity(thread_ids[0]) != wanted
done.set()
thread.join()
print(json.dumps([len(cores), lost]))
"""
    cores, lost = run(program, tmp_path, NUMBA_NUM_THREADS="4")
    if cores < 2:
        pytest.skip("one core")
    assert lost == 0


def subnormals_survive():
    """Whether arithmetic in this thread keeps subnormals: neither flushed nor taken for zero."""
    tiny = np.full(100, np.finfo(np.float32).tiny)
    half = tiny * np.float32(0.5)
    return bool((half > 0).all() and (half + half == tiny).all())


@pytest.mark.parametrize("threads", [1, 2])
def test_subnormals_in_workers_and_afterwards(threads, launches):
    T, B, H = 2, 301, 33
    rng = np.random.default_rng(0)
    x = (rng.integers(-(1 << 23), 1 << 23, (T, B, H)) * 2.0**-149).astype(np.float32)
    eye, zeros = np.eye(H, dtype=np.float32), np.zeros((H, H), np.float32)
    params = Params(eye, zeros, zeros[0])
    with using(threads):
        for activation in ("identity", "tanh"):
            h = fastbptt.forward(params, x, activation=activation)
            np.testing.assert_array_equal(h[1:], x)
            dx = fastbptt.backward(params, x, h, x, activation=activation).x
            np.testing.assert_array_equal(dx, x)
            assert subnormals_survive()
    assert len(launches) == (4 if threads == 2 else 0)


@numba.njit
def exchange_modes(modes):
    """Set this thread's floating-point modes; return those before."""
    before = float_modes()  # pyright: ignore[reportCallIssue]
    set_float_modes(modes)  # pyright: ignore[reportCallIssue]
    return before


# Flush results to zero, and take subnormal inputs for zero.
FLUSH = {"x86_64": 0x8040, "AMD64": 0x8040, "aarch64": 1 << 24, "arm64": 1 << 24}


@pytest.mark.skipif(platform.machine() not in FLUSH, reason="other modes")
def test_threads_have_the_modes_of_the_caller():
    """Those it has now, not those it had when they started: here it flushes subnormals to zero."""
    T, B, H = 2, 301, 33
    rng = np.random.default_rng(0)
    x = (rng.integers(-(1 << 24), 1 << 24, (T, B, H)) * 2.0**-149).astype(np.float32)
    eye, zeros = np.eye(H, dtype=np.float32), np.zeros((H, H), np.float32)
    params = Params(eye, zeros, zeros[0])

    def results():
        h = fastbptt.forward(params, x, activation="identity")
        dparams, dx, dh0 = fastbptt.backward(params, x, h, x, activation="identity")
        return [h, *dparams, dx, dh0]

    with using(1):
        kept = digest(results())
    with using(2):
        assert digest(results()) == kept
    modes = exchange_modes(0)
    exchange_modes(modes | FLUSH[platform.machine()])
    try:
        with using(1):
            flushed = digest(results())
        with using(2):
            found = {digest(results()) for _ in range(20)}
    finally:
        exchange_modes(modes)
    assert found == {flushed}
    assert flushed != kept
    with using(2):
        assert digest(results()) == kept
    assert subnormals_survive()


def test_the_rounding_mode_stays():
    with contextlib.suppress(OSError, AttributeError):
        mode = ctypes.CDLL(None).fegetround
        before = mode()
        train(*draw(SHAPES[0]))
        assert mode() == before


@LENGTHS
def test_memory(some):
    """Beside inputs and results a call takes 16 MiB and the packed weights at most."""
    params, x, dh, options = draw((200, 256, 64, 64), some=some)
    h = fastbptt.forward(params, x, **options)
    fastbptt.backward(params, x, h, dh, **options)
    allowed = (16 << 20) + 2 * sum(a.nbytes for a in params)
    tracemalloc.start()  # NumPy tells it what it allocates
    try:
        before = tracemalloc.get_traced_memory()[0]
        h = fastbptt.forward(params, x, **options)
        peak = tracemalloc.get_traced_memory()[1] - before
        assert h.nbytes <= peak <= h.nbytes + allowed

        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        dparams, dx, dh0 = fastbptt.backward(params, x, h, dh, **options)
        peak = tracemalloc.get_traced_memory()[1] - before
        results = sum(a.nbytes for a in (*dparams, dx, dh0) if a is not None)
        assert results <= peak <= results + allowed
    finally:
        tracemalloc.stop()


def test_a_workspace_that_is_kept(monkeypatch):
    """Whatever the last call has left in it, results are those from a new one."""
    shapes = [(9, 33, 5, 70), (40, 37, 5, 33), (2, 1, 1, 1), (9, 301, 17, 48)]
    drawn = [draw(shape) for shape in shapes]

    def results():
        for params, x, dh, _ in drawn:
            h = fastbptt.forward(params, x)
            dparams, dx, dh0 = fastbptt.backward(params, x, h, dh)
            yield from (h, *dparams, dx, dh0)

    expected = list(results())
    monkeypatch.setattr(_drivers, "KEPT", 32 << 20)
    monkeypatch.setattr(_drivers, "_kept", threading.local())
    for _ in range(2):
        for got, want in zip(results(), expected, strict=True):
            np.testing.assert_array_equal(got, want)
            if kept := vars(_drivers._kept):
                kept["work"].fill(255)  # as floats, NaN
    assert list(vars(_drivers._kept)) == ["work"]
    monkeypatch.setattr(_drivers, "KEPT", 1000)
    monkeypatch.setattr(_drivers, "_kept", threading.local())
    for got, want in zip(results(), expected, strict=True):
        np.testing.assert_array_equal(got, want)
    assert all(work.nbytes <= 1000 for work in vars(_drivers._kept).values())


def test_a_workspace_lives_until_the_threads_are_done(monkeypatch):
    """Also one too large to be kept: the task that threads read lies in it."""
    always_launch(monkeypatch.setattr)
    seen = []

    def workspace(total):
        work = np.empty(total, np.uint8)
        seen.append(weakref.ref(work))
        return work

    def launch(function, task, threads):
        work = seen[-1]()
        assert work is not None
        start = work.__array_interface__["data"][0]
        assert start <= task < start + work.nbytes
        return original(function, task, threads)

    original = _threads.launch
    monkeypatch.setattr(_drivers, "_take_workspace", workspace)
    monkeypatch.setattr(_threads, "launch", launch)
    with using(2):
        train(*draw(SHAPES[0]))
        train_readout(*draw_readout(READOUTS[0]))
    assert len(seen) == 4
