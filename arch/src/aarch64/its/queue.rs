//! The command queue: a ring of 64 KiB that the ITS reads (IHI 0069, 5.3).

use super::spec::{Cbaser, Command, Creadr, Cwriter, GITS_CBASER, GITS_CREADR, GITS_CWRITER};
use super::{ItsError, Shareable};
use crate::aarch64::gic::wait;
use crate::barrier;
use crate::memory::{FramePool, Frames};
use crate::mmio::MmioRegion;
use tock_registers::LocalRegisterCopy;

/// Bytes of the ring; its base must be 64 KiB aligned (GITS_CBASER).
const LEN: u64 = 0x1_0000;
/// Commands that it has room for.
pub(super) const ENTRIES: usize = LEN as usize / Command::LEN;
/// One batch takes microseconds; past this the ITS is broken.
const LIMIT_NS: u64 = 1_000_000_000;

/// The ring and where the next command goes. Each batch is waited for, so it is empty in between.
#[derive(Debug)]
pub(super) struct CommandQueue {
    memory: Frames,
    next: usize,
    coherent: bool,
    /// The ITS stopped answering: it is not waited for again.
    dead: bool,
}

impl CommandQueue {
    /// Gives the ITS, which is off, an empty ring.
    pub(super) fn new(registers: &MmioRegion, pool: &'static FramePool) -> Result<Self, ItsError> {
        let memory = pool.allocate(LEN, LEN).ok_or(ItsError::NoMemory)?;
        memory.clean(0, LEN as usize);
        let place = Cbaser::Valid::SET
            + Cbaser::Address.val(memory.base() >> 12)
            + Cbaser::Size.val(LEN / 0x1000 - 1);
        let with = |attributes: Shareable| {
            let cache = Cbaser::InnerCache.val(attributes.inner_cache());
            (place + cache + Cbaser::Shareability.val(attributes.shareability())).value
        };
        registers.write64(GITS_CBASER, with(Shareable::Inner));
        let seen = LocalRegisterCopy::<u64, Cbaser::Register>::new(registers.read64(GITS_CBASER));
        let coherent = seen.read(Cbaser::Shareability) != 0;
        if !coherent {
            registers.write64(GITS_CBASER, with(Shareable::Non));
        }
        // Writing GITS_CBASER has cleared GITS_CREADR.
        registers.write64(GITS_CWRITER, 0);
        Ok(Self {
            memory,
            next: 0,
            coherent,
            dead: false,
        })
    }

    /// Has `commands` executed, in order. One that the ITS stalls on is replaced by `filler`, which must be harmless, so
    /// that the ring goes on for everybody else; the first such is reported after all others are done.
    pub(super) fn run(
        &mut self,
        registers: &MmioRegion,
        commands: &[Command],
        filler: Command,
    ) -> Result<(), ItsError> {
        let mut rejected = None;
        // A full ring would look empty.
        for batch in commands.chunks(ENTRIES - 1) {
            if self.dead {
                return Err(ItsError::Dead);
            }
            for command in batch {
                self.put(self.next, *command);
                self.next = (self.next + 1) % ENTRIES;
            }
            barrier::dma_write();
            registers.write64(GITS_CWRITER, Cwriter::Offset.val(self.next as u64).value);
            let stalled = self.wait(registers, batch.len(), filler)?;
            rejected = rejected.or(stalled);
        }
        match rejected {
            Some(opcode) => Err(ItsError::Rejected(opcode)),
            None => Ok(()),
        }
    }

    /// Waits until the ring is empty; the opcode of the first command that stalled it.
    fn wait(
        &mut self,
        registers: &MmioRegion,
        pending: usize,
        filler: Command,
    ) -> Result<Option<u8>, ItsError> {
        let mut rejected = None;
        // Each turn consumes one of the pending commands.
        for _ in 0..=pending {
            let mut reader = LocalRegisterCopy::<u64, Creadr::Register>::new(0);
            let stopped = wait::until(LIMIT_NS, || {
                reader.set(registers.read64(GITS_CREADR));
                reader.is_set(Creadr::Stalled) || reader.read(Creadr::Offset) == self.next as u64
            });
            if !stopped {
                break;
            }
            if !reader.is_set(Creadr::Stalled) {
                barrier::dma_read();
                return Ok(rejected);
            }
            let at = reader.read(Creadr::Offset) as usize % ENTRIES;
            rejected = rejected.or(Some(self.memory.read8(at * Command::LEN)));
            self.put(at, filler);
            barrier::dma_write();
            let again = Cwriter::Offset.val(self.next as u64) + Cwriter::Retry::SET;
            registers.write64(GITS_CWRITER, again.value);
        }
        self.dead = true;
        Err(ItsError::Timeout)
    }

    fn put(&self, index: usize, command: Command) {
        let offset = index * Command::LEN;
        for (word, value) in command.0.into_iter().enumerate() {
            self.memory.write64(offset + 8 * word, value);
        }
        if !self.coherent {
            self.memory.clean(offset, Command::LEN);
        }
    }
}
