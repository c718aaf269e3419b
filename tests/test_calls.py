"""The declaration of a kernel call: its order is kept where it counts, and its memory suffices."""

# pyright: reportAttributeAccessIssue=false, reportOptionalIterable=false
# (Numba's types and NumPy's records have attributes that no declaration names)

import ast
import inspect

import numba
import numpy as np
import pytest
from numba.core.registry import cpu_target
from test_threads import READOUTS, SHAPES, draw, draw_readout, train, train_readout, using

from fastbptt.kernels import _drivers
from fastbptt.kernels._blocking import plan_backward, plan_forward
from fastbptt.kernels._calls import (
    BackwardCall,
    BackwardTask,
    CellBackwardCall,
    CellBackwardTask,
    CellForwardCall,
    CellForwardTask,
    ForwardCall,
    ForwardTask,
    numba_type,
    words,
)


@pytest.mark.parametrize(
    ("function", "calls"),
    [
        (_drivers._run_forward, [ForwardCall, CellForwardCall]),
        (_drivers._run_backward, [BackwardCall, CellBackwardCall]),
    ],
)
def test_entry_points_are_given_the_fields_in_their_order(function, calls):
    """A tuple stands there for the sake of speed: its variables have the names of the fields."""
    tree = ast.parse(inspect.getsource(function))
    found = [
        node.args[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "run"
    ]
    for given, call in zip(found, calls, strict=True):
        assert isinstance(given, ast.Tuple)
        assert tuple(ast.unparse(name) for name in given.elts) == call._fields


@pytest.mark.parametrize("dtype", [np.dtype("f4"), np.dtype("f8")], ids=str)
@pytest.mark.parametrize("task", [ForwardTask, BackwardTask, CellForwardTask, CellBackwardTask])
def test_a_task_fits_its_words(task, dtype):
    plan = plan_forward(1, 1, 1, 1, 4, 1)
    kind = numba_type(task, numba.from_dtype(dtype), numba.typeof(plan).dtype)
    context = cpu_target.target_context
    assert kind.fields == task._fields
    assert context.get_abi_sizeof(context.get_value_type(kind)) <= 8 * words(task)


@pytest.mark.parametrize("itemsize", [4, 8])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_regions_lie_side_by_side_on_cache_lines(shape, itemsize):
    T, B, I, H = shape
    for plan in (
        plan_forward(B, I, H, H, itemsize, 3),
        plan_forward(B, I, H, H, itemsize, 3, True, True),
        plan_backward(T, B, I, H, H, itemsize, False, 3, True),
        plan_backward(T, B, I, H, H, itemsize, False, 3, True, True),
    ):
        names = [name for name in plan.dtype.names if name.endswith("_at")]
        begins = [int(plan[name][0]) for name in names]
        assert begins == sorted(begins)
        assert not any(begin % 64 for begin in begins)
        assert begins[0] == 0
        assert begins[-1] < plan["total"][0]


@pytest.mark.parametrize("threads", [1, 2])
def test_nothing_beyond_the_workspace_is_written(threads, monkeypatch):
    """Nor in front of it, wherever it begins."""
    seen = []

    def workspace(total):
        whole = np.full(total + 256, 0xA5, np.uint8)
        seen.append((whole, 65 + len(seen) % 63, total))
        begin = seen[-1][1]
        return whole[begin : begin + total]

    monkeypatch.setattr(_drivers, "_take_workspace", workspace)
    with using(threads):
        for shape in SHAPES:
            train(*draw(shape))
            train(*draw(shape, "float64", some=True))
        for shape in READOUTS:
            train_readout(*draw_readout(shape))
    assert len(seen) == 4 * len(SHAPES) + 2 * len(READOUTS)
    for whole, begin, total in seen:
        assert (whole[:begin] == 0xA5).all()
        assert (whole[begin + total :] == 0xA5).all()


def test_a_workspace_beyond_all_memory_is_said_to_be():
    with pytest.raises((MemoryError, OverflowError)):
        plan_backward(10**9, 10**9, 10**12, 10**12, 10**12, 8, False, 8, True)
