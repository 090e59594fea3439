"""Small programs in C, which are compiled when a script starts."""

import subprocess
from pathlib import Path

from lab import Trouble, wait_for

# What they share.
HEADERS = Path(__file__).resolve().parent / "c"


def compile_all(sources, folder):
    """Compiles every program of one folder into another."""
    for source in sorted(sources.glob("*.c")):
        command = ["cc", "-O2", "-Wall", "-I", HEADERS, "-o", folder / source.stem, source]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            raise Trouble(f"{source.name} can't be compiled: {done.stderr.strip()}")


def start(lab, space, name, *arguments, seconds=20):
    """Starts a helper that says when it is ready."""
    log = f"{name}-{space.name}.log"
    # An older one of the same name may have said so, too.
    (lab.dir / log).write_text("")
    process = lab.start(space, log, str(lab.dir / name), *arguments)
    wait_for(f"{name} in {space.name}", seconds, lambda: _says_ready(process, lab.dir / log))
    return process


def _says_ready(process, log):
    said = log.read_text()
    if process.poll() is not None:
        raise Trouble(f"{log.name}: {said.strip() or 'ended at once'}")
    return "ready" in said
