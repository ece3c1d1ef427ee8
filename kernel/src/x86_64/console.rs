//! The interrupt of the console's UART: from an input of an I/O APIC, through the unit that remaps what that sends, to one CPU.

use super::irq::UART;
use crate::boot_info::{BootInfo, DeviceScope, IoApic as Described, ScopeKind};
use crate::gate::Gate;
use arch::mmio::{MmioError, MmioPool};
use arch::x86_64::ioapic::{IoApic, Wire};
use core::fmt;
use iommu::id::IommuIndex;
use iommu::physical::IommuError;
use iommu::vtd::interrupt_remap::{Route, Source, io_apic_entry};

/// COM1 on the ISA bus.
const COM1: u8 = 4;

/// Why there is no input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// No I/O APIC has the input.
    NoIoApic(u32),
    /// Its registers cannot be had.
    Registers(MmioError),
    /// The CPU's local APIC ID has more than eight bits, and no unit remaps the interrupt.
    Cpu(u32),
    /// What it comes through is a unit that is not used.
    Unused,
    /// The unit's reason.
    Unit(IommuError),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoIoApic(input) => write!(f, "no I/O APIC has input {input}"),
            Self::Registers(error) => write!(f, "I/O APIC: {error}"),
            Self::Cpu(id) => write!(f, "local APIC {id:#x} is out of the I/O APIC's reach"),
            Self::Unused => f.write_str("its VT-d unit is not used"),
            Self::Unit(error) => write!(f, "VT-d: {error}"),
        }
    }
}

/// Has the UART's interrupt come to the CPU with local APIC ID `cpu`, as [`UART`].
///
/// # Errors
/// See [`Error`].
pub fn listen(info: &BootInfo, gate: &Gate, mmio: &mut MmioPool, cpu: u32) -> Result<(), Error> {
    let mut moved = info.isa_interrupts.iter();
    let (input, wire) = match moved.find(|moved| moved.isa == COM1) {
        Some(moved) => {
            let wire = Wire {
                edge: moved.edge,
                low: moved.low,
            };
            (moved.input, wire)
        }
        // As on every ISA bus (ACPI 6.5, 5.2.12.5).
        None => {
            let wire = Wire {
                edge: true,
                low: false,
            };
            (COM1.into(), wire)
        }
    };
    let before = info.io_apics.iter().filter(|at| at.first <= input);
    let described = before.max_by_key(|at| at.first);
    let described = described.ok_or(Error::NoIoApic(input))?;
    let registers = mmio.take(described.registers.base.0, described.registers.len);
    let mut io_apic = IoApic::new(registers.map_err(Error::Registers)?);
    let pin = input - described.first;
    if pin >= io_apic.inputs() {
        return Err(Error::NoIoApic(input));
    }
    match remapped_by(info, gate, described)? {
        Some((unit, requester)) => {
            let mut physical = gate.unit(unit).iommu.physical().lock();
            let index = physical.take_interrupts(1).map_err(Error::Unit)?;
            let route = Route {
                destination: cpu,
                vector: UART,
                level: !wire.edge,
                source: Source::Requester {
                    id: requester,
                    phantom: 0,
                },
            };
            physical
                .route_interrupt(index, &route)
                .map_err(Error::Unit)?;
            io_apic.route_remapped(pin, wire, io_apic_entry(index), UART);
        }
        None => {
            // 255 is everybody.
            let id = u8::try_from(cpu).ok().filter(|&id| id != u8::MAX);
            io_apic.route(pin, wire, id.ok_or(Error::Cpu(cpu))?, UART);
        }
    }
    Ok(())
}

/// The unit that remaps interrupts of this I/O APIC, and the identity that they carry (VT-d, 8.3.1).
///
/// # Errors
/// The unit is not used, and may block them.
fn remapped_by(
    info: &BootInfo,
    gate: &Gate,
    io_apic: &Described,
) -> Result<Option<(IommuIndex, u16)>, Error> {
    for (place, vtd) in info.dmar.vtds.iter().enumerate() {
        let mut scopes = vtd.scopes.iter();
        let is_it = |it: &&DeviceScope| it.kind == ScopeKind::IoApic && it.id == io_apic.id;
        let Some(scope) = scopes.find(is_it) else {
            continue;
        };
        let unit = gate.iommu(place as u32).ok_or(Error::Unused)?;
        let physical = gate.unit(unit).iommu.physical().lock();
        if physical.layout().interrupts.is_none() {
            continue;
        }
        let buses = |bridge| {
            let buses = gate.topology.buses_of(vtd.segment, bridge)?;
            Some(buses.secondary)
        };
        if let Some(requester) = scope.requester(buses) {
            return Ok(Some((unit, requester)));
        }
    }
    Ok(None)
}
