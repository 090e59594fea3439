//! The path in the kernel: what of [`Shell`](tuntap_core::router::Shell) is about it. Verdicts go into maps that this process shares with the
//! BPF programs. Pairs of devices are made by a process of their own ([`tuntap_offload::run`]), which is asked by messages.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tuntap_core::kernel_path::{FlowId, KernelFlow, MAX_VERDICTS, PairDrops, Revoke, Usage};
use tuntap_core::policy::registry::PeerId;
use tuntap_offload::maps::{End, Index, Key, Maps, Passed};
use tuntap_offload::protocol::{MESSAGE_LEN, Reply, Request, Run, Token};
use tuntap_offload::verdicts::Verdicts;
use tuntap_sys::socket::{self, message_pair, recv, send_with_descriptor};

/// Verdicts that were taken back and are removed in one turn.
const TIDIED_PER_TURN: usize = 256;

/// Verdicts that the maps have room for: those that the core gives, and some that were taken back a moment ago.
const ROOM: usize = MAX_VERDICTS + MAX_VERDICTS / 8;

/// Most messages that are taken in one turn.
const REPLIES_PER_TURN: usize = 64;

/// How long a message that didn't fit the socket waits for the next attempt.
const SEND_PAUSE: Duration = Duration::from_millis(50);

/// What a router needs for a path in the kernel. The master keeps it for the processes that it starts again.
#[derive(Debug)]
pub struct KernelEndpoint {
    /// The maps.
    pub maps: Arc<Maps>,
    socket: OwnedFd,
}

impl KernelEndpoint {
    /// Makes the two ends of a socket. The second one is for the process that makes pairs.
    pub fn new(maps: Arc<Maps>) -> nix::Result<(Self, OwnedFd)> {
        let (socket, other) = message_pair()?;
        Ok((Self { maps, socket }, other))
    }

    /// The number of verdicts that maps for a router with so many flows have room for: two of each flow, or as many as there are at most.
    pub fn size(flows: usize) -> u32 {
        u32::try_from(flows.saturating_mul(2).min(ROOM)).unwrap_or(u32::MAX)
    }

    /// The descriptors that have to stay open.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.maps.descriptors().chain([self.socket.as_fd()])
    }
}

/// What the router has to hear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// Pairs can be made.
    Opened,
    /// Pairs can't be made any more, and those that there were are gone.
    Closed,
    /// A peer has a pair.
    Made(PeerId),
    /// A peer has none, or none any more.
    Lost(PeerId, &'static str),
}

/// A pair that is there, or was asked for.
#[derive(Debug)]
struct Pair {
    peer: PeerId,
    /// `None` until it is made.
    index: Option<Index>,
    claims: HashSet<IpAddr>,
    /// The places of the verdicts that name it.
    places: HashSet<usize>,
}

/// The path, as the router's process sees it.
#[derive(Debug)]
pub(super) struct KernelPath<'a> {
    endpoint: &'a KernelEndpoint,
    verdicts: Verdicts<'a>,
    generation: u32,
    runs: RandomState,
    run: Run,
    begun: u64,
    is_open: bool,
    /// By [`PeerId::index`].
    pairs: HashMap<u32, Pair>,
    unsent: VecDeque<Request>,
}

impl<'a> KernelPath<'a> {
    /// Maps the memory. What an earlier process has decided is void. Says to the process that makes pairs that all of them are to go.
    pub fn open(endpoint: &'a KernelEndpoint) -> nix::Result<Self> {
        let mut path = Self {
            endpoint,
            verdicts: Verdicts::new(&endpoint.maps)?,
            generation: 0,
            runs: RandomState::new(),
            run: 0,
            begun: 0,
            is_open: false,
            pairs: HashMap::new(),
            unsent: VecDeque::new(),
        };
        path.begin();
        Ok(path)
    }

    /// The socket of the process that makes pairs.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.endpoint.socket.as_fd()
    }

    /// Returns when [`Self::tidy`] has something to do.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let unsent = (!self.unsent.is_empty()).then_some(SEND_PAUSE);
        [unsent, self.verdicts.next_tidy()].into_iter().flatten().min().map(|rest| now + rest)
    }

    /// Does what is due.
    pub fn tidy(&mut self) {
        self.verdicts.tidy(TIDIED_PER_TURN);
        self.send_rest();
    }

    /// Takes what the process that makes pairs says.
    pub fn receive(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for _ in 0..REPLIES_PER_TURN {
            let mut bytes = [0; MESSAGE_LEN + 1];
            match recv(self.socket(), &mut bytes) {
                Ok(len) => events.extend(Reply::decode(&bytes[..len]).and_then(|reply| self.take(reply))),
                Err(Errno::EINTR) => {}
                // The master has both ends, so that neither is ever closed while this process lives.
                Err(_) => break,
            }
        }
        events
    }

    fn take(&mut self, reply: Reply) -> Option<Event> {
        match reply {
            Reply::Started => {
                let was_open = std::mem::replace(&mut self.is_open, false);
                self.begin();
                was_open.then_some(Event::Closed)
            }
            Reply::Ready(run) if run == self.run && !self.is_open => {
                self.is_open = true;
                Some(Event::Opened)
            }
            Reply::Made(run, token, index) if run == self.run => {
                let pair = self.pair_mut(peer(token))?;
                pair.index = Some(index);
                Some(Event::Made(pair.peer))
            }
            Reply::Lost(run, token, loss) if run == self.run => {
                let peer = self.pair_mut(peer(token))?.peer;
                self.forget(peer);
                Some(Event::Lost(peer, loss.text()))
            }
            // To an earlier process, or the log says why there is no path.
            _ => None,
        }
    }

    /// Has all pairs go, and pairs be made from then on. No verdict that was given before holds.
    fn begin(&mut self) {
        self.begun += 1;
        self.run = self.runs.hash_one(self.begun);
        self.unsent.clear();
        let peers: Vec<_> = self.pairs.values().map(|pair| pair.peer).collect();
        peers.into_iter().for_each(|peer| self.forget(peer));
        self.send(Request::Begin(self.run));
    }

    fn send(&mut self, request: Request) {
        self.unsent.push_back(request);
        self.send_rest();
    }

    /// Sends what waits, in its order, as far as there is room.
    fn send_rest(&mut self) {
        while let Some(request) = self.unsent.front() {
            match socket::send(self.socket(), &request.encode()) {
                Ok(_) => _ = self.unsent.pop_front(),
                Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    /// Asks for a peer's pair. Returns false if it can't be asked for at the moment.
    pub fn make_pair(&mut self, peer: PeerId, device: BorrowedFd<'_>) -> bool {
        if !self.is_open || !self.unsent.is_empty() {
            return false;
        }
        self.forget(peer);
        let request = Request::Make(self.run, token(peer)).encode();
        let is_sent = loop {
            match send_with_descriptor(self.socket(), &request, device) {
                Err(Errno::EINTR) => {}
                result => break result.is_ok(),
            }
        };
        if is_sent {
            let pair = Pair { peer, index: None, claims: HashSet::new(), places: HashSet::new() };
            self.pairs.insert(peer.index, pair);
        }
        is_sent
    }

    /// Removes a peer's pair.
    pub fn drop_pair(&mut self, peer: PeerId) {
        if self.pair(peer).is_some() {
            self.forget(peer);
            self.send(Request::Remove(self.run, token(peer)));
        }
    }

    /// Makes everything void that names a pair.
    fn forget(&mut self, peer: PeerId) {
        if self.pair(peer).is_none() {
            return;
        }
        let Some(pair) = self.pairs.remove(&peer.index) else { return };
        pair.places.iter().for_each(|place| self.verdicts.void(*place));
        if let Some(index) = pair.index {
            // A claim that isn't there is none.
            pair.claims.iter().for_each(|address| _ = self.endpoint.maps.set_claim(index, *address, false));
        }
    }

    /// Says whether a peer with a pair holds an address. Without memory for it, packets from there go by the router.
    pub fn set_claim(&mut self, peer: PeerId, address: IpAddr, is_held: bool) {
        let maps = &self.endpoint.maps;
        let Some(pair) = self.pairs.get_mut(&peer.index).filter(|pair| pair.peer == peer) else { return };
        let Some(index) = pair.index else { return };
        // Verdicts for its packets take a claim that is there; a claim that isn't there any more is none.
        if maps.set_claim(index, address, is_held).is_ok() && is_held {
            pair.claims.insert(address);
        } else {
            pair.claims.remove(&address);
        }
    }

    /// Gives the kernel a verdict. Returns false if it doesn't take it.
    pub fn offload(&mut self, flow: &KernelFlow) -> bool {
        let (Some(from), Some(to)) = (self.end(flow.from), self.end(flow.to)) else { return false };
        // A source that isn't claimed in the kernel has no packet let in.
        let is_claimed =
            flow.from.is_none_or(|peer| self.pair(peer).is_some_and(|pair| pair.claims.contains(&flow.key.src)));
        if !is_claimed {
            return false;
        }
        self.set_generation(flow.generation);
        let place = flow.id.place();
        if self.verdicts.give(place, flow.generation, &key(flow), from, to).is_err() {
            return false;
        }
        for peer in [flow.from, flow.to].into_iter().flatten() {
            if let Some(pair) = self.pair_mut(peer) {
                pair.places.insert(place);
            }
        }
        true
    }

    /// Makes verdicts void.
    pub fn revoke(&mut self, which: Revoke) {
        match which {
            Revoke::All { generation } => self.set_generation(generation),
            Revoke::Peer(peer) => {
                if let Some(pair) = self.pair(peer) {
                    pair.places.iter().for_each(|place| self.verdicts.void(*place));
                    pair.index.iter().for_each(|index| self.verdicts.void_lingering(End::Pair(*index)));
                }
            }
            Revoke::Flow(id) => self.verdicts.void(id.place()),
        }
    }

    /// Takes back a verdict.
    pub fn withdraw(&mut self, flow: &KernelFlow) -> Usage {
        let place = flow.id.place();
        for peer in [flow.from, flow.to].into_iter().flatten() {
            if let Some(pair) = self.pair_mut(peer) {
                pair.places.remove(&place);
            }
        }
        usage(self.verdicts.withdraw(place))
    }

    /// Returns what has passed by a verdict.
    pub fn usage(&mut self, flow: FlowId) -> Option<Usage> {
        self.verdicts.passed(flow.place()).map(usage)
    }

    /// Returns what was dropped at a peer's pair.
    pub fn drops(&self, peer: PeerId) -> PairDrops {
        let index = self.pair(peer).and_then(|pair| pair.index);
        let dropped = index.and_then(|index| self.endpoint.maps.dropped(index).ok().flatten()).unwrap_or_default();
        PairDrops { spoofed: dropped.spoofed, undecided: dropped.undecided }
    }

    fn set_generation(&mut self, generation: u32) {
        if self.generation != generation {
            self.generation = generation;
            self.verdicts.set_generation(generation);
        }
    }

    fn pair(&self, peer: PeerId) -> Option<&Pair> {
        self.pairs.get(&peer.index).filter(|pair| pair.peer == peer)
    }

    fn pair_mut(&mut self, peer: PeerId) -> Option<&mut Pair> {
        self.pairs.get_mut(&peer.index).filter(|pair| pair.peer == peer)
    }

    fn end(&self, peer: Option<PeerId>) -> Option<End> {
        match peer {
            None => Some(End::Host),
            Some(peer) => self.pair(peer)?.index.map(End::Pair),
        }
    }
}

fn token(peer: PeerId) -> Token {
    u64::from(peer.index) << 32 | u64::from(peer.generation)
}

#[allow(clippy::cast_possible_truncation)] // both halves are taken
const fn peer(token: Token) -> PeerId {
    PeerId { index: (token >> 32) as u32, generation: token as u32 }
}

const fn key(flow: &KernelFlow) -> Key {
    let key = &flow.key;
    Key {
        source: key.src,
        destination: key.dst,
        source_port: key.src_port,
        destination_port: key.dst_port,
        protocol: key.protocol,
    }
}

const fn usage(passed: Passed) -> Usage {
    Usage { packets: passed.packets, bytes: passed.bytes, idle: passed.idle }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use tuntap_core::kernel_path::KernelKey;
    use tuntap_core::policy::claims::MAX_V6_ADDRESSES;
    use tuntap_offload::maps::MAX_PAIRS;
    use tuntap_offload::protocol::Loss;
    use tuntap_sys::socket::recv_with_descriptor;

    use super::super::sandbox::tests::{confine_as_with, in_own_process};
    use super::*;

    /// Most addresses of a peer.
    const ADDRESSES: usize = 1 + MAX_V6_ADDRESSES;

    const PEER: PeerId = PeerId { index: 3, generation: 7 };
    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));
    const INDEX: Index = 0x1234_5678;

    /// The end of the process that makes pairs.
    struct Maker(OwnedFd);

    impl Maker {
        /// The next request, and whether a descriptor came with it.
        fn hear(&self) -> Option<(Request, bool)> {
            let mut bytes = [0; MESSAGE_LEN];
            let (len, descriptor) = recv_with_descriptor(self.0.as_fd(), &mut bytes).ok()?;
            Some((Request::decode(&bytes[..len]).expect("a request"), descriptor.is_some()))
        }

        fn say(&self, reply: Reply) {
            socket::send(self.0.as_fd(), &reply.encode()).expect("room");
        }

        /// Takes a beginning, and answers.
        fn begin(&self) -> Run {
            let Some((Request::Begin(run), false)) = self.hear() else { panic!("a beginning") };
            self.say(Reply::Ready(run));
            run
        }
    }

    fn endpoint() -> (KernelEndpoint, Maker) {
        let maps = Arc::new(Maps::new(16).expect("needs root"));
        let (endpoint, socket) = KernelEndpoint::new(maps).expect("sockets");
        (endpoint, Maker(socket))
    }

    fn flow(slot: u32) -> KernelFlow {
        let id = FlowId { slot, is_inward: false };
        let host = IpAddr::from([10, 0, 0, 1]);
        let src_port = 1000 + u16::try_from(slot).expect("a small number");
        let key = KernelKey { src: ADDRESS, dst: host, protocol: 17, src_port, dst_port: 53 };
        KernelFlow { id, generation: 1, key, from: Some(PEER), to: None }
    }

    /// A path with a pair that is there.
    fn with_pair<'a>(endpoint: &'a KernelEndpoint, maker: &Maker) -> (KernelPath<'a>, Run) {
        let mut path = KernelPath::open(endpoint).expect("memory");
        let run = maker.begin();
        assert_eq!(path.receive(), [Event::Opened]);
        let device = File::open("/dev/null").expect("a file");
        assert!(path.make_pair(PEER, device.as_fd()));
        assert_eq!(maker.hear(), Some((Request::Make(run, token(PEER)), true)));
        maker.say(Reply::Made(run, token(PEER), INDEX));
        assert_eq!(path.receive(), [Event::Made(PEER)]);
        (path, run)
    }

    #[test]
    fn tokens_name_peers() {
        let last = PeerId { index: PeerId::MAX_INDEX - 1, generation: u32::MAX };
        assert_eq!([PEER, last].map(token).map(peer), [PEER, last]);
    }

    #[test]
    fn verdict_takes_a_pair_and_a_claim() {
        let (endpoint, maker) = endpoint();
        let (mut path, run) = with_pair(&endpoint, &maker);
        assert!(!path.offload(&flow(0)), "its source isn't claimed");
        path.set_claim(PEER, ADDRESS, true);
        let other = PeerId { generation: PEER.generation + 1, ..PEER };
        assert!(!path.offload(&KernelFlow { to: Some(other), ..flow(0) }), "the other one has no pair");
        assert!(path.offload(&flow(0)));
        assert_eq!(path.usage(flow(0).id).map(|usage| (usage.packets, usage.bytes)), Some((0, 0)));
        assert_eq!(path.usage(flow(1).id), None);
        // There is room for 16 of them.
        assert!((1..16).all(|slot| path.offload(&flow(slot))));
        assert!(!path.offload(&flow(16)), "there is no room");
        assert_eq!(path.drops(PEER), PairDrops::default());

        path.drop_pair(other);
        assert_eq!(maker.hear(), None, "it has none");
        path.drop_pair(PEER);
        assert_eq!(maker.hear(), Some((Request::Remove(run, token(PEER)), false)));
        assert!(!path.offload(&flow(0)));
        assert_eq!(path.withdraw(&flow(0)).packets, 0);
    }

    /// It makes no call of bpf(2), for which the kernel would end it (but to wait, without membarrier(2)).
    #[test]
    fn path_works_inside_the_sandbox() {
        in_own_process("kernel_path::tests::path_works_inside_the_sandbox", || {
            let (endpoint, maker) = endpoint();
            let (mut path, _) = with_pair(&endpoint, &maker);
            confine_as_with(&endpoint);
            path.set_claim(PEER, ADDRESS, true);
            assert!((0..16).all(|slot| path.offload(&flow(slot))));
            assert!(!path.offload(&flow(16)), "there is no room");
            assert_eq!(path.drops(PEER), PairDrops::default());
            path.revoke(Revoke::Flow(flow(0).id));
            endpoint.maps.wait_for_programs().expect("a barrier");
            assert_eq!(path.withdraw(&flow(0)).packets, 0);
            assert!(path.offload(&flow(0)));
            path.set_claim(PEER, ADDRESS, false);
            assert!(!path.offload(&flow(1)), "its source isn't claimed");
            path.drop_pair(PEER);
        });
    }

    #[test]
    fn claims_of_all_peers_have_room_and_without_room_there_is_no_verdict() {
        let (endpoint, maker) = endpoint();
        let (mut path, _) = with_pair(&endpoint, &maker);
        let claim = |number: usize| {
            let [peer, address] = [number / ADDRESSES, number % ADDRESSES].map(|it| u32::try_from(it).expect("small"));
            endpoint.maps.set_claim(INDEX + 1 + peer, IpAddr::from(std::net::Ipv4Addr::from(address)), true)
        };
        let all = MAX_PAIRS as usize * ADDRESSES;
        (0..all).for_each(|number| claim(number).expect("room"));
        (all..).find(|number| claim(*number).is_err()).expect("a map has an end");
        path.set_claim(PEER, ADDRESS, true);
        assert!(!path.offload(&flow(0)), "its packets would be dropped");
    }

    #[test]
    fn pair_that_is_dropped_before_it_is_made_is_none() {
        let (endpoint, maker) = endpoint();
        let mut path = KernelPath::open(&endpoint).expect("memory");
        let device = File::open("/dev/null").expect("a file");
        assert!(!path.make_pair(PEER, device.as_fd()), "nobody has answered yet");
        let run = maker.begin();
        assert_eq!(path.receive(), [Event::Opened]);
        assert!(path.make_pair(PEER, device.as_fd()));
        path.drop_pair(PEER);
        maker.say(Reply::Made(run, token(PEER), INDEX));
        assert_eq!(path.receive(), []);
        assert!(path.make_pair(PEER, device.as_fd()));
        maker.say(Reply::Lost(run, token(PEER), Loss::Refused));
        assert_eq!(path.receive(), [Event::Lost(PEER, Loss::Refused.text())]);
        maker.say(Reply::Lost(run, token(PEER), Loss::Damaged));
        assert_eq!(path.receive(), [], "that is known");
    }

    #[test]
    fn next_process_that_makes_pairs_begins_anew() {
        let (endpoint, maker) = endpoint();
        let (mut path, run) = with_pair(&endpoint, &maker);
        path.set_claim(PEER, ADDRESS, true);
        assert!(path.offload(&flow(0)));
        maker.say(Reply::Started);
        assert_eq!(path.receive(), [Event::Closed]);
        assert!(!path.offload(&flow(1)), "the pair is gone");
        // What the process before has said still comes.
        maker.say(Reply::Made(run, token(PEER), INDEX));
        maker.say(Reply::Ready(run));
        assert_eq!(path.receive(), []);
        assert_ne!(maker.begin(), run);
        assert_eq!(path.receive(), [Event::Opened]);
    }

    #[test]
    fn messages_that_find_no_room_are_sent_later() {
        let (endpoint, maker) = endpoint();
        let (mut path, run) = with_pair(&endpoint, &maker);
        let peers: Vec<_> = (10..5000).map(|index| PeerId { index, generation: 1 }).collect();
        let device = File::open("/dev/null").expect("a file");
        let made = peers.iter().take_while(|peer| path.make_pair(**peer, device.as_fd())).count();
        assert!(made < peers.len(), "the socket is full");
        path.drop_pair(PEER);
        let now = Instant::now();
        assert_eq!(path.next_deadline(now), Some(now + SEND_PAUSE));
        let heard: Vec<_> = std::iter::from_fn(|| maker.hear()).collect();
        assert_eq!(heard.len(), made);
        path.tidy();
        assert_eq!(maker.hear(), Some((Request::Remove(run, token(PEER)), false)));
        assert_eq!(path.next_deadline(now), None);
    }

    #[test]
    fn map_sizes_follow_the_number_of_flows() {
        assert_eq!(KernelEndpoint::size(100), 200);
        assert_eq!(KernelEndpoint::size(1 << 20) as usize, ROOM);
    }
}
