//! A configuration for BIRD 2 that goes with a router.

use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use thiserror::Error;
use tuntap_wire::bgp::Family;

use super::settings::{DEFAULT_ASN, DEFAULT_HOLD_TIME};

/// What the configuration is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BirdConfig {
    /// The host's identifier among its neighbours, usually its IPv4 address. Without one, BIRD takes an IPv4 address of another
    /// interface than the router's.
    pub router_id: Option<Ipv4Addr>,
    /// The AS of the hosts.
    pub asn: u32,
    /// The router.
    pub feed: Feed,
    /// Where vassals' addresses are.
    pub networks: Vec<IpNet>,
    /// The other hosts.
    pub neighbours: Vec<Neighbour>,
    /// True if hosts notice in a third of a second that another one is gone (BFD).
    pub bfd: bool,
    /// The most routes of each family that a neighbour may announce.
    pub max_routes: u32,
}

/// The router that BIRD connects to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feed {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where BIRD connects from.
    pub from: IpAddr,
    /// Its AS.
    pub asn: u32,
    /// The password for TCP-MD5, if the router has one.
    pub password: Option<String>,
    /// The TUN device behind which the vassals are.
    pub device: String,
    /// Seconds without a message after which either side counts as dead.
    pub hold_time: u16,
}

/// Another host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Its address.
    pub address: IpAddr,
    /// Its AS. Hosts of one AS have to know each other all.
    pub asn: u32,
}

impl Feed {
    /// The router's AS if nothing else is configured.
    pub const DEFAULT_ASN: u32 = DEFAULT_ASN;

    /// The hold time if nothing else is configured.
    pub const DEFAULT_HOLD_TIME: u16 = DEFAULT_HOLD_TIME;
}

impl BirdConfig {
    /// The most routes of a neighbour if nothing else is chosen.
    pub const DEFAULT_MAX_ROUTES: u32 = 32_768;

    /// The longest password in bytes (`TCP_MD5SIG_MAXKEYLEN`, `linux/tcp.h`).
    const MAX_PASSWORD_LEN: usize = 80;

    /// The longest name of a device in bytes (`IFNAMSIZ`, `linux/if.h`, without the zero at the end).
    const MAX_DEVICE_LEN: usize = 15;

    fn check(&self) -> Result<(), BirdConfigError> {
        if self.router_id.is_some_and(|id| id.is_unspecified()) {
            return Err(BirdConfigError::RouterId);
        }
        if self.asn == 0 || self.feed.asn == 0 || self.asn == self.feed.asn {
            return Err(BirdConfigError::Asn);
        }
        if let Some(password) = &self.feed.password {
            if password.is_empty() || password.len() > Self::MAX_PASSWORD_LEN {
                return Err(BirdConfigError::PasswordLength);
            }
            if !is_quotable(password) {
                return Err(BirdConfigError::Password);
            }
        }
        let device = &self.feed.device;
        if device.is_empty() || device.len() > Self::MAX_DEVICE_LEN || !is_quotable(device) {
            return Err(BirdConfigError::Device(device.clone()));
        }
        if self.networks.is_empty() {
            return Err(BirdConfigError::NoNetwork);
        }
        if let Some(neighbour) = self.neighbours.iter().find(|neighbour| neighbour.asn == 0) {
            return Err(BirdConfigError::Neighbour(neighbour.address));
        }
        Ok(())
    }

    /// The families that there are networks of.
    fn families(&self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(|family| self.networks_of(*family).next().is_some())
    }

    fn networks_of(&self, family: Family) -> impl Iterator<Item = IpNet> {
        self.networks.iter().map(IpNet::trunc).filter(move |net| Family::of(net.addr()) == family)
    }
}

/// BIRD's strings end with the next quotation mark; nothing can be escaped in them.
fn is_quotable(text: &str) -> bool {
    text.chars().all(|character| character.is_ascii_graphic() && character != '"' || character == ' ')
}

/// Returns the text of a `bird.conf`. It holds the password, so that only BIRD should be able to read it.
pub fn bird_config(config: &BirdConfig) -> Result<String, BirdConfigError> {
    config.check()?;
    Ok(Text(config).to_string())
}

/// Why there is no such configuration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BirdConfigError {
    /// The identifier is 0.
    #[error("the router id has to be an IPv4 address other than 0.0.0.0")]
    RouterId,
    /// An AS is 0, or both are the same.
    #[error("the host and the router need AS numbers other than 0, each its own")]
    Asn,
    /// The password is empty or too long.
    #[error("the password has to have 1 to {} bytes", BirdConfig::MAX_PASSWORD_LEN)]
    PasswordLength,
    /// The password can't be written.
    #[error(
        "the password has a character that BIRD can't read: use ASCII letters, digits and signs, but no quotation mark"
    )]
    Password,
    /// This is no device's name.
    #[error("'{}' is no name of a network device that BIRD can read", .0.escape_debug())]
    Device(String),
    /// There are no networks.
    #[error("no network is given")]
    NoNetwork,
    /// A neighbour has the AS 0.
    #[error("the neighbour {0} needs an AS number other than 0")]
    Neighbour(IpAddr),
}

/// BIRD's preference for routes of the router: more than for those of other hosts, which have 100.
const FEED_PREFERENCE: u16 = 150;

/// Writes a configuration that was checked.
struct Text<'a>(&'a BirdConfig);

impl fmt::Display for Text<'_> {
    fn fmt(&self, output: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = self.0;
        writeln!(output, "# For BIRD 2. It has a password: only BIRD should be able to read it.")?;
        writeln!(output, "log syslog all;")?;
        match config.router_id {
            Some(id) => writeln!(output, "router id {id};")?,
            // Several hosts may have the same address on this device.
            None => writeln!(output, "router id from -\"lo\", -\"{}\", \"*\";", config.feed.device)?,
        }
        writeln!(output, "\nprotocol device {{}}")?;
        for family in config.families() {
            let (name, bits) = (constant(family), family.bits());
            let nets: Vec<String> = config.networks_of(family).map(|net| format!("{net}{{{bits},{bits}}}")).collect();
            writeln!(output, "\n# Vassals' addresses.\ndefine {name} = [ {} ];", nets.join(", "))?;
            self.kernel(output, family)?;
        }
        self.feed(output)?;
        if config.bfd {
            output.write_str("\nprotocol bfd {\n\tinterface \"*\" { interval 100 ms; multiplier 3; };\n}\n")?;
        }
        if !config.neighbours.is_empty() {
            self.hosts(output)?;
        }
        Ok(())
    }
}

impl Text<'_> {
    /// What the kernel is told. A packet for an address that nobody holds ends here, instead of running in circles. But where the
    /// device has the network itself, which IPv6 gives a metric of 256, packets for it go there: a vassal that has just claimed
    /// its address is reached before BIRD has heard of it.
    fn kernel(&self, output: &mut impl Write, family: Family) -> fmt::Result {
        let channel = channel(family);
        writeln!(output, "protocol kernel kernel_{channel} {{\n\tmetric 0;\n\t{channel} {{\n\t\texport filter {{")?;
        writeln!(output, "\t\t\tif source != RTS_BGP && source != RTS_STATIC then reject;")?;
        writeln!(output, "\t\t\tif source = RTS_STATIC then krt_metric = 4096; else krt_metric = 32;")?;
        output.write_str("\t\t\taccept;\n\t\t};\n\t};\n}\n")?;
        writeln!(output, "protocol static nobody_{channel} {{\n\t{channel};")?;
        for net in self.0.networks_of(family) {
            writeln!(output, "\troute {net} blackhole;")?;
        }
        output.write_str("}\n")
    }

    /// The session with the router. The time of a claim, which is the MED, decides which of two holders is the right one for hosts
    /// that have neither. The host of a holder goes by its router, which knows which times can't be right, and withdraws at once
    /// what a newer claim has taken.
    fn feed(&self, output: &mut impl Write) -> fmt::Result {
        let Feed { address, from, asn, password, device, hold_time } = &self.0.feed;
        writeln!(output, "\n# The router, which tells of its vassals, and is told of those of other hosts.")?;
        writeln!(output, "protocol bgp tuntap {{\n\tlocal {from} as {};", self.0.asn)?;
        writeln!(output, "\tneighbor {} port {} as {asn};\n\tmultihop;", address.ip(), address.port())?;
        if let Some(password) = password {
            writeln!(output, "\tpassword \"{password}\";")?;
        }
        writeln!(output, "\thold time {hold_time};\n\tconnect delay time 0;\n\tconnect retry time 1;")?;
        writeln!(output, "\terror wait time 1, 1;")?;
        for family in self.0.families() {
            let name = constant(family);
            writeln!(output, "\t{} {{\n\t\tadd paths tx;\n\t\tnext hop keep;", channel(family))?;
            writeln!(output, "\t\tpreference {FEED_PREFERENCE};")?;
            writeln!(output, "\t\timport filter {{\n\t\t\tif net !~ {name} then reject;")?;
            writeln!(output, "\t\t\tbgp_local_pref = bgp_med;\n\t\t\tifname = \"{device}\";\n\t\t\taccept;\n\t\t}};")?;
            // BIRD tells another AS no MULTI_EXIT_DISC that the filter hasn't set.
            writeln!(output, "\t\texport filter {{")?;
            writeln!(output, "\t\t\tif source != RTS_BGP || proto = \"tuntap\" || net !~ {name} then reject;")?;
            writeln!(output, "\t\t\tif defined(bgp_med) then bgp_med = bgp_med;\n\t\t\taccept;\n\t\t}};\n\t}};")?;
        }
        output.write_str("}\n")
    }

    /// The sessions with other hosts.
    fn hosts(&self, output: &mut impl Write) -> fmt::Result {
        let BirdConfig { asn, bfd, max_routes, .. } = self.0;
        writeln!(output, "\n# The other hosts.\ntemplate bgp host {{\n\tlocal as {asn};\n\tdirect;")?;
        if *bfd {
            writeln!(output, "\tbfd on;")?;
        }
        writeln!(output, "\thold time 9;\n\tconnect delay time 0;\n\tconnect retry time 1;\n\terror wait time 1, 1;")?;
        for family in self.0.families() {
            let name = constant(family);
            writeln!(output, "\t{} {{\n\t\tnext hop self;", channel(family))?;
            writeln!(output, "\t\timport filter {{\n\t\t\tif net !~ {name} then reject;")?;
            writeln!(output, "\t\t\tif defined(bgp_med) then bgp_local_pref = bgp_med;\n\t\t\taccept;\n\t\t}};")?;
            writeln!(output, "\t\texport where proto = \"tuntap\" && net ~ {name};")?;
            writeln!(output, "\t\timport limit {max_routes} action block;\n\t}};")?;
        }
        output.write_str("}\n")?;
        for (number, neighbour) in self.0.neighbours.iter().enumerate() {
            let Neighbour { address, asn } = neighbour;
            writeln!(output, "protocol bgp host{} from host {{ neighbor {address} as {asn}; }}", number + 1)?;
        }
        Ok(())
    }
}

const fn channel(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ipv4",
        Family::Ipv6 => "ipv6",
    }
}

const fn constant(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "VASSALS4",
        Family::Ipv6 => "VASSALS6",
    }
}
