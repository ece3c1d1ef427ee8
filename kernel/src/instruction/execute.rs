//! What an [`Instruction`] does to registers and flags ("EFLAGS Register", Intel SDM volume 1).

use super::{Alu, Bit, Completion, Instruction, Operation, Register, Source, Unary};

pub(super) const RAX: usize = 0;
const RCX: usize = 1;
pub(super) const RSI: usize = 6;
pub(super) const RDI: usize = 7;

const CARRY: u64 = 1 << 0;
const PARITY: u64 = 1 << 2;
const ADJUST: u64 = 1 << 4;
const ZERO: u64 = 1 << 6;
const SIGN: u64 = 1 << 7;
const DIRECTION: u64 = 1 << 10;
const OVERFLOW: u64 = 1 << 11;
const STATUS: u64 = CARRY | PARITY | ADJUST | ZERO | SIGN | OVERFLOW;

/// All bits of `size` bytes: 1, 2, 4 or 8.
pub(super) const fn mask(size: u8) -> u64 {
    u64::MAX >> (64 - 8 * size as u32)
}

impl Instruction {
    /// Carries it out, where `loaded` is what memory held if it [`loads`](Instruction::loads). `flags`: RFLAGS.
    pub fn complete(&self, registers: &mut [u64; 16], flags: &mut u64, loaded: u64) -> Completion {
        let size = self.size;
        let memory = loaded & mask(size);
        let store = match self.operation {
            Operation::Load { to, width, signed } => {
                let value = if signed { extend(memory, size) } else { memory };
                write(registers, to, width, value);
                None
            }
            Operation::Store(source) => Some(self.value(registers, source)),
            Operation::ToMemory(alu, source) => {
                let other = self.value(registers, source);
                let result = compute(alu, memory, other, size, flags);
                (!matches!(alu, Alu::Cmp | Alu::Test)).then_some(result)
            }
            Operation::ToRegister(alu, register) => {
                let other = read(registers, register);
                let result = compute(alu, other, memory, size, flags);
                if alu != Alu::Cmp {
                    write(registers, register, size, result);
                }
                None
            }
            Operation::Unary(unary) => Some(compute_one(unary, memory, size, flags)),
            Operation::Exchange(register) => {
                let other = read(registers, register);
                write(registers, register, size, memory);
                Some(other)
            }
            Operation::ExchangeAdd(register) => {
                let other = read(registers, register);
                let sum = compute(Alu::Add, memory, other, size, flags);
                write(registers, register, size, memory);
                Some(sum)
            }
            Operation::CompareExchange(register) => {
                compute(Alu::Cmp, registers[RAX], memory, size, flags);
                if *flags & ZERO != 0 {
                    Some(read(registers, register))
                } else {
                    let rax = Register {
                        number: 0,
                        high: false,
                    };
                    write(registers, rax, size, memory);
                    // The CPU writes what it has read.
                    Some(memory)
                }
            }
            Operation::Bit(bit, number) => {
                let one = 1 << number;
                *flags = *flags & !CARRY | memory >> number & 1;
                match bit {
                    Bit::Test => None,
                    Bit::Set => Some(memory | one),
                    Bit::Reset => Some(memory & !one),
                    Bit::Complement => Some(memory ^ one),
                }
            }
            Operation::Fill => Some(registers[RAX]),
            Operation::Copy => Some(memory),
        };
        Completion {
            store: store.map(|value| value & mask(size)),
            done: self.step(registers, *flags),
        }
    }

    /// The next element of a string instruction; whether there is none.
    fn step(&self, registers: &mut [u64; 16], flags: u64) -> bool {
        let Self {
            size, address_size, ..
        } = *self;
        let step = if flags & DIRECTION == 0 {
            u64::from(size)
        } else {
            u64::from(size).wrapping_neg()
        };
        let mut advance = |number: usize, by: u64| {
            let at = Register {
                number: number as u8,
                high: false,
            };
            let value = registers[number].wrapping_add(by);
            write(registers, at, address_size, value);
            registers[number] & mask(address_size)
        };
        match self.operation {
            Operation::Copy => {
                advance(RSI, step);
                advance(RDI, step);
            }
            Operation::Fill => {
                advance(RDI, step);
            }
            _ => return true,
        }
        !self.repeat || advance(RCX, u64::MAX) == 0
    }

    fn value(&self, registers: &[u64; 16], source: Source) -> u64 {
        match source {
            Source::Register(register) => read(registers, register),
            Source::Immediate(value) => value,
        }
    }
}

/// All of it, from its lowest bit on.
const fn read(registers: &[u64; 16], register: Register) -> u64 {
    let value = registers[register.number as usize];
    if register.high { value >> 8 } else { value }
}

/// The upper half of a register is cleared with 32 bits, and stays with less.
fn write(registers: &mut [u64; 16], register: Register, size: u8, value: u64) {
    let at = &mut registers[usize::from(register.number)];
    let shift = if register.high { 8 } else { 0 };
    let written = mask(size);
    let kept = if size >= 4 {
        0
    } else {
        *at & !(written << shift)
    };
    *at = kept | (value & written) << shift;
}

/// With the sign of `size` bytes.
const fn extend(value: u64, size: u8) -> u64 {
    let unused = 64 - 8 * size as u32;
    ((value << unused) as i64 >> unused) as u64
}

const fn flag(is: bool, flag: u64) -> u64 {
    if is { flag } else { 0 }
}

/// Sign, zero and parity of `result`.
const fn sign_zero_parity(result: u64, size: u8) -> u64 {
    let sign = result >> (8 * size as u32 - 1) & 1 != 0;
    let even = (result as u8).count_ones().is_multiple_of(2);
    flag(sign, SIGN) | flag(result == 0, ZERO) | flag(even, PARITY)
}

/// `first` and `second`, of `size` bytes, and the flags.
fn compute(alu: Alu, first: u64, second: u64, size: u8, flags: &mut u64) -> u64 {
    let mask = mask(size);
    let (first, second) = (first & mask, second & mask);
    let carried = match alu {
        Alu::Adc | Alu::Sbb => *flags & CARRY,
        _ => 0,
    };
    let top = 8 * u32::from(size) - 1;
    let (result, status) = match alu {
        Alu::Add | Alu::Adc => {
            let result = first.wrapping_add(second).wrapping_add(carried) & mask;
            // A bit is carried out where both have it, or one has it and the sum has not.
            let carries = first & second | (first | second) & !result;
            let overflows = (first ^ result) & (second ^ result);
            (result, (carries, overflows))
        }
        Alu::Sub | Alu::Sbb | Alu::Cmp => {
            let result = first.wrapping_sub(second).wrapping_sub(carried) & mask;
            let borrows = !first & second | (!first | second) & result;
            let overflows = (first ^ second) & (first ^ result);
            (result, (borrows, overflows))
        }
        Alu::And | Alu::Test => (first & second, (0, 0)),
        Alu::Or => (first | second, (0, 0)),
        Alu::Xor => (first ^ second, (0, 0)),
    };
    let (carries, overflows) = status;
    *flags = *flags & !STATUS
        | sign_zero_parity(result, size)
        | flag(carries >> top & 1 != 0, CARRY)
        | flag(carries >> 3 & 1 != 0, ADJUST)
        | flag(overflows >> top & 1 != 0, OVERFLOW);
    result
}

fn compute_one(unary: Unary, value: u64, size: u8, flags: &mut u64) -> u64 {
    let carry = *flags & CARRY;
    match unary {
        Unary::Not => !value & mask(size),
        Unary::Neg => compute(Alu::Sub, 0, value, size, flags),
        Unary::Inc | Unary::Dec => {
            let alu = match unary {
                Unary::Inc => Alu::Add,
                _ => Alu::Sub,
            };
            let result = compute(alu, value, 1, size, flags);
            *flags = *flags & !CARRY | carry;
            result
        }
    }
}
