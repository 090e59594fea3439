//! Changes that go back by themselves unless they are confirmed.

use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;
use tuntap_api::control::{Chain, Changed, Code, Request, Status};

use crate::common::emperor::{Emperor, V1};
use crate::common::probe::{is_cut_off, is_reachable};
use crate::common::processes::send;
use crate::common::wait;
use crate::world::{Control, V1_6, add, commit, emperor, vassal};

fn lock_out(seconds: u32) -> Request {
    Request::Commit {
        changes: vec![add(Chain::In, "deny")],
        expected_generation: None,
        confirm_seconds: Some(seconds),
        dry_run: false,
    }
}

fn comes_back(emperor: &Emperor) {
    wait::until_true("the vassal is reached again", wait::LONG, || is_reachable(&emperor.netns, V1));
}

/// The operator has closed the way by which he came.
#[test]
fn locked_out_operator_gets_back_by_himself() {
    let emperor = emperor().start();
    let _net = emperor.start_attached(&vassal("v1", V1, V1_6));
    let mut control = Control::open(&emperor);
    let before = control.rules();
    let changed: Changed = control.ask(&lock_out(4));
    assert_eq!(changed.confirm_within, Some(4));
    drop(control);
    assert!(is_cut_off(&emperor.netns, V1));
    comes_back(&emperor);
    let mut control = Control::open(&emperor);
    assert_eq!(control.rules().len(), before.len());
    let status: Status = control.ask(&Request::Status {});
    assert!(status.pending.is_none() && status.generation > changed.generation);
    emperor.log.wait_for("was not confirmed in time", wait::SHORT);
}

#[test]
fn confirmed_change_stays() {
    let emperor = emperor().start();
    let _net = emperor.start_attached(&vassal("v1", V1, V1_6));
    let mut control = Control::open(&emperor);
    let changed: Changed = control.ask(&lock_out(3));
    let confirm = Request::Confirm { expected_generation: Some(changed.generation) };
    let _: Changed = control.ask(&confirm);
    sleep(Duration::from_secs(5));
    assert!(is_cut_off(&emperor.netns, V1));
    assert_eq!(control.try_ask::<Changed>(&confirm).expect_err("nothing is pending").code, Code::Conflict);
}

#[test]
fn nothing_else_is_changed_while_a_change_waits() {
    let emperor = emperor().start();
    let mut control = Control::open(&emperor);
    let _: Changed = control.ask(&lock_out(600));
    let status: Status = control.ask(&Request::Status {});
    assert!(status.pending.is_some_and(|pending| pending.seconds_left > 500 && pending.uid == 0));
    for other in [commit(&[add(Chain::Out, "deny any 192.0.2.1")]), lock_out(5)] {
        let failure = control.try_ask::<Changed>(&other).expect_err("one at a time");
        assert_eq!(failure.code, Code::Pending, "{failure:?}");
    }
    let _: Changed = control.ask(&Request::Rollback {});
    let _: Changed = control.ask(&commit(&[add(Chain::Out, "deny any 192.0.2.1")]));
}

/// The deadline passes under the next router, and while there is none.
#[test]
fn deadline_outlives_the_router() {
    let emperor = emperor().start();
    let _net = emperor.start_attached(&vassal("v1", V1, V1_6));
    let mut control = Control::open(&emperor);
    let _: Changed = control.ask(&lock_out(8));
    emperor.kill_router();
    assert!(is_cut_off(&emperor.netns, V1), "the next router has the change");
    comes_back(&emperor);
    let mut control = Control::open(&emperor);
    let _: Changed = control.ask(&lock_out(3));
    let (master, router) = (emperor.master_pid(), emperor.router_pid());
    send(master, Signal::SIGSTOP);
    send(router, Signal::SIGKILL);
    sleep(Duration::from_secs(5));
    send(master, Signal::SIGCONT);
    comes_back(&emperor);
}
