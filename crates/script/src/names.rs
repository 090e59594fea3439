//! Names that a script has used, and what the policy has under them.

use super::limits::MAX_NAMES;

/// Names with the numbers by which a script uses them, and what was found under each of them.
#[derive(Debug)]
pub struct Names<T> {
    entries: Vec<(String, Option<T>)>,
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self { entries: Vec::new() }
    }
}

impl<T> Names<T> {
    /// Returns the number of a name; `None` if there are too many names. `find` is asked for what the policy has under a new
    /// name.
    pub fn number(&mut self, name: &str, find: impl FnOnce(&str) -> Option<T>) -> Option<usize> {
        if let Some(number) = self.entries.iter().position(|(known, _)| known == name) {
            return Some(number);
        }
        if self.entries.len() == MAX_NAMES {
            return None;
        }
        self.entries.push((name.to_owned(), find(name)));
        Some(self.entries.len() - 1)
    }

    /// Looks all names up anew.
    pub fn refresh(&mut self, find: impl Fn(&str) -> Option<T>) {
        for (name, found) in &mut self.entries {
            *found = find(name);
        }
    }

    /// Returns a name with what was found under it.
    pub fn get(&self, number: usize) -> Option<&(String, Option<T>)> {
        self.entries.get(number)
    }

    /// Returns the names.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(name, _)| name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_numbers_and_are_looked_up_anew() {
        let mut names = Names::default();
        assert_eq!(names.number("a", |_| Some(1)), Some(0));
        assert_eq!(names.number("b", |_| None), Some(1));
        assert_eq!(names.number("a", |_| unreachable!("it is known")), Some(0));
        names.refresh(|name| (name == "b").then_some(2));
        assert_eq!(names.get(0), Some(&("a".to_owned(), None)));
        assert_eq!(names.get(1), Some(&("b".to_owned(), Some(2))));
        assert_eq!(names.get(2), None);
        for index in 2..MAX_NAMES {
            assert_eq!(names.number(&format!("n{index}"), |_| None), Some(index));
        }
        assert_eq!(names.number("too many", |_| None), None);
    }
}
