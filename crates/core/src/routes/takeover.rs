//! A session outlives its router: the connection lies with the master, and the next router goes on with it.
//!
//! The shell keeps three things where a successor finds them: the connection; [`StoredSession`], from when the session is
//! established; and, before each write to the socket, what waits ([`super::speaker::Speaker::unsent`]). It reads from the socket without
//! taking (`MSG_PEEK`), and takes what the speaker has read whole, so that the successor finds messages from their beginning. A
//! message that is read twice does no harm.
//!
//! The successor can't know what the daemon was told. It announces all claims once more between two marks (RFC 7313), and the
//! daemon forgets what does not come. What the daemon knows it asks for in the same way.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::session::Negotiated;
use super::settings::Settings;

/// What a successor has to know of an established session. It doesn't change while the session lasts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSession {
    /// The number of the router's id.
    pub(super) router: u64,
    pub(super) asn: u32,
    pub(super) identifier: Ipv4Addr,
    pub(super) hold_time: u16,
    pub(super) negotiated: Negotiated,
}

/// Why a session can't be taken over. Its connection is to be closed; the daemon makes a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TakeoverError {
    /// The settings are other ones than the session was made with.
    #[error("the session of the router before this one had other settings")]
    OtherSettings,
    /// Without the marks of RFC 7313 the daemon would keep routes that are gone.
    #[error("the routing daemon doesn't know enhanced route refresh (RFC 7313)")]
    NoMarks,
    /// What was sent doesn't fit what was to be sent.
    #[error("it is not known how much of the last message was sent")]
    Unsent,
    /// The speaker has a session already.
    #[error("there is another session")]
    Busy,
}

impl StoredSession {
    pub(super) fn new(settings: &Settings, negotiated: Negotiated) -> Self {
        Self {
            router: settings.router.number(),
            asn: settings.asn,
            identifier: settings.identifier(),
            hold_time: settings.hold_time,
            negotiated,
        }
    }

    /// Checks that a speaker with these settings can go on with the session.
    pub(super) fn check(&self, settings: &Settings) -> Result<(), TakeoverError> {
        if *self != Self::new(settings, self.negotiated)
            || settings.neighbour_asn.is_some_and(|asn| asn != self.negotiated.neighbour_asn)
        {
            return Err(TakeoverError::OtherSettings);
        }
        if !self.negotiated.enhanced_route_refresh || !self.negotiated.route_refresh {
            return Err(TakeoverError::NoMarks);
        }
        Ok(())
    }
}
