//! The drivers and the models of their crate beside QEMU's SMMU and QEMU's VT-d unit, over QEMU's test protocol: the tests
//! of `iommu/tests/qemu` and `iommu/tests/qemu_vtd`, which are ignored where nobody says which QEMU.

use super::{Case, Context, case};
use crate::arch::Arch;
use crate::project;
use crate::setup::kit;
use anyhow::{Context as _, Result, ensure};
use std::env;
use std::ffi::OsStr;

pub const CASES: &[Case] = &[
    case("qtest::the_driver_does_the_same_on_qemus_smmu", |context| {
        run(context, SMMU, &["--skip", IMAGES], &[]).map(drop)
    }),
    case("qtest::random_images_translate_alike", |context| {
        images(context, SMMU, &[])
    }),
    Case {
        name: "qtest::many_random_images_translate_alike",
        long: true,
        run: |context| {
            let count = [("SLUICE_IMAGES", "200000"), ("SLUICE_SEED", "1000000")];
            images(context, SMMU, &count)
        },
    },
    case("qtest::the_driver_does_the_same_on_qemus_vtd", |context| {
        run(context, VTD, &["--skip", IMAGES], &[]).map(drop)
    }),
    case("qtest::random_vtd_images_translate_alike", |context| {
        images(context, VTD, &[])
    }),
    Case {
        name: "qtest::many_random_vtd_images_translate_alike",
        long: true,
        run: |context| {
            let count = [("SLUICE_IMAGES", "100000"), ("SLUICE_SEED", "1000000")];
            images(context, VTD, &count)
        },
    },
];

/// A binary of tests, and whose QEMU it wants.
type Subject = (&'static str, Arch);

const SMMU: Subject = ("qemu", Arch::Aarch64);
const VTD: Subject = ("qemu_vtd", Arch::X86_64);

/// The test that compares images; all others are scenarios.
const IMAGES: &str = "random_images_translate_alike";

/// What a report's lines start with.
const REPORT: &str = "report: ";

fn images(context: &Context, subject: Subject, variables: &[(&str, &str)]) -> Result<()> {
    let output = run(context, subject, &["--exact", IMAGES], variables)?;
    let report: Vec<_> = output
        .lines()
        .filter_map(|line| line.strip_prefix(REPORT))
        .collect();
    ensure!(!report.is_empty(), "there is no report:\n{output}");
    report.iter().for_each(|line| context.note(line));
    Ok(())
}

/// Runs tests; what they wrote.
fn run(
    context: &Context,
    (tests, arch): Subject,
    args: &[&str],
    variables: &[(&str, &str)],
) -> Result<String> {
    let words = kit::qemu(arch)?.words();
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let own = ["test", "--package", "iommu", "--test", tests, "--"];
    let all = own.iter().chain(&["--ignored", "--nocapture"]).chain(args);
    let mut command = duct::cmd(cargo, all)
        .dir(project::root())
        .env("CARGO_TERM_COLOR", "never")
        .env("SLUICE_QTEST_QEMU", words.join(OsStr::new("\n")));
    for (name, value) in variables {
        command = command.env(name, value);
    }
    let out = command
        .stderr_to_stdout()
        .stdout_capture()
        .unchecked()
        .run()
        .context("cannot run cargo")?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    context.file("output.txt", text.as_bytes())?;
    ensure!(out.status.success(), "the tests fail:\n{text}");
    let passed = text.lines().find_map(|line| {
        let rest = line.strip_prefix("test result: ok. ")?;
        let (count, _) = rest.split_once(" passed;")?;
        count.parse::<u32>().ok()
    });
    // Nothing run is nothing shown.
    let passed = passed.filter(|count| *count > 0);
    let passed = passed.with_context(|| format!("no test ran:\n{text}"))?;
    context.note(&format!("{passed} passed"));
    Ok(text)
}
