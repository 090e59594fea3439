"""Describes the machine and the programs that a run's figures belong to."""

import os
import platform
import re
import subprocess
import time
from pathlib import Path


def describe(uwsgi, plugins):
    cpus = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)$", cpus, re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(memory[1]) / 2**20, 1),
        "kernel": platform.release(),
        "plugin": str(plugins / "tuntap_plugin.so"),
        "uwsgi": first_line(uwsgi, "--version"),
        "uwsgi_of_c_plugin": first_line("/usr/bin/uwsgi-core", "--version"),
        "iperf3": first_line("iperf3", "--version"),
        "slirp4netns": first_line("slirp4netns", "--version"),
        # Debian's pasta doesn't report its version.
        "passt": first_line("dpkg-query", "--show", "--showformat", "${Version}", "passt"),
    }


def busy_share(seconds):
    """Returns the part of the machine's CPU time that is in use. A hypervisor's other guests count, too."""
    before = cpu_times()
    time.sleep(seconds)
    spent = [after - earlier for after, earlier in zip(cpu_times(), before)]
    idle = spent[3] + spent[4]
    return 1 - idle / sum(spent)


def cpu_times():
    """Returns user, nice, system, idle, iowait, irq, softirq, steal: ticks of all cores together."""
    return [int(ticks) for ticks in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]


def first_line(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.split("\n")[0]


def in_a_line(machine):
    return (
        f"{machine['cores']} cores ({machine['cpu']}), {machine['memory_gib']} GiB, Linux {machine['kernel']}, "
        f"uWSGI {machine['uwsgi']}"
    )
