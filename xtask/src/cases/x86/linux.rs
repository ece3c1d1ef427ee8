//! Debian's Linux for amd64 in partitions, unmodified.

use super::packed;
use crate::arch::Arch;
use crate::cases::Context;
use crate::cases::linux::TOOLS;
use crate::initrd::{self, Init};
use crate::setup::linux;
use anyhow::{Result, ensure};
use std::time::Duration;

const RUN_LIMIT: Duration = Duration::from_secs(150);

fn initial_disk(context: &Context, script: &str) -> Result<()> {
    let linux = linux::linux(Arch::X86_64)?;
    let script = format!("{TOOLS}{script}");
    let archive = initrd::build(&linux, Init::Script(&script))?;
    context.file("initrd.cpio", &archive)?;
    Ok(())
}

/// One CPU, up to a program.
pub fn boots(context: &Context) -> Result<()> {
    const SCRIPT: &str = "
key cpus $(nproc)
";
    initial_disk(context, SCRIPT)?;
    let text = "[machine]\nname = 'one'\n\
        [[partition]]\nname = 'linux'\nmemory = '512M'\ncpus = [0]\n\
        kernel = 'debian:kernel'\ninitrd = 'initrd.cpio'\n\
        cmdline = 'console=ttyS0'\n";
    let mut guest = context.start(&packed(context, text)?)?;
    guest.wait_off(RUN_LIMIT)?;
    let console = guest.console();
    ensure!(console.contains("cpus=1;"), "{console}");
    Ok(())
}
