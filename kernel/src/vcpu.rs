//! What one physical CPU does: enters its vCPU, gets back the reason why it stopped, acts on it, again and again.

use crate::irq::{self, Lists};
use crate::life::{Entry, Next};
use crate::mmio;
use crate::partition::{AfterCall, Partition, vmpidr};
use crate::say;
use crate::system::System;
use crate::trace::{CpuTrace, Event};
use crate::vdev::sysreg::{self, Access, Encoding, Outcome};
use arch::cpu::Features;
use arch::vcpu::{Exception, Exit, MmioAccess, Syndrome, SysregAccess, Vcpu, VcpuConfig};
use core::sync::atomic::Ordering;

/// Runs the vCPU that the configuration puts on CPU `cpu`; a CPU without one serves interrupts.
pub fn run(system: &'static System, cpu: usize) -> ! {
    // Here already: a maintenance interrupt that firmware has left on would never end on a CPU without a vCPU.
    arch::ich::init();
    let Some(owner) = system.owner(cpu) else {
        loop {
            irq::serve(system, None);
            arch::cpu::wait();
        }
    };
    let partition = &system.partitions[owner.partition];
    let features = arch::cpu::features();
    let mut vcpu = Vcpu::new(VcpuConfig {
        vmpidr: vmpidr(owner.vcpu),
        vpidr: features.midr,
        trap_wfi: false,
        physical_timer: false,
    });
    loop {
        let (next, kick) = partition.life.next(owner.vcpu);
        system.kick(partition, kick);
        match next {
            Next::Enter(entry) => {
                Stay {
                    system,
                    partition,
                    index: owner.vcpu,
                    vcpu: &mut vcpu,
                    features: &features,
                }
                .run(entry);
            }
            Next::Carry(change) => partition.carry(system, change),
            Next::Wait => {
                arch::cpu::wait();
                irq::serve(system, None);
                // What the guest asked for goes on while this vCPU is off.
                partition.serve_its(system);
                partition.serve_viommus(system);
            }
        }
    }
}

/// Whether a vCPU goes back into the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Then {
    Continue,
    /// Once there is an interrupt for it.
    Suspend,
    Leave,
}

/// One vCPU from its entry point until it is off.
struct Stay<'a> {
    system: &'static System,
    partition: &'static Partition,
    index: usize,
    vcpu: &'a mut Vcpu,
    features: &'a Features,
}

impl Stay<'_> {
    fn run(&mut self, entry: Entry) {
        let Self {
            system,
            partition,
            index,
            ..
        } = *self;
        arch::stage2::activate(&partition.stage_two());
        self.vcpu.reset(entry.pc, entry.argument);
        let trace = system.trace.here();
        trace.start(entry.pc);
        let attention = &system.attention[arch::cpu::index()];
        let mut lists = Lists::reset();
        loop {
            if attention.load(Ordering::Relaxed) {
                attention.store(false, Ordering::Relaxed);
                lists.store(system, partition, index);
            }
            lists.load(partition, index);
            trace.resume();
            let exit = self.vcpu.run();
            // What a doorbell leaves over is for another exit: its own did as much as one does.
            let doorbell = matches!(exit, Exit::ReadOnly(_));
            let then = self.handle(exit, trace, &mut lists);
            partition.serve_its(system);
            if !doorbell && partition.has_busy_viommus() {
                partition.serve_viommus(system);
            }
            if then != Then::Continue {
                if then == Then::Leave {
                    break;
                }
                lists.store(system, partition, index);
                self.suspend();
            }
            if partition.life.must_leave() {
                break;
            }
        }
        self.vcpu.stop();
        lists.store(system, partition, index);
        let effects = partition.vgic.lock().reset_interface(index);
        system.apply(partition, &effects);
        arch::ich::init();
    }

    #[inline(always)]
    fn handle(&mut self, exit: Exit, trace: &CpuTrace, lists: &mut Lists) -> Then {
        match exit {
            Exit::Interrupt => {
                irq::serve_exit(self.system, trace, (self.partition, self.index));
            }
            Exit::Mmio(access) => {
                trace.exit(Event::Mmio {
                    write: access.write,
                    ipa: access.ipa,
                });
                if irq::concerns(access.ipa) {
                    lists.store(self.system, self.partition, self.index);
                }
                let value = if access.write {
                    Some(self.vcpu.reg(access.reg))
                } else {
                    None
                };
                match mmio::access(
                    self.system,
                    self.partition,
                    self.index,
                    access.ipa,
                    access.size,
                    value,
                ) {
                    Some(value) => {
                        if !access.write {
                            self.vcpu.set_reg(access.reg, access.extend(value));
                        }
                        self.vcpu.skip_instruction();
                    }
                    None => {
                        self.partition.count_misuse();
                        self.vcpu.inject(Exception::DataAbort {
                            far: access.far,
                            write: access.write,
                            walk: None,
                        });
                    }
                }
            }
            Exit::ReadOnly(access) => {
                let MmioAccess { ipa, size, reg, .. } = access;
                trace.exit(Event::Smmu { ipa });
                let value = self.vcpu.reg(reg);
                if self.partition.store_smmu(self.system, ipa, size, value) {
                    self.vcpu.skip_instruction();
                }
            }
            Exit::Retry => trace.exit(Event::Abort { ipa: 0 }),
            Exit::Abort(info) => {
                let ipa = info.ipa.unwrap_or(0);
                trace.exit(Event::Abort { ipa });
                self.partition.count_misuse();
                self.vcpu.inject(Exception::for_abort(&info));
            }
            // The program counter is past an HVC already, but still at an SMC (DDI 0487, D1.4.1).
            Exit::Hypercall { imm: 0 } => return self.call(trace),
            Exit::Smc { imm: 0 } => {
                self.vcpu.skip_instruction();
                return self.call(trace);
            }
            Exit::SystemRegister(access) => {
                trace.exit(Event::system_register(&access));
                // ICC_*_EL1 and their neighbours (DDI 0487, D23.3): op0 = 3, CRn = 12.
                if (access.op0, access.crn) == (3, 12) {
                    lists.store(self.system, self.partition, self.index);
                }
                self.system_register(access);
            }
            Exit::Wait { .. } => {
                trace.exit(Event::Wait);
                self.vcpu.skip_instruction();
            }
            Exit::Hypercall { .. } => {
                trace.exit(Event::Call(self.vcpu.reg(0) as u32));
                self.partition.count_misuse();
                // The exception returns to an instruction that is undefined, not behind it.
                let call = self.vcpu.pc().wrapping_sub(4);
                self.vcpu.set_pc(call);
                self.vcpu.inject(Exception::Undefined);
            }
            Exit::SError(syndrome) => {
                trace.exit(Event::SystemError(syndrome.0 as u32));
                self.system_error(syndrome);
            }
            Exit::Smc { .. } => {
                trace.exit(Event::Call(self.vcpu.reg(0) as u32));
                self.refuse();
            }
            Exit::Unknown(esr) => {
                trace.exit(Event::Other(esr as u32));
                self.refuse();
            }
        }
        Then::Continue
    }

    /// An instruction that there is not.
    fn refuse(&mut self) {
        self.partition.count_misuse();
        self.vcpu.inject(Exception::Undefined);
    }

    /// An error of memory, or of a device, that the guest has run into: it is the guest's to handle, unless nobody knows
    /// where the bad data is by now.
    fn system_error(&mut self, syndrome: Syndrome) {
        assert!(
            !syndrome.is_uncontainable(),
            "SError in {}: {syndrome}",
            self.partition.name()
        );
        let errors = self.partition.errors.fetch_add(1, Ordering::Relaxed) + 1;
        // A line for the first, and for ever fewer of many.
        if errors.is_power_of_two() {
            say!("{}: SError {errors}: {syndrome}", self.partition.name());
        }
        if !syndrome.is_corrected() {
            self.vcpu.inject_error();
        }
    }

    /// SMCCC: x0 is the function, x1 to x7 its arguments; the result goes to x0.
    fn call(&mut self, trace: &CpuTrace) -> Then {
        trace.exit(Event::Call(self.vcpu.reg(0) as u32));
        let registers = core::array::from_fn(|n| self.vcpu.reg(n as u8));
        match self.partition.call(self.system, self.index, &registers) {
            AfterCall::Return(value) => {
                self.vcpu.set_reg(0, value);
                Then::Continue
            }
            AfterCall::Suspend => {
                self.vcpu.set_reg(0, 0);
                Then::Suspend
            }
            AfterCall::Leave => Then::Leave,
        }
    }

    /// Standby (PSCI DEN 0022, §5.4): waits as the guest's own WFI would, until an interrupt is there for its CPU
    /// interface, masked in PSTATE or not. What it has in list registers is stored.
    fn suspend(&self) {
        let Self {
            system,
            partition,
            index,
            ..
        } = *self;
        // Interrupts are masked: one that comes after the look ends the wait at once.
        while !partition.life.must_leave() && !partition.vgic.lock().pending(index) {
            arch::cpu::wait();
            irq::serve(system, Some((partition, index)));
            partition.serve_its(system);
            partition.serve_viommus(system);
        }
    }

    fn system_register(&mut self, access: SysregAccess) {
        let SysregAccess {
            op0,
            op1,
            crn,
            crm,
            op2,
            reg,
            write,
        } = access;
        let register = Encoding {
            op0,
            op1,
            crn,
            crm,
            op2,
        };
        let value = self.vcpu.reg(reg);
        // ICC_DIR_EL1 (IHI 0069, §12.2): trapped while deactivations do not fit in the list registers.
        if write && (op0, op1, crn, crm, op2) == (3, 0, 12, 11, 1) {
            let effects = self
                .partition
                .vgic
                .lock()
                .write_dir(self.index, value as u32);
            self.system.apply(self.partition, &effects);
            return self.vcpu.skip_instruction();
        }
        let physical = || {
            if sysreg::needs_physical(register) {
                self.features.id.get(crm, op2)
            } else {
                0
            }
        };
        let outcome = if write {
            Access::Write(value)
        } else {
            Access::Read {
                physical: physical(),
            }
        };
        match sysreg::access(register, outcome) {
            Outcome::Value(value) => self.vcpu.set_reg(reg, value),
            Outcome::Ignore => {}
            Outcome::Sgi { register, value } => {
                let kick = self
                    .partition
                    .vgic
                    .lock()
                    .write_sgi(self.index, register, value);
                self.system.kick(self.partition, kick);
            }
            Outcome::Undefined => return self.refuse(),
        }
        self.vcpu.skip_instruction();
    }
}

#[cfg(test)]
mod tests;
