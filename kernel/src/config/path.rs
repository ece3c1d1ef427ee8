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

macro_rules! keys {
    ($($key:ident = $name:literal,)*) => {
        /// A key of a table, as far as rules name it.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[expect(missing_docs, reason = "each is what its name says")]
        pub enum Key {
            $($key,)*
        }

        const NAMES: &[&str] = &[$($name,)*];
    };
}

keys! {
    Sriov = "sriov",
    Vfs = "vfs",
    ManagesVfs = "manages_vfs",
    Ats = "ats",
    ReservedMemory = "reserved_memory",
    Viommu = "viommu",
    Machine = "machine",
    Partition = "partition",
    Name = "name",
    Memory = "memory",
    Base = "base",
    Cpus = "cpus",
    Kernel = "kernel",
    Initrd = "initrd",
    Cmdline = "cmdline",
    Payload = "payload",
    Tables = "tables",
    Restart = "restart",
    OnFault = "on_fault",
    Action = "action",
    Threshold = "threshold",
    Device = "device",
    Address = "address",
    Guest = "guest",
    Dma = "dma",
    DmaWindow = "dma_window",
    Size = "size",
    Qemu = "qemu",
    Board = "board",
    Devices = "devices",
    Disk = "disk",
    Id = "id",
    File = "file",
    Serials = "serials",
    Dtb = "dtb",
    Reserved = "reserved",
    Function = "function",
}

impl Key {
    /// As a configuration has it.
    pub const fn name(self) -> &'static str {
        NAMES[self as usize]
    }
}

/// A place in a configuration, such as `partition[1].device[0].guest`. One word, because every rule makes some.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Path(u64);

impl Path {
    /// Of a step, the first of them lowest: 1 and up are keys, [`Path::INDEX`] and up indices, 0 is past the end.
    const BITS: u32 = 12;
    const INDEX: u64 = 64;

    /// The whole file.
    pub const ROOT: Self = Self(0);

    /// Partition `index`.
    pub fn partition(index: usize) -> Self {
        Self::ROOT.key(Key::Partition).index(index)
    }

    /// The value of `key` in here. No configuration is deeper than five steps.
    #[inline(never)]
    pub fn key(self, key: Key) -> Self {
        self.step(key as u64 + 1)
    }

    /// Element `index` of here. Those past the 4,000th are told as one.
    #[inline(never)]
    pub fn index(self, index: usize) -> Self {
        let last = (1 << Self::BITS) - 1;
        self.step((index as u64).saturating_add(Self::INDEX).min(last))
    }

    fn step(self, step: u64) -> Self {
        let taken = u64::BITS - self.0.leading_zeros();
        let at = taken.next_multiple_of(Self::BITS);
        debug_assert!(at + Self::BITS <= u64::BITS, "{self} is as deep as can be");
        Self(self.0 | step << at)
    }

    /// The steps from the root.
    pub fn steps(&self) -> impl Iterator<Item = Step> {
        let steps = (0..u64::BITS).step_by(Self::BITS as usize);
        let steps = steps.map(|at| self.0 >> at & ((1 << Self::BITS) - 1));
        steps.map_while(|step| match step {
            0 => None,
            index if index >= Self::INDEX => Some(Step::Index((index - Self::INDEX) as usize)),
            key => Some(Step::Key(NAMES[key as usize - 1])),
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

impl fmt::Debug for Path {
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
