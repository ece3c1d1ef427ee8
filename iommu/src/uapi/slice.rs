//! Requests about slices and their queues.

use super::layout::{FaultQueueAlloc, HwQueueAlloc, VdeviceAlloc, VeventqAlloc, ViommuAlloc};
use super::{Call, Queue, Request, zero};
use crate::addr::Gpa;
use crate::object::Errno;

/// Page requests that a queue of this ABI holds, which has no depth of its own there.
const FAULT_DEPTH: u32 = 256;

impl Request for ViommuAlloc {
    const MIN: usize = 24;

    fn run(&mut self, call: &mut Call<'_>) -> Result<(), Errno> {
        let first = (self.flags.get(), self.reserved.get());
        zero(first.0)?;
        zero(first.1)?;
        let bytes = call.data(self.data_uptr.get(), self.data_len.get())?;
        let (kind, device, hwpt) = (self.kind.get(), self.dev_id.get(), self.hwpt_id.get());
        let by_id = call.context.by_id();
        let id = by_id.viommu_alloc(first, kind, device, hwpt, &bytes)?;
        self.out_viommu_id.set(id);
        Ok(())
    }
}

impl Request for VdeviceAlloc {
    fn run(&mut self, call: &mut Call<'_>) -> Result<(), Errno> {
        let (viommu, device) = (self.viommu_id.get(), self.dev_id.get());
        let by_id = call.context.by_id();
        let id = by_id.vdevice_alloc(viommu, device, self.virt_id.get())?;
        self.out_vdevice_id.set(id);
        Ok(())
    }
}

impl Request for VeventqAlloc {
    const MIN: usize = 28;

    fn run(&mut self, call: &mut Call<'_>) -> Result<(), Errno> {
        let first = (self.flags.get(), self.reserved.get());
        let (viommu, kind) = (self.viommu_id.get(), self.kind.get());
        let by_id = call.context.by_id();
        let queue = by_id.veventq_alloc(first, viommu, kind, self.veventq_depth.get())?;
        let id = queue.id();
        self.out_veventq_fd
            .set(call.open(id, Queue::Events(queue))?);
        self.out_veventq_id.set(id);
        Ok(())
    }
}

impl Request for FaultQueueAlloc {
    fn run(&mut self, call: &mut Call<'_>) -> Result<(), Errno> {
        let by_id = call.context.by_id();
        let queue = by_id.fault_queue_alloc(self.flags.get(), FAULT_DEPTH)?;
        let id = queue.id();
        self.out_fault_fd.set(call.open(id, Queue::Faults(queue))?);
        self.out_fault_id.set(id);
        Ok(())
    }
}

impl Request for HwQueueAlloc {
    fn run(&mut self, call: &mut Call<'_>) -> Result<(), Errno> {
        let which = (self.kind.get(), self.index.get());
        let base = Gpa(self.nesting_parent_iova.get());
        let (flags, viommu) = (self.flags.get(), self.viommu_id.get());
        let by_id = call.context.by_id();
        let id = by_id.hw_queue_alloc(flags, viommu, which, base, self.length.get())?;
        self.out_hw_queue_id.set(id);
        Ok(())
    }
}

impl Call<'_> {
    /// Gives the caller an open queue. Without a descriptor there is no queue either.
    fn open(&mut self, id: u32, queue: Queue) -> Result<i32, Errno> {
        self.caller.open(queue).inspect_err(|_| {
            // Nothing uses it yet.
            let _ = self.context.by_id().destroy(id);
        })
    }
}
