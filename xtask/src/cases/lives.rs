//! Partitions that start again and again with DMA on its way: each life finds its memory as it has to be, and leaves nothing
//! behind.

use super::layout::{Layout, Small};
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

/// `edu` cannot be reset: its DMA of a life that is over is still on its way in the next one.
const EDU: &str = "edu,addr=02.0,dma_mask=0xffffffffffffffff";
const GUEST: &str = "edu_again";

fn a_hundred(context: &Context) -> Result<()> {
    lives(context, 100, true)?;
    // Through our stage 2 alone.
    lives(context, 10, false)
}

fn a_thousand(context: &Context) -> Result<()> {
    lives(context, 1000, true)
}

fn lives(context: &Context, lives: usize, viommu: bool) -> Result<()> {
    let layout = Layout::of_small(&[EDU]).small(&Small {
        payload: GUEST,
        memory: "32M",
        cmdline: &format!("buffer=0x41ff0000 lives={lives}"),
        function: Some("00:02.0"),
        without_viommu: !viommu,
        ..Small::default()
    });
    let mut guest = context.start(&context.pack(&layout.text())?)?;
    // A DMA takes a tenth of a second.
    guest.wait_off(Duration::from_secs(30 + lives as u64 / 4))?;
    let console = guest.console();
    lines::passed(&console, GUEST)?;
    let numbers = lines::answers(&console, GUEST, "life");
    let expected: Vec<String> = (1..=lives).map(|life| life.to_string()).collect();
    ensure!(numbers == expected, "the lives {numbers:?}");
    ensure!(lines::summary(&console, GUEST)?.0 == 0);
    ensure!(lines::summary(&console, "nobody")?.0 == 0);
    // One restart fewer than there are lives.
    let left = lines::left(&console, GUEST, lives - 1)?;
    context.note(&format!("after each of {lives} lives: {left}"));
    Ok(())
}
