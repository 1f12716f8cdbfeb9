"""The machine that a measurement ran on: its processor, its memory, the state of its GPU."""

from __future__ import annotations

import csv
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

# Field of `nvidia-smi --query-gpu`, and the name under which it is stored, with its unit.
GPU_FIELDS = {
    "driver_version": "driver",
    "clocks.sm": "sm_clock_mhz",
    "clocks.max.sm": "sm_clock_most_mhz",
    "clocks.mem": "memory_clock_mhz",
    "temperature.gpu": "temperature_c",
    "power.draw": "power_w",
    "pstate": "performance_state",
}
_SMI_LIMIT_S = 20


def cpu_name() -> str:
    """The processor's name as the kernel tells it, otherwise as Python knows it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def physical_cores() -> int:
    """Physical cores that this process may use; hyper-threads of one core count once."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    return len({_siblings_of(cpu) for cpu in os.sched_getaffinity(0)})


def machine_name() -> str:
    """What tells one machine's latencies from another's: the processor and its cores in use."""
    return f"{cpu_name()}, {physical_cores()} cores"


def _siblings_of(cpu: int) -> str:
    topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        return topology.read_text().strip()
    except OSError:
        return str(cpu)


def peak_rss_bytes() -> int:
    """Largest resident memory that this process has had.

    Linux carries `ru_maxrss` over from the process that started this one, so a parent with
    torch loaded would be measured instead; `VmHWM` begins anew with each program.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def gpu_state(pci_bus_id: str) -> dict[str, str]:
    """Driver, clocks, temperature and power of one GPU, as `nvidia-smi` tells them at this moment.

    Empty where there is no `nvidia-smi` or it gives no such answer: a container may lack it while
    CUDA works, and a latency without its clocks is still a latency.
    """
    query = ["nvidia-smi", f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(
            [*query, f"--id={pci_bus_id}"],
            capture_output=True,
            text=True,
            check=True,
            timeout=_SMI_LIMIT_S,
        )
        return read_gpu_state(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError, csv.Error):
        return {}


def read_gpu_state(line: str) -> dict[str, str]:
    """Name the values of one line of `nvidia-smi`'s CSV; what a GPU does not tell is left out.

    Raises:
        ValueError, csv.Error: it is not one line of so many values.
    """
    (values,) = csv.reader([line.strip()], skipinitialspace=True)
    return {
        name: value
        for name, value in zip(GPU_FIELDS.values(), values, strict=True)
        if not value.startswith("[")  # "[N/A]", "[Not Supported]"
    }
