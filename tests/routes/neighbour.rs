//! A neighbour that speaks BGP straight from the test: honest, careless or hostile.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tuntap_core::routes::settings::DEFAULT_ASN;
use tuntap_wire::bgp::capability::{AddPath, Capabilities};
use tuntap_wire::bgp::message::append_keepalive;
use tuntap_wire::bgp::open::Open;
use tuntap_wire::bgp::write::{Attributes, append_announcement, append_end_of_rib, append_withdrawal};
use tuntap_wire::bgp::{Family, PerFamily, claim};
use tuntap_wire::holding::Holding;

use crate::common::netns::Netns;
use crate::world::FEED;

pub const ASN: u32 = 64512;

#[derive(Debug)]
pub struct Neighbour {
    stream: TcpStream,
}

impl Neighbour {
    /// Connects, and says nothing.
    pub fn connect(netns: &Netns) -> std::io::Result<Self> {
        let address: SocketAddr = FEED.parse().expect("an address");
        let stream = netns.run(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)))?;
        stream.set_write_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self { stream })
    }

    /// Connects, and has a session.
    pub fn established(netns: &Netns) -> Self {
        let mut this = Self::connect(netns).expect("the router listens");
        let mut hello = open();
        append_keepalive(&mut hello);
        this.send(&hello);
        this
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the router takes bytes");
    }

    /// Announces addresses, with the connection as their holder's only mark.
    pub fn announce(&mut self, addresses: &[Ipv4Addr]) {
        let nets: Vec<IpNet> = addresses.iter().map(|address| IpNet::from(IpAddr::V4(*address))).collect();
        let next_hop = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 2));
        let attributes = Attributes { asn: ASN, next_hop, med: 1_700_000_000, large_communities: &[] };
        let mut rest = nets.as_slice();
        while !rest.is_empty() {
            let mut bytes = Vec::new();
            let done = append_announcement(&mut bytes, &attributes, rest);
            rest = &rest[done..];
            // A router that is busy with these must hear that the neighbour lives.
            append_keepalive(&mut bytes);
            self.send(&bytes);
        }
    }

    /// Announces an address with a claim of a router, and takes that back at once.
    pub fn flap(&mut self, address: Ipv4Addr, holding: Holding) {
        let (net, next_hop) = (IpNet::from(IpAddr::V4(address)), IpAddr::V4(Ipv4Addr::new(10, 99, 0, 2)));
        let large_communities = claim::encode(DEFAULT_ASN, holding);
        let attributes =
            Attributes { asn: ASN, next_hop, med: holding.since.seconds(), large_communities: &large_communities };
        let mut bytes = Vec::new();
        append_announcement(&mut bytes, &attributes, &[net]);
        append_withdrawal(&mut bytes, Family::Ipv4, &[net]);
        self.send(&bytes);
    }

    pub fn end_of_rib(&mut self) {
        let mut bytes = Vec::new();
        Family::ALL.into_iter().for_each(|family| append_end_of_rib(&mut bytes, family));
        self.send(&bytes);
    }

    pub fn keepalive(&mut self) {
        let mut bytes = Vec::new();
        append_keepalive(&mut bytes);
        self.send(&bytes);
    }

    /// Returns true if the router closes the connection in time.
    pub fn is_closed_within(&mut self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let mut buffer = [0; 4096];
        self.stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a socket");
        while Instant::now() < deadline {
            match self.stream.read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return true,
            }
        }
        false
    }
}

/// The first message.
pub fn open() -> Vec<u8> {
    let mut bytes = Vec::new();
    let capabilities = Capabilities {
        families: PerFamily::new(|_| true),
        route_refresh: true,
        enhanced_route_refresh: true,
        four_octet_as: Some(ASN),
        add_path: PerFamily::new(|_| AddPath { receive: false, send: false }),
    };
    Open { asn: ASN, hold_time: 60, identifier: Ipv4Addr::new(10, 99, 0, 2), capabilities }.append(&mut bytes);
    bytes
}
