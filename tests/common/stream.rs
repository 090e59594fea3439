//! A TCP stream that goes on while something happens, and whose bytes are checked.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::netns::Net;
use super::wait;

const CHUNK: usize = 16 * 1024;
/// Between two chunks, so that the stream leaves the machine some time.
const PAUSE: Duration = Duration::from_millis(5);
/// Longer than TCP pauses after it has sent in vain for as long as tests cut it off.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running stream. Without an end it is ended on drop.
#[derive(Debug)]
pub struct Stream {
    is_ended: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    sender: Option<JoinHandle<std::io::Result<u64>>>,
    receiver: Option<JoinHandle<std::io::Result<u64>>>,
}

impl Stream {
    /// Opens it to an address of another namespace.
    #[track_caller]
    pub fn open(from: &Net, to: &Net, address: impl Into<IpAddr>) -> Self {
        static PORT: AtomicU16 = AtomicU16::new(7300);
        let target = SocketAddr::from((address.into(), PORT.fetch_add(1, Ordering::Relaxed)));
        let listener = to.run(|| TcpListener::bind(target)).expect("the address is there");
        let near = from.run(|| TcpStream::connect_timeout(&target, wait::LONG)).expect("the address is reached");
        let (far, _) = listener.accept().expect("the connection");
        near.set_write_timeout(Some(PATIENCE)).expect("a timeout can be set");
        far.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        let (is_ended, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (until, count) = (Arc::clone(&is_ended), Arc::clone(&received));
        let stream = Self {
            is_ended,
            received,
            sender: Some(thread::spawn(move || send(near, &until))),
            receiver: Some(thread::spawn(move || receive(far, &count))),
        };
        stream.wait_until_passing("the stream's first bytes");
        stream
    }

    /// Waits until bytes arrive, of which the last ones were sent after this was called.
    #[track_caller]
    pub fn wait_until_passing(&self, what: &str) {
        // What was on its way fits into the buffers of both ends.
        const BUFFERS: u64 = 64 * CHUNK as u64;
        let before = self.received.load(Ordering::Relaxed);
        let enough = if before == 0 { 1 } else { before + BUFFERS };
        wait::until_true(what, PATIENCE, || self.received.load(Ordering::Relaxed) >= enough);
    }

    /// Ends it, and demands that each byte has arrived.
    #[track_caller]
    pub fn end(mut self) {
        self.is_ended.store(true, Ordering::Relaxed);
        let [sent, received] = [self.sender.take(), self.receiver.take()]
            .map(|thread| thread.expect("it has not ended").join().expect("the bytes are the right ones"));
        assert_eq!(sent.expect("the connection lives"), received.expect("the connection lives"));
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.is_ended.store(true, Ordering::Relaxed);
    }
}

/// The byte at a place in the stream. A piece that is lost, doubled or moved does not fit.
fn byte_at(place: u64) -> u8 {
    (place ^ place >> 8 ^ place >> 16 ^ place >> 24).to_le_bytes()[0]
}

fn send(mut stream: TcpStream, is_ended: &AtomicBool) -> std::io::Result<u64> {
    let mut sent = 0;
    while !is_ended.load(Ordering::Relaxed) {
        let chunk: Vec<u8> = (sent..sent + CHUNK as u64).map(byte_at).collect();
        stream.write_all(&chunk)?;
        sent += CHUNK as u64;
        thread::sleep(PAUSE);
    }
    Ok(sent)
}

fn receive(mut stream: TcpStream, received: &AtomicU64) -> std::io::Result<u64> {
    let mut buffer = [0; CHUNK];
    let mut place = 0;
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(place);
        }
        for byte in &buffer[..count] {
            assert_eq!(*byte, byte_at(place), "the byte at {place}");
            place += 1;
        }
        received.store(place, Ordering::Relaxed);
    }
}
