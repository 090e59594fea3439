//! The options for somebody at a terminal.

use super::{SECTIONS, facts, of_scope, separator, written_name};

/// Width of the text, in columns: what the smallest terminals have.
const WIDTH: usize = 80;

/// Before each line of an option's text.
const INDENT: &str = "    ";

/// All options, each with its syntax and a few lines.
pub fn render() -> String {
    let mut text = String::new();
    for (scope, title) in SECTIONS {
        text += &format!("{title}:\n\n");
        for option in of_scope(scope) {
            text += &format!("{}{}{}\n", written_name(option), separator(option), option.syntax);
            let layout = textwrap::Options::new(WIDTH).initial_indent(INDENT).subsequent_indent(INDENT);
            for paragraph in
                [option.help, &facts(option, option.help)].into_iter().filter(|paragraph| !paragraph.is_empty())
            {
                text += &textwrap::fill(paragraph, &layout);
                text.push('\n');
            }
            text.push('\n');
        }
    }
    text.truncate(text.trim_end().len() + 1);
    text
}
