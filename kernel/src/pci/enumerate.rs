//! The walk over the buses of one host bridge. Bus numbers of firmware are kept where they nest; bridges without get
//! the lowest free ones. Recursion is bounded by depth, work by the number of buses.

use super::capability::PortType;
use super::reset::Clock;
use super::sriov::{SriovFault, Wanted};
use super::topology::{Buses, FunctionInfo, Header, Problem, Topology, function_at};
use super::{ConfigSpace, Function, bar, bridge, capability, quiesce, spec, sriov};
use crate::boot_info::PcieHost;
use alloc::vec::Vec;

/// Bridges behind each other; a tree of PCIe switches seldom has more than six.
const MAX_DEPTH: usize = 16;
/// Functions of the machine.
pub const MAX_FUNCTIONS: usize = 1024;

/// Adds the functions of `host`, the `index`th, to `topology`, silent, with their BARs sized and bus numbers for the
/// virtual functions that are `wanted`.
pub fn scan(
    space: &mut dyn ConfigSpace,
    clock: &mut dyn Clock,
    host: &PcieHost,
    index: usize,
    wanted: &[Wanted],
    topology: &mut Topology,
) {
    let (first, mut last) = host.buses;
    let in_ecam = host.ecam.len >> 20;
    if first > last || in_ecam == 0 {
        let problem = Problem::EcamTooSmall(host.segment);
        topology.problems.push(problem);
        return;
    }
    if u64::from(last - first) >= in_ecam {
        last = first + (in_ecam - 1) as u8;
        topology.problems.push(Problem::EcamTooSmall(host.segment));
    }
    let mut scan = Scan {
        space,
        clock,
        host,
        index,
        wanted,
        taken: [false; 256],
        kept: Vec::new(),
        lent: Vec::new(),
        topology,
    };
    let roots = scan.find_roots(first, last);
    for (number, &root) in roots.iter().enumerate() {
        let limit = roots.get(number + 1).map_or(last, |next| next - 1);
        scan.bus(root, limit, None, 0);
    }
}

struct Scan<'a> {
    space: &'a mut dyn ConfigSpace,
    clock: &'a mut dyn Clock,
    host: &'a PcieHost,
    index: usize,
    wanted: &'a [Wanted],
    /// Bus numbers in use.
    taken: [bool; 256],
    /// Bridges that keep what firmware gave them.
    kept: Vec<(Function, Buses)>,
    /// Numbers that virtual functions have, and the bus that these are of.
    lent: Vec<(u8, u8)>,
    topology: &'a mut Topology,
}

impl Scan<'_> {
    /// The root buses: the first one, and those that answer though no bridge leads to them (expander bridges). Keeps
    /// sound bus numbers of firmware on the way and closes the other bridges, so that each bus is seen once.
    fn find_roots(&mut self, first: u8, last: u8) -> Vec<u8> {
        let mut roots = Vec::new();
        for bus in first..=last {
            if self.taken[usize::from(bus)] {
                continue;
            }
            if bus == first || (0..32).any(|device| self.vendor(bus, device, 0).is_some()) {
                self.taken[usize::from(bus)] = true;
                roots.push(bus);
                self.keep_numbers(bus, last, 0);
            }
        }
        roots
    }

    fn keep_numbers(&mut self, bus: u8, limit: u8, depth: usize) {
        for device in 0..32 {
            for function in 0..self.functions_of(bus, device) {
                let at = function_at(self.host.segment, bus, device, function);
                if self.vendor(bus, device, function).is_none()
                    || self.space.read8(at, spec::HEADER_TYPE) & 0x7f != 1
                {
                    continue;
                }
                let numbers = self.space.read32(at, spec::BRIDGE_BUSES).to_le_bytes();
                let [primary, secondary, subordinate, _] = numbers;
                let range = usize::from(secondary)..=usize::from(subordinate);
                let sound = primary == bus
                    && secondary > bus
                    && secondary <= subordinate
                    && subordinate <= limit
                    && depth < MAX_DEPTH
                    // On the way down the parent's whole range is taken: siblings are told apart by what was kept.
                    && !self.collides(at, secondary, subordinate, depth);
                if sound {
                    self.taken[range].fill(true);
                    let buses = Buses {
                        secondary,
                        subordinate,
                    };
                    self.kept.push((at, buses));
                    self.keep_numbers(secondary, subordinate, depth + 1);
                } else {
                    bridge::write_buses(self.space, at, 0, 0, 0);
                }
            }
        }
    }

    /// Whether `secondary..=subordinate` overlaps a kept range that does not enclose the bus of `at`.
    fn collides(&self, at: Function, secondary: u8, subordinate: u8, depth: usize) -> bool {
        let bus = at.bdf.bus();
        let root_taken =
            depth == 0 && (secondary..=subordinate).any(|number| self.taken[usize::from(number)]);
        root_taken
            || self.kept.iter().any(|(_, other)| {
                let encloses = other.secondary <= bus && bus <= other.subordinate;
                !encloses && other.secondary <= subordinate && secondary <= other.subordinate
            })
    }

    /// Records what is on `bus`, which may use numbers up to `limit` below it.
    fn bus(&mut self, bus: u8, limit: u8, parent: Option<usize>, depth: usize) -> u8 {
        let mut bridges = Vec::new();
        let first = self.topology.functions.len();
        let devices = if parent.is_some_and(|bridge| self.leads_to_one_device(bridge)) {
            1
        } else {
            32
        };
        for device in 0..devices {
            for function in 0..self.functions_of(bus, device) {
                let Some(vendor) = self.vendor(bus, device, function) else {
                    continue;
                };
                let at = function_at(self.host.segment, bus, device, function);
                if self.topology.functions.len() >= MAX_FUNCTIONS {
                    self.topology.problems.push(Problem::TooMany(at));
                    return limit;
                }
                let info = self.describe(at, vendor, parent);
                if let Header::Bridge(_) = info.header {
                    bridges.push(self.topology.functions.len());
                }
                self.topology.functions.push(info);
            }
        }
        let mut highest = self.lend_numbers(first, bus, limit);
        for bridge in bridges {
            let buses = self.behind(bridge, bus, limit, depth);
            self.topology.functions[bridge].header = Header::Bridge(buses);
            highest = highest.max(buses.map_or(0, |buses| buses.subordinate));
        }
        highest
    }

    /// Gives the virtual functions of those from `first` on, all of `bus`, the bus numbers that they will have (§9.2.1.2).
    /// The highest.
    fn lend_numbers(&mut self, first: usize, bus: u8, limit: u8) -> u8 {
        let mut highest = bus;
        for index in first..self.topology.functions.len() {
            let info = &self.topology.functions[index];
            let Some(sriov) = &info.sriov else { continue };
            let mut numbers: Vec<u8> = sriov
                .routing_ids(info.address.bdf.requester_id())
                .map(|id| (id >> 8) as u8)
                .filter(|number| *number != bus)
                .collect();
            numbers.dedup();
            if let Some(bad) = numbers
                .iter()
                .find(|number| !self.may_lend(**number, bus, limit))
            {
                let problem = Problem::Sriov(info.address, SriovFault::Bus(*bad));
                self.topology.problems.push(problem);
                if let Some(sriov) = &mut self.topology.functions[index].sriov {
                    sriov.vfs = 0;
                    sriov.bars = [None; 6];
                }
                continue;
            }
            for number in numbers {
                self.taken[usize::from(number)] = true;
                self.lent.push((number, bus));
                highest = highest.max(number);
            }
        }
        highest
    }

    /// Whether virtual functions of `bus` may be on bus `number`: nobody else is, and no bridge leads there but those that
    /// lead to `bus`.
    fn may_lend(&self, number: u8, bus: u8, limit: u8) -> bool {
        let kept = |at: u8| {
            let ranges = self.kept.iter().map(|(_, buses)| buses);
            let ranges =
                ranges.filter(move |buses| (buses.secondary..=buses.subordinate).contains(&at));
            ranges.map(|buses| (buses.secondary, buses.subordinate))
        };
        let lent = self.lent.iter().find(|(other, _)| *other == number);
        let free = match lent {
            Some((_, of)) => *of == bus,
            // All of a kept range is taken from the start: free in there is what is not in one more.
            None if kept(number).next().is_some() => kept(number).eq(kept(bus)),
            None => !self.taken[usize::from(number)],
        };
        free && bus < number && number <= limit
    }

    /// Gives the bridge its numbers and walks what is behind it.
    fn behind(&mut self, bridge: usize, bus: u8, limit: u8, depth: usize) -> Option<Buses> {
        let at = self.topology.functions[bridge].address;
        if let Some(&(_, buses)) = self.kept.iter().find(|(kept, _)| *kept == at) {
            self.bus(buses.secondary, buses.subordinate, Some(bridge), depth + 1);
            return Some(buses);
        }
        if depth >= MAX_DEPTH {
            self.topology.problems.push(Problem::TooDeep(at));
            return None;
        }
        let taken = &self.taken;
        let free = |number: &u8| !taken[usize::from(*number)];
        let Some(secondary) = (bus..=limit).skip(1).find(free) else {
            self.topology.problems.push(Problem::NoBusNumber(at));
            return None;
        };
        // Open up to the next number in use, and close to what was needed afterwards.
        let run = (secondary..=limit).skip(1).take_while(free);
        let widest = run.last().unwrap_or(secondary);
        self.taken[usize::from(secondary)] = true;
        bridge::write_buses(self.space, at, bus, secondary, widest);
        let subordinate = self.bus(secondary, widest, Some(bridge), depth + 1);
        bridge::write_buses(self.space, at, bus, secondary, subordinate);
        Some(Buses {
            secondary,
            subordinate,
        })
    }

    /// Silences the function, then reads its header, BARs and capabilities.
    fn describe(&mut self, at: Function, vendor: u16, parent: Option<usize>) -> FunctionInfo {
        let space = &mut *self.space;
        let class = space.read32(at, spec::CLASS);
        let layout = space.read8(at, spec::HEADER_TYPE);
        let header = match layout & 0x7f {
            0 => Header::Endpoint,
            1 => Header::Bridge(None),
            other => Header::Unknown(other),
        };
        let mut subsystem = (0, 0);
        if header == Header::Endpoint {
            let word = space.read32(at, spec::SUBSYSTEM);
            subsystem = (word as u16, (word >> 16) as u16);
        }
        let mut info = FunctionInfo {
            address: at,
            host: self.index,
            parent,
            physical: None,
            vendor,
            device: space.read16(at, spec::VENDOR + 2),
            revision: class as u8,
            class: class >> 8,
            subsystem,
            header,
            multifunction: layout & spec::HEADER_MULTIFUNCTION != 0,
            interrupt_pin: match space.read8(at, spec::INTERRUPT_PIN) {
                pin @ 1..=4 => pin,
                _ => 0,
            },
            intx: None,
            bars: [None; 6],
            sriov: None,
            capabilities: capability::Capabilities::default(),
            requester_ids: Vec::new(),
            streams: Vec::new(),
            msi: None,
            group: 0,
        };
        // First the command register alone: BARs are sized with decoding off, capabilities are known after that.
        quiesce(space, &info);
        let (count, rom) = match header {
            Header::Endpoint => (6, Some(spec::ROM)),
            Header::Bridge(_) => (2, Some(spec::BRIDGE_ROM)),
            Header::Unknown(other) => {
                let problem = Problem::HeaderType(at, other);
                self.topology.problems.push(problem);
                (0, None)
            }
        };
        if !info.is_host_bridge() {
            let (bars, fault) = bar::size(space, at, count);
            info.bars = bars;
            if let Some((index, fault)) = fault {
                self.topology.problems.push(Problem::Bar(at, index, fault));
            }
            if let Some(rom) = rom {
                space.write32(at, rom, 0);
            }
        }
        info.capabilities = capability::read(space, at, &info.bars);
        if let Some(fault) = info.capabilities.fault {
            self.topology.problems.push(Problem::Capability(at, fault));
        }
        if let Some(offset) = info.capabilities.sriov {
            sriov::settle(space, self.clock, at, offset);
        }
        quiesce(space, &info);
        self.describe_virtual(&mut info);
        info
    }

    /// Adds what `info` says of its virtual functions, with as many as are wanted.
    fn describe_virtual(&mut self, info: &mut FunctionInfo) {
        let at = info.address;
        let wanted = self.wanted.iter().find(|wanted| wanted.function == at);
        let wanted = wanted.map_or(0, |wanted| wanted.vfs);
        let capability = info.capabilities.sriov;
        let capability = capability.filter(|_| info.header == Header::Endpoint);
        let fault = match capability {
            Some(offset) => {
                let port = info.parent.map(|port| &self.topology.functions[port]);
                let ari = sriov::has_ari(self.space, port, &info.capabilities);
                let (sriov, fault) = sriov::prepare(self.space, info, offset, wanted, ari);
                info.sriov = Some(sriov);
                fault
            }
            None => (wanted != 0).then_some(SriovFault::Absent),
        };
        if let Some(fault) = fault {
            self.topology.problems.push(Problem::Sriov(at, fault));
        }
    }

    /// PCIe §7.3.1: the link below a port leads to device 0 only; other numbers would be the same device again.
    fn leads_to_one_device(&self, bridge: usize) -> bool {
        let express = self.topology.functions[bridge].capabilities.express;
        express.is_some_and(|express| {
            matches!(express.port, PortType::RootPort | PortType::Downstream)
        })
    }

    /// How many function numbers of a device are to be looked at.
    fn functions_of(&mut self, bus: u8, device: u8) -> u8 {
        if self.vendor(bus, device, 0).is_none() {
            return 0;
        }
        let at = function_at(self.host.segment, bus, device, 0);
        let layout = self.space.read8(at, spec::HEADER_TYPE);
        if layout & spec::HEADER_MULTIFUNCTION != 0 {
            8
        } else {
            1
        }
    }

    /// The vendor ID of a function that is there and ready.
    fn vendor(&mut self, bus: u8, device: u8, function: u8) -> Option<u16> {
        let at = function_at(self.host.segment, bus, device, function);
        match self.space.read16(at, spec::VENDOR) {
            0 | 0xffff => None,
            // Configuration request retry status (§2.3.1).
            1 => {
                let problem = Problem::NotReady(at);
                if !self.topology.problems.contains(&problem) {
                    self.topology.problems.push(problem);
                }
                None
            }
            vendor => Some(vendor),
        }
    }
}
