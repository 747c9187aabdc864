//! Functions that a `Deferred` may name: those of Puppet that need nothing but their arguments.

use std::collections::BTreeMap;

use direct_puppet_transport::protocol::{Catalog, ResourceRef, Value};

use super::value::text;

/// Keys of a kept `Deferred`: those of Puppet's rich data.
const PTYPE: &str = "__ptype";
const NAME: &str = "name";
const ARGUMENTS: &str = "arguments";

/// What is done with a `Deferred` that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deferreds {
    /// Its function is called.
    Evaluate,
    /// It stays a hash, for the node to call its function.
    Keep,
}

/// Returns a `Deferred` as it stands in a catalog of ours.
pub(super) fn kept(name: String, arguments: Vec<Value>) -> Value {
    let entries = [(PTYPE, "Deferred".into()), (NAME, name.into()), (ARGUMENTS, Value::Array(arguments))];
    Value::Hash(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

/// Calls the function of every `Deferred` in the catalog. Returns the resources of which one cannot be called, and why: they cannot be
/// managed.
pub(crate) fn evaluate(catalog: &mut Catalog) -> BTreeMap<ResourceRef, String> {
    let mut unusable = BTreeMap::new();
    for resource in &mut catalog.resources {
        let mut failed = None;
        for (name, value) in resource.parameters.iter_mut().filter(|(_, value)| has_deferred(value)) {
            match evaluated(std::mem::take(value)) {
                Ok(result) => *value = result,
                Err(reason) => failed = failed.or_else(|| Some(format!("parameter {name} {reason}"))),
            }
        }
        if let Some(reason) = failed {
            unusable.insert(resource.reference(), reason);
        }
    }
    unusable
}

fn is_deferred(hash: &BTreeMap<String, Value>) -> bool {
    hash.get(PTYPE).and_then(Value::as_str) == Some("Deferred")
}

fn has_deferred(value: &Value) -> bool {
    match value {
        Value::Hash(hash) => is_deferred(hash) || hash.values().any(has_deferred),
        Value::Array(list) => list.iter().any(has_deferred),
        Value::Sensitive(value) => has_deferred(value),
        _ => false,
    }
}

fn evaluated(value: Value) -> Result<Value, String> {
    Ok(match value {
        Value::Hash(mut hash) if is_deferred(&hash) => {
            let Some(Value::String(name)) = hash.remove(NAME) else { return Err("has a Deferred without a name".to_owned()) };
            let arguments = match hash.remove(ARGUMENTS) {
                None | Some(Value::Undef) => Vec::new(),
                Some(Value::Array(list)) => list.into_iter().map(evaluated).collect::<Result<_, _>>()?,
                Some(_) => return Err(format!("has a Deferred {name} whose arguments are no list")),
            };
            call(&name, arguments)?
        }
        Value::Hash(hash) => {
            Value::Hash(hash.into_iter().map(|(key, value)| Ok((key, evaluated(value)?))).collect::<Result<_, String>>()?)
        }
        Value::Array(list) => Value::Array(list.into_iter().map(evaluated).collect::<Result<_, _>>()?),
        Value::Sensitive(value) => match evaluated(*value)? {
            secret @ Value::Sensitive(_) => secret,
            other => Value::Sensitive(Box::new(other)),
        },
        other => other,
    })
}

/// Names of the functions that a `Deferred` may call. They do what Puppet's functions of the same name do, with text, numbers, lists
/// and hashes. What is made of a secret is a secret too, also what `unwrap` returns, unlike in Puppet: nothing that was hidden
/// is shown. All other functions, and variables, need Puppet's code: the resource fails and says so.
pub const DEFERRED_FUNCTIONS: &[&str] =
    &["chomp", "dig", "downcase", "join", "keys", "length", "lstrip", "rstrip", "sprintf", "strip", "unwrap", "upcase", "values"];

/// Calls a function; the error says why it cannot be called.
pub(super) fn call(name: &str, arguments: Vec<Value>) -> Result<Value, String> {
    let (wrapped, arguments) = reveal(arguments);
    if !DEFERRED_FUNCTIONS.contains(&name) {
        return Err(unknown(name));
    }
    let result = apply(name, &arguments).map_err(|reason| match wrapped {
        // The reason may tell what is hidden.
        true => format!("has a Deferred {name} that cannot be evaluated: it has a secret among its arguments"),
        false => reason,
    })?;
    Ok(if wrapped && !result.is_sensitive() { Value::Sensitive(Box::new(result)) } else { result })
}

/// Takes secrets out of their wrapping; what is made of them is wrapped again.
fn reveal(arguments: Vec<Value>) -> (bool, Vec<Value>) {
    let wrapped = arguments.iter().any(Value::is_sensitive);
    (wrapped, arguments.into_iter().map(revealed).collect())
}

fn revealed(value: Value) -> Value {
    match value {
        Value::Sensitive(value) => revealed(*value),
        Value::Array(values) => Value::Array(values.into_iter().map(revealed).collect()),
        Value::Hash(values) => Value::Hash(values.into_iter().map(|(key, value)| (key, revealed(value))).collect()),
        other => other,
    }
}

fn apply(name: &str, arguments: &[Value]) -> Result<Value, String> {
    let wrong = || format!("has a Deferred {name} with arguments that the function does not take");
    match (name, arguments) {
        ("unwrap", [value]) => Ok(value.clone()),
        ("join", [Value::Array(list)]) => joined(list, "").map(Value::String).ok_or_else(wrong),
        ("join", [Value::Array(list), Value::String(between)]) => joined(list, between).map(Value::String).ok_or_else(wrong),
        ("upcase", [value]) => each(value, &|text| text.to_uppercase()).ok_or_else(wrong),
        ("downcase", [value]) => each(value, &|text| text.to_lowercase()).ok_or_else(wrong),
        ("strip", [value]) => each(value, &|text| text.trim_matches(is_blank).to_owned()).ok_or_else(wrong),
        ("lstrip", [value]) => each(value, &|text| text.trim_start_matches(is_blank).to_owned()).ok_or_else(wrong),
        ("rstrip", [value]) => each(value, &|text| text.trim_end_matches(is_blank).to_owned()).ok_or_else(wrong),
        ("chomp", [value]) => each(value, &chomped).ok_or_else(wrong),
        ("length", [Value::String(text)]) => Ok(length(text.chars().count())),
        ("length", [Value::Array(list)]) => Ok(length(list.len())),
        ("length", [Value::Hash(hash)]) => Ok(length(hash.len())),
        ("keys", [Value::Hash(hash)]) => Ok(Value::Array(hash.keys().map(|key| Value::String(key.clone())).collect())),
        ("values", [Value::Hash(hash)]) => Ok(Value::Array(hash.values().cloned().collect())),
        ("dig", [value, path @ ..]) if !path.is_empty() => dig(value, path).ok_or_else(wrong),
        ("sprintf", [Value::String(format), rest @ ..]) => sprintf(format, rest).map(Value::String).ok_or_else(wrong),
        _ => Err(wrong()),
    }
}

fn unknown(name: &str) -> String {
    match name.strip_prefix('$') {
        Some(_) => format!("has a Deferred with the variable {name}, and variables are not known on the node"),
        None => format!(
            "has a Deferred that calls {name}, which needs Puppet's own code: on the node there are {}",
            DEFERRED_FUNCTIONS.join(", ")
        ),
    }
}

/// What Ruby's `strip` takes away.
fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r' | '\0')
}

fn chomped(text: &str) -> String {
    text.strip_suffix("\r\n").or_else(|| text.strip_suffix(['\n', '\r'])).unwrap_or(text).to_owned()
}

fn length(count: usize) -> Value {
    Value::Integer(i64::try_from(count).unwrap_or(i64::MAX))
}

/// Changes a text, or each of a list; numbers stay.
fn each(value: &Value, change: &dyn Fn(&str) -> String) -> Option<Value> {
    match value {
        Value::String(text) => Some(Value::String(change(text))),
        Value::Integer(_) | Value::Float(_) => Some(value.clone()),
        Value::Array(list) => list.iter().map(|value| each(value, change)).collect::<Option<_>>().map(Value::Array),
        _ => None,
    }
}

fn joined(list: &[Value], between: &str) -> Option<String> {
    fn flatten(list: &[Value], texts: &mut Vec<String>) -> bool {
        list.iter().all(|value| match value {
            Value::Array(list) => flatten(list, texts),
            value => text(value).map(|text| texts.push(text)).is_some(),
        })
    }
    let mut texts = Vec::new();
    flatten(list, &mut texts).then(|| texts.join(between))
}

fn dig(value: &Value, path: &[Value]) -> Option<Value> {
    path.iter().try_fold(value.clone(), |value, step| match (value, step) {
        (Value::Undef, _) => Some(Value::Undef),
        (Value::Hash(mut hash), Value::String(key)) => Some(hash.remove(key).unwrap_or_default()),
        (Value::Array(list), Value::Integer(at)) => {
            let at = if *at < 0 { at.checked_add(i64::try_from(list.len()).ok()?)? } else { *at };
            Some(usize::try_from(at).ok().and_then(|at| list.get(at).cloned()).unwrap_or_default())
        }
        _ => None,
    })
}

/// `%s`, `%d` and `%%`, without widths; anything else is not known here.
fn sprintf(format: &str, arguments: &[Value]) -> Option<String> {
    let mut out = String::with_capacity(format.len());
    let mut arguments = arguments.iter();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        match letters.next()? {
            '%' => out.push('%'),
            's' => out.push_str(&text(arguments.next()?)?),
            'd' => match arguments.next()? {
                Value::Integer(number) => out.push_str(&number.to_string()),
                _ => return None,
            },
            _ => return None,
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use direct_puppet_transport::protocol::Resource;

    use super::*;

    fn list(texts: &[&str]) -> Value {
        Value::Array(texts.iter().map(|text| Value::from(*text)).collect())
    }

    #[test]
    fn functions() {
        let hash = Value::Hash([("k".to_owned(), list(&["a", "b"]))].into());
        for (name, arguments, result) in [
            ("join", vec![list(&["a", "b"]), ", ".into()], Value::from("a, b")),
            ("join", vec![Value::Array(vec![list(&["a"]), Value::Integer(1), Value::Float(1.0)])], "a11.0".into()),
            ("upcase", vec![list(&["a", "b"])], list(&["A", "B"])),
            ("downcase", vec!["AbC".into()], "abc".into()),
            ("strip", vec![" \t x\n".into()], "x".into()),
            ("chomp", vec!["x\r\n".into()], "x".into()),
            ("length", vec!["äb".into()], Value::Integer(2)),
            ("keys", vec![hash.clone()], list(&["k"])),
            ("dig", vec![hash.clone(), "k".into(), Value::Integer(-1)], "b".into()),
            ("dig", vec![hash, "z".into(), Value::Integer(0)], Value::Undef),
            ("sprintf", vec!["%s-%d%%".into(), "a".into(), Value::Integer(7)], "a-7%".into()),
        ] {
            assert_eq!(call(name, arguments), Ok(result), "{name}");
        }
    }

    #[test]
    fn secrets_stay_secrets() {
        let secret = || Value::Sensitive(Box::new("hunter2".into()));
        assert_eq!(call("unwrap", vec![secret()]), Ok(secret()));
        let joined = call("join", vec![Value::Array(vec!["a".into(), secret()])]).unwrap();
        assert_eq!(joined, Value::Sensitive(Box::new("ahunter2".into())));
        for (name, arguments) in [("join", vec![secret(), secret()]), ("length", vec![secret(), secret()])] {
            assert!(!call(name, arguments).unwrap_err().contains("hunter2"));
        }
    }

    #[test]
    fn kept_ones_are_called_on_the_node() {
        let mut catalog = Catalog {
            format: 1,
            certname: "n1".parse().unwrap(),
            environment: direct_puppet_transport::protocol::Environment::default(),
            classes: Vec::new(),
            resources: vec![
                Resource::new("Notify", "a").with("message", vec![kept("upcase".to_owned(), vec!["x".into()])]),
                Resource::new("Notify", "b").with("message", kept("vault".to_owned(), Vec::new())),
                Resource::new("Notify", "c")
                    .with("message", Value::Sensitive(Box::new(kept("upcase".to_owned(), vec!["x".into()])))),
            ],
            edges: Vec::new(),
        };
        let (id, bytes) = catalog.encode().unwrap();
        catalog = Catalog::decode(&bytes, id).unwrap();
        let unusable = evaluate(&mut catalog);
        assert_eq!(catalog.resources[0].parameters["message"], vec![Value::from("X")].into());
        assert_eq!(catalog.resources[2].parameters["message"], Value::Sensitive(Box::new("X".into())));
        assert_eq!(unusable.keys().map(ToString::to_string).collect::<Vec<_>>(), ["Notify[b]"]);
    }

    #[test]
    fn the_rest_is_refused() {
        assert!(call("file", vec!["/etc/shadow".into()]).unwrap_err().contains("needs Puppet's own code"));
        assert!(call("$facts", vec![]).unwrap_err().contains("variable"));
        assert!(call("join", vec!["a".into()]).unwrap_err().contains("arguments"));
        assert!(call("sprintf", vec!["%5s".into(), "a".into()]).is_err());
    }
}
