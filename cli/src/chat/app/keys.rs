//! What keys do.

use std::time::Instant;

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::{App, Wish};

/// The keys, for help.
pub(super) const HELP: [(&str, &str); 8] = [
    ("Enter", "send"),
    ("Alt-Enter, Ctrl-J", "a line break"),
    ("Tab, Shift-Tab", "the next conversation, the one before"),
    ("Up, Down", "scroll by a line"),
    ("Page Up, Page Down", "scroll by a page"),
    ("Ctrl-W, Ctrl-U", "delete a word, everything before the cursor"),
    ("Esc", "close a box; back to the newest message"),
    ("Ctrl-C, Ctrl-Q", "leave"),
];

impl App {
    pub(super) fn key(&mut self, key: KeyEvent, now: Instant) -> Vec<Wish> {
        if key.kind == KeyEventKind::Release {
            return Vec::new();
        }
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        let alt = key.modifiers.contains(KeyModifiers::ALT);
        match key.code {
            KeyCode::Char('c' | 'q') if control => return vec![Wish::Quit],
            _ if self.popup.is_some() => {
                // Any key closes a box, so that nobody is ever caught in one.
                self.popup = None;
                return Vec::new();
            }
            KeyCode::Enter if !alt && !key.modifiers.contains(KeyModifiers::SHIFT) => return self.enter(),
            KeyCode::Enter => self.editor.insert("\n"),
            KeyCode::Char('j') if control => self.editor.insert("\n"),
            KeyCode::Tab => return self.neighbour(1),
            KeyCode::BackTab => return self.neighbour(-1),
            KeyCode::Char('n') if control => return self.neighbour(1),
            KeyCode::Char('p') if control => return self.neighbour(-1),
            KeyCode::F(1) => return self.help(),
            KeyCode::Esc => {
                self.scroll = 0;
                self.remark = None;
                return self.seen().into_iter().collect();
            }
            code => {
                if !self.scroll_key(code) && !self.edit_key(code, control, alt) {
                    return Vec::new();
                }
                return if matches!(code, KeyCode::Char(_) | KeyCode::Backspace | KeyCode::Delete) {
                    self.tell_typing(now)
                } else {
                    self.seen().into_iter().collect()
                };
            }
        }
        self.tell_typing(now)
    }

    fn scroll_key(&mut self, code: KeyCode) -> bool {
        let page = self.drawn.height.saturating_sub(2).max(1);
        self.scroll = match code {
            KeyCode::Up => self.scroll + 1,
            KeyCode::Down => self.scroll.saturating_sub(1),
            KeyCode::PageUp => self.scroll + page,
            KeyCode::PageDown => self.scroll.saturating_sub(page),
            _ => return false,
        };
        true
    }

    fn edit_key(&mut self, code: KeyCode, control: bool, alt: bool) -> bool {
        match code {
            KeyCode::Left if control || alt => self.editor.word_left(),
            KeyCode::Right if control || alt => self.editor.word_right(),
            KeyCode::Left => self.editor.left(),
            KeyCode::Right => self.editor.right(),
            KeyCode::Home => self.editor.home(),
            KeyCode::End => self.editor.end(),
            KeyCode::Backspace if control || alt => self.editor.delete_word(),
            KeyCode::Backspace => self.editor.backspace(),
            KeyCode::Delete => self.editor.delete(),
            KeyCode::Char('a') if control => self.editor.home(),
            KeyCode::Char('e') if control => self.editor.end(),
            KeyCode::Char('b') if control => self.editor.left(),
            KeyCode::Char('f') if control => self.editor.right(),
            KeyCode::Char('b') if alt => self.editor.word_left(),
            KeyCode::Char('f') if alt => self.editor.word_right(),
            KeyCode::Char('h') if control => self.editor.backspace(),
            KeyCode::Char('w') if control => self.editor.delete_word(),
            KeyCode::Char('u') if control => self.editor.delete_to_start(),
            KeyCode::Char(c) if !control && !alt => self.editor.insert(c.encode_utf8(&mut [0; 4])),
            _ => return false,
        }
        true
    }

    /// The conversation that is `step` further in the list.
    fn neighbour(&mut self, step: isize) -> Vec<Wish> {
        let count = self.conversations.len();
        if count == 0 {
            return Vec::new();
        }
        let here = self.conversations.iter().position(|c| Some(c.id) == self.open);
        let next = here.map_or(0, |at| at.wrapping_add_signed(step).wrapping_add(count) % count);
        self.go_to(self.conversations[next].id)
    }
}
