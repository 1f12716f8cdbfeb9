"""Records survive a round trip through JSON, and derive what they say they derive."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass, replace
from statistics import fmean, stdev

import msgspec
import numpy as np
import pytest

from bench import records
from bench.records import (
    GTZAN_GENRES,
    Audit,
    BrokenPicture,
    Calibration,
    CalibrationEffect,
    CalibrationScores,
    Conditions,
    EpochDone,
    EpochScores,
    Estimate,
    GroupGuess,
    LabelCheck,
    ModelRecord,
    Pair,
    Picture,
    ProcessSample,
    ProtocolScores,
    Recipe,
    Rounding,
    SeedRun,
    Shortcut,
    Split,
    StudyReport,
    SuspiciousLabel,
    TiedBy,
    TrialDone,
    TrialFailed,
    TrialJob,
    WeightSource,
    from_json,
    percentile,
    to_builtins,
    to_json,
)
from tests.records import epoch_scores, trial_record, variant_record


def calibration_scores() -> CalibrationScores:
    return CalibrationScores(
        log_loss=Estimate(value=0.5, interval=(0.25, 0.75)),
        brier=Estimate(value=0.5, interval=None, why_not="too few groups"),
        ece=0.125,
        ece_by_chance=Estimate(value=0.1, interval=(0.05, 0.2)),
    )


def calibration() -> Calibration:
    change = Estimate(value=0.0, interval=None, why_not="nothing varies")
    return Calibration(
        temperature=1.5,
        fitted=1.5,
        fold_temperatures=(1.25, 1.75),
        test=CalibrationEffect(
            pictures=2,
            before=calibration_scores(),
            after=calibration_scores(),
            log_loss_change=change,
            brier_change=change,
        ),
    )


def audit() -> Audit:
    return Audit(
        pairs=(Pair(first=0, second=1, kind="shifted", correlation=0.95, shift=0.25),),
        thresholds=(0.9, 0.8),
        blank=(2,),
        group_guess=GroupGuess(pattern=r"(\d+)\.png", groups=2, pictures=4, example="7"),
        shortcuts=(Shortcut(label=1, facet="size", recall=0.9, false_alarms=0.0),),
        labels=LabelCheck(
            features="pixels",
            balanced_accuracy=0.8,
            suspicious=(
                SuspiciousLabel(
                    picture=3, predicted=0, given_probability=0.1, predicted_probability=0.9
                ),
            ),
        ),
    )


def test_a_model_that_was_stored_before_temperatures_has_1(model_record):
    old = to_builtins(model_record)
    del old["calibration"]
    assert from_json(msgspec.json.encode(old), ModelRecord).temperature == 1.0
    assert replace(model_record, calibration=calibration()).temperature == 1.5


@pytest.fixture
def one_of_each(plan, environment, model_record, latency_row) -> dict[str, object]:
    trial = trial_record(epoch_scores(0, 0))
    whole = StudyReport(
        study="pets",
        space="cpu",
        dataset=replace(plan.dataset, broken=(BrokenPicture(path="x.png", reason="empty"),)),
        split=plan.split,
        settings=plan.settings,
        device="cpu",
        trials=(trial,),
        models=(model_record,),
        latencies=(latency_row,),
        environment=environment,
        notes=("a remark",),
    )
    made = [
        plan,
        plan.split,
        plan.settings,
        *plan.arithmetic.values(),
        plan.dataset,
        *plan.dataset.pictures[:1],
        *plan.weights.values(),
        TiedBy(rule="--group-pattern", pictures=6, groups=2),
        ProtocolScores(
            study="pets",
            model="resnet50-best",
            trial=3,
            protocol="random",
            fold_scores=(0.5, 0.7),
            test=model_record.test,
            predictions=model_record.predictions,
            seconds=1.5,
            identity="ab",
        ),
        *whole.dataset.broken,
        TrialJob(number=0, recipe=trial.recipe),
        trial,
        trial.recipe,
        *trial.epochs,
        EpochDone(trial=3, scores=trial.epochs[0]),
        Conditions(
            cpu="EPYC", instructions="AVX512", threads=2, blas_threads=2, gpu=None, versions={}
        ),
        TrialDone(trial=3),
        TrialFailed(trial=3, kind="out of memory", message="no room"),
        model_record,
        variant_record(),
        variant_record().check,
        audit(),
        *audit().pairs,
        audit().group_guess,
        *audit().shortcuts,
        audit().labels,
        *audit().labels.suspicious,
        calibration(),
        calibration().test,
        calibration_scores(),
        calibration_scores().brier,
        SeedRun(
            number=1,
            trial=model_record.trial,
            test=model_record.test,
            predictions=model_record.predictions,
            seconds=1.5,
            identity="a training",
        ),
        *model_record.parity,
        Rounding(model=2e-4, file=1e-4),
        model_record.test,
        *model_record.test.per_class[:1],
        model_record.predictions,
        latency_row,
        *latency_row.samples[:1],
        environment,
        whole,
    ]
    return {type(record).__name__: record for record in made}


def test_a_plan_that_was_stored_before_protocols_still_loads(plan):
    old = to_builtins(plan)
    del old["further_splits"], old["split"]["protocol"], old["split"]["left_out"]
    del old["dataset"]["tied"]
    again = from_json(msgspec.json.encode(old), type(plan))
    assert again == plan
    assert again.split.protocol is None


RECORDS = sorted(name for name, kind in vars(records).items() if is_dataclass(kind))


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("indent", [0, 2])
def test_a_record_survives_a_round_trip_through_json(one_of_each, name, indent):
    record = one_of_each[name]
    again = from_json(to_json(record, indent=indent), type(record))
    assert again == record
    assert to_builtins(again) == to_builtins(record)
    assert to_json(again) == to_json(record)


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_is_frozen_and_its_fields_are_named_when_it_is_made(one_of_each, name):
    record = one_of_each[name]
    first = fields(record)[0].name
    with pytest.raises(AttributeError):
        setattr(record, first, None)
    with pytest.raises(TypeError):
        type(record)(getattr(record, first))


def test_a_tuple_of_records_survives_too():
    rows = (epoch_scores(0, 0), epoch_scores(0, 1))
    assert from_json(to_json(rows), tuple[EpochScores, ...]) == rows


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"trial": "3"}', TrialDone),
        ("{}", TrialDone),
        ('{"trial": 3', TrialDone),
        ('{"backbone": "x", "augmentation": "wild"}', Recipe),
    ],
)
def test_json_of_another_shape_is_refused(text, kind):
    with pytest.raises(msgspec.DecodeError):
        from_json(text, kind)


# --- identity -------------------------------------------------------------------------------


def test_a_split_is_another_when_its_data_its_test_set_or_its_folds_are(plan):
    split = plan.split
    others = [
        replace(split, dataset_fingerprint="other"),
        replace(split, test=(1, 3)),
        replace(split, folds=((2, 5), (1, 4))),
    ]
    assert len({split.fingerprint, *(other.fingerprint for other in others)}) == 4
    assert replace(split, seed=99).fingerprint == split.fingerprint


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"name": "zoo"}, False),
        ({"root": "/elsewhere"}, False),
        ({"kind": "csv"}, False),
        ({"broken": (BrokenPicture(path="x.png", reason="empty"),)}, False),
        ({"classes": ("tom", "rex")}, True),
        ({"crop": (0, 0, 5, 5)}, True),
        ({"pictures": ()}, True),
    ],
)
def test_a_data_set_is_what_it_holds_and_not_where_it_lies(plan, change, differs):
    changed = replace(plan.dataset, **change)
    assert (changed.fingerprint != plan.dataset.fingerprint) is differs


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"path": "cat/9.png"}, True),
        ({"label": 1}, True),
        ({"sha256": "other"}, True),
        ({"group": None}, True),
        ({"given_split": "test"}, True),
        ({"mode": "L"}, False),
    ],
)
def test_a_picture_is_its_path_label_group_split_and_bytes(plan, change, differs):
    first, *others = plan.dataset.pictures
    changed = replace(plan.dataset, pictures=(replace(first, **change), *others))
    assert (changed.fingerprint != plan.dataset.fingerprint) is differs


# --- derived values -------------------------------------------------------------------------


def test_a_data_set_counts_its_labels(plan):
    dataset = replace(plan.dataset, pictures=plan.dataset.pictures[:4])
    assert dataset.labels == (0, 0, 0, 1)
    assert dataset.counts == (3, 1)
    assert str(dataset.picture_path(1)) == "/pets/0/1.png"


@pytest.mark.parametrize(
    ("classes", "expected"),
    [(GTZAN_GENRES, True), (GTZAN_GENRES[:9], False), (("cat", "dog"), False)],
)
def test_gtzan_is_its_ten_genres(plan, classes, expected):
    assert replace(plan.dataset, classes=classes).is_gtzan is expected


def test_the_training_part_of_a_fold_is_the_other_folds_without_the_test_set():
    split = Split(dataset_fingerprint="", seed=0, test=(0, 7), folds=((6, 1), (2, 5), (4, 3)))
    assert split.development == (1, 2, 3, 4, 5, 6)
    assert split.training_part(0) == (2, 3, 4, 5)
    assert split.training_part(1) == (1, 3, 4, 6)
    assert split.training_part(2) == (1, 2, 5, 6)


@pytest.mark.parametrize(
    ("epochs", "scores"),
    [
        ([], ()),
        ([(0, 0, 0.3)], (0.3,)),
        ([(0, 0, 0.9), (0, 1, 0.6)], (0.6,)),
        ([(1, 1, 0.8), (0, 1, 0.6), (1, 0, 0.1), (0, 0, 0.2)], (0.6, 0.8)),
        ([(0, 0, 0.5), (2, 0, 0.7)], (0.5, 0.7)),
    ],
)
def test_a_folds_score_is_that_of_its_last_epoch_in_the_order_of_folds(epochs, scores):
    trial = trial_record(*(epoch_scores(*row) for row in epochs))
    assert trial.fold_scores == scores
    assert trial.cv_mean == (fmean(scores) if scores else None)
    assert trial.cv_sd == (stdev(scores) if len(scores) > 1 else None)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (WeightSource(kind="random"), "random"),
        (WeightSource(kind="hub", detail="timm/x"), "hub timm/x"),
        (WeightSource(kind="file", detail="x.pth", digest="ab"), "file x.pth (sha256 ab)"),
    ],
)
def test_weights_say_where_they_come_from(source, text):
    assert str(source) == text


def test_models_of_one_architecture_size_and_number_of_classes_share_a_key(model_record):
    key = model_record.architecture_key
    assert key == "resnet50.a1_in1k@224x2"
    assert replace(model_record, name="default", trial=0, weights="hub").architecture_key == key
    assert replace(model_record, image_size=160).architecture_key != key


def test_variants_have_graphs_of_their_own_by_precision_and_layers_left_in_float32(model_record):
    keys = {
        model_record.architecture_key,
        model_record.variant_key(variant_record()),
        model_record.variant_key(variant_record(float_layers=("conv1",))),
        model_record.variant_key(variant_record(precision="fp16")),
    }
    assert len(keys) == 4


def test_a_models_files_are_its_own_and_those_of_variants_that_are_offered(model_record):
    offered, refused = variant_record(), variant_record(path="x", refused="worse")
    model = replace(model_record, variants=(offered, refused))

    assert model.paths == (model_record.path, offered.path)


def test_a_variant_is_so_many_points_from_its_float32_file():
    assert variant_record().check.difference_points == pytest.approx(-1.0)


def test_a_model_stored_before_there_were_variants_has_none(model_record):
    stored = to_builtins(model_record)
    del stored["variants"]

    assert from_json(json.dumps(stored), ModelRecord) == model_record


@pytest.mark.parametrize("seed", range(20))
def test_percentiles_are_numpys(seed):
    rng = np.random.default_rng(seed)
    values = tuple(rng.normal(size=rng.integers(1, 60)).tolist())
    whole = tuple(rng.integers(1, 10**9, rng.integers(1, 60)).tolist())
    for q in (0.0, 50.0, 90.0, 99.0, 100.0, *rng.uniform(0, 100, 10)):
        assert percentile(values, q) == pytest.approx(np.percentile(values, q), abs=1e-12)
        assert percentile(whole, q) == pytest.approx(np.percentile(whole, q), rel=1e-12)


def test_nothing_has_no_percentile():
    with pytest.raises(ValueError, match="at least one value"):
        percentile((), 50)


def test_a_latency_row_derives_its_figures_from_the_raw_calls(latency_row):
    assert latency_row.calls == 15
    assert latency_row.process_medians_ms == pytest.approx((10.002, 20.002, 60.002))
    assert latency_row.p50_ms == pytest.approx(20.002)
    assert len(latency_row.pooled_ms) == 15
    assert latency_row.pooled_ms == tuple(sorted(latency_row.pooled_ms))
    assert latency_row.p90_ms == pytest.approx(np.percentile(latency_row.pooled_ms, 90))
    assert latency_row.throughput_per_s == pytest.approx(4 / 0.020002)
    assert latency_row.steady


@pytest.mark.parametrize(("calls", "has_p99"), [(299, False), (300, True)])
def test_a_99th_percentile_needs_300_calls(latency_row, calls, has_p99):
    def sample(count: int) -> ProcessSample:
        return replace(latency_row.samples[0], latencies_ns=tuple(range(10**6, 10**6 + count)))

    row = replace(latency_row, samples=(sample(100), sample(calls - 100)))
    assert (row.p99_ms is not None) is has_p99
    if has_p99:
        assert row.p99_ms == pytest.approx(np.percentile(row.pooled_ms, 99))


def test_a_row_is_steady_when_each_process_was(latency_row):
    first, *others = latency_row.samples
    assert not replace(latency_row, samples=(*others, replace(first, steady=False))).steady


def test_a_path_in_a_data_set_is_joined_to_its_root(plan):
    picture = Picture(path="a/b.png", label=0, sha256="", width=1, height=1, mode="L")
    dataset = replace(plan.dataset, pictures=(picture,))
    assert dataset.picture_path(0).as_posix() == "/pets/a/b.png"


@pytest.mark.parametrize(
    ("latencies_ms", "drifts"),
    [
        ((10,) * 30, False),
        ((10,) * 20 + (11,) * 10, True),
        ((10, 20) * 15, False),  # two levels in turns are no drift
        ((10,) * 29 + (900,), False),
        ((10, 11), False),  # too few to tell
    ],
)
def test_a_process_drifts_when_its_thirds_differ(latency_row, latencies_ms, drifts):
    sample = replace(
        latency_row.samples[0], latencies_ns=tuple(ms * 1_000_000 for ms in latencies_ms)
    )
    assert sample.drifts is drifts
    row = replace(latency_row, samples=(*latency_row.samples, sample))
    assert row.steady is not drifts


def test_a_cold_start_is_the_median_of_the_processes_sums(latency_row):
    assert latency_row.cold_start_ms is None  # an early row, which did not time the import
    samples = tuple(
        replace(sample, import_ms=import_ms)
        for sample, import_ms in zip(latency_row.samples, (100.0, 150.0, 900.0), strict=True)
    )
    row = replace(latency_row, samples=samples)
    assert row.cold_start_ms == pytest.approx(150 + 200 + 30)
    assert row.peak_rss_bytes == 300_000_000
