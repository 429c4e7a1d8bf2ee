//! The system calls that no library has in a safe form: what attempts are made of, and what it takes
//! to be confined as another process is.
//!
//! Every function is safe to call: what is passed by its address lives as long as the call, and what
//! the kernel writes to is as large as it is told.

#![expect(unsafe_code, reason = "raw calls are the point; each one says why it is sound")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::ptr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use instances_core::audit::catalogue::Word;
use libc::{c_int, c_long, c_void, pid_t};
use serde::{Deserialize, Serialize};

/// The result of a call, or why it failed.
pub(super) type Answer = io::Result<c_long>;

fn answer(result: c_long) -> Answer {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The number of a call that the catalogue names.
fn number(name: &str) -> Option<c_long> {
    Some(match name {
        "adjtimex" => libc::SYS_adjtimex,
        "bpf" => libc::SYS_bpf,
        "chroot" => libc::SYS_chroot,
        "clock_settime" => libc::SYS_clock_settime,
        "fchown" => libc::SYS_fchown,
        "finit_module" => libc::SYS_finit_module,
        "fsopen" => libc::SYS_fsopen,
        "io_uring_setup" => libc::SYS_io_uring_setup,
        "kexec_load" => libc::SYS_kexec_load,
        "keyctl" => libc::SYS_keyctl,
        "mknodat" => libc::SYS_mknodat,
        "mount" => libc::SYS_mount,
        "open_by_handle_at" => libc::SYS_open_by_handle_at,
        "perf_event_open" => libc::SYS_perf_event_open,
        "personality" => libc::SYS_personality,
        "pivot_root" => libc::SYS_pivot_root,
        "ptrace" => libc::SYS_ptrace,
        "reboot" => libc::SYS_reboot,
        "sched_setscheduler" => libc::SYS_sched_setscheduler,
        "set_mempolicy" => libc::SYS_set_mempolicy,
        "sethostname" => libc::SYS_sethostname,
        "setresuid" => libc::SYS_setresuid,
        "swapon" => libc::SYS_swapon,
        "syslog" => libc::SYS_syslog,
        "userfaultfd" => libc::SYS_userfaultfd,
        _ => return None,
    })
}

/// Makes the call of an attempt; `None` for a name that the catalogue does not have.
///
/// The catalogue is a part of this program, and none of its calls has the kernel write to memory:
/// where a call takes an address to write to, it is given none.
pub(super) fn by_words(words: &[Word]) -> Option<Answer> {
    let [Word::Text(name), rest @ ..] = words else { return None };
    let number = number(name)?;
    let texts: Vec<CString> = rest
        .iter()
        .map(|word| match word {
            Word::Text(text) => CString::new(text.as_str()).unwrap_or_default(),
            Word::Number(_) => CString::default(),
        })
        .collect();
    let mut arguments = [0; 6];
    for ((slot, word), text) in arguments.iter_mut().zip(rest).zip(&texts) {
        *slot = match word {
            Word::Number(number) => *number,
            Word::Text(_) => text.as_ptr() as c_long,
        };
    }
    let [first, second, third, fourth, fifth, sixth] = arguments;
    // SAFETY: the only addresses are those of `texts`, which the kernel reads and which outlive the call.
    Some(answer(unsafe { libc::syscall(number, first, second, third, fourth, fifth, sixth) }))
}

/// Makes a socket and closes it.
pub(super) fn socket(family: c_int, kind: c_int, protocol: c_int) -> Answer {
    // SAFETY: no memory is involved.
    let socket = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    let opened = answer(socket.into())?;
    // SAFETY: it was just opened, and nobody else knows it.
    unsafe { libc::close(socket) };
    Ok(opened)
}

/// Makes namespaces for this process.
pub(super) fn unshare(flags: c_int) -> Answer {
    // SAFETY: no memory is involved; CLONE_FILES and CLONE_VM are never among the flags.
    answer(unsafe { libc::unshare(flags) }.into())
}

/// Enters the namespace that a descriptor stands for.
pub(super) fn enter(namespace: BorrowedFd<'_>) -> Answer {
    // SAFETY: no memory is involved, and the descriptor is open.
    answer(unsafe { libc::setns(namespace.as_raw_fd(), 0) }.into())
}

/// The network namespace of a socket.
pub(in crate::audit) fn network_of(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    /// `SIOCGSKNS`, of `<linux/sockios.h>`.
    const NAMESPACE: libc::Ioctl = 0x894c;
    // SAFETY: the request has no argument, and both descriptors are what they seem.
    let namespace = unsafe { libc::ioctl(socket.as_raw_fd(), NAMESPACE) };
    answer(namespace.into())?;
    // SAFETY: the kernel has just made it, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(namespace) })
}

/// A session keyring of its own.
pub(super) fn own_keyring() {
    const JOIN_SESSION_KEYRING: c_long = 1;
    // SAFETY: an anonymous keyring has no name, so that no memory is involved. A kernel without
    // keyrings refuses, and there is none to be separate from.
    unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, 0, 0, 0, 0) };
}

/// Which half of a fork this is.
pub(super) enum Half {
    /// The new process.
    Child,
    /// The old one, with the number of the new one.
    Parent(pid_t),
}

/// Splits this process, which must have one thread alone.
pub(super) fn fork() -> io::Result<Half> {
    // SAFETY: with one thread no lock can be held by another one, so that the child may do anything.
    match unsafe { libc::fork() } {
        0 => Ok(Half::Child),
        pid => answer(pid.into()).map(|_| Half::Parent(pid)),
    }
}

/// Ends a child without what this process would do at its end.
pub(super) fn end() -> ! {
    // SAFETY: it never returns.
    unsafe { libc::_exit(0) }
}

/// How a child ended: its signal, if it was one.
pub(super) fn wait(pid: pid_t) -> io::Result<Option<c_int>> {
    let mut status = 0;
    // SAFETY: the kernel writes one number to `status`.
    answer(unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) }.into())?;
    Ok(libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)))
}

/// A limit: what is enforced, and how far it may be raised; `u64::MAX` where there is none.
pub(super) type Limit = (u64, u64);

/// Reads `/proc/PID/limits`, which has the kernel's order.
pub(super) fn limits(text: &str) -> Vec<Limit> {
    let number = |word: &str| match word {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    };
    let limit = |line: &str| {
        // The name has blanks of its own.
        let mut words = line.get(26..)?.split_whitespace();
        Some((number(words.next()?)?, number(words.next()?)?))
    };
    text.lines().skip(1).filter_map(limit).collect()
}

/// Takes these limits, in the kernel's order, as far as this process may raise its own.
pub(super) fn take_limits(limits: &[Limit]) -> io::Result<()> {
    for (resource, (soft, hard)) in (0..).zip(limits.iter().copied()) {
        let set = |rlim_cur, rlim_max| {
            let limit = libc::rlimit64 { rlim_cur, rlim_max };
            // SAFETY: the kernel reads one limit.
            answer(
                unsafe { libc::prlimit64(0, resource, &raw const limit, ptr::null_mut()) }.into(),
            )
        };
        if set(soft, hard).is_ok() {
            continue;
        }
        let mut own = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the kernel writes one limit to `own`.
        answer(unsafe { libc::prlimit64(0, resource, ptr::null(), &raw mut own) }.into())?;
        set(soft.min(own.rlim_max), hard.min(own.rlim_max))?;
    }
    Ok(())
}

/// An instruction of a filter of system calls.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Instruction(u16, u8, u8, u32);

/// A filter of system calls.
pub(super) type Filter = Vec<Instruction>;

/// The filters of another process, the newest first. It stands still meanwhile.
pub(super) fn filters(of: pid_t) -> io::Result<Vec<Filter>> {
    let none = ptr::null_mut::<c_void>();
    // SAFETY: no memory of ours is involved.
    answer(unsafe { libc::ptrace(libc::PTRACE_SEIZE, of, none, none) })?;
    let found = stopped(of).and_then(|()| listed(of));
    // SAFETY: as above. It fails only where the process is gone.
    unsafe { libc::ptrace(libc::PTRACE_DETACH, of, none, none) };
    found
}

/// Has it stand still. Signals that come meanwhile go on to it.
fn stopped(of: pid_t) -> io::Result<()> {
    let none = ptr::null_mut::<c_void>();
    // SAFETY: no memory of ours is involved.
    answer(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, of, none, none) })?;
    let end = Instant::now() + Duration::from_secs(2);
    loop {
        let mut status = 0;
        let options = libc::__WALL | libc::WNOHANG;
        // SAFETY: the kernel writes one number to `status`.
        let changed = answer(unsafe { libc::waitpid(of, &raw mut status, options) }.into())?;
        if changed == 0 {
            if Instant::now() >= end {
                return Err(io::Error::from(io::ErrorKind::TimedOut));
            }
            sleep(Duration::from_micros(100));
        } else if !libc::WIFSTOPPED(status) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        } else if status >> 16 == libc::PTRACE_EVENT_STOP {
            return Ok(());
        } else {
            let signal = usize::try_from(libc::WSTOPSIG(status)).unwrap_or_default();
            let signal = ptr::without_provenance_mut::<c_void>(signal);
            // SAFETY: as above.
            answer(unsafe { libc::ptrace(libc::PTRACE_CONT, of, none, signal) })?;
        }
    }
}

fn listed(of: pid_t) -> io::Result<Vec<Filter>> {
    /// Not in every version of the library.
    const GET_FILTER: libc::c_uint = 0x420c;
    let mut all = Vec::new();
    loop {
        let index = ptr::without_provenance_mut::<c_void>(all.len());
        // SAFETY: without an address the kernel only counts.
        let count =
            answer(unsafe { libc::ptrace(GET_FILTER, of, index, ptr::null_mut::<c_void>()) });
        let count = match count {
            Ok(count) => usize::try_from(count).unwrap_or_default(),
            // There are no more, or none at all.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => {
                return Ok(all);
            }
            Err(error) => return Err(error),
        };
        let empty = libc::sock_filter { code: 0, jt: 0, jf: 0, k: 0 };
        let mut filter = vec![empty; count];
        // SAFETY: the process stands still, so that the filter still has `count` instructions.
        answer(unsafe { libc::ptrace(GET_FILTER, of, index, filter.as_mut_ptr()) })?;
        all.push(filter.iter().map(|one| Instruction(one.code, one.jt, one.jf, one.k)).collect());
    }
}

/// Puts a filter of system calls on this process, for good.
pub(super) fn put_on(filter: &[Instruction]) -> io::Result<()> {
    let mut filter: Vec<libc::sock_filter> = filter
        .iter()
        .map(|Instruction(code, jt, jf, k)| libc::sock_filter {
            code: *code,
            jt: *jt,
            jf: *jf,
            k: *k,
        })
        .collect();
    let len = u16::try_from(filter.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
    let (set, mode) = (libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER);
    // SAFETY: the kernel copies `len` instructions, which is as many as there are.
    answer(unsafe { libc::prctl(set, mode, &raw const program, 0, 0) }.into()).map(drop)
}

/// Whether a call that is made as 32-bit programs make it arrives.
#[cfg(target_arch = "x86_64")]
pub(super) fn calls_as_32_bit() -> bool {
    const GETPID: c_long = 20;
    let answer: c_long;
    // SAFETY: getpid touches no memory; the registers that the entry may change are named.
    unsafe {
        std::arch::asm!(
            "int 0x80",
            inlateout("rax") GETPID => answer,
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
        );
    }
    answer == c_long::from(std::process::id())
}

/// Other machines have no such entry that could be tried without a program for it.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn calls_as_32_bit() -> bool {
    false
}
