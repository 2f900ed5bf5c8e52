//! Hash maps keyed by ids. The ids are random-looking already, so a multiplication with a secret is enough, and the secret keeps anyone from choosing
//! ids that collide.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hasher, RandomState},
};

pub(super) type IdMap<K, V> = HashMap<K, V, Keyed>;

#[derive(Debug, Clone, Copy)]
pub(super) struct Keyed([u64; 2]);

impl Default for Keyed {
    fn default() -> Self {
        let random = RandomState::new();
        Self([random.hash_one(1), random.hash_one(2) | 1])
    }
}

impl BuildHasher for Keyed {
    type Hasher = Folding;
    fn build_hasher(&self) -> Folding {
        Folding { key: self.0, state: self.0[0] }
    }
}

#[derive(Debug)]
pub(super) struct Folding {
    key: [u64; 2],
    state: u64,
}

impl Folding {
    #[allow(clippy::cast_possible_truncation)]
    fn fold(&mut self, word: u64) {
        let product = u128::from(self.state ^ word) * u128::from(self.key[1]);
        let [low, high] = [product as u64, (product >> 64) as u64];
        self.state = low ^ high ^ self.key[0].rotate_left(17);
    }
}

impl Hasher for Folding {
    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.fold(u64::from_le_bytes([word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7]]));
        }
        for byte in words.remainder() {
            self.fold(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.fold(word);
    }

    fn write_i64(&mut self, word: i64) {
        self.fold(word.cast_unsigned());
    }

    // The length that slices and arrays put before themselves is always the same here.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.state
    }
}
