//! A web server of few words, and what curl(1) gets from it.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::common::netns::Net;

const INTERVAL: Duration = Duration::from_millis(10);

/// Answers at a port, of both versions, until it is dropped.
pub struct Service {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    #[track_caller]
    pub fn start(net: &Net, port: u16) -> Self {
        let listener = net.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))).expect("a free port");
        listener.set_nonblocking(true).expect("own socket");
        let ended = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&ended);
        let thread = thread::spawn(move || serve(&listener, port, &until));
        Self { ended, thread: Some(thread) }
    }
}

fn serve(listener: &TcpListener, port: u16, ended: &AtomicBool) {
    while !ended.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((mut stream, _)) => {
                let timeout = Some(Duration::from_secs(1));
                let answer = format!("HTTP/1.0 200 OK\r\n\r\nthis is {port}");
                // A client that has gone is nothing to this server.
                let _ = stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(timeout));
                let _ = stream.read(&mut [0; 4096]).and_then(|_| stream.write_all(answer.as_bytes()));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(INTERVAL),
            Err(error) => panic!("accepting: {error}"),
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The page at an address, if curl gets one, within some seconds.
pub fn curl(from: &Net, address: impl Into<IpAddr>, port: u16) -> Option<String> {
    curl_within("10", from, address.into(), port)
}

/// The page at an address where there should be none, if curl gets one within a second.
pub fn curl_in_vain(from: &Net, address: impl Into<IpAddr>, port: u16) -> Option<String> {
    curl_within("1", from, address.into(), port)
}

fn curl_within(seconds: &str, from: &Net, address: IpAddr, port: u16) -> Option<String> {
    let url = match address {
        IpAddr::V4(address) => format!("http://{address}:{port}/"),
        IpAddr::V6(address) => format!("http://[{address}]:{port}/"),
    };
    let output = from.output(&["curl", "-g", "-s", "-m", seconds, &url]);
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
