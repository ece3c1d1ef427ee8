//! An ITS that behaves: it reads commands and tables from memory, as the hardware does, and keeps what is mapped.
//!
//! Written from IHI 0069, 5.3 and 12.19, and on purpose without `spec`: a wrong layout there is a wrong command here.

use crate::host::mmio::Device;
use crate::memory::FramePool;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use spin::mutex::SpinMutex;

/// What an ITS may be like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Traits {
    pub(super) typer: u64,
    /// GITS_BASER0's and 1's fixed fields: type and size of entries.
    pub(super) basers: [u64; 2],
    /// The only page size, or any.
    pub(super) page_size: Option<u64>,
    pub(super) indirect: bool,
    /// It sees the caches.
    pub(super) coherent: bool,
    /// What it does with a command that is wrong: stall, or go on.
    pub(super) stalls: bool,
    /// It executes nothing after so many commands.
    pub(super) dies_after: usize,
    /// It never stops.
    pub(super) restless: bool,
    pub(super) pidr2: u32,
}

impl Default for Traits {
    /// As QEMU's: 16 bits each of DeviceID and EventID, ITT entries of 12 bytes, processor numbers.
    fn default() -> Self {
        Self {
            typer: 0x1 | 11 << 4 | 15 << 8 | 15 << 13,
            basers: [1 << 56 | 7 << 48, 4 << 56 | 7 << 48],
            page_size: None,
            indirect: true,
            coherent: true,
            stalls: true,
            dies_after: usize::MAX,
            restless: false,
            pidr2: 0x3B,
        }
    }
}

#[derive(Default)]
pub(super) struct State {
    control: u32,
    cbaser: u64,
    writer: u64,
    reader: u64,
    stalled: bool,
    pub(super) baser: [u64; 8],
    /// Collection to RDbase, as the command has it in bits [51:16].
    pub(super) collections: BTreeMap<u64, u64>,
    /// DeviceID to (table, bits).
    pub(super) devices: BTreeMap<u64, (u64, u64)>,
    /// (DeviceID, EventID) to (LPI, collection).
    pub(super) events: BTreeMap<(u64, u64), (u64, u64)>,
    pub(super) pending: BTreeSet<u64>,
    /// LPIs whose configuration was read again.
    pub(super) invalidated: Vec<u64>,
    pub(super) synced: Vec<u64>,
    pub(super) executed: usize,
    pub(super) errors: Vec<u64>,
    /// It takes no command with this opcode.
    pub(super) refuses: Option<u64>,
}

pub(super) struct Fake {
    pool: &'static FramePool,
    traits: Traits,
    pub(super) state: SpinMutex<State>,
}

impl Fake {
    pub(super) fn new(pool: &'static FramePool, traits: Traits) -> Self {
        let mut state = State::default();
        state.baser[..2].copy_from_slice(&traits.basers);
        Self {
            pool,
            traits,
            state: SpinMutex::new(state),
        }
    }

    /// A device writes to GITS_TRANSLATER: the LPI and RDbase it becomes.
    pub(super) fn translate(&self, device: u64, event: u64) -> Option<(u64, u64)> {
        let state = self.state.lock();
        let (lpi, collection) = state.events.get(&(device, event))?;
        Some((*lpi, *state.collections.get(collection)?))
    }

    fn execute(&self, state: &mut State) {
        while state.control & 1 != 0 && !state.stalled && state.reader != state.writer {
            if state.executed >= self.traits.dies_after {
                return;
            }
            let base = state.cbaser & 0xF_FFFF_FFFF_F000;
            assert_eq!(base % 0x1_0000, 0, "the ring is 64 KiB aligned");
            let words =
                [0, 8, 16, 24].map(|word| self.pool.window().read64(base + state.reader + word));
            if self.command(state, words).is_none() {
                state.errors.push(words[0] & 0xFF);
                if self.traits.stalls {
                    state.stalled = true;
                    return;
                }
            }
            state.executed += 1;
            let len = ((state.cbaser & 0xFF) + 1) * 0x1000;
            state.reader = (state.reader + 32) % len;
        }
    }

    /// One command; `None` if it is wrong.
    fn command(&self, state: &mut State, words: [u64; 4]) -> Option<()> {
        let device = words[0] >> 32;
        let event = words[1] & 0xFFFF_FFFF;
        let collection = words[2] & 0xFFFF;
        let target = words[2] >> 16 & 0xF_FFFF_FFFF;
        let valid = words[2] >> 63 != 0;
        match words[0] & 0xFF {
            opcode if state.refuses == Some(opcode) => return None,
            0x08 if valid => {
                let (table, bits) = (words[2] & 0xF_FFFF_FFFF_FF00, (words[1] & 0x1F) + 1);
                let max = (self.traits.typer >> 8 & 0x1F) + 1;
                self.device_has_memory(state, device).then_some(())?;
                (bits <= max && table != 0).then_some(())?;
                state.devices.insert(device, (table, bits));
                state.events.retain(|(owner, _), _| *owner != device);
            }
            0x08 => {
                state.devices.remove(&device)?;
                state.events.retain(|(owner, _), _| *owner != device);
            }
            0x09 if valid => {
                state.collections.insert(collection, target);
            }
            0x0A => {
                let lpi = words[1] >> 32;
                let (table, bits) = *state.devices.get(&device)?;
                (event < 1 << bits && lpi >= 8192).then_some(())?;
                state.collections.get(&collection)?;
                let entry_len = (self.traits.typer >> 4 & 0xF) + 1;
                // It formats the table as it likes, up to its end.
                self.pool
                    .window()
                    .write64((table + event * entry_len) & !7, lpi);
                state.events.insert((device, event), (lpi, collection));
            }
            0x01 => {
                state.collections.get(&collection)?;
                state.events.get_mut(&(device, event))?.1 = collection;
            }
            0x0F => {
                let (lpi, _) = state.events.remove(&(device, event))?;
                state.pending.remove(&lpi);
            }
            0x0C => {
                let (lpi, _) = *state.events.get(&(device, event))?;
                state.invalidated.push(lpi);
            }
            0x0D => {
                state.collections.get(&collection)?;
            }
            0x03 => {
                let (lpi, _) = *state.events.get(&(device, event))?;
                state.pending.insert(lpi);
            }
            0x04 => {
                let (lpi, _) = *state.events.get(&(device, event))?;
                state.pending.remove(&lpi);
            }
            0x05 => state.synced.push(target),
            _ => return None,
        }
        Some(())
    }

    fn device_has_memory(&self, state: &State, device: u64) -> bool {
        let baser = state.baser[0];
        let page_len = [0x1000, 0x4000, 0x1_0000][(baser >> 8 & 3) as usize];
        let len = ((baser & 0xFF) + 1) * page_len;
        let entry_len = (baser >> 48 & 0x1F) + 1;
        if baser >> 62 & 1 == 0 {
            return device < len / entry_len;
        }
        let index = device / (page_len / entry_len);
        let base = baser & 0xFFFF_FFFF_F000;
        index < len / 8 && self.pool.window().read64(base + 8 * index) >> 63 != 0
    }
}

impl Device for Fake {
    fn read(&self, offset: u64, size: usize) -> u64 {
        let state = self.state.lock();
        match (offset, size) {
            (0x0000, 4) => {
                let quiescent = state.control & 1 == 0 && !self.traits.restless;
                u64::from(state.control) | u64::from(quiescent) << 31
            }
            (0x0008, 8) => self.traits.typer,
            (0x0080, 8) => state.cbaser,
            (0x0090, 8) => state.reader | u64::from(state.stalled),
            (0x0100..0x0140, 8) => state.baser[(offset - 0x100) as usize / 8],
            (0xFFE8, 4) => self.traits.pidr2.into(),
            _ => panic!("read of {offset:#x}, {size} bytes"),
        }
    }

    fn write(&self, offset: u64, size: usize, value: u64) {
        let mut state = self.state.lock();
        let snoops = if self.traits.coherent {
            !0
        } else {
            !(0b11 << 10)
        };
        match (offset, size) {
            (0x0000, 4) => state.control = value as u32 & 1,
            (0x0080, 8) => {
                assert_eq!(state.control & 1, 0, "GITS_CBASER changed while on");
                state.cbaser = value & snoops;
                (state.reader, state.stalled) = (0, false);
            }
            (0x0088, 8) => {
                state.writer = value & 0xF_FFE0;
                let len = ((state.cbaser & 0xFF) + 1) * 0x1000;
                assert!(state.writer < len, "the writer left the ring");
                if value & 1 != 0 {
                    state.stalled = false;
                }
            }
            (0x0100..0x0140, 8) => {
                assert_eq!(state.control & 1, 0, "a table changed while on");
                let n = (offset - 0x100) as usize / 8;
                // Type and entry size are fixed, an unimplemented one is all zero.
                let fixed = 7 << 56 | 0x1F << 48;
                let mut kept = value & !fixed & snoops | state.baser[n] & fixed;
                if let Some(page_size) = self.traits.page_size {
                    kept = kept & !(3 << 8) | page_size << 8;
                }
                if !self.traits.indirect {
                    kept &= !(1 << 62);
                }
                state.baser[n] = if state.baser[n] & 7 << 56 == 0 {
                    0
                } else {
                    kept
                };
            }
            _ => panic!("write of {offset:#x}, {size} bytes"),
        }
        self.execute(&mut state);
    }
}
