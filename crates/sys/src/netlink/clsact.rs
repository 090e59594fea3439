//! BPF programs as packet filters of the queueing discipline `clsact` (tc-bpf(8)), for kernels without TCX. A filter lives as long as
//! its device.

use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};
use nix::errno::Errno;

use super::error::NetlinkError;
use super::route::Netlink;
use crate::bpf::{Hook, Program};

/// The priority and the handle of our filters. With both, a filter of an earlier process is replaced.
const PRIORITY: u16 = 0x7474;
const HANDLE: u32 = 1;

/// ETH_P_ALL in network byte order (linux/if_ether.h).
const ALL_PROTOCOLS: u16 = 3_u16.to_be();

impl Netlink {
    /// Has packets of a device go through a program, in place of the one of an earlier call for the hook.
    pub fn add_filter(&mut self, program: &Program, device: u32, hook: Hook) -> Result<(), NetlinkError> {
        let mut queue = message(device, "clsact")?;
        queue.header.handle = TcHandle { major: u16::MAX, minor: 0 };
        queue.header.parent = TcHandle::CLSACT;
        let added = self.0.change(RouteNetlinkMessage::NewQueueDiscipline(queue), NLM_F_CREATE | NLM_F_EXCL, || {
            format!("giving interface {device} the queueing discipline clsact")
        });
        match added {
            Err(error) if error.errno() != Some(Errno::EEXIST) => return Err(error),
            _ => {}
        }
        let mut filter = filter(device, hook)?;
        let options = [
            TcFilterBpfOption::ProgFd(program.as_fd().as_raw_fd().cast_unsigned()),
            TcFilterBpfOption::ProgName("uwsgi-tuntap".to_owned()),
            TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
        ];
        filter.attributes.push(TcAttribute::Options(options.into_iter().map(TcOption::Bpf).collect()));
        self.0.change(RouteNetlinkMessage::NewTrafficFilter(filter), NLM_F_CREATE | NLM_F_REPLACE, || {
            format!("giving interface {device} a packet filter")
        })
    }

    /// Returns true if the filter is there. Whoever may change the namespace's interfaces can remove it.
    pub fn has_filter(&mut self, device: u32, hook: Hook) -> Result<bool, NetlinkError> {
        let filter = filter(device, hook)?;
        let found = self.0.get(RouteNetlinkMessage::GetTrafficFilter(filter), || {
            format!("looking for the packet filter of interface {device}")
        });
        match found {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::EINVAL)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns true if there are filters of others.
    pub fn has_other_filters(&mut self, device: u32, hook: Hook) -> Result<bool, NetlinkError> {
        let mut wanted = message(device, TcFilterBpf::KIND)?;
        wanted.attributes.clear();
        wanted.header.parent = parent(hook);
        let filters = self.0.list(RouteNetlinkMessage::GetTrafficFilter(wanted), || {
            format!("listing the packet filters of interface {device}")
        })?;
        let is_other = |filter: &RouteNetlinkMessage| matches!(filter, RouteNetlinkMessage::NewTrafficFilter(filter) if filter.header.info >> 16 != u32::from(PRIORITY));
        Ok(filters.iter().any(is_other))
    }

    /// Removes the filter. There may be none.
    pub fn remove_filter(&mut self, device: u32, hook: Hook) -> Result<(), NetlinkError> {
        let filter = filter(device, hook)?;
        let removed = self.0.change(RouteNetlinkMessage::DelTrafficFilter(filter), 0, || {
            format!("taking the packet filter from interface {device}")
        });
        match removed {
            Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::ENODEV | Errno::EINVAL)) => Ok(()),
            result => result,
        }
    }
}

fn message(device: u32, kind: &str) -> Result<TcMessage, NetlinkError> {
    let index = i32::try_from(device).map_err(|_| NetlinkError::new(format!("interface {device}"), Errno::ENODEV))?;
    let mut message = TcMessage::with_index(index);
    message.attributes.push(TcAttribute::Kind(kind.to_owned()));
    Ok(message)
}

const fn parent(hook: Hook) -> TcHandle {
    let minor = match hook {
        Hook::Ingress => TcHandle::MIN_INGRESS,
        Hook::Egress => TcHandle::MIN_EGRESS,
    };
    TcHandle { major: u16::MAX, minor }
}

fn filter(device: u32, hook: Hook) -> Result<TcMessage, NetlinkError> {
    let mut message = message(device, TcFilterBpf::KIND)?;
    message.header.handle = TcHandle::from(HANDLE);
    message.header.parent = parent(hook);
    message.header.info = u32::from(PRIORITY) << 16 | u32::from(ALL_PROTOCOLS);
    Ok(message)
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::UdpSocket;

    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::bpf::Instruction;
    use crate::netlink::LinkChange;

    const LOOPBACK: u32 = 1;

    #[test]
    fn filter_sees_packets_until_it_is_removed() {
        let inside = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
            let mut netlink = Netlink::open().expect("netlink");
            netlink.set_link(LOOPBACK, LinkChange { up: Some(true), ..LinkChange::default() }).expect("up");
            // r0 = TC_ACT_SHOT; exit
            let program = [Instruction(2 << 32 | 0xb7), Instruction(0x95)];
            let drop_all = Program::load(c"tuntap_test", c"MIT", &program).expect("needs root");
            let [sender, receiver] = [0, 1].map(|_| UdpSocket::bind("127.0.0.1:0").expect("a port"));
            receiver.set_nonblocking(true).expect("a socket");
            sender.connect(receiver.local_addr().expect("an address")).expect("a route");
            // Loopback delivers before send(2) returns.
            let arrives = || {
                sender.send(b"x").expect("sent");
                receiver.recv(&mut [0]).map_err(|error| error.kind())
            };
            assert_eq!(arrives(), Ok(1));
            for hook in [Hook::Ingress, Hook::Egress] {
                assert!(!netlink.has_other_filters(LOOPBACK, hook).expect("an answer"), "{hook:?}");
                for _ in 0..2 {
                    netlink.add_filter(&drop_all, LOOPBACK, hook).expect("a filter");
                }
                assert_eq!(arrives(), Err(ErrorKind::WouldBlock), "{hook:?}");
                assert!(netlink.has_filter(LOOPBACK, hook).expect("an answer"), "{hook:?}");
                assert!(!netlink.has_other_filters(LOOPBACK, hook).expect("an answer"), "{hook:?}");
                for _ in 0..2 {
                    netlink.remove_filter(LOOPBACK, hook).expect("removed, or gone already");
                }
                assert_eq!(arrives(), Ok(1), "{hook:?}");
                assert!(!netlink.has_filter(LOOPBACK, hook).expect("an answer"), "{hook:?}");
            }
        });
        if let Err(panic) = inside.join() {
            std::panic::resume_unwind(panic);
        }
    }
}
