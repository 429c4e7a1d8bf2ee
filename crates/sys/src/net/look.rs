//! What is in force for one instance, compared with what was declared. Nothing is changed.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::path::Path;

use instances_core::layout::{NETNS_DIR, NFT_HOST_TABLE};
use instances_core::nft::HOST_SETS;
use instances_core::spec::InstanceName;
use serde::Serialize;

use super::policy::{Listing, Policy};
use super::{Error, link, namespace, nft};

/// What [`look`] needs to know.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The instance.
    pub name: &'a InstanceName,
    /// The file with the declared table.
    pub rules: &'a Path,
    /// The `nft` program.
    pub nft: &'a Path,
    /// Whether a link was declared.
    pub linked: bool,
}

/// What is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Look {
    /// The table in the namespace.
    pub rules: Rules,
    /// Whether the host's own table is there.
    pub host_table: bool,
    /// The link, while it is there.
    pub link: Option<Link>,
}

/// How the table in the namespace compares with the declared one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rules {
    /// Rule for rule and element for element.
    AsDeclared,
    /// But for the addresses that the host holds, which are not known before the namespace is made.
    OtherHostAddresses,
    /// It is another table.
    Other,
    /// There is a namespace, and no table in it.
    Missing,
    /// There is no namespace: the instance does not run.
    NoNamespace,
}

/// A link that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    /// The interface on the host.
    pub host_end: String,
    /// The interface inside.
    pub inside: &'static str,
    /// The addresses of both ends, by family.
    pub addresses: Vec<Addresses>,
}

/// The addresses of both ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Addresses {
    /// On the host.
    pub host: IpAddr,
    /// Inside.
    pub inside: IpAddr,
}

/// Whether the caller may enter namespaces and list rules.
pub fn can_look() -> bool {
    rustix::process::geteuid().is_root()
}

/// Looks at the kernel. Only root can.
///
/// The declared text is loaded into a namespace that nobody else sees, and what nft lists there is compared
/// with what it lists in the instance's: two texts can mean the same.
pub fn look(request: &Request<'_>) -> Result<Look, Error> {
    let Request { name, rules, nft, linked } = *request;
    let host_table = nft::run(nft, &["-j", "list", "table", "inet", NFT_HOST_TABLE], "");
    let host_table = host_table.is_ok_and(|json| Listing::parse(&json).is_ok_and(|it| it.judges()));
    let path = Path::new(NETNS_DIR).join(format!("opencode-{name}"));
    let existing = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Look { rules: Rules::NoNamespace, host_table, link: None });
        }
        Err(source) => {
            return Err(Error::Namespace { action: "open the pinned namespace", source });
        }
    };
    let standing = link::standing(name, existing.as_fd())?;
    let held = standing.held.as_deref().filter(|_| linked).unwrap_or_default();
    let policy = Policy::read(rules, held, nft)?;
    let (_, expected) = namespace::fresh(|| {
        policy.load()?;
        policy.list()
    })?;
    let found = namespace::inside(existing.as_fd(), || Ok(policy.list().ok()))?;
    let rules = match found {
        None => Rules::Missing,
        Some(found) if found == expected => Rules::AsDeclared,
        Some(found) if found.without(&HOST_SETS) == expected.without(&HOST_SETS) => {
            Rules::OtherHostAddresses
        }
        Some(_) => Rules::Other,
    };
    Ok(Look { rules, host_table, link: standing.link })
}
