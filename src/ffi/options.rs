//! The option table, and the values that the host hands over one by one.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use parking_lot::Mutex;

use super::bindings::{UWSGI_OPT_MASTER, uwsgi_option};
use super::doctor;
use super::guard::{die, guarded};
use super::uwsgi;
use tuntap_config::{Config, OptionName};

/// An option of the plugin, as the host's table wants it.
struct Entry {
    option: OptionName,
    name: &'static CStr,
    help: &'static CStr,
    argument: Argument,
    flags: u64,
}

/// `has_arg` of getopt_long(3).
#[derive(Clone, Copy)]
enum Argument {
    Required = 1,
    Optional = 2,
}

const OPTION_COUNT: usize = OptionName::ALL.len();

static ENTRIES: [Entry; OPTION_COUNT] = [
    Entry {
        option: OptionName::Router,
        name: c"tuntap-router",
        help: c"run a tuntap router, may be repeated (syntax: <device> <socket> [stats] [gateway])",
        argument: Argument::Required,
        flags: UWSGI_OPT_MASTER as u64,
    },
    Entry {
        option: OptionName::Device,
        name: c"tuntap-device",
        help: c"make a tun device in the instance's network namespace and join it to a router, may be repeated (syntax: <device>[ <socket>[ auto]], auto has the router choose its addresses)",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::UseCredentials,
        name: c"tuntap-use-credentials",
        help: c"devices show SCM_CREDENTIALS to their router; set it on both sides (syntax: [true|false|symbol], the symbol is a C function 'uint32_t f(pid_t, uid_t, gid_t)' that gives the address in network byte order, 0 refuses)",
        argument: Argument::Optional,
        flags: 0,
    },
    Entry {
        option: OptionName::FirewallIn,
        name: c"tuntap-router-firewall-in",
        help: c"add a rule for packets towards the vassals, the first match wins, without one they pass; deny drops in silence, reject tells the sender (syntax: <allow|deny|reject> [<src[/len]|any> <dst[/len]|any> [<protocol> [port[-port]]]], 0.0.0.0 and :: are any)",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::FirewallOut,
        name: c"tuntap-router-firewall-out",
        help: c"add a rule for packets from the vassals, the first match wins, without one they pass; deny drops in silence, reject tells the sender (syntax: <allow|deny|reject> [<src[/len]|any> <dst[/len]|any> [<protocol> [port[-port]]]], 0.0.0.0 and :: are any)",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::Route,
        name: c"tuntap-router-route",
        help: c"send packets from the vassals to the gateway of another router, over UDP (syntax: <src[/len]|any> <dst[/len]|any> <addr:port>, [addr]:port for IPv6)",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::Stats,
        name: c"tuntap-router-stats",
        help: c"serve the statistics of the (last) router that has no stats address of its own (syntax: <path|@name|addr:port>)",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::Switch,
        name: c"tuntap-router-switch",
        help: c"deliver packets between vassals of one router directly, past the host's kernel and its packet filter; both chains apply (syntax: [true|false])",
        argument: Argument::Optional,
        flags: 0,
    },
    Entry {
        option: OptionName::BusyPoll,
        name: c"tuntap-router-busy-poll",
        help: c"look for packets without sleeping for so many microseconds after the last ones, while they follow each other closely (0 to 1000, 0 never, default 50)",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::Sandbox,
        name: c"tuntap-router-sandbox",
        help: c"give up capabilities, files and syscalls that the router's process doesn't need; strict holds the function of tuntap-use-credentials to the same (syntax: [on|off|strict], default on)",
        argument: Argument::Optional,
        flags: 0,
    },
    Entry {
        option: OptionName::Priority,
        name: c"tuntap-router-priority",
        help: c"nice value of the router's process and, where sessions share processor time, of its own session; off leaves both as they are (-20 to 19 or off, default -20)",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::Harakiri,
        name: c"tuntap-router-harakiri",
        help: c"end a router that hangs for so many seconds, so that the master starts the next one (0 to 3600, 0 never, default 6)",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::MaxPeers,
        name: c"tuntap-router-max-peers",
        help: c"take no further connections beyond so many (1 to 65536, default 65536)",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::MaxPeersPerUid,
        name: c"tuntap-router-max-peers-per-uid",
        help: c"take no further connections of one user beyond so many; root has no limit (0 to 65536, 0 is none, default 1024)",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::MaxAddressesPerUid,
        name: c"tuntap-router-max-addresses-per-uid",
        help: c"give one user no more addresses of each family than so many; root has no limit, and leased ones don't count (0 to 65536, 0 is no limit, default a quarter of the router's networks, 2 to 256)",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::MaxUnclaimed,
        name: c"tuntap-router-max-unclaimed",
        help: c"have no more connections without an address than so many (1 to 65536, default 1024)",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::UnclaimedTimeout,
        name: c"tuntap-router-unclaimed-timeout",
        help: c"where there is no room for a connection, the oldest one without an address makes room if it is so many seconds old (1 to 3600, default 10)",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::MaxQueue,
        name: c"tuntap-router-max-queue",
        help: c"keep no more than so many bytes for a device that doesn't read them (131072 to 16777216, default 262144)",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::MaxDeviceRules,
        name: c"tuntap-router-max-device-rules",
        help: c"end devices that send more rules than so many (0 to 341, default 341)",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::Grant,
        name: c"tuntap-router-lease",
        help: c"only peers with these credentials may claim these addresses, may be repeated; other addresses are refused then, see tuntap-router-lease-default (syntax: <address[/prefix]> <user|uid|@group|@gid>)",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::LeaseDefault,
        name: c"tuntap-router-lease-default",
        help: c"whether peers may claim addresses that no tuntap-router-lease covers (syntax: <allow|deny>, default deny once there is a lease)",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::DeviceRoute,
        name: c"tuntap-router-device-route",
        help: c"gateways that the route rules of vassals may name beside the targets of tuntap-router-route, may be repeated (syntax: <any|addr[/len][:port]|[addr[/len]]:port>)",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::GatewayAllow,
        name: c"tuntap-router-gateway-allow",
        help: c"the gateway takes datagrams from these addresses only, may be repeated, without it from anybody (syntax: <addr[/len]>)",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::GatewayVassal,
        name: c"tuntap-router-gateway-vassal",
        help: c"vassals with these addresses may send datagrams to gateways of routers, may be repeated, without it none may (syntax: <addr[/len]>)",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::RouterAddress,
        name: c"tuntap-router-address",
        help: c"give the router's device this address and bring it up, may be repeated; refused where the host has the network already, unless \"anyway\" stands behind it (syntax: [<device>] <address>/<prefix length> [anyway])",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::RouterClaims,
        name: c"tuntap-router-claims",
        help: c"which addresses vassals may claim without a lease: those of the router's networks, or any that is free (syntax: [<device>] <own|any>, default own with tuntap-router-address, else any)",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::RouterNat,
        name: c"tuntap-router-nat",
        help: c"forward packets of the router's networks by this interface of the host, masqueraded, may be repeated (syntax: [<device>] <interface>)",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::RouterPort,
        name: c"tuntap-router-port",
        help: c"let a port of the host lead to a vassal, may be repeated; refused where the host serves or maps the port already, unless \"anyway\" stands behind it (syntax: [<device>] <tcp|udp> <host port> <address>:<port> [anyway], [address]:port for IPv6)",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::RouterHost,
        name: c"tuntap-router-host",
        help: c"with tuntap-router-address, what vassals may reach of the host's own addresses, or of the address that is named; the first match wins, may be repeated, default deny, but echo requests and the DNS service of tuntap-router-dns (syntax: [<device>] <deny|allow> [<addr[/len]>] [<protocol> [port[-port]]])",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::MaxConnections,
        name: c"tuntap-router-max-connections",
        help: c"with tuntap-router-address, let an address of a vassal have no more connections through the host's kernel than so many, an IPv6 address half of it (syntax: [<device>] <connections>, 0 to 65536, 0 is no limit, default 4096)",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::ConnectionRate,
        name: c"tuntap-router-connection-rate",
        help: c"with tuntap-router-address, let an address of a vassal open no more connections than so many, an IPv6 address half of it (syntax: [<device>] <connections per second> [<burst>], 0 to 1000000, 0 is no limit, default 200 1000)",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::FragmentRate,
        name: c"tuntap-router-fragment-rate",
        help: c"with tuntap-router-address, let an address of a vassal send no more fragments of packets through the host's kernel than so many, of 1200 bytes on average, and ten times that at once; an IPv6 address half of it (syntax: [<device>] <fragments per second>, 0 to 1000000, 0 is no limit, default 20)",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::RouterMtu,
        name: c"tuntap-router-mtu",
        help: c"longest packet on the router's device, in bytes (syntax: [<device>] <bytes>, 576 to 8188, default 1500)",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::DeviceRule,
        name: c"tuntap-device-rule",
        help: c"add a rule that the router applies to this instance's devices, the first match wins (syntax: <in|out> <src[/len]|any> <dst[/len]|any> <allow|deny|reject|route|gateway> [addr:port] [<protocol> [port[-port]]], route and gateway are the same)",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::RouterDns,
        name: c"tuntap-router-dns",
        help: c"a DNS server that the router tells devices of, may be repeated (syntax: [<device>] <address>)",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::DeviceAddress,
        name: c"tuntap-device-address",
        help: c"give the device an address, bring it up, and claim the address, may be repeated (syntax: [<device>] <address/prefix>)",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::DeviceGateway,
        name: c"tuntap-device-gateway",
        help: c"where the device's default route leads, one for each family; without it to the router (syntax: [<device>] <address>)",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::DeviceMtu,
        name: c"tuntap-device-mtu",
        help: c"the device's MTU; without it that of the router's device (syntax: [<device>] <bytes>, 576 to 65535)",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::DeviceDns,
        name: c"tuntap-device-dns",
        help: c"write the router's DNS servers to a file in the instance's jail, true is /etc/resolv.conf; the host's own is refused (syntax: [<device>] [true|false|<path>])",
        argument: Argument::Optional,
        flags: 0,
    },
    Entry {
        option: OptionName::DeviceTimeout,
        name: c"tuntap-device-timeout",
        help: c"wait so many seconds for the router when the instance starts (0 to 3600, default 30)",
        argument: Argument::Required,
        flags: 0,
    },
    Entry {
        option: OptionName::DeviceRequired,
        name: c"tuntap-device-required",
        help: c"end the instance when a device loses its router, instead of waiting for it (syntax: [true|false])",
        argument: Argument::Optional,
        flags: 0,
    },
];

/// The host's table: an element for each option, one for the doctor, and one of zeros.
#[derive(Debug)]
pub struct OptionTable([uwsgi_option; OPTION_COUNT + 2]);

// SAFETY: the pointers in the table go to constants and functions, and only the host's main thread reads it.
unsafe impl Sync for OptionTable {}

/// What the plugin table points to.
pub static OPTIONS: OptionTable = OptionTable::build(&ENTRIES);

static VALUES: Mutex<Vec<(OptionName, String)>> = Mutex::new(Vec::new());
static CONFIG: OnceLock<Config> = OnceLock::new();

impl OptionTable {
    const fn build(entries: &'static [Entry; OPTION_COUNT]) -> Self {
        const END: uwsgi_option = uwsgi_option {
            name: std::ptr::null_mut(),
            type_: 0,
            shortcut: 0,
            help: std::ptr::null_mut(),
            func: None,
            data: std::ptr::null_mut(),
            flags: 0,
        };
        let mut table = [END; OPTION_COUNT + 2];
        let mut index = 0;
        while index < OPTION_COUNT {
            let entry = &entries[index];
            table[index].name = entry.name.as_ptr().cast_mut();
            table[index].type_ = entry.argument as c_int;
            table[index].help = entry.help.as_ptr().cast_mut();
            table[index].func = Some(collect_value);
            // The entry itself, so that the one callback knows which option it was called for.
            table[index].data = std::ptr::from_ref(&entry.option).cast_mut().cast();
            table[index].flags = entry.flags;
            index += 1;
        }
        table[OPTION_COUNT] = doctor::OPTION;
        Self(table)
    }

    /// The first element, as the host wants it. It doesn't write to the table, although its prototype says so.
    pub const fn as_mut_ptr(&'static self) -> *mut uwsgi_option {
        self.0.as_ptr().cast_mut()
    }
}

/// The checked options. The first call reads all values, and ends the process if any is wrong.
pub fn config() -> &'static Config {
    CONFIG.get_or_init(|| {
        for (name, option) in OptionName::misspelt(uwsgi::options().filter_map(|(name, _)| name.to_str().ok())) {
            let begin = if name.starts_with("tuntap-router") { "[tuntap-router]" } else { "[uwsgi-tuntap]" };
            uwsgi::log(&format!("{begin} {name}: there is no such option, and nobody reads it; is {option} meant?"));
        }
        let values = VALUES.lock();
        Config::from_options(values.iter().map(|(option, value)| (*option, value.as_str())))
            .unwrap_or_else(|errors| die(errors))
    })
}

/// The values as the host has handed them over so far, unchecked.
pub fn values() -> Vec<(OptionName, String)> {
    VALUES.lock().clone()
}

unsafe extern "C" fn collect_value(_name: *mut c_char, value: *mut c_char, data: *mut c_void) {
    guarded("option", || {
        // SAFETY: `data` is what the table says: the option of one of `ENTRIES`.
        let option = unsafe { *data.cast::<OptionName>() };
        let text = if value.is_null() {
            ""
        } else {
            // SAFETY: not NULL, so that it is the NUL-terminated value of the option.
            let value = unsafe { CStr::from_ptr(value) };
            value.to_str().unwrap_or_else(|_| die(format_args!("{} = {value:?}: expected UTF-8", option.as_str())))
        };
        VALUES.lock().push((option, text.to_owned()));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the parser of an option expects, if a value has the wrong number of words.
    fn expected(option: OptionName) -> Option<String> {
        let told = |value: &str| {
            let errors = Config::from_options([(OptionName::Router, "tun0 /t"), (option, value)]).err()?;
            errors.0.iter().find_map(|error| Some(error.problem.to_string().strip_prefix("expected ")?.to_owned()))
        };
        ["a b", "a", "a b c d e f g h"].into_iter().find_map(told).filter(|text| text.contains('<'))
    }

    #[test]
    fn help_has_the_syntax_that_the_parsers_have() {
        let mut count = 0;
        for entry in &ENTRIES {
            let help = entry.help.to_str().expect("ASCII");
            if let Some(syntax) = expected(entry.option) {
                assert!(help.contains(&format!("syntax: {syntax}")), "{}: {syntax}\n{help}", entry.option.as_str());
                count += 1;
            }
        }
        assert!(count >= 14, "only {count} have been compared");
    }
}
