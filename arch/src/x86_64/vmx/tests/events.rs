//! Events, windows and NMIs.

use alloc::collections::BTreeMap;

use super::{guest, guest_of, run, run_with, words};
use crate::x86_64::vcpu::{Entry, Event, Exception, Exit, Held, Registers, State, Virtualization};
use crate::x86_64::vmx::Processor;

#[test]
fn events_have_one_layout_in_both_directions() {
    let fault = |vector, error| Event::Exception(Exception { vector, error });
    for (event, word, error) in [
        (Event::Interrupt(0x41), 0x8000_0041, 0),
        (Event::Nmi, 0x8000_0202, 0),
        (fault(6, None), 0x8000_0306, 0),
        (fault(14, Some(0x1_0002)), 0x8000_0b0e, 0x1_0002),
    ] {
        let entry = Entry {
            event: Some(event),
            ..Entry::default()
        };
        let fields = [(0x4402, 48), (0x4408, word), (0x440a, error)];
        let (left, vmcs) = run(&mut guest(), &entry, &fields);
        assert_eq!((vmcs[&0x4016], vmcs[&0x4018]), (word, error));
        assert_eq!(left.interrupted, Some(event));
    }
    // INTn, INT1, INT3 come again by themselves; a refused entry has delivered nothing.
    for word in [0x41, 0x8000_0480, 0x8000_0501, 0x8000_0603] {
        let (left, _) = run(
            &mut guest(),
            &Entry::default(),
            &[(0x4402, 48), (0x4408, word)],
        );
        assert_eq!(left.interrupted, None, "{word:#x}");
    }
    let fields = [(0x4402, 1 << 31 | 33), (0x4408, 0x8000_0041)];
    assert_eq!(
        run(&mut guest(), &Entry::default(), &fields).0.interrupted,
        None
    );
}

#[test]
fn a_window_waits_for_cr8_and_then_for_the_guest() {
    let mut guest = guest();
    guest.set_task_priority(5);
    assert_eq!((guest.task_priority(), guest.cpu.apic(0x80)), (5, 0x50));
    for (window, interrupt_window, threshold) in [
        (Some(4), 0, 4),
        (Some(5), 0, 5),
        (Some(6), 1, 0),
        (Some(u8::MAX), 1, 0),
        (None, 0, 0),
    ] {
        let entry = Entry {
            window,
            ..Entry::default()
        };
        let (_, vmcs) = run(&mut guest, &entry, &[(0x4402, 43)]);
        assert_eq!(
            (vmcs[&0x4002] >> 2 & 1, vmcs[&0x401c]),
            (interrupt_window, threshold)
        );
    }
    guest.reset(&State::RESET);
    assert_eq!(guest.task_priority(), 0);
}

#[test]
fn an_interrupt_comes_before_a_guest_that_masks_them() {
    let mut guest = guest();
    guest.cpu.interrupted = true;
    let entry = Entry {
        event: Some(Event::Nmi),
        flush: true,
        ..Entry::default()
    };
    let mut registers = Registers {
        rip: 0x1000,
        rflags: 2,
        ..Registers::default()
    };
    let before = registers.clone();
    let left = guest.run(&mut registers, &entry);
    assert_eq!((left.exit, left.next), (Exit::Interrupt, 0x1000));
    assert_eq!((left.interrupted, left.reflected), (entry.event, None));
    // It was not entered, but everything is forgotten as it should be.
    assert_eq!((guest.cpu.seen.len(), guest.cpu.flushes), (0, 1));
    assert_eq!(registers, before);
    assert!(!guest.is_nmi_masked(&registers));
    // The CPU sees to it where the guest takes interrupts.
    registers.rflags = 0x202;
    let (left, vmcs) = run_with(&mut guest, &mut registers, &entry, &[(0x4402, 12)]);
    assert_eq!((left.exit, vmcs[&0x4016]), (Exit::Halt, 0x8000_0202));
    registers.rflags = 2;
    guest.cpu.interrupted = false;
    let (left, _) = run_with(&mut guest, &mut registers, &entry, &[(0x4402, 12)]);
    assert_eq!(left.exit, Exit::Halt);
}

#[test]
fn cr2_goes_to_the_cpu() {
    let mut guest = guest();
    guest.set_cr2(0x1234);
    assert_eq!(guest.cpu.cr2, 0x1234);
}

#[test]
fn an_nmi_blocks_the_next_until_its_iret() {
    let mut guest = guest();
    let window = |vmcs: &BTreeMap<u32, u64>| vmcs[&0x4002] >> 22 & 1;
    let entry = Entry {
        event: Some(Event::Nmi),
        ..Entry::default()
    };
    let registers = Registers::default();
    assert!(!guest.is_nmi_masked(&registers));
    let (_, vmcs) = run(&mut guest, &entry, &[(0x4402, 12), (0x4824, 8)]);
    assert_eq!(window(&vmcs), 1);
    assert!(guest.is_nmi_masked(&registers));
    // An IRET that faults has ended the blocking: it is put back.
    let fields = [(0x4402, 48), (0x6400, 0x1181), (0x4824, 0)];
    run(&mut guest, &Entry::default(), &fields);
    assert!(guest.is_nmi_masked(&registers));
    let (left, vmcs) = run(&mut guest, &Entry::default(), &[(0x4402, 8), (0x4824, 0)]);
    assert_eq!(
        (left.exit, window(&vmcs), vmcs[&0x4824]),
        (Exit::NmiWindow, 1, 8)
    );
    assert!(!guest.is_nmi_masked(&registers));
    let (_, vmcs) = run(&mut guest, &Entry::default(), &[(0x4402, 12)]);
    assert_eq!(window(&vmcs), 0);
    // One whose delivery is interrupted blocks nothing.
    let fields = [(0x4402, 48), (0x4408, 0x8000_0202), (0x4824, 8)];
    let (left, _) = run(&mut guest, &entry, &fields);
    assert_eq!(left.interrupted, Some(Event::Nmi));
    assert!(!guest.is_nmi_masked(&registers));
}

/// Registers of the virtual-APIC page from `first` on.
fn vectors(guest: &mut super::Guest<super::Fake>, first: usize) -> [u32; 8] {
    core::array::from_fn(|index| guest.cpu.apic(first + 0x10 * index))
}

#[test]
fn a_cpu_that_delivers_has_the_interrupts_while_it_runs() {
    let mut words = words();
    words.pin |= 1 << (32 + 7);
    let guest_with = |words| guest_of(&words).with_posted(0x1_2340, 0xf3);
    let mut guest = guest_with(words);
    assert!(guest.delivers());
    let held = Held {
        requested: [0, 1 << 0x11, 0, 0, 0, 0, 1 << 1, 0],
        in_service: [0, 0, 0, 1 << 4, 0, 0, 0, 0],
        private: false,
    };
    guest.lend(&held);
    assert_eq!(guest.take_back(), Some(held), "it did not run");
    assert_eq!(guest.take_back(), None);
    guest.lend(&held);
    let (_, vmcs) = run(&mut guest, &Entry::default(), &[(0x4402, 12)]);
    let word = |field| vmcs[&field];
    // PIN_BASED_POSTED_INTR 7, VIRTUAL_INTR_DELIVERY 9, ACK_INTR_ON_EXIT 15.
    assert_eq!((word(0x4000), word(0x401e)), (0xbf, 0x12ea));
    assert_eq!(word(0x400c), 0x003f_efff);
    assert_eq!((word(0x0002), word(0x2016)), (0xf3, 0x1_2340));
    // SVI 0x64, RVI 0xc1; no end exits.
    assert_eq!(word(0x0810), 0x64c1);
    for exits in [0x201c, 0x201e, 0x2020, 0x2022] {
        assert_eq!(word(exits), 0);
    }
    assert_eq!(vectors(&mut guest, 0x200), held.requested);
    assert_eq!(vectors(&mut guest, 0x100), held.in_service);
    // The CPU has delivered one, and got another.
    for (register, value) in [(0x260, 0), (0x160, 2), (0x210, 1 << 0x12)] {
        guest.cpu.set_apic(register, value);
    }
    let left = Held {
        requested: [0, 1 << 0x12, 0, 0, 0, 0, 0, 0],
        in_service: [0, 0, 0, 1 << 4, 0, 0, 1 << 1, 0],
        private: false,
    };
    assert_eq!(guest.take_back(), Some(left));
    assert_eq!(guest.take_back(), None);
    // Nothing is left of a life before.
    guest.lend(&held);
    guest.reset(&State::RESET);
    assert_eq!(guest.take_back(), None);
    // What was acknowledged for us is taken, and only that.
    for (event, taken) in [(0x8000_00f1, vec![0xf1]), (0xf1, vec![])] {
        let mut guest = guest_with(words);
        let fields = [(0x4402, 1), (0x4404, event)];
        let (left, _) = run(&mut guest, &Entry::default(), &fields);
        assert_eq!(left.exit, Exit::Interrupt);
        assert_eq!(guest.cpu.interrupts, taken);
    }
    // All three, or none.
    for lacking in 0..3 {
        let mut words = words;
        let (word, bit) = match lacking {
            0 => (&mut words.pin, 7),
            1 => (&mut words.secondary, 9),
            _ => (&mut words.exit, 15),
        };
        *word &= !(1 << (32 + bit));
        let mut guest = guest_with(words);
        assert!(!guest.delivers());
        let (_, vmcs) = run(&mut guest, &Entry::default(), &[(0x4402, 12)]);
        assert_eq!(vmcs[&0x4000] & 0x80, 0);
        assert_eq!(vmcs.get(&0x2016), None);
    }
}

#[test]
fn a_guest_ends_interrupts_by_itself_where_nobody_else_hears_of_it() {
    let mut words = words();
    words.pin |= 1 << (32 + 7);
    let held = |private| Held {
        private,
        ..Held::default()
    };
    // VIRTUALIZE_X2APIC_MODE 4, and other bitmaps, always together.
    let said = |guest: &mut super::Guest<super::Fake>, private| {
        guest.lend(&held(private));
        let (_, vmcs) = run(guest, &Entry::default(), &[(0x4402, 12)]);
        (vmcs[&0x401e] & 1 << 4, vmcs[&0x2004])
    };
    let mut guest = guest_of(&words).with_posted(0x1_2340, 0xf3);
    let (off, all) = said(&mut guest, false);
    let (on, ending) = said(&mut guest, true);
    assert_eq!((off, on), (0, 1 << 4));
    assert_ne!(all, ending);
    assert_eq!(said(&mut guest, true), (on, ending));
    assert_eq!(said(&mut guest, false), (off, all));
    // Nothing is left of a life before.
    said(&mut guest, true);
    guest.reset(&State::RESET);
    let (_, vmcs) = run(&mut guest, &Entry::default(), &[(0x4402, 12)]);
    assert_eq!((vmcs[&0x401e] & 1 << 4, vmcs[&0x2004]), (off, all));
    // Not on a CPU that has no virtual x2APIC.
    words.secondary &= !(1 << (32 + 4));
    let mut guest = guest_of(&words).with_posted(0x1_2340, 0xf3);
    let first = said(&mut guest, false);
    assert_eq!(said(&mut guest, true), first);
}
