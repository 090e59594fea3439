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
# Nothing counts in the first seconds of a transfer.
LEAD = 1
# How long a transfer may take longer than it should: it ends only after everything in its queues has arrived.
PATIENCE = 20
# After a transfer: what is still in queues must not disturb the next measurement.
REST = 0.2
# Bytes of a packet, of the datagram that fills it, and of the headers of TCP with a timestamp.
PACKET = 1500
DATAGRAM = PACKET - 28
TCP_HEADERS = 52
# UDP offers so much of the limit, and at least so much for a measurement to count.
OVERLOAD, LEAST_OFFERED = 1.25, 1.1
# iperf3 counts what it has received in blocks: this many in a second at least, unless they were smaller than a packet.
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

    def __init__(self, lab, link, seconds, *, rate=None, streams=1, incoming=False, port=IPERF_PORT):
        self.lab, self.seconds, self.incoming = lab, seconds, incoming
        self.logs = [lab.dir / f"iperf3-{link.client.name}-{side}.log" for side in ("server", "client")]
        for log in self.logs:
            log.write_text("")
        version = f"-{link.version}"
        serving = ["iperf3", version, "--server", "--one-off", "--json", "--port", str(port)]
        self.server = lab.start(link.server, self.logs[0].name, *serving)
        self.client = None
        try:
            wait_for("iperf3", 5, lambda: is_listening(link.server, port))
            sending = ["iperf3", version, "--client", link.address, "--json", "--port", str(port)]
            sending += ["--connect-timeout", "5000", "--time", str(seconds), "--parallel", str(streams)]
            sending += ["--reverse"] if incoming else []
            sending += ["--congestion", CONGESTION, "--length", str(block_length(rate))]
            self.client = lab.start(link.client, self.logs[1].name, *sending)
        except BaseException:
            self.end()
            raise

    def end(self):
        """Ends it at once."""
        for process in (self.client, self.server):
            if process is not None:
                self.lab.end(process)
        self.client = self.server = None

    def goes_on(self):
        return self.client.poll() is None

    def await_end(self):
        for process in (self.client, self.server):
            wait_for("the end of iperf3", self.seconds + PATIENCE, lambda each=process: each.poll() is not None)

    def report(self, side):
        text = self.logs[side].read_text()
        try:
            report = json.loads(text)
        except ValueError as error:
            raise Failed(f"iperf3: {' '.join(text.split())[-160:] or 'it said nothing'}") from error
        if "error" in report:
            raise Failed(f"iperf3: {report['error']}")
        return report

    def received(self, seconds):
        """Returns the bits per second of whole packets of TCP with their headers, in so many seconds after the lead."""
        self.await_end()
        client, receiver = self.report(1), self.report(1 if self.incoming else 0)
        if client["end"].get("sender_tcp_congestion") != CONGESTION:
            raise Failed(f"iperf3: the sender uses {client['end'].get('sender_tcp_congestion')}, not {CONGESTION}")
        sums = [interval["sum"] for interval in receiver["intervals"]]
        steady = [each for each in sums if each["start"] > LEAD - 0.5 and each["end"] < LEAD + seconds + 0.5]
        if len(steady) < seconds:
            raise Failed(f"iperf3: {len(steady)} of {seconds} seconds have figures")
        payload = sum(each["bytes"] for each in steady) / sum(each["seconds"] for each in steady)
        segment = client["start"]["tcp_mss_default"]
        return payload * 8 * (segment + TCP_HEADERS) / segment


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


def tcp_rate(lab, link, seconds, **options):
    """Measures bits per second of TCP's packets."""
    with transfer(lab, link, LEAD + seconds, **options) as running:
        return running.received(seconds)


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
