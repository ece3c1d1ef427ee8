//! The order in which Linux brings up an ITS and uses it for a device with MSI-X.

use super::bench::{
    Bench, CLEAR, DISCARD, INV, PROPERTIES, QUEUE, invall, mapc, mapd, mapti, movi, on_event, sync,
};
use crate::vdev::CpuSet;

/// Probe, quiesce, tables, queue, enable; then each CPU's redistributor and collection.
fn bring_up(cpus: usize) -> Bench {
    let mut bench = Bench::new(cpus);
    let vits = &mut bench.vits;
    assert_eq!(vits.read(0xffe8, 4) & 0xf0, 0x30);
    assert_eq!(vits.read(0, 4), 1 << 31, "quiescent, off");
    let typer = vits.read(8, 8);
    assert_eq!(typer, vits.read(8, 4) | vits.read(12, 4) << 32);
    assert_eq!(
        (typer & 3, (typer >> 4 & 0xf) + 1),
        (1, 8),
        "physical only; 8 bytes an ITT entry"
    );
    assert_eq!(
        (
            (typer >> 8 & 0x1f) + 1,
            (typer >> 13 & 0x1f) + 1,
            typer >> 19 & 1
        ),
        (16, 16, 0)
    );
    vits.read(4, 4);

    let mut types = Vec::new();
    for n in 0..8 {
        let offset = 0x100 + 8 * n;
        let value = vits.read(offset, 8);
        let kind = value >> 56 & 7;
        types.push(kind);
        if kind == 0 {
            continue;
        }
        // The page size is probed, then the whole register has to stick.
        vits.write(offset, 8, value & !0x300 | 0x200);
        assert_eq!(vits.read(offset, 8) >> 8 & 3, 2);
        let indirect = if kind == 1 { 1 << 62 } else { 0 };
        vits.write(offset, 8, value | indirect | 0x200);
        assert_eq!(vits.read(offset, 8) & 1 << 62, indirect);
        let whole =
            1 << 63 | indirect | 7 << 59 | kind << 56 | 7 << 48 | 0x4003_0000 | 1 << 10 | 0x200;
        vits.write(offset, 8, whole);
        assert_eq!(vits.read(offset, 8), whole);
    }
    assert_eq!(types, [1, 4, 0, 0, 0, 0, 0, 0], "devices, collections");
    let cbaser = 1 << 63 | 7 << 59 | 1 << 10 | QUEUE | 0xf;
    vits.write(0x80, 8, cbaser);
    assert_eq!(vits.read(0x80, 8), cbaser);
    vits.write(0x88, 8, 0);
    bench.poll();
    assert_eq!(bench.vits.read(0, 4), 1 << 31);
    bench.vits.write(0, 4, 1);
    assert_eq!(bench.vits.read(0, 4), 1);

    bench.vgic.write_distributor(0, 0, 4, 0x13);
    for cpu in 0..cpus as u64 {
        let base = cpu * 0x2_0000;
        bench
            .vgic
            .write_redistributor(base + 0x70, 8, PROPERTIES | 1 << 10 | 7 << 7 | 15);
        bench.vgic.write_redistributor(base, 4, 1);
        let number = bench.vgic.read_redistributor(base + 8, 8).value >> 8 & 0xffff;
        bench.run(&[mapc(cpu, number), sync(number), invall(cpu), sync(number)]);
    }
    assert_eq!(bench.vits.errors(), 0);
    assert_eq!(bench.vits.misuse(), 0);
    bench
}

#[test]
fn linux_runs_a_device_with_a_vector_for_each_cpu() {
    let mut bench = bring_up(4);
    // Eight vectors asked for, LPIs in a row, all on CPU 0 at first and disabled.
    bench.run(&[mapd(8, 3, 1)]);
    for event in 0..8u64 {
        bench.set_property(8192 + event as u32, 0xa0 | 0x2);
        bench.run(&[mapti(8, event, 8192 + event, 0), sync(0)]);
    }
    assert_eq!(
        bench.signal(8, 3),
        Some(CpuSet::NONE),
        "masked: nobody is kicked"
    );
    for event in 0..4u64 {
        bench.run(&[movi(8, event, event), sync(0)]);
        bench.set_property(8192 + event as u32, 0xa0 | 0x3);
        bench.run(&[on_event(INV, 8, event), sync(event)]);
        assert_eq!(bench.backend.mapped[&(8, event as u32)].cpu, event as usize);
        assert!(bench.backend.mapped[&(8, event as u32)].enabled);
    }
    assert_eq!(bench.next(3), Some((8195, 0xa0)), "what came while masked");
    bench.run(&[on_event(CLEAR, 8, 3), sync(3)]);
    for event in 0..4 {
        assert_eq!(bench.signal(8, event), Some(CpuSet::one(event as usize)));
        assert_eq!(bench.next(event as usize), Some((8192 + event, 0xa0)));
    }
    assert_eq!(bench.backend.mapped.len(), 8);
    for event in 0..8 {
        bench.run(&[on_event(DISCARD, 8, event), sync(0)]);
    }
    bench.run(&[mapd(8, 3, 0)]);
    assert!(bench.backend.mapped.is_empty());
    assert_eq!(bench.signal(8, 0), None);
    assert_eq!(bench.vits.errors(), 0);
}

#[test]
fn linux_takes_a_cpu_offline_and_back() {
    let mut bench = bring_up(2);
    bench.set_property(8192, 0xa1);
    bench.run(&[mapd(8, 1, 1), mapti(8, 0, 8192, 1), sync(1)]);
    bench.run(&[movi(8, 0, 0), sync(1)]);
    assert_eq!(bench.signal(8, 0), Some(CpuSet(1)));
    bench.run(&[
        mapc(1, 1),
        sync(1),
        invall(1),
        sync(1),
        movi(8, 0, 1),
        sync(0),
    ]);
    assert_eq!(bench.next(0), None, "pending moves along");
    assert_eq!(bench.next(1), Some((8192, 0xa0)));
}

#[test]
fn a_new_kernel_after_a_crash_starts_from_nothing() {
    let mut bench = bring_up(1);
    bench.run(&[mapd(8, 1, 1), mapti(8, 0, 8192, 0)]);
    bench.vits.write(0, 4, 0);
    let old = bench.vits.read(0x100, 8);
    bench.vits.write(0x100, 8, old ^ 0x1_0000);
    assert!(bench.vits.has_work());
    assert_eq!(
        bench.vits.read(0, 4) >> 31,
        0,
        "not quiescent until it is done"
    );
    bench.poll();
    assert_eq!(bench.vits.read(0, 4) >> 31, 1);
    assert!(bench.backend.mapped.is_empty());
}
