//! Looks up the users and groups that grants and limits name (`tuntap-router-lease`, `tuntap-router-shape`). The master does it,
//! because a router has no access to files. What is for a missing user or group takes effect when it is there.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use nix::unistd::{Group, User};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::options::config;
use super::uwsgi;
use tuntap_config::{AccessSpec, ControlAccess, RouterSpec, resolve_access, resolve_grants, resolve_shapes};
use tuntap_core::policy::grant::{Grant, Grants, Holder};
use tuntap_core::policy::shape::Shape;
use tuntap_sys::handover::{Handover, HandoverError, Received, Section};
use tuntap_sys::log::Event;

/// The files that have users and groups on most machines. A change in them starts another attempt.
const FILES: [&str; 2] = ["/etc/passwd", "/etc/group"];

/// Interval between attempts while these files haven't changed: accounts may come from elsewhere (nsswitch.conf(5)).
const INTERVAL: Duration = Duration::from_secs(15);

/// Least interval between attempts, and the part of the master's time that they may take (one in so many).
const LEAST_INTERVAL: Duration = Duration::from_millis(500);
const SHARE_OF_TIME: u32 = 20;

/// The numbers that were found in this image and in the one before, by name. Groups have an at sign before their names.
static FOUND: Mutex<Accounts> = Mutex::new(Accounts { ids: BTreeMap::new() });

/// Grants and limits that wait for an account.
static WAITING: Mutex<Option<Waiting>> = Mutex::new(None);

#[derive(Debug, Default, Serialize, Deserialize)]
struct Accounts {
    ids: BTreeMap<String, u32>,
}

impl Section for Accounts {
    const NAME: &'static str = "accounts";
}

struct Waiting {
    places: Vec<Place>,
    stamps: Vec<Option<Stamp>>,
    next: Instant,
    not_before: Instant,
}

/// The place of a grant or a limit in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// Of a grant.
    Grant(usize),
    /// Of a limit of the router with this device.
    Shape(String, usize),
}

impl Waiting {
    /// What waits, for the accounts as they are right now. `stamps` are those of before the look-up.
    fn new(places: Vec<Place>, stamps: Vec<Option<Stamp>>) -> Self {
        let now = Instant::now();
        Self { places, stamps, next: now + INTERVAL, not_before: now }
    }
}

/// Finds the number of a user or a group.
type LookUp<'a> = dyn Fn(&str) -> nix::Result<Option<u32>> + 'a;

/// Device, inode, modification time and length of a file, by which a change is noticed.
type Stamp = (u64, u64, i64, i64, u64);

/// Takes over what the image before has looked up, for the case that nobody can be asked now.
pub fn take_over(received: &mut Received) {
    match received.section() {
        Ok(found) => *FOUND.lock() = found.unwrap_or_default(),
        Err(error) => uwsgi::log(
            Event::ReloadLoss,
            &format!("[tuntap-router] users and groups are looked up anew after the reload: {error}"),
        ),
    }
}

/// Adds what was looked up to what is handed over.
pub fn hand_over(handover: &mut Handover<'_>) -> Result<(), HandoverError> {
    let found = FOUND.lock();
    if found.ids.is_empty() { Ok(()) } else { handover.add(&*found) }
}

/// The names of the users that the options name, by uid.
pub fn users() -> HashMap<u32, String> {
    let found = FOUND.lock();
    let users = found.ids.iter().filter(|(name, _)| !name.starts_with('@'));
    users.map(|(name, uid)| (*uid, name.clone())).collect()
}

/// The grants to those users and groups that are there right now. Each missing one is a line.
pub fn grants() -> Grants {
    let stamps = stamps();
    let (leases, errors) = resolve();
    for (_, error) in &errors {
        uwsgi::log(
            Event::AccountMissing,
            &format!("[tuntap-router] {error}: what is leased to it is for nobody until it is there"),
        );
    }
    let places: Vec<_> = errors.into_iter().map(|(place, _)| Place::Grant(place)).collect();
    *WAITING.lock() = (!places.is_empty()).then(|| Waiting::new(places, stamps));
    config().compile_grants(leases)
}

/// The limits of a router for those users and groups that are there right now, and for everybody else. Each missing one is a
/// line.
pub fn shapes(spec: &RouterSpec) -> Vec<Shape> {
    let stamps = stamps();
    let (shapes, errors) = look_up(|user, group| resolve_shapes(&spec.shapes, user, group));
    for (_, error) in &errors {
        uwsgi::log(
            Event::AccountMissing,
            &format!("[tuntap-router] {}: {error}: nobody is limited by it until it is there", spec.device),
        );
    }
    let mut waiting = WAITING.lock();
    let is_other = |place: &Place| !matches!(place, Place::Shape(device, _) if *device == spec.device);
    let others = waiting.iter().flat_map(|waiting| &waiting.places).filter(|place| is_other(place)).cloned();
    let missing = errors.into_iter().map(|(place, _)| Place::Shape(spec.device.clone(), place));
    let places: Vec<_> = others.chain(missing).collect();
    *waiting = (!places.is_empty()).then(|| Waiting::new(places, stamps));
    shapes
}

/// What is for users and groups that have come since the last call: by router, by its device. The master calls this in each
/// cycle.
pub fn newcomers() -> (Vec<Grant>, Vec<(String, Shape)>) {
    let mut place = WAITING.lock();
    let Some(waiting) = place.as_mut() else { return Default::default() };
    let begin = Instant::now();
    if begin < waiting.not_before {
        return Default::default();
    }
    let stamps = stamps();
    if begin < waiting.next && stamps == waiting.stamps {
        return Default::default();
    }
    let grants = come_grants(waiting);
    let shapes = come_shapes(waiting);
    waiting.stamps = stamps;
    let end = Instant::now();
    waiting.not_before = end + LEAST_INTERVAL.max((end - begin) * SHARE_OF_TIME);
    waiting.next = end + INTERVAL;
    if waiting.places.is_empty() {
        *place = None;
    }
    for (device, shape) in &shapes {
        uwsgi::log(
            Event::AccountAppeared,
            &format!("[tuntap-router] {device}: the limit \"{shape}\" holds from now on: the user or group is there"),
        );
    }
    (grants, shapes)
}

/// Takes the limits whose users or groups are there out of what waits.
fn come_shapes(waiting: &mut Waiting) -> Vec<(String, Shape)> {
    let mut come = Vec::new();
    waiting.places.retain(|place| {
        let Place::Shape(device, place) = place else { return true };
        let router = config().routers.iter().find(|router| router.device == *device);
        let Some(spec) = router.and_then(|router| router.shapes.get(*place)) else { return false };
        let (found, _) = look_up(|user, group| resolve_shapes(std::slice::from_ref(spec), user, group));
        let is_missing = found.is_empty();
        come.extend(found.into_iter().map(|shape| (device.clone(), shape)));
        is_missing
    });
    come
}

/// Takes the grants whose users or groups are there out of what waits.
fn come_grants(waiting: &mut Waiting) -> Vec<Grant> {
    if !waiting.places.iter().any(|place| matches!(place, Place::Grant(_))) {
        return Vec::new();
    }
    let (leases, errors) = resolve();
    let is_missing = |place: &usize| errors.iter().any(|(missing, _)| missing == place);
    let mut come = Vec::new();
    waiting.places.retain(|place| match place {
        Place::Grant(place) if !is_missing(place) => {
            come.extend(leases.get(*place).copied());
            false
        }
        _ => true,
    });
    for Grant { prefix, holder } in &come {
        let account = match holder {
            Holder::User(id) => format!("uid {id}"),
            Holder::Group(id) => format!("gid {id}"),
            Holder::Nobody => continue,
        };
        uwsgi::log(
            Event::AccountAppeared,
            &format!("[tuntap-router] {prefix} is leased to {account} from now on, which is there now"),
        );
    }
    come
}

fn resolve() -> (Vec<Grant>, Vec<(usize, tuntap_config::ConfigError)>) {
    look_up(|user, group| resolve_grants(&config().grants, user, group))
}

/// What the users and groups of a router's options may do on its control socket. Each missing one is a line.
pub fn control_access(specs: &[AccessSpec]) -> Vec<ControlAccess> {
    let (found, errors) = look_up(|user, group| resolve_access(specs, user, group));
    for error in errors {
        uwsgi::log(
            Event::AccountMissing,
            &format!("[tuntap-router] {error}: it has no access until the instance is reloaded"),
        );
    }
    found
}

/// Calls a function that looks up users and groups, with what finds them.
fn look_up<T>(resolve: impl FnOnce(&LookUp<'_>, &LookUp<'_>) -> T) -> T {
    let found = RefCell::new(FOUND.lock());
    // If the look-up fails, the last answer counts. If it says that the name is unknown, that answer is forgotten.
    let remember = |key: String, result: nix::Result<Option<u32>>| {
        let ids = &mut found.borrow_mut().ids;
        match result {
            Ok(Some(id)) => _ = ids.insert(key, id),
            Ok(None) => _ = ids.remove(&key),
            Err(_) if ids.contains_key(&key) => return Ok(ids.get(&key).copied()),
            Err(_) => {}
        }
        result
    };
    let user = |name: &str| {
        let result = User::from_name(name).map(|user| user.map(|user| user.uid.as_raw()));
        remember(name.to_owned(), result)
    };
    let group = |name: &str| {
        let result = Group::from_name(name).map(|group| group.map(|group| group.gid.as_raw()));
        remember(format!("@{name}"), result)
    };
    resolve(&user, &group)
}

fn stamps() -> Vec<Option<Stamp>> {
    let stamp = |path: &str| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.dev(), found.ino(), found.mtime(), found.mtime_nsec(), found.len()))
    };
    FILES.iter().map(|path| stamp(path)).collect()
}
