//! Faults of a running router: its files are right, and its present state isn't.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;

use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn6, bind, listen, setsockopt, socket, sockopt,
};

use crate::common::emperor::{Emperor, EmperorIni};
use crate::common::netns::{Net, Netns};
use crate::common::processes::{freeze, send, thaw};
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::wait;
use crate::running::examine;
use crate::world::Verdict;

const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// A host with a way out, both versions, and an Emperor with NAT that is frozen, so that nobody mends what is done to it.
struct Live {
    emperor: Emperor,
}

impl Live {
    fn start(lines: &[&str]) -> Self {
        let netns = Netns::new().with_ipv6();
        for line in [
            "ip link set lo up",
            "ip link add eth0 type veth peer name eth1",
            "ip link set eth1 up; ip link set eth0 up",
            "ip addr add 203.0.113.2/24 dev eth0; ip route add default via 203.0.113.1",
            "ip -6 addr add 2001:db8::2/64 dev eth0 nodad; ip -6 route add default via 2001:db8::1",
        ] {
            shell(&netns, line);
        }
        let emperor = EmperorIni::bare(Uwsgi::usual(), Subject::Ours)
            .lines(&[
                "master = true",
                "emperor = {dir}/vassals",
                "emperor-use-clone = net",
                "tuntap-router = emperor0 {dir}/t.sock {dir}/stats.sock",
                "tuntap-router-address = 10.77.0.1/24",
                "tuntap-router-address = fd00:77::1/64",
                "tuntap-router-nat = eth0",
            ])
            .lines(lines)
            .start_in(netns);
        Self { emperor }
    }

    /// An Emperor whose master is stopped, because it would mend what the test changes.
    fn unattended(lines: &[&str]) -> Self {
        let live = Self::start(lines);
        freeze(live.emperor.master_pid());
        live
    }

    fn sh(&self, line: &str) {
        shell(&self.emperor.netns, line);
    }

    fn examine(&self) -> Verdict {
        let file = self.emperor.path("emperor.ini").to_string_lossy().into_owned();
        examine(&self.emperor, &[&file])
    }

    /// Starts a vassal with addresses of the router's choice.
    #[track_caller]
    fn vassal(&self) -> Net {
        let emperor = &self.emperor;
        let mark = emperor.log.mark();
        let text = format!(
            "[uwsgi]\n{}jailed = true\nmaster = true\ntuntap-device = uwsgi0 {{dir}}/t.sock auto\nuid = 20001\ngid = 20001\n\
             socket = 127.0.0.1:3031\n",
            emperor.uwsgi.plugin_lines(Subject::Ours)
        );
        std::fs::write(emperor.path("vassals/v1.ini"), emperor.in_dir(&text)).expect("own folder");
        emperor.wait_until_ready(mark, "v1");
        emperor.vassal_net("v1")
    }

    /// Fails unless this is the only thing that is wrong beside the stopped master.
    #[track_caller]
    fn is_wrong(&self, what: &str, remedy: &str) {
        let verdict = self.examine();
        assert_eq!(verdict.code, Some(1), "{}", verdict.text);
        verdict.has("WRONG", what, remedy);
        verdict.has("WRONG", &format!("pid {} (uwsgi", self.emperor.master_pid()), "kill -CONT");
        assert_eq!(verdict.text.matches("  WRONG ").count(), 2, "nothing else is wrong: {}", verdict.text);
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        thaw(self.emperor.master_pid());
    }
}

/// Runs lines of a shell in a namespace.
#[track_caller]
fn shell(net: &Net, line: &str) -> String {
    let output = net.output(&["sh", "-c", line]);
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Binds in the host's namespace, as a service of the host.
fn serve<T: Send>(live: &Live, bind: impl FnOnce() -> std::io::Result<T> + Send) -> T {
    live.emperor.netns.run(|| bind().expect("a free port"))
}

#[test]
fn router_that_runs_well_is_well() {
    let live = Live::start(&[]);
    let verdict = live.examine();
    verdict.is_well();
    verdict.has("ok", "device emperor0: up, with 10.77.0.1/24, fd00:77::1/64", "");
    verdict.has("ok", "nftables: the table inet tuntap-emperor0 is in place", "");
    verdict.has("ok", "peers of emperor0: 0 with addresses", "");
}

#[test]
fn device_that_somebody_changed_is_told() {
    for (change, what, remedy) in [
        ("ip link set emperor0 down", "device emperor0: is down", "ip link set emperor0 up"),
        (
            "ip -4 addr flush dev emperor0",
            "device emperor0: hasn't 10.77.0.1/24",
            "ip addr add 10.77.0.1/24 dev emperor0",
        ),
        ("ip addr del fd00:77::1/64 dev emperor0", "hasn't fd00:77::1/64", "ip addr add fd00:77::1/64 dev emperor0"),
        (
            "sysctl -qw net.ipv6.conf.emperor0.disable_ipv6=1",
            "IPv6 is turned off on it",
            "sysctl -w net.ipv6.conf.emperor0.disable_ipv6=0",
        ),
    ] {
        let live = Live::unattended(&[]);
        live.sh(change);
        // An interface that is down loses its IPv6 address, too.
        let verdict = live.examine();
        verdict.has("WRONG", what, remedy);
        assert_eq!(verdict.code, Some(1));
    }
    let live = Live::unattended(&["tuntap-router-mtu = 1400"]);
    live.sh("ip link set emperor0 mtu 1300");
    live.is_wrong("its MTU is 1300, and the file says 1400", "ip link set emperor0 mtu 1400");
}

/// The master listens, and only the router has the device open.
#[test]
fn router_that_has_made_its_device_again_runs_well() {
    let live = Live::start(&[]);
    let before = live.emperor.router_pid();
    live.sh("ip link del emperor0");
    wait::until_true("there is another router", wait::LONG, || {
        live.emperor.try_stats().is_ok_and(|stats| stats.router_pid() != before)
    });
    // The master restores the rest at its next look, a moment later.
    wait::until_true("all is well", wait::LONG, || {
        let verdict = live.examine();
        verdict.code == Some(0) && verdict.text.contains("device emperor0: the router's")
    });
}

/// A router that waits for the folder of its socket holds its device and its table.
#[test]
fn router_that_waits_for_its_sockets_folder_is_told() {
    let live = Live::start(&[]);
    let path = live.emperor.path("emperor.ini");
    let before = std::fs::read_to_string(&path).expect("own file");
    std::fs::write(&path, before.replace("/t.sock", "/none/t.sock")).expect("own file");
    let mark = live.emperor.log.mark();
    send(live.emperor.master_pid(), Signal::SIGHUP);
    live.emperor.log.wait_for_since(mark, "it is tried again, and its vassals wait", wait::LONG);
    wait::until_true("the router is told from others", wait::LONG, || {
        let text = live.examine().text;
        text.contains("there is no folder") && text.contains("device emperor0: the router's")
    });
    let text = live.examine().text;
    assert!(!text.contains("somebody else's") && !text.contains("stop that process"), "{text}");
}

/// The router still holds the device, but its vassals have no use of it there.
#[test]
fn device_that_was_moved_to_another_namespace_is_told() {
    let live = Live::unattended(&[]);
    let elsewhere = Netns::new();
    live.sh(&format!("ip link set emperor0 netns {}", elsewhere.name()));
    live.is_wrong("device emperor0: it isn't in this network namespace", "kill -HUP");
}

/// The table is as it was, and nobody has changed it.
#[test]
fn ipv6_that_is_turned_off_while_it_runs_is_told_as_that() {
    let live = Live::start(&[]);
    live.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
    let verdict = live.examine();
    verdict.has("warning", "IPv6 is off on this host", "net.ipv6.conf.all.disable_ipv6=0");
    verdict.has("ok", "nftables: the table inet tuntap-emperor0 is in place", "");
}

#[test]
fn forwarding_that_somebody_turned_off_is_told_by_family_and_interface() {
    let live = Live::unattended(&[]);
    live.sh("sysctl -qw net.ipv4.ip_forward=1; sysctl -qw net.ipv4.ip_forward=0");
    live.is_wrong(
        "net.ipv4.conf.emperor0.forwarding and net.ipv4.conf.eth0.forwarding are off",
        "sysctl -w net.ipv4.conf.emperor0",
    );
    live.sh("sysctl -qw net.ipv4.conf.emperor0.forwarding=1 net.ipv4.conf.eth0.forwarding=1");
    live.sh("for i in all eth0; do f=/proc/sys/net/ipv6/conf/$i/force_forwarding; [ ! -e $f ] || echo 0 >$f; done; \
         sysctl -qw net.ipv6.conf.all.forwarding=0");
    live.is_wrong("IPv6 doesn't pass between vassals and the world", "sysctl -w net.ipv6.conf.");
}

#[test]
fn file_that_changed_since_the_start_is_told() {
    let live = Live::start(&["tuntap-router-port = tcp 8080 10.77.0.2:80"]);
    let path = live.emperor.path("emperor.ini");
    let before = std::fs::read_to_string(&path).expect("own file");
    let change = |old: &str, new: &str| std::fs::write(&path, before.replace(old, new)).expect("own file");
    let reload = format!("kill -HUP {} ", live.emperor.master_pid());
    change("tuntap-router-port", "tuntap-router-port = udp 53 10.77.0.2:53\ntuntap-router-port");
    live.examine().is_wrong("the table inet tuntap-emperor0 isn't what this file makes", &reload);
    change("10.77.0.1/24", "10.77.0.9/24");
    live.examine().is_wrong("device emperor0: hasn't 10.77.0.9/24", &reload);
    change("tuntap-router-nat = eth0", "tuntap-router-mtu = 1400\ntuntap-router-nat = eth0");
    live.examine().is_wrong("its MTU is 1500, and the file says 1400", &reload);
}

#[test]
fn router_that_is_stopped_or_hangs_is_told() {
    let live = Live::start(&[]);
    let router = live.emperor.router_pid();
    // A running master would start another router.
    freeze(live.emperor.master_pid());
    send(router, Signal::SIGSTOP);
    let verdict = live.examine();
    let vassal = live.emperor.path("v.ini");
    let lines = "jailed = true\ntuntap-device = uwsgi0 {dir}/t.sock\n";
    let text = format!("[uwsgi]\n{}{lines}", live.emperor.uwsgi.plugin_lines(Subject::Ours));
    std::fs::write(&vassal, live.emperor.in_dir(&text)).expect("own folder");
    let of_vassal = examine(&live.emperor, &[&vassal.to_string_lossy()]);
    send(router, Signal::SIGCONT);
    of_vassal.is_wrong("takes no connection", "the router's log");
    verdict.has("WRONG", "router of emperor0: it hangs", "the router's log");
    verdict.has("WRONG", &format!("pid {router} (uwsgi"), &format!("kill -CONT {router}"));
}

#[test]
fn socket_file_that_is_gone_is_told() {
    let live = Live::start(&[]);
    std::fs::remove_file(live.emperor.socket()).expect("own folder");
    live.examine().is_wrong("t.sock is gone, so that no vassal finds it", "kill -HUP");
}

#[test]
fn input_chain_that_drops_questions_for_the_own_dns_server_is_told() {
    for (closes, place, remedy) in [
        ("iptables-nft -P INPUT DROP", "ip filter, chain INPUT", "iptables -I INPUT -i emperor0 -p udp --dport 53"),
        (
            "iptables-legacy -P INPUT DROP",
            "iptables-legacy filter, chain INPUT",
            "iptables-legacy -I INPUT -i emperor0 -p udp --dport 53",
        ),
        (
            "iptables-legacy -t mangle -A INPUT -i emperor0 -j DROP",
            "iptables-legacy mangle, chain INPUT",
            "iptables-legacy -t mangle -I INPUT",
        ),
        (
            "iptables-nft -t raw -A PREROUTING -p udp --dport 53 -j DROP",
            "ip raw, chain PREROUTING",
            "iptables -t raw -I",
        ),
        (
            "nft add table inet a; nft add chain inet a in '{ type filter hook input priority 0; policy accept; }'; \
             nft add table inet b; nft add chain inet b in '{ type filter hook input priority 10; policy drop; }'; \
             nft add rule inet b in iifname lo accept; nft add rule inet b in tcp dport '{ 22, 80-90 }' accept; \
             nft add rule inet b in ct state established,related accept; nft add rule inet b in ip protocol icmp accept",
            "inet b, chain in",
            "nft insert rule inet b in iifname emperor0 udp dport 53 accept",
        ),
    ] {
        let live = Live::start(&["tuntap-router-dns = 10.77.0.1"]);
        let _server = serve(&live, || UdpSocket::bind((ROUTER, 53)));
        live.examine().is_well();
        live.sh(closes);
        let verdict = live.examine();
        verdict.is_wrong(&format!("{place}: drops questions by udp from emperor0"), remedy);
        let remedies = verdict.text.lines().filter_map(|line| line.trim_start().strip_prefix("-> "));
        let program = remedy.split_whitespace().next().expect("a command");
        remedies.filter(|line| line.starts_with(program)).for_each(|line| live.sh(line));
        live.examine().is_well();
    }
    // This one is for IPv6 only.
    let live = Live::start(&["tuntap-router-dns = 10.77.0.1", "tuntap-router-dns = fd00:77::1"]);
    let _server = serve(&live, || UdpSocket::bind(("::", 53)));
    live.sh("ip6tables -P INPUT DROP; ip6tables -A INPUT -p ipv6-icmp -j ACCEPT");
    live.examine()
        .is_wrong("ip6 filter, chain INPUT: drops questions", "ip6tables -I INPUT -i emperor0 -p udp --dport 53");
}

#[test]
fn input_chain_that_lets_questions_pass_is_understood() {
    for rules in [
        "udp dport 53 accept; tcp dport domain accept",
        "ip saddr 10.77.0.0/24 accept",
        "iifname \"emp*\" meta l4proto { tcp, udp } th dport { 22, 53 } accept",
        "ip daddr 10.77.0.1 udp dport 50-60 accept",
        "ip saddr { 10.0.0.0/8, 192.168.0.0/16 } accept",
        "ip saddr 10.99.0.1 ip daddr 10.99.0.2 drop; udp sport 67 udp dport 68 drop; ip daddr 10.77.0.1 accept",
        "fib daddr type local udp dport vmap { 1-52 : drop, 53 : accept }",
    ] {
        let live = Live::start(&["tuntap-router-dns = 10.77.0.1"]);
        let _server = serve(&live, || UdpSocket::bind((ROUTER, 53)));
        let mut script =
            "add table inet f\nadd chain inet f in { type filter hook input priority 0; policy drop; }\n".to_owned();
        script.extend(rules.split("; ").map(|rule| format!("add rule inet f in {rule}\n")));
        let path = live.emperor.path("rules.nft");
        std::fs::write(&path, script).expect("own folder");
        live.sh(&format!("nft -f {}", path.display()));
        let verdict = live.examine();
        assert_eq!(verdict.code, Some(0), "{rules}: {}", verdict.text);
        assert!(!verdict.text.contains("by udp from emperor0"), "{rules}: {}", verdict.text);
    }
}

/// What ufw makes of its defaults, shortened.
const UFW: &str = "
    iptables -P INPUT DROP
    iptables -N ufw-before-input
    iptables -N ufw-not-local
    iptables -N ufw-user-input
    iptables -A INPUT -j ufw-before-input
    iptables -A ufw-before-input -i lo -j ACCEPT
    iptables -A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
    iptables -A ufw-before-input -m conntrack --ctstate INVALID -j DROP
    iptables -A ufw-before-input -p icmp --icmp-type echo-request -j ACCEPT
    iptables -A ufw-before-input -p udp --sport 67 --dport 68 -j ACCEPT
    iptables -A ufw-before-input -j ufw-not-local
    iptables -A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN
    iptables -A ufw-not-local -m addrtype --dst-type MULTICAST -j RETURN
    iptables -A ufw-not-local -m limit --limit 3/min -j LOG
    iptables -A ufw-not-local -j DROP
    iptables -A ufw-before-input -d 224.0.0.251 -p udp --dport 5353 -j ACCEPT
    iptables -A ufw-before-input -j ufw-user-input
    iptables -A ufw-user-input -p tcp -m multiport --dports 22,80:90 -j ACCEPT";

#[test]
fn defaults_of_ufw_are_understood() {
    for legacy in [false, true] {
        let live = Live::start(&["tuntap-router-dns = 10.77.0.1"]);
        let _server = serve(&live, || UdpSocket::bind((ROUTER, 53)));
        let program = if legacy { "iptables-legacy" } else { "iptables-nft" };
        UFW.lines().for_each(|line| live.sh(&line.replace("iptables", program)));
        live.examine().is_wrong(
            "drops questions by udp from emperor0",
            if legacy { "iptables-legacy" } else { "ufw allow in on" },
        );
        live.sh(&format!("{program} -A ufw-user-input -i emperor0 -p udp --dport 53 -j ACCEPT"));
        live.examine().warns("drops questions by tcp from emperor0", "--dport 53");
    }
}

#[test]
fn dns_server_that_is_not_there_is_a_warning() {
    Live::start(&["tuntap-router-dns = 10.77.0.1"])
        .examine()
        .warns("nothing on this host serves udp 53 there", "start the DNS");
}

#[test]
fn mapped_port_that_the_host_serves_is_told_before_and_after_the_start() {
    let own = format!("pid {}", std::process::id());
    let live = Live::start(&["tuntap-router-port = tcp 8022 10.77.0.2:22"]);
    live.examine().is_well();
    let _ssh = serve(&live, || TcpListener::bind("[::]:8022"));
    let verdict = live.examine();
    verdict.has("WRONG", "tcp port 8022 (tuntap-router-port, to 10.77.0.2:22) is served by this host itself", "anyway");
    verdict.has("WRONG", &own, "");
}

/// OpenSSH and nginx listen on IPv6 like this.
#[test]
fn service_for_ipv6_only_is_in_no_way_of_a_port_of_ipv4() {
    let bind = || {
        let socket = socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
        bind(socket.as_raw_fd(), &SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 8022, 0, 0)))?;
        listen(&socket, Backlog::MAXCONN)?;
        Ok(socket)
    };
    let live = Live::start(&["tuntap-router-port = tcp 8022 10.77.0.2:22"]);
    let _service = serve(&live, bind);
    live.examine().is_well();
    let live = Live::start(&["tuntap-router-port = tcp 8022 [fd00:77::2]:22"]);
    let _service = serve(&live, bind);
    live.examine().has("WRONG", "(tuntap-router-port, to [fd00:77::2]:22) is served by this host itself", "");
}

#[test]
fn mapped_port_that_a_rule_of_somebody_else_leads_elsewhere_is_told() {
    for (rule, place) in [
        (
            "nft add table inet tuntap-emperor1; nft add chain inet tuntap-emperor1 p '{ type nat hook prerouting priority \
             -100; }'; nft add rule inet tuntap-emperor1 p fib daddr type local tcp dport 8080 dnat ip to 10.78.0.2:80",
            "inet tuntap-emperor1",
        ),
        // These are Docker's rules.
        (
            "iptables -t nat -N DOCKER; iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER; iptables -t nat \
             -A DOCKER ! -i docker0 -p tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80",
            "ip nat, chain PREROUTING",
        ),
        ("iptables-legacy -t nat -A PREROUTING -p tcp --dport 8080 -j REDIRECT --to-ports 80", "iptables-legacy nat"),
    ] {
        let live = Live::start(&["tuntap-router-port = tcp 8080 10.77.0.2:80"]);
        live.sh(&rule.replace("8080", "8081"));
        live.examine().is_well();
        live.sh(&rule.replace("nft add table inet tuntap-emperor1; ", "").replace("iptables -t nat -N DOCKER; ", ""));
        live.examine().is_wrong(&format!("is led elsewhere by the table {place}"), "take another port");
    }
}

#[test]
fn services_that_vassals_reach_are_named() {
    let live = Live::start(&[]);
    let _inner = serve(&live, || TcpListener::bind("127.0.0.1:5432"));
    live.examine().is_well();
    let _outer = serve(&live, || TcpListener::bind("0.0.0.0:5433"));
    let verdict = live.examine();
    // This holds whatever the router's own table lets pass.
    let is_open = verdict.text.contains("reach these services of this host: tcp 5433 (");
    let connected = live.vassal().run(|| {
        std::net::TcpStream::connect_timeout(&(IpAddr::from(ROUTER), 5433).into(), std::time::Duration::from_secs(3))
            .is_ok()
    });
    assert_eq!(is_open, connected, "{}", verdict.text);
    live.sh("iptables -A INPUT -i emperor0 -p tcp -j REJECT");
    assert!(!live.examine().text.contains("reach these services"));
}

#[test]
fn peer_that_lost_its_address_is_told() {
    let live = Live::start(&[]);
    let net = live.vassal();
    live.examine().has("ok", "peers of emperor0: 1 with addresses", "");
    net.sh("ip -4 addr flush dev uwsgi0");
    live.examine().is_wrong("its device hasn't 10.77.0.", "stop and start this vassal");
    net.sh("ip link set uwsgi0 down");
    live.examine().has("WRONG", "peer pid ", "");
}

#[test]
fn router_among_others_runs_on() {
    let live = Live::start(&[]);
    let before = live.emperor.router_pid();
    let state = || {
        let looks = "ip addr show scope global; ip route; ip -6 route; sysctl -a 2>/dev/null | grep forwarding; nft -s -t -a list ruleset";
        shell(&live.emperor.netns, looks)
    };
    let (seen, text) = (state(), live.emperor.log.text());
    live.examine().is_well();
    assert_eq!(state(), seen, "the doctor changes nothing");
    assert_eq!((live.emperor.router_pid(), live.emperor.log.text()), (before, text), "and says nothing");
}
