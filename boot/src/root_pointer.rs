//! From ACPI's root pointer to the tables. The `acpi` crate finds them and checks their checksums.

use core::ptr::NonNull;

use acpi::sdt::{SdtHeader, Signature};
use acpi::{AcpiHandler, AcpiTable, AcpiTables, PhysicalMapping};

use boot::acpi_tables::{AcpiError, Table, Tables};

/// Memory where the CPU finds every table at its own address.
#[derive(Clone, Copy)]
struct Identity;

impl AcpiHandler for Identity {
    unsafe fn map_physical_region<T>(&self, base: usize, size: usize) -> PhysicalMapping<Self, T> {
        let pointer = NonNull::new(core::ptr::with_exposed_provenance_mut(base));
        // A null pointer in a table: nothing is read through it but what a fault reports.
        let pointer = pointer.unwrap_or(NonNull::dangling());
        // SAFETY: `find`'s caller has it mapped, at its own address, for as long as anybody looks.
        unsafe { PhysicalMapping::new(base, pointer, size, size, *self) }
    }

    fn unmap_physical_region<T>(_region: &PhysicalMapping<Self, T>) {}
}

macro_rules! tables {
    ($($name:ident = $signature:ident;)*) => { $(
        #[repr(transparent)]
        struct $name(SdtHeader);

        // SAFETY: no more than the header, which every table has; `find` takes the length from it.
        unsafe impl AcpiTable for $name {
            const SIGNATURE: Signature = Signature::$signature;

            fn header(&self) -> &SdtHeader {
                &self.0
            }
        }
    )* };
}

tables! {
    Fadt = FADT;
    Madt = MADT;
    Gtdt = GTDT;
    Mcfg = MCFG;
    Spcr = SPCR;
    Iort = IORT;
    Dmar = DMAR;
}

/// The tables that the root pointer at `rsdp` leads to.
///
/// # Safety
/// Firmware's tables are mapped at their own addresses and stay as they are for `'a`.
pub unsafe fn find<'a>(rsdp: usize) -> Result<Tables<'a>, AcpiError> {
    // SAFETY: the caller's promise.
    let tables = unsafe { AcpiTables::from_rsdp(Identity, rsdp) };
    let tables = tables.map_err(|_| AcpiError::Missing(Table::Xsdt))?;
    Ok(Tables {
        fadt: bytes::<Fadt>(&tables),
        madt: bytes::<Madt>(&tables),
        gtdt: bytes::<Gtdt>(&tables),
        mcfg: bytes::<Mcfg>(&tables),
        spcr: bytes::<Spcr>(&tables),
        iort: bytes::<Iort>(&tables),
        dsdt: dsdt(&tables),
        dmar: bytes::<Dmar>(&tables),
    })
}

/// The crate gives its contents only.
fn dsdt<'a>(tables: &AcpiTables<Identity>) -> Option<&'a [u8]> {
    if !cfg!(any(target_arch = "x86_64", test)) {
        return None;
    }
    let table = tables.dsdt().ok()?;
    let start: *const u8 = core::ptr::with_exposed_provenance(table.address);
    // SAFETY: `find`'s caller has the whole table mapped.
    Some(unsafe { core::slice::from_raw_parts(start, table.length as usize) })
}

fn bytes<'a, T: AcpiTable>(tables: &AcpiTables<Identity>) -> Option<&'a [u8]> {
    let table = tables.find_table::<T>().ok()?;
    let len = table.region_length().max(size_of::<SdtHeader>());
    // SAFETY: `find`'s caller has the whole table mapped; its checksum over `len` bytes was just read.
    Some(unsafe { core::slice::from_raw_parts(table.virtual_start().cast().as_ptr(), len) })
}

#[cfg(test)]
mod tests {
    use super::find;

    fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let mut bytes = signature.to_vec();
        bytes.extend_from_slice(&(36 + body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(b"\x01\0SLUICEMACHINE ");
        bytes.resize(36, 0);
        bytes.extend_from_slice(body);
        bytes[9] = sum(&bytes).wrapping_neg();
        bytes
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    fn address(bytes: &[u8]) -> [u8; 8] {
        (bytes.as_ptr().expose_provenance() as u64).to_le_bytes()
    }

    /// A table whose checksum does not hold is not there.
    #[test]
    fn sound_tables_are_found_at_their_own_addresses() {
        let madt = table(b"APIC", &[7; 20]);
        let mut mcfg = table(b"MCFG", &[7; 24]);
        mcfg[9] ^= 1;
        let xsdt = table(b"XSDT", &[address(&madt), address(&mcfg)].concat());
        let mut rsdp = b"RSD PTR \0SLUICE\x02".to_vec();
        rsdp.extend_from_slice(&[0, 0, 0, 0, 36, 0, 0, 0]);
        rsdp.extend_from_slice(&address(&xsdt));
        rsdp.resize(36, 0);
        rsdp[8] = sum(&rsdp[..20]).wrapping_neg();
        rsdp[32] = sum(&rsdp).wrapping_neg();
        // SAFETY: all of them live to the end, and are not written.
        let tables = unsafe { find(rsdp.as_ptr().expose_provenance()) }.unwrap();
        assert_eq!(tables.madt, Some(&madt[..]));
        assert!(tables.mcfg.is_none() && tables.iort.is_none());
        rsdp[0] = b'X';
        // SAFETY: as above.
        assert!(unsafe { find(rsdp.as_ptr().expose_provenance()) }.is_err());
    }
}
