//! The control sockets of routers, which the master binds before the fork.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::accounts;
use super::routers::probe_unix;
use super::uwsgi::{self, UwsgiState};
use tuntap_config::{ControlSocket, RouterSpec};
use tuntap_router::ControlEndpoint;
use tuntap_sys::log::Event;

/// Who may open the socket's file if root alone, or the owner that `chown-socket` names, may use it.
const OWNER_ONLY: u32 = 0o600;

/// The same if the options let others use it: who they are is checked when they connect.
const EVERYBODY: u32 = 0o666;

/// Listens on a router's control socket. `None` if it has none. That the usual one can't be bound is logged, because an instance
/// that doesn't name it must not fail for it; one that is named must be there.
pub fn listen(spec: &RouterSpec, uwsgi: &UwsgiState) -> Result<Option<ControlEndpoint>, String> {
    let Some(path) = spec.control_path() else { return Ok(None) };
    match bind(spec, &path, uwsgi) {
        Ok(endpoint) => {
            uwsgi::log(Event::Listening, &format!("[tuntap-router] {}: taking requests on {path}", spec.device));
            Ok(Some(endpoint))
        }
        Err(error) if spec.live.control == ControlSocket::Beside => {
            uwsgi::log(
                Event::RouterIncomplete,
                &format!("[tuntap-router] {}: no requests can be taken on {path}: {error}", spec.device),
            );
            Ok(None)
        }
        Err(error) => Err(format!("control socket {path}: {error}")),
    }
}

fn bind(spec: &RouterSpec, path: &str, uwsgi: &UwsgiState) -> Result<ControlEndpoint, String> {
    probe_unix(path, uwsgi)?;
    let listener = uwsgi::bind_unix(path).map_err(|error| error.to_string())?;
    if !path.starts_with('@') && Path::new(path).exists() {
        // Until here it has the mode of all of uWSGI's sockets. Who connects meanwhile is checked as everybody is.
        let mode = if spec.live.access.is_empty() { OWNER_ONLY } else { EVERYBODY };
        set_permissions(path, Permissions::from_mode(mode)).map_err(|error| error.to_string())?;
    }
    Ok(ControlEndpoint { listener, access: accounts::control_access(&spec.live.access) })
}
