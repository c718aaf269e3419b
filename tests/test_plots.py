"""What the plots show, and that their lines can be told apart without colour."""

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fastbptt import MissingExtraError, plots
from fastbptt.diagnostics import FixedPoints, GradientFlow
from fastbptt.training import History

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")
pyplot = pytest.importorskip("matplotlib.pyplot")

HISTORY = SimpleNamespace(loss=[3.0, 0.2, 0.01], validation_loss=[4.0, 0.5, 0.3])
FLOW = GradientFlow(
    np.array([-400.0, -200.0, 0.5]), np.array([[-500.0, -450, -300], [-250, -220, -150], [0, 0, 0]])
)
SERIES = np.sin(np.arange(30.0)), np.cos(np.arange(30.0))
COHERENCES = np.repeat([-20.0, -5, 5, 20], 40)
CHOSEN = np.random.default_rng(0).random(160) < 1 / (1 + np.exp(-COHERENCES / 5))
WAYS = np.random.default_rng(1).standard_normal((3, 20, 4)).cumsum(axis=1)
SIGNED = np.array([[0.0, -1, -3], [2, 1, 0], [-1, 0.5, 0]])  # inhibitory, excitatory, both
PLOTS = pytest.mark.parametrize(
    ("plot", "data"),
    [
        (plots.plot_history, (HISTORY,)),
        (plots.plot_gradient_flow, (FLOW,)),
        (plots.plot_forecast, SERIES),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)

ALL_PLOTS = pytest.mark.parametrize(
    ("plot", "data"),
    [
        *PLOTS.args[1],
        (plots.plot_psychometric, (COHERENCES, CHOSEN)),
        (plots.plot_trajectories, (WAYS, None)),
        (plots.plot_weights, (SIGNED,)),
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


def data(line) -> Any:
    """x and y of a line, (2, n)."""
    return np.asarray(line.get_data())


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


@ALL_PLOTS
def test_returns_the_axes_of_a_new_figure(plot, data):
    ax, other = plot(*data), plot(*data)
    assert isinstance(ax, matplotlib.axes.Axes)
    assert ax.figure is not other.figure
    assert pyplot.gcf() is other.figure
    other.figure.canvas.draw()  # warnings are errors


@ALL_PLOTS
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


@ALL_PLOTS
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


# Choices


def test_psychometric():
    ax = plots.plot_psychometric(COHERENCES, CHOSEN, label="network")
    container: Any = ax.containers[0]
    points, _, [bars] = container.lines
    np.testing.assert_array_equal(points.get_xdata(), [-20, -5, 5, 20])
    shares = CHOSEN.reshape(4, 40).mean(axis=1)
    np.testing.assert_allclose(points.get_ydata(), shares)
    for share, segment in zip(shares, bars.get_segments(), strict=True):
        for end in segment[:, 1]:  # of Wilson's interval: 1.96 standard errors of itself away
            error = 1.96 * np.sqrt(end * (1 - end) / 40)
            assert abs(end - share) == pytest.approx(error, abs=1e-12)
    assert legend(ax) == ["logistic fit", "network"]
    assert tick_labels(ax.yaxis)[0] == "0.0"


def test_psychometric_fit_is_the_likeliest():
    """No other intercept and slope is likelier, counts with half a choice of each kind added."""
    k = CHOSEN.reshape(4, 40).sum(axis=1) + 0.5
    x = np.array([-20.0, -5, 5, 20])
    line = lines(plots.plot_psychometric(COHERENCES, CHOSEN))["logistic fit"]
    at, p = data(line)
    z = np.log(p / (1 - p))
    slope, bias = np.polyfit(at, z, 1)
    np.testing.assert_allclose(z, bias + slope * at, atol=1e-8)

    def likelihood(bias, slope):
        p = 1 / (1 + np.exp(-bias - slope * x))
        return (k * np.log(p) + (41 - k) * np.log(1 - p)).sum()

    best = likelihood(bias, slope)
    for d in (-1e-2, 1e-2):
        assert likelihood(bias + d, slope) < best
        assert likelihood(bias, slope + d / 10) < best


@pytest.mark.parametrize("chosen", [COHERENCES > 0, COHERENCES < 0, COHERENCES < 99])
@pytest.mark.parametrize("scale", [1e-3, 1, 1e3])
def test_psychometric_of_choices_that_are_all_alike(chosen, scale):
    ax = plots.plot_psychometric(scale * COHERENCES, chosen)
    _, y = data(lines(ax)["logistic fit"])
    assert ((y > 0) & (y < 1)).all()
    ax.figure.canvas.draw()


def test_psychometric_of_one_strength():
    ax = plots.plot_psychometric([0.0, 0, 0, 0], [True, False, False, False])
    np.testing.assert_allclose(data(lines(ax)["logistic fit"])[1], 1.5 / 5, atol=1e-9)
    ax.figure.canvas.draw()


@pytest.mark.parametrize(
    ("strength", "chosen", "words"),
    [
        ([], [], r"strength has shape \(0,\), expected \(N,\)"),
        ([[1.0]], [True], r"strength has shape \(1, 1\)"),
        ([1.0], [True, False], r"chosen has shape \(2,\), expected \(1,\)"),
        ([np.nan], [True], "strength holds NaN or infinity"),
    ],
)
def test_psychometric_of_what_does_not_fit(strength, chosen, words):
    with pytest.raises(ValueError, match=words):
        plots.plot_psychometric(strength, chosen)
    assert not pyplot.get_fignums()


# Trajectories


def found_at(points, *eigenvalues):
    """Fixed points with one eigenvalue each."""
    n, D = points.shape
    spectrum = np.zeros((n, D), complex)
    spectrum[:, 0] = eigenvalues
    return FixedPoints(points, np.zeros(n), np.zeros((n, D, D)), spectrum)


def test_trajectories_lie_in_the_plane_of_largest_variance():
    """Along two directions known beforehand; distances in the plane are those of the states."""
    t = np.linspace(0, 2 * np.pi, 50)
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))[0]
    states = (5 * np.sin(t)[:, None] * Q[0] + 2 * np.cos(3 * t)[:, None] * Q[1] + 7 * Q[2])[None]
    ax = plots.plot_trajectories(states, found_at(7 * Q[2:3], 0.5))
    line, _, point = ax.get_lines()
    x, y = data(line)
    np.testing.assert_allclose(np.abs(x - np.mean(x)), np.abs(5 * (s := np.sin(t)) - 5 * s.mean()),
                               atol=1e-9)  # fmt: skip
    np.testing.assert_allclose(np.ptp(y), np.ptp(2 * np.cos(3 * t)), rtol=1e-9)
    mean = states[0].mean(axis=0)
    expected = np.hypot(*((mean - 7 * Q[2]) @ Q[:2].T))
    assert np.hypot(*data(point)[:, 0]) == pytest.approx(expected)
    shares = [np.var(5 * np.sin(t)), np.var(2 * np.cos(3 * t))]
    first = 100 * shares[0] / sum(shares)
    assert ax.get_xlabel() == f"component 1 ({first:.0f} % of the variance)"
    assert ax.get_ylabel() == f"component 2 ({100 - first:.0f} %)"


def test_stable_and_unstable_points_are_told_apart():
    found = found_at(WAYS[0, :3], 0.9, 1.1, 1.0)
    ax = plots.plot_trajectories(WAYS, found)
    by_label = lines(ax)
    assert set(by_label) == {"stable point", "unstable point", "marginal point"} == set(legend(ax))
    looks = {
        label: (line.get_marker(), line.get_markerfacecolor()) for label, line in by_label.items()
    }
    assert looks["stable point"] == ("o", "black")
    assert looks["unstable point"] == ("o", "white")
    assert looks["marginal point"][0] == "D"
    assert all(data(line).shape == (2, 1) for line in by_label.values())
    drawn = data(ax.get_lines()[0])  # the points are states of the first one
    for i, label in enumerate(("stable point", "unstable point", "marginal point")):
        np.testing.assert_allclose(data(by_label[label])[:, 0], drawn[:, i])


def test_trajectories_are_coloured_by_value():
    ax = plots.plot_trajectories(list(WAYS), values=[0.0, 10, 5])
    one, _, other, _, between, _ = (line.get_color() for line in ax.get_lines())
    assert brightness(one) < 0.25 < brightness(between) < 0.6 < brightness(other)
    assert legend(ax) == ["0", "10"]
    alike = plots.plot_trajectories(WAYS, values=[1, 1, 1]).get_lines()
    assert len({line.get_color() for line in alike}) == 1


def test_trajectories_of_unequal_length_begin_at_a_dot():
    ax = plots.plot_trajectories([WAYS[0], WAYS[1, :7], WAYS[2, :0]], found_at(WAYS[0, :0]))
    counts = [data(line).shape[1] for line in ax.get_lines()]
    assert counts == [20, 1, 7, 1, 0, 0]
    for line, dot in zip(ax.get_lines()[:4:2], ax.get_lines()[1:4:2], strict=True):
        np.testing.assert_array_equal(data(line)[:, :1], data(dot))
    assert ax.get_legend() is None
    ax.figure.canvas.draw()


@pytest.mark.parametrize(
    ("states", "options", "words"),
    [
        (np.ones((3, 4)), {}, r"states holds \[\(4,\), .*\(N, T, D\) or \(T_i, D\)"),
        (np.ones((3, 4, 1)), {}, "D at least 2"),
        ([], {}, r"states holds \[\], expected"),
        (np.ones((3, 0, 2)), {}, "states holds no state"),
        (WAYS, {"fixed_points": found_at(np.ones((1, 3)), 1)}, "has 3 units, expected 4"),
        (WAYS, {"values": [1, 2]}, r"values has shape \(2,\), expected \(3,\)"),
    ],
)
def test_trajectories_of_what_does_not_fit(states, options, words):
    with pytest.raises(ValueError, match=words):
        plots.plot_trajectories(states, **options)
    assert not pyplot.get_fignums()


# Weights


def test_weights_are_sorted_by_sign():
    ax = plots.plot_weights(SIGNED)
    [image] = ax.get_images()
    order = [1, 2, 0]
    np.testing.assert_array_equal(image.get_array(), SIGNED[np.ix_(order, order)])
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["1 excitatory", "1 of both signs", "1 inhibitory"]
    np.testing.assert_array_equal(ax.get_yticks(), [0, 1, 2])
    borders = {data(line)[1, 0] for line in ax.get_lines()} - {0, 1}
    assert borders == {0.5, 1.5}
    low, high = image.get_clim()
    assert low == -high


def test_stronger_units_come_first_and_signs_differ_in_brightness():
    W = np.array([[0.0, 1], [2, 0]])
    [image] = plots.plot_weights(W).get_images()
    np.testing.assert_array_equal(image.get_array(), [[0, 2], [1, 0]])
    negative, none, positive = (image.cmap(share)[:3] for share in (0.0, 0.5, 1.0))
    assert brightness(negative) < 0.25 < 0.6 < brightness(positive) < 0.8 < brightness(none)


def test_weights_that_are_all_0():
    ax = plots.plot_weights(np.zeros((2, 2)))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["2 excitatory"]
    ax.figure.canvas.draw()


@pytest.mark.parametrize(
    ("W_h", "words"),
    [
        (np.ones((2, 3)), r"W_h has shape \(2, 3\), expected \(H, H\)"),
        (np.ones((0, 0)), "with H at least 1"),
        (np.full((2, 2), np.nan), "W_h holds NaN or infinity"),
    ],
)
def test_weights_of_what_does_not_fit(W_h, words):
    with pytest.raises(ValueError, match=words):
        plots.plot_weights(W_h)
    assert not pyplot.get_fignums()
