"""A history as it is shown."""

import pytest

from fastbptt import History


def test_all_of_a_short_one():
    history = History([1.25, 0.5, 0.25], [2.0, 1e-7, 12345.678], [0.01, 0.125, 10.0], 2, "early")
    assert str(history) == repr(history) == (
        "early after 3 epochs\n"
        "epoch        loss  validation     seconds\n"
        "    1        1.25           2        0.01\n"
        "    2         0.5       1e-07       0.125  best\n"
        "    3        0.25   1.235e+04          10"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("epochs", "best", "shown"),
    [
        (1, None, "1"),
        (6, None, "1 2 3 4 5 6"),
        (7, None, "1 2 3 … 5 6 7"),
        (100, None, "1 2 3 … 98 99 100"),
        (100, 50, "1 2 3 … 50 … 98 99 100"),
        (100, 4, "1 2 3 4 … 98 99 100"),
        (100, 100, "1 2 3 … 98 99 100"),
    ],
)
def test_a_long_one_is_cut_short(epochs, best, shown):
    numbers = [epoch / 8 for epoch in range(1, epochs + 1)]
    first, head, *rows = repr(History(numbers, [], numbers, best)).splitlines()
    assert first == f"finished after {epochs} epoch{'s' if epochs > 1 else ''}"
    assert head.split() == ["epoch", "loss", "seconds"]
    assert " ".join(row.split()[0] for row in rows) == shown
    for row in rows:
        epoch, *values = row.split()
        if epoch != "…":
            n = int(epoch)
            assert values == [f"{n / 8:.4g}"] * 2 + ["best"] * (n == best)


def test_one_without_an_epoch():
    assert repr(History(stopped="interrupted")) == "interrupted after 0 epochs"
