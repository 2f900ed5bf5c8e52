//! What an operator may set about connections.

use std::time::Duration;

/// Limits and intervals of the WebSocket side. The defaults are what `docs/protocol.md` states.
#[derive(Debug, Clone)]
pub struct SessionSettings {
    /// Largest frame in bytes, either way; checked before anything is allocated for it.
    pub max_frame_bytes: usize,
    /// A quiet connection is pinged, and the heads of its conversations are checked, this often. After twice as long without a sign of life it is cut.
    pub keep_alive: Duration,
    /// The first frame must have come by then.
    pub hello_within: Duration,
    /// Unanswered sends per connection; more are refused, and at twice as many the connection is no longer read.
    pub max_sends_in_flight: u32,
    /// Delivered and not yet acknowledged messages at which catch-up pauses.
    pub catch_up_window: u32,
    /// The same in bytes of bodies and slices.
    pub catch_up_window_bytes: usize,
    /// Entries that are read from the log at one time for catch-up.
    pub catch_up_page: usize,
    /// Bytes that are read from the log at one time for catch-up.
    pub catch_up_page_bytes: usize,
    /// Largest page, list of conversations and set of watched accounts that a client may ask for.
    pub max_page: u32,
    /// Live pushes that may wait for a connection; beyond them the connection catches up from the log.
    pub inbox_messages: usize,
    /// The same in bytes.
    pub inbox_bytes: usize,
    /// Connections in all.
    pub max_connections: usize,
    /// Connections that have not yet said who they are.
    pub max_unauthenticated: usize,
    /// The same from one address.
    pub max_unauthenticated_per_address: usize,
    /// Origins a browser may connect from, as in the `Origin` header; `*` allows all.
    pub allowed_origins: Vec<String>,
    /// Moved watermarks are gathered for so long before they are pushed.
    pub receipts_every: Duration,
    /// A device that is behind and to which nothing was delivered for so long is paged again.
    pub rescue_after: Duration,
    /// When draining, clients are asked to come back at a random moment within this.
    pub drain_spread: Duration,
    /// When draining, connections are asked one after the other over this time instead of all at once: for a server whose clients have others to go to.
    pub drain_over: Duration,
    /// `KeysLow` is pushed on connect when fewer one-time prekeys of either kind are left.
    pub keys_low_below: u32,
    /// Forwarded typing notices per second and connection; the rest is dropped.
    pub typing_per_second: u32,
    /// Sends per second and connection that bring nothing new (duplicates, and what the log refuses); with more the connection is not read for the rest of
    /// the second.
    pub old_sends_per_second: u32,
    /// A log operation without an answer by then counts as failed, its outcome as unknown.
    pub log_deadline: Duration,
    /// Fault injection for tests, never set by configuration: live deliveries are dropped as if every queue were full and nobody had noticed. What is
    /// accepted must reach its devices all the same.
    pub drop_live_deliveries: bool,
}

impl Default for SessionSettings {
    fn default() -> Self {
        Self {
            max_frame_bytes: kith_proto::DEFAULT_MAX_FRAME,
            keep_alive: Duration::from_secs(30),
            hello_within: Duration::from_secs(5),
            max_sends_in_flight: 64,
            catch_up_window: 1024,
            catch_up_window_bytes: 1024 * 1024,
            catch_up_page: 256,
            catch_up_page_bytes: 128 * 1024,
            max_page: 256,
            inbox_messages: 256,
            inbox_bytes: 256 * 1024,
            max_connections: 100_000,
            max_unauthenticated: 4_096,
            max_unauthenticated_per_address: 1_024,
            allowed_origins: Vec::new(),
            receipts_every: Duration::from_millis(20),
            rescue_after: Duration::from_secs(3),
            drain_spread: Duration::from_secs(10),
            drain_over: Duration::ZERO,
            keys_low_below: 20,
            typing_per_second: 4,
            old_sends_per_second: 256,
            log_deadline: Duration::from_secs(20),
            drop_live_deliveries: false,
        }
    }
}
