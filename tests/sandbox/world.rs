//! What these tests have in common: routers, what the kernel says of their processes, and C functions that run in them.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::common::emperor::{Emperor, EmperorIni};
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::wait;

pub fn emperor() -> EmperorIni {
    EmperorIni::new(Uwsgi::usual(), Subject::Ours)
}

/// A line of `/proc/<pid>/task/<tid>/status`, the same for all threads.
#[track_caller]
pub fn status(pid: i32, key: &str) -> String {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    let values: BTreeSet<String> = threads
        .map(|thread| {
            let status = std::fs::read_to_string(thread.expect("an entry").path().join("status")).expect("it runs");
            let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            value.unwrap_or_else(|| panic!("no {key} in {status}")).trim().to_owned()
        })
        .collect();
    assert_eq!(values.len(), 1, "all threads have the same {key}: {values:?}");
    values.into_iter().next().unwrap_or_default()
}

const NO_CAPABILITY: &str = "0000000000000000";

/// Fails unless kernel and router both say that the router's process holds no capability and has a syscall filter.
#[track_caller]
pub fn assert_confined(emperor: &Emperor) -> i32 {
    let stats = emperor.stats_eventually();
    let pid = stats.router_pid();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(pid, set), NO_CAPABILITY, "{set}");
    }
    assert_eq!((status(pid, "NoNewPrivs").as_str(), status(pid, "Seccomp").as_str()), ("1", "2"));
    let told = &stats.0["sandbox"];
    assert_eq!((&told["no_new_privs"], &told["seccomp"]), (&true.into(), &true.into()), "{told}");
    assert_eq!(told["capabilities"], serde_json::json!([]), "{told}");
    assert!(told["landlock"].as_u64() >= Some(1), "this test needs a kernel with landlock: {told}");
    pid
}

/// Waits for the next router.
#[track_caller]
pub fn next_router(emperor: &Emperor, before: i32) -> i32 {
    wait::until("a new router", wait::LONG, || {
        let pid = emperor.try_stats().ok()?.router_pid();
        (pid != before).then_some(pid)
    })
}

/// A C function that the router calls as `tuntap-use-credentials = hook`.
pub struct Hook {
    folder: TempDir,
}

impl Hook {
    /// Compiles `uint32_t hook(pid_t pid, uid_t uid, gid_t gid) { <body> }`.
    #[track_caller]
    pub fn compile(head: &str, body: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the hook");
        let hook = Self { folder };
        let source = hook.folder.path().join("hook.c");
        let text = format!(
            "#define _GNU_SOURCE\n#include <stdint.h>\n#include <sys/types.h>\n{head}\n\
             struct {{ const char *name; char rest[1016]; }} hook_plugin = {{ \"hook\", {{ 0 }} }};\n\
             uint32_t hook(pid_t pid, uid_t uid, gid_t gid) {{ (void) pid; (void) gid;\n{body}\n}}\n"
        );
        std::fs::write(&source, text).expect("own folder");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"])
            .args([hook.library(), source])
            .status();
        assert!(compiled.expect("a C compiler is installed").success());
        hook
    }

    /// A router that calls it.
    pub fn emperor(&self, sandbox: &str) -> EmperorIni {
        emperor()
            .line(format!("plugin = {}", self.library().display()))
            .line("exec-as-root = ip addr replace 10.0.0.1/8 dev emperor0")
            .line("tuntap-use-credentials = hook")
            .line(format!("tuntap-router-sandbox = {sandbox}"))
    }

    fn library(&self) -> PathBuf {
        self.folder.path().join("hook_plugin.so")
    }
}
