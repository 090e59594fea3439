//! What passes in the kernel, and that it is the same as what passes the router.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::common::emperor::{EMPEROR, V1, V2};
use crate::common::link::Connection;
use crate::common::netns::Net;
use crate::common::stats::Stats;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::VassalIni;
use crate::common::wait;
use crate::world::{
    Datagrams, EMPEROR_6, V1_6, V2_6, assert_none_passed, emperor, packets, pair_packets, start, vassal,
};

/// Sends bytes over a TCP connection until most of them take the way in the kernel: the pair of `vassal` has the packets, and the
/// router's device hasn't.
#[track_caller]
fn stream_until_in_kernel(from: &Net, to: &Net, address: IpAddr, host: &Net, vassal: &Net) {
    const ROUND: usize = 4 << 20;
    let listener = to.run(|| TcpListener::bind((address, 0))).expect("the address is there");
    let target: SocketAddr = listener.local_addr().expect("an address");
    let near = from.run(|| TcpStream::connect_timeout(&target, wait::SHORT)).expect("connected");
    let (far, _) = listener.accept().expect("the connection");
    far.set_read_timeout(Some(wait::LONG)).expect("a timeout can be set");
    let count = || {
        let sum = |[received, sent]: [u64; 2]| received + sent;
        (sum(pair_packets(vassal)), sum(packets(host, "emperor0")))
    };
    wait::until_true("the stream passes in the kernel", wait::LONG, || {
        let before = count();
        thread::scope(|scope| {
            scope.spawn(|| {
                let block = vec![0x5a; 1 << 16];
                (0..ROUND / block.len()).for_each(|_| (&near).write_all(&block).expect("the stream goes on"));
            });
            let mut rest = ROUND;
            let mut buffer = vec![0; 1 << 18];
            while rest > 0 {
                let len = (&far).read(&mut buffer).expect("the stream goes on");
                assert!(len > 0 && buffer[..len].iter().all(|byte| *byte == 0x5a), "{rest} bytes are missing");
                rest -= len;
            }
        });
        let after = count();
        after.0 - before.0 > 5 * (after.1 - before.1)
    });
}

#[test]
fn flows_of_all_kinds_pass_in_the_kernel() {
    let emperor = start(emperor());
    let first = emperor.start_attached(&vassal("v1", V1, V1_6));
    let second = emperor.start_attached(&vassal("v2", V2, V2_6));
    // Their first packets claim their addresses.
    [&first, &second].iter().for_each(|net| drop(net.sh(&format!("ping -q -c 1 -w 20 {EMPEROR_6}"))));
    for (own, other, host) in
        [(IpAddr::from(V1), IpAddr::from(V2), IpAddr::from(EMPEROR)), (V1_6.into(), V2_6.into(), EMPEROR_6.into())]
    {
        // Datagrams with the host, and with a neighbour.
        let outward = Datagrams::open(&first, own, &emperor.netns, host);
        outward.until_in_kernel(&first);
        let before = packets(&emperor.netns, "emperor0");
        assert!((0..50).all(|_| outward.pass()));
        let across = Datagrams::open(&first, own, &second, other);
        across.until_in_kernel(&first);
        across.until_in_kernel(&second);
        let after = packets(&emperor.netns, "emperor0");
        // Now and then one goes by the router, which watches.
        let seen: u64 = [0, 1].iter().map(|way| after[*way] - before[*way]).sum();
        assert!(seen < 50, "the router's device has passed on {seen} of 100 packets");

        // Echoes of one identifier.
        wait::until_true("echoes pass in the kernel", wait::LONG, || {
            let before = pair_packets(&first);
            first.sh(&format!("ping -q -c 60 -i 0.01 {host}"));
            let after = pair_packets(&first);
            [0, 1].iter().all(|way| after[*way] - before[*way] > 20)
        });

        // Streams, out, in and across.
        for (from, to, address) in
            [(&first, &*emperor.netns, host), (&*emperor.netns, &first, own), (&first, &second, other)]
        {
            stream_until_in_kernel(from, to, address, &emperor.netns, &first);
        }
    }
}

#[test]
fn peers_in_frames_go_by_the_router() {
    let emperor = start(emperor());
    let [first, second] = [(Subject::Ours, "v1", V1), (Subject::C, "v2", V2)].map(|(plugin, name, address)| {
        emperor.start_vassal(&VassalIni::new(Uwsgi::usual(), plugin, name, address, EMPEROR))
    });
    let host = Datagrams::open(&first, V1, &emperor.netns, EMPEROR);
    host.until_in_kernel(&first);
    for flow in [Datagrams::open(&second, V2, &emperor.netns, EMPEROR), Datagrams::open(&first, V1, &second, V2)] {
        let before = pair_packets(&first);
        flow.assert_all_pass(50);
        assert_none_passed(pair_packets(&first), before);
        assert!(!second.has_device("tv0"));
    }
}

/// Packets and bytes are those that applications have sent and got, whichever way they took.
#[test]
fn counters_have_what_passes_in_the_kernel() {
    const COUNT: u64 = 500;
    // The header of a frame, as peers in frames have it, IPv4, UDP and the eight bytes of a datagram.
    const LEN: u64 = 4 + 20 + 8 + 8;
    let emperor = start(emperor());
    let first = emperor.start_attached(&vassal("v1", V1, V1_6));
    let second = emperor.start_attached(&vassal("v2", V2, V2_6));
    let flow = Datagrams::open(&first, V1, &second, V2);
    flow.until_in_kernel(&first);
    flow.until_in_kernel(&second);
    let counters =
        |stats: &Stats, address| ["rx_packets", "tx_packets", "rx", "tx"].map(|key| stats.of_peer(address, key));
    let (before, on_wire) = (emperor.stats(), pair_packets(&first));
    assert!((0..COUNT).all(|_| flow.pass()));
    let after = emperor.stats();
    for address in [V1, V2] {
        let (before, after) = (counters(&before, address), counters(&after, address));
        let rise: Vec<_> = before.iter().zip(after).map(|(before, after)| after - before).collect();
        assert_eq!(rise, [COUNT, COUNT, COUNT * LEN, COUNT * LEN], "{address}");
    }
    let in_kernel = pair_packets(&first)[0] - on_wire[0];
    assert!(in_kernel > COUNT / 2, "most of them: {in_kernel}");
}

#[test]
fn vassal_that_does_without_the_path_has_no_pair() {
    let emperor = start(emperor());
    let first = emperor.start_attached(&vassal("v1", V1, V1_6).line("tuntap-device-offload = false"));
    let second = emperor.start_attached(&vassal("v2", V2, V2_6));
    Datagrams::open(&second, V2, &emperor.netns, EMPEROR).until_in_kernel(&second);
    let before = pair_packets(&second);
    for flow in [Datagrams::open(&first, V1, &emperor.netns, EMPEROR), Datagrams::open(&first, V1, &second, V2)] {
        flow.assert_all_pass(50);
    }
    assert_none_passed(pair_packets(&second), before);
    assert!(!first.has_device("tv0"));
}

/// A reload doesn't make the device anew, so that its connections live on.
#[test]
fn vassal_that_reloads_leaves_the_path_and_comes_back() {
    let emperor = start(emperor());
    let ini = vassal("v1", V1, V1_6).stays_root();
    let net = emperor.start_attached(&ini);
    let flow = Datagrams::open(&net, V1, &emperor.netns, EMPEROR);
    let mut connection = Connection::open(&net, &emperor.netns, EMPEROR);
    flow.until_in_kernel(&net);
    for (before, value) in [("nothing", "false"), ("false", "true")] {
        let mark = emperor.log.mark();
        emperor.add(&ini.clone().line(format!("tuntap-device-offload = {value}")));
        emperor.wait_until_ready(mark, "v1");
        let line = format!("tuntap-device-offload was {before}, and is {value} now: joins its router anew");
        assert!(emperor.log.since(mark).contains(&line), "{}", emperor.log.since(mark));
        if value == "true" {
            flow.until_in_kernel(&net);
        } else {
            wait::until_true("its pair is gone", wait::LONG, || !net.has_device("tv0"));
            wait::until_true("it is back", wait::LONG, || flow.pass());
            flow.assert_all_pass(50);
            assert!(!net.has_device("tv0"));
        }
        connection.assert_passes();
    }
}
