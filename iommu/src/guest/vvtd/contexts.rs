//! From a guest's root table to what a source goes through (VT-d, 9.1 to 9.6): each entry is read once.

use tock_registers::fields::FieldValue;

use super::spec::{POINTER, reserved};
use crate::addr::Gpa;
use crate::hal::GuestMemory;
use crate::vtd::spec::context::{
    CONTEXT_BYTES, CONTEXT0, CONTEXT1, ROOT, ROOT_BYTES, SCALABLE_CONTEXT_BYTES, SCALABLE0,
};
use crate::vtd::spec::fault::reason;
use crate::vtd::spec::pasid::{
    DIRECTORY, DIRECTORY_BYTES, PASID_BYTES, PASID0, PASID1, PASID2, TABLE_LOG2,
};
use crate::vtd::spec::registers::RTADDR_FIELDS;

/// A guest's translation tables, and the domain that their entries are cached under. Equal ones have one shadow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tables {
    pub root: u64,
    /// Bits of input address that they translate.
    pub input_bits: u8,
    /// First-stage entries, not second-stage ones.
    pub first: bool,
    pub domain: u16,
}

/// What a source goes through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wanted {
    /// Nothing, for this reason (7.1.3).
    Refused(u8),
    /// Guest physical addresses.
    PassThrough,
    /// Tables.
    Through(Tables),
}

/// What a source goes through, and whether nobody is told of its faults (FPD).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Found {
    pub wanted: Wanted,
    pub silent: bool,
}

/// What the guest's unit takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Rules {
    /// Address bits that guests do not have.
    pub beyond: u64,
    /// CAP.SAGAW.
    pub widths: u64,
    pub scalable: bool,
    /// Bits of a PASID; 0 where there are no requests with one.
    pub pasid_bits: u8,
    pub device_tlbs: bool,
    pub page_requests: bool,
    /// Whether there are first stages in it.
    pub first_stage: bool,
}

/// A refusal on the way.
struct Refused {
    reason: u8,
    silent: bool,
}

fn refused(reason: u8, silent: bool) -> Refused {
    Refused { reason, silent }
}

/// Whether the root table in force is one of scalable mode.
pub(super) fn is_scalable(root: u64) -> bool {
    let mode = RTADDR_FIELDS::TTM.mask << RTADDR_FIELDS::TTM.shift;
    root & mode == RTADDR_FIELDS::TTM::Scalable.value
}

fn words<const N: usize>(memory: &dyn GuestMemory, at: u64) -> Option<[u64; N]> {
    let mut words = [0; N];
    memory.read_words(Gpa(at), &mut words).ok()?;
    Some(words)
}

/// Looks up what `source` goes through with the root table `root`, with a PASID or without.
pub(super) fn find(
    memory: &dyn GuestMemory,
    rules: &Rules,
    root: u64,
    source: u16,
    pasid: Option<u32>,
) -> Found {
    let mode = root & (RTADDR_FIELDS::TTM.mask << RTADDR_FIELDS::TTM.shift);
    let scalable = is_scalable(root);
    // A mode that there is not finds nothing, as a root table would that is not there.
    let known = mode == RTADDR_FIELDS::TTM::Legacy.value || scalable && rules.scalable;
    let found = match (known, scalable) {
        (false, _) => Err(refused(reason::ROOT_NOT_PRESENT, false)),
        (true, false) if pasid.is_some() => Err(refused(reason::PASID_IN_LEGACY_MODE, false)),
        (true, false) => legacy(memory, rules, root & POINTER, source),
        (true, true) => in_scalable_mode(memory, rules, root & POINTER, source, pasid),
    };
    found.unwrap_or_else(|Refused { reason, silent }| Found {
        wanted: Wanted::Refused(reason),
        silent,
    })
}

/// Reasons of one table: it could not be read, the entry is not present, it has reserved bits.
type Reasons = [u8; 3];

fn legacy(
    memory: &dyn GuestMemory,
    rules: &Rules,
    root: u64,
    source: u16,
) -> Result<Found, Refused> {
    const ROOTS: Reasons = [
        reason::ROOT_ACCESS,
        reason::ROOT_NOT_PRESENT,
        reason::ROOT_RESERVED,
    ];
    let at = root + u64::from(source >> 8) * ROOT_BYTES as u64;
    let [low, high] = words(memory, at).ok_or(refused(ROOTS[0], false))?;
    let table = link(low, high, rules, &ROOTS)?;
    let at = table + u64::from(source & 0xff) * CONTEXT_BYTES as u64;
    let entry = words::<2>(memory, at).ok_or(refused(reason::CONTEXT_ACCESS, false))?;
    let [first, second] = entry;
    let silent = first & CONTEXT0::FPD::SET.value != 0;
    if first & CONTEXT0::P::SET.value == 0 {
        return Err(refused(reason::CONTEXT_NOT_PRESENT, silent));
    }
    let [in_first, in_second] = reserved::CONTEXT;
    if first & (in_first | rules.beyond) != 0 || second & in_second != 0 {
        return Err(refused(reason::CONTEXT_RESERVED, silent));
    }
    let kind = first & CONTEXT0::TT.mask << CONTEXT0::TT.shift;
    let width = second & CONTEXT1::AW.mask;
    let bits = second_stage_bits(width, rules);
    let bits = bits.ok_or(refused(reason::CONTEXT_INVALID, silent))?;
    let wanted = if kind == CONTEXT0::TT::SecondStage.value {
        Wanted::Through(Tables {
            root: first & POINTER,
            input_bits: bits,
            first: false,
            domain: (second >> CONTEXT1::DID.shift & CONTEXT1::DID.mask) as u16,
        })
    } else if kind == CONTEXT0::TT::PassThrough.value {
        Wanted::PassThrough
    } else {
        return Err(refused(reason::CONTEXT_INVALID, silent));
    };
    Ok(Found { wanted, silent })
}

/// The table that a root entry leads to; `rest` has to be 0.
fn link(entry: u64, rest: u64, rules: &Rules, reasons: &Reasons) -> Result<u64, Refused> {
    let [_, not_present, has_reserved] = *reasons;
    if entry & ROOT::P::SET.value == 0 {
        return Err(refused(not_present, false));
    }
    if entry & (reserved::ROOT | rules.beyond) != 0 || rest != 0 {
        return Err(refused(has_reserved, false));
    }
    Ok(entry & POINTER)
}

/// Bits of input of second stages of this AW (9.3, 9.6), where the unit has them.
fn second_stage_bits(width: u64, rules: &Rules) -> Option<u8> {
    (rules.widths >> width & 1 != 0).then_some(30 + 9 * width as u8)
}

/// A context entry of scalable mode that is sound.
struct Context {
    directory: u64,
    /// Entries of the directory.
    tables: u32,
    /// Requests with PASID.
    pasids: bool,
    /// Page requests.
    requests: bool,
    silent: bool,
}

fn context(
    memory: &dyn GuestMemory,
    rules: &Rules,
    root: u64,
    source: u16,
) -> Result<Context, Refused> {
    const ROOTS: Reasons = [
        reason::SCALABLE_ROOT,
        reason::SCALABLE_ROOT + 1,
        reason::SCALABLE_ROOT + 2,
    ];
    // 9.2: a word for devices 0 to 15, and one for the others.
    let at = root + u64::from(source >> 7) * (ROOT_BYTES as u64 / 2);
    let [entry] = words(memory, at).ok_or(refused(ROOTS[0], false))?;
    let table = link(entry, 0, rules, &ROOTS)?;
    let at = table + u64::from(source & 0x7f) * SCALABLE_CONTEXT_BYTES as u64;
    let entry = words::<4>(memory, at).ok_or(refused(reason::SCALABLE_CONTEXT, false))?;
    let [first, second, third, fourth] = entry;
    let has = |field: FieldValue<u64, SCALABLE0::Register>| first & field.value != 0;
    let silent = has(SCALABLE0::FPD::SET);
    if !has(SCALABLE0::P::SET) {
        return Err(refused(reason::SCALABLE_CONTEXT + 1, silent));
    }
    // What is not offered is reserved.
    let absent = SCALABLE0::DTE.val((!rules.device_tlbs).into())
        + SCALABLE0::PRE.val((!rules.page_requests).into())
        + SCALABLE0::PASIDE.val((rules.pasid_bits == 0).into());
    let [in_first, in_second] = reserved::SCALABLE;
    if first & (in_first | absent.value | rules.beyond) != 0
        || second & in_second != 0
        || third | fourth != 0
    {
        return Err(refused(reason::SCALABLE_CONTEXT + 2, silent));
    }
    if has(SCALABLE0::PRE::SET) && !has(SCALABLE0::DTE::SET) {
        return Err(refused(reason::SCALABLE_CONTEXT + 3, silent));
    }
    let size = first >> SCALABLE0::PDTS.shift & SCALABLE0::PDTS.mask;
    Ok(Context {
        directory: first & POINTER,
        tables: 1 << (size + 7),
        pasids: has(SCALABLE0::PASIDE::SET),
        requests: has(SCALABLE0::PRE::SET),
        silent,
    })
}

/// Whether a source may ask for pages; else the reason, and whether nobody is told of it (7.1.3, table 30).
pub(super) fn may_ask(
    memory: &dyn GuestMemory,
    rules: &Rules,
    root: u64,
    source: u16,
    pasid: Option<u32>,
) -> Result<(), (u8, bool)> {
    if !is_scalable(root) {
        return Err((reason::PAGE_REQUEST_IN_LEGACY_MODE, false));
    }
    let found = context(memory, rules, root & POINTER, source);
    let context = found.map_err(|Refused { reason, silent }| (reason, silent))?;
    if !context.requests {
        return Err((reason::PAGE_REQUEST_DISABLED, context.silent));
    }
    let found = find(memory, rules, root, source, pasid);
    match found.wanted {
        Wanted::Refused(reason) => Err((reason, found.silent)),
        _ => Ok(()),
    }
}

/// Where no PASID is any more.
pub(super) const PAST: u32 = 1 << 20;
/// Directory entries that are looked at together at most.
const SKIPPED: u32 = 64;

/// The first PASID from `from` on, which is not 0, that the guest may have an entry for, and what it took to find it. There is
/// none from [`PAST`] on.
pub(super) fn next_pasid(
    memory: &dyn GuestMemory,
    rules: &Rules,
    root: u64,
    source: u16,
    from: u32,
) -> (u32, u32) {
    if rules.pasid_bits == 0 || from >= PAST || !is_scalable(root) {
        return (PAST, 0);
    }
    let Ok(context) = context(memory, rules, root & POINTER, source) else {
        return (PAST, 1);
    };
    if !context.pasids {
        return (PAST, 1);
    }
    let most = context
        .tables
        .min(1 << rules.pasid_bits.saturating_sub(TABLE_LOG2));
    let first = from >> TABLE_LOG2;
    for index in (first..most).take(SKIPPED as usize) {
        let at = context.directory + u64::from(index) * DIRECTORY_BYTES as u64;
        let entry = words::<1>(memory, at);
        if entry.is_some_and(|[entry]| entry & DIRECTORY::P::SET.value != 0) {
            return (from.max(index << TABLE_LOG2), 1 + index - first);
        }
    }
    match first.saturating_add(SKIPPED) {
        next if next < most => (next << TABLE_LOG2, SKIPPED),
        _ => (PAST, most.saturating_sub(first) + 1),
    }
}

fn in_scalable_mode(
    memory: &dyn GuestMemory,
    rules: &Rules,
    root: u64,
    source: u16,
    pasid: Option<u32>,
) -> Result<Found, Refused> {
    if pasid.is_some_and(|pasid| pasid >> rules.pasid_bits != 0) {
        return Err(refused(reason::PASID_BEYOND, false));
    }
    let context = context(memory, rules, root, source)?;
    let refused = |reason| Err(refused(reason, context.silent));
    // Without ECAP.RPS requests without PASID are those of PASID 0, whatever RID_PASID says (9.4).
    let pasid = match pasid {
        Some(_) if !context.pasids => return refused(reason::PASID_DISABLED),
        Some(pasid) if pasid >> TABLE_LOG2 >= context.tables => {
            return refused(reason::PASID_PAST_DIRECTORY);
        }
        Some(0) => return refused(reason::PASID_OF_OTHERS),
        Some(pasid) => pasid,
        None => 0,
    };
    of_pasid(memory, rules, &context, pasid)
}

/// What the entry of a PASID says (9.5, 9.6).
fn of_pasid(
    memory: &dyn GuestMemory,
    rules: &Rules,
    context: &Context,
    pasid: u32,
) -> Result<Found, Refused> {
    const _: () = assert!(DIRECTORY_BYTES == 8 && PASID_BYTES == 64 && TABLE_LOG2 == 6);
    let at = context.directory + u64::from(pasid >> TABLE_LOG2) * DIRECTORY_BYTES as u64;
    let [entry] = words(memory, at).ok_or(refused(reason::PASID, false))?;
    let silent = context.silent | (entry & DIRECTORY::FPD::SET.value != 0);
    if entry & DIRECTORY::P::SET.value == 0 {
        return Err(refused(reason::PASID + 1, silent));
    }
    if entry & (reserved::DIRECTORY | rules.beyond) != 0 {
        return Err(refused(reason::PASID + 2, silent));
    }
    let in_table = u64::from(pasid) & ((1 << TABLE_LOG2) - 1);
    let at = (entry & POINTER) + in_table * PASID_BYTES as u64;
    let entry = words::<8>(memory, at).ok_or(refused(reason::PASID + 8, false))?;
    let [first, second, third, ..] = entry;
    let silent = silent | (first & PASID0::FPD::SET.value != 0);
    if first & PASID0::P::SET.value == 0 {
        return Err(refused(reason::PASID + 9, silent));
    }
    let [in_first, in_second] = reserved::PASID;
    if first & (in_first | rules.beyond) != 0 || second & in_second != 0 {
        return Err(refused(reason::PASID + 10, silent));
    }
    let invalid = || refused(reason::PASID + 11, silent);
    let kind = first & PASID0::PGTT.mask << PASID0::PGTT.shift;
    let domain = (second >> PASID1::DID.shift & PASID1::DID.mask) as u16;
    let wanted = if kind == PASID0::PGTT::SecondStage.value {
        let width = first >> PASID0::AW.shift & PASID0::AW.mask;
        Wanted::Through(Tables {
            root: first & POINTER,
            input_bits: second_stage_bits(width, rules).ok_or_else(invalid)?,
            first: false,
            domain,
        })
    } else if kind == PASID0::PGTT::FirstStage.value && rules.first_stage {
        // Four levels, and no more than user requests.
        let levels = third >> PASID2::FSPM.shift & PASID2::FSPM.mask;
        let extended = PASID2::SRE::SET + PASID2::EAFE::SET;
        if levels != 0 || third & (extended.value | rules.beyond) != 0 {
            return Err(invalid());
        }
        Wanted::Through(Tables {
            root: third & POINTER,
            input_bits: 48,
            first: true,
            domain,
        })
    } else if kind == PASID0::PGTT::PassThrough.value {
        Wanted::PassThrough
    } else {
        return Err(invalid());
    };
    Ok(Found { wanted, silent })
}
