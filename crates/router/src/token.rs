//! The source of an event, in the 64 bits that epoll returns: kind, slot and generation. The generation keeps a late event
//! from being taken for one of the next peer in the same slot.

use tuntap_core::policy::registry::PeerId;
use tuntap_core::trunk::TrunkId;

/// A source of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// A queue of the TUN device.
    Tun(u8),
    /// The socket where peers connect.
    Listener,
    /// The UDP socket of other routers.
    Gateway,
    /// The socket where statistics clients connect.
    StatsListener,
    /// A statistics client, by its serial number.
    StatsClient(u32),
    /// The socket where clients connect that want metrics.
    MetricsListener,
    /// Such a client, by its serial number.
    MetricsClient(u32),
    /// Changes of the host's addresses.
    Addresses,
    /// Grants from the master.
    GrantUpdates,
    /// Questions of the control thread.
    Questions,
    /// The socket where the routing daemon connects.
    RoutesListener,
    /// The routing daemon's connection.
    RoutesConnection,
    /// The socket by which the trunk process hands over connections.
    TrunkControl,
    /// The socket of a trunk.
    Trunk(TrunkId),
    /// The process that makes pairs for the path in the kernel.
    Pairs,
    /// The master process.
    Master,
    /// A peer's connection.
    Peer(PeerId),
    /// A peer's TUN device.
    Device(PeerId),
}

const KIND_SHIFT: u32 = 56;
const INDEX_SHIFT: u32 = 32;

impl Token {
    /// Encodes the source in 64 bits: 8 bits for the kind, 24 for the index, 32 for the generation.
    pub const fn encode(self) -> u64 {
        let (kind, index, generation) = match self {
            Self::Tun(queue) => (0, queue as u32, 0),
            Self::Listener => (1, 0, 0),
            Self::Gateway => (2, 0, 0),
            Self::StatsListener => (3, 0, 0),
            Self::StatsClient(serial) => (4, 0, serial),
            Self::Master => (7, 0, 0),
            Self::Addresses => (8, 0, 0),
            Self::GrantUpdates => (9, 0, 0),
            Self::Questions => (10, 0, 0),
            Self::RoutesListener => (11, 0, 0),
            Self::RoutesConnection => (12, 0, 0),
            Self::TrunkControl => (13, 0, 0),
            Self::Trunk(TrunkId(number)) => (14, 0, number),
            Self::MetricsListener => (15, 0, 0),
            Self::MetricsClient(serial) => (16, 0, serial),
            Self::Pairs => (17, 0, 0),
            Self::Peer(PeerId { index, generation }) => (5, index, generation),
            Self::Device(PeerId { index, generation }) => (6, index, generation),
        };
        kind << KIND_SHIFT | (index as u64) << INDEX_SHIFT | generation as u64
    }

    /// Decodes 64 bits. Returns `None` for bits that [`Token::encode`] doesn't return.
    pub fn decode(bits: u64) -> Option<Self> {
        let index = u32::try_from(bits >> INDEX_SHIFT & u64::from(PeerId::MAX_INDEX - 1)).ok()?;
        let generation = u32::try_from(bits & u64::from(u32::MAX)).ok()?;
        Some(match bits >> KIND_SHIFT {
            0 => Self::Tun(u8::try_from(index).ok()?),
            1 => Self::Listener,
            2 => Self::Gateway,
            3 => Self::StatsListener,
            4 => Self::StatsClient(generation),
            5 => Self::Peer(PeerId { index, generation }),
            6 => Self::Device(PeerId { index, generation }),
            7 => Self::Master,
            8 => Self::Addresses,
            9 => Self::GrantUpdates,
            10 => Self::Questions,
            11 => Self::RoutesListener,
            12 => Self::RoutesConnection,
            13 => Self::TrunkControl,
            14 => Self::Trunk(TrunkId(generation)),
            15 => Self::MetricsListener,
            16 => Self::MetricsClient(generation),
            17 => Self::Pairs,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let peer = PeerId { index: PeerId::MAX_INDEX - 1, generation: u32::MAX };
        for token in [
            Token::Tun(0),
            Token::Tun(u8::MAX),
            Token::Listener,
            Token::Gateway,
            Token::StatsListener,
            Token::StatsClient(77),
            Token::MetricsListener,
            Token::MetricsClient(78),
            Token::Pairs,
            Token::Master,
            Token::Addresses,
            Token::GrantUpdates,
            Token::Questions,
            Token::RoutesListener,
            Token::RoutesConnection,
            Token::TrunkControl,
            Token::Trunk(TrunkId(7)),
            Token::Peer(peer),
            Token::Device(peer),
            Token::Peer(PeerId { index: 0, generation: 1 }),
        ] {
            assert_eq!(Token::decode(token.encode()), Some(token));
        }
        assert_eq!(Token::decode(u64::MAX), None);
    }
}
