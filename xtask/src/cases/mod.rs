//! The machine tests: one file a subject, each with its list of [`Case`]s. A case that cannot run has failed.

mod astray;
mod baseline;
mod boot;
mod demo;
mod edu;
mod figures;
mod layout;
pub mod lines;
mod linux;
mod lives;
mod misuse;
mod panic;
mod platform;
mod qtest;
mod sriov;
mod stream_table;
mod viommu;
mod walk;
pub mod x86;

use crate::arch::Arch;
use crate::qemu::{Guest, Machine};
use crate::setup::kit::{self, Tool};
use crate::tasks::build::{self, Profile, Program};
use crate::tasks::image;
use anyhow::{Context as _, Result};
use std::cell::RefCell;
use std::io::Read;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

/// One machine test.
#[derive(Clone, Copy)]
pub struct Case {
    /// `subject::behaviour`.
    pub name: &'static str,
    /// Only with `--long`.
    pub long: bool,
    /// The test.
    pub run: fn(&Context) -> Result<()>,
}

/// All of them, in the order in which they run.
pub fn all() -> Vec<Case> {
    [
        baseline::CASES,
        boot::CASES,
        demo::CASES,
        linux::CASES,
        edu::CASES,
        misuse::CASES,
        viommu::CASES,
        sriov::CASES,
        lives::CASES,
        astray::CASES,
        panic::CASES,
        walk::CASES,
        platform::CASES,
        qtest::CASES,
        figures::CASES,
        x86::CASES,
    ]
    .concat()
}

/// What a case has to work with.
pub struct Context {
    folder: PathBuf,
    notes: RefCell<Vec<String>>,
}

/// No machine of a case runs longer than this, whatever it waits for, but where the case itself says so.
const CASE_LIMIT: Duration = Duration::from_secs(900);

impl Context {
    /// Evidence goes to `folder`.
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            notes: RefCell::default(),
        }
    }

    /// Says `text` below the case's line, whatever comes of it.
    pub fn note(&self, text: &str) {
        self.notes.borrow_mut().push(text.to_owned());
    }

    /// What was noted.
    pub fn notes(&self) -> Vec<String> {
        self.notes.take()
    }

    /// QEMU for AArch64.
    pub fn qemu(&self) -> Result<Tool> {
        kit::qemu(Arch::Aarch64)
    }

    /// The hypervisor for AArch64 without a bundle.
    pub fn hypervisor(&self) -> Result<Program> {
        static BUILT: OnceLock<Result<Program, String>> = OnceLock::new();
        let built = BUILT.get_or_init(|| {
            build::hypervisor(Arch::Aarch64, Profile::Release).map_err(|error| format!("{error:#}"))
        });
        built.clone().map_err(anyhow::Error::msg)
    }

    /// Starts `machine`.
    pub fn start(&self, machine: &Machine) -> Result<Guest> {
        self.start_for(machine, CASE_LIMIT)
    }

    /// The same for a case that takes longer than all others, with a limit of its own.
    pub fn start_for(&self, machine: &Machine, limit: Duration) -> Result<Guest> {
        Guest::start(&kit::qemu(machine.arch)?, machine, &self.folder, limit)
    }

    /// Packs the configuration `text` and describes the machine that boots it. Paths in it count from the case's folder,
    /// where [`Context::file`] writes.
    pub fn pack(&self, text: &str) -> Result<Machine> {
        self.pack_for(Arch::Aarch64, text)
    }

    /// The same for either machine.
    pub fn pack_for(&self, arch: Arch, text: &str) -> Result<Machine> {
        let path = self.file("machine.toml", text.as_bytes())?;
        let image = self.folder.join("machine.img");
        let packed = image::pack(&path, Some(image.clone()), arch, Profile::Release)?;
        let packed = packed.context("the configuration has problems, see above")?;
        let qemu = packed.checked.machine.machine.qemu.as_ref();
        let qemu = qemu.context("the configuration has no [machine.qemu]")?;
        let mut machine = Machine::of_config(qemu, image, &self.folder, &self.folder)?;
        machine.arch = arch;
        Ok(machine)
    }

    /// Writes a file into the case's folder.
    pub fn file(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.folder.join(name);
        std::fs::create_dir_all(&self.folder)?;
        std::fs::write(&path, bytes)?;
        Ok(path)
    }
}

/// A case of this module's files.
const fn case(name: &'static str, run: fn(&Context) -> Result<()>) -> Case {
    Case {
        name,
        long: false,
        run,
    }
}

/// Other bytes at every run, so that nothing left over from an earlier one can pass for them.
fn random(len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("cannot read /dev/urandom")?;
    Ok(bytes)
}

/// By the host's own tool, as guests do it with busybox.
fn sha256(bytes: &[u8]) -> Result<String> {
    let text = duct::cmd!("sha256sum")
        .stdin_bytes(bytes)
        .read()
        .context("cannot run sha256sum")?;
    Ok(text
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned())
}
