"""How long hosts take to notice what happens to an address: claims, ends, faults and moves."""

import calendar
import contextlib
import os
import re
import signal
import subprocess
import time

from lab import DIE_WITH_ME, Trouble, wait_for
from probes import Failed
from sites import gateway_of, vassal_of

# Seconds to wait for an event.
PATIENCE = 30
# Milliseconds between two probes.
PROBE_INTERVAL = 1
# An address that claimants have, and a host of its own, and the next one.
NUMBER = 9


class Monitor:
    """The kernel's own times of changes of its routes: `ip -ts monitor`."""

    def __init__(self, lab, space):
        self.lab = lab
        self.log = lab.dir / f"monitor-{space.name}.log"
        self.log.write_text("")
        # Times are those of the time zone.
        command = ["env", "TZ=UTC", "stdbuf", "-oL", "ip", "-ts", "-o", "monitor", "route"]
        self.process = lab.start(space, self.log.name, *command)
        wait_for("ip monitor", 10, lambda: self._sees(space))

    def _sees(self, space):
        # A route that is there already is no change.
        space.run("ip", "route", "del", "192.0.2.1/32", "dev", "lo")
        space.must("ip", "route", "add", "192.0.2.1/32", "dev", "lo")
        return "192.0.2.1" in self.log.read_text()

    def mark(self):
        return len(self.log.read_text())

    def wait_for(self, mark, address, *, is_gone):
        """Returns when an address got a way to another host, or lost it, in seconds since 1970."""
        found = wait_for(f"a change of {address}", PATIENCE, lambda: self._find(mark, address, is_gone))
        return found

    def _find(self, mark, address, is_gone):
        for line in self.log.read_text()[mark:].splitlines():
            stamp = re.match(r"\[(\d+)-(\d+)-(\d+)T(\d+):(\d+):(\d+)\.(\d+)\] (Deleted )?(\S+)", line)
            if stamp and stamp[9] == address and bool(stamp[8]) == is_gone:
                whole = calendar.timegm(tuple(int(part) for part in stamp.groups()[:6]))
                return whole + int(stamp[7]) / 10 ** len(stamp[7])
        return None

    def end(self):
        self.lab.end(self.process)


class Program:
    """One of the programs in C that are told by lines what to do."""

    def __init__(self, lab, space, name, *arguments):
        command = [*DIE_WITH_ME, *space.enter(), str(lab.dir / name), *map(str, arguments)]
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline() != "ready\n":
            raise Failed(f"{name} ended")

    def tell(self):
        """Has a claimant claim its address, or give it up; returns the time."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"{self.name} ended")
        return float(line)

    def finish(self):
        """Ends the program's input; its last words."""
        said, _ = self.process.communicate(timeout=PATIENCE)
        return said

    def end(self):
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def ended(thing):
    try:
        yield thing
    finally:
        thing.end()


def claimant(lab, host, address):
    return ended(Program(lab, host.space, "claimant", host.socket, address, gateway_of(host.number)[0]))


def probe(lab, space, address):
    return ended(Program(lab, space, "probe", address, PROBE_INTERVAL))


def read_probes(text):
    """Returns when each probe was sent and when it came back, or None."""
    pairs = (line.split() for line in text.splitlines())
    return [(float(sent), None if back == "-" else float(back)) for sent, back in pairs]


def lost(probes):
    return sum(back is None for _, back in probes)


def longest_gap(probes):
    """Returns the longest time between two probes that came back, in milliseconds."""
    sent = [at for at, back in probes if back is not None]
    return max((after - before for before, after in zip(sent, sent[1:])), default=PATIENCE) * 1e3


def milliseconds(start, end):
    return (end - start) * 1e3


def claim_and_end(lab, site):
    """An address is claimed on the first host, and its holder ends; when the last host gets its way there, and loses it."""
    address = vassal_of(1, NUMBER)[0]
    with ended(Monitor(lab, site.hosts[-1].space)) as monitor, claimant(lab, site.hosts[0], address) as holder:
        mark = monitor.mark()
        claimed = holder.tell()
        there = monitor.wait_for(mark, address, is_gone=False)
        mark = monitor.mark()
        dropped = holder.tell()
        gone = monitor.wait_for(mark, address, is_gone=True)
    return {"claim": milliseconds(claimed, there), "end": milliseconds(dropped, gone)}


def many(lab, site, count):
    """So many addresses are claimed on the first host, and all their holders end."""
    first, last = site.hosts[0], site.hosts[-1]
    routes = lambda: last.space.must("ip", "route", "show", "root", "10.77.128.0/17").count("via")
    arguments = ["stream", str(first.socket), "10.77.128.0", str(count), gateway_of(1)[0]]
    start = time.monotonic()
    peers = lab.start(first.space, "many.log", str(lab.dir / "peers"), *arguments)
    try:
        wait_for(f"{count} routes", PATIENCE, lambda: routes() >= count)
        claimed = time.monotonic()
    finally:
        lab.end(peers)
    wait_for("no routes", PATIENCE, lambda: routes() == 0)
    return {"many": claimed - start, "many_end": time.monotonic() - claimed}


def move(lab, site, *, on=2):
    """An address goes from the first host to another one; probes from the last host."""
    address = vassal_of(1, NUMBER)[0]
    first, second = site.hosts[0], site.hosts[on - 1]
    with claimant(lab, first, address) as before, claimant(lab, second, address) as after:
        before.tell()
        wait_for_answers(site, address)
        with probe(lab, site.hosts[-1].vassal, address) as running:
            time.sleep(0.2)
            before.tell()
            # The other host has to hear of it first: it refuses claims of addresses that others hold.
            time.sleep(0.005)
            after.tell()
            time.sleep(1)
            probes = read_probes(running.finish())
    return {"move": longest_gap(probes), "move_lost": lost(probes)}


def wait_for_answers(site, address):
    """Waits until the last host's vassal gets datagrams back from an address."""

    def answers():
        with probe(site.lab, site.hosts[-1].vassal, address) as running:
            time.sleep(0.05)
            return lost(read_probes(running.finish())) == 0

    wait_for(f"answers of {address}", PATIENCE, answers)


def gap_while(lab, site, happen, seconds):
    """Returns the probes from the last host to an address of the first one, while something happens."""
    address = vassal_of(1, NUMBER)[0]
    with claimant(lab, site.hosts[0], address) as holder:
        holder.tell()
        wait_for_answers(site, address)
        with probe(lab, site.hosts[-1].vassal, address) as running:
            time.sleep(0.2)
            happen()
            time.sleep(seconds)
            return read_probes(running.finish())


def cut(lab, site):
    """The first host is cut off silently, and comes back."""
    address = vassal_of(1, NUMBER)[0]
    first, last = site.hosts[0], site.hosts[-1]
    with ended(Monitor(lab, last.space)) as monitor, claimant(lab, first, address) as holder:
        mark = monitor.mark()
        holder.tell()
        monitor.wait_for(mark, address, is_gone=False)
        mark, start = monitor.mark(), time.time()
        site.cut(first)
        gone = monitor.wait_for(mark, address, is_gone=True)
        mark, healed = monitor.mark(), time.time()
        site.heal()
        back = monitor.wait_for(mark, address, is_gone=False)
    return {"cut": milliseconds(start, gone), "healed": milliseconds(healed, back)}


def kill_emperor(lab, site):
    """The Emperor of the first host is killed; when the last host loses its way to its vassal."""
    first, address = site.hosts[0], vassal_of(1)[0]
    with ended(Monitor(lab, site.hosts[-1].space)) as monitor:
        mark, start = monitor.mark(), time.time()
        site.kill_emperor(first)
        gone = monitor.wait_for(mark, address, is_gone=True)
    site.restart_emperor(first)
    site.get_ready()
    return {"kill_emperor": milliseconds(start, gone)}


def kill_bird(lab, site):
    """The first host's BIRD is killed and started again; probes between vassals of two hosts."""
    first = site.hosts[0]

    def restart():
        first.bird.kill()
        first.bird.start()

    probes = gap_while(lab, site, restart, 5)
    site.connect()
    return {"bird": longest_gap(probes)}


def kill_router(lab, site):
    """The first host's router is killed; vassals of two hosts, whose devices the next router has from the store."""
    first, last = site.hosts[0], site.hosts[-1]
    # A vassal of uWSGI has no program that sends datagrams back, so these are pings.
    log = lab.dir / f"pings-{last.vassal.name}.log"
    log.write_text("")
    monitoring = Monitor(lab, last.space)
    with ended(monitoring) as monitor:
        mark = monitor.mark()
        pinging = lab.start(last.vassal, log.name, "ping", "-n", "-i", "0.002", "-w", "60", vassal_of(1)[0])
        time.sleep(0.5)
        before = site.router_pid(first)
        os.kill(before, signal.SIGKILL)
        wait_for("the next router", PATIENCE, lambda: router_of(site, first) not in (None, before))
        time.sleep(1)
        os.kill(descendant(pinging.pid, "ping"), signal.SIGINT)
        wait_for("the end of ping", PATIENCE, lambda: pinging.poll() is not None)
        lab.end(pinging)
        text = monitor.log.read_text()[mark:]
    counts = re.search(r"(\d+) packets transmitted, (\d+) received", log.read_text())
    if not counts:
        raise Failed("ping said nothing")
    withdrawn = len(re.findall(rf"\] Deleted {re.escape(vassal_of(1)[0])} ", text))
    return {"router": int(counts[1]) - int(counts[2]), "router_routes": withdrawn}


def router_of(site, host):
    with contextlib.suppress(OSError, ValueError, Trouble):
        return site.router_pid(host)
    return None


def descendant(pid, name):
    """setpriv and nsenter become the program that they start."""
    with open(f"/proc/{pid}/comm", encoding="ascii") as file:
        if file.read().strip() != name:
            raise Failed(f"{name} has not started")
    return pid
