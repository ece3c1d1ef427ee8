//! What chipsets get wrong, by the functions of their root complex: a unit's own registers do not say whose it is.
//!
//! Only errata that this driver's choices touch are here. Sources: the quirks that Linux keeps in
//! `drivers/iommu/intel/iommu.c`, `arch/x86/kernel/early-quirks.c` and `drivers/pci/quirks.c`, and Xen in
//! `xen/drivers/passthrough/vtd/quirks.c`; errata 47 and 53 of Intel's 5500, 5520 and X58 chipsets are named there.
//!
//! Not here, as it is nothing of the unit's: graphics that do not work with translation (G4x, Ironlake, Broadwell).

/// A function of a root complex.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chip {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Revision ID.
    pub revision: u8,
    /// Class, subclass and programming interface.
    pub class: u32,
}

/// What to do otherwise with the units of one machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Errata {
    /// Write buffers have to be flushed, whatever CAP.RWBF says.
    pub write_buffers: bool,
    /// Interrupts on their way are not drained: they are not to be remapped.
    pub no_interrupt_remapping: bool,
    /// Translation that firmware has left on is not to be turned off, not even for another mode: graphics may be at work.
    pub keeps_translating: bool,
}

/// One row: which functions, which revisions, what follows.
struct Erratum {
    devices: &'static [u16],
    /// The last revision with it.
    last: u8,
    effect: fn(&mut Errata),
}

/// PCI-SIG's number of Intel.
const INTEL: u16 = 0x8086;
/// Base class of display controllers.
const DISPLAY: u32 = 0x03;

const TABLE: &[Erratum] = &[
    // Mobile 4 and 4 series chipsets do not say that they have write buffers (quirk_iommu_rwbf).
    Erratum {
        devices: &[0x2a40, 0x2e00, 0x2e10, 0x2e20, 0x2e30, 0x2e40, 0x2e90],
        last: u8::MAX,
        effect: |errata| errata.write_buffers = true,
    },
    // 5500, 5520 and X58 up to stepping B-3 (intel_remapping_check; tylersburg_intremap_quirk).
    Erratum {
        devices: &[0x3403, 0x3405, 0x3406],
        last: 0x13,
        effect: |errata| errata.no_interrupt_remapping = true,
    },
];

/// Of a 5520 one later revision, too.
const LATE_5520: (u16, u8) = (0x3405, 0x22);

/// Upper halves of the device IDs of graphics that are not to lose translation (quirk_igfx_skip_te_disable).
const GRAPHICS: [u8; 9] = [0x45, 0x46, 0x4c, 0x4e, 0x7d, 0x8a, 0x98, 0x9a, 0xa7];

impl Errata {
    /// Those of a machine with these functions of its root complex: none behind a port, where a device may pretend to be
    /// one.
    pub fn of(chips: impl Iterator<Item = Chip>) -> Self {
        let mut errata = Self::default();
        for chip in chips.filter(|chip| chip.vendor == INTEL) {
            for erratum in TABLE {
                if erratum.devices.contains(&chip.device) && chip.revision <= erratum.last {
                    (erratum.effect)(&mut errata);
                }
            }
            errata.no_interrupt_remapping |= (chip.device, chip.revision) == LATE_5520;
            errata.keeps_translating |=
                chip.class >> 16 == DISPLAY && GRAPHICS.contains(&((chip.device >> 8) as u8));
        }
        errata
    }
}

/// Configuration space in which a chipset says whether a fault of a unit's is an error of the machine's: a guest's device
/// could end that by a DMA outside of its memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultSignal {
    /// Offset of a word of 32 bits.
    pub offset: u16,
    /// What to set there: faults are told by the unit alone.
    pub mask: u32,
}

impl FaultSignal {
    /// That of a function, if it has one: the system management registers of 5500, 5520 and X58, of Xeon C5500 and C3500,
    /// and of Xeon E5 (vtd_mask_spec_errors; pci_vtd_quirk).
    pub fn of(chip: &Chip) -> Option<Self> {
        let known = [0x342e, 0x3728, 0x3c28].contains(&chip.device);
        (chip.vendor == INTEL && known).then_some(Self {
            offset: 0x1ac,
            mask: 1 << 31,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn chip(device: u16, revision: u8) -> Chip {
        Chip {
            vendor: INTEL,
            device,
            revision,
            class: 0x06_0000,
        }
    }

    fn of(chips: &[Chip]) -> Errata {
        Errata::of(chips.iter().copied())
    }

    #[test]
    fn each_erratum_is_that_of_its_revisions() {
        for device in [0x3403, 0x3405, 0x3406] {
            for revision in 0..=0xff {
                let broken = revision <= 0x13 || device == 0x3405 && revision == 0x22;
                let errata = of(&[chip(device, revision)]);
                assert_eq!(
                    errata.no_interrupt_remapping, broken,
                    "{device:x} {revision:x}"
                );
                assert!(!errata.write_buffers && !errata.keeps_translating);
            }
        }
        assert!(of(&[chip(0x2a40, 0)]).write_buffers && of(&[chip(0x2e90, 0xff)]).write_buffers);
        assert_eq!(of(&[chip(0x2e80, 0), chip(0x3404, 0)]), Errata::default());
    }

    #[test]
    fn graphics_are_those_of_intel_and_one_function_of_many_is_enough() {
        let graphics = Chip {
            class: 0x03_0000,
            ..chip(0x9a49, 1)
        };
        let errata = of(&[chip(0x9a14, 1), graphics]);
        assert!(errata.keeps_translating && !errata.no_interrupt_remapping);
        assert_eq!(of(&[chip(0x9a49, 1)]), Errata::default(), "no graphics");
        let other = Chip {
            vendor: 0x10de,
            ..graphics
        };
        assert_eq!(of(&[other]), Errata::default());
        let pretends = Chip {
            vendor: 0x1af4,
            ..chip(0x3405, 0)
        };
        assert_eq!(of(&[pretends]), Errata::default());
    }

    #[test]
    fn faults_are_masked_where_a_chipset_would_make_errors_of_them() {
        let signal = FaultSignal::of(&chip(0x342e, 0x22));
        assert_eq!(
            signal.map(|it| (it.offset, it.mask)),
            Some((0x1ac, 0x8000_0000))
        );
        assert_eq!(FaultSignal::of(&chip(0x342f, 0)), None);
    }
}
