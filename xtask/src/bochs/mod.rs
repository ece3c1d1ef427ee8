//! Bochs: the machine with VMX that QEMU is not. It has no IOMMU.

use crate::setup::kit;
use crate::tasks::build;
use anyhow::{Context, Result, bail, ensure};
use object::LittleEndian;
use object::elf::FileHeader64;
use object::read::elf::{FileHeader, ProgramHeader};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SECTOR: usize = 512;
/// What one read of the first sector brings.
const CHUNK: usize = 64 * SECTOR;
/// Bytes of a cylinder: 16 heads of 63 sectors.
const CYLINDER: usize = 16 * 63 * SECTOR;

/// MiB of RAM.
const MEMORY: u32 = 512;

/// The CPUs of a machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cpus {
    /// Bochs's name for what they are.
    pub model: &'static str,
    /// How many.
    pub count: usize,
}

/// Runs `program`, an ELF image for x86_64, on `cpus` until the machine is off, and says what it wrote to its serial port. What
/// there is of it stays in `folder`.
pub fn run(program: &Path, cpus: Cpus, folder: &Path, limit: Duration) -> Result<String> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let disk = folder.join("disk.img");
    let cylinders = write_disk(program, folder, &disk)?;
    let (tool, share) = kit::bochs()?;
    let serial = folder.join("serial.txt");
    let settings = format!(
        "megs: {MEMORY}\n\
         cpu: model={model}, count={count}, ips=50000000\n\
         romimage: file={share}/bochs/BIOS-bochs-latest\n\
         vgaromimage: file={share}/vgabios/vgabios.bin\n\
         ata0-master: type=disk, path={disk}, mode=flat, cylinders={cylinders}, heads=16, spt=63\n\
         boot: disk\n\
         com1: enabled=1, mode=file, dev={serial}\n\
         display_library: rfb, options=\"timeout=0\"\n\
         log: {log}\n\
         clock: sync=none\n",
        model = cpus.model,
        count = cpus.count,
        share = share.display(),
        disk = disk.display(),
        serial = serial.display(),
        log = folder.join("bochs.log").display(),
    );
    let file = folder.join("bochsrc.txt");
    fs::write(&file, settings)?;
    // Debian's has the debugger, which waits to be told to go on.
    let go = folder.join("go.txt");
    fs::write(&go, "c\n")?;
    let mut command = tool.command();
    command.args(["-q", "-f"]).arg(&file).arg("-rc").arg(&go);
    fs::write(folder.join("command.txt"), format!("{command:?}\n"))?;
    let out = fs::File::create(folder.join("bochs.txt"))?;
    command
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out);
    let mut child = command.spawn().context("cannot start Bochs")?;
    let end = Instant::now() + limit;
    // To switch the machine off is an error to Bochs, so its status says nothing.
    while child.try_wait()?.is_none() {
        if Instant::now() > end {
            child.kill()?;
            child.wait()?;
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let console = fs::read(&serial).unwrap_or_default();
    Ok(String::from_utf8_lossy(&console).into_owned())
}

/// A disk with the first sector and `program` behind it; how many cylinders it has.
fn write_disk(program: &Path, folder: &Path, disk: &Path) -> Result<usize> {
    let elf = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let flat = build::flatten(&elf)?;
    let chunks = flat.len().div_ceil(CHUNK);
    let sector = assemble(entry(&elf)?, chunks, folder)?;
    let mut bytes = fs::read(sector)?;
    ensure!(
        bytes.len() == SECTOR,
        "a first sector of {} bytes",
        bytes.len()
    );
    bytes.extend_from_slice(&flat);
    bytes.resize(SECTOR + chunks * CHUNK, 0);
    let cylinders = bytes.len().div_ceil(CYLINDER);
    bytes.resize(cylinders * CYLINDER, 0);
    fs::write(disk, bytes)?;
    Ok(cylinders)
}

/// Where PVH enters `elf`: the word of its note (`XEN_ELFNOTE_PHYS32_ENTRY`, of `Xen`).
fn entry(elf: &[u8]) -> Result<u32> {
    const PHYS32_ENTRY: u32 = 18;
    let header = FileHeader64::<LittleEndian>::parse(elf).context("no 64-bit ELF file")?;
    let endian = header.endian()?;
    for segment in header.program_headers(endian, elf)? {
        let Some(mut notes) = segment.notes(endian, elf)? else {
            continue;
        };
        while let Some(note) = notes.next()? {
            if note.name() == b"Xen" && note.n_type(endian).0 == PHYS32_ENTRY {
                let word = note.desc().first_chunk().context("a short PVH note")?;
                return Ok(u32::from_le_bytes(*word));
            }
        }
    }
    bail!("no PVH note")
}

/// The first sector, made by the C compiler's assembler and linker.
fn assemble(entry: u32, chunks: usize, folder: &Path) -> Result<PathBuf> {
    let (source, sector) = (folder.join("sector.S"), folder.join("sector.bin"));
    fs::write(&source, include_str!("sector.S"))?;
    let out = Command::new("cc")
        .args([
            "-m32",
            "-nostdlib",
            "-static",
            "-no-pie",
            "-Wl,--build-id=none",
        ])
        .args(["-Wl,-Ttext=0x7c00", "-Wl,--oformat=binary"])
        .args([format!("-DENTRY={entry}"), format!("-DCHUNKS={chunks}")])
        .arg("-o")
        .args([&sector, &source])
        .output()
        .context("cannot run cc: install a C compiler for x86")?;
    ensure!(
        out.status.success(),
        "cc cannot make a first sector: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(sector)
}
