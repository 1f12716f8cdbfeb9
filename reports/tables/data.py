"""The data of a study, its settings, and the machine that it ran on."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields

from bench.records import CONFLICT_MEANING, StudyReport
from bench.statistics.answers import groups_of
from bench.words import counted
from reports.scores import groups_given
from reports.splits import groups_in_words, protocol_name
from reports.table import LIST_LIMIT, Table, and_more, caption_of

# What a setting that is not given stands for.
_SETTING_OF_NONE = {"image_size": "the backbone's own", "max_latency_ms": "none"}


def classes(report: StudyReport) -> Table:
    """Pictures of each class, in all and in the test set, and how many groups hold the latter."""
    dataset = report.dataset
    labels = dataset.labels
    everywhere = Counter(labels)
    in_test = Counter(labels[index] for index in report.split.test)
    numbers, _ = groups_of(dataset, report.split.test)
    held = {*zip((labels[index] for index in report.split.test), numbers.tolist(), strict=True)}
    groups = Counter(label for label, _ in held)
    return Table(
        caption=caption_of(report, f"Classes of {dataset.name}"),
        headers=(
            "class",
            "pictures",
            "for development",
            "locked test set",
            *(("groups in the test set",) if groups_given(dataset) else ()),
        ),
        rows=tuple(
            (
                name,
                str(everywhere[index]),
                str(everywhere[index] - in_test[index]),
                str(in_test[index]),
                *((str(groups[index]),) if groups_given(dataset) else ()),
            )
            for index, name in enumerate(dataset.classes)
        ),
    )


def data_facts(report: StudyReport) -> Table:
    """What the pictures are, and how they were shared out."""
    dataset, split = report.dataset, report.split
    edges = ", ".join(map(str, dataset.crop or ()))
    crop = f"{edges} (left, top, right, bottom; in pixels)" if edges else "none"
    sizes = ", ".join(f"{len(fold):,}" for fold in split.folds)
    rows = (
        ("kind", dataset.kind + (", synthetic" if dataset.synthetic else "")),
        ("pictures", f"{len(dataset.pictures):,}"),
        ("broken files, left out", f"{len(dataset.broken):,}"),
        ("crop", crop),
        ("groups", groups_in_words(report)),
        *(("tied by a rule", str(tied)) for tied in dataset.tied),
        ("protocol", protocol_name(report)),
        *((("pictures in no part", f"{len(split.left_out):,}"),) if split.left_out else ()),
        ("locked test set", counted(len(split.test), "picture")),
        ("cross-validation", f"{len(split.folds)} folds of {sizes} validation pictures"),
        ("split seed", str(split.seed)),
        ("data set fingerprint", dataset.fingerprint),
        ("split fingerprint", split.fingerprint),
    )
    return Table(caption=caption_of(report, "Data"), headers=("what", "value"), rows=rows)


def conflicts(report: StudyReport) -> Table:
    """Duplicates that the audit found and that carry different labels."""
    dataset = report.dataset
    rows = []
    for pair in dataset.conflicts[:LIST_LIMIT]:
        first, second = (dataset.pictures[index] for index in pair)
        labels = dataset.classes[first.label], dataset.classes[second.label]
        rows.append((first.path, labels[0], second.path, labels[1]))
    return Table(
        caption=caption_of(report, "Duplicates with different labels"),
        headers=("picture", "its label", "shows the same as", "its label"),
        rows=tuple(rows),
        footnotes=(
            *and_more(len(dataset.conflicts)),
            f"{CONFLICT_MEANING.capitalize()}. `bench data check` on the data shows all "
            "of them side by side.",
        ),
    )


def broken_files(report: StudyReport) -> Table:
    broken = report.dataset.broken
    return Table(
        caption=caption_of(report, "Broken files, left out of everything"),
        headers=("file", "reason"),
        rows=tuple((row.path, row.reason) for row in broken[:LIST_LIMIT]),
        footnotes=and_more(len(broken)),
    )


def study_settings(report: StudyReport) -> Table:
    settings = report.settings
    rows = (
        ("search space", report.space),
        ("device", report.device),
        *(
            (field.name, _SETTING_OF_NONE[field.name] if value is None else str(value))
            for field in fields(settings)
            for value in (getattr(settings, field.name),)
        ),
    )
    return Table(caption=caption_of(report, "Settings"), headers=("setting", "value"), rows=rows)


def machine(report: StudyReport) -> Table:
    environment = report.environment
    rows = (
        ("created", environment.created),
        ("CPU", f"{environment.cpu}, {counted(environment.cores, 'core')}"),
        ("memory", f"{environment.memory_bytes / 2**30:.1f} GiB"),
        ("GPU", environment.gpu or "none"),
        ("platform", environment.platform),
        ("Python", environment.python),
        *sorted(environment.versions.items()),
    )
    return Table(
        caption=caption_of(report, "Machine and versions"), headers=("what", "value"), rows=rows
    )
