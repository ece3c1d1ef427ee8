//! The ITS's own tables, of devices and of collections: memory that it formats as it likes (IHI 0069, 5.2).

use super::spec::{Baser, GITS_BASER, LEVEL1_VALID};
use super::{ItsError, Shareable};
use crate::barrier;
use crate::memory::{FramePool, Frames};
use crate::mmio::MmioRegion;
use alloc::vec::Vec;
use tock_registers::LocalRegisterCopy;
use tock_registers::fields::FieldValue;

/// `GITS_BASER<n>`.Size counts to 256.
const MAX_PAGES: u64 = 256;
/// One level is used up to this size, in bytes, where two are possible.
const FLAT_LIMIT: u64 = 0x1_0000;

/// One of `GITS_BASER<n>`, with its memory.
#[derive(Debug)]
pub(super) struct Table {
    /// All of it, or the first level.
    memory: Frames,
    level2: Option<Level2>,
    /// First identity that it has no room for.
    limit: u64,
}

/// The second level of a table, a page for each stretch of identities that is in use.
#[derive(Debug)]
struct Level2 {
    page_len: u64,
    ids_a_page: u64,
    /// Each with its index in the first level.
    pages: Vec<(u64, Frames)>,
}

impl Table {
    /// Gives GITS_BASER<`n`> room for `ids` identities, or for as many as it can have. The ITS is off.
    pub(super) fn new(
        registers: &MmioRegion,
        pool: &'static FramePool,
        n: usize,
        ids: u64,
    ) -> Result<Self, ItsError> {
        let baser = Register {
            registers,
            offset: GITS_BASER + 8 * n,
        };
        let entry_len = baser.read().read(Baser::EntrySize) + 1;
        let (page_size, page_len) = baser.page_size().ok_or(ItsError::TablePageSize(n))?;
        let flat_len = ids.saturating_mul(entry_len);
        let page = Baser::PageSize.val(page_size);
        let two_levels = flat_len > page_len.max(FLAT_LIMIT)
            && baser.keeps(Baser::Indirect::SET + page, |seen| {
                seen.is_set(Baser::Indirect)
            });

        let (level1_len, ids_an_entry) = match two_levels {
            true => (
                ids.div_ceil(page_len / entry_len).saturating_mul(8),
                page_len / entry_len,
            ),
            false => (flat_len, 1),
        };
        let pages = level1_len.div_ceil(page_len).clamp(1, MAX_PAGES);
        let memory = pool
            .allocate(pages * page_len, page_len)
            .ok_or(ItsError::NoMemory)?;
        memory.clean(0, memory.len() as usize);
        let place = page
            + Baser::Address.val(address(memory.base(), page_len)? >> 12)
            + Baser::Size.val(pages - 1)
            + Baser::Indirect.val(two_levels.into())
            + Baser::Valid::SET;
        let with = |attributes: Shareable| {
            place
                + Baser::InnerCache.val(attributes.inner_cache())
                + Baser::Shareability.val(attributes.shareability())
        };
        if !baser.keeps(with(Shareable::Inner), |seen| {
            seen.read(Baser::Shareability) != 0
        }) {
            baser.write(with(Shareable::Non));
        }
        let entries = pages * page_len / if two_levels { 8 } else { entry_len };
        Ok(Self {
            memory,
            level2: two_levels.then(|| Level2 {
                page_len,
                ids_a_page: ids_an_entry,
                pages: Vec::new(),
            }),
            limit: ids.min(entries * ids_an_entry),
        })
    }

    /// Sees to it that there is memory for `id`.
    pub(super) fn cover(&mut self, pool: &'static FramePool, id: u32) -> Result<(), ItsError> {
        let id = u64::from(id);
        if id >= self.limit {
            return Err(ItsError::TableRange(id as u32));
        }
        let Some(level2) = &mut self.level2 else {
            return Ok(());
        };
        let index = id / level2.ids_a_page;
        if level2.pages.iter().any(|(other, _)| *other == index) {
            return Ok(());
        }
        let page = pool
            .allocate(level2.page_len, level2.page_len)
            .ok_or(ItsError::NoMemory)?;
        page.clean(0, page.len() as usize);
        // The page is zero in memory before the ITS can find it.
        barrier::dma_write();
        let entry = 8 * index as usize;
        self.memory.write64(entry, page.base() | LEVEL1_VALID);
        self.memory.clean(entry, 8);
        barrier::dma_write();
        level2.pages.push((index, page));
        Ok(())
    }
}

/// Bits 47:12 of `GITS_BASER<n>`: with pages of 64 KiB, 15:12 are bits 51:48 of the address.
fn address(base: u64, page_len: u64) -> Result<u64, ItsError> {
    match base >> 48 {
        0 => Ok(base),
        high @ 1..16 if page_len == 0x1_0000 => Ok(base & 0xFFFF_FFFF_0000 | high << 12),
        _ => Err(ItsError::Address(base)),
    }
}

/// One `GITS_BASER<n>`.
struct Register<'a> {
    registers: &'a MmioRegion,
    offset: usize,
}

impl Register<'_> {
    fn read(&self) -> LocalRegisterCopy<u64, Baser::Register> {
        LocalRegisterCopy::new(self.registers.read64(self.offset))
    }

    fn write(&self, value: FieldValue<u64, Baser::Register>) {
        self.registers.write64(self.offset, value.value);
    }

    /// Writes, and asks what was kept of it: fields may be fixed (`GITS_BASER<n>`).
    fn keeps(
        &self,
        value: FieldValue<u64, Baser::Register>,
        kept: impl Fn(LocalRegisterCopy<u64, Baser::Register>) -> bool,
    ) -> bool {
        self.write(value);
        kept(self.read())
    }

    /// The largest page that it takes: the field's value, and bytes.
    fn page_size(&self) -> Option<(u64, u64)> {
        [(2, 0x1_0000), (1, 0x4000), (0, 0x1000)]
            .into_iter()
            .find(|(field, _)| {
                self.keeps(Baser::PageSize.val(*field), |seen| {
                    seen.read(Baser::PageSize) == *field
                })
            })
    }
}
