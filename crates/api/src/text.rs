//! Texts from outside that people read: names, reasons and options that somebody else has chosen, in a terminal or in a log.

/// Returns true if a character must not be shown as it is. Those are control characters, which begin lines and which terminals act upon,
/// invisible ones, and those after which the rest may be shown in another order (Unicode Standard Annex 9).
pub fn needs_escape(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::needs_escape;

    #[test]
    fn letters_of_all_languages_are_shown() {
        assert!("aü€漢\u{5d0}\u{627} 😀".chars().all(|char| !needs_escape(char)));
        let hidden = "\n\r\t\0\u{1b}\u{7f}\u{85}\u{9b}\u{61c}\u{200b}\u{200e}\u{2028}\u{2029}\u{202e}\u{2060}\u{2066}\u{2069}\u{feff}";
        assert!(hidden.chars().all(needs_escape));
    }
}
