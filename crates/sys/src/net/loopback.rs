//! Sets the loopback device of the calling thread's namespace up, with one netlink message.
//!
//! A message of 32 bytes, so that the confined unit needs neither iproute2 nor `AF_INET`.

use std::io;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

use super::Error;

/// The kernel's `LOOPBACK_IFINDEX`: the same in every namespace.
const INDEX: i32 = 1;
const RTM_NEWLINK: u16 = 16;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const IFF_UP: u32 = 1;

/// Sets `lo` up; already up is success.
pub(super) fn up() -> Result<(), Error> {
    request().map_err(|source| Error::Namespace { action: "set loopback up", source })
}

fn request() -> io::Result<()> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // NETLINK_ROUTE is protocol 0.
        None,
    )?;
    send(&socket, &message(), SendFlags::empty())?;
    let mut buffer = [0; 4096];
    let (length, _) = recv(&socket, &mut buffer, RecvFlags::empty())?;
    acknowledged(buffer.get(..length).unwrap_or_default())
}

/// A `nlmsghdr` followed by an `ifinfomsg`.
fn message() -> Vec<u8> {
    let body: [[u8; 4]; 4] =
        [[0; 4], INDEX.to_ne_bytes(), IFF_UP.to_ne_bytes(), IFF_UP.to_ne_bytes()];
    let mut message = Vec::with_capacity(32);
    message.extend(32_u32.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body.as_flattened());
    message
}

/// Reads the kernel's answer: a `nlmsghdr` of type `NLMSG_ERROR`, then minus the error number.
fn acknowledged(answer: &[u8]) -> io::Result<()> {
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let code = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, code) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(code)) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "unexpected netlink answer")),
    }
}

#[cfg(test)]
mod tests {
    use super::{acknowledged, message};

    fn answer(kind: u16, code: i32) -> Vec<u8> {
        let mut bytes = vec![0; 20];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[16..20].copy_from_slice(&code.to_ne_bytes());
        bytes
    }

    #[test]
    fn the_message_is_as_long_as_it_says() {
        assert_eq!(message().len(), 32);
    }

    #[test]
    fn only_an_acknowledgement_is_success() {
        assert!(acknowledged(&answer(2, 0)).is_ok());
        assert_eq!(acknowledged(&answer(2, -1)).unwrap_err().raw_os_error(), Some(1));
        assert!(acknowledged(&answer(3, 0)).is_err());
        assert!(acknowledged(&[]).is_err());
        assert!(acknowledged(&answer(2, i32::MIN)).is_err());
    }
}
