//! ACPI tables of an x86_64 machine → [`BootInfo`].

use alloc::format;

use kernel::boot_info::{BootInfo, Cpu, FixedHardware, IoApic, IsaInterrupt};

use super::fields::Fields;
use super::{AcpiError, HEADER, MAX_STRUCTURES, Table, Tables, dmar, hosts, iort, span};

/// Size of an I/O APIC's registers that is given out: a page, of which the last used byte is at 0x43.
const IO_APIC: u64 = 0x1000;

/// The whole machine but its memory, which is not in ACPI.
///
/// # Errors
/// Tables that are missing or cannot be read.
pub fn parse(tables: &Tables<'_>) -> Result<BootInfo, AcpiError> {
    let madt = tables.madt.ok_or(AcpiError::Missing(Table::Madt))?;
    let madt = Fields::new(Table::Madt, madt);
    let mut info = BootInfo {
        model: format!("{} {} (ACPI)", madt.text(10, 6), madt.text(16, 8)),
        ..BootInfo::default()
    };
    interrupts(madt, &mut info)?;
    if let Some(bytes) = tables.fadt {
        let soft_off = tables.dsdt.and_then(soft_off);
        info.fixed = Some(fixed(Fields::new(Table::Fadt, bytes), soft_off)?);
    }
    if let Some(bytes) = tables.dmar {
        info.dmar = dmar::read(bytes)?;
    }
    if let Some(bytes) = tables.mcfg {
        info.pcie = hosts(Fields::new(Table::Mcfg, bytes), &iort::Iort::default())?;
    }
    Ok(info)
}

/// §5.2.12.2, 5.2.12.3, 5.2.12.5 and 5.2.12.12: CPUs that are enabled, I/O APICs, and what moves ISA interrupts.
fn interrupts(madt: Fields<'_>, info: &mut BootInfo) -> Result<(), AcpiError> {
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
        match entry.u8(0)? {
            // Local APIC
            0 if entry.u32(4)? & 1 != 0 => add_cpu(info, &entry, entry.u8(3)?.into(), 3)?,
            // I/O APIC
            1 => {
                let io_apic = IoApic {
                    id: entry.u8(2)?,
                    registers: span(&entry, entry.u32(4)?.into(), IO_APIC, 4)?,
                    first: entry.u32(8)?,
                };
                let same = |other: &IoApic| {
                    other.id == io_apic.id
                        || other.first == io_apic.first
                        || other.registers.overlaps(&io_apic.registers)
                };
                if info.io_apics.iter().any(same) {
                    return Err(entry.bad(2));
                }
                info.io_apics.push(io_apic);
            }
            // Interrupt source override; "conforms to the bus" is edge and high on ISA (MPS INTI flags, table 5.26).
            2 => {
                let isa = entry.u8(3)?;
                if entry.u8(2)? != 0 || info.isa_interrupts.iter().any(|other| other.isa == isa) {
                    return Err(entry.bad(2));
                }
                let flags = entry.u16(8)?;
                info.isa_interrupts.push(IsaInterrupt {
                    isa,
                    input: entry.u32(4)?,
                    edge: flags >> 2 & 3 != 3,
                    low: flags & 3 == 3,
                });
            }
            // Local x2APIC
            9 if entry.u32(8)? & 1 != 0 => add_cpu(info, &entry, entry.u32(4)?, 4)?,
            _ => {}
        }
    }
    if at != madt.len().max(HEADER + 8) {
        return Err(madt.bad(at));
    }
    match info.cpus.is_empty() {
        true => Err(AcpiError::NoCpu),
        false => Ok(()),
    }
}

fn add_cpu(info: &mut BootInfo, entry: &Fields<'_>, id: u32, at: usize) -> Result<(), AcpiError> {
    let cpu = Cpu { id: id.into() };
    if info.cpus.contains(&cpu) {
        return Err(entry.bad(at));
    }
    info.cpus.push(cpu);
    Ok(())
}

/// §5.2.9: blocks are ports where they are below 64 KiB; what a table of an older revision lacks is not there.
fn fixed(fadt: Fields<'_>, soft_off: Option<[u8; 2]>) -> Result<FixedHardware, AcpiError> {
    let port = |at: usize| -> Result<u16, AcpiError> {
        Ok(u16::try_from(fadt.u32(at)?).unwrap_or_default())
    };
    // PM_TMR_LEN says whether there is one; RESET_REG_SUP and an address space of ports.
    let timer = Some(port(76)?).filter(|&timer| timer != 0 && fadt.u8(91) == Ok(4));
    // IAPC_BOOT_ARCH (§5.2.9.3), which was reserved once.
    const NO_CMOS_RTC: u16 = 1 << 5;
    let rtc = fadt.len() < 111 || fadt.u16(109)? & NO_CMOS_RTC == 0;
    let mut reset = None;
    if fadt.len() > 128 && fadt.u32(112)? & 1 << 10 != 0 && fadt.u8(116)? == 1 {
        let register = u16::try_from(fadt.u64(120)?).ok();
        reset = register.zip(Some(fadt.u8(128)?));
    }
    Ok(FixedHardware {
        timer,
        control: [port(64)?, port(68)?],
        soft_off,
        reset,
        rtc,
    })
}

/// `SLP_TYPa` and `SLP_TYPb` of the package `\_S5` (§7.4.2.6), where it is written as constants: `NameOp`, the name,
/// `PackageOp`, its length, how many elements, and these (§20.2.2 to 20.2.5).
fn soft_off(aml: &[u8]) -> Option<[u8; 2]> {
    let mut names = aml.windows(5).enumerate();
    let (at, _) = names.find(|(at, window)| {
        let root = at.checked_sub(1).and_then(|before| aml.get(before));
        window[1..] == *b"_S5_" && (window[0] == 8 || (window[0] == b'\\' && root == Some(&8)))
    })?;
    let rest = aml.get(at + 5..)?;
    let (&operation, rest) = rest.split_first()?;
    let (&length, rest) = rest.split_first()?;
    if operation != 0x12 {
        return None;
    }
    // The first byte of the length says how many follow.
    let rest = rest.get(usize::from(length >> 6)..)?;
    let (&elements, mut rest) = rest.split_first()?;
    let mut types = [0; 2];
    for value in types.iter_mut().take(elements.into()) {
        (*value, rest) = match *rest {
            [constant @ (0 | 1), ref rest @ ..] => (constant, rest),
            [0xa, constant, ref rest @ ..] => (constant, rest),
            _ => return None,
        };
    }
    (elements != 0).then_some(types)
}

#[cfg(test)]
mod tests {
    use super::{parse, soft_off};
    use crate::acpi_tables::{AcpiError, Table, Tables};
    use iommu::addr::Hpa;
    use kernel::boot_info::{Cpu, IsaInterrupt};

    fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let mut bytes = signature.to_vec();
        bytes.extend_from_slice(&(36 + body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(b"\x03\0BOCHS BXPC    ");
        bytes.resize(36, 0);
        bytes.extend_from_slice(body);
        bytes
    }

    /// As QEMU's q35 describes two CPUs, one that is off, one with a long name; its I/O APIC and timer.
    fn madt() -> Vec<u8> {
        let parts: [&[u8]; 8] = [
            &[0, 0, 0xe0, 0xfe, 1, 0, 0, 0],
            &[0, 8, 0, 0, 1, 0, 0, 0],
            &[0, 8, 1, 1, 1, 0, 0, 0],
            &[0, 8, 2, 2, 0, 0, 0, 0],
            &[9, 16, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0],
            &[1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0],
            &[2, 10, 0, 0, 2, 0, 0, 0, 0, 0],
            &[2, 10, 0, 9, 9, 0, 0, 0, 0xd, 0],
        ];
        table(b"APIC", &parts.concat())
    }

    fn fadt() -> Vec<u8> {
        let mut bytes = table(b"FACP", &[0; 208]);
        bytes[64..66].copy_from_slice(&0x604u16.to_le_bytes());
        bytes[76..78].copy_from_slice(&0x608u16.to_le_bytes());
        bytes[91] = 4;
        bytes[112..116].copy_from_slice(&0x84a5u32.to_le_bytes());
        bytes[116..120].copy_from_slice(&[1, 8, 0, 0]);
        bytes[120..122].copy_from_slice(&0xcf9u16.to_le_bytes());
        bytes[128] = 0xf;
        bytes
    }

    #[test]
    fn every_part_of_the_machine_is_found() {
        let (madt, fadt) = (madt(), fadt());
        let dsdt = table(b"DSDT", b"\x10\x08_S5_\x12\x06\x04\x0a\x05\x01\0\0");
        let mut mcfg = vec![0; 8];
        mcfg.extend_from_slice(&[0, 0, 0, 0xb0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0, 0, 0, 0]);
        let mcfg = table(b"MCFG", &mcfg);
        let info = parse(&Tables {
            madt: Some(&madt),
            fadt: Some(&fadt),
            mcfg: Some(&mcfg),
            dsdt: Some(&dsdt),
            ..Tables::default()
        })
        .unwrap();
        assert_eq!(info.model, "BOCHS BXPC (ACPI)");
        assert_eq!(info.cpus, [0, 1, 0x100].map(|id| Cpu { id }));
        let [io_apic] = info.io_apics[..] else {
            panic!("{:?}", info.io_apics)
        };
        assert_eq!((io_apic.id, io_apic.first), (0, 0));
        assert_eq!(io_apic.registers.base, Hpa(0xfec0_0000));
        let timer = IsaInterrupt {
            isa: 0,
            input: 2,
            edge: true,
            low: false,
        };
        let acpi = IsaInterrupt {
            isa: 9,
            input: 9,
            edge: false,
            low: false,
        };
        assert_eq!(info.isa_interrupts, [timer, acpi]);
        let fixed = info.fixed.unwrap();
        assert_eq!((fixed.timer, fixed.control), (Some(0x608), [0x604, 0]));
        assert_eq!(fixed.soft_off, Some([5, 1]));
        assert_eq!(fixed.reset, Some((0xcf9, 0xf)));
        let [host] = &info.pcie[..] else {
            panic!("{:?}", info.pcie)
        };
        assert_eq!((host.ecam.base, host.buses), (Hpa(0xb000_0000), (0, 255)));
    }

    #[test]
    fn every_truncation_is_refused_or_read() {
        let (madt, fadt) = (madt(), fadt());
        let mut refused = 0;
        for len in 0..madt.len() {
            let madt = Some(&madt[..len]);
            let read = parse(&Tables {
                madt,
                ..Tables::default()
            });
            refused += usize::from(read.is_err());
        }
        // Whole structures and one CPU at least are a machine.
        assert_eq!(refused, madt.len() - 6);
        for len in 0..fadt.len() {
            let fadt = Some(&fadt[..len]);
            let read = parse(&Tables {
                madt: Some(&madt),
                fadt,
                ..Tables::default()
            });
            assert_eq!(read.is_err(), len < 80, "{len}");
        }
    }

    #[test]
    fn no_byte_can_stop_us() {
        let (madt, fadt) = (madt(), fadt());
        for value in [0, 1, 0x7f, 0xff] {
            for at in 0..madt.len() {
                let mut broken = madt.clone();
                broken[at] = value;
                let _ = parse(&Tables {
                    madt: Some(&broken),
                    fadt: Some(&fadt),
                    ..Tables::default()
                });
            }
        }
    }

    #[test]
    fn a_cpu_or_io_apic_that_is_there_twice_is_refused() {
        for again in [44..52, 84..96] {
            let mut bytes = madt();
            let copy = bytes[again].to_vec();
            bytes.extend_from_slice(&copy);
            let read = parse(&Tables {
                madt: Some(&bytes),
                ..Tables::default()
            });
            assert!(matches!(read, Err(AcpiError::Malformed(Table::Madt, _))));
        }
        assert_eq!(
            parse(&Tables::default()),
            Err(AcpiError::Missing(Table::Madt))
        );
    }

    #[test]
    fn soft_off_is_a_package_of_constants_or_nothing() {
        assert_eq!(
            soft_off(b"\x08\\_S5_\x12\x0a\x04\x0a\x07\x0a\x07\0\0"),
            Some([7, 7])
        );
        assert_eq!(soft_off(b"\x08_S5_\x12\x40\x01\x01\x01"), Some([1, 0]));
        let whole = b"\x08_S5_\x12\x06\x04\x0a\x05\x01\0\0";
        for len in 0..11 {
            assert_eq!(soft_off(&whole[..len]), None);
        }
        // A reference, no name, no package, none in it.
        assert_eq!(soft_off(b"\x08_S5_\x12\x06\x04\x0c\x05\0\0\0\0"), None);
        assert_eq!(soft_off(b"\x07_S5_\x12\x06\x04\x0a\x05\x01\0\0"), None);
        assert_eq!(soft_off(b"\x08_S5_\x11\x06\x04\x0a\x05\x01\0\0"), None);
        assert_eq!(soft_off(b"\x08_S5_\x12\x02\0\0\0\0\0"), None);
    }
}
