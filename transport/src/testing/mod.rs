//! Test doubles for both ends of a call, and the suite that every transport passes. Feature `testing`.

pub mod conformance;
mod faulty;
mod mock;
mod recording;
pub mod samples;

pub use faulty::{Fault, Faulty};
pub use mock::{MockHandler, MockTransport};
pub use recording::{Recorded, Recording};
