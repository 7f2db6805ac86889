//! How verified weights are served to peers, and to other engines of this machine.
//!
//! An [`Offer`] is what is here; a [`Seeder`] lets peers have it, as `policy` allows and as fast as the [`governor`]
//! and the configuration let it; a [`hub`] gives it to engines that are not ours. It knows no model, no kernel and no
//! request for tokens.

mod body;
mod bucket;
mod config;
pub mod governor;
mod have;
mod hours;
pub mod hub;
mod meters;
mod offer;
mod queue;
mod refuse;
mod seeder;
mod served;
mod server;
mod upload;

pub use config::SeedingConfig;
pub use offer::{Offer, Sharing};
pub use seeder::{Seeder, SeedingError};
pub use wire::peers::Role;
