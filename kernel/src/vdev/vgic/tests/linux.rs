//! The order in which Linux brings up a GICv3: distributor, then each CPU's redistributor and interface.

use super::machine::Machine;
use crate::vdev::vgic::{SgiRegister, Vgic};

fn word(vgic: &mut Vgic, offset: u64) -> u64 {
    vgic.read_distributor(offset, 4).value
}

/// Probes as its driver does; the writes go through the machine, so that every interface is checked on the way.
fn bring_up(cpus: usize) -> Machine {
    let mut machine = Machine::new(cpus, 4, 16);
    for cpu in 0..cpus {
        machine.exit(cpu);
        machine.vgic.reset_redistributor(cpu);
        machine.enter(cpu);
    }
    machine.vgic.reset_distributor();
    let vgic = &mut machine.vgic;
    assert_eq!(word(vgic, 0xffe8) & 0xf0, 0x30, "GICv3");
    let typer = word(vgic, 0x4);
    let lines = 32 * ((typer & 0x1f) + 1);
    assert_eq!(
        (
            lines,
            (typer >> 19 & 0x1f) + 1,
            typer >> 17 & 1,
            typer >> 10 & 1
        ),
        (128, 16, 1, 0)
    );
    assert_eq!(word(vgic, 0xc), 0);

    // Every redistributor, up to the last.
    let mut affinities = Vec::new();
    for cpu in 0..cpus as u64 {
        assert_eq!(
            vgic.read_redistributor(cpu * 0x2_0000 + 0xffe8, 4).value & 0xf0,
            0x30
        );
        let typer = vgic.read_redistributor(cpu * 0x2_0000 + 8, 8).value;
        assert_eq!(typer >> 4 & 1 != 0, cpu + 1 == cpus as u64, "Last");
        assert_eq!((typer & 0xf, typer >> 8 & 0xffff), (1, cpu), "LPIs, number");
        affinities.push(typer >> 32);
    }
    assert_eq!(affinities, (0..cpus as u64).collect::<Vec<_>>());

    machine.distributor(0, 0, 4, 0);
    assert_eq!(
        word(&mut machine.vgic, 0),
        0x50,
        "DS and ARE cannot be turned off; nothing waits"
    );
    for line in (32..lines).step_by(32) {
        machine.distributor(0, 0x80 + line / 8, 4, 0xffff_ffff);
    }
    for line in (32..lines).step_by(16) {
        machine.distributor(0, 0xc00 + line / 4, 4, 0);
    }
    for line in (32..lines).step_by(4) {
        machine.distributor(0, 0x400 + line, 4, 0xa0a0_a0a0);
    }
    for line in (32..lines).step_by(32) {
        machine.distributor(0, 0x380 + line / 8, 4, 0xffff_ffff);
        machine.distributor(0, 0x180 + line / 8, 4, 0xffff_ffff);
    }
    machine.distributor(0, 0, 4, 0x13);
    assert_eq!(word(&mut machine.vgic, 0), 0x53);
    for line in 32..lines {
        machine.distributor(0, 0x6000 + line * 8, 8, 0);
    }
    for cpu in 0..cpus {
        let base = cpu as u64 * 0x2_0000;
        assert_eq!(
            machine.vgic.read_redistributor(base + 0x14, 4).value,
            0b110,
            "asleep after reset"
        );
        machine.redistributor(cpu, 0x14, 4, 0b100);
        assert_eq!(
            machine.vgic.read_redistributor(base + 0x14, 4).value,
            0,
            "awake"
        );
        machine.redistributor(cpu, 0x1_0080, 4, 0xffff_ffff);
        machine.redistributor(cpu, 0x1_0380, 4, 0xffff_ffff);
        machine.redistributor(cpu, 0x1_0180, 4, 0xffff_0000);
        for offset in (0..32).step_by(4) {
            machine.redistributor(cpu, 0x1_0400 + offset, 4, 0xa0a0_a0a0);
        }
        machine.redistributor(cpu, 0x1_0100, 4, 0xffff);
        assert_eq!(
            machine.vgic.read_redistributor(base, 4).value & 1 << 3,
            0,
            "RWP"
        );
        // LPI tables: attributes and addresses stick, or it takes the ITS for non-coherent.
        let tables = [
            (0x70, 0x4100_0000 | 1 << 10 | 7 << 7 | 15),
            (0x78, 0x4200_0000 | 1 << 10 | 7 << 7),
        ];
        for (offset, value) in tables {
            machine.redistributor(cpu, offset, 8, value);
            assert_eq!(
                machine.vgic.read_redistributor(base + offset, 8).value,
                value
            );
        }
        machine.redistributor(cpu, 0, 4, 1);
        assert_eq!(machine.vgic.read_redistributor(base, 4).value & 1, 1);
        machine.redistributor(cpu, 0x70, 8, 0);
        assert_eq!(
            machine.vgic.lpi_table(),
            Some((0x4100_0000, 16)),
            "fixed while LPIs are on"
        );
    }
    assert_eq!(machine.vgic.misuse(), cpus as u64, "only that last write");
    machine
}

#[test]
fn linux_finds_what_it_looks_for() {
    for cpus in [1, 2, 8, 64] {
        bring_up(cpus);
    }
}

#[test]
fn linux_moves_an_interrupt_by_masking_routing_and_unmasking() {
    let mut machine = bring_up(2);
    machine.distributor(0, 0x104, 4, 1 << 1);
    machine.beside(|vgic| vgic.set_line(33, true));
    assert!(machine.cpus[0].signals());
    assert_eq!(word(&mut machine.vgic, 0x104) >> 1 & 1, 1);
    machine.distributor(1, 0x184, 4, 1 << 1);
    machine.distributor(1, 0x6000 + 8 * 33, 8, 1);
    assert_eq!(machine.vgic.read_distributor(0x6000 + 8 * 33, 8).value, 1);
    machine.distributor(1, 0x104, 4, 1 << 1);
    assert!(!machine.cpus[0].signals());
    assert_eq!(machine.acknowledge(1), Some((33, 0xa0)));
}

#[test]
fn linux_sends_its_ipis() {
    let mut machine = bring_up(8);
    machine.on(3, |vgic| crate::vdev::vgic::Effects {
        kick: vgic.write_sgi(3, SgiRegister::Sgi1r, 1 << 24 | 0b1010_0110),
        ..Default::default()
    });
    for cpu in 0..8 {
        let expected = if [1, 2, 5, 7].contains(&cpu) {
            vec![1]
        } else {
            vec![]
        };
        assert_eq!(machine.drain(cpu), expected, "CPU {cpu}");
    }
}

#[test]
fn a_cpu_that_comes_back_finds_its_redistributor_as_it_left_it() {
    let mut machine = bring_up(2);
    machine.exit(1);
    machine.vgic.reset_interface(1);
    assert!(!machine.vgic.pending(1));
    assert_eq!(
        machine.vgic.read_redistributor(0x2_0000, 4).value & 1,
        1,
        "LPIs stay on over CPU_OFF"
    );
}
