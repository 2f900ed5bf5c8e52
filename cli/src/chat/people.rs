//! Finding conversations by what a user calls them.

use kith_client::{Conversation, ConversationId};

use super::wording;

/// What a user may call a conversation names none, or several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotFound {
    /// Nobody is called that.
    Nobody,
    /// More than one.
    Several,
}

/// The conversation that `name` means: a username, or `#` and the beginning of an id.
pub(super) fn find(conversations: &[Conversation], name: &str) -> Result<ConversationId, NotFound> {
    let name = name.to_lowercase();
    let matches = |c: &&Conversation| match name.strip_prefix('#') {
        Some(prefix) => !prefix.is_empty() && c.id.to_string().starts_with(prefix),
        None => wording::name(c) == name,
    };
    let mut found = conversations.iter().filter(matches);
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one.id),
        (None, _) => Err(NotFound::Nobody),
        (Some(_), Some(_)) => Err(NotFound::Several),
    }
}
