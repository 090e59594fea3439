//! What a neighbour sends on a trunk. Whatever it is, another neighbour's announcements stay, nothing outside of the networks is
//! known or let through, and what is read can be written.
//!
//! Input: flags (1 byte: relay, the neighbour has greeted), then operations. The first byte of each, modulo 8, says which: bytes
//! as they are, a frame of any kind, an announcement, a withdrawal, a hello, an end, a packet, or time that passes.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tuntap_core::shaper::Loss;
use tuntap_core::trunk::{Input as Reading, Neighbour, Notice, Refusal, Sent, Shell, State, TrunkId, Trunks};
use tuntap_wire::holding::{ClaimTime, Holding, RouterId};
use tuntap_wire::trunk::{
    Announcement, Frames, HEADER_LEN, Hello, MAX_MESSAGE_LEN, MAX_PAYLOAD_LEN, Message, Path, append_announce,
    append_end, append_withdraw, packet_header, whole_frames,
};

use super::input::Input;

/// The neighbour that sends what the fuzzer says.
const HOSTILE: TrunkId = TrunkId(0);
/// The one that must not be affected.
const OTHER: TrunkId = TrunkId(1);

fn id(number: u8) -> RouterId {
    RouterId::new(u64::from(number) + 1).expect("not 0")
}

/// The networks of the hostile neighbour.
fn networks() -> Vec<IpNet> {
    ["10.77.0.0/16", "fd00:77::/64"].map(|net| net.parse().expect("a network")).to_vec()
}

#[derive(Default)]
struct Ends {
    told: HashMap<(TrunkId, IpAddr), Holding>,
    ended: HashSet<TrunkId>,
    notices: usize,
}

impl Shell for Ends {
    fn send(&mut self, _: TrunkId, parts: &[&[u8]]) -> Sent {
        let message = parts.concat();
        assert!(message.len() <= MAX_MESSAGE_LEN);
        assert_eq!(whole_frames(&message, usize::MAX), Ok(message.len()), "a message is whole frames");
        for frame in Frames::new(&message) {
            assert!(Message::decode(frame.expect("a good one")).is_ok(), "this side says what can be read");
        }
        Sent::All
    }

    fn told(&mut self, trunk: TrunkId, address: IpAddr, announcement: Option<&Announcement>) {
        match announcement {
            Some(announcement) => self.told.insert((trunk, address), announcement.holding),
            None => self.told.remove(&(trunk, address)),
        };
    }

    fn lost(&mut self, _: TrunkId, _: Vec<u8>, _: Loss) {}

    fn ended(&mut self, trunk: TrunkId, _neighbour: RouterId) {
        assert!(self.ended.insert(trunk), "it ends once");
        self.told.retain(|(source, _), _| *source != trunk);
    }

    fn notice(&mut self, _: Notice) {
        self.notices += 1;
    }
}

/// Reads the bytes as operations.
pub fn check(data: &[u8]) {
    check_frames(data);
    let mut input = Input::new(data);
    let flags = input.byte();
    let mut now = Instant::now();
    let neighbours = [0, 1].map(|number| Neighbour { router: id(number), networks: networks(), relay: flags & 1 == 1 });
    let mut trunks = Trunks::new(id(9), "fuzzed", neighbours.to_vec(), now);
    let mut ends = Ends::default();
    for trunk in [HOSTILE, OTHER] {
        trunks.connected(trunk, now, &mut ends);
    }
    let kept = IpAddr::V4(Ipv4Addr::new(10, 77, 200, 1));
    let mut greeting = Vec::new();
    Hello::new(id(1), "other", true).append(&mut greeting);
    append_announce(&mut greeting, kept, &Announcement::own(Holding { router: id(1), since: ClaimTime(5) }));
    read(&mut trunks, OTHER, &greeting, now, &mut ends);
    if flags & 2 == 2 {
        let mut hello = Vec::new();
        Hello::new(id(0), "hostile", true).append(&mut hello);
        read(&mut trunks, HOSTILE, &hello, now, &mut ends);
    }
    while !input.is_empty() {
        let mut message = Vec::new();
        if write(&mut input, &mut message) {
            read(&mut trunks, HOSTILE, &message, now, &mut ends);
        } else {
            now += Duration::from_millis(100 * u64::from(input.byte() % 8));
            // The other one lives.
            let mut end = Vec::new();
            append_end(&mut end);
            read(&mut trunks, OTHER, &end, now, &mut ends);
            trunks.poll(now, &mut ends);
        }
        trunks.flush(now, &mut ends);
        check_state(&trunks, &ends, kept);
    }
}

/// Writes what the neighbour sends next. Returns false if time is to pass instead.
fn write(input: &mut Input<'_>, out: &mut Vec<u8>) -> bool {
    match input.below(8) {
        0 => out.extend((0..input.byte()).map(|_| input.byte())),
        1 => {
            let len = input.byte();
            out.extend_from_slice(&[0, 0, 0, len, input.byte(), input.byte()]);
            out.extend((0..len).map(|_| input.byte()));
        }
        2 => {
            let address = address(input);
            let holding = Holding { router: id(input.byte() % 12), since: ClaimTime(u64::from(input.byte())) };
            let path =
                (0..input.below(10)).fold(Path::EMPTY, |path, _| path.with(id(input.byte() % 12)).unwrap_or(path));
            append_announce(out, address, &Announcement { holding, path });
        }
        3 => append_withdraw(out, address(input)),
        4 => Hello::new(id(input.byte() % 3), "again", input.flag()).append(out),
        5 => append_end(out),
        6 => {
            let source = address(input);
            let mut packet = vec![0; 10];
            match source {
                IpAddr::V4(source) => {
                    packet.extend_from_slice(&[0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]);
                    packet.extend_from_slice(&source.octets());
                    packet.extend_from_slice(&[10, 77, 200, 1, 0, 1, 0, 2, 0, 8, 0, 0]);
                }
                IpAddr::V6(source) => {
                    packet.extend_from_slice(&[0x60, 0, 0, 0, 0, 8, 17, 64]);
                    packet.extend_from_slice(&source.octets());
                    packet.extend_from_slice(&source.octets());
                    packet.extend_from_slice(&[0, 1, 0, 2, 0, 8, 0, 0]);
                }
            }
            let at = usize::from(input.byte()) % packet.len();
            packet[at] ^= input.byte();
            out.extend_from_slice(&packet_header(packet.len(), input.byte()).expect("short"));
            out.extend_from_slice(&packet);
        }
        _ => return false,
    }
    true
}

/// An address: most of them in the networks.
fn address(input: &mut Input<'_>) -> IpAddr {
    let [kind, low] = input.array();
    match kind % 8 {
        0 => IpAddr::V4(Ipv4Addr::from(input.array::<4>())),
        1 => IpAddr::V6(Ipv6Addr::from(input.array::<16>())),
        2 | 3 => IpAddr::V6(Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, u16::from(low))),
        _ => IpAddr::V4(Ipv4Addr::new(10, 77, 0, low)),
    }
}

fn read(trunks: &mut Trunks, trunk: TrunkId, message: &[u8], now: Instant, ends: &mut Ends) {
    let mut reading = Reading::new(message);
    while let Some(packet) = trunks.read(trunk, &mut reading, now, ends) {
        assert_eq!(packet.trunk, trunk);
        let ip = packet.packet.packet();
        assert!(networks().iter().any(|net| net.contains(&ip.src())), "{}", ip.src());
        if let Some(next) = trunks.route(ip.dst(), Some(trunk)) {
            assert_ne!(next, trunk, "nothing goes back");
            trunks.send(next, &packet.packet, 0, packet.hops, now, ends);
        }
    }
}

fn check_state(trunks: &Trunks, ends: &Ends, kept: IpAddr) {
    assert!(!ends.ended.contains(&OTHER), "only the neighbour's own trunk ends");
    assert!(trunks.told_by(OTHER, kept).is_some());
    let mut count = 0;
    for ((trunk, address), holding) in ends.told.iter().filter(|((trunk, _), _)| *trunk == HOSTILE) {
        count += 1;
        assert!(networks().iter().any(|net| net.contains(address)), "{address}");
        let told = trunks.told_by(*trunk, *address).expect("what was told is known");
        assert_eq!((told.holding, told.teller(), told.has(id(9))), (*holding, id(0), false));
    }
    let view = trunks.view(HOSTILE);
    assert_eq!(view.announced, count);
    assert_eq!(view.state == State::Down, ends.ended.contains(&HOSTILE));
    let statistics = trunks.statistics(HOSTILE);
    let told_once = Refusal::ALL.iter().filter(|refusal| statistics.refused(**refusal) > 0).count();
    // Each trunk opens once and may end, and each refusal is told once.
    assert!(ends.notices <= 2 + 1 + told_once);
}

/// The frames at the start of the bytes, compared with the obvious way to read them.
fn check_frames(data: &[u8]) {
    let mut rest = data;
    let mut frames = Frames::new(data);
    let mut whole = Some(0);
    while let Some(header) = rest.get(..HEADER_LEN) {
        let len = header[..4].iter().fold(0, |len, byte| len * 256 + usize::from(*byte));
        if len > MAX_PAYLOAD_LEN {
            assert!(frames.next().is_some_and(|frame| frame.is_err()));
            whole = None;
            break;
        }
        let Some(payload) = rest.get(HEADER_LEN..HEADER_LEN + len) else { break };
        let frame = frames.next().expect("it is whole").expect("it is short enough");
        assert_eq!((frame.kind.number(), frame.hops, frame.payload), (header[4], header[5], payload));
        rest = &rest[HEADER_LEN + len..];
        whole = whole.map(|end| end + HEADER_LEN + len);
    }
    assert!(frames.next().is_none());
    assert_eq!(frames.rest(), rest);
    assert_eq!(whole_frames(data, usize::MAX).ok(), whole);
}
