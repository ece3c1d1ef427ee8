//! The DMA Remapping Table (Intel VT-d, chapter 8): units, whose DMA each one translates, and memory that devices go on to
//! use for firmware.
//!
//! Nothing in it points back, so there is no loop to fall into: a device is a path of bridges from a bus, no longer than
//! its structure. What two units claim is refused, as it would be nobody's.

use alloc::vec::Vec;

use iommu::addr::{Hpa, Span};
use kernel::boot_info::{AtsDevices, AtsPorts, DeviceScope, Dmar, ReservedDma, ScopeKind, Vtd};

use super::fields::Fields;
use super::{AcpiError, HEADER, MAX_STRUCTURES, Table};

/// Types of structures (8.2); others are skipped, as the document asks (8.2, "Reserved").
const DRHD: u16 = 0;
const RMRR: u16 = 1;
const ATSR: u16 = 2;
const RHSA: u16 = 3;
const ANDD: u16 = 4;
const SATC: u16 = 5;

/// Offset of the first structure (8.1).
const FIRST: usize = HEADER + 12;
/// Pages of registers are at most 2^9 (8.3): 2 MiB.
const MAX_SIZE: u8 = 9;
/// A page.
const PAGE: u64 = 4096;

/// Reads the whole table.
///
/// # Errors
/// [`AcpiError::Malformed`], with the offset of what is wrong.
pub fn read(bytes: &[u8]) -> Result<Dmar, AcpiError> {
    let table = Fields::new(Table::Dmar, bytes);
    let flags = table.u8(HEADER + 1)?;
    let mut dmar = Dmar {
        address_bits: match table.u8(HEADER)? {
            less_one @ 0..64 => less_one + 1,
            _ => return Err(table.bad(HEADER)),
        },
        interrupt_remapping: flags & 1 != 0,
        xapic_only: flags & 2 != 0,
        dma_opt_in: flags & 4 != 0,
        ..Dmar::default()
    };
    // A table of another length than its header says is cut.
    if table.u32(4)? as usize != table.len() {
        return Err(table.bad(4));
    }
    let mut nodes: Vec<(Fields<'_>, Hpa, u32)> = Vec::new();
    let mut at = FIRST;
    for _ in 0..MAX_STRUCTURES {
        if at >= table.len() {
            break;
        }
        let len = usize::from(table.u16(at + 2)?);
        if len < 4 {
            return Err(table.bad(at + 2));
        }
        let entry = table.part(at, len)?;
        at += len;
        match entry.u16(0)? {
            DRHD => add_unit(&mut dmar, &entry)?,
            RMRR => dmar.reserved.push(reserved(&entry)?),
            ATSR => {
                let all = entry.u8(4)? & 1 != 0;
                dmar.ats_ports.push(AtsPorts {
                    segment: entry.u16(6)?,
                    all,
                    scopes: scopes(&entry, 8)?,
                });
            }
            RHSA => nodes.push((entry, Hpa(entry.u64(8)?), entry.u32(16)?)),
            // A name for a device that scopes have a number for: nothing of it is used, but it has to be there.
            ANDD => drop(entry.u8(8)?),
            SATC => dmar.ats_devices.push(AtsDevices {
                segment: entry.u16(6)?,
                required: entry.u8(4)? & 1 != 0,
                scopes: scopes(&entry, 8)?,
            }),
            _ => {}
        }
    }
    if at < table.len() {
        return Err(table.bad(at));
    }
    for (entry, base, node) in nodes {
        let unit = dmar.vtds.iter_mut().find(|it| it.registers.base == base);
        let place = &mut unit.ok_or(entry.bad(8))?.proximity;
        if place.replace(node).is_some() {
            return Err(entry.bad(8));
        }
    }
    Ok(dmar)
}

/// 8.3: a DMA remapping hardware unit.
fn add_unit(dmar: &mut Dmar, entry: &Fields<'_>) -> Result<(), AcpiError> {
    let size = entry.u8(5)? & 0xf;
    let base = Hpa(entry.u64(8)?);
    let registers = Span::<Hpa>::new(base, PAGE << size.min(MAX_SIZE));
    let registers = registers.filter(|_| base.0 != 0 && base.is_aligned(PAGE) && size <= MAX_SIZE);
    let unit = Vtd {
        registers: registers.ok_or(entry.bad(8))?,
        segment: entry.u16(6)?,
        scopes: scopes(entry, 16)?,
        include_all: entry.u8(4)? & 1 != 0,
        proximity: None,
    };
    for other in &dmar.vtds {
        let same = |scope: &DeviceScope| other.scopes.contains(scope);
        if other.registers.overlaps(&unit.registers) {
            return Err(entry.bad(8));
        }
        if other.segment == unit.segment {
            if other.include_all && unit.include_all {
                return Err(entry.bad(4));
            }
            if unit.scopes.iter().any(same) {
                return Err(entry.bad(16));
            }
        }
    }
    dmar.vtds.push(unit);
    Ok(())
}

/// 8.4: a reserved memory region.
fn reserved(entry: &Fields<'_>) -> Result<ReservedDma, AcpiError> {
    let (base, limit) = (entry.u64(8)?, entry.u64(16)?);
    // "The address of the last byte", of a page.
    let len = limit.checked_sub(base).and_then(|len| len.checked_add(1));
    let memory = len.and_then(|len| Span::<Hpa>::new(Hpa(base), len));
    let whole = |memory: &Span<Hpa>| (memory.base.0 | memory.len).is_multiple_of(PAGE);
    Ok(ReservedDma {
        segment: entry.u16(6)?,
        memory: memory.filter(whole).ok_or(entry.bad(8))?,
        scopes: scopes(entry, 24)?,
    })
}

/// 8.3.1: the device scopes from `at` to the end of a structure. The same one twice is refused.
fn scopes(entry: &Fields<'_>, mut at: usize) -> Result<Vec<DeviceScope>, AcpiError> {
    let mut scopes = Vec::new();
    if at > entry.len() {
        return Err(entry.bad(2));
    }
    while at < entry.len() {
        let len = usize::from(entry.u8(at + 1)?);
        // A path of one element at least, and of whole ones.
        if len < 8 || len % 2 != 0 {
            return Err(entry.bad(at + 1));
        }
        let scope = entry.part(at, len)?;
        at += len;
        let kind = match scope.u8(0)? {
            1 => ScopeKind::Endpoint,
            2 => ScopeKind::Bridge,
            3 => ScopeKind::IoApic,
            4 => ScopeKind::Hpet,
            5 => ScopeKind::Namespace,
            _ => continue,
        };
        let mut path = Vec::new();
        for element in (6..len).step_by(2) {
            let (device, function) = (scope.u8(element)?, scope.u8(element + 1)?);
            if device > 31 || function > 7 {
                return Err(scope.bad(element));
            }
            path.push((device, function));
        }
        let device = DeviceScope {
            kind,
            id: scope.u8(4)?,
            bus: scope.u8(5)?,
            path,
        };
        if scopes.contains(&device) {
            return Err(scope.bad(0));
        }
        scopes.push(device);
    }
    Ok(scopes)
}
