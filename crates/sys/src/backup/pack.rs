//! An archive of copies: the manifest first, for which all of them are read once before.

use std::io::{self, Read as _, Write};
use std::os::fd::BorrowedFd;

use instances_core::backup::MANIFEST_LENGTH;
use instances_core::backup::manifest::{Entry, Kind, Manifest};
use instances_core::backup::member::{self, END};
use sha2::{Digest as _, Sha256};

use super::Error;
use super::copy::{self, Copied, Index};
use super::progress::Progress;

/// Fast, and already most of what can be gained.
const LEVEL: i32 = 3;
/// What is read at once.
const CHUNK: usize = 1 << 18;

/// Writes the archive; `manifest` has no entries yet.
pub(super) fn pack(
    copies: BorrowedFd<'_>,
    index: Index,
    mut manifest: Manifest,
    to: impl Write,
) -> Result<(), Error> {
    let write =
        |source: io::Error| Error::Io { action: "write", path: "the archive".to_owned(), source };
    manifest.bytes = index.bytes();
    manifest.left_out = index.left_out;
    let mut progress = Progress::new("reading").of(manifest.bytes);
    for one in &index.entries {
        manifest.entries.push(entry(copies, one, &mut progress)?);
    }
    drop(progress);
    let text =
        serde_json::to_vec(&manifest).map_err(|_| Error::Words("the manifest".to_owned()))?;
    let length = text.len() as u64;
    if length > MANIFEST_LENGTH {
        return Err(Error::Many);
    }
    let mut progress = Progress::new("writing").of(manifest.bytes);
    let mut encoder = zstd::Encoder::new(to, LEVEL).map_err(write)?;
    // The digests are of files. A byte that is wrong elsewhere, such as in the target of a link, is seen by this.
    encoder.include_checksum(true).map_err(write)?;
    encoder.include_checksum(true).map_err(write)?;
    let zeros = [0; END];
    let mut put = |bytes: &[u8]| encoder.write_all(bytes).map_err(write);
    let fill = |size: u64| zeros.get(..member::padding(size)).unwrap_or_default();
    put(&member::of_manifest(length))?;
    put(&text)?;
    put(fill(length))?;
    for (one, entry) in index.entries.iter().zip(&manifest.entries) {
        put(&member::of_entry(entry))?;
        if entry.kind == Kind::File {
            progress.file();
            let size = each(copies, one, |part| {
                progress.more(part.len() as u64);
                put(part)
            })?;
            if size != entry.size {
                return Err(Error::Changed(entry.path.clone()));
            }
            put(fill(size))?;
        }
    }
    put(&zeros)?;
    let mut to = encoder.finish().map_err(write)?;
    to.flush().map_err(write)
}

fn entry(copies: BorrowedFd<'_>, one: &Copied, progress: &mut Progress) -> Result<Entry, Error> {
    let mut sha256 = String::new();
    if one.kind == Kind::File {
        progress.file();
        let mut digest = Sha256::new();
        let size = each(copies, one, |part| {
            progress.more(part.len() as u64);
            digest.update(part);
            Ok(())
        })?;
        if size != one.size {
            return Err(Error::Changed(one.path.clone()));
        }
        sha256 = hex(digest);
    }
    Ok(Entry {
        path: one.path.clone(),
        kind: one.kind,
        size: one.size,
        mode: one.mode,
        mtime: one.mtime,
        sha256,
        target: one.target.clone(),
    })
}

/// A digest as a manifest has it.
pub(super) fn hex(digest: Sha256) -> String {
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a copy to its end; how long it is.
fn each(
    copies: BorrowedFd<'_>,
    one: &Copied,
    mut part: impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<u64, Error> {
    let mut file = copy::opened(copies, one)?;
    let mut buffer = vec![0; CHUNK];
    let mut size = 0;
    loop {
        let count = file.read(&mut buffer).map_err(Error::file("read", one.path.to_string()))?;
        if count == 0 {
            return Ok(size);
        }
        part(buffer.get(..count).unwrap_or_default())?;
        size += count as u64;
    }
}
