//! What the core's notices are to the log: events, and the peers that they are about.

use tuntap_core::router::notice::{Notice, Who};
use tuntap_core::routes::notice::Notice as Routes;
use tuntap_core::trunk::Notice as Trunk;
use tuntap_sys::log::{Event, Peer};
use tuntap_wire::credentials::PeerCredentials;

/// The event of a notice.
pub const fn event(notice: &Notice) -> Event {
    match notice {
        Notice::LeftOut(_) => Event::LinesLeftOut,
        Notice::CannotAccept { .. } => Event::AcceptFailed,
        Notice::TurnedAway { .. } => Event::PeerTurnedAway,
        Notice::Joined { .. } => Event::PeerJoined,
        Notice::Left { .. } | Notice::Ended { .. } => Event::PeerLeft,
        Notice::AddressHeld { .. } | Notice::HeldElsewhere { .. } => Event::AddressHeld,
        Notice::Trunk(Trunk::Opened { .. }) => Event::TrunkOpened,
        Notice::Trunk(Trunk::Ended { .. }) => Event::TrunkEnded,
        Notice::Trunk(Trunk::Refused { .. } | Trunk::RefusedPacket { .. }) => Event::TrunkRefused,
        Notice::Routes(Routes::Established { .. }) => Event::RoutesEstablished,
        Notice::Routes(Routes::Ended(_) | Routes::NotEstablished(_)) => Event::RoutesEnded,
        Notice::Routes(Routes::SecondConnection | Routes::Refused { .. }) => Event::RoutesRefused,
        Notice::LostElsewhere { .. } => Event::AddressLost,
        Notice::ClockAhead { .. } => Event::ClockAhead,
        Notice::NoRoomElsewhere { .. } => Event::HostsIncomplete,
        Notice::NotGranted { .. } => Event::NotLeased,
        Notice::NotClaimable { .. } => Event::NotClaimable,
        Notice::ToGateway { .. } => Event::ToGateway,
        Notice::NoBatches { .. } => Event::GatewaySlow,
        Notice::Refused { .. } => Event::RequestRefused,
        Notice::LateRules(_) | Notice::RefusedTarget { .. } => Event::RuleRefused,
        Notice::Limited { .. } => Event::PeerLimited,
        Notice::Detached { .. } | Notice::DeviceLost { .. } | Notice::Hung { .. } => Event::PeerDetached,
        Notice::Reattached(_) => Event::PeerAttached,
        Notice::PairLost { .. } => Event::PairLost,
        Notice::RuleLog { .. } => Event::Rule,
        Notice::Shell(_) => Event::RouterFault,
    }
}

/// The peer that a notice is about.
pub fn peer(notice: &Notice) -> Option<Peer> {
    let of =
        |credentials: &PeerCredentials, address| Peer { address, pid: credentials.pid, uid: Some(credentials.uid) };
    Some(match notice {
        Notice::TurnedAway { credentials, .. } | Notice::Ended { credentials, .. } => of(credentials, None),
        Notice::Joined { address, credentials }
        | Notice::Left { address, credentials, .. }
        | Notice::AddressHeld { address, credentials }
        | Notice::NotGranted { address, credentials, .. } => of(credentials, Some(*address)),
        Notice::Hung { address, credentials, .. } => of(credentials, *address),
        Notice::HeldElsewhere { who, address, .. }
        | Notice::LostElsewhere { who, address, .. }
        | Notice::NotClaimable { who, address, .. } => {
            Peer { address: Some(*address), pid: who.pid, uid: Some(who.uid) }
        }
        Notice::ToGateway { who, .. }
        | Notice::Refused { who, .. }
        | Notice::LateRules(who)
        | Notice::RefusedTarget { who, .. }
        | Notice::Limited { who, .. }
        | Notice::Detached { who, .. }
        | Notice::PairLost { who, .. }
        | Notice::Reattached(who) => {
            let Who { address, pid, uid } = *who;
            Peer { address, pid, uid: Some(uid) }
        }
        Notice::DeviceLost { address, pid, .. } => Peer { address: *address, pid: *pid, uid: None },
        Notice::LeftOut(_)
        | Notice::CannotAccept { .. }
        | Notice::Trunk(_)
        | Notice::Routes(_)
        | Notice::ClockAhead { .. }
        | Notice::NoRoomElsewhere { .. }
        | Notice::NoBatches { .. }
        | Notice::RuleLog { .. }
        | Notice::Shell(_) => return None,
    })
}
