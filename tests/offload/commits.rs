//! Changes of the policy, while packets pass in the kernel.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use tuntap_api::control::{Chain, Change, Request, ScriptStatus};

use crate::common::control::Control;
use crate::common::emperor::{EMPEROR, V1};
use crate::common::wait;
use crate::world::{Datagrams, V1_6, emperor, pair_packets, start, vassal};

const ROUNDS: usize = 20;

/// So many packets of the flood are sent while a rule denies them, at least.
const DENIED: u64 = 200;

/// More packets than wait in the vassal's device.
const QUEUE: u64 = 2000;

/// Ends the flood, also when the test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A flood of numbered datagrams. None that was sent after the answer of the commit that denies them may arrive.
#[test]
fn no_packet_passes_after_the_answer_of_a_commit() {
    let emperor = start(emperor());
    let net = emperor.start_attached(&vassal("v1", V1, V1_6));
    let flow = Datagrams::open(&net, V1, &emperor.netns, EMPEROR);
    flow.until_in_kernel(&net);
    let mut control = Control::open(&emperor);
    let sender = net.run(|| UdpSocket::bind((V1, 0))).expect("the address is there");
    let receiver = emperor.netns.run(|| UdpSocket::bind((EMPEROR, 0))).expect("the address is there");
    sender.connect(receiver.local_addr().expect("an address")).expect("a route");
    receiver.set_read_timeout(Some(wait::SHORT)).expect("a timeout can be set");
    let (next, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let arrived = Mutex::new(BTreeSet::new());
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                // A full queue drops it.
                let _ = sender.send(&next.fetch_add(1, Ordering::SeqCst).to_ne_bytes());
            }
        });
        scope.spawn(|| {
            let mut bytes = [0; 8];
            while !is_over.load(Ordering::Relaxed) {
                if matches!(receiver.recv(&mut bytes), Ok(8)) {
                    arrived.lock().expect("no panic").insert(u64::from_ne_bytes(bytes));
                }
            }
        });
        let _end = End(&is_over);
        for round in 0..ROUNDS {
            // The flood is in the kernel, and arrives.
            wait::until_true("the flood passes in the kernel", wait::LONG, || {
                let (before, sent) = (pair_packets(&net)[1], next.load(Ordering::SeqCst));
                wait::until_true("the flood goes on", wait::LONG, || next.load(Ordering::SeqCst) > sent + 2 * DENIED);
                pair_packets(&net)[1] > before + DENIED
            });
            let rule = control.add(Chain::Out, &format!("deny {V1} {EMPEROR}"));
            // This one may be on its way already; the ones behind it are sent later.
            let first = next.load(Ordering::SeqCst);
            wait::until_true("the flood goes on", wait::LONG, || next.load(Ordering::SeqCst) > first + DENIED);
            let last = next.load(Ordering::SeqCst);
            // What waits in the vassal's device is for the policy of the time at which the router reads it.
            let denied = emperor.stats().drops("firewall");
            wait::until_true("the router reads what waits", wait::LONG, || {
                emperor.stats().drops("firewall") > denied + QUEUE
            });
            control.commit(&[Change::RuleDelete { id: rule }]);
            wait::until_true("the flood arrives again", wait::LONG, || {
                arrived.lock().expect("no panic").last().is_some_and(|latest| *latest > last)
            });
            let arrived = arrived.lock().expect("no panic");
            let late: Vec<_> = arrived.range(first..last).collect();
            assert!(late.is_empty(), "round {round}: {late:?} of {first} to {last}");
        }
    });
}

/// Whatever makes a flow no plain pass any more: the very next packets take the router's way, and when it is taken back, the kernel's.
#[test]
fn flows_leave_the_kernel_with_the_answer_of_a_change() {
    let emperor = start(emperor());
    let net = emperor.start_attached(&vassal("v1", V1, V1_6));
    let flow = Datagrams::open(&net, V1, &emperor.netns, EMPEROR);
    let mut control = Control::open(&emperor);
    let load = |control: &mut Control, text: &str| {
        drop(control.ask::<ScriptStatus>(&Request::ScriptLoad { text: text.to_owned() }));
    };
    let assert_by_router = |what: &str, passes: bool| {
        let before = pair_packets(&net)[1];
        // That nothing comes takes its time to see.
        let count = if passes { 20 } else { 2 };
        assert!((0..count).all(|_| flow.goes(true) == passes), "{what}");
        assert_eq!(pair_packets(&net)[1], before, "{what}: packets pass in the kernel");
    };
    for (chain, rule, passes) in [
        (Chain::Out, format!("allow {V1} {EMPEROR} udp log"), true),
        (Chain::Out, format!("allow {V1} any rate 1000/s"), true),
        (Chain::Out, format!("deny any {EMPEROR} udp"), false),
        (Chain::Out, format!("reject {V1} {EMPEROR}"), false),
        (Chain::Shape, format!("out {V1} 100M"), true),
        (Chain::Shape, "both any 1G".to_owned(), true),
    ] {
        flow.until_in_kernel(&net);
        let id = control.add(chain, &rule);
        assert_by_router(&rule, passes);
        control.commit(&[Change::RuleDelete { id }]);
    }
    for (text, passes) in
        [("function policy(flow) return 'allow', 60 end", true), ("function policy(flow) return 'deny' end", false)]
    {
        flow.until_in_kernel(&net);
        load(&mut control, text);
        assert_by_router(text, passes);
        load(&mut control, "function policy(flow) return nil end");
    }
    flow.until_in_kernel(&net);
}
