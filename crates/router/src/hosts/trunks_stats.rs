//! What the statistics say of trunks.

use std::time::Instant;

use super::super::event_loop::EventLoop;
use tuntap_api::{TrunkDropped, TrunkRefused, TrunkStats};
use tuntap_core::trunk::{Neighbour, Refusal, State, Statistics, TrunkId, Trunks};

impl EventLoop<'_> {
    /// The trunks as the statistics have them.
    pub(in super::super) fn trunk_stats(&self, now: Instant) -> Vec<TrunkStats> {
        let (Some(trunks), Some(endpoint)) = (self.router.trunks(), &self.io.setup.hosts.trunks) else {
            return Vec::new();
        };
        trunks.ids().zip(&endpoint.settings.neighbours).map(|(id, it)| stats(trunks, id, it, now)).collect()
    }
}

fn stats(trunks: &Trunks, id: TrunkId, neighbour: &Neighbour, now: Instant) -> TrunkStats {
    let (view, statistics) = (trunks.view(id), trunks.statistics(id));
    TrunkStats {
        router: view.router.to_string(),
        name: view.name,
        networks: neighbour.networks.iter().map(ToString::to_string).collect(),
        relay: neighbour.relay,
        state: name(view.state).into(),
        state_seconds: now.saturating_duration_since(view.since).as_secs(),
        opened: statistics.opened,
        round_trip_micros: statistics.round_trip.map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
        announced: view.announced as u64,
        told: view.told as u64,
        announcements: statistics.announcements,
        rx_packets: statistics.received.packets,
        rx_bytes: statistics.received.bytes,
        tx_packets: statistics.sent.packets,
        tx_bytes: statistics.sent.bytes,
        queued_bytes: view.queued as u64,
        dropped: dropped(statistics),
        refused: refused(statistics),
        unknown_frames: statistics.unknown_frames,
    }
}

const fn name(state: State) -> &'static str {
    match state {
        State::Down => "down",
        State::Greeting => "greeting",
        State::Open { .. } => "open",
    }
}

const fn dropped(statistics: &Statistics) -> TrunkDropped {
    TrunkDropped {
        queue_full: statistics.queue_full,
        queue_late: statistics.queue_late,
        not_open: statistics.not_open,
        hops: statistics.expired,
    }
}

const fn refused(statistics: &Statistics) -> TrunkRefused {
    TrunkRefused {
        foreign_announcement: statistics.refused(Refusal::ForeignAnnouncement),
        unusable_address: statistics.refused(Refusal::UnusableAddress),
        looped: statistics.refused(Refusal::Loop),
        long_path: statistics.refused(Refusal::LongPath),
        other_teller: statistics.refused(Refusal::OtherTeller),
        too_many: statistics.refused(Refusal::TooMany),
        spoofed_source: statistics.refused(Refusal::SpoofedSource),
        malformed_packet: statistics.refused(Refusal::MalformedPacket),
    }
}
