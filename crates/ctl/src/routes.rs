//! `uwsgi-tuntap routes`: how a router stands with the host's routing daemon, and who holds which address.

use std::fmt::Write;
use std::net::IpAddr;

use jiff::Timestamp;
use tuntap_api::control::{HolderElsewhere, Request, Routes};
use tuntap_api::{ElsewhereStats, RoutesSession, RoutesStats};

use crate::failure::{Done, Failed};
use crate::session::Session;
use crate::table::{Kind, Table};
use crate::text::{Bytes, Count, Printable, counted};

/// What to ask about.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Say also who holds these addresses
    #[arg(value_name = "ADDRESS")]
    addresses: Vec<IpAddr>,
}

impl Arguments {
    /// Does it.
    ///
    /// # Errors
    /// See [`Failed`].
    pub fn run(self, session: &mut Session<'_>) -> Result<Done, Failed> {
        let request = Request::Routes { addresses: self.addresses };
        let Some(routes) = session.ask::<Routes>(&request)? else { return Ok(Done::Well) };
        session.output.write_all(describe(&routes).as_bytes())?;
        if !routes.holders.is_empty() {
            writeln!(session.output)?;
            session.table(&holders(&routes))?;
        }
        Ok(Done::Well)
    }
}

/// The session and what is known, a line for each fact.
fn describe(Routes { routes, elsewhere, .. }: &Routes) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string doesn't fail.
        let _ = writeln!(text, "{name:<18}{value}");
    };
    match elsewhere {
        Some(ElsewhereStats { router, .. }) => line("router", Printable(router).to_string()),
        None => line("router", "it tells no other hosts of its vassals (tuntap-router-routes)".to_owned()),
    }
    match routes {
        Some(routes) => session_lines(routes, &mut line),
        None => line("routing daemon", "none (tuntap-router-routes)".to_owned()),
    }
    if let Some(stats) = elsewhere {
        for source in &stats.sources {
            let holdings = counted(source.holdings, "address", "addresses");
            line("held elsewhere", format!("{holdings}, says {}", Printable(&source.source)));
        }
        let refused = format!("{} refused, {} lost", Count(stats.refused), Count(stats.lost));
        line("claims here", refused);
        if stats.clock_ahead > 0 {
            line("clocks", format!("{} were told with a time far ahead of this host's", Count(stats.clock_ahead)));
        }
    }
    text
}

fn session_lines(routes: &RoutesStats, line: &mut impl FnMut(&str, String)) {
    let signed = if routes.signed { "signed" } else { "not signed" };
    line("listens on", format!("{} (AS {}, {signed})", Printable(&routes.address), routes.asn));
    line("session", format!("{} for {} s", Printable(routes.state.as_ref()), routes.state_seconds));
    if let Some(session) = &routes.session {
        let RoutesSession { identifier, asn, hold_time, survives, .. } = session;
        let survives = if *survives { "" } else { ", ends with the router's process (no RFC 7313)" };
        line("routing daemon", format!("{} (AS {asn}), hold time {hold_time} s{survives}", Printable(identifier)));
        let families = session.families.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
        line("families", Printable(&families).to_string());
        line("told it", format!("{} announced, {} withdrawn", Count(session.announced), Count(session.withdrawn)));
    }
    if let Some(error) = &routes.last_error {
        line("last end", Printable(error).to_string());
    }
    let waiting = match (routes.waiting, routes.waiting_bytes) {
        (0, 0) => String::new(),
        (changes, bytes) => format!(", {} and {} wait", counted(changes, "change", "changes"), Bytes(bytes)),
    };
    line("vassals", format!("{}{waiting}", counted(routes.claims, "claim", "claims")));
    let complete = if routes.complete { "" } else { ", not all yet" };
    let known = counted(routes.routes, "route of other hosts", "routes of other hosts");
    line("it told", format!("{known}{complete}"));
    let refused = &routes.refused;
    for (count, what) in [
        (refused.not_one_address, "not for a single address"),
        (refused.outside, "outside the router's networks"),
        (refused.no_holder, "without a holder"),
        (refused.too_many_routes, "for lack of room"),
        (refused.too_many_paths, "too many for one address"),
        (refused.malformed, "malformed"),
    ] {
        if count > 0 {
            line("refused", format!("{} {what}", Count(count)));
        }
    }
    if routes.strangers + routes.refused_connections > 0 {
        let (second, strange) = (Count(routes.refused_connections), Count(routes.strangers));
        line("connections", format!("{second} refused as second ones, {strange} from other addresses"));
    }
}

fn holders(routes: &Routes) -> Table {
    let mut table =
        Table::new(&[("ADDRESS", Kind::Word), ("HELD BY", Kind::Text), ("SINCE", Kind::Word), ("SAYS", Kind::Text)]);
    for holders in &routes.holders {
        let address = holders.address.to_string();
        if let Some(since) = holders.here {
            table.row([address.clone(), "a vassal here".to_owned(), time(since), String::new()]);
        }
        if let Some(HolderElsewhere { router, since, source }) = &holders.elsewhere {
            table.row([address.clone(), router.clone(), time(*since), source.clone()]);
        }
        if holders.here.is_none() && holders.elsewhere.is_none() {
            table.row([address, "nobody".to_owned(), String::new(), String::new()]);
        }
    }
    table
}

/// Milliseconds since 1970 as a date; those that no date has as they are.
fn time(millis: u64) -> String {
    let timestamp = i64::try_from(millis).ok().and_then(|millis| Timestamp::from_millisecond(millis).ok());
    timestamp.map_or_else(|| millis.to_string(), |timestamp| timestamp.to_string())
}
