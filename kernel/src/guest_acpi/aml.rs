//! AML, as far as these tables need it (ACPI 6.5, §20.2): named objects, devices, packages, resource templates.

use super::table::Fields;
use iommu::addr::{Gpa, Span};

/// What is written between [`Aml::open`] and [`Aml::close`], which gives it its length.
pub struct Block(usize);

/// Byte code.
#[derive(Default)]
pub struct Aml(pub Fields);

/// Opcodes of what has a length (§20.2.5).
const SCOPE: &[u8] = &[0x10];
const BUFFER: &[u8] = &[0x11];
const PACKAGE: &[u8] = &[0x12];
const DEVICE: &[u8] = &[0x5b, 0x82];

/// Resource descriptors (§6.4): tag and length.
const MEMORY_32_FIXED: &[u8] = &[0x86, 9, 0];
const DWORD_ADDRESS: &[u8] = &[0x87, 23, 0];
const WORD_ADDRESS: &[u8] = &[0x88, 13, 0];
const INTERRUPT: &[u8] = &[0x89, 6, 0];
const END: &[u8] = &[0x79, 0];
/// Both ends are fixed (§6.4.3.5), the type's own flags behind it.
const FIXED: u8 = 0x0c;

impl Aml {
    fn open(&mut self, opcode: &[u8]) -> Block {
        self.0.bytes(opcode);
        Block(self.0.0.len())
    }

    /// PkgLength counts itself (§20.2.4).
    fn close(&mut self, block: Block) {
        let len = self.0.0.len() - block.0;
        if len < 0x3f {
            self.0.0.insert(block.0, len as u8 + 1);
            return;
        }
        let whole = len + if len < 0xffe { 2 } else { 3 };
        let more = if len < 0xffe { 1 } else { 2 };
        self.0.0.insert(block.0, (more << 6) | (whole & 0xf) as u8);
        for byte in 0..usize::from(more) {
            let bits = (whole >> (4 + 8 * byte)) as u8;
            self.0.0.insert(block.0 + 1 + byte, bits);
        }
    }

    /// `Scope (\_SB)`.
    pub fn system_bus(&mut self) -> Block {
        let block = self.open(SCOPE);
        self.0.bytes(b"\\_SB_");
        block
    }

    /// A device.
    pub fn device(&mut self, name: &[u8; 4]) -> Block {
        let block = self.open(DEVICE);
        self.0.bytes(name);
        block
    }

    /// A package of `count` elements.
    pub fn package(&mut self, count: u8) -> Block {
        let block = self.open(PACKAGE);
        self.0.u8(count);
        block
    }

    /// The end of a scope, a device or a package.
    pub fn end(&mut self, block: Block) {
        self.close(block);
    }

    /// `Name (NAME, ..)`; its value follows.
    pub fn name(&mut self, name: &[u8; 4]) -> &mut Self {
        self.0.u8(8).bytes(name);
        self
    }

    /// A number, as short as it can be.
    pub fn number(&mut self, value: u32) {
        match value {
            0 | 1 => self.0.u8(value as u8),
            2..0x100 => self.0.u8(0x0a).u8(value as u8),
            0x100..0x1_0000 => self.0.u8(0x0b).u16(value as u16),
            _ => self.0.u8(0x0c).u32(value),
        };
    }

    /// Text.
    pub fn text(&mut self, value: &[u8]) {
        self.0.u8(0x0d).bytes(value).u8(0);
    }

    /// `Name (_CRS, ResourceTemplate () { .. })` of what `resources` writes.
    pub fn resources(&mut self, resources: &Fields) {
        let len = (resources.0.len() + END.len()) as u32;
        self.name(b"_CRS");
        let block = self.open(BUFFER);
        self.number(len);
        self.0.bytes(&resources.0).bytes(END);
        self.close(block);
    }
}

/// A PNP identifier as a number (`EISAID`): three letters of five bits each, then the digits, high byte first.
pub const fn eisa_id(id: &[u8; 7]) -> u32 {
    let mut value = 0;
    let mut at = 0;
    while at < 3 {
        value = value << 5 | (id[at] - 0x40) as u32;
        at += 1;
    }
    while at < 7 {
        let digit = match id[at] {
            digit @ b'0'..=b'9' => digit - b'0',
            letter => letter - b'A' + 10,
        };
        value = value << 4 | digit as u32;
        at += 1;
    }
    value.swap_bytes()
}

/// Memory32Fixed, read and written (§6.4.3.4).
pub fn memory(to: &mut Fields, span: Span<Gpa>) {
    to.bytes(MEMORY_32_FIXED)
        .u8(1)
        .u32(span.base.0 as u32)
        .u32(span.len as u32);
}

/// An interrupt that is active while it is high, and nobody else's (§6.4.3.6).
#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
pub fn interrupt(to: &mut Fields, intid: u32) {
    const CONSUMER: u8 = 1;
    to.bytes(INTERRUPT).u8(CONSUMER).u8(1).u32(intid);
}

/// The same, but for an interrupt that comes with an edge.
#[cfg(any(target_arch = "x86_64", test))]
pub fn edge_interrupt(to: &mut Fields, intid: u32) {
    const CONSUMER_EDGE: u8 = 0b11;
    to.bytes(INTERRUPT).u8(CONSUMER_EDGE).u8(1).u32(intid);
}

/// Ports from `first` on, decoded in 16 bits (§6.4.2.5).
pub fn ports(to: &mut Fields, first: u16, count: u8) {
    const IO: u8 = 0x47;
    const DECODE_16: u8 = 1;
    to.u8(IO)
        .u8(DECODE_16)
        .u16(first)
        .u16(first)
        .u8(1)
        .u8(count);
}

/// Bus numbers 0 to `last` (§6.4.3.5.3).
pub fn buses(to: &mut Fields, last: u16) {
    const BUS_NUMBERS: u8 = 2;
    to.bytes(WORD_ADDRESS)
        .bytes(&[BUS_NUMBERS, FIXED, 0])
        .u16(0)
        .u16(0)
        .u16(last)
        .u16(0)
        .u16(last + 1);
}

/// A window of memory that is not cached, at the same address on both sides (§6.4.3.5.2).
pub fn window(to: &mut Fields, span: Span<Gpa>) {
    const MEMORY: u8 = 0;
    const READ_WRITE: u8 = 1;
    to.bytes(DWORD_ADDRESS)
        .bytes(&[MEMORY, FIXED, READ_WRITE])
        .u32(0)
        .u32(span.base.0 as u32)
        .u32(span.end().0 as u32 - 1)
        .u32(0)
        .u32(span.len as u32);
}
