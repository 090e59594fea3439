"""Hosts, each with a vassal, and the ways in which their vassals reach each other."""

import os
import signal
import subprocess
from dataclasses import dataclass

import bird
import helpers
import lab as rig
import router
import subjects
from lab import Namespace, Trouble, wait_for
from subjects import Link, forward, give_addresses, join, set_kernel

# The file with BGP's password, which only root may read.
PASSWORD_FILE = "password"
GATEWAY_PORT = 4000
TRUNK_PORT = 4001


def address_of(host):
    return f"10.99.0.{host}"


def gateway_of(host):
    return f"10.77.0.{host}", f"fd00:77::{host}"


def vassal_of(host, number=2):
    return f"10.77.{host}.{number}", f"fd00:77::{host}:{number}"


@dataclass
class Host:
    number: int
    space: object
    # What belongs to its Emperor.
    emperor: object = None
    bird: object = None
    vassal: object = None
    dir: object = None

    @property
    def socket(self):
        return self.dir / "router"


class Site(subjects.Subject):
    """Hosts on a switch, or two hosts at the ends of a long line."""

    def __init__(self, lab, key, label, hosts=2, line=None):
        super().__init__(lab, key, label)
        self.count = hosts
        # Milliseconds each way, loss in percent, and Mbit/s.
        self.line = line
        self.switch = None
        self.hosts = []

    @property
    def interface(self):
        return "wan0" if self.line else "eth0"

    def begin(self):
        if not self.line:
            self.switch = self.space("switch")
            self.switch.must("ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
            self.switch.must("ip", "link", "set", "br0", "up")
            self.add_faults()
        for number in range(1, self.count + 1):
            space = self.space(f"host{number}")
            forward(space)
            self.hosts.append(Host(number, space))
            if not self.line:
                join(self.switch, f"host{number}", space)
                self.switch.must("ip", "link", "set", f"host{number}", "master", "br0")
        if self.line:
            spaces = [f"/proc/{host.space.pid}/ns/net" for host in self.hosts]
            helpers.start(self.lab, self.hosts[0].space, "wan", *spaces, *map(str, self.line))
        for host in self.hosts:
            give_addresses(host.space, self.interface, (address_of(host.number), f"fd00:99::{host.number}"), (24, 64))
            host.space.must("ip", "link", "set", self.interface, "up")
            self.settle(host)

    def add_faults(self):
        rules = """
            table bridge faults {
                set from { type ifname; }
                set to { type ifname; }
                chain forward { type filter hook forward priority 0; iifname @from drop; oifname @to drop; }
            }
        """
        file = self.lab.dir / f"{self.key}.nft"
        file.write_text(rules)
        self.switch.must("nft", "-f", str(file))

    def settle(self, host):
        """Starts what is on a host."""

    def others(self, host):
        return [other for other in self.hosts if other is not host]

    def cut(self, host):
        """Loses whatever a host sends and whatever is sent to it."""
        for name in ("from", "to"):
            self.switch.must("nft", "add", "element", "bridge", "faults", name, f"{{ host{host.number} }}")

    def heal(self):
        for name in ("from", "to"):
            self.switch.must("nft", "flush", "set", "bridge", "faults", name)

    def make_link(self, device):
        first, second = self.hosts[0], self.hosts[1]
        helpers.start(self.lab, second.vassal, "serve")
        self.link = Link(first.vassal, second.vassal, vassal_of(2), device, inside=device, client_addresses=vassal_of(1))


class Bare(Site):
    """Vassals are namespaces on a veth pair, and kernels route. There is no plugin."""

    def settle(self, host):
        host.vassal = self.space(f"vassal{host.number}")
        join(host.space, "inside", host.vassal)
        give_addresses(host.vassal, "eth0", vassal_of(host.number))
        give_addresses(host.space, "inside", gateway_of(host.number), (32, 128))
        for address, version in zip(vassal_of(host.number), ("-4", "-6")):
            host.space.must("ip", version, "route", "add", address, "dev", "inside")
        # A vassal believes that the whole network is on its link.
        for setting in ("ipv4/conf/inside/proxy_arp", "ipv6/conf/inside/proxy_ndp"):
            set_kernel(host.space, setting, 1)
        set_kernel(host.space, "ipv4/neigh/inside/proxy_delay", 0)
        for number in range(1, self.count + 1):
            if number == host.number:
                continue
            host.space.must("ip", "route", "add", f"10.77.{number}.0/24", "via", address_of(number))
            for address in vassal_of(number)[1:]:
                host.space.must("ip", "route", "add", address, "via", f"fd00:99::{number}")
                host.space.must("ip", "neigh", "add", "proxy", address, "dev", "inside")

    def get_ready(self):
        if self.link is None:
            self.make_link("eth0")


class Plugin(Site):
    """Each host has an Emperor with a router and one vassal."""

    def __init__(self, lab, key, label, uwsgi, plugins, **options):
        super().__init__(lab, key, label, **options)
        self.uwsgi, self.plugins = uwsgi, plugins

    def settle(self, host):
        host.dir = self.lab.dir / f"{self.key}{host.number}"
        (host.dir / "vassals").mkdir(parents=True)
        (host.dir / "emperor.ini").write_text(self.emperor_ini(host))
        (host.dir / "vassals/vassal.ini").write_text(self.vassal_ini(host))
        self.start_emperor(host)

    def start_emperor(self, host):
        command = [self.uwsgi, "--ini", str(host.dir / "emperor.ini")]
        host.emperor = self.lab.start_contained(host.space, f"{self.key}{host.number}.log", *command)

    def emperor_ini(self, host):
        address, address6 = gateway_of(host.number)
        return "\n".join([
            "[uwsgi]",
            f"plugins-dir = {self.plugins}",
            "plugin = tuntap",
            "master = true",
            f"tuntap-router = emperor0 {host.dir}/router {host.dir}/stats{self.router_words(host)}",
            f"tuntap-router-address = {address}/16",
            f"tuntap-router-address = {address6}/64",
            "tuntap-router-host = allow",
            *self.options(host),
            f"emperor = {host.dir}/vassals",
            "emperor-use-clone = net",
            "emperor-freq = 1",
            "",
        ])

    def router_words(self, _host):
        return ""

    def options(self, _host):
        return []

    def vassal_ini(self, host):
        address, address6 = vassal_of(host.number)
        return "\n".join([
            "[uwsgi]",
            f"plugins-dir = {self.plugins}",
            "plugin = tuntap",
            "jailed = true",
            "master = true",
            "socket = 127.0.0.1:3031",
            "uid = 65534",
            "gid = 65534",
            f"tuntap-device = uwsgi0 {host.dir}/router",
            f"tuntap-device-address = {address}/16",
            f"tuntap-device-address = {address6}/64",
            "exec-as-root = ip link set lo up",
            "",
        ])

    def get_ready(self):
        for host in self.hosts:
            if host.vassal is None or rig.net_namespace(host.vassal.pid) != host.vassal.identity:
                host.vassal = wait_for(f"the vassal of {host.space.name}", 60, lambda h=host: self.find_vassal(h))
                self.lab.adopt(host.vassal)
                seen = router.find_process(self.stats(host), host.emperor.pid)
                router.check_plugin(seen, self.plugins)
        self.connect()
        if self.link is None:
            self.make_link("uwsgi0")
        wait_for(f"a way between the vassals of {self.key}", 60, self.reaches)

    def master(self, host):
        """The master of an Emperor, below the program that contains it."""
        return rig.descendants(host.emperor.pid)[0]

    def kill_emperor(self, host):
        os.kill(self.master(host), signal.SIGKILL)

    def restart_emperor(self, host):
        self.lab.end(host.emperor)
        # Two of the same name would be two devices.
        wait_for("the end of the router", 20, lambda: "emperor0" not in host.space.must("ip", "-o", "link"))
        self.start_emperor(host)

    def connect(self):
        """Waits until hosts know each other."""

    def reaches(self):
        first = self.hosts[0].vassal
        return all(first.run("ping", "-q", "-c", "1", "-W", "1", address).returncode == 0 for address in vassal_of(2))

    def find_vassal(self, host):
        if host.emperor.poll() is not None:
            raise Trouble(f"the Emperor of {host.space.name} ended")
        for pid in rig.descendants(host.emperor.pid):
            if any(word.endswith("vassal.ini") for word in rig.command_line(pid)):
                space = Namespace(f"{self.key}-vassal{host.number}", pid)
                # Right after the fork a vassal is still in the Emperor's namespace.
                if space.identity in (None, host.space.identity):
                    return None
                done = space.run("ping", "-q", "-c", "1", "-W", "1", gateway_of(host.number)[0])
                return space if done.returncode == 0 else None
        return None

    def stats(self, host):
        return router.stats(host.dir / "stats")

    def router_pid(self, host):
        return router.find_process(self.stats(host), host.emperor.pid)

    def processes(self):
        return [self.router_pid(host) for host in self.hosts]


class Gateways(Plugin):
    """Routers send each other packets over UDP."""

    def router_words(self, host):
        return f" {address_of(host.number)}:{GATEWAY_PORT}"

    def options(self, host):
        for other in self.others_of(host.number):
            yield f"tuntap-router-route = 10.77.{host.number}.0/24 10.77.{other}.0/24 {address_of(other)}:{GATEWAY_PORT}"

    def others_of(self, number):
        return [other for other in range(1, self.count + 1) if other != number]

    def reaches(self):
        # Their routes are of IPv4 alone here.
        return self.hosts[0].vassal.run("ping", "-q", "-c", "1", "-W", "1", vassal_of(2)[0]).returncode == 0


class Routes(Plugin):
    """Routers tell the hosts' BIRDs where vassals are, and kernels route."""

    def settle(self, host):
        bird.write_password(self.lab.dir / PASSWORD_FILE)
        super().settle(host)
        self.start_bird(host)

    def start_bird(self, host):
        others = [address_of(number) for number in range(1, self.count + 1) if number != host.number]
        ini = host.dir / "emperor.ini"
        host.bird = bird.start(self.lab, host.space, self.plugins, ini, address_of(host.number), others)

    def options(self, host):
        return [
            f"tuntap-router-key = {host.dir}/router.key",
            f"tuntap-router-routes = {bird.FEED} {self.lab.dir}/{PASSWORD_FILE}",
        ]

    def connect(self):
        for host in self.hosts:
            host.bird.wait_for("tuntap", *(f"host{number}" for number in range(1, self.count)))


class Trunks(Plugin):
    """Routers have a trunk of TLS between each other."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.keys = {}

    def begin(self):
        for number in range(1, self.count + 1):
            file = self.lab.dir / f"{self.key}{number}.key"
            command = [str(self.plugins / "uwsgi-tuntap"), "keys", "--generate", str(file)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
            if done.returncode != 0:
                raise Trouble(f"{' '.join(command)}: {done.stderr.strip()}")
            self.keys[number] = done.stdout.split()[-1]
        super().begin()

    def options(self, host):
        yield f"tuntap-router-key = {self.lab.dir}/{self.key}{host.number}.key"
        yield f"tuntap-router-trunk = {address_of(host.number)}:{TRUNK_PORT}"
        for number, key in self.keys.items():
            if number == host.number:
                continue
            # One of two dials.
            dials = f" {address_of(number)}:{TRUNK_PORT}" if number < host.number else ""
            yield f"tuntap-router-trunk-peer = {key} 10.77.0.0/16,fd00:77::/64{dials}"
