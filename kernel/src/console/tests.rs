//! Bytes in, bytes out.

use super::{Console, Input, Sink, Source};

#[derive(Default)]
struct Wire(Vec<u8>);

impl Sink for Wire {
    fn put(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
}

struct Bench {
    console: Console,
    wire: Wire,
}

impl Bench {
    fn new() -> Self {
        Self {
            console: Console::new(["a", "b", "c"]),
            wire: Wire::default(),
        }
    }

    fn write(&mut self, partition: usize, text: &str) {
        self.console.write(
            Source::Partition(partition),
            text.as_bytes(),
            &mut self.wire,
        );
    }

    fn print(&mut self, text: &str) {
        self.console.print(format_args!("{text}"), &mut self.wire);
    }

    fn flush(&mut self) {
        for partition in 0..3 {
            self.console.show_kept(partition, &mut self.wire);
        }
    }

    fn input(&mut self, bytes: &[u8]) -> Vec<(usize, u8)> {
        bytes
            .iter()
            .filter_map(|&byte| match self.console.input(byte, &mut self.wire) {
                Input::For(partition, byte) => Some((partition, byte)),
                Input::Done | Input::Statistics => None,
            })
            .collect()
    }

    /// What came since the last call.
    fn out(&mut self) -> String {
        String::from_utf8(core::mem::take(&mut self.wire.0)).unwrap()
    }
}

#[test]
fn a_line_appears_whole_with_its_name() {
    let mut bench = Bench::new();
    bench.write(1, "hel");
    bench.write(1, "lo\r");
    assert_eq!(bench.out(), "");
    bench.write(1, "\nnext");
    assert_eq!(bench.out(), "[b] hello\r\n");
    bench.write(1, "\n\n");
    assert_eq!(bench.out(), "[b] next\r\n[b] \r\n");
    bench.print("ready");
    assert_eq!(bench.out(), "[sluice] ready\r\n");
}

#[test]
fn sources_never_share_a_line() {
    let mut bench = Bench::new();
    bench.write(1, "from b");
    bench.write(2, "from c");
    bench.write(1, " again\n");
    bench.write(2, " too\n");
    assert_eq!(bench.out(), "[b] from b again\r\n[c] from c too\r\n");
}

#[test]
fn the_selected_partition_is_shown_at_once() {
    let mut bench = Bench::new();
    bench.write(0, "~ # ");
    assert_eq!(bench.out(), "[a] ~ # ");
    bench.write(0, "l");
    bench.write(0, "s\r\n");
    assert_eq!(bench.out(), "ls\r\n");
    bench.write(0, "file\r\n~ # ");
    assert_eq!(bench.out(), "[a] file\r\n[a] ~ # ");
    bench.flush();
    assert_eq!(bench.out(), "");
}

#[test]
fn a_prompt_that_was_cut_off_is_drawn_again() {
    let mut bench = Bench::new();
    bench.write(0, "~ # ");
    bench.write(1, "one\n");
    bench.print("two");
    assert_eq!(bench.out(), "[a] ~ # \r\n[b] one\r\n[sluice] two\r\n");
    bench.flush();
    assert_eq!(bench.out(), "[a] ~ # ");
    bench.write(1, "three\n");
    bench.out();
    bench.write(0, "ls");
    assert_eq!(bench.out(), "[a] ~ # ls");
}

#[test]
fn idle_output_of_others_is_flushed_as_a_line() {
    let mut bench = Bench::new();
    bench.write(1, "login: ");
    bench.flush();
    bench.flush();
    assert_eq!(bench.out(), "[b] login: \r\n");
    bench.console.end(Source::Partition(1), &mut bench.wire);
    assert_eq!(bench.out(), "");
    bench.write(1, "dying");
    bench.console.end(Source::Partition(1), &mut bench.wire);
    assert_eq!(bench.out(), "[b] dying\r\n");
}

#[test]
fn a_long_line_is_cut_not_kept() {
    let mut bench = Bench::new();
    bench.write(1, &"x".repeat(600));
    assert_eq!(
        bench.out(),
        format!("[b] {0}\r\n[b] {0}\r\n", "x".repeat(256))
    );
    bench.write(1, "\n");
    assert_eq!(bench.out(), format!("[b] {}\r\n", "x".repeat(88)));
    bench.write(0, &"y".repeat(257));
    assert_eq!(bench.out(), format!("[a] {}\r\n[a] y", "y".repeat(256)));
}

#[test]
fn only_the_selected_partition_drives_the_terminal() {
    let mut bench = Bench::new();
    bench.write(1, "\x1b[2J\tred\x07\rover\n");
    assert_eq!(bench.out(), "[b] .[2J\tred..over\r\n");
    bench.write(0, "\x1b[1mbold");
    assert_eq!(bench.out(), "[a] \x1b[1mbold");
    // It cannot write over its name either.
    bench.write(0, "\r[sluice] lies");
    assert_eq!(bench.out(), "\r[a] [sluice] lies");
}

#[test]
fn input_goes_to_the_selected_partition() {
    let mut bench = Bench::new();
    assert_eq!(bench.input(b"hi"), [(0, b'h'), (0, b'i')]);
    assert_eq!(bench.input(b"\x1d2x"), [(2, b'x')]);
    assert_eq!(bench.console.selected(), Some(2));
    assert_eq!(bench.out(), "[sluice] input to 2 c\r\n");
    assert_eq!(bench.input(b"\x1d\x1d7"), [(2, 0x1d), (2, b'7')]);
    assert_eq!(bench.out(), "");
}

#[test]
fn selecting_shows_what_the_new_one_holds_and_closes_the_old_ones_line() {
    let mut bench = Bench::new();
    bench.write(0, "~ # ");
    bench.write(1, "$ ");
    bench.input(b"\x1d1");
    assert_eq!(bench.out(), "[a] ~ # \r\n[sluice] input to 1 b\r\n[b] $ ");
    bench.flush();
    assert_eq!(bench.out(), "\r\n[a] ~ # \r\n[b] $ ");
}

#[test]
fn commands_list_refuse_and_explain() {
    let mut bench = Bench::new();
    assert_eq!(bench.input(b"\x1d?"), []);
    assert_eq!(
        bench.out(),
        "[sluice] * 0 a\r\n[sluice]   1 b\r\n[sluice]   2 c\r\n"
    );
    assert_eq!(bench.input(b"\x1d9"), []);
    assert_eq!(bench.out(), "[sluice] no partition 9\r\n");
    assert_eq!(bench.console.selected(), Some(0));
    assert_eq!(bench.input(b"\x1dq"), []);
    assert!(bench.out().starts_with("[sluice] Ctrl-] then"));
    assert_eq!(bench.input(b"q"), [(0, b'q')]);
}

#[test]
fn without_partitions_and_from_unknown_ones_nothing_happens() {
    let mut bench = Bench::new();
    bench.console = Console::new([]);
    assert_eq!(bench.input(b"x\x1d\x1d\x1d0\x1d?"), []);
    assert_eq!(bench.out(), "[sluice] no partition 0\r\n");
    bench.write(0, "x\n");
    bench.write(usize::MAX, "x\n");
    bench.flush();
    assert_eq!(bench.out(), "");
}

#[test]
fn statistics_are_asked_for_by_the_escape_only() {
    let mut bench = Bench::new();
    let mut input = |byte| bench.console.input(byte, &mut bench.wire);
    assert_eq!(input(b's'), Input::For(0, b's'));
    assert_eq!(input(0x1d), Input::Done);
    assert_eq!(input(b's'), Input::Statistics);
    assert_eq!(input(b's'), Input::For(0, b's'));
}

#[test]
fn what_is_kept_is_known() {
    let mut bench = Bench::new();
    bench.write(0, "~ # ");
    bench.write(1, "half");
    let keeps = |bench: &Bench| [0, 1, 2, 3, usize::MAX].map(|n| bench.console.keeps(n));
    assert_eq!(keeps(&bench), [false, true, false, false, false]);
    bench.write(2, "cuts\n");
    assert_eq!(keeps(&bench), [true, true, false, false, false]);
    bench.console.show_kept(usize::MAX, &mut bench.wire);
    bench.console.show_kept(1, &mut bench.wire);
    assert_eq!(keeps(&bench), [true, false, false, false, false]);
    bench.console.show_kept(0, &mut bench.wire);
    assert_eq!(keeps(&bench), [false; 5]);
}

#[test]
fn no_order_of_writes_mixes_two_sources_in_one_line() {
    let mut bench = Bench::new();
    let mut state = 0x1234_5678_9abc_def1_u64;
    for _ in 0..20_000 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let who = (state >> 8) as usize % 3;
        let letter = ["a", "b", "c"][who];
        match state % 11 {
            0 => bench.flush(),
            1 => bench.write(who, "\n"),
            2 => bench.write(who, "\r\n"),
            3 => bench.print("s"),
            4 => drop(bench.input(&[0x1d, b'0' + who as u8])),
            _ => bench.write(who, letter),
        }
    }
    let out = bench.out();
    for line in out.split("\r\n").filter(|line| !line.is_empty()) {
        let (name, text) = line
            .strip_prefix('[')
            .and_then(|line| line.split_once("] "))
            .unwrap();
        let own = name == "sluice" && (text == "s" || text.starts_with("input to "));
        assert!(
            own || text.chars().all(|c| name == c.to_string()),
            "{line:?}"
        );
    }
}
