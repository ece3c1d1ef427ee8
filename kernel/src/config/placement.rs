//! Where things go: a guest's files in its RAM, a partition's RAM in the machine's, its functions on the guest's bus, and
//! registers of its other devices in the guest's address space.

use super::{Device, DeviceAddress, ImageHeader, MEMORY_BLOCK, Machine, MachineFacts, PciAddress};
use crate::gather::Gather;
use crate::guest_map;
use alloc::vec::Vec;
use iommu::addr::{Gpa, Hpa, PAGE_SIZE, Span};

/// Room for a guest device tree: the most that the arm64 boot protocol allows.
pub const DTB_LEN: u64 = 2 << 20;

/// Where the boot files of a guest lie in its RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placement {
    /// The `Image`, BSS included; the entry is its first instruction.
    pub kernel: Span<Gpa>,
    /// The device tree.
    pub dtb: Span<Gpa>,
    /// The initial RAM disk; empty if there is none.
    pub initrd: Span<Gpa>,
}

/// A guest's boot files do not fit its RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoRoom {
    /// How much RAM they need, in bytes.
    pub needed: u64,
}

/// Places a guest's boot files in `memory` bytes of RAM from [`guest_map::RAM`] on: kernel, device tree, initrd, each
/// at the next 2 MiB boundary (`booting.rst`: the device tree must not cross one; the initrd lies within 32 GiB).
pub fn place(memory: u64, image: ImageHeader, initrd: u64) -> Result<Placement, NoRoom> {
    let room = || -> Option<[u64; 5]> {
        let kernel = image.text_offset;
        let kernel_end = kernel.checked_add(image.image_size)?;
        let dtb = kernel_end.checked_next_multiple_of(MEMORY_BLOCK)?;
        let dtb_end = dtb.checked_add(DTB_LEN)?;
        Some([
            kernel,
            image.image_size,
            dtb,
            dtb_end,
            dtb_end.checked_add(initrd)?,
        ])
    };
    let Some([kernel, kernel_len, dtb, initrd_at, end]) = room() else {
        return Err(NoRoom { needed: u64::MAX });
    };
    if end > memory || guest_map::RAM.checked_add(end).is_none() {
        return Err(NoRoom { needed: end });
    }
    let span = |offset, len| Span {
        base: guest_map::RAM + offset,
        len,
    };
    Ok(Placement {
        kernel: span(kernel, kernel_len),
        dtb: span(dtb, DTB_LEN),
        initrd: span(initrd_at, initrd),
    })
}

/// Where the guest sees each function among `devices`: what the configuration says, else the next free device number on
/// bus 0 from 1 on. `None`: it is no function, or no number is left.
pub fn guest_addresses(devices: &[Device]) -> Vec<Option<PciAddress>> {
    let is_function = |device: &&Device| matches!(device.address, DeviceAddress::Pci(_));
    let mut taken: u32 = 1;
    for guest in devices.iter().filter(is_function).filter_map(|d| d.guest) {
        if guest.bus == 0 {
            taken |= 1 << (guest.device & 0x1f);
        }
    }
    let choose = |device: &Device| {
        if !is_function(&device) {
            return None;
        }
        device.guest.or_else(|| {
            let free = taken.trailing_ones();
            (free < 32).then(|| {
                taken |= 1 << free;
                PciAddress::new(0, free as u8, 0)
            })
        })
    };
    devices.iter().map(choose).gather()
}

/// Whole pages of registers, and where a guest sees them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// In the machine.
    pub host: Span<Hpa>,
    /// In the guest.
    pub guest: Gpa,
}

impl Mapping {
    /// Where the guest sees `registers`, if they are in here.
    pub fn find(&self, registers: &Span<Hpa>) -> Option<Span<Gpa>> {
        self.host.covers(registers).then(|| Span {
            base: self.guest + (registers.base - self.host.base),
            len: registers.len,
        })
    }
}

/// Registers for which a guest with so much RAM has no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoWindow(pub Span<Hpa>);

/// Where a guest with `memory` bytes of RAM sees `registers`: whole pages, each at the address that it has in the machine
/// where the guest's map has nothing there, else in [`guest_map::PLATFORM`], in order.
pub fn place_registers(memory: u64, registers: &[Span<Hpa>]) -> Result<Vec<Mapping>, NoWindow> {
    let mut pages: Vec<Span<Hpa>> = Vec::new();
    for span in registers {
        let mut page = pages_of(span).ok_or(NoWindow(*span))?;
        // One page is mapped once, whosever registers are in it.
        while let Some(other) = pages.iter().position(|other| other.overlaps(&page)) {
            let other = pages.remove(other);
            let end = page.end().max(other.end());
            page.base = page.base.min(other.base);
            page.len = end - page.base;
        }
        let at = pages.partition_point(|other| other.base < page.base);
        pages.insert(at, page);
    }
    let mut next = guest_map::PLATFORM.base;
    let mut mappings: Vec<Mapping> = Vec::with_capacity(pages.len());
    for host in pages {
        let same = Gpa(host.base.0);
        let guest = if is_free(same, host.len, memory) {
            same
        } else {
            // Large ones as blocks, if the machine has them so.
            let align = host.len.next_power_of_two().min(MEMORY_BLOCK);
            let base = next.0.next_multiple_of(align);
            let window = guest_map::PLATFORM;
            let end = base.checked_add(host.len);
            let end = end.filter(|&end| end <= window.end().0);
            next = Gpa(end.ok_or(NoWindow(host))?);
            Gpa(base)
        };
        mappings.push(Mapping { host, guest });
    }
    Ok(mappings)
}

/// The whole pages that hold `registers`; `None` past the last address.
pub(super) fn pages_of(registers: &Span<Hpa>) -> Option<Span<Hpa>> {
    let base = registers.base.align_down(PAGE_SIZE);
    let end = registers.base.0.checked_add(registers.len)?;
    let end = end.checked_next_multiple_of(PAGE_SIZE)?;
    Some(Span {
        base,
        len: end - base.0,
    })
}

/// Whether a guest with `memory` bytes of RAM has nothing at `base`, and never will have.
fn is_free(base: Gpa, len: u64, memory: u64) -> bool {
    let ram = Span {
        base: guest_map::RAM,
        len: memory,
    };
    let limit = 1 << guest_map::IPA_BITS;
    let Some(span) = Span::<Gpa>::new(base, len).filter(|span| span.end().0 <= limit) else {
        return false;
    };
    let taken = guest_map::TAKEN.iter().chain([&ram]);
    !taken.into_iter().any(|taken| taken.overlaps(&span))
}

/// Where each partition's RAM lies in the machine's: fixed bases first, then first fit in order, 2 MiB aligned.
/// `Err`: the largest free range, for a partition that finds none, or whose fixed base is not free.
pub fn place_memory(machine: &Machine, facts: &MachineFacts) -> Vec<Result<Span<Hpa>, u64>> {
    let mut free = free_ranges(facts);
    let mut places = machine.partitions.iter().map(|_| Err(0)).gather();
    for is_fixed in [true, false] {
        for (partition, place) in machine.partitions.iter().zip(&mut places) {
            if partition.base.is_some() != is_fixed {
                continue;
            }
            let len = partition.memory.get();
            let wanted = match partition.base {
                Some(base) => Span::<Hpa>::new(Hpa(base.get()), len),
                None => free.iter().find_map(|range| first_fit(range, len)),
            };
            let wanted = wanted.filter(|span| take(&mut free, span));
            *place = wanted.ok_or_else(|| largest(&free));
        }
    }
    places
}

/// RAM that partitions can have, in bytes.
pub(super) fn free_memory(facts: &MachineFacts) -> u64 {
    free_ranges(facts).iter().map(|range| range.len).sum()
}

/// RAM less what is reserved, whole [`MEMORY_BLOCK`]s only.
fn free_ranges(facts: &MachineFacts) -> Vec<Span<Hpa>> {
    let mut free = facts.memory.clone();
    for reserved in &facts.reserved {
        cut(&mut free, reserved);
    }
    free.iter()
        .filter_map(|range| {
            let base = range.base.0.checked_next_multiple_of(MEMORY_BLOCK)?;
            let end = range.end().align_down(MEMORY_BLOCK).0;
            (base < end).then(|| Span {
                base: Hpa(base),
                len: end - base,
            })
        })
        .gather()
}

fn first_fit(range: &Span<Hpa>, len: u64) -> Option<Span<Hpa>> {
    (0 < len && len <= range.len).then_some(Span {
        base: range.base,
        len: len.checked_next_multiple_of(MEMORY_BLOCK)?.min(range.len),
    })
}

/// Takes `wanted` out of `free`, if all of it is there.
fn take(free: &mut Vec<Span<Hpa>>, wanted: &Span<Hpa>) -> bool {
    let there = free.iter().any(|range| range.covers(wanted));
    if there {
        cut(free, wanted);
    }
    there
}

/// Removes `hole` from `free`.
fn cut(free: &mut Vec<Span<Hpa>>, hole: &Span<Hpa>) {
    let mut left = Vec::new();
    for range in free.iter() {
        if !range.overlaps(hole) {
            left.push(*range);
            continue;
        }
        if range.base < hole.base {
            left.push(Span {
                base: range.base,
                len: hole.base - range.base,
            });
        }
        if hole.end() < range.end() {
            left.push(Span {
                base: hole.end(),
                len: range.end() - hole.end(),
            });
        }
    }
    *free = left;
}

fn largest(free: &[Span<Hpa>]) -> u64 {
    free.iter().map(|range| range.len).max().unwrap_or(0)
}
