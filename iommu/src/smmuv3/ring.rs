//! Positions in a queue of 2^n entries: an index with a wrap bit above it (IHI 0070, §3.5.1).

/// A producer or consumer position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    value: u32,
    /// Index and wrap bit: twice the number of entries, less one.
    mask: u32,
}

impl Position {
    /// The first position of a queue of 2^`log2_entries` entries (0 to 19).
    pub const fn start(log2_entries: u8) -> Self {
        Self {
            value: 0,
            mask: (2 << log2_entries) - 1,
        }
    }

    /// The position in a PROD or CONS register of the same queue; bits above the wrap bit do not count.
    #[inline(always)]
    pub const fn of_register(self, register: u32) -> Self {
        Self {
            value: register & self.mask,
            ..self
        }
    }

    /// As a register holds it: index and wrap bit.
    #[inline(always)]
    pub const fn register(self) -> u32 {
        self.value
    }

    /// The entry it stands at.
    #[inline(always)]
    pub const fn index(self) -> usize {
        (self.value & (self.mask >> 1)) as usize
    }

    /// The next position.
    #[must_use]
    #[inline(always)]
    pub const fn next(self) -> Self {
        Self {
            value: self.value.wrapping_add(1) & self.mask,
            ..self
        }
    }

    /// The position `count` entries on.
    #[must_use]
    #[inline(always)]
    pub const fn after(self, count: u32) -> Self {
        Self {
            value: self.value.wrapping_add(count) & self.mask,
            ..self
        }
    }

    /// Entries from here to where the queue wraps.
    #[inline(always)]
    pub const fn before_wrap(self) -> u32 {
        self.entries().wrapping_sub(self.index() as u32)
    }

    /// Entries from `consumer` to this producer; more than there are entries where one of them is nonsense.
    #[inline(always)]
    pub const fn since(self, consumer: Self) -> u32 {
        self.value.wrapping_sub(consumer.value) & self.mask
    }

    /// Entries in the queue.
    #[inline(always)]
    pub const fn entries(self) -> u32 {
        (self.mask >> 1) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::Position;

    #[test]
    fn every_index_of_every_size_wraps_as_the_document_says() {
        for log2 in 0..=19 {
            let entries = 1u32 << log2;
            let mut position = Position::start(log2);
            for step in 0..2 * entries {
                assert_eq!(position.register(), step);
                assert_eq!(position.index() as u32, step % entries);
                assert_eq!(position.entries(), entries);
                assert_eq!(position, Position::start(log2).after(step));
                assert_eq!(position.before_wrap(), entries - step % entries);
                position = position.next();
            }
            assert_eq!(position, Position::start(log2), "both laps done");
        }
    }

    #[test]
    fn the_distance_is_right_from_every_position_at_every_fill() {
        for log2 in 0..=6 {
            let entries = 1u32 << log2;
            let mut consumer = Position::start(log2);
            for _ in 0..2 * entries {
                let mut producer = consumer;
                for fill in 0..=entries {
                    assert_eq!(producer.since(consumer), fill);
                    producer = producer.next();
                }
                consumer = consumer.next();
            }
        }
    }

    #[test]
    fn a_register_with_flags_above_the_wrap_bit_is_the_same_position() {
        let start = Position::start(4);
        assert_eq!(start.of_register(0x8000_0013).register(), 0x13);
        assert_eq!(start.of_register(0xffff_ffe0), start);
    }
}
