//! The filter tables of the older iptables and ip6tables, of which nf_tables doesn't know (linux/netfilter/x_tables.h), and
//! the modules that today's iptables has in common with them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::netlink::number;
use super::{Condition, ForwardChain, Name, Rule, Test, Verdict};

/// One of the two, and where things are in its `struct ipt_entry` or `struct ip6t_entry`.
#[derive(Debug)]
pub struct Family {
    /// What makes its rules.
    pub program: &'static str,
    is_ipv6: bool,
    /// Names of the tables that are in use.
    tables: &'static str,
    address_family: AddressFamily,
    level: libc::c_int,
    /// Offsets of the name of the interface that a packet comes by, and of its flags.
    interface: usize,
    flags: usize,
    /// Length of the addresses with their masks, and offset of the protocol.
    addresses: usize,
    protocol: usize,
    /// Offset of the modules' end, which is where the target stands, and of the first module.
    target: usize,
    len: usize,
    /// The flag of rules that go to a chain for good.
    goto: u8,
}

/// linux/netfilter_ipv4/ip_tables.h
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

/// linux/netfilter_ipv6/ip6_tables.h
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

const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;
const FORWARD_HOOK: usize = 2;

/// The table, and the longest name of one.
const FILTER: &[u8] = b"filter";
const TABLE_NAME_LEN: usize = 32;

/// Length of `struct xt_entry_match` and `struct xt_entry_target`, their size, name and revision.
const MODULE_LEN: usize = 32;
const MODULE_NAME: std::ops::Range<usize> = 2..31;

/// Flags of inverted interfaces.
const INVERTED_CAME_BY: u8 = 1;
const INVERTED_LEAVES_BY: u8 = 2;

/// Verdicts of a standard target: those of netfilter, turned round.
const DROP: i32 = -1;
const ACCEPT: i32 = -2;
const RETURN: i32 = -5;

/// Targets that decide nothing.
const WITHOUT_VERDICT: [&str; 12] =
    ["LOG", "NFLOG", "ULOG", "MARK", "CONNMARK", "TCPMSS", "TRACE", "TOS", "DSCP", "CT", "CLASSIFY", "SET"];

/// The older filter, if it is in use.
pub fn chain(family: &Family) -> nix::Result<Option<ForwardChain>> {
    // Asking for the table would make it.
    let tables = match fs::read_to_string(family.tables) {
        Ok(tables) => tables,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))),
    };
    if !tables.lines().any(|table| table.as_bytes() == FILTER) {
        return Ok(None);
    }
    let entries = entries(family)?;
    Ok(Some(read(family, &entries).ok_or(Errno::EPROTO)?))
}

/// All rules of a table, one behind the other.
struct Entries {
    table: Vec<u8>,
    /// Where the rules of FORWARD begin, and where its policy stands.
    start: usize,
    policy: usize,
}

fn read(family: &Family, entries: &Entries) -> Option<ForwardChain> {
    let mut others = BTreeMap::new();
    let rules = chain_rules(family, entries, entries.start, Some(entries.policy), &mut others)?;
    let (policy, _) = rule(family, &entries.table, entries.policy, String::new())?;
    Some(ForwardChain {
        table: format!("{} filter", family.program),
        name: "FORWARD".to_owned(),
        is_ipv6: Some(family.is_ipv6),
        drops: policy.verdict == Verdict::Drop,
        rules,
        others,
    })
}

/// The rules of a chain, and those of the chains that it leads to. Chains of users have no policy, but end with a return.
fn chain_rules(
    family: &Family,
    entries: &Entries,
    start: usize,
    end: Option<usize>,
    others: &mut BTreeMap<String, Vec<Rule>>,
) -> Option<Vec<Rule>> {
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

/// Chains have no names where their rules stand, only a place.
const CHAIN_AT: &str = "the chain at ";

/// The rule that stands at an offset, and the offset of the next one.
fn rule(family: &Family, table: &[u8], at: usize, place: String) -> Option<(Rule, usize)> {
    let entry = table.get(at..)?;
    let (target, next) = (half(entry, family.target)?, half(entry, family.target + 2)?);
    if next < family.len + MODULE_LEN || target < family.len || target > next {
        return None;
    }
    let mut conditions = own_conditions(family, entry)?;
    let mut module = family.len;
    while module < target {
        let (len, name, revision, info) = self::module(entry, module)?;
        conditions.extend(condition(&name, revision, info));
        module += len;
    }
    let (_, name, _, info) = self::module(entry, target)?;
    let verdict = if name.is_empty() {
        match number(info, 0)?.cast_signed() {
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
    Some((Rule { place, conditions, verdict }, at + next))
}

/// What is asked of addresses, interfaces and the protocol.
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
    interface(0, INVERTED_CAME_BY, Test::CameBy)?;
    interface(1, INVERTED_LEAVES_BY, Test::LeavesBy)?;
    // The masks of addresses are behind the addresses, and say nothing by zeros.
    if entry.get(family.addresses / 2..family.addresses)?.iter().any(|byte| *byte != 0) {
        conditions.push(other("an address"));
    }
    if half(entry, family.protocol)? != 0 {
        conditions.push(other("a protocol"));
    }
    Some(conditions)
}

fn other(word: &str) -> Condition {
    Condition { test: Test::Other(word.to_owned()), is_negated: false }
}

/// The length, the name, the revision and the data of a module.
fn module(entry: &[u8], at: usize) -> Option<(usize, String, u8, &[u8])> {
    let module = entry.get(at..)?;
    let len = half(module, 0).filter(|len| *len >= MODULE_LEN)?;
    let name = module.get(MODULE_NAME)?.split(|byte| *byte == 0).next()?;
    let name = String::from_utf8_lossy(name).into_owned();
    Some((len, name, *module.get(MODULE_LEN - 1)?, module.get(MODULE_LEN..len)?))
}

fn half(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at + 2)?;
    Some(usize::from(u16::from_ne_bytes([bytes[0], bytes[1]])))
}

/// What a module of iptables asks; `None` if nothing.
pub fn condition(name: &str, revision: u8, info: &[u8]) -> Option<Condition> {
    let known = match name {
        "comment" => return None,
        "conntrack" if matches!(revision, 1..=3) => conntrack(revision, info),
        // `struct xt_state_info`
        "state" => number(info, 0).map(|mask| Condition { test: Test::State(mask), is_negated: false }),
        _ => None,
    };
    Some(known.unwrap_or_else(|| other(name)))
}

/// `struct xt_conntrack_mtinfo1` to 3, which differ in what is behind the flags.
fn conntrack(revision: u8, info: &[u8]) -> Option<Condition> {
    const FLAGS: usize = 146;
    const INVERTED: usize = 148;
    const STATES: usize = 150;
    const OF_STATE: usize = 1;
    /// `XT_CONNTRACK_STATE_ALIAS`: it was written as `-m state`.
    const ALIAS: usize = 1 << 13;
    /// `XT_CONNTRACK_STATE_DNAT`
    const DIVERTED: usize = 1 << 7;
    if half(info, FLAGS)? & !ALIAS != OF_STATE {
        return None;
    }
    let states = if revision == 1 { usize::from(*info.get(STATES)?) } else { half(info, STATES)? };
    let test = match states {
        DIVERTED => Test::IsDiverted,
        // With other states beside it, it is more than can be said here.
        states if states & DIVERTED == 0 => Test::State(u32::try_from(states).ok()?),
        _ => return None,
    };
    Some(Condition { test, is_negated: half(info, INVERTED)? & OF_STATE != 0 })
}

/// A target that is a module of iptables.
pub fn target(name: &str, info: &[u8]) -> Verdict {
    match name {
        "REJECT" => Verdict::Drop,
        "ERROR" if !info.is_empty() => Verdict::Return,
        name if WITHOUT_VERDICT.contains(&name) => Verdict::Continue,
        name => Verdict::Other(name.to_owned()),
    }
}

/// `struct ipt_getinfo`
#[repr(C)]
struct GetInfo {
    name: [u8; TABLE_NAME_LEN],
    valid_hooks: u32,
    hook_entry: [u32; 5],
    underflow: [u32; 5],
    num_entries: u32,
    size: u32,
}

/// `struct ipt_get_entries`, whose table begins where a `u64` may.
#[repr(C)]
struct GetEntries {
    name: [u8; TABLE_NAME_LEN],
    size: u32,
    table: [u64; 0],
}

fn entries(family: &Family) -> nix::Result<Entries> {
    let raw: OwnedFd = socket(family.address_family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
    let mut name = [0; TABLE_NAME_LEN];
    name[..FILTER.len()].copy_from_slice(FILTER);
    let mut info = GetInfo { name, valid_hooks: 0, hook_entry: [0; 5], underflow: [0; 5], num_entries: 0, size: 0 };
    ask(&raw, family, GET_INFO, (&raw mut info).cast(), size_of::<GetInfo>())?;
    let start = offset_of!(GetEntries, table);
    let offset = |number: u32| usize::try_from(number).map_err(|_| Errno::EOVERFLOW);
    let mut answer = vec![0_u8; start + offset(info.size)?];
    answer[..TABLE_NAME_LEN].copy_from_slice(&name);
    answer[TABLE_NAME_LEN..TABLE_NAME_LEN + 4].copy_from_slice(&info.size.to_ne_bytes());
    ask(&raw, family, GET_ENTRIES, answer.as_mut_ptr().cast(), answer.len())?;
    Ok(Entries {
        table: answer.split_off(start),
        start: offset(info.hook_entry[FORWARD_HOOK])?,
        policy: offset(info.underflow[FORWARD_HOOK])?,
    })
}

fn ask(raw: &OwnedFd, family: &Family, option: libc::c_int, answer: *mut libc::c_void, len: usize) -> nix::Result<()> {
    let mut len = libc::socklen_t::try_from(len).map_err(|_| Errno::EOVERFLOW)?;
    // SAFETY: the kernel writes at most `len` bytes, which is what both callers have there.
    let result = unsafe { libc::getsockopt(raw.as_raw_fd(), family.level, option, answer, &raw mut len) };
    Errno::result(result).map(drop)
}
