//! Dates as Puppet writes them in its inventory and its answers.

use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// `2026-01-31T23:59:59UTC`: the form of `inventory.txt` and of `certificate_status`.
const FORM: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]UTC");

/// `Sat, 31 Jan 2026 23:59:59 GMT`: the form of HTTP headers (RFC 9110, 5.6.7).
const HTTP: &[BorrowedFormatItem<'_>] =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");

/// Returns a time as text.
pub(super) fn text(time: OffsetDateTime) -> String {
    time.to_offset(time::UtcOffset::UTC).format(&FORM).unwrap_or_else(|_| time.unix_timestamp().to_string())
}

/// Reads a time; `None` when it is none.
pub(super) fn parse(text: &str) -> Option<OffsetDateTime> {
    time::PrimitiveDateTime::parse(text, &FORM).ok().map(time::PrimitiveDateTime::assume_utc)
}

/// Returns a time as in a header.
pub(super) fn http(time: OffsetDateTime) -> String {
    time.to_offset(time::UtcOffset::UTC).format(&HTTP).unwrap_or_default()
}

/// Reads a time in a header; `None` for anything else.
pub(super) fn parse_http(text: &str) -> Option<OffsetDateTime> {
    time::PrimitiveDateTime::parse(text, &HTTP).ok().map(time::PrimitiveDateTime::assume_utc)
}
