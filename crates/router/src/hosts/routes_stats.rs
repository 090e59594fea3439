//! What the statistics say of the session with the routing daemon.

use std::time::Instant;

use super::super::stats::words;
use super::routes::Routes;
use tuntap_api::{RoutesRefused, RoutesSession, RoutesStats};
use tuntap_core::routes::status::{Negotiated, Received, Sent, State, Status};
use tuntap_wire::bgp::PerFamily;

impl Routes<'_> {
    /// The session as the statistics have it.
    pub fn stats(&self, now: Instant) -> RoutesStats {
        let status = self.status(now);
        let Status { session, sent, received, .. } = status;
        RoutesStats {
            address: self.spec().address.to_string(),
            signed: self.spec().password.is_some(),
            asn: self.spec().asn,
            state: name(status.state).into(),
            state_seconds: status.age.as_secs(),
            session: session.map(|negotiated: Negotiated| session_stats(&negotiated, sent)),
            sessions: status.sessions,
            refused_connections: status.refused_connections,
            strangers: self.strangers(),
            last_error: status.last_error,
            claims: status.claims as u64,
            waiting: status.waiting as u64,
            waiting_bytes: status.waiting_bytes as u64,
            routes: status.routes as u64,
            complete: status.is_complete,
            received: received.announced,
            received_withdrawn: received.withdrawn,
            reflected: received.reflected,
            refused: refused(&received),
        }
    }
}

const fn name(state: State) -> &'static str {
    match state {
        State::Idle => "idle",
        State::OpenSent => "opensent",
        State::OpenConfirm => "openconfirm",
        State::Established => "established",
        State::Closing => "closing",
    }
}

fn session_stats(negotiated: &Negotiated, sent: Sent) -> RoutesSession {
    let families = |families: PerFamily<bool>| {
        let named = [(families.ipv4, "ipv4"), (families.ipv6, "ipv6")];
        words(named.into_iter().filter(|(is_there, _)| *is_there).map(|(_, name)| name).collect())
    };
    RoutesSession {
        identifier: negotiated.neighbour.to_string(),
        asn: negotiated.neighbour_asn,
        families: families(negotiated.families),
        paths: families(negotiated.paths),
        hold_time: negotiated.hold_time,
        survives: negotiated.route_refresh && negotiated.enhanced_route_refresh,
        announced: sent.announced,
        withdrawn: sent.withdrawn,
    }
}

const fn refused(received: &Received) -> RoutesRefused {
    RoutesRefused {
        not_one_address: received.not_one_address,
        outside: received.outside,
        no_holder: received.no_holder,
        too_many_routes: received.too_many_routes,
        too_many_paths: received.too_many_paths,
        malformed: received.malformed,
    }
}
