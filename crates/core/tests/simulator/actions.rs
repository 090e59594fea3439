//! What happens in a simulation. Simple things are first, so that cases shrink to them.

use proptest::prelude::*;

use super::packets::{Header, PacketSpec, header, packet};
use super::setup::ADDRESSES;

/// Who connects: user, group, other groups, network namespace.
pub const PEOPLE: [(u32, u32, &[u32], Option<u64>); 8] = [
    (1000, 1000, &[], Some(2)),
    (1001, 1001, &[], Some(3)),
    (0, 0, &[], Some(4)),
    (0, 0, &[], Some(5)),
    (1002, 50, &[], Some(6)),
    (1003, 1003, &[50, 60], Some(7)),
    (0, 0, &[], Some(super::setup::NAMESPACE)),
    (0, 0, &[], None),
];

/// A rule of a peer: for packets from or to an address, or for all.
#[derive(Debug, Clone, Copy)]
pub struct RuleSpec {
    pub is_out: bool,
    /// Of [`ADDRESSES`]: the other end.
    pub other: Option<usize>,
    pub act: Act,
}

/// What a rule asks for.
#[derive(Debug, Clone, Copy)]
pub enum Act {
    Allow,
    Deny,
    Reject,
    /// Of [`super::setup::TARGETS`].
    Route(usize),
}

/// A descriptor that comes with a hello.
#[derive(Debug, Clone, Copy)]
pub enum Offer {
    Good,
    None,
    NoDevice,
    NoHeader,
    Own,
    Napi,
    Queues,
    Blocking,
}

/// What a peer sends.
#[derive(Debug, Clone)]
pub enum Word {
    Packet(PacketSpec),
    Hello(Offer),
    Rules(Vec<RuleSpec>),
    /// Which families, and the name.
    Ask(bool, bool, u8),
    /// Addresses, and whether the router chose them once.
    Claim(Vec<(usize, bool)>),
    /// A hello of another version.
    OldHello,
    /// A frame of an unknown kind, or of one that a router sends.
    Unknown(u8, usize),
    /// A block of rules that is none.
    BadRules(usize),
    /// A frame of zero bytes, or one that is too long.
    BadFrame(bool),
}

/// What a peer shows of itself before its first frame.
#[derive(Debug, Clone, Copy)]
pub enum Shown {
    /// Itself.
    Itself,
    /// Somebody else, as root may.
    Other(usize),
    /// The magic, without credentials.
    Nobody,
    /// Something else.
    Junk,
}

/// What is told of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hearsay {
    /// It is held by a claim that is older than all here.
    Older,
    /// It is held by a claim that is newer than all here.
    Newer,
    /// It is free.
    Free,
}

/// A device's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceState {
    Good,
    Full,
    Refusing,
    Deleted,
}

/// What may go wrong in the next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    Open,
    Watch,
    Attach,
    Send,
}

/// An event for a peer that is gone.
#[derive(Debug, Clone, Copy)]
pub enum Stale {
    Readable,
    Writable,
    Ended,
    DevicePacket,
    DeviceGone,
    Credentials,
}

/// One thing that happens. Peers are numbered among those that are there.
#[derive(Debug, Clone)]
pub enum Action {
    /// Time passes, and a turn ends.
    Wait(u64),
    /// Somebody connects and behaves: rules, a hello with a device, a packet.
    Join {
        who: usize,
        rules: Vec<RuleSpec>,
        attached: bool,
    },
    /// A peer writes frames, and the router reads so many bytes of them, in pieces.
    Send {
        peer: usize,
        words: Vec<Word>,
        piece: usize,
        left: usize,
    },
    /// A peer's device has packets.
    Device {
        peer: usize,
        packet: PacketSpec,
        header: Header,
    },
    /// Many packets to a peer, of so many bytes. Each write to its device takes so long, and its socket takes nothing.
    Flood {
        peer: usize,
        micros: u64,
        len: usize,
    },
    /// Packets towards the peers.
    Tun {
        packet: PacketSpec,
        header: Header,
        count: usize,
    },
    /// A datagram, from an address that is named or another one, by a device or not.
    Gateway {
        packet: PacketSpec,
        named: bool,
        by_device: bool,
    },
    /// A peer reads so many bytes.
    Drain(usize, usize),
    /// A peer's socket takes so many bytes.
    Room(usize, usize),
    HangUp(usize),
    Connect(usize),
    Show(usize, Shown),
    /// Writes to a peer's device take so many microseconds.
    Cost(usize, u64),
    DeviceState(usize, DeviceState),
    /// A peer's device can't be read any more.
    DeviceError(usize, u8),
    TunState(DeviceState),
    ClosingMany(bool),
    Fault(FaultKind),
    AcceptFails,
    Stale(usize, Stale),
    Grant,
    /// Another router's peer holds an address, of [`ADDRESSES`], or does no longer: by which source, and what it tells.
    Elsewhere(u16, usize, Hearsay),
    /// A source is gone.
    SourceGone(u16),
    /// A peer and what has one of [`ADDRESSES`] send each other so many datagrams of one flow.
    Stream {
        from: usize,
        to: usize,
        count: usize,
    },
    /// So many packets pass in the kernel, by one of its verdicts.
    Pass {
        verdict: usize,
        packets: u64,
    },
    /// The kernel loses a verdict.
    LoseVerdict(usize),
    /// A peer's pair is deleted.
    LosePair(usize),
    /// The kernel takes no more verdicts, or does again.
    KernelFull(bool),
    /// No pair can be made, or they can again.
    NoPairs(bool),
    /// Somebody captures packets, or stops.
    Capture(bool),
    /// The path in the kernel goes, or comes.
    KernelPath(bool),
    /// The policy is replaced by one that says the same.
    Swap,
    /// The router dies and another one follows; it may have hung in a write to a peer's device.
    Die(Option<usize>),
}

fn rules() -> impl Strategy<Value = Vec<RuleSpec>> {
    let act = prop_oneof![
        2 => Just(Act::Allow),
        3 => Just(Act::Deny),
        4 => Just(Act::Reject),
        3 => (0..3_usize).prop_map(Act::Route)
    ];
    let other =
        prop_oneof![2 => (0..17_usize).prop_map(Some), 2 => (0..ADDRESSES.len()).prop_map(Some), 2 => Just(None)];
    let rule = (any::<bool>(), other, act).prop_map(|(is_out, other, act)| RuleSpec { is_out, other, act });
    proptest::collection::vec(rule, 0..4)
}

fn word() -> impl Strategy<Value = Word> {
    let offer = prop_oneof![
        6 => Just(Offer::Good),
        1 => Just(Offer::None),
        1 => Just(Offer::NoDevice),
        1 => Just(Offer::NoHeader),
        1 => Just(Offer::Own),
        1 => Just(Offer::Napi),
        1 => Just(Offer::Queues),
        1 => Just(Offer::Blocking)
    ];
    prop_oneof![
        12 => packet(8060).prop_map(Word::Packet),
        2 => offer.prop_map(Word::Hello),
        3 => rules().prop_map(Word::Rules),
        2 => (any::<bool>(), any::<bool>(), 0..3_u8).prop_map(|(v4, v6, name)| Word::Ask(v4, v6, name)),
        2 => proptest::collection::vec((0..ADDRESSES.len(), any::<bool>()), 1..3).prop_map(Word::Claim),
        1 => Just(Word::OldHello),
        1 => (any::<u8>(), 1..50_usize).prop_map(|(kind, len)| Word::Unknown(kind, len)),
        1 => (1..50_usize).prop_map(Word::BadRules),
        1 => any::<bool>().prop_map(Word::BadFrame)
    ]
}

pub fn action() -> impl Strategy<Value = Action> {
    let peer = || 0..64_usize;
    let state = || {
        prop_oneof![
            3 => Just(DeviceState::Good),
            1 => Just(DeviceState::Full),
            1 => Just(DeviceState::Refusing),
            1 => Just(DeviceState::Deleted)
        ]
    };
    let wait = prop_oneof![4 => 0..50_u64, 2 => 100..3000_u64, 1 => 10_000..100_000_u64];
    let piece = prop_oneof![2 => 1..40_usize, 2 => 1000..9000_usize, 3 => Just(65_536_usize)];
    let left = prop_oneof![3 => Just(0_usize), 1 => 1..60_usize];
    let words = proptest::collection::vec(word(), 1..5);
    let shown = prop_oneof![
        4 => Just(Shown::Itself),
        2 => (0..PEOPLE.len()).prop_map(Shown::Other),
        1 => Just(Shown::Nobody),
        1 => Just(Shown::Junk)
    ];
    let stale = prop_oneof![
        Just(Stale::Readable),
        Just(Stale::Writable),
        Just(Stale::Ended),
        Just(Stale::DevicePacket),
        Just(Stale::DeviceGone),
        Just(Stale::Credentials)
    ];
    let fault =
        prop_oneof![Just(FaultKind::Open), Just(FaultKind::Watch), Just(FaultKind::Attach), Just(FaultKind::Send)];
    let who = || 0..PEOPLE.len();
    let cost = prop_oneof![Just(0_u64), Just(300), Just(20_000)];
    let room = prop_oneof![Just(0_usize), 1..300_usize, Just(100_000), Just(1_000_000)];
    let events = prop_oneof![
        3 => wait.prop_map(Action::Wait),
        5 => (who(), rules(), any::<bool>()).prop_map(|(who, rules, attached)| Action::Join { who, rules, attached }),
        8 => (peer(), words, piece, left).prop_map(|(peer, words, piece, left)| Action::Send { peer, words, piece, left }),
        5 => (peer(), packet(60_000), header()).prop_map(|(peer, packet, header)| Action::Device { peer, packet, header }),
        6 => (packet(60_000), header(), prop_oneof![4 => Just(1_usize), 2 => 2..30_usize])
            .prop_map(|(packet, header, count)| Action::Tun { packet, header, count }),
        2 => (packet(20_000), any::<bool>(), any::<bool>())
            .prop_map(|(packet, named, by_device)| Action::Gateway { packet, named, by_device }),
    ];
    let flood = (peer(), prop_oneof![Just(0_u64), Just(20_000)], prop_oneof![Just(40_usize), Just(7000)]);
    let peers = prop_oneof![
        2 => flood.prop_map(|(peer, micros, len)| Action::Flood { peer, micros, len }),
        2 => (peer(), prop_oneof![1..100_usize, Just(1_000_000)]).prop_map(|(peer, len)| Action::Drain(peer, len)),
        2 => (peer(), room).prop_map(|(peer, len)| Action::Room(peer, len)),
        2 => peer().prop_map(Action::HangUp),
        2 => who().prop_map(Action::Connect),
        2 => (peer(), shown).prop_map(|(peer, shown)| Action::Show(peer, shown)),
        2 => (peer(), cost).prop_map(|(peer, cost)| Action::Cost(peer, cost)),
        1 => (peer(), state()).prop_map(|(peer, state)| Action::DeviceState(peer, state)),
        1 => (peer(), 0..4_u8).prop_map(|(peer, kind)| Action::DeviceError(peer, kind)),
        2 => (peer(), stale).prop_map(|(peer, stale)| Action::Stale(peer, stale)),
    ];
    let hearsay = prop_oneof![2 => Just(Hearsay::Older), 3 => Just(Hearsay::Newer), 3 => Just(Hearsay::Free)];
    let world = prop_oneof![
        6 => (0..2_u16, 0..ADDRESSES.len(), hearsay).prop_map(|(by, at, told)| Action::Elsewhere(by, at, told)),
        1 => (0..2_u16).prop_map(Action::SourceGone),
        1 => state().prop_map(Action::TunState),
        1 => any::<bool>().prop_map(Action::ClosingMany),
        1 => fault.prop_map(Action::Fault),
        1 => Just(Action::AcceptFails),
        1 => Just(Action::Grant),
        1 => Just(Action::Swap),
        2 => Just(Action::Die(None)),
        1 => peer().prop_map(|peer| Action::Die(Some(peer))),
    ];
    let kernel = prop_oneof![
        6 => (peer(), 0..ADDRESSES.len(), 9..12_usize).prop_map(|(from, to, count)| Action::Stream { from, to, count }),
        6 => (0..64_usize, 1..200_u64).prop_map(|(verdict, packets)| Action::Pass { verdict, packets }),
        1 => (0..64_usize).prop_map(Action::LoseVerdict),
        1 => peer().prop_map(Action::LosePair),
        1 => any::<bool>().prop_map(Action::KernelFull),
        1 => any::<bool>().prop_map(Action::NoPairs),
        1 => any::<bool>().prop_map(Action::Capture),
        1 => any::<bool>().prop_map(Action::KernelPath),
    ];
    prop_oneof![10 => events, 4 => peers, 3 => world, 4 => kernel]
}
