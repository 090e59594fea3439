//! A device with several queues (IFF_MULTI_QUEUE), each of which is a descriptor.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;

use super::{Tun, TunError, control_device, ioctl, set_interface, steering};
use crate::netlink::Netlink;

/// The queues of a router's device. Vassals whose addresses fall into one queue share it, as all of them would share the only
/// one. More queues take more memory, if the host fills all of them: each has room for 500 packets, of 64 KiB at most.
pub const QUEUES: usize = 16;

impl Tun {
    /// Makes a router's device in the current network namespace, with several queues where that can be done: not on a device
    /// that exists already with one, and not where the kernel can't say that all queues are ours. Everything that the host
    /// sends to vassals waits in this device, so with one queue a flood to one vassal would leave others no room.
    pub fn create_for_router(name: &str) -> Result<Self, TunError> {
        Self::create_with_queues(name)?.map_or_else(|| Self::create(name), Ok)
    }

    /// `None` if the device can't have several queues.
    fn create_with_queues(name: &str) -> Result<Option<Self>, TunError> {
        let layout = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
        let failed = |errno| TunError::refused(name, errno);
        let Ok(mut netlink) = Netlink::open() else { return Ok(None) };
        match netlink.tun_queues(name) {
            Ok(Some(0)) => {}
            Ok(Some(_)) => return Err(failed(Errno::EBUSY)),
            Err(error) if error.errno() == Some(Errno::ENODEV) => {}
            Ok(None) | Err(_) => return Ok(None),
        }
        let first = control_device()?;
        set_interface(&first, name, layout).map_err(failed)?;
        // Without an owner, everybody who can open the control device could have a queue, too (drivers/net/tun.c).
        // SAFETY: TUNSETOWNER takes a number (linux/if_tun.h), and the descriptor is open.
        unsafe { ioctl::tun_set_owner(first.as_raw_fd(), nix::unistd::geteuid().as_raw().cast_signed()) }
            .map_err(failed)?;
        let mut more = Vec::new();
        for _ in 1..QUEUES {
            let queue = control_device()?;
            set_interface(&queue, name, layout).map_err(failed)?;
            more.push(OwnedFd::from(queue));
        }
        // Somebody may have opened one before there was an owner, or the device isn't of our making.
        match netlink.tun_queues(name) {
            Ok(Some(QUEUES)) => {}
            Ok(Some(_)) => return Err(TunError::Shared(name.to_owned())),
            // The kernel doesn't tell.
            Ok(None) | Err(_) => return Ok(None),
        }
        let tun = Self { more, ..Self::adopt(first.into())? };
        // Where programs are refused, the kernel steers by flows, which helps nearly as much.
        let _ = steering::steer_by_destination(tun.fd.as_fd());
        Ok(Some(tun))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, UdpSocket};
    use std::process::Command;
    use std::time::Duration;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::tun::MAX_PACKET_LEN;
    use crate::tun::steering::queue_of_replies;

    /// Runs a test in a thread with a network namespace of its own.
    fn isolated(test: impl FnOnce() + Send + 'static) {
        let run = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
            test();
        };
        std::thread::spawn(run).join().expect("the test passes");
    }

    fn ip(arguments: &str) {
        let status = Command::new("ip").args(arguments.split(' ')).status().expect("ip(8)");
        assert!(status.success(), "ip {arguments}");
    }

    /// Returns the number of the only queue that has something, and the packet there.
    fn receive(tun: &Tun) -> (usize, Vec<u8>) {
        let queues: Vec<_> = tun.queues().collect();
        let mut events: Vec<_> = queues.iter().map(|queue| PollFd::new(*queue, PollFlags::POLLIN)).collect();
        let timeout = PollTimeout::try_from(Duration::from_secs(20)).expect("short");
        assert_eq!(poll(&mut events, timeout).expect("poll(2)"), 1, "queues with packets");
        let number = events.iter().position(|event| event.any() == Some(true)).expect("one has a packet");
        let mut buffer = vec![0; MAX_PACKET_LEN];
        let len = tun.recv_from(number, &mut buffer).expect("a packet");
        (number, buffer[tuntap_wire::vnet::VNET_HEADER_LEN..len].to_vec())
    }

    /// Exchanges source and destination.
    fn reply_to(packet: &[u8]) -> Vec<u8> {
        let mut reply = packet.to_vec();
        let (at, len) = if packet[0] >> 4 == 4 { (12, 4) } else { (8, 16) };
        reply[at..at + len].copy_from_slice(&packet[at + len..at + 2 * len]);
        reply[at + len..at + 2 * len].copy_from_slice(&packet[at..at + len]);
        reply
    }

    #[test]
    fn kernel_steers_packets_by_their_destinations() {
        isolated(|| {
            // Nothing but the packets of the test.
            std::fs::write("/proc/sys/net/ipv6/conf/default/router_solicitations", "0").expect("sysctl");
            std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").expect("sysctl");
            std::fs::write("/proc/sys/net/ipv6/conf/default/addr_gen_mode", "1").expect("sysctl");
            let tun = Tun::create_for_router("queues0").expect("a device");
            assert_eq!(tun.queues().count(), QUEUES);
            ip("address add 10.9.0.1/16 dev queues0");
            ip("address add fd09::1/64 dev queues0 nodad");
            ip("link set queues0 up multicast off");
            let mut used = std::collections::HashSet::new();
            for host in 2..40_u8 {
                for address in [IpAddr::from([10, 9, 0, host]), format!("fd09::{host:x}").parse().expect("an address")]
                {
                    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                    let mut found = std::collections::HashSet::new();
                    for port in [53, 4000] {
                        let socket = UdpSocket::bind(any).expect("a socket");
                        socket.send_to(b"x", (address, port)).expect("sent");
                        let (queue, packet) = receive(&tun);
                        assert_eq!(queue_of_replies(&reply_to(&packet), QUEUES), queue, "{address}");
                        found.insert(queue);
                    }
                    assert_eq!(found.len(), 1, "{address}");
                    used.extend(found);
                }
            }
            assert_eq!(used.len(), QUEUES, "{used:?}");
        });
    }

    #[test]
    fn device_with_one_queue_keeps_it() {
        isolated(|| {
            ip("tuntap add dev queues1 mode tun");
            let tun = Tun::create_for_router("queues1").expect("a device");
            assert_eq!(tun.queues().count(), 1);
        });
    }

    #[test]
    fn nobody_else_gets_a_queue() {
        isolated(|| {
            let tun = Tun::create_for_router("queues2").expect("a device");
            let second = Tun::create_for_router("queues2").expect_err("it is in use");
            assert!(matches!(second, TunError::Create { errno: Errno::EBUSY, .. }), "{second}");
            let other = control_device().expect("the control device");
            let layout = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
            // The credentials of this thread alone.
            // SAFETY: setresuid(2) as a system call changes the calling thread, which ends with this test.
            let result = unsafe { libc::syscall(libc::SYS_setresuid, 65_534, 65_534, 65_534) };
            assert_eq!(result, 0);
            assert_eq!(set_interface(&other, "queues2", layout), Err(Errno::EPERM));
            drop(tun);
        });
    }
}
