"""Records to tables: each function takes a study's record and returns one `Table`."""

from reports.tables.calibration import calibration
from reports.tables.comparison import comparison, costs, cross_study, further_scores, protocols
from reports.tables.data import (
    broken_files,
    classes,
    conflicts,
    data_facts,
    machine,
    study_settings,
)
from reports.tables.models import confusion, hyper_parameters, parity, per_class, recipe, seeds
from reports.tables.precisions import precisions, variant_checks, variants
from reports.tables.trials import failures, trial_counts, trials

__all__ = [
    "broken_files",
    "calibration",
    "classes",
    "comparison",
    "conflicts",
    "confusion",
    "costs",
    "cross_study",
    "data_facts",
    "failures",
    "further_scores",
    "hyper_parameters",
    "machine",
    "parity",
    "per_class",
    "precisions",
    "protocols",
    "recipe",
    "seeds",
    "study_settings",
    "trial_counts",
    "trials",
    "variant_checks",
    "variants",
]
