//! Partitions that start again and again with DMA on its way: each life finds its memory as it has to be, and leaves nothing
//! behind.

use super::{Case, Context, case, lines};
use anyhow::{Result, ensure};
use std::time::Duration;

pub const CASES: &[Case] = &[
    case("lives::a_hundred_leave_nothing_over", a_hundred),
    Case {
        name: "lives::a_thousand_leave_nothing_over",
        long: true,
        run: a_thousand,
    },
];

/// `edu` cannot be reset: its DMA of a life that is over is still on its way in the next one. LIVES is replaced.
const AGAIN: &str = "
[machine]
name = 'again'
[machine.qemu]
memory = '256M'
cpus = 2
devices = ['edu,addr=02.0,dma_mask=0xffffffffffffffff']
[[partition]]
name = 'again'
memory = '32M'
cpus = [0]
payload = 'edu_again'
cmdline = 'buffer=0x41ff0000 lives=LIVES'
viommu = VIOMMU
[[partition.device]]
address = '00:02.0'
reset = 'best-effort'
";

fn a_hundred(context: &Context) -> Result<()> {
    lives(context, 100, true)?;
    // Through our stage 2 alone.
    lives(context, 10, false)
}

fn a_thousand(context: &Context) -> Result<()> {
    lives(context, 1000, true)
}

fn lives(context: &Context, lives: usize, viommu: bool) -> Result<()> {
    let text = AGAIN.replace("LIVES", &lives.to_string());
    let text = text.replace("VIOMMU", &viommu.to_string());
    let mut guest = context.start(&context.pack(&text)?)?;
    // A DMA takes a tenth of a second.
    guest.wait_off(Duration::from_secs(30 + lives as u64 / 4))?;
    let console = guest.console();
    lines::passed(&console, "again")?;
    let numbers = lines::answers(&console, "again", "life");
    let expected: Vec<String> = (1..=lives).map(|life| life.to_string()).collect();
    ensure!(numbers == expected, "the lives {numbers:?}");
    ensure!(lines::summary(&console, "again")?.0 == 0);
    ensure!(lines::summary(&console, "nobody")?.0 == 0);
    // One restart fewer than there are lives.
    let left = lines::left(&console, "again", lives - 1)?;
    context.note(&format!("after each of {lives} lives: {left}"));
    Ok(())
}
