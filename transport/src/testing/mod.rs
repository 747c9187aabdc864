//! Doubles for tests: mocks, a transport that fails on purpose, one that records, and the suite that every transport passes.

mod mock;

pub use mock::{MockHandler, MockTransport};
