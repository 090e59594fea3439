//! Traffic from inside namespaces, as an application would cause it.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use super::netns::Net;

const TIMEOUT: Duration = Duration::from_secs(10);
const TCP_PORT: u16 = 7007;

/// How many of `count` pings are answered, at the latest some seconds after the last one: a busy machine is slow, not
/// lossy. `options` go to ping(8) as they are.
pub fn pings_answered(net: &Net, to: impl Into<IpAddr>, count: u32, options: &[&str]) -> u32 {
    let (count, to) = (count.to_string(), to.into().to_string());
    let mut program = vec!["ping", "-q", "-n", "-i", "0.05", "-W", "5", "-c", &count];
    program.extend(options);
    program.push(&to);
    let answered = || {
        let output = net.output(&program);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let received = text.split(", ").find_map(|part| part.strip_suffix(" received"));
        received.and_then(|number| number.parse().ok()).unwrap_or(0)
    };
    // Once there was an answer, ping(8) waits for the last ones no longer than two round trips, whatever -W says.
    match answered() {
        some if some > 0 && some.to_string() != count => some.max(answered()),
        none_or_all => none_or_all,
    }
}

/// Returns true if one of several pings is answered within seconds: a busy machine is slow.
pub fn is_reachable(net: &Net, to: impl Into<IpAddr>) -> bool {
    net.output(&["ping", "-q", "-n", "-i", "0.5", "-c", "1", "-w", "8", &to.into().to_string()]).status.success()
}

/// Returns true if a ping is not answered within a second.
pub fn is_cut_off(net: &Net, to: impl Into<IpAddr>) -> bool {
    pings_answered(net, to, 1, &["-W", "1"]) == 0
}

/// Sends `length` bytes over TCP from one namespace to another and has them sent back.
pub fn tcp_round_trip(server: &Net, address: impl Into<IpAddr>, client: &Net, length: usize) -> std::io::Result<bool> {
    let address = address.into();
    let listener = server.run(|| TcpListener::bind((address, TCP_PORT)))?;
    let sent: Vec<u8> = (0..length).map(|index| u8::try_from(index % 251).expect("below 251")).collect();
    let mut stream = client.run(|| TcpStream::connect_timeout(&SocketAddr::from((address, TCP_PORT)), TIMEOUT))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let (mut accepted, _) = listener.accept()?;
    accepted.set_read_timeout(Some(TIMEOUT))?;
    accepted.set_write_timeout(Some(TIMEOUT))?;
    thread::scope(|scope| {
        let reflect = scope.spawn(move || -> std::io::Result<()> {
            let mut received = Vec::new();
            accepted.read_to_end(&mut received)?;
            accepted.write_all(&received)?;
            accepted.shutdown(Shutdown::Write)
        });
        stream.write_all(&sent)?;
        stream.shutdown(Shutdown::Write)?;
        let mut returned = Vec::new();
        stream.read_to_end(&mut returned)?;
        reflect.join().expect("the reflecting thread does not panic")?;
        Ok(returned == sent)
    })
}

/// Returns true if the kernel took a UDP datagram that was sent inside `net`.
pub fn send_udp(net: &Net, to: Ipv4Addr, port: u16, payload: &[u8]) -> std::io::Result<usize> {
    net.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.send_to(payload, (to, port)))
}
