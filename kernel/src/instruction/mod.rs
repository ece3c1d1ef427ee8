//! Instructions of an x86 guest that touch a virtual device's registers: the CPU says where and whether it was a write, and
//! this what was to be read or written.
//!
//! [`decode()`] makes an [`Instruction`] of what was fetched, once, from where the guest stands ([`walk`] finds it); the
//! address that it touches comes from the exit and is not worked out again. Then: if it [`loads`](Instruction::loads), read
//! the device; hand the value to [`Instruction::complete`], which changes the registers and the flags as the CPU would; write
//! what comes back in [`Completion::store`]. One access of each kind at most, so that a `rep` is one step at a time.
//!
//! What kernels use on registers is all there is: MOV, MOVZX, MOVSX, MOVNTI, the arithmetic of 00 to 3B and of groups 1, 3 and
//! 4/5, TEST, XCHG, XADD, CMPXCHG, BT to BTC by a number, STOS and MOVS. Vector registers are refused. Opcodes: "Instruction
//! Format", Intel SDM volume 2A.
//!
//! It is our own: iced-x86 1.22, which the tests hold it against, takes 100 KiB of an image
//! for this (its decoder and operand access alone, `opt-level = "z"`, LTO).

mod decode;
mod execute;
#[cfg(test)]
mod tests;
pub mod walk;

pub use decode::decode;

/// The longest instruction there is, in bytes: no more need be fetched.
pub const LONGEST: usize = 15;

/// How the guest's code is to be read: by its code segment and `IA32_EFER`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// 64-bit mode.
    Long,
    /// Protected mode with 32-bit operands and addresses.
    Protected,
}

/// Why an instruction is not carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// It goes on behind what was fetched.
    Short,
    /// None of those that are known here, or one that touches no memory; the byte that decides.
    Unknown(u8),
}

/// A general purpose register as an operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Register {
    /// 0 to 15: RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub number: u8,
    /// Bits 15:8 of it: AH, CH, DH, BH.
    pub high: bool,
}

/// The other operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// A register.
    Register(Register),
    /// A number, extended as the instruction does it.
    Immediate(u64),
}

/// What is computed. The flags are those of each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Alu {
    /// Sum.
    Add,
    /// Inclusive or.
    Or,
    /// Sum with carry.
    Adc,
    /// Difference with borrow.
    Sbb,
    /// And.
    And,
    /// Difference.
    Sub,
    /// Exclusive or.
    Xor,
    /// Difference that goes nowhere.
    Cmp,
    /// And that goes nowhere.
    Test,
}

/// Of one operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unary {
    /// Complement; no flags.
    Not,
    /// Negation.
    Neg,
    /// One more; the carry stays.
    Inc,
    /// One less; the carry stays.
    Dec,
}

/// What becomes of a bit once it is in the carry flag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bit {
    /// Nothing.
    Test,
    /// One.
    Set,
    /// Zero.
    Reset,
    /// The other.
    Complement,
}

/// What is done with memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// MOV, MOVZX, MOVSX, MOVSXD.
    Load {
        /// Where to.
        to: Register,
        /// Bytes of it that are written.
        width: u8,
        /// With the sign.
        signed: bool,
    },
    /// MOV, MOVNTI.
    Store(Source),
    /// With memory as the first operand: the result goes there.
    ToMemory(Alu, Source),
    /// With memory as the second operand: the result goes to the register.
    ToRegister(Alu, Register),
    /// Memory alone.
    Unary(Unary),
    /// Memory and the register change places.
    Exchange(Register),
    /// The sum goes to memory, what was there to the register.
    ExchangeAdd(Register),
    /// If memory is as RAX, the register goes there; else it goes to RAX.
    CompareExchange(Register),
    /// One bit.
    Bit(Bit, u8),
    /// STOS: RAX goes to memory at RDI.
    Fill,
    /// MOVS: memory at RSI goes to memory at RDI. See [`Instruction::other_side`].
    Copy,
}

/// A segment whose base is not zero in 64-bit mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Segment {
    /// FS.
    Fs,
    /// GS.
    Gs,
    /// Any other, by number (ES, CS, SS, DS: 0 to 3): its base counts in protected mode only.
    Flat(u8),
}

/// One instruction with one memory operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Instruction {
    /// Its length in bytes.
    pub len: u8,
    /// Bytes of memory that it touches: 1, 2, 4 or 8.
    pub size: u8,
    /// What it does.
    pub operation: Operation,
    /// REP, of a string instruction.
    pub repeat: bool,
    /// Bytes of RCX, RSI and RDI that a string instruction uses.
    pub address_size: u8,
    /// The segment that RSI is in, of a string instruction.
    pub segment: Segment,
}

/// What is left to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    /// To be written to the memory operand; for MOVS, to its destination.
    pub store: Option<u64>,
    /// The guest goes on behind the instruction; else it comes to it again.
    pub done: bool,
}

impl Instruction {
    /// Whether it reads memory. For MOVS: its source, which may be elsewhere.
    pub const fn loads(&self) -> bool {
        !matches!(self.operation, Operation::Store(_) | Operation::Fill)
    }

    /// Of a MOVS, the side that the exit was not about: the segment, and the linear address without its base. An exit for a
    /// read was about the source.
    pub const fn other_side(&self, registers: &[u64; 16], write: bool) -> Option<(Segment, u64)> {
        const ES: Segment = Segment::Flat(0);
        let Operation::Copy = self.operation else {
            return None;
        };
        let mask = execute::mask(self.address_size);
        Some(if write {
            (self.segment, registers[execute::RSI] & mask)
        } else {
            (ES, registers[execute::RDI] & mask)
        })
    }
}
