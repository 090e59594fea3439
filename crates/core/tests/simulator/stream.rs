//! Connections: how they come, and what is read of them.

use std::net::IpAddr;

use tuntap_api::LimitsReached;
use tuntap_core::policy::registry::PeerId;
use tuntap_core::router::frames::Read;
use tuntap_core::router::{Connection as Arrival, CredentialsCheck};
use tuntap_wire::greeting::CREDENTIALS_MAGIC;

use super::actions::{FaultKind, Offer, PEOPLE, RuleSpec, Shown, Word};
use super::audit::{Call, Check, From, ensure};
use super::packets::{PacketSpec, Source};
use super::peer::{Connection, Number, Sent};
use super::setup::{ADDRESSES, address};
use super::simulation::Simulation;

impl Simulation {
    /// Somebody connects. Returns whether the router has taken the connection.
    pub fn connect(&mut self, who: usize) -> Result<Option<Number>, String> {
        if !self.world.is_listening {
            return Ok(None);
        }
        let number = self.next;
        self.next += 1;
        let usual = if self.setup.is_large {
            let octets = u16::try_from(number % 60_000).expect("small").to_be_bytes();
            [IpAddr::from([10, 1, octets[0], octets[1].max(2)]), address(ADDRESSES[7 + number % 10].0)]
        } else {
            [address(ADDRESSES[number % 7].0), address(ADDRESSES[7 + number % 10].0)]
        };
        let pid = i32::try_from(number).expect("few connections");
        let connection = Connection::new(PEOPLE[who % PEOPLE.len()], pid, usual);
        let groups = if self.router.wants_groups() { connection.groups.clone() } else { Vec::new() };
        let arrival = Arrival { credentials: connection.credentials, namespace: connection.namespace, groups };
        self.world.connections.insert(number, connection);
        self.world.arriving = Some(number);
        let mut call = Call::new(From::Nowhere);
        call.makes_room = true;
        let has_fault = self.world.fault == Some(FaultKind::Open);
        let before = self.router.counters().clone();
        let taken = self.call(&call, |router, world| {
            let now = world.now;
            router.accept(world, arrival, now)
        })?;
        let was_offered = self.world.arriving.take().is_none();
        let (old, new) = (&before, self.router.counters());
        let turned_away = new.totals.turned_away - old.totals.turned_away;
        let (limits, limits_before) = (&new.limits_reached, &old.limits_reached);
        let of_limits = |it: &LimitsReached| it.max_peers + it.max_peers_per_uid + it.max_unclaimed;
        ensure!(of_limits(limits) - of_limits(limits_before) == turned_away, "limits and turned away don't agree");
        ensure!(turned_away == u64::from(taken.is_none() && !(was_offered && has_fault)), "{turned_away} turned away");
        ensure!(new.totals.accepted - old.totals.accepted == u64::from(was_offered), "accepted is not counted");
        let room = limits.unclaimed_timeout - limits_before.unclaimed_timeout;
        let closed = self.world.effects.closed.iter().filter(|it| **it != number).count() as u64;
        ensure!(room == closed, "{closed} peers made room, {room} counted");
        if taken.is_none() {
            self.world.connections.remove(&number);
            self.world.effects.closed.clear();
        }
        Ok(taken.map(|_| number))
    }

    /// Somebody connects and behaves.
    pub fn join(&mut self, who: usize, rules: &[RuleSpec], attached: bool) -> Result<Option<Number>, String> {
        let Some(number) = self.connect(who)? else { return Ok(None) };
        if self.setup.credentials != CredentialsCheck::Off {
            self.show(number, Shown::Itself)?;
        }
        let rules = &rules[..rules.len().min(self.setup.device_rules)];
        let mut words = vec![Word::Rules(rules.to_vec())];
        if attached {
            words.push(Word::Hello(Offer::Good));
        }
        // Some have no IPv6.
        let destinations = [24, 26].into_iter().take(1 + who % 2);
        words.extend(destinations.map(|destination| Word::Packet(PacketSpec::plain(Source::Usual, destination))));
        self.send(number, &words, usize::MAX, 0)?;
        Ok(Some(number))
    }

    pub fn show(&mut self, number: Number, shown: Shown) -> Check {
        let other = match shown {
            Shown::Other(who) => PEOPLE[who % PEOPLE.len()],
            _ => PEOPLE[0],
        };
        self.connection(number, |it| {
            let mut other_credentials = it.credentials;
            (other_credentials.uid, other_credentials.gid) = (other.0, other.1);
            it.show(shown, other_credentials);
        });
        self.read_all(number, usize::MAX, 0)
    }

    /// A peer writes frames, and the router reads them in pieces, but for the last bytes.
    pub fn send(&mut self, number: Number, words: &[Word], piece: usize, left: usize) -> Check {
        if self.connection_has_hung_up(number) {
            return self.ended(number);
        }
        for word in words {
            self.packets += 1;
            let (limit, packet) = (self.setup.device_rules, self.packets);
            self.connection(number, |it| it.say(word, limit, packet));
        }
        self.read_all(number, piece, left)
    }

    fn read_all(&mut self, number: Number, piece: usize, left: usize) -> Check {
        // Small pieces of much are nothing new after some of them.
        for index in 0.. {
            let piece = if index < 40 { piece } else { usize::MAX };
            let waiting = self.connection(number, |it| it.outbox.len());
            if self.id(number).is_none() || waiting <= left {
                return Ok(());
            }
            self.read(number, piece.min(waiting - left))?;
        }
        Ok(())
    }

    /// The router reads so many bytes of a peer's connection at most.
    fn read(&mut self, number: Number, most: usize) -> Check {
        let Some(id) = self.id(number) else { return Ok(()) };
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = match self.router.begin_read(id, &mut buffer) {
            None => Err(format!("{number} can't be read")),
            Some(Read::Credentials) => self.read_credentials(number, id),
            Some(Read::Bytes { start, len, with_descriptor }) => {
                self.read_bytes(number, id, &mut buffer, start, len.min(most), with_descriptor)
            }
        };
        self.buffer = buffer;
        result
    }

    fn read_credentials(&mut self, number: Number, id: PeerId) -> Check {
        let (magic, shown) = self.connection(number, |it| {
            let count = it.outbox.len().min(CREDENTIALS_MAGIC.len());
            it.bytes_read += count as u64;
            (it.outbox.drain(..count).collect::<Vec<_>>(), it.shown.flatten())
        });
        let mut call = Call::new(From::Peer(number));
        // It is turned away where its user has too many peers, and where the hook has no address for it.
        call.may_close.insert(number);
        let frames = self.connection(number, Connection::frames_read);
        ensure!(
            frames.iter().all(|sent| matches!(sent, Sent::Fatal)) || magic != CREDENTIALS_MAGIC,
            "frames were lost"
        );
        let is_good = magic == CREDENTIALS_MAGIC && shown.is_some();
        self.call(&call, |router, world| {
            let now = world.now;
            router.received_credentials(world, id, &magic, shown, now);
        })?;
        ensure!(is_good || self.id(number).is_none(), "{number} has shown no credentials, and lives");
        Ok(())
    }

    fn read_bytes(
        &mut self,
        number: Number,
        id: PeerId,
        buffer: &mut [u8],
        start: usize,
        most: usize,
        with_descriptor: bool,
    ) -> Check {
        let (count, refuses, has_offer) = self.connection(number, |it| {
            let count = it.outbox.len().min(most);
            for (at, byte) in it.outbox.drain(..count).enumerate() {
                buffer[start + at] = byte;
            }
            let end = it.bytes_read + count as u64;
            while let Some((at, offer)) = it.descriptors.front().copied()
                && at < end
            {
                it.descriptors.pop_front();
                if with_descriptor {
                    it.offer = Some(offer);
                }
            }
            it.bytes_read = end;
            (count, it.refuses_descriptors, it.offer.is_some())
        });
        ensure!(with_descriptor != refuses, "{number}: descriptors are taken on one side only");
        ensure!(with_descriptor || !has_offer, "{number}: a descriptor was forgotten");
        let mut call = Call::new(From::Peer(number));
        call.bytes = count as u64;
        for sent in self.connection(number, Connection::frames_read) {
            match sent {
                Sent::Packet(packet) => call.inputs.push(*packet),
                other => call.frames.push(other),
            }
        }
        let is_junk =
            self.connection(number, |it| it.bytes_written >= 12 && it.frames.front().is_some_and(|it| it.0 == 12));
        if is_junk {
            call.may_close.insert(number);
        }
        self.call(&call, |router, world| {
            let now = world.now;
            router.received(world, id, &buffer[..start + count], count, now);
        })
    }

    /// A peer's connection has room, if the router has asked for that.
    pub fn writable(&mut self, number: Number) -> Check {
        let is_due = self.connection(number, |it| it.watches_writable && (it.room > it.in_socket || it.has_hung_up));
        let Some(id) = self.id(number).filter(|_| is_due) else { return Ok(()) };
        self.call(&Call::new(From::Nowhere), |router, world| {
            let now = world.now;
            router.writable(world, id, now);
        })
    }
}
