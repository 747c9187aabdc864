//! Parts of this program that run as processes of their own: what measures, clients, and the delay line.

pub(crate) mod check_ins;
pub(crate) mod decide;
pub(crate) mod delay_line;
pub(crate) mod fetch;
pub(crate) mod once;
