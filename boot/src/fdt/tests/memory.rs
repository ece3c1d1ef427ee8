//! Where things are: memory, what of it is reserved, registers behind buses.

use super::*;

#[test]
fn memory_is_sorted_and_merged() {
    let reg = [
        0u32,
        0x8000_0000,
        0,
        0x1000,
        0,
        0x4000_0000,
        0,
        0x1000,
        0,
        0x4000_1000,
        0,
        0x2000,
        1,
        0,
        0,
        0,
    ];
    let info = with("/memory@40000000", "reg", reg).unwrap();
    assert_eq!(
        info.memory,
        [span(0x4000_0000, 0x3000), span(0x8000_0000, 0x1000)]
    );
}

#[test]
fn reserved_memory_and_memreserve_are_joined() {
    let info = edited(|tree| {
        tree.memory_reservations
            .push(dtoolkit::memreserve::MemoryReservation::new(
                0x5000_0000,
                0x1000,
            ));
        tree.root.add_child(node("reserved-memory"));
        set(tree, "/reserved-memory", "#address-cells", 2u32);
        set(tree, "/reserved-memory", "#size-cells", 2u32);
        set(tree, "/reserved-memory", "ranges", &[][..] as &[u8]);
        for name in ["firmware@50001000", "gone@60000000", "later"] {
            tree.find_node_mut("/reserved-memory")
                .unwrap()
                .add_child(node(name));
        }
        set(
            tree,
            "/reserved-memory/firmware@50001000",
            "reg",
            [0u32, 0x5000_1000, 0, 0x1000],
        );
        set(
            tree,
            "/reserved-memory/gone@60000000",
            "reg",
            [0u32, 0x6000_0000, 0, 0x1000],
        );
        set(tree, "/reserved-memory/gone@60000000", "status", "disabled");
        set(tree, "/reserved-memory/later", "size", [0u32, 0x1000]);
    });
    assert_eq!(info.unwrap().reserved, [span(0x5000_0000, 0x2000)]);
}

/// Moves the UART below two buses: one that shifts addresses, one that passes them on.
fn behind_buses(ranges: &[u32]) -> Result<BootInfo, FdtError> {
    edited(|tree| {
        let mut uart = tree.root.remove_child("pl011@9000000").unwrap();
        uart.add_property(DeviceTreeProperty::new("reg", [0x2000u32, 0x1000]).unwrap());
        let mut inner = node("inner");
        inner.add_property(DeviceTreeProperty::new("#address-cells", 1u32).unwrap());
        inner.add_property(DeviceTreeProperty::new("#size-cells", 1u32).unwrap());
        let mut outer = inner.clone();
        inner.add_property(DeviceTreeProperty::new("ranges", &[][..] as &[u8]).unwrap());
        outer.add_property(DeviceTreeProperty::new("ranges", ranges).unwrap());
        inner.add_child(uart);
        outer.add_child(inner);
        tree.root.add_child(outer);
        set(
            tree,
            "/chosen",
            "stdout-path",
            "/inner/inner/pl011:115200n8",
        );
    })
}

#[test]
fn registers_are_translated_through_the_buses_above() {
    let uart = behind_buses(&[0, 1, 0, 0x1000, 0x2000, 1, 0xa000_0000, 0x1000])
        .unwrap()
        .uart
        .unwrap();
    assert_eq!(uart.registers, span(0x1_a000_0000, 0x1000));
    assert_eq!(uart.irq, Some(level(33)));
    let untranslatable = Err(FdtError::Property(Item::Uart, "ranges"));
    // Only half of it is mapped; not mapped at all; a range that is cut short.
    assert_eq!(behind_buses(&[0x2000, 1, 0, 0x800]), untranslatable);
    assert_eq!(behind_buses(&[0x8000, 1, 0, 0x1000]), untranslatable);
    assert_eq!(behind_buses(&[0x2000, 1, 0]), untranslatable);
}

#[test]
fn ranges_of_no_cells_at_all_end() {
    let mut tree = DeviceTree::from_fdt(&Fdt::new(QEMU).unwrap());
    set(&mut tree, ROOT, "#address-cells", 0u32);
    unset(&mut tree, UART, "compatible");
    let mut uart = node("serial@10");
    uart.add_property(DeviceTreeProperty::new("compatible", "arm,pl011").unwrap());
    uart.add_property(DeviceTreeProperty::new("reg", [0x10u32, 4].as_slice()).unwrap());
    let cells = |node: &mut DeviceTreeNode, address: u32, size: u32, ranges: &[u32]| {
        node.add_property(DeviceTreeProperty::new("#address-cells", address).unwrap());
        node.add_property(DeviceTreeProperty::new("#size-cells", size).unwrap());
        node.add_property(DeviceTreeProperty::new("ranges", ranges).unwrap());
    };
    let mut inner = node("inner");
    cells(&mut inner, 1, 1, &[0, 0x1000]);
    inner.add_child(uart);
    let mut outer = node("outer");
    cells(&mut outer, 0, 0, &[0]);
    outer.add_child(inner);
    tree.root.add_child(outer);
    assert_eq!(console(&tree.to_dtb()), None);
}
