//! What the kernel and the statistics say of the router's process.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::panic::resume_unwind;

use nix::libc;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use syscalls::Sysno;

use crate::common::emperor::{EMPEROR, EmperorIni, V1};
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::NOBODY;
use crate::common::wait;
use crate::world::{Hook, assert_confined, emperor, status};

#[test]
fn router_is_confined_without_being_asked() {
    let emperor = emperor().start();
    assert_confined(&emperor);
    assert!(!emperor.log.text().contains("sandbox"), "nothing is missing, so that there is nothing to tell");
    assert!(emperor.peer(V1).echo(V1, EMPEROR, wait::SHORT));
}

#[test]
fn routers_of_both_uwsgis_are_confined() {
    let emperor = EmperorIni::new(Uwsgi::usual().other(), Subject::Ours).start();
    assert_confined(&emperor);
    assert!(emperor.peer(V1).echo(V1, EMPEROR, wait::SHORT));
}

#[test]
fn sandbox_can_be_turned_off() {
    let emperor = emperor().line("tuntap-router-sandbox = off").start();
    let stats = emperor.stats();
    let pid = stats.router_pid();
    let own = i32::try_from(std::process::id()).expect("a pid fits its type");
    for key in ["CapEff", "CapPrm", "CapBnd", "NoNewPrivs", "Seccomp"] {
        assert_eq!(status(pid, key), status(own, key), "{key} is that of whoever started uWSGI");
    }
    let told = &stats.0["sandbox"];
    assert!(told["capabilities"].as_array().is_some_and(|names| names.contains(&"CAP_NET_ADMIN".into())), "{told}");
    assert_eq!((&told["seccomp"], &told["landlock"]), (&false.into(), &serde_json::Value::Null), "{told}");
    emperor.log.wait_for("[tuntap-router] emperor0: sandbox: off", wait::SHORT);
    assert!(emperor.peer(V1).echo(V1, EMPEROR, wait::SHORT));
}

/// To empty the bounding set takes privileges. A process without any can't use what is left in it.
#[test]
fn instance_without_privileges_is_confined() {
    let emperor = EmperorIni::bare(Uwsgi::usual(), Subject::Ours)
        .router("emperor0 {dir}/t.sock {dir}/stats.sock")
        .lines(&["master = true", "socket = 127.0.0.1:3031", "uid = 65534", "gid = 65534"])
        .start();
    let stats = emperor.stats();
    let pid = stats.router_pid();
    assert_eq!(stats.0["uid"], NOBODY);
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(u64::from_str_radix(&status(pid, set), 16), Ok(0), "{set}");
    }
    assert_eq!((status(pid, "NoNewPrivs").as_str(), status(pid, "Seccomp").as_str()), ("1", "2"));
    let told = &stats.0["sandbox"];
    assert_eq!((&told["seccomp"], &told["capabilities"]), (&true.into(), &serde_json::json!([])), "{told}");
    assert!(told["landlock"].is_u64(), "this test needs a kernel with landlock: {told}");
    assert!(emperor.peer(V1).echo(V1, EMPEROR, wait::SHORT));
}

/// A C function may need any syscall, but no capability.
#[test]
fn credentials_function_keeps_its_files_and_syscalls() {
    let hook = Hook::compile("", "return uid ? 0 : 0x0200000a;");
    let emperor = hook.emperor("on").start();
    let stats = emperor.stats();
    let pid = stats.router_pid();
    let expected =
        [("CapEff", "0000000000000000"), ("CapBnd", "0000000000000000"), ("NoNewPrivs", "1"), ("Seccomp", "0")];
    for (key, value) in expected {
        assert_eq!(status(pid, key), value, "{key}");
    }
    let told = &stats.0["sandbox"];
    assert_eq!((&told["seccomp"], &told["landlock"]), (&false.into(), &serde_json::Value::Null), "{told}");
    let line = "sandbox: without landlock and seccomp for the function of tuntap-use-credentials";
    assert_eq!(emperor.log.text().matches(line).count(), 1);
}

/// Takes syscalls away from the calling thread and from what it starts, as if the kernel had none of them.
fn hide(calls: &[Sysno]) {
    let calls: BTreeMap<_, _> = calls.iter().map(|call| (i64::from(call.id()), Vec::new())).collect();
    let missing = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let arch = ARCH.try_into().expect("an architecture with seccomp");
    let filter = SeccompFilter::new(calls, SeccompAction::Allow, missing, arch).expect("two actions");
    let program: BpfProgram = filter.try_into().expect("a short filter");
    seccompiler::apply_filter(&program).expect("a process may filter itself");
}

#[test]
fn router_does_without_what_the_kernel_lacks() {
    // The thread ends with its seccomp filter, which can't be taken off again.
    let on_old_kernel = std::thread::spawn(|| {
        hide(&[Sysno::landlock_create_ruleset, Sysno::seccomp]);
        let emperor = emperor().start();
        let stats = emperor.stats();
        let told = &stats.0["sandbox"];
        assert_eq!((&told["seccomp"], &told["landlock"]), (&false.into(), &serde_json::Value::Null), "{told}");
        assert_eq!((&told["capabilities"], &told["no_new_privs"]), (&serde_json::json!([]), &true.into()), "{told}");
        assert_eq!(status(stats.router_pid(), "CapPrm"), "0000000000000000");
        for part in ["landlock", "seccomp"] {
            let line = format!("[tuntap-router] emperor0: sandbox: without {part}: ");
            assert_eq!(emperor.log.text().matches(&line).count(), 1, "{line}");
        }
        assert!(emperor.peer(V1).echo(V1, EMPEROR, wait::SHORT));
    });
    on_old_kernel.join().unwrap_or_else(|panic| resume_unwind(panic));
}
