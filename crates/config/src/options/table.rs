//! The table of options, in the order of `--help`. A new option is a new row here, and a field in
//! [`Config`](crate::Config).

use super::{OptionSpec, Scope};
use crate::{
    control, credentials, device, grants, hostnet, hosts, limits, log, metrics, offload, parse, priority, protection,
    router, rules, sandbox, shape, trunks,
};

/// Makes the names and the table of rows that are written `Name = row`.
macro_rules! options {
    ($($name:ident = $row:expr),+ $(,)?) => {
        /// The options of the plugin, by the names that the code has for them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(missing_docs, reason = "the rows of the table say what the options are")]
        pub enum OptionName {
            $($name),+
        }

        impl OptionName {
            /// All of them, in the order of [`TABLE`].
            pub const ALL: [Self; [$(stringify!($name)),+].len()] = [$(Self::$name),+];
        }

        /// One row for each option.
        pub static TABLE: [OptionSpec; OptionName::ALL.len()] = [$($row),+];
    };
}

options!(
    Router = OptionSpec {
        name: "tuntap-router",
        scope: Scope::Router,
        syntax: "<device> <socket> [stats] [gateway]",
        repeats: true,
        help: "run a tuntap router, may be repeated",
        details: "Runs a router, which owns a TUN device of this name and meets its vassals on a unix socket: a path, or \
                  `@name` for the abstract namespace, which only processes in the router's network namespace can reach. \
                  With `addr:port` or `[addr]:port` in place of the socket it waits there for routers of other hosts, as with \
                  `tuntap-router-trunk`, and has no socket for vassals of its host; unless that is a loopback address, \
                  `tuntap-router-trunk-peer` has to name such a router. \
                  `stats` is where it serves its statistics (see `tuntap-router-stats`); `\"\"` leaves it out. `gateway` is \
                  the UDP address on which it exchanges packets with other routers, `addr:port` or `[addr]:port`; `:port` is \
                  all IPv4 addresses of the host, `[::]:port` all addresses of both families.",
        needs_master: true,
        read: |draft, value| router::parse(value).map(|spec| draft.config.routers.push(spec)),
        ..OptionSpec::BASE
    },
    Device = OptionSpec {
        name: "tuntap-device",
        scope: Scope::Device,
        syntax: "<device>[ <socket>[ auto]]",
        repeats: true,
        help: "make a tun device in the instance's network namespace and join it to a router, may be repeated",
        note: "auto has the router choose its addresses",
        details: "Makes a TUN device in the instance's network namespace and joins it to the router that listens on the \
                  socket. Without a socket the device is only made. With `auto` the router chooses the device's addresses. \
                  Everything behind the device's name is the socket's name, white space included, except for a last word \
                  `auto`; quotes around the socket's name are taken off.",
        read: |draft, value| device::parse(value).map(|spec| draft.config.devices.push(spec)),
        ..OptionSpec::BASE
    },
    UseCredentials = OptionSpec {
        name: "tuntap-use-credentials",
        scope: Scope::Both,
        syntax: "[true|false|symbol]",
        help: "devices show SCM_CREDENTIALS to their router; set it on both sides",
        note: "the symbol is a C function 'uint32_t f(pid_t, uid_t, gid_t)' that gives the address in network byte order, 0 \
               refuses",
        details: "In a router's file: vassals must show their credentials (`SCM_CREDENTIALS`), and the router puts them into \
                  its statistics. In a vassal's file: its devices show them. It must be set on both sides or on neither. With \
                  a symbol, the router calls the C function `uint32_t symbol(pid_t, uid_t, gid_t)`, which returns the \
                  vassal's address in network byte order, or 0 to refuse the vassal.",
        read: |draft, value| credentials::parse(value).map(|spec| draft.config.credentials = spec),
        ..OptionSpec::BASE
    },
    FirewallIn = OptionSpec {
        name: "tuntap-router-firewall-in",
        scope: Scope::Router,
        syntax: "<allow|deny|reject> [<src[/len]|any> <dst[/len]|any> [<protocol> [port[-port]]]] \
                 [new|established]",
        repeats: true,
        help: "add a rule for packets towards the vassals, the first match wins, without one they pass; deny drops in silence, \
               reject tells the sender",
        note: "0.0.0.0 and :: are any",
        details: "Adds a rule to the chain for packets towards the vassals ([rules](OPERATIONS.md#rules)). The first rule that \
                  matches decides; a chain without rules lets every packet pass. `deny` drops a packet in silence, `reject` \
                  tells its sender. With `established` a rule matches packets of connections of which a packet in the opposite \
                  direction was let through, and errors about them; with `new` it matches packets of all other connections.",
        read: |draft, value| rules::firewall(value).map(|rule| draft.config.firewall_in.push(rule)),
        ..OptionSpec::BASE
    },
    FirewallOut = OptionSpec {
        name: "tuntap-router-firewall-out",
        scope: Scope::Router,
        syntax: "<allow|deny|reject> [<src[/len]|any> <dst[/len]|any> [<protocol> [port[-port]]]] \
                 [new|established]",
        repeats: true,
        help: "add a rule for packets from the vassals, the first match wins, without one they pass; deny drops in silence, \
               reject tells the sender",
        note: "0.0.0.0 and :: are any",
        details: "Adds a rule to the chain for packets from the vassals ([rules](OPERATIONS.md#rules)), as \
                  `tuntap-router-firewall-in` does for packets towards them.",
        read: |draft, value| rules::firewall(value).map(|rule| draft.config.firewall_out.push(rule)),
        ..OptionSpec::BASE
    },
    Route = OptionSpec {
        name: "tuntap-router-route",
        scope: Scope::Router,
        syntax: "<src[/len]|any> <dst[/len]|any> <addr:port>",
        repeats: true,
        help: "send packets from the vassals to the gateway of another router, over UDP",
        note: "[addr]:port for IPv6",
        details: "Sends packets from the vassals to the gateway of another router, over UDP. The target is `addr:port`, or \
                  `[addr]:port` for IPv6. This router needs a gateway of its own, on an address of the same IP version.",
        read: |draft, value| rules::route(value).map(|rule| draft.config.routes.push(rule)),
        ..OptionSpec::BASE
    },
    RouterRules = OptionSpec {
        name: "tuntap-router-rules",
        scope: Scope::Router,
        syntax: "[<device>] <file>",
        help: "read further rules, groups of rules and sets of addresses from this file; they come before the rules of the options",
        details: "A file with further rules for both chains and routes, in groups, and with sets of addresses \
                  ([its syntax](OPERATIONS.md#rules-that-change-while-the-router-runs)). Its rules come before those of \
                  `tuntap-router-firewall-in`, `tuntap-router-firewall-out` and `tuntap-router-route`. They can be changed \
                  while the router runs.",
        read: |draft, value| hostnet::rules(value).map(|setting| draft.host_settings.push(setting)),
        ..OptionSpec::BASE
    },
    Script = OptionSpec {
        name: "tuntap-router-script",
        scope: Scope::Router,
        syntax: "[<device>] <file>",
        help: "ask this Luau script about each new flow that the rules let pass; it can only forbid what they allow",
        details: "The router asks this script, in Luau, about each new flow that the rules let pass ([scripts](SCRIPTS.md)). The \
                  script can only forbid what the rules allow. The file is read at the start; a script that can't be compiled, \
                  or fails its own test, stops the start.",
        read: |draft, value| hostnet::script(value).map(|setting| draft.host_settings.push(setting)),
        ..OptionSpec::BASE
    },
    Stats = OptionSpec {
        name: "tuntap-router-stats",
        scope: Scope::Router,
        syntax: "<path|@name|addr:port>",
        help: "serve the statistics of the (last) router that has no stats address of its own",
        details: "Serves the statistics of the router that has no address for them of its own; of the last such router, if \
                  there are several. A TCP address doesn't serve clients that may be vassals.",
        read: |draft, value| router::parse_stats(value).map(|address| draft.default_stats = Some(address)),
        ..OptionSpec::BASE
    },
    Metrics = OptionSpec {
        name: "tuntap-router-metrics",
        scope: Scope::Router,
        syntax: "[<device>] <path|@name|addr:port>",
        help: "serve metrics for Prometheus over HTTP",
        details: "Serves the router's metrics over HTTP at `/metrics`: in Prometheus' text format, or in that of OpenMetrics for \
                  clients that ask for it ([metrics](OPERATIONS.md#metrics)). As with `tuntap-router-stats`, a TCP address \
                  doesn't serve clients that may be vassals.",
        read: |draft, value| metrics::address(value).map(|setting| draft.host_settings.push(setting)),
        ..OptionSpec::BASE
    },
    MetricsPeers = OptionSpec {
        name: "tuntap-router-metrics-peers",
        scope: Scope::Router,
        syntax: "[<device>] <users>",
        help: "have metrics of the vassals of no more users than so many",
        range: "0 to 65536, 0 is none",
        default: Some("1000"),
        details: "Most users whose vassals have metrics of their own. The vassals of one user are counted together. With 0 there \
                  are metrics of the whole router only.",
        read: |draft, value| metrics::peers(value).map(|setting| draft.host_settings.push(setting)),
        ..OptionSpec::BASE
    },
    Switch = OptionSpec {
        name: "tuntap-router-switch",
        scope: Scope::Router,
        syntax: "[true|false]",
        help: "deliver packets between vassals of one router directly, past the host's kernel and its packet filter; both \
               chains apply",
        details: "The router itself delivers packets between two of its vassals. Without the option they pass the host's \
                  kernel, with its routes and its packet filter. Both chains apply either way. Without \
                  `tuntap-router-address`, or with `tuntap-router-claims = any`, have `tuntap-router-firewall-out` deny all \
                  sources but the vassals' own, or a vassal can claim other addresses and get what is sent there.",
        read: |draft, value| parse::boolean(value).map(|on| draft.config.switch = on),
        ..OptionSpec::BASE
    },
    BusyPoll = OptionSpec {
        name: "tuntap-router-busy-poll",
        scope: Scope::Router,
        syntax: "<microseconds>",
        help: "look for packets without sleeping for so many microseconds after the last ones, while they follow each other \
               closely",
        range: "0 to 1000, 0 never",
        default: Some("50"),
        details: "As long as packets follow each other closely, the router looks for the next one for so many microseconds before it \
                  sleeps.",
        read: |draft, value| parse::busy_poll(value).map(|limit| draft.config.busy_poll = limit),
        ..OptionSpec::BASE
    },
    Sandbox = OptionSpec {
        name: "tuntap-router-sandbox",
        scope: Scope::Router,
        syntax: "[on|off|strict]",
        help: "give up capabilities, files and syscalls that the router's process doesn't need; strict holds the function of \
               tuntap-use-credentials to the same",
        default: Some("on"),
        details: "Once it is set up, the router's process gives up all capabilities, all files (landlock) and all system calls \
                  but those that it needs (seccomp). If `tuntap-use-credentials` names a C function, `on` takes the \
                  capabilities only, because nobody knows what else the function needs; `strict` takes the rest, too.",
        read: |draft, value| sandbox::parse(value).map(|sandbox| draft.config.sandbox = sandbox),
        ..OptionSpec::BASE
    },
    RouterOffload = OptionSpec {
        name: "tuntap-router-offload",
        scope: Scope::Router,
        syntax: "[on|off|auto]",
        help: "have packets of flows that the router has allowed pass in the kernel alone; auto does so where the kernel can",
        default: Some("off"),
        details: "BPF programs pass on the packets of flows that plainly pass, between the devices of vassals and that of the router, over \
                  a hidden pair of devices for each vassal. The router decides about the \
                  first packets of each flow, and watches. All that isn't a plain pass stays with it: limits, captures, `log` and `rate` \
                  rules, gateways, trunks, vassals whose packets travel in frames. With `on` an instance whose kernel can't do that \
                  doesn't start; with `auto` it says so once, and the router passes everything on. It takes Linux 5.10 or later with BTF, \
                  better 6.6, and root at the start ([details](OPERATIONS.md#a-path-in-the-kernel)).",
        read: |draft, value| offload::parse(value).map(|offload| draft.config.offload = offload),
        ..OptionSpec::BASE
    },
    Priority = OptionSpec {
        name: "tuntap-router-priority",
        scope: Scope::Router,
        syntax: "<nice|off>",
        help: "nice value of the router's process and, where sessions share processor time, of its own session; off leaves \
               both as they are",
        range: "-20 to 19 or off",
        default: Some("-20"),
        details: "Nice value of the router's process, and of the one beside it that makes pairs of devices \
                  (`tuntap-router-offload`); where the kernel shares processor time among sessions, also of their \
                  autogroups. The default keeps processor time for the router when vassals flood it. `off` changes nothing.",
        read: |draft, value| priority::parse(value).map(|nice| draft.config.priority = nice),
        ..OptionSpec::BASE
    },
    Harakiri = OptionSpec {
        name: "tuntap-router-harakiri",
        scope: Scope::Router,
        syntax: "<seconds>",
        help: "end a router that hangs for so many seconds, so that the master starts the next one",
        range: "0 to 3600, 0 never",
        default: Some("6"),
        details: "The master kills a router that hangs for so many seconds, starts the next one, and says so in the log. The same goes \
                  for the trunk process beside a router.",
        read: |draft, value| parse::seconds(value).map(|timeout| draft.config.harakiri = timeout),
        ..OptionSpec::BASE
    },
    MaxPeers = OptionSpec {
        name: "tuntap-router-max-peers",
        scope: Scope::Router,
        syntax: "<connections>",
        help: "take no further connections beyond so many",
        range: "1 to 65536",
        default: Some("65536"),
        details: "Most connections of a router.",
        read: |draft, value| limits::peers(value).map(|limit| draft.config.limits.peers = limit),
        ..OptionSpec::BASE
    },
    MaxPeersPerUid = OptionSpec {
        name: "tuntap-router-max-peers-per-uid",
        scope: Scope::Router,
        syntax: "<connections>",
        help: "take no further connections of one user beyond so many; root has no limit",
        range: "0 to 65536, 0 is no limit",
        default: Some("1024"),
        details: "Most connections of one user. The user is the one that connected, and then the one whose credentials are \
                  shown. Root has no limit, because vassals connect before they drop their privileges. Raise it where more \
                  vassals than that show the credentials of one user.",
        read: |draft, value| limits::peers_per_uid(value).map(|limit| draft.config.limits.peers_per_uid = limit),
        ..OptionSpec::BASE
    },
    MaxAddressesPerUid = OptionSpec {
        name: "tuntap-router-max-addresses-per-uid",
        scope: Scope::Router,
        syntax: "<addresses>",
        help: "give one user no more addresses of each family than so many; root has no limit, and leased ones don't count",
        range: "0 to 65536, 0 is no limit",
        default: Some("a quarter of the router's networks, 2 to 256"),
        details: "Most addresses of one user, of each family. Without `tuntap-router-address` and without this option there is \
                  no limit. The user is the one whose credentials are shown, or else the one that connected; root has no \
                  limit. Leased addresses don't count. Raise it where many vassals show the credentials of one user.",
        read: |draft, value| {
            limits::addresses_per_uid(value).map(|limit| draft.config.limits.addresses_per_uid = Some(limit))
        },
        ..OptionSpec::BASE
    },
    MaxUnclaimed = OptionSpec {
        name: "tuntap-router-max-unclaimed",
        scope: Scope::Router,
        syntax: "<connections>",
        help: "have no more connections without an address than so many",
        range: "1 to 65536",
        default: Some("1024"),
        details: "Most connections without an address. One user other than root may have a quarter of them.",
        read: |draft, value| limits::unclaimed(value).map(|limit| draft.config.limits.unclaimed = limit),
        ..OptionSpec::BASE
    },
    UnclaimedTimeout = OptionSpec {
        name: "tuntap-router-unclaimed-timeout",
        scope: Scope::Router,
        syntax: "<seconds>",
        help: "where there is no room for a connection, the oldest one without an address makes room if it is so many seconds \
               old",
        range: "1 to 3600",
        default: Some("10"),
        details: "If there is no room for a new connection, the router closes the oldest one that has had no address for so \
                  many seconds. It closes none as long as there is room.",
        read: |draft, value| limits::unclaimed_timeout(value)
            .map(|limit| draft.config.limits.unclaimed_timeout = limit),
        ..OptionSpec::BASE
    },
    MaxQueue = OptionSpec {
        name: "tuntap-router-max-queue",
        scope: Scope::Router,
        syntax: "<bytes>",
        help: "keep no more than so many bytes for a device that doesn't read them",
        range: "131072 to 16777216",
        default: Some("262144"),
        details: "Most bytes that wait for a vassal that doesn't read them.",
        read: |draft, value| limits::queued_bytes(value).map(|limit| draft.config.limits.queued_bytes = limit),
        ..OptionSpec::BASE
    },
    MaxDeviceRules = OptionSpec {
        name: "tuntap-router-max-device-rules",
        scope: Scope::Router,
        syntax: "<rules>",
        help: "end devices that send more rules than so many",
        range: "0 to 341",
        default: Some("341"),
        details: "Most rules of a vassal. The default is what fits a frame if all rules are of the kind that the C plugin \
                  knows; otherwise 127 fit. The router closes the connection of a vassal that sends more.",
        read: |draft, value| limits::device_rules(value).map(|limit| draft.config.limits.device_rules = limit),
        ..OptionSpec::BASE
    },
    MaxFlows = OptionSpec {
        name: "tuntap-router-max-flows",
        scope: Scope::Router,
        syntax: "<flows>",
        help: "know no more connections (flows) at a time than so many",
        range: "1024 to 4194304",
        default: Some("262144"),
        details: "Most flows that the router knows: connections of TCP, and what is like them in other protocols. Each takes some \
                  400 bytes of memory once it is there. If there are more, old flows are forgotten: first those of vassals that \
                  have left, then those of vassals that have more than their part. What is forgotten and goes on is decided as a \
                  new connection.",
        read: |draft, value| limits::flows(value).map(|limit| draft.config.limits.flows = limit),
        ..OptionSpec::BASE
    },
    MaxFlowsPerPeer = OptionSpec {
        name: "tuntap-router-max-flows-per-peer",
        scope: Scope::Router,
        syntax: "<flows>",
        help: "know no more connections (flows) that one device has caused than so many",
        range: "16 to 4194304",
        default: Some("16384"),
        details: "Most flows that one vassal causes: those that it begins, and those that come from elsewhere to it. If there are \
                  more, its own oldest ones are forgotten, first those that nobody has answered or that are closed.",
        read: |draft, value| limits::flows_per_peer(value).map(|limit| draft.config.limits.flows_per_peer = limit),
        ..OptionSpec::BASE
    },
    Grant = OptionSpec {
        name: "tuntap-router-lease",
        scope: Scope::Router,
        syntax: "<address[/prefix]> <user|uid|@group|@gid>",
        repeats: true,
        help: "only peers with these credentials may claim these addresses, may be repeated; other addresses are refused then, \
               see tuntap-router-lease-default",
        details: "Only vassals with these credentials may claim these addresses ([leases](OPERATIONS.md#leases)). As long as \
                  the user or group doesn't exist, nobody may.",
        read: |draft, value| grants::grant(value).map(|grant| draft.config.grants.push(grant)),
        ..OptionSpec::BASE
    },
    LeaseDefault = OptionSpec {
        name: "tuntap-router-lease-default",
        scope: Scope::Router,
        syntax: "<allow|deny>",
        help: "whether peers may claim addresses that no tuntap-router-lease covers",
        default: Some("deny once there is a lease"),
        details: "Whether vassals may claim addresses that no `tuntap-router-lease` covers. Addresses that the router chooses \
                  are not affected.",
        read: |draft, value| grants::lease_default(value).map(|it| draft.config.lease_default = Some(it)),
        ..OptionSpec::BASE
    },
    DeviceRoute = OptionSpec {
        name: "tuntap-router-device-route",
        scope: Scope::Router,
        syntax: "<any|addr[/len][:port]|[addr[/len]]:port>",
        repeats: true,
        help: "gateways that the route rules of vassals may name beside the targets of tuntap-router-route, may be repeated",
        details: "Gateways that the `route` rules of vassals (`tuntap-device-rule`) may name, beside the targets of \
                  `tuntap-router-route`.",
        read: |draft, value| grants::device_route(value).map(|ranges| draft.config.device_routes.extend(ranges)),
        ..OptionSpec::BASE
    },
    GatewayAllow = OptionSpec {
        name: "tuntap-router-gateway-allow",
        scope: Scope::Router,
        syntax: "<addr[/len]>",
        repeats: true,
        help: "the gateway takes datagrams from these addresses only, may be repeated, without it from anybody",
        details: "The gateway accepts datagrams from these addresses only. Without the option it accepts them from anybody who \
                  can reach it, except vassals.",
        read: |draft, value| grants::gateway_source(value).map(|net| draft.config.gateway_sources.push(net)),
        ..OptionSpec::BASE
    },
    GatewayVassal = OptionSpec {
        name: "tuntap-router-gateway-vassal",
        scope: Scope::Router,
        syntax: "<addr[/len]>",
        repeats: true,
        help: "vassals with these addresses may send datagrams to gateways of routers, may be repeated, without it none may",
        details: "Vassals with these addresses may send datagrams to gateways of routers. Without the option none may \
                  ([gateways](OPERATIONS.md#vassals-and-gateways)).",
        read: |draft, value| grants::gateway_source(value).map(|net| draft.config.gateway_vassals.push(net)),
        ..OptionSpec::BASE
    },
    RouterAddress = OptionSpec {
        name: "tuntap-router-address",
        scope: Scope::Router,
        syntax: "[<device>] <address>/<prefix length> [anyway]",
        repeats: true,
        help: "give the router's device this address and bring it up, may be repeated; refused where the host has the network \
               already, unless \"anyway\" stands behind it",
        details: "The router's own address, of either family, in the network of its vassals. The device gets it and is brought \
                  up ([the host](OPERATIONS.md#the-host)). Networks must not overlap. A network to which the host has another \
                  route already stops the start, unless `anyway` says that it is meant.",
        read: |draft, value| hostnet::address(value).map(|setting| draft.host_settings.push(setting)),
        ..OptionSpec::BASE
    },
    RouterPool = OptionSpec {
        name: "tuntap-router-pool",
        scope: Scope::Router,
        syntax: "[<device>] <addr[/len]>",
        repeats: true,
        help: "choose addresses for vassals with auto from this part of the router's network only, may be repeated; for several \
               hosts with one network",
        default: Some("the whole network"),
        details: "The router chooses addresses for vassals with `auto` from this part of its network, or from several, and from no \
                  other part. Where several hosts have one network, each has a part of its own, so that no two choose the same \
                  address, whether they see each other or not. Vassals may still claim other addresses of the network. Leases come \
                  first: an address that is leased to a vassal is given to it wherever it is. A network without such a part is \
                  used as a whole.",
        read: |draft, value| hostnet::pool(value).map(|setting| draft.host_settings.push(setting)),
        ..OptionSpec::BASE
    },
    RouterClaims = OptionSpec {
        name: "tuntap-router-claims",
        scope: Scope::Router,
        syntax: "[<device>] <own|any>",
        help: "which addresses vassals may claim without a lease: those of the router's networks, or any that is free",
        default: Some("own with tuntap-router-address, else any"),
        details: "Which addresses vassals may claim without a lease: those of the router's networks (`own`), or any address \
                  that nobody holds (`any`) ([claims](OPERATIONS.md#addresses-that-vassals-claim)).",
        read: |draft, value| hostnet::claims(value).map(|setting| draft.host_settings.push(setting)),
        ..OptionSpec::BASE
    },
    RouterNat = OptionSpec {
        name: "tuntap-router-nat",
        scope: Scope::Router,
        syntax: "[<device>] <interface>",
        repeats: true,
        help: "forward packets of the router's networks by this interface of the host, masqueraded, may be repeated",
        details: "The host forwards packets from the router's networks by this interface, with the interface's address as \
                  their source. An interface that doesn't exist yet is used from when it does.",
        read: |draft, value| hostnet::nat(value).map(|setting| draft.host_settings.push(setting)),
        ..OptionSpec::BASE
    },
    RouterPort = OptionSpec {
        name: "tuntap-router-port",
        scope: Scope::Router,
        syntax: "[<device>] <tcp|udp> <host port> <address>:<port> [anyway]",
        repeats: true,
        help: "let a port of the host lead to a vassal, may be repeated; refused where the host serves or maps the port \
               already, unless \"anyway\" stands behind it",
        note: "[address]:port for IPv6",
        details: "What comes to this port of the host, on any of its addresses but the loopback ones, goes to a vassal, which \
                  sees the client's own address. The target is `[address]:port` for IPv6. If the vassal's device has `auto`, \
                  lease that address to the vassal, so that it is given to nobody else. A port that the host itself serves, or \
                  that somebody else maps, stops the start, unless `anyway` says that it is meant.",
        read: |draft, value| hostnet::port(value).map(|setting| draft.host_settings.push(setting)),
        ..OptionSpec::BASE
    },
    RouterHost = OptionSpec {
        name: "tuntap-router-host",
        scope: Scope::Router,
        syntax: "[<device>] <deny|allow> [<addr[/len]>] [<protocol> [port[-port]]]",
        repeats: true,
        help: "with tuntap-router-address, what vassals may reach of the host's own addresses, or of the address that is \
               named; the first match wins, may be repeated, default deny, but echo requests and the DNS service of \
               tuntap-router-dns",
        details: "With `tuntap-router-address`: what new connections of vassals may reach. Without an address, a rule is about \
                  the host's own addresses; with one, about that address or network, whether it is the host's or not. The \
                  first rule that matches decides. If none matches, echo requests to the host and the DNS service that \
                  `tuntap-router-dns` names are allowed, everything else of the host and all link-local addresses are refused, \
                  and other destinations are allowed ([what vassals reach of the \
                  host](OPERATIONS.md#what-vassals-reach-of-the-host)).",
        read: |draft, value| protection::host(value).map(|setting| draft.host_settings.push(setting)),
        ..OptionSpec::BASE
    },
    MaxConnections = OptionSpec {
        name: "tuntap-router-max-connections",
        scope: Scope::Router,
        syntax: "[<device>] <connections>",
        help: "with tuntap-router-address, let an address of a vassal have no more connections through the host's kernel than \
               so many, an IPv6 address half of it",
        range: "0 to 65536, 0 is no limit",
        default: Some("4096"),
        details: "With `tuntap-router-address`: most connections of one address of a vassal through the host's kernel. An IPv6 \
                  address has half of it. One client may have as many through ports of the host to one vassal \
                  ([limits](OPERATIONS.md#limits-on-connections)).",
        read: |draft, value| protection::max_connections(value).map(|setting| draft.host_settings.push(setting)),
        ..OptionSpec::BASE
    },
    ConnectionRate = OptionSpec {
        name: "tuntap-router-connection-rate",
        scope: Scope::Router,
        syntax: "[<device>] <connections per second> [<burst>]",
        help: "with tuntap-router-address, let an address of a vassal open no more connections than so many, an IPv6 address \
               half of it",
        range: "0 to 1000000, 0 is no limit",
        default: Some("200 1000"),
        details: "With `tuntap-router-address`: most new connections of one address of a vassal in a second, and at once (the \
                  burst). Without a burst it is five times the rate. An IPv6 address has half of it.",
        read: |draft, value| protection::connection_rate(value).map(|setting| draft.host_settings.push(setting)),
        ..OptionSpec::BASE
    },
    FragmentRate = OptionSpec {
        name: "tuntap-router-fragment-rate",
        scope: Scope::Router,
        syntax: "[<device>] <fragments per second>",
        help: "with tuntap-router-address, let an address of a vassal send no more fragments of packets through the host's \
               kernel than so many, of 1200 bytes on average, and ten times that at once; an IPv6 address half of it",
        range: "0 to 1000000, 0 is no limit",
        default: Some("20"),
        details: "With `tuntap-router-address`: most fragments of packets of one address of a vassal in a second, of 1,200 \
                  bytes on average. Ten times as many may come at once. An IPv6 address has half of it.",
        read: |draft, value| protection::fragment_rate(value).map(|setting| draft.host_settings.push(setting)),
        ..OptionSpec::BASE
    },
    Shape = OptionSpec {
        name: "tuntap-router-shape",
        scope: Scope::Router,
        syntax: "[<device>] <in|out|both> <any|internet|addr[/len]|user|@group|uplink|class:NAME> <rate>[/<ceil>] \
                 [burst=<time>] [pps=<packets>] [weight=<n>] [queue=<time>]",
        repeats: true,
        help: "let vassals have no more traffic than so many bits per second, or with two rates, guarantee the first and let \
               them borrow what others leave up to the second; the most specific limit counts, may be repeated",
        details: "How much traffic vassals may have: packets that they send (`out`), that are for them (`in`), or each of these \
                  (`both`). Packets above the rate wait in short queues. The limit is for each vassal with an address in a \
                  network, for all vassals of a user together (`user`, or a uid), for those of each user in a group \
                  (`@group`), for each vassal without such a limit (`any`), for what such a vassal exchanges with hosts beyond \
                  the interfaces of `tuntap-router-nat` (`internet`), for what the script has put into a class (`class:NAME`), \
                  or for everything that comes and goes by the router's own device and its gateway (`uplink`). The longest \
                  prefix counts, and a user before his groups. As long as a user or group doesn't exist, nobody is limited by \
                  it. A rate is a number of bits per second with a decimal unit (`500k`, `1.5M`, `10Gbit`), 8k to 1T, and counts \
                  IP packets with their headers. One rate is the most. Of two, `20M/50M`, the first is guaranteed, and what the \
                  user or the uplink leaves is borrowed up to the second, in proportion to `weight` (1 to 1000, default 1). \
                  `pps` is the most packets per second. `burst` is what may pass at once after a silence, as time at the rate, \
                  1ms to 10s; without it 5ms, or two packets of 1500 bytes if that is more. `queue` is how long packets may \
                  wait, 1ms to 10s, default 20ms.",
        read: |draft, value| shape::shape(value).map(|setting| draft.host_settings.push(setting)),
        ..OptionSpec::BASE
    },
    RouterKey = OptionSpec {
        name: "tuntap-router-key",
        scope: Scope::Router,
        syntax: "[<device>] <file>",
        help: "file of the router's key, by which routers of other hosts know it; it is made if it isn't there",
        default: Some("/var/lib/uwsgi-tuntap/ with the name of the device and .key"),
        details: "The file of the router's private key (Ed25519), by which routers of other hosts know it. A router with \
                  `tuntap-router-routes` or trunks needs one; it is read, and made if it isn't there, before \
                  privileges are dropped. Nobody but its owner may be able to open it. The log and `uwsgi-tuntap keys` say what \
                  the public half is. Each router needs a key of its own: copies of a machine must not have the same one.",
        read: |draft, value| hosts::key(value).map(|setting| draft.host_settings.push(setting)),
        ..OptionSpec::BASE
    },
    Routes = OptionSpec {
        name: "tuntap-router-routes",
        scope: Scope::Router,
        syntax: "[<device>] <addr:port> [<password file>] [from=<addr>] [as=<n>] [neighbour-as=<n>] [hold=<seconds>]",
        help: "exchange the addresses of vassals with other hosts by BGP with this host's routing daemon, such as BIRD, which \
               connects here",
        details: "The router listens here for this host's own routing daemon, such as BIRD, tells it by BGP which addresses its \
                  vassals hold, and is told which ones those of other hosts hold \
                  ([several hosts](OPERATIONS.md#several-hosts)). The daemon connects from the same address, or from the one that \
                  `from` names, as FRR must. The first line of the password file signs the connection (TCP-MD5, 80 bytes at most); the file belongs to root or the \
                  instance's user, and nobody else may be able to read it. Without it only a loopback address is accepted. \
                  Ports below 1024 keep other users of the host from listening there. `as` is the AS of all routers (64513), \
                  `neighbour-as` that of the daemon (any other one), and `hold` the number of seconds without a message after \
                  which either side takes the other one for dead (9).",
        read: |draft, value| hosts::routes(value).map(|setting| draft.host_settings.push(setting)),
        ..OptionSpec::BASE
    },
    Trunk = OptionSpec {
        name: "tuntap-router-trunk",
        scope: Scope::Router,
        syntax: "[<device>] <addr:port>",
        help: "wait here (TCP) for routers of other hosts, whose vassals are then reached from this host",
        details: "Routers of other hosts connect here, those alone that `tuntap-router-trunk-peer` names. On such a trunk \
                  (TLS 1.3, both sides known by their keys) routers tell each other which addresses their vassals hold, and \
                  carry the packets between them ([several hosts](OPERATIONS.md#several-hosts)). A process beside the router \
                  has its key and the connections.",
        read: |draft, value| trunks::listener(value).map(|setting| draft.host_settings.push(setting)),
        repeats: true,
        ..OptionSpec::BASE
    },
    TrunkPeer = OptionSpec {
        name: "tuntap-router-trunk-peer",
        scope: Scope::Router,
        syntax: "[<device>] <public key> <network>[,<network>...] [<addr:port>] [relay]",
        help: "router of another host, by its public key, with the networks of its vassals and the address where it waits",
        details: "The router of another host. Its public key is what `uwsgi-tuntap keys` and its log say. It may announce \
                  addresses of these networks alone, and its packets have to come from them, as with AllowedIPs of \
                  WireGuard. Networks of several of them may overlap, so that vassals can move between those hosts, which then \
                  trust each other there. This router connects to the address, if there is one, and otherwise waits. With \
                  `relay` this one is told what others tell, and its packets go on to them.",
        read: |draft, value| trunks::peer(value).map(|setting| draft.host_settings.push(setting)),
        repeats: true,
        ..OptionSpec::BASE
    },
    RouterMtu = OptionSpec {
        name: "tuntap-router-mtu",
        scope: Scope::Router,
        syntax: "[<device>] <bytes>",
        help: "longest packet on the router's device, in bytes",
        range: "576 to 8188",
        default: Some("1500"),
        details: "Longest packet on the router's device. A router with an IPv6 address needs 1280 bytes at least. The default \
                  is the kernel's own.",
        read: |draft, value| hostnet::mtu(value).map(|setting| draft.host_settings.push(setting)),
        ..OptionSpec::BASE
    },
    DeviceRule = OptionSpec {
        name: "tuntap-device-rule",
        scope: Scope::Device,
        syntax: "<in|out> <src[/len]|any> <dst[/len]|any> <allow|deny|reject|route|gateway> [addr:port] [<protocol> \
                 [port[-port]]] [new|established]",
        repeats: true,
        help: "add a rule that the router applies to this instance's devices, the first match wins",
        note: "route and gateway are the same",
        details: "Adds a rule that the router applies to packets of this instance's devices, after its own chains. The first \
                  rule that matches decides. `route` and `gateway` are the same: they send the packet to the gateway of \
                  another router, whose address follows. `new` and `established` ask for the state of the packet's connection, as in \
                  `tuntap-router-firewall-in`. The rules are fixed from the first packet on. A vassal that reloads with \
                  other rules joins its router anew ([what a reload changes](OPERATIONS.md#what-a-reload-changes)).",
        read: |draft, value| rules::device_rule(value).map(|rule| draft.config.device_rules.push(rule)),
        ..OptionSpec::BASE
    },
    RouterDns = OptionSpec {
        name: "tuntap-router-dns",
        scope: Scope::Router,
        syntax: "[<device>] <address>",
        repeats: true,
        help: "a DNS server that the router tells devices of, may be repeated",
        details: "A DNS server that the router sends to vassals with `tuntap-device-dns`. There may be up to three.",
        read: |draft, value| hostnet::dns(value).map(|setting| draft.host_settings.push(setting)),
        ..OptionSpec::BASE
    },
    Control = OptionSpec {
        name: "tuntap-router-control",
        scope: Scope::Router,
        syntax: "[<device>] <socket|off>",
        help: "socket on which the router takes requests of the command uwsgi-tuntap: a path or @name; off is none",
        default: Some("the router's own socket with .control behind it, if that is a path"),
        details: "The unix socket on which the router takes requests about its policy, as the command `uwsgi-tuntap` sends \
                  them: a path, or `@name` for the abstract namespace. Only root can connect to it, unless \
                  `tuntap-router-control-access` names others. `off` is no such socket.",
        read: |draft, value| control::socket(value).map(|setting| draft.host_settings.push(setting)),
        ..OptionSpec::BASE
    },
    ControlAccess = OptionSpec {
        name: "tuntap-router-control-access",
        scope: Scope::Router,
        syntax: "[<device>] <view|operate|admin> <user|uid|@group|@gid>",
        repeats: true,
        help: "let this user or group look at the router's policy (view), change what it owns (operate) or change \
               everything (admin), may be repeated; root and the router's own user may do everything",
        details: "What a user, or the members of a group, may do on the router's control socket: look at everything (`view`), \
                  also change the groups of rules that they own and members of sets, and forget flows (`operate`), or change \
                  everything (`admin`). Root and the user that the router runs as may do everything. Who is named several \
                  times has the highest of his levels. Users and groups are looked up at the start.",
        read: |draft, value| control::access(value).map(|setting| draft.host_settings.push(setting)),
        ..OptionSpec::BASE
    },
    DeviceAddress = OptionSpec {
        name: "tuntap-device-address",
        scope: Scope::Device,
        syntax: "[<device>] <address/prefix>",
        repeats: true,
        help: "give the device an address, bring it up, and claim the address, may be repeated",
        details: "For a device without `auto`: gives it this address, brings it up, and claims the address. A device has \
                  one IPv4 address at most, and may have several IPv6 addresses.",
        read: |draft, value| device::address(value).map(|setting| draft.device_settings.push(setting)),
        ..OptionSpec::BASE
    },
    DeviceGateway = OptionSpec {
        name: "tuntap-device-gateway",
        scope: Scope::Device,
        syntax: "[<device>] <address>",
        repeats: true,
        help: "where the device's default route leads, one for each family; without it to the router",
        details: "The default router: where the device's default route leads, one for each family. Without the option it leads \
                  to the tuntap router, if that tells its address and there is no default route yet. Of several devices with \
                  one, the first has the default route. Packets from the addresses of the other devices leave by these all \
                  the same (`ip rule`).",
        read: |draft, value| device::gateway(value).map(|setting| draft.device_settings.push(setting)),
        ..OptionSpec::BASE
    },
    DeviceMtu = OptionSpec {
        name: "tuntap-device-mtu",
        scope: Scope::Device,
        syntax: "[<device>] <bytes>",
        help: "the device's MTU; without it that of the router's device",
        range: "576 to 65535",
        details: "The device's MTU. A device with an IPv6 address needs 1280 bytes at least. Without the option it is the MTU \
                  of the router's device, 8188 at most.",
        read: |draft, value| device::mtu(value).map(|setting| draft.device_settings.push(setting)),
        ..OptionSpec::BASE
    },
    DeviceDns = OptionSpec {
        name: "tuntap-device-dns",
        scope: Scope::Device,
        syntax: "[<device>] [true|false|<path>]",
        help: "write the router's DNS servers to a file in the instance's jail, true is /etc/resolv.conf; the host's own is \
               refused",
        details: "Writes the router's DNS servers to this file; `true` is /etc/resolv.conf. The path is one in the complete \
                  jail: the file is written after `chroot`, `pivot_root` and the as-root hooks, right before the privileges \
                  are dropped (with `master-as-root` in each worker). The host's own file is refused.",
        read: |draft, value| device::dns(value).map(|setting| draft.device_settings.push(setting)),
        ..OptionSpec::BASE
    },
    DeviceTimeout = OptionSpec {
        name: "tuntap-device-timeout",
        scope: Scope::Device,
        syntax: "<seconds>",
        help: "wait so many seconds for the router when the instance starts",
        range: "0 to 3600",
        default: Some("30"),
        details: "How long the instance waits for the router when it starts. Then it ends and says what is missing.",
        read: |draft, value| parse::seconds(value).map(|timeout| draft.config.device_timeout = timeout),
        ..OptionSpec::BASE
    },
    DeviceRequired = OptionSpec {
        name: "tuntap-device-required",
        scope: Scope::Device,
        syntax: "[true|false]",
        help: "end the instance when a device loses its router, instead of waiting for it",
        details: "Ends the instance when a device loses its router. Without the option the device looks for the router again, \
                  with pauses of up to 2 seconds.",
        read: |draft, value| parse::boolean(value).map(|on| draft.config.device_required = on),
        ..OptionSpec::BASE
    },
    LogFormat = OptionSpec {
        name: "tuntap-log-format",
        scope: Scope::Both,
        syntax: "<text|json>",
        help: "write the plugin's own lines of the log as text, or each as an object of JSON",
        default: Some("text"),
        details: "How the plugin's own lines of the log are written: as text, or each as an object of JSON with time, level, the \
                  event's name, device, peer and text ([the events](OPERATIONS.md#the-log)). uWSGI's lines stay as they are.",
        read: |draft, value| log::parse(value).map(|format| draft.config.log_format = format),
        ..OptionSpec::BASE
    },
    DeviceOffload = OptionSpec {
        name: "tuntap-device-offload",
        scope: Scope::Device,
        syntax: "[true|false]",
        help: "false: have all packets pass the router, also those that its kernel could pass on alone",
        default: Some("true"),
        details: "With `false` all packets of the instance's devices pass the router, even if it has `tuntap-router-offload`: nothing \
                  is added to the vassal's network namespace. A router that doesn't know the option ignores it.",
        read: |draft, value| parse::boolean(value).map(|on| draft.config.device_offload = on),
        ..OptionSpec::BASE
    },
    Doctor = OptionSpec {
        name: "tuntap-doctor",
        scope: Scope::Action,
        syntax: "<ini of a router or vassal>",
        repeats: true,
        help: "check a set-up without starting it: say what is wrong and what to do, and end with 1 if anything is, may be \
               repeated",
        note: "the Emperor's before those of its vassals",
        details: "Checks a set-up without starting it: says what is wrong and what to do, and ends with 1 if anything is \
                  wrong. The Emperor's file comes before those of its vassals \
                  ([an example](../README.md#something-doesnt-work)).",
        // The file is examined by the plugin itself: it configures nothing.
        read: |_, _| Ok(()),
        ..OptionSpec::BASE
    },
);
