//! A clock as KVM gives it to its guests, which Linux and the BSDs take from any hypervisor that says it has it (Linux,
//! `Documentation/virt/kvm/x86/cpuid.rst` and `msr.rst`, "MSR_KVM_WALL_CLOCK_NEW" and "MSR_KVM_SYSTEM_TIME_NEW"): the rate
//! of the TSC, the time since the start by it, and the date. Nothing is calibrated, and a read of the time needs no exit.
//!
//! A guest's TSC starts at 0 with its partition and has one rate, so what is written once stays true.

use super::cpuid::Registers;
use iommu::addr::Gpa;

/// CPUID: who it is, where hypervisors have the interfaces of others ..
pub const SIGNATURE: u32 = 0x4000_0100;
/// .. and what there is of it.
pub const FEATURES: u32 = 0x4000_0101;
/// Writes the date of the start to memory.
pub const WALL_CLOCK: u32 = 0x4b56_4d00;
/// Writes to memory how the vCPU's TSC counts, if bit 0 is set; bits from 2 on are the address.
pub const SYSTEM_TIME: u32 = 0x4b56_4d01;

/// What each of KVM's calls answers: there is none (Linux, `Documentation/virt/kvm/x86/hypercalls.rst`; KVM_ENOSYS).
pub const NO_CALL: u64 = -1000_i64 as u64;

const ENABLED: u64 = 1 << 0;
/// KVM_FEATURE_CLOCKSOURCE2: the two registers.
const CLOCK: u32 = 1 << 3;
/// KVM_FEATURE_CLOCKSOURCE_STABLE_BIT: [`STABLE`] means something.
const STABLE_BIT: u32 = 1 << 24;
/// Time is the same on all vCPUs.
const STABLE: u8 = 1 << 0;
const SECOND: u64 = 1_000_000_000;

/// The clock of a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clock {
    /// Rate of its TSC, at least 1 and less than 18 GHz.
    pub tsc_hz: u64,
    /// The TSC has this rate in every state of the CPU.
    pub stable: bool,
    /// The date when its TSC was 0: nanoseconds since 1970, UTC.
    pub start_ns: u64,
}

/// What is to be in guest memory once a register was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// Where.
    pub at: Gpa,
    bytes: [u8; 32],
    len: usize,
}

impl Record {
    /// What: nothing at all where the guest turns its clock off.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn put(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        self.bytes[self.len..end].copy_from_slice(bytes);
        self.len = end;
    }
}

/// What CPUID says in the leaves of this interface.
pub const fn cpuid(leaf: u32) -> Option<Registers> {
    let zero = Registers {
        eax: 0,
        ebx: 0,
        ecx: 0,
        edx: 0,
    };
    match leaf {
        // "KVMKVMKVM"
        SIGNATURE => Some(Registers {
            eax: FEATURES,
            ebx: 0x4b4d_564b,
            ecx: 0x564b_4d56,
            edx: 0x4d,
        }),
        FEATURES => Some(Registers {
            eax: CLOCK | STABLE_BIT,
            ..zero
        }),
        _ => None,
    }
}

impl Clock {
    /// WRMSR of `value`; `None`: #GP(0), for another register or an address that is not aligned to 4 bytes.
    pub fn write(&self, msr: u32, value: u64) -> Option<Record> {
        let mut record = Record {
            at: Gpa(value & !ENABLED),
            bytes: [0; 32],
            len: 0,
        };
        match msr {
            SYSTEM_TIME if value & ENABLED == 0 => {
                record.at = Gpa(0);
                return Some(record);
            }
            SYSTEM_TIME => {
                let (factor, shift) = self.scale();
                // Version, TSC and time of the start.
                record.put(&[0; 24]);
                record.put(&factor.to_le_bytes());
                let flags = if self.stable { STABLE } else { 0 };
                record.put(&[shift as u8, flags, 0, 0]);
            }
            WALL_CLOCK if value & ENABLED == 0 => {
                record.put(&[0; 4]);
                record.put(&((self.start_ns / SECOND) as u32).to_le_bytes());
                record.put(&((self.start_ns % SECOND) as u32).to_le_bytes());
            }
            _ => return None,
        }
        record.at.0.is_multiple_of(4).then_some(record)
    }

    /// Nanoseconds are ticks, shifted to the left, times the factor, over 2^32; the factor has its highest bit set.
    fn scale(&self) -> (u32, i8) {
        let (whole, rest) = ((SECOND << 32) / self.tsc_hz, (SECOND << 32) % self.tsc_hz);
        let more = whole.leading_zeros() as i8 - 32;
        let factor = match more {
            ..=0 => whole >> -more,
            _ => (whole << more) + (rest << more) / self.tsc_hz,
        };
        (factor as u32, -more)
    }
}

#[cfg(test)]
mod tests {
    use super::{Clock, FEATURES, SIGNATURE, SYSTEM_TIME, WALL_CLOCK, cpuid};

    const RATES: [u64; 8] = [
        1,
        32_768,
        999_999_999,
        1_000_000_000,
        2_893_202_000,
        3_999_999_999,
        4_000_000_000,
        17_999_999_999,
    ];

    fn clock(tsc_hz: u64) -> Clock {
        Clock {
            tsc_hz,
            stable: true,
            start_ns: 1_764_417_293_123_456_789,
        }
    }

    /// As `msr.rst` has a guest count.
    fn time(record: &[u8], tsc: u64) -> u64 {
        let word = |at: usize| u64::from_le_bytes(record[at..at + 8].try_into().unwrap());
        let factor = u32::from_le_bytes(record[24..28].try_into().unwrap());
        let shift = record[28] as i8;
        assert_eq!(record.len(), 32);
        assert!(record[0].is_multiple_of(2), "an update that does not end");
        let ticks = u128::from(tsc - word(8));
        let ticks = match shift {
            0.. => ticks << shift,
            _ => ticks >> -shift,
        };
        ((ticks * u128::from(factor)) >> 32) as u64 + word(16)
    }

    #[test]
    fn a_day_of_ticks_is_a_day() {
        const DAY: u64 = 86_400;
        for hz in RATES {
            let record = clock(hz).write(SYSTEM_TIME, 0x1001).unwrap();
            assert_eq!(record.at.0, 0x1000);
            let ns = time(record.bytes(), hz * DAY);
            let off = ns.abs_diff(DAY * 1_000_000_000);
            // Of 31 bits.
            assert!(off <= DAY, "{hz} Hz: {off} ns in a day");
        }
    }

    /// As Linux's `pvclock_tsc_khz` does.
    #[test]
    fn linux_finds_the_rate() {
        for hz in RATES.into_iter().filter(|hz| *hz > 1_000_000) {
            let record = clock(hz).write(SYSTEM_TIME, 1).unwrap();
            let factor = u32::from_le_bytes(record.bytes()[24..28].try_into().unwrap());
            let shift = record.bytes()[28] as i8;
            let khz = (1_000_000 << 32) / u64::from(factor);
            let khz = match shift {
                0.. => khz >> shift,
                _ => khz << -shift,
            };
            // What the shift to the left drops.
            assert!(khz.abs_diff(hz / 1000) <= 16, "{hz} Hz: {khz} kHz");
        }
    }

    #[test]
    fn the_date_is_that_of_the_start() {
        let record = clock(1_000_000_000).write(WALL_CLOCK, 0x2004).unwrap();
        assert_eq!(record.at.0, 0x2004);
        let mut expected = vec![0; 4];
        expected.extend(1_764_417_293u32.to_le_bytes());
        expected.extend(123_456_789u32.to_le_bytes());
        assert_eq!(record.bytes(), expected);
    }

    #[test]
    fn only_a_clock_that_is_steady_says_so() {
        let flags = |stable| {
            let clock = Clock {
                stable,
                ..clock(1_000_000_000)
            };
            clock.write(SYSTEM_TIME, 1).unwrap().bytes()[29]
        };
        assert_eq!((flags(true), flags(false)), (1, 0));
    }

    #[test]
    fn a_clock_that_is_turned_off_is_written_nowhere() {
        let record = clock(1_000_000_000).write(SYSTEM_TIME, 0xfff0).unwrap();
        assert_eq!((record.at.0, record.bytes()), (0, &[][..]));
    }

    #[test]
    fn what_is_not_aligned_and_other_registers_are_refused() {
        let clock = clock(1_000_000_000);
        for (msr, value) in [
            (SYSTEM_TIME, 0x1003),
            (WALL_CLOCK, 0x1001),
            (WALL_CLOCK, 0x1002),
            (0x4b56_4d02, 1),
            (0x4b56_4d03, 1),
            (0x11, 0),
            (0x12, 1),
        ] {
            assert_eq!(clock.write(msr, value), None, "{msr:#x} {value:#x}");
        }
    }

    #[test]
    fn it_offers_two_registers_and_nothing_else() {
        let name = cpuid(SIGNATURE).unwrap();
        let words = [name.ebx, name.ecx, name.edx];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(bytes, b"KVMKVMKVM\0\0\0");
        assert_eq!(name.eax, FEATURES);
        let features = cpuid(FEATURES).unwrap();
        assert_eq!((features.eax, features.edx), (1 << 3 | 1 << 24, 0));
        assert_eq!(cpuid(0x4000_0102), None);
    }
}
