//! Which flows the kernel may pass on alone: those whose verdict is a plain pass, whatever their next packets are.

use super::flows::{Entry, Fate, Phase, Way};
use super::forward::Forwarder;
use super::verdict::PacketSource;
use crate::kernel_path::{KernelKey, WhyNot};
use tuntap_wire::ip::protocol;
use tuntap_wire::rule::Direction;
use tuntap_wire::selector::ConnectionState;

/// The router passes on so many packets in a direction of a flow before the kernel gets a verdict, which costs as much as a few
/// packets do. A short connection has fewer.
const FIRST_PACKETS: u64 = 8;

impl Forwarder {
    /// Returns how the kernel recognises the packets in one direction of a flow if it may pass them on; else why it may not.
    pub(crate) fn kernel_key(&self, at: u32, direction: Direction) -> Result<KernelKey, WhyNot> {
        let entry = self.flows.known(at).ok_or(WhyNot::Undecided)?;
        self.is_plain_pass(entry, direction)?;
        let key = entry.key.kernel_key(direction).ok_or(WhyNot::Protocol)?;
        if key.protocol == protocol::TCP && entry.phase() != Phase::Established {
            return Err(WhyNot::NotOpen);
        }
        let packets = match direction {
            Direction::Out => entry.out.packets,
            Direction::In => entry.inn.packets,
        };
        if packets < FIRST_PACKETS { Err(WhyNot::Young) } else { Ok(key) }
    }

    fn is_plain_pass(&self, entry: &Entry, direction: Direction) -> Result<(), WhyNot> {
        let (fate, epoch) = match direction {
            Direction::Out => (entry.out.fate, entry.out.epoch),
            Direction::In => (entry.inn.fate, entry.inn.epoch),
        };
        if fate == Fate::Undecided || epoch != self.epoch || !self.peers.has(entry.peer) {
            return Err(WhyNot::Undecided);
        }
        if fate != Fate::Pass {
            return Err(WhyNot::Verdict);
        }
        match (direction, entry.out.way, entry.inn.way) {
            (Direction::Out, Way::Tun | Way::Peer(_), _) | (Direction::In, _, PacketSource::Tun) => {}
            (Direction::Out, Way::Gateway(_), _) | (Direction::In, _, PacketSource::Gateway) => {
                return Err(WhyNot::Gateway);
            }
            (Direction::Out, Way::Trunk(_), _) | (Direction::In, _, PacketSource::Trunk) => return Err(WhyNot::Trunk),
        }
        if entry.is_logged[direction.index()] {
            return Err(WhyNot::Logged);
        }
        if !entry.is_lasting(direction) {
            return Err(WhyNot::AskedAgain);
        }
        // A verdict that looks at the state becomes another one with the first answer.
        let is_answered = |entry: &Entry, direction| entry.state(direction) == ConnectionState::Established;
        let looks_at_state = match direction {
            Direction::Out => entry.out.looks_at_state,
            Direction::In => entry.inn.looks_at_state,
        };
        let twin_state = entry.out.twin_state.filter(|_| direction == Direction::Out);
        let is_final = is_answered(entry, direction) && twin_state.is_none_or(|it| it == ConnectionState::Established);
        if looks_at_state && !is_final { Err(WhyNot::NotOpen) } else { Ok(()) }
    }
}
