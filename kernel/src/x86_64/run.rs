//! A vCPU on its CPU: what it exits for, until it comes out.

use super::devices::{Devices, MsrEffect, PortEffect};
use super::irq;
use super::mmio::{self, Refusal};
use super::partition::Partition;
use super::system::System;
use crate::life::{Change, Entry, Next};
use crate::trace::Event;
use crate::vdev::msr::Access;
use crate::vdev::vclock;
use crate::{input, say, terminal};
use arch::x86_64::timer;
use arch::x86_64::vcpu::{Exception, Exit, Held, IoAccess, NestedFault, RAX, RCX, Vcpu};
use core::fmt;
use core::sync::atomic::Ordering;
use iommu::hal::GuestMemory;

/// Runs the vCPU that the configuration puts on CPU `cpu`; a CPU without one serves interrupts.
pub fn run(system: &'static System, cpu: usize) -> ! {
    let Some(owner) = system.owner(cpu) else {
        loop {
            arch::cpu::wait();
            irq::serve();
        }
    };
    let partition = &system.partitions[owner.partition];
    let index = owner.vcpu;
    let mut vcpu = partition.vcpu(&system.technology, index);
    loop {
        // Before the look: an INIT that comes after it ends the stay.
        partition.resets.fetch_and(!(1 << index), Ordering::AcqRel);
        let (next, kick) = partition.life.next(index);
        system.kick(partition, kick);
        match next {
            Next::Enter(entry) => {
                Stay {
                    system,
                    partition,
                    index,
                    vcpu: &mut vcpu,
                    class: 0,
                }
                .run(entry);
                timer::set_guest(None);
            }
            Next::Carry(change) => partition.carry(system, change),
            Next::Wait => {
                arch::cpu::wait();
                irq::serve();
            }
        }
    }
}

/// What the CPU has left of the interrupts that were lent to it, and what was posted meanwhile, are its local APIC's again.
fn take_back(vcpu: &mut Vcpu, partition: &Partition, index: usize, devices: &mut Devices) {
    let local = &mut devices.interrupts.local;
    if let Some(held) = vcpu.take_back() {
        local.take_back(index, [held.requested, held.in_service]);
    }
    if let Some(posted) = partition.posted[index].take() {
        local.take_posted(index, posted);
    }
}

/// Why it does not go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// Its partition is switched off, or starts again.
    Change(Change),
    /// A triple fault.
    Shutdown,
    /// An access to this address, at this instruction, that nobody can carry out.
    Access(u64, u64),
    /// The CPU stopped it for something else; its code.
    Cpu(u64),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Change(Change::Stop) => f.write_str("has switched itself off"),
            Self::Change(Change::Restart) => f.write_str("has reset itself"),
            Self::Shutdown => f.write_str("has shut itself down (a triple fault)"),
            Self::Access(at, rip) => {
                write!(
                    f,
                    "made an access to {at:#x} at {rip:#x} that cannot be carried out"
                )
            }
            Self::Cpu(code) => write!(f, "was stopped by the CPU for {code:#x}"),
        }
    }
}

impl End {
    /// What becomes of the partition: a PC resets itself after a shutdown.
    fn change(self) -> Change {
        match self {
            Self::Change(change) => change,
            Self::Shutdown => Change::Restart,
            Self::Access(..) | Self::Cpu(_) => Change::Stop,
        }
    }
}

/// One vCPU from where it starts until it comes out.
struct Stay<'a> {
    system: &'static System,
    partition: &'static Partition,
    index: usize,
    vcpu: &'a mut Vcpu,
    /// CR8 at the last entry, as its local APIC has it.
    class: u8,
}

impl Stay<'_> {
    fn run(&mut self, entry: Entry) {
        let Self {
            system,
            partition,
            index,
            ..
        } = *self;
        let (state, registers) = partition.start_state(index, entry);
        self.vcpu.reset(&state, registers);
        {
            let mut devices = partition.devices.lock();
            devices.interrupts.local.set_cr8(index, 0);
            self.vcpu.set_tsc_offset(devices.tsc_offset());
        }
        let trace = system.trace.here();
        trace.start(entry.pc);
        while !self.must_leave() {
            self.prepare();
            trace.resume();
            let exit = self.vcpu.run();
            trace.exit(Event::of(&exit, &self.vcpu.registers().general));
            if self.vcpu.delivers() {
                take_back(self.vcpu, partition, index, &mut partition.devices.lock());
            }
            let class = self.vcpu.task_priority();
            if class != self.class {
                let mut devices = partition.devices.lock();
                devices.interrupts.local.set_cr8(index, class);
            }
            if let Err(end) = self.handle(exit) {
                say!("{}: vCPU {index} {end}", partition.name());
                return partition.ask(system, end.change());
            }
        }
    }

    /// Whether the partition as a whole changes, or this vCPU has got INIT.
    fn must_leave(&self) -> bool {
        let resets = self.partition.resets.load(Ordering::Acquire);
        self.partition.life.must_leave() || resets >> self.index & 1 != 0
    }

    /// Before an entry: interrupts that are pending go in, and the timer is set for the next. Whether something goes in.
    fn prepare(&mut self) -> bool {
        let (index, vcpu) = (self.index, &mut *self.vcpu);
        let mut devices = self.partition.devices.lock();
        let now = devices.now();
        if vcpu.delivers() {
            take_back(vcpu, self.partition, index, &mut devices);
        }
        let local = &mut devices.interrupts.local;
        local.tick(index, now);
        let mut enters = local.take_nmi(index, || vcpu.can_nmi());
        if enters {
            vcpu.nmi();
        }
        self.class = local.cr8(index);
        vcpu.set_task_priority(self.class);
        let mut next = local.pending(index);
        if next.is_some() && vcpu.can_interrupt() {
            enters = true;
            if !vcpu.delivers()
                && let Some(vector) = local.acknowledge(index)
            {
                vcpu.interrupt(vector);
                next = local.pending(index);
            }
        }
        if vcpu.delivers() {
            let private = local.ends_by_itself(index);
            let [requested, in_service] = local.lend(index);
            vcpu.lend(&Held {
                requested,
                in_service,
                private,
            });
            next = None;
        }
        vcpu.want_window(next.map(|vector| vector >> 4));
        let tick = local.next_tick(index);
        timer::set_guest(tick.map(|tsc| devices.ns(tsc)));
        enters
    }

    fn handle(&mut self, exit: Exit) -> Result<(), End> {
        match exit {
            Exit::Interrupt => {
                irq::serve();
                self.partition.serve_viommus(self.system);
            }
            Exit::Nmi | Exit::InterruptWindow | Exit::NmiWindow | Exit::Retry => {}
            Exit::Io(access) => return self.io(&access),
            Exit::Msr { write } => return self.msr(write),
            Exit::Cpuid => self.cpuid(),
            Exit::Halt => self.halt(),
            Exit::Cache => self.vcpu.skip_instruction(),
            Exit::NestedFault(fault) => return self.memory(&fault),
            Exit::Hypercall => self.hypercall(),
            Exit::Undefined => return self.inject(Exception::UNDEFINED),
            Exit::Forbidden => return self.inject(Exception::GENERAL_PROTECTION),
            Exit::Shutdown => return Err(End::Shutdown),
            Exit::Init | Exit::MachineCheck | Exit::Invalid => return Err(End::Cpu(u64::MAX)),
            Exit::Unknown(code) => return Err(End::Cpu(code)),
        }
        Ok(())
    }

    fn inject(&mut self, exception: Exception) -> Result<(), End> {
        self.vcpu.inject(exception).map_err(|_| End::Shutdown)
    }

    fn cpuid(&mut self) {
        let [leaf, subleaf] = [RAX, RCX].map(|n| self.vcpu.registers().general[n] as u32);
        let cr4 = self.vcpu.context().cr4;
        let xcr0 = arch::cpu::xcr0();
        let devices = self.partition.devices.lock();
        let words = devices.cpuid(self.index, leaf, subleaf, cr4, xcr0);
        drop(devices);
        self.vcpu.complete_cpuid(words);
    }

    /// VMCALL or VMMCALL. Who finds KVM's clock may look for KVM's calls as well, such as Linux's `ptp_kvm`.
    fn hypercall(&mut self) {
        let mask = match self.vcpu.context().code_bits() {
            64 => u64::MAX,
            _ => 0xffff_ffff,
        };
        self.vcpu.registers_mut().general[RAX] = vclock::NO_CALL & mask;
        self.vcpu.skip_instruction();
    }

    /// HLT: waits for something that the guest takes. With its interrupts off that is an NMI, or INIT.
    fn halt(&mut self) {
        self.vcpu.skip_instruction();
        while !self.must_leave() && !self.prepare() {
            arch::cpu::wait();
            irq::serve();
            self.partition.serve_viommus(self.system);
        }
    }

    fn io(&mut self, access: &IoAccess) -> Result<(), End> {
        let Self {
            system, partition, ..
        } = *self;
        if access.string {
            // What kernels use on ports that exist here are single accesses.
            return self.inject(Exception::GENERAL_PROTECTION);
        }
        if !access.write {
            let value = partition.read_config_port(system, access.port, access.size);
            let value = value.unwrap_or_else(|| {
                partition.with_devices(system, |devices| {
                    devices.read_port(access.port, access.size)
                })
            });
            self.vcpu.complete_in(access, value);
            input::room_made(system);
            return Ok(());
        }
        let value = self.vcpu.registers().general[RAX] as u32;
        self.vcpu.skip_instruction();
        if partition.write_config_port(system, access.port, access.size, value) {
            return Ok(());
        }
        let effect = partition.with_devices(system, |devices| {
            devices.write_port(access.port, access.size, value)
        });
        match effect {
            PortEffect::None => {}
            PortEffect::Output(byte) => terminal::output(partition.index, byte),
            PortEffect::Off => return Err(End::Change(Change::Stop)),
            PortEffect::Reset => return Err(End::Change(Change::Restart)),
        }
        input::room_made(system);
        Ok(())
    }

    fn msr(&mut self, write: bool) -> Result<(), End> {
        let Self {
            system,
            partition,
            index,
            ..
        } = *self;
        let number = self.vcpu.registers().general[RCX] as u32;
        let access = match write {
            true => Access::Write(self.vcpu.wrmsr_value()),
            false => Access::Read,
        };
        let effect = partition.with_devices(system, |devices| devices.msr(index, number, access));
        match (effect, access) {
            (MsrEffect::Value(value), _) => self.vcpu.complete_rdmsr(value),
            (MsrEffect::Written, _) => self.vcpu.skip_instruction(),
            (MsrEffect::Record(record), _) => {
                if partition.ram.write(record.at, record.bytes()).is_err() {
                    return self.inject(Exception::GENERAL_PROTECTION);
                }
                self.vcpu.skip_instruction();
            }
            (MsrEffect::Efer, Access::Read) => {
                let efer = self.vcpu.context().efer;
                self.vcpu.complete_rdmsr(efer);
            }
            (MsrEffect::Efer, Access::Write(value)) => {
                if !self.vcpu.write_efer(value) {
                    return self.inject(Exception::GENERAL_PROTECTION);
                }
                self.vcpu.skip_instruction();
            }
            (MsrEffect::GeneralProtection, _) => {
                return self.inject(Exception::GENERAL_PROTECTION);
            }
        }
        Ok(())
    }

    /// An access where no memory is: to a device, or to nothing.
    fn memory(&mut self, fault: &NestedFault) -> Result<(), End> {
        let rip = self.vcpu.registers().rip;
        let done = mmio::access(self.system, self.partition, self.index, self.vcpu, fault);
        let taken = match done {
            Ok(()) => return Ok(()),
            Err(Refusal::Exception(exception)) => self.vcpu.inject(exception),
            Err(Refusal::PageFault(at, error)) => self.vcpu.inject_page_fault(at, error),
            Err(Refusal::Nobody) => return Err(End::Access(fault.gpa, rip)),
        };
        self.partition.devices.lock().refuse();
        taken.map_err(|_| End::Shutdown)
    }
}
