"""Rows that were measured in turns, compared: the ratio of their times and what it carries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.bootstrap import median_interval
from bench.records import LatencyRow, percentile

TIE_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRatio:
    """Two rows that were measured in turns, in the same set-up or with different engines.

    ratio: p50 of the first over that of the second, the median of the rounds' own ratios; 1.2
        says that the first takes 1.2 times as long.
    interval: its 95 % bootstrap interval over the rounds; None of fewer than five rounds.
    """

    first: LatencyRow
    second: LatencyRow

    @property
    def round_ratios(self) -> tuple[float, ...]:
        pairs = zip(self.first.process_medians_ms, self.second.process_medians_ms, strict=True)
        return tuple(first_ms / second_ms for first_ms, second_ms in pairs)

    @property
    def ratio(self) -> float:
        return percentile(self.round_ratios, 50)

    @property
    def interval(self) -> tuple[float, float] | None:
        return median_interval(self.round_ratios)

    @property
    def verdict(self) -> str:
        """What the ratio carries: a difference, a tie, or nothing for want of rounds."""
        near = 1 / (1 + TIE_TOLERANCE) <= self.ratio <= 1 + TIE_TOLERANCE
        if near or (self.interval is not None and self.interval[0] <= 1 <= self.interval[1]):
            return "tie"
        if self.interval is None:
            return "too few processes to tell"
        return "the first is slower" if self.ratio > 1 else "the first is faster"


def compare(rows: Sequence[LatencyRow]) -> tuple[LatencyRatio, ...]:
    """Compare each row with the first one of the same device, scope, batch size and threads."""
    groups: dict[tuple[object, ...], list[LatencyRow]] = {}
    for row in rows:
        key = (row.device, row.scope, row.batch_size, row.threads)
        groups.setdefault(key, []).append(row)
    return tuple(
        LatencyRatio(first=first, second=second)
        for first, *others in groups.values()
        for second in others
    )
