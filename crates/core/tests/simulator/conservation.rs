//! Every packet is delivered once or counted once, to and from whom it may be.

use std::net::IpAddr;

use tuntap_core::policy::drops::DropReason;
use tuntap_core::policy::registry::PeerId;
use tuntap_wire::frame::HEADER_LEN;
use tuntap_wire::ip::Packet;

use super::audit::{Call, Change, Check, From, ensure};
use super::kernel::Told;
use super::oracle::{self, Fate};
use super::packets::Expected;
use super::peer::{Number, Sent};
use super::setup::{Class, Setup, class, is_listed};
use super::waiting::Waiting;
use super::world::{Output, To, World};

/// What became of the packets of a call.
struct Account<'a> {
    /// For each packet that went in, what came out of it.
    of_inputs: Vec<Vec<&'a Output>>,
    /// What the router has said to senders.
    replies: Vec<&'a Output>,
}

impl<'a> Account<'a> {
    fn of(world: &'a World, call: &Call) -> Self {
        let outputs = &world.effects.outputs;
        let mut is_used = vec![false; outputs.len()];
        let mut of_inputs = Vec::new();
        for input in &call.inputs {
            let mut mine = Vec::new();
            let mut next = 0;
            for (output, is_used) in outputs.iter().zip(&mut is_used).filter(|(_, is_used)| !**is_used) {
                let piece = input.pieces[next.min(input.pieces.len())..].iter().position(|it| *it == output.bytes);
                let is_mine = match (output.is_whole, piece) {
                    (true, _) => mine.is_empty() && output.bytes == input.bytes && !input.pieces.is_empty(),
                    (false, Some(at)) => {
                        next += at + 1;
                        true
                    }
                    (false, None) => false,
                };
                if is_mine {
                    *is_used = true;
                    mine.push(output);
                }
            }
            of_inputs.push(mine);
        }
        let replies = outputs.iter().zip(is_used).filter(|(_, is_used)| !is_used).map(|(output, _)| output).collect();
        Self { of_inputs, replies }
    }

    /// The packets of which something was not delivered.
    fn missing<'b>(&'b self, call: &'b Call) -> impl Iterator<Item = &'b Expected> {
        call.inputs
            .iter()
            .zip(&self.of_inputs)
            .filter(|(input, mine)| !is_delivered(input, mine))
            .map(|(input, _)| input)
    }
}

fn is_delivered(input: &Expected, mine: &[&Output]) -> bool {
    let count = if mine.first().is_some_and(|output| output.is_whole) { 1 } else { input.pieces.len() };
    !mine.is_empty() && mine.len() == count && mine.iter().all(|output| output.is_taken)
}

/// Looks at all packets of a call, and at the counters.
pub fn check(setup: &Setup, world: &World, call: &Call, change: &Change<'_>, waiting: &mut Waiting) -> Check {
    let mut account = Account::of(world, call);
    let released = waiting.release(&mut account.replies, |number, output| {
        // A reply that had to wait.
        change.kept_of(number).0 > 0 && (is_too_big(&output.bytes) || is_rejection(&output.bytes))
    });
    for (input, mine) in call.inputs.iter().zip(&account.of_inputs) {
        check_ends(call, change, input, mine)?;
    }
    for reply in &account.replies {
        check_reply(setup, call, change, &account, reply)?;
    }
    check_drops(world, call, change, &account, released)?;
    check_blame(world, call, change)?;
    check_totals(world, call, change)?;
    check_traffic(world, call, change, &account)?;
    waiting.keep(account.missing(call), change);
    Ok(())
}

/// Whether a peer may have got an address in the same call in which it was closed.
fn is_lost_claim(call: &Call, change: &Change<'_>, number: Number, address: IpAddr) -> bool {
    let is_source = || call.inputs.iter().any(|it| it.ends.is_some_and(|(src, _)| src == address));
    call.peer() == Some(number) && !change.after.contains_key(&number) && is_source()
}

/// A packet goes one way, to whom it is for, and comes from whom it says.
fn check_ends(call: &Call, change: &Change<'_>, input: &Expected, mine: &[&Output]) -> Check {
    let (Some(first), Some((src, dst))) = (mine.first(), input.ends) else {
        return if mine.is_empty() { Ok(()) } else { Err("something came out of no packet".to_owned()) };
    };
    ensure!(mine.iter().all(|output| output.to == first.to), "a packet {src} > {dst} went two ways");
    if let Some(receiver) = first.to.peer() {
        let may_get = change.holds(receiver, dst) || is_lost_claim(call, change, receiver, dst);
        ensure!(may_get, "{receiver} got a packet for {dst}");
    }
    // A peer that was closed in the same call may have got the address in it.
    if let Some(sender) = call.peer().filter(|sender| change.after.contains_key(sender)) {
        ensure!(change.holds(sender, src), "{sender} sent a packet from {src}, which it does not hold");
    }
    Ok(())
}

/// A reply is about a packet that was dropped, and goes to its sender.
fn check_reply(setup: &Setup, call: &Call, change: &Change<'_>, account: &Account<'_>, reply: &Output) -> Check {
    let about = Expected::of(&reply.bytes);
    let Some((src, dst)) = about.ends else { return Err(format!("junk went to {:?}", reply.to)) };
    let says = is_too_big(&reply.bytes) || is_rejection(&reply.bytes);
    let reason = account.missing(call).find(|input| input.ends.is_some_and(|(sender, _)| sender == dst));
    if call.from == From::Nowhere && reply.to == To::Tun && is_too_big(&reply.bytes) && change.kept().0 > 0 {
        // About a packet that waited for a device, and then had to travel in frames.
        return Ok(());
    }
    ensure!(says && reason.is_some(), "{src} > {dst} went to {:?}, and nobody sent it", reply.to);
    let is_right = match (call.from, reply.to.peer()) {
        (From::Peer(sender), Some(receiver)) => sender == receiver,
        (From::Tun, Some(receiver)) => change.holds(receiver, dst),
        // Without networks or grants, who holds an address need not be who has sent from it.
        (From::Tun, None) => reply.to == To::Tun && (change.holder(dst).is_none() || !is_for_peers(setup, dst)),
        (From::Gateway(source), None) => reply.to == To::Gateway(source),
        _ => false,
    };
    ensure!(is_right, "a reply {src} > {dst} to a packet of {:?} went to {:?}", call.from, reply.to);
    Ok(())
}

/// Whether the operator's word says whose packets come from an address.
fn is_for_peers(setup: &Setup, address: IpAddr) -> bool {
    setup.is_strict && class(address) == Class::Vassals
}

fn is_too_big(bytes: &[u8]) -> bool {
    match bytes[0] >> 4 {
        4 => bytes[9] == 1 && bytes[20..22] == [3, 4],
        _ => bytes[6] == 58 && bytes[40] == 2,
    }
}

fn is_rejection(bytes: &[u8]) -> bool {
    match bytes[0] >> 4 {
        4 => bytes[9] == 6 && bytes[33] & 4 != 0 || bytes[9] == 1 && bytes[20..22] == [3, 13],
        _ => bytes[6] == 6 && bytes[53] & 4 != 0 || bytes[6] == 58 && bytes[40..42] == [1, 1],
    }
}

/// As many drops are counted as packets are missing, and replies.
fn check_drops(world: &World, call: &Call, change: &Change<'_>, account: &Account<'_>, released: u64) -> Check {
    let missing: Vec<_> = account.missing(call).collect();
    // What was queued for one that is closed is lost with it; it may have got the address in the same call.
    let lost = missing.iter().filter(|input| {
        let is_for = |number: &Number, dst| change.holds(*number, dst) || is_lost_claim(call, change, *number, dst);
        world.effects.closed.iter().any(|number| input.ends.is_some_and(|(_, dst)| is_for(number, dst)))
    });
    let lost = lost.count() as u64;
    let rejections = account.replies.iter().filter(|reply| !is_too_big(&reply.bytes)).count() as u64;
    let counted = change.new.totals.rejections - change.old.totals.rejections;
    ensure!(counted >= rejections, "{rejections} rejections, {counted} counted");
    // For replies that were lost, or whose receiver was closed.
    let unseen = counted - rejections;
    let untaken = account.replies.iter().filter(|reply| !reply.is_taken && reply.to.peer().is_some()).count() as u64;
    let unknown = change.drops(DropReason::UnknownFrame);
    let frozen = change.drops(DropReason::RulesFrozen);
    let packets = change.all_drops() - unknown - frozen;
    // What waits is not lost yet.
    let (before, after) = change.kept();
    let gone = missing.len() as i64 + before as i64 - after as i64 - released as i64;
    let expected = gone + (unseen + untaken) as i64;
    let is_closing = !world.effects.closed.is_empty();
    let least = expected - lost as i64 - if is_closing { unseen as i64 } else { 0 };
    // Of messages about lengths nobody can see that they wait, or were lost for want of room.
    let unseen_messages = change.drops(DropReason::TooBig).min(change.drops(DropReason::QueueFull) + after);
    ensure!(packets as i64 >= least, "{gone} packets are missing, {packets} drops counted ({unseen} replies)");
    ensure!(
        packets as i64 <= expected + unseen_messages as i64,
        "{packets} drops counted, {gone} packets are missing ({unseen} replies unseen)"
    );
    let count = |is: fn(&Sent) -> bool| call.frames.iter().filter(|sent| is(sent)).count() as u64;
    let certain = count(|sent| matches!(sent, Sent::Unknown));
    let possible = certain + count(|sent| matches!(sent, Sent::Hello | Sent::Request(_)));
    ensure!((certain..=possible).contains(&unknown), "{unknown} unknown frames counted, {certain} to {possible} came");
    ensure!(frozen <= count(|sent| matches!(sent, Sent::Rules(_))), "{frozen} late rules counted");
    Ok(())
}

/// Drops are counted for peers that have to do with them.
fn check_blame(world: &World, call: &Call, change: &Change<'_>) -> Check {
    let mut sum = 0;
    for number in change.after.keys() {
        let count = change.drops_of(*number);
        sum += count;
        let is_involved = || {
            let ends = call.inputs.iter().filter_map(|input| input.ends);
            ends.into_iter().any(|(src, dst)| change.holds(*number, src) || change.holds(*number, dst))
        };
        let had_some = change.kept_of(*number).0 > 0;
        ensure!(count == 0 || had_some || call.peer() == Some(*number) || is_involved(), "{count} drops for {number}");
    }
    let all = change.all_drops();
    ensure!(sum <= all, "{sum} drops of peers, {all} in all");
    let is_peers = call.peer().is_some_and(|number| change.after.contains_key(&number));
    if is_peers && world.effects.closed.is_empty() {
        ensure!(sum == all, "{sum} drops of peers, {all} in all, for a peer's packets");
    }
    Ok(())
}

fn check_totals(world: &World, call: &Call, change: &Change<'_>) -> Check {
    let (old, new) = (&change.old.totals, &change.new.totals);
    let sum = |is: fn(&To) -> bool| {
        let taken = world.effects.outputs.iter().filter(|output| output.is_taken && is(&output.to));
        taken.fold((0, 0), |(count, bytes), output| (count + 1, bytes + output.bytes.len() as u64))
    };
    let tun = (new.tun_tx_packets - old.tun_tx_packets, new.tun_tx_bytes - old.tun_tx_bytes);
    ensure!(tun == sum(|to| *to == To::Tun), "{tun:?} packets and bytes to the device");
    let gateway = (new.gateway_tx_packets - old.gateway_tx_packets, new.gateway_tx_bytes - old.gateway_tx_bytes);
    ensure!(gateway == sum(|to| matches!(to, To::Gateway(_))), "{gateway:?} packets and bytes to gateways");
    let tun = (new.tun_rx_packets - old.tun_rx_packets, new.tun_rx_bytes - old.tun_rx_bytes);
    let from_tun = if call.from == From::Tun { (1, call.bytes) } else { (0, 0) };
    ensure!(tun == from_tun, "{tun:?} packets and bytes from the device");
    let refused = change.drops(DropReason::GatewaySource) + change.drops(DropReason::GatewayDevice);
    let gateway = (new.gateway_rx_packets - old.gateway_rx_packets, new.gateway_rx_bytes - old.gateway_rx_bytes);
    let from_gateway = match call.from {
        From::Gateway(_) if refused == 0 => (1, call.bytes),
        _ => (0, 0),
    };
    ensure!(gateway == from_gateway, "{gateway:?} packets and bytes from gateways");
    Ok(())
}

fn check_traffic(world: &World, call: &Call, change: &Change<'_>, account: &Account<'_>) -> Check {
    for number in change.after.keys() {
        let Some((old, new)) = change.traffic(*number) else { continue };
        let is_sender = call.peer() == Some(*number);
        let told = |end: fn(&Told) -> Option<PeerId>| {
            let id = world.connections.get(number).and_then(|it| it.id);
            let of_peer = world.effects.told.iter().filter(|told| end(told).is_some() && end(told) == id);
            of_peer.fold((0, 0), |(packets, bytes), it| {
                (packets + it.packets, bytes + it.bytes + it.packets * HEADER_LEN as u64)
            })
        };
        let (came, went) = (told(|told| told.from), told(|told| told.to));
        let read = came.1 + if is_sender { call.bytes } else { 0 };
        ensure!(
            new.rx_bytes - old.rx_bytes == read,
            "{number} sent {read} bytes, counted {}",
            new.rx_bytes - old.rx_bytes
        );
        let received =
            world.effects.outputs.iter().filter(|output| output.is_taken && output.to.peer() == Some(*number));
        let packets = new.tx_packets - old.tx_packets;
        ensure!(packets == went.0 + received.clone().count() as u64, "{packets} packets to {number} counted");
        let written = received.filter(|output| matches!(output.to, To::Device(_)));
        let written: u64 = written.map(|output| (HEADER_LEN + output.bytes.len()) as u64).sum();
        let sent = world.effects.sent.get(number).copied().unwrap_or_default();
        ensure!(
            new.tx_bytes - old.tx_bytes == went.1 + written + sent,
            "{number}: {} bytes counted",
            new.tx_bytes - old.tx_bytes
        );
        let passed = new.rx_packets - old.rx_packets - came.0;
        let delivered =
            call.inputs.iter().zip(&account.of_inputs).filter(|(input, mine)| is_delivered(input, mine)).count();
        let bounds = if is_sender { delivered as u64..=call.inputs.len() as u64 } else { 0..=0 };
        ensure!(bounds.contains(&passed), "{passed} packets of {number} counted, {delivered} delivered");
    }
    Ok(())
}

/// A simple packet that comes alone goes where the oracle says.
pub fn check_fate(setup: &Setup, world: &World, call: &Call, change: &Change<'_>) -> Check {
    let [input] = &call.inputs[..] else { return Ok(()) };
    let (true, Ok(packet)) = (world.effects.closed.is_empty() && call.frames.is_empty(), Packet::parse(&input.bytes))
    else {
        return Ok(());
    };
    if let Some(sender) = call.peer().filter(|_| setup.is_strict) {
        let is_about_others = packet.is_error_about_others(|receiver| change.holds(sender, receiver));
        ensure!(
            !is_about_others || world.effects.outputs.is_empty(),
            "{sender} has sent an error about others' packets"
        );
    }
    if !oracle::is_simple(&packet) || input.ends.is_none() || !is_listed(packet.src()) || !is_listed(packet.dst()) {
        return Ok(());
    }
    let rules_of = |number: Number| world.connections.get(&number).map(|it| (number, &it.rules[..]));
    let holder = change.holder(packet.dst()).and_then(rules_of);
    let fate = match call.from {
        From::Peer(sender) => {
            let held = change.before.get(&sender).is_some_and(|seen| seen.addresses.contains(&packet.src()));
            let (true, Some((_, rules))) = (held, rules_of(sender)) else { return Ok(()) };
            let is_elsewhere = world.elsewhere.keys().any(|(_, address)| *address == packet.dst());
            oracle::outward(setup, rules, &packet, holder, is_elsewhere)
        }
        From::Tun => oracle::inward(setup, &packet, true, holder),
        From::Gateway(_) => {
            let refused = change.drops(DropReason::GatewaySource) + change.drops(DropReason::GatewayDevice);
            if refused > 0 { Fate::Nowhere } else { oracle::inward(setup, &packet, false, holder) }
        }
        From::Nowhere => return Ok(()),
    };
    let account = Account::of(world, call);
    let way = account.of_inputs[0].first().map(|output| output.to);
    let no_room = change.drops(DropReason::QueueFull) + change.drops(DropReason::TooBig) > 0;
    let waits = |number: Number| change.kept_of(number).1 > 0;
    let is_right = match (fate, way) {
        (Fate::Nowhere, way) => way.is_none(),
        (Fate::Peer(number), Some(to)) => to.peer() == Some(number),
        (Fate::Gateway(target), Some(to)) => to == To::Gateway(target),
        (Fate::Tun, way) => way == Some(To::Tun),
        (Fate::Peer(number), None) => no_room || waits(number),
        (Fate::Gateway(_), None) => no_room,
    };
    let (src, dst) = (packet.src(), packet.dst());
    ensure!(is_right, "{src} > {dst} of {:?} went to {way:?} instead of {fate:?}", call.from);
    Ok(())
}
