//! Resources that come before an `Exec` without being asked for.

use direct_puppet_transport::protocol::{Resource, Value};

use super::parameters::{path_below_root, program, texts};
use crate::provider::Names;
use crate::provider::file::read::{self, Sketched};

/// Names the `File` of the directory and of the programs of its commands, and the user. One that makes no sense elsewhere is not applied at all.
pub(super) fn name_before(resource: &Resource, names: &mut Names<'_>) {
    let resource = Sketched::of(resource);
    let cwd = texts(resource, "cwd").ok().and_then(|texts| path_below_root(resource, "cwd", texts.first()?).ok());
    if let Some(path) = cwd {
        names("File", &path.absolute());
    }
    match resource.parameter("command") {
        Some(command) => name_program(command, names),
        None => name_text(&resource.title, names),
    }
    for condition in ["onlyif", "unless"].into_iter().filter_map(|name| resource.parameter(name)) {
        for command in condition.as_list() {
            name_program(command, names);
        }
    }
    if let Ok(Some(user)) = read::text(resource, "user")
        && user.parse::<u32>().is_err()
    {
        names("User", &user);
    }
}

/// Names the program of a command: text, or a list of its words.
fn name_program(command: &Value, names: &mut Names<'_>) {
    let first = match command.opened() {
        Value::Array(words) => words.first().and_then(Value::as_str),
        text => text.as_str(),
    };
    if let Some(text) = first {
        name_text(text, names);
    }
}

fn name_text(text: &str, names: &mut Names<'_>) {
    let program = program(text);
    if program.starts_with('/') {
        names("File", program);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::named;

    fn before(resource: &Resource) -> Vec<String> {
        named(|names| name_before(resource, names)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_comes_before() {
        let resource = Resource::new("Exec", "it")
            .with("command", "/opt/a x")
            .with("onlyif", vec![Value::from("/opt/b"), vec![Value::from("/opt/c"), "d".into()].into()])
            .with("unless", "e")
            .with("path", "/bin")
            .with("cwd", "/srv")
            .with("user", "web");
        assert_eq!(before(&resource), ["File[/srv]", "File[/opt/a]", "File[/opt/b]", "File[/opt/c]", "User[web]"]);
        assert_eq!(before(&Resource::new("Exec", "'/opt/a b' c").with("user", 0)), ["File[/opt/a b]"]);
    }
}
