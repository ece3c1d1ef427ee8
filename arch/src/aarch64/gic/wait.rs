//! Waiting for hardware: always with a deadline.

use crate::clock;

/// Polls `done` until it holds or `limit_ns` nanoseconds have passed; whether it held.
///
/// It is asked once more after the deadline, so that a CPU that was held up in between does not report a fault.
pub(crate) fn until(limit_ns: u64, mut done: impl FnMut() -> bool) -> bool {
    let start = clock::now_ns();
    while !done() {
        if clock::now_ns().saturating_sub(start) >= limit_ns {
            return done();
        }
        core::hint::spin_loop();
    }
    true
}
