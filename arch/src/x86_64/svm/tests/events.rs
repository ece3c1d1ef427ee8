//! Events, windows and NMIs.

use super::{PLAIN, guest, run};
use crate::x86_64::vcpu::{Entry, Event, Exception, Exit, Registers, State, Virtualization};

#[test]
fn events_have_one_layout_in_both_directions() {
    let fault = |vector, error| Event::Exception(Exception { vector, error });
    for (event, word) in [
        (Event::Interrupt(0x41), 0x8000_0041),
        (Event::Nmi, 0x8000_0202),
        (fault(6, None), 0x8000_0306),
        (fault(14, Some(0x1_0002)), 0x1_0002_8000_0b0e),
    ] {
        let entry = Entry {
            event: Some(event),
            ..Entry::default()
        };
        let words = [(0x70, 0x400), (0x88, word)];
        let (left, block) = run(&mut guest(PLAIN), &entry, &words);
        assert_eq!(block[0xa8 / 8], word);
        assert_eq!(left.interrupted, Some(event));
    }
    // Nothing; INTn, INT3 and INTO come again by themselves; what is no event is none.
    for word in [
        0x41,
        0x302,
        0x8000_0480,
        0x8000_0303,
        0x8000_0304,
        0x8000_0320,
        0x8000_0741,
    ] {
        let words = [(0x70, 0x400), (0x88, word)];
        let (left, _) = run(&mut guest(PLAIN), &Entry::default(), &words);
        assert_eq!(left.interrupted, None, "{word:#x}");
    }
    // A state that the CPU refuses has no event either.
    let words = [(0x70, u64::MAX), (0x88, 0x8000_0041)];
    assert_eq!(
        run(&mut guest(PLAIN), &Entry::default(), &words)
            .0
            .interrupted,
        None
    );
}

#[test]
fn a_window_is_an_interrupt_that_is_never_taken() {
    let vintr = |block: &[u64; 512]| block[1] >> (32 + 4) & 1;
    let mut guest = guest(PLAIN);
    guest.set_task_priority(3);
    for (window, control) in [
        (Some(5), 1 << 24 | 5 << 16 | 1 << 8 | 3),
        (Some(u8::MAX), 1 << 24 | 1 << 20 | 1 << 8 | 3),
        (None, 1 << 24 | 3),
    ] {
        let entry = Entry {
            window,
            ..Entry::default()
        };
        let (_, block) = run(&mut guest, &entry, &[(0x70, 0x64)]);
        assert_eq!(block[0x60 / 8], control);
        assert_eq!(vintr(&block), u64::from(window.is_some()));
    }
    // The guest moves CR8 without an exit.
    run(
        &mut guest,
        &Entry::default(),
        &[(0x70, 0x78), (0x60, 1 << 24 | 9)],
    );
    assert_eq!(guest.task_priority(), 9);
    guest.reset(&State::RESET);
    assert_eq!(guest.task_priority(), 0);
}

#[test]
fn an_nmi_is_over_after_its_iret() {
    let iret = |block: &[u64; 512]| block[1] >> (32 + 20) & 1;
    let mut guest = guest(PLAIN);
    let at = |rip| Registers {
        rip,
        ..Registers::default()
    };
    assert!(!guest.is_nmi_masked(&at(0)));
    let entry = Entry {
        event: Some(Event::Nmi),
        ..Entry::default()
    };
    let (_, block) = run(&mut guest, &entry, &[(0x70, 0x78), (0x578, 0x2000)]);
    assert_eq!(iret(&block), 1);
    assert!(guest.is_nmi_masked(&at(0x2000)) && guest.is_nmi_masked(&at(0x2001)));
    // At the IRET it is still in its handler.
    let (left, _) = run(
        &mut guest,
        &Entry::default(),
        &[(0x70, 0x74), (0x578, 0x2100)],
    );
    assert_eq!(left.exit, Exit::NmiWindow);
    assert!(guest.is_nmi_masked(&at(0x2100)));
    let (_, block) = run(
        &mut guest,
        &Entry::default(),
        &[(0x70, 0x78), (0x578, 0x1000)],
    );
    assert_eq!(iret(&block), 0);
    assert!(!guest.is_nmi_masked(&at(0x1000)));
    run(&mut guest, &entry, &[(0x70, 0x78)]);
    guest.reset(&State::RESET);
    assert!(!guest.is_nmi_masked(&at(0x2000)));
}

#[test]
fn a_shadow_ends_with_the_instruction_that_is_carried_out() {
    let mut guest = guest(PLAIN);
    run(&mut guest, &Entry::default(), &[(0x70, 0x78), (0x68, 1)]);
    assert!(guest.is_shadowed());
    guest.end_shadow();
    assert!(!guest.is_shadowed());
    let (_, block) = run(&mut guest, &Entry::default(), &[(0x70, 0x78), (0x68, 1)]);
    assert_eq!(block[0x68 / 8], 0);
    guest.reset(&State::RESET);
    assert!(!guest.is_shadowed());
}
