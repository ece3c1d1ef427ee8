//! ACPI tables → [`BootInfo`]. Refuses what it cannot read, and says which table and which byte that is.
//!
//! The binary has the `acpi` crate find the tables and check their checksums; what is in them is read here, field by
//! field, because that crate trusts lengths that firmware wrote. [`parse`] lists the pieces in the order of the structure
//! that it fills; [`iort`] is who translates whose DMA and messages on Arm, [`dmar`] on x86. [`parse_pc`] is the same for
//! x86_64.
//!
//! Sections are those of the ACPI Specification 6.5 unless said otherwise. Windows of host bridges and INTx routes are
//! AML, which is not read: BARs stay where firmware has put them, and functions have messages only.

pub mod dmar;
mod fields;
mod iort;
mod pc;
#[cfg(test)]
mod tests;
pub mod units;

use alloc::format;
use alloc::vec::Vec;
use core::fmt;
use kernel::gather::Gather;

use iommu::addr::{Hpa, Span};
use kernel::boot_info::{BootInfo, Cpu, Gic, Irq, Its, PcieHost, PsciConduit, Timer, Uart};

use fields::Fields;

pub use pc::parse as parse_pc;

/// Affinity fields of `MPIDR_EL1` (DDI 0487, D24.2): Aff3 and Aff2 to Aff0.
const MPIDR_AFFINITY: u64 = 0xff_00ff_ffff;
/// Length of the header of every table (§5.2.6).
const HEADER: usize = 36;
/// Most structures of one table that are looked at.
const MAX_STRUCTURES: usize = 4096;

/// A table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Table {
    /// The root of them.
    Xsdt,
    /// Fixed ACPI Description Table (§5.2.9).
    Fadt,
    /// Multiple APIC Description Table (§5.2.12).
    Madt,
    /// Generic Timer Description Table (§5.2.25).
    Gtdt,
    /// PCI Firmware Specification 3.3, §4.1.2.
    Mcfg,
    /// Serial Port Console Redirection.
    Spcr,
    /// IO Remapping Table (DEN0049).
    Iort,
    /// DMA Remapping Table (VT-d, chapter 8).
    Dmar,
    /// Differentiated System Description Table (§5.2.11.1).
    Dsdt,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Xsdt => "XSDT",
            Self::Fadt => "FADT",
            Self::Madt => "MADT",
            Self::Gtdt => "GTDT",
            Self::Mcfg => "MCFG",
            Self::Spcr => "SPCR",
            Self::Iort => "IORT",
            Self::Dmar => "DMAR",
            Self::Dsdt => "DSDT",
        })
    }
}

/// Why tables are refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AcpiError {
    /// There is no such table, or none whose checksum holds.
    Missing(Table),
    /// A structure or field that is not as it must be; its offset in the table.
    Malformed(Table, usize),
    /// The machine lacks something that nothing runs without.
    NoCpu,
    /// The MADT has no GICv3.
    NoGic,
}

impl fmt::Display for AcpiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(table) => write!(f, "no sound {table}"),
            Self::Malformed(table, at) => write!(f, "{table} is wrong at {at:#x}"),
            Self::NoCpu => f.write_str("MADT has no CPU"),
            Self::NoGic => f.write_str("MADT has no GICv3"),
        }
    }
}

/// The tables that are read; checksums hold.
#[derive(Clone, Copy, Default)]
pub struct Tables<'a> {
    /// Whether there is PSCI.
    pub fadt: Option<&'a [u8]>,
    /// CPUs and interrupt controllers.
    pub madt: Option<&'a [u8]>,
    /// Timers.
    pub gtdt: Option<&'a [u8]>,
    /// Configuration space.
    pub mcfg: Option<&'a [u8]>,
    /// The console.
    pub spcr: Option<&'a [u8]>,
    /// Who translates what.
    pub iort: Option<&'a [u8]>,
    /// AML, of which one name is looked for.
    pub dsdt: Option<&'a [u8]>,
    /// Who translates what, on x86.
    pub dmar: Option<&'a [u8]>,
}

/// The whole machine but its memory, which is not in ACPI.
pub fn parse(tables: &Tables<'_>) -> Result<BootInfo, AcpiError> {
    let of = |table, bytes: Option<_>| match bytes {
        Some(bytes) => Ok(Fields::new(table, bytes)),
        None => Err(AcpiError::Missing(table)),
    };
    let madt = of(Table::Madt, tables.madt)?;
    let iort = match tables.iort {
        Some(bytes) => iort::read(Fields::new(Table::Iort, bytes))?,
        None => iort::Iort::default(),
    };
    let (cpus, gic) = interrupts(madt)?;
    let mut info = BootInfo {
        model: format!("{} {} (ACPI)", madt.text(10, 6), madt.text(16, 8)),
        psci: psci(of(Table::Fadt, tables.fadt)?)?,
        cpus,
        gic: Some(gic),
        timer: Some(timer(of(Table::Gtdt, tables.gtdt)?)?),
        ..BootInfo::default()
    };
    if let Some(bytes) = tables.spcr {
        info.uart = uart(Fields::new(Table::Spcr, bytes))?;
    }
    if let Some(bytes) = tables.mcfg {
        info.pcie = hosts(Fields::new(Table::Mcfg, bytes), &iort)?;
    }
    info.smmus = iort.smmus;
    Ok(info)
}

/// §5.2.9.4: ARM_BOOT_ARCH at 129: PSCI is there, and reached by HVC.
fn psci(fadt: Fields<'_>) -> Result<Option<PsciConduit>, AcpiError> {
    Ok(match fadt.u16(129)? & 3 {
        1 => Some(PsciConduit::Smc),
        3 => Some(PsciConduit::Hvc),
        _ => None,
    })
}

/// §5.2.12.14 to §5.2.12.18.
fn interrupts(madt: Fields<'_>) -> Result<(Vec<Cpu>, Gic), AcpiError> {
    let mut cpus: Vec<Cpu> = Vec::new();
    let mut distributor = None;
    let mut redistributors = Vec::new();
    let mut own_frames = Vec::new();
    let mut maintenance = None;
    let mut its: Vec<Its> = Vec::new();
    let mut at = HEADER + 8;
    for _ in 0..MAX_STRUCTURES {
        if at >= madt.len() {
            break;
        }
        let len = usize::from(madt.u8(at + 1)?);
        if len < 2 {
            return Err(madt.bad(at));
        }
        let entry = madt.part(at, len)?;
        at += len;
        let frame = |offset, len| span(&entry, entry.u64(offset)?, len, offset);
        match entry.u8(0)? {
            // GICC
            0xb => {
                let flags = entry.u32(12)?;
                if flags & 1 == 0 {
                    continue;
                }
                let mpidr = entry.u64(68)?;
                if mpidr & !MPIDR_AFFINITY != 0 || cpus.iter().any(|cpu| cpu.id == mpidr) {
                    return Err(entry.bad(68));
                }
                cpus.push(Cpu { id: mpidr });
                let intid = entry.u32(56)?;
                if intid != 0 && maintenance.is_none() {
                    maintenance = Some(Irq {
                        intid,
                        edge: flags & 4 != 0,
                    });
                }
                if entry.u64(60)? != 0 {
                    own_frames.push(frame(60, 0x2_0000)?);
                }
            }
            // GICD. Version 0 has software look at the hardware, which the driver does in any case.
            0xc if matches!(entry.u8(20)?, 0 | 3 | 4) => distributor = Some(frame(8, 0x1_0000)?),
            // GICR
            0xe => redistributors.push(frame(4, u64::from(entry.u32(12)?))?),
            // ITS
            0xf => {
                let phandle = iort::its_name(entry.u32(4)?);
                if its.iter().any(|other| other.phandle == phandle) {
                    return Err(entry.bad(4));
                }
                its.push(Its {
                    registers: frame(8, 0x2_0000)?,
                    phandle,
                });
            }
            _ => {}
        }
    }
    if at < madt.len() {
        return Err(madt.bad(at));
    }
    if cpus.is_empty() {
        return Err(AcpiError::NoCpu);
    }
    if redistributors.is_empty() {
        redistributors = own_frames;
    }
    let distributor = distributor.filter(|_| !redistributors.is_empty());
    let gic = Gic {
        distributor: distributor.ok_or(AcpiError::NoGic)?,
        redistributors,
        maintenance,
        its,
    };
    Ok((cpus, gic))
}

/// §5.2.25: the non-secure EL1, virtual, and EL2 timers; bit 0 of the flags is edge-triggered.
fn timer(gtdt: Fields<'_>) -> Result<Timer, AcpiError> {
    let irq = |offset| -> Result<Irq, AcpiError> {
        match gtdt.u32(offset)? {
            intid @ 16..32 => Ok(Irq {
                intid,
                edge: gtdt.u32(offset + 4)? & 1 != 0,
            }),
            _ => Err(gtdt.bad(offset)),
        }
    };
    Ok(Timer {
        phys: irq(56)?,
        virt: irq(64)?,
        hyp: irq(72)?,
    })
}

/// Microsoft's SPCR specification: interface types 3 (PL011), 0xd and 0xe (its SBSA subset) in memory; interrupt type
/// bit 3: the GIC's.
fn uart(spcr: Fields<'_>) -> Result<Option<Uart>, AcpiError> {
    if !matches!(spcr.u8(36)?, 3 | 0xd | 0xe) || spcr.u8(40)? != 0 || spcr.u64(44)? == 0 {
        return Ok(None);
    }
    let intid = spcr.u32(54)?;
    Ok(Some(Uart {
        registers: span(&spcr, spcr.u64(44)?, 0x1000, 44)?,
        irq: (spcr.u8(52)? & 8 != 0).then_some(Irq { intid, edge: false }),
    }))
}

/// PCI Firmware Specification 3.3, §4.1.2: a base address is that of bus 0, whatever bus the range starts with.
fn hosts(mcfg: Fields<'_>, iort: &iort::Iort) -> Result<Vec<PcieHost>, AcpiError> {
    let mut hosts: Vec<PcieHost> = Vec::new();
    for at in (HEADER + 8..mcfg.len()).step_by(16) {
        let entry = mcfg.part(at, 16)?;
        let (segment, first, last) = (entry.u16(8)?, entry.u8(10)?, entry.u8(11)?);
        let taken = |other: &PcieHost| {
            other.segment == segment && first <= other.buses.1 && other.buses.0 <= last
        };
        if first > last || hosts.iter().any(taken) {
            return Err(entry.bad(10));
        }
        let base = entry.u64(0)?.checked_add(u64::from(first) << 20);
        let len = (u64::from(last - first) + 1) << 20;
        let ecam = span(&entry, base.ok_or(entry.bad(0))?, len, 0)?;
        let complexes = || iort.complexes.iter().filter(|rc| rc.segment == segment);
        hosts.push(PcieHost {
            path: format!("segment {segment}"),
            segment,
            buses: (first, last),
            ecam,
            windows: Vec::new(),
            iommu_map: complexes().flat_map(|rc| rc.iommu_map.clone()).gather(),
            msi_map: complexes().flat_map(|rc| rc.msi_map.clone()).gather(),
            intx: Vec::new(),
            dma_coherent: complexes().all(|rc| rc.coherent),
        });
    }
    Ok(hosts)
}

fn span(fields: &Fields<'_>, base: u64, len: u64, at: usize) -> Result<Span<Hpa>, AcpiError> {
    let span = Span::<Hpa>::new(Hpa(base), len);
    span.filter(|span| span.len != 0).ok_or(fields.bad(at))
}
