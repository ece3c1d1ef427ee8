//! The size of the image.

use super::{Figure, Source};
use crate::tasks::build::{self, Profile};
use anyhow::{Context, Result};
use object::{Object, ObjectSection, SectionFlags, SectionKind, elf};
use std::fs;

/// What is loaded of the release build.
pub const SIZE: Source = Source {
    ids: &["B19"],
    measure: size,
};

/// All sections that are loaded and not zero: code, constants, relocations, data.
fn size() -> Result<Vec<Figure>> {
    let program = build::hypervisor(Profile::Release)?;
    let bytes =
        fs::read(&program.elf).with_context(|| format!("cannot read {}", program.elf.display()))?;
    let file = object::File::parse(bytes.as_slice()).context("no ELF file")?;
    let loaded = file.sections().filter(|section| {
        let flags = section.flags();
        let alloc = matches!(flags, SectionFlags::Elf { sh_flags, .. } if sh_flags.0 & elf::SHF_ALLOC.0 != 0);
        alloc && section.kind() != SectionKind::UninitializedData
    });
    let total: u64 = loaded.map(|section| section.size()).sum();
    Ok(vec![Figure {
        id: "B19",
        what: "image: code, constants, relocations and data of the release build",
        value: f64::from(u32::try_from(total)?) / 1024.0,
        unit: "KiB",
        bound: Some(256.0),
        peers: vec![("Bao", 92.0)],
    }])
}
