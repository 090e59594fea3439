//! An HTTP client.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::netns::Net;

const TIMEOUT: Duration = Duration::from_secs(3);

/// Head and body of the response to a request from inside a namespace.
pub fn get(client: &Net, address: impl Into<SocketAddr>) -> std::io::Result<String> {
    let address = address.into();
    let mut stream = client.run(|| TcpStream::connect_timeout(&address, TIMEOUT))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(response)
}
