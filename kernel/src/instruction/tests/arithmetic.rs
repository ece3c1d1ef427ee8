//! Results and flags beside arithmetic in wider numbers.

use crate::instruction::{Alu, Instruction, Operation, Segment, Source};
use proptest::prelude::*;

const ALL: [Alu; 9] = [
    Alu::Add,
    Alu::Or,
    Alu::Adc,
    Alu::Sbb,
    Alu::And,
    Alu::Sub,
    Alu::Xor,
    Alu::Cmp,
    Alu::Test,
];

/// CF, PF, AF, ZF, SF, OF; interrupts on and the fixed bit.
const STATUS: u64 = 0x8d5;
const OTHERS: u64 = 0x202;

/// The result, CF, AF and OF by their definitions: the sum does not fit, unsigned, in four bits, signed.
fn model(alu: Alu, a: u64, b: u64, carry: bool, bits: u32) -> (u64, u64) {
    let modulus = 1i128 << bits;
    let signed = |value: u64| {
        let value = i128::from(value);
        if value >= modulus / 2 {
            value - modulus
        } else {
            value
        }
    };
    let (sign, carry) = match alu {
        Alu::Add => (1, 0),
        Alu::Adc => (1, i128::from(carry)),
        Alu::Sub | Alu::Cmp => (-1, 0),
        Alu::Sbb => (-1, i128::from(carry)),
        Alu::And | Alu::Test => (0, (a & b).into()),
        Alu::Or => (0, (a | b).into()),
        Alu::Xor => (0, (a ^ b).into()),
    };
    let (result, mut flags);
    if sign == 0 {
        result = carry as u64;
        flags = 0;
    } else {
        let of = |a: i128, b: i128| a + sign * (b + carry);
        let whole = of(a.into(), b.into());
        let value = of(signed(a), signed(b));
        let nibble = of((a & 15).into(), (b & 15).into());
        result = whole.rem_euclid(modulus) as u64;
        flags = u64::from(whole != i128::from(result));
        flags |= u64::from(!(0..16).contains(&nibble)) << 4;
        flags |= u64::from(value != signed(result)) << 11;
    }
    let ones = (0..8).filter(|bit| result >> bit & 1 == 1).count();
    flags |= u64::from(ones % 2 == 0) << 2;
    flags |= u64::from(result == 0) << 6;
    flags |= u64::from(signed(result) < 0) << 7;
    (result, flags)
}

fn check(alu: Alu, memory: u64, other: u64, flags: u64, size: u8) {
    let bits = 8 * u32::from(size);
    let instruction = |operation| Instruction {
        len: 3,
        size,
        operation,
        repeat: false,
        address_size: 8,
        segment: Segment::Flat(3),
    };
    let (result, status) = model(alu, memory, other, flags & 1 != 0, bits);
    let kept = !matches!(alu, Alu::Cmp | Alu::Test);
    let mut registers = [0; 16];
    let mut after = flags;
    let to_memory = instruction(Operation::ToMemory(alu, Source::Immediate(other)));
    let done = to_memory.complete(&mut registers, &mut after, memory);
    assert!(done.done && registers == [0; 16]);
    assert_eq!(
        done.store,
        kept.then_some(result),
        "{alu:?} {memory:#x} {other:#x}"
    );
    assert_eq!(
        after,
        flags & !STATUS | status,
        "{alu:?} {memory:#x} {other:#x}"
    );
    if alu == Alu::Test {
        return;
    }
    // The register first: RDX.
    registers[2] = memory | (0x55 << 56);
    if size == 8 {
        registers[2] = memory;
    }
    let before = registers[2];
    let mut after = flags;
    let rdx = crate::instruction::Register {
        number: 2,
        high: false,
    };
    let to_register = instruction(Operation::ToRegister(alu, rdx));
    let done = to_register.complete(&mut registers, &mut after, other);
    assert_eq!((done.store, after), (None, flags & !STATUS | status));
    let expected = match size {
        _ if !kept => before,
        8 => result,
        4 => result,
        _ => before >> bits << bits | result,
    };
    assert_eq!(registers[2], expected, "{alu:?} {size}");
}

#[test]
fn all_bytes() {
    for alu in ALL {
        for a in 0..256 {
            for b in 0..256 {
                check(alu, a, b, OTHERS, 1);
                check(alu, a, b, OTHERS | STATUS, 1);
            }
        }
    }
}

proptest! {
    #[test]
    fn wider_ones(alu in prop::sample::select(&ALL[..]), a: u64, b: u64, edge in 0..5u8, carry: bool) {
        let (a, b) = match edge {
            0 => (a, b),
            1 => (a, a),
            2 => (a, !a),
            3 => (1 << 63 | 1 << 31 | 1 << 15, b & 3),
            _ => (u64::MAX, b & 1),
        };
        for size in [2, 4, 8] {
            let mask = u64::MAX >> (64 - 8 * u32::from(size));
            check(alu, a & mask, b & mask, OTHERS | u64::from(carry), size);
        }
    }
}
