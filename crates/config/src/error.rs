//! What is wrong with option values.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use thiserror::Error;
use tuntap_wire::trunk::KeyError;

use super::OptionName;

/// One value that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{option} = {value}: {problem}")]
pub struct ConfigError {
    /// The option's name.
    pub option: &'static str,
    /// The value as it was given.
    pub value: String,
    /// What is wrong, and what was expected.
    pub problem: Problem,
}

impl ConfigError {
    pub(super) fn new(option: OptionName, value: impl Into<String>, problem: Problem) -> Self {
        Self { option: option.as_str(), value: value.into(), problem }
    }
}

/// All values of an instance that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(formatter, "{separator}{error}")?;
        }
        Ok(())
    }
}

/// What is wrong with a value.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Problem {
    /// The number of words is wrong, or their quotes are.
    #[error("expected {0}")]
    Syntax(&'static str),
    /// A word that must be one of a few.
    #[error("unknown {what} \"{word}\", expected {expected}")]
    UnknownWord {
        /// What the word stands for.
        what: &'static str,
        /// The word.
        word: String,
        /// The words that are known.
        expected: &'static str,
    },
    /// A word that is neither an address nor a prefix.
    #[error("\"{0}\" is no address or prefix, expected an IPv4 address (/0 to /32) or an IPv6 address (/0 to /128)")]
    Prefix(String),
    /// Source and destination of different IP versions.
    #[error("{src} and {dst} are of different IP versions, no packet has both")]
    MixedVersions {
        /// The source.
        src: String,
        /// The destination.
        dst: String,
    },
    /// A word of a rule that says nothing about a single packet's headers.
    #[error("\"{0}\" doesn't select packets: expected <src> <dst> [<protocol> [port[-port]]]")]
    NotInSelection(String),
    /// A word that is no protocol.
    #[error(
        "\"{0}\" is no protocol, expected icmp, icmpv6, tcp, udp, sctp, dccp, udplite, gre, esp, ah or a number from 0 to 255"
    )]
    Protocol(String),
    /// An extension header in place of a protocol, where IPv6 packets are meant, too.
    #[error(
        "{0} is an extension header in IPv6 packets, and rules look at the protocol behind these: expected that protocol, or \
         IPv4 addresses (0.0.0.0/0 is any of them)"
    )]
    ExtensionHeader(String),
    /// A word that is neither a port nor a range of ports.
    #[error("\"{0}\" is no port or range of ports, expected 1 to 65535, or two of them with a hyphen between")]
    Ports(String),
    /// Ports of a protocol that has none.
    #[error("{0} has no ports; tcp, udp, sctp, dccp and udplite have")]
    NoPorts(String),
    /// A prefix with bits set behind its length, where something is allowed by it.
    #[error("\"{word}\" has bits set behind its length, expected {network} or {host}")]
    HostBits {
        /// The word.
        word: String,
        /// The whole network.
        network: IpNet,
        /// The one address.
        host: IpNet,
    },
    /// A destination that no vassal ever reaches, whatever the rule says.
    #[error(
        "vassals never reach \"{0}\", expected another address than a loopback, multicast, broadcast or unspecified one: a \
         service that is meant for them listens at the router's address; a rule without an address is about all of the host's"
    )]
    OutOfReach(String),
    /// A word that can't be the name of a group of rules, a set or a counter.
    #[error(
        "\"{word}\" is no name of a {what}, expected a letter, and up to 62 letters, digits, dots, hyphens or underscores behind \
         it; a counter isn't named like another word of a rule"
    )]
    Name {
        /// What it would be the name of.
        what: &'static str,
        /// The word.
        word: String,
    },
    /// A word that is no rate.
    #[error("\"{0}\" is no rate, expected 1/s to 1000000/s")]
    Rate(String),
    /// A word that a rule may have once.
    #[error("\"{0}\" is there twice")]
    WordTwice(String),
    /// A last word that the rules of a chain can't have.
    #[error("\"{0}\" can't stand in a route: all packets of a connection take the same way")]
    NotInRoute(String),
    /// An address that stands for all addresses elsewhere.
    #[error("\"{0}\" stands for all addresses in a rule, expected {0} with a prefix length")]
    Unspecified(String),
    /// A range of addresses that ends before it begins, or whose ends are of different IP versions.
    #[error("\"{0}\" is no range of addresses, expected two of one IP version, the lower one first")]
    Range(String),
    /// A word that is neither a user nor a group.
    #[error("\"{0}\" is no user or group, expected a user, a uid, @group or @gid")]
    GrantHolder(String),
    /// A user or group that the machine doesn't know.
    #[error("there is no {kind} \"{name}\" on this machine")]
    NoAccount {
        /// User or group.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// The machine's list of users or groups can't be read.
    #[error("can't look up the {kind} \"{name}\": {error}")]
    Account {
        /// User or group.
        kind: &'static str,
        /// The name.
        name: String,
        /// What the system said.
        error: nix::errno::Errno,
    },
    /// A word that is no range of gateways.
    #[error(
        "\"{0}\" is no range of gateways, expected any, a.b.c.d[/len][:port], an IPv6 address[/len], or \
             [address[/len]]:port, with a port from 1 to 65535"
    )]
    DeviceRoute(String),
    /// A word that is no address and port for UDP.
    #[error("\"{0}\" is no UDP address, expected a.b.c.d:port or [IPv6 address]:port with a port from 1 to 65535")]
    UdpAddress(String),
    /// A word that can't be a network device's name.
    #[error("\"{0}\" is no device name, expected 1 to 15 bytes without white space, slash or colon")]
    DeviceName(String),
    /// A setting of a device in an instance without devices.
    #[error("there is no {} here that it could be for", OptionName::Device.as_str())]
    NoDevice,
    /// A setting of a device in an instance with several, without the device's name.
    #[error("there are several devices, expected the name of one of them before it")]
    WhichDevice,
    /// A setting of a device that doesn't exist.
    #[error("there is no {option} \"{0}\"", option = OptionName::Device.as_str())]
    NoSuchDevice(String),
    /// A word that is no address, or one that no host can have.
    #[error(
        "\"{0}\" is no address that a host can have, expected an IPv4 or IPv6 address that is neither loopback, link-local nor multicast"
    )]
    Host(String),
    /// A word that is no address with a prefix length, or one that no host can have.
    #[error(
        "\"{0}\" is no address that a host can have with the length of its network's prefix, expected a.b.c.d/1 to /32 or an IPv6 address with /1 to /128"
    )]
    HostWithPrefix(String),
    /// A word that is no absolute path of a file.
    #[error("\"{0}\" is no path of a file, expected one that begins with a slash")]
    File(String),
    /// A word that can't be a unix socket's name.
    #[error("\"{0}\" is no unix socket, expected a path or @name of at most 102 bytes")]
    SocketName(String),
    /// A TCP address where a unix socket is needed.
    #[error(
        "\"{0}\" is a TCP address, but devices join their router on a unix socket only, for their namespace has no network yet: expected a path or @name"
    )]
    SocketIsTcp(String),
    /// A TCP address without a port.
    #[error("\"{0}\" has no port from 1 to 65535 behind its last colon")]
    TcpPort(String),
    /// An address or a port alone.
    #[error("\"{0}\" is half of a TCP address, expected addr:port or :port; or ./{0} for a file of that name")]
    TcpHalf(String),
    /// A TCP address that uWSGI would listen nowhere with.
    #[error(
        "\"{0}\" is no TCP address, expected addr:port, [addr]:port with an IPv6 address, or :port; a path has no colon"
    )]
    TcpHost(String),
    /// A word that can't be a C function's name.
    #[error("\"{0}\" is no symbol, expected true or the name of a C function")]
    Symbol(String),
    /// A word that is no number of seconds, or out of bounds.
    #[error("\"{0}\" is no time to wait, expected 0 to 3600 seconds")]
    Seconds(String),
    /// A word that is no number, or out of bounds.
    #[error("\"{word}\" is no number from {min} to {max}")]
    Number {
        /// The word.
        word: String,
        /// The least that would do.
        min: u64,
        /// The most that would do.
        max: u64,
    },
    /// A word that is no nice value.
    #[error("\"{0}\" is no priority, expected a nice value from -20 (most) to 19 (least), or off")]
    Priority(String),
    /// A word that is no number of microseconds, or out of bounds.
    #[error("\"{0}\" is no time to poll, expected 0 to 1000 microseconds")]
    BusyPoll(String),
    /// A route without a target, or a target without a route.
    #[error("{0}")]
    Target(&'static str),
    /// More rules than fit the frame that carries them.
    #[error(
        "{count} rules, a device can send {max} at most ({} if all are of the kind that the C plugin knows)",
        tuntap_wire::rule::MAX_RULES
    )]
    TooManyRules {
        /// How many there are.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// Two routers want the same device or socket.
    #[error("another {option} has the same {0}", option = OptionName::Router.as_str())]
    Duplicate(&'static str),
    /// A word that is no address with prefix length for a router.
    #[error(
        "\"{0}\" is no address with prefix length, expected a.b.c.d/8 to a.b.c.d/32 or an IPv6 address with /8 to /128"
    )]
    RouterAddress(String),
    /// An address that no router can have.
    #[error("{0} is no global or private unicast address")]
    SpecialAddress(IpAddr),
    /// The address of the network itself, or its broadcast address.
    #[error("{address} is no address for a host in {network}", address = .0.addr(), network = .0.trunc())]
    NetworkAddress(IpNet),
    /// An interface that leads to no other network.
    #[error("\"{0}\" is no interface that leads to other networks")]
    NatInterface(String),
    /// A word that is no address and port of a vassal.
    #[error("\"{0}\" is no address with port, expected a.b.c.d:port or [address]:port with a port from 1 to 65535")]
    PortTarget(String),
    /// A router that doesn't exist.
    #[error("there is no {option} with the device {0}", option = OptionName::Router.as_str())]
    NoSuchRouter(String),
    /// A value that doesn't say which of several routers it is for.
    #[error("there are several {}: the device must stand before the value", OptionName::Router.as_str())]
    WhichRouter,
    /// A network that overlaps with one of a router.
    #[error("overlaps with {other} of the router {device}")]
    Overlap {
        /// The other router, or the same.
        device: String,
        /// Its address.
        other: IpNet,
    },
    /// A second value where there can be one.
    #[error("is there twice")]
    Repeated,
    /// More values than there can be.
    #[error("there can be {0} of these for a router at most")]
    TooMany(usize),
    /// A mapping to a family that the router doesn't have.
    #[error("the router has no {0} address ({option})", option = OptionName::RouterAddress.as_str())]
    NoAddressOfFamily(&'static str),
    /// An interface for masquerading, but no network to masquerade.
    #[error("the router has no address ({}), and so no network", OptionName::RouterAddress.as_str())]
    NatWithoutAddress,
    /// A setting that protects the host, for a router without a network.
    #[error("the router has no address ({}), and so nothing is refused by its host", OptionName::RouterAddress.as_str())]
    ProtectionWithoutAddress,
    /// A port mapping to an address outside of the router's networks.
    #[error("{0} is in none of the router's networks ({option})", option = OptionName::RouterAddress.as_str())]
    OutsideOfRouter(IpAddr),
    /// A pool that is not inside a network of the router.
    #[error("{0} is in none of the router's networks ({option})", option = OptionName::RouterAddress.as_str())]
    PoolOutside(IpNet),
    /// A pool of nothing but the router's own address and those of the network itself.
    #[error("{0} has no address that a vassal can have")]
    EmptyPool(IpNet),
    /// A port mapping to an address that no vassal can have.
    #[error("{0} can't be a vassal's address")]
    NoVassal(IpAddr),
    /// A word that is no rate of a limit.
    #[error(
        "\"{0}\" is no rate, expected {bounds}, a number of bits per second with a decimal unit, such as 500k, 1.5M or 10Gbit",
        bounds = super::shape::rate_bounds()
    )]
    ShapeRate(String),
    /// A ceiling that is below what is guaranteed.
    #[error("the second rate of \"{0}\" is below the first one: up to it, it may borrow what others leave")]
    CeilBelowRate(String),
    /// A setting of a limit with a wrong value.
    #[error("\"{word}\" has a wrong value, expected {bounds}")]
    ShapeSetting {
        /// The setting.
        word: String,
        /// The least and the most that would do.
        bounds: String,
    },
    /// A limit of all peers together that has a second rate or a weight.
    #[error("the uplink has nobody to borrow from, expected one rate, and no weight")]
    UplinkBorrows,
    /// Two limits for the same traffic.
    #[error("there is a limit for the same traffic already: {0}")]
    ShapeTwice(String),
    /// A limit for traffic by interfaces that the router doesn't have.
    #[error(
        "the router has no interface that leads to other networks ({option}), and so no traffic that is the internet's",
        option = OptionName::RouterNat.as_str()
    )]
    NoInternet,
    /// A name where only numbers are understood.
    #[error("the {kind} \"{name}\" can't be looked up here, expected the number")]
    AccountNumber {
        /// User or group.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// A word that is no address where a routing daemon of this host connects.
    #[error(
        "\"{0}\" is no address for the host's routing daemon, expected one of this host with a port, such as 127.0.0.1:979 or \
         [::1]:979"
    )]
    RoutesAddress(String),
    /// Not an address from which the routing daemon can connect.
    #[error("\"{word}\" is no address from which the routing daemon can connect to {own}")]
    RoutesFrom {
        /// What was found.
        word: String,
        /// Where the router listens.
        own: IpAddr,
    },
    /// An address that others can reach, without a password.
    #[error("without a password file the routing daemon connects on this host: expected a loopback address, not {0}")]
    RoutesWithoutPassword(IpAddr),
    /// The routing daemon would be in the same AS as the routers.
    #[error("the routing daemon and the router need an AS of their own each, not both {0}")]
    SameAsn(u32),
    /// A routing daemon, but no network whose addresses it could tell of.
    #[error(
        "the router has no address ({}), and so no network whose addresses other hosts could have",
        OptionName::RouterAddress.as_str()
    )]
    RoutesWithoutAddress,
    /// A word that is no address where a router can wait for trunks, or be dialled.
    #[error("\"{0}\" is no address for trunks, expected one with a port, such as 192.0.2.1:4000 or [2001:db8::1]:4000")]
    TrunkAddress(String),
    /// A word that is no public key.
    #[error("\"{word}\" is no public key of a router, as `uwsgi-tuntap keys` prints it: {error}")]
    TrunkKey {
        /// The word.
        word: String,
        /// What is wrong with it.
        error: KeyError,
    },
    /// A neighbour without an address, of a router that waits nowhere.
    #[error(
        "nobody could connect: this value has no address to connect to, and without {} the router waits nowhere",
        OptionName::Trunk.as_str()
    )]
    TrunkUnreachable,
    /// A router without a unix socket that knows no other router's key, at an address that other hosts reach.
    #[error(
        "{0} is an address for routers of other hosts, who are let in by their keys alone, and there is none: name them with \
         {peer}, or wait on loopback; vassals join a router on a unix socket, a path or @name",
        peer = OptionName::TrunkPeer.as_str()
    )]
    TrunkWithoutKeys(SocketAddr),
    /// An MTU that is too small for IPv6.
    #[error("a router with an IPv6 address needs 1280 bytes at least")]
    Ipv6Mtu,
}
