//! The first frame of each side: who speaks, and in which version.

use super::message::{MessageError, Reader};
use super::{Kind, header};
use crate::holding::RouterId;

/// The version that this code speaks.
pub const VERSION: u16 = 1;

/// The oldest version that this code speaks.
pub const LEAST_VERSION: u16 = 1;

/// Longest name of a router, in bytes: that of a host (gethostname(2), HOST_NAME_MAX).
pub const MAX_NAME_LEN: usize = 64;

/// What every hello begins with.
const MAGIC: [u8; 4] = *b"uttr";

/// The sender has forgotten everything, and asks for all announcements.
const ASKS: u32 = 1;
/// The sender's virtio_net headers are big-endian.
const BIG_ENDIAN: u32 = 2;

/// Who speaks. Flags that are unknown have no meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The latest version that the sender speaks.
    pub version: u16,
    /// The oldest version that the sender speaks.
    pub least: u16,
    /// The sender's id.
    pub router: RouterId,
    /// The sender knows nothing of the receiver, and asks for all announcements.
    pub asks: bool,
    /// The byte order of the sender's virtio_net headers.
    pub is_big_endian: bool,
    /// The sender's name, for people: at most [`MAX_NAME_LEN`] bytes without control characters.
    pub name: String,
}

impl Hello {
    /// The hello of a router of this version on this machine. What a name can't have is left out of it.
    pub fn new(router: RouterId, name: &str, asks: bool) -> Self {
        let mut short = String::new();
        for character in name.chars().filter(|character| !character.is_control()) {
            if short.len() + character.len_utf8() > MAX_NAME_LEN {
                break;
            }
            short.push(character);
        }
        let is_big_endian = cfg!(target_endian = "big");
        Self { version: VERSION, least: LEAST_VERSION, router, asks, is_big_endian, name: short }
    }

    /// The latest version that both this side and the sender speak.
    pub fn common_version(&self) -> Option<u16> {
        let common = self.version.min(VERSION);
        (common >= self.least && common >= LEAST_VERSION).then_some(common)
    }

    /// Appends the frame.
    pub fn append(&self, out: &mut Vec<u8>) {
        let name = &self.name.as_bytes()[..self.name.len().min(MAX_NAME_LEN)];
        let flags = if self.asks { ASKS } else { 0 } | if self.is_big_endian { BIG_ENDIAN } else { 0 };
        out.extend_from_slice(&header(Kind::Hello, MAGIC.len() + 2 + 2 + 4 + 8 + 1 + name.len(), 0));
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&self.version.to_be_bytes());
        out.extend_from_slice(&self.least.to_be_bytes());
        out.extend_from_slice(&flags.to_be_bytes());
        out.extend_from_slice(&self.router.number().to_be_bytes());
        out.push(u8::try_from(name.len()).unwrap_or(0));
        out.extend_from_slice(name);
    }

    /// Reads the payload.
    pub(super) fn decode(payload: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader::new(payload);
        if reader.array()? != MAGIC {
            return Err(MessageError::NotATrunk);
        }
        let version = u16::from_be_bytes(reader.array()?);
        let least = u16::from_be_bytes(reader.array()?);
        let flags = u32::from_be_bytes(reader.array()?);
        let router = reader.router()?;
        let [len] = reader.array()?;
        let name = reader.bytes(usize::from(len))?;
        let name = std::str::from_utf8(name).ok().filter(|name| name.len() <= MAX_NAME_LEN);
        let name = name.filter(|name| !name.contains(char::is_control)).ok_or(MessageError::Name)?.to_owned();
        let (asks, is_big_endian) = (flags & ASKS != 0, flags & BIG_ENDIAN != 0);
        Ok(Self { version, least, router, asks, is_big_endian, name })
    }
}
