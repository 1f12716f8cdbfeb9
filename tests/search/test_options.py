"""What can be refused of a search before pictures are read and torch is loaded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from bench.errors import InputError
from bench.search.options import STORES, SearchOptions, parse_store

GONE = Path("gone")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"study": "../up"}, r"'\.\./up'"),
        ({"pruner": "medain"}, r"--pruner takes .* or none, not 'medain' \(did you mean `median`"),
        ({"sampler": "tpx"}, r"--sampler takes .* or grid, not 'tpx' \(did you mean `tpe`"),
        ({"cache_gb": math.nan}, r"--cache-gb must be a number of gigabytes, not nan"),
        ({"cache_gb": -1.0}, r"--cache-gb must be a number of gigabytes, not -1\.0"),
        ({"workers": 0}, r"--workers must be 1 or more, not 0"),
        ({"seed": -1}, r"--seed must be 0 or more, not -1"),
        ({"max_latency_ms": 0.0}, r"--max-latency-ms must be more than 0, not 0"),
        ({"max_latency_ms": math.nan}, r"--max-latency-ms must be more than 0, not nan"),
        ({"test_fraction": 2.0}, r"--test-fraction must lie above 0 and at most 0\.5, not 2\.0"),
        ({"test_fraction": 0.0}, r"--test-fraction must lie above 0"),
        ({"group_pattern": r"(\d+"}, r"--group-pattern '\(\\d\+' is no regular expression"),
        ({"group_pattern": r"\d+\.png"}, r"--group-pattern '\\d\+\\\.png' has no capture group"),
        ({"groups": GONE}, r"--groups gone: no such file; give a CSV"),
        ({"parts": (GONE,)}, r"--parts gone: no such file; give a CSV"),
        ({"parts": (GONE,), "protocols": ("random",)}, r"--parts belongs to --protocol file"),
        ({"backbones": ("resnet50", "resnet5O")}, r"unknown backbone 'resnet5O'"),
        ({"weights": {"resnet50": GONE}}, r"--weights resnet50=gone: no such file"),
    ],
)
def test_what_can_work_with_no_pictures_is_refused_at_once(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        SearchOptions(**given)


def test_what_is_not_given_is_fine() -> None:
    assert SearchOptions().store == "exact"


@pytest.mark.parametrize("name", STORES)
def test_a_store_is_known_by_its_name(name: str) -> None:
    assert parse_store(name) == name


def test_an_unknown_store_is_refused() -> None:
    with pytest.raises(InputError, match=r"--store takes exact or half, not 'halve' \(did you"):
        parse_store("halve")
