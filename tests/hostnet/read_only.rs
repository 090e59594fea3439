//! Settings that nobody may write, as in a unit with ProtectKernelTunables or in a container.

use std::net::SocketAddr;

use crate::common::netns::Netns;
use crate::common::processes::run_in_mounts_of;
use crate::common::wait;
use crate::ipv6::start_auto;
use crate::world::{HOST_IPV4, OUTSIDE_IPV4, OUTSIDE_IPV6, SET_UP, Site, World, client_as_seen, ini, ip};

const READ_ONLY: &str = "mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys";

#[test]
fn host_that_forwards_already_needs_nothing_written() {
    let host = Netns::new();
    let site = Site::around(&host);
    host.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    let emperor = ini().lines(&SET_UP).before(READ_ONLY).start_in(host);
    let mut world = World { emperor, site };
    let net = start_auto(&world, "v1");
    let target = SocketAddr::from((ip(OUTSIDE_IPV4), 7300));
    assert_eq!(client_as_seen(&net, target, &world.site.outside4, target), ip(HOST_IPV4));
    let target = SocketAddr::from((ip(OUTSIDE_IPV6), 7300));
    client_as_seen(&net, target, &world.site.outside6, target);
    crate::reload::reload(&world);
    assert!(world.emperor.exit_status().is_none());
    let log = world.log.text();
    assert!(!log.contains("/proc/sys/"), "{log}");
}

#[test]
fn setting_that_is_needed_and_can_not_be_written_is_named() {
    let host = Netns::new();
    let _site = Site::around(&host);
    let mut emperor = ini().lines(&SET_UP).before(READ_ONLY).launch_in(host);
    assert!(!emperor.wait_for_exit().success());
    emperor.log.wait_for("/proc/sys/net/ipv4/conf/emperor0/forwarding is 0 and can't be set to 1", wait::SHORT);
    emperor.log.wait_for("sysctl -w net.ipv4.conf.", wait::SHORT);
}

/// A setting that the first image could write, and a later one can't, is left as it is.
#[test]
fn reload_goes_on_when_a_setting_can_not_be_written_any_more() {
    let host = Netns::new();
    let site = Site::around(&host);
    let emperor = ini().lines(&SET_UP).start_in(host);
    let mut world = World { emperor, site };
    run_in_mounts_of(world.master_pid(), READ_ONLY);
    world.netns.sh("sysctl -qw net.ipv4.conf.up4.forwarding=0");
    world.log.wait_for("/proc/sys/net/ipv4/conf/up4/forwarding is 0 and can't be set to 1", wait::LONG);
    crate::reload::reload(&world);
    assert!(world.emperor.exit_status().is_none());
    world.netns.sh("sysctl -qw net.ipv4.conf.up4.forwarding=1 net.ipv4.conf.emperor0.forwarding=1");
    let net = start_auto(&world, "v1");
    let target = SocketAddr::from((ip(OUTSIDE_IPV4), 7310));
    assert_eq!(client_as_seen(&net, target, &world.site.outside4, target), ip(HOST_IPV4));
}
