//! Strangers, and neighbours that go beyond what they may.

use crate::common::emperor::EmperorIni;
use crate::common::packet;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::wait;
use crate::world::{
    Keys, PORT, emperor, host, inside, number, peer, reload, start_vassal, trunks, two_hosts, wait_open,
};

#[test]
fn strangers_key_is_refused_on_both_sides() {
    let keys = Keys::new();
    let (first, second) = two_hosts();
    let address = format!("{}:{PORT}", host(1));
    // Each knows another key than the other one has.
    let here = emperor(&keys, 1).line(peer(&keys, 3, "10.77.0.0/16", "")).start_in(first);
    let there = emperor(&keys, 2).line(peer(&keys, 1, "10.77.0.0/16", &address)).start_in(second);
    here.log.wait_for("refused a connection from", wait::LONG);
    there.log.wait_for("can't connect with router", wait::LONG);
    std::thread::sleep(std::time::Duration::from_secs(3));
    for emperor in [&here, &there] {
        assert_eq!(trunks(&emperor.stats())[0]["state"], "down");
    }
    assert_eq!(here.log.text().matches("refused a connection from").count(), 1);
    assert_eq!(there.log.text().matches("can't connect with router").count(), 1);
}

#[test]
fn dialled_router_with_another_key_is_refused() {
    let keys = Keys::new();
    let (first, second) = two_hosts();
    let address = format!("{}:{PORT}", host(1));
    let here = emperor(&keys, 1).line(peer(&keys, 2, "10.77.0.0/16", "")).start_in(first);
    let there = emperor(&keys, 2).line(peer(&keys, 3, "10.77.0.0/16", &address)).start_in(second);
    there.log.wait_for("can't connect with router", wait::LONG);
    assert_eq!(trunks(&there.stats())[0]["state"], "down");
    assert_eq!(trunks(&here.stats())[0]["state"], "down");
}

#[test]
fn foreign_announcement_and_spoofed_source_are_refused_counted_and_logged_once() {
    let keys = Keys::new();
    let (first, second) = two_hosts();
    let address = format!("{}:{PORT}", host(1));
    // The second host may have this network alone.
    let here = emperor(&keys, 1).line(peer(&keys, 2, "10.77.2.0/24", "")).start_in(first);
    let there = emperor(&keys, 2).line(peer(&keys, 1, "10.77.0.0/16", &address)).start_in(second);
    wait_open(&here, 1);
    wait_open(&there, 1);
    let _near = start_vassal(&here, 1, 2);
    there.wait_for_stats("it is known there", |stats| trunks(stats)[0]["announced"] == 1);
    // Vassals of the second host claim addresses of other networks.
    let claim = |last| {
        let mut raw = there.connect();
        raw.send_packet(&packet::udp(inside(5, last), inside(2, 1), 9, b"a claim"));
        raw
    };
    let mut outside: Vec<_> = (2..6).map(claim).collect();
    here.wait_for_stats("announcements are refused", |stats| trunks(stats)[0]["refused"]["foreign_announcement"] == 4);
    for (raw, last) in outside.iter_mut().zip(2..) {
        for _ in 0..3 {
            raw.send_packet(&packet::udp(inside(5, last), inside(1, 2), 9, b"spoofed"));
        }
    }
    here.wait_for_stats("packets are refused", |stats| trunks(stats)[0]["refused"]["spoofed_source"] == 12);
    let log = here.log.text();
    assert_eq!(log.matches("it announced an address outside of its networks").count(), 1, "{log}");
    assert_eq!(log.matches("it sent a packet with a source outside of its networks").count(), 1, "{log}");
    assert_eq!(number(&here, "/announced"), 0);
    assert_eq!(trunks(&here.stats())[0]["state"], "open");
}

#[test]
fn router_with_a_new_key_is_a_stranger_until_it_is_named() {
    let keys = Keys::new();
    let (first, second) = two_hosts();
    let address = format!("{}:{PORT}", host(1));
    let here = emperor(&keys, 1)
        .line(peer(&keys, 2, "10.77.0.0/16", ""))
        .line(peer(&keys, 4, "10.77.0.0/16", ""))
        .start_in(first);
    let there = emperor(&keys, 2).line(peer(&keys, 1, "10.77.0.0/16", &address)).start_in(second);
    wait_open(&here, 1);
    let opened = |index: usize| trunks(&here.stats())[index]["state"] == "open";
    assert!(opened(0) && !opened(1));
    // The file of the first key is replaced by the second one, and the instance reloads.
    keys.public(4);
    std::fs::copy(keys.file(4), keys.file(2)).expect("files of ours");
    there.signal(nix::sys::signal::Signal::SIGHUP);
    wait::until_true("the new key is known", wait::LONG, || opened(1) && !opened(0));
}

/// The listener's side changes: it knows another key of its neighbour from its reload on.
#[test]
fn old_key_is_refused_and_the_new_one_accepted_after_a_reload() {
    let keys = Keys::new();
    let (first, second) = two_hosts();
    let address = format!("{}:{PORT}", host(1));
    let here = emperor(&keys, 1).line(peer(&keys, 2, "10.77.0.0/16", "")).start_in(first);
    let old = emperor(&keys, 2).line(peer(&keys, 1, "10.77.0.0/16", &address)).start_in(second.clone());
    wait_open(&here, 1);
    let ini = here.path("emperor.ini");
    let text = std::fs::read_to_string(&ini).expect("its file");
    let (before, after) = (keys.public(2), keys.public(4));
    assert!(text.contains(&before));
    std::fs::write(&ini, text.replace(&before, &after)).expect("own file");
    let mark = here.log.mark();
    reload(&here);
    here.log.wait_for_since(mark, "refused a connection from", wait::LONG);
    old.log.wait_for("can't connect with router", wait::LONG);
    assert_eq!(trunks(&here.stats())[0]["state"], "down");
    drop(old);
    let _new = EmperorIni::new(Uwsgi::usual(), Subject::Ours)
        .line(format!("tuntap-router-key = {}", keys.file(4)))
        .line(peer(&keys, 1, "10.77.0.0/16", &address))
        .start_in(second);
    wait_open(&here, 1);
}
