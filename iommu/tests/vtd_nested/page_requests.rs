//! Page requests, by the driver: from devices to whoever drains them, and answers back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use iommu::addr::Iova;
use iommu::hal::Mmio;
use iommu::id::{DeviceId, IommuIndex};
use iommu::model::vtd::{Asked, Config, Initiator, VtdModel};
use iommu::object::driver::Answer;
use iommu::physical::{Drained, IommuError, PhysicalIommu, PriRequest, StreamConfig, Waiting};
use iommu::vtd::errata::Errata;
use iommu::vtd::{Setup, Vtd, decode_request};

use super::device_tlb::trusted;
use super::{DEVICE, PAGE, Rig, SOURCE, from, stage_two};

/// Answers, as the model notes them: success, invalid.
pub(super) const SUCCESS: u8 = 0;
pub(super) const INVALID: u8 = 1;
/// Descriptors that fit into the queue: one place stays free.
const ROOM: u64 = 511;

pub(super) fn config() -> Config {
    Config {
        device_tlbs: true,
        page_requests: true,
        ..Config::nesting()
    }
}

/// A rig, with a device that may ask for pages without PASID and with PASIDs 5 and 6.
pub(super) fn open(config: Config) -> Rig {
    let mut rig = Rig::new(config);
    admit(&mut rig, DEVICE, 3);
    rig
}

pub(super) fn admit(rig: &mut Rig, device: DeviceId, tag: u16) {
    let parent = rig.parent();
    let config = trusted(StreamConfig::StageTwo(stage_two(&parent, tag)));
    rig.driver.attach(device, config).unwrap();
    for pasid in [5, 6] {
        rig.driver.attach_pasid(device, pasid, config).unwrap();
    }
    // It lives as long as the unit.
    std::mem::forget(parent);
}

impl Rig {
    pub(super) fn ask(&self, pasid: u32, page: u64, group: u16, last: bool) -> Asked {
        let address = page * PAGE;
        self.vtd
            .page_request(from(pasid), address, true, group, last)
    }

    pub(super) fn drain_one(&mut self, most: usize) -> (Vec<PriRequest>, Drained) {
        let mut out = vec![decode_request(IommuIndex(9), [0; 2]); most];
        let drained = self.driver.drain_requests(&mut out);
        out.truncate(drained.count);
        (out, drained)
    }

    /// All, in batches of 7: their pages, and whether some were lost.
    pub(super) fn drain(&mut self) -> (Vec<u64>, bool) {
        let (mut pages, mut lost) = (Vec::new(), false);
        loop {
            let (batch, drained) = self.drain_one(7);
            pages.extend(batch.iter().map(|it| it.address.0 / PAGE));
            assert!(!lost, "nothing comes after a loss");
            lost = drained.lost;
            if !drained.more {
                return (pages, lost);
            }
        }
    }

    pub(super) fn answer(
        &mut self,
        pasid: Option<u32>,
        group: u16,
        answer: Answer,
    ) -> Result<(), IommuError> {
        let waiting = Waiting::Pages { pasid, group };
        self.driver.respond(DEVICE, waiting, answer)
    }
}

#[test]
fn requests_come_in_order_around_the_queue_with_one_message_a_burst() {
    for coherent in [true, false] {
        let mut rig = open(Config {
            coherent,
            ..config()
        });
        rig.driver.set_fault_message(Some((0xfee0_2000, 0x66)));
        let mut page = 0;
        for _ in 0..9 {
            let first = page;
            for _ in 0..100 {
                assert_eq!(rig.ask(0, page, 1, false), Asked::Queued);
                page += 1;
            }
            assert_eq!(rig.vtd.take_messages(), [(0xfee0_2000, 0x66)]);
            assert_eq!(rig.drain(), ((first..page).collect(), false));
        }
        assert_eq!(rig.drain(), (vec![], false));
        let counters = rig.driver.counters();
        assert_eq!((counters.requests, counters.request_losses), (900, 0));
        // Masked, and told when it is not any more.
        rig.driver.set_fault_message(None);
        rig.ask(0, 1, 1, false);
        assert_eq!(rig.vtd.take_messages(), []);
        rig.driver.set_fault_message(Some((0x1_fee0_2000, 0x67)));
        assert_eq!(rig.vtd.take_messages(), [(0x1_fee0_2000, 0x67)]);
    }
}

#[test]
fn a_request_says_who_asks_for_what() {
    let mut rig = open(config());
    rig.ask(0, 3, 0x1ff, true);
    let privileged = from(6).privileged();
    rig.vtd.page_request(privileged, 0x7000, false, 8, false);
    let (requests, _) = rig.drain_one(4);
    let first = PriRequest {
        iommu: IommuIndex(0),
        device: DEVICE,
        pasid: None,
        address: Iova(0x3000),
        group: 0x1ff,
        last: true,
        read: true,
        write: true,
        execute: false,
        privileged: false,
    };
    let second = PriRequest {
        pasid: Some(6),
        address: Iova(0x7000),
        group: 8,
        last: false,
        write: false,
        privileged: true,
        ..first
    };
    assert_eq!(requests, [first, second]);
}

#[test]
fn a_drain_brings_as_many_as_there_is_room_for() {
    let mut rig = open(config());
    for page in 0..5 {
        rig.ask(0, page, 1, false);
    }
    for (count, more) in [(2, true), (2, true), (1, false)] {
        let (requests, drained) = rig.drain_one(2);
        assert_eq!((requests.len(), drained.more), (count, more));
    }
    let (requests, drained) = rig.drain_one(0);
    assert_eq!((requests.len(), drained.more), (0, false));
    rig.ask(0, 6, 1, false);
    assert!(rig.drain_one(0).1.more);
}

#[test]
fn a_full_queue_is_told_of_once_after_all_that_it_held() {
    let mut rig = open(config());
    for page in 0..ROOM {
        assert_eq!(rig.ask(0, page, 1, false), Asked::Queued);
    }
    assert_eq!(rig.ask(0, ROOM, 2, false), Asked::Dropped);
    assert_eq!(
        rig.ask(0, ROOM, 2, true),
        Asked::Answered(SUCCESS),
        "it asks again"
    );
    // As long as the overflow stands there is room for nobody, however many were taken.
    assert_eq!(rig.drain_one(64).1, some(64, true));
    assert_eq!(rig.ask(0, ROOM, 2, true), Asked::Answered(SUCCESS));
    assert_eq!(rig.drain(), ((64..ROOM).collect(), true));
    assert_eq!(rig.driver.counters().request_losses, 1);
    assert_eq!(rig.ask(0, ROOM, 2, true), Asked::Queued);
    assert_eq!(rig.drain(), (vec![ROOM], false));
}

fn some(count: usize, more: bool) -> Drained {
    Drained {
        count,
        lost: false,
        more,
    }
}

#[test]
fn answers_reach_the_device_with_their_codes() {
    let mut rig = open(config());
    rig.ask(0, 1, 3, true);
    rig.ask(5, 1, 3, true);
    rig.ask(6, 1, 0x1ff, true);
    rig.drain();
    rig.vtd.take_log();
    rig.answer(Some(5), 3, Answer::Invalid).unwrap();
    rig.answer(None, 3, Answer::Success).unwrap();
    rig.answer(Some(6), 0x1ff, Answer::Success).unwrap();
    let answers = [
        (SOURCE, Some(5), 3, INVALID),
        (SOURCE, None, 3, SUCCESS),
        (SOURCE, Some(6), 0x1ff, SUCCESS),
    ];
    assert_eq!(rig.vtd.page_responses(), answers);
    // 7.6.1, word by word: type, PP, code, source, PASID; the group.
    let source = u64::from(SOURCE) << 16;
    let log = rig.vtd.take_log();
    assert_eq!(log[0], [9 | 1 << 4 | 1 << 12 | source | 5 << 32, 3 << 3]);
    assert_eq!(log[2], [9 | source, 3 << 3]);
    assert_eq!(log[4], [9 | 1 << 4 | source | 6 << 32, 0x1ff << 3]);
    assert_eq!(rig.vtd.waiting_groups(), 0);
}

#[test]
fn an_answer_that_there_is_not_is_refused() {
    let mut rig = open(config());
    let stalled = rig
        .driver
        .respond(DEVICE, Waiting::Stall(3), Answer::Success);
    assert_eq!(stalled, Err(IommuError::Unsupported));
    let far = rig.answer(None, 0x200, Answer::Success);
    assert_eq!(far, Err(IommuError::Unsupported));
    // The unit refuses one: it is told of, and the queue goes on.
    rig.ask(0, 1, 3, true);
    rig.drain();
    rig.vtd.refuse(9, 4);
    let refused = rig.answer(None, 3, Answer::Success);
    assert_eq!(refused, Err(IommuError::Command(4)));
    rig.answer(None, 3, Answer::Success).unwrap();
    assert_eq!(rig.vtd.page_responses(), [(SOURCE, None, 3, SUCCESS)]);
}

#[test]
fn a_unit_without_page_requests_has_none() {
    for config in [
        Config {
            page_requests: false,
            ..config()
        },
        // Whose devices have no TLB.
        Config {
            device_tlbs: false,
            ..config()
        },
    ] {
        let mut rig = Rig::new(config);
        let parent = rig.parent();
        let second = StreamConfig::StageTwo(stage_two(&parent, 3));
        rig.driver.attach(DEVICE, second).unwrap();
        assert_ne!(rig.ask(0, 1, 3, true), Asked::Queued);
        assert_eq!(rig.drain(), (vec![], false));
        assert_eq!(rig.driver.layout().requests, None);
        let answer = rig.answer(None, 3, Answer::Success);
        assert_eq!(answer, Err(IommuError::Unsupported));
    }
}

#[test]
fn who_is_not_trusted_gets_an_answer_and_its_owner_a_record() {
    let mut rig = Rig::new(config());
    let parent = rig.parent();
    let second = StreamConfig::StageTwo(stage_two(&parent, 3));
    rig.driver.attach(DEVICE, second).unwrap();
    assert_eq!(rig.ask(0, 1, 3, false), Asked::Dropped);
    assert_eq!(rig.ask(0, 1, 3, true), Asked::Answered(INVALID));
    // Nobody's device is not trusted either.
    let stranger = Initiator::from(SOURCE + 8);
    let asked = rig.vtd.page_request(stranger, 0, true, 3, true);
    assert_eq!(asked, Asked::Answered(INVALID));
    assert_eq!(rig.drain(), (vec![], false));
    let mut faults = [iommu::vtd::event::decode(IommuIndex(0), [0; 2]); 4];
    let drained = rig.driver.drain_faults(&mut faults);
    let seen: Vec<_> = faults[..drained.count]
        .iter()
        .map(|it| (it.device.0 as u16, it.raw[1] >> 32 & 0xff, it.write))
        .collect();
    let asks = (SOURCE, 0x47, false);
    assert_eq!(seen, [asks, asks, (SOURCE + 8, 0x41, false)]);
}

/// Answers that nobody waits for are what the model is strict about.
#[test]
fn a_second_answer_would_be_noticed() {
    let mut rig = open(Config {
        strict: false,
        ..config()
    });
    rig.ask(0, 1, 3, true);
    rig.ask(5, 1, 4, false);
    rig.drain();
    rig.answer(None, 3, Answer::Success).unwrap();
    assert_eq!(rig.vtd.violations(), []);
    rig.answer(None, 3, Answer::Success).unwrap();
    rig.answer(Some(5), 4, Answer::Success).unwrap();
    let sections: Vec<_> = rig.vtd.violations().iter().map(|it| it.section).collect();
    assert_eq!(sections, ["7.6", "7.6"]);
}

/// A register file behind which the queue fills up once its tail has been read.
struct Racy {
    model: VtdModel,
    armed: Arc<AtomicBool>,
}

impl Mmio for Racy {
    fn read32(&self, offset: usize) -> u32 {
        self.model.read32(offset)
    }
    fn write32(&self, offset: usize, value: u32) {
        self.model.write32(offset, value);
    }
    fn read64(&self, offset: usize) -> u64 {
        let value = self.model.read64(offset);
        // PQT
        if offset == 0xc8 && self.armed.swap(false, Ordering::Relaxed) {
            while self.model.page_request(SOURCE, PAGE, true, 0, false) == Asked::Queued {}
        }
        value
    }
    fn write64(&self, offset: usize, value: u64) {
        self.model.write64(offset, value);
    }
}

#[test]
fn what_comes_while_it_is_drained_is_before_the_loss() {
    let rig = Rig::new(config());
    let parent = rig.parent();
    let armed = Arc::new(AtomicBool::new(false));
    let vtd = VtdModel::new(config(), &rig.memory);
    let mmio = Racy {
        model: vtd.clone(),
        armed: Arc::clone(&armed),
    };
    let setup = Setup {
        address_bits: 46,
        interrupts: None,
        scalable: None,
        errata: Errata::default(),
    };
    let platform = Arc::new(rig.memory.clone());
    let mut driver = Vtd::start(IommuIndex(0), mmio, platform, setup).expect("it starts");
    let second = trusted(StreamConfig::StageTwo(stage_two(&parent, 3)));
    driver.attach(DEVICE, second).unwrap();
    driver.set_fault_message(Some((0xfee0_2000, 0x66)));
    vtd.page_request(SOURCE, 0, true, 0, false);
    armed.store(true, Ordering::Relaxed);
    let mut out = [decode_request(IommuIndex(0), [0; 2]); ROOM as usize];
    let drained = driver.drain_requests(&mut out);
    assert_eq!(drained, some(1, true), "there is more, and no loss yet");
    let drained = driver.drain_requests(&mut out);
    assert_eq!((drained.count as u64, drained.lost), (ROOM - 1, true));
    assert_eq!(vtd.page_request(SOURCE, 0, true, 0, true), Asked::Queued);
    // Each of them was told of: the first, what came after PPR was cleared, and the last.
    assert_eq!(vtd.take_messages().len(), 3);
    drop((driver, parent));
}
