//! Bad input and bad behaviour, told against a real server process by a client that knows the protocol and nothing else.

mod catch_up;
mod drain;
mod foreign_conversation;
mod garbage_frames;
mod limits;
mod out_of_order_frames;
mod oversized;
mod prekeys;
mod replaced_connection;
mod revoked_device;
mod silent_checkpoints;
mod sleeping_devices;
mod tokens;
