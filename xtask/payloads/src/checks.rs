//! What a scenario prints, and whether all of it held.

use core::fmt::{self, Write};

/// Counts what was checked, and says it line by line.
pub struct Checks<W> {
    out: W,
    passed: u32,
    failed: u32,
}

impl<W: Write> Checks<W> {
    /// A fresh list that prints to `out`.
    pub fn new(out: W) -> Self {
        Self {
            out,
            passed: 0,
            failed: 0,
        }
    }

    /// One check: prints it, and remembers whether it held.
    pub fn check(&mut self, held: bool, what: fmt::Arguments<'_>) {
        if held {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
        self.say(format_args!(
            "check {}: {what}",
            if held { "ok" } else { "FAILED" }
        ));
    }

    /// A line that is no check.
    pub fn say(&mut self, what: fmt::Arguments<'_>) {
        // A console cannot fail in a way that a guest could tell anybody.
        let _ = writeln!(self.out, "{what}\r");
    }

    /// The last line. A scenario that checked nothing has failed.
    pub fn finish(mut self) -> bool {
        let passed = self.failed == 0 && self.passed > 0;
        let (ok, failed) = (self.passed, self.failed);
        let word = if passed { "passed" } else { "failed" };
        self.say(format_args!("result: {word} ({ok} ok, {failed} failed)"));
        passed
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::Checks;
    use std::string::String;

    #[test]
    fn one_failure_or_no_check_at_all_fails_the_scenario() {
        let mut out = String::new();
        assert!(!Checks::new(&mut out).finish());
        let mut checks = Checks::new(&mut out);
        checks.check(true, format_args!("one"));
        checks.check(false, format_args!("two"));
        assert!(!checks.finish());
        let mut checks = Checks::new(&mut out);
        checks.check(true, format_args!("three"));
        assert!(checks.finish());
        assert!(out.ends_with("check ok: three\r\nresult: passed (1 ok, 0 failed)\r\n"));
    }
}
