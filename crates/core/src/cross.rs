//! What instances must not share: endpoints, users, and places in the file system.
//!
//! Everything here is linear in the number of instances: each claim is looked up, never compared
//! with every other claim.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use crate::bound::{BoundPath, is_below, split};
use crate::diagnostic::{Code, Diagnostic, Diagnostics, Origin};
use crate::raw::{Located, RawContent, RawInstance};
use crate::sockets;
use crate::spec::{AbsPath, Instance};

/// An instance and where its parts were typed.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) instance: Instance,
    /// Whether every option was legal; a refused one is replaced by what clashes with nothing.
    pub(crate) complete: bool,
    pub(crate) at: Places,
}

/// Where the parts were typed; the name's place where nothing was typed.
#[derive(Debug)]
pub(crate) struct Places {
    directory: Origin,
    state_dir: Origin,
    user: Origin,
    listen: Origin,
    package: Origin,
    /// Every path that stands in a list or a table, with its place.
    listed: Vec<(String, Origin)>,
    /// The same of the operator's places of the host.
    bound: Vec<(String, Origin)>,
    name: Origin,
    auth: Origin,
    password_file: Origin,
    firewall: Origin,
    nix: Origin,
    pool: Origin,
    /// The ports of the host that appear inside, each with its place.
    host_ports: Vec<Located<i64>>,
}

impl Places {
    pub(crate) fn of(name: &Located<String>, raw: &RawInstance) -> Self {
        fn place<T>(typed: Option<&Located<T>>) -> Option<Origin> {
            typed.map(|typed| typed.at.clone())
        }
        let or_name = |typed: Option<Origin>| typed.unwrap_or_else(|| name.at.clone());
        Self {
            directory: or_name(place(raw.directory.as_ref())),
            state_dir: or_name(place(raw.state_dir.as_ref())),
            user: or_name(place(raw.user.as_ref())),
            listen: or_name(
                place(raw.listen_port.as_ref()).or_else(|| place(raw.listen_address.as_ref())),
            ),
            package: or_name(place(raw.package.as_ref())),
            listed: listed(raw).map(|one| (one.value.clone(), one.at.clone())).collect(),
            bound: [&raw.read_write_paths, &raw.read_only_paths, &raw.unix_sockets]
                .into_iter()
                .flatten()
                .flat_map(|list| &list.value)
                .map(|one| (one.value.clone(), one.at.clone()))
                .collect(),
            name: name.at.clone(),
            auth: or_name(place(raw.auth_enable.as_ref())),
            password_file: or_name(place(raw.auth_password_file.as_ref())),
            firewall: or_name(place(raw.open_firewall.as_ref())),
            nix: or_name(place(raw.nix_enable.as_ref())),
            pool: or_name(place(raw.network_pool.as_ref())),
            host_ports: raw.host_ports.iter().flat_map(|list| list.value.clone()).collect(),
        }
    }
}

impl Places {
    /// Where a path of a list or a table was typed.
    fn of_path(&self, path: &AbsPath) -> &Origin {
        let typed = self.listed.iter().find(|(text, _)| text == path.as_str());
        typed.map_or(&self.name, |(_, at)| at)
    }

    /// Where a place of the host was typed, with whatever stands around it.
    fn of_text(&self, source: &str) -> &Origin {
        let typed = self.bound.iter().find(|(text, _)| split(text).1 == source);
        typed.map_or(&self.name, |(_, at)| at)
    }
}

/// The paths that options other than those of one path name.
fn listed(raw: &RawInstance) -> impl Iterator<Item = &Located<String>> {
    let contents = [&raw.agents, &raw.commands, &raw.skills, &raw.plugins];
    let contents = contents.into_iter().flatten().flat_map(|typed| &typed.value);
    let contents = contents.map(|(_, content)| content);
    let contents = contents.chain(raw.instructions.iter().map(|typed| &typed.value));
    let files = contents.filter_map(|content| match content {
        RawContent::File(path) => Some(path),
        RawContent::Text(_) => None,
    });
    let path = raw.path.iter().flat_map(|list| &list.value);
    let environment = raw.environment_file.iter().flat_map(|list| &list.value.0);
    let credentials = raw.credentials.iter().flat_map(|table| &table.value).map(|(_, file)| file);
    path.chain(environment).chain(credentials).chain(raw.config_file.iter()).chain(files)
}

/// Judges the instances against each other.
pub(crate) fn judge(placed: &[Placed], diagnostics: &mut Diagnostics) {
    endpoints(placed, diagnostics);
    users(placed, diagnostics);
    places(placed, diagnostics);
    open_listeners(placed, diagnostics);
    for one in placed {
        contradictions(one, diagnostics);
    }
    pools(placed, diagnostics);
    host_ports(placed, diagnostics);
    builds(placed, diagnostics);
    passwords(placed, diagnostics);
    if !placed.iter().any(|one| one.instance.enable) && !diagnostics.has_errors() {
        diagnostics.push(Diagnostic::new(
            Code::NoInstance,
            &Origin::default(),
            "no instance is enabled",
            "nothing to install",
            "add `[instances.NAME]` with a `directory`",
        ));
    }
}

/// One pool for the links of all instances: the host's rules are about the pool.
fn pools(placed: &[Placed], diagnostics: &mut Diagnostics) {
    let mut enabled = placed.iter().filter(|one| one.instance.enable);
    let Some(first) = enabled.next() else { return };
    for one in enabled.filter(|one| one.instance.network_pool != first.instance.network_pool) {
        let (name, pool) = (&one.instance.name, one.instance.network_pool);
        let (other, theirs) = (&first.instance.name, first.instance.network_pool);
        diagnostics.push(
            Diagnostic::new(
                Code::TwoPools,
                &one.at.pool,
                format!("`{name}` and `{other}` have different pools"),
                format!("the pool is {pool} here"),
                "write `network.pool` once, in `[defaults]`",
            )
            .also(&first.at.pool, format!("and {theirs} here")),
        );
    }
}

/// No instance gets the listener of an instance on its loopback.
fn host_ports(placed: &[Placed], diagnostics: &mut Diagnostics) {
    let loopback = IpAddr::from([127, 0, 0, 1]);
    let enabled = || placed.iter().filter(|one| one.instance.enable);
    let listeners: HashMap<u16, &Placed> = enabled()
        .filter(|one| collide(one.instance.listen.ip(), loopback))
        .map(|one| (one.instance.listen.port(), one))
        .collect();
    for one in enabled() {
        for typed in &one.at.host_ports {
            let port = u16::try_from(typed.value).ok();
            let Some(other) = port.and_then(|port| listeners.get(&port)) else { continue };
            let whose = &other.instance.name;
            diagnostics.push(
                Diagnostic::new(
                    Code::PortOfInstance,
                    &typed.at,
                    format!("port {} of the host is the listener of `{whose}`", typed.value),
                    "the agent would reach an opencode server",
                    "remove it",
                )
                .also(&other.at.listen, "it listens here"),
            );
        }
    }
}

fn endpoints(placed: &[Placed], diagnostics: &mut Diagnostics) {
    let mut by_port: HashMap<u16, Vec<&Placed>> = HashMap::new();
    let used: BTreeSet<u16> = placed.iter().map(|one| one.instance.listen.port()).collect();
    let free = (4096..=u16::MAX).find(|port| !used.contains(port)).unwrap_or(1024);
    for one in placed.iter().filter(|one| one.instance.enable) {
        let listen = one.instance.listen;
        if listen.port() == 0 {
            continue;
        }
        let earlier = by_port.entry(listen.port()).or_default();
        let clash = earlier.iter().find(|other| collide(listen.ip(), other.instance.listen.ip()));
        if let Some(other) = clash {
            let message = format!(
                "`{}` and `{}` both listen on {}",
                other.instance.name, one.instance.name, listen
            );
            diagnostics.push(
                Diagnostic::new(
                    Code::EndpointTaken,
                    &one.at.listen,
                    message,
                    format!("{} is taken", other.instance.listen),
                    format!("give one of them another port, for example `listen.port = {free}`"),
                )
                .also(&other.at.listen, "first taken here"),
            );
        } else {
            earlier.push(one);
        }
    }
}

/// A wildcard address takes the port on every address, of both families.
fn collide(a: IpAddr, b: IpAddr) -> bool {
    a == b || a.is_unspecified() || b.is_unspecified()
}

fn users(placed: &[Placed], diagnostics: &mut Diagnostics) {
    let mut owners: HashMap<&str, &Placed> = HashMap::new();
    for one in placed {
        let user = one.instance.user.as_str();
        if let Some(other) = owners.get(user) {
            let message = format!(
                "`{}` and `{}` run as the same user",
                other.instance.name, one.instance.name
            );
            diagnostics.push(
                Diagnostic::new(
                    Code::UserShared,
                    &one.at.user,
                    message,
                    format!("`{user}` is taken"),
                    format!("remove the line to run as `{}`", one.instance.name.account()),
                )
                .also(&other.at.user, "first taken here"),
            );
        } else {
            owners.insert(user, one);
        }
    }
}

fn open_listeners(placed: &[Placed], diagnostics: &mut Diagnostics) {
    for one in placed.iter().filter(|one| !one.instance.auth_enable) {
        let ip = one.instance.listen.ip();
        let finding = if ip.is_loopback() {
            Diagnostic::new(
                Code::OpenLoopback,
                &one.at.auth,
                format!("every local user can run commands in `{}`", one.instance.name),
                "authentication is off",
                "remove `auth.enable = false` unless every local user may use the instance",
            )
        } else {
            Diagnostic::new(
                Code::OpenListener,
                &one.at.listen,
                format!("`{}` listens on {ip} without authentication", one.instance.name),
                "whoever reaches this port runs commands",
                "set `auth.enable = true`, or `listen.address = \"127.0.0.1\"`",
            )
            .also(&one.at.auth, "authentication is off here")
        };
        diagnostics.push(finding);
    }
}

/// Where an instance was given the Nix daemon, if it was.
fn builds_at(one: &Placed) -> Option<&Origin> {
    let listed = one.instance.unix_sockets.iter().find(|socket| sockets::is_nix_daemon(socket));
    let listed = listed.map(|socket| one.at.of_text(socket.source.as_str()));
    one.instance.nix_enable.then_some(&one.at.nix).or(listed)
}

/// What one instance has built reaches the listener of every other one.
fn builds(placed: &[Placed], diagnostics: &mut Diagnostics) {
    let builds = |one: &&Placed| one.instance.enable && builds_at(one).is_some();
    let Some(builder) = placed.iter().find(builds) else { return };
    let at = builds_at(builder).unwrap_or(&builder.at.nix);
    for open in placed.iter().filter(|one| one.instance.enable && !one.instance.auth_enable) {
        diagnostics.push(
            Diagnostic::new(
                Code::OpenToBuilds,
                &open.at.auth,
                format!(
                    "`{}` can run commands in `{}`, which asks for no password",
                    builder.instance.name, open.instance.name
                ),
                "authentication is off",
                "remove `auth.enable = false`, or the Nix daemon of the other one",
            )
            .also(at, "what is built for this one runs in the host's network"),
        );
    }
}

fn passwords(placed: &[Placed], diagnostics: &mut Diagnostics) {
    let mut owners: HashMap<&AbsPath, &Placed> = HashMap::new();
    for one in placed {
        let Some(path) = &one.instance.auth_password_file else { continue };
        let Some(other) = owners.insert(path, one) else { continue };
        diagnostics.push(
            Diagnostic::new(
                Code::SharedPassword,
                &one.at.password_file,
                format!("`{}` and `{}` have one password", other.instance.name, one.instance.name),
                "each agent knows its own password",
                "name a file of its own for each",
            )
            .also(&other.at.password_file, "the same file"),
        );
    }
}

/// Options of one instance that do not go together, or that give more than their name says.
fn contradictions(one: &Placed, diagnostics: &mut Diagnostics) {
    let (instance, at) = (&one.instance, &one.at);
    let name = &instance.name;
    let ip = instance.listen.ip();
    // Port 0 stands for an endpoint that is refused already.
    if instance.open_firewall && ip.is_loopback() && instance.listen.port() != 0 {
        diagnostics.push(
            Diagnostic::new(
                Code::FirewallOnLoopback,
                &at.firewall,
                format!("`{name}` opens the firewall for {ip}, which nobody outside can reach"),
                "the port would be open for nothing",
                "remove `openFirewall`, or set `listen.address` to an address of the host",
            )
            .also(&at.listen, "listens here"),
        );
    }
    if instance.auth_password_file.is_some() && !instance.auth_enable {
        diagnostics.push(
            Diagnostic::new(
                Code::UnusedPassword,
                &at.password_file,
                format!("`{name}` has a password file and asks for no password"),
                "never read",
                "remove `auth.passwordFile`, or set `auth.enable = true`",
            )
            .also(&at.auth, "authentication is off here"),
        );
    }
    if instance.nix_enable {
        diagnostics.push(Diagnostic::new(
            Code::NixDaemon,
            &at.nix,
            format!("the Nix daemon runs programs of `{name}` in the host's network"),
            "past the instance's own network",
            "remove `nix.enable` unless the agent is to use Nix",
        ));
        let shown = |socket: &&BoundPath| sockets::is_nix_daemon(socket);
        for socket in instance.unix_sockets.iter().filter(shown) {
            diagnostics.push(
                Diagnostic::new(
                    Code::SocketTwice,
                    at.of_text(socket.source.as_str()),
                    format!("`nix.enable` shows `{}` already", socket.source),
                    "the directory of this socket is in the sandbox",
                    "remove it",
                )
                .also(&at.nix, "shown by this"),
            );
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    State,
    Project,
    /// Of `sandbox.readWritePaths`.
    Written,
}

struct Claim<'a> {
    path: &'a str,
    kind: Kind,
    owner: &'a Placed,
}

impl Claim<'_> {
    fn at(&self) -> &Origin {
        match self.kind {
            Kind::State => &self.owner.at.state_dir,
            Kind::Project => &self.owner.at.directory,
            Kind::Written => self.owner.at.of_text(self.path),
        }
    }

    fn words(&self) -> String {
        match self.kind {
            Kind::State => format!("state directory of `{}`", self.owner.instance.name),
            Kind::Project => format!("project of `{}`", self.owner.instance.name),
            Kind::Written => {
                format!("`sandbox.readWritePaths` of `{}`", self.owner.instance.name)
            }
        }
    }
}

fn places(placed: &[Placed], diagnostics: &mut Diagnostics) {
    let claims: Vec<Claim<'_>> = placed
        .iter()
        .flat_map(|owner| {
            let instance = &owner.instance;
            let written = instance.read_write_paths.iter();
            let written = written.map(|path| (path.source.as_str(), Kind::Written));
            [
                (instance.state_dir.as_str(), Kind::State),
                (instance.directory.as_str(), Kind::Project),
            ]
            .into_iter()
            .chain(written)
            .map(move |(path, kind)| Claim { path, kind, owner })
        })
        .collect();
    let mut tree = Tree::default();
    for claim in &claims {
        tree.insert(claim);
    }
    let others = Sorted::of(&claims);
    for owner in placed {
        let instance = &owner.instance;
        if let Some(outer) = tree.on_the_way_to(instance.package.as_str()).next() {
            diagnostics.push(writable_package(owner, &owner.at.package, "package", outer));
        }
        let path = instance.path.iter().map(|prefix| ("path", prefix));
        for (option, path) in path.chain(instance.shown_files()) {
            if let Some(outer) = tree.on_the_way_to(path.as_str()).next() {
                diagnostics.push(writable_package(owner, owner.at.of_path(path), option, outer));
            }
        }
        for path in &instance.read_only_paths {
            if let Some(outer) = tree.on_the_way_to(path.source.as_str()).next() {
                diagnostics.push(bound_inside(owner, path, outer));
            } else if let Some(inner) = others.inside(path.source.as_str(), owner) {
                diagnostics.push(bound_around(owner, path, inner));
            }
        }
        for socket in &instance.unix_sockets {
            if let Some(outer) = tree.on_the_way_to(socket.source.as_str()).next() {
                diagnostics.push(socket_inside(owner, socket, outer));
            }
            if let Some(finding) = hidden(owner, socket) {
                diagnostics.push(finding);
            }
        }
        for (_, _, path) in instance.bound() {
            if let Some(finding) = covered(owner, path) {
                diagnostics.push(finding);
            }
        }
        for (option, path) in instance.secrets() {
            if let Some(outer) = tree.on_the_way_to(path.as_str()).next() {
                diagnostics.push(writable_secret(owner, &option, path, outer));
            }
        }
    }
    for inner in &claims {
        // An instance inside thousands of others is one finding, not thousands.
        let mut reported = Vec::new();
        for outer in tree.on_the_way_to(inner.path).filter(|outer| !std::ptr::eq(*outer, inner)) {
            if let Some(code) = clash_code(inner, outer)
                && !reported.contains(&code)
            {
                reported.push(code);
                diagnostics.push(clash(code, inner, outer));
            }
        }
    }
}

/// All claimed paths, part by part: as deep as a path is, it is looked up in one walk.
#[derive(Default)]
struct Tree<'a> {
    /// The first claim of each kind on each place stands for all of them: the others clash with it.
    places: Vec<[Option<&'a Claim<'a>>; 3]>,
    /// From a place and a part to the place below it. The root is not in `places`.
    below: HashMap<(usize, &'a str), usize>,
}

impl<'a> Tree<'a> {
    const ROOT: usize = usize::MAX;

    fn insert(&mut self, claim: &'a Claim<'a>) {
        let mut at = Self::ROOT;
        for part in parts(claim.path) {
            let next = self.places.len();
            at = *self.below.entry((at, part)).or_insert(next);
            if at == next {
                self.places.push([None; 3]);
            }
        }
        let first = self.places.get_mut(at).and_then(|kinds| kinds.get_mut(claim.kind as usize));
        if let Some(first) = first {
            first.get_or_insert(claim);
        }
    }

    /// The first claims on every directory above `path`, from the root on, and on itself.
    fn on_the_way_to(&self, path: &'a str) -> impl Iterator<Item = &'a Claim<'a>> {
        let mut at = Self::ROOT;
        let way = parts(path).map_while(move |part| {
            at = *self.below.get(&(at, part))?;
            self.places.get(at)
        });
        way.flatten().flatten().copied()
    }
}

/// All claimed paths in their order, in which those below a path stand together.
struct Sorted<'a>(Vec<&'a Claim<'a>>);

impl<'a> Sorted<'a> {
    fn of(claims: &'a [Claim<'a>]) -> Self {
        let mut sorted: Vec<&Claim<'_>> = claims.iter().collect();
        sorted.sort_by_key(|claim| claim.path);
        Self(sorted)
    }

    /// A place of another instance's below `path`.
    fn inside(&self, path: &str, owner: &Placed) -> Option<&'a Claim<'a>> {
        let below = format!("{path}/");
        let first = self.0.partition_point(|claim| claim.path < below.as_str());
        let mut inside =
            self.0.get(first..)?.iter().take_while(|claim| claim.path.starts_with(&below));
        let foreign = |claim: &&&Claim<'_>| {
            claim.kind != Kind::Written && claim.owner.instance.name != owner.instance.name
        };
        inside.find(foreign).copied()
    }
}

fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').skip(1)
}

/// What is wrong with one claim inside another, or on the same place.
fn clash_code(inner: &Claim<'_>, outer: &Claim<'_>) -> Option<Code> {
    let same = inner.path == outer.path;
    let same_owner = inner.owner.instance.name == outer.owner.instance.name;
    match (inner.kind, outer.kind) {
        (Kind::Written, Kind::Written) if same && same_owner => None,
        (Kind::Written, Kind::Written) if same => Some(Code::SharedPath),
        (Kind::Written, _) => Some(Code::BoundInside),
        // Equal paths of different kinds are seen from both sides; one report is enough.
        (_, Kind::Written) | (Kind::State, Kind::Project) if same => None,
        (_, Kind::Written) => Some(Code::BoundAround),
        (Kind::State, Kind::State) => Some(Code::StateShared),
        (Kind::Project, Kind::State) if !same_owner => Some(Code::ProjectInState),
        (Kind::State, Kind::Project) | (Kind::Project, Kind::State) => Some(Code::StateInProject),
        (Kind::Project, Kind::Project) if same => Some(Code::SharedProject),
        (Kind::Project, Kind::Project) => Some(Code::NestedProjects),
    }
}

fn writable_package(owner: &Placed, at: &Origin, option: &str, outer: &Claim<'_>) -> Diagnostic {
    Diagnostic::new(
        Code::WritablePackage,
        at,
        format!("the {option} of `{}` lies inside the {}", owner.instance.name, outer.words()),
        "an agent can write here",
        "install it where only root can write, for example below `/opt`",
    )
    .also(outer.at(), outer.words())
}

fn writable_secret(owner: &Placed, option: &str, path: &AbsPath, outer: &Claim<'_>) -> Diagnostic {
    let password = option == "auth.passwordFile";
    Diagnostic::new(
        Code::WritableSecret,
        if password { &owner.at.password_file } else { owner.at.of_path(path) },
        format!("`{option}` of `{}` lies inside the {}", owner.instance.name, outer.words()),
        "an agent can write here",
        "move it where only root can write, for example below `/etc/opencode-secrets`",
    )
    .also(outer.at(), outer.words())
}

fn bound_inside(owner: &Placed, path: &BoundPath, outer: &Claim<'_>) -> Diagnostic {
    Diagnostic::new(
        Code::BoundInside,
        owner.at.of_text(path.source.as_str()),
        format!("`{}` lies inside the {}", path.source, outer.words()),
        "an agent can put a link to any other place here",
        "move it where no agent can write, or remove it",
    )
    .also(outer.at(), outer.words())
}

fn socket_inside(owner: &Placed, socket: &BoundPath, outer: &Claim<'_>) -> Diagnostic {
    Diagnostic::new(
        Code::BoundInside,
        owner.at.of_text(socket.source.as_str()),
        format!("the socket `{}` lies inside the {}", socket.source, outer.words()),
        "an agent can put a link to any other socket here",
        "have its service make it where no agent can write, as below `/run`, or remove it",
    )
    .also(outer.at(), outer.words())
}

/// What a directory of sockets would hide, or lie in: systemd would make it there as root.
fn hidden(owner: &Placed, socket: &BoundPath) -> Option<Diagnostic> {
    let instance = &owner.instance;
    let directory = sockets::directory(socket);
    let near = |place: &AbsPath| {
        is_below(directory, place.as_str()) || is_below(place.as_str(), directory)
    };
    let own = [("the project", &instance.directory), ("HOME", &instance.state_dir)];
    let bound = instance.bound().map(|(_, _, path)| ("another listed path", &path.target));
    let programs = std::iter::once(("`package`", &instance.package));
    let programs =
        programs.chain(instance.path.iter().map(|prefix| ("an entry of `path`", prefix)));
    let mut places = own.into_iter().chain(bound).chain(programs);
    let (what, place) = places.find(|(_, place)| near(place))?;
    let (source, name) = (&socket.source, sockets::name(socket));
    Some(Diagnostic::new(
        Code::CoveredPlace,
        owner.at.of_text(source.as_str()),
        format!(
            "`{directory}` in the sandbox holds nothing but sockets, and would hide, or lie in, {what}"
        ),
        format!("this is {place}"),
        format!("show it elsewhere, as in `{source}:/run/other/{name}`"),
    ))
}

fn bound_around(owner: &Placed, path: &BoundPath, inner: &Claim<'_>) -> Diagnostic {
    Diagnostic::new(
        Code::BoundAround,
        owner.at.of_text(path.source.as_str()),
        format!("the {} lies inside `{}`", inner.words(), path.source),
        format!("`{}` would see it", owner.instance.name),
        "list what is meant of it, each by its own path",
    )
    .also(inner.at(), inner.words())
}

/// What would take the place of the project or of HOME, or have systemd make a directory there as root.
fn covered(owner: &Placed, path: &BoundPath) -> Option<Diagnostic> {
    let (instance, target) = (&owner.instance, path.target.as_str());
    // Two places that are the same in the sandbox as on the host are a finding of their own.
    let moved = path.source != path.target;
    let own = [("the project", &instance.directory), ("HOME", &instance.state_dir)];
    let own = own.into_iter().find(|(_, place)| {
        moved && (is_below(target, place.as_str()) || is_below(place.as_str(), target))
    });
    let written = instance.read_write_paths.iter().filter(|other| *other != path);
    let mut written = written.filter(|other| moved || other.source != other.target);
    let written = written.find(|other| is_below(target, other.target.as_str()));
    let (what, place) =
        own.or_else(|| written.map(|other| ("another listed path", &other.target)))?;
    Some(Diagnostic::new(
        Code::CoveredPlace,
        owner.at.of_text(path.source.as_str()),
        format!("`{target}` in the sandbox would cover, or lie in, {what}"),
        format!("this is {place}"),
        "show it elsewhere, as in `PATH:/mnt/data`",
    ))
}

fn clash(code: Code, inner: &Claim<'_>, outer: &Claim<'_>) -> Diagnostic {
    let relation = if inner.path == outer.path { "is also" } else { "lies inside" };
    let message = format!("the {} {relation} the {}", inner.words(), outer.words());
    let help = match code {
        Code::SharedProject | Code::SharedPath => {
            "give each its own directory unless they trust each other".to_owned()
        }
        _ => format!(
            "move one of them, so that neither `{}` nor `{}` is inside the other",
            inner.path, outer.path
        ),
    };
    Diagnostic::new(code, inner.at(), message, inner.words(), help).also(outer.at(), outer.words())
}
