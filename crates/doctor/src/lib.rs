//! `tuntap-doctor`: examines a set-up without starting it. Facts come from uWSGI's own reading of the files and from
//! [`tuntap_survey`]. The checks are pure: they turn facts into findings.

mod checks;
mod finding;
mod instance;
mod probe;
mod reading;
mod running;
mod setup;

use std::io::{self, Write};
use std::path::Path;

pub use finding::{Finding, Severity};
pub use reading::{Reading, Task};

/// Examines the files of a router and its vassals and writes what it finds. `own` is where this plugin was loaded from.
/// Returns true if nothing is wrong.
pub fn examine(files: &[String], own: &Path, out: &mut impl Write) -> bool {
    let result = setup::examine(files, own).and_then(|sections| write(&sections, out));
    result.unwrap_or_else(|error| {
        // If standard output is what failed, nobody can be told.
        let _ = writeln!(out, "the examination failed: {}", finding::Printable(&error.to_string()));
        false
    })
}

fn write(sections: &[setup::Section], out: &mut impl Write) -> io::Result<bool> {
    for section in sections {
        writeln!(out, "{}", finding::Printable(&section.title))?;
        section.findings.iter().try_for_each(|finding| writeln!(out, "{finding}"))?;
    }
    let count = |severity| {
        sections.iter().flat_map(|section| &section.findings).filter(|finding| finding.severity == severity).count()
    };
    let (wrong, warnings) = (count(Severity::Wrong), count(Severity::Warning));
    let warnings = match warnings {
        0 => String::new(),
        1 => ", 1 warning".to_owned(),
        some => format!(", {some} warnings"),
    };
    match wrong {
        0 => writeln!(out, "nothing is wrong{warnings}")?,
        1 => writeln!(out, "1 thing is wrong{warnings}")?,
        some => writeln!(out, "{some} things are wrong{warnings}")?,
    }
    out.flush()?;
    Ok(wrong == 0)
}
