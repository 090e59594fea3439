"""One measurement each, over a link. Each returns figures by name."""

import json
import os
import re
import time
from pathlib import Path

from lab import wait_for

IPERF_PORT = 5201
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """The measurement failed."""


def tcp(lab, link, seconds, *, streams=1, incoming=False):
    """Measures Gbit/s at the receiver. Incoming is towards the client, over connections that the client opens."""
    log = f"iperf3-{link.server.name}.log"
    version = f"-{link.version}"
    server = lab.start(link.server, log, "iperf3", version, "--server", "--one-off")
    try:
        wait_for("iperf3", 5, lambda: is_listening(link.server, IPERF_PORT))
        command = ["iperf3", version, "--client", link.address, "--json", "--connect-timeout", "3000"]
        command += ["--time", str(seconds), "--parallel", str(streams), *(["--reverse"] if incoming else [])]
        done = link.client.run(*command, seconds=seconds + 6)
    finally:
        lab.end(server)
    try:
        received = json.loads(done.stdout)["end"]["sum_received"]
        return received["bits_per_second"] / 1e9, received["bytes"] / 1e9
    except (ValueError, KeyError) as error:
        raise Failed(f"iperf3: {complaint(done)}") from error


def is_listening(space, port):
    """Returns true if a port of a namespace has a listener."""
    wanted = re.compile(rf"^\s*\d+: [0-9A-F]+:{port:04X} \S+ 0A ", re.MULTILINE)
    return any(wanted.search(Path(f"/proc/{space.pid}/net/{table}").read_text()) for table in ("tcp", "tcp6"))


class MachineCpu:
    """The CPU time of all that runs on the machine, from when it was made on."""

    def __init__(self):
        self.start = self.busy()

    @staticmethod
    def busy():
        # user, nice, system, idle, iowait, irq, softirq: proc(5). Time that a hypervisor gives to others is nobody's here.
        ticks = [int(ticks) for ticks in Path("/proc/stat").read_text().split("\n")[0].split()[1:8]]
        return (sum(ticks) - ticks[3] - ticks[4]) / TICKS_PER_SECOND

    def seconds(self):
        return self.busy() - self.start


def cpu_seconds(pids):
    """Returns the CPU time that processes have used so far, in user space and in the kernel."""
    total = 0
    for pid in pids:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError) as error:
            raise Failed(f"process {pid} ended") from error
        # The name in parentheses may contain anything, so count the fields from its end.
        fields = stat.rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS_PER_SECOND


def flood(lab, link, seconds):
    """Measures how many small datagrams arrived and were sent, in thousands per second."""
    lead = 0.2
    log = lab.dir / f"flood-{link.client.name}.log"
    log.write_text("")
    took = seconds + 2 * lead
    sender = lab.start(link.client, log.name, str(lab.dir / "flood"), link.address, str(took))
    try:
        time.sleep(lead)
        before, start = arrived(link), time.monotonic()
        time.sleep(seconds)
        after, end = arrived(link), time.monotonic()
        wait_for("the sender", 5, lambda: sender.poll() is not None)
    finally:
        lab.end(sender)
    sent = re.fullmatch(r"(\d+)\n", log.read_text())
    if sender.returncode != 0 or not sent:
        raise Failed(f"flood: {log.read_text().strip() or sender.returncode}")
    return (after - before) / (end - start) / 1e3, int(sent[1]) / took / 1e3


def arrived(link):
    """Returns the number of datagrams that have reached the server's UDP, those included that nobody had room for. Interfaces
    don't count what the kernel has passed on before it came to them."""
    net = Path(f"/proc/{link.server.pid}/net")
    names, numbers = [line.split()[1:] for line in (net / "snmp").read_text().splitlines() if line.startswith("Udp: ")]
    counters = {f"Udp{name}": int(number) for name, number in zip(names, numbers)}
    counters |= {name: int(number) for name, number in map(str.split, (net / "snmp6").read_text().splitlines())}
    return sum(counters[f"{udp}{event}"] for udp in ["Udp", "Udp6"] for event in ["InDatagrams", "NoPorts", "InErrors"])


def pingpong(lab, link, seconds):
    """Measures round trips of one byte over TCP: median and 99th percentile in microseconds."""
    done = link.client.run(str(lab.dir / "pingpong"), link.address, str(seconds), seconds=seconds + 5)
    if done.returncode != 0:
        raise Failed(complaint(done))
    _count, median, worst = done.stdout.split()
    return float(median), float(worst)


def ping(_lab, link, seconds):
    """Measures the mean round trip of `ping -f` in microseconds."""
    # ping rounds a time limit up to whole seconds, so the limit is a number of requests: at most some 100 us each.
    count = str(int(seconds * 10000))
    done = link.client.run("ping", "-q", "-f", "-c", count, "-w", "3", link.address, seconds=8)
    times = re.search(r"= [\d.]+/([\d.]+)/", done.stdout)
    received = re.search(r"(\d+) received", done.stdout)
    if not times or int(received[1]) < 50:
        raise Failed(complaint(done))
    return float(times[1]) * 1000


def connects(lab, link, seconds):
    """Measures TCP connections per second, some at a time."""
    done = link.client.run(str(lab.dir / "connects"), link.address, str(seconds), seconds=seconds + 5)
    if done.returncode != 0:
        raise Failed(complaint(done))
    return float(done.stdout)


def complaint(done):
    """Says in one line why a command failed."""
    text = done.stderr.strip() or done.stdout.strip()
    try:
        return json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        return " ".join(text.split())[-160:] or f"exit code {done.returncode}"
