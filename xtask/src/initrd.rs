//! Initial RAM disks for Linux guests: a cpio archive ("newc", Linux `Documentation/driver-api/early-userspace/buffer-format.rst`)
//! of busybox, modules, programs, and an init script.

use crate::setup::linux::Linux;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// What `/init` does once mounts and modules are in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Init<'a> {
    /// Runs these lines of shell, then powers off.
    Script(&'a str),
    /// A shell on the console; powers off when it ends.
    Shell,
}

/// An archive with the modules of an NVMe disk that boots to `init`.
pub fn build(linux: &Linux, init: Init<'_>) -> Result<Vec<u8>> {
    build_with(linux, &[], &[], init)
}

/// The same with `programs` by their names in `/bin`, and with `more` modules behind the others.
pub fn build_with(
    linux: &Linux,
    programs: &[(&str, &Path)],
    more: &[PathBuf],
    init: Init<'_>,
) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for dir in ["bin", "dev", "proc", "sys", "tmp", "modules"] {
        archive.add(dir, Kind::Folder, &[]);
    }
    archive.add("dev/console", Kind::Console, &[]);
    let read =
        |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    archive.add("bin/busybox", Kind::Program, &read(&linux.busybox)?);
    for (name, path) in programs {
        archive.add(&format!("bin/{name}"), Kind::Program, &read(path)?);
    }
    let mut load = String::new();
    for module in linux.modules.iter().chain(more) {
        let name = module
            .file_name()
            .context("a module without a name")?
            .to_string_lossy();
        archive.add(&format!("modules/{name}"), Kind::File, &read(module)?);
        load += &format!("insmod /modules/{name} || echo \"init: {name} does not load\"\n");
    }
    archive.add("init", Kind::Program, script(&load, init).as_bytes());
    Ok(archive.finish())
}

/// Waits until the console has sent everything (`tcsetattr` with TCSADRAIN): power does not wait for the last line.
pub const DRAIN: &str = "stty sane";

fn script(load: &str, init: Init<'_>) -> String {
    let work = match init {
        Init::Script(lines) => lines,
        Init::Shell => "echo 'init: a shell; `exit` powers off'\nsetsid cttyhack sh",
    };
    format!(
        "#!/bin/busybox sh\n\
         /bin/busybox --install -s /bin\n\
         export PATH=/bin HOME=/tmp\n\
         mount -t proc proc /proc\nmount -t sysfs sys /sys\nmount -t devtmpfs dev /dev\nmount -t tmpfs tmp /tmp\n\
         {load}\
         {work}\n\
         {DRAIN}\n\
         poweroff -f\n"
    )
}

#[derive(Clone, Copy)]
enum Kind {
    Folder,
    File,
    Program,
    Console,
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn add(&mut self, name: &str, kind: Kind, data: &[u8]) {
        // File type and permissions of stat(2); the console is character device 5:1.
        let (mode, links, device) = match kind {
            Kind::Folder => (0o040_755, 2, (0, 0)),
            Kind::File => (0o100_644, 1, (0, 0)),
            Kind::Program => (0o100_755, 1, (0, 0)),
            Kind::Console => (0o020_600, 1, (5, 1)),
        };
        self.entries += 1;
        let len = u32::try_from(data.len()).expect("a file below 4 GiB");
        let name_len = u32::try_from(name.len() + 1).expect("a short name");
        // inode, mode, uid, gid, links, mtime, size, device of the file (2), device that it is (2), name, checksum.
        let fields = [
            self.entries,
            mode,
            0,
            0,
            links,
            0,
            len,
            0,
            0,
            device.0,
            device.1,
            name_len,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    /// Header with name, and data, each end on a multiple of four bytes.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", Kind::File, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_is_laid_out_as_newc() {
        let mut archive = Archive::default();
        archive.add("dev/console", Kind::Console, &[]);
        // Written out by hand from the format's table.
        let expected = "070701\
            00000001000021800000000000000000000000010000000000000000\
            000000000000000000000005000000010000000c00000000dev/console\0";
        assert_eq!(
            String::from_utf8_lossy(&archive.bytes[..expected.len()]),
            expected
        );
        assert_eq!(archive.bytes.len() % 4, 0);
    }

    #[test]
    fn every_entry_starts_on_four_bytes_and_the_trailer_ends_it() {
        let mut archive = Archive::default();
        archive.add("a", Kind::File, b"12345");
        let second = archive.bytes.len();
        archive.add("bb", Kind::Program, b"");
        assert_eq!(&archive.bytes[second..second + 6], b"070701");
        assert_eq!(second % 4, 0);
        let bytes = archive.finish();
        assert!(bytes.windows(10).any(|part| part == b"TRAILER!!!"));
    }

    #[test]
    fn init_powers_off_after_its_script() {
        let text = script("insmod /modules/x.ko\n", Init::Script("echo done"));
        let order = [
            "mount -t proc",
            "insmod /modules/x.ko",
            "echo done",
            DRAIN,
            "poweroff -f",
        ]
        .map(|part| text.find(part));
        assert!(
            order.iter().all(Option::is_some) && order.is_sorted(),
            "{text}"
        );
    }
}
