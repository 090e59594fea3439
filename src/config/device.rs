//! `tuntap-device`.

use super::error::Problem;
use super::parse;

/// One device of this instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceSpec {
    /// Name of the TUN device.
    pub name: String,
    /// The router's socket. Without one, the device is made and left alone.
    pub socket: Option<String>,
}

/// Reads `<device>[ <socket>]`. Everything behind the device is the socket's name, white space included.
pub fn parse(value: &str) -> Result<DeviceSpec, Problem> {
    let value = value.trim();
    let (name, socket) = match value.split_once(|letter: char| letter.is_ascii_whitespace()) {
        Some((name, socket)) => (name, Some(parse::unix_socket(socket.trim_start())?)),
        None => (value, None),
    };
    Ok(DeviceSpec { name: parse::device_name(name)?, socket })
}
