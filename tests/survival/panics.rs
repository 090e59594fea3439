//! The panic rule: a panic is logged, and ends what can't go on, and nothing else.

use tuntap_api::control::{Chain, Request};

use crate::common::control::Control;
use crate::common::emperor::{EMPEROR, Emperor, EmperorIni, V1, V2};
use crate::common::link::Connection;
use crate::common::packet;
use crate::common::probe::pings_answered;
use crate::common::processes::is_alive;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::VassalIni;
use crate::common::wait;
use crate::world::is_attached;

fn emperor() -> EmperorIni {
    EmperorIni::new(Uwsgi::Distribution, Subject::Faulty)
}

fn vassal(name: &str, address: std::net::Ipv4Addr) -> VassalIni {
    VassalIni::new(Uwsgi::Distribution, Subject::Faulty, name, address, EMPEROR)
}

/// Makes the next pass through a point panic that an ini's `env` line names.
fn ask_for_it(emperor: &Emperor) {
    std::fs::write(emperor.path("fault"), "").expect("own folder");
    std::os::unix::fs::chown(emperor.path("fault"), Some(65534), Some(65534)).expect("own file");
}

#[test]
fn router_that_panics_is_replaced_and_its_vassals_go_on() {
    let emperor = emperor().line("env = UWSGI_TUNTAP_FAULT=router:{dir}/fault").start();
    let net = emperor.start_vassal(&vassal("v1", V1));
    let mut connection = Connection::open(&net, &emperor.netns, EMPEROR);
    let (router, pid) = (emperor.router_pid(), emperor.vassal_pid("v1"));
    ask_for_it(&emperor);
    connection.assert_passes();
    emperor.log.wait_for("the fault that was asked for, in router", wait::LONG);
    emperor.log.wait_for("panic in the gateway callback; this router ends", wait::LONG);
    assert_ne!(emperor.router_pid(), router);
    emperor.wait_for_stats("the vassal is attached", |stats| is_attached(stats, V1));
    connection.assert_passes();
    assert_eq!(emperor.vassal_pid("v1"), pid);
}

/// Who reports a fault has its place in the source from the log, and programs that read the log find it there.
#[test]
fn panic_is_told_in_the_form_of_the_log() {
    for (format, is_json) in [("text", false), ("json", true)] {
        let emperor = emperor()
            .line(format!("tuntap-log-format = {format}"))
            .line("env = RUST_BACKTRACE=0")
            .line("env = UWSGI_TUNTAP_FAULT=router:{dir}/fault")
            .start();
        let mut peer = emperor.peer(V1);
        ask_for_it(&emperor);
        // A router that has nothing to do passes no point.
        peer.send_packet(&packet::udp(V1, EMPEROR, 9, b"anything"));
        emperor.log.wait_for("panic in the gateway callback; this router ends", wait::LONG);
        let log = emperor.log.text();
        let told: Vec<_> = log.lines().filter(|line| line.contains("the fault that was asked for")).collect();
        let [line] = told.as_slice() else { panic!("one line is about the panic: {told:?}") };
        if is_json {
            let object: serde_json::Value = serde_json::from_str(line).expect("JSON");
            assert_eq!((object["event"].as_str(), object["level"].as_str()), (Some("panic"), Some("error")), "{line}");
        } else {
            assert!(line.starts_with("[uwsgi-tuntap] panic at crates/sys/src/faults.rs:"), "{line}");
        }
        assert!(!log.contains("RUST_BACKTRACE"), "{log}");
    }
}

/// A request that makes the control thread panic costs its client the connection. Rules, numbers and packets stay.
#[test]
fn control_thread_that_panics_goes_on_with_the_rules_in_use() {
    let emperor = emperor().line("env = UWSGI_TUNTAP_FAULT=control:{dir}/fault").start();
    let net = emperor.start_vassal(&vassal("v1", V1));
    let mut connection = Connection::open(&net, &emperor.netns, EMPEROR);
    let router = emperor.router_pid();
    let mut control = Control::open(&emperor);
    control.add(Chain::In, "deny any any udp 9");
    let rules = control.rules();
    ask_for_it(&emperor);
    control.send(&Request::Save {});
    emperor.log.wait_for("panic in the control thread: it goes on with the policy in use", wait::LONG);
    let mut control = Control::open(&emperor);
    assert_eq!(control.rules(), rules);
    control.add(Chain::In, "deny any any udp 10");
    connection.assert_passes();
    assert_eq!(emperor.router_pid(), router, "the router goes on");
}

#[test]
fn vassal_whose_device_thread_panics_is_started_anew() {
    let emperor = emperor().start();
    let other = emperor.start_vassal(&vassal("v2", V2));
    // The thread of an attached device does nothing but wait for its router.
    let faulty = vassal("v1", V1).line("env = UWSGI_TUNTAP_FAULT=device:{dir}/fault");
    emperor.start_vassal(&faulty);
    let pid = emperor.vassal_pid("v1").expect("the vassal runs");
    std::fs::set_permissions(emperor.path(""), std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .expect("own folder");
    ask_for_it(&emperor);
    emperor.kill_router();
    emperor.log.wait_for("uwsgi0: panic in its thread; this instance ends", wait::LONG);
    wait::until_true("the vassal ended", wait::LONG, || !is_alive(pid));
    wait::until_true("it is back", wait::LONG, || emperor.try_stats().is_ok_and(|stats| is_attached(&stats, V1)));
    assert_eq!(pings_answered(&other, EMPEROR, 3, &[]), 3);
}

#[test]
fn vassal_whose_start_panics_ends_and_is_started_again() {
    let emperor = emperor().start();
    ask_for_it(&emperor);
    let mark = emperor.log.mark();
    emperor.add(&vassal("v1", V1).line("env = UWSGI_TUNTAP_FAULT=callback:{dir}/fault"));
    emperor.log.wait_for_since(mark, "panic in the post_jail callback", wait::LONG);
    emperor.wait_until_ready(mark, "v1");
    assert_eq!(pings_answered(&emperor.netns, V1, 3, &[]), 3);
}
