//! Type 1 headers: bus numbers and windows (PCIe §7.5.1.3).

use super::{ConfigSpace, Function, spec};

/// Granule of memory windows.
pub const GRANULE: u64 = 1 << 20;

/// Memory windows of a bridge, as first and last address; closed ones are `None`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Windows {
    /// Non-prefetchable memory, below 4 GiB.
    pub memory: Option<(u64, u64)>,
    /// Prefetchable memory.
    pub prefetch: Option<(u64, u64)>,
}

/// Programs primary, secondary and subordinate bus numbers; the latency timer is zero on PCI Express.
pub fn write_buses(
    space: &mut dyn ConfigSpace,
    bridge: Function,
    primary: u8,
    secondary: u8,
    subordinate: u8,
) {
    let word = u32::from_le_bytes([primary, secondary, subordinate, 0]);
    space.write32(bridge, spec::BRIDGE_BUSES, word);
}

/// Whether the bridge has a 64-bit prefetchable window. Decoding must be off.
pub fn has_wide_prefetch(space: &mut dyn ConfigSpace, bridge: Function) -> bool {
    let before = space.read32(bridge, spec::BRIDGE_PREFETCH);
    space.write32(bridge, spec::BRIDGE_PREFETCH, 0xfff0_fff0);
    let ones = space.read32(bridge, spec::BRIDGE_PREFETCH);
    space.write32(bridge, spec::BRIDGE_PREFETCH, before);
    ones & 0xfff0_fff0 == 0xfff0_fff0 && ones & 0x000f_000f == 0x0001_0001
}

/// The windows as they are programmed.
pub fn read_windows(space: &mut dyn ConfigSpace, bridge: Function) -> Windows {
    let memory = space.read32(bridge, spec::BRIDGE_MEMORY);
    let prefetch = space.read32(bridge, spec::BRIDGE_PREFETCH);
    let (mut base, mut limit) = window(prefetch);
    if prefetch & 0xf == 1 {
        base |= u64::from(space.read32(bridge, spec::BRIDGE_PREFETCH_BASE_UPPER)) << 32;
        limit |= u64::from(space.read32(bridge, spec::BRIDGE_PREFETCH_LIMIT_UPPER)) << 32;
    }
    let open = |(base, limit): (u64, u64)| (base <= limit).then_some((base, limit));
    Windows {
        memory: open(window(memory)),
        // All zero is a bridge without this window.
        prefetch: open((base, limit)).filter(|_| prefetch != 0),
    }
}

/// Programs the windows and closes the one for I/O. Bounds are multiples of [`GRANULE`], less one for the last.
pub fn write_windows(space: &mut dyn ConfigSpace, bridge: Function, windows: &Windows) {
    /// Base above limit: closed.
    const CLOSED: u32 = 0x0000_fff0;
    let encode =
        |(base, last): (u64, u64)| (base >> 16) as u32 & 0xfff0 | last as u32 & 0xfff0_0000;
    let memory = windows.memory.map_or(CLOSED, encode);
    let prefetch = windows.prefetch.map_or(CLOSED, encode);
    let (base, last) = windows.prefetch.unwrap_or((0, 0));
    space.write32(bridge, spec::BRIDGE_MEMORY, memory);
    space.write32(bridge, spec::BRIDGE_PREFETCH, prefetch);
    space.write32(
        bridge,
        spec::BRIDGE_PREFETCH_BASE_UPPER,
        (base >> 32) as u32,
    );
    space.write32(
        bridge,
        spec::BRIDGE_PREFETCH_LIMIT_UPPER,
        (last >> 32) as u32,
    );
    space.write16(bridge, spec::BRIDGE_IO, 0x00f0);
    space.write32(bridge, spec::BRIDGE_IO_UPPER, 0);
}

/// Base and last address of the low 32 bits of a window register.
fn window(register: u32) -> (u64, u64) {
    let base = u64::from(register & 0xfff0) << 16;
    let last = u64::from(register & 0xfff0_0000) | 0xf_ffff;
    (base, last)
}
