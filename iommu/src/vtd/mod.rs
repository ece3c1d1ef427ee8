//! Intel VT-d: the physical driver.
//!
//! [`deny_all`] is the first thing that happens to a unit: a root table without contexts, and translation on.

mod deny;
#[expect(dead_code, reason = "the start comes next")]
mod registers;
pub mod spec;
mod start;

pub use deny::{ZEROS_BYTES, deny_all, deny_interrupts};
pub use start::StartError;
