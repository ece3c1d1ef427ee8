//! Random lives of the driver and its tables on the model, beside an oracle that knows only who may reach which page.
//!
//! 10^4 lives; `MODEL_LIVES` in the environment says how many others.

mod rig;

use std::collections::BTreeMap;

use iommu::addr::Hpa;
use iommu::hal::Platform;
use iommu::id::CacheTag;
use iommu::model::memory::Order;
use iommu::model::smmu::{Completion, Config, Denied};
use iommu::physical::{Invalidated, Invalidation, PhysicalIommu};
use iommu::table::{Attributes, MapError};
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof};
use proptest::test_runner::TestRunner;
use proptest::{prop_assert, prop_assert_eq};
use rig::{READ_ONLY, Rig, Table, span, stage_two};

const PAGE: u64 = 4096;
/// Memory that changes hands as a whole.
const CHUNK: u64 = 0x20_0000;
const CHUNKS: u64 = 4;
const MEMORY: u64 = 0x1_0000_0000;
const TABLES: usize = 3;
const DEVICES: [u32; 4] = [8, 9, 0x108, 0xffff];
/// Where mappings are: pages around these.
const PLACES: [u64; 4] = [0, 0x1f_e000, 0x20_0000, 0x3fff_e000];

#[derive(Clone, Debug)]
enum Step {
    Attach(usize, usize),
    Abort(usize),
    Map(usize, u64, u64, u64, bool),
    Unmap(usize, u64, u64),
    Protect(usize, u64, u64, bool),
    Dma(usize, u64, bool),
    Posted(usize, u64),
    TakeChunk(u64),
    GiveChunk(u64),
    Drain,
    FailNext(u64),
}

fn place() -> impl Strategy<Value = u64> {
    (0..PLACES.len(), 0u64..6).prop_map(|(place, page)| PLACES[place] + page * PAGE)
}

fn length() -> impl Strategy<Value = u64> {
    prop_oneof![4 => (1u64..6).prop_map(|pages| pages * PAGE), 1 => Just(CHUNK)]
}

fn step() -> impl Strategy<Value = Step> {
    let (table, device) = (0..TABLES, 0..DEVICES.len());
    let page = (0..CHUNKS, prop_oneof![Just(0u64), 0u64..8])
        .prop_map(|(chunk, page)| MEMORY + chunk * CHUNK + page * PAGE);
    prop_oneof![
        2 => (device.clone(), table.clone()).prop_map(|(device, table)| Step::Attach(device, table)),
        1 => device.clone().prop_map(Step::Abort),
        5 => (table.clone(), place(), page, length(), any::<bool>())
            .prop_map(|(table, at, to, len, write)| Step::Map(table, at, to, len, write)),
        3 => (table.clone(), place(), length()).prop_map(|(table, at, len)| Step::Unmap(table, at, len)),
        1 => (table, place(), length(), any::<bool>())
            .prop_map(|(table, at, len, write)| Step::Protect(table, at, len, write)),
        8 => (device.clone(), place(), any::<bool>())
            .prop_map(|(device, at, write)| Step::Dma(device, at, write)),
        2 => (device, place()).prop_map(|(device, at)| Step::Posted(device, at)),
        1 => (0..CHUNKS).prop_map(Step::TakeChunk),
        1 => (0..CHUNKS).prop_map(Step::GiveChunk),
        1 => Just(Step::Drain),
        1 => (0u64..6).prop_map(Step::FailNext),
    ]
}

/// Who may reach what.
#[derive(Default)]
struct Oracle {
    devices: [Option<usize>; DEVICES.len()],
    tables: [BTreeMap<u64, (u64, bool)>; TABLES],
    taken: [bool; CHUNKS as usize],
}

impl Oracle {
    fn expect(&self, device: usize, at: u64, write: bool) -> Option<u64> {
        let table = self.devices[device]?;
        let (to, writable) = self.tables[table].get(&(at & !(PAGE - 1)))?;
        (*writable || !write).then_some(to + at % PAGE)
    }

    fn is_free(&self, table: usize, at: u64, len: u64) -> bool {
        self.tables[table].range(at..at + len).next().is_none()
    }

    fn owns(&self, to: u64, len: u64) -> bool {
        let chunks = (to - MEMORY) / CHUNK..=(to + len - 1 - MEMORY) / CHUNK;
        chunks
            .clone()
            .all(|chunk| chunk < CHUNKS && !self.taken[chunk as usize])
    }

    fn remove(&mut self, table: usize, at: u64, len: u64) {
        let pages = self.tables[table].extract_if(at..at + len, |_, _| true);
        pages.for_each(drop);
    }
}

fn unmap(
    rig: &mut Rig,
    oracle: &mut Oracle,
    tables: &mut [Table],
    which: usize,
    at: u64,
    len: u64,
) {
    let cut = tables[which].unmap(span(at, len));
    let removed: iommu::addr::Span<iommu::addr::Iova> = cut.removed();
    // Some of a block may go with it, and nothing else.
    assert!(
        removed.len == 0
            || removed.base.0 <= at && at + len <= removed.base.0 + removed.len
            || cut.is_empty()
    );
    oracle.remove(which, at, len);
    oracle.remove(which, removed.base.0, removed.len);
    rig.forget(&mut tables[which], cut, which as u16 + 1);
}

fn live(
    config: Config,
    order: Order,
    steps: &[Step],
) -> Result<(), proptest::test_runner::TestCaseError> {
    let mut rig = Rig::new(config);
    rig.memory.set_order(order);
    for chunk in 0..CHUNKS {
        rig.memory.add_ram(MEMORY + chunk * CHUNK, CHUNK);
    }
    let mut tables: Vec<Table> = [39, 39, 44].iter().map(|bits| rig.table(*bits)).collect();
    let mut oracle = Oracle::default();
    let mut faults = 0;
    for step in steps {
        match *step {
            Step::Attach(device, table) => {
                let config = stage_two(&tables[table], table as u16 + 1);
                let attached = rig
                    .driver
                    .attach(iommu::id::DeviceId(DEVICES[device]), config);
                // Without memory for its level 2 table the stream was never open.
                oracle.devices[device] = attached.is_ok().then_some(table);
                rig.memory.heal();
            }
            Step::Abort(device) => {
                let abort = iommu::physical::StreamConfig::Abort;
                let closed = rig
                    .driver
                    .attach(iommu::id::DeviceId(DEVICES[device]), abort);
                prop_assert!(closed.is_ok() || oracle.devices[device].is_none());
                oracle.devices[device] = None;
                rig.memory.heal();
            }
            Step::Map(table, at, to, len, write) => {
                if !oracle.owns(to, len) {
                    continue;
                }
                let attributes = if write { Attributes::DMA } else { READ_ONLY };
                let mapped = tables[table].map(span(at, len), Hpa(to), attributes);
                rig.platform.write_barrier();
                rig.memory.heal();
                match mapped {
                    Ok(()) => {
                        prop_assert!(oracle.is_free(table, at, len));
                        for page in (0..len).step_by(PAGE as usize) {
                            oracle.tables[table].insert(at + page, (to + page, write));
                        }
                    }
                    Err(MapError::Mapped(page)) => {
                        prop_assert!(oracle.tables[table].contains_key(&page));
                    }
                    Err(error) => prop_assert_eq!(error, MapError::OutOfMemory),
                }
            }
            Step::Unmap(table, at, len) => {
                unmap(&mut rig, &mut oracle, &mut tables, table, at, len);
                rig.memory.heal();
            }
            Step::Protect(table, at, len, write) => {
                let attributes = if write { Attributes::DMA } else { READ_ONLY };
                if let Ok(change) = tables[table].protect(span(at, len), attributes) {
                    rig.forget(&mut tables[table], change, table as u16 + 1);
                    for page in (0..len).step_by(PAGE as usize) {
                        let entry = oracle.tables[table].get_mut(&(at + page));
                        prop_assert!(entry.is_some());
                        if let Some(entry) = entry {
                            entry.1 = write;
                        }
                    }
                }
            }
            Step::Dma(device, at, write) => {
                let got = rig.smmu.translate(DEVICES[device], at, write);
                prop_assert_eq!(got.ok(), oracle.expect(device, at, write));
                faults += u64::from(got.is_err());
                let touched = if write {
                    rig.smmu.dma_write(DEVICES[device], at, &[1]).is_ok()
                } else {
                    rig.smmu.dma_read(DEVICES[device], at, 1).is_ok()
                };
                prop_assert_eq!(touched, got.is_ok());
                faults += u64::from(!touched);
                if oracle.devices[device].is_some() && !touched {
                    prop_assert!(!matches!(got, Err(Denied::StreamAbort)));
                }
            }
            Step::Posted(device, at) => {
                let got = rig.smmu.posted_write(DEVICES[device], at, &[2]);
                prop_assert_eq!(got.is_ok(), oracle.expect(device, at, true).is_some());
            }
            Step::TakeChunk(chunk) => {
                // Whoever maps it loses it first; then it is somebody else's, and a late access is a panic.
                let (from, to) = (MEMORY + chunk * CHUNK, MEMORY + (chunk + 1) * CHUNK);
                for table in 0..TABLES {
                    let pages = oracle.tables[table].iter();
                    let pages: Vec<u64> = pages
                        .filter(|(_, (page, _))| from <= *page && *page < to)
                        .map(|(at, _)| *at)
                        .collect();
                    for at in pages {
                        unmap(&mut rig, &mut oracle, &mut tables, table, at, PAGE);
                    }
                }
                // A device may have been detached with a write on its way to a page that stayed mapped until now.
                let all: Vec<_> = (1..=TABLES as u16)
                    .map(|tag| Invalidation::Tag(CacheTag(tag)))
                    .collect();
                rig.driver.invalidate(&all).expect("forgotten");
                rig.memory.take(from);
                oracle.taken[chunk as usize] = true;
            }
            Step::GiveChunk(chunk) => {
                rig.memory.add_ram(MEMORY + chunk * CHUNK, CHUNK);
                oracle.taken[chunk as usize] = false;
            }
            Step::Drain => {
                rig.drain();
            }
            Step::FailNext(nth) => rig.memory.fail_allocation(nth, true),
        }
    }
    rig.memory.heal();
    rig.drain();
    let counters = rig.smmu.counters();
    prop_assert!(counters.events <= faults + steps.len() as u64);
    prop_assert_eq!(rig.driver.counters().events, counters.events_written);
    for device in DEVICES {
        rig.abort(device);
    }
    for (index, table) in tables.into_iter().enumerate() {
        let tag = Invalidation::Tag(CacheTag(index as u16 + 1));
        rig.driver.invalidate(&[tag]).expect("forgotten");
        table.retire(Invalidated::complete());
    }
    let Rig { driver, memory, .. } = rig;
    drop(driver);
    prop_assert_eq!(memory.live(), (0, 0));
    Ok(())
}

fn lives() -> u32 {
    let lives = std::env::var("MODEL_LIVES").ok();
    lives.and_then(|lives| lives.parse().ok()).unwrap_or(10_000)
}

/// As many threads as there are CPUs share the lives.
#[test]
fn no_device_ever_reaches_what_the_oracle_does_not_allow() {
    let threads = std::thread::available_parallelism().map_or(1, |number| number.get() as u32);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut runner = TestRunner::new(ProptestConfig {
                    cases: lives().div_ceil(threads),
                    failure_persistence: None,
                    ..ProptestConfig::default()
                });
                let parts = (
                    proptest::collection::vec(step(), 1..64),
                    proptest::array::uniform4(any::<bool>()),
                    proptest::option::of(any::<u64>()),
                );
                let ran = runner.run(&parts, |(steps, features, seed)| {
                    let [coherent, ranges, speculate, at_once] = features;
                    let config = Config {
                        coherent,
                        range_invalidation: ranges,
                        speculate,
                        completion: if at_once {
                            Completion::AtOnce
                        } else {
                            Completion::AtSync
                        },
                        ..Config::default()
                    };
                    let order = seed.map_or(Order::Late, Order::Random);
                    live(config, order, &steps)
                });
                ran.unwrap_or_else(|error| panic!("{error}"));
            });
        }
    });
}
