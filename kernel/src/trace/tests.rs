//! Events as words, and what is kept of them.

use super::{CpuTrace, DEPTH, EXITS, Event, KINDS, Trace};
use arch::vcpu::SysregAccess;

const ALL: [Event; KINDS] = [
    Event::Interrupt(27),
    Event::Mmio {
        write: true,
        ipa: 0xffff_0900_0018,
    },
    Event::Abort { ipa: 0x7000 },
    Event::Call(0xc400_0003),
    Event::SystemRegister(0xc65d),
    Event::Wait,
    Event::SystemError(0xbe00_0000),
    Event::Other(u32::MAX),
    Event::Smmu { ipa: 0x905_0098 },
    Event::Start(0x4020_0000),
    Event::Take(8192),
    Event::Fault(0x10),
];

#[test]
fn every_event_comes_back_as_it_was() {
    for event in ALL {
        assert_eq!(Event::decode(event.encode()), Some(event));
    }
    assert_eq!(Event::decode(12 << 56), None);
}

#[test]
fn the_last_events_stay_and_all_are_counted() {
    let trace = CpuTrace::new();
    for intid in 0..1000 {
        trace.record(Event::Take(intid));
    }
    trace.record(Event::Wait);
    let last: Vec<Event> = trace.last(3).map(|(_, event)| event).collect();
    assert_eq!(last, [Event::Take(998), Event::Take(999), Event::Wait]);
    assert_eq!(trace.last(usize::MAX).count(), DEPTH);
    let times: Vec<u64> = trace.last(DEPTH).map(|(time, _)| time).collect();
    assert!(times.is_sorted());
    assert_eq!(trace.counts().0[10], 1000);
    assert_eq!(trace.counts().exits(), 1);
}

#[test]
fn statistics_show_what_there_was() {
    let trace = Trace::new(3);
    assert_eq!(trace.counts([0, 1, 2]).to_string(), "0 exits");
    trace.cpu(0).record(ALL[1]);
    trace.cpu(2).record(ALL[1]);
    trace.cpu(2).record(Event::Interrupt(8192));
    trace.cpu(1).record(Event::Wait);
    trace.cpu(2).record(Event::Take(27));
    let counts = trace.counts([0, 2]);
    assert_eq!(counts.to_string(), "3 exits (interrupt 1, mmio 2)");
    let mut out = String::new();
    trace.dump(1, &mut out).unwrap();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[0].ends_with(": mmio write 0xffff09000018"), "{out}");
    assert!(lines[1].ends_with(": wait"), "{out}");
}

#[test]
fn the_longest_stay_is_from_an_exit_to_the_next_entry() {
    let trace = Trace::new(2);
    trace.cpu(0).resume();
    assert_eq!(trace.longest([0]).to_string(), "");
    let cpu = trace.cpu(0);
    cpu.exit(Event::Smmu { ipa: 0 });
    std::thread::sleep(std::time::Duration::from_millis(2));
    cpu.record(Event::Take(27));
    cpu.resume();
    let longest = trace.longest([0, 1]);
    assert!(longest.0[8] > 0 && longest.0[..8].iter().all(|it| *it == 0));
    assert_eq!(longest.to_string(), format!("smmu {}", longest.0[8]));
    cpu.exit(Event::Smmu { ipa: 0 });
    cpu.resume();
    assert_eq!(trace.longest([0]), longest);
    // What a vCPU that was off does next is no answer to its last exit.
    cpu.exit(Event::Call(0));
    cpu.start(0);
    cpu.resume();
    assert_eq!(trace.longest([0]), longest);
}

#[test]
fn an_exit_is_recorded_as_what_it_is() {
    // ICC_SGI1R_EL1 is S3_0_C12_C11_5.
    let register = SysregAccess {
        op0: 3,
        op1: 0,
        crn: 12,
        crm: 11,
        op2: 5,
        reg: 0,
        write: true,
    };
    let event = Event::system_register(&register);
    assert_eq!(event.to_string(), "system register S3_0_C12_C11_5");
    let call = Event::Call(0x8400_0008);
    assert_eq!(call.to_string(), "call 0x84000008");
    assert!(
        ALL[..EXITS]
            .iter()
            .all(|event| event.encode() >> 56 < EXITS as u64)
    );
}

#[test]
fn exits_of_x86_64_say_what_they_were_for() {
    use super::event_x86_64::{EXITS, Event, KINDS};
    use arch::x86_64::vcpu::{Exit, IoAccess, NestedFault, RAX, RCX};

    let access = |gpa| {
        Exit::NestedFault(NestedFault {
            gpa,
            write: true,
            fetch: false,
            walk: false,
            present: true,
            reserved: false,
        })
    };
    let port = Exit::Io(IoAccess {
        port: 0x3f8,
        size: 1,
        write: true,
        string: false,
        repeat: false,
    });
    let mut general = [0; 16];
    // What a 32-bit register has above it does not count.
    general[RAX] = 0xffff_ffff_8000_0001;
    general[RCX] = 0xffff_ffff_0000_0830;
    let exits = [
        (Exit::Interrupt, "interrupt 0x0"),
        (access(0xfec0_0010), "mmio 0xfec00010"),
        (port, "port 0x3f8"),
        (Exit::Msr { write: true }, "register 0x830"),
        (Exit::Cpuid, "cpuid 0x80000001"),
        (Exit::Hypercall, "call 0x80000001"),
        (Exit::Halt, "wait 0x0"),
        (Exit::Unknown(0x7b), "other 0x7b"),
        (access(0xfed9_0088), "vtd 0xfed90088"),
    ];
    assert_eq!(exits.len(), EXITS);
    let events = exits.map(|(exit, text)| (Event::of(&exit, &general), text));
    let others = [
        (Event::start(0x9_a000), "start 0x9a000"),
        (Event::take(0xf0), "take 0xf0"),
        (Event::fault(0x10), "fault 0x10"),
    ];
    for (code, (event, text)) in events.into_iter().chain(others).enumerate() {
        assert_eq!(event.to_string(), text);
        assert_eq!(event.encode() >> 56, code as u64);
        assert_eq!(Event::decode(event.encode()), Some(event));
    }
    assert_eq!(Event::decode((KINDS as u64) << 56), None);
}
