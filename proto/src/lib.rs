//! What travels between Kith's parts: the frames of the WebSocket (`kith.v1`), the JSON bodies of REST, ids, error codes, and their conversion to and
//! from bytes.
//!
//! Not here: rules, storage, sockets, configuration. Both sides of every wire depend on this crate and on nothing else of each other.

pub mod id;
pub mod rest;

/// The generated types of package `kith.v1`. The .proto files hold the rules that govern each frame.
#[allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::all, clippy::pedantic, unused_qualifications)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/kith.v1.rs"));
    include!(concat!(env!("OUT_DIR"), "/kith.v1.serde.rs"));
}

/// What servers say to one another; an app has no use for it.
#[cfg(feature = "services")]
pub mod peer {
    /// The generated types and the service of package `kith.peer.v1`: between gateways.
    #[allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::all, clippy::pedantic, unused_qualifications)]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/kith.peer.v1.rs"));
    }
}

/// The WebSocket subprotocol whose messages are binary protobuf.
pub const SUBPROTOCOL_BINARY: &str = "kith.v1";
/// The WebSocket subprotocol whose messages are protobuf's JSON mapping.
pub const SUBPROTOCOL_JSON: &str = "kith.v1.json";
/// The protocol version that this build speaks.
pub const PROTOCOL_VERSION: u32 = 1;
/// The default largest frame, in bytes.
pub const DEFAULT_MAX_FRAME: usize = 64 * 1024;
