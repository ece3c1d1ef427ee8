//! The files that a configuration names: small guests that the build makes, Debian's kernel, and files on disk.

use crate::arch::Arch;
use crate::project;
use anyhow::{Context, Result};
use kernel::config::{Content, File, ImageHeader, Machine, Partition, Platform};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Debian's kernel for the machine, as `kernel =` names it.
pub const DEBIAN_KERNEL: &str = "debian:kernel";
/// The same with pages of 16 KiB, of arm64 only.
pub const DEBIAN_KERNEL_16K: &str = "debian:kernel-16k";
/// An initial RAM disk with busybox, the modules of an NVMe disk, and a shell, as `initrd =` names it.
pub const DEBIAN_SHELL: &str = "debian:shell";

/// First bytes of an ELF file.
const ELF: &[u8] = b"\x7fELF";

/// Where the files that we make ourselves lie, by the name that a configuration uses, once they are made.
pub type Made = BTreeMap<String, PathBuf>;

/// The end of a binary's name in the package for x86_64 whose scenario is one of AArch64's: Cargo wants another name. In
/// configurations it has the same.
const SHARED: &str = "_x86_64";

/// The name of a binary's small guest in configurations.
pub fn payload(binary: &str) -> &str {
    binary.strip_suffix(SHARED).unwrap_or(binary)
}

/// The names of all small guests for a platform: one file each, or named by their package.
pub fn payloads(platform: Platform) -> BTreeSet<String> {
    let package = project::root().join(match platform {
        Platform::Aarch64 => "xtask/payloads",
        Platform::X86_64 => "xtask/payloads/x86_64",
    });
    let entries = fs::read_dir(package.join("src/bin"));
    let stem = |path: PathBuf| Some(path.file_stem()?.to_str()?.to_owned());
    let files = entries.into_iter().flatten().flatten();
    let files = files.filter_map(|entry| stem(entry.path()));
    let manifest = fs::read_to_string(package.join("Cargo.toml"));
    let manifest: toml::Table = toml::from_str(&manifest.unwrap_or_default()).unwrap_or_default();
    let named = manifest.get("bin").and_then(|bins| bins.as_array());
    let named = named.into_iter().flatten();
    let named = named.filter_map(|bin| Some(payload(bin.get("name")?.as_str()?).to_owned()));
    files.chain(named).collect()
}

/// Whether `partition` names `file` as a small guest that the build makes, not as a path.
pub fn is_payload_name(partition: &Partition, file: &str) -> bool {
    partition.payload.as_deref() == Some(file) && !file.contains(['/', '.'])
}

/// Whether `file` is one that set-up fetches.
pub fn is_debian(file: &str, arch: Arch) -> bool {
    [DEBIAN_KERNEL, DEBIAN_SHELL].contains(&file)
        || (file == DEBIAN_KERNEL_16K && arch == Arch::Aarch64)
}

/// Where `file` lies on disk, seen from a configuration in `folder`.
pub fn on_disk(folder: &Path, file: &str) -> PathBuf {
    folder.join(file)
}

/// What is known of every file that `machine` names.
pub fn facts(machine: &Machine, folder: &Path, made: &Made, arch: Arch) -> Vec<File> {
    let payloads = payloads(arch.platform());
    let mut files: BTreeMap<&str, Content> = BTreeMap::new();
    for partition in &machine.partitions {
        for name in partition.files() {
            let ours = match is_payload_name(partition, name) {
                true => payloads.contains(name),
                false => is_debian(name, arch),
            };
            let content = match (made.get(name), ours) {
                (Some(path), _) => content(path),
                (None, true) => Some(Content::NotBuilt),
                (None, false) => content(&on_disk(folder, name)),
            };
            if let Some(content) = content {
                files.insert(name, content);
            }
        }
    }
    files
        .into_iter()
        .map(|(name, content)| File {
            name: name.to_owned(),
            content,
        })
        .collect()
}

/// The bytes of the file at `path` as they go into a bundle: an ELF file becomes an arm64 `Image`.
pub fn bytes(path: &Path) -> Result<Vec<u8>> {
    let file = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    match file.starts_with(ELF) {
        true => super::payload::image(&file).with_context(|| path.display().to_string()),
        false => Ok(file),
    }
}

/// What is known of the file at `path`; `None` if it cannot be read.
fn content(path: &Path) -> Option<Content> {
    let file = fs::File::open(path).ok()?;
    let metadata = file.metadata().ok().filter(fs::Metadata::is_file)?;
    let mut head = Vec::new();
    file.take(ImageHeader::LEN as u64)
        .read_to_end(&mut head)
        .ok()?;
    // An ELF file that cannot become an `Image` is told by its own header that it is none.
    if head.starts_with(ELF)
        && let Ok(image) = bytes(path)
    {
        return Some(Content::Bytes {
            len: image.len() as u64,
            image: ImageHeader::parse(&image),
        });
    }
    Some(Content::Bytes {
        len: metadata.len(),
        image: ImageHeader::parse(&head),
    })
}
