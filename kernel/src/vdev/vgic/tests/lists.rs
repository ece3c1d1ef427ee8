//! Single ways of an interrupt through list registers.

use super::machine::Machine;
use crate::vdev::CpuSet;
use crate::vdev::vgic::spec::{LpiProperty, Lr};
use crate::vdev::vgic::{SgiRegister, Vgic};

/// Words worked out by hand from the register's figure (IHI 0069, §12.4).
#[test]
fn a_list_register_has_the_architectural_layout() {
    assert_eq!(
        Lr::new(27, 0xa0, true).with_pending().with_physical(27).0,
        0x70a0_001b_0000_001b
    );
    assert_eq!(
        Lr::new(33, 0x80, true).with_active().with_eoi().0,
        0x9080_0200_0000_0021
    );
    assert_eq!(
        Lr::new(8192, 0, false).with_pending().with_active().0,
        0xc000_0000_0000_2000
    );
    let lr = Lr(0x70a0_001b_0000_001b);
    assert_eq!((lr.intid(), lr.priority(), lr.group1()), (27, 0xa0, true));
    assert_eq!(
        (lr.pending(), lr.active(), lr.physical(), lr.eoi()),
        (true, false, Some(27), false)
    );
}

#[test]
fn nothing_pending_leaves_the_list_registers_empty() {
    let mut machine = Machine::new(2, 4, 0);
    machine.exit(0);
    machine.enter(0);
    assert_eq!(machine.cpus[0].state.lr, [0; 16]);
    assert_eq!(machine.cpus[0].state.hcr, 1);
}

#[test]
fn a_storm_of_sgis_arrives_once_each_in_priority_order() {
    for lrs in 1..=4 {
        let mut machine = Machine::new(4, lrs, 0);
        for sgi in 0..16 {
            machine.redistributor(1, 0x1_0400 + sgi, 1, (15 - sgi) << 3);
        }
        for _ in 0..5 {
            for sgi in 0..16u64 {
                machine.beside(|vgic| vgic.write_sgi(0, SgiRegister::Sgi1r, sgi << 24 | 0b1110));
            }
        }
        assert_eq!(machine.drain(1), (0..16).rev().collect::<Vec<u32>>());
        assert_eq!(
            machine.drain(2),
            (0..16).collect::<Vec<u32>>(),
            "equal priorities: all, once"
        );
        assert_eq!(machine.drain(0), []);
    }
}

#[test]
fn an_sgi_to_all_others_spares_its_sender() {
    let mut machine = Machine::new(3, 4, 0);
    machine.beside(|vgic| vgic.write_sgi(1, SgiRegister::Sgi1r, 1 << 40 | 7 << 24));
    assert_eq!(
        [machine.drain(0), machine.drain(1), machine.drain(2)],
        [vec![7], vec![], vec![7]]
    );
}

#[test]
fn an_sgi_reaches_only_the_affinity_that_it_names() {
    let mut vgic = Vgic::new(&[0x0000_0000, 0x0000_0100, 0x0203_0105, 0x0000_0012], 0).unwrap();
    for cpu in 0..4 {
        vgic.write_redistributor(cpu * 0x2_0000 + 0x1_0080, 4, 0xffff_ffff);
        vgic.write_redistributor(cpu * 0x2_0000 + 0x1_0100, 4, 0xffff_ffff);
    }
    let sgi1 = |vgic: &mut Vgic, value| vgic.write_sgi(0, SgiRegister::Sgi1r, value);
    assert_eq!(sgi1(&mut vgic, 0xffff), CpuSet(0b0001));
    assert_eq!(sgi1(&mut vgic, 1 << 16 | 0xffff), CpuSet(0b0010));
    assert_eq!(
        sgi1(&mut vgic, 0x02 << 48 | 0x03 << 32 | 0x01 << 16 | 1 << 5),
        CpuSet(0b0100)
    );
    assert_eq!(
        sgi1(&mut vgic, 0x02 << 48 | 0x03 << 32 | 0x01 << 16 | 1 << 4),
        CpuSet::NONE
    );
    assert_eq!(
        sgi1(&mut vgic, 1 << 44 | 1 << 2),
        CpuSet(0b1000),
        "range selector 1: Aff0 16 to 31"
    );
}

#[test]
fn group_0_registers_do_not_send_group_1() {
    let mut machine = Machine::new(2, 4, 0);
    for register in [SgiRegister::Sgi0r, SgiRegister::Asgi1r] {
        machine.beside(|vgic| vgic.write_sgi(0, register, 0b10));
        assert_eq!(machine.drain(1), []);
        machine.redistributor(1, 0x1_0080, 4, 0);
        machine.beside(|vgic| vgic.write_sgi(0, register, 0b10));
        assert_eq!(machine.drain(1), [0]);
        machine.redistributor(1, 0x1_0080, 4, 0xffff_ffff);
    }
}

#[test]
fn a_level_comes_back_until_the_device_is_served() {
    let mut machine = Machine::new(1, 4, 0);
    machine.beside(|vgic| vgic.set_line(33, true));
    for _ in 0..3 {
        assert_eq!(machine.acknowledge(0), Some((33, 0xa0)));
        assert_eq!(machine.acknowledge(0), None, "not while active");
        machine.end(0, 33);
    }
    assert_eq!(machine.acknowledge(0), Some((33, 0xa0)));
    machine.beside(|vgic| vgic.set_line(33, false));
    machine.end(0, 33);
    assert_eq!(machine.acknowledge(0), None);
}

#[test]
fn a_level_that_drops_before_it_is_taken_is_gone() {
    let mut machine = Machine::new(1, 4, 0);
    machine.beside(|vgic| vgic.set_line(33, true));
    machine.beside(|vgic| vgic.set_line(33, false));
    assert_eq!(machine.acknowledge(0), None);
}

#[test]
fn nested_interrupts_beyond_the_list_registers_end_in_order() {
    for split in [false, true] {
        let mut machine = Machine::new(1, 2, 0);
        machine.cpus[0].set_split(split);
        let priorities = [0xf0u64, 0xc0, 0x80, 0x40, 0x10];
        for (n, &priority) in (0u32..).zip(&priorities) {
            machine.distributor(0, 0x400 + 32 + u64::from(n), 1, priority);
            machine.beside(|vgic| vgic.inject_spi(32 + n).kick);
            if priority < 0xf8 {
                assert_eq!(machine.acknowledge(0), Some((32 + n, priority as u8)));
            }
        }
        machine.exit(0);
        assert_eq!(
            machine.vgic.read_distributor(0x304, 4).value,
            0x1f,
            "all five are active"
        );
        machine.enter(0);
        for n in (0..5).rev() {
            machine.end(0, 32 + n);
        }
        if split {
            for n in [3, 0, 4, 1, 2] {
                machine.direct(0, 32 + n);
            }
        }
        machine.exit(0);
        assert_eq!(
            machine.vgic.read_distributor(0x304, 4).value,
            0,
            "all have ended"
        );
        machine.enter(0);
    }
}

#[test]
fn a_more_urgent_interrupt_displaces_what_waits() {
    let mut machine = Machine::new(1, 1, 0);
    machine.beside(|vgic| vgic.inject_spi(40).kick);
    machine.distributor(0, 0x400 + 41, 1, 0x20);
    machine.beside(|vgic| vgic.inject_spi(41).kick);
    assert_eq!(machine.drain(0), [41, 40]);
}

#[test]
fn a_pending_spi_moves_with_its_route() {
    let mut machine = Machine::new(2, 4, 0);
    machine.beside(|vgic| vgic.inject_spi(34).kick);
    assert!(machine.cpus[0].signals());
    machine.distributor(1, 0x6000 + 8 * 34, 8, 1);
    assert!(!machine.cpus[0].signals());
    assert_eq!(machine.drain(1), [34]);
}

#[test]
fn an_active_spi_stays_and_its_next_edge_goes_to_the_new_route() {
    let mut machine = Machine::new(2, 4, 0);
    machine.distributor(0, 0xc08, 4, 0xaaaa_aaaa);
    machine.beside(|vgic| vgic.inject_spi(34).kick);
    machine.acknowledge(0);
    machine.beside(|vgic| vgic.inject_spi(34).kick);
    machine.distributor(0, 0x6000 + 8 * 34, 8, 1);
    assert!(!machine.cpus[1].signals(), "active elsewhere");
    machine.end(0, 34);
    assert_eq!(machine.drain(1), [34]);
    assert_eq!(machine.drain(0), []);
}

#[test]
fn an_spi_routed_to_nobody_waits() {
    let mut machine = Machine::new(1, 4, 0);
    machine.distributor(0, 0x6000 + 8 * 34, 8, 0x500);
    machine.beside(|vgic| vgic.inject_spi(34).kick);
    assert_eq!(machine.drain(0), []);
    machine.distributor(0, 0x6000 + 8 * 34, 8, 0);
    assert_eq!(machine.drain(0), [34]);
    machine.distributor(0, 0x6000 + 8 * 34, 8, 1 << 31 | 0x500);
    machine.beside(|vgic| vgic.inject_spi(34).kick);
    assert_eq!(machine.drain(0), [34], "1 of N: the first CPU");
}

#[test]
fn a_disable_is_waited_for() {
    let mut machine = Machine::new(2, 4, 0);
    machine.beside(|vgic| vgic.inject_spi(34).kick);
    machine.prompt = false;
    machine.distributor(1, 0x180 + 4, 4, 1 << 2);
    let read = machine.vgic.read_distributor(0, 4);
    assert_eq!(
        (read.value >> 31, read.kick),
        (1, CpuSet(1)),
        "RWP, and who has to exit"
    );
    machine.deliver();
    assert_eq!(machine.vgic.read_distributor(0, 4).value >> 31, 0);
    assert!(!machine.cpus[0].signals());
    machine.prompt = true;
    machine.distributor(1, 0x100 + 4, 4, 1 << 2);
    assert_eq!(machine.drain(0), [34], "still pending");
}

#[test]
fn clearing_pending_reaches_another_cpus_list_register() {
    let mut machine = Machine::new(2, 4, 0);
    machine.beside(|vgic| vgic.inject_spi(34).kick);
    machine.prompt = false;
    machine.distributor(1, 0x280 + 4, 4, 1 << 2);
    assert_eq!(machine.vgic.read_distributor(0x204, 4).value, 0);
    machine.deliver();
    assert_eq!(machine.drain(0), []);
}

#[test]
fn a_group_that_is_off_holds_its_interrupts_back() {
    let mut machine = Machine::new(1, 4, 0);
    machine.beside(|vgic| vgic.inject_spi(34).kick);
    machine.distributor(0, 0x0, 4, 0x11);
    assert_eq!(machine.drain(0), []);
    machine.distributor(0, 0x0, 4, 0x13);
    assert_eq!(machine.drain(0), [34]);
}

#[test]
fn waiting_for_an_interrupt_ends_only_for_one_that_is_signalled() {
    let mut machine = Machine::new(1, 4, 0);
    machine.exit(0);
    assert!(!machine.vgic.pending(0));
    machine.vgic.inject_spi(34);
    assert!(machine.vgic.pending(0));
    for vmcr in [0x80 << 24 | 3, 0xf8 << 24 | 1] {
        let open = std::mem::replace(&mut machine.cpus[0].state.vmcr, vmcr);
        machine.exit(0);
        assert!(
            !machine.vgic.pending(0),
            "masked by priority or group: {vmcr:#x}"
        );
        machine.cpus[0].state.vmcr = open;
        machine.exit(0);
    }
    assert!(machine.vgic.pending(0));
    assert!(!machine.vgic.pending(1), "no such CPU");
}

#[test]
fn lpis_follow_their_property_and_their_cpu() {
    let mut machine = Machine::new(2, 1, 3);
    for slot in 0..3 {
        machine.beside(|vgic| vgic.map_lpi(slot, 8200 + slot as u32, 0, LpiProperty(0xa1)));
    }
    machine.beside(|vgic| vgic.set_lpi(1, LpiProperty(0xa0)));
    for slot in 0..3 {
        machine.beside(|vgic| vgic.inject_lpi(slot));
    }
    machine.beside(|vgic| vgic.move_lpi(2, 1));
    assert_eq!(
        [machine.drain(0), machine.drain(1)],
        [vec![8200], vec![8202]]
    );
    machine.beside(|vgic| vgic.set_lpi(1, LpiProperty(0x41)));
    assert_eq!(
        machine.acknowledge(0),
        Some((8201, 0x40)),
        "it stayed pending while disabled"
    );
    machine.end(0, 8201);

    machine.beside(|vgic| vgic.inject_lpi(0));
    machine.beside(|vgic| vgic.move_lpis(0, 1));
    assert_eq!([machine.drain(0), machine.drain(1)], [vec![], vec![8200]]);
    machine.beside(|vgic| vgic.inject_lpi(0));
    machine.beside(|vgic| vgic.unmap_lpi(0));
    machine.beside(|vgic| vgic.inject_lpi(0));
    machine.beside(|vgic| vgic.inject_lpi(7));
    assert_eq!(
        [machine.drain(0), machine.drain(1)],
        [vec![], vec![]],
        "unmapped"
    );
}

#[test]
fn a_slot_mapped_anew_does_not_inherit_from_a_list_register() {
    let mut machine = Machine::new(1, 4, 1);
    machine.beside(|vgic| vgic.map_lpi(0, 8192, 0, LpiProperty(0xa1)));
    machine.beside(|vgic| vgic.inject_lpi(0));
    machine.prompt = false;
    machine.beside(|vgic| vgic.map_lpi(0, 9000, 0, LpiProperty(0xa1)));
    machine.deliver();
    assert_eq!(machine.drain(0), []);
    machine.beside(|vgic| vgic.inject_lpi(0));
    machine.deliver();
    assert_eq!(machine.drain(0), [9000]);
}

#[test]
fn lpis_that_become_active_do_not_get_stuck() {
    let mut machine = Machine::new(1, 1, 8);
    machine.cpus[0].lpis_become_active = true;
    for slot in 0..8 {
        let property = LpiProperty(0xe1 - 0x20 * slot as u8);
        machine.beside(|vgic| vgic.map_lpi(slot, 8192 + slot as u32, 0, property));
    }
    let mut nested = Vec::new();
    for slot in 0..8 {
        machine.beside(|vgic| vgic.inject_lpi(slot));
        nested.extend(machine.acknowledge(0));
    }
    assert_eq!(nested.len(), 8, "each preempts the last");
    while let Some((intid, _)) = nested.pop() {
        machine.end(0, intid);
    }
    for slot in 0..8 {
        machine.beside(|vgic| vgic.inject_lpi(slot));
    }
    assert_eq!(machine.drain(0), (8192..8200).rev().collect::<Vec<u32>>());
}

#[test]
fn lpis_wait_until_their_redistributor_wants_them() {
    let mut machine = Machine::new(1, 4, 1);
    machine.redistributor(0, 0, 4, 0);
    machine.beside(|vgic| vgic.map_lpi(0, 8192, 0, LpiProperty(0xa1)));
    machine.beside(|vgic| vgic.inject_lpi(0));
    assert_eq!(machine.drain(0), []);
    assert_eq!(machine.vgic.lpi_table(), None);
    let effects = machine.vgic.write_redistributor(0x70, 8, 0x4010_000f);
    assert!(!effects.reload_lpis);
    assert!(machine.vgic.write_redistributor(0, 4, 1).reload_lpis);
    machine.exit(0);
    machine.enter(0);
    assert_eq!(machine.vgic.lpi_table(), Some((0x4010_0000, 16)));
    assert_eq!(machine.drain(0), [8192]);
}

#[test]
fn everything_is_new_after_a_reset() {
    let mut machine = Machine::new(2, 2, 2);
    machine.beside(|vgic| vgic.map_lpi(0, 8192, 1, LpiProperty(0xa1)));
    machine.beside(|vgic| vgic.inject_lpi(0));
    for intid in 32..60 {
        machine.beside(|vgic| vgic.inject_spi(intid).kick);
    }
    machine.acknowledge(0);
    machine.beside(|vgic| vgic.write_sgi(0, SgiRegister::Sgi1r, 0b11));
    machine.exit(1);
    for cpu in 0..2 {
        machine.vgic.reset_redistributor(cpu);
    }
    machine.vgic.reset_distributor();
    machine.vgic.unmap_lpi(0);
    let mut fresh = Vgic::new(&[0, 1], 2).unwrap();
    for offset in (0..0x8000).step_by(4) {
        assert_eq!(
            machine.vgic.read_distributor(offset, 4),
            fresh.read_distributor(offset, 4),
            "{offset:#x}"
        );
    }
    for offset in (0..0x4_0000).step_by(4) {
        assert_eq!(
            machine.vgic.read_redistributor(offset, 4),
            fresh.read_redistributor(offset, 4),
            "{offset:#x}"
        );
    }
    for cpu in 0..2 {
        assert!(machine.vgic.cpus[cpu].ready.is_empty() && machine.vgic.cpus[cpu].held.is_empty());
    }
}
