//! Interrupts that go into a list register at once, while the guest is out for a moment.

use super::machine::Machine;
use crate::vdev::vgic::spec::LpiProperty;

#[test]
fn a_message_takes_a_list_register_that_is_free_and_again_the_one_that_it_had() {
    let mut machine = Machine::new(2, 2, 3);
    for slot in 0..3 {
        let intid = 8192 + slot as u32;
        machine.beside(|vgic| vgic.map_lpi(slot, intid, 0, LpiProperty(0xa1)));
    }
    let exits = machine.exits;
    machine.message(0);
    assert_eq!(machine.vgic.used(0), 1);
    for _ in 0..5 {
        // The second finds it pending.
        machine.message(0);
        assert_eq!(machine.drain(0), [8192]);
        machine.message(0);
        machine.message(0);
    }
    assert_eq!((machine.renewed, machine.exits), (6, exits));
    assert_eq!((machine.drain(0), machine.vgic.used(0)), (vec![8192], 1));
    // Whatever was changed since is respected: off, moved, unmapped.
    machine.beside(|vgic| vgic.set_lpi(0, LpiProperty(0xa0)));
    machine.message(0);
    assert_eq!(machine.drain(0), []);
    machine.beside(|vgic| vgic.set_lpi(0, LpiProperty(0xa1)));
    assert_eq!(machine.drain(0), [8192]);
    machine.beside(|vgic| vgic.move_lpi(0, 1));
    machine.message(0);
    assert_eq!([machine.drain(0), machine.drain(1)], [vec![], vec![8192]]);
    machine.beside(|vgic| vgic.unmap_lpi(0));
    machine.message(0);
    assert_eq!([machine.drain(0), machine.drain(1)], [vec![], vec![]]);
    // A third finds none free: all are taken back.
    let exits = machine.exits;
    for slot in [1, 2] {
        machine.message(slot);
    }
    assert_eq!((machine.drain(0), machine.exits), (vec![8193, 8194], exits));
    machine.edge(41);
    assert_eq!(machine.drain(0), [41]);
    assert!(machine.exits > exits);
    // One that waits for a list register is not passed by.
    let renewed = machine.renewed;
    machine.prompt = false;
    machine.beside(|vgic| vgic.inject_spi(40).kick);
    machine.message(1);
    assert_eq!(machine.renewed, renewed);
    machine.deliver();
    machine.prompt = true;
    assert_eq!(machine.drain(0), [40, 8193]);
}

#[test]
fn a_physical_interrupt_takes_a_list_register_at_once_and_ends_with_it() {
    let mut machine = Machine::new(1, 2, 0);
    machine.vgic.link_spi(36, 36).unwrap();
    machine.wires[4].enabled = true;
    let exits = machine.exits;
    for renewed in 1..=3 {
        machine.wires[4].high = true;
        machine.settle();
        assert_eq!(machine.renewed, renewed);
        assert!(machine.wires[4].active);
        assert_eq!(machine.acknowledge(0), Some((36, 0xa0)));
        // It is active for as long as the guest's is.
        assert!(machine.wires[4].active);
        machine.wires[4].high = false;
        machine.end(0, 36);
        assert!(!machine.wires[4].active);
    }
    assert_eq!(machine.exits, exits);
}

#[test]
fn a_level_takes_no_list_register_on_the_way() {
    let mut machine = Machine::new(1, 2, 0);
    machine.edge(40);
    assert_eq!(machine.renewed, 0, "the guest wants its level");
    assert_eq!(machine.drain(0), [40]);
    machine.distributor(0, 0xc08, 4, 2 << 16);
    machine.edge(40);
    assert_eq!((machine.renewed, machine.drain(0)), (1, vec![40]));
}
