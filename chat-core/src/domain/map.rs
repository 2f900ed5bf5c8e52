//! Maps whose keys are ids.
//!
//! A message is looked up by its ids a dozen times on its way; the standard library's hash, which is made for keys of strangers in large tables, takes as long for each as the rest of the look.
//! This one is seeded anew in each process, so that nobody can prepare ids that collide.

use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;

/// By ids.
pub type IdMap<K, V> = HashMap<K, V, RandomState>;
/// Of ids.
pub type IdSet<K> = HashSet<K, RandomState>;
