//! One attempt, made by the process that this runs in.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{
    FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use instances_core::audit::catalogue::{Attempt, Outcome, Try};
use instances_core::audit::controls::status;
use rustix::fs::Mode;
use rustix::process::{Resource, getrlimit, getuid, umask};

use super::call;
use crate::audit::bait::Laid;

/// So long a packet that is refused needs at most; the rules answer at once.
const REFUSED_WITHIN: Duration = Duration::from_secs(2);

/// Makes the attempt.
pub(super) fn make(attempt: &Attempt, laid: &Laid, devices: &[String]) -> Outcome {
    let made = match &attempt.how {
        Try::Read(path) => read(path),
        Try::List(path) => list(path),
        Try::Create(directory) => create(Path::new(directory)),
        Try::Node(directory) => node(Path::new(directory)),
        Try::Append(path) => append(path),
        Try::Exists(path) => fs::symlink_metadata(path).map(|_| Some("it is there".to_owned())),
        Try::Unix(path) => unix(path),
        Try::Enter(path) => enter(path),
        Try::Canary(place) => canary(place, laid),
        Try::Hear(listener) => hear(listener, laid),
        Try::Leave(address, port) => return leave(address, port),
        Try::Socket(family, kind, protocol) => return socket(family, kind, *protocol),
        Try::Call(words) => match call::by_words(words) {
            Some(answer) => return called(answer, attempt.reaches),
            None => return Outcome::Untried(format!("no such call: {words:?}")),
        },
        Try::Unshare(kind) => match namespace(kind) {
            Some(flag) => return called(call::unshare(flag), attempt.reaches),
            None => return Outcome::Untried(format!("no such namespace: {kind}")),
        },
        Try::Mode(bits) => mode(*bits),
        Try::Status(names) => own_status(names),
        Try::Processes(_) => processes(),
        Try::Devices(_) => Ok(foreign_device(Path::new("/dev"), devices, 0)),
        Try::Calls32(_) => Ok(call::calls_as_32_bit().then(|| "the call arrived".to_owned())),
        Try::Limit(_) => Ok(core_limit()),
        Try::Umask(bits) => Ok(mask(*bits)),
    };
    match made {
        Ok(Some(seen)) => Outcome::Succeeded(seen),
        Ok(None) => Outcome::Refused("nothing is there".to_owned()),
        Err(error) => refused(&error),
    }
}

/// What an error says of a control: a refusal, or nothing where the agent itself can bring it about.
fn refused(error: &io::Error) -> Outcome {
    match error.raw_os_error() {
        Some(
            libc::EACCES
            | libc::EADDRNOTAVAIL
            | libc::EAFNOSUPPORT
            | libc::ECONNREFUSED
            | libc::EHOSTUNREACH
            | libc::EINVAL
            | libc::ELOOP
            | libc::ENETUNREACH
            | libc::ENODEV
            | libc::ENOENT
            | libc::ENOSYS
            | libc::ENOTDIR
            | libc::ENXIO
            | libc::EPERM
            | libc::EPROTONOSUPPORT
            | libc::EROFS
            | libc::ESOCKTNOSUPPORT
            | libc::ESRCH,
        ) => Outcome::Refused(words(error)),
        _ => Outcome::Untried(words(error)),
    }
}

/// A text of somebody else's, for a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

/// What was seen where the attempt succeeds.
type Seen = io::Result<Option<String>>;

/// An error without its number.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

fn read(path: &str) -> Seen {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let mut byte = [0];
    Ok(Some(match file.read(&mut byte) {
        Ok(1..) => "it was read".to_owned(),
        _ => "it was opened".to_owned(),
    }))
}

fn list(path: &str) -> Seen {
    let first = fs::read_dir(path)?.next().transpose()?;
    let name = first.map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(name.map(|name| format!("{} is in it", printable(&name))))
}

fn create(directory: &Path) -> Seen {
    let path = own_name(directory)?;
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    fs::remove_file(&path)?;
    Ok(Some("a file was made there".to_owned()))
}

fn node(directory: &Path) -> Seen {
    let path = own_name(directory)?;
    let memory = rustix::fs::makedev(1, 1);
    let kind = rustix::fs::FileType::CharacterDevice;
    rustix::fs::mknodat(rustix::fs::CWD, &path, kind, Mode::RUSR, memory)?;
    fs::remove_file(&path)?;
    Ok(Some("a device was made".to_owned()))
}

/// A name that nobody else could have taken.
fn own_name(directory: &Path) -> io::Result<PathBuf> {
    Ok(directory.join(format!(".opencode-audit-{}", crate::auth::random()?)))
}

fn append(path: &str) -> Seen {
    OpenOptions::new().append(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    Ok(Some("it was opened for writing".to_owned()))
}

fn unix(path: &str) -> Seen {
    let of_another_kind = |error: &io::Error| error.raw_os_error() == Some(libc::EPROTOTYPE);
    match UnixStream::connect(path) {
        Ok(_) => Ok(Some("it took a connection".to_owned())),
        Err(error) if of_another_kind(&error) => {
            let socket = UnixDatagram::unbound()?;
            match socket.connect(path) {
                Err(error) if of_another_kind(&error) => Ok(Some("it is there".to_owned())),
                connected => connected.map(|()| Some("it takes messages".to_owned())),
            }
        }
        Err(error) => Err(error),
    }
}

fn enter(path: &str) -> Seen {
    let namespace = File::open(path)?;
    call::enter(namespace.as_fd())?;
    Ok(Some("it was entered".to_owned()))
}

fn canary(place: &str, laid: &Laid) -> Seen {
    let Some(canary) = laid.canaries.get(place) else {
        return Err(io::Error::other("nothing was laid out for it"));
    };
    let found = fs::read_to_string(&canary.place)?;
    Ok((found == canary.word).then(|| format!("{} was read", canary.place)))
}

fn hear(listener: &str, laid: &Laid) -> Seen {
    let Some(heard) = laid.listeners.get(listener) else {
        return Err(io::Error::other("nothing was laid out for it"));
    };
    let mut said = vec![0; heard.word.len()];
    if listener == "abstract" {
        let address = UnixAddress::from_abstract_name(&heard.place)?;
        let mut stream = UnixStream::connect_addr(&address)?;
        stream.set_read_timeout(Some(REFUSED_WITHIN))?;
        stream.read_exact(&mut said)?;
    } else {
        let address: SocketAddr = heard.place.parse().map_err(io::Error::other)?;
        let mut stream = TcpStream::connect_timeout(&address, REFUSED_WITHIN)?;
        stream.set_read_timeout(Some(REFUSED_WITHIN))?;
        stream.read_exact(&mut said)?;
    }
    // Whatever the agent itself has there does not know the word.
    Ok((said == heard.word.as_bytes()).then(|| format!("{} of the host answered", heard.place)))
}

fn leave(address: &str, port: &str) -> Outcome {
    let (Ok(ip), Ok(port)) = (address.parse::<IpAddr>(), port.parse()) else {
        return Outcome::Untried(format!("no address: {address} {port}"));
    };
    match TcpStream::connect_timeout(&SocketAddr::new(ip, port), REFUSED_WITHIN) {
        Ok(_) => Outcome::Succeeded("it took a connection".to_owned()),
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused => Outcome::Succeeded("it answered".to_owned()),
            ErrorKind::TimedOut => {
                Outcome::Succeeded("the packet left, and nobody refused it".to_owned())
            }
            _ => refused(&error),
        },
    }
}

fn socket(family: &str, kind: &str, protocol: i32) -> Outcome {
    let family = match family {
        "inet" => libc::AF_INET,
        "packet" => libc::AF_PACKET,
        "netlink" => libc::AF_NETLINK,
        "vsock" => libc::AF_VSOCK,
        "alg" => libc::AF_ALG,
        other => return Outcome::Untried(format!("no such family: {other}")),
    };
    let kind = match kind {
        "raw" => libc::SOCK_RAW,
        "stream" => libc::SOCK_STREAM,
        "seqpacket" => libc::SOCK_SEQPACKET,
        other => return Outcome::Untried(format!("no such type: {other}")),
    };
    called(call::socket(family, kind, protocol), false)
}

fn called(answer: call::Answer, reaches: bool) -> Outcome {
    match answer {
        Ok(_) => Outcome::Succeeded("the call succeeded".to_owned()),
        Err(error) => match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => refused(&error),
            _ if reaches => Outcome::Succeeded(format!("the kernel answered: {}", words(&error))),
            _ => refused(&error),
        },
    }
}

fn namespace(kind: &str) -> Option<i32> {
    Some(match kind {
        "user" => libc::CLONE_NEWUSER,
        "mount" => libc::CLONE_NEWNS,
        "network" => libc::CLONE_NEWNET,
        _ => return None,
    })
}

fn mode(bits: u32) -> Seen {
    let path = own_name(Path::new("/tmp"))?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    let set = file.set_permissions(fs::Permissions::from_mode(bits));
    let found = file.metadata().map(|metadata| metadata.mode());
    fs::remove_file(&path)?;
    set?;
    let kept = found? & 0o7777;
    Ok((kept == bits).then(|| format!("the file has the mode {kept:o}")))
}

fn own_status(names: &[String]) -> Seen {
    let status = status(&fs::read_to_string("/proc/self/status")?);
    let wrong = names.iter().find_map(|name| {
        let value = status.get(name).map(String::as_str).unwrap_or_default();
        let wrong = match name.as_str() {
            "NoNewPrivs" => value != "1",
            _ => value.bytes().any(|digit| digit != b'0'),
        };
        wrong.then(|| format!("{name} is {value}"))
    });
    Ok(wrong)
}

fn processes() -> Seen {
    let own = getuid().as_raw().to_string();
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        if !name.as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        // Its directory is root's where its memory is nobody's to read, so that only this tells.
        let Ok(text) = fs::read_to_string(entry.path().join("status")) else { continue };
        let status = status(&text);
        let uid = status.get("Uid").and_then(|uids| uids.split_whitespace().next());
        if let Some(uid) = uid.filter(|uid| *uid != own) {
            let name = status.get("Name").map(String::as_str).unwrap_or_default();
            return Ok(Some(format!("{} of user {uid} is visible", printable(name))));
        }
    }
    Ok(None)
}

/// The devices that systemd gives to a unit with private ones, and what they are linked from.
const DEVICES: &[&str] = &["full", "null", "random", "tty", "urandom", "zero", "ptmx"];

fn foreign_device(directory: &Path, listed: &[String], depth: u32) -> Option<String> {
    let entries = fs::read_dir(directory).ok()?;
    entries.flatten().find_map(|entry| {
        let path = entry.path();
        let kind = entry.file_type().ok()?;
        if kind.is_dir() && depth < 3 {
            let own = path.ends_with("dev/pts");
            return if own { None } else { foreign_device(&path, listed, depth + 1) };
        }
        let name = entry.file_name();
        let usual = depth == 0 && DEVICES.iter().any(|device| name == *device);
        let declared = listed.iter().any(|device| path.starts_with(device));
        let foreign = (kind.is_char_device() || kind.is_block_device()) && !usual && !declared;
        foreign.then(|| format!("{} is there", printable(&path.to_string_lossy())))
    })
}

fn core_limit() -> Option<String> {
    let limit = getrlimit(Resource::Core);
    let zero = limit.maximum == Some(0);
    (!zero).then(|| "the limit of core dumps is not zero".to_owned())
}

fn mask(bits: u32) -> Option<String> {
    let found = umask(Mode::empty()).bits();
    (found & bits != bits).then(|| format!("the mask is {found:04o}"))
}
