//! A partition: its memory, what is in it at the start, and its end.

use super::devices::Devices;
use crate::bundle::Bundle;
use crate::config;
use crate::guest_map::x86_64::{HIGH_RAM, LOW_RAM_END};
use crate::host::Host;
use crate::lock::Mutex;
use crate::pc_boot::{self, Refused, Start};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::memory::{FramePool, Frames};
use arch::x86_64::technology::Technology;
use arch::x86_64::vcpu::{DescriptorTable, RAX, RBX, RSI, Registers, State, Tables, Vcpu};
use core::fmt;
use iommu::addr::{Gpa, Hpa, Span};
use iommu::table::{Attributes, Ept, Format, MapError, Npt, PageTable, Replace, Shape};

/// Width of guest physical addresses: four levels of nested tables.
pub const ADDRESS_BITS: u8 = 48;
/// RAM is mapped by leaves of this size where it can be.
const BLOCK: u64 = 2 << 20;

/// One VM.
pub struct Partition {
    /// Its number.
    pub index: usize,
    /// As the configuration says.
    pub config: config::Partition,
    /// The CPU that its vCPU runs on.
    pub cpu: usize,
    /// What it sees beside memory.
    pub devices: Mutex<Devices>,
    memory: Frames,
    spans: Vec<Span<Gpa>>,
    /// As long as it runs.
    _nested: Nested,
    tables: Arc<Tables>,
    kernel: &'static [u8],
    initrd: &'static [u8],
}

/// Nested tables, as the CPU walks them.
enum Nested {
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

/// Why there is no such partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// The bundle lacks its kernel, payload or initrd.
    File,
    /// It wants more than one vCPU.
    Vcpus(usize),
    /// It wants a CPU that the machine does not have, or that another one has.
    Cpu(u16),
    /// It has devices or a VT-d unit of its own.
    Devices,
    /// There is no such piece of RAM.
    Memory(u64),
    /// Its nested tables cannot be made.
    Tables(MapError),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => f.write_str("a file is missing"),
            Self::Vcpus(vcpus) => write!(f, "{vcpus} vCPUs; one is all there is on x86_64 so far"),
            Self::Cpu(cpu) => write!(f, "CPU {cpu} is not there, or another partition's"),
            Self::Devices => f.write_str("devices cannot be assigned on x86_64 yet"),
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
        bundle: &Bundle<'static>,
        technology: &Technology,
        frames: &'static FramePool,
        free: impl Fn(usize) -> bool,
    ) -> Result<Self, Error> {
        let [cpu] = config.cpus[..] else {
            return Err(Error::Vcpus(config.cpus.len()));
        };
        if !free(usize::from(cpu)) {
            return Err(Error::Cpu(cpu));
        }
        if config.viommu || !config.devices.is_empty() {
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
        let low = len.min(LOW_RAM_END.0);
        let mut spans = Vec::with_capacity(2);
        for (base, len) in [(Gpa(0), low), (HIGH_RAM, len - low)] {
            if len != 0 {
                spans.push(Span { base, len });
            }
        }
        let nested = Nested::new(technology, frames, &spans, Hpa(memory.base()));
        let nested = nested.map_err(Error::Tables)?;
        let tables = Arc::new(Tables::new(nested.root(), 4, 1));
        Ok(Self {
            index,
            cpu: usize::from(cpu),
            config,
            devices: Mutex::new(Devices::new()),
            memory,
            spans,
            _nested: nested,
            tables,
            kernel,
            initrd,
        })
    }

    /// What the console calls it.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Puts its files into its memory, and makes its vCPU, as they say that it starts. On the CPU that runs it.
    pub fn load(&self, technology: &Technology) -> Result<Vcpu, Refused> {
        let plan = pc_boot::plan(
            self.kernel,
            &pc_boot::Guest {
                memory: &self.spans,
                command_line: self.config.cmdline.as_deref().unwrap_or_default(),
                initrd: self.initrd,
                acpi: &[],
            },
        )?;
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
        let vcpu = technology.vcpu(&self.tables, 0);
        // The tables were made for one vCPU.
        let mut vcpu = vcpu.ok_or(Refused::Memory)?;
        vcpu.reset(&state, registers);
        Ok(vcpu)
    }

    /// Copies `bytes` out of its RAM, if all of it is in one piece of that.
    pub fn read(&self, at: Gpa, bytes: &mut [u8]) -> Option<()> {
        let offset = self.offset(at, bytes.len())?;
        self.memory.read_bytes(offset, bytes);
        Some(())
    }

    fn write(&self, at: Gpa, bytes: &[u8]) -> Option<()> {
        let offset = self.offset(at, bytes.len())?;
        self.memory.write_bytes(offset, bytes);
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
