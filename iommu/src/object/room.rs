//! Growth that may fail. Every allocation of the object model is made here, so that a test can fail each of them.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::Error;

/// Room for `more` elements, so that as many pushes cannot fail.
pub(crate) fn reserve<T>(vec: &mut Vec<T>, more: usize) -> Result<(), Error> {
    step()?;
    vec.try_reserve(more).map_err(|_| Error::OutOfMemory)
}

/// An empty queue with room for `capacity` elements.
pub(crate) fn queue<T>(capacity: usize) -> Result<VecDeque<T>, Error> {
    step()?;
    let mut queue = VecDeque::new();
    queue
        .try_reserve_exact(capacity)
        .map_err(|_| Error::OutOfMemory)?;
    Ok(queue)
}

/// A copy of `items`.
pub(crate) fn copy<T: Copy>(items: &[T]) -> Result<Vec<T>, Error> {
    let mut vec = Vec::new();
    reserve(&mut vec, items.len())?;
    vec.extend_from_slice(items);
    Ok(vec)
}

/// `value` on the heap. The array of one is how a box can be had without `Box::new`, which cannot fail.
pub(crate) fn boxed<T>(value: T) -> Result<Box<[T; 1]>, Error> {
    let mut one = Vec::new();
    step()?;
    one.try_reserve_exact(1).map_err(|_| Error::OutOfMemory)?;
    one.push(value);
    one.into_boxed_slice()
        .try_into()
        .map_err(|_| Error::OutOfMemory)
}

#[cfg(not(test))]
#[inline]
fn step() -> Result<(), Error> {
    Ok(())
}

#[cfg(test)]
pub(crate) use inject::step;

/// Makes the n-th fallible step of this thread fail.
#[cfg(test)]
pub(crate) mod inject {
    use std::cell::Cell;
    use std::thread_local;

    use super::Error;

    thread_local! {
        static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
    }

    /// One step that may fail: an allocation, or a call of the mock driver.
    pub(crate) fn step() -> Result<(), Error> {
        LEFT.with(|left| {
            let failed = left.get() == Some(0);
            left.set(left.get().and_then(|n| n.checked_sub(1)));
            if failed {
                Err(Error::OutOfMemory)
            } else {
                Ok(())
            }
        })
    }

    /// Runs `operation` with its step `n` failing. Also returns whether there was such a step.
    pub(crate) fn at<R>(n: usize, operation: impl FnOnce() -> R) -> (R, bool) {
        LEFT.with(|left| left.set(Some(n)));
        let result = operation();
        let failed = LEFT.with(|left| left.replace(None)).is_none();
        (result, failed)
    }
}
