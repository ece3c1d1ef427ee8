//! Errors on demand.

use super::VtdModel;
use super::cache::Cache;
use super::registers::Registers;

/// Errors that wait for their moment, and those that last.
#[derive(Default)]
pub(super) struct Faults {
    /// Descriptors are not taken.
    pub hang: bool,
    /// No command is obeyed.
    pub deaf: bool,
    /// All registers read as ones, writes go nowhere.
    pub gone: bool,
    /// A descriptor of this type stops the queue with this code, after so many others of the type.
    pub refuse: Option<(u8, u64, u32)>,
    /// The next wait reports that this source's device TLB does not answer.
    pub time_out: Option<u16>,
}

impl VtdModel {
    /// No descriptor is taken from now on, or they are again.
    pub fn hang(&self, on: bool) {
        let mut state = self.0.lock();
        state.faults.hang = on;
        if !on {
            state.serve_queue();
        }
    }

    /// Commands to GCMD, CCMD and IOTLB have no effect from now on, or they have again.
    pub fn deafen(&self, on: bool) {
        self.0.lock().faults.deaf = on;
    }

    /// The unit is not there any more, or is again.
    pub fn vanish(&self, on: bool) {
        self.0.lock().faults.gone = on;
    }

    /// The next descriptor of type `kind` is refused, with `code` as IQERCD.IQEI.
    pub fn refuse(&self, kind: u8, code: u8) {
        self.refuse_after(kind, 0, code);
    }

    /// The same after `count` others of the type.
    pub fn refuse_after(&self, kind: u8, count: u32, code: u8) {
        self.0.lock().faults.refuse = Some((kind, code.into(), count));
    }

    /// The next wait reports an invalidation of `source`'s device TLB that timed out (ITE).
    pub fn time_out(&self, source: u16) {
        self.0.lock().faults.time_out = Some(source);
    }

    /// Power goes and comes back: as reset leaves it, with every cache empty.
    pub fn lose_state(&self) {
        let mut state = self.0.lock();
        state.registers = Registers::new(&state.config);
        state.cache = Cache::default();
        state.waiting.clear();
    }
}
