//! A server that follows another: it confirms with its primary which code is live before it answers a node.
//!
//! One confirmation serves all who arrived before it was sent, so that the cost at the primary does not grow with the load here. A
//! replica that cannot ask its primary refuses, and says when to ask again: it never answers from code that may have been replaced.

mod allowed;
mod answer;
mod bring;
mod confirm;
mod fetch;
mod follow;
mod followers;
mod mend;
mod remembered;
mod room;

pub(crate) use allowed::Share;
pub use allowed::{AllowedReplica, NoReplica};
pub(crate) use confirm::{Following, Upstream};
pub(crate) use fetch::fetch;
pub(crate) use followers::Followers;
pub use followers::{Follower, ToldNodes};
pub(crate) use mend::Mending;
pub(crate) use room::Leftovers;
