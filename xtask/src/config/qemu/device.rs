//! What one `-device` argument says.

use kernel::config::BoardSriov;
use std::collections::BTreeMap;

/// One `-device` argument.
pub struct Argument<'a> {
    pub driver: &'a str,
    pub properties: BTreeMap<&'a str, &'a str>,
}

impl<'a> Argument<'a> {
    pub fn parse(text: &'a str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let driver = parts.next().unwrap_or_default().trim();
        if driver.is_empty() || driver.contains(['=', ' ']) {
            return Err("does not start with the name of a device".into());
        }
        let mut properties = BTreeMap::new();
        for part in parts {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| format!("`{part}` is not of the form property=value"))?;
            properties.insert(key, value);
        }
        Ok(Self { driver, properties })
    }

    pub fn is_on(&self, property: &str) -> bool {
        matches!(
            self.properties.get(property),
            Some(&("on" | "true" | "yes"))
        )
    }
}

/// What a bus hangs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Port {
    /// `pcie.0`, or a `pxb-pcie` with its bus number.
    Root { number: u8, bypass: bool },
    /// A PCIe port with ACS: only slot 0.
    Isolating,
    /// A PCIe switch port without ACS.
    Switch,
    /// A PCIe-to-PCI bridge: what is below appears as function 0 of the secondary bus.
    ToConventional,
    /// A conventional bridge: what is below appears as the bridge.
    Conventional,
}

/// Which bridge a driver is, if it is one.
pub fn port(argument: &Argument<'_>) -> Option<Port> {
    Some(match argument.driver {
        "pcie-root-port" | "ioh3420" => Port::Isolating,
        "x3130-upstream" | "xio3130-downstream" => Port::Switch,
        "pcie-pci-bridge" => Port::ToConventional,
        "pci-bridge" | "i82801b11-bridge" => Port::Conventional,
        "pxb-pcie" => Port::Root {
            number: argument
                .properties
                .get("bus_nr")
                .and_then(|number| number.parse().ok())
                .unwrap_or(0x80),
            bypass: argument.is_on("bypass_iommu"),
        },
        _ => return None,
    })
}

/// Devices that are no PCI function.
pub fn is_function(driver: &str) -> bool {
    const OTHERS: [&str; 8] = [
        "loader",
        "guest-loader",
        "nvme-ns",
        "nvme-subsys",
        "virtconsole",
        "virtserialport",
        "arm-smmuv3",
        "pvpanic",
    ];
    const FAMILIES: [&str; 4] = ["usb-", "scsi-", "ide-", "sd-"];
    let other = OTHERS.contains(&driver)
        || FAMILIES.iter().any(|family| driver.starts_with(family))
        || (driver.starts_with("virtio-") && driver.ends_with("-device"));
    !other
}

/// Whether a driver's functions have a reset of their own, where we know.
pub fn resettable(driver: &str) -> Option<bool> {
    match driver {
        "nvme" | "igb" => Some(true),
        "edu" | "pci-testdev" => Some(false),
        _ => None,
    }
}

/// What virtual functions (VFs) a driver's function could have: QEMU's `hw/nvme/ctrl.c`, `hw/net/igb.c`.
pub fn sriov(argument: &Argument<'_>) -> Option<BoardSriov> {
    let (total, offset, stride) = match argument.driver {
        "nvme" => (
            argument.properties.get("sriov_max_vfs")?.parse().ok()?,
            1,
            1,
        ),
        "igb" => (8, 0x80, 2),
        _ => return None,
    };
    (total != 0).then_some(BoardSriov {
        total,
        offset,
        stride,
    })
}

/// `addr=`: hexadecimal slot, and function after a dot.
pub fn slot(text: &str) -> Option<(u8, u8)> {
    let (device, function) = text.split_once('.').unwrap_or((text, "0"));
    let device = u8::from_str_radix(device.trim_start_matches("0x"), 16).ok()?;
    let function = u8::from_str_radix(function, 16).ok()?;
    (device < 32 && function < 8).then_some((device, function))
}
