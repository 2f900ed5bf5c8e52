//! A bounded memory of what can be found again elsewhere, or may be forgotten after a long while.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash},
};

/// Two maps. What is put in goes into the young one; when that is full it becomes the old one, and the old one is forgotten. So as many entries are kept as the young one takes, at
/// most twice as many, and none is looked for to be thrown out.
#[derive(Debug)]
pub struct Generations<K, V, S = foldhash::fast::RandomState> {
    young: HashMap<K, V, S>,
    old: HashMap<K, V, S>,
    most: usize,
}

impl<K: Eq + Hash, V, S: BuildHasher + Default> Generations<K, V, S> {
    /// With so many entries in one map.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { young: HashMap::default(), old: HashMap::default(), most }
    }

    /// Whether anything is known, which counts as use: it is young again.
    pub fn touch(&mut self, key: &K) -> bool
    where
        K: Clone,
    {
        self.young.contains_key(key) || self.old.remove(key).map(|value| self.insert(key.clone(), value)).is_some()
    }

    /// What is known, which counts as use.
    pub fn get(&mut self, key: &K) -> Option<&mut V>
    where
        K: Clone,
    {
        if self.touch(key) { self.young.get_mut(key) } else { None }
    }

    /// What is known, which does not count.
    #[must_use]
    pub fn peek(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    /// In place of what was known.
    pub fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.most && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&key);
        self.young.insert(key, value);
    }

    /// Forgets it.
    pub fn remove(&mut self, key: &K) {
        self.young.remove(key);
        self.old.remove(key);
    }

    /// Forgets all for which this is false.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        self.young.retain(&mut keep);
        self.old.retain(keep);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::new(self.most);
    }

    /// How many are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_what_is_used_stays() {
        let mut known: Generations<u32, u32> = Generations::new(100);
        known.insert(0, 7);
        for n in 1..1_000 {
            known.insert(n, n);
            assert_eq!(known.get(&0), Some(&mut 7));
            assert!(known.len() <= 200);
        }
        assert_eq!((known.peek(&999), known.peek(&1)), (Some(&999), None));
        assert!(!known.touch(&1));
    }

    #[test]
    fn what_is_only_looked_at_does_not_stay() {
        let mut known: Generations<u32, u32> = Generations::new(10);
        for n in 0..30 {
            known.insert(n, n);
            assert_eq!(known.peek(&0).is_some(), n < 20);
        }
    }

    #[test]
    fn there_is_one_of_a_key() {
        let mut known: Generations<u32, &str> = Generations::new(2);
        for (key, value) in [(1, "before"), (2, "other"), (3, "third"), (1, "after")] {
            known.insert(key, value);
        }
        assert_eq!((known.len(), known.peek(&1)), (3, Some(&"after")));
        known.insert(1, "again");
        assert_eq!((known.len(), known.peek(&2)), (3, Some(&"other")), "nothing is thrown out for what is young already");
        known.remove(&1);
        assert_eq!((known.len(), known.peek(&1)), (2, None));
        known.retain(|_, value| *value != "third");
        assert_eq!(known.len(), 1);
        known.clear();
        assert!(known.is_empty());
    }
}
