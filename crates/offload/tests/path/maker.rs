//! The process that makes pairs, here a thread.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

use tuntap_offload::maps::Maps;
use tuntap_offload::pairs::Hooks;
use tuntap_offload::programs::Programs;
use tuntap_offload::protocol::{Loss, MESSAGE_LEN, Reply, Request, Run, Token};
use tuntap_offload::{Config, Notice, run};
use tuntap_sys::netlink::{LinkChange, Netlink};
use tuntap_sys::socket::{message_pair, recv, send_with_descriptor};
use tuntap_sys::tun::Tun;

use super::world::{Namespace, Peer, ROUTER, until};

const RUN: Run = 77;

/// For so long a pair is left alone that was looked at.
const QUIET: Duration = Duration::from_secs(1);

/// It stands still between its turns.
struct Maker {
    socket: OwnedFd,
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
        let maps = Arc::new(Maps::new(16).expect("needs root"));
        let programs = Programs::load(&maps).expect("the verifier agrees");
        let (socket, other) = message_pair().expect("sockets");
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let ((turn, turns), (next, may_go), (tell, told)) = (sync_channel(0), sync_channel(0), channel());
        let device_name = ROUTER.to_owned();
        let config = Config {
            maps,
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
        let mut maker = Self { socket, _master: writer, host, device: Some(device), turns, next, told, pairs: 0 };
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

/// An end at the host that is made narrower loses packets, of which the peer's namespace hears nothing.
#[test]
fn pair_that_is_narrowed_at_the_host_is_lost() {
    const OTHER: Token = 5;
    const TOKEN: Token = 6;
    let mut maker = Maker::start();
    let peers = [OTHER, TOKEN].map(|_| Peer::new(["10.77.0.2", "fd00:77::2"]));
    maker.ask(Request::Make(RUN, OTHER), Some(&peers[0]));
    for round in 0..2 {
        maker.ask(Request::Make(RUN, TOKEN), Some(&peers[1]));
        let mut made = HashMap::new();
        until("both are made", || {
            made.extend(maker.turn().into_iter().map(|reply| match reply {
                Reply::Made(RUN, token, index) => (token, index),
                other => panic!("{other:?}"),
            }));
            made.len() == 2 - round
        });
        if round == 0 {
            // What the namespaces tell of the pair's beginning has it looked at anyway, for a moment.
            let settled = Instant::now() + 2 * QUIET;
            until("nothing of that is new", || {
                assert_eq!(maker.turn(), []);
                settled < Instant::now()
            });
        }
        let change = LinkChange { mtu: Some(1300), ..LinkChange::default() };
        Netlink::open().and_then(|mut it| it.set_link(made[&TOKEN], change)).expect("an MTU");
        let mut lost = Vec::new();
        until("it is removed", || {
            lost.extend(maker.turn());
            maker.pairs == 1
        });
        assert_eq!(lost, [Reply::Lost(RUN, TOKEN, Loss::Damaged)]);
    }
    let told: Vec<_> = maker.told.try_iter().collect();
    assert!(matches!(&told[..], [line] if line.contains("1300 bytes only")), "the first time: {told:?}");
}
