//! Memory that hardware may still reach when its owner is dropped.

use crate::addr::{Hpa, Span};
use crate::hal::DmaBuffer;
use core::ops::{Deref, DerefMut};

/// Where a buffer is.
pub(crate) fn span(buffer: &impl DmaBuffer) -> Span<Hpa> {
    Span {
        base: buffer.hpa(),
        len: buffer.len() as u64,
    }
}

/// Owns a buffer. Freed when dropped, unless it was given up before.
pub(crate) struct Held<B>(Option<B>);

impl<B> Held<B> {
    pub(crate) fn new(buffer: B) -> Self {
        Self(Some(buffer))
    }

    /// Loses the memory instead of freeing it. Only on the way of being dropped.
    pub(crate) fn lose(&mut self) {
        core::mem::forget(self.0.take());
    }
}

impl<B> Deref for Held<B> {
    type Target = B;
    fn deref(&self) -> &B {
        let Some(buffer) = &self.0 else {
            unreachable!("nothing is read after it was lost");
        };
        buffer
    }
}

impl<B> DerefMut for Held<B> {
    fn deref_mut(&mut self) -> &mut B {
        let Some(buffer) = &mut self.0 else {
            unreachable!("nothing is written after it was lost");
        };
        buffer
    }
}
