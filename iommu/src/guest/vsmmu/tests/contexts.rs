//! Contexts that are copied.

use super::*;
use crate::hal::DmaBuffer;
use crate::physical::IommuError;

/// Where the devices of a guest find the copies of its contexts.
const COPIES: u64 = 0x7000_0000;

fn copying() -> Guest {
    let platform = Memory::coherent();
    let buffer = crate::hal::Platform::allocate(&platform, 4096).expect("memory");
    let mut setup = plain_setup();
    setup.contexts = Some(ContextCopies {
        buffer,
        at: Gpa(COPIES),
    });
    let mut guest = Guest::new(setup);
    guest.up(8, 4);
    guest
}

/// V, AA64, R, A, EPD1, T0SZ = 25.
const CONTEXT: u64 = 1 << 31 | 1 << 41 | 1 << 45 | 1 << 46 | 1 << 30 | 25;

fn copy_of(guest: &Guest, device: usize) -> [u64; 8] {
    let contexts = guest.smmu.contexts.as_ref().expect("there are copies");
    core::array::from_fn(|word| contexts.buffer().read64(device * 64 + word * 8))
}

#[test]
fn hardware_that_must_not_see_a_guests_contexts_sees_copies() {
    let mut guest = copying();
    guest.entry(8, stage_one(CONTEXTS));
    // IPS = 7, which ends an emulator.
    guest
        .ram
        .store(CONTEXTS, &[CONTEXT | 7 << 32, RAM, 0, 0xff]);
    guest.say(&[cfgi_ste(8), SYNC]);
    let attached = guest.attached();
    let [(1, StageOne::Translate(stage_one))] = attached[..] else {
        panic!("{attached:?}");
    };
    assert_eq!(stage_one.contexts, COPIES + 64);
    // The widest that is offered: 40 bits.
    assert_eq!(copy_of(&guest, 1)[..4], [CONTEXT | 2 << 32, RAM, 0, 0xff]);
    // A change is not seen before its command.
    guest
        .ram
        .store(CONTEXTS, &[CONTEXT | 6 << 32 | 5 << 48, RAM + 0x1000]);
    assert_eq!(copy_of(&guest, 1)[1], RAM);
    let before = guest.ram.reads.get();
    guest.say(&[[0x05 | 8 << 32, 1], SYNC]);
    assert_eq!(
        guest.ram.reads.get() - before,
        3,
        "the context is read once"
    );
    assert_eq!(
        copy_of(&guest, 1)[..2],
        [CONTEXT | 2 << 32 | 5 << 48, RAM + 0x1000]
    );
    // Two words in use changed: not valid in between, and told each time.
    assert_eq!(guest.entries(), [[0x06 | 8 << 32, 0, 0, 0]; 3]);
    assert_eq!(guest.attached(), []);
}

#[test]
fn a_context_that_cannot_be_read_or_forgotten_is_not_valid() {
    let mut guest = copying();
    guest.entry(8, stage_one(0x0900_0000));
    guest.say(&[cfgi_ste(8)]);
    assert_eq!(copy_of(&guest, 1), [0; 8]);
    guest.entry(8, stage_one(CONTEXTS));
    guest.ram.store(CONTEXTS, &[CONTEXT, RAM, 0, 0xff]);
    guest.say(&[cfgi_ste(8)]);
    assert_ne!(copy_of(&guest, 1)[0], 0);
    let error = Error::Hardware(IommuError::Timeout);
    guest.ram.store(CONTEXTS, &[CONTEXT, RAM + 0x1000, 0, 0xff]);
    guest.told.borrow_mut().fails = Some((0, error));
    let effect = guest.say(&[[0x06 | 8 << 32, 0]]);
    assert_eq!(effect.failed, Some(error));
    assert_eq!(copy_of(&guest, 1)[0], 0);
    assert_eq!(guest.attached().last(), Some(&(1, StageOne::Abort)));
}

#[test]
fn copies_have_no_substreams_and_room_for_so_many_devices() {
    let platform = Arc::new(Memory::coherent());
    let copies = || ContextCopies {
        buffer: crate::hal::Platform::allocate(&*platform, 4096).expect("memory"),
        at: Gpa(COPIES),
    };
    let setup = Setup {
        contexts: Some(copies()),
        ..rich_setup()
    };
    let devices: Vec<_> = (0..65).map(behind).collect();
    let slice = Recorder::default;
    let smmu = VirtSmmu::new(Arc::clone(&platform), setup, slice(), &devices);
    assert_eq!(smmu.err(), Some(SetupError::Devices(65)));
    let setup = Setup {
        contexts: Some(copies()),
        ..rich_setup()
    };
    let mut smmu = VirtSmmu::new(platform, setup, slice(), &devices[..64]).expect("it fits");
    assert_eq!(smmu.read(0, 4) >> 19 & 1, 0, "CD2L");
    assert_eq!(smmu.read(4, 4) >> 6 & 0x1f, 0, "SSIDSIZE");
}
