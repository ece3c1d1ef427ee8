//! The timer of each test thread: it keeps its deadline, and nothing fires.

use std::cell::Cell;

std::thread_local! {
    static DEADLINE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// The deadline, if there is one.
pub fn deadline() -> Option<u64> {
    DEADLINE.get()
}

/// See `aarch64`.
pub fn set(at_ns: u64) {
    DEADLINE.set(Some(at_ns));
}

/// No deadline.
pub fn off() {
    DEADLINE.set(None);
}
