//! Pair processes: one beside each router that has a path in the kernel. It makes pairs of devices for vassals, see [`tuntap_offload`]. The
//! master makes the maps and loads the programs, which takes more privileges; it starts the process again when it dies, and ends it when
//! it is stopped.

use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use super::agents;
use super::options::config;
use super::router_processes::{self as processes, Kind};
use super::routers;
use super::uwsgi;
use tuntap_config::{Offload, OptionName, RouterSpec, Sandbox};
use tuntap_offload::guard::Guard;
use tuntap_offload::maps::Maps;
use tuntap_offload::pairs::{Hooks, remove_all};
use tuntap_offload::programs::Programs;
use tuntap_router::{Heartbeat, KernelEndpoint, Pulse};
use tuntap_sys::log::Event;
use tuntap_sys::netlink::NetlinkError;
use tuntap_sys::{dumpable, process, sandbox};

/// What each pair process needs, by the device of its router. The master keeps all of it, for processes that it starts again.
static MAKERS: Mutex<BTreeMap<String, Maker>> = Mutex::new(BTreeMap::new());

/// Beats of the pair processes, by the devices of their routers.
static HEARTBEATS: Mutex<BTreeMap<String, Arc<Heartbeat>>> = Mutex::new(BTreeMap::new());

/// How long a pair process that can't work waits before it ends, to be started again.
const PAUSE: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Maker {
    maps: Arc<Maps>,
    programs: Programs,
    socket: OwnedFd,
    /// `None` if the kernel has no nftables.
    guard: Option<Guard>,
}

/// Returns true if the operator wants a path in the kernel.
fn is_wanted() -> bool {
    config().offload != Offload::Off
}

/// Makes what a router's path in the kernel needs. `None` if it is to have none, or the kernel can't and need not.
pub fn prepare(spec: &RouterSpec) -> Result<Option<KernelEndpoint>, String> {
    if !is_wanted() {
        return Ok(None);
    }
    let option = OptionName::RouterOffload.as_str();
    match make(spec) {
        Ok(endpoint) => Ok(Some(endpoint)),
        Err(error) if config().offload == Offload::On => Err(format!("{option} = on: {error}")),
        Err(error) => {
            uwsgi::log(
                Event::RouterIncomplete,
                &format!(
                    "[tuntap-router] {}: {option} = auto: all packets go by the router, since there is no path in the kernel: {error}",
                    spec.device
                ),
            );
            Ok(None)
        }
    }
}

fn make(spec: &RouterSpec) -> Result<KernelEndpoint, String> {
    #[cfg(feature = "faults")]
    if std::env::var_os("UWSGI_TUNTAP_HOOK").is_some_and(|hook| hook == "none") {
        return Err("the kernel has no BPF, for a test".to_owned());
    }
    let (verdicts, places) = KernelEndpoint::size(config().limits.flows);
    let maps = Arc::new(Maps::new(verdicts, places).map_err(|error| error.to_string())?);
    let programs = Programs::load(&maps).map_err(|error| error.to_string())?;
    let pair = |errno| format!("a pair of sockets: {errno}");
    let (endpoint, socket) = KernelEndpoint::new(Arc::clone(&maps)).map_err(pair)?;
    // The programs drop what the guard would drop, so that it may be missing.
    let told = |error: &NetlinkError| {
        uwsgi::log(
            Event::RouterIncomplete,
            &format!("[tuntap-router] {}: pairs of devices are without the guard in nftables: {error}", spec.device),
        );
    };
    let guard = Guard::new(&spec.device).inspect_err(told).ok();
    endpoint.descriptors().chain(programs.descriptors()).chain([socket.as_fd()]).for_each(uwsgi::keep_open);
    guard.iter().for_each(|guard| uwsgi::keep_open(guard.as_fd()));
    MAKERS.lock().insert(spec.device.clone(), Maker { maps, programs, socket, guard });
    let line = format!("[tuntap-router] {}: decided flows can pass in the kernel ({})", spec.device, hooks());
    uwsgi::log(Event::KernelPath, &line);
    Ok(endpoint)
}

/// How programs are attached.
fn hooks() -> Hooks {
    #[cfg(feature = "faults")]
    if std::env::var_os("UWSGI_TUNTAP_HOOK").is_some_and(|hook| hook == "clsact") {
        return Hooks::Clsact;
    }
    Hooks::of_kernel()
}

/// Registers the pair process of a router. It is there even if the router can't be prepared at the moment, and waits then.
pub fn register(index: usize, spec: &RouterSpec) -> Result<(), String> {
    if !is_wanted() || (!MAKERS.lock().contains_key(&spec.device) && config().offload == Offload::Auto) {
        return Ok(());
    }
    let heartbeat = Heartbeat::new().map_err(|errno| format!("a page of shared memory: {errno}"))?;
    let heartbeat = Arc::new(heartbeat);
    HEARTBEATS.lock().insert(spec.device.clone(), Arc::clone(&heartbeat));
    // uWSGI's lists take pointers; this one carries the number.
    let data = std::ptr::without_provenance_mut(index);
    let gateway = uwsgi::register_gateway(c"uWSGI tuntap pairs", run_gateway, data)?;
    processes::add(Kind::Pairs, gateway, &spec.device, Some(heartbeat));
    Ok(())
}

/// Removes the pairs when the master ends or executes the next image: it has killed the processes that have made them. Closes what these
/// have open here.
pub fn close() {
    let devices: Vec<_> = MAKERS.lock().keys().cloned().collect();
    for device in devices {
        // Without privileges this fails. Then pairs go with the namespaces of vassals, and at the next start.
        if let Err(error) = remove_all(&device) {
            uwsgi::log(Event::RouterFault, &format!("[tuntap-router] {device}: pairs of devices are left: {error}"));
        }
    }
    forget();
}

/// Closes what pair processes have open in this process.
pub fn forget() {
    MAKERS.lock().clear();
    HEARTBEATS.lock().clear();
}

unsafe extern "C" fn run_gateway(_id: c_int, data: *mut c_void) {
    let device = config().routers.get(data.addr()).map_or("a router", |spec| spec.device.as_str());
    let run = || {
        dumpable::close_with_children();
        let maker = MAKERS.lock().remove(device);
        let heartbeat = HEARTBEATS.lock().remove(device);
        // Closes what belongs to routers, to others like this one, and to the master.
        forget();
        agents::forget();
        routers::forget();
        maker.map_or_else(String::new, |maker| serve(maker, device, heartbeat.as_deref()))
    };
    let reason = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| "panic in the pair process".to_owned());
    if !reason.is_empty() {
        uwsgi::log(
            Event::PairProcessEnded,
            &format!("[tuntap-router] {device}: {reason}; the pair process is started again"),
        );
    }
    thread::sleep(PAUSE);
    process::exit_at_once(1)
}

/// Makes pairs until that fails, or the master ends. Returns why.
fn serve(Maker { maps, programs, socket, guard }: Maker, device: &str, heartbeat: Option<&Heartbeat>) -> String {
    // It is the master's.
    drop(guard);
    let master = match process::watch_parent() {
        Ok(master) => master,
        Err(errno) => return format!("the master can't be watched: {errno}"),
    };
    // Two descriptors for each pair.
    if let Err(errno) = process::raise_descriptor_limit() {
        uwsgi::log(
            Event::RouterIncomplete,
            &format!("[tuntap-router] {device}: pair process: can't raise the limit of open descriptors: {errno}"),
        );
    }
    let pulse = heartbeat.map(|heartbeat| Pulse::new(heartbeat, config().harakiri));
    let beat = || {
        pulse.iter().for_each(Pulse::beat);
        pulse.as_ref().and_then(|pulse| pulse.interval)
    };
    let log = |notice: &tuntap_offload::Notice| {
        uwsgi::log(Event::RouterFault, &format!("[tuntap-router] {device}: {notice}"))
    };
    let config = tuntap_offload::Config { maps, programs, hooks: hooks(), device: device.to_owned(), socket, master };
    match tuntap_offload::run(config, || confine(device), log, beat) {
        tuntap_offload::End::Master => process::exit_at_once(0),
        end => end.to_string(),
    }
}

/// Gives up what the process doesn't need: capabilities, more privileges of programs, files, and most system calls.
fn confine(device: &str) {
    if config().sandbox == Sandbox::Off {
        return;
    }
    let tell = |what: &str, error: &dyn std::fmt::Display| {
        uwsgi::log(Event::Sandbox, &format!("[tuntap-router] {device}: the pair process keeps {what}: {error}"));
    };
    process::pin_time_zone();
    if let Err(errno) = sandbox::set_no_new_privileges() {
        tell("the privileges of programs", &errno);
    }
    if let Err(error) = sandbox::forbid_files() {
        tell("access to files", &error);
    }
    if let Err(error) = sandbox::keep_capabilities(&tuntap_offload::CAPABILITIES) {
        tell("all its capabilities", &error);
    }
    let label = format!("[tuntap-router] {device}: pair process");
    if let Err(error) = sandbox::restrict_syscalls(&tuntap_offload::SYSCALLS, label) {
        tell("all system calls", &error);
    }
}
