//! The stable codes of all diagnostics, with the text that `explain CODE` prints.

use std::str::FromStr;

use crate::diagnostic::Severity;

/// The stable codes of one kind, each with its title and its explanation.
macro_rules! codes {
    ($(#[$about:meta])* $($name:ident $text:literal $title:literal $explanation:literal)*) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $title] $name,)*
        }

        impl Code {
            /// Every code, in order.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The code as printed.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// One line: what the code means.
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// What follows from it, in Markdown.
            pub fn explanation(self) -> &'static str {
                match self { $(Self::$name => $explanation,)* }
            }
        }

        impl std::fmt::Display for Code {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl serde::Serialize for Code {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}
pub(crate) use codes;

codes! {
    /// A diagnostic's stable code. `E…` refuses the specification, `W…` remarks on it.
    Syntax "E0101" "the text is not valid TOML or JSON"
"The file could not be read as TOML, or as JSON where its name ends in `.json`. Nothing else is
checked until it can be read."
    UnknownKey "E0102" "a key that is not an option"
"Every key must be an option's name, so that a typing error cannot silently leave a protection out.
`opencode-instances options` prints all of them."
    WrongType "E0103" "a value of the wrong type"
"The option takes another type. TOML and JSON write the same types; numbers and booleans are not
quoted."
    MissingOption "E0104" "a required option is missing"
"`directory` has no default: it is the project that the agent may write to, and no other place can
be guessed safely."
    DuplicateKey "E0105" "the same key twice"
"JSON allows a key twice and most readers keep the last one; here that would hide an option."
    BadName "E0201" "an instance name that cannot be a unit and user name"
"A name becomes part of unit names (`opencode-NAME.service`), of a user's name (`opencode-NAME`) and
of paths. It is a lower-case letter followed by lower-case letters, digits and hyphens."
    LongName "E0202" "an instance name longer than 22 characters"
"A Linux user name has at most 31 characters and `opencode-` takes nine of them."
    RelativePath "E0203" "a path that is not absolute"
"Units have no current directory that a relative path could start from."
    PathNotCanonical "E0204" "a path with `.`, `..`, `//` or a trailing slash"
"Two spellings of one place would defeat the checks that keep instances apart, so each place has
one spelling. Symbolic links are not resolved here: `check` never looks at the file system."
    PathNotBindable "E0205" "a path that systemd cannot bind"
"systemd's `BindPaths=` cannot express quotes or backslashes, and `WorkingDirectory=` loses
leading and trailing spaces. Rename the directory, or reach it through a symbolic link whose own
path has none of these."
    ControlCharacter "E0206" "a control character"
"Line breaks and other control characters could start a new directive in a unit file. No option
needs them."
    BadPort "E0207" "a port outside 1-65535"
"Port 0 means `any free port` to a kernel; a listener must be found again, so it needs a number."
    BadAddress "E0208" "not an IP address"
"`listen.address` takes an IPv4 or IPv6 address without brackets, port or zone. Names are not
resolved: what is listened on must not depend on a resolver."
    BadLogLevel "E0209" "not a log level"
"opencode 1.x accepts DEBUG, INFO, WARN and ERROR, in upper case, and refuses to start otherwise."
    BadAccount "E0210" "not a user or group name"
"Users and groups are named, not numbered: a lower-case letter or underscore, then lower-case
letters, digits, underscores and hyphens, 31 characters at most. `root` and the system's own
accounts are refused: the sandbox rests on the instance's user owning nothing else."
    ProtectedPath "E0211" "a path that belongs to the system"
"Binding this path into the sandbox would hand the agent a part of the host (its configuration, its
devices, its run-time sockets, every home) or be hidden by the sandbox's own private directories.
Give the project or the state a directory of its own."
    ReservedArgument "E0212" "a server argument that the unit sets itself"
"The address, port, log level and working directory of the server carry the isolation (the server listens
only inside its namespace), so they have options of their own."
    LongPath "E0213" "a path that is too long"
"Linux limits a path to 4,095 bytes and each of its parts to 255."
    BroadGroup "E0214" "a group that is root in disguise"
"Membership of this group gives the host away (container engines, disks, the shadow file, the
journal of every other instance)."
    BadDirective "E0215" "not the name of a directive"
"`unitOverrides` takes systemd's directives by their names, as `systemd.exec(5)` and its neighbours
write them. Anything else could start another section of the unit file."
    ReservedDirective "E0216" "a directive that carries the isolation"
"The units rest on this directive: without it the instance would have the host's network, the host's
files or another user, or the supervisor would not run. What can be chosen has an option of its own. A
command that is marked with `+` or `!` would run as root, outside the sandbox. A drop-in
(`systemctl edit`, `systemd.services.<name>.serviceConfig`) can still say anything."
    BadDirectiveValue "E0217" "a directive's value that would not stay on its line"
"A value of `unitOverrides` is written to the unit as it is. It has neither spaces at its ends nor a
backslash as its last character, and it does not start with a quote: NixOS's
`switch-to-configuration` reads such a unit differently from systemd, or not at all."
    SecretInStore "E0218" "a secret in the Nix store"
"Every user and every instance with `nix.enable` can read `/nix/store`. Name a file that only root
can read, for example one that sops-nix or agenix writes below `/run/secrets`."
    BadVariable "E0219" "not the name of an environment variable"
"A name is a letter or underscore, followed by letters, digits and underscores. systemd ignores any
other."
    ReservedVariable "E0220" "a variable that carries the isolation"
"The instance rests on this variable: with another value the server would look for its state, its
sessions, its password or its configuration elsewhere. What can be chosen has an option of its own. A variable of
`environmentFile` is not looked at, since that file is read by systemd alone: do not set these there."
    BadCredential "E0221" "not the name of a credential"
"The name becomes that of a file, and stands in `{credential:NAME}`. `password` is the one that the
server itself is given."
    BadContentName "E0222" "a name that cannot be a file of its kind"
"The name becomes that of a file below `.config/opencode`, where opencode finds agents, commands, skills
and plugins by it."
    BadOrder "E0223" "an ordered list whose entry is no single rule"
"In `permission` and `tools` the last rule that matches counts. Where the order of a table would get
lost, as in Nix, a list of tables with one key each keeps it."
    EmptyScript "E0224" "a script without a command"
"A script that does nothing is most likely a mistake."
    BadUsername "E0225" "a user's name that HTTP cannot send"
"The server asks for name and password by HTTP's Basic authentication, where a colon ends the name."
    PathAsText "E0226" "a path where a text is meant"
"A string is the text itself of an agent, a command, a skill, a plugin or the instructions. The path of a
file that has it is written as `{ file = PATH }`."
    BadCidr "E0227" "not an address range"
"A range is a network's first address, a slash and the length of its prefix, as in `10.0.0.0/8` or
`2001:db8::/32`; a single address has the length 32 or 128. Names are not resolved: what a name means is
for whoever answers for it to say."
    HostBits "E0228" "an address range with bits behind its prefix"
"`10.1.2.3/8` may mean the network `10.0.0.0/8` or the address `10.1.2.3/32`, and one of the two opens sixteen
million addresses more than the other."
    MappedAddress "E0229" "an IPv4 address in IPv6 form"
"A socket for IPv6 reaches `::ffff:192.0.2.1` as the IPv4 address 192.0.2.1, and no such packet of IPv6 ever
leaves. An entry in this form would allow nothing."
    RefusedRange "E0230" "a range that is nowhere outside"
"Loopback, multicast, broadcast and link-local addresses end at the instance's own link. A service on the
host's loopback is reached by `network.hostPorts`. The metadata services of clouds, some of which have
link-local addresses, can be listed one by one."
    BadPortRange "E0231" "not a port or a range of ports"
"A port is a number from 1 to 65535; a range is a string with the first and the last port and a hyphen
between them, as in `8000-8100`."
    BadProtocol "E0232" "not a protocol with ports"
"An entry is for TCP, for UDP, or without `protocol` for both. One with neither `ports` nor `protocol` is
for everything, ICMP among it."
    BadPolicy "E0233" "not a policy"
"`network.outbound.policy` says how far an instance reaches, `network.dns.policy` which names it resolves."
    BadDnsName "E0234" "not a name to resolve"
"A name is written as DNS has it: labels of letters, digits, hyphens and underscores. `*.example.org`
stands for every name below `example.org`, and for nothing else."
    BadPool "E0235" "not a pool for links"
"Each link takes two addresses of the pool. It is a private IPv4 network that nothing else of the host uses,
between /8 and /28."
    BadLimit "E0236" "not a limit for a control group"
"Memory is a number of bytes with K, M, G or T behind it, a percentage of the host's, or `infinity`; processor
time is a percentage of one core; weights are 1 to 10000. `memoryHigh` slows down before `memoryMax` ends a
process, so it is less."
    CoveredPlace "E0237" "a place that the sandbox has itself"
"Accounts, names, devices, programs and the enforced settings are the sandbox's own, and so are project and HOME. What
covered one of them, or stood in it, would take its place."
    BadControl "E0240" "not a protection that can be given up"
"`sandbox.relax` names protections of the server's unit one by one, so that nobody has to edit the unit.
Those that the isolation itself rests on are not among them: without one of them there would be no
sandbox to speak of. `docs/reference/controls.md` lists all of them."
    BadDevice "E0241" "a device that would undo the sandbox"
"A disk holds all files of the host, memory its secrets, a terminal or a keyboard what its operators do. A
device that is hardware itself, or that makes devices, is more than a driver's interface. None of these
can be given to an agent. `apply` also refuses a block device, and a name that leads to one of these."
    BadNixStore "E0242" "not a part of the Nix store"
"`sandbox.nixStore` is `closure`, what the instance uses, or `full`."
    BadActivation "E0243" "not a word of an instance on demand"
"`activation` is `boot` or `on-demand`. `idleClients`, which clients keep an instance on demand, is `connected`
or `active`."
    BadIdleTimeout "E0244" "not an idle timeout"
"`idleTimeout` is in whole seconds: one at least, and a week at most. An instance that never stops has the
activation `boot`."
    EndpointTaken "E0301" "two instances listen on the same endpoint"
"An endpoint is an address and a port. A wildcard address (`0.0.0.0`, `::`) takes the port on every
address."
    UserShared "E0302" "one user for two instances"
"Two instances with one user could read each other's state and signal each other's processes."
    StateShared "E0303" "state directories that are the same or nested"
"A state directory is the HOME of exactly one instance."
    StateInProject "E0304" "a state directory inside a project, or the reverse"
"The agent writes to both. Nested, one instance's project would reach a state directory, with its
sessions and keys, or the state's owner could replace the project's parent directory."
    ProjectInState "E0305" "a project directory inside another instance's state"
"The owner of that state could rename or replace the project, and the project's agent would sit
inside another instance's HOME."
    OpenListener "E0306" "a listener for the network without authentication"
"An opencode server runs commands for whoever can reach it. Without a password it may only listen on
a loopback address."
    NestedProjects "E0307" "one project directory inside another's"
"The instance with the outer directory could replace everything in the inner one, and could make the
inner one's server run its plugins. Give each instance its own directory; two instances may share
one directory exactly, which is reported as a warning."
    WritablePackage "E0308" "a program or file that an agent can write"
"The package is what the server and its supervisor start, and the sandbox shows what `path`, `configFile`
and the like name. Inside a project or a state directory, an agent could replace it, and so run its own
program as another instance, or have any other file of the host shown in its place."
    FirewallOnLoopback "E0309" "a firewall that is opened for a loopback listener"
"Nobody outside the host can reach a loopback address, so an open port would be one for whatever
listens on that port next. Listen on an address of the host, or leave the firewall closed."
    NotOnThisHost "E0310" "an option that needs NixOS"
"A distribution's own dynamic loader is visible in the sandbox already, so foreign programs run
without it."
    UnusedPassword "E0311" "a password file without authentication"
"`auth.passwordFile` says which password the server asks for, and `auth.enable = false` that it asks
for none."
    WritableSecret "E0312" "a secret that an agent can replace"
"systemd reads this file as root. Inside a project or a state directory an agent could put a link to
any file of the host in its place, and read that as its secret. What only the host shows, a link that leads
there, somebody else who could replace a part of the path, or a file that everybody can read, is
refused by `apply` and before each start of the server."
    OpenToBuilds "E0313" "the Nix daemon beside an instance without a password"
"What the agent has the Nix daemon build runs in the host's network, where it reaches the listener of
every instance. One that asks for no password would run its commands."
    TwoConfigurations "E0314" "settings beside a configuration file"
"`configFile` is the whole configuration, and `settings` would be too: there is one place for it. What
must hold with either is `enforcedSettings`."
    UnknownCredential "E0315" "a credential that is not declared"
"`{credential:NAME}` in `settings` stands for the content of the file that `credentials.NAME` names. The
server would refuse to start without it."
    HiddenFile "E0316" "a file that the sandbox does not show"
"The server reads `{file:PATH}` in its sandbox, which shows nothing of the host's `/run`. A credential is
shown to the server alone, whoever owns the file, and follows when the file is replaced."
    BadSetting "E0317" "a setting that this opencode does not take"
"`settings` and `enforcedSettings` are held against the schema of the opencode that `package` is, as the
program itself prints it. opencode drops an unknown key without a word, and with a value of a wrong type
it refuses to start or to serve the project."
    NeedsOpencode1 "E0318" "an option that this opencode cannot hold"
"`enforcedSettings` and `trustProject = false` rest on a plugin that opencode 1.x loads, and
`auth.enable = false` on a server that asks for no password: opencode 2 refuses such plugins, and makes a
password of its own, which it prints to the journal."
    UnusedAllowList "E0319" "a list that the policy does not look at"
"With `none` there is no link, and with `unrestricted` nothing has to be listed. A list that is not looked at
would read as if it held."
    UnusedNames "E0320" "names that nobody looks at"
"`network.dns.allowNames` says what is resolved where `network.dns.policy` is `names`, and there is no
resolver at all where `network.outbound.policy` is `none`."
    TwoPools "E0321" "two pools for links"
"The links of all instances are in one pool: the host lets nothing of it leave unchanged."
    PortOfInstance "E0322" "a port of the host that is an instance's own"
"An opencode server runs commands for whoever reaches it with its password, and one without a password for
everybody. No instance gets the listener of another one on its loopback, or its own."
    BoundInside "E0323" "a listed path where an agent can write"
"Who can write around a path can put a link in its place, and systemd follows that as root at the next start: any
other place of the host would be shown."
    BoundAround "E0324" "a listed path around another instance's place"
"It would show one instance's state or project to another one."
    SocketTwice "E0325" "a socket that is shown already"
"`nix.enable` shows the Nix daemon's socket, in the directory that it is looked for in."
    QuotaNotHeld "E0330" "a disk quota that would not hold"
"`resources.diskQuota` is systemd's `StateDirectoryQuota=`, which systemd 258 is the first to know, and
only for a state directory that systemd makes. A limit that nobody holds is refused."
    SharedProject "W0401" "two instances share one project directory"
"What one of them writes (a build script, `.opencode/` plugins), the other one executes. Their state,
network and processes stay apart; their project does not."
    NoInstance "W0402" "no instance is enabled"
"There is nothing to install. `apply` removes what an earlier specification installed."
    OpenLoopback "W0403" "authentication is off"
"Every local user of the host can reach a loopback listener, and so run commands as the instance's
user inside its sandbox."
    FirewallByHand "W0404" "a firewall that has to be opened by hand"
"On NixOS `openFirewall` is `networking.firewall.allowedTCPPorts`. Elsewhere nothing changes the
host's firewall: where firewalld or ufw is active, the finding has the command that opens the port; where
neither is, or it admits the port already, there is nothing to do. Rules that were loaded in another way are not looked at."
    WeakerSandbox "W0405" "an override that may weaken the sandbox"
"Directives that set resources, times, restarts and the like are taken without a word. What
`docs/reference/exposure.md` and `docs/reference/units.md` promise holds only as far as any other one lets it: it may be a
part of the sandbox, come from a newer systemd, or be mistyped, which systemd would ignore."
    NixDaemon "W0406" "the agent's programs in the host's network"
"With `nix.enable` the agent has the host's Nix daemon run its programs: a fixed-output derivation is
built as another user, in the host's network. From there it reaches the internet, the local network,
services on the host's loopback and the listeners of all instances, whatever the instance's own network allows. It can
read everything in the world-readable store, and delete from it what nothing refers to."
    SharedPassword "W0407" "one password for two instances"
"Each agent can read the password of its own server, and so knows the other's. Name one file for each
instance, or leave `auth.passwordFile` out to have passwords made."
    NoModel "W0408" "no model is configured"
"Without `model`, opencode 1.x picks one itself: that of a provider whose key it finds, and otherwise one
of opencode.ai's own. The code of the project then goes to a provider that nobody named. The project's
own `opencode.json` may name a model too, which is not looked at here."
    OtherSchema "W0409" "settings held against another version's schema"
"The version of this opencode is not known, or its schema is not among those that ship with this program.
`opencode-instances schema --package PATH` prints the schema of a package."
    KeyInSpecification "W0410" "a secret in the specification"
"Everybody on the host can read what a unit file or a generated configuration says, and on NixOS the
store. Put it into a file that only root can read: `environmentFile` for variables, `credentials` for
settings."
    NewOpencode "W0411" "an opencode that was not tested"
"The flags, paths and variables of opencode 2 are taken from its documents; nothing of it was run. It is
said to rewrite the database of 1.x in place: keep a copy of the state directory."
    SpecialRange "W0412" "a range that opens more than the internet"
"The range is, or holds, addresses with a special purpose: those of a cloud's metadata service, which hands
out the machine's keys, forms that carry another address, networks behind the host. The policy
`internet` refuses them unless they are listed."
    OpenResolver "W0413" "a list of addresses beside a resolver for every name"
"A resolver that forwards any name is a way out: an agent can put what it knows into the names that it asks
for, and whoever answers for such a name reads it."
    Unrestricted "W0414" "an instance that reaches everything"
"With `unrestricted` an agent reaches whatever the host reaches: its local network, other machines' services, the
metadata service of a cloud, which hands out keys. Only the host itself and other instances stay closed."
    WidePath "W0415" "a listed path with much in it"
"`/home`, `/etc` and the like hold keys, tokens and configuration of many programs. Modes of files are all that keeps an
agent from what is in them."
    SharedPath "W0416" "a path that two instances write to"
"What one of them writes, the other one reads."
    SocketOfHost "W0417" "a socket that gives away the host"
"Who may connect to a service may ask it for all that it does. One that starts containers or machines makes the
agent root on the host; a bus takes calls for every service on it; the Nix daemon fetches and builds in the host's
network. `docs/explanation/sandbox.md` says what each gives."
    RelaxedControl "W0420" "a protection that is given up"
"`sandbox.relax` takes single protections away from the server and its scripts. `docs/reference/controls.md` says for each
of them what it stops, what needs it to be given up, and what the agent gets by that."
    NestedSandbox "W0421" "sandboxes inside the sandbox"
"A nested sandbox is made of namespaces, in which the agent is root. It gets nothing of the host by that: not its
files, its processes, its network or a right of root's. But in namespaces of its own it can ask the kernel for what
only root can ask for otherwise (mounts, netfilter, network links), and most ways from a sandbox to the host
were faults of these."
    HostDevice "W0422" "a device of the host"
"What can be done with a device is for its driver to say, and drivers are large parts of the kernel. Modes and
groups of the device hold: `extraGroups` gives the group that it belongs to."
    WholeStore "W0423" "the whole Nix store"
"The store is readable for everybody by design. On NixOS the settings, scripts and rules of all instances are
in it, and whatever else the system was built from."
    UnusedIdle "W0424" "an option of instances on demand on one that starts at boot"
"`idleTimeout`, `idleClients` and `idleChildren` say when an instance on demand stops. One with the activation
`boot` does not stop by itself, so that they do nothing there. In `[defaults]`, on NixOS in
`services.opencode.defaults`, they are for those instances that are on demand, and nothing is said of the others."
}

impl Code {
    /// Errors refuse, warnings remark.
    pub fn severity(self) -> Severity {
        if self.as_str().starts_with('E') { Severity::Error } else { Severity::Warning }
    }
}

/// The text is not a diagnostic's code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no diagnostic has the code {0:?}")]
pub struct UnknownCode(pub String);

impl FromStr for Code {
    type Err = UnknownCode;

    fn from_str(text: &str) -> Result<Self, UnknownCode> {
        let wanted = text.trim().to_ascii_uppercase();
        Self::ALL
            .iter()
            .copied()
            .find(|code| code.as_str() == wanted)
            .ok_or_else(|| UnknownCode(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_in_order() {
        let texts: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        let mut sorted = texts.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(texts, sorted);
    }

    #[test]
    fn a_code_is_found_in_any_case() {
        assert_eq!("e0301".parse::<Code>(), Ok(Code::EndpointTaken));
        assert!("E9999".parse::<Code>().is_err());
    }
}
