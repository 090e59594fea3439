//! A host's namespace with a router's device, peers' namespaces with theirs, and pairs between them.

use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use tuntap_offload::guard::Guard;
use tuntap_offload::maps::{End, Key, Maps};
use tuntap_offload::pairs::{Hooks, Pair, Pairs};
use tuntap_offload::programs::Programs;
use tuntap_offload::verdicts::Verdicts;
use tuntap_sys::netlink::{LinkChange, Netlink};
use tuntap_sys::tun::{MAX_PACKET_LEN, Tun};

/// How long anything may take that has to happen: longer where `TUNTAP_TIMEOUT_FACTOR` says that the machine is slow.
fn patience() -> Duration {
    let factor = std::env::var("TUNTAP_TIMEOUT_FACTOR").map_or(1, |it| it.parse().expect("it is a number"));
    Duration::from_secs(30) * factor
}

pub const VERDICTS: u32 = 64;

/// The router's device, and its addresses.
pub const ROUTER: &str = "tuntaptest0";
pub const HOST: [&str; 2] = ["10.77.0.1", "fd00:77::1"];

/// The first two numbers of the running kernel's version.
pub fn linux() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map(str::parse);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else { panic!("{release}") };
    (major, minor)
}

/// A network namespace.
#[derive(Debug)]
pub struct Namespace(File);

impl Namespace {
    pub fn new() -> Self {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
            File::open("/proc/thread-self/ns/net").expect("a namespace")
        });
        Self(thread.join().expect("no panic"))
    }

    /// Does something in it, on a thread of its own.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            setns(&self.0, CloneFlags::CLONE_NEWNET).expect("a namespace");
            work()
        };
        match std::thread::scope(|scope| scope.spawn(inside).join()) {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Makes the calling thread stay in it.
    pub fn enter(&self) {
        setns(&self.0, CloneFlags::CLONE_NEWNET).expect("a namespace");
    }

    /// Runs a script in it, which has to succeed.
    pub fn python(&self, script: &str) {
        let output = self.within(|| Command::new("python3").args(["-c", script]).output()).expect("python3 starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    pub fn device(&self, name: &str, addresses: &[&str]) -> Tun {
        self.within(|| {
            let mut tun = Tun::create(name).expect("a device");
            tun.enable_offloads();
            // The kernel sends no packets of its own after seconds, which tests would count.
            let setting = format!("/proc/sys/net/ipv6/conf/{name}/router_solicitations");
            std::fs::write(setting, "0").expect("a setting");
            let mut netlink = Netlink::open().expect("netlink");
            let index = netlink.link(name).expect("it is there").index;
            netlink.set_link(index, LinkChange { up: Some(true), ..LinkChange::default() }).expect("up");
            for address in addresses {
                let len = if address.contains(':') { 64 } else { 24 };
                netlink
                    .replace_address(index, format!("{address}/{len}").parse().expect("a network"))
                    .expect("an address");
            }
            tun
        })
    }

    pub fn udp(&self, address: &str) -> UdpSocket {
        let socket = self.within(|| UdpSocket::bind(at(address, 0)).expect("a port"));
        socket.set_read_timeout(Some(patience())).expect("a socket");
        socket
    }

    pub fn listen(&self, address: &str) -> TcpListener {
        self.within(|| TcpListener::bind(at(address, 0)).expect("a port"))
    }

    pub fn connect(&self, address: SocketAddr) -> TcpStream {
        self.within(|| TcpStream::connect_timeout(&address, patience()).expect("a connection"))
    }
}

pub fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

/// Copies packets between TUN devices.
struct Router {
    packets: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Router {
    fn start(devices: [Tun; 2]) -> Self {
        let (packets, ends) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, has_ended) = (Arc::clone(&packets), Arc::clone(&ends));
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; MAX_PACKET_LEN];
            while !has_ended.load(Ordering::Relaxed) {
                let mut polled = devices.each_ref().map(|device| PollFd::new(device.as_fd(), PollFlags::POLLIN));
                poll(&mut polled, PollTimeout::from(20_u8)).expect("descriptors");
                for (from, to) in [(0, 1), (1, 0)] {
                    while let Ok(len) = devices[from].recv(&mut buffer) {
                        count.fetch_add(1, Ordering::Relaxed);
                        // The device may be gone at the end of a test.
                        let _ = devices[to].send_whole(&buffer[..len]);
                    }
                }
            }
        });
        Self { packets, ends, thread: Some(thread) }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A peer: its namespace, and the descriptor of its device.
pub struct Peer {
    pub namespace: Namespace,
    pub device: OwnedFd,
    pub addresses: [&'static str; 2],
}

impl Peer {
    pub fn new(addresses: [&'static str; 2]) -> Self {
        let namespace = Namespace::new();
        let device = namespace.device("uwsgi0", &addresses).into();
        Self { namespace, device, addresses }
    }

    pub fn descriptor(&self) -> OwnedFd {
        self.device.try_clone().expect("a descriptor")
    }
}

/// Everything. The calling thread is in the host's namespace afterwards.
pub struct World {
    pub host: Namespace,
    pub peer: Peer,
    pub maps: &'static Maps,
    pub verdicts: Verdicts<'static>,
    pub pairs: Pairs<'static>,
    pub router_device: OwnedFd,
    router: Router,
}

pub const PEER: [&str; 2] = ["10.77.0.2", "fd00:77::2"];
pub const GENERATION: u32 = 1;

impl World {
    pub fn new(hooks: Hooks) -> Self {
        let host = Namespace::new();
        host.enter();
        let router_device: OwnedFd = host.device(ROUTER, &HOST).into();
        let peer = Peer::new(PEER);
        let again = |device: &OwnedFd| Tun::adopt(device.try_clone().expect("a descriptor")).expect("a device");
        let router = Router::start([again(&router_device), again(&peer.device)]);
        // They live as long as the test's process.
        let maps: &'static Maps = Box::leak(Box::new(Maps::new(VERDICTS).expect("needs root")));
        let programs: &'static Programs = Box::leak(Box::new(Programs::load(maps).expect("the verifier agrees")));
        let verdicts = Verdicts::new(maps).expect("memory");
        verdicts.set_generation(GENERATION);
        let mut pairs = Pairs::new(maps, programs, hooks, ROUTER, Guard::new(ROUTER).ok()).expect("netlink");
        pairs.open_host().expect("a device");
        Self { host, peer, maps, verdicts, pairs, router_device, router }
    }

    /// Makes the pair of the peer, with its claims.
    pub fn pair(&mut self) -> Pair {
        let pair = self.pair_of(self.peer.descriptor());
        for address in PEER {
            self.claim(&pair, address, true);
        }
        pair
    }

    /// Makes the pair of another peer, and waits until it has started.
    pub fn pair_of(&mut self, device: OwnedFd) -> Pair {
        let pair = self.pairs.make(device).expect("a pair");
        until("both ends send packets", || self.pairs.has_started(&pair).expect("nothing is wrong"));
        pair
    }

    pub fn claim(&self, pair: &Pair, address: &str, is_held: bool) {
        let address: IpAddr = address.parse().expect("an address");
        self.maps.set_claim(pair.index(), address, is_held).expect("room");
    }

    /// How many packets the router has copied.
    pub fn by_router(&self) -> u64 {
        self.router.packets.load(Ordering::Relaxed)
    }

    /// How many packets have passed by a verdict.
    pub fn by_kernel(&mut self, place: usize) -> u64 {
        self.verdicts.passed(place).unwrap_or_default().packets
    }

    /// Gives the verdicts for both directions of a flow of the peer: `place` for what it sends, the next one for what it gets.
    pub fn decide(&mut self, place: usize, pair: &Pair, protocol: u8, local: SocketAddr, remote: SocketAddr) {
        let end = End::Pair(pair.index());
        let [out, back] = keys(protocol, local, remote);
        self.verdicts.give(place, GENERATION, &out, end, End::Host).expect("room");
        self.verdicts.give(place + 1, GENERATION, &back, End::Host, end).expect("room");
    }
}

/// The keys of what leaves `local` and of what it gets.
pub fn keys(protocol: u8, local: SocketAddr, remote: SocketAddr) -> [Key; 2] {
    let key = |source: SocketAddr, destination: SocketAddr| Key {
        source: source.ip(),
        destination: destination.ip(),
        source_port: source.port(),
        destination_port: destination.port(),
        protocol,
    };
    [key(local, remote), key(remote, local)]
}

/// Waits until something holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience();
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {:?}", patience());
        std::thread::sleep(Duration::from_millis(2));
    }
}
