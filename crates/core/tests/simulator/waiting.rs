//! Packets that wait for a peer, other than in frames: they came in one call, and leave in a later one.

use std::collections::HashMap;

use super::audit::Change;
use super::packets::Expected;
use super::peer::Number;
use super::world::Output;

/// By peer, packets that may wait: they weren't delivered when they came, and others wait for the same peer.
#[derive(Debug, Default)]
pub struct Waiting(HashMap<Number, Vec<Expected>>);

impl Waiting {
    /// Takes what has waited out of what came out. Returns the number of packets. The pieces of one come one after the other.
    /// `is_reply` says of what the router itself has sent if it may have waited.
    pub fn release(&mut self, outputs: &mut Vec<&Output>, is_reply: impl Fn(Number, &Output) -> bool) -> u64 {
        let mut released = 0;
        let mut at = 0;
        while let Some(first) = outputs.get(at) {
            let count = first.to.peer().and_then(|number| self.0.get_mut(&number)).and_then(|packets| {
                let count = |packet: &Expected| matching(packet, &outputs[at..]);
                let found = packets.iter().position(|packet| count(packet) > 0)?;
                Some(count(&packets.remove(found)))
            });
            let count = count.or_else(|| first.to.peer().is_some_and(|number| is_reply(number, first)).then_some(1));
            match count {
                Some(count) => {
                    outputs.drain(at..at + count);
                    released += 1;
                }
                None => at += 1,
            }
        }
        released
    }

    /// Takes note of packets that were not delivered.
    pub fn keep<'a>(&mut self, missing: impl Iterator<Item = &'a Expected>, change: &Change<'_>) {
        for packet in missing {
            let holder = packet.ends.and_then(|(_, dst)| change.holder(dst));
            if let Some(number) = holder.filter(|number| change.kept_of(*number).1 > 0) {
                self.0.entry(number).or_default().push(packet.clone());
            }
        }
        self.0.retain(|number, _| change.kept_of(*number).1 > 0);
    }
}

/// How many outputs are all of a packet: one for a whole one, or each piece; 0 if they aren't.
fn matching(packet: &Expected, outputs: &[&Output]) -> usize {
    let to = outputs.first().map(|output| output.to);
    if outputs.first().is_some_and(|output| output.is_whole) {
        return usize::from(outputs.first().is_some_and(|output| is_same(&packet.bytes, &output.bytes)));
    }
    let count = packet.pieces.len();
    let are_same = outputs.len() >= count
        && packet
            .pieces
            .iter()
            .zip(outputs)
            .all(|(piece, output)| Some(output.to) == to && is_same(piece, &output.bytes));
    if are_same { count } else { 0 }
}

/// Whether these are the same packet, but for a mark of congestion on its way (ECN, RFC 3168).
fn is_same(sent: &[u8], came: &[u8]) -> bool {
    let mask = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        match bytes.first().map(|byte| byte >> 4) {
            Some(4) => (bytes[1], bytes[10], bytes[11]) = (bytes[1] & !3, 0, 0),
            Some(6) => bytes[1] &= !0x30,
            _ => {}
        }
        bytes
    };
    sent.len() == came.len() && mask(sent) == mask(came)
}
