//! `uwsgi-tuntap status`: what a running router is and does, by its statistics.

mod overview;

use std::io::{self, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use overview::{Overview, Printable};
use tuntap_survey::statistics::{self, Document, Source, StatisticsError, Transport};

/// Which router to show, and how.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The router's statistics, as in `tuntap-router` or `tuntap-router-stats`: a path, `@name`, `host:port`, or
    /// `http://host:port` for a router with `stats-http`.
    #[arg(value_name = "SOCKET|HOST:PORT")]
    address: String,
    /// Print the JSON document as the router sends it.
    #[arg(long)]
    json: bool,
    /// Show this many peers, those with the most traffic first.
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    peers: usize,
    /// Wait for the router for this many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

impl Arguments {
    /// Reads the router's statistics, and writes them to `output`.
    ///
    /// # Errors
    /// The statistics can't be read, or `output` can't be written to.
    pub fn run(self, output: &mut impl Write) -> io::Result<()> {
        let document = ask(&self.address, Duration::from_secs(self.timeout)).map_err(|error| {
            // Of another kind than what `output` may fail with.
            io::Error::other(format!("{}: {error}", Printable(&self.address)))
        })?;
        if self.json {
            output.write_all(&document.json)?;
            return output.write_all(b"\n");
        }
        write!(output, "{}", Overview { snapshot: &document.snapshot, peers: self.peers })
    }
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
