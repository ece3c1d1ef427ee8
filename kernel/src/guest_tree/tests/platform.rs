//! Nodes of assigned devices.

use super::*;
use crate::boot_info::{Irq, PlatformDevice, StreamOf};
use crate::platform::Assigned;
use iommu::id::DeviceId;

/// As QEMU's second UART, placed elsewhere.
fn uart() -> Assigned {
    Assigned {
        device: PlatformDevice {
            path: "/bus/pl011@9040000".into(),
            compatible: vec!["arm,pl011".into(), "arm,primecell".into()],
            enabled: true,
            clocks: vec![Some(24_000_000), Some(24_000_000)],
            properties: vec![
                ("clock-names", b"uartclk\0apb_pclk\0".to_vec()),
                ("interrupt-names", b"combined\0".to_vec()),
            ],
            ..PlatformDevice::default()
        },
        registers: vec![Span {
            base: Gpa(0xa00_0000),
            len: 0x1000,
        }],
        irqs: vec![Some(Irq {
            intid: 64,
            edge: false,
        })],
        streams: vec![],
    }
}

fn read(platform: &[Assigned]) -> Read {
    Read::new(GuestTree { platform, ..TREE })
}

#[test]
fn a_device_is_what_it_was_at_the_guests_addresses() {
    let tree = read(&[uart()]);
    let path = "/pl011@a000000";
    assert_eq!(tree.text(path, "compatible"), "arm,pl011\0arm,primecell\0");
    assert_eq!(tree.cells(path, "reg"), [0, 0xa00_0000, 0, 0x1000]);
    assert_eq!(tree.cells(path, "interrupts"), [0, 32, 4]);
    assert_eq!(tree.text(path, "clock-names"), "uartclk\0apb_pclk\0");
    let clock = "/clock-24000000";
    let phandle = tree.cells(clock, "phandle")[0];
    assert_eq!(tree.cells(path, "clocks"), [phandle, phandle]);
    assert_eq!(tree.cells(clock, "clock-frequency"), [24_000_000]);
    assert_eq!(tree.text(clock, "compatible"), "fixed-clock\0");
    assert!(!tree.has(path, "iommus") && !tree.has(path, "dma-coherent"));
}

#[test]
fn two_devices_share_a_clock_of_one_rate() {
    let mut second = uart();
    second.registers[0].base = Gpa(0xa00_1000);
    second.device.clocks = vec![Some(24_000_000), Some(50_000_000)];
    let tree = read(&[uart(), second]);
    let clocks = tree.cells("/pl011@a001000", "clocks");
    assert_eq!(clocks[0], tree.cells("/pl011@a000000", "clocks")[0]);
    assert_eq!(clocks[1], tree.cells("/clock-50000000", "phandle")[0]);
    assert_ne!(clocks[0], clocks[1]);
}

#[test]
fn an_edge_stays_one_and_what_does_not_arrive_is_not_promised() {
    let mut edge = uart();
    edge.irqs = vec![Some(Irq {
        intid: 65,
        edge: true,
    })];
    assert_eq!(
        read(&[edge]).cells("/pl011@a000000", "interrupts"),
        [0, 33, 1]
    );
    let mut deaf = uart();
    deaf.irqs.push(None);
    let tree = read(&[deaf]);
    assert!(!tree.has("/pl011@a000000", "interrupts"));
    assert!(!tree.has("/pl011@a000000", "interrupt-names"));
}

#[test]
fn clocks_that_somebody_has_to_turn_on_are_left_out() {
    let mut device = uart();
    device.device.clocks[1] = None;
    let tree = read(&[device]);
    assert!(!tree.has("/pl011@a000000", "clocks"));
    assert!(!tree.has("/pl011@a000000", "clock-names"));
    assert!(tree.node("/clock-24000000").is_none());
}

#[test]
fn only_a_device_that_does_dma_can_be_coherent() {
    let mut device = uart();
    device.device.dma_coherent = true;
    assert!(!read(&[device.clone()]).has("/pl011@a000000", "dma-coherent"));
    device.device.streams = vec![StreamOf {
        iommu: 1,
        id: DeviceId(5),
    }];
    assert!(read(&[device.clone()]).has("/pl011@a000000", "dma-coherent"));
    device.device.dma_coherent = false;
    assert!(!read(&[device]).has("/pl011@a000000", "dma-coherent"));
}
