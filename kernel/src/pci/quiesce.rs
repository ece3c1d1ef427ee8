//! Silence: what a function may not do until a partition owns it, and the way to the root opened once one does.

use super::topology::{FunctionInfo, Topology};
use super::{ConfigSpace, Function, spec};

/// Makes a function silent: no decoding, bus mastering, INTx, MSI or MSI-X; phantom functions, ATS, PRI, PASID and
/// virtual functions off, ARI forwarding off, ACS with everything that forces requests through the root complex. A
/// host bridge is left alone: it is not a DMA master of ours.
pub fn quiesce(space: &mut dyn ConfigSpace, info: &FunctionInfo) {
    if info.is_host_bridge() {
        return;
    }
    let at = info.address;
    let found = &info.capabilities;
    space.write16(at, spec::COMMAND, spec::COMMAND_INTX_DISABLE);
    if let Some(msi) = found.msi {
        let control = u16::from(msi.offset) + spec::MESSAGE_CONTROL;
        clear16(space, at, control, spec::MSI_ENABLE);
    }
    if let Some(msix) = found.msix {
        let control = u16::from(msix.offset) + spec::MESSAGE_CONTROL;
        clear16(space, at, control, spec::MSIX_ENABLE);
    }
    if let Some(express) = found.express {
        let base = u16::from(express.offset);
        let control = base + spec::DEVICE_CONTROL;
        clear16(space, at, control, spec::DEVICE_CONTROL_PHANTOM);
        if express.size() >= 0x3c {
            let control2 = base + spec::DEVICE_CONTROL2;
            clear16(space, at, control2, spec::DEVICE_CONTROL2_ARI);
        }
    }
    for (capability, control, enable) in [
        (found.ats, spec::ATS_CONTROL, spec::ATS_ENABLE),
        (found.pri, spec::PRI_CONTROL, 1),
        (found.pasid, spec::PASID_CONTROL, 1),
        (found.sriov, spec::SRIOV_CONTROL, spec::SRIOV_ENABLE),
    ] {
        if let Some(offset) = capability {
            clear16(space, at, offset + control, enable);
        }
    }
    if let Some(acs) = found.acs {
        let wanted = spec::ACS_SOURCE_VALIDATION
            | spec::ACS_TRANSLATION_BLOCKING
            | spec::ACS_REQUEST_REDIRECT
            | spec::ACS_COMPLETION_REDIRECT
            | spec::ACS_UPSTREAM_FORWARDING;
        let control = acs.offset + spec::ACS_CONTROL;
        space.write16(at, control, acs.capability & wanted);
    }
}

/// Opens the bridges above `function` for memory downstream and requests upstream; they stay open for whoever else is
/// behind them. False if one of them has a memory BAR without a place, which decoding would put anywhere.
pub fn open_path(space: &mut dyn ConfigSpace, topology: &Topology, info: &FunctionInfo) -> bool {
    let placed = |bridge: &FunctionInfo| {
        let mut bars = bridge.bars.iter().flatten();
        bars.all(|bar| !bar.is_memory() || bar.host.is_some())
    };
    if !topology.above(info).all(placed) {
        return false;
    }
    for bridge in topology.above(info) {
        let command = spec::COMMAND_MEMORY | spec::COMMAND_BUS_MASTER | spec::COMMAND_INTX_DISABLE;
        space.write16(bridge.address, spec::COMMAND, command);
    }
    true
}

/// Lets a function that is trusted with it keep translations (ATS), in units of 4 KiB (STU 0): it asks for them from then
/// on, and the ports above pass what it says to be translated. Other functions below these are stopped by their IOMMU.
pub fn turn_on_ats(space: &mut dyn ConfigSpace, topology: &Topology, info: &FunctionInfo) {
    let Some(offset) = info.capabilities.ats else {
        return;
    };
    for bridge in topology.above(info) {
        if let Some(acs) = bridge.capabilities.acs {
            let control = acs.offset + spec::ACS_CONTROL;
            let blocking = spec::ACS_TRANSLATION_BLOCKING;
            clear16(space, bridge.address, control, blocking);
        }
    }
    space.write16(info.address, offset + spec::ATS_CONTROL, spec::ATS_ENABLE);
}

fn clear16(space: &mut dyn ConfigSpace, function: Function, offset: u16, bits: u16) {
    let value = space.read16(function, offset);
    if value & bits != 0 {
        space.write16(function, offset, value & !bits);
    }
}
