//! The build of all mutants: a copy of the checkout whose crate has them behind the switch, without those that the compiler
//! refuses.

use super::PACKAGE;
use super::schema::{Id, Mutant, Owned, combine};
use crate::progress::Step;
use crate::project;
use anyhow::{Context, Result, bail, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SWITCH: &str = include_str!("switch.rs");
/// Each round finds what the compiler's next stage refuses.
const ROUNDS: usize = 20;

/// What lints say of mutants is not asked; these two refuse by themselves what only a mutant does.
const LINTS: &str = "[lints]\nworkspace = true\n";
const NO_LINTS: &str =
    "[lints.rust]\narithmetic_overflow = \"allow\"\nunconditional_panic = \"allow\"\n";

/// What can be judged together, and what cannot.
pub struct Combined {
    /// The programs of the crate's tests.
    pub programs: Vec<PathBuf>,
    /// Where they run.
    pub folder: PathBuf,
    /// Behind the switch.
    pub within: BTreeSet<Id>,
    /// No program: the compiler refuses them.
    pub unviable: BTreeSet<Id>,
}

/// Errors of constants, in which no switch can be: E0015 (calls) and E0658 (what is not stable there).
const IN_CONSTANTS: [&str; 2] = ["E0015", "E0658"];

impl Combined {
    /// Builds the tests of [`PACKAGE`] in a copy of the checkout below `output`. Without `programs`, only what can be judged
    /// together is found out.
    pub fn build(output: &Path, mutants: &[(Id, Mutant)], programs: bool) -> Result<Self> {
        let copy = Copy::new(output.join("tree"), output.join("build"))?;
        let mut unviable = BTreeSet::new();
        let mut constant = BTreeSet::new();
        let step = Step::start(format!("{} mutants in one build", mutants.len()));
        for _ in 0..ROUNDS {
            let owned = copy.put(mutants, |id| {
                !unviable.contains(id) && !constant.contains(id)
            })?;
            let within = owned.values().flatten().flat_map(|owned| &owned.mutants);
            let within: BTreeSet<_> = within.copied().collect();
            // Most is refused before there is code to make.
            let mut built = copy.cargo(&["check"])?;
            if built.status.success() && programs && !within.is_empty() {
                built = copy.cargo(&["test", "--no-run"])?;
            }
            if built.status.success() {
                step.done();
                return Ok(Self {
                    programs: test_programs(&built),
                    folder: copy.tree.join(PACKAGE),
                    within,
                    unviable,
                });
            }
            let before = unviable.len() + constant.len();
            for (code, mutants) in refused(&built, &owned) {
                if IN_CONSTANTS.contains(&code.as_str()) {
                    constant.extend(mutants);
                } else {
                    unviable.extend(mutants);
                }
            }
            let found = unviable.len() + constant.len();
            ensure!(
                found > before,
                "without any mutant's fault:\n{}",
                rendered(&built)
            );
        }
        bail!("the mutants do not build after {ROUNDS} rounds")
    }
}

/// The checkout once more, to be changed.
struct Copy {
    tree: PathBuf,
    target: PathBuf,
}

impl Copy {
    fn new(tree: PathBuf, target: PathBuf) -> Result<Self> {
        let files = Command::new("git")
            .args([
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
            ])
            .current_dir(project::root())
            .output()
            .context("cannot run git")?;
        ensure!(files.status.success(), "git ls-files: {}", files.status);
        let files = String::from_utf8(files.stdout).context("a file's name")?;
        let files: BTreeSet<_> = files.split_terminator('\0').map(Path::new).collect();
        for file in &files {
            let from = project::root().join(file);
            if from.is_file() {
                update(&tree.join(file), &fs::read(&from)?)?;
            }
        }
        remove_others(&tree, &tree, &files)?;
        let manifest = tree.join(PACKAGE).join("Cargo.toml");
        let text = fs::read_to_string(&manifest)?;
        ensure!(
            text.contains(LINTS),
            "no {LINTS:?} in {}",
            manifest.display()
        );
        update(&manifest, text.replace(LINTS, NO_LINTS).as_bytes())?;
        Ok(Self { tree, target })
    }

    /// Writes the crate with those of the mutants in it that are `taken`, and says whose which piece of which file is.
    fn put(
        &self,
        mutants: &[(Id, Mutant)],
        taken: impl Fn(&Id) -> bool,
    ) -> Result<BTreeMap<String, Vec<Owned>>> {
        let mut files = BTreeMap::<_, Vec<_>>::new();
        for (id, mutant) in mutants {
            let of_file = files.entry(mutant.file.clone()).or_default();
            if taken(id) {
                of_file.push((*id, mutant));
            }
        }
        let source = Path::new(PACKAGE).join("src");
        let mut library = fs::read_to_string(project::root().join(&source).join("lib.rs"))?;
        let mut owned = BTreeMap::new();
        for (file, mutants) in files {
            let original = fs::read_to_string(project::root().join(&file))?;
            let (text, pieces) = combine(&original, &mutants).with_context(|| file.clone())?;
            if Path::new(&file) == source.join("lib.rs") {
                library = text;
            } else {
                update(&self.tree.join(&file), text.as_bytes())?;
            }
            owned.insert(file, pieces);
        }
        library += "\n#[doc(hidden)]\npub mod mutant;\n";
        update(&self.tree.join(&source).join("lib.rs"), library.as_bytes())?;
        update(
            &self.tree.join(&source).join("mutant.rs"),
            SWITCH.as_bytes(),
        )?;
        Ok(owned)
    }

    fn cargo(&self, command: &[&str]) -> Result<Output> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        Command::new(cargo)
            .args(command)
            .args(["--lib", "--tests", "--package", PACKAGE])
            .args(["--message-format=json", "--quiet"])
            .current_dir(&self.tree)
            // Its own: in that of the checkout, cargo calls the copy's programs as the checkout's, and puts one in the
            // other's place.
            .env("CARGO_TARGET_DIR", &self.target)
            .output()
            .context("cannot run cargo")
    }
}

/// Writes what is not there yet, so that cargo builds what changed.
fn update(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// Files of an earlier run that the checkout does not have any more.
fn remove_others(tree: &Path, folder: &Path, files: &BTreeSet<&Path>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(tree, &path, files)?;
        } else if path
            .strip_prefix(tree)
            .is_ok_and(|file| !files.contains(file))
        {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn messages(output: &Output) -> Vec<serde_json::Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// Test programs among what cargo made.
fn test_programs(output: &Output) -> Vec<PathBuf> {
    let made = messages(output);
    let tests = made.iter().filter(|it| it["profile"]["test"] == true);
    tests
        .filter_map(|it| it["executable"].as_str().map(PathBuf::from))
        .collect()
}

/// The code of each error, and the mutants of the smallest piece that it is in.
fn refused(output: &Output, owned: &BTreeMap<String, Vec<Owned>>) -> Vec<(String, Vec<Id>)> {
    let mut refused = Vec::new();
    for message in messages(output) {
        let message = &message["message"];
        if message["level"] != "error" {
            continue;
        }
        let spans = message["spans"].as_array().into_iter().flatten();
        for span in spans.filter(|span| span["is_primary"] == true) {
            let file = span["file_name"].as_str().and_then(|file| owned.get(file));
            let byte = |name: &str| span[name].as_u64().unwrap_or(0) as usize;
            let (from, to) = (byte("byte_start"), byte("byte_end"));
            let around = file.into_iter().flatten();
            let around = around.filter(|it| it.range.start <= from && to <= it.range.end);
            if let Some(piece) = around.min_by_key(|it| it.range.len()) {
                let code = message["code"]["code"].as_str().unwrap_or_default();
                refused.push((code.to_owned(), piece.mutants.clone()));
            }
        }
    }
    refused
}

/// What the compiler says to people, and cargo of itself.
fn rendered(output: &Output) -> String {
    let all = messages(output);
    let texts = all
        .iter()
        .filter_map(|it| it["message"]["rendered"].as_str());
    let own = String::from_utf8_lossy(&output.stderr);
    texts.chain([&*own]).take(5).collect()
}
