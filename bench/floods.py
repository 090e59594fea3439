"""Honest vassals beside floods: what is left of their TCP and of their pings. Each figure is a ratio to the same
measurement without the flood right before, or a loss."""

import contextlib
import math
import re
import signal
import time

import helpers
import probes
from lab import wait_for
from subjects import ROUTER_ADDRESSES, Link, Router, Subject, forward, give_addresses, join
from transfers import held

FLOODERS = 10
# Two more vassals are honest: one has a TCP connection, one pings.
HONEST, PINGER = "honest", "pinger"
PEOPLE = [f"flooder{number}" for number in range(FLOODERS)] + [HONEST, PINGER]
# The interval of pings in seconds, and how long a flood runs before anything is measured beside it.
PING_INTERVAL = 0.01
LEAD = 0.5
# Packets per second of a flood that isn't as fast as it can be: those of 64 bytes on Ethernet of 100 Mbit/s are 148,810.
PACE = 148_810


class Crowd(Router):
    """A router with ten vassals that can flood, and two honest ones."""

    serving = None

    vassal_addresses = {
        name: (f"10.0.0.{number}", f"fd00:77::{number:x}") for number, name in enumerate(PEOPLE, 2)
    }

    def get_ready(self):
        super().get_ready()
        if self.serving is None:
            self.serving = [helpers.start(self.lab, self.vassals[name], "serve") for name in PEOPLE]

    def link_of(self, name):
        return Link(self.vassals[name], self.host, ROUTER_ADDRESSES, "emperor0")

    def address_of(self, name):
        return self.vassal_addresses[name][0]


class VethCrowd(Subject):
    """A host with a veth pair for one vassal that is flooded and for each of the honest ones. Here the kernel makes those that send
    do all of the work, so what is left of TCP is what the processes that flood leave it of the processors."""

    names = [PEOPLE[0], HONEST, PINGER]

    def begin(self):
        self.host = self.space("host")
        forward(self.host)
        give_addresses(self.host, "lo", ROUTER_ADDRESSES, (32, 128))
        self.vassals = {}
        for number, name in enumerate(self.names, 1):
            self.vassals[name] = space = self.space(name)
            join(self.host, name, space)
            give_addresses(self.host, name, (f"10.0.{number}.1", f"fd00:77:{number}::1"), (24, 64))
            give_addresses(space, "eth0", (self.address_of(name), f"fd00:77:{number}::2"), (24, 64))
            space.must("ip", "route", "add", "default", "via", f"10.0.{number}.1")
        for space in [self.host, *self.vassals.values()]:
            helpers.start(self.lab, space, "serve")

    def link_of(self, name):
        return Link(self.vassals[name], self.host, ROUTER_ADDRESSES, name)

    def address_of(self, name):
        return f"10.0.{1 + self.names.index(name)}.2"


@contextlib.contextmanager
def flooding(lab, senders, rate=None):
    """Floods while the block runs. `senders` are pairs of a namespace and an address. With a rate, each sends so many packets in a
    second, else as many as it can."""
    flood = [str(lab.dir / "flood")] if rate is None else [str(lab.dir / "pour"), "18", str(rate), "3600"]
    order = (lambda address: [address, "3600"]) if rate is None else (lambda address: [address])
    with held(lab, "a flood") as running:
        for space, address in senders:
            running.append(lab.start(space, f"flood-{space.name}.log", *flood, *order(address)))
        time.sleep(LEAD)
        yield


class Pings:
    """Pings that run beside something else."""

    def __init__(self, lab, space, address, name):
        self.lab, self.log = lab, lab.dir / f"{name}.log"
        self.log.write_text("")
        command = ["ping", "-n", "-i", str(PING_INTERVAL), "-W", "2", address]
        self.process = lab.start(space, self.log.name, *command)

    def end(self):
        """Returns the share that was lost, and the 99th percentile of the round trips in milliseconds."""
        # SIGINT makes ping wait no longer, so that the last requests may be without an answer.
        self.process.send_signal(signal.SIGINT)
        wait_for("ping", 5, lambda: self.process.poll() is not None)
        self.lab.end(self.process)
        text = self.log.read_text()
        trips = {int(seq): float(ms) for seq, ms in re.findall(r"icmp_seq=(\d+) ttl=\d+ time=([\d.]+) ms", text)}
        sent = re.search(r"(\d+) packets transmitted", text)
        if not sent or not trips:
            raise probes.Failed("ping: no answers")
        # Those that were sent last may still be on their way.
        counted = max(trips)
        times = sorted(trips.values())
        return 1 - len(trips) / counted, times[math.ceil(0.99 * len(times)) - 1]


def beside(lab, subject, times):
    """Measures TCP both ways with pings beside it."""
    honest = subject.link_of(HONEST)
    pings = Pings(lab, subject.vassals[PINGER], ROUTER_ADDRESSES[0], f"pings-{subject.key}")
    try:
        out = probes.tcp(lab, honest, times.tcp)[0]
        into = probes.tcp(lab, honest, times.tcp, incoming=True)[0]
    finally:
        lost, p99 = pings.end()
    return {"out": out, "in": into, "lost": 100 * lost, "p99": p99}


def figures(name, quiet, loud, share):
    """Makes figures of what was measured without and with a flood; TCP is compared with its fair share."""
    return {
        f"{name}_tcp_out": loud["out"] / (quiet["out"] * share),
        f"{name}_tcp_in": loud["in"] / (quiet["in"] * share),
        f"{name}_lost": loud["lost"],
        f"{name}_p99": loud["p99"],
        f"{name}_quiet_p99": quiet["p99"],
        f"{name}_quiet_lost": quiet["lost"],
    }


def flood_out(lab, subject, times, _version):
    """Ten vassals flood: half of them the host, half another vassal by the host's kernel."""
    quiet = beside(lab, subject, times)
    names = PEOPLE[:FLOODERS]
    targets = [
        ROUTER_ADDRESSES[0] if number % 2 else subject.address_of(names[(number + 1) % FLOODERS])
        for number in range(FLOODERS)
    ]
    with flooding(lab, [(subject.vassals[name], target) for name, target in zip(names, targets)]):
        loud = beside(lab, subject, times)
    return figures("flood_out", quiet, loud, 1 / (FLOODERS + 1))


def flood_in(lab, subject, times, _version):
    """The host floods one vassal from one process, as fast as it can."""
    return flood_from_host("flood_in", lab, subject, times, senders=1)


def flood_in_twice(lab, subject, times, _version):
    """The host floods one vassal from two processes, as fast as they can: with two cores each of them has one."""
    return flood_from_host("flood_in_twice", lab, subject, times, senders=2)


def flood_in_paced(lab, subject, times, _version):
    """The host sends one vassal as many small packets as a fast line of 100 Mbit/s can bring."""
    return flood_from_host("flood_in_paced", lab, subject, times, senders=1, rate=PACE)


def flood_from_host(name, lab, subject, times, senders, rate=None):
    victim = PEOPLE[0]
    quiet = beside(lab, subject, times)
    before, start = packets_read(subject), time.monotonic()
    with flooding(lab, [(subject.host, subject.address_of(victim))] * senders, rate):
        loud = beside(lab, subject, times)
    shown = figures(name, quiet, loud, 1)
    if before is not None:
        shown[f"{name}_read"] = (packets_read(subject) - before) / (time.monotonic() - start) / 1e3
    return shown


def packets_read(subject):
    """Returns how many packets the router has read from its device; None without a router."""
    return subject.stats()["totals"]["tun_rx_packets"] if isinstance(subject, Crowd) else None
