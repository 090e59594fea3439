"""The chart for the README, drawn by gnuplot from the JSON of a run."""

import subprocess

import description

# Figure, title, and which subjects it shows.
ENDS = ["ours", "ours-offload", "c", "veth", "slirp4netns", "pasta"]
PANELS = [
    ("tcp_out", "TCP out, Gbit/s", ENDS),
    ("tcp_in", "TCP in, Gbit/s", ENDS),
    ("across", "Vassal to vassal, Gbit/s", ["ours", "ours-switch", "ours-offload-switch", "c", "veth-routed", "veth-bridge"]),
    ("udp", "64-byte UDP received, kpps", ENDS),
    ("tcp_rtt", "Round trip of 1 byte, us (less is better)", ENDS),
    ("rtt", "Round trip of a ping, us (less is better)", ENDS),
    ("cpu", "CPU seconds per GB out (less is better)", ENDS),
]
SHORT = {
    "ours": "this plugin",
    "ours-switch": "switched",
    "ours-offload": "in the kernel",
    "ours-offload-switch": "switched, kernel",
    "c": "C plugin",
    "veth": "veth",
    "veth-routed": "veth routed",
    "veth-bridge": "veth bridge",
    "slirp4netns": "slirp4netns",
    "pasta": "pasta",
}
# The last panel: the speed of IPv6 relative to IPv4; ours beside the kernel alone.
IPV6_TITLE = "Speed of IPv6, IPv4 = 1 (grey: veth)"
IPV6 = [
    ("tcp_out_6", "TCP out", "ours", "veth"),
    ("tcp_in_6", "TCP in", "ours", "veth"),
    ("across_6", "switched", "ours-switch", "veth-bridge"),
    ("udp_6", "UDP", "ours", "veth"),
    ("tcp_rtt_6", "round trip", "ours", "veth"),
]
LESS_IS_BETTER = ["tcp_rtt_6"]
OURS, OTHERS = "0x2f6f4f", "0x9aa5b1"


def draw(report, path):
    done = subprocess.run(
        ["gnuplot"], input=script(report, path), capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"bench: gnuplot: {done.stderr.strip()}")


def script(report, path):
    head = [
        "set encoding utf8",
        "set terminal svg size 1280,640 font 'sans-serif,12' background 'white'",
        f"set output '{path}'",
        f"set multiplot layout 2,4 title \"{quoted(title(report))}\" font ',13'",
        "set style fill solid noborder",
        "set boxwidth 0.7",
        "set border 3",
        "set xtics nomirror rotate by -30 scale 0",
        "set ytics nomirror",
        "set grid ytics lc rgb '#e0e0e0'",
        "set yrange [0:*]",
        "set offsets 0, 0, graph 0.12, 0",
        "unset key",
    ]
    panels = [line for panel in PANELS for line in plot(report, *panel)]
    return "\n".join([*head, *panels, *plot_ipv6(report)]) + "\n"


def plot(report, figure, title_text, subjects):
    measured = report["figures"].get(figure, {"subjects": {}})["subjects"]
    shown = [key for key in subjects if key in measured]
    if not shown:
        return ["set multiplot next"]
    block = f"$data_{figure}"
    lines = [f"{block} << END"]
    for position, key in enumerate(shown):
        value = measured[key]
        color = OURS if key.startswith("ours") else OTHERS
        median = value["median"]
        lines.append(f"{position} {median} {value['min']} {value['max']} \"{SHORT[key]}\" {color} \"{three_digits(median)}\"")
    boxes = f"{block} using 1:2:6:xtic(5) with boxes lc rgb variable"
    spread = f"{block} using 1:3:(0):($4-$3) with vectors nohead lw 2 lc rgb '#404040'"
    labels = f"{block} using 1:4:7 with labels offset 0,0.7 font ',11'"
    return [*lines, "END", f"set title \"{title_text}\" font ',11'", f"plot {boxes}, {spread}, {labels}"]


def three_digits(value):
    """Formats a number; from 1,000 on, with all its integer digits."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def plot_ipv6(report):
    """Draws two bars for each figure: ours and the other subject's."""
    lines = ["$data_ipv6 << END"]
    for position, (figure, name, *subjects) in enumerate(IPV6):
        ratios = report["figures"].get(figure, {"of_ipv4": {}})["of_ipv4"]
        for side, key, color in zip((-0.2, 0.2), subjects, (OURS, OTHERS)):
            if not ratios.get(key):
                continue
            speed = 1 / ratios[key] if figure in LESS_IS_BETTER else ratios[key]
            label = f"{speed:.2f}" if color == OURS else ""
            lines.append(f"{position + side} {speed} {color} \"{label}\"")
    if len(lines) == 1:
        return ["set multiplot next"]
    tics = ", ".join(f"\"{name}\" {position}" for position, (_figure, name, *_subjects) in enumerate(IPV6))
    return [
        *lines,
        "END",
        f"set title \"{IPV6_TITLE}\" font ',11'",
        f"set xtics ({tics})",
        "set boxwidth 0.36",
        "set xrange [-0.7:4.7]",
        "plot $data_ipv6 using 1:2:3 with boxes lc rgb variable, "
        "$data_ipv6 using 1:2:4 with labels offset 0,0.7 font ',10', 1 lw 1 dt 2 lc rgb '#404040'",
    ]


def title(report):
    machine = report["machine"]
    rounds = "1 round" if report["rounds"] == 1 else f"{report['rounds']} rounds"
    return f"{description.in_a_line(machine)}\\nmedians of {rounds}, with the least and the greatest value"


def quoted(text):
    return text.replace('"', "'")
