//! What an instance may still do after it has dropped its privileges.

use std::path::Path;

use crate::finding::Finding;
use crate::instance::Instance;
use tuntap_survey::access::Barrier;

/// Checks a file that the instance reads again when it reloads: the plugin, or its own file.
pub fn reload(uid: u32, what: &str, path: &Path, barrier: Option<&Barrier>) -> Option<Finding> {
    let barrier = barrier?;
    let mode = if barrier.path == path { "o+r" } else { "o+x" };
    Some(Finding::wrong(
        format!(
            "{what} {}: uid {uid} may not read it, so that a reload ends in an instance without a network",
            path.display()
        ),
        format!("chmod {mode} {}; or put it where everybody may read", barrier.path.display()),
    ))
}

/// Checks whether a device can reconnect to a router that was restarted. Its first connection is made as root, so that
/// this never keeps an instance from starting.
pub fn rejoin(instance: &Instance, uid: u32, socket: &str, barrier: Option<&Barrier>) -> Finding {
    const CONSEQUENCE: &str = "should the router be stopped and started, the vassal ends, and starts anew";
    let jail = ["chroot", "pivot-root", "pivot_root"].into_iter().find(|option| instance.last(option).is_some());
    match (barrier, jail) {
        (None, None) => Finding::fine(format!("uid {uid} may come back to {socket}")),
        (Some(barrier), _) => Finding::fine(format!(
            "only root may connect to {socket} ({}): {CONSEQUENCE}; chmod-socket in the router's file lets it come back",
            barrier.path.display()
        )),
        (None, Some(option)) => Finding::fine(format!("{option} hides {socket}: {CONSEQUENCE}")),
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;
    use crate::instance::tests::instance;

    #[test]
    fn remedy_opens_the_door_that_is_closed() {
        let plugin = Path::new("/opt/plugins/tuntap_plugin.so");
        assert_eq!(reload(20001, "plugin", plugin, None), None);
        let barrier = |path: &str| Barrier { path: path.into(), errno: Errno::EACCES };
        let remedy = |path| reload(20001, "plugin", plugin, Some(&barrier(path))).expect("a finding").remedy;
        assert!(remedy("/opt")[0].starts_with("chmod o+x /opt;"));
        assert!(remedy("/opt/plugins/tuntap_plugin.so")[0].starts_with("chmod o+r /opt/plugins/tuntap_plugin.so;"));
    }

    #[test]
    fn closed_socket_is_told_but_not_wrong() {
        let barrier = Barrier { path: "/run/t.socket".into(), errno: Errno::EACCES };
        let closed = rejoin(&instance(&[]), 20001, "/run/t.socket", Some(&barrier));
        assert!(closed.what.starts_with("only root"), "{closed:?}");
        let hidden = rejoin(&instance(&[("chroot", "/jail")]), 20001, "/run/t.socket", None);
        assert!(hidden.what.starts_with("chroot hides"), "{hidden:?}");
    }
}
