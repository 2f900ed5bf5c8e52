//! Breaking text into rows of a terminal, by the width that characters have there.

use unicode_segmentation::UnicodeSegmentation as _;
use unicode_width::UnicodeWidthStr as _;

/// Columns that a text takes.
pub(super) fn width(text: &str) -> usize {
    text.width()
}

/// The beginning of a text that fits into `columns`, with `…` if something is cut off.
pub(super) fn clip(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 1;
    for grapheme in text.graphemes(true) {
        used += width(grapheme);
        if used > columns {
            break;
        }
        out.push_str(grapheme);
    }
    if columns > 0 {
        out.push('…');
    }
    out
}

/// The rows of a text at a width of `columns`: broken at line feeds, between words, and inside words that are too long. Never empty.
pub(super) fn rows(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(2);
    text.split('\n').flat_map(|line| line_rows(line, columns)).collect()
}

fn line_rows(line: &str, columns: usize) -> Vec<String> {
    let mut rows = Vec::new();
    let mut row = String::new();
    let mut used = 0;
    for word in line.split_inclusive(' ') {
        let bare = width(word.trim_end_matches(' '));
        if used > 0 && used + bare > columns {
            rows.push(std::mem::take(&mut row));
            used = 0;
        }
        for grapheme in word.graphemes(true) {
            let wide = width(grapheme);
            if used + wide > columns {
                // A space that does not fit is the break itself.
                if grapheme == " " {
                    continue;
                }
                rows.push(std::mem::take(&mut row));
                used = 0;
            }
            row.push_str(grapheme);
            used += wide;
        }
    }
    rows.push(row);
    rows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_go_to_the_next_row_whole() {
        assert_eq!(rows("one two three", 8), ["one two ", "three"]);
        assert_eq!(rows("a\n\nb", 8), ["a", "", "b"]);
        assert_eq!(rows("", 8), [""]);
        assert_eq!(rows("incomprehensible", 6), ["incomp", "rehens", "ible"]);
    }

    #[test]
    fn wide_characters_count_twice() {
        assert_eq!(rows("你好吗", 4), ["你好", "吗"]);
        assert_eq!(clip("你好吗", 5), "你好…");
        assert_eq!(clip("abc", 3), "abc");
        assert_eq!(clip("abcd", 3), "ab…");
        assert_eq!(clip("abcd", 0), "");
    }

    proptest! {
        #[test]
        fn no_row_is_too_wide_and_only_spaces_vanish(text in "[ a-zé你\u{301}\n]{0,80}", columns in 2..20_usize) {
            let rows = rows(&text, columns);
            prop_assert!(rows.iter().all(|row| width(row) <= columns));
            let keep = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            prop_assert_eq!(keep(&rows.concat()), keep(&text));
        }
    }
}
