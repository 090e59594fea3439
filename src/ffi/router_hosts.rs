//! What routers need for other hosts: keys, and listeners for the host's routing daemon. The master makes them while it is root,
//! and leaves to its next image what only root can make.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use nix::unistd::geteuid;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::options::config;
use super::uwsgi;
use tuntap_agent::{KeyFile, KeyFileError};
use tuntap_config::{KEY_FOLDER, OptionName, RouterSpec, RoutesSpec};
use tuntap_router::{EndpointError, Hosts, KeptRoutes, LeftRoutes, RoutesEndpoint, Store};
use tuntap_sys::handover::{Handover, HandoverError, Received, Section, Slot};
use tuntap_sys::log::Event;
use tuntap_sys::secret_file::SecretFile;
use tuntap_sys::socket::tcp::MAX_MD5_KEY_LEN;
use tuntap_wire::holding::RouterId;
use tuntap_wire::trunk::PublicKey;

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
    key: Option<OwnedFd>,
    trunks: Vec<OwnedFd>,
}

/// A router's key, which this process doesn't have itself: the trunk process reads it from the file.
#[derive(Debug)]
pub struct Key {
    /// The file with the private half.
    pub file: KeyFile,
    /// The public half.
    pub public: PublicKey,
}

/// What a router needs for other hosts.
#[derive(Debug, Default)]
pub struct Prepared {
    /// What the router's process needs.
    pub hosts: Hosts,
    /// For its trunk process. `None` if there is none, or it can't be read after a reload.
    pub key: Option<Key>,
    /// Listeners of the image before, for its trunk process.
    pub listeners: Vec<TcpListener>,
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
    /// The open file of its key.
    #[serde(default)]
    key: Option<Slot>,
    /// Where routers of other hosts connect.
    #[serde(default)]
    trunks: Vec<Slot>,
}

impl Section for KeptHosts {
    const NAME: &'static str = "hosts";
}

/// Makes what a router with this store needs for other hosts.
pub fn of(spec: &RouterSpec, store: &Store) -> Result<Prepared, String> {
    if !spec.hosts.needs_key() {
        return Ok(Prepared::default());
    }
    let earlier = EARLIER.lock().remove(&spec.device);
    let (was, left_routes, kept_key, listeners) = match earlier {
        Some(Left { router, routes, key, trunks }) => {
            (Some(router), routes, key, trunks.into_iter().map(TcpListener::from).collect())
        }
        None => (None, None, None, Vec::new()),
    };
    let key = match (key(spec), was) {
        (Ok(key), _) => Some(key),
        // After a reload this process may not be root any more.
        (Err(_), Some(_)) => kept_key.and_then(|file| kept(spec, file)),
        (Err(error), None) => return Err(error),
    };
    let router = key.as_ref().and_then(|key| key.public.router_id()).or(was);
    let routes = match &spec.hosts.routes {
        Some(routes) => {
            let left = left_routes.and_then(|left| RoutesEndpoint::adopt(left, routes.address, store));
            Some(listen(spec, routes, left)?)
        }
        None => None,
    };
    Ok(Prepared { hosts: Hosts { router, routes, trunks: None }, key, listeners })
}

/// Opens a router's key, or makes it.
fn key(spec: &RouterSpec) -> Result<Key, String> {
    let name = spec.hosts.key_file(&spec.device);
    if spec.hosts.key.is_none()
        && let Err(error) = DirBuilder::new().mode(0o700).create(KEY_FOLDER)
        && error.kind() != ErrorKind::AlreadyExists
    {
        let option = OptionName::RouterKey.as_str();
        return Err(format!("the folder {KEY_FOLDER} for its key: {error} ({option} names another file)"));
    }
    let path = Path::new(&name);
    let (file, made) = match KeyFile::open(path) {
        Err(error) if error.is_missing() => {
            let is_made = aside(|| KeyFile::create(path))?;
            (KeyFile::open(path).map_err(|error| error.to_string())?, if is_made { " (new)" } else { "" })
        }
        result => (result.map_err(|error| error.to_string())?, ""),
    };
    let key = with_public_half(file)?;
    uwsgi::log(
        Event::Key,
        &format!(
            "[tuntap-router] {}: its key is {}{made}, {name}; other hosts know it as {}",
            spec.device,
            key.public,
            key.public.router_id().ok_or("its key has no router id")?
        ),
    );
    Ok(key)
}

/// The key of the image before, whose file this one may not open.
fn kept(spec: &RouterSpec, file: OwnedFd) -> Option<Key> {
    with_public_half(KeyFile::adopt(file, &spec.hosts.key_file(&spec.device))).ok()
}

fn with_public_half(file: KeyFile) -> Result<Key, String> {
    let public = aside(|| file.read().map(|key| key.public().0))?;
    uwsgi::keep_open(file.descriptor());
    Ok(Key { file, public: PublicKey(public) })
}

/// Does in a child what takes the private key, which then isn't in the memory of the master and of all that it starts.
fn aside<T: Serialize + DeserializeOwned>(work: impl FnOnce() -> Result<T, KeyFileError>) -> Result<T, String> {
    let told = || serde_json::to_vec(&work().map_err(|error| error.to_string())).unwrap_or_default();
    let result = tuntap_sys::aside::run(told).map_err(|error| format!("a process that looks at its key: {error}"))?;
    serde_json::from_slice(&result).map_err(|error| format!("a process that looks at its key: {error}"))?
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
        uwsgi::log(
            Event::Advice,
            &format!(
                "[tuntap-router] {}: {} {address}: other users of this host can listen on a port above 1023, too, while this router \
             doesn't, and tell the routing daemon what they like",
                spec.device,
                OptionName::Routes.as_str()
            ),
        );
    }
    uwsgi::log(
        Event::Listening,
        &format!("[tuntap-router] {}: waiting for the routing daemon on {address}", spec.device),
    );
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
    let facts = file.metadata().map_err(|error| named(&error))?;
    if let Some(exposure) = SecretFile::from(&facts).exposure(geteuid().as_raw()) {
        return Err(named(&format_args!("it {exposure}")));
    }
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

/// Keeps what a router that has ended leaves to the next image, some of it in its store.
pub fn keep(device: &str, hosts: Hosts, store: &Store, key: Option<OwnedFd>, trunks: Vec<OwnedFd>) {
    if let Some(router) = hosts.router {
        let routes = hosts.routes.map(|endpoint| LeftRoutes::of(endpoint, store));
        KEPT.lock().push((device.to_owned(), Left { router, routes, key, trunks }));
    }
}

/// Takes over what the image before has left.
pub fn take_over(received: &mut Received) {
    match received.section::<KeptHosts>() {
        Ok(kept) => {
            let kept = kept.into_iter().flat_map(|kept| kept.routers);
            let earlier = kept.filter_map(|(device, Kept { router, routes, key, trunks })| {
                let routes = routes.and_then(|routes| routes.take(received));
                let key = key.and_then(|slot| received.descriptor(slot));
                let trunks = trunks.into_iter().filter_map(|slot| received.descriptor(slot)).collect();
                Some((device, Left { router: RouterId::new(router)?, routes, key, trunks }))
            });
            *EARLIER.lock() = earlier.collect();
        }
        Err(error) => {
            uwsgi::log(
                Event::ReloadLoss,
                &format!("[tuntap-router] keys and listeners for other hosts are not known any more: {error}"),
            );
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
    for (device, Left { router, routes, key, trunks }) in all {
        let routes = routes.as_ref().map(|routes| routes.hand_over(handover));
        let mut add = |descriptor: &'a OwnedFd| handover.add_descriptor(descriptor.as_fd());
        let key = key.as_ref().map(&mut add);
        let trunks = trunks.iter().map(add).collect();
        kept.routers.insert(device.clone(), Kept { router: router.number(), routes, key, trunks });
    }
    if kept.routers.is_empty() { Ok(()) } else { handover.add(&kept) }
}
