//! The lock that what several CPUs use at once is behind, in one place, so that `loom` can put its own there and try every
//! order (`RUSTFLAGS="--cfg loom"`; the tests are called `loom`).

#[cfg(not(loom))]
pub use spin::mutex::{TicketMutex as Mutex, TicketMutexGuard as MutexGuard};

#[cfg(loom)]
pub use explored::{Mutex, MutexGuard};

/// One turn of a wait.
pub(crate) fn relax() {
    #[cfg(not(loom))]
    core::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}

#[cfg(loom)]
#[expect(missing_docs, reason = "as those of spin")]
mod explored {
    pub use loom::sync::MutexGuard;

    #[derive(Debug)]
    pub struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().expect("nobody panics with it")
        }
    }
}
