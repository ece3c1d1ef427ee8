//! What a strict model says to software that does what it must not, and how late its memory is.

mod bare;

use bare::{Bare, PAGE, RAM, S2, SYNC, panic_of, two};
use iommu::hal::{DmaBuffer, Mmio, Platform};
use iommu::model::memory::{BusError, Memory, Order, POISON};
use iommu::model::smmu::Config;

/// A section, and what breaks its rule.
type Case = (&'static str, &'static dyn Fn(&mut Bare));

/// What a strict model says to `act`.
fn said(act: impl FnOnce(&mut Bare)) -> String {
    let mut bare = Bare::new(Config::default());
    panic_of(|| act(&mut bare))
}

#[test]
fn what_software_must_not_do_is_said_with_its_section() {
    let cases: [Case; 20] = [
        ("6.3.24", &|bare| bare.smmu.write64(0x80, RAM)),
        ("6.3.25", &|bare| bare.smmu.write32(0x88, 8)),
        ("6.3.26", &|bare| bare.smmu.write64(0x90, RAM | 6)),
        ("6.3.26", &|bare| bare.smmu.write64(0xa0, RAM | 4)),
        ("6.3.28", &|bare| bare.smmu.write32(0x9c, 0)),
        ("6.3.95", &|bare| bare.smmu.write32(0x100a8, 0)),
        ("6.3.11", &|bare| bare.smmu.write32(0x28, 0)),
        ("6.3.12", &|bare| bare.smmu.write32(0x2c, 2)),
        ("6.3.9", &|bare| bare.smmu.write32(0x20, 1 << 9 | 0xd)),
        ("6.3.9", &|bare| {
            bare.smmu.write32(0x20, 0xc);
            bare.smmu.write32(0x20, 0xd);
        }),
        ("6.3.14", &|bare| bare.smmu.write32(0x44, 1 << 31 | 1 << 7)),
        ("6.3.16", &|bare| bare.smmu.write32(0x50, 8)),
        ("6.3.20", &|bare| bare.smmu.write32(0x64, 4)),
        ("6.3.21", &|bare| bare.smmu.write64(0xb0, RAM)),
        ("6.3.27", &|bare| bare.smmu.write32(0x98, 128)),
        ("3.5.1", &|bare| bare.smmu.write32(0x98, 65)),
        ("3.5.1", &|bare| bare.smmu.write32(0x100ac, 1)),
        ("7.4", &|bare| bare.smmu.write32(0x100ac, 1 << 31)),
        ("6.2", &|bare| bare.smmu.write64(0x98, 0)),
        ("6.2", &|bare| bare.smmu.write32(0xa8, 0)),
    ];
    for (index, (section, act)) in cases.into_iter().enumerate() {
        let words = said(act);
        assert!(
            words.starts_with(&format!("IHI 0070 {section}:")),
            "case {index}: {words}"
        );
    }
}

#[test]
fn an_entry_changed_while_it_is_valid_is_said() {
    let words = said(|bare| {
        bare.entry(7, &[0xd, 0, two(25, 1, 0, 3), RAM]);
        let at = bare.streams + 7 * 64;
        bare.memory.store(at + 16, two(25, 1, 0, 4));
        bare.memory.store(at + 24, RAM + PAGE);
        bare.memory.write_barrier();
    });
    assert!(words.starts_with("IHI 0070 3.21.3.1: STE 0x7"), "{words}");
    // Closed, and opened again without the CMD_SYNC in between: a slow fetch mixes both.
    let words = said(|bare| {
        bare.entry(7, &[0xd, 0, two(25, 1, 0, 3), RAM]);
        let at = bare.streams + 7 * 64;
        for (offset, value) in [(0, 1), (16, two(25, 1, 0, 4)), (24, RAM + PAGE), (0, 0xd)] {
            bare.store(at + offset, value);
        }
    });
    assert!(words.starts_with("IHI 0070 3.21.3.1: STE 0x7"), "{words}");
}

#[test]
fn a_block_in_place_of_pages_without_a_break_is_said() {
    let words = said(|bare| {
        let (root, middle, leaf) = (bare.page(), bare.page(), bare.page());
        bare.store(root, middle | 3);
        bare.store(middle, leaf | 3);
        bare.store(leaf, RAM | S2 | 3);
        bare.entry(7, &[0xd, 0, two(25, 1, 0, 3), root]);
        bare.at(7, 0).unwrap();
        bare.store(middle, RAM | S2 | 1);
        // Leaf entries only: the page is in the TLB still, but the table is forgotten.
        bare.send(&[[0x2a | 3 << 32, 0x5000], SYNC]);
        let _ = bare.at(7, 0x5000);
    });
    assert!(words.contains("break-before-make"), "{words}");
}

#[test]
fn a_model_that_is_not_strict_takes_notes() {
    let bare = Bare::new(Config {
        strict: false,
        ..Config::default()
    });
    bare.smmu.write32(0x28, 0);
    bare.smmu.write64(0x80, 1);
    let sections: Vec<_> = bare
        .smmu
        .violations()
        .iter()
        .map(|one| one.section)
        .collect();
    assert_eq!(sections, ["6.3.11", "6.3.24", "6.3.24"]);
}

#[test]
fn memory_is_as_late_as_it_may_be() {
    let memory = Memory::non_coherent();
    let mut buffer = memory.allocate(4096).expect("memory");
    let at = buffer.hpa().0;
    assert_eq!(
        memory.device_read(at, false),
        Ok(POISON),
        "zeroes are in the cache"
    );
    assert_eq!(memory.device_read(at, true), Ok(0));
    buffer.write64(0, 7);
    assert_eq!(buffer.read64(0), 7);
    assert_eq!(memory.device_read(at, true), Ok(0), "in the store buffer");
    memory.write_barrier();
    assert_eq!(memory.device_read(at, true), Ok(7));
    buffer.clean(0, 8);
    assert_eq!(memory.device_read(at, false), Ok(POISON), "not done yet");
    memory.write_barrier();
    assert_eq!(memory.device_read(at, false), Ok(7));
    memory.device_write(at, 9, false).unwrap();
    assert_eq!(buffer.read64(0), 7, "in the cache");
    buffer.discard(0, 8);
    assert_eq!(buffer.read64(0), 9);
    drop(buffer);
    memory.set_strict(false);
    assert_eq!(memory.device_read(at, true), Err(BusError::Freed(at)));
    assert_eq!(
        memory.device_read(at + 4096, true),
        Err(BusError::Absent(at + 4096))
    );
}

#[test]
fn in_random_order_stores_pass_each_other_but_not_themselves() {
    let mut passed = 0;
    for seed in 1..200 {
        let memory = Memory::coherent();
        memory.set_order(Order::Random(seed * 0x9e37_79b9));
        memory.add_ram(RAM, PAGE);
        for value in 1..=4 {
            memory.store(RAM, value);
            memory.store(RAM + 64, value);
        }
        let mut last = (0, 0);
        for _ in 0..20 {
            let now = (
                memory.device_read(RAM, true).unwrap(),
                memory.device_read(RAM + 64, true).unwrap(),
            );
            assert!(now.0 >= last.0 && now.1 >= last.1, "back in time");
            passed += u32::from(now.1 > now.0);
            last = now;
        }
        memory.write_barrier();
        assert_eq!(memory.device_read(RAM, true), Ok(4));
    }
    assert!(passed > 0);
}
