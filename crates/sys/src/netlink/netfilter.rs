//! Lists of nf_tables' objects, and the attributes in them (netlink(7)).

use std::mem::size_of;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// Seconds that the kernel may take.
const PATIENCE: i64 = 2;

/// An object: its family, and its attributes.
#[derive(Debug)]
pub struct Message {
    /// `NFPROTO_...`.
    pub family: u8,
    /// They follow each other as netlink(7) says.
    pub attributes: Vec<u8>,
}

const HEADER_LEN: usize = size_of::<libc::nlmsghdr>();

/// `struct nfgenmsg` behind the header: family, version, resource.
const GENERIC_LEN: usize = 4;

/// The subsystem of nf_tables (linux/netfilter/nfnetlink.h).
const NFTABLES: u16 = 10;

/// All objects of nf_tables of a kind (NLM_F_DUMP). `about` are attributes that say which.
pub fn dump(kind: u16, family: u8, about: &[u8]) -> nix::Result<Vec<Message>> {
    let mut found = Vec::new();
    each(NFTABLES, kind, family, about, |message| found.push(message))?;
    Ok(found)
}

/// Shows all objects of a subsystem (linux/netfilter/nfnetlink.h) that are of a kind, one by one: a list may be longer
/// than what should be in memory.
pub fn each(subsystem: u16, kind: u16, family: u8, about: &[u8], mut visit: impl FnMut(Message)) -> nix::Result<()> {
    let netlink = send(subsystem, kind, libc::NLM_F_DUMP, family, about)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if !parse(buffer.get(..count).unwrap_or_default(), &mut visit)? {
            return Ok(());
        }
    }
}

/// Asks a subsystem for a change, and waits for the answer.
pub fn change(subsystem: u16, kind: u16, family: u8, about: &[u8]) -> nix::Result<()> {
    let netlink = send(subsystem, kind, libc::NLM_F_ACK, family, about)?;
    let mut buffer = vec![0; 1 << 13];
    let count = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    match parse(buffer.get(..count).unwrap_or_default(), &mut |_| ()) {
        // An acknowledgement is an error without a number.
        Err(Errno::UnknownErrno) => Ok(()),
        result => result.map(drop),
    }
}

fn send(subsystem: u16, kind: u16, flags: libc::c_int, family: u8, about: &[u8]) -> nix::Result<OwnedFd> {
    let netlink: OwnedFd =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)?;
    setsockopt(&netlink, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE))?;
    let length = u32::try_from(HEADER_LEN + GENERIC_LEN + about.len()).map_err(|_| Errno::EINVAL)?;
    let flags = u16::try_from(libc::NLM_F_REQUEST | flags).map_err(|_| Errno::EINVAL)?;
    let mut request = Vec::new();
    request.extend_from_slice(&length.to_ne_bytes());
    request.extend_from_slice(&(subsystem << 8 | kind).to_ne_bytes());
    request.extend_from_slice(&flags.to_ne_bytes());
    request.extend_from_slice(&[0; 8]);
    request.extend_from_slice(&[family, 0, 0, 0]);
    request.extend_from_slice(about);
    sendto(netlink.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    Ok(netlink)
}

/// Takes the messages out of what the kernel has sent. Returns whether there is more to come.
fn parse(mut bytes: &[u8], visit: &mut impl FnMut(Message)) -> nix::Result<bool> {
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
                visit(Message { family, attributes });
            }
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

/// A number as this machine stores it.
pub fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// The attributes, by type and payload, up to the first that is cut. The upper bits of a type are flags.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const TYPE: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let [low, high, kind_low, kind_high, ..] = *bytes else { return None };
        let length = usize::from(u16::from_ne_bytes([low, high]));
        let payload = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([kind_low, kind_high]) & TYPE, payload))
    })
}

/// The payload of the first attribute of a type.
pub fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(kind, payload)| (kind == wanted).then_some(payload))
}

/// An attribute that is a number, as nf_tables writes them.
pub fn big_endian(bytes: &[u8], wanted: u16) -> Option<u32> {
    Some(u32::from_be_bytes(attribute(bytes, wanted)?.try_into().ok()?))
}

/// An attribute that is text; nothing if it isn't there.
pub fn string(bytes: &[u8], wanted: u16) -> String {
    let text = attribute(bytes, wanted).unwrap_or_default();
    String::from_utf8_lossy(text).trim_end_matches('\0').to_owned()
}

/// An attribute with this text.
pub fn text_attribute(kind: u16, text: &str) -> Vec<u8> {
    let length = u16::try_from(4 + text.len() + 1).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
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
    fn text_is_read_as_it_is_written() {
        let bytes = [text_attribute(1, "filter"), text_attribute(2, "__set0")].concat();
        assert_eq!(string(&bytes, 1), "filter");
        assert_eq!(string(&bytes, 2), "__set0");
    }
}
