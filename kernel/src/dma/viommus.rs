//! The SMMUs that a guest sees before its devices.

use super::{Dma, Master, driver};
use crate::gate::Gate;
use crate::guest_ram::GuestRam;
use crate::machine::Host;
use crate::viommu::{self, VirtSmmu};
use alloc::sync::Arc;
use alloc::vec::Vec;
use iommu::guest::vsmmu::{Behind, ObjectSlice};
use iommu::object::Error;

impl Dma {
    /// Has the guest see an SMMU before those of `masters`, what it was made for, that it has a name for, with memory of
    /// `host`.
    ///
    /// # Errors
    /// Those of the objects.
    pub fn add_viommus(
        &mut self,
        gate: &Gate,
        host: &Arc<Host>,
        ram: &GuestRam,
        masters: &[Master],
    ) -> Result<(), Error> {
        let Some(table) = &self.table else {
            return Ok(());
        };
        for slice in &self.slices {
            let unit = &gate.unit(slice.iommu).iommu;
            let offer = viommu::offer(unit);
            let requests = viommu::requests(&offer);
            let mut slice = (
                slice.iommu,
                ObjectSlice::new(
                    &self.context,
                    table,
                    &driver(unit),
                    viommu::EVENTS,
                    requests,
                )?,
            );
            let mut behind = Vec::new();
            for (master, bounds) in masters.iter().zip(&self.masters) {
                let bounds = bounds.iter().filter(|bound| bound.iommu == slice.0);
                for (bound, virt) in bounds.zip(master.virt) {
                    slice.1.add(Arc::clone(&bound.device), virt.0)?;
                    behind.push(Behind {
                        stream: virt,
                        ats: false,
                    });
                }
            }
            if behind.is_empty() {
                continue;
            }
            let (size, count) = (ram.guest().len, self.viommus.len());
            let setup = viommu::setup(&self.space, host, unit, count, offer, size)?;
            let smmu = VirtSmmu::new(Arc::clone(host), setup, slice.1, &behind);
            let smmu = smmu.map_err(viommu::refused)?;
            self.viommus
                .push(viommu::Viommu::new(slice.0, smmu, requests > 0));
        }
        Ok(())
    }

    /// The SMMUs that the guest sees.
    pub fn viommus(&self) -> &[viommu::Viommu] {
        &self.viommus
    }

    /// How many events wait for the guest's SMMUs.
    pub fn waiting_events(&self) -> u64 {
        self.viommus.iter().map(|viommu| viommu.counters().1).sum()
    }

    /// With all devices open: the guest's SMMUs are out of reset.
    pub fn start(&self, ram: &GuestRam) {
        self.viommus.iter().for_each(|viommu| viommu.start(ram));
    }

    /// The guest's SMMUs stop. All devices are closed next.
    ///
    /// # Panics
    /// DMA cannot be stopped.
    pub fn stop(&self) {
        self.viommus.iter().for_each(viommu::Viommu::stop);
    }
}
