//! VT-d drivers that are broken on purpose: the model has to notice each of them, or it proves nothing about ours.

use std::sync::Arc;

use iommu::addr::{Hpa, Iova, Span};
use iommu::hal::{DmaBuffer, Mmio, Platform};
use iommu::id::{CacheTag, DeviceId, IommuIndex};
use iommu::model::memory::{Buffer, Memory};
use iommu::model::vtd::{Config, VtdModel};
use iommu::physical::{Invalidated, PhysicalIommu, StageTwo, StreamConfig};
use iommu::table::{PageTable, SecondStage, SecondStageAttributes, Shape};
use iommu::vtd::errata::Errata;
use iommu::vtd::interrupt_remap::{Destinations, Message, Route, Source};
use iommu::vtd::{Setup, Vtd};

const PAGE: u64 = 4096;
const RAM: u64 = 0x2000_0000;
const DEVICE: u16 = 0x8;

/// What is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    Nothing,
    Barriers,
    Cleans,
    Discards,
    /// Descriptors of this type become invalidations of one interrupt that nobody has.
    Descriptor(u64),
}

struct Broken {
    memory: Memory,
    fault: Fault,
}

struct BrokenBuffer {
    buffer: Buffer,
    fault: Fault,
}

/// Bytes of the queue with its status page: nothing else of the driver's in legacy mode is so large.
const QUEUE_BYTES: usize = 8192;

impl Platform for Broken {
    type Buffer = BrokenBuffer;
    fn allocate(&self, len: usize) -> Option<BrokenBuffer> {
        Some(BrokenBuffer {
            buffer: self.memory.allocate(len)?,
            fault: self.fault,
        })
    }
    fn write_barrier(&self) {
        if self.fault != Fault::Barriers {
            self.memory.write_barrier();
        }
    }
    fn read_barrier(&self) {}
    fn now_ns(&self) -> u64 {
        self.memory.now_ns() * 1_000
    }
}

impl DmaBuffer for BrokenBuffer {
    fn hpa(&self) -> Hpa {
        self.buffer.hpa()
    }
    fn len(&self) -> usize {
        self.buffer.len()
    }
    fn read64(&self, offset: usize) -> u64 {
        self.buffer.read64(offset)
    }
    fn write64(&mut self, offset: usize, value: u64) {
        self.buffer.write64(offset, value);
    }
    fn write64_pairs(&mut self, offset: usize, pairs: &[[u64; 2]]) {
        for (at, [first, second]) in (offset..).step_by(16).zip(pairs) {
            let broken = match self.fault {
                Fault::Descriptor(kind) => self.len() == QUEUE_BYTES && first & 0xf == kind,
                _ => false,
            };
            let words = match broken {
                // 6.5.2.8: index 0xffff.
                true => [0xffff_0000_0014, 0],
                false => [*first, *second],
            };
            self.buffer.write64(at, words[0]);
            self.buffer.write64(at + 8, words[1]);
        }
    }
    fn clean(&self, offset: usize, len: usize) {
        if self.fault != Fault::Cleans {
            self.buffer.clean(offset, len);
        }
    }
    fn discard(&self, offset: usize, len: usize) {
        if self.fault != Fault::Discards {
            self.buffer.discard(offset, len);
        }
    }
}

fn span(at: u64, len: u64) -> Span<Iova> {
    Span::<Iova>::new(Iova(at), len).expect("no wrap")
}

/// A short life; false where something is not as it should be.
fn lives(fault: Fault, memory: &Memory, vtd: &VtdModel, coherent: bool) -> bool {
    let platform = Arc::new(Broken {
        memory: memory.clone(),
        fault,
    });
    let setup = Setup {
        address_bits: 46,
        interrupts: Some(Destinations::Wide),
        scalable: None,
        errata: Errata::default(),
    };
    let started = Vtd::start(IommuIndex(0), vtd.clone(), Arc::clone(&platform), setup);
    let Ok(mut driver) = started else {
        return false;
    };
    let shape = Shape {
        coherent,
        ..Shape::new(39)
    };
    let table = PageTable::<_, SecondStage>::with_shape(platform, shape);
    let Ok(mut table) = table else {
        return false;
    };
    table
        .map(span(0x1000, 4 * PAGE), Hpa(RAM), SecondStageAttributes::DMA)
        .expect("room");
    let config = StreamConfig::StageTwo(StageTwo {
        tag: CacheTag(3),
        root: table.root(),
        input_bits: 39,
        ats: false,
    });
    let device = DeviceId(DEVICE.into());
    let mut good = vtd.dma_read(DEVICE, 0x1000, 1).is_err();
    good &= driver.attach(device, config).is_ok();
    good &= vtd.dma_write(DEVICE, 0x1000, &[1]).is_ok();
    let cut = table.unmap(span(0x1000, PAGE));
    good &= driver.invalidate(&[cut.invalidation(CacheTag(3))]).is_ok();
    table.release(cut, Invalidated::complete());
    good &= vtd.dma_read(DEVICE, 0x1000, 1).is_err();
    good &= vtd.dma_read(DEVICE, 0x2000, 1).is_ok();
    let Ok(index) = driver.take_interrupts(1) else {
        return false;
    };
    let route = |vector| Route {
        destination: 1,
        vector,
        level: false,
        source: Source::Requester {
            id: DEVICE,
            phantom: 0,
        },
    };
    let message = Message::new(index);
    for vector in [0x40, 0x41] {
        good &= driver.route_interrupt(index, &route(vector)).is_ok();
        let arrived = vtd.message(DEVICE, message.address, 0);
        good &= arrived.is_ok_and(|it| it.vector == vector);
    }
    good &= driver.attach(device, StreamConfig::Abort).is_ok();
    good &= vtd.dma_read(DEVICE, 0x2000, 1).is_err();
    drop(driver);
    good && vtd.dma_read(DEVICE, 0x2000, 1).is_err() && vtd.violations().is_empty()
}

#[test]
fn each_thing_left_out_is_noticed() {
    for coherent in [true, false] {
        let faults = [
            Fault::Nothing,
            Fault::Barriers,
            Fault::Cleans,
            Fault::Discards,
            Fault::Descriptor(1),
            Fault::Descriptor(2),
            Fault::Descriptor(4),
            Fault::Descriptor(5),
        ];
        for fault in faults {
            let harmless = coherent && matches!(fault, Fault::Cleans | Fault::Discards);
            let good = fault == Fault::Nothing || harmless;
            let memory = match coherent {
                true => Memory::coherent(),
                false => Memory::non_coherent(),
            };
            memory.add_ram(RAM, 0x100_0000);
            // What is found is told and no panic: a driver that is dropped on the way of one would be found out twice.
            memory.set_strict(false);
            let config = Config {
                coherent,
                strict: false,
                ..Config::default()
            };
            let vtd = VtdModel::new(config, &memory);
            let lived = lives(fault, &memory, &vtd, coherent);
            assert_eq!(lived, good, "{fault:?}, coherent: {coherent}");
        }
    }
}

/// A unit that is not told anything by a driver, and what it says to each of these.
#[test]
fn what_software_must_not_do_is_found() {
    type Act = fn(&VtdModel);
    let acts: [(&str, Act); 7] = [
        ("11.4, GCMD", |vtd| vtd.write32(0x18, 1 << 31 | 1 << 26)),
        ("11.4, GCMD.TE", |vtd| vtd.write32(0x18, 1 << 31)),
        ("11.4, GCMD.IRE", |vtd| vtd.write32(0x18, 1 << 25)),
        ("11.4, RTADDR.TTM", |vtd| {
            vtd.write32(0x18, 1 << 30);
            vtd.write32(0x18, 1 << 31);
            vtd.write64(0x20, 1 << 10);
            vtd.write32(0x18, 1 << 31 | 1 << 30);
        }),
        ("6.5.1", |vtd| {
            vtd.write32(0x18, 1 << 26);
            vtd.write64(0x28, 1 << 63 | 1 << 61);
        }),
        ("11.4, IQT", |vtd| vtd.write64(0x88, 8)),
        ("11.4, IQA", |vtd| {
            vtd.write32(0x18, 1 << 26);
            vtd.write64(0x90, 0x1000);
        }),
    ];
    for (section, act) in acts {
        let memory = Memory::coherent();
        let config = Config {
            strict: false,
            update_reads: 0,
            ..Config::default()
        };
        let vtd = VtdModel::new(config, &memory);
        act(&vtd);
        let found = vtd.violations();
        assert_eq!(found[0].section, section, "{found:?}");
    }
}
