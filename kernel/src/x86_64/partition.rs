//! A partition: its memory, what is in it at the start, and its end.

use super::devices::{Devices, address_bits};
use super::functions::{self, Functions};
use super::irq::POSTED;
use super::system::System;
use crate::boot_info::BootInfo;
use crate::budget::Budget;
use crate::bundle::Bundle;
use crate::config::{self, Platform};
use crate::gate::Gate;
use crate::gather::Gather;
use crate::guest_acpi::x86_64 as guest_acpi;
use crate::guest_map::x86_64::{VTD, VTD_STRIDE};
use crate::guest_ram::GuestRam;
use crate::life::{Change, Entry, Life};
use crate::lock::Mutex;
use crate::nested::Nested;
use crate::pc_boot::{self, Refused, Start};
use crate::vdev::CpuSet;
use crate::vdev::v16550::V16550;
use crate::vdev::vlapic::Effects;
use crate::viommu;
use crate::{say, terminal};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::memory::{FramePool, Frames};
use arch::mmio::MmioPool;
use arch::x86_64::technology::Technology;
use arch::x86_64::vcpu::{DescriptorTable, Posted, RAX, RBX, RSI, Registers, State, Tables, Vcpu};
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use iommu::addr::Span;
use iommu::table::MapError;

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
    /// Where interrupts are posted to each vCPU.
    pub(super) posted: Vec<Posted>,
    /// vCPUs that have got INIT and do not know it yet: a bit for each.
    pub(super) resets: AtomicU64,
    /// How vCPU 0 starts, once its files are in place.
    boot: Mutex<Option<(State, Registers)>>,
    /// Its RAM.
    pub ram: GuestRam,
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

/// Why there is no such partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// The rules should have refused it.
    Unfit,
    /// Its functions cannot be had.
    Functions(functions::Error),
    /// Its nested tables cannot be made.
    Tables(MapError),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unfit => f.write_str("it does not fit this machine"),
            Self::Functions(error) => error.fmt(f),
            Self::Tables(error) => write!(f, "nested tables: {error}"),
        }
    }
}

impl Partition {
    /// Everything that `config` asks for, with nothing in its memory yet.
    pub fn new(
        index: usize,
        config: config::Partition,
        ram: Frames,
        materials: &Materials<'_>,
    ) -> Result<Self, Error> {
        let &Materials {
            bundle,
            technology,
            frames,
            ..
        } = materials;
        let vcpus = config.cpus.len();
        let mut devices = Devices::new(vcpus).ok_or(Error::Unfit)?;
        let cpus: Vec<usize> = config.cpus.iter().map(|&cpu| cpu.into()).gather();
        let file = |name: Option<&String>| match name {
            Some(name) => bundle.file(name).ok_or(Error::Unfit),
            None => Ok(&[][..]),
        };
        let kernel = file(config.kernel.as_ref().or(config.payload.as_ref()))?;
        let initrd = file(config.initrd.as_ref())?;
        let ram = GuestRam::new(ram, Platform::X86_64);
        let nested = match technology {
            Technology::Svm { .. } => Nested::npt,
            Technology::Vmx { .. } => Nested::ept,
        };
        let nested = nested(frames, ram.spans(), ram.host());
        let mut nested = nested.map_err(Error::Tables)?;
        let tables = Arc::new(Tables::new(nested.root(), 4, vcpus));
        let functions = Functions::new(index, &config, materials, &ram);
        let functions = functions.map_err(Error::Functions)?;
        let viommus = functions.devices.dma.viommus();
        if !viommus.is_empty() {
            devices.interrupts.set_remapped();
        }
        for (number, viommu) in (0..).zip(viommus) {
            let page = Span {
                base: VTD.base + number * VTD_STRIDE,
                len: VTD_STRIDE,
            };
            let mapped = nested.map(page, viommu.image(), viommu::REGISTERS);
            mapped.map_err(Error::Tables)?;
        }
        let mut posted = Vec::with_capacity(vcpus);
        for &cpu in &cpus {
            posted.push(Posted::new(materials.gate.messages.notification(cpu)));
        }
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
            posted,
            resets: AtomicU64::new(0),
            boot: Mutex::new(None),
            ram,
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

    /// How often it was started again.
    pub fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// Puts its files into its memory. How vCPU 0 starts then.
    fn load(&self) -> Result<(State, Registers), Refused> {
        let behind = self.assigned().behind_viommus();
        let vtd = guest_acpi::Vtd {
            units: &behind,
            address_bits: address_bits(),
            interrupts: true,
        };
        let acpi = guest_acpi::build(&guest_acpi::Guest {
            vcpus: self.cpus.len(),
            pcie: !self.config.devices.is_empty(),
            vtd: (!behind.is_empty()).then_some(vtd),
        });
        let plan = pc_boot::plan(
            self.kernel,
            &pc_boot::Guest {
                memory: self.ram.spans(),
                command_line: self.config.cmdline.as_deref().unwrap_or_default(),
                initrd: self.initrd,
                acpi: &acpi,
            },
        )?;
        self.ram.clear();
        for part in &plan.parts {
            let filled = self.ram.fill(part.at, &part.bytes);
            filled.map_err(|_| Refused::Overlap(part.at))?;
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
    pub fn vcpu(&'static self, technology: &Technology, index: usize) -> Vcpu {
        let posted = (&self.posted[index], POSTED);
        let vcpu = technology.vcpu(&self.tables, index, Some(posted));
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
                for posted in &self.posted {
                    // Of the life before.
                    posted.take();
                }
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
                    "{}: restarts with {} objects, {} events, {}",
                    self.name(),
                    self.dma().objects(),
                    self.dma().waiting_events(),
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
        let mut sent = devices.interrupts.next_sent();
        drop(devices);
        if let Some(effects) = effects {
            self.apply(system, &effects);
        }
        while let Some(msi) = sent {
            self.send_message(system, None, msi);
            sent = self.devices.lock().interrupts.next_sent();
        }
        result
    }

    /// Carries out what a change of its local APICs means.
    pub(crate) fn apply(&self, system: &System, effects: &Effects) {
        if effects.switched != CpuSet::NONE {
            self.stop_posting(system);
        }
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
        let kick = match system.technology.delivers() {
            true => self.post(system, effects.kick),
            false => effects.kick,
        };
        system.kick(self, kick.union(effects.init).union(effects.start));
    }

    /// Posts to `vcpus` on other CPUs what has come for them; those that have to look for themselves are left.
    fn post(&self, system: &System, vcpus: CpuSet) -> CpuSet {
        let mut left = CpuSet::NONE;
        for vcpu in vcpus.iter() {
            let here = self.cpus.get(vcpu) == Some(&arch::cpu::index());
            let local = &mut self.devices.lock().interrupts.local;
            match (!here).then(|| local.to_post(vcpu)).flatten() {
                Some(vectors) => system.post(self, vcpu, vectors),
                None => left = left.union(CpuSet::one(vcpu)),
            }
        }
        left
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
}
