//! Sets the loopback device of the calling thread's namespace up.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkFlags, LinkMessage};

use super::Error;
use super::route::Route;

/// The kernel's `LOOPBACK_IFINDEX`: the same in every namespace.
const INDEX: u32 = 1;

/// Sets `lo` up; already up is success.
pub(super) fn up() -> Result<(), Error> {
    let mut message = LinkMessage::default();
    message.header.index = INDEX;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    Route::open()
        .and_then(|route| route.change(RouteNetlinkMessage::SetLink(message), 0))
        .map_err(|source| Error::Namespace { action: "set loopback up", source })
}
