//! What a flattened device tree says of a machine's memory bus, read by the code that reads it at boot.

use boot::fdt;
use kernel::config::{MachineFacts, Node};
use std::sync::LazyLock;

/// The tree of QEMU's `virt` with all that no `-device` adds, both UARTs among it: dumped by QEMU 11.1 with
/// `-machine virt,virtualization=on,gic-version=3,iommu=smmuv3,dtb-randomness=off,dumpdtb=x.dtb -cpu max -nodefaults
/// -serial null -serial null`, and cut to its length by dtc. A machine test compares it with the QEMU at hand.
const QEMU: &[u8] = include_bytes!("qemu-virt.dtb");
/// The UART that a second `-serial` adds.
const SECOND_UART: &str = "/pl011@9040000";

/// Adds what the tree in `bytes` says to `facts`.
///
/// # Errors
/// A tree that the hypervisor would refuse.
pub fn describe(facts: &mut MachineFacts, bytes: &[u8]) -> Result<(), String> {
    let info = fdt::parse(bytes).map_err(|error| error.to_string())?;
    let devices = fdt::devices(bytes).map_err(|error| error.to_string())?;
    facts.describe(&info, &devices);
    Ok(())
}

/// Adds what QEMU's own tree says, with as many UARTs beside the console's.
pub fn describe_qemu(facts: &mut MachineFacts, uarts: usize) {
    static READ: LazyLock<MachineFacts> = LazyLock::new(|| {
        let mut facts = MachineFacts::default();
        describe(&mut facts, QEMU).expect("tested below");
        facts
    });
    let there = |node: &&Node| uarts > 0 || node.path != SECOND_UART;
    facts.nodes.extend(READ.nodes.iter().filter(there).cloned());
    facts.own.extend(&READ.own);
    facts.own_irqs.extend(&READ.own_irqs);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemus_nodes_are_known_and_the_second_uart_has_to_be_asked_for() {
        for uarts in [0, 1] {
            let mut facts = MachineFacts::default();
            describe_qemu(&mut facts, uarts);
            assert_eq!(facts.node(SECOND_UART).is_some(), uarts == 1);
            let clock = facts.node("/pl031@9010000").expect("a clock");
            assert_eq!(clock.irqs, [34]);
        }
    }

    #[test]
    fn what_is_no_tree_is_refused_in_words() {
        let refused = describe(&mut MachineFacts::default(), &QEMU[..100]);
        let message = refused.expect_err("a part of a tree");
        assert!(message.starts_with("device tree claims"), "{message}");
    }
}
