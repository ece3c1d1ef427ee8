//! Every command of a non-secure SMMU, each built whole (IHI 0070, chapter 4): fields in, two words out, reserved bits
//! zero. Which of them make sense on which SMMU is decided by [`invalidation`](super::invalidation).

use super::spec::command::{ATC_SIZE_ALL, CFGI_ALL_RANGE, CMD0, CMD1};
use crate::addr::{Hpa, Iova};
use crate::id::{CacheTag, DeviceId};

/// One command as it stands in the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Command(pub [u64; 2]);

/// Which TLB entries a command by address removes (§4.4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// CMD_TLBI_NH_VA: stage 1, one address space.
    Va(CacheTag, u16),
    /// CMD_TLBI_NH_VAA: stage 1, every address space.
    Vaa(CacheTag),
    /// CMD_TLBI_S2_IPA: stage 2 alone.
    Ipa(CacheTag),
    /// CMD_TLBI_EL2_VA.
    El2Va(u16),
    /// CMD_TLBI_EL2_VAA.
    El2Vaa,
}

impl Scope {
    fn first(self) -> u64 {
        let vmid = |tag: CacheTag| CMD0::VMID.val(tag.0.into());
        let asid = |asid: u16| CMD0::ASID.val(asid.into());
        match self {
            Self::Va(tag, space) => (CMD0::OPCODE::TlbiNhVa + vmid(tag) + asid(space)).value,
            Self::Vaa(tag) => (CMD0::OPCODE::TlbiNhVaa + vmid(tag)).value,
            Self::Ipa(tag) => (CMD0::OPCODE::TlbiS2Ipa + vmid(tag)).value,
            Self::El2Va(space) => (CMD0::OPCODE::TlbiEl2Va + asid(space)).value,
            Self::El2Vaa => CMD0::OPCODE::TlbiEl2Vaa.value,
        }
    }

    fn address(self, address: u64) -> u64 {
        match self {
            Self::Ipa(_) => CMD1::ADDRESS.val(address >> 12).value,
            _ => CMD1::VA.val(address >> 12).value,
        }
    }
}

/// A range of a TLBI (§4.4.1.1): (`num` + 1) × 2^`scale` granules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// log2 of the granule: 12, 14 or 16.
    pub granule: u8,
    /// Units, minus one: 0 to 31.
    pub num: u8,
    /// log2 of a unit: 0 to 31.
    pub scale: u8,
    /// Level of the entries, or 0.
    pub level: u8,
}

/// What becomes of a stalled transaction (§4.7.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resume {
    /// It is translated once more.
    Retry,
    /// It ends as a bus error.
    Abort,
    /// It ends as RAZ/WI.
    Terminate,
}

/// Answer to a group of page requests (§4.5.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageResponse {
    /// The device sends no more requests.
    Failure,
    /// These pages will not come.
    Invalid,
    /// They are there.
    Success,
}

/// How a CMD_SYNC says that it is complete, beside being consumed (§4.7.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// Not at all.
    None,
    /// By the wired interrupt, where there are no messages.
    Irq,
    /// By an event to waiting CPUs; only where IDR0.SEV is 1.
    Event,
    /// By writing `data` to `address`; only where IDR0.MSI is 1.
    Message {
        /// Where to; a multiple of 4.
        address: Hpa,
        /// What.
        data: u32,
        /// Normal write-back inner shareable memory, not a device register.
        memory: bool,
    },
}

const fn stream(device: DeviceId) -> u64 {
    (device.0 as u64) << 32
}

impl Command {
    /// CMD_PREFETCH_CONFIG (§4.2.1).
    pub fn prefetch_config(device: DeviceId) -> Self {
        Self([CMD0::OPCODE::PrefetchConfig.value | stream(device), 0])
    }

    /// CMD_CFGI_STE (§4.3.1). Not `leaf`: the level 1 descriptor too.
    pub fn cfgi_ste(device: DeviceId, leaf: bool) -> Self {
        Self([
            CMD0::OPCODE::CfgiSte.value | stream(device),
            CMD1::LEAF.val(leaf.into()).value,
        ])
    }

    /// CMD_CFGI_STE_RANGE (§4.3.2): the 2^`log2` (1 to 31) streams that `device` is one of.
    pub fn cfgi_ste_range(device: DeviceId, log2: u8) -> Self {
        Self([
            CMD0::OPCODE::CfgiSteRange.value | stream(device),
            CMD1::RANGE.val(u64::from(log2) - 1).value,
        ])
    }

    /// CMD_CFGI_ALL (§4.3.6).
    pub fn cfgi_all() -> Self {
        Self([
            CMD0::OPCODE::CfgiSteRange.value,
            CMD1::RANGE.val(CFGI_ALL_RANGE).value,
        ])
    }

    /// CMD_CFGI_CD (§4.3.3). Not `leaf`: the level 1 descriptor too.
    pub fn cfgi_cd(device: DeviceId, substream: u32, leaf: bool) -> Self {
        Self([
            CMD0::OPCODE::CfgiCd.value | stream(device) | CMD0::SSID.val(substream.into()).value,
            CMD1::LEAF.val(leaf.into()).value,
        ])
    }

    /// CMD_CFGI_CD_ALL (§4.3.4).
    pub fn cfgi_cd_all(device: DeviceId) -> Self {
        Self([CMD0::OPCODE::CfgiCdAll.value | stream(device), 0])
    }

    /// CMD_CFGI_VMS_PIDM (§4.3.5); only where IDR3.MPAM is 1.
    pub fn cfgi_vms_pidm(tag: CacheTag) -> Self {
        Self([
            (CMD0::OPCODE::CfgiVmsPidm + CMD0::VMID.val(tag.0.into())).value,
            0,
        ])
    }

    /// CMD_TLBI_NH_ALL (§4.4.2.1): all of stage 1, and what was combined with it, of one VMID.
    pub fn tlbi_nh_all(tag: CacheTag) -> Self {
        Self([
            (CMD0::OPCODE::TlbiNhAll + CMD0::VMID.val(tag.0.into())).value,
            0,
        ])
    }

    /// CMD_TLBI_NH_ASID (§4.4.2.2).
    pub fn tlbi_nh_asid(tag: CacheTag, asid: u16) -> Self {
        Self([
            (CMD0::OPCODE::TlbiNhAsid + CMD0::VMID.val(tag.0.into()) + CMD0::ASID.val(asid.into()))
                .value,
            0,
        ])
    }

    /// CMD_TLBI_EL2_ALL (§4.4.2.7); only where IDR0.HYP is 1.
    pub fn tlbi_el2_all() -> Self {
        Self([CMD0::OPCODE::TlbiEl2All.value, 0])
    }

    /// CMD_TLBI_EL2_ASID (§4.4.2.10); only where IDR0.HYP is 1 and EL2 has ASIDs.
    pub fn tlbi_el2_asid(asid: u16) -> Self {
        Self([
            (CMD0::OPCODE::TlbiEl2Asid + CMD0::ASID.val(asid.into())).value,
            0,
        ])
    }

    /// A TLBI by address of whatever entry translates `address` (§4.4.1).
    pub fn tlbi_address(scope: Scope, address: Iova, leaf: bool) -> Self {
        Self([
            scope.first(),
            scope.address(address.0) | CMD1::LEAF.val(leaf.into()).value,
        ])
    }

    /// A TLBI by range from `address` on (§4.4.1.1); only where IDR3.RIL is 1. NUM, SCALE and the level must not all be 0:
    /// that is reserved.
    pub fn tlbi_range(scope: Scope, address: Iova, range: Range, leaf: bool) -> Self {
        debug_assert!(range.num != 0 || range.scale != 0 || range.level != 0);
        let Self([first, second]) = Self::tlbi_address(scope, address, leaf);
        let granule = match range.granule {
            12 => CMD1::TG::Granule4K,
            14 => CMD1::TG::Granule16K,
            _ => CMD1::TG::Granule64K,
        };
        Self([
            first | (CMD0::NUM.val(range.num.into()) + CMD0::SCALE.val(range.scale.into())).value,
            second | (granule + CMD1::TTL.val(range.level.into())).value,
        ])
    }

    /// CMD_TLBI_S12_VMALL (§4.4.3.2): both stages of one VMID.
    pub fn tlbi_s12_vmall(tag: CacheTag) -> Self {
        Self([
            (CMD0::OPCODE::TlbiS12Vmall + CMD0::VMID.val(tag.0.into())).value,
            0,
        ])
    }

    /// CMD_TLBI_NSNH_ALL (§4.4.4.1): everything that is neither secure nor EL2's.
    pub fn tlbi_nsnh_all() -> Self {
        Self([CMD0::OPCODE::TlbiNsnhAll.value, 0])
    }

    /// CMD_ATC_INV (§4.5.1) of 2^`log2_pages` pages of 4 KiB, naturally aligned, or of everything. Without `substream`: of
    /// transactions without PASID.
    pub fn atc_inv(device: DeviceId, substream: Option<u32>, range: Option<(Iova, u8)>) -> Self {
        let second = match range {
            Some((address, log2_pages)) => {
                CMD1::SIZE.val(log2_pages.into()) + CMD1::VA.val(address.0 >> 12)
            }
            None => CMD1::SIZE.val(ATC_SIZE_ALL),
        };
        Self([
            CMD0::OPCODE::AtcInv.value | stream(device) | substream_bits(substream),
            second.value,
        ])
    }

    /// CMD_ATC_INV with Global: of every PASID of `device`; SSV must be 1 with it (§4.5.1).
    pub fn atc_inv_global(device: DeviceId, range: Option<(Iova, u8)>) -> Self {
        let Self([first, second]) = Self::atc_inv(device, Some(0), range);
        Self([first | CMD0::GLOBAL::SET.value, second])
    }

    /// CMD_PRI_RESP (§4.5.2).
    pub fn pri_resp(
        device: DeviceId,
        substream: Option<u32>,
        group: u16,
        response: PageResponse,
    ) -> Self {
        let response = match response {
            PageResponse::Failure => CMD1::RESP::Failure,
            PageResponse::Invalid => CMD1::RESP::Invalid,
            PageResponse::Success => CMD1::RESP::Success,
        };
        Self([
            CMD0::OPCODE::PriResp.value | stream(device) | substream_bits(substream),
            (response + CMD1::PRGI.val(group.into())).value,
        ])
    }

    /// CMD_RESUME (§4.7.1).
    pub fn resume(device: DeviceId, tag: u16, action: Resume) -> Self {
        let action = match action {
            Resume::Retry => CMD0::AC::SET,
            Resume::Abort => CMD0::AB::SET,
            Resume::Terminate => CMD0::AC::CLEAR,
        };
        Self([
            (CMD0::OPCODE::Resume + action).value | stream(device),
            CMD1::STAG.val(tag.into()).value,
        ])
    }

    /// CMD_STALL_TERM (§4.7.2): every stalled transaction of `device` ends.
    pub fn stall_term(device: DeviceId) -> Self {
        Self([CMD0::OPCODE::StallTerm.value | stream(device), 0])
    }

    /// CMD_SYNC (§4.7.3).
    pub fn sync(signal: Signal) -> Self {
        let sync = CMD0::OPCODE::Sync;
        match signal {
            Signal::None => Self([(sync + CMD0::CS::None).value, 0]),
            Signal::Irq => Self([(sync + CMD0::CS::Irq).value, 0]),
            Signal::Event => Self([(sync + CMD0::CS::Sev).value, 0]),
            Signal::Message {
                address,
                data,
                memory,
            } => {
                let attributes = if memory {
                    CMD0::MSH::Inner + CMD0::MSI_ATTR::WriteBack
                } else {
                    CMD0::MSH::NonShareable + CMD0::MSI_ATTR::DeviceNGnRE
                };
                Self([
                    (sync + CMD0::CS::Irq + attributes + CMD0::MSI_DATA.val(data.into())).value,
                    CMD1::MSI_ADDRESS.val(address.0 >> 2).value,
                ])
            }
        }
    }
}

fn substream_bits(substream: Option<u32>) -> u64 {
    substream.map_or(0, |substream| {
        (CMD0::SSV::SET + CMD0::SSID.val(substream.into())).value
    })
}
