"""A checklist after REFORMS, answered by the records: what was done, and what was not.

Kapoor et al., "REFORMS: Consensus-based Recommendations for Machine-learning-based Science",
Science Advances 10 (2024): 32 items in eight modules. Each answer is computed from the study's
records. What only its author can know is left to the author.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from bench.records import StudyReport
from bench.words import counted
from reports.findings import default_of, trial_of, tuned_parameters, winner_of
from reports.limits import limits
from reports.paths import IN_ITS_WORKSPACE
from reports.scores import (
    against,
    counted_pictures,
    cv_score,
    groups_given,
    in_percent,
    in_points,
    percent,
    tested_score,
)
from reports.splits import protocol_name, straddling
from reports.table import Table, caption_of

Status = Literal["done", "not done", "for the author"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Whether an item is done, and what in the records says so."""

    status: Status
    evidence: str


Rule = Callable[[StudyReport], Answer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One item of the checklist, in our words, and the rule that answers it."""

    number: str
    module: str
    asks: str
    rule: Rule


def checklist(report: StudyReport) -> Table:
    """One row an item."""
    answers = [(item, item.rule(report)) for item in ITEMS]
    counts = [
        f"{sum(answer.status == status for _, answer in answers)} {status}"
        for status in ("done", "not done", "for the author")
    ]
    return Table(
        caption=caption_of(report, f"REFORMS: {', '.join(counts)}"),
        headers=("item", "module", "asks for", "status", "evidence"),
        rows=tuple(
            (item.number, item.module, item.asks, answer.status, answer.evidence)
            for item, answer in answers
        ),
        footnotes=(
            'After Kapoor et al., "REFORMS: Consensus-based Recommendations for '
            'Machine-learning-based Science" (2024), items in our words. Every answer is computed '
            "from what is recorded; what only the author can know is for the author to state.",
        ),
    )


def _done(evidence: str) -> Answer:
    return Answer(status="done", evidence=evidence)


def _not_done(evidence: str) -> Answer:
    return Answer(status="not done", evidence=evidence)


def _author(evidence: str) -> Answer:
    return Answer(status="for the author", evidence=evidence)


def _either(done: object, evidence: str, otherwise: str) -> Answer:
    return _done(evidence) if done else _not_done(otherwise)


_UNPROMOTED = "no model has been promoted, so the test set is still locked"


# --- study goals ----------------------------------------------------------------------------


def _left_to_the_author(evidence: str) -> Rule:
    """An item of which no record can tell anything."""
    return lambda report: _author(evidence)


def _population(report: StudyReport) -> Answer:
    if report.dataset.synthetic:
        return _done("none: the pictures are synthetic, and no claim about real ones can be made")
    return _author(f"the records know the data set {report.dataset.name}, not what it stands for")


# --- computational reproducibility ----------------------------------------------------------


def _data_identity(report: StudyReport) -> Answer:
    dataset = report.dataset
    told = f"fingerprint {dataset.fingerprint}, with the SHA-256 of each of its pictures"
    if dataset.synthetic:
        return _done(f"{told}; `bench data demo` makes it again")
    return _author(f"{told}; where others can get it is not recorded")


def _code(report: StudyReport) -> Answer:
    version = report.environment.versions.get("bench")
    return _either(version, f"bench {version}", "bench's version was not recorded")


def _infrastructure(report: StudyReport) -> Answer:
    environment = report.environment
    known = environment.cpu and "torch" in environment.versions
    return _either(
        known,
        f"{environment.cpu}, {counted(environment.cores, 'core')}, "
        f"GPU: {environment.gpu or 'none'}, and the versions of "
        f"{counted(len(environment.versions), 'package')}, in the section on the machine",
        "the processor, or the version of torch, was not recorded",
    )


def _readme(report: StudyReport) -> Answer:
    return _either(
        report.models,
        "model.md beside each of " + ", ".join(model.path for model in report.models),
        f"{_UNPROMOTED}, and there is no model.md",
    )


def _reproduction(report: StudyReport) -> Answer:
    winner = winner_of(report)
    trial = trial_of(report, winner) if winner else None
    if trial is None or not trial.epochs:
        return _not_done("no promoted trial has records that a second training could be held to")
    how = "may differ in the last bits on a GPU" if report.device == "cuda" else "compares all bits"
    return _done(
        f"`bench reproduce {report.study} {trial.number}` {IN_ITS_WORKSPACE} trains it again "
        f"and {how}"
    )


# --- data quality ---------------------------------------------------------------------------


def _sources(report: StudyReport) -> Answer:
    if report.dataset.synthetic:
        return _done("the pictures and their labels were made by the built-in generator")
    return _author("where, when and by whom pictures and labels were made is not recorded")


def _outcome(report: StudyReport) -> Answer:
    dataset = report.dataset
    counts = ", ".join(
        f"{name} {count}" for name, count in zip(dataset.classes, dataset.counts, strict=True)
    )
    return _either(len(dataset.classes) > 1, f"the class, of {counts}", "there is one class alone")


def _sample_size(report: StudyReport) -> Answer:
    dataset, labels = report.dataset, report.dataset.labels
    tested = {labels[index] for index in report.split.test}
    missing = [name for k, name in enumerate(dataset.classes) if k not in tested]
    return _either(
        not missing,
        f"{counted_pictures(report, range(len(labels)))}, {len(report.split.test)} of them in the "
        "test set, by class in "
        "the section on the data",
        f"the test set holds no picture of {', '.join(missing)}",
    )


def _missing_data(report: StudyReport) -> Answer:
    dataset = report.dataset
    alone = sum(picture.group is None for picture in dataset.pictures)
    told = f"{counted(len(dataset.broken), 'file')} could not be decoded"
    if groups_given(dataset) and alone:
        return _not_done(
            f"{told}; number of pictures without a group, while others have one: {alone:,}"
        )
    return _done(f"{told}; every picture has a label")


def _representative(report: StudyReport) -> Answer:
    if report.dataset.synthetic:
        return _not_done("synthetic pictures represent nothing but their generator")
    return _author(
        f"the test set is a part of the data set (split: {protocol_name(report)}); of what the "
        "data set is a sample is not recorded"
    )


# --- data preprocessing ---------------------------------------------------------------------


def _exclusions(report: StudyReport) -> Answer:
    left_out, broken = len(report.split.left_out), len(report.dataset.broken)
    told = (
        f"{counted(broken, 'broken file')}, each with its reason, and "
        f"{counted(left_out, 'picture')} by the protocol"
    )
    explained = not left_out or report.split.protocol not in (None, "random", "grouped")
    return _either(explained, told, f"{told}, which gives no reason to leave any out")


def _corrupt(report: StudyReport) -> Answer:
    reasons = all(broken.reason for broken in report.dataset.broken)
    return _either(
        reasons,
        "each file was decoded before the search; what could not be is left out of everything",
        "a file was left out without a reason",
    )


def _transformations(report: StudyReport) -> Answer:
    winner, settings = winner_of(report), report.settings
    if winner is None:
        return _not_done(_UNPROMOTED)
    return _done(
        f"crop {report.dataset.crop or 'none'}, {settings.resize} to {winner.image_size} pixels, "
        f"augmentation {winner.recipe.augmentation}; crop and normalisation are in the file"
    )


# --- modeling -------------------------------------------------------------------------------


def _model(report: StudyReport) -> Answer:
    winner = winner_of(report)
    if winner is None:
        return _not_done(_UNPROMOTED)
    return _done(
        f"{winner.architecture}, {winner.parameters:,} parameters, starting weights "
        f"{winner.weights}, from pixels to the class by cross-entropy with label smoothing "
        f"{winner.recipe.label_smoothing:.3g}; hyper-parameters in the section on the winner, "
        "every trial's in the one on trials"
    )


def _model_types(report: StudyReport) -> Answer:
    tried = sorted({trial.recipe.backbone for trial in report.trials})
    if len(tried) > 1:
        return _done(f"compared on the same folds: {', '.join(tried)}")
    return _author(f"no other backbone was tried beside {', '.join(tried) or 'none'}")


def _evaluation(report: StudyReport) -> Answer:
    split = report.split
    return _either(
        report.models,
        f"{len(split.folds)} folds of cross-validation, and a locked test set of "
        f"{counted(len(split.test), 'picture')}, scored by the exported files",
        _UNPROMOTED,
    )


def _selection(report: StudyReport) -> Answer:
    winner = winner_of(report)
    score = cv_score(report, winner) if winner else None
    if winner is None or score is None:
        return _not_done("no model was chosen by a cross-validated score")
    others = counted(len(report.models) - 1, "other promoted model")
    return _done(
        f"{winner.name} by cross-validation alone, before the test set was opened: "
        f"{in_percent(score)}; reported beside it: {others}"
    )


def _hyper_parameters(report: StudyReport) -> Answer:
    tuned = tuned_parameters(report.trials)
    return _either(
        tuned,
        f"{report.settings.sampler}, {counted(len(report.trials), 'trial')} over "
        f"{', '.join(tuned)}",
        f"{counted(len(report.trials), 'trial')} of one recipe: nothing was tuned",
    )


def _baseline(report: StudyReport) -> Answer:
    winner, default = winner_of(report), default_of(report)
    if winner is None:
        return _not_done(_UNPROMOTED)
    if default is None:
        return _not_done("no default recipe was promoted beside the winner")
    return _done(
        f"the default recipe, {percent(default.test.balanced_accuracy)} % on the same test "
        f"pictures, where the winner has {percent(winner.test.balanced_accuracy)} %; chance is "
        f"{percent(1 / len(report.dataset.classes))} %"
    )


# --- data leakage ---------------------------------------------------------------------------


def _separation(report: StudyReport) -> Answer:
    split = report.split
    shared = set(split.test) & set(split.development)
    return _either(
        not shared,
        "no test picture is in a fold; selection, probes, normalisation statistics and "
        "calibration use development pictures alone",
        f"in the test set and in a fold: {counted(len(shared), 'picture')}",
    )


def _dependencies(report: StudyReport) -> Answer:
    parted = straddling(report.dataset, report.split).in_words
    if parted:
        return _not_done(f"on both sides of the split: {' and '.join(parted)}")
    if not groups_given(report.dataset):
        return _author(
            "no identical files and no found duplicates stand on both sides of a split; which "
            "pictures belong together otherwise was not told"
        )
    return _done("no group and no identical files stand in two parts of the split")


# --- metrics and uncertainty ----------------------------------------------------------------


def _metrics(report: StudyReport) -> Answer:
    return _either(
        report.models,
        "balanced accuracy, which selects, because it counts each class alike however many "
        "pictures it has; precision, recall, F1, log-loss, scores by class and the confusions",
        _UNPROMOTED,
    )


def _uncertainty(report: StudyReport) -> Answer:
    winner = winner_of(report)
    if winner is None:
        return _not_done(_UNPROMOTED)
    score = tested_score(report, winner)
    return _either(
        score.interval,
        f"{in_percent(score)} on the test set, by the bootstrap that the summary names",
        f"the test score has no interval: {score.why_not}",
    )


def _tests(report: StudyReport) -> Answer:
    winner, default = winner_of(report), default_of(report)
    if winner is None or default is None or winner is default:
        return _not_done("there are no two models to be told apart")
    comparison = against(report, winner, default)
    return _either(
        comparison.difference.interval,
        f"paired over {counted_pictures(report, winner.predictions.indices)}: "
        f"{in_points(comparison.difference)} against the default recipe, "
        f"{comparison.verdict}; it assumes that these are independent of one another",
        f"winner and default recipe cannot be compared: {comparison.difference.why_not}",
    )


# --- generalizability and limitations -------------------------------------------------------


def _external(report: StudyReport) -> Answer:
    if report.split.protocol == "file":
        return _author("the test part was given; whether it is of another source is not recorded")
    return _not_done("nothing was measured on pictures of another source than the data set")


def _limits(report: StudyReport) -> Answer:
    winner = winner_of(report)
    if winner is None:
        return _author("no model has been promoted, so there is nothing yet to limit")
    return _author(
        f"model.md names the limits that the records show ({len(limits(report, winner))}); where "
        "else the result should not be relied on is not recorded"
    )


_GOALS, _REPRODUCIBILITY = "study goals", "computational reproducibility"
_QUALITY, _PREPROCESSING = "data quality", "data preprocessing"
_MODELING, _LEAKAGE = "modeling", "data leakage"
_METRICS, _GENERALITY = "metrics and uncertainty", "generalizability and limitations"


def _item(number: str, module: str, asks: str, rule: Rule) -> Item:
    return Item(number=number, module=module, asks=asks, rule=rule)


ITEMS: tuple[Item, ...] = (
    _item("1a", _GOALS, "population that the claim is about", _population),
    _item("1b", _GOALS, "why this population", _left_to_the_author("not recorded")),
    _item("1c", _GOALS, "why machine learning", _left_to_the_author("not recorded")),
    _item("2a", _REPRODUCIBILITY, "the data set, identified, and how to get it", _data_identity),
    _item("2b", _REPRODUCIBILITY, "the code and its version", _code),
    _item("2c", _REPRODUCIBILITY, "the computers and software used", _infrastructure),
    _item("2d", _REPRODUCIBILITY, "instructions for generating the results", _readme),
    _item("2e", _REPRODUCIBILITY, "a command that reproduces the results", _reproduction),
    _item("3a", _QUALITY, "where data and labels come from, and when", _sources),
    _item("3b", _QUALITY, "what the data were sampled from", _left_to_the_author("not recorded")),
    _item("3c", _QUALITY, "why the data fit the task", _left_to_the_author("not recorded")),
    _item("3d", _QUALITY, "the outcome and its distribution", _outcome),
    _item("3e", _QUALITY, "sample sizes, by class", _sample_size),
    _item("3f", _QUALITY, "missing data", _missing_data),
    _item("3g", _QUALITY, "why what was sampled represents the population", _representative),
    _item("4a", _PREPROCESSING, "what was left out, and why", _exclusions),
    _item("4b", _PREPROCESSING, "how impossible and corrupt samples are treated", _corrupt),
    _item("4c", _PREPROCESSING, "all transformations, from raw data to input", _transformations),
    _item("5a", _MODELING, "the models: input, kind and loss", _model),
    _item("5b", _MODELING, "why these model types", _model_types),
    _item("5c", _MODELING, "how models were evaluated", _evaluation),
    _item("5d", _MODELING, "how the model was selected", _selection),
    _item("5e", _MODELING, "how hyper-parameters were selected", _hyper_parameters),
    _item("5f", _MODELING, "fair baselines", _baseline),
    _item("6a", _LEAKAGE, "all steps before the test use training data alone", _separation),
    _item("6b", _LEAKAGE, "dependencies and duplicates across the split", _dependencies),
    _item(
        "6c",
        _LEAKAGE,
        "inputs that give the answer away",
        _left_to_the_author("pixels are the only input; whether they carry marks of the class "
                            "(borders, text, a device) is not recorded"),
    ),
    _item("7a", _METRICS, "all metrics, and why that of selection suits", _metrics),
    _item("7b", _METRICS, "uncertainty, and how it is estimated", _uncertainty),
    _item("7c", _METRICS, "statistical tests, and what they assume", _tests),
    _item("8a", _GENERALITY, "evidence of external validity", _external),
    _item("8b", _GENERALITY, "where the findings do not hold", _limits),
)  # fmt: skip
