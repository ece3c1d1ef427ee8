//! Capability lists: walked with a bound, decoded into what is used here. A list is a device's word, so a broken one
//! costs the capabilities behind the break and nothing else.

use super::bar::Bar;
use super::{ConfigSpace, Function, spec};
use alloc::vec::Vec;

/// Why a list ended early.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChainFault {
    /// A pointer below 0x40, or below 0x100 in the extended list.
    BelowHeader(u16),
    /// A pointer to a capability that was there before.
    Loop(u16),
    /// A capability of which only ones can be read.
    AllOnes(u16),
    /// A capability that does not fit in what is left of its space.
    PastEnd(u16),
    /// An MSI-X table or pending bits that are in no memory BAR.
    TableOutsideBar(u16),
}

impl core::fmt::Display for ChainFault {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (what, at) = match self {
            Self::BelowHeader(at) => ("a pointer into the header", at),
            Self::Loop(at) => ("a loop", at),
            Self::AllOnes(at) => ("only ones", at),
            Self::PastEnd(at) => ("past the end", at),
            Self::TableOutsideBar(at) => ("an MSI-X table outside memory BARs", at),
        };
        write!(f, "{what}: {at:#x}")
    }
}

/// PCI Express device/port type (PCIe §7.5.3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortType {
    /// Endpoint, or legacy endpoint.
    Endpoint,
    /// Root port.
    RootPort,
    /// Upstream port of a switch.
    Upstream,
    /// Downstream port of a switch.
    Downstream,
    /// PCI Express to PCI or PCI-X bridge.
    ToConventional,
    /// PCI or PCI-X to PCI Express bridge.
    FromConventional,
    /// Endpoint inside the root complex, or its event collector.
    RootComplexIntegrated,
    /// A value this specification does not know.
    Unknown(u8),
}

/// PCI Express capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Express {
    /// Offset.
    pub offset: u8,
    /// Capability version.
    pub version: u8,
    /// Device/port type.
    pub port: PortType,
    /// Device capabilities register.
    pub device_capabilities: u32,
}

impl Express {
    /// Whether the function has function level reset.
    pub fn flr(&self) -> bool {
        self.device_capabilities & spec::DEVICE_FLR != 0
    }

    /// How many function number bits phantom functions may take; they stay disabled.
    pub fn phantom_bits(&self) -> u8 {
        (self.device_capabilities >> 3) as u8 & 3
    }

    /// Bytes that the capability takes at most in the first 256 (§7.5.3): version 2 has all registers.
    pub fn size(&self) -> u8 {
        if self.version >= 2 && self.offset <= 0x100u16.saturating_sub(0x3c) as u8 {
            0x3c
        } else {
            0x14
        }
    }
}

/// MSI capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Msi {
    /// Offset.
    pub offset: u8,
    /// Vectors that the function can use: 1..=32, a power of two.
    pub vectors: u8,
    /// 64-bit address.
    pub wide: bool,
    /// Mask and pending registers.
    pub maskable: bool,
}

impl Msi {
    /// Bytes of the capability.
    pub fn size(&self) -> u8 {
        match (self.wide, self.maskable) {
            (false, false) => 0x0a,
            (true, false) => 0x0e,
            (false, true) => 0x14,
            (true, true) => 0x18,
        }
    }
}

/// A table inside a BAR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Table {
    /// BAR index.
    pub bar: u8,
    /// Offset in it.
    pub offset: u32,
    /// Length in bytes.
    pub len: u32,
}

/// MSI-X capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Msix {
    /// Offset.
    pub offset: u8,
    /// Vectors, 1..=2048.
    pub vectors: u16,
    /// The vector table.
    pub table: Table,
    /// The pending bits.
    pub pending: Table,
}

/// Power management capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Power {
    /// Offset.
    pub offset: u8,
    /// D3hot → D0 does not reset the function.
    pub no_soft_reset: bool,
}

/// Access control services.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Acs {
    /// Offset.
    pub offset: u16,
    /// What the function implements.
    pub capability: u16,
}

/// The capabilities of one function.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Capabilities {
    /// The list as found: ID and offset.
    pub list: Vec<(u8, u8)>,
    /// The extended list as found: ID and offset.
    pub extended: Vec<(u16, u16)>,
    /// The first thing wrong.
    pub fault: Option<ChainFault>,
    /// PCI Express; `None` for a conventional function.
    pub express: Option<Express>,
    /// MSI.
    pub msi: Option<Msi>,
    /// MSI-X.
    pub msix: Option<Msix>,
    /// Power management.
    pub power: Option<Power>,
    /// Advanced features with function level reset: the offset, and whether pending transactions are told.
    pub advanced_features: Option<(u8, bool)>,
    /// Access control services.
    pub acs: Option<Acs>,
    /// Offset of alternative routing-ID interpretation.
    pub ari: Option<u16>,
    /// Offset of address translation services.
    pub ats: Option<u16>,
    /// Offset of process address space ID.
    pub pasid: Option<u16>,
    /// Offset of the page request interface.
    pub pri: Option<u16>,
    /// Offset of single root I/O virtualization.
    pub sriov: Option<u16>,
}

impl Capabilities {
    /// Messages that the function can send at most: by MSI-X or by MSI, never both at once (PCIe §6.1.4).
    pub fn vectors(&self) -> u16 {
        let msix = self.msix.map_or(0, |msix| msix.vectors);
        let msi = self.msi.map_or(0, |msi| u16::from(msi.vectors));
        msix.max(msi)
    }
}

/// Reads both lists of `function`, whose BARs are `bars`.
pub fn read(
    space: &mut dyn ConfigSpace,
    function: Function,
    bars: &[Option<Bar>; 6],
) -> Capabilities {
    let mut found = Capabilities::default();
    walk(space, function, &mut found);
    for (id, offset) in found.list.clone() {
        decode(space, function, bars, &mut found, id, offset);
    }
    // Only a PCI Express function has the space past 0x100 (§7.2.2).
    if found.express.is_some() {
        walk_extended(space, function, &mut found);
    }
    for (id, offset) in found.extended.clone() {
        decode_extended(space, function, &mut found, id, offset);
    }
    found
}

/// The list in the first 256 bytes: each of the 48 places at most once, which is also its end.
fn walk(space: &mut dyn ConfigSpace, function: Function, found: &mut Capabilities) {
    if space.read16(function, spec::STATUS) & spec::STATUS_CAPABILITIES == 0 {
        return;
    }
    let mut seen = 0u64;
    let mut next = space.read8(function, spec::CAPABILITIES);
    loop {
        // §7.5.1.1.11: the two low bits are reserved and masked by software.
        let at = next & !3;
        if at == 0 {
            return;
        }
        let fault = if at < 0x40 {
            Some(ChainFault::BelowHeader(at.into()))
        } else if seen >> (at / 4) & 1 != 0 {
            Some(ChainFault::Loop(at.into()))
        } else {
            None
        };
        let head = if fault.is_none() {
            space.read16(function, at.into())
        } else {
            0
        };
        let fault = fault.or((head == 0xffff).then_some(ChainFault::AllOnes(at.into())));
        if let Some(fault) = fault {
            found.fault.get_or_insert(fault);
            return;
        }
        seen |= 1 << (at / 4);
        // ID 0 is the null capability: only a pointer.
        if head as u8 != 0 {
            found.list.push((head as u8, at));
        }
        next = (head >> 8) as u8;
    }
}

/// The list from 0x100 on: each of the 960 places at most once.
fn walk_extended(space: &mut dyn ConfigSpace, function: Function, found: &mut Capabilities) {
    let mut seen = [0u64; 16];
    let mut at = 0x100u16;
    while at != 0 {
        let place = usize::from(at / 4);
        let fault = if at < 0x100 {
            Some(ChainFault::BelowHeader(at))
        } else if seen[place / 64] >> (place % 64) & 1 != 0 {
            Some(ChainFault::Loop(at))
        } else {
            None
        };
        if let Some(fault) = fault {
            found.fault.get_or_insert(fault);
            return;
        }
        seen[place / 64] |= 1 << (place % 64);
        let head = space.read32(function, at);
        if head == !0 {
            // All ones at 0x100 is how a function without extended space reads.
            if at != 0x100 {
                found.fault.get_or_insert(ChainFault::AllOnes(at));
            }
            return;
        }
        if head as u16 != 0 {
            found.extended.push((head as u16, at));
        }
        at = (head >> 20) as u16 & !3;
    }
}

fn decode(
    space: &mut dyn ConfigSpace,
    function: Function,
    bars: &[Option<Bar>; 6],
    found: &mut Capabilities,
    id: u8,
    offset: u8,
) {
    let at = u16::from(offset);
    let needed = match id {
        spec::id::POWER => 8,
        spec::id::MSI => 0x0a,
        spec::id::EXPRESS => 0x14,
        spec::id::MSIX => 0x0c,
        spec::id::ADVANCED_FEATURES => 6,
        _ => return,
    };
    if at + needed > 0x100 {
        found.fault.get_or_insert(ChainFault::PastEnd(at));
        return;
    }
    match id {
        spec::id::POWER if found.power.is_none() => {
            let control = space.read16(function, at + spec::POWER_CONTROL);
            found.power = Some(Power {
                offset,
                no_soft_reset: control & spec::POWER_NO_SOFT_RESET != 0,
            });
        }
        spec::id::EXPRESS if found.express.is_none() => {
            let flags = space.read16(function, at + 2);
            found.express = Some(Express {
                offset,
                version: flags as u8 & 0xf,
                port: port_type((flags >> 4) as u8 & 0xf),
                device_capabilities: space.read32(function, at + spec::DEVICE_CAPABILITIES),
            });
        }
        spec::id::MSI if found.msi.is_none() => {
            let control = space.read16(function, at + spec::MESSAGE_CONTROL);
            let msi = Msi {
                offset,
                // Values 6 and 7 are reserved.
                vectors: 1 << (control >> 1 & 7).min(5),
                wide: control & spec::MSI_64 != 0,
                maskable: control & spec::MSI_MASKABLE != 0,
            };
            if at + u16::from(msi.size()) > 0x100 {
                found.fault.get_or_insert(ChainFault::PastEnd(at));
            } else {
                found.msi = Some(msi);
            }
        }
        spec::id::MSIX if found.msix.is_none() => {
            let control = space.read16(function, at + spec::MESSAGE_CONTROL);
            let vectors = (control & 0x7ff) + 1;
            let table = table(space.read32(function, at + 4), u32::from(vectors) * 16);
            let pending = u32::from(vectors).div_ceil(64) * 8;
            let pending = self::table(space.read32(function, at + 8), pending);
            if inside(bars, &table) && inside(bars, &pending) {
                found.msix = Some(Msix {
                    offset,
                    vectors,
                    table,
                    pending,
                });
            } else {
                found.fault.get_or_insert(ChainFault::TableOutsideBar(at));
            }
        }
        spec::id::ADVANCED_FEATURES if found.advanced_features.is_none() => {
            let features = space.read8(function, at + spec::AF_CAPABILITIES);
            if features & spec::AF_FLR != 0 {
                found.advanced_features = Some((offset, features & spec::AF_PENDING != 0));
            }
        }
        _ => {}
    }
}

fn decode_extended(
    space: &mut dyn ConfigSpace,
    function: Function,
    found: &mut Capabilities,
    id: u16,
    offset: u16,
) {
    let (place, needed) = match id {
        spec::extended_id::ACS if found.acs.is_none() => {
            if offset + 8 <= 0x1000 {
                let capability = space.read16(function, offset + spec::ACS_CAPABILITY);
                found.acs = Some(Acs { offset, capability });
            }
            return;
        }
        spec::extended_id::ARI => (&mut found.ari, 8),
        spec::extended_id::ATS => (&mut found.ats, 8),
        spec::extended_id::PASID => (&mut found.pasid, 8),
        spec::extended_id::PRI => (&mut found.pri, 0x10),
        spec::extended_id::SRIOV => (&mut found.sriov, 0x40),
        _ => return,
    };
    if offset + needed > 0x1000 {
        found.fault.get_or_insert(ChainFault::PastEnd(offset));
    } else if place.is_none() {
        *place = Some(offset);
    }
}

fn port_type(value: u8) -> PortType {
    match value {
        0 | 1 => PortType::Endpoint,
        4 => PortType::RootPort,
        5 => PortType::Upstream,
        6 => PortType::Downstream,
        7 => PortType::ToConventional,
        8 => PortType::FromConventional,
        9 | 10 => PortType::RootComplexIntegrated,
        other => PortType::Unknown(other),
    }
}

fn table(register: u32, len: u32) -> Table {
    Table {
        bar: register as u8 & 7,
        offset: register & !7,
        len,
    }
}

fn inside(bars: &[Option<Bar>; 6], table: &Table) -> bool {
    let bar = bars.get(usize::from(table.bar)).copied().flatten();
    bar.is_some_and(|bar| {
        bar.is_memory() && u64::from(table.offset) + u64::from(table.len) <= bar.size
    })
}
