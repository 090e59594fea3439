//! `uwsgi-tuntap capture` and the request behind it: real packets of real vassals, read by tshark and tcpdump.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tuntap_api::control::{CapturedPacket, Code, Event, FlowFilter, Request};

use crate::common::command::uwsgi_tuntap;
use crate::common::control::Control;
use crate::common::emperor::{EMPEROR, Emperor, EmperorIni, V1, V2};
use crate::common::instance::Instance;
use crate::common::packet;
use crate::common::probe;
use crate::common::processes;
use crate::common::starter::Starter;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::VassalIni;
use crate::common::wait;

const VIEWER: u32 = 30_001;
const OPERATOR: u32 = 30_002;

/// Rule 1 denies a network, rule 2 allows the rest.
fn emperor() -> EmperorIni {
    EmperorIni::new(Uwsgi::usual(), Subject::Ours)
        .line("tuntap-router-firewall-out = reject any 192.0.2.0/24")
        .line("tuntap-router-firewall-out = allow")
}

/// The command, run in the namespace of the router.
fn command(emperor: &Emperor) -> Starter {
    let socket = emperor.path("t.sock.control");
    Starter::program(uwsgi_tuntap(), &emperor.path("")).netns(&emperor.netns).argument("--control").argument(socket)
}

/// A capture into a file that has begun.
fn begin(emperor: &Emperor, file: &str, arguments: &[&str]) -> Instance {
    let capture = command(emperor).argument("capture").arguments(arguments).arguments(["--write", file]).start();
    wait_for_file(&emperor.path(file));
    capture
}

/// A file is begun as soon as the router captures.
fn wait_for_file(file: &Path) {
    wait::until_true("the capture has begun", wait::LONG, || fs::metadata(file).is_ok_and(|it| it.len() > 0));
}

/// Waits until so many packets are in a file: what is on its way when a capture ends isn't in it.
fn wait_for_packets(file: &Path, count: usize) {
    let verdicts = || fs::read(file).expect("own file").windows(8).filter(|bytes| bytes == b"verdict=").count();
    wait::until_true("all packets are in the file", wait::LONG, || verdicts() >= count);
}

/// Ends a capture as Ctrl-C does. Returns what it says.
#[track_caller]
fn end(mut capture: Instance) -> String {
    processes::send(capture.pid(), Signal::SIGINT);
    let status = capture.wait_for_exit();
    let told = capture.log.text();
    assert!(status.success(), "{status}: {told}");
    told
}

/// Fields of each packet of a file, as tshark reads them.
#[track_caller]
fn tshark(file: &Path, fields: &[&str]) -> Vec<Vec<String>> {
    let fields = fields.iter().flat_map(|field| ["-e", field]);
    let output = Command::new("tshark")
        .args(["-n", "-r"])
        .arg(file)
        .args(["-T", "fields", "-E", "separator=|", "-E", "occurrence=f"])
        .args(fields)
        .output()
        .expect("tshark (scripts/setup test)");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !told.contains("cut short") && !told.contains("isn't"), "{told}");
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect()
}

#[test]
fn tshark_reads_each_packet_with_verdict_reason_and_rule() {
    // Two pings and an echo, with answers; three dropped packets, and a reply to one of them.
    const PACKETS: usize = 10;
    let emperor = emperor().start();
    let vassal = emperor.start_attached(&VassalIni::new(Uwsgi::usual(), Subject::Ours, "one", V1, EMPEROR));
    let mut peer = emperor.peer(V2);
    let capture = begin(&emperor, "all.pcapng", &[]);
    assert_eq!(probe::pings_answered(&vassal, EMPEROR, 2, &[]), 2);
    peer.send_packet(&packet::udp(V2, [192, 0, 2, 1].into(), 53, b"denied"));
    peer.send_packet(&packet::udp(V1, EMPEROR, 53, b"spoofed"));
    peer.send_packet(&[0x55; 40]);
    assert!(peer.echo(V2, EMPEROR, wait::SHORT));
    let file = emperor.path("all.pcapng");
    wait_for_packets(&file, PACKETS);
    let told = end(capture);
    assert!(told.contains(" captured, 0 left out"), "{told}");
    assert_eq!(fs::metadata(&file).expect("it was made").permissions().mode() & 0o777, 0o600);
    let packets = tshark(&file, &["frame.interface_name", "ip.src", "ip.dst", "ip.proto", "frame.comment"]);
    let has = |interface: &str, src: &str, dst: &str, proto: &str, comment: &str| {
        packets.iter().filter(|packet| packet[..] == [interface, src, dst, proto, comment]).count()
    };
    let (one, other, host) = (V1.to_string(), V2.to_string(), EMPEROR.to_string());
    assert_eq!(has(&one, &one, &host, "1", "verdict=allow rule=2 to=tun"), 2, "{packets:?}");
    assert_eq!(has(&one, &host, &one, "1", "verdict=allow to=peer"), 2, "{packets:?}");
    assert_eq!(has(&other, &other, "192.0.2.1", "17", "verdict=reject reason=firewall rule=1"), 1, "{packets:?}");
    assert_eq!(has(&other, &one, &host, "17", "verdict=deny reason=spoofed_source"), 1, "{packets:?}");
    assert_eq!(has(&other, "", "", "", "verdict=deny reason=not_ip"), 1, "{packets:?}");
    assert_eq!(has(&other, &other, &host, "1", "verdict=allow rule=2 to=tun"), 1, "{packets:?}");
    // The reply to the rejected packet, after it.
    let reply = packets.iter().position(|it| it[0] == other && it[2] == other && it[1] != host).expect("a reply");
    let rejected = packets.iter().position(|it| it[4].starts_with("verdict=reject")).expect("what it answers");
    assert!(rejected < reply, "{packets:?}");
}

#[test]
fn selectors_choose_as_rules_and_watch_do() {
    let emperor = emperor().start();
    let mut peer = emperor.peer(V1);
    let captures = [
        ("rule", &["any", "192.0.2.0/24", "udp", "53"][..], 1),
        ("quoted", &["any 192.0.2.0/24 udp 53"], 1),
        ("answers", &["any", "any", "icmp"], 2),
        ("address", &["192.0.2.1"], 2),
        ("port", &["--port", "54"], 1),
        ("verdict", &["--verdict", "reject"], 2),
        ("number", &["--rule", "2", "--protocol", "icmp"], 1),
        ("nothing", &["10.9.0.0/16", "any"], 0),
    ]
    .map(|(name, arguments, expected)| (begin(&emperor, name, arguments), name, expected));
    for port in [53, 54] {
        peer.send_packet(&packet::udp(V1, [192, 0, 2, 1].into(), port, b"denied"));
    }
    assert!(peer.echo(V1, EMPEROR, wait::SHORT));
    for (capture, name, expected) in captures {
        wait_for_packets(&emperor.path(name), expected);
        end(capture);
        // The ICMP errors about the rejected packets have these addresses, too.
        let packets = tshark(&emperor.path(name), &["frame.comment", "icmp.type"]);
        let packets: Vec<_> = packets.iter().filter(|packet| packet[1] != "3").collect();
        assert_eq!(packets.len(), expected, "{name}: {packets:?}");
    }
}

#[test]
fn tshark_reads_it_live_from_a_pipe() {
    let emperor = emperor().start();
    let mut peer = emperor.peer(V1);
    let line = format!(
        "'{}' --control '{}' capture --write - any any icmp | exec tshark -n -l -i - -T fields -e frame.comment -e icmp.seq",
        uwsgi_tuntap().display(),
        emperor.path("t.sock.control").display()
    );
    let reader = Starter::program("sh", &emperor.path("")).netns(&emperor.netns).arguments(["-c", &line]).start();
    emperor.log.wait_for("captures packets", wait::LONG);
    // What is read is shown while the capture goes on.
    wait::until_true("tshark shows packets", wait::LONG, || {
        assert!(peer.echo(V1, EMPEROR, wait::SHORT));
        reader.log.text().contains("verdict=allow rule=2 to=tun")
    });
}

#[test]
fn tcpdump_reads_pcap() {
    // Of the file, of the packet, and what is captured of it.
    const LEN: usize = 24 + 16 + 64;
    let emperor = emperor().start();
    let mut peer = emperor.peer(V1);
    let capture = begin(&emperor, "old.pcap", &["--format", "pcap", "--snaplen", "64", "any", "any", "udp"]);
    peer.send_packet(&packet::udp(V1, [192, 0, 2, 1].into(), 53, &[7; 500]));
    assert!(peer.echo(V1, EMPEROR, wait::SHORT));
    wait::until_true("the packet is in the file", wait::LONG, || {
        fs::metadata(emperor.path("old.pcap")).is_ok_and(|it| it.len() >= LEN as u64)
    });
    end(capture);
    let output = Command::new("tcpdump").args(["-n", "-r"]).arg(emperor.path("old.pcap")).output().expect("tcpdump");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.lines().count() == 1, "{text}");
    assert!(text.contains(&format!("{V1}.")) && text.contains("192.0.2.1.53"), "{text}");
    let bytes = fs::read(emperor.path("old.pcap")).expect("own file");
    assert_eq!(bytes.len(), LEN);
}

#[test]
fn lines_and_json_are_for_people_and_programs() {
    let emperor = emperor().start();
    let mut peer = emperor.peer(V1);
    let lines = command(&emperor).arguments(["capture", "--count", "1", "any", "any", "udp"]).log("lines").start();
    let json = command(&emperor).arguments(["--json", "capture", "--count", "1", "--port", "53"]).log("json").start();
    wait::until_true("both capture", wait::LONG, || emperor.log.text().matches("captures packets").count() == 2);
    peer.send_packet(&packet::udp(V1, [192, 0, 2, 1].into(), 53, b"denied"));
    for mut capture in [lines, json] {
        assert!(capture.wait_for_exit().success(), "it ends after a packet: {}", capture.log.text());
    }
    let text = fs::read_to_string(emperor.path("lines")).expect("own file");
    assert!(
        text.contains(" out  udp 192.168.0.2:") && text.contains("-> 192.0.2.1:53, 34 B: verdict=reject"),
        "{text}"
    );
    let text = fs::read_to_string(emperor.path("json")).expect("own file");
    let event: Event = serde_json::from_str(text.trim()).expect("an event in a line");
    let Event::Packet(CapturedPacket { len, data, peer: Some(_), dst_port: Some(53), .. }) = event else {
        panic!("{text}")
    };
    assert_eq!(STANDARD.decode(data).expect("Base64").len(), len as usize);
}

fn capture_request(filter: FlowFilter, snap_len: Option<u32>) -> Request {
    Request::Capture { selector: None, filter, snap_len }
}

#[test]
fn only_admins_capture() {
    let emperor = emperor()
        .line(format!("tuntap-router-control-access = view {VIEWER}"))
        .line(format!("tuntap-router-control-access = operate {OPERATOR}"))
        .start();
    for uid in [VIEWER, OPERATOR] {
        let request = capture_request(FlowFilter::default(), None);
        let failure = Control::open_as(&emperor, uid).try_ask::<Value>(&request).expect_err("it is refused");
        assert!(failure.code == Code::Denied && failure.message.contains("admin"), "{failure:?}");
    }
    assert!(!emperor.log.text().contains("captures packets"));
}

#[test]
fn values_that_make_no_sense_are_named() {
    let emperor = emperor().start();
    let mut root = Control::open(&emperor);
    for (selector, snap_len, part) in [
        (Some("any"), None, "expected <src[/len]|any|@set>"),
        (Some("any 10.0.0.0/33"), None, "10.0.0.0/33"),
        (Some("any any tcp 80 established"), None, "established"),
        (None, Some(0), "snap_len is 0"),
        (None, Some(65_536), "snap_len is 65536"),
    ] {
        let selector = selector.map(str::to_owned);
        let request = Request::Capture { selector, filter: FlowFilter::default(), snap_len };
        let failure = root.try_ask::<Value>(&request).expect_err(part);
        assert!(failure.code == Code::Invalid && failure.message.contains(part), "{failure:?}");
    }
    let finished = command(&emperor).arguments(["capture", "10.0.0.0/33", "-w", "kept"]).output();
    assert_eq!(finished.output.status.code(), Some(1), "{}", finished.text());
    assert!(finished.text().contains("10.0.0.0/33") && !emperor.path("kept").exists(), "{}", finished.text());
}

#[test]
fn file_that_takes_no_more_is_named() {
    let emperor = emperor().start();
    let finished = command(&emperor).arguments(["capture", "--write", "/dev/full"]).output();
    let text = finished.text();
    assert_eq!(finished.output.status.code(), Some(5), "{text}");
    assert!(text.contains("/dev/full: No space left on device") && text.contains("0 packets captured"), "{text}");
}

/// While somebody captures, flows leave the path in the kernel: a command whose reader is gone ends, also where no packet comes.
#[test]
fn commands_end_when_their_reader_is_gone() {
    let emperor = emperor().start();
    for (before, arguments) in [
        ("", "capture --write - any any udp 9 | true"),
        ("", "capture any any udp 9 | true"),
        ("mkfifo pipe; : <pipe &", "capture --write pipe any any udp 9"),
        ("", "watch | true"),
    ] {
        let line = format!(
            "{before} '{}' --control '{}' {arguments}",
            uwsgi_tuntap().display(),
            emperor.path("t.sock.control").display()
        );
        let shell = Starter::program("bash", &emperor.path("")).netns(&emperor.netns);
        let finished = shell.arguments(["-c", &format!("set -o pipefail; {line}")]).output();
        assert_eq!(finished.output.status.code(), Some(0), "{arguments}: {}", finished.text());
    }
    wait::until_true("all captures have ended", wait::SHORT, || {
        emperor.log.text().matches("a capture of packets has ended").count() == 3
    });
}

#[test]
fn captures_are_bounded_and_end_with_their_clients() {
    let emperor = emperor().start();
    let request = capture_request(FlowFilter::default(), None);
    let begin = || {
        let mut client = Control::open(&emperor);
        client.ask::<Value>(&request);
        client
    };
    let mut clients: Vec<_> = (0..8).map(|_| begin()).collect();
    let failure = Control::open(&emperor).try_ask::<Value>(&request).expect_err("one too many");
    assert_eq!(failure.code, Code::Busy);
    clients.pop();
    emperor.log.wait_for("a capture of packets has ended", wait::SHORT);
    clients.push(begin());
    let mut peer = emperor.peer(V1);
    for client in &mut clients {
        let event = client.next().event.expect("each has the packet");
        assert!(matches!(event, Event::Packet(_)), "{event:?}");
    }
    drop(clients);
    wait::until_true("all have ended", wait::SHORT, || {
        emperor.log.text().matches("a capture of packets has ended").count() == 9
    });
    assert!(peer.echo(V1, EMPEROR, wait::SHORT));
}

/// A client that doesn't read misses packets and is told how many; nobody else waits for it.
#[test]
fn what_nobody_reads_in_time_is_counted() {
    const SENT: u64 = 30_000;
    let emperor = emperor().start();
    let mut peer = emperor.peer(V1);
    let mut slow = Control::open(&emperor);
    let filter = FlowFilter { port: Some(53), ..FlowFilter::default() };
    slow.ask::<Value>(&capture_request(filter, Some(65_535)));
    let packet = packet::udp(V1, [192, 0, 2, 1].into(), 53, &[7; 1000]);
    (0..SENT).for_each(|_| peer.send_packet(&packet));
    assert!(peer.echo(V1, EMPEROR, wait::SHORT));
    emperor.wait_for_stats("all have come", |stats| stats.drops("firewall") == SENT);
    let (mut told, mut left_out) = (0, 0);
    while told + left_out < SENT {
        match slow.next().event.expect("an event") {
            Event::Packet(_) => told += 1,
            Event::LeftOut { count } => left_out += count,
            other @ Event::Drop(_) => panic!("{other:?}"),
        }
    }
    assert_eq!(told + left_out, SENT);
    assert!(left_out > 0 && told > 100, "{told} told, {left_out} left out");
}

/// The file of a capture whose router dies is whole, and the command says what happened.
#[test]
fn router_that_dies_ends_a_capture_in_order() {
    let emperor = emperor().start();
    let mut capture = begin(&emperor, "cut.pcapng", &[]);
    let mut peer = emperor.peer(V1);
    assert!(peer.echo(V1, EMPEROR, wait::SHORT));
    wait::until_true("packets are written", wait::SHORT, || {
        fs::metadata(emperor.path("cut.pcapng")).is_ok_and(|file| file.len() > 500)
    });
    emperor.kill_router();
    assert_eq!(capture.wait_for_exit().code(), Some(4));
    assert!(capture.log.text().contains("the router closed the connection"), "{}", capture.log.text());
    assert!(!tshark(&emperor.path("cut.pcapng"), &["frame.comment"]).is_empty());
    // The next router captures nothing until somebody asks.
    let mut next = Control::open(&emperor);
    next.ask::<Value>(&capture_request(FlowFilter::default(), None));
}

/// The request as docs/PROTOCOL.md has it, with nothing but a socket.
#[test]
fn socket_alone_will_do() {
    let emperor = emperor().start();
    let mut client = Control::open(&emperor);
    client.send_json(&json!({"verb": "capture", "selector": "any any icmp", "snap_len": 20}));
    assert_eq!(client.next().ok, Some(json!({})));
    let mut peer = emperor.peer(V1);
    let Some(Event::Packet(packet)) = client.next().event else { panic!("a packet") };
    assert_eq!((packet.verdict.as_str(), packet.to.as_deref(), packet.rule), ("allow", Some("tun"), Some(2)));
    assert_eq!(STANDARD.decode(packet.data).expect("Base64").len(), 20);
    assert!(peer.echo(V1, EMPEROR, wait::SHORT));
}

/// What nobody reads yet is no reason to take flows off the path in the kernel, and Ctrl-C ends the wait at once.
#[test]
fn named_pipe_is_waited_for_before_anything_is_captured() {
    let emperor = emperor().start();
    let pipe = emperor.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("own folder");
    let start = || {
        let capture = command(&emperor).arguments(["capture", "--write", "pipe"]).start();
        let place = format!("/proc/{}/wchan", capture.pid());
        // The kernel's function that opens a named pipe (fs/pipe.c).
        let waits = || fs::read_to_string(&place).is_ok_and(|function| function == "wait_for_partner");
        wait::until_true("it waits for a reader", wait::LONG, waits);
        capture
    };
    let mut capture = start();
    processes::send(capture.pid(), Signal::SIGINT);
    assert!(!capture.wait_for_exit().success());
    assert!(!emperor.log.text().contains("captures packets"), "{}", emperor.log.text());
    let capture = start();
    let mut reader = fs::File::open(&pipe).expect("own file");
    emperor.log.wait_for("captures packets", wait::LONG);
    let mut begin = [0; 4];
    reader.read_exact(&mut begin).expect("a file begins");
    assert_eq!(begin, [0x0a, 0x0d, 0x0d, 0x0a], "a section of pcapng");
    end(capture);
}
