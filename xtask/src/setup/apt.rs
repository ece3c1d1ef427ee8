//! A private apt directory in the user's cache folder: Debian packages of another suite, checked by apt as ever,
//! unpacked beside each other and never installed. No root is needed and nothing of the machine's own state changes.

use super::sources;
use crate::progress::Step;
use crate::project;
use anyhow::{Context, Result, bail, ensure};
use duct::cmd;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The suites that everything comes from. QEMU of the backports is the oldest with all that the tests use.
const SUITES: &[&str] = &["trixie", BACKPORTS];
const BACKPORTS: &str = "trixie-backports";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Which packages, and how much of what they depend on.
pub struct Packages {
    /// Folder below the cache, and the name in messages.
    pub name: &'static str,
    /// As apt names them, `:arch` where it is not the machine's.
    pub names: &'static [&'static str],
    /// With everything they depend on, down to libc; else only themselves.
    pub closure: bool,
    /// Only these members of the package (tar wildcards); empty for all.
    pub members: &'static [&'static str],
}

/// The private directory, its lists up to date.
pub struct Apt {
    dir: PathBuf,
    config: PathBuf,
}

/// Whether this machine has apt and a source of Debian's archive.
pub fn available() -> bool {
    cmd!("apt-get", "--version")
        .stdout_null()
        .stderr_null()
        .run()
        .is_ok()
        && cmd!("dpkg-deb", "--version")
            .stdout_null()
            .stderr_null()
            .run()
            .is_ok()
        && sources::find(Path::new("/etc/apt")).is_some()
}

/// Where `packages` are unpacked, if they are.
pub fn unpacked(packages: &Packages) -> Result<Option<PathBuf>> {
    let root = project::cache()?.join(packages.name);
    let stamp = fs::read_to_string(root.join(STAMP)).unwrap_or_default();
    Ok((stamp == packages.stamp()).then_some(root))
}

/// Once a process is enough.
static UPDATED: AtomicBool = AtomicBool::new(false);

const STAMP: &str = ".unpacked";

impl Packages {
    fn stamp(&self) -> String {
        format!("{}\n", self.names.join(" "))
    }
}

impl Apt {
    /// Makes the directory and fetches the lists.
    pub fn open() -> Result<Self> {
        let source = sources::find(Path::new("/etc/apt"))
            .context("no source of Debian's archive in /etc/apt")?;
        let dir = project::cache()?.join("apt");
        for sub in ["state/lists/partial", "cache/archives/partial", "parts"] {
            fs::create_dir_all(dir.join(sub))
                .with_context(|| format!("cannot make {}", dir.join(sub).display()))?;
        }
        let keyring = Path::new(KEYRING).exists().then_some(KEYRING);
        fs::write(dir.join("sources.list"), source.lines(SUITES, keyring))?;
        fs::write(dir.join("status"), "")?;
        let config = dir.join("apt.conf");
        fs::write(&config, configuration(&dir)?)?;
        let apt = Self { dir, config };
        if !UPDATED.swap(true, Ordering::Relaxed) {
            let step = Step::start(format!("package lists of {}", SUITES.join(" and ")));
            apt.run("apt-get", &["update".into()], UPDATE_LIMIT)?;
            step.done();
        }
        Ok(apt)
    }

    /// Fetches and unpacks `packages`; returns the folder that then looks like a root.
    pub fn unpack(&self, packages: &Packages) -> Result<PathBuf> {
        let root = project::cache()?.join(packages.name);
        let partial = root.with_extension("partial");
        for dir in [&root, &partial] {
            if dir.exists() {
                fs::remove_dir_all(dir)
                    .with_context(|| format!("cannot clear {}", dir.display()))?;
            }
        }
        fs::create_dir_all(&partial)?;
        let mut names: Vec<_> = packages
            .names
            .iter()
            .map(|name| (*name).to_owned())
            .collect();
        for name in &mut names {
            // A kernel's package without a version only points to the newest one.
            if name.starts_with("linux-image-") {
                *name = self.dependency(name, "linux-image-")?;
            }
        }
        let debs = match packages.closure {
            true => self.download_closure(packages.name, &names)?,
            false => self.download(packages.name, &names)?,
        };
        let step = Step::start(format!(
            "{}: unpack {}",
            packages.name,
            count(debs.len(), "package")
        ));
        for deb in &debs {
            extract(deb, &partial, packages.members)?;
            fs::remove_file(deb)?;
        }
        fs::write(partial.join(STAMP), packages.stamp())?;
        fs::rename(&partial, &root)?;
        step.done_with(&format!("in {}", root.display()));
        Ok(root)
    }

    /// All versions of a package that the suites have.
    pub fn versions(&self, package: &str) -> Result<Vec<String>> {
        let out = self.run(
            "apt-cache",
            &["madison".into(), package.into()],
            QUERY_LIMIT,
        )?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        Ok(text
            .lines()
            .filter_map(|line| line.split('|').nth(1))
            .map(|version| version.trim().to_owned())
            .collect())
    }

    /// The first package that `package` depends on whose name starts with `prefix`, with the same architecture.
    pub fn dependency(&self, package: &str, prefix: &str) -> Result<String> {
        let args = ["show".into(), "--no-all-versions".into(), package.into()];
        let out = self.run("apt-cache", &args, QUERY_LIMIT)?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let depends = text
            .lines()
            .find_map(|line| line.strip_prefix("Depends: "))
            .unwrap_or_default();
        let name = depends
            .split([',', '|', ' '])
            .find(|name| name.starts_with(prefix))
            .with_context(|| format!("{package} depends on no {prefix}*"))?;
        Ok(match package.split_once(':') {
            Some((_, arch)) => format!("{name}:{arch}"),
            None => name.to_owned(),
        })
    }

    /// Fetches only the packages named (`name`, `name:arch`, `name=version`).
    pub fn download(&self, what: &str, names: &[String]) -> Result<Vec<PathBuf>> {
        let step = Step::start(format!("{what}: download {}", names.join(" ")));
        let dir = self.fresh_folder("packages")?;
        let mut args = vec!["download".into()];
        args.extend(names.iter().map(OsString::from));
        self.run_in(&dir, "apt-get", &args, DOWNLOAD_LIMIT)?;
        let debs = debs(&dir)?;
        step.done_with(&size(&debs));
        Ok(debs)
    }

    /// Fetches the packages and everything they depend on.
    fn download_closure(&self, what: &str, names: &[String]) -> Result<Vec<PathBuf>> {
        let step = Step::start(format!(
            "{what}: download {} and what they need",
            names.join(" ")
        ));
        let dir = self.fresh_folder("cache/archives")?;
        fs::create_dir_all(dir.join("partial"))?;
        let mut args: Vec<OsString> = ["install", "--download-only", "--yes", "-t", BACKPORTS]
            .iter()
            .map(OsString::from)
            .collect();
        args.extend(names.iter().map(OsString::from));
        self.run("apt-get", &args, DOWNLOAD_LIMIT)?;
        let debs = debs(&dir)?;
        step.done_with(&size(&debs));
        Ok(debs)
    }

    fn fresh_folder(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    fn run(&self, program: &str, args: &[OsString], limit: Duration) -> Result<Output> {
        self.run_in(&self.dir, program, args, limit)
    }

    fn run_in(
        &self,
        dir: &Path,
        program: &str,
        args: &[OsString],
        limit: Duration,
    ) -> Result<Output> {
        let handle = cmd(program, args)
            .dir(dir)
            .env("APT_CONFIG", &self.config)
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin_null()
            .stdout_capture()
            .stderr_capture()
            .unchecked()
            .start()
            .with_context(|| format!("cannot run {program}"))?;
        let what = args
            .first()
            .map(|arg| arg.to_string_lossy().into_owned())
            .unwrap_or_default();
        let Some(out) = handle.wait_timeout(limit)? else {
            handle.kill()?;
            bail!("{program} {what} took longer than {} s", limit.as_secs());
        };
        ensure!(
            out.status.success(),
            "{program} {what}: {}",
            last_line(&out.stderr)
        );
        Ok(out.clone())
    }
}

const UPDATE_LIMIT: Duration = Duration::from_secs(600);
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(3600);
const QUERY_LIMIT: Duration = Duration::from_secs(120);

/// Everything that apt would read or write lies in `dir`. Hooks of the machine must not run (one of a container image
/// deletes what was fetched), but its proxy and its checks are its own decision: those are carried over.
fn configuration(dir: &Path) -> Result<String> {
    let native = cmd!("dpkg", "--print-architecture")
        .read()
        .context("cannot run dpkg")?;
    let dir = dir.display();
    let mut text = format!(
        "Dir::State \"{dir}/state\";\nDir::State::status \"{dir}/status\";\nDir::Cache \"{dir}/cache\";\n\
         Dir::Etc::sourcelist \"{dir}/sources.list\";\nDir::Etc::sourceparts \"{dir}/parts\";\n\
         Dir::Etc::parts \"{dir}/parts\";\nDir::Etc::main \"{dir}/parts/none\";\n\
         Dir::Etc::preferences \"{dir}/parts/none\";\nDir::Etc::preferencesparts \"{dir}/parts\";\n\
         APT::Architecture \"{native}\";\nAPT::Architectures {{ \"{native}\"; \"arm64\"; \"amd64\"; }};\n\
         APT::Install-Recommends \"false\";\nAPT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\n\
         Acquire::Retries \"3\";\nAcquire::GzipIndexes \"true\";\n"
    );
    let dump = cmd!("apt-config", "dump")
        .stderr_null()
        .read()
        .context("cannot run apt-config")?;
    for line in dump.lines() {
        let ours = [
            "Acquire::http",
            "Acquire::https",
            "Acquire::ForceIP",
            "Acquire::Check-",
        ];
        if ours.iter().any(|start| line.starts_with(start)) {
            text.push_str(line);
            text.push('\n');
        }
    }
    Ok(text)
}

/// Unpacks a package, or only some members of it, into `dir`.
pub fn extract(deb: &Path, dir: &Path, members: &[&str]) -> Result<()> {
    let unpack = match members {
        [] => cmd!("dpkg-deb", "-x", deb, dir),
        _ => {
            let mut args: Vec<OsString> = ["x", "--wildcards", "-C"]
                .iter()
                .map(OsString::from)
                .collect();
            args.push(dir.into());
            args.extend(members.iter().map(OsString::from));
            cmd!("dpkg-deb", "--fsys-tarfile", deb).pipe(cmd("tar", args))
        }
    };
    let out = unpack.stderr_capture().unchecked().run()?;
    ensure!(
        out.status.success(),
        "unpacking {}: {}",
        deb.display(),
        last_line(&out.stderr)
    );
    Ok(())
}

fn debs(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found: Vec<_> = fs::read_dir(dir)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "deb"))
        .collect();
    found.sort();
    ensure!(
        !found.is_empty(),
        "apt left no package in {}",
        dir.display()
    );
    Ok(found)
}

fn size(files: &[PathBuf]) -> String {
    let bytes: u64 = files
        .iter()
        .filter_map(|path| path.metadata().ok())
        .map(|data| data.len())
        .sum();
    format!(
        "{}, {:.1} MiB",
        count(files.len(), "file"),
        bytes as f64 / f64::from(1 << 20)
    )
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn last_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let errors = text.lines().rev().filter(|line| !line.trim().is_empty());
    let mut lines = errors
        .clone()
        .filter(|line| line.starts_with("E:"))
        .chain(errors);
    lines
        .next()
        .unwrap_or("failed without a message")
        .trim()
        .to_owned()
}
