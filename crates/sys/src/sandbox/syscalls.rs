//! An allowlist of syscalls (seccomp(2)). Any other syscall ends the process, after a line on the standard error that names
//! it.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::ffi::{c_int, c_uint, c_void};
use std::fmt;
use std::io::{self, Write};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use syscalls::Sysno;
use thiserror::Error;

use crate::log::{self, Event, Record};

/// The syscalls that a process may use.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Allowed with any arguments.
    pub allowed: &'static [&'static [Sysno]],
    /// Allowed with arguments that meet one of the conditions.
    pub conditional: &'static [&'static [(Sysno, Conditions)]],
    /// These fail with EACCES: libraries try them, but work without them.
    pub refused: &'static [Sysno],
    /// These fail with ENOSYS: libraries use others then, whose arguments the filter can see.
    pub unknown: &'static [Sysno],
}

/// Conditions of which one must hold.
pub type Conditions = &'static [Condition];

/// Arguments that must all be as they say.
pub type Condition = &'static [Argument];

/// What an argument must be. The filter looks at the lower 32 bits, which is all that the arguments in question have.
#[derive(Debug, Clone, Copy)]
pub struct Argument {
    /// Its index, from 0.
    pub index: u8,
    /// What it must be.
    pub test: Test,
}

/// Tests of an argument.
#[derive(Debug, Clone, Copy)]
pub enum Test {
    /// This number.
    Is(u32),
    /// This number under a mask.
    Masked {
        /// The bits that count.
        mask: u32,
        /// The value that they must have.
        value: u32,
    },
    /// The process ID of the process that installs the filter.
    IsOwnProcess,
}

/// Why the filter can't be installed.
#[derive(Debug, Error)]
pub enum FilterError {
    /// The filter can't be compiled, or the kernel refuses it.
    #[error(transparent)]
    Filter(#[from] seccompiler::Error),
    /// The handler for SIGSYS, the signal of a denied syscall, can't be installed.
    #[error("SIGSYS: {0}")]
    Signal(#[from] nix::errno::Errno),
}

/// Installs the filter. `label` is the beginning of the line about a denied syscall. Needs
/// [`super::set_no_new_privileges`], or CAP_SYS_ADMIN.
pub fn restrict(policy: &Policy, label: String) -> Result<(), FilterError> {
    let failing = |calls: &[Sysno], error: c_int| {
        let calls = calls.iter().map(|call| (*call, &[][..]));
        compile(calls, SeccompAction::Allow, SeccompAction::Errno(error.cast_unsigned()))
    };
    let refusing = [(policy.refused, libc::EACCES), (policy.unknown, libc::ENOSYS)];
    let refusing = refusing.into_iter().filter(|(calls, _)| !calls.is_empty());
    let refusing = refusing.map(|(calls, error)| failing(calls, error)).collect::<Result<Vec<_>, _>>()?;
    // Of several filters, the strictest result counts. So the last one must allow what the others refuse.
    let allowed = policy.allowed.iter().copied().flatten();
    let anyhow = allowed.chain(policy.refused).chain(policy.unknown).map(|call| (*call, &[][..]));
    let conditional = policy.conditional.iter().copied().flatten().copied();
    let allowing = compile(anyhow.chain(conditional), SeccompAction::Trap, SeccompAction::Allow)?;
    LABEL.get_or_init(|| Label::new(&label));
    let action = SigAction::new(SigHandler::SigAction(on_denied_call), SaFlags::empty(), SigSet::all());
    // SAFETY: the handler calls nothing but write(2) and _exit(2), and formats numbers and static texts on its stack.
    unsafe { sigaction(Signal::SIGSYS, &action) }?;
    for program in &refusing {
        seccompiler::apply_filter_all_threads(program)?;
    }
    seccompiler::apply_filter_all_threads(&allowing)?;
    Ok(())
}

fn compile(
    calls: impl Iterator<Item = (Sysno, Conditions)>,
    otherwise: SeccompAction,
    listed: SeccompAction,
) -> Result<BpfProgram, seccompiler::Error> {
    let rules = calls
        .map(|(call, conditions)| {
            let rules = conditions.iter().map(|condition| rule(condition)).collect::<Result<_, _>>()?;
            Ok((i64::from(call.id()), rules))
        })
        .collect::<Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError>>()?;
    let program = SeccompFilter::new(rules, otherwise, listed, ARCH.try_into()?)?.try_into()?;
    Ok(program)
}

fn rule(condition: Condition) -> Result<SeccompRule, seccompiler::BackendError> {
    let conditions = condition.iter().map(|argument| {
        let (operator, value) = match argument.test {
            Test::Is(value) => (SeccompCmpOp::Eq, value),
            Test::Masked { mask, value } => (SeccompCmpOp::MaskedEq(mask.into()), value),
            Test::IsOwnProcess => (SeccompCmpOp::Eq, std::process::id()),
        };
        SeccompCondition::new(argument.index, SeccompCmpArgLen::Dword, operator, value.into())
    });
    SeccompRule::new(conditions.collect::<Result<_, _>>()?)
}

static LABEL: OnceLock<Label> = OnceLock::new();

/// What stands around the text of the line about a denied syscall. It is made beforehand, because the handler can't.
struct Label {
    begin: String,
    end: &'static str,
    is_json: bool,
}

impl Label {
    fn new(label: &str) -> Self {
        let line = format!("{label}: ");
        let record = Record { event: Event::SyscallDenied, peer: None, line: &line };
        match record.json_around().filter(|_| log::is_json()) {
            Some((begin, end)) => Self { begin, end, is_json: true },
            None => Self { begin: line, end: "", is_json: false },
        }
    }

    /// Writes a line. This allocates nothing.
    fn write(&self, line: &mut impl Write, text: fmt::Arguments<'_>) -> io::Result<()> {
        if self.is_json {
            // clock_gettime(2) may be called in handlers of signals (signal-safety(7)).
            let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            write!(line, "{{\"time\":{}.{:03}", time.as_secs(), time.subsec_millis())?;
        }
        writeln!(line, "{}{text}{}", self.begin, self.end)
    }
}

/// The `_sigsys` variant of `siginfo_t` (sigaction(2)).
#[repr(C)]
struct DeniedCall {
    signal: c_int,
    errno: c_int,
    code: c_int,
    address: *mut c_void,
    number: c_int,
    architecture: c_uint,
}

/// `si_code` of a signal that a seccomp filter caused (asm-generic/siginfo.h).
const SYS_SECCOMP: c_int = 1;

extern "C" fn on_denied_call(_signal: c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    // SAFETY: with SA_SIGINFO, which nix sets for such handlers, the kernel passes a `siginfo_t`, which is longer than the
    // variant.
    let call = unsafe { info.cast::<DeniedCall>().read() };
    let mut line = [0; 512];
    let mut rest = &mut line[..];
    let number = call.number;
    // A longer line is cut.
    let _ = LABEL.get().map(|label| match usize::try_from(number).ok().and_then(Sysno::new) {
        _ if call.code != SYS_SECCOMP => label.write(&mut rest, format_args!("ended by SIGSYS")),
        Some(name) => {
            label.write(&mut rest, format_args!("the sandbox denied the syscall {name} ({number}); this process ends"))
        }
        None => label.write(&mut rest, format_args!("the sandbox denied syscall {number}; this process ends")),
    });
    let left = rest.len();
    let text = &line[..line.len() - left];
    // SAFETY: the text lives through the call.
    unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
    // SAFETY: _exit(2) has no preconditions.
    unsafe { libc::_exit(1) }
}
