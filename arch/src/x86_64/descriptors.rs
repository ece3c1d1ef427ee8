//! Segments, task state and gates (AMD64 Architecture Programmer's Manual, volume 2, 4.8, 8.2 and 12.2.5).

use super::area;

/// Selector of the code segment.
pub const CODE: u16 = 0x08;
/// Selector of the data segment.
pub const DATA: u16 = 0x10;
/// Selector of the task state segment.
pub const TASK: u16 = 0x18;

/// Present, DPL 0, code, readable, 64-bit (4.8.1), with the limit and granularity that 32-bit mode wants.
const CODE_DESCRIPTOR: u64 = 0x00af_9b00_0000_ffff;
/// Present, DPL 0, data, writable (4.8.2).
const DATA_DESCRIPTOR: u64 = 0x00cf_9300_0000_ffff;

/// A global descriptor table: null, code, data, and the two words of the task state segment.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gdt(pub [u64; 5]);

impl Gdt {
    /// With the task state segment at `tss`: an available 64-bit TSS (type 9, 4.8.3).
    pub fn new(tss: u64) -> Self {
        let limit = size_of::<Tss>() as u64 - 1;
        let low = limit | (tss & 0xff_ffff) << 16 | 0x89 << 40 | (tss >> 24 & 0xff) << 56;
        Self([0, CODE_DESCRIPTOR, DATA_DESCRIPTOR, low, tss >> 32])
    }
}

/// A 64-bit task state segment (12.2.5): only stacks are in it, and no I/O ports.
#[repr(C, packed(4))]
#[derive(Clone, Copy, Debug)]
pub struct Tss {
    reserved: u32,
    rsp: [u64; 3],
    reserved_too: u64,
    ist: [u64; 7],
    reserved_at_last: u64,
    reserved_half: u16,
    io_map: u16,
}

const _: () = assert!(size_of::<Tss>() == 104);

/// Which stack of [`area`] an exception takes: its IST entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stack {
    /// The one that is in use.
    Same = 0,
    /// [`area::EMERGENCY_END`].
    Emergency = 1,
    /// [`area::DOUBLE_FAULT_END`].
    DoubleFault = 2,
    /// [`area::NMI_END`].
    Nmi = 3,
}

impl Stack {
    /// What vector `vector` takes: interrupts the one that is in use.
    pub fn of(vector: u8) -> Self {
        match vector {
            2 | 18 => Self::Nmi,
            8 => Self::DoubleFault,
            0..32 => Self::Emergency,
            _ => Self::Same,
        }
    }
}

impl Tss {
    /// With the stacks of the area at `base`.
    pub fn new(base: u64) -> Self {
        let mut ist = [0; 7];
        ist[0] = base + area::EMERGENCY_END;
        ist[1] = base + area::DOUBLE_FAULT_END;
        ist[2] = base + area::NMI_END;
        Self {
            reserved: 0,
            rsp: [0; 3],
            reserved_too: 0,
            ist,
            reserved_at_last: 0,
            reserved_half: 0,
            // Past the limit: there is no map.
            io_map: size_of::<Self>() as u16,
        }
    }
}

/// An interrupt gate to `handler` on `stack` (8.2.3 and 4.8.4): present, type 0xe.
pub fn gate(handler: u64, stack: Stack) -> [u64; 2] {
    let low = (handler & 0xffff)
        | u64::from(CODE) << 16
        | (stack as u64) << 32
        | 0x8e << 40
        | (handler >> 16 & 0xffff) << 48;
    [low, handler >> 32]
}

#[cfg(test)]
mod tests {
    use super::{Gdt, Stack, Tss, gate};

    /// Words as the tables of 4.8 and 8.2 lay them out, by hand.
    #[test]
    fn descriptors_have_their_bits() {
        let gdt = Gdt::new(0x1234_5678_9abc_def0);
        assert_eq!(gdt.0[3], 0x9a00_89bc_def0_0067);
        assert_eq!(gdt.0[4], 0x1234_5678);
        assert_eq!(
            gate(0xffff_8000_1234_5678, Stack::DoubleFault),
            [0x1234_8e02_0008_5678, 0xffff_8000]
        );
    }

    #[test]
    fn a_task_has_the_stacks_of_its_area() {
        let tss = Tss::new(0x4_0000);
        let ist = tss.ist;
        assert_eq!(ist, [0x5_b000, 0x5_d000, 0x5_f800, 0, 0, 0, 0]);
        assert_eq!(Stack::of(8), Stack::DoubleFault);
        assert_eq!(Stack::of(14), Stack::Emergency);
        assert_eq!(Stack::of(2), Stack::Nmi);
        assert_eq!(Stack::of(32), Stack::Same);
    }
}
