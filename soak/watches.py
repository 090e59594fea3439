"""Honest streams and probes, and the silences that they notice."""

import signal
import statistics
from dataclasses import dataclass, field

import helpers

# A silence within these seconds after a router's death is caused by it.
AFTERMATH = 4
# Seconds for data that is still on its way when a stream ends.
LAST_WAY = 20


@dataclass
class Direction:
    """What one end has received from the other."""

    seconds: float = 0
    sent: int = 0
    received: int = 0
    wrong: int = 0
    longest: float = 0
    # (start, length) in seconds of each silence that the program reports.
    silences: list = field(default_factory=list)


class Watch:
    """A program that sends both ways between two namespaces. Direction 0 is towards the first of them."""

    def __init__(self, lab, program, title, first, second, *arguments):
        self.title = title
        # The log's name contains the pair and the version of IP of the connection.
        pair = type(first)(f"{first.name}-{second.name}-{'6' if ':' in arguments[0] else '4'}", first.pid)
        self.log = lab.dir / f"{program}-{pair.name}.log"
        self.directions = [Direction(), Direction()]
        self.is_complete = False
        self.failures = []
        self.process = helpers.start(lab, pair, program, str(first.pid), arguments[0], str(second.pid), *arguments[1:])

    def is_running(self):
        return self.process.poll() is None

    def ask_for_results(self):
        self.process.send_signal(signal.SIGTERM)

    def take_results(self):
        """Waits for the end of the program and reads its output."""
        try:
            self.process.wait(LAST_WAY)
        except TimeoutError:
            self.failures.append("no end")
        lines = self.log.read_text().splitlines()
        for word, *rest in map(str.split, lines):
            if word == "silence":
                self.directions[int(rest[0])].silences.append((float(rest[1]), float(rest[2])))
            elif word == "done":
                direction = self.directions[int(rest[0])]
                direction.seconds, direction.longest = float(rest[1]), float(rest[5])
                direction.sent, direction.received, direction.wrong = map(int, rest[2:5])
                self.is_complete = True
            elif word != "ready":
                self.failures.append(" ".join([word, *rest]))

    def silence_at(self, moment):
        """Returns the longest silence, in either direction, in the time after a moment."""
        lengths = [
            length
            for direction in self.directions
            for start, length in direction.silences
            if start + length > moment and start < moment + AFTERMATH
        ]
        return max(lengths, default=0)


def median_and_most(values):
    return (statistics.median(values), max(values)) if values else (0, 0)
