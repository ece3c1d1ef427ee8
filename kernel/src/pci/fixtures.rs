//! Machines for tests: QEMU's `virt` host bridge and devices as QEMU has them.

use super::fake::{FakeFunction, Ticking};
use super::{ConfigSpace, Function, Topology};
use crate::boot_info::{IdMap, IntxRoute, Irq, PcieHost, Window, WindowKind};
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use iommu::addr::{Hpa, Span};

/// phandle of the SMMU.
pub const SMMU: u32 = 0x8002;
/// phandle of the ITS.
pub const ITS: u32 = 0x8003;

/// The host bridge of `-M virt,iommu=smmuv3`: one map over all requester IDs, interrupts by device modulo four.
pub fn virt_host() -> PcieHost {
    let window = |kind, pci, len| Window {
        kind,
        pci,
        cpu: Span {
            base: Hpa(pci),
            len,
        },
    };
    let all = |target| IdMap {
        rid_base: 0,
        target,
        output_base: 0,
        len: 0x1_0000,
        mask: 0xffff,
    };
    let irq = |device: u8, pin: u8| Irq {
        intid: 35 + u32::from((device + pin) % 4),
        edge: false,
    };
    let mut intx = Vec::new();
    for device in 0..4 {
        intx.extend((0..4).map(|pin| IntxRoute {
            device,
            pin,
            irq: irq(device, pin),
        }));
    }
    PcieHost {
        path: "/pcie@10000000".to_string(),
        segment: 0,
        buses: (0, 255),
        ecam: Span {
            base: Hpa(0x40_1000_0000),
            len: 0x1000_0000,
        },
        windows: vec![
            Window {
                kind: WindowKind::Io,
                pci: 0,
                cpu: Span {
                    base: Hpa(0x3eff_0000),
                    len: 0x1_0000,
                },
            },
            window(WindowKind::Memory32, 0x1000_0000, 0x2eff_0000),
            window(WindowKind::Memory64, 0x80_0000_0000, 0x80_0000_0000),
        ],
        iommu_map: vec![all(SMMU)],
        msi_map: vec![all(ITS)],
        intx,
        dma_coherent: true,
    }
}

pub fn host_bridge() -> FakeFunction {
    FakeFunction::new(0, 0, 0x1b36, 0x0008, 0x06_0000)
}

/// What is on the buses of `hosts`, without virtual functions.
pub fn enumerate(space: &mut dyn ConfigSpace, hosts: &[PcieHost]) -> Topology {
    Topology::enumerate(space, &mut Ticking::default(), hosts, &[])
}

/// As QEMU's: 16 KiB of registers, MSI-X in the same BAR, PCIe with FLR, power management.
pub fn nvme(device: u8, port: u8) -> FakeFunction {
    FakeFunction::new(device, 0, 0x1b36, 0x0010, 0x01_0802)
        .with_bar(0, 4, 0x4000)
        .with_power(0x60, true)
        .with_express(0x80, port, true)
        .with_msix(0x40, 65, 0, 0x2000, 0x3000)
        .with_pin(1)
}

/// As QEMU's: conventional, 1 MiB, one MSI vector, no reset of its own.
pub fn edu(device: u8) -> FakeFunction {
    FakeFunction::new(device, 0, 0x1234, 0x11e8, 0x00_ff00)
        .with_bar(0, 0, 0x10_0000)
        .with_msi(0x40, 0)
        .with_pin(1)
}

pub fn root_port(device: u8) -> FakeFunction {
    FakeFunction::bridge(device, 0, Some(4))
        .with_bar(0, 0, 0x1000)
        .with_acs(0x1d)
}

pub fn address(text: &str) -> Function {
    text.parse().unwrap()
}
