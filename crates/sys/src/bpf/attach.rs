//! What programs are attached to: devices of the network namespace that the calling thread is in, by TCX (Linux 6.6).

use std::os::fd::OwnedFd;

use nix::errno::Errno;

use super::{Attributes, Command, Program, address_mut, call, open};

/// Most programs on one hook of a device that are looked at; the kernel takes 63 (BPF_MPROG_MAX).
const MAX_PROGRAMS: usize = 64;

/// Where on a device a program sees packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// What the device has received.
    Ingress,
    /// What it is about to send.
    Egress,
}

impl Hook {
    /// BPF_TCX_INGRESS and BPF_TCX_EGRESS of `enum bpf_attach_type`.
    const fn code(self) -> u32 {
        match self {
            Self::Ingress => 46,
            Self::Egress => 47,
        }
    }
}

/// A program stays attached for as long as this lives (bpf(2), BPF_LINK_CREATE).
#[derive(Debug)]
pub struct Attachment(#[expect(dead_code, reason = "it is held, and closed at the end")] OwnedFd);

#[repr(C)]
#[derive(Clone, Copy)]
struct Create {
    program: u32,
    device: u32,
    hook: u32,
    flags: u32,
    relative: u32,
    unused: u32,
    revision: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Attach {
    device: u32,
    program: u32,
    hook: u32,
    flags: u32,
    replaced: u32,
    relative: u32,
    revision: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Query {
    device: u32,
    hook: u32,
    flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    unused: u32,
    program_flags: u64,
    link_ids: u64,
    link_flags: u64,
    revision: u64,
}

// SAFETY: integers without padding.
unsafe impl Attributes for Create {}
// SAFETY: integers without padding.
unsafe impl Attributes for Attach {}
// SAFETY: integers without padding. The one address that isn't 0 is that of an array of `count` numbers.
unsafe impl Attributes for Query {}

/// Attaches a program for as long as the result lives.
pub fn link(program: &Program, device: u32, hook: Hook) -> nix::Result<Attachment> {
    let mut attributes =
        Create { program: program.number(), device, hook: hook.code(), flags: 0, relative: 0, unused: 0, revision: 0 };
    open(Command::LinkCreate, &mut attributes).map(Attachment)
}

/// Attaches a program for as long as the device lives, whatever becomes of this process.
pub fn attach(program: &Program, device: u32, hook: Hook) -> nix::Result<()> {
    let mut attributes = Attach {
        device,
        program: program.number(),
        hook: hook.code(),
        flags: 0,
        replaced: 0,
        relative: 0,
        revision: 0,
    };
    call(Command::ProgramAttach, &mut attributes).map(drop)
}

/// Returns true if the kernel has TCX: it lists what the loopback device has attached.
pub fn supports_tcx() -> bool {
    const LOOPBACK: u32 = 1;
    programs(LOOPBACK, Hook::Ingress).is_ok()
}

/// The ids of the programs on a hook.
fn programs(device: u32, hook: Hook) -> nix::Result<Vec<u32>> {
    let mut ids = [0_u32; MAX_PROGRAMS];
    let mut attributes = Query {
        device,
        hook: hook.code(),
        flags: 0,
        attach_flags: 0,
        ids: address_mut(&mut ids),
        count: u32::try_from(MAX_PROGRAMS).map_err(|_| Errno::E2BIG)?,
        unused: 0,
        program_flags: 0,
        link_ids: 0,
        link_flags: 0,
        revision: 0,
    };
    call(Command::ProgramQuery, &mut attributes)?;
    let count = usize::try_from(attributes.count).map_err(|_| Errno::EOVERFLOW)?;
    Ok(ids.into_iter().take(count).filter(|id| *id != 0).collect())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::Instruction;
    use super::*;

    const LOOPBACK: u32 = 1;

    #[test]
    fn program_is_attached_as_long_as_its_link_or_its_device() {
        let inside = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("needs root");
            let pass = [Instruction(0xb7), Instruction(0x95)];
            let linked = Program::load(c"tuntap_linked", c"MIT", &pass).expect("needs root");
            let attached = Program::load(c"tuntap_test", c"MIT", &pass).expect("needs root");
            assert!(supports_tcx());
            let attachment = link(&linked, LOOPBACK, Hook::Egress).expect("a device");
            attach(&attached, LOOPBACK, Hook::Egress).expect("a device");
            assert_eq!(programs(LOOPBACK, Hook::Egress).expect("a list").len(), 2);
            assert_eq!(programs(LOOPBACK, Hook::Ingress), Ok(Vec::new()));
            drop(attachment);
            drop(attached);
            // A child that another test has forked holds the link until it executes its program.
            let deadline = Instant::now() + Duration::from_secs(30);
            while programs(LOOPBACK, Hook::Egress).expect("a list").len() > 1 {
                assert!(Instant::now() < deadline, "the link outlives its descriptor");
                std::thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(programs(LOOPBACK, Hook::Egress).expect("a list").len(), 1);
            assert_eq!(link(&linked, 4711, Hook::Egress).map(drop), Err(Errno::ENODEV));
        });
        inside.join().expect("no panic");
    }
}
