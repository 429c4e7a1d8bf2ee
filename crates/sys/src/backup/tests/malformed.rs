//! Ten thousand archives that are almost as `backup` writes them: refused, or the same tree, and little memory.

use super::{entry, json, manifest, sample, tar, web};
use crate::backup::unpack;
use crate::counted::{Taken, taken};
use crate::mutants::{COUNT, Dice, bytes};
use instances_core::backup::manifest::Kind;
use instances_core::backup::member;

/// More than any of the seeds has.
const LONGEST: usize = 1 << 16;

#[test]
fn ten_thousand_archives_are_refused_or_the_same() {
    let (first, members) = sample();
    let mut seeds = vec![tar(&json(&first), &members)];
    let deep: Vec<_> =
        (1..20).map(|depth| entry(&vec!["d"; depth].join("/"), Kind::Directory, b"")).collect();
    let members: Vec<_> = deep.iter().map(|entry| (member::of_entry(entry), &b""[..])).collect();
    let deep = manifest(deep);
    seeds.push(tar(&json(&deep), &members));
    let mut dice = Dice::new(7);
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..COUNT {
        let archive = bytes(&mut dice, &seeds, LONGEST);
        let archive = zstd::encode_all(&archive[..], 1).unwrap();
        let Taken { most, kept } = taken(|| match unpack::unpack(&archive[..], &web(), None) {
            Ok(read) => {
                assert!([&first, &deep].iter().any(|one| one.entries == read.entries));
                accepted += 1;
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                refused += 1;
            }
        });
        // What is read at once, and a manifest.
        assert!(most < 1 << 18 && kept == 0, "{most}, {kept}");
    }
    assert!(refused > COUNT / 2, "{accepted} accepted, {refused} refused");
}

/// The same of what the compression made, which is read before anything else.
#[test]
fn ten_thousand_frames_are_refused_or_the_same() {
    let (first, members) = sample();
    let seeds =
        [1, 3].map(|level| zstd::encode_all(&tar(&json(&first), &members)[..], level).unwrap());
    let mut dice = Dice::new(8);
    for _ in 0..COUNT {
        let archive = bytes(&mut dice, &seeds, LONGEST);
        let Taken { most, kept } = taken(|| {
            if let Ok(read) = unpack::unpack(&archive[..], &web(), None) {
                assert_eq!(read.entries, first.entries);
            }
        });
        assert!(most < 1 << 18 && kept == 0, "{most}, {kept}");
    }
}
