//! Lengths, sizes and operands are what iced-x86 says, for every opcode with every ModRM.

use crate::instruction::{
    Alu, Bit, Instruction, LONGEST, Mode, Operation, Refused, Register, Segment, Source, Unary,
    decode,
};
use iced_x86::{Decoder, DecoderOptions, Mnemonic, OpKind, Register as Name};
use proptest::prelude::*;

fn register(name: Name) -> Register {
    let high = matches!(name, Name::AH | Name::CH | Name::DH | Name::BH);
    Register {
        number: name.full_register().number() as u8,
        high,
    }
}

/// What it should be, if it is one of ours. Operand 0 is the destination.
fn expected(bytes: &[u8], mode: Mode) -> Option<Instruction> {
    let bits = if mode == Mode::Long { 64 } else { 32 };
    let mut decoder = Decoder::new(bits, bytes, DecoderOptions::NONE);
    let found = decoder.decode();
    let memory =
        |operand: u32| operand < found.op_count() && found.op_kind(operand) == OpKind::Memory;
    let is_string = matches!(
        found.mnemonic(),
        Mnemonic::Stosb
            | Mnemonic::Stosw
            | Mnemonic::Stosd
            | Mnemonic::Stosq
            | Mnemonic::Movsb
            | Mnemonic::Movsw
            | Mnemonic::Movsd
            | Mnemonic::Movsq
    ) && found.op_kind(0) != OpKind::Register
        && found.op_kind(0) != OpKind::Memory;
    if !is_string && !memory(0) && !memory(1) {
        return None;
    }
    let general = |operand: u32| {
        found.op_kind(operand) == OpKind::Register && found.op_register(operand).is_gpr()
    };
    let source = |operand: u32| match found.op_kind(operand) {
        OpKind::Register if general(operand) => {
            Some(Source::Register(register(found.op_register(operand))))
        }
        OpKind::Register => None,
        OpKind::Memory => None,
        _ => Some(Source::Immediate(found.immediate(operand))),
    };
    let arithmetic = |alu: Alu| {
        if memory(0) {
            source(1).map(|source| Operation::ToMemory(alu, source))
        } else {
            general(0).then(|| Operation::ToRegister(alu, register(found.op_register(0))))
        }
    };
    let load = |signed: bool| {
        (memory(1) && general(0)).then(|| Operation::Load {
            to: register(found.op_register(0)),
            width: found.op_register(0).size() as u8,
            signed,
        })
    };
    let bit = |bit: Bit| match source(1)? {
        // It wraps around at the operand's size.
        Source::Immediate(number) => Some(Operation::Bit(
            bit,
            (number % (8 * found.memory_size().size() as u64)) as u8,
        )),
        Source::Register(_) => None,
    };
    let operation = match found.mnemonic() {
        Mnemonic::Mov if memory(0) => source(1).map(Operation::Store),
        Mnemonic::Mov => load(false),
        Mnemonic::Movnti => source(1).map(Operation::Store),
        Mnemonic::Movzx => load(false),
        Mnemonic::Movsx | Mnemonic::Movsxd => load(true),
        Mnemonic::Add => arithmetic(Alu::Add),
        Mnemonic::Or => arithmetic(Alu::Or),
        Mnemonic::Adc => arithmetic(Alu::Adc),
        Mnemonic::Sbb => arithmetic(Alu::Sbb),
        Mnemonic::And => arithmetic(Alu::And),
        Mnemonic::Sub => arithmetic(Alu::Sub),
        Mnemonic::Xor => arithmetic(Alu::Xor),
        Mnemonic::Cmp => arithmetic(Alu::Cmp),
        // Both ways are one: memory is the first operand of an encoding.
        Mnemonic::Test => arithmetic(Alu::Test),
        Mnemonic::Not => Some(Operation::Unary(Unary::Not)),
        Mnemonic::Neg => Some(Operation::Unary(Unary::Neg)),
        Mnemonic::Inc => Some(Operation::Unary(Unary::Inc)),
        Mnemonic::Dec => Some(Operation::Unary(Unary::Dec)),
        Mnemonic::Xchg => Some(Operation::Exchange(register(found.op_register(1)))),
        Mnemonic::Xadd => Some(Operation::ExchangeAdd(register(found.op_register(1)))),
        Mnemonic::Cmpxchg => Some(Operation::CompareExchange(register(found.op_register(1)))),
        Mnemonic::Bt => bit(Bit::Test),
        Mnemonic::Bts => bit(Bit::Set),
        Mnemonic::Btr => bit(Bit::Reset),
        Mnemonic::Btc => bit(Bit::Complement),
        _ if is_string && found.op_kind(1) == OpKind::Register => Some(Operation::Fill),
        _ if is_string => Some(Operation::Copy),
        _ => None,
    }?;
    let (address_size, repeat) = if is_string {
        let size = match found.op_kind(0) {
            OpKind::MemoryESRDI => 8,
            OpKind::MemoryESEDI => 4,
            _ => 2,
        };
        (size, found.has_rep_prefix() || found.has_repne_prefix())
    } else {
        (0, false)
    };
    let segment = match found.memory_segment() {
        Name::FS => Segment::Fs,
        Name::GS => Segment::Gs,
        // 64-bit mode has no bases of these.
        _ if mode == Mode::Long => Segment::Flat(3),
        Name::ES => Segment::Flat(0),
        Name::CS => Segment::Flat(1),
        Name::SS => Segment::Flat(2),
        _ => Segment::Flat(3),
    };
    Some(Instruction {
        len: found.len() as u8,
        size: found.memory_size().size() as u8,
        operation,
        repeat,
        address_size,
        segment,
    })
}

/// Immediates of both are of one meaning where they are of one value in the operand's size.
fn narrowed(mut instruction: Instruction) -> Instruction {
    let mask = u64::MAX >> (64 - 8 * u32::from(instruction.size));
    if let Operation::Store(Source::Immediate(value))
    | Operation::ToMemory(_, Source::Immediate(value)) = &mut instruction.operation
    {
        *value &= mask;
    }
    if !matches!(instruction.operation, Operation::Fill | Operation::Copy) {
        // Not used, and not compared.
        instruction.address_size = 0;
        instruction.segment = Segment::Flat(3);
    } else if instruction.operation == Operation::Fill {
        instruction.segment = Segment::Flat(3);
    }
    instruction
}

/// Whether it is one of ours; panics if the two do not agree.
fn compare(bytes: &[u8], mode: Mode) -> bool {
    let ours = decode(bytes, mode).map(narrowed);
    let theirs = expected(bytes, mode).map(narrowed);
    assert_eq!(ours.ok(), theirs, "{mode:?} {bytes:02x?}: {ours:?}");
    if let Ok(instruction) = ours {
        let len = usize::from(instruction.len);
        assert_eq!(decode(&bytes[..len], mode).map(narrowed), ours);
        for short in 0..len {
            assert_eq!(decode(&bytes[..short], mode), Err(Refused::Short));
        }
    }
    ours.is_ok()
}

#[test]
fn every_opcode_with_every_modrm() {
    let prefixes: &[&[u8]] = &[
        &[],
        &[0x66],
        &[0x67],
        &[0xf0],
        &[0xf2],
        &[0xf3],
        &[0x64],
        &[0x36],
        &[0x40],
        &[0x44],
        &[0x48],
        &[0x4f],
        &[0x66, 0x4c],
        &[0x48, 0x66],
        &[0x67, 0xf3, 0x65, 0x48],
    ];
    let tail = [
        0x25, 0x81, 0x12, 0x34, 0xd6, 0x87, 0x9a, 0xbc, 0xde, 0xf0, 0x11,
    ];
    let mut ours = 0u32;
    let mut bytes = Vec::new();
    for mode in [Mode::Long, Mode::Protected] {
        for prefix in prefixes {
            for opcode in 0..512u32 {
                for modrm in 0..=255u8 {
                    bytes.clear();
                    bytes.extend_from_slice(prefix);
                    if opcode >= 256 {
                        bytes.push(0x0f);
                    }
                    bytes.push(opcode as u8);
                    bytes.push(modrm);
                    bytes.extend_from_slice(&tail);
                    ours += u32::from(compare(&bytes, mode));
                }
            }
        }
    }
    assert!(ours > 200_000, "{ours}");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 20_000 * ProptestConfig::default().cases / 256,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_bytes_behind_any_prefixes(
        prefixes in prop::collection::vec(prop::sample::select(
            &[0x66u8, 0x67, 0xf0, 0xf2, 0xf3, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x40, 0x41, 0x48, 0x4c][..]), 0..6),
        opcode in prop::sample::select(
            &[0x01u8, 0x23, 0x80, 0x81, 0x83, 0x85, 0x87, 0x88, 0x89, 0x8a, 0x8b, 0xa1, 0xa3, 0xa5, 0xab, 0xc6, 0xc7,
              0xf6, 0xf7, 0xff, 0x0f, 0x63][..]),
        rest: [u8; 16], long: bool
    ) {
        let mode = if long { Mode::Long } else { Mode::Protected };
        let mut bytes = prefixes;
        bytes.push(opcode);
        bytes.extend_from_slice(&rest);
        bytes.truncate(LONGEST + 3);
        compare(&bytes, mode);
    }
}
