//! What Linux guests are made of: Debian's kernel with some of its modules, and busybox. Each is taken from an environment
//! variable or from Debian's packages.

use super::apt::Packages;
use super::kit;
use crate::arch::Arch;
use anyhow::{Context, Result, ensure};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

const MEMBERS: &[&str] = &[
    "./boot/vmlinuz-*",
    "./usr/lib/modules/*/kernel/drivers/nvme/*",
    "./usr/lib/modules/*/kernel/drivers/vfio/*",
    "./usr/lib/modules/*/kernel/drivers/net/ethernet/intel/igbvf/*",
];

/// A kernel, and the variables that name another one and its modules.
struct Kernel {
    image: &'static str,
    modules: &'static str,
    packages: Packages,
}

const fn kernel(
    image: &'static str,
    modules: &'static str,
    folder: &'static str,
    names: &'static [&'static str],
) -> Kernel {
    Kernel {
        image,
        modules,
        packages: Packages {
            name: folder,
            names,
            closure: false,
            members: MEMBERS,
        },
    }
}

const ARM64: Kernel = kernel(
    "SLUICE_LINUX_IMAGE",
    "SLUICE_MODULES",
    "linux-arm64-igbvf",
    &["linux-image-arm64:arm64"],
);
const ARM64_16K: Kernel = kernel(
    "SLUICE_LINUX_16K_IMAGE",
    "SLUICE_16K_MODULES",
    "linux-arm64-16k",
    &["linux-image-arm64-16k:arm64"],
);
const AMD64: Kernel = kernel(
    "SLUICE_LINUX_IMAGE_X86",
    "SLUICE_MODULES_X86",
    "linux-amd64",
    &["linux-image-amd64:amd64"],
);

/// A static busybox, and the variable that names another one.
struct Busybox {
    variable: &'static str,
    packages: Packages,
}

const fn busybox(
    variable: &'static str,
    folder: &'static str,
    names: &'static [&'static str],
) -> Busybox {
    Busybox {
        variable,
        packages: Packages {
            name: folder,
            names,
            closure: false,
            members: &[],
        },
    }
}

const BUSYBOX_ARM64: Busybox =
    busybox("SLUICE_BUSYBOX", "busybox-arm64", &["busybox-static:arm64"]);
const BUSYBOX_AMD64: Busybox = busybox(
    "SLUICE_BUSYBOX_X86",
    "busybox-amd64",
    &["busybox-static:amd64"],
);

/// What a Linux guest is made of.
#[derive(Clone, Debug)]
pub struct Linux {
    /// arm64 `Image`, or bzImage.
    pub image: PathBuf,
    /// Static busybox.
    pub busybox: PathBuf,
    /// Modules for an NVMe disk, in the order of loading.
    pub modules: Vec<PathBuf>,
    /// Modules for VFIO with PCI functions, likewise.
    pub vfio: Vec<PathBuf>,
    /// The driver of Intel's virtual functions.
    pub igbvf: Vec<PathBuf>,
}

/// The size of an arm64 kernel's pages, which is the granule of its tables for the SMMU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pages {
    /// 4 KiB.
    Four,
    /// 16 KiB. Debian has no kernel with 64 KiB.
    Sixteen,
}

/// Debian's kernel for `arch` with its modules, and busybox. `SLUICE_LINUX_IMAGE`, `SLUICE_BUSYBOX` and `SLUICE_MODULES` (a
/// folder with folders `nvme`, `vfio` and `net`; what is not there has to be built in) name others for AArch64, the same
/// with `_X86` behind it for x86_64.
pub fn linux(arch: Arch) -> Result<Linux> {
    match arch {
        Arch::Aarch64 => linux_of(Pages::Four),
        Arch::X86_64 => found(&AMD64, &BUSYBOX_AMD64),
    }
}

/// That for arm64 with pages of this size; `SLUICE_LINUX_16K_IMAGE` and `SLUICE_16K_MODULES` name others.
pub fn linux_of(pages: Pages) -> Result<Linux> {
    let kernel = match pages {
        Pages::Four => &ARM64,
        Pages::Sixteen => &ARM64_16K,
    };
    found(kernel, &BUSYBOX_ARM64)
}

fn found(kernel: &Kernel, busybox: &Busybox) -> Result<Linux> {
    let missing = |packages: &Packages, variable: &str| {
        let names = packages.names.join(" ");
        format!("{names} is missing: name what stands for it in {variable}")
    };
    let from_env = env::var_os(kernel.image).map(PathBuf::from);
    let (image, modules) = match from_env {
        Some(image) => (image, env::var_os(kernel.modules).map(PathBuf::from)),
        None => {
            let packages = &kernel.packages;
            let root = kit::fetch(packages, || missing(packages, kernel.image))?;
            let image = only_entry(&root.join("boot"), "vmlinuz-")?;
            let modules = only_entry(&root.join("usr/lib/modules"), "")?;
            (image, Some(modules.join("kernel/drivers")))
        }
    };
    ensure!(
        image.exists(),
        "{}: {} does not exist",
        kernel.image,
        image.display()
    );
    let busybox = match env::var_os(busybox.variable).map(PathBuf::from) {
        Some(path) => path,
        None => {
            let packages = &busybox.packages;
            let root = kit::fetch(packages, || missing(packages, busybox.variable))?;
            root.join("usr/bin/busybox")
        }
    };
    ensure!(
        busybox.exists(),
        "busybox: {} does not exist",
        busybox.display()
    );
    let present = |names: &[&str]| -> Vec<PathBuf> {
        let files = names.iter().filter_map(|name| {
            let dir = modules.as_ref()?;
            let ends =
                ["ko", "ko.xz", "ko.zst", "ko.gz"].map(|end| dir.join(format!("{name}.{end}")));
            ends.into_iter().find(|path| path.exists())
        });
        files.collect()
    };
    Ok(Linux {
        image,
        busybox,
        modules: present(&[
            "nvme/common/nvme-keyring",
            "nvme/common/nvme-auth",
            "nvme/host/nvme-core",
            "nvme/host/nvme",
        ]),
        vfio: present(&[
            "vfio/vfio",
            "vfio/vfio_iommu_type1",
            "vfio/pci/vfio-pci-core",
            "vfio/pci/vfio-pci",
        ]),
        igbvf: present(&["net/ethernet/intel/igbvf/igbvf"]),
    })
}

fn only_entry(dir: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut found = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    let entry = found
        .next()
        .with_context(|| format!("nothing named {prefix}* in {}", dir.display()))?;
    Ok(entry.path())
}
