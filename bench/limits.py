"""Subjects whose traffic is limited: vassals of routers with limits, and veth pairs with the kernel's own shapers."""

import helpers
from lab import Lab
from subjects import Link, ROUTER_ADDRESSES, Router, Subject, Veth, join

# The limits that are measured, in bits per second, by the names that keys and options have for them.
RATES = {"1M": 10**6, "10M": 10**7, "100M": 10**8, "1G": 10**9}
SPOKEN = {"1M": "1 Mbit/s", "10M": "10 Mbit/s", "100M": "100 Mbit/s", "1G": "1 Gbit/s"}
# The kernel's shapers, as an operator would set them up: bytes at once as ours allows them, 5 ms of the rate or two packets.
# A packet counts with the header of its link, 14 bytes, so what passes is 0.9 % less than the rate.
DISCIPLINES = {
    "tbf": ["root tbf rate {rate}bit burst {burst} latency 50ms"],
    "fq-codel": [
        "root handle 1: tbf rate {rate}bit burst {burst} latency 50ms",
        "parent 1:1 fq_codel",
    ],
    "cake": ["root cake bandwidth {rate}bit besteffort"],
}
BURST_SECONDS = 0.005
LEAST_BURST = 2 * 1514
# All peers together, and the share of one of them beside others.
UPLINK = 100 * 10**6
# Two peers are guaranteed next to nothing, and borrow the rest in proportion to their weights.
WEIGHTS = {"light": 1, "heavy": 3}
LITTLE = 100_000
# One peer is guaranteed more than the others, which flood.
GUARANTEED = 20 * 10**6
HONEST = "honest"
FLOODERS = 10


def addresses_of(names):
    """Gives each name an IPv4 and an IPv6 address."""
    return {name: (f"10.0.0.{number}", f"fd00:77::{number:x}") for number, name in enumerate(names, 2)}


class LimitingRouter(Router):
    """A router with limits, for one vassal or several. Several subjects may share it."""

    def __init__(self, lab, key, label, uwsgi, plugins, names, limits, **others):
        super().__init__(lab, key, label, uwsgi, plugins, **others)
        self.vassal_addresses = addresses_of(names)
        self.more_options = [f"tuntap-router-shape = {limit}" for limit in limits(self.vassal_addresses)]
        # The namespaces in which somebody takes what is sent to them.
        self.served = set()

    def begin(self):
        if self.emperor is None:
            super().begin()

    def get_ready(self):
        super().get_ready()
        for space in self.vassals.values():
            if space.identity not in self.served:
                helpers.start(self.lab, space, "serve")
                self.served.add(space.identity)

    def link_of(self, name):
        own = self.vassal_addresses[name]
        return Link(
            self.vassals[name], self.host, ROUTER_ADDRESSES, "emperor0", inside="uwsgi0", client_addresses=own
        )

    def address_of(self, name):
        return self.vassal_addresses[name][0]


class LimitedVassal(Subject):
    """A vassal with a limit of its own, beside others with other limits."""

    def __init__(self, lab, key, label, shared, name):
        super().__init__(lab, key, label)
        self.shared = shared
        self.name = name
        self.rate = RATES[name]
        self.log = shared.log

    def begin(self):
        self.shared.begin()

    def get_ready(self):
        self.shared.get_ready()
        self.link = self.shared.link_of(self.name)

    def is_intact(self):
        return self.shared.is_intact()

    def processes(self):
        return self.shared.processes()

    def lost_devices(self):
        return self.shared.lost_devices()


class LimitedVeth(Veth):
    """A veth pair with one of the kernel's shapers at both ends."""

    def __init__(self, lab, key, label, discipline, rate):
        super().__init__(lab, key, label)
        self.discipline = discipline
        self.rate = RATES[rate]

    def begin(self):
        super().begin()
        helpers.start(self.lab, self.link.client, "serve")
        burst = max(int(self.rate / 8 * BURST_SECONDS), LEAST_BURST)
        for space in (self.link.client, self.link.server):
            for line in DISCIPLINES[self.discipline]:
                words = line.format(rate=self.rate, burst=burst).split()
                space.must("tc", "qdisc", "add", "dev", "eth0", *words)


def missing_disciplines():
    """Returns the kernel's shapers that this kernel doesn't have."""
    lab = Lab("disciplines")
    try:
        space = lab.namespace("disciplines")
        join(space, "eth0", space, "eth1")
        return [discipline for discipline, lines in DISCIPLINES.items() if not takes(space, lines)]
    finally:
        lab.close()


def takes(space, lines):
    """Returns true if the kernel takes a discipline on a device."""
    commands = [line.format(rate=10**6, burst=LEAST_BURST).split() for line in lines]
    found = all(space.run("tc", "qdisc", "add", "dev", "eth0", *words).returncode == 0 for words in commands)
    space.run("tc", "qdisc", "del", "dev", "eth0", "root")
    return found


def one_limit_each(addresses):
    """Yields the limits of peers that are named after their rates. All other peers have one, too."""
    for rate, (address, _address6) in addresses.items():
        yield f"both {address} {rate}"
    yield "both any 10M"


def weighted(addresses):
    """Yields the limits of two peers that share the uplink by their weights."""
    yield f"both uplink {UPLINK}"
    for name, weight in WEIGHTS.items():
        yield f"both {addresses[name][0]} {LITTLE}/{UPLINK} weight={weight}"


def guaranteed(addresses):
    """Yields the limits of a peer with a guaranteed rate beside others."""
    yield f"both uplink {UPLINK}"
    yield f"both {addresses[HONEST][0]} {GUARANTEED}/{UPLINK}"
    yield f"both any {LITTLE}/{UPLINK}"


def makers(lab, ours, idle):
    """Returns functions that make subjects, by their keys. `idle` is the number of idle peers."""
    common = {"attached": True, "idle": idle}
    alone = LimitingRouter(lab, "shaped", "ours", *ours, RATES, one_limit_each)
    crowded = LimitingRouter(lab, "shaped-idle", "ours", *ours, RATES, one_limit_each, **common)
    found = {}
    for rate, spoken in SPOKEN.items():
        found[f"shaped-{rate}"] = lambda key, rate=rate, spoken=spoken: LimitedVassal(
            lab, key, f"ours, {spoken}", alone, rate
        )
        found[f"shaped-idle-{rate}"] = lambda key, rate=rate, spoken=spoken: LimitedVassal(
            lab, key, f"ours, {spoken}, {idle:,} idle shaped peers", crowded, rate
        )
        for discipline in DISCIPLINES:
            found[f"{discipline}-{rate}"] = lambda key, rate=rate, spoken=spoken, kind=discipline: LimitedVeth(
                lab, key, f"{kind} on a veth pair, {spoken}", kind, rate
            )
    found["shaped-weights"] = lambda key: LimitingRouter(
        lab, key, "ours, weights 1:3 on one uplink", *ours, WEIGHTS, weighted
    )
    people = [HONEST, *(f"flooder{number}" for number in range(FLOODERS))]
    found["shaped-guarantee"] = lambda key: LimitingRouter(
        lab, key, f"ours, a guaranteed rate beside {FLOODERS} floods", *ours, people, guaranteed
    )
    return found
