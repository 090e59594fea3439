//! A binary heap whose members can be found and removed: each is told where it lies.

/// A heap of numbered members, the one with the least key first. The members keep the position that `moved` tells them.
#[derive(Debug)]
pub struct Heap<K> {
    entries: Vec<(K, usize)>,
}

impl<K> Default for Heap<K> {
    fn default() -> Self {
        Self { entries: Vec::new() }
    }
}

impl<K: Copy + Ord> Heap<K> {
    /// Returns true if it has no members.
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the least key and whose it is.
    pub fn first(&self) -> Option<(K, usize)> {
        self.entries.first().copied()
    }

    /// Adds a member.
    pub fn insert(&mut self, key: K, id: usize, moved: &mut impl FnMut(usize, usize)) {
        self.entries.push((key, id));
        self.up(self.entries.len() - 1, moved);
    }

    /// Removes the member that lies at `at`.
    pub fn remove(&mut self, at: usize, moved: &mut impl FnMut(usize, usize)) {
        if at < self.entries.len() {
            self.entries.swap_remove(at);
            self.settle(at, moved);
        }
    }

    /// Gives the member at `at` another key.
    pub fn change(&mut self, at: usize, key: K, moved: &mut impl FnMut(usize, usize)) {
        if let Some(entry) = self.entries.get_mut(at) {
            entry.0 = key;
            self.settle(at, moved);
        }
    }

    /// Removes all.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// Moves the entry at `at` to where it belongs.
    fn settle(&mut self, at: usize, moved: &mut impl FnMut(usize, usize)) {
        let stays = self.up(at, moved);
        if stays {
            self.down(at, moved);
        }
    }

    /// Moves an entry towards the first one. Returns true if it stays where it is.
    fn up(&mut self, mut at: usize, moved: &mut impl FnMut(usize, usize)) -> bool {
        let start = at;
        while let Some(parent) = at.checked_sub(1).map(|below| below / 2)
            && self.less(at, parent)
        {
            self.entries.swap(at, parent);
            self.tell(at, moved);
            at = parent;
        }
        self.tell(at, moved);
        at == start
    }

    /// Moves an entry away from the first one.
    fn down(&mut self, mut at: usize, moved: &mut impl FnMut(usize, usize)) {
        loop {
            let [left, right] = [2 * at + 1, 2 * at + 2];
            let child = if self.less(right, left) { right } else { left };
            if !self.less(child, at) {
                break;
            }
            self.entries.swap(at, child);
            self.tell(at, moved);
            at = child;
        }
        self.tell(at, moved);
    }

    /// Returns true if there are entries at both and the first one's key is less.
    fn less(&self, a: usize, b: usize) -> bool {
        matches!((self.entries.get(a), self.entries.get(b)), (Some(a), Some(b)) if a.0 < b.0)
    }

    fn tell(&self, at: usize, moved: &mut impl FnMut(usize, usize)) {
        if let Some((_, id)) = self.entries.get(at) {
            moved(*id, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Heap;

    proptest! {
        /// Compared with a list of all members.
        #[test]
        fn the_least_is_first(steps in prop::collection::vec((0_usize..16, 0_u32..50, any::<bool>()), 0..200)) {
            let mut heap = Heap::default();
            let mut places = [usize::MAX; 16];
            let mut keys = [None; 16];
            for (id, key, keep) in steps {
                let at = places[id];
                let mut moved = |id: usize, at| places[id] = at;
                match (keys[id], keep) {
                    (None, _) => heap.insert(key, id, &mut moved),
                    (Some(_), true) => heap.change(at, key, &mut moved),
                    (Some(_), false) => heap.remove(at, &mut moved),
                }
                keys[id] = (keys[id].is_none() || keep).then_some(key);
                prop_assert_eq!(heap.first().map(|(key, _)| key), keys.iter().flatten().min().copied());
                if let Some((key, id)) = heap.first() {
                    prop_assert_eq!(keys[id], Some(key));
                }
                for (at, (key, id)) in heap.entries.iter().enumerate() {
                    prop_assert_eq!((places[*id], keys[*id]), (at, Some(*key)));
                }
            }
        }
    }
}
