//! The kernel that guests run: Debian's, unpacked beside the images and never installed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use anyhow::{Context, Result};

use crate::{install, place, progress};

/// What depends on the newest kernel. The flavour for clouds has no 9p.
const NEWEST: &str = "linux-image-amd64";
/// What every kernel's directory is called, before its version.
const PREFIX: &str = "kernel-";

/// An unpacked kernel.
#[derive(Debug)]
pub(super) struct Kernel {
    root: PathBuf,
    version: String,
}

/// The numbers in a version, in their order.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

impl Kernel {
    /// Finds the kernel that is there, or brings Debian's newest.
    pub(super) fn ensure() -> Result<Self> {
        if let Some(kernel) = Self::find()? {
            return Ok(kernel);
        }
        let _lock = place::lock("kernel")?;
        // Somebody else may have brought it while we waited.
        match Self::find()? {
            Some(kernel) => Ok(kernel),
            None => Self::bring(),
        }
    }

    /// The file that an emulator boots.
    pub(super) fn image(&self) -> PathBuf {
        self.root.join(format!("boot/vmlinuz-{}", self.version))
    }

    /// What belongs at `/lib/modules`.
    pub(super) fn modules(&self) -> PathBuf {
        self.root.join("lib/modules")
    }

    /// The files of some modules and of all that they need, each after what it needs.
    pub(super) fn needed(&self, modules: &[&str]) -> Result<Vec<PathBuf>> {
        let directory = self.modules().join(&self.version);
        let path = directory.join("modules.dep");
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut files: Vec<PathBuf> = Vec::new();
        for module in modules {
            let line = text.lines().find(|line| {
                let file = line.split(':').next().and_then(|path| path.rsplit('/').next());
                file.and_then(|file| file.split('.').next()) == Some(module)
            });
            let (own, others) = line
                .and_then(|line| line.split_once(':'))
                .with_context(|| format!("the kernel has no module {module}"))?;
            // The deepest is the last in the line.
            for file in others.split_whitespace().rev().chain([own]) {
                let file = directory.join(file);
                if !files.contains(&file) {
                    files.push(file);
                }
            }
        }
        Ok(files)
    }

    /// The newest of those that are there.
    fn find() -> Result<Option<Self>> {
        let lab = place::dir();
        let entries =
            fs::read_dir(&lab).with_context(|| format!("cannot read {}", lab.display()))?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let versions = names.filter_map(|name| name.strip_prefix(PREFIX).map(str::to_owned));
        Ok(versions
            .max_by_key(|version| numbers(version))
            .map(|version| Self { root: lab.join(format!("{PREFIX}{version}")), version }))
    }

    /// Unpacks the newest beside its place, and moves it there when nothing is missing any more.
    fn bring() -> Result<Self> {
        let package = install::dependency(NEWEST, "linux-image-")?;
        let version = package.trim_start_matches("linux-image-").to_owned();
        let root = place::dir().join(format!("{PREFIX}{version}"));
        progress::say(&format!(
            "Missing for guests, and going to be unpacked: {package} (Debian) into {}",
            root.display()
        ));
        let scratch = place::dir().join(format!(".kernel-{}", process::id()));
        install::remove(&scratch)?;
        let kernel = Self { root: scratch.clone(), version };
        let done = kernel.unpack(&package).and_then(|()| {
            fs::rename(&scratch, &root)
                .with_context(|| format!("cannot move the kernel to {}", root.display()))
        });
        install::remove(&scratch)?;
        done?;
        Ok(Self { root, ..kernel })
    }

    fn unpack(&self, package: &str) -> Result<()> {
        let scratch = &self.root;
        let archive = install::download(package, &scratch.join("package"))?;
        let mut unpack = Command::new("dpkg-deb");
        unpack.arg("-x").arg(&archive).arg(scratch);
        progress::run("unpacking the kernel", &mut unpack)?;
        install::remove(&scratch.join("package"))?;
        // Newer packages leave it to the host to say where /lib leads to.
        if !scratch.join("lib").exists() {
            symlink(Path::new("usr/lib"), scratch.join("lib")).context("cannot make a link")?;
        }
        let mut depend = Command::new("depmod");
        depend.arg("--basedir").arg(scratch).arg(&self.version);
        progress::run("finding what modules need", &mut depend)
    }
}
