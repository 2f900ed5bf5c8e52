//! Memory in huge pages for a server that is measured. With pages of 4 KiB a processor, above all a virtual one, looks for the address nearly as long as for what is
//! there.

use std::{fs, path::Path};

/// How many of them the machine keeps.
const KEPT: &str = "/proc/sys/vm/nr_hugepages";
const MEMORY: &str = "/proc/meminfo";

/// Has the machine keep so many huge pages that `needed` are free, and notes in the file `noted` how many of them are new: whoever ends the server gives them back (see
/// `folder.rs`). `false` if this is not allowed, or the machine does not find enough in one piece: then all is as it was.
pub(super) fn reserve(needed: u64, noted: &Path) -> bool {
    let (Some(free), Some(kept)) = (free(), kept()) else { return false };
    let missing = needed.saturating_sub(free);
    if missing == 0 {
        return true;
    }
    // Noted first: whatever comes in between, they are given back.
    if fs::write(noted, missing.to_string()).is_err() {
        return false;
    }
    let found = keep(kept + missing) && self::free().is_some_and(|free| free >= needed);
    if !found {
        keep(kept);
        let _ = fs::remove_file(noted);
    }
    found
}

fn keep(pages: u64) -> bool {
    fs::write(KEPT, pages.to_string()).is_ok()
}

fn kept() -> Option<u64> {
    fs::read_to_string(KEPT).ok()?.trim().parse().ok()
}

/// Those that nobody has and nobody has been promised.
fn free() -> Option<u64> {
    let memory = fs::read_to_string(MEMORY).ok()?;
    let line = |name: &str| memory.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    Some(line("HugePages_Free:")?.saturating_sub(line("HugePages_Rsvd:")?))
}
