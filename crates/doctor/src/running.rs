//! What can be found out about routers that run: their processes, and their peers by their statistics.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use super::checks::live::RunningRouter;
use super::checks::ports;
use super::instance::Instance;
use tuntap_api::Snapshot;
use tuntap_config::{RouterSpec, StatsAddress};
use tuntap_survey::interface::{Process, holders};
use tuntap_survey::listener::{Listener, answers, hidden_listener, listener};
use tuntap_survey::peers::Peer;
use tuntap_survey::statistics::{self, Source, Transport};

/// How long a router may take to accept a connection and to see that it has ended.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// For each router of an instance what was found of it; `None` if it doesn't run.
pub fn routers(instance: &Instance) -> Vec<Option<RunningRouter>> {
    instance.config.routers.iter().map(|router| find(instance, router)).collect()
}

fn find(instance: &Instance, router: &RouterSpec) -> Option<RunningRouter> {
    let mut processes = holders(&router.device);
    let is_of_this_file = |processes: &[Process]| processes.iter().any(|it| it.was_given(Path::new(&instance.file)));
    let Some(socket) = router.socket.as_deref() else {
        let stopped = stopped(&processes);
        let running = RunningRouter { processes, stopped, answers: true, has_no_file: false };
        return is_of_this_file(&running.processes).then_some(running);
    };
    let found = listener(socket);
    // After it has made its device anew, the router's process alone has it open.
    if let Listener::Listening(master) = &found
        && processes.iter().any(|process| process.parent() == Some(master.pid))
        && !processes.contains(master)
    {
        processes.insert(0, master.clone());
    }
    let is_hidden = || hidden_listener(socket).is_some_and(|process| processes.contains(&process));
    let (is_its_own, answers, has_no_file) = match &found {
        Listener::Listening(process) => {
            let is_its_own = processes.contains(process);
            (is_its_own, is_its_own && answers(socket, TIMEOUT), false)
        }
        // The queue of its socket is full.
        Listener::Unknown(_) => (is_hidden(), false, false),
        Listener::Missing | Listener::NoFolder => {
            // A router that waits for its socket's path after a reload has no socket yet.
            (is_hidden() || is_of_this_file(&processes), true, true)
        }
        Listener::NoSocket | Listener::Silent => (false, false, false),
    };
    let stopped = stopped(&processes);
    is_its_own.then_some(RunningRouter { processes, stopped, answers, has_no_file })
}

fn stopped(processes: &[Process]) -> Vec<Process> {
    processes.iter().filter(|process| process.is_stopped()).cloned().collect()
}

/// The peers of a router that runs, by its statistics; `None` if it serves none. The error says why they can't be read.
pub fn peers(instance: &Instance, router: &RouterSpec) -> Option<Result<Vec<Peer>, String>> {
    let source = source(router)?;
    Some(source.and_then(|source| {
        tuntap_survey::peers::peers(source, transport(instance)).map_err(|error| format!("its statistics: {error}"))
    }))
}

/// The statistics of a router that runs; `None` if they can't be read, which the finding about its peers says.
pub fn snapshot(instance: &Instance, router: &RouterSpec) -> Option<Snapshot> {
    let source = source(router)?.ok()?;
    statistics::read(source, transport(instance), TIMEOUT).ok().map(|document| document.snapshot)
}

/// Where a router serves its statistics; `None` if it serves none. The error says why that is not known.
fn source(router: &RouterSpec) -> Option<Result<Source<'_>, String>> {
    Some(match router.stats.as_ref()? {
        StatsAddress::Unix(name) => Ok(Source::Unix(name)),
        StatsAddress::Tcp(text) => match ports::socket_address(text) {
            Some(mut address) => {
                if address.ip().is_unspecified() {
                    address.set_ip(Ipv4Addr::LOCALHOST.into());
                }
                Ok(Source::Tcp(address))
            }
            None => Err("its statistics have a name as their address".to_owned()),
        },
    })
}

fn transport(instance: &Instance) -> Transport {
    if instance.is_on("stats-http") { Transport::Http } else { Transport::Plain }
}
