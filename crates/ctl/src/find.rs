//! Which router to talk to: the one that is named, or the only one that runs.

use std::io::ErrorKind;
use std::time::Duration;

use serde::Deserialize;
use tuntap_api::control::Request;
use tuntap_survey::control;

use crate::client::{self, Client};
use crate::failure::Failed;
use crate::text::{Printable, escaped};

/// The environment variable that names a router.
pub const VARIABLE: &str = "UWSGI_TUNTAP_CONTROL";

/// How long a socket that was found by its name may take to say whether it is a router's.
const PROBE: Duration = Duration::from_secs(5);

/// A router that runs.
#[derive(Debug)]
struct Router {
    client: Client,
    /// Its device, unless it refuses to tell.
    device: Option<String>,
}

/// What the listening sockets were found to be.
#[derive(Debug, Default)]
struct Found {
    routers: Vec<Router>,
    /// Sockets that aren't used, with the reason.
    left_out: Vec<String>,
}

/// The part of a router's status that is needed.
#[derive(Deserialize)]
struct Device {
    device: String,
}

/// Connects to the router that `wanted` names: a path, `@name`, or the device of a router; without it, to the only one.
///
/// # Errors
/// There is no such router, or there are several.
pub fn connect(wanted: Option<&str>, timeout: Duration) -> Result<Client, Failed> {
    let device = match wanted {
        Some(name) if name.starts_with('@') || name.contains('/') => return Client::connect(name, timeout),
        device => device,
    };
    let Found { mut routers, left_out } = look(timeout)?;
    let hints: String = left_out.iter().map(|it| format!("\n  left out: {it}")).collect();
    let devices: Vec<_> = routers.iter().filter_map(|router| router.device.as_deref().map(escaped)).collect();
    if let Some(device) = device {
        routers.retain(|router| router.device.as_deref() == Some(device));
    }
    let mut client = match (routers.pop(), routers.as_slice(), device) {
        // It has closed the connection with its refusal, which is said again on another one.
        (Some(Router { client, device: None }), [], _) => return Client::connect(client.name(), timeout),
        (Some(router), [], _) => router.client,
        (Some(last), _, _) => {
            routers.push(last);
            return Err(Failed::Unreachable(several(&routers)));
        }
        (None, _, Some(device)) => {
            let device = Printable(device);
            let others = if devices.is_empty() { String::new() } else { format!("; there are {}", devices.join(", ")) };
            let what = format!("no router with the device {device} was found (a path has a / in it){others}");
            return Err(Failed::Unreachable(what + &hints));
        }
        (None, _, None) => return Err(Failed::Unreachable(NONE.to_owned() + &hints)),
    };
    client.set_timeout(timeout);
    Ok(client)
}

/// The names of the sockets that may be routers', and whose makers are trusted, except for those that are known.
///
/// # Errors
/// The kernel's list can't be read.
pub fn trusted_names(is_known: impl Fn(&str) -> bool) -> Result<Vec<String>, Failed> {
    let names = control::names().map_err(|error| Failed::Local(error.to_string()))?;
    let is_trusted = |name: &String| match control::connect(name) {
        Ok(connection) => connection.is_trusted(),
        // A router with many clients; who has made it is seen with the connection.
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    };
    Ok(names.into_iter().filter(|name| !is_known(name)).filter(is_trusted).collect())
}

/// Connects to one of [`trusted_names`].
///
/// # Errors
/// It doesn't listen, or somebody else has made it meanwhile.
pub fn connect_trusted(name: &str, timeout: Duration) -> Result<Client, Failed> {
    let failed = |what: String| Failed::Unreachable(format!("{}: {what}", Printable(name)));
    let connection = control::connect(name).map_err(|error| failed(error.to_string()))?;
    if !connection.is_trusted() {
        return Err(failed(format!("it is uid {}'s, neither root's nor yours; --control uses it", connection.uid)));
    }
    Ok(Client::new(connection.stream, name.to_owned(), timeout))
}

/// Connects to the router with that device, if there is one.
pub fn with_device(device: &str, timeout: Duration) -> Option<Client> {
    let is_name = !device.is_empty() && !device.contains(['/', '@']);
    is_name.then(|| connect(Some(device), timeout).ok()).flatten()
}

/// Said if no router is found.
const NONE: &str = "no router was found: no socket that listens in this network namespace is a router's and has a name that \
                    ends with .control. Check that the Emperor runs, that its tuntap-router-control is not off, and that this \
                    shell is in the Emperor's network namespace; name another path with --control";

fn several(routers: &[Router]) -> String {
    let mut text = format!("several routers run; choose one with --control DEVICE or {VARIABLE}=DEVICE:");
    for Router { client, device } in routers {
        let device = device.as_deref().unwrap_or("(it refuses to tell its device: use the path)");
        text += &format!("\n  {}  {}", Printable(device), Printable(client.name()));
    }
    text
}

/// Asks all sockets that may be a router's.
fn look(timeout: Duration) -> Result<Found, Failed> {
    let names = control::names().map_err(|error| Failed::Local(error.to_string()))?;
    let mut found = Found::default();
    for name in names {
        match probe(&name, timeout.min(PROBE)) {
            Ok(router) => found.routers.push(router),
            Err(why) => found.left_out.push(why),
        }
    }
    Ok(found)
}

fn probe(name: &str, timeout: Duration) -> Result<Router, String> {
    let mut client = connect_trusted(name, timeout).map_err(|failed| failed.to_string())?;
    let device = match client.ask(&Request::Status {}).and_then(|status| client::read::<Device>(&status)) {
        Ok(status) => Some(status.device),
        Err(Failed::Refused(_)) => None,
        Err(failed) => return Err(failed.to_string()),
    };
    Ok(Router { client, device })
}
