//! One vCPU on a machine that is none: its errors, its standby, its end.

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
    let start = std::time::Instant::now();
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
