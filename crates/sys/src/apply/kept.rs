//! What there was before the files of several servers were written, so that it can be put back.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::Path;

use instances_core::desired::{Content, Effect};
use instances_core::plan::{Activity, Batch, Step};
use instances_core::spec::InstanceName;
use instances_core::units::{Names, owner};

use super::{Error, unit_names};
use crate::files::Root;
use crate::systemctl;

/// What there was before a batch wrote its files.
pub(super) struct Kept {
    files: BTreeMap<String, Option<Content>>,
    /// The units that read some of them when they begin.
    units: BTreeMap<String, Unit>,
}

impl Kept {
    pub(super) fn of(root: &Root, batch: &Batch<'_>) -> Result<Self, Error> {
        let mut files = BTreeMap::new();
        for step in batch.opening() {
            let Step::Write { path, .. } = step else { continue };
            match root.content(path) {
                Ok(content) => drop(files.insert(path.clone(), content)),
                // Somebody else's: it cannot be put back, and is to be replaced all the same.
                Err(error) if error.source.kind() == ErrorKind::InvalidData => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut names = unit_names(files.keys());
        for turn in batch.turns.iter().filter(|turn| !turn.files.is_empty()) {
            let asked = turn.effects.iter().map(Effect::subject).filter(|of| is_service(of));
            names.extend(asked.map(str::to_owned));
            names.extend(turn.instances.iter().map(|name| Names(name).main()));
        }
        let units = look(&names.into_iter().collect::<Vec<_>>())?;
        Ok(Self { files, units })
    }

    /// Undoes a step, if it was taken.
    pub(super) fn put_back(
        &self,
        root: &Root,
        step: &Step,
        narrate: &mut dyn FnMut(&Step),
    ) -> Result<(), Error> {
        let Step::Write { path, .. } = step else { return Ok(()) };
        match self.files.get(path) {
            Some(kept) if root.content(path)? == *kept => Ok(()),
            Some(Some(content)) => {
                narrate(&Step::Write { path: path.clone(), new: false });
                Ok(root.write(path, content)?)
            }
            Some(None) => {
                narrate(&Step::Remove(path.clone()));
                Ok(root.remove(path)?)
            }
            None => Ok(()),
        }
    }

    /// The instances of which something has begun since then, or has failed to.
    pub(super) fn begun_since(&self) -> Result<BTreeSet<InstanceName>, systemctl::Error> {
        let now = look(&self.units.keys().cloned().collect::<Vec<_>>())?;
        let begun = now.iter().filter(|(name, now)| {
            let before = self.units.get(*name);
            let another = before.is_none_or(|before| before.run != now.run);
            match now.state {
                Activity::Inactive => false,
                Activity::Failed => another || before.is_none_or(|one| one.state != now.state),
                Activity::Active | Activity::Changing => another,
            }
        });
        Ok(begun.filter_map(|(name, _)| owner(name)).collect())
    }
}

/// How a unit is.
struct Unit {
    state: Activity,
    /// What systemd calls its present run, or its last one.
    run: String,
}

fn look(units: &[String]) -> Result<BTreeMap<String, Unit>, systemctl::Error> {
    let shown = systemctl::show(units, &["ActiveState", "InvocationID"])?;
    let of = |mut one: systemctl::Properties| {
        let mut take = |name: &str| one.remove(name).unwrap_or_default();
        Unit { state: systemctl::activity(&take("ActiveState")), run: take("InvocationID") }
    };
    Ok(units.iter().cloned().zip(shown.into_iter().map(of)).collect())
}

fn is_service(subject: &str) -> bool {
    Path::new(subject).extension().is_some_and(|kind| kind == "service")
}

#[cfg(test)]
mod tests {
    use instances_core::plan::{Plan, Turn};

    use super::*;

    #[test]
    fn what_was_there_comes_back_and_what_was_not_goes() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        let [text, link, new, same] = ["/a/text", "/a/link", "/a/new", "/a/same"];
        let content = |text: &str| Content::Text(text.to_owned());
        root.write(text, &content("old")).unwrap();
        root.write(same, &content("old")).unwrap();
        root.write(link, &Content::Link("/old".to_owned())).unwrap();
        let odd = "/a/odd";
        std::fs::write(root.path(odd), b"\xff").unwrap();
        let files = [text, link, new, same, odd]
            .map(|path| Step::Write { path: path.to_owned(), new: path == new });
        let turn = Turn { files: files.to_vec(), runs: true, ..Turn::default() };
        let plan = Plan { turns: vec![turn], ..Plan::default() };
        let kept = Kept::of(&root, &plan.batches().next().unwrap()).unwrap();
        for path in [text, link, new, odd] {
            root.write(path, &content("changed")).unwrap();
        }
        let mut said = Vec::new();
        for step in &files {
            kept.put_back(&root, step, &mut |step| said.push(step.to_string())).unwrap();
        }
        assert_eq!(said, ["change /a/text", "change /a/link", "remove /a/new"]);
        let lies = [text, link, new, same].map(|path| root.content(path).unwrap());
        let old = Some(content("old"));
        assert_eq!(lies, [old.clone(), Some(Content::Link("/old".to_owned())), None, old]);
        // What no text can be was replaced, and stays so.
        assert_eq!(root.content(odd).unwrap(), Some(content("changed")));
    }
}
