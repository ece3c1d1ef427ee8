//! Guest queues that the hardware reads by itself. Their memory is pinned, contiguous and locked against unmapping.

use super::ids::Object;
use super::inner::Inner;
use super::{Error, room};
use crate::addr::{Gpa, Iova, PAGE_SIZE, Span};

/// See the module's description.
#[derive(Debug)]
pub(super) struct Guest {
    pub viommu: u32,
    pub kind: u32,
    pub index: u32,
    /// The pins; an object of its own.
    pub access: u32,
    /// Another queue that has to stay.
    pub depends_on: Option<u32>,
}

impl Inner {
    /// A queue of the slice's hardware: `len` bytes of guest memory from `base` on.
    pub(super) fn hw_queue_alloc(
        &mut self,
        viommu: u32,
        kind: u32,
        index: u32,
        base: Gpa,
        len: u64,
    ) -> Result<u32, Error> {
        if kind == 0 {
            return Err(Error::Unsupported(kind));
        }
        if len == 0 {
            return Err(Error::Empty);
        }
        base.0.checked_add(len - 1).ok_or(Error::Overflow)?;
        let slice = self.ids.viommu(viommu)?;
        slice.ops.has_queues(kind)?;
        if slice.queues.iter().any(|it| (it.0, it.1) == (kind, index)) {
            return Err(Error::Exists(index.into()));
        }
        let ioas = self.ids.paging(slice.parent)?.ioas;
        let id = self.publish_with(|inner, id| {
            // Of a nest parent's address space, the IOVAs are the guest's physical addresses.
            let range = Span {
                base: Iova(base.0),
                len,
            };
            let access = inner.access_alloc(ioas, true)?;
            let made = inner.start_queue(viommu, id, access, (kind, index), range);
            match made {
                Ok(depends_on) => {
                    inner.ids.grab(access);
                    Ok(Object::HwQueue(Guest {
                        viommu,
                        kind,
                        index,
                        access,
                        depends_on,
                    }))
                }
                Err(error) => {
                    inner.end(access, false);
                    Err(error)
                }
            }
        })?;
        self.ids.grab(viommu);
        if let Some(other) = self.ids.hw_queue(id)?.depends_on {
            self.ids.grab(other);
        }
        Ok(id)
    }

    fn start_queue(
        &mut self,
        viommu: u32,
        id: u32,
        access: u32,
        (kind, index): (u32, u32),
        range: Span<Iova>,
    ) -> Result<Option<u32>, Error> {
        let pieces = self.pin(access, range, false)?;
        let [piece] = pieces.as_slice() else {
            return Err(Error::NotContiguous(range.base.0));
        };
        if !piece.base.is_aligned(PAGE_SIZE) {
            return Err(Error::Misaligned(range.base.0));
        }
        let slice = self.ids.viommu_mut(viommu)?;
        room::reserve(&mut slice.queues, 1)?;
        let first = slice.ops.hw_queue(kind, index, piece.base, range.len)?;
        let mut others = slice.queues.iter();
        let other = others.find(|it| it.0 == kind && Some(it.1) == first);
        let other = other.map(|it| it.2);
        slice.queues.push((kind, index, id));
        Ok(other)
    }

    pub(super) fn hw_queue_destroyed(&mut self, queue: &Guest) {
        if let Ok(slice) = self.ids.viommu_mut(queue.viommu) {
            slice.ops.hw_queue_gone(queue.kind, queue.index);
            slice
                .queues
                .retain(|it| (it.0, it.1) != (queue.kind, queue.index));
        }
        self.end(queue.access, false);
        if let Some(other) = queue.depends_on {
            self.put(other);
        }
        self.put(queue.viommu);
    }
}
