//! What a neighbour's messages do.

use std::net::IpAddr;
use std::time::Instant;

use tuntap_wire::autoconf::is_claimable;
use tuntap_wire::gso::GsoPacket;
use tuntap_wire::trunk::{Announcement, Frames, Hello, Message};

use super::TrunkId;
use super::notice::{EndReason, Notice, Refusal};
use super::trunks::{Shell, Trunk, Trunks};

/// A packet from a neighbour, whose source is in the neighbour's networks.
#[derive(Debug, Clone, Copy)]
pub struct TrunkPacket<'a> {
    /// The neighbour.
    pub trunk: TrunkId,
    /// The packet.
    pub packet: GsoPacket<'a>,
    /// How many trunks it may still cross.
    pub hops: u8,
}

/// A message from a connection, of which a part has been read.
#[derive(Debug)]
pub struct Input<'a> {
    frames: Frames<'a>,
}

impl<'a> Input<'a> {
    /// Starts at the front of a message.
    pub const fn new(message: &'a [u8]) -> Self {
        Self { frames: Frames::new(message) }
    }
}

impl Trunks {
    /// Reads a message up to its next packet. To be called until it returns `None`. Once the message makes the trunk end, there
    /// are no more packets.
    pub fn read<'a>(
        &mut self,
        id: TrunkId,
        input: &mut Input<'a>,
        now: Instant,
        shell: &mut impl Shell,
    ) -> Option<TrunkPacket<'a>> {
        match self.read_on(id, input, now, shell) {
            Ok(packet) => packet,
            Err(reason) => {
                *input = Input::new(&[]);
                self.end(id, reason, now, shell);
                None
            }
        }
    }

    fn read_on<'a>(
        &mut self,
        id: TrunkId,
        input: &mut Input<'a>,
        now: Instant,
        shell: &mut impl Shell,
    ) -> Result<Option<TrunkPacket<'a>>, EndReason> {
        for frame in input.frames.by_ref() {
            let message = Message::decode(frame?)?;
            let trunk = &mut self.trunks[id.index()];
            let Some(session) = &mut trunk.session else { return Ok(None) };
            if !session.is_open() && !matches!(message, Message::Hello(_)) {
                return Err(EndReason::NoHello);
            }
            session.heard(now);
            match message {
                Message::Packet { bytes, hops } => {
                    if let Some(packet) = trunk.check(bytes, now, shell) {
                        return Ok(Some(TrunkPacket { trunk: id, packet, hops }));
                    }
                }
                other => self.control(id, other, now, shell)?,
            }
        }
        if input.frames.rest().is_empty() { Ok(None) } else { Err(EndReason::HalfFrame) }
    }

    /// Takes in a message that isn't a packet.
    fn control(
        &mut self,
        id: TrunkId,
        message: Message<'_>,
        now: Instant,
        shell: &mut impl Shell,
    ) -> Result<(), EndReason> {
        let trunk = &mut self.trunks[id.index()];
        let Some(session) = &mut trunk.session else { return Ok(()) };
        match message {
            Message::Hello(hello) => {
                self.is_flush_due = true;
                self.greeted(id, &hello, now, shell)?;
            }
            Message::Announce(address, announcement) => self.announced(id, address, announcement, now, shell),
            Message::AnnounceTooFar(address) => {
                trunk.statistics.announcements += 1;
                trunk.refuse(Refusal::LongPath, Some(address), now, shell);
                self.forget(id, address, shell);
            }
            Message::Withdraw(address) => {
                trunk.statistics.announcements += 1;
                self.forget(id, address, shell);
            }
            Message::End => {
                trunk.has_told = true;
                if session.told_all() {
                    self.prune(id);
                }
            }
            Message::Ping(number) => {
                session.asked(number);
                self.is_flush_due = true;
            }
            Message::Pong(number) => session.answered(number, now, &mut trunk.statistics),
            Message::Unknown(_) => trunk.statistics.unknown_frames += 1,
            Message::Packet { .. } => {}
        }
        Ok(())
    }

    fn greeted(&mut self, id: TrunkId, hello: &Hello, now: Instant, shell: &mut impl Shell) -> Result<(), EndReason> {
        let own = Hello::new(self.own, &self.name, false);
        let trunk = &mut self.trunks[id.index()];
        let Some(session) = &mut trunk.session else { return Ok(()) };
        let has_opened = session.greeted(hello, own, trunk.router, now)?;
        trunk.name.clone_from(&hello.name);
        if has_opened {
            trunk.since = now;
            trunk.statistics.opened += 1;
            shell.notice(Notice::Opened { router: trunk.router, name: hello.name.clone() });
        } else if hello.asks {
            self.table.mark_stale(id);
        }
        Ok(())
    }

    /// Takes in an announcement, or forgets what the neighbour told of the address before.
    fn announced(
        &mut self,
        id: TrunkId,
        address: IpAddr,
        announcement: Announcement,
        now: Instant,
        shell: &mut impl Shell,
    ) {
        let trunk = &mut self.trunks[id.index()];
        trunk.statistics.announcements += 1;
        let refusal = if !is_claimable(address) {
            Some(Refusal::UnusableAddress)
        } else if !trunk.has(address) {
            Some(Refusal::ForeignAnnouncement)
        } else if announcement.teller() != trunk.router {
            Some(Refusal::OtherTeller)
        } else if announcement.has(self.own) {
            Some(Refusal::Loop)
        } else if !self.table.insert(id, address, announcement) {
            Some(Refusal::TooMany)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            trunk.refuse(refusal, Some(address), now, shell);
            self.forget(id, address, shell);
            return;
        }
        shell.told(id, address, Some(&announcement));
        self.is_flush_due = true;
    }

    /// Forgets what a neighbour has told of an address.
    fn forget(&mut self, id: TrunkId, address: IpAddr, shell: &mut impl Shell) {
        if self.table.remove(Some(id), address) {
            shell.told(id, address, None);
            self.is_flush_due = true;
        }
    }

    /// Forgets what a neighbour hasn't told again.
    pub(super) fn prune(&mut self, id: TrunkId) {
        self.table.forget(id, true);
        self.is_flush_due = true;
    }
}

impl Trunk {
    /// Checks a packet and its source.
    fn check<'a>(&mut self, bytes: &'a [u8], now: Instant, shell: &mut impl Shell) -> Option<GsoPacket<'a>> {
        let Ok(packet) = GsoPacket::parse(bytes) else {
            self.refuse(Refusal::MalformedPacket, None, now, shell);
            return None;
        };
        let source = packet.packet().src();
        if !self.has(source) {
            self.refuse(Refusal::SpoofedSource, Some(source), now, shell);
            return None;
        }
        self.statistics.received.count(packet.packet().total_len());
        Some(packet)
    }
}
