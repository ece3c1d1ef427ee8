//! The IOMMUs that a guest sees before its devices.

use super::{Dma, Master};
use crate::gate::Gate;
use crate::guest_ram::GuestRam;
use crate::machine::Host;
use crate::viommu::{Parts, Viommu};
use alloc::sync::Arc;
use alloc::vec::Vec;
use iommu::object::Error;

impl Dma {
    /// Has the guest see an IOMMU before those of `masters`, what it was made for, that it has a name for, with memory of
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
            let mut behind = Vec::new();
            for (master, bounds) in masters.iter().zip(&self.masters) {
                let bounds = bounds.iter().filter(|bound| bound.iommu == slice.iommu);
                for (bound, virt) in bounds.zip(master.virt) {
                    behind.push((Arc::clone(&bound.device), virt));
                }
            }
            if behind.is_empty() {
                continue;
            }
            let parts = Parts {
                host,
                unit: &gate.unit(slice.iommu).iommu,
                context: &self.context,
                space: &self.space,
                table,
                ram,
                index: self.viommus.len(),
            };
            let viommu = Viommu::new(slice.iommu, &parts, behind)?;
            self.viommus.push(viommu);
        }
        Ok(())
    }

    /// The IOMMUs that the guest sees.
    pub fn viommus(&self) -> &[Viommu] {
        &self.viommus
    }

    /// How many events wait for the guest's IOMMUs.
    pub fn waiting_events(&self) -> u64 {
        self.viommus.iter().map(|viommu| viommu.counters().1).sum()
    }

    /// With all devices open: the guest's IOMMUs are out of reset.
    pub fn start(&self, ram: &GuestRam) {
        self.viommus.iter().for_each(|viommu| viommu.start(ram));
    }

    /// The guest's IOMMUs stop. All devices are closed next.
    ///
    /// # Panics
    /// DMA cannot be stopped.
    pub fn stop(&self) {
        self.viommus.iter().for_each(Viommu::stop);
    }
}
