//! A partition: its memory, what its guest sees, and how it starts, restarts and stops.

use crate::budget::Budget;
use crate::config::{self, Tables};
use crate::devices::Devices;
use crate::dma::Dma;
use crate::guest_map;
use crate::guest_ram::GuestRam;
use crate::intx::Link;
use crate::life::{Change, Entry, Life};
use crate::load::Files;
use crate::lock::Mutex;
use crate::machine::Host;
use crate::platform::Platform;
use crate::system::System;
use crate::vdev::vgic::{Line, Vgic};
use crate::vdev::vits::Vits;
use crate::vdev::vpci::MapBar;
use crate::vdev::vpsci::{self, Outcome};
use crate::vdev::vuart::Vuart;
use crate::vdev::{self, CpuSet};
use crate::{say, terminal};
use alloc::vec::Vec;
use arch::gic::{Intid, Trigger};
use arch::stage2::Stage2Config;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use iommu::addr::{Gpa, Span};
use iommu::id::CacheTag;
use iommu::table::{Attributes, Invalidated, StageTwoTable};

/// See the module's description. The fields are in the order in which they come to be.
pub struct Partition {
    /// Its place in the configuration.
    pub index: usize,
    /// What the integrator wants of it.
    pub config: config::Partition,
    /// Physical CPU of each vCPU.
    pub cpus: Vec<usize>,
    /// When it runs.
    pub life: Life,
    /// Its RAM.
    pub ram: GuestRam,
    /// What its CPUs reach.
    pub stage_two: Mutex<StageTwoTable<Host>>,
    /// Its VMID on the CPUs.
    pub vmid: CacheTag,
    /// Its functions and their DMA.
    pub devices: Devices,
    /// Their INTx lines, and those of the other ones.
    pub links: Vec<Link>,
    /// Its devices that are no functions.
    pub platform: Platform,
    /// Its interrupt controller.
    pub vgic: Mutex<Vgic>,
    /// Its ITS. Locked before the GIC where both are.
    pub vits: Mutex<Vits>,
    /// Its ITS has commands left; written under its lock.
    pub its_busy: AtomicBool,
    /// Its UART.
    pub uart: Mutex<Vuart>,
    /// What it is started with.
    pub files: Files,
    /// Accesses and calls of the guest that nothing answers.
    pub refused: AtomicU64,
    /// SErrors that its CPUs took.
    pub errors: AtomicU64,
    /// DMA faults since it was last started.
    pub faults: AtomicU64,
    /// How often it was started again.
    pub restarts: AtomicU64,
    /// Restarts that the fault policy still has.
    pub fault_restarts: Mutex<Budget>,
}

/// A vCPU after a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AfterCall {
    /// Goes on with this in x0.
    Return(u64),
    /// Waits for an interrupt, then goes on with success in x0.
    Suspend,
    /// Comes out of the guest.
    Leave,
}

impl Partition {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// What the DMA of its devices goes through.
    pub fn dma(&self) -> &Dma {
        &self.devices.dma
    }

    /// Its functions.
    pub fn assigned(&self) -> &Devices {
        &self.devices
    }

    /// What the CPUs translate through while one of its vCPUs is on them.
    pub fn stage_two(&self) -> Stage2Config {
        let table = self.stage_two.lock();
        Stage2Config {
            root: table.root().0,
            vmid: self.vmid.0,
            input_bits: table.input_bits(),
        }
    }

    /// An SMCCC call of `vcpu`.
    pub fn call(&self, system: &'static System, vcpu: usize, registers: &[u64; 8]) -> AfterCall {
        let in_ram = |entry| self.ram.guest().contains(Gpa(entry));
        match vpsci::call(registers, |other| self.life.power(other), in_ram) {
            Outcome::Return(value) => AfterCall::Return(value),
            Outcome::Unknown(_) => {
                self.count_misuse();
                AfterCall::Return(vpsci::UNSUPPORTED)
            }
            Outcome::CpuOn {
                vcpu: other,
                entry,
                context,
            } => {
                let before = self.life.turn_on(
                    other,
                    Entry {
                        pc: entry,
                        argument: context,
                    },
                );
                system.kick(self, CpuSet::one(other));
                AfterCall::Return(vpsci::started(before))
            }
            Outcome::CpuOff => {
                self.life.turn_off(vcpu);
                AfterCall::Leave
            }
            Outcome::Suspend => AfterCall::Suspend,
            Outcome::SystemOff => self.leave_for(system, Change::Stop),
            Outcome::SystemReset => self.leave_for(system, Change::Restart),
        }
    }

    fn leave_for(&self, system: &'static System, change: Change) -> AfterCall {
        self.ask(system, change);
        AfterCall::Leave
    }

    /// Counts what nothing answered.
    pub fn count_misuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Accesses and calls so far that nothing answered.
    pub fn misuse(&self) -> u64 {
        self.refused.load(Ordering::Relaxed) + self.vgic.lock().misuse()
    }

    /// How often it was started again.
    pub fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// How physical interrupt `intid`, which is one of the guest's, signals.
    pub fn trigger(&self, intid: u32) -> Trigger {
        let mut links = self.links.iter();
        match links.find(|link| link.physical == intid) {
            Some(link) if link.edge => Trigger::Edge,
            // The timer and INTx.
            _ => Trigger::Level,
        }
    }

    /// Physical SPI `intid`, which stays active until the guest deactivates it; whether it is one of its functions'.
    pub fn take_spi(&self, system: &'static System, intid: Intid) -> bool {
        let mut links = self.links.iter();
        let Some(link) = links.find(|link| link.physical == intid.0) else {
            return false;
        };
        let mut vgic = self.vgic.lock();
        if !self.renew(&mut vgic, Line::Spi(link.guest)) {
            let effects = vgic.inject_spi(link.guest);
            drop(vgic);
            system.apply(self, &effects);
        }
        true
    }

    /// A byte from the console.
    pub fn receive(&self, system: &'static System, byte: u8) {
        self.with_uart(system, |uart| uart.receive(byte));
    }

    /// Whether its UART takes another byte, or loses it whenever it comes.
    pub fn has_room(&self) -> bool {
        self.uart.lock().has_room()
    }

    /// All that its UART has taken is gone.
    pub fn resume_output(&self, system: &'static System) {
        self.with_uart(system, Vuart::resume);
    }

    /// Does something with its UART. The interrupt line follows before anybody else gets at the UART, so that levels
    /// arrive in order.
    pub fn with_uart<T>(&self, system: &'static System, action: impl FnOnce(&mut Vuart) -> T) -> T {
        let mut uart = self.uart.lock();
        let before = uart.line();
        let result = action(&mut uart);
        let line = uart.line();
        if line != before {
            self.set_uart_line(system, line);
        }
        result
    }

    #[inline(never)]
    fn set_uart_line(&self, system: &'static System, line: bool) {
        let kick = self.vgic.lock().set_line(guest_map::UART_INTID, line);
        system.kick(self, kick);
    }

    /// Starts it; a line says why if it cannot be. No vCPU is inside.
    pub fn start(&self, system: &'static System) {
        match self.files.load(&self.ram, &self.platform.devices) {
            Ok(entry) => {
                self.devices.open(system, self.name());
                self.devices.dma.start(&self.ram);
                // What its devices tried while nobody owned them is no fault of this life.
                self.settle_faults(system);
                self.faults.store(0, Ordering::Relaxed);
                self.life.started(entry);
                system.kick(self, CpuSet::one(0));
            }
            Err(error) => {
                say!("{}: cannot start: {error}", self.name());
                self.life.stopped();
            }
        }
    }

    /// Takes the faults that IOMMUs have recorded of its functions so far.
    fn settle_faults(&self, system: &'static System) {
        for slice in &self.devices.dma.slices {
            system.gate.serve_all_faults(system, slice.iommu);
        }
        system.gate.take_records(system, self);
    }

    /// Moves BARs to where the guest has put them.
    pub fn remap_bars(&self) {
        // Taken before each move is, so that vCPUs which move one BAR at the same time do so one after the other.
        let mut table = self.stage_two.lock();
        while let Some(MapBar { from, to, host, .. }) = self.devices.next_remap() {
            if let Some(base) = from {
                let cut = table.unmap(Span {
                    base,
                    len: host.len,
                });
                let stale = cut.stale::<Gpa>();
                arch::stage2::invalidate_range(stale.base.0, stale.len);
                table.release(cut, Invalidated::complete());
            }
            if let Some(base) = to
                && let Err(error) = table.map(
                    Span {
                        base,
                        len: host.len,
                    },
                    host.base,
                    Attributes::DEVICE,
                )
            {
                // The window is empty but for BARs, which do not overlap: only memory can be short.
                say!("{}: no BAR at {base}: {error}", self.name());
            }
        }
    }

    /// Carries `change` out. Runs on vCPU 0's CPU, with no vCPU inside.
    pub fn carry(&self, system: &'static System, change: Change) {
        // First of all its devices stop, then nothing of it is left to change. What they did before that counts
        // against the life that ends, not the next one.
        self.devices.dma.stop();
        self.devices.close(&system.gate, self.name());
        self.settle_faults(system);
        self.remap_bars();
        self.reset_messages(system);
        terminal::end_line(self.index);
        for vcpu in 0..self.cpus.len() {
            let effects = self.vgic.lock().reset_redistributor(vcpu);
            system.apply(self, &effects);
        }
        let effects = self.vgic.lock().reset_distributor();
        system.apply(self, &effects);
        self.with_uart(system, |uart| *uart = uart_of(&self.config));
        match change {
            Change::Restart => {
                self.restarts.fetch_add(1, Ordering::Relaxed);
                // After the first life all that a life may leave is there.
                say!(
                    "{}: restarts with {} objects, {} messages, {} events, {}",
                    self.name(),
                    self.devices.dma.objects(),
                    self.devices.mapped_messages(&system.gate),
                    self.devices.dma.waiting_events(),
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
}

/// The UART as the guest finds it.
pub fn uart_of(config: &config::Partition) -> Vuart {
    match config.tables {
        Tables::DeviceTree => Vuart::new(),
        Tables::Acpi => Vuart::set_up(),
    }
}

/// `VMPIDR_EL2` of a vCPU: its affinity, and bit 31, RES1 (DDI 0487, D24.2).
pub fn vmpidr(vcpu: usize) -> u64 {
    1 << 31 | vdev::affinity(vcpu)
}
