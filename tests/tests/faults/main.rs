//! Faults of processes, disks and networks: what was accepted survives them all.

mod disk_full;
mod kill_under_load;
mod last_message;
mod never_reads;
mod shim;
mod silent_connections;
