//! What routers need for other hosts: keys, and listeners for the host's routing daemon. The master makes them while it is root,
//! and leaves to its next image what only root can make.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::unistd::geteuid;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::options::config;
use super::uwsgi;
use tuntap_agent::{KeyFileError, PrivateKey};
use tuntap_config::{KEY_FOLDER, OptionName, RouterSpec, RoutesSpec};
use tuntap_router::{EndpointError, Hosts, KeptRoutes, LeftRoutes, RoutesEndpoint, Store};
use tuntap_sys::handover::{Handover, HandoverError, Received, Section};
use tuntap_sys::socket::tcp::MAX_MD5_KEY_LEN;
use tuntap_wire::holding::RouterId;

/// Permission bits of others than the owner.
const OTHERS: u32 = 0o077;

/// Ports below this one only root can listen on, unless the host is set up otherwise.
const FIRST_FREE_PORT: u16 = 1024;

/// What the image before has left, by the name of the router's device.
static EARLIER: Mutex<BTreeMap<String, Left>> = Mutex::new(BTreeMap::new());

/// What this image is about to leave.
static KEPT: Mutex<Vec<(String, Left)>> = Mutex::new(Vec::new());

/// What is left of a router.
pub struct Left {
    router: RouterId,
    routes: Option<LeftRoutes>,
}

/// What an image leaves to the next one.
#[derive(Debug, Default, Serialize, Deserialize)]
struct KeptHosts {
    /// By the name of the router's device.
    routers: BTreeMap<String, Kept>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// The number of the router's id.
    router: u64,
    routes: Option<KeptRoutes>,
}

impl Section for KeptHosts {
    const NAME: &'static str = "hosts";
}

/// Makes what a router with this store needs for other hosts. The key itself stays here; `None` if it can't be read after a reload.
pub fn of(spec: &RouterSpec, store: &Store) -> Result<(Hosts, Option<PrivateKey>), String> {
    if !spec.hosts.needs_key() {
        return Ok((Hosts::default(), None));
    }
    let earlier = EARLIER.lock().remove(&spec.device);
    let result = key(spec);
    let (router, key) = match (result, &earlier) {
        (Ok(key), _) => (key.router_id(), Some(key)),
        // After a reload this process may not be root any more.
        (Err(_), Some(earlier)) => (earlier.router, None),
        (Err(error), None) => return Err(error),
    };
    let earlier = earlier.and_then(|earlier| earlier.routes);
    let routes = match &spec.hosts.routes {
        Some(routes) => {
            let earlier = earlier.and_then(|left| RoutesEndpoint::adopt(left, routes.address, store));
            Some(listen(spec, routes, earlier)?)
        }
        None => None,
    };
    Ok((Hosts { router: Some(router), routes, trunks: None }, key))
}

/// Reads a router's key, or makes it.
fn key(spec: &RouterSpec) -> Result<PrivateKey, String> {
    let file = spec.hosts.key_file(&spec.device);
    if spec.hosts.key.is_none()
        && let Err(error) = DirBuilder::new().mode(0o700).create(KEY_FOLDER)
        && error.kind() != ErrorKind::AlreadyExists
    {
        let option = OptionName::RouterKey.as_str();
        return Err(format!("the folder {KEY_FOLDER} for its key: {error} ({option} names another file)"));
    }
    let (key, is_made) =
        PrivateKey::load_or_create(Path::new(&file)).map_err(|error: KeyFileError| error.to_string())?;
    let made = if is_made { " (new)" } else { "" };
    uwsgi::log(&format!(
        "[tuntap-router] {}: its key is {}{made}, {file}; other hosts know it as {}",
        spec.device,
        key.public(),
        key.router_id()
    ));
    Ok(key)
}

/// Listens for the routing daemon, on the listener of the image before if there is one: only root can bind some ports.
fn listen(spec: &RouterSpec, routes: &RoutesSpec, earlier: Option<RoutesEndpoint>) -> Result<RoutesEndpoint, String> {
    let RoutesSpec { address, from, password, .. } = routes;
    let named = |error: &dyn std::fmt::Display| format!("{} {address}: {error}", OptionName::Routes.as_str());
    let read = password.as_ref().map(|file| read_password(Path::new(file))).transpose();
    let endpoint = match (earlier, read) {
        (Some(endpoint), Ok(password)) => {
            password.map_or(Ok(()), |password| endpoint.sign(*from, &password)).map_err(|error| named(&error))?;
            endpoint
        }
        // The password is the one of before.
        (Some(endpoint), Err(_)) => endpoint,
        (None, read) => {
            RoutesEndpoint::bind(*address, *from, read?.as_deref()).map_err(|error: EndpointError| named(&error))?
        }
    };
    if address.port() >= FIRST_FREE_PORT {
        uwsgi::log(&format!(
            "[tuntap-router] {}: {} {address}: other users of this host can listen on a port above 1023, too, while this router \
             doesn't, and tell the routing daemon what they like",
            spec.device,
            OptionName::Routes.as_str()
        ));
    }
    uwsgi::log(&format!("[tuntap-router] {}: waiting for the routing daemon on {address}", spec.device));
    Ok(endpoint)
}

/// Reads the first line of a password file.
fn read_password(path: &Path) -> Result<Vec<u8>, String> {
    let named = |error: &dyn std::fmt::Display| format!("the password file {}: {error}", path.display());
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(|error| named(&error))?;
    check_password_file(&file).map_err(|error| named(&error))?;
    let mut line = Vec::new();
    let longest = u64::try_from(MAX_MD5_KEY_LEN).unwrap_or(u64::MAX) + 2;
    BufReader::new(file.take(longest)).read_until(b'\n', &mut line).map_err(|error| named(&error))?;
    while matches!(line.last(), Some(b'\n' | b'\r')) {
        line.pop();
    }
    match line.len() {
        0 => Err(named(&"its first line is empty, expected a password")),
        len if len > MAX_MD5_KEY_LEN => Err(named(&format_args!(
            "its first line is longer than {MAX_MD5_KEY_LEN} bytes, the most that TCP-MD5 takes"
        ))),
        _ => Ok(line),
    }
}

fn check_password_file(file: &File) -> Result<(), String> {
    let facts = file.metadata().map_err(|error| error.to_string())?;
    let own = geteuid().as_raw();
    if !facts.is_file() {
        return Err("it is no regular file".to_owned());
    }
    if facts.uid() != own && facts.uid() != 0 {
        return Err(format!("it belongs to uid {}, not to uid {own} or root", facts.uid()));
    }
    if facts.mode() & OTHERS != 0 {
        return Err(format!("it has mode {:04o}: others may open it (chmod 600)", facts.mode() & 0o7777));
    }
    Ok(())
}

/// Keeps what a router that has ended leaves to the next image, some of it in its store.
pub fn keep(device: &str, hosts: Hosts, store: &Store) {
    if let Some(router) = hosts.router {
        let routes = hosts.routes.map(|endpoint| LeftRoutes::of(endpoint, store));
        KEPT.lock().push((device.to_owned(), Left { router, routes }));
    }
}

/// Takes over what the image before has left.
pub fn take_over(received: &mut Received) {
    match received.section::<KeptHosts>() {
        Ok(kept) => {
            let kept = kept.into_iter().flat_map(|kept| kept.routers);
            let earlier = kept.filter_map(|(device, Kept { router, routes })| {
                let routes = routes.and_then(|routes| routes.take(received));
                Some((device, Left { router: RouterId::new(router)?, routes }))
            });
            *EARLIER.lock() = earlier.collect();
        }
        Err(error) => {
            uwsgi::log(&format!(
                "[tuntap-router] keys and listeners for routing daemons are not known any more: {error}"
            ));
        }
    }
}

/// Gives up what was left for routers that this image doesn't have.
pub fn forget_others() {
    EARLIER.lock().retain(|device, _| config().routers.iter().any(|router| router.device == *device));
}

/// Takes what is to be handed over.
pub fn to_hand_over() -> Vec<(String, Left)> {
    std::mem::take(&mut *KEPT.lock())
}

/// Adds it to what is handed over.
pub fn hand_over<'a>(all: &'a [(String, Left)], handover: &mut Handover<'a>) -> Result<(), HandoverError> {
    let mut kept = KeptHosts::default();
    for (device, Left { router, routes }) in all {
        let routes = routes.as_ref().map(|routes| routes.hand_over(handover));
        kept.routers.insert(device.clone(), Kept { router: router.number(), routes });
    }
    if kept.routers.is_empty() { Ok(()) } else { handover.add(&kept) }
}
