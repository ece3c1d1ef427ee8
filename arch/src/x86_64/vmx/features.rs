//! What a CPU's VMX has, and the controls that follow from it.

use super::spec::capability as cap;
use super::spec::control as bit;
use core::fmt;

/// What CPUID and the capability registers say; 0 where there is no VMX.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Words {
    /// CPUID 1, ECX.
    pub cpuid: u32,
    /// IA32_FEATURE_CONTROL.
    pub control: u64,
    /// IA32_VMX_BASIC.
    pub basic: u64,
    /// IA32_VMX_TRUE_PINBASED_CTLS.
    pub pin: u64,
    /// IA32_VMX_TRUE_PROCBASED_CTLS.
    pub primary: u64,
    /// IA32_VMX_PROCBASED_CTLS2.
    pub secondary: u64,
    /// IA32_VMX_TRUE_EXIT_CTLS.
    pub exit: u64,
    /// IA32_VMX_TRUE_ENTRY_CTLS.
    pub entry: u64,
    /// IA32_VMX_EPT_VPID_CAP.
    pub ept_vpid: u64,
}

/// The controls of every guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// The revision of VMCSs.
    pub revision: u32,
    /// Pin-based.
    pub pin: u32,
    /// Primary processor-based.
    pub primary: u32,
    /// Secondary processor-based.
    pub secondary: u32,
    /// VM-exit.
    pub exit: u32,
    /// VM-entry.
    pub entry: u32,
    /// EPT has leaves of 2 MiB.
    pub leaves_2m: bool,
    /// EPT has leaves of 1 GiB.
    pub leaves_1g: bool,
    /// EPT has tables of 5 levels.
    pub five_levels: bool,
    /// The CPU delivers interrupts by itself, and those that are posted: the controls of that can be on.
    pub posted_interrupts: bool,
    /// Where it does, its guest can end them by itself in x2APIC mode.
    pub virtual_x2apic: bool,
}

/// Why guests cannot run with VMX here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unsupported {
    /// The CPU has none.
    NoVmx,
    /// Firmware has turned it off (IA32_FEATURE_CONTROL).
    Disabled,
    /// The "true" capability registers are not there.
    NoTrueControls,
    /// Controls that are missing, or cannot be off: pin-based.
    Pin(u32),
    /// Primary ones.
    Primary(u32),
    /// Secondary ones.
    Secondary(u32),
    /// VM-exit ones.
    Exit(u32),
    /// VM-entry ones.
    Entry(u32),
    /// EPT without tables of 4 levels in write-back memory, or without INVEPT; IA32_VMX_EPT_VPID_CAP.
    Ept(u64),
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, value) = match *self {
            Self::NoVmx => ("the CPU has no VMX", None),
            Self::Disabled => ("firmware has turned VMX off", None),
            Self::NoTrueControls => ("VMX has no true controls", None),
            Self::Pin(bits) => ("VMX lacks pin-based controls:", Some(bits.into())),
            Self::Primary(bits) => ("VMX lacks primary controls:", Some(bits.into())),
            Self::Secondary(bits) => ("VMX lacks secondary controls:", Some(bits.into())),
            Self::Exit(bits) => ("VMX lacks exit controls:", Some(bits.into())),
            Self::Entry(bits) => ("VMX lacks entry controls:", Some(bits.into())),
            Self::Ept(word) => ("VMX's EPT lacks what it takes:", Some(word)),
        };
        crate::text::write(f, what, value)
    }
}

const PIN: u32 = bit::INTERRUPT_EXITING | bit::NMI_EXITING | bit::VIRTUAL_NMIS;
const PRIMARY: u32 = bit::TSC_OFFSETTING
    | bit::HLT_EXITING
    | bit::MWAIT_EXITING
    | bit::RDPMC_EXITING
    | bit::TPR_SHADOW
    | bit::IO_EXITING
    | bit::MSR_BITMAPS
    | bit::MONITOR_EXITING
    | bit::SECONDARY;
/// These come and go.
const WINDOWS: u32 = bit::INTERRUPT_WINDOW | bit::NMI_WINDOW;
const SECONDARY: u32 = bit::EPT | bit::VPID | bit::UNRESTRICTED | bit::WBINVD_EXITING;
/// Instructions that guests have where the CPU has them.
const SECONDARY_WANTED: u32 = bit::RDTSCP | bit::INVPCID;
const EXIT: u32 = bit::EXIT_SAVES_DEBUG
    | bit::EXIT_TO_64
    | bit::EXIT_SAVES_PAT
    | bit::EXIT_LOADS_PAT
    | bit::EXIT_SAVES_EFER
    | bit::EXIT_LOADS_EFER;
const ENTRY: u32 = bit::ENTRY_LOADS_DEBUG | bit::ENTRY_LOADS_PAT | bit::ENTRY_LOADS_EFER;

/// The controls `required`, those of `wanted` that there are, and those that cannot be off (bits 31:0 of a capability register;
/// bits 63:32 are those that can be on). None of `off` may be among them.
fn controls(word: u64, required: u32, wanted: u32, off: u32) -> Result<u32, u32> {
    let (fixed, possible) = (word as u32, (word >> 32) as u32);
    let missing = required & !possible | fixed & off;
    if missing != 0 {
        return Err(missing);
    }
    Ok(fixed | required | wanted & possible)
}

impl Features {
    /// Of these words.
    ///
    /// # Errors
    /// [`Unsupported`].
    pub fn new(words: &Words) -> Result<Self, Unsupported> {
        if words.cpuid & cap::VMX == 0 {
            return Err(Unsupported::NoVmx);
        }
        // Not locked: `enter` sets and locks it.
        if words.control & (cap::LOCKED | cap::OUTSIDE_SMX) == cap::LOCKED {
            return Err(Unsupported::Disabled);
        }
        if words.basic & cap::TRUE_CONTROLS == 0 {
            return Err(Unsupported::NoTrueControls);
        }
        const CR3: u32 = bit::CR3_LOAD_EXITING | bit::CR3_STORE_EXITING;
        let possible = (words.primary >> 32) as u32;
        if !possible & WINDOWS != 0 {
            return Err(Unsupported::Primary(!possible & WINDOWS));
        }
        let ept = cap::FOUR_LEVELS | cap::WRITE_BACK | cap::INVEPT | cap::INVEPT_ALL;
        if words.ept_vpid & ept != ept {
            return Err(Unsupported::Ept(words.ept_vpid));
        }
        let has = |bit| words.ept_vpid & bit != 0;
        let can = |word: u64, bit: u32| word >> 32 & u64::from(bit) != 0;
        let posted_interrupts = can(words.pin, bit::POSTED_INTERRUPTS)
            && can(words.secondary, bit::INTERRUPT_DELIVERY)
            && can(words.exit, bit::EXIT_ACKNOWLEDGES);
        Ok(Self {
            posted_interrupts,
            virtual_x2apic: can(words.secondary, bit::VIRTUAL_X2APIC),
            revision: (words.basic & cap::REVISION) as u32,
            pin: controls(words.pin, PIN, 0, 0).map_err(Unsupported::Pin)?,
            primary: controls(words.primary, PRIMARY, 0, CR3 | WINDOWS)
                .map_err(Unsupported::Primary)?,
            secondary: controls(words.secondary, SECONDARY, SECONDARY_WANTED, 0)
                .map_err(Unsupported::Secondary)?,
            exit: controls(words.exit, EXIT, 0, 0).map_err(Unsupported::Exit)?,
            entry: controls(words.entry, ENTRY, 0, bit::ENTRY_IA32E).map_err(Unsupported::Entry)?,
            leaves_2m: has(cap::LEAVES_2M),
            leaves_1g: has(cap::LEAVES_1G),
            five_levels: has(cap::FIVE_LEVELS),
        })
    }
}
