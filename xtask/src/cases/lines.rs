//! What a case reads off the console, where every line starts with the name of who wrote it.

use anyhow::{Context, Result, ensure};

/// What `who` wrote, line by line. Where another's line came in between, a line is cut and comes again as a whole.
pub fn of<'a>(console: &'a str, who: &str) -> impl Iterator<Item = &'a str> {
    let prefix = format!("[{who}] ");
    console
        .lines()
        .filter_map(move |line| line.strip_prefix(prefix.as_str()))
}

/// All that `who` answered under `key`: lines `key=value;`, so that a cut line is none, with repetitions dropped.
pub fn answers<'a>(console: &'a str, who: &str, key: &str) -> Vec<&'a str> {
    let mut found: Vec<&str> = of(console, who)
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')?.strip_suffix(';'))
        .collect();
    found.dedup();
    found
}

/// The one answer of `who` under `key`.
pub fn answer<'a>(console: &'a str, who: &str, key: &str) -> Result<&'a str> {
    let found = answers(console, who, key);
    ensure!(
        found.len() == 1,
        "{who} said `{key}` {} times: {found:?}",
        found.len()
    );
    Ok(found[0])
}

/// What stands behind `start` in a line of `who`; there has to be one such line.
pub fn behind<'a>(console: &'a str, who: &str, start: &str) -> Result<&'a str> {
    let mut found = of(console, who).filter_map(|line| line.strip_prefix(start));
    let first = found
        .next()
        .with_context(|| format!("{who} has no line `{start}`"))?;
    ensure!(found.next().is_none(), "{who} has two lines `{start}`");
    Ok(first)
}

/// [`behind`], in a line of the hypervisor's.
pub fn hypervisor<'a>(console: &'a str, start: &str) -> Result<&'a str> {
    behind(console, "sluice", start)
}

/// The number that `text` starts with, in hexadecimal behind `0x`, else in decimal.
pub fn number(text: &str) -> Result<u64> {
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    let end = digits
        .find(|c: char| !c.is_digit(radix))
        .unwrap_or(digits.len());
    u64::from_str_radix(&digits[..end], radix).with_context(|| format!("no number: {text:?}"))
}

/// The number before `what` in `text`, of counts between commas, colons and semicolons.
pub fn counted(text: &str, what: &str) -> Result<u64> {
    let mut parts = text.split([',', ';', ':']);
    let found = parts.find_map(|part| part.trim().strip_suffix(what)?.strip_suffix(' '));
    number(found.with_context(|| format!("no {what} in: {text}"))?)
}

/// `BASE+LENGTH` at the start of `text`.
pub fn range(text: &str) -> Result<(u64, u64)> {
    let (base, len) = text
        .split_once('+')
        .with_context(|| format!("no range: {text:?}"))?;
    Ok((number(base)?, number(len)?))
}

/// A guest of ours says once that it passed, and never that a check failed.
pub fn passed(console: &str, who: &str) -> Result<()> {
    if let Some(line) = of(console, who).find(|line| line.starts_with("check FAILED")) {
        anyhow::bail!("{who}: {line}");
    }
    ensure!(
        of(console, who).any(|line| line.starts_with("result: passed")),
        "{who} did not say that it passed"
    );
    Ok(())
}

/// The hypervisor's closing line on `who`: DMA faults that were recorded, and accesses that were refused.
pub fn summary(console: &str, who: &str) -> Result<(u64, u64)> {
    let line = of(console, "sluice")
        .filter_map(|line| line.strip_prefix(who)?.strip_prefix(": "))
        .find(|line| line.contains(" dma faults recorded"))
        .with_context(|| format!("the hypervisor has no closing line on {who}"))?;
    let refused = match line.split_once(" dma faults recorded, ") {
        Some((_, rest)) => number(rest)?,
        None => 0,
    };
    Ok((number(line)?, refused))
}

/// What the hypervisor had of `who` and of the machine after each of its lives but the last, which has to be the same.
pub fn left<'a>(console: &'a str, who: &str, restarts: usize) -> Result<&'a str> {
    let start = format!("{who}: restarts with ");
    let mut all = of(console, "sluice").filter_map(|line| line.strip_prefix(start.as_str()));
    let first = all.next().with_context(|| format!("no restart of {who}"))?;
    let mut count = 1;
    for other in all {
        count += 1;
        ensure!(other == first, "at first {first}, after {count}: {other}");
    }
    ensure!(count == restarts, "{count} restarts of {restarts}");
    // On x86_64 messages are not counted: the entry of one is the partition's for good.
    for what in [" messages,", " events,"] {
        let none = format!(" 0{what}");
        ensure!(!first.contains(what) || first.contains(&none), "{first}");
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "[left] cpus=1;\n[left] sum=ab\n[right] sum=xy;\n[left] sum=abcd;\n[left] sum=abcd;\n\
        [sluice] partition left: memory 0x40600000+0x4000000, cpus [0]\n\
        [sluice] left: 32 dma faults recorded, 7 refused accesses\n\
        [sluice] nobody: 3 dma faults recorded; records lost 0 times\n";

    #[test]
    fn answer_is_a_whole_line_of_its_guest() {
        assert_eq!(answer(CONSOLE, "left", "sum").unwrap(), "abcd");
        assert_eq!(answer(CONSOLE, "right", "sum").unwrap(), "xy");
        assert!(answer(CONSOLE, "right", "cpus").is_err());
    }

    #[test]
    fn hypervisor_lines_have_ranges_and_counts() {
        let text = hypervisor(CONSOLE, "partition left: memory ").unwrap();
        assert_eq!(range(text).unwrap(), (0x4060_0000, 0x400_0000));
        assert_eq!(summary(CONSOLE, "left").unwrap(), (32, 7));
        assert_eq!(summary(CONSOLE, "nobody").unwrap(), (3, 0));
        assert!(summary(CONSOLE, "right").is_err());
    }

    #[test]
    fn what_is_left_is_the_same_and_no_message_and_no_event() {
        let line = "[sluice] a: restarts with 9 objects, 0 messages, 0 events, 5 bytes free\n";
        let other = line.replace('5', "4");
        assert!(left(line, "a", 1).is_ok() && left(line, "a", 2).is_err());
        assert!(left(&line.repeat(2), "a", 2).is_ok() && left("", "a", 0).is_err());
        assert!(left(&format!("{line}{other}"), "a", 2).is_err());
        for what in ["0 messages", "0 events"] {
            let more = line.replace(what, &what.replace('0', "10"));
            assert!(left(&more, "a", 1).is_err(), "{more}");
        }
    }

    #[test]
    fn guest_that_says_nothing_has_not_passed() {
        assert!(passed("", "a").is_err());
        assert!(passed("[a] result: passed (1 ok, 0 failed)\n", "a").is_ok());
        assert!(passed("[a] check FAILED: x\n[a] result: passed\n", "a").is_err());
        assert!(passed("[b] result: passed\n", "a").is_err());
    }
}
