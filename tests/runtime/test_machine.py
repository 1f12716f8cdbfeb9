import subprocess
import sys

import pytest

from bench.runtime import machine
from bench.runtime.machine import gpu_state, peak_rss_bytes, physical_cores, read_gpu_state


def test_the_state_of_a_gpu_is_named_with_its_units():
    line = "580.65.06, 1980, 1980, 2619, 41, 118.53, P0\n"
    assert read_gpu_state(line) == {
        "driver": "580.65.06",
        "sm_clock_mhz": "1980",
        "sm_clock_most_mhz": "1980",
        "memory_clock_mhz": "2619",
        "temperature_c": "41",
        "power_w": "118.53",
        "performance_state": "P0",
    }


def test_what_a_gpu_does_not_tell_is_left_out():
    state = read_gpu_state("580.65.06, [N/A], 1980, 2619, 41, [Not Supported], P0")
    assert "sm_clock_mhz" not in state
    assert "power_w" not in state
    assert state["temperature_c"] == "41"


@pytest.mark.parametrize(
    "failure", [FileNotFoundError("nvidia-smi"), subprocess.CalledProcessError(9, "nvidia-smi")]
)
def test_a_machine_without_nvidia_smi_tells_nothing(monkeypatch, failure):
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(machine.subprocess, "run", fail)
    assert gpu_state("0000:0a:00.0") == {}


@pytest.mark.parametrize("said", ["", "No devices were found\n", "580.65.06, 1980\n1, 2\n"])
def test_an_nvidia_smi_that_says_something_else_tells_nothing(monkeypatch, said):
    answer = subprocess.CompletedProcess([], 0, stdout=said)
    monkeypatch.setattr(machine.subprocess, "run", lambda *_, **__: answer)
    assert gpu_state("0000:0a:00.0") == {}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux carries it over")
def test_the_peak_memory_is_the_programs_own_and_not_its_parents():
    ballast = bytearray(300 * 2**20)
    code = "from bench.runtime.machine import peak_rss_bytes; print(peak_rss_bytes())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert peak_rss_bytes() > len(ballast) > int(child.stdout)


def test_hyper_threads_of_one_core_count_once(monkeypatch):
    siblings = {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: set(siblings))
    monkeypatch.setattr(machine, "_siblings_of", siblings.__getitem__)
    assert physical_cores() == 2
