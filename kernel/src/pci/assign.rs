//! Addresses of BARs, of those of virtual functions, and bridge windows. What firmware laid out is kept if every BAR of the host bridge is in a window,
//! aligned, and alone in its pages; otherwise all of them are laid out anew, each at a multiple of 64 KiB, so that
//! stage 2 can map any one of them without a neighbour. I/O space is never used.
//!
//! Where the windows are not known (ACPI has them in AML) there is nothing to lay out anew from: each BAR that firmware
//! placed well stays, the CPU finding it where the bus does; the others have no place.

use super::bar::{Bar, BarKind};
use super::bridge::{self, Windows};
use super::topology::{FunctionInfo, Header, Problem, Topology};
use super::{ConfigSpace, Function, spec, sriov};
use crate::boot_info::{PcieHost, Window, WindowKind};
use crate::gather::{Gather, Grow};
use alloc::vec::Vec;
use iommu::addr::{Hpa, PAGE_SIZE};

/// Least alignment of a BAR that we place: the largest page of a guest.
const ALIGN: u64 = 64 << 10;

/// Gives every memory BAR of the functions from `first` on a place, and each bridge its windows.
pub fn assign(space: &mut dyn ConfigSpace, host: &PcieHost, first: usize, topology: &mut Topology) {
    let functions = &mut topology.functions[first..];
    if keep(space, host, first, functions) {
        return;
    }
    if host.windows.is_empty() {
        let homeless = functions.iter().filter(|info| {
            let mut regions = info.regions();
            regions.any(|(_, bar, _)| bar.host.is_none())
        });
        let homeless: Vec<_> = homeless.map(|info| Problem::NoSpace(info.address)).gather();
        topology.problems.add_all(homeless);
        return;
    }
    for bar in bars_mut(functions) {
        (bar.pci, bar.host) = (None, None);
    }
    let wide_prefetch = functions
        .iter()
        .map(|info| {
            matches!(info.header, Header::Bridge(_))
                && bridge::has_wide_prefetch(space, info.address)
        })
        .gather();
    let mut layout = Layout {
        first,
        functions,
        wide_prefetch,
        windows: Vec::new(),
        low: arenas(host, WindowKind::Memory32),
        high: arenas(host, WindowKind::Memory64),
    };
    layout
        .windows
        .resize(layout.functions.len(), Windows::default());
    let homeless = layout.run();
    let windows = layout.windows;
    for (info, windows) in functions.iter_mut().zip(windows) {
        program(space, host, info, &windows);
    }
    for index in homeless {
        let problem = Problem::NoSpace(topology.functions[first + index].address);
        if !topology.problems.contains(&problem) {
            topology.problems.push(problem);
        }
    }
}

/// Fills in the host addresses where the layout of firmware is sound; whether it is so everywhere.
fn keep(
    space: &mut dyn ConfigSpace,
    host: &PcieHost,
    first: usize,
    functions: &mut [FunctionInfo],
) -> bool {
    let windows: Vec<Windows> = functions
        .iter()
        .map(|info| match info.header {
            Header::Bridge(Some(_)) => bridge::read_windows(space, info.address),
            _ => Windows::default(),
        })
        .gather();
    // Base, last byte, function and BAR of each that is sound in itself.
    let mut pages: Vec<(u64, u64, usize, usize)> = Vec::new();
    let mut everywhere = true;
    for (index, info) in functions.iter().enumerate() {
        for (number, bar, count) in info.regions() {
            let forwarded = |(base, last)| {
                let mut above = info.parent;
                while let Some(index) = above {
                    let Windows { memory, prefetch } = windows[index - first];
                    let mut windows = [memory, prefetch].into_iter().flatten();
                    if !windows.any(|(start, end)| start <= base && last <= end) {
                        return false;
                    }
                    above = functions[index - first].parent;
                }
                true
            };
            match placed(host, &bar, count).filter(|&range| forwarded(range)) {
                Some((base, last)) => {
                    let page = (base, last, index, number);
                    pages.insert(pages.partition_point(|other| *other <= page), page);
                }
                None => everywhere = false,
            }
        }
    }
    for (at, &(base, last, index, number)) in pages.iter().enumerate() {
        let before = pages[..at].iter().any(|other| other.1 >= base);
        let after = pages.get(at + 1).is_some_and(|other| other.0 <= last);
        if before || after {
            everywhere = false;
        } else if let Some(bar) = functions[index].region_mut(number) {
            // All of the range was found in one window.
            bar.host = host_address(host, bar, 1);
        }
    }
    everywhere
}

/// First and last byte on the bus of `count` BARs in a row that have a place which can be used.
fn placed(host: &PcieHost, bar: &Bar, count: u64) -> Option<(u64, u64)> {
    let base = bar.pci.filter(|address| address % bar.size == 0)?;
    let last = base.checked_add(bar.mapped_size().checked_mul(count)? - 1)?;
    host_address(host, bar, count)?;
    (base % PAGE_SIZE == 0).then_some((base, last))
}

fn bars_mut(functions: &mut [FunctionInfo]) -> impl Iterator<Item = &mut Bar> {
    let bars = functions.iter_mut().flat_map(|info| {
        let virtuals = info.sriov.iter_mut().flat_map(|it| it.bars.iter_mut());
        info.bars.iter_mut().chain(virtuals)
    });
    bars.flatten()
}

/// Where the CPU finds `bar`, if all pages of `count` such in a row are in one memory window of `host`.
fn host_address(host: &PcieHost, bar: &Bar, count: u64) -> Option<Hpa> {
    let address = bar.pci.filter(|_| bar.is_memory())?;
    if host.windows.is_empty() {
        return (address != 0).then_some(Hpa(address));
    }
    host.windows.iter().find_map(|window| {
        let offset = address.checked_sub(window.pci)?;
        let inside = offset.checked_add(bar.mapped_size().checked_mul(count)?)? <= window.cpu.len;
        let host = window.cpu.base.checked_add(offset)?;
        (window.kind != WindowKind::Io && inside && host.is_aligned(PAGE_SIZE)).then_some(host)
    })
}

/// Free space of one window, from the bottom up.
struct Arena {
    next: u64,
    end: u64,
}

fn arenas(host: &PcieHost, kind: WindowKind) -> Vec<Arena> {
    let usable = |window: &&Window| {
        window.kind == kind
            && window
                .pci
                .abs_diff(window.cpu.base.0)
                .is_multiple_of(PAGE_SIZE)
            && (kind == WindowKind::Memory64
                || window.pci.checked_add(window.cpu.len) <= Some(1 << 32))
    };
    let arena = |window: &Window| {
        // Address zero in a BAR means that it has none.
        let next = window.pci.max(ALIGN);
        let end = window.pci.checked_add(window.cpu.len)?;
        Some(Arena { next, end })
    };
    let usable = host.windows.iter().filter(usable);
    usable.filter_map(arena).gather()
}

/// Something that needs an address.
#[derive(Clone, Copy)]
struct Request {
    /// Index of the function, and its BAR; without one, all that is behind this bridge.
    function: usize,
    bar: Option<usize>,
    size: u64,
    align: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pool {
    /// Below 4 GiB.
    Low,
    /// 64-bit, and prefetchable behind a bridge.
    High,
}

struct Layout<'a> {
    /// What `parent` indices start from.
    first: usize,
    functions: &'a mut [FunctionInfo],
    wide_prefetch: Vec<bool>,
    windows: Vec<Windows>,
    low: Vec<Arena>,
    high: Vec<Arena>,
}

impl Layout<'_> {
    /// Places everything; returns the functions of which something found no place.
    fn run(&mut self) -> Vec<usize> {
        let mut homeless = self.too_large();
        let mut spilled = Vec::new();
        for request in self.requests(None, Pool::Low) {
            if let Some(base) = take(&mut self.low, &request) {
                self.place(&request, Pool::Low, base);
            } else if self.is_wide(&request) {
                spilled.push(request);
            } else {
                homeless.push(request.function);
            }
        }
        let high = self.requests(None, Pool::High);
        for request in high.into_iter().chain(spilled) {
            match take(&mut self.high, &request) {
                Some(base) => self.place(&request, Pool::High, base),
                None => homeless.push(request.function),
            }
        }
        homeless
    }

    /// Functions with a BAR larger than its pool: left out first, so that they do not take their neighbours along.
    fn too_large(&self) -> Vec<usize> {
        let mut found = Vec::new();
        for (index, info) in self.functions.iter().enumerate() {
            for (_, bar, count) in info.regions() {
                if !self.fits(index, &bar, count) {
                    found.push(index);
                }
            }
        }
        found
    }

    fn fits(&self, function: usize, bar: &Bar, count: u64) -> bool {
        let size = bar.size.saturating_mul(count);
        let in_arenas = |arenas: &[Arena]| {
            arenas
                .iter()
                .any(|arena| size <= arena.end.saturating_sub(arena.next))
        };
        let spill = bar.kind == BarKind::Memory64 && self.functions[function].parent.is_none();
        match self.pool(function, bar) {
            Pool::Low => in_arenas(&self.low) || spill && in_arenas(&self.high),
            Pool::High => in_arenas(&self.high),
        }
    }

    /// A 64-bit BAR on a root bus may go to either window of the host bridge.
    fn is_wide(&self, request: &Request) -> bool {
        let mut regions = self.functions[request.function].regions();
        let bar = regions.find(|(number, ..)| Some(*number) == request.bar);
        bar.is_some_and(|(_, bar, _)| bar.kind == BarKind::Memory64)
    }

    fn pool(&self, function: usize, bar: &Bar) -> Pool {
        if bar.kind != BarKind::Memory64 || !bar.prefetchable || self.high.is_empty() {
            return Pool::Low;
        }
        let mut above = self.functions[function].parent;
        while let Some(index) = above {
            if !self.wide_prefetch[index - self.first] {
                return Pool::Low;
            }
            above = self.functions[index - self.first].parent;
        }
        Pool::High
    }

    /// What needs space of `pool` right behind `bridge`, or on the root buses; largest alignment first.
    fn requests(&self, bridge: Option<usize>, pool: Pool) -> Vec<Request> {
        let mut requests: Vec<Request> = Vec::new();
        let mut add = |request: Request| {
            let at = requests.partition_point(|other| other.align >= request.align);
            requests.insert(at, request);
        };
        for (index, info) in self.functions.iter().enumerate() {
            if info.parent != bridge.map(|bridge| bridge + self.first) {
                continue;
            }
            for (number, bar, count) in info.regions() {
                if self.pool(index, &bar) == pool && self.fits(index, &bar, count) {
                    add(Request {
                        function: index,
                        bar: Some(number),
                        size: bar.size.saturating_mul(count).max(ALIGN),
                        align: bar.size.max(ALIGN),
                    });
                }
            }
            if let Header::Bridge(Some(_)) = info.header {
                self.measure(index, pool).into_iter().for_each(&mut add);
            }
        }
        requests
    }

    /// The window that `bridge` needs, if any. Sizes past the end of the space saturate, and find no place.
    fn measure(&self, bridge: usize, pool: Pool) -> Option<Request> {
        let requests = self.requests(Some(bridge), pool);
        let align = requests.first()?.align.max(bridge::GRANULE);
        let end = requests.iter().fold(0u64, |end, request| {
            align_up(end, request.align).saturating_add(request.size)
        });
        Some(Request {
            function: bridge,
            bar: None,
            size: align_up(end, bridge::GRANULE),
            align,
        })
    }

    fn place(&mut self, request: &Request, pool: Pool, base: u64) {
        let index = request.function;
        if let Some(number) = request.bar {
            if let Some(bar) = self.functions[index].region_mut(number) {
                bar.pci = Some(base);
            }
            return;
        }
        let window = Some((base, base + (request.size - 1)));
        match pool {
            Pool::Low => self.windows[index].memory = window,
            Pool::High => self.windows[index].prefetch = window,
        }
        let mut next = base;
        for inner in self.requests(Some(index), pool) {
            next = align_up(next, inner.align);
            self.place(&inner, pool, next);
            next += inner.size;
        }
    }
}

/// Takes `request` from the first arena that has the space.
fn take(arenas: &mut [Arena], request: &Request) -> Option<u64> {
    arenas.iter_mut().find_map(|arena| {
        let base = align_up(arena.next, request.align);
        let end = base.checked_add(request.size)?;
        if end > arena.end {
            return None;
        }
        arena.next = end;
        Some(base)
    })
}

/// Writes what was decided; decoding is off.
fn program(
    space: &mut dyn ConfigSpace,
    host: &PcieHost,
    info: &mut FunctionInfo,
    windows: &Windows,
) {
    let regions: Vec<_> = info.regions().collect();
    for (number, bar, count) in regions {
        if let Some(own) = info.region_mut(number) {
            own.host = host_address(host, &bar, count);
        }
    }
    write_bars(space, info);
    sriov::write_bars(space, info);
    if let Header::Bridge(_) = info.header {
        bridge::write_windows(space, info.address, windows);
    }
}

/// Writes the BARs as the record has them, zero where one has no place.
pub fn write_bars(space: &mut dyn ConfigSpace, info: &FunctionInfo) {
    write_registers(space, info.address, spec::BAR0, &info.bars);
}

/// Writes `bars` to the registers from `base` on.
pub fn write_registers(
    space: &mut dyn ConfigSpace,
    function: Function,
    base: u16,
    bars: &[Option<Bar>; 6],
) {
    for (register, bar) in (base..).step_by(4).zip(bars) {
        let Some(bar) = bar else { continue };
        let value = bar.pci.unwrap_or(0);
        space.write32(function, register, value as u32);
        if bar.kind == BarKind::Memory64 {
            space.write32(function, register + 4, (value >> 32) as u32);
        }
    }
}

/// Rounds up to `align`, a power of two; saturates.
fn align_up(value: u64, align: u64) -> u64 {
    value
        .checked_add(align - 1)
        .map_or(!(align - 1), |sum| sum & !(align - 1))
}
