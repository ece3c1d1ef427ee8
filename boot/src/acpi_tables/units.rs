//! The first look at a DMAR table, for the registers of the VT-d units alone, and without a heap: nothing is read in
//! memory that a device may still write. [`dmar`](super::dmar) reads the rest later, and has to find the same.

use kernel::boot_info::Vtd;

use super::fields::Fields;
use super::{AcpiError, HEADER, MAX_STRUCTURES, Table};

/// Most units of a machine.
const MOST: usize = 32;

/// Where the units' registers are.
#[derive(Clone, Copy, Default, Debug)]
pub struct Units {
    bases: [u64; MOST],
    count: usize,
    /// The platform supports interrupt remapping (8.1, Flags).
    pub interrupt_remapping: bool,
}

impl Units {
    /// The bases of their registers, in the order of the table.
    pub fn registers(&self) -> &[u64] {
        &self.bases[..self.count]
    }

    /// Whether they are `vtds`.
    pub fn are(&self, vtds: &[Vtd]) -> bool {
        let bases = vtds.iter().map(|unit| unit.registers.base.0);
        bases.eq(self.registers().iter().copied())
    }
}

/// Finds them (VT-d, 8.1 and 8.3).
///
/// # Errors
/// A structure that is not whole, or more units than there is room for.
pub fn find(table: &[u8]) -> Result<Units, AcpiError> {
    let table = Fields::new(Table::Dmar, table);
    let mut units = Units {
        interrupt_remapping: table.u8(HEADER + 1)? & 1 != 0,
        ..Units::default()
    };
    let mut at = HEADER + 12;
    for _ in 0..MAX_STRUCTURES {
        if at >= table.len() {
            return Ok(units);
        }
        let len = usize::from(table.u16(at + 2)?);
        if len < 4 {
            return Err(table.bad(at + 2));
        }
        let entry = table.part(at, len)?;
        if entry.u16(0)? == 0 {
            let base = entry.u64(8)?;
            *units.bases.get_mut(units.count).ok_or(table.bad(at))? = base;
            units.count += 1;
        }
        at += len;
    }
    Err(table.bad(at))
}
