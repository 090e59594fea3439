//! The speaker: a passive side of one session at a time.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use tuntap_wire::bgp::Family;
use tuntap_wire::bgp::error::{ErrorCode, Violation};
use tuntap_wire::bgp::message::{self, Front, Kind};
use tuntap_wire::bgp::notification::{self, Notification};
use tuntap_wire::bgp::open::Open;
use tuntap_wire::bgp::refresh::Refresh;
use tuntap_wire::bgp::update::Update;
use tuntap_wire::holding::Holding;

use super::Listener;
use super::export::{Exports, Marks};
use super::import::Imports;
use super::notice::{End, Notice};
use super::output::{Output, Unsent};
use super::session::{self, Negotiated, Session, Stage};
use super::settings::Settings;
use super::status::{State, Status};
use super::takeover::{StoredSession, TakeoverError};

/// What to do with a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It is the speaker's connection now.
    Taken,
    /// It is the speaker's connection now. The one before is to be closed at once.
    Replaces,
    /// The one before lives. Write [`refusal`] to the new one, as far as it takes that, and close it.
    Refused,
}

/// What became of bytes from the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// So many bytes are read, and are not to be shown again. If it is not 0 and there are more, call again at once.
    pub consumed: usize,
    /// When nothing was consumed: the number of bytes from which on there is something to do, at most 4,096. It suits
    /// `SO_RCVLOWAT`, so that a part of a message doesn't wake the router again and again.
    pub needed: usize,
}

/// One side of a session, and the tables that outlive it.
#[derive(Debug)]
pub struct Speaker {
    settings: Settings,
    session: Option<Session>,
    exports: Exports,
    imports: Imports,
    /// When the last session has ended, or the speaker was made.
    idle_since: Instant,
    sessions: u64,
    refused_connections: u64,
    last_error: Option<String>,
}

/// The message for a connection that is refused because there is another one (RFC 4271, section 6.8).
pub fn refusal() -> Vec<u8> {
    let mut output = Vec::new();
    notification::append(&mut output, &ErrorCode::COLLISION.into());
    output
}

impl Speaker {
    /// Makes a speaker without a connection.
    pub fn new(settings: Settings, now: Instant) -> Self {
        Self {
            imports: Imports::new(&settings),
            settings,
            session: None,
            exports: Exports::default(),
            idle_since: now,
            sessions: 0,
            refused_connections: 0,
            last_error: None,
        }
    }

    /// A peer of this router holds an address, since another time maybe than before.
    pub fn claimed(&mut self, address: IpAddr, holding: Holding) {
        self.exports.set(address, Some(holding));
    }

    /// No peer of this router holds an address any more.
    pub fn released(&mut self, address: IpAddr) {
        self.exports.set(address, None);
    }

    /// These are all addresses that peers of this router hold.
    pub fn replace_claims(&mut self, claims: impl IntoIterator<Item = (IpAddr, Holding)>) {
        self.exports.replace(claims.into_iter().collect());
    }

    /// The daemon has connected. Before this the shell should look whether the connection before has ended.
    pub fn accept(&mut self, now: Instant, listener: &mut impl Listener) -> Accepted {
        let mut accepted = Accepted::Taken;
        if let Some(session) = &self.session {
            if !session.gives_way(now) {
                self.refused_connections += 1;
                listener.notice(Notice::SecondConnection);
                return Accepted::Refused;
            }
            self.end(End::Replaced, now, listener);
            accepted = Accepted::Replaces;
        }
        let mut session = Session::new(Stage::OpenSent, Output::default(), now);
        session::open(&self.settings).append(session.output.tail());
        self.session = Some(session);
        accepted
    }

    /// Goes on with the session of the router before this one. `unsent` is what that one has kept last, `written` the number
    /// of bytes that were written to the connection since it was made (see [`super::output`]). Claims that aren't there after
    /// `settle` are taken for gone.
    pub fn take_over(
        &mut self,
        stored: &StoredSession,
        unsent: Unsent,
        written: u64,
        settle: Duration,
        now: Instant,
        listener: &mut impl Listener,
    ) -> Result<(), TakeoverError> {
        if self.session.is_some() {
            return Err(TakeoverError::Busy);
        }
        stored.check(&self.settings)?;
        let output = Output::resume(unsent, written).ok_or(TakeoverError::Unsent)?;
        let negotiated = stored.negotiated;
        let mut session = Session::new(Stage::Established(negotiated), output, now);
        message::append_keepalive(session.output.tail());
        negotiated.families().for_each(|family| Refresh::Request.append(session.output.tail(), family));
        self.session = Some(session);
        self.exports.begin(&negotiated, Marks::Refresh, Some(now + settle));
        self.established(&negotiated, true, listener);
        Ok(())
    }

    /// Returns what a successor has to know, if the session is established. The shell keeps it before it takes from the socket
    /// what has made the session an established one.
    pub fn stored(&self) -> Option<StoredSession> {
        let negotiated = self.session.as_ref()?.negotiated()?;
        Some(StoredSession::new(&self.settings, *negotiated))
    }

    /// Reads bytes from the daemon. After an OPEN, and after what makes the session an established one, it stops.
    pub fn received(&mut self, stream: &[u8], now: Instant, listener: &mut impl Listener) -> Taken {
        let (mut consumed, mut needed) = (0, 0);
        while let Some(session) = &mut self.session {
            if session.stage == Stage::Closing {
                consumed = stream.len();
                break;
            }
            match message::front(&stream[consumed..]) {
                Ok(Front::Part { needed: more }) => {
                    needed = more;
                    break;
                }
                Ok(Front::Message { kind, body, len }) => {
                    session.heard = now;
                    consumed += len;
                    let stage = session.stage;
                    if let Err(violation) = self.message(kind, body, now, listener) {
                        self.violated(&violation, now, listener);
                    }
                    if self.session.as_ref().is_none_or(|session| session.stage != stage) {
                        break;
                    }
                }
                Err(violation) => self.violated(&violation, now, listener),
            }
        }
        Taken { consumed, needed }
    }

    fn message(
        &mut self,
        kind: Kind,
        body: &[u8],
        now: Instant,
        listener: &mut impl Listener,
    ) -> Result<(), Violation> {
        let Some(session) = &mut self.session else { return Ok(()) };
        match (session.stage, kind) {
            (_, Kind::Notification) => {
                let text = Notification::decode(body).map_or_else(String::new, |notification| notification.to_string());
                session.output = Output::default();
                self.closing(End::Notified(text), now, listener);
            }
            (Stage::OpenSent, Kind::Open) => {
                let negotiated = Negotiated::new(&self.settings, &Open::decode(body)?)?;
                message::append_keepalive(session.output.tail());
                (session.stage, session.since, session.spoken) = (Stage::OpenConfirm(negotiated), now, now);
            }
            (Stage::OpenConfirm(negotiated), Kind::Keepalive) => {
                (session.stage, session.since) = (Stage::Established(negotiated), now);
                self.exports.begin(&negotiated, Marks::EndOfRib, None);
                self.established(&negotiated, false, listener);
            }
            (Stage::Established(_), Kind::Keepalive) => {}
            (Stage::Established(negotiated), Kind::Update) => {
                self.imports.update(&Update::decode(body, &negotiated.paths)?, &self.settings, listener);
                self.imports.reflected.drain(..).for_each(|address| self.exports.doubt(address));
                self.ask_again();
            }
            (Stage::Established(negotiated), Kind::RouteRefresh) => self.refresh(&negotiated, body, now)?,
            (Stage::OpenSent, _) => return Err(ErrorCode::UNEXPECTED_IN_OPEN_SENT.into()),
            (Stage::OpenConfirm(_), _) => return Err(ErrorCode::UNEXPECTED_IN_OPEN_CONFIRM.into()),
            (_, _) => return Err(ErrorCode::UNEXPECTED_IN_ESTABLISHED.into()),
        }
        Ok(())
    }

    fn refresh(&mut self, negotiated: &Negotiated, body: &[u8], now: Instant) -> Result<(), Violation> {
        let Some((family, refresh)) = Refresh::decode(body)? else { return Ok(()) };
        if !*negotiated.families.get(family) {
            return Ok(());
        }
        match refresh {
            Refresh::Request => self.exports.refresh(family),
            Refresh::Begin if negotiated.enhanced_route_refresh => {
                self.imports.begin_round(family, now + Imports::REFRESHING);
            }
            Refresh::End if negotiated.enhanced_route_refresh => self.imports.end_round(family),
            Refresh::Begin | Refresh::End => {}
        }
        Ok(())
    }

    /// Asks for all routes if some were refused for lack of room, and there is room now.
    fn ask_again(&mut self) {
        let Some(session) = &mut self.session else { return };
        let Some(negotiated) = session.negotiated().copied().filter(|negotiated| negotiated.route_refresh) else {
            return;
        };
        for family in negotiated.families() {
            if self.imports.has_room_again(family) {
                Refresh::Request.append(session.output.tail(), family);
            }
        }
    }

    fn established(&mut self, negotiated: &Negotiated, is_taken_over: bool, listener: &mut impl Listener) {
        self.sessions += 1;
        let (identifier, asn, families) = (negotiated.neighbour, negotiated.neighbour_asn, negotiated.families);
        listener.notice(Notice::Established { identifier, asn, families, is_taken_over });
    }

    /// Returns the bytes that wait for the daemon. Routes are put among them as it takes them, so that what waits has a bound.
    pub fn output(&mut self, now: Instant) -> &[u8] {
        let Some(session) = &mut self.session else { return &[] };
        if session.output.waiting().is_empty() {
            session.moved = now;
        }
        let is_established = session.negotiated().is_some();
        if is_established && self.exports.fill(&mut session.output, &self.settings, now) {
            session.spoken = now;
        }
        session.output.waiting()
    }

    /// Returns true if [`Speaker::output`] has something.
    pub fn has_output(&self, now: Instant) -> bool {
        self.session.as_ref().is_some_and(|session| {
            !session.output.waiting().is_empty() || session.negotiated().is_some() && self.exports.has_more(now)
        })
    }

    /// What a successor needs to go on with what waits, and where it stands in the stream. The shell keeps it before it sends
    /// what [`Speaker::output`] has returned, unless nothing was added since the last time.
    pub fn unsent(&self) -> Option<(u64, &[u8])> {
        Some(self.session.as_ref()?.output.unsent())
    }

    /// The daemon's socket has taken the first bytes of what waits.
    pub fn sent(&mut self, count: usize, now: Instant) {
        if let Some(session) = &mut self.session {
            session.output.sent(count);
            session.moved = now;
        }
    }

    /// Returns true if the shell is to close the connection now, and to say so ([`Speaker::closed`]).
    pub fn is_to_be_closed(&self, now: Instant) -> bool {
        self.session.as_ref().is_some_and(|session| {
            session.stage == Stage::Closing && (session.output.waiting().is_empty() || session.expiry() <= now)
        })
    }

    /// The connection is closed: by the daemon, because it failed (`error`), or because [`Speaker::is_to_be_closed`] said so.
    pub fn closed(&mut self, error: Option<String>, now: Instant, listener: &mut impl Listener) {
        self.end(error.map_or(End::Closed, End::Failed), now, listener);
    }

    /// Ends the session with a text for the daemon's log. The daemon forgets all routes.
    pub fn shut_down(&mut self, text: &str, now: Instant, listener: &mut impl Listener) {
        self.last_message(&notification::farewell(ErrorCode::SHUTDOWN, text));
        self.closing(End::Ours, now, listener);
    }

    /// Does what is due.
    pub fn poll(&mut self, now: Instant, listener: &mut impl Listener) {
        self.imports.expire(now);
        let Some(session) = &mut self.session else { return };
        if session.stage == Stage::Closing {
            return;
        }
        if session.expiry() <= now {
            self.violated(&ErrorCode::HOLD_TIMER_EXPIRED.into(), now, listener);
        } else if session.send_expiry().is_some_and(|at| at <= now) {
            session.output = Output::default();
            self.closing(End::Stuck, now, listener);
        } else if session.keepalive_at().is_some_and(|at| at <= now) {
            // What waits is a sign of life, too, once it arrives.
            if session.output.waiting().is_empty() {
                message::append_keepalive(session.output.tail());
            }
            session.spoken = now;
        }
    }

    /// Returns true if there is something to do for [`Speaker::sweep`].
    pub fn is_sweeping(&self) -> bool {
        self.imports.is_sweeping()
    }

    /// Removes some of the routes that the daemon hasn't announced again, at most [`Imports::SWEEP`] addresses. Returns false if there
    /// are none. However many there are, the shell can do something else between the pieces.
    pub fn sweep(&mut self, listener: &mut impl Listener) -> bool {
        let has_worked = self.imports.sweep(listener);
        if has_worked {
            self.ask_again();
        }
        has_worked
    }

    /// Returns when [`Speaker::poll`], [`Speaker::output`] and [`Speaker::is_to_be_closed`] are to be asked again at the latest.
    pub fn next_time(&self, now: Instant) -> Option<Instant> {
        let of_session = self.session.as_ref().and_then(|session| {
            let times = [Some(session.expiry()), session.send_expiry(), session.keepalive_at()];
            times.into_iter().flatten().min()
        });
        [of_session, self.exports.next_time(now), self.imports.next_time()].into_iter().flatten().min()
    }

    /// Returns true if the daemon has announced all that it knows of a family since the session began.
    pub fn is_complete(&self, family: Family) -> bool {
        self.imports.is_complete(family)
    }

    /// Returns how it stands.
    pub fn status(&self, now: Instant) -> Status {
        let session = self.session.as_ref();
        let agreed = session.and_then(Session::negotiated).copied();
        Status {
            state: session.map_or(State::Idle, |session| match session.stage {
                Stage::OpenSent => State::OpenSent,
                Stage::OpenConfirm(_) => State::OpenConfirm,
                Stage::Established(_) => State::Established,
                Stage::Closing => State::Closing,
            }),
            age: now.saturating_duration_since(session.map_or(self.idle_since, |session| session.since)),
            session: agreed,
            sessions: self.sessions,
            refused_connections: self.refused_connections,
            claims: self.exports.claims(),
            waiting: self.exports.waiting(),
            waiting_bytes: session.map_or(0, |session| session.output.waiting().len()),
            sent: self.exports.sent,
            routes: self.imports.len(),
            is_complete: agreed.is_some_and(|it| it.families().all(|family| self.is_complete(family))),
            received: self.imports.received,
            last_error: self.last_error.clone(),
        }
    }

    fn violated(&mut self, violation: &Violation, now: Instant, listener: &mut impl Listener) {
        self.last_message(violation);
        self.closing(End::Violated(violation.to_string()), now, listener);
    }

    /// Writes the message that ends the session, after one that is sent in part.
    fn last_message(&mut self, violation: &Violation) {
        if let Some(session) = self.session.as_mut().filter(|session| session.stage != Stage::Closing) {
            session.output.drop_whole();
            notification::append(session.output.tail(), violation);
        }
    }

    /// The session has ended, and its connection is to be closed when the last message is sent.
    fn closing(&mut self, end: End, now: Instant, listener: &mut impl Listener) {
        let Some(session) = &mut self.session else { return };
        let stage = std::mem::replace(&mut session.stage, Stage::Closing);
        session.since = now;
        self.lose(stage, end, now, listener);
    }

    /// The session and its connection have ended.
    fn end(&mut self, end: End, now: Instant, listener: &mut impl Listener) {
        if let Some(session) = self.session.take() {
            self.idle_since = now;
            self.lose(session.stage, end, now, listener);
        }
    }

    fn lose(&mut self, stage: Stage, end: End, now: Instant, listener: &mut impl Listener) {
        let was_established = matches!(stage, Stage::Established(_));
        if stage != Stage::Closing {
            self.last_error = Some(end.to_string());
            listener.notice(if was_established { Notice::Ended(end) } else { Notice::NotEstablished(end) });
        }
        if was_established {
            self.exports.end();
            self.imports.lose(now);
        }
    }
}
