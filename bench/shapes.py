"""The rows of limited traffic, with their figures and targets. "Shaped" are vassals of our router.

The names of all rows begin with "shape-", so `--rows shape` measures them all, and `--rows shape-rate` those of the rates.
"""

import contextlib
import functools
import time

import limits
import transfers
from kinds import Figure, Row, Target
from limits import RATES, SPOKEN

# The targets: percent from the rate, milliseconds that a bulk stream adds to pings, percent from the weights, the part of a
# guaranteed rate, and milliseconds of pings beside floods.
MOST_DEVIATION = 2
MOST_ADDED = {"1M": 20, "10M": 8, "100M": 5, "1G": 3}
MOST_OFF_WEIGHTS = 5
LEAST_OF_GUARANTEED = 0.95
MOST_BESIDE_FLOODS = 10
# What a flood sends, as a part of the uplink, all floods together.
FLOOD = 3
PINGS_PER_UNIT = 100
# A stream beside pings has at least this part of its rate; with less it is no test.
LEAST_BESIDE_PINGS = 0.5
# The heavy peer has its own port, as both have their servers in one namespace.
SECOND_PORT = 5202
DIRECTIONS = {"out": False, "in": True}


def each_rate(*kinds):
    """Returns the keys of subjects, those of one rate next to each other."""
    return [f"{kind}-{rate}" for rate in RATES for kind in kinds]


PLAIN = each_rate("shaped", *limits.DISCIPLINES)
WITH_IDLE = each_rate("shaped", "shaped-idle", *limits.DISCIPLINES)
# These have no limit.
UNSHAPED = ["ours", "veth"]
TBF = {f"{kind}-{rate}": f"tbf-{rate}" for rate in RATES for kind in ("shaped", "shaped-idle")}
NONE = {}


def rate(lab, subject, times, _version, *, name, udp, streams, incoming):
    """Measures how far the rate is from the limit, in percent."""
    measure = transfers.udp_rate if udp else transfers.tcp_rate
    seen = measure(lab, subject.link, times.rate, rate=subject.rate, streams=streams, incoming=incoming)
    return {name: 100 * (seen / subject.rate - 1)}


def ping(lab, subject, times, _version, *, name, incoming):
    """Measures what a stream of TCP adds to the round trips of pings, which have been alone right before."""
    link = subject.link
    count = times.pings * PINGS_PER_UNIT
    usual = transfers.percentile(transfers.pings(link, PINGS_PER_UNIT), 0.5)
    with transfers.transfer(lab, link, rate=subject.rate, incoming=incoming) as running:
        time.sleep(2 * transfers.LEAD)
        before, start = transfers.packet_bytes(link, incoming), time.monotonic()
        trips = transfers.pings(link, count)
        passed = (transfers.packet_bytes(link, incoming) - before) * 8 / (time.monotonic() - start)
        running.check()
        if passed < LEAST_BESIDE_PINGS * (subject.rate or 0):
            raise transfers.Failed(f"the stream beside the pings had only {passed / 1e6:.3g} Mbit/s")
    return {
        name: transfers.percentile(trips, 0.5) - usual,
        f"{name}_p99": transfers.percentile(trips, 0.99) - usual,
        f"{name}_lost": 100 * trips.count(transfers.LOST) / count,
    }


def weights(lab, subject, times, _version):
    """Measures how far the rates of two peers are from their weights, in percent."""
    figures = {}
    total = sum(limits.WEIGHTS.values())
    left = limits.UPLINK - len(limits.WEIGHTS) * limits.LITTLE
    wanted = {name: limits.LITTLE + left * weight / total for name, weight in limits.WEIGHTS.items()}
    for direction, incoming in DIRECTIONS.items():
        with contextlib.ExitStack() as running:
            both = [
                running.enter_context(transfers.transfer(
                    lab, subject.link_of(name), rate=int(wanted[name]), streams=4, incoming=incoming, port=port
                ))
                for name, port in zip(wanted, (transfers.IPERF_PORT, SECOND_PORT))
            ]
            light, heavy = transfers.tcp_rates(both, times.rate)
        ratio = wanted["heavy"] / wanted["light"]
        figures[f"shape_weights_{direction}"] = 100 * (heavy / light / ratio - 1)
        figures[f"shape_uplink_{direction}"] = 100 * ((light + heavy) / limits.UPLINK - 1)
    return figures


@contextlib.contextmanager
def flooding(lab, subject, incoming):
    """Floods the uplink: from all other vassals to the host, or from the host to all of them."""
    payload = str(transfers.DATAGRAM)
    per_second = str(int(FLOOD * limits.UPLINK / 8 / transfers.PACKET / limits.FLOODERS))
    flooders = [name for name in subject.vassal_addresses if name != limits.HONEST]
    if incoming:
        floods = [(subject.host, [subject.address_of(name) for name in flooders])]
    else:
        floods = [(subject.vassals[name], [subject.link.address]) for name in flooders]
    running = []
    try:
        for space, targets in floods:
            command = [str(lab.dir / "pour"), payload, per_second, "3600", *targets]
            running.append(lab.start(space, f"pour-{space.name}.log", *command))
        time.sleep(transfers.LEAD)
        yield
        if any(process.poll() is not None for process in running):
            raise transfers.Failed("pour: a flood ended")
    finally:
        for process in running:
            lab.end(process)
        time.sleep(transfers.REST)


def guarantee(lab, subject, times, _version):
    """Measures what a peer gets of its guaranteed rate beside floods, and its pings beside its own stream and the floods."""
    figures = {}
    link = subject.link_of(limits.HONEST)
    for direction, incoming in DIRECTIONS.items():
        options = {"rate": limits.GUARANTEED, "incoming": incoming}
        with flooding(lab, subject, incoming):
            seen = transfers.tcp_rate(lab, link, times.rate, **options)
            with transfers.transfer(lab, link, **options):
                time.sleep(transfers.LEAD)
                trips = transfers.pings(link, times.pings * PINGS_PER_UNIT)
        figures[f"shape_guarantee_{direction}"] = seen / limits.GUARANTEED
        figures[f"shape_guarantee_{direction}_p99"] = transfers.percentile(trips, 0.99)
    return figures


FIGURES, ROWS, TARGETS = {}, {}, []


def add_rates():
    for protocol, streams, direction in [
        (protocol, streams, direction) for protocol in ("tcp", "udp") for streams in (1, 4) for direction in DIRECTIONS
    ]:
        many = f"-{streams}" * (streams > 1)
        name = f"shape_{protocol}_{direction}{many.replace('-', '_')}"
        title = f"{protocol.upper()} {direction}, {streams} stream{'s' * (streams > 1)}"
        FIGURES[name] = Figure(f"Limited {title}: from the limit", "%", references=NONE)
        measure = functools.partial(
            rate, name=name, udp=protocol == "udp", streams=streams, incoming=DIRECTIONS[direction]
        )
        # What idle peers cost is seen in the plain case.
        with_idle = (protocol, streams) == ("tcp", 1)
        keys = WITH_IDLE if with_idle else PLAIN
        ROWS[f"shape-rate-{protocol}-{direction}{many}"] = Row(keys, measure, is_usual=False)
        for kind in ["shaped"] + ["shaped-idle"] * with_idle:
            for limit, spoken in SPOKEN.items():
                about = f"{spoken}, {title}{', idle peers' * (kind != 'shaped')}: % from it"
                TARGETS.append(Target(about, name, f"{kind}-{limit}", None, MOST_DEVIATION, is_deviation=True))


def add_pings():
    for direction, incoming in DIRECTIONS.items():
        name = f"shape_ping_{direction}"
        title = f"Ping beside limited TCP {direction}"
        references = {"/ tbf": TBF}
        FIGURES[name] = Figure(f"{title}: added median", "ms", references=references)
        FIGURES[f"{name}_p99"] = Figure(f"{title}: added 99th percentile", "ms", references=references)
        FIGURES[f"{name}_lost"] = Figure(f"{title}: lost", "%", references=NONE)
        measure = functools.partial(ping, name=name, incoming=incoming)
        ROWS[f"shape-ping-{direction}"] = Row(UNSHAPED + WITH_IDLE, measure, is_usual=False)
        for kind in ["shaped", "shaped-idle"]:
            for limit, most in MOST_ADDED.items():
                key = f"{kind}-{limit}"
                about = f"ping beside TCP {direction}, {SPOKEN[limit]}{', idle peers' * (kind != 'shaped')}"
                TARGETS.append(Target(f"{about}, added p99, ms", f"{name}_p99", key, None, most, is_ceiling=True))
                TARGETS.append(Target(f"{about}, the same / tbf", f"{name}_p99", key, TBF[key], 1.0, is_ceiling=True))


def add_shares():
    ROWS["shape-weights"] = Row(["shaped-weights"], weights, is_usual=False)
    ROWS["shape-guarantee"] = Row(["shaped-guarantee"], guarantee, is_usual=False)
    for direction in DIRECTIONS:
        about = f"TCP {direction}"
        name = f"shape_weights_{direction}"
        FIGURES[name] = Figure(f"Two peers on one uplink, {about}: from their weights", "%", references=NONE)
        TARGETS.append(Target(
            f"weights 1:3, {about}: % from them", name, "shaped-weights", None, MOST_OFF_WEIGHTS, is_deviation=True
        ))
        name = f"shape_uplink_{direction}"
        FIGURES[name] = Figure(f"Two peers on one uplink, {about}: both from the uplink's limit", "%", references=NONE)
        TARGETS.append(Target(
            f"uplink of two, {about}: % from its limit", name, "shaped-weights", None, MOST_DEVIATION, is_deviation=True
        ))
        name = f"shape_guarantee_{direction}"
        FIGURES[name] = Figure(f"{about} beside floods, of the guaranteed rate", "ratio", references=NONE)
        TARGETS.append(Target(
            f"guaranteed rate beside floods, {about}", name, "shaped-guarantee", None, LEAST_OF_GUARANTEED
        ))
        FIGURES[f"{name}_p99"] = Figure(f"Ping beside floods and own {about}, 99th percentile", "ms", references=NONE)
        TARGETS.append(Target(
            f"ping p99 beside floods, {about}, ms", f"{name}_p99", "shaped-guarantee", None, MOST_BESIDE_FLOODS,
            is_ceiling=True,
        ))


add_rates()
add_pings()
add_shares()
