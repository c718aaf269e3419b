"""What the plots show, and that their lines can be told apart without colour."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from fastbptt import MissingExtraError, plots
from fastbptt.diagnostics import GradientFlow
from fastbptt.training import History

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")
pyplot = pytest.importorskip("matplotlib.pyplot")

HISTORY = SimpleNamespace(loss=[3.0, 0.2, 0.01], validation_loss=[4.0, 0.5, 0.3])
FLOW = GradientFlow(
    np.array([-400.0, -200.0, 0.5]), np.array([[-500.0, -450, -300], [-250, -220, -150], [0, 0, 0]])
)
SERIES = np.sin(np.arange(30.0)), np.cos(np.arange(30.0))
PLOTS = pytest.mark.parametrize(
    ("plot", "data"),
    [
        (plots.plot_history, (HISTORY,)),
        (plots.plot_gradient_flow, (FLOW,)),
        (plots.plot_forecast, SERIES),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    pyplot.close("all")


def lines(ax):
    """Lines by their label."""
    return {line.get_label(): line for line in ax.get_lines() if line.get_label()[0] != "_"}


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def tick_labels(axis):
    axis.figure.canvas.draw()
    low, high = sorted(axis.get_view_interval())
    shown = zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=True)
    return [label.get_text() for at, label in shown if low <= at <= high]


def brightness(color):
    return np.dot(matplotlib.colors.to_rgb(color), (0.299, 0.587, 0.114))


# What holds for each


@PLOTS
def test_returns_the_axes_of_a_new_figure(plot, data):
    ax, other = plot(*data), plot(*data)
    assert isinstance(ax, matplotlib.axes.Axes)
    assert ax.figure is not other.figure
    assert pyplot.gcf() is other.figure
    other.figure.canvas.draw()  # warnings are errors


@PLOTS
def test_draws_into_the_axes_given(plot, data, monkeypatch):
    figure = matplotlib.figure.Figure()
    _, ax = figure.subplots(1, 2)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # is not needed then
    assert plot(*data, ax) is ax
    assert plot(*data, ax=ax) is ax
    assert not figure.axes[0].has_data()
    assert not pyplot.get_fignums()
    figure.canvas.draw()


@PLOTS
def test_has_labels_and_a_legend(plot, data):
    ax = plot(*data)
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    assert len(lines(ax)) == 2
    assert set(lines(ax)) <= set(legend(ax))


@PLOTS
def test_lines_are_told_apart_without_colour(plot, data):
    one, other = lines(plot(*data)).values()
    widths = sorted((one.get_linewidth(), other.get_linewidth()))
    assert widths[1] >= 1.5 * widths[0]
    assert one.get_linestyle() != other.get_linestyle() or widths[1] >= 3 * widths[0]
    assert abs(brightness(one.get_color()) - brightness(other.get_color())) > 0.3


@PLOTS
def test_without_matplotlib(plot, data, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match="matplotlib") as caught:
        plot(*data)
    assert "pip install matplotlib" in str(caught.value)
    assert caught.value.name == "matplotlib"


# The history


def test_history():
    ax = plots.plot_history(HISTORY)
    for label, expected in (("training", HISTORY.loss), ("validation", HISTORY.validation_loss)):
        np.testing.assert_array_equal(lines(ax)[label].get_xdata(), [1, 2, 3])
        np.testing.assert_array_equal(lines(ax)[label].get_ydata(), expected)
    assert ax.get_yscale() == "log"
    assert ax.get_xlabel() == "epoch"
    assert set(tick_labels(ax.xaxis)) == {"0", "1", "2", "3"}


def test_history_without_validation():
    ax = plots.plot_history(SimpleNamespace(loss=[3.0, 2.0], validation_loss=[]))
    assert legend(ax) == ["training"]


@pytest.mark.parametrize(("loss", "validation"), [([1, 0], []), ([1, 2], [3, -1])])
def test_history_that_is_not_positive_throughout(loss, validation):
    ax = plots.plot_history(SimpleNamespace(loss=loss, validation_loss=validation))
    assert ax.get_yscale() == "linear"
    ax.figure.canvas.draw()


def test_history_of_one_epoch():
    ax = plots.plot_history(SimpleNamespace(loss=[3.0], validation_loss=[2.0]))
    assert all(line.get_marker() == "o" for line in lines(ax).values())
    assert tick_labels(ax.xaxis) == ["0", "1"]


@pytest.mark.parametrize("best", [1, 2, 3])
@pytest.mark.parametrize("validation", [[], [4.0, 0.5, 0.7]])
def test_history_marks_the_best_epoch(best, validation):
    history = History(loss=[3.0, 0.2, 0.1], validation_loss=validation, best_epoch=best)
    ax = plots.plot_history(history)
    point = lines(ax)[f"best epoch: {best}"]
    assert point.get_marker() == "o"
    np.testing.assert_array_equal(point.get_xdata(), [best])
    np.testing.assert_array_equal(point.get_ydata(), [(validation or history.loss)[best - 1]])
    assert legend(ax)[-1] == point.get_label()
    ax.figure.canvas.draw()


def test_history_without_a_best_epoch_marks_none():
    assert legend(plots.plot_history(History(loss=[3.0, 2.0]))) == ["training"]


def test_history_that_stopped_before_its_first_epoch_was_over():
    ax = plots.plot_history(SimpleNamespace(loss=[], validation_loss=[]))
    assert legend(ax) == ["training"]
    ax.figure.canvas.draw()


# The gradient's way back


def test_gradient_flow():
    ax = plots.plot_gradient_flow(FLOW)
    (gradient, jacobian) = (
        next(line for label, line in lines(ax).items() if str(label).startswith(name))
        for name in ("gradient", "Jacobian")
    )
    for line, expected in ((gradient, [-400, -200, 0.5]), (jacobian, [-450, -220, 0])):
        np.testing.assert_array_equal(line.get_xdata(), [0, 1, 2])
        np.testing.assert_array_equal(line.get_ydata(), expected)
    [band] = ax.collections
    corners = {tuple(corner) for corner in np.asarray(band.get_paths()[0].vertices)}
    assert corners == {(0, -500), (0, -300), (1, -250), (1, -150), (2, 0)}
    assert legend(ax) == [
        gradient.get_label(), jacobian.get_label(), "Jacobian, smallest to largest"
    ]  # fmt: skip
    assert set(tick_labels(ax.xaxis)) == {"0", "1", "2"}


def test_gradient_flow_has_powers_of_ten_at_the_ticks():
    ax = plots.plot_gradient_flow(FLOW)
    labels = tick_labels(ax.yaxis)
    assert "$10^{0}$" in labels
    assert "$10^{-400}$" in labels


def test_gradient_flow_that_is_flat_has_ticks_all_the_same():
    ax = plots.plot_gradient_flow(GradientFlow(np.zeros(5), np.zeros((5, 2))))
    assert {"$10^{-1}$", "$10^{0}$", "$10^{1}$"} <= set(tick_labels(ax.yaxis))


def test_gradient_flow_marks_1():
    ax = plots.plot_gradient_flow(FLOW)
    unlabelled = [line for line in ax.get_lines() if line not in lines(ax).values()]
    [line] = unlabelled
    np.testing.assert_array_equal(line.get_ydata(), [0, 0])
    assert line.get_linestyle() == ":"
    low, high = ax.get_ylim()
    assert low < 0 < high


def test_gradient_flow_that_is_zero_or_nan_in_places():
    jacobian = FLOW.log10_jacobian.copy()
    jacobian[0, 0], jacobian[1, 1] = -np.inf, np.nan
    ax = plots.plot_gradient_flow(GradientFlow(np.array([-np.inf, 0, 0]), jacobian))
    ax.figure.canvas.draw()
    assert np.isfinite(ax.get_ylim()).all()


def test_gradient_flow_of_an_empty_batch():
    flow = GradientFlow(np.full(3, -np.inf), np.zeros((3, 0)))
    with pytest.raises(ValueError, match="flow is that of an empty batch"):
        plots.plot_gradient_flow(flow)
    assert not pyplot.get_fignums()


# The forecast


@pytest.mark.parametrize("x", [None, 1900 + np.arange(30.0), list(range(5, 35))])
def test_forecast(x):
    truth, forecast = SERIES
    ax = plots.plot_forecast(list(truth), forecast, x=x)
    assert legend(ax) == ["truth", "forecast"]
    at = np.arange(30) if x is None else x
    for label, expected in (("truth", truth), ("forecast", forecast)):
        np.testing.assert_array_equal(lines(ax)[label].get_xdata(), at)
        np.testing.assert_array_equal(lines(ax)[label].get_ydata(), expected)
    assert ax.get_xlim() == (at[0], at[-1])


def test_forecast_lies_thin_and_dark_on_a_wide_and_light_truth():
    below, above = plots.plot_forecast(*SERIES).get_lines()
    assert (below.get_label(), above.get_label()) == ("truth", "forecast")
    assert below.get_zorder() == above.get_zorder()  # then the later one is on top
    assert below.get_linewidth() > 3 * above.get_linewidth()
    assert brightness(below.get_color()) > 0.6
    assert brightness(above.get_color()) < 0.25


@pytest.mark.parametrize(
    ("truth", "forecast", "x", "words"),
    [
        (np.ones((3, 1)), np.ones(3), None, r"truth has shape \(3, 1\), expected \(T,\)"),
        (np.ones(3), np.ones(4), None, r"forecast has shape \(4,\), expected \(3,\)"),
        (np.ones(3), np.ones(3), [1, 2], r"x has shape \(2,\), expected \(3,\)"),
    ],
)
def test_forecast_of_another_shape(truth, forecast, x, words):
    with pytest.raises(ValueError, match=words):
        plots.plot_forecast(truth, forecast, x=x)
    assert not pyplot.get_fignums()
