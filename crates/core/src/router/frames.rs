//! The stream of a peer: bytes come in pieces of any length, and are handled as frames in order.

use std::time::Instant;

use tuntap_wire::frame::{Frame, FrameKind, Frames, MAX_FRAME_LEN};
use tuntap_wire::greeting::frames_start;
use tuntap_wire::gso::GsoPacket;
use tuntap_wire::rule::{self, Direction, PeerRule};

use super::Router;
use super::inbound::PACKET_BUDGET;
use super::notice::Notice;
use super::session::{CloseReason, Stage};
use super::shell::Shell;
use crate::policy::drops::DropReason;
use crate::policy::registry::PeerId;
use crate::policy::verdict::RulesVerdict;

/// The maximum number of bytes read from one peer in one turn.
pub const READ_LEN: usize = 64 * 1024;

/// The length of the buffer for [`Router::begin_read`] in bytes.
pub const BUFFER_LEN: usize = MAX_FRAME_LEN + READ_LEN;

/// The minimum of a peer's turn in bytes.
const MIN_TURN_LEN: usize = 1024;

/// Returns the length of a peer's next turn in bytes, after a turn with so many bytes and frames. It has room for about as
/// many frames as packets are read from an attached peer's device in a turn. With a fixed length, a peer that sends small
/// frames would have thousands of them handled in one turn.
fn turn_len(bytes: usize, frames: usize) -> usize {
    bytes.checked_div(frames).map_or(READ_LEN, |average| (average * PACKET_BUDGET).clamp(MIN_TURN_LEN, READ_LEN))
}

/// How a peer's connection is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// Read a message with credentials, for [`Router::received_credentials`].
    Credentials,
    /// Read bytes behind those that are already in the buffer, for [`Router::received`].
    Bytes {
        /// The number of bytes at the start of the buffer that were read before.
        start: usize,
        /// The maximum number of bytes to read.
        len: usize,
        /// True if a descriptor may come with them.
        with_descriptor: bool,
    },
}

impl Router {
    /// Begins to read a peer's connection. Returns how to read it, and copies what is left of the last read to the start of
    /// the buffer, which has [`BUFFER_LEN`] bytes. Returns `None` if the peer is closed.
    pub fn begin_read(&self, id: PeerId, buffer: &mut [u8]) -> Option<Read> {
        let session = &self.forwarder.peers.get(id)?.session;
        let start = session.partial.len();
        buffer[..start].copy_from_slice(&session.partial);
        Some(match session.stage {
            Stage::Credentials => Read::Credentials,
            Stage::Start | Stage::FirstFrame => Read::Bytes { start, len: session.turn_len, with_descriptor: true },
            Stage::Frames => Read::Bytes { start, len: session.turn_len, with_descriptor: false },
        })
    }

    /// Handles the bytes that a peer has sent: the last `count` ones of `bytes`, which begin with what was left of the last
    /// read.
    pub fn received(&mut self, shell: &mut impl Shell, id: PeerId, bytes: &[u8], count: usize, now: Instant) {
        self.advance(now);
        if let Err(reason) = self.take_bytes(shell, id, bytes, count) {
            self.close(shell, id, reason);
        }
        self.follow_changes(shell);
    }

    fn take_bytes(
        &mut self,
        shell: &mut impl Shell,
        id: PeerId,
        bytes: &[u8],
        count: usize,
    ) -> Result<(), CloseReason> {
        let Some(peer) = self.forwarder.peers.get_mut(id) else { return Ok(()) };
        let session = &mut peer.session;
        session.traffic.rx_bytes += count as u64;
        let start = match session.stage {
            Stage::Start => frames_start(bytes)?,
            Stage::Credentials | Stage::FirstFrame | Stage::Frames => Some(0),
        };
        let mut frames = Frames::new(match start {
            Some(start) => {
                if session.stage == Stage::Start {
                    session.stage = Stage::FirstFrame;
                }
                &bytes[start..]
            }
            None => &[],
        });
        let mut handled = 0;
        for frame in frames.by_ref() {
            handled += 1;
            self.take_frame(shell, id, frame?)?;
        }
        if let Some(peer) = self.forwarder.peers.get_mut(id) {
            peer.session.turn_len = turn_len(count, handled);
            peer.session.partial = if start.is_some() { frames.rest() } else { bytes }.to_vec();
        }
        Ok(())
    }

    fn take_frame(&mut self, shell: &mut impl Shell, id: PeerId, frame: Frame<'_>) -> Result<(), CloseReason> {
        let Some(peer) = self.forwarder.peers.get_mut(id) else { return Ok(()) };
        let is_first = peer.session.stage != Stage::Frames;
        let may_come_before_hello = matches!(
            frame.kind,
            FrameKind::Rules | FrameKind::ExtendedRules | FrameKind::ConfigurationRequest | FrameKind::ClaimRequest
        );
        if is_first && !may_come_before_hello {
            peer.session.stage = Stage::Frames;
            shell.refuse_descriptors(id);
            // Only a hello uses a descriptor that came with the first bytes. A restored peer that sends something else goes on in
            // frames, and no later router could tell where its next frame begins.
            if frame.kind != FrameKind::Hello {
                shell.discard_offer(id);
                self.unstore(shell, id);
            }
        }
        match frame.kind {
            FrameKind::Packet => {
                let packet = GsoPacket::finished(frame.payload).map_err(DropReason::from);
                if let Err(reason) = packet {
                    self.capture_unreadable(shell, Direction::Out, Some(id), frame.payload, reason);
                }
                self.forward_outbound(shell, id, packet);
            }
            FrameKind::Rules | FrameKind::ExtendedRules => self.take_rules(shell, id, &frame)?,
            FrameKind::ConfigurationRequest if is_first => self.answer_request(shell, id, frame.payload),
            FrameKind::ClaimRequest if is_first => self.answer_claim(shell, id, frame.payload),
            FrameKind::Hello if is_first => self.hello(shell, id, frame.payload),
            FrameKind::Hello
            | FrameKind::HelloReply
            | FrameKind::ConfigurationRequest
            | FrameKind::ClaimRequest
            | FrameKind::Configuration
            | FrameKind::Other(_) => self.count_drop(Some(id), DropReason::UnknownFrame),
        }
        Ok(())
    }

    fn take_rules(&mut self, shell: &mut impl Shell, id: PeerId, frame: &Frame<'_>) -> Result<(), CloseReason> {
        let decode = if frame.kind == FrameKind::Rules { rule::decode_all } else { rule::decode_all_extended };
        let rules = decode(frame.payload).ok_or(CloseReason::Rules(frame.payload.len()))?;
        let limit = self.settings.limits.device_rules;
        if rules.len() > limit {
            self.counters.limits_reached.max_device_rules += 1;
            return Err(CloseReason::TooManyRules { count: rules.len(), limit });
        }
        self.set_rules(shell, id, rules);
        Ok(())
    }

    fn set_rules(&mut self, shell: &mut impl Shell, id: PeerId, rules: Vec<PeerRule>) {
        let are_first = self.forwarder.rules(id).len() == 0;
        let verdict = self.forwarder.set_rules(id, rules);
        if are_first && matches!(verdict, Some(RulesVerdict::Applied { .. })) {
            // Later rules are stored with the peer's first packet, which fixes them, so that no peer can write to the store
            // at will.
            self.store(shell, id);
        }
        match verdict {
            Some(RulesVerdict::Applied { refused_target: Some(target) }) => {
                // A peer may send rules any number of times before its first packet. The log's limit bounds the lines.
                self.note_peer_fault(shell, id, |who| Notice::RefusedTarget { who, target });
            }
            Some(RulesVerdict::Frozen) => {
                self.note_late_rules(shell, id);
                self.count_drop(Some(id), DropReason::RulesFrozen);
            }
            // A vassal that reloads sends its rules again.
            Some(RulesVerdict::Unchanged | RulesVerdict::Applied { refused_target: None }) | None => {}
        }
    }

    /// Logs that a peer's rules came too late, once for each peer.
    fn note_late_rules(&mut self, shell: &mut impl Shell, id: PeerId) {
        let Some(peer) = self.forwarder.peers.get_mut(id) else { return };
        if !std::mem::replace(&mut peer.session.late_rules_logged, true) {
            self.note_peer_fault(shell, id, Notice::LateRules);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_of_as_many_frames_as_others_have_packets() {
        assert_eq!(turn_len(READ_LEN, 2000), 32 * PACKET_BUDGET, "small ones");
        assert_eq!(turn_len(32 * PACKET_BUDGET, PACKET_BUDGET), 32 * PACKET_BUDGET, "it stays so");
        assert_eq!(turn_len(READ_LEN, 43), READ_LEN, "long ones");
        assert_eq!((turn_len(100, 0), turn_len(0, 0)), (READ_LEN, READ_LEN), "the beginning of one");
        assert_eq!(turn_len(5000, 1000), MIN_TURN_LEN, "next to none");
    }
}
