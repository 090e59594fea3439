//! A peer: its process, its connection and its device.

use std::collections::VecDeque;
use std::net::IpAddr;

use tuntap_core::policy::registry::PeerId;
use tuntap_wire::autoconf::{ClaimRequest, ClaimedAddress, ConfigurationRequest};
use tuntap_wire::credentials::PeerCredentials;
use tuntap_wire::frame::{FrameKind, HEADER_LEN, MAX_PAYLOAD_LEN};
use tuntap_wire::greeting::CREDENTIALS_MAGIC;
use tuntap_wire::rule::{self, Direction, PeerRule, PeerSelector, RuleAction};
use tuntap_wire::selector::{AddressPattern, Selector};

use super::actions::{Act, DeviceState, Offer, RuleSpec, Shown, Word};
use super::packets::Expected;
use super::setup::{ADDRESSES, TARGETS, address, target};

/// Number of a connection. It is never used again.
pub type Number = usize;

/// A frame that a peer has written.
#[derive(Debug, Clone)]
pub enum Sent {
    Packet(Box<Expected>),
    Rules(Vec<PeerRule>),
    Hello,
    /// Addresses that are asked for by name; none where the router is to choose them.
    Request(Vec<IpAddr>),
    Unknown,
    /// The router has to close the connection.
    Fatal,
}

/// A device that a peer has passed.
#[derive(Debug, Clone, Copy)]
pub struct Device {
    pub state: DeviceState,
    /// Nanoseconds of a write.
    pub cost: u64,
    pub is_attached: bool,
}

/// A connection, with both of its ends.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The peer's name in the router, from the connect to the close.
    pub id: Option<PeerId>,
    /// Who called connect(2).
    pub credentials: PeerCredentials,
    pub groups: Vec<u32>,
    pub namespace: Option<u64>,
    /// Whom it has shown.
    pub shown: Option<Option<PeerCredentials>>,
    /// The addresses that it uses, of IPv4 and of IPv6.
    pub usual: [IpAddr; 2],
    /// Bytes on their way to the router.
    pub outbox: VecDeque<u8>,
    pub bytes_written: u64,
    pub bytes_read: u64,
    /// Where the first frame begins that the router has not read to its end.
    pub frame_start: u64,
    /// Frames that the router has not read to their ends, with the numbers of the bytes behind them.
    pub frames: VecDeque<(u64, Sent)>,
    /// Descriptors, with the numbers of the bytes that they come with.
    pub descriptors: VecDeque<(u64, Offer)>,
    /// What waits in the router for this peer.
    pub queued: VecDeque<u8>,
    /// Bytes that its socket takes.
    pub room: usize,
    /// Bytes in its socket.
    pub in_socket: usize,
    /// The place in the frame that is being sent to it, in bytes; 0 is its start.
    pub in_frame: InFrame,
    pub has_hung_up: bool,
    pub send_fails: bool,
    pub watches_writable: bool,
    pub refuses_descriptors: bool,
    pub offer: Option<Offer>,
    pub device: Option<Device>,
    /// What the router must go by: rules from before the first packet that was accepted.
    pub rules: Vec<PeerRule>,
    /// True if an earlier router had this peer.
    pub was_restored: bool,
}

/// How much of a frame towards a peer was sent.
#[derive(Debug, Clone, Default)]
pub struct InFrame {
    header: Vec<u8>,
    left: usize,
}

impl InFrame {
    /// Takes note of bytes that were sent.
    pub fn pass(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.left > 0 {
                self.left -= 1;
                continue;
            }
            self.header.push(*byte);
            if let [_, low, high, _] = self.header[..] {
                self.left = usize::from(u16::from_le_bytes([low, high]));
                self.header.clear();
            }
        }
    }

    pub fn is_at_start(&self) -> bool {
        self.left == 0 && self.header.is_empty()
    }
}

impl Connection {
    pub fn new((uid, gid, groups, namespace): (u32, u32, &[u32], Option<u64>), pid: i32, usual: [IpAddr; 2]) -> Self {
        Self {
            id: None,
            credentials: PeerCredentials { pid, uid, gid },
            groups: groups.to_vec(),
            namespace,
            shown: None,
            usual,
            outbox: VecDeque::new(),
            bytes_written: 0,
            bytes_read: 0,
            frame_start: 0,
            frames: VecDeque::new(),
            descriptors: VecDeque::new(),
            queued: VecDeque::new(),
            room: 200_000,
            in_socket: 0,
            in_frame: InFrame::default(),
            has_hung_up: false,
            send_fails: false,
            watches_writable: false,
            refuses_descriptors: false,
            offer: None,
            device: None,
            rules: Vec::new(),
            was_restored: false,
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.outbox.extend(bytes);
        self.bytes_written += bytes.len() as u64;
    }

    fn write_frame(&mut self, kind: u8, payload: &[u8], sent: Sent) {
        let [low, high] = u16::try_from(payload.len()).expect("short enough").to_le_bytes();
        self.write(&[0, low, high, kind]);
        self.write(payload);
        self.frames.push_back((self.bytes_written, sent));
    }

    /// Closes its end, and forgets what the router has not read.
    pub fn give_up(&mut self) {
        self.has_hung_up = true;
        self.outbox.clear();
        self.frames.clear();
        self.descriptors.clear();
        (self.bytes_read, self.frame_start) = (self.bytes_written, self.bytes_written);
    }

    /// Sends credentials, before any frame.
    pub fn show(&mut self, shown: Shown, other: PeerCredentials) {
        if self.bytes_written > 0 {
            return;
        }
        let itself = self.credentials;
        let (magic, shown): (&[u8], _) = match shown {
            Shown::Itself => (CREDENTIALS_MAGIC, Some(itself)),
            Shown::Other(_) if itself.uid == 0 => (CREDENTIALS_MAGIC, Some(other)),
            Shown::Other(_) => (CREDENTIALS_MAGIC, Some(itself)),
            Shown::Nobody => (CREDENTIALS_MAGIC, None),
            Shown::Junk => (b"uwsgi-tuntip", Some(itself)),
        };
        self.write(magic);
        self.shown = Some(shown);
        self.frame_start = self.bytes_written;
        if magic != CREDENTIALS_MAGIC {
            self.frames.push_back((self.bytes_written, Sent::Fatal));
        }
    }

    /// Sends a frame.
    pub fn say(&mut self, word: &Word, rule_limit: usize, number: u64) {
        match word {
            Word::Packet(packet) => {
                let bytes = packet.bytes(self.usual, number);
                self.write_frame(0, &bytes, Sent::Packet(Box::new(Expected::of(&bytes))));
            }
            Word::Hello(offer) => {
                if !matches!(offer, Offer::None) {
                    self.descriptors.push_back((self.bytes_written, *offer));
                }
                self.write_frame(FrameKind::Hello.modifier2(), &[1, 10, 0, 0, 1, 0, 0, 0], Sent::Hello);
            }
            Word::OldHello => {
                self.write_frame(FrameKind::Hello.modifier2(), &[9, 10, 0, 0, 1, 0, 0, 0], Sent::Hello);
            }
            Word::Rules(specs) => self.say_rules(specs, rule_limit),
            Word::Ask(v4, v6, name) => {
                let payload = ConfigurationRequest { v4: *v4, v6: *v6, name: u64::from(*name) }.encode();
                self.write_frame(FrameKind::ConfigurationRequest.modifier2(), &payload, Sent::Request(Vec::new()));
            }
            Word::Claim(wanted) => {
                let claimed = |(index, leased): &(usize, bool)| ClaimedAddress {
                    address: address(ADDRESSES[*index].0),
                    assigned: *leased,
                };
                let addresses: Vec<_> = wanted.iter().map(claimed).collect();
                let named = addresses.iter().map(|it| it.address).collect();
                let payload = ClaimRequest { addresses }.encode();
                self.write_frame(FrameKind::ClaimRequest.modifier2(), &payload, Sent::Request(named));
            }
            Word::Unknown(kind, len) => {
                let known = [0, 1, 0x74, 0x76, 0x78, 0x79].contains(kind);
                let kind = if known { 0xfe } else { *kind };
                self.write_frame(kind, &vec![0x5a; *len], Sent::Unknown);
            }
            Word::BadRules(len) => {
                let len = if len % rule::RULE_LEN == 0 { len + 1 } else { *len };
                self.write_frame(FrameKind::Rules.modifier2(), &vec![0; len], Sent::Fatal);
            }
            Word::BadFrame(is_long) => {
                let len = if *is_long { MAX_PAYLOAD_LEN + 1 } else { 0 };
                let [low, high] = u16::try_from(len).expect("short enough").to_le_bytes();
                self.write(&[0, low, high, 0]);
                self.frames.push_back((self.bytes_written, Sent::Fatal));
            }
        }
    }

    fn say_rules(&mut self, specs: &[RuleSpec], limit: usize) {
        let rules: Vec<_> = specs.iter().map(peer_rule).collect();
        let Some((kind, payload)) = rule::encode_all(rules.iter()).filter(|(_, payload)| !payload.is_empty()) else {
            return;
        };
        let decode = if kind == FrameKind::Rules { rule::decode_all } else { rule::decode_all_extended };
        let rules = decode(&payload).expect("it was encoded");
        let sent = if rules.len() > limit { Sent::Fatal } else { Sent::Rules(rules) };
        self.write_frame(kind.modifier2(), &payload, sent);
    }

    /// The frames that the router has read to their ends; of those, none behind one that is fatal.
    pub fn frames_read(&mut self) -> Vec<Sent> {
        let mut read = Vec::new();
        while self.frames.front().is_some_and(|(end, _)| *end <= self.bytes_read)
            && let Some((end, sent)) = self.frames.pop_front()
        {
            self.frame_start = end;
            let is_fatal = matches!(sent, Sent::Fatal);
            read.push(sent);
            if is_fatal {
                break;
            }
        }
        read
    }

    /// Bytes that the router has read of a frame, or of what stands before the first one.
    pub const fn partial(&self) -> u64 {
        if self.shown.is_some() && self.bytes_read < CREDENTIALS_MAGIC.len() as u64 {
            self.bytes_read
        } else {
            self.bytes_read - self.frame_start
        }
    }
}

fn peer_rule(spec: &RuleSpec) -> PeerRule {
    let pattern =
        spec.other.map_or(AddressPattern::Any, |index| AddressPattern::Net(address(ADDRESSES[index].0).into()));
    let (src, dst) = if spec.is_out { (AddressPattern::Any, pattern) } else { (pattern, AddressPattern::Any) };
    PeerRule {
        direction: if spec.is_out { Direction::Out } else { Direction::In },
        selector: PeerSelector::Full(Selector::new(src, dst, None).expect("one version")),
        action: match spec.act {
            Act::Allow => RuleAction::Allow,
            Act::Deny => RuleAction::Deny,
            Act::Reject => RuleAction::Reject,
            Act::Route(index) => RuleAction::Route(target(TARGETS[index])),
        },
    }
}

/// The frames in bytes that were queued; `None` if these are no whole frames.
pub fn whole_frames(mut bytes: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let (&[first, low, high, kind], rest) = bytes.split_first_chunk::<HEADER_LEN>()?;
        let (payload, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([low, high])))?;
        if first != 0 || payload.is_empty() {
            return None;
        }
        frames.push((kind, payload));
        bytes = rest;
    }
    Some(frames)
}
