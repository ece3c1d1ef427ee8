//! Commands made of noise, and every register: nothing panics, and no other device is touched.

use super::bench::{Bench, DEVICES, mapc, mapd, mapti};
use iommu::id::VirtDeviceId;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Small numbers often, so that commands hit, and any number now and then.
fn field(small: u64) -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0..small, 1 => any::<u64>()]
}

fn command() -> impl Strategy<Value = [u64; 4]> {
    let opcode = prop_oneof![9 => 0..0x11u64, 1 => 0..0x100u64];
    let device =
        prop_oneof![4 => Just(8u64), 4 => Just(0x10u64), 1 => any::<u32>().prop_map(u64::from)];
    let lpi = prop_oneof![8 => 8190..8200u64, 1 => any::<u32>().prop_map(u64::from)];
    (
        opcode,
        device,
        field(6),
        lpi,
        field(4),
        field(4),
        any::<bool>(),
    )
        .prop_map(|(opcode, device, event, lpi, collection, cpu, valid)| {
            let target = (cpu & 0xffff_ffff) << 16;
            [
                device << 32 | opcode,
                lpi << 32 | event & 0xffff_ffff,
                u64::from(valid) << 63 | target | collection & 0xffff,
                target >> 1,
            ]
        })
}

/// What must hold after any commands.
fn check(bench: &Bench) {
    let vits = &bench.vits;
    let mut lpis = BTreeSet::new();
    let mut mapped = 0;
    for (device, events) in DEVICES {
        for event in 0..events + 3 {
            let Some(found) = vits.translate(device, event) else {
                continue;
            };
            assert!(event < events && (8192..65536).contains(&found.lpi));
            assert!(lpis.insert(found.lpi), "one LPI for two events");
            assert!(bench.backend.mapped.contains_key(&(device.0, event)));
            mapped += 1;
        }
    }
    assert!(mapped <= bench.backend.mapped.len());
    let events = vits.events.iter().filter(|event| event.lpi != 0).count();
    let used: u32 = vits.used.iter().map(|word| word.count_ones()).sum();
    assert_eq!(
        (events, used as usize),
        (bench.backend.mapped.len(), bench.backend.mapped.len())
    );
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300 * ProptestConfig::default().cases / 256,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_commands_keep_every_map_in_step(
        commands in prop::collection::vec(command(), 1..120), cpus in 1..4usize, room in 0..20usize
    ) {
        let mut bench = Bench::ready(cpus);
        bench.run(&[mapd(8, 3, 1), mapd(0x10, 3, 1)]);
        bench.backend.room = Some(room);
        for (n, command) in commands.iter().enumerate() {
            bench.run(&[*command]);
            bench.signal(8, n as u32 % 8);
            bench.signal(0x10, n as u32 % 5);
            check(&bench);
        }
        bench.vits.reset(&mut bench.vgic, &bench.memory, &mut bench.backend);
        prop_assert!(bench.backend.mapped.is_empty());
        for cpu in 0..cpus {
            prop_assert_eq!(bench.next(cpu), None);
        }
    }

    #[test]
    fn any_words_at_all_are_survived(words in prop::collection::vec(any::<[u64; 4]>(), 1..100)) {
        let mut bench = Bench::ready(2);
        bench.run(&words);
        check(&bench);
    }

    #[test]
    fn registers_and_commands_in_any_order_are_survived(
        writes in prop::collection::vec((0..0x140u64, prop::sample::select(&[1u8, 2, 4, 8][..]), any::<u64>()), 1..60)
    ) {
        let mut bench = Bench::ready(2);
        bench.run(&[mapd(8, 3, 1), mapti(8, 1, 8192, 1), mapc(1, 0)]);
        for (offset, size, value) in writes {
            bench.vits.write(offset, size, value);
            bench.vits.read(offset, size);
            bench.poll();
            check(&bench);
        }
    }
}

#[test]
fn every_opcode_is_survived_with_every_kind_of_field() {
    let mut bench = Bench::ready(2);
    bench.run(&[mapd(8, 3, 1), mapti(8, 0, 8192, 0)]);
    let fields = [0, 1, 8, 8192, 1 << 16, 1 << 63, u64::MAX];
    for opcode in 0..0x100u64 {
        for a in fields {
            for b in fields {
                for c in fields {
                    bench.run(&[[(a << 32) | opcode, b, c, a]]);
                }
            }
        }
    }
    check(&bench);
}

#[test]
fn every_access_to_every_offset_is_survived() {
    let mut bench = Bench::ready(2);
    for size in [1, 2, 4, 8] {
        for value in [0, u64::MAX, 0x5555_5555_5555_5555] {
            for offset in 0..0x1_0000 {
                bench.vits.write(offset, size, value);
                let read = bench.vits.read(offset, size);
                assert!(size == 8 || read >> (8 * size) == 0);
                bench.poll();
            }
        }
    }
    bench.vits.read(u64::MAX, 4);
    bench.vits.write(u64::MAX, 8, 1);
    assert_eq!(bench.vits.translate(VirtDeviceId(u32::MAX), u32::MAX), None);
}

#[test]
fn a_configuration_table_of_any_width_is_survived() {
    // GICR_PROPBASER.IDbits: widths that no INTID here has, up to 32 bits (IHI 0069, 12.11).
    for bits in 0..32 {
        let mut bench = Bench::ready(1);
        bench.run(&[mapd(8, 3, 1)]);
        bench.vgic.write_redistributor(0, 4, 0);
        bench
            .vgic
            .write_redistributor(0x70, 8, super::bench::PROPERTIES | bits);
        bench.vgic.write_redistributor(0, 4, 1);
        bench.run(&[mapti(8, 1, 8192, 0), mapti(8, 2, 0xffff, 0)]);
        let of = |event| bench.vits.translate(VirtDeviceId(8), event);
        assert_eq!((of(1).is_some(), of(2).is_some()), (bits >= 13, bits >= 15));
        check(&bench);
    }
}
