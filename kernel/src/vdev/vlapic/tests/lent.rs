//! A CPU that delivers interrupts by itself has them between two exits; what is posted to it comes to the same.

use super::{load, store, x2apic, xapic};
use crate::vdev::CpuSet;
use crate::vdev::vlapic::{Destination, Effects, Message, Mode};

fn fixed(vector: u8, level: bool) -> Message {
    Message {
        destination: Destination::Physical(0),
        mode: Mode::Fixed,
        vector,
        level,
    }
}

/// 32 vectors a word.
fn words(vectors: &[u8]) -> [u32; 8] {
    let mut words = [0; 8];
    for vector in vectors {
        words[usize::from(*vector) / 32] |= 1 << (vector % 32);
    }
    words
}

/// 64 vectors a word.
fn posted(vectors: &[u8]) -> [u64; 4] {
    let mut words = [0; 4];
    for vector in vectors {
        words[usize::from(*vector) / 64] |= 1 << (vector % 64);
    }
    words
}

#[test]
fn what_is_lent_comes_back_as_the_cpu_left_it() {
    let mut apics = xapic(1);
    for vector in [0x31, 0x51, 0xe0] {
        apics.deliver(&fixed(vector, false));
    }
    assert_eq!(apics.acknowledge(0), Some(0xe0));
    assert_eq!(apics.lend(0), [words(&[0x31, 0x51]), words(&[0xe0])]);
    assert_eq!(apics.pending(0), None, "it is the CPU's now");
    // One comes meanwhile; the CPU ends one, takes another, and gets one that was posted.
    assert_eq!(apics.deliver(&fixed(0x41, false)).kick, CpuSet::one(0));
    apics.take_back(0, [words(&[0x31, 0x61]), words(&[0x51])]);
    assert_eq!(load(&mut apics, 0, 0x100 + 0x10 * 7), 0, "0xe0 has ended");
    assert_eq!(load(&mut apics, 0, 0x100 + 0x10 * 2), 1 << 0x11);
    assert_eq!(apics.pending(0), Some(0x61));
    assert_eq!(apics.lend(0), [words(&[0x31, 0x41, 0x61]), words(&[0x51])]);
    apics.take_back(0, [[0; 8]; 2]);
    assert_eq!(apics.lend(0), [[0; 8]; 2]);
}

#[test]
fn what_is_posted_is_an_edge_for_whoever_listens() {
    let mut apics = x2apic(2);
    apics.deliver(&fixed(0x31, true));
    apics.take_posted(0, posted(&[0x0f, 0x31, 0x80, 0xff]));
    assert_eq!(apics.lend(0)[0], words(&[0x31, 0x80, 0xff]));
    apics.take_back(0, [words(&[0x31]), [0; 8]]);
    assert_eq!(apics.acknowledge(0), Some(0x31));
    let ended = apics.write_msr(0, 0x80b, 0, 0).unwrap();
    assert_eq!(ended.end, None, "the last of 0x31 was an edge");
    // Off by software, off, and waiting for its start.
    apics.write_msr(0, 0x80f, 0xff, 0).unwrap();
    apics.take_posted(0, posted(&[0x31]));
    apics.set_base(1, 0xfee0_0000).unwrap();
    apics.take_posted(1, posted(&[0x31]));
    assert_eq!([apics.lend(0), apics.lend(1)], [[[0; 8]; 2]; 2]);
    let mut apics = x2apic(2);
    apics.cpus[1].waits = true;
    apics.take_posted(1, posted(&[0x31]));
    assert_eq!(apics.pending(1), None);
}

#[test]
fn what_needs_more_than_a_vector_is_not_posted() {
    let mut apics = xapic(1);
    apics.lend(0);
    apics.deliver(&fixed(0x31, false));
    apics.deliver(&fixed(0xfe, false));
    assert_eq!(apics.to_post(0), Some(posted(&[0x31, 0xfe])));
    assert_eq!(apics.to_post(0), Some([0; 4]), "once");
    // A level, whose end somebody waits for: all of it waits for the vCPU to look.
    apics.deliver(&fixed(0x41, true));
    apics.deliver(&fixed(0x31, false));
    assert_eq!(apics.to_post(0), None);
    apics.take_back(0, [[0; 8]; 2]);
    assert_eq!(apics.acknowledge(0), Some(0x41));
    assert_eq!(apics.to_post(0), Some(posted(&[0x31])));
    assert_eq!(store(&mut apics, 0, 0xb0, 0).end, Some(0x41));
    let nmi = Message {
        mode: Mode::Nmi,
        ..fixed(0, false)
    };
    apics.deliver(&nmi);
    assert_eq!(apics.to_post(0), None);
}

#[test]
fn an_edge_for_one_that_its_id_names_can_be_posted() {
    let (wide, narrow) = (x2apic(3), xapic(3));
    let to = |destination| Message {
        destination,
        ..fixed(0x41, false)
    };
    let physical = to(Destination::Physical(2));
    for apics in [&wide, &narrow] {
        assert_eq!(apics.posts_to(&physical), Some((2, 0x41)));
        let lowest = Message {
            mode: Mode::Lowest,
            ..physical
        };
        assert_eq!(apics.posts_to(&lowest), Some((2, 0x41)));
        for other in [
            to(Destination::All),
            to(Destination::Physical(3)),
            Message {
                level: true,
                ..physical
            },
            Message {
                mode: Mode::Nmi,
                ..physical
            },
            Message {
                vector: 15,
                ..physical
            },
        ] {
            assert_eq!(apics.posts_to(&other), None, "{other:?}");
        }
    }
    // Cluster 0, of those in x2APIC mode.
    assert_eq!(
        wide.posts_to(&to(Destination::Logical(1 << 1))),
        Some((1, 0x41))
    );
    for (apics, set) in [(&wide, 3), (&narrow, 1 << 1)] {
        assert_eq!(apics.posts_to(&to(Destination::Logical(set))), None);
    }
}

#[test]
fn nothing_is_posted_to_who_does_not_listen_and_it_is_said_when_that_changes() {
    let to = Message {
        destination: Destination::Physical(1),
        ..fixed(0x41, false)
    };
    let said = |effects: Effects| effects.switched;
    let (one, none) = (CpuSet::one(1), CpuSet::NONE);
    // By software, in both modes; what else SVR has is nobody's matter.
    let mut apics = xapic(2);
    for (value, switched) in [(0xff, one), (0x1ff, one), (0x1fe, none)] {
        assert_eq!(said(store(&mut apics, 1, 0xf0, value)), switched);
        let listens = value & 0x100 != 0;
        assert_eq!(apics.posts_to(&to), listens.then_some((1, 0x41)));
    }
    let mut apics = x2apic(2);
    for (value, switched) in [(0xff, one), (0xfe, none), (0x1ff, one)] {
        let written = apics.write_msr(1, 0x80f, value, 0).expect("SVR");
        assert_eq!(said(written), switched);
        let listens = value & 0x100 != 0;
        assert_eq!(apics.posts_to(&to), listens.then_some((1, 0x41)));
    }
    // Off, on again, and into the other mode.
    for (value, switched) in [(0xc00, none), (0, one), (0x800, one), (0xc00, one)] {
        let written = apics.set_base(1, 0xfee0_0000 | value).expect("a mode");
        assert_eq!(said(written), switched, "{value:x}");
        let listens = (value == 0xc00).then_some((1, 0x41));
        assert_eq!(apics.posts_to(&to), listens.filter(|_| switched == none));
    }
    // INIT, and from there to where it listens again.
    apics.write_msr(1, 0x80f, 0x1ff, 0).expect("SVR");
    let message = |mode| Message { mode, ..to };
    assert_eq!(said(apics.deliver(&message(Mode::Init))), one);
    assert_eq!(apics.posts_to(&to), None);
    assert_eq!(said(apics.deliver(&message(Mode::Startup))), none);
    assert_eq!(apics.posts_to(&to), None);
    let written = apics.write_msr(1, 0x80f, 0x1ff, 0).expect("SVR");
    assert_eq!(said(written), one);
    assert_eq!(apics.posts_to(&to), Some((1, 0x41)));
    // Nor for any other access.
    assert_eq!(said(apics.deliver(&to)), none);
    let written = apics.write_msr(1, 0x808, 0, 0).expect("TPR");
    assert_eq!(said(written), none);
}

#[test]
fn a_vcpu_ends_by_itself_what_nobody_else_hears_of() {
    let mut apics = x2apic(1);
    assert!(apics.ends_by_itself(0));
    apics.deliver(&fixed(0x31, false));
    assert!(apics.ends_by_itself(0));
    // A level: from its request to its end.
    apics.deliver(&fixed(0x41, true));
    assert!(!apics.ends_by_itself(0));
    assert_eq!(apics.acknowledge(0), Some(0x41));
    assert!(!apics.ends_by_itself(0));
    let ended = apics.write_msr(0, 0x80b, 0, 0).expect("an end");
    assert_eq!(ended.end, Some(0x41));
    assert!(apics.ends_by_itself(0), "its trigger mode stays");
    // The page of xAPIC mode exits whatever is done to it.
    assert!(!xapic(1).ends_by_itself(0));
}
