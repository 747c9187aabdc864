//! Resources as code of Puppet's.

use std::fmt::Write as _;

use direct_puppet_transport::protocol::{Resource, Value};

use crate::provider::quote;

/// Returns a resource as it is declared in a manifest, in the form that `puppet resource` gives it: `ensure` first, then by name, arrows below
/// each other. Secrets are not told.
#[must_use]
pub fn declaration(resource: &Resource) -> String {
    let mut parameters: Vec<(&String, &Value)> = resource.parameters.iter().collect();
    parameters.sort_by_key(|(name, _)| (name.as_str() != "ensure", *name));
    let width = parameters.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    let mut code = format!("{} {{ {}:\n", resource.resource_type.to_lowercase(), quoted(&resource.title));
    for (name, value) in parameters {
        // Writing to a string cannot fail.
        let _ = writeln!(code, "  {name:width$} => {},", literal(value));
    }
    code.push_str("}\n");
    code
}

/// Quotes text so that it is read back as it is. Messages leave backslashes as they are.
fn quoted(text: &str) -> String {
    if text.chars().any(|c| c < ' ') {
        return quote(text);
    }
    let mut quoted = String::from("'");
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\'' || (c == '\\' && matches!(chars.peek(), None | Some('\'' | '\\'))) {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('\'');
    quoted
}

fn literal(value: &Value) -> String {
    match value {
        Value::Undef => "undef".to_owned(),
        Value::Boolean(value) => value.to_string(),
        Value::Integer(value) => value.to_string(),
        Value::Float(value) => format!("{value:?}"),
        Value::String(text) => quoted(text),
        Value::Binary(_) | Value::Sensitive(_) => "'[redacted]'".to_owned(),
        Value::Array(values) => format!("[{}]", values.iter().map(literal).collect::<Vec<_>>().join(", ")),
        Value::Hash(values) => {
            let pairs = values.iter().map(|(name, value)| format!("{} => {}", quoted(name), literal(value)));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `puppet resource` (7.23) prints.
    #[test]
    fn as_puppet_prints_it() {
        let resource = Resource::new("Host", "a.example.com")
            .with("ip", "10.0.0.1")
            .with("ensure", "present")
            .with("comment", "it's a \"note\" $x \\ y")
            .with("host_aliases", vec![Value::from("a"), "b".into()])
            .with("uid", 0);
        assert_eq!(
            declaration(&resource),
            r#"host { 'a.example.com':
  ensure       => 'present',
  comment      => 'it\'s a "note" $x \ y',
  host_aliases => ['a', 'b'],
  ip           => '10.0.0.1',
  uid          => 0,
}
"#
        );
        let odd = Resource::new("My::Type", "it's")
            .with("b", true)
            .with("a", "x\ny$")
            .with("s", Value::Sensitive(Box::new("p".into())));
        assert_eq!(declaration(&odd), "my::type { 'it\\'s':\n  a => \"x\\ny\\$\",\n  b => true,\n  s => '[redacted]',\n}\n");
        assert_eq!(["a\\b", "a\\", "\\'", "\\\\"].map(quoted), ["'a\\b'", "'a\\\\'", "'\\\\\\''", "'\\\\\\\\'"]);
        assert_eq!(declaration(&Resource::new("User", "x")), "user { 'x':\n}\n");
    }
}
