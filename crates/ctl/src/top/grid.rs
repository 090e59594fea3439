//! What a view shows: rows that can be sorted by any column, and filtered by a word.

use std::cmp::Ordering;

use crate::table::{Kind, Table};

/// A column: its title, and how it is written.
pub type Column = (&'static str, Kind);

/// A cell: what is shown, and what it is sorted by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    text: String,
    order: Order,
}

/// What a cell is sorted by. What is unknown comes last.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Order {
    Number(u64),
    Text(String),
    Unknown,
}

impl Cell {
    /// Text, in which nothing is left that a terminal acts upon.
    pub fn text(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { order: Order::Text(text.to_lowercase()), text }
    }

    /// A number, as it is shown.
    pub fn number(number: u64, shown: impl ToString) -> Self {
        Self { text: shown.to_string(), order: Order::Number(number) }
    }

    /// A number that may not be known yet, and is shown by `show`.
    pub fn known<T: ToString>(number: Option<u64>, show: impl FnOnce(u64) -> T) -> Self {
        number.map_or_else(
            || Self { text: "-".to_owned(), order: Order::Unknown },
            |number| Self::number(number, show(number)),
        )
    }
}

/// A row. Its key stays the same as long as it is about the same thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What it is about.
    pub key: String,
    /// A cell for each column.
    pub cells: Vec<Cell>,
}

/// The order of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sorting {
    /// The column.
    pub column: usize,
    /// True if it is the other way round than usual: numbers begin with the greatest one, text with its first letters.
    pub is_reversed: bool,
}

/// Rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grid {
    /// The columns.
    pub columns: &'static [Column],
    /// The rows.
    pub rows: Vec<Row>,
    /// Said in place of rows if there are none.
    pub nothing: &'static str,
}

impl Grid {
    /// Leaves only rows of which one cell has this text in it, in capitals or not.
    pub fn filter(&mut self, text: &str) {
        let text = text.to_lowercase();
        if !self.rows.is_empty() {
            self.nothing = "no row has the text of the filter in it";
        }
        self.rows.retain(|row| row.cells.iter().any(|cell| cell.text.to_lowercase().contains(&text)));
    }

    /// Sorts the rows. Rows that are equal are in the order of their keys, so that none jumps about.
    pub fn sort(&mut self, sorting: Sorting) {
        self.rows.sort_by(|one, other| {
            let (first, second) = (one.cells.get(sorting.column), other.cells.get(sorting.column));
            let ordering = match (first, second) {
                (Some(first), Some(second)) => compare(&first.order, &second.order, sorting.is_reversed),
                _ => Ordering::Equal,
            };
            ordering.then_with(|| one.key.cmp(&other.key))
        });
    }

    /// The lines: titles, and the rows. A column is marked that they are sorted by.
    pub fn lines(&self, width: Option<usize>, marked: Option<Sorting>) -> Vec<String> {
        let title = |(index, (title, kind)): (usize, &Column)| {
            let mark = match marked.filter(|sorting| sorting.column == index) {
                Some(Sorting { is_reversed: true, .. }) => "▲",
                Some(_) => "▼",
                None => "",
            };
            (format!("{title}{mark}"), *kind)
        };
        let mut table = Table::titled(self.columns.iter().enumerate().map(title).collect());
        for row in &self.rows {
            table.cells(row.cells.iter().map(|cell| cell.text.clone()).collect());
        }
        table.render(width).lines().map(str::to_owned).collect()
    }
}

fn compare(first: &Order, second: &Order, is_reversed: bool) -> Ordering {
    let turned = |ordering: Ordering| if is_reversed { ordering.reverse() } else { ordering };
    match (first, second) {
        (Order::Number(first), Order::Number(second)) => turned(second.cmp(first)),
        (Order::Text(first), Order::Text(second)) => turned(first.cmp(second)),
        (Order::Unknown, Order::Unknown) => Ordering::Equal,
        (Order::Unknown, _) => Ordering::Greater,
        (_, Order::Unknown) => Ordering::Less,
        (Order::Number(_), Order::Text(_)) => Ordering::Less,
        (Order::Text(_), Order::Number(_)) => Ordering::Greater,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> Grid {
        let row = |key: &str, name: &str, number: Option<u64>| Row {
            key: key.to_owned(),
            cells: vec![Cell::text(name), Cell::known(number, |number| format!("{number} x"))],
        };
        Grid {
            columns: &[("NAME", Kind::Text), ("RATE", Kind::Number)],
            rows: vec![row("1", "b", None), row("2", "A", Some(7)), row("3", "c", Some(70)), row("0", "d", Some(7))],
            nothing: "",
        }
    }

    fn keys(grid: &Grid) -> String {
        grid.rows.iter().map(|row| row.key.as_str()).collect()
    }

    #[test]
    fn greatest_numbers_and_first_letters_come_first() {
        let mut grid = grid();
        for (column, is_reversed, wanted) in
            [(1, false, "3021"), (1, true, "0231"), (0, false, "2130"), (0, true, "0312"), (9, false, "0123")]
        {
            grid.sort(Sorting { column, is_reversed });
            assert_eq!(keys(&grid), wanted, "{column} {is_reversed}");
        }
    }

    #[test]
    fn filter_looks_at_all_cells() {
        for (text, wanted) in [("a", "2"), ("7 X", "20"), ("", "1230"), ("nothing", "")] {
            let mut grid = grid();
            grid.filter(text);
            grid.sort(Sorting { column: 9, is_reversed: false });
            let mut wanted: Vec<char> = wanted.chars().collect();
            wanted.sort_unstable();
            assert_eq!(keys(&grid), wanted.into_iter().collect::<String>(), "{text}");
        }
    }

    #[test]
    fn titles_say_what_rows_are_sorted_by() {
        let lines = grid().lines(None, Some(Sorting { column: 1, is_reversed: true }));
        assert_eq!(lines[..2], ["NAME  RATE▲", "b         -"]);
    }
}
