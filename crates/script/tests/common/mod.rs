//! What the tests of scripts share: flows, policies, times.
#![allow(dead_code, reason = "each test uses its own part")]

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tuntap_core::policy::Policy;
use tuntap_core::policy::counters::{CounterSlot, RuleCounters};
use tuntap_core::policy::flows::Owner;
use tuntap_core::policy::pattern::Action;
use tuntap_core::policy::registry::PeerId;
use tuntap_core::policy::script::{Script, ScriptQuery, ScriptVerdict};
use tuntap_core::policy::shape::{Limit, Shape, ShapeSelector, Shapes};
use tuntap_script::{Clock, Host, Runtime, Watchdog, check};
use tuntap_sys::process::LocalTime;
use tuntap_wire::credentials::PeerCredentials;
use tuntap_wire::rule::Direction;

/// A time that stands still until it is set.
#[derive(Debug)]
pub struct TestClock {
    pub now: Cell<Duration>,
    pub local: Cell<LocalTime>,
}

impl Default for TestClock {
    /// A Monday at noon.
    fn default() -> Self {
        let local = LocalTime { year: 2025, month: 6, day: 2, hour: 12, minute: 0, second: 0, weekday: 1 };
        Self { now: Cell::new(Duration::from_secs(1_748_865_600)), local: Cell::new(local) }
    }
}

impl Clock for TestClock {
    fn now(&self) -> Duration {
        self.now.get()
    }

    fn local(&self, _seconds: i64) -> Option<LocalTime> {
        Some(self.local.get())
    }
}

/// A flow to ask about, and the policy that it is asked under.
#[derive(Debug, Clone)]
pub struct Flow {
    pub direction: Direction,
    pub src: IpAddr,
    pub dst: IpAddr,
    pub protocol: u8,
    pub src_port: Option<u16>,
    pub dst_port: Option<u16>,
    pub peer: u32,
    pub uid: u32,
    pub addresses: Vec<IpAddr>,
    pub policy: Policy,
}

impl Default for Flow {
    fn default() -> Self {
        Self {
            direction: Direction::Out,
            src: ip("10.0.0.2"),
            dst: ip("192.0.2.1"),
            protocol: 6,
            src_port: Some(40000),
            dst_port: Some(443),
            peer: 1,
            uid: 1000,
            addresses: vec![ip("10.0.0.2")],
            policy: Policy::default(),
        }
    }
}

impl Flow {
    pub fn to(dst: &str, port: u16) -> Self {
        Self { dst: ip(dst), dst_port: Some(port), ..Self::default() }
    }

    pub fn query(&self) -> ScriptQuery<'_> {
        ScriptQuery {
            direction: self.direction,
            src: self.src,
            dst: self.dst,
            protocol: self.protocol,
            src_port: self.src_port,
            dst_port: self.dst_port,
            peer: PeerId { index: self.peer, generation: 0 },
            owner: Owner::User(self.uid),
            credentials: PeerCredentials { pid: 4321, uid: self.uid, gid: 100 },
            addresses: &self.addresses,
            policy: &self.policy,
        }
    }

    pub fn ask(&self, runtime: &mut Runtime) -> Option<ScriptVerdict> {
        runtime.decide(&self.query())
    }

    /// What becomes of it: without an opinion of the script, it is allowed.
    pub fn action(&self, runtime: &mut Runtime) -> Action {
        self.ask(runtime).map_or(Action::Allow, |verdict| verdict.action)
    }
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A policy with a set `customers` of 192.0.2.0/24 and fd00:1::/64, and a counter `web`.
pub fn policy() -> Policy {
    let networks = ["192.0.2.0/24", "fd00:1::/64"].map(|text| text.parse::<ipnet::IpNet>().expect("a network"));
    Policy {
        generation: 1,
        sets: vec![("customers".to_owned(), Arc::new(networks.into_iter().collect()))],
        counters: vec![("web".to_owned(), CounterSlot(1))],
        has_script: true,
        ..Policy::default()
    }
}

/// A policy that limits each peer, and the flows of a class.
pub fn policy_with_class(name: &str) -> Policy {
    let shape = |selector| Shape { out: true, inn: true, selector, limit: Limit::new(1_000_000) };
    let shapes = vec![shape(ShapeSelector::Any), shape(ShapeSelector::Class(name.to_owned()))];
    Policy { shapes: Arc::new(Shapes::new(shapes)), ..policy() }
}

pub fn counters() -> RuleCounters {
    let words = (0..RuleCounters::words(2)).map(|_| AtomicU64::new(0)).collect::<Box<[_]>>();
    RuleCounters::new(Box::leak(words))
}

pub fn host(clock: &Rc<TestClock>) -> Host {
    Host { counters: counters(), users: [(1000, "alice".to_owned())].into(), clock: Rc::<TestClock>::clone(clock) }
}

/// A runtime as the router has it, with this script.
pub fn runtime(source: &str) -> Runtime {
    runtime_at(source, &Rc::default())
}

pub fn runtime_at(source: &str, clock: &Rc<TestClock>) -> Runtime {
    let watchdog = Watchdog::start().expect("a thread");
    let mut runtime = Runtime::new(host(clock), Some(watchdog));
    let compiled = check(source, "test").unwrap_or_else(|error| panic!("{error}\n{source}"));
    runtime.load(Some(&compiled), None).unwrap_or_else(|error| panic!("{error}\n{source}"));
    runtime
}
