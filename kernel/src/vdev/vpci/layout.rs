//! What each register of a virtual function allows: one table a capability, and nothing that is not in one.

use crate::pci::capability::{Capabilities, Express, Msi, Msix};
use crate::pci::spec;

/// One 32-bit register, relative to its header or capability.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Offset in bytes, a multiple of four.
    pub offset: u8,
    /// Value after reset.
    pub reset: u32,
    /// Bits that the guest writes.
    pub writable: u32,
    /// Of these, bits that go on to the device.
    pub physical: u32,
    /// Bits that are read from the device while it is attached.
    pub live: u32,
}

const fn row(offset: u8, reset: u32, writable: u32, physical: u32, live: u32) -> Row {
    assert!(physical & !writable == 0 && writable & live == 0);
    Row {
        offset,
        reset,
        writable,
        physical,
        live,
    }
}

/// Command bits of the guest. Memory enable stays virtual: the device decodes as long as it is attached, so that no
/// access of another CPU can meet a device that does not answer.
pub const COMMAND_WRITABLE: u32 =
    (spec::COMMAND_MEMORY | spec::COMMAND_BUS_MASTER | spec::COMMAND_INTX_DISABLE) as u32;
/// Command bits that follow the guest.
pub const COMMAND_PHYSICAL: u32 = (spec::COMMAND_BUS_MASTER | spec::COMMAND_INTX_DISABLE) as u32;

/// The header without IDs and BARs, which are composed.
pub const HEADER: [Row; 3] = [
    // Command and status; the other status bits are write-one-to-clear errors, of no use to a guest.
    row(
        0x04,
        0,
        COMMAND_WRITABLE,
        COMMAND_PHYSICAL,
        (spec::STATUS_INTERRUPT as u32) << 16,
    ),
    // Cache line size and latency timer: without meaning on PCI Express.
    row(0x0c, 0, 0xffff, 0, 0),
    // Interrupt line: scratch for software.
    row(0x3c, 0, 0xff, 0, 0),
];

/// Power management: version 3, no PME, D0 and D3hot only, and no state lost in between.
pub const POWER: [Row; 2] = [
    row(0, 3 << 16, 0, 0, 0),
    row(
        4,
        spec::POWER_NO_SOFT_RESET as u32,
        spec::POWER_STATE as u32,
        0,
        0,
    ),
];

/// PCI Express: a root complex integrated endpoint (type 9), which has no link. The low word of register 8 is device
/// control: payload and read request sizes, ordering and error reporting are kept for the guest and do nothing; phantom
/// functions and auxiliary power cannot be set; bit 15 is taken before it gets here.
pub fn express(express: &Express) -> [Row; 3] {
    /// Max payload size, extended tag, role-based error reporting, function level reset.
    const SHOWN: u32 = 7 | 1 << 5 | 1 << 15 | spec::DEVICE_FLR;
    let version: u32 = if express.size() >= 0x3c { 2 } else { 1 };
    [
        row(0, (9 << 4 | version) << 16, 0, 0, 0),
        row(4, express.device_capabilities & SHOWN, 0, 0, 0),
        // Defaults of §7.5.3.4: relaxed ordering and no snoop on, read requests of 512 bytes.
        row(
            8,
            0x2810,
            0x79ff,
            0,
            (spec::DEVICE_STATUS_PENDING as u32) << 16,
        ),
    ]
}

/// MSI: enable and count, address, data and masks go to the device; its writes then pass the SMMU and the ITS. The
/// register that a layout lacks has an empty row.
pub fn msi(msi: &Msi) -> [Row; 6] {
    let control = msi.vectors.trailing_zeros() << 1
        | if msi.wide { spec::MSI_64 as u32 } else { 0 }
        | if msi.maskable {
            spec::MSI_MASKABLE as u32
        } else {
            0
        };
    let vectors = u32::MAX >> (32 - u32::from(msi.vectors.clamp(1, 32)));
    let through = |offset, bits| row(offset, 0, bits, bits, 0);
    let (upper, data, mask) = if msi.wide { (8, 12, 16) } else { (4, 8, 12) };
    let if_maskable = if msi.maskable { vectors } else { 0 };
    [
        row(0, control << 16, 0x0071_0000, 0x0071_0000, 0),
        through(upper, if msi.wide { !0 } else { 0 }),
        through(4, !3),
        through(data, 0xffff),
        through(mask, if_maskable),
        row(mask + 4, 0, 0, 0, if_maskable),
    ]
}

/// MSI-X: enable and function mask; where the table is does not change.
pub fn msix(msix: &Msix) -> [Row; 3] {
    let control = u32::from(spec::MSIX_ENABLE | spec::MSIX_FUNCTION_MASK) << 16;
    let at = |table: &crate::pci::capability::Table| table.offset | u32::from(table.bar);
    [
        row(0, u32::from(msix.vectors - 1) << 16, control, control, 0),
        row(4, at(&msix.table), 0, 0, 0),
        row(8, at(&msix.pending), 0, 0, 0),
    ]
}

/// Bytes of a capability that a guest may see, if it may.
pub fn size_of(found: &Capabilities, id: u8, offset: u8) -> Option<u8> {
    let at = |decoded: u8, size: u8| (decoded == offset).then_some(size);
    match id {
        spec::id::POWER => found.power.and_then(|it| at(it.offset, 8)),
        spec::id::MSI => found.msi.and_then(|it| at(it.offset, it.size())),
        spec::id::EXPRESS => found.express.and_then(|it| at(it.offset, it.size())),
        spec::id::MSIX => found.msix.and_then(|it| at(it.offset, 12)),
        _ => None,
    }
}
