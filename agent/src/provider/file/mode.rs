//! Modes as Puppet writes them: octal, or symbolic as `chmod` takes them.

use std::fmt;

/// The mode to which symbolic changes of a file that is yet to be created are applied (Puppet's `DEFAULT_POSIX_MODE`).
pub(super) const NEW_FILE_MODE: u32 = 0o644;
/// The same for a directory.
pub(super) const NEW_DIRECTORY_MODE: u32 = 0o755;

/// A wanted mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mode {
    /// All permissions, as a number within `0o7777`.
    Octal(u32),
    /// Changes to what is there.
    Symbolic(Symbolic),
}

/// Parsed symbolic changes with the text that they came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Symbolic {
    text: String,
    clauses: Vec<Clause>,
}

/// One clause, as `ug+rw-x`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Clause {
    classes: Vec<Class>,
    steps: Vec<(Operator, Vec<Permission>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    User,
    Group,
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Add,
    Remove,
    Assign,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Permission {
    /// Bits of `rwx`, within `0o7`.
    Bits(u32),
    /// `X`: execute for directories and for what somebody could execute before.
    ExecuteIfSensible,
    /// What a class has before this clause.
    CopyOf(Class),
    /// `s`.
    SetId,
    /// `t`.
    Sticky,
}

impl Class {
    const fn shift(self) -> u32 {
        match self {
            Self::User => 6,
            Self::Group => 3,
            Self::Other => 0,
        }
    }

    /// The bit that `s` means for this class; none for others.
    const fn set_id_bit(self) -> u32 {
        match self {
            Self::User => 0o4000,
            Self::Group => 0o2000,
            Self::Other => 0,
        }
    }

    const fn from_letter(letter: char) -> Option<Self> {
        match letter {
            'u' => Some(Self::User),
            'g' => Some(Self::Group),
            'o' => Some(Self::Other),
            _ => None,
        }
    }
}

impl Mode {
    /// Parses a mode; the error says what it may be.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let octal = !text.is_empty() && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
        if octal {
            // Puppet takes one to four digits after an optional zero.
            let digits = if text.len() == 5 { text.strip_prefix('0') } else { Some(text) };
            let value = digits.filter(|digits| digits.len() <= 4).and_then(|digits| u32::from_str_radix(digits, 8).ok());
            return value.map(Self::Octal).ok_or_else(|| format!("{text:?} has too many digits: write at most 4 octal digits"));
        }
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("{text:?} is not octal: write digits from 0 to 7"));
        }
        let clauses = text.split(',').map(|part| Clause::parse(part.trim())).collect::<Result<Vec<_>, _>>();
        match clauses {
            Ok(clauses) => Ok(Self::Symbolic(Symbolic { text: text.to_owned(), clauses })),
            Err(reason) => Err(format!("{text:?} is not a mode: {reason}; write octal digits as \"0644\", or \"u=rw,go=r\"")),
        }
    }

    /// Returns the permissions wanted of an object that has `current` ones. Directories can be searched by whoever may read
    /// them, when the mode is a number, as in Puppet.
    pub(super) fn resolve(&self, current: u32, is_directory: bool) -> u32 {
        match self {
            Self::Octal(value) if is_directory => value | (value & 0o444) >> 2,
            Self::Octal(value) => *value,
            Self::Symbolic(symbolic) => {
                symbolic.clauses.iter().fold(current & 0o7777, |mode, clause| clause.apply(mode, current, is_directory))
            }
        }
    }

    /// Returns the permissions of an object that is yet to be created.
    pub(super) fn resolve_new(&self, is_directory: bool) -> u32 {
        self.resolve(if is_directory { NEW_DIRECTORY_MODE } else { NEW_FILE_MODE }, is_directory)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Octal(value) => write!(f, "{value:04o}"),
            Self::Symbolic(symbolic) => f.write_str(&symbolic.text),
        }
    }
}

impl Clause {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let start = text.find(['+', '-', '=']).ok_or("an operator (+, - or =) is missing")?;
        let (who, what) = text.split_at(start);
        let mut classes = Vec::new();
        for letter in if who.is_empty() { "a" } else { who }.chars() {
            let found = match letter {
                'a' => vec![Class::User, Class::Group, Class::Other],
                _ => vec![Class::from_letter(letter).ok_or("who it is for must be of the letters u, g, o and a")?],
            };
            for class in found {
                if !classes.contains(&class) {
                    classes.push(class);
                }
            }
        }
        let mut steps: Vec<(Operator, Vec<Permission>)> = Vec::new();
        for letter in what.chars() {
            let operator = match letter {
                '+' => Some(Operator::Add),
                '-' => Some(Operator::Remove),
                '=' => Some(Operator::Assign),
                _ => None,
            };
            if let Some(operator) = operator {
                steps.push((operator, Vec::new()));
            } else if let Some((operator, permissions)) = steps.last_mut() {
                permissions.push(Permission::parse(letter, *operator)?);
            }
        }
        Ok(Self { classes, steps })
    }

    fn apply(&self, mode: u32, original: u32, is_directory: bool) -> u32 {
        self.classes.iter().fold(mode, |result, &class| {
            self.steps.iter().fold(result, |result, (operator, permissions)| {
                let shift = class.shift();
                let own = class.set_id_bit();
                let cleared = match operator {
                    // A set-id bit is only cleared where one is named: chmod keeps those of directories, Puppet all.
                    Operator::Assign => result & !(0o7 << shift),
                    _ => result,
                };
                permissions.iter().fold(cleared, |result, permission| {
                    let bits = match permission {
                        Permission::Bits(bits) => bits << shift,
                        Permission::ExecuteIfSensible if is_directory || original & 0o111 != 0 => 0o1 << shift,
                        Permission::ExecuteIfSensible => 0,
                        Permission::CopyOf(from) => ((mode >> from.shift()) & 0o7) << shift,
                        Permission::SetId => own,
                        Permission::Sticky => 0o1000,
                    };
                    if *operator == Operator::Remove { result & !bits } else { result | bits }
                })
            })
        })
    }
}

impl Permission {
    fn parse(letter: char, operator: Operator) -> Result<Self, &'static str> {
        match letter {
            'r' => Ok(Self::Bits(0o4)),
            'w' => Ok(Self::Bits(0o2)),
            'x' => Ok(Self::Bits(0o1)),
            // As chmod takes it; Puppet itself knows it only after a plus.
            'X' if operator != Operator::Remove => Ok(Self::ExecuteIfSensible),
            'X' => Err("X goes with + or = only"),
            's' => Ok(Self::SetId),
            't' => Ok(Self::Sticky),
            _ => Class::from_letter(letter)
                .map(Self::CopyOf)
                .ok_or("permissions must be of the letters r, w, x, X, s, t, u, g and o"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(text: &str) -> Mode {
        Mode::parse(text).unwrap()
    }

    #[test]
    fn octal() {
        for (text, file, directory) in [
            ("0644", 0o644, 0o755),
            ("644", 0o644, 0o755),
            ("0600", 0o600, 0o700),
            ("4755", 0o4755, 0o4755),
            ("0", 0, 0),
            ("02750", 0o2750, 0o2750),
        ] {
            assert_eq!((mode(text).resolve(0o777, false), mode(text).resolve(0o777, true)), (file, directory), "{text}");
        }
        assert_eq!(mode("644").to_string(), "0644");
    }

    #[test]
    fn symbolic() {
        for (text, current, is_directory, wanted) in [
            ("u=rw,go=r", 0o777, false, 0o644),
            ("u=rw,go=r", 0o777, true, 0o644),
            ("a+x", 0o644, false, 0o755),
            ("+x", 0o644, false, 0o755),
            ("u=rwX,g=u", 0o600, false, 0o660),
            ("u=rwX,g=u", 0o600, true, 0o770),
            ("u+X", 0o601, false, 0o701),
            ("u+s,g+s", 0o755, false, 0o6755),
            ("u-s", 0o4755, false, 0o755),
            ("+t", 0o777, true, 0o1777),
            ("o-t", 0o1777, true, 0o777),
            ("go-rwx", 0o777, false, 0o700),
            ("ug+w-x", 0o755, false, 0o665),
            ("g=", 0o775, false, 0o705),
            ("u=g,g=u", 0o740, false, 0o440),
            // Both see the mode before the clause.
            ("ug=o", 0o751, false, 0o111),
        ] {
            assert_eq!(mode(text).resolve(current, is_directory), wanted, "{text} on {current:o}");
        }
        assert_eq!(mode("g+w").resolve_new(false), 0o664);
        assert_eq!(mode("g+w").resolve_new(true), 0o775);
        assert_eq!(mode("u=rw, go=r").to_string(), "u=rw, go=r");
    }

    #[test]
    fn refused() {
        for text in ["", "9", "0888", "77777", "rw", "u", "u=q", "z=r", "u=r,", "u-X", "0x1f", "-"] {
            // A lone operator is a change of nothing, as in chmod.
            assert_eq!(Mode::parse(text).is_err(), text != "-", "{text}");
        }
    }
}
