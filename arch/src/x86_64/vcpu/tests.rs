//! A vCPU over a guest that does what it is told.

use super::{
    DescriptorTable, Event, Exception, Exit, IoAccess, Left, NestedFault, RAX, RBX, RCX, RDX,
    Registers, State, Tables, TripleFault, Vcpu,
};
use crate::host::x86_guest::Scripted;
use alloc::sync::Arc;

fn tables() -> Arc<Tables> {
    Arc::new(Tables::new(0x1000, 4, 1))
}

fn vcpu() -> (Scripted, Vcpu) {
    let script = Scripted::default();
    let vcpu = script.vcpu(tables(), 0).expect("one of one");
    (script, vcpu)
}

fn fault(interrupted: Option<Event>) -> Left {
    Left {
        exit: Exit::NestedFault(NestedFault {
            gpa: 0x5000,
            write: true,
            fetch: false,
            walk: false,
            present: false,
            reserved: false,
        }),
        interrupted,
        reflected: None,
        next: 0,
    }
}

#[test]
fn there_are_no_more_vcpus_than_the_tables_count() {
    assert!(Scripted::default().vcpu(tables(), 1).is_none());
}

#[test]
fn reset_leaves_nothing_behind() {
    let (script, mut vcpu) = vcpu();
    vcpu.interrupt(0x41);
    vcpu.want_window(Some(3));
    vcpu.registers_mut().rflags = 0x202;
    let registers = Registers {
        general: [7; 16],
        rip: 1,
        rflags: 0,
    };
    vcpu.reset(&State::started(0x10), registers);
    assert_eq!(vcpu.registers().general, [7; 16]);
    assert_eq!((vcpu.registers().rip, vcpu.registers().rflags), (0, 2));
    vcpu.run();
    let entry = script.script().entries[0];
    assert_eq!((entry.event, entry.window, entry.flush), (None, None, true));
}

#[test]
fn what_was_carried_out_is_passed_by() {
    let (script, mut vcpu) = vcpu();
    let access = |size, write| IoAccess {
        port: 0x3f8,
        size,
        write,
        string: false,
        repeat: false,
    };
    let old = 0x1111_2222_3333_4444;
    for (size, expected) in [
        (1, 0x1111_2222_3333_44dd),
        (2, 0x1111_2222_3333_ccdd),
        (4, 0xaabb_ccdd),
    ] {
        vcpu.reset(&State::protected(0x1000), Registers::default());
        vcpu.registers_mut().general[RAX] = old;
        vcpu.registers_mut().rflags |= 1 << 16;
        script.script().will_exit(Exit::Io(access(size, false)), 1);
        assert_eq!(vcpu.run(), Exit::Io(access(size, false)));
        script.script().shadow = true;
        vcpu.complete_in(&access(size, false), 0xaabb_ccdd);
        assert_eq!(vcpu.registers().general[RAX], expected);
        assert_eq!(vcpu.registers().rip, 0x1001);
        // RF and the shadow are about the instruction that is over.
        assert_eq!(vcpu.registers().rflags, 2);
        assert!(!script.script().shadow);
    }
    script.script().will_exit(Exit::Msr { write: false }, 2);
    vcpu.run();
    vcpu.complete_rdmsr(0x1234_5678_9abc_def0);
    assert_eq!(vcpu.wrmsr_value(), 0x1234_5678_9abc_def0);
    assert_eq!(vcpu.registers().general[RDX], 0x1234_5678);
    vcpu.registers_mut().general[RAX] |= 0xffff << 32;
    assert_eq!(vcpu.wrmsr_value(), 0x1234_5678_9abc_def0);
    script.script().will_exit(Exit::Cpuid, 2);
    vcpu.run();
    vcpu.complete_cpuid([1, 2, 3, 4]);
    let general = vcpu.registers().general;
    assert_eq!([RAX, RBX, RCX, RDX].map(|n| general[n]), [1, 2, 3, 4]);
    assert_eq!(vcpu.registers().rip, 0x1005);
}

#[test]
fn addresses_wrap_as_wide_as_the_code_is() {
    let (_, mut vcpu) = vcpu();
    vcpu.reset(&State::protected(0xffff_fffe), Registers::default());
    vcpu.skip_bytes(3);
    assert_eq!(vcpu.registers().rip, 1);
    let gdt = DescriptorTable { base: 0, limit: 0 };
    vcpu.reset(&State::long(0xffff_fffe, 0, gdt), Registers::default());
    vcpu.skip_bytes(3);
    assert_eq!(vcpu.registers().rip, 0x1_0000_0001);
}

#[test]
fn interrupts_wait_for_the_guest() {
    let (script, mut vcpu) = vcpu();
    assert!(!vcpu.can_interrupt(), "IF is clear");
    vcpu.registers_mut().rflags |= 0x200;
    assert!(vcpu.can_interrupt());
    script.script().shadow = true;
    assert!(!vcpu.can_interrupt() && !vcpu.can_nmi());
    script.script().shadow = false;
    script.script().nmi_masked = true;
    assert!(vcpu.can_interrupt() && !vcpu.can_nmi());
    vcpu.interrupt(0x41);
    assert!(!vcpu.can_interrupt(), "one an entry");
    vcpu.want_window(Some(5));
    vcpu.run();
    let entry = script.script().entries[0];
    assert_eq!(entry.event, Some(Event::Interrupt(0x41)));
    assert_eq!(entry.window, Some(5));
    assert!(vcpu.can_interrupt(), "it is delivered");
}

#[test]
fn a_delivery_that_was_interrupted_starts_again_and_an_exception_goes_before() {
    let (script, mut vcpu) = vcpu();
    vcpu.reset(&State::protected(0), Registers::default());
    vcpu.registers_mut().rflags |= 0x200;
    vcpu.interrupt(0x41);
    let interrupt = Some(Event::Interrupt(0x41));
    script
        .script()
        .exits
        .extend([fault(interrupt), fault(interrupt)]);
    // Mended: it starts again, whatever the guest masks by now.
    vcpu.run();
    vcpu.registers_mut().rflags &= !0x200;
    vcpu.run();
    // Not mended: #GP goes first, and the interrupt waits for IF.
    assert_eq!(vcpu.inject(Exception::GENERAL_PROTECTION), Ok(()));
    vcpu.run();
    vcpu.run();
    vcpu.registers_mut().rflags |= 0x200;
    vcpu.run();
    vcpu.run();
    let entries = script.script().entries.clone();
    let events: Vec<_> = entries.iter().map(|entry| entry.event).collect();
    let gp = Some(Event::Exception(Exception::GENERAL_PROTECTION));
    assert_eq!(events, [interrupt, interrupt, gp, None, interrupt, None]);
    let windows: Vec<_> = entries.iter().map(|entry| entry.window).collect();
    let any = Some(u8::MAX);
    assert_eq!(windows, [None, None, any, any, None, None]);
}

#[test]
fn a_fault_of_a_double_fault_is_the_end() {
    let (script, mut vcpu) = vcpu();
    let double = Event::Exception(Exception::DOUBLE_FAULT);
    script.script().exits.push_back(fault(Some(double)));
    vcpu.run();
    assert_eq!(vcpu.inject(Exception::GENERAL_PROTECTION), Err(TripleFault));
    // And where the hypervisor saw the second one first.
    let (script, mut vcpu) = self::vcpu();
    script.script().exits.push_back(Left {
        reflected: Some(Exception::GENERAL_PROTECTION),
        ..fault(Some(double))
    });
    assert_eq!(vcpu.run(), Exit::Shutdown);
}

#[test]
fn what_was_intercepted_for_our_sake_is_the_guests() {
    let (script, mut vcpu) = vcpu();
    let debug = Exception {
        vector: 1,
        error: None,
    };
    script.script().will_reflect(debug);
    assert_eq!(vcpu.run(), Exit::Retry);
    vcpu.run();
    let event = script.script().entries[1].event;
    assert_eq!(event, Some(Event::Exception(debug)));
}

#[test]
fn a_change_of_the_tables_is_one_flush() {
    let tables = tables();
    let script = Scripted::default();
    let mut vcpu = script.vcpu(Arc::clone(&tables), 0).expect("one");
    vcpu.run();
    vcpu.run();
    let change = tables.changed();
    assert!(tables.is_forgotten(change), "nobody is inside");
    vcpu.run();
    vcpu.run();
    let flushes: Vec<_> = script.script().entries.iter().map(|e| e.flush).collect();
    assert_eq!(flushes, [true, false, true, false]);
}

#[test]
fn efer_is_what_a_guest_may_have() {
    let (_, mut vcpu) = vcpu();
    vcpu.reset(&State::protected(0), Registers::default());
    assert!(vcpu.write_efer(0x901));
    assert_eq!(vcpu.context().efer, 0x901);
    assert!(!vcpu.write_efer(0x1901));
    assert_eq!(vcpu.context().efer, 0x901);
}

#[test]
fn real_mode_has_no_error_codes() {
    let (script, mut vcpu) = vcpu();
    let gp = |error| Some(Event::Exception(Exception { vector: 13, error }));
    for (state, error) in [(State::RESET, None), (State::protected(0), Some(0))] {
        vcpu.reset(&state, Registers::default());
        assert_eq!(vcpu.inject(Exception::GENERAL_PROTECTION), Ok(()));
        vcpu.run();
        assert_eq!(
            script.script().entries.last().map(|entry| entry.event),
            Some(gp(error))
        );
    }
}
