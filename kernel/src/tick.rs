//! The timer of each CPU, for what has to happen even if nothing else does: at most one deadline a CPU, and none while
//! nothing waits. One CPU always has one, for the watch over the IOMMUs.

use crate::system::System;
use crate::{input, terminal};
use arch::timer;

/// Has this CPU look at everything that waits, at `at_ns` or before.
pub fn by(at_ns: u64) {
    if timer::deadline().is_none_or(|set| set > at_ns) {
        timer::set(at_ns);
    }
}

/// The deadline has come.
pub fn serve(system: &'static System) {
    timer::off();
    let idle = terminal::show_idle();
    let input = input::pump(system);
    let (output, relieved) = terminal::pump();
    if relieved {
        for partition in &system.partitions {
            partition.resume_output(system);
        }
    }
    let watch = system.gate.watch();
    if watch.is_some() {
        system.gate.expire(system);
    }
    let waiting = [idle, input, output, watch];
    if let Some(next) = waiting.into_iter().flatten().min() {
        by(next);
    }
}

#[cfg(test)]
mod tests {
    use super::by;
    use arch::timer;

    #[test]
    fn the_earliest_deadline_counts() {
        by(500);
        by(700);
        assert_eq!(timer::deadline(), Some(500));
        by(300);
        assert_eq!(timer::deadline(), Some(300));
        timer::off();
        by(900);
        assert_eq!(timer::deadline(), Some(900));
    }
}
