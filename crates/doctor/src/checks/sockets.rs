//! The sockets at which devices join routers, and those of statistics.

use std::path::Path;

use crate::finding::Finding;
use tuntap_survey::access::Barrier;
use tuntap_survey::interface::Process;
use tuntap_survey::listener::{Listener, folder_of};

/// Checks that a router can listen at its socket. `folder`: what keeps this process from making the file. `is_running`: the
/// process that listens is the router itself. `is_root`: this process has the rights that the router will have.
pub fn router(socket: &str, found: &Listener, folder: Option<&Barrier>, is_running: bool, is_root: bool) -> Finding {
    let dir = folder_of(Path::new(socket)).display();
    match found {
        Listener::Listening(process) if is_running => {
            Finding::fine(format!("socket {socket}: this router runs, {process}"))
        }
        Listener::Listening(process) => Finding::wrong(
            format!("socket {socket}: {process} listens there already"),
            "stop that process, or name another socket in tuntap-router and in its vassals' tuntap-device",
        ),
        Listener::NoFolder => Finding::wrong(
            format!("socket {socket}: there is no folder {dir}"),
            format!("mkdir -p {dir}; below /run, at each boot (systemd: RuntimeDirectory=)"),
        ),
        Listener::NoSocket => Finding::wrong(
            format!("socket {socket}: a file of that name is there, and is no socket"),
            format!("rm {socket}, if nobody needs it; or name another socket in tuntap-router"),
        ),
        Listener::Unknown(reason) => Finding::warning(
            format!("socket {socket}: can't tell whether a router listens there: {reason}"),
            "run this check as root; a router whose queue stays full hangs, or listen is too low",
        ),
        Listener::Missing | Listener::Silent => match folder {
            Some(barrier) => {
                let what = format!("socket {socket}: can't be made in {}: {}", barrier.path.display(), barrier.errno);
                let remedy = "start uWSGI as root, or name a folder that it may write to";
                if is_root { Finding::wrong(what, remedy) } else { Finding::warning(what, remedy) }
            }
            None => Finding::fine(format!("socket {socket}: free")),
        },
    }
}

/// Checks that a router can serve its statistics or its metrics, which `what` says, at a unix socket. `own`: the router's
/// processes, if it runs.
pub fn documents(what: &str, socket: &str, found: &Listener, own: &[Process]) -> Option<Finding> {
    let dir = folder_of(Path::new(socket)).display();
    match found {
        Listener::Listening(process) if !own.contains(process) => Some(Finding::wrong(
            format!("{what} {socket}: {process} listens there already"),
            format!("stop that process, or name another socket for the {what}"),
        )),
        Listener::NoSocket => Some(Finding::wrong(
            format!("{what} {socket}: a file of that name is there, and is no socket"),
            format!("rm {socket}, if nobody needs it; or name another socket for the {what}"),
        )),
        Listener::NoFolder => Some(Finding::wrong(
            format!("{what} {socket}: there is no folder {dir}"),
            format!("mkdir -p {dir}; below /run, at each boot (systemd: RuntimeDirectory=)"),
        )),
        Listener::Listening(_) | Listener::Missing | Listener::Silent | Listener::Unknown(_) => None,
    }
}

/// Checks that a device can reach its router. `made_by`: the file of the router that will listen there, if it is known.
/// `others`: sockets of the routers that are known.
pub fn device(device: &str, socket: &str, found: &Listener, made_by: Option<&str>, others: &[&str]) -> Finding {
    let line = format!("{device} to {socket}");
    if socket.starts_with('@') {
        return Finding::wrong(
            format!("{line}: an @name can't be reached from another network namespace"),
            "give the socket a path, in tuntap-router and here: tuntap-device = <device> /run/tuntap.socket",
        );
    }
    match (found, made_by) {
        (Listener::Listening(process), _) => Finding::fine(format!("{line}: a router listens, {process}")),
        (Listener::Unknown(reason), _) => Finding::warning(
            format!("{line}: can't tell whether a router listens there: {reason}"),
            "run this check as root; a router whose queue stays full hangs, or its listen option is too low",
        ),
        (_, Some(file)) => Finding::fine(format!("{line}: the router of {file}, once it runs")),
        (_, None) if !others.is_empty() => Finding::wrong(
            format!("{line}: no tuntap-router has this socket"),
            format!("the routers of these files listen on {}", others.join(", ")),
        ),
        (Listener::Missing, None) => Finding::wrong(
            format!("{line}: no such socket"),
            "start the router first; and is it the path of tuntap-router, and visible from here?",
        ),
        (Listener::NoFolder, None) => Finding::wrong(
            format!("{line}: there is no folder {}", folder_of(Path::new(socket)).display()),
            "is it the path of tuntap-router, and visible from here?",
        ),
        (Listener::NoSocket, None) => {
            Finding::wrong(format!("{line}: that file is no socket"), "is it the path of tuntap-router?")
        }
        (Listener::Silent, None) => Finding::wrong(
            format!("{line}: nobody listens there, it was left behind"),
            "start the router; its log says why if it doesn't stay",
        ),
    }
}

/// The finding about a router that a device would wait for in vain.
pub fn hanging(device: &str, socket: &str) -> Finding {
    Finding::wrong(
        format!(
            "{device} to {socket}: somebody listens there, but takes no connection: the router hangs, or was stopped"
        ),
        "the router's log; reload its instance (SIGHUP)",
    )
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use nix::errno::Errno;

    use super::*;
    use crate::finding::Severity;

    fn listening() -> Listener {
        Listener::Listening(Process { pid: 7, command: "uwsgi".to_owned() })
    }

    #[test]
    fn router_needs_a_place_of_its_own() {
        let severity = |found: &Listener, is_running| router("/run/t.socket", found, None, is_running, true).severity;
        assert_eq!(severity(&Listener::Missing, false), Severity::Fine);
        assert_eq!(severity(&Listener::Silent, false), Severity::Fine, "uWSGI takes it away");
        assert_eq!(severity(&listening(), true), Severity::Fine);
        assert_eq!(severity(&listening(), false), Severity::Wrong);
        assert_eq!(severity(&Listener::NoFolder, false), Severity::Wrong);
        assert_eq!(severity(&Listener::NoSocket, false), Severity::Wrong);
        let barrier = Barrier { path: PathBuf::from("/run"), errno: Errno::EACCES };
        let stopped = |is_root| router("/run/t.socket", &Listener::Missing, Some(&barrier), false, is_root).severity;
        assert_eq!((stopped(true), stopped(false)), (Severity::Wrong, Severity::Warning));
    }

    #[test]
    fn statistics_need_a_place_of_their_own() {
        let severity = |found: &Listener, own: &[Process]| {
            documents("metrics", "/run/m", found, own).map(|finding| finding.severity)
        };
        let own = [Process { pid: 7, command: "uwsgi".to_owned() }];
        assert_eq!(severity(&listening(), &own), None);
        assert_eq!(severity(&listening(), &[]), Some(Severity::Wrong));
        for free in [Listener::Missing, Listener::Silent] {
            assert_eq!(severity(&free, &[]), None);
        }
        assert_eq!(severity(&Listener::NoSocket, &own), Some(Severity::Wrong));
        assert_eq!(severity(&Listener::NoFolder, &own), Some(Severity::Wrong));
    }

    #[test]
    fn device_needs_a_router() {
        let severity = |found: &Listener, made_by| device("uwsgi0", "/run/t.socket", found, made_by, &[]).severity;
        assert_eq!(severity(&listening(), None), Severity::Fine);
        for absence in [Listener::Missing, Listener::NoFolder, Listener::NoSocket, Listener::Silent] {
            assert_eq!(severity(&absence, None), Severity::Wrong, "{absence:?}");
        }
        assert_eq!(severity(&Listener::Missing, Some("emperor.ini")), Severity::Fine);
        let other = device("uwsgi0", "/run/u.socket", &Listener::Missing, None, &["/run/t.socket"]);
        assert!(other.severity == Severity::Wrong && other.remedy[0].contains("/run/t.socket"), "{other:?}");
        let name = device("uwsgi0", "@tuntap", &listening(), None, &[]);
        assert_eq!(name.severity, Severity::Wrong, "this process may reach it, the vassal can't");
    }
}
