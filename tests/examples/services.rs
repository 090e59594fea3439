use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::common::netns::Net;
use crate::common::probe::is_reachable;
use crate::example::{Example, addresses_of, net_of, wait_for_answer};
use crate::world::{INTERNET, INTERNET_V6, World};

const WEB: u16 = 80;
const MAIL: [u16; 2] = [25, 587];
const HIDDEN: u16 = 8079;

#[test]
fn ports_decide_and_clients_are_told_at_once() {
    let (world, example) = (World::new(), Example::copy("services"));
    let emperor = example.start(&world.host, "emperor.ini");
    let addresses = addresses_of(&emperor, "app.ini");
    let net = net_of(&emperor, "app.ini");
    // All ports have a listener.
    let _services: Vec<_> = [WEB, MAIL[0], MAIL[1]].map(|port| listen(&world.internet, port)).into();
    let _hidden = listen(&net, HIDDEN);
    for address in addresses {
        wait_for_answer(&world.host, address, 20001);
        assert_eq!(outcome(&world.host, address, HIDDEN), Err(ErrorKind::ConnectionRefused));
        assert!(is_reachable(&world.host, address));
    }
    emperor.assert_all_mapped(&example.plugin());
    for internet in [IpAddr::from(INTERNET), INTERNET_V6.into()] {
        assert_eq!(outcome(&net, internet, WEB), Ok(()), "{internet}");
        for port in MAIL {
            assert_eq!(outcome(&net, internet, port), Err(ErrorKind::ConnectionRefused), "{internet}");
        }
        assert!(is_reachable(&net, internet));
    }
}

fn listen(net: &Net, port: u16) -> TcpListener {
    net.run(|| TcpListener::bind(("::", port))).expect("the port is free")
}

/// Connects once. A connection that nobody answers times out.
fn outcome(client: &Net, address: IpAddr, port: u16) -> Result<(), ErrorKind> {
    let target = SocketAddr::from((address, port));
    client.run(|| TcpStream::connect_timeout(&target, Duration::from_secs(5)).map(drop).map_err(|error| error.kind()))
}
