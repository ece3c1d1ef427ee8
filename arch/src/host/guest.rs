//! A guest that does what its test says.

use crate::aarch64::exit::Exit;
use crate::aarch64::inject::{self, Before, Exception};
use crate::aarch64::vcpu::{Registers, Vcpu, VcpuConfig};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// What the guest does next, and what was done to it.
#[derive(Debug, Default)]
pub struct Guest {
    exits: VecDeque<Exit>,
    injected: Vec<Exception>,
    errors: usize,
    stopped: bool,
}

impl Guest {
    pub(crate) fn reset(&mut self) {
        self.errors = 0;
        self.stopped = false;
    }

    pub(crate) fn stop(&mut self) {
        self.stopped = true;
    }

    pub(crate) fn inject_error(&mut self) {
        self.errors += 1;
    }

    pub(crate) fn instruction_length(&self) -> u64 {
        4
    }

    pub(crate) fn run(&mut self, _registers: &mut Registers, _config: &VcpuConfig) -> Exit {
        let exit = self.exits.pop_front();
        exit.unwrap_or(Exit::Wait { event: false })
    }

    pub(crate) fn inject(&mut self, registers: &mut Registers, exception: Exception) {
        let before = Before {
            pc: registers.pc,
            pstate: registers.pstate,
            vbar: 0,
            sctlr: 1 << 23,
        };
        let after = inject::take(&before, exception);
        registers.pc = after.pc;
        registers.pstate = after.pstate;
        self.injected.push(exception);
    }
}

impl Vcpu {
    /// Its next run after those that are said already ends with `exit`; with none left, it waits.
    pub fn will_exit(&mut self, exit: Exit) {
        self.guest_mut().exits.push_back(exit);
    }

    /// Virtual SErrors that were put into it since its reset.
    pub fn errors(&self) -> usize {
        self.guest().errors
    }

    /// Whether its timers were stopped since its reset.
    pub fn is_stopped(&self) -> bool {
        self.guest().stopped
    }

    /// All exceptions that were put into it.
    pub fn injected(&self) -> &[Exception] {
        &self.guest().injected
    }
}
