//! Tables for people at a terminal: aligned, as wide as the screen, and never wrapped.

use std::io::IsTerminal;

use terminal_size::Width;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// What stands between two columns.
const GAP: &str = "  ";

/// Narrowest that a column of text is cut to, in columns of the terminal.
const MIN_TEXT: usize = 8;

/// Width of a terminal that doesn't know its own, in columns.
const USUAL_WIDTH: usize = 80;

/// The width of the standard output in columns: that of `COLUMNS`, or of the terminal. Without a limit if it is no
/// terminal, so that what reads it gets the whole text.
pub fn screen_width() -> Option<usize> {
    let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()).filter(|columns| *columns > 0);
    let output = std::io::stdout();
    columns.or_else(|| {
        let size = || terminal_size::terminal_size_of(&output).map(|(Width(width), _)| usize::from(width));
        output.is_terminal().then(|| size().filter(|width| *width > 0).unwrap_or(USUAL_WIDTH))
    })
}

/// How a column is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// To the left, cut if the screen is too narrow.
    Text,
    /// To the left, never cut.
    Word,
    /// To the right, never cut.
    Number,
    /// To the left, never cut, and left out if the screen is too narrow for all columns.
    Spare,
    /// The same, to the right.
    SpareNumber,
}

impl Kind {
    /// Returns true if it is written to the right.
    pub const fn is_number(self) -> bool {
        matches!(self, Self::Number | Self::SpareNumber)
    }

    /// Returns true if it is left out where there is no room.
    const fn is_spare(self) -> bool {
        matches!(self, Self::Spare | Self::SpareNumber)
    }
}

/// A table.
#[derive(Debug)]
pub struct Table {
    columns: Vec<(String, Kind)>,
    rows: Vec<Row>,
}

#[derive(Debug)]
enum Row {
    Cells(Vec<String>),
    Title(String),
}

impl Table {
    /// A table with these columns.
    pub fn new(columns: &[(&'static str, Kind)]) -> Self {
        Self::titled(columns.iter().map(|(title, kind)| ((*title).to_owned(), *kind)).collect())
    }

    /// A table whose titles are made up when it is shown.
    pub const fn titled(columns: Vec<(String, Kind)>) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row: a cell for each column, in which nothing is left that a terminal acts upon.
    pub fn row<const CELLS: usize>(&mut self, cells: [String; CELLS]) {
        self.rows.push(Row::Cells(cells.into()));
    }

    /// The same for a table that was made by [`Self::titled`]. Cells that are missing are empty.
    pub fn cells(&mut self, mut cells: Vec<String>) {
        cells.resize(self.columns.len(), String::new());
        self.rows.push(Row::Cells(cells));
    }

    /// Adds a line for itself.
    pub fn title(&mut self, title: String) {
        self.rows.push(Row::Title(title));
    }

    /// The table in lines of at most `width` columns.
    pub fn render(&self, width: Option<usize>) -> String {
        let columns = self.layout(width);
        let header = self.columns.iter().map(|(title, _)| title.clone()).collect();
        let mut text = String::new();
        for row in std::iter::once(&Row::Cells(header)).chain(&self.rows) {
            let line = match row {
                Row::Title(title) => title.clone(),
                Row::Cells(cells) => self.line(cells, &columns),
            };
            text += width.map_or(line.trim_end().to_owned(), |width| cut(line.trim_end(), width)).as_str();
            text.push('\n');
        }
        text
    }

    fn line(&self, cells: &[String], columns: &[Placed]) -> String {
        let pad = |Placed { index, width }: &Placed| {
            let kind = self.columns[*index].1;
            let cell = if kind == Kind::Text { cut(&cells[*index], *width) } else { cells[*index].clone() };
            let space = " ".repeat(width.saturating_sub(cell.width()));
            if kind.is_number() { space + &cell } else { cell + &space }
        };
        columns.iter().map(pad).collect::<Vec<_>>().join(GAP)
    }

    /// The columns that are shown: as wide as the widest cell needs. If the table doesn't fit, the spare columns go, the last
    /// one first, and then the widest of those that may be cut give way.
    fn layout(&self, limit: Option<usize>) -> Vec<Placed> {
        let widest = |index: usize| {
            let cells = self.rows.iter().filter_map(|row| match row {
                Row::Cells(cells) => Some(cells[index].width()),
                Row::Title(_) => None,
            });
            cells.chain([self.columns[index].0.width()]).max().unwrap_or(0)
        };
        let mut columns: Vec<Placed> =
            (0..self.columns.len()).map(|index| Placed { index, width: widest(index) }).collect();
        let Some(limit) = limit else { return columns };
        while total(&columns) > limit {
            let spare = columns.iter().rposition(|column| self.columns[column.index].1.is_spare());
            let Some(spare) = spare else { break };
            columns.remove(spare);
        }
        while total(&columns) > limit {
            let texts = columns.iter_mut().filter(|column| self.columns[column.index].1 == Kind::Text);
            let Some(widest) = texts.max_by_key(|column| column.width).filter(|it| it.width > MIN_TEXT) else { break };
            widest.width -= 1;
        }
        columns
    }
}

/// A column on the screen.
struct Placed {
    index: usize,
    width: usize,
}

/// The width of a line.
fn total(columns: &[Placed]) -> usize {
    columns.iter().map(|column| column.width).sum::<usize>() + GAP.len() * columns.len().saturating_sub(1)
}

/// Text of at most `width` columns, with an ellipsis where something is missing.
pub fn cut(text: &str, width: usize) -> String {
    const ELLIPSIS: char = '…';
    if text.width() <= width {
        return text.to_owned();
    }
    let mut room = width.saturating_sub(1);
    let mut result = String::new();
    for char in text.chars() {
        let Some(rest) = room.checked_sub(char.width().unwrap_or(0)) else { break };
        room = rest;
        result.push(char);
    }
    if width > 0 {
        result.push(ELLIPSIS);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&[("ID", Kind::Number), ("RULE", Kind::Text), ("BYTES", Kind::Number)]);
        table.title("group live".to_owned());
        table.row(["7".to_owned(), "allow 10.0.0.0/8 any tcp 80".to_owned(), "1.5 KiB".to_owned()]);
        table.row(["1234".to_owned(), "deny".to_owned(), "0 B".to_owned()]);
        table
    }

    #[test]
    fn columns_are_aligned_and_give_way_to_the_screen() {
        let whole = "  ID  RULE                           BYTES\ngroup live\n   \
                     7  allow 10.0.0.0/8 any tcp 80  1.5 KiB\n1234  deny                             0 B\n";
        assert_eq!(table().render(None), whole);
        assert_eq!(table().render(Some(80)), whole);
        let narrow =
            "  ID  RULE            BYTES\ngroup live\n   7  allow 10.0.…  1.5 KiB\n1234  deny              0 B\n";
        assert_eq!(table().render(Some(27)), narrow);
    }

    #[test]
    fn spare_columns_go_before_anything_is_cut() {
        let mut table = Table::new(&[("A", Kind::Spare), ("TEXT", Kind::Text), ("B", Kind::Spare)]);
        table.row(["aaaa".to_owned(), "0123456789".to_owned(), "bbbb".to_owned()]);
        assert_eq!(table.render(Some(22)), "A     TEXT        B\naaaa  0123456789  bbbb\n");
        assert_eq!(table.render(Some(21)), "A     TEXT\naaaa  0123456789\n");
        assert_eq!(table.render(Some(15)), "TEXT\n0123456789\n");
        assert_eq!(table.render(Some(9)), "TEXT\n01234567…\n");
    }

    #[test]
    fn no_line_is_wider_than_any_screen() {
        for width in 0..60 {
            let text = table().render(Some(width));
            assert_eq!(text.lines().count(), 4);
            assert!(text.lines().all(|line| line.width() <= width), "{width}: {text}");
        }
    }

    #[test]
    fn wide_characters_are_cut_whole() {
        assert_eq!(cut("漢字", 4), "漢字");
        assert_eq!(cut("漢字", 3), "漢…");
        assert_eq!(cut("漢字", 2), "…");
        assert_eq!(cut("abc", 0), "");
    }
}
