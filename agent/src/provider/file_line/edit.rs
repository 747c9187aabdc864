//! What the parameters mean for the lines of a file, as stdlib has it.

use std::borrow::Cow;

use super::parameters::{Encoding, Parameters, Pattern};
use crate::provider::record::Ensure;

/// A file as lines, each with its end.
#[derive(Debug)]
pub(super) struct Text<'a> {
    lines: Vec<&'a [u8]>,
}

/// Returns a line without its end: a line feed, a carriage return, or both.
fn chomp(line: &[u8]) -> &[u8] {
    match line {
        [rest @ .., b'\r', b'\n'] | [rest @ .., b'\n' | b'\r'] => rest,
        line => line,
    }
}

/// Adds a line; its end too, unless it has one.
fn put(text: &mut Vec<u8>, line: &[u8]) {
    text.extend_from_slice(line);
    if !line.ends_with(b"\n") {
        text.push(b'\n');
    }
}

impl<'a> Text<'a> {
    pub(super) fn read(text: &'a [u8]) -> Self {
        Self { lines: text.split_inclusive(|&byte| byte == b'\n').collect() }
    }

    fn is_line(parameters: &Parameters, line: &[u8]) -> bool {
        parameters.line.as_deref().is_some_and(|wanted| chomp(line) == wanted.as_bytes())
    }

    fn is_match(parameters: &Parameters, pattern: &Pattern, line: &[u8]) -> Result<bool, String> {
        let text = match parameters.encoding {
            Encoding::Utf8 => Cow::Borrowed(std::str::from_utf8(line).map_err(|_| {
                "a line of the file is not valid UTF-8: say how it is written with the parameter encoding".to_owned()
            })?),
            Encoding::SingleByte => Cow::Owned(line.iter().map(|&byte| char::from(byte)).collect()),
        };
        let matched = pattern.regex.is_match(&*text);
        matched.map_err(|error| format!("a line could not be compared with {}: {error}", pattern.text))
    }

    /// Returns for each line whether it counts as a match.
    fn matches(&self, parameters: &Parameters, pattern: &Pattern) -> Result<Vec<bool>, String> {
        let counts = |line: &&[u8]| {
            let is_passed_over = parameters.replace_all && Self::is_line(parameters, line);
            Ok(!is_passed_over && Self::is_match(parameters, pattern, line)?)
        };
        self.lines.iter().map(counts).collect()
    }

    fn count(&self, parameters: &Parameters, pattern: Option<&Pattern>) -> Result<usize, String> {
        let Some(pattern) = pattern else { return Ok(0) };
        Ok(self.matches(parameters, pattern)?.into_iter().filter(|is_match| *is_match).count())
    }

    /// Returns whether the line counts as being there.
    pub(super) fn exists(&self, parameters: &Parameters) -> Result<bool, String> {
        let has_line = self.lines.iter().any(|line| Self::is_line(parameters, line));
        let Some(pattern) = &parameters.pattern else { return Ok(has_line) };
        let has_match = self.count(parameters, Some(pattern))? > 0;
        Ok(match (parameters.ensure, has_match, has_line) {
            (Ensure::Present, false, has_line) => has_line || !parameters.append_on_no_match,
            (Ensure::Present, true, _) if parameters.replace_all => false,
            (Ensure::Present, true, has_line) => has_line || !parameters.replace,
            (Ensure::Absent, true, false) => parameters.match_for_absence,
            (Ensure::Absent, has_match, has_line) => has_match || has_line,
        })
    }

    /// Returns the text with the line.
    pub(super) fn create(&self, parameters: &Parameters) -> Result<Vec<u8>, String> {
        let line = parameters.line.as_deref().unwrap_or_default().as_bytes();
        if !parameters.replace && self.count(parameters, parameters.pattern.as_ref())? > 0 {
            return Ok(self.lines.concat());
        }
        match (&parameters.pattern, &parameters.after) {
            (Some(pattern), _) => self.create_with_match(parameters, pattern, line),
            (None, Some(after)) => self.create_after(parameters, after, line),
            (None, None) => {
                let mut text = Vec::new();
                self.lines.iter().for_each(|line| put(&mut text, line));
                put(&mut text, line);
                Ok(text)
            }
        }
    }

    fn create_with_match(&self, parameters: &Parameters, pattern: &Pattern, line: &[u8]) -> Result<Vec<u8>, String> {
        let mut count = self.count(parameters, Some(pattern))?;
        refuse_several(parameters, count, pattern)?;
        let mut text = Vec::new();
        for old in &self.lines {
            let is_match = Self::is_match(parameters, pattern, old)?;
            put(&mut text, if is_match { line } else { old });
            if let Some(after) = parameters.after.as_ref().filter(|_| count == 0)
                && Self::is_match(parameters, after, old)?
            {
                put(&mut text, line);
                count += 1;
            }
        }
        if count == 0 {
            put(&mut text, line);
        }
        Ok(text)
    }

    fn create_after(&self, parameters: &Parameters, after: &Pattern, line: &[u8]) -> Result<Vec<u8>, String> {
        let count = self.count(parameters, Some(after))?;
        if count > 1 && !parameters.multiple {
            return Err(format!(
                "{count} lines match pattern '{}' in file '{}': one or no line must match the pattern",
                after.text,
                parameters.path.absolute()
            ));
        }
        let mut text = Vec::new();
        for old in &self.lines {
            put(&mut text, old);
            if Self::is_match(parameters, after, old)? {
                put(&mut text, line);
            }
        }
        if count == 0 {
            put(&mut text, line);
        }
        Ok(text)
    }

    /// Returns the text without the line.
    pub(super) fn destroy(&self, parameters: &Parameters) -> Result<Vec<u8>, String> {
        let goes = match parameters.pattern.as_ref().filter(|_| parameters.match_for_absence) {
            Some(pattern) => {
                refuse_several(parameters, self.count(parameters, Some(pattern))?, pattern)?;
                self.lines.iter().map(|line| Self::is_match(parameters, pattern, line)).collect::<Result<Vec<_>, _>>()?
            }
            None => self.lines.iter().map(|line| Self::is_line(parameters, line)).collect(),
        };
        Ok(self.lines.iter().zip(goes).filter(|(_, goes)| !goes).flat_map(|(line, _)| line.iter().copied()).collect())
    }
}

fn refuse_several(parameters: &Parameters, count: usize, pattern: &Pattern) -> Result<(), String> {
    if count > 1 && !parameters.multiple {
        let (path, pattern) = (parameters.path.absolute(), &pattern.text);
        return Err(format!("More than one line in file '{path}' matches pattern '{pattern}': set multiple => true"));
    }
    Ok(())
}
