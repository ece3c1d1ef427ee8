//! What is missing or malformed is named, whatever it is.

use super::*;

#[test]
fn names_what_is_missing() {
    let missing = |item| Err(FdtError::Missing(item));
    let remove =
        |name: &'static str| edited(move |tree| drop(tree.root.remove_child(name).unwrap()));
    assert_eq!(remove("memory@40000000"), missing(Item::Memory));
    assert_eq!(remove("cpus"), missing(Item::Cpu));
    assert_eq!(remove("intc@8000000"), missing(Item::Gic));
    assert_eq!(remove("timer"), missing(Item::Timer));
    assert_eq!(remove("psci").unwrap().psci, None);
    assert_eq!(remove("pl011@9000000").unwrap().uart, None);
    assert!(remove("smmuv3@9050000") == Err(FdtError::Property(Item::Pcie, "iommu-map")));
    assert!(remove("pcie@10000000").unwrap().pcie.is_empty());
    assert_eq!(
        without("/psci", "method"),
        Err(FdtError::Property(Item::Psci, "method"))
    );
    for (path, item) in [
        (UART, Item::Uart),
        (GIC, Item::Gic),
        (ITS, Item::Its),
        (PCIE, Item::Pcie),
        (SMMU, Item::Smmu),
    ] {
        assert_eq!(
            without(path, "reg"),
            Err(FdtError::Property(item, "reg")),
            "{path}"
        );
    }
    assert_eq!(
        without("/timer", "interrupts"),
        Err(FdtError::Property(Item::Timer, "interrupts"))
    );
    assert_eq!(
        without(ROOT, "interrupt-parent"),
        Err(FdtError::Property(Item::Gic, "interrupt-parent"))
    );
}

#[test]
fn names_what_is_malformed() {
    let bad = |item, name| Err(FdtError::Property(item, name));
    assert_eq!(
        with("/memory@40000000", "reg", [0u32, 1, 2]),
        bad(Item::Memory, "reg")
    );
    assert_eq!(
        with("/memory@40000000", "reg", [!0u32, !0, 0, 2]),
        bad(Item::Memory, "reg")
    );
    assert_eq!(with("/cpus/cpu@1", "reg", 2u32), bad(Item::Cpu, "reg"));
    assert_eq!(
        with("/cpus/cpu@1", "reg", 1u32 << 31),
        bad(Item::Cpu, "reg")
    );
    assert_eq!(
        with("/timer", "interrupts", [1u32, 16, 4]),
        bad(Item::Timer, "interrupts")
    );
    assert_eq!(
        with(UART, "interrupts", [0u32, 988, 4]),
        bad(Item::Uart, "interrupts")
    );
    assert_eq!(
        with(UART, "interrupts", [2u32, 0, 4]),
        bad(Item::Uart, "interrupts")
    );
    assert_eq!(
        with(UART, "interrupts", [0u32, 1]),
        bad(Item::Uart, "interrupts")
    );
    assert_eq!(
        with(GIC, "#redistributor-regions", 2u32),
        bad(Item::Gic, "reg")
    );
    assert_eq!(
        with(GIC, "redistributor-stride", 0x4_0000u32),
        bad(Item::Gic, "redistributor-stride")
    );
    assert_eq!(
        with(PCIE, "#address-cells", 2u32),
        bad(Item::Pcie, "#address-cells")
    );
    assert_eq!(
        with(PCIE, "bus-range", [1u32, 0]),
        bad(Item::Pcie, "bus-range")
    );
    assert_eq!(
        with(PCIE, "bus-range", [0u32, 256]),
        bad(Item::Pcie, "bus-range")
    );
    assert_eq!(
        with(PCIE, "linux,pci-domain", 0x1_0000u32),
        bad(Item::Pcie, "linux,pci-domain")
    );
    assert_eq!(
        with(PCIE, "iommu-map", [0u32, 0x1234, 0, 1]),
        bad(Item::Pcie, "iommu-map")
    );
    assert_eq!(
        with(PCIE, "iommu-map", [0u32, 0x8007, !0, 1]),
        bad(Item::Pcie, "iommu-map")
    );
    assert_eq!(
        with(SMMU, "#iommu-cells", 2u32),
        bad(Item::Pcie, "#iommu-cells")
    );
    assert_eq!(
        with(PCIE, "interrupt-map", [0u32, 0, 0, 1, 0x8005, 0, 0, 0, 3]),
        bad(Item::Pcie, "interrupts")
    );
    // A window of 32-bit memory that does not end below 4 GiB.
    assert_eq!(
        with(PCIE, "ranges", [0x200_0000u32, 0, !0, 0, 0, 0, 0x1000]),
        bad(Item::Pcie, "ranges")
    );
}

#[test]
fn depth_and_node_count_are_bounded() {
    let deep = |levels| {
        edited(|tree| {
            let chain = (0..levels).fold(node("leaf"), |child, _| {
                let mut parent = node("level");
                parent.add_child(child);
                parent
            });
            tree.root.add_child(chain);
        })
    };
    assert!(deep(31).is_ok());
    assert_eq!(deep(32), Err(FdtError::TooDeep(32)));
    let many = edited(|tree| {
        for i in 0..4096 {
            tree.root.add_child(node(&std::format!("n{i}")));
        }
    });
    assert_eq!(many, Err(FdtError::TooManyNodes(4096)));
}

#[test]
fn sizes_are_checked_before_anything_is_read() {
    let header = |size: u32| [&0xd00d_feedu32.to_be_bytes()[..], &size.to_be_bytes()].concat();
    assert_eq!(
        parse(&header(u32::MAX)),
        Err(FdtError::Size(u32::MAX as usize))
    );
    assert_eq!(parse(&header(4096)), Err(FdtError::Size(4096)));
    assert_eq!(parse(&header(8)), Err(FdtError::Malformed));
    assert_eq!(parse(&[0; 64]), Err(FdtError::Malformed));
    assert_eq!(parse(&[]), Err(FdtError::Malformed));
}

#[test]
fn no_truncation_panics_or_is_accepted() {
    for len in 0..QEMU.len() {
        assert!(parse(&QEMU[..len]).is_err(), "{len}");
        // The same with a header that admits it.
        let mut short = QEMU[..len].to_vec();
        if let Some(size) = short.get_mut(4..8) {
            size.copy_from_slice(&(len as u32).to_be_bytes());
        }
        let _ = (parse(&short), console(&short));
        assert!(early::smmus(&short).is_err(), "{len}");
        assert!(early::smmus(&QEMU[..len]).is_err(), "{len}");
    }
}

#[test]
fn no_mutation_panics() {
    // xorshift64, fixed seed: a failure repeats.
    let mut state = 0x5eed_1234_abcd_0001_u64;
    let mut random = move |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % bound as u64) as usize
    };
    for _ in 0..10_000 {
        let mut bytes = QEMU.to_vec();
        for _ in 0..=random(4) {
            let at = random(bytes.len());
            bytes[at] = match random(3) {
                0 => random(256) as u8,
                1 => bytes[at] ^ 1 << random(8),
                _ => [0, 1, 0x7f, 0x80, 0xff][random(5)],
            };
        }
        let _ = early::smmus(&bytes);
        if let Ok(info) = parse(&bytes) {
            assert!(
                info.memory
                    .windows(2)
                    .all(|pair| pair[0].end() < pair[1].base)
            );
        }
    }
}
