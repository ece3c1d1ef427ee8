//! Against QEMU's tree (facts from its documentation of `virt`, transcribed), edits of it, and damage to it.

mod damage;
mod first_pass;
mod memory;
mod platform;

use super::*;
use dtoolkit::ToPropertyValue;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use kernel::boot_info::{IdMap, IntxRoute, Window, WindowKind};

const QEMU: &[u8] = include_bytes!("../../tests/data/qemu-virt.dtb");

const ROOT: &str = "/";
const UART: &str = "/pl011@9000000";
const GIC: &str = "/intc@8000000";
const ITS: &str = "/intc@8000000/its@8080000";
const PCIE: &str = "/pcie@10000000";
const SMMU: &str = "/smmuv3@9050000";

fn span(base: u64, len: u64) -> Span<Hpa> {
    Span {
        base: Hpa(base),
        len,
    }
}

fn level(intid: u32) -> Irq {
    Irq { intid, edge: false }
}

fn edge(intid: u32) -> Irq {
    Irq { intid, edge: true }
}

/// QEMU's tree after `edit`.
fn edited(edit: impl FnOnce(&mut DeviceTree)) -> Result<BootInfo, FdtError> {
    let mut tree = DeviceTree::from_fdt(&Fdt::new(QEMU).unwrap());
    edit(&mut tree);
    let bytes = tree.to_dtb();
    let info = parse(&bytes);
    if let Ok(info) = &info {
        let early = early::smmus(&bytes).expect("what is read as a whole is read early");
        assert!(early.are(&info.smmus), "{:?}", early.registers());
    }
    info
}

fn set<T: ToPropertyValue>(tree: &mut DeviceTree, path: &str, name: &str, value: T) {
    let property = DeviceTreeProperty::new(name, value).unwrap();
    tree.find_node_mut(path).unwrap().add_property(property);
}

fn unset(tree: &mut DeviceTree, path: &str, name: &str) {
    tree.find_node_mut(path)
        .unwrap()
        .remove_property(name)
        .unwrap();
}

fn with<T: ToPropertyValue>(path: &str, name: &str, value: T) -> Result<BootInfo, FdtError> {
    edited(|tree| set(tree, path, name, value))
}

fn without(path: &str, name: &str) -> Result<BootInfo, FdtError> {
    edited(|tree| unset(tree, path, name))
}

fn node(name: &str) -> DeviceTreeNode {
    DeviceTreeNode::new(name).unwrap()
}

#[test]
fn reads_qemu_virt_as_documented() {
    let info = parse(QEMU).unwrap();
    assert_eq!(info.model, "linux,dummy-virt");
    assert_eq!(info.memory, [span(0x4000_0000, 2 << 30)]);
    assert_eq!(info.reserved, []);
    let mpidrs: Vec<u64> = info.cpus.iter().map(|cpu| cpu.id).collect();
    assert_eq!(mpidrs, [0, 1, 2, 3]);
    assert_eq!(info.psci, Some(PsciConduit::Smc));
    assert_eq!(
        info.uart,
        Some(Uart {
            registers: span(0x900_0000, 0x1000),
            irq: Some(level(33))
        })
    );
    let gic = info.gic.unwrap();
    assert_eq!(gic.distributor, span(0x800_0000, 0x1_0000));
    assert_eq!(gic.redistributors, [span(0x80a_0000, 0xf6_0000)]);
    assert_eq!(gic.maintenance, Some(level(25)));
    let its = gic.its[0];
    assert_eq!(
        (gic.its.len(), its.registers),
        (1, span(0x808_0000, 0x2_0000))
    );
    assert_eq!(
        info.timer,
        Some(Timer {
            virt: level(27),
            phys: level(30),
            hyp: level(26)
        })
    );

    let smmu = info.smmus[0];
    assert_eq!(
        (info.smmus.len(), smmu.registers),
        (1, span(0x905_0000, 0x2_0000))
    );
    assert_eq!(
        (smmu.event_irq, smmu.gerror_irq),
        (Some(edge(106)), Some(edge(109)))
    );
    assert!(smmu.dma_coherent);

    let pcie = &info.pcie[0];
    assert_eq!(info.pcie.len(), 1);
    assert_eq!(pcie.path, PCIE);
    assert_eq!((pcie.segment, pcie.buses), (0, (0, 255)));
    assert_eq!(pcie.ecam, span(0x40_1000_0000, 0x1000_0000));
    assert!(pcie.dma_coherent);
    let window = |kind, pci, base, len| Window {
        kind,
        pci,
        cpu: span(base, len),
    };
    assert_eq!(
        pcie.windows,
        [
            window(WindowKind::Io, 0, 0x3eff_0000, 0x1_0000),
            window(WindowKind::Memory32, 0x1000_0000, 0x1000_0000, 0x2eff_0000),
            window(
                WindowKind::Memory64,
                0x80_0000_0000,
                0x80_0000_0000,
                0x80_0000_0000
            ),
        ]
    );
    let all = |target| IdMap {
        rid_base: 0,
        target,
        output_base: 0,
        len: 0x1_0000,
        mask: u32::MAX,
    };
    assert_eq!(pcie.iommu_map, [all(smmu.phandle)]);
    assert_eq!(pcie.msi_map, [all(its.phandle)]);
    assert_eq!(pcie.iommu_map[0].translate(0x8100), Some(0x8100));
}

/// QEMU wires pin p of device d to SPI 3 + (d + p) mod 4, and says so for four devices under a mask.
#[test]
fn routes_every_intx_pin_of_every_device() {
    let intx = &parse(QEMU).unwrap().pcie[0].intx;
    assert_eq!(intx.len(), 128);
    for &IntxRoute { device, pin, irq } in intx {
        assert_eq!(
            irq,
            level(35 + (u32::from(device) + u32::from(pin)) % 4),
            "{device} {pin}"
        );
    }
}

#[test]
fn a_tree_in_a_larger_buffer_is_read() {
    let mut padded = QEMU.to_vec();
    padded.resize(QEMU.len() + 4096, 0xa5);
    assert_eq!(parse(&padded), parse(QEMU));
}

#[test]
fn disabled_nodes_and_what_is_below_them_do_not_exist() {
    let off = |path| with(path, "status", "disabled");
    assert!(off(SMMU).unwrap().smmus.is_empty());
    assert!(off(PCIE).unwrap().pcie.is_empty());
    assert!(off(ITS).unwrap().gic.unwrap().its.is_empty());
    assert_eq!(off(UART).unwrap().uart, None);
    assert_eq!(off("/cpus/cpu@2").unwrap().cpus.len(), 3);
    assert_eq!(off(GIC), Err(FdtError::Missing(Item::Gic)));
    assert_eq!(
        off("/memory@40000000"),
        Err(FdtError::Missing(Item::Memory))
    );
    assert_eq!(with(SMMU, "status", "okay"), parse(QEMU));
    assert!(
        with(SMMU, "status", "fail-overheated")
            .unwrap()
            .smmus
            .is_empty()
    );
}

#[test]
fn cpus_that_psci_cannot_start_are_left_out() {
    let info = with("/cpus/cpu@3", "enable-method", "spin-table").unwrap();
    assert_eq!(info.cpus.len(), 3);
    let alone = edited(|tree| {
        for cpu in ["cpu@1", "cpu@2", "cpu@3"] {
            tree.find_node_mut("/cpus").unwrap().remove_child(cpu);
        }
        unset(tree, "/cpus/cpu@0", "enable-method");
    });
    assert_eq!(alone.unwrap().cpus, [Cpu { id: 0 }]);
}

#[test]
fn wide_cpu_numbers_keep_aff3() {
    let info = edited(|tree| {
        set(tree, "/cpus", "#address-cells", 2u32);
        for cpu in 0..4u32 {
            set(tree, &std::format!("/cpus/cpu@{cpu}"), "reg", [1, cpu << 8]);
        }
    });
    assert_eq!(info.unwrap().cpus[3], Cpu { id: 0x1_0000_0300 });
}

#[test]
fn console_follows_the_alias_and_falls_back_to_the_first() {
    assert_eq!(
        with("/chosen", "stdout-path", "serial0:115200n8"),
        parse(QEMU)
    );
    assert_eq!(with("/chosen", "stdout-path", "/nothing"), parse(QEMU));
    assert_eq!(with("/chosen", "stdout-path", PCIE), parse(QEMU));
    let second = edited(|tree| {
        let mut uart = tree.find_node(UART).unwrap().clone();
        let mut bus = node("bus");
        bus.add_property(DeviceTreeProperty::new("#size-cells", 2u32).unwrap());
        bus.add_property(DeviceTreeProperty::new("ranges", &[][..] as &[u8]).unwrap());
        uart.add_property(DeviceTreeProperty::new("reg", [0u32, 0x904_0000, 0, 0x1000]).unwrap());
        bus.add_child(uart);
        tree.root.add_child(bus);
        set(tree, "/chosen", "stdout-path", "/bus/pl011@9000000");
    });
    assert_eq!(
        second.unwrap().uart.unwrap().registers.base,
        Hpa(0x904_0000)
    );
}

#[test]
fn console_is_found_in_a_tree_that_is_refused() {
    let mut tree = DeviceTree::from_fdt(&Fdt::new(QEMU).unwrap());
    tree.root.remove_child("timer");
    let bytes = tree.to_dtb();
    assert_eq!(parse(&bytes), Err(FdtError::Missing(Item::Timer)));
    let found = console(&bytes).unwrap();
    assert_eq!(found.registers, span(0x900_0000, 0x1000));
}

#[test]
fn named_interrupts_win_over_their_order() {
    let info = edited(|tree| {
        set(
            tree,
            "/timer",
            "interrupts",
            [1u32, 10, 8, 1, 11, 8, 1, 14, 1],
        );
        set(
            tree,
            "/timer",
            "interrupt-names",
            &["hyp-phys", "virt", "phys"][..],
        );
        set(tree, SMMU, "interrupts", [0u32, 80, 1]);
        set(tree, SMMU, "interrupt-names", "combined");
    });
    let info = info.unwrap();
    assert_eq!(
        info.timer,
        Some(Timer {
            virt: level(27),
            phys: edge(30),
            hyp: level(26)
        })
    );
    assert_eq!(
        (info.smmus[0].event_irq, info.smmus[0].gerror_irq),
        (Some(edge(112)), Some(edge(112)))
    );
}

#[test]
fn extended_interrupts_name_their_controller() {
    let gic = 0x8005;
    let gpio = 0x8008;
    let info = edited(|tree| {
        set(tree, "/pl061@9030000", "#interrupt-cells", 2u32);
        set(
            tree,
            UART,
            "interrupts-extended",
            [gpio, 3u32, 4, gic, 0, 9, 1],
        );
    });
    // The first one ends at the GPIO controller: not ours to take.
    assert_eq!(info.unwrap().uart.unwrap().irq, None);
    let info = with(UART, "interrupts-extended", [gic, 0u32, 9, 1]).unwrap();
    assert_eq!(info.uart.unwrap().irq, Some(edge(41)));
    let endless = edited(|tree| {
        set(tree, "/pl061@9030000", "#interrupt-cells", 0u32);
        set(tree, UART, "interrupts-extended", [gpio]);
    });
    assert_eq!(
        endless,
        Err(FdtError::Property(Item::Uart, "#interrupt-cells"))
    );
}

#[test]
fn host_bridge_defaults() {
    let info = edited(|tree| {
        for name in [
            "bus-range",
            "msi-map",
            "interrupt-map",
            "linux,pci-domain",
            "iommu-map",
        ] {
            unset(tree, PCIE, name);
        }
        set(tree, PCIE, "reg", [0u32, 0x3f00_0000, 0, 0x100_0000]);
        set(tree, PCIE, "msi-parent", 0x8006u32);
    });
    let pcie = &info.unwrap().pcie[0];
    // 16 MiB of ECAM are 16 buses.
    assert_eq!((pcie.segment, pcie.buses), (0, (0, 15)));
    assert_eq!(pcie.msi_map[0].translate(0x1ff), Some(0x1ff));
    assert!(pcie.intx.is_empty() && pcie.iommu_map.is_empty());
    let masked = edited(|tree| {
        set(tree, PCIE, "iommu-map", [0u32, 0x8007, 0x100, 8]);
        set(tree, PCIE, "iommu-map-mask", 0xfff8u32);
    });
    assert_eq!(
        masked.unwrap().pcie[0].iommu_map[0].translate(7),
        Some(0x100)
    );
}

#[test]
fn coherence_is_inherited_until_denied() {
    let info = edited(|tree| {
        unset(tree, SMMU, "dma-coherent");
        unset(tree, PCIE, "dma-coherent");
        set(tree, PCIE, "dma-noncoherent", &[][..] as &[u8]);
    });
    let info = info.unwrap();
    assert!(info.smmus[0].dma_coherent && !info.pcie[0].dma_coherent);
}
