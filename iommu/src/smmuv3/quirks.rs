//! What QEMU's SMMUv3 (10.0 to 11.1) does otherwise than the document, and what that asks of us. Each rule holds on
//! hardware too, so nothing here is switched.
//!
//! Rules that shape other files, so that they are found in one place:
//! * Concatenated start tables alias (the index is masked away): `table` never makes any.
//! * STRTAB_BASE_CFG.FMT cannot go back to linear until a machine reset: one format a boot, two-level where there is one,
//!   as other software chooses too.
//! * An event that finds the queue full toggles GERROR.EVENTQ_ABT_ERR and leaves PROD.OVFLG alone, where the document has
//!   OVFLG for that and EVENTQ_ABT_ERR for an abort: both are reported as lost events.
//! * The interrupts are pulses: the GIC has them edge-triggered, and a drain that leaves records behind says so, as no
//!   second pulse comes for them.
//! * 64-bit accesses work for the base registers only: every other one is accessed with 32 bits.
//! * An invalidation of an STE finds its device by a bus number that is cached once: buses are numbered first.
//! * An STE with stage 2 but without S2AA64 ends the emulator: [`super::stream_table`] builds them whole.
//! * CMD_TLBI_S2_IPA leaves what was combined from both stages, as the document allows: [`super::nested`] goes on with
//!   CMD_TLBI_NH_ALL.
//! * A CD whose IPS is reserved (6, 7) ends the emulator, and a guest owns its CDs: [`super::errata`] has it, and
//!   [`crate::guest::vsmmu`] shows copies.
//! * A TLBI by VA without a range drops one page of a block that was cached in pages, and translations of TTB0 and TTB1 are
//!   cached with the configuration: [`super::errata`] has both, by the identity that the emulator leaves 0.
//! * Commands of features that are not there (CMD_ATC_INV, CMD_RESUME, ..) are consumed, where the document has CERROR_ILL:
//!   none is ever sent.
//! * A write that hits a read-only entry of a warm TLB is aborted without an event, and input past 44 bits as well:
//!   nothing can be done about a record that is not there.
//! * RnW of a stage 2 fault on a context descriptor, or on the address of its tables, is that of the fetch: a fault there
//!   may say read for a write.
//! * TTB0 and TTB1 go through stage 2 with their descriptor, and a fault of either ends every transaction: our own
//!   descriptors have one table.
//!
//! All that a translation shows of it, rule by rule with QEMU's functions, is the table of `tests/qemu/causes.rs`, which a
//! comparison of random images holds complete.

use tock_registers::LocalRegisterCopy;

use super::spec::event::{EVENT1, kind};

/// Whether a fault is one of stage 2.
///
/// QEMU reports a stage 2 fault on a stage 1 table fetch with S2 = 0 and CLASS = TT. A stage 1 fault has CLASS = IN in
/// every record but F_WALK_EABT (§7.3.13 to §7.3.16), so that CLASS = TT alone says stage 2 in the others.
pub(super) fn is_stage_two(number: u8, second: LocalRegisterCopy<u64, EVENT1::Register>) -> bool {
    let fetch = second.matches_all(EVENT1::CLASS::TranslationTable);
    second.is_set(EVENT1::S2) || (fetch && number != kind::F_WALK_EABT)
}

/// The word of an F_CD_FETCH record that holds the address. The document has it in the last one; QEMU writes the one
/// before and leaves the last one zero. A context descriptor is never at address 0 of a machine with RAM elsewhere, and
/// where it is, both words are 0.
pub(super) fn cd_fetch_word(raw: [u64; 4]) -> u64 {
    if raw[3] != 0 { raw[3] } else { raw[2] }
}
