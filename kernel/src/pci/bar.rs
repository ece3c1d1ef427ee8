//! Base address registers: how large they are, found with decoding off (PCIe §7.5.1.2.1).

use super::{ConfigSpace, Function, spec};
use iommu::addr::{Hpa, PAGE_SIZE, Span};

/// Where a BAR lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BarKind {
    /// I/O space: never decoded here.
    Io,
    /// Memory, 32-bit address.
    Memory32,
    /// Memory, 64-bit address: takes two registers.
    Memory64,
}

/// One BAR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bar {
    /// Space and width.
    pub kind: BarKind,
    /// Reads have no side effects.
    pub prefetchable: bool,
    /// Bytes, a power of two.
    pub size: u64,
    /// Address on the bus; `None` while it has no place.
    pub pci: Option<u64>,
    /// Where the CPU finds it.
    pub host: Option<Hpa>,
}

impl Bar {
    /// Whether it is in memory space.
    pub fn is_memory(&self) -> bool {
        self.kind != BarKind::Io
    }

    /// Size in whole pages: what stage 2 maps. Assignment leaves the rest of the last page empty.
    pub fn mapped_size(&self) -> u64 {
        self.size.max(PAGE_SIZE)
    }

    /// The pages the CPU finds it in.
    pub fn host_span(&self) -> Option<Span<Hpa>> {
        Span::<Hpa>::new(self.host?, self.mapped_size())
    }

    /// The low four bits of the register (two for I/O).
    pub fn flags(&self) -> u32 {
        match self.kind {
            BarKind::Io => 1,
            BarKind::Memory32 => u32::from(self.prefetchable) << 3,
            BarKind::Memory64 => 4 | u32::from(self.prefetchable) << 3,
        }
    }
}

/// A register that is no BAR, though it is not empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BarFault {
    /// Memory type 01 or 11.
    ReservedType,
    /// Only flag bits came back, or none of the address bits can be written.
    NoAddressBits,
    /// The writable bits are not those of a power of two.
    NotPowerOfTwo,
    /// 64-bit, but there is no next register.
    NoUpperHalf,
}

impl core::fmt::Display for BarFault {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::ReservedType => "reserved type",
            Self::NoAddressBits => "no address bits",
            Self::NotPowerOfTwo => "no power of two",
            Self::NoUpperHalf => "no upper half",
        })
    }
}

/// All BARs of `function`, which has `count` registers for them, and the first malformed one. Memory and I/O decoding
/// must be off; the registers are as before afterwards.
pub fn size(
    space: &mut dyn ConfigSpace,
    function: Function,
    count: u8,
) -> ([Option<Bar>; 6], Option<(u8, BarFault)>) {
    size_at(space, function, spec::BAR0, count)
}

/// [`size`] of the `count` registers from `base` on.
pub fn size_at(
    space: &mut dyn ConfigSpace,
    function: Function,
    base: u16,
    count: u8,
) -> ([Option<Bar>; 6], Option<(u8, BarFault)>) {
    let mut bars = [None; 6];
    let mut fault = None;
    let mut index = 0;
    while index < count.min(6) {
        let at = base + 4 * u16::from(index);
        let (value, mask) = probe(space, function, at);
        let wide = mask & 7 == 4;
        let upper = (wide && index + 1 < count).then(|| probe(space, function, at + 4));
        match decode(value, mask, wide, upper) {
            Ok(bar) => bars[usize::from(index)] = bar,
            Err(error) => {
                fault.get_or_insert((index, error));
            }
        }
        index += 1 + u8::from(upper.is_some());
    }
    (bars, fault)
}

/// The register's value, and what it reads as after all ones were written.
fn probe(space: &mut dyn ConfigSpace, function: Function, at: u16) -> (u32, u32) {
    let value = space.read32(function, at);
    space.write32(function, at, !0);
    let mask = space.read32(function, at);
    space.write32(function, at, value);
    (value, mask)
}

fn decode(
    value: u32,
    mask: u32,
    wide: bool,
    upper: Option<(u32, u32)>,
) -> Result<Option<Bar>, BarFault> {
    const UPPER_ONES: u64 = 0xffff_ffff_0000_0000;
    if mask == 0 {
        return Ok(None);
    }
    let (kind, address, writable) = if mask & 1 != 0 {
        let mut writable = mask & !3;
        if writable != 0 && writable >> 16 == 0 {
            // The upper half of an I/O BAR may be hardwired to zero.
            writable |= 0xffff_0000;
        }
        (BarKind::Io, u64::from(value & !3), u64::from(writable))
    } else if wide {
        let (high, high_mask) = upper.ok_or(BarFault::NoUpperHalf)?;
        let address = u64::from(high) << 32 | u64::from(value & !0xf);
        let writable = u64::from(high_mask) << 32 | u64::from(mask & !0xf);
        (BarKind::Memory64, address, writable)
    } else if mask & 6 == 0 {
        let address = u64::from(value & !0xf);
        (BarKind::Memory32, address, u64::from(mask & !0xf))
    } else {
        return Err(BarFault::ReservedType);
    };
    if writable == 0 {
        return Err(BarFault::NoAddressBits);
    }
    let ones = if wide { 0 } else { UPPER_ONES };
    // Ones from some bit upwards, and nothing else: then the negation has a single bit.
    let size = (writable | ones).wrapping_neg();
    if !size.is_power_of_two() {
        return Err(BarFault::NotPowerOfTwo);
    }
    Ok(Some(Bar {
        kind,
        prefetchable: kind != BarKind::Io && mask & 8 != 0,
        size,
        pci: (address != 0).then_some(address),
        host: None,
    }))
}
