//! From bytes to an [`Instruction`].

use super::{
    Alu, Bit, Instruction, LONGEST, Mode, Operation, Refused, Register, Segment, Source, Unary,
};

/// Reads the instruction at the start of `bytes`, of which more than [`LONGEST`] are not looked at.
pub fn decode(bytes: &[u8], mode: Mode) -> Result<Instruction, Refused> {
    let mut code = Code {
        bytes: &bytes[..bytes.len().min(LONGEST)],
        at: 0,
    };
    let prefixes = code.prefixes(mode)?;
    let opcode = code.byte()?;
    let mut decoder = Decoder {
        code,
        mode,
        prefixes,
        opcode,
    };
    let (size, operation) = decoder.operation()?;
    let string = matches!(operation, Operation::Fill | Operation::Copy);
    let prefixes = decoder.prefixes;
    if prefixes.lock && !is_lockable(&operation) {
        return Err(Refused::Unknown(0xf0));
    }
    Ok(Instruction {
        len: decoder.code.at as u8,
        size,
        operation,
        repeat: string && prefixes.repeat.is_some(),
        address_size: decoder.address_size(),
        segment: prefixes.segment,
    })
}

/// "LOCK—Assert LOCK# Signal Prefix", SDM volume 2A.
const fn is_lockable(operation: &Operation) -> bool {
    match operation {
        Operation::ToMemory(alu, _) => !matches!(alu, Alu::Cmp | Alu::Test),
        Operation::Bit(bit, _) => !matches!(bit, Bit::Test),
        Operation::Unary(_)
        | Operation::Exchange(_)
        | Operation::ExchangeAdd(_)
        | Operation::CompareExchange(_) => true,
        _ => false,
    }
}

struct Code<'a> {
    bytes: &'a [u8],
    at: usize,
}

#[derive(Clone, Copy)]
struct Prefixes {
    operand: bool,
    address: bool,
    lock: bool,
    repeat: Option<u8>,
    rex: u8,
    segment: Segment,
}

struct Decoder<'a> {
    code: Code<'a>,
    mode: Mode,
    prefixes: Prefixes,
    opcode: u8,
}

const REX_R: u8 = 1 << 2;
const REX_W: u8 = 1 << 3;

impl Code<'_> {
    fn byte(&mut self) -> Result<u8, Refused> {
        let byte = *self.bytes.get(self.at).ok_or(Refused::Short)?;
        self.at += 1;
        Ok(byte)
    }

    fn skip(&mut self, count: usize) -> Result<(), Refused> {
        self.at += count;
        if self.at > self.bytes.len() {
            return Err(Refused::Short);
        }
        Ok(())
    }

    /// A number of `size` bytes, with its sign.
    fn signed(&mut self, size: u8) -> Result<u64, Refused> {
        let mut value = 0;
        for byte in 0..size {
            value |= u64::from(self.byte()?) << (8 * byte);
        }
        let unused = 64 - 8 * u32::from(size);
        Ok(((value << unused) as i64 >> unused) as u64)
    }

    fn prefixes(&mut self, mode: Mode) -> Result<Prefixes, Refused> {
        let mut prefixes = Prefixes {
            operand: false,
            address: false,
            lock: false,
            repeat: None,
            rex: 0,
            segment: Segment::Flat(3),
        };
        loop {
            let byte = self.byte()?;
            let mut rex = 0;
            match byte {
                0x66 => prefixes.operand = true,
                0x67 => prefixes.address = true,
                0xf0 => prefixes.lock = true,
                0xf2 | 0xf3 => prefixes.repeat = Some(byte),
                0x64 => prefixes.segment = Segment::Fs,
                0x65 => prefixes.segment = Segment::Gs,
                // Without a meaning in 64-bit mode, where they do not undo FS and GS either.
                0x26 | 0x2e | 0x36 | 0x3e if mode == Mode::Long => {}
                0x26 | 0x2e | 0x36 | 0x3e => prefixes.segment = Segment::Flat(byte >> 3 & 3),
                0x40..=0x4f if mode == Mode::Long => rex = byte,
                _ => {
                    self.at -= 1;
                    return Ok(prefixes);
                }
            }
            // REX counts directly before the opcode only.
            prefixes.rex = rex;
        }
    }
}

impl Decoder<'_> {
    fn operation(&mut self) -> Result<(u8, Operation), Refused> {
        let opcode = self.opcode;
        Ok(match opcode {
            0x00..0x40 if opcode & 7 < 4 => {
                let alu = alu(opcode >> 3);
                let (reg, size) = (self.modrm()?, self.size());
                let register = self.register(reg, size);
                let operation = if opcode & 2 == 0 {
                    Operation::ToMemory(alu, Source::Register(register))
                } else {
                    Operation::ToRegister(alu, register)
                };
                (size, operation)
            }
            0x0f => return self.two_bytes(),
            0x63 if self.mode == Mode::Long => {
                let reg = self.modrm()?;
                let width = self.wide();
                let to = self.register(reg, width);
                // Without REX.W it is a MOV of as many bytes as it has.
                let size = width.min(4);
                (
                    size,
                    Operation::Load {
                        to,
                        width,
                        signed: true,
                    },
                )
            }
            0x82 if self.mode == Mode::Long => return Err(self.unknown()),
            0x80..=0x83 => {
                let (reg, size) = (self.modrm()?, self.size());
                let number = if opcode == 0x81 { size.min(4) } else { 1 };
                let source = Source::Immediate(self.code.signed(number)?);
                (size, Operation::ToMemory(alu(reg), source))
            }
            0x84 | 0x85 => {
                let (reg, size) = (self.modrm()?, self.size());
                let source = Source::Register(self.register(reg, size));
                (size, Operation::ToMemory(Alu::Test, source))
            }
            0x86 | 0x87 => {
                let (reg, size) = (self.modrm()?, self.size());
                (size, Operation::Exchange(self.register(reg, size)))
            }
            0x88 | 0x89 => {
                let (reg, size) = (self.modrm()?, self.size());
                let source = Source::Register(self.register(reg, size));
                (size, Operation::Store(source))
            }
            0x8a | 0x8b => {
                let (reg, size) = (self.modrm()?, self.size());
                (size, self.load(reg, size))
            }
            // The address is behind the opcode.
            0xa0..=0xa3 => {
                let size = self.size();
                self.code.skip(self.address_size().into())?;
                let rax = Register {
                    number: 0,
                    high: false,
                };
                let operation = if opcode & 2 == 0 {
                    Operation::Load {
                        to: rax,
                        width: size,
                        signed: false,
                    }
                } else {
                    Operation::Store(Source::Register(rax))
                };
                (size, operation)
            }
            0xa4 | 0xa5 => (self.size(), Operation::Copy),
            0xaa | 0xab => (self.size(), Operation::Fill),
            0xc6 | 0xc7 => {
                let (reg, size) = (self.modrm()?, self.size());
                if reg != 0 {
                    return Err(self.unknown());
                }
                let source = Source::Immediate(self.code.signed(size.min(4))?);
                (size, Operation::Store(source))
            }
            0xf6 | 0xf7 => {
                let (reg, size) = (self.modrm()?, self.size());
                let operation = match reg {
                    0 | 1 => {
                        let source = Source::Immediate(self.code.signed(size.min(4))?);
                        Operation::ToMemory(Alu::Test, source)
                    }
                    2 => Operation::Unary(Unary::Not),
                    3 => Operation::Unary(Unary::Neg),
                    _ => return Err(self.unknown()),
                };
                (size, operation)
            }
            0xfe | 0xff => {
                let (reg, size) = (self.modrm()?, self.size());
                let operation = match reg {
                    0 => Unary::Inc,
                    1 => Unary::Dec,
                    _ => return Err(self.unknown()),
                };
                (size, Operation::Unary(operation))
            }
            _ => return Err(self.unknown()),
        })
    }

    fn two_bytes(&mut self) -> Result<(u8, Operation), Refused> {
        self.opcode = self.code.byte()?;
        Ok(match self.opcode {
            0xb0 | 0xb1 => {
                let (reg, size) = (self.modrm()?, self.size());
                (size, Operation::CompareExchange(self.register(reg, size)))
            }
            0xb6 | 0xb7 | 0xbe | 0xbf => {
                let reg = self.modrm()?;
                let width = self.wide();
                let to = self.register(reg, width);
                let size = if self.opcode & 1 == 0 { 1 } else { 2 };
                let signed = self.opcode >= 0xbe;
                (size, Operation::Load { to, width, signed })
            }
            0xba => {
                let (reg, size) = (self.modrm()?, self.wide());
                let bit = match reg {
                    4 => Bit::Test,
                    5 => Bit::Set,
                    6 => Bit::Reset,
                    7 => Bit::Complement,
                    _ => return Err(self.unknown()),
                };
                let number = self.code.byte()? & (8 * size - 1);
                (size, Operation::Bit(bit, number))
            }
            0xc0 | 0xc1 => {
                let (reg, size) = (self.modrm()?, self.size());
                (size, Operation::ExchangeAdd(self.register(reg, size)))
            }
            // MOVNTI, which has no prefixes of this kind.
            0xc3 if !self.prefixes.operand && self.prefixes.repeat.is_none() => {
                let (reg, size) = (self.modrm()?, self.wide());
                let source = Source::Register(self.register(reg, size));
                (size, Operation::Store(source))
            }
            _ => return Err(self.unknown()),
        })
    }

    fn load(&self, reg: u8, size: u8) -> Operation {
        Operation::Load {
            to: self.register(reg, size),
            width: size,
            signed: false,
        }
    }

    const fn unknown(&self) -> Refused {
        Refused::Unknown(self.opcode)
    }

    /// Operand size of an opcode whose lowest bit says whether it is of bytes.
    const fn size(&self) -> u8 {
        if self.opcode & 1 == 0 { 1 } else { self.wide() }
    }

    const fn wide(&self) -> u8 {
        if self.prefixes.rex & REX_W != 0 {
            8
        } else if self.prefixes.operand {
            2
        } else {
            4
        }
    }

    const fn address_size(&self) -> u8 {
        match (self.mode, self.prefixes.address) {
            (Mode::Long, false) => 8,
            (Mode::Long, true) | (Mode::Protected, false) => 4,
            (Mode::Protected, true) => 2,
        }
    }

    /// Without any REX, bytes 4 to 7 are the upper halves of 0 to 3.
    const fn register(&self, reg: u8, size: u8) -> Register {
        if size == 1 && self.prefixes.rex == 0 && reg >= 4 {
            return Register {
                number: reg - 4,
                high: true,
            };
        }
        let upper = if self.prefixes.rex & REX_R != 0 { 8 } else { 0 };
        Register {
            number: reg | upper,
            high: false,
        }
    }

    /// ModRM of a memory operand, with all that belongs to its address, which is skipped; its `reg` field.
    fn modrm(&mut self) -> Result<u8, Refused> {
        let modrm = self.code.byte()?;
        let (kind, reg, rm) = (modrm >> 6, modrm >> 3 & 7, modrm & 7);
        let displacement = if kind == 3 {
            return Err(self.unknown());
        } else if self.address_size() == 2 {
            match (kind, rm) {
                (0, 6) | (2, _) => 2,
                (1, _) => 1,
                _ => 0,
            }
        } else {
            let base = if rm == 4 { self.code.byte()? & 7 } else { rm };
            match (kind, base) {
                (0, 5) | (2, _) => 4,
                (1, _) => 1,
                _ => 0,
            }
        };
        self.code.skip(displacement)?;
        Ok(reg)
    }
}

const fn alu(bits: u8) -> Alu {
    match bits & 7 {
        0 => Alu::Add,
        1 => Alu::Or,
        2 => Alu::Adc,
        3 => Alu::Sbb,
        4 => Alu::And,
        5 => Alu::Sub,
        6 => Alu::Xor,
        _ => Alu::Cmp,
    }
}
