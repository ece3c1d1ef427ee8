//! [`Machine`] as bytes: what the bundle holds. Fields follow each other in one order, without names, and one list of
//! them serves both directions.
//!
//! A number or a choice is 8 bytes, little endian. A text is its length and its bytes; a list its length and its
//! elements; what may be absent is 0, or 1 and the value.

use super::{
    Bytes, Device, DeviceAddress, DmaWindow, FaultAction, Identity, Machine, OnFault, Partition,
    PciAddress, ResetPolicy, Sriov, Tables,
};
use alloc::string::String;
use alloc::vec::Vec;

/// One direction: [`Reader`] fills values in, [`Writer`] puts them down.
trait Record {
    /// A number, as it is afterwards; `None` where there is none.
    fn number(&mut self, value: u64) -> Option<u64>;
    /// A text.
    fn text(&mut self, value: &mut String) -> Option<()>;
}

struct Reader<'a>(&'a [u8]);

struct Writer(Vec<u8>);

impl Reader<'_> {
    fn take(&mut self, len: u64) -> Option<&[u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(len).ok()?)?;
        self.0 = rest;
        Some(taken)
    }
}

impl Record for Reader<'_> {
    #[inline(never)]
    fn number(&mut self, _value: u64) -> Option<u64> {
        let (word, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*word))
    }

    fn text(&mut self, value: &mut String) -> Option<()> {
        let len = self.number(0)?;
        let bytes = self.take(len)?;
        *value = core::str::from_utf8(bytes).ok()?.into();
        Some(())
    }
}

impl Record for Writer {
    fn number(&mut self, value: u64) -> Option<u64> {
        self.0.extend_from_slice(&value.to_le_bytes());
        Some(value)
    }

    fn text(&mut self, value: &mut String) -> Option<()> {
        self.number(value.len() as u64)?;
        self.0.extend_from_slice(value.as_bytes());
        Some(())
    }
}

/// The record of `machine`, without what only the host needs.
pub fn write(machine: &Machine) -> Vec<u8> {
    let mut writer = Writer(Vec::new());
    // A writer takes everything.
    let _ = whole(&mut writer, &mut machine.clone());
    writer.0
}

/// The machine that all of `bytes` are the record of.
pub fn read(bytes: &[u8]) -> Option<Machine> {
    let mut reader = Reader(bytes);
    let mut machine = Machine {
        machine: Identity {
            name: String::new(),
            qemu: None,
            board: None,
            sriov: Vec::new(),
        },
        partitions: Vec::new(),
    };
    whole(&mut reader, &mut machine)?;
    reader.0.is_empty().then_some(machine)
}

fn whole<R: Record>(r: &mut R, machine: &mut Machine) -> Option<()> {
    r.text(&mut machine.machine.name)?;
    list(r, &mut machine.machine.sriov, no_vfs, vfs)?;
    list(r, &mut machine.partitions, blank, partition)
}

fn no_vfs() -> Sriov {
    Sriov {
        address: PciAddress::new(0, 0, 0),
        vfs: 0,
    }
}

fn vfs<R: Record>(r: &mut R, sriov: &mut Sriov) -> Option<()> {
    function(r, &mut sriov.address)?;
    small(r, &mut sriov.vfs)
}

fn blank() -> Partition {
    Partition {
        name: String::new(),
        memory: Bytes(0),
        base: None,
        cpus: Vec::new(),
        kernel: None,
        initrd: None,
        cmdline: None,
        payload: None,
        autostart: false,
        viommu: false,
        tables: Tables::DeviceTree,
        restart: false,
        on_fault: OnFault::default(),
        devices: Vec::new(),
        dma_windows: Vec::new(),
    }
}

fn partition<R: Record>(r: &mut R, partition: &mut Partition) -> Option<()> {
    r.text(&mut partition.name)?;
    bytes(r, &mut partition.memory)?;
    option(r, &mut partition.base, Bytes::default, bytes)?;
    list(r, &mut partition.cpus, u16::default, small)?;
    for file in [
        &mut partition.kernel,
        &mut partition.initrd,
        &mut partition.cmdline,
        &mut partition.payload,
    ] {
        option(r, file, String::new, R::text)?;
    }
    for yes in [
        &mut partition.autostart,
        &mut partition.viommu,
        &mut partition.restart,
    ] {
        *yes = one_of(r, *yes, [false, true])?;
    }
    let tables = [Tables::DeviceTree, Tables::Acpi];
    partition.tables = one_of(r, partition.tables, tables)?;
    let on_fault = &mut partition.on_fault;
    on_fault.action = one_of(
        r,
        on_fault.action,
        [
            FaultAction::Log,
            FaultAction::AbortStream,
            FaultAction::Stop,
            FaultAction::Restart,
        ],
    )?;
    small(r, &mut on_fault.threshold)?;
    list(r, &mut partition.devices, no_device, device)?;
    list(r, &mut partition.dma_windows, no_window, window)
}

fn no_device() -> Device {
    Device {
        address: DeviceAddress::Path(String::new()),
        guest: None,
        reset: ResetPolicy::Required,
        dma: false,
        manages_vfs: false,
        ats: false,
        reserved_memory: false,
    }
}

fn device<R: Record>(r: &mut R, device: &mut Device) -> Option<()> {
    let is_path = matches!(device.address, DeviceAddress::Path(_));
    if one_of(r, is_path, [false, true])? != is_path {
        device.address = DeviceAddress::Pci(PciAddress::new(0, 0, 0));
    }
    match &mut device.address {
        DeviceAddress::Path(path) => r.text(path)?,
        DeviceAddress::Pci(at) => function(r, at)?,
    }
    option(r, &mut device.guest, || PciAddress::new(0, 0, 0), function)?;
    let policies = [ResetPolicy::Required, ResetPolicy::BestEffort];
    device.reset = one_of(r, device.reset, policies)?;
    for yes in [
        &mut device.dma,
        &mut device.manages_vfs,
        &mut device.ats,
        &mut device.reserved_memory,
    ] {
        *yes = one_of(r, *yes, [false, true])?;
    }
    Some(())
}

fn no_window() -> DmaWindow {
    DmaWindow {
        base: Bytes(0),
        size: Bytes(0),
    }
}

fn window<R: Record>(r: &mut R, window: &mut DmaWindow) -> Option<()> {
    bytes(r, &mut window.base)?;
    bytes(r, &mut window.size)
}

fn function<R: Record>(r: &mut R, at: &mut PciAddress) -> Option<()> {
    let word = u32::from(at.segment) << 16 | u32::from(at.requester_id());
    let word = u32::try_from(r.number(word.into())?).ok()?;
    *at = PciAddress::from_requester_id((word >> 16) as u16, word as u16);
    Some(())
}

fn bytes<R: Record>(r: &mut R, value: &mut Bytes) -> Option<()> {
    value.0 = r.number(value.0)?;
    Some(())
}

fn small<R: Record, T: Copy + Into<u64> + TryFrom<u64>>(r: &mut R, value: &mut T) -> Option<()> {
    *value = r.number((*value).into())?.try_into().ok()?;
    Some(())
}

/// Which of `all` it is.
fn one_of<R: Record, T: Copy + PartialEq, const N: usize>(
    r: &mut R,
    value: T,
    all: [T; N],
) -> Option<T> {
    let index = all.iter().position(|other| *other == value)?;
    let index = r.number(index as u64)?;
    all.get(usize::try_from(index).ok()?).copied()
}

fn option<R: Record, T>(
    r: &mut R,
    value: &mut Option<T>,
    blank: fn() -> T,
    each: fn(&mut R, &mut T) -> Option<()>,
) -> Option<()> {
    if !one_of(r, value.is_some(), [false, true])? {
        *value = None;
        return Some(());
    }
    each(r, value.get_or_insert_with(blank))
}

fn list<R: Record, T>(
    r: &mut R,
    values: &mut Vec<T>,
    blank: fn() -> T,
    each: fn(&mut R, &mut T) -> Option<()>,
) -> Option<()> {
    let len = r.number(values.len() as u64)?;
    for index in 0..len as usize {
        if index == values.len() {
            values.push(blank());
        }
        each(r, &mut values[index])?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn machine() -> Machine {
        let mut full = Partition {
            memory: Bytes(32 << 20),
            base: Some(Bytes(0x8000_0000)),
            cpus: vec![1, u16::MAX],
            kernel: Some("k".into()),
            cmdline: Some("quiet".into()),
            autostart: true,
            tables: Tables::Acpi,
            restart: true,
            on_fault: OnFault {
                action: FaultAction::Restart,
                threshold: u32::MAX,
            },
            ..blank()
        };
        full.devices.push(Device {
            address: DeviceAddress::Pci("ffff:ff:1f.7".parse().unwrap()),
            guest: Some("00:05.0".parse().unwrap()),
            reset: ResetPolicy::BestEffort,
            dma: true,
            manages_vfs: true,
            ats: true,
            reserved_memory: true,
        });
        full.devices.push(Device {
            address: DeviceAddress::Path("/uart@0".into()),
            ..no_device()
        });
        full.dma_windows.push(DmaWindow {
            base: Bytes(u64::MAX),
            size: Bytes(1),
        });
        Machine {
            machine: Identity {
                name: "m".into(),
                qemu: None,
                board: None,
                sriov: vec![Sriov {
                    address: "00:02.0".parse().unwrap(),
                    vfs: 7,
                }],
            },
            partitions: vec![full, blank()],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = write(&machine());
        assert_eq!(bytes[..9], [1, 0, 0, 0, 0, 0, 0, 0, b'm']);
        assert_eq!(read(&bytes), Some(machine()));
    }

    #[test]
    fn every_truncation_and_what_is_left_over_are_refused() {
        let mut bytes = write(&machine());
        for len in 0..bytes.len() {
            assert_eq!(read(&bytes[..len]), None, "{len} bytes");
        }
        bytes.push(0);
        assert_eq!(read(&bytes), None);
    }

    #[test]
    fn no_byte_makes_a_record_that_is_written_otherwise() {
        let good = write(&machine());
        let mut refused = 0;
        for at in 0..good.len() {
            for byte in [0, 1, 2, 0x7f, 0x80, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = byte;
                match read(&bytes) {
                    Some(machine) => assert_eq!(write(&machine), bytes, "byte {at}"),
                    None => refused += 1,
                }
            }
        }
        assert!(refused > good.len(), "{refused} refused");
    }
}
