//! Stage 2 of the EL1&0 regime on this CPU: which tables it uses, and when what it has cached of them goes.

use super::features::Features;
#[cfg(target_os = "none")]
use super::{cpu, sysreg::read, sysreg::write_guest};
#[cfg(target_os = "none")]
use core::arch::asm;
#[cfg(target_os = "none")]
use core::sync::atomic::AtomicU64;

/// The tables of one partition: 4 KiB granule, no concatenation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stage2Config {
    /// Physical address of the root table.
    pub root: u64,
    /// VMID.
    pub vmid: u16,
    /// Width of the intermediate physical address space in bits; it decides at which level the walk starts.
    pub input_bits: u8,
}

impl Stage2Config {
    /// `VTCR_EL2` (Arm ARM D24.2): walks are write-back and inner shareable.
    pub fn vtcr(&self, features: &Features) -> u64 {
        let t0sz = 64 - u64::from(self.input_bits);
        // SL0: the root is at level 2 for up to 30 bits, 1 for up to 39, 0 beyond.
        let sl0 = match self.input_bits {
            ..=30 => 0,
            31..=39 => 1,
            _ => 2,
        };
        // PS: 48 bits at most without LPA2.
        let ps = (features.ID_AA64MMFR0() & 0xf).min(5);
        let vs = u64::from(features.vmid16);
        1 << 31 | vs << 19 | ps << 16 | 3 << 12 | 1 << 10 | 1 << 8 | sl0 << 6 | t0sz
    }

    /// `VTTBR_EL2`.
    pub fn vttbr(&self) -> u64 {
        u64::from(self.vmid) << 48 | self.root
    }
}

/// Ranges longer than this many pages are not worth an instruction a page.
#[cfg(target_os = "none")]
const RANGE_LIMIT: u64 = 512;

#[cfg(target_os = "none")]
const PAGE: u64 = 4096;

/// A root table for while another VMID's entries are invalidated: nothing can be cached from it.
#[cfg(target_os = "none")]
#[repr(C, align(4096))]
struct Empty([AtomicU64; 512]);

// Nobody writes it. As a constant its zeros would be a page of the image.
#[cfg(target_os = "none")]
static EMPTY: Empty = Empty([const { AtomicU64::new(0) }; 512]);

/// Uses these tables on this CPU from here on. What may be cached under the VMID must be that of the same tables.
#[cfg(target_os = "none")]
pub fn activate(config: &Stage2Config) {
    write_guest! {
        "VTCR_EL2" => config.vtcr(&cpu::features());
        "VTTBR_EL2" => config.vttbr();
    }
    // SAFETY: earlier stores to the tables are visible to the walker, and the registers are in effect.
    unsafe { asm!("dsb ish", "isb", options(nostack, preserves_flags)) };
}

/// Forgets all that any CPU has cached of the tables with `vmid`, stage 1 included (Arm ARM D8.17.5).
#[cfg(target_os = "none")]
pub fn invalidate_all(vmid: u16) {
    let current = read!("VTTBR_EL2");
    let other = current >> 48 != u64::from(vmid);
    if other {
        let root = (&raw const EMPTY).addr() as u64;
        write_guest! { "VTTBR_EL2" => u64::from(vmid) << 48 | root; }
    }
    // SAFETY: invalidation loses no data; the first barrier orders it after the stores to the tables, the others wait
    // for its end.
    unsafe {
        asm!(
            "dsb ishst",
            "isb",
            "tlbi vmalls12e1is",
            "dsb ish",
            "isb",
            options(nostack, preserves_flags)
        );
    }
    if other {
        write_guest! { "VTTBR_EL2" => current; }
        // SAFETY: a barrier.
        unsafe { asm!("isb", options(nostack, preserves_flags)) };
    }
}

/// Forgets what any CPU has cached of `len` bytes at `ipa` under the VMID that is active here, and all of stage 1 that
/// may be combined with it.
#[cfg(target_os = "none")]
pub fn invalidate_range(ipa: u64, len: u64) {
    let first = ipa / PAGE;
    let end = ipa.saturating_add(len).div_ceil(PAGE);
    if end.saturating_sub(first) > RANGE_LIMIT {
        return invalidate_all((read!("VTTBR_EL2") >> 48) as u16);
    }
    // SAFETY: as in `invalidate_all`.
    unsafe { asm!("dsb ishst", options(nostack, preserves_flags)) };
    for page in first..end {
        // SAFETY: as in `invalidate_all`; the operand is IPA[51:12] in bits 39:0 (C5.5.14).
        unsafe { asm!("tlbi ipas2e1is, {}", in(reg) page, options(nostack, preserves_flags)) };
    }
    // SAFETY: as in `invalidate_all`; combined entries are cached by virtual address, so they go as a whole.
    unsafe {
        asm!(
            "dsb ish",
            "tlbi vmalle1is",
            "dsb ish",
            "isb",
            options(nostack, preserves_flags)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::Stage2Config;
    use crate::aarch64::features::{Features, IdRegisters};

    fn features(pa_range: u64, vmid_bits: u64) -> Features {
        let mut id = [[0; 8]; 7];
        id[6][0] = pa_range;
        id[6][1] = vmid_bits << 4;
        Features::new(0, 0, 0, IdRegisters(id))
    }

    #[test]
    fn three_levels_for_39_bits() {
        let config = Stage2Config {
            root: 0x4123_4000,
            vmid: 0x0107,
            input_bits: 39,
        };
        // RES1, VS, PS 101, SH0 11, ORGN0 01, IRGN0 01, SL0 01, T0SZ 011001.
        assert_eq!(config.vtcr(&features(5, 2)), 0x800d_3559);
        // PARange of 52 bits is not usable with this descriptor format.
        assert_eq!(config.vtcr(&features(6, 2)), 0x800d_3559);
        // 44 bits, 8-bit VMIDs.
        assert_eq!(config.vtcr(&features(4, 0)), 0x8004_3559);
        assert_eq!(config.vttbr(), 0x0107_0000_4123_4000);
    }

    #[test]
    fn the_start_level_follows_the_width() {
        let vtcr = |input_bits| {
            let config = Stage2Config {
                root: 0,
                vmid: 0,
                input_bits,
            };
            config.vtcr(&features(5, 2)) & 0xff
        };
        assert_eq!(vtcr(44), 0x80 | 20);
        assert_eq!(vtcr(40), 0x80 | 24);
        assert_eq!(vtcr(30), 34);
    }
}
