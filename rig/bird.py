"""BIRD, the routing daemon of a host."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from lab import Trouble, wait_for

# Where routers listen for it.
FEED = "127.0.0.1:979"
PASSWORD = "one password for all"


def write_password(path):
    """Writes the file with the password that signs the session of a router with BIRD."""
    path.write_text(f"{PASSWORD}\n")
    path.chmod(0o600)


@dataclass
class Bird:
    """A running BIRD of a namespace."""

    lab: object
    space: object
    config: Path
    process: object = None

    @property
    def control(self):
        return self.config.with_suffix(".ctl")

    def start(self):
        command = ["bird", "-f", "-c", str(self.config), "-s", str(self.control), "-P", str(self.config.with_suffix(".pid"))]
        self.process = self.lab.start(self.space, f"{self.config.stem}.log", *command)

    def kill(self):
        self.lab.end(self.process)

    def ask(self, *question):
        command = ["birdc", "-s", str(self.control), *question]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout

    def wait_for(self, *protocols, seconds=60):
        """Waits until the sessions of these protocols are established."""
        for name in protocols:
            what = f"a session of BIRD in {self.space.name} with {name}"
            wait_for(what, seconds, lambda n=name: "Established" in self.ask("show", "protocols", n))


def start(lab, space, plugins, ini, address, others):
    """Starts one that goes with the router of an ini file, and knows other hosts by their addresses."""
    command = [str(plugins / "uwsgi-tuntap"), "bird-config", "--ini", str(ini), "--router-id", address, "--bfd"]
    for other in others:
        command += ["--neighbour", other]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode != 0:
        raise Trouble(f"{' '.join(command)}: {done.stderr.strip()}")
    config = lab.dir / f"bird-{space.name}.conf"
    config.touch(0o600)
    config.write_text(done.stdout)
    bird = Bird(lab, space, config)
    bird.start()
    return bird
