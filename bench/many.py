"""A hundred vassals with a stream each, and the same over veth pairs."""

import contextlib
import re
import time

import probes
from lab import wait_for
from subjects import ROUTER_ADDRESSES, Link, Router, Subject, forward, give_addresses, join
from transfers import LEAD, LONGEST, held

COUNT = 100
FIRST_PORT = 6000
PEOPLE = [f"vassal{number}" for number in range(1, COUNT + 1)]


class Many(Router):
    """A router with a hundred vassals."""

    vassal_addresses = {
        name: (f"10.0.1.{number}", f"fd00:77:0:0:1::{number:x}") for number, name in enumerate(PEOPLE, 1)
    }

    def links(self):
        return [Link(self.vassals[name], self.host, ROUTER_ADDRESSES, "emperor0") for name in PEOPLE]


class VethMany(Subject):
    """A host with a veth pair for each of a hundred vassals."""

    def begin(self):
        self.host = self.space("host")
        forward(self.host)
        give_addresses(self.host, "lo", ROUTER_ADDRESSES, (32, 128))
        self.vassals = {}
        for number, name in enumerate(PEOPLE, 1):
            self.vassals[name] = space = self.space(name)
            join(self.host, name, space)
            gateway, address = (f"10.0.{100 + number}.{end}" for end in (1, 2))
            give_addresses(self.host, name, [gateway], [24])
            give_addresses(space, "eth0", [address], [24])
            space.must("ip", "route", "add", "default", "via", gateway)

    def links(self):
        return [Link(self.vassals[name], self.host, ROUTER_ADDRESSES, name) for name in PEOPLE]


@contextlib.contextmanager
def streams(lab, links, address):
    """TCP of iperf3 over each of the links, all at the same time, while the block runs. All of them lead into one namespace."""
    server, log = links[0].server, f"iperf3-{links[0].server.name}-many.log"
    ports = range(FIRST_PORT, FIRST_PORT + len(links))
    with held(lab, "iperf3") as running:
        for port in ports:
            running.append(lab.start(server, log, "iperf3", "--server", "--one-off", "--port", str(port)))
        wait_for("iperf3", 30, lambda: all(probes.is_listening(server, port) for port in ports))
        for port, link in zip(ports, links):
            command = ["iperf3", "--client", address, "--port", str(port), "--time", str(LONGEST)]
            running.append(lab.start(link.client, log, *command))
        wait_for("all streams", 30, lambda: len(received(server)) == len(links) and min(received(server).values()) > 0)
        time.sleep(LEAD)
        yield


def received(server):
    """Returns the bytes that each port of a namespace has received by its stream. iperf3's own connection has hardly any."""
    listed = server.must("ss", "-tinHO", "state", "established", f"( sport >= :{FIRST_PORT} )")
    found = {}
    for port, count in re.findall(r":(\d+)\s+\S+:\d+\s.*?\bbytes_received:(\d+)", listed):
        found[port] = max(found.get(port, 0), int(count))
    return found


def many(lab, subject, times, _version):
    """Measures what a hundred streams have together, and the least and the greatest of them beside their mean."""
    links = subject.links()
    with streams(lab, links, ROUTER_ADDRESSES[0]):
        before, start = received(links[0].server), time.monotonic()
        time.sleep(times.rate)
        after, end = received(links[0].server), time.monotonic()
    rates = [(after[port] - before[port]) * 8 / (end - start) / 1e9 for port in after]
    if len(rates) != len(links):
        raise probes.Failed(f"{len(rates)} of {len(links)} streams")
    mean = sum(rates) / len(rates)
    return {"many": sum(rates), "many_least": min(rates) / mean, "many_greatest": max(rates) / mean}
