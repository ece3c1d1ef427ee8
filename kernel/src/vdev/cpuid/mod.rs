//! What CPUID says to a partition ("CPUID—CPU Identification", Intel SDM volume 2A; AMD APM volume 3, appendix E).
//!
//! Deny by default: a bit that no row of `allowed` names, and that [`Guest::cpuid`] does not set by itself, reads as
//! zero. What is set by itself is what the partition has whatever the CPU is like: its topology, its local APIC with x2APIC
//! mode and deadline timer, the rates of its clocks, the sizes of XSAVE areas, the leaves of a hypervisor. No guest sees
//! VMX, SVM, SMM's features, performance counters, or a feature that needs an MSR which [`msr`](super::msr) does not have.
//!
//! Guests calibrate nothing: leaves 0x15 and 0x16 have the rates as Intel's CPUs say them, leaf 0x4000_0010 as hypervisors
//! do (in kHz: the TSC's in EAX, the local APIC's in EBX), and [`vclock`] has leaves of its own.

mod allowed;
#[cfg(test)]
mod tests;

use super::vclock;
use allowed::ROWS;

/// The four registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Registers {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// Rates of the clocks that a partition has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rates {
    tsc_hz: u64,
    bus_shift: u32,
}

impl Rates {
    /// With a TSC of `tsc_hz` Hz. The timers of the local APICs have the same clock, halved until its rate has 32 bits.
    pub const fn new(tsc_hz: u64) -> Self {
        let bits = u64::BITS - tsc_hz.leading_zeros();
        Self {
            tsc_hz,
            bus_shift: bits.saturating_sub(32),
        }
    }

    /// Of the TSC, in kHz.
    pub const fn tsc_khz(self) -> u32 {
        (self.tsc_hz / 1000) as u32
    }

    /// Of the timers of local APICs, in Hz.
    pub const fn bus_hz(self) -> u32 {
        (self.tsc_hz >> self.bus_shift) as u32
    }

    /// What the TSC is divided by for those, as log2: for [`Vlapics::new`](super::vlapic::Vlapics::new).
    pub const fn bus_shift(self) -> u32 {
        self.bus_shift
    }
}

/// Components of XCR0 that a guest may turn on: x87, SSE, AVX, and the three of AVX-512.
pub const XCR0_ALLOWED: u64 = 0xe7;
const XCR0_X87: u64 = 1;
const XCR0_SSE_AVX: u64 = 0b110;
const XCR0_AVX512: u64 = 0xe0;

/// Whether XSETBV may put `value` into XCR0 of a CPU with the components `physical` ("XSETBV", SDM volume 2D); else the
/// guest takes #GP(0).
pub const fn is_xcr0(value: u64, physical: u64) -> bool {
    let avx = value & XCR0_SSE_AVX;
    let wide = value & XCR0_AVX512;
    value & !(physical & XCR0_ALLOWED) == 0
        && value & XCR0_X87 != 0
        && avx != 0b100
        && (wide == 0 || wide == XCR0_AVX512 && avx == XCR0_SSE_AVX)
}

/// Of whom, and in which state, CPUID asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Guest {
    /// The vCPU, which is its APIC ID.
    pub vcpu: u32,
    /// How many there are: at least one, at most 64.
    pub vcpus: u32,
    /// Its clocks.
    pub rates: Rates,
    /// The TSC has this rate in every state of the CPU.
    pub invariant_tsc: bool,
    /// Width of its physical addresses.
    pub address_bits: u8,
    /// XCR0 of the vCPU.
    pub xcr0: u64,
    /// CR4.OSXSAVE of the vCPU.
    pub osxsave: bool,
    /// `IA32_APIC_BASE` says that the local APIC is on.
    pub apic: bool,
}

/// Highest leaves that answer.
const LAST: u32 = 0x1f;
const LAST_HYPERVISOR: u32 = 0x4000_0010;
const LAST_EXTENDED: u32 = 0x8000_001a;

const fn text(bytes: [u8; 4]) -> u32 {
    u32::from_le_bytes(bytes)
}

impl Guest {
    /// What `leaf` and `subleaf` say, where `physical` is what they say on this CPU.
    pub fn cpuid(
        &self,
        leaf: u32,
        subleaf: u32,
        physical: &dyn Fn(u32, u32) -> Registers,
    ) -> Registers {
        if let Some(sees) = vclock::cpuid(leaf) {
            return sees;
        }
        let mut sees = filter(leaf, subleaf, physical);
        match leaf {
            0 => sees.eax = LAST,
            1 => self.features(&mut sees),
            4 => self.caches(&mut sees),
            // The local APIC's timer never stops.
            6 => sees.eax |= 1 << 2,
            7 if subleaf == 0 && has(7, physical) => sees.eax = physical(7, 0).eax.min(1),
            0xb | 0x1f => sees = self.topology(subleaf),
            0xd => self.xsave(subleaf, physical, &mut sees),
            0x15 => {
                sees.eax = 1;
                sees.ebx = 1 << self.rates.bus_shift;
                sees.ecx = self.rates.bus_hz();
            }
            0x16 => {
                sees.eax = self.rates.tsc_khz() / 1000;
                sees.ebx = sees.eax;
            }
            0x4000_0000 => {
                sees.eax = LAST_HYPERVISOR;
                sees.ebx = text(*b"Slui");
                sees.ecx = text(*b"ceSl");
                sees.edx = text(*b"uice");
            }
            0x4000_0010 => {
                sees.eax = self.rates.tsc_khz();
                sees.ebx = self.rates.bus_hz() / 1000;
            }
            0x8000_0000 => sees.eax = physical(leaf, 0).eax.min(LAST_EXTENDED),
            0x8000_0007 if self.invariant_tsc => sees.edx |= 1 << 8,
            0x8000_0008 => self.sizes(physical(leaf, 0), &mut sees),
            _ => {}
        }
        sees
    }

    /// Bits of an APIC ID.
    const fn id_bits(&self) -> u32 {
        self.vcpus.next_power_of_two().trailing_zeros()
    }

    fn features(&self, sees: &mut Registers) {
        const TSC_DEADLINE: u32 = 1 << 24;
        const X2APIC: u32 = 1 << 21;
        const XSAVE: u32 = 1 << 26;
        const OSXSAVE: u32 = 1 << 27;
        const HYPERVISOR: u32 = 1 << 31;
        const APIC: u32 = 1 << 9;
        const SEVERAL: u32 = 1 << 28;
        sees.ebx |= self.vcpu << 24;
        sees.ecx |= TSC_DEADLINE | X2APIC | HYPERVISOR;
        if self.osxsave && sees.ecx & XSAVE != 0 {
            sees.ecx |= OSXSAVE;
        }
        if self.apic {
            sees.edx |= APIC;
        }
        if self.vcpus > 1 {
            sees.edx |= SEVERAL;
            sees.ebx |= (1 << self.id_bits()) << 16;
        }
    }

    /// Caches of the third level are everybody's, others are of one vCPU.
    fn caches(&self, sees: &mut Registers) {
        let last = (1 << self.id_bits()) - 1;
        if sees.eax & 0x1f != 0 {
            let level = sees.eax >> 5 & 7;
            let sharing = if level >= 3 { last } else { 0 };
            sees.eax |= sharing << 14 | last.min(0x3f) << 26;
        }
    }

    /// "Extended Topology Enumeration": cores of one thread, in one package.
    fn topology(&self, subleaf: u32) -> Registers {
        const THREADS: u32 = 1;
        const CORES: u32 = 2;
        let (eax, ebx, kind) = match subleaf {
            0 => (0, 1, THREADS),
            1 => (self.id_bits(), self.vcpus, CORES),
            _ => (0, 0, 0),
        };
        Registers {
            eax,
            ebx,
            ecx: kind << 8 | subleaf & 0xff,
            edx: self.vcpu,
        }
    }

    /// Sizes of XSAVE areas ("Enumeration of the XSAVE Feature Set", SDM volume 1): those of the guest's components.
    fn xsave(&self, subleaf: u32, physical: &dyn Fn(u32, u32) -> Registers, sees: &mut Registers) {
        const LEGACY_AND_HEADER: u32 = 512 + 64;
        let components = xcr0_components(physical);
        let each = |of: u64| (2..63).filter(move |n| of >> n & 1 != 0);
        let standard = |of: u64| {
            each(of).fold(LEGACY_AND_HEADER, |end, n| {
                let Registers { eax, ebx, .. } = physical(0xd, n);
                end.max(ebx.saturating_add(eax))
            })
        };
        match subleaf {
            0 => {
                sees.eax = components as u32;
                sees.edx = (components >> 32) as u32;
                if components != 0 {
                    sees.ebx = standard(self.xcr0 & components);
                    sees.ecx = standard(components);
                }
            }
            // XSAVEC: one behind the other.
            1 if sees.eax & 1 << 1 != 0 => {
                let end = each(self.xcr0 & components).fold(LEGACY_AND_HEADER, |end, n| {
                    let Registers { eax, ecx, .. } = physical(0xd, n);
                    let start = if ecx & 2 != 0 {
                        end.next_multiple_of(64)
                    } else {
                        end
                    };
                    start.saturating_add(eax)
                });
                sees.ebx = end;
            }
            2..63 if components >> subleaf & 1 != 0 => {
                let Registers { eax, ebx, ecx, .. } = physical(0xd, subleaf);
                // A component of user state, aligned or not.
                (sees.eax, sees.ebx, sees.ecx) = (eax, ebx, ecx & 2);
            }
            _ => {}
        }
    }

    fn sizes(&self, physical: Registers, sees: &mut Registers) {
        let bits = (physical.eax & 0xff).min(self.address_bits.into());
        sees.eax = sees.eax & !0xff | bits;
        sees.ecx = self.id_bits() << 12 | (self.vcpus - 1);
    }
}

/// Components of XCR0 that a guest can have on this CPU.
pub fn xcr0_components(physical: &dyn Fn(u32, u32) -> Registers) -> u64 {
    if !has(0xd, physical) {
        return 0;
    }
    let Registers { eax, edx, .. } = physical(0xd, 0);
    (u64::from(edx) << 32 | u64::from(eax)) & XCR0_ALLOWED
}

fn filter(leaf: u32, subleaf: u32, physical: &dyn Fn(u32, u32) -> Registers) -> Registers {
    let row = ROWS
        .iter()
        .find(|row| row.leaf == leaf && row.subleaf.is_none_or(|of| of == subleaf));
    let Some(row) = row else {
        return Registers::default();
    };
    if !has(leaf, physical) || leaf == 7 && subleaf > physical(7, 0).eax {
        return Registers::default();
    }
    let Registers { eax, ebx, ecx, edx } = physical(leaf, subleaf);
    Registers {
        eax: eax & row.eax,
        ebx: ebx & row.ebx,
        ecx: ecx & row.ecx,
        edx: edx & row.edx,
    }
}

/// Whether the CPU has `leaf`: above the last one of its kind it says another leaf's words.
fn has(leaf: u32, physical: &dyn Fn(u32, u32) -> Registers) -> bool {
    leaf <= physical(leaf & 0xffff_0000, 0).eax
}
