//! The words in which the client tells people what is going on.

use kith_client::{Author, Blocked, ConnectionState, Conversation, Entry, EntryBody, Integrity, NoticeKind, Repair, StopReason, Tick, Undecryptable};

use super::harmless;

/// How a person is called here: by the name looked up, or by the beginning of the conversation's id for someone who wrote first.
pub(super) fn name(conversation: &Conversation) -> String {
    conversation.username.as_deref().map_or_else(|| handle(conversation), harmless::one_line)
}

/// A name that anybody has even without a username.
pub(super) fn handle(conversation: &Conversation) -> String {
    format!("#{}", &conversation.id.to_string()[..8])
}

/// The signs after an own message.
pub(super) fn tick(tick: Tick) -> &'static str {
    match tick {
        Tick::Failed => "✗",
        Tick::Pending => "…",
        Tick::Sent => "✓",
        Tick::Delivered | Tick::Read => "✓✓",
    }
}

/// The same in one word.
pub(super) fn tick_word(tick: Tick) -> &'static str {
    match tick {
        Tick::Failed => "failed",
        Tick::Pending => "waiting",
        Tick::Sent => "sent",
        Tick::Delivered => "delivered",
        Tick::Read => "read",
    }
}

/// How the connection stands, in a word or two.
pub(super) fn connection(state: ConnectionState) -> &'static str {
    match state {
        ConnectionState::Offline { .. } => "offline",
        ConnectionState::Connecting => "connecting",
        ConnectionState::CatchingUp => "catching up",
        ConnectionState::Online => "online",
        ConnectionState::Stopped(reason) => stopped(reason),
    }
}

fn stopped(reason: StopReason) -> &'static str {
    match reason {
        StopReason::ShutDown => "closed",
        StopReason::Revoked => "this device was removed from the account",
        StopReason::OtherProcess => "another program uses a copy of this folder",
        StopReason::UnsupportedVersion => "the server speaks another version",
        StopReason::UnknownDevice => "the server does not know this account",
        StopReason::StoreFailed => "the folder cannot be written any more",
    }
}

/// An entry in a few words, on one line.
pub(super) fn preview(shown: &Entry) -> String {
    let text = match shown.text() {
        // What does not fit anywhere need not be made harmless.
        Some(text) => harmless::one_line(&text.chars().take(100).collect::<String>()),
        None => format!("[{}]", entry(shown).unwrap_or_default()),
    };
    if shown.author == Author::Me { format!("you: {text}") } else { text }
}

/// A line about an entry that is no text; `None` for texts.
pub(super) fn entry(entry: &Entry) -> Option<String> {
    match &entry.body {
        EntryBody::Text(_) => None,
        EntryBody::Unknown { .. } => Some("a message of a kind that this version does not know; update to read it".to_owned()),
        EntryBody::Undecryptable { reason, repair } => {
            Some(format!("a message that cannot be read ({}); {}", unreadable(*reason), repairing(*repair)))
        }
        EntryBody::Missing { to, reason } => {
            let count = to.saturating_sub(entry.seq.unwrap_or(*to)) + 1;
            let messages = if count == 1 { "a message is".to_owned() } else { format!("{count} messages are") };
            Some(format!("{messages} not here ({})", unreadable(*reason)))
        }
        EntryBody::Integrity(event) => Some(integrity(*event)),
    }
}

fn unreadable(reason: Undecryptable) -> &'static str {
    match reason {
        Undecryptable::NoSession => "it belongs to no session known here",
        Undecryptable::NotAuthentic => "it is not authentic",
        Undecryptable::KeyGone => "its key was used or is too old",
        Undecryptable::PrekeyGone => "the keys it was made for are gone",
        Undecryptable::Replayed => "it was seen before",
        Undecryptable::UnknownDevice => "its device is not on the sender's signed list",
        Undecryptable::NotAMember => "its sender does not belong to this conversation",
        Undecryptable::Malformed => "it is malformed",
        Undecryptable::BadBody => "its body is not authentic",
        Undecryptable::LostByRollback => "it was sent from this device before the folder was restored from a backup",
        Undecryptable::BeforeLinked => "older than this device",
        Undecryptable::Expired => "the server no longer keeps it",
    }
}

fn repairing(repair: Repair) -> String {
    match repair {
        Repair::Impossible => "it cannot be repaired".to_owned(),
        Repair::Waiting => "the sender will be asked to send it again".to_owned(),
        Repair::Requested { attempts: 1 } => "the sender was asked to send it again".to_owned(),
        Repair::Requested { attempts } => format!("the sender was asked {attempts} times to send it again"),
        Repair::GivenUp => "the sender was asked and has not sent it again".to_owned(),
    }
}

fn integrity(event: Integrity) -> String {
    match event {
        Integrity::Gap { missing: 1 } => "WARNING: a message is missing before this one".to_owned(),
        Integrity::Gap { missing } => format!("WARNING: {missing} messages are missing before this one"),
        Integrity::Replay => "WARNING: an old message was shown again and ignored".to_owned(),
        Integrity::Fork => "WARNING: two different histories of the same device; somebody tampers with this conversation".to_owned(),
        Integrity::Reorder => "WARNING: the other sees another order of messages".to_owned(),
        Integrity::SenderRestarted => "the other's device began anew; messages it had not sent are lost".to_owned(),
        Integrity::OwnRollback => "this folder was restored from a backup; some messages may be lost".to_owned(),
    }
}

/// What a notice says. `who` is the contact it concerns.
pub(super) fn notice(kind: NoticeKind, who: &str) -> String {
    match kind {
        NoticeKind::NewDevice => format!("{who} uses a new device"),
        NoticeKind::DeviceRemoved => format!("{who} removed a device"),
        NoticeKind::KeysRotated => format!("{who} has used the recovery key: the safety number has changed, compare it again (/safety)"),
        NoticeKind::KeysChanged => {
            format!("WARNING: the keys of {who} have changed without a reason that can be checked. Sending is held back: /safety, then /verify")
        }
        NoticeKind::ListRefused => {
            format!("WARNING: the server shows a device list of {who} that does not follow from the known one; it was refused")
        }
        NoticeKind::GhostDevice => format!("WARNING: the server asked to encrypt for a device that {who} never signed; it gets nothing"),
        NoticeKind::NoOneTimeKey => format!("the first messages to {who} are protected by weekly keys only"),
        NoticeKind::LastResortKey => format!("the session with {who} began with the reusable post-quantum key"),
        NoticeKind::StoreRolledBack => "this folder was restored from a backup: its sessions and keys were replaced".to_owned(),
        NoticeKind::ContactRestarted => format!("the device of {who} began anew"),
        NoticeKind::OwnDeviceAdded => "a device was added to your account".to_owned(),
        NoticeKind::OwnDeviceRemoved => "a device was removed from your account".to_owned(),
        NoticeKind::OwnListForged => format!("WARNING: {who} was shown a list of your devices that is not the real one"),
        NoticeKind::StoreKeyInFile => {
            "the key of this folder lies beside it: whoever copies the folder can read it (--passphrase-file seals a new one)".to_owned()
        }
    }
}

/// Why sending is held back.
pub(super) fn blocked(blocked: Blocked) -> &'static str {
    match blocked {
        Blocked::KeysChanged => "their keys have changed; compare the safety number (/safety), then /verify",
        Blocked::ListRefused => "the server shows another device list than the known one",
        Blocked::GhostDevice => "the server asks for a device that they never signed",
        Blocked::Refused => "the server refuses this conversation",
    }
}
