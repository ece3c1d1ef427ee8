//! QEMU's `edu` device: a DMA engine that goes where it is told (QEMU docs/specs/edu.rst).

use crate::pci::{Function, register};
use crate::runtime::{barrier, now_ns};
use crate::tree::Tree;
use safe_mmio::{UniqueMmioPointer, fields::ReadPureWrite};

const IDENTIFICATION: u64 = 0x00;
/// Reads as the complement of what was written last.
const LIVENESS: u64 = 0x04;
const RAISE: u64 = 0x60;
const ACKNOWLEDGE: u64 = 0x64;
const DMA_SOURCE: u64 = 0x80;
const DMA_DESTINATION: u64 = 0x88;
const DMA_COUNT: u64 = 0x90;
const DMA_COMMAND: u64 = 0x98;
/// The device's own 4 KiB buffer, in its address space.
const BUFFER: u64 = 0x4_0000;
const COMMAND_START: u32 = 1;
const COMMAND_TO_MEMORY: u32 = 2;
/// A DMA takes 100 ms of the machine's time.
const DEADLINE_NS: u64 = 5_000_000_000;

/// The device.
pub struct Edu {
    registers: u64,
    function: Function,
}

impl Edu {
    /// Finds and enables it; `None` if this guest does not own one.
    pub fn find(tree: &Tree<'_>) -> Option<Self> {
        let edu = Self::find_quiet(tree)?;
        edu.enable();
        Some(edu)
    }

    /// Finds it, and lets no DMA of it out yet.
    pub fn find_quiet(tree: &Tree<'_>) -> Option<Self> {
        let function = Function::find(tree, 0x1234, 0x11e8)?;
        let edu = Self {
            registers: function.show(),
            function,
        };
        // Low byte 0xed, then the version.
        (register(edu.registers + IDENTIFICATION).read() & 0xff == 0xed).then_some(edu)
    }

    /// Its requester ID, which is its StreamID where the guest has an SMMU.
    pub fn stream(&self) -> u32 {
        u32::from(self.function.device) << 3
    }

    /// Has it interrupt by one message: `data` to `address`. Whether it can.
    pub fn send_messages_to(&self, address: u64, data: u16) -> bool {
        let mut at = self.function.read(0x34) & 0xfc;
        // No list is longer.
        for _ in 0..48 {
            let head = self.function.read(at.into());
            if at == 0 || head as u8 == 5 {
                break;
            }
            at = head >> 8 & 0xfc;
        }
        let control = self.function.read(at.into());
        let wide = control >> 16 & 1 << 7 != 0;
        if at == 0 || !wide {
            return false;
        }
        let at = u64::from(at);
        self.function.write(at + 4, address as u32);
        self.function.write(at + 8, (address >> 32) as u32);
        self.function.write(at + 12, data.into());
        self.function.write(at, control | 1 << 16);
        true
    }

    /// Has it interrupt once.
    pub fn interrupt(&self) {
        register(self.registers + RAISE).write(1);
        register(self.registers + ACKNOWLEDGE).write(1);
    }

    /// Lets its DMA out.
    pub fn enable(&self) {
        self.function.enable();
    }

    /// A word of the device that outlives its guest; 0 at first.
    pub fn kept(&self) -> u32 {
        register(self.registers + LIVENESS).read()
    }

    /// Changes it.
    pub fn keep(&self, value: u32) {
        register(self.registers + LIVENESS).write(!value);
    }

    /// Copies `len` bytes from the device's buffer to `address`, as the device sees addresses. Whether it arrived, the
    /// device does not know.
    pub fn write_memory(&self, address: u64, len: u32) -> bool {
        self.transfer(BUFFER, address, len, COMMAND_START | COMMAND_TO_MEMORY)
    }

    /// Copies `len` bytes from `address` to the device's buffer.
    pub fn read_memory(&self, address: u64, len: u32) -> bool {
        self.transfer(address, BUFFER, len, COMMAND_START)
    }

    /// Starts what [`Self::write_memory`] does, and does not wait for it.
    pub fn start_write(&self, address: u64, len: u32) {
        self.start(BUFFER, address, len, COMMAND_START | COMMAND_TO_MEMORY);
    }

    /// Whether the device said that it was done in time.
    fn transfer(&self, source: u64, destination: u64, len: u32, command: u32) -> bool {
        self.start(source, destination, len, command);
        self.wait()
    }

    /// Waits until no DMA is on its way; whether the device said so in time.
    pub fn wait(&self) -> bool {
        let end = now_ns() + DEADLINE_NS;
        while register(self.registers + DMA_COMMAND).read() & COMMAND_START != 0 {
            if now_ns() > end {
                return false;
            }
        }
        // What the device wrote is read after its status.
        barrier();
        true
    }

    fn start(&self, source: u64, destination: u64, len: u32, command: u32) {
        // Past its buffer the device would overrun it.
        assert!(len <= 4096);
        self.write64(DMA_SOURCE, source);
        self.write64(DMA_DESTINATION, destination);
        self.write64(DMA_COUNT, u64::from(len));
        // What we wrote to memory must be there before the device looks.
        barrier();
        register(self.registers + DMA_COMMAND).write(command);
    }

    /// Where the next DMA would come from: a word that the device keeps.
    pub fn source(&self) -> u64 {
        self.register64(DMA_SOURCE).read()
    }

    /// Puts something there.
    pub fn set_source(&self, value: u64) {
        self.write64(DMA_SOURCE, value);
    }

    fn write64(&self, offset: u64, value: u64) {
        self.register64(offset).write(value);
    }

    fn register64(&self, offset: u64) -> UniqueMmioPointer<'_, ReadPureWrite<u64>> {
        let pointer = (self.registers + offset) as *mut ReadPureWrite<u64>;
        let pointer = core::ptr::NonNull::new(pointer).expect("not at address 0");
        // SAFETY: as in `pci::register`; the DMA registers are 8 bytes wide and aligned.
        unsafe { UniqueMmioPointer::new(pointer) }
    }
}
