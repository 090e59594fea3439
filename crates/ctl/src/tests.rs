use super::*;

#[test]
fn command_line_is_consistent() {
    Arguments::command().debug_assert();
}
