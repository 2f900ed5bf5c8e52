//! What can go wrong, one enum per family of calls.

use kith_proto::v1::ErrorCode;
use thiserror::Error;

/// Why a home folder could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The server's address is no `http(s)://host[:port]`.
    #[error("the server's address is not http(s)://host[:port]")]
    BadAddress,
    /// No account lives in this folder yet: register.
    #[error("there is no account in this folder")]
    NotRegistered,
    /// Another process has this folder open.
    #[error("another process uses this folder")]
    InUse,
    /// The folder is sealed with a passphrase and none was given.
    #[error("this folder needs its passphrase")]
    PassphraseNeeded,
    /// The passphrase is wrong, or the key file belongs to another store.
    #[error("the passphrase or key does not open this folder")]
    WrongKey,
    /// The store belongs to another server.
    #[error("this folder belongs to another server")]
    OtherServer,
    /// The store was written by a newer version of this library.
    #[error("this folder was written by a newer version")]
    TooNew,
    /// Something in the store exists and cannot be read. It is never replaced by a fresh start.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// The file system or database failed.
    #[error("the store cannot be used: {0}")]
    Storage(String),
}

/// Why an account could not be registered.
#[derive(Debug, Error)]
pub enum RegisterError {
    /// The folder could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// An account lives in this folder already.
    #[error("there is an account in this folder already")]
    AlreadyRegistered,
    /// The name is taken.
    #[error("the username is taken")]
    UsernameTaken,
    /// The name is not 3 to 32 characters of a-z, 0-9, `.`, `_` and `-`.
    #[error("the username is not allowed")]
    UsernameInvalid,
    /// The server takes no registrations.
    #[error("the server takes no registrations")]
    Closed,
    /// The server wants a (valid) invite code.
    #[error("the server wants a valid invite code")]
    InviteInvalid,
    /// The server could not be reached. The same call may be made again.
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
    /// The server refused for another reason.
    #[error("the server refused: {code:?}")]
    Refused {
        /// Its code.
        code: ErrorCode,
    },
}

/// Why a call that only needs the store failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CallError {
    /// The client has shut down.
    #[error("the client has shut down")]
    Closed,
    /// There is no such conversation.
    #[error("there is no such conversation")]
    UnknownConversation,
    /// The text is empty or longer than [`crate::MAX_TEXT_BYTES`].
    #[error("the text is empty or too long")]
    BadText,
    /// Ten thousand messages wait in this conversation; let some go out first.
    #[error("too many messages are waiting to be sent")]
    OutboxFull,
    /// The conversation is held back for safety; see [`crate::Conversation::blocked`].
    #[error("sending is held back for safety")]
    Blocked,
    /// The other's keys are not known yet.
    #[error("the other's keys are not known yet")]
    NoKeysYet,
    /// The store failed; nothing was done.
    #[error("the store failed: {0}")]
    Storage(String),
}

/// Why a call that needs the server failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RequestError {
    /// The call failed on this side.
    #[error(transparent)]
    Call(#[from] CallError),
    /// There is nobody, or nothing, of that name.
    #[error("not found")]
    NotFound,
    /// One cannot talk to oneself.
    #[error("that is this account itself")]
    Oneself,
    /// The server's answer about an account's keys does not hold: nothing was believed.
    #[error("the server's answer does not verify: {0}")]
    NotTrusted(String),
    /// This device does not hold the account's identity key.
    #[error("only the account's first device can do this")]
    NotFirstDevice,
    /// Too many of these; not before this many milliseconds.
    #[error("too many requests; again in {after_ms} ms")]
    RateLimited {
        /// Milliseconds to wait.
        after_ms: u64,
    },
    /// The server could not be reached in time.
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
    /// The server refused for another reason.
    #[error("the server refused: {code:?}")]
    Refused {
        /// Its code.
        code: ErrorCode,
    },
}
