//! Where in a configuration something is, and what a node of the device tree is called.

use core::fmt;

/// One step into a configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// A key of a table.
    Key(&'static str),
    /// An element of an array.
    Index(usize),
}

/// A place in a configuration, such as `partition[1].device[0].guest`. Small, because every rule makes some.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Path {
    /// From the root: 1 and up are [`KEYS`], [`Path::INDEX`] and up indices, 0 is past the end.
    steps: [u16; Path::DEPTH],
}

/// What keys there are in paths.
const KEYS: [&str; 37] = [
    "sriov",
    "vfs",
    "manages_vfs",
    "ats",
    "reserved_memory",
    "viommu",
    "machine",
    "partition",
    "name",
    "memory",
    "base",
    "cpus",
    "kernel",
    "initrd",
    "cmdline",
    "payload",
    "tables",
    "restart",
    "on_fault",
    "action",
    "threshold",
    "device",
    "address",
    "guest",
    "dma",
    "dma_window",
    "size",
    "qemu",
    "board",
    "devices",
    "disk",
    "id",
    "file",
    "serials",
    "dtb",
    "reserved",
    "function",
];

impl Path {
    const DEPTH: usize = 6;
    const INDEX: u16 = 64;

    /// The whole file.
    pub const ROOT: Self = Self {
        steps: [0; Self::DEPTH],
    };

    /// Partition `index`.
    pub fn partition(index: usize) -> Self {
        Self::ROOT.key("partition").index(index)
    }

    /// The value of `name` in here.
    ///
    /// # Panics
    /// No configuration has such a key, or one as deep as the limit.
    #[inline(never)]
    pub fn key(self, name: &'static str) -> Self {
        match KEYS.iter().position(|key| *key == name) {
            Some(key) => self.step(key as u16 + 1),
            None => panic!("{name} is no key"),
        }
    }

    /// Element `index` of here. Those past 2^16 are told as one.
    #[inline(never)]
    pub fn index(self, index: usize) -> Self {
        self.step(
            index
                .saturating_add(Self::INDEX.into())
                .min(u16::MAX.into()) as u16,
        )
    }

    fn step(mut self, step: u16) -> Self {
        let len = self.steps.iter().position(|step| *step == 0);
        self.steps[len.unwrap_or(Self::DEPTH)] = step;
        self
    }

    /// The steps from the root.
    pub fn steps(&self) -> impl Iterator<Item = Step> {
        self.steps.iter().map_while(|&step| match step {
            0 => None,
            index if index >= Self::INDEX => Some(Step::Index(usize::from(index - Self::INDEX))),
            key => Some(Step::Key(KEYS[usize::from(key) - 1])),
        })
    }
}

/// The path of a node, or its end if it is too long for a message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name {
    bytes: [u8; Name::LEN],
    len: usize,
    cut: bool,
}

impl Name {
    const LEN: usize = 48;

    /// The name of `path`.
    pub fn new(path: &str) -> Self {
        let mut start = path.len().saturating_sub(Self::LEN);
        while !path.is_char_boundary(start) {
            start += 1;
        }
        let end = &path.as_bytes()[start..];
        let mut bytes = [0; Self::LEN];
        bytes[..end.len()].copy_from_slice(end);
        Self {
            bytes,
            len: end.len(),
            cut: start != 0,
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = core::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default();
        write!(f, "{}{text}", if self.cut { ".." } else { "" })
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ROOT {
            return f.write_str("configuration");
        }
        for (i, step) in self.steps().enumerate() {
            match step {
                Step::Key(name) if i == 0 => f.write_str(name)?,
                Step::Key(name) => write!(f, ".{name}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}
