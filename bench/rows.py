"""The measurements, their subjects, and the targets of their figures."""

import time

import captures
import floods
import many
import probes
import shapes
from kinds import Figure, Row, Target, Times

# Subjects with a client inside and a server outside.
ENDS = ["ours", "ours-offload", "c", "relay", "veth", "slirp4netns", "pasta"]
IDLE = ["ours-idle-attached", "ours-offload-idle", "c-idle"]
# These are left out of full runs, which take long enough without them.
LARGE_MTU = ["slirp4netns-65520", "pasta-65520"]
IDLE_STREAMS = ["ours-idle"]
# Our router polls for packets for a while; no other subject does.
NO_POLL = ["ours-no-poll"]
# These subjects join two vassals instead of a vassal and its host: over a routing host, or over only a bridge or the
# router.
ACROSS_ROUTED = ["ours", "c", "veth-routed"]
ACROSS_SWITCHED = ["ours-switch", "ours-offload-switch", "veth-bridge"]
# Two hosts with a router each, which exchange packets by their gateways.
HOSTS = ["ours-gateways", "c-gateways"]
# Vassals that flood, and others.
CROWD = ["crowd", "crowd-offload"]
FLOODED_CROWD = [*CROWD, "veth-crowd"]
# A hundred vassals.
MANY = ["many", "many-offload", "veth-many"]
FLOODED = {"/ veth": "veth-crowd"}
# The speed of IPv6 relative to IPv4 is measured for ours and for the subject that it is compared with.
IPV6 = ["ours", "veth"]
# The subject of an earlier build, for each that it is measured beside (`--before`).
BEFORE = {"ours": "before", "ours-switch": "before-switch", "crowd": "before-crowd", "ours-gateways": "before-gateways"}


FIGURES = {
    "tcp_out": Figure("TCP out, 1 stream", "Gbit/s"),
    "tcp_out_4": Figure("TCP out, 4 streams", "Gbit/s"),
    "tcp_in": Figure("TCP in, 1 stream", "Gbit/s"),
    "tcp_in_4": Figure("TCP in, 4 streams", "Gbit/s"),
    "across": Figure(
        "Vassal to vassal, TCP, 1 stream", "Gbit/s", references={"/ bridge": "veth-bridge", "/ C": "c"}
    ),
    "gateways": Figure(
        "Vassal to vassal of another host, by gateways, TCP, 1 stream", "Gbit/s", references={"/ C": "c-gateways"}
    ),
    "gateways_cpu": Figure(
        "CPU of both routers, TCP by gateways", "s/GB", 3, references={"/ C": "c-gateways"}
    ),
    "gateways_udp": Figure(
        "UDP with 64 bytes, by gateways, received", "kpps", 1, references={"/ C": "c-gateways"}
    ),
    "udp": Figure("UDP with 64 bytes, received", "kpps", 1),
    "udp_sent": Figure("UDP with 64 bytes, offered by the sender", "kpps", 1),
    "rtt": Figure("Round trip, ping -f, mean", "us", 1),
    "rtt_cpu": Figure("CPU of the router or its like, ping -f", "% of a core", 0),
    "tcp_rtt": Figure("Round trip, 1 byte over TCP, median", "us", 1),
    "tcp_rtt_p99": Figure("Round trip, 1 byte over TCP, 99th percentile", "us", 1),
    "connects": Figure("TCP connections, 16 at a time", "1/s", 0),
    "cpu": Figure("CPU of the router or its like, TCP out", "s/GB", 3),
    "machine_cpu_out": Figure("CPU of the whole machine, TCP out", "s/GB", 3),
    "machine_cpu_in": Figure("CPU of the whole machine, TCP in", "s/GB", 3),
    # Our router has no buffer for an attached peer: packets wait in the peer's device. C's, whose peers all send frames,
    # has one.
    "flood_out_tcp_out": Figure("TCP out beside 10 flooding vassals", "of its fair share"),
    "flood_out_tcp_in": Figure("TCP in beside 10 flooding vassals", "of its fair share"),
    "flood_out_lost": Figure("Pings lost beside 10 flooding vassals", "%"),
    "flood_out_p99": Figure("Ping beside 10 flooding vassals, 99th percentile", "ms"),
    "flood_out_quiet_lost": Figure("Pings lost beside TCP, without the flood", "%"),
    "flood_out_quiet_p99": Figure("Ping beside TCP, without the flood, 99th percentile", "ms"),
    "flood_in_tcp_out": Figure("TCP out while the host floods another vassal", "of that alone", references=FLOODED),
    "flood_in_tcp_in": Figure("TCP in while the host floods another vassal", "of that alone", references=FLOODED),
    "flood_in_lost": Figure("Pings lost while the host floods another vassal", "%"),
    "flood_in_p99": Figure("Ping while the host floods another vassal, 99th percentile", "ms"),
    "flood_in_quiet_lost": Figure("Pings lost beside TCP, before that flood", "%"),
    "flood_in_quiet_p99": Figure("Ping beside TCP, before that flood, 99th percentile", "ms"),
    "flood_in_read": Figure("Packets that the router reads while the host floods a vassal", "kpps", 1),
    "flood_in_twice_tcp_out": Figure(
        "TCP out while two processes flood another vassal", "of that alone", references=FLOODED
    ),
    "flood_in_twice_tcp_in": Figure(
        "TCP in while two processes flood another vassal", "of that alone", references=FLOODED
    ),
    "flood_in_twice_lost": Figure("Pings lost while two processes flood another vassal", "%"),
    "flood_in_twice_p99": Figure("Ping while two processes flood another vassal, 99th percentile", "ms"),
    "flood_in_twice_quiet_lost": Figure("Pings lost beside TCP, before these two", "%"),
    "flood_in_twice_quiet_p99": Figure("Ping beside TCP, before these two, 99th percentile", "ms"),
    "flood_in_twice_read": Figure("Packets that the router reads while two processes flood a vassal", "kpps", 1),
    "flood_in_paced_tcp_out": Figure("TCP out while the host sends another vassal 149 kpps", "of that alone"),
    "flood_in_paced_tcp_in": Figure("TCP in while the host sends another vassal 149 kpps", "of that alone"),
    "flood_in_paced_lost": Figure("Pings lost while the host sends another vassal 149 kpps", "%"),
    "flood_in_paced_p99": Figure("Ping while the host sends another vassal 149 kpps, 99th percentile", "ms"),
    "flood_in_paced_quiet_lost": Figure("Pings lost beside TCP, before these", "%"),
    "flood_in_paced_quiet_p99": Figure("Ping beside TCP, before these, 99th percentile", "ms"),
    "flood_in_paced_read": Figure("Packets that the router reads while the host sends a vassal 149 kpps", "kpps", 1),
    "many": Figure("100 vassals with a stream each, together", "Gbit/s", references={"/ veth": "veth-many"}),
    "many_least": Figure("The slowest of these streams", "of their mean"),
    "many_greatest": Figure("The fastest of these streams", "of their mean"),
    "memory": Figure("Memory per idle peer; ours are attached, C's in frames", "bytes", 0),
}
FIGURES |= captures.FIGURES | shapes.FIGURES
FULL = Times(tcp=2, other=0.8, rate=10, pings=8)
QUICK = Times(tcp=1, other=0.3, rate=2, pings=3)


def tcp_out(lab, subject, times, version):
    pids = subject.processes()
    before = probes.cpu_seconds(pids)
    machine = probes.MachineCpu()
    rate, gigabytes = probes.tcp(lab, subject.link.over(version), times.tcp)
    figures = {"tcp_out": rate, "machine_cpu_out": machine.seconds() / gigabytes}
    if pids:
        figures["cpu"] = (probes.cpu_seconds(pids) - before) / gigabytes
    return figures


def tcp_out_4(lab, subject, times, version):
    return {"tcp_out_4": probes.tcp(lab, subject.link.over(version), times.tcp, streams=4)[0]}


def tcp_in(lab, subject, times, version):
    machine = probes.MachineCpu()
    rate, gigabytes = probes.tcp(lab, subject.link.over(version), times.tcp, incoming=True)
    return {"tcp_in": rate, "machine_cpu_in": machine.seconds() / gigabytes}


def tcp_in_4(lab, subject, times, version):
    return {"tcp_in_4": probes.tcp(lab, subject.link.over(version), times.tcp, incoming=True, streams=4)[0]}


def across(lab, subject, times, version):
    return {"across": probes.tcp(lab, subject.across().over(version), times.tcp)[0]}


def gateways(lab, subject, times, _version):
    before = probes.cpu_seconds(subject.processes())
    rate, gigabytes = probes.tcp(lab, subject.link, times.tcp)
    if not gigabytes:
        raise probes.Failed("iperf3: nothing arrived")
    return {"gateways": rate, "gateways_cpu": (probes.cpu_seconds(subject.processes()) - before) / gigabytes}


def gateways_udp(lab, subject, times, _version):
    try:
        received, _ = probes.flood(lab, subject.link, times.other)
    except FileNotFoundError as error:
        # Unlike in other rows, who receives is a vassal, and may die.
        raise probes.Failed(f"flood: {error}") from error
    time.sleep(0.1)
    return {"gateways_udp": received}


def udp(lab, subject, times, version):
    received, sent = probes.flood(lab, subject.link.over(version), times.other)
    # Packets that are still on their way must not disturb the next measurement.
    time.sleep(0.1)
    return {"udp": received, "udp_sent": sent}


def pingpong(lab, subject, times, version):
    median, worst = probes.pingpong(lab, subject.link.over(version), times.other)
    return {"tcp_rtt": median, "tcp_rtt_p99": worst}


def ping(lab, subject, times, version):
    pids = subject.processes()
    before, start = probes.cpu_seconds(pids), time.monotonic()
    figures = {"rtt": probes.ping(lab, subject.link.over(version), times.other)}
    if pids:
        # A router that polls pays for its short round trips with CPU time.
        figures["rtt_cpu"] = 100 * (probes.cpu_seconds(pids) - before) / (time.monotonic() - start)
    return figures


def connects(lab, subject, times, version):
    return {"connects": probes.connects(lab, subject.link.over(version), times.other)}


ROWS = {
    "tcp-out": Row(ENDS + IDLE, tcp_out, on_demand=LARGE_MTU + IDLE_STREAMS),
    "tcp-in": Row(ENDS + IDLE, tcp_in, on_demand=LARGE_MTU + IDLE_STREAMS),
    "tcp-out-4": Row(ENDS, tcp_out_4, is_quick=False),
    "tcp-in-4": Row(ENDS, tcp_in_4, is_quick=False),
    "across": Row(ACROSS_ROUTED + ACROSS_SWITCHED, across),
    "gateways": Row(HOSTS, gateways, is_quick=False),
    "gateways-udp": Row(HOSTS, gateways_udp, is_quick=False),
    "udp": Row(ENDS + IDLE, udp, on_demand=IDLE_STREAMS),
    "pingpong": Row(ENDS, pingpong, on_demand=NO_POLL),
    # The address that stands for pasta's host answers no echo requests.
    "ping": Row([key for key in ENDS if key != "pasta"] + IDLE, ping, on_demand=IDLE_STREAMS + NO_POLL),
    "connects": Row(ENDS, connects),
    "flood-out": Row(CROWD, floods.flood_out, is_quick=False),
    "flood-in": Row(FLOODED_CROWD, floods.flood_in, is_quick=False),
    "flood-in-twice": Row(FLOODED_CROWD, floods.flood_in_twice, is_quick=False),
    "flood-in-paced": Row(CROWD, floods.flood_in_paced, is_quick=False),
    "many": Row(MANY, many.many, is_quick=False),
    "tcp-out-6": Row(IPV6, tcp_out, on_demand=["relay"], version=6),
    "tcp-in-6": Row(IPV6, tcp_in, on_demand=["relay"], version=6),
    "across-6": Row(ACROSS_SWITCHED, across, on_demand=["ours", "veth-routed"], version=6),
    "udp-6": Row(IPV6, udp, on_demand=["relay"], version=6),
    "pingpong-6": Row(IPV6, pingpong, on_demand=["relay"], version=6),
    "ping-6": Row(IPV6, ping, on_demand=["relay"], version=6),
}
ROWS |= captures.ROWS | shapes.ROWS
# The name of each row over IPv6, by the name of the row over IPv4.
OVER_IPV6 = {name: f"{name}-6" for name in ROWS if f"{name}-6" in ROWS}


TARGETS = [
    Target("TCP out / veth", "tcp_out", "ours", "veth", 1.0),
    Target("TCP in / veth", "tcp_in", "ours", "veth", 1.0),
    Target("TCP out / C plugin", "tcp_out", "ours", "c", 10),
    Target("vassal to vassal, switched / bridge", "across", "ours-switch", "veth-bridge", 0.8),
    Target("small UDP / C plugin", "udp", "ours", "c", 3.5),
    Target("small UDP / veth", "udp", "ours", "veth", 1.0),
    Target("round trip / C plugin", "rtt", "ours", "c", 0.55, is_ceiling=True),
    Target("TCP out, idle peers / none", "tcp_out", "ours-idle-attached", "ours", 0.95),
    Target("TCP in, idle peers / none", "tcp_in", "ours-idle-attached", "ours", 0.95),
    Target("small UDP, idle peers / none", "udp", "ours-idle-attached", "ours", 0.95),
    Target("round trip, none / idle peers", "rtt", "ours", "ours-idle-attached", 0.95),
    Target("router CPU per GB / C plugin", "cpu", "ours", "c", 0.1, is_ceiling=True),
    Target("TCP out in the kernel / veth", "tcp_out", "ours-offload", "veth", 0.9),
    Target("TCP in, in the kernel / veth", "tcp_in", "ours-offload", "veth", 0.85),
    Target("TCP out in the kernel, 4 streams / veth", "tcp_out_4", "ours-offload", "veth", 1.15),
    Target("TCP in, in the kernel, 4 streams / veth", "tcp_in_4", "ours-offload", "veth", 0.9),
    Target("machine's CPU per GB out, in the kernel / veth", "machine_cpu_out", "ours-offload", "veth", 1.25, is_ceiling=True),
    Target("machine's CPU per GB in, in the kernel / veth", "machine_cpu_in", "ours-offload", "veth", 1.25, is_ceiling=True),
    Target("small UDP in the kernel / veth", "udp", "ours-offload", "veth", 0.85),
    Target("round trip over TCP in the kernel / veth", "tcp_rtt", "ours-offload", "veth", 1.15, is_ceiling=True),
    Target("connections, in the kernel / by the router", "connects", "ours-offload", "ours", 0.95),
    Target("vassal to vassal, in the kernel / bridge", "across", "ours-offload-switch", "veth-bridge", 0.95),
    Target("TCP out in the kernel, idle peers / none", "tcp_out", "ours-offload-idle", "ours-offload", 0.95),
    Target("small UDP in the kernel, idle peers / none", "udp", "ours-offload-idle", "ours-offload", 0.95),
    Target("100 vassals in the kernel / veth", "many", "many-offload", "veth-many", 0.9),
    Target("the slowest of 100 vassals in the kernel, of their mean", "many_least", "many-offload", None, 0.8),
    Target("the fastest of 100 vassals in the kernel, of their mean", "many_greatest", "many-offload", None, 1.2, is_ceiling=True),
    Target("TCP out, in the kernel, beside 10 floods, of its share", "flood_out_tcp_out", "crowd-offload", None, 0.8),
    Target("TCP in, in the kernel, beside 10 floods, of its share", "flood_out_tcp_in", "crowd-offload", None, 0.8),
    Target("ping p99, in the kernel, beside 10 floods, ms", "flood_out_p99", "crowd-offload", None, 20, is_ceiling=True),
    Target("pings lost, in the kernel, host floods another, %", "flood_in_lost", "crowd-offload", None, 0, is_ceiling=True),
    Target("TCP out, in the kernel, host floods another", "flood_in_tcp_out", "crowd-offload", None, 0.5),
    Target("TCP in, in the kernel, host floods another", "flood_in_tcp_in", "crowd-offload", None, 0.5),
    Target("TCP out, IPv6 / IPv4", "tcp_out_6", "ours", None, 0.95, twin="tcp_out"),
    Target("TCP in, IPv6 / IPv4", "tcp_in_6", "ours", None, 0.95, twin="tcp_in"),
    Target("vassal to vassal, switched, IPv6 / IPv4", "across_6", "ours-switch", None, 0.95, twin="across"),
    Target("small UDP, IPv6 / IPv4", "udp_6", "ours", None, 0.95, twin="udp"),
    # This is not ping's round trip: ping reports its mean of some ten microseconds as a whole number.
    Target("round trip over TCP, IPv4 / IPv6", "tcp_rtt", "ours", None, 0.95, twin="tcp_rtt_6"),
    Target("TCP out beside 10 flooding vassals, of its share", "flood_out_tcp_out", "crowd", None, 0.8),
    Target("TCP in beside 10 flooding vassals, of its share", "flood_out_tcp_in", "crowd", None, 0.8),
    Target("ping p99 beside 10 flooding vassals, ms", "flood_out_p99", "crowd", None, 20, is_ceiling=True),
    Target("pings lost while the host floods another vassal, %", "flood_in_lost", "crowd", None, 0, is_ceiling=True),
    Target("TCP out while the host floods another vassal", "flood_in_tcp_out", "crowd", None, 0.5),
    Target("TCP in while the host floods another vassal", "flood_in_tcp_in", "crowd", None, 0.5),
    Target("pings lost while two processes flood, %", "flood_in_twice_lost", "crowd", None, 0, is_ceiling=True),
    Target("TCP out while two processes flood", "flood_in_twice_tcp_out", "crowd", None, 0.5),
    Target("TCP in while two processes flood", "flood_in_twice_tcp_in", "crowd", None, 0.5),
    Target("pings lost beside 149 kpps to another vassal, %", "flood_in_paced_lost", "crowd", None, 0, is_ceiling=True),
    Target("TCP out beside 149 kpps to another vassal", "flood_in_paced_tcp_out", "crowd", None, 0.5),
    Target("TCP in beside 149 kpps to another vassal", "flood_in_paced_tcp_in", "crowd", None, 0.5),
    Target("memory per idle peer, bytes", "memory", "ours-idle-attached", None, 2048, is_ceiling=True),
]
TARGETS += captures.TARGETS + shapes.TARGETS
