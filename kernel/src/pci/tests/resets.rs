//! Resets, with their times.

use super::*;
use crate::pci::fake::Ticking;

fn run(bus: &mut FakeBus, at: &str) -> (Result<ResetKind, ResetError>, u64) {
    let topology = enumerate(bus, &[virt_host()]);
    let info = info(&topology, at).clone();
    // The owner left traces.
    let fake = bus.function(info.address.bdf).unwrap();
    fake.bytes[4] = 6;
    fake.bytes[0x3c] = 0x55;
    let bars: Vec<u32> = (0x10..0x28).step_by(4).map(|at| fake.get(at)).collect();
    let mut clock = Ticking::default();
    let result = reset(bus, &mut clock, &topology, &info);
    if result.is_ok() {
        let fake = bus.function(info.address.bdf).unwrap();
        assert_eq!(fake.resets, 1);
        assert_eq!(fake.bytes[0x3c], 0, "state is gone");
        assert_eq!(fake.get(4) & 0xffff, 0x400, "silent");
        let after: Vec<u32> = (0x10..0x28).step_by(4).map(|at| fake.get(at)).collect();
        assert_eq!(after, bars, "BARs are back");
    }
    clock.wait();
    assert!(clock.longest <= 100_000, "{} ns at once", clock.longest);
    (result, clock.now / 1_000_000)
}

#[test]
fn flr_waits_its_time_and_for_retries() {
    let mut bus = machine();
    bus.at("00:02.0").retries = 20;
    bus.at("00:02.0").put(0x88, 0x5810);
    let (result, ms) = run(&mut bus, "00:02.0");
    assert_eq!(result, Ok(ResetKind::FunctionLevel));
    assert!((100..110).contains(&ms), "{ms}");
    assert_eq!(
        bus.at("00:02.0").get(0x88),
        0x5810,
        "payload sizes are back"
    );
}

#[test]
fn requests_that_stay_pending_delay_the_reset_by_their_bound_only() {
    let mut bus = machine();
    bus.at("00:02.0").bytes[0x8a] |= 0x20;
    let (result, ms) = run(&mut bus, "00:02.0");
    assert_eq!(result, Ok(ResetKind::FunctionLevel));
    assert!((200..210).contains(&ms), "{ms}");
}

#[test]
fn a_conventional_function_has_a_reset_of_its_own_sometimes() {
    let mut function = edu(1).with_capability(0x80, 0x13);
    function.bytes[0x82] = 6;
    function.bytes[0x83] = 3;
    function.advanced_features = Some(0x80);
    let mut bus = FakeBus::new(vec![(0, vec![function])]);
    assert_eq!(run(&mut bus, "00:01.0").0, Ok(ResetKind::AdvancedFeatures));
}

#[test]
fn power_management_resets_where_the_state_is_lost() {
    let mut bus = FakeBus::new(vec![(0, vec![edu(1).with_power(0x80, false)])]);
    let (result, ms) = run(&mut bus, "00:01.0");
    assert_eq!(result, Ok(ResetKind::Power));
    assert!((20..30).contains(&ms), "{ms}");
    let mut bus = FakeBus::new(vec![(0, vec![edu(1).with_power(0x80, true)])]);
    let expected = ResetError::NotPossible(address("00:01.0"));
    assert_eq!(run(&mut bus, "00:01.0").0, Err(expected));
}

#[test]
fn alone_behind_a_port_the_bus_is_reset() {
    let mut bus = machine();
    let (result, ms) = run(&mut bus, "03:00.0");
    assert_eq!(result, Ok(ResetKind::SecondaryBus));
    assert!((100..115).contains(&ms), "{ms}");
    assert_eq!(bus.at("00:06.0").bytes[0x3e] & 0x40, 0);
}

#[test]
fn one_that_cannot_be_reset_alone_is_named() {
    let mut bus = machine();
    for at in ["00:03.0", "02:00.0", "02:00.1"] {
        let (result, ms) = run(&mut bus, at);
        assert_eq!(result, Err(ResetError::NotPossible(address(at))));
        assert_eq!(ms, 0);
    }
    let text = ResetError::NotPossible(address("00:03.0")).to_string();
    assert!(text.starts_with("0000:00:03.0 cannot be reset"), "{text}");
}

#[test]
fn one_that_does_not_come_back_is_given_up_at_the_deadline() {
    let mut bus = machine();
    bus.at("00:02.0").dies = true;
    let (result, ms) = run(&mut bus, "00:02.0");
    assert_eq!(result, Err(ResetError::NotReady(address("00:02.0"))));
    assert!((1100..1120).contains(&ms), "{ms}");
    let mut bus = machine();
    bus.at("00:02.0").retries = u32::MAX;
    let (result, ms) = run(&mut bus, "00:02.0");
    assert_eq!(result, Err(ResetError::NotReady(address("00:02.0"))));
    assert!(ms < 1120, "{ms}");
}

#[test]
fn one_that_comes_back_as_another_is_refused() {
    let mut bus = machine();
    bus.at("00:02.0").reset_bytes[2] = 0x99;
    let expected = ResetError::Changed(address("00:02.0"), 0x1b36, 0x0099);
    assert_eq!(run(&mut bus, "00:02.0").0, Err(expected));
}
