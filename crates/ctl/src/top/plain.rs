//! Reports as text, for pipes and files.

use std::thread;
use std::time::{Duration, Instant};

use super::Choice;
use super::feed::Sources;
use super::router::Router;
use super::sample::{self, Wanted};
use super::view::View;
use crate::client::Client;
use crate::failure::{Done, Failed};
use crate::find;
use crate::session::Session;
use crate::text::Printable;

/// A router with the connection to it, if there is one.
struct Asked {
    router: Router,
    client: Option<Client>,
}

/// Prints so many reports, without an end if it is 0. The first one comes after `delay`, since rates need two looks.
pub fn run(
    session: &mut Session<'_>,
    sources: &Sources,
    choice: &Choice,
    delay: Duration,
    number: u64,
) -> Result<Done, Failed> {
    let timeout = session.common.wait();
    let wanted = Wanted { view: choice.view, pid: choice.pid };
    let mut asked = first_look(session, sources, choice.view)?;
    for asked in &mut asked {
        asked.look(sources, wanted, timeout);
    }
    if let [Asked { router: Router { socket, trouble: Some(trouble), .. }, .. }] = asked.as_slice() {
        return Err(Failed::Unreachable(format!("{}: {trouble}", Printable(socket))));
    }
    let mut printed = 0;
    loop {
        thread::sleep(delay);
        for asked in &mut asked {
            asked.look(sources, wanted, timeout);
        }
        let routers: Vec<Router> = asked.iter().map(|asked| asked.router.clone()).collect();
        if printed > 0 {
            writeln!(session.output)?;
        }
        session.output.write_all(report(&routers, choice, session.width).as_bytes())?;
        // Whoever reads it shall have it now.
        session.output.flush()?;
        printed += 1;
        if printed == number {
            return Ok(Done::Well);
        }
    }
}

/// The router that is named, or the only one; for the list of routers, all.
fn first_look(session: &Session<'_>, sources: &Sources, view: View) -> Result<Vec<Asked>, Failed> {
    let timeout = session.common.wait();
    let several = if view == View::Routers && sources.device().is_none() { sources.sockets()? } else { Vec::new() };
    if several.len() > 1 {
        return Ok(several.into_iter().map(|socket| Asked { router: Router::new(socket), client: None }).collect());
    }
    let client = find::connect(session.common.wanted(), timeout)?;
    Ok(vec![Asked { router: Router::new(client.name().to_owned()), client: Some(client) }])
}

impl Asked {
    fn look(&mut self, sources: &Sources, wanted: Wanted, timeout: Duration) {
        let socket = self.router.socket.clone();
        let client = self.client.take().map_or_else(|| sources.connect(&socket, timeout), Ok);
        let result = client.and_then(|mut client| {
            let sample = sample::take(&mut client, wanted)?;
            self.client = Some(client);
            Ok(sample)
        });
        self.router.take(result.map_err(|failed| failed.to_string()), Instant::now());
    }
}

/// One report.
pub fn report(routers: &[Router], choice: &Choice, width: Option<usize>) -> String {
    let mut lines = Vec::new();
    let router = if choice.view == View::Routers { None } else { routers.first() };
    if let Some(router) = router {
        lines.extend(router.summary().into_iter().filter(|line| !line.is_empty()));
        lines.extend(router.trouble.clone());
    }
    let mut grid = choice.view.grid(router.and_then(Router::span), choice.pid, routers);
    grid.filter(&choice.filter);
    grid.sort(choice.sorting());
    match grid.rows.is_empty() {
        true => lines.push(grid.nothing.to_owned()),
        false => lines.extend(grid.lines(width, None)),
    }
    lines.extend(choice.view.left_out(router.and_then(Router::span)));
    lines.into_iter().map(|line| width.map_or(line.clone(), |width| crate::table::cut(&line, width)) + "\n").collect()
}
