"""Records of latency: processes, rows, and what is derived from them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from bench.bootstrap import median_interval

# What one call covers (see `bench.runtime.measure`).
LatencyScope = Literal["model", "end-to-end", "device"]
Engine = Literal["onnxruntime", "torch", "torch-compile", "openvino"]

DRIFT_TOLERANCE = 0.05
_LEAST_DRIFT_CALLS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSample:
    """One fresh process's raw measurement of single calls.

    steady: the warm-up ended because the latency stood still, not because its time was over.
    import_ms, load_ms, first_call_ms: the cold start: importing the engine, opening the model,
        and its first call.
    gpu: clocks, temperature and power right after the last call, where there is a GPU.
    """

    latencies_ns: tuple[int, ...]
    steady: bool
    warmup_calls: int
    involuntary_switches: int
    import_ms: float | None = None  # not measured by early versions
    load_ms: float
    first_call_ms: float
    peak_rss_bytes: int
    measured_s: float
    gpu: dict[str, str] = field(default_factory=dict)

    @property
    def drifts(self) -> bool:
        """Whether the medians of the measurement's three thirds are more than 5 % apart."""
        calls = len(self.latencies_ns)
        if calls < _LEAST_DRIFT_CALLS:
            return False
        cuts = (0, calls // 3, 2 * calls // 3, calls)
        medians = [
            percentile(self.latencies_ns[low:high], 50) for low, high in itertools.pairwise(cuts)
        ]
        return max(medians) > min(medians) * (1 + DRIFT_TOLERANCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRow:
    """Latency of one file on one device at one batch size; derived values are properties.

    replaced: samples that other programs interrupted so often that they were taken again; kept,
        and in no figure.
    """

    model: str
    path: str
    architecture_key: str
    device: str  # "cpu", "cuda" or "tensorrt"
    device_name: str
    provider: str  # the execution provider that was proved to run the graph
    precision: str
    batch_size: int
    threads: int
    timed: str  # what one call covers, in words
    samples: tuple[ProcessSample, ...]
    versions: dict[str, str]
    scope: LatencyScope = "model"
    engine: Engine = "onnxruntime"
    machine: str = ""  # processor and cores; early versions knew the device alone
    size_bytes: int | None = None  # of the model file and what it refers to
    options: dict[str, str] = field(default_factory=dict)
    replaced: tuple[ProcessSample, ...] = ()
    # Rows of one value were measured in turns, so that their ratio stands; empty of early rows.
    turns: str = ""

    @property
    def setup(self) -> tuple[object, ...]:
        """Where and how it was measured, but for model and batch: rows compare within it."""
        return (
            *(self.machine, self.device, self.device_name, self.engine, self.provider),
            *(self.precision, self.threads, self.scope, self.timed),
            tuple(sorted(self.options.items())),
        )

    @property
    def place(self) -> str:
        """The processor with its cores, or the GPU."""
        return self.machine if self.machine and self.device == "cpu" else self.device_name

    @property
    def calls(self) -> int:
        return sum(len(sample.latencies_ns) for sample in self.samples)

    @property
    def pooled_ms(self) -> tuple[float, ...]:
        return tuple(sorted(ns / 1e6 for sample in self.samples for ns in sample.latencies_ns))

    @property
    def process_medians_ms(self) -> tuple[float, ...]:
        return tuple(percentile(sample.latencies_ns, 50) / 1e6 for sample in self.samples)

    @property
    def p50_ms(self) -> float:
        """The median of the processes' medians."""
        return percentile(self.process_medians_ms, 50)

    @property
    def p50_interval_ms(self) -> tuple[float, float] | None:
        """95 % bootstrap interval over the processes; None of fewer than five."""
        return median_interval(self.process_medians_ms)

    @property
    def p90_ms(self) -> float:
        return percentile(self.pooled_ms, 90)

    @property
    def p99_ms(self) -> float | None:
        """Pooled 99th percentile; None with fewer than 300 calls, which cannot carry one."""
        return percentile(self.pooled_ms, 99) if self.calls >= 300 else None

    @property
    def throughput_per_s(self) -> float:
        """Pictures a second at this batch size, from the median."""
        return self.batch_size * 1000.0 / self.p50_ms

    @property
    def steady(self) -> bool:
        """Every process warmed up to a standstill and did not drift while it was measured."""
        return all(sample.steady and not sample.drifts for sample in self.samples)

    @property
    def cold_start_ms(self) -> float | None:
        """From a fresh interpreter to the first answer: import, load and first call; median."""
        totals = [
            sample.import_ms + sample.load_ms + sample.first_call_ms
            for sample in self.samples
            if sample.import_ms is not None
        ]
        return percentile(tuple(totals), 50) if totals else None

    @property
    def import_ms(self) -> float | None:
        known = tuple(s.import_ms for s in self.samples if s.import_ms is not None)
        return percentile(known, 50) if known else None

    @property
    def load_ms(self) -> float:
        return percentile(tuple(sample.load_ms for sample in self.samples), 50)

    @property
    def first_call_ms(self) -> float:
        return percentile(tuple(sample.first_call_ms for sample in self.samples), 50)

    @property
    def peak_rss_bytes(self) -> int:
        """The largest of the processes' peaks."""
        return max(sample.peak_rss_bytes for sample in self.samples)


def percentile(values: tuple[float, ...] | tuple[int, ...], q: float) -> float:
    """Linear-interpolation percentile (Hyndman and Fan, 1996, type 7), as numpy's default.

    Raises:
        ValueError: `values` is empty.
    """
    if not values:
        raise ValueError("a percentile needs at least one value")
    ordered = sorted(values)
    position = (len(ordered) - 1) * q / 100.0
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def latest_row(
    latencies: Sequence[LatencyRow], key: str, device: str, *, scope: LatencyScope = "model"
) -> LatencyRow | None:
    """The last measurement of a graph, by its key, with one picture on a device."""
    wanted = (key, device, scope, 1)
    for row in reversed(latencies):
        if (row.architecture_key, row.device, row.scope, row.batch_size) == wanted:
            return row
    return None
