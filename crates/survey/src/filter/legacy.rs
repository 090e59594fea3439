//! The tables of the older iptables and ip6tables, which are not part of nf_tables (linux/netfilter/x_tables.h), and the
//! modules (matches and targets) that today's iptables has in common with them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::{BaseChain, Condition, FilterRule, Hook, Name, Test, Verdict, address_range, native_u32};

/// iptables or ip6tables, and the layout of its `struct ipt_entry` or `struct ip6t_entry`. Offsets and lengths are in bytes.
#[derive(Debug)]
pub struct Family {
    /// The program that makes its rules.
    pub program: &'static str,
    is_ipv6: bool,
    /// The file with the names of the tables that are in use.
    tables: &'static str,
    address_family: AddressFamily,
    level: libc::c_int,
    /// Offsets of the name of the incoming interface, and of the flags.
    interface: usize,
    flags: usize,
    /// Length of both addresses with their masks, and offset of the protocol.
    addresses: usize,
    protocol: usize,
    /// Offset of the field with the offset of the target, and length of the entry, behind which the first match is.
    target: usize,
    len: usize,
    /// The flag of rules that go to a chain and don't come back (`IPT_F_GOTO`).
    goto: u8,
}

/// iptables (linux/netfilter_ipv4/ip_tables.h).
pub const IPV4: Family = Family {
    program: "iptables-legacy",
    is_ipv6: false,
    tables: "/proc/self/net/ip_tables_names",
    address_family: AddressFamily::Inet,
    level: libc::IPPROTO_IP,
    interface: 16,
    flags: 82,
    addresses: 16,
    protocol: 80,
    target: 88,
    len: 112,
    goto: 2,
};

/// ip6tables (linux/netfilter_ipv6/ip6_tables.h).
pub const IPV6: Family = Family {
    program: "ip6tables-legacy",
    is_ipv6: true,
    tables: "/proc/self/net/ip6_tables_names",
    address_family: AddressFamily::Inet6,
    level: libc::IPPROTO_IPV6,
    interface: 64,
    flags: 131,
    addresses: 64,
    protocol: 128,
    target: 140,
    len: 168,
    goto: 4,
};

/// Socket options that read a table (`IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES`).
const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;

/// Tables whose rules may drop packets or change their destinations, and the length of the field with a name.
const TABLES: [&str; 5] = ["filter", "mangle", "raw", "security", NAT];
const NAT: &str = "nat";
const TABLE_NAME_LEN: usize = 32;

/// Length of `struct xt_entry_match` and `struct xt_entry_target`, which have size, name and revision, and where the name
/// is.
const MODULE_LEN: usize = 32;
const MODULE_NAME: std::ops::Range<usize> = 2..31;

/// Flags of inverted conditions (`IPT_INV_VIA_IN` and others).
const INVERTED_IIF: u8 = 1;
const INVERTED_OIF: u8 = 2;
const INVERTED_SOURCE: u8 = 8;
const INVERTED_DESTINATION: u8 = 0x10;
const INVERTED_PROTOCOL: u8 = 0x40;

/// The flag of rules of IPv4 for fragments other than the first (`IPT_F_FRAG`).
const LATER_FRAGMENTS: u8 = 1;

/// Verdicts of a standard target: minus netfilter's verdict minus 1.
const DROP: i32 = -1;
const ACCEPT: i32 = -2;
const RETURN: i32 = -5;

/// Targets that don't decide about a packet.
const WITHOUT_VERDICT: [&str; 12] =
    ["LOG", "NFLOG", "ULOG", "MARK", "CONNMARK", "TCPMSS", "TRACE", "TOS", "DSCP", "CT", "CLASSIFY", "SET"];

/// Reads the chains with hooks of the older tables that are in use.
pub fn chains(family: &Family) -> nix::Result<Vec<BaseChain>> {
    // Reading a table that isn't in use would create it.
    let in_use = match fs::read_to_string(family.tables) {
        Ok(tables) => tables,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))),
    };
    let mut chains = Vec::new();
    for table in TABLES.into_iter().filter(|table| in_use.lines().any(|line| line == *table)) {
        let entries = entries(family, table)?;
        for place in &entries.places {
            chains.push(read(family, table, &entries, place).ok_or(Errno::EPROTO)?);
        }
    }
    Ok(chains)
}

/// A table: all its rules, one behind the other, and the chains with hooks.
struct Entries {
    table: Vec<u8>,
    places: Vec<Place>,
}

/// The offsets of the first rule of a hook, and of the rule that is its policy.
struct Place {
    hook: Hook,
    start: usize,
    policy: usize,
}

fn read(family: &Family, table: &str, entries: &Entries, place: &Place) -> Option<BaseChain> {
    let mut others = BTreeMap::new();
    let rules = chain_rules(family, entries, place.start, Some(place.policy), &mut others)?;
    let (policy, _) = rule(family, &entries.table, place.policy, String::new())?;
    Some(BaseChain {
        table: format!("{} {table}", family.program),
        name: place.hook.as_str().to_owned(),
        hook: place.hook,
        is_nat: table == NAT,
        is_ipv6: Some(family.is_ipv6),
        drops: policy.verdict == Verdict::Drop,
        rules,
        others,
    })
}

/// Reads the rules of a chain up to the offset `end`, and those of the chains that it leads to. Chains without a hook have
/// no policy, but end with a return.
fn chain_rules(
    family: &Family,
    entries: &Entries,
    start: usize,
    end: Option<usize>,
    others: &mut BTreeMap<String, Vec<FilterRule>>,
) -> Option<Vec<FilterRule>> {
    let (mut rules, mut at) = (Vec::new(), start);
    while Some(at) != end && at < entries.table.len() {
        let (rule, next) = rule(family, &entries.table, at, format!("rule {}", rules.len() + 1))?;
        let is_end = end.is_none() && rule.verdict == Verdict::Return && rule.conditions.is_empty();
        if let Verdict::Jump(chain) | Verdict::Goto(chain) = &rule.verdict
            && !others.contains_key(chain)
        {
            others.insert(chain.clone(), Vec::new());
            let start = chain.strip_prefix(CHAIN_AT)?.parse().ok()?;
            let rules = chain_rules(family, entries, start, None, others)?;
            others.insert(chain.clone(), rules);
        }
        rules.push(rule);
        if is_end {
            break;
        }
        at = next;
    }
    Some(rules)
}

/// The beginning of the names that are made up for chains without a hook. Rules refer to them by an offset.
const CHAIN_AT: &str = "the chain at ";

/// Reads the rule at an offset. Returns the offset of the next one, too.
fn rule(family: &Family, table: &[u8], at: usize, place: String) -> Option<(FilterRule, usize)> {
    let entry = table.get(at..)?;
    let (target, next) = (half(entry, family.target)?, half(entry, family.target + 2)?);
    if next < family.len + MODULE_LEN || target < family.len || target > next {
        return None;
    }
    let mut conditions = own_conditions(family, entry)?;
    let mut module = family.len;
    while module < target {
        let (len, name, revision, info) = self::module(entry, module)?;
        conditions.extend(self::conditions(&name, revision, info));
        module += len;
    }
    let (_, name, _, info) = self::module(entry, target)?;
    let verdict = if name.is_empty() {
        match native_u32(info, 0)?.cast_signed() {
            DROP => Verdict::Drop,
            ACCEPT => Verdict::Accept,
            RETURN => Verdict::Return,
            offset if usize::try_from(offset).ok() == Some(at + next) => Verdict::Continue,
            offset if offset >= 0 && entry.get(family.flags)? & family.goto != 0 => {
                Verdict::Goto(format!("{CHAIN_AT}{offset}"))
            }
            offset if offset >= 0 => Verdict::Jump(format!("{CHAIN_AT}{offset}")),
            _ => Verdict::Other("a verdict".to_owned()),
        }
    } else {
        self::target(&name, info)
    };
    Some((FilterRule { place, conditions, verdict }, at + next))
}

/// Reads the conditions of an entry itself, on addresses, interfaces and the protocol.
fn own_conditions(family: &Family, entry: &[u8]) -> Option<Vec<Condition>> {
    const LEN: usize = libc::IFNAMSIZ;
    let inverted = *entry.get(family.flags + 1)?;
    let mut conditions = Vec::new();
    let mut interface = |number: usize, flag: u8, test: fn(Vec<Name>) -> Test| {
        let name = entry.get(family.interface + number * LEN..)?.get(..LEN)?;
        let mask = entry.get(family.interface + (number + 2) * LEN..)?.get(..LEN)?;
        let len = mask.iter().take_while(|byte| **byte != 0).count();
        if len > 0 {
            let text = std::str::from_utf8(&name[..len]).ok()?;
            let name = text
                .strip_suffix('\0')
                .map_or_else(|| Name::From(text.to_owned()), |name| Name::Exactly(name.to_owned()));
            conditions.push(Condition { test: test(vec![name]), is_negated: inverted & flag != 0 });
        }
        Some(())
    };
    interface(0, INVERTED_IIF, Test::Iif)?;
    interface(1, INVERTED_OIF, Test::Oif)?;
    let len = family.addresses / 4;
    for (number, flag) in [INVERTED_SOURCE, INVERTED_DESTINATION].into_iter().enumerate() {
        // The masks are behind the addresses. A mask of zeros means any address.
        let (address, mask) = (entry.get(number * len..)?.get(..len)?, entry.get((number + 2) * len..)?.get(..len)?);
        if mask.iter().any(|byte| *byte != 0) {
            let test = match address_range(address, Some(mask), len) {
                Some(range) if flag == INVERTED_SOURCE => Test::From(vec![range]),
                Some(range) => Test::To(vec![range]),
                None => Test::Other("an address".to_owned()),
            };
            conditions.push(Condition { test, is_negated: inverted & flag != 0 });
        }
    }
    let protocol = half(entry, family.protocol)?;
    if protocol != 0 {
        let test = u8::try_from(protocol).map_or_else(
            |_| Test::Other("a protocol".to_owned()),
            |protocol| Test::Protocol(vec![protocol..=protocol]),
        );
        conditions.push(Condition { test, is_negated: inverted & INVERTED_PROTOCOL != 0 });
    }
    if !family.is_ipv6 && *entry.get(family.flags)? & LATER_FRAGMENTS != 0 {
        conditions.push(other("fragments"));
    }
    Some(conditions)
}

fn other(word: &str) -> Condition {
    Condition { test: Test::Other(word.to_owned()), is_negated: false }
}

/// Reads the length, the name, the revision and the data of a module at an offset.
fn module(entry: &[u8], at: usize) -> Option<(usize, String, u8, &[u8])> {
    let module = entry.get(at..)?;
    let len = half(module, 0).filter(|len| *len >= MODULE_LEN)?;
    let name = module.get(MODULE_NAME)?.split(|byte| *byte == 0).next()?;
    let name = String::from_utf8_lossy(name).into_owned();
    Some((len, name, *module.get(MODULE_LEN - 1)?, module.get(MODULE_LEN..len)?))
}

/// Two bytes at an offset, as a number in this machine's byte order.
fn half(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at + 2)?;
    Some(usize::from(u16::from_ne_bytes([bytes[0], bytes[1]])))
}

/// Reads the conditions of a match.
pub fn conditions(name: &str, revision: u8, info: &[u8]) -> Vec<Condition> {
    let known = match name {
        "comment" => Some(Vec::new()),
        "conntrack" if matches!(revision, 1..=3) => conntrack(revision, info).map(|it| vec![it]),
        // `struct xt_state_info`
        "state" => native_u32(info, 0).map(|mask| vec![Condition { test: Test::State(mask), is_negated: false }]),
        "tcp" => ports(info, 11, info.get(8..11)),
        "udp" => ports(info, 8, None),
        "multiport" if revision == 1 => multiport(info).map(|it| vec![it]),
        "addrtype" => address_type(revision, info).map(|it| vec![it]),
        _ => None,
    };
    known.unwrap_or_else(|| vec![other(name)])
}

/// Reads `struct xt_tcp` or `struct xt_udp`. `inverted` is the offset of the flags of inverted conditions; `flags` are the
/// conditions on TCP options and flags.
fn ports(info: &[u8], inverted: usize, flags: Option<&[u8]>) -> Option<Vec<Condition>> {
    const SOURCE: u8 = 1;
    const DESTINATION: u8 = 2;
    let inverted = *info.get(inverted)?;
    let port = |at| Some(u16::from_ne_bytes([*info.get(at)?, *info.get(at + 1)?]));
    let (source, destination) = (port(0)?..=port(2)?, port(4)?..=port(6)?);
    let mut conditions = Vec::new();
    let is_any = |ports: &std::ops::RangeInclusive<u16>| *ports == (0..=u16::MAX);
    if !is_any(&source) || inverted & SOURCE != 0 {
        conditions.push(other("a source port"));
    }
    if !is_any(&destination) || inverted & DESTINATION != 0 {
        let test = Test::ToPort(vec![destination]);
        conditions.push(Condition { test, is_negated: inverted & DESTINATION != 0 });
    }
    if flags.is_some_and(|flags| flags.iter().any(|byte| *byte != 0)) {
        conditions.push(other("TCP flags"));
    }
    Some(conditions)
}

/// Reads `struct xt_multiport_v1`.
fn multiport(info: &[u8]) -> Option<Condition> {
    const MOST: usize = 15;
    const OF_DESTINATION: u8 = 1;
    let count = usize::from(*info.get(1)?).min(MOST);
    if *info.first()? != OF_DESTINATION {
        return Some(other("ports"));
    }
    let port = |index: usize| Some(u16::from_ne_bytes([*info.get(2 + 2 * index)?, *info.get(3 + 2 * index)?]));
    let begins_range = |index: usize| info.get(2 + 2 * MOST + index).is_some_and(|flag| *flag != 0);
    let (mut ranges, mut index) = (Vec::new(), 0);
    while index < count {
        let first = port(index)?;
        if begins_range(index) {
            index += 1;
        }
        ranges.push(first..=port(index)?);
        index += 1;
    }
    let is_negated = *info.get(2 + 3 * MOST)? != 0;
    Some(Condition { test: Test::ToPort(ranges), is_negated })
}

/// Reads `struct xt_addrtype_info` or `struct xt_addrtype_info_v1`.
fn address_type(revision: u8, info: &[u8]) -> Option<Condition> {
    /// `XT_ADDRTYPE_INVERT_DEST`, and the flags of types that depend on the interface.
    const INVERTED: u32 = 2;
    const OF_INTERFACE: u32 = 4 | 8;
    let (source, destination) = (half(info, 0)?, half(info, 2)?);
    let is_negated = match revision {
        0 => native_u32(info, 8)? != 0,
        _ if native_u32(info, 4)? & OF_INTERFACE == 0 => native_u32(info, 4)? & INVERTED != 0,
        _ => return None,
    };
    (source == 0 && destination != 0)
        .then_some(Condition { test: Test::ToType(u32::try_from(destination).ok()?), is_negated })
}

/// Reads `struct xt_conntrack_mtinfo1` to 3, which differ in what is behind the flags.
fn conntrack(revision: u8, info: &[u8]) -> Option<Condition> {
    const FLAGS: usize = 146;
    const INVERTED: usize = 148;
    const STATES: usize = 150;
    const OF_STATE: usize = 1;
    /// `XT_CONNTRACK_STATE_ALIAS`: the rule was written as `-m state`.
    const ALIAS: usize = 1 << 13;
    /// `XT_CONNTRACK_STATE_DNAT`
    const DST_NAT: usize = 1 << 7;
    if half(info, FLAGS)? & !ALIAS != OF_STATE {
        return None;
    }
    let states = if revision == 1 { usize::from(*info.get(STATES)?) } else { half(info, STATES)? };
    let test = match states {
        DST_NAT => Test::IsDnat,
        // A test for this and other states can't be expressed.
        states if states & DST_NAT == 0 => Test::State(u32::try_from(states).ok()?),
        _ => return None,
    };
    Some(Condition { test, is_negated: half(info, INVERTED)? & OF_STATE != 0 })
}

/// Reads the verdict of a target.
pub fn target(name: &str, info: &[u8]) -> Verdict {
    match name {
        "REJECT" => Verdict::Drop,
        "DNAT" | "REDIRECT" => Verdict::Dnat,
        "ERROR" if !info.is_empty() => Verdict::Return,
        name if WITHOUT_VERDICT.contains(&name) => Verdict::Continue,
        name => Verdict::Other(name.to_owned()),
    }
}

/// `struct ipt_getinfo` of linux/netfilter_ipv4/ip_tables.h.
#[repr(C)]
struct GetInfo {
    name: [u8; TABLE_NAME_LEN],
    valid_hooks: u32,
    hook_entry: [u32; 5],
    underflow: [u32; 5],
    num_entries: u32,
    size: u32,
}

/// `struct ipt_get_entries` of linux/netfilter_ipv4/ip_tables.h. The table is aligned like a `u64`.
#[repr(C)]
struct GetEntries {
    name: [u8; TABLE_NAME_LEN],
    size: u32,
    table: [u64; 0],
}

fn entries(family: &Family, table: &str) -> nix::Result<Entries> {
    let raw: OwnedFd = socket(family.address_family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
    let mut name = [0; TABLE_NAME_LEN];
    name[..table.len()].copy_from_slice(table.as_bytes());
    let mut info = GetInfo { name, valid_hooks: 0, hook_entry: [0; 5], underflow: [0; 5], num_entries: 0, size: 0 };
    ask(&raw, family, GET_INFO, (&raw mut info).cast(), size_of::<GetInfo>())?;
    let start = offset_of!(GetEntries, table);
    let offset = |number: u32| usize::try_from(number).map_err(|_| Errno::EOVERFLOW);
    let mut answer = vec![0_u8; start + offset(info.size)?];
    answer[..TABLE_NAME_LEN].copy_from_slice(&name);
    answer[TABLE_NAME_LEN..TABLE_NAME_LEN + 4].copy_from_slice(&info.size.to_ne_bytes());
    ask(&raw, family, GET_ENTRIES, answer.as_mut_ptr().cast(), answer.len())?;
    let valid = Hook::ALL.into_iter().enumerate().filter(|(number, _)| info.valid_hooks & 1 << number != 0);
    let place = |(number, hook): (usize, Hook)| {
        Ok(Place { hook, start: offset(info.hook_entry[number])?, policy: offset(info.underflow[number])? })
    };
    Ok(Entries { table: answer.split_off(start), places: valid.map(place).collect::<nix::Result<_>>()? })
}

fn ask(raw: &OwnedFd, family: &Family, option: libc::c_int, answer: *mut libc::c_void, len: usize) -> nix::Result<()> {
    let mut len = libc::socklen_t::try_from(len).map_err(|_| Errno::EOVERFLOW)?;
    // SAFETY: the kernel writes at most `len` bytes, and both callers have that many bytes there.
    let result = unsafe { libc::getsockopt(raw.as_raw_fd(), family.level, option, answer, &raw mut len) };
    Errno::result(result).map(drop)
}
