//! QEMU as our machine: what it is made of ([`Machine`]), one that runs ([`Guest`]), its control socket
//! ([`monitor::Monitor`]) and its debugger socket ([`gdb::Debugger`]).

mod console;
mod gdb;
mod guest;
mod monitor;

pub use gdb::Debugger;
pub use guest::Guest;
pub use monitor::Monitor;

use crate::arch::Arch;
use anyhow::{Context, Result, bail};
use kernel::config::Qemu;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// A `virt` or `q35` machine, and what it boots.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    /// Which of them.
    pub arch: Arch,
    /// RAM in bytes.
    pub memory: u64,
    /// Number of CPUs.
    pub cpus: u16,
    /// `-cpu`.
    pub cpu: String,
    /// EL2 exists (AArch64).
    pub el2: bool,
    /// An SMMUv3, or VT-d, stands before PCIe.
    pub smmu: bool,
    /// More options of VT-d, each with a comma before it.
    pub vtd: &'static str,
    /// Disk images that devices name as `drive=ID`.
    pub disks: Vec<(String, PathBuf)>,
    /// One `-drive` each, for what is no image.
    pub drives: Vec<String>,
    /// One `-device` each.
    pub devices: Vec<String>,
    /// One `-serial` each, behind that of the console.
    pub serials: Vec<String>,
    /// The device tree, where it is not QEMU's own.
    pub dtb: Option<PathBuf>,
    /// What is loaded, and who starts it.
    pub boot: Boot,
    /// One instruction takes one nanosecond of the machine's time, always.
    pub icount: bool,
    /// With that, its CPUs take turns of less than a microsecond each.
    pub turns: bool,
    /// The same, but for what waits, which takes as long as it does; [`Monitor::instructions`] counts them. What comes from
    /// outside is recorded in this file.
    pub counted: Option<PathBuf>,
    /// Patterns of trace events that go to a file, with what guests do wrong.
    pub trace: Vec<String>,
    /// Stands still until [`Guest::debugger`] lets it go.
    pub halted: bool,
}

/// What is loaded, and who starts it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Boot {
    /// QEMU itself, by the arm64 boot protocol.
    Kernel {
        /// arm64 `Image`.
        image: PathBuf,
        /// Initial RAM disk.
        initrd: Option<PathBuf>,
        /// Command line.
        append: Option<String>,
    },
    /// UEFI, which starts a program that QEMU hands to it.
    Uefi {
        /// For `-bios`.
        bios: PathBuf,
        /// A PE application.
        image: PathBuf,
    },
    /// Firmware in flash.
    Firmware {
        /// For `-bios`.
        bios: PathBuf,
        /// Files that lie in RAM at these addresses when it starts.
        files: Vec<(PathBuf, u64)>,
    },
}

impl Machine {
    /// EL2, an SMMUv3, two CPUs and 1 GiB; no device.
    pub fn new(boot: Boot) -> Self {
        Self {
            arch: Arch::Aarch64,
            memory: 1 << 30,
            cpus: 2,
            cpu: "max".into(),
            el2: true,
            smmu: true,
            vtd: "",
            disks: Vec::new(),
            drives: Vec::new(),
            devices: Vec::new(),
            serials: Vec::new(),
            dtb: None,
            boot,
            icount: false,
            turns: false,
            counted: None,
            trace: Vec::new(),
            halted: false,
        }
    }

    /// The machine that a configuration describes, started with `image`. Files of disks are relative to `folder`; disks
    /// without a file are made in `work`, filled with zeros.
    pub fn of_config(qemu: &Qemu, image: PathBuf, folder: &Path, work: &Path) -> Result<Self> {
        let mut machine = Self::new(Boot::Kernel {
            image,
            initrd: None,
            append: None,
        });
        machine.memory = qemu.memory.0;
        machine.cpus = qemu.cpus;
        machine.cpu.clone_from(&qemu.cpu);
        machine.smmu = qemu.smmu;
        machine.devices.clone_from(&qemu.devices);
        machine.serials.clone_from(&qemu.serials);
        machine.dtb = qemu.dtb.as_ref().map(|dtb| folder.join(dtb));
        for disk in &qemu.disks {
            let path = match (&disk.file, disk.size) {
                (Some(file), _) => folder.join(file),
                (None, Some(size)) => {
                    let path = work.join(format!("{}.img", disk.id));
                    let made = fs::create_dir_all(work)
                        .and_then(|()| fs::File::create(&path)?.set_len(size.0));
                    made.with_context(|| format!("cannot make {}", path.display()))?;
                    path
                }
                (None, None) => bail!("disk `{}` has neither a file nor a size", disk.id),
            };
            machine.disks.push((disk.id.clone(), path));
        }
        Ok(machine)
    }

    /// The arguments that describe it, with `console` for its first UART; control socket and trace file are the
    /// caller's.
    pub fn args(&self, console: &str) -> Vec<OsString> {
        let on = |yes: bool| if yes { "on" } else { "off" };
        let mut args = Args::default();
        match self.arch {
            Arch::Aarch64 => {
                let mut machine = format!(
                    "virt,virtualization={},gic-version=3,dtb-randomness=off",
                    on(self.el2)
                );
                if self.smmu {
                    machine += ",iommu=smmuv3";
                }
                args.pair("-machine", machine);
            }
            Arch::X86_64 => {
                args.pair("-machine", "q35,kernel-irqchip=split");
                // Before every device that it is to stand before.
                if self.smmu {
                    let unit = format!("intel-iommu,intremap=on,eim=on{}", self.vtd);
                    args.pair("-device", unit);
                }
            }
        }
        args.pair("-cpu", &self.cpu);
        args.pair("-smp", self.cpus.to_string());
        args.pair("-m", format!("{}M", self.memory >> 20));
        // Without it, a network card appears that the SMMU does not see.
        args.flag("-nodefaults");
        args.flag("-no-reboot");
        args.pair("-display", "none");
        if self.icount {
            args.pair("-icount", "shift=0,sleep=off");
        }
        if self.turns {
            // Its CPUs are carried out one after the other, each for its part of what is left until the next timer ends. One that
            // ends each microsecond is that of a filter, of a network that nobody is at.
            args.pair("-netdev", "hubport,id=nobody,hubid=0");
            args.pair("-object", "filter-buffer,id=turns,netdev=nobody,interval=1");
        }
        if let Some(record) = &self.counted {
            let mut options = OsString::from("shift=0,rr=record,rrfile=");
            options.push(escape(record));
            args.pair("-icount", options);
        }
        for serial in [console]
            .into_iter()
            .chain(self.serials.iter().map(|s| &**s))
        {
            args.pair("-serial", serial);
        }
        if let Some(dtb) = &self.dtb {
            args.pair("-dtb", dtb);
        }
        for (id, path) in &self.disks {
            let mut drive = OsString::from(format!("if=none,format=raw,id={id},file="));
            drive.push(escape(path));
            args.pair("-drive", drive);
        }
        for drive in &self.drives {
            args.pair("-drive", drive);
        }
        for device in &self.devices {
            args.pair("-device", device);
        }
        match &self.boot {
            Boot::Kernel {
                image,
                initrd,
                append,
            } => {
                args.pair("-kernel", image);
                if let Some(path) = initrd {
                    args.pair("-initrd", path);
                }
                if let Some(line) = append {
                    args.pair("-append", line);
                }
            }
            Boot::Uefi { bios, image } => {
                args.pair("-bios", bios);
                args.pair("-kernel", image);
            }
            Boot::Firmware { bios, files } => {
                args.pair("-bios", bios);
                for (path, address) in files {
                    let mut loader =
                        OsString::from(format!("loader,force-raw=on,addr={address:#x},file="));
                    loader.push(escape(path));
                    args.pair("-device", loader);
                }
            }
        }
        args.0
    }
}

/// In a list of options a comma of a path is written twice.
fn escape(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

#[derive(Default)]
struct Args(Vec<OsString>);

impl Args {
    fn flag(&mut self, name: &str) {
        self.0.push(name.into());
    }

    fn pair(&mut self, name: &str, value: impl Into<OsString>) {
        self.flag(name);
        self.0.push(value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(machine: &Machine) -> String {
        let words: Vec<_> = machine
            .args("stdio")
            .iter()
            .map(|arg| arg.to_string_lossy().into_owned())
            .collect();
        words.join(" ")
    }

    fn kernel() -> Boot {
        Boot::Kernel {
            image: "Image".into(),
            initrd: None,
            append: None,
        }
    }

    #[test]
    fn machine_has_el2_an_smmu_and_nothing_by_default() {
        let text = line(&Machine::new(kernel()));
        assert!(text.starts_with(
            "-machine virt,virtualization=on,gic-version=3,dtb-randomness=off,iommu=smmuv3 "
        ));
        assert!(text.contains(" -nodefaults "));
        assert!(!text.contains("-device"));
    }

    #[test]
    fn disk_with_a_comma_in_its_path_stays_one_value() {
        let mut machine = Machine::new(kernel());
        machine.disks.push(("d".into(), "/tmp/a,b.img".into()));
        assert!(line(&machine).contains("-drive if=none,format=raw,id=d,file=/tmp/a,,b.img"));
    }

    #[test]
    fn the_console_is_the_first_uart() {
        let mut machine = Machine::new(kernel());
        machine.serials.push("null".into());
        assert!(line(&machine).contains(" -serial stdio -serial null "));
    }

    #[test]
    fn firmware_finds_its_files_in_memory() {
        let machine = Machine::new(Boot::Firmware {
            bios: "u-boot.bin".into(),
            files: vec![("Image".into(), 0x5000_0000)],
        });
        assert!(
            line(&machine).ends_with(
                "-bios u-boot.bin -device loader,force-raw=on,addr=0x50000000,file=Image"
            )
        );
    }
}
