//! A partition with a VT-d unit of its own, on a strict model unit and the real driver, and a guest that drives it.

use std::sync::Arc;

use iommu::addr::Iova;
use iommu::guest::vvtd::{Behind, Counters, Effect, FirstStages, ObjectSlice, Setup, VirtVtd};
use iommu::id::{DeviceId, IommuIndex, VirtDeviceId};
use iommu::model::memory::Memory;
use iommu::model::vtd::{Config, Initiator, VtdModel};
use iommu::object::driver::{Access, DeviceInfo, Driver};
use iommu::object::unit::Unit;
use iommu::object::{Context, Delivery, Device, HwptPaging, Ioas};
use iommu::physical::PhysicalIommu;
use iommu::vtd::errata::Errata;
use iommu::vtd::{self, Vtd};

use memory::Ram;

mod memory;
mod stage;

pub use memory::GuestRam;
pub use stage::{CONTEXTS_ALL, IOTLB_ALL, PASIDS_ALL, Stage, context_of, domain, pages};

/// Where the guest's memory is in truth, and for the guest.
pub const HOST: u64 = 0x2000_0000;
pub const RAM: u64 = 0x4000_0000;
pub const BYTES: u64 = 0x200_0000;
pub const RW: u64 = 3;
/// Sources in truth, and as the guest knows them.
pub const REAL: [u16; 2] = [0x310, 0x408];
pub const SOURCES: [u16; 2] = [0x18, 0x20];
/// Where the guest keeps things.
pub const QUEUE: u64 = RAM;
pub const STATUS: u64 = RAM + 0x1000;
pub const ROOT: u64 = RAM + 0x2000;
pub const CONTEXTS: u64 = RAM + 0x3000;
pub const TABLES: u64 = RAM + 0x1_0000;

pub const GCMD: u64 = 0x18;
pub const GSTS: u64 = 0x1c;
pub const RTADDR: u64 = 0x20;
pub const FSTS: u64 = 0x34;
pub const FECTL: u64 = 0x38;
pub const IQH: u64 = 0x80;
pub const IQT: u64 = 0x88;
pub const IQA: u64 = 0x90;
pub const FRCD: u64 = 0x200;
pub const TE: u64 = 1 << 31;
pub const SRTP: u64 = 1 << 30;
pub const QIE: u64 = 1 << 26;

pub type Hardware = Unit<Memory, Vtd<Memory, VtdModel>>;

/// All of it. Fields go in this order.
pub struct Machine {
    pub unit: VirtVtd<Memory, ObjectSlice>,
    _devices: Vec<Arc<Device>>,
    _parent: HwptPaging,
    pub ioas: Ioas,
    pub context: Context,
    pub hardware: Arc<Hardware>,
    pub model: VtdModel,
    pub memory: GuestRam,
    tail: u64,
    /// Bytes of a descriptor.
    step: u64,
    waits: u64,
    exits: u64,
}

fn map_ram(ioas: &Ioas) {
    let access = Access::READ | Access::WRITE;
    let mapped = ioas.map(Iova(RAM), Arc::new(Ram), 0, BYTES, access);
    mapped.expect("free");
}

pub struct How {
    pub config: Config,
    pub input_bits: u8,
    pub scalable: bool,
    pub first_stages: FirstStages,
    pub pasids: u16,
    /// Groups that wait at once; not 0: devices are trusted to cache translations, and descriptors have 256 bits.
    pub page_requests: u16,
    pub budget: u32,
    pub shadow_bytes: u64,
}

impl Default for How {
    fn default() -> Self {
        Self {
            config: Config::default(),
            input_bits: 48,
            scalable: true,
            first_stages: FirstStages::Shadowed,
            pasids: 0,
            page_requests: 0,
            budget: 256,
            shadow_bytes: 1 << 24,
        }
    }
}

impl Machine {
    pub fn new(how: &How) -> Self {
        let host = match how.config.coherent {
            true => Memory::coherent(),
            false => Memory::non_coherent(),
        };
        host.add_ram(HOST, BYTES);
        let model = VtdModel::new(how.config, &host);
        let setup = vtd::Setup {
            address_bits: how.config.output_bits,
            interrupts: None,
            scalable: None,
            errata: Errata::default(),
        };
        let index = IommuIndex(0);
        let platform = Arc::new(host.clone());
        let driver = Vtd::start(index, model.clone(), Arc::clone(&platform), setup);
        let driver = driver.expect("it starts");
        let (largest, capabilities) = (driver.features().largest, driver.capabilities());
        let unit = Unit::new(index, driver, Arc::clone(&platform), how.input_bits);
        let hardware = Arc::new(unit.with_second_stages_of_vtd(largest));
        let driver: Arc<dyn Driver> = hardware.clone();
        let context = Context::new(64, 64).unwrap();
        let ioas = context.ioas().unwrap();
        map_ram(&ioas);
        let parent = ioas.nest_parent(&driver).unwrap();
        let mut slice = ObjectSlice::new(&parent, &driver, 16).unwrap();
        if how.page_requests > 0 {
            slice = slice.with_requests(&context, 16).unwrap();
        }
        let mut devices = Vec::new();
        for (real, source) in REAL.into_iter().zip(SOURCES) {
            let info = DeviceInfo {
                driver: Arc::clone(&driver),
                streams: &[DeviceId(real.into())],
                group: real.into(),
                pasid_bits: 15,
                reserved: &[],
                ats: how.page_requests > 0,
                coherent: true,
                isolated_messages: true,
                shares_page_requests: false,
            };
            let device = Arc::new(context.bind(&info).unwrap());
            slice.add(Arc::clone(&device), source.into()).unwrap();
            devices.push(device);
        }
        let setup = Setup {
            hardware: capabilities,
            input_bits: how.input_bits,
            address_bits: 40,
            scalable: how.scalable,
            first_stages: how.first_stages,
            pasids: how.pasids,
            device_tlbs: how.page_requests > 0,
            page_requests: how.page_requests,
            patience_ns: 1_000_000_000,
            interrupts: true,
            records: 4,
            budget: how.budget,
            shadow_bytes: how.shadow_bytes,
        };
        let behind = SOURCES.map(|source| Behind {
            source: VirtDeviceId(source.into()),
        });
        let memory = GuestRam(host.clone());
        let mut unit = VirtVtd::new(&platform, &setup, slice, &behind).expect("a unit");
        let effect = unit.start(&memory);
        assert_eq!(effect, Effect::default());
        Self {
            unit,
            _devices: devices,
            _parent: parent,
            ioas,
            context,
            hardware,
            model,
            memory,
            tail: 0,
            step: if how.page_requests > 0 { 32 } else { 16 },
            waits: 0,
            exits: 0,
        }
    }

    /// Gives the partition its memory.
    pub fn map_ram(&self) {
        map_ram(&self.ioas);
    }

    /// A store of the guest's, and all that follows.
    pub fn write(&mut self, offset: u64, size: u8, value: u64) -> Vec<Effect> {
        self.exits += 1;
        let mut effects = vec![self.unit.write(&self.memory, offset, size, value)];
        while effects[effects.len() - 1].more {
            effects.push(self.unit.run(&self.memory));
            assert!(effects.len() < 1_000_000);
        }
        effects
    }

    pub fn read32(&mut self, offset: u64) -> u64 {
        self.unit.read(offset, 4)
    }

    /// Turns the queue on, latches the root table, and turns translation on, as a driver does.
    pub fn enable(&mut self, root: u64) {
        self.write(IQT, 8, 0);
        let wide = (self.step == 32) as u64;
        self.write(IQA, 8, QUEUE | wide << 11);
        self.write(GCMD, 4, QIE);
        assert_eq!(self.read32(GSTS), QIE);
        self.write(RTADDR, 8, root);
        self.write(GCMD, 4, QIE | SRTP);
        assert_eq!(self.read32(GSTS), QIE | SRTP);
        self.forget_all();
        self.write(GCMD, 4, QIE | TE);
        assert_eq!(self.read32(GSTS), QIE | SRTP | TE);
    }

    /// Puts descriptors into the queue.
    pub fn queue(&mut self, descriptors: &[[u64; 2]]) {
        for [first, second] in descriptors {
            self.memory.store(QUEUE + self.tail, *first);
            self.memory.store(QUEUE + self.tail + 8, *second);
            if self.step == 32 {
                self.memory.store(QUEUE + self.tail + 16, 0);
                self.memory.store(QUEUE + self.tail + 24, 0);
            }
            self.tail = (self.tail + self.step) % 4096;
        }
    }

    /// Rings for what is in the queue.
    pub fn ring(&mut self) -> Vec<Effect> {
        self.write(IQT, 8, self.tail)
    }

    /// Stores of the guest's so far.
    pub fn exits(&self) -> u64 {
        self.exits
    }

    /// Where the queue ends.
    pub fn tail(&self) -> u64 {
        self.tail
    }

    /// Descriptors and a wait, which has to be complete when the store is.
    pub fn invalidate(&mut self, descriptors: &[[u64; 2]]) -> Vec<Effect> {
        self.waits += 1;
        self.queue(descriptors);
        self.queue(&[[self.waits << 32 | 0x25, STATUS]]);
        let effects = self.ring();
        assert_eq!(self.memory.load(STATUS) & 0xffff_ffff, self.waits);
        assert_eq!(self.unit.read(IQH, 8), self.tail);
        effects
    }

    pub fn forget_all(&mut self) {
        let count = if self.is_scalable() { 3 } else { 1 };
        self.invalidate(&[CONTEXTS_ALL, PASIDS_ALL, IOTLB_ALL][..count]);
        self.invalidate(&[IOTLB_ALL]);
    }

    fn is_scalable(&mut self) -> bool {
        self.unit.read(0x10, 8) >> 43 & 1 != 0
    }

    /// An entry of legacy mode for a source of bus 0: a root entry and its context.
    pub fn context_entry(&mut self, source: u16, first: u64, second: u64) {
        self.memory.store(ROOT, CONTEXTS | 1);
        let at = CONTEXTS + u64::from(source & 0xff) * 16;
        self.memory.store(at + 8, second);
        self.memory.store(at, first);
    }

    /// Where a DMA of device `which` goes.
    pub fn reach(&self, which: usize, iova: u64, write: bool) -> Option<u64> {
        self.model
            .translate(REAL[which], iova, write)
            .ok()
            .map(|at| at - HOST + RAM)
    }

    /// Where a DMA of device `which` with a PASID goes.
    pub fn reach_with(&self, which: usize, pasid: u32, iova: u64) -> Option<u64> {
        let from = Initiator::from(REAL[which]).with_pasid(pasid);
        let to = self.model.translate_as(from, iova, true).ok();
        to.map(|at| at - HOST + RAM)
    }

    /// Hands the hardware's faults on, as an owner does.
    pub fn faults(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        loop {
            let mut faults = [vtd::event::decode(IommuIndex(0), [0; 2]); 4];
            let drained = self.hardware.physical().lock().drain_faults(&mut faults);
            for fault in &faults[..drained.count] {
                let delivery = self.context.deliver(fault);
                if self.unit.slice().holds(delivery) {
                    effects.push(self.unit.deliver(&self.memory));
                } else {
                    assert_eq!(delivery, Delivery::Record);
                }
            }
            if drained.lost {
                self.context.faults_lost(IommuIndex(0));
                effects.push(self.unit.deliver(&self.memory));
            }
            if !drained.more {
                return effects;
            }
        }
    }

    /// Hands the hardware's page requests on, as an owner does.
    pub fn page_requests(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        loop {
            let mut requests = [vtd::decode_request(IommuIndex(0), [0; 2]); 4];
            let drained = self
                .hardware
                .physical()
                .lock()
                .drain_requests(&mut requests);
            for request in &requests[..drained.count] {
                let delivery = self.context.deliver_request(request);
                if self.unit.slice().holds(delivery) {
                    effects.push(self.unit.deliver(&self.memory));
                }
            }
            if drained.lost {
                self.context.requests_lost(IommuIndex(0));
            }
            if !drained.more {
                return effects;
            }
        }
    }

    /// Fault record `index` of the guest's.
    pub fn fault_record(&mut self, index: u64) -> [u64; 2] {
        [0, 8].map(|word| self.unit.read(FRCD + index * 16 + word, 8))
    }

    /// What the guest's unit, and the hardware's driver, counted while `what` was done.
    pub fn spent(&mut self, what: impl FnOnce(&mut Self)) -> (Counters, vtd::Counters) {
        let counters = self.unit.counters();
        let hardware = self.hardware.physical().lock().counters();
        what(self);
        let after = self.unit.counters();
        let now = self.hardware.physical().lock().counters();
        (
            Counters {
                entries: after.entries - counters.entries,
                table_reads: after.table_reads - counters.table_reads,
                runs: after.runs - counters.runs,
                ..after
            },
            vtd::Counters {
                descriptors: now.descriptors - hardware.descriptors,
                waits: now.waits - hardware.waits,
                register_writes: now.register_writes - hardware.register_writes,
                ..now
            },
        )
    }
}
