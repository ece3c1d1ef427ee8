//! `cargo xtask setup`: everything that runs and tests need, fetched once. `run` and `test` fetch the same by themselves.

use super::Outcome;
use crate::arch::Arch;
use crate::setup::kit;
use crate::setup::linux::{self, Pages};
use crate::setup::toolchain;
use std::process::ExitCode;

/// Arguments of `cargo xtask setup`.
#[derive(clap::Args)]
pub struct Setup {}

impl Setup {
    /// Says each step; quick when there is nothing to do.
    pub fn run(self) -> Outcome {
        for arch in Arch::ALL {
            let bare = match toolchain::bare(arch)? {
                toolchain::Bare::Prebuilt => "prebuilt core and alloc",
                toolchain::Bare::FromSource => "core and alloc from source",
                toolchain::Bare::Debian => "core and alloc from source, by Debian's rustc-web",
            };
            println!("{}: {bare}", arch.target());
            println!("qemu: {}", kit::qemu(arch)?.version()?);
        }
        for arch in Arch::ALL {
            let linux = linux::linux(arch)?;
            println!(
                "linux: {} ({} modules for the initrd)",
                linux.image.display(),
                linux.modules.len() + linux.vfio.len()
            );
            println!("busybox: {}", linux.busybox.display());
        }
        let linux_16k = linux::linux_of(Pages::Sixteen)?;
        println!("linux with 16 KiB pages: {}", linux_16k.image.display());
        let firmware = kit::firmware()?;
        println!("u-boot: {}", firmware.u_boot.display());
        println!("edk2: {}", firmware.edk2.display());
        println!("grub: {}", kit::grub()?.make_image.version()?);
        println!("edk2 for x86_64: {}", kit::ovmf()?.display());
        println!("iasl: {}", kit::iasl()?.program());
        println!("ready: `cargo xtask run` boots, `cargo xtask test` tests");
        Ok(ExitCode::SUCCESS)
    }
}
