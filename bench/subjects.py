"""Ways of joining two network namespaces."""

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import helpers
import lab as rig
import router
from lab import Namespace, Trouble, wait_for

# Each end has an IPv4 address, in a /16, and an IPv6 address, in a /64.
ROUTER_ADDRESSES = ("10.0.0.1", "fd00:77::1")
VASSALS = {"vassal1": ("10.0.0.2", "fd00:77::2"), "vassal2": ("10.0.0.3", "fd00:77::3")}
FIRST_IDLE = "10.0.4.0"
ETHERNET_HEADER = 14

# The words of a router's log and statistics for a device that it has stopped reading and writing itself.
BACK_TO_FRAMES = "goes back to frames"
TOO_MUCH_TIME = "too much time in its network namespace"


@dataclass(frozen=True)
class Link:
    """A path from a client's namespace to an address in a server's."""

    client: Namespace
    server: Namespace
    # The IPv4 address and, if the subject has one, the IPv6 address.
    addresses: tuple
    # The server's interface, which counts packets that arrive.
    arrival: str
    # The client's interface, and its addresses if something is sent to them.
    inside: str = "eth0"
    client_addresses: tuple = ()
    # Bytes before the IP header of a packet that interfaces count.
    header: int = 0
    # The version of IP that is measured.
    version: int = 4

    def over(self, version):
        return replace(self, version=version)

    @property
    def address(self):
        return self.addresses[0 if self.version == 4 else 1]

    @property
    def client_address(self):
        return self.client_addresses[0 if self.version == 4 else 1]


class Subject:
    """Namespaces that are joined in one way."""

    # The limit of its traffic in bits per second.
    rate = None

    def __init__(self, lab, key, label):
        self.lab = lab
        self.key = key
        self.label = label
        self.log = f"{key}.log"
        # The path from inside to outside.
        self.link = None
        # True if the subject is known to break under measurement.
        self.is_mortal = False

    def begin(self):
        """Starts everything without waiting for slow parts."""

    def get_ready(self):
        """Waits until the subject can be measured, at first and after something died."""

    def is_intact(self):
        """Returns true if everything that get_ready waited for still lives."""
        return True

    def processes(self):
        """Returns the user-space processes that move the packets."""
        return []

    def lost_devices(self):
        """Returns reports since the last call about peers that went back to frames."""
        return []

    def across(self):
        """Returns the path from one vassal, or what stands for it, to another."""
        return self.link

    def space(self, name):
        return self.lab.namespace(f"{self.key}-{name}")


def set_kernel(space, setting, value):
    """Writes a setting below /proc/sys/net. Each network namespace has its own."""
    space.must("sh", "-c", f"echo '{value}' >/proc/sys/net/{setting}")


def join(space, device, other, other_device="eth0"):
    """Makes a veth pair between two namespaces. It never appears on the machine."""
    peer = ["peer", "name", other_device, "netns", str(other.pid)]
    space.must("ip", "link", "add", device, "type", "veth", *peer)
    space.must("ip", "link", "set", device, "up")
    other.must("ip", "link", "set", other_device, "up")


def forward(space):
    for setting in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        set_kernel(space, setting, 1)


def give_addresses(space, device, addresses, lengths=(16, 64)):
    for address, length in zip(addresses, lengths):
        # With duplicate address detection an IPv6 address could not be used for a second.
        lookup = ["nodad"] if ":" in address else []
        space.must("ip", "address", "add", f"{address}/{length}", "dev", device, *lookup)


class Veth(Subject):
    def begin(self):
        client, server = self.space("inside"), self.space("outside")
        join(server, "eth0", client)
        give_addresses(server, "eth0", ROUTER_ADDRESSES)
        give_addresses(client, "eth0", VASSALS["vassal1"])
        helpers.start(self.lab, server, "serve")
        self.link = Link(client, server, ROUTER_ADDRESSES, "eth0", client_addresses=VASSALS["vassal1"], header=ETHERNET_HEADER)


class Relay(Subject):
    """Two TUN devices, and a program that only moves packets between them."""

    def __init__(self, lab, key, label):
        super().__init__(lab, key, label)
        self.process = None

    def begin(self):
        client, server = self.space("inside"), self.space("outside")
        spaces = [f"/proc/{space.pid}/ns/net" for space in (client, server)]
        self.process = helpers.start(self.lab, server, "relay", *spaces)
        for space, addresses in ((client, VASSALS["vassal1"]), (server, ROUTER_ADDRESSES)):
            give_addresses(space, "tun0", addresses)
            space.must("ip", "link", "set", "tun0", "up")
        helpers.start(self.lab, server, "serve")
        self.link = Link(client, server, ROUTER_ADDRESSES, "tun0")

    def is_intact(self):
        return self.process.poll() is None

    def processes(self):
        return [self.process.pid, *rig.descendants(self.process.pid)]


class VethBridge(Subject):
    """Two veth pairs whose host's ends are on a bridge."""

    def begin(self):
        host = self.space("host")
        host.must("ip", "link", "add", "br0", "type", "bridge")
        host.must("ip", "link", "set", "br0", "up")
        spaces = []
        for name, addresses in VASSALS.items():
            spaces.append(self.space(name))
            join(host, name, spaces[-1])
            host.must("ip", "link", "set", name, "master", "br0")
            give_addresses(spaces[-1], "eth0", addresses)
        self.link = Link(*spaces, VASSALS["vassal2"], "eth0")


class VethRouted(Subject):
    """Two veth pairs between which the host routes."""

    def begin(self):
        host = self.space("host")
        forward(host)
        spaces = []
        for number, name in enumerate(VASSALS, 1):
            spaces.append(self.space(name))
            join(host, name, spaces[-1])
            gateways = (f"10.0.{number}.1", f"fd00:77:{number}::1")
            give_addresses(host, name, gateways, (24, 64))
            give_addresses(spaces[-1], "eth0", (f"10.0.{number}.2", f"fd00:77:{number}::2"), (24, 64))
            for gateway in gateways:
                spaces[-1].must("ip", "route", "add", "default", "via", gateway)
        self.link = Link(*spaces, ("10.0.2.2", "fd00:77:2::2"), "eth0")


class UserMode(Subject):
    """A program in the server's namespace that terminates the client's connections and opens its own."""

    gateway = None

    def __init__(self, lab, key, label, mtu):
        super().__init__(lab, key, label)
        self.mtu = mtu
        self.process = None

    def begin(self):
        client, server = self.space("inside"), self.space("outside")
        helpers.start(self.lab, server, "serve")
        self.process = self.launch(client, server)
        # The program's own connections go to the server over the loopback device.
        self.link = Link(client, server, (self.gateway,), "lo")

    def get_ready(self):
        def has_route():
            if self.process.poll() is not None:
                raise Trouble(f"{self.key} ended, see {self.key}.log")
            return "default" in self.link.client.must("ip", "route")

        wait_for(f"{self.key} to configure its client", 10, has_route)

    def is_intact(self):
        return self.process.poll() is None

    def processes(self):
        return [self.process.pid, *rig.descendants(self.process.pid)]


class Slirp(UserMode):
    gateway = "10.0.2.2"

    def launch(self, client, server):
        netns = ["--netns-type=path", f"/proc/{client.pid}/ns/net"]
        command = ["slirp4netns", "--configure", f"--mtu={self.mtu}", *netns, "tap0"]
        return self.lab.start(server, f"{self.key}.log", *command)


class Pasta(UserMode):
    gateway = "203.0.113.1"

    def launch(self, client, server):
        # pasta copies address and route from an interface that has a default route.
        join(server, "eth0", server, "world")
        give_addresses(server, "eth0", ["203.0.113.2"], [24])
        server.must("ip", "route", "add", "default", "via", self.gateway)
        # pasta drops the right to look into /proc/<pid>/ns, so it gets the namespace as a file that only it sees.
        netns = self.lab.dir / f"{self.key}.netns"
        netns.touch()
        mount = f"mount --bind /proc/{client.pid}/ns/net {netns} && exec \"$@\""
        no_ports = ["-t", "none", "-u", "none", "-T", "none", "-U", "none"]
        no_services = ["--no-dhcp", "--no-dhcpv6", "--no-ra", "--ipv4-only"]
        where = ["--foreground", "--runas", "0", "--netns-only", "--netns", str(netns)]
        pasta = ["pasta", "--config-net", "--mtu", str(self.mtu), *no_ports, *no_services, *where]
        return self.lab.start(server, f"{self.key}.log", "unshare", "--mount", "sh", "-c", mount, "sh", *pasta)


class Router(Subject):
    """An Emperor with a router and its vassals with their devices."""

    # Name and addresses of each vassal.
    vassal_addresses = VASSALS
    # The router's own addresses.
    router_addresses = ROUTER_ADDRESSES
    # The address of its gateway, if it has one.
    gateway = None
    # More lines of the Emperor's file.
    more_options = ()

    def __init__(
        self,
        lab,
        key,
        label,
        uwsgi,
        plugins,
        *,
        switch=False,
        polls=True,
        offloads=False,
        idle=None,
        attached=False,
        is_c=False,
    ):
        super().__init__(lab, key, label)
        # The C plugin sometimes dies under full load, and it has IPv4 only.
        self.is_c = self.is_mortal = is_c
        self.has_ipv6 = not is_c
        self.uwsgi = uwsgi
        self.plugins = plugins
        self.switch = switch
        self.polls = polls
        # True if flows pass in the kernel.
        self.offloads = offloads
        self.idle = idle
        # True if the idle peers pass the descriptors of their devices to the router.
        self.attached = attached
        self.dir = lab.dir / key
        self.host = None
        self.emperor = None
        self.vassals = {}
        self.router = None
        self.idle_space = None
        self.idlers = None
        self.memory_per_peer = None
        self.lines_seen = 0

    def begin(self):
        self.host = self.host or self.space("host")
        forward(self.host)
        # Packets between vassals rightly leave by the device that they came from, so there is nothing to redirect.
        set_kernel(self.host, "ipv4/conf/all/send_redirects", 0)
        set_kernel(self.host, "ipv4/conf/default/send_redirects", 0)
        helpers.start(self.lab, self.host, "serve")
        (self.dir / "vassals").mkdir(parents=True)
        (self.dir / "emperor.ini").write_text(self.emperor_ini())
        for name, addresses in self.vassal_addresses.items():
            (self.dir / "vassals" / f"{name}.ini").write_text(self.vassal_ini(*addresses))
        command = [self.uwsgi, "--ini", str(self.dir / "emperor.ini")]
        self.emperor = self.lab.start_contained(self.host, f"{self.key}.log", *command)

    def emperor_ini(self):
        return "\n".join([
            "[uwsgi]",
            f"plugins-dir = {self.plugins}",
            "plugin = tuntap",
            "master = true",
            " ".join(["tuntap-router = emperor0", f"{self.dir}/router", f"{self.dir}/stats", *filter(None, [self.gateway])]),
            *(["tuntap-router-switch = true"] if self.switch else []),
            *([] if self.polls else ["tuntap-router-busy-poll = 0"]),
            *(["tuntap-router-offload = on"] if self.offloads else []),
            *self.more_options,
            *self.address_lines("emperor0", *self.router_addresses),
            "exec-as-root = ip link set emperor0 up",
            f"emperor = {self.dir}/vassals",
            "emperor-use-clone = net",
            # A vassal that died is restarted soon.
            "emperor-freq = 1",
            "",
        ])

    def address_lines(self, device, address, address6):
        """Yields lines that give a device its addresses."""
        yield f"exec-as-root = ip address replace {address}/16 dev {device}"
        if self.has_ipv6:
            yield f"exec-as-root = ip -6 address replace {address6}/64 dev {device} nodad"

    def claim_lines(self):
        """Yields lines that set a vassal's routes, and claim its addresses."""
        for gateway in self.router_addresses if self.has_ipv6 else self.router_addresses[:1]:
            yield f"exec-as-root = ip route replace default via {gateway}"
            # The kernel routes an IPv6 address to itself only after ip(8) has returned, so that the first reply may be lost.
            yield f"exec-as-root = ping -c 1 -W 1 {gateway} || ping -c 1 -W 5 {gateway}"

    def vassal_ini(self, *addresses):
        return "\n".join([
            "[uwsgi]",
            f"plugins-dir = {self.plugins}",
            "plugin = tuntap",
            "jailed = true",
            "master = true",
            "socket = 127.0.0.1:3031",
            "uid = 65534",
            "gid = 65534",
            f"tuntap-device = uwsgi0 {self.dir}/router",
            # The C plugin disconnects a vassal for the kernel's first IPv6 packet.
            f"exec-as-root = echo {int(not self.has_ipv6)} >/proc/sys/net/ipv6/conf/all/disable_ipv6",
            "exec-as-root = ip link set lo up",
            *self.address_lines("uwsgi0", *addresses),
            "exec-as-root = ip link set uwsgi0 up",
            *self.claim_lines(),
            "",
        ])

    def get_ready(self):
        for name in self.vassal_addresses:
            if not self.lives(name):
                self.vassals[name] = wait_for(f"{name} of {self.key}", 40, lambda n=name: self.find(n))
                self.lab.adopt(self.vassals[name])
        first = next(iter(self.vassals.values()))
        self.link = Link(first, self.host, self.router_addresses, "emperor0", inside="uwsgi0")
        if not self.router_lives():
            self.router = self.find_router()
            router.check_plugin(self.router, self.plugins)
            if self.idle:
                self.add_idle_peers()

    def router_lives(self):
        return self.router is not None and Path(f"/proc/{self.router}").exists()

    def lives(self, name):
        space = self.vassals.get(name)
        return space is not None and rig.net_namespace(space.pid) == space.identity

    def is_intact(self):
        return self.router_lives() and all(self.lives(name) for name in self.vassal_addresses)

    def find(self, name):
        """Returns the vassal's namespace, or None as long as it doesn't reach the router."""
        if self.emperor.poll() is not None:
            raise Trouble(f"the Emperor of {self.key} ended")
        ini = f"{name}.ini"
        for pid in rig.descendants(self.emperor.pid):
            if ini in rig.command_line(pid):
                space = Namespace(f"{self.key}-{name}", pid)
                return space if self.reaches_router(space) else None
        return None

    def reaches_router(self, space):
        # Right after the fork a vassal is still in the Emperor's namespace.
        if space.identity in (None, self.host.identity):
            return False
        wanted = self.router_addresses if self.has_ipv6 else self.router_addresses[:1]
        return all(space.run("ping", "-q", "-c", "1", "-W", "1", address).returncode == 0 for address in wanted)

    def lost_devices(self):
        if self.is_c:
            return []
        log = (self.lab.dir / f"{self.key}.log").read_text(errors="replace")
        lines = [line for line in log.splitlines() if BACK_TO_FRAMES in line]
        new, self.lines_seen = lines[self.lines_seen :], len(lines)
        # A peer that can't be attached at all has not lost its device. The statistics also show what the log's limit left out.
        reasons = (peer.get("stream_reason") or "" for peer in self.stats()["peers"])
        slow = [reason for reason in reasons if TOO_MUCH_TIME in reason]
        return new or slow

    def across(self):
        return Link(self.vassals["vassal1"], self.vassals["vassal2"], VASSALS["vassal2"], "uwsgi0")

    def processes(self):
        return [self.router]

    def find_router(self):
        pid = router.find_process(self.stats(), self.emperor.pid)
        if pid is None:
            raise Trouble(f"{self.key} has no process that its stats name")
        return pid

    def stats(self):
        return router.stats(self.dir / "stats")

    def add_idle_peers(self):
        if self.idlers is None:
            self.idle_space = self.space("idle")
            # Otherwise the router receives the kernel's own packets before the claims.
            set_kernel(self.idle_space, "ipv6/conf/default/disable_ipv6", 1)
        else:
            self.lab.end(self.idlers)
        before = router.proportional_memory(self.router)
        kind = "attached" if self.attached else "stream"
        arguments = [kind, str(self.dir / "router"), FIRST_IDLE, str(self.idle), self.router_addresses[0]]
        self.idlers = helpers.start(self.lab, self.idle_space, "peers", *arguments, seconds=60)
        wanted = self.idle + len(self.vassal_addresses)
        wait_for(f"{wanted} peers of {self.key}", 30, lambda: self.addresses() == wanted)
        if self.memory_per_peer is None:
            self.memory_per_peer = (router.proportional_memory(self.router) - before) / self.idle

    def addresses(self):
        return sum(1 for peer in self.stats()["peers"] if peer["addr"] not in ("", "0.0.0.0"))


class Host(Router):
    """One of two hosts, whose router sends what is for the other one's vassal to that one's gateway."""

    def __init__(self, lab, key, label, uwsgi, plugins, number, *, is_c):
        super().__init__(lab, key, label, uwsgi, plugins, is_c=is_c)
        other = 3 - number
        self.router_addresses = (f"10.{number}.0.1", f"fd00:{number}::1")
        self.vassal_addresses = {"vassal1": (f"10.{number}.0.2", f"fd00:{number}::2")}
        self.wire = f"192.0.2.{number}"
        self.gateway = f"{self.wire}:4000"
        self.more_options = [f"tuntap-router-route = 10.{number}.0.0/16 10.{other}.0.0/16 192.0.2.{other}:4000"]


class Hosts(Subject):
    """Two hosts with a veth pair between them, and with an Emperor, a router and a vassal each."""

    def __init__(self, lab, key, label, uwsgi, plugins, *, is_c=False):
        super().__init__(lab, key, label)
        self.is_mortal = is_c
        self.hosts = [Host(lab, f"{key}-{number}", label, uwsgi, plugins, number, is_c=is_c) for number in (1, 2)]
        self.log = self.hosts[0].log

    def begin(self):
        for host in self.hosts:
            host.host = host.space("host")
        join(self.hosts[0].host, "eth0", self.hosts[1].host)
        for host in self.hosts:
            give_addresses(host.host, "eth0", [host.wire], [24])
            host.begin()

    def get_ready(self):
        for host in self.hosts:
            host.get_ready()
        near, far = (host.vassals["vassal1"] for host in self.hosts)
        address = self.hosts[1].vassal_addresses["vassal1"][0]
        # The first long packet teaches its sender what the way takes.
        for size in ("1472", "56"):
            near.run("ping", "-q", "-c", "1", "-W", "1", "-s", size, address)
        self.link = Link(near, far, (address,), "uwsgi0")

    def is_intact(self):
        return all(host.is_intact() for host in self.hosts)

    def processes(self):
        return [process for host in self.hosts for process in host.processes()]

    def lost_devices(self):
        return [report for host in self.hosts for report in host.lost_devices()]


def has_option(uwsgi, plugins, option):
    """Returns true if the plugin knows an option."""
    command = [uwsgi, "--plugins-dir", str(plugins), "--plugin", "tuntap", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return f"--{option}" in done.stdout + done.stderr
