"""Figures of a report, each returned as the bytes of a PNG file.

Drawn with matplotlib's objects alone: no global figure state, no display, and the same bytes for
the same record. Every figure is at most 900 pixels wide and carries the study's warnings
("synthetic data", "random weights") inside the picture, so that they travel with it.
"""

from __future__ import annotations

import functools
import io
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Concatenate, ParamSpec, get_args

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FormatStrFormatter, MaxNLocator, NullLocator
from PIL import Image

from bench.records import Dataset, EpochScores, ModelRecord, Policy, StudyReport, TrialRecord
from bench.runtime.preprocess import PictureError, open_rgb
from bench.statistics.calibration import CONFIDENCE_BINS, with_temperature
from reports.findings import Example, labels_of, scored, tuned_parameters

P = ParamSpec("P")

WIDTH_IN = 9.0  # at 100 dots an inch: 900 pixels

# Okabe and Ito's palette (2008), which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
GREY, INK = "#8A8F98", "#22262B"

STYLE = {
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.facecolor": "white",
    "savefig.dpi": 100,
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    # A class may be called "$5": text is text, never a formula.
    "text.parse_math": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E7EB",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "xtick.color": INK,
    "ytick.color": INK,
}

NAME_CHARACTERS = 22
WARNING_CHARACTERS = 60
GALLERY_COLUMNS, GALLERY_ROWS = 4, 3
FILE_CHARACTERS = 38  # of a file's name in small letters below its picture
PARAMETER_COLUMNS = 3
MOST_TICKS = 5  # on a panel's axis of numbers
CHOICE_CHARACTERS = 36  # of names side by side below a panel; more are turned
SCALES = frozenset({"learning_rate", "weight_decay", "head_lr_factor"})  # read by factors
COUNTED_CLASSES = 30  # above it the cells of a confusion matrix are too small for numbers
NAMED_CLASSES = 60


def _png(
    draw: Callable[Concatenate[StudyReport, P], Figure],
) -> Callable[Concatenate[StudyReport, P], bytes]:
    """Turn a function that draws a figure into one that returns it as a PNG, in our style."""

    @functools.wraps(draw)
    def styled(report: StudyReport, /, *args: P.args, **kwargs: P.kwargs) -> bytes:
        # "default" first: a user's own matplotlibrc must not change the report.
        with matplotlib.style.context(["default", STYLE]), warnings.catch_warnings():
            # A class name in a script that the font lacks is drawn as boxes, and that is all.
            warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font")
            figure = draw(report, *args, **kwargs)
            labels = labels_of(report)
            if labels:
                warning = short(" · ".join(labels), WARNING_CHARACTERS)
                figure.suptitle(warning, x=0.99, ha="right", fontsize=8, color=VERMILION)
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()

    return styled


def short(name: str, characters: int = NAME_CHARACTERS) -> str:
    """A name on one line, cut in the middle: the ends are what tells long names apart."""
    line = " ".join(name.split())
    if len(line) <= characters:
        return line
    tail = (characters - 1) // 2
    return f"{line[: characters - 1 - tail]}…{line[-tail:]}"


# --- confusion ------------------------------------------------------------------------------


@_png
def confusion(report: StudyReport, model: ModelRecord) -> Figure:
    """Counts in the cells; the colour is the share of the true class."""
    from sklearn.metrics import ConfusionMatrixDisplay

    counts = np.asarray(model.test.confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [short(name) for name in report.dataset.classes]
    total = len(names)
    side_in = min(WIDTH_IN - 1.0, 2.8 + 0.42 * total)
    figure = Figure(figsize=(min(WIDTH_IN, side_in + 1.2), side_in))
    axes = figure.add_subplot()
    axes.grid(visible=False)
    display = ConfusionMatrixDisplay(shares, display_labels=names)
    display.plot(
        ax=axes,
        cmap="Blues",
        colorbar=False,
        include_values=total <= COUNTED_CLASSES,
        im_kw={"vmin": 0.0, "vmax": 1.0},
        text_kw={"fontsize": max(6, 11 - total // 5)},
    )
    if display.text_ is not None:
        for text, count, share in zip(display.text_.flat, counts.flat, shares.flat, strict=True):
            text.set_text(str(count) if count else "")
            text.set_color("white" if share > 0.5 else INK)
    _name_ticks(axes, total)
    axes.set(xlabel="predicted", ylabel="true", title=f"{short(model.name, 40)}, test pictures")
    bar = figure.colorbar(display.im_, ax=axes, shrink=0.7)
    bar.set_label("share of the true class")
    return figure


def _name_ticks(axes: Axes, total: int) -> None:
    if total > NAMED_CLASSES:
        axes.set(xticks=[], yticks=[])
        return
    size = 10 if total <= 12 else max(5, 10 - total // 10)
    axes.tick_params(labelsize=size)
    if total > 3:
        for label in axes.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")


# --- calibration ----------------------------------------------------------------------------


@_png
def reliability(report: StudyReport, model: ModelRecord) -> Figure:
    """How often the predicted class is right against its probability, before and after.

    The reliability diagram of the predicted class (DeGroot and Fienberg, 1983, "The comparison
    and evaluation of forecasters", The Statistician 32; as in Guo et al., 2017), over a histogram
    of the probabilities.
    """
    from sklearn.calibration import calibration_curve

    after_nk = np.asarray(model.predictions.probabilities, dtype=np.float64)
    right_n = after_nk.argmax(axis=1) == np.asarray(model.predictions.labels)
    before_nk = with_temperature(after_nk, 1.0 / model.temperature)
    figure = Figure(figsize=(WIDTH_IN * 0.55, 6.2))
    diagram, histogram = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    diagram.plot([0, 1], [0, 1], color=GREY, linewidth=1.0, label="as often right as it says")
    shown = [(f"after: temperature {model.temperature:.3f}", after_nk, BLUE, "o")]
    if model.temperature != 1.0:
        shown.insert(0, ("before", before_nk, ORANGE, "s"))
    for label, probabilities_nk, color, marker in shown:
        confidences_n = np.minimum(probabilities_nk.max(axis=1), 1.0)
        shares, means = calibration_curve(right_n, confidences_n, n_bins=CONFIDENCE_BINS)
        diagram.plot(means, shares, color=color, marker=marker, markersize=4, label=label)
        histogram.hist(
            confidences_n,
            bins=[*np.linspace(0.0, 1.0, CONFIDENCE_BINS + 1)],
            histtype="step",
            linewidth=1.5,
            color=color,
        )
    diagram.set(
        title=f"{short(model.name, 34)}, test pictures",
        ylabel="share of right answers",
        xlim=(0, 1),
        ylim=(-0.02, 1.02),
    )
    figure.legend(loc="outside lower center")
    histogram.set(xlabel="probability of the predicted class", ylabel="pictures")
    histogram.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    return figure


# --- curves ---------------------------------------------------------------------------------


@_png
def curves(report: StudyReport, model: ModelRecord, trial: TrialRecord | None) -> Figure:
    """Loss and score of the winner's trial by epoch over its folds, and its retraining loss."""
    rows = trial.epochs if trial else ()
    panels = (2 if rows else 0) + (1 if model.train_curve else 0)
    figure = Figure(figsize=(WIDTH_IN * max(panels, 1.5) / 3, 3.2))
    axes = iter(figure.subplots(1, panels, squeeze=False)[0])
    if rows:
        losses = next(axes)
        _band(losses, rows, lambda row: row.train_loss, "training", BLUE)
        _band(losses, rows, lambda row: row.loss, "validation", VERMILION)
        losses.set(title="Loss over the folds", xlabel="epoch", ylabel="cross-entropy, nats")
        losses.legend()
        scores = next(axes)
        _band(scores, rows, lambda row: 100 * row.balanced_accuracy, "validation", VERMILION)
        scores.set(title="Score over the folds", xlabel="epoch", ylabel="balanced accuracy, %")
    if model.train_curve:
        retraining = next(axes)
        epochs = range(1, len(model.train_curve) + 1)
        retraining.plot(epochs, model.train_curve, color=BLUE, marker="o", markersize=3.5)
        retraining.set(title="Retraining", xlabel="epoch", ylabel="training loss, nats")
    for panel in figure.axes:
        panel.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        panel.margins(y=0.12)
    return figure


def _band(
    axes: Axes,
    rows: Sequence[EpochScores],
    value: Callable[[EpochScores], float],
    label: str,
    color: str,
) -> None:
    """The mean over the folds, within the range of the folds."""
    by_epoch: dict[int, list[float]] = {}
    for row in rows:
        by_epoch.setdefault(row.epoch, []).append(value(row))
    epochs = sorted(by_epoch)
    shown = [epoch + 1 for epoch in epochs]
    spread = [by_epoch[epoch] for epoch in epochs]
    axes.fill_between(
        shown, [min(v) for v in spread], [max(v) for v in spread], color=color, alpha=0.18, lw=0
    )
    axes.plot(
        shown, [fmean(v) for v in spread], color=color, marker="o", markersize=3.5, label=label
    )


# --- search ---------------------------------------------------------------------------------


@_png
def history(report: StudyReport) -> Figure:
    """Scores by trial number with the best so far, and the best so far against time."""
    trials = sorted(scored(report.trials), key=lambda pair: pair[0].number)
    figure = Figure(figsize=(WIDTH_IN, 3.6))
    by_number, by_time = figure.subplots(1, 2, width_ratios=(3, 2), sharey=True)
    _scatter_states(by_number, trials, lambda trial: float(trial.number))
    complete = [(trial, value) for trial, value in trials if trial.state == "COMPLETE"]
    _best_line(by_number, ((float(trial.number), value) for trial, value in complete))
    by_number.set(title="Trials", xlabel="trial", ylabel="CV balanced accuracy, %")
    by_number.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    figure.legend(loc="outside lower center", ncols=4)
    timed = [(t.finished_s, value) for t, value in complete if t.finished_s is not None]
    seconds, unit = _time_unit(max((finished for finished, _ in timed), default=0.0))
    _best_line(by_time, sorted((finished / seconds, value) for finished, value in timed))
    by_time.set(title="Best so far over time", xlabel=f"{unit} since the start of the study")
    by_time.set_xlim(left=0)
    return figure


def _scatter_states(
    axes: Axes,
    trials: Sequence[tuple[TrialRecord, float]],
    x: Callable[[TrialRecord], float],
) -> None:
    """Complete trials as dots, pruned ones as crosses, default recipes ringed."""
    size = 26.0 if len(trials) <= 300 else 8.0

    def points(chosen: Callable[[TrialRecord], bool]) -> tuple[list[float], list[float]]:
        pairs = [(x(trial), 100 * value) for trial, value in trials if chosen(trial)]
        return [x for x, _ in pairs], [y for _, y in pairs]

    pruned = points(lambda trial: trial.state == "PRUNED")
    if pruned[0]:
        axes.scatter(
            *pruned, s=size, c=GREY, marker="x", linewidths=1.0, alpha=0.75, label="pruned"
        )
    complete = points(lambda trial: trial.state == "COMPLETE")
    if complete[0]:
        axes.scatter(*complete, s=size, c=BLUE, linewidths=0, alpha=0.75, label="complete")
    default = points(lambda trial: trial.is_default)
    if default[0]:
        axes.scatter(
            *default, s=80.0, c="none", edgecolors=ORANGE, linewidths=1.8, label="default recipe"
        )


def _best_line(axes: Axes, points: Iterable[tuple[float, float]]) -> None:
    xs, bests = [], []
    best = -math.inf
    for x, value in points:
        best = max(best, 100 * value)
        xs.append(x)
        bests.append(best)
    if xs:
        axes.step(xs, bests, where="post", color=VERMILION, label="best so far")
        # The first one, which is there long before the others, would be lost in the line's corner.
        ends = [xs[0], xs[-1]], [bests[0], bests[-1]]
        axes.plot(*ends, color=VERMILION, marker="o", markersize=4, linestyle="none")


def _time_unit(longest_s: float) -> tuple[float, str]:
    if longest_s >= 2 * 3600:
        return 3600.0, "hours"
    return (60.0, "minutes") if longest_s >= 120 else (1.0, "seconds")


@_png
def parameters(report: StudyReport) -> Figure:
    """Score against each parameter that the search varied, one small panel each."""
    trials = scored(report.trials)
    names = tuned_parameters([trial for trial, _ in trials])
    columns = min(PARAMETER_COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(WIDTH_IN * max(columns, 1.5) / PARAMETER_COLUMNS, 0.5 + 2.6 * rows))
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for panel, name in zip(panels.flat, names, strict=False):
        _parameter_panel(panel, name, trials)
    for panel in panels.flat[len(names) :]:
        panel.set_axis_off()
    for panel in panels[:, 0]:
        panel.set_ylabel("CV bal. acc., %")
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def _parameter_panel(axes: Axes, name: str, trials: Sequence[tuple[TrialRecord, float]]) -> None:
    axes.set_title(name)
    axes.tick_params(axis="x", labelsize=8)
    values = {getattr(trial.recipe, name) for trial, _ in trials}
    if all(isinstance(value, int | float) for value in values):
        _scatter_states(axes, trials, lambda trial: float(getattr(trial.recipe, name)))
        _numeric_axis(axes, name, [float(value) for value in values])
        return
    ordered = get_args(Policy) if name == "augmentation" else ()
    choices = [choice for choice in ordered if choice in values]
    choices += sorted(str(value) for value in values.difference(ordered))
    place = {choice: index for index, choice in enumerate(choices)}

    def spread(trial: TrialRecord) -> float:
        # Golden-ratio steps spread a choice's dots evenly without a random generator.
        return place[str(getattr(trial.recipe, name))] + 0.5 * (trial.number * 0.618034 % 1 - 0.5)

    _scatter_states(axes, trials, spread)
    axes.set_xlim(-0.6, len(choices) - 0.4)
    labels = [short(choice) for choice in choices]
    axes.set_xticks(range(len(choices)), labels)
    if max(map(len, labels)) * len(labels) > CHOICE_CHARACTERS:
        for label in axes.get_xticklabels():
            label.set(rotation=30, ha="right", rotation_mode="anchor")


def _numeric_axis(axes: Axes, name: str, values: Sequence[float]) -> None:
    low, high = min(values), max(values)
    if name in SCALES and low > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(log_ticks(low, high)))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        whole = all(value.is_integer() for value in values)
        # Whole numbers are short, and freezing depth has six of them.
        bins = 6 if whole else MOST_TICKS
        axes.xaxis.set_major_locator(MaxNLocator(nbins=bins, integer=whole, min_n_ticks=1))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%.3g"))


def log_ticks(low: float, high: float) -> tuple[float, ...]:
    """Two to five ticks for a logarithmic axis whose values go from `low` to `high`, both > 0.

    Powers of ten where two of them are inside; otherwise 1 and 3, then 1, 2 and 5 times those;
    where not even these are, as of two values near one another, the ends.
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for leads in ((1,), (1, 3), (1, 2, 5)):
        # Written and read again, so that it is 1e-05 and not a neighbour of it.
        ticks = [float(f"{lead}e{decade}") for decade in decades for lead in leads]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) >= 2:
            step = math.ceil(len(inside) / MOST_TICKS)
            return tuple(inside[::step])
    return low, high


# --- galleries ------------------------------------------------------------------------------


def thumbnails(
    report: StudyReport, chosen: Iterable[Example]
) -> tuple[tuple[Example, Image.Image], ...]:
    """The first examples whose picture files can still be read, cropped as in training."""
    found = []
    for example in chosen:
        thumbnail = _thumbnail(report.dataset.picture_path(example.index), report.dataset.crop)
        if thumbnail is not None:
            found.append((example, thumbnail))
        if len(found) == GALLERY_COLUMNS * GALLERY_ROWS:
            break
    return tuple(found)


def _thumbnail(path: Path, crop: tuple[int, int, int, int] | None) -> Image.Image | None:
    try:
        image = open_rgb(path)
    except PictureError:
        return None
    if crop is not None:
        image = image.crop(crop)
    image.thumbnail((240, 240))
    return image


@_png
def gallery(report: StudyReport, chosen: Sequence[tuple[Example, Image.Image]]) -> Figure:
    """Test pictures below the true class, the predicted one and its probability; then the file."""
    columns = max(2, min(GALLERY_COLUMNS, len(chosen)))
    rows = math.ceil(len(chosen) / columns)
    column_in = WIDTH_IN / GALLERY_COLUMNS
    tallest = min(1.4, max(image.height / image.width for _, image in chosen))
    row_in = 0.7 + tallest * (column_in - 0.2)
    figure = Figure(figsize=(columns * column_in, 0.3 + rows * row_in))
    panels = figure.subplots(rows, columns, squeeze=False)
    for panel in panels.flat:
        panel.set_axis_off()
    for panel, (example, image) in zip(panels.flat, chosen, strict=False):
        _gallery_panel(panel, report.dataset, example, image)
    return figure


def _gallery_panel(axes: Axes, dataset: Dataset, example: Example, image: Image.Image) -> None:
    axes.imshow(np.asarray(image))
    true, predicted = (short(dataset.classes[i]) for i in (example.label, example.predicted))
    right = example.label == example.predicted
    answer = true if right else f"{true}\n→ {predicted}"
    axes.set_title(
        f"{answer}  {example.probability:.2f}",
        fontsize=9,
        fontweight="normal",
        color=INK if right else VERMILION,
    )
    file = short(dataset.pictures[example.index].path, FILE_CHARACTERS)
    axes.text(
        0.0,
        -0.03,
        file,
        fontsize=7,
        color=INK,
        transform=axes.transAxes,
        verticalalignment="top",
    )
