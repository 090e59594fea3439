//! A client of a router's control socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde::de::DeserializeOwned;
use tuntap_api::control::{Chain, Change, Changed, Failure, Request, Response, RuleEntry, RuleList};

use super::emperor::Emperor;
use super::netns::Net;
use super::user::as_user;
use super::wait;

/// A client of the control socket.
pub struct Control {
    stream: BufReader<UnixStream>,
}

impl Control {
    /// Connects from the router's network namespace, as root.
    #[track_caller]
    pub fn open(emperor: &Emperor) -> Self {
        Self::at(&emperor.netns, &emperor.path("t.sock.control"))
    }

    /// Connects to a socket from a network namespace, as root.
    #[track_caller]
    pub fn at(net: &Net, path: &Path) -> Self {
        wait::until("the control socket answers", wait::LONG, || {
            Some(Self::of(net.run(|| UnixStream::connect(path)).ok()?))
        })
    }

    /// Connects as another user.
    #[track_caller]
    pub fn open_as(emperor: &Emperor, uid: u32) -> Self {
        let path = emperor.path("t.sock.control");
        let stream = emperor.netns.run(|| as_user(uid, || UnixStream::connect(&path)));
        Self::of(stream.expect("the control socket takes everybody's connection"))
    }

    fn of(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(wait::LONG)).expect("a timeout can be set");
        Self { stream: BufReader::new(stream) }
    }

    #[track_caller]
    pub fn send(&mut self, request: &Request) {
        let mut line = serde_json::to_vec(request).expect("a request has a form");
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).expect("the router reads");
    }

    /// Sends a request that is written out.
    #[track_caller]
    pub fn send_json(&mut self, request: &serde_json::Value) {
        self.stream.get_mut().write_all(format!("{request}\n").as_bytes()).expect("the router reads");
    }

    #[track_caller]
    pub fn next(&mut self) -> Response {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("the router answers");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("an answer, not {line:?}: {error}"))
    }

    /// Sends a request, and returns its result.
    #[track_caller]
    pub fn try_ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, Failure> {
        self.send(request);
        let Response { ok, error, .. } = self.next();
        match (ok, error) {
            (Some(ok), None) => Ok(T::deserialize(&ok).unwrap_or_else(|error| panic!("a result, not {ok}: {error}"))),
            (None, Some(error)) => Err(error),
            other => panic!("one result or one error: {other:?}"),
        }
    }

    #[track_caller]
    pub fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> T {
        self.try_ask(request).unwrap_or_else(|failure| panic!("{request:?}: {failure:?}"))
    }

    #[track_caller]
    pub fn commit(&mut self, changes: &[Change]) -> Changed {
        self.ask(&commit(changes))
    }

    /// Adds a rule to the group `live`, and returns its number.
    #[track_caller]
    pub fn add(&mut self, chain: Chain, rule: &str) -> u32 {
        let changed = self.commit(&[add(chain, rule)]);
        let [id] = changed.rules[..] else { panic!("one rule: {changed:?}") };
        id
    }

    #[track_caller]
    pub fn rules(&mut self) -> Vec<RuleEntry> {
        let list: RuleList = self.ask(&Request::RulesList { chain: None, group: None });
        list.groups.into_iter().flat_map(|group| group.rules).collect()
    }

    #[track_caller]
    pub fn rule(&mut self, id: u32) -> RuleEntry {
        self.rules().into_iter().find(|rule| rule.id == id).unwrap_or_else(|| panic!("there is a rule {id}"))
    }
}

pub fn commit(changes: &[Change]) -> Request {
    Request::Commit { changes: changes.to_vec(), expected_generation: None, confirm_seconds: None, dry_run: false }
}

pub fn add(chain: Chain, rule: &str) -> Change {
    Change::RuleAdd { group: None, chain, rule: rule.to_owned() }
}
