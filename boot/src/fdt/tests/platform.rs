//! Devices on the memory bus: QEMU's, edits of them, and damage.

use super::*;
use iommu::id::DeviceId;
use kernel::boot_info::{PlatformDevice, StreamOf};

const SMMU_PHANDLE: u32 = 0x8007;
const GIC_PHANDLE: u32 = 0x8005;
const GPIO_PHANDLE: u32 = 0x8008;

/// QEMU's devices after `edit`.
fn devices_of(edit: impl FnOnce(&mut DeviceTree)) -> Vec<PlatformDevice> {
    let mut tree = DeviceTree::from_fdt(&Fdt::new(QEMU).unwrap());
    edit(&mut tree);
    devices(&tree.to_dtb()).unwrap()
}

fn find(devices: &[PlatformDevice], path: &str) -> PlatformDevice {
    let mut devices = devices.iter();
    let device = devices.find(|device| device.path == path);
    device.unwrap_or_else(|| panic!("{path}")).clone()
}

/// The UART after `edit`.
fn uart(edit: impl FnOnce(&mut DeviceTree)) -> PlatformDevice {
    find(&devices_of(edit), UART)
}

fn uart_with<T: ToPropertyValue>(name: &str, value: T) -> PlatformDevice {
    uart(|tree| set(tree, UART, name, value))
}

#[test]
fn qemus_devices_are_what_its_tree_says() {
    let all = devices(QEMU).unwrap();
    let uart = find(&all, UART);
    assert_eq!(uart.compatible, ["arm,pl011", "arm,primecell"]);
    assert!(uart.enabled && !uart.does_dma && uart.unreadable.is_none());
    assert_eq!(uart.registers, [span(0x900_0000, 0x1000)]);
    assert_eq!(uart.irqs, [Some(level(33))]);
    assert_eq!(uart.clocks, [Some(24_000_000), Some(24_000_000)]);
    assert_eq!(
        uart.properties,
        [("clock-names", b"uartclk\0apb_pclk\0".to_vec())]
    );
    assert_eq!(uart.streams, []);
    let gpio = find(&all, "/pl061@9030000");
    let names: Vec<_> = gpio.properties.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["clock-names", "gpio-controller", "#gpio-cells"]);
    // DMA past every SMMU, and it says so by itself.
    assert!(find(&all, "/fw-cfg@9020000").does_dma);
    let virtio = find(&all, "/virtio_mmio@a000000");
    assert_eq!(virtio.registers, [span(0xa00_0000, 0x200)]);
    assert_eq!(virtio.irqs, [Some(edge(48))]);
    // Two regions; a node below the interrupt controller; the hypervisor's own are not left out.
    assert_eq!(find(&all, "/flash@0").registers.len(), 2);
    assert_eq!(find(&all, ITS).registers, [span(0x808_0000, 0x2_0000)]);
    assert_eq!(find(&all, SMMU).registers, [span(0x905_0000, 0x2_0000)]);
    assert_eq!(
        find(&all, "/timer").irqs.first(),
        Some(&Some(level(29))),
        "no registers, but interrupts"
    );
    // On a bus with addresses of its own.
    let cpu = find(&all, "/cpus/cpu@1");
    assert_eq!((cpu.registers.len(), cpu.unreadable), (0, Some("ranges")));
}

#[test]
fn registers_are_seen_through_the_buses_above() {
    let all = devices_of(|tree| {
        let mut bus = node("soc");
        for (name, value) in [
            ("#address-cells", vec![1u32]),
            ("#size-cells", vec![1]),
            ("ranges", vec![0x1000, 0, 0x7000_0000, 0x10_0000]),
        ] {
            bus.add_property(DeviceTreeProperty::new(name, &value[..]).unwrap());
        }
        let mut device = node("dev@2000");
        let reg = [0x2000u32, 0x100, 0x3000, 0x1000];
        device.add_property(DeviceTreeProperty::new("reg", &reg[..]).unwrap());
        bus.add_child(device);
        let mut outside = node("dev@200000");
        let reg = [0x20_0000u32, 0x100];
        outside.add_property(DeviceTreeProperty::new("reg", &reg[..]).unwrap());
        bus.add_child(outside);
        tree.root.add_child(bus);
    });
    let device = find(&all, "/soc/dev@2000");
    let expected = [span(0x7000_1000, 0x100), span(0x7000_2000, 0x1000)];
    assert_eq!(device.registers, expected);
    let outside = find(&all, "/soc/dev@200000");
    assert_eq!(outside.unreadable, Some("ranges"));
}

#[test]
fn streams_are_read_with_the_cells_of_their_iommu() {
    let device = uart_with("iommus", [SMMU_PHANDLE, 0x40, SMMU_PHANDLE, 0x41]);
    let stream = |id| StreamOf {
        iommu: SMMU_PHANDLE,
        id: DeviceId(id),
    };
    assert_eq!(device.streams, [stream(0x40), stream(0x41)]);
    assert!(device.does_dma && device.dma_coherent);
    for wrong in [&[SMMU_PHANDLE][..], &[0x1234, 1], &[SMMU_PHANDLE, 1, 2]] {
        let device = uart_with("iommus", wrong);
        assert_eq!(
            (device.unreadable, device.streams),
            (Some("iommus"), vec![])
        );
        assert!(device.does_dma, "its DMA is not in doubt");
    }
    // A clock is no IOMMU; an SMMUv3 that wants two cells is none that is known.
    assert_eq!(
        uart_with("iommus", [0x8000u32, 1]).unreadable,
        Some("#iommu-cells")
    );
    let device = uart(|tree| {
        set(tree, SMMU, "#iommu-cells", 2u32);
        set(tree, UART, "iommus", [SMMU_PHANDLE, 1, 2]);
    });
    assert_eq!(device.unreadable, Some("#iommu-cells"));
}

#[test]
fn the_state_of_a_device_is_its_own_and_that_of_all_above() {
    assert!(!uart_with("status", "disabled").enabled);
    assert!(!uart_with("status", "reserved").enabled);
    let device = uart(|tree| unset(tree, "/", "dma-coherent"));
    assert!(!device.dma_coherent);
    let device = uart_with("dma-coherent", &[][..] as &[u8]);
    assert!(device.does_dma, "why else would it be coherent");
}

#[test]
fn interrupts_of_other_controllers_and_of_the_cpus_are_told_apart() {
    let both = uart(|tree| {
        let gic = [GIC_PHANDLE, 0, 5, 1];
        set(
            tree,
            UART,
            "interrupts-extended",
            [gic, [GIC_PHANDLE, 1, 7, 4]].as_flattened(),
        );
    });
    assert_eq!(both.irqs, [Some(edge(37)), Some(level(23))]);
    let none = uart(|tree| {
        set(tree, "/pl061@9030000", "#interrupt-cells", 2u32);
        set(tree, UART, "interrupts-extended", [GPIO_PHANDLE, 3, 4]);
    });
    assert_eq!(none.irqs, [None]);
    assert_eq!(
        uart_with("interrupts", [0u32, 1]).unreadable,
        Some("interrupts")
    );
}

#[test]
fn a_clock_that_is_not_fixed_has_no_rate() {
    let device = uart(|tree| set(tree, "/apb-pclk", "compatible", "vendor,gate"));
    assert_eq!(device.clocks, [None, None]);
    assert_eq!(uart_with("clocks", [0x1234u32]).unreadable, Some("clocks"));
}

#[test]
fn lists_without_end_are_not_read() {
    let many = vec![[SMMU_PHANDLE, 1]; 65];
    let device = uart_with("iommus", many.as_flattened());
    assert_eq!(device.unreadable, Some("iommus"));
    let long = uart_with("reg-names", &[b'x'; 300][..]);
    assert!(long.properties.iter().all(|(name, _)| *name != "reg-names"));
    // Not one cell an entry: no loop without end.
    let device = uart(|tree| {
        set(tree, "/apb-pclk", "#clock-cells", u32::MAX);
    });
    assert_eq!(device.unreadable, Some("clocks"));
}

#[test]
fn every_truncation_ends() {
    for len in 0..QEMU.len() {
        let mut bytes = QEMU[..len].to_vec();
        let _ = devices(&bytes);
        // The same with a header that says so.
        if let Some(size) = bytes.get_mut(4..8) {
            size.copy_from_slice(&(len as u32).to_be_bytes());
            let _ = devices(&bytes);
        }
    }
}
