//! The loop on a terminal: answers and keys go in, the screen comes out. Whatever ends it, the terminal is as before.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, raise};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::Choice;
use super::app::{App, Effect};
use super::feed::{self, Sources};
use super::screen;
use crate::failure::{Done, Failed};
use crate::find;
use crate::session::Common;

/// How long a key is waited for, before answers are looked for.
const TICK: Duration = Duration::from_millis(100);

/// The screen is drawn at least so often, for what it says about time.
const REDRAW: Duration = Duration::from_secs(1);

/// The screen of the terminal, which is given back at the end.
struct Screen(DefaultTerminal);

impl Screen {
    fn new() -> io::Result<Self> {
        ratatui::try_init().map(Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Somebody may have closed the terminal.
        let _ = ratatui::try_restore();
    }
}

/// Shows it until it is left.
///
/// # Errors
/// There is no router at the beginning, or the terminal can't be used.
pub fn run(common: &Common, sources: Sources, choice: Choice, delay: Duration) -> Result<Done, Failed> {
    if !io::stdin().is_terminal() {
        return Err(Failed::Local("standard input is no terminal, which keys come from: use --once or -n".to_owned()));
    }
    look_for_routers(common, &sources)?;
    let is_over = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGHUP, SIGINT, SIGQUIT] {
        signal_hook::flag::register(signal, Arc::clone(&is_over))?;
    }
    let mut app = App::new(choice, delay);
    let (focus, updates) = feed::start(sources, app.focus(), delay, common.wait());
    let mut screen = Screen::new()?;
    let mut drawn: Option<Instant> = None;
    while !is_over.load(Ordering::Relaxed) {
        let now = Instant::now();
        let mut is_changed = drawn.is_none_or(|drawn| now >= drawn + REDRAW);
        while let Ok(update) = updates.try_recv() {
            app.hear(update, now);
            is_changed = true;
        }
        focus.set(app.focus());
        if is_changed {
            screen.0.draw(|frame| screen::draw(frame, &mut app, now))?;
            drawn = Some(now);
        }
        if is_closed_within(TICK) {
            break;
        }
        // Also after the time is over, because a signal may have told of another size.
        if !event::poll(Duration::ZERO)? {
            continue;
        }
        drawn = None;
        let effect = match event::read()? {
            Event::Key(key) if key.kind != KeyEventKind::Release => app.key(key),
            _ => Effect::None,
        };
        match effect {
            Effect::None => {}
            Effect::Quit => break,
            Effect::Redraw => screen.0.clear()?,
            Effect::Suspend => {
                drop(screen);
                raise(Signal::SIGTSTP).map_err(io::Error::from)?;
                screen = Screen::new()?;
                screen.0.clear()?;
            }
        }
    }
    Ok(Done::Well)
}

/// Waits for a key or a signal. Returns true if the other end of the terminal is closed (poll(2): `POLLHUP`). crossterm would read for ever
/// from such a terminal, and the signal that tells of it goes to processes of the terminal's session only.
fn is_closed_within(time: Duration) -> bool {
    let stdin = io::stdin();
    let mut polled = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    let gone = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
    let time = PollTimeout::try_from(time).unwrap_or(PollTimeout::ZERO);
    poll(&mut polled, time).is_ok() && polled[0].revents().is_some_and(|seen| seen.intersects(gone))
}

/// Fails as other commands do if there is no router. Later ones may come and go.
fn look_for_routers(common: &Common, sources: &Sources) -> Result<(), Failed> {
    let is_one_of_several = sources.device().is_none() && sources.sockets()?.len() > 1;
    if !is_one_of_several {
        find::connect(common.wanted(), common.wait())?;
    }
    Ok(())
}
