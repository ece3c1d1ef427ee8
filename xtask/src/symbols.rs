//! The functions of an ELF program, for the hypervisor's own backtraces.

use anyhow::{Context, Result};
use object::read::elf::ElfFile64;
use object::{LittleEndian, Object, ObjectSection, ObjectSymbol, SectionKind, SymbolKind};
use std::fs;
use std::path::Path;

/// Longest name that is kept, in bytes: generic code can have names of kilobytes.
const MAX_NAME: usize = 120;

/// Address and readable name of every function of the program at `elf`, which is linked below 4 GiB.
pub fn functions(elf: &Path) -> Result<Vec<(u32, String)>> {
    let bytes = fs::read(elf).with_context(|| format!("cannot read {}", elf.display()))?;
    let program = ElfFile64::<LittleEndian>::parse(bytes.as_slice())
        .with_context(|| format!("{} is no ELF file", elf.display()))?;
    let is_code = |symbol: &object::read::elf::ElfSymbol64<'_, '_, LittleEndian>| {
        let section = symbol.section_index();
        let section = section.and_then(|index| program.section_by_index(index).ok());
        section.is_some_and(|section| section.kind() == SectionKind::Text)
    };
    let mut functions: Vec<(u32, String)> = program
        .symbols()
        .filter(|s| matches!(s.kind(), SymbolKind::Text | SymbolKind::Unknown) && is_code(s))
        .filter_map(|symbol| {
            let name = symbol.name().ok().filter(|name| !name.starts_with('$'))?;
            Some((u32::try_from(symbol.address()).ok()?, readable(name)))
        })
        .filter(|(_, name)| !name.is_empty())
        .collect();
    functions.sort();
    Ok(functions)
}

/// Without mangling and hash, cut to [`MAX_NAME`].
fn readable(name: &str) -> String {
    let mut name = format!("{:#}", rustc_demangle::demangle(name));
    let end = (0..=MAX_NAME.min(name.len()))
        .rev()
        .find(|end| name.is_char_boundary(*end));
    name.truncate(end.unwrap_or(0));
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_readable_and_bounded() {
        assert_eq!(
            readable("_ZN6kernel5start17h0123456789abcdefE"),
            "kernel::start"
        );
        assert_eq!(readable("_RNvCs1234_7mycrate3foo"), "mycrate::foo");
        assert_eq!(readable(&"é".repeat(200)).len(), MAX_NAME);
    }
}
