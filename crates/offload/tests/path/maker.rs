//! The process that makes pairs, here a thread.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::time::Duration;

use nix::errno::Errno;
use tuntap_offload::maps::{End, Maps};
use tuntap_offload::pairs::Hooks;
use tuntap_offload::programs::Programs;
use tuntap_offload::protocol::{Loss, MESSAGE_LEN, Reply, Request, Run, Token};
use tuntap_offload::verdicts::Verdicts;
use tuntap_offload::{Config, Notice, run};
use tuntap_sys::netlink::Netlink;
use tuntap_sys::socket::{message_pair, recv, send_with_descriptor};
use tuntap_sys::tun::Tun;

use super::world::{Namespace, Peer, ROUTER, keys, until};

const RUN: Run = 77;
const VERDICTS: u16 = 16;

/// It stands still between its turns.
struct Maker {
    socket: OwnedFd,
    maps: Arc<Maps>,
    _master: std::io::PipeWriter,
    host: Namespace,
    device: Option<Tun>,
    turns: Receiver<()>,
    next: SyncSender<()>,
    /// Lines for the log.
    told: Receiver<String>,
    /// How many pairs there were at the end of the last turn.
    pairs: usize,
}

impl Maker {
    /// The calling thread is in the host's namespace afterwards.
    fn start() -> Self {
        let host = Namespace::new();
        host.enter();
        let device = host.device(ROUTER, &[]);
        let maps = Arc::new(Maps::new(VERDICTS.into()).expect("needs root"));
        let programs = Programs::load(&maps).expect("the verifier agrees");
        let (socket, other) = message_pair().expect("sockets");
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let ((turn, turns), (next, may_go), (tell, told)) = (sync_channel(0), sync_channel(0), channel());
        let device_name = ROUTER.to_owned();
        let config = Config {
            maps: Arc::clone(&maps),
            programs,
            hooks: Hooks::of_kernel(),
            device: device_name,
            guard: None,
            socket: other,
            master: reader.into(),
        };
        std::thread::spawn(move || {
            // Both fail when the test is over.
            let beat = || {
                let _ = turn.send(());
                let _ = may_go.recv();
                Some(Duration::from_millis(1))
            };
            let log = |notice: &Notice| drop(tell.send(notice.to_string()));
            run(config, || (), log, beat)
        });
        let device = Some(device);
        let mut maker = Self { socket, maps, _master: writer, host, device, turns, next, told, pairs: 0 };
        assert_eq!(maker.turn(), [Reply::Started]);
        maker.ask(Request::Begin(RUN), None);
        assert_eq!(maker.turn(), [Reply::Ready(RUN)]);
        maker
    }

    fn ask(&self, request: Request, peer: Option<&Peer>) {
        let device = peer.map_or_else(|| self.socket.as_fd(), |peer| peer.device.as_fd());
        send_with_descriptor(self.socket.as_fd(), &request.encode(), device).expect("room");
    }

    /// Lets it have a turn. Returns what it has said until the end of that.
    fn turn(&mut self) -> Vec<Reply> {
        let recv_reply = || {
            let mut bytes = [0; MESSAGE_LEN];
            let len = recv(self.socket.as_fd(), &mut bytes).ok()?;
            Some(Reply::decode(&bytes[..len]).expect("a reply"))
        };
        // The first turn begins by itself.
        self.turns.recv().expect("it lives");
        let replies = std::iter::from_fn(recv_reply).collect();
        self.pairs = pairs();
        self.next.send(()).expect("it lives");
        replies
    }
}

fn pairs() -> usize {
    Netlink::open().and_then(|mut it| it.links()).expect("a list").iter().filter(|it| it.name.starts_with("tv")).count()
}

/// Root in a peer's namespace can delay the start of its pair, and have others made by many peers. Between two of them the master has to
/// see a beat.
#[test]
fn pairs_are_made_one_in_a_turn() {
    let mut maker = Maker::start();
    let peers: Vec<_> = (0..4).map(|_| Peer::new(["10.77.0.2", "fd00:77::2"])).collect();
    for (token, peer) in (0..).zip(&peers) {
        maker.ask(Request::Make(RUN, token), Some(peer));
    }
    let (mut count, mut made) = (0, Vec::new());
    until("all are made", || {
        made.extend(maker.turn().into_iter().map(|reply| match reply {
            Reply::Made(RUN, token, _) => token,
            other => panic!("{other:?}"),
        }));
        assert!(maker.pairs <= count + 1, "{count}, then {}", maker.pairs);
        count = maker.pairs;
        made.len() == peers.len()
    });
    made.sort_unstable();
    assert_eq!(made, [0, 1, 2, 3]);
}

/// The next process doesn't know what is in the maps, and changes nothing there before it is told that pairs can be made.
#[test]
fn maps_are_empty_when_a_router_is_told_that_pairs_can_be_made() {
    const PAIR: u32 = 5;
    let mut maker = Maker::start();
    for run in [RUN, RUN + 1] {
        // Other flows than those of the earlier process, and as many as there may be.
        let first = 1000 * u16::try_from(run - RUN + 1).expect("a small number");
        let mut verdicts = Verdicts::new(&maker.maps).expect("memory");
        let mut give = |place: u16| {
            let [key, _] = keys(17, ([10, 77, 0, 2], first + place).into(), ([10, 77, 0, 1], 53).into());
            verdicts.give(place.into(), 1, &key, End::Pair(PAIR), End::Host)
        };
        assert!((0..VERDICTS).all(|place| give(place).is_ok()), "there is room");
        assert_eq!(give(VERDICTS), Err(Errno::E2BIG));
        maker.ask(Request::Begin(run + 1), None);
        until("the next process is told", || maker.turn().contains(&Reply::Ready(run + 1)));
    }
}

/// A pair that is damaged before it has started is told of as one that is damaged later.
#[test]
fn pair_that_is_set_down_while_it_starts_is_lost() {
    const TOKEN: Token = 5;
    let mut maker = Maker::start();
    let peer = Peer::new(["10.77.0.2", "fd00:77::2"]);
    maker.ask(Request::Make(RUN, TOKEN), Some(&peer));
    until("the pair is there", || {
        let replies = maker.turn();
        replies.iter().for_each(|reply| assert!(matches!(reply, Reply::Made(RUN, TOKEN, _)), "{reply:?}"));
        maker.pairs == 1
    });
    peer.namespace.within(|| {
        let status = std::process::Command::new("ip").args(["link", "set", "tv0", "down"]).status();
        assert!(status.expect("ip starts").success());
    });
    until("it is lost", || maker.turn().contains(&Reply::Lost(RUN, TOKEN, Loss::Damaged)));
    until("it is removed", || {
        maker.turn();
        maker.pairs == 0
    });
    maker.ask(Request::Make(RUN, TOKEN), Some(&peer));
    until("there is another one", || maker.turn().iter().any(|reply| matches!(reply, Reply::Made(RUN, TOKEN, _))));
}

/// Each router's process asks whether there can be pairs. Why there can't is told once.
#[test]
fn reason_why_there_are_no_pairs_is_told_once() {
    let mut maker = Maker::start();
    for round in [10, 20] {
        maker.device = None;
        for run in [round, round + 1] {
            maker.ask(Request::Begin(run), None);
            until("it says that there are none", || maker.turn() == [Reply::Unable(run)]);
        }
        let told: Vec<_> = maker.told.try_iter().collect();
        assert!(matches!(&told[..], [line] if line.starts_with("there is no path in the kernel: ")), "{told:?}");
        maker.device = Some(maker.host.device(ROUTER, &[]));
        maker.ask(Request::Begin(round + 2), None);
        until("there are some again", || maker.turn() == [Reply::Ready(round + 2)]);
    }
}

/// Who looks after the host's interfaces may take a pair's program away with those of others. Packets must not go on into such a pair.
#[test]
fn pair_that_is_damaged_at_the_host_is_lost() {
    const TOKEN: Token = 6;
    let mut maker = Maker::start();
    let peer = Peer::new(["10.77.0.2", "fd00:77::2"]);
    for damage in ["tc qdisc del dev tv0 clsact", "tc filter del dev tv0 ingress", "ip link set tv0 mtu 1000"] {
        maker.ask(Request::Make(RUN, TOKEN), Some(&peer));
        until("there is a pair", || maker.turn().iter().any(|reply| matches!(reply, Reply::Made(RUN, TOKEN, _))));
        // It is whole, whatever the kernel tells late of its beginning.
        for _ in 0..10 {
            assert_eq!(maker.turn(), []);
        }
        let words: Vec<_> = damage.split(' ').collect();
        assert!(std::process::Command::new(words[0]).args(&words[1..]).status().expect("it starts").success());
        until(damage, || maker.turn().contains(&Reply::Lost(RUN, TOKEN, Loss::Damaged)));
        until("it is removed", || {
            maker.turn();
            maker.pairs == 0
        });
    }
}

/// Runs tc(8) in the namespace of the calling thread.
fn tc(arguments: &str) {
    let status = std::process::Command::new("sh").args(["-c", &format!("tc {arguments}")]).status();
    assert!(status.expect("sh starts").success(), "{arguments}");
}

/// Packets in the kernel pass by the queues of TUN devices, and by filters behind our program. So there must be none that hold some back.
#[test]
fn devices_with_queueing_or_filters_have_no_pairs() {
    const TOKEN: Token = 7;
    let add = |device: &str, what: &str| {
        if what == "root" {
            return tc(&format!("qdisc add dev {device} root tbf rate 1mbit burst 10kb latency 50ms"));
        }
        // Without TCX it is there already, for our own filter.
        tc(&format!("qdisc replace dev {device} clsact"));
        tc(&format!("filter add dev {device} egress pref 100 bpf bytecode '1,6 0 0 0,'"));
    };
    let free = |device: &str, what: &str| match what {
        "root" => tc(&format!("qdisc del dev {device} root")),
        _ => tc(&format!("filter del dev {device} egress pref 100")),
    };
    let mut maker = Maker::start();
    let peer = Peer::new(["10.77.0.2", "fd00:77::2"]);
    let until_made = |maker: &mut Maker, run| {
        maker.ask(Request::Make(run, TOKEN), Some(&peer));
        until("there is a pair", || maker.turn().iter().any(|it| matches!(it, Reply::Made(a, TOKEN, _) if *a == run)));
    };
    until_made(&mut maker, RUN);
    for (run, what) in (RUN..).step_by(2).zip(["root", "clsact"]) {
        // At the peer's device: while there is a pair, and before there is one.
        peer.namespace.within(|| add("uwsgi0", what));
        until("it is lost", || maker.turn().contains(&Reply::Lost(run, TOKEN, Loss::Damaged)));
        maker.ask(Request::Make(run, TOKEN), Some(&peer));
        until("it is refused", || maker.turn().contains(&Reply::Lost(run, TOKEN, Loss::Refused)));
        peer.namespace.within(|| free("uwsgi0", what));
        until_made(&mut maker, run);
        // At the router's device.
        add(ROUTER, what);
        until("it wants to begin anew", || maker.turn().contains(&Reply::Started));
        maker.ask(Request::Begin(run + 1), None);
        until("it can't", || maker.turn().contains(&Reply::Unable(run + 1)));
        assert_eq!(maker.pairs, 0);
        free(ROUTER, what);
        until("it wants to begin anew", || maker.turn().contains(&Reply::Started));
        maker.ask(Request::Begin(run + 2), None);
        until("it can", || maker.turn().contains(&Reply::Ready(run + 2)));
        until_made(&mut maker, run + 2);
    }
}
