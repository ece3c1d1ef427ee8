//! What a guest's CPU holds when it starts.

/// The general registers, by the number that instructions have for them: RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15;
/// and what goes with them. The entry code relies on this layout.
#[repr(C)]
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Registers {
    /// RAX and so on.
    pub general: [u64; 16],
    /// RIP.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
}

/// Number of RAX in [`Registers::general`].
pub const RAX: usize = 0;
/// Number of RCX.
pub const RCX: usize = 1;
/// Number of RDX.
pub const RDX: usize = 2;
/// Number of RBX.
pub const RBX: usize = 3;
/// Number of RSP.
pub const RSP: usize = 4;
/// Number of RSI.
pub const RSI: usize = 6;

/// RFLAGS at reset: the bit that is always 1.
pub const RFLAGS: u64 = 1 << 1;
/// RFLAGS.IF.
pub const RFLAGS_IF: u64 = 1 << 9;
/// RFLAGS.RF.
pub const RFLAGS_RF: u64 = 1 << 16;
/// CR0.PG.
pub const CR0_PG: u64 = 1 << 31;
/// CR0.PE.
pub const CR0_PE: u64 = 1;
/// CR0.PE, ET and NE.
const CR0_PROTECTED: u64 = CR0_PE | 1 << 4 | 1 << 5;
/// CR0.WP.
const CR0_WP: u64 = 1 << 16;
/// CR4.PAE.
const CR4_PAE: u64 = 1 << 5;
/// EFER.SCE.
pub const EFER_SCE: u64 = 1;
/// EFER.LME.
pub const EFER_LME: u64 = 1 << 8;
/// EFER.LMA.
pub const EFER_LMA: u64 = 1 << 10;
/// EFER.NXE.
pub const EFER_NXE: u64 = 1 << 11;

/// A segment register with what it has loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Type (bits 3:0), S, DPL (2 bits), P, AVL, L, D/B, G: those of the descriptor, without its limit.
    pub attributes: u16,
    /// Limit in bytes.
    pub limit: u32,
    /// Linear base address.
    pub base: u64,
}

impl Segment {
    /// Of a 64-bit code segment.
    pub const LONG: u16 = 1 << 9;
    /// Of a 32-bit segment.
    pub const DEFAULT_32: u16 = 1 << 10;

    const fn flat(selector: u16, attributes: u16) -> Self {
        Self {
            selector,
            attributes,
            limit: u32::MAX,
            base: 0,
        }
    }

    /// Of 64 KiB, as after reset.
    const fn real(selector: u16, attributes: u16, base: u64) -> Self {
        Self {
            selector,
            attributes,
            limit: 0xffff,
            base,
        }
    }
}

/// A descriptor table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DescriptorTable {
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u16,
}

impl DescriptorTable {
    const RESET: Self = Self {
        base: 0,
        limit: 0xffff,
    };
}

/// All but the general registers; the rest is as after reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct State {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER, as the guest reads it.
    pub efer: u64,
    /// RIP.
    pub rip: u64,
    /// CS.
    pub cs: Segment,
    /// DS, ES, FS, GS and SS.
    pub data: Segment,
    /// LDTR.
    pub ldtr: Segment,
    /// TR.
    pub tr: Segment,
    /// GDTR.
    pub gdtr: DescriptorTable,
    /// IDTR.
    pub idtr: DescriptorTable,
}

/// An LDT that is there, and a busy TSS: what a CPU starts with.
const LDTR: Segment = Segment::real(0, 0x82, 0);
const TR: Segment = Segment::real(0, 0x8b, 0);

/// Selectors that Linux names: `__BOOT_CS` and `__BOOT_DS`.
const BOOT_CODE: u16 = 0x10;
const BOOT_DATA: u16 = 0x18;

impl State {
    /// As after reset (AMD64 Architecture Programmer's Manual, volume 2, 14.1.3, "Processor Initialization State").
    pub const RESET: Self = Self {
        cr0: 0x6000_0010,
        cr3: 0,
        cr4: 0,
        efer: 0,
        rip: 0xfff0,
        cs: Segment::real(0xf000, 0x9b, 0xffff_0000),
        data: Segment::real(0, 0x93, 0),
        ldtr: LDTR,
        tr: TR,
        gdtr: DescriptorTable::RESET,
        idtr: DescriptorTable::RESET,
    };

    /// After INIT and a start-up message for the 4 KiB page `page`: in real mode, at its first byte (15.27.8; Intel SDM,
    /// volume 3, "MP Initialization Protocol Algorithm").
    pub const fn started(page: u8) -> Self {
        Self {
            rip: 0,
            cs: Segment::real((page as u16) << 8, 0x9b, (page as u64) << 12),
            ..Self::RESET
        }
    }

    /// In 32-bit protected mode without paging, all segments flat, as PVH and Multiboot ask for.
    pub const fn protected(entry: u32) -> Self {
        Self {
            cr0: CR0_PROTECTED,
            rip: entry as u64,
            cs: Segment::flat(BOOT_CODE, 0xc9b),
            data: Segment::flat(BOOT_DATA, 0xc93),
            tr: Segment { limit: 0x67, ..TR },
            ..Self::RESET
        }
    }

    /// In 64-bit mode, all segments flat, with the page tables at `cr3` and the descriptors in `gdt`, as Linux's 64-bit
    /// boot protocol asks for.
    pub const fn long(entry: u64, cr3: u64, gdt: DescriptorTable) -> Self {
        Self {
            cr0: CR0_PROTECTED | CR0_WP | CR0_PG,
            cr3,
            cr4: CR4_PAE,
            efer: EFER_LME | EFER_LMA | EFER_NXE,
            rip: entry,
            cs: Segment::flat(BOOT_CODE, 0xa9b),
            gdtr: gdt,
            ..Self::protected(0)
        }
    }
}

/// What decides how the guest's addresses and instructions are understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Context {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER, as the guest reads it.
    pub efer: u64,
    /// CS.
    pub cs: Segment,
    /// Current privilege level.
    pub cpl: u8,
}

impl Context {
    /// Width of addresses and instructions in bits: 64, 32 or 16.
    pub fn code_bits(&self) -> u8 {
        if self.efer & EFER_LMA != 0 && self.cs.attributes & Segment::LONG != 0 {
            64
        } else if self.cs.attributes & Segment::DEFAULT_32 != 0 {
            32
        } else {
            16
        }
    }

    /// What EFER is after the guest writes `value`; `None` is #GP(0): a reserved bit, or a change of LME under paging.
    pub fn efer_after(&self, value: u64) -> Option<u64> {
        const WRITABLE: u64 = EFER_SCE | EFER_LME | EFER_NXE;
        let changed = (self.efer ^ value) & EFER_LME != 0;
        if value & !(WRITABLE | EFER_LMA) != 0 || changed && self.cr0 & CR0_PG != 0 {
            return None;
        }
        Some(value & WRITABLE | self.efer & EFER_LMA)
    }
}

#[cfg(test)]
mod tests {
    use super::{Context, DescriptorTable, State};

    /// Numbers of the manuals' tables, by hand.
    #[test]
    fn a_cpu_starts_where_the_manuals_say() {
        let reset = State::RESET;
        assert_eq!(
            (reset.cs.base + reset.rip, reset.cr0),
            (0xffff_fff0, 0x6000_0010)
        );
        let started = State::started(0x9a);
        assert_eq!(
            (started.cs.selector, started.cs.base, started.rip),
            (0x9a00, 0x9_a000, 0)
        );
        assert_eq!((started.cr0, started.data), (reset.cr0, reset.data));
        let protected = State::protected(0x10_0000);
        assert_eq!((protected.cr0, protected.efer, protected.cr4), (0x31, 0, 0));
        assert_eq!(
            (protected.cs.attributes, protected.data.attributes),
            (0xc9b, 0xc93)
        );
        let gdt = DescriptorTable {
            base: 0x1000,
            limit: 31,
        };
        let long = State::long(0x100_0200, 0x2000, gdt);
        assert_eq!((long.cr0, long.cr4, long.efer), (0x8001_0031, 0x20, 0xd00));
        assert_eq!((long.cs.attributes, long.gdtr), (0xa9b, gdt));
    }

    fn context(state: State) -> Context {
        Context {
            cr0: state.cr0,
            cr3: state.cr3,
            cr4: state.cr4,
            efer: state.efer,
            cs: state.cs,
            cpl: 0,
        }
    }

    #[test]
    fn the_width_of_code_is_that_of_its_segment() {
        let gdt = DescriptorTable { base: 0, limit: 0 };
        assert_eq!(context(State::RESET).code_bits(), 16);
        assert_eq!(context(State::protected(0)).code_bits(), 32);
        let long = State::long(0, 0, gdt);
        assert_eq!(context(long).code_bits(), 64);
        // Compatibility mode.
        let compatible = State {
            cs: State::protected(0).cs,
            ..long
        };
        assert_eq!(context(compatible).code_bits(), 32);
    }

    #[test]
    fn efer_keeps_what_a_guest_may_not_change() {
        let long = context(State::long(0, 0, DescriptorTable { base: 0, limit: 0 }));
        assert_eq!(long.efer_after(0x901), Some(0xd01));
        assert_eq!(long.efer_after(0x500), Some(0x500));
        assert_eq!(long.efer_after(0x801), None, "LME under paging");
        assert_eq!(long.efer_after(0x1d00), None, "SVME");
        let flat = context(State::protected(0));
        assert_eq!(flat.efer_after(0x900), Some(0x900));
        assert_eq!(flat.efer_after(0xd00), Some(0x900), "LMA follows CR0.PG");
    }
}
