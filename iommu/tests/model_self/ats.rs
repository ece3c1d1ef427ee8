//! ATS in split stage (§3.9.1, EATS = 0b10): the device gets an IPA, and stage 2 stays between it and memory.

use super::bare::{BLOCK, Bare, RAM, S2, SYNC, fault, two};
use iommu::model::smmu::{Config, Denied};

/// A stage 1 block of a GiB: AF, AP[1], nG.
const S1: u64 = 1 << 10 | 1 << 6 | 1 << 11 | 1;
/// Where stage 1 has the first GiB, and stage 2 has it back.
const IPA: u64 = BLOCK;
const AT: u64 = RAM + 0x1010;
/// SMMUEN, EVENTQEN, CMDQEN; ATSCHK is bit 4 (§6.3.9).
const CR0: u32 = 0xd;

/// Stream 7 in split stage, and the table of its stage 2.
fn split() -> (Bare, u64) {
    let mut bare = Bare::new(Config {
        ats: true,
        ..Config::default()
    });
    let (contexts, first, second) = (bare.page(), bare.page(), bare.page());
    bare.store(first, IPA | S1);
    bare.store(contexts + 8, first);
    bare.store(
        contexts,
        25 | 1 << 30 | 1 << 31 | 4 << 32 | 1 << 41 | 7 << 45 | 9 << 48,
    );
    // The guest's descriptors and tables are where they are; its data is a GiB above.
    bare.store(second, S2 | 1);
    bare.store(second + 8, S2 | 1);
    bare.entry(7, &[0xf | contexts, 2 << 28, two(25, 1, 0, 3), second]);
    (bare, second)
}

#[test]
fn a_device_in_split_stage_gets_an_ipa_that_stage_2_translates() {
    let (bare, _) = split();
    assert_eq!(bare.at(7, AT), Ok(AT));
    assert_eq!(bare.smmu.ats_translate(7, AT, false), Ok(IPA + AT));
    let word = 0x0123_4567_89ab_cdef_u64;
    let wrote = bare.smmu.translated_write(7, IPA + AT, &word.to_le_bytes());
    assert_eq!(wrote, Ok(()));
    assert_eq!(bare.memory.load(AT), word);
    assert_eq!(bare.events(), [[0; 4]; 0]);
}

#[test]
fn what_stage_2_refuses_of_a_translated_transaction_is_recorded() {
    let (mut bare, second) = split();
    let past = 2 << 30 | AT;
    let refused = bare.smmu.translated_write(7, past, &[1]);
    assert_eq!(refused, Err(fault(0x10, true)));
    // F_TRANSLATION of stage 2 (S2, bit 103), at the IPA that the device sent.
    let events = bare.events();
    let [[number, flags, input, _]] = events[..] else {
        panic!("{events:x?}");
    };
    assert_eq!(number, 0x10 | 7 << 32);
    assert_eq!(flags >> 39 & 1, 1);
    assert_eq!(input, past);
    // S2AP without writes, and the TLB has forgotten what there was: CMD_TLBI_S12_VMALL.
    bare.store(second + 8, S2 & !(1 << 7) | 1);
    bare.send(&[[0x28 | 3 << 32, 0], SYNC]);
    let refused = bare.smmu.translated_write(7, IPA + AT, &[1]);
    assert_eq!(refused, Err(fault(0x13, true)));
    assert_eq!(bare.memory.load(AT), 0);
}

#[test]
fn without_its_check_a_translated_transaction_goes_where_it_says() {
    let (bare, _) = split();
    bare.control(CR0);
    assert_eq!(bare.smmu.translated_write(7, AT, &[0x5a]), Ok(()));
    assert_eq!(bare.memory.load(AT & !7), 0x5a);
    // An entry of split stage is ILLEGAL then (§5.2, EATS).
    assert_eq!(
        bare.smmu.ats_translate(7, AT, false),
        Err(fault(0x05, false))
    );
}

#[test]
fn an_smmu_that_is_off_and_a_stream_that_aborts_answer_no_request() {
    let (mut bare, _) = split();
    bare.entry(7, &[1]);
    assert_eq!(
        bare.smmu.ats_translate(7, AT, false),
        Err(Denied::StreamAbort)
    );
    bare.control(0);
    let off = Err(Denied::GlobalAbort);
    assert_eq!(bare.smmu.ats_translate(7, AT, false), off);
    assert_eq!(
        bare.smmu.translated_write(7, IPA + AT, &[1]),
        Err(Denied::GlobalAbort)
    );
}
