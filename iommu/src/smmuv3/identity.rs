//! The ID registers as they were read (IHI 0070, §6.3.1 to §6.3.8): for those who ask what the hardware is, and what of
//! it a guest may be offered.

use tock_registers::LocalRegisterCopy;

use super::registers::Registers;
use super::spec::registers::{
    AIDR, IDR0, IDR0_FIELDS, IDR1, IDR1_FIELDS, IDR2, IDR3, IDR3_FIELDS, IDR4, IDR5, IDR5_FIELDS,
    IIDR,
};
use crate::hal::Mmio;
use crate::object::driver::HwInfo;

/// IOMMU_HW_INFO_TYPE_ARM_SMMUV3.
pub const HW_INFO: u32 = 2;
/// Bytes of struct iommu_hw_info_arm_smmuv3.
const HW_INFO_BYTES: usize = 40;

/// See the module's description.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    /// SMMU_IDR0 to SMMU_IDR5.
    pub idr: [u32; 6],
    /// SMMU_IIDR.
    pub iidr: u32,
    /// SMMU_AIDR.
    pub aidr: u32,
}

/// What the host lets a guest have of features that need more than the SMMU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offer {
    /// Devices may cache translations.
    pub ats: bool,
    /// Page requests reach the guest.
    pub pri: bool,
    /// Stalled transactions reach the guest.
    pub stalls: bool,
    /// Width of the guest's physical addresses, in bits.
    pub address_bits: u8,
}

impl Identity {
    pub(super) fn read<M: Mmio>(registers: &Registers<M>) -> Self {
        let read = |offset| registers.read::<()>(offset).get();
        Self {
            idr: [IDR0, IDR1, IDR2, IDR3, IDR4, IDR5].map(read),
            iidr: read(IIDR),
            aidr: read(AIDR),
        }
    }

    /// struct iommu_hw_info_arm_smmuv3: flags, a reserved word, IDR0 to IDR5, IIDR, AIDR. No flag is ever set: what
    /// an erratum asks for is done here, not by whoever reads this.
    pub fn hw_info(&self) -> HwInfo {
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let [a, b, c, d, e, f] = self.idr;
        HwInfo {
            kind: HW_INFO,
            words: [
                0,
                pair(a, b),
                pair(c, d),
                pair(e, f),
                pair(self.iidr, self.aidr),
            ],
            len: HW_INFO_BYTES,
            dirty_tracking: false,
        }
    }

    /// What a guest's SMMU can have of this one: stage 1 only, as far as the hardware does it without the host. Fields
    /// that are a matter of the guest's queues and tables, not of the hardware, are 0 and for the caller to fill in:
    /// IDR0.ST_LEVEL, MSI, SEV; IDR1.SIDSIZE, CMDQS, EVENTQS, PRIQS; IIDR.
    ///
    /// | register | as the hardware | as offered | never |
    /// |---|---|---|---|
    /// | IDR0 | COHACC, ASID16, CD2L, TTENDIAN, TERM_MODEL | S1P, TTF (AArch64), ATS, PRI, STALL_MODEL | S2P, BTM, HTTU, HYP, ATOS, VMID16, VATOS |
    /// | IDR1 | SSIDSIZE | | PRESET |
    /// | IDR3 | RIL, BBML | | FWB, STT, HAD, XNX, MPAM |
    /// | IDR5 | GRAN4K, 16K, 64K | OAS, at most 48 bits | VAX, STALL_MAX |
    pub fn offered(&self, offer: &Offer) -> Self {
        let idr0 = LocalRegisterCopy::<u32, IDR0_FIELDS::Register>::new(self.idr[0]);
        let kept = |fields: &[(u32, usize)], word: u32| {
            let mask = fields.iter().fold(0, |all, (mask, at)| all | mask << at);
            word & mask
        };
        macro_rules! fields {
            ($($field:expr),* $(,)?) => { &[$(($field.mask, $field.shift)),*] };
        }
        let mut first = LocalRegisterCopy::<u32, IDR0_FIELDS::Register>::new(kept(
            fields![
                IDR0_FIELDS::COHACC,
                IDR0_FIELDS::ASID16,
                IDR0_FIELDS::CD2L,
                IDR0_FIELDS::TTENDIAN,
                IDR0_FIELDS::TERM_MODEL,
            ],
            self.idr[0],
        ));
        first.modify(IDR0_FIELDS::S1P::SET + IDR0_FIELDS::TTF::AArch64);
        if offer.ats && idr0.is_set(IDR0_FIELDS::ATS) {
            first.modify(IDR0_FIELDS::ATS::SET);
            if offer.pri && idr0.is_set(IDR0_FIELDS::PRI) {
                first.modify(IDR0_FIELDS::PRI::SET);
            }
        }
        if offer.stalls && idr0.matches_all(IDR0_FIELDS::STALL_MODEL::Both) {
            first.modify(IDR0_FIELDS::STALL_MODEL::Both);
        } else {
            first.modify(IDR0_FIELDS::STALL_MODEL::Terminate);
        }
        let size = match offer.address_bits {
            0..36 => 0,
            36..40 => 1,
            40..42 => 2,
            42..44 => 3,
            44..48 => 4,
            _ => 5,
        };
        let idr5 = LocalRegisterCopy::<u32, IDR5_FIELDS::Register>::new(self.idr[5]);
        let mut last = LocalRegisterCopy::<u32, IDR5_FIELDS::Register>::new(kept(
            fields![
                IDR5_FIELDS::GRAN4K,
                IDR5_FIELDS::GRAN16K,
                IDR5_FIELDS::GRAN64K
            ],
            self.idr[5],
        ));
        last.modify(IDR5_FIELDS::OAS.val(idr5.read(IDR5_FIELDS::OAS).min(size)));
        Self {
            idr: [
                first.get(),
                kept(fields![IDR1_FIELDS::SSIDSIZE], self.idr[1]),
                0,
                kept(fields![IDR3_FIELDS::RIL, IDR3_FIELDS::BBML], self.idr[3]),
                0,
                last.get(),
            ],
            iidr: 0,
            aidr: self.aidr,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_is_linuxs_word_by_word() {
        let identity = Identity {
            idr: [0x10, 0x11, 0x12, 0x13, 0x14, 0x15],
            iidr: 0x1111,
            aidr: 0x2222,
        };
        let info = identity.hw_info();
        assert_eq!((info.kind, info.len), (2, 40));
        let bytes: alloc::vec::Vec<u8> = info
            .words
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!([word(0), word(4)], [0, 0]);
        for index in 0..6 {
            assert_eq!(word(8 + index * 4), 0x10 + index as u32);
        }
        assert_eq!([word(32), word(36)], [0x1111, 0x2222]);
    }

    #[test]
    fn a_guest_is_offered_stage_1_and_nothing_that_the_hardware_or_the_host_lacks() {
        let all = Identity {
            idr: [!(3 << 24); 6],
            iidr: u32::MAX,
            aidr: 2,
        };
        let most = Offer {
            ats: true,
            pri: true,
            stalls: true,
            address_bits: 52,
        };
        let offered = all.offered(&most);
        // S1P, TTF = AArch64, COHACC, ATS, ASID16, PRI, CD2L, TTENDIAN, STALL_MODEL 0, TERM_MODEL.
        let idr0 =
            1 << 1 | 2 << 2 | 1 << 4 | 1 << 10 | 1 << 12 | 1 << 16 | 1 << 19 | 3 << 21 | 1 << 26;
        assert_eq!(offered.idr, [idr0, 0x1f << 6, 0, 7 << 10, 0, 0x75]);
        assert_eq!((offered.iidr, offered.aidr), (0, 2));
        let least = all.offered(&Offer {
            address_bits: 39,
            ..Offer::default()
        });
        assert_eq!(least.idr[0], idr0 & !(1 << 10 | 1 << 16) | 1 << 24);
        assert_eq!(least.idr[5], 0x71);
        let none = Identity::default().offered(&most);
        assert_eq!(none.idr, [1 << 1 | 2 << 2, 0, 0, 0, 0, 0]);
    }
}
