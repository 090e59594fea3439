//! What lets a packet pass, in the words of the program that made a chain.

use ipnet::IpNet;

use super::{DNS, Way};
use tuntap_config::{PortMapping, RouterSpec};
use tuntap_survey::filter::{BaseChain, Hook};

/// The lines for the operator that let these kinds of packets pass a chain.
pub fn remedy(chain: &BaseChain, router: &RouterSpec, ways: &[Way]) -> String {
    if chain.table == "inet firewalld" {
        return firewalld(router, ways);
    }
    let program = program(chain);
    let lines = |way: &Way| match &program {
        Some(program) => iptables(program, chain, router, *way),
        None => nft(chain, router, *way),
    };
    let mut all: Vec<String> = ways.iter().flat_map(lines).collect();
    if chain.others.keys().any(|name| name.starts_with("ufw")) {
        all.push(ufw(&router.device, ways));
    }
    all.join("\n")
}

/// The command of iptables that edits a chain, with the table if it isn't the usual one; `None` if iptables didn't make it.
fn program(chain: &BaseChain) -> Option<String> {
    let (family, table) = chain.table.split_once(' ')?;
    let program = match family {
        "ip" => "iptables",
        "ip6" => "ip6tables",
        "iptables-legacy" | "ip6tables-legacy" => family,
        _ => return None,
    };
    let is_of_iptables = chain.name == chain.hook.as_str() && ["filter", "mangle", "raw", "security"].contains(&table);
    is_of_iptables.then(|| if table == "filter" { program.to_owned() } else { format!("{program} -t {table}") })
}

/// Returns true if a packet's outgoing interface and its DNAT are known at a hook: behind the routing decision.
const fn is_behind_routes(hook: Hook) -> bool {
    matches!(hook, Hook::Forward | Hook::Output)
}

fn iptables(program: &str, chain: &BaseChain, router: &RouterSpec, way: Way) -> Vec<String> {
    let device = router.device.as_str();
    let is_behind_routes = is_behind_routes(chain.hook);
    let add = |rule: String| format!("{program} -I {} {rule}", chain.name);
    let of_port =
        |mapping: &PortMapping| add(format!("-p {} --dport {} -j ACCEPT", mapping.protocol.as_str(), mapping.port));
    vec![match way {
        Way::Out => add(format!("-i {device} -j ACCEPT")),
        Way::Back | Way::Answer => {
            let to = if is_behind_routes { format!("-o {device} ") } else { String::new() };
            add(format!("{to}-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"))
        }
        Way::Port if is_behind_routes => add(format!("-o {device} -m conntrack --ctstate DNAT -j ACCEPT")),
        Way::Port => return router.ports.iter().map(of_port).collect(),
        Way::Question(protocol) => add(format!("-i {device} -p {} --dport {DNS} -j ACCEPT", protocol.as_str())),
        Way::Gateway(port) => add(format!("-p udp --dport {port} -j ACCEPT")),
    }]
}

fn nft(chain: &BaseChain, router: &RouterSpec, way: Way) -> Vec<String> {
    let device = router.device.as_str();
    let is_behind_routes = is_behind_routes(chain.hook);
    let add = |rule: String| format!("nft insert rule {} {} {rule}", chain.table, chain.name);
    let of_port = |mapping: &PortMapping| add(format!("{} dport {} accept", mapping.protocol.as_str(), mapping.port));
    vec![match way {
        Way::Out => add(format!("iifname {device} accept")),
        Way::Back | Way::Answer => {
            let to = if is_behind_routes { format!("oifname {device} ") } else { String::new() };
            add(format!("{to}ct state established,related accept"))
        }
        Way::Port if is_behind_routes => add(format!("oifname {device} ct status dnat accept")),
        Way::Port => return router.ports.iter().map(of_port).collect(),
        Way::Question(protocol) => add(format!("iifname {device} {} dport {DNS} accept", protocol.as_str())),
        Way::Gateway(port) => add(format!("udp dport {port} accept")),
    }]
}

/// The commands of firewalld. It makes its rules anew at each reload, so that rules added by other programs are lost.
fn firewalld(router: &RouterSpec, ways: &[Way]) -> String {
    let device = &router.device;
    let mut lines: Vec<String> = Vec::new();
    if ways.iter().any(|way| matches!(way, Way::Out | Way::Back | Way::Port)) {
        lines.push(format!("firewall-cmd --permanent --zone=trusted --add-interface={device}; firewall-cmd --reload"));
    } else if ways.iter().any(|way| matches!(way, Way::Question(_))) {
        lines.extend(router.addresses.iter().map(IpNet::trunc).map(|net| {
            let family = if net.addr().is_ipv6() { "ipv6" } else { "ipv4" };
            format!(
                "firewall-cmd --permanent --add-rich-rule='rule family={family} source address={net} service name=dns \
                 accept'; firewall-cmd --reload"
            )
        }));
    }
    lines.extend(ways.iter().find_map(|way| match way {
        Way::Gateway(port) => Some(format!("firewall-cmd --permanent --add-port={port}/udp; firewall-cmd --reload")),
        _ => None,
    }));
    lines.join("\n")
}

/// The commands of ufw, beside those for the chain itself.
fn ufw(device: &str, ways: &[Way]) -> String {
    let mut lines: Vec<String> = Vec::new();
    if ways.iter().any(|way| matches!(way, Way::Out | Way::Back | Way::Port)) {
        lines.push(format!("ufw route allow in on {device}; ufw route allow out on {device}"));
    }
    if ways.iter().any(|way| matches!(way, Way::Question(_))) {
        lines.push(format!("ufw allow in on {device} to any port {DNS}"));
    }
    lines.extend(ways.iter().find_map(|way| match way {
        Way::Gateway(port) => Some(format!("ufw allow {port}/udp")),
        _ => None,
    }));
    format!("(ufw: {})", lines.join("; "))
}
