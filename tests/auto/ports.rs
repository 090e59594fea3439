//! Ports of the host that lead to vassals whose addresses the router chooses.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};

use crate::common::emperor::EmperorIni;
use crate::common::netns::Net;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::wait;
use crate::world::{HOST, OUTSIDE, Vassal, addresses, host_and_outside};

const UID: u32 = 30_001;

/// Connects to a port of the host, and returns whether a listener in the vassal's namespace got the bytes, and from whom.
fn served(from: &Net, to: &str, vassal: &Net, listening: &str) -> Option<IpAddr> {
    let to = SocketAddr::new(to.parse().expect("an address"), 8080);
    let listening = SocketAddr::new(listening.parse().expect("an address"), 80);
    let listener = vassal.run(|| TcpListener::bind(listening)).expect("the vassal's address");
    let mut near = from.run(|| TcpStream::connect_timeout(&to, wait::SHORT)).ok()?;
    let (mut far, client) = listener.accept().expect("the connection");
    near.write_all(b"question").expect("the connection lives");
    far.set_read_timeout(Some(wait::SHORT)).expect("a timeout can be set");
    let mut buffer = [0; 8];
    far.read_exact(&mut buffer).expect("bytes pass");
    Some(client.ip())
}

#[test]
fn port_follows_the_vassal_to_whom_its_target_is_leased() {
    let (host, outside) = host_and_outside();
    let emperor = EmperorIni::new(Uwsgi::usual(), Subject::Ours)
        .lines(&[
            // A handful of addresses for vassals, of which one of each family is a port's target.
            "tuntap-router-address = 192.168.0.1/29",
            "tuntap-router-address = fd00:77::1/125",
            "tuntap-router-nat = veth0",
            "tuntap-router-port = tcp 8080 192.168.0.5:80",
            "tuntap-router-port = tcp 8080 [fd00:77::5]:80",
            "tuntap-use-credentials = true",
        ])
        .line(format!("tuntap-router-lease = 192.168.0.5 {UID}"))
        .line(format!("tuntap-router-lease = fd00:77::5 {UID}"))
        .start_in(host);
    let vassal = |name: &str, uid| Vassal::auto(&emperor, name).uid(uid).line("tuntap-use-credentials = true");
    let app = vassal("app", UID);
    for round in 0..2 {
        let net = app.start(&emperor);
        let own = addresses(&net, "uwsgi0");
        assert_eq!(own, ["192.168.0.5/29", "fd00:77::5/125"]);
        for (host, (own, client)) in HOST.into_iter().zip(["192.168.0.5", "fd00:77::5"].into_iter().zip(OUTSIDE)) {
            let seen = served(&outside, host, &net, own);
            assert_eq!(seen, Some(client.parse().expect("an address")), "round {round}: {host}");
        }
        app.stop(&emperor);
        // While the vassal is away, others come, and don't get the target's address.
        let other = vassal(&format!("other{round}"), UID + 1).start(&emperor);
        assert!(addresses(&other, "uwsgi0").iter().all(|it| !own.contains(it)));
    }
}
