//! Resets of TCP connections (RFC 9293, section 3.10.7.1).

use super::header::Ends;
use crate::ip::{Fragment, Packet, protocol};
use crate::vnet::TCP_CHECKSUM_OFFSET;

/// Bytes of a TCP header without options (RFC 9293, section 3.1).
const HEADER_LEN: usize = 20;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// The reset that the destination of a segment would send if no socket were open there. It has the destination's
/// address.
#[derive(Debug, Clone, Copy)]
pub struct Reset {
    ends: Ends,
    /// Source and destination port of the segment.
    ports: [u8; 4],
    sequence: [u8; 4],
    acknowledged: [u8; 4],
    flags: u8,
}

impl Reset {
    /// `None` if the packet is no TCP segment or is a reset, or if one of its addresses is not unicast.
    pub fn of(packet: &Packet<'_>) -> Option<Self> {
        if packet.protocol() != protocol::TCP || packet.fragment() == Fragment::Later {
            return None;
        }
        let ends = Ends::new(packet.dst(), packet.src())?;
        let segment = packet.bytes().get(packet.header_len()..packet.total_len())?;
        let header = segment.first_chunk::<HEADER_LEN>()?;
        let [s0, s1, d0, d1, q0, q1, q2, q3, a0, a1, a2, a3, offset, flags, ..] = *header;
        let payload_len = segment.len().checked_sub(usize::from(offset >> 4) * 4)?;
        if flags & RST != 0 || usize::from(offset >> 4) * 4 < HEADER_LEN {
            return None;
        }
        let (sequence, acknowledged, flags) = if flags & ACK != 0 {
            ([a0, a1, a2, a3], [0; 4], RST)
        } else {
            // SYN and FIN each take one sequence number. A packet has less than 2^17 bytes.
            let len = u32::try_from(payload_len).ok()? + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
            ([0; 4], u32::from_be_bytes([q0, q1, q2, q3]).wrapping_add(len).to_be_bytes(), RST | ACK)
        };
        Some(Self { ends, ports: [s0, s1, d0, d1], sequence, acknowledged, flags })
    }

    pub(super) fn packet(&self) -> Option<Vec<u8>> {
        let [s0, s1, d0, d1] = self.ports;
        let mut segment = vec![d0, d1, s0, s1];
        segment.extend(self.sequence);
        segment.extend(self.acknowledged);
        // A header of five words and the flags; window, checksum and urgent pointer are 0.
        segment.extend([0x50, self.flags, 0, 0, 0, 0, 0, 0]);
        self.ends.packet(protocol::TCP, &segment, TCP_CHECKSUM_OFFSET)
    }
}
