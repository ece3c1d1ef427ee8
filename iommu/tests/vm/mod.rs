//! A VM on model SMMUs, by way of the objects: guest memory, a nest parent, slices, and a guest that writes its own
//! stage 1. Tables and descriptors of the guest are words of the documents, written here by hand.
#![allow(dead_code, reason = "each test binary uses a part")]

#[path = "../piece/mod.rs"]
mod piece;

use std::cell::Cell;
use std::sync::Arc;

use iommu::addr::Iova;
use iommu::fault::Fault;
use iommu::hal::Platform;
use iommu::id::{DeviceId, IommuIndex};
use iommu::model::memory::Memory;
use iommu::model::smmu::{Config, Denied, Initiator, SmmuModel};
use iommu::object::driver::{Access, DeviceInfo, Driver, UserData};
use iommu::object::unit::Unit;
use iommu::object::{
    Context, Delivery, Device, FaultQueue, HwptNested, HwptPaging, Ioas, Progress, Viommu,
};
use iommu::physical::{Drained, PhysicalIommu};
use iommu::smmuv3::slice::{COMMANDS, STAGE_ONE, VIOMMU};
use iommu::smmuv3::{Smmu, event};
pub use piece::Piece;

pub const PAGE: u64 = 4096;
/// Where the machine has the guest's memory, and where the guest has it.
pub const RAM: u64 = 0x2000_0000;
pub const GUEST: u64 = 0x4000_0000;
pub const BYTES: u64 = 0x100_0000;
/// First page that the guest makes tables of; what is below is for its data.
const TABLES: u64 = GUEST + 0x80_0000;

pub type SmmuUnit = Unit<Memory, Smmu<Memory, SmmuModel>>;

/// One SMMU and its driver.
pub struct Iommu {
    pub model: SmmuModel,
    pub unit: Arc<SmmuUnit>,
}

impl Iommu {
    pub fn driver(&self) -> Arc<dyn Driver> {
        Arc::clone(&self.unit) as Arc<dyn Driver>
    }

    pub fn info<'a>(&self, streams: &'a [DeviceId]) -> DeviceInfo<'a> {
        DeviceInfo {
            driver: self.driver(),
            streams,
            group: streams[0].0,
            pasid_bits: 0,
            ats: false,
            reserved: &[],
            coherent: true,
            isolated_messages: true,
            shares_page_requests: false,
        }
    }
}

/// One VM, its memory mapped.
pub struct Vm {
    pub memory: Memory,
    pub iommus: Vec<Iommu>,
    pub context: Context,
    pub ioas: Ioas,
    pub parent: HwptPaging,
    next: Cell<u64>,
}

impl Vm {
    /// Behind one SMMU for each of `configs`.
    pub fn new(configs: &[Config]) -> Self {
        let memory = if configs[0].coherent {
            Memory::coherent()
        } else {
            Memory::non_coherent()
        };
        memory.add_ram(RAM, BYTES);
        let iommus: Vec<_> = (0..)
            .zip(configs)
            .map(|(index, config)| {
                let model = SmmuModel::new(*config, &memory);
                let platform = Arc::new(memory.clone());
                let index = IommuIndex(index);
                let smmu = Smmu::start(index, model.clone(), Arc::clone(&platform));
                let smmu = smmu.expect("it starts");
                let unit = Arc::new(Unit::new(index, smmu, platform, 39).with_pasids());
                Iommu { model, unit }
            })
            .collect();
        let context = Context::new(4096, 64).expect("memory");
        let ioas = context.ioas().expect("memory");
        let ram = Arc::new(Piece(RAM, BYTES));
        let access = Access::READ | Access::WRITE;
        ioas.map(Iova(GUEST), ram, 0, BYTES, access)
            .expect("mapped");
        let parent = ioas.nest_parent(&iommus[0].driver()).expect("a parent");
        Self {
            memory,
            iommus,
            context,
            ioas,
            parent,
            next: Cell::new(TABLES),
        }
    }

    pub fn one(config: Config) -> Self {
        Self::new(&[config])
    }

    pub fn model(&self) -> &SmmuModel {
        &self.iommus[0].model
    }

    pub fn slice(&self, iommu: usize) -> Viommu {
        let driver = self.iommus[iommu].driver();
        let slice = self.parent.viommu(&driver, VIOMMU, UserData::default());
        slice.expect("a slice")
    }

    pub fn device(&self, iommu: usize, stream: u32) -> Device {
        let streams = [DeviceId(stream)];
        let info = self.iommus[iommu].info(&streams);
        self.context.bind(&info).expect("bound")
    }

    /// The guest stores a word.
    pub fn store(&self, ipa: u64, value: u64) {
        assert!((GUEST..GUEST + BYTES).contains(&ipa));
        self.memory.store(RAM + (ipa - GUEST), value);
        self.memory.write_barrier();
    }

    pub fn load(&self, ipa: u64) -> u64 {
        self.memory.load(RAM + (ipa - GUEST))
    }

    /// `bytes` of the guest's memory that nobody uses, aligned to them.
    pub fn take(&self, bytes: u64) -> u64 {
        let at = self.next.get().next_multiple_of(bytes);
        self.next.set(at + bytes);
        assert!(at + bytes <= GUEST + BYTES, "the guest has no more memory");
        at
    }

    /// Gives every record to its owner.
    pub fn serve(&self, iommu: usize) -> Vec<(Fault, Delivery)> {
        let mut all = Vec::new();
        let iommu = &self.iommus[iommu];
        loop {
            let mut faults = [event::decode(IommuIndex(0), [0; 4]); 5];
            let drained = iommu.unit.physical().lock().drain_faults(&mut faults);
            let Drained { count, lost, more } = drained;
            for fault in &faults[..count] {
                all.push((*fault, self.context.deliver(fault)));
            }
            if lost {
                self.context.faults_lost(iommu.unit.index());
            }
            if !more {
                return all;
            }
        }
    }

    /// Where a transaction goes, as the guest knows it.
    pub fn reaches(
        &self,
        iommu: usize,
        from: impl Into<Initiator>,
        iova: u64,
    ) -> Result<u64, Denied> {
        let at = self.iommus[iommu].model.translate(from, iova, true)?;
        Ok(at - RAM + GUEST)
    }
}

/// A stage 1 of the guest's, for the lower half of addresses.
pub struct Space {
    pub root: u64,
    granule: u32,
    bits: u32,
    asid: u64,
}

/// A page: AF, AP[1], nG, inner shareable (DDI 0487, D8.3.2).
pub const LEAF: u64 = 3 | 1 << 6 | 3 << 8 | 1 << 10 | 1 << 11;

impl Space {
    /// An empty one with granules of 2^`granule` bytes and inputs of `bits` bits.
    pub fn new(vm: &Vm, granule: u32, bits: u32, asid: u16) -> Self {
        Self {
            root: vm.take(1 << granule),
            granule,
            bits,
            asid: asid.into(),
        }
    }

    /// Tables of 4 KiB, 39 bits.
    pub fn plain(vm: &Vm, asid: u16) -> Self {
        Self::new(vm, 12, 39, asid)
    }

    /// Where the last-level entry of `va` is; tables on the way are made.
    pub fn entry(&self, vm: &Vm, va: u64) -> u64 {
        let step = self.granule - 3;
        let levels = (self.bits - self.granule).div_ceil(step);
        let mut table = self.root;
        for level in (1..levels).rev() {
            let entry = table + (va >> (self.granule + level * step) & ((1 << step) - 1)) * 8;
            if vm.load(entry) == 0 {
                vm.store(entry, vm.take(1 << self.granule) | 3);
            }
            table = vm.load(entry) & 0x0000_ffff_ffff_f000;
        }
        table + (va >> self.granule & ((1 << step) - 1)) * 8
    }

    /// Maps the granule at `va` to `ipa`, or nowhere.
    pub fn map(&self, vm: &Vm, va: u64, ipa: Option<u64>) {
        vm.store(self.entry(vm, va), ipa.map_or(0, |ipa| ipa | LEAF));
    }

    /// The context descriptor: T0SZ, TG0, inner write-back shareable walks, EPD1, V, IPS, AA64, R, A, ASET, ASID (IHI
    /// 0070, §5.4).
    pub fn context(&self) -> [u64; 8] {
        let granule = [0, 2, 1][(self.granule as usize - 12) / 2];
        let walks = 1 << 8 | 1 << 10 | 3 << 12;
        let first = u64::from(64 - self.bits)
            | granule << 6
            | walks
            | 1 << 30
            | 1 << 31
            | 4 << 32
            | 1 << 41
            | 7 << 45
            | self.asid << 48;
        [first, self.root, 0, 0xff, 0, 0, 0, 0]
    }

    /// Puts the descriptor at `ipa`.
    pub fn place(&self, vm: &Vm, ipa: u64) {
        let context = self.context();
        for (at, word) in (ipa..).step_by(8).zip(context).skip(1) {
            vm.store(at, word);
        }
        vm.store(ipa, context[0]);
    }
}

/// The words of a guest's stream table entry: V, Config = stage 1, 2^`log2` contexts at `contexts`, S1DSS = substream 0,
/// write-back inner shareable fetches.
pub fn entry(contexts: u64, log2: u64) -> [u64; 2] {
    let default = if log2 == 0 { 0 } else { 2 };
    [
        1 | 0b101 << 1 | contexts | log2 << 59,
        default | 1 << 2 | 1 << 4 | 3 << 6,
    ]
}

pub fn bytes(words: [u64; 2]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&words[0].to_le_bytes());
    bytes[8..].copy_from_slice(&words[1].to_le_bytes());
    bytes
}

/// A stage 1 of those words on a slice.
pub fn nested(slice: &Viommu, words: [u64; 2], faults: Option<&FaultQueue>) -> HwptNested {
    let bytes = bytes(words);
    let data = UserData {
        kind: STAGE_ONE,
        bytes: &bytes,
    };
    slice.nested_from(data, faults).expect("a legal entry")
}

/// A device that the guest drives: its name, its contexts, what it goes through.
pub struct Driven {
    pub slice: Viommu,
    pub device: Device,
    pub contexts: u64,
    nested: HwptNested,
    vdevice: iommu::object::Vdevice,
}

impl Driven {
    /// Stream `stream` of an SMMU, as `name` in a new slice, with one context for `space`.
    pub fn new(vm: &Vm, iommu: usize, who: (u32, u64), space: &Space) -> Self {
        Self::with(vm, iommu, who, space, false)
    }

    /// The same; `ats`: the device is trusted with ATS, and its guest turns it on.
    pub fn with(
        vm: &Vm,
        iommu: usize,
        (stream, name): (u32, u64),
        space: &Space,
        ats: bool,
    ) -> Self {
        let slice = vm.slice(iommu);
        let streams = [DeviceId(stream)];
        let info = DeviceInfo {
            ats,
            ..vm.iommus[iommu].info(&streams)
        };
        let device = vm.context.bind(&info).expect("bound");
        let vdevice = slice.vdevice(&device, name).expect("named");
        let contexts = vm.take(64);
        space.place(vm, contexts);
        let [first, second] = entry(contexts, 0);
        let nested = nested(&slice, [first, second | u64::from(ats) << 28], None);
        device.attach(0, &nested).expect("attached");
        Self {
            slice,
            device,
            contexts,
            nested,
            vdevice,
        }
    }

    /// The guest's commands.
    pub fn say(&self, commands: &[[u64; 2]]) -> Progress {
        say(&self.slice, commands)
    }
}

pub fn say(slice: &Viommu, commands: &[[u64; 2]]) -> Progress {
    let entries: Vec<_> = commands.iter().map(|it| [it[0], it[1], 0, 0]).collect();
    slice.invalidate(COMMANDS, &entries)
}

/// Commands of a guest, as the document has them (IHI 0070, chapter 4). Its VMID is nonsense: it does not count.
pub mod says {
    const VMID: u64 = 0x77 << 32;

    pub const NSNH_ALL: [u64; 2] = [0x30, 0];
    pub const NH_ALL: [u64; 2] = [0x10 | VMID, 0];

    pub fn asid(asid: u64) -> [u64; 2] {
        [0x11 | VMID | asid << 48, 0]
    }

    pub fn va(asid: u64, va: u64) -> [u64; 2] {
        [0x12 | VMID | asid << 48, va & !0xfff | 1]
    }

    pub fn vaa(va: u64) -> [u64; 2] {
        [0x13 | VMID, va & !0xfff | 1]
    }

    pub fn cd(stream: u64, substream: u64) -> [u64; 2] {
        [0x05 | stream << 32 | substream << 12, 1]
    }

    pub fn cd_all(stream: u64) -> [u64; 2] {
        [0x06 | stream << 32, 0]
    }

    pub fn atc(stream: u64, address: u64, log2: u64) -> [u64; 2] {
        [0x40 | stream << 32, address & !0xfff | log2]
    }
}
