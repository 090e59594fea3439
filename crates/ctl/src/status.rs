//! `uwsgi-tuntap status`: what a running router is and does, by its statistics.

mod live;
mod overview;

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use overview::Overview;
use tuntap_api::control::{Request, Status};
use tuntap_survey::statistics::{self, Document, Source, StatisticsError, Transport};

use crate::client;
use crate::failure::{Done, Failed};
use crate::find;
use crate::session::Session;
use crate::text::Printable;

pub use overview::{address_of, drops_of, transport};

/// Which router to show, and how.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The router's statistics, as in `tuntap-router` or `tuntap-router-stats`: a path, `@name`, `host:port`, or
    /// `http://host:port` for a router with `stats-http`. Without it, only the live policy is shown
    #[arg(value_name = "SOCKET|HOST:PORT")]
    address: Option<String>,
    /// Show this many peers of the statistics, those with the most traffic first
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    peers: usize,
}

impl Arguments {
    /// Shows the router's statistics, and the state of its live policy.
    ///
    /// # Errors
    /// What is asked for can't be read, or the output can't be written to.
    pub fn run(self, session: &mut Session<'_>) -> Result<Done, Failed> {
        let Some(address) = &self.address else {
            if let Some(status) = session.ask::<Status>(&Request::Status {})? {
                session.output.write_all(live::describe(&status).as_bytes())?;
            }
            return Ok(Done::Well);
        };
        let document = ask(address, session.common.wait())
            .map_err(|error| Failed::Unreachable(format!("{}: {error}", Printable(address))))?;
        if session.common.json {
            session.output.write_all(&document.json)?;
            session.output.write_all(b"\n")?;
            return Ok(Done::Well);
        }
        write!(session.output, "{}", Overview { snapshot: &document.snapshot, peers: self.peers })?;
        if let Some(status) = live_status(session, &document.snapshot.device)? {
            write!(session.output, "\nlive policy\n{}", live::indented(&status))?;
        }
        Ok(Done::Well)
    }
}

/// The state of the live policy of the router with that device. Routers without a control socket have none; but if one is
/// named, it must answer.
fn live_status(session: &Session<'_>, device: &str) -> Result<Option<Status>, Failed> {
    if session.common.wanted().is_some() {
        return Ok(Some(client::read(&session.connect()?.ask(&Request::Status {})?)?));
    }
    let answer = find::with_device(device, session.common.wait()).map(|mut client| client.ask(&Request::Status {}));
    Ok(answer.and_then(|answer| client::read(&answer.ok()?).ok()))
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
enum StatusError {
    #[error("it has no port; expected a path, @name, host:port or http://host:port")]
    Port,
    #[error("the name can't be resolved: {0}")]
    Name(#[source] io::Error),
    #[error("the name has no address")]
    NoAddress,
    #[error(transparent)]
    Statistics(#[from] StatisticsError),
}

/// An address as it is written: with a colon it is TCP, as everywhere in uWSGI.
fn ask(address: &str, timeout: Duration) -> Result<Document, StatusError> {
    let (address, transport) = match address.strip_prefix("http://") {
        Some(rest) => (rest.split('/').next().unwrap_or_default(), Transport::Http),
        None => (address, Transport::Either),
    };
    if transport == Transport::Either && !address.contains(':') {
        return Ok(statistics::read(Source::Unix(address), transport, timeout)?);
    }
    let mut last = None;
    for address in resolve(address)? {
        match statistics::read(Source::Tcp(address), transport, timeout) {
            // Another address of the same name may have a listener.
            Err(error @ StatisticsError::Connect(_)) => last = Some(error),
            result => return Ok(result?),
        }
    }
    Err(last.map_or(StatusError::NoAddress, StatusError::Statistics))
}

/// All addresses of `host:port`. Without a host, or with `*`, it is this machine: so a router binds all its addresses.
fn resolve(text: &str) -> Result<Vec<SocketAddr>, StatusError> {
    let (host, port) = text.rsplit_once(':').ok_or(StatusError::Port)?;
    let port: u16 = port.parse().map_err(|_| StatusError::Port)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let host = if matches!(host, "" | "*" | "0.0.0.0") { "127.0.0.1" } else { host };
    Ok((host, port).to_socket_addrs().map_err(StatusError::Name)?.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_uwsgi_reads_them() {
        for (text, address) in [
            ("127.0.0.1:5000", "127.0.0.1:5000"),
            ("[::1]:5000", "[::1]:5000"),
            (":5000", "127.0.0.1:5000"),
            ("*:5000", "127.0.0.1:5000"),
            ("0.0.0.0:5000", "127.0.0.1:5000"),
        ] {
            let found = resolve(text).expect("an address");
            assert_eq!(found, [address.parse().expect("an address")], "{text}");
        }
        assert!(resolve("localhost:5000").expect("a name of each machine").iter().all(|it| it.ip().is_loopback()));
        for text in ["127.0.0.1", "127.0.0.1:", "127.0.0.1:70000", "::1:stats"] {
            assert!(matches!(resolve(text), Err(StatusError::Port)), "{text}");
        }
    }
}
