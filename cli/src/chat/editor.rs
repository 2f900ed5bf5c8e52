//! The line being written: text and a cursor that never stands inside a character as people see it.

use unicode_segmentation::UnicodeSegmentation as _;

/// Text beyond this is not taken; the SDK refuses longer messages.
const MAX_BYTES: usize = kith_client::MAX_TEXT_BYTES;

/// An edited text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Editor {
    text: String,
    /// Byte offset; always at a grapheme boundary.
    cursor: usize,
}

impl Editor {
    /// The text.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The text before the cursor.
    pub(super) fn before_cursor(&self) -> &str {
        &self.text[..self.cursor]
    }

    /// Whether nothing is written.
    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Takes the text out.
    pub(super) fn take(&mut self) -> String {
        self.cursor = 0;
        std::mem::take(&mut self.text)
    }

    /// Puts text at the cursor; as much as there is room for.
    pub(super) fn insert(&mut self, text: &str) {
        for grapheme in text.graphemes(true) {
            if self.text.len() + grapheme.len() > MAX_BYTES {
                return;
            }
            self.text.insert_str(self.cursor, grapheme);
            self.cursor += grapheme.len();
        }
        // What was inserted may have joined with what follows.
        self.cursor = self.boundary_from(self.cursor);
    }

    /// Deletes what stands before the cursor.
    pub(super) fn backspace(&mut self) {
        let start = self.previous();
        self.text.replace_range(start..self.cursor, "");
        self.cursor = start;
    }

    /// Deletes what stands behind the cursor.
    pub(super) fn delete(&mut self) {
        let end = self.next();
        self.text.replace_range(self.cursor..end, "");
    }

    /// Deletes the word before the cursor.
    pub(super) fn delete_word(&mut self) {
        let start = self.word_start();
        self.text.replace_range(start..self.cursor, "");
        self.cursor = start;
    }

    /// Deletes everything before the cursor.
    pub(super) fn delete_to_start(&mut self) {
        self.text.replace_range(..self.cursor, "");
        self.cursor = 0;
    }

    /// One character back.
    pub(super) fn left(&mut self) {
        self.cursor = self.previous();
    }

    /// One character on.
    pub(super) fn right(&mut self) {
        self.cursor = self.next();
    }

    /// One word back.
    pub(super) fn word_left(&mut self) {
        self.cursor = self.word_start();
    }

    /// One word on.
    pub(super) fn word_right(&mut self) {
        let rest = &self.text[self.cursor..];
        let spaces = rest.len() - rest.trim_start().len();
        let word = rest.trim_start().find(char::is_whitespace).unwrap_or(rest.len() - spaces);
        self.cursor += spaces + word;
    }

    /// To the beginning.
    pub(super) fn home(&mut self) {
        self.cursor = 0;
    }

    /// To the end.
    pub(super) fn end(&mut self) {
        self.cursor = self.text.len();
    }

    fn previous(&self) -> usize {
        self.before_cursor().grapheme_indices(true).next_back().map_or(0, |(at, _)| at)
    }

    fn next(&self) -> usize {
        self.cursor + self.text[self.cursor..].graphemes(true).next().map_or(0, str::len)
    }

    fn word_start(&self) -> usize {
        let trimmed = self.before_cursor().trim_end();
        trimmed.char_indices().rev().find(|(_, c)| c.is_whitespace()).map_or(0, |(at, c)| at + c.len_utf8())
    }

    fn boundary_from(&self, at: usize) -> usize {
        self.text.grapheme_indices(true).map(|(start, _)| start).chain([self.text.len()]).find(|start| *start >= at).unwrap_or(at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_family_is_one_character() {
        let mut editor = Editor::default();
        editor.insert("a👩\u{200d}👩\u{200d}👧e\u{301}");
        editor.backspace();
        editor.backspace();
        assert_eq!(editor.text(), "a");
    }

    #[test]
    fn words_are_walked_and_deleted() {
        let mut editor = Editor::default();
        editor.insert("one two  three");
        editor.delete_word();
        assert_eq!(editor.text(), "one two  ");
        editor.word_left();
        assert_eq!(editor.before_cursor(), "one ");
        editor.word_right();
        assert_eq!(editor.before_cursor(), "one two");
        editor.delete_to_start();
        assert_eq!(editor.text(), "  ");
    }

    #[test]
    fn it_never_grows_beyond_a_message() {
        let mut editor = Editor::default();
        editor.insert(&"ü".repeat(MAX_BYTES));
        assert_eq!(editor.text().len(), MAX_BYTES);
        editor.insert("x");
        assert_eq!(editor.take().len(), MAX_BYTES);
        assert!(editor.is_empty());
    }

    proptest! {
        #[test]
        fn the_cursor_stays_between_characters(steps in prop::collection::vec((0..11_u8, "\\PC{0,6}"), 0..60)) {
            let mut editor = Editor::default();
            for (step, text) in steps {
                match step {
                    0..=2 => editor.insert(&text),
                    3 => editor.backspace(),
                    4 => editor.delete(),
                    5 => editor.left(),
                    6 => editor.right(),
                    7 => editor.word_left(),
                    8 => editor.word_right(),
                    9 => editor.delete_word(),
                    _ => editor.home(),
                }
                prop_assert!(editor.text.is_char_boundary(editor.cursor));
            }
        }
    }
}
