//! What the router says of flows in the kernel, beside what tcpdump counts where they arrive.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command};

use tuntap_api::control::{Chain, Direction, FlowEntry, FlowFilter, FlowList, FlowOrder, Request, TestPacket, Tested};

use crate::common::control::Control;
use crate::common::emperor::{EMPEROR, Emperor, V1};
use crate::common::netns::Net;
use crate::common::wait;
use crate::world::{Datagrams, V1_6, emperor, pair_packets, start, vassal};

/// Bytes of the IPv4 packet of a datagram of [`Datagrams`].
const LEN: u64 = 20 + 8 + 8;

/// tcpdump(8), which writes a line for each datagram with a port that comes in by a device.
struct Tcpdump {
    child: Child,
    output: PathBuf,
}

impl Tcpdump {
    fn start(emperor: &Emperor, net: &Net, device: &str, port: u16) -> Self {
        let output = emperor.path(&format!("tcpdump-{device}"));
        let file = File::create(&output).expect("own folder");
        let mut command = Command::new("tcpdump");
        command.args(["-n", "-l", "-Q", "in", "-i", device, &format!("udp and port {port}")]);
        command.stdout(file.try_clone().expect("a descriptor")).stderr(file);
        let this = Self { child: net.run(|| command.spawn()).expect("tcpdump starts"), output };
        wait::until_true("tcpdump listens", wait::LONG, || this.text().contains("listening on"));
        this
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.output).expect("own file")
    }

    fn datagrams(&self) -> u64 {
        self.text().lines().filter(|line| line.contains(" UDP, ")).count() as u64
    }
}

impl Drop for Tcpdump {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn flow_with(control: &mut Control, port: u16) -> FlowEntry {
    let filter = FlowFilter { port: Some(port), ..FlowFilter::default() };
    let list: FlowList = control.ask(&Request::FlowsList { filter, order: FlowOrder::Top, limit: None });
    let [flow] = <[FlowEntry; 1]>::try_from(list.flows).expect("one flow");
    flow
}

#[test]
fn flows_and_rules_count_what_tcpdump_counts() {
    const COUNT: u64 = 300;
    let emperor = start(emperor());
    let net = emperor.start_attached(&vassal("v1", V1, V1_6));
    let mut control = Control::open(&emperor);
    let rules = [
        control.add(Chain::Out, &format!("allow {V1} {EMPEROR} udp")),
        control.add(Chain::In, &format!("allow {EMPEROR} {V1} udp established")),
    ];
    let flow = Datagrams::open(&net, V1, &emperor.netns, EMPEROR);
    flow.until_in_kernel(&net);
    let captures = [(&*emperor.netns, "emperor0"), (&net, "uwsgi0")]
        .map(|(net, device)| Tcpdump::start(&emperor, net, device, flow.port()));

    let mut counted = || {
        let by_rule = rules.map(|id| control.rule(id)).map(|rule| [rule.packets, rule.bytes]);
        let known = flow_with(&mut control, flow.port());
        assert_eq!([known.rule_out, known.rule_in], rules.map(Some));
        (by_rule, [[known.packets_out, known.bytes_out], [known.packets_in, known.bytes_in]])
    };
    let (before, in_kernel) = (counted(), pair_packets(&net));
    assert!((0..COUNT).all(|_| flow.pass()));
    let after = counted();
    assert!(pair_packets(&net)[0] - in_kernel[0] > COUNT / 2, "most of them pass in the kernel");
    for (way, capture) in captures.iter().enumerate() {
        wait::until_true("tcpdump has told of all", wait::LONG, || capture.datagrams() >= COUNT);
        let rise = |[before, after]: [[u64; 2]; 2]| [0, 1].map(|what| after[what] - before[what]);
        let expected = [capture.datagrams(), capture.datagrams() * LEN];
        assert_eq!(rise([before.0[way], after.0[way]]), expected, "the rule, {way}");
        assert_eq!(rise([before.1[way], after.1[way]]), expected, "the flow, {way}");
    }
}

#[test]
fn flows_and_test_say_which_way_packets_take() {
    let emperor = start(emperor());
    let net = emperor.start_attached(&vassal("v1", V1, V1_6));
    let mut control = Control::open(&emperor);
    let flow = Datagrams::open(&net, V1, &emperor.netns, EMPEROR);
    flow.until_in_kernel(&net);
    let known = flow_with(&mut control, flow.port());
    assert_eq!([known.path_out.as_deref(), known.path_in.as_deref()], [Some("kernel"); 2]);
    let path = |control: &mut Control| {
        let packet = TestPacket {
            direction: Direction::Out,
            src: V1.into(),
            dst: EMPEROR.into(),
            protocol: Some("udp".to_owned()),
            src_port: Some(known.local_port),
            dst_port: Some(flow.port()),
            peer: None,
            state: None,
        };
        let tested: Tested = control.ask(&Request::Test { packet });
        tested.steps.into_iter().find(|step| step.stage == "path").expect("a step").result
    };
    assert_eq!(path(&mut control), "kernel");
    let rule = control.add(Chain::Out, &format!("allow {V1} {EMPEROR} udp log"));
    assert!(flow.pass());
    let known = flow_with(&mut control, flow.port());
    assert_eq!((known.rule_out, known.path_in.as_deref()), (Some(rule), Some("kernel")));
    assert_ne!(known.path_out.as_deref(), Some("kernel"));
    assert_ne!(path(&mut control), "kernel");
}
