//! A vCPU on its CPU: what it exits for, until it ends.

use super::devices::{MsrEffect, PortEffect};
use super::irq;
use super::partition::Partition;
use super::system::System;
use crate::instruction::walk::{self, Paging};
use crate::instruction::{self, LONGEST, Mode};
use crate::vdev::msr::Access;
use crate::{say, terminal};
use arch::x86_64::timer;
use arch::x86_64::vcpu::{Exception, Exit, IoAccess, NestedFault, RAX, RCX, RFLAGS_IF, Vcpu};
use core::fmt;
use iommu::addr::Gpa;

/// The only vCPU.
const VCPU: usize = 0;
/// RFLAGS.AC.
const RFLAGS_AC: u64 = 1 << 18;
const PAGE: u64 = 4096;

/// Why it does not go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// It has switched itself off.
    Off,
    /// It has reset itself.
    Reset,
    /// It waits for an interrupt, and takes none.
    Halted,
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
            Self::Off => f.write_str("it has switched itself off"),
            Self::Reset => f.write_str("it has reset itself"),
            Self::Halted => f.write_str("it has halted with interrupts off"),
            Self::Shutdown => f.write_str("it has shut itself down (a triple fault)"),
            Self::Access(at, rip) => {
                write!(
                    f,
                    "an access to {at:#x} at {rip:#x} that cannot be carried out"
                )
            }
            Self::Cpu(code) => write!(f, "the CPU stopped it for {code:#x}"),
        }
    }
}

/// Runs `partition` on this CPU from its start to its end.
pub fn run(system: &'static System, partition: &Partition) {
    let mut vcpu = match partition.load(&system.technology) {
        Ok(vcpu) => vcpu,
        Err(error) => return say!("{}: cannot start: {error}", partition.name()),
    };
    partition.open(system);
    {
        let mut devices = partition.devices.lock();
        devices.start();
        vcpu.set_tsc_offset(devices.tsc_offset());
    }
    let end = loop {
        prepare(partition, &mut vcpu);
        let exit = vcpu.run();
        let class = vcpu.task_priority();
        partition
            .devices
            .lock()
            .interrupts
            .local
            .set_cr8(VCPU, class);
        if let Err(end) = handle(system, partition, &mut vcpu, exit) {
            break end;
        }
    };
    timer::off();
    partition.close(system);
    terminal::end_line(partition.index);
    let misuse = partition.misuse();
    say!("{}: stopped: {end}", partition.name());
    if misuse != 0 {
        say!("{}: {misuse} accesses that mean nothing", partition.name());
    }
}

/// Before an entry: interrupts that are pending go in, and the timer is set for the next.
fn prepare(partition: &Partition, vcpu: &mut Vcpu) {
    let mut devices = partition.devices.lock();
    let now = devices.now();
    devices.interrupts.local.tick(VCPU, now);
    if vcpu.can_nmi() && devices.interrupts.local.take_nmi(VCPU) {
        vcpu.nmi();
    }
    vcpu.set_task_priority(devices.interrupts.local.cr8(VCPU));
    if devices.interrupts.local.pending(VCPU).is_some()
        && vcpu.can_interrupt()
        && let Some(vector) = devices.interrupts.local.acknowledge(VCPU)
    {
        vcpu.interrupt(vector);
    }
    let next = devices.interrupts.local.pending(VCPU);
    vcpu.want_window(next.map(|vector| vector >> 4));
    match devices.interrupts.local.next_tick(VCPU) {
        Some(tsc) => timer::set(devices.ns(tsc)),
        None => timer::off(),
    }
}

fn handle(system: &System, partition: &Partition, vcpu: &mut Vcpu, exit: Exit) -> Result<(), End> {
    match exit {
        Exit::Interrupt => irq::serve(),
        Exit::Nmi | Exit::InterruptWindow | Exit::NmiWindow | Exit::Retry => {}
        Exit::Io(access) => return io(system, partition, vcpu, &access),
        Exit::Msr { write } => return msr(partition, vcpu, write),
        Exit::Cpuid => {
            let [leaf, subleaf] = [RAX, RCX].map(|n| vcpu.registers().general[n] as u32);
            let context = vcpu.context();
            let xcr0 = arch::cpu::xcr0();
            let words = partition
                .devices
                .lock()
                .cpuid(leaf, subleaf, context.cr4, xcr0);
            vcpu.complete_cpuid(words);
        }
        Exit::Halt => return halt(partition, vcpu),
        Exit::Cache => vcpu.skip_instruction(),
        Exit::NestedFault(fault) => return memory(system, partition, vcpu, &fault),
        Exit::Hypercall | Exit::Undefined => return inject(vcpu, Exception::UNDEFINED),
        Exit::Forbidden => return inject(vcpu, Exception::GENERAL_PROTECTION),
        Exit::Shutdown => return Err(End::Shutdown),
        Exit::Init | Exit::MachineCheck | Exit::Invalid => return Err(End::Cpu(u64::MAX)),
        Exit::Unknown(code) => return Err(End::Cpu(code)),
    }
    Ok(())
}

fn inject(vcpu: &mut Vcpu, exception: Exception) -> Result<(), End> {
    vcpu.inject(exception).map_err(|_| End::Shutdown)
}

fn io(
    system: &System,
    partition: &Partition,
    vcpu: &mut Vcpu,
    access: &IoAccess,
) -> Result<(), End> {
    if access.string {
        // What kernels use on ports that exist here are single accesses.
        return inject(vcpu, Exception::GENERAL_PROTECTION);
    }
    if !access.write {
        let value = partition.read_config_port(system, access.port, access.size);
        let value =
            value.unwrap_or_else(|| partition.devices.lock().read_port(access.port, access.size));
        vcpu.complete_in(access, value);
        return Ok(());
    }
    let value = vcpu.registers().general[RAX] as u32;
    vcpu.skip_instruction();
    if partition.write_config_port(system, access.port, access.size, value) {
        return Ok(());
    }
    let mut devices = partition.devices.lock();
    let effect = devices.write_port(access.port, access.size, value);
    drop(devices);
    match effect {
        PortEffect::None => Ok(()),
        PortEffect::Output(byte) => {
            terminal::output(partition.index, byte);
            Ok(())
        }
        PortEffect::Off => Err(End::Off),
        PortEffect::Reset => Err(End::Reset),
    }
}

fn msr(partition: &Partition, vcpu: &mut Vcpu, write: bool) -> Result<(), End> {
    let number = vcpu.registers().general[RCX] as u32;
    let access = match write {
        true => Access::Write(vcpu.wrmsr_value()),
        false => Access::Read,
    };
    let effect = partition.devices.lock().msr(number, access);
    match (effect, access) {
        (MsrEffect::Value(value), _) => vcpu.complete_rdmsr(value),
        (MsrEffect::Written, _) => vcpu.skip_instruction(),
        (MsrEffect::Efer, Access::Read) => {
            let efer = vcpu.context().efer;
            vcpu.complete_rdmsr(efer);
        }
        (MsrEffect::Efer, Access::Write(value)) => {
            if !vcpu.write_efer(value) {
                return inject(vcpu, Exception::GENERAL_PROTECTION);
            }
            vcpu.skip_instruction();
        }
        (MsrEffect::GeneralProtection, _) => {
            return inject(vcpu, Exception::GENERAL_PROTECTION);
        }
    }
    Ok(())
}

/// HLT: waits for an interrupt that the guest takes.
fn halt(partition: &Partition, vcpu: &mut Vcpu) -> Result<(), End> {
    vcpu.skip_instruction();
    if vcpu.registers().rflags & RFLAGS_IF == 0 {
        return Err(End::Halted);
    }
    loop {
        prepare(partition, vcpu);
        // Something goes in at the next entry, or will once the guest takes it.
        let waits = {
            let local = &partition.devices.lock().interrupts.local;
            vcpu.can_interrupt() && local.pending(VCPU).is_none()
        };
        if !waits {
            return Ok(());
        }
        arch::cpu::wait();
        irq::serve();
    }
}

/// An access where no memory is: to a device, or to nothing.
fn memory(
    system: &System,
    partition: &Partition,
    vcpu: &mut Vcpu,
    fault: &NestedFault,
) -> Result<(), End> {
    let rip = vcpu.registers().rip;
    let cannot = End::Access(fault.gpa, rip);
    if fault.fetch || fault.walk || fault.reserved {
        return Err(cannot);
    }
    let context = vcpu.context();
    let (mode, linear) = match context.code_bits() {
        64 => (Mode::Long, rip),
        32 => (Mode::Protected, (context.cs.base + rip) & 0xffff_ffff),
        _ => return Err(cannot),
    };
    let paging = Paging {
        cr0: context.cr0,
        cr3: context.cr3,
        cr4: context.cr4,
        efer: context.efer,
        alignment_check: vcpu.registers().rflags & RFLAGS_AC != 0,
        user: context.cpl == 3,
    };
    let mut bytes = [0; LONGEST];
    let len = fetch(partition, &paging, linear, &mut bytes);
    let instruction = instruction::decode(&bytes[..len], mode).map_err(|_| cannot)?;
    let general = vcpu.registers().general;
    if instruction.other_side(&general, fault.write).is_some() {
        return Err(cannot);
    }
    let (at, size) = (Gpa(fault.gpa), instruction.size);
    let loaded = match instruction.loads() {
        true => partition
            .read_function(system, at, size)
            .unwrap_or_else(|| partition.devices.lock().read(at, size)),
        false => 0,
    };
    let registers = vcpu.registers_mut();
    let (general, rflags) = (&mut registers.general, &mut registers.rflags);
    let completion = instruction.complete(general, rflags, loaded);
    if let Some(value) = completion.store
        && !partition.write_function(system, at, size, value)
    {
        partition.devices.lock().write(at, size, value);
    }
    if completion.done {
        vcpu.skip_bytes(instruction.len);
    }
    Ok(())
}

/// Copies the instruction at `linear` out of the guest, once; how many bytes there are.
fn fetch(partition: &Partition, paging: &Paging, linear: u64, bytes: &mut [u8]) -> usize {
    let mut read = |at: Gpa, size: u8| {
        let mut entry = [0; 8];
        partition.read(at, entry.get_mut(..usize::from(size))?)?;
        Some(u64::from_le_bytes(entry))
    };
    let mut done = 0;
    while done < bytes.len() {
        let at = linear.wrapping_add(done as u64);
        let Ok(gpa) = paging.translate(at, walk::Access::Fetch, &mut read) else {
            break;
        };
        let in_page = (PAGE - at % PAGE) as usize;
        let end = bytes.len().min(done + in_page);
        if partition.read(gpa, &mut bytes[done..end]).is_none() {
            break;
        }
        done = end;
    }
    done
}
