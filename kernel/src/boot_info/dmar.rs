//! What ACPI's DMAR says of VT-d (VT-d, chapter 8).

use alloc::vec::Vec;

use iommu::addr::{Hpa, Span};

/// ACPI's DMA remapping table (VT-d, chapter 8).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Dmar {
    /// Bits of the widest address that DMA can reach; 0 without a table.
    pub address_bits: u8,
    /// Interrupt remapping may be used.
    pub interrupt_remapping: bool,
    /// Firmware asks to leave the CPUs in xAPIC mode.
    pub xapic_only: bool,
    /// Firmware asks for DMA of devices outside the case to be remapped from the start.
    pub dma_opt_in: bool,
    /// The units, in the order of the table.
    pub vtds: Vec<Vtd>,
    /// Memory that devices go on to use on firmware's behalf (RMRR).
    pub reserved: Vec<ReservedDma>,
    /// Root ports below which devices may cache translations (ATSR).
    pub ats_ports: Vec<AtsPorts>,
    /// Devices of the root complex that cache translations (SATC).
    pub ats_devices: Vec<AtsDevices>,
}

/// One VT-d unit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vtd {
    /// Register pages.
    pub registers: Span<Hpa>,
    /// PCI segment.
    pub segment: u16,
    /// Whose DMA it translates; with `include_all` these are only those that are no PCI functions.
    pub scopes: Vec<DeviceScope>,
    /// It translates the DMA of every function of the segment that is in no other unit's scopes.
    pub include_all: bool,
    /// NUMA node, where that is said (RHSA).
    pub proximity: Option<u32>,
}

/// Memory that devices may use from before the start on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReservedDma {
    /// PCI segment.
    pub segment: u16,
    /// The memory, of whole pages.
    pub memory: Span<Hpa>,
    /// The devices.
    pub scopes: Vec<DeviceScope>,
}

/// Root ports that support ATS.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AtsPorts {
    /// PCI segment.
    pub segment: u16,
    /// Every one of the segment.
    pub all: bool,
    /// Which, unless `all`.
    pub scopes: Vec<DeviceScope>,
}

/// Devices of the root complex that support ATS.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AtsDevices {
    /// PCI segment.
    pub segment: u16,
    /// They do not work without.
    pub required: bool,
    /// Which.
    pub scopes: Vec<DeviceScope>,
}

/// What a [`DeviceScope`] leads to (VT-d, 8.3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScopeKind {
    /// One function.
    Endpoint,
    /// A bridge, and all that is behind it.
    Bridge,
    /// An I/O APIC, with the identity that its interrupts carry.
    IoApic,
    /// A timer block, with the identity that its messages carry.
    Hpet,
    /// A device that ACPI's namespace describes.
    Namespace,
}

/// One device, or one branch of PCI.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceScope {
    /// What it is.
    pub kind: ScopeKind,
    /// ID of the I/O APIC, number of the timer block, or number of the namespace device.
    pub id: u8,
    /// Bus that the path starts on.
    pub bus: u8,
    /// Device and function of each bridge on the way, and of the end; one at least. The bus of the next one is the
    /// secondary bus of the one before.
    pub path: Vec<(u8, u8)>,
}

impl DeviceScope {
    /// Requester ID at the end of the path. `secondary` is the secondary bus of the bridge with a requester ID, if there
    /// is one.
    pub fn requester(&self, secondary: impl Fn(u16) -> Option<u8>) -> Option<u16> {
        let mut bus = self.bus;
        let (&last, bridges) = self.path.split_last()?;
        let requester = |bus: u8, (device, function): (u8, u8)| {
            u16::from(bus) << 8 | u16::from(device) << 3 | u16::from(function)
        };
        for &bridge in bridges {
            bus = secondary(requester(bus, bridge))?;
        }
        Some(requester(bus, last))
    }

    /// Whether it is the function with this requester ID, or a bridge above that. `secondary` as for [`Dmar::unit_of`].
    fn holds(&self, requester: u16, secondary: &impl Fn(u16) -> Option<(u8, u8)>) -> bool {
        let first = |bridge| secondary(bridge).map(|(first, _)| first);
        let Some(end) = self.requester(first) else {
            return false;
        };
        match self.kind {
            ScopeKind::Endpoint => end == requester,
            ScopeKind::Bridge => {
                let behind = secondary(end).is_some_and(|(first, last)| {
                    (u16::from(first)..=u16::from(last)).contains(&(requester >> 8))
                });
                end == requester || behind
            }
            _ => false,
        }
    }
}

impl Dmar {
    /// The unit that translates the DMA of the function with this requester ID: the one in whose scopes the function or a
    /// bridge above it is, else the one of its segment that has all others (VT-d, 8.3). `secondary` are the secondary and
    /// subordinate bus of the bridge with a requester ID, if there is one.
    pub fn unit_of(
        &self,
        segment: u16,
        requester: u16,
        secondary: impl Fn(u16) -> Option<(u8, u8)>,
    ) -> Option<usize> {
        let holds = |scope: &DeviceScope| scope.holds(requester, &secondary);
        let own = |vtd: &Vtd| vtd.segment == segment && vtd.scopes.iter().any(holds);
        let all = |vtd: &Vtd| vtd.segment == segment && vtd.include_all;
        let units = || self.vtds.iter();
        units().position(own).or_else(|| units().position(all))
    }

    /// The memory that firmware goes on to use by the function with this requester ID (VT-d, 8.4): of the regions in whose
    /// scopes it or a bridge above it is. `secondary` as for [`Dmar::unit_of`].
    pub fn reserved_of(
        &self,
        segment: u16,
        requester: u16,
        secondary: impl Fn(u16) -> Option<(u8, u8)>,
    ) -> impl Iterator<Item = Span<Hpa>> {
        let regions = self.reserved.iter();
        let own = regions.filter(move |region| {
            let mut scopes = region.scopes.iter();
            region.segment == segment && scopes.any(|scope| scope.holds(requester, &secondary))
        });
        own.map(|region| region.memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(kind: ScopeKind, bus: u8, path: &[(u8, u8)]) -> DeviceScope {
        DeviceScope {
            kind,
            id: 0,
            bus,
            path: path.to_vec(),
        }
    }

    fn unit(segment: u16, include_all: bool, scopes: Vec<DeviceScope>) -> Vtd {
        Vtd {
            registers: Span {
                base: Hpa(0xfed9_0000),
                len: 0x1000,
            },
            segment,
            scopes,
            include_all,
            proximity: None,
        }
    }

    /// Bridges 00:1c.0 (buses 1 to 3) and 01:00.0 (bus 2).
    fn secondary(bridge: u16) -> Option<(u8, u8)> {
        match bridge {
            0xe0 => Some((1, 3)),
            0x100 => Some((2, 2)),
            _ => None,
        }
    }

    #[test]
    fn a_device_belongs_to_the_unit_that_names_it_or_a_bridge_above_it() {
        let dmar = Dmar {
            vtds: alloc::vec![
                unit(
                    0,
                    true,
                    alloc::vec![scope(ScopeKind::IoApic, 0xff, &[(0, 0)])]
                ),
                unit(
                    0,
                    false,
                    alloc::vec![scope(ScopeKind::Endpoint, 0, &[(2, 0)])]
                ),
                unit(
                    0,
                    false,
                    alloc::vec![scope(ScopeKind::Bridge, 0, &[(0x1c, 0), (0, 0)])]
                ),
                unit(
                    1,
                    false,
                    alloc::vec![scope(ScopeKind::Endpoint, 0, &[(3, 0)])]
                ),
            ],
            ..Dmar::default()
        };
        let of = |segment, requester| dmar.unit_of(segment, requester, secondary);
        assert_eq!(of(0, 0x10), Some(1), "named");
        assert_eq!(of(0, 0x11), Some(0), "another function of it");
        assert_eq!(of(0, 0x100), Some(2), "the bridge itself");
        assert_eq!(of(0, 0x208), Some(2), "behind it");
        assert_eq!(of(0, 0x108), Some(0), "beside it");
        assert_eq!(of(0, 0xff00), Some(0), "an I/O APIC is no function");
        assert_eq!(
            (of(1, 0x18), of(1, 0x20), of(2, 0x18)),
            (Some(3), None, None)
        );
    }

    #[test]
    fn a_path_that_leads_nowhere_names_nobody() {
        let lost = scope(ScopeKind::Endpoint, 0, &[(0x1d, 0), (0, 0)]);
        assert_eq!(
            lost.requester(|bridge| secondary(bridge).map(|it| it.0)),
            None
        );
        let dmar = Dmar {
            vtds: alloc::vec![unit(0, false, alloc::vec![lost])],
            ..Dmar::default()
        };
        assert_eq!(dmar.unit_of(0, 0x100, secondary), None);
    }
}
