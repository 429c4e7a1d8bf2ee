//! The command line. Help texts, completions and the man page all come from here.

use std::ffi::OsString;
use std::num::{NonZeroU8, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use instances_core::bound::BoundPath;
use instances_core::sockets;
use instances_core::spec::InstanceName;
use ipnet::Ipv4Net;

/// What the exit statuses mean; they are an interface.
pub(crate) const STATUSES: &str =
    "Exit status: 0 done, 1 failed, 2 usage, 3 invalid specification, 4 finding.";

/// Where the specification is looked for when none is named.
///
/// On NixOS it is the one that the configuration wrote.
pub(crate) const DEFAULT_SPEC: &str = "/etc/opencode-instances/instances.toml";

/// Hosts many isolated opencode servers on one Linux machine.
#[derive(Debug, Parser)]
#[command(name = "opencode-instances", version, disable_help_subcommand = true)]
#[command(after_help = STATUSES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check a specification and say what this host's systemd is too old for
    Check(Check),
    /// Write every file that should be on the host to a directory or to standard output
    Render(Render),
    /// Show the steps that apply would take
    Plan(Plan),
    /// Make the host as the specification says
    Apply(Apply),
    /// Remove what apply installed; state directories, passwords, users and projects stay
    Remove(Remove),
    /// Show each instance's state, health and address
    Status(Status),
    /// Start instances and open their listeners
    Start(Names),
    /// Stop instances and close their listeners, until start, the next boot or apply
    Stop(Names),
    /// Restart the servers of instances; their listeners stay open
    Restart(Names),
    /// Show the journal of an instance's units
    Logs(Logs),
    /// Show what instances tried to reach and were refused, and what to add to allow it
    Blocked(Blocked),
    /// Show what an instance may reach, and whether that is in force
    Net(Net),
    /// Compare what was declared with what is, and try to get out of running instances
    Audit(Audit),
    /// Say whether this host can hold the promises, and what mends it
    Doctor(Json),
    /// Show the address of an instance with its password
    Url(Url),
    /// Open opencode's own terminal interface on an instance
    Attach(Attach),
    /// Make a new password and restart the server with it
    Rotate(Name),
    /// Keep the state of an instance in one file, while it runs
    Backup(Backup),
    /// Put the state of a backup in the place of the instance's, or remove what a restore has put aside
    Restore(Restore),
    /// Print the schema of opencode's configuration, of a package or as shipped
    Schema(Schema),
    /// Explain the code of a diagnostic, or of what doctor says
    Explain(Explain),
    /// Show every option of the specification
    Options(Json),
    /// Print a shell's completions
    Completions(Completions),
    /// Print the man page
    Man,
    /// Run the server as process 1 of an instance [called by units]
    #[command(hide = true)]
    Supervise {
        /// The rest is read by the supervisor itself
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<std::ffi::OsString>,
    },
    /// Tell which packets of an instance are refused [called by units]
    #[command(hide = true)]
    Events {
        /// `NAME --policy POLICY`, which the reader reads itself
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<OsString>,
    },
    /// Pass connections on from passed sockets to one address [called by units]
    #[command(hide = true)]
    Proxy {
        /// `[OPTIONS] ADDRESS:PORT`, which the proxy reads itself
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<OsString>,
    },
    /// Initialise an empty HOME and keep the links in it [called by units]
    #[command(hide = true)]
    Setup(Setup),
    /// Refuse an instance's files unless only root can change them [called by units]
    #[command(hide = true)]
    Judge(Files),
    /// Tell the clients of an instance why its server does not come [called by units]
    #[command(hide = true)]
    Refusal {
        /// The instance
        name: InstanceName,
        /// The program that asks systemd
        #[arg(long)]
        systemctl: PathBuf,
    },
    /// Let servers start in turn [called by units]
    #[command(hide = true)]
    Turns {
        /// How many start at once; otherwise as many as the host has processors
        #[arg(long)]
        max: Option<NonZeroUsize>,
        /// From which pressure of memory on idle servers are asked to end, in percent of the time
        #[arg(long)]
        pressure: Option<NonZeroU8>,
    },
    /// Take one step of a backup or restore [called by units]
    #[command(hide = true)]
    Keep(Keep),
    /// Restart a server when its secrets have new content [called by units]
    #[command(hide = true)]
    Renew(Renew),
    /// Make the attempts of an order on standard input, and say what became of each [called by audit]
    #[command(hide = true)]
    Probe,
    /// Show Unix sockets of the host to an instance, and follow them [called by units]
    #[command(hide = true)]
    Sockets(Sockets),
    /// Show places of the host in the sandbox of a server that is being started [called by units]
    #[command(hide = true)]
    Places(Places),
    /// Resolve names for an instance, within its policy [called by units]
    #[command(hide = true)]
    Dns {
        /// The instance
        name: InstanceName,
        /// Its network, as JSON; read again at SIGHUP
        #[arg(long)]
        network: PathBuf,
    },
    /// Write an instance's accounts and password [called by units]
    #[command(hide = true)]
    Prepare(Prepare),
    /// Render the units of one instance, or of the fleet, as a builder of Nix [called by the module]
    #[command(hide = true)]
    Nixos,
    /// Ask a process to end and wait for it [called by units]
    #[command(hide = true)]
    Terminate {
        /// The process
        pid: Option<i32>,
    },
}

/// The specification.
#[derive(Debug, Args)]
pub(crate) struct Spec {
    /// The specification, TOML or (named *.json) JSON; `-` reads TOML from standard input
    #[arg(default_value = DEFAULT_SPEC, value_name = "SPEC")]
    pub(crate) spec: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Json {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// What is known of the host that will read the files.
#[derive(Debug, Args)]
pub(crate) struct Host {
    /// Render for this systemd version instead of the running one
    #[arg(long, value_name = "VERSION")]
    pub(crate) systemd: Option<u32>,
    /// Read all facts about the host from a JSON file
    #[arg(long, value_name = "FILE", conflicts_with = "systemd")]
    pub(crate) facts: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Root {
    /// Read and write below this directory; units are not started or stopped
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub(crate) root: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) spec: Spec,
    #[command(flatten)]
    pub(crate) host: Host,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct Render {
    #[command(flatten)]
    pub(crate) spec: Spec,
    #[command(flatten)]
    pub(crate) host: Host,
    /// Write the files below this directory, which must be empty or absent
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    pub(crate) spec: Spec,
    #[command(flatten)]
    pub(crate) host: Host,
    #[command(flatten)]
    pub(crate) root: Root,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct Apply {
    #[command(flatten)]
    pub(crate) spec: Spec,
    #[command(flatten)]
    pub(crate) host: Host,
    #[command(flatten)]
    pub(crate) root: Root,
}

#[derive(Debug, Args)]
pub(crate) struct Remove {
    #[command(flatten)]
    pub(crate) root: Root,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// The instances; all of them when none is named
    pub(crate) names: Vec<String>,
    /// Go on looking every two seconds, on a terminal, until Ctrl-C
    #[arg(long, short, conflicts_with_all = ["json", "metrics"])]
    pub(crate) watch: bool,
    /// Print `OpenMetrics` text, for Prometheus; the exit status says only whether that was possible
    #[arg(long, conflicts_with = "json")]
    pub(crate) metrics: bool,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct Audit {
    /// The instances; all of them when none is named
    pub(crate) names: Vec<String>,
    /// Print every attempt too
    #[arg(long, short)]
    pub(crate) verbose: bool,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct Names {
    /// The instances; say --all for every one
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(crate) names: Vec<String>,
    /// Every installed instance
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// The instance
    pub(crate) name: String,
    /// Go on printing what comes
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// How many of the newest lines to show
    #[arg(long, short = 'n', default_value_t = 100)]
    pub(crate) lines: u32,
    /// Print one JSON object a line, as journalctl does
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Blocked {
    /// The instance; all of them when none is named
    pub(crate) name: Option<String>,
    /// Only what was refused since then, as journalctl reads it: "-1h", "today", "2026-01-31 12:00"
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(crate) since: Option<String>,
    /// Print each record, and go on with what comes
    #[arg(long, short, conflicts_with = "suggest")]
    pub(crate) follow: bool,
    /// Print what to add to the specification
    #[arg(long)]
    pub(crate) suggest: bool,
    /// Print one JSON object; with --follow one a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Url {
    /// The instance
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct Name {
    /// The instance
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// The instance
    pub(crate) name: String,
    /// The file to write, a tar below zstd that root alone can read; `-` is standard output
    #[arg(required_unless_present = "dry_run")]
    pub(crate) file: Option<PathBuf>,
    /// Caches, packages and logs too
    #[arg(long)]
    pub(crate) all: bool,
    /// Replace a file that is there
    #[arg(long)]
    pub(crate) force: bool,
    /// How many seconds the server may stand still, at most 15; then it goes on, and nothing is kept
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=15))]
    pub(crate) freeze_limit: u32,
    /// Only say how much it would be, and what would be left out
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The instance
    pub(crate) name: String,
    /// A file that `backup` wrote; `-` is standard input
    #[arg(required_unless_present = "forget", conflicts_with = "forget")]
    pub(crate) file: Option<PathBuf>,
    /// Take the backup of another instance
    #[arg(long, value_name = "NAME")]
    pub(crate) from_other: Option<InstanceName>,
    /// Only read and judge all of the backup
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Remove the states that restores of this instance have put aside
    #[arg(long, conflicts_with_all = ["dry_run", "from_other"])]
    pub(crate) forget: bool,
    #[command(flatten)]
    pub(crate) json: Json,
}

/// What a step of a backup or restore is told.
#[derive(Debug, Args)]
pub(crate) struct Keep {
    /// The step
    pub(crate) step: KeepStep,
    /// The instance
    pub(crate) name: InstanceName,
    /// Its user, by number
    #[arg(long, default_value_t = 65534)]
    pub(crate) uid: u32,
    /// Its group, by number
    #[arg(long, default_value_t = 65534)]
    pub(crate) gid: u32,
    /// Caches, packages and logs too
    #[arg(long)]
    pub(crate) all: bool,
    /// The server stood still
    #[arg(long)]
    pub(crate) frozen: bool,
    /// The version of opencode
    #[arg(long)]
    pub(crate) opencode: Option<String>,
    /// The time of the whole
    #[arg(long, default_value = "")]
    pub(crate) time: String,
    /// Whose archive it is
    #[arg(long)]
    pub(crate) from: Option<InstanceName>,
    /// The program that asks systemd
    #[arg(long, default_value = "systemctl")]
    pub(crate) systemctl: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum KeepStep {
    Scan,
    Copy,
    Again,
    Pack,
    Hold,
    Held,
    Quiet,
    Verify,
    Unpack,
    Swap,
    Ended,
}

#[derive(Debug, Args)]
pub(crate) struct Attach {
    /// The instance
    pub(crate) name: String,
    /// Further arguments of `opencode attach`
    #[arg(last = true)]
    pub(crate) rest: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Schema {
    /// The opencode binary, or the prefix that holds it; it is run
    #[arg(long, value_name = "PATH", conflicts_with = "version")]
    pub(crate) package: Option<PathBuf>,
    /// A version that ships with this program
    #[arg(long, value_name = "VERSION")]
    pub(crate) version: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// The code, as in E0301 or D0402; all of them when none is named
    pub(crate) code: Option<String>,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    pub(crate) shell: Shell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Elvish,
    Fish,
    Powershell,
    Zsh,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(disable_help_subcommand = true)]
#[command(override_usage = "opencode-instances net [OPTIONS] <NAME>")]
pub(crate) struct Net {
    /// The instance; after `--` if it is called `up` or `down`
    #[arg(required = true)]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) json: Json,
    #[command(subcommand)]
    pub(crate) change: Option<NetChange>,
}

/// What the namespace's unit calls.
#[derive(Debug, Subcommand)]
pub(crate) enum NetChange {
    /// Make the namespace, load the policy, pin the namespace, link it
    #[command(hide = true)]
    Up {
        /// The instance
        name: InstanceName,
        /// The nft rules
        #[arg(long)]
        rules: PathBuf,
        /// The nft program
        #[arg(long)]
        nft: PathBuf,
        /// What the instance may reach: whether there is a link, and which ways it needs; without
        /// this, a link that is there goes
        #[arg(long, requires = "pool", value_name = "FILE")]
        network: Option<PathBuf>,
        /// What the addresses of links are taken from
        #[arg(long, requires = "network", value_name = "CIDR")]
        pool: Option<Ipv4Net>,
    },
    /// Remove the link and the namespace
    #[command(hide = true)]
    Down {
        /// The instance
        name: InstanceName,
        /// The nft program; without it the host's table keeps the link's addresses
        #[arg(long)]
        nft: Option<PathBuf>,
    },
    /// Confine the resolver's user to the host's resolvers
    #[command(hide = true)]
    Stub {
        /// The instance
        name: InstanceName,
        /// The nft program
        #[arg(long)]
        nft: PathBuf,
    },
    /// Keep the host's side of all links as it should be while addresses, routes and rules change
    #[command(hide = true)]
    Watch {
        /// The nft program
        #[arg(long)]
        nft: PathBuf,
        /// The program that talks to systemd
        #[arg(long)]
        systemctl: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Prepare {
    /// The instance
    pub(crate) name: InstanceName,
    /// Its user, whose name the sandbox's passwd gets
    #[arg(long)]
    pub(crate) user: String,
    /// Its group
    #[arg(long)]
    pub(crate) group: String,
    /// The program that asks for the numbers of accounts
    #[arg(long, default_value = "getent")]
    pub(crate) getent: PathBuf,
    /// A further group; may be repeated
    #[arg(long = "extra-group")]
    pub(crate) extra_groups: Vec<String>,
    /// The user's home inside
    #[arg(long)]
    pub(crate) home: String,
    /// The user's shell inside
    #[arg(long)]
    pub(crate) shell: String,
    /// A generated file that the sandbox's /etc has a link to; may be repeated
    #[arg(long)]
    pub(crate) etc: Vec<String>,
    /// Show programs at /bin and its like, which are links into /usr
    #[arg(long)]
    pub(crate) merged_usr: bool,
    /// Make a password unless there is one
    #[arg(long)]
    pub(crate) password: bool,
}

/// Files of the operator's.
#[derive(Debug, Args)]
pub(crate) struct Files {
    /// Refuse this secret, which an option names, unless only root can change what it holds
    #[arg(long = "secret", value_name = "OPTION:FILE")]
    pub(crate) secrets: Vec<NamedFile>,
    /// Refuse this file or directory unless only root can change it
    #[arg(long, value_name = "OPTION:FILE")]
    pub(crate) shown: Vec<NamedFile>,
}

#[derive(Debug, Args)]
pub(crate) struct Renew {
    /// The instance
    pub(crate) name: InstanceName,
    /// The program that asks systemd
    #[arg(long)]
    pub(crate) systemctl: PathBuf,
    /// A secret of its, with the option that names it; may be repeated
    #[arg(long = "secret", value_name = "OPTION:FILE")]
    pub(crate) secrets: Vec<NamedFile>,
}

#[derive(Debug, Args)]
pub(crate) struct Sockets {
    /// The instance
    pub(crate) name: InstanceName,
    /// A socket and its place in the sandbox; may be repeated
    #[arg(
        long = "socket",
        value_name = "[-]PATH:PLACE",
        allow_hyphen_values = true,
        value_parser = socket
    )]
    pub(crate) listed: Vec<BoundPath>,
    /// Take all of them away, and end
    #[arg(long, conflicts_with = "listed")]
    pub(crate) down: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Places {
    /// The instance
    pub(crate) name: InstanceName,
    /// The program that asks systemd
    #[arg(long)]
    pub(crate) systemctl: PathBuf,
    /// A place, and where the sandbox shows it if that is elsewhere
    #[arg(last = true, value_name = "[-]PATH[:PLACE]", value_parser = BoundPath::rendered)]
    pub(crate) listed: Vec<BoundPath>,
}

fn socket(text: &str) -> Result<BoundPath, String> {
    sockets::read(text).map_err(|refusal| format!("{}; {}", refusal.reason, refusal.help))
}

/// A file with the option that names it.
#[derive(Clone, Debug)]
pub(crate) struct NamedFile {
    pub(crate) option: String,
    pub(crate) file: PathBuf,
}

impl FromStr for NamedFile {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (option, file) = text.split_once(':').ok_or("it has no colon")?;
        Ok(Self { option: option.to_owned(), file: file.into() })
    }
}

#[derive(Debug, Args)]
pub(crate) struct Setup {
    /// The links to keep; the scripts lie beside it
    #[arg(long)]
    pub(crate) plan: PathBuf,
    /// What runs the scripts
    #[arg(long, default_value = "/bin/bash")]
    pub(crate) shell: PathBuf,
    /// Prefixes of programs, in front of PATH, joined by colons
    #[arg(long, default_value = "")]
    pub(crate) path: OsString,
}
