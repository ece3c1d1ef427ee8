//! CPUs: each thread is one, and says which.

pub use crate::aarch64::features::{Features, IdRegisters};

use std::cell::Cell;

std::thread_local! {
    static INDEX: Cell<usize> = const { Cell::new(0) };
}

/// Number of this CPU.
pub fn index() -> usize {
    INDEX.get()
}

/// Makes this thread CPU `index`.
pub fn set_index(index: usize) {
    INDEX.set(index);
}

/// Returns at once: there are no interrupts.
pub fn wait() {}

/// Ends the test.
pub fn halt() -> ! {
    panic!("CPU {} halted", index())
}

/// A CPU with 44-bit physical addresses, 16-bit VMIDs, AArch64 only, and nothing optional.
pub fn features() -> Features {
    let mut id = [[0; 8]; 7];
    id[3][0] = 0x0000_0011;
    id[6][0] = 0x0000_0004;
    id[6][1] = 0x0000_0020;
    Features::new(0x410f_d0f0, 0, 0x8444_c004, IdRegisters(id))
}

/// Affinity of this CPU.
pub fn mpidr() -> u64 {
    index() as u64
}

/// Why a CPU did not start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartError {
    /// There is no stack for a CPU of this number.
    NoStack(usize),
    /// Firmware refused: a PSCI error code (DEN0022 5.2.2).
    Psci(i64),
}

impl core::fmt::Display for StartError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (what, value) = match *self {
            Self::NoStack(cpu) => ("no stack for CPU", Some(cpu as u64)),
            Self::Psci(code) => ("PSCI error, negative:", Some(code.unsigned_abs())),
        };
        crate::text::write(f, what, value)
    }
}

/// Runs `entry` on a thread that is CPU `index`.
pub fn start(index: usize, _mpidr: u64, entry: fn(usize) -> !) -> Result<(), StartError> {
    let body = move || {
        set_index(index);
        entry(index)
    };
    let thread = std::thread::Builder::new().spawn(body);
    thread.map(drop).map_err(|_| StartError::NoStack(index))
}
