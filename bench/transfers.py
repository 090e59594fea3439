"""Transfers that go on while something is measured: how fast they are, and what pings beside them take."""

import contextlib
import json
import math
import re
import time
from pathlib import Path

from lab import wait_for
from probes import IPERF_PORT, Failed, complaint, is_listening

# The kernel's default may be another one that keeps queues short by itself.
CONGESTION = "cubic"
# Nothing counts in the first second of a transfer; streams of TCP take one more until all are there.
LEAD = 1
# Seconds after which a transfer would end by itself, and seconds to wait for a program that should have ended.
LONGEST = 3600
PATIENCE = 20
# After a transfer: what is still in queues must not disturb the next measurement.
REST = 0.2
# Bytes of a packet, and of the datagram that fills it.
PACKET = 1500
DATAGRAM = PACKET - 28
# UDP offers so much of the limit, and at least so much for a measurement to count.
OVERLOAD, LEAST_OFFERED = 1.25, 1.1
# iperf3 writes and reads this many blocks in a second at least, unless they were smaller than a packet.
BLOCKS_PER_SECOND = 500
SMALLEST_BLOCK, LARGEST_BLOCK = 1448, 128 * 1024
# Pings: the interval in seconds, and what a lost one counts as in milliseconds.
PING_INTERVAL = 0.01
LOST = 1000.0


def block_length(rate):
    """Returns the bytes that iperf3 reads and writes at once, for a rate in bits per second, or None if there is no limit."""
    block = rate // 8 // BLOCKS_PER_SECOND if rate else LARGEST_BLOCK
    return min(max(block, SMALLEST_BLOCK), LARGEST_BLOCK)


class Transfer:
    """TCP of iperf3 over a link. Incoming is towards the client, over connections that the client opens."""

    def __init__(self, lab, link, *, rate=None, streams=1, incoming=False, port=IPERF_PORT):
        self.lab, self.link = lab, link
        self.streams, self.incoming, self.port = streams, incoming, port
        self.log = lab.dir / f"iperf3-{link.client.name}.log"
        self.log.write_text("")
        version = f"-{link.version}"
        serving = ["iperf3", version, "--server", "--one-off", "--port", str(port)]
        self.server = lab.start(link.server, f"iperf3-{link.server.name}.log", *serving)
        self.client = None
        try:
            wait_for("iperf3", 5, lambda: is_listening(link.server, port))
            sending = ["iperf3", version, "--client", link.address, "--json", "--port", str(port)]
            sending += ["--connect-timeout", "5000", "--time", str(LONGEST), "--parallel", str(streams)]
            sending += ["--reverse"] if incoming else []
            sending += ["--congestion", CONGESTION, "--length", str(block_length(rate))]
            self.client = lab.start(link.client, self.log.name, *sending)
        except BaseException:
            self.end()
            raise

    def end(self):
        """Ends it at once."""
        for process in (self.client, self.server):
            if process is not None:
                self.lab.end(process)
        self.client = self.server = None

    def check(self):
        """Raises Failed if it has ended."""
        if self.client.poll() is None:
            return
        text = self.log.read_text()
        try:
            reason = json.loads(text)["error"]
        except (ValueError, KeyError):
            reason = " ".join(text.split())[-160:] or "it said nothing"
        raise Failed(f"iperf3 ended: {reason}")

    def segments(self):
        """Returns the data segments of all streams that have come to the receiver, as the sender knows from acknowledgements, also
        of those out of order. The receiver doesn't know how many segments a super-packet of a TUN device has."""
        space, port = (self.link.server, "sport") if self.incoming else (self.link.client, "dport")
        listed = space.must("ss", "-tinHO", "state", "established", f"( {port} = :{self.port} )")
        # The kernel's default is for iperf3's own connection.
        streams = [line for line in listed.splitlines() if f" {CONGESTION} " in line]
        delivered = [int(count) for line in streams for count in re.findall(r" delivered:(\d+)", line)]
        if len(delivered) < self.streams:
            raise Failed(f"iperf3: {len(delivered)} of {self.streams} streams with {CONGESTION}")
        return sum(delivered)


@contextlib.contextmanager
def held(lab, what):
    """Gives a list for processes that run while the block does. Raises Failed if one of them has ended by itself, and ends them all,
    whatever happens in the block."""
    running = []
    try:
        yield running
        for process in running:
            if process.poll() is not None:
                raise Failed(f"{what} ended with {process.returncode}")
    finally:
        for process in running:
            lab.end(process)
        # Packets that are still on their way must not disturb the next measurement.
        time.sleep(REST)


@contextlib.contextmanager
def transfer(*arguments, **options):
    """A transfer that ends at the end of the block, whatever happens in it."""
    running = Transfer(*arguments, **options)
    try:
        yield running
    finally:
        running.end()
        time.sleep(REST)


def packet_bytes(link, incoming):
    """Returns the bytes of IP packets that the receiving end's interface has counted. Super-packets count as one."""
    space, device = (link.client, link.inside) if incoming else (link.server, link.arrival)
    devices = Path(f"/proc/{space.pid}/net/dev").read_text()
    line = re.search(rf"^\s*{device}:\s+(\d+)\s+(\d+)", devices, re.MULTILINE)
    return int(line[1]) - int(line[2]) * link.header


def passing(link, incoming, seconds):
    """Measures bits per second on the receiving end's interface."""
    before, start = packet_bytes(link, incoming), time.monotonic()
    time.sleep(seconds)
    return (packet_bytes(link, incoming) - before) * 8 / (time.monotonic() - start)


def dated(ask):
    """Returns an answer, and the middle of the time that it took."""
    start = time.monotonic()
    answer = ask()
    return answer, (start + time.monotonic()) / 2


def tcp_rates(transfers, seconds):
    """Measures bits per second of the packets of several transfers at the same time."""
    time.sleep(2 * LEAD)
    before = [dated(each.segments) for each in transfers]
    time.sleep(seconds)
    after = [dated(each.segments) for each in transfers]
    for each in transfers:
        each.check()
    # A stream that has much to send fills its packets.
    return [
        (count - earlier) * PACKET * 8 / (end - start) for (earlier, start), (count, end) in zip(before, after)
    ]


def tcp_rate(lab, link, seconds, **options):
    """Measures bits per second of TCP's packets."""
    with transfer(lab, link, **options) as running:
        return tcp_rates([running], seconds)[0]


def udp_rate(lab, link, seconds, *, rate, streams, incoming):
    """Measures bits per second of datagrams' packets, of which there are more than may pass."""
    sender, target = (link.server, link.client_address) if incoming else (link.client, link.address)
    per_second = rate * OVERLOAD / 8 / PACKET / streams
    took = seconds + 2 * LEAD
    log = lab.dir / f"pour-{sender.name}.log"
    log.write_text("")
    arguments = [str(DATAGRAM), f"{per_second:.3f}", str(took), *[target] * streams]
    pouring = lab.start(sender, log.name, str(lab.dir / "pour"), *arguments)
    try:
        time.sleep(LEAD)
        seen = passing(link, incoming, seconds)
        wait_for("the end of pour", PATIENCE, lambda: pouring.poll() is not None)
    finally:
        lab.end(pouring)
    time.sleep(REST)
    sent = re.fullmatch(r"(\d+)\n", log.read_text())
    if not sent:
        raise Failed(f"pour: {log.read_text().strip() or pouring.returncode}")
    offered = int(sent[1]) * PACKET * 8 / took
    if offered < rate * LEAST_OFFERED:
        raise Failed(f"pour sent only {offered / 1e6:.3g} Mbit/s: this machine is too slow or too busy")
    return seen


def pings(link, count):
    """Returns the round trips of so many pings in milliseconds, sorted; those that were lost are the last."""
    command = ["ping", f"-{link.version}", "-n", "-i", str(PING_INTERVAL), "-c", str(count), "-W", "1", link.address]
    done = link.client.run(*command, seconds=count * PING_INTERVAL + 10)
    trips = re.findall(r"icmp_seq=(\d+) ttl=\d+ time=([\d.]+) ms$", done.stdout, re.MULTILINE)
    if not trips:
        raise Failed(f"ping: {complaint(done)}")
    times = sorted(float(trip) for trip in dict(trips).values())
    return times + [LOST] * (count - len(times))


def percentile(times, share):
    """Returns the least time that so great a share of all is not above."""
    return times[math.ceil(share * len(times)) - 1]
