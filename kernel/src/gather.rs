//! Lists out of iterators, in less code than `collect()`, which has the iterator's own compiled twice into each caller, and
//! an estimate of the length besides.

use alloc::vec::Vec;

/// Iterators whose items fit into a list.
pub trait Gather: Iterator + Sized {
    /// All items.
    fn gather(self) -> Vec<Self::Item> {
        let mut list = Vec::new();
        for item in self {
            list.push(item);
        }
        list
    }

    /// All items, if all are there.
    fn gather_all<T>(self) -> Option<Vec<T>>
    where
        Self: Iterator<Item = Option<T>>,
    {
        let mut list = Vec::new();
        for item in self {
            list.push(item?);
        }
        Some(list)
    }

    /// All items, or the first error.
    ///
    /// # Errors
    /// That of an item.
    fn try_gather<T, E>(self) -> Result<Vec<T>, E>
    where
        Self: Iterator<Item = Result<T, E>>,
    {
        let mut list = Vec::new();
        for item in self {
            list.push(item?);
        }
        Ok(list)
    }
}

impl<I: Iterator> Gather for I {}

/// Lists that grow by what an iterator brings, in less code than `extend()`.
pub trait Grow<T> {
    /// Puts all of `items` behind what is there.
    fn add_all(&mut self, items: impl IntoIterator<Item = T>);
}

impl<T> Grow<T> for Vec<T> {
    fn add_all(&mut self, items: impl IntoIterator<Item = T>) {
        for item in items {
            self.push(item);
        }
    }
}
