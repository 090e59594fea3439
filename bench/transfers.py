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
# A datagram that fills a packet of 1500 bytes, and the headers of IP and UDP in it. TCP has a timestamp in each packet.
DATAGRAM = 1472
TCP_HEADERS = 52
# UDP offers so much more than the limit.
OVERLOAD = 1.25
# iperf3 counts what it has received in blocks: this many in a second at least, unless they were smaller than a packet.
BLOCKS_PER_SECOND = 500
SMALLEST_BLOCK, LARGEST_BLOCK = 1448, 128 * 1024
# Pings: the interval in seconds, and what a lost one counts as in milliseconds.
PING_INTERVAL = 0.01
LOST = 1000.0


class Transfer:
    """iperf3 over a link. Incoming is towards the client, over connections that the client opens."""

    def __init__(self, lab, link, seconds, *, rate=None, udp=False, streams=1, incoming=False, port=IPERF_PORT):
        self.lab, self.link, self.seconds = lab, link, seconds
        self.udp, self.incoming = udp, incoming
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
            sending += self.udp_options(rate, streams) if udp else self.tcp_options(rate)
            self.client = lab.start(link.client, self.logs[1].name, *sending)
        except BaseException:
            self.end()
            raise

    @staticmethod
    def udp_options(rate, streams):
        return ["--udp", "--length", str(DATAGRAM), "--bitrate", str(int(rate * OVERLOAD / streams))]

    @staticmethod
    def tcp_options(rate):
        block = rate // 8 // BLOCKS_PER_SECOND if rate else LARGEST_BLOCK
        return ["--congestion", CONGESTION, "--length", str(min(max(block, SMALLEST_BLOCK), LARGEST_BLOCK))]

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
        # What is still in queues must not disturb the next measurement.
        time.sleep(0.2)


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


def udp_rate(lab, link, seconds, *, incoming, **options):
    """Measures bits per second of datagrams' packets, of which there are more than may pass."""
    with transfer(lab, link, LEAD + seconds + 1, udp=True, incoming=incoming, **options) as running:
        time.sleep(LEAD)
        rate = passing(link, incoming, seconds)
        if not running.goes_on():
            running.report(1)
            raise Failed("iperf3 ended before its time")
        return rate


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
