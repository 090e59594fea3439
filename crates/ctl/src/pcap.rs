//! Files of captured packets.
//!
//! pcapng (<https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html>) has an interface for each vassal and comments of packets.
//! The older pcap (<https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-05.html>) has neither, for what reads nothing else.

use std::collections::HashMap;
use std::io::{self, Write};

use tuntap_api::control::{CapturedPacket, CapturedPeer, Direction};

use crate::text::escaped;

/// LINKTYPE_RAW: IPv4 or IPv6, as the first four bits say (<https://www.tcpdump.org/linktypes.html>).
const LINKTYPE_RAW: u16 = 101;

/// The most interfaces of a file. Vassals beyond share that of packets without a vassal.
const MAX_INTERFACES: usize = 1 << 16;

/// Longest text of an option, in bytes: its length has 16 bits, and a comment is of a few words.
const MAX_TEXT: usize = 1000;

mod block {
    pub const SECTION_HEADER: u32 = 0x0a0d_0d0a;
    pub const INTERFACE_DESCRIPTION: u32 = 1;
    pub const INTERFACE_STATISTICS: u32 = 5;
    pub const ENHANCED_PACKET: u32 = 6;
}

mod option {
    pub const END: u16 = 0;
    pub const COMMENT: u16 = 1;
    pub const IF_NAME: u16 = 2;
    pub const IF_DESCRIPTION: u16 = 3;
    pub const IF_TSRESOL: u16 = 9;
    pub const EPB_FLAGS: u16 = 2;
    pub const EPB_DROPCOUNT: u16 = 4;
    pub const ISB_IFDROP: u16 = 5;
    pub const SHB_USERAPPL: u16 = 4;
}

/// The form of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// With an interface for each vassal, and verdict, reason and rule as comments: for Wireshark and tshark
    #[default]
    Pcapng,
    /// Packets alone, for tcpdump and what else knows no pcapng
    Pcap,
}

/// A file in the making.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    format: Format,
    snap_len: u32,
    /// By the number of a vassal's connection.
    interfaces: HashMap<u64, u32>,
    /// Packets that were left out in all, and since the last one.
    left_out: u64,
    left_out_before: u64,
    /// When the last packet was captured, in nanoseconds since 1970.
    last: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a file. `device` is the router's; packets without a vassal belong to it.
    ///
    /// # Errors
    /// It can't be written.
    pub fn begin(out: W, format: Format, device: &str, snap_len: u32) -> io::Result<Self> {
        let (interfaces, last) = (HashMap::new(), 0);
        let mut this = Self { out, format, snap_len, interfaces, left_out: 0, left_out_before: 0, last };
        match format {
            Format::Pcapng => {
                let mut body = Body::default();
                // The byte order's mark, the version 1.0, and a section without a known length.
                body.u32(0x1a2b_3c4d).u16(1).u16(0).u64(u64::MAX);
                body.text(option::SHB_USERAPPL, concat!("uwsgi-tuntap ", env!("CARGO_PKG_VERSION"))).end_options();
                this.block(block::SECTION_HEADER, &body)?;
                this.interface(device, "the router: packets of no vassal")?;
            }
            Format::Pcap => {
                let mut body = Body::default();
                // The mark of times in nanoseconds, the version 2.4, two unused fields, and nothing behind packets.
                body.u32(0xa1b2_3c4d).u16(2).u16(4).u32(0).u32(0).u32(snap_len).u32(LINKTYPE_RAW.into());
                this.out.write_all(&body.0)?;
            }
        }
        Ok(this)
    }

    /// Notes that so many packets were left out before the next one.
    pub const fn leave_out(&mut self, count: u64) {
        self.left_out = self.left_out.saturating_add(count);
        self.left_out_before = self.left_out_before.saturating_add(count);
    }

    /// Returns how many packets were left out.
    pub const fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Writes a packet, of which these bytes were captured.
    ///
    /// # Errors
    /// It can't be written.
    pub fn packet(&mut self, packet: &CapturedPacket, bytes: &[u8]) -> io::Result<()> {
        self.last = packet.time.saturating_mul(1_000_000_000).saturating_add(packet.nanos.into());
        let taken = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        if self.format == Format::Pcap {
            let mut record = Body::default();
            // Seconds have 32 bits in this format.
            #[allow(clippy::cast_possible_truncation)]
            record.u32(packet.time as u32).u32(packet.nanos).u32(taken).u32(packet.len.max(taken)).bytes(bytes);
            return self.out.write_all(&record.0);
        }
        let interface = packet.peer.as_ref().map_or(Ok(0), |peer| self.interface_of(peer))?;
        let mut body = Body::default();
        body.u32(interface).time(self.last).u32(taken).u32(packet.len.max(taken)).padded(bytes);
        body.text(option::COMMENT, &comment(packet));
        body.option(option::EPB_FLAGS, &direction_flags(packet.direction).to_le_bytes());
        let left_out = std::mem::take(&mut self.left_out_before);
        if left_out > 0 {
            body.option(option::EPB_DROPCOUNT, &left_out.to_le_bytes());
        }
        body.end_options();
        self.block(block::ENHANCED_PACKET, &body)
    }

    /// Ends the file with the number of packets that were left out.
    ///
    /// # Errors
    /// It can't be written.
    pub fn finish(&mut self) -> io::Result<()> {
        if self.format == Format::Pcapng {
            let mut body = Body::default();
            body.u32(0).time(self.last).option(option::ISB_IFDROP, &self.left_out.to_le_bytes()).end_options();
            self.block(block::INTERFACE_STATISTICS, &body)?;
        }
        self.flush()
    }

    /// Hands over what was written.
    ///
    /// # Errors
    /// It can't be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// The number of a vassal's interface, which is described when its first packet comes.
    fn interface_of(&mut self, peer: &CapturedPeer) -> io::Result<u32> {
        if let Some(number) = self.interfaces.get(&peer.connection) {
            return Ok(*number);
        }
        if self.interfaces.len() >= MAX_INTERFACES {
            return Ok(0);
        }
        let name = peer.address.map_or_else(|| format!("pid {}", peer.pid), |address| address.to_string());
        self.interface(&name, &format!("vassal: pid {}, uid {}", peer.pid, peer.uid))?;
        // The first interface is the router's.
        let number = u32::try_from(self.interfaces.len() + 1).unwrap_or_default();
        self.interfaces.insert(peer.connection, number);
        Ok(number)
    }

    fn interface(&mut self, name: &str, description: &str) -> io::Result<()> {
        let mut body = Body::default();
        body.u16(LINKTYPE_RAW).u16(0).u32(self.snap_len);
        // Times are in nanoseconds: ten to the power of -9.
        body.text(option::IF_NAME, name).text(option::IF_DESCRIPTION, description).option(option::IF_TSRESOL, &[9]);
        body.end_options();
        self.block(block::INTERFACE_DESCRIPTION, &body)
    }

    fn block(&mut self, kind: u32, body: &Body) -> io::Result<()> {
        let len = u32::try_from(body.0.len() + 12).map_err(io::Error::other)?;
        let mut block = Body(Vec::with_capacity(body.0.len() + 12));
        block.u32(kind).u32(len).bytes(&body.0).u32(len);
        self.out.write_all(&block.0)
    }
}

/// The inside of a block, in little-endian byte order.
#[derive(Debug, Default)]
struct Body(Vec<u8>);

impl Body {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// A time in nanoseconds, the upper half first.
    #[allow(clippy::cast_possible_truncation)] // both halves are written
    fn time(&mut self, nanos: u64) -> &mut Self {
        self.u32((nanos >> 32) as u32).u32(nanos as u32)
    }

    /// Bytes, and zeros up to a multiple of four.
    fn padded(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes(bytes).bytes(&[0; 3][..(4 - bytes.len() % 4) % 4])
    }

    fn option(&mut self, code: u16, value: &[u8]) -> &mut Self {
        // Values are numbers and cut texts.
        self.u16(code).u16(u16::try_from(value.len()).unwrap_or_default()).padded(value)
    }

    fn text(&mut self, code: u16, text: &str) -> &mut Self {
        let end = (0..=text.len().min(MAX_TEXT)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        self.option(code, &text.as_bytes()[..end])
    }

    fn end_options(&mut self) -> &mut Self {
        self.option(option::END, &[])
    }
}

/// Bits 0 and 1 of epb_flags, as the vassal sees it: 1 is inbound, 2 is outbound.
const fn direction_flags(direction: Direction) -> u32 {
    match direction {
        Direction::In => 1,
        Direction::Out => 2,
    }
}

/// What became of a packet, and why.
pub fn comment(packet: &CapturedPacket) -> String {
    let mut words = vec![format!("verdict={}", escaped(&packet.verdict))];
    words.extend(packet.reason.as_ref().map(|reason| format!("reason={}", escaped(reason))));
    words.extend(packet.rule.map(|rule| format!("rule={rule}")));
    words.extend(packet.peer_rule.map(|rule| format!("peer_rule={rule}")));
    words.extend(packet.to.as_ref().map(|to| format!("to={}", escaped(&to.replace(' ', ":")))));
    words.extend((packet.segments > 1).then(|| format!("segments={}", packet.segments)));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(connection: Option<u64>, reason: Option<&str>) -> CapturedPacket {
        CapturedPacket {
            time: 0x1_0000_0001,
            nanos: 5,
            direction: Direction::Out,
            peer: connection.map(|connection| CapturedPeer {
                connection,
                pid: 7,
                uid: 1000,
                address: Some([10, 0, 0, 2].into()),
            }),
            src: None,
            src_port: None,
            dst: None,
            dst_port: None,
            protocol: None,
            verdict: if reason.is_some() { "deny" } else { "allow" }.to_owned(),
            to: reason.is_none().then(|| "gateway 192.0.2.1:5000".to_owned()),
            reason: reason.map(str::to_owned),
            rule: Some(9),
            peer_rule: None,
            segments: 2,
            len: 1500,
            data: String::new(),
        }
    }

    /// Types and bodies of the blocks; lengths must be the same at both ends and multiples of four.
    fn blocks(file: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let number = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().expect("four bytes"));
        let (mut at, mut blocks) = (0, Vec::new());
        while at < file.len() {
            let len = number(at + 4) as usize;
            assert!(len.is_multiple_of(4) && number(at + len - 4) as usize == len, "block at {at}");
            blocks.push((number(at), file[at + 8..at + len - 4].to_vec()));
            at += len;
        }
        blocks
    }

    #[test]
    fn each_vassal_has_an_interface_that_comes_before_its_packets() {
        let mut file = Vec::new();
        let mut writer = Writer::begin(&mut file, Format::Pcapng, "emperor0", 128).expect("memory");
        for connection in [Some(5), None, Some(6), Some(5)] {
            writer.packet(&packet(connection, None), &[0x45; 30]).expect("memory");
        }
        writer.leave_out(3);
        writer.packet(&packet(Some(6), Some("firewall")), &[0x45; 33]).expect("memory");
        writer.finish().expect("memory");
        let blocks = blocks(&file);
        let kinds: Vec<_> = blocks.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [block::SECTION_HEADER, 1, 1, 6, 6, 1, 6, 6, 6, 5]);
        let interfaces: Vec<_> = blocks.iter().filter(|(kind, _)| *kind == 6).map(|(_, body)| body[0]).collect();
        assert_eq!(interfaces, [1, 0, 2, 1, 2]);
        let (_, last) = &blocks[8];
        let has = |bytes: &[u8]| last.windows(bytes.len()).any(|window| window == bytes);
        assert!(has(b"verdict=deny reason=firewall rule=9 segments=2"));
        assert!(has(&[4, 0, 8, 0, 3, 0, 0, 0, 0, 0, 0, 0]), "packets were left out before it");
        assert!(has(&[2, 0, 4, 0, 2, 0, 0, 0]), "it is outbound");
        assert!(comment(&packet(None, None)).ends_with("to=gateway:192.0.2.1:5000 segments=2"));
    }

    #[test]
    fn pcap_has_headers_and_records_alone() {
        let mut file = Vec::new();
        let mut writer = Writer::begin(&mut file, Format::Pcap, "emperor0", 128).expect("memory");
        writer.packet(&packet(Some(5), None), &[0x45; 30]).expect("memory");
        writer.finish().expect("memory");
        assert_eq!(file.len(), 24 + 16 + 30);
        assert_eq!(file[..4], [0x4d, 0x3c, 0xb2, 0xa1]);
        assert_eq!(file[24..40], [1, 0, 0, 0, 5, 0, 0, 0, 30, 0, 0, 0, 0xdc, 5, 0, 0]);
    }

    #[test]
    fn hostile_text_is_cut_and_escaped() {
        let hostile = CapturedPacket { verdict: "x\n\u{1b}[2J".repeat(50_000), ..packet(None, None) };
        assert!(!comment(&hostile).contains(['\n', '\u{1b}']));
        let mut file = Vec::new();
        let mut writer = Writer::begin(&mut file, Format::Pcapng, &"\u{e4}".repeat(5000), 128).expect("memory");
        writer.packet(&hostile, &[]).expect("memory");
        assert_eq!(blocks(&file).len(), 3);
    }
}
