//! Clients that capture: who may begin, what they are told, and the end.

use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::captures::{Captured, numbers};
use super::client::{Client, Watch, Watched};
use super::flows::policy_rule;
use super::question::Question;
use super::requests::Requests;
use tuntap_api::control::{CapturedPacket, CapturedPeer, Code, Direction, Event, Failure, MAX_SNAP_LEN, SNAP_LEN};
use tuntap_config::LiveRule;
use tuntap_core::policy::pattern::RuleId;
use tuntap_core::policy::verdict::RuleRef;
use tuntap_core::router::capture::{
    CaptureFate, CaptureFilter, CaptureVerdict, CapturedPeer as Peer, MAX_CAPTURES, PassedTo, Selection,
};
use tuntap_live::Caller;
use tuntap_sys::log::Event as LogEvent;

/// Packets that are told in one turn of the thread. The rest follows in the next one, after other requests.
const PACKETS_PER_TURN: usize = 512;

/// Reads the selector of a capture.
pub fn selection(text: &str) -> Result<Selection, Failure> {
    LiveRule::selection(text).map_err(|problem| Failure::invalid(problem.to_string()))
}

impl Requests {
    /// Begins a capture.
    pub(super) fn capture(
        &mut self,
        caller: Caller,
        filter: CaptureFilter,
        snap_len: Option<u32>,
    ) -> Result<Watched, Failure> {
        let snap_len = snap_len.unwrap_or(SNAP_LEN);
        if !(1..=MAX_SNAP_LEN).contains(&snap_len) {
            return Err(Failure::invalid(format!("snap_len is {snap_len}, expected 1 to {MAX_SNAP_LEN}")));
        }
        let number = (0..MAX_CAPTURES).find(|number| self.captures & 1 << number == 0);
        let number = number.ok_or_else(|| Failure::new(Code::Busy, format!("{MAX_CAPTURES} captures run already")))?;
        // What is left of the capture that had the number before is nobody's.
        while self.asker.captures.next().is_some() {}
        let snap_len = snap_len as usize;
        self.asker.ask(|reply| Question::Capture(number, Some((filter, snap_len)), reply))?;
        self.captures |= 1 << number;
        self.wait_for_kernel();
        self.line(LogEvent::Capture, format_args!("uid {} (pid {}) captures packets", caller.uid, caller.pid));
        Ok(Watched::Capture(number, snap_len))
    }

    /// Ends the captures of clients that have gone, or do something else now.
    pub(super) fn end_captures(&mut self, clients: &[Client]) -> Result<(), Failure> {
        let captured = clients.iter().filter_map(|client| client.watch.as_ref().and_then(Watch::capture));
        let wanted = captured.fold(0, |bits, number| bits | 1 << number);
        for number in numbers(self.captures & !wanted) {
            self.asker.ask(|reply| Question::Capture(number, None, reply))?;
            self.captures &= !(1 << number);
            self.line(LogEvent::Capture, "a capture of packets has ended");
        }
        Ok(())
    }

    /// Passes on what was captured, and, if it is time for that, how many packets each client has missed.
    pub(super) fn tell_captures(&self, clients: &mut [Client], tells_left_out: bool, now: Instant) {
        if self.captures == 0 {
            return;
        }
        let mut capturing: Vec<_> =
            clients.iter_mut().filter(|client| client.watch.as_ref().and_then(Watch::capture).is_some()).collect();
        for _ in 0..PACKETS_PER_TURN {
            let Some(packet) = self.asker.captures.next() else { break };
            capturing.iter_mut().for_each(|client| self.tell_captured(client, &packet, now));
        }
        if tells_left_out {
            capturing.iter_mut().for_each(|client| self.tell_left_out(client));
        }
        if self.asker.captures.has_more() {
            self.asker.ring();
        }
    }

    fn tell_captured(&self, client: &mut Client, packet: &Captured, now: Instant) {
        let Some(Watched::Capture(number, snap_len)) = client.watch.as_ref().map(|watch| &watch.what) else { return };
        if packet.record.wanted & 1 << number == 0 {
            return;
        }
        let event = Event::Packet(described(packet, *snap_len));
        // The packets that were left out before this one come first.
        self.tell_left_out(client);
        if !client.tell(&event) {
            client.send(now);
            if !client.tell(&event) {
                client.watch.iter_mut().for_each(|watch| watch.left_out += 1);
            }
        }
    }

    fn tell_left_out(&self, client: &mut Client) {
        let Some(watch) = &mut client.watch else { return };
        let on_the_way = watch.capture().map_or(0, |number| self.asker.captures.take_left_out(number));
        watch.left_out += on_the_way;
        let count = watch.left_out;
        if count > 0 && client.tell(&Event::LeftOut { count }) {
            client.watch.iter_mut().for_each(|watch| watch.left_out = 0);
        }
    }
}

/// A packet as a client is told of it, with so many bytes.
fn described(packet: &Captured, snap_len: usize) -> CapturedPacket {
    let record = &packet.record;
    let (to, reason) = match record.fate {
        CaptureFate::Passed(to) => (Some(place(to)), None),
        CaptureFate::Dropped(reason) | CaptureFate::Rejected(reason) => (None, Some(reason.name().to_owned())),
    };
    let ports = record.facts.and_then(|facts| facts.ports);
    CapturedPacket {
        time: packet.time.0,
        nanos: packet.time.1,
        direction: match record.direction {
            tuntap_wire::rule::Direction::In => Direction::In,
            tuntap_wire::rule::Direction::Out => Direction::Out,
        },
        peer: record.peer.map(|Peer { id, pid, uid, address }| CapturedPeer {
            connection: u64::from(id.generation) << 32 | u64::from(id.index),
            pid,
            uid,
            address,
        }),
        verdict: match record.fate.verdict() {
            CaptureVerdict::Allow => "allow",
            CaptureVerdict::Deny => "deny",
            CaptureVerdict::Reject => "reject",
        }
        .to_owned(),
        to,
        reason,
        rule: record.rule.and_then(policy_rule),
        peer_rule: record.rule.and_then(|rule| match rule {
            RuleRef::Peer(_, RuleId(id)) => Some(id),
            _ => None,
        }),
        src: record.facts.map(|facts| facts.src),
        src_port: ports.map(|(src, _)| src),
        dst: record.facts.map(|facts| facts.dst),
        dst_port: ports.map(|(_, dst)| dst),
        protocol: record.facts.map(|facts| facts.protocol),
        segments: u32::try_from(record.segments).unwrap_or(u32::MAX),
        len: u32::try_from(packet.len).unwrap_or(u32::MAX),
        data: STANDARD.encode(&record.bytes[..record.bytes.len().min(snap_len)]),
    }
}

fn place(to: PassedTo) -> String {
    match to {
        PassedTo::Tun => "tun".to_owned(),
        PassedTo::Peer => "peer".to_owned(),
        PassedTo::Gateway(target) => format!("gateway {target}"),
        PassedTo::Trunk(router) => format!("trunk {router}"),
    }
}
