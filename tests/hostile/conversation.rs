//! A TCP connection that lives as long as its test: messages go to an honest vassal and come back.

use std::io::{Read, Result, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use crate::common::netns::Net;
use crate::common::wait;

const PORT: u16 = 7010;
const MESSAGE: [u8; 3000] = [0x5a; 3000];
const PAUSE: Duration = Duration::from_millis(10);

#[derive(Debug, Default)]
struct Progress {
    done: AtomicBool,
    round_trips: AtomicU64,
    longest_micros: AtomicU64,
}

#[derive(Debug)]
pub struct Conversation {
    progress: Arc<Progress>,
    talker: Option<JoinHandle<Result<()>>>,
    echoer: Option<JoinHandle<Result<()>>>,
}

impl Conversation {
    /// Between a client and a server that listens on `address`.
    #[track_caller]
    pub fn start(client: &Net, server: &Net, address: Ipv4Addr) -> Self {
        let listener = server.run(|| TcpListener::bind((address, PORT))).expect("the server has its address");
        let mut near = client
            .run(|| TcpStream::connect_timeout(&SocketAddr::from((address, PORT)), wait::LONG))
            .expect("the server is reached");
        let (mut far, _) = listener.accept().expect("the connection");
        for stream in [&near, &far] {
            stream.set_nodelay(true).expect("an option can be set");
            stream.set_read_timeout(Some(wait::LONG)).expect("a timeout can be set");
            stream.set_write_timeout(Some(wait::LONG)).expect("a timeout can be set");
        }
        let progress = Arc::new(Progress::default());
        let echoer = thread::spawn(move || {
            let mut message = MESSAGE;
            loop {
                far.read_exact(&mut message)?;
                far.write_all(&message)?;
            }
        });
        let told = Arc::clone(&progress);
        let talker = thread::spawn(move || {
            let mut reply = [0; MESSAGE.len()];
            while !told.done.load(Ordering::Relaxed) {
                let start = Instant::now();
                near.write_all(&MESSAGE)?;
                near.read_exact(&mut reply)?;
                let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
                told.longest_micros.fetch_max(micros, Ordering::Relaxed);
                told.round_trips.fetch_add(1, Ordering::Relaxed);
                sleep(PAUSE);
            }
            Ok(())
        });
        Self { progress, talker: Some(talker), echoer: Some(echoer) }
    }

    pub fn round_trips(&self) -> u64 {
        self.progress.round_trips.load(Ordering::Relaxed)
    }

    /// The longest round trip since the last call.
    pub fn take_longest(&self) -> Duration {
        Duration::from_micros(self.progress.longest_micros.swap(0, Ordering::Relaxed))
    }

    /// Returns true if neither end has failed.
    pub fn is_alive(&self) -> bool {
        [&self.talker, &self.echoer].into_iter().flatten().all(|thread| !thread.is_finished())
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.progress.done.store(true, Ordering::Relaxed);
        // Its end of the connection is closed then, so that the other one ends, too.
        for thread in [self.talker.take(), self.echoer.take()].into_iter().flatten() {
            let _ = thread.join();
        }
    }
}
