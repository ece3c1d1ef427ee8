//! Instructions as compilers write them, by their bytes, and what they leave behind.

use crate::instruction::{Completion, Instruction, Mode, Refused, Segment, decode};

fn long(bytes: &[u8]) -> Instruction {
    let instruction = decode(bytes, Mode::Long).unwrap();
    assert_eq!(usize::from(instruction.len), bytes.len());
    instruction
}

/// RAX is 0x1010..., RCX 0x1111..., up to R15 0x1f1f....
fn registers() -> [u64; 16] {
    core::array::from_fn(|n| 0x0101_0101_0101_0101 * (0x10 + n as u64))
}

/// Registers that changed, what goes to memory, and the flags.
fn run(bytes: &[u8], loaded: u64) -> (Vec<(usize, u64)>, Option<u64>, u64) {
    let mut after = registers();
    let mut flags = 2;
    let completion = long(bytes).complete(&mut after, &mut flags, loaded);
    assert!(completion.done);
    let changed = (0..16).filter(|&n| after[n] != registers()[n]);
    (
        changed.map(|n| (n, after[n])).collect(),
        completion.store,
        flags,
    )
}

#[test]
fn loads_go_where_they_should_and_as_wide() {
    const FF: u64 = 0xffff_ffff_8765_4321;
    for (bytes, number, value) in [
        // mov eax, [rdi]; mov rax, [rdi]; mov ax, [rdi]; mov al, [rdi]; mov ah, [rdi]
        (&[0x8b, 0x07][..], 0, 0x8765_4321),
        (&[0x48, 0x8b, 0x07], 0, FF),
        (&[0x66, 0x8b, 0x07], 0, 0x1010_1010_1010_4321),
        (&[0x8a, 0x07], 0, 0x1010_1010_1010_1021),
        (&[0x8a, 0x27], 0, 0x1010_1010_1010_2110),
        // mov spl, [rdi]; mov r12d, [rip+0x100]
        (&[0x40, 0x8a, 0x27], 4, 0x1414_1414_1414_1421),
        (&[0x44, 0x8b, 0x25, 0, 1, 0, 0], 12, 0x8765_4321),
        // movzx eax, byte [rdi]; movzx r8, word [rdi]; movsx eax, byte [rdi]; movsx rcx, word [rdi+8]
        (&[0x0f, 0xb6, 0x07], 0, 0x21),
        (&[0x4c, 0x0f, 0xb7, 0x07], 8, 0x4321),
        (&[0x0f, 0xbe, 0x07], 0, 0x21),
        (&[0x48, 0x0f, 0xbf, 0x4f, 8], 1, 0x4321),
        // movsxd rax, [rdi]
        (&[0x48, 0x63, 0x07], 0, FF),
        // mov eax, [0x1122334455667788]
        (
            &[0xa1, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11],
            0,
            0x8765_4321,
        ),
    ] {
        assert!(long(bytes).loads());
        assert_eq!(
            run(bytes, FF),
            (vec![(number, value)], None, 2),
            "{bytes:02x?}"
        );
    }
    // With the sign: movsx ax, byte [rdi]; movsx eax, word [rdi].
    assert_eq!(
        run(&[0x66, 0x0f, 0xbe, 0x07], 0x80).0,
        [(0, 0x1010_1010_1010_ff80)]
    );
    assert_eq!(run(&[0x0f, 0xbf, 0x07], 0x8000).0, [(0, 0xffff_8000)]);
}

#[test]
fn stores_are_as_wide_as_they_say() {
    for (bytes, value) in [
        // mov [rdi], edx; mov [rdi+rcx*4+0x10], rdx; mov [rdi], dx; mov [rdi], dh; mov [rdi], r9b
        (&[0x89, 0x17][..], 0x1212_1212),
        (&[0x48, 0x89, 0x54, 0x8f, 0x10], 0x1212_1212_1212_1212),
        (&[0x66, 0x89, 0x17], 0x1212),
        (&[0x88, 0x37], 0x12),
        (&[0x44, 0x88, 0x0f], 0x19),
        // mov dword [rdi], -2; mov qword [rdi], -2; mov word [rdi], 0x1234; mov byte [0x10], 7
        (&[0xc7, 0x07, 0xfe, 0xff, 0xff, 0xff], 0xffff_fffe),
        (
            &[0x48, 0xc7, 0x07, 0xfe, 0xff, 0xff, 0xff],
            0xffff_ffff_ffff_fffe,
        ),
        (&[0x66, 0xc7, 0x07, 0x34, 0x12], 0x1234),
        (&[0xc6, 0x04, 0x25, 0x10, 0, 0, 0, 7], 7),
        // movnti [rdi], edx
        (&[0x0f, 0xc3, 0x17], 0x1212_1212),
    ] {
        assert!(!long(bytes).loads());
        assert_eq!(run(bytes, 0), (vec![], Some(value), 2), "{bytes:02x?}");
    }
}

#[test]
fn what_reads_and_writes_does_both() {
    // or dword [rdi], 0x10; and [rdi], edx; lock xadd [rdi], edx; xchg [rdi], edx; bts dword [rdi], 35; not byte [rdi]
    assert_eq!(run(&[0x83, 0x0f, 0x10], 3), (vec![], Some(0x13), 2));
    assert_eq!(run(&[0x21, 0x17], 0xffff).1, Some(0x1212));
    assert_eq!(
        run(&[0xf0, 0x0f, 0xc1, 0x17], 1),
        (vec![(2, 1)], Some(0x1212_1213), 2)
    );
    assert_eq!(run(&[0x87, 0x17], 5), (vec![(2, 5)], Some(0x1212_1212), 2));
    assert_eq!(run(&[0x0f, 0xba, 0x2f, 35], 8), (vec![], Some(8), 3));
    assert_eq!(run(&[0xf6, 0x17], 0x0f), (vec![], Some(0xf0), 2));
    // inc and dec keep the carry; neg sets it.
    assert_eq!(run(&[0xff, 0x07], 0xffff_ffff), (vec![], Some(0), 0x56));
    assert_eq!(run(&[0xfe, 0x0f], 0), (vec![], Some(0xff), 0x96));
    assert_eq!(run(&[0xf7, 0x1f], 1), (vec![], Some(0xffff_ffff), 0x97));
    // test dword [rdi], 4; cmp byte [rdi], 1; cmp edx, [rdi]
    assert_eq!(run(&[0xf7, 0x07, 4, 0, 0, 0], 3), (vec![], None, 0x46));
    assert_eq!(run(&[0x80, 0x3f, 1], 1), (vec![], None, 0x46));
    assert_eq!(run(&[0x3b, 0x17], 0x1212_1213), (vec![], None, 0x97));
    // lock cmpxchg [rdi], edx: equal, then not.
    let exchange = [0xf0, 0x0f, 0xb1, 0x17];
    assert_eq!(
        run(&exchange, 0x1010_1010),
        (vec![], Some(0x1212_1212), 0x46)
    );
    let (changed, store, flags) = run(&exchange, 9);
    assert_eq!((changed, store, flags & 0x40), (vec![(0, 9)], Some(9), 0));
}

#[test]
fn a_repeated_string_is_one_step_at_a_time() {
    // rep stosd
    let fill = long(&[0xf3, 0xab]);
    let mut registers = registers();
    (registers[1], registers[7]) = (2, 0x1000);
    let mut step = |flags: u64| fill.complete(&mut registers, &mut { flags }, 0);
    let more = Completion {
        store: Some(0x1010_1010),
        done: false,
    };
    assert_eq!(step(2), more);
    assert_eq!(step(2), Completion { done: true, ..more });
    assert_eq!((registers[1], registers[7]), (0, 0x1008));
    // movsb, backwards; with addresses of 32 bits: addr32 movsw.
    let mut copied = super::effects::registers();
    let done = long(&[0xa4]).complete(&mut copied, &mut 0x402, 0x77);
    assert_eq!(
        done,
        Completion {
            store: Some(0x77),
            done: true
        }
    );
    assert_eq!(
        (copied[6], copied[7]),
        (0x1616_1616_1616_1615, 0x1717_1717_1717_1716)
    );
    let mut copied = super::effects::registers();
    long(&[0x67, 0x66, 0xa5]).complete(&mut copied, &mut 2, 0);
    assert_eq!((copied[6], copied[7]), (0x1616_1618, 0x1717_1719));
}

#[test]
fn the_other_side_of_a_copy_is_named() {
    let registers = registers();
    let copy = long(&[0x65, 0xa5]);
    assert_eq!(
        copy.other_side(&registers, true),
        Some((Segment::Gs, registers[6]))
    );
    assert_eq!(
        copy.other_side(&registers, false),
        Some((Segment::Flat(0), registers[7]))
    );
    let narrow = long(&[0x67, 0xa5]);
    assert_eq!(
        narrow.other_side(&registers, true),
        Some((Segment::Flat(3), 0x1616_1616))
    );
    assert_eq!(long(&[0xab]).other_side(&registers, true), None);
}

#[test]
fn what_is_not_for_registers_is_refused() {
    for bytes in [
        // mov eax, edi; ret; call [rax]; push [rax]; movups [rax], xmm0; lock mov; shl [rax], 1; lea
        &[0x8b, 0xc7][..],
        &[0xc3],
        &[0xff, 0x10],
        &[0xff, 0x30],
        &[0x0f, 0x11, 0x00],
        &[0xf0, 0x89, 0x00],
        &[0xd1, 0x20],
        &[0x8d, 0x00],
        // VEX; bt [rax], ecx, which may reach anywhere; popcnt
        &[0xc5, 0xf8, 0x10, 0x00],
        &[0x0f, 0xa3, 0x08],
        &[0xf3, 0x0f, 0xb8, 0x00],
    ] {
        assert!(
            matches!(decode(bytes, Mode::Long), Err(Refused::Unknown(_))),
            "{bytes:02x?}"
        );
    }
    assert_eq!(decode(&[0x66; 16], Mode::Long), Err(Refused::Short));
    assert_eq!(decode(&[], Mode::Long), Err(Refused::Short));
}
