//! Where things are in a partition's physical address space: the same places as on QEMU's `virt` where that can be.

pub mod x86_64;

use iommu::addr::{Gpa, Span};

/// Width of the intermediate physical address space: three levels of 4 KiB tables, no concatenation.
pub const IPA_BITS: u8 = 39;

const fn at(base: u64, len: u64) -> Span<Gpa> {
    Span {
        base: Gpa(base),
        len,
    }
}

/// GICv3 distributor.
pub const GICD: Span<Gpa> = at(0x0800_0000, 0x1_0000);
/// ITS control frame.
pub const ITS: Span<Gpa> = at(0x0808_0000, 0x1_0000);
/// ITS translation frame: `GITS_TRANSLATER` is at offset 0x40.
pub const ITS_TRANSLATION: Span<Gpa> = at(0x0809_0000, 0x1_0000);
/// First redistributor; each vCPU has 128 KiB.
pub const GICR: Span<Gpa> = at(0x080a_0000, 64 * GICR_STRIDE);
/// Size of one redistributor: RD and SGI frames.
pub const GICR_STRIDE: u64 = 0x2_0000;
/// PL011.
pub const UART: Span<Gpa> = at(0x0900_0000, 0x1000);
/// Interrupt of the PL011 (SPI 1).
pub const UART_INTID: u32 = 33;
/// SMMUs, as many as the partition's functions are behind.
pub const SMMU: Span<Gpa> = at(0x0905_0000, MAX_SMMUS as u64 * SMMU_STRIDE);
/// Size of one SMMU: both register pages.
pub const SMMU_STRIDE: u64 = 0x2_0000;
/// SMMUs of a partition at most.
pub const MAX_SMMUS: usize = 8;
/// Their interrupts (SPI 64 up), four each: eventq, priq, cmdq-sync, gerror.
pub const SMMU_INTIDS: core::ops::Range<u32> = 96..96 + 4 * MAX_SMMUS as u32;
/// Where devices, and nobody else, find copies of the guest's context descriptors, a part for each SMMU.
pub const CONTEXTS: Span<Gpa> = at(0x0940_0000, MAX_SMMUS as u64 * CONTEXTS_STRIDE);
/// Size of a part: a page of the largest granule. An SMMU that reads a first-stage table past what stage 2 says of its
/// address (QEMU's does where the first stage's granule is the larger one) finds nothing of others there.
pub const CONTEXTS_STRIDE: u64 = 0x1_0000;
/// Virtual devices, those to come included: what a guest sees here is never a device of the machine.
pub const VIRTUAL: Span<Gpa> = at(0x0800_0000, 0x0200_0000);
/// Registers of assigned devices that are not PCI functions, as far as they cannot be where the machine has them.
pub const PLATFORM: Span<Gpa> = at(0x0a00_0000, 0x0600_0000);
/// Their interrupts (SPI 32 up), in the order in which they come.
pub const PLATFORM_INTIDS: core::ops::Range<u32> = 64..92;
/// Non-prefetchable memory window of the PCIe host.
pub const PCI_WINDOW: Span<Gpa> = at(0x1000_0000, 0x2000_0000);
/// ECAM: 16 buses.
pub const ECAM: Span<Gpa> = at(0x3f00_0000, 0x0100_0000);
/// INTA of the PCIe host (SPI 3); INTB to INTD follow.
pub const INTX_INTID: u32 = 35;
/// RAM starts here.
pub const RAM: Gpa = Gpa(0x4000_0000);
/// EL1 virtual timer (PPI).
pub const VIRTUAL_TIMER_INTID: u32 = 27;
/// EL1 physical timer (PPI).
pub const PHYSICAL_TIMER_INTID: u32 = 30;
/// Timers as firmware names them: secure EL1, EL1 physical, EL1 virtual, EL2. Only the middle two can fire.
pub const TIMER_INTIDS: [u32; 4] = [29, PHYSICAL_TIMER_INTID, VIRTUAL_TIMER_INTID, 26];
/// SPIs that a partition's distributor has: INTID 32 up to this, exclusive.
pub const SPI_END: u32 = 128;
/// Where nothing else can be; RAM, which has no fixed end, beside it.
pub const TAKEN: [Span<Gpa>; 4] = [VIRTUAL, PLATFORM, PCI_WINDOW, ECAM];

const _: () = assert!(PLATFORM_INTIDS.end <= SMMU_INTIDS.start && SMMU_INTIDS.end <= SPI_END);
