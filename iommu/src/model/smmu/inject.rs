//! Errors on demand.

use alloc::collections::BTreeSet;

use super::event::{Event, Interrupt, SFM_ERR};
use super::registers::Registers;
use super::{SmmuModel, State};

/// Errors that wait for their moment, and those that last.
#[derive(Default)]
pub(super) struct Faults {
    /// Commands are not consumed.
    pub hang: bool,
    /// No control register is acknowledged.
    pub deaf: bool,
    /// All registers read as ones, writes go nowhere.
    pub gone: bool,
    /// So many commands cannot be read.
    pub fetch_aborts: u32,
    /// The next command with this opcode stops the queue with this code.
    pub refuse: Option<(u8, u32)>,
    /// The next CMD_SYNC reports an ATC invalidation that timed out.
    pub atc_timeout: bool,
    /// Devices that do not answer CMD_ATC_INV.
    pub mute: BTreeSet<u32>,
    /// One of them was asked since the last CMD_SYNC.
    pub unanswered: bool,
}

impl State {
    /// Whether nothing is served.
    pub(super) fn stopped(&self) -> bool {
        self.faults.gone || self.active(SFM_ERR)
    }
}

impl SmmuModel {
    /// Commands are not consumed from now on, or are again.
    pub fn hang(&self, hang: bool) {
        let mut state = self.state();
        state.faults.hang = hang;
        state.doorbell();
    }

    /// CR0, GBPA and IRQ_CTRL are not acknowledged from now on, or are again.
    pub fn deaf(&self, deaf: bool) {
        self.state().faults.deaf = deaf;
    }

    /// The device is not there any more, or is again: reads are all ones.
    pub fn gone(&self, gone: bool) {
        self.state().faults.gone = gone;
    }

    /// Power is lost and comes back: registers are as out of reset, caches are empty.
    pub fn power_cycle(&self) {
        let mut state = self.state();
        state.registers = Registers::reset();
        state.cache.clear();
        state.tlb.clear();
        state.waiting.clear();
        state.stalls.clear();
        state.waiting_stalls.clear();
        state.in_flight.clear();
        state.translated.clear();
        state.images.clear();
    }

    /// The next `count` fetches of a command meet an external abort: CERROR_ABT.
    pub fn abort_fetches(&self, count: u32) {
        self.state().faults.fetch_aborts = count;
    }

    /// The next command with `opcode` stops the queue with CERROR `code`.
    pub fn refuse(&self, opcode: u8, code: u8) {
        self.state().faults.refuse = Some((opcode, code.into()));
    }

    /// The next CMD_SYNC stops the queue with CERROR_ATC_INV_SYNC.
    pub fn time_out_atc(&self) {
        self.state().faults.atc_timeout = true;
    }

    /// `stream`'s device does not answer CMD_ATC_INV from now on, and forgets nothing by it; or does again.
    pub fn mute(&self, stream: u32, mute: bool) {
        let mute_now = &mut self.state().faults.mute;
        if mute {
            mute_now.insert(stream);
        } else {
            mute_now.remove(&stream);
        }
    }

    /// Makes bits of GERROR active (§6.3.19); with SFM_ERR nothing is served any more.
    pub fn raise_global_error(&self, bits: u32) {
        let mut state = self.state();
        for bit in 0..32 {
            if bits >> bit & 1 != 0 {
                state.raise(1 << bit);
            }
        }
    }

    /// Records these words as an event.
    pub fn inject_event(&self, words: [u64; 4]) {
        self.state().record(Event { words });
    }

    /// GBPA as it is in force, without an access.
    pub fn global_bypass_attribute(&self) -> u32 {
        self.state().registers.gbpa
    }

    /// Pulses an interrupt.
    pub fn pulse(&self, interrupt: Interrupt) {
        self.state().interrupt(interrupt);
    }

    /// Has an STE that lets `stream` through in the cache, as after a reset whose caches are not cleared (§3.11).
    pub fn plant_bypass(&self, stream: u32) {
        self.state().cache.plant(stream, [0x9, 0, 0, 0, 0, 0, 0, 0]);
    }
}
