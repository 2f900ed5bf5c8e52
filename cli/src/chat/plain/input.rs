//! Carrying out what was entered in line mode.

use kith_client::{Conversation, ConversationId, Tick};

use super::{FOLLOWED, Plain};
use crate::chat::{
    command::{COMMANDS, Line},
    harmless, people, wording,
};

/// What went wrong with a line, in words; the program goes on.
type Done = Result<(), String>;

impl Plain {
    /// Carries out a line. The outer error ends the program: nobody reads the output any more.
    pub(super) async fn carry_out(&mut self, line: Line) -> anyhow::Result<Done> {
        match line {
            Line::Empty | Line::Quit => Ok(Ok(())),
            Line::Text(text) => match self.current {
                Some(id) => self.send(id, &text).await,
                None => Ok(Err("to whom? /new NAME opens a conversation, @NAME TEXT writes to one".to_owned())),
            },
            Line::To(name, text) => match self.open(&name).await {
                Ok(id) => self.send(id, &text).await,
                Err(problem) => Ok(Err(problem)),
            },
            Line::New(name) => match self.open(&name).await {
                Ok(id) => {
                    self.current = Some(id);
                    self.out.line("opened", &[&self.name(id)])?;
                    Ok(Ok(()))
                }
                Err(problem) => Ok(Err(problem)),
            },
            Line::List => self.list(),
            Line::History(count) => self.history(count).await,
            Line::Help => self.help(),
            Line::Devices => self.devices().await,
            Line::Hide(hidden) => {
                let done = self.client.hide_presence(hidden).await.map_err(|error| error.to_string());
                self.done("hide", done)
            }
            Line::Safety | Line::Verify(_) | Line::Accept => match self.current {
                Some(id) => self.about_conversation(line, id).await,
                None => Ok(Err("open a conversation first: /new NAME".to_owned())),
            },
            Line::Wrong(problem) => Ok(Err(problem)),
        }
    }

    async fn about_conversation(&mut self, line: Line, id: ConversationId) -> anyhow::Result<Done> {
        match line {
            Line::Verify(verified) => {
                let done = self.client.set_verified(id, verified).await.map_err(|error| error.to_string());
                self.done(if verified { "verify" } else { "unverify" }, done)
            }
            Line::Accept => {
                let done = self.client.accept(id).await.map_err(|error| error.to_string());
                self.done("accept", done)
            }
            _ => match self.client.safety_number(id).await {
                Ok(number) => {
                    self.out.line("safety", &[&self.name(id), &number.digits])?;
                    Ok(Ok(()))
                }
                Err(error) => Ok(Err(error.to_string())),
            },
        }
    }

    fn done(&self, command: &str, done: Done) -> anyhow::Result<Done> {
        if done.is_ok() {
            self.out.line("done", &[command])?;
        }
        Ok(done)
    }

    async fn open(&self, name: &str) -> Result<ConversationId, String> {
        let known: Vec<Conversation> = self.client_conversations().collect();
        match people::find(&known, name) {
            Ok(id) => Ok(id),
            Err(people::NotFound::Several) => Err(format!("{name} could be several; write more of it")),
            Err(people::NotFound::Nobody) if name.starts_with('#') => Err(format!("there is no conversation {name}")),
            Err(people::NotFound::Nobody) => self.client.start_conversation(name).await.map_err(|error| format!("{name}: {error}")),
        }
    }

    async fn send(&mut self, id: ConversationId, text: &str) -> anyhow::Result<Done> {
        self.watch_ticks(id);
        match self.client.send_text(id, &unescaped(text)).await {
            Ok(entry) => {
                if self.sent.len() >= FOLLOWED {
                    self.sent.retain(|_, tick| *tick < Tick::Delivered);
                }
                self.sent.insert(entry, Tick::Pending);
                self.out.line("queued", &[&self.name(id), &entry.0.to_string()])?;
                Ok(Ok(()))
            }
            Err(error) => Ok(Err(error.to_string())),
        }
    }

    fn list(&self) -> anyhow::Result<Done> {
        for conversation in self.client_conversations() {
            self.out.line("conversation", &[&wording::name(&conversation), &conversation.unread.to_string()])?;
        }
        self.done("list", Ok(()))
    }

    async fn history(&self, count: usize) -> anyhow::Result<Done> {
        let Some(id) = self.current else { return Ok(Err("open a conversation first: /new NAME".to_owned())) };
        let entries = match self.client.history(id, None, count).await {
            Ok(entries) => entries,
            Err(error) => return Ok(Err(error.to_string())),
        };
        for entry in entries {
            let seq = entry.seq.map_or_else(|| "-".to_owned(), |seq| seq.to_string());
            let text = entry.text().map(harmless::escaped).or_else(|| wording::entry(&entry)).unwrap_or_default();
            self.out.line("entry", &[&self.name(id), &seq, &self.author(&entry), entry.tick.map_or("-", wording::tick_word), &text])?;
        }
        self.done("history", Ok(()))
    }

    fn help(&self) -> anyhow::Result<Done> {
        for (command, meaning) in COMMANDS {
            self.out.line("help", &[&format!("{command}: {meaning}")])?;
        }
        Ok(Ok(()))
    }

    async fn devices(&self) -> anyhow::Result<Done> {
        match self.client.devices().await {
            Ok(devices) => {
                for device in devices {
                    self.out.line("device", &[&device.device.to_string(), if device.this { "this" } else { "other" }])?;
                }
                Ok(Ok(()))
            }
            Err(error) => Ok(Err(error.to_string())),
        }
    }

    /// All conversations as they are now.
    pub(super) fn client_conversations(&self) -> impl Iterator<Item = Conversation> + use<> {
        // A subscription gives the current value at once.
        let mut conversations = self.client.conversations();
        let now = futures_util::FutureExt::now_or_never(conversations.next()).flatten();
        now.map(|all| all.to_vec()).unwrap_or_default().into_iter()
    }
}

/// `\n` as a line feed, `\\` as a backslash, everything else as it is.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('\\', Some('n')) => {
                chars.next();
                out.push('\n');
            }
            ('\\', Some('\\')) => {
                chars.next();
                out.push('\\');
            }
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_entered_again() {
        for text in ["plain", "two\nlines", "back\\slash", "\\n is not a break", "\\", "ends with \\\\"] {
            assert_eq!(unescaped(&harmless::escaped(text)), text, "{text:?}");
        }
        assert_eq!(unescaped("C:\\dir"), "C:\\dir");
    }
}
