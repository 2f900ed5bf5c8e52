//! Starts the real services that tests and demonstrations need, on free ports in temporary folders, and ends them.
//!
//! Not here: anything of Kith. The harness knows no crate of the workspace, so that every one of them can test with it.
