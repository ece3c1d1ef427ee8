//! Copies of guests' context descriptors (IHI 0070, §5.4), for hardware that must not see what a guest can write.
//!
//! On most hardware a guest's contexts stay where the guest has them: a bad one hurts nobody but its own streams. Where it
//! does more (an emulator may end with all of the machine), checking is not enough, for the guest can change a context
//! after the check. So its one context of a stream is copied, by one read, at each command that says that it changed, and
//! the hardware is shown the copy: in memory of the host's that devices find at an address of the guest's, read-only.

use tock_registers::LocalRegisterCopy;

use crate::addr::Gpa;
use crate::hal::{DmaBuffer, GuestMemory, Platform};
use crate::physical::StageOneConfig;
use crate::smmuv3::Identity;
use crate::smmuv3::hitless::{FIRST, INVALID, Kind, Update, WORDS, Words};
use crate::smmuv3::spec::cd::{CD_BYTES, CD_WORDS, CD0, CD1};
use crate::smmuv3::spec::registers::{IDR0_FIELDS, IDR5_FIELDS};
use crate::smmuv3::stream_table::{read, store};

/// Memory for the copies.
#[derive(Debug)]
pub struct ContextCopies<B> {
    /// 64 bytes a device.
    pub buffer: B,
    /// Where the devices of the guest find it: mapped for them in the nest parent, without write access, for as long as
    /// this lives. Whoever maps it unmaps it first.
    pub at: Gpa,
}

/// What a context may say, by the guest's ID registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Limits {
    /// IDR5.OAS.
    output_size: u64,
    /// 4, 16, 64 KiB.
    granules: [bool; 3],
}

impl Limits {
    fn new(identity: &Identity) -> Self {
        let idr5 = LocalRegisterCopy::<u32, IDR5_FIELDS::Register>::new(identity.idr[5]);
        Self {
            output_size: idr5.read(IDR5_FIELDS::OAS).into(),
            granules: [
                idr5.is_set(IDR5_FIELDS::GRAN4K),
                idr5.is_set(IDR5_FIELDS::GRAN16K),
                idr5.is_set(IDR5_FIELDS::GRAN64K),
            ],
        }
    }

    /// The copy of `words`: what is not offered is not valid; a wider output than there is means the widest (§5.4, IPS);
    /// what is reserved is zero.
    fn canonical(&self, words: Words) -> Words {
        let mut first = LocalRegisterCopy::<u64, CD0::Register>::new(words[0]);
        let [four, sixteen, sixty_four] = self.granules;
        let lower = match first.read_as_enum(CD0::TG0) {
            Some(CD0::TG0::Value::Granule4K) => four,
            Some(CD0::TG0::Value::Granule16K) => sixteen,
            Some(CD0::TG0::Value::Granule64K) => sixty_four,
            None => false,
        };
        let upper = match first.read_as_enum(CD0::TG1) {
            Some(CD0::TG1::Value::Granule4K) => four,
            Some(CD0::TG1::Value::Granule16K) => sixteen,
            Some(CD0::TG1::Value::Granule64K) => sixty_four,
            None => false,
        };
        let fits = (lower || first.is_set(CD0::EPD0)) && (upper || first.is_set(CD0::EPD1));
        if !first.is_set(CD0::V) || !fits {
            return [0; CD_WORDS];
        }
        let size = first.read(CD0::IPS).min(self.output_size);
        first.modify(CD0::IPS.val(size));
        let table = CD1::TTB.mask << CD1::TTB.shift | CD1::HAD.mask << CD1::HAD.shift;
        let [_, lower, upper, attributes, ..] = words;
        let mut copy = [0; CD_WORDS];
        copy[..4].copy_from_slice(&[first.get(), lower & table, upper & table, attributes]);
        copy
    }
}

pub(super) struct Contexts<P: Platform> {
    copies: ContextCopies<P::Buffer>,
    coherent: bool,
    limits: Limits,
}

impl<P: Platform> Contexts<P> {
    /// `copies` are those of a guest that sees `identity`.
    pub fn new(copies: ContextCopies<P::Buffer>, identity: &Identity) -> Self {
        let idr0 = LocalRegisterCopy::<u32, IDR0_FIELDS::Register>::new(identity.idr[0]);
        Self {
            copies,
            coherent: idr0.is_set(IDR0_FIELDS::COHACC),
            limits: Limits::new(identity),
        }
    }

    #[cfg(test)]
    pub fn buffer(&self) -> &P::Buffer {
        &self.copies.buffer
    }

    /// Devices that there is room for.
    pub fn room(&self) -> usize {
        self.copies.buffer.len() / CD_BYTES
    }

    /// `stage_one` of `device` with the copy in place of the guest's own.
    pub fn stage_one(&self, device: usize, stage_one: StageOneConfig) -> StageOneConfig {
        let (cacheable, shareability) = if self.coherent { (1, 3) } else { (0, 2) };
        StageOneConfig {
            contexts: self.copies.at.0 + (device * CD_BYTES) as u64,
            inner: cacheable,
            outer: cacheable,
            shareability,
            ..stage_one
        }
    }

    /// Copies the guest's context of `device` at `from` anew; one that cannot be read is not valid. `forget` has the
    /// hardware forget the old one, after each step.
    ///
    /// # Errors
    /// That of `forget`; the copy is not valid then.
    pub fn copy<E>(
        &mut self,
        platform: &P,
        memory: &dyn GuestMemory,
        device: usize,
        from: Gpa,
        mut forget: impl FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        let mut words = [0; CD_WORDS];
        if memory.read_words(from, &mut words).is_err() {
            words = [0; CD_WORDS];
        }
        let new = self.limits.canonical(words);
        let offset = device * CD_BYTES;
        let buffer = &mut self.copies.buffer;
        let old = read(buffer, offset);
        let mut told = false;
        let update = Update::new(&old, &new, Kind::ContextDescriptor);
        for (image, changes) in update.steps() {
            store(platform, buffer, offset, image, changes, self.coherent);
            told = true;
            if let Err(error) = forget() {
                let shut = [INVALID; WORDS];
                store(platform, buffer, offset, &shut, FIRST, self.coherent);
                return Err(error);
            }
        }
        // Whatever else of the stream was to be forgotten, although its context is the same.
        if told { Ok(()) } else { forget() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// V, AA64, R, A, EPD1, T0SZ = 25, with IPS = 2.
    const GOOD: u64 = 1 << 31 | 1 << 41 | 1 << 45 | 1 << 46 | 1 << 30 | 25 | 2 << 32;
    const LIMITS: Limits = Limits {
        output_size: 4,
        granules: [true, false, true],
    };

    fn canonical(first: u64) -> u64 {
        let ones = u64::MAX;
        LIMITS.canonical([first, ones, ones, ones, ones, ones, ones, ones])[0]
    }

    #[test]
    fn an_output_size_past_what_is_offered_is_what_is_offered() {
        for size in 0..8 {
            let copy = canonical(GOOD & !(7 << 32) | size << 32);
            assert_eq!(copy >> 32 & 7, size.min(4));
            assert_eq!(copy & !(7 << 32), GOOD & !(7 << 32));
        }
    }

    #[test]
    fn a_granule_that_is_not_offered_is_not_valid_where_it_is_used() {
        // TG0: 4K, 64K, 16K, reserved.
        let valid = [true, true, false, false];
        for (tg, valid) in (0..).zip(valid) {
            assert_eq!(canonical(GOOD | tg << 6) != 0, valid, "TG0 {tg}");
            // EPD0 and an upper half of 4K: TG0 does not count.
            let upper = GOOD & !(1 << 30) | 1 << 14 | 2 << 22;
            assert_ne!(canonical(upper | tg << 6), 0);
        }
        // TG1: reserved, 16K, 4K, 64K.
        let valid = [false, false, true, true];
        for (tg, valid) in (0..).zip(valid) {
            assert_eq!(
                canonical(GOOD & !(1 << 30) | tg << 22) != 0,
                valid,
                "TG1 {tg}"
            );
            assert_ne!(canonical(GOOD | tg << 22), 0);
        }
    }

    #[test]
    fn what_is_reserved_or_not_valid_is_zero() {
        let ones = u64::MAX;
        let copy = LIMITS.canonical([GOOD, ones, ones, ones, ones, ones, ones, ones]);
        let table = 0x100f_ffff_ffff_fff0;
        assert_eq!(copy, [GOOD, table, table, ones, 0, 0, 0, 0]);
        let copy = LIMITS.canonical([GOOD & !(1 << 31), ones, ones, ones, 0, 0, 0, 0]);
        assert_eq!(copy, [0; 8]);
    }
}
