//! Running a program for what it prints, within bounds of time and length.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// Which part is kept of an output that is longer than wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Its beginning.
    First,
    /// Its end, from the beginning of a line on.
    Last,
}

/// Runs a program to its end. Returns up to `most` bytes of what it prints, errors included, and its exit code.
///
/// # Errors
/// It can't be started, or doesn't end within `timeout`, and is killed with all that it has started.
pub fn run(command: &mut Command, most: usize, kept: Kept, timeout: Duration) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let (mut reader, writer) = io::pipe().map_err(|error| error.to_string())?;
    let errors = writer.try_clone().map_err(|error| error.to_string())?;
    // In a group of its own, so that what it starts can be ended with it.
    let child = command.stdin(Stdio::null()).stdout(writer).stderr(errors).process_group(0).spawn();
    // The command holds the writing end.
    *command = Command::new(&program);
    let child = child.map_err(|error| format!("{program}: {error}"))?;
    let (sender, output) = mpsc::channel();
    thread::spawn(move || {
        let _ = sender.send(match kept {
            Kept::First => read_first(&mut reader, most),
            Kept::Last => read_last(&mut reader, most),
        });
        // What it prints beyond that is read all the same, so that it comes to its end.
        let _ = io::copy(&mut reader, &mut io::sink());
    });
    let result = output.recv_timeout(timeout);
    let left = if result.is_ok() { timeout } else { Duration::ZERO };
    let code = wait(child, left).ok_or_else(|| late(&program, timeout))?;
    let bytes = result.map_err(|_| late(&program, timeout))?.map_err(|error| format!("{program}: {error}"))?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(if code == Some(0) { text.into_owned() } else { format!("{text}({program} ended with {code:?})\n") })
}

fn read_first(reader: &mut impl Read, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(most as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn read_last(reader: &mut impl Read, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut is_cut = false;
    while reader.by_ref().take(most as u64).read_to_end(&mut bytes)? > 0 {
        let beyond = bytes.len().saturating_sub(most);
        is_cut |= beyond > 0;
        bytes.drain(..beyond);
    }
    if is_cut {
        let begun = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| end + 1);
        bytes.drain(..begun);
    }
    Ok(bytes)
}

fn late(program: &str, timeout: Duration) -> String {
    format!("{program}: it didn't end within {} s", timeout.as_secs())
}

/// Waits for the end and returns the exit code. `None` if it had to be killed, with all that it has started.
fn wait(mut child: Child, timeout: Duration) -> Option<Option<i32>> {
    const PAUSE: Duration = Duration::from_millis(10);
    let group = Pid::from_raw(i32::try_from(child.id()).unwrap_or(0));
    let mut left = timeout;
    let ended = loop {
        match child.try_wait() {
            // Something that it has left behind holds the pipe open where there is no time left.
            Ok(Some(status)) if !timeout.is_zero() => break Some(status.code()),
            Ok(None) if !left.is_zero() => {
                thread::sleep(PAUSE);
                left = left.saturating_sub(PAUSE);
            }
            _ => break None,
        }
    };
    if ended.is_none() && group.as_raw() > 0 {
        // What is gone already needs no end.
        let _ = killpg(group, Signal::SIGKILL);
        let _ = child.wait();
    }
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(line: &str, timeout: Duration) -> Result<String, String> {
        run(Command::new("sh").args(["-c", line]), 20, Kept::First, timeout)
    }

    #[test]
    fn output_and_exit_code_are_returned() {
        let long = Duration::from_secs(60);
        assert_eq!(sh("echo a; echo b >&2", long), Ok("a\nb\n".to_owned()));
        assert_eq!(sh("echo a; exit 3", long), Ok("a\n(sh ended with Some(3))\n".to_owned()));
        assert_eq!(sh("yes | head -c 1000000", long), Ok("y\n".repeat(10)));
        let error = run(&mut Command::new("/nowhere/program"), 20, Kept::First, long).expect_err("there is none");
        assert!(error.starts_with("/nowhere/program: No such file"), "{error}");
    }

    /// Of a journal, the lines matter that came last.
    #[test]
    fn end_of_an_output_can_be_kept() {
        let last = |line: &str| run(Command::new("sh").args(["-c", line]), 20, Kept::Last, Duration::from_secs(60));
        assert_eq!(last("seq 100000"), Ok("99998\n99999\n100000\n".to_owned()));
        assert_eq!(last("seq 5"), Ok("1\n2\n3\n4\n5\n".to_owned()));
        assert_eq!(last("printf 12345678901234567890"), Ok("12345678901234567890".to_owned()));
        assert_eq!(last("yes | tr -d '\\n' | head -c 1000"), Ok(String::new()), "no line begins there");
    }

    #[test]
    fn program_that_does_not_end_is_ended_with_what_it_started() {
        let error = sh("sleep 1000 & sleep 1000", Duration::from_millis(200)).expect_err("it sleeps");
        assert!(error.contains("it didn't end within"), "{error}");
    }
}
