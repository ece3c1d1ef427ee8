//! Registers of a GICv3 as a guest sees them, and list registers (IHI 0069, chapter 12). Definitions only.

/// Distributor, offsets from its frame (§12.8).
pub mod gicd {
    /// Control.
    pub const CTLR: u64 = 0x0000;
    /// Type.
    pub const TYPER: u64 = 0x0004;
    /// Implementer.
    pub const IIDR: u64 = 0x0008;
    /// Type 2: SGIs without active state, vPEID width.
    pub const TYPER2: u64 = 0x000c;
    /// Error report.
    pub const STATUSR: u64 = 0x0010;
    /// Message-based SPIs: `SETSPI_NSR`, `CLRSPI_NSR`, `SETSPI_SR`, `CLRSPI_SR`.
    pub const MESSAGES: [u64; 4] = [0x0040, 0x0048, 0x0050, 0x0058];
    /// Group modifier, one bit an interrupt.
    pub const IGRPMODR: u64 = 0x0d00;
    /// Access control, two bits an interrupt.
    pub const NSACR: u64 = 0x0e00;
    /// Processor targets: used only without affinity routing.
    pub const ITARGETSR: u64 = 0x0800;
    /// SGI generation: used only without affinity routing, with the pending registers up to 0xf2f.
    pub const SGIR: u64 = 0x0f00;
    /// Routing, 64 bits an interrupt.
    pub const IROUTER: u64 = 0x6000;
    /// Identification registers, up to the end of the frame.
    pub const ID: u64 = 0xffd0;
    /// Architecture revision.
    pub const PIDR2: u64 = 0xffe8;

    /// `CTLR`: forward Group 0.
    pub const CTLR_GROUP0: u32 = 1 << 0;
    /// `CTLR`: forward Group 1.
    pub const CTLR_GROUP1: u32 = 1 << 1;
    /// `CTLR`: affinity routing.
    pub const CTLR_ARE: u32 = 1 << 4;
    /// `CTLR`: one security state.
    pub const CTLR_DS: u32 = 1 << 6;
    /// `CTLR`: a disable has not reached every CPU interface yet.
    pub const CTLR_RWP: u32 = 1 << 31;

    /// `TYPER`: LPIs.
    pub const TYPER_LPIS: u32 = 1 << 17;
    /// `TYPER`: width of INTIDs less one, from this bit.
    pub const TYPER_ID_BITS: u32 = 19;
    /// `TYPER`: non-zero Aff3.
    pub const TYPER_A3V: u32 = 1 << 24;
    /// `TYPER`: no 1-of-N delivery.
    pub const TYPER_NO_1N: u32 = 1 << 25;
    /// `TYPER`: SGIs reach Aff0 above 15.
    pub const TYPER_RSS: u32 = 1 << 26;

    /// `IROUTER`: any CPU.
    pub const IROUTER_ANY: u64 = 1 << 31;
    /// `IROUTER`: Aff3 and Aff2 to Aff0.
    pub const IROUTER_AFFINITY: u64 = 0xff_00ff_ffff;
}

/// Redistributor, offsets from its first frame (§12.10); `SGI` is where the second one starts.
pub mod gicr {
    /// Control.
    pub const CTLR: u64 = 0x0000;
    /// Implementer.
    pub const IIDR: u64 = 0x0004;
    /// Type, 64 bits.
    pub const TYPER: u64 = 0x0008;
    /// Error report.
    pub const STATUSR: u64 = 0x0010;
    /// Power.
    pub const WAKER: u64 = 0x0014;
    /// Direct LPIs: `SETLPIR`, `CLRLPIR`, `INVLPIR`, `INVALLR`.
    pub const DIRECT_LPI: [u64; 4] = [0x0040, 0x0048, 0x00a0, 0x00b0];
    /// LPI configuration table, 64 bits.
    pub const PROPBASER: u64 = 0x0070;
    /// LPI pending table, 64 bits.
    pub const PENDBASER: u64 = 0x0078;
    /// Outcome of the direct LPI registers.
    pub const SYNCR: u64 = 0x00c0;
    /// The frame of SGIs and PPIs.
    pub const SGI: u64 = 0x1_0000;

    /// `CTLR`: LPIs are delivered.
    pub const CTLR_ENABLE_LPIS: u32 = 1 << 0;
    /// `CTLR`: `EnableLPIs` may be cleared again.
    pub const CTLR_CES: u32 = 1 << 1;

    /// `TYPER`: physical LPIs.
    pub const TYPER_PLPIS: u64 = 1 << 0;
    /// `TYPER`: last one of a contiguous row.
    pub const TYPER_LAST: u64 = 1 << 4;
    /// `TYPER`: number of the CPU, from this bit.
    pub const TYPER_NUMBER: u32 = 8;
    /// `TYPER`: affinity, from this bit.
    pub const TYPER_AFFINITY: u32 = 32;

    /// `WAKER`: the CPU is asleep.
    pub const WAKER_PROCESSOR_SLEEP: u32 = 1 << 1;
    /// `WAKER`: so is the interface to it.
    pub const WAKER_CHILDREN_ASLEEP: u32 = 1 << 2;

    /// `PROPBASER`: width of INTIDs less one.
    pub const PROPBASER_ID_BITS: u64 = 0x1f;
    /// `PROPBASER`: the table's address.
    pub const PROPBASER_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    /// `PROPBASER`: everything that is stored.
    pub const PROPBASER_MASK: u64 = 0x070f_ffff_ffff_ff9f;
    /// `PENDBASER`: everything that is stored (`PTZ` reads as zero).
    pub const PENDBASER_MASK: u64 = 0x070f_ffff_ffff_0f80;
}

/// `PIDR2`: GICv3, JEDEC-assigned.
pub const PIDR2: u32 = 0x3b;
/// `IIDR`: Arm as implementer, our own product number.
pub const IIDR: u32 = 0x5300_043b;
/// First LPI.
pub const LPI_BASE: u32 = 8192;
/// INTIDs are 16 bits wide: LPIs end here, exclusive.
pub const LPI_END: u32 = 1 << 16;
/// The bits of a priority that exist: 32 levels.
pub const PRIORITY_MASK: u8 = 0xf8;

/// Implemented list registers, at most (`ICH_VTR_EL2.ListRegs`).
pub const MAX_LRS: usize = 16;

/// `ICH_HCR_EL2` (§12.4): control of the virtual CPU interface.
pub mod hcr {
    /// The interface is on.
    pub const EN: u64 = 1 << 0;
    /// Maintenance interrupt while at most one list register is valid.
    pub const UIE: u64 = 1 << 1;
    /// ... while an end of interrupt found no list register.
    pub const LRENPIE: u64 = 1 << 2;
    /// ... while no list register is pending.
    pub const NPIE: u64 = 1 << 3;
    /// Trap `ICC_DIR_EL1` (where `ICH_VTR_EL2.TDS`; else `TC` traps it, with others).
    pub const TDIR: u64 = 1 << 14;
    /// Deactivations that found no list register, from this bit, 5 bits.
    pub const EOI_COUNT: u32 = 27;
}

/// `ICH_VMCR_EL2`: the guest's own CPU interface registers.
pub mod vmcr {
    /// Group 0 is signalled.
    pub const GROUP0: u64 = 1 << 0;
    /// Group 1 is signalled.
    pub const GROUP1: u64 = 1 << 1;
    /// `EOImode`: end of interrupt only drops the priority.
    pub const EOI_MODE: u64 = 1 << 9;
    /// Priority mask, from this bit, 8 bits.
    pub const PRIORITY_MASK: u32 = 24;
}

/// One `ICH_LR<n>_EL2` (§12.4).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Lr(pub u64);

impl Lr {
    /// Inactive: nothing in it counts.
    pub const EMPTY: Self = Self(0);

    /// An inactive entry for `intid`.
    pub const fn new(intid: u32, priority: u8, group1: bool) -> Self {
        Self(intid as u64 | (priority as u64) << 48 | (group1 as u64) << 60)
    }

    /// Also pending.
    #[must_use]
    pub const fn with_pending(self) -> Self {
        Self(self.0 | 1 << 62)
    }

    /// Also active.
    #[must_use]
    pub const fn with_active(self) -> Self {
        Self(self.0 | 1 << 63)
    }

    /// Deactivating it deactivates physical `intid`.
    #[must_use]
    pub const fn with_physical(self, intid: u32) -> Self {
        Self(self.0 | 1 << 61 | (intid as u64 & 0x1fff) << 32)
    }

    /// Maintenance interrupt when it is deactivated; only without a physical interrupt.
    #[must_use]
    pub const fn with_eoi(self) -> Self {
        Self(self.0 | 1 << 41)
    }

    /// Virtual INTID.
    pub const fn intid(self) -> u32 {
        self.0 as u32
    }

    /// Priority, lower is more urgent.
    pub const fn priority(self) -> u8 {
        (self.0 >> 48) as u8
    }

    /// Group 1, else Group 0.
    pub const fn group1(self) -> bool {
        self.0 >> 60 & 1 != 0
    }

    /// State includes pending.
    pub const fn pending(self) -> bool {
        self.0 >> 62 & 1 != 0
    }

    /// State includes active.
    pub const fn active(self) -> bool {
        self.0 >> 63 & 1 != 0
    }

    /// Physical INTID, if it stands for one.
    pub const fn physical(self) -> Option<u32> {
        if self.0 >> 61 & 1 != 0 {
            Some((self.0 >> 32 & 0x1fff) as u32)
        } else {
            None
        }
    }

    /// Maintenance interrupt on deactivation.
    pub const fn eoi(self) -> bool {
        self.physical().is_none() && self.0 >> 41 & 1 != 0
    }
}

/// One byte of the LPI configuration table (§5.1.1).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LpiProperty(pub u8);

impl LpiProperty {
    /// Delivered when pending.
    pub const fn enabled(self) -> bool {
        self.0 & 1 != 0
    }

    /// Priority, without the bits that we do not implement.
    pub const fn priority(self) -> u8 {
        self.0 & 0xfc & PRIORITY_MASK
    }
}
