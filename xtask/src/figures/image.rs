//! The size of the image, for each machine.

use super::{Figure, Source};
use crate::arch::Arch;
use crate::tasks::build::{self, Profile};
use anyhow::{Context, Result};
use object::{Object, ObjectSection, SectionFlags, SectionKind, elf};
use std::fs;

/// What of the release build is loaded, and what it zeroes.
pub const SIZE: Source = Source {
    ids: &["B19", "B19.code", "B19.constants", "B19.data", "B19.zeroed"],
    measure: size,
};

/// The same of the image for x86_64.
pub const SIZE_X86_64: Source = Source {
    ids: &[
        "B19.x86_64",
        "B19.x86_64.code",
        "B19.x86_64.constants",
        "B19.x86_64.data",
        "B19.x86_64.zeroed",
    ],
    measure: size_x86_64,
};

/// Bytes of the sections that are part of the image in memory.
#[derive(Clone, Copy, Default)]
struct Sizes {
    code: u64,
    constants: u64,
    data: u64,
    zeroed: u64,
}

/// Code; constants with what is relocated among them; data. Zeroed memory and stacks are no bytes of the image.
fn sizes(arch: Arch) -> Result<Sizes> {
    let program = build::hypervisor(arch, Profile::Release)?;
    let bytes =
        fs::read(&program.elf).with_context(|| format!("cannot read {}", program.elf.display()))?;
    let file = object::File::parse(bytes.as_slice()).context("no ELF file")?;
    let mut sizes = Sizes::default();
    for section in file.sections() {
        let SectionFlags::Elf { sh_flags, .. } = section.flags() else {
            continue;
        };
        if sh_flags.0 & elf::SHF_ALLOC.0 == 0 {
            continue;
        }
        let part = match (section.name()?, section.kind()) {
            (_, SectionKind::UninitializedData) => &mut sizes.zeroed,
            (_, SectionKind::Text) => &mut sizes.code,
            (".data", _) => &mut sizes.data,
            _ => &mut sizes.constants,
        };
        *part += section.size();
    }
    Ok(sizes)
}

fn size() -> Result<Vec<Figure>> {
    let mut figures = figures(SIZE.ids, &sizes(Arch::Aarch64)?, 256.0);
    figures[0].peers = vec![("Bao", 92.0)];
    Ok(figures)
}

fn size_x86_64() -> Result<Vec<Figure>> {
    Ok(figures(SIZE_X86_64.ids, &sizes(Arch::X86_64)?, 320.0))
}

fn figures(ids: &[&'static str], sizes: &Sizes, bound: f64) -> Vec<Figure> {
    let whole = sizes.code + sizes.constants + sizes.data;
    let parts = [
        (
            "image: code, constants and data of the release build",
            whole,
            Some(bound),
        ),
        ("of it code", sizes.code, None),
        ("of it constants and relocations", sizes.constants, None),
        ("of it data", sizes.data, None),
        (
            "beside it: early heap, first tables, stacks of the CPU that boots",
            sizes.zeroed,
            None,
        ),
    ];
    let figure = |(&id, (what, bytes, bound)): (&&'static str, (_, u64, _))| Figure {
        id,
        what,
        value: bytes as f64 / 1024.0,
        unit: "KiB",
        bound,
        peers: Vec::new(),
    };
    ids.iter().zip(parts).map(figure).collect()
}
