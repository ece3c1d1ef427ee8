//! What one physical CPU does: enters its vCPU, gets back the reason why it stopped, acts on it, again and again.

use crate::irq::{self, Lists};
use crate::life::{Entry, Next};
use crate::mmio;
use crate::partition::{AfterCall, Partition, vmpidr};
use crate::say;
use crate::system::System;
use crate::trace::Event;
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
            trace.exit(Event::of(&exit, self.vcpu.reg(0)));
            if irq::concerns(&exit) {
                lists.store(system, partition, index);
            }
            // What a doorbell leaves over is for another exit: its own did as much as one does.
            let doorbell = matches!(exit, Exit::ReadOnly(_));
            let then = self.handle(exit);
            partition.serve_its(system);
            if !doorbell {
                partition.serve_viommus(system);
            }
            if then == Then::Suspend {
                lists.store(system, partition, index);
                self.suspend();
            }
            if then == Then::Leave || partition.life.must_leave() {
                break;
            }
        }
        self.vcpu.stop();
        lists.store(system, partition, index);
        let effects = partition.vgic.lock().reset_interface(index);
        system.apply(partition, &effects);
        arch::ich::init();
    }

    fn handle(&mut self, exit: Exit) -> Then {
        match exit {
            Exit::Interrupt => irq::serve(self.system, Some((self.partition, self.index))),
            Exit::Mmio(access) => {
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
                let value = self.vcpu.reg(access.reg);
                let MmioAccess { ipa, size, .. } = access;
                if self.partition.store_smmu(self.system, ipa, size, value) {
                    self.vcpu.skip_instruction();
                }
            }
            Exit::Retry => {}
            Exit::Abort(info) => {
                self.partition.count_misuse();
                self.vcpu.inject(Exception::for_abort(&info));
            }
            // The program counter is past an HVC already, but still at an SMC (DDI 0487, D1.4.1).
            Exit::Hypercall { imm: 0 } => return self.call(),
            Exit::Smc { imm: 0 } => {
                self.vcpu.skip_instruction();
                return self.call();
            }
            Exit::SystemRegister(access) => self.system_register(access),
            Exit::Wait { .. } => self.vcpu.skip_instruction(),
            Exit::Hypercall { .. } => {
                self.partition.count_misuse();
                // The exception returns to an instruction that is undefined, not behind it.
                let call = self.vcpu.pc().wrapping_sub(4);
                self.vcpu.set_pc(call);
                self.vcpu.inject(Exception::Undefined);
            }
            Exit::SError(syndrome) => self.system_error(syndrome),
            Exit::Smc { .. } | Exit::Unknown(_) => {
                self.partition.count_misuse();
                self.vcpu.inject(Exception::Undefined);
            }
        }
        Then::Continue
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
    fn call(&mut self) -> Then {
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
        // ICC_DIR_EL1 (IHI 0069, §12.2.14): trapped while deactivations do not fit in the list registers.
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
            Outcome::Undefined => {
                self.partition.count_misuse();
                return self.vcpu.inject(Exception::Undefined);
            }
        }
        self.vcpu.skip_instruction();
    }
}

#[cfg(test)]
mod tests {
    use super::Stay;
    use crate::composition::machine::Bench;
    use crate::life::{Change, Entry, Next, Power};
    use crate::partition::AfterCall;
    use crate::vdev::CpuSet;
    use crate::vdev::vgic::{Effects, LrState, SgiRegister};
    use arch::vcpu::{Exception, Exit, Syndrome, Vcpu, VcpuConfig};
    use core::sync::atomic::Ordering;

    const CPU_OFF: u64 = 0x8400_0002;

    fn new() -> Vcpu {
        Vcpu::new(VcpuConfig {
            vmpidr: 0,
            vpidr: 0,
            trap_wfi: false,
            physical_timer: false,
        })
    }

    fn stay<'a>(bench: &Bench, vcpu: &'a mut Vcpu) -> Stay<'a> {
        Stay {
            system: bench.system,
            partition: &bench.system.partitions[0],
            index: 0,
            vcpu,
            features: Box::leak(Box::new(arch::cpu::features())),
        }
    }

    /// vCPU 0 of the first partition on this thread's machine: these exits, then CPU_OFF.
    fn run(exits: &[Exit]) -> (Bench, Vcpu) {
        let bench = Bench::new(1);
        let partition = &bench.system.partitions[0];
        assert!(matches!(partition.life.next(0).0, Next::Enter(_)));
        let mut vcpu = new();
        for &exit in exits.iter().chain([&Exit::Hypercall { imm: 0 }]) {
            vcpu.will_exit(exit);
        }
        let entry = Entry {
            pc: 0x4000_0000,
            argument: CPU_OFF,
        };
        stay(&bench, &mut vcpu).run(entry);
        assert_eq!(partition.life.power(0), Some(Power::Off));
        (bench, vcpu)
    }

    #[test]
    fn a_guest_gets_its_own_errors_as_errors() {
        // Recoverable; implementation defined; corrected.
        let errors = [0xbe00_0c11, 0xbf00_0000, 0xbe00_1811].map(|esr| Exit::SError(Syndrome(esr)));
        let (bench, vcpu) = run(&errors);
        assert_eq!(vcpu.errors(), 2, "it need not know what was corrected");
        assert_eq!(vcpu.injected(), [], "and no exception of another kind");
        let partition = &bench.system.partitions[0];
        assert_eq!(partition.errors.load(Ordering::Relaxed), 3);
        assert_eq!(partition.misuse(), 0);
    }

    #[test]
    #[should_panic(expected = "SError in attacker: uncontainable")]
    fn an_error_that_may_be_anywhere_ends_the_machine() {
        run(&[Exit::SError(Syndrome(0xbe00_0011))]);
    }

    #[test]
    fn a_vcpu_that_is_off_has_no_timer() {
        let (_, vcpu) = run(&[]);
        assert!(vcpu.is_stopped());
    }

    #[test]
    fn standby_ends_with_an_interrupt_and_not_before() {
        // The machine's interrupt controller has nothing, so that each look at it is one of the wait.
        let bench = Bench::new(1);
        let system = bench.system;
        let partition = &system.partitions[0];
        let mut vcpu = new();
        let stay = stay(&bench, &mut vcpu);
        {
            let mut vgic = partition.vgic.lock();
            let mut lists = LrState {
                lr: [0; 16],
                used: 0,
                count: 4,
                hcr: 0,
                vmcr: 0xff00_0002,
            };
            vgic.sync(0, &mut lists, &mut Effects::default());
            vgic.write_distributor(0, 0, 4, 2);
            vgic.write_redistributor(0x1_0080, 4, !0);
            vgic.write_redistributor(0x1_0100, 4, 1 << 5);
        }
        let registers = [0xc400_0001, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(partition.call(system, 0, &registers), AfterCall::Suspend);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                arch::cpu::set_index(1);
                std::thread::sleep(std::time::Duration::from_millis(20));
                // SGI 5 to vCPU 0.
                partition
                    .vgic
                    .lock()
                    .write_sgi(1, SgiRegister::Sgi1r, 5 << 24 | 1)
            });
            let start = std::time::Instant::now();
            stay.suspend();
            assert!(start.elapsed().as_millis() >= 20);
            assert_eq!(other.join().unwrap(), CpuSet::one(0));
        });
        // It is still pending: the next standby ends at once.
        stay.suspend();
        partition.vgic.lock().reset_redistributor(0);
        partition.ask(system, Change::Stop);
        stay.suspend();
    }

    #[test]
    fn what_is_not_there_is_undefined() {
        let (bench, vcpu) = run(&[Exit::Unknown(0x6600_0000)]);
        assert_eq!(vcpu.injected(), [Exception::Undefined]);
        assert_eq!(bench.system.partitions[0].misuse(), 1);
    }
}
