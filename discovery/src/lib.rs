//! Who else is there: the members of a fleet, as a value that is replaced when it changes.
//!
//! It knows static lists, DNS and Kubernetes. It knows nothing of what a member does.

mod member;
mod members;

pub use member::{AddressError, Member};
pub use members::{Feed, MEMBERS_MAX, Members};
