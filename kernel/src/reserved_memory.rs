//! Memory that firmware goes on to use by functions (VT-d, 8.4: RMRR). Their partition's devices reach it where the machine
//! has it, if the configuration says so of the function; nobody else does.

use crate::boot_info::Dmar;
use crate::pci::{Function, FunctionInfo, Topology};
use alloc::vec::Vec;
use arch::mmio::{MmioError, MmioPool};
use core::fmt;
use iommu::addr::{Gpa, Hpa, Span};
use iommu::object::driver::Memory;

/// Why a function cannot have what firmware uses by it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// The configuration does not say that it may.
    NotSaid(Function),
    /// At this address there is RAM of the guest, which has no room there.
    Guest(Function, Hpa),
    /// A BAR of some function is there.
    Bar(Function, Hpa),
    /// It is RAM that firmware has given away, or somebody has it.
    Taken(Function, MmioError),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSaid(function) => write!(
                f,
                "{function}: firmware has it use memory (RMRR), and `reserved_memory` is not said"
            ),
            Self::Guest(function, at) => {
                write!(
                    f,
                    "{function}: its reserved memory at {at} is the guest's RAM"
                )
            }
            Self::Bar(function, at) => {
                write!(f, "{function}: its reserved memory at {at} is a BAR")
            }
            Self::Taken(function, error) => write!(f, "{function}: its reserved memory: {error}"),
        }
    }
}

/// The regions of a partition's functions, each once. `functions` are their records, and whether the configuration says
/// that they may have reserved memory; `guest` is where the guest has RAM. What is given is nobody else's afterwards.
///
/// # Errors
/// See [`Error`].
pub fn take<'a>(
    dmar: &Dmar,
    topology: &Topology,
    functions: impl Iterator<Item = (&'a FunctionInfo, bool)>,
    guest: &[Span<Gpa>],
    mmio: &mut MmioPool,
) -> Result<Vec<Span<Hpa>>, Error> {
    let mut all: Vec<Span<Hpa>> = Vec::new();
    for (info, is_said) in functions {
        let function = info.address;
        for region in of(dmar, topology, info) {
            if !is_said {
                return Err(Error::NotSaid(function));
            }
            // One region for several functions.
            if all.contains(&region) {
                continue;
            }
            let same = Span {
                base: Gpa(region.base.0),
                len: region.len,
            };
            if guest.iter().any(|span| span.overlaps(&same)) {
                return Err(Error::Guest(function, region.base));
            }
            let bars = topology.functions.iter().flat_map(|info| info.bars);
            let mut bars = bars.flatten().filter_map(|bar| bar.host_span());
            if bars.any(|bar| bar.overlaps(&region)) {
                return Err(Error::Bar(function, region.base));
            }
            let taken = mmio.reserve(region.base.0, region.len);
            taken.map_err(|error| Error::Taken(function, error))?;
            all.push(region);
        }
    }
    Ok(all)
}

/// The regions that name the function, or a bridge above it.
fn of(dmar: &Dmar, topology: &Topology, info: &FunctionInfo) -> impl Iterator<Item = Span<Hpa>> {
    let Function { segment, bdf } = info.address;
    dmar.reserved_of(segment, bdf.requester_id(), move |bridge| {
        let buses = topology.buses_of(segment, bridge)?;
        Some((buses.secondary, buses.subordinate))
    })
}

/// A region, to be mapped for DMA.
#[derive(Debug)]
pub struct Region(pub Span<Hpa>);

impl Memory for Region {
    fn size(&self) -> u64 {
        self.0.len
    }

    fn writable(&self) -> bool {
        true
    }

    fn piece(&self, offset: u64) -> Option<Span<Hpa>> {
        let len = self.size().checked_sub(offset).filter(|len| *len > 0)?;
        let base = self.0.base + offset;
        Some(Span { base, len })
    }
}

#[cfg(test)]
mod tests {
    use super::{Error, Region, take};
    use crate::boot_info::{DeviceScope, Dmar, ReservedDma, ScopeKind};
    use crate::pci::Topology;
    use crate::pci::fake::{FakeBus, FakeFunction};
    use crate::pci::fixtures::{address, edu, enumerate, nvme, root_port, virt_host};
    use alloc::string::ToString;
    use alloc::vec;
    use alloc::vec::Vec;
    use arch::host::mmio::DeviceMap;
    use arch::mmio::{MmioError, MmioPool};
    use iommu::addr::{Gpa, Hpa, Span};
    use iommu::object::driver::Memory;

    const RAM: u64 = 0x4000_0000;
    const FIRST: u64 = 0x7f00_0000;
    const SECOND: u64 = 0x7f20_0000;

    fn span(base: u64, len: u64) -> Span<Hpa> {
        let base = Hpa(base);
        Span { base, len }
    }

    /// NVMe at 00:02.0, edu at 00:03.0, NVMe behind the root port 00:04.0, edu behind a bridge to conventional PCI 00:05.0.
    fn topology() -> Topology {
        let port = root_port(4).with_child(nvme(0, 0));
        let bridge = FakeFunction::bridge(5, 0, Some(7)).with_child(edu(3));
        let mut bus = FakeBus::new(vec![(0, vec![nvme(2, 9), edu(3), port, bridge])]);
        enumerate(&mut bus, &[virt_host()])
    }

    fn region(base: u64, len: u64, scopes: &[(ScopeKind, &[(u8, u8)])]) -> ReservedDma {
        let scope = |&(kind, path): &(ScopeKind, &[(u8, u8)])| DeviceScope {
            kind,
            id: 0,
            bus: 0,
            path: path.to_vec(),
        };
        ReservedDma {
            segment: 0,
            memory: span(base, len),
            scopes: scopes.iter().map(scope).collect(),
        }
    }

    fn dmar(reserved: Vec<ReservedDma>) -> Dmar {
        Dmar {
            reserved,
            ..Dmar::default()
        }
    }

    fn pool() -> MmioPool {
        let ram = RAM..RAM + 0x1000_0000;
        MmioPool::new(DeviceMap::default(), Vec::from([ram]))
    }

    /// What a partition with RAM at 0 gets with these functions.
    fn taken(
        dmar: &Dmar,
        functions: &[(&str, bool)],
        mmio: &mut MmioPool,
    ) -> Result<Vec<Span<Hpa>>, Error> {
        let topology = topology();
        let records = functions
            .iter()
            .map(|(at, said)| (topology.find(address(at)).unwrap(), *said));
        let guest = Span {
            base: Gpa(0),
            len: 0x800_0000,
        };
        take(dmar, &topology, records, &[guest], mmio)
    }

    #[test]
    fn a_function_gets_the_regions_that_name_it_where_that_is_said() {
        use ScopeKind::{Bridge, Endpoint, IoApic};
        let dmar = dmar(vec![
            region(
                FIRST,
                0x2000,
                &[(Endpoint, &[(2, 0)]), (Endpoint, &[(4, 0), (0, 0)])],
            ),
            region(SECOND, 0x1000, &[(Bridge, &[(5, 0)])]),
            region(SECOND + 0x1000, 0x1000, &[(IoApic, &[(3, 0)])]),
        ]);
        let (first, second) = (span(FIRST, 0x2000), span(SECOND, 0x1000));
        let of = |functions: &[(&str, bool)]| taken(&dmar, functions, &mut pool());
        assert_eq!(of(&[("00:02.0", true)]), Ok(vec![first]));
        // Through a bridge, and behind one that was named.
        assert_eq!(
            of(&[("01:00.0", true), ("02:03.0", true)]),
            Ok(vec![first, second])
        );
        assert_eq!(
            of(&[("00:02.0", true), ("01:00.0", true)]),
            Ok(vec![first]),
            "once"
        );
        // Nothing names it, whether it may or not.
        assert_eq!(of(&[("00:03.0", false)]), Ok(vec![]));
        assert_eq!(of(&[("00:03.0", true)]), Ok(vec![]));
        let unsaid = of(&[("00:03.0", true), ("02:03.0", false)]);
        assert_eq!(unsaid, Err(Error::NotSaid(address("02:03.0"))));
        let line = unsaid.unwrap_err().to_string();
        assert_eq!(
            line,
            "0000:02:03.0: firmware has it use memory (RMRR), and `reserved_memory` is not said"
        );
        // Another segment's 00:02.0.
        let mut elsewhere = dmar.clone();
        elsewhere.reserved[0].segment = 1;
        assert_eq!(
            taken(&elsewhere, &[("00:02.0", false)], &mut pool()),
            Ok(vec![])
        );
    }

    #[test]
    fn what_is_somebody_elses_is_nobodys_reserved_memory() {
        let disk = address("00:02.0");
        let of = |base: u64, mmio: &mut MmioPool| {
            let scopes: &[(ScopeKind, &[(u8, u8)])] = &[(ScopeKind::Endpoint, &[(2, 0)])];
            taken(
                &dmar(vec![region(base, 0x1000, scopes)]),
                &[("00:02.0", true)],
                mmio,
            )
        };
        // RAM that firmware gave away: the hypervisor's, or another partition's.
        let ram = of(RAM + 0x3000, &mut pool());
        assert_eq!(ram, Err(Error::Taken(disk, MmioError::Ram(RAM + 0x3000))));
        // The guest has its own RAM at this address.
        assert_eq!(
            of(0x100_0000, &mut pool()),
            Err(Error::Guest(disk, Hpa(0x100_0000)))
        );
        // Registers.
        let bar = topology().find(disk).unwrap().bars[0]
            .unwrap()
            .host
            .unwrap();
        assert_eq!(of(bar.0, &mut pool()), Err(Error::Bar(disk, bar)));
        let mut mmio = pool();
        mmio.take(0xfed9_0000, 0x1000).unwrap();
        let unit = of(0xfed9_0000, &mut mmio);
        assert_eq!(
            unit,
            Err(Error::Taken(disk, MmioError::Overlap(0xfed9_0000)))
        );
        // Another partition has the region.
        assert!(of(FIRST, &mut mmio).is_ok());
        assert_eq!(
            of(FIRST, &mut mmio),
            Err(Error::Taken(disk, MmioError::Overlap(FIRST)))
        );
    }

    #[test]
    fn a_region_is_mapped_as_it_is() {
        let region = Region(span(FIRST, 0x2000));
        assert_eq!(region.piece(0), Some(span(FIRST, 0x2000)));
        assert_eq!(region.piece(0x1000), Some(span(FIRST + 0x1000, 0x1000)));
        assert_eq!(region.piece(0x2000), None);
        assert!(region.writable());
    }
}
