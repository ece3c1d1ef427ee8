//! The allow-list: which bits of the CPU's own answer a partition sees.

/// One leaf.
pub struct Row {
    pub leaf: u32,
    /// `None`: every one.
    pub subleaf: Option<u32>,
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

const NONE: u32 = 0;
const ALL: u32 = !0;

const fn row(leaf: u32, eax: u32, ebx: u32, ecx: u32, edx: u32) -> Row {
    Row {
        leaf,
        subleaf: None,
        eax,
        ebx,
        ecx,
        edx,
    }
}

const fn sub(leaf: u32, subleaf: u32, registers: [u32; 4]) -> Row {
    let [eax, ebx, ecx, edx] = registers;
    Row {
        leaf,
        subleaf: Some(subleaf),
        eax,
        ebx,
        ecx,
        edx,
    }
}

const fn bits<const N: usize>(numbers: [u32; N]) -> u32 {
    let mut all = 0;
    let mut at = 0;
    while at < N {
        all |= 1 << numbers[at];
        at += 1;
    }
    all
}

/// Leaf 1, ECX. Not listed: DTES64, MONITOR, DS-CPL, VMX, SMX, EIST, TM2, CNXT-ID, SDBG, xTPR, PDCM, PCID, DCA; x2APIC, the
/// TSC deadline and OSXSAVE are the vCPU's own.
const FEATURES_C: u32 = bits([
    0,  // SSE3
    1,  // PCLMULQDQ
    9,  // SSSE3
    12, // FMA
    13, // CMPXCHG16B
    19, // SSE4.1
    20, // SSE4.2
    22, // MOVBE
    23, // POPCNT
    25, // AES
    26, // XSAVE
    28, // AVX
    29, // F16C
    30, // RDRAND
]);

/// Leaf 1, EDX. Not listed: VME, MCE, MCA, PSN, DS, ACPI, HTT, TM, PBE; APIC is the vCPU's own.
const FEATURES_D: u32 = bits([
    0,  // FPU
    2,  // DE
    3,  // PSE
    4,  // TSC
    5,  // MSR
    6,  // PAE
    8,  // CMPXCHG8B
    11, // SYSENTER
    12, // MTRR: all memory is write-back, see `msr`
    13, // PGE
    15, // CMOV
    16, // PAT
    17, // PSE-36
    19, // CLFLUSH
    23, // MMX
    24, // FXSR
    25, // SSE
    26, // SSE2
    27, // SS
]);

/// Leaf 7, EBX. Not listed: TSC_ADJUST, SGX, HLE, INVPCID, PQM, MPX, PQE, RTM, PT.
const EXTENDED_B: u32 = bits([
    0,  // FSGSBASE
    3,  // BMI1
    5,  // AVX2
    6,  // FDP_EXCPTN_ONLY
    7,  // SMEP
    8,  // BMI2
    9,  // ERMS
    13, // FPU CS and DS are zero
    16, // AVX512F
    17, // AVX512DQ
    18, // RDSEED
    19, // ADX
    20, // SMAP
    21, // AVX512_IFMA
    23, // CLFLUSHOPT
    24, // CLWB
    28, // AVX512CD
    29, // SHA
    30, // AVX512BW
    31, // AVX512VL
]);

/// Leaf 7, ECX. Not listed: PREFETCHWT1, PKU, OSPKE, WAITPKG, CET, TME, LA57, KL, ENQCMD, SGX_LC, PKS.
const EXTENDED_C: u32 = bits([
    1,  // AVX512_VBMI
    2,  // UMIP
    6,  // AVX512_VBMI2
    8,  // GFNI
    9,  // VAES
    10, // VPCLMULQDQ
    11, // AVX512_VNNI
    12, // AVX512_BITALG
    14, // AVX512_VPOPCNTDQ
    22, // RDPID: IA32_TSC_AUX is the vCPU's own
    25, // CLDEMOTE
    27, // MOVDIRI
    28, // MOVDIR64B
]);

/// Leaf 7, EDX. Not listed: whatever is controlled by IA32_SPEC_CTRL, IA32_PRED_CMD and their like, PCONFIG, AMX, UINTR.
const EXTENDED_D: u32 = bits([
    4,  // FSRM
    8,  // AVX512_VP2INTERSECT
    10, // MD_CLEAR
    14, // SERIALIZE
    23, // AVX512_FP16
]);

/// Leaf 0x8000_0001, ECX. Not listed: CmpLegacy, SVM, ExtApicSpace, OSVW, IBS, SKINIT, WDT, LWP, TopologyExtensions,
/// performance counters, MONITORX.
const AMD_C: u32 = bits([
    0,  // LAHF
    4,  // AltMovCr8
    5,  // ABM
    6,  // SSE4A
    7,  // misaligned SSE
    8,  // PREFETCHW
    11, // XOP
    16, // FMA4
    21, // TBM
]);

/// Leaf 0x8000_0001, EDX: leaf 1's again, and its own.
const AMD_D: u32 = FEATURES_D & 0x0183_f1ff
    | bits([
        11, // SYSCALL
        20, // NX
        22, // MMX extensions
        25, // FFXSR
        26, // 1 GiB pages
        27, // RDTSCP
        29, // long mode
        30, // 3DNow! extensions
        31, // 3DNow!
    ]);

/// Leaf 0x8000_0008, EBX. Not listed: INVLPGB, RDPRU, and what IA32_SPEC_CTRL and its like control.
const AMD_SIZES_B: u32 = bits([
    0, // CLZERO
    2, // error pointers are restored
    9, // WBNOINVD
]);

/// Leaf 0xd, subleaf 1, EAX. Not listed: XSAVES, XFD.
const XSAVE_A: u32 = bits([
    0, // XSAVEOPT
    1, // XSAVEC
    2, // XGETBV with ECX = 1
]);

/// Everything that is the CPU's to say.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    // The vendor; the highest leaf is ours.
    row(0x0, NONE, ALL, ALL, ALL),
    // Version; CLFLUSH size. Counts and the APIC ID are the partition's.
    row(0x1, ALL, 0xff00, FEATURES_C, FEATURES_D),
    // Cache descriptors.
    row(0x2, ALL, ALL, ALL, ALL),
    // Caches without who shares them.
    row(0x4, 0x0000_03ff, ALL, ALL, 7),
    sub(0x7, 0, [NONE, EXTENDED_B, EXTENDED_C, EXTENDED_D]),
    // AVX-VNNI, AVX512_BF16, fast short strings.
    sub(0x7, 1, [1 << 4 | 1 << 5 | 7 << 10, NONE, NONE, NONE]),
    sub(0xd, 1, [XSAVE_A, NONE, NONE, NONE]),
    // The vendor, as AMD repeats it.
    row(0x8000_0000, NONE, ALL, ALL, ALL),
    // Version; the package's type is not the partition's.
    row(0x8000_0001, ALL, NONE, AMD_C, AMD_D),
    // The name.
    row(0x8000_0002, ALL, ALL, ALL, ALL),
    row(0x8000_0003, ALL, ALL, ALL, ALL),
    row(0x8000_0004, ALL, ALL, ALL, ALL),
    // Caches and TLBs.
    row(0x8000_0005, ALL, ALL, ALL, ALL),
    row(0x8000_0006, ALL, ALL, ALL, ALL),
    // Width of virtual addresses; that of physical ones and the counts are the partition's.
    row(0x8000_0008, 0xffff, AMD_SIZES_B, NONE, NONE),
    row(0x8000_0019, ALL, ALL, NONE, NONE),
    // How wide SSE units are.
    row(0x8000_001a, 7, NONE, NONE, NONE),
];
