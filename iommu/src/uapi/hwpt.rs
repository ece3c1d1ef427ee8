//! Requests about page tables, and about the hardware that walks them.

use super::layout::{
    GetHwInfo, HwptAlloc, HwptGetDirtyBitmap, HwptInvalidate, HwptSetDirtyTracking,
};
use super::{Call, DATA, Request, filled, zero};
use crate::addr::{Iova, Span};
use crate::object::by_id::{HwptRequest, InvalidateRequest};
use crate::object::driver::UserData;
use crate::object::{Errno, MAX_ENTRIES, MAX_ENTRY_LEN};

/// Words of a dirty bitmap at most: 2^22 pages.
const BITMAP: u64 = 1 << 16;
/// Bytes of an array of invalidations that are read at once.
const CHUNK: usize = 16384;

/// out_capabilities.
const DIRTY_TRACKING: u64 = 1;
const ATS_NOT_SUPPORTED: u64 = 8;

impl Request for HwptAlloc {
    const MIN: usize = 24;

    fn run(&mut self, call: &mut Call<'_>) -> Result<(), Errno> {
        zero(self.reserved)?;
        zero(self.reserved2)?;
        let (kind, len) = (self.data_type.get(), self.data_len.get());
        if (kind == 0) != (len == 0) {
            return Err(Errno::EINVAL);
        }
        let bytes = call.data(self.data_uptr.get(), len)?;
        let request = HwptRequest {
            flags: self.flags.get(),
            device: self.dev_id.get(),
            pt: self.pt_id.get(),
            reserved: 0,
            data: UserData {
                kind,
                bytes: &bytes,
            },
            fault: self.fault_id.get(),
            reserved2: 0,
        };
        let id = call.context.by_id().hwpt_alloc(&request)?;
        self.out_hwpt_id.set(id);
        Ok(())
    }
}

/// ATS is never turned on in a device.
impl Request for GetHwInfo {
    const MIN: usize = 32;

    fn run(&mut self, call: &mut Call<'_>) -> Result<(), Errno> {
        let (flags, device, kind) = (self.flags.get(), self.dev_id.get(), self.data_type.get());
        let by_id = call.context.by_id();
        let (info, pasid_bits) = by_id.hw_info(flags, device, kind, self.reserved)?;
        let room = self.data_len.get() as usize;
        if room > DATA {
            return Err(Errno::EINVAL);
        }
        let mut bytes = filled(0, room.max(info.len))?;
        for (out, word) in bytes[..info.len].chunks_mut(8).zip(info.words) {
            out.copy_from_slice(&word.to_le_bytes()[..out.len()]);
        }
        call.write(self.data_uptr.get(), &bytes[..room])?;
        self.data_len.set(info.len as u32);
        self.data_type.set(info.kind);
        self.out_max_pasid_log2 = pasid_bits;
        let tracking = if info.dirty_tracking {
            DIRTY_TRACKING
        } else {
            0
        };
        self.out_capabilities.set(tracking | ATS_NOT_SUPPORTED);
        Ok(())
    }
}

impl Request for HwptSetDirtyTracking {
    fn run(&mut self, call: &mut Call<'_>) -> Result<(), Errno> {
        let (flags, hwpt, reserved) = (self.flags.get(), self.hwpt_id.get(), self.reserved.get());
        let by_id = call.context.by_id();
        Ok(by_id.set_dirty_tracking(flags, hwpt, reserved)?)
    }
}

impl Request for HwptGetDirtyBitmap {
    fn run(&mut self, call: &mut Call<'_>) -> Result<(), Errno> {
        let (iova, length) = (self.iova.get(), self.length.get());
        let page_size = self.page_size.get();
        let first = (self.flags.get(), self.hwpt_id.get(), self.reserved.get());
        let range = Span {
            base: Iova(iova),
            len: length,
        };
        let by_id = call.context.by_id();
        // A request that is wrong in itself has no bitmap, and no bits are cleared for one that cannot be read.
        let pages = length.checked_div(page_size).unwrap_or(0);
        let words = pages.div_ceil(64);
        if words > BITMAP {
            return Err(Errno::ENOMEM);
        }
        let mut bytes = filled(0, words as usize * 8)?;
        call.read(self.data.get(), &mut bytes)?;
        let mut bitmap = filled(0, words as usize)?;
        for (word, bytes) in bitmap.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        by_id.get_dirty_bitmap(first, range, page_size, &mut bitmap)?;
        for (word, bytes) in bitmap.iter().zip(bytes.as_chunks_mut().0) {
            *bytes = word.to_le_bytes();
        }
        call.write(self.data.get(), &bytes)
    }
}

/// An array longer than one read of ours is gone through in pieces: what came before a piece that cannot be read, or has a
/// tail that is not zero, is complete and counted.
impl Request for HwptInvalidate {
    fn run(&mut self, call: &mut Call<'_>) -> Result<(), Errno> {
        let count = self.entry_num.get() as usize;
        self.entry_num.set(0);
        zero(self.reserved)?;
        let (at, entry_len) = (self.data_uptr.get(), self.entry_len.get() as usize);
        let entry_lens = 1..=MAX_ENTRY_LEN;
        if count > 0 && (at == 0 || !entry_lens.contains(&entry_len) || count > MAX_ENTRIES) {
            return Err(Errno::EINVAL);
        }
        let each = CHUNK.checked_div(entry_len).unwrap_or(0).max(1);
        let mut bytes = filled(0, each.min(count) * entry_len)?;
        let mut done = 0;
        loop {
            let piece = each.min(count - done);
            let bytes = &mut bytes[..piece * entry_len];
            let offset = (done * entry_len) as u64;
            call.read(at.checked_add(offset).ok_or(Errno::EFAULT)?, bytes)?;
            let progress = call.context.by_id().hwpt_invalidate(&InvalidateRequest {
                id: self.hwpt_id.get(),
                bytes,
                data_type: self.data_type.get(),
                entry_len: self.entry_len.get(),
                entry_num: piece as u32,
                reserved: 0,
            });
            done += progress.complete;
            self.entry_num.set(done as u32);
            progress.result?;
            if done >= count {
                return Ok(());
            }
        }
    }

    fn returns(_errno: Errno) -> bool {
        true
    }
}
