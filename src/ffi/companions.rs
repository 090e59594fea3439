//! What the processes beside routers have in common: trunk processes and pair processes. The master starts such a process again when
//! it dies or hangs, and ends it when it is stopped.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_int, c_void};
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::options::config;
use super::router_processes::{self as processes, Kind};
use super::uwsgi;
use super::{agents, pairs, routers};
use tuntap_config::{RouterSpec, Sandbox};
use tuntap_router::Heartbeat;
use tuntap_sys::log::Event;
use tuntap_sys::sandbox::{Capability, SyscallPolicy};
use tuntap_sys::{dumpable, process, sandbox};

/// How long a process that can't work waits before it ends, to be started again.
const PAUSE: Duration = Duration::from_secs(2);

/// All processes of a kind, each of which needs a `T`.
#[derive(Debug)]
pub struct Companions<T> {
    kind: Kind,
    /// The name of the processes in uWSGI.
    title: &'static CStr,
    /// What it is in the log when one of them ends.
    ended: Event,
    /// What each of them needs, by the device of its router. The master keeps all of it, for processes that it starts again.
    needs: Mutex<BTreeMap<String, T>>,
    /// Their beats, by the devices of their routers.
    heartbeats: Mutex<BTreeMap<String, Arc<Heartbeat>>>,
}

impl<T> Companions<T> {
    pub const fn new(kind: Kind, title: &'static CStr, ended: Event) -> Self {
        Self { kind, title, ended, needs: Mutex::new(BTreeMap::new()), heartbeats: Mutex::new(BTreeMap::new()) }
    }

    /// What the processes need, by the devices of their routers.
    pub fn needs(&self) -> MutexGuard<'_, BTreeMap<String, T>> {
        self.needs.lock()
    }

    /// Registers the process of the router with this number. `body` is the process; it gets the number back, for [`Self::run`].
    pub fn register(
        &self,
        index: usize,
        spec: &RouterSpec,
        body: unsafe extern "C" fn(c_int, *mut c_void),
    ) -> Result<(), String> {
        let heartbeat = Heartbeat::new().map_err(|errno| format!("a page of shared memory: {errno}"))?;
        let heartbeat = Arc::new(heartbeat);
        self.heartbeats.lock().insert(spec.device.clone(), Arc::clone(&heartbeat));
        // uWSGI's lists take pointers; this one carries the number.
        let data = std::ptr::without_provenance_mut(index);
        let gateway = uwsgi::register_gateway(self.title, body, data)?;
        processes::add(self.kind, gateway, &spec.device, Some(heartbeat));
        Ok(())
    }

    /// Closes what the processes have open in this one.
    pub fn forget(&self) {
        self.needs.lock().clear();
        self.heartbeats.lock().clear();
    }

    /// Is the process of the router with the number in `data`. It serves until that fails, and `serve` returns why. If its router
    /// can't be prepared at the moment, it ends, too, to be started again.
    pub fn run(
        &self,
        data: *mut c_void,
        serve: impl FnOnce(T, &'static RouterSpec, Option<Arc<Heartbeat>>) -> String,
    ) -> ! {
        let spec = config().routers.get(data.addr());
        let device = spec.map_or("a router", |spec| spec.device.as_str());
        let what = self.kind.name();
        let run = || {
            dumpable::close_with_children();
            let needs = self.needs.lock().remove(device);
            let heartbeat = self.heartbeats.lock().remove(device);
            // Closes what belongs to routers, to others like this one, and to the master.
            agents::forget();
            pairs::forget();
            routers::forget();
            needs.zip(spec).map(|(needs, spec)| serve(needs, spec, heartbeat)).unwrap_or_default()
        };
        let reason = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| format!("panic in the {what}"));
        if !reason.is_empty() {
            uwsgi::log(self.ended, &format!("[tuntap-router] {device}: {reason}; the {what} is started again"));
        }
        thread::sleep(PAUSE);
        process::exit_at_once(1)
    }

    /// Gives up what such a process doesn't need: capabilities other than these, more privileges of programs, files, and all other
    /// system calls.
    pub fn confine(&self, device: &str, capabilities: &[Capability], syscalls: &SyscallPolicy) {
        if config().sandbox == Sandbox::Off {
            return;
        }
        let what = self.kind.name();
        let tell = |kept: &str, error: &dyn Display| {
            uwsgi::log(Event::Sandbox, &format!("[tuntap-router] {device}: the {what} keeps {kept}: {error}"));
        };
        process::pin_time_zone();
        if let Err(errno) = sandbox::set_no_new_privileges() {
            tell("the privileges of programs", &errno);
        }
        if let Err(error) = sandbox::forbid_files() {
            tell("access to files", &error);
        }
        if let Err(error) = sandbox::keep_capabilities(capabilities) {
            tell("all its capabilities", &error);
        }
        if let Err(error) = sandbox::restrict_syscalls(syscalls, format!("[tuntap-router] {device}: {what}")) {
            tell("all system calls", &error);
        }
    }
}
