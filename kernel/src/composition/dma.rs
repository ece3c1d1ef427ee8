//! DMA of partitions through the objects: what is open when, who hears of what was refused, and what is left of it all.

use super::machine::{
    Bench, DEVICES, GITS, Hardware, NODES, boot_info, bundle, configuration, two_smmus,
};
use crate::bundle::Bundle;
use crate::config::{FaultAction, Name, OnFault};
use crate::guest_map as map;
use crate::life::Change;
use crate::machine::Host;
use crate::monitor::{STORM, Sender};
use crate::setup::SetupError;
use crate::setup::assemble::{self, Materials};
use alloc::sync::Arc;
use alloc::vec::Vec;
use iommu::addr::{Gpa, Hpa};
use iommu::id::IommuIndex;

/// StreamID of the attacker's edu.
const STREAM: u64 = 0x10;
/// Valid, and stage 2 alone (IHI 0070, 5.2).
const STAGE_TWO: u64 = 0xd;
/// Valid, and abort.
const ABORT: u64 = 1;
const C_BAD_STE: u64 = 0x4;
const F_TRANSLATION: u64 = 0x10;
const IOMMU: IommuIndex = IommuIndex(0);

impl Bench {
    /// The SMMU reports an event of `stream`, which is served.
    fn event(&self, number: u64, stream: u64) {
        // S2, write: what both kinds take.
        self.smmu
            .report([number | stream << 32, 1 << 39, 0x1000, 0]);
        let gate = &self.system.gate;
        assert!(!gate.serve_faults(self.system, IOMMU));
    }

    fn counted(&self, partition: Option<usize>) -> u64 {
        self.system.gate.monitor.lock().count(partition)
    }

    fn stop(&self) {
        let own = &self.system.partitions[0];
        own.life.ask(Change::Stop);
        own.carry(self.system, Change::Stop);
    }
}

#[test]
fn a_function_is_let_through_while_its_partition_runs_and_heard_when_it_does_not() {
    let bench = Bench::new(1);
    let own = &bench.system.partitions[0];
    assert_eq!(bench.smmu.entry(STREAM)[0], STAGE_TWO);
    assert_eq!(
        bench.smmu.entry(STREAM),
        bench.smmu.entry(0x08),
        "one table"
    );
    let tag = |stream| bench.smmu.entry(stream)[2] & 0xffff;
    assert_ne!(tag(STREAM), tag(0x18), "another partition");
    bench.event(F_TRANSLATION, STREAM);
    assert_eq!(bench.counted(Some(0)), 1);
    bench.stop();
    assert_eq!(bench.smmu.entry(STREAM)[0], 0);
    assert_eq!(bench.smmu.entry(0x18)[0], STAGE_TWO);
    bench.event(C_BAD_STE, STREAM);
    assert_eq!((bench.counted(Some(0)), bench.counted(None)), (2, 0));
    own.start(bench.system);
    assert_eq!(bench.smmu.entry(STREAM)[0], STAGE_TWO);
}

#[test]
fn functions_behind_two_smmus_go_through_one_table_with_a_tag_at_each() {
    let bench = Bench::described(1, &two_smmus());
    let own = &bench.system.partitions[0];
    assert_eq!(own.devices.dma.slices.len(), 2);
    let (near, far) = (bench.smmu.entry(0x08), bench.other_smmu.entry(STREAM));
    assert_eq!((near[0], far[0]), (STAGE_TWO, STAGE_TWO));
    assert_eq!(near[3], far[3], "one table");
    // The victim is behind the second one alone, with a tag of its own there.
    let victim = bench.other_smmu.entry(0x18);
    assert_ne!((victim[2] & 0xffff, victim[3]), (far[2] & 0xffff, far[3]));
    bench.stop();
    assert_eq!(
        (bench.smmu.entry(0x08)[0], bench.other_smmu.entry(STREAM)[0]),
        (0, 0)
    );
    assert_eq!(bench.other_smmu.entry(0x18), victim);
    // Its faults are its own, wherever they are seen.
    bench.other_smmu.report([C_BAD_STE | STREAM << 32, 0, 0, 0]);
    assert!(!bench.system.gate.serve_faults(bench.system, IommuIndex(1)));
    assert_eq!((bench.counted(Some(0)), bench.counted(Some(1))), (1, 0));
}

/// Of the ITS devices reach the page that messages are written to, in no other place than the guest is told, and CPUs none.
#[test]
fn messages_reach_the_translater_and_nothing_else_that_is_no_ram() {
    let bench = Bench::new(1);
    for own in &bench.system.partitions {
        let ram = own.ram.guest();
        let below = (0..ram.base.0).step_by(0x1000);
        let behind = (ram.end().0..ram.end().0 + (64 << 20)).step_by(0x1000);
        let reached = below.chain(behind).map(Gpa).filter_map(|at| {
            let page = own.devices.dma.reaches(at)?;
            Some((at, page))
        });
        let translater = (map::ITS_TRANSLATION.base, Hpa(GITS + 0x1_0000));
        assert_eq!(reached.collect::<Vec<_>>(), [translater]);
        assert_eq!(own.devices.dma.reaches(ram.base), Some(own.ram.host()));
        let cpus = own.stage_two.lock();
        let its = [map::ITS, map::ITS_TRANSLATION];
        assert!(its.iter().all(|frame| cpus.walk(frame.base).is_none()));
    }
}

#[test]
fn a_device_on_the_memory_bus_is_let_through_like_a_function() {
    let bench = Bench::new(1);
    let own = &bench.system.partitions[0];
    let [(path, .., mine), (.., others)] = NODES;
    let (mine, others) = (u64::from(mine), u64::from(others));
    assert_eq!(
        bench.smmu.entry(mine),
        bench.smmu.entry(STREAM),
        "one table"
    );
    bench.event(F_TRANSLATION, mine);
    assert_eq!(bench.counted(Some(0)), 1);
    let fault = *bench.system.gate.monitor.lock().history().last().unwrap();
    assert_eq!(fault.sender, Some(Sender::Node(Name::new(path))));
    assert!(
        fault
            .to_string()
            .contains(" stream 0x4040 /edge@9100000 write at ")
    );
    // Cut off: that one, once, until it is taken back.
    assert!(own.devices.cut_off(Sender::Node(Name::new(path))));
    assert!(!own.devices.cut_off(Sender::Node(Name::new(path))));
    assert_eq!(bench.smmu.entry(mine)[0], ABORT);
    assert_eq!(bench.smmu.entry(STREAM)[0], STAGE_TWO);
    bench.stop();
    assert_eq!(bench.smmu.entry(mine)[0], 0);
    assert_eq!(bench.smmu.entry(others)[0], STAGE_TWO);
    bench.event(C_BAD_STE, mine);
    assert_eq!((bench.counted(Some(0)), bench.counted(None)), (2, 0));
    own.start(bench.system);
    assert_eq!(bench.smmu.entry(mine)[0], STAGE_TWO);
}

#[test]
fn whoever_storms_is_silenced_until_it_is_taken_back() {
    let bench = Bench::new(1);
    let own = &bench.system.partitions[0];
    for number in [F_TRANSLATION, C_BAD_STE] {
        for _ in 0..STORM {
            assert_ne!(bench.smmu.entry(STREAM)[0], ABORT);
            bench.event(number, STREAM);
        }
        assert_eq!(bench.smmu.entry(STREAM)[0], ABORT, "{number:#x}");
        assert_eq!(
            bench.smmu.entry(0x08)[0],
            if own.life.is_running() { STAGE_TWO } else { 0 }
        );
        bench.stop();
        assert_eq!(bench.smmu.entry(STREAM)[0], 0);
        arch::clock::advance(2_000_000_000);
    }
    own.start(bench.system);
    assert_eq!(bench.smmu.entry(STREAM)[0], STAGE_TWO);
    // A stream of nobody.
    for _ in 0..STORM {
        bench.event(C_BAD_STE, 0x55);
    }
    assert_eq!(bench.smmu.entry(0x55)[0], ABORT);
    assert_eq!(bench.counted(None), u64::from(STORM));
}

#[test]
fn faults_of_a_stopped_partition_stop_nothing_more() {
    let (_, mut system) = Hardware::build(&boot_info());
    system.partitions[0].config.on_fault = OnFault {
        action: FaultAction::Stop,
        threshold: 1,
    };
    let system: &'static _ = alloc::boxed::Box::leak(alloc::boxed::Box::new(system));
    let own = &system.partitions[0];
    let function = system.gate.topology.functions[own.devices.owned[1].info].address;
    let sender = Sender::Function(function);
    own.fault(system, sender);
    own.start(system);
    assert!(
        !own.life.must_leave(),
        "what came before counts for nothing"
    );
    own.fault(system, sender);
    assert!(own.life.must_leave());
}

#[test]
fn a_thousand_restarts_leave_no_frame_no_object_and_no_tag_behind() {
    let bench = Bench::new(1);
    let own = &bench.system.partitions[0];
    arch::clock::set_step(10_000_000);
    let next_object = || own.devices.dma.next_object();
    let before = (
        bench.frames.free_ranges(),
        next_object(),
        bench.smmu.entry(STREAM),
    );
    for _ in 0..1000 {
        own.life.ask(Change::Restart);
        own.carry(bench.system, Change::Restart);
    }
    let after = (
        bench.frames.free_ranges(),
        next_object(),
        bench.smmu.entry(STREAM),
    );
    assert_eq!(before, after);
    assert_eq!(own.restarts(), 1000);
}

#[test]
fn a_partition_that_cannot_be_built_leaves_nothing_behind() {
    let info = boot_info();
    let (hardware, mut system) = Hardware::build(&info);
    let frames = hardware.frames;
    let config = system.partitions[0].config.clone();
    let place = (
        system.partitions[0].ram.host().0,
        system.partitions[0].ram.guest().len,
    );
    system.partitions.clear();
    let free = frames.free_ranges();
    let host = Arc::new(Host(frames));
    let bundle = Bundle::parse(bundle(&configuration())).unwrap();
    let materials = Materials {
        info: &info,
        host: &host,
        bundle: &bundle,
        timer: map::VIRTUAL_TIMER_INTID,
        devices: &DEVICES.list(),
        lines: Vec::new(),
    };
    let mut grants = 0;
    loop {
        let ram = frames.reserve_exact(place.0, place.1).expect("free again");
        frames.window().grant(grants);
        let built = assemble::partition(0, &config, ram, &system.gate, &materials);
        frames.window().grant(u64::MAX);
        let done = built.is_ok();
        if let Err(error) = built.map(drop) {
            let short = matches!(
                error,
                SetupError::Table(_) | SetupError::Objects(..) | SetupError::Its(_)
            );
            assert!(short, "{error}");
        }
        assert_eq!(frames.free_ranges(), free, "after {grants} allocations");
        if done {
            break;
        }
        grants += 1;
    }
    // Tables of the CPUs, of the devices, and of messages.
    assert!(grants > 6, "{grants}");
}

#[test]
fn an_smmu_that_lost_its_state_has_it_again_within_one_watch() {
    let bench = Bench::new(1);
    let gate = &bench.system.gate;
    let entry = bench.smmu.entry(STREAM);
    let next = gate.watch().expect("the first is due at once");
    assert_eq!(gate.watch(), None, "not yet");
    bench.smmu.power_cycle();
    arch::clock::advance(next - arch::clock::now_ns());
    assert!(gate.watch().is_some());
    // SMMUEN, and GBPA.ABORT behind it.
    assert_eq!(bench.smmu.register(0x20) & 1, 1);
    assert_eq!(bench.smmu.register(0x44) >> 20 & 1, 1);
    assert_eq!(bench.smmu.entry(STREAM), entry);
    bench.stop();
    assert_eq!(bench.smmu.entry(STREAM)[0], 0);
    // A stop on one that nobody has looked at yet.
    bench.system.partitions[0].start(bench.system);
    bench.smmu.power_cycle();
    bench.stop();
    assert_eq!(bench.smmu.register(0x20) & 1, 1);
    assert_eq!(bench.smmu.entry(STREAM)[0], 0);
}
