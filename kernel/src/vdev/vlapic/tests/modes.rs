//! Modes, and how processors come up.

use super::{store, x2apic, xapic};
use crate::vdev::CpuSet;
use crate::vdev::vlapic::{Destination, Effects, GeneralProtection, Message, Mode, Vlapics};

/// "x2APIC State Transitions", all of them.
#[test]
fn modes_change_along_the_manuals_arrows_only() {
    let (off, x, x2, invalid) = (0, 0x800, 0xc00, 0x400);
    let reach = |mode: u64| {
        let mut apics = Vlapics::new(2, 0).unwrap();
        let steps: &[u64] = match mode {
            0 => &[0],
            0xc00 => &[0xc00],
            _ => &[],
        };
        for step in steps {
            apics.set_base(1, 0xfee0_0000 | step).unwrap();
        }
        apics
    };
    for (from, to, allowed) in [
        (off, off, true),
        (off, x, true),
        (off, x2, false),
        (off, invalid, false),
        (x, off, true),
        (x, x, true),
        (x, x2, true),
        (x, invalid, false),
        (x2, off, true),
        (x2, x, false),
        (x2, x2, true),
        (x2, invalid, false),
    ] {
        let mut apics = reach(from);
        let result = apics.set_base(1, 0xfee0_0000 | to);
        assert_eq!(result.is_ok(), allowed, "{from:#x} to {to:#x}");
        let now = if allowed { to } else { from };
        assert_eq!(apics.base(1), 0xfee0_0000 | now);
    }
    let mut apics = reach(x);
    for moved in [0xfee0_1800, 0xfee0_0900, 0xfee0_0801, 0x1_fee0_0800] {
        assert_eq!(apics.set_base(1, moved), Err(GeneralProtection));
    }
}

#[test]
fn turning_it_off_forgets_and_answers_nobody() {
    let mut apics = xapic(2);
    let all = Message {
        destination: Destination::All,
        mode: Mode::Fixed,
        vector: 0x40,
        level: false,
    };
    apics.deliver(&all);
    apics.set_base(0, 0xfee0_0100).unwrap();
    assert_eq!(apics.pending(0), None);
    assert_eq!(apics.deliver(&all).kick, CpuSet::one(1));
    assert_eq!(apics.read(0, 0x20, 4, 0), 0xffff_ffff);
    let init = Message {
        mode: Mode::Init,
        ..all
    };
    assert_eq!(apics.deliver(&init).init, CpuSet::one(1));
    apics.set_base(0, 0xfee0_0900).unwrap();
    assert_eq!(apics.read(0, 0xf0, 4, 0), 0xff);
}

/// As Linux wakes a processor: INIT asserted, INIT de-asserted, start-up twice.
#[test]
fn init_and_two_start_ups_start_a_processor_once() {
    for wide in [false, true] {
        let mut apics = if wide { x2apic(3) } else { xapic(3) };
        let mut send = |command: u64| {
            if wide {
                apics.write_msr(0, 0x830, 2 << 32 | command, 0).unwrap()
            } else {
                store(&mut apics, 0, 0x310, 2 << 24);
                store(&mut apics, 0, 0x300, command)
            }
        };
        let two = CpuSet::one(2);
        assert_eq!(
            send(0x0_4699),
            Effects {
                page: 0x99,
                ..Effects::default()
            },
            "it runs"
        );
        assert_eq!(send(0x0_c500).init, two);
        assert_eq!(send(0x0_8500), Effects::default());
        let start = send(0x0_0699);
        assert_eq!((start.start, start.page), (two, 0x99));
        assert_eq!(send(0x0_0698).start, CpuSet::NONE);
        assert!(!apics.waits(2));
        let base = if wide { 0xfee0_0c00 } else { 0xfee0_0800 };
        assert_eq!(apics.base(2), base, "INIT does not change the mode");
    }
}

#[test]
fn who_waits_for_its_start_hears_nothing_else() {
    let mut apics = Vlapics::new(2, 0).unwrap();
    for mode in [Mode::Fixed, Mode::Lowest, Mode::Nmi] {
        let message = Message {
            destination: Destination::Physical(1),
            mode,
            vector: 0x40,
            level: false,
        };
        assert_eq!(apics.deliver(&message).kick, CpuSet::NONE, "{mode:?}");
    }
    assert!(!apics.take_nmi(1, || true));
}

#[test]
fn init_of_the_first_processor_does_not_make_it_wait() {
    let mut apics = xapic(2);
    store(&mut apics, 1, 0x310, 0);
    assert_eq!(store(&mut apics, 1, 0x300, 0x4500).init, CpuSet::one(0));
    assert!(!apics.waits(0));
}

#[test]
fn reset_is_what_it_was_made_like() {
    let mut apics = x2apic(2);
    apics.reset();
    assert_eq!((apics.base(0), apics.base(1)), (0xfee0_0900, 0xfee0_0800));
    assert!(apics.waits(1) && !apics.waits(0));
}
