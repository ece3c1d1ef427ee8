//! A clock of each test thread: it moves by a microsecond whenever it is read, so that every deadline ends.

use std::cell::Cell;

std::thread_local! {
    static NOW: Cell<u64> = const { Cell::new(0) };
    static STEP: Cell<u64> = const { Cell::new(STEP_NS) };
}

/// Time that passes with each reading, in nanoseconds, unless it was set otherwise.
pub const STEP_NS: u64 = 1_000;

/// Lets `ns` nanoseconds pass with each reading on this thread.
pub fn set_step(ns: u64) {
    STEP.set(ns);
}

/// The count, in ticks of a nanosecond.
pub fn now() -> u64 {
    let now = NOW.get() + STEP.get();
    NOW.set(now);
    now
}

/// Ticks a second.
pub fn frequency() -> u32 {
    1_000_000_000
}

/// Nanoseconds since the thread started.
pub fn now_ns() -> u64 {
    now()
}

/// Lets `ns` nanoseconds pass.
pub fn advance(ns: u64) {
    NOW.set(NOW.get() + ns);
}
