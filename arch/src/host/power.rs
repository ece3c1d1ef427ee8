//! Power: a test that gets here ends.

/// Ends the test.
pub fn off() -> ! {
    panic!("system off")
}

/// Ends the test.
pub fn reset() -> ! {
    panic!("system reset")
}
