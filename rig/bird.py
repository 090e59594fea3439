"""BIRD, the routing daemon of a host."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from lab import wait_for

# Where routers listen for it.
FEED_ADDRESS, FEED_PORT = "127.0.0.1", 979
PASSWORD = "one password for all"
# The AS of BIRD on all hosts, and that of all routers.
BIRD_AS, ROUTER_AS = 64512, 64513
NETWORKS = {"ipv4": "10.77.0.0/16{32,32}", "ipv6": "fd00:77::/64{128,128}"}


def feed(router_id):
    """Returns the part of the configuration that takes the addresses of vassals from the host's own router."""
    channels = "".join(
        f"""
  {family} {{
    add paths tx;
    next hop keep;
    import filter {{
      if net !~ [ {networks} ] then reject;
      bgp_local_pref = bgp_med;
      ifname = "emperor0";
      accept;
    }};
    export where source = RTS_BGP && proto != "tuntap";
  }};"""
        for family, networks in NETWORKS.items()
    )
    kernels = "".join(f"protocol kernel {{ {family} {{ export where source = RTS_BGP; }}; }}\n" for family in NETWORKS)
    return f"""router id {router_id};
protocol device {{ }}
{kernels}
protocol bgp tuntap {{
  local {FEED_ADDRESS} as {BIRD_AS};
  neighbor {FEED_ADDRESS} port {FEED_PORT} as {ROUTER_AS};
  multihop;
  password "{PASSWORD}";
  hold time 9;
  connect delay time 1;
  connect retry time 1;
  error wait time 1, 1;{channels}
}}
"""


def neighbours(addresses, interface):
    """Returns the part that exchanges these addresses with other hosts."""
    channels = "".join(
        f"""
  {family} {{
    next hop self;
    import filter {{
      if net !~ [ {networks} ] then reject;
      if defined(bgp_med) then bgp_local_pref = bgp_med;
      accept;
    }};
    export where proto = "tuntap";
    import limit 30000 action block;
  }};"""
        for family, networks in NETWORKS.items()
    )
    template = f"""
protocol bfd {{ interface "{interface}" {{ interval 100 ms; multiplier 3; }}; }}
template bgp host {{
  local as {BIRD_AS};
  direct;
  bfd on;
  hold time 9;
  connect delay time 1;
  connect retry time 2;
  error wait time 1, 5;{channels}
}}
"""
    sessions = (
        f"protocol bgp host{number} from host {{ neighbor {address} as {BIRD_AS}; }}\n"
        for number, address in enumerate(addresses, 1)
    )
    return template + "".join(sessions)


@dataclass
class Bird:
    """A running BIRD of a namespace."""

    lab: object
    space: object
    config: Path
    process: object = None

    @property
    def control(self):
        return self.config.with_suffix(".ctl")

    def start(self):
        command = ["bird", "-f", "-c", str(self.config), "-s", str(self.control), "-P", str(self.config.with_suffix(".pid"))]
        self.process = self.lab.start(self.space, f"{self.config.stem}.log", *command)

    def kill(self):
        self.lab.end(self.process)

    def ask(self, *question):
        done = subprocess.run(
            ["birdc", "-s", str(self.control), *question], capture_output=True, text=True, timeout=20, check=False
        )
        return done.stdout

    def wait_for(self, *protocols, seconds=40):
        """Waits until the sessions of these protocols are established."""
        for name in protocols:
            what = f"a session of BIRD in {self.space.name} with {name}"
            wait_for(what, seconds, lambda n=name: "Established" in self.ask("show", "protocols", n))


def start(lab, space, router_id, addresses, interface="eth0"):
    """Starts one that knows the other hosts with these addresses."""
    config = lab.dir / f"bird-{space.name}.conf"
    config.write_text(feed(router_id) + neighbours(addresses, interface))
    bird = Bird(lab, space, config)
    bird.start()
    return bird
