//! A router that dies, and the one that follows it.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use tuntap_core::elsewhere::Source;
use tuntap_core::policy::drops::DropReason;
use tuntap_core::router::Router;
use tuntap_core::router::restore::StoredPeer;
use tuntap_core::router::turns::Work;

use super::actions::{DeviceState, Offer, Word};
use super::audit::{Call, Check, From, ensure};
use super::kernel::Kernel;
use super::packets::{self, Header, PacketSpec, Shape};
use super::peer::{InFrame, Number};
use super::setup::{ADDRESSES, Setup, address, target};
use super::simulation::{CLOCK, Simulation};
use super::world::{To, World};

/// What a router does with a packet: where it goes, or why it goes nowhere.
type Outcome = Result<Way, Option<&'static str>>;

/// Where a packet goes; a peer gets it in either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Tun,
    Gateway(std::net::SocketAddr),
    Peer(Number),
}

impl Simulation {
    /// The router dies; the peers that are stored go on with another one, which decides as this one did.
    pub fn die(&mut self, hung: Option<usize>) -> Check {
        let stored: Vec<_> = self.world.store.values().cloned().collect();
        // Other rules of a peer that has sent no packet yet are stored with the packet.
        let is_fixed = |(_, stored): &&(Number, StoredPeer)| {
            self.router.stored_peers().any(|(_, now)| (now.serial, &now.rules) == (stored.serial, &stored.rules))
        };
        let fixed: Vec<_> = stored.iter().filter(is_fixed).cloned().collect();
        self.compare(&fixed)?;
        let accused = hung.filter(|_| !stored.is_empty()).map(|hung| stored[hung % stored.len()].0);
        self.world.effects = Default::default();
        self.world.sleep(Duration::from_millis(280));
        self.router = revive(&self.setup, self.later, &mut self.world, &stored, accused);
        for peer in self.router.peers() {
            if let Some(number) = self.world.by_id.get(&peer.id()).copied() {
                self.world.absorb(number, peer.waiting());
            }
        }
        self.audit.restart(&self.router, &self.world);
        self.check_restored(&stored, &fixed)?;
        let mut call = Call::new(From::Nowhere);
        call.restores = true;
        self.call(&call, |_, _| ())?;
        self.turn()?;
        self.say_hello_again(&stored)
    }

    /// All stored peers are there, hold what they held, and are asked for their devices.
    fn check_restored(&self, stored: &[(Number, StoredPeer)], fixed: &[(Number, StoredPeer)]) -> Check {
        for (number, stored) in stored {
            let connection = self.world.connections.get(number);
            let Some((connection, id)) = connection.and_then(|it| Some((it, it.id?))) else {
                ensure!(self.world.effects.closed.contains(number), "{number} was not restored");
                continue;
            };
            let addresses: Vec<_> = self.router.forwarder().addresses(id).collect();
            ensure!(addresses == stored.addresses, "{number} held {:?}, and now {addresses:?}", stored.addresses);
            let rules: Vec<_> = self.router.forwarder().rules(id).copied().collect();
            let was_fixed = fixed.iter().any(|(other, _)| other == number);
            ensure!(!was_fixed || rules == connection.rules, "{number} had {:?}, and now {rules:?}", connection.rules);
            ensure!(self.world.effects.controls.contains(&(*number, 0x75)), "{number} is not asked for its device");
        }
        Ok(())
    }

    /// Every second peer passes its device again, at once.
    fn say_hello_again(&mut self, stored: &[(Number, StoredPeer)]) -> Check {
        for (number, _) in stored {
            if let Some(connection) = self.world.connections.get_mut(number)
                && let Some(id) = connection.id
            {
                connection.rules = self.router.forwarder().rules(id).copied().collect();
            }
            if number % 2 == 0 {
                self.send(*number, &[Word::Hello(Offer::Good)], usize::MAX, 0)?;
            }
        }
        self.turn()
    }

    /// Asks this router, and one that is made from the store, about packets from and to the stored peers.
    fn compare(&mut self, stored: &[(Number, StoredPeer)]) -> Check {
        let mut old = self.world.clone();
        let kept: HashSet<_> = stored.iter().map(|(number, _)| *number).collect();
        relax(&mut old);
        let mut new = old.clone();
        let now = old.now;
        let leaving: Vec<_> = self.open().filter(|number| !kept.contains(number)).collect();
        for number in leaving {
            if let Some(id) = old.connections.get(&number).and_then(|it| it.id) {
                self.router.connection_ended(&mut old, id, None, now);
            }
        }
        for number in &kept {
            if let Some(connection) = old.connections.get(number).filter(|it| it.watches_writable)
                && let Some(id) = connection.id
            {
                self.router.writable(&mut old, id, now);
            }
        }
        // What waits for the old one's peers goes on first.
        while let Some(turn) = self.router.next_turn() {
            let Work::Backlog(peer) = turn.work else { return Err(format!("a turn that nobody asked for: {turn:?}")) };
            let has_more = self.router.write_backlog(&mut old, peer);
            self.router.end_turn(turn, Duration::from_micros(50), has_more);
        }
        let mut next = revive(&self.setup, self.later, &mut new, stored, None);
        relax(&mut new);
        old.now += Duration::from_secs(7200);
        new.now += Duration::from_secs(7200);
        let probes = probes(stored);
        for (from, bytes) in &probes {
            self.packets += 1;
            let before = ask(&mut self.router, &mut old, *from, bytes)?;
            let after = ask(&mut next, &mut new, *from, bytes)?;
            ensure!(
                before == after,
                "{:?}: {before:?} before, and {after:?} after a restart",
                super::packets::Expected::of(bytes).ends
            );
        }
        Ok(())
    }
}

/// Nothing is in the way of any packet.
fn relax(world: &mut World) {
    (world.tun, world.fault) = (DeviceState::Good, None);
    for connection in world.connections.values_mut() {
        (connection.room, connection.in_socket) = (usize::MAX, 0);
        connection.has_hung_up = false;
        if let Some(device) = &mut connection.device {
            (device.state, device.cost) = (DeviceState::Good, 0);
        }
    }
}

/// Packets from each address that is held to all addresses, and from outside to all.
fn probes(stored: &[(Number, StoredPeer)]) -> Vec<(From, Vec<u8>)> {
    let all = || ADDRESSES.iter().map(|(text, _)| address(text));
    let spec = |shape| PacketSpec { shape, ..PacketSpec::plain(packets::Source::Usual, 0) };
    let mut probes = Vec::new();
    let mut add = |from, src: IpAddr, dst: IpAddr, shape| {
        if src.is_ipv4() == dst.is_ipv4() {
            probes.push((from, spec(shape).between(src, dst, probes.len() as u64)));
        }
    };
    // Hundreds of peers have much the same to say.
    for (number, stored) in stored.iter().take(12) {
        for src in &stored.addresses {
            all().for_each(|dst| add(From::Peer(*number), *src, dst, Shape::Udp(999)));
        }
    }
    let held = stored.iter().take(40).flat_map(|(_, stored)| stored.addresses.iter().copied());
    for dst in held {
        all().for_each(|src| add(From::Tun, src, dst, Shape::Tcp));
    }
    for dst in all() {
        for src in ["198.51.100.7", "2001:db8::7"].map(address) {
            add(From::Tun, src, dst, Shape::Udp(9));
            add(From::Gateway(target("192.0.2.1:999")), src, dst, Shape::Udp(9));
        }
    }
    probes
}

/// What a router does with a packet.
fn ask(router: &mut Router, world: &mut World, from: From, bytes: &[u8]) -> Result<Outcome, String> {
    world.effects = Default::default();
    let before = router.counters().drops.clone();
    let now = world.now;
    let with_header = Header::Plain.before(bytes);
    match from {
        From::Peer(number) => {
            let id = world.connections.get(&number).and_then(|it| it.id);
            let Some(id) = id else { return Err(format!("{number} is not there")) };
            router.device_packet(world, id, &with_header, None);
        }
        From::Tun => {
            router.begin_tun_turn(0);
            router.tun_packet(world, &with_header, now, now);
        }
        From::Gateway(source) => _ = router.datagrams(world, bytes, None, source, None, now),
        From::Nowhere => {}
    }
    router.poll(world, now);
    if let Some(first) = world.violations.first() {
        return Err(first.clone());
    }
    let way = world.effects.outputs.iter().find(|output| output.bytes == bytes).map(|output| match output.to {
        To::Tun => Way::Tun,
        To::Gateway(target) => Way::Gateway(target),
        To::Device(number) | To::Stream(number) => Way::Peer(number),
    });
    let after = &router.counters().drops;
    let reason = DropReason::ALL.into_iter().find(|reason| after.get(*reason) > before.get(*reason));
    world.now += Duration::from_millis(1);
    Ok(way.ok_or(reason.map(DropReason::name)))
}

/// Another router, with the stored peers.
fn revive(
    setup: &Setup,
    later: bool,
    world: &mut World,
    stored: &[(Number, StoredPeer)],
    accused: Option<Number>,
) -> Router {
    let kept: HashSet<_> = stored.iter().map(|(number, _)| *number).collect();
    world.by_id.clear();
    world.gone.clear();
    world.store.clear();
    world.is_listening = true;
    world.arriving = None;
    world.connections.retain(|number, _| kept.contains(number));
    let mut router = Router::new(setup.forwarder(later, world.memory()), setup.settings(), world.now);
    router.set_host_addresses(world, Setup::host_addresses());
    world.kernel = Kernel::new();
    router.set_kernel_path(world, setup.has_kernel_path);
    router.set_clock(world, CLOCK);
    for (origin, record) in world.quarantine.clone() {
        router.restore_quarantine(origin, record);
    }
    for (number, stored) in stored {
        let Some(connection) = world.connections.get_mut(number) else { continue };
        let namespace = connection.namespace;
        // Nobody knows where a frame ends that was cut in two.
        if connection.partial() > 0 || !connection.in_frame.is_at_start() {
            connection.give_up();
        }
        connection.in_frame = InFrame::default();
        (connection.id, connection.offer, connection.device) = (None, None, None);
        connection.queued.clear();
        (connection.watches_writable, connection.refuses_descriptors) = (false, false);
        connection.was_restored = true;
        if accused == Some(*number) {
            router.quarantine_after_hang(world, stored, namespace);
        }
        world.arriving = Some(*number);
        let now = world.now;
        router.restore(world, stored, namespace, now);
    }
    // It hears the same as the one before.
    for ((by, address), holding) in world.elsewhere.clone() {
        router.held_elsewhere(world, Source::Trunk(by), address, holding);
    }
    router
}
