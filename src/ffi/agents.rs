//! Trunk processes: one beside each router that has trunks. It has the router's key and the connections with other hosts, see
//! [`tuntap_agent`]. The master starts it again when it dies, and ends it when it is stopped.

use std::ffi::{c_int, c_void};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::unistd::gethostname;

use super::companions::Companions;
use super::ending::{PATIENCE, outwait};
use super::options::config;
use super::router_hosts::Key;
use super::router_processes::Kind;
use super::uwsgi;
use tuntap_agent::{Config, Peer};
use tuntap_config::{OptionName, RouterSpec};
use tuntap_core::router::TrunkSettings;
use tuntap_core::trunk::Neighbour;
use tuntap_router::{Heartbeat, Pulse, TrunkEndpoint};
use tuntap_sys::log::Event;
use tuntap_sys::process;
use tuntap_sys::socket::{self, BBR, has_congestion_control, set_congestion_control};

/// All trunk processes.
static AGENTS: Companions<Agent> = Companions::new(Kind::Trunks, c"uWSGI tuntap trunks", Event::TrunkProcessEnded);

/// How long the check for the master's end waits at once.
const MASTER_POLL: Duration = Duration::from_secs(3600);

#[derive(Debug)]
struct Agent {
    key: Key,
    listeners: Vec<TcpListener>,
    control: OwnedFd,
}

/// Makes what a router's trunks need, of the image before where that has left it. `None` if it has none.
pub fn prepare(
    spec: &RouterSpec,
    key: Option<Key>,
    mut earlier: Vec<TcpListener>,
) -> Result<Option<TrunkEndpoint>, String> {
    let trunks = &spec.hosts.trunks;
    if !spec.hosts.has_trunks() {
        return Ok(None);
    }
    let mut neighbours = Vec::new();
    for peer in &trunks.peers {
        let router = peer
            .key
            .router_id()
            .ok_or_else(|| format!("{} {}: no router id", OptionName::TrunkPeer.as_str(), peer.key))?;
        if key.as_ref().is_some_and(|key| key.public.router_id() == Some(router)) {
            return Err(format!("{} {}: this is the router's own key", OptionName::TrunkPeer.as_str(), peer.key));
        }
        neighbours.push(Neighbour { router, networks: peer.networks.clone(), relay: peer.relay });
    }
    let name = gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let addresses = spec.addresses.iter().map(|net| net.addr()).collect();
    let (endpoint, control) = TrunkEndpoint::new(TrunkSettings { neighbours, name, addresses })
        .map_err(|errno| format!("a pair of sockets: {errno}"))?;
    uwsgi::keep_open(endpoint.control());
    uwsgi::keep_open(control.as_fd());
    let mut listeners = Vec::new();
    for address in &trunks.listeners {
        let listener = adopt(&mut earlier, *address).map_or_else(|| listen(*address), Ok)?;
        uwsgi::keep_open(listener.as_fd());
        // If this fails, the trunk process says so.
        if has_congestion_control(BBR) {
            let _ = set_congestion_control(listener.as_fd(), BBR);
        }
        tell_of_listener(spec, *address);
        listeners.push(listener);
    }
    match key {
        Some(key) => _ = AGENTS.needs().insert(spec.device.clone(), Agent { key, listeners, control }),
        None => uwsgi::log(
            Event::RouterIncomplete,
            &format!(
                "[tuntap-router] {}: its key can't be read any more ({}), so that it has no trunks until the instance is started again",
                spec.device,
                spec.hosts.key_file(&spec.device)
            ),
        ),
    }
    Ok(Some(endpoint))
}

/// Listens for routers of other hosts.
fn listen(address: SocketAddr) -> Result<TcpListener, String> {
    let named = |error: &dyn std::fmt::Display| format!("{} {address}: {error}", OptionName::Trunk.as_str());
    let is_taken = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
    outwait(PATIENCE, || TcpListener::bind(address), is_taken).map_err(|error| named(&error))
}

/// Takes a listener of the image before, so that nobody who dials meanwhile is refused.
fn adopt(earlier: &mut Vec<TcpListener>, address: SocketAddr) -> Option<TcpListener> {
    let is_there = |listener: &TcpListener| listener.local_addr().is_ok_and(|own| own == address);
    earlier.iter().position(is_there).map(|at| earlier.swap_remove(at))
}

fn tell_of_listener(spec: &RouterSpec, address: SocketAddr) {
    let nobody = if spec.hosts.trunks.peers.is_empty() {
        format!(", of which there are none ({})", OptionName::TrunkPeer.as_str())
    } else {
        String::new()
    };
    uwsgi::log(
        Event::Listening,
        &format!("[tuntap-router] {}: waiting on {address} for routers of other hosts{nobody}", spec.device),
    );
}

/// Registers the trunk process of a router that has trunks.
pub fn register(index: usize, spec: &RouterSpec) -> Result<(), String> {
    if !spec.hosts.has_trunks() {
        return Ok(());
    }
    AGENTS.register(index, spec, run_gateway)
}

/// Takes what the trunk process of a router leaves to the next image: the open file of its key, and its listeners.
pub fn take(device: &str) -> (Option<OwnedFd>, Vec<OwnedFd>) {
    let Some(Agent { key, listeners, .. }) = AGENTS.needs().remove(device) else { return (None, Vec::new()) };
    (Some(key.file.into_descriptor()), listeners.into_iter().map(OwnedFd::from).collect())
}

/// Closes what trunk processes have open in this process.
pub fn forget() {
    AGENTS.forget();
}

unsafe extern "C" fn run_gateway(_id: c_int, data: *mut c_void) {
    AGENTS.run(data, serve)
}

/// Connects with other hosts until that fails, or the master ends. Returns why.
fn serve(
    Agent { key, listeners, control }: Agent,
    spec: &'static RouterSpec,
    heartbeat: Option<Arc<Heartbeat>>,
) -> String {
    let master = match process::watch_parent() {
        Ok(master) => master,
        Err(errno) => return format!("the master can't be watched: {errno}"),
    };
    let read = key.file.read_known(key.public);
    drop(key);
    let key = match read {
        Ok(key) => key,
        Err(error) => return error.to_string(),
    };
    let peers = spec.hosts.trunks.peers.iter().map(|peer| Peer { key: peer.key, address: peer.address }).collect();
    let config = Config { key, peers, listeners, has_bbr: has_congestion_control(BBR) };
    AGENTS.confine(&spec.device, &[], &tuntap_agent::SYSCALLS);
    let watch = move || {
        let pulse = heartbeat.as_ref().map(|heartbeat| Pulse::new(heartbeat, self::config().harakiri));
        let beat = || pulse.iter().for_each(Pulse::beat);
        let interval = pulse.as_ref().and_then(|pulse| pulse.interval).unwrap_or(MASTER_POLL);
        beat();
        while !socket::wait_readable(master.as_fd(), interval) {
            beat();
        }
        process::exit_at_once(0);
    };
    if let Err(error) = thread::Builder::new().name("trunk-master".to_owned()).spawn(watch) {
        return format!("a thread: {error}");
    }
    let device = spec.device.as_str();
    let log =
        move |notice: &tuntap_agent::Notice| uwsgi::log(event(notice), &format!("[tuntap-router] {device}: {notice}"));
    match tuntap_agent::run(config, control, log) {
        Ok(()) => "the router's end is closed".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// What a notice of the trunk process is to the log.
const fn event(notice: &tuntap_agent::Notice) -> Event {
    use tuntap_agent::Notice;
    match notice {
        Notice::Connected { .. } => Event::TrunkOpened,
        Notice::Ended { .. } => Event::TrunkEnded,
        Notice::Refused { .. } | Notice::TooManyHalfOpen | Notice::TooManyConnections { .. } => Event::TrunkRefused,
        Notice::DialFailed { .. } | Notice::CannotAccept(_) | Notice::CongestionControl { .. } | Notice::Handing(_) => {
            Event::TrunkFault
        }
    }
}
