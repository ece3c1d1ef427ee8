//! Events, windows and NMIs.

use alloc::collections::BTreeMap;

use super::{guest, run};
use crate::x86_64::vcpu::{Entry, Event, Exception, Exit, Registers, State, Virtualization};

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
    assert_eq!(
        (guest.task_priority(), guest.cpu().task_priority),
        (5, 0x50)
    );
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
fn cr2_goes_to_the_cpu() {
    let mut guest = guest();
    guest.set_cr2(0x1234);
    assert_eq!(guest.cpu().cr2, 0x1234);
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
