//! What a partition sees beside memory: ports, its local APIC and its I/O APIC, MSRs, CPUID. What an access means outside
//! comes back as a value.

use crate::guest_map::x86_64::{ADDRESS_BITS, IO_APIC, LOCAL_APIC, UART_GSI, UART_PORT};
use crate::terminal;
use crate::vdev::cpuid::{self, Rates};
use crate::vdev::interrupts::{Interrupts, MsrOutcome};
use crate::vdev::msr::Access;
use crate::vdev::v16550::V16550;
use crate::vdev::vclock;
use crate::vdev::vlapic::Effects;
use crate::vdev::vpower;
use alloc::vec::Vec;
use arch::clock;
use iommu::addr::{Gpa, Span};

/// The UART's registers.
const UART_PORTS: u16 = 8;
/// A counter of the PIT, which is not there. Before Linux knows that, it waits for this one to change: for 100,000 reads if it
/// is all ones (`quick_pit_calibrate`).
const PIT_COUNTER_2: u16 = 0x42;
/// `IA32_TIME_STAMP_COUNTER` and `IA32_TSC_AUX`.
const TSC: u32 = 0x10;
const TSC_AUX: u32 = 0xc000_0103;

/// See the module's description.
pub struct Devices {
    /// Its interrupt controllers.
    pub interrupts: Interrupts,
    /// What accesses since the last [`Devices::take_effects`] mean to vCPUs: mostly nothing.
    effects: Option<Effects>,
    uart: V16550,
    /// Of each vCPU.
    tsc_aux: Vec<u64>,
    /// The counter of the machine at its start: its own starts at 0.
    start: u64,
    /// Accesses that mean nothing.
    pub misuse: u64,
}

/// What an access to a port comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortEffect {
    /// No more than that.
    None,
    /// A character for the console.
    Output(u8),
    /// It is switched off.
    Off,
    /// It resets itself.
    Reset,
}

/// What an access to an MSR comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MsrEffect {
    /// RDMSR gives this.
    Value(u64),
    /// WRMSR has been carried out.
    Written,
    /// WRMSR has been carried out once this is in guest memory.
    Record(vclock::Record),
    /// EFER, which is the vCPU's.
    Efer,
    /// #GP(0).
    GeneralProtection,
}

impl Devices {
    /// As after reset, for `vcpus`; `None` if there are none, or more than 64.
    pub fn new(vcpus: usize) -> Option<Self> {
        Some(Self {
            interrupts: Interrupts::new(vcpus, rates())?,
            effects: None,
            uart: V16550::new(),
            tsc_aux: alloc::vec![0; vcpus],
            start: clock::now(),
            misuse: 0,
        })
    }

    /// The partition starts now: all is as after reset.
    pub fn start(&mut self) {
        self.interrupts.reset();
        self.effects = None;
        self.with_uart(|uart| *uart = V16550::new());
        self.tsc_aux.fill(0);
        self.start = clock::now();
    }

    /// What is to be carried out, once the lock is free.
    pub fn take_effects(&mut self) -> Option<Effects> {
        self.effects.take()
    }

    fn add(&mut self, effects: Effects) {
        if effects != Effects::default() {
            let before = self.effects.unwrap_or_default();
            self.effects = Some(before.and(effects));
        }
    }

    /// What is added to the machine's counter for it.
    pub fn tsc_offset(&self) -> u64 {
        self.start.wrapping_neg()
    }

    /// Its own counter.
    pub fn now(&self) -> u64 {
        clock::now().wrapping_sub(self.start)
    }

    /// When its own counter is `tsc`, in nanoseconds of the machine's clock.
    pub fn ns(&self, tsc: u64) -> u64 {
        clock::ns(tsc.saturating_add(self.start))
    }

    fn clock(&self) -> vclock::Clock {
        vclock::Clock {
            tsc_hz: clock::frequency(),
            stable: clock::is_steady(),
            start_ns: match clock::epoch_ns() {
                0 => 0,
                epoch_ns => epoch_ns.saturating_add(clock::ns(self.start)),
            },
        }
    }

    /// IN.
    pub fn read_port(&mut self, port: u16, size: u8) -> u32 {
        if let Some(offset) = uart_offset(port) {
            self.stall_uart();
            return self.with_uart(|uart| uart.read(offset, size)) as u32;
        }
        if port == PIT_COUNTER_2 {
            return 0;
        }
        let since_start = clock::ns(self.now());
        vpower::read(port, size, since_start).unwrap_or_else(|| {
            self.refuse();
            u32::MAX
        })
    }

    /// OUT.
    pub fn write_port(&mut self, port: u16, size: u8, value: u32) -> PortEffect {
        if let Some(offset) = uart_offset(port) {
            self.stall_uart();
            let effect = self.with_uart(|uart| uart.write(offset, size, value.into()));
            return effect.output.map_or(PortEffect::None, PortEffect::Output);
        }
        match vpower::write(port, size, value) {
            Some(vpower::Effect::None) => PortEffect::None,
            Some(vpower::Effect::Off) => PortEffect::Off,
            Some(vpower::Effect::Reset) => PortEffect::Reset,
            None => {
                self.refuse();
                PortEffect::None
            }
        }
    }

    /// Under the lock, which whoever ends the wait takes after the last look at this.
    fn stall_uart(&mut self) {
        if terminal::is_congested() {
            self.uart.stall();
        }
    }

    /// Does something with the UART. Its interrupt line follows.
    pub fn with_uart<T>(&mut self, action: impl FnOnce(&mut V16550) -> T) -> T {
        let before = self.uart.line();
        let result = action(&mut self.uart);
        let line = self.uart.line();
        if line != before {
            let effects = self.interrupts.set_line(UART_GSI as usize, line);
            self.add(effects);
        }
        result
    }

    /// Whether the UART takes another byte, or loses it whenever it comes.
    pub fn has_room(&self) -> bool {
        self.uart.has_room()
    }

    /// RDMSR and WRMSR.
    pub fn msr(&mut self, vcpu: usize, msr: u32, access: Access) -> MsrEffect {
        match (msr, access) {
            (TSC, Access::Read) => return MsrEffect::Value(self.now()),
            (TSC_AUX, Access::Read) => return MsrEffect::Value(self.tsc_aux[vcpu]),
            (TSC_AUX, Access::Write(value)) if value >> 32 == 0 => {
                self.tsc_aux[vcpu] = value;
                return MsrEffect::Written;
            }
            (vclock::WALL_CLOCK | vclock::SYSTEM_TIME, Access::Write(value)) => {
                if let Some(record) = self.clock().write(msr, value) {
                    return MsrEffect::Record(record);
                }
            }
            _ => {}
        }
        let now = self.now();
        match self.interrupts.msr(vcpu, msr, access, now) {
            MsrOutcome::Value(value) => MsrEffect::Value(value),
            MsrOutcome::Written(effects) => {
                self.add(effects);
                MsrEffect::Written
            }
            MsrOutcome::Efer => MsrEffect::Efer,
            // Those that need no exit, of which this one may not be.
            MsrOutcome::Own | MsrOutcome::GeneralProtection => {
                self.refuse();
                MsrEffect::GeneralProtection
            }
        }
    }

    /// Counts something that means nothing.
    pub fn refuse(&mut self) {
        self.misuse = self.misuse.saturating_add(1);
    }

    /// A load of `vcpu` from `at`; all ones where nothing is.
    pub fn read(&mut self, vcpu: usize, at: Gpa, size: u8) -> u64 {
        let now = self.now();
        if let Some(offset) = inside(&LOCAL_APIC, at) {
            return self.interrupts.read_local(vcpu, offset, size, now);
        }
        if let Some(offset) = inside(&IO_APIC, at) {
            return self.interrupts.read_io(offset, size);
        }
        self.refuse();
        u64::MAX
    }

    /// A store of `vcpu` to `at`.
    pub fn write(&mut self, vcpu: usize, at: Gpa, size: u8, value: u64) {
        let now = self.now();
        let effects = if let Some(offset) = inside(&LOCAL_APIC, at) {
            self.interrupts.write_local(vcpu, offset, size, value, now)
        } else if let Some(offset) = inside(&IO_APIC, at) {
            self.interrupts.write_io(offset, size, value)
        } else {
            self.refuse();
            return;
        };
        self.add(effects);
    }

    /// CPUID of `vcpu`: EAX, EBX, ECX and EDX. `cr4` and `xcr0` are the vCPU's.
    pub fn cpuid(&self, vcpu: usize, leaf: u32, subleaf: u32, cr4: u64, xcr0: u64) -> [u32; 4] {
        const CR4_OSXSAVE: u64 = 1 << 18;
        const APIC_ON: u64 = 1 << 11;
        let guest = cpuid::Guest {
            vcpu: vcpu as u32,
            vcpus: self.interrupts.local.cpus() as u32,
            rates: rates(),
            invariant_tsc: clock::is_steady(),
            address_bits: address_bits(),
            xcr0,
            osxsave: cr4 & CR4_OSXSAVE != 0,
            apic: self.interrupts.local.base(vcpu) & APIC_ON != 0,
        };
        let sees = guest.cpuid(leaf, subleaf, &|leaf, subleaf| {
            let [eax, ebx, ecx, edx] = arch::cpu::cpuid(leaf, subleaf);
            cpuid::Registers { eax, ebx, ecx, edx }
        });
        [sees.eax, sees.ebx, sees.ecx, sees.edx]
    }
}

/// Width of its physical addresses.
pub fn address_bits() -> u8 {
    ADDRESS_BITS.min(arch::cpu::address_bits())
}

/// Of its clocks: its counter has the machine's rate.
fn rates() -> Rates {
    Rates::new(clock::frequency())
}

fn uart_offset(port: u16) -> Option<u64> {
    let offset = port.checked_sub(UART_PORT)?;
    (offset < UART_PORTS).then_some(offset.into())
}

fn inside(span: &Span<Gpa>, at: Gpa) -> Option<u64> {
    let offset = at.0.checked_sub(span.base.0)?;
    (offset < span.len).then_some(offset)
}
