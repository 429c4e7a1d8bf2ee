//! Loading one instance's table into the calling thread's namespace, and proving what is there.
//!
//! The rules are read once and handed to nft on its standard input, so that the file cannot change
//! between the namespace it is tried in and the one it is meant for. Decisions are taken on nft's
//! JSON alone, and only on our own table: other tables may hold objects no parser knows.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use instances_core::layout::NFT_TABLE;
use instances_core::nft::{HOST_SETS, remove};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Error;
use super::nft::{self, Failure};

/// Every hook through which a packet can enter or leave a namespace.
const HOOKS: [&str; 3] = ["input", "forward", "output"];

/// What changes by itself, and therefore is not part of the policy.
const VOLATILE: [&str; 5] = ["handle", "packets", "bytes", "used", "expires"];

/// The text of a table, and the program that loads it.
#[derive(Debug)]
pub(super) struct Policy {
    nft: PathBuf,
    rules: PathBuf,
    text: String,
}

/// What the kernel holds, without handles and counters.
#[derive(Debug, PartialEq)]
pub(super) struct Listing(Vec<Value>);

#[derive(Deserialize)]
struct Document {
    nftables: Vec<Value>,
}

#[derive(Deserialize)]
struct Chain {
    #[serde(rename = "type")]
    kind: Option<String>,
    hook: Option<String>,
    policy: Option<String>,
}

impl Policy {
    /// Reads the rules; only root may be able to change them. `addition` is loaded with them, in the same
    /// transaction: what belongs to the policy and is known only now.
    pub(super) fn read(rules: &Path, addition: &str, nft: &Path) -> Result<Self, Error> {
        let failed = |source| Error::ReadRules { path: rules.to_owned(), source };
        let mut file = File::open(rules).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
        if owner != 0 || mode & 0o022 != 0 {
            return Err(Error::LooseRules { path: rules.to_owned(), owner, mode });
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(failed)?;
        text.push_str(addition);
        Ok(Self { nft: nft.to_owned(), rules: rules.to_owned(), text })
    }

    /// Loads the table where there is none: the whole of it, or nothing. What a killed replacement left goes
    /// at the same time.
    pub(super) fn load(&self) -> Result<(), Error> {
        self.pass(&(self.text.clone() + &remove(&nft::next(NFT_TABLE))))
    }

    /// Replaces the table that is there by one that is proven to be as expected, and cuts nothing that stays
    /// allowed.
    pub(super) fn replace(&self, expected: &Listing) -> Result<(), Error> {
        nft::replace(NFT_TABLE, &self.text, &|text| self.pass(text), &|next| {
            self.require_same(expected, &self.list_table(next)?.renamed(next, NFT_TABLE))
        })
    }

    /// Lists the table; fails when there is none.
    pub(super) fn list(&self) -> Result<Listing, Error> {
        self.list_table(NFT_TABLE)
    }

    fn list_table(&self, table: &str) -> Result<Listing, Error> {
        let output = self.run("list", &["-j", "list", "table", "inet", table], "")?;
        Listing::parse(&output).map_err(|source| Error::Listing { nft: self.nft.clone(), source })
    }

    fn pass(&self, text: &str) -> Result<(), Error> {
        self.run("load", &["-f", "-"], text).map(drop)
    }

    /// Refuses a policy that leaves a hook open.
    pub(super) fn require_closed(&self, listing: &Listing) -> Result<(), Error> {
        if listing.has_flags() {
            return Err(Error::TableFlags { rules: self.rules.clone() });
        }
        match HOOKS.into_iter().find(|hook| !listing.closes(hook)) {
            Some(hook) => Err(Error::OpenHook { rules: self.rules.clone(), hook }),
            None => Ok(()),
        }
    }

    /// Refuses a loaded table that differs from the reference.
    pub(super) fn require_same(&self, expected: &Listing, found: &Listing) -> Result<(), Error> {
        let same = expected.same_policy(found);
        if same { Ok(()) } else { Err(Error::NotAsWritten { rules: self.rules.clone() }) }
    }

    fn run(&self, action: &'static str, arguments: &[&str], input: &str) -> Result<Vec<u8>, Error> {
        nft::run(&self.nft, arguments, input).map_err(|failure| match failure {
            Failure::Start(source) => Error::StartNft { nft: self.nft.clone(), source },
            Failure::Refused { status, stderr } => {
                Error::Nft { action, rules: self.rules.clone(), status, stderr }
            }
        })
    }
}

impl Listing {
    pub(super) fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        // Where the garbage that nft 1.0.6 prints for flags is no text, it stops right before it.
        if json.trim_ascii_end().ends_with(br#""flags":"#) {
            return Ok(Self(vec![json!({ "table": { "flags": null } })]));
        }
        let document: Document = serde_json::from_slice(json)?;
        let own = document.nftables.into_iter().filter(|object| object.get("metainfo").is_none());
        Ok(Self(own.map(settled).collect()))
    }

    /// The same as that of a table with another name.
    pub(super) fn renamed(mut self, from: &str, to: &str) -> Self {
        for object in self.0.iter_mut().filter_map(Value::as_object_mut) {
            for (kind, object) in object {
                let key = if kind == "table" { "name" } else { "table" };
                if let Some(name) = object.get_mut(key).filter(|name| **name == from) {
                    *name = to.into();
                }
            }
        }
        self
    }

    /// The same without what these sets hold.
    pub(super) fn without(&self, sets: &[&str]) -> Self {
        let emptied = |object: &Value| {
            let mut object = object.clone();
            if let Some(Value::Object(set)) = object.get_mut("set") {
                let name = set.get("name").and_then(Value::as_str);
                if name.is_some_and(|name| sets.contains(&name)) {
                    set.remove("elem");
                }
            }
            object
        };
        Self(self.0.iter().map(emptied).collect())
    }

    /// True when both are the same policy. The host's addresses are none of it: they change by
    /// themselves, and whoever follows them may have been here in between.
    pub(super) fn same_policy(&self, other: &Self) -> bool {
        self.without(&HOST_SETS) == other.without(&HOST_SETS)
    }

    /// True when a filter chain at `hook` drops what no rule accepts.
    fn closes(&self, hook: &str) -> bool {
        self.0.iter().filter_map(|object| Chain::deserialize(object.get("chain")?).ok()).any(
            |chain| {
                chain.kind.as_deref() == Some("filter")
                    && chain.hook.as_deref() == Some(hook)
                    && chain.policy.as_deref() == Some("drop")
            },
        )
    }

    /// True when a table that is there is no empty one and does not sleep.
    pub(super) fn judges(&self) -> bool {
        !self.has_flags() && self.0.iter().any(|object| object.get("rule").is_some())
    }

    /// True when the table has any flag. nft 1.0.6 prints garbage as its value, but only then.
    fn has_flags(&self) -> bool {
        self.0.iter().filter_map(|object| object.get("table")).any(|t| t.get("flags").is_some())
    }
}

/// The object without what changes by itself; the elements of a set in a fixed order.
///
/// Elements of a set with a timeout come and go while the policy stays the same, so they are left
/// out: the name resolver fills them.
fn settled(value: Value) -> Value {
    match value {
        Value::Object(mut map) => {
            if map.contains_key("timeout") && map.contains_key("type") {
                map.remove("elem");
            }
            map.retain(|key, _| !VOLATILE.contains(&key.as_str()));
            if let Some(Value::Array(elements)) = map.get_mut("elem") {
                elements.sort_by_cached_key(Value::to_string);
            }
            Value::Object(map.into_iter().map(|(key, value)| (key, settled(value))).collect())
        }
        Value::Array(items) => items.into_iter().map(settled).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::{HOOKS, Listing, Policy};
    use serde_json::{Value, json};
    use std::path::Path;

    fn chain(hook: &str, policy: &str, handle: u32) -> Value {
        json!({"chain": {"family": "inet", "table": "opencode", "name": hook, "handle": handle,
            "type": "filter", "hook": hook, "prio": 0, "policy": policy}})
    }

    fn listing(objects: &[Value]) -> Listing {
        let text = json!({"nftables": objects}).to_string();
        Listing::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn handles_and_counters_are_not_policy() {
        let rule = |packets: u32, verdict: &str| json!({"rule": {"expr": [{"counter": {"packets": packets, "bytes": 9}}, {verdict: null}]}});
        let a = listing(&[json!({"metainfo": {"version": "1"}}), chain("input", "drop", 1)]);
        assert_eq!(a, listing(&[chain("input", "drop", 7)]));
        assert_ne!(a, listing(&[chain("input", "accept", 1)]));
        assert_eq!(listing(&[rule(1, "drop")]), listing(&[rule(2, "drop")]));
        assert_ne!(listing(&[rule(1, "drop")]), listing(&[rule(1, "accept")]));
    }

    #[test]
    fn elements_count_unless_they_expire() {
        let set = |elem: Value| json!({"set": {"name": "s", "type": "ipv4_addr", "elem": elem}});
        let timed = |elem: Value| json!({"set": {"type": "ipv4_addr", "timeout": 9, "elem": elem}});
        assert_eq!(listing(&[set(json!(["a", "b"]))]), listing(&[set(json!(["b", "a"]))]));
        assert_ne!(listing(&[set(json!(["a"]))]), listing(&[set(json!(["a", "b"]))]));
        assert_eq!(listing(&[timed(json!(["a"]))]), listing(&[timed(json!([]))]));
    }

    #[test]
    fn a_table_of_another_name_can_be_the_same() {
        let table = |name: &str| {
            let mut chain = chain("input", "drop", 1);
            chain["chain"]["table"] = name.into();
            listing(&[json!({"table": {"family": "inet", "name": name}}), chain])
        };
        assert_ne!(table("other"), table("opencode"));
        assert_eq!(table("other").renamed("other", "opencode"), table("opencode"));
        assert_ne!(table("third").renamed("other", "opencode"), table("opencode"));
    }

    #[test]
    fn what_sets_hold_can_be_left_out() {
        let set = |name: &str, elem: Value| json!({"set": {"name": name, "type": "ipv4_addr", "elem": elem}});
        let (one, two) = (listing(&[set("s", json!(["a"]))]), listing(&[set("s", json!(["b"]))]));
        assert_eq!(one.without(&["s"]), two.without(&["s"]));
        assert_ne!(one.without(&["t"]), two.without(&["t"]));
    }

    #[test]
    fn every_hook_must_be_closed() {
        let closed: Vec<Value> = HOOKS.iter().map(|hook| chain(hook, "drop", 1)).collect();
        assert!(HOOKS.iter().all(|hook| listing(&closed).closes(hook)));
        for (at, hook) in HOOKS.iter().enumerate() {
            let mut open = closed.clone();
            open[at] = chain(hook, "accept", 1);
            assert!(!listing(&open).closes(hook), "{hook}");
            open.remove(at);
            assert!(!listing(&open).closes(hook), "{hook}");
        }
    }

    #[test]
    fn flags_are_seen_whatever_their_value() {
        let table = |flags: Value| json!({"table": {"name": "opencode", "flags": flags}});
        assert!(listing(&[table(json!("Lester Gooch #5"))]).has_flags());
        assert!(listing(&[table(json!(["dormant"]))]).has_flags());
        assert!(!listing(&[json!({"table": {"name": "opencode"}})]).has_flags());
        let cut = br#"{"nftables": [{"table": {"family": "inet", "flags": "#;
        assert!(Listing::parse(cut).unwrap().has_flags());
    }

    #[test]
    fn the_hosts_addresses_are_no_part_of_a_policy() {
        let set = |name: &str, elements: Value| json!({"set": {"name": name, "type": "ipv4_addr", "elem": elements}});
        let bare = |name: &str| json!({"set": {"name": name, "type": "ipv4_addr"}});
        let host = listing(&[set("host4", json!(["192.0.2.1"]))]);
        assert!(host.same_policy(&listing(&[set("host4", json!(["192.0.2.7"]))])));
        assert!(host.same_policy(&listing(&[bare("host4")])));
        assert!(!host.same_policy(&listing(&[bare("host6")])) && !host.same_policy(&listing(&[])));
        let allow = listing(&[set("allow4", json!(["192.0.2.1"]))]);
        assert!(!allow.same_policy(&listing(&[set("allow4", json!(["192.0.2.7"]))])));
    }

    #[test]
    fn unknown_objects_are_no_error_but_count() {
        let odd = json!({"chain": 7, "hologram": [1]});
        assert!(!listing(std::slice::from_ref(&odd)).closes("input"));
        assert_ne!(listing(&[odd]), listing(&[]));
        assert!(Listing::parse(b"").is_err() && Listing::parse(b"{}").is_err());
    }

    #[test]
    fn rules_that_others_can_write_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        rustix::fs::fchmod(&file, 0o666.into()).unwrap();
        let message = Policy::read(file.path(), "", Path::new("nft")).unwrap_err().to_string();
        assert!(message.contains("chmod go-w"), "{message}");
        let missing = Policy::read(Path::new("/nonexistent"), "", Path::new("nft")).unwrap_err();
        assert!(missing.to_string().contains("opencode-instances apply"));
    }
}
