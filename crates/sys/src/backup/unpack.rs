//! An archive read and judged, and a tree made of it.
//!
//! Anybody may have written the archive. Of a manifest that is accepted there is one archive, and it is
//! compared with that byte by byte: nothing of it decides what is made, and no name of it is looked up but
//! in a directory that was made right before.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use instances_core::backup::MANIFEST_LENGTH;
use instances_core::backup::manifest::{self, Entry, Kind, Manifest};
use instances_core::backup::member::{self, BLOCK, END};
use instances_core::backup::path::{Bytes, TreePath};
use instances_core::spec::InstanceName;
use rustix::fs::{self, AtFlags, Mode, OFlags, Timespec, Timestamps, UTIME_NOW};
use sha2::{Digest as _, Sha256};

use super::progress::Progress;
use super::{Error, pack, room, tree};

/// What is read at once.
const CHUNK: usize = 1 << 16;
/// More memory than this archive's compression needs is given to none: 2 to the power of it, in bytes.
const WINDOW: u32 = 24;
/// What a file takes beside its bytes, about.
const EACH: u64 = 4096;

/// Reads an archive to its end, and makes a tree of it below an empty directory, if there is one.
///
/// # Errors
///
/// At the first byte that is not as the manifest says; what was made until then is of no use.
pub(super) fn unpack(
    archive: impl Read,
    wanted: &InstanceName,
    into: Option<(BorrowedFd<'_>, &Path)>,
) -> Result<Manifest, Error> {
    let mut decoder = zstd::Decoder::new(archive).map_err(broken)?.single_frame();
    decoder.window_log_max(WINDOW).map_err(broken)?;
    let manifest = first(&mut decoder, wanted)?;
    let mut tree = None;
    if let Some((directory, path)) = into {
        let count = manifest.entries.len() as u64;
        room::require(directory, path, manifest.bytes.saturating_add(count * EACH))?;
        let directory =
            rustix::io::fcntl_dupfd_cloexec(directory, 0).map_err(Error::io("open", path))?;
        tree = Some(Tree { home: directory, open: Vec::new() });
    }
    let mut progress = Progress::new("reading").of(manifest.bytes);
    for entry in &manifest.entries {
        let expected = member::of_entry(entry);
        let mut found = vec![0; expected.len()];
        exactly(&mut decoder, &mut found)?;
        if found != expected {
            return Err(wrong(&entry.path, "it is not what the manifest says"));
        }
        let file = tree.as_mut().map(|tree| tree.make(entry)).transpose()?.flatten();
        if entry.kind == Kind::File {
            data(&mut decoder, entry, file, &mut progress)?;
        }
    }
    let mut end = [0; END];
    exactly(&mut decoder, &mut end)?;
    let rest = decoder.read(&mut [0; 1]).map_err(broken)?;
    let mut left: BufReader<_> = decoder.finish();
    if end != [0; END] || rest != 0 || !left.fill_buf().map_err(broken)?.is_empty() {
        return Err(Error::Archive("something follows its end".to_owned()));
    }
    if let Some(mut tree) = tree {
        tree.close(0)?;
    }
    Ok(manifest)
}

#[expect(clippy::needless_pass_by_value, reason = "it is what errors are mapped by")]
fn broken(error: std::io::Error) -> Error {
    use std::io::ErrorKind;
    Error::Archive(match error.kind() {
        ErrorKind::UnexpectedEof => "it ends too early".to_owned(),
        _ => format!("it cannot be read: {error}"),
    })
}

fn wrong(path: &TreePath, what: impl Into<String>) -> Error {
    Error::Member { path: path.clone(), what: what.into() }
}

fn exactly(from: &mut impl Read, bytes: &mut [u8]) -> Result<(), Error> {
    from.read_exact(bytes).map_err(broken)
}

/// Reads what stands for the end of data, which is nothing but zeros.
fn filling(from: &mut impl Read, size: u64) -> Result<bool, Error> {
    let mut zeros = [0; BLOCK];
    let filling = zeros.get_mut(..member::padding(size)).unwrap_or_default();
    exactly(from, filling)?;
    Ok(filling.iter().all(|byte| *byte == 0))
}

/// The first member.
fn first(from: &mut impl Read, wanted: &InstanceName) -> Result<Manifest, Error> {
    let other = || Error::Archive("it does not begin as one that `backup` wrote".to_owned());
    let mut header = [0; BLOCK];
    exactly(from, &mut header)?;
    let length = member::manifest_size(&header).ok_or_else(other)?;
    if length > MANIFEST_LENGTH {
        return Err(Error::Archive(format!("its manifest has {length} bytes, which is too long")));
    }
    let mut text = Vec::new();
    from.take(length).read_to_end(&mut text).map_err(broken)?;
    if text.len() as u64 != length {
        return Err(Error::Archive("it ends too early".to_owned()));
    }
    if !filling(from, length)? {
        return Err(other());
    }
    Ok(manifest::read(&text, wanted)?)
}

/// Reads the bytes of a file, and writes them where there is one. Zeros become holes.
fn data(
    from: &mut impl Read,
    entry: &Entry,
    file: Option<File>,
    progress: &mut Progress,
) -> Result<(), Error> {
    let path = entry.path.to_string();
    let mut digest = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut left = entry.size;
    progress.file();
    let mut file = file;
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let part = buffer.get_mut(..part).unwrap_or_default();
        exactly(from, part)?;
        digest.update(&*part);
        left -= part.len() as u64;
        progress.more(part.len() as u64);
        if let Some(file) = &mut file {
            let hole = part.iter().all(|byte| *byte == 0);
            let length = i64::try_from(part.len()).unwrap_or_default();
            let done = if hole {
                file.seek(SeekFrom::Current(length)).map(drop)
            } else {
                file.write_all(part)
            };
            done.map_err(Error::file("write", &path))?;
        }
    }
    if !filling(from, entry.size)? {
        return Err(wrong(&entry.path, "something follows its data"));
    }
    if pack::hex(digest) != entry.sha256 {
        return Err(wrong(&entry.path, "its data has another digest than the manifest says"));
    }
    if let Some(file) = file {
        file.set_len(entry.size).map_err(Error::file("write", &path))?;
        finish(&file, entry)?;
    }
    Ok(())
}

/// Gives what was made its mode and its time.
fn finish(made: impl std::os::fd::AsFd, entry: &Entry) -> Result<(), Error> {
    let failed = |action| Error::below(action, &entry.path);
    fs::fchmod(&made, Mode::from_raw_mode(entry.mode)).map_err(failed("set the mode of"))?;
    fs::futimens(&made, &times(entry)).map_err(failed("set the time of"))
}

fn times(entry: &Entry) -> Timestamps {
    let seconds = i64::try_from(entry.mtime).unwrap_or_default();
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: 0 },
    }
}

/// What is made, and the directories that are still open: HOME first.
struct Tree {
    home: OwnedFd,
    open: Vec<(OwnedFd, Entry)>,
}

impl Tree {
    /// Makes an entry; a file is open for writing, and not finished.
    fn make(&mut self, entry: &Entry) -> Result<Option<File>, Error> {
        self.close(entry.path.depth() - 1)?;
        let above = self.open.last().map_or(self.home.as_fd(), |(directory, _)| directory.as_fd());
        let name = entry.path.name();
        let failed = |action| Error::below(action, &entry.path);
        match entry.kind {
            Kind::Directory => {
                fs::mkdirat(above, name, Mode::RWXU).map_err(failed("create"))?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                let made = tree::open(above, name, flags).map_err(failed("open"))?;
                self.open.push((made, entry.clone()));
            }
            Kind::Link => {
                let target = entry.target.as_ref().map(Bytes::as_bytes).unwrap_or_default();
                fs::symlinkat(target, above, name).map_err(failed("create"))?;
                fs::utimensat(above, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(failed("set the time of"))?;
            }
            Kind::File => {
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let private = Mode::RUSR | Mode::WUSR;
                let file = fs::openat2(above, name, flags, private, tree::WITHIN)
                    .map_err(failed("create"))?;
                return Ok(Some(File::from(file)));
            }
        }
        Ok(None)
    }

    /// Finishes directories until so many are open.
    fn close(&mut self, depth: usize) -> Result<(), Error> {
        while self.open.len() > depth {
            if let Some((directory, entry)) = self.open.pop() {
                finish(&directory, &entry)?;
            }
        }
        Ok(())
    }
}
