//! The machines of these cases: two CPUs and 2 GiB, a few functions, and guests with SMMUs of their own.

use std::fmt::Write;

/// The text of a configuration.
pub struct Layout {
    machine: String,
    partitions: String,
}

/// Debian's Linux in a partition with an SMMU of its own.
#[derive(Clone, Copy)]
pub struct Linux<'a> {
    /// The partition.
    pub name: &'a str,
    /// One vCPU on each.
    pub cpus: &'a [u16],
    /// What it runs.
    pub kernel: &'a str,
    /// Its initial RAM disk.
    pub initrd: &'a str,
    /// Behind what every one is told.
    pub cmdline: &'a str,
    /// What it owns, by the machine's addresses.
    pub functions: &'a [&'a str],
    /// Those that nothing can reset.
    pub unresettable: &'a [&'a str],
    /// What describes all that to it.
    pub tables: &'a str,
}

impl Default for Linux<'_> {
    fn default() -> Self {
        Self {
            name: "linux",
            cpus: &[0],
            kernel: "debian:kernel",
            initrd: "initrd.cpio",
            cmdline: "",
            functions: &[],
            unresettable: &[],
            tables: "device-tree",
        }
    }
}

impl Layout {
    /// A machine with one SMMU and these `-device`s; `drive=ID` in one of them is the image `ID.img`.
    pub fn new(devices: &[&str]) -> Self {
        Self::of("smmu = true", devices)
    }

    /// The same without an SMMU but those among `devices`.
    pub fn with_own_smmus(devices: &[&str]) -> Self {
        Self::of("smmu = false", devices)
    }

    fn of(smmu: &str, devices: &[&str]) -> Self {
        let mut machine = format!(
            "[machine]\nname = 'viommu'\n[machine.qemu]\nmemory = '2G'\ncpus = 2\n{smmu}\ndevices = {devices:?}\n"
        );
        for device in devices {
            let mut properties = device.split(',');
            if let Some(id) = properties.find_map(|property| property.strip_prefix("drive=")) {
                let _ = writeln!(
                    machine,
                    "[[machine.qemu.disk]]\nid = '{id}'\nfile = '{id}.img'"
                );
            }
        }
        Self {
            machine,
            partitions: String::new(),
        }
    }

    /// Adds a guest.
    pub fn linux(mut self, linux: &Linux<'_>) -> Self {
        let Linux {
            name,
            cpus,
            kernel,
            initrd,
            cmdline,
            functions,
            unresettable,
            tables,
        } = *linux;
        let text = &mut self.partitions;
        let _ = writeln!(
            text,
            "[[partition]]\nname = '{name}'\nmemory = '512M'\ncpus = {cpus:?}\nkernel = '{kernel}'\n\
             initrd = '{initrd}'\ncmdline = 'console=ttyAMA0 {cmdline}'\nviommu = true\n\
             tables = '{tables}'"
        );
        for function in functions {
            let _ = writeln!(text, "[[partition.device]]\naddress = '{function}'");
            if unresettable.contains(function) {
                let _ = writeln!(text, "reset = 'best-effort'");
            }
        }
        self
    }

    /// Adds the guest that looks after its own memory only, on `cpu`.
    pub fn canary(self, cpu: u16) -> Self {
        self.small("canary", cpu, None)
    }

    /// Adds a small guest of ours on `cpu`; behind an SMMU of its own if it gets a function, which nothing can reset.
    pub fn small(mut self, payload: &str, cpu: u16, function: Option<&str>) -> Self {
        let text = &mut self.partitions;
        let _ = writeln!(
            text,
            "[[partition]]\nname = '{payload}'\nmemory = '64M'\ncpus = [{cpu}]\npayload = '{payload}'"
        );
        if let Some(function) = function {
            let _ = writeln!(
                text,
                "viommu = true\n[[partition.device]]\naddress = '{function}'\nreset = 'best-effort'"
            );
        }
        self
    }

    /// The configuration.
    pub fn text(&self) -> String {
        format!("{}{}", self.machine, self.partitions)
    }
}

#[cfg(test)]
mod tests {
    use super::{Layout, Linux};
    use kernel::config::Machine;

    #[test]
    fn a_layout_is_the_configuration_that_it_says() {
        let linux = Linux {
            cpus: &[0, 1],
            functions: &["00:02.0", "00:03.0"],
            unresettable: &["00:03.0"],
            tables: "acpi",
            ..Linux::default()
        };
        let layout = Layout::new(&["nvme,addr=02.0,drive=a", "edu,addr=03.0"])
            .linux(&linux)
            .canary(1);
        let expected = r#"
            [machine]
            name = "viommu"
            [machine.qemu]
            memory = "2G"
            cpus = 2
            devices = ["nvme,addr=02.0,drive=a", "edu,addr=03.0"]
            [[machine.qemu.disk]]
            id = "a"
            file = "a.img"
            [[partition]]
            name = "linux"
            memory = "512M"
            cpus = [0, 1]
            kernel = "debian:kernel"
            initrd = "initrd.cpio"
            cmdline = "console=ttyAMA0 "
            viommu = true
            tables = "acpi"
            [[partition.device]]
            address = "00:02.0"
            [[partition.device]]
            address = "00:03.0"
            reset = "best-effort"
            [[partition]]
            name = "canary"
            memory = "64M"
            cpus = [1]
            payload = "canary"
        "#;
        let machine = |text: &str| toml::from_str::<Machine>(text).unwrap();
        assert_eq!(machine(&layout.text()), machine(expected));
    }
}
