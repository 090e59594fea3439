//! The state of the screen, and what keys do with it. It knows no terminal.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::Choice;
use super::feed::{Focus, Update};
use super::grid::Grid;
use super::router::Router;
use super::sample::Wanted;
use super::view::View;

/// Longest filter, in characters.
const MAX_FILTER: usize = 100;

/// The keys and what they do, as the help shows them.
pub const KEYS: [(&str, &str); 14] = [
    ("1 to 6, Tab, ←, →", "another view"),
    ("↑, ↓, PgUp, PgDn, Home, End", "choose a row"),
    ("Enter", "flows of the peer; the router of the row"),
    ("d", "drops of the peer, by reason"),
    ("l", "limits on the peer"),
    ("a", "all peers again"),
    ("s, S", "sort by the next or last column"),
    ("r", "sort the other way round"),
    ("/", "show rows with a text; Enter keeps it"),
    ("Esc", "no filter; all peers again"),
    ("p, Space", "pause, and go on"),
    ("n", "the next router of this host"),
    ("h, ?", "this help, and back"),
    ("q, Ctrl-C", "quit"),
];

/// What a key wants of the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// To leave.
    Quit,
    /// To be stopped, as Ctrl-Z does in shells.
    Suspend,
    /// To be drawn anew: something else has written to it.
    Redraw,
}

/// The row that is chosen in a view.
#[derive(Debug, Clone, Default)]
struct Cursor {
    /// What the row is about; without it, the row at `index`, whichever that is.
    key: Option<String>,
    index: usize,
}

/// The state.
#[derive(Debug)]
pub struct App {
    /// What is shown.
    pub choice: Choice,
    /// The filter that is being typed.
    pub typed: Option<String>,
    /// True if the help is shown.
    pub shows_help: bool,
    /// The first row on the screen.
    pub offset: usize,
    /// Rows on the screen.
    pub page: usize,
    routers: Vec<Router>,
    /// What is shown as long as it is paused.
    paused: Option<Vec<Router>>,
    /// The socket of the router that the user has chosen.
    chosen: Option<String>,
    cursors: [Cursor; View::ALL.len()],
    delay: Duration,
}

impl App {
    /// Nothing is known yet. Answers come each `delay`.
    pub fn new(choice: Choice, delay: Duration) -> Self {
        Self {
            choice,
            typed: None,
            shows_help: false,
            offset: 0,
            page: 1,
            routers: Vec::new(),
            paused: None,
            chosen: None,
            cursors: Default::default(),
            delay,
        }
    }

    /// Takes what a router has said.
    pub fn hear(&mut self, update: Update, now: Instant) {
        let place = self.routers.binary_search_by(|router| router.socket.cmp(&update.socket));
        let place = place.unwrap_or_else(|place| {
            self.routers.insert(place, Router::new(update.socket));
            place
        });
        self.routers[place].take(update.result, now);
    }

    /// True if what is shown doesn't change.
    pub const fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// The routers as they are shown.
    pub fn routers(&self) -> &[Router] {
        self.paused.as_deref().unwrap_or(&self.routers)
    }

    /// The router that is shown: the one that was chosen, else the first one that answers.
    pub fn router(&self) -> Option<&Router> {
        let routers = self.routers();
        let chosen = routers.iter().find(|router| self.chosen.as_ref() == Some(&router.socket));
        chosen.or_else(|| routers.iter().find(|router| router.span().is_some())).or_else(|| routers.first())
    }

    /// What is wrong with that router.
    pub fn warning(&self, now: Instant) -> Option<String> {
        // While it is paused, nothing new is expected.
        let patience = self.delay * 2 + Duration::from_secs(1);
        self.router().filter(|_| !self.is_paused()).and_then(|router| router.warning(now, patience))
    }

    /// What is to be asked for.
    pub fn focus(&self) -> Focus {
        let socket = self.router().map(|router| router.socket.clone());
        Focus { socket, wanted: Wanted { view: self.choice.view, pid: self.choice.pid } }
    }

    /// The rows that are shown.
    pub fn grid(&self) -> Grid {
        let span = self.router().and_then(Router::span);
        let mut grid = self.choice.view.grid(span, self.choice.pid, self.routers());
        grid.filter(&self.filter());
        grid.sort(self.choice.sorting());
        grid
    }

    /// The filter, also while it is being typed.
    pub fn filter(&self) -> Cow<'_, str> {
        Cow::Borrowed(self.typed.as_deref().unwrap_or(&self.choice.filter))
    }

    /// The place of the row that is chosen. It stays on what it is about.
    pub fn cursor(&mut self, grid: &Grid) -> usize {
        let cursor = &mut self.cursors[self.choice.view.number()];
        let last = grid.rows.len().saturating_sub(1);
        let place = cursor.key.as_ref().and_then(|key| grid.rows.iter().position(|row| row.key == *key));
        cursor.index = place.unwrap_or(cursor.index).min(last);
        if cursor.key.is_some() {
            cursor.key = grid.rows.get(cursor.index).map(|row| row.key.clone());
        }
        cursor.index
    }

    /// Does what a key stands for.
    pub fn key(&mut self, key: KeyEvent) -> Effect {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Effect::Quit,
                KeyCode::Char('z') => Effect::Suspend,
                KeyCode::Char('l') => Effect::Redraw,
                _ => Effect::None,
            };
        }
        if self.typed.is_some() {
            self.type_filter(key.code);
            return Effect::None;
        }
        match key.code {
            KeyCode::Char('q') => return Effect::Quit,
            KeyCode::Char('h' | '?') => self.shows_help = !self.shows_help,
            KeyCode::Esc if self.shows_help => self.shows_help = false,
            KeyCode::Esc if !self.choice.filter.is_empty() => self.choice.filter.clear(),
            KeyCode::Esc | KeyCode::Char('a') => self.choice.pid = None,
            KeyCode::Char(digit @ '1'..='6') => self.show(View::ALL[digit as usize - '1' as usize]),
            KeyCode::Tab | KeyCode::Right => self.turn(1),
            KeyCode::BackTab | KeyCode::Left => self.turn(View::ALL.len() - 1),
            KeyCode::Up | KeyCode::Char('k') => self.step(|index, _| index.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.step(|index, _| index.saturating_add(1)),
            KeyCode::PageUp => self.step(|index, page| index.saturating_sub(page)),
            KeyCode::PageDown => self.step(usize::saturating_add),
            KeyCode::Home | KeyCode::Char('g') => self.step(|_, _| 0),
            KeyCode::End | KeyCode::Char('G') => self.step(|_, _| usize::MAX),
            KeyCode::Enter => self.enter(),
            KeyCode::Char('d') => self.of_peer(View::Drops),
            KeyCode::Char('l') => self.of_peer(View::Shaper),
            KeyCode::Char('s' | '>') => self.sort_by(1),
            KeyCode::Char('S' | '<') => self.sort_by(self.choice.view.columns().len() - 1),
            KeyCode::Char('r') => {
                let sorting = &mut self.choice.sortings[self.choice.view.number()];
                sorting.is_reversed = !sorting.is_reversed;
            }
            KeyCode::Char('/') => self.typed = Some(self.choice.filter.clone()),
            KeyCode::Char('p' | ' ') => {
                self.paused = if self.is_paused() { None } else { Some(self.routers.clone()) };
            }
            KeyCode::Char('n') => self.next_router(),
            _ => {}
        }
        Effect::None
    }

    fn type_filter(&mut self, code: KeyCode) {
        let Some(typed) = &mut self.typed else { return };
        match code {
            KeyCode::Enter => self.choice.filter = self.typed.take().unwrap_or_default(),
            KeyCode::Esc => self.typed = None,
            KeyCode::Backspace => _ = typed.pop(),
            KeyCode::Char(char) if typed.chars().count() < MAX_FILTER => typed.push(char),
            _ => {}
        }
    }

    fn show(&mut self, view: View) {
        self.choice.view = view;
        self.shows_help = false;
        self.offset = 0;
    }

    fn turn(&mut self, by: usize) {
        self.show(View::ALL[(self.choice.view.number() + by) % View::ALL.len()]);
    }

    /// Chooses another row, by the place of the present one and the rows on a page.
    fn step(&mut self, place: impl FnOnce(usize, usize) -> usize) {
        let grid = self.grid();
        let index = place(self.cursor(&grid), self.page.max(1)).min(grid.rows.len().saturating_sub(1));
        let key = grid.rows.get(index).map(|row| row.key.clone());
        self.cursors[self.choice.view.number()] = Cursor { key, index };
    }

    fn chosen_key(&mut self) -> Option<String> {
        let grid = self.grid();
        let index = self.cursor(&grid);
        grid.rows.get(index).map(|row| row.key.clone())
    }

    fn enter(&mut self) {
        match self.choice.view {
            View::Peers => self.of_peer(View::Flows),
            View::Routers => {
                if let Some(socket) = self.chosen_key() {
                    self.choose(socket);
                    self.show(View::Peers);
                }
            }
            View::Flows | View::Drops | View::Trunks | View::Shaper => {}
        }
    }

    /// Shows a view of the peer that is chosen among all.
    fn of_peer(&mut self, view: View) {
        if self.choice.view != View::Peers {
            return;
        }
        // The key of a peer begins with its process.
        let pid = self.chosen_key().and_then(|key| key.split('/').next()?.parse().ok());
        if let Some(pid) = pid {
            self.choice.pid = Some(pid);
            self.choice.filter.clear();
            self.show(view);
        }
    }

    fn sort_by(&mut self, by: usize) {
        let count = self.choice.view.columns().len();
        let sorting = &mut self.choice.sortings[self.choice.view.number()];
        sorting.column = (sorting.column + by) % count;
    }

    fn next_router(&mut self) {
        let routers = self.routers();
        let place = self.router().and_then(|shown| routers.iter().position(|router| router.socket == shown.socket));
        let next = place.and_then(|place| routers.get((place + 1) % routers.len()));
        if let Some(socket) = next.map(|router| router.socket.clone()) {
            self.choose(socket);
        }
    }

    fn choose(&mut self, socket: String) {
        if self.router().is_some_and(|router| router.socket != socket) {
            // Processes of another router are other ones.
            self.choice.pid = None;
            for view in [View::Peers, View::Flows, View::Drops, View::Trunks, View::Shaper] {
                self.cursors[view.number()] = Cursor::default();
            }
        }
        self.chosen = Some(socket);
    }
}
