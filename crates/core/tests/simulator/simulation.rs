//! A router in its world, driven as a shell with an event loop drives it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tuntap_core::elsewhere;
use tuntap_core::kernel_path::FlowId;
use tuntap_core::policy::Policy;
use tuntap_core::policy::drops::DropReason;
use tuntap_core::policy::registry::PeerId;
use tuntap_core::router::capture::CaptureFilter;
use tuntap_core::router::frames::BUFFER_LEN;
use tuntap_core::router::turns::Work;
use tuntap_core::router::{CredentialsCheck, DeviceError, Fault, Router};
use tuntap_wire::greeting::CREDENTIALS_MAGIC;
use tuntap_wire::holding::{ClaimTime, Holding, RouterId};

use super::actions::{Action, DeviceState, Hearsay, Stale};
use super::audit::{Audit, Call, Check, From, ensure};
use super::packets::{Expected, Header, PacketSpec, Shape, Source};
use super::peer::{Connection, Number};
use super::setup::{ADDRESSES, LATER_GRANT, Setup, TUN_QUEUES, address, grant, target};
use super::world::{ROUTER_DEVICE, World};

/// Times that a router may want to be woken while nothing happens.
const MAX_WAKES: usize = 5000;

/// The host's wall clock, which stands still.
pub const CLOCK: ClaimTime = ClaimTime(1_000_000_000);

/// Packets of a flood.
const FLOOD: usize = 24;

/// A router, its world, and who looks at both.
pub struct Simulation {
    pub setup: Setup,
    pub world: World,
    pub router: Router,
    pub audit: Audit,
    /// [`LATER_GRANT`] was added.
    pub later: bool,
    /// Numbers packets.
    pub packets: u64,
    /// The number of the next connection.
    pub next: Number,
    events: usize,
    pub buffer: Vec<u8>,
}

impl Simulation {
    pub fn new(setup: Setup) -> Self {
        let mut world = World::new(setup.tun_takes_gso, setup.credentials != CredentialsCheck::Off);
        let mut router = Router::new(setup.forwarder(false, world.memory()), setup.settings(), world.now);
        router.set_host_addresses(&mut world, Setup::host_addresses());
        router.set_clock(&mut world, CLOCK);
        router.set_kernel_path(&mut world, setup.has_kernel_path);
        let mut audit = Audit::default();
        audit.restart(&router, &world);
        let buffer = vec![0; BUFFER_LEN];
        Self { setup, world, router, audit, later: false, packets: 0, next: 1, events: 0, buffer }
    }

    /// Has the router do something, and looks at what came of it.
    pub fn call<T>(&mut self, call: &Call, act: impl FnOnce(&mut Router, &mut World) -> T) -> Result<T, String> {
        self.world.effects = Default::default();
        let result = act(&mut self.router, &mut self.world);
        for peer in self.router.peers() {
            if let Some(number) = self.world.by_id.get(&peer.id()).copied() {
                self.world.absorb(number, peer.waiting());
            }
        }
        self.audit.check(&self.setup, self.later, &self.router, &mut self.world, call)?;
        Ok(result)
    }

    /// Things happen until the end.
    pub fn go_on(&mut self, actions: &[Action]) -> Check {
        for action in actions {
            self.act(action).map_err(|error| format!("{error}\nat {action:?}"))?;
        }
        self.settle().map_err(|error| format!("{error}\nin the end"))
    }

    /// One thing happens.
    pub fn act(&mut self, action: &Action) -> Check {
        match action {
            Action::Wait(millis) => self.wait(*millis)?,
            Action::Join { who, rules, attached } => _ = self.join(*who, rules, *attached)?,
            Action::Send { peer, words, piece, left } => {
                self.on(*peer, |this, it| this.send(it, words, *piece, *left))?
            }
            Action::Device { peer, packet, header } => {
                self.on(*peer, |this, it| this.device_packet(it, packet, *header))?
            }
            Action::Flood { peer, micros, len } => self.on(*peer, |this, it| this.flood(it, *micros, *len))?,
            Action::Tun { packet, header, count } => {
                for _ in 0..*count {
                    self.tun_packet(packet, *header)?;
                }
            }
            Action::Gateway { packet, named, by_device } => self.datagram(packet, *named, *by_device)?,
            Action::Drain(peer, len) => self.on(*peer, |this, it| {
                this.connection(it, |it| it.in_socket = it.in_socket.saturating_sub(*len));
                this.writable(it)
            })?,
            Action::Room(peer, len) => self.on(*peer, |this, it| {
                this.connection(it, |it| it.room = *len);
                this.writable(it)
            })?,
            Action::HangUp(peer) => self.on(*peer, |this, it| {
                this.connection(it, |it| it.has_hung_up = true);
                Ok(())
            })?,
            Action::Connect(who) => _ = self.connect(*who)?,
            Action::Show(peer, shown) => self.on(*peer, |this, it| this.show(it, *shown))?,
            Action::Cost(peer, micros) => self.on_device(*peer, |device| device.cost = micros * 1000)?,
            Action::DeviceState(peer, state) => self.on_device(*peer, |device| device.state = *state)?,
            Action::DeviceError(peer, kind) => self.on(*peer, |this, it| this.device_error(it, *kind))?,
            Action::TunState(state) => self.world.tun = *state,
            Action::ClosingMany(is_so) => self.world.is_closing_many = *is_so,
            Action::Fault(kind) => self.world.fault = Some(*kind),
            Action::AcceptFails => self.call(&Call::new(From::Nowhere), |router, world| {
                let now = world.now;
                router.accept_failed(world, Fault("no descriptor".to_owned()), now);
            })?,
            Action::Stale(peer, event) => self.stale(*peer, *event)?,
            Action::Grant => self.grant()?,
            Action::Elsewhere(by, at, told) => self.elsewhere(*by, address(ADDRESSES[*at].0), *told)?,
            Action::SourceGone(by) => {
                self.world.elsewhere.retain(|(source, _), _| source != by);
                self.call(&Call::new(From::Nowhere), |router, _| router.forget_source(elsewhere::Source::Trunk(*by)))?;
            }
            Action::Stream { from, to, count } => self.on(*from, |this, it| this.stream(it, *to, *count))?,
            Action::Pass { verdict, packets } => self.pass(*verdict, *packets),
            Action::LoseVerdict(verdict) => {
                if let Some(id) = self.verdict(*verdict) {
                    self.world.kernel.lose(id);
                }
            }
            Action::LosePair(peer) => self.on(*peer, |this, it| this.lose_pair(it))?,
            Action::KernelFull(is_so) => self.world.kernel.is_full = *is_so,
            Action::NoPairs(is_so) => self.world.has_no_pairs = *is_so,
            Action::Capture(is_so) => {
                self.call(&Call::new(From::Nowhere), |router, world| {
                    router.set_capture(world, 0, is_so.then(CaptureFilter::default))
                })?;
            }
            Action::KernelPath(is_there) => {
                let is_there = *is_there && self.setup.has_kernel_path;
                self.call(&Call::new(From::Nowhere), |router, world| router.set_kernel_path(world, is_there))?;
            }
            Action::Swap => self.swap()?,
            Action::Die(hung) => self.die(*hung)?,
        }
        self.events += 1;
        if self.events >= self.setup.turn { self.turn() } else { Ok(()) }
    }

    /// Has one of the peers that are there do something.
    fn on(&mut self, peer: usize, act: impl FnOnce(&mut Self, Number) -> Check) -> Check {
        let open: Vec<_> = self.open().collect();
        if open.is_empty() { Ok(()) } else { act(self, open[peer % open.len()]) }
    }

    fn on_device(&mut self, peer: usize, act: impl FnOnce(&mut super::peer::Device)) -> Check {
        let devices = self.world.connections.values_mut().filter(|it| it.id.is_some());
        let devices: Vec<_> = devices.filter_map(|it| it.device.as_mut()).collect();
        let count = devices.len().max(1);
        if let Some(device) = devices.into_iter().nth(peer % count) {
            act(device);
        }
        Ok(())
    }

    /// The peers that the router has.
    pub fn open(&self) -> impl Iterator<Item = Number> {
        self.world.connections.iter().filter(|(_, it)| it.id.is_some()).map(|(number, _)| *number)
    }

    pub fn connection<T: Default>(&mut self, number: Number, act: impl FnOnce(&mut Connection) -> T) -> T {
        self.world.connections.get_mut(&number).map(act).unwrap_or_default()
    }

    pub fn id(&self, number: Number) -> Option<PeerId> {
        self.world.connections.get(&number)?.id
    }

    /// A turn ends, and the thread sleeps.
    pub fn turn(&mut self) -> Check {
        self.events = 0;
        self.serve()?;
        self.empty_queues()?;
        self.poll()?;
        self.check_flows()?;
        self.world.sleep(Duration::from_micros(50));
        let now = self.world.now;
        self.router.wake(&self.world, now);
        Ok(())
    }

    /// The devices have nothing more to read, and pairs that were asked for are there.
    fn empty_queues(&mut self) -> Check {
        let ids: Vec<_> = self.world.by_id.keys().copied().filter(|id| self.router.is_attached(*id)).collect();
        self.call(&Call::new(From::Nowhere), |router, world| {
            let now = world.now;
            let asked = world.kernel.pairs.iter_mut().filter(|(_, pair)| !pair.is_made);
            let asked: Vec<_> = asked
                .map(|(id, pair)| {
                    pair.is_made = true;
                    *id
                })
                .collect();
            asked.into_iter().for_each(|id| router.pair_made(world, id, now));
            ids.into_iter().for_each(|id| router.device_emptied(world, id));
            for queue in 0..TUN_QUEUES {
                router.begin_tun_turn(queue);
                router.end_tun_turn(world, true);
            }
        })
    }

    /// A peer and a host, or another peer, send so many packets to each other.
    pub fn stream(&mut self, number: Number, to: usize, count: usize) -> Check {
        let Some(src) = self.audit.peers.get(&number).and_then(|seen| seen.addresses.first().copied()) else {
            return Ok(());
        };
        let dst = address(ADDRESSES[to].0);
        if src.is_ipv4() != dst.is_ipv4() {
            return Ok(());
        }
        let spec = PacketSpec { shape: Shape::Udp(53), ..PacketSpec::plain(Source::Usual, to) };
        self.connection(number, |it| it.usual[usize::from(src.is_ipv6())] = src);
        for _ in 0..count {
            self.device_packet(number, &spec, Header::Plain)?;
            self.packet_by_tun(&spec.between(dst, src, self.packets))?;
            self.turn()?;
        }
        Ok(())
    }

    fn packet_by_tun(&mut self, bytes: &[u8]) -> Check {
        self.packets += 1;
        let bytes = Header::Plain.before(bytes);
        let input = Expected::of_device(&bytes);
        let length = input.bytes.len() as u64;
        self.router.begin_tun_turn(0);
        self.call(&Call::with(From::Tun, input, length), |router, world| {
            let start = world.now;
            world.run(1_000);
            router.tun_packet(world, &bytes, start, world.now);
        })
    }

    /// One of the verdicts by which packets pass.
    fn verdict(&self, at: usize) -> Option<FlowId> {
        let live: Vec<_> = self.world.kernel.live().map(|given| given.flow.id).collect();
        live.get(at % live.len().max(1)).copied()
    }

    /// Packets pass in the kernel, and the router hears nothing of it.
    fn pass(&mut self, verdict: usize, packets: u64) {
        if let Some(id) = self.verdict(verdict) {
            let now = self.world.now;
            self.world.kernel.pass(id, packets, 100, now);
        }
    }

    fn lose_pair(&mut self, number: Number) -> Check {
        let Some(id) = self.id(number).filter(|id| self.world.kernel.pairs.remove(id).is_some()) else { return Ok(()) };
        self.call(&Call::new(From::Nowhere), |router, world| {
            let now = world.now;
            router.pair_lost(world, id, "its end was deleted", now);
        })
    }

    /// Peers for which packets wait have their turns.
    fn serve(&mut self) -> Check {
        while let Some(turn) = self.router.next_turn() {
            let Work::Backlog(peer) = turn.work else { return Err(format!("a turn that nobody asked for: {turn:?}")) };
            let has_more = self.call(&Call::new(From::Nowhere), |router, world| router.write_backlog(world, peer))?;
            self.router.end_turn(turn, Duration::from_micros(50), has_more);
        }
        Ok(())
    }

    /// What is due is done, and then there is nothing more to do at this time.
    pub fn poll(&mut self) -> Check {
        let call = Call::new(From::Nowhere);
        let poll = |router: &mut Router, world: &mut World| {
            let now = world.now;
            router.poll(world, now);
        };
        self.call(&call, poll)?;
        let due = self.router.poll_timeout().filter(|due| *due <= self.world.now);
        ensure!(due.is_none(), "there is something to do again at once");
        self.call(&call, poll)?;
        let effects = &self.world.effects;
        let is_idle = effects.outputs.is_empty()
            && effects.sent.is_empty()
            && effects.controls.is_empty()
            && effects.closed.is_empty()
            && effects.lines.is_empty()
            && !effects.has_others;
        ensure!(is_idle, "a second poll at the same time has done something: {effects:?}");
        Ok(())
    }

    /// Time passes. The router is woken when it wants to be.
    pub fn wait(&mut self, millis: u64) -> Check {
        let end = self.world.now + Duration::from_millis(millis);
        for _ in 0..MAX_WAKES {
            self.turn()?;
            match self.router.poll_timeout() {
                Some(due) if due < end => self.world.now = due.max(self.world.now),
                _ => {
                    self.world.now = end.max(self.world.now);
                    return self.turn();
                }
            }
        }
        Err(format!("{MAX_WAKES} wakes in {millis} ms"))
    }

    fn device_packet(&mut self, number: Number, packet: &PacketSpec, header: Header) -> Check {
        let Some(id) = self.id(number).filter(|id| self.router.is_attached(*id)) else { return Ok(()) };
        let usual = self.connection(number, |it| Some(it.usual)).unwrap_or([address("0.0.0.0"); 2]);
        self.packets += 1;
        let bytes = header.before(&packet.bytes(usual, self.packets));
        let input = Expected::of_device(&bytes);
        let length = 4 + input.bytes.len() as u64;
        let call = Call::with(From::Peer(number), input, length);
        let pieces = call.inputs[0].pieces.len();
        let segments = self.call(&call, |router, world| {
            let start = world.now;
            world.run(1_000);
            router.device_packet(world, id, &bytes, Some((start, world.now)))
        })?;
        ensure!(segments == 0 || segments == pieces, "{segments} segments, and {pieces} pieces");
        Ok(())
    }

    pub fn tun_packet(&mut self, packet: &PacketSpec, header: Header) -> Check {
        self.packets += 1;
        let outside = [address("198.51.100.7"), address("2001:db8::7")];
        let bytes = match (packet.source, self.held_ends(packet.source)) {
            (Source::Peers(..), Some((src, dst))) => packet.between(src, dst, self.packets),
            _ => packet.bytes(outside, self.packets),
        };
        let bytes = header.before(&bytes);
        let input = Expected::of_device(&bytes);
        let length = input.bytes.len() as u64;
        // The kernel may take any queue for a packet.
        let queue = u8::try_from(self.packets % u64::from(TUN_QUEUES)).unwrap_or_default();
        self.router.begin_tun_turn(queue);
        self.call(&Call::with(From::Tun, input, length), |router, world| {
            let start = world.now;
            world.run(1_000);
            router.tun_packet(world, &bytes, start, world.now);
        })
    }

    /// Two addresses of one version that are held.
    fn held_ends(&self, source: Source) -> Option<(IpAddr, IpAddr)> {
        let Source::Peers(from, to) = source else { return None };
        let held: Vec<_> = self.audit.peers.values().flat_map(|seen| seen.addresses.iter().copied()).collect();
        let dst = *held.get(to % held.len().max(1))?;
        let same: Vec<_> = held.into_iter().filter(|it| it.is_ipv4() == dst.is_ipv4()).collect();
        Some((same[from % same.len()], dst))
    }

    /// Many packets come for a peer.
    fn flood(&mut self, number: Number, micros: u64, len: usize) -> Check {
        let Some(held) = self.audit.peers.get(&number).and_then(|seen| seen.addresses.first().copied()) else {
            return Ok(());
        };
        self.connection(number, |it| {
            it.room = 0;
            it.device.iter_mut().for_each(|device| device.cost = micros * 1000);
        });
        let destination = ADDRESSES.iter().position(|(text, _)| address(text) == held);
        let packet = PacketSpec { len, ..PacketSpec::plain(Source::Usual, destination.unwrap_or_default()) };
        for index in 0..FLOOD {
            self.tun_packet(&packet, Header::Plain)?;
            if index % 8 == 0 {
                self.turn()?;
            }
        }
        self.connection(number, |it| it.device.iter_mut().for_each(|device| device.cost = 0));
        Ok(())
    }

    fn datagram(&mut self, packet: &PacketSpec, named: bool, by_device: bool) -> Check {
        self.packets += 1;
        let outside = [address("198.51.100.7"), address("2001:db8::7")];
        let bytes = packet.bytes(outside, self.packets);
        let source = target(if named { "192.0.2.1:999" } else { "198.51.100.7:999" });
        let input = Expected::of(&bytes);
        let interface = by_device.then_some(ROUTER_DEVICE);
        self.call(&Call::with(From::Gateway(source), input, bytes.len() as u64), |router, world| {
            let now = world.now;
            router.datagrams(world, &bytes, None, source, interface, now);
        })?;
        let drops = &self.router.counters().drops;
        let refused = drops.get(DropReason::GatewayDevice) + drops.get(DropReason::GatewaySource);
        let must_refuse = by_device || self.setup.names_sources && !named;
        ensure!(!must_refuse || self.world.effects.outputs.is_empty(), "a datagram of {source} was taken");
        ensure!(!must_refuse || refused > 0, "a datagram of {source} was not counted");
        Ok(())
    }

    fn device_error(&mut self, number: Number, kind: u8) -> Check {
        let Some(id) = self.id(number).filter(|id| self.router.is_attached(*id)) else { return Ok(()) };
        let error = match kind {
            0 => DeviceError::MayBlock,
            1 => DeviceError::Blocked,
            2 => DeviceError::Gone,
            _ => DeviceError::Failed(Fault("EIO".to_owned())),
        };
        let mut call = Call::new(From::Nowhere);
        let closes = kind > 1;
        if closes {
            call.may_close.insert(number);
        }
        self.call(&call, |router, world| {
            let now = world.now;
            router.device_failed(world, id, error, now);
        })?;
        ensure!(!closes || self.id(number).is_none(), "{number} has lost its device, and lives");
        ensure!(
            !self.id(number).is_some_and(|id| self.router.is_attached(id)),
            "{number} can't be read, and is attached"
        );
        Ok(())
    }

    /// The router hears that a peer has closed its end.
    pub fn ended(&mut self, number: Number) -> Check {
        let Some(id) = self.id(number) else { return Ok(()) };
        self.connection(number, |it| it.has_hung_up = true);
        self.call(&Call::new(From::Nowhere), |router, world| {
            let now = world.now;
            router.connection_ended(world, id, None, now);
        })?;
        ensure!(self.id(number).is_none(), "{number} has ended, and lives");
        Ok(())
    }

    /// An event for a peer that is gone changes nothing. One that has hung up is found out first.
    fn stale(&mut self, peer: usize, event: Stale) -> Check {
        let hung_up = self.open().find(|number| self.connection_has_hung_up(*number));
        if let Some(number) = hung_up {
            return self.ended(number);
        }
        if self.world.gone.is_empty() {
            return Ok(());
        }
        let id = self.world.gone[peer % self.world.gone.len()];
        let bytes = Header::Plain.before(&PacketSpec::plain(Source::Any(peer), 24).bytes([address("10.0.0.2"); 2], 0));
        let mut buffer = std::mem::take(&mut self.buffer);
        let is_known = self.router.begin_read(id, &mut buffer).is_some() || self.router.is_attached(id);
        self.buffer = buffer;
        ensure!(!is_known, "{id:?} is gone, and known");
        self.call(&Call::new(From::Nowhere), |router, world| {
            let now = world.now;
            match event {
                Stale::Readable => router.received(world, id, &[0, 1, 0, 7, 9], 5, now),
                Stale::Writable => router.writable(world, id, now),
                Stale::Ended => router.connection_ended(world, id, None, now),
                Stale::DevicePacket => _ = router.device_packet(world, id, &bytes, None),
                Stale::DeviceGone => router.device_failed(world, id, DeviceError::Gone, now),
                Stale::Credentials => router.received_credentials(world, id, CREDENTIALS_MAGIC, None, now),
            }
        })?;
        ensure!(self.world.effects.outputs.is_empty() && self.world.effects.closed.is_empty(), "a stale {event:?}");
        Ok(())
    }

    pub fn connection_has_hung_up(&self, number: Number) -> bool {
        self.world.connections.get(&number).is_some_and(|it| it.has_hung_up)
    }

    fn grant(&mut self) -> Check {
        let before = self.router.forwarder().generation();
        if !self.later && self.setup.has_grants {
            self.later = true;
            self.call(&Call::new(From::Nowhere), |router, world| router.grant(world, [grant(LATER_GRANT)]))?;
            ensure!(self.router.forwarder().generation() == before + 1, "the policy's generation is that of before");
        }
        Ok(())
    }

    /// A source tells of an address.
    fn elsewhere(&mut self, by: u16, at: IpAddr, told: Hearsay) -> Check {
        let source = elsewhere::Source::Trunk(by);
        let mut call = Call::new(From::Nowhere);
        if told == Hearsay::Free {
            self.world.elsewhere.remove(&(by, at));
            return self.call(&call, |router, _| router.released_elsewhere(source, at));
        }
        // Beyond so many, times would be too far ahead.
        self.world.told = (self.world.told + 1) % 1000;
        let since = if told == Hearsay::Newer {
            ClaimTime(CLOCK.0 + 100 * self.world.told)
        } else {
            ClaimTime(self.world.told)
        };
        let holding = Holding { router: RouterId::new(1 + u64::from(by)).expect("not 0"), since };
        self.world.elsewhere.insert((by, at), holding);
        let here = self.router.forwarder().holding(at);
        if here.is_some_and(|here| here < holding) {
            call.takes = Some(at);
            let holder = self.router.forwarder().holder(at).and_then(|id| self.world.by_id.get(&id));
            self.world.losers.extend(holder.map(|number| (*number, at)));
            // One whose address was chosen by the router is closed.
            call.may_close.extend(holder);
        }
        ensure!(here.is_none() || call.takes.is_some() == (told == Hearsay::Newer), "{here:?} here, {holding:?} there");
        self.call(&call, |router, world| router.held_elsewhere(world, source, at, holding))
    }

    /// The policy is replaced by one that says the same.
    fn swap(&mut self) -> Check {
        let generation = self.router.forwarder().generation();
        let policy = Arc::new(Policy { generation, ..self.setup.policy(self.later) });
        self.call(&Call::new(From::Nowhere), |router, world| router.set_policy(world, policy))
    }

    /// Flows are few enough, and belong to those who hold their addresses.
    fn check_flows(&self) -> Check {
        let (flows, most) = self.router.flow_counts();
        ensure!(flows <= most && flows >= self.router.flows().count(), "{flows} flows of {most}");
        for (number, flow) in self.router.flows() {
            let holder = self.router.forwarder().holder(flow.key().local());
            ensure!(
                flow.peer().is_none() || flow.peer() == holder,
                "flow {number} is {:?}'s, not {holder:?}'s",
                flow.peer()
            );
        }
        Ok(())
    }

    /// Everything in the way goes away. Then all that waited has gone on, and nothing is left of those who leave.
    pub fn settle(&mut self) -> Check {
        self.world.tun = DeviceState::Good;
        self.world.is_closing_many = false;
        self.world.fault = None;
        let open: Vec<_> = self.open().collect();
        for number in &open {
            self.connection(*number, |it| {
                (it.room, it.in_socket) = (usize::MAX, 0);
                if let Some(device) = &mut it.device {
                    (device.cost, device.state) = (0, DeviceState::Good);
                }
            });
            self.writable(*number)?;
        }
        self.turn()?;
        // Half a frame is in the way of a device that waits to be attached.
        let amid: Vec<_> =
            self.open().filter(|it| self.world.connections.get(it).is_some_and(|it| it.partial() > 0)).collect();
        for number in amid {
            self.ended(number)?;
        }
        for number in self.open() {
            let left = self.world.connections.get(&number).map_or(0, |it| it.queued.len());
            ensure!(left == 0, "{left} bytes for {number} are not sent");
        }
        self.wait(3_700_000)?;
        ensure!(self.world.is_listening, "nothing is accepted any more");
        for (number, connection) in self.world.connections.iter().filter(|(_, it)| it.id.is_some()) {
            let is_waiting = connection.device.is_some_and(|device| !device.is_attached);
            ensure!(!is_waiting, "{number} waits for its device to be attached");
        }
        let verdicts = self.world.kernel.live().count();
        ensure!(verdicts == 0, "{verdicts} verdicts are left after an hour");
        let open: Vec<_> = self.open().collect();
        for number in open {
            self.ended(number)?;
        }
        self.turn()?;
        let (kernel, counted) = (&self.world.kernel, self.router.path_counts().0.packets);
        ensure!(kernel.count() == 0 && kernel.pairs.is_empty(), "verdicts or pairs are left, and no peers");
        ensure!(
            counted == kernel.passed,
            "{} packets have passed in the kernel, {counted} were counted",
            kernel.passed
        );
        let stored: Vec<_> = self.world.store.keys().collect();
        ensure!(self.router.is_empty() && stored.is_empty(), "{} peers and {stored:?} are left", self.router.len());
        let held =
            ADDRESSES.iter().map(|(text, _)| address(text)).find(|it| self.router.forwarder().holder(*it).is_some());
        ensure!(held.is_none(), "{held:?} is held, and there are no peers");
        Ok(())
    }
}
