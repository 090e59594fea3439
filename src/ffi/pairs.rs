//! Pair processes: one beside each router that has a path in the kernel. It makes pairs of devices for vassals, see [`tuntap_offload`]. The
//! master makes the maps and loads the programs, which takes more privileges; it starts the process again when it dies, and ends it when
//! it is stopped.

use std::ffi::{c_int, c_void};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::companions::Companions;
use super::options::config;
use super::router_processes::Kind;
use super::uwsgi;
use tuntap_config::{Offload, OptionName, RouterSpec};
use tuntap_offload::guard::Guard;
use tuntap_offload::maps::Maps;
use tuntap_offload::pairs::{Hooks, remove_all};
use tuntap_offload::programs::Programs;
use tuntap_router::{Heartbeat, KernelEndpoint, Pulse, priority};
use tuntap_sys::log::Event;
use tuntap_sys::netlink::NetlinkError;
use tuntap_sys::process;

/// All pair processes.
static MAKERS: Companions<Maker> = Companions::new(Kind::Pairs, c"uWSGI tuntap pairs", Event::PairProcessEnded);

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
    let missing = tuntap_offload::missing_capabilities();
    if !missing.is_empty() {
        let names: Vec<_> = missing.iter().map(ToString::to_string).collect();
        return Err(format!("{} missing", names.join(", ")));
    }
    let verdicts = KernelEndpoint::size(config().limits.flows);
    let maps = Arc::new(Maps::new(verdicts).map_err(|error| error.to_string())?);
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
    MAKERS.needs().insert(spec.device.clone(), Maker { maps, programs, socket, guard });
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
    if !is_wanted() || (!MAKERS.needs().contains_key(&spec.device) && config().offload == Offload::Auto) {
        return Ok(());
    }
    MAKERS.register(index, spec, run_gateway)
}

/// Removes the pairs when the master ends or executes the next image: it has killed the processes that have made them. Closes what these
/// have open here.
pub fn close() {
    let devices: Vec<_> = MAKERS.needs().keys().cloned().collect();
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
    MAKERS.forget();
}

unsafe extern "C" fn run_gateway(_id: c_int, data: *mut c_void) {
    MAKERS.run(data, serve)
}

/// Makes pairs until that fails, or the master ends. Returns why.
fn serve(
    Maker { maps, programs, socket, guard }: Maker,
    spec: &'static RouterSpec,
    heartbeat: Option<Arc<Heartbeat>>,
) -> String {
    let device = spec.device.as_str();
    let master = match process::watch_parent() {
        Ok(master) => master,
        Err(errno) => return format!("the master can't be watched: {errno}"),
    };
    // Where many processes want the processors, there are many flows, and the router has to do what pairs would.
    priority::take(
        config().priority,
        uwsgi::LOGGER,
        &format!("{device}: pair process"),
        "on a busy machine it may take long until packets of new vassals pass in the kernel",
    );
    // Two descriptors for each pair.
    if let Err(errno) = process::raise_descriptor_limit() {
        uwsgi::log(
            Event::RouterIncomplete,
            &format!("[tuntap-router] {device}: pair process: can't raise the limit of open descriptors: {errno}"),
        );
    }
    let pulse = heartbeat.as_deref().map(|heartbeat| Pulse::new(heartbeat, config().harakiri));
    let beat = || {
        pulse.iter().for_each(Pulse::beat);
        pulse.as_ref().and_then(|pulse| pulse.interval)
    };
    let log = |notice: &tuntap_offload::Notice| {
        uwsgi::log(Event::RouterFault, &format!("[tuntap-router] {device}: {notice}"))
    };
    let name = device.to_owned();
    let config = tuntap_offload::Config { maps, programs, hooks: hooks(), device: name, guard, socket, master };
    match tuntap_offload::run(
        config,
        || MAKERS.confine(device, &tuntap_offload::CAPABILITIES, &tuntap_offload::SYSCALLS),
        log,
        beat,
    ) {
        tuntap_offload::End::Master => process::exit_at_once(0),
        end => end.to_string(),
    }
}
