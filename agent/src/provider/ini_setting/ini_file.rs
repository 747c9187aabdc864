//! A file of sections and settings: what is not changed stays as it is, byte for byte.

use regex::bytes::{Captures, Regex};

/// How a file is written.
#[derive(Debug, Clone)]
pub(super) struct Format {
    separator: Vec<u8>,
    section_prefix: String,
    section_suffix: String,
    indent_char: String,
    indent_width: Option<usize>,
    section: Regex,
    setting: Regex,
    commented: Regex,
}

/// The parameters that say how a file is written.
#[derive(Debug, Clone)]
pub(super) struct FormatOptions {
    pub(super) separator: String,
    pub(super) section_prefix: String,
    pub(super) section_suffix: String,
    pub(super) indent_char: String,
    pub(super) indent_width: Option<usize>,
}

impl Format {
    /// Makes a format; the separator is taken literally, with any blanks around it.
    pub(super) fn new(options: FormatOptions) -> Result<Self, regex::Error> {
        let stripped = options.separator.trim();
        let separator = if stripped.is_empty() { " " } else { stripped };
        let literal = regex::escape(separator);
        let class: String = separator.chars().map(|c| regex::escape(&c.to_string())).collect();
        let (prefix, suffix) = (regex::escape(&options.section_prefix), regex::escape(&options.section_suffix));
        Ok(Self {
            section: Regex::new(&format!(r"(?-u)^\s*(?u:{prefix})(.*)(?u:{suffix})\s*$"))?,
            setting: Regex::new(&format!(r"(?-u)^(\s*)([^#;\s]|[^#;\s].*?[^\s{class}])(\s*(?u:{literal})[ \t]*)(.*)\s*$"))?,
            commented: Regex::new(&format!(r"(?-u)^(\s*)[#;]+(\s*)(.*?[^\s{class}])(\s*(?u:{literal})[ \t]*)(.*)\s*$"))?,
            separator: options.separator.into_bytes(),
            section_prefix: options.section_prefix,
            section_suffix: options.section_suffix,
            indent_char: options.indent_char,
            indent_width: options.indent_width,
        })
    }

    fn setting_of<'a>(&self, line: &'a [u8]) -> Option<Captures<'a>> {
        self.setting.captures(without_end(line))
    }

    /// Returns a new setting as a line.
    fn line(&self, indentation: usize, setting: &[u8], value: &str) -> Vec<u8> {
        let indent = self.indent_char.repeat(self.indent_width.unwrap_or(indentation));
        [indent.as_bytes(), setting, &self.separator, value.as_bytes(), b"\n"].concat()
    }
}

fn without_end(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\n").unwrap_or(line)
}

fn group<'a>(captures: &Captures<'a>, number: usize) -> &'a [u8] {
    captures.get(number).map(|found| found.as_bytes()).unwrap_or_default()
}

/// Where a section is: lines from `first` up to, not including, `end`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    name: Vec<u8>,
    first: usize,
    end: usize,
}

/// A file as lines, each with its end.
#[derive(Debug)]
pub(super) struct IniFile<'a> {
    format: &'a Format,
    lines: Vec<Vec<u8>>,
}

impl<'a> IniFile<'a> {
    pub(super) fn parse(format: &'a Format, text: &[u8]) -> Self {
        Self { format, lines: text.split_inclusive(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect() }
    }

    pub(super) fn print(&self) -> Vec<u8> {
        self.lines.concat()
    }

    /// Returns the sections in order; the first, without a name, is what comes before any header.
    fn sections(&self) -> Vec<Section> {
        let mut sections = vec![Section { name: Vec::new(), first: 0, end: 0 }];
        for (at, line) in self.lines.iter().enumerate() {
            if let Some(header) = self.format.section.captures(without_end(line)) {
                sections.push(Section { name: group(&header, 1).to_vec(), first: at, end: at });
            }
            if let Some(last) = sections.last_mut() {
                last.end = at + 1;
            }
        }
        sections
    }

    /// Returns the section of a name; of several the last, as Puppet does.
    fn section(&self, name: &str) -> Option<Section> {
        self.sections().into_iter().rev().find(|section| section.name == name.as_bytes())
    }

    pub(super) fn has_section(&self, name: &str) -> bool {
        self.section(name).is_some()
    }

    /// Returns the values of a setting, in order; `None` when it is not there.
    pub(super) fn values(&self, section: &str, setting: &str) -> Option<Vec<Vec<u8>>> {
        let section = self.section(section)?;
        let values: Vec<Vec<u8>> = self.places(&section, setting).map(|(_, found)| group(&found, 4).to_vec()).collect();
        Some(values).filter(|values| !values.is_empty())
    }

    fn places(&self, section: &Section, setting: &str) -> impl DoubleEndedIterator<Item = (usize, Captures<'_>)> {
        let lines = self.lines[section.first..section.end].iter().enumerate();
        let (first, name) = (section.first, setting.as_bytes().to_vec());
        lines.filter_map(move |(at, line)| {
            let found = self.format.setting_of(line)?;
            (group(&found, 2) == name).then_some((first + at, found))
        })
    }

    /// Returns the least indentation of the settings in a section.
    fn indentation(&self, section: &Section) -> usize {
        let lines = self.lines[section.first..section.end].iter();
        lines.filter_map(|line| self.format.setting_of(line)).map(|found| group(&found, 1).len()).min().unwrap_or_default()
    }

    /// Makes a section, if there is none.
    pub(super) fn ensure_section(&mut self, name: &str) -> Section {
        if let Some(section) = self.section(name) {
            return section;
        }
        self.end_last_line();
        if !self.lines.is_empty() {
            self.lines.push(b"\n".to_vec());
        }
        let first = self.lines.len();
        self.lines.push(format!("{}{name}{}\n", self.format.section_prefix, self.format.section_suffix).into_bytes());
        Section { name: name.as_bytes().to_vec(), first, end: first + 1 }
    }

    fn end_last_line(&mut self) {
        if let Some(last) = self.lines.last_mut().filter(|last| !last.ends_with(b"\n")) {
            last.push(b'\n');
        }
    }

    /// Gives a setting these values: where it is, else below a comment that has it, else at the end of the section.
    pub(super) fn set(&mut self, section: &str, setting: &str, values: &[String]) {
        let is_new = !self.has_section(section);
        let section = self.ensure_section(section);
        self.end_last_line();
        let places: Vec<usize> = self.places(&section, setting).map(|(at, _)| at).collect();
        if let Some(last) = places.last().copied() {
            let new = self.rewritten(last, values);
            self.lines.splice(last..=last, new);
            places.iter().rev().skip(1).for_each(|&at| drop(self.lines.remove(at)));
            return;
        }
        let indentation = self.indentation(&section);
        let new: Vec<Vec<u8>> = values.iter().map(|value| self.format.line(indentation, setting.as_bytes(), value)).collect();
        let (at, blank) = match self.commented(&section, setting) {
            Some(at) if !is_new => (at + 1, None),
            _ => self.end_of(&section),
        };
        self.lines.splice(at..at, new.into_iter().chain(blank));
    }

    /// Returns where a new setting goes: before blank lines at the end. What comes before the first header gets one of its own.
    fn end_of(&self, section: &Section) -> (usize, Option<Vec<u8>>) {
        let is_blank = |line: &Vec<u8>| line.iter().all(u8::is_ascii_whitespace);
        let blanks = self.lines[section.first..section.end].iter().rev().take_while(|line| is_blank(line)).count();
        let is_empty = section.first == section.end;
        let blank = (is_empty && section.end < self.lines.len()).then(|| b"\n".to_vec());
        (section.end - blanks, blank)
    }

    /// Returns the line at `at` once for each value.
    fn rewritten(&self, at: usize, values: &[String]) -> Vec<Vec<u8>> {
        let Some(found) = self.format.setting_of(&self.lines[at]) else { return Vec::new() };
        let before = [group(&found, 1), group(&found, 2), group(&found, 3)].concat();
        values.iter().map(|value| [&before, value.as_bytes(), b"\n"].concat()).collect()
    }

    fn commented(&self, section: &Section, setting: &str) -> Option<usize> {
        let is_it = |line: &Vec<u8>| {
            let found = self.format.commented.captures(without_end(line));
            found.is_some_and(|found| group(&found, 3) == setting.as_bytes())
        };
        self.lines[section.first..section.end].iter().position(is_it).map(|at| section.first + at)
    }

    /// Removes a setting.
    pub(super) fn remove(&mut self, section: &str, setting: &str) {
        let Some(section) = self.section(section) else { return };
        let places: Vec<usize> = self.places(&section, setting).map(|(at, _)| at).collect();
        places.iter().rev().for_each(|&at| drop(self.lines.remove(at)));
    }
}
