//! Kith's SDK: what an app, a bot or a terminal needs to chat end to end encrypted.
//!
//! What it is: a [`Client`] over one home folder. It registers or opens an account, keeps one connection to the server, encrypts and decrypts, keeps
//! everything in an encrypted store, and tells the app about it through [`Subscription`]s that give the current value first and then every change.
//!
//! What it is not: cryptography (that is `kith-crypto`, values in, values out), nor a user interface, nor anything that the server shares.
//!
//! How it behaves when things fail:
//! - [`Client::send_text`] returns once the text is durable in the outbox. It is sent when there is a connection, in order, once, across any crash.
//! - A received message is acknowledged to the server only after it is durable here, and the app gets it exactly once ([`Client::received`]).
//! - What cannot be decrypted stays visible as an entry with a reason and the progress of its repair; it is never a silent hole.
//! - A store that was copied back from a backup is noticed before anything is sent with its old keys.
//! - Dropping the last [`Client`] ends its tasks; [`Client::shutdown`] waits for them.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use kith_client::{Client, Registration};
//! let builder = Client::builder("http://127.0.0.1:7400").home("/tmp/alice");
//! let registered = builder.register(Registration::new("alice")).await?;
//! let client = registered.client;
//! let with_bob = client.start_conversation("bob").await?;
//! client.send_text(with_bob, "hello").await?;
//! let mut timeline = client.timeline(with_bob);
//! while let Some(changed) = timeline.next().await {
//!     println!("{} entries are new or changed", changed.len());
//! }
//! # Ok(()) }
//! ```

mod builder;
mod client;
mod clock;
mod engine;
mod error;
mod fault;
#[cfg(fuzzing)]
pub mod fuzzing;
mod ids;
#[doc(hidden)]
pub mod measure;
mod model;
#[doc(hidden)]
pub mod second_device;
mod server;
mod start;
mod statements;
mod store;
mod subscription;
mod timeline;
mod transport;

pub use builder::{ClientBuilder, Passphrase, Registered, Registration};
pub use client::Client;
pub use clock::{Clock, ManualClock, SystemClock};
pub use error::{CallError, OpenError, RegisterError, RequestError};
pub use fault::{FaultHook, FaultPoint};
pub use kith_proto::id::{AccountId, ClientMsgId, ConversationId, DeviceId, DeviceRef};
pub use kith_proto::v1::ErrorCode;
pub use model::{
    Arrival, Author, Blocked, ConnectionState, Conversation, Entry, EntryBody, EntryId, Integrity, Me, Notice, NoticeKind, OwnDevice, Position,
    Presence, RecoveryWords, Repair, SafetyNumber, StopReason, Tick, Typing, Undecryptable,
};
pub use subscription::Subscription;

/// The longest text that one message holds, in bytes of UTF-8. Longer text travels by reference, like media.
pub const MAX_TEXT_BYTES: usize = 30_000;
