//! Text from others, made harmless for a terminal.
//!
//! A terminal obeys what it is sent: escape sequences move the cursor, set the title, answer back as if typed. And some characters that are no controls
//! to a terminal still change how a line reads: overrides of writing direction can make a name or a word show as another. None of them is needed in a
//! chat, so each is shown as a visible sign.

/// The text with every character that a terminal or reader would obey replaced by one that is only shown. Line feeds stay, tabs become spaces.
pub(super) fn lines(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\r' if chars.peek() == Some(&'\n') => {}
            '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}' => out.push('\n'),
            '\t' => out.push_str("    "),
            c => out.push(visible(c)),
        }
    }
    out
}

/// As [`lines`], on one line: for names, titles and line-based output.
pub(super) fn one_line(text: &str) -> String {
    lines(text).replace('\n', " ")
}

/// As [`lines`], on one line from which the original breaks can be read back: `\n` for a line feed, `\\` for a backslash.
pub(super) fn escaped(text: &str) -> String {
    lines(text).replace('\\', "\\\\").replace('\n', "\\n")
}

fn visible(c: char) -> char {
    match c {
        // The pictures of controls are laid out like the controls themselves.
        '\0'..='\x1f' => char::from_u32(0x2400 + u32::from(c)).unwrap_or('\u{fffd}'),
        '\x7f' => '\u{2421}',
        // C1 controls (some terminals take U+009B for ESC [), overrides and isolates of direction, invisible separators, tags, and the byte order mark.
        '\u{80}'..='\u{9f}'
        | '\u{61c}'
        | '\u{200e}'
        | '\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e001f}' => '\u{fffd}',
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_become_visible() {
        assert_eq!(lines("\x1b]0;owned\x07\x1b[2J"), "␛]0;owned␇␛[2J");
        assert_eq!(lines("\u{9b}31m"), "\u{fffd}31m");
        assert_eq!(lines("a\u{8}b\x7f"), "a␈b␡");
    }

    #[test]
    fn no_control_survives_whatever_comes() {
        let all: String = (0..0x11_0000_u32).filter_map(char::from_u32).collect();
        for text in [lines(&all), one_line(&all), escaped(&all)] {
            assert!(text.chars().all(|c| c == '\n' || !c.is_control()));
            assert!(!text.contains(['\u{202e}', '\u{2066}', '\u{200f}']));
        }
        assert!(!one_line(&all).contains('\n') && !escaped(&all).contains('\n'));
    }

    #[test]
    fn ordinary_text_of_any_script_is_left_alone() {
        for text in ["grüße, 你好, مرحبا, שלום", "👩\u{200d}👩\u{200d}👧 e\u{301}", "नमस्ते"] {
            assert_eq!(lines(text), text);
        }
    }

    #[test]
    fn breaks_are_kept_or_written_out() {
        assert_eq!(lines("a\r\nb\rc\u{2028}d\te"), "a\nb\nc\nd    e");
        assert_eq!(one_line("a\nb"), "a b");
        assert_eq!(escaped("a\\n\nb"), "a\\\\n\\nb");
    }
}
