//! Reset of one function, with the waits of the specification: function level reset, that of conventional functions,
//! the one through D3hot, and the secondary bus when nobody else is on it. Afterwards the function is as enumeration
//! left it: silent, with its BARs.

use super::topology::{FunctionInfo, Topology};
use super::{ConfigSpace, Function, assign, quiesce, spec, sriov};
use core::fmt;

/// Time.
pub trait Clock {
    /// Nanoseconds since some point in the past; never goes back.
    fn now_ns(&mut self) -> u64;

    /// Called over and over in each wait, some of which take 100 ms and more.
    fn wait(&mut self);
}

/// How a function was reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResetKind {
    /// PCIe §6.6.2.
    FunctionLevel,
    /// Advanced features, for conventional functions.
    AdvancedFeatures,
    /// D3hot to D0 (§5.3.1.4).
    Power,
    /// Its bus, on which it is alone (§6.6.1).
    SecondaryBus,
}

/// A function that could not be reset; it must not be handed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResetError {
    /// It has no reset of its own, and others share its bus.
    NotPossible(Function),
    /// It did not answer after the reset, within the deadline.
    NotReady(Function),
    /// It answers as another device than before.
    Changed(Function, u16, u16),
}

pub(super) const MILLISECOND: u64 = 1_000_000;
/// For requests in flight before a reset, and for the reset itself (§6.6.2).
const FLR_TIME: u64 = 100 * MILLISECOND;
/// D3hot to D0 and back (§5.9).
const POWER_TIME: u64 = 10 * MILLISECOND;
/// Secondary bus reset is held for at least 1 ms (§7.5.1.3.13).
const BUS_RESET_HOLD: u64 = 2 * MILLISECOND;
/// From the end of the reset until configuration requests succeed (§6.6.1).
const READY_DEADLINE: u64 = 1000 * MILLISECOND;

/// What `reset` would do with this function; `None` if it cannot be reset alone.
pub fn reset_kind(topology: &Topology, info: &FunctionInfo) -> Option<ResetKind> {
    let found = &info.capabilities;
    if info.physical.is_some() {
        sriov::has_reset(found.express).then_some(ResetKind::FunctionLevel)
    } else if found.express.is_some_and(|express| express.flr()) {
        Some(ResetKind::FunctionLevel)
    } else if found.advanced_features.is_some() {
        Some(ResetKind::AdvancedFeatures)
    } else if found.power.is_some_and(|power| !power.no_soft_reset) {
        Some(ResetKind::Power)
    } else if info.parent.is_some() && alone(topology, info) {
        Some(ResetKind::SecondaryBus)
    } else {
        None
    }
}

/// Resets the function of `info`, which nobody owns. Its VFs are gone afterwards ([`sriov::turn_on`]). Blocks for some
/// 100 ms, at most 1.3 s.
pub fn reset(
    space: &mut dyn ConfigSpace,
    clock: &mut dyn Clock,
    topology: &Topology,
    info: &FunctionInfo,
) -> Result<ResetKind, ResetError> {
    let at = info.address;
    let kind = reset_kind(topology, info).ok_or(ResetError::NotPossible(at))?;
    space.write16(at, spec::COMMAND, spec::COMMAND_INTX_DISABLE);
    let express = info.capabilities.express.map(|it| u16::from(it.offset));
    // Payload sizes are an agreement with the port above: they outlive the reset.
    let control = express.map(|base| space.read16(at, base + spec::DEVICE_CONTROL));
    if let Some(base) = express {
        wait_idle(
            space,
            clock,
            at,
            base + spec::DEVICE_STATUS,
            spec::DEVICE_STATUS_PENDING,
        );
    }
    match kind {
        ResetKind::FunctionLevel => {
            let offset = express.unwrap_or_default() + spec::DEVICE_CONTROL;
            let value = control.unwrap_or_default() | spec::DEVICE_CONTROL_FLR;
            space.write16(at, offset, value);
            pause(clock, FLR_TIME);
        }
        ResetKind::AdvancedFeatures => {
            let (offset, tells_pending) = info.capabilities.advanced_features.unwrap_or_default();
            let base = u16::from(offset);
            if tells_pending {
                wait_idle_byte(space, clock, at, base + spec::AF_STATUS);
            }
            space.write8(at, base + spec::AF_CONTROL, 1);
            pause(clock, FLR_TIME);
        }
        ResetKind::Power => {
            let offset = info.capabilities.power.map_or(0, |power| power.offset);
            let register = u16::from(offset) + spec::POWER_CONTROL;
            space.write16(at, register, spec::POWER_STATE);
            pause(clock, POWER_TIME);
            space.write16(at, register, 0);
            pause(clock, POWER_TIME);
        }
        ResetKind::SecondaryBus => {
            let bridge = topology.functions[info.parent.unwrap_or_default()].address;
            let value = space.read16(bridge, spec::BRIDGE_CONTROL);
            let asserted = value | spec::BRIDGE_CONTROL_RESET;
            space.write16(bridge, spec::BRIDGE_CONTROL, asserted);
            pause(clock, BUS_RESET_HOLD);
            let released = value & !spec::BRIDGE_CONTROL_RESET;
            space.write16(bridge, spec::BRIDGE_CONTROL, released);
            pause(clock, FLR_TIME);
        }
    }
    wait_ready(space, clock, info)?;
    restore(space, info, control);
    Ok(kind)
}

/// Whether nothing else is behind the bridge above `info`.
fn alone(topology: &Topology, info: &FunctionInfo) -> bool {
    let bus = info.address.bdf.bus();
    topology
        .functions
        .iter()
        .filter(|other| other.host == info.host && other.parent == info.parent)
        .all(|other| other.address.bdf.bus() != bus || other.address == info.address)
}

/// Configuration requests succeed again when the vendor ID is neither all ones nor the retry status; that of a VF always
/// is all ones, its class is not.
fn wait_ready(
    space: &mut dyn ConfigSpace,
    clock: &mut dyn Clock,
    info: &FunctionInfo,
) -> Result<(), ResetError> {
    let at = info.address;
    let start = clock.now_ns();
    loop {
        let vendor = match info.physical {
            Some(_) if space.read32(at, spec::CLASS) != !0 => return Ok(()),
            Some(_) => !0,
            None => space.read16(at, spec::VENDOR),
        };
        if !matches!(vendor, 0 | 1 | 0xffff) {
            let device = space.read16(at, spec::VENDOR + 2);
            return if (vendor, device) == (info.vendor, info.device) {
                Ok(())
            } else {
                Err(ResetError::Changed(at, vendor, device))
            };
        }
        if clock.now_ns().saturating_sub(start) > READY_DEADLINE {
            return Err(ResetError::NotReady(at));
        }
        clock.wait();
    }
}

fn restore(space: &mut dyn ConfigSpace, info: &FunctionInfo, device_control: Option<u16>) {
    quiesce(space, info);
    if info.physical.is_none() {
        assign::write_bars(space, info);
        space.write32(info.address, spec::ROM, 0);
    }
    if let (Some(express), Some(value)) = (info.capabilities.express, device_control) {
        let offset = u16::from(express.offset) + spec::DEVICE_CONTROL;
        let value = value & !(spec::DEVICE_CONTROL_FLR | spec::DEVICE_CONTROL_PHANTOM);
        space.write16(info.address, offset, value);
    }
}

/// Waits for requests in flight. One that never ends does not hold the reset back: that is what it is for.
fn wait_idle(
    space: &mut dyn ConfigSpace,
    clock: &mut dyn Clock,
    at: Function,
    status: u16,
    pending: u16,
) {
    let start = clock.now_ns();
    while space.read16(at, status) & pending != 0
        && clock.now_ns().saturating_sub(start) <= FLR_TIME
    {
        clock.wait();
    }
}

fn wait_idle_byte(space: &mut dyn ConfigSpace, clock: &mut dyn Clock, at: Function, status: u16) {
    let start = clock.now_ns();
    while space.read8(at, status) & 1 != 0 && clock.now_ns().saturating_sub(start) <= FLR_TIME {
        clock.wait();
    }
}

/// Waits that long.
pub(super) fn pause(clock: &mut dyn Clock, ns: u64) {
    let start = clock.now_ns();
    while clock.now_ns().saturating_sub(start) < ns {
        clock.wait();
    }
}

impl fmt::Display for ResetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPossible(at) => write!(
                f,
                "{at} cannot be reset: no function level or power reset, and it shares its bus"
            ),
            Self::NotReady(at) => write!(f, "{at} does not answer after its reset"),
            Self::Changed(at, vendor, device) => {
                write!(f, "{at} is {vendor:04x}:{device:04x} after its reset")
            }
        }
    }
}
