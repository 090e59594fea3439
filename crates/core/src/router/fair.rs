//! Fairness among peers that need no option: whose turn it is, and which packets towards peers wait.

use std::time::Duration;

use tuntap_wire::gso::GsoPacket;
use tuntap_wire::rule::Direction;

use super::attach::DeviceTurn;
use super::backlog::PEER_ROOM;
use super::held;
use super::inbound::Ingress;
use super::session::Session;
use super::shell::Shell;
use super::turns::{Turn, Work};
use super::{PACKET_BUDGET, Router, Settings};
use crate::nanos::nanos;
use crate::policy::drops::DropReason;
use crate::policy::registry::PeerId;
use crate::shaper::Loss;

/// So many packets of a turn of the TUN device are written at once, whoever they are for. When there are more, the device's
/// queue may be filling faster than they can be written.
const BURST: usize = 16;

/// Packets up to this length are much cheaper to copy than to write. Longer ones are copied only if the device has a backlog:
/// TCP sends no more of those than the queue has room for.
const CHEAP_LEN: usize = 2048;

/// The most packets that waited and are written in one turn. The TUN device is read before the next one.
const BACKLOG_PACKETS: usize = 32;

impl Router {
    /// Notes that there is something to do.
    pub fn queue_turn(&mut self, work: Work) {
        self.turns.queue(work);
    }

    /// Notes that a queue of the TUN device has packets. Returns true if it is to be read at once.
    pub fn tun_readable(&mut self, queue: u8) -> bool {
        if !self.tun_queues.take_turns() {
            return true;
        }
        self.turns.queue_reading(queue, self.tun_queues.payer(queue));
        false
    }

    /// Returns true if there is something to do.
    pub fn has_turns(&self) -> bool {
        !self.turns.is_empty()
    }

    /// Returns what is to be done next.
    pub fn next_turn(&mut self) -> Option<Turn> {
        self.turns.take()
    }

    /// Ends a turn, which took so much of the router's time. If `has_more` is true, there is another one of the same.
    pub fn end_turn(&mut self, turn: Turn, took: Duration, has_more: bool) {
        self.turns.end(turn, nanos(took), has_more);
    }

    /// Begins to read a queue of the TUN device. Returns what the shell may read.
    pub fn begin_tun_turn(&mut self, queue: u8) -> DeviceTurn {
        self.tun_queues.begin(queue, std::mem::take(&mut self.outbound_streak))
    }

    /// Ends it. `is_empty` says if the queue had nothing more to read.
    pub fn end_tun_turn(&mut self, shell: &mut impl Shell, is_empty: bool) {
        self.tun_queues.end(is_empty);
        if is_empty {
            self.give_verdicts_of_queue(shell);
        }
    }

    /// Returns true if the TUN device's one queue is to be read before the next turn of a peer. All packets towards the peers come
    /// by it, including those of a flood among vassals. If it had one turn for many peers' turns, it would overflow, and honest
    /// peers would receive nothing any more.
    pub fn is_tun_turn_due(&self) -> bool {
        !self.tun_queues.take_turns() && (self.outbound_streak >= PACKET_BUDGET || self.tun_queues.has_backlog())
    }

    /// Returns true if the shell should look for packets in the TUN device's queues, because peers have sent many.
    pub const fn has_to_look(&self) -> bool {
        self.tun_queues.take_turns() && self.outbound_streak >= PACKET_BUDGET
    }

    /// Delivers a packet that came by the TUN device. It waits if its queue may have many more of them, which others share, and
    /// its peer has had more than its share. If it can't be delivered, it has already been counted as dropped.
    pub(super) fn deliver_in_turn(
        &mut self,
        shell: &mut impl Shell,
        peer: PeerId,
        flow: u32,
        packet: &GsoPacket<'_>,
    ) -> Result<(), DropReason> {
        let reads = self.tun_queues.count();
        if !self.is_attached(peer) {
            return self.deliver(shell, peer, flow, packet);
        }
        if self.has_to_wait(peer, reads, packet.packet().bytes().len()) {
            self.keep_back(shell, peer, flow, packet);
            return Ok(());
        }
        let start = self.now;
        let result = self.pass_on(shell, peer, packet);
        let cost = nanos(self.now.saturating_duration_since(start));
        if !self.tun_queues.take_turns() {
            self.turns.charge_write(peer, cost);
        } else if self.tun_queues.is_shared() {
            self.turns.charge_in_turn(peer, cost);
        }
        result
    }

    fn has_to_wait(&mut self, peer: PeerId, reads: usize, len: usize) -> bool {
        if self.backlog.has(peer) {
            return true;
        }
        // Who has a queue alone gets its packets late only by itself, and there they wait without any cost.
        if !self.tun_queues.is_shared() {
            return false;
        }
        let may_have_more = self.tun_queues.has_backlog() || reads > BURST && len <= CHEAP_LEN;
        may_have_more && self.turns.is_ahead(peer)
    }

    /// Keeps a packet until its peer's next turn.
    pub(super) fn keep_back(&mut self, shell: &mut impl Shell, id: PeerId, flow: u32, packet: &GsoPacket<'_>) {
        let now = self.nanos();
        let Some(peer) = self.forwarder.peers.get(id) else { return };
        let (limit, is_attached) = backlog_terms(&self.settings, &peer.session);
        self.backlog.push(id, held::item(packet, flow, ()), limit, is_attached, now);
        if is_attached || !peer.session.watches_writable {
            self.turns.queue(Work::Backlog(id));
        }
        self.count_lost_backlog(shell);
    }

    /// Bounds what waits for a peer by its transport, which may have changed.
    pub(super) fn bound_backlog(&mut self, shell: &mut impl Shell, id: PeerId) {
        let Some(peer) = self.forwarder.peers.get(id) else { return };
        let (limit, is_attached) = backlog_terms(&self.settings, &peer.session);
        self.backlog.bound(id, limit, is_attached);
        self.count_lost_backlog(shell);
    }

    /// Sends packets that wait for a peer. Returns true if more of them can be sent.
    pub fn write_backlog(&mut self, shell: &mut impl Shell, id: PeerId) -> bool {
        let mut turn = DeviceTurn::default();
        self.backlog.begin_turn(id, self.nanos());
        for _ in 0..BACKLOG_PACKETS {
            if !turn.is_open() || !self.takes_packets(shell, id) {
                break;
            }
            let now = self.nanos();
            let Some(item) = self.backlog.pop(id, now) else { break };
            turn.count(item.bytes.len(), 0);
            match GsoPacket::parse(&item.bytes) {
                Ok(packet) => {
                    // The peer may have gone back to frames since.
                    if self.pass_on(shell, id, &packet) == Err(DropReason::TooBig) {
                        self.too_big_for_frame_inbound(shell, Ingress::Tun, id, packet.packet());
                    }
                }
                Err(error) => self.count_drop(Some(id), error.into()),
            }
        }
        self.count_lost_backlog(shell);
        self.backlog.has(id) && self.takes_packets(shell, id)
    }

    /// Drops what waits for a peer that is gone.
    pub(super) fn drop_backlog(&mut self, peer: PeerId) {
        self.tun_queues.forget(peer);
        let count = self.backlog.forget(peer);
        (0..count).for_each(|_| self.count_drop(None, DropReason::NoPeer));
    }

    /// Counts the packets that were dropped while they waited.
    fn count_lost_backlog(&mut self, shell: &mut impl Shell) {
        while let Some((peer, item, loss)) = self.backlog.lost.pop() {
            let reason = match loss {
                Loss::Full => DropReason::QueueFull,
                Loss::Late => DropReason::QueueLate,
            };
            if let Ok(packet) = GsoPacket::parse(&item.bytes) {
                self.count_lost_packet(shell, peer, Direction::In, &packet, reason);
            }
        }
    }
}

/// Returns the most bytes that may wait for a peer besides its frames, and if they count for all attached peers together.
fn backlog_terms(settings: &Settings, session: &Session) -> (u64, bool) {
    if session.is_attached() {
        return (PEER_ROOM, true);
    }
    let left = settings.limits.queued_bytes.saturating_sub(session.queue.len());
    (u64::try_from(left).unwrap_or(u64::MAX), false)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use etherparse::PacketBuilder;
    use tuntap_wire::credentials::PeerCredentials;
    use tuntap_wire::vnet::VNET_HEADER_LEN;

    use super::super::testing::{self, TestShell};
    use super::super::{DeviceError, PeerView};
    use super::*;
    use crate::policy::Policy;
    use crate::policy::forward::Forwarder;

    const HOST: [u8; 4] = [192, 0, 2, 1];
    /// The cost of reading a packet.
    const READ: Duration = Duration::from_micros(1);

    /// A router with attached peers, to which the host sends.
    struct World {
        shell: TestShell,
        router: Router,
        peers: Vec<PeerId>,
        /// How many packets were sent to each peer.
        sent: Vec<u16>,
    }

    impl World {
        fn new(count: u8) -> Self {
            Self::with_queues(count, 1)
        }

        /// The device has so many queues.
        fn with_queues(count: u8, tun_queues: u8) -> Self {
            let now = Instant::now();
            let mut shell = TestShell::default();
            (shell.now, shell.write_cost) = (Some(now), 4 * READ);
            let router =
                Router::new(Forwarder::new(Policy::default(), 1), Settings { tun_queues, ..Settings::default() }, now);
            let mut this = Self { shell, router, peers: Vec::new(), sent: vec![0; count.into()] };
            for index in 0..count {
                let id = this.connect();
                let packet = packet(address(index), HOST, 0);
                this.router.device_packet(&mut this.shell, id, &packet, Some((now, now + READ)));
                this.peers.push(id);
            }
            this
        }

        fn connect(&mut self) -> PeerId {
            let id = self.connect_in_frames();
            self.say_hello(id);
            id
        }

        fn connect_in_frames(&mut self) -> PeerId {
            let credentials = PeerCredentials { pid: 1, uid: 1000, gid: 1000 };
            let now = self.router.now;
            testing::connect_in_frames(&mut self.router, &mut self.shell, credentials, now)
        }

        fn say_hello(&mut self, id: PeerId) {
            let now = self.router.now;
            testing::say_hello(&mut self.router, &mut self.shell, id, now);
        }

        /// Delivers packets of one flow, which come by a gateway or from a peer, and begin with this number.
        fn deliver(&mut self, id: PeerId, numbers: std::ops::Range<u16>) {
            for number in numbers {
                let bytes = packet_with(HOST, address(0), number, &[0; 1000]);
                let packet = GsoPacket::parse(&bytes).expect("a valid packet");
                let _ = self.router.deliver(&mut self.shell, id, 1, &packet);
            }
        }

        fn send(&mut self, index: u8) {
            let number = self.sent[usize::from(index)];
            self.sent[usize::from(index)] += 1;
            let start = self.shell.now.expect("it is set");
            self.shell.now = Some(start + READ);
            let bytes = packet(HOST, address(index), number);
            self.router.tun_packet(&mut self.shell, &bytes, start, start + READ);
        }

        /// Reads a queue that never becomes empty, of packets for the peers that `next` returns.
        fn read(&mut self, queue: u8, mut next: impl FnMut() -> u8) {
            let mut turn = self.router.begin_tun_turn(queue);
            while turn.is_open() {
                turn.count(100, 0);
                self.send(next());
            }
            self.router.end_tun_turn(&mut self.shell, false);
        }

        /// Takes the next turn: of a peer for which packets wait, or of a queue, which has only packets for the peer of its number.
        fn serve(&mut self) -> Option<Work> {
            let turn = self.router.next_turn()?;
            let start = self.shell.now.expect("it is set");
            let has_more = match turn.work {
                Work::Backlog(peer) => self.router.write_backlog(&mut self.shell, peer),
                Work::Queue(queue) => {
                    self.read(queue, || queue);
                    true
                }
                other => panic!("nobody asked for {other:?}"),
            };
            let end = self.shell.now.expect("it is set");
            self.router.end_turn(turn, end - start, has_more);
            Some(turn.work)
        }

        /// The numbers of the packets that were written to a peer.
        fn written(&self, index: u8) -> Vec<u16> {
            let id = self.peers[usize::from(index)];
            let numbers = self.shell.to_devices.iter().filter(|(to, _)| *to == id);
            numbers.map(|(_, bytes)| u16::from_be_bytes([bytes[22], bytes[23]])).collect()
        }

        fn kept_back(&self, id: PeerId) -> u64 {
            self.router.peer(id).expect("it lives").kept_back()
        }

        fn dropped(&self, index: u8) -> u64 {
            let peer = self.router.forwarder.peers.get(self.peers[usize::from(index)]).expect("it lives");
            peer.session.traffic.drops.get(DropReason::QueueFull)
        }
    }

    const fn address(index: u8) -> [u8; 4] {
        [10, 0, 0, index + 2]
    }

    /// A packet whose destination port is its number.
    fn packet(src: [u8; 4], dst: [u8; 4], number: u16) -> Vec<u8> {
        packet_with(src, dst, number, &[])
    }

    fn packet_with(src: [u8; 4], dst: [u8; 4], number: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; VNET_HEADER_LEN];
        PacketBuilder::ipv4(src, dst, 64).udp(53, number).write(&mut bytes, payload).expect("a valid packet");
        bytes
    }

    #[test]
    fn nothing_waits_while_the_device_has_few_packets_at_a_time() {
        let mut world = World::new(2);
        for _ in 0..50 {
            world.router.begin_tun_turn(0);
            (0..BURST).for_each(|_| world.send(0));
            world.router.end_tun_turn(&mut world.shell, true);
        }
        assert_eq!((world.written(0).len(), world.router.has_turns()), (50 * BURST, false));
    }

    #[test]
    fn flood_to_one_peer_costs_others_nothing() {
        let mut world = World::new(3);
        let mut read = 0;
        for _ in 0..50 {
            world.read(0, || {
                read += 1;
                if read % 100 == 0 { 1 } else { 0 }
            });
            // Packets of those who get few of them are written at once.
            assert_eq!(world.written(1).len(), usize::from(world.sent[1]), "after {read} packets");
            world.serve();
        }
        while world.serve().is_some() {}
        let written = world.written(0);
        // Each number is a flow of its own.
        let distinct: std::collections::HashSet<_> = written.iter().collect();
        assert_eq!(distinct.len(), written.len(), "nothing is written twice");
        let lost = u64::from(world.sent[0]) - written.len() as u64;
        assert_eq!((world.dropped(0), world.dropped(1)), (lost, 0));
        assert!(lost > 1000 && written.len() > 50 * BACKLOG_PACKETS / 2, "{lost} lost, {} written", written.len());
        assert!(world.written(1).is_sorted());
        assert_eq!(world.router.counters.drops.get(DropReason::QueueFull), lost);
    }

    #[test]
    fn flooded_peers_share_the_time() {
        let mut world = World::new(3);
        for _ in 0..100 {
            let mut index = 0;
            world.read(0, || {
                index += 1;
                if index % 4 == 1 { 1 } else { 0 }
            });
            world.serve();
        }
        let (many, few) = (world.written(0).len(), world.written(1).len());
        assert!(many.abs_diff(few) <= many / 5, "{many} and {few}");
    }

    /// A peer asks for an address, is sent packets, and says hello later.
    #[test]
    fn what_waited_in_frames_is_not_overtaken_by_what_comes_by_the_device() {
        let mut world = World::new(0);
        let id = world.connect_in_frames();
        world.peers.push(id);
        world.shell.are_connections_full = true;
        world.deliver(id, 0..150);
        let waited = world.kept_back(id);
        assert!(waited > 0);
        world.say_hello(id);
        world.deliver(id, 150..200);
        while world.serve().is_some() {}
        let written = world.written(0);
        assert!(written.is_sorted(), "{written:?}");
        assert_eq!((written.len() as u64, world.kept_back(id)), (waited + 50, 0));
    }

    /// The longest packets, and the shortest queue.
    #[test]
    fn bytes_that_wait_are_bounded_by_how_packets_travel() {
        let mut world = World::new(1);
        let (id, most) = (world.peers[0], world.router.settings.limits.queued_bytes as u64);
        let queued = |world: &World| world.router.peer(id).map_or(0, PeerView::queued);
        world.router.end_tun_turn(&mut world.shell, false);
        for _ in 0..3 {
            (0..8 * PACKET_BUDGET).for_each(|_| world.send(0));
        }
        world.deliver(id, 0..1000);
        assert!(queued(&world) > most);
        world.shell.are_connections_full = true;
        world.router.device_failed(&mut world.shell, id, DeviceError::MayBlock, world.router.now);
        assert!(queued(&world) <= most, "{} bytes wait", queued(&world));
        for number in 0..100 {
            let bytes = packet_with(HOST, address(0), number, &[0; 4000]);
            let packet = GsoPacket::parse(&bytes).expect("a valid packet");
            let _ = world.router.deliver(&mut world.shell, id, number.into(), &packet);
            assert!(queued(&world) <= most, "{} bytes wait", queued(&world));
            world.serve();
        }
    }

    #[test]
    fn who_leaves_takes_what_waited_along() {
        let mut world = World::new(2);
        for _ in 0..3 {
            (0..PACKET_BUDGET).for_each(|_| world.send(0));
            world.router.end_tun_turn(&mut world.shell, false);
        }
        assert!(world.router.backlog.has(world.peers[0]));
        let (id, now, written) = (world.peers[0], world.router.now, world.shell.to_devices.len());
        world.router.connection_ended(&mut world.shell, id, None, now);
        let lost = u64::from(world.sent[0]) - written as u64;
        assert_eq!((world.router.backlog.has(id), world.router.counters.drops.get(DropReason::NoPeer)), (false, lost));
        while world.serve().is_some() {}
        assert_eq!(world.shell.to_devices.len(), written);
    }

    /// What finds a queue full is lost before it costs the router anything.
    #[test]
    fn queues_share_the_time_whoever_they_are_for() {
        let mut world = World::with_queues(3, 3);
        (0..3).for_each(|queue| assert!(!world.router.tun_readable(queue), "it has its turn"));
        for _ in 0..300 {
            world.serve();
        }
        let written: Vec<_> = (0..3).map(|index| world.written(index).len()).collect();
        assert!(written.iter().all(|count| count.abs_diff(written[0]) <= PACKET_BUDGET), "{written:?}");
        assert_eq!(written.iter().sum::<usize>(), 300 * PACKET_BUDGET, "nothing waits");
    }

    #[test]
    fn queue_with_little_is_read_before_those_that_are_full() {
        let mut world = World::with_queues(3, 3);
        (0..2).for_each(|queue| _ = world.router.tun_readable(queue));
        (0..50).for_each(|_| _ = world.serve());
        for _ in 0..50 {
            (0..3).for_each(|_| _ = world.serve());
            world.router.tun_readable(2);
            let turn = world.router.next_turn().expect("three have something");
            assert_eq!(turn.work, Work::Queue(2));
            world.router.begin_tun_turn(2);
            world.send(2);
            world.router.end_tun_turn(&mut world.shell, true);
            world.router.end_turn(turn, 5 * READ, false);
        }
        assert_eq!(world.written(2).len(), 50);
    }

    #[test]
    fn queue_goes_on_when_the_peer_that_pays_for_it_is_gone() {
        let mut world = World::with_queues(2, 2);
        world.router.tun_readable(0);
        world.serve();
        let (id, now) = (world.peers[0], world.router.now);
        world.router.connection_ended(&mut world.shell, id, None, now);
        world.peers[0] = world.connect();
        let packet = packet(address(0), HOST, 0);
        world.router.device_packet(&mut world.shell, world.peers[0], &packet, Some((now, now + READ)));
        let before = world.written(0).len();
        for _ in 0..3 {
            assert_eq!(world.serve(), Some(Work::Queue(0)));
        }
        assert_eq!(world.written(0).len(), before + 3 * PACKET_BUDGET);
    }

    /// Then others than the flooded one lose what finds the queue full, so it is read faster than it is written.
    #[test]
    fn flood_in_a_queue_that_peers_share_waits_elsewhere() {
        let mut world = World::with_queues(3, 2);
        let mut reads = 0_usize;
        for _ in 0..20 {
            world.router.tun_readable(0);
            let turn = world.router.next_turn().expect("a queue is readable");
            let has_more = match turn.work {
                Work::Queue(queue) => {
                    world.read(queue, || {
                        reads += 1;
                        u8::from(reads.is_multiple_of(100))
                    });
                    true
                }
                Work::Backlog(peer) => world.router.write_backlog(&mut world.shell, peer),
                other => panic!("nobody asked for {other:?}"),
            };
            world.router.end_turn(turn, 100 * READ, has_more);
        }
        assert_eq!(world.written(1).len(), usize::from(world.sent[1]), "it shares the queue and is written at once");
        assert!(reads > 5 * 512 && world.written(0).len() < reads / 2, "{reads} read, {}", world.written(0).len());
    }
}
