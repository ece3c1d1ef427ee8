//! The walks of both stages.

use super::{ADDRESS_SIZE, Class, Fault, PERMISSION, Stage, TRANSLATION, WALK_ABORT, Walker, bits};
use crate::causes::Cause;

const ACCESS: u64 = 0x12;

impl Walker<'_> {
    /// A stage 1 walk: the output, and what may be done with it.
    pub(super) fn first(
        &self,
        half: &Stage,
        place: u64,
        had: bool,
        input: u64,
        two: Option<&Stage>,
    ) -> Result<(u64, [bool; 2]), Fault> {
        let fault = |number| Fault {
            number,
            two: false,
            class: Class::Input,
            at: 0,
        };
        let write = self.now.write;
        let low = !(half.table_bytes() - 1);
        let (mut level, mut table) = (half.start, half.root & low);
        // Where the table is, where that is known without looking at each descriptor.
        let mut base = match two {
            None => Some(table),
            Some(_) if self.has(Cause::TableBaseOnly) => {
                let mut place = place;
                if !self.has(Cause::TablesWithDescriptor) {
                    let two = two.expect("there is one");
                    place = self.table_address(two, half.root)?;
                }
                Some(place & low)
            }
            Some(_) => None,
        };
        let (mut read_only, mut privileged) = (false, false);
        loop {
            let index = input >> half.shift(level);
            let index = if level == half.start {
                index
            } else {
                index & ((1 << half.stride()) - 1)
            };
            let at = match (base, two) {
                (Some(base), _) => base + index * 8,
                (None, Some(two)) => self.table_address(two, table + index * 8)?,
                (None, None) => unreachable!("the base is known without a stage 2"),
            };
            let descriptor = self.word(at).ok_or(Fault {
                number: WALK_ABORT,
                two: false,
                class: Class::Table,
                at,
            })?;
            let (kind, size) = self.kind(half, level, descriptor);
            match kind {
                Kind::Invalid => return Err(fault(TRANSLATION)),
                Kind::Table(next) => {
                    let bounded = next >> half.output != 0;
                    if bounded && !self.has(Cause::TableSizeUnchecked) {
                        return Err(fault(ADDRESS_SIZE));
                    }
                    if !had {
                        read_only |= bits(descriptor, 62, 62) != 0;
                        privileged |= bits(descriptor, 61, 61) != 0;
                    }
                    if self.has(Cause::TablePermissionFirst) {
                        if read_only && write {
                            return Err(fault(PERMISSION));
                        }
                        // It is not looked at again.
                        read_only = false;
                    }
                    (level, table) = (level + 1, next);
                    base = match two {
                        None => Some(next),
                        Some(_) if bounded && self.has(Cause::StageOfTableFault) => {
                            return Err(Fault {
                                class: Class::Table,
                                at: next,
                                ..fault(ADDRESS_SIZE)
                            });
                        }
                        Some(two) if self.has(Cause::TableBaseOnly) => {
                            Some(self.table_address(two, next)?)
                        }
                        Some(_) => None,
                    };
                }
                Kind::Leaf(output) => {
                    let unprivileged = bits(descriptor, 6, 6) != 0 && !privileged
                        || self.has(Cause::UnprivilegedUnchecked);
                    let writable = bits(descriptor, 7, 7) == 0 && !read_only;
                    let rights = [unprivileged, unprivileged && writable];
                    let checks = [
                        (output >> half.output != 0, ADDRESS_SIZE),
                        (bits(descriptor, 10, 10) == 0 && !half.affd, ACCESS),
                        (!rights[usize::from(write)], PERMISSION),
                    ];
                    self.check(checks).map_err(fault)?;
                    return Ok((output | input & (size - 1), rights));
                }
            }
        }
    }

    /// The first check that fails, in the order of the document or of QEMU.
    fn check(&self, mut checks: [(bool, u64); 3]) -> Result<(), u64> {
        if self.has(Cause::SizeLast) {
            checks.rotate_left(1);
        }
        let failed = checks.iter().find(|(failed, _)| *failed);
        failed.map_or(Ok(()), |(_, number)| Err(*number))
    }

    /// Stage 2 of the address of a table or descriptor of stage 1.
    fn table_address(&self, two: &Stage, ipa: u64) -> Result<u64, Fault> {
        let found = self.second(two, ipa, false, Class::Table);
        found.map(|(at, _)| at).map_err(|fault| {
            if self.has(Cause::StageOfTableFault) {
                Fault {
                    two: false,
                    at: ipa,
                    ..fault
                }
            } else {
                fault
            }
        })
    }

    /// A stage 2 walk.
    pub(super) fn second(
        &self,
        two: &Stage,
        ipa: u64,
        write: bool,
        class: Class,
    ) -> Result<(u64, [bool; 2]), Fault> {
        let fault = |number| Fault {
            number,
            two: true,
            class,
            at: ipa,
        };
        if ipa >> two.bits != 0 {
            return Err(fault(TRANSLATION));
        }
        let entries = (1u64 << two.stride()) - 1;
        // What the alignment of the start table leaves of its address. A start level that is not reached has a negative
        // count of bits, which an x86 shift takes modulo 64.
        let spare = two.bits.wrapping_sub(two.stride() * (4 - two.start));
        let aligned = 1u64.wrapping_shl(spare.into()) - 1;
        let (mut level, mut table) = (two.start, two.root & !aligned);
        loop {
            let mut index = ipa >> two.shift(level);
            if level != two.start || self.has(Cause::ConcatenatedTables) {
                index &= entries;
            }
            let at = table + index * 8;
            let descriptor = self.word(at).ok_or(Fault {
                number: WALK_ABORT,
                two: true,
                class,
                at,
            })?;
            let (kind, size) = self.kind(two, level, descriptor);
            match kind {
                Kind::Invalid => return Err(fault(TRANSLATION)),
                Kind::Table(next) => {
                    if next >> two.output != 0 && !self.has(Cause::TableSizeUnchecked) {
                        return Err(fault(ADDRESS_SIZE));
                    }
                    (level, table) = (level + 1, next);
                }
                Kind::Leaf(output) => {
                    let rights = [bits(descriptor, 6, 6) != 0, bits(descriptor, 7, 7) != 0];
                    let checks = [
                        (output >> two.output != 0, ADDRESS_SIZE),
                        (bits(descriptor, 10, 10) == 0 && !two.affd, ACCESS),
                        (!rights[usize::from(write)], PERMISSION),
                    ];
                    self.check(checks).map_err(fault)?;
                    return Ok((output | ipa & (size - 1), rights));
                }
            }
        }
    }

    fn kind(&self, stage: &Stage, level: u8, descriptor: u64) -> (Kind, u64) {
        let address = descriptor & 0x0000_ffff_ffff_f000;
        let size = 1u64 << stage.shift(level);
        let blocks = level == 2
            || level == 1 && stage.granule == 12
            || level < 3 && self.has(Cause::BlocksEverywhere);
        let kind = match descriptor & 3 {
            3 if level < 3 => Kind::Table(address & !((1 << stage.granule) - 1)),
            3 => Kind::Leaf(address & !(size - 1)),
            1 if blocks => Kind::Leaf(address & !(size - 1)),
            _ => Kind::Invalid,
        };
        (kind, size)
    }
}

enum Kind {
    Invalid,
    Table(u64),
    Leaf(u64),
}
