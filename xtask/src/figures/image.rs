//! The size of the image.

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

/// Bytes of the sections that are part of the image in memory.
#[derive(Clone, Copy, Default)]
struct Sizes {
    code: u64,
    constants: u64,
    data: u64,
    zeroed: u64,
}

/// Code; constants with what is relocated among them; data. Zeroed memory and stacks are no bytes of the image.
fn size() -> Result<Vec<Figure>> {
    let program = build::hypervisor(Arch::Aarch64, Profile::Release)?;
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
    let kib = |bytes: u64| bytes as f64 / 1024.0;
    let figure = |id, what, bytes| Figure {
        id,
        what,
        value: kib(bytes),
        unit: "KiB",
        bound: None,
        peers: Vec::new(),
    };
    Ok(vec![
        Figure {
            bound: Some(256.0),
            peers: vec![("Bao", 92.0)],
            ..figure(
                "B19",
                "image: code, constants and data of the release build",
                sizes.code + sizes.constants + sizes.data,
            )
        },
        figure("B19.code", "of it code", sizes.code),
        figure(
            "B19.constants",
            "of it constants and relocations",
            sizes.constants,
        ),
        figure("B19.data", "of it data", sizes.data),
        figure(
            "B19.zeroed",
            "beside it: early heap, first tables, stacks of the CPU that boots",
            sizes.zeroed,
        ),
    ])
}
