//! Messages by which a device passes its TUN descriptor to its router. A router without them drops the hello, which is
//! shorter than an IP packet, and does not reply.

use super::vnet::VNET_HEADER_LEN;

/// `modifier2` of a [`Hello`]. The TUN descriptor travels with the frame's first byte.
pub const HELLO: u8 = 0x74;

/// `modifier2` of a [`HelloReply`]. It is only sent to a device that has sent a hello.
pub const REPLY: u8 = 0x75;

/// Version of these messages.
pub const VERSION: u8 = 1;

/// Bytes of both payloads. A C router takes payloads of 20 bytes and more for packets.
pub const PAYLOAD_LEN: usize = 8;

/// Bit of the third byte of a hello: the device's packets must not pass in the kernel. Bits that a router doesn't know are ignored,
/// so that older routers, which have no such path, take the device, too.
const ROUTER_ONLY: u8 = 1;

/// A device passes its TUN descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// The offloads that the device turns on once it is attached, as `TUN_F_*` of linux/if_tun.h.
    pub offloads: u32,
    /// True if its packets must not pass in the kernel without the router (`tuntap-device-offload = false`).
    pub router_only: bool,
}

/// The router's reply to a hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HelloReply {
    /// The router reads and writes the device itself from now on.
    Attached,
    /// Packets travel in frames.
    Refused,
    /// The router was restarted, has restored the peer, and needs its device again: the device sends another hello. It
    /// must send nothing before that, and no packet until the hello is answered.
    Renew,
}

impl Hello {
    /// The payload.
    pub fn encode(self) -> [u8; PAYLOAD_LEN] {
        let [a, b, c, d] = self.offloads.to_le_bytes();
        #[allow(clippy::cast_possible_truncation)] // it is 10
        [VERSION, VNET_HEADER_LEN as u8, if self.router_only { ROUTER_ONLY } else { 0 }, 0, a, b, c, d]
    }

    /// Reads a payload. `None` for another version or length, or another length of the virtio_net header.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let [VERSION, header_len, flags, _, a, b, c, d] = *payload else { return None };
        let hello = Self { offloads: u32::from_le_bytes([a, b, c, d]), router_only: flags & ROUTER_ONLY != 0 };
        (usize::from(header_len) == VNET_HEADER_LEN).then_some(hello)
    }
}

impl HelloReply {
    /// The payload.
    pub const fn encode(self) -> [u8; PAYLOAD_LEN] {
        let reply = match self {
            Self::Refused => 0,
            Self::Attached => 1,
            Self::Renew => 2,
        };
        [VERSION, reply, 0, 0, 0, 0, 0, 0]
    }

    /// Reads a payload. `None` for another version.
    pub const fn decode(payload: &[u8]) -> Option<Self> {
        match payload {
            [VERSION, 1, ..] => Some(Self::Attached),
            [VERSION, 0, ..] => Some(Self::Refused),
            [VERSION, 2, ..] => Some(Self::Renew),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        for router_only in [false, true] {
            let hello = Hello { offloads: 0x1234_5678, router_only };
            assert_eq!(Hello::decode(&hello.encode()), Some(hello));
        }
        for reply in [HelloReply::Attached, HelloReply::Refused, HelloReply::Renew] {
            assert_eq!(HelloReply::decode(&reply.encode()), Some(reply));
        }
    }

    #[test]
    fn unknown_flags_are_ignored() {
        let hello = Hello { offloads: 1, router_only: true };
        assert_eq!(Hello::decode(&[1, 10, 0xff, 0xff, 1, 0, 0, 0]), Some(hello));
        assert_eq!(Hello::decode(&[1, 10, 0xfe, 0, 1, 0, 0, 0]), Some(Hello { router_only: false, ..hello }));
    }

    #[test]
    fn other_versions_and_lengths_are_none() {
        let good = Hello { offloads: 1, router_only: false }.encode();
        assert_eq!(Hello::decode(&good[..7]), None);
        assert_eq!(Hello::decode(&[2, 10, 0, 0, 1, 0, 0, 0]), None);
        assert_eq!(Hello::decode(&[1, 12, 0, 0, 1, 0, 0, 0]), None);
        assert_eq!(HelloReply::decode(&[1, 3]), None);
        assert_eq!(HelloReply::decode(&[2, 1]), None);
        assert_eq!(HelloReply::decode(&[]), None);
    }
}
