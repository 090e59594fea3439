"""An Emperor with a router and its vassals, in namespaces of their own, and the resources that they hold."""

import contextlib
import os
import re
import shutil
import signal
import time
from pathlib import Path

import lab as rig
import router
from lab import Namespace, Trouble, wait_for

# Each has an IPv4 address and an IPv6 address.
ROUTER_ADDRESSES = ("10.0.0.1", "fd00:77::1")
HONEST = {"honest1": ("10.0.0.2", "fd00:77::2"), "honest2": ("10.0.0.3", "fd00:77::3")}
RELOADING = {f"reloading{number}": (f"10.0.0.{number + 3}", f"fd00:77::{number + 3}") for number in (1, 2, 3)}
VASSALS = HONEST | RELOADING

# Flows that a router knows at a time: enough for those of all peers.
MAX_FLOWS = 32768

# Seconds for a new router to start, and for everything to return to its earlier state.
RESPAWN = 10
SETTLE = 20


class World:
    def __init__(self, lab, uwsgi, plugins):
        self.lab = lab
        self.uwsgi = uwsgi
        # A vassal that reloads loads the plugin again under its own uid, which may have no right to read the repository.
        self.plugins = lab.dir / "plugins"
        self.plugins.mkdir()
        shutil.copy(plugins / "tuntap_plugin.so", self.plugins)
        self.stats_path = lab.dir / "stats"
        self.socket_path = lab.dir / "router"
        self.log = lab.dir / "emperor.log"
        self.host = None
        self.emperor = None
        self.router = None
        self.vassals = {}
        # All namespaces, and those of them that belong to the peers.
        self.spaces = []
        self.peer_spaces = []

    def start(self):
        self.host = self.space("host")
        settings = {"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1}
        settings |= {f"ipv4/conf/{which}/send_redirects": 0 for which in ("all", "default")}
        for setting, value in settings.items():
            self.host.must("sh", "-c", f"echo {value} >/proc/sys/net/{setting}")
        (self.lab.dir / "vassals").mkdir()
        (self.lab.dir / "emperor.ini").write_text(self.emperor_ini())
        for name, addresses in VASSALS.items():
            self.ini(name).write_text(self.vassal_ini(addresses))
        command = [self.uwsgi, "--ini", str(self.lab.dir / "emperor.ini")]
        self.emperor = self.lab.start_contained(self.host, self.log.name, *command)
        wait_for("the vassals", 60, self.all_attached)
        for name in VASSALS:
            self.vassals[name] = Namespace(name, self.master_of(name))
            self.lab.adopt(self.vassals[name])
            self.spaces.append(self.vassals[name])
        self.router = wait_for("the router's process", 5, self.find_router)
        router.check_plugin(self.router, self.plugins)

    def peer_space(self, name):
        space = self.space(name)
        # Otherwise the router receives the kernel's own packets before the claims.
        space.must("sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6")
        self.peer_spaces.append(space)
        return space

    def space(self, name):
        space = self.lab.namespace(name)
        self.spaces.append(space)
        return space

    def emperor_ini(self):
        return "\n".join([
            "[uwsgi]",
            f"plugins-dir = {self.plugins}",
            "plugin = tuntap",
            "master = true",
            f"tuntap-router = emperor0 {self.socket_path} {self.stats_path}",
            f"tuntap-router-max-flows = {MAX_FLOWS}",
            *address_lines("emperor0", ROUTER_ADDRESSES),
            "exec-as-root = ip link set emperor0 up",
            f"emperor = {self.lab.dir}/vassals",
            "emperor-use-clone = net",
            "emperor-freq = 1",
            "",
        ])

    def vassal_ini(self, addresses):
        return "\n".join([
            "[uwsgi]",
            f"plugins-dir = {self.plugins}",
            "plugin = tuntap",
            "jailed = true",
            "master = true",
            "socket = 127.0.0.1:3031",
            "uid = 65534",
            "gid = 65534",
            f"tuntap-device = uwsgi0 {self.socket_path}",
            "exec-as-root = ip link set lo up",
            *address_lines("uwsgi0", addresses),
            "exec-as-root = ip link set uwsgi0 up",
            *(f"exec-as-root = ip route replace default via {gateway}" for gateway in ROUTER_ADDRESSES),
            # The kernel routes an IPv6 address to itself only after ip(8) has returned, so that the first reply may be lost.
            *(f"exec-as-root = ping -c 1 -W 1 {gateway} || ping -c 1 -W 5 {gateway}" for gateway in ROUTER_ADDRESSES),
            "",
        ])

    def ini(self, name):
        return self.lab.dir / "vassals" / f"{name}.ini"

    def check_alive(self):
        if self.emperor.poll() is not None:
            raise Trouble(f"the Emperor ended with exit code {self.emperor.returncode}")

    def stats(self):
        """Returns the statistics, or None as long as no router answers."""
        self.check_alive()
        with contextlib.suppress(OSError, ValueError):
            return router.stats(self.stats_path)
        return None

    def find_router(self):
        seen = self.stats()
        return seen and router.find_process(seen, self.emperor.pid)

    def all_attached(self):
        seen = self.stats()
        peers = seen["peers"] if seen else []
        attached = {address for peer in peers if peer["attached"] for address in peer["addresses"]}
        return attached.issuperset(address for pair in VASSALS.values() for address in pair)

    def master_of(self, name):
        """Returns the vassal's process that survives its reloads, or None if there is none."""
        wanted = f"{name}.ini"
        return next((pid for pid in rig.descendants(self.emperor.pid) if wanted in rig.command_line(pid)), None)

    def reload(self, name):
        os.utime(self.ini(name))

    def kill_router(self):
        """Kills the router. Returns the time of its death, and the seconds until there was another one."""
        killed, inner = time.monotonic(), router.inner_pid(self.router)
        os.kill(self.router, signal.SIGKILL)

        def successor():
            seen = self.stats()
            return seen and str(seen["pid"]) != inner and time.monotonic()

        took = wait_for("another router", RESPAWN, successor) - killed
        self.router = wait_for("its process", RESPAWN, self.find_router)
        return killed, took

    def stop(self):
        """Asks the Emperor to end, and returns what it leaves behind."""
        os.kill(rig.descendants(self.emperor.pid)[0], signal.SIGINT)
        wait_for("the Emperor to stop", SETTLE, lambda: self.emperor.poll() is not None)
        left = [str(path) for path in (self.socket_path, self.stats_path) if path.exists()]
        return left + [device for device in devices(self.host) if device != "lo"]

    def holdings(self):
        """Returns the resources that must not grow. Processes may still be ending, so the caller may have to ask again."""
        below = rig.descendants(self.emperor.pid)
        seen = self.stats()
        return {
            "peers": len(seen["peers"]) if seen else None,
            "descriptors of the router": len(os.listdir(f"/proc/{self.router}/fd")),
            "descriptors of the master": len(os.listdir(f"/proc/{below[0]}/fd")),
            "processes": len(below),
            "network namespaces": len({rig.net_namespace(pid) for pid in below}),
            "sockets": sum(sockets(space) for space in self.spaces if space not in self.peer_spaces),
            "devices": sum(len(devices(space)) for space in self.spaces),
            "files": len(list(self.lab.dir.rglob("*"))),
        }

    def sockets_of_peers(self):
        """Counts the sockets of the peers. An accepted connection counts in the namespace of its other end."""
        return sum(sockets(space) for space in self.peer_spaces)

    def memory(self):
        """Returns the memory of router and master, in bytes."""
        master = rig.descendants(self.emperor.pid)[0]
        return {
            "router": router.proportional_memory(self.router),
            "master": router.proportional_memory(master),
        }


def address_lines(device, addresses):
    """Yields lines that give a device an IPv4 address and an IPv6 address."""
    address, address6 = addresses
    yield f"exec-as-root = ip address replace {address}/16 dev {device}"
    yield f"exec-as-root = ip -6 address replace {address6}/64 dev {device} nodad"


def sockets(space):
    """Returns the number of sockets in a network namespace, of every family."""
    return int(re.match(r"sockets: used (\d+)", Path(f"/proc/{space.pid}/net/sockstat").read_text())[1])


def devices(space):
    return re.findall(r"^\d+: ([^:@]+)", space.must("ip", "-o", "link"), re.MULTILINE)
