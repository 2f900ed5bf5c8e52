//! Contents that no user sees: they repair what could not be decrypted. They travel in the sender's chain like any message, so nothing can be withheld
//! or slipped in through them, and are marked as checkpoints in the clear so that they ring nothing.

use prost::Message;

/// Kind of [`v1::Content`](kith_proto::v1::Content).
pub(crate) const KIND_CONTENT: u8 = 1;
/// Kind of [`RepairRequest`].
pub(crate) const KIND_REPAIR: u8 = 2;
/// Kind of [`Resent`].
pub(crate) const KIND_RESENT: u8 = 3;
/// Most messages asked for at one time.
pub(crate) const MAX_ASKED: usize = 64;

/// "I could not read these messages of your device: begin a new session with me (this message does) and send their contents again."
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RepairRequest {
    /// The device that sent them.
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) device: Vec<u8>,
    /// Their client_msg_ids.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub(crate) messages: Vec<Vec<u8>>,
}

/// The content of an earlier message of the same device, byte for byte, so that its hash is the one in the chain.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(crate) struct Resent {
    /// Head and body.
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) content: Vec<u8>,
}

impl std::fmt::Debug for Resent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Resent")
    }
}

/// Whether a user sees contents of this kind (unknown ones are shown as such).
pub(crate) const fn is_silent(kind: u8) -> bool {
    matches!(kind, KIND_REPAIR | KIND_RESENT | kith_crypto::content::KIND_CHECKPOINT)
}
