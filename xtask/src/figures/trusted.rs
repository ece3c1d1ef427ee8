//! How much runs at EL2: lines and `unsafe` blocks of the sources that the compiler says it read for the image.

use super::{Figure, Source};
use crate::arch::Arch;
use crate::project;
use crate::tasks::build::{self, Profile};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// Lines and `unsafe` of what is ours in the image; crates of others are not in it.
pub const TRUSTED: Source = Source {
    ids: &["B20.lines", "B20.unsafe_blocks", "B20.unsafe_items"],
    measure: trusted,
};

fn trusted() -> Result<Vec<Figure>> {
    let program = build::hypervisor(Arch::Aarch64, Profile::Release)?;
    let mut total = Count::default();
    for path in sources(&program.elf)? {
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        total.add(count(&text));
    }
    let figure = |id, what, value: u32, unit, peers| Figure {
        id,
        what,
        value: value.into(),
        unit,
        bound: None,
        peers,
    };
    Ok(vec![
        figure(
            "B20.lines",
            "code at EL2 without comments, blank lines and tests",
            total.lines,
            "lines",
            vec![("Bao", 12_400.0)],
        ),
        figure(
            "B20.unsafe_blocks",
            "code at EL2",
            total.unsafe_blocks,
            "unsafe blocks",
            Vec::new(),
        ),
        figure(
            "B20.unsafe_items",
            "code at EL2",
            total.unsafe_items,
            "unsafe functions, impls and attributes",
            Vec::new(),
        ),
    ])
}

/// What cargo's own list beside the program names: Rust and assembly, but for build scripts.
fn sources(elf: &Path) -> Result<Vec<PathBuf>> {
    let list = elf.with_extension("d");
    let text =
        fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
    let (_, files) = text.split_once(": ").context("no list of sources")?;
    let ours = |path: &PathBuf| {
        let code = path
            .extension()
            .is_some_and(|extension| extension == "rs" || extension == "S");
        code && path.starts_with(project::root()) && !path.ends_with("build.rs")
    };
    // A space in a path is written `\ ` there.
    let files = files.replace("\\ ", "\0");
    let paths = files
        .split_whitespace()
        .map(|path| PathBuf::from(path.replace('\0', " ")));
    let mut paths: Vec<PathBuf> = paths.filter(ours).collect();
    paths.sort();
    paths.dedup();
    ensure!(
        paths.len() > 10,
        "{} names {} sources",
        list.display(),
        paths.len()
    );
    Ok(paths)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Count {
    lines: u32,
    unsafe_blocks: u32,
    unsafe_items: u32,
}

impl Count {
    fn add(&mut self, other: Self) {
        self.lines += other.lines;
        self.unsafe_blocks += other.unsafe_blocks;
        self.unsafe_items += other.unsafe_items;
    }
}

fn count(source: &str) -> Count {
    let code = without_tests(bare(source));
    let mut count = Count {
        lines: code.lines().filter(|line| !line.trim().is_empty()).count() as u32,
        ..Count::default()
    };
    let word = |c: char| c.is_alphanumeric() || c == '_';
    for (at, _) in code.match_indices("unsafe") {
        let rest = &code[at + "unsafe".len()..];
        if code[..at].ends_with(word) || rest.starts_with(word) {
            continue;
        }
        match rest.trim_start().chars().next() {
            Some('{') => count.unsafe_blocks += 1,
            _ => count.unsafe_items += 1,
        }
    }
    count
}

/// The source without its comments; what stands in strings and characters is replaced by `_`.
fn bare(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let len = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(len) = literal(rest, code.chars().next_back()) {
            code.extend(rest[..len].chars().map(|c| if c == '\n' { c } else { '_' }));
            len
        } else {
            code.push(c);
            c.len_utf8()
        };
        rest = &rest[len..];
    }
    code
}

/// Length of the block comment at the start of `text`; they nest.
fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let step = match () {
            () if rest.starts_with("/*") => {
                depth += 1;
                2
            }
            () if rest.starts_with("*/") => {
                depth -= 1;
                2
            }
            () => rest.chars().next().map_or(1, char::len_utf8),
        };
        at += step;
        if depth == 0 {
            return at;
        }
    }
    at
}

/// Length of the string or character at the start of `text`, if one starts here; `before` is what stands before it.
fn literal(text: &str, before: Option<char>) -> Option<usize> {
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let raw = text.trim_start_matches('r');
    let hashes = raw.len() - raw.trim_start_matches('#').len();
    let open = text.len() - raw.len() + hashes;
    if text.starts_with('r') && !in_word && text[open..].starts_with('"') && open == hashes + 1 {
        let close = format!("\"{}", "#".repeat(hashes));
        let end = text[open + 1..].find(&close);
        return Some(end.map_or(text.len(), |end| open + 1 + end + close.len()));
    }
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let mut chars = text.char_indices().skip(1);
    if quote == '\'' {
        // A lifetime is a quote with a name and no second quote behind its first letter.
        let mut ahead = chars.clone();
        let (first, second) = (ahead.next()?.1, ahead.next()?.1);
        if first != '\\' && second != '\'' {
            return None;
        }
    }
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            c if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    Some(text.len())
}

/// Bare code without the items under `#[cfg(test)]`.
fn without_tests(code: String) -> String {
    const TEST: &str = "#[cfg(test)]";
    let mut kept = String::with_capacity(code.len());
    let mut rest = code.as_str();
    while let Some(at) = rest.find(TEST) {
        kept += &rest[..at];
        rest = &rest[at + TEST.len()..];
        let mut depth = 0;
        let end = rest.char_indices().find_map(|(at, c)| {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            (depth == 0 && matches!(c, '}' | ';')).then_some(at + 1)
        });
        rest = &rest[end.unwrap_or(rest.len())..];
    }
    kept + rest
}

#[cfg(test)]
mod tests {
    use super::{Count, bare, count};

    #[test]
    fn comments_strings_and_tests_are_no_code() {
        let source = r##"
            //! unsafe { }
            /* unsafe { /* nested */ } */
            const A: &str = "unsafe { // \" }";
            const B: &str = r#"unsafe { " }"#;
            const C: char = '"'; const D: u8 = b'\'';
            fn f<'a>(x: &'a str) -> &'a str { unsafe { g() } } // unsafe {}

            unsafe impl Sync for X {}
            #[cfg(test)]
            mod tests { fn t() { unsafe { g() } } }
            #[cfg(test)]
            use crate::x;
            const E: bool = UNSAFE || not_unsafe;
        "##;
        let expected = Count {
            lines: 6,
            unsafe_blocks: 1,
            unsafe_items: 1,
        };
        assert_eq!(count(source), expected, "{}", bare(source));
    }

    #[test]
    fn a_file_that_ends_in_the_middle_ends() {
        for source in [
            "/* a",
            "\"a",
            "r#\"a\"",
            "'",
            "'a",
            "b'",
            "'\\",
            "#[cfg(test)]",
        ] {
            count(source);
        }
    }
}
