//! The process: one thread for each listener, each neighbour that is dialled, and each connection that was accepted.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rustls::{ClientConfig, ServerConfig};
use thiserror::Error;
use tuntap_sys::socket::{
    BBR, message_pair, prepare_trunk, send_with_descriptor, set_congestion_control, set_send_buffer,
};
use tuntap_wire::holding::RouterId;
use tuntap_wire::trunk::{Handed, MAX_MESSAGE_LEN, PublicKey};

use crate::backoff::{BackOff, LONGEST, LONGEST_REFUSED};
use crate::connections::{Admission, Admitted, Connections, Place};
use crate::handshake::{HandshakeError, answer, hear, shake};
use crate::key::PrivateKey;
use crate::notice::Notice;
use crate::pump;
use crate::stream::Stream;
use crate::tls;
use crate::wait::{Ready, Want, wait};

/// How long a neighbour may take to accept a TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a handshake may take, with the first word of the server.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long nothing is accepted after an error, for instance for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// How long lines about strangers are left out after one of them.
const STRANGER_PERIOD: Duration = Duration::from_secs(60);

/// Stack of a thread, in bytes.
const STACK_LEN: usize = 512 * 1024;

/// A neighbour.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its key.
    pub key: PublicKey,
    /// Where it is dialled. Without an address, this side waits to be dialled.
    pub address: Option<SocketAddr>,
}

/// What the process is to do.
#[derive(Debug)]
pub struct Config {
    /// The router's key.
    pub key: PrivateKey,
    /// The neighbours. Nobody else is let in.
    pub peers: Vec<Peer>,
    /// Where neighbours dial this router.
    pub listeners: Vec<TcpListener>,
    /// The kernel has the congestion control [`BBR`].
    pub has_bbr: bool,
}

/// Why the process can't do its work.
#[derive(Debug, Error)]
pub enum RunError {
    /// The kernel refuses a thread or a socket.
    #[error("trunk: {0}")]
    Io(#[from] io::Error),
    /// A neighbour has this router's own key.
    #[error("trunk: {0} is this router's own key, not that of a neighbour")]
    OwnKey(PublicKey),
    /// TLS can't be set up.
    #[error("trunk: TLS can't be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// What all threads share.
struct Shared<L> {
    connections: Arc<Connections>,
    /// Where the router hears of connections.
    control: OwnedFd,
    /// Closed at its other end when the process is to end.
    stop: UnixStream,
    server: Arc<ServerConfig>,
    log: L,
    strangers: Mutex<Strangers>,
    has_told_congestion: std::sync::Once,
    has_bbr: bool,
}

#[derive(Debug, Default)]
struct Strangers {
    told: Option<Instant>,
    left_out: u64,
}

/// Connects with neighbours until the other end of `control` is closed everywhere. For each connection a message
/// ([`Handed`]) with a descriptor goes to `control`, a SOCK_SEQPACKET socket. The descriptor is a SOCK_SEQPACKET socket, too,
/// whose messages are whole frames, at most [`tuntap_wire::trunk::MAX_MESSAGE_LEN`] bytes; a newer one for the same router takes
/// the place of the one before. Who closes it closes the connection.
pub fn run(config: Config, control: OwnedFd, log: impl Fn(&Notice) + Send + Sync + 'static) -> Result<(), RunError> {
    let own = config.key.public();
    if config.peers.iter().any(|peer| peer.key == own) {
        return Err(RunError::OwnKey(own));
    }
    let (stop, stopper) = UnixStream::pair()?;
    let server = tls::server(&config.key, config.peers.iter().map(|peer| peer.key).collect())?;
    let shared = Arc::new(Shared {
        connections: Arc::new(Connections::new(config.key.router_id())),
        control,
        stop,
        server,
        log,
        strangers: Mutex::default(),
        has_told_congestion: std::sync::Once::new(),
        has_bbr: config.has_bbr,
    });
    for listener in config.listeners {
        listener.set_nonblocking(true)?;
        shared.choose_congestion_control(listener.as_fd());
        let shared = Arc::clone(&shared);
        spawn("trunk-listen", move || listen(&shared, &listener))?;
    }
    for peer in config.peers {
        let (Some(address), Some(router)) = (peer.address, peer.key.router_id()) else { continue };
        let client = tls::client(&config.key, peer.key)?;
        let shared = Arc::clone(&shared);
        spawn("trunk-dial", move || dial(&shared, router, address, &client))?;
    }
    let result = wait([Want { fd: shared.control.as_fd(), read: false, write: false }], None);
    shared.connections.stop();
    drop(stopper);
    result.map(drop).map_err(RunError::from)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).stack_size(STACK_LEN).spawn(work).map(drop)
}

/// Accepts connections until the process is to end.
fn listen<L: Fn(&Notice) + Send + Sync + 'static>(shared: &Arc<Shared<L>>, listener: &TcpListener) {
    let mut has_failed = false;
    loop {
        let wants = [
            Want { fd: shared.stop.as_fd(), read: false, write: false },
            Want { fd: listener.as_fd(), read: true, write: false },
        ];
        if !matches!(wait(wants, None), Ok([stopped, _]) if stopped == Ready::default()) {
            return;
        }
        let result = listener.accept().and_then(|(tcp, address)| begin(shared, tcp, address));
        match result {
            Ok(()) => has_failed = false,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted) => {}
            Err(error) => {
                if !std::mem::replace(&mut has_failed, true) {
                    (shared.log)(&Notice::CannotAccept(error));
                }
                if !shared.connections.sleep(ACCEPT_PAUSE) {
                    return;
                }
            }
        }
    }
}

/// Gives an accepted connection a thread.
fn begin<L: Fn(&Notice) + Send + Sync + 'static>(
    shared: &Arc<Shared<L>>,
    tcp: TcpStream,
    address: SocketAddr,
) -> io::Result<()> {
    let tcp = Arc::new(tcp);
    let (place, has_closed_another) = shared.connections.begin(&tcp, address.ip());
    if has_closed_another {
        shared.tell_stranger(|_| Notice::TooManyHalfOpen);
    }
    let theirs = Arc::clone(shared);
    spawn("trunk", move || {
        if let Err(error) = theirs.accepted(&tcp, place) {
            theirs.tell_stranger(|others| Notice::Refused { address, error, others });
        }
    })
}

/// Dials a neighbour whenever there is no connection with it, until the process is to end.
fn dial<L: Fn(&Notice) + Send + Sync + 'static>(
    shared: &Shared<L>,
    router: RouterId,
    address: SocketAddr,
    client: &Arc<ClientConfig>,
) {
    let mut back_off = BackOff::default();
    let mut told: Option<String> = None;
    while shared.connections.wait_until_down(router) {
        // Nothing that a neighbour sends may end the dialling.
        let result = catch_unwind(AssertUnwindSafe(|| shared.dial_once(router, address, client)));
        let longest = match result.unwrap_or(Err(HandshakeError::Panicked)) {
            Ok(is_kept) => {
                told = None;
                // Where the other side keeps another connection, that will be known here soon.
                if is_kept {
                    back_off.reset();
                }
                LONGEST
            }
            Err(error) => {
                let is_refused =
                    !matches!(error, HandshakeError::Socket(_) | HandshakeError::TimedOut | HandshakeError::Closed);
                let text = error.to_string();
                if told.as_ref() != Some(&text) {
                    (shared.log)(&Notice::DialFailed { router, address, error });
                    told = Some(text);
                }
                if is_refused { LONGEST_REFUSED } else { LONGEST }
            }
        };
        if !shared.connections.sleep(back_off.pause(longest)) {
            return;
        }
    }
}

impl<L: Fn(&Notice) + Send + Sync + 'static> Shared<L> {
    /// Shakes hands with who has connected, and carries frames if it is a neighbour.
    fn accepted(&self, tcp: &Arc<TcpStream>, place: Place) -> Result<(), HandshakeError> {
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        prepare(tcp)?;
        let mut stream = Stream::server(Arc::clone(&self.server))?;
        let key = shake(tcp, &mut stream, deadline, self.stop())?;
        drop(place);
        let router = key.router_id().ok_or(HandshakeError::Protocol)?;
        let admitted = self.admit(router, false, tcp);
        answer(tcp, &mut stream, admitted.is_some(), deadline, self.stop())?;
        if let Some(admitted) = admitted {
            self.carry(tcp, stream, router, false, admitted);
        }
        Ok(())
    }

    /// Returns true if there was a connection, which has ended; false if another one with this neighbour stays.
    fn dial_once(
        &self,
        router: RouterId,
        address: SocketAddr,
        client: &Arc<ClientConfig>,
    ) -> Result<bool, HandshakeError> {
        let tcp = Arc::new(TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?);
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        prepare(&tcp)?;
        self.choose_congestion_control(tcp.as_fd());
        let mut stream = Stream::client(Arc::clone(client), address.ip())?;
        shake(&tcp, &mut stream, deadline, self.stop())?;
        if !hear(&tcp, &mut stream, deadline, self.stop())? {
            return Ok(false);
        }
        let Some(admitted) = self.admit(router, true, &tcp) else { return Ok(false) };
        self.carry(&tcp, stream, router, true, admitted);
        Ok(true)
    }

    /// Has a connection with a neighbour be the one that there is. `None` if it isn't.
    fn admit(&self, router: RouterId, has_dialled: bool, tcp: &Arc<TcpStream>) -> Option<Admitted<'_>> {
        match self.connections.admit(router, has_dialled, tcp, Instant::now()) {
            Admission::Admitted(admitted) => Some(admitted),
            Admission::NotNeeded => None,
            Admission::TooMany { is_news } => {
                if is_news {
                    (self.log)(&Notice::TooManyConnections { router });
                }
                None
            }
        }
    }

    /// Gives the router a socket, and carries frames until one side ends.
    fn carry(&self, tcp: &Arc<TcpStream>, stream: Stream, router: RouterId, has_dialled: bool, admitted: Admitted<'_>) {
        let address = tcp.peer_addr().map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()));
        let address = address.unwrap_or(SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0));
        match self.hand(Handed { router, has_dialled, address }) {
            Ok(own) => {
                (self.log)(&Notice::Connected { router, address, has_dialled });
                let end = pump::run(tcp, stream, own, self.stop());
                if admitted.end() {
                    (self.log)(&Notice::Ended { router, end });
                }
            }
            Err(error) => (self.log)(&Notice::Handing(error)),
        }
    }

    /// Makes two sockets, gives one to the router, and returns the other one.
    fn hand(&self, handed: Handed) -> io::Result<OwnedFd> {
        let (own, routers) = message_pair()?;
        // Room for the longest message, whatever the default of the machine is.
        for end in [&own, &routers] {
            set_send_buffer(end.as_fd(), MAX_MESSAGE_LEN);
        }
        loop {
            match send_with_descriptor(self.control.as_fd(), &handed.encode(), routers.as_fd()) {
                Ok(_) => return Ok(own),
                Err(Errno::EINTR) => {}
                // No router reads at present: the next one will.
                Err(Errno::EAGAIN | Errno::ETOOMANYREFS) => {
                    if !self.connections.sleep(ACCEPT_PAUSE) {
                        return Err(Errno::ECANCELED.into());
                    }
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn stop(&self) -> BorrowedFd<'_> {
        self.stop.as_fd()
    }

    /// Uses BBR where the kernel has it. Connections have that of their listener.
    fn choose_congestion_control(&self, socket: BorrowedFd<'_>) {
        if self.has_bbr
            && let Err(errno) = set_congestion_control(socket, BBR)
        {
            let error = errno.into();
            self.has_told_congestion.call_once(|| (self.log)(&Notice::CongestionControl { name: BBR, error }));
        }
    }

    /// Writes a line that strangers can cause, but seldom. `notice` makes it from the number of those that were left out.
    fn tell_stranger(&self, notice: impl FnOnce(u64) -> Notice) {
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        if strangers.told.is_some_and(|told| told.elapsed() < STRANGER_PERIOD) {
            strangers.left_out += 1;
            return;
        }
        strangers.told = Some(Instant::now());
        let left_out = std::mem::take(&mut strangers.left_out);
        drop(strangers);
        (self.log)(&notice(left_out));
    }
}

fn prepare(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nonblocking(true)?;
    prepare_trunk(tcp.as_fd())?;
    Ok(())
}
