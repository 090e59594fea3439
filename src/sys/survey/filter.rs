//! Packet filters of the current network namespace that drop what they don't know on its way through.

use std::fs;
use std::mem::size_of;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// A chain that sees forwarded packets and drops those that none of its rules accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DroppingChain {
    /// Its family and table, such as `ip filter`, or `iptables-legacy filter`.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Devices, of those that were asked for, that rules of its table name.
    pub named: Vec<String>,
}

/// All such chains, as far as this process may see them. Of the older ip6tables nothing is seen.
pub fn dropping_chains(devices: &[String]) -> nix::Result<Vec<DroppingChain>> {
    let mut found = nftables(devices)?;
    found.extend(legacy(devices));
    Ok(found)
}

/// Of linux/netfilter/nfnetlink.h and nf_tables.h: the messages that ask for all chains, and for all rules.
const GET_CHAINS: u16 = 10 << 8 | 4;
const GET_RULES: u16 = 10 << 8 | 7;

/// Attributes of chains, of their hooks, and of rules.
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const HOOK_NUMBER: u16 = 1;
const RULE_TABLE: u16 = 1;

/// `NF_INET_FORWARD` of linux/netfilter.h, as attributes carry it.
const FORWARD: [u8; 4] = 2_u32.to_be_bytes();

/// `NF_DROP`, as attributes carry it.
const DROP: [u8; 4] = 0_u32.to_be_bytes();

/// `NFPROTO_INET`, `NFPROTO_IPV4` and `NFPROTO_IPV6`, the families whose chains see IP packets.
const FAMILIES: [(u8, &str); 3] = [(1, "inet"), (2, "ip"), (10, "ip6")];

fn nftables(devices: &[String]) -> nix::Result<Vec<DroppingChain>> {
    let mut chains = Vec::new();
    for chain in dump(GET_CHAINS)? {
        let Some((_, family)) = FAMILIES.into_iter().find(|(number, _)| *number == chain.family) else { continue };
        let hook = attribute(&chain.attributes, CHAIN_HOOK).and_then(|hook| attribute(hook, HOOK_NUMBER));
        if hook != Some(&FORWARD) || attribute(&chain.attributes, CHAIN_POLICY) != Some(&DROP) {
            continue;
        }
        chains.push((
            chain.family,
            family,
            string(&chain.attributes, CHAIN_TABLE),
            string(&chain.attributes, CHAIN_NAME),
        ));
    }
    if chains.is_empty() {
        return Ok(Vec::new());
    }
    let rules = dump(GET_RULES)?;
    let is_named = |number: u8, table: &str, device: &str| {
        let of_table = |rule: &&Message| rule.family == number && string(&rule.attributes, RULE_TABLE) == table;
        rules.iter().filter(of_table).any(|rule| mentions(&rule.attributes, device))
    };
    Ok(chains
        .into_iter()
        .map(|(number, family, table, name)| DroppingChain {
            named: devices.iter().filter(|device| is_named(number, &table, device)).cloned().collect(),
            table: format!("{family} {table}"),
            name,
        })
        .collect())
}

/// Whether a device's name, with its final NUL, stands among the bytes.
fn mentions(bytes: &[u8], device: &str) -> bool {
    let name: Vec<u8> = device.bytes().chain([0]).collect();
    bytes.windows(name.len()).any(|window| window == name)
}

#[derive(Debug)]
struct Message {
    family: u8,
    attributes: Vec<u8>,
}

const HEADER_LEN: usize = size_of::<libc::nlmsghdr>();

/// `struct nfgenmsg` behind the header: family, version, resource.
const GENERIC_LEN: usize = 4;

/// All objects of a kind (netlink(7), NLM_F_DUMP).
fn dump(kind: u16) -> nix::Result<Vec<Message>> {
    let netlink: OwnedFd =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)?;
    setsockopt(&netlink, sockopt::ReceiveTimeout, &TimeVal::seconds(2))?;
    let length = u32::try_from(HEADER_LEN + GENERIC_LEN).map_err(|_| Errno::EINVAL)?;
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_DUMP).map_err(|_| Errno::EINVAL)?;
    let mut request = Vec::new();
    request.extend_from_slice(&length.to_ne_bytes());
    request.extend_from_slice(&kind.to_ne_bytes());
    request.extend_from_slice(&flags.to_ne_bytes());
    request.extend_from_slice(&[0; 8 + GENERIC_LEN]);
    sendto(netlink.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if !parse(buffer.get(..count).unwrap_or_default(), &mut found)? {
            return Ok(found);
        }
    }
}

/// Takes the messages out of what the kernel has sent. Returns whether there is more to come.
fn parse(mut bytes: &[u8], found: &mut Vec<Message>) -> nix::Result<bool> {
    while let (Some(length), Some(kind)) = (number(bytes, 0), bytes.get(4..6)) {
        let length = usize::try_from(length).map_err(|_| Errno::EPROTO)?;
        let body = bytes.get(HEADER_LEN..length).ok_or(Errno::EPROTO)?;
        match i32::from(u16::from_ne_bytes([kind[0], kind[1]])) {
            libc::NLMSG_DONE => return Ok(false),
            libc::NLMSG_ERROR => {
                let code = number(body, 0).unwrap_or_default().cast_signed();
                return Err(Errno::from_raw(-code));
            }
            _ => {
                let family = *body.first().ok_or(Errno::EPROTO)?;
                let attributes = body.get(GENERIC_LEN..).ok_or(Errno::EPROTO)?.to_vec();
                found.push(Message { family, attributes });
            }
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// The payload of the first attribute of a type. Its upper bits are flags.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    const TYPE: u16 = 0x3fff;
    while let [low, high, kind_low, kind_high, ..] = *bytes {
        let length = usize::from(u16::from_ne_bytes([low, high]));
        let payload = bytes.get(4..length)?;
        if u16::from_ne_bytes([kind_low, kind_high]) & TYPE == wanted {
            return Some(payload);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn string(bytes: &[u8], wanted: u16) -> String {
    let text = attribute(bytes, wanted).unwrap_or_default();
    String::from_utf8_lossy(text).trim_end_matches('\0').to_owned()
}

/// The filter table of the older iptables, where it is in use: what nf_tables doesn't know of.
fn legacy(devices: &[String]) -> Option<DroppingChain> {
    // Asking for the table would make it.
    let tables = fs::read_to_string("/proc/self/net/ip_tables_names").ok()?;
    if !tables.lines().any(|table| table == "filter") {
        return None;
    }
    let entries = legacy::entries()?;
    (entries.forward_verdict()? == legacy::DROP).then(|| DroppingChain {
        table: "iptables-legacy filter".to_owned(),
        name: "FORWARD".to_owned(),
        named: devices.iter().filter(|device| mentions(&entries.table, device)).cloned().collect(),
    })
}

/// linux/netfilter_ipv4/ip_tables.h.
mod legacy {
    use std::mem::{offset_of, size_of};
    use std::os::fd::{AsRawFd, OwnedFd};

    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

    use super::number;

    /// A verdict of NF_DROP, as a standard target carries it.
    pub const DROP: i32 = -1;

    const IPT_SO_GET_INFO: libc::c_int = 64;
    const IPT_SO_GET_ENTRIES: libc::c_int = 65;
    const FORWARD_HOOK: usize = 2;
    /// `target_offset` in `struct ipt_entry`.
    const TARGET_OFFSET: usize = 88;
    /// The verdict in `struct xt_standard_target`.
    const VERDICT: usize = 32;

    #[repr(C)]
    struct GetInfo {
        name: [u8; 32],
        valid_hooks: u32,
        hook_entry: [u32; 5],
        underflow: [u32; 5],
        num_entries: u32,
        size: u32,
    }

    /// `struct ipt_get_entries`, whose table begins where a `u64` may.
    #[repr(C)]
    struct GetEntries {
        name: [u8; 32],
        size: u32,
        table: [u64; 0],
    }

    /// The rules of the filter table.
    pub struct Entries {
        pub table: Vec<u8>,
        /// Where the rule stands that is the policy of FORWARD.
        policy: usize,
    }

    impl Entries {
        pub fn forward_verdict(&self) -> Option<i32> {
            let entry = self.table.get(self.policy..)?;
            let target = entry.get(TARGET_OFFSET..TARGET_OFFSET + 2)?;
            let target = usize::from(u16::from_ne_bytes([target[0], target[1]]));
            number(entry, target + VERDICT).map(u32::cast_signed)
        }
    }

    pub fn entries() -> Option<Entries> {
        let raw: OwnedFd =
            socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw).ok()?;
        let mut name = [0; 32];
        name[..6].copy_from_slice(b"filter");
        let mut info = GetInfo { name, valid_hooks: 0, hook_entry: [0; 5], underflow: [0; 5], num_entries: 0, size: 0 };
        ask(&raw, IPT_SO_GET_INFO, (&raw mut info).cast(), size_of::<GetInfo>())?;
        let start = offset_of!(GetEntries, table);
        let size = usize::try_from(info.size).ok()?;
        let mut answer = vec![0_u8; start + size];
        answer[..32].copy_from_slice(&name);
        answer[32..36].copy_from_slice(&info.size.to_ne_bytes());
        ask(&raw, IPT_SO_GET_ENTRIES, answer.as_mut_ptr().cast(), answer.len())?;
        Some(Entries { table: answer.split_off(start), policy: usize::try_from(info.underflow[FORWARD_HOOK]).ok()? })
    }

    fn ask(raw: &OwnedFd, option: libc::c_int, answer: *mut libc::c_void, len: usize) -> Option<()> {
        let mut len = libc::socklen_t::try_from(len).ok()?;
        // SAFETY: the kernel writes at most `len` bytes, which is what both callers have there.
        let result = unsafe { libc::getsockopt(raw.as_raw_fd(), libc::IPPROTO_IP, option, answer, &raw mut len) };
        (result == 0).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_behind_others_and_never_past_the_end() {
        let bytes = [5, 0, 1, 0, 9, 0, 0, 0, 8, 0, 3, 0x80, 1, 2, 3, 4];
        assert_eq!(attribute(&bytes, 1), Some(&[9][..]));
        assert_eq!(attribute(&bytes, 3), Some(&[1, 2, 3, 4][..]), "flags don't count");
        assert_eq!(attribute(&bytes, 2), None);
        assert_eq!(attribute(&bytes[..12], 3), None, "cut");
        assert_eq!(attribute(&[0, 0, 1, 0], 1), None, "shorter than its header");
    }

    #[test]
    fn names_are_whole_names() {
        assert!(mentions(b"..emperor0\0..", "emperor0"));
        assert!(!mentions(b"..emperor01\0..", "emperor0"));
    }
}
