//! UPDATE messages, with as many prefixes in each as have room.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use super::attribute::{flag, kind};
use super::claim::{COMMUNITY_LEN, LargeCommunity};
use super::message::{self, Kind, MAX_BODY_LEN};
use super::{Family, UNICAST, prefix};

/// The most large communities that are written with a route.
pub const MAX_COMMUNITIES: usize = 16;

/// What a speaker says of routes that it announces, and that begin with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// The speaker's AS.
    pub asn: u32,
    /// Where packets are to go. Its family is that of the prefixes.
    pub next_hop: IpAddr,
    /// MULTI_EXIT_DISC.
    pub med: u32,
    /// Large communities; those after the first [`MAX_COMMUNITIES`] are left out.
    pub large_communities: &'a [LargeCommunity],
}

/// Appends one UPDATE that announces prefixes, as many as it has room for. Returns how many of them are done with: those
/// written, and those of the other family, which are skipped. That is at least one if there are any.
pub fn append_announcement(output: &mut Vec<u8>, attributes: &Attributes<'_>, nets: &[IpNet]) -> usize {
    let family = Family::of(attributes.next_hop);
    let mut done = 0;
    message::append(output, Kind::Update, |output| {
        let start = output.len();
        output.extend_from_slice(&[0, 0, 0, 0]);
        append_origin_and_path(output, attributes.asn);
        if let IpAddr::V4(next_hop) = attributes.next_hop {
            output.extend_from_slice(&[flag::TRANSITIVE, kind::NEXT_HOP, 4]);
            output.extend_from_slice(&next_hop.octets());
        }
        output.extend_from_slice(&[flag::OPTIONAL, kind::MULTI_EXIT_DISC, 4]);
        output.extend_from_slice(&attributes.med.to_be_bytes());
        append_communities(output, attributes.large_communities);
        if let IpAddr::V6(next_hop) = attributes.next_hop {
            done = append_reach(output, next_hop, nets, start + MAX_BODY_LEN);
        }
        let len = output.len() - start - 4;
        output[start + 2..start + 4].copy_from_slice(&field(len));
        if family == Family::Ipv4 {
            done = append_nets(output, family, nets, start + MAX_BODY_LEN);
        }
    });
    done
}

/// Appends one UPDATE that withdraws prefixes of a family, as many as it has room for. Returns the same as
/// [`append_announcement`].
pub fn append_withdrawal(output: &mut Vec<u8>, family: Family, nets: &[IpNet]) -> usize {
    let mut done = 0;
    message::append(output, Kind::Update, |output| {
        let start = output.len();
        match family {
            Family::Ipv4 => {
                output.extend_from_slice(&[0, 0]);
                // Two octets for the length of the attributes, of which there are none.
                done = append_nets(output, family, nets, start + MAX_BODY_LEN - 2);
                let len = output.len() - start - 2;
                output[start..start + 2].copy_from_slice(&field(len));
                output.extend_from_slice(&[0, 0]);
            }
            Family::Ipv6 => {
                output.extend_from_slice(&[0, 0, 0, 0]);
                let value = begin_long(output, kind::MP_UNREACH_NLRI);
                append_family(output, family);
                done = append_nets(output, family, nets, start + MAX_BODY_LEN);
                end_long(output, value);
                let len = output.len() - start - 4;
                output[start + 2..start + 4].copy_from_slice(&field(len));
            }
        }
    });
    done
}

/// Appends the mark that all routes of a family were announced (RFC 4724, section 2).
pub fn append_end_of_rib(output: &mut Vec<u8>, family: Family) {
    append_withdrawal(output, family, &[]);
}

fn append_origin_and_path(output: &mut Vec<u8>, asn: u32) {
    const IGP: u8 = 0;
    const AS_SEQUENCE: u8 = 2;
    output.extend_from_slice(&[flag::TRANSITIVE, kind::ORIGIN, 1, IGP]);
    output.extend_from_slice(&[flag::TRANSITIVE, kind::AS_PATH, 6, AS_SEQUENCE, 1]);
    output.extend_from_slice(&asn.to_be_bytes());
}

fn append_communities(output: &mut Vec<u8>, communities: &[LargeCommunity]) {
    let communities = &communities[..communities.len().min(MAX_COMMUNITIES)];
    let Ok(len @ 1..) = u8::try_from(COMMUNITY_LEN * communities.len()) else { return };
    output.extend_from_slice(&[flag::OPTIONAL | flag::TRANSITIVE, kind::LARGE_COMMUNITY, len]);
    for community in communities {
        for word in [community.asn, community.function, community.parameter] {
            output.extend_from_slice(&word.to_be_bytes());
        }
    }
}

fn append_family(output: &mut Vec<u8>, family: Family) {
    output.extend_from_slice(&family.afi().to_be_bytes());
    output.push(UNICAST);
}

fn append_reach(output: &mut Vec<u8>, next_hop: Ipv6Addr, nets: &[IpNet], end: usize) -> usize {
    let value = begin_long(output, kind::MP_REACH_NLRI);
    append_family(output, Family::Ipv6);
    output.push(16);
    output.extend_from_slice(&next_hop.octets());
    output.push(0);
    let done = append_nets(output, Family::Ipv6, nets, end);
    end_long(output, value);
    done
}

/// Appends prefixes of a family while `output` isn't longer than `end`, and returns how many are done with.
fn append_nets(output: &mut Vec<u8>, family: Family, nets: &[IpNet], end: usize) -> usize {
    for (done, net) in nets.iter().enumerate() {
        if Family::of(net.addr()) != family {
            continue;
        }
        if output.len() + prefix::encoded_len(net) > end {
            return done;
        }
        prefix::append(output, net);
    }
    nets.len()
}

/// Begins an optional attribute whose length isn't known yet. Returns where its value begins.
fn begin_long(output: &mut Vec<u8>, kind: u8) -> usize {
    output.extend_from_slice(&[flag::OPTIONAL | flag::EXTENDED_LENGTH, kind, 0, 0]);
    output.len()
}

fn end_long(output: &mut [u8], value: usize) {
    let len = output.len() - value;
    output[value - 2..value].copy_from_slice(&field(len));
}

/// A length as a field of two octets. No part of a message is longer than that.
fn field(len: usize) -> [u8; 2] {
    u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes()
}
