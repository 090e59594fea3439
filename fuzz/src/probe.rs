//! Packets with known fields.

use std::net::IpAddr;

use super::input::Input;

/// A packet and the fields that rules should see in it.
#[derive(Debug)]
pub struct Probe {
    /// The packet.
    pub bytes: Vec<u8>,
    /// Source.
    pub src: IpAddr,
    /// Destination, of the same version.
    pub dst: IpAddr,
    /// Its protocol; for a later fragment of IPv6, the next header that its fragment header names.
    pub protocol: u8,
    /// Its destination port, if the packet shows it.
    pub port: Option<u16>,
    /// True if a routing header sends it on from its destination.
    pub is_source_routed: bool,
}

/// Protocols of packets; the last one is IPv6's "no next header".
const PROTOCOLS: [u8; 8] = [1, 58, 6, 17, 132, 33, 47, 59];

impl Probe {
    /// Reads a packet: without payload, or with a payload, fragment and extension headers from the input.
    pub fn read(src: IpAddr, dst: IpAddr, has_services: bool, input: &mut Input<'_>) -> Self {
        let dst = of_version(dst, src);
        let kind = if has_services { input.byte() } else { 7 };
        let protocol = PROTOCOLS[usize::from(kind & 7)];
        let mut payload = Vec::new();
        let mut port = None;
        if [6, 17, 132, 33].contains(&protocol) {
            let number = input.byte();
            port = Some(u16::from(number));
            // Source port, destination port, and four more bytes.
            payload.extend([0, 9, 0, number, 0, 0, 0, 0]);
        }
        let fragment = kind >> 3 & 3;
        let mut probe = Self { bytes: Vec::new(), src, dst, protocol, port, is_source_routed: false };
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                // Unfragmented, unfragmented with "don't fragment", first fragment, later fragment.
                let fragment_field = [0, 0x4000, 0x2000, 0x0003][usize::from(fragment)];
                probe.write_v4(src.octets(), dst.octets(), fragment_field, &payload);
            }
            (src, dst) => {
                let extensions = if has_services { input.byte() } else { 0 };
                probe.write_v6([src, dst].map(octets), fragment, extensions, &payload);
            }
        }
        if fragment == 3 {
            probe.port = None;
        }
        probe
    }

    fn write_v4(&mut self, src: [u8; 4], dst: [u8; 4], fragment_field: u16, payload: &[u8]) {
        let len = u8::try_from(20 + payload.len()).expect("short");
        self.bytes = vec![0x45, 0, 0, len, 0, 0, 0, 0, 64, self.protocol, 0, 0];
        self.bytes[6..8].copy_from_slice(&fragment_field.to_be_bytes());
        self.bytes.extend(src);
        self.bytes.extend(dst);
        self.bytes.extend(payload);
    }

    /// Each bit of `extensions` adds an extension header, in the order of RFC 8200, section 4.1.
    fn write_v6(&mut self, addresses: [[u8; 16]; 2], fragment: u8, extensions: u8, payload: &[u8]) {
        let has = |bit: u8| extensions & bit != 0;
        let is_later = fragment == 3;
        let mut headers: Vec<(u8, Vec<u8>)> = Vec::new();
        let options = vec![0, 0, 1, 4, 0, 0, 0, 0];
        if has(1) {
            headers.push((0, options.clone()));
        }
        if has(2) {
            headers.push((60, options.clone()));
        }
        if has(4) {
            // A routing header without or with segments left.
            self.is_source_routed = has(8);
            headers.push((43, vec![0, 0, 4, u8::from(has(8)), 0, 0, 0, 0]));
        }
        let behind = headers.len();
        if fragment > 0 {
            // An atomic fragment, a first fragment, a later fragment.
            let field = [[0, 0], [0, 1], [0, 0x19]][usize::from(fragment) - 1];
            headers.push((44, vec![0, 0, field[0], field[1], 0, 0, 0, 7]));
        }
        if has(16) {
            // The length of an authentication header counts units of four bytes, less two.
            headers.push((51, [&[0, 2][..], &[0; 14]].concat()));
        }
        if has(32) {
            headers.push((60, [&[0, 1, 1, 12][..], &[0; 12]].concat()));
        }
        let kinds: Vec<u8> = headers.iter().map(|(kind, _)| *kind).chain([self.protocol]).collect();
        let mut body = Vec::new();
        for ((_, mut header), next) in headers.into_iter().zip(&kinds[1..]) {
            header[0] = *next;
            body.extend(header);
        }
        body.extend(payload);
        if is_later {
            self.protocol = kinds[behind + 1];
        }
        let [high, low] = u16::try_from(body.len()).expect("short").to_be_bytes();
        self.bytes = vec![0x60, 0, 0, 0, high, low, kinds[0], 64];
        addresses.iter().for_each(|address| self.bytes.extend(address));
        self.bytes.extend(body);
    }
}

/// An address of the other address's version.
fn of_version(address: IpAddr, other: IpAddr) -> IpAddr {
    match (address, other) {
        (IpAddr::V4(address), IpAddr::V6(_)) => {
            IpAddr::from([0xfd00, 0x77, 0, 0, 0, 0, 0, u16::from(address.octets()[3])])
        }
        (IpAddr::V6(address), IpAddr::V4(_)) => IpAddr::from([10, 0, 0, address.octets()[15]]),
        _ => address,
    }
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}
