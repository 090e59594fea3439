//! What a TUN device may leave to the reader of its packets.

/// The checksum is not computed (linux/if_tun.h, as are the other bits).
const TUN_F_CSUM: u32 = 0x01;
/// TCP over IPv4 is not segmented.
const TUN_F_TSO4: u32 = 0x02;
/// TCP over IPv6 is not segmented.
const TUN_F_TSO6: u32 = 0x04;
/// TCP with ECN bits is not segmented.
const TUN_F_TSO_ECN: u32 = 0x08;
/// UDP over IPv4 is not segmented.
const TUN_F_USO4: u32 = 0x20;
/// UDP over IPv6 is not segmented.
const TUN_F_USO6: u32 = 0x40;

/// What a device may leave undone in the packets that are read from it (`TUN_F_*` of linux/if_tun.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offloads(u32);

impl Offloads {
    /// Nothing: every packet could travel on a wire.
    pub const NONE: Self = Self(0);

    const CSUM: Self = Self(TUN_F_CSUM);

    const TCP: Self = Self(Self::CSUM.0 | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN);

    /// From most to least: with UDP (Linux 6.2), without UDP, checksums only. The kernel accepts the UDP flags of both
    /// IP versions only together; those of TCP have always come together.
    pub const CANDIDATES: [Self; 4] = [Self(Self::TCP.0 | TUN_F_USO4 | TUN_F_USO6), Self::TCP, Self::CSUM, Self::NONE];

    /// The kernel's bits.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// From the kernel's bits. Unknown bits are ignored.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits & Self::CANDIDATES[0].0)
    }

    /// Their names, for people.
    pub fn names(self) -> Vec<&'static str> {
        [
            (TUN_F_CSUM, "csum"),
            (TUN_F_TSO4, "tso4"),
            (TUN_F_TSO6, "tso6"),
            (TUN_F_TSO_ECN, "ecn"),
            (TUN_F_USO4, "uso4"),
            (TUN_F_USO6, "uso6"),
        ]
        .into_iter()
        .filter(|(bit, _)| self.0 & bit != 0)
        .map(|(_, name)| name)
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_offload_has_a_name() {
        let all = Offloads::CANDIDATES[0];
        assert_eq!(all.names(), ["csum", "tso4", "tso6", "ecn", "uso4", "uso6"]);
        assert_eq!(all.names().len(), all.bits().count_ones() as usize);
        assert_eq!(Offloads::from_bits(u32::MAX), all);
        assert_eq!(Offloads::CSUM.names(), ["csum"]);
    }

    #[test]
    fn candidates_become_fewer() {
        for pair in Offloads::CANDIDATES.windows(2) {
            assert!(pair[0].0 & pair[1].0 == pair[1].0 && pair[0] != pair[1]);
        }
    }
}
