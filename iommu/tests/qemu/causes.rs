//! Where QEMU's SMMU does not do what the document says: one row each, with the place in QEMU 11.1's sources. [`predict`]
//! walks an image by the document with any set of these in force, so that a difference is explained by those alone that it
//! takes to come to exactly what QEMU did.
//!
//! Images leave out what ends QEMU (both are the tests' own): CD.IPS above 5 (`oas2bits` in hw/arm/smmuv3-internal.h) and an
//! STE with stage 2 and S2AA64 = 0 (`decode_ste_s2_cfg`). What it lacks altogether (substreams, ATS, PRI, stalls, hardware
//! updates of descriptors) is in no image either.
//!
//! [`predict`]: crate::predict

/// One of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Cause {
    SpanTwiceTooLong,
    ContextsWithoutSubstreams,
    StallsWithoutStageOne,
    ContextPointerUnchecked,
    InputAgainstS2ps,
    StartLevelUnchecked,
    HardwareUpdatesIgnored,
    BypassUnbounded,
    SilentInputSize,
    ContextFetchAddress,
    TablesWithDescriptor,
    FetchIsRead,
    WholeIpa,
    TableBaseOnly,
    StageOfTableFault,
    TableSizeUnchecked,
    Tbi1,
    BlocksEverywhere,
    TablePermissionFirst,
    UnprivilegedUnchecked,
    SizeLast,
    ConcatenatedTables,
    WarmPermissions,
}

/// What is known of one.
pub struct Row {
    pub cause: Cause,
    /// What the document says (IHI 0070; DDI 0487 where it is named).
    pub rule: &'static str,
    /// The function of QEMU's, and what it does.
    pub qemu: &'static str,
}

const fn row(cause: Cause, rule: &'static str, qemu: &'static str) -> Row {
    Row { cause, rule, qemu }
}

/// All of them.
pub const TABLE: &[Row] = &[
    row(
        Cause::SpanTwiceTooLong,
        "§7.3.3: C_BAD_STREAMID from 2^(Span - 1) on, and for Span > SPLIT + 1",
        "smmu_find_ste: C_BAD_STE, from 2^Span on",
    ),
    row(
        Cause::ContextsWithoutSubstreams,
        "§5.2, S1CDMax: IGNORED where IDR1.SSIDSIZE is 0, or with stage 1 disabled",
        "decode_ste: C_BAD_STE",
    ),
    row(
        Cause::StallsWithoutStageOne,
        "§5.2.2: S1STALLD is looked at with stage 1 only",
        "decode_ste: C_BAD_STE",
    ),
    row(
        Cause::ContextPointerUnchecked,
        "§3.4.3: S1ContextPtr past OAS without stage 2 is C_BAD_STE",
        "smmu_get_cd: reads, and records F_CD_FETCH",
    ),
    row(
        Cause::InputAgainstS2ps,
        "§5.2, S2T0SZ: an input as wide as IAS is legal",
        "s2t0sz_valid: no wider than S2PS",
    ),
    row(
        Cause::StartLevelUnchecked,
        "§5.2, S2SL0: a start level that the input does not reach is ILLEGAL",
        "s2_pgtable_config_valid: counts concatenated tables only",
    ),
    row(
        Cause::HardwareUpdatesIgnored,
        "§5.2, S2HA, S2HD: ILLEGAL without IDR0.HTTU",
        "decode_ste_s2_cfg: does not look",
    ),
    row(
        Cause::BypassUnbounded,
        "§3.4: bypass past OAS is F_ADDR_SIZE",
        "smmuv3_translate: SMMU_TRANS_BYPASS has no check",
    ),
    row(
        Cause::SilentInputSize,
        "§3.4: past IAS a stage 1 F_ADDR_SIZE is recorded without a stage 1 as well",
        "smmu_ptw: a fault of stage 1, whose CD.R is 0 then",
    ),
    row(
        Cause::ContextFetchAddress,
        "§7.3.10: FetchAddr is in the last word",
        "smmuv3_record_event: EVT_SET_ADDR, the one before",
    ),
    row(
        Cause::TablesWithDescriptor,
        "§3.3.3: TTB0 and TTB1 are used when an address is walked through them",
        "decode_cd: both go through stage 2 when the CD is read, and their faults come first",
    ),
    row(
        Cause::FetchIsRead,
        "§7.3: RnW is that of the incoming transaction",
        "smmuv3_do_translate: is that of the fetch for a CD or TTB",
    ),
    row(
        Cause::WholeIpa,
        "§7.3.13: IPA has bits [55:12]",
        "smmuv3_do_translate: addr2 has all of them",
    ),
    row(
        Cause::TableBaseOnly,
        "§3.3.2: the address of each descriptor goes through stage 2",
        "translate_table_addr_ipa, decode_cd: that of the table does; descriptors in its other stage 2 pages are taken to follow it",
    ),
    row(
        Cause::StageOfTableFault,
        "§7.3.13: a stage 2 fault of a table walk has S2 = 1, and STE.S2R decides",
        "smmu_ptw_64_s1: S2 = 0, CD.R decides, the address is that of the table",
    ),
    row(
        Cause::TableSizeUnchecked,
        "§7.3.14: a table descriptor past IPS or S2PS is F_ADDR_SIZE",
        "smmu_ptw_64_s1, smmu_ptw_64_s2: look at leaves only; a table past IPS is a fault of its own translation",
    ),
    row(
        Cause::Tbi1,
        "§5.4, TBI1 is of TTB1",
        "TBI1 in hw/arm/smmu-internal.h: takes TBI0's bit",
    ),
    row(
        Cause::BlocksEverywhere,
        "DDI 0487, D8.3.1: no blocks at level 0, nor at level 1 of 16 and 64 KiB granules",
        "is_block_pte: below level 3",
    ),
    row(
        Cause::TablePermissionFirst,
        "DDI 0487, D8.4: APTable counts at the leaf",
        "smmu_ptw_64_s1: ends the walk at the table",
    ),
    row(
        Cause::UnprivilegedUnchecked,
        "DDI 0487, D8.4.1.2: AP[1] = 0 and APTable[0] = 1 refuse unprivileged accesses",
        "is_permission_fault: looks at AP[2] only",
    ),
    row(
        Cause::SizeLast,
        "DDI 0487, D8.15: an Address size fault comes before Access flag and Permission faults",
        "smmu_ptw_64_s1, smmu_ptw_64_s2: the other way round",
    ),
    row(
        Cause::ConcatenatedTables,
        "DDI 0487, D8.2.2: up to 16 start tables of stage 2 are one",
        "smmu_ptw_64_s2: masks the index of the table away",
    ),
    row(
        Cause::WarmPermissions,
        "§7.3.16: a cached translation has the permissions of its descriptors",
        "smmu_translate: writes fault with IPA 0, silently without a stage 1; reads pass if stage 1 lets them",
    ),
];

/// A set of causes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Causes(u32);

impl Causes {
    pub fn all() -> Self {
        Self(TABLE.iter().fold(0, |set, row| set | 1 << row.cause as u32))
    }

    pub fn has(self, cause: Cause) -> bool {
        self.0 >> cause as u32 & 1 != 0
    }

    pub fn without(self, cause: Cause) -> Self {
        Self(self.0 & !(1 << cause as u32))
    }

    pub fn iter(self) -> impl Iterator<Item = Cause> {
        TABLE
            .iter()
            .map(|row| row.cause)
            .filter(move |cause| self.has(*cause))
    }
}
