//! A TCP connection through the router that has to live on.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};

use super::netns::Net;
use super::wait;

/// Both ends of a connection.
pub struct Connection {
    near: TcpStream,
    far: TcpStream,
}

impl Connection {
    #[track_caller]
    pub fn open(from: &Net, to: &Net, address: impl Into<IpAddr>) -> Self {
        static PORT: AtomicU16 = AtomicU16::new(7100);
        let target = SocketAddr::from((address.into(), PORT.fetch_add(1, Ordering::Relaxed)));
        let listener = to.run(|| TcpListener::bind(target)).expect("the address is there");
        let near = from.run(|| TcpStream::connect_timeout(&target, wait::SHORT)).expect("the address is reached");
        let (far, _) = listener.accept().expect("the connection");
        for stream in [&near, &far] {
            stream.set_read_timeout(Some(wait::LONG)).expect("a timeout can be set");
        }
        Self { near, far }
    }

    /// Passes bytes both ways.
    #[track_caller]
    pub fn assert_passes(&mut self) {
        for _ in 0..2 {
            let sent = [0x5a; 5000];
            self.near.write_all(&sent).expect("the connection lives");
            let mut received = [0; 5000];
            self.far.read_exact(&mut received).expect("the connection passes bytes");
            assert_eq!(received, sent);
            std::mem::swap(&mut self.near, &mut self.far);
        }
    }
}
