//! What implementations get wrong, by SMMU_IIDR (IHI 0070, §6.3.7).
//!
//! Only errata that this driver's choices touch are here. Sources: Arm's Software Developer Errata Notices for MMU-600
//! (SDEN-946810) and MMU-700 (SDEN-1786925), by their numbers as Linux's `Documentation/arch/arm64/silicon-errata.rst` and
//! the revisions that its `arm-smmu-v3` driver holds concerned.

use tock_registers::LocalRegisterCopy;

use super::spec::registers::IIDR_FIELDS;

/// What to do otherwise on one SMMU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Errata {
    /// Stage 1 on stage 2 is not to be used.
    pub no_nesting: bool,
    /// CMD_SYNC with CS = SEV is not to be used.
    pub no_wake: bool,
    /// At most so many commands go before a CMD_SYNC; 0 is no limit.
    pub commands_a_sync: u8,
    /// A TLBI by VA without a range leaves parts of a block that was cached in pieces.
    pub blocks_in_pieces: bool,
    /// Stage 2 translations of stage 1 table bases are cached with the configuration.
    pub tables_in_configuration: bool,
    /// A context of a guest's can end the machine: the SMMU is shown copies only.
    pub copied_contexts: bool,
}

/// One row: who has it, which revisions, what follows.
struct Erratum {
    implementer: u32,
    product: u32,
    /// First revision without it: major and minor; `None` where all have it.
    fixed: Option<(u32, u32)>,
    effect: fn(&mut Errata),
}

/// Arm Ltd.
const ARM: u32 = 0x43b;
const MMU_600: u32 = 0x483;
const MMU_700: u32 = 0x487;

/// Commands before a CMD_SYNC on an MMU-700: what Linux submits in one go is at most this.
const MMU_700_COMMANDS: u8 = 63;

const TABLE: &[Erratum] = &[
    // 1076982: CMD_SYNC's event can be lost. r0p0 to r0p2.
    Erratum {
        implementer: ARM,
        product: MMU_600,
        fixed: Some((0, 3)),
        effect: |errata| errata.no_wake = true,
    },
    // 1209401: nested translation. Before r2p0.
    Erratum {
        implementer: ARM,
        product: MMU_600,
        fixed: Some((2, 0)),
        effect: |errata| errata.no_nesting = true,
    },
    // 2268618, 2812531: nested translation. Before r1p1.
    Erratum {
        implementer: ARM,
        product: MMU_700,
        fixed: Some((1, 1)),
        effect: |errata| errata.no_nesting = true,
    },
    // 2812531: long runs of commands without a CMD_SYNC. (BTM, which it concerns too, is never used.)
    Erratum {
        implementer: ARM,
        product: MMU_700,
        fixed: None,
        effect: |errata| errata.commands_a_sync = MMU_700_COMMANDS,
    },
    // QEMU 10.0 to 11.1, which leaves the register 0: see `quirks`. Hardware without an identity is treated alike, at the
    // price of wider invalidations.
    Erratum {
        implementer: 0,
        product: 0,
        fixed: None,
        effect: |errata| {
            errata.blocks_in_pieces = true;
            errata.tables_in_configuration = true;
            errata.copied_contexts = true;
        },
    },
];

impl Errata {
    /// Those of the SMMU with this IIDR.
    pub(super) fn of(iidr: LocalRegisterCopy<u32, IIDR_FIELDS::Register>) -> Self {
        let revision = (
            iidr.read(IIDR_FIELDS::VARIANT),
            iidr.read(IIDR_FIELDS::REVISION),
        );
        let mut errata = Self::default();
        for erratum in TABLE {
            let same = iidr.read(IIDR_FIELDS::IMPLEMENTER) == erratum.implementer
                && iidr.read(IIDR_FIELDS::PRODUCT_ID) == erratum.product;
            if same && erratum.fixed.is_none_or(|fixed| revision < fixed) {
                (erratum.effect)(&mut errata);
            }
        }
        errata
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(iidr: u32) -> Errata {
        Errata::of(LocalRegisterCopy::new(iidr))
    }

    #[test]
    fn each_erratum_stops_at_the_revision_that_fixed_it() {
        // product, variant, revision, implementer: 483 x y 43b.
        assert!(of(0x4830_043b).no_wake && of(0x4830_243b).no_wake);
        assert!(!of(0x4830_343b).no_wake && !of(0x4831_043b).no_wake);
        assert!(of(0x4830_043b).no_nesting && of(0x4831_f43b).no_nesting);
        assert!(!of(0x4832_043b).no_nesting);
        assert!(of(0x4870_f43b).no_nesting && of(0x4871_043b).no_nesting);
        assert!(!of(0x4871_143b).no_nesting && !of(0x4872_043b).no_nesting);
        assert_eq!(of(0x4871_143b).commands_a_sync, 63);
        assert_eq!(of(0x4872_043b).commands_a_sync, 63);
        assert_eq!(of(0x4832_043b), Errata::default());
    }

    #[test]
    fn another_implementer_has_none_of_arms_and_the_emulator_its_own() {
        assert_eq!(of(0x4830_0736), Errata::default());
        assert_eq!(of(0x4980_043b), Errata::default());
        let emulator = of(0);
        assert!(emulator.blocks_in_pieces && emulator.tables_in_configuration);
        assert!(emulator.copied_contexts);
        assert!(!emulator.no_nesting && !emulator.no_wake && emulator.commands_a_sync == 0);
    }
}
