"""What captures cost those whose packets nobody captures: the same router without any capture, beside one with a capture that wants no
packet, and beside one whose capture has ended."""

import json
import time
from pathlib import Path

import probes
from kinds import Figure, Row, Target
from lab import Trouble, wait_for
from subjects import Router

ASK = Path(__file__).resolve().parent / "ask"

NEVER, OTHERS, ENDED = "captures-never", "captures-others", "captures-ended"
# A port that nothing here uses.
SELECTOR = "any any udp 1"

AGAINST = {"/ never": NEVER}
FIGURES = {
    "captures_udp": Figure("UDP with 64 bytes, received, by captures", "kpps", 1, references=AGAINST),
    "captures_tcp_out": Figure("TCP out, 1 stream, by captures", "Gbit/s", references=AGAINST),
    "captures_tcp_rtt": Figure("Round trip, 1 byte over TCP, median, by captures", "us", 1, references=AGAINST),
}


class CapturingRouter(Router):
    """A router with a capture that wants none of the packets that are measured; one that has ended if `ends`."""

    def __init__(self, lab, key, label, uwsgi, plugins, *, ends):
        super().__init__(lab, key, label, uwsgi, plugins)
        self.ends = ends
        # The router that has been asked, and the process that holds the connection to it: a capture lasts as long as that.
        self.asked = None
        self.client = None

    def get_ready(self):
        super().get_ready()
        if self.asked == self.router:
            return
        self.stop()
        ended = self.count_ended()
        self.client = self.begin_capture()
        self.asked = self.router
        if self.ends:
            self.stop()
            wait_for(f"the end of the capture of {self.key}", 10, lambda: self.count_ended() > ended)

    def stop(self):
        if self.client is not None:
            self.lab.end(self.client)
            self.client = None

    def is_intact(self):
        return super().is_intact() and (self.ends or self.client.poll() is None)

    def begin_capture(self):
        log = self.lab.dir / f"{self.key}-capture.log"
        log.write_text("")
        request = json.dumps({"verb": "capture", "selector": SELECTOR})
        client = self.lab.start(self.host, log.name, str(ASK), f"{self.dir}/router.control", request)
        wait_for(f"the answer to {self.key}", 10, lambda: log.read_text().endswith("\n") or client.poll() is not None)
        if "ok" not in json.loads(log.read_text() or "{}"):
            raise Trouble(f"{self.key}: no capture: {log.read_text().strip()}")
        return client

    def count_ended(self):
        return (self.lab.dir / self.log).read_text(errors="replace").count("a capture of packets has ended")


def measure(lab, subject, times, version):
    link = subject.link.over(version)
    received, _ = probes.flood(lab, link, times.other)
    # Packets that are still on their way must not disturb the next measurement.
    time.sleep(0.1)
    return {
        "captures_udp": received,
        "captures_tcp_out": probes.tcp(lab, link, times.tcp)[0],
        "captures_tcp_rtt": probes.pingpong(lab, link, times.other)[0],
    }


ROWS = {"captures": Row([NEVER, OTHERS, ENDED], measure, is_usual=False)}
TARGETS = [
    Target("small UDP, after a capture / never one", "captures_udp", ENDED, NEVER, 0.95),
    Target("TCP out, after a capture / never one", "captures_tcp_out", ENDED, NEVER, 0.95),
    Target("round trip over TCP, after a capture / never one", "captures_tcp_rtt", ENDED, NEVER, 1.05, is_ceiling=True),
    Target("small UDP, beside a capture of others / never one", "captures_udp", OTHERS, NEVER, 0.85),
    Target("TCP out, beside a capture of others / never one", "captures_tcp_out", OTHERS, NEVER, 0.85),
]


def makers(lab, ours):
    """Returns functions that make subjects, by their keys."""
    return {
        NEVER: lambda key: Router(lab, key, "ours, never captured", *ours),
        OTHERS: lambda key: CapturingRouter(lab, key, "ours, other packets are captured", *ours, ends=False),
        ENDED: lambda key: CapturingRouter(lab, key, "ours, a capture has ended", *ours, ends=True),
    }
