//! Leases and the credentials of whoever connects.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::account::Account;
use crate::common::emperor::{EMPEROR, V1, V2};
use crate::common::netns::Netns;
use crate::common::packet;
use crate::common::wait;
use crate::world::{
    ALICE, BOB, CAROL, ROOT, STAFF, assert_echo, assert_not_leased, emperor, lease, not_leased, refusals,
    with_credentials,
};

const V3: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 4);

#[test]
fn address_is_for_its_leaseholder_only() {
    let emperor = emperor().line(lease(V1, ALICE.uid)).line(lease(V2, format_args!("@{}", BOB.gid))).start();
    let mark = emperor.log.mark();
    let mut bob = BOB.connect(&emperor);
    assert_not_leased(&emperor, &mut bob, V1);
    assert_not_leased(&emperor, &mut bob, V1);
    assert_not_leased(&emperor, &mut bob, V3);
    let refused = refusals(&emperor, mark);
    assert_eq!(refused.len(), 2, "one line for each address: {refused:?}");
    assert!(refused[0].contains("192.168.0.2 is not leased to uid 30002, gid 30002"), "{refused:?}");
    assert!(!refused[0].contains("tuntap-use-credentials"), "{refused:?}");

    let mut alice = ALICE.connect(&emperor);
    assert_echo(&mut alice, V1);
    assert_echo(&mut bob, V2);
    let stats = emperor.stats();
    assert_eq!((stats.of_peer(V1, "uid"), stats.drops_of(V1, "not_leased")), (30_001, 0));
    assert_eq!((stats.of_peer(V2, "uid"), stats.drops_of(V2, "not_leased")), (30_002, 3));
}

#[test]
fn prefix_is_shared_among_its_leaseholders() {
    let emperor = emperor().line("tuntap-router-lease = 192.168.0.0/30 30001").line(lease(V1, BOB.uid)).start();
    let mut alice = ALICE.connect(&emperor);
    assert_echo(&mut alice, V2);
    let mut bob = BOB.connect(&emperor);
    assert_not_leased(&emperor, &mut bob, V2);
    assert_echo(&mut bob, V1);
    // A lease is no claim: of several leaseholders the first to come holds the address.
    let mut second = ALICE.connect(&emperor);
    second.send_packet(&packet::echo_request(V1, EMPEROR, 1, 84));
    emperor.wait_for_stats("the address is held", |stats| stats.drops("address_held") == 1);
    drop(bob);
    wait::until_true("its holder's end frees the address", wait::SHORT, || second.echo(V1, EMPEROR, wait::SHORT));
}

#[test]
fn supplementary_groups_of_the_connect_count() {
    let emperor = emperor().line(lease(V1, format_args!("@{STAFF}"))).start();
    let mut alice = ALICE.connect(&emperor);
    assert_not_leased(&emperor, &mut alice, V1);
    let mut carol = CAROL.connect(&emperor);
    assert_echo(&mut carol, V1);
}

#[test]
fn addresses_of_ipv6_are_for_groups_alike() {
    const EMPEROR_6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 1);
    let [v1, v2] = [2, 3].map(|host| Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, host));
    let emperor = emperor()
        .line(format!("exec-as-root = ip -6 addr replace {EMPEROR_6}/64 dev emperor0 nodad"))
        .line(lease(v1, format_args!("@{STAFF}")))
        .line(lease(v2, format_args!("@{}", BOB.gid)))
        .start_in(Netns::new().with_ipv6());
    let (mut alice, mut bob, mut carol) = (ALICE.connect(&emperor), BOB.connect(&emperor), CAROL.connect(&emperor));
    for (peer, address) in [(&mut alice, v1), (&mut bob, v1), (&mut carol, v2)] {
        let before = not_leased(&emperor.stats());
        peer.send_packet(&packet::echo_request6(address, EMPEROR_6, 1, 84));
        emperor.wait_for_stats("the packet is dropped", |stats| not_leased(stats) == before + 1);
    }
    assert!(carol.echo(v1, EMPEROR_6, wait::SHORT) && bob.echo(v2, EMPEROR_6, wait::SHORT));
}

#[test]
fn names_of_users_and_groups() {
    let emperor = emperor().line(lease(V1, "nobody")).line(lease(V2, "@nogroup")).start();
    let nobody = Account { uid: 65_534, gid: 1, groups: &[] };
    let nogroup = Account { uid: 1, gid: 65_534, groups: &[] };
    assert_echo(&mut nobody.connect(&emperor), V1);
    assert_not_leased(&emperor, &mut nogroup.connect(&emperor), V1);
    assert_echo(&mut nogroup.connect(&emperor), V2);
}

#[test]
fn default_says_what_becomes_of_other_addresses() {
    let open = emperor().line(lease(V1, ALICE.uid)).line("tuntap-router-lease-default = allow").start();
    let mut bob = BOB.connect(&open);
    assert_not_leased(&open, &mut bob, V1);
    assert_echo(&mut bob, V2);
    let closed = emperor().line("tuntap-router-lease-default = deny").start();
    assert_not_leased(&closed, &mut ROOT.connect(&closed), V1);
}

#[test]
fn root_holds_what_is_leased_to_root() {
    let emperor = emperor().line(lease(V1, ALICE.uid)).line(lease(V2, "root")).start();
    let mark = emperor.log.mark();
    let mut root = ROOT.connect(&emperor);
    assert_not_leased(&emperor, &mut root, V1);
    let refused = refusals(&emperor, mark);
    assert!(refused[0].contains("uid 0") && refused[0].contains("tuntap-use-credentials"), "{refused:?}");
    assert_echo(&mut root, V2);
}

/// With the option, the credentials that a peer shows count, and not those of its connect.
#[test]
fn shown_credentials_decide() {
    let staff = lease(V2, format_args!("@{STAFF}"));
    let emperor = with_credentials(emperor()).line(lease(V1, ALICE.uid)).line(staff).start();
    let mark = emperor.log.mark();
    let mut root = ROOT.connect_as(&emperor, ROOT).expect("anybody may show who it is");
    assert_not_leased(&emperor, &mut root, V1);
    assert!(!refusals(&emperor, mark)[0].contains("tuntap-use-credentials"), "it has shown that it is root");
    let mut alice = ROOT.connect_as(&emperor, ALICE).expect("root may speak for anybody");
    assert_echo(&mut alice, V1);
    // Shown credentials have no supplementary groups, and those of the connecting process don't count.
    let mut carol = CAROL.connect_as(&emperor, CAROL).expect("anybody may show who it is");
    assert_not_leased(&emperor, &mut carol, V2);
}
