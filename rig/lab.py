"""Network namespaces, processes and files of the demo, the benchmark and the soak test. They exist as long as the script that made
them runs.

Nothing has a name that the machine could see: a namespace is held by a process, and all processes die with the
script, even when it is killed.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

# Every process that the script starts gets SIGKILL when the script dies.
DIE_WITH_ME = ["setpriv", "--pdeathsig", "KILL", "--"]


class Trouble(Exception):
    """The script can't go on."""


def wait_for(what, seconds, probe):
    """Polls until `probe` returns something true, and returns that."""
    deadline = time.monotonic() + seconds
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > deadline:
            raise Trouble(f"gave up after {seconds} s waiting for {what}")
        time.sleep(0.05)


def net_namespace(pid):
    """The identity of a process's network namespace, or None if the process is gone or not ours to look at."""
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def all_pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def parent(pid):
    """The parent's pid, or None if the process is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may hold anything, so count from its end.
    return int(stat.rpartition(")")[2].split()[1])


def descendants(pid):
    """All processes below one, parents before their children."""
    children = {}
    for candidate in all_pids():
        children.setdefault(parent(candidate), []).append(candidate)
    found = list(children.get(pid, []))
    for ancestor in found:
        found += children.get(ancestor, [])
    return found


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


class Namespace:
    """A network namespace, entered through a process that lives in it."""

    def __init__(self, name, pid):
        self.name = name
        self.pid = pid
        self.identity = net_namespace(pid)

    def enter(self):
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--"]

    def run(self, *command, seconds=20):
        """Runs a command to its end; a command that hangs counts as failed."""
        try:
            return subprocess.run(
                [*DIE_WITH_ME, *self.enter(), *command],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as expired:
            return subprocess.CompletedProcess(expired.cmd, 124, "", f"no end within {seconds} s")

    def must(self, *command):
        done = self.run(*command)
        if done.returncode != 0:
            raise Trouble(f"in {self.name}: {' '.join(command)}: {(done.stderr or done.stdout).strip()}")
        return done.stdout


class Lab:
    def __init__(self, name):
        # Short, because a unix socket's path is.
        self.dir = Path(tempfile.mkdtemp(prefix=f"uwsgi-tuntap-{name}-"))
        self.dir.chmod(0o755)
        self._processes = []
        self._identities = set()

    def namespace(self, name):
        holder = self._start([*DIE_WITH_ME, "unshare", "--net", "--", "sleep", "infinity"])
        own = net_namespace("self")
        wait_for(f"the namespace {name}", 5, lambda: net_namespace(holder.pid) not in (own, None))
        space = Namespace(name, holder.pid)
        space.must("ip", "link", "set", "lo", "up")
        self.adopt(space)
        return space

    def adopt(self, space):
        """Makes the lab answer for a namespace: none of its processes may outlive the lab."""
        self._identities.add(space.identity)

    def start(self, space, log, *command):
        """Starts a long-running command in a namespace."""
        return self._start([*DIE_WITH_ME, *space.enter(), *command], self.dir / log)

    def start_contained(self, space, log, *command):
        """Like start, but in a PID namespace: nothing that the command ever started outlives it."""
        contained = ["unshare", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--"]
        return self.start(space, log, *contained, *command)

    def end(self, process):
        """Ends one of the lab's processes before the lab itself ends."""
        process.kill()
        process.wait()
        self._processes.remove(process)

    def _start(self, command, log=Path(os.devnull)):
        # A session of its own: Ctrl-C reaches the script alone, which then ends everything in order.
        with open(log, "ab") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        self._processes.append(process)
        return process

    def inhabitants(self):
        """Processes that live in one of the lab's namespaces."""
        return [pid for pid in all_pids() if net_namespace(pid) in self._identities]

    def log_tails(self, lines=15):
        for log in sorted(self.dir.glob("*.log")):
            text = log.read_text(errors="replace").splitlines()
            yield log.name, "\n".join(text[-lines:])

    def close(self):
        """Ends all processes, removes all files, and returns what could not be removed."""
        for process in reversed(self._processes):
            process.kill()
        for process in self._processes:
            process.wait()
        # Who changed its uid is no longer bound to the death of its parent.
        deadline = time.monotonic() + 10
        while (inhabitants := self.inhabitants()) and time.monotonic() < deadline:
            for pid in inhabitants:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        left = [f"process {pid}" for pid in self.inhabitants()]
        shutil.rmtree(self.dir, ignore_errors=True)
        if self.dir.exists():
            left.append(str(self.dir))
        return left


def raise_on_signals():
    """SIGTERM and SIGHUP end the script as Ctrl-C does: through its clean-up."""

    def interrupt(number, _frame):
        raise KeyboardInterrupt(signal.Signals(number).name)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, interrupt)


def ignore_signals():
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
