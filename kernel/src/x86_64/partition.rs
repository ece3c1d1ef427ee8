//! A partition: its memory, what is in it at the start, and its end.

use super::devices::Devices;
use super::functions::{self, Functions};
use super::irq;
use super::system::System;
use crate::boot_info::BootInfo;
use crate::budget::Budget;
use crate::bundle::Bundle;
use crate::config::{self, DeviceAddress, Platform};
use crate::gate::Gate;
use crate::guest_acpi::x86_64 as guest_acpi;
use crate::guest_map::x86_64::ADDRESS_BITS;
use crate::host::Host;
use crate::life::{Change, Entry, Life};
use crate::lock::Mutex;
use crate::machine::Ram;
use crate::pc_boot::{self, Refused, Start};
use crate::vdev::CpuSet;
use crate::vdev::v16550::V16550;
use crate::vdev::vlapic::Effects;
use crate::{say, terminal};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::clock;
use arch::memory::FramePool;
use arch::mmio::MmioPool;
use arch::x86_64::technology::Technology;
use arch::x86_64::vcpu::{DescriptorTable, RAX, RBX, RSI, Registers, State, Tables, Vcpu};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};
use iommu::addr::{Gpa, Hpa, Span};
use iommu::table::{
    Attributes, Ept, Format, Invalidated, MapError, Npt, PageTable, Replace, Shape,
};

/// RAM is mapped by leaves of this size where it can be.
const BLOCK: u64 = 2 << 20;
/// Bytes of it that are cleared in one go, in far less than a millisecond.
const PIECE: usize = 64 << 10;

/// One VM.
pub struct Partition {
    /// Its number.
    pub index: usize,
    /// As the configuration says.
    pub config: config::Partition,
    /// Physical CPU of each vCPU.
    pub cpus: Vec<usize>,
    /// When it runs.
    pub life: Life,
    /// What it sees beside memory.
    pub devices: Mutex<Devices>,
    /// Its functions and their DMA.
    pub functions: Functions,
    /// DMA faults since it was started.
    pub faults: AtomicU64,
    /// Restarts that its faults may cause.
    pub fault_restarts: Mutex<Budget>,
    /// How often it was started again.
    pub restarts: AtomicU64,
    /// vCPUs that have got INIT and do not know it yet: a bit for each.
    pub(super) resets: AtomicU64,
    /// How vCPU 0 starts, once its files are in place.
    boot: Mutex<Option<(State, Registers)>>,
    memory: Arc<Ram>,
    spans: Vec<Span<Gpa>>,
    /// What its CPUs reach.
    pub(super) nested: Mutex<Nested>,
    /// Who has what of that.
    pub(super) tables: Arc<Tables>,
    kernel: &'static [u8],
    initrd: &'static [u8],
}

/// What partitions are made from.
pub struct Materials<'a> {
    /// The machine.
    pub info: &'a BootInfo,
    /// Files of the guests.
    pub bundle: &'a Bundle<'static>,
    /// How its CPUs run guests.
    pub technology: &'a Technology,
    /// Free RAM.
    pub frames: &'static FramePool,
    /// The IOMMUs and the buses.
    pub gate: &'a Gate,
    /// Device registers.
    pub mmio: Mutex<&'a mut MmioPool>,
}

/// Nested tables, as the CPU walks them.
pub(super) enum Nested {
    Npt(PageTable<Host, Npt>),
    Ept(PageTable<Host, Ept>),
}

impl Nested {
    /// With `spans`, one after the other, from `host` on.
    fn new(
        technology: &Technology,
        frames: &'static FramePool,
        spans: &[Span<Gpa>],
        host: Hpa,
    ) -> Result<Self, MapError> {
        Ok(match technology {
            Technology::Svm { .. } => Self::Npt(nested(frames, spans, host)?),
            Technology::Vmx { .. } => Self::Ept(nested(frames, spans, host)?),
        })
    }

    fn root(&self) -> u64 {
        match self {
            Self::Npt(table) => table.root().0,
            Self::Ept(table) => table.root().0,
        }
    }

    /// Maps registers of a device.
    pub fn map(&mut self, span: Span<Gpa>, host: Hpa) -> Result<(), MapError> {
        match self {
            Self::Npt(table) => table.map(span, host, Attributes::DEVICE),
            Self::Ept(table) => table.map(span, host, Attributes::DEVICE),
        }
    }

    /// Takes `span` away. `forgotten` returns once no CPU has anything of it.
    pub fn unmap(&mut self, span: Span<Gpa>, forgotten: impl FnOnce()) {
        match self {
            Self::Npt(table) => unmap(table, span, forgotten),
            Self::Ept(table) => unmap(table, span, forgotten),
        }
    }
}

fn nested<F: Format<Attributes = Attributes>>(
    frames: &'static FramePool,
    spans: &[Span<Gpa>],
    mut host: Hpa,
) -> Result<PageTable<Host, F>, MapError> {
    let shape = Shape {
        replace: Replace::InPlace,
        ..Shape::new(ADDRESS_BITS)
    };
    let mut table = PageTable::with_shape(Arc::new(Host(frames)), shape)?;
    for span in spans {
        table.map(*span, host, Attributes::RAM)?;
        host.0 += span.len;
    }
    Ok(table)
}

fn unmap<F: Format<Attributes = Attributes>>(
    table: &mut PageTable<Host, F>,
    span: Span<Gpa>,
    forgotten: impl FnOnce(),
) {
    let cut = table.unmap(span);
    forgotten();
    table.release(cut, Invalidated::complete());
}

/// Why there is no such partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// The bundle lacks its kernel, payload or initrd.
    File,
    /// It wants so many vCPUs.
    Vcpus(usize),
    /// It wants a CPU that the machine does not have, or that another one has.
    Cpu(u16),
    /// It has a VT-d unit of its own, or devices that are no functions.
    Devices,
    /// Its functions cannot be had.
    Functions(functions::Error),
    /// There is no such piece of RAM.
    Memory(u64),
    /// Its nested tables cannot be made.
    Tables(MapError),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => f.write_str("a file is missing"),
            Self::Vcpus(vcpus) => write!(f, "{vcpus} vCPUs: from 1 to 64 can be had"),
            Self::Cpu(cpu) => write!(f, "CPU {cpu} is not there, or another partition's"),
            Self::Devices => f.write_str(
                "a VT-d unit of its own, or devices without a PCI address, are not there on x86_64 yet",
            ),
            Self::Functions(error) => error.fmt(f),
            Self::Memory(len) => write!(f, "no {} MiB of RAM in one piece", len >> 20),
            Self::Tables(error) => write!(f, "nested tables: {error}"),
        }
    }
}

impl Partition {
    /// Everything that `config` asks for, with nothing in its memory yet. `free`: whether a CPU is there and nobody's.
    pub fn new(
        index: usize,
        config: config::Partition,
        materials: &Materials<'_>,
        free: impl Fn(usize) -> bool,
    ) -> Result<Self, Error> {
        let &Materials {
            bundle,
            technology,
            frames,
            ..
        } = materials;
        let vcpus = config.cpus.len();
        let devices = Devices::new(vcpus).ok_or(Error::Vcpus(vcpus))?;
        let mut cpus: Vec<usize> = Vec::with_capacity(vcpus);
        for &cpu in &config.cpus {
            let number = usize::from(cpu);
            if !free(number) || cpus.contains(&number) {
                return Err(Error::Cpu(cpu));
            }
            cpus.push(number);
        }
        let is_function = |device: &config::Device| matches!(device.address, DeviceAddress::Pci(_));
        if config.viommu || !config.devices.iter().all(is_function) {
            return Err(Error::Devices);
        }
        let file = |name: Option<&String>| match name {
            Some(name) => bundle.file(name).ok_or(Error::File),
            None => Ok(&[][..]),
        };
        let kernel = file(config.kernel.as_ref().or(config.payload.as_ref()))?;
        let initrd = file(config.initrd.as_ref())?;
        let len = config.memory.0;
        let memory = frames.allocate(len, BLOCK).ok_or(Error::Memory(len))?;
        let [low, high] = Platform::X86_64.ram(len);
        let mut spans = alloc::vec![low];
        if high.len != 0 {
            spans.push(high);
        }
        let nested = Nested::new(technology, frames, &spans, Hpa(memory.base()));
        let nested = nested.map_err(Error::Tables)?;
        let tables = Arc::new(Tables::new(nested.root(), 4, vcpus));
        let memory = Arc::new(Ram(memory));
        let functions = Functions::new(index, &config, materials, &memory, &spans);
        let functions = functions.map_err(Error::Functions)?;
        Ok(Self {
            index,
            cpus,
            life: Life::new(vcpus),
            config,
            devices: Mutex::new(devices),
            functions,
            faults: AtomicU64::new(0),
            fault_restarts: Mutex::new(Budget::new()),
            restarts: AtomicU64::new(0),
            resets: AtomicU64::new(0),
            boot: Mutex::new(None),
            memory,
            spans,
            nested: Mutex::new(nested),
            tables,
            kernel,
            initrd,
        })
    }

    /// What the console calls it.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Puts its files into its memory. How vCPU 0 starts then.
    fn load(&self) -> Result<(State, Registers), Refused> {
        let acpi = guest_acpi::build(&guest_acpi::Guest {
            vcpus: self.cpus.len(),
            pcie: !self.config.devices.is_empty(),
            vtd: None,
        });
        let command_line = self.command_line();
        let plan = pc_boot::plan(
            self.kernel,
            &pc_boot::Guest {
                memory: &self.spans,
                command_line: &command_line,
                initrd: self.initrd,
                acpi: &acpi,
            },
        )?;
        if self.restarts.load(Ordering::Relaxed) != 0 {
            self.clear();
        }
        for part in &plan.parts {
            self.write(part.at, &part.bytes)
                .ok_or(Refused::Overlap(part.at))?;
        }
        let gdtr = DescriptorTable {
            base: plan.gdt.base.0,
            limit: plan.gdt.len as u16 - 1,
        };
        let mut registers = Registers::default();
        let state = match plan.start {
            Start::Long { rip, rsi, cr3 } => {
                registers.general[RSI] = rsi;
                State::long(rip, cr3, gdtr)
            }
            Start::Protected { eip, eax, ebx } => {
                registers.general[RAX] = eax.into();
                registers.general[RBX] = ebx.into();
                State {
                    gdtr,
                    ..State::protected(eip)
                }
            }
        };
        Ok((state, registers))
    }

    /// Its vCPU of this number.
    pub fn vcpu(&self, technology: &Technology, index: usize) -> Vcpu {
        let vcpu = technology.vcpu(&self.tables, index);
        vcpu.expect("the tables were made for all of its vCPUs")
    }

    /// As which vCPU `index` starts, which was sent to `entry`.
    pub fn start_state(&self, index: usize, entry: Entry) -> (State, Registers) {
        match (index, &*self.boot.lock()) {
            (0, Some((state, registers))) => (*state, registers.clone()),
            _ => (State::started((entry.pc >> 12) as u8), Registers::default()),
        }
    }

    /// Starts it; a line says why if it cannot be. No vCPU is inside.
    pub fn start(&self, system: &'static System) {
        match self.load() {
            Ok(boot) => {
                *self.boot.lock() = Some(boot);
                self.devices.lock().start();
                self.open(system);
                self.life.started(Entry { pc: 0, argument: 0 });
                system.kick(self, CpuSet::one(0));
            }
            Err(error) => {
                say!("{}: cannot start: {error}", self.name());
                self.life.stopped();
            }
        }
    }

    /// Carries `change` out. Runs on vCPU 0's CPU, with no vCPU inside.
    pub fn carry(&self, system: &'static System, change: Change) {
        self.close(system);
        terminal::end_line(self.index);
        match change {
            Change::Restart => {
                self.restarts.fetch_add(1, Ordering::Relaxed);
                // After the first life all that a life may leave is there.
                say!(
                    "{}: restarts with {} objects, {}",
                    self.name(),
                    self.dma().objects(),
                    system.memory()
                );
                self.start(system);
            }
            Change::Stop => {
                say!("{}: stopped", self.name());
                self.life.stopped();
            }
        }
        system.end_if_idle();
    }

    /// Does something with what it sees beside memory, and carries out what that means to its vCPUs.
    pub fn with_devices<T>(&self, system: &System, action: impl FnOnce(&mut Devices) -> T) -> T {
        let mut devices = self.devices.lock();
        let result = action(&mut devices);
        let effects = devices.take_effects();
        drop(devices);
        self.apply(system, &effects);
        result
    }

    /// Carries out what a change of its local APICs means.
    pub(super) fn apply(&self, system: &System, effects: &Effects) {
        for vcpu in effects.init.iter() {
            if vcpu == 0 {
                // A PC's firmware would start from its reset vector.
                self.ask(system, Change::Restart);
            } else {
                self.life.turn_off(vcpu);
                self.resets.fetch_or(1 << vcpu, Ordering::AcqRel);
            }
        }
        for vcpu in effects.start.iter() {
            let pc = u64::from(effects.page) << 12;
            self.life.turn_on(vcpu, Entry { pc, argument: 0 });
        }
        let kick = effects.kick.union(effects.init).union(effects.start);
        system.kick(self, kick);
    }

    /// A byte from the console.
    pub fn receive(&self, system: &System, byte: u8) {
        self.with_devices(system, |devices| {
            devices.with_uart(|uart| uart.receive(byte))
        });
    }

    /// Whether its UART takes another byte, or loses it whenever it comes.
    pub fn has_room(&self) -> bool {
        self.devices.lock().has_room()
    }

    /// All that its UART has taken is gone.
    pub fn resume_output(&self, system: &System) {
        self.with_devices(system, |devices| devices.with_uart(V16550::resume));
    }

    /// Zeroes all of its RAM.
    fn clear(&self) {
        let end = self.memory.0.len() as usize;
        for at in (0..end).step_by(PIECE) {
            self.memory.0.zero(at, PIECE.min(end - at));
            irq::serve_meanwhile();
        }
    }

    /// What its kernel is told. Linux takes the rate of the TSC from CPUID on Intel's CPUs only, and by the ACPI timer only where
    /// a read of that takes less than 50 us (`tsc_read_refs`): so it is told, before what the integrator says.
    fn command_line(&self) -> String {
        let given = self.config.cmdline.as_deref().unwrap_or_default();
        let mut line = String::new();
        if self.config.kernel.is_some() {
            // A string takes everything.
            let _ = write!(line, "tsc_early_khz={} ", clock::frequency() / 1000);
        }
        line.push_str(given);
        line
    }

    /// Copies `bytes` out of its RAM, if all of it is in one piece of that.
    pub fn read(&self, at: Gpa, bytes: &mut [u8]) -> Option<()> {
        let offset = self.offset(at, bytes.len())?;
        self.memory.0.read_bytes(offset, bytes);
        Some(())
    }

    fn write(&self, at: Gpa, bytes: &[u8]) -> Option<()> {
        let offset = self.offset(at, bytes.len())?;
        self.memory.0.write_bytes(offset, bytes);
        Some(())
    }

    /// Where in its piece of the machine's RAM the `len` bytes at `at` are.
    fn offset(&self, at: Gpa, len: usize) -> Option<usize> {
        let mut before = 0;
        for span in &self.spans {
            if let Some(into) = at.0.checked_sub(span.base.0)
                && into.checked_add(len as u64)? <= span.len
            {
                return usize::try_from(before + into).ok();
            }
            before += span.len;
        }
        None
    }
}
