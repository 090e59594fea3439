"""The machine's own network settings, which demo, benchmark and soak test must leave alone."""

import re
import subprocess

COMMANDS = {
    "links": ["ip", "-o", "link"],
    "addresses": ["ip", "-o", "address"],
    "routes": ["ip", "route", "show", "table", "all"],
    "IPv6 routes": ["ip", "-6", "route", "show", "table", "all"],
    "rules": ["ip", "rule"],
    "iptables": ["iptables-save"],
    "ip6tables": ["ip6tables-save"],
    "nftables": ["nft", "list", "ruleset"],
}

FILES = {
    "ip_forward": "/proc/sys/net/ipv4/ip_forward",
    "IPv6 forwarding": "/proc/sys/net/ipv6/conf/all/forwarding",
    "host name": "/proc/sys/kernel/hostname",
}

# What changes by itself: dates in comments, packet counters, lifetimes.
VOLATILE = re.compile(
    r"^#.*$|\[\d+:\d+\]|packets \d+ bytes \d+|(valid_lft|preferred_lft|expires) \S+", re.MULTILINE
)


def settings():
    """All settings by name. A tool that isn't installed can't have been used either."""
    seen = {}
    for name, command in COMMANDS.items():
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        except FileNotFoundError:
            seen[name] = f"{command[0]} is not installed"
            continue
        seen[name] = VOLATILE.sub("", done.stdout + done.stderr)
    for name, path in FILES.items():
        try:
            with open(path, encoding="ascii") as file:
                seen[name] = file.read()
        except FileNotFoundError:
            seen[name] = "absent"
    return seen
