//! The machines of cases that differ in little: two CPUs, a few functions, and guests with SMMUs of their own.

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
    /// Its memory.
    pub memory: &'a str,
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
            memory: "512M",
            kernel: "debian:kernel",
            initrd: "initrd.cpio",
            cmdline: "",
            functions: &[],
            unresettable: &[],
            tables: "device-tree",
        }
    }
}

/// A small guest of ours.
#[derive(Clone, Copy)]
pub struct Small<'a> {
    /// What it runs, and the partition.
    pub payload: &'a str,
    /// Its CPU.
    pub cpu: u16,
    /// Its memory.
    pub memory: &'a str,
    /// What it is told.
    pub cmdline: &'a str,
    /// What it owns, which nothing can reset: behind an SMMU of its own.
    pub function: Option<&'a str>,
    /// That function is behind our stage 2 alone.
    pub without_viommu: bool,
    /// What becomes of it after so many faults.
    pub on_fault: Option<(&'a str, u64)>,
}

impl Default for Small<'_> {
    fn default() -> Self {
        Self {
            payload: "canary",
            cpu: 0,
            memory: "64M",
            cmdline: "",
            function: None,
            without_viommu: false,
            on_fault: None,
        }
    }
}

impl Layout {
    /// A machine with one SMMU, 2 GiB and these `-device`s; `drive=ID` in one of them is the image `ID.img`.
    pub fn new(devices: &[&str]) -> Self {
        Self::of("2G", true, devices)
    }

    /// The same for small guests.
    pub fn of_small(devices: &[&str]) -> Self {
        Self::of("768M", true, devices)
    }

    /// The same as [`Layout::new`] without an SMMU but those among `devices`.
    pub fn with_own_smmus(devices: &[&str]) -> Self {
        Self::of("2G", false, devices)
    }

    fn of(memory: &str, smmu: bool, devices: &[&str]) -> Self {
        let mut machine = format!(
            "[machine]\nname = 'case'\n[machine.qemu]\nmemory = '{memory}'\ncpus = 2\nsmmu = {smmu}\ndevices = {devices:?}\n"
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
            memory,
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
            "[[partition]]\nname = '{name}'\nmemory = '{memory}'\ncpus = {cpus:?}\nkernel = '{kernel}'\n\
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
        self.small(&Small {
            cpu,
            ..Small::default()
        })
    }

    /// Adds a small guest.
    pub fn small(mut self, small: &Small<'_>) -> Self {
        let Small {
            payload,
            cpu,
            memory,
            cmdline,
            function,
            without_viommu,
            on_fault,
        } = *small;
        let text = &mut self.partitions;
        let _ = writeln!(
            text,
            "[[partition]]\nname = '{payload}'\nmemory = '{memory}'\ncpus = [{cpu}]\npayload = '{payload}'"
        );
        if !cmdline.is_empty() {
            let _ = writeln!(text, "cmdline = '{cmdline}'");
        }
        if let Some((action, threshold)) = on_fault {
            let _ = writeln!(
                text,
                "on_fault = {{ action = '{action}', threshold = {threshold} }}"
            );
        }
        if let Some(function) = function {
            let _ = writeln!(
                text,
                "viommu = {}\n[[partition.device]]\naddress = '{function}'\nreset = 'best-effort'",
                !without_viommu
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
    use super::{Layout, Linux, Small};
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
            .canary(1)
            .small(&Small {
                payload: "edu_again",
                memory: "32M",
                cmdline: "lives=1",
                function: Some("00:04.0"),
                on_fault: Some(("stop", 7)),
                ..Small::default()
            });
        let expected = r#"
            [machine]
            name = "case"
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
            [[partition]]
            name = "edu_again"
            memory = "32M"
            cpus = [0]
            payload = "edu_again"
            cmdline = "lives=1"
            viommu = true
            on_fault = { action = "stop", threshold = 7 }
            [[partition.device]]
            address = "00:04.0"
            reset = "best-effort"
        "#;
        let machine = |text: &str| toml::from_str::<Machine>(text).unwrap();
        assert_eq!(machine(&layout.text()), machine(expected));
    }
}
