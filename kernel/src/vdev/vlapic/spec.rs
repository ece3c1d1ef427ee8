//! Registers of the local APIC. Titles are those of sections in "Advanced Programmable Interrupt Controller (APIC)", Intel
//! SDM volume 3A.

/// Register numbers ("x2APIC Register Address Space"): MSR 0x800 + number, or offset 16 * number of the page.
pub mod register {
    /// Local APIC ID.
    pub const ID: u32 = 0x02;
    /// Local APIC version.
    pub const VERSION: u32 = 0x03;
    /// Task priority.
    pub const TPR: u32 = 0x08;
    /// Arbitration priority, which only xAPIC mode has.
    pub const APR: u32 = 0x09;
    /// Processor priority.
    pub const PPR: u32 = 0x0a;
    /// End of interrupt.
    pub const EOI: u32 = 0x0b;
    /// Remote read, which only xAPIC mode has.
    pub const RRD: u32 = 0x0c;
    /// Logical destination.
    pub const LDR: u32 = 0x0d;
    /// Destination format, which only xAPIC mode has.
    pub const DFR: u32 = 0x0e;
    /// Spurious interrupt vector.
    pub const SVR: u32 = 0x0f;
    /// In service, the first of eight.
    pub const ISR: u32 = 0x10;
    /// Trigger mode, the first of eight.
    pub const TMR: u32 = 0x18;
    /// Interrupt request, the first of eight.
    pub const IRR: u32 = 0x20;
    /// Error status.
    pub const ESR: u32 = 0x28;
    /// Interrupt command; its lower half in xAPIC mode.
    pub const ICR: u32 = 0x30;
    /// Its upper half in xAPIC mode.
    pub const ICR_HIGH: u32 = 0x31;
    /// The first of the local vector table: timer, thermal, performance, LINT0, LINT1, error.
    pub const LVT: u32 = 0x32;
    /// The last of them.
    pub const LVT_LAST: u32 = 0x37;
    /// Initial count of the timer.
    pub const INITIAL_COUNT: u32 = 0x38;
    /// Current count of the timer.
    pub const CURRENT_COUNT: u32 = 0x39;
    /// Divide configuration of the timer.
    pub const DIVIDE: u32 = 0x3e;
    /// Self IPI, which only x2APIC mode has.
    pub const SELF_IPI: u32 = 0x3f;
}

/// "Local APIC Version Register": an integrated APIC, six LVT entries, EOI broadcasts can be suppressed.
pub const VERSION: u32 = 0x14 | 5 << 16 | 1 << 24;

/// `IA32_APIC_BASE` ("Local APIC Status and Location").
pub mod base {
    /// This is the bootstrap processor.
    pub const BSP: u64 = 1 << 8;
    /// x2APIC mode.
    pub const EXTD: u64 = 1 << 10;
    /// Enabled.
    pub const ENABLE: u64 = 1 << 11;
    /// Where the registers of xAPIC mode are.
    pub const ADDRESS: u64 = 0xfee0_0000;
}

/// "Spurious Interrupt" and "EOI Broadcast Suppression".
pub mod svr {
    /// The APIC is enabled by software.
    pub const ENABLE: u32 = 1 << 8;
    /// An EOI stays here.
    pub const SUPPRESS_EOI: u32 = 1 << 12;
    /// What can be written.
    pub const WRITABLE: u32 = 0xff | ENABLE | SUPPRESS_EOI;
    /// After reset.
    pub const RESET: u32 = 0xff;
}

/// "Error Handling".
pub mod esr {
    /// A vector below 16 in a message to be sent.
    pub const SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
    /// A vector below 16 in a message that came, or of the local vector table.
    pub const RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
    /// An access to a register that is none, in xAPIC mode.
    pub const ILLEGAL_REGISTER: u32 = 1 << 7;
}

/// "Local Vector Table".
pub mod lvt {
    /// No interrupt.
    pub const MASKED: u32 = 1 << 16;
    /// Delivery status and remote IRR: read-only, and never set here.
    pub const READ_ONLY: u32 = 1 << 12 | 1 << 14;
    /// Index of the timer.
    pub const TIMER: usize = 0;
    /// Index of the error interrupt.
    pub const ERROR: usize = 5;
    /// What can be written of each: timer, thermal, performance, LINT0, LINT1, error.
    pub const WRITABLE: [u32; 6] = [0x7_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];
}

/// "Interrupt Command Register (ICR)".
pub mod icr {
    /// Logical destination.
    pub const LOGICAL: u64 = 1 << 11;
    /// Level: assert.
    pub const ASSERT: u64 = 1 << 14;
    /// Level-triggered; used for the de-assertion of INIT only.
    pub const LEVEL: u64 = 1 << 15;
    /// What can be written.
    pub const WRITABLE: u64 = 0xffff_ffff_000c_cfff;

    /// Destination shorthand.
    pub const fn shorthand(icr: u64) -> u64 {
        icr >> 18 & 3
    }
}

/// "Divide Configuration Register": bits 0, 1 and 3.
pub const DIVIDE_WRITABLE: u32 = 0b1011;

/// Log2 of what the timer's clock is divided by.
pub const fn divide_shift(divide: u32) -> u32 {
    ((divide & 3 | divide >> 1 & 4) + 1) & 7
}

/// "Delivery Mode" of messages, as far as they have a meaning here: there is neither SMM nor a second controller that
/// would have a vector of its own (ExtINT).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// A vector for every destination.
    Fixed,
    /// A vector for the destination that does the least urgent work.
    Lowest,
    /// Non-maskable.
    Nmi,
    /// INIT.
    Init,
    /// Start-up, with a page of the first MiB.
    Startup,
}

impl Mode {
    /// Of the three bits.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits & 7 {
            0 => Some(Self::Fixed),
            1 => Some(Self::Lowest),
            4 => Some(Self::Nmi),
            5 => Some(Self::Init),
            6 => Some(Self::Startup),
            _ => None,
        }
    }
}
