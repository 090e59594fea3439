"""A router as it is seen from outside: its statistics, its process, its memory."""

import json
import os
import re
import socket
from pathlib import Path

import lab
from lab import Trouble


def stats(path):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(path))
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    return json.loads(answer)


def find_process(seen, ancestor):
    """The router's process below another one. The stats tell the pid that it has in its own PID namespace."""
    inner = str(seen["pid"])
    for pid in lab.descendants(ancestor):
        if inner_pid(pid) == inner:
            return pid
    return None


def inner_pid(pid):
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return re.search(r"^NSpid:.*\s(\d+)$", status, re.MULTILINE)[1]


def proportional_memory(pid):
    """Bytes of a process's memory; pages that it shares count in part."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)[1]) * 1024


def plugins_of(pid, own):
    """Paths of the files tuntap_plugin.so that a process has mapped.

    How a path shows depends on the root directories and mount namespaces of process and reader, so `own` is known by its
    inode and named as given.
    """
    maps = Path(f"/proc/{pid}/maps").read_text()
    # The columns are: addresses, permissions, offset, device, inode, path.
    mapped = set(re.findall(r"(\d+) +(/.*/tuntap_plugin\.so.*)$", maps, re.MULTILINE))
    inode = os.stat(own).st_ino
    return sorted({str(own) if int(number) == inode else path for number, path in mapped})


def check_plugin(pid, folder):
    """uWSGI falls back to its own folder, where another plugin of the same name may lie."""
    own = os.path.realpath(f"{folder}/tuntap_plugin.so")
    loaded = plugins_of(pid, own)
    if loaded != [own]:
        raise Trouble(f"process {pid} runs {loaded}, not {own}")
