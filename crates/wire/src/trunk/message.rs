//! The payloads of frames.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;

use super::announcement::{Announcement, MAX_PATH_LEN, Path};
use super::hello::Hello;
use super::{Frame, Kind, MAX_HOPS, header};
use crate::holding::{ClaimTime, Holding, RouterId};

/// The family of an IPv4 address.
const V4: u8 = 4;
/// The family of an IPv6 address.
const V6: u8 = 6;

/// Why a payload is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MessageError {
    /// It ends before its last field.
    #[error("a message that is too short")]
    TooShort,
    /// A hello without the word that each begins with.
    #[error("no hello of a trunk: another protocol is spoken there")]
    NotATrunk,
    /// A name that is too long, no UTF-8, or that has control characters.
    #[error("a router's name that can't be one")]
    Name,
    /// A router id of 0.
    #[error("a router id of 0")]
    RouterId,
    /// A family of addresses other than IPv4 and IPv6.
    #[error("an address of the unknown family {0}")]
    Family(u8),
}

/// What a frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<'a> {
    /// Who speaks.
    Hello(Hello),
    /// An address and who holds it.
    Announce(IpAddr, Announcement),
    /// An address whose announcement more than [`MAX_PATH_LEN`] routers have passed on. The rest of it isn't read.
    AnnounceTooFar(IpAddr),
    /// An address that the sender knows no holder of any longer.
    Withdraw(IpAddr),
    /// All that the sender knew at its hello has been announced.
    End,
    /// A packet with its virtio_net header, neither of them checked.
    Packet {
        /// The bytes.
        bytes: &'a [u8],
        /// How many trunks it may still cross, at most [`MAX_HOPS`].
        hops: u8,
    },
    /// A question that is answered with its number.
    Ping(u64),
    /// The answer to a ping.
    Pong(u64),
    /// A kind that is unknown, to be skipped.
    Unknown(u8),
}

impl<'a> Message<'a> {
    /// Reads a frame.
    pub fn decode(frame: Frame<'a>) -> Result<Self, MessageError> {
        let mut reader = Reader::new(frame.payload);
        Ok(match frame.kind {
            Kind::Hello => Self::Hello(Hello::decode(frame.payload)?),
            Kind::Announce => {
                let address = reader.address()?;
                match reader.announcement()? {
                    Some(announcement) => Self::Announce(address, announcement),
                    None => Self::AnnounceTooFar(address),
                }
            }
            Kind::Withdraw => Self::Withdraw(reader.address()?),
            Kind::End => Self::End,
            Kind::Packet => Self::Packet { bytes: frame.payload, hops: frame.hops.min(MAX_HOPS) },
            Kind::Ping => Self::Ping(u64::from_be_bytes(reader.array()?)),
            Kind::Pong => Self::Pong(u64::from_be_bytes(reader.array()?)),
            Kind::Other(number) => Self::Unknown(number),
        })
    }
}

/// Appends a frame that says who holds an address.
pub fn append_announce(out: &mut Vec<u8>, address: IpAddr, announcement: &Announcement) {
    let path_len = announcement.path.len();
    out.extend_from_slice(&header(Kind::Announce, address_len(address) + 8 + 8 + 1 + 8 * path_len, 0));
    append_address(out, address);
    out.extend_from_slice(&announcement.holding.router.number().to_be_bytes());
    out.extend_from_slice(&announcement.holding.since.0.to_be_bytes());
    out.push(u8::try_from(path_len).unwrap_or(0));
    for router in announcement.path.routers() {
        out.extend_from_slice(&router.number().to_be_bytes());
    }
}

/// Appends a frame that says that no holder of an address is known.
pub fn append_withdraw(out: &mut Vec<u8>, address: IpAddr) {
    out.extend_from_slice(&header(Kind::Withdraw, address_len(address), 0));
    append_address(out, address);
}

/// Appends a frame that says that everything has been announced.
pub fn append_end(out: &mut Vec<u8>) {
    out.extend_from_slice(&header(Kind::End, 0, 0));
}

/// Appends a question.
pub fn append_ping(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&header(Kind::Ping, 8, 0));
    out.extend_from_slice(&number.to_be_bytes());
}

/// Appends the answer to a question with this number.
pub fn append_pong(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&header(Kind::Pong, 8, 0));
    out.extend_from_slice(&number.to_be_bytes());
}

/// Bytes of an address with its family.
const fn address_len(address: IpAddr) -> usize {
    match address {
        IpAddr::V4(_) => 1 + 4,
        IpAddr::V6(_) => 1 + 16,
    }
}

fn append_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            out.push(V4);
            out.extend_from_slice(&address.octets());
        }
        IpAddr::V6(address) => {
            out.push(V6);
            out.extend_from_slice(&address.octets());
        }
    }
}

/// Reads a payload from the front.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) const fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], MessageError> {
        let (array, rest) = self.rest.split_first_chunk::<N>().ok_or(MessageError::TooShort)?;
        self.rest = rest;
        Ok(*array)
    }

    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8], MessageError> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(MessageError::TooShort)?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(super) fn router(&mut self) -> Result<RouterId, MessageError> {
        RouterId::new(u64::from_be_bytes(self.array()?)).ok_or(MessageError::RouterId)
    }

    pub(super) fn address(&mut self) -> Result<IpAddr, MessageError> {
        match self.array()? {
            [V4] => Ok(IpAddr::V4(Ipv4Addr::from(self.array::<4>()?))),
            [V6] => Ok(IpAddr::V6(Ipv6Addr::from(self.array::<16>()?))),
            [family] => Err(MessageError::Family(family)),
        }
    }

    /// `None` if the path is too long.
    fn announcement(&mut self) -> Result<Option<Announcement>, MessageError> {
        let router = self.router()?;
        let since = ClaimTime(u64::from_be_bytes(self.array()?));
        let [len] = self.array()?;
        if usize::from(len) > MAX_PATH_LEN {
            return Ok(None);
        }
        let mut path = Path::EMPTY;
        for _ in 0..len {
            let longer = path.with(self.router()?);
            path = longer.unwrap_or(path);
        }
        Ok(Some(Announcement { holding: Holding { router, since }, path }))
    }
}
