//! Virtual interrupts that stand for physical ones.

use super::machine::Machine;
use crate::vdev::vgic::spec::Lr;
use crate::vdev::vgic::{Action, LrState, Physical, Vgic, VgicError};

const SPI: Physical = Physical {
    intid: 40,
    cpu: None,
};

fn linked() -> Machine {
    let mut machine = Machine::new(2, 2, 0);
    machine.vgic.link_spi(40, 40).unwrap();
    machine.wires[8].enabled = true;
    machine
}

#[test]
fn the_guests_end_ends_the_physical_interrupt() {
    let mut machine = linked();
    machine.wires[8].high = true;
    machine.settle();
    assert!(machine.wires[8].active);
    assert_eq!(Lr(machine.cpus[0].state.lr[0]).physical(), Some(40));
    machine.acknowledge(0);
    machine.wires[8].high = false;
    machine.end(0, 40);
    assert!(!machine.wires[8].active);
    assert_eq!(machine.drain(0), []);
}

#[test]
fn a_level_that_stays_high_fires_again() {
    let mut machine = linked();
    machine.wires[8].high = true;
    machine.settle();
    for _ in 0..3 {
        assert_eq!(machine.acknowledge(0), Some((40, 0xa0)));
        machine.end(0, 40);
    }
    assert!(machine.cpus[0].signals());
}

#[test]
fn disabling_a_level_gives_it_back_to_the_physical_gic() {
    let mut machine = linked();
    machine.wires[8].high = true;
    machine.settle();
    machine.distributor(1, 0x184, 4, 1 << 8);
    assert!(!machine.wires[8].active && !machine.wires[8].enabled);
    assert_eq!(machine.drain(0), []);
    machine.distributor(1, 0x104, 4, 1 << 8);
    machine.settle();
    machine.wires[8].high = false;
    assert_eq!(machine.drain(0), [40]);
    assert!(!machine.wires[8].active);
}

#[test]
fn an_edge_outlives_being_disabled() {
    let mut machine = linked();
    machine.distributor(0, 0xc08, 4, 0xaaaa_aaaa);
    machine.wires[8].edge = true;
    machine.wires[8].pending = true;
    machine.settle();
    machine.distributor(1, 0x184, 4, 1 << 8);
    assert_eq!(machine.drain(0), []);
    machine.distributor(1, 0x104, 4, 1 << 8);
    assert_eq!(machine.drain(0), [40]);
    assert!(!machine.wires[8].active);
}

#[test]
fn clearing_the_active_state_reaches_the_physical_gic() {
    for by in [0, 1] {
        let mut machine = linked();
        machine.wires[8].high = true;
        machine.settle();
        machine.acknowledge(0);
        machine.wires[8].high = false;
        machine.distributor(by, 0x384, 4, 1 << 8);
        assert!(!machine.wires[8].active, "cleared by {by}");
    }
}

#[test]
fn a_pending_level_that_is_cleared_fires_again_if_it_is_high() {
    let mut machine = linked();
    machine.wires[8].high = true;
    machine.settle();
    machine.distributor(0, 0x284, 4, 1 << 8);
    assert!(machine.wires[8].active, "taken anew");
    machine.wires[8].high = false;
    assert_eq!(machine.drain(0), [40]);
}

#[test]
fn pending_by_software_leaves_the_physical_interrupt_alone() {
    let mut machine = linked();
    machine.distributor(0, 0x204, 4, 1 << 8);
    assert_eq!(Lr(machine.cpus[0].state.lr[0]).physical(), None);
    machine.acknowledge(0);
    // The real one comes while the guest handles that.
    machine.wires[8].high = true;
    machine.settle();
    machine.end(0, 40);
    machine.wires[8].high = false;
    assert_eq!(machine.drain(0), [40]);
    assert!(!machine.wires[8].active);
}

#[test]
fn the_timer_stays_on_its_cpu() {
    let mut vgic = Vgic::new(&[0, 1], 0).unwrap();
    vgic.link_ppi(1, 27, 27).unwrap();
    let timer = Physical {
        intid: 27,
        cpu: Some(1),
    };
    let enabled = vgic.write_redistributor(0x3_0100, 4, 1 << 27);
    assert_eq!(enabled.physical, [Action::Enable(timer, 1)]);
    assert!(vgic.inject_ppi(1, 27).kick.contains(1));
    let disabled = vgic.write_redistributor(0x3_0180, 4, 1 << 27);
    assert_eq!(
        disabled.physical,
        [Action::Disable(timer), Action::Deactivate(timer)]
    );
    assert!(
        vgic.write_redistributor(0x1_0100, 4, 1 << 27)
            .physical
            .is_empty(),
        "not linked on CPU 0"
    );
}

#[test]
fn the_physical_interrupt_follows_the_guests_route() {
    let mut vgic = Vgic::new(&[0, 1], 0).unwrap();
    vgic.link_spi(40, 40).unwrap();
    let routed = vgic.write_distributor(0, 0x6000 + 8 * 40, 8, 1);
    assert_eq!(routed.physical, [Action::Route(SPI, 1)]);
    let enabled = vgic.write_distributor(0, 0x104, 4, 1 << 8);
    assert_eq!(enabled.physical, [Action::Enable(SPI, 1)]);
    let nowhere = vgic.write_distributor(0, 0x6000 + 8 * 40, 8, 7);
    assert_eq!(nowhere.physical, [Action::Route(SPI, 0)]);
    let virtual_only = vgic.write_distributor(0, 0x6000 + 8 * 41, 8, 1);
    assert!(virtual_only.physical.is_empty());
}

#[test]
fn a_deactivation_by_another_cpu_traps_and_ends_it() {
    let mut machine = linked();
    machine.cpus[1].set_split(true);
    machine.cpus[0].set_split(true);
    for cpu in [0, 1] {
        machine.exit(cpu);
        machine.enter(cpu);
    }
    machine.wires[8].high = true;
    machine.settle();
    machine.acknowledge(0);
    machine.end(0, 40);
    machine.wires[8].high = false;
    machine.direct(1, 40);
    assert!(!machine.wires[8].active);
}

#[test]
fn a_reset_gives_every_physical_interrupt_back() {
    let mut vgic = Vgic::new(&[0], 0).unwrap();
    for intid in 32..64 {
        vgic.link_spi(intid, intid).unwrap();
    }
    assert_eq!(vgic.link_spi(64, 64), Err(VgicError::Links(64)));
    for intid in 16..32 {
        vgic.link_ppi(0, intid, intid).unwrap();
        vgic.inject_ppi(0, intid);
    }
    assert_eq!(vgic.link_ppi(0, 3, 3), Err(VgicError::Interrupt(3)));
    assert_eq!(vgic.link_ppi(1, 27, 27), Err(VgicError::Interrupt(27)));
    assert_eq!(vgic.link_spi(128, 128), Err(VgicError::Interrupt(128)));
    vgic.write_distributor(0, 0xc08, 4, 0xffff_ffff);
    vgic.write_distributor(0, 0xc0c, 4, 0xffff_ffff);
    vgic.write_distributor(0, 0x104, 4, 0xffff_ffff);
    for intid in 32..64 {
        vgic.inject_spi(intid);
    }
    let mut state = LrState {
        lr: [0; 16],
        used: 0,
        count: 4,
        hcr: 0,
        vmcr: 0,
    };
    vgic.write_distributor(0, 0, 4, 3);
    vgic.flush(0, &mut state);
    vgic.reset_redistributor(0);
    let effects = vgic.reset_distributor();
    let count = |wanted: fn(&Action) -> bool| effects.physical.iter().filter(|a| wanted(a)).count();
    assert_eq!(count(|a| matches!(a, Action::Disable(_))), 32);
    assert_eq!(count(|a| matches!(a, Action::Deactivate(_))), 32);
    assert!(effects.physical.contains(&Action::Deactivate(SPI)));
    let later = vgic.reset_distributor();
    assert!(later.physical.is_empty(), "once");
}

#[test]
fn a_timer_of_a_cpu_that_went_off_is_neither_pending_nor_active() {
    let mut vgic = Vgic::new(&[0, 1], 0).unwrap();
    vgic.link_ppi(1, 27, 27).unwrap();
    let timer = Physical {
        intid: 27,
        cpu: Some(1),
    };
    vgic.write_distributor(0, 0, 4, 2);
    vgic.write_redistributor(0x2_0000 + 0x1_0080, 4, !0);
    vgic.write_redistributor(0x2_0000 + 0x1_0100, 4, 1 << 27);
    vgic.inject_ppi(1, 27);
    let pending = |vgic: &mut Vgic| vgic.read_redistributor(0x2_0000 + 0x1_0200, 4).value >> 27 & 1;
    assert_eq!(pending(&mut vgic), 1);
    let effects = vgic.reset_interface(1);
    assert_eq!(effects.physical, [Action::Deactivate(timer)]);
    assert_eq!(pending(&mut vgic), 0);
    assert_eq!(vgic.reset_interface(2).physical, []);
}
