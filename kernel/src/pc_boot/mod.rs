//! A partition's files on x86_64: what goes where in its RAM, and with which registers its first vCPU starts.
//!
//! [`plan`] looks at the file's own words and chooses: a Linux bzImage by the 64-bit boot protocol ([`bzimage`]), an ELF
//! program by PVH or else by Multiboot 1 ([`program`], [`pvh`], [`multiboot`]). Files are anybody's: every offset is checked, every part
//! lies in RAM, and no two overlap. Low memory, page by page:
//!
//! | at | what |
//! |---|---|
//! | 0x6000 | GDT |
//! | 0x7000 | zero page, `hvm_start_info` or Multiboot information, with memory map and modules |
//! | 0x8000 | command line |
//! | 0xa000 | page tables that map 4 GiB to itself, for 64-bit entry: six pages |
//! | 0xe0000 | ACPI tables, see [`guest_map::x86_64::ACPI`](crate::guest_map::x86_64::ACPI) |
//! | 0xffff0 | what resets the partition, for a guest that goes to the reset vector |

pub mod bzimage;
pub mod multiboot;
pub mod program;
pub mod pvh;
#[cfg(test)]
mod tests;

use crate::guest_map::x86_64::{ACPI, CONVENTIONAL_END, RESET_VECTOR};
use crate::vdev::vpower;
use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::fmt;
use iommu::addr::{Gpa, Span};

/// The GDT.
const GDT: Gpa = Gpa(0x6000);
/// What tells the guest of everything else.
const INFORMATION: Gpa = Gpa(0x7000);
const COMMAND_LINE: Gpa = Gpa(0x8000);
/// Room for the command line, its end included.
const COMMAND_LINE_MAX: usize = 0x2000;
const PAGE_TABLES: Gpa = Gpa(0xa000);
const PAGE: u64 = 0x1000;
/// Up to here low memory is the above; files come behind 1 MiB.
const HIGH: Gpa = Gpa(0x10_0000);

/// What a partition starts with.
#[derive(Clone, Copy, Debug)]
pub struct Guest<'a> {
    /// Its RAM, from address 0 on, lowest first, without overlap.
    pub memory: &'a [Span<Gpa>],
    /// Its command line.
    pub command_line: &'a str,
    /// Its initial RAM disk, or first module; empty if there is none.
    pub initrd: &'a [u8],
    /// ACPI tables, made to be at [`ACPI`], the RSDP first.
    pub acpi: &'a [u8],
}

/// Bytes for RAM. All else in it is zero.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part<'a> {
    /// Where they go.
    pub at: Gpa,
    /// What goes there.
    pub bytes: Cow<'a, [u8]>,
}

/// How the first vCPU starts. Interrupts are off; segments are flat, with 0x10 for code and 0x18 for data of the GDT at
/// [`Plan::gdt`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// In 64-bit mode.
    Long {
        /// First instruction.
        rip: u64,
        /// Zero page.
        rsi: u64,
        /// Top of the page tables.
        cr3: u64,
    },
    /// In protected mode of 32 bits, without paging.
    Protected {
        /// First instruction.
        eip: u32,
        /// Magic number, if the protocol has one.
        eax: u32,
        /// Information.
        ebx: u32,
    },
}

/// All of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan<'a> {
    /// In no order, and without overlap.
    pub parts: Vec<Part<'a>>,
    /// The first vCPU.
    pub start: Start,
    /// The GDT.
    pub gdt: Span<Gpa>,
}

/// Why a file cannot be started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// It ends within what it says it has.
    Short,
    /// Neither a bzImage nor an ELF program.
    Magic,
    /// A bzImage of a boot protocol before 2.12; its version.
    Version(u16),
    /// A bzImage without a 64-bit entry point.
    No64Bit,
    /// A bzImage that is too large where it wants to be, and cannot be elsewhere.
    Fixed,
    /// An ELF file for another machine, or one that is not complete in itself.
    Elf,
    /// An ELF program with neither a PVH note nor a Multiboot header.
    NoProtocol,
    /// A Multiboot program that requires something unknown; its flags.
    Multiboot(u32),
    /// The command line has no room; its length.
    CommandLine(usize),
    /// More entries of the memory map than there is room for.
    Memory,
    /// Something does not fit into RAM, or would lie on something else, at this address.
    Overlap(Gpa),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => f.write_str("the kernel is cut off"),
            Self::Magic => f.write_str("the kernel is neither a bzImage nor an ELF program"),
            Self::Version(version) => write!(f, "boot protocol {version:#x} is older than 2.12"),
            Self::No64Bit => f.write_str("the bzImage has no 64-bit entry point"),
            Self::Fixed => f.write_str("the bzImage has no room where it has to be"),
            Self::Elf => f.write_str("the ELF file is no x86 program that is complete in itself"),
            Self::NoProtocol => {
                f.write_str("the ELF program has no PVH note and no Multiboot header")
            }
            Self::Multiboot(flags) => {
                write!(f, "Multiboot flags {flags:#x} ask for what is not there")
            }
            Self::CommandLine(len) => write!(f, "the command line has {len} bytes"),
            Self::Memory => f.write_str("the memory is in too many pieces"),
            Self::Overlap(at) => write!(f, "no room at {at}"),
        }
    }
}

/// Decides what goes where for `kernel`.
pub fn plan<'a>(kernel: &'a [u8], guest: &Guest<'a>) -> Result<Plan<'a>, Refused> {
    let mut layout = Layout::new(guest)?;
    let start = if kernel.starts_with(b"\x7fELF") {
        program::start(kernel, guest, &mut layout)?
    } else {
        bzimage::start(kernel, guest, &mut layout)?
    };
    Ok(Plan {
        parts: layout.parts,
        start,
        gdt: Span {
            base: GDT,
            len: GDT_ENTRIES.len() as u64 * 8,
        },
    })
}

/// Nothing, nothing, code and data, all of the first 4 GiB; code is of 64 bits or of 32.
const GDT_ENTRIES: [u64; 4] = [0, 0, CODE_64, DATA];
const CODE_64: u64 = 0x00af_9b00_0000_ffff;
const CODE_32: u64 = 0x00cf_9b00_0000_ffff;
const DATA: u64 = 0x00cf_9300_0000_ffff;

/// Code of 16 bits for the reset vector, which writes to the port that the FADT names. Linux does not do so itself where ACPI is
/// of reduced hardware: it asks EFI for a restart (`efi_reboot_required`), and goes to the vector where there is none.
const RESET_CODE: [u8; 9] = {
    let [low, high] = vpower::RESET.to_le_bytes();
    // mov $value, %al; mov $port, %dx; out %al, %dx; 1: hlt; jmp 1b
    let value = vpower::RESET_VALUE;
    [0xb0, value, 0xba, low, high, 0xee, 0xf4, 0xeb, 0xfd]
};

/// What a range of memory is, by the numbers of E820, PVH and Multiboot alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Ram = 1,
    Acpi = 3,
}

/// What is where so far.
struct Layout<'a> {
    memory: &'a [Span<Gpa>],
    parts: Vec<Part<'a>>,
    taken: Vec<Span<Gpa>>,
}

impl<'a> Layout<'a> {
    /// With what every guest has.
    fn new(guest: &Guest<'a>) -> Result<Self, Refused> {
        let mut layout = Self {
            memory: guest.memory,
            parts: Vec::new(),
            taken: Vec::new(),
        };
        let len = guest.command_line.len();
        if len >= COMMAND_LINE_MAX || guest.command_line.bytes().any(|byte| byte == 0) {
            return Err(Refused::CommandLine(len));
        }
        layout.put(COMMAND_LINE, guest.command_line.as_bytes())?;
        if guest.acpi.len() as u64 > RESET_VECTOR.0 - ACPI.base.0 {
            return Err(Refused::Overlap(ACPI.base));
        }
        layout.put(ACPI.base, guest.acpi)?;
        layout.put(RESET_VECTOR, &RESET_CODE)?;
        // All of low memory is ours.
        layout.taken.clear();
        layout.taken.push(Span {
            base: Gpa(0),
            len: HIGH.0,
        });
        Ok(layout)
    }

    /// A part in low memory.
    fn low(&mut self, at: Gpa, bytes: Vec<u8>) {
        self.parts.push(Part {
            at,
            bytes: Cow::Owned(bytes),
        });
    }

    /// Takes `len` bytes at `at`, which have to be free RAM.
    fn claim(&mut self, at: Gpa, len: u64) -> Result<(), Refused> {
        let Some(span) = Span::<Gpa>::new(at, len) else {
            return Err(Refused::Overlap(at));
        };
        let is_ram = self.memory.iter().any(|ram| ram.covers(&span));
        if len != 0 && (!is_ram || self.taken.iter().any(|other| other.overlaps(&span))) {
            return Err(Refused::Overlap(at));
        }
        self.taken.push(span);
        Ok(())
    }

    fn put(&mut self, at: Gpa, bytes: &'a [u8]) -> Result<(), Refused> {
        self.claim(at, bytes.len() as u64)?;
        if !bytes.is_empty() {
            self.parts.push(Part {
                at,
                bytes: Cow::Borrowed(bytes),
            });
        }
        Ok(())
    }

    /// Puts `bytes` as high as there is room for them, below `limit` and 4 GiB, at a page.
    fn put_high(&mut self, bytes: &'a [u8], limit: u64) -> Result<Gpa, Refused> {
        let len = bytes.len() as u64;
        let limit = limit.min(1 << 32);
        // The highest place is below the end of RAM, or below something that is there already. The sorts of `core` are made for
        // long lists, and several KiB of code.
        let mut tried = u64::MAX;
        loop {
            let ends = self.memory.iter().map(|ram| ram.base.0 + ram.len);
            let starts = self.taken.iter().map(|span| span.base.0);
            let tops = ends.chain(starts).map(|top| top.min(limit));
            let Some(top) = tops.filter(|top| *top < tried).max() else {
                break;
            };
            tried = top;
            let Some(base) = top.checked_sub(len) else {
                continue;
            };
            let at = Gpa(base & !(PAGE - 1));
            if self.put(at, bytes).is_ok() {
                return Ok(at);
            }
        }
        Err(Refused::Overlap(Gpa(limit)))
    }

    /// The GDT, with code of 64 bits or of 32.
    fn gdt(&mut self, code: u64) {
        let mut entries = GDT_ENTRIES;
        entries[2] = code;
        let bytes = entries.iter().flat_map(|entry| entry.to_le_bytes());
        self.low(GDT, bytes.collect());
    }

    /// The memory map. What is left out is nothing.
    fn map(&self) -> Vec<(Span<Gpa>, Kind)> {
        let mut map = Vec::new();
        let mut add = |from: u64, to: u64, kind| {
            if from < to {
                let base = Gpa(from);
                map.push((
                    Span {
                        base,
                        len: to - from,
                    },
                    kind,
                ));
            }
        };
        for ram in self.memory {
            let (start, end) = (ram.base.0, ram.base.0 + ram.len);
            add(start, end.min(CONVENTIONAL_END.0), Kind::Ram);
            let acpi = ACPI.base.0 + ACPI.len;
            add(start.max(ACPI.base.0), end.min(acpi), Kind::Acpi);
            add(start.max(HIGH.0), end, Kind::Ram);
        }
        map
    }
}

/// Little-endian fields at offsets of a record.
struct Record(Vec<u8>);

impl Record {
    fn new(len: usize) -> Self {
        Self(alloc::vec![0; len])
    }

    fn put<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        self.0[at..at + N].copy_from_slice(&bytes);
    }
}

/// `N` bytes at `at`, if they are there.
fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Refused> {
    let rest = bytes.get(at..).ok_or(Refused::Short)?;
    rest.first_chunk().copied().ok_or(Refused::Short)
}
