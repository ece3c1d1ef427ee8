//! The lock of everything that CPUs share: whoever asks at the right moment gets it, and nobody waits for ever.
//!
//! A lock that is handed over in the order of asking stands still whenever the next in line does not run, which is the
//! rule where the CPUs are themselves threads on fewer CPUs; one without any order lets a CPU that asks again and again
//! keep the others out. So the order begins only for those that have tried for long, and then it holds for all.

use core::sync::atomic::{AtomicBool, Ordering};
use spin::mutex::{SpinMutex, SpinMutexGuard, TicketMutex};

/// Tries before the order counts: some milliseconds, where a lock is held for microseconds.
const PATIENCE: u32 = 1 << 18;

/// See the module's description.
// What all locks have comes first, at the same place in all: to the linker, taking one is one function.
#[repr(C)]
pub struct Mutex<T> {
    /// The first of the queue waits: nobody else tries.
    reserved: AtomicBool,
    /// Those that have lost patience, in order.
    queue: TicketMutex<()>,
    inner: SpinMutex<T>,
}

/// Access to what a lock holds, until it is dropped.
pub type Guard<'a, T> = SpinMutexGuard<'a, T>;

impl<T> Mutex<T> {
    /// A lock around `value`.
    pub const fn new(value: T) -> Self {
        Self {
            reserved: AtomicBool::new(false),
            queue: TicketMutex::new(()),
            inner: SpinMutex::new(value),
        }
    }

    /// Waits for the lock. A CPU does not ask for one that it holds.
    #[inline(never)]
    pub fn lock(&self) -> Guard<'_, T> {
        self.attempt().unwrap_or_else(|| self.lock_within(PATIENCE))
    }

    /// Waits for a lock that is held for long, with `meanwhile` over and over.
    pub fn lock_meanwhile(&self, meanwhile: impl Fn()) -> Guard<'_, T> {
        loop {
            match self.try_lock() {
                Some(guard) => return guard,
                None => meanwhile(),
            }
        }
    }

    #[inline(always)]
    fn attempt(&self) -> Option<Guard<'_, T>> {
        if self.reserved.load(Ordering::Relaxed) {
            return None;
        }
        self.inner.try_lock()
    }

    /// The lock, if nobody has it.
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        self.inner.try_lock()
    }

    #[cold]
    fn lock_within(&self, tries: u32) -> Guard<'_, T> {
        for _ in 0..tries {
            if let Some(guard) = self.attempt() {
                return guard;
            }
            core::hint::spin_loop();
        }
        let _first = self.queue.lock();
        self.reserved.store(true, Ordering::Relaxed);
        let guard = self.inner.lock();
        self.reserved.store(false, Ordering::Relaxed);
        guard
    }
}

#[cfg(test)]
mod tests {
    use super::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    #[test]
    fn no_update_is_lost_with_and_without_patience() {
        for tries in [0, 1, 100, u32::MAX] {
            let lock = Mutex::new(0u64);
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        for _ in 0..2_000 {
                            *lock.lock_within(tries) += 1;
                            thread::yield_now();
                        }
                    });
                }
            });
            assert_eq!(*lock.lock(), 8_000);
        }
    }

    #[test]
    fn a_long_wait_can_be_used() {
        let lock = Mutex::new(0);
        let held = core::cell::Cell::new(Some(lock.lock()));
        let looks = core::cell::Cell::new(0);
        let guard = lock.lock_meanwhile(|| {
            looks.set(looks.get() + 1);
            if looks.get() == 3 {
                drop(held.take());
            }
        });
        assert_eq!((*guard, looks.get()), (0, 3));
    }

    #[test]
    fn who_has_waited_long_gets_in_before_one_that_asks_again_and_again() {
        let lock = Mutex::new(());
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let _held = lock.lock();
                    thread::yield_now();
                }
            });
            for _ in 0..100 {
                drop(lock.lock_within(0));
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}
