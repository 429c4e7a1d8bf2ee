//! The connections by number. A number that an event still names after its connection is gone names nobody.

/// The number of a connection: its place, and how many there were before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(u64);

impl Key {
    /// Bits that are free for others: the highest, and the one that says which side of a connection.
    pub(super) const FREE: u64 = 1 << 63 | 1;

    pub(super) fn bits(self) -> u64 {
        self.0
    }

    pub(super) fn from_bits(bits: u64) -> Self {
        Self(bits & !Self::FREE)
    }

    fn new(generation: u32, place: u32) -> Self {
        Self::from_bits(u64::from(generation & (u32::MAX >> 1)) << 32 | u64::from(place) << 1)
    }

    fn place(self) -> usize {
        usize::try_from((self.0 & u64::from(u32::MAX)) >> 1).unwrap_or(usize::MAX)
    }
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<Box<T>>,
}

/// Values by [`Key`].
#[derive(Debug)]
pub(super) struct Table<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    generation: u32,
}

impl<T> Table<T> {
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), generation: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn insert(&mut self, value: T) -> Key {
        let value = Some(Box::new(value));
        let generation = self.generation;
        self.generation = self.generation.wrapping_add(1);
        if let Some(place) = self.free.pop()
            && let Some(slot) = self.slots.get_mut(place as usize)
        {
            *slot = Slot { generation, value };
            return Key::new(generation, place);
        }
        self.slots.push(Slot { generation, value });
        // Descriptors end long before places do.
        Key::new(generation, u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX))
    }

    fn slot(&self, key: Key) -> Option<&Slot<T>> {
        let slot = self.slots.get(key.place())?;
        let same = Key::new(slot.generation, u32::try_from(key.place()).ok()?) == key;
        same.then_some(slot)
    }

    pub(super) fn get(&self, key: Key) -> Option<&T> {
        self.slot(key)?.value.as_deref()
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.slot(key)?;
        self.slots.get_mut(key.place())?.value.as_deref_mut()
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        self.slot(key)?;
        let value = self.slots.get_mut(key.place())?.value.take()?;
        self.free.push(u32::try_from(key.place()).ok()?);
        if self.is_empty() {
            // A crowd that is gone leaves no memory behind.
            self.slots.clear();
            self.free.clear();
            self.slots.shrink_to(FEW);
            self.free.shrink_to(FEW);
        }
        Some(*value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.slots.iter().zip(0..).filter_map(|(slot, place)| {
            Some((Key::new(slot.generation, place), slot.value.as_deref()?))
        })
    }
}

/// How many places stay when all are free.
const FEW: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_key_names_nobody() {
        let mut table = Table::new();
        let first = table.insert('a');
        let second = table.insert('b');
        assert_eq!((table.len(), table.get(first), table.get(second)), (2, Some(&'a'), Some(&'b')));
        assert_eq!(table.remove(first), Some('a'));
        assert_eq!((table.remove(first), table.get_mut(first)), (None, None));
        let third = table.insert('c');
        assert_ne!(third, first);
        assert_eq!((table.get(first), table.get(third)), (None, Some(&'c')));
        assert_eq!(table.iter().map(|(_, value)| *value).collect::<String>(), "cb");
        assert_eq!((table.remove(second), table.remove(third)), (Some('b'), Some('c')));
        let fourth = table.insert('d');
        assert!(![first, second, third].contains(&fourth));
        assert_eq!(table.get(first), None);
        assert_eq!(first.bits() & Key::FREE, 0);
        assert_eq!(Key::new(u32::MAX, u32::MAX >> 1).bits() & Key::FREE, 0);
    }
}
