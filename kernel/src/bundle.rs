//! What follows the hypervisor in its image: configuration, guest files, symbols.
//!
//! All numbers are little endian, all offsets count from the start of the bundle:
//!
//! | offset | |
//! |---|---|
//! | 0 | magic `SLUICEB1` |
//! | 8 | version, u32 |
//! | 12 | number of entries, u32 |
//! | 16 | total length, u64 |
//! | 24 | entries of 72 bytes: kind u32, length of the name u32, name (48 bytes, zero padded), offset u64, length u64 |
//!
//! Files start at multiples of 4 KiB. [`Bundle`] checks every bound when it is made, so that reading cannot fail later;
//! [`Builder`] is the other direction, for the host.

use crate::config::{Machine, record};
use alloc::vec::Vec;
use core::fmt;

/// First bytes of a bundle.
pub const MAGIC: [u8; 8] = *b"SLUICEB1";
/// Version of the format.
pub const VERSION: u32 = 3;
/// Longest name of an entry, in bytes.
pub const MAX_NAME: usize = 48;
/// Most entries.
pub const MAX_ENTRIES: usize = 256;
/// Alignment of files, from the start of the bundle.
pub const FILE_ALIGN: usize = 4096;

const HEADER_LEN: usize = 24;
const ENTRY_LEN: usize = 24 + MAX_NAME;

/// What an entry holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Kind {
    /// [`Machine`], as [`record`] has it.
    Config = 1,
    /// A kernel, payload or initrd, under the name that the configuration gives it.
    File = 2,
    /// The hypervisor's own symbols, for backtraces.
    Symbols = 3,
}

/// Why bytes are no bundle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BundleError {
    /// Shorter than a header.
    Short,
    /// Does not start with [`MAGIC`].
    Magic,
    /// Another version.
    Version(u32),
    /// More entries than [`MAX_ENTRIES`], or than the bundle has room for.
    Entries(u32),
    /// The header says more bytes than there are.
    Length(u64),
    /// This entry has an unknown kind.
    Kind(u32, u32),
    /// This entry's name is too long, not UTF-8 or not zero padded.
    Name(u32),
    /// This entry lies outside the bundle, or over its tables.
    Bounds(u32),
    /// A file that is not aligned.
    Align(u32),
    /// Two entries of one kind and name.
    Twice(u32),
    /// There is no configuration.
    NoConfig,
    /// The configuration is not one.
    Config,
}

/// A checked bundle in memory.
#[derive(Clone, Copy, Debug)]
pub struct Bundle<'a> {
    bytes: &'a [u8],
    entries: usize,
}

/// One entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: &'a str,
    /// Offset of `data` from the start of the bundle.
    pub offset: usize,
    /// Its bytes.
    pub data: &'a [u8],
}

impl<'a> Bundle<'a> {
    /// Checks the bundle at the start of `bytes`; what follows its length is ignored.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BundleError> {
        let header = bytes.get(..HEADER_LEN).ok_or(BundleError::Short)?;
        if !header.starts_with(&MAGIC) {
            return Err(BundleError::Magic);
        }
        let version = read_u32(header, 8);
        if version != VERSION {
            return Err(BundleError::Version(version));
        }
        let count = read_u32(header, 12);
        let total = read_u64(header, 16);
        let bytes = usize::try_from(total)
            .ok()
            .and_then(|len| bytes.get(..len))
            .ok_or(BundleError::Length(total))?;
        let entries = count as usize;
        if entries > MAX_ENTRIES || HEADER_LEN + entries * ENTRY_LEN > bytes.len() {
            return Err(BundleError::Entries(count));
        }
        let bundle = Self { bytes, entries };
        for i in 0..entries {
            let entry = bundle.entry(i)?;
            let earlier = (0..i).filter_map(|j| bundle.entry(j).ok());
            if earlier
                .into_iter()
                .any(|e| (e.kind, e.name) == (entry.kind, entry.name))
            {
                return Err(BundleError::Twice(i as u32));
            }
        }
        Ok(bundle)
    }

    fn entry(&self, index: usize) -> Result<Entry<'a>, BundleError> {
        let number = index as u32;
        let record = &self.bytes[HEADER_LEN + index * ENTRY_LEN..][..ENTRY_LEN];
        let kind = match read_u32(record, 0) {
            1 => Kind::Config,
            2 => Kind::File,
            3 => Kind::Symbols,
            other => return Err(BundleError::Kind(number, other)),
        };
        let field = &record[8..8 + MAX_NAME];
        let name = field
            .split_at_checked(read_u32(record, 4) as usize)
            .filter(|(_, padding)| padding.iter().all(|&b| b == 0))
            .and_then(|(name, _)| core::str::from_utf8(name).ok())
            .ok_or(BundleError::Name(number))?;
        let tables = HEADER_LEN + self.entries * ENTRY_LEN;
        let offset = usize::try_from(read_u64(record, 8 + MAX_NAME)).ok();
        let len = usize::try_from(read_u64(record, 16 + MAX_NAME)).ok();
        let (offset, len) = offset.zip(len).ok_or(BundleError::Bounds(number))?;
        let data = self
            .bytes
            .get(offset..)
            .and_then(|rest| rest.get(..len))
            .filter(|_| offset >= tables)
            .ok_or(BundleError::Bounds(number))?;
        if kind == Kind::File && !offset.is_multiple_of(FILE_ALIGN) {
            return Err(BundleError::Align(number));
        }
        Ok(Entry {
            kind,
            name,
            offset,
            data,
        })
    }

    /// All entries.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'a>> + '_ {
        (0..self.entries).filter_map(|i| self.entry(i).ok())
    }

    /// The file `name`.
    pub fn file(&self, name: &str) -> Option<&'a [u8]> {
        let mut files = self.entries().filter(|e| e.kind == Kind::File);
        files.find(|e| e.name == name).map(|e| e.data)
    }

    /// The symbol table, if it was packed.
    pub fn symbols(&self) -> Option<&'a [u8]> {
        self.entries()
            .find(|e| e.kind == Kind::Symbols)
            .map(|e| e.data)
    }

    /// The configuration. It is well-formed, nothing more: [`crate::config::validate`] knows the rules.
    pub fn config(&self) -> Result<Machine, BundleError> {
        let entry = self.entries().find(|e| e.kind == Kind::Config);
        let data = entry.ok_or(BundleError::NoConfig)?.data;
        record::read(data).ok_or(BundleError::Config)
    }

    /// Length of the whole bundle in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }
}

/// Makes a bundle.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    entries: Vec<(Kind, alloc::string::String, Vec<u8>)>,
}

/// Why a bundle cannot be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BuildError {
    /// A name of more than [`MAX_NAME`] bytes.
    NameTooLong(usize),
    /// An entry of the same kind and name is there.
    Twice,
    /// More than [`MAX_ENTRIES`].
    Full,
}

impl Builder {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the configuration, without its host parts.
    pub fn config(&mut self, machine: &Machine) -> Result<(), BuildError> {
        self.add(Kind::Config, "config", record::write(machine))
    }

    /// Adds a file.
    pub fn file(&mut self, name: &str, data: Vec<u8>) -> Result<(), BuildError> {
        self.add(Kind::File, name, data)
    }

    /// Adds the symbol table.
    pub fn symbols(&mut self, data: Vec<u8>) -> Result<(), BuildError> {
        self.add(Kind::Symbols, "symbols", data)
    }

    fn add(&mut self, kind: Kind, name: &str, data: Vec<u8>) -> Result<(), BuildError> {
        if name.len() > MAX_NAME {
            return Err(BuildError::NameTooLong(name.len()));
        }
        if self.entries.iter().any(|(k, n, _)| *k == kind && n == name) {
            return Err(BuildError::Twice);
        }
        if self.entries.len() == MAX_ENTRIES {
            return Err(BuildError::Full);
        }
        self.entries.push((kind, name.into(), data));
        Ok(())
    }

    /// The bundle, a multiple of [`FILE_ALIGN`] long.
    pub fn finish(self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        out.resize(HEADER_LEN + self.entries.len() * ENTRY_LEN, 0);
        for (i, (kind, name, data)) in self.entries.iter().enumerate() {
            out.resize(out.len().next_multiple_of(FILE_ALIGN), 0);
            let offset = out.len() as u64;
            out.extend_from_slice(data);
            let record = &mut out[HEADER_LEN + i * ENTRY_LEN..][..ENTRY_LEN];
            record[..4].copy_from_slice(&(*kind as u32).to_le_bytes());
            record[4..8].copy_from_slice(&(name.len() as u32).to_le_bytes());
            record[8..8 + name.len()].copy_from_slice(name.as_bytes());
            record[8 + MAX_NAME..][..8].copy_from_slice(&offset.to_le_bytes());
            record[16 + MAX_NAME..].copy_from_slice(&(data.len() as u64).to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(FILE_ALIGN), 0);
        let total = out.len() as u64;
        out[16..HEADER_LEN].copy_from_slice(&total.to_le_bytes());
        out
    }
}

/// `at` lies inside `bytes`: all callers read from records of a fixed length.
fn read_u32(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn read_u64(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

impl fmt::Display for BundleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => f.write_str("shorter than its header"),
            Self::Magic => f.write_str("no bundle follows the image"),
            Self::Version(version) => write!(f, "version {version}, expected {VERSION}"),
            Self::Entries(count) => write!(f, "{count} entries do not fit"),
            Self::Length(len) => write!(f, "{len} bytes are not all there"),
            Self::Kind(entry, kind) => write!(f, "entry {entry} has the unknown kind {kind}"),
            Self::Name(entry) => write!(f, "entry {entry} has no proper name"),
            Self::Bounds(entry) => write!(f, "entry {entry} lies outside"),
            Self::Align(entry) => write!(f, "entry {entry} is not 4 KiB aligned"),
            Self::Twice(entry) => write!(f, "entry {entry} is there twice"),
            Self::NoConfig => f.write_str("there is no configuration"),
            Self::Config => f.write_str("the configuration cannot be read"),
        }
    }
}

#[cfg(test)]
mod tests;
