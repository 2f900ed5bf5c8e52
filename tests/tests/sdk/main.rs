//! The SDK under faults: its processes killed, its store copied back, its traffic and files searched.

mod sdk_crash;
