//! Why a guest stopped: the syndrome of an exception to EL2, decoded (Arm ARM D24.2, ESR_EL2).
//!
//! Pure: words in, [`Exit`] out.

use core::fmt;

/// Why [`run`](crate::vcpu::Vcpu::run) came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// A physical interrupt is pending.
    Interrupt,
    /// A load or store that stage 2 does not allow, and that can be carried out from its syndrome.
    Mmio(MmioAccess),
    /// A store to what stage 2 lets be read only, and that can be carried out from its syndrome. Where it goes is what the
    /// guest's own tables say a moment later: whoever finds nothing there that may only be read lets the guest try again.
    ReadOnly(MmioAccess),
    /// The guest's tables say something else by now: it tries again.
    Retry,
    /// A stage-2 fault that cannot be carried out: an instruction fetch, a table walk, an instruction without syndrome.
    Abort(AbortInfo),
    /// HVC. The program counter is already past it.
    Hypercall {
        /// Its immediate.
        imm: u16,
    },
    /// SMC. The program counter is still at it.
    Smc {
        /// Its immediate.
        imm: u16,
    },
    /// A trapped MRS, MSR or system instruction. The program counter is still at it.
    SystemRegister(SysregAccess),
    /// WFI (or WFE). The program counter is still at it.
    Wait {
        /// WFE or WFET, rather than WFI or WFIT.
        event: bool,
    },
    /// A system error that the guest caused, or that a device reports.
    SError(Syndrome),
    /// Anything else: an instruction that this guest does not have; the syndrome.
    Unknown(u64),
}

/// A load or store of a guest to a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MmioAccess {
    /// Intermediate physical address.
    pub ipa: u64,
    /// Virtual address.
    pub far: u64,
    /// 1, 2, 4 or 8 bytes.
    pub size: u8,
    /// A store.
    pub write: bool,
    /// The general register, 31 for XZR.
    pub reg: u8,
    /// A load extends its sign.
    pub sign_extend: bool,
    /// The register is an X register; a W register otherwise.
    pub sixty_four: bool,
}

impl MmioAccess {
    /// What the register holds after a load of `value`: its low `size` bytes, extended as the instruction says.
    pub fn extend(&self, value: u64) -> u64 {
        let unused = 64 - 8 * u32::from(self.size);
        let raw = value << unused;
        let wide = if self.sign_extend {
            (raw.cast_signed() >> unused).cast_unsigned()
        } else {
            raw >> unused
        };
        if self.sixty_four {
            wide
        } else {
            wide & 0xffff_ffff
        }
    }
}

/// A stage-2 fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AbortInfo {
    /// Intermediate physical address: of the access, or of the descriptor when [`AbortInfo::walk`]. `None` where the
    /// CPU does not say.
    pub ipa: Option<u64>,
    /// Virtual address.
    pub far: u64,
    /// An instruction fetch.
    pub fetch: bool,
    /// A store.
    pub write: bool,
    /// On a walk of the guest's own tables.
    pub walk: bool,
    /// The syndrome.
    pub esr: u64,
}

/// The syndrome of an SError (ESR_EL2 with class 0x2f).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Syndrome(pub u64);

impl Syndrome {
    /// From DISR_EL1, which has the same fields: IDS 24, AET 12:10, EA 9, DFSC 5:0.
    pub fn deferred(disr: u64) -> Self {
        Self(0x2f << 26 | 1 << 25 | disr & 0x0100_1e3f)
    }

    /// What is known of the state after it: AET, where the syndrome is architected (IDS = 0, DFSC = 0b010001).
    fn state(self) -> Option<u8> {
        let architected = !bit(self.0, 24) && bits(self.0, 5, 0) == 0x11;
        architected.then(|| bits(self.0, 12, 10))
    }

    /// Bad data may be anywhere by now, past the guest: nobody can go on.
    pub fn is_uncontainable(self) -> bool {
        self.state() == Some(0)
    }

    /// Nothing is lost: the guest need not know.
    pub fn is_corrected(self) -> bool {
        self.state() == Some(6)
    }
}

impl fmt::Display for Syndrome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state() {
            Some(0) => "uncontainable",
            Some(1) => "unrecoverable",
            Some(2) => "restartable",
            Some(3) => "recoverable",
            Some(6) => "corrected",
            Some(_) => "reserved",
            None if bit(self.0, 24) => "implementation defined",
            None => "uncategorized",
        };
        write!(f, "{state} (ESR {:#x})", self.0)
    }
}

/// A trapped access to a system register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SysregAccess {
    /// Op0.
    pub op0: u8,
    /// Op1.
    pub op1: u8,
    /// CRn.
    pub crn: u8,
    /// CRm.
    pub crm: u8,
    /// Op2.
    pub op2: u8,
    /// The general register, 31 for XZR.
    pub reg: u8,
    /// MSR, rather than MRS.
    pub write: bool,
}

const fn bit(word: u64, at: u32) -> bool {
    word >> at & 1 != 0
}

const fn bits(word: u64, high: u32, low: u32) -> u8 {
    (word >> low & ((1 << (high - low + 1)) - 1)) as u8
}

/// Whether it is that of HVC: the only instruction that traps and is over.
pub fn is_hypercall(esr: u64) -> bool {
    esr >> 26 & 0x3f == 0x16
}

/// Whether it is that of a store that can be carried out but for its address: a permission fault of stage 2 sets no
/// HPFAR_EL2 unless it is on a walk (Arm ARM D24.2).
pub fn needs_address(esr: u64) -> bool {
    const CLASS: u64 = 0x3f << 26;
    const VALID: u64 = 1 << 24;
    const MAINTENANCE: u64 = 1 << 8;
    const WALK: u64 = 1 << 7;
    const WRITE: u64 = 1 << 6;
    // Of the status all but the level.
    const STATUS: u64 = 0b11_1100;
    const WANTED: u64 = 0x24 << 26 | VALID | WRITE | 0b00_1100;
    esr & (CLASS | VALID | MAINTENANCE | WALK | WRITE | STATUS) == WANTED
}

/// What PAR_EL1 says after AT, in the form of HPFAR_EL2 (D24.2): `None` for a fault.
pub fn translated(par: u64) -> Option<u64> {
    (!bit(par, 0)).then_some((par & 0x000f_ffff_ffff_f000) >> 8)
}

/// Decodes a store of which [`needs_address`] is true, where [`translated`] says `hpfar`.
pub fn read_only(esr: u64, far: u64, hpfar: u64) -> Exit {
    Exit::ReadOnly(access(esr, far, page(hpfar) | far & 0xfff))
}

/// HPFAR_EL2.FIPA, bits 47:4, has bits 55:12 of the address.
const fn page(hpfar: u64) -> u64 {
    (hpfar & 0xffff_ffff_fff0) << 8
}

/// A load or store at `ipa`, with a valid syndrome.
#[inline(always)]
fn access(esr: u64, far: u64, ipa: u64) -> MmioAccess {
    MmioAccess {
        ipa,
        far,
        size: 1 << bits(esr, 23, 22),
        write: bit(esr, 6),
        reg: bits(esr, 20, 16),
        sign_extend: bit(esr, 21),
        sixty_four: bit(esr, 15),
    }
}

/// Decodes a synchronous exception from EL1 or EL0, unless it [`needs_address`].
pub fn decode(esr: u64, far: u64, hpfar: u64) -> Exit {
    match esr >> 26 & 0x3f {
        0x01 => Exit::Wait { event: bit(esr, 0) },
        0x16 => Exit::Hypercall { imm: esr as u16 },
        0x17 => Exit::Smc { imm: esr as u16 },
        0x18 => Exit::SystemRegister(SysregAccess {
            op0: bits(esr, 21, 20),
            op2: bits(esr, 19, 17),
            op1: bits(esr, 16, 14),
            crn: bits(esr, 13, 10),
            reg: bits(esr, 9, 5),
            crm: bits(esr, 4, 1),
            write: !bit(esr, 0),
        }),
        0x20 => abort(esr, far, hpfar, true),
        0x24 => abort(esr, far, hpfar, false),
        0x2f => Exit::SError(Syndrome(esr)),
        _ => Exit::Unknown(esr),
    }
}

/// An instruction or data abort from a lower EL.
fn abort(esr: u64, far: u64, hpfar: u64, fetch: bool) -> Exit {
    let status = bits(esr, 5, 0);
    // Address size, translation, access flag and permission faults at levels 0 to 3, and the first two at level -1:
    // those that stage 2 reports. The rest is external: nothing to emulate, and nothing that tells an IPA.
    let permission = status & 0b11_1100 == 0b00_1100;
    let stage2 = status < 0b01_0000 || matches!(status, 0b10_1001 | 0b10_1011);
    let walk = bit(esr, 7);
    let write = !fetch && bit(esr, 6);
    // A walk reports the descriptor's page, the low bits of FAR are not its.
    let offset = if walk { 0 } else { far & 0xfff };
    let ipa = page(hpfar) | offset;
    // Data aborts only: ISV, and no cache maintenance by address.
    let emulatable = stage2 && !fetch && !walk && bit(esr, 24) && !bit(esr, 8);
    // Of permission faults only stores are ever emulated, by `read_only`: what may be emulated is not mapped, or for reading.
    let known = stage2 && (!permission || walk);
    if known && emulatable {
        Exit::Mmio(access(esr, far, ipa))
    } else {
        Exit::Abort(AbortInfo {
            ipa: known.then_some(ipa),
            far,
            fetch,
            write,
            walk,
            esr,
        })
    }
}

/// The name of a syndrome's exception class.
pub fn class_name(esr: u64) -> &'static str {
    match esr >> 26 & 0x3f {
        0x00 => "unknown reason",
        0x01 => "WFI or WFE",
        0x07 => "SVE, SIMD or floating point",
        0x0e => "illegal execution state",
        0x0d => "branch target",
        0x15 => "SVC",
        0x16 => "HVC",
        0x17 => "SMC",
        0x18 => "system register",
        0x19 => "SVE",
        0x1c => "pointer authentication",
        0x1d => "SME",
        0x20 => "instruction abort from below",
        0x21 => "instruction abort",
        0x22 => "misaligned pc",
        0x24 => "data abort from below",
        0x25 => "data abort",
        0x26 => "misaligned sp",
        0x2f => "SError",
        0x30..=0x35 => "debug",
        0x3c => "BRK",
        _ => "reserved class",
    }
}

#[cfg(test)]
mod tests;
