//! Text from users on a terminal.

/// Returns `text` with an escape sequence in place of each character that would do something else than
/// be shown: control characters, which may begin a line or command the terminal, and the characters
/// that change the direction of text.
pub(crate) fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for char in text.chars() {
        let has_effect = char.is_control()
            || matches!(char, '\u{2028}' | '\u{2029}')
            || matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}')
            || matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if has_effect {
            printable.extend(char.escape_default());
        } else {
            printable.push(char);
        }
    }
    printable
}
